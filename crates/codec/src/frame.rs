//! The envelope around everything: type, channel, size, payload, end byte (AMQP 0-9-1 §4.2.3).
//!
//! The size in the header answers the question whether a frame is complete, so splitting needs one
//! comparison and no state between reads.

use bytes::BufMut;
use nom::{
    Parser,
    number::complete::{be_u8, be_u16, be_u32},
};

use crate::{
    CLASS_BASIC, DecodeError, FRAME_BODY, FRAME_END, FRAME_HEADER, FRAME_HEARTBEAT, FRAME_METHOD,
    FRAME_OVERHEAD, Method,
    encode::{begin_sized, end_sized, wire_len},
};

/// Type, channel and size: what stands before the payload.
const HEADER_SIZE: usize = FRAME_OVERHEAD - 1;

/// A frame that is all there. Its type is not judged: that is for the session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RawFrame<'a> {
    /// One of the `FRAME_` types, if the peer speaks AMQP.
    pub kind: u8,
    /// 0 is the connection itself.
    pub channel: u16,
    /// Between the header and the end byte.
    pub payload: &'a [u8],
}

/// Finds the frame that `bytes` start with, and how many bytes it takes up.
///
/// `None` means that more bytes are needed. A frame that is too large is refused as soon as its
/// header is there, before anybody buffers the rest. `frame_max` is in bytes, 0 for no limit; like
/// RabbitMQ we tolerate clients that do not count the 8 bytes of the envelope.
///
/// # Errors
/// [`DecodeError::FrameTooLarge`] and [`DecodeError::BadFrameEnd`].
#[inline]
pub fn split_frame(
    bytes: &[u8],
    frame_max: u32,
) -> Result<Option<(RawFrame<'_>, usize)>, DecodeError> {
    let mut header = (be_u8::<_, ()>, be_u16, be_u32);
    let Ok((rest, (kind, channel, size))) = header.parse(bytes) else {
        return Ok(None);
    };
    if frame_max != 0 && size > frame_max {
        return Err(DecodeError::FrameTooLarge {
            size: size.saturating_add(wire_len(FRAME_OVERHEAD)),
            limit: frame_max,
        });
    }
    // A payload that does not even fit into memory cannot be there.
    let Some((payload, rest)) = usize::try_from(size)
        .ok()
        .and_then(|size| rest.split_at_checked(size))
    else {
        return Ok(None);
    };
    match rest.first() {
        None => Ok(None),
        Some(&FRAME_END) => {
            let frame = RawFrame {
                kind,
                channel,
                payload,
            };
            Ok(Some((frame, payload.len() + FRAME_OVERHEAD)))
        }
        Some(&got) => Err(DecodeError::BadFrameEnd { got }),
    }
}

/// Starts a frame. Whatever is appended before [`end_frame`] is its payload.
#[inline]
pub fn begin_frame(out: &mut Vec<u8>, kind: u8, channel: u16) -> usize {
    out.put_u8(kind);
    out.put_u16(channel);
    begin_sized(out)
}

/// Ends the frame that `mark` was returned for.
///
/// # Panics
/// If `mark` is not from [`begin_frame`] on this buffer, or the payload is 4 GiB or more.
#[inline]
pub fn end_frame(out: &mut Vec<u8>, mark: usize) {
    end_sized(out, mark);
    out.push(FRAME_END);
}

/// Appends a method frame.
#[inline]
pub fn encode_method(out: &mut Vec<u8>, channel: u16, method: &Method<'_>) {
    let mark = begin_frame(out, FRAME_METHOD, channel);
    method.encode_payload(out);
    end_frame(out, mark);
}

/// Appends a header frame. `raw_properties` are the property values that `flags` announces, as
/// [`Properties::encode`](crate::Properties::encode) writes them or a publisher has sent them.
#[inline]
pub fn encode_header(
    out: &mut Vec<u8>,
    channel: u16,
    body_size: u64,
    flags: u16,
    raw_properties: &[u8],
) {
    out.reserve(HEADER_SIZE + 14 + raw_properties.len() + 1);
    let mark = begin_frame(out, FRAME_HEADER, channel);
    out.put_u16(CLASS_BASIC);
    out.put_u16(0); // weight: never used
    out.put_u64(body_size);
    out.put_u16(flags);
    out.put_slice(raw_properties);
    end_frame(out, mark);
}

/// Appends a body frame.
///
/// # Panics
/// If `payload` is 4 GiB or more; cut it to `frame_max` less [`FRAME_OVERHEAD`].
#[inline]
pub fn encode_body(out: &mut Vec<u8>, channel: u16, payload: &[u8]) {
    out.reserve(FRAME_OVERHEAD + payload.len());
    out.put_u8(FRAME_BODY);
    out.put_u16(channel);
    out.put_u32(wire_len(payload.len()));
    out.put_slice(payload);
    out.push(FRAME_END);
}

/// Appends a heartbeat.
pub fn encode_heartbeat(out: &mut Vec<u8>) {
    let mark = begin_frame(out, FRAME_HEARTBEAT, 0);
    end_frame(out, mark);
}

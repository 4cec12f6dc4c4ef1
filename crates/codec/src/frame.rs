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
    encode::{end_sized, wire_len},
};

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

/// How many bytes the frame that `bytes` start with takes up on the wire, envelope included, once
/// its header is there. Nothing is judged: that is for [`split_frame`].
#[must_use]
pub fn frame_size(bytes: &[u8]) -> Option<usize> {
    let mut header = (be_u8::<_, ()>, be_u16, be_u32);
    let (_, (_, _, size)) = header.parse(bytes).ok()?;
    usize::try_from(size).ok()?.checked_add(FRAME_OVERHEAD)
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
    put_head(out, kind, channel, 0);
    out.len() - size_of::<u32>()
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
    const FIXED_SIZE: usize = 14; // class, weight, body size, flags
    let size = FIXED_SIZE + raw_properties.len();
    out.reserve(FRAME_OVERHEAD + size);
    put_head(out, FRAME_HEADER, channel, wire_len(size));
    out.put_u16(CLASS_BASIC);
    out.put_u16(0); // weight: never used
    out.put_u64(body_size);
    out.put_u16(flags);
    out.put_slice(raw_properties);
    out.push(FRAME_END);
}

/// Appends a body frame.
///
/// # Panics
/// If `payload` is 4 GiB or more; cut it to `frame_max` less [`FRAME_OVERHEAD`].
#[inline]
pub fn encode_body(out: &mut Vec<u8>, channel: u16, payload: &[u8]) {
    out.reserve(FRAME_OVERHEAD + payload.len());
    put_head(out, FRAME_BODY, channel, wire_len(payload.len()));
    out.put_slice(payload);
    out.push(FRAME_END);
}

/// Appends a heartbeat.
pub fn encode_heartbeat(out: &mut Vec<u8>) {
    put_head(out, FRAME_HEARTBEAT, 0, 0);
    out.push(FRAME_END);
}

/// All that stands before the payload, in one go: this is most of what a small message costs.
#[inline]
fn put_head(out: &mut Vec<u8>, kind: u8, channel: u16, size: u32) {
    let ([c0, c1], [s0, s1, s2, s3]) = (channel.to_be_bytes(), size.to_be_bytes());
    out.put_slice(&[kind, c0, c1, s0, s1, s2, s3]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BasicAck, parse_content_header};

    #[test]
    fn frames_are_split_one_at_a_time() {
        let mut wire = Vec::new();
        encode_body(&mut wire, 7, b"first");
        encode_heartbeat(&mut wire);

        let (first, consumed) = split_frame(&wire, 0).expect("valid").expect("complete");
        assert_eq!(
            (first.kind, first.channel, first.payload),
            (FRAME_BODY, 7, &b"first"[..])
        );
        assert_eq!(consumed, 5 + FRAME_OVERHEAD);

        let (second, rest) = split_frame(&wire[consumed..], 0)
            .expect("valid")
            .expect("complete");
        assert_eq!(
            (second.kind, second.channel, second.payload),
            (FRAME_HEARTBEAT, 0, &[][..])
        );
        assert_eq!(consumed + rest, wire.len());
    }

    #[test]
    fn incomplete_frame_asks_for_more() {
        let mut wire = Vec::new();
        encode_method(&mut wire, 1, &BasicAck::default().into());
        for end in 0..wire.len() {
            assert_eq!(split_frame(&wire[..end], 4096), Ok(None), "{end} bytes");
        }
    }

    /// The frames consist of nothing but a header unless the row says otherwise.
    #[test]
    fn size_is_judged_by_the_header_alone() {
        let header = |size: u32| [&[3, 0, 1][..], &size.to_be_bytes()].concat();
        let too_large = |size, limit| Err(DecodeError::FrameTooLarge { size, limit });
        #[rustfmt::skip]
        let table = [
            // payload   frame_max  expected                   why this row is here
            (4_088,      4_096,     Ok(None),                  "just what was agreed"),
            (4_096,      4_096,     Ok(None),                  "the envelope not counted: tolerated"),
            (4_097,      4_096,     too_large(4_105, 4_096),   "one more is not"),
            (u32::MAX,   4_096,     too_large(u32::MAX, 4_096),"size does not wrap"),
            (u32::MAX,   0,         Ok(None),                  "no limit"),
        ];
        for (size, frame_max, expected, why) in table {
            assert_eq!(split_frame(&header(size), frame_max), expected, "{why}");
        }
    }

    #[test]
    fn frame_must_end_with_the_end_byte() {
        let wire = [8, 0, 0, 0, 0, 0, 0, 0xCF];
        assert_eq!(
            split_frame(&wire, 0),
            Err(DecodeError::BadFrameEnd { got: 0xCF })
        );
    }

    #[test]
    fn type_of_frame_is_not_judged_here() {
        let wire = [99, 0, 0, 0, 0, 0, 0, FRAME_END];
        let (frame, _) = split_frame(&wire, 0).expect("valid").expect("complete");
        assert_eq!(frame.kind, 99);
    }

    #[test]
    fn header_frame_holds_what_was_put_in() {
        let mut wire = vec![0xFF]; // frames are appended to what is there
        encode_header(&mut wire, 3, 1 << 40, crate::flags::PRIORITY, &[9]);
        let (frame, _) = split_frame(&wire[1..], 0)
            .expect("valid")
            .expect("complete");
        assert_eq!((frame.kind, frame.channel), (FRAME_HEADER, 3));
        let header = parse_content_header(frame.payload).expect("valid");
        assert_eq!(header.body_size, 1 << 40);
        assert_eq!(header.raw, [9]);
        assert_eq!(header.summary.priority, 9);
    }
}

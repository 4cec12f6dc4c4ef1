//! Reads what a timed connection receives, by hand: deliveries and confirms, and little else.
//!
//! A codec that looks at everything would cost the client as much as the server. Here a delivery is
//! three hops over frame sizes, one tag and the first bytes of the body; the end byte of every frame
//! is still checked, so that a server that miscounts is noticed.

use leveret_codec::{FRAME_BODY, FRAME_END, FRAME_HEADER, FRAME_METHOD, FRAME_OVERHEAD, Method};

use crate::{Error, Result, client::refusal};

/// Bytes of a frame before its payload.
const HEAD: usize = FRAME_OVERHEAD - 1;

/// Class and method at the start of a payload.
const BASIC_DELIVER: u32 = id(60, 60);
const BASIC_ACK: u32 = id(60, 80);
const BASIC_NACK: u32 = id(60, 120);

/// What a read buffer starts with.
#[derive(Debug, Eq, PartialEq)]
pub enum Step<'a> {
    /// Not all of it is there yet.
    More,
    Delivery(Delivery<'a>),
    Confirm(Confirm),
    /// Something to pass over: a heartbeat, a notice that the server blocks publishers.
    Other {
        len: usize,
    },
}

#[derive(Debug, Eq, PartialEq)]
pub struct Delivery<'a> {
    pub delivery_tag: u64,
    pub redelivered: bool,
    pub body_size: u64,
    /// Payload of the first body frame: nearly always the whole body.
    pub body: &'a [u8],
    /// Bytes of all its frames.
    pub len: usize,
}

/// The server has taken over one publish, or with `multiple` all up to `delivery_tag`.
#[derive(Debug, Eq, PartialEq)]
pub struct Confirm {
    pub delivery_tag: u64,
    pub multiple: bool,
    pub len: usize,
}

/// Looks at the front of what was received.
///
/// # Errors
/// When the server closes, refuses a publish, or sends what is not AMQP.
#[inline]
pub fn step(bytes: &[u8]) -> Result<Step<'_>> {
    let Some(method) = frame(bytes)? else {
        return Ok(Step::More);
    };
    if method.kind != FRAME_METHOD {
        return Ok(Step::Other { len: method.len });
    }
    match method
        .payload
        .first_chunk()
        .map(|id| u32::from_be_bytes(*id))
    {
        Some(BASIC_DELIVER) => delivery(bytes, &method),
        Some(BASIC_ACK) => confirm(&method),
        _ => other(&method),
    }
}

#[inline]
fn delivery<'a>(bytes: &'a [u8], method: &Frame<'a>) -> Result<Step<'a>> {
    // class, method, consumer tag, delivery tag, redelivered, exchange, routing key
    let tag_len = usize::from(*method.payload.get(4).ok_or_else(garbled)?);
    let rest = method.payload.get(5 + tag_len..).ok_or_else(garbled)?;
    let delivery_tag = be_u64(rest, 0)?;
    let redelivered = *rest.get(8).ok_or_else(garbled)? != 0;

    let mut len = method.len;
    let Some(header) = frame(&bytes[len..])? else {
        return Ok(Step::More);
    };
    if header.kind != FRAME_HEADER {
        return Err(garbled());
    }
    len += header.len;
    let body_size = be_u64(header.payload, 4)?;
    let mut body: &[u8] = &[];
    let mut missing = body_size;
    while missing > 0 {
        let Some(piece) = frame(&bytes[len..])? else {
            return Ok(Step::More);
        };
        let size = piece.payload.len() as u64;
        if piece.kind != FRAME_BODY || size == 0 || size > missing {
            return Err(garbled());
        }
        if body.is_empty() {
            body = piece.payload;
        }
        missing -= size;
        len += piece.len;
    }
    Ok(Step::Delivery(Delivery {
        delivery_tag,
        redelivered,
        body_size,
        body,
        len,
    }))
}

fn confirm<'a>(method: &Frame<'_>) -> Result<Step<'a>> {
    Ok(Step::Confirm(Confirm {
        delivery_tag: be_u64(method.payload, 4)?,
        multiple: *method.payload.get(12).ok_or_else(garbled)? & 1 == 1,
        len: method.len,
    }))
}

#[cold]
fn other<'a>(frame: &Frame<'_>) -> Result<Step<'a>> {
    if frame.payload.starts_with(&BASIC_NACK.to_be_bytes()) {
        return Err(Error::Wrong("a publish was refused with basic.nack".into()));
    }
    let method = Method::parse(frame.payload)
        .map_err(|error| Error::Server(format!("sent what is not AMQP: {error}")))?;
    refusal(&method)?;
    match method {
        Method::ConnectionBlocked(_) | Method::ConnectionUnblocked(_) => {
            Ok(Step::Other { len: frame.len })
        }
        method => Err(Error::Server(format!("unexpected {}", method.name()))),
    }
}

struct Frame<'a> {
    kind: u8,
    payload: &'a [u8],
    len: usize,
}

#[inline]
fn frame(bytes: &[u8]) -> Result<Option<Frame<'_>>> {
    let Some(&[kind, _, _, a, b, c, d]) = bytes.first_chunk::<HEAD>() else {
        return Ok(None);
    };
    let size = u32::from_be_bytes([a, b, c, d]) as usize;
    let len = size + FRAME_OVERHEAD;
    if bytes.len() < len {
        return Ok(None);
    }
    if bytes[len - 1] != FRAME_END {
        return Err(garbled());
    }
    let payload = &bytes[HEAD..len - 1];
    Ok(Some(Frame { kind, payload, len }))
}

#[inline]
fn be_u64(bytes: &[u8], at: usize) -> Result<u64> {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk());
    bytes.map(|b| u64::from_be_bytes(*b)).ok_or_else(garbled)
}

#[cold]
fn garbled() -> Error {
    Error::Server("sent frames that do not make a message".into())
}

const fn id(class: u32, method: u32) -> u32 {
    class << 16 | method
}

#[cfg(test)]
mod tests {
    use leveret_codec::{
        BasicAck, BasicDeliver, BasicNack, ChannelClose, ShortStr, encode_body, encode_header,
        encode_heartbeat, encode_method,
    };

    use super::*;

    fn deliver(body: &[u8], frame: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let method = BasicDeliver {
            consumer_tag: ShortStr::from_static("some consumer"),
            delivery_tag: 0x0102_0304_0506_0708,
            redelivered: true,
            exchange: ShortStr::from_static("amq.topic"),
            routing_key: ShortStr::from_static("a.b.c"),
        };
        encode_method(&mut out, 3, &method.into());
        encode_header(&mut out, 3, body.len() as u64, 0, &[]);
        for piece in body.chunks(frame) {
            encode_body(&mut out, 3, piece);
        }
        out
    }

    #[test]
    fn delivery_is_read_once_it_is_whole() {
        for (body, frame) in [(&b""[..], 1), (b"12345678", 8), (b"12345678", 3)] {
            let mut wire = deliver(body, frame);
            for end in 0..wire.len() {
                assert_eq!(step(&wire[..end]).unwrap(), Step::More, "{end} bytes");
            }
            let len = wire.len();
            wire.extend(b"what follows");
            let expected = Delivery {
                delivery_tag: 0x0102_0304_0506_0708,
                redelivered: true,
                body_size: body.len() as u64,
                body: &body[..frame.min(body.len())],
                len,
            };
            assert_eq!(step(&wire).unwrap(), Step::Delivery(expected));
        }
    }

    #[test]
    fn confirms_and_heartbeats() {
        let mut wire = Vec::new();
        let ack = BasicAck {
            delivery_tag: 300,
            multiple: true,
        };
        encode_method(&mut wire, 1, &ack.into());
        let expected = Confirm {
            delivery_tag: 300,
            multiple: true,
            len: wire.len(),
        };
        assert_eq!(step(&wire).unwrap(), Step::Confirm(expected));

        let mut wire = Vec::new();
        encode_heartbeat(&mut wire);
        assert_eq!(step(&wire).unwrap(), Step::Other { len: 8 });
    }

    #[test]
    fn refusals_are_errors() {
        let close = ChannelClose {
            reply_code: 404,
            reply_text: ShortStr::from_static("NOT_FOUND - no queue"),
            ..ChannelClose::default()
        };
        let mut wire = Vec::new();
        encode_method(&mut wire, 1, &close.into());
        let error = step(&wire).unwrap_err().to_string();
        assert_eq!(error, "server: 404 NOT_FOUND - no queue");

        let mut wire = Vec::new();
        encode_method(&mut wire, 1, &BasicNack::default().into());
        assert!(matches!(step(&wire), Err(Error::Wrong(_))));
    }

    #[test]
    fn miscounted_frames_are_errors() {
        let whole = deliver(b"12345678", 8);
        for at in [3, 6, whole.len() - 1] {
            let mut wire = whole.clone();
            wire[at] ^= 1;
            wire.extend([0; 64]);
            // A size that has grown beyond the buffer only waits for more, as it must.
            let got = step(&wire);
            assert!(matches!(got, Err(_) | Ok(Step::More)), "byte {at}: {got:?}");
        }
        let mut wire = whole;
        *wire.last_mut().unwrap() = 0;
        assert!(step(&wire).is_err(), "end byte of the body");
    }
}

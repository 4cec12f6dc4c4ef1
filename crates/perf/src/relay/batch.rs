//! Publishes out of one read, copied to consumers as deliveries.

use std::sync::atomic::Ordering;

use leveret_codec::{FRAME_BODY, FRAME_END, FRAME_HEADER, FRAME_METHOD, FRAME_OVERHEAD};

use super::hub::{Route, Target};

/// Where a publish lies in the read buffer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Published {
    /// Exchange and routing key as the two short strings that `basic.deliver` wants as well.
    pub(super) names: (usize, usize),
    /// Header frame and body frames, which a delivery repeats byte for byte.
    pub(super) content: (usize, usize),
}

/// Class and method of `basic.publish` at the start of its payload, and of the delivery.
const BASIC_PUBLISH: [u8; 4] = [0, 60, 0, 40];
const BASIC_DELIVER: [u8; 4] = [0, 60, 0, 60];

/// Bytes of a frame before its payload.
const FRAME_HEAD: usize = FRAME_OVERHEAD - 1;

/// Whether the method frame with this payload is a publish, two empty names at least.
pub(super) fn is_publish(payload: &[u8]) -> bool {
    payload.len() >= BASIC_PUBLISH.len() + 5 && payload.starts_with(&BASIC_PUBLISH)
}

/// Finds the publish whose method frame of `method_len` bytes starts at `at`.
///
/// `None`: its content is not there yet.
pub(super) fn find_publish(bytes: &[u8], at: usize, method_len: usize) -> Option<Published> {
    let names_at = at + FRAME_HEAD + BASIC_PUBLISH.len() + 2; // 2: reserved_1
    let names_end = at + method_len - 2; // the bits, the end byte
    let header_at = at + method_len;
    let header = bytes.get(header_at..header_at + FRAME_HEAD + 12)?;
    let body_size = u64::from_be_bytes(header[FRAME_HEAD + 4..].try_into().ok()?);
    let mut missing = usize::try_from(body_size).ok()?;
    let mut end = header_at + frame_len(header);
    while missing > 0 {
        let len = frame_len(bytes.get(end..end + FRAME_HEAD)?);
        missing = missing.saturating_sub(len - FRAME_OVERHEAD);
        end += len;
    }
    (end <= bytes.len()).then_some(Published {
        names: (names_at, names_end),
        content: (header_at, end),
    })
}

/// Copies `published` messages to every target of the route.
pub(super) fn deliver(bytes: &[u8], channel: u16, published: &[Published], route: &Route) {
    for target in &**route {
        target.outbox.append(|out| {
            encode(bytes, channel, published, target, out);
        });
    }
}

fn encode(bytes: &[u8], channel: u16, published: &[Published], target: &Target, out: &mut Vec<u8>) {
    let tag = target.consumer_tag.as_bytes();
    let mut head = vec![FRAME_METHOD];
    head.extend(target.channel.to_be_bytes());
    head.extend([0; 4]); // size, which the names decide
    head.extend(BASIC_DELIVER);
    head.push(u8::try_from(tag.len()).unwrap_or(0)); // it came from, or fits, a short string
    head.extend(tag);
    head.extend([0; 9]); // delivery tag, redelivered
    let tag_at = head.len() - 9;
    let count = published.len() as u64;
    let mut delivery_tag = target.last_tag.fetch_add(count, Ordering::Relaxed);

    for message in published {
        delivery_tag += 1;
        let names = &bytes[message.names.0..message.names.1];
        let size = (head.len() - FRAME_HEAD + names.len()) as u32; // both short
        head[3..FRAME_HEAD].copy_from_slice(&size.to_be_bytes());
        head[tag_at..tag_at + 8].copy_from_slice(&delivery_tag.to_be_bytes());
        let content = &bytes[message.content.0..message.content.1];
        out.reserve(head.len() + names.len() + 1 + content.len());
        out.extend_from_slice(&head);
        out.extend_from_slice(names);
        out.push(FRAME_END);
        let content_at = out.len();
        out.extend_from_slice(content);
        if target.channel != channel {
            renumber(&mut out[content_at..], target.channel);
        }
    }
}

/// Puts another channel number on whole frames.
fn renumber(mut frames: &mut [u8], channel: u16) {
    while frames.len() >= FRAME_OVERHEAD {
        debug_assert!(matches!(frames[0], FRAME_HEADER | FRAME_BODY));
        let len = frame_len(frames);
        frames[1..3].copy_from_slice(&channel.to_be_bytes());
        frames = &mut frames[len..];
    }
}

/// Length of the frame that `head` starts, envelope included. Needs [`FRAME_HEAD`] bytes.
fn frame_len(head: &[u8]) -> usize {
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    size as usize + FRAME_OVERHEAD
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use leveret_codec::{
        BasicDeliver, BasicPublish, Method, ShortStr, encode_body, encode_header, encode_method,
        split_frame,
    };

    use super::*;

    fn publish(body: &[u8], frame: usize) -> (Vec<u8>, usize) {
        let mut wire = Vec::new();
        let method = BasicPublish {
            exchange: ShortStr::from_static("x"),
            routing_key: ShortStr::from_static("key"),
            ..BasicPublish::default()
        };
        encode_method(&mut wire, 1, &method.into());
        let method_len = wire.len();
        encode_header(&mut wire, 1, body.len() as u64, 0, &[]);
        for piece in body.chunks(frame) {
            encode_body(&mut wire, 1, piece);
        }
        (wire, method_len)
    }

    #[test]
    fn publish_becomes_a_delivery_on_the_consumers_channel() {
        let (wire, method_len) = publish(b"abcdefgh", 5);
        let found = find_publish(&wire, 0, method_len).unwrap();
        let target = Target {
            outbox: Arc::default(),
            channel: 7,
            consumer_tag: "ct".into(),
            last_tag: Arc::default(),
        };
        let mut out = Vec::new();
        encode(&wire, 1, &[found, found], &target, &mut out);

        let mut rest = &out[..];
        for delivery_tag in [1, 2] {
            let mut frames = Vec::new();
            for _ in 0..4 {
                let (frame, len) = split_frame(rest, 0).unwrap().unwrap();
                assert_eq!(frame.channel, 7);
                frames.push(frame);
                rest = &rest[len..];
            }
            let expected = BasicDeliver {
                consumer_tag: ShortStr::from_static("ct"),
                delivery_tag,
                redelivered: false,
                exchange: ShortStr::from_static("x"),
                routing_key: ShortStr::from_static("key"),
            };
            assert_eq!(Method::parse(frames[0].payload), Ok(expected.into()));
            assert_eq!(frames[2].payload, b"abcde");
            assert_eq!(frames[3].payload, b"fgh");
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn publish_is_found_only_when_all_of_it_is_there() {
        for body in [&b""[..], b"a", b"abcdefgh"] {
            let (wire, method_len) = publish(body, 5);
            for end in 0..wire.len() {
                assert_eq!(find_publish(&wire[..end], 0, method_len), None, "{end}");
            }
            let found = find_publish(&wire, 0, method_len).unwrap();
            assert_eq!(found.content, (method_len, wire.len()));
        }
    }
}

//! The writing half of a connection: what the core and the session send becomes octets.

use leveret_codec::{
    BasicAck, BasicDeliver, BasicGetOk, BasicReturn, CLASS_BASIC, ChannelClose, ConnectionClose,
    FRAME_BODY, FRAME_END, FRAME_HEADER, FRAME_METHOD, FRAME_MIN_SIZE, FRAME_OVERHEAD, Method,
    PROTOCOL_HEADER, ShortStr, encode_heartbeat, encode_method,
};
use leveret_core::{AmqpError, Message, Outbound};

use crate::wire::Wire;

/// Bodies of this many octets or more are not copied but passed to the kernel from the message.
///
/// An entry in `writev` costs about as much as copying a few KiB, and one writes only so many at a
/// time; below this, one long buffer is cheaper.
const BODY_SLICED_AT: usize = 8 * 1024;

/// Longest reply text, in octets; what is longer is cut and ends in dots, as RabbitMQ does it.
const REPLY_TEXT_MAX: usize = 255;

/// Octets before a frame's payload.
const FRAME_HEAD_SIZE: usize = FRAME_OVERHEAD - 1;

/// Octets of a content header frame, its properties not included.
const HEADER_FRAME_SIZE: usize = FRAME_OVERHEAD + 14;

/// The writing half of one connection.
#[derive(Debug)]
pub struct Encoder {
    /// Most octets of body in a frame.
    body_max: usize,
    /// By the number of the consumer.
    consumers: Vec<DeliverHead>,
    /// `connection.close` was written: nothing but the answer to the peer's own may follow.
    closing: bool,
}

/// How each delivery to a consumer begins: class id, method id and consumer tag, as on the wire.
#[derive(Clone, Debug, Default)]
struct DeliverHead(Box<[u8]>);

impl DeliverHead {
    fn new(tag: &str) -> Self {
        let mut head = Vec::with_capacity(5 + tag.len());
        put_id(&mut head, BasicDeliver::ID);
        put_short(&mut head, tag);
        Self(head.into())
    }
}

impl Encoder {
    /// For a connection with this `frame_max`, in octets. Before it is negotiated, anything goes:
    /// what the handshake says is small.
    #[must_use]
    pub fn new(frame_max: u32) -> Self {
        let mut encoder = Self {
            body_max: 0,
            consumers: Vec::new(),
            closing: false,
        };
        encoder.set_frame_max(frame_max);
        encoder
    }

    /// Another `frame_max`, in octets, from the next message on.
    pub fn set_frame_max(&mut self, frame_max: u32) {
        let frame_max = usize::try_from(frame_max.max(FRAME_MIN_SIZE)).unwrap_or(usize::MAX);
        self.body_max = frame_max - FRAME_OVERHEAD;
    }

    /// Appends what this looks like on the wire.
    ///
    /// # Panics
    /// If a message is delivered to a consumer that was not introduced by
    /// [`Outbound::Consumer`]: the core is wrong then, and no peer can bring it about.
    #[inline]
    pub fn encode(&mut self, outbound: Outbound, wire: &mut Wire) {
        match outbound {
            _ if self.closing => self.encode_while_closing(&outbound, wire),
            Outbound::Deliver {
                channel,
                consumer,
                redelivered,
                delivery_tag,
                message,
            } => {
                let head = self.consumer(consumer);
                let rest = 8 + 1 + message.address().len();
                self.message(channel, head.0.len() + rest, &message, wire, |out| {
                    out.extend_from_slice(&head.0);
                    put_tag(out, delivery_tag, redelivered);
                    out.extend_from_slice(message.address());
                });
            }
            Outbound::Confirm {
                channel,
                delivery_tag,
                multiple,
            } => {
                let ack = BasicAck {
                    delivery_tag,
                    multiple,
                };
                wire.append(|out| encode_method(out, channel, &ack.into()));
            }
            other => self.encode_rest(other, wire),
        }
    }

    fn encode_rest(&mut self, outbound: Outbound, wire: &mut Wire) {
        match outbound {
            Outbound::Deliver { .. } | Outbound::Confirm { .. } => self.encode(outbound, wire),
            Outbound::Consumer { number, tag } => self.introduce(number, &tag),
            Outbound::GetOk {
                channel,
                redelivered,
                delivery_tag,
                message_count,
                message,
            } => {
                let size = 4 + 8 + 1 + message.address().len() + 4;
                self.message(channel, size, &message, wire, |out| {
                    put_id(out, BasicGetOk::ID);
                    put_tag(out, delivery_tag, redelivered);
                    out.extend_from_slice(message.address());
                    out.extend_from_slice(&message_count.to_be_bytes());
                });
            }
            Outbound::Return {
                channel,
                code,
                message,
            } => {
                let text = code.name();
                let size = 4 + 2 + 1 + text.len() + message.address().len();
                self.message(channel, size, &message, wire, |out| {
                    put_id(out, BasicReturn::ID);
                    out.extend_from_slice(&code.value().to_be_bytes());
                    put_short(out, text);
                    out.extend_from_slice(message.address());
                });
            }
            Outbound::Method { channel, method } => {
                wire.append(|out| encode_method(out, channel, &method));
                if matches!(*method, Method::ConnectionCloseOk(_)) {
                    self.closing = true;
                    wire.set_close_after();
                }
            }
            Outbound::CloseChannel { channel, error } => {
                let (class_id, method_id) = error.method;
                let close = ChannelClose {
                    reply_code: error.code.value(),
                    reply_text: reply_text(&error),
                    class_id,
                    method_id,
                };
                wire.append(|out| encode_method(out, channel, &close.into()));
            }
            Outbound::CloseConnection { error } => {
                let (class_id, method_id) = error.method;
                let close = ConnectionClose {
                    reply_code: error.code.value(),
                    reply_text: reply_text(&error),
                    class_id,
                    method_id,
                };
                wire.append(|out| encode_method(out, 0, &close.into()));
                self.closing = true;
            }
            Outbound::ProtocolHeader => {
                wire.append(|out| out.extend_from_slice(&PROTOCOL_HEADER));
                self.closing = true;
                wire.set_close_after();
            }
            Outbound::Heartbeat => wire.append(encode_heartbeat),
        }
    }

    fn encode_while_closing(&self, outbound: &Outbound, wire: &mut Wire) {
        let Outbound::Method { channel: 0, method } = outbound else {
            return;
        };
        if matches!(**method, Method::ConnectionCloseOk(_)) && !wire.close_after() {
            wire.append(|out| encode_method(out, 0, method));
            wire.set_close_after();
        }
    }

    fn introduce(&mut self, number: u32, tag: &str) {
        let at = number as usize;
        if at >= self.consumers.len() {
            self.consumers.resize_with(at + 1, DeliverHead::default);
        }
        self.consumers[at] = DeliverHead::new(tag);
    }

    fn consumer(&self, number: u32) -> &DeliverHead {
        let head = self.consumers.get(number as usize);
        head.expect("the core introduces a consumer before it delivers to it")
    }

    /// A method frame with `size` octets of payload, which `method` writes, and the content.
    #[inline]
    fn message(
        &self,
        channel: u16,
        size: usize,
        message: &Message,
        wire: &mut Wire,
        method: impl FnOnce(&mut Vec<u8>),
    ) {
        let body = message.body();
        let properties = message.raw_properties();
        let copied = if body.len() < BODY_SLICED_AT {
            body.len()
        } else {
            0
        };
        wire.append(|out| {
            let frames = body.len().div_ceil(self.body_max);
            out.reserve(
                (size + FRAME_OVERHEAD)
                    + (HEADER_FRAME_SIZE + properties.len())
                    + (copied + frames * FRAME_OVERHEAD),
            );
            out.extend_from_slice(&frame_head(FRAME_METHOD, channel, size));
            method(out);
            put_header_frame(out, channel, message, properties, body.len());
        });
        if copied == body.len() {
            wire.append(|out| {
                for piece in body.chunks(self.body_max) {
                    out.extend_from_slice(&frame_head(FRAME_BODY, channel, piece.len()));
                    out.extend_from_slice(piece);
                    out.push(FRAME_END);
                }
            });
        } else {
            self.body_in_place(channel, message, wire);
        }
    }

    fn body_in_place(&self, channel: u16, message: &Message, wire: &mut Wire) {
        let len = message.body().len();
        for from in (0..len).step_by(self.body_max) {
            let to = len.min(from + self.body_max);
            wire.append(|out| out.extend_from_slice(&frame_head(FRAME_BODY, channel, to - from)));
            wire.append_slice(message, from, to);
            wire.append(|out| out.push(FRAME_END));
        }
    }
}

/// The end of the method frame, and all of the header frame.
#[inline]
fn put_header_frame(
    out: &mut Vec<u8>,
    channel: u16,
    message: &Message,
    properties: &[u8],
    body_size: usize,
) {
    let mut head = [0; 1 + FRAME_HEAD_SIZE + 14];
    head[0] = FRAME_END;
    head[1..8].copy_from_slice(&frame_head(FRAME_HEADER, channel, 14 + properties.len()));
    head[8..10].copy_from_slice(&CLASS_BASIC.to_be_bytes());
    // Two octets of weight, never used.
    head[12..20].copy_from_slice(&(body_size as u64).to_be_bytes());
    head[20..22].copy_from_slice(&message.property_flags().to_be_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(properties);
    out.push(FRAME_END);
}

/// Type, channel and size of a frame. Sizes fit: a payload is a piece of body, or made of strings
/// and properties that came in one frame.
#[inline]
fn frame_head(kind: u8, channel: u16, size: usize) -> [u8; FRAME_HEAD_SIZE] {
    let [c0, c1] = channel.to_be_bytes();
    let [s0, s1, s2, s3] = (size as u32).to_be_bytes();
    [kind, c0, c1, s0, s1, s2, s3]
}

#[inline]
fn put_tag(out: &mut Vec<u8>, delivery_tag: u64, redelivered: bool) {
    let mut octets = [0; 9];
    octets[..8].copy_from_slice(&delivery_tag.to_be_bytes());
    octets[8] = u8::from(redelivered);
    out.extend_from_slice(&octets);
}

fn put_id(out: &mut Vec<u8>, (class_id, method_id): (u16, u16)) {
    out.extend_from_slice(&class_id.to_be_bytes());
    out.extend_from_slice(&method_id.to_be_bytes());
}

/// A short string. Names in messages and consumer tags came as such and are never too long.
#[inline]
fn put_short(out: &mut Vec<u8>, text: &str) {
    debug_assert!(text.len() <= usize::from(u8::MAX));
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

fn reply_text(error: &AmqpError) -> ShortStr<'_> {
    const DOTS: &str = "...";
    if error.text.len() <= REPLY_TEXT_MAX {
        return ShortStr::truncated(error.text.as_str());
    }
    let end = (0..=REPLY_TEXT_MAX - DOTS.len()).rfind(|&end| error.text.is_char_boundary(end));
    let kept = error.text.get(..end.unwrap_or(0)).unwrap_or_default();
    ShortStr::truncated(format!("{kept}{DOTS}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use leveret_codec::{
        ConnectionCloseOk, ContentHeader, LongStr, PropertySummary, parse_content_header,
        split_frame,
    };

    use leveret_core::ReplyCode;

    use super::*;

    fn message(exchange: &str, key: &str, body: &[u8]) -> Message {
        let header = ContentHeader {
            class_id: CLASS_BASIC,
            body_size: body.len() as u64,
            flags: leveret_codec::flags::PRIORITY,
            raw: &[7],
            summary: PropertySummary::default(),
        };
        Message::build(&mut Vec::new(), exchange, key, &header, body)
    }

    fn octets(mut wire: Wire) -> Vec<u8> {
        let mut octets = Vec::new();
        while !wire.is_empty() {
            let piece = wire.first().len();
            octets.extend_from_slice(wire.first());
            wire.advance(piece);
        }
        octets
    }

    fn encoded(encoder: &mut Encoder, outbound: Outbound) -> Vec<u8> {
        let mut wire = Wire::default();
        encoder.encode(outbound, &mut wire);
        let len = wire.len();
        let octets = octets(wire);
        assert_eq!(octets.len(), len);
        octets
    }

    /// The method, and the content with the sizes of its frames.
    fn decoded(octets: &[u8], channel: u16) -> (Method<'_>, u64, Vec<u8>, Vec<usize>) {
        let mut rest = octets;
        let mut next = || {
            let (frame, used) = split_frame(rest, 0).unwrap()?;
            rest = &rest[used..];
            assert_eq!(frame.channel, channel);
            Some(frame)
        };
        let method = Method::parse(next().unwrap().payload).unwrap();
        let header = next().map(|frame| parse_content_header(frame.payload).unwrap());
        if let Some(header) = &header {
            assert_eq!(
                (header.flags, header.raw),
                (leveret_codec::flags::PRIORITY, [7].as_slice())
            );
        }
        let (mut body, mut sizes) = (Vec::new(), Vec::new());
        while let Some(frame) = next() {
            assert_eq!(frame.kind, FRAME_BODY);
            body.extend_from_slice(frame.payload);
            sizes.push(frame.payload.len());
        }
        (
            method,
            header.map_or(0, |header| header.body_size),
            body,
            sizes,
        )
    }

    #[test]
    fn bodies_are_cut_to_frame_max_and_large_ones_are_not_copied() {
        #[rustfmt::skip]
        let table = [
            // frame_max  body     frames           copied  why this row is here
            (4_096,            0,  vec![],             true,  "no body, no frame"),
            (4_096,            1,  vec![1],            true,  "one"),
            (4_096,        4_088,  vec![4_088],        true,  "as much as one may hold"),
            (4_096,        4_089,  vec![4_088, 1],     true,  "one octet more"),
            (131_072,      8_191,  vec![8_191],        true,  "still copied"),
            (131_072,      8_192,  vec![8_192],        false, "worth an entry of its own"),
            (8_192,       20_000,  vec![8_184, 8_184, 3_632], false, "sliced where it stands"),
            (0,            4_100,  vec![4_088, 12],    true,  "a frame_max below the minimum is not believed"),
        ];
        for (frame_max, size, frames, copied, why) in table {
            let body: Vec<u8> = (0..size).map(|at: u32| at as u8).collect();
            let mut encoder = Encoder::new(frame_max);
            encoder.encode(
                Outbound::Consumer {
                    number: 3,
                    tag: Arc::from("ctag"),
                },
                &mut Wire::default(),
            );
            let mut wire = Wire::default();
            let message = message("amq.topic", "a.key", &body);
            let deliver = Outbound::Deliver {
                channel: 9,
                consumer: 3,
                redelivered: true,
                delivery_tag: 1 << 40,
                message,
            };
            encoder.encode(deliver, &mut wire);
            assert_eq!(wire.first().len() == wire.len(), copied, "{why}");

            let octets = octets(wire);
            let (method, body_size, content, sizes) = decoded(&octets, 9);
            let expected = BasicDeliver {
                consumer_tag: ShortStr::from_static("ctag"),
                delivery_tag: 1 << 40,
                redelivered: true,
                exchange: ShortStr::from_static("amq.topic"),
                routing_key: ShortStr::from_static("a.key"),
            };
            assert_eq!(method, expected.into(), "{why}");
            assert_eq!(
                (body_size, &content, sizes),
                (u64::from(size), &body, frames),
                "{why}"
            );
        }
    }

    #[test]
    fn messages_got_and_returned() {
        let mut encoder = Encoder::new(4_096);
        let message = message("x", "k", b"abc");
        let get_ok = Outbound::GetOk {
            channel: 1,
            redelivered: false,
            delivery_tag: 2,
            message_count: 3,
            message: message.clone(),
        };
        let octets = encoded(&mut encoder, get_ok);
        let expected = BasicGetOk {
            delivery_tag: 2,
            redelivered: false,
            exchange: ShortStr::from_static("x"),
            routing_key: ShortStr::from_static("k"),
            message_count: 3,
        };
        assert_eq!(
            decoded(&octets, 1),
            (expected.into(), 3, b"abc".to_vec(), vec![3])
        );

        let returned = Outbound::Return {
            channel: 1,
            code: ReplyCode::NoRoute,
            message,
        };
        let octets = encoded(&mut encoder, returned);
        let expected = BasicReturn {
            reply_code: 312,
            reply_text: ShortStr::from_static("NO_ROUTE"),
            exchange: ShortStr::from_static("x"),
            routing_key: ShortStr::from_static("k"),
        };
        assert_eq!(
            decoded(&octets, 1),
            (expected.into(), 3, b"abc".to_vec(), vec![3])
        );
    }

    #[test]
    fn a_consumer_number_may_be_used_again() {
        let mut encoder = Encoder::new(4_096);
        for tag in ["first", "second"] {
            encoder.encode(
                Outbound::Consumer {
                    number: 0,
                    tag: Arc::from(tag),
                },
                &mut Wire::default(),
            );
            let deliver = Outbound::Deliver {
                channel: 1,
                consumer: 0,
                redelivered: false,
                delivery_tag: 1,
                message: message("", "", b""),
            };
            let octets = encoded(&mut encoder, deliver);
            let (Method::BasicDeliver(deliver), ..) = decoded(&octets, 1) else {
                panic!()
            };
            assert_eq!(deliver.consumer_tag, tag);
        }
    }

    #[test]
    fn refusals_name_the_method_and_fit_their_frame() {
        let mut encoder = Encoder::new(4_096);
        let error = AmqpError::precondition_failed("é".repeat(300)).of_method((50, 10));
        let close = Outbound::CloseChannel {
            channel: 4,
            error: Box::new(error),
        };
        let octets = encoded(&mut encoder, close);
        let (Method::ChannelClose(close), ..) = decoded(&octets, 4) else {
            panic!()
        };
        assert_eq!(
            (close.reply_code, close.class_id, close.method_id),
            (406, 50, 10)
        );
        assert!(close.reply_text.starts_with("PRECONDITION_FAILED - é"));
        assert!(close.reply_text.ends_with("é...") && close.reply_text.len() > 250);
    }

    #[test]
    fn after_connection_close_only_the_answer_to_the_peers_is_written() {
        let close_ok = || Outbound::Method {
            channel: 0,
            method: Box::new(ConnectionCloseOk {}.into()),
        };
        let mut encoder = Encoder::new(4_096);
        let mut wire = Wire::default();
        let error = Box::new(AmqpError::frame_error("no"));
        encoder.encode(
            Outbound::CloseConnection {
                error: error.clone(),
            },
            &mut wire,
        );
        assert!(!wire.close_after(), "the peer has yet to answer");
        let len = wire.len();
        encoder.encode(Outbound::Heartbeat, &mut wire);
        encoder.encode(Outbound::CloseConnection { error }, &mut wire);
        encoder.encode(
            Outbound::Confirm {
                channel: 1,
                delivery_tag: 1,
                multiple: false,
            },
            &mut wire,
        );
        assert_eq!(wire.len(), len);
        encoder.encode(close_ok(), &mut wire);
        encoder.encode(close_ok(), &mut wire);
        assert!(wire.close_after());
        assert_eq!(wire.len(), len + 12);

        let mut encoder = Encoder::new(4_096);
        let mut wire = Wire::default();
        encoder.encode(close_ok(), &mut wire);
        encoder.encode(Outbound::Heartbeat, &mut wire);
        assert_eq!((wire.len(), wire.close_after()), (12, true));
    }

    #[test]
    fn the_rest_is_written_as_the_codec_writes_it() {
        let mut encoder = Encoder::new(4_096);
        assert_eq!(
            encoded(&mut encoder, Outbound::Heartbeat),
            [8, 0, 0, 0, 0, 0, 0, 0xce]
        );

        let confirm = Outbound::Confirm {
            channel: 2,
            delivery_tag: 5,
            multiple: true,
        };
        let octets = encoded(&mut encoder, confirm);
        assert_eq!(
            decoded(&octets, 2).0,
            BasicAck {
                delivery_tag: 5,
                multiple: true
            }
            .into()
        );

        let method = leveret_codec::ChannelOpenOk {
            reserved_1: LongStr::default(),
        };
        let method = Outbound::Method {
            channel: 3,
            method: Box::new(method.clone().into()),
        };
        let octets = encoded(&mut encoder, method);
        assert_eq!(decoded(&octets, 3).0.name(), "channel.open-ok");

        let mut wire = Wire::default();
        encoder.encode(Outbound::ProtocolHeader, &mut wire);
        assert!(wire.close_after());
        assert_eq!(wire.first(), PROTOCOL_HEADER);
    }
}

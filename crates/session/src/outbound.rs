//! The writing half of a connection: what the core and the session send becomes octets.

use leveret_codec::{
    BasicAck, BasicDeliver, BasicGetOk, BasicReturn, CLASS_BASIC, ChannelClose, ConnectionClose,
    FRAME_BODY, FRAME_END, FRAME_HEADER, FRAME_METHOD, FRAME_MIN_SIZE, FRAME_OVERHEAD, Method,
    PROTOCOL_HEADER, ShortStr, encode_heartbeat, encode_method,
};
use leveret_core::{AmqpError, Message, Outbound};

use crate::wire::Wire;

#[cfg(test)]
mod tests;

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

//! One connection of the relay: the read loop, and an answer to every method that wants one.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, atomic::AtomicU64},
};

use leveret_codec::{
    BasicAck, BasicCancelOk, BasicConsumeOk, BasicGetEmpty, BasicQosOk, BasicRecoverOk,
    ChannelCloseOk, ChannelFlowOk, ChannelOpenOk, ConfirmSelectOk, ConnectionCloseOk,
    ConnectionOpenOk, ConnectionStart, ConnectionTune, ExchangeBindOk, ExchangeDeclareOk,
    ExchangeDeleteOk, ExchangeUnbindOk, FRAME_METHOD, LongStr, Method, PROTOCOL_HEADER,
    QueueBindOk, QueueDeclareOk, QueueDeleteOk, QueuePurgeOk, QueueUnbindOk, RawFrame, ShortStr,
    encode_method, split_frame,
};
use tokio::{
    io::AsyncReadExt,
    net::{TcpStream, tcp::OwnedReadHalf},
};

use super::{
    batch::{self, Published},
    hub::{Hub, Route, Target},
    outbox::Outbox,
};

/// Bytes read at once at most, once a connection is busy.
const READ_BYTES: usize = 256 << 10;

/// Bytes of the read buffer of a connection that has not said much yet.
const FIRST_READ_BYTES: usize = 4 << 10;

/// Larger messages end the connection: the relay holds each one in its read buffer.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// As RabbitMQ offers it. Contents are copied as they came, so the relay relies on all clients
/// taking this as it is.
const FRAME_MAX: u32 = 131_072;
const CHANNEL_MAX: u16 = 2_047;

/// Routes remembered by a connection; all are forgotten when there are more.
const ROUTES_MAX: usize = 1_024;

/// Serves one client until it leaves or errs.
pub(super) async fn run(stream: TcpStream, hub: Arc<Hub>) {
    let (read, write) = stream.into_split();
    let outbox = Arc::new(Outbox::default());
    let writer = Arc::clone(&outbox);
    tokio::spawn(async move { writer.write_to(write).await });
    let mut connection = Connection {
        hub,
        outbox,
        channels: Vec::new(),
        routes: HashMap::new(),
        generation: 0,
        published: Vec::new(),
        written: Vec::new(),
        consumes: false,
    };
    if let Err(error) = connection.read(read).await {
        eprintln!("relay: connection lost: {error}");
    }
    connection.outbox.close();
    if connection.consumes {
        connection.hub.disconnect(&connection.outbox);
    }
}

struct Connection {
    hub: Arc<Hub>,
    outbox: Arc<Outbox>,
    channels: Vec<Channel>,
    /// By exchange and, for the default exchange, key: the two short strings as they stand in the
    /// frame.
    routes: HashMap<Box<[u8]>, Route>,
    generation: u64,
    /// Publishes of one channel to one route, gathered while walking a read.
    published: Vec<Published>,
    /// Outboxes that this read wrote to: the next read waits until all have room.
    written: Vec<Arc<Outbox>>,
    consumes: bool,
}

#[derive(Default)]
struct Channel {
    confirms: bool,
    published: u64,
    confirmed: u64,
    last_delivery_tag: Arc<AtomicU64>,
    last_queue: String,
}

/// Whether to go on reading.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Next {
    Read,
    Leave,
}

impl Connection {
    async fn read(&mut self, mut socket: OwnedReadHalf) -> io::Result<()> {
        let mut hello = [0; 8];
        socket.read_exact(&mut hello).await?;
        if hello != PROTOCOL_HEADER {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.reply(0, start());

        let mut buffer = vec![0; FIRST_READ_BYTES];
        let mut filled = 0;
        loop {
            let count = socket.read(&mut buffer[filled..]).await?;
            if count == 0 {
                return Ok(());
            }
            filled += count;
            let was_full = filled == buffer.len();
            let (consumed, next) = self.walk(&buffer[..filled])?;
            if next == Next::Leave {
                return Ok(());
            }
            buffer.copy_within(consumed..filled, 0);
            filled -= consumed;
            if was_full && (buffer.len() < READ_BYTES || filled == buffer.len()) {
                // There is more to come, or one message is larger than the buffer.
                if filled >= MESSAGE_BYTES_MAX {
                    return Err(io::ErrorKind::OutOfMemory.into());
                }
                buffer.resize(READ_BYTES.max(filled * 2), 0);
            }
            self.confirm();
            while let Some(outbox) = self.written.pop() {
                outbox.room().await;
            }
        }
    }

    /// Handles all whole frames; answers how many bytes they took up.
    fn walk(&mut self, bytes: &[u8]) -> io::Result<(usize, Next)> {
        if self.generation != self.hub.generation() || self.routes.len() > ROUTES_MAX {
            self.routes.clear();
            self.generation = self.hub.generation();
        }
        let mut published = std::mem::take(&mut self.published);
        let mut route_key: &[u8] = &[];
        let mut route_channel = 0;
        let mut at = 0;
        let mut next = Next::Read;
        while next == Next::Read {
            let split = split_frame(&bytes[at..], FRAME_MAX).map_err(io::Error::other)?;
            let Some((frame, len)) = split else { break };
            if frame.kind == FRAME_METHOD && batch::is_publish(frame.payload) {
                let Some(found) = batch::find_publish(bytes, at, len) else {
                    break;
                };
                let key = route_of(&bytes[found.names.0..found.names.1]);
                if key != route_key || frame.channel != route_channel {
                    self.flush(bytes, route_channel, route_key, &mut published);
                    (route_key, route_channel) = (key, frame.channel);
                }
                published.push(found);
                at = found.content.1;
            } else {
                self.flush(bytes, route_channel, route_key, &mut published);
                next = self.handle(frame)?;
                at += len;
            }
        }
        self.flush(bytes, route_channel, route_key, &mut published);
        self.published = published;
        Ok((at, next))
    }

    /// Delivers what has gathered for one route.
    fn flush(&mut self, bytes: &[u8], channel: u16, key: &[u8], published: &mut Vec<Published>) {
        if published.is_empty() {
            return;
        }
        if !self.routes.contains_key(key) {
            let route = self.resolve(key);
            self.routes.insert(key.into(), route);
        }
        let route = &self.routes[key];
        batch::deliver(bytes, channel, published, route);
        for target in &**route {
            // A route repeats while a producer publishes to one place, so looking at the last
            // entry keeps the list short.
            let known = self.written.last();
            if known.is_none_or(|last| !Arc::ptr_eq(last, &target.outbox)) {
                self.written.push(Arc::clone(&target.outbox));
            }
        }
        let count = published.len() as u64;
        self.channel(channel).published += count;
        published.clear();
    }

    fn resolve(&self, key: &[u8]) -> Route {
        let mut names = key;
        let mut name = || {
            let (&len, rest) = names.split_first()?;
            let (name, rest) = rest.split_at_checked(len.into())?;
            names = rest;
            std::str::from_utf8(name).ok()
        };
        let exchange = name().unwrap_or_default();
        let routing_key = name().unwrap_or_default();
        self.hub.route(exchange, routing_key)
    }

    /// One confirm for everything a channel published since the last.
    fn confirm(&mut self) {
        for (number, channel) in (0u16..).zip(&mut self.channels) {
            if channel.confirms && channel.confirmed < channel.published {
                channel.confirmed = channel.published;
                let ack = BasicAck {
                    delivery_tag: channel.confirmed,
                    multiple: true,
                };
                self.outbox
                    .append(|out| encode_method(out, number, &ack.into()));
            }
        }
    }

    fn handle(&mut self, frame: RawFrame<'_>) -> io::Result<Next> {
        if frame.kind != FRAME_METHOD {
            return Ok(Next::Read); // a heartbeat
        }
        let method = Method::parse(frame.payload).map_err(io::Error::other)?;
        let number = frame.channel;
        if number > CHANNEL_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut next = Next::Read;
        match method {
            Method::ConnectionStartOk(_) => self.reply(0, tune()),
            Method::ConnectionOpen(_) => self.reply(0, ConnectionOpenOk::default()),
            Method::ConnectionClose(_) => {
                self.reply(0, ConnectionCloseOk {});
                next = Next::Leave;
            }
            Method::ChannelOpen(_) => {
                *self.channel(number) = Channel::default();
                self.reply(number, ChannelOpenOk::default());
            }
            Method::ChannelClose(_) => self.reply(number, ChannelCloseOk {}),
            Method::ChannelFlow(m) => self.reply(number, ChannelFlowOk { active: m.active }),
            Method::ExchangeDeclare(_) => self.reply(number, ExchangeDeclareOk {}),
            Method::ExchangeDelete(m) => {
                self.hub.delete_exchange(&m.exchange);
                self.reply(number, ExchangeDeleteOk {});
            }
            Method::ExchangeBind(_) => self.reply(number, ExchangeBindOk {}),
            Method::ExchangeUnbind(_) => self.reply(number, ExchangeUnbindOk {}),
            Method::QueueDeclare(m) => {
                let mut queue = m.queue.to_string();
                if queue.is_empty() {
                    queue = self.hub.new_name("relay.queue-");
                }
                self.channel(number).last_queue.clone_from(&queue);
                let queue = ShortStr::truncated(queue);
                self.reply(
                    number,
                    QueueDeclareOk {
                        queue,
                        ..QueueDeclareOk::default()
                    },
                );
            }
            Method::QueueBind(m) => {
                self.hub.bind(&m.exchange, &m.queue);
                if !m.no_wait {
                    self.reply(number, QueueBindOk {});
                }
            }
            Method::QueueUnbind(_) => self.reply(number, QueueUnbindOk {}),
            Method::QueuePurge(_) => self.reply(number, QueuePurgeOk::default()),
            Method::QueueDelete(_) => self.reply(number, QueueDeleteOk::default()),
            Method::BasicQos(_) => self.reply(number, BasicQosOk {}),
            Method::BasicConsume(m) => self.consume(number, &m.queue, &m.consumer_tag),
            Method::BasicCancel(m) => {
                let consumer_tag = m.consumer_tag;
                self.reply(number, BasicCancelOk { consumer_tag });
            }
            Method::BasicGet(_) => self.reply(number, BasicGetEmpty::default()),
            Method::BasicRecover(_) => self.reply(number, BasicRecoverOk {}),
            Method::ConfirmSelect(_) => {
                self.channel(number).confirms = true;
                self.reply(number, ConfirmSelectOk {});
            }
            _ => {} // acks, tune-ok, and what nothing of ours sends
        }
        Ok(next)
    }

    fn consume(&mut self, number: u16, queue: &str, consumer_tag: &str) {
        let consumer_tag = match consumer_tag {
            "" => self.hub.new_name("relay.consumer-"),
            given => given.to_owned(),
        };
        self.consumes = true;
        // The answer goes first: once the hub knows the target, deliveries may follow at any time.
        self.reply(
            number,
            BasicConsumeOk {
                consumer_tag: ShortStr::truncated(&*consumer_tag),
            },
        );
        let channel = self.channel(number);
        let queue = match queue {
            "" => channel.last_queue.clone(),
            given => given.to_owned(),
        };
        let last_tag = Arc::clone(&channel.last_delivery_tag);
        let target = Target {
            outbox: Arc::clone(&self.outbox),
            channel: number,
            consumer_tag,
            last_tag,
        };
        self.hub.consume(&queue, Arc::new(target));
        self.routes.clear(); // publishes that follow in this read must find it
    }

    /// The channel with this number, opened or not: the relay does not judge.
    fn channel(&mut self, number: u16) -> &mut Channel {
        let index = usize::from(number);
        if self.channels.len() <= index {
            self.channels.resize_with(index + 1, Channel::default);
        }
        &mut self.channels[index]
    }

    fn reply<'a>(&self, channel: u16, method: impl Into<Method<'a>>) {
        let method = method.into();
        self.outbox
            .append(|out| encode_method(out, channel, &method));
    }
}

/// What decides the route of a publish: the exchange, and for the default exchange the key too.
fn route_of(names: &[u8]) -> &[u8] {
    match names.first() {
        None | Some(0) => names,
        Some(&exchange_len) => names.get(..=usize::from(exchange_len)).unwrap_or(names),
    }
}

fn start() -> ConnectionStart<'static> {
    ConnectionStart {
        version_major: 0,
        version_minor: 9,
        mechanisms: LongStr::from(&b"PLAIN"[..]),
        locales: LongStr::from(&b"en_US"[..]),
        ..ConnectionStart::default()
    }
}

/// No heartbeats: the relay keeps no time.
fn tune() -> ConnectionTune {
    ConnectionTune {
        channel_max: CHANNEL_MAX,
        frame_max: FRAME_MAX,
        heartbeat: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::route_of;

    #[test]
    fn route_is_the_exchange_or_else_the_key() {
        #[rustfmt::skip]
        let table: [(&[u8], &[u8], &str); 4] = [
            (b"\0\x01q",     b"\0\x01q", "default exchange: the key names the queue"),
            (b"\x01x\x01q",  b"\x01x",   "any other: whatever the key"),
            (b"\x01x\0",     b"\x01x",   "no key"),
            (b"",            b"",        "not even names: no panic"),
        ];
        for (names, expected, why) in table {
            assert_eq!(route_of(names), expected, "{why}");
        }
    }
}

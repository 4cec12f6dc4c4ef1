//! A blocking AMQP connection for everything that is not timed: login, declarations, clean-up.
//!
//! Asks one thing at a time and waits for the answer. What is timed takes over the socket with
//! [`Client::into_stream`] and goes on by hand.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use leveret_codec::{
    BasicConsume, BasicQos, ChannelOpen, ConfirmSelect, ConnectionClose, ConnectionOpen,
    ConnectionStartOk, ConnectionTuneOk, ExchangeDeclare, ExchangeDelete, FRAME_METHOD, FieldTable,
    FieldValue, LongStr, Method, PROTOCOL_HEADER, QueueBind, QueueDeclare, QueueDelete,
    QueueUnbind, RawTable, ShortStr, encode_method, split_frame,
};

use crate::{Error, Result, error::Context as _, storage::Storage, url::Url};

/// The only channel that a connection of ours opens.
pub const CHANNEL: u16 = 1;

/// The `frame_max` we ask for: the default of all brokers and clients.
const FRAME_MAX: u32 = 131_072;

/// How long the server may take to answer. Deleting a queue of a million messages is the slowest
/// thing we ask.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

pub struct Client {
    stream: TcpStream,
    received: VecDeque<u8>,
    out: Vec<u8>,
    knows_delays: bool,
}

impl Client {
    /// Logs in and opens [`CHANNEL`].
    ///
    /// # Errors
    /// When nobody listens, or the server refuses.
    pub fn connect(url: &Url) -> Result<Self> {
        let stream = TcpStream::connect(url.address)
            .context(format!("connect to the server at {}", url.address))?;
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        stream
            .set_read_timeout(Some(ANSWER_TIMEOUT))
            .context("set a read timeout")?;
        let mut client = Self {
            stream,
            received: VecDeque::new(),
            out: Vec::new(),
            knows_delays: true,
        };
        client.log_in(url)?;
        client.call(CHANNEL, ChannelOpen::default(), |answer| {
            matches!(answer, Method::ChannelOpenOk(_)).then_some(())
        })?;
        Ok(client)
    }

    fn log_in(&mut self, url: &Url) -> Result<()> {
        self.out.extend(PROTOCOL_HEADER);
        self.flush()?;
        self.knows_delays = self.answer(|method| match method {
            Method::ConnectionStart(start) => {
                let properties = start.server_properties.parse();
                let product = properties.get("product").and_then(FieldValue::as_str);
                Some(product != Some("RabbitMQ"))
            }
            _ => None,
        })?;
        let start_ok = ConnectionStartOk {
            mechanism: ShortStr::from_static("PLAIN"),
            response: LongStr::from(format!("\0{}\0{}", url.user, url.password).into_bytes()),
            locale: ShortStr::from_static("en_US"),
            ..ConnectionStartOk::default()
        };
        let tune = self.call(0, start_ok, |answer| match answer {
            Method::ConnectionTune(tune) => Some(tune.clone()),
            _ => None,
        })?;
        // No heartbeats: connections that sit idle for a measurement must need no attention.
        let tune_ok = ConnectionTuneOk {
            channel_max: tune.channel_max,
            frame_max: FRAME_MAX,
            heartbeat: 0,
        };
        if tune.frame_max != 0 && tune.frame_max < FRAME_MAX {
            return Err(Error::Server(format!(
                "frame_max {} is too small to compare brokers at {FRAME_MAX}",
                tune.frame_max
            )));
        }
        encode_method(&mut self.out, 0, &tune_ok.into());
        let open = ConnectionOpen {
            virtual_host: short(&url.vhost)?,
            ..ConnectionOpen::default()
        };
        self.call(0, open, |answer| {
            matches!(answer, Method::ConnectionOpenOk(_)).then_some(())
        })
    }

    /// Whether a message may ask the server to keep it for a while. Of those we compare, `RabbitMQ`
    /// is the one that cannot.
    pub fn knows_delays(&self) -> bool {
        self.knows_delays
    }

    /// Declares a transient exchange of the given type.
    ///
    /// # Errors
    /// Here and below: when the connection is lost or the server refuses.
    pub fn exchange_declare(&mut self, exchange: &str, kind: &'static str) -> Result<()> {
        let declare = ExchangeDeclare {
            exchange: short(exchange)?,
            kind: ShortStr::from_static(kind),
            ..ExchangeDeclare::default()
        };
        self.call(CHANNEL, declare, |answer| {
            matches!(answer, Method::ExchangeDeclareOk(_)).then_some(())
        })
    }

    pub fn exchange_delete(&mut self, exchange: &str) -> Result<()> {
        let delete = ExchangeDelete {
            exchange: short(exchange)?,
            ..ExchangeDelete::default()
        };
        self.call(CHANNEL, delete, |answer| {
            matches!(answer, Method::ExchangeDeleteOk(_)).then_some(())
        })
    }

    pub fn queue_declare(&mut self, queue: &str, storage: Storage) -> Result<()> {
        let mut arguments = FieldTable::default();
        if storage == Storage::Quorum {
            let quorum = FieldValue::LongString(b"quorum".to_vec().into());
            arguments.insert("x-queue-type", quorum);
        }
        let declare = QueueDeclare {
            queue: short(queue)?,
            durable: storage.is_durable(),
            arguments: RawTable::from_table(&arguments),
            ..QueueDeclare::default()
        };
        self.declared(declare).map(|_ready| ())
    }

    /// Declares a durable queue whose messages go to another one after `ttl_ms`: what users of
    /// servers that know no delays make do with.
    pub fn queue_declare_waiting(&mut self, queue: &str, ttl_ms: u32, to: &str) -> Result<()> {
        let text = |text: &str| FieldValue::LongString(text.as_bytes().to_vec().into());
        let mut arguments = FieldTable::default();
        arguments.insert("x-message-ttl", FieldValue::I64(ttl_ms.into()));
        arguments.insert("x-dead-letter-exchange", text(""));
        arguments.insert("x-dead-letter-routing-key", text(to));
        let declare = QueueDeclare {
            queue: short(queue)?,
            durable: true,
            arguments: RawTable::from_table(&arguments),
            ..QueueDeclare::default()
        };
        self.declared(declare).map(|_ready| ())
    }

    /// Declares a transient queue that goes with this connection.
    pub fn queue_declare_exclusive(&mut self, queue: &str) -> Result<()> {
        let declare = QueueDeclare {
            queue: short(queue)?,
            exclusive: true,
            ..QueueDeclare::default()
        };
        self.declared(declare).map(|_ready| ())
    }

    /// Number of ready messages of a queue that exists.
    pub fn queue_ready(&mut self, queue: &str) -> Result<u32> {
        let declare = QueueDeclare {
            queue: short(queue)?,
            passive: true,
            ..QueueDeclare::default()
        };
        self.declared(declare)
    }

    fn declared(&mut self, declare: QueueDeclare<'_>) -> Result<u32> {
        self.call(CHANNEL, declare, |answer| match answer {
            Method::QueueDeclareOk(ok) => Some(ok.message_count),
            _ => None,
        })
    }

    /// Binds without waiting, since there may be thousands: it is sent with the next call, and
    /// that is where a refusal shows.
    pub fn queue_bind(
        &mut self,
        queue: &str,
        exchange: &str,
        routing_key: &str,
        arguments: &FieldTable,
    ) -> Result<()> {
        let bind = QueueBind {
            queue: short(queue)?,
            exchange: short(exchange)?,
            routing_key: short(routing_key)?,
            no_wait: true,
            arguments: RawTable::from_table(arguments),
            ..QueueBind::default()
        };
        encode_method(&mut self.out, CHANNEL, &bind.into());
        Ok(())
    }

    pub fn queue_unbind(&mut self, queue: &str, exchange: &str, routing_key: &str) -> Result<()> {
        let unbind = QueueUnbind {
            queue: short(queue)?,
            exchange: short(exchange)?,
            routing_key: short(routing_key)?,
            ..QueueUnbind::default()
        };
        self.call(CHANNEL, unbind, |answer| {
            matches!(answer, Method::QueueUnbindOk(_)).then_some(())
        })
    }

    pub fn queue_delete(&mut self, queue: &str) -> Result<()> {
        let delete = QueueDelete {
            queue: short(queue)?,
            ..QueueDelete::default()
        };
        self.call(CHANNEL, delete, |answer| {
            matches!(answer, Method::QueueDeleteOk(_)).then_some(())
        })
    }

    pub fn confirm_select(&mut self) -> Result<()> {
        self.call(CHANNEL, ConfirmSelect::default(), |answer| {
            matches!(answer, Method::ConfirmSelectOk(_)).then_some(())
        })
    }

    pub fn qos(&mut self, prefetch_count: u16) -> Result<()> {
        let qos = BasicQos {
            prefetch_count,
            ..BasicQos::default()
        };
        self.call(CHANNEL, qos, |answer| {
            matches!(answer, Method::BasicQosOk(_)).then_some(())
        })
    }

    /// Starts a consumer: the last thing to do here, since nothing more than its answer is
    /// expected from then on. See [`into_parts`](Self::into_parts).
    pub fn consume(&mut self, queue: &str, no_ack: bool) -> Result<()> {
        let consume = BasicConsume {
            queue: short(queue)?,
            consumer_tag: ShortStr::from_static("c"),
            no_ack,
            ..BasicConsume::default()
        };
        self.call(CHANNEL, consume, |answer| {
            matches!(answer, Method::BasicConsumeOk(_)).then_some(())
        })
    }

    /// Bytes that are whole frames, as they are. For publishes among the rest.
    pub fn send(&mut self, frames: &[u8]) -> Result<()> {
        self.stream.write_all(frames).context("publish")
    }

    /// Says goodbye and waits until the server has, too.
    pub fn close(mut self) -> Result<()> {
        let close = ConnectionClose {
            reply_code: 200,
            reply_text: ShortStr::from_static("done"),
            ..ConnectionClose::default()
        };
        self.call(0, close, |answer| {
            matches!(answer, Method::ConnectionCloseOk(_)).then_some(())
        })
    }

    /// The socket, for whoever goes on by hand.
    ///
    /// # Errors
    /// When the server has said more than it was asked.
    pub fn into_stream(self) -> Result<TcpStream> {
        let (stream, received) = self.into_parts();
        if received.is_empty() {
            return Ok(stream);
        }
        let text = format!("{} bytes nobody asked for", received.len());
        Err(Error::Server(text))
    }

    /// The same, with what came behind the last answer: the first deliveries of a queue that is not
    /// empty.
    pub fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.stream, self.received.into())
    }

    /// Sends a method and waits for what `pick` recognises as its answer.
    fn call<'a, T>(
        &mut self,
        channel: u16,
        method: impl Into<Method<'a>>,
        pick: impl FnMut(&Method<'_>) -> Option<T>,
    ) -> Result<T> {
        encode_method(&mut self.out, channel, &method.into());
        self.flush()?;
        self.answer(pick)
    }

    fn flush(&mut self) -> Result<()> {
        self.stream.write_all(&self.out).context("write a method")?;
        self.out.clear();
        Ok(())
    }

    fn answer<T>(&mut self, mut pick: impl FnMut(&Method<'_>) -> Option<T>) -> Result<T> {
        loop {
            let bytes = self.received.make_contiguous();
            let split = split_frame(bytes, FRAME_MAX).map_err(garbled)?;
            let Some((frame, len)) = split else {
                let mut chunk = [0; 4_096];
                let count = self.stream.read(&mut chunk).context("wait for an answer")?;
                if count == 0 {
                    return Err(Error::Server("hung up without a word".into()));
                }
                self.received.extend(&chunk[..count]);
                continue;
            };
            let mut picked = None;
            if frame.kind == FRAME_METHOD {
                let method = Method::parse(frame.payload).map_err(garbled)?;
                refusal(&method)?;
                picked = pick(&method);
                let harmless = matches!(method, Method::ConnectionBlocked(_) | Method::BasicAck(_));
                if picked.is_none() && !harmless {
                    return Err(Error::Server(format!("unexpected {}", method.name())));
                }
            }
            self.received.drain(..len);
            if let Some(answer) = picked {
                return Ok(answer);
            }
        }
    }
}

/// Turns `channel.close` and `connection.close` into the error they are.
///
/// # Errors
/// When `method` is one of them.
pub fn refusal(method: &Method<'_>) -> Result<()> {
    let text = match method {
        Method::ConnectionClose(m) => format!("{} {}", m.reply_code, m.reply_text),
        Method::ChannelClose(m) => format!("{} {}", m.reply_code, m.reply_text),
        _ => return Ok(()),
    };
    Err(Error::Server(text))
}

fn short(name: &str) -> Result<ShortStr<'_>> {
    ShortStr::new(name).ok_or_else(|| Error::Setup(format!("name too long: {name}")))
}

fn garbled(error: leveret_codec::DecodeError) -> Error {
    Error::Server(format!("sent what is not AMQP: {error}"))
}

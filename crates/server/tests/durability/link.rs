//! A client whose broker may be gone at any moment: everything it does can fail.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use leveret_codec::{
    BasicPublish, ChannelCloseOk, ChannelOpen, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk,
    ExchangeDeclare, FRAME_BODY, FRAME_HEADER, FRAME_HEARTBEAT, FRAME_METHOD, FieldTable,
    FieldValue, LongStr, Method, PROTOCOL_HEADER, Properties, QueueBind, QueueDeclare, RawTable,
    ShortStr, encode_body, encode_header, encode_method, parse_content_header, split_frame,
};

use crate::common::{PATIENCE, short};

/// Octets of a body in one frame.
const PIECE: usize = 100_000;

/// What everybody uses unless told otherwise.
pub(crate) const CHANNEL: u16 = 1;

/// A connection with a channel.
pub(crate) struct Link {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// What came while an answer was waited for.
    aside: VecDeque<Answer>,
    /// Heartbeats that came.
    pub(crate) heartbeats: u64,
}

/// A method and, if it carries one, its content's body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) method: Method<'static>,
    pub(crate) properties: Properties,
    pub(crate) body: Vec<u8>,
}

impl Link {
    /// Logs in and opens a channel.
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        Self::open_with(address, 0)
    }

    /// The same with heartbeats, in seconds.
    pub(crate) fn open_with(address: SocketAddr, heartbeat: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut link = Self {
            stream,
            input: Vec::new(),
            output: PROTOCOL_HEADER.to_vec(),
            aside: VecDeque::new(),
            heartbeats: 0,
        };
        link.flush()?;
        link.answer()?;
        let mut capabilities = FieldTable::default();
        capabilities.insert("connection.blocked", FieldValue::Bool(true));
        let mut properties = FieldTable::default();
        properties.insert("capabilities", FieldValue::Table(capabilities));
        link.send_on(
            0,
            ConnectionStartOk {
                client_properties: RawTable::from_table(&properties),
                mechanism: ShortStr::from_static("PLAIN"),
                response: LongStr::from(b"\0guest\0guest".to_vec()),
                locale: ShortStr::from_static("en_US"),
            },
        )?;
        let Method::ConnectionTune(tune) = link.answer()?.method else {
            return Err(unexpected("no tune"));
        };
        link.push_on(
            0,
            ConnectionTuneOk {
                channel_max: tune.channel_max,
                frame_max: tune.frame_max,
                heartbeat,
            },
        );
        let vhost = short("/");
        link.push_on(
            0,
            ConnectionOpen {
                virtual_host: vhost,
                ..ConnectionOpen::default()
            },
        );
        link.flush()?;
        link.answer()?;
        link.call(ChannelOpen::default())?;
        Ok(link)
    }

    /// To be sent with what follows.
    pub(crate) fn push(&mut self, method: impl Into<Method<'static>>) {
        self.push_on(CHANNEL, method);
    }

    fn push_on(&mut self, channel: u16, method: impl Into<Method<'static>>) {
        encode_method(&mut self.output, channel, &method.into());
    }

    /// A message, to be sent with what follows.
    pub(crate) fn publish(&mut self, exchange: &str, key: &str, how: How, body: &[u8]) {
        self.publish_with(exchange, key, how, Properties::default(), body);
    }

    /// The same with properties, but for the delivery mode.
    pub(crate) fn publish_with(
        &mut self,
        exchange: &str,
        key: &str,
        how: How,
        properties: Properties,
        body: &[u8],
    ) {
        self.push(BasicPublish {
            exchange: short(exchange),
            routing_key: short(key),
            mandatory: how == How::Mandatory,
            ..BasicPublish::default()
        });
        let mode = if how == How::Persistent { 2 } else { 1 };
        let properties = Properties {
            delivery_mode: Some(mode),
            ..properties
        };
        let mut raw = Vec::new();
        let flags = properties.encode(&mut raw);
        let size = body.len() as u64;
        encode_header(&mut self.output, CHANNEL, size, flags, &raw);
        for piece in body.chunks(PIECE) {
            encode_body(&mut self.output, CHANNEL, piece);
        }
    }

    /// Sends what was pushed.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.output)?;
        self.output.clear();
        Ok(())
    }

    /// Sends a method.
    pub(crate) fn send(&mut self, method: impl Into<Method<'static>>) -> io::Result<()> {
        self.push(method);
        self.flush()
    }

    fn send_on(&mut self, channel: u16, method: impl Into<Method<'static>>) -> io::Result<()> {
        self.push_on(channel, method);
        self.flush()
    }

    /// Sends a method and returns its answer, or that the channel is closed; then it is opened
    /// again. What comes before is the next that [`Link::answer`] returns.
    pub(crate) fn call(
        &mut self,
        method: impl Into<Method<'static>>,
    ) -> io::Result<Method<'static>> {
        self.send(method)?;
        loop {
            let answer = self.read(true)?.ok_or_else(|| unexpected("no answer"))?;
            match answer.method {
                Method::BasicDeliver(_)
                | Method::BasicAck(_)
                | Method::BasicReturn(_)
                | Method::ConnectionBlocked(_)
                | Method::ConnectionUnblocked(_) => self.aside.push_back(answer),
                Method::ChannelClose(_) => {
                    self.push(ChannelCloseOk {});
                    self.call(ChannelOpen::default())?;
                    return Ok(answer.method);
                }
                method => return Ok(method),
            }
        }
    }

    /// The next method; waits for it.
    pub(crate) fn answer(&mut self) -> io::Result<Answer> {
        match self.aside.pop_front() {
            Some(answer) => Ok(answer),
            None => self.read(true)?.ok_or_else(|| unexpected("no answer")),
        }
    }

    /// The next method if it has come already.
    pub(crate) fn answer_if_there(&mut self) -> io::Result<Option<Answer>> {
        match self.aside.pop_front() {
            Some(answer) => Ok(Some(answer)),
            None => self.read(false),
        }
    }

    /// Waits for a heartbeat; nothing else may come.
    pub(crate) fn heartbeat(&mut self) -> io::Result<()> {
        let before = self.heartbeats;
        while self.heartbeats == before {
            assert!(split_frame(&self.input, 0).ok().flatten().is_none());
            self.fill(true)?;
            if let Some((FRAME_HEARTBEAT, used)) = self.peek()? {
                self.input.drain(..used);
                self.heartbeats += 1;
            }
        }
        Ok(())
    }

    /// Forgets what came.
    pub(crate) fn forget(&mut self) {
        self.aside.clear();
    }

    fn peek(&self) -> io::Result<Option<(u8, usize)>> {
        let frame = split_frame(&self.input, 0).map_err(|_| unexpected("no frame"))?;
        Ok(frame.map(|(frame, used)| (frame.kind, used)))
    }

    fn read(&mut self, wait: bool) -> io::Result<Option<Answer>> {
        loop {
            if let Some((answer, used)) = self.whole()? {
                self.input.drain(..used);
                match answer {
                    Some(answer) => return Ok(Some(answer)),
                    None => {
                        self.heartbeats += 1;
                        continue;
                    }
                }
            }
            if !self.fill(wait)? {
                return Ok(None);
            }
        }
    }

    /// The first method of the input with all its content, or nothing for a heartbeat, and how many
    /// octets that is.
    fn whole(&self) -> io::Result<Option<(Option<Answer>, usize)>> {
        let next = |at: usize| {
            let rest = self.input.get(at..).unwrap_or_default();
            split_frame(rest, 0).map_err(|_| unexpected("no frame"))
        };
        let Some((frame, mut at)) = next(0)? else {
            return Ok(None);
        };
        if frame.kind == FRAME_HEARTBEAT {
            return Ok(Some((None, at)));
        }
        assert_eq!(frame.kind, FRAME_METHOD);
        let method = Method::parse(frame.payload).unwrap().into_owned();
        let (mut properties, mut body) = (Properties::default(), Vec::new());
        if method.carries_content() {
            let Some((frame, used)) = next(at)? else {
                return Ok(None);
            };
            assert_eq!(frame.kind, FRAME_HEADER);
            let header = parse_content_header(frame.payload).unwrap();
            let size = header.body_size;
            properties = Properties::parse(header.flags, header.raw).unwrap();
            at += used;
            while (body.len() as u64) < size {
                let Some((frame, used)) = next(at)? else {
                    return Ok(None);
                };
                assert_eq!(frame.kind, FRAME_BODY);
                body.extend_from_slice(frame.payload);
                at += used;
            }
        }
        let answer = Answer {
            method,
            properties,
            body,
        };
        Ok(Some((Some(answer), at)))
    }

    /// Reads something; false if there is nothing and it is not to be waited for.
    fn fill(&mut self, wait: bool) -> io::Result<bool> {
        let mut buffer = [0; 64 * 1_024];
        self.stream.set_nonblocking(!wait)?;
        let read = self.stream.read(&mut buffer);
        self.stream.set_nonblocking(false)?;
        match read {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.input.extend_from_slice(&buffer[..count]);
                Ok(true)
            }
            Err(error) if !wait && error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => {
                // Nothing takes as long; everything else is how a broker's end looks.
                assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "no answer in time");
                Err(error)
            }
        }
    }
}

/// How a message is published.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum How {
    Persistent,
    Transient,
    /// Transient, and to be returned if no queue gets it.
    Mandatory,
}

pub(crate) fn durable_queue(name: &str) -> QueueDeclare<'static> {
    QueueDeclare {
        queue: short(name),
        durable: true,
        ..QueueDeclare::default()
    }
}

pub(crate) fn existing_queue(name: &str) -> QueueDeclare<'static> {
    QueueDeclare {
        queue: short(name),
        passive: true,
        ..QueueDeclare::default()
    }
}

pub(crate) fn durable_exchange(name: &str, kind: &'static str) -> ExchangeDeclare<'static> {
    ExchangeDeclare {
        exchange: short(name),
        kind: ShortStr::from_static(kind),
        durable: true,
        ..ExchangeDeclare::default()
    }
}

pub(crate) fn bind(exchange: &str, queue: &str, key: &str) -> QueueBind<'static> {
    QueueBind {
        exchange: short(exchange),
        queue: short(queue),
        routing_key: short(key),
        ..QueueBind::default()
    }
}

fn unexpected(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

//! The consuming half of the client: reads from one or many connections in one thread.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

use leveret_codec::{BasicAck, encode_method};

use crate::{
    Error, Result,
    checker::Checker,
    client::CHANNEL,
    error::Context as _,
    readiness::Readiness,
    scan::{self, Step},
};

/// Bytes read at once at most.
const READ_BYTES: usize = 256 << 10;

/// How long to wait for something to read before looking whether it is time to stop.
const PATIENCE: Duration = Duration::from_millis(50);

/// How deliveries are settled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Acks {
    /// The server settles them when it sends them.
    Auto,
    /// We do: one `basic.ack` with `multiple` per quarter of the prefetch, as a client that cares
    /// for speed does.
    Manual { prefetch: u16 },
}

/// What the stamps of a connection's messages are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stamps {
    /// All the same, else a message has strayed.
    Always(u64),
    /// Something to be looked at by the caller.
    Any,
}

/// One consuming connection, and the verdict on what came through it.
pub struct Receiver {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
    /// Something is in the buffer that was not looked at, so there is no need to read first.
    unseen: bool,
    checker: Checker,
    body_size: usize,
    stamps: Stamps,
    ack_every: u64,
    unacked: u64,
}

impl Receiver {
    /// # Errors
    /// When the socket is unfit.
    pub fn new(stream: TcpStream, body_size: usize, acks: Acks, stamps: Stamps) -> Result<Self> {
        stream
            .set_read_timeout(Some(PATIENCE))
            .context("set a read timeout")?;
        Ok(Self {
            stream,
            buffer: vec![0; READ_BYTES],
            filled: 0,
            unseen: false,
            checker: Checker::default(),
            body_size,
            stamps,
            ack_every: match acks {
                Acks::Auto => u64::MAX,
                Acks::Manual { prefetch } => u64::from(prefetch / 4).max(1),
            },
            unacked: 0,
        })
    }

    /// Begins with what was received already.
    pub fn with_received(mut self, received: &[u8]) -> Self {
        let end = self.filled + received.len();
        self.buffer.resize(self.buffer.len().max(end), 0);
        self.buffer[self.filled..end].copy_from_slice(received);
        self.filled = end;
        self.unseen = !received.is_empty();
        self
    }

    /// See [`Checker::allow_redelivered`].
    pub fn allow_redelivered(mut self) -> Self {
        self.checker.allow_redelivered();
        self
    }

    /// See [`Checker::allow_disorder`].
    pub fn in_any_order(mut self) -> Self {
        self.checker.allow_disorder();
        self
    }

    /// Reads once; answers the number of deliveries that were complete by then.
    fn receive(&mut self, mut on_stamp: impl FnMut(u64)) -> Result<u64> {
        if !std::mem::take(&mut self.unseen) {
            match self.stream.read(&mut self.buffer[self.filled..]) {
                Ok(0) => return Err(Error::Server("hung up on a consumer".into())),
                Ok(count) => self.filled += count,
                Err(error) if is_timeout(error.kind()) => return Ok(0),
                Err(error) => return Err(error).context("read deliveries"),
            }
        }
        let mut deliveries = 0;
        let mut last_tag = 0;
        let mut at = 0;
        loop {
            match scan::step(&self.buffer[at..self.filled])? {
                Step::More => break,
                Step::Delivery(delivery) => {
                    let stamp = self.checker.see(&delivery, self.body_size);
                    match self.stamps {
                        Stamps::Always(expected) if stamp != expected => self.checker.stray(),
                        Stamps::Always(_) => {}
                        Stamps::Any => on_stamp(stamp),
                    }
                    deliveries += 1;
                    last_tag = delivery.delivery_tag;
                    at += delivery.len;
                }
                Step::Confirm(confirm) => at += confirm.len,
                Step::Other { len } => at += len,
            }
        }
        self.buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
        self.unacked += deliveries;
        if self.unacked >= self.ack_every {
            self.unacked = 0;
            self.ack(last_tag)?;
        }
        Ok(deliveries)
    }

    fn ack(&mut self, delivery_tag: u64) -> Result<()> {
        let ack = BasicAck {
            delivery_tag,
            multiple: true,
        };
        let mut frame = Vec::with_capacity(32);
        encode_method(&mut frame, CHANNEL, &ack.into());
        self.stream.write_all(&frame).context("ack")
    }
}

/// All consuming connections of a run.
pub struct Receivers {
    list: Vec<Receiver>,
    /// Tells which of many has something; one alone is simply read.
    ready: Option<Readiness>,
    cut_off: bool,
}

impl Receivers {
    /// # Errors
    /// When they cannot be watched.
    pub fn new(list: Vec<Receiver>) -> Result<Self> {
        let ready = match list.len() {
            1 => None,
            _ => Some(Readiness::watch(list.iter().map(|one| &one.stream))?),
        };
        Ok(Self {
            list,
            ready,
            cut_off: false,
        })
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// What has not come yet is not waited for any longer: the server is slow.
    pub fn cut_off(&mut self) {
        self.cut_off = true;
    }

    /// # Errors
    /// When anything but exactly what was `sent` came, in order: a number for each connection.
    /// After [`cut_off`](Self::cut_off) the last messages may be missing.
    pub fn finish(&self, sent: impl IntoIterator<Item = u64>) -> Result<()> {
        for (receiver, sent) in self.list.iter().zip(sent) {
            if self.cut_off {
                receiver.checker.finish_early(sent)?;
            } else {
                receiver.checker.finish(sent)?;
            }
        }
        Ok(())
    }

    /// Waits a moment for deliveries and reads once from each connection that has some. Answers
    /// how many there were; stamps go to `on_stamp` unless they are checked here.
    pub fn receive(&mut self, mut on_stamp: impl FnMut(u64)) -> Result<u64> {
        let Some(ready) = &self.ready else {
            return self.list[0].receive(on_stamp);
        };
        let mut deliveries = 0;
        for index in ready.wait(PATIENCE)? {
            deliveries += self.list[index].receive(&mut on_stamp)?;
        }
        Ok(deliveries)
    }
}

/// What a read answers when its timeout has passed.
pub fn is_timeout(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

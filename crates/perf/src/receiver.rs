//! The consuming half of the client: reads from one or many connections in one thread.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    os::fd::OwnedFd,
    time::Duration,
};

use leveret_codec::{BasicAck, encode_method};
use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, EventData, EventFlags},
    },
};

use crate::{
    Error, Result,
    checker::Checker,
    client::CHANNEL,
    error::Context as _,
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

    /// # Errors
    /// When anything but exactly the `sent` messages came, in order.
    pub fn finish(&self, sent: u64) -> Result<()> {
        self.checker.finish(sent)
    }

    /// Reads once; answers the number of deliveries that were complete by then.
    fn receive(&mut self, mut on_stamp: impl FnMut(u64)) -> Result<u64> {
        let count = match self.stream.read(&mut self.buffer[self.filled..]) {
            Ok(0) => return Err(Error::Server("hung up on a consumer".into())),
            Ok(count) => count,
            Err(error) if is_timeout(error.kind()) => return Ok(0),
            Err(error) => return Err(error).context("read deliveries"),
        };
        self.filled += count;
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
    ready: Option<OwnedFd>,
}

impl Receivers {
    /// # Errors
    /// When they cannot be watched.
    pub fn new(list: Vec<Receiver>) -> Result<Self> {
        let ready = match list.len() {
            1 => None,
            _ => Some(watch(&list)?),
        };
        Ok(Self { list, ready })
    }

    pub fn list(&self) -> &[Receiver] {
        &self.list
    }

    /// Waits a moment for deliveries and reads once from each connection that has some. Answers
    /// how many there were; stamps go to `on_stamp` unless they are checked here.
    pub fn receive(&mut self, mut on_stamp: impl FnMut(u64)) -> Result<u64> {
        let Some(ready) = &self.ready else {
            return self.list[0].receive(on_stamp);
        };
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(PATIENCE.subsec_nanos()),
        };
        let mut events = Vec::with_capacity(self.list.len());
        match epoll::wait(ready, spare_capacity(&mut events), Some(&timeout)) {
            Ok(_count) => {}
            Err(rustix::io::Errno::INTR) => return Ok(0),
            Err(error) => return Err(error).context("wait for deliveries"),
        }
        let mut deliveries = 0;
        for event in &events {
            let index = event.data.u64() as usize; // ours, see watch()
            deliveries += self.list[index].receive(&mut on_stamp)?;
        }
        Ok(deliveries)
    }
}

fn watch(list: &[Receiver]) -> Result<OwnedFd> {
    let ready = epoll::create(epoll::CreateFlags::CLOEXEC).context("create an epoll instance")?;
    for (index, receiver) in (0..).zip(list) {
        let data = EventData::new_u64(index);
        epoll::add(&ready, &receiver.stream, data, EventFlags::IN).context("watch a socket")?;
    }
    Ok(ready)
}

/// What a read answers when its timeout has passed.
pub fn is_timeout(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

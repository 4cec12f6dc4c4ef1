//! Publishing connections with a window of unconfirmed publishes each, all in one thread.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use crate::{
    Error, Result,
    confirms::Tracker,
    error::Context as _,
    measure::{Timing, latency_histogram},
    pace::Pace,
    readiness::Readiness,
    receiver::is_timeout,
    scan::{self, Step},
    script::Script,
    throughput::{End, WRITE_TIMEOUT, over},
};

/// How long a read waits before we look whether to stop.
const PATIENCE: Duration = Duration::from_millis(50);

/// Bytes of confirms read at once at most.
const READ_BYTES: usize = 16 << 10;

/// What happens to a publish.
#[derive(Clone, Copy, Debug)]
pub struct Publishing {
    /// Publishes of each connection that may be unconfirmed.
    pub window: u64,
    /// Deliveries that each causes.
    pub copies: u64,
    /// Nobody consumes: a confirm is what counts as received.
    pub confirms_count: bool,
}

/// All publishing connections of a run; their channels must be in confirm mode.
pub struct Producers {
    list: Vec<Producer>,
    /// Tells which of many has confirms; one alone is simply read.
    ready: Option<Readiness>,
    publishing: Publishing,
    started: Instant,
    /// Time from publish to confirm, in nanoseconds, where the window is one publish.
    nanos: Histogram<u64>,
}

struct Producer {
    stream: TcpStream,
    script: Script,
    tracker: Tracker,
    buffer: Vec<u8>,
    filled: usize,
    written_at: Instant,
}

impl Producers {
    /// A script for each connection.
    ///
    /// # Errors
    /// When the sockets are unfit.
    pub fn new(
        streams: Vec<TcpStream>,
        scripts: Vec<Script>,
        publishing: Publishing,
    ) -> Result<Self> {
        let ready = match streams.len() {
            1 => None,
            _ => Some(Readiness::watch(&streams)?),
        };
        let list = streams.into_iter().zip(scripts);
        Ok(Self {
            list: list
                .map(|(stream, script)| Producer::new(stream, script))
                .collect::<Result<_>>()?,
            ready,
            publishing,
            started: Instant::now(),
            nanos: latency_histogram(),
        })
    }

    /// Messages sent by each.
    pub fn sent(&self) -> impl Iterator<Item = u64> {
        self.list.iter().map(|producer| producer.script.sent())
    }

    /// Publishes not confirmed yet, of all.
    pub fn unconfirmed(&self) -> u64 {
        let each = self.list.iter().map(|one| one.tracker.unconfirmed());
        each.sum()
    }

    /// How long confirms took, if that can be told: with windows of one publish.
    pub fn latency(&self) -> Option<&Histogram<u64>> {
        (self.publishing.window == 1).then_some(&self.nanos)
    }

    /// Publishes until told to stop, and returns once everything is confirmed, or when there is no
    /// time for that.
    ///
    /// # Errors
    /// When the server hangs up, refuses, or confirms wrongly or not at all.
    pub fn publish(&mut self, pace: &Pace, timing: Timing) -> Result<()> {
        self.started = Instant::now();
        for producer in &mut self.list {
            producer.refill(&self.publishing, pace)?;
        }
        let mut last_confirm = Instant::now();
        while self.unconfirmed() > 0 {
            if self.read(pace, timing.warm_up)? {
                last_confirm = Instant::now();
            }
            match over(last_confirm.elapsed(), pace.stopped_for(), timing) {
                None => {}
                Some(End::TooSlow) => break,
                Some(End::Silence) => {
                    let text = format!("{} publishes never confirmed", self.unconfirmed());
                    return Err(Error::Wrong(text));
                }
            }
        }
        Ok(())
    }

    /// Waits a moment for confirms, and publishes where that made room. Answers whether any came.
    fn read(&mut self, pace: &Pace, warm_up: Duration) -> Result<bool> {
        let Some(ready) = &self.ready else {
            return self.read_one(0, pace, warm_up);
        };
        let mut any = false;
        for index in ready.wait(PATIENCE)? {
            any |= self.read_one(index, pace, warm_up)?;
        }
        Ok(any)
    }

    fn read_one(&mut self, index: usize, pace: &Pace, warm_up: Duration) -> Result<bool> {
        let producer = &mut self.list[index];
        let confirmed = producer.read()?;
        if confirmed == 0 {
            return Ok(false);
        }
        if self.publishing.confirms_count {
            pace.add_received(confirmed);
        }
        if self.publishing.window == 1 && self.started.elapsed() >= warm_up {
            let nanos = producer.written_at.elapsed().as_nanos();
            self.nanos
                .saturating_record(u64::try_from(nanos).unwrap_or(u64::MAX));
        }
        producer.refill(&self.publishing, pace)?;
        Ok(true)
    }
}

impl Producer {
    fn new(stream: TcpStream, script: Script) -> Result<Self> {
        stream
            .set_read_timeout(Some(PATIENCE))
            .context("set a read timeout")?;
        stream
            .set_write_timeout(Some(WRITE_TIMEOUT))
            .context("set a write timeout")?;
        Ok(Self {
            stream,
            script,
            tracker: Tracker::default(),
            buffer: vec![0; READ_BYTES],
            filled: 0,
            written_at: Instant::now(),
        })
    }

    /// Publishes until the window is full, but only once a quarter of it is free, so that writes
    /// stay worth their while.
    fn refill(&mut self, publishing: &Publishing, pace: &Pace) -> Result<()> {
        let &Publishing { window, copies, .. } = publishing;
        let worth_it = (window / 4).max(1);
        loop {
            let free = window - self.tracker.unconfirmed();
            if free < worth_it {
                return Ok(());
            }
            let Some(room) = pace.wait_for_room() else {
                return Ok(());
            };
            let batch = self.script.take(free.min(room / copies));
            pace.add_sent(batch.count * copies);
            self.tracker.published(batch.count);
            self.written_at = Instant::now();
            self.stream.write_all(batch.bytes).context("publish")?;
        }
    }

    /// Reads once; answers how many publishes that confirmed.
    fn read(&mut self) -> Result<u64> {
        match self.stream.read(&mut self.buffer[self.filled..]) {
            Ok(0) => return Err(Error::Server("hung up on a publisher".into())),
            Ok(count) => self.filled += count,
            Err(error) if is_timeout(error.kind()) => return Ok(0),
            Err(error) => return Err(error).context("read confirms"),
        }
        let before = self.tracker.unconfirmed();
        let mut at = 0;
        loop {
            match scan::step(&self.buffer[at..self.filled])? {
                Step::More => break,
                Step::Confirm(confirm) => {
                    self.tracker.confirm(&confirm)?;
                    at += confirm.len;
                }
                Step::Other { len } => at += len,
                Step::Delivery(_) => {
                    return Err(Error::Server("delivered to a publisher".into()));
                }
            }
        }
        self.buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(before - self.tracker.unconfirmed())
    }
}

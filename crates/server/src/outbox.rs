//! What waits to be written to one connection, and the task that writes it.
//!
//! The machine's turns append whole batches; the writer takes all that is there, encodes it in
//! chunks and goes on until nothing is left. So a lock is taken, and the writer woken, once a
//! batch and never once a message. Encoding runs beside the turns, in parallel for all consumers.
//!
//! Deliveries are bounded by the core, which stops them until the writer reports octets as
//! drained; replies by the reader, which takes no more requests while too many wait here.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use leveret_core::{Input, Outbound};
use leveret_session::{Encoder, Wire};
use tokio::io::AsyncWrite;
use tokio::time::Sleep;

use crate::clock::Clock;
use crate::link::Link;
use crate::turnstile::lock;

/// Octets encoded before they are written: enough to make a system call cheap, and small enough
/// to stay in the cache.
const CHUNK_BYTES: usize = 128 * 1_024;

/// Slices handed to one `writev`.
const SLICES_MAX: usize = 64;

/// From this size on buffers are given back when their connection falls silent.
const BUFFER_KEPT_BYTES: usize = 8 * 1_024;

/// The same for the vectors of messages, in entries.
const BATCH_KEPT: usize = 128;

/// How long a connection must have nothing to write before large buffers are given back.
const IDLE: Duration = Duration::from_secs(1);

/// What waits to be written.
#[derive(Debug, Default)]
pub struct Outbox {
    state: Mutex<State>,
    /// What waiting replies hold in memory, those included that are being written.
    reply_bytes: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    queue: Vec<Outbound>,
    /// Nothing is added any more; the writer ends when all is written.
    finished: bool,
    /// Present while the writer sleeps.
    writer: Option<Waker>,
}

impl Outbox {
    /// Adds a batch and leaves an empty vector behind.
    pub fn append(&self, batch: &mut Vec<Outbound>) {
        let replies = batch.iter().map(reply_cost).sum();
        let writer = {
            let mut state = lock(&self.state);
            if state.finished {
                None
            } else {
                if replies > 0 {
                    self.reply_bytes.fetch_add(replies, Ordering::Relaxed);
                }
                if state.queue.is_empty() {
                    std::mem::swap(&mut state.queue, batch); // the vectors go round
                } else {
                    state.queue.append(batch);
                }
                state.writer.take()
            }
        };
        batch.clear();
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    /// Adds one thing.
    pub fn push(&self, outbound: Outbound) {
        self.append(&mut vec![outbound]);
    }

    /// Nothing more comes: the writer writes what is there, and ends.
    pub fn finish(&self) {
        let writer = {
            let mut state = lock(&self.state);
            state.finished = true;
            state.writer.take()
        };
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    /// What waiting replies hold in memory, in octets.
    #[must_use]
    pub fn reply_bytes(&self) -> usize {
        self.reply_bytes.load(Ordering::Relaxed)
    }

    /// Takes all there is into `batch`, which must be empty; false if nothing will ever come.
    fn poll_take(&self, cx: &Context<'_>, batch: &mut Vec<Outbound>) -> Poll<bool> {
        let mut state = lock(&self.state);
        if !state.queue.is_empty() {
            std::mem::swap(&mut state.queue, batch);
            return Poll::Ready(true);
        }
        if state.finished {
            return Poll::Ready(false);
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Takes all there is, as the writer would.
    #[cfg(test)]
    pub(crate) fn take_all(&self) -> Vec<Outbound> {
        std::mem::take(&mut lock(&self.state).queue)
    }

    /// Gives memory back.
    fn shrink(&self) {
        let mut state = lock(&self.state);
        if state.queue.is_empty() {
            state.queue = Vec::new();
        }
    }

    /// Replies were written; returns what still waits and what waited before.
    fn written(&self, reply_bytes: usize) -> (usize, usize) {
        let before = self.reply_bytes.fetch_sub(reply_bytes, Ordering::AcqRel);
        (before - reply_bytes, before)
    }
}

/// What counts against the reader: everything but deliveries, which the core bounds.
fn reply_cost(outbound: &Outbound) -> usize {
    match outbound {
        Outbound::Deliver { .. } => 0,
        other => other.memory_cost(),
    }
}

/// Tells the reader that the writer has ended, also if that was a panic: it would wait for ever.
struct Ending {
    link: Arc<Link>,
    error: Option<io::Error>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.link.outbox.finish();
        self.link.writer_ended(self.error.take());
    }
}

/// The task that writes what a connection's outbox holds.
#[derive(Debug)]
pub struct Writer<W> {
    link: Arc<Link>,
    socket: W,
    clock: Clock,
    encoder: Encoder,
    wire: Wire,
    batch: Vec<Outbound>,
    /// Deliveries written and not yet reported, and when to report them.
    drained: usize,
    report_bytes: usize,
    /// Replies encoded and not yet written.
    replies: usize,
    /// Buffers have grown since they were last given back.
    large: bool,
    patience: Patience,
}

/// How long the socket may take nothing.
#[derive(Debug)]
struct Patience {
    /// Zero is for ever.
    max: Duration,
    /// Runs while the socket takes nothing. A box, and only then, as most connections never need
    /// it.
    ends: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// Passes on what became of an attempt to write, but fails if none was successful for too long.
    fn limit<T>(
        &mut self,
        cx: &mut Context<'_>,
        attempt: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if attempt.is_ready() || self.max.is_zero() {
            self.ends = None;
            return attempt;
        }
        let max = self.max;
        let ends = self
            .ends
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(max)));
        ends.as_mut().poll(cx).map(|()| {
            let why =
                format!("the client took nothing of what waits for it in {max:?} (send_timeout)");
            Err(io::Error::new(io::ErrorKind::TimedOut, why))
        })
    }
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// A writer; `outbox_max` is what the core may have under way. If the socket takes nothing for
    /// `send_timeout` it ends with an error; zero is for ever.
    pub fn new(
        link: Arc<Link>,
        socket: W,
        clock: Clock,
        outbox_max: usize,
        send_timeout: Duration,
    ) -> Self {
        Self {
            encoder: Encoder::new(link.frame_max()),
            link,
            socket,
            clock,
            wire: Wire::default(),
            batch: Vec::new(),
            drained: 0,
            report_bytes: outbox_max / 4,
            replies: 0,
            large: false,
            patience: Patience {
                max: send_timeout,
                ends: None,
            },
        }
    }

    /// Writes until the outbox is finished, the peer was told goodbye, or the socket fails. Then
    /// the reader is told. The socket is left open.
    pub async fn run(mut self) -> W {
        let mut ending = Ending {
            link: Arc::clone(&self.link),
            error: None,
        };
        ending.error = self.write_all().await.err();
        self.socket
    }

    async fn write_all(&mut self) -> io::Result<()> {
        while self.take().await {
            self.encoder.set_frame_max(self.link.frame_max());
            let mut batch = std::mem::take(&mut self.batch);
            self.large |= batch.capacity() > BATCH_KEPT;
            for outbound in batch.drain(..) {
                match &outbound {
                    Outbound::Deliver { .. } => self.drained += outbound.delivery_cost(),
                    other => self.replies += other.memory_cost(),
                }
                self.encoder.encode(outbound, &mut self.wire);
                if self.wire.len() >= CHUNK_BYTES {
                    self.flush().await?;
                }
            }
            self.batch = batch;
            self.flush().await?;
            let Self {
                socket, patience, ..
            } = self;
            // TLS holds back what does not fill a record.
            poll_fn(|cx| {
                let attempt = Pin::new(&mut *socket).poll_flush(cx);
                patience.limit(cx, attempt)
            })
            .await?;
            if self.wire.close_after() {
                break;
            }
        }
        Ok(())
    }

    /// Waits for something to write; false if there will never be anything.
    async fn take(&mut self) -> bool {
        let Self { link, batch, .. } = self;
        let mut taking = poll_fn(|cx| link.outbox.poll_take(cx, batch));
        if !self.large {
            return taking.await;
        }
        if let Ok(taken) = tokio::time::timeout(IDLE, &mut taking).await {
            return taken;
        }
        self.large = false;
        self.wire.release();
        self.batch = Vec::new();
        self.link.outbox.shrink();
        poll_fn(|cx| self.link.outbox.poll_take(cx, &mut self.batch)).await
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.large |= self.wire.len() > BUFFER_KEPT_BYTES;
        while !self.wire.is_empty() {
            let Self {
                socket,
                wire,
                patience,
                ..
            } = self;
            // The slices live inside the closure: held across the wait they would be a kilobyte of
            // every connection's memory.
            let written = poll_fn(|cx| {
                let attempt = if socket.is_write_vectored() {
                    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                    let count = wire.io_slices(&mut slices);
                    Pin::new(&mut *socket).poll_write_vectored(cx, &slices[..count])
                } else {
                    Pin::new(&mut *socket).poll_write(cx, wire.first())
                };
                patience.limit(cx, attempt)
            })
            .await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.wire.advance(written);
        }
        self.report();
        Ok(())
    }

    /// Tells the core and the reader what has left.
    fn report(&mut self) {
        self.link.note_sent(self.clock.mono());
        if self.replies > 0 {
            let (now, before) = self.link.outbox.written(std::mem::take(&mut self.replies));
            self.link.replies_written(now, before);
        }
        if self.drained >= self.report_bytes
            && let Some(seat) = self.link.seat()
        {
            let drained = std::mem::take(&mut self.drained);
            seat.shard.submit(Input::Drained(seat.id, drained));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};
    use tokio::task::JoinHandle;
    use tokio::time::{Instant, advance};

    use super::*;
    use crate::link::Signals;

    const TIMEOUT: Duration = Duration::from_secs(15);

    /// A writer with more to write than its peer's 64 octets of room.
    fn writing(send_timeout: Duration) -> (Arc<Link>, DuplexStream, JoinHandle<DuplexStream>) {
        let peer = "127.0.0.1:1".parse().unwrap();
        let link = Arc::new(Link::new(1, peer, 131_072, 1 << 20));
        let (socket, other_end) = duplex(64);
        for _ in 0..100 {
            link.outbox.push(Outbound::Heartbeat);
        }
        let (clock, to) = (Clock::start(), Arc::clone(&link));
        let writer = Writer::new(to, socket, clock, 1 << 20, send_timeout);
        (link, other_end, tokio::spawn(writer.run()))
    }

    // The clock of these tests goes forward by itself when nothing else is left to be done.

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_given_up() {
        let start = Instant::now();
        let (link, _other_end, writer) = writing(TIMEOUT);
        writer.await.unwrap();
        assert!(link.signals().has(Signals::WRITER_ENDED));
        assert_eq!(
            link.write_error().map(ToString::to_string).unwrap(),
            "the client took nothing of what waits for it in 15s (send_timeout)"
        );
        let waited = start.elapsed();
        assert!(waited >= TIMEOUT && waited < 2 * TIMEOUT, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_little_is_not() {
        let (link, mut other_end, writer) = writing(TIMEOUT);
        let mut octets = [0; 8]; // of 800
        for _ in 0..50 {
            tokio::task::yield_now().await; // so that the writer waits
            advance(TIMEOUT - Duration::from_secs(1)).await;
            other_end.read_exact(&mut octets).await.unwrap();
        }
        assert!(!link.signals().has(Signals::WRITER_ENDED));
        let mut rest = vec![0; 400];
        other_end.read_exact(&mut rest).await.unwrap();
        link.outbox.finish();
        writer.await.unwrap();
        assert!(link.write_error().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn patience_without_end() {
        let (link, mut other_end, writer) = writing(Duration::ZERO);
        tokio::task::yield_now().await;
        advance(Duration::from_secs(1_000_000)).await;
        let mut all = vec![0; 800];
        other_end.read_exact(&mut all).await.unwrap();
        link.outbox.finish();
        writer.await.unwrap();
        assert!(link.write_error().is_none());
    }
}

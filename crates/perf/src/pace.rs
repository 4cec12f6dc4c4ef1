//! Keeps a publisher from running ahead of the consumers in the same process.
//!
//! Without this, queues grow and every broker is measured while it falls behind. The limit bounds
//! what is on its way, in deliveries, and thereby the memory of broker and sockets.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

/// Deliveries on their way at most, unless they are large.
const DELIVERIES_MAX: u64 = 100_000;

/// And their bodies' bytes.
const BYTES_MAX: u64 = 32 << 20;

/// How long a publisher sleeps at most before it looks whether it should stop.
const NAP: Duration = Duration::from_millis(10);

/// Shared by the publishing thread, the consuming thread and whoever takes the time.
pub struct Pace {
    limit: u64,
    /// All that may be sent, ever.
    total: u64,
    sent: AtomicU64,
    received: AtomicU64,
    /// The value of `received` that the publisher sleeps for.
    wake_at: AtomicU64,
    publisher: OnceLock<Thread>,
    stop: AtomicBool,
    /// When it was told to stop; for good, the first time counts.
    stopped_at: OnceLock<Instant>,
    done: AtomicBool,
}

impl Pace {
    /// For bodies of this size, each going to `copies` queues.
    pub fn new(body_size: usize, copies: u64) -> Self {
        Self::with_total(body_size, copies, u64::MAX)
    }

    /// The same for a publisher that is done after `total` deliveries.
    pub fn with_total(body_size: usize, copies: u64, total: u64) -> Self {
        let by_size = BYTES_MAX / body_size.max(1) as u64;
        Self {
            limit: DELIVERIES_MAX.min(by_size).max(4 * copies),
            total,
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            wake_at: AtomicU64::new(u64::MAX),
            publisher: OnceLock::new(),
            stop: AtomicBool::new(false),
            stopped_at: OnceLock::new(),
            done: AtomicBool::new(false),
        }
    }

    /// Publisher: waits while too much is on its way. Answers how many deliveries may be caused
    /// now, or `None` when it is time to stop.
    pub fn wait_for_room(&self) -> Option<u64> {
        self.publisher.get_or_init(thread::current);
        let sent = self.sent.load(Ordering::Relaxed);
        loop {
            if self.is_stopped() || sent >= self.total {
                return None;
            }
            let on_its_way = sent.saturating_sub(self.received.load(Ordering::Acquire));
            if on_its_way < self.limit {
                return Some((self.limit - on_its_way).min(self.total - sent));
            }
            // Sleep until there is room for a good piece: waking up for each message would cost
            // more than sending it.
            let wake_at = sent - self.limit * 3 / 4;
            self.wake_at.store(wake_at, Ordering::SeqCst);
            if self.received.load(Ordering::SeqCst) < wake_at {
                thread::park_timeout(NAP);
            }
        }
    }

    /// Publisher: this many deliveries are on their way.
    pub fn add_sent(&self, deliveries: u64) {
        self.sent.fetch_add(deliveries, Ordering::Release);
    }

    /// Consumer: this many have arrived.
    #[inline]
    pub fn add_received(&self, deliveries: u64) {
        let received = self.received.fetch_add(deliveries, Ordering::SeqCst) + deliveries;
        if received >= self.wake_at.load(Ordering::SeqCst) {
            self.wake_at.store(u64::MAX, Ordering::SeqCst);
            self.wake();
        }
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Acquire)
    }

    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Acquire)
    }

    /// Ends publishing. Consumers go on until everything has arrived, or they have had enough.
    pub fn stop(&self) {
        self.stopped_at.get_or_init(Instant::now);
        self.stop.store(true, Ordering::Release);
        self.wake();
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// How long ago it was told to stop, if it was.
    pub fn stopped_for(&self) -> Option<Duration> {
        self.stopped_at.get().map(Instant::elapsed)
    }

    /// Publisher: nothing more will be sent, now or ever.
    pub fn finish(&self) {
        self.done.store(true, Ordering::Release);
    }

    /// Consumer: whether all that was sent has arrived, and no more will be sent.
    pub fn is_complete(&self) -> bool {
        self.is_finished() && self.received() >= self.sent()
    }

    /// Whether no more will be sent.
    pub fn is_finished(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    fn wake(&self) {
        if let Some(publisher) = self.publisher.get() {
            publisher.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn limit_is_in_deliveries_and_bytes() {
        #[rustfmt::skip]
        let table = [
            // body size  copies  limit    why this row is here
            (16,          1,      100_000, "small: counted"),
            (65_536,      1,      512,     "large: 32 MiB of them"),
            (65_536,      1_000,  4_000,   "never less than a few publishes"),
        ];
        for (body_size, copies, limit, why) in table {
            let pace = Pace::new(body_size, copies);
            assert_eq!(pace.wait_for_room(), Some(limit), "{why}");
        }
    }

    #[test]
    fn publisher_waits_for_consumers() {
        let pace = Arc::new(Pace::new(16, 1));
        pace.add_sent(100_000);
        let publisher = thread::spawn({
            let pace = Arc::clone(&pace);
            move || pace.wait_for_room()
        });
        pace.add_received(10_000);
        assert!(!pace.is_complete());
        pace.add_received(60_000);
        let room = publisher.join().unwrap();
        assert!(matches!(room, Some(10_000 | 70_000)), "{room:?}");
    }

    #[test]
    fn a_server_that_duplicates_does_not_upset_the_publisher() {
        let pace = Pace::new(16, 1);
        pace.add_sent(1);
        pace.add_received(2);
        assert_eq!(
            pace.wait_for_room(),
            Some(100_000),
            "the checkers will tell"
        );
    }

    #[test]
    fn stop_wakes_the_publisher() {
        let pace = Arc::new(Pace::new(16, 1));
        pace.add_sent(100_000);
        let publisher = thread::spawn({
            let pace = Arc::clone(&pace);
            move || pace.wait_for_room()
        });
        pace.stop();
        assert_eq!(publisher.join().unwrap(), None);
    }

    #[test]
    fn nothing_is_sent_beyond_the_total() {
        let pace = Pace::with_total(16, 1, 150_000);
        assert_eq!(pace.wait_for_room(), Some(100_000), "the limit");
        pace.add_sent(100_000);
        pace.add_received(100_000);
        assert_eq!(
            pace.wait_for_room(),
            Some(50_000),
            "what is left of the total"
        );
        pace.add_sent(50_000);
        assert_eq!(pace.wait_for_room(), None, "all sent");
    }

    #[test]
    fn complete_means_finished_and_arrived() {
        let pace = Pace::new(16, 1);
        pace.add_sent(2);
        pace.add_received(2);
        assert!(!pace.is_complete(), "more may be sent");
        pace.finish();
        assert!(pace.is_complete());
    }
}

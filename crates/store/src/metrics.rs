//! What the log counts, for the server to show.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::log::Counts;

/// Counters of a [`Store`](crate::Store). Any thread may read them at any time.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Times something was made safe.
    pub syncs: AtomicU64,
    /// Records that were taken.
    pub records: AtomicU64,
    /// Octets written, all told.
    pub bytes_written: AtomicU64,
    /// Octets of them that were copied to free segments.
    pub bytes_moved: AtomicU64,
    /// Messages that were not written, because they came and went in one batch.
    pub left_out: AtomicU64,
    /// Segments there are.
    pub segments: AtomicU64,
    /// Files that wait to be used.
    pub spares: AtomicU64,
    /// 1 while there is hardly room.
    pub full: AtomicU64,
    /// Milliseconds that opening the log took.
    pub recovery_ms: AtomicU64,
    /// Messages that were found then.
    pub recovered_messages: AtomicU64,
    /// Octets that were cut off its end then.
    pub cut_bytes: AtomicU64,
    /// Messages in the swap area.
    pub swap_messages: AtomicU64,
    /// Octets of its files.
    pub swap_bytes: AtomicU64,
    /// Messages that were written to it.
    pub swapped: AtomicU64,
    /// Times that something could not be written to it.
    pub swaps_failed: AtomicU64,
}

impl Metrics {
    pub(crate) fn opened(&self, took: Duration, messages: u64, cut_bytes: u64) {
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.recovery_ms.store(took, Relaxed);
        self.recovered_messages.store(messages, Relaxed);
        self.cut_bytes.store(cut_bytes, Relaxed);
    }

    pub(crate) fn counted(&self, counts: &Counts) {
        self.syncs.store(counts.syncs, Relaxed);
        self.bytes_written.store(counts.bytes_written, Relaxed);
        self.bytes_moved.store(counts.bytes_moved, Relaxed);
        self.left_out.store(counts.left_out, Relaxed);
        self.segments.store(counts.segments, Relaxed);
        self.spares.store(counts.spares, Relaxed);
    }
}

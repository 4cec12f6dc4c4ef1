//! What the vhost publishes by itself while the log is behind: no client can be stopped for it, so
//! it stops itself.

use std::collections::VecDeque;

use crate::ids::Lsn;

/// Octets that may be on their way to the log before no more is published.
const BYTES_MAX: usize = 16 << 20;

/// Messages of schedules, and delayed ones that were due, whose records are not safe yet.
#[derive(Debug, Default)]
pub(crate) struct OwnPublishes {
    waiting: VecDeque<(Lsn, usize)>,
    bytes: usize,
}

impl OwnPublishes {
    /// A message was published, in this record; of what is safe nothing is kept.
    pub(crate) fn add(&mut self, record: Lsn, durable: Lsn, bytes: usize) {
        if record > durable {
            self.waiting.push_back((record, bytes));
            self.bytes += bytes;
        }
    }

    /// The log has come this far.
    pub(crate) fn safe(&mut self, durable: Lsn) {
        while let Some(&(record, bytes)) = self.waiting.front()
            && record <= durable
        {
            self.waiting.pop_front();
            self.bytes -= bytes;
        }
    }

    /// Whether the log is to catch up first.
    pub(crate) fn is_too_much(&self) -> bool {
        self.bytes > BYTES_MAX
    }
}

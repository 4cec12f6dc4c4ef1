//! Publisher confirms of one channel: which publishes were promised, and when that is due.
//!
//! Confirms leave in the order of the publishes, as one `basic.ack` with `multiple` a turn. A
//! transient publish that follows persistent ones waits for them: cheaper for both sides than
//! confirming around them.

use std::collections::VecDeque;

use crate::ids::Lsn;

#[derive(Debug, Default)]
pub(crate) struct Confirms {
    /// Number of the last publish.
    last: u64,
    /// All up to this one have been confirmed.
    confirmed: u64,
    /// Runs of publishes that wait for a record: last number of the run, and the record.
    waiting: VecDeque<(u64, Lsn)>,
}

impl Confirms {
    /// Counts a publish that is safe once the record `due` is.
    pub(crate) fn publish(&mut self, due: Lsn, durable: Lsn) {
        self.last += 1;
        match self.waiting.back_mut() {
            // Nothing it would have to wait for beyond what its predecessor waits for.
            Some((last, lsn)) if due <= *lsn => *last = self.last,
            None if due <= durable => {}
            _ => self.waiting.push_back((self.last, due)),
        }
    }

    /// The number to confirm everything up to, if anything is newly due; and how many that are.
    pub(crate) fn take_due(&mut self, durable: Lsn) -> Option<(u64, u64)> {
        let mut due = None;
        while let Some(&(last, lsn)) = self.waiting.front() {
            if lsn > durable {
                break;
            }
            due = Some(last);
            self.waiting.pop_front();
        }
        if self.waiting.is_empty() {
            due = Some(self.last);
        }
        let due = due.filter(|&due| due > self.confirmed)?;
        let count = due - self.confirmed;
        self.confirmed = due;
        Some((due, count))
    }

    /// Whether something waits for the log.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirms_follow_the_log_in_order() {
        let mut confirms = Confirms::default();
        confirms.publish(Lsn(0), Lsn(0)); // transient: due at once
        assert_eq!(confirms.take_due(Lsn(0)), Some((1, 1)));
        assert_eq!(
            confirms.take_due(Lsn(0)),
            None,
            "nothing is confirmed twice"
        );
        confirms.publish(Lsn(1), Lsn(0));
        confirms.publish(Lsn(0), Lsn(0)); // waits for the one before it
        confirms.publish(Lsn(2), Lsn(0));
        assert_eq!(confirms.take_due(Lsn(0)), None);
        assert_eq!(confirms.take_due(Lsn(1)), Some((3, 2)));
        assert!(confirms.is_waiting());
        assert_eq!(confirms.take_due(Lsn(2)), Some((4, 1)));
        assert!(!confirms.is_waiting());
    }
}

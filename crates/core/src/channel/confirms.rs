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
    /// Publishes that were refused, and are not to be confirmed with those around them.
    refused: VecDeque<u64>,
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

    /// Counts a publish that is refused. Returns its number.
    pub(crate) fn reject(&mut self) -> u64 {
        self.last += 1;
        if let Some((last, _)) = self.waiting.back_mut() {
            *last = self.last;
        }
        if self.confirmed + 1 == self.last {
            self.confirmed = self.last; // nothing before it that is still to be confirmed
        } else {
            self.refused.push_back(self.last);
        }
        self.last
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
        let mut due = due.filter(|&due| due > self.confirmed)?;
        let mut count = due - self.confirmed;
        self.confirmed = due;
        let refused = self.refused.partition_point(|&number| number <= due);
        for number in self.refused.drain(..refused).rev() {
            count -= 1;
            // The last one to be confirmed is none that was refused.
            due -= u64::from(number == due);
        }
        (count > 0).then_some((due, count))
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
    fn what_is_refused_leaves_nothing_behind() {
        let mut confirms = Confirms::default();
        for number in 1..=1_000 {
            assert_eq!(confirms.reject(), number);
        }
        assert!(confirms.refused.is_empty());
        assert_eq!(confirms.take_due(Lsn(0)), None);
        confirms.publish(Lsn(1), Lsn(0));
        assert_eq!(confirms.reject(), 1_002);
        assert_eq!(confirms.take_due(Lsn(1)), Some((1_001, 1)));
        assert!(confirms.refused.is_empty());
    }

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

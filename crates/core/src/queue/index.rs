//! What waits in one queue, in order.
//!
//! Two parts, each in order of [`Seq`]: `returned` (delivered before and put back) and `fresh`
//! (never delivered). Messages leave from the front only, so whatever was delivered is older than
//! everything in `fresh`: taking `returned` first *is* taking the oldest first, and a message that
//! comes back never has to be searched a place among the fresh ones.
//!
//! Invariants, asserted by [`Index::check`]:
//! - `fresh` ascends strictly;
//! - the last of `returned` is older than the first of `fresh`.

use std::collections::{BTreeMap, VecDeque};

use crate::ids::Seq;
use crate::message::Message;

/// A waiting message: 32 B.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) message: Message,
    pub(crate) seq: Seq,
    /// Times it was delivered before.
    pub(crate) deliveries: u32,
}

const _: () = assert!(
    size_of::<Entry>() <= 32,
    "the index costs at most 32 B a message"
);

/// Capacity below which an emptied run is not worth giving back.
const KEPT_CAPACITY: usize = 1_024;

/// A merge touches everything that was returned, so it is for batches of at least one in this many.
const MERGE_FROM: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Index {
    returned: BTreeMap<Seq, Entry>,
    fresh: VecDeque<Entry>,
    bytes: usize,
}

impl Index {
    pub(crate) fn len(&self) -> usize {
        self.returned.len() + self.fresh.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.returned.is_empty()
    }

    /// Memory held by the messages, in octets.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds the newest message.
    pub(crate) fn push(&mut self, entry: Entry) {
        self.bytes += entry.message.memory_bytes();
        self.fresh.push_back(entry);
    }

    pub(crate) fn front(&self) -> Option<&Entry> {
        let returned = self.returned.first_key_value().map(|(_, entry)| entry);
        returned.or_else(|| self.fresh.front())
    }

    /// Takes the oldest message.
    pub(crate) fn pop(&mut self) -> Option<Entry> {
        let entry = if let Some((_, entry)) = self.returned.pop_first() {
            entry
        } else {
            let entry = self.fresh.pop_front()?;
            shrink(&mut self.fresh);
            entry
        };
        self.bytes -= entry.message.memory_bytes();
        Some(entry)
    }

    /// Puts one message back where it was, in logarithmic time wherever that is.
    pub(crate) fn put_back(&mut self, entry: Entry) {
        self.bytes += entry.message.memory_bytes();
        self.returned.insert(entry.seq, entry);
    }

    /// Puts many messages back where they were, `entries` ascending by `seq`: one merge, unless
    /// they are few beside those that are there.
    pub(crate) fn put_all_back(&mut self, entries: Vec<Entry>) {
        if entries.len() < self.returned.len() / MERGE_FROM {
            for entry in entries {
                self.put_back(entry);
            }
            return;
        }
        self.bytes += entries
            .iter()
            .map(|entry| entry.message.memory_bytes())
            .sum::<usize>();
        let mut entries = entries
            .into_iter()
            .map(|entry| (entry.seq, entry))
            .collect();
        self.returned.append(&mut entries);
    }

    /// Empties the index; dropping the result is the expensive part, and may be done elsewhere.
    pub(crate) fn take_all(&mut self) -> Vec<Message> {
        self.bytes = 0;
        let returned = std::mem::take(&mut self.returned);
        let fresh = std::mem::take(&mut self.fresh);
        returned
            .into_values()
            .chain(fresh)
            .map(|entry| entry.message)
            .collect()
    }

    /// The places of all messages, as runs from first to last.
    pub(crate) fn places(&self) -> Vec<(Seq, Seq)> {
        let mut runs: Vec<(Seq, Seq)> = Vec::new();
        for seq in self.seqs() {
            match runs.last_mut() {
                Some((_, last)) if last.0 + 1 == seq.0 => *last = seq,
                _ => runs.push((seq, seq)),
            }
        }
        runs
    }

    /// The places of all messages, in order.
    pub(crate) fn seqs(&self) -> impl Iterator<Item = Seq> {
        let returned = self.returned.keys().copied();
        returned.chain(self.fresh.iter().map(|entry| entry.seq))
    }

    /// Asserts the invariants in the header of this file.
    pub(crate) fn check(&self) {
        assert!(self.returned.iter().all(|(seq, entry)| *seq == entry.seq));
        assert!(self.fresh.iter().map(|e| e.seq).is_sorted_by(|a, b| a < b));
        if let (Some((returned, _)), Some(fresh)) =
            (self.returned.last_key_value(), self.fresh.front())
        {
            assert!(*returned < fresh.seq);
        }
        let entries = self.returned.values().chain(&self.fresh);
        let bytes: usize = entries.map(|e| e.message.memory_bytes()).sum();
        assert_eq!(bytes, self.bytes);
    }
}

/// Gives memory back when most of it is unused. Halving at a quarter keeps this O(1) amortised.
fn shrink(run: &mut VecDeque<Entry>) {
    if run.capacity() > KEPT_CAPACITY && run.len() < run.capacity() / 4 {
        run.shrink_to(run.capacity() / 2);
    }
}

#[cfg(test)]
mod tests {
    use leveret_codec::ContentHeader;
    use proptest::prelude::*;

    use super::*;

    fn entry(seq: u64) -> Entry {
        let header = ContentHeader {
            class_id: 60,
            body_size: 1,
            flags: 0,
            raw: &[],
            summary: leveret_codec::PropertySummary::default(),
        };
        let message = Message::build(&mut Vec::new(), "", "q", &header, b"x");
        Entry {
            message,
            seq: Seq(seq),
            deliveries: 0,
        }
    }

    #[test]
    fn memory_of_a_drained_queue_comes_back() {
        let mut index = Index::default();
        for seq in 1..=100_000 {
            index.push(entry(seq));
        }
        while index.pop().is_some() {}
        assert!(index.fresh.capacity() <= 2 * KEPT_CAPACITY);
        assert_eq!(index.bytes(), 0);
    }

    proptest! {
        /// Whatever is taken and put back in whatever portions, the oldest comes out first.
        #[test]
        fn order_survives_any_requeue(moves in prop::collection::vec((0u8..4, 1usize..20), 1..80)) {
            let mut index = Index::default();
            let mut out: Vec<Entry> = Vec::new();
            let mut waiting = std::collections::BTreeSet::new();
            let mut next = 1;
            for (what, count) in moves {
                match what {
                    0 => for _ in 0..count {
                        index.push(entry(next));
                        waiting.insert(next);
                        next += 1;
                    },
                    1 => for _ in 0..count {
                        let Some(entry) = index.pop() else { break };
                        prop_assert_eq!(Some(entry.seq.0), waiting.pop_first());
                        out.push(entry);
                    },
                    2 => if !out.is_empty() {
                        let entry = out.remove(count % out.len());
                        waiting.insert(entry.seq.0);
                        index.put_back(entry);
                    },
                    _ => {
                        let mut back: Vec<Entry> = out.drain(..count.min(out.len())).collect();
                        back.sort_by_key(|e| e.seq);
                        waiting.extend(back.iter().map(|e| e.seq.0));
                        index.put_all_back(back);
                    }
                }
                index.check();
                prop_assert_eq!(index.len(), waiting.len());
            }
        }
    }
}

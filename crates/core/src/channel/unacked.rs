//! Deliveries a channel has not settled, in order of their tags.
//!
//! Tags only grow, so this is a run. Most settles take from its front; one from the middle leaves a
//! gap behind that is closed when it gets to the front, or when gaps are most of the run.

use std::collections::VecDeque;

use crate::ids::{ConsumerKey, Mono, QueueId};
use crate::queue::index::Entry;

/// A delivery waiting for its ack.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) queue: QueueId,
    /// None when it was fetched with `basic.get`.
    pub(crate) consumer: Option<ConsumerKey>,
    pub(crate) entry: Entry,
    /// When it was delivered.
    pub(crate) at: Mono,
}

#[derive(Debug, Default)]
pub(crate) struct Unacked {
    run: VecDeque<(u64, Option<Delivery>)>,
    gaps: usize,
}

/// Gaps are not worth closing below this length.
const CLOSE_GAPS_FROM: usize = 64;

impl Unacked {
    pub(crate) fn len(&self) -> usize {
        self.run.len() - self.gaps
    }

    /// Adds the newest delivery.
    pub(crate) fn push(&mut self, tag: u64, delivery: Delivery) {
        self.run.push_back((tag, Some(delivery)));
    }

    pub(crate) fn contains(&self, tag: u64) -> bool {
        self.find(tag).is_some()
    }

    /// Takes one delivery out; None if the tag is unknown or settled.
    pub(crate) fn take(&mut self, tag: u64) -> Option<Delivery> {
        let at = self.find(tag)?;
        let delivery = self.run[at].1.take()?;
        self.gaps += 1;
        self.close_gaps();
        Some(delivery)
    }

    /// Takes out every delivery up to a tag, oldest first.
    pub(crate) fn take_through(&mut self, tag: u64) -> Vec<(u64, Delivery)> {
        let end = self.run.partition_point(|&(t, _)| t <= tag);
        let taken: Vec<_> = self
            .run
            .drain(..end)
            .filter_map(|(tag, d)| Some((tag, d?)))
            .collect();
        self.gaps -= end - taken.len();
        self.close_gaps();
        taken
    }

    /// Takes out everything, oldest first.
    pub(crate) fn take_all(&mut self) -> Vec<(u64, Delivery)> {
        self.take_through(u64::MAX)
    }

    /// Puts deliveries back that were taken out before (a rolled-back transaction).
    pub(crate) fn put_back(&mut self, deliveries: impl IntoIterator<Item = (u64, Delivery)>) {
        let mut back: Vec<_> = deliveries.into_iter().collect();
        back.sort_by_key(|&(tag, _)| tag);
        // Newest first: the gap it left is still there, or it comes before all others.
        while let Some((tag, delivery)) = back.pop() {
            match self.run.binary_search_by_key(&tag, |&(t, _)| t) {
                Ok(at) => {
                    self.run[at].1 = Some(delivery);
                    self.gaps -= 1;
                }
                Err(0) => self.run.push_front((tag, Some(delivery))),
                Err(_) => {
                    // Gaps were closed meanwhile. Once for very many settles, so it may cost.
                    back.push((tag, delivery));
                    self.merge(back);
                    return;
                }
            }
        }
    }

    /// Puts deliveries, oldest first, among those that are here.
    fn merge(&mut self, back: Vec<(u64, Delivery)>) {
        let mut run: Vec<_> = back.into_iter().map(|(tag, d)| (tag, Some(d))).collect();
        run.extend(
            self.run
                .drain(..)
                .filter(|(_, delivery)| delivery.is_some()),
        );
        run.sort_by_key(|&(tag, _)| tag);
        self.run = run.into();
        self.gaps = 0;
    }

    /// Every delivery, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Delivery> {
        self.run
            .iter()
            .filter_map(|(_, delivery)| delivery.as_ref())
    }

    fn find(&self, tag: u64) -> Option<usize> {
        let first = self.run.front()?.0;
        // Without closed gaps in between, the tag is its own index.
        let guess = usize::try_from(tag.checked_sub(first)?).ok()?;
        let at = match self.run.get(guess) {
            Some(&(found, _)) if found == tag => guess,
            _ => self.run.binary_search_by_key(&tag, |&(t, _)| t).ok()?,
        };
        self.run[at].1.is_some().then_some(at)
    }

    fn close_gaps(&mut self) {
        while matches!(self.run.front(), Some((_, None))) {
            self.run.pop_front();
            self.gaps -= 1;
        }
        if self.gaps > CLOSE_GAPS_FROM && self.gaps > self.run.len() / 2 {
            self.run.retain(|(_, delivery)| delivery.is_some());
            self.gaps = 0;
        }
        if self.run.is_empty() && self.run.capacity() > 1_024 {
            self.run.shrink_to(256);
        }
    }
}

#[cfg(test)]
mod tests {
    use leveret_codec::{ContentHeader, PropertySummary};

    use super::*;
    use crate::ids::Seq;
    use crate::message::Message;

    fn delivery(n: u64) -> Delivery {
        let header = ContentHeader {
            class_id: 60,
            body_size: 0,
            flags: 0,
            raw: &[],
            summary: PropertySummary::default(),
        };
        let message = Message::build(&mut Vec::new(), "", "q", &header, b"");
        Delivery {
            queue: QueueId::default(),
            consumer: None,
            entry: Entry {
                message,
                seq: Seq(n),
                deliveries: 1,
                failures: 0,
            },
            at: Mono(0),
        }
    }

    fn filled(n: u64) -> Unacked {
        let mut unacked = Unacked::default();
        (1..=n).for_each(|tag| unacked.push(tag, delivery(tag)));
        unacked
    }

    #[test]
    fn tags_are_found_whatever_was_settled_before() {
        let mut unacked = filled(1_000);
        for tag in (1..=1_000).filter(|tag| tag % 3 != 0) {
            assert_eq!(unacked.take(tag).map(|d| d.entry.seq), Some(Seq(tag)));
            assert!(unacked.take(tag).is_none(), "a tag is settled once");
        }
        assert_eq!(unacked.len(), 333);
        assert!(unacked.contains(999));
        assert!(!unacked.contains(1_001));
        assert_eq!(unacked.take_through(500).len(), 166);
        assert_eq!(unacked.take_all().len(), 167);
        assert_eq!(unacked.len(), 0);
    }

    #[test]
    fn one_delivery_held_for_ever_does_not_keep_the_rest() {
        let mut unacked = filled(1);
        for tag in 2..100_000 {
            unacked.push(tag, delivery(tag));
            unacked.take(tag);
        }
        assert!(
            unacked.run.len() < 200,
            "{} places for one delivery",
            unacked.run.len()
        );
    }

    #[test]
    fn a_rollback_restores_the_order() {
        let mut unacked = filled(10);
        let taken = vec![(3, unacked.take(3).unwrap()), (1, unacked.take(1).unwrap())];
        unacked.put_back(taken);
        let tags: Vec<u64> = unacked.take_all().into_iter().map(|(tag, _)| tag).collect();
        assert_eq!(tags, (1..=10).collect::<Vec<_>>());
    }
}

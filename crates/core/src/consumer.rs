//! Consumers, and whose turn it is.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::ids::{ChannelKey, ConsumerKey, QueueId};

/// One `basic.consume` that has not been cancelled.
#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) tag: Arc<str>,
    /// What its connection's writer knows it by.
    pub(crate) number: u32,
    pub(crate) channel: ChannelKey,
    pub(crate) queue: QueueId,
    pub(crate) no_ack: bool,
    /// Higher ones are served first; default 0 (argument `x-priority`).
    pub(crate) priority: i32,
    /// Deliveries it may hold unsettled; 0 is no limit. Fixed when it starts, as in RabbitMQ.
    pub(crate) prefetch: u32,
    pub(crate) unacked: u32,
    pub(crate) standing: Standing,
}

/// Where a consumer stands. One that could not take a message is left out of its queue's ring until
/// something changes for it; in which list it waits meanwhile says what that is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Standing {
    /// In its queue's ring.
    Ring,
    /// Nowhere: its own prefetch is used up.
    Blocked,
    /// In `Channel::held`: the prefetch it shares with others is used up.
    Held,
    /// In `Connection::starved`: the outbox has no room.
    Starved,
}

impl Consumer {
    /// Whether its own prefetch lets it take one more.
    pub(crate) fn below_prefetch(&self) -> bool {
        self.no_ack || self.prefetch == 0 || self.unacked < self.prefetch
    }
}

/// The consumers of one queue that may be able to take a message: highest priority first, and
/// among equals in turn.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    /// None empty. A map, because a client may give each of its consumers a priority of its own.
    levels: BTreeMap<Reverse<i32>, VecDeque<ConsumerKey>>,
}

impl Ring {
    /// Whose turn it is.
    pub(crate) fn first(&self) -> Option<ConsumerKey> {
        let (_, level) = self.levels.first_key_value()?;
        level.front().copied()
    }

    /// Adds a consumer behind all others of its priority.
    pub(crate) fn push(&mut self, priority: i32, consumer: ConsumerKey) {
        let level = self.levels.entry(Reverse(priority)).or_default();
        level.push_back(consumer);
    }

    /// The first one was served: it goes behind its equals.
    pub(crate) fn rotate(&mut self) {
        if let Some(mut first) = self.levels.first_entry()
            && first.get().len() > 1
        {
            first.get_mut().rotate_left(1);
        }
    }

    /// Takes the first one out.
    pub(crate) fn pop(&mut self) -> Option<ConsumerKey> {
        let mut first = self.levels.first_entry()?;
        let consumer = first.get_mut().pop_front();
        if first.get().is_empty() {
            first.remove();
        }
        consumer
    }

    /// Takes out every consumer that does not satisfy `stays`, wherever it stands.
    pub(crate) fn retain(&mut self, stays: impl Fn(ConsumerKey) -> bool) {
        self.levels.retain(|_, level| {
            level.retain(|&consumer| stays(consumer));
            !level.is_empty()
        });
    }

    /// All consumers in it, in the order of their turns.
    pub(crate) fn iter(&self) -> impl Iterator<Item = ConsumerKey> {
        self.levels.values().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> ConsumerKey {
        ConsumerKey::from(slotmap::KeyData::from_ffi(1 << 32 | n))
    }

    #[test]
    fn equals_take_turns_and_higher_priorities_go_first() {
        let mut ring = Ring::default();
        ring.push(0, key(1));
        ring.push(0, key(2));
        ring.push(5, key(3));
        ring.push(-1, key(4));
        assert_eq!(ring.first(), Some(key(3)));
        assert_eq!(ring.pop(), Some(key(3)));
        assert_eq!(ring.first(), Some(key(1)));
        ring.rotate();
        assert_eq!(ring.first(), Some(key(2)));
        ring.retain(|other| other != key(2));
        ring.retain(|other| other != key(1));
        assert_eq!(ring.pop(), Some(key(4)));
        assert_eq!(ring.pop(), None);
    }
}

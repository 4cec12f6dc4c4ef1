//! When the messages of one queue expire.
//!
//! Kept apart from the index, because most queues have none. A message has its deadline from its
//! arrival until it leaves for good, so one that is delivered and comes back too late expires then.

use std::collections::{BTreeMap, BTreeSet};

use leveret_wheel::TimerKey;

use crate::ids::{Mono, Seq};

#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    /// Of all messages that have one, waiting or delivered.
    of: BTreeMap<Seq, Mono>,
    /// Of those that wait, the earliest first.
    waiting: BTreeSet<(Mono, Seq)>,
    /// The queue's timer, and when it is due.
    pub(crate) timer: Option<(Mono, TimerKey)>,
}

impl Deadlines {
    /// A message that has just arrived has one.
    pub(crate) fn set(&mut self, seq: Seq, due: Mono) {
        self.of.insert(seq, due);
    }

    /// A message waits. Returns its deadline, if it has one.
    pub(crate) fn waits(&mut self, seq: Seq) -> Option<Mono> {
        let due = *self.of.get(&seq)?;
        self.waiting.insert((due, seq));
        Some(due)
    }

    /// A message is delivered.
    pub(crate) fn taken(&mut self, seq: Seq) {
        if let Some(&due) = self.of.get(&seq) {
            self.waiting.remove(&(due, seq));
        }
    }

    /// A message has left for good.
    pub(crate) fn forget(&mut self, seq: Seq) {
        if let Some(due) = self.of.remove(&seq) {
            self.waiting.remove(&(due, seq));
        }
    }

    /// All that wait have left for good.
    pub(crate) fn forget_waiting(&mut self) {
        for (_, seq) in std::mem::take(&mut self.waiting) {
            self.of.remove(&seq);
        }
    }

    /// The earliest deadline of a message that waits.
    pub(crate) fn next(&self) -> Option<Mono> {
        self.waiting.first().map(|&(due, _)| due)
    }

    /// A message that waited and whose time has come; the earliest first, and in the order of the
    /// queue among those of the same moment. It keeps its deadline until it is forgotten.
    pub(crate) fn pop_due(&mut self, now: Mono) -> Option<Seq> {
        let &(due, seq) = self.waiting.first()?;
        (due <= now).then(|| {
            self.waiting.pop_first();
            seq
        })
    }

    /// Whether a message has a deadline.
    pub(crate) fn has(&self, seq: Seq) -> bool {
        self.of.contains_key(&seq)
    }

    /// Places of the messages that wait.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = Seq> {
        self.waiting.iter().map(|&(_, seq)| seq)
    }
}

//! Messages of one queue that came back and are not to be delivered again yet.
//!
//! Kept apart from the index, because most queues have none. One that is due goes back to its place
//! there. Persistent ones may leave memory meanwhile, as the log has them: then only the place is
//! put back, and the index has the message read when its turn comes. What the message has been
//! through is remembered here until then.

use std::collections::{BTreeMap, BTreeSet};

use leveret_wheel::TimerKey;

use crate::ids::{Lsn, Mono, Seq};
use crate::message::Message;
use crate::queue::index::Entry;

/// One in so many of those that are there makes a merge worth it, as in the index.
const MERGE_FROM: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Retries {
    waiting: BTreeMap<Seq, Waiting>,
    /// When they are due: those that may leave memory...
    movable: BTreeSet<(Mono, Seq)>,
    /// ... and those that cannot, or have.
    fixed: BTreeSet<(Mono, Seq)>,
    /// Memory of the messages that are here, in octets.
    bytes: usize,
    /// Octets of their bodies, and what those would hold in memory that are away.
    body_bytes: usize,
    /// Of messages that are away and wait no more: what they have been through.
    past: BTreeMap<Seq, Past>,
    /// The queue's timer, and when it is due.
    pub(crate) timer: Option<(Mono, TimerKey)>,
}

/// What a message has been through.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Past {
    pub(crate) deliveries: u32,
    pub(crate) failures: u32,
}

/// A message that waits.
#[derive(Debug)]
struct Waiting {
    until: Mono,
    message: Place,
    past: Past,
    /// It may leave memory once this is safe.
    safe: Lsn,
}

/// The record of a message that the log does not keep.
const NEVER: Lsn = Lsn(u64::MAX);

#[derive(Debug)]
enum Place {
    Here(Message),
    /// In the log alone; so many octets it would hold in memory.
    Away(u64),
}

/// A message that waits no longer.
#[derive(Debug)]
pub(crate) enum Back {
    Here(Entry),
    /// Its place, and the octets it would hold in memory.
    Away(Seq, u64),
}

impl Waiting {
    fn body_bytes(&self) -> usize {
        match &self.message {
            Place::Here(message) => message.body_len(),
            Place::Away(bytes) => octets(*bytes),
        }
    }

    fn bytes(&self) -> usize {
        match &self.message {
            Place::Here(message) => message.memory_bytes(),
            Place::Away(_) => 0,
        }
    }
}

impl Retries {
    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Memory of the messages that are here, in octets.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Octets of the bodies, as [`Index::body_bytes`](crate::queue::index::Index::body_bytes).
    pub(crate) fn body_bytes(&self) -> usize {
        self.body_bytes
    }

    /// Takes in messages in order of their places, each until then: one merge, unless they are few
    /// beside those that are there. Those the log keeps may leave memory once this is safe.
    pub(crate) fn hold(&mut self, entries: Vec<(Mono, Entry)>, safe: Option<Lsn>) {
        let few = entries.len() < self.waiting.len() / MERGE_FROM;
        let (mut waiting, mut movable, mut fixed) = (Vec::new(), Vec::new(), Vec::new());
        for (until, entry) in entries {
            let safe = safe.filter(|_| entry.message.is_persistent());
            let new = Waiting {
                until,
                past: Past {
                    deliveries: entry.deliveries,
                    failures: entry.failures,
                },
                message: Place::Here(entry.message),
                safe: safe.unwrap_or(NEVER),
            };
            self.bytes += new.bytes();
            self.body_bytes += new.body_bytes();
            let due = if safe.is_some() {
                &mut movable
            } else {
                &mut fixed
            };
            due.push((until, entry.seq));
            waiting.push((entry.seq, new));
        }
        if few {
            self.waiting.extend(waiting);
            self.movable.extend(movable);
            self.fixed.extend(fixed);
        } else {
            self.waiting.append(&mut waiting.into_iter().collect());
            self.movable.append(&mut movable.into_iter().collect());
            self.fixed.append(&mut fixed.into_iter().collect());
        }
    }

    /// Takes in a message that is away.
    pub(crate) fn hold_away(&mut self, seq: Seq, until: Mono, past: Past, bytes: u64) {
        let new = Waiting {
            until,
            past,
            message: Place::Away(bytes),
            safe: NEVER,
        };
        self.body_bytes += new.body_bytes();
        self.fixed.insert((until, seq));
        self.waiting.insert(seq, new);
    }

    /// When the next one is due, if any waits.
    pub(crate) fn next(&self) -> Option<Mono> {
        let sets = [&self.movable, &self.fixed];
        let firsts = sets.into_iter().filter_map(|due| due.first());
        firsts.map(|&(until, _)| until).min()
    }

    /// Takes out what is due, at most so many, in the order of their places.
    pub(crate) fn take_due(&mut self, now: Mono, max: usize) -> Vec<Back> {
        let mut due = Vec::new();
        while due.len() < max
            && let Some(next) = self.next().filter(|&next| next <= now)
        {
            let is_movable = self
                .movable
                .first()
                .is_some_and(|&(until, _)| until == next);
            let set = if is_movable {
                &mut self.movable
            } else {
                &mut self.fixed
            };
            due.extend(set.pop_first().map(|(_, seq)| seq));
        }
        due.sort_unstable();
        let mut back = Vec::with_capacity(due.len());
        for seq in due {
            if let Some(waiting) = self.waiting.remove(&seq) {
                back.push(self.taken(seq, waiting));
            }
        }
        back
    }

    /// Takes a message out that waits, wherever it is.
    pub(crate) fn take(&mut self, seq: Seq) -> Option<Back> {
        let waiting = self.waiting.remove(&seq)?;
        let due = (waiting.until, seq);
        if !self.movable.remove(&due) {
            self.fixed.remove(&due);
        }
        Some(self.taken(seq, waiting))
    }

    fn taken(&mut self, seq: Seq, waiting: Waiting) -> Back {
        self.bytes -= waiting.bytes();
        self.body_bytes -= waiting.body_bytes();
        let past = waiting.past;
        match waiting.message {
            Place::Here(message) => Back::Here(Entry {
                message,
                seq,
                deliveries: past.deliveries,
                failures: past.failures,
            }),
            Place::Away(bytes) => {
                self.past.insert(seq, past);
                Back::Away(seq, bytes)
            }
        }
    }

    /// The first in the queue of those that wait.
    pub(crate) fn first(&self) -> Option<Seq> {
        self.waiting.first_key_value().map(|(&seq, _)| seq)
    }

    /// A message that was away is back, or has left for good: what it has been through, if anybody
    /// knows.
    pub(crate) fn take_past(&mut self, seq: Seq) -> Option<Past> {
        self.past.remove(&seq)
    }

    /// What a message has been through that is away.
    pub(crate) fn set_past(&mut self, seq: Seq, past: Past) {
        self.past.insert(seq, past);
    }

    /// Lets go of messages that the log has, those due last first, until what is left holds so many
    /// octets.
    pub(crate) fn page_out(&mut self, keep: usize, durable: Lsn) -> Vec<Message> {
        let mut gone = Vec::new();
        let mut left = self.bytes;
        let mut leaving = Vec::new();
        for &(until, seq) in self.movable.iter().rev() {
            if left <= keep {
                break;
            }
            if let Some(waiting) = self.waiting.get(&seq).filter(|w| w.safe <= durable) {
                left -= waiting.bytes();
                leaving.push((until, seq));
            }
        }
        for due in leaving {
            self.movable.remove(&due);
            self.fixed.insert(due);
            if let Some(waiting) = self.waiting.get_mut(&due.1) {
                let bytes = waiting.bytes();
                self.bytes -= bytes;
                self.body_bytes -= waiting.body_bytes();
                let away = Place::Away(bytes as u64);
                if let Place::Here(message) = std::mem::replace(&mut waiting.message, away) {
                    gone.push(message);
                }
                self.body_bytes += waiting.body_bytes();
            }
        }
        gone
    }

    /// Whether more could leave memory once the log has come further.
    pub(crate) fn may_page_out(&self, keep: usize) -> bool {
        self.bytes > keep && !self.movable.is_empty()
    }

    /// All have left for good. Those that are here come back, to be dropped.
    pub(crate) fn take_all(&mut self) -> Vec<Message> {
        let all = std::mem::take(self);
        self.timer = all.timer;
        let here = all.waiting.into_values().filter_map(|w| match w.message {
            Place::Here(message) => Some(message),
            Place::Away(_) => None,
        });
        here.collect()
    }

    /// Places of those that wait, in order.
    pub(crate) fn seqs(&self) -> impl Iterator<Item = Seq> {
        self.waiting.keys().copied()
    }

    /// Asserts that what is kept in two places is the same in both.
    pub(crate) fn check(&self) {
        let due = self.waiting.iter().map(|(&seq, w)| (w.until, seq));
        let known = self.movable.union(&self.fixed).copied();
        assert_eq!(due.collect::<BTreeSet<_>>(), known.collect());
        assert_eq!(self.len(), self.movable.len() + self.fixed.len());
        let waiting = self.waiting.values();
        assert_eq!(
            waiting.clone().map(Waiting::bytes).sum::<usize>(),
            self.bytes
        );
        let bodies: usize = waiting.map(Waiting::body_bytes).sum();
        assert_eq!(bodies, self.body_bytes);
        assert!(
            self.is_empty() || self.timer.is_some(),
            "none waits for ever"
        );
        assert!(self.past.keys().all(|seq| !self.waiting.contains_key(seq)));
    }
}

fn octets(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

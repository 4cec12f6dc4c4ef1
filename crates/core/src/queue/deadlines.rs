//! When the messages of one queue expire.
//!
//! Kept apart from the index, because most queues have none. A message has its deadline from its
//! arrival until it leaves for good, so one that is delivered and comes back too late expires then.
//!
//! Of messages that are away, those with a time of their own keep it here, at 16 octets and what
//! the heap holds in reserve. The others are due in the order in which they came, which is that of
//! each level of the queue, and the log says when the next few are.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use leveret_wheel::TimerKey;

use crate::ids::{Mono, Seq};

/// So many that are known of in vain do no harm.
const KEPT_AWAY: usize = 1_024;

/// The log is being asked when the next are due.
pub(crate) const ASKED: Mono = Mono(u64::MAX);

/// A message whose time has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Due {
    pub(crate) seq: Seq,
    /// It waits, and was known to be here, or about to be.
    pub(crate) here: bool,
    /// If it is away, it is in the swap area and not in the log.
    pub(crate) swapped: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    /// Of all messages that have one, waiting or delivered.
    of: BTreeMap<Seq, Mono>,
    /// Of those that wait, the earliest first.
    waiting: BTreeSet<(Mono, Seq)>,
    /// Of messages that are away, those with a time of their own; some may be back, or gone.
    away: BinaryHeap<Reverse<(Mono, Seq)>>,
    /// The same, of messages that the log has not.
    swapped: BinaryHeap<Reverse<(Mono, Seq)>>,
    /// Everything else that is away is not due before this, for each level that has any, and is to be
    /// asked for then. [`ASKED`] if it is.
    away_from: BTreeMap<u8, Mono>,
    /// Due and away, to be dead-lettered once they are read, in this order.
    pub(crate) dying: VecDeque<Seq>,
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

    /// A message of this level that waits is paged out, to the log or to the swap area; `own` if its
    /// time is its own.
    pub(crate) fn page_out(&mut self, level: u8, seq: Seq, own: bool, logged: bool) {
        if let Some(due) = self.of.remove(&seq) {
            self.waiting.remove(&(due, seq));
            if own && logged {
                self.away.push(Reverse((due, seq)));
            } else if own {
                self.swapped.push(Reverse((due, seq)));
            } else {
                // Those that went before are due before.
                self.away_from.entry(level).or_insert(due);
            }
        }
    }

    /// Messages that are away have a time of their own.
    pub(crate) fn add_away(&mut self, times: impl IntoIterator<Item = (Mono, Seq)>) {
        self.away.extend(times.into_iter().map(Reverse));
    }

    /// Messages have come back: what is not away any more need not be known, once that is most.
    pub(crate) fn tidy(&mut self, away: usize, is_away: impl Fn(Seq) -> bool) {
        for times in [&mut self.away, &mut self.swapped] {
            if times.len() > 2 * away + KEPT_AWAY {
                times.retain(|Reverse((_, seq))| is_away(*seq));
                times.shrink_to(2 * times.len());
            }
        }
    }

    /// All that wait have left for good.
    pub(crate) fn forget_waiting(&mut self) {
        self.away = BinaryHeap::new();
        self.swapped = BinaryHeap::new();
        self.away_from.clear();
        self.dying.clear();
        for (_, seq) in std::mem::take(&mut self.waiting) {
            self.of.remove(&seq);
        }
    }

    /// When there is something to do next, if ever.
    pub(crate) fn next(&self) -> Option<Mono> {
        let away = self.next_away().map(|(due, _)| due);
        let from = self.away_from.values().copied().min();
        let from = from.filter(|&from| from != ASKED);
        [self.next_here(), away, from].into_iter().flatten().min()
    }

    fn next_away(&self) -> Option<(Mono, Seq)> {
        let first = |times: &BinaryHeap<Reverse<(Mono, Seq)>>| times.peek().map(|first| first.0);
        first(&self.away)
            .into_iter()
            .chain(first(&self.swapped))
            .min()
    }

    /// Levels of which something may be due that is away.
    pub(crate) fn levels_due(&self, now: Mono) -> Vec<u8> {
        let due = self.away_from.iter().filter(|(_, from)| **from <= now);
        due.map(|(&level, _)| level).collect()
    }

    /// Of a level nothing is away.
    pub(crate) fn none_away(&mut self, level: u8) {
        self.away_from.remove(&level);
    }

    /// Of a level nothing is due before this that is away.
    pub(crate) fn set_away_from(&mut self, level: u8, from: Mono) {
        self.away_from.insert(level, from);
    }

    /// Nothing is asked for any more: only these levels have messages that are away, and of which
    /// nobody knows when they are due it may be now.
    pub(crate) fn nothing_asked(&mut self, levels: &[u8], now: Mono) {
        self.away_from.retain(|level, _| levels.contains(level));
        for &level in levels {
            let from = self.away_from.entry(level).or_insert(now);
            if *from == ASKED {
                *from = now;
            }
        }
    }

    /// The earliest deadline of a message that waits and is here.
    pub(crate) fn next_here(&self) -> Option<Mono> {
        self.waiting.first().map(|&(due, _)| due)
    }

    /// A message that waited and whose time has come; the earliest first, and in the order of the
    /// queue among those of the same moment. It keeps its deadline until it is forgotten. One that
    /// was paged out may be back by now, or gone.
    pub(crate) fn pop_due(&mut self, now: Mono) -> Option<Due> {
        let here = self.waiting.first().copied();
        let away = self.next_away();
        let is_here = here.is_some() && away.is_none_or(|away| here <= Some(away));
        let (due, seq) = if is_here { here? } else { away? };
        if due > now {
            return None;
        }
        let mut swapped = false;
        if is_here {
            self.waiting.pop_first();
        } else if self.away.peek().is_some_and(|first| first.0 == (due, seq)) {
            self.away.pop();
        } else {
            self.swapped.pop();
            swapped = true;
        }
        Some(Due {
            seq,
            here: is_here,
            swapped,
        })
    }

    /// A message that was due has more time after all; `is_away` if it is.
    pub(crate) fn put_off(&mut self, due: Due, until: Mono, is_away: bool) {
        if due.here {
            self.set(due.seq, until);
            self.waits(due.seq);
        } else if is_away {
            let times = if due.swapped {
                &mut self.swapped
            } else {
                &mut self.away
            };
            times.push(Reverse((until, due.seq)));
        } // else it was, and its time is known elsewhere if it needs one
    }

    /// The deadline of a message, if it has one and is not away.
    pub(crate) fn of(&self, seq: Seq) -> Option<Mono> {
        self.of.get(&seq).copied()
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

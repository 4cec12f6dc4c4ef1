//! What of a batch is to be written: settles of a queue together, and nothing of messages that came
//! and went within the batch.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use leveret_core::Seq;
use leveret_core::record::Fact;

use crate::format::BATCH;
use crate::log::Staged;
use crate::record::{bodies_of, head_bound, normalize};
use crate::relief::frees;
use crate::segment::need;
use crate::state::NumberHasher;

/// Runs in one record at most.
const RUNS_MAX: usize = 1_024;

/// Octets that a run takes at most.
const RUN_BYTES: usize = 20;

/// What is to be written, in order.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Item {
    /// A record: which of the staged, and which of its records.
    Record(usize, usize),
    /// Settles of a queue: which one, and which of its runs.
    Settled(usize, usize, usize),
    /// Nothing but that records up to this one are known.
    Reached { vhost: u32, lsn: u64 },
}

/// A batch that is prepared. Kept from batch to batch, so that nothing is allocated anew.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) items: Vec<Item>,
    /// Octets that each item needs at most.
    pub(crate) bounds: Vec<u64>,
    /// Nothing in it takes room for long: it frees some.
    pub(crate) is_relief: bool,
    /// Messages that are not written.
    pub(crate) left_out: u64,
    queues: Vec<Settles>,
    used: usize,
    by_number: HashMap<(u32, u64), usize, BuildHasherDefault<NumberHasher>>,
    remembered: Option<(u32, u64, usize)>,
    /// Vhosts with their last record, and the last that is written.
    reached: Vec<(u32, u64, u64)>,
}

/// What left a queue.
#[derive(Debug, Default)]
struct Settles {
    vhost: u32,
    number: u64,
    runs: Vec<(u64, u64)>,
    /// Of the runs, what is not written.
    left_out: Vec<(u64, u64)>,
}

impl Plan {
    /// Prepares a batch.
    pub(crate) fn make(&mut self, staged: &[Staged]) {
        self.clear();
        for part in staged {
            if let Some(last) = part.records.last() {
                self.reach(part.vhost.0, last.lsn.0);
            }
            for record in &part.records {
                match &record.fact {
                    Fact::Settled { queue, seq } => {
                        self.settle(part.vhost.0, queue.0, (seq.0, seq.0));
                    }
                    Fact::Purged { queue, places } => {
                        for &(Seq(first), Seq(last)) in places {
                            self.settle(part.vhost.0, queue.0, (first, last));
                        }
                    }
                    _ => {}
                }
            }
        }
        for queue in self.queues.iter_mut().take(self.used) {
            normalize(&mut queue.runs);
        }
        for (at, part) in staged.iter().enumerate() {
            self.records(at, part);
        }
        self.settles();
        for at in 0..self.reached.len() {
            if let Some(&(vhost, last, written)) = self.reached.get(at)
                && written < last
            {
                self.push(Item::Reached { vhost, lsn: last }, 64, 0);
            }
        }
    }

    /// Runs of an item.
    pub(crate) fn runs(&self, queue: usize, from: usize, to: usize) -> Option<Runs<'_>> {
        let queue = self.queues.get(queue)?;
        let last = self.reached.iter().find(|entry| entry.0 == queue.vhost);
        Some(Runs {
            vhost: queue.vhost,
            queue: queue.number,
            lsn: last.map_or(0, |entry| entry.1),
            runs: queue.runs.get(from..to)?,
        })
    }

    /// Last records of the vhosts.
    pub(crate) fn reached(&self) -> impl Iterator<Item = (u32, u64)> {
        self.reached.iter().map(|entry| (entry.0, entry.1))
    }

    fn clear(&mut self) {
        self.items.clear();
        self.bounds.clear();
        self.is_relief = true;
        self.left_out = 0;
        for queue in self.queues.iter_mut().take(self.used) {
            queue.runs.clear();
            queue.left_out.clear();
        }
        self.used = 0;
        self.by_number.clear();
        self.remembered = None;
        self.reached.clear();
    }

    fn reach(&mut self, vhost: u32, lsn: u64) {
        match self.reached.iter_mut().find(|entry| entry.0 == vhost) {
            Some(entry) => entry.1 = entry.1.max(lsn),
            None => self.reached.push((vhost, lsn, 0)),
        }
    }

    fn wrote(&mut self, vhost: u32, lsn: u64) {
        if let Some(entry) = self.reached.iter_mut().find(|entry| entry.0 == vhost) {
            entry.2 = entry.2.max(lsn);
        }
    }

    fn find(&mut self, vhost: u32, number: u64) -> Option<usize> {
        match self.remembered {
            Some((of, queue, at)) if of == vhost && queue == number => Some(at),
            _ => {
                let at = *self.by_number.get(&(vhost, number))?;
                self.remembered = Some((vhost, number, at));
                Some(at)
            }
        }
    }

    #[inline]
    fn settle(&mut self, vhost: u32, number: u64, run: (u64, u64)) {
        let at = self.find(vhost, number).unwrap_or_else(|| {
            let at = self.used;
            self.used += 1;
            if at == self.queues.len() {
                self.queues.push(Settles::default());
            }
            if let Some(queue) = self.queues.get_mut(at) {
                queue.vhost = vhost;
                queue.number = number;
            }
            self.by_number.insert((vhost, number), at);
            at
        });
        if run.0 <= run.1
            && let Some(queue) = self.queues.get_mut(at)
        {
            add_run(&mut queue.runs, run);
        }
    }

    fn records(&mut self, at: usize, part: &Staged) {
        let vhost = part.vhost.0;
        for (index, record) in part.records.iter().enumerate() {
            match &record.fact {
                Fact::Settled { .. } | Fact::Purged { .. } => continue,
                Fact::Published { places, .. } => {
                    if self.used > 0 && self.all_settled(vhost, places) {
                        self.left_out += 1;
                        continue;
                    }
                    self.is_relief = false;
                }
                fact => self.is_relief &= frees(fact),
            }
            let (head, bodies) = (head_bound(&record.fact), bodies_of(&record.fact));
            self.push(Item::Record(at, index), head, bodies);
            self.wrote(vhost, record.lsn.0);
        }
    }

    /// Whether a message has left all its queues within the batch; if so, its settles are not
    /// written either.
    fn all_settled(&mut self, vhost: u32, places: &[(leveret_core::QueueNumber, Seq)]) -> bool {
        for (queue, seq) in places {
            let Some(at) = self.find(vhost, queue.0) else {
                return false;
            };
            let contains = |queue: &Settles| {
                let after = queue.runs.partition_point(|run| run.0 <= seq.0);
                let run = after.checked_sub(1).and_then(|at| queue.runs.get(at));
                run.is_some_and(|run| run.1 >= seq.0)
            };
            if !self.queues.get(at).is_some_and(contains) {
                return false;
            }
        }
        for (queue, seq) in places {
            if let Some(at) = self.find(vhost, queue.0)
                && let Some(queue) = self.queues.get_mut(at)
            {
                add_run(&mut queue.left_out, (seq.0, seq.0));
            }
        }
        true
    }

    fn settles(&mut self) {
        for at in 0..self.used {
            let Some(queue) = self.queues.get_mut(at) else {
                break;
            };
            if !queue.left_out.is_empty() {
                normalize(&mut queue.left_out);
                queue.runs = without(&queue.runs, &queue.left_out);
            }
            let (vhost, len) = (queue.vhost, queue.runs.len());
            for from in (0..len).step_by(RUNS_MAX) {
                let to = len.min(from + RUNS_MAX);
                self.push(Item::Settled(at, from, to), 64 + RUN_BYTES * (to - from), 0);
                self.wrote(vhost, u64::MAX);
            }
        }
    }

    fn push(&mut self, item: Item, head: usize, bodies: usize) {
        self.items.push(item);
        // It may begin a batch.
        self.bounds.push(need(head, bodies) + u64::from(BATCH));
    }
}

/// Settles of a queue that are to be written.
#[derive(Debug)]
pub(crate) struct Runs<'a> {
    pub(crate) vhost: u32,
    pub(crate) queue: u64,
    pub(crate) lsn: u64,
    pub(crate) runs: &'a [(u64, u64)],
}

/// Adds a run: mostly the next place after the last one.
#[inline]
fn add_run(runs: &mut Vec<(u64, u64)>, run: (u64, u64)) {
    match runs.last_mut() {
        Some(last) if last.1.checked_add(1) == Some(run.0) => last.1 = run.1,
        _ => runs.push(run),
    }
}

/// Runs without those of other runs; both normalised.
fn without(runs: &[(u64, u64)], others: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut left = Vec::new();
    let mut others = others.iter().peekable();
    for &(mut first, last) in runs {
        let mut is_over = false;
        while let Some(&&(from, to)) = others.peek()
            && from <= last
        {
            if from > first {
                left.push((first, from - 1));
            }
            if to >= last {
                is_over = true;
                break;
            }
            first = first.max(to + 1);
            others.next();
        }
        if !is_over {
            left.push((first, last));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_without_others() {
        #[rustfmt::skip]
        let table: [(&[_], &[_], &[_]); 5] = [
            (&[(1, 9)],          &[(1, 9)],         &[]),
            (&[(1, 9)],          &[(3, 4), (6, 6)], &[(1, 2), (5, 5), (7, 9)]),
            (&[(1, 3), (5, 9)],  &[(2, 6)],         &[(1, 1), (7, 9)]),
            (&[(1, 3), (5, 9)],  &[(1, 1), (9, 9)], &[(2, 3), (5, 8)]),
            (&[(4, 4)],          &[(1, 2), (6, 7)], &[(4, 4)]),
        ];
        for (runs, others, expected) in table {
            assert_eq!(without(runs, others), expected, "{runs:?} {others:?}");
        }
    }
}

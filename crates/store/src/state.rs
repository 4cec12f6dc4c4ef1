//! What the log knows: vhosts, their definitions, queues and living messages, and what lives in
//! which segment.
//!
//! Writing and recovery change it by the same functions, in the order of the log. One lock is
//! around it; a fetch takes it to look places up.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::iter;

use leveret_core::ids::{Lsn, QueueNumber, Seq, Wall};
use leveret_core::log::{Recovered, RecoveredQueue, Run};
use leveret_core::record::{Fact, MAY_DELIVER_FIRST, Retry};

use crate::definitions::Definitions;
use crate::format::varint_len;
use crate::messages::{Loc, Messages};
use crate::record::{BODY_SUM, Body, What};

/// Octets of a message's frame beside what is said of its user and places. Only for weighing what
/// lives, and so roughly.
const FRAME_BYTES: usize = 24;

/// Octets of a head beside user and places, roughly.
const HEAD_BYTES: usize = 16;

/// Octets of memory a message takes beside its block.
const BLOCK_BYTES: u64 = 2 * size_of::<usize>() as u64;

/// Everything that is known.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) vhosts: BTreeMap<u32, Vhost>,
    queues: Vec<Queue>,
    /// Places in `queues` that are free.
    vacant: Vec<usize>,
    by_number: HashMap<(u32, u64), usize, BuildHasherDefault<NumberHasher>>,
    /// The last one that was looked up: most records are of the same queue as the one before.
    remembered: Option<(u32, u64, usize)>,
    pub(crate) segments: BTreeMap<u32, Segment>,
}

/// A vhost.
#[derive(Debug, Default)]
pub(crate) struct Vhost {
    pub(crate) name: String,
    /// The last record.
    pub(crate) last: u64,
    pub(crate) definitions: Definitions,
}

/// A durable queue.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(crate) vhost: u32,
    pub(crate) number: u64,
    /// The highest number in a place.
    pub(crate) last: u64,
    pub(crate) delivered_through: u64,
    pub(crate) messages: Messages,
    /// When the own time runs out of those that have one, by place.
    expiring: BTreeMap<u64, u64>,
    /// What is known of those that were to be delivered again, by place.
    pub(crate) retries: BTreeMap<u64, Retry>,
    /// While recovering: runs of living messages that a checkpoint names and that were not found
    /// yet, first -> last.
    pub(crate) missing: BTreeMap<u64, u64>,
}

/// A segment that is in use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Segment {
    /// Octets of the file.
    pub(crate) bytes: u64,
    /// Where its batches end.
    pub(crate) end: u32,
    /// Nothing more is written to it.
    pub(crate) is_sealed: bool,
    /// Octets that live because of messages.
    pub(crate) living: u64,
    /// Living copies of messages.
    pub(crate) copies: u64,
    /// Something in it cannot be read, so it stays as it is.
    pub(crate) is_rotten: bool,
}

/// Where the body of a message is that is taken in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
}

impl State {
    /// The number of a vhost, if it has one.
    pub(crate) fn vhost_number(&self, name: &str) -> Option<u32> {
        let mut vhosts = self.vhosts.iter();
        vhosts
            .find(|(_, vhost)| vhost.name == name)
            .map(|(number, _)| *number)
    }

    pub(crate) fn name_vhost(&mut self, number: u32, name: &str) {
        self.vhosts.entry(number).or_default().name = name.to_owned();
    }

    /// A record was written.
    pub(crate) fn reach(&mut self, vhost: u32, lsn: u64) {
        if let Some(vhost) = self.vhosts.get_mut(&vhost) {
            vhost.last = vhost.last.max(lsn);
        }
    }

    pub(crate) fn queues(&self) -> impl Iterator<Item = &Queue> {
        self.queues.iter().filter(|queue| queue.number != 0)
    }

    /// The first queue from this place among them on, and its place.
    pub(crate) fn queue_from(&self, from: usize) -> Option<(usize, &Queue)> {
        let mut rest = self.queues.iter().enumerate().skip(from);
        rest.find(|(_, queue)| queue.number != 0)
    }

    pub(crate) fn queue(&mut self, vhost: u32, number: u64) -> Option<&mut Queue> {
        let at = self.find(vhost, number)?;
        self.queues.get_mut(at)
    }

    #[inline]
    fn find(&mut self, vhost: u32, number: u64) -> Option<usize> {
        if let Some((of, queue, at)) = self.remembered
            && of == vhost
            && queue == number
        {
            return Some(at);
        }
        let at = *self.by_number.get(&(vhost, number))?;
        self.remembered = Some((vhost, number, at));
        Some(at)
    }

    /// A queue is there from here on; one with this number that is there stays.
    pub(crate) fn add_queue(&mut self, vhost: u32, number: u64) {
        if number == 0 || self.by_number.contains_key(&(vhost, number)) {
            return;
        }
        let queue = Queue {
            vhost,
            number,
            delivered_through: MAY_DELIVER_FIRST,
            ..Queue::default()
        };
        let at = self.vacant.pop().unwrap_or(self.queues.len());
        if let Some(slot) = self.queues.get_mut(at) {
            *slot = queue;
        } else {
            self.queues.push(queue);
        }
        self.by_number.insert((vhost, number), at);
    }

    fn remove_queue(&mut self, vhost: u32, number: u64) {
        let Some(at) = self.by_number.remove(&(vhost, number)) else {
            return;
        };
        self.remembered = None;
        self.vacant.push(at);
        let queue = self.queues.get_mut(at).map(std::mem::take);
        for (_, loc) in queue.iter().flat_map(|queue| queue.messages.iter()) {
            lighten(&mut self.segments, loc);
        }
    }

    /// A declaration, deletion or binding.
    pub(crate) fn define(&mut self, vhost: u32, lsn: u64, fact: Fact) {
        match &fact {
            Fact::QueueDeclared { .. } => self.add_queue(vhost, lsn),
            Fact::QueueDeleted { queue, .. } => self.remove_queue(vhost, queue.0),
            _ => {}
        }
        if let Some(vhost) = self.vhosts.get_mut(&vhost) {
            vhost.definitions.apply(lsn, fact);
        }
    }

    /// A message is in these places from here on.
    pub(crate) fn publish(
        &mut self,
        vhost: u32,
        body: Body<'_>,
        places: impl ExactSizeIterator<Item = (u64, u64)> + Clone,
        place: Place,
    ) {
        let loc = loc(body, places.clone(), place);
        for (queue, seq) in places {
            let Some(queue) = self
                .find(vhost, queue)
                .and_then(|at| self.queues.get_mut(at))
            else {
                continue;
            };
            queue.last = queue.last.max(Seq(seq).number());
            cut_out(&mut queue.missing, seq, seq);
            queue.put(seq, loc, body.expires, &mut self.segments);
        }
    }

    /// A message was found again: copied, or looked for after a checkpoint named it. Places that
    /// are settled stay so.
    pub(crate) fn locate(
        &mut self,
        vhost: u32,
        body: Body<'_>,
        places: impl ExactSizeIterator<Item = (u64, u64)> + Clone,
        place: Place,
    ) {
        let loc = loc(body, places.clone(), place);
        for (queue, seq) in places {
            let Some(queue) = self
                .find(vhost, queue)
                .and_then(|at| self.queues.get_mut(at))
            else {
                continue;
            };
            let lives = cut_out(&mut queue.missing, seq, seq) || queue.messages.get(seq).is_some();
            if !lives {
                continue;
            }
            queue.put(seq, loc, body.expires, &mut self.segments);
        }
    }

    /// The messages in these places have left their queue.
    pub(crate) fn settle(&mut self, vhost: u32, queue: u64, runs: &[(u64, u64)]) {
        let Some(at) = self.find(vhost, queue) else {
            return;
        };
        let Some(queue) = self.queues.get_mut(at) else {
            return;
        };
        for &(first, last) in runs {
            queue.last = queue.last.max(Seq(last).number());
            if !queue.missing.is_empty() {
                cut_out(&mut queue.missing, first, last);
            }
            while let Some((&seq, _)) = queue.expiring.range(first..=last.max(first)).next() {
                queue.expiring.remove(&seq);
            }
            while let Some((&seq, _)) = queue.retries.range(first..=last.max(first)).next() {
                queue.retries.remove(&seq);
            }
            queue
                .messages
                .remove_run(first, last, |loc| lighten(&mut self.segments, loc));
        }
    }

    pub(crate) fn may_deliver(&mut self, vhost: u32, queue: u64, through: u64) {
        if let Some(queue) = self.queue(vhost, queue) {
            queue.delivered_through = through;
        }
    }

    /// Messages are to be delivered again, not before their time. Those that are not there are of
    /// no interest: their publish and their settle were left out.
    pub(crate) fn retried(&mut self, vhost: u32, queue: u64, retries: &[Retry]) {
        if let Some(queue) = self.queue(vhost, queue) {
            for retry in retries {
                let seq = retry.seq.0;
                if queue.messages.get(seq).is_some() || contains(&queue.missing, seq) {
                    queue.retries.insert(seq, *retry);
                }
            }
        }
    }

    /// Takes in a record that was read. `place` is where its first body would be (the block, not
    /// the sum before it).
    pub(crate) fn apply(&mut self, vhost: u32, lsn: u64, what: What<'_>, place: &mut Place) {
        self.reach(vhost, lsn);
        match what {
            What::VhostNamed(name) => self.name_vhost(vhost, name),
            What::Defined(fact) => self.define(vhost, lsn, fact),
            What::Published(publish) => {
                let places = publish.places.iter().copied();
                self.publish(vhost, publish.body, places, *place);
                place.pass(publish.body.bytes);
            }
            What::Moved(publish) => {
                let places = publish.places.iter().copied();
                self.locate(vhost, publish.body, places, *place);
                place.pass(publish.body.bytes);
            }
            What::Settled { queue, runs } => self.settle(vhost, queue, &runs),
            What::MayDeliver { queue, through } => self.may_deliver(vhost, queue, through),
            What::Retried { queue, retries } => self.retried(vhost, queue, &retries),
            What::Together(parts) => {
                for part in parts {
                    self.apply(vhost, lsn, part, place);
                }
            }
            What::Checkpoint(_) | What::Freed(_) | What::Reached => {}
        }
    }

    /// Takes in only where messages are, of a record before the checkpoint.
    pub(crate) fn apply_places(&mut self, vhost: u32, what: &What<'_>, place: &mut Place) {
        match what {
            What::Published(publish) | What::Moved(publish) => {
                let places = publish.places.iter().copied();
                self.locate(vhost, publish.body, places, *place);
                place.pass(publish.body.bytes);
            }
            What::Together(parts) => {
                for part in parts {
                    self.apply_places(vhost, part, place);
                }
            }
            _ => {}
        }
    }

    /// Whether a message lives at this very place.
    pub(crate) fn lives_at(&mut self, vhost: u32, queue: u64, seq: u64, place: Place) -> bool {
        let loc = self
            .queue(vhost, queue)
            .and_then(|queue| queue.messages.get(seq));
        loc.is_some_and(|loc| loc.segment == place.segment && loc.offset == place.offset)
    }

    /// Living messages, once for each queue.
    pub(crate) fn messages(&self) -> u64 {
        self.queues().map(|queue| queue.messages.len()).sum()
    }

    /// What is known of a vhost.
    pub(crate) fn recovered(&self, number: u32) -> Recovered {
        let Some(vhost) = self.vhosts.get(&number) else {
            return Recovered::default();
        };
        let definitions = vhost.definitions.iter();
        let queues = self.queues().filter(|queue| queue.vhost == number);
        let mut queues: Vec<_> = queues.map(Queue::recovered).collect();
        queues.sort_unstable_by_key(|queue| queue.number);
        Recovered {
            last: Lsn(vhost.last),
            definitions: definitions
                .map(|(lsn, fact)| (Lsn(lsn), fact.into_owned()))
                .collect(),
            queues,
        }
    }
}

impl Queue {
    /// A message is here from now on, and nowhere else.
    fn put(
        &mut self,
        seq: u64,
        loc: Loc,
        expires: Option<u64>,
        segments: &mut BTreeMap<u32, Segment>,
    ) {
        if let Some(expires) = expires {
            self.expiring.insert(seq, expires);
        }
        burden(segments, loc);
        if let Some(before) = self.messages.insert(seq, loc) {
            lighten(segments, before);
        }
    }

    /// Runs of places with messages, and octets of the messages there in memory.
    pub(crate) fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (seq, loc) in self.messages.iter() {
            let bytes = u64::from(loc.block_bytes()) + BLOCK_BYTES;
            match runs.last_mut() {
                Some(run) if run.last.0.checked_add(1) == Some(seq) => {
                    run.last = Seq(seq);
                    run.bytes = run.bytes.saturating_add(bytes);
                }
                _ => runs.push(Run {
                    first: Seq(seq),
                    last: Seq(seq),
                    bytes,
                }),
            }
        }
        runs
    }

    /// First and last place of runs with messages, from this place on.
    pub(crate) fn runs_from(&self, from: u64) -> impl Iterator<Item = (u64, u64)> {
        let places = self.messages.range(from..=u64::MAX);
        let mut places = places.map(|(seq, _)| seq).peekable();
        iter::from_fn(move || {
            let first = places.next()?;
            let mut last = first;
            while let Some(next) = places.next_if(|next| last.checked_add(1) == Some(*next)) {
                last = next;
            }
            Some((first, last))
        })
    }

    fn recovered(&self) -> RecoveredQueue {
        let expiring = self.expiring.iter();
        RecoveredQueue {
            number: QueueNumber(self.number),
            last: Seq(self.last),
            delivered_through: Seq(self.delivered_through),
            runs: self.runs(),
            expiring: expiring.map(|(&seq, &at)| (Seq(seq), Wall(at))).collect(),
            retries: self.retries.values().copied().collect(),
        }
    }
}

impl Place {
    /// Goes on to the next body.
    pub(crate) fn pass(&mut self, bytes: u32) {
        let next = self.offset.saturating_add(bytes);
        self.offset = next.saturating_add(BODY_SUM);
    }
}

/// Where a message is, and its share of the octets that its record takes, footer included.
#[inline]
fn loc(body: Body<'_>, places: impl ExactSizeIterator<Item = (u64, u64)>, place: Place) -> Loc {
    let copies = places.len().max(1);
    let places: usize = places
        .map(|(queue, seq)| varint_len(queue) + varint_len(seq))
        .sum();
    let beside = FRAME_BYTES + HEAD_BYTES + body.user.len() + places;
    let share = (body.bytes as usize + beside).div_ceil(copies);
    let at = (place.segment, place.offset);
    Loc::new(at, body.bytes, share, body.has_time)
}

fn burden(segments: &mut BTreeMap<u32, Segment>, loc: Loc) {
    if let Some(segment) = segments.get_mut(&loc.segment) {
        segment.living += u64::from(loc.weight());
        segment.copies += 1;
    }
}

fn lighten(segments: &mut BTreeMap<u32, Segment>, loc: Loc) {
    if let Some(segment) = segments.get_mut(&loc.segment) {
        segment.living = segment.living.saturating_sub(u64::from(loc.weight()));
        segment.copies = segment.copies.saturating_sub(1);
    }
}

/// Whether a place is in one of these runs.
fn contains(runs: &BTreeMap<u64, u64>, seq: u64) -> bool {
    let before = runs.range(..=seq).next_back();
    before.is_some_and(|(_, &last)| last >= seq)
}

/// Cuts a run out of runs; true if any of it was there.
fn cut_out(runs: &mut BTreeMap<u64, u64>, first: u64, last: u64) -> bool {
    let mut any = false;
    while let Some((&start, &end)) = runs.range(..=last).next_back()
        && end >= first
    {
        any = true;
        runs.remove(&start);
        if start < first {
            runs.insert(start, first - 1);
        }
        if end > last {
            runs.insert(last + 1, end);
        }
    }
    any
}

/// Numbers that are given out one after the other need no secret hash.
#[derive(Default)]
pub(crate) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &octet in bytes {
            self.write_u64(u64::from(octet));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        // An odd number with its bits well mixed (that of the golden ratio).
        let mixed = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_cut_out_of_runs() {
        let mut runs = BTreeMap::from([(1, 10), (20, 30)]);
        assert!(cut_out(&mut runs, 5, 5));
        assert!(!cut_out(&mut runs, 11, 19), "nothing there");
        assert!(cut_out(&mut runs, 9, 21));
        assert_eq!(runs, BTreeMap::from([(1, 4), (6, 8), (22, 30)]));
        assert!(cut_out(&mut runs, 0, u64::MAX));
        assert!(runs.is_empty());
    }
}

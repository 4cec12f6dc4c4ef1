//! What waits in a queue, in order of delivery: one [`Index`], or one for each priority in use
//! (`x-max-priority`).
//!
//! The places of a queue with priorities sort by priority first (see [`Seq`]), so that order of
//! places is order of delivery there as everywhere, for the log as well. Each priority counts its
//! own numbers, so that its places are neighbours and a long backlog is a few runs. After a restart
//! all of them go on after the highest number that the log has seen.

use std::collections::BTreeMap;

use crate::ids::{Seq, Wall};
use crate::log::Run;
use crate::message::Message;
use crate::queue::index::{Entry, Index, Leaving};
use crate::queue::logged::Batch;
use crate::queue::retries::Past;

/// Priorities in use up to which one that is empty keeps its memory for the next message.
const KEPT_LEVELS: usize = 16;

/// The one level of a queue without priorities.
const PLAIN: u8 = 0;

/// The ready messages of a queue.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    /// All of them, if there are no priorities.
    plain: Index,
    levels: Option<Box<Levels>>,
    /// The highest number that was delivered in this life. Not what is before the first in line: that
    /// may be one that comes back late.
    delivered: u64,
}

#[derive(Debug)]
struct Levels {
    /// The highest priority.
    max: u8,
    /// By [`Seq::level`], and so the highest priority first. Those that were never used are not there.
    levels: BTreeMap<u8, Level>,
    /// Those that have messages, a bit for each.
    occupied: [u64; 4],
    totals: Totals,
    /// Each level counts on from here.
    base: u64,
}

#[derive(Debug, Default)]
struct Level {
    index: Index,
    /// The last number that was given out.
    last: u64,
    /// The last number that was when paging out was asked for.
    recorded: u64,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Totals {
    len: usize,
    away: usize,
    bytes: usize,
    unreturned_bytes: usize,
    body_bytes: usize,
}

impl Ready {
    /// Of a new queue: with priorities if there is a highest one.
    pub(crate) fn new(priority_max: Option<u8>) -> Self {
        Self::recovered(priority_max, Vec::new(), Seq(0))
    }

    /// A queue's messages as the log has kept them; no number above `last` was ever given out.
    pub(crate) fn recovered(priority_max: Option<u8>, runs: Vec<Run>, last: Seq) -> Self {
        let Some(max) = priority_max else {
            return Self {
                plain: Index::recovered(runs),
                levels: None,
                delivered: 0,
            };
        };
        let mut levels = Box::new(Levels {
            max,
            levels: BTreeMap::new(),
            occupied: [0; 4],
            totals: Totals::default(),
            base: last.number(),
        });
        let mut by_level: BTreeMap<u8, Vec<Run>> = BTreeMap::new();
        for run in runs {
            by_level.entry(levels.key(run.first)).or_default().push(run);
        }
        for (key, runs) in by_level {
            levels.at(key, |level| level.index = Index::recovered(runs));
        }
        Self {
            plain: Index::default(),
            levels: Some(levels),
            delivered: 0,
        }
    }

    /// The place of the next new message of this priority; None if the queue has no priorities.
    #[inline]
    pub(crate) fn next_place(&self, priority: u8) -> Option<Seq> {
        self.levels.as_ref().map(|levels| levels.next(priority))
    }

    /// A message was delivered for the first time, or again.
    #[inline]
    pub(crate) fn note_delivered(&mut self, seq: Seq) {
        self.delivered = self.delivered.max(seq.number());
    }

    /// The highest number that was delivered in this life; 0 if there was none.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// All that is there has been recorded by now.
    pub(crate) fn note_recorded(&mut self) {
        for level in self.levels.iter_mut().flat_map(|l| l.levels.values_mut()) {
            level.recorded = level.last;
        }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        match &self.levels {
            None => self.plain.len(),
            Some(levels) => levels.totals.len,
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory held by the messages, in octets.
    pub(crate) fn bytes(&self) -> usize {
        match &self.levels {
            None => self.plain.bytes(),
            Some(levels) => levels.totals.bytes,
        }
    }

    /// Memory held by messages that were never delivered, in octets: what may be paged out.
    #[inline]
    pub(crate) fn unreturned_bytes(&self) -> usize {
        match &self.levels {
            None => self.plain.unreturned_bytes(),
            Some(levels) => levels.totals.unreturned_bytes,
        }
    }

    /// Octets of the bodies of all messages; see [`Index::body_bytes`].
    #[inline]
    pub(crate) fn body_bytes(&self) -> usize {
        match &self.levels {
            None => self.plain.body_bytes(),
            Some(levels) => levels.totals.body_bytes,
        }
    }

    /// Whether the message that has just got this place waits.
    #[inline]
    pub(crate) fn is_newest(&self, seq: Seq) -> bool {
        let index = match &self.levels {
            None => Some(&self.plain),
            Some(levels) => levels.index_of(seq),
        };
        index.is_some_and(|index| index.newest() == Some(seq))
    }

    /// Adds a new message in its place, the newest of its priority.
    #[inline]
    pub(crate) fn push(&mut self, entry: Entry) {
        match &mut self.levels {
            None => self.plain.push(entry),
            Some(levels) => levels.push(entry),
        }
    }

    /// The message whose turn it is; None if there is none, or if it is away.
    #[inline]
    pub(crate) fn front(&self) -> Option<&Entry> {
        match &self.levels {
            None => self.plain.front(),
            Some(levels) => levels.in_use().next()?.index.front(),
        }
    }

    /// Takes the message whose turn it is; None if there is none, or if it is away.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Entry> {
        match &mut self.levels {
            None => self.plain.pop(),
            Some(levels) => {
                let first = levels.occupied().next()?;
                levels.at(first, |level| level.index.pop())
            }
        }
    }

    /// Takes a message out, wherever it waits. None if it does not, or is away.
    pub(crate) fn take(&mut self, seq: Seq) -> Option<Entry> {
        match &mut self.levels {
            None => self.plain.take(seq),
            Some(levels) => levels.at(levels.key(seq), |level| level.index.take(seq)),
        }
    }

    /// Puts one message back where it was.
    pub(crate) fn put_back(&mut self, entry: Entry) {
        match &mut self.levels {
            None => self.plain.put_back(entry),
            Some(levels) => levels.at(levels.key(entry.seq), |level| level.index.put_back(entry)),
        }
    }

    /// Puts the place of a message back where it was that is away; see [`Index::put_back_away`].
    pub(crate) fn put_back_away(&mut self, seq: Seq, bytes: u64) {
        match &mut self.levels {
            None => self.plain.put_back_away(seq, bytes),
            Some(levels) => levels.at(levels.key(seq), |level| {
                level.index.put_back_away(seq, bytes);
            }),
        }
    }

    /// Puts many messages back where they were, `entries` ascending by `seq`.
    pub(crate) fn put_all_back(&mut self, entries: Vec<Entry>) {
        let Some(levels) = &mut self.levels else {
            return self.plain.put_all_back(entries);
        };
        let mut entries = entries.into_iter().peekable();
        while let Some(first) = entries.next() {
            let key = levels.key(first.seq);
            let mut of_level = vec![first];
            while let Some(entry) = entries.next_if(|entry| levels.key(entry.seq) == key) {
                of_level.push(entry);
            }
            levels.at(key, |level| level.index.put_all_back(of_level));
        }
    }

    /// What the swap area has to take before the others can leave memory, all of one priority; see
    /// [`Index::to_swap`]. With priorities it is what [`Ready::note_recorded`] was told of.
    pub(crate) fn to_swap(
        &self,
        mut leaving: Leaving,
        most: usize,
    ) -> Option<(Batch, Vec<(Seq, Message)>)> {
        let Some(levels) = &self.levels else {
            return self.plain.to_swap(leaving, most);
        };
        for key in levels.occupied() {
            let level = levels.levels.get(&key)?;
            leaving.through = Seq::in_level(key, level.recorded);
            let batch = level.index.to_swap(leaving, most);
            if batch.is_some() {
                return batch;
            }
            leaving.keep = leaving.keep.saturating_sub(level.index.unreturned_bytes());
        }
        None
    }

    /// Lets go of messages that are kept elsewhere; see [`Index::page_out`]. With priorities it is
    /// what [`Ready::note_recorded`] was told of.
    ///
    /// Calls with each, and its level.
    pub(crate) fn page_out(
        &mut self,
        mut leaving: Leaving,
        swapped: Option<Batch>,
        mut each: impl FnMut(u8, Seq, &Message),
    ) -> Vec<Message> {
        let Some(levels) = &mut self.levels else {
            let each = |seq, message: &Message| each(PLAIN, seq, message);
            return self.plain.page_out(leaving, swapped, each);
        };
        let mut gone = Vec::new();
        let of = swapped.map(|batch| levels.key(batch.first));
        let keys: Vec<u8> = levels.occupied().collect();
        for key in keys {
            levels.at(key, |level| {
                leaving.through = Seq::in_level(key, level.recorded);
                if of.is_none_or(|of| of == key) {
                    let each = |seq, message: &Message| each(key, seq, message);
                    gone.append(&mut level.index.page_out(leaving, swapped, each));
                }
                leaving.keep = leaving.keep.saturating_sub(level.index.unreturned_bytes());
            });
        }
        gone
    }

    /// Places of a batch that are not away.
    pub(crate) fn not_away(&self, batch: Batch) -> Vec<(Seq, Seq)> {
        match self.of_level(self.level_of(batch.first)) {
            Some(index) => index.not_away(batch),
            None => vec![(batch.first, batch.last)],
        }
    }

    /// Memory of messages that have not left since they came, in octets, behind this place; with
    /// priorities, behind what [`Ready::note_recorded`] was told of.
    pub(crate) fn bytes_after(&self, through: Seq) -> usize {
        let Some(levels) = &self.levels else {
            return self.plain.bytes_after(through);
        };
        let bytes = levels.occupied().filter_map(|key| {
            let level = levels.levels.get(&key)?;
            let through = Seq::in_level(key, level.recorded);
            Some(level.index.bytes_after(through))
        });
        bytes.sum()
    }

    /// The places to ask back: those that are away and come next, all of one priority. None if what
    /// comes next is here, or if there is still plenty in front of it.
    #[inline]
    pub(crate) fn wanted(&self, plenty: usize) -> Option<(Seq, Seq)> {
        let Some(levels) = &self.levels else {
            return self.plain.wanted(plenty);
        };
        let mut left = plenty;
        for level in levels.in_use() {
            let wanted = level.index.wanted(left);
            if wanted.is_some() {
                return wanted;
            }
            left = left.checked_sub(level.index.unreturned_bytes())?;
        }
        None
    }

    /// The places to ask back of one level, if what comes first there is away.
    pub(crate) fn wanted_of(&self, level: u8, plenty: usize) -> Option<(Seq, Seq)> {
        let index = self.of_level(level)?;
        let front_is_away = index.front().is_none();
        index.wanted(plenty).filter(|_| front_is_away)
    }

    /// What a place is kept under: each level is in order of arrival.
    pub(crate) fn level_of(&self, seq: Seq) -> u8 {
        self.levels.as_ref().map_or(PLAIN, |levels| levels.key(seq))
    }

    /// Messages of a level that are away.
    pub(crate) fn away_of(&self, level: u8) -> usize {
        self.of_level(level).map_or(0, Index::away)
    }

    /// Levels that have messages that are away.
    pub(crate) fn levels_away(&self) -> Vec<u8> {
        match &self.levels {
            None if self.plain.away() > 0 => vec![PLAIN],
            None => Vec::new(),
            Some(levels) if levels.totals.away == 0 => Vec::new(),
            Some(levels) => {
                let has_away = |&level: &u8| self.away_of(level) > 0;
                levels.occupied().filter(has_away).collect()
            }
        }
    }

    fn of_level(&self, level: u8) -> Option<&Index> {
        match &self.levels {
            None => Some(&self.plain),
            Some(levels) => levels.levels.get(&level).map(|level| &level.index),
        }
    }

    /// Messages that are away.
    #[inline]
    pub(crate) fn away(&self) -> usize {
        match &self.levels {
            None => self.plain.away(),
            Some(levels) => levels.totals.away,
        }
    }

    /// Whether a message waits and is away.
    pub(crate) fn is_away(&self, seq: Seq) -> bool {
        let index = self.of_level(self.level_of(seq));
        index.is_some_and(|index| index.is_away(seq))
    }

    /// A message that is away has left. Returns its share of the octets there, if it was there.
    pub(crate) fn drop_away(&mut self, seq: Seq) -> Option<u64> {
        match &mut self.levels {
            None => self.plain.drop_away(seq),
            Some(levels) => levels.at(levels.key(seq), |level| level.index.drop_away(seq)),
        }
    }

    /// The first place that is away, of those with the priority of this place.
    pub(crate) fn first_away(&self, of: Seq) -> Option<Seq> {
        match &self.levels {
            None => self.plain.first_away(),
            Some(levels) => levels.index_of(of)?.first_away(),
        }
    }

    /// Takes in messages that come back from the log, in order; see [`Index::bring_back`].
    pub(crate) fn bring_back(
        &mut self,
        messages: Vec<(Seq, Message, Option<Wall>)>,
        mut past: impl FnMut(Seq) -> (Past, bool),
    ) {
        let Some(levels) = &mut self.levels else {
            return self.plain.bring_back(messages, past);
        };
        let mut messages = messages.into_iter().peekable();
        while let Some(first) = messages.next() {
            let of = first.0;
            let mut of_level = vec![first];
            while let Some(message) = messages.next_if(|(seq, ..)| seq.level() == of.level()) {
                of_level.push(message);
            }
            levels.at(levels.key(of), |level| {
                level.index.bring_back(of_level, &mut past);
            });
        }
    }

    /// The place whose turn it is, whether its message is here or away.
    pub(crate) fn first(&self) -> Option<Seq> {
        match &self.levels {
            None => self.plain.first(),
            Some(levels) => levels.in_use().next()?.index.first(),
        }
    }

    /// The place that was never delivered in this life and comes first, if there is one.
    #[inline]
    pub(crate) fn first_fresh(&self) -> Option<Seq> {
        match &self.levels {
            None => self.plain.first_fresh(),
            Some(levels) => levels.in_use().find_map(|level| level.index.first_fresh()),
        }
    }

    /// Takes everything out; dropping the result is the expensive part, and may be done elsewhere.
    pub(crate) fn take_all(&mut self) -> Vec<Message> {
        let Some(levels) = &mut self.levels else {
            return self.plain.take_all();
        };
        let mut all = Vec::new();
        let keys: Vec<u8> = levels.occupied().collect();
        for key in keys {
            levels.at(key, |level| all.append(&mut level.index.take_all()));
        }
        all
    }

    /// The places of all messages, as runs from first to last.
    pub(crate) fn places(&self) -> Vec<(Seq, Seq)> {
        self.indexes().flat_map(Index::places).collect()
    }

    /// The places of all messages, in order.
    pub(crate) fn seqs(&self) -> impl Iterator<Item = Seq> {
        self.indexes().flat_map(Index::seqs)
    }

    fn indexes(&self) -> impl Iterator<Item = &Index> {
        let levels = self.levels.iter().flat_map(|levels| levels.in_use());
        std::iter::once(&self.plain).chain(levels.map(|level| &level.index))
    }

    /// Asserts the invariants of each index, and that what is kept beside them is right.
    pub(crate) fn check(&self) {
        self.plain.check();
        let Some(levels) = &self.levels else {
            return;
        };
        assert!(self.plain.is_empty());
        let mut totals = Totals::default();
        for (&key, level) in &levels.levels {
            level.index.check();
            assert!(level.index.seqs().all(|seq| levels.key(seq) == key));
            assert!(level.index.seqs().all(|seq| seq.number() <= level.last));
            assert_eq!(levels.occupied().any(|k| k == key), !level.index.is_empty());
            totals.add(Totals::of(&level.index));
        }
        assert_eq!(totals, levels.totals);
    }
}

impl Levels {
    /// What a place is kept under. Places without a priority are of a time when there was none for
    /// this queue: they are older than all others, and go first.
    fn key(&self, seq: Seq) -> u8 {
        seq.level().max(u8::MAX - self.max)
    }

    fn index_of(&self, seq: Seq) -> Option<&Index> {
        self.levels.get(&self.key(seq)).map(|level| &level.index)
    }

    fn next(&self, priority: u8) -> Seq {
        let key = u8::MAX - priority.min(self.max);
        let last = self.levels.get(&key).map_or(self.base, |level| level.last);
        Seq::in_level(key, last + 1)
    }

    fn push(&mut self, entry: Entry) {
        self.at(self.key(entry.seq), |level| {
            level.last = level.last.max(entry.seq.number());
            level.index.push(entry);
        });
    }

    /// Keys of the levels that have messages, in order.
    #[inline]
    fn occupied(&self) -> impl Iterator<Item = u8> {
        let mut words = self.occupied;
        let mut at = 0;
        std::iter::from_fn(move || {
            while let Some(word) = words.get_mut(at) {
                if *word != 0 {
                    let bit = word.trailing_zeros() as usize;
                    *word &= *word - 1;
                    return u8::try_from(at * 64 + bit).ok();
                }
                at += 1;
            }
            None
        })
    }

    /// The levels that have messages, in order.
    #[inline]
    fn in_use(&self) -> impl Iterator<Item = &Level> {
        self.occupied().filter_map(|key| self.levels.get(&key))
    }

    /// Does something to a level, and keeps what is known of all of them.
    fn at<R>(&mut self, key: u8, change: impl FnOnce(&mut Level) -> R) -> R {
        let many = self.levels.len() > KEPT_LEVELS;
        let level = self.levels.entry(key).or_insert_with(|| Level {
            last: self.base,
            ..Level::default()
        });
        let before = Totals::of(&level.index);
        let result = change(level);
        let after = Totals::of(&level.index);
        if after.len == 0 && many {
            level.index = Index::default();
        }
        self.totals.subtract(before);
        self.totals.add(after);
        if let Some(word) = self.occupied.get_mut(usize::from(key / 64)) {
            let bit = 1 << (key % 64);
            *word = if after.len == 0 {
                *word & !bit
            } else {
                *word | bit
            };
        }
        result
    }
}

impl Totals {
    fn of(index: &Index) -> Self {
        Self {
            len: index.len(),
            away: index.away(),
            bytes: index.bytes(),
            unreturned_bytes: index.unreturned_bytes(),
            body_bytes: index.body_bytes(),
        }
    }

    fn add(&mut self, other: Self) {
        self.len += other.len;
        self.away += other.away;
        self.bytes += other.bytes;
        self.unreturned_bytes += other.unreturned_bytes;
        self.body_bytes += other.body_bytes;
    }

    fn subtract(&mut self, other: Self) {
        self.len -= other.len;
        self.away -= other.away;
        self.bytes -= other.bytes;
        self.unreturned_bytes -= other.unreturned_bytes;
        self.body_bytes -= other.body_bytes;
    }
}

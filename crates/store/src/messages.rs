//! Where the messages of a queue are: 16 octets each, in chunks that go when they are empty.
//!
//! A chunk covers 1,024 neighbouring places. While few of them are taken it is a short sorted list,
//! so that one stuck message in each thousand, or a thousand queues of one message, cost little.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::record::BODY_TIME;

/// Places of a chunk.
const CHUNK: usize = 1 << CHUNK_BITS;
const CHUNK_BITS: u32 = 10;

/// A list longer than this becomes an array.
const SPARSE_MAX: usize = 64;

/// An array with fewer than this becomes a list: well below [`SPARSE_MAX`], not to go to and fro.
const DENSE_MIN: u16 = 16;

/// Where a message is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Loc {
    /// Number of the segment. Never 0.
    pub(crate) segment: u32,
    /// Where its body begins; the sum is right before.
    pub(crate) offset: u32,
    /// Octets of its body.
    pub(crate) bytes: u32,
    /// See [`Loc::weight`]; the highest bit is [`Loc::has_time`].
    weight: u32,
}

/// The bit that says so.
const HAS_TIME: u32 = 1 << 31;

impl Loc {
    pub(crate) fn new(
        (segment, offset): (u32, u32),
        bytes: u32,
        weight: usize,
        has_time: bool,
    ) -> Self {
        let weight = u32::try_from(weight).unwrap_or(HAS_TIME).min(HAS_TIME - 1);
        Self {
            segment,
            offset,
            bytes,
            weight: if has_time { weight | HAS_TIME } else { weight },
        }
    }

    /// Octets of the segment that live because of it: with copies in n queues each has its share.
    pub(crate) fn weight(self) -> u32 {
        self.weight & !HAS_TIME
    }

    /// Octets of its block.
    pub(crate) fn block_bytes(self) -> u32 {
        let time = if self.has_time() { BODY_TIME } else { 0 };
        self.bytes.saturating_sub(time)
    }

    /// Whether the body begins with the time of arrival.
    pub(crate) fn has_time(self) -> bool {
        self.weight & HAS_TIME != 0
    }
}

/// The living messages of a queue by place.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    chunks: BTreeMap<u64, Chunk>,
    len: u64,
}

#[derive(Debug)]
enum Chunk {
    /// A single one: of messages with places far from each other a million are cheap too.
    One(u16, Loc),
    /// Sorted by place in the chunk.
    #[expect(
        clippy::box_collection,
        reason = "or each single one would take 8 octets more"
    )]
    Sparse(Box<Vec<(u16, Loc)>>),
    /// Segment 0: nothing there.
    Dense(u16, Box<[Loc; CHUNK]>),
}

impl Messages {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Puts a message in its place; what was there before comes back.
    pub(crate) fn insert(&mut self, seq: u64, loc: Loc) -> Option<Loc> {
        let (number, place) = split(seq);
        let chunk = self
            .chunks
            .entry(number)
            .or_insert_with(|| Chunk::One(place, Loc::default()));
        let before = chunk.insert(place, loc);
        self.len += u64::from(before.is_none());
        before
    }

    pub(crate) fn remove(&mut self, seq: u64) -> Option<Loc> {
        let (number, place) = split(seq);
        let chunk = self.chunks.get_mut(&number)?;
        let removed = chunk.remove(place)?;
        if chunk.is_empty() {
            self.chunks.remove(&number);
        }
        self.len -= 1;
        Some(removed)
    }

    pub(crate) fn get(&self, seq: u64) -> Option<Loc> {
        let (number, place) = split(seq);
        self.chunks.get(&number)?.get(place)
    }

    /// Takes out a run of places, in order. Costs what is there, however long the run.
    pub(crate) fn remove_run(&mut self, first: u64, last: u64, mut each: impl FnMut(Loc)) {
        if first == last {
            if let Some(loc) = self.remove(first) {
                each(loc);
            }
            return;
        }
        if first > last {
            return;
        }
        let numbers = self.chunks.range(first >> CHUNK_BITS..=last >> CHUNK_BITS);
        let numbers: Vec<u64> = numbers.map(|(number, _)| *number).collect();
        for number in numbers {
            let start = number << CHUNK_BITS;
            let end = start | (CHUNK as u64 - 1);
            if first <= start && end <= last {
                // A queue of millions is purged in a moment if it goes by chunks.
                let chunk = self.chunks.remove(&number);
                for (_, loc) in chunk.iter().flat_map(Chunk::iter) {
                    self.len -= 1;
                    each(loc);
                }
                continue;
            }
            let seqs = self.range(first.max(start)..=last.min(end));
            let seqs: Vec<u64> = seqs.map(|(seq, _)| seq).collect();
            for seq in seqs {
                if let Some(loc) = self.remove(seq) {
                    each(loc);
                }
            }
        }
    }

    /// Messages of these places, in order.
    pub(crate) fn range(&self, seqs: RangeInclusive<u64>) -> impl Iterator<Item = (u64, Loc)> {
        let (first, last) = (*seqs.start(), *seqs.end());
        let chunks = if first <= last {
            self.chunks.range(first >> CHUNK_BITS..=last >> CHUNK_BITS)
        } else {
            self.chunks.range(0..0)
        };
        chunks
            .flat_map(|(&number, chunk)| {
                let start = number << CHUNK_BITS;
                chunk
                    .iter()
                    .map(move |(place, loc)| (start | u64::from(place), loc))
            })
            .skip_while(move |(seq, _)| *seq < first)
            .take_while(move |(seq, _)| *seq <= last)
    }

    /// All of them, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, Loc)> {
        self.range(0..=u64::MAX)
    }

    /// Octets of memory, roughly.
    #[cfg(test)]
    fn memory_bytes(&self) -> usize {
        let chunks = self.chunks.values().map(|chunk| match chunk {
            Chunk::One(..) => 0,
            Chunk::Sparse(list) => list.capacity() * size_of::<(u16, Loc)>(),
            Chunk::Dense(..) => CHUNK * size_of::<Loc>(),
        });
        chunks.sum()
    }
}

impl Chunk {
    /// What is there, in order.
    fn iter(&self) -> impl Iterator<Item = (u16, Loc)> {
        let (one, list, array): (_, &[(u16, Loc)], &[Loc]) = match self {
            Self::One(place, loc) => (Some((*place, *loc)), &[], &[]),
            Self::Sparse(list) => (None, list, &[]),
            Self::Dense(_, array) => (None, &[], array.as_slice()),
        };
        let list = list.iter().copied();
        let array = (0..).zip(array.iter().copied());
        let all = one.into_iter().chain(list).chain(array);
        all.filter(|(_, loc)| loc.segment != 0)
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::One(_, loc) => loc.segment == 0,
            Self::Sparse(list) => list.is_empty(),
            Self::Dense(len, _) => *len == 0,
        }
    }

    fn get(&self, place: u16) -> Option<Loc> {
        match self {
            Self::One(at, loc) => (*at == place && loc.segment != 0).then_some(*loc),
            Self::Sparse(list) => {
                let at = list.binary_search_by_key(&place, |entry| entry.0).ok()?;
                list.get(at).map(|entry| entry.1)
            }
            Self::Dense(_, array) => {
                let loc = *array.get(usize::from(place))?;
                (loc.segment != 0).then_some(loc)
            }
        }
    }

    fn insert(&mut self, place: u16, loc: Loc) -> Option<Loc> {
        match self {
            Self::One(at, there) if *at == place || there.segment == 0 => {
                *at = place;
                let before = std::mem::replace(there, loc);
                (before.segment != 0).then_some(before)
            }
            Self::One(at, there) => {
                let mut list = vec![(*at, *there), (place, loc)];
                list.sort_unstable_by_key(|entry| entry.0);
                *self = Self::Sparse(Box::new(list));
                None
            }
            Self::Sparse(list) => {
                if list.last().is_none_or(|last| last.0 < place) {
                    list.push((place, loc));
                } else {
                    match list.binary_search_by_key(&place, |entry| entry.0) {
                        Ok(at) => {
                            return list
                                .get_mut(at)
                                .map(|entry| std::mem::replace(&mut entry.1, loc));
                        }
                        Err(at) => list.insert(at, (place, loc)),
                    }
                }
                if list.len() > SPARSE_MAX {
                    self.make_dense();
                }
                None
            }
            Self::Dense(len, array) => {
                let slot = array.get_mut(usize::from(place))?;
                let before = std::mem::replace(slot, loc);
                if before.segment == 0 {
                    *len += 1;
                    return None;
                }
                Some(before)
            }
        }
    }

    fn remove(&mut self, place: u16) -> Option<Loc> {
        match self {
            Self::One(at, loc) => {
                let before = (*at == place).then(|| std::mem::take(loc))?;
                (before.segment != 0).then_some(before)
            }
            Self::Sparse(list) => {
                let at = list.binary_search_by_key(&place, |entry| entry.0).ok()?;
                Some(list.remove(at).1)
            }
            Self::Dense(len, array) => {
                let slot = array.get_mut(usize::from(place))?;
                let before = std::mem::take(slot);
                if before.segment == 0 {
                    return None;
                }
                *len -= 1;
                if *len < DENSE_MIN {
                    self.make_sparse();
                }
                Some(before)
            }
        }
    }

    fn make_dense(&mut self) {
        let Self::Sparse(list) = self else { return };
        let mut array = Box::new([Loc::default(); CHUNK]);
        let mut len = 0;
        for &(place, loc) in list.iter() {
            if let Some(slot) = array.get_mut(usize::from(place)) {
                *slot = loc;
                len += 1;
            }
        }
        *self = Self::Dense(len, array);
    }

    fn make_sparse(&mut self) {
        let Self::Dense(_, array) = self else { return };
        let places = (0..).zip(array.iter().copied());
        let list = places.filter(|(_, loc)| loc.segment != 0).collect();
        *self = Self::Sparse(Box::new(list));
    }
}

/// Number of the chunk, and the place in it.
fn split(seq: u64) -> (u64, u16) {
    (seq >> CHUNK_BITS, (seq & (CHUNK as u64 - 1)) as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn loc(offset: u32) -> Loc {
        Loc::new((1, offset), 1, 1, true)
    }

    proptest! {
        #[test]
        fn does_what_a_plain_map_does(
            steps in prop::collection::vec(
                (0..3_u8, 0..5_000_u64, prop_oneof![0..3_u64, 0..3_000_u64]), 1..100),
        ) {
            let mut messages = Messages::default();
            let mut model = BTreeMap::new();
            for (number, (what, first, len)) in (1..).zip(steps) {
                match what {
                    0 => for seq in first..first + len {
                        prop_assert_eq!(messages.insert(seq, loc(number)), model.insert(seq, loc(number)));
                    },
                    1 => {
                        let mut removed = 0;
                        messages.remove_run(first, first + len, |_| removed += 1);
                        let before = model.len();
                        model.retain(|seq, _| !(first..=first + len).contains(seq));
                        prop_assert_eq!(removed, before - model.len());
                    }
                    _ => {
                        prop_assert_eq!(messages.remove(first), model.remove(&first));
                        prop_assert_eq!(messages.get(first + 1), model.get(&(first + 1)).copied());
                    }
                }
                let range: Vec<_> = messages.range(first..=first + len).collect();
                let expected: Vec<_> =
                    model.range(first..=first + len).map(|(seq, loc)| (*seq, *loc)).collect();
                prop_assert_eq!(range, expected);
                prop_assert_eq!(messages.len(), model.len() as u64);
            }
        }
    }

    #[test]
    fn one_stuck_message_in_each_thousand_costs_little() {
        let mut messages = Messages::default();
        for seq in 0..1_000_000 {
            messages.insert(seq, loc(1));
            if seq % 1_000 != 0 {
                messages.remove(seq);
            }
        }
        for seq in 0..1_000_000 {
            messages.insert(seq, loc(1));
        }
        assert!(messages.memory_bytes() < 17_000_000);
        messages.remove_run(1, 999_999, |_| {});
        for seq in (0..1_000_000).step_by(1_000) {
            messages.insert(seq, loc(1));
        }
        assert!(messages.memory_bytes() < 200_000);
        assert_eq!(messages.len(), 1_000);
    }

    #[test]
    fn messages_far_from_each_other_cost_nothing_but_their_entry() {
        let mut messages = Messages::default();
        for seq in 0..1_000 {
            messages.insert(seq << 20, loc(1));
        }
        assert_eq!(messages.memory_bytes(), 0);
        assert_eq!(size_of::<Chunk>(), 24);
    }

    #[test]
    fn the_last_places_of_all_are_places() {
        let mut messages = Messages::default();
        messages.insert(u64::MAX, loc(1));
        messages.insert(0, loc(2));
        assert_eq!(messages.iter().count(), 2);
        messages.remove_run(1, u64::MAX, |_| {});
        assert_eq!(messages.len(), 1);
    }
}

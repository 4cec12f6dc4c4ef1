//! The rest of a long backlog: stretches of messages in order, some of them away.
//!
//! Like a deque, but a message may leave from the midst of what is away however many stretches
//! there are: each goes by a place at or before its first, after all of the one before it.

use std::collections::{BTreeMap, VecDeque, btree_map};

use crate::ids::Seq;
use crate::log::Run;
use crate::queue::index::Entry;

/// Part of a backlog.
#[derive(Debug)]
pub(crate) enum Stretch {
    /// In memory.
    Here(VecDeque<Entry>),
    /// In the log or the swap area only.
    Away(Run),
}

#[derive(Debug, Default)]
pub(crate) struct Stretches(BTreeMap<Seq, Stretch>);

impl Stretch {
    fn first(&self) -> Seq {
        match self {
            Self::Here(entries) => entries.front().map_or(Seq(0), |entry| entry.seq),
            Self::Away(run) => run.first,
        }
    }

    /// What comes before a place that is not in it, and what comes after.
    fn split(self, seq: Seq) -> impl Iterator<Item = Self> {
        let (before, after) = match self {
            Self::Here(mut entries) => {
                let at = entries.partition_point(|entry| entry.seq < seq);
                let after = entries.split_off(at);
                let some = |part: VecDeque<_>| (!part.is_empty()).then_some(Self::Here(part));
                (some(entries), some(after))
            }
            Self::Away(run) => (Some(Self::Away(run)), None),
        };
        before.into_iter().chain(after)
    }
}

impl Stretches {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn front(&self) -> Option<&Stretch> {
        self.0.first_key_value().map(|(_, stretch)| stretch)
    }

    pub(crate) fn front_mut(&mut self) -> Option<&mut Stretch> {
        self.0.values_mut().next()
    }

    pub(crate) fn back(&self) -> Option<&Stretch> {
        self.0.last_key_value().map(|(_, stretch)| stretch)
    }

    pub(crate) fn back_mut(&mut self) -> Option<&mut Stretch> {
        self.0.values_mut().next_back()
    }

    /// The first place.
    pub(crate) fn first(&self) -> Option<Seq> {
        self.front().map(Stretch::first)
    }

    /// Adds a stretch that is not empty behind all others.
    pub(crate) fn push_back(&mut self, stretch: Stretch) {
        self.push(stretch);
    }

    /// Adds a stretch that is not empty, and in the midst of no other.
    fn push(&mut self, stretch: Stretch) {
        self.0.insert(stretch.first(), stretch);
    }

    /// Adds a stretch that is not empty before all others.
    pub(crate) fn push_front(&mut self, stretch: Stretch) {
        // What was first may go by a place that is this one's: of what it had, some has left.
        if let Some((_, front)) = self.0.pop_first() {
            self.push(front);
        }
        self.push(stretch);
    }

    pub(crate) fn pop_front(&mut self) {
        self.0.pop_first();
    }

    pub(crate) fn pop_back(&mut self) {
        self.0.pop_last();
    }

    pub(crate) fn iter(&self) -> btree_map::Values<'_, Seq, Stretch> {
        self.0.values()
    }

    /// Takes a message out that is here.
    pub(crate) fn take(&mut self, seq: Seq) -> Option<Entry> {
        let (&key, stretch) = self.0.range_mut(..=seq).next_back()?;
        let Stretch::Here(entries) = stretch else {
            return None;
        };
        let at = entries.binary_search_by_key(&seq, |entry| entry.seq).ok()?;
        let entry = entries.remove(at)?;
        if entries.is_empty() {
            self.0.remove(&key);
        }
        Some(entry)
    }

    /// Adds a place whose message is away, in the midst of what is here if need be.
    pub(crate) fn put_back_away(&mut self, seq: Seq, bytes: u64) {
        let before = self.0.range_mut(..=seq).next_back();
        if let Some((_, Stretch::Away(run))) = before
            && run.first < seq
            && run.last.0 + 1 == seq.0
        {
            run.last = seq;
            run.bytes += bytes;
            return;
        }
        let before = self.0.range(..=seq).next_back();
        let key = before.map(|(&key, _)| key);
        if let Some(key) = key
            && let Some(stretch) = self.0.remove(&key)
        {
            // It may go by a place before its first: this one is to have that.
            for part in stretch.split(seq) {
                self.push(part);
            }
        }
        self.push(Stretch::Away(Run {
            first: seq,
            last: seq,
            bytes,
        }));
    }

    /// Whether a message is away.
    pub(crate) fn is_away(&self, seq: Seq) -> bool {
        let stretch = self.0.range(..=seq).next_back();
        matches!(stretch, Some((_, Stretch::Away(run))) if run.first <= seq && seq <= run.last)
    }

    /// Takes out a place whose message is away. Returns its share of the octets there.
    pub(crate) fn drop_away(&mut self, seq: Seq) -> Option<u64> {
        let (&key, stretch) = self.0.range_mut(..=seq).next_back()?;
        let Stretch::Away(run) = stretch else {
            return None;
        };
        if seq < run.first || seq > run.last {
            return None;
        }
        let places = run.last.0 - run.first.0 + 1;
        let share = run.bytes / places;
        if places == 1 {
            let bytes = run.bytes;
            self.0.remove(&key);
            return Some(bytes);
        }
        let (last, rest) = (run.last, run.bytes - share);
        if seq == run.first {
            *run = Run {
                first: Seq(seq.0 + 1),
                last,
                bytes: rest,
            };
        } else {
            let before = share * (seq.0 - run.first.0);
            let before = if seq == last { rest } else { before.min(rest) };
            *run = Run {
                first: run.first,
                last: Seq(seq.0 - 1),
                bytes: before,
            };
            if seq < last {
                self.push_back(Stretch::Away(Run {
                    first: Seq(seq.0 + 1),
                    last,
                    bytes: rest - before,
                }));
            }
        }
        Some(share)
    }
}

impl FromIterator<Stretch> for Stretches {
    fn from_iter<T: IntoIterator<Item = Stretch>>(stretches: T) -> Self {
        let keyed = stretches.into_iter().map(|s| (s.first(), s));
        Self(keyed.collect())
    }
}

impl IntoIterator for Stretches {
    type Item = Stretch;
    type IntoIter = btree_map::IntoValues<Seq, Stretch>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_values()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_place_comes_back_wherever_it_was() {
        let here = |places: &[u64]| {
            let entry = |&place: &u64| Entry {
                message: crate::message::Message::empty(),
                seq: Seq(place),
                deliveries: 0,
                failures: 0,
            };
            Stretch::Here(places.iter().map(entry).collect())
        };
        let all = |stretches: &Stretches| -> Vec<u64> {
            let each = |stretch: &Stretch| match stretch {
                Stretch::Here(entries) => entries.iter().map(|e| e.seq.0).collect(),
                Stretch::Away(run) => (run.first.0..=run.last.0).collect::<Vec<_>>(),
            };
            stretches.iter().flat_map(each).collect()
        };
        let mut stretches: Stretches = [away(10, 12), here(&[20, 22, 24]), away(30, 33)]
            .into_iter()
            .collect();
        stretches.drop_away(Seq(10));
        stretches.take(Seq(20));
        for back in [33 + 1, 23, 20, 13, 10, 5, 40, 21] {
            stretches.put_back_away(Seq(back), 7);
            assert!(stretches.is_away(Seq(back)), "{back}");
            assert!(all(&stretches).is_sorted_by(|a, b| a < b), "{back}");
        }
        let expected = [
            5, 10, 11, 12, 13, 20, 21, 22, 23, 24, 30, 31, 32, 33, 34, 40,
        ];
        assert_eq!(all(&stretches), expected);
        for gone in [5, 10, 11, 12, 13, 20, 21, 23, 30, 31, 32, 33, 34, 40] {
            assert!(stretches.drop_away(Seq(gone)).is_some(), "{gone}");
        }
        assert_eq!(all(&stretches), [22, 24]);
    }

    fn away(first: u64, last: u64) -> Stretch {
        Stretch::Away(Run {
            first: Seq(first),
            last: Seq(last),
            bytes: 10 * (last - first + 1),
        })
    }

    fn places(stretches: &Stretches) -> Vec<u64> {
        let run = |stretch: &Stretch| match stretch {
            Stretch::Away(run) => run.first.0..run.last.0 + 1,
            Stretch::Here(_) => 0..0,
        };
        stretches.iter().flat_map(run).collect()
    }

    proptest! {
        /// Whatever leaves, in whatever order: the others stay, and all octets go in the end.
        #[test]
        fn what_is_away_leaves_from_anywhere(
            gone in prop::collection::vec(0..70_u64, 0..100),
        ) {
            let mut stretches: Stretches = [away(1, 20), away(25, 25), away(30, 60)]
                .into_iter()
                .collect();
            let mut model: std::collections::BTreeSet<u64> = places(&stretches).into_iter().collect();
            let mut bytes = 10 * model.len() as u64;
            for seq in gone.into_iter().chain(0..70) {
                prop_assert_eq!(stretches.is_away(Seq(seq)), model.contains(&seq));
                let share = stretches.drop_away(Seq(seq));
                prop_assert_eq!(share.is_some(), model.remove(&seq));
                bytes -= share.unwrap_or(0);
                prop_assert_eq!(places(&stretches), model.iter().copied().collect::<Vec<_>>());
                let of = |stretch: &Stretch| match stretch {
                    Stretch::Away(run) => run.bytes,
                    Stretch::Here(_) => 0,
                };
                prop_assert_eq!(stretches.iter().map(of).sum::<u64>(), bytes);
            }
            prop_assert_eq!(bytes, 0);
        }
    }
}

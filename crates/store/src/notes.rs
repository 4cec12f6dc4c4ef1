//! The notes of a vhost that are there: very many, and most of them small.
//!
//! A broker with 100,000 schedules has 200,000 of them in memory for good. So a note has no place
//! among the other definitions, where only the order of records would be its key; a small one is a
//! single allocation; and what is not small is shared with whoever noted it.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use leveret_core::record::Note;

use crate::format::{Input, put_bytes, put_varint, varint_len};

/// Values up to so many octets are copied, to lie beside their key. States and runs of schedules
/// are that small, and nobody holds their octets for long; their orders are not.
const COPIED_MAX: usize = 96;

/// What is kept, by its key.
#[derive(Debug, Default)]
pub(crate) struct Notes(BTreeSet<Kept>);

/// A note with the number of its record. Compared by its key alone.
#[derive(Debug)]
enum Kept {
    /// Length of the key, key, number, value; both numbers as in a file.
    Small(Box<[u8]>),
    Shared(Box<Shared>),
}

#[derive(Debug)]
struct Shared {
    lsn: u64,
    key: Arc<[u8]>,
    value: Arc<[u8]>,
}

impl Notes {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Keeps a note, or nothing any more under its key.
    pub(crate) fn apply(&mut self, lsn: u64, note: Note) {
        match note.value {
            Some(value) => {
                self.0.replace(Kept::new(lsn, note.key, value));
            }
            None => {
                self.0.remove(&*note.key);
            }
        }
    }

    /// Number of its record, key and value of each, in the order of keys, from behind this one on.
    pub(crate) fn after(&self, after: Option<&[u8]>) -> impl Iterator<Item = (u64, &[u8], &[u8])> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.0.range::<[u8], _>((from, Bound::Unbounded));
        rest.map(Kept::parts)
    }

    /// In the order of their records; those of one record in the order of their keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, Note)> {
        let mut all: Vec<_> = self.0.iter().map(|kept| (kept.lsn(), kept)).collect();
        all.sort_by_key(|(lsn, _)| *lsn);
        all.into_iter().map(|(lsn, kept)| (lsn, kept.note()))
    }
}

impl Kept {
    fn new(lsn: u64, key: Arc<[u8]>, value: Arc<[u8]>) -> Self {
        if value.len() > COPIED_MAX {
            return Self::Shared(Box::new(Shared { lsn, key, value }));
        }
        let len = key.len() as u64;
        let len = varint_len(len) + key.len() + varint_len(lsn) + value.len();
        let mut octets = Vec::with_capacity(len);
        put_bytes(&mut octets, &key);
        put_varint(&mut octets, lsn);
        octets.extend_from_slice(&value);
        Self::Small(octets.into())
    }

    fn lsn(&self) -> u64 {
        match self {
            Self::Small(octets) => small(octets).1,
            Self::Shared(shared) => shared.lsn,
        }
    }

    fn key(&self) -> &[u8] {
        match self {
            Self::Small(octets) => small(octets).0,
            Self::Shared(shared) => &shared.key,
        }
    }

    fn parts(&self) -> (u64, &[u8], &[u8]) {
        match self {
            Self::Small(octets) => {
                let (key, lsn, value) = small(octets);
                (lsn, key, value)
            }
            Self::Shared(shared) => (shared.lsn, &shared.key, &shared.value),
        }
    }

    fn note(&self) -> Note {
        let (key, value) = match self {
            Self::Small(octets) => {
                let (key, _, value) = small(octets);
                (Arc::from(key), Arc::from(value))
            }
            Self::Shared(shared) => (Arc::clone(&shared.key), Arc::clone(&shared.value)),
        };
        let value = Some(value);
        Note { key, value }
    }
}

/// Key, number and value of a small note.
fn small(octets: &[u8]) -> (&[u8], u64, &[u8]) {
    let mut input = Input(octets);
    let key = input.bytes().unwrap_or_default();
    let lsn = input.varint().unwrap_or_default();
    (key, lsn, input.0)
}

impl Borrow<[u8]> for Kept {
    fn borrow(&self) -> &[u8] {
        self.key()
    }
}

impl Ord for Kept {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(other.key())
    }
}

impl PartialOrd for Kept {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Kept {}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(key: &str, value: Option<&[u8]>) -> Note {
        Note {
            key: key.as_bytes().into(),
            value: value.map(Into::into),
        }
    }

    #[test]
    fn notes_come_back_as_they_were_whatever_their_length() {
        let mut notes = Notes::default();
        let mut expected = Vec::new();
        let lens = [0, 1, COPIED_MAX, COPIED_MAX + 1, 10_000];
        for (n, len) in lens.into_iter().enumerate() {
            let lsn = 100 - n as u64;
            let kept = note(&format!("n\0{n}"), Some(&vec![7; len]));
            notes.apply(lsn, kept.clone());
            expected.insert(0, (lsn, kept));
        }
        let empty = note("", Some(b"no key"));
        notes.apply(3, empty.clone());
        expected.insert(0, (3, empty));
        assert_eq!(notes.iter().collect::<Vec<_>>(), expected, "by record");
        assert_eq!(notes.len(), expected.len());
    }

    #[test]
    fn the_last_word_holds() {
        let mut notes = Notes::default();
        let long = vec![1; COPIED_MAX + 1];
        let words: [&[u8]; 4] = [b"one", &long, b"three", &long];
        for (lsn, word) in (1..).zip(words) {
            let last = note("k", Some(word));
            notes.apply(lsn, last.clone());
            assert_eq!(notes.iter().collect::<Vec<_>>(), [(lsn, last)]);
        }
        notes.apply(9, note("other", None));
        assert_eq!(notes.len(), 1);
        notes.apply(10, note("k", None));
        assert_eq!((notes.len(), notes.iter().count()), (0, 0));
    }

    /// 100,000 schedules are 200,000 notes: see `docs/scheduling.md`.
    #[test]
    fn a_note_takes_one_place_and_what_is_long_is_shared() {
        assert_eq!(size_of::<Kept>(), 16, "a place among the notes");
        assert_eq!(size_of::<Shared>(), 40, "beside key and value");
        let mut notes = Notes::default();
        let long = note("long", Some(&[0; COPIED_MAX + 1]));
        notes.apply(1, long.clone());
        notes.apply(2, note("small", Some(&[0; COPIED_MAX])));
        let value = long.value.as_ref();
        assert_eq!(value.map(Arc::strong_count), Some(2), "this, and kept");
        assert_eq!(Arc::strong_count(&long.key), 2);
        let small = notes.0.get(&b"small"[..]);
        assert!(
            matches!(small, Some(Kept::Small(octets)) if octets.len() == 1 + 5 + 1 + COPIED_MAX)
        );
    }
}

//! Delayed messages by their `message-id`, as far as they are in memory.
//!
//! Twenty-four octets or so for each, beside a message of some hundreds: what is in the log alone
//! has no part in it.

use std::collections::BTreeSet;
use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use leveret_codec::flags;

use crate::ids::Seq;
use crate::map::HashSeed;
use crate::message::Message;

/// Places by a number made of the `message-id`. Several messages may have the same one, and two of
/// them the same number: who asks looks at the message itself.
#[derive(Debug)]
pub(super) struct Names {
    hasher: FixedState,
    places: BTreeSet<(u64, Seq)>,
}

impl Names {
    pub(super) fn new(seed: HashSeed) -> Self {
        Self {
            hasher: seed.hasher(),
            places: BTreeSet::new(),
        }
    }

    /// A message has come into memory.
    pub(super) fn insert(&mut self, place: Seq, message: &Message) {
        if let Some(name) = self.name(message) {
            self.places.insert((name, place));
        }
    }

    /// A message has left memory.
    pub(super) fn remove(&mut self, place: Seq, message: &Message) {
        if let Some(name) = self.name(message) {
            self.places.remove(&(name, place));
        }
    }

    /// Where there may be messages with this `message-id`.
    pub(super) fn find(&self, id: &str) -> impl Iterator<Item = Seq> {
        let name = self.hasher.hash_one(id.as_bytes());
        let range = (name, Seq(0))..=(name, Seq(u64::MAX));
        self.places.range(range).map(|&(_, place)| place)
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    fn name(&self, message: &Message) -> Option<u64> {
        if message.property_flags() & flags::MESSAGE_ID == 0 {
            return None;
        }
        let id = message.properties().message_id?;
        Some(self.hasher.hash_one(&*id))
    }
}

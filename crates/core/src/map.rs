//! The hash map of the core: fast, seeded by the caller, never iterated where order shows.

use foldhash::fast::FixedState;

/// A map whose hasher is seeded once per broker: clients cannot aim at its buckets, and a
/// simulation with the same seed behaves the same.
pub(crate) type Map<K, V> = hashbrown::HashMap<K, V, FixedState>;

/// What the hashers of one broker are seeded with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HashSeed(pub(crate) u64);

impl HashSeed {
    pub(crate) fn hasher(self) -> FixedState {
        FixedState::with_seed(self.0)
    }

    pub(crate) fn map<K, V>(self) -> Map<K, V> {
        Map::with_hasher(self.hasher())
    }
}

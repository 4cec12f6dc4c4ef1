//! The hash map of the core: fast, seeded by the caller, never iterated where order shows.

use foldhash::fast::FixedState;

/// A map whose hasher is seeded once per broker ([`hasher`]): clients cannot aim at its buckets,
/// and a simulation with the same seed behaves the same.
pub(crate) type Map<K, V> = hashbrown::HashMap<K, V, FixedState>;

/// The hasher of all maps of one broker.
pub(crate) fn hasher(seed: u64) -> FixedState {
    FixedState::with_seed(seed)
}

//! Where the timers of a wheel are stored: nodes of linked lists, known by index.
//!
//! Nodes live in chunks of fixed size, so growing never copies what is there already (a million
//! timers would stall a turn for milliseconds) and never reserves twice what is needed. A node
//! costs 16 bytes and the item: 24 for an 8-byte item.
//!
//! Invariants:
//! - a node is either in exactly one list of the wheel (stamp not 0) or on the free list (stamp 0);
//! - stamps come from one counter, so a key that outlived its timer does not open the next timer
//!   in the same place, even after the chunks were given back.

use std::num::NonZeroU32;

/// Nodes a chunk: 6 KiB with an 8-byte item, the least a wheel in use takes for its timers.
const CHUNK_BITS: u32 = 8;
const CHUNK_LEN: usize = 1 << CHUNK_BITS;

/// A wheel that grew no larger keeps its chunks when it empties, so that it does not allocate again.
const CHUNKS_KEPT: usize = 4;

/// Ids from here on are lists, below are nodes.
pub(crate) const LIST_BIT: u32 = 1 << 31;

/// End of the free list. Not the index of a node, because it has [`LIST_BIT`].
const NONE: u32 = u32::MAX;

/// Which timer to cancel: returned by [`Wheel::insert`](crate::Wheel::insert).
///
/// Stays harmless after its timer fired or was cancelled, until 2^32 - 1 more timers have been
/// inserted into the same wheel: from then on it may name another timer by chance, so do not keep
/// keys of timers that have fired.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TimerKey {
    pub(crate) index: u32,
    stamp: NonZeroU32,
}

/// One timer.
pub(crate) struct Node<T> {
    /// Low 32 bits of the due time; the list it is in knows the others.
    pub(crate) due_low: u32,
    /// A node, or the list itself behind the last one.
    pub(crate) next: u32,
    /// A node, or the list itself before the first one.
    pub(crate) prev: u32,
    stamp: u32,
    pub(crate) item: T,
}

pub(crate) struct Slab<T> {
    chunks: Vec<Vec<Node<T>>>,
    free: u32, // linked through `next`
    len: usize,
    stamp: NonZeroU32,
}

impl<T: Copy> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self {
            chunks: Vec::new(),
            free: NONE,
            len: 0,
            stamp: NonZeroU32::MIN,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn node(&self, index: u32) -> &Node<T> {
        &self.chunks[(index >> CHUNK_BITS) as usize][index as usize % CHUNK_LEN]
    }

    pub(crate) fn node_mut(&mut self, index: u32) -> &mut Node<T> {
        &mut self.chunks[(index >> CHUNK_BITS) as usize][index as usize % CHUNK_LEN]
    }

    /// Stores `item` in a node whose links and due time the caller sets.
    pub(crate) fn insert(&mut self, item: T) -> TimerKey {
        let stamp = self.stamp;
        self.stamp = stamp.checked_add(1).unwrap_or(NonZeroU32::MIN);
        self.len += 1;
        let node = Node {
            due_low: 0,
            next: NONE,
            prev: NONE,
            stamp: stamp.get(),
            item,
        };
        if self.free != NONE {
            let index = self.free;
            let place = self.node_mut(index);
            let next_free = place.next;
            *place = node;
            self.free = next_free;
            return TimerKey { index, stamp };
        }
        match self.chunks.last_mut() {
            Some(last) if last.len() < CHUNK_LEN => last.push(node),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK_LEN);
                chunk.push(node);
                self.chunks.push(chunk);
            }
        }
        let index = self.last_index();
        TimerKey { index, stamp }
    }

    /// The index behind `key` while its timer is waiting.
    pub(crate) fn find(&self, key: TimerKey) -> Option<u32> {
        let chunk = self.chunks.get((key.index >> CHUNK_BITS) as usize)?;
        let node = chunk.get(key.index as usize % CHUNK_LEN)?;
        (node.stamp == key.stamp.get()).then_some(key.index)
    }

    /// Frees a node that is in no list any more.
    pub(crate) fn remove(&mut self, index: u32) -> T {
        let free = self.free;
        let node = self.node_mut(index);
        debug_assert_ne!(node.stamp, 0, "freed twice");
        node.stamp = 0;
        node.next = free;
        let item = node.item;
        self.free = index;
        self.len -= 1;
        item
    }

    /// Gives memory back when nothing waits: a burst of timers does not occupy it for ever.
    pub(crate) fn shrink_if_empty(&mut self) {
        if self.len == 0 && self.chunks.len() > CHUNKS_KEPT {
            self.chunks.truncate(1);
            self.chunks.iter_mut().for_each(Vec::clear);
            self.chunks.shrink_to_fit();
            self.free = NONE;
        }
    }

    /// Index of the node pushed last; all chunks before the last are full.
    fn last_index(&self) -> u32 {
        let full = (self.chunks.len() - 1) << CHUNK_BITS;
        let in_last = self.chunks.last().map_or(0, Vec::len) - 1;
        let index = u32::try_from(full + in_last).unwrap_or(NONE);
        assert!(index < LIST_BIT, "a wheel holds at most 2^31 timers");
        index
    }
}

//! The wheel: lists of timers by how far away they are.
//!
//! Time is cut into *windows* of 2^30 ms (12.4 days). Timers of the current window are in one of
//! 5 levels of 64 slots: a slot is 1 ms wide on level 0, 64 ms on level 1, ... 4.7 h on level 4.
//! The level of a timer is the highest 6-bit digit in which its due time differs from the present,
//! the slot is that digit. When the present enters a slot of a higher level, its timers move to
//! lower levels ("cascade"); one moves at most 5 times in its life. Timers of other windows, years
//! ahead or overdue, are in one list a window, kept in a `BTreeMap`: there are few windows.
//!
//! All lists are doubly linked through the nodes themselves, so inserting and cancelling touch only
//! neighbours. A node stores the low 32 bits of its due time; its list knows the others.
//!
//! Invariants, asserted by `Wheel::check` in the tests below:
//! - a timer is in the list that `elapsed_ms` and its due time prescribe. So timers of one due time
//!   are always in one list, and as lists are filled at the tail and emptied from the head, they
//!   fire in the order in which they were inserted;
//! - a slot of a lower level comes before every slot of a higher one, and within a level the slots
//!   do not wrap around: the first slot of the first level that is not empty is the earliest;
//! - `List::earliest_ms` is never later than any timer of the list. It is exact until the earliest
//!   one is cancelled, and again after the next cascade;
//! - a list is empty exactly if its bit in `occupied` is clear, or it is not in `windows`.

use std::collections::BTreeMap;
use std::fmt;

use crate::slab::{LIST_BIT, Slab, TimerKey};

const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVELS: usize = 5;
const WINDOW_BITS: u32 = SLOT_BITS * LEVELS as u32;

/// Lists `0..SLOT_LISTS` are the slots, level by level; the others belong to windows.
const SLOT_LISTS: usize = LEVELS * SLOTS;

// The due time of a timer is put together from its low 32 bits and the start of its list.
const _: () = assert!(WINDOW_BITS <= 32);

/// Timers ordered by due time, in milliseconds.
///
/// "Milliseconds" since any origin that the caller likes: only the numbers count, and they are the
/// caller's own clock readings. Every `u64` is a valid due time. An empty wheel takes 8 KiB, a timer
/// 16 bytes and its item.
///
/// | operation | cost |
/// | --- | --- |
/// | [`insert`](Self::insert) | constant; more than 12 days away O(log windows in use) |
/// | [`cancel`](Self::cancel) | constant, at once: nothing stays behind |
/// | [`next_due`](Self::next_due) | constant |
/// | [`advance`](Self::advance) | constant per timer fired or cascaded, whatever time has passed |
pub struct Wheel<T> {
    timers: Slab<T>,
    lists: Vec<List>,
    /// Bit per slot and level: the list of the slot is not empty.
    occupied: [u64; LEVELS],
    /// Lists that are not empty by number of window (due time >> 30): later than the current one,
    /// or overdue, which then includes the current one.
    windows: BTreeMap<u64, u32>,
    /// Lists of windows not in use.
    lists_free: Vec<u32>,
    /// The latest time heard of. Timers due before it are overdue, those due at it in level 0.
    elapsed_ms: u64,
}

/// Timers in the order in which they were inserted.
struct List {
    /// A node, or the list's own id if it is empty.
    head: u32,
    tail: u32,
    /// No timer is due earlier, and all share its bits from 32 on. Set while the list is not empty.
    start_ms: u64,
    /// No timer is due earlier, and mostly one is due then.
    earliest_ms: u64,
}

impl<T: Copy> Wheel<T> {
    /// An empty wheel at the time `now_ms`.
    #[must_use]
    pub fn new(now_ms: u64) -> Self {
        Self {
            timers: Slab::new(),
            lists: (0..SLOT_LISTS).map(List::empty).collect(),
            occupied: [0; LEVELS],
            windows: BTreeMap::new(),
            lists_free: Vec::new(),
            elapsed_ms: now_ms,
        }
    }

    /// Number of timers waiting.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.timers.len()
    }

    /// Whether no timer is waiting.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a timer: the first [`advance`](Self::advance) to `due_ms` or later returns `item`.
    ///
    /// A due time in the past is kept as it is and fires at the next `advance`, before all others.
    ///
    /// # Panics
    /// If 2^31 timers are waiting already (48 GiB of them).
    pub fn insert(&mut self, due_ms: u64, item: T) -> TimerKey {
        let key = self.timers.insert(item);
        self.timers.node_mut(key.index).due_low = due_ms as u32; // the list keeps the rest
        let list = if due_ms >= self.elapsed_ms && window_of(due_ms) == window_of(self.elapsed_ms) {
            self.open_slot(due_ms)
        } else {
            self.open_window(due_ms)
        };
        self.append(list, key.index, due_ms);
        key
    }

    /// Takes a timer out before it fires; `None` if it has fired or was cancelled before.
    pub fn cancel(&mut self, key: TimerKey) -> Option<T> {
        let index = self.timers.find(key)?;
        let node = self.timers.node(index);
        let (prev, next) = (node.prev, node.next);
        self.link(prev, next);
        if prev == next {
            self.close((prev & !LIST_BIT) as usize); // the list was the neighbour on both sides
        }
        let item = self.timers.remove(index);
        self.timers.shrink_if_empty();
        Some(item)
    }

    /// When to call [`advance`](Self::advance) next, `None` if no timer is waiting.
    ///
    /// Never later than the earliest timer, and equal to it except after the earliest timer of a
    /// slot was cancelled: then it may still be that one's time, and the `advance` at that time
    /// fires nothing but makes the next answer exact.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        let window = self.windows.first_key_value();
        let list = match (window, self.first_slot()) {
            (Some((window, list)), Some(_)) if *window <= window_of(self.elapsed_ms) => *list,
            (_, Some(slot)) => slot,
            (Some((_, list)), None) => *list,
            (None, None) => return None,
        };
        Some(self.lists[list as usize].earliest_ms)
    }

    /// Tells the time, and appends all timers that are due at `now_ms` or earlier to `fired`: in
    /// order of due time, and of insertion where that is equal, each with its due time.
    ///
    /// Nothing fires before its time. Time does not run backwards: an earlier `now_ms` than the
    /// latest one counts as the latest one.
    pub fn advance(&mut self, now_ms: u64, fired: &mut Vec<(u64, T)>) {
        let now_ms = now_ms.max(self.elapsed_ms);
        let window_now = window_of(now_ms);

        self.fire_windows_until(window_of(self.elapsed_ms), fired); // the overdue
        self.fire_slots_until(now_ms.min(window_end(self.elapsed_ms)), fired);
        if window_of(self.elapsed_ms) != window_now {
            // The levels are empty now. Whole windows may have gone by.
            if let Some(before) = window_now.checked_sub(1) {
                self.fire_windows_until(before, fired);
            }
            self.elapsed_ms = window_now << WINDOW_BITS;
            if let Some(&list) = self.windows.get(&window_now) {
                self.cascade(list);
            }
            self.fire_slots_until(now_ms, fired);
        }
        self.timers.shrink_if_empty();
    }

    /// Fires the lists of windows up to `window_last`, all of whose timers are due.
    fn fire_windows_until(&mut self, window_last: u64, fired: &mut Vec<(u64, T)>) {
        while let Some((&window, &list)) = self.windows.first_key_value()
            && window <= window_last
        {
            let first = fired.len();
            self.fire_list(list, fired);
            fired[first..].sort_by_key(|&(due_ms, _)| due_ms); // stable: insertion order stays
        }
    }

    /// Fires what is due in the levels up to `until_ms`, a time in the current window, and makes
    /// that the present.
    fn fire_slots_until(&mut self, until_ms: u64, fired: &mut Vec<(u64, T)>) {
        while let Some(slot) = self.first_slot() {
            let start_ms = self.lists[slot as usize].start_ms;
            if start_ms > until_ms {
                break;
            }
            if (slot as usize) < SLOTS {
                self.fire_list(slot, fired); // level 0: one due time
            } else {
                self.elapsed_ms = start_ms;
                self.cascade(slot);
            }
        }
        self.elapsed_ms = until_ms;
    }

    /// Empties a list into `fired`, in the order of the list.
    fn fire_list(&mut self, list: u32, fired: &mut Vec<(u64, T)>) {
        let start_ms = self.lists[list as usize].start_ms;
        let mut at = self.take(list);
        while at & LIST_BIT == 0 {
            let node = self.timers.node(at);
            let (next, due_ms) = (node.next, due_in(start_ms, node.due_low));
            fired.push((due_ms, self.timers.remove(at)));
            at = next;
        }
    }

    /// Moves the timers of a list, which begins at the present, to lower levels.
    fn cascade(&mut self, list: u32) {
        let start_ms = self.lists[list as usize].start_ms;
        let mut at = self.take(list);
        while at & LIST_BIT == 0 {
            let node = self.timers.node(at);
            let (next, due_ms) = (node.next, due_in(start_ms, node.due_low));
            let slot = self.open_slot(due_ms);
            self.append(slot, at, due_ms);
            at = next;
        }
    }

    /// Leaves a list empty and returns its former head; the chain ends with the list's own id.
    fn take(&mut self, list: u32) -> u32 {
        let id = list | LIST_BIT;
        let head = self.lists[list as usize].head;
        self.link(id, id);
        self.close(list as usize);
        head
    }

    /// The slot of the levels that holds the earliest timers.
    fn first_slot(&self) -> Option<u32> {
        let level = self.occupied.iter().position(|&slots| slots != 0)?;
        Some(((level as u32) << SLOT_BITS) + self.occupied[level].trailing_zeros())
    }

    /// The list for a due time in the current window, at the present or later.
    fn open_slot(&mut self, due_ms: u64) -> u32 {
        let differing = due_ms ^ self.elapsed_ms;
        let level = differing.checked_ilog2().map_or(0, |bit| bit / SLOT_BITS);
        let shift = level * SLOT_BITS;
        let slot = (due_ms >> shift) as u32 % SLOTS as u32;
        let list = (level << SLOT_BITS) + slot;
        let bit = 1 << slot;
        if self.occupied[level as usize] & bit == 0 {
            self.occupied[level as usize] |= bit;
            self.lists[list as usize].open(due_ms >> shift << shift);
        }
        list
    }

    /// The list for a due time in another window, or for one that is overdue.
    fn open_window(&mut self, due_ms: u64) -> u32 {
        let window = window_of(due_ms);
        if let Some(&list) = self.windows.get(&window) {
            return list;
        }
        let list = self.lists_free.pop().unwrap_or_else(|| {
            let list = self.lists.len();
            assert!(list < (LIST_BIT as usize), "2^31 windows in use");
            self.lists.push(List::empty(list));
            list as u32
        });
        self.lists[list as usize].open(window << WINDOW_BITS);
        self.windows.insert(window, list);
        list
    }

    /// Notes that a list has become empty.
    fn close(&mut self, list: usize) {
        if list < SLOT_LISTS {
            self.occupied[list >> SLOT_BITS] &= !(1 << (list % SLOTS));
        } else {
            self.windows.remove(&window_of(self.lists[list].start_ms));
            self.lists_free.push(list as u32);
        }
    }

    fn append(&mut self, list: u32, index: u32, due_ms: u64) {
        let entry = &mut self.lists[list as usize];
        entry.earliest_ms = entry.earliest_ms.min(due_ms);
        let tail = entry.tail;
        self.link(tail, index);
        self.link(index, list | LIST_BIT);
    }

    /// Makes two ids, nodes or lists, neighbours.
    fn link(&mut self, before: u32, after: u32) {
        if before & LIST_BIT == 0 {
            self.timers.node_mut(before).next = after;
        } else {
            self.lists[(before & !LIST_BIT) as usize].head = after;
        }
        if after & LIST_BIT == 0 {
            self.timers.node_mut(after).prev = before;
        } else {
            self.lists[(after & !LIST_BIT) as usize].tail = before;
        }
    }
}

impl<T> fmt::Debug for Wheel<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wheel")
            .field("elapsed_ms", &self.elapsed_ms)
            .field("occupied", &self.occupied)
            .field("windows", &self.windows.len())
            .finish_non_exhaustive()
    }
}

impl List {
    fn empty(list: usize) -> Self {
        let id = list as u32 | LIST_BIT;
        Self {
            head: id,
            tail: id,
            start_ms: 0,
            earliest_ms: u64::MAX,
        }
    }

    const fn open(&mut self, start_ms: u64) {
        self.start_ms = start_ms;
        self.earliest_ms = u64::MAX;
    }
}

const fn window_of(due_ms: u64) -> u64 {
    due_ms >> WINDOW_BITS
}

/// The last millisecond of the window of `due_ms`.
const fn window_end(due_ms: u64) -> u64 {
    due_ms | ((1 << WINDOW_BITS) - 1)
}

/// The due time of a timer in a list that starts at `start_ms`.
const fn due_in(start_ms: u64, due_low: u32) -> u64 {
    (start_ms & !(u32::MAX as u64)) | due_low as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    impl<T: Copy> Wheel<T> {
        /// Asserts the invariants in the header of this file.
        fn check(&self) {
            let mut counted = 0;
            let mut last_of_levels = 0;
            for list in 0..SLOT_LISTS {
                let (level, slot) = (list >> SLOT_BITS, list % SLOTS);
                let occupied = self.occupied[level] & (1 << slot) != 0;
                let dues = self.dues(list);
                assert_eq!(occupied, !dues.is_empty());
                counted += dues.len();
                for &due_ms in &dues {
                    assert_eq!(window_of(due_ms), window_of(self.elapsed_ms));
                    let differing = due_ms ^ self.elapsed_ms;
                    let expected = differing.checked_ilog2().unwrap_or(0) / SLOT_BITS;
                    assert_eq!(level, expected as usize);
                    assert_eq!(slot as u64, (due_ms >> (level as u32 * SLOT_BITS)) % 64);
                }
                if let Some(earliest_ms) = dues.iter().min() {
                    assert!(last_of_levels <= *earliest_ms, "slots are in order of time");
                    last_of_levels = *dues.iter().max().unwrap();
                }
            }
            for (&window, &list) in &self.windows {
                let dues = self.dues(list as usize);
                assert!(!dues.is_empty());
                counted += dues.len();
                for &due_ms in &dues {
                    assert_eq!(window_of(due_ms), window);
                    assert!(due_ms < self.elapsed_ms || window > window_of(self.elapsed_ms));
                }
            }
            assert_eq!(
                self.lists.len(),
                SLOT_LISTS + self.windows.len() + self.lists_free.len()
            );
            assert_eq!(counted, self.len());
        }

        fn dues(&self, list: usize) -> Vec<u64> {
            let mut dues = Vec::new();
            let mut before = list as u32 | LIST_BIT;
            let mut at = self.lists[list].head;
            while at & LIST_BIT == 0 {
                let node = self.timers.node(at);
                assert_eq!(node.prev, before);
                let due_ms = due_in(self.lists[list].start_ms, node.due_low);
                assert!(self.lists[list].start_ms <= due_ms);
                assert!(self.lists[list].earliest_ms <= due_ms);
                dues.push(due_ms);
                (before, at) = (at, node.next);
            }
            assert_eq!(at, list as u32 | LIST_BIT);
            assert_eq!(self.lists[list].tail, before);
            dues
        }
    }

    /// A fixed sequence that looks random: every distance on every level, cancels, small and large
    /// steps in time.
    #[test]
    fn invariants_hold_after_every_call() {
        let mut state = 1_u64;
        let mut random = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state >> 33
        };
        let mut now_ms = (1 << 41) - 5_000; // soon at the end of a window
        let mut wheel = Wheel::new(now_ms);
        let mut keys = Vec::new();
        let mut fired = Vec::new();
        for step in 0..20_000_u64 {
            match random() % 8 {
                0..=3 => {
                    let distance = random() % (1 << (random() % 36));
                    keys.push(wheel.insert(now_ms + distance, step));
                }
                4 => {
                    wheel.insert(now_ms - random() % 100, step);
                }
                5 if !keys.is_empty() => {
                    let at = random() as usize % keys.len();
                    wheel.cancel(keys.swap_remove(at));
                }
                _ => {
                    now_ms += random() % (1 << (random() % 32));
                    wheel.advance(now_ms, &mut fired);
                }
            }
            if step % 16 == 0 {
                wheel.check();
            }
        }
        assert!(fired.len() > 1_000);
    }

    #[test]
    fn timer_with_an_8_byte_item_takes_24_bytes() {
        assert_eq!(size_of::<crate::slab::Node<u64>>(), 24);
        assert_eq!(size_of::<Option<TimerKey>>(), 8);
    }
}

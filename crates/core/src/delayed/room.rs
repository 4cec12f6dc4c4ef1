//! Messages that wait for a time, by one clock.
//!
//! The place of a message says when it is due: 43 bits of milliseconds, then 20 that tell those of
//! the same millisecond apart. So the log, which joins a publish and its settle by place, knows the
//! time of each without another word, and a start reads none of the messages.

use std::collections::BTreeMap;

use leveret_wheel::TimerKey;

use crate::ids::{Mono, Seq, Wall};
use crate::message::Message;

/// Bits of a place that tell messages of one millisecond apart.
const COUNT_BITS: u32 = 20;

/// Bits of a place that say when: until the year 2248.
const DUE_BITS: u32 = 43;

const DUE_MAX_MS: u64 = (1 << DUE_BITS) - 1;

/// Which clock a room goes by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Clock {
    /// The one on the wall, which people may set.
    Wall,
    /// One that started with the one on the wall and goes on steadily since.
    Steady,
}

/// Messages that wait, the next one first.
#[derive(Debug)]
pub(crate) struct Room {
    clock: Clock,
    /// None for a message that is in the log alone.
    pub(crate) waiting: BTreeMap<Seq, Option<Message>>,
    /// How many are in the log alone.
    pub(crate) away: usize,
    /// While some are away: those before this place are all here.
    pub(crate) here_before: Seq,
    pub(crate) timer: Option<(Mono, TimerKey)>,
    /// The place that could not be read last, and how often in a row.
    pub(crate) failed: (Seq, u32),
    /// The time that was asked for last, and the place it was given.
    last: Option<(Wall, Seq)>,
}

impl Clock {
    pub(crate) const BOTH: [Self; 2] = [Self::Wall, Self::Steady];

    /// By whose place it is.
    pub(crate) const fn of(place: Seq) -> Self {
        if place.0 >> (DUE_BITS + COUNT_BITS) == 0 {
            Self::Wall
        } else {
            Self::Steady
        }
    }

    /// The first place of a millisecond.
    pub(crate) fn place(self, due: Wall) -> Seq {
        let room = match self {
            Self::Wall => 0,
            Self::Steady => 1,
        };
        // Not the very first: no message of a queue has place 0.
        let due_ms = due.0.clamp(1, DUE_MAX_MS);
        Seq((room << DUE_BITS | due_ms) << COUNT_BITS)
    }

    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Wall => 0,
            Self::Steady => 1,
        }
    }
}

/// When the message in this place is due, by the clock of its room.
pub(crate) const fn due_of(place: Seq) -> Wall {
    Wall(place.0 >> COUNT_BITS & DUE_MAX_MS)
}

impl Room {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            waiting: BTreeMap::new(),
            away: 0,
            here_before: clock.place(Wall(0)),
            timer: None,
            failed: (Seq(0), 0),
            last: None,
        }
    }

    /// A free place for a message that is due then; `count` tells it from others of its
    /// millisecond. Behind the last one if that was to be due at the same time. Should there be no
    /// such place, because very many have come, it is due a millisecond later.
    pub(crate) fn free_place(&mut self, due: Wall, count: u64) -> Seq {
        let count = count & ((1 << COUNT_BITS) - 1);
        let (mut later, before) = match self.last {
            Some((asked, place)) if asked == due => (due_of(place), place),
            _ => (due, Seq(0)),
        };
        loop {
            let place = Seq(self.clock.place(later).0 | count);
            if place > before && !self.waiting.contains_key(&place) {
                self.last = Some((due, place));
                return place;
            }
            later.0 += 1;
        }
    }

    /// The first message, if it is due.
    pub(crate) fn first_due(&self, now: Wall) -> Option<(Seq, &Option<Message>)> {
        let (&place, message) = self.waiting.first_key_value()?;
        (due_of(place) <= now).then_some((place, message))
    }

    /// The first place that is in the log alone, among those that are due before `horizon`.
    pub(crate) fn first_away(&mut self, horizon: Wall) -> Option<Seq> {
        if self.away == 0 {
            return None;
        }
        let end = self.clock.place(horizon);
        if end <= self.here_before {
            return None;
        }
        let mut there = self.waiting.range(self.here_before..end);
        let away = there.find(|(_, message)| message.is_none());
        let away = away.map(|(&place, _)| place);
        self.here_before = away.unwrap_or(end);
        away
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_say_when_and_by_which_clock() {
        for clock in Clock::BOTH {
            let mut before = Seq(0);
            for ms in [1, 2, 1_900_000_000_000, DUE_MAX_MS] {
                let place = clock.place(Wall(ms));
                assert_eq!(Clock::of(place), clock);
                assert_eq!(due_of(place), Wall(ms));
                assert_eq!(due_of(Seq(place.0 | ((1 << COUNT_BITS) - 1))), Wall(ms));
                assert!(place > before, "later is further behind");
                before = place;
            }
            assert_eq!(due_of(clock.place(Wall(u64::MAX))), Wall(DUE_MAX_MS));
        }
    }

    #[test]
    fn a_full_millisecond_flows_over_into_the_next() {
        let mut room = Room::new(Clock::Steady);
        for ms in 5..8 {
            let place = room.free_place(Wall(5), 7 + (ms << COUNT_BITS));
            assert_eq!(due_of(place), Wall(ms));
            room.waiting.insert(place, None);
            room.free_place(Wall(1), 0);
        }
    }

    #[test]
    fn those_of_one_time_keep_their_order_wherever_the_count_begins_anew() {
        let mut room = Room::new(Clock::Wall);
        let mut before = Seq(0);
        for count in (1 << COUNT_BITS) - 10..(1 << COUNT_BITS) + 10 {
            let place = room.free_place(Wall(5), count);
            assert!(place > before);
            room.waiting.insert(place, None);
            before = place;
        }
        assert_eq!(due_of(before), Wall(6));
    }
}

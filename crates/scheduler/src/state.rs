//! What changes about a schedule each time it fires: little, and kept with the message it fires.

use std::collections::VecDeque;
use std::sync::LazyLock;

use leveret_core::ids::Wall;

use crate::definition::{Definition, Wishes};
use crate::done::Done;
use crate::octets::{Octets, put_text};
use crate::seldom::{Rare, Seldom};

/// First octet of a state.
const VERSION: u8 = 1;

const PAUSED: u8 = 1;

/// Nominal times that wait for a run to be over, at most.
pub(crate) const BUFFERED_MAX: usize = 1_000;

/// Orders to make up for something that are not carried out yet, at most.
pub(crate) const BACKFILLS_MAX: usize = 16;

/// What a schedule remembers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct State {
    pub(crate) done: Done,
    /// Messages fired by its trigger.
    pub(crate) runs: u64,
    pub(crate) more: Seldom<More>,
}

/// What most schedules need not remember.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct More {
    pub(crate) paused: bool,
    /// What a person wrote down about it.
    pub(crate) note: Box<str>,
    /// Messages fired because somebody wanted them.
    pub(crate) extra_runs: u64,
    /// Times up to this one are made up for, however late it is.
    pub(crate) catch_up_to: Wall,
    /// The nominal time of the last run that somebody wanted at once.
    pub(crate) last_run_now: Wall,
    /// Nominal times that are due and wait for a run to be over.
    pub(crate) buffered: VecDeque<Wall>,
    /// How many backfills there have been.
    pub(crate) backfill_count: u32,
    pub(crate) backfills: Vec<Backfill>,
}

/// What is left of an order to fire for times that have passed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Backfill {
    pub(crate) number: u32,
    /// Done up to here.
    pub(crate) after: Wall,
    /// The last one, itself included.
    pub(crate) to: Wall,
}

impl State {
    pub(crate) fn new(done: Done) -> Self {
        Self {
            done,
            runs: 0,
            more: Seldom::default(),
        }
    }

    /// Of a schedule as its order made it. Nothing of that is kept beside the definition.
    pub(crate) fn of_new(definition: &Definition, wishes: &Wishes) -> Self {
        let trigger = &definition.rule.trigger;
        let mut state = Self::new(Done::for_new(trigger, definition.since()));
        if wishes.paused == Some(true) {
            state.more.paused = true;
        }
        if let Some(note) = &wishes.note {
            state.more.note = note.clone();
        }
        state
    }

    /// Pauses it, or lets it go on: what it would have fired meanwhile is left out.
    pub(crate) fn pause(&mut self, pause: bool, now: Wall) {
        if self.more.paused && !pause {
            self.done.skip(now, now);
        }
        if self.more.paused != pause {
            self.more.paused = pause;
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, if self.more.paused { PAUSED } else { 0 }];
        let numbers = [
            self.runs,
            self.more.extra_runs,
            self.more.catch_up_to.0,
            self.more.last_run_now.0,
        ];
        for number in numbers {
            out.extend_from_slice(&number.to_le_bytes());
        }
        self.done.encode(&mut out);
        put_text(&mut out, &self.more.note);
        put_count(&mut out, self.more.buffered.len());
        for nominal in &self.more.buffered {
            out.extend_from_slice(&nominal.0.to_le_bytes());
        }
        out.extend_from_slice(&self.more.backfill_count.to_le_bytes());
        put_count(&mut out, self.more.backfills.len());
        for backfill in &self.more.backfills {
            out.extend_from_slice(&backfill.number.to_le_bytes());
            out.extend_from_slice(&backfill.after.0.to_le_bytes());
            out.extend_from_slice(&backfill.to.0.to_le_bytes());
        }
        out
    }

    pub(crate) fn decode(octets: &[u8]) -> Option<Self> {
        let mut octets = Octets(octets);
        if octets.u8()? != VERSION {
            return None;
        }
        let paused = octets.u8()? & PAUSED != 0;
        let (runs, extra_runs) = (octets.u64()?, octets.u64()?);
        let (catch_up_to, last_run_now) = (Wall(octets.u64()?), Wall(octets.u64()?));
        let done = Done::decode(&mut octets)?;
        let note = octets.text()?.into();
        let buffered = (0..octets.u16()?)
            .map(|_| octets.u64().map(Wall))
            .collect::<Option<_>>()?;
        let backfill_count = octets.u32()?;
        let backfills = (0..octets.u16()?)
            .map(|_| {
                Some(Backfill {
                    number: octets.u32()?,
                    after: Wall(octets.u64()?),
                    to: Wall(octets.u64()?),
                })
            })
            .collect::<Option<_>>()?;
        let mut state = Self::new(done);
        state.runs = runs;
        *state.more = More {
            paused,
            note,
            extra_runs,
            catch_up_to,
            last_run_now,
            buffered,
            backfill_count,
            backfills,
        };
        state.more.trim();
        Some(state)
    }
}

impl Rare for More {
    fn none() -> &'static Self {
        static NONE: LazyLock<More> = LazyLock::new(More::default);
        &NONE
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u16::try_from(count).unwrap_or(u16::MAX); // bounded far below
    out.extend_from_slice(&count.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_being_written() {
        let mut state = State::new(Done::until(Wall(1)));
        let fresh = state.clone();
        state.more.paused = true;
        state.more.note = "gone fishing".into();
        state.runs = 3;
        state.more.buffered.extend([Wall(7), Wall(8)]);
        state.more.backfills.push(Backfill {
            number: 2,
            after: Wall(3),
            to: Wall(4),
        });
        for state in [fresh, state] {
            let octets = state.encode();
            assert_eq!(State::decode(&octets), Some(state));
            for len in 0..octets.len() {
                assert_eq!(State::decode(&octets[..len]), None);
            }
        }
    }
}

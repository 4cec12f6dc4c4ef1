//! When a schedule is due, by its nominal time: once, at an interval, or by an expression.

use leveret_core::ids::Wall;

use crate::cron::Cron;
use crate::time;

/// What sets a schedule off. All times are in UTC and do not depend on the present.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Trigger {
    /// Once.
    At(Wall),
    /// At an interval.
    Every(Every),
    /// By an expression.
    Cron(Box<Cron>),
    /// Each time the broker starts: not by any clock.
    Reboot,
}

/// An interval with a moment from which it is counted.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Every {
    /// A whole number of intervals lies between this and each time.
    pub anchor: Wall,
    /// At least 1.
    pub interval_ms: u64,
    /// Whether the anchor itself is the first time; else the first one is an interval later.
    pub at_anchor: bool,
}

impl Trigger {
    /// The first time after `t`, if there is one.
    #[must_use]
    pub fn next_after(&self, t: Wall) -> Option<Wall> {
        match self {
            Self::At(at) => (*at > t).then_some(*at),
            Self::Every(every) => every.next_after(t),
            Self::Cron(cron) => cron.next_after(t),
            Self::Reboot => None,
        }
    }

    /// The last time after `after` and up to `until`, if there is one: without walking over those
    /// in between.
    #[must_use]
    pub fn last_within(&self, after: Wall, until: Wall) -> Option<Wall> {
        last_within(|t| self.next_after(t), after, until)
    }
}

/// As [`Trigger::last_within`], of whatever has a next time.
///
/// What comes next only grows with what it comes after, so the last time can be found by halves.
pub(crate) fn last_within(
    next_after: impl Fn(Wall) -> Option<Wall>,
    after: Wall,
    until: Wall,
) -> Option<Wall> {
    let within = |t: u64| next_after(Wall(t)).filter(|next| *next <= until);
    let mut found = within(after.0)?;
    let (mut low, mut high) = (found.0, until.0);
    // What comes after `low` may be within, what comes after `high` is not.
    while low < high {
        let middle = low + (high - low) / 2;
        match within(middle) {
            Some(next) => {
                found = next;
                low = next.0;
            }
            None => high = middle,
        }
    }
    Some(found)
}

impl Every {
    /// The first time after `t`.
    #[must_use]
    pub fn next_after(&self, t: Wall) -> Option<Wall> {
        let interval = self.interval_ms.max(1);
        let steps = match t.0.checked_sub(self.anchor.0) {
            None if self.at_anchor => 0,
            None => 1,
            Some(passed) => passed / interval + 1,
        };
        let ms = steps.checked_mul(interval)?.checked_add(self.anchor.0)?;
        Some(Wall(ms)).filter(|next| *next <= time::END)
    }
}

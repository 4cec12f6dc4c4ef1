//! What a schedule does when things are not as planned, and within which bounds it fires at all.

use jiff::civil::Date;
use leveret_core::ids::Wall;

use crate::time;
use crate::trigger::Trigger;
use crate::zone::Zone;

/// What falls due is not late before so many milliseconds: a busy second is no downtime.
pub const MISFIRE_AFTER_MS: u64 = 60_000;

/// What becomes of times that passed while the broker was down, or the clock was put forward.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Misfire {
    /// Which of them are made up for.
    pub kind: MisfireKind,
    /// How many at most, the latest of them, if [`MisfireKind::All`].
    pub max: u32,
    /// None that is older than so many milliseconds.
    pub window_ms: Option<u64>,
}

/// Which times are made up for.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum MisfireKind {
    /// The last of them, in the name of all.
    #[default]
    FireOnce,
    /// None.
    Skip,
    /// All of them.
    All,
}

/// What becomes of a run that is due while the one before is not over.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Overlap {
    /// What becomes of it.
    pub kind: OverlapKind,
    /// A run that nobody settles counts as over so many milliseconds after it was fired.
    pub timeout_ms: u64,
}

/// What becomes of a run that is due too early.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum OverlapKind {
    /// It is fired.
    #[default]
    Allow,
    /// It is left out.
    Skip,
    /// One waits, and others are left out.
    BufferOne,
    /// All wait.
    BufferAll,
}

/// All that headers say about a schedule, but for trigger and target.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Policy {
    /// About what was missed.
    pub misfire: Misfire,
    /// About what comes too early.
    pub overlap: Overlap,
    /// Runs are put off by up to so many milliseconds, each by its own.
    pub jitter_ms: u64,
    /// No run before this.
    pub start: Option<Wall>,
    /// No run after this.
    pub end: Option<Wall>,
    /// So many runs and no more.
    pub max_runs: Option<u64>,
    /// No run on these days of the schedule's zone. Sorted.
    pub excluded: Box<[Date]>,
    /// A run that is not acked so many milliseconds after it was fired raises an alarm.
    pub deadline_ms: Option<u64>,
}

impl Policy {
    /// The first time after `t` at which the trigger goes off and nothing here is against it.
    pub(crate) fn next_after(&self, trigger: &Trigger, zone: &Zone, t: Wall) -> Option<Wall> {
        let before_start = self.start.map_or(0, |start| start.0.saturating_sub(1));
        let mut t = Wall(t.0.max(before_start));
        loop {
            let next = trigger.next_after(t)?;
            if self.end.is_some_and(|end| next > end) {
                return None;
            }
            if self.excluded.is_empty() {
                return Some(next);
            }
            let date = time::local_date(next, zone);
            if self.excluded.binary_search(&date).is_err() {
                return Some(next);
            }
            t = last_of_day(next, date, zone);
        }
    }
}

/// The last millisecond of the day that `at` is in; or `at`, if the clocks are changed meanwhile.
fn last_of_day(at: Wall, date: Date, zone: &Zone) -> Wall {
    let found = || {
        let midnight = time::local_seconds(date.tomorrow().ok()?.at(0, 0, 0, 0));
        let offset = zone.offset(i64::try_from(at.0 / 1_000).ok()?);
        let last = u64::try_from(midnight - offset).ok()?.checked_mul(1_000)? - 1;
        let last = Wall(last);
        (last > at && time::local_date(last, zone) == date).then_some(last)
    };
    found().unwrap_or(at)
}

macro_rules! words {
    ($($type:ident: $($variant:ident = $word:literal),*;)*) => {$(
        impl $type {
            /// As headers and replies spell it.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }

            pub(crate) const WORDS: &[(&str, Self)] = &[$(($word, Self::$variant)),*];
        }
    )*};
}

words! {
    MisfireKind: FireOnce = "fire-once", Skip = "skip", All = "all";
    OverlapKind: Allow = "allow", Skip = "skip", BufferOne = "buffer-one", BufferAll = "buffer-all";
}

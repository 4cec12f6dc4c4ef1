//! Cron expressions: what they say, and when they come next.
//!
//! Two dialects. `robfig` is that of the Go library robfig/cron 3 with its standard parser and
//! optional seconds, `quartz` that of Java's Quartz. Why neither comes from a library is told in
//! `docs/adr/0003-cron.md`.
//!
//! Local time is only ever compared with the fields within a stretch in which the clocks of the
//! zone are not changed ([`next`]). So an hour that does not exist is not met, and one that comes
//! twice is met twice, with two different moments in UTC; a [`Dst`] rule says where that is not
//! wanted.

mod days;
mod error;
mod field;
mod next;
mod parse;

use std::fmt;

use leveret_core::ids::Wall;

pub use error::CronError;
pub(crate) use error::quoted;

use crate::zone::Zone;
use days::Days;

/// Years that a search goes on after the one it starts in, in the dialect `robfig`.
pub const HORIZON_YEARS: i16 = 5;

/// Which rules an expression is read by.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Dialect {
    /// robfig/cron 3: five fields, or six with seconds; Sunday is 0; `@daily` and its like. If day
    /// of month and day of week are both given, one is enough, unless one of them is `*`.
    #[default]
    Robfig,
    /// Quartz: six fields, or seven with years; Sunday is 1; `L`, `W` and `#`. Exactly one of day
    /// of month and day of week is `?`.
    Quartz,
}

impl Dialect {
    /// As headers and replies spell it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Robfig => "robfig",
            Self::Quartz => "quartz",
        }
    }
}

/// What happens to local times that do not exist, or come twice, when the clocks are changed.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Dst {
    /// A time that does not exist is made up for at the moment the clocks go forward. Else it is
    /// skipped.
    pub next_valid: bool,
    /// Of a time that comes twice only the first counts. Else both.
    pub once: bool,
}

/// An expression with the place whose clocks it goes by.
#[derive(Clone, Eq, Ord, PartialEq, PartialOrd)]
pub struct Cron {
    text: Box<str>,
    dialect: Dialect,
    times: Times,
    zone: Zone,
    dst: Dst,
}

/// What a text may turn out to be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Expression {
    /// Certain times.
    Cron(Cron),
    /// `@every`: at an interval of this many seconds, at least 1.
    Every {
        /// The interval.
        seconds: u64,
    },
    /// `@reboot`: each time the broker starts.
    Reboot,
}

enum Parsed {
    Times(Times),
    Every { seconds: u64 },
    Reboot,
}

/// The fields as sets of bits.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Times {
    second: u64,
    minute: u64,
    hour: u32,
    /// Bits 1 to 12.
    month: u16,
    days: Days,
    /// Of Quartz; robfig has none.
    years: Option<Box<Years>>,
}

/// A set of years from 1970 to 2099.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
struct Years([u64; 3]);

impl Years {
    const FIRST: u32 = 1970;

    fn insert(&mut self, year: u32) {
        let place = year.saturating_sub(Self::FIRST);
        if let Some(word) = self.0.get_mut(place as usize / 64) {
            *word |= 1 << (place % 64);
        }
    }

    /// The first year of the set from this one on.
    fn next(&self, year: i16) -> Option<i16> {
        let first = u32::try_from(year).ok()?.saturating_sub(Self::FIRST);
        (first..192)
            .find(|place| self.0[*place as usize / 64] >> (place % 64) & 1 != 0)
            .and_then(|place| i16::try_from(place + Self::FIRST).ok())
    }
}

impl Cron {
    /// Reads an expression. Its own prefix `CRON_TZ=` or `TZ=` counts more than `zone`.
    ///
    /// # Errors
    /// Names the field, what is wrong with it, and an example of how it might look.
    pub fn parse(
        text: &str,
        dialect: Dialect,
        zone: Zone,
        dst: Dst,
    ) -> Result<Expression, CronError> {
        let text = text.trim();
        let (own_zone, rest) = parse::zone_prefix(text)?;
        Ok(match parse::parse(rest, dialect)? {
            Parsed::Times(times) => Expression::Cron(Self {
                text: text.into(),
                dialect,
                times,
                zone: own_zone.unwrap_or(zone),
                dst,
            }),
            Parsed::Every { seconds } => Expression::Every { seconds },
            Parsed::Reboot => Expression::Reboot,
        })
    }

    /// The first time after `t`, and always a whole second. None if there is none within five
    /// years (`robfig`) or until 2099 (`quartz`).
    #[must_use]
    pub fn next_after(&self, t: Wall) -> Option<Wall> {
        let second = i64::try_from(t.0 / 1_000).ok()?;
        let next = next::next_after(&self.times, &self.zone, self.dst, second)?;
        u64::try_from(next).ok()?.checked_mul(1_000).map(Wall)
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Six fields as cron programs read them that want both fields for days to agree. They are met
    /// whenever this is, and more often if it says more than six such fields can.
    pub(crate) fn superset(&self) -> String {
        let Times {
            second,
            minute,
            hour,
            month,
            days,
            years: _,
        } = &self.times;
        let (of_month, of_week) = if days.either || days.special.is_some() {
            (u64::MAX, u64::MAX)
        } else {
            (days.of_month.into(), days.of_week.into())
        };
        let fields = [
            (*second, 0..60),
            (*minute, 0..60),
            ((*hour).into(), 0..24),
            (of_month, 1..32),
            ((*month).into(), 1..13),
            (of_week, 0..7),
        ];
        fields.map(|(set, range)| listed(set, range)).join(" ")
    }

    /// Which rules it was read by.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The place whose clocks it goes by.
    #[must_use]
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// What happens when the clocks are changed.
    #[must_use]
    pub fn dst(&self) -> Dst {
        self.dst
    }

    /// The first local time from `from` up to `until`, in seconds, as if the clocks were never
    /// changed.
    pub(crate) fn next_local(&self, from: i64, until: i64) -> Option<i64> {
        self.times.next_local(from, until)
    }
}

/// Numbers of this range that are in the set, with commas; `*` for all.
fn listed(set: u64, mut range: std::ops::Range<u32>) -> String {
    if range.all(|number| set >> number & 1 != 0) {
        return "*".to_owned();
    }
    let numbers = (0..u64::BITS).filter(|number| set >> number & 1 != 0);
    let numbers: Vec<_> = numbers.map(|number| number.to_string()).collect();
    numbers.join(",")
}

impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cron({:?} in {:?})", self.text, self.zone)
    }
}

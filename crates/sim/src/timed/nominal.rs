//! When schedules ought to fire: lists of times, worked out day by day from a few expressions.
//!
//! Nothing of the scheduler is used here. Each local time that an expression names is looked up in
//! its zone by itself, and the rules about changed clocks are applied to that one time.

use std::cell::RefCell;
use std::collections::BTreeMap;

use jiff::civil::{Date, Weekday, time};
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, ToSpan as _};

/// A cron expression, and what it says.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    /// As it is ordered.
    pub text: &'static str,
    /// Minutes of an hour.
    pub minutes: &'static [i8],
    /// First and last hour of a day.
    pub hours: (i8, i8),
    /// On Sundays only.
    pub sundays: bool,
}

/// Expressions that are used.
#[rustfmt::skip]
pub const PATTERNS: &[Pattern] = &[
    Pattern { text: "30 2 * * *",       minutes: &[30],                    hours: (2, 2),  sundays: false },
    Pattern { text: "0 3 * * *",        minutes: &[0],                     hours: (3, 3),  sundays: false },
    Pattern { text: "0 * * * *",        minutes: &[0],                     hours: (0, 23), sundays: false },
    Pattern { text: "15,45 1-3 * * *",  minutes: &[15, 45],                hours: (1, 3),  sundays: false },
    Pattern { text: "*/10 * * * *",     minutes: &[0, 10, 20, 30, 40, 50], hours: (0, 23), sundays: false },
    Pattern { text: "*/20 0-4 * * *",   minutes: &[0, 20, 40],             hours: (0, 4),  sundays: false },
    Pattern { text: "59 1 * * 0",       minutes: &[59],                    hours: (1, 1),  sundays: true },
];

/// Zones, with a day on which their clocks are changed.
pub const CHANGES: &[(&str, &str)] = &[
    ("Europe/Berlin", "2026-03-29"),
    ("Europe/Berlin", "2026-10-25"),
    ("America/New_York", "2026-03-08"),
    ("America/New_York", "2026-11-01"),
    ("Australia/Lord_Howe", "2026-04-05"),
    ("Australia/Lord_Howe", "2026-10-04"),
    ("Pacific/Chatham", "2026-04-05"),
    ("Pacific/Chatham", "2026-09-27"),
    ("UTC", "2028-02-29"),
];

/// What sets a schedule off.
#[derive(Clone, Debug)]
pub enum Rule {
    /// Once, in milliseconds since 1970.
    Once(u64),
    /// At an interval.
    Every {
        /// From when it is counted, in milliseconds since 1970.
        anchor: u64,
        /// Milliseconds.
        interval: u64,
        /// Whether the anchor is the first time.
        at_anchor: bool,
    },
    /// By an expression.
    Cron {
        /// The expression.
        pattern: Pattern,
        /// Its zone.
        zone: &'static str,
        /// A time that does not exist is put off until the clocks have been changed.
        next_valid: bool,
        /// Of a time that comes twice only the first is meant.
        once: bool,
    },
}

/// A rule and its bounds.
#[derive(Clone, Debug)]
pub struct Times {
    /// What sets it off.
    pub rule: Rule,
    /// None before, in milliseconds since 1970.
    pub start: Option<u64>,
    /// None after.
    pub end: Option<u64>,
    /// None on this day of the zone.
    pub excluded: Option<Date>,
}

impl Times {
    /// All after `from` and up to `to`, in milliseconds since 1970, in order.
    #[must_use]
    pub fn within(&self, from: u64, to: u64) -> Vec<u64> {
        let mut times = match &self.rule {
            Rule::Once(at) => vec![*at],
            Rule::Every {
                anchor,
                interval,
                at_anchor,
            } => {
                let first = anchor + if *at_anchor { 0 } else { *interval };
                let skipped = (from + 1).saturating_sub(first).div_ceil(*interval);
                (skipped..)
                    .map(|n| first + n * interval)
                    .take_while(|t| *t <= to)
                    .collect()
            }
            Rule::Cron {
                pattern,
                zone,
                next_valid,
                once,
            } => {
                let zone = find(zone);
                let mut times = Vec::new();
                let mut day = date_of(from, &zone).yesterday().unwrap_or(Date::MIN);
                let last = date_of(to, &zone).tomorrow().unwrap_or(Date::MAX);
                while day <= last {
                    if !pattern.sundays || day.weekday() == Weekday::Sunday {
                        for hour in pattern.hours.0..=pattern.hours.1 {
                            for minute in pattern.minutes {
                                let local = day.to_datetime(time(hour, *minute, 0, 0));
                                meant(local, &zone, *next_valid, *once, &mut times);
                            }
                        }
                    }
                    day = day.tomorrow().unwrap_or(Date::MAX);
                }
                times.sort_unstable();
                times.dedup();
                times
            }
        };
        let zone = match &self.rule {
            Rule::Cron { zone, .. } => find(zone),
            _ => TimeZone::UTC,
        };
        times.retain(|t| {
            *t > from
                && *t <= to
                && self.start.is_none_or(|start| *t >= start)
                && self.end.is_none_or(|end| *t <= end)
                && self.excluded.is_none_or(|day| date_of(*t, &zone) != day)
        });
        times
    }
}

/// The moments that a local time means.
fn meant(
    local: jiff::civil::DateTime,
    zone: &TimeZone,
    next_valid: bool,
    once: bool,
    times: &mut Vec<u64>,
) {
    let mut add = |at: Option<Timestamp>| {
        times.extend(at.and_then(|at| u64::try_from(at.as_millisecond()).ok()));
    };
    match zone.to_ambiguous_timestamp(local).offset() {
        AmbiguousOffset::Unambiguous { offset } => add(offset.to_timestamp(local).ok()),
        AmbiguousOffset::Gap { before, .. } => {
            if next_valid && let Ok(after) = before.to_timestamp(local) {
                // By the old offset it is at or behind the change.
                let behind = after.checked_add(1.second()).unwrap_or(after);
                let change = zone.preceding(behind).next();
                add(change.map(|change| change.timestamp()));
            }
        }
        AmbiguousOffset::Fold { before, after } => {
            add(before.to_timestamp(local).ok());
            if !once {
                add(after.to_timestamp(local).ok());
            }
        }
    }
}

thread_local! {
    /// Reading one takes longer than all that is done with it.
    static ZONES: RefCell<BTreeMap<String, TimeZone>> = const { RefCell::new(BTreeMap::new()) };
}

fn find(name: &str) -> TimeZone {
    if name == "UTC" {
        return TimeZone::UTC;
    }
    ZONES.with_borrow_mut(|zones| {
        if let Some(zone) = zones.get(name) {
            return zone.clone();
        }
        let found = TimeZoneDatabase::bundled().get(name);
        let zone = found.unwrap_or_else(|_| panic!("no zone '{name}'"));
        zones.insert(name.to_owned(), zone.clone());
        zone
    })
}

/// The day of a zone.
#[must_use]
pub fn date_in(ms: u64, zone: &str) -> Date {
    date_of(ms, &find(zone))
}

/// When a day begins in a zone, in milliseconds since 1970.
#[must_use]
pub fn midnight(day: &str, zone: &str) -> u64 {
    let day: Date = day.parse().unwrap_or(Date::MIN);
    let at = find(zone).to_ambiguous_timestamp(day.at(0, 0, 0, 0));
    let at = at.compatible().map_or(0, Timestamp::as_millisecond);
    u64::try_from(at).unwrap_or(0)
}

/// RFC 3339 with milliseconds, in UTC.
#[must_use]
pub fn text(ms: u64) -> String {
    let at = Timestamp::from_millisecond(i64::try_from(ms).unwrap_or(i64::MAX));
    format!("{:.3}", at.unwrap_or(Timestamp::MAX))
}

/// What [`text`] has written.
#[must_use]
pub fn parse(text: &str) -> Option<u64> {
    let at: Timestamp = text.parse().ok()?;
    u64::try_from(at.as_millisecond()).ok()
}

fn date_of(ms: u64, zone: &TimeZone) -> Date {
    let at = Timestamp::from_millisecond(i64::try_from(ms).unwrap_or(i64::MAX));
    zone.to_datetime(at.unwrap_or(Timestamp::MAX)).date()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cron(text: &str, zone: &'static str, next_valid: bool, once: bool) -> Times {
        let pattern = PATTERNS.iter().find(|pattern| pattern.text == text);
        Times {
            rule: Rule::Cron {
                pattern: *pattern.unwrap_or(&PATTERNS[0]),
                zone,
                next_valid,
                once,
            },
            start: None,
            end: None,
            excluded: None,
        }
    }

    /// The table in `docs/scheduling.md`.
    #[test]
    fn changed_clocks() {
        #[rustfmt::skip]
        let table = [
            ("2026-03-29", false, false, vec![]),
            ("2026-03-29", true,  false, vec!["2026-03-29T01:00:00.000Z"]),
            ("2026-10-25", false, false, vec!["2026-10-25T00:30:00.000Z", "2026-10-25T01:30:00.000Z"]),
            ("2026-10-25", false, true,  vec!["2026-10-25T00:30:00.000Z"]),
        ];
        for (day, next_valid, once, expected) in table {
            let from = midnight(day, "Europe/Berlin");
            let times = cron("30 2 * * *", "Europe/Berlin", next_valid, once);
            let times = times.within(from, from + 12 * 3_600_000);
            let times: Vec<_> = times.into_iter().map(text).collect();
            assert_eq!(times, expected, "{day} {next_valid} {once}");
        }
    }

    #[test]
    fn intervals() {
        let every = |at_anchor| Times {
            rule: Rule::Every {
                anchor: 1_000,
                interval: 500,
                at_anchor,
            },
            start: None,
            end: Some(2_600),
            excluded: None,
        };
        assert_eq!(every(true).within(0, 2_000), [1_000, 1_500, 2_000]);
        assert_eq!(every(false).within(0, 2_000), [1_500, 2_000]);
        assert_eq!(every(false).within(1_500, 9_000), [2_000, 2_500]);
    }
}

//! Time zones: where local time is ahead of UTC by how much, and when that changes.
//!
//! The rules are those of the tz database that is compiled in, so that every broker of one version
//! says the same, whatever the machine it runs on has installed.

use std::cmp::Ordering;
use std::fmt;

use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};

/// A time zone of the tz database. Clones share its rules.
#[derive(Clone, Eq, PartialEq)]
pub struct Zone(TimeZone);

/// A moment at which the clocks of a zone are put forward or back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Change {
    /// Seconds since 1970 UTC; `after` holds from this second on.
    pub at: i64,
    /// Seconds that local time was ahead of UTC before.
    pub before: i64,
    /// Seconds that it is ahead from then on.
    pub after: i64,
}

impl Change {
    /// Local times from the first up to the second do not exist: the clocks go forward.
    #[must_use]
    pub fn gap(self) -> Option<(i64, i64)> {
        (self.after > self.before).then_some((self.at + self.before, self.at + self.after))
    }

    /// Local times from the first up to the second come twice: the clocks go back.
    #[must_use]
    pub fn fold(self) -> Option<(i64, i64)> {
        (self.after < self.before).then_some((self.at + self.after, self.at + self.before))
    }
}

impl Zone {
    /// Coordinated universal time.
    pub const UTC: Self = Self(TimeZone::UTC);

    /// The zone of this name, such as `Europe/Berlin`; case does not matter.
    ///
    /// None if the tz database has none.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("utc") {
            return Some(Self::UTC);
        }
        TimeZoneDatabase::bundled().get(name).ok().map(Self)
    }

    /// As the tz database spells it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// Whether local time is UTC for ever.
    #[must_use]
    pub fn is_utc(&self) -> bool {
        self.0 == TimeZone::UTC
    }

    /// Seconds that local time is ahead of UTC at this second.
    #[must_use]
    pub fn offset(&self, at: i64) -> i64 {
        self.0.to_offset(timestamp(at)).seconds().into()
    }

    /// The first change after this second.
    #[must_use]
    pub fn change_after(&self, at: i64) -> Option<Change> {
        let mut before = self.offset(at);
        for transition in self.0.following(timestamp(at)) {
            let after = i64::from(transition.offset().seconds());
            if after != before {
                let at = transition.timestamp().as_second();
                return Some(Change { at, before, after });
            }
            before = after;
        }
        None
    }

    /// The last change up to this second, itself included.
    #[must_use]
    pub fn change_until(&self, at: i64) -> Option<Change> {
        let mut after = self.offset(at);
        let mut later = None;
        // A transition tells what holds from it on, so that each needs the one before it.
        for transition in self.0.preceding(timestamp(at.saturating_add(1))) {
            let offset = i64::from(transition.offset().seconds());
            if let Some(at) = later
                && offset != after
            {
                let before = offset;
                return Some(Change { at, before, after });
            }
            after = offset;
            later = Some(transition.timestamp().as_second());
        }
        let at = later?;
        let before = self.offset(at - 1);
        (before != after).then_some(Change { at, before, after })
    }
}

/// The moment, or the first or last that there is.
fn timestamp(at: i64) -> Timestamp {
    Timestamp::from_second(at).unwrap_or(if at < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}

/// By name: the tz database has each name once.
impl Ord for Zone {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name().cmp(other.name())
    }
}

impl PartialOrd for Zone {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time;

    #[test]
    fn changes_of_zones() {
        #[rustfmt::skip]
        let table = [
            // zone                from                    at                      before   after   why
            ("Europe/Berlin",       "2026-01-01T00:00:00Z", "2026-03-29T01:00:00Z",  3_600,  7_200, "forward at 02:00"),
            ("Europe/Berlin",       "2026-03-29T01:00:00Z", "2026-10-25T01:00:00Z",  7_200,  3_600, "after, not at"),
            ("Europe/Berlin",       "2060-01-01T00:00:00Z", "2060-03-28T01:00:00Z",  3_600,  7_200, "past the end of the table, by rule"),
            ("America/New_York",    "2026-06-01T00:00:00Z", "2026-11-01T06:00:00Z", -14_400, -18_000, "back at 02:00"),
            ("America/Sao_Paulo",   "2018-10-01T00:00:00Z", "2018-11-04T03:00:00Z", -10_800, -7_200, "midnight does not exist"),
            ("Australia/Lord_Howe", "2026-05-01T00:00:00Z", "2026-10-03T15:30:00Z", 37_800, 39_600, "half an hour"),
        ];
        for (name, from, at, before, after, why) in table {
            let zone = Zone::find(name).unwrap();
            let seconds = |text| i64::try_from(time::parse(text).unwrap().0 / 1_000).unwrap();
            let expected = Change {
                at: seconds(at),
                before,
                after,
            };
            assert_eq!(
                zone.change_after(seconds(from)),
                Some(expected),
                "{name}: {why}"
            );
            assert_eq!(
                zone.change_until(expected.at),
                Some(expected),
                "{name}: {why}"
            );
            assert_eq!(
                zone.change_until(expected.at + 86_400),
                Some(expected),
                "{name}: {why}"
            );
            assert_ne!(
                zone.change_until(expected.at - 1),
                Some(expected),
                "{name}: {why}"
            );
        }
    }

    #[test]
    fn zones_without_changes() {
        for name in ["UTC", "utc", "Asia/Kolkata", "America/Sao_Paulo"] {
            let zone = Zone::find(name).unwrap();
            assert_eq!(zone.change_after(1_767_225_600), None, "{name}");
        }
        assert!(Zone::find("Mars/Olympus").is_none());
        assert!(Zone::find("").is_none());
    }
}

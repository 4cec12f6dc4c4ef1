//! Moments as text and as local dates.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::Offset;
use leveret_core::ids::Wall;

use crate::zone::Zone;

/// The last moment that a schedule may name: the end of the year 9998, so that the day after it can
/// be written as well.
pub const END: Wall = Wall(253_370_764_799_999);

/// RFC 3339 in UTC to the millisecond: `2026-11-21T10:00:00.000Z`.
#[must_use]
pub fn text(at: Wall) -> String {
    let ms = i64::try_from(at.min(END).0).unwrap_or_default();
    let Ok(at) = Timestamp::from_millisecond(ms) else {
        return String::new(); // not within reach: END is one
    };
    format!("{at:.3}")
}

/// RFC 3339 at the place: `2026-11-21T11:00:00+01:00`.
#[must_use]
pub fn local_text(at: Wall, zone: &Zone) -> String {
    let seconds = i64::try_from(at.min(END).0 / 1_000).unwrap_or_default();
    let offset = zone.offset(seconds);
    let sign = if offset < 0 { '-' } else { '+' };
    let minutes = offset.unsigned_abs() / 60;
    let (hours, minutes) = (minutes / 60, minutes % 60);
    format!("{}{sign}{hours:02}:{minutes:02}", civil(seconds + offset))
}

/// A moment from RFC 3339. None if the text is none, or not between 1970 and [`END`].
#[must_use]
pub fn parse(text: &str) -> Option<Wall> {
    let at: Timestamp = text.parse().ok()?;
    let at = Wall(u64::try_from(at.as_millisecond()).ok()?);
    (at <= END).then_some(at)
}

/// A date like `2026-12-24`.
#[must_use]
pub fn parse_date(text: &str) -> Option<Date> {
    let plain = text.len() == 10 && text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    text.parse().ok().filter(|_| plain)
}

/// Date and time that a clock shows which counts these seconds since 1970.
#[must_use]
pub fn civil(local: i64) -> DateTime {
    let at = Timestamp::from_second(local).unwrap_or(Timestamp::MAX);
    Offset::UTC.to_datetime(at)
}

/// The reverse of [`civil`].
#[must_use]
pub fn local_seconds(civil: DateTime) -> i64 {
    Offset::UTC
        .to_timestamp(civil)
        .map_or(i64::MAX / 2, |at| at.as_second()) // past the end of dates
}

/// The date at the place.
#[must_use]
pub fn local_date(at: Wall, zone: &Zone) -> Date {
    let seconds = i64::try_from(at.min(END).0 / 1_000).unwrap_or_default();
    civil(seconds + zone.offset(seconds)).date()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_as_text() {
        #[rustfmt::skip]
        let table = [
            ("2026-11-21T10:00:00Z",          Some("2026-11-21T10:00:00.000Z"), "UTC"),
            ("2026-11-21T10:00:00.25+01:00",  Some("2026-11-21T09:00:00.250Z"), "an offset and a fraction"),
            ("2026-11-21t10:00:00z",          Some("2026-11-21T10:00:00.000Z"), "small letters"),
            ("1970-01-01T00:00:00Z",          Some("1970-01-01T00:00:00.000Z"), "the first"),
            ("1969-12-31T23:59:59Z",          None,                             "before the first"),
            ("9999-01-01T00:00:00Z",          None,                             "after the last"),
            ("2026-11-21T10:00:00",           None,                             "no offset"),
            ("2026-02-30T10:00:00Z",          None,                             "no such day"),
            ("tomorrow",                      None,                             "not a date"),
        ];
        for (given, expected, why) in table {
            assert_eq!(
                parse(given).map(text).as_deref(),
                expected,
                "{given}: {why}"
            );
        }
        assert_eq!(text(END), "9998-12-31T23:59:59.999Z");
        assert_eq!(text(Wall(u64::MAX)), text(END));
    }

    #[test]
    fn moments_at_a_place() {
        let zone = Zone::find("America/New_York").unwrap();
        let at = parse("2026-11-21T02:00:00Z").unwrap();
        assert_eq!(local_text(at, &zone), "2026-11-20T21:00:00-05:00");
        assert_eq!(local_date(at, &zone), Date::constant(2026, 11, 20));
    }

    #[test]
    fn dates() {
        assert_eq!(parse_date("2026-12-24"), Some(Date::constant(2026, 12, 24)));
        for bad in [
            "2026-12-32",
            "24.12.2026",
            "2026-12-24T00:00",
            "20261224",
            "",
        ] {
            assert_eq!(parse_date(bad), None, "{bad:?}");
        }
    }
}

//! From text to an expression: both dialects, descriptors, and the prefix for the zone.

use super::days::{Days, Special};
use super::error::{CronError, quoted};
use super::field::{Bits, Field, QUARTZ, ROBFIG, YEAR};
use super::{Dialect, Parsed, Times, Years};
use crate::duration;
use crate::zone::Zone;

/// Longest expression, in octets. Sixty numbers in each field would still fit.
pub(super) const TEXT_MAX: usize = 1_024;

const EXAMPLE: &str = "*/5 * * * *";
const EXAMPLE_QUARTZ: &str = "0 0 12 ? * MON-FRI";
const EXAMPLE_ZONE: &str = "CRON_TZ=Europe/Berlin 0 9 * * *";
const EXAMPLE_EVERY: &str = "@every 1h30m";

/// Splits off `CRON_TZ=Europe/Berlin ` or `TZ=...`.
pub(super) fn zone_prefix(text: &str) -> Result<(Option<Zone>, &str), CronError> {
    let after = text
        .strip_prefix("CRON_TZ=")
        .or_else(|| text.strip_prefix("TZ="));
    let Some(after) = after else {
        return Ok((None, text));
    };
    // robfig/cron 3.0.1 panics without the space.
    let Some((name, rest)) = after.split_once(' ') else {
        return Err(CronError::new(
            "no expression after the time zone",
            EXAMPLE_ZONE,
        ));
    };
    match Zone::find(name) {
        Some(zone) => Ok((Some(zone), rest.trim())),
        None => Err(CronError::new(
            format!("no time zone {}", quoted(name)),
            EXAMPLE_ZONE,
        )),
    }
}

pub(super) fn parse(text: &str, dialect: Dialect) -> Result<Parsed, CronError> {
    let example = match dialect {
        Dialect::Robfig => EXAMPLE,
        Dialect::Quartz => EXAMPLE_QUARTZ,
    };
    if text.len() > TEXT_MAX {
        return Err(CronError::new(
            format!("longer than {TEXT_MAX} octets"),
            example,
        ));
    }
    if text.trim().is_empty() {
        return Err(CronError::new("it is empty", example));
    }
    if text.starts_with('@') {
        return descriptor(text);
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    match dialect {
        Dialect::Robfig => robfig(&fields).map(Parsed::Times),
        Dialect::Quartz => quartz(&fields).map(Parsed::Times),
    }
}

fn descriptor(text: &str) -> Result<Parsed, CronError> {
    let fields = match text {
        "@yearly" | "@annually" => ["0", "0", "1", "1", "*"],
        "@monthly" => ["0", "0", "1", "*", "*"],
        "@weekly" => ["0", "0", "*", "*", "0"],
        "@daily" | "@midnight" => ["0", "0", "*", "*", "*"],
        "@hourly" => ["0", "*", "*", "*", "*"],
        "@reboot" => return Ok(Parsed::Reboot),
        _ => {
            let Some(text) = text.strip_prefix("@every ") else {
                let what = format!("{} is no descriptor", quoted(text));
                let all = "@yearly @monthly @weekly @daily @hourly @every @reboot";
                return Err(CronError::new(
                    format!("{what} (there are {all})"),
                    EXAMPLE_EVERY,
                ));
            };
            let nanos = duration::parse(text).map_err(|why| {
                CronError::new(format!("duration {}: {why}", quoted(text)), EXAMPLE_EVERY)
            })?;
            // robfig: what is below a second is cut, and no interval is shorter than one.
            let seconds = (nanos / 1_000_000_000).max(1);
            return Ok(Parsed::Every { seconds });
        }
    };
    robfig(&fields).map(Parsed::Times)
}

fn robfig(fields: &[&str]) -> Result<Times, CronError> {
    let (second, fields) = match fields {
        [second, rest @ ..] if rest.len() == 5 => (*second, rest),
        _ => ("0", fields),
    };
    let &[minute, hour, of_month, month, of_week] = fields else {
        let what = format!(
            "5 fields (or 6 with seconds) are wanted, not {}",
            fields.len()
        );
        return Err(CronError::new(what, EXAMPLE));
    };
    let texts = [second, minute, hour, of_month, month, of_week];
    let mut bits = [Bits::default(); 6];
    for ((bits, field), text) in bits.iter_mut().zip(&ROBFIG).zip(texts) {
        *bits = field.bits(text)?;
    }
    let [second, minute, hour, of_month, month, of_week] = bits;
    Ok(Times {
        second: second.set,
        minute: minute.set,
        hour: low_bits(hour),
        month: low_bits(month),
        days: Days {
            of_month: low_bits(of_month),
            of_week: low_octet(of_week.set),
            either: !of_month.star && !of_week.star,
            special: None,
        },
        years: None,
    })
}

fn quartz(fields: &[&str]) -> Result<Times, CronError> {
    let (fields, year) = match fields {
        [fields @ .., year] if fields.len() == 6 => (fields, Some(*year)),
        _ => (fields, None),
    };
    let &[second, minute, hour, of_month, month, of_week] = fields else {
        let what = format!(
            "6 fields (or 7 with years) are wanted, not {}",
            fields.len()
        );
        return Err(CronError::new(what, EXAMPLE_QUARTZ));
    };
    if (of_month == "?") == (of_week == "?") {
        let what = "exactly one of day of month and day of week must be '?'";
        return Err(CronError::new(what, EXAMPLE_QUARTZ));
    }
    let [seconds, minutes, hours, days, months, week] = &QUARTZ;
    let bits = |field: &Field, text: &str| {
        if text.contains('?') {
            return Err(field.error("cannot be '?'"));
        }
        for item in text.split(',') {
            let (span, _) = field.item(item)?;
            if span.step > field.max {
                return Err(field.error(format!("step {} is more than {}", span.step, field.max)));
            }
        }
        field.bits(text)
    };
    let mut special = Vec::new();
    let of_month = if of_month == "?" {
        u32::MAX
    } else {
        let rest = split_special(of_month, |item| day_of_month(days, item), &mut special)?;
        rest.map_or(Ok(0), |rest| bits(days, &rest).map(low_bits))?
    };
    let of_week = if of_week == "?" {
        u8::MAX
    } else {
        let rest = split_special(of_week, |item| day_of_week(week, item), &mut special)?;
        let rest = rest.map(|rest| rest.replace(['L', 'l'], "7"));
        // From Sunday 1 to Sunday 0.
        rest.map_or(Ok(0), |rest| {
            bits(week, &rest).map(|bits| low_octet(bits.set >> 1))
        })?
    };
    Ok(Times {
        second: bits(seconds, second)?.set,
        minute: bits(minutes, minute)?.set,
        hour: low_bits(bits(hours, hour)?),
        month: low_bits(bits(months, month)?),
        days: Days {
            of_month,
            of_week,
            either: false,
            special: (!special.is_empty()).then(|| special.into()),
        },
        years: Some(Box::new(years(year.unwrap_or("*"))?)),
    })
}

/// Takes the items out that are not made of numbers alone. What is left, if anything.
fn split_special(
    text: &str,
    read: impl Fn(&str) -> Result<Option<Special>, CronError>,
    special: &mut Vec<Special>,
) -> Result<Option<String>, CronError> {
    let mut rest: Option<String> = None;
    for item in text.split(',') {
        if let Some(found) = read(item)? {
            special.push(found);
            continue;
        }
        let rest = rest.get_or_insert_default();
        if !rest.is_empty() {
            rest.push(',');
        }
        rest.push_str(item);
    }
    Ok(rest)
}

fn day_of_month(field: &Field, item: &str) -> Result<Option<Special>, CronError> {
    let upper = item.to_ascii_uppercase();
    let (day, weekday) = match upper.strip_suffix('W') {
        Some(day) => (day, true),
        None => (upper.as_str(), false),
    };
    let before = match day.strip_prefix('L') {
        Some("") => 0,
        Some(before) => {
            let before = before.strip_prefix('-').and_then(|n| n.parse::<u8>().ok());
            before.filter(|n| *n <= 30).ok_or_else(|| {
                let item = quoted(item);
                field.error(format!("{item}: 'L-' is followed by a number within 0-30"))
            })?
        }
        None if weekday => {
            let day = u8::try_from(field.number(day)?).unwrap_or_default();
            return Ok(Some(Special::Weekday { day }));
        }
        None => return Ok(None),
    };
    Ok(Some(if weekday {
        Special::LastWeekday { before }
    } else {
        Special::Last { before }
    }))
}

fn day_of_week(field: &Field, item: &str) -> Result<Option<Special>, CronError> {
    // Our days of the week begin with 0.
    let day = |text: &str| {
        let number = field.number(text)?;
        Ok(u8::try_from(number - 1).unwrap_or_default())
    };
    if let Some((of_week, nth)) = item.split_once('#') {
        let nth = nth.parse().ok().filter(|nth| (1..=5).contains(nth));
        let nth = nth.ok_or_else(|| {
            let item = quoted(item);
            field.error(format!("{item}: '#' is followed by a number within 1-5"))
        })?;
        let of_week = day(of_week)?;
        return Ok(Some(Special::Nth { of_week, nth }));
    }
    match item.strip_suffix(['L', 'l']) {
        // Alone it is the last day of a week, Saturday: a number like any other.
        Some("") | None => Ok(None),
        Some(of_week) => {
            let of_week = day(of_week)?;
            Ok(Some(Special::LastOfWeek { of_week }))
        }
    }
}

fn years(text: &str) -> Result<Years, CronError> {
    let mut years = Years::default();
    for item in text.split(',') {
        let (span, _) = YEAR.item(item)?;
        span.each(&YEAR, |year| years.insert(year));
    }
    Ok(years)
}

fn low_bits<T: TryFrom<u64> + Default>(bits: Bits) -> T {
    T::try_from(bits.set).unwrap_or_default() // fields of this width have no higher bit
}

fn low_octet(bits: u64) -> u8 {
    u8::try_from(bits).unwrap_or_default()
}

//! The search for the next time.

use super::{Dst, HORIZON_YEARS, Times};
use crate::time;
use crate::zone::{Change, Zone};

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// The year of Quartz that is searched last.
const QUARTZ_YEAR_MAX: i16 = 2_099;

/// The last year that can be searched at all; see [`time::END`].
const YEAR_MAX: i16 = 9_998;

/// The first second after `t` (seconds since 1970 UTC) that these times mean in this zone.
pub(super) fn next_after(times: &Times, zone: &Zone, dst: Dst, t: i64) -> Option<i64> {
    let mut from = t.checked_add(1)?;
    let year = time::civil(from.checked_add(zone.offset(from))?).year();
    let year_max = match times.years {
        Some(_) => QUARTZ_YEAR_MAX,
        None => year.saturating_add(HORIZON_YEARS).min(YEAR_MAX),
    };
    let horizon = time::local_seconds(jiff::civil::date(year_max + 1, 1, 1).at(0, 0, 0, 0));
    loop {
        let change = zone.change_after(from);
        if let Some(found) = within(times, zone, dst, from, change, horizon) {
            return Some(found);
        }
        let change = change?;
        if change.at.saturating_add(change.after) >= horizon {
            return None;
        }
        from = change.at;
    }
}

/// The first time from `from` on and before the clocks are changed.
fn within(
    times: &Times,
    zone: &Zone,
    dst: Dst,
    from: i64,
    change: Option<Change>,
    horizon: i64,
) -> Option<i64> {
    let offset = zone.offset(from);
    let mut local = from + offset;
    if dst.next_valid || dst.once {
        let last = zone.change_until(from);
        let gap = last.filter(|last| last.at == from).and_then(Change::gap);
        if let Some((start, end)) = gap
            && dst.next_valid
            && times.next_local(start, end).is_some()
        {
            return Some(from);
        }
        let fold = last.and_then(Change::fold);
        if let Some((_, end)) = fold
            && dst.once
        {
            local = local.max(end); // up to there it is the second time
        }
    }
    let end = change.map_or(horizon, |change| horizon.min(change.at + offset));
    times.next_local(local, end).map(|local| local - offset)
}

impl Times {
    /// The first local time from `from` up to `until`, in seconds since 1970 by that clock.
    pub(super) fn next_local(&self, from: i64, until: i64) -> Option<i64> {
        if from >= until {
            return None;
        }
        let start = time::civil(from);
        let (mut year, mut month, mut day) = (start.year(), start.month(), start.day());
        let mut second = from.rem_euclid(DAY);
        loop {
            if let Some(years) = &self.years {
                let next = years.next(year)?;
                if next > year {
                    (year, month, day, second) = (next, 1, 1, 0);
                }
            }
            let midnight_of_first =
                time::local_seconds(jiff::civil::Date::new(year, month, 1).ok()?.at(0, 0, 0, 0));
            if midnight_of_first >= until {
                return None;
            }
            if self.month >> month & 1 != 0 {
                let midnight = |day: u32| midnight_of_first + (i64::from(day) - 1) * DAY;
                let mut days = self.days.of(year, month) & (u32::MAX << day);
                while days != 0 {
                    let found = days.trailing_zeros();
                    if found != u32::from(day.unsigned_abs()) {
                        second = 0;
                    }
                    if let Some(second) = self.time_of_day(second) {
                        return Some(midnight(found) + second).filter(|found| *found < until);
                    }
                    days &= days - 1;
                    second = 0;
                }
            }
            (day, second) = (1, 0);
            month += 1;
            if month > 12 {
                (year, month) = (year.checked_add(1)?, 1);
            }
        }
    }

    /// The first time of day from this second of the day on.
    fn time_of_day(&self, from: i64) -> Option<i64> {
        let (hour, minute, second) = (from / HOUR, from / MINUTE % 60, from % 60);
        if self.hour >> hour & 1 != 0 {
            if self.minute >> minute & 1 != 0
                && let Some(second) = bit_from(self.second, second)
            {
                return Some(hour * HOUR + minute * MINUTE + second);
            }
            if let Some(minute) = bit_from(self.minute, minute + 1) {
                return Some(hour * HOUR + minute * MINUTE + bit_from(self.second, 0)?);
            }
        }
        let hour = bit_from(self.hour.into(), hour + 1)?;
        Some(hour * HOUR + bit_from(self.minute, 0)? * MINUTE + bit_from(self.second, 0)?)
    }
}

/// The lowest bit that is set from this one on.
fn bit_from(bits: u64, from: i64) -> Option<i64> {
    let bits = bits & (u64::MAX << from);
    (bits != 0).then(|| bits.trailing_zeros().into())
}

//! Which days of a month an expression means: where its two fields for days meet.

use jiff::civil::Date;

/// Both fields for days.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Days {
    /// Bits 1 to 31.
    pub(super) of_month: u32,
    /// Bits 0 (Sunday) to 6.
    pub(super) of_week: u8,
    /// Whether one of both fields is enough; else both must agree.
    pub(super) either: bool,
    /// What cannot be said in bits, of the day of the month and of the day of the week.
    pub(super) special: Option<Box<[Special]>>,
}

/// Days that depend on the month: Quartz's `L`, `W` and `#`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Special {
    /// `L-3`: so many days before the last.
    Last { before: u8 },
    /// `LW`, `L-3W`: the weekday nearest to that day.
    LastWeekday { before: u8 },
    /// `15W`: the weekday (Monday to Friday) nearest to this day, in the same month.
    Weekday { day: u8 },
    /// `6#3`: the third one of this day of the week.
    Nth { of_week: u8, nth: u8 },
    /// `6L`: the last one of this day of the week.
    LastOfWeek { of_week: u8 },
}

impl Days {
    /// The days of this month, as bits 1 to 31.
    pub(super) fn of(&self, year: i16, month: i8) -> u32 {
        let Ok(first) = Date::new(year, month, 1) else {
            return 0; // past the end of dates
        };
        let month = Month {
            days: first.days_in_month().unsigned_abs(),
            first: first.weekday().to_sunday_zero_offset().unsigned_abs(),
        };
        let mut of_month = self.of_month & month.all();
        let mut of_week = month.all_of_week(self.of_week);
        for special in self.special.iter().flatten() {
            match special {
                Special::Last { before } => of_month |= month.last(*before).map_or(0, bit),
                Special::LastWeekday { before } => {
                    of_month |= month.last(*before).map_or(0, |day| bit(month.weekday(day)));
                }
                Special::Weekday { day } if *day <= month.days => {
                    of_month |= bit(month.weekday(*day));
                }
                Special::Weekday { .. } => {}
                Special::Nth { of_week: day, nth } => of_week |= month.nth(*day, *nth),
                Special::LastOfWeek { of_week: day } => {
                    let all = month.all_of_week(1 << day);
                    of_week |= 1 << all.ilog2();
                }
            }
        }
        if self.either {
            of_month | of_week
        } else {
            of_month & of_week
        }
    }
}

struct Month {
    days: u8,
    /// Day of the week of its first day; Sunday is 0.
    first: u8,
}

impl Month {
    fn all(&self) -> u32 {
        (u32::MAX >> (31 - self.days)) & !1
    }

    fn of_week(&self, day: u8) -> u8 {
        (self.first + day - 1) % 7
    }

    /// All days of the month that fall on one of these days of the week.
    fn all_of_week(&self, of_week: u8) -> u32 {
        (1..=self.days)
            .filter(|&day| of_week >> self.of_week(day) & 1 != 0)
            .map(bit)
            .sum()
    }

    fn nth(&self, of_week: u8, nth: u8) -> u32 {
        let first = 1 + (7 + of_week - self.first) % 7;
        let day = first + 7 * (nth - 1);
        if day <= self.days { bit(day) } else { 0 }
    }

    fn last(&self, before: u8) -> Option<u8> {
        self.days.checked_sub(before).filter(|&day| day > 0)
    }

    /// The nearest day from Monday to Friday, without leaving the month.
    fn weekday(&self, day: u8) -> u8 {
        match self.of_week(day) {
            6 if day == 1 => 3,
            6 => day - 1,
            0 if day == self.days => day - 2,
            0 => day + 1,
            _ => day,
        }
    }
}

fn bit(day: u8) -> u32 {
    1 << day
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days(special: Special) -> Days {
        Days {
            either: true,
            special: Some(Box::new([special])),
            ..Days::default()
        }
    }

    #[test]
    fn days_that_depend_on_the_month() {
        use Special::{Last, LastOfWeek, LastWeekday, Nth, Weekday};
        #[rustfmt::skip]
        let table = [
            (Last { before: 0 },                2024, 2,  Some(29), "leap year"),
            (Last { before: 3 },                2026, 2,  Some(25), "L-3"),
            (Last { before: 30 },               2026, 2,  None,     "more days than the month has"),
            (Last { before: 28 },               2026, 2,  None,     "just one too many"),
            (LastWeekday { before: 0 },         2026, 1,  Some(30), "the 31st is a Saturday"),
            (LastWeekday { before: 0 },         2026, 5,  Some(29), "the 31st is a Sunday"),
            (LastWeekday { before: 2 },         2026, 5,  Some(29), "the 29th is a Friday"),
            (Weekday { day: 15 },               2026, 8,  Some(14), "a Saturday goes back"),
            (Weekday { day: 15 },               2026, 11, Some(16), "a Sunday goes forward"),
            (Weekday { day: 1 },                2026, 8,  Some(3),  "a Saturday, but the first"),
            (Weekday { day: 31 },               2026, 5,  Some(29), "a Sunday, but the last"),
            (Weekday { day: 31 },               2026, 4,  None,     "no such day"),
            (Nth { of_week: 5, nth: 3 },        2026, 11, Some(20), "the third Friday"),
            (Nth { of_week: 0, nth: 1 },        2026, 11, Some(1),  "the month begins with it"),
            (Nth { of_week: 0, nth: 5 },        2026, 11, Some(29), "there is a fifth"),
            (Nth { of_week: 2, nth: 5 },        2026, 11, None,     "there is none"),
            (LastOfWeek { of_week: 5 },         2026, 11, Some(27), "the last Friday"),
            (LastOfWeek { of_week: 1 },         2026, 11, Some(30), "it is the last day"),
        ];
        for (special, year, month, expected, why) in table {
            let expected = expected.map_or(0, bit);
            assert_eq!(
                days(special).of(year, month),
                expected,
                "{special:?}: {why}"
            );
        }
    }
}

//! One field of an expression: lists of numbers, names, ranges and steps, as a set of bits.

use super::error::{CronError, quoted};

/// What a field may hold.
#[derive(Debug)]
pub(super) struct Field {
    /// As errors call it.
    pub(super) name: &'static str,
    pub(super) min: u32,
    pub(super) max: u32,
    /// Names that stand for numbers, the first for `names_from`.
    pub(super) names: &'static [&'static str],
    pub(super) names_from: u32,
    /// Whether a range may go past the end and go on at the beginning (`FRI-MON`).
    pub(super) wraps: bool,
    /// A whole expression in which this field is right.
    pub(super) example: &'static str,
}

/// A set of numbers below 64.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Bits {
    pub(super) set: u64,
    /// Whether an item was `*` or `?`, and without a step above 1: robfig's "star bit".
    pub(super) star: bool,
}

const MONTHS: &[&str] = &[
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

const fn field(name: &'static str, min: u32, max: u32, example: &'static str) -> Field {
    Field {
        name,
        min,
        max,
        names: &[],
        names_from: min,
        wraps: false,
        example,
    }
}

const fn named(field: Field, names: &'static [&'static str]) -> Field {
    Field { names, ..field }
}

const fn wrapping(field: Field) -> Field {
    Field {
        wraps: true,
        ..field
    }
}

/// Those of robfig/cron, in the order in which they stand.
pub(super) const ROBFIG: [Field; 6] = [
    field("second", 0, 59, "0 */5 * * * *"),
    field("minute", 0, 59, "*/5 * * * *"),
    field("hour", 0, 23, "0 9-17 * * *"),
    field("day of month", 1, 31, "0 0 1,15 * *"),
    named(field("month", 1, 12, "0 0 1 JAN,JUL *"), MONTHS),
    named(field("day of week", 0, 6, "0 9 * * MON-FRI"), DAYS),
];

/// Those of Quartz, in the order in which they stand; the year is not one of bits.
pub(super) const QUARTZ: [Field; 6] = [
    wrapping(field("second", 0, 59, "0 */5 * * * ?")),
    wrapping(field("minute", 0, 59, "0 */5 * * * ?")),
    wrapping(field("hour", 0, 23, "0 0 9-17 * * ?")),
    wrapping(field("day of month", 1, 31, "0 0 12 1,15 * ?")),
    wrapping(named(field("month", 1, 12, "0 0 0 1 JAN,JUL ?"), MONTHS)),
    wrapping(named(field("day of week", 1, 7, "0 0 9 ? * MON-FRI"), DAYS)),
];

/// The year of Quartz.
pub(super) const YEAR: Field = field("year", 1970, 2099, "0 0 0 1 1 ? 2030-2035");

impl Field {
    pub(super) fn error(&self, what: impl AsRef<str>) -> CronError {
        CronError::new(format!("{} {}", self.name, what.as_ref()), self.example)
    }

    /// All that a list of items stands for.
    pub(super) fn bits(&self, text: &str) -> Result<Bits, CronError> {
        let mut bits = Bits::default();
        for item in text.split(',') {
            let (span, star) = self.item(item)?;
            bits.star |= star;
            span.each(self, |number| bits.set |= 1 << number);
        }
        Ok(bits)
    }

    /// What one item stands for, and whether it has the star bit.
    pub(super) fn item(&self, item: &str) -> Result<(Span, bool), CronError> {
        let (range, step) = match item.split_once('/') {
            None => (item, None),
            Some((range, step)) => (range, Some(self.step(item, step)?)),
        };
        let (from, to, star) = match range.split_once('-') {
            None if range == "*" || range == "?" => {
                (self.min, self.max, step.is_none_or(|s| s == 1))
            }
            None => {
                let from = self.number(range)?;
                // `N/step` goes on to the end.
                (from, if step.is_some() { self.max } else { from }, false)
            }
            Some((from, to)) => (self.number(from)?, self.number(to)?, false),
        };
        if from > to && !self.wraps {
            let item = quoted(item);
            return Err(self.error(format!("range {item}: its end is before its beginning")));
        }
        let step = step.unwrap_or(1);
        Ok((Span { from, to, step }, star))
    }

    fn step(&self, item: &str, step: &str) -> Result<u32, CronError> {
        if step.contains('/') {
            return Err(self.error(format!("{}: one '/' at most", quoted(item))));
        }
        match plain_number(step) {
            Some(0) => Err(self.error(format!("{}: the step must be at least 1", quoted(item)))),
            Some(step) => Ok(step),
            None => Err(self.error(format!("{}: the step is not a number", quoted(item)))),
        }
    }

    /// A number or a name, within the bounds.
    pub(super) fn number(&self, text: &str) -> Result<u32, CronError> {
        let of_name = (self.names_from..)
            .zip(self.names)
            .find(|(_, name)| name.eq_ignore_ascii_case(text));
        if let Some((number, _)) = of_name {
            return Ok(number);
        }
        let Some(number) = plain_number(text) else {
            return Err(self.error(match text {
                "" => "has an empty item".to_owned(),
                _ if self.names.is_empty() => format!("{} is not a number", quoted(text)),
                _ => format!("{} is neither a number nor a name", quoted(text)),
            }));
        };
        if (self.min..=self.max).contains(&number) {
            return Ok(number);
        }
        let bounds = format!("{number} is not within {}-{}", self.min, self.max);
        let sunday = self.name == "day of week" && number == 7 && self.max == 6;
        let hint = if sunday { " (Sunday is 0)" } else { "" };
        Err(self.error(bounds + hint))
    }
}

/// Numbers `step` apart. If `to` is below `from`, it goes past the end of the field.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) step: u32,
}

impl Span {
    pub(super) fn each(self, field: &Field, mut found: impl FnMut(u32)) {
        let count = field.max - field.min + 1;
        let to = if self.to < self.from {
            self.to + count
        } else {
            self.to
        };
        let mut number = self.from;
        while number <= to {
            found(if number > field.max {
                number - count
            } else {
                number
            });
            number = number.saturating_add(self.step);
        }
    }
}

/// Digits and nothing else; none if they are too many.
fn plain_number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

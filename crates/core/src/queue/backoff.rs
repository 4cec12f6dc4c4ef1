//! After how long a message comes back to its queue whose delivery did not end well.
//!
//! Two families of arguments say so: our own (`x-retry-*`), where the time grows exponentially and
//! every delivery that comes back is an attempt; and RabbitMQ's (`x-delayed-retry-*`, 4.3), where it
//! grows linearly with the failed deliveries, and only some ways to come back are delayed.

use leveret_codec::{FieldTable, FieldValue};

use crate::delivery::Counts;

/// Longest delay where `x-retry-max-delay` does not say, unless the first one is longer: a day, in
/// milliseconds.
const DELAY_MAX_MS: u64 = 86_400_000;

/// Growth of the delay where `x-retry-multiplier` does not say.
const MULTIPLIER: u64 = 2;

/// `x-delayed-retry-min` and `-max` where they are not given, in milliseconds.
const LINEAR_MS: (u64, u64) = (1_000, 60_000);

/// A queue's rule.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Backoff {
    /// Delays what was rejected, or lost with its channel.
    on_failed: bool,
    /// Delays what was given back.
    on_returned: bool,
    /// Every delivery that comes back has failed.
    pub(crate) counts_all: bool,
    first_ms: u64,
    max_ms: u64,
    growth: Growth,
    /// So many percent of a delay are left to chance.
    jitter: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Growth {
    /// By the first delay each time.
    Linear,
    /// By this factor each time.
    Times(u64),
}

impl Backoff {
    /// Of a queue with these arguments, which are valid. None if messages come back at once.
    pub(crate) fn of(arguments: &FieldTable) -> Option<Self> {
        let number = |name| {
            let value = arguments.get(name).and_then(FieldValue::as_i64);
            value.and_then(|value| u64::try_from(value).ok())
        };
        if let Some(first_ms) = number("x-retry-delay") {
            return Some(Self {
                on_failed: true,
                on_returned: true,
                counts_all: true,
                first_ms,
                max_ms: number("x-retry-max-delay").unwrap_or_else(|| DELAY_MAX_MS.max(first_ms)),
                growth: Growth::Times(number("x-retry-multiplier").unwrap_or(MULTIPLIER)),
                jitter: number("x-retry-jitter").unwrap_or(0),
            });
        }
        let kind = arguments.get("x-delayed-retry-type")?.as_str()?;
        let first_ms = number("x-delayed-retry-min").unwrap_or(LINEAR_MS.0);
        let rule = Self {
            on_failed: matches!(kind, "all" | "failed"),
            on_returned: matches!(kind, "all" | "returned"),
            counts_all: false,
            first_ms,
            max_ms: number("x-delayed-retry-max").unwrap_or_else(|| LINEAR_MS.1.max(first_ms)),
            growth: Growth::Linear,
            jitter: 0,
        };
        (rule.on_failed || rule.on_returned).then_some(rule)
    }

    /// How long a message stays away that came back this way, after so many failed deliveries with
    /// this one, in milliseconds; None is not at all. `chance` gives a number below the one it is
    /// called with.
    pub(crate) fn delay_ms(
        &self,
        counts: Counts,
        failures: u32,
        chance: impl FnOnce(u64) -> u64,
    ) -> Option<u64> {
        let delays = match counts {
            Counts::AsFailed => self.on_failed,
            Counts::AsReturned => self.on_returned,
            Counts::NotAtAll => false,
        };
        if !delays {
            return None;
        }
        // What was only given back has none that failed, and waits as after the first.
        let attempt = failures.max(1);
        let ms = match self.growth {
            Growth::Linear => self.first_ms.saturating_mul(u64::from(attempt)),
            Growth::Times(factor) => {
                let factor = factor.saturating_pow(attempt - 1);
                self.first_ms.saturating_mul(factor)
            }
        };
        let ms = ms.min(self.max_ms);
        let open = ms.saturating_mul(self.jitter) / 100;
        let sooner = if open > 0 { chance(open + 1) } else { 0 };
        Some(ms - sooner).filter(|&ms| ms > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<const N: usize>(arguments: [(&str, FieldValue); N]) -> Option<Backoff> {
        let mut table = FieldTable::default();
        for (name, value) in arguments {
            table.insert(name, value);
        }
        Backoff::of(&table)
    }

    fn text(text: &'static str) -> FieldValue {
        FieldValue::LongString(bytes::Bytes::from_static(text.as_bytes()))
    }

    fn delays(rule: Backoff) -> Vec<u64> {
        let delay = |n| {
            rule.delay_ms(Counts::AsFailed, n, |_| 0)
                .unwrap_or_default()
        };
        (1..=6).map(delay).collect()
    }

    #[test]
    fn delays_grow_and_are_capped() {
        let rabbitmq = |min: i64, max: i64| {
            of([
                ("x-delayed-retry-type", text("all")),
                ("x-delayed-retry-min", FieldValue::I64(min)),
                ("x-delayed-retry-max", FieldValue::I64(max)),
            ])
        };
        let ours = |delay: i64, multiplier: i64, max: i64| {
            of([
                ("x-retry-delay", FieldValue::I64(delay)),
                ("x-retry-multiplier", FieldValue::I64(multiplier)),
                ("x-retry-max-delay", FieldValue::I64(max)),
            ])
        };
        let default = of([("x-retry-delay", FieldValue::I64(10))]);
        let longer = of([("x-retry-delay", FieldValue::I64(90_000_000))]);
        #[rustfmt::skip]
        let table = [
            (default,               [10, 20, 40, 80, 160, 320],   "it doubles"),
            (ours(10, 1, 1_000),    [10; 6],                      "it stays"),
            (ours(10, 3, 500),      [10, 30, 90, 270, 500, 500],  "up to the cap"),
            (ours(1, i64::MAX, 9),  [1, 9, 9, 9, 9, 9],           "beyond all numbers"),
            (longer,                [90_000_000; 6],              "the first is the longest"),
            (rabbitmq(10, 35),      [10, 20, 30, 35, 35, 35],     "RabbitMQ's"),
            (rabbitmq(10, 5),       [5; 6],                       "its cap may be below"),
        ];
        for (rule, expected, why) in table {
            assert_eq!(delays(rule.expect(why)), expected, "{why}");
        }
        let rule = default.expect("a rule");
        let last = rule.delay_ms(Counts::AsFailed, u32::MAX, |_| 0);
        assert_eq!(last, Some(86_400_000), "a day and no more");
    }

    #[test]
    fn chance_takes_off_so_many_percent_at_most() {
        let rule = of([
            ("x-retry-delay", FieldValue::I64(1_000)),
            ("x-retry-jitter", FieldValue::I64(20)),
        ]);
        let rule = rule.expect("a rule");
        let mut open = 0;
        let whole = rule.delay_ms(Counts::AsReturned, 1, |below| {
            open = below;
            0
        });
        assert_eq!((whole, open), (Some(1_000), 201));
        let least = rule.delay_ms(Counts::AsReturned, 1, |below| below - 1);
        assert_eq!(least, Some(800));
    }

    #[test]
    fn what_is_delayed_depends_on_how_it_came_back() {
        #[rustfmt::skip]
        let table = [
            ("all",      Some(7), Some(7)),
            ("failed",   Some(7), None),
            ("returned", None,    Some(7)),
        ];
        for (kind, failed, returned) in table {
            let rule = of([
                ("x-delayed-retry-type", text(kind)),
                ("x-delayed-retry-min", FieldValue::I64(7)),
            ]);
            let rule = rule.expect(kind);
            assert_eq!(rule.delay_ms(Counts::AsFailed, 1, |_| 0), failed, "{kind}");
            assert_eq!(
                rule.delay_ms(Counts::AsReturned, 0, |_| 0),
                returned,
                "{kind}"
            );
        }
        assert_eq!(of([("x-delayed-retry-type", text("disabled"))]), None);
        assert_eq!(of([("x-delayed-retry-min", FieldValue::I64(7))]), None);
    }
}

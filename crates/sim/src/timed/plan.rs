//! Schedules as they are ordered, and what the model has to know of them.

use leveret_codec::FieldValue;

use super::nominal::{CHANGES, PATTERNS, Rule, Times, date_in, text};
use crate::dice::Dice;

/// A minute, in milliseconds.
pub const MINUTE: u64 = 60_000;
/// An hour, in milliseconds.
pub const HOUR: u64 = 60 * MINUTE;
/// A day, in milliseconds.
pub const DAY: u64 = 24 * HOUR;

/// What becomes of times that were missed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Misfire {
    /// They are left out.
    Skip,
    /// The last one is fired.
    FireOnce,
    /// So many are fired, the last ones.
    All(usize),
}

/// What becomes of a run while one before is not over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Overlap {
    /// It is fired.
    Allow,
    /// It is left out.
    Skip,
    /// One waits.
    BufferOne,
    /// All wait.
    BufferAll,
}

/// What a schedule wants for its messages, whatever queues they are in.
#[derive(Clone, Copy, Debug)]
pub struct OwnRetry {
    /// What comes back is delivered again after so many milliseconds.
    pub delay_ms: u64,
    /// So many times.
    pub limit: u32,
    /// And what is out of attempts, or rejected, becomes a dead letter.
    pub dead_letters: bool,
}

/// A schedule.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its name.
    pub name: String,
    /// When.
    pub times: Times,
    /// What was missed.
    pub misfire: Misfire,
    /// What was missed longer ago is left out anyway, in milliseconds.
    pub window: Option<u64>,
    /// What comes too early.
    pub overlap: Overlap,
    /// Milliseconds.
    pub jitter: u64,
    /// No more runs than that.
    pub max_runs: Option<usize>,
    /// Whether its messages are.
    pub persistent: bool,
    /// Its messages go to two queues.
    pub fan: bool,
    /// What becomes of those that nobody wants.
    pub retry: Option<OwnRetry>,
    /// The order, without `x-schedule-`.
    pub headers: Vec<(&'static str, FieldValue)>,
}

/// Misfires of all that there is.
pub const UNLIMITED: usize = 10_000;

impl Plan {
    /// Any schedule, ordered now. In a long run nothing happens often.
    pub fn draw(name: String, now: u64, long: bool, change: usize, dice: &mut Dice) -> Self {
        let mut headers: Vec<(&'static str, FieldValue)> = vec![("name", name.as_str().into())];
        let (zone, _) = CHANGES[change];
        let zone = if dice.chance(80) { zone } else { "UTC" };
        let start = dice.chance(15).then(|| now + dice.between(1..=6 * HOUR));
        let end = dice.chance(10).then(|| now + dice.between(30..=60) * HOUR);
        let rule = match dice.below(10) {
            0 => Rule::Once(now + dice.between(2..=12 * HOUR)),
            1..5 => {
                let interval = dice.one_of(&[50, 600, 900, 3_600, 5_400, 20_000]);
                let interval = if long { 86_400 } else { interval };
                headers.push(("every", format!("{interval}s").into()));
                Rule::Every {
                    anchor: start.unwrap_or(now / 1_000 * 1_000),
                    interval: interval * 1_000,
                    at_anchor: start.is_some(),
                }
            }
            _ => {
                let pattern = PATTERNS[dice.below(if long { 2 } else { PATTERNS.len() })];
                let (next_valid, once) = (dice.chance(50), dice.chance(50));
                headers.push(("cron", pattern.text.into()));
                headers.push(("timezone", zone.into()));
                let gap = if next_valid { "next-valid" } else { "skip" };
                let fold = if once { "once" } else { "both" };
                headers.push(("dst", format!("{gap},{fold}").into()));
                Rule::Cron {
                    pattern,
                    zone,
                    next_valid,
                    once,
                }
            }
        };
        let (start, end) = match &rule {
            Rule::Once(at) => {
                headers.push(("at", number(*at)));
                (None, None)
            }
            _ => (start, end),
        };
        let mut excluded = None;
        if let Rule::Cron { zone, .. } = &rule
            && dice.chance(15)
        {
            let day = date_in(now + dice.between(1..=2) * DAY, zone);
            headers.push(("exclude-dates", day.to_string().into()));
            excluded = Some(day);
        }
        for (name, at) in [("start", start), ("end", end)] {
            if let Some(at) = at {
                headers.push((name, text(at).into()));
            }
        }
        let mut plan = Self {
            name,
            times: Times {
                rule,
                start,
                end,
                excluded,
            },
            misfire: Misfire::FireOnce,
            window: None,
            overlap: Overlap::Allow,
            jitter: 0,
            max_runs: dice.chance(10).then(|| dice.between(1..=12) as usize),
            persistent: dice.chance(92),
            fan: dice.chance(20),
            retry: dice.chance(15).then(|| OwnRetry {
                delay_ms: dice.one_of(&[1, 3_000, 900_000]),
                limit: dice.between(0..=4) as u32,
                dead_letters: dice.chance(50),
            }),
            headers,
        };
        plan.policies(long, dice);
        plan
    }

    fn policies(&mut self, long: bool, dice: &mut Dice) {
        let headers = &mut self.headers;
        if dice.chance(15) && !long {
            self.jitter = dice.one_of(&[1, 20, 30_000, 3 * MINUTE]);
            headers.push(("jitter", number(self.jitter)));
        }
        let kind = if self.jitter > 0 { 4 } else { dice.below(6) };
        self.misfire = match kind {
            0 => Misfire::FireOnce,
            1 => Misfire::Skip,
            2 => Misfire::All(dice.one_of(&[1, 3, 40])),
            _ if long => Misfire::FireOnce,
            _ => Misfire::All(UNLIMITED),
        };
        match self.misfire {
            Misfire::FireOnce => {}
            Misfire::Skip => headers.push(("misfire", "skip".into())),
            Misfire::All(max) => {
                headers.push(("misfire", "all".into()));
                headers.push(("misfire-max", number(max as u64)));
            }
        }
        if self.jitter == 0 && dice.chance(15) {
            let window = dice.one_of(&[10 * MINUTE, 2 * HOUR, 2 * DAY]);
            headers.push(("misfire-window", number(window)));
            self.window = Some(window);
        }
        if self.jitter == 0 {
            let (overlap, word) = match dice.below(8) {
                0 => (Overlap::Skip, "skip"),
                1 => (Overlap::BufferOne, "buffer-one"),
                2 => (Overlap::BufferAll, "buffer-all"),
                _ => (Overlap::Allow, "allow"),
            };
            self.overlap = overlap;
            if overlap != Overlap::Allow {
                headers.push(("overlap", word.into()));
                headers.push(("overlap-timeout", number(OVERLAP_TIMEOUT)));
            }
        }
        if let Some(max) = self.max_runs {
            headers.push(("max-runs", number(max as u64)));
        }
        if let Some(retry) = self.retry {
            headers.push(("retry-delay", number(retry.delay_ms)));
            headers.push(("retry-limit", number(retry.limit.into())));
            if retry.dead_letters {
                headers.push(("dead-letter-exchange", "graves".into()));
            }
        }
        if self.fan {
            headers.push(("exchange", "fan".into()));
        } else {
            headers.push(("routing-key", "s".into()));
        }
    }

    /// Queues its messages go to.
    #[must_use]
    pub fn queues(&self) -> &'static [&'static str] {
        if self.fan { &["s", "t"] } else { &["s"] }
    }
}

/// A run that is not settled counts as over after so many milliseconds.
pub const OVERLAP_TIMEOUT: u64 = 300 * DAY;

/// A number as a header has it.
pub fn number(n: u64) -> FieldValue {
    FieldValue::I64(i64::try_from(n).unwrap_or(i64::MAX))
}

//! The headers of an order, read with their types, and refused in words that say what to change.

use bytes::Bytes;
use leveret_codec::{FieldTable, FieldValue};
use leveret_core::error::AmqpError;
use leveret_core::fired;
use leveret_core::ids::Wall;

use crate::cron::quoted;
use crate::time;

/// What all headers begin with that are meant for the scheduler.
pub(crate) const PREFIX: &str = "x-schedule-";

/// Longest text of a header, in octets.
const TEXT_MAX: usize = 1_024;

/// A header that is known.
pub(crate) struct Header {
    /// Without [`PREFIX`].
    pub(crate) name: &'static str,
    /// How it may look.
    example: &'static str,
    /// With which actions it makes sense: bits of [`Action`].
    actions: u32,
}

/// What an order may want.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub(crate) enum Action {
    Put = 1,
    Delete = 1 << 1,
    Pause = 1 << 2,
    Resume = 1 << 3,
    RunNow = 1 << 4,
    Backfill = 1 << 5,
    List = 1 << 6,
    Show = 1 << 7,
    Preview = 1 << 8,
    History = 1 << 9,
}

impl Action {
    const WORDS: [(&str, Self); 10] = [
        ("put", Self::Put),
        ("delete", Self::Delete),
        ("pause", Self::Pause),
        ("resume", Self::Resume),
        ("run-now", Self::RunNow),
        ("backfill", Self::Backfill),
        ("list", Self::List),
        ("show", Self::Show),
        ("preview", Self::Preview),
        ("history", Self::History),
    ];

    fn word(self) -> &'static str {
        let found = Self::WORDS.iter().find(|(_, action)| *action == self);
        found.map_or("put", |(word, _)| word)
    }
}

const ALL: u32 = u32::MAX;
const PUT: u32 = Action::Put as u32;
/// A preview may be of a schedule that nobody has made yet.
const TIMES: u32 = PUT | Action::Preview as u32;
const LISTS: u32 = Action::List as u32 | Action::Preview as u32 | Action::History as u32;

/// Those that go along with what is fired: they are for the queues it gets into.
pub(crate) const PASSED_ON: [&str; 4] = [
    fired::DEAD_LETTER_EXCHANGE,
    fired::DEAD_LETTER_ROUTING_KEY,
    fired::RETRY_DELAY,
    fired::RETRY_LIMIT,
];

macro_rules! headers {
    ($($constant:ident = $name:literal, $example:literal, $actions:expr;)*) => {
        $(pub(crate) const $constant: Header =
            Header { name: $name, example: $example, actions: $actions };)*
        const HEADERS: &[&Header] = &[$(&$constant),*];
    };
}

headers! {
    ACTION = "action", "pause", ALL;
    NAME = "name", "nightly-report", ALL & !(Action::List as u32);
    CRON = "cron", "*/5 * * * *", TIMES;
    EVERY = "every", "1h30m", TIMES;
    AT = "at", "2030-01-31T09:00:00Z", TIMES;
    DIALECT = "dialect", "robfig", TIMES;
    TIMEZONE = "timezone", "Europe/Berlin", TIMES;
    DST = "dst", "next-valid", TIMES;
    EXCHANGE = "exchange", "amq.topic", TIMES;
    ROUTING_KEY = "routing-key", "reports", TIMES;
    MISFIRE = "misfire", "fire-once", TIMES;
    MISFIRE_MAX = "misfire-max", "100", TIMES;
    MISFIRE_WINDOW = "misfire-window", "3600000", TIMES;
    OVERLAP = "overlap", "skip", TIMES;
    OVERLAP_TIMEOUT = "overlap-timeout", "1800000", TIMES;
    JITTER = "jitter", "30000", TIMES;
    START = "start", "2030-01-31T09:00:00Z", TIMES;
    END = "end", "2030-12-31T23:59:59Z", TIMES;
    MAX_RUNS = "max-runs", "10", TIMES;
    EXCLUDE_DATES = "exclude-dates", "2030-12-24,2030-12-25", TIMES;
    PAUSED = "paused", "true", TIMES;
    NOTE = "note", "until the new printer is there", TIMES | Action::Pause as u32 | Action::Resume as u32;
    DEADLINE = "deadline", "600000", TIMES;
    DEAD_LETTER_EXCHANGE = "dead-letter-exchange", "amq.direct", TIMES;
    DEAD_LETTER_ROUTING_KEY = "dead-letter-routing-key", "failed", TIMES;
    RETRY_DELAY = "retry-delay", "60000", TIMES;
    RETRY_LIMIT = "retry-limit", "3", TIMES;
    FROM = "from", "2030-01-01T00:00:00Z", Action::Backfill as u32;
    TO = "to", "2030-01-31T00:00:00Z", Action::Backfill as u32;
    LIMIT = "limit", "100", LISTS;
    AFTER = "after", "nightly-report", Action::List as u32;
}

/// The headers of one order.
pub(crate) struct Headers<'a>(&'a FieldTable);

impl<'a> Headers<'a> {
    /// Looks at all names, and whether they go with the action.
    pub(crate) fn check(table: &'a FieldTable) -> Result<(Self, Action), AmqpError> {
        let headers = Self(table);
        let action = headers
            .word(&ACTION, &Action::WORDS)?
            .unwrap_or(Action::Put);
        for (full, _) in table {
            let Some(name) = full.strip_prefix(PREFIX) else {
                continue;
            };
            let Some(header) = HEADERS.iter().find(|header| header.name == name) else {
                let nearest = HEADERS
                    .iter()
                    .min_by_key(|known| distance(known.name, name));
                let hint = nearest.filter(|known| distance(known.name, name) <= 3);
                let hint = hint.map_or_else(String::new, |known| {
                    format!("; do you mean '{PREFIX}{}'?", known.name)
                });
                let full = quoted(full);
                return Err(AmqpError::precondition_failed(format_args!(
                    "header {full} is not known{hint}"
                )));
            };
            if header.actions & action as u32 == 0 {
                return Err(AmqpError::precondition_failed(format_args!(
                    "{full} means nothing with {PREFIX}action '{}': leave it out",
                    action.word()
                )));
            }
        }
        Ok((headers, action))
    }

    /// Of a table that was checked when it came in.
    pub(crate) fn checked(table: &'a FieldTable) -> Self {
        Self(table)
    }

    fn get(&self, header: &Header) -> Option<&'a FieldValue> {
        let mut fields = self.0.iter();
        fields
            .find(|(name, _)| name.strip_prefix(PREFIX) == Some(header.name))
            .map(|(_, value)| value)
    }

    pub(crate) fn has(&self, header: &Header) -> bool {
        self.get(header).is_some()
    }

    /// A text of 1 to 1,024 octets.
    pub(crate) fn text(&self, header: &Header) -> Result<Option<&'a str>, AmqpError> {
        let text = self.any_text(header)?;
        if text.is_some_and(|text| text.trim().is_empty()) {
            return Err(header.error("it is empty"));
        }
        Ok(text)
    }

    /// A text of up to 1,024 octets.
    pub(crate) fn any_text(&self, header: &Header) -> Result<Option<&'a str>, AmqpError> {
        self.get(header)
            .map(|value| header.text_of(value))
            .transpose()
    }

    /// One of certain words.
    pub(crate) fn word<T: Copy>(
        &self,
        header: &Header,
        words: &[(&str, T)],
    ) -> Result<Option<T>, AmqpError> {
        let Some(text) = self.any_text(header)? else {
            return Ok(None);
        };
        if let Some((_, meant)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(Some(*meant));
        }
        let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        let words = words.join(", ");
        Err(AmqpError::precondition_failed(format_args!(
            "{PREFIX}{} {}: it must be one of {words}",
            header.name,
            quoted(text)
        )))
    }

    /// A whole number within bounds.
    pub(crate) fn number(
        &self,
        header: &Header,
        min: u64,
        max: u64,
    ) -> Result<Option<u64>, AmqpError> {
        let Some(value) = self.get(header) else {
            return Ok(None);
        };
        let Some(given) = value.as_i64() else {
            return Err(header.wrong_type("a whole number", value));
        };
        match u64::try_from(given) {
            Ok(number) if (min..=max).contains(&number) => Ok(Some(number)),
            _ => Err(header.error(format!("{given} is not within {min}-{max}"))),
        }
    }

    pub(crate) fn flag(&self, header: &Header) -> Result<Option<bool>, AmqpError> {
        let Some(value) = self.get(header) else {
            return Ok(None);
        };
        let flag = value.as_bool();
        flag.map(Some)
            .ok_or_else(|| header.wrong_type("true or false", value))
    }

    /// A moment: RFC 3339, an AMQP timestamp, or milliseconds since 1970 UTC.
    pub(crate) fn moment(&self, header: &Header) -> Result<Option<Wall>, AmqpError> {
        let Some(value) = self.get(header) else {
            return Ok(None);
        };
        let found = match value {
            FieldValue::LongString(_) => {
                let text = header.text_of(value)?;
                time::parse(text).ok_or_else(|| {
                    let text = quoted(text);
                    header.error(format!("{text} is no RFC 3339 time between 1970 and 9998"))
                })?
            }
            FieldValue::Timestamp(seconds) => Wall(seconds.saturating_mul(1_000)),
            _ => match value.as_i64() {
                Some(ms) => Wall(u64::try_from(ms).map_err(|_| {
                    header.error(format!(
                        "{ms} is negative: milliseconds since 1970 are wanted"
                    ))
                })?),
                None => {
                    let wanted = "RFC 3339 text, a timestamp or milliseconds since 1970";
                    return Err(header.wrong_type(wanted, value));
                }
            },
        };
        if found > time::END {
            return Err(header.error("it is after the year 9998"));
        }
        Ok(Some(found))
    }

    /// Texts: an array of them, or one with commas in between.
    pub(crate) fn texts(&self, header: &Header) -> Result<Vec<&'a str>, AmqpError> {
        match self.get(header) {
            None => Ok(Vec::new()),
            Some(FieldValue::Array(items)) => {
                items.iter().map(|item| header.text_of(item)).collect()
            }
            // Dates are shorter than what a text may have, but there may be many.
            Some(FieldValue::LongString(octets)) => {
                Ok(header.utf8(octets)?.split(',').map(str::trim).collect())
            }
            Some(value) => Err(header.wrong_type("an array of texts", value)),
        }
    }
}

impl Header {
    /// 406, with the header's name, what is wrong with it, and how it may look.
    pub(crate) fn error(&self, what: impl AsRef<str>) -> AmqpError {
        AmqpError::precondition_failed(format_args!(
            "{PREFIX}{}: {}; an example: '{}'",
            self.name,
            what.as_ref(),
            self.example
        ))
    }

    /// 406 for a value that explains itself.
    pub(crate) fn error_of(&self, value: &str, why: impl std::fmt::Display) -> AmqpError {
        let value = quoted(value);
        AmqpError::precondition_failed(format_args!("{PREFIX}{} {value}: {why}", self.name))
    }

    fn wrong_type(&self, wanted: &str, value: &FieldValue) -> AmqpError {
        self.error(format!(
            "{wanted} is wanted, not {}",
            value.amqp_type_name()
        ))
    }

    fn text_of<'v>(&self, value: &'v FieldValue) -> Result<&'v str, AmqpError> {
        let FieldValue::LongString(octets) = value else {
            return Err(self.wrong_type("a text", value));
        };
        if octets.len() > TEXT_MAX {
            return Err(self.error(format!("longer than {TEXT_MAX} octets")));
        }
        self.utf8(octets)
    }

    fn utf8<'v>(&self, octets: &'v Bytes) -> Result<&'v str, AmqpError> {
        std::str::from_utf8(octets).map_err(|_| self.error("it is not UTF-8"))
    }
}

/// How many letters must be changed, added or left out to make one of the other.
fn distance(known: &str, given: &str) -> usize {
    let given: Vec<char> = given.chars().take(32).collect();
    let mut row: Vec<usize> = (0..=given.len()).collect();
    for (place, letter) in known.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = place + 1;
        for (other, given) in given.iter().enumerate() {
            let change = diagonal + usize::from(letter != *given);
            diagonal = row[other + 1];
            row[other + 1] = change.min(row[other] + 1).min(diagonal + 1);
        }
    }
    row[given.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_of_words() {
        for (known, given, expected) in [
            ("cron", "cron", 0),
            ("cron", "crom", 1),
            ("cron", "corn", 2),
            ("max-runs", "maxruns", 1),
            ("at", "", 2),
        ] {
            assert_eq!(distance(known, given), expected, "{known} {given}");
        }
    }
}

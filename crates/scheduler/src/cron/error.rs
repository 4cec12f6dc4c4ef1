//! What is wrong with an expression, said so that whoever wrote it knows what to change.

use std::fmt;

/// Most characters of what somebody wrote that an error repeats.
const QUOTED_MAX: usize = 40;

/// Why an expression cannot be used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CronError {
    what: String,
    example: &'static str,
}

impl CronError {
    pub(super) fn new(what: impl Into<String>, example: &'static str) -> Self {
        let what = what.into();
        Self { what, example }
    }
}

impl fmt::Display for CronError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; an example: '{}'", self.what, self.example)
    }
}

impl std::error::Error for CronError {}

/// A text that others wrote, in quotes: cut if it is long, and without control characters.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from("'");
    for (count, c) in text.chars().enumerate() {
        if count == QUOTED_MAX {
            out.push_str("...");
            break;
        }
        out.push(if c.is_control() { '?' } else { c });
    }
    out.push('\'');
    out
}

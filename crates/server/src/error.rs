//! Why the broker does not start.

use std::fmt;

/// Something an operator has to put right before the broker can start: one line, exit code 2.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StartError(String);

impl StartError {
    /// An error with its whole line of explanation.
    pub fn new(line: impl Into<String>) -> Self {
        Self(line.into())
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

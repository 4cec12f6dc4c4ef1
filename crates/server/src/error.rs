//! Why the broker does not start.

use std::fmt;

/// Exit code for most of it.
const EXIT_UNUSABLE: u8 = 2;

/// Something an operator has to put right before the broker can start: one line, and an exit code
/// (2 unless said otherwise).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StartError {
    line: String,
    code: u8,
}

impl StartError {
    /// An error with its whole line of explanation.
    pub fn new(line: impl Into<String>) -> Self {
        Self {
            line: line.into(),
            code: EXIT_UNUSABLE,
        }
    }

    /// The same with another exit code.
    #[must_use]
    pub fn with_code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// The process's exit code.
    #[must_use]
    pub fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl std::error::Error for StartError {}

//! What can end a run.

use std::{fmt, io};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug)]
pub enum Error {
    /// The socket, a file or a process; the text says what we were doing.
    Io(String, io::Error),
    /// The server closed the channel or connection, or said something that makes no sense here.
    Server(String),
    /// Messages lost, duplicated, reordered or altered: the figure does not count.
    Wrong(String),
    /// Something is missing before a run can begin.
    Setup(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(doing, error) => write!(f, "{doing}: {error}"),
            Self::Server(text) => write!(f, "server: {text}"),
            Self::Wrong(text) => write!(f, "WRONG: {text}"),
            Self::Setup(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(_, error) => Some(error),
            _ => None,
        }
    }
}

/// Says what was being done when an I/O error came.
pub trait Context<T> {
    fn context(self, doing: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, doing: impl Into<String>) -> Result<T> {
        self.map_err(|error| Error::Io(doing.into(), error.into()))
    }
}

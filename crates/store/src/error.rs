//! What can go wrong with the log, for whoever runs it.

use std::fmt;
use std::io;

use crate::format::VERSION;

/// Why the log does not do what it is asked to. One clear line each, for an operator.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StoreError {
    /// Something could not be read, written or synced. After a failed write or sync nobody knows
    /// what is on the disk: the log refuses everything from then on.
    Io {
        /// What was being done, and to which file.
        doing: String,
        /// What the system said.
        kind: io::ErrorKind,
        /// The same in words.
        text: String,
    },
    /// There is no room. Nothing was written; it may be tried again when there is.
    Full,
    /// What is there cannot be what was written.
    Corrupt {
        /// The file.
        file: String,
        /// Where in it, in octets.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The file was written by another version of this program, which knows another format.
    Version {
        /// The file.
        file: String,
        /// The version of its format.
        version: u32,
    },
    /// There is a sound record of a kind that this program does not know: a newer one has written
    /// it, and what it says cannot be left out.
    Newer {
        /// The file.
        file: String,
        /// Where in it, in octets.
        offset: u64,
        /// The number of the kind.
        kind: u8,
    },
    /// A file that must be there is not.
    Missing {
        /// The file.
        file: String,
    },
}

impl StoreError {
    pub(crate) fn io(doing: impl Into<String>, error: &io::Error) -> Self {
        Self::Io {
            doing: doing.into(),
            kind: error.kind(),
            text: error.to_string(),
        }
    }

    pub(crate) fn corrupt(file: impl Into<String>, offset: u64, what: impl Into<String>) -> Self {
        Self::Corrupt {
            file: file.into(),
            offset,
            what: what.into(),
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { doing, text, .. } => write!(f, "cannot {doing}: {text}"),
            Self::Full => f.write_str("no room left on the disk for the log"),
            Self::Corrupt { file, offset, what } => {
                write!(f, "{file} is damaged at octet {offset}: {what}")
            }
            Self::Version { file, version } => write!(
                f,
                "{file} has format version {version}, which this program does not know"
            ),
            Self::Newer { file, offset, kind } => write!(
                f,
                "{file} has a record of kind {kind} at octet {offset}, which this program does not \
                 know: a newer version has written it (format version {VERSION})"
            ),
            Self::Missing { file } => write!(f, "{file} is missing"),
        }
    }
}

impl std::error::Error for StoreError {}

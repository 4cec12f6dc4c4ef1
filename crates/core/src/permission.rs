//! Who may do what: the one place that decides it.
//!
//! RabbitMQ's model: a user has three regular expressions in each vhost, for names it may
//! configure, write to and read from. They match anywhere in the name unless anchored, and the
//! empty pattern matches nothing but the empty name (`^$`). The default exchange is called
//! `amq.default` here.

use std::fmt;

use regex::{Regex, RegexBuilder};

use crate::error::{AmqpError, Named};

/// Largest compiled size of one pattern, in octets: bounds memory; time is linear anyway.
const PATTERN_SIZE_MAX: usize = 64 * 1024;

/// What kind of access a method needs.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Access {
    /// Create, change, delete.
    Configure,
    /// Publish to it; bind it as a destination.
    Write,
    /// Consume from it, purge it; bind it as a source.
    Read,
}

/// A user's rights in one vhost.
#[derive(Clone, Debug)]
pub struct Permissions {
    configure: Pattern,
    write: Pattern,
    read: Pattern,
}

#[derive(Clone, Debug)]
enum Pattern {
    Everything,
    Matching(Regex),
}

/// A permission pattern that is no regular expression, or too large a one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BadPattern {
    /// The pattern.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Permissions {
    /// Rights from RabbitMQ's three patterns.
    ///
    /// # Errors
    /// [`BadPattern`] for the first one that does not compile within 64 KiB.
    pub fn new(configure: &str, write: &str, read: &str) -> Result<Self, BadPattern> {
        Ok(Self {
            configure: Pattern::new(configure)?,
            write: Pattern::new(write)?,
            read: Pattern::new(read)?,
        })
    }

    /// The right to do anything.
    #[must_use]
    pub const fn all() -> Self {
        Self {
            configure: Pattern::Everything,
            write: Pattern::Everything,
            read: Pattern::Everything,
        }
    }

    /// The patterns for configure, write and read.
    #[must_use]
    pub fn patterns(&self) -> [&str; 3] {
        [&self.configure, &self.write, &self.read].map(|pattern| match pattern {
            Pattern::Everything => ".*",
            Pattern::Matching(regex) => regex.as_str(),
        })
    }

    /// Whether this access to a queue or exchange of this name is allowed.
    #[must_use]
    pub fn allow(&self, access: Access, name: &str) -> bool {
        let pattern = match access {
            Access::Configure => &self.configure,
            Access::Write => &self.write,
            Access::Read => &self.read,
        };
        match pattern {
            Pattern::Everything => true,
            Pattern::Matching(regex) => {
                regex.is_match(if name.is_empty() { "amq.default" } else { name })
            }
        }
    }

    /// Says no to a user who may not do this (403).
    ///
    /// # Errors
    /// `ACCESS_REFUSED`, with RabbitMQ's words.
    pub(crate) fn check(
        &self,
        user: &str,
        access: Access,
        what: Named<'_>,
    ) -> Result<(), AmqpError> {
        if self.allow(access, what.name) {
            return Ok(());
        }
        let name = if what.name.is_empty() {
            "amq.default"
        } else {
            what.name
        };
        let what = Named { name, ..what };
        Err(AmqpError::access_refused(format_args!(
            "{access} access to {what} refused for user '{user}'"
        )))
    }
}

impl Pattern {
    fn new(pattern: &str) -> Result<Self, BadPattern> {
        if matches!(pattern, ".*" | "^.*$" | "^.*") {
            return Ok(Self::Everything);
        }
        let source = if pattern.is_empty() { "^$" } else { pattern };
        RegexBuilder::new(source)
            .size_limit(PATTERN_SIZE_MAX)
            .dot_matches_new_line(true)
            .build()
            .map(Self::Matching)
            .map_err(|e| BadPattern {
                pattern: pattern.to_owned(),
                reason: e.to_string(),
            })
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configure => "configure",
            Self::Write => "write",
            Self::Read => "read",
        })
    }
}

impl fmt::Display for BadPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "permission pattern '{}': {}", self.pattern, self.reason)
    }
}

impl std::error::Error for BadPattern {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permission_patterns() {
        #[rustfmt::skip]
        let table = [
            // pattern   name             allowed  why this row is here
            ("",         "q",             false,   "the empty pattern allows nothing"),
            ("^$",       "q",             false,   "nor does its long form"),
            (".*",       "q",             true,    "everything"),
            ("^amq\\.",  "",              true,    "the default exchange is amq.default"),
            ("mail",     "old-mail-2",    true,    "matches anywhere unless anchored"),
            ("^mail$",   "old-mail-2",    false,   "anchored"),
            ("^(a|b)$",  "b",             true,    "alternatives"),
        ];
        for (pattern, name, allowed, why) in table {
            let rights = Permissions::new("", "", pattern).unwrap();
            assert_eq!(
                rights.allow(Access::Read, name),
                allowed,
                "{pattern:?} on {name:?}: {why}"
            );
        }
    }

    #[test]
    fn a_bad_pattern_is_refused() {
        assert!(Permissions::new("(", "", "").is_err());
        assert!(
            Permissions::new("", "(a{1000}){1000}", "").is_err(),
            "too large when compiled"
        );
    }
}

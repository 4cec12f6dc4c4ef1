//! The name of a schedule, in the key under which it is kept.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::registry::{DEFINITION, definition_key};

/// A name. Clones share it, with the log, too: its octets are those of the key there.
#[derive(Clone)]
pub(crate) struct Name(Arc<[u8]>);

impl Name {
    pub(crate) fn new(name: &str) -> Self {
        Self(definition_key(name).into())
    }

    /// The one that the key of a definition ends with.
    pub(crate) fn of_key(key: Arc<[u8]>) -> Self {
        Self(key)
    }

    /// Under which the definition is kept.
    pub(crate) fn key(&self) -> &Arc<[u8]> {
        &self.0
    }

    fn octets(&self) -> &[u8] {
        self.0.strip_prefix(DEFINITION).unwrap_or_default()
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        // Made of a text, or was read as one.
        str::from_utf8(self.octets()).unwrap_or_default()
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        self.octets()
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.octets().cmp(other.octets())
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.octets() == other.octets()
    }
}

impl Eq for Name {}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

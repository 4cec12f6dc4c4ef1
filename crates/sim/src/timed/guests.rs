//! Users whose rights come and go.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use leveret_core::Permissions;
use leveret_core::schedule::{Refusal, Users};

/// What the user of all schedules may do.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Standing {
    /// Everything.
    #[default]
    Sound,
    /// Nothing: the user is gone.
    Gone,
    /// Publish by the default exchange only.
    Bound,
}

/// Who knows that.
#[derive(Clone, Debug, Default)]
pub struct Guests(Arc<AtomicU8>);

impl Standing {
    /// Why a message is refused that a schedule would publish, by the exchange `fan` or the default one.
    #[must_use]
    pub fn refusal(self, fan: bool) -> Option<Refusal> {
        match self {
            Self::Sound => None,
            Self::Gone => Some(Refusal::NoUser),
            Self::Bound => fan.then_some(Refusal::NoRight),
        }
    }
}

impl Guests {
    /// From now on.
    pub fn set(&self, standing: Standing) {
        self.0.store(standing as u8, Ordering::Relaxed);
    }
}

impl Users for Guests {
    fn permissions(&self, _user: &str) -> Option<Permissions> {
        match self.0.load(Ordering::Relaxed) {
            0 => Some(Permissions::all()),
            1 => None,
            _ => Permissions::new(".*", "^amq\\.default$", ".*").ok(),
        }
    }
}

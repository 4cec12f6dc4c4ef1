//! What few schedules have, so that the others need no room for it: there may be 200,000.

use std::ops::{Deref, DerefMut};

use leveret_core::ids::Wall;

/// What may look as if it were always there.
pub(crate) trait Rare: Default + 'static {
    /// One that is as good as none.
    fn none() -> &'static Self;
}

/// Takes one pointer until somebody changes what is there.
#[derive(Clone, Debug)]
pub(crate) struct Seldom<T>(Option<Box<T>>);

impl<T: Rare + PartialEq> Seldom<T> {
    /// Gives the room back if there is nothing to remember.
    pub(crate) fn trim(&mut self) {
        if self.0.as_deref().is_some_and(|this| this == T::none()) {
            self.0 = None;
        }
    }
}

impl<T> Default for Seldom<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Rare> Deref for Seldom<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or_else(|| T::none())
    }
}

impl<T: Rare> DerefMut for Seldom<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}

impl<T: Rare + PartialEq> PartialEq for Seldom<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Rare + Eq> Eq for Seldom<T> {}

/// A time or none, in 8 octets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Perhaps(Wall);

impl Perhaps {
    /// No clock says this: what is due after the year 9998 is refused.
    pub(crate) const NONE: Self = Self(Wall(u64::MAX));

    pub(crate) fn get(self) -> Option<Wall> {
        (self != Self::NONE).then_some(self.0)
    }
}

impl From<Option<Wall>> for Perhaps {
    fn from(at: Option<Wall>) -> Self {
        at.map_or(Self::NONE, Self)
    }
}

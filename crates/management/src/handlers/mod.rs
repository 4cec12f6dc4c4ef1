//! What the endpoints do.

pub(crate) mod account;
pub(crate) mod delayed;
pub(crate) mod health;
pub(crate) mod schedules;

//! A hierarchical timing wheel: very many timers, each to the millisecond, at a constant cost.
//!
//! [`Wheel`] keeps `(due, item)` pairs and hands them back in due order once it is told that their
//! time has come. It knows nothing of messages, reads no clock, starts no thread and is
//! deterministic: the same calls give the same answers, so whatever uses it can be simulated.
//!
//! ```
//! use leveret_wheel::Wheel;
//!
//! let mut wheel = Wheel::new(1_000); // milliseconds since whatever the caller counts from
//! let ping = wheel.insert(1_500, "ping");
//! wheel.insert(1_200, "pong");
//! assert_eq!(wheel.next_due(), Some(1_200)); // sleep until then
//!
//! let mut fired = Vec::new();
//! wheel.advance(1_300, &mut fired);
//! assert_eq!(fired, [(1_200, "pong")]);
//! assert_eq!(wheel.cancel(ping), Some("ping"));
//! assert_eq!(wheel.cancel(ping), None); // cancelling twice, or after it fired, does nothing
//! ```
//!
//! Read `wheel.rs` first: its header says how it works and why the order holds; `slab.rs` is where
//! the timers are stored.

#![warn(missing_docs)]

mod slab;
mod wheel;

pub use slab::TimerKey;
pub use wheel::Wheel;

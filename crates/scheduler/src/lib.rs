//! The schedules of a virtual host: what is due when, and what becomes of it.
//!
//! [`Registry`] keeps them and is what the broker knows as its
//! [`Scheduler`](leveret_core::schedule::Scheduler). Like the broker it reads no clock, opens no
//! file and starts no thread: time comes in as an argument, and messages to publish and notes to
//! keep come out.
//!
//! Read [`registry`] first, then `firing` (what happens when something is due), `done` (why
//! nothing is fired twice) and [`cron`]. An order comes in by `header`, `order` and `definition`.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod cron;
pub mod definition;
pub mod duration;
pub mod history;
pub mod metrics;
pub mod policy;
pub mod registry;
pub mod rhythm;
pub mod time;
pub mod trigger;
pub mod zone;

mod agenda;
mod change;
mod done;
mod fate;
mod firing;
mod header;
mod name;
mod octets;
mod order;
mod preview;
mod recovery;
mod reply;
mod run;
mod schedule;
mod seldom;
mod share;
mod state;

pub use metrics::Metrics;
pub use registry::{Limits, Registry};
pub use rhythm::{Rhythm, Witness};

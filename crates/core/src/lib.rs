//! The broker as a deterministic state machine, one for each vhost.
//!
//! [`Broker::handle`] takes what happened and the time, and fills an [`Effects`] with what is to be
//! done about it: octets to write, records to keep, things to log. It never reads a clock, touches
//! a socket or a disk, starts a thread, or draws a random number it was not seeded with. So the
//! whole broker runs under a simulator, and a run is replayed from its seed.
//!
//! Read [`broker`] first, then `vhost` (the owner of everything), then the path of a message:
//! `method/basic.rs`, `router.rs`, `queue/mod.rs`.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod broker;
pub mod effect;
pub mod error;
pub mod event;
pub mod ids;
pub mod input;
pub mod inspection;
pub mod log;
pub mod message;
pub mod metrics;
pub mod permission;
pub mod record;
pub mod schedule;

mod backlog;
mod binding;
mod channel;
mod check;
mod connection;
mod consumer;
mod dead_letter;
mod delay;
mod delayed;
mod delivery;
mod exchange;
mod expiry;
pub mod fired;
mod map;
mod method;
mod overflow;
mod own_publishes;
mod parked;
mod queue;
mod recovery;
mod removal;
mod retry;
mod router;
mod schedules;
mod timer;
mod unsettled;
mod value;
mod vhost;

pub use broker::{Broker, Limits, Options, Totals};
pub use delayed::{LookUp, Ordered};
pub use effect::{Died, Effects, Outbound};
pub use error::{AmqpError, ReplyCode, Scope};
pub use event::Event;
pub use ids::{ConnectionId, Lsn, Mono, Now, QueueNumber, Seq, Wall};
pub use input::{Capabilities, Command, Input, Outcome, Peer};
pub use message::{Draft, Message};
pub use metrics::Metrics;
pub use permission::{Access, Permissions};
pub use record::{Fact, Places, Record, Retry};

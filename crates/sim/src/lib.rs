//! The broker under simulation: one thread, virtual time, everything decided by a seed.
//!
//! [`sim::run`] makes a world of clients, connections, sessions and one core, and lets one of them
//! act in each step. Clients speak real octets, which arrive in any pieces and with any delay.
//! Three things are compared all the time:
//!
//! - what a client has sent, with the commands its session makes of it (`served.rs`);
//! - what the core does about a command, with what a naive [`model`] says is right;
//! - what the core and the session have sent, with what the client hears (`client.rs`).
//!
//! After each step [`invariants`] hold, and in the end everything that is under way arrives and
//! what is left in the queues is fetched and counted. [`history`] judges by what clients saw alone.
//! What the core records is replayed by a [`log`], which at any time has to hold what a restart
//! must find. [`fault`] makes mistakes on purpose, so that tests can see that they are noticed.
//!
//! A seed that fails is replayed with `cargo run -p leveret-sim -- --seed N --trace`, and made
//! shorter with `--shrink`. Bugs once found are in `tests/scenarios.rs`, by name.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod batch;
pub mod client;
pub mod clock;
mod deaths;
mod declare;
pub mod dice;
mod ending;
pub mod fault;
pub mod full;
pub mod history;
pub mod invariants;
mod judge;
pub mod letters;
pub mod log;
mod mistakes;
pub mod model;
pub mod network;
mod obey;
pub mod pair;
pub mod plan;
pub mod rules;
pub mod served;
pub mod shrink;
pub mod sim;
pub mod storage;
pub mod swap;
pub mod timed;
pub mod topology;
pub mod waits;
mod words;
pub mod workload;

pub use fault::Fault;
pub use model::Tally;
pub use sim::{Failure, Setup, run};

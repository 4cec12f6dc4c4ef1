//! Measures AMQP 0-9-1 brokers: a load generator, a zero-logic relay as the practical limit, and
//! side-by-side runs that print ratios against targets.
//!
//! `docs/benchmarking.md` says what each scenario does and how to read the table. The parts:
//!
//! - [`scenario`] is THE TABLE: every scenario with its parameters, and the targets beside it;
//! - [`client`], [`script`], [`receiver`], [`scan`] and [`checker`] are the cheap client: publishes
//!   encoded before the clock starts, deliveries read by hand, every sequence number checked;
//!   [`producer`] and [`confirms`] are its half that waits for confirms, [`readiness`] is epoll;
//! - [`layout`] declares what a scenario needs on the server and makes messages to fit, [`storage`]
//!   says whether they are to last;
//! - [`throughput`] (with [`pace`]), [`latency`], [`connections`], [`memory`], [`fill_drain`],
//!   [`lateness`] and [`schedules`] are the ways to measure, [`watch`] is the clock, [`measure`] the
//!   figures;
//! - [`process`] and [`metrics`] read what a server uses and counts, [`broker`] starts and stops
//!   one, [`disk`] is where it keeps its data;
//! - [`bench`](mod@bench) runs everything side by side, [`report`] prints it with a [`verdict`] on each
//!   target;
//! - [`relay`] is the other binary.
//!
//! A run that loses, duplicates or reorders a message is an error, never a figure.

pub mod backlog;
pub mod bench;
pub mod broker;
pub mod checker;
pub mod client;
pub mod confirms;
pub mod connections;
pub mod disk;
pub mod error;
pub mod fill_drain;
pub mod latency;
pub mod lateness;
pub mod layout;
pub mod measure;
pub mod memory;
pub mod metrics;
pub mod pace;
pub mod process;
pub mod producer;
pub mod readiness;
pub mod receiver;
pub mod relay;
pub mod report;
pub mod scan;
pub mod scenario;
pub mod schedules;
pub mod script;
pub mod storage;
pub mod throughput;
pub mod url;
pub mod verdict;
pub mod watch;

pub use error::{Error, Result};

//! The broker as a program: configuration, sockets, threads, signals.
//!
//! What the protocol means is decided in `leveret-core`, what it looks like on the wire in
//! `leveret-session`; this crate is the only one that meets the world. Read [`connection`] and
//! [`outbox`] for what happens between a socket and the machine, [`shard`], `machine` and
//! [`turnstile`] for how the machine is run, [`config`] for what can be set.

#![forbid(unsafe_code)]

pub mod alarms;
pub mod auth;
pub mod backup;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connection;
pub mod crons;
pub mod data_dir;
pub mod definitions;
pub mod error;
mod gateway;
pub mod health;
pub mod housekeeping;
pub mod http;
pub mod journal;
pub mod link;
pub mod listener;
mod machine;
pub mod metrics;
pub mod node;
pub mod outbox;
pub mod patient;
pub mod per_object;
pub mod registry;
pub mod remote;
pub mod server;
pub mod shard;
pub mod signals;
pub mod store_tool;
pub mod telemetry;
pub mod tls;
pub mod turnstile;

pub use config::Config;
pub use error::StartError;
pub use server::Server;

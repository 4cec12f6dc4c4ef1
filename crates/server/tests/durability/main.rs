//! What was confirmed stays, whatever happens to the process, to its files or to the disk.
//!
//! All of it against the real program in directories that outlive it. Cases that need more than
//! this machine allows (to mount something, or `strace`) say so on standard error and are left out.

#![allow(clippy::unwrap_used)] // what is not there fails the test

#[path = "../common/mod.rs"]
mod common;

mod clean;
mod dice;
mod disk_errors;
mod files;
mod fires;
mod full;
mod history;
mod kill;
mod link;
mod process;
mod refused;
mod swap;
mod tool;
mod traffic;

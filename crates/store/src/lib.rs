//! The durable log: one for all vhosts and queues, in files of fixed size that are used again.
//!
//! [`Log`] is the whole of it without threads: it writes batches of records, syncs, says what is
//! safe, keeps house, and reads itself back when it is opened. [`Store`] puts a commit thread and a
//! fetch thread around it for the server, [`Stepped`] the committer without its thread. Everything goes through the trait [`Disk`], so that a
//! simulator can crash it at any step.
//!
//! Read `docs/storage-format.md` first, then `log.rs`, `state.rs`, `recovery.rs`.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod disk;

mod checkpoint;
mod committer;
mod definitions;
mod error;
mod fetch;
mod file_disk;
mod footer;
mod format;
mod keeper;
mod log;
mod messages;
mod metrics;
mod notes;
mod opening;
mod options;
mod plan;
mod record;
mod recovery;
mod relief;
mod room;
mod salvage;
mod scan;
mod segment;
mod state;
mod stepped;
mod store;
mod swap;

pub use disk::{Disk, DiskFile};
pub use error::StoreError;
pub use fetch::Reader;
pub use file_disk::FileDisk;
pub use log::{Counts, Cut, Log, Opened, Staged, VhostNumber};
pub use metrics::Metrics;
pub use options::Options;
pub use salvage::{Findings, Salvaged, check, salvage};
pub use scan::{Scan, scan, scan_heads};
pub use stepped::Stepped;
pub use store::Store;

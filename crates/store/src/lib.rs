//! The durable log.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod disk;

pub use disk::{Disk, DiskFile};

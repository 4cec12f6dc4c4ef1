//! The log with its threads, as the server uses it.

use std::sync::Arc;

use leveret_core::log::{Journal, Lead, LogError, Watcher};

use crate::disk::Disk;
use crate::error::StoreError;
use crate::options::Options;

/// The log with its commit thread and its fetch thread.
#[derive(Debug)]
pub struct Store {}

impl Store {
    /// Opens the log and starts its threads.
    ///
    /// # Errors
    /// As for [`Log::open`](crate::Log::open).
    pub fn open<D: Disk>(_disk: D, _options: Options) -> Result<Self, StoreError> {
        Ok(Self {})
    }

    /// Writes everything, a checkpoint, and ends the threads.
    ///
    /// # Errors
    /// As for [`Log::close`](crate::Log::close).
    pub fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Journal for Store {
    fn lead(&self, _vhost: &str, _watcher: Arc<dyn Watcher>) -> Result<Lead, LogError> {
        Err(LogError::Unavailable("not yet".to_owned()))
    }
}

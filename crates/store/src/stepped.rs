//! The log as the server uses it, without its threads: whoever holds it has the committer take its
//! turns. For a simulation, which decides when.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{self, Sender};

use leveret_core::log::{Lead, LogError, Watcher};

use crate::committer::{Committer, Turn};
use crate::disk::Disk;
use crate::error::StoreError;
use crate::log::Log;
use crate::options::Options;
use crate::store::{Request, Shared, closed};

/// A log with a committer that does nothing by itself. Nobody answers fetches and swaps.
pub struct Stepped<D: Disk> {
    committer: Committer<D>,
    shared: Arc<Shared>,
    fetches: Sender<Request>,
}

impl<D: Disk> Stepped<D> {
    /// Opens the log.
    ///
    /// # Errors
    /// As for [`Log::open`].
    pub fn open(disk: D, options: Options) -> Result<Self, StoreError> {
        let segment_bytes = options.segment_bytes;
        let log = Log::open(disk, options)?.log;
        let shared = Arc::new(Shared::default());
        Ok(Self {
            committer: Committer::new(log, Arc::clone(&shared), segment_bytes),
            shared,
            fetches: mpsc::channel().0,
        })
    }

    /// Leads a vhost, in a turn.
    ///
    /// # Errors
    /// As for [`Journal::lead`](leveret_core::log::Journal::lead).
    pub fn lead(&mut self, vhost: &str, watcher: Arc<dyn Watcher>) -> Result<Lead, LogError> {
        let answered = self.shared.ask_for_lead(vhost, &watcher)?;
        let turn = self.turn();
        turn.map_err(|error| LogError::Unknown(error.to_string()))?;
        let led = answered.try_recv().map_err(|_| closed())??;
        Ok(led.into_lead(&self.shared, self.fetches.clone(), None, watcher))
    }

    /// What the commit thread does when it is woken; true if it would go on at once.
    ///
    /// # Errors
    /// `Io`: nothing can be written any more.
    pub fn turn(&mut self) -> Result<bool, StoreError> {
        let taken = self.committer.take(true);
        let turn = self.committer.turn(taken)?;
        Ok(matches!(turn, Turn::Done { more: true }))
    }

    /// Octets of records that wait to be safe: after a turn, those that could not be written.
    #[must_use]
    pub fn staged_bytes(&self) -> u64 {
        self.shared.staged_bytes.load(Relaxed)
    }

    /// Writes everything, and ends as [`Store::close`](crate::Store::close) does.
    ///
    /// # Errors
    /// As there.
    pub fn close(self) -> Result<(), StoreError> {
        self.shared.close();
        self.committer.run()
    }
}

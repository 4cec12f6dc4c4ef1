//! The log without threads.

use leveret_core::Record;
use leveret_core::ids::Lsn;
use leveret_core::log::Recovered;

use crate::disk::Disk;
use crate::error::StoreError;
use crate::fetch::Reader;
use crate::options::Options;

/// A vhost in the log. Given when it is led for the first time, never given twice.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct VhostNumber(pub u32);

/// Records of a vhost that are to be written, in order.
#[derive(Clone, Debug, Default)]
pub struct Staged {
    /// The vhost, as [`Log::lead`] said.
    pub vhost: VhostNumber,
    /// Its records.
    pub records: Vec<Record>,
}

/// A log that was opened.
#[derive(Debug)]
pub struct Opened<D: Disk> {
    /// The log.
    pub log: Log<D>,
    /// What was cut off its end, because it had not been written completely.
    pub cut: Option<Cut>,
    /// Segments there are.
    pub segments: u64,
    /// Messages there are; one in several queues counts once for each.
    pub messages: u64,
}

/// What was cut off the end of a log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cut {
    /// The file.
    pub file: String,
    /// Where it ends now.
    pub offset: u64,
    /// Octets cut, as far as anything had been written there.
    pub bytes: u64,
}

/// The log: written by one, read by many.
#[derive(Debug)]
pub struct Log<D: Disk> {
    disk: D,
    options: Options,
}

impl<D: Disk> Log<D> {
    /// Opens the log in this directory, or makes one.
    ///
    /// # Errors
    /// All kinds of [`StoreError`]; unless it is `Io`, nothing was changed.
    pub fn open(disk: D, options: Options) -> Result<Opened<D>, StoreError> {
        let log = Self { disk, options };
        Ok(Opened {
            log,
            cut: None,
            segments: 0,
            messages: 0,
        })
    }

    /// Takes the lead of a vhost: what is known of it. A new one is named in the log.
    ///
    /// # Errors
    /// `Io`; `Full`: there is no room to name a new one.
    pub fn lead(&mut self, _vhost: &str) -> Result<(VhostNumber, Recovered), StoreError> {
        Err(StoreError::Full)
    }

    /// Writes records. They are safe after the next [`sync`](Self::sync).
    ///
    /// # Errors
    /// `Full`: nothing was written; `Io`: nothing can be written any more.
    pub fn write(&mut self, staged: Vec<Staged>) -> Result<(), StoreError> {
        self.append(&staged)
    }

    /// The same, for those who try again when it was `Full`.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    pub fn append(&mut self, _staged: &[Staged]) -> Result<(), StoreError> {
        Err(StoreError::Full)
    }

    /// Makes what was written until now safe; says up to which record of each vhost that is, for
    /// those vhosts where something was written since the last time.
    ///
    /// # Errors
    /// `Io`: nothing can be written any more.
    pub fn sync(&mut self) -> Result<Vec<(VhostNumber, Lsn)>, StoreError> {
        Err(StoreError::Full)
    }

    /// One bounded step of checkpoint, freeing or compaction. True if there is more to do.
    ///
    /// # Errors
    /// `Io`: nothing can be written any more. Never `Full`.
    pub fn housekeep(&mut self) -> Result<bool, StoreError> {
        Err(StoreError::Full)
    }

    /// Reads messages, from any thread.
    #[must_use]
    pub fn reader(&self) -> Reader<D> {
        Reader::new(self.disk.clone(), self.options.clone())
    }

    /// Checkpoint, footer, sync: the next open has nothing to scan.
    ///
    /// # Errors
    /// `Io`; `Full` if there is no room for the checkpoint (everything else is safe then).
    pub fn close(self) -> Result<(), StoreError> {
        Err(StoreError::Full)
    }
}

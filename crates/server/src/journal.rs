//! The durable log, as the broker runs it: opened before anything is served, heard from while it
//! works, and the end of the broker when it fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use leveret_core::Input;
use leveret_core::log::{LogError, Report, Watcher};
use leveret_store::{FileDisk, Options, Store, StoreError};
use rustix::fs::statvfs;
use tokio::sync::Notify;

use crate::error::StartError;
use crate::shard::Shard;

/// Where in the data directory the log is.
const FOLDER: &str = "log";

/// Where in it messages are that memory is too short for. Nothing there outlives a broker.
const SWAP_FOLDER: &str = "swap";

/// Exit code when what is on the disk cannot be trusted: somebody has to look at it.
pub const EXIT_CORRUPT: u8 = 3;

/// Free space below which publishers are stopped: the smaller of this many octets and this share
/// of the disk.
const FREE_BYTES_MIN: u64 = 1 << 30;
const FREE_SHARE_MIN: u64 = 20;

/// Opens the log in a data directory that is ours.
///
/// # Errors
/// [`StartError`] if it cannot be read or written, or (exit code 3) is damaged.
pub fn open(data_dir: &Path) -> Result<Store, StartError> {
    let folder = make_folder(data_dir)?;
    let swap = data_dir.join(SWAP_FOLDER);
    if !swap.is_dir() {
        fs::create_dir(&swap)
            .map_err(|error| StartError::new(format!("cannot make {}: {error}", swap.display())))?;
    }
    let (log, swap) = (FileDisk::new(&folder), FileDisk::new(swap));
    let store = Store::open_with_swap(log, swap, options(&folder))
        .map_err(|error| start_error(&folder, &error))?;
    if let Some(cut) = store.cut() {
        tracing::warn!(
            file = cut.file,
            offset = cut.offset,
            octets = cut.bytes,
            "the log ended in the midst of a record that nobody was told is safe: cut off"
        );
    }
    let metrics = store.metrics();
    tracing::info!(
        messages = metrics.recovered_messages.load(Ordering::Relaxed),
        milliseconds = metrics.recovery_ms.load(Ordering::Relaxed),
        "the log was read"
    );
    Ok(store)
}

/// Where the log of a data directory is.
#[must_use]
pub fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join(FOLDER)
}

/// Makes that folder if it is not there, so that it is there after a power cut, too.
///
/// # Errors
/// [`StartError`] if it cannot be made.
pub fn make_folder(data_dir: &Path) -> Result<PathBuf, StartError> {
    let folder = folder(data_dir);
    let failed = |error: std::io::Error| {
        StartError::new(format!("cannot make {}: {error}", folder.display()))
    };
    if !folder.is_dir() {
        fs::create_dir(&folder).map_err(failed)?;
        // The log syncs what is in its folder; that there is one is up to us. Above the data
        // directory, too: it may be as new.
        for above in folder.ancestors().skip(1).take(2) {
            let above = if above.as_os_str().is_empty() {
                Path::new(".")
            } else {
                above
            };
            fs::File::open(above)
                .and_then(|directory| directory.sync_all())
                .map_err(failed)?;
        }
    }
    Ok(folder)
}

/// How the log in a folder is run.
#[must_use]
pub fn options(folder: &Path) -> Options {
    Options {
        free_bytes_min: free_bytes_min(folder),
        ..Options::default()
    }
}

/// One line for an operator, and the exit code.
#[must_use]
pub fn start_error(folder: &Path, error: &StoreError) -> StartError {
    let line = format!("cannot read the log in {}: {error}", folder.display());
    match error {
        StoreError::Corrupt { .. } | StoreError::Missing { .. } => {
            let line = format!("{line}; see `leveret store check`");
            StartError::new(line).with_code(EXIT_CORRUPT)
        }
        StoreError::Io { .. }
        | StoreError::Full
        | StoreError::Version { .. }
        | StoreError::Newer { .. } => StartError::new(line),
    }
}

/// The same for what is known of one vhost.
#[must_use]
pub fn lead_error(vhost: &str, error: &LogError) -> StartError {
    let line = format!("cannot recover the vhost '{vhost}': {error}");
    match error {
        LogError::Corrupt(_) => StartError::new(line).with_code(EXIT_CORRUPT),
        // A disk that is full or fails: nothing was read that is wrong.
        _ => StartError::new(line),
    }
}

fn free_bytes_min(folder: &Path) -> u64 {
    let share = statvfs(folder).map(|disk| disk.f_blocks * disk.f_frsize / FREE_SHARE_MIN);
    share.unwrap_or(FREE_BYTES_MIN).min(FREE_BYTES_MIN)
}

/// What the log has said that concerns all vhosts.
#[derive(Debug, Default)]
pub struct Condition {
    full: AtomicBool,
    lost: OnceLock<LogError>,
    changed: Notify,
}

impl Condition {
    /// Is there hardly room on the disk?
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Why nothing will become durable any more, if so.
    #[must_use]
    pub fn lost(&self) -> Option<&LogError> {
        self.lost.get()
    }

    /// Waits until one of them changes.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// Hears the log on behalf of one vhost.
#[derive(Debug)]
pub struct Listener {
    shard: OnceLock<Weak<Shard>>,
    condition: Arc<Condition>,
}

impl Listener {
    /// For a vhost that is yet to be.
    #[must_use]
    pub fn new(condition: Arc<Condition>) -> Arc<Self> {
        let shard = OnceLock::new();
        Arc::new(Self { shard, condition })
    }

    /// The vhost is there.
    pub fn attach(&self, shard: &Arc<Shard>) {
        let first = self.shard.set(Arc::downgrade(shard));
        debug_assert!(first.is_ok(), "a listener is for one vhost");
    }

    fn shard(&self) -> Option<Arc<Shard>> {
        self.shard.get().and_then(Weak::upgrade)
    }
}

impl Watcher for Listener {
    fn report(&self, report: Report) {
        match report {
            Report::Durable(lsn) => {
                if let Some(shard) = self.shard() {
                    shard.submit_in_passing(Input::Durable(lsn));
                }
            }
            Report::Fetched(fetched) => {
                if let Some(shard) = self.shard() {
                    shard.submit(Input::Fetched(fetched));
                }
            }
            Report::Swapped(swapped) => {
                if let Some(shard) = self.shard() {
                    shard.submit_in_passing(Input::Swapped(swapped));
                }
            }
            Report::Full(full) => {
                self.condition.full.store(full, Ordering::Relaxed);
                self.condition.changed.notify_one();
            }
            Report::Lost(error) => {
                let _ = self.condition.lost.set(error); // the first one is why
                self.condition.changed.notify_one();
            }
        }
    }
}

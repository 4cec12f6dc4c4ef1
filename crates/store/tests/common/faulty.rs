//! A directory with little room, whose files fail when they are told to.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use leveret_store::{Disk, DiskFile, FileDisk};

#[derive(Clone, Debug)]
pub(crate) struct FaultyDisk {
    inner: FileDisk,
    pub(crate) faults: Arc<Faults>,
}

/// What goes wrong.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Octets that can still be allocated.
    pub(crate) free: AtomicU64,
    /// There is room for no further file, whatever `free` says: a quota.
    pub(crate) refuses: AtomicBool,
    /// Syncs fail from now on.
    pub(crate) syncs_fail: AtomicBool,
    /// Footers that were written over what was not synced.
    pub(crate) early_footers: AtomicU64,
    /// Writes fail from now on.
    pub(crate) writes_fail: AtomicBool,
    /// Files as they are on the disk, where memory shows something else.
    pub(crate) on_disk: Mutex<BTreeMap<String, Vec<u8>>>,
}

#[derive(Clone, Debug)]
pub(crate) struct FaultyFile<F> {
    inner: F,
    name: Arc<str>,
    faults: Arc<Faults>,
    /// Something was written and not synced.
    is_dirty: Arc<AtomicBool>,
}

impl FaultyDisk {
    pub(crate) fn new(path: &std::path::Path, free: u64) -> Self {
        let faults = Faults::default();
        faults.free.store(free, SeqCst);
        Self {
            inner: FileDisk::new(path),
            faults: Arc::new(faults),
        }
    }

    fn file<F>(&self, inner: F, name: &str) -> FaultyFile<F> {
        FaultyFile {
            inner,
            name: name.into(),
            faults: Arc::clone(&self.faults),
            is_dirty: Arc::default(),
        }
    }
}

impl Disk for FaultyDisk {
    type File = FaultyFile<<FileDisk as Disk>::File>;

    fn create(&self, name: &str, len: u64) -> io::Result<Self::File> {
        if self.faults.refuses.load(SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let taken = self
            .faults
            .free
            .fetch_update(SeqCst, SeqCst, |free| free.checked_sub(len));
        taken.map_err(|_| io::Error::from(io::ErrorKind::StorageFull))?;
        Ok(self.file(self.inner.create(name, len)?, name))
    }

    fn open(&self, name: &str) -> io::Result<Self::File> {
        Ok(self.file(self.inner.open(name)?, name))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let len = self.inner.open(name)?.size()?;
        self.inner.remove(name)?;
        self.faults.free.fetch_add(len, SeqCst);
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.inner.sync_dir()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.faults.free.load(SeqCst))
    }
}

impl<F: DiskFile> DiskFile for FaultyFile<F> {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.faults.writes_fail.load(SeqCst) {
            return Err(io::Error::other("the disk does not write"));
        }
        let is_footer = bytes.windows(8).any(|eight| eight == b"LVRTFTR\0");
        let was_dirty = self.is_dirty.swap(true, SeqCst);
        if is_footer && was_dirty {
            self.faults.early_footers.fetch_add(1, SeqCst);
        }
        self.inner.write_at(offset, bytes)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(offset, buffer)
    }

    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.inner.truncate(len)
    }

    fn sync(&self) -> io::Result<()> {
        if self.faults.syncs_fail.load(SeqCst) {
            return Err(io::Error::other("the disk does not sync"));
        }
        self.is_dirty.store(false, SeqCst);
        self.inner.sync()
    }

    fn reread(&self) -> io::Result<()> {
        self.sync()?;
        let mut on_disk = self.faults.on_disk.lock().expect("nobody panicked");
        match on_disk.remove(&*self.name) {
            Some(content) => self.inner.write_at(0, &content),
            None => Ok(()),
        }
    }
}

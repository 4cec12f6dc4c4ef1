//! What the log needs of a disk, and the real one.
//!
//! Everything the log does to the world goes through [`Disk`], so that the simulator can put a disk
//! in its place that forgets, tears and lies as real ones do. A directory of plain files is all
//! that is asked for. What is written counts as there only after [`DiskFile::sync`]; what is
//! created, renamed or removed only after [`Disk::sync_dir`].

use std::io;

/// One directory.
pub trait Disk: Clone + Send + Sync + 'static {
    /// An open file. Clones share it.
    type File: DiskFile;

    /// Makes a file of `len` octets, all zero, with its space reserved. It must not be there yet.
    ///
    /// # Errors
    /// `StorageFull` if there is no room (nothing is left behind then); whatever else went wrong.
    fn create(&self, name: &str, len: u64) -> io::Result<Self::File>;

    /// Opens a file that is there, to be read and written.
    ///
    /// # Errors
    /// `NotFound`; whatever else went wrong.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Names of all files, in any order.
    ///
    /// # Errors
    /// Whatever went wrong.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Gives a file another name, which must be free.
    ///
    /// # Errors
    /// Whatever went wrong.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Those who have it open may go on reading it.
    ///
    /// # Errors
    /// Whatever went wrong.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes what was created, renamed and removed until now last.
    ///
    /// # Errors
    /// Whatever went wrong; nothing may be assumed of it then.
    fn sync_dir(&self) -> io::Result<()>;

    /// Octets that can still be allocated.
    ///
    /// # Errors
    /// Whatever went wrong.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// An open file.
pub trait DiskFile: Clone + Send + Sync + 'static {
    /// Writes all of it at this place.
    ///
    /// # Errors
    /// Whatever went wrong: any part of it may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Reads at this place; fewer octets than asked for only at the end of the file.
    ///
    /// # Errors
    /// Whatever went wrong.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Octets in the file.
    ///
    /// # Errors
    /// Whatever went wrong.
    fn size(&self) -> io::Result<u64>;

    /// Cuts the file off here.
    ///
    /// # Errors
    /// Whatever went wrong.
    fn truncate(&self, len: u64) -> io::Result<()>;

    /// Makes everything written to the file until now last (fdatasync).
    ///
    /// # Errors
    /// Whatever went wrong; nothing may be assumed of what was written since the last sync then,
    /// and syncing again says nothing either.
    fn sync(&self) -> io::Result<()>;

    /// Makes last what another process wrote to the file and did not sync, and lets what is read
    /// from now on come from the disk itself. After a sync that failed a system may go on showing
    /// what is on no disk, and have forgotten that it never came there.
    ///
    /// # Errors
    /// As for [`sync`](Self::sync).
    fn reread(&self) -> io::Result<()> {
        self.sync()
    }
}

//! Files for segments to come: made in advance or used before.
//!
//! Two are a reserve: when the disk is short of room they are not taken for messages, so that what
//! frees room can still be written. One is for that, and one for the checkpoint with which the
//! segment that took the first is freed after a start; so while one of them is missing, no message
//! is taken at all, for then that segment would not be empty.

use std::io;

use crate::disk::Disk;
use crate::error::StoreError;
use crate::format::{BATCH, HEADER, TRAILER};
use crate::options::Options;
use crate::segment::free_name;

/// Files that are not for messages.
const RESERVE: usize = 2;

/// Files kept to be used again; those beyond are removed.
const SPARES_MAX: usize = 3;

/// A file that waits to be used.
pub(crate) struct Spare<F> {
    /// The number in its name.
    pub(crate) number: u32,
    /// Open if it was made just now.
    pub(crate) file: Option<F>,
    pub(crate) bytes: u64,
}

/// The files that wait, and those that were set apart for the batch at hand.
pub(crate) struct Room<D: Disk> {
    disk: D,
    segment_bytes: u64,
    free_bytes_min: u64,
    spares: Vec<Spare<D::File>>,
    ready: Vec<Spare<D::File>>,
    /// Number of the next segment or file.
    pub(crate) next_number: u32,
}

impl<D: Disk> Room<D> {
    pub(crate) fn new(disk: D, options: &Options, next_number: u32) -> Self {
        Self {
            disk,
            segment_bytes: options.segment_bytes,
            free_bytes_min: options.free_bytes_min,
            spares: Vec::new(),
            ready: Vec::new(),
            next_number,
        }
    }

    /// Octets of an ordinary segment that records may take.
    pub(crate) fn capacity(&self) -> u64 {
        self.segment_bytes
            .saturating_sub(u64::from(HEADER + BATCH + TRAILER))
    }

    pub(crate) fn spares(&self) -> usize {
        self.spares.len() + self.ready.len()
    }

    /// Whether messages could be taken that need a new segment.
    pub(crate) fn has_room(&self) -> io::Result<bool> {
        let free = self.disk.free_bytes()?;
        let missing = (RESERVE + 1).saturating_sub(self.spares()) as u64;
        let missing = missing.saturating_mul(self.segment_bytes);
        Ok(free >= self.free_bytes_min.saturating_add(missing))
    }

    /// Octets of records that can be taken, messages too, `rest` of which fit into the segment at
    /// hand. What does not fit into the end of a segment is lost of it.
    pub(crate) fn left(&self, rest: u64) -> io::Result<u64> {
        let free = self.disk.free_bytes()?;
        let more = free.checked_sub(self.free_bytes_min);
        let spares = self.spares.len() as u64;
        let files = spares + more.unwrap_or(0) / self.segment_bytes.max(1);
        Ok(match files.checked_sub(RESERVE as u64) {
            None => 0,
            Some(_) if more.is_none() => rest,
            Some(files) => files.saturating_mul(self.capacity()).saturating_add(rest),
        })
    }

    /// Sets files apart so that records of these sizes can be written, `rest` octets of which fit
    /// into the segment at hand.
    ///
    /// # Errors
    /// `Full`: nothing but that some files may wait now that did not; `Io`.
    pub(crate) fn prepare(
        &mut self,
        bounds: &[u64],
        mut rest: u64,
        is_relief: bool,
    ) -> Result<(), StoreError> {
        let mut ordinary = 0;
        for &bound in bounds {
            if bound > rest {
                rest = if bound > self.capacity() {
                    self.prepare_large(bound)?;
                    bound
                } else {
                    ordinary += 1;
                    self.prepare_ordinary(ordinary, is_relief)?;
                    self.capacity()
                };
            }
            rest -= bound;
        }
        Ok(())
    }

    fn prepare_large(&mut self, bound: u64) -> Result<(), StoreError> {
        let bytes = bound + u64::from(HEADER + BATCH + TRAILER);
        if u32::try_from(bytes).is_err() {
            let error = io::Error::other("it is longer than 4 GiB");
            return Err(StoreError::io("write a record", &error));
        }
        self.check_free(bytes)?;
        let spare = self.create(bytes)?;
        self.ready.push(spare);
        Ok(())
    }

    fn prepare_ordinary(&mut self, count: usize, is_relief: bool) -> Result<(), StoreError> {
        let ready = self.ready.iter().filter(|spare| self.is_ordinary(spare));
        let ready = ready.count();
        if is_relief {
            if ready < count {
                let spare = match self.spares.pop() {
                    Some(spare) => spare,
                    None => self.create(self.segment_bytes)?,
                };
                self.ready.push(spare);
            }
            return Ok(());
        }
        self.check_free(0)?;
        if ready < count {
            let spare = if self.has_reserve(1) {
                self.spares.pop()
            } else {
                None
            };
            let spare = match spare {
                Some(spare) => spare,
                None => self.create_checked()?,
            };
            self.ready.push(spare);
        }
        Ok(())
    }

    /// Whether the reserve is there, and so many files more.
    pub(crate) fn has_reserve(&self, more: usize) -> bool {
        self.spares.len() >= RESERVE + more
    }

    /// Sees to it that the reserve is there.
    ///
    /// # Errors
    /// `Full`; `Io`.
    pub(crate) fn make_reserve(&mut self) -> Result<(), StoreError> {
        while !self.has_reserve(0) {
            let spare = self.create_checked()?;
            self.spares.push(spare);
        }
        Ok(())
    }

    /// Takes a file that was set apart.
    pub(crate) fn take(&mut self, bound: u64) -> Option<Spare<D::File>> {
        let fits = |spare: &Spare<D::File>| {
            if bound > self.capacity() {
                spare.bytes >= bound + u64::from(HEADER + BATCH + TRAILER)
            } else {
                self.is_ordinary(spare)
            }
        };
        let at = self.ready.iter().position(fits)?;
        Some(self.ready.remove(at))
    }

    /// What was set apart and not needed.
    pub(crate) fn put_back(&mut self) -> io::Result<()> {
        while let Some(spare) = self.ready.pop() {
            self.give(spare)?;
        }
        Ok(())
    }

    /// Keeps a file to be used again, or removes it.
    pub(crate) fn give(&mut self, spare: Spare<D::File>) -> io::Result<()> {
        if self.is_ordinary(&spare) && self.spares.len() < SPARES_MAX {
            self.spares.push(spare);
            return Ok(());
        }
        self.disk.remove(&free_name(spare.number))
    }

    fn is_ordinary(&self, spare: &Spare<D::File>) -> bool {
        spare.bytes == self.segment_bytes
    }

    fn check_free(&self, bytes: u64) -> Result<(), StoreError> {
        let free = self.disk.free_bytes();
        let free = free.map_err(|error| StoreError::io("ask for free space", &error))?;
        if free < self.free_bytes_min.saturating_add(bytes) {
            return Err(StoreError::Full);
        }
        Ok(())
    }

    fn create_checked(&mut self) -> Result<Spare<D::File>, StoreError> {
        self.check_free(self.segment_bytes)?;
        self.create(self.segment_bytes)
    }

    fn create(&mut self, bytes: u64) -> Result<Spare<D::File>, StoreError> {
        let number = self.next_number;
        let name = free_name(number);
        match self.disk.create(&name, bytes) {
            Ok(file) => {
                self.next_number = next(number)?;
                Ok(Spare {
                    number,
                    file: Some(file),
                    bytes,
                })
            }
            Err(error) if is_full(&error) => Err(StoreError::Full),
            Err(error) => Err(StoreError::io(format!("make {name}"), &error)),
        }
    }
}

/// The file of a spare.
pub(crate) fn open_spare<D: Disk>(disk: &D, spare: &Spare<D::File>) -> io::Result<D::File> {
    match &spare.file {
        Some(file) => Ok(file.clone()),
        None => disk.open(&free_name(spare.number)),
    }
}

/// The number after this one.
pub(crate) fn next(number: u32) -> Result<u32, StoreError> {
    let too_many = || StoreError::io("number a segment", &io::Error::other("there are too many"));
    number.checked_add(1).ok_or_else(too_many)
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

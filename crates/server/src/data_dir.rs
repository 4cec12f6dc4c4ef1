//! The directory that belongs to one broker alone.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::error::StartError;

/// Others may write: then it cannot be trusted.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// A directory that is ours for as long as this lives.
#[derive(Debug)]
pub struct DataDir {
    /// Locked; the system lets go of it however we end.
    _lock: File,
}

impl DataDir {
    /// Makes the directory if it is not there, and takes it.
    ///
    /// # Errors
    /// [`StartError`] if it cannot be made or written to, if others may write to it, or if another
    /// broker has it.
    pub fn take(path: &Path) -> Result<Self, StartError> {
        let wrong = |reason: &dyn std::fmt::Display| {
            StartError::new(format!(
                "cannot use the data directory {}: {reason}",
                path.display()
            ))
        };
        match DirBuilder::new().recursive(true).mode(0o700).create(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(wrong(&e)),
            _ => {}
        }
        let metadata = path.metadata().map_err(|e| wrong(&e))?;
        if !metadata.is_dir() {
            return Err(wrong(&"it is not a directory"));
        }
        if metadata.mode() & WRITABLE_BY_OTHERS != 0 {
            return Err(wrong(&format_args!(
                "other users may write to it (mode {:04o}); chmod go-w it",
                metadata.mode() & 0o7777
            )));
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(|e| wrong(&e))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(wrong(&"another broker is using it")),
            Err(e) => Err(wrong(&e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_directory_is_made_for_us_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let taken = DataDir::take(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o700);
        let again = DataDir::take(&path).unwrap_err().to_string();
        assert!(again.ends_with("another broker is using it"), "{again}");
        drop(taken);
        DataDir::take(&path).unwrap();
    }

    #[test]
    fn a_directory_that_others_write_to_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        set_permissions(parent.path(), Permissions::from_mode(0o770)).unwrap();
        let error = DataDir::take(parent.path()).unwrap_err().to_string();
        assert!(
            error.ends_with("other users may write to it (mode 0770); chmod go-w it"),
            "{error}"
        );
    }

    #[test]
    fn a_file_is_no_directory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(DataDir::take(file.path()).is_err());
    }
}

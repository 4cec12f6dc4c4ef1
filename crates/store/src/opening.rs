//! What a start does to the files of the log before anything new is written.

use std::io;

use crate::disk::DiskFile;
use crate::error::StoreError;
use crate::footer::pack;
use crate::recovery::Recovery;
use crate::segment::{log_name, seal};

/// Makes what was read back safe, and then puts footers to the segments that have none.
///
/// Whoever wrote it may not have come to sync it, and whoever finds a footer does not look at what
/// it speaks of.
///
/// # Errors
/// `Io`.
pub(crate) fn secure<F: DiskFile>(recovery: &Recovery<F>) -> Result<(), StoreError> {
    let from = recovery.checkpoint.map_or(0, |(first, _)| first.segment);
    sync_all(recovery.files.range(from..))?;
    for (number, heads) in &recovery.unsealed {
        let segment = recovery.state.segments.get(number);
        let (Some(file), Some(segment)) = (recovery.files.get(number), segment) else {
            continue;
        };
        // What was torn off stays where it is, behind the end that the footer names.
        // Without one it is scanned the next time.
        let Some(footer) = pack(&heads.list) else {
            continue;
        };
        match seal(file, *number, segment.bytes, heads.end, &footer) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {}
            Err(error) => {
                return Err(StoreError::io(
                    format!("seal {}", log_name(*number)),
                    &error,
                ));
            }
            Ok(_) => {}
        }
    }
    sync_all(recovery.files.range(from..))
}

fn sync_all<'a, F: DiskFile>(
    files: impl Iterator<Item = (&'a u32, &'a F)>,
) -> Result<(), StoreError> {
    for (number, file) in files {
        let synced = file.sync();
        synced.map_err(|error| StoreError::io(format!("sync {}", log_name(*number)), &error))?;
    }
    Ok(())
}

//! What a start does to the files of the log before anything new is written.

use std::io;

use crate::disk::DiskFile;
use crate::error::StoreError;
use crate::format::{HEADER, Position};
use crate::recovery::Recovery;
use crate::segment::{Heads, log_name, read_all, scan_batches, seal};

/// Makes what was read back safe, and then puts footers to the segments that have none.
///
/// Whoever wrote it may not have come to sync it, and whoever finds a footer does not look at what
/// it speaks of.
///
/// # Errors
/// `Io`.
pub(crate) fn secure<F: DiskFile>(recovery: &Recovery<F>) -> Result<(), StoreError> {
    let from = recovery.checkpoint.map_or(0, |(first, _)| first.segment);
    for (number, heads) in &recovery.unsealed {
        if let Some(file) = recovery.files.get(number) {
            write_again(file, *number, heads, recovery.safe)?;
        }
    }
    sync_all(recovery.files.range(from..))?;
    for (number, heads) in &recovery.unsealed {
        let segment = recovery.state.segments.get(number);
        let (Some(file), Some(segment)) = (recovery.files.get(number), segment) else {
            continue;
        };
        // What was torn off stays where it is, behind the end that the footer names.
        match seal(file, *number, segment.bytes, heads.end, heads.list.clone()) {
            // Then it is scanned once more the next time.
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

/// Writes the octets of a segment's batches once more where they are, as far as nothing says that
/// they are safe.
///
/// After a failed sync the system may go on showing what is on no disk, and have forgotten that it
/// never came there: a sync alone would say that all is well. The octets are those of one reading,
/// checked: what is read a second time might be another thing.
fn write_again<F: DiskFile>(
    file: &F,
    number: u32,
    heads: &Heads,
    safe: Position,
) -> Result<(), StoreError> {
    let from = match safe.segment {
        segment if segment > number => return Ok(()),
        segment if segment == number => safe.offset.max(HEADER),
        _ => HEADER,
    };
    if from >= heads.end {
        return Ok(());
    }
    let doing = || format!("write {} again", log_name(number));
    let image = read_all(file).map_err(|error| StoreError::io(doing(), &error))?;
    let again = scan_batches(&image, number);
    let octets = image.get(from as usize..heads.end as usize);
    let octets = octets.filter(|_| again.end == heads.end && again.list == heads.list);
    let Some(octets) = octets else {
        let error = io::Error::other("it has changed since it was read");
        return Err(StoreError::io(doing(), &error));
    };
    let written = file.write_at(u64::from(from), octets);
    written.map_err(|error| StoreError::io(doing(), &error))
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

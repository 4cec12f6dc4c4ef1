//! Arbitrary octets as the files of a log.
//!
//! Whatever is there, opening it ends: with what is in it, or with an error that says where it is
//! damaged. What it found is found again when it is opened once more, and each message that it
//! says is there can be read, or is said to be damaged.
//!
//! The first octet says into how many files the rest is cut, and whether their sums are made right,
//! so that what is behind them is reached too; the next three are the names.

#![no_main]

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use leveret_core::Seq;
use leveret_core::ids::QueueId;
use leveret_core::log::{Fetch, Recovered};
use leveret_store::{Disk, DiskFile, Log, Opened, Options, StoreError, check, salvage, scan};
use libfuzzer_sys::fuzz_target;

/// Octets of a file are made a multiple of this with zeros, as preallocated ones end.
const BLOCK: usize = 4_096;

/// Octets of a segment's header, of that of a batch, and of the trailer.
const HEADER: usize = 64;
const BATCH: usize = 28;
const TRAILER: usize = 32;

/// Messages of a queue that are read, and queues.
const READ_MAX: usize = 64;

const VHOSTS: [&str; 2] = ["/", "orders"];

fuzz_target!(|input: &[u8]| {
    let Some((&[how, names @ ..], octets)) = input.split_first_chunk::<4>() else {
        return;
    };
    let disk = MemDisk::default();
    let count = usize::from(how % 3) + 1;
    let parts = octets.chunks(octets.len().div_ceil(count).max(1));
    for (name, part) in names.into_iter().zip(parts) {
        let number = u64::from(name & 0x7f);
        let mut content = part.to_vec();
        content.resize(part.len().next_multiple_of(BLOCK), 0);
        if how & 0x80 != 0 {
            make_right(&mut content, number);
        }
        // Whatever it says, what was found in a file of this size is not more than that.
        assert!(scan(&content).records <= content.len() as u64);
        let ending = if name & 0x80 == 0 { "log" } else { "free" };
        let name = format!("{number:016x}.{ending}");
        disk.lock().insert(name, Arc::new(Mutex::new(content)));
    }
    match check(&disk) {
        // A newer program may have written it, for all this one knows.
        Ok(_) | Err(StoreError::Newer { .. }) => {}
        Err(error) => panic!("there is always something to say: {error}"),
    }
    let saved = MemDisk::default();
    if salvage(&disk, saved.clone(), options()).is_ok() {
        open(&saved).expect("what was salvaged is sound");
    }
    let Some(first) = open(&disk) else {
        return;
    };
    let again = open(&disk).expect("it was opened before");
    for (first, again) in first.iter().zip(&again) {
        assert_eq!(again.last, first.last);
        assert_eq!(again.definitions, first.definitions);
        assert_eq!(again.queues, first.queues);
    }
});

fn options() -> Options {
    Options {
        segment_bytes: BLOCK as u64,
        free_bytes_min: 0,
        ..Options::default()
    }
}

/// What a log holds of each vhost, if it can be opened. Every message is read.
fn open(disk: &MemDisk) -> Option<Vec<Recovered>> {
    let Opened { mut log, .. } = Log::open(disk.clone(), options()).ok()?;
    let reader = log.reader();
    let mut all = Vec::new();
    for vhost in VHOSTS {
        let (number, recovered) = log.lead(vhost).expect("there is room");
        for queue in recovered.queues.iter().take(READ_MAX) {
            for run in queue.runs.iter().take(READ_MAX) {
                assert!(run.first <= run.last && run.last <= queue.last);
                let fetch = Fetch {
                    queue: QueueId::default(),
                    number: queue.number,
                    first: run.first,
                    last: Seq(run.last.0.min(run.first.0.saturating_add(READ_MAX as u64))),
                    bytes_max: 1 << 20,
                };
                let fetched = reader.fetch(number, fetch);
                assert!(
                    fetched.error.is_some() || !fetched.messages.is_empty(),
                    "a message is neither there nor damaged"
                );
            }
        }
        all.push(recovered);
    }
    log.sync().expect("it is in memory");
    Some(all)
}

/// Makes a segment of any octets: its header, the sums of its batches and frames as far as they
/// can be told, the sum of its trailer.
fn make_right(content: &mut [u8], number: u64) {
    let file_bytes = content.len();
    let Some((header, _)) = content.split_at_mut_checked(HEADER) else {
        return;
    };
    header[..8].copy_from_slice(b"LVRTSEG\0");
    header[8..12].copy_from_slice(&1_u32.to_le_bytes());
    header[12..20].copy_from_slice(&number.to_le_bytes());
    let sum = crc32c::crc32c(&header[..60]);
    header[60..].copy_from_slice(&sum.to_le_bytes());

    let mut at = HEADER;
    while let Some(batch) = content.get_mut(at..at + BATCH) {
        if &batch[..4] != b"LVBT" {
            break;
        }
        let bytes = u32::from_le_bytes([batch[4], batch[5], batch[6], batch[7]]) as usize;
        let sum = sum_at(number, at, &batch[..24]);
        batch[24..].copy_from_slice(&sum.to_le_bytes());
        let end = (at + BATCH).saturating_add(bytes).min(file_bytes);
        frames(&mut content[..end], at + BATCH, number);
        at = end;
    }
    trailer(content, number);
}

/// The sums of heads; those of bodies only where a next frame could not be told anyway.
fn frames(content: &mut [u8], mut at: usize, number: u64) {
    while let Some((len, after)) = varint(content, at) {
        let Some(frame) = content.get_mut(after..after.saturating_add(4).saturating_add(len))
        else {
            return;
        };
        let (sum, head) = frame.split_at_mut(4);
        sum.copy_from_slice(&sum_at(number, after + 4, head).to_le_bytes());
        at = after + 4 + len;
        // A body, if the head ends with its length: only a guess, but seeds are like that.
        let body = content.get(at - 1).map_or(0, |len| usize::from(*len));
        let rest = content.get(at + 4..at + 4 + body);
        if let Some(rest) = rest
            && body > 8
            && content[at..at + 4] == sum_at(number, at + 4, rest).to_le_bytes()
        {
            at += 4 + body;
        }
    }
}

fn trailer(content: &mut [u8], number: u64) {
    let Some(start) = content.len().checked_sub(TRAILER) else {
        return;
    };
    let word = |at: usize| -> usize {
        let bytes = content.get(start + at..start + at + 4);
        bytes.map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize)
    };
    let (footer, footer_bytes) = (word(16), word(20));
    let Some(octets) = content.get(footer..footer.saturating_add(footer_bytes)) else {
        return;
    };
    let sum = crc32c::crc32c_append(sum_at(number, footer, octets), &content[start..start + 28]);
    content[start + 28..].copy_from_slice(&sum.to_le_bytes());
}

fn sum_at(number: u64, offset: usize, octets: &[u8]) -> u32 {
    let place = (number << 32) | offset as u64;
    crc32c::crc32c_append(crc32c::crc32c(&place.to_le_bytes()), octets)
}

fn varint(content: &[u8], mut at: usize) -> Option<(usize, usize)> {
    let mut value = 0_usize;
    for shift in (0..28).step_by(7) {
        let octet = *content.get(at)?;
        at += 1;
        value |= usize::from(octet & 0x7f) << shift;
        if octet < 0x80 {
            return Some((value, at));
        }
    }
    None
}

/// A directory in memory.
#[derive(Clone, Default)]
struct MemDisk(Arc<Mutex<BTreeMap<String, MemFile>>>);

type MemFile = Arc<Mutex<Vec<u8>>>;

#[derive(Clone)]
struct Open(MemFile);

impl MemDisk {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, MemFile>> {
        self.0.lock().expect("nobody panics with it")
    }
}

impl Open {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().expect("nobody panics with it")
    }
}

impl Disk for MemDisk {
    type File = Open;

    fn create(&self, name: &str, len: u64) -> io::Result<Open> {
        // A log that makes a file out of proportion to what is there fails here.
        assert!(len <= 1 << 24, "a file of {len} octets");
        let file = Arc::new(Mutex::new(vec![0; len as usize]));
        let before = self.lock().insert(name.to_owned(), Arc::clone(&file));
        assert!(before.is_none(), "{name} was there");
        Ok(Open(file))
    }

    fn open(&self, name: &str) -> io::Result<Open> {
        let file = self.lock().get(name).cloned();
        file.map(Open).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.lock();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        assert!(
            files.insert(to.to_owned(), file).is_none(),
            "{to} was there"
        );
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.lock().remove(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(1 << 30)
    }
}

impl DiskFile for Open {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut content = self.lock();
        let end = offset as usize + bytes.len();
        assert!(end <= 1 << 24, "a file of {end} octets");
        if content.len() < end {
            content.resize(end, 0);
        }
        content[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let content = self.lock();
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|at| content.get(at..));
        let rest = rest.unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.lock().len() as u64)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.lock().resize(len as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

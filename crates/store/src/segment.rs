//! One segment file: its frames, its footer of heads, and reading it back.
//!
//! Heads are a list of `gap, head length, head`: the gap is from the end of the frame before to
//! the beginning of this one. Footers hold it packed (see `footer.rs`), a scan of the batches makes
//! the very same, so that whoever reads heads need not know where they came from.

use std::io;

use crate::disk::DiskFile;
use crate::error::StoreError;
use crate::footer::{Footer, LeftOut, footer_bytes, unpack};
use crate::format::{
    BATCH, BATCH_MAGIC, BatchHeader, HEADER, Input, Position, TRAILER, Trailer, put_varint, sum,
    varint_len,
};
use crate::record::{BODY_SUM, Head, decode_head, newer_kind};
use crate::state::Place;

/// Octets of a head's sum.
const HEAD_SUM: u32 = 4;

/// Name of a segment in use.
pub(crate) fn log_name(number: u32) -> String {
    format!("{number:016x}.log")
}

/// Name of a file that waits to be used.
pub(crate) fn free_name(number: u32) -> String {
    format!("{number:016x}.free")
}

/// The number in a name that [`log_name`] or [`free_name`] made, and whether it is in use.
pub(crate) fn parse_name(name: &str) -> Option<(u32, bool)> {
    let (number, ending) = name.split_once('.')?;
    let is_log = match ending {
        "log" => true,
        "free" => false,
        _ => return None,
    };
    let plain = number.len() == 16 && !number.contains(|c: char| !c.is_ascii_hexdigit());
    let number = u64::from_str_radix(number, 16).ok().filter(|_| plain)?;
    Some((u32::try_from(number).ok()?, is_log))
}

/// Octets of a frame with this head, without its bodies.
pub(crate) fn frame_bytes(head: usize) -> u64 {
    (varint_len(head as u64) + head) as u64 + u64::from(HEAD_SUM)
}

/// Octets of [`Writer::room`] that a frame takes, with what the footer says of it.
pub(crate) fn need(head: usize, bodies: usize) -> u64 {
    frame_bytes(head) + (bodies + footer_bytes(head)) as u64
}

/// Writes one segment: collects frames to a batch, and heads for the footer.
pub(crate) struct Writer<F> {
    pub(crate) number: u32,
    pub(crate) file: F,
    /// Octets of the file.
    pub(crate) bytes: u64,
    /// What is to be written at `at`.
    buffer: Vec<u8>,
    at: u32,
    /// Records of the batch that is begun; its header is the first in the buffer.
    records: u32,
    footer: Footer,
    frame_end: u32,
}

impl<F: DiskFile> Writer<F> {
    /// Begins a segment after its header, with a buffer to reuse.
    pub(crate) fn new(number: u32, file: F, bytes: u64, mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        Self {
            number,
            file,
            bytes,
            buffer,
            at: HEADER,
            records: 0,
            footer: Footer::default(),
            frame_end: HEADER,
        }
    }

    /// Where the next batch begins, if nothing is in the buffer.
    pub(crate) fn end(&self) -> Position {
        Position {
            segment: self.number,
            offset: self.at,
        }
    }

    pub(crate) fn buffered(&self) -> usize {
        self.buffer.len()
    }

    pub(crate) fn take_buffer(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    /// Octets that frames with their heads once more may still take.
    pub(crate) fn room(&self) -> u64 {
        let used = u64::from(self.at)
            + self.buffer.len() as u64
            + self.footer.len() as u64
            + u64::from(BATCH + TRAILER);
        self.bytes.saturating_sub(used)
    }

    /// Adds a frame's head; its bodies must follow. Returns where the first of them would be.
    #[inline]
    pub(crate) fn put_head(&mut self, head: &[u8]) -> Place {
        if self.buffer.is_empty() {
            self.buffer.extend_from_slice(&[0; BATCH as usize]);
        }
        let frame = self.here();
        put_varint(&mut self.buffer, head.len() as u64);
        let start = self.here() + HEAD_SUM;
        let sum = sum(self.number, start, head);
        self.buffer.extend_from_slice(&sum.to_le_bytes());
        self.buffer.extend_from_slice(head);
        self.records += 1;
        self.footer.put_written(frame - self.frame_end, head, start);
        self.frame_end = self.here();
        Place {
            segment: self.number,
            offset: self.frame_end + BODY_SUM,
        }
    }

    /// Adds a body of the last frame.
    #[inline]
    pub(crate) fn put_body(&mut self, start: &[u8], rest: &[u8]) {
        let sum = sum(self.number, self.here() + BODY_SUM, start);
        let sum = crc32c::crc32c_append(sum, rest);
        self.buffer.extend_from_slice(&sum.to_le_bytes());
        self.buffer.extend_from_slice(start);
        self.buffer.extend_from_slice(rest);
        self.frame_end = self.here();
    }

    /// Where the next octet goes. What does not fit in 4 GiB was refused before.
    fn here(&self) -> u32 {
        let buffered = u32::try_from(self.buffer.len()).unwrap_or(u32::MAX);
        self.at.saturating_add(buffered)
    }

    /// Writes the batch that was collected.
    pub(crate) fn flush(&mut self, synced: Position) -> io::Result<u64> {
        if self.buffer.is_empty() {
            return Ok(0);
        }
        let after = self.here();
        let header = BatchHeader {
            bytes: after - self.at - BATCH,
            records: self.records,
            synced,
        };
        let header = header.encode(self.number, self.at);
        if let Some(start) = self.buffer.get_mut(..BATCH as usize) {
            start.copy_from_slice(&header);
        }
        // Zeros behind it say that no other batch was begun.
        self.buffer.extend_from_slice(&[0; BATCH as usize]);
        self.file.write_at(u64::from(self.at), &self.buffer)?;
        let written = self.buffer.len() as u64;
        self.at = after;
        self.records = 0;
        self.buffer.clear();
        Ok(written)
    }

    /// Writes the footer: nothing can follow.
    pub(crate) fn seal(&mut self) -> io::Result<u64> {
        let footer = std::mem::take(&mut self.footer);
        seal(&self.file, self.number, self.bytes, self.at, &footer)
    }
}

/// Writes footer and trailer to the end of a file of `bytes`, which grows if it must. Returns how
/// much was written: nothing if a head cannot be read again. Whoever reads such a file goes by its
/// batches.
pub(crate) fn seal<F: DiskFile>(
    file: &F,
    number: u32,
    bytes: u64,
    end: u32,
    footer: &Footer,
) -> io::Result<u64> {
    let len = footer.len() as u64 + u64::from(TRAILER);
    let at = bytes.saturating_sub(len).max(u64::from(end));
    let too_long = || io::Error::other("a segment of more than 4 GiB");
    let trailer = Trailer {
        footer: u32::try_from(at).map_err(|_| too_long())?,
        footer_bytes: u32::try_from(footer.len()).map_err(|_| too_long())?,
        end,
    };
    let mut to = at;
    let mut so_far = sum(number, trailer.footer, &[]);
    let mut written = Written::new(file, number);
    let mut is_sound = true;
    let given = footer.give(
        |head, piece| {
            let read = written.head(head);
            is_sound = read.is_some();
            piece.extend_from_slice(read.ok_or(io::ErrorKind::InvalidData)?);
            Ok(())
        },
        |piece| {
            file.write_at(to, piece)?;
            so_far = crc32c::crc32c_append(so_far, piece);
            to += piece.len() as u64;
            Ok(())
        },
    );
    let mut last = match given {
        Err(_) if !is_sound => return Ok(0),
        given => given?,
    };
    so_far = crc32c::crc32c_append(so_far, &last);
    last.extend_from_slice(&trailer.encode(number, so_far));
    file.write_at(to, &last)?;
    Ok(len)
}

/// Octets of a file that are read ahead.
const READ_AHEAD: usize = 256 << 10;

/// Heads that were written, read again one after the other.
struct Written<'a, F> {
    file: &'a F,
    number: u32,
    /// What was read, from this place on.
    from: u32,
    read: Vec<u8>,
}

impl<'a, F: DiskFile> Written<'a, F> {
    fn new(file: &'a F, number: u32) -> Self {
        Self {
            file,
            number,
            from: 0,
            read: Vec::new(),
        }
    }

    /// None if it cannot be read, or is not what was written.
    fn head(&mut self, head: LeftOut) -> Option<&[u8]> {
        let start = head.offset.checked_sub(HEAD_SUM)?;
        let len = (head.len + HEAD_SUM) as usize;
        let at = start.checked_sub(self.from).map(|at| at as usize);
        let is_here = |at: &usize| at.saturating_add(len) <= self.read.len();
        let at = match at.filter(is_here) {
            Some(at) => at,
            None => {
                self.read.clear();
                self.read.resize(READ_AHEAD.max(len), 0);
                let read = self.file.read_at(u64::from(start), &mut self.read).ok()?;
                self.read.truncate(read);
                self.from = start;
                0
            }
        };
        let mut input = Input(self.read.get(at..at + len)?);
        let expected = input.u32()?;
        (sum(self.number, head.offset, input.0) == expected).then_some(input.0)
    }
}

/// The heads of a segment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heads {
    /// As in a footer.
    pub(crate) list: Vec<u8>,
    /// Where the batches end.
    pub(crate) end: u32,
    /// The footer is there and sound.
    pub(crate) has_footer: bool,
    /// What is after the end, if the footer is not there.
    pub(crate) tail: Tail,
    /// Where the batches end because of a record of a kind that is not known.
    pub(crate) newer: Option<(u32, u8)>,
}

/// What a scan found where the batches end.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Tail {
    /// What is wrong there, if something had been begun.
    pub(crate) broken: Option<&'static str>,
    /// Octets that had been begun.
    pub(crate) bytes: u64,
    /// The highest place that any batch before or after the end calls safe.
    pub(crate) synced: Position,
}

/// Reads the heads of a segment: from its footer, or from its batches.
pub(crate) fn read_heads<F: DiskFile>(file: &F, number: u32) -> Result<Heads, StoreError> {
    let failed = |error: io::Error| StoreError::io(format!("read {}", log_name(number)), &error);
    if let Some(heads) = read_footer(file, number).map_err(failed)? {
        return Ok(heads);
    }
    scan(file, number)
}

/// Reads the batches of a segment, as they are on the disk: whoever wrote them may have failed to.
pub(crate) fn scan<F: DiskFile>(file: &F, number: u32) -> Result<Heads, StoreError> {
    let image = file.reread().and_then(|()| read_all(file));
    let failed = |error: io::Error| StoreError::io(format!("read {}", log_name(number)), &error);
    let heads = scan_batches(&image.map_err(failed)?, number);
    heads
        .newer
        .map_or(Ok(heads), |found| Err(newer(number, found)))
}

fn newer(number: u32, (at, kind): (u32, u8)) -> StoreError {
    StoreError::Newer {
        file: log_name(number),
        offset: u64::from(at),
        kind,
    }
}

fn read_footer<F: DiskFile>(file: &F, number: u32) -> io::Result<Option<Heads>> {
    let size = file.size()?;
    let Some(at) = size.checked_sub(u64::from(TRAILER)) else {
        return Ok(None);
    };
    let mut bytes = [0; TRAILER as usize];
    if file.read_at(at, &mut bytes)? < bytes.len() {
        return Ok(None);
    }
    let Some(trailer) = Trailer::decode(&bytes, number, size) else {
        return Ok(None);
    };
    let mut list = vec![0; usize::try_from(trailer.footer_bytes).unwrap_or_default()];
    let read = file.read_at(u64::from(trailer.footer), &mut list)?;
    list.truncate(read);
    Ok(heads_of(&trailer, &bytes, number, &list))
}

/// The heads in a footer, if it is sound.
fn heads_of(trailer: &Trailer, bytes: &[u8], number: u32, footer: &[u8]) -> Option<Heads> {
    if footer.len() != trailer.footer_bytes as usize || !trailer.verify(bytes, number, footer) {
        return None;
    }
    Some(Heads {
        list: unpack(footer)?,
        end: trailer.end,
        has_footer: true,
        tail: Tail::default(),
        newer: None,
    })
}

/// The heads in the image of a whole file, if its footer is sound.
pub(crate) fn footer_of(image: &[u8], number: u32) -> Option<Heads> {
    let at = image.len().checked_sub(TRAILER as usize)?;
    let bytes = image.get(at..)?;
    let trailer = Trailer::decode(bytes, number, image.len() as u64)?;
    heads_of(
        &trailer,
        bytes,
        number,
        image.get(trailer.footer as usize..at)?,
    )
}

pub(crate) fn read_all<F: DiskFile>(file: &F) -> io::Result<Vec<u8>> {
    let size = usize::try_from(file.size()?).map_err(io::Error::other)?;
    let mut image = vec![0; size];
    let read = file.read_at(0, &mut image)?;
    image.truncate(read);
    Ok(image)
}

/// Reads the batches of a file's image, up to the first thing that is not sound.
pub(crate) fn scan_batches(image: &[u8], number: u32) -> Heads {
    let mut heads = Heads {
        end: HEADER,
        ..Heads::default()
    };
    let mut frame_end = HEADER;
    'batches: while let Some(batch) = batch_at(image, number, heads.end) {
        heads.tail.synced = heads.tail.synced.max(batch.synced);
        let start = heads.end + BATCH;
        let Some(stop) = start
            .checked_add(batch.bytes)
            .filter(|stop| *stop as usize <= image.len())
        else {
            heads.tail.broken = Some("a batch is longer than the file");
            break;
        };
        let mut at = start;
        while at < stop {
            let Some((head, after)) = frame_at(image, number, at, stop) else {
                heads.newer = newer_at(image, number, at, stop).map(|kind| (at, kind));
                heads.tail.broken = Some(match heads.newer {
                    Some(_) => "a newer version has written a record that is not known here",
                    None => "a record is not what was written",
                });
                heads.tail.bytes = u64::from(stop - at);
                // What is sound of the batch stays.
                heads.end = if at == start { heads.end } else { at };
                break 'batches;
            };
            put_varint(&mut heads.list, u64::from(at - frame_end));
            put_varint(&mut heads.list, head.len() as u64);
            heads.list.extend_from_slice(head);
            frame_end = after;
            at = after;
        }
        heads.end = stop;
    }
    look_behind(image, number, &mut heads);
    heads
}

/// Looks for batches after the end: they were begun, and say what had been safe.
fn look_behind(image: &[u8], number: u32, heads: &mut Heads) {
    let after = image.get(heads.end as usize..).unwrap_or_default();
    for (place, window) in (heads.end..).zip(after.windows(BATCH_MAGIC.len())) {
        if window == BATCH_MAGIC
            && let Some(batch) = batch_at(image, number, place)
        {
            let last = u64::from(place - heads.end) + u64::from(BATCH) + u64::from(batch.bytes);
            heads.tail.synced = heads.tail.synced.max(batch.synced);
            heads.tail.bytes = heads.tail.bytes.max(last.min(after.len() as u64));
            heads.tail.broken.get_or_insert("a batch is not there");
        }
    }
    let next = after.get(..BATCH as usize).unwrap_or(after);
    if heads.tail.broken.is_none() && next.iter().any(|octet| *octet != 0) {
        heads.tail.broken = Some("a batch was only begun");
        heads.tail.bytes = next.len() as u64;
    }
}

fn batch_at(image: &[u8], number: u32, at: u32) -> Option<BatchHeader> {
    BatchHeader::decode(image.get(at as usize..)?, number, at)
}

/// The head of the frame at this place, and where the frame ends, if all of it is sound.
pub(crate) fn frame_at(image: &[u8], number: u32, at: u32, stop: u32) -> Option<(&[u8], u32)> {
    let here = |input: &Input<'_>| stop.checked_sub(u32::try_from(input.0.len()).ok()?);
    let (bytes, mut input) = head_at(image, number, at, stop)?;
    let head = decode_head(bytes)?;
    let mut is_sound = true;
    head.what.each_body(&mut |len| {
        is_sound = is_sound && {
            let expected = input.u32();
            let start = here(&input);
            let body = input.take(len as usize);
            match (expected, start, body) {
                (Some(expected), Some(start), Some(body)) => sum(number, start, body) == expected,
                _ => false,
            }
        };
    });
    is_sound.then_some((bytes, here(&input)?))
}

/// The octets of the head of the frame at this place, if they are sound, and what follows them.
fn head_at(image: &[u8], number: u32, at: u32, stop: u32) -> Option<(&[u8], Input<'_>)> {
    let mut input = Input(image.get(at as usize..stop as usize)?);
    let len = usize::try_from(input.varint()?).ok()?;
    let expected = input.u32()?;
    let start = stop.checked_sub(u32::try_from(input.0.len()).ok()?)?;
    let bytes = input.take(len)?;
    (sum(number, start, bytes) == expected).then_some((bytes, input))
}

/// The kind of the frame at this place, if its head is sound and only that is not known.
fn newer_at(image: &[u8], number: u32, at: u32, stop: u32) -> Option<u8> {
    newer_kind(head_at(image, number, at, stop)?.0)
}

/// What is said of a file with a record of a kind that is not known, if there is one.
pub(crate) fn newer_in(image: &[u8], number: u32) -> Option<StoreError> {
    let heads = footer_of(image, number).unwrap_or_else(|| scan_batches(image, number));
    let mut entries = Entries::new(&heads.list, number);
    while entries.next().flatten().is_some() {}
    let found = entries.newer.or(heads.newer)?;
    Some(newer(number, found))
}

/// The heads of a list, one after the other, each with the place of its first body.
#[derive(Debug)]
pub(crate) struct Entries<'a> {
    input: Input<'a>,
    number: u32,
    frame_end: u32,
    /// Where it ends early because of a head of a kind that is not known.
    newer: Option<(u32, u8)>,
}

/// A head with where it is.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    /// Where the frame begins.
    pub(crate) frame: u32,
    pub(crate) head: Head<'a>,
    /// Where its first body is or would be.
    pub(crate) place: Place,
}

impl<'a> Entries<'a> {
    pub(crate) fn new(list: &'a [u8], number: u32) -> Self {
        Self {
            input: Input(list),
            number,
            frame_end: HEADER,
            newer: None,
        }
    }

    /// Goes on where another one was: what [`mark`](Self::mark) said.
    pub(crate) fn resume(list: &'a [u8], number: u32, mark: (usize, u32)) -> Self {
        Self {
            input: Input(list.get(mark.0..).unwrap_or_default()),
            number,
            frame_end: mark.1,
            newer: None,
        }
    }

    pub(crate) fn mark(&self, list: &[u8]) -> (usize, u32) {
        (list.len() - self.input.0.len(), self.frame_end)
    }

    /// Why there was none where there should have been one.
    pub(crate) fn refusal(&self) -> StoreError {
        let damaged = "its footer cannot be read";
        self.newer.map_or_else(
            || StoreError::corrupt(log_name(self.number), 0, damaged),
            |found| newer(self.number, found),
        )
    }

    fn entry(&mut self) -> Option<Entry<'a>> {
        let frame = self.frame_end.checked_add(self.input.varint_u32()?)?;
        let len = self.input.varint_u32()?;
        let bytes = self.input.take(len as usize)?;
        let Some(head) = decode_head(bytes) else {
            self.newer = newer_kind(bytes).map(|kind| (frame, kind));
            return None;
        };
        let before = u32::try_from(frame_bytes(len as usize)).ok()?;
        let bodies = frame.checked_add(before)?;
        let end = bodies.checked_add(head.bodies()?)?;
        self.frame_end = end;
        Some(Entry {
            frame,
            head,
            place: Place {
                segment: self.number,
                offset: bodies.checked_add(BODY_SUM)?,
            },
        })
    }
}

impl<'a> Iterator for Entries<'a> {
    /// None in it: what follows is no head.
    type Item = Option<Entry<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.input.is_empty() {
            return None;
        }
        let entry = self.entry();
        if entry.is_none() {
            self.input = Input(&[]);
        }
        Some(entry)
    }
}

/// Reads a body and checks its sum. None if it is not what was written there.
pub(crate) fn read_body<F: DiskFile>(
    file: &F,
    place: Place,
    bytes: u32,
    buffer: &mut Vec<u8>,
) -> io::Result<bool> {
    let Some(at) = place.offset.checked_sub(BODY_SUM) else {
        return Ok(false);
    };
    buffer.clear();
    buffer.resize(bytes as usize + BODY_SUM as usize, 0);
    let read = file.read_at(u64::from(at), buffer)?;
    Ok(read == buffer.len() && body_is_sound(place, buffer))
}

/// Whether octets read from before a body, sum first, are what was written there.
pub(crate) fn body_is_sound(place: Place, bytes: &[u8]) -> bool {
    let mut input = Input(bytes);
    input.u32() == Some(sum(place.segment, place.offset, input.0))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use leveret_core::record::{Fact, Note};

    use super::*;
    use crate::record::{kind, put_fact, put_start};

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl DiskFile for Memory {
        fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            let mut file = self.0.lock().unwrap();
            let (start, end) = (offset as usize, offset as usize + bytes.len());
            let len = file.len().max(end);
            file.resize(len, 0);
            file[start..end].copy_from_slice(bytes);
            Ok(())
        }

        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
            let file = self.0.lock().unwrap();
            let rest = file.get(offset as usize..).unwrap_or_default();
            let len = rest.len().min(buffer.len());
            buffer[..len].copy_from_slice(&rest[..len]);
            Ok(len)
        }

        fn size(&self) -> io::Result<u64> {
            Ok(self.0.lock().unwrap().len() as u64)
        }

        fn truncate(&self, len: u64) -> io::Result<()> {
            self.0.lock().unwrap().truncate(len as usize);
            Ok(())
        }

        fn sync(&self) -> io::Result<()> {
            Ok(())
        }
    }

    const BYTES: usize = 4 << 20;

    /// A segment with notes, two batches of them.
    fn segment() -> (Writer<Memory>, Memory) {
        let file = Memory(Arc::new(Mutex::new(vec![0; BYTES])));
        let mut writer = Writer::new(7, file.clone(), BYTES as u64, Vec::new());
        for number in 0..3_000_u64 {
            let note = Fact::Noted(Note {
                key: number.to_string().into_bytes().into(),
                value: Some(vec![3; 10 + number as usize % 700].into()),
            });
            let mut head = Vec::new();
            put_start(&mut head, kind::NOTED, 1, number);
            put_fact(&mut head, &note);
            writer.put_head(&head);
            if number == 1_500 {
                writer.flush(Position::default()).unwrap();
            }
        }
        writer.flush(Position::default()).unwrap();
        (writer, file)
    }

    #[test]
    fn a_footer_has_what_the_batches_have() {
        let (mut writer, file) = segment();
        let scanned = scan(&file, 7).unwrap();
        assert!(!scanned.has_footer && scanned.list.len() > 3 * READ_AHEAD);
        writer.seal().unwrap();
        let read = read_heads(&file, 7).unwrap();
        assert!(read.has_footer && read.list == scanned.list);
        assert_eq!(file.size().unwrap(), BYTES as u64, "it had room for it");
    }

    #[test]
    fn where_a_head_is_not_what_was_written_there_is_no_footer() {
        let (mut writer, file) = segment();
        let good = scan(&file, 7).unwrap();
        let at = writer.at as usize - 100;
        file.0.lock().unwrap()[at] ^= 1;
        assert_eq!(writer.seal().unwrap(), 0);
        let read = read_heads(&file, 7).unwrap();
        assert!(!read.has_footer && read.tail.broken.is_some());
        assert!(good.list.starts_with(&read.list) && read.list.len() > READ_AHEAD);
    }
}

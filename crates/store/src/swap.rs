//! The swap area: files for messages that are not in the log and that memory is too short for.
//!
//! Nothing in it outlives the process, so nothing is synced, and what is found at a start is removed.
//! Messages are appended to pieces of 64 MiB, which are never overwritten and go when none of their
//! messages is needed any more. Where a message is, is known in memory only: 12 octets for each. What
//! is read is checked, as a disk that errs must not make up messages.
//!
//! One thread writes and forgets, in the order of the requests; any may read.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};

use leveret_core::ids::{QueueId, Seq, Wall};
use leveret_core::log::{Fetch, Fetched, LogError};
use leveret_core::message::Message;

use crate::disk::{Disk, DiskFile};
use crate::fetch::{Found, read};
use crate::format::sum;
use crate::messages::Loc;
use crate::metrics::Metrics;
use crate::record::{BODY_SUM, BODY_TIME, time_octets};

/// Octets of a piece, unless a single message needs more.
const PIECE_BYTES: u64 = 64 << 20;

/// Octets that are written at once, unless a single message is longer.
const WRITE_BYTES: usize = 1 << 20;

/// Messages in one chunk of the index: memory for them is given back a chunk at a time.
const CHUNK: usize = 4_096;

const SUFFIX: &str = ".swap";

/// The swap area of a broker.
pub(crate) struct Area<D: Disk> {
    disk: D,
    /// Free space on the disk that is left alone, in octets.
    free_bytes_min: u64,
    state: Mutex<State<D::File>>,
}

struct State<F> {
    queues: BTreeMap<(u32, QueueId), Index>,
    pieces: BTreeMap<u32, Piece<F>>,
    /// The last piece that was begun.
    last: u32,
}

/// A file.
struct Piece<F> {
    file: F,
    size: u64,
    /// Where the next message goes.
    end: u64,
    /// Messages that are needed.
    living: u64,
}

/// Messages of a queue that are swapped out, in chunks by the first place of each.
type Index = BTreeMap<u64, Chunk>;

/// Messages that were written one after the other.
struct Chunk {
    piece: u32,
    slots: VecDeque<Slot>,
}

struct Slot {
    /// Its place beyond the first of the chunk.
    after: u32,
    /// Where its body begins, as in the log; the sum is right before.
    offset: u32,
    /// Octets of its body; the highest bit says that it begins with the time of arrival.
    bytes: u32,
}

/// The bit that says so: no message is half as long.
const HAS_TIME: u32 = 1 << 31;

/// A message in its place, with when it arrived if it is to expire.
type Arrived = (Seq, Message, Option<Wall>);

const _: () = assert!(size_of::<Slot>() <= 12);

impl<F> Default for State<F> {
    fn default() -> Self {
        Self {
            queues: BTreeMap::new(),
            pieces: BTreeMap::new(),
            last: 0,
        }
    }
}

impl<D: Disk> Area<D> {
    /// An empty area in a directory that has nothing else in it. What an earlier process has left there
    /// is removed.
    ///
    /// # Errors
    /// Whatever went wrong.
    pub(crate) fn open(disk: D, free_bytes_min: u64) -> std::io::Result<Self> {
        for name in disk.list()? {
            if name.ends_with(SUFFIX) {
                disk.remove(&name)?;
            }
        }
        Ok(Self {
            disk,
            free_bytes_min,
            state: Mutex::default(),
        })
    }

    /// Writes messages of a queue, in order. All of them can be read then, or none.
    ///
    /// # Errors
    /// `Unavailable` if there is no room, or they cannot be written.
    pub(crate) fn write(
        &self,
        vhost: u32,
        queue: QueueId,
        messages: &[Arrived],
    ) -> Result<(), LogError> {
        let mut written = Vec::with_capacity(messages.len());
        let mut buffer = Vec::with_capacity(WRITE_BYTES);
        let mut rest = messages;
        while let Some((_, first, _)) = rest.first() {
            let piece = self.piece_for(first.block().len())?;
            let (count, locs) = self.append(piece, rest, &mut buffer).inspect_err(|_| {
                self.give_up(piece);
            })?;
            written.extend(locs);
            rest = rest.get(count..).unwrap_or_default();
        }
        let mut state = lock(&self.state);
        for (seq, loc) in written {
            state.insert((vhost, queue), seq, loc);
        }
        Ok(())
    }

    /// The piece with room for a message, begun if need be.
    fn piece_for(&self, block: usize) -> Result<u32, LogError> {
        let needed = block as u64 + u64::from(BODY_SUM + BODY_TIME);
        let number = {
            let state = lock(&self.state);
            if let Some(piece) = state.pieces.get(&state.last)
                && piece.end + needed <= piece.size
            {
                return Ok(state.last);
            }
            state.last.saturating_add(1)
        };
        let size = PIECE_BYTES.max(needed);
        let free = self
            .disk
            .free_bytes()
            .map_err(|error| unavailable(&error))?;
        if free < self.free_bytes_min.saturating_add(size) {
            return Err(LogError::Unavailable("the disk is nearly full".to_owned()));
        }
        let name = name(number);
        let file = self.disk.create(&name, size);
        let file = file.map_err(|error| unavailable(&error))?;
        let mut state = lock(&self.state);
        state.last = number;
        let piece = Piece {
            file,
            size,
            end: 0,
            living: 0,
        };
        state.pieces.insert(number, piece);
        Ok(number)
    }

    /// Writes as many messages as fit into the piece and a write. Returns how many, and where.
    fn append(
        &self,
        number: u32,
        messages: &[Arrived],
        buffer: &mut Vec<u8>,
    ) -> Result<(usize, Vec<(u64, Loc)>), LogError> {
        let (file, start, size) = {
            let state = lock(&self.state);
            let piece = state.pieces.get(&number).ok_or_else(gone)?;
            (piece.file.clone(), piece.end, piece.size)
        };
        buffer.clear();
        let mut locs = Vec::new();
        for (seq, message, at) in messages {
            let block = message.block();
            let time = at.map(|at| time_octets(at.0));
            let time = time.as_ref().map_or(&[][..], |time| &time[..]);
            let body = time.len() + block.len();
            let offset = start + buffer.len() as u64 + u64::from(BODY_SUM);
            let is_full = !locs.is_empty() && buffer.len() + body > WRITE_BYTES;
            if is_full || offset + body as u64 > size {
                break;
            }
            let (Ok(offset), Ok(bytes)) = (u32::try_from(offset), u32::try_from(body)) else {
                return Err(LogError::Unavailable("a message is too long".to_owned()));
            };
            let from = buffer.len();
            buffer.extend_from_slice(&[0; BODY_SUM as usize]);
            buffer.extend_from_slice(time);
            buffer.extend_from_slice(block);
            if let Some((space, body)) = buffer
                .get_mut(from..)
                .and_then(|octets| octets.split_first_chunk_mut::<{ BODY_SUM as usize }>())
            {
                *space = sum(number, offset, body).to_le_bytes();
            }
            let loc = Loc::new((number, offset), bytes, 0, !time.is_empty());
            locs.push((seq.0, loc));
        }
        let written = file.write_at(start, buffer);
        written.map_err(|error| unavailable(&error))?;
        let mut state = lock(&self.state);
        let piece = state.pieces.get_mut(&number).ok_or_else(gone)?;
        piece.end = start + buffer.len() as u64;
        Ok((locs.len(), locs))
    }

    /// A piece could not be written: nothing more is.
    fn give_up(&self, number: u32) {
        if let Some(piece) = lock(&self.state).pieces.get_mut(&number) {
            piece.size = 0;
        }
    }

    /// What is there of a queue in these places is not needed any more.
    pub(crate) fn forget(&self, vhost: u32, queue: QueueId, runs: &[(Seq, Seq)]) {
        let mut state = lock(&self.state);
        for &(first, last) in runs {
            state.forget((vhost, queue), first.0, last.0);
        }
    }

    /// Nothing of a vhost is needed any more.
    pub(crate) fn forget_vhost(&self, vhost: u32) {
        let mut state = lock(&self.state);
        let queues: Vec<_> = state.queues.keys().copied().collect();
        for key in queues.into_iter().filter(|(of, _)| *of == vhost) {
            state.forget(key, 0, u64::MAX);
        }
    }

    /// Removes pieces in which nothing lives. For whoever writes, between two requests.
    pub(crate) fn tidy(&self) {
        let empty: Vec<u32> = {
            let mut state = lock(&self.state);
            let pieces = state.pieces.iter();
            let empty: Vec<u32> = pieces
                .filter(|(_, piece)| piece.living == 0)
                .map(|(number, _)| *number)
                .collect();
            state.pieces.retain(|_, piece| piece.living > 0);
            empty
        };
        for number in empty {
            // What cannot be removed now is removed at the next start.
            let _ = self.disk.remove(&name(number));
        }
    }

    /// Removes everything.
    pub(crate) fn clear(&self) {
        lock(&self.state).queues.clear();
        for piece in lock(&self.state).pieces.values_mut() {
            piece.living = 0;
        }
        self.tidy();
    }

    /// Says what there is.
    pub(crate) fn count(&self, metrics: &Metrics) {
        let state = lock(&self.state);
        let living = state.pieces.values().map(|piece| piece.living);
        metrics.swap_messages.store(living.sum(), Relaxed);
        let bytes = state.pieces.values().map(|piece| piece.size.max(piece.end));
        metrics.swap_bytes.store(bytes.sum(), Relaxed);
    }

    /// Messages as asked for, and whether there may be more of them. None if it has none of the queue.
    pub(crate) fn fetch(&self, vhost: u32, fetch: Fetch) -> Option<(Fetched, bool)> {
        let mut fetched = Fetched {
            queue: fetch.queue,
            messages: Vec::new(),
            error: None,
        };
        let (found, cut) = lock(&self.state).look_up(vhost, fetch)?;
        if let Err((_, _, error)) = read(&found, &mut fetched.messages) {
            fetched.error = Some(error);
        }
        Some((fetched, cut))
    }
}

impl<F: DiskFile> State<F> {
    fn insert(&mut self, key: (u32, QueueId), seq: u64, loc: Loc) {
        let index = self.queues.entry(key).or_default();
        if let Some(piece) = self.pieces.get_mut(&loc.segment) {
            piece.living += 1;
        }
        let slot = |after| Slot {
            after,
            offset: loc.offset,
            bytes: loc.bytes | if loc.has_time() { HAS_TIME } else { 0 },
        };
        if let Some((first, chunk)) = index.iter_mut().next_back()
            && chunk.piece == loc.segment
            && chunk.slots.len() < CHUNK
            && let Some(after) = seq.checked_sub(*first)
            && let Ok(after) = u32::try_from(after)
            && chunk.slots.back().is_none_or(|last| last.after < after)
        {
            chunk.slots.push_back(slot(after));
            return;
        }
        let chunk = Chunk {
            piece: loc.segment,
            slots: VecDeque::from([slot(0)]),
        };
        index.insert(seq, chunk);
    }

    fn forget(&mut self, key: (u32, QueueId), first: u64, last: u64) {
        let Some(index) = self.queues.get_mut(&key) else {
            return;
        };
        let from = index.range(..=first).next_back();
        let mut from = from.map_or(first, |(start, _)| *start);
        while let Some((&start, chunk)) = index.range_mut(from..=last).next() {
            let a = chunk
                .slots
                .partition_point(|s| start + u64::from(s.after) < first);
            let b = chunk
                .slots
                .partition_point(|s| start + u64::from(s.after) <= last);
            let gone = chunk.slots.drain(a..b.max(a)).count();
            if let Some(piece) = self.pieces.get_mut(&chunk.piece) {
                piece.living = piece.living.saturating_sub(gone as u64);
            }
            if chunk.slots.is_empty() {
                index.remove(&start);
            }
            match start.checked_add(1) {
                Some(next) => from = next,
                None => break,
            }
        }
        if index.is_empty() {
            self.queues.remove(&key);
        }
    }

    /// Where messages are that were asked for, as many as are enough.
    fn look_up(&self, vhost: u32, fetch: Fetch) -> Option<(Found<F>, bool)> {
        let mut found = Found {
            locs: Vec::new(),
            files: BTreeMap::new(),
            name,
        };
        let index = self.queues.get(&(vhost, fetch.queue))?;
        let from = index.range(..=fetch.first.0).next_back();
        let from = from.map_or(fetch.first.0, |(start, _)| *start);
        let mut bytes = 0_usize;
        for (start, chunk) in index.range(from..=fetch.last.0) {
            for slot in &chunk.slots {
                let seq = start + u64::from(slot.after);
                if seq < fetch.first.0 {
                    continue;
                }
                if seq > fetch.last.0 {
                    break;
                }
                let octets = slot.bytes & !HAS_TIME;
                bytes = bytes.saturating_add(octets as usize);
                if bytes > fetch.bytes_max && !found.locs.is_empty() {
                    return Some((found, true));
                }
                if let Some(piece) = self.pieces.get(&chunk.piece) {
                    let file = || piece.file.clone();
                    found.files.entry(chunk.piece).or_insert_with(file);
                }
                let has_time = slot.bytes & HAS_TIME != 0;
                let loc = Loc::new((chunk.piece, slot.offset), octets, 0, has_time);
                found.locs.push((seq, loc));
            }
        }
        Some((found, false))
    }
}

/// What the log and the swap area have of a range, in order; each with whether it may have more.
///
/// A message that one of the two could not give holds back all that come after it in the other:
/// whoever asked takes what is missing in between for gone.
pub(crate) fn merge(one: (Fetched, bool), other: (Fetched, bool), bytes_max: usize) -> Fetched {
    let end = |(fetched, cut): &(Fetched, bool)| {
        let last = || fetched.messages.last().map_or(Seq(0), |(seq, ..)| *seq);
        (*cut || fetched.error.is_some()).then(last)
    };
    let (one_end, other_end) = (end(&one), end(&other));
    let through = one_end.into_iter().chain(other_end).min();
    // An error is told when all that can be had before it is.
    let is_first = |end: Option<Seq>| end.is_some() && end == through;
    let one_error = one.0.error.filter(|_| is_first(one_end));
    let other_error = other.0.error.filter(|_| is_first(other_end));
    let mut messages = one.0.messages;
    messages.extend(other.0.messages);
    messages.sort_by_key(|(seq, ..)| *seq);
    messages.retain(|(seq, ..)| through.is_none_or(|through| *seq <= through));
    let mut bytes = 0_usize;
    let enough = messages.iter().position(|(_, message, _)| {
        let more = bytes < bytes_max;
        bytes = bytes.saturating_add(message.block().len());
        !more
    });
    let whole = enough.is_none_or(|at| {
        messages.truncate(at);
        false
    });
    Fetched {
        queue: one.0.queue,
        messages,
        error: one_error.or(other_error).filter(|_| whole),
    }
}

fn name(number: u32) -> String {
    format!("{number:016x}{SUFFIX}")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unavailable(error: &std::io::Error) -> LogError {
    LogError::Unavailable(error.to_string())
}

fn gone() -> LogError {
    LogError::Unavailable("a file of the swap area is gone".to_owned())
}

//! Reading the log back: what is there, where it ends, and what of it is known.
//!
//! Nothing is changed here. Records are taken in in the order of the log: the newest complete
//! checkpoint, where the messages are that it names, then everything after it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;

use crate::checkpoint::{self, Checkpoint, Needed};
use crate::disk::{Disk, DiskFile};
use crate::error::StoreError;
use crate::format::{HEADER, Header, HeaderFound, Position};
use crate::record::{Part, What};
use crate::segment::{Entries, Heads, log_name, parse_name, read_body, read_heads, scan};
use crate::state::{Place, Segment, State};

/// A log that was read back.
pub(crate) struct Recovery<F> {
    pub(crate) state: State,
    /// Files of the segments that are needed.
    pub(crate) files: BTreeMap<u32, F>,
    /// Needed segments without a footer, with what would be in it.
    pub(crate) unsealed: Vec<(u32, Heads)>,
    /// Segments that are not needed any more, or never were, with their octets.
    pub(crate) unneeded: Vec<(u32, u64)>,
    /// Files that wait to be used, with their octets.
    pub(crate) free: Vec<(u32, u64)>,
    /// The end of the log.
    pub(crate) end: Position,
    /// The highest number in any name.
    pub(crate) number_max: u32,
    /// What was begun at the end but is not complete: octets.
    pub(crate) torn: Option<(Position, u64)>,
    /// Where the checkpoint begins, and its octets.
    pub(crate) checkpoint: Option<(Position, u64)>,
}

/// A segment file with a sound header.
struct Found<F> {
    file: F,
    bytes: u64,
    header: Header,
}

/// A segment whose heads were read.
#[derive(Default)]
struct Read {
    number: u32,
    heads: Heads,
}

/// Where the parts of a checkpoint are.
struct Located {
    id: u64,
    /// Place of the first part's frame.
    first: Position,
    bytes: Vec<u8>,
}

/// Reads the log in a directory.
pub(crate) fn recover<D: Disk>(disk: &D) -> Result<Recovery<D::File>, StoreError> {
    let survey = Survey::new(disk)?;
    let Some((&last, _)) = survey.found.last_key_value() else {
        return survey.empty();
    };
    let tail = survey.read_tail(last)?;
    survey.replay(tail)
}

fn bad_header(number: u32) -> StoreError {
    StoreError::corrupt(log_name(number), 0, "its header is not what was written")
}

/// The files of a directory.
struct Survey<F> {
    found: BTreeMap<u32, Found<F>>,
    /// Files named as segments whose header is not theirs.
    damaged: BTreeMap<u32, F>,
    free: Vec<(u32, u64)>,
    number_max: u32,
}

/// The segments from the newest complete checkpoint on, or all.
struct Chain {
    /// Oldest first.
    segments: Vec<Read>,
    checkpoint: Option<Located>,
    torn: Option<(Position, u64)>,
}

impl<F: DiskFile> Survey<F> {
    fn new<D: Disk<File = F>>(disk: &D) -> Result<Self, StoreError> {
        let names = disk
            .list()
            .map_err(|error| StoreError::io("list the files of the log", &error))?;
        let mut survey = Self {
            found: BTreeMap::new(),
            damaged: BTreeMap::new(),
            free: Vec::new(),
            number_max: 0,
        };
        let mut version = None;
        for name in names {
            let Some((number, is_log)) = parse_name(&name) else {
                continue;
            };
            let failed = |error| StoreError::io(format!("open {name}"), &error);
            survey.number_max = survey.number_max.max(number);
            let file = disk.open(&name).map_err(failed)?;
            let bytes = file.size().map_err(failed)?;
            if !is_log {
                survey.free.push((number, bytes));
                continue;
            }
            let mut first = [0; HEADER as usize];
            let read = file.read_at(0, &mut first).map_err(failed)?;
            match Header::decode(first.get(..read).unwrap_or_default()) {
                HeaderFound::Sound(header) if header.number == number => {
                    let found = Found {
                        file,
                        bytes,
                        header,
                    };
                    survey.found.insert(number, found);
                }
                HeaderFound::Version(found) => version = Some((name, found)),
                _ => {
                    survey.damaged.insert(number, file);
                }
            }
        }
        if let Some((file, version)) = version {
            return Err(StoreError::Version { file, version });
        }
        survey.free.sort_unstable();
        Ok(survey)
    }

    /// A log without any segment.
    fn empty(self) -> Result<Recovery<F>, StoreError> {
        let torn = self.check_end(&Read::default(), &[])?;
        Ok(Recovery {
            state: State::default(),
            files: BTreeMap::new(),
            unsealed: Vec::new(),
            unneeded: with_bytes(self.damaged).collect(),
            free: self.free,
            end: Position::default(),
            number_max: self.number_max,
            torn,
            checkpoint: None,
        })
    }

    fn get(&self, number: u32) -> Result<&Found<F>, StoreError> {
        match self.found.get(&number) {
            Some(found) => Ok(found),
            None if self.damaged.contains_key(&number) => Err(bad_header(number)),
            None => Err(StoreError::Missing {
                file: log_name(number),
            }),
        }
    }

    /// Goes from the last segment back to the newest complete checkpoint, or to the first segment.
    fn read_tail(&self, last: u32) -> Result<Chain, StoreError> {
        let mut newest_first: Vec<Read> = Vec::new();
        let mut dropped = Vec::new();
        let mut number = last;
        // Where the segment after says that this one ends.
        let mut expected = None;
        let mut checkpoint;
        loop {
            let found = self.get(number)?;
            let heads = read_heads(&found.file, number)?;
            if let Some(expected) = expected
                && heads.end != expected
            {
                if heads.end > expected {
                    let what = "the segment goes on after its end";
                    return Err(StoreError::corrupt(
                        log_name(number),
                        u64::from(expected),
                        what,
                    ));
                }
                dropped.extend(newest_first.drain(..).map(|read| read.number));
            }
            newest_first.push(Read { number, heads });
            checkpoint = self.find_checkpoint(&newest_first)?;
            let before = found.header.previous;
            if checkpoint.is_some() || before.segment == 0 {
                break;
            }
            if before.segment >= number {
                return Err(bad_header(number));
            }
            number = before.segment;
            expected = Some(before.offset);
        }
        let torn = match newest_first.first() {
            Some(tail) => self.check_end(tail, &dropped)?,
            None => None,
        };
        // A start that was cut short leaves nothing behind: it will be tried again with this file.
        let complete = checkpoint.as_ref().map(|located| located.id);
        let void = newest_first
            .iter()
            .take_while(|read| is_void(read, complete));
        let void = void.count();
        newest_first.drain(..void);
        newest_first.reverse();
        Ok(Chain {
            segments: newest_first,
            checkpoint,
            torn,
        })
    }

    /// Whether everything that was safe is before the end of the log; what is torn off there.
    fn check_end(
        &self,
        tail: &Read,
        dropped: &[u32],
    ) -> Result<Option<(Position, u64)>, StoreError> {
        let end = Position {
            segment: tail.number,
            offset: tail.heads.end,
        };
        let mut synced = tail.heads.tail.synced;
        let mut bytes = tail.heads.tail.bytes;
        let any_dropped = !dropped.is_empty();
        let mut first_damaged = None;
        let dropped = dropped
            .iter()
            .filter_map(|number| Some((*number, &self.found.get(number)?.file)));
        // A segment with a damaged header behind the end, too, was never safe, if none says so.
        let damaged = self.damaged.iter().map(|(number, file)| (*number, file));
        let damaged = damaged.filter(|(number, _)| *number > tail.number);
        for (number, file) in dropped.chain(damaged) {
            if self.damaged.contains_key(&number) {
                first_damaged.get_or_insert(number);
            }
            let heads = scan(file, number)?;
            synced = synced.max(heads.tail.synced);
            bytes += u64::from(heads.end - HEADER) + heads.tail.bytes;
        }
        if synced > end {
            if tail.heads.tail.broken.is_none()
                && let Some(damaged) = first_damaged
            {
                return Err(bad_header(damaged));
            }
            let what = tail.heads.tail.broken.unwrap_or("a batch is not there");
            return Err(StoreError::corrupt(
                log_name(end.segment),
                u64::from(end.offset),
                format!("{what}, though it was safe on the disk"),
            ));
        }
        let is_torn = tail.heads.tail.broken.is_some() || any_dropped || first_damaged.is_some();
        Ok(is_torn.then_some((end, bytes)))
    }

    /// The newest complete checkpoint in these segments.
    fn find_checkpoint(&self, newest_first: &[Read]) -> Result<Option<Located>, StoreError> {
        // Only the oldest one is new to us, but parts may go on in those after it.
        let Some(oldest) = newest_first.last() else {
            return Ok(None);
        };
        let mut firsts = Vec::new();
        for entry in Entries::new(&oldest.heads.list, oldest.number) {
            let Some(entry) = entry else { break };
            if let What::Checkpoint(part) = entry.head.what
                && part.index == 0
            {
                firsts.push((part.id, entry.frame));
            }
        }
        for &(id, frame) in firsts.iter().rev() {
            let first = Position {
                segment: oldest.number,
                offset: frame,
            };
            if let Some(located) = self.collect(newest_first, id, first)? {
                return Ok(Some(located));
            }
        }
        Ok(None)
    }

    /// Puts the parts of a checkpoint together; None if it is not complete.
    fn collect(
        &self,
        newest_first: &[Read],
        id: u64,
        first: Position,
    ) -> Result<Option<Located>, StoreError> {
        let mut located = Located {
            id,
            first,
            bytes: Vec::new(),
        };
        let mut next = 0;
        let mut buffer = Vec::new();
        for read in newest_first.iter().rev() {
            for entry in Entries::new(&read.heads.list, read.number) {
                let Some(entry) = entry else { break };
                let What::Checkpoint(Part {
                    id: of,
                    index,
                    is_last,
                    bytes,
                }) = entry.head.what
                else {
                    continue;
                };
                if of != id || index != next {
                    continue;
                }
                self.read_part(read.number, entry.place, bytes, &mut buffer)?;
                located
                    .bytes
                    .extend_from_slice(buffer.get(4..).unwrap_or_default());
                next += 1;
                if is_last {
                    return Ok(Some(located));
                }
            }
        }
        Ok(None)
    }

    fn read_part(
        &self,
        number: u32,
        place: Place,
        bytes: u32,
        buffer: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let found = self.get(number)?;
        let offset = u64::from(place.offset);
        if offset + u64::from(bytes) > found.bytes {
            let what = "a checkpoint is longer than the file";
            return Err(StoreError::corrupt(log_name(number), offset, what));
        }
        let is_sound = read_body(&found.file, place, bytes, buffer)
            .map_err(|error| StoreError::io(format!("read {}", log_name(number)), &error))?;
        if !is_sound {
            let what = "a checkpoint is not what was written";
            return Err(StoreError::corrupt(log_name(number), offset, what));
        }
        Ok(())
    }

    /// Takes everything in.
    fn replay(self, chain: Chain) -> Result<Recovery<F>, StoreError> {
        let mut base = Checkpoint::default();
        let mut start = Position::default();
        let mut mark = None;
        if let Some(located) = &chain.checkpoint {
            base = checkpoint::decode(&located.bytes).ok_or_else(|| {
                let at = u64::from(located.first.offset);
                let what = "a checkpoint cannot be read";
                StoreError::corrupt(log_name(located.first.segment), at, what)
            })?;
            start = located.first;
            mark = Some((start, located.bytes.len() as u64));
        }
        let mut replay = Replay {
            survey: &self,
            state: base.state,
            unsealed: Vec::new(),
        };
        let freed = freed_after(&chain, start);
        let needed = base.needed.iter();
        let mut before: Vec<Needed> = needed
            .filter(|needed| needed.number < start.segment && !freed.contains(&needed.number))
            .copied()
            .collect();
        before.sort_unstable_by_key(|needed| needed.number);
        for needed in before {
            replay.before(needed)?;
        }
        for read in &chain.segments {
            replay.add_segment(read.number, &read.heads)?;
        }
        replay.chain(&chain, start)?;
        replay.nothing_is_missing(start)?;
        let Replay {
            state, unsealed, ..
        } = replay;
        let end = chain
            .segments
            .last()
            .map_or_else(Position::default, |read| Position {
                segment: read.number,
                offset: read.heads.end,
            });
        let (needed, unneeded): (Vec<_>, Vec<_>) = self
            .found
            .into_iter()
            .partition(|(number, _)| state.segments.contains_key(number));
        let unneeded = unneeded.into_iter().map(|(n, found)| (n, found.bytes));
        let files = needed
            .into_iter()
            .map(|(number, found)| (number, found.file));
        Ok(Recovery {
            state,
            files: files.collect(),
            unsealed,
            unneeded: unneeded.chain(with_bytes(self.damaged)).collect(),
            free: self.free,
            end,
            number_max: self.number_max,
            torn: chain.torn,
            checkpoint: mark,
        })
    }
}

fn with_bytes<F: DiskFile>(files: BTreeMap<u32, F>) -> impl Iterator<Item = (u32, u64)> {
    let files = files.into_iter();
    // A file that does not even say how long it is is of no use.
    files.map(|(number, file)| (number, file.size().unwrap_or_default()))
}

/// Whether nothing is in a segment but parts of checkpoints that never became complete.
fn is_void(read: &Read, complete: Option<u64>) -> bool {
    let mut entries = Entries::new(&read.heads.list, read.number);
    entries.all(|entry| match entry.map(|entry| entry.head.what) {
        Some(What::Checkpoint(part)) => Some(part.id) != complete,
        _ => false,
    })
}

/// Segments that were freed after the checkpoint that begins at `start`.
fn freed_after(chain: &Chain, start: Position) -> Vec<u32> {
    let mut freed = Vec::new();
    for read in &chain.segments {
        for entry in Entries::new(&read.heads.list, read.number).flatten() {
            let at = Position {
                segment: read.number,
                offset: entry.frame,
            };
            if let What::Freed(number) = entry.head.what
                && at > start
            {
                freed.push(number);
            }
        }
    }
    freed
}

/// What has been taken in so far.
struct Replay<'a, F> {
    survey: &'a Survey<F>,
    state: State,
    unsealed: Vec<(u32, Heads)>,
}

impl<F: DiskFile> Replay<'_, F> {
    /// A segment from before the checkpoint: only where messages are.
    fn before(&mut self, needed: Needed) -> Result<(), StoreError> {
        let number = needed.number;
        let found = self.survey.get(number)?;
        let heads = read_heads(&found.file, number)?;
        if heads.end != needed.end {
            let at = u64::from(heads.end.min(needed.end));
            let what = heads.tail.broken.unwrap_or("a batch is not there");
            return Err(StoreError::corrupt(log_name(number), at, what));
        }
        self.add_segment(number, &heads)?;
        let mut entries = Entries::new(&heads.list, number);
        while let Some(entry) = entries.next() {
            let mut entry = entry.ok_or_else(|| entries.refusal())?;
            let vhost = entry.head.vhost;
            self.state
                .apply_places(vhost, &entry.head.what, &mut entry.place);
        }
        Ok(())
    }

    fn add_segment(&mut self, number: u32, heads: &Heads) -> Result<(), StoreError> {
        let found = self.survey.get(number)?;
        if !heads.has_footer {
            self.unsealed.push((number, heads.clone()));
        }
        if let Slot::Vacant(slot) = self.state.segments.entry(number) {
            slot.insert(Segment {
                bytes: found.bytes,
                end: heads.end,
                is_sealed: true,
                ..Segment::default()
            });
        }
        Ok(())
    }

    /// The segments from the checkpoint on: what is before it in the first of them only places.
    fn chain(&mut self, chain: &Chain, start: Position) -> Result<(), StoreError> {
        for read in &chain.segments {
            let number = read.number;
            let mut entries = Entries::new(&read.heads.list, number);
            while let Some(entry) = entries.next() {
                let mut entry = entry.ok_or_else(|| entries.refusal())?;
                let at = Position {
                    segment: number,
                    offset: entry.frame,
                };
                let (vhost, lsn) = (entry.head.vhost, entry.head.lsn);
                if at < start {
                    self.state
                        .apply_places(vhost, &entry.head.what, &mut entry.place);
                } else {
                    self.state
                        .apply(vhost, lsn, entry.head.what, &mut entry.place);
                }
            }
        }
        Ok(())
    }

    fn nothing_is_missing(&self, start: Position) -> Result<(), StoreError> {
        for queue in self.state.queues() {
            if let Some((first, _)) = queue.missing.first_key_value() {
                let what = format!(
                    "message {first} of queue {} is in no segment though it should live",
                    queue.number
                );
                let at = u64::from(start.offset);
                return Err(StoreError::corrupt(log_name(start.segment), at, what));
            }
        }
        Ok(())
    }
}

//! Keeping house: checkpoints, freeing what holds nothing living, moving the living out of what
//! holds little.
//!
//! All of it is made of ordinary records in the log, so a crash at any step leaves either the old
//! or the new to be found: a file is given away only after a record that does without it is safe.

use leveret_core::message::Message;

use crate::checkpoint::{self, Encoder, Needed};
use crate::disk::Disk;
use crate::error::StoreError;
use crate::format::{Position, put_varint};
use crate::log::{Log, lock, own_bound};
use crate::record::{
    BODY_SUM, BODY_TIME, Body, Publish, What, kind, put_publish, put_start, time_octets,
};
use crate::room::Spare;
use crate::segment::{Entries, free_name, log_name, read_body, read_heads};
use crate::state::{Place, State};

/// A checkpoint is worth its octets if that frees this many times as many.
const FREED_PER_CHECKPOINT: u64 = 2;

/// Between two checkpoints this many times as many octets are written as one takes.
const WRITTEN_PER_CHECKPOINT: u64 = 4;

/// In a time for compaction a segment is compacted of which less than this lives.
const EAGER_SHARE: f64 = 0.75;

/// What housekeeping remembers.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    /// Where the last safe checkpoint begins.
    checkpoint: Option<Position>,
    /// Octets of it.
    bytes: u64,
    /// Octets written since.
    pub(crate) written: u64,
    /// Segments that are not needed any more, which is safe to say.
    freed: Vec<u32>,
    compaction: Option<Compaction>,
    /// In a time for it: segments before this one are compacted sooner.
    eager_before: Option<u32>,
}

/// A segment whose living messages are being moved.
#[derive(Debug)]
struct Compaction {
    number: u32,
    list: Vec<u8>,
    mark: (usize, u32),
}

/// A message that was written anew.
struct Moved {
    vhost: u32,
    bytes: u32,
    user: String,
    expires: Option<u64>,
    places: Vec<(u64, u64)>,
    to: Place,
}

impl Keeper {
    pub(crate) fn new(checkpoint: Option<(Position, u64)>) -> Self {
        Self {
            checkpoint: checkpoint.map(|(first, _)| first),
            bytes: checkpoint.map_or(0, |(_, bytes)| bytes),
            ..Self::default()
        }
    }
}

impl<D: Disk> Log<D> {
    /// One bounded step of checkpoint, freeing or compaction. True if there is more to do.
    ///
    /// # Errors
    /// `Io`: nothing can be written any more. Never `Full`.
    pub fn housekeep(&mut self) -> Result<bool, StoreError> {
        self.alive()?;
        let result = self.step();
        match result {
            Err(StoreError::Full) => {
                self.keeper.compaction = None;
                Ok(false)
            }
            result => result,
        }
    }

    fn step(&mut self) -> Result<bool, StoreError> {
        if let Some(number) = self.keeper.freed.pop() {
            self.give_away(number)?;
            return Ok(true);
        }
        if self.free()? {
            return Ok(true);
        }
        if self.is_checkpoint_due() {
            self.checkpoint()?;
            return Ok(true);
        }
        if self.keeper.compaction.is_none() {
            let Some(number) = self.choose() else {
                return Ok(false);
            };
            self.begin_compaction(number)?;
        }
        self.compact()?;
        Ok(true)
    }

    /// A segment becomes a file that waits to be used.
    fn give_away(&mut self, number: u32) -> Result<(), StoreError> {
        let segment = {
            let mut shared = lock(&self.shared);
            shared.files.remove(&number);
            shared.state.segments.remove(&number)
        };
        let bytes = segment.map_or(0, |segment| segment.bytes);
        let renamed = self.disk.rename(&log_name(number), &free_name(number));
        self.done(renamed, || format!("rename {}", log_name(number)))?;
        let given = self.room.give(Spare {
            number,
            file: None,
            bytes,
        });
        self.done(given, || format!("remove {}", free_name(number)))
    }

    /// Notes in the log which segments before the checkpoint hold nothing living any more.
    fn free(&mut self) -> Result<bool, StoreError> {
        let Some(checkpoint) = self.keeper.checkpoint else {
            return Ok(false);
        };
        let empty: Vec<_> = {
            let shared = lock(&self.shared);
            let before = shared.state.segments.range(..checkpoint.segment);
            before
                .filter(|(_, segment)| segment.is_sealed && segment.copies == 0)
                .map(|(number, _)| *number)
                .collect()
        };
        if empty.is_empty() {
            return Ok(false);
        }
        let mut head = Vec::new();
        for number in &empty {
            head.clear();
            put_start(&mut head, kind::FREED, 0, 0);
            put_varint(&mut head, u64::from(*number));
            self.write_own(&head, None, true)?;
        }
        self.flush()?;
        self.sync_files()?;
        self.keeper.freed = empty;
        Ok(true)
    }

    fn is_checkpoint_due(&self) -> bool {
        let often = WRITTEN_PER_CHECKPOINT.saturating_mul(self.keeper.bytes);
        if self.keeper.written >= self.options.checkpoint_bytes.max(often) {
            return true;
        }
        let shared = lock(&self.shared);
        let sealed = shared.state.segments.values();
        let empty = sealed.filter(|segment| segment.is_sealed && segment.copies == 0);
        let frees: u64 = empty.map(|segment| segment.bytes).sum();
        frees > FREED_PER_CHECKPOINT.saturating_mul(self.keeper.bytes)
    }

    /// Writes down what is known, so that nothing before is needed but places of messages.
    pub(crate) fn checkpoint(&mut self) -> Result<(), StoreError> {
        // Whoever finds it may trust everything before it to be safe.
        self.flush()?;
        self.sync_files()?;
        let here = self.synced;
        let (needed, empty) = {
            let shared = lock(&self.shared);
            let (mut needed, mut empty) = (Vec::new(), Vec::new());
            for (&number, segment) in &shared.state.segments {
                if segment.is_sealed && segment.copies == 0 {
                    empty.push(number);
                } else {
                    let is_here = number == here.segment;
                    let end = if is_here { here.offset } else { segment.end };
                    needed.push(Needed { number, end });
                }
            }
            (needed, empty)
        };
        // Written down twice, once only for its length. Nobody but us changes what it is about.
        let mut encoder = Encoder::new(needed);
        let mut piece = Vec::new();
        let id = (u64::from(self.synced.segment) << 32) | u64::from(self.synced.offset);
        let part_bytes = usize::try_from(self.room.capacity() / 2).unwrap_or(usize::MAX);
        let part_bytes = part_bytes.clamp(64, checkpoint::PART);
        let (mut bytes, mut lens) = (0, Vec::new());
        while encoder.next(&lock(&self.shared).state, &mut piece) {
            bytes += piece.len() as u64;
            lens.extend(piece.chunks(part_bytes).map(<[u8]>::len));
        }
        let head_of = |index: usize, len: usize| {
            let mut head = Vec::new();
            put_start(&mut head, kind::CHECKPOINT, 0, 0);
            put_varint(&mut head, id);
            put_varint(&mut head, index as u64);
            head.push(u8::from(index + 1 == lens.len()));
            put_varint(&mut head, len as u64);
            head
        };
        // All of it or nothing: half a checkpoint only takes room.
        let bounds = lens.iter().enumerate();
        let bounds = bounds.map(|(index, &len)| own_bound(&head_of(index, len), Some(len)));
        let bounds: Vec<_> = bounds.collect();
        self.prepare(&bounds, true)?;
        let mut first = None;
        let mut index = 0;
        encoder.rewind();
        while encoder.next(&lock(&self.shared).state, &mut piece) {
            for part in piece.chunks(part_bytes) {
                let place = self.write_own(&head_of(index, part.len()), Some(part), true)?;
                first.get_or_insert(Position {
                    segment: place.segment,
                    offset: place.offset,
                });
                index += 1;
            }
        }
        self.put_back()?;
        self.flush()?;
        self.sync_files()?;
        self.keeper.checkpoint = first;
        self.keeper.bytes = bytes;
        self.keeper.written = 0;
        self.keeper.freed = empty;
        Ok(())
    }

    /// After a start with too few files in reserve: every start takes one for its first segment, so
    /// those segments of the starts before in which nothing lives are freed before anything else,
    /// with the last file if need be.
    pub(crate) fn regain(&mut self) -> Result<(), StoreError> {
        match self.room.make_reserve() {
            Err(StoreError::Full) if self.has_empty() => {}
            Err(StoreError::Full) => return Ok(()),
            made => return made,
        }
        match self.checkpoint() {
            Err(StoreError::Full) => return Ok(()),
            made => made?,
        }
        while let Some(number) = self.keeper.freed.pop() {
            self.give_away(number)?;
        }
        Ok(())
    }

    fn has_empty(&self) -> bool {
        let shared = lock(&self.shared);
        let mut segments = shared.state.segments.values();
        segments.any(|segment| segment.is_sealed && segment.copies == 0)
    }

    /// Whether this is a good time to compact: then also segments are compacted of which up to three
    /// quarters live, each of those that are there now once.
    pub fn compact_eagerly(&mut self, eager: bool) {
        if eager != self.is_eager() {
            let last = lock(&self.shared)
                .state
                .segments
                .keys()
                .next_back()
                .copied();
            self.keeper.eager_before = eager.then(|| last.unwrap_or(0));
        }
    }

    /// Whether it is.
    pub(crate) fn is_eager(&self) -> bool {
        self.keeper.eager_before.is_some()
    }

    /// The segment that is best compacted, if it is worth it: less than half of it lives, and of
    /// all segments as much is wasted as two segments and a quarter of what lives. In a time for it,
    /// less than three quarters.
    fn choose(&self) -> Option<u32> {
        let is_eager = |number: u32| self.keeper.eager_before.is_some_and(|eager| number < eager);
        let shared = lock(&self.shared);
        let sealed = shared.state.segments.iter();
        let sealed = sealed.filter(|(_, segment)| segment.is_sealed && !segment.is_rotten);
        let (mut living, mut wasted) = (0_u64, 0_u64);
        let mut best: Option<(u32, f64)> = None;
        for (&number, segment) in sealed {
            living = living.saturating_add(segment.living);
            wasted = wasted.saturating_add(segment.bytes.saturating_sub(segment.living));
            let share = segment.living as f64 / segment.bytes.max(1) as f64;
            let most = if is_eager(number) { EAGER_SHARE } else { 0.5 };
            if segment.copies > 0 && share < best.map_or(most, |(_, share)| share.min(most)) {
                best = Some((number, share));
            }
        }
        if best.is_some_and(|(number, _)| is_eager(number)) {
            return best.map(|(number, _)| number);
        }
        let is_worth_it = wasted >= (2 * self.options.segment_bytes).max(living / 4);
        best.filter(|_| is_worth_it).map(|(number, _)| number)
    }

    fn begin_compaction(&mut self, number: u32) -> Result<(), StoreError> {
        let file = lock(&self.shared).files.get(&number).cloned();
        let heads = file.and_then(|file| read_heads(&file, number).ok());
        let Some(heads) = heads else {
            self.leave_alone(number);
            return Ok(());
        };
        self.keeper.compaction = Some(Compaction {
            number,
            mark: (0, crate::format::HEADER),
            list: heads.list,
        });
        Ok(())
    }

    /// Something in the segment cannot be read: whoever asks for it will hear of it.
    fn leave_alone(&mut self, number: u32) {
        self.keeper.compaction = None;
        if let Some(segment) = lock(&self.shared).state.segments.get_mut(&number) {
            segment.is_rotten = true;
        }
    }

    /// Moves some living messages.
    fn compact(&mut self) -> Result<(), StoreError> {
        let Some(mut compaction) = self.keeper.compaction.take() else {
            return Ok(());
        };
        let number = compaction.number;
        let mut moved = Vec::new();
        let before = self.counts.bytes_written;
        let result = self.move_some(&mut compaction, &mut moved);
        // What was written is where it is now, also if no more could be.
        self.flush()?;
        self.counts.bytes_moved += self.counts.bytes_written - before;
        {
            let mut shared = lock(&self.shared);
            for moved in moved {
                let places = moved.places.iter().copied();
                let body = Body {
                    bytes: moved.bytes,
                    has_time: true,
                    user: &moved.user,
                    expires: moved.expires,
                };
                shared.state.locate(moved.vhost, body, places, moved.to);
            }
        }
        match result? {
            Progress::More => self.keeper.compaction = Some(compaction),
            Progress::Unreadable => self.leave_alone(number),
            Progress::Done => {
                let shared = lock(&self.shared);
                let segment = shared.state.segments.get(&number);
                let is_empty = segment.is_none_or(|segment| segment.copies == 0);
                drop(shared);
                if !is_empty {
                    self.leave_alone(number);
                }
            }
        }
        Ok(())
    }

    fn move_some(
        &mut self,
        compaction: &mut Compaction,
        moved: &mut Vec<Moved>,
    ) -> Result<Progress, StoreError> {
        let number = compaction.number;
        let Some(file) = lock(&self.shared).files.get(&number).cloned() else {
            return Ok(Progress::Done);
        };
        let mut budget = self.options.step_bytes;
        let (mut head, mut body) = (Vec::new(), Vec::new());
        let mut entries = Entries::resume(&compaction.list, number, compaction.mark);
        while budget > 0 {
            let Some(entry) = entries.next() else {
                return Ok(Progress::Done);
            };
            let Some(entry) = entry else {
                return Ok(Progress::Unreadable);
            };
            let (vhost, lsn) = (entry.head.vhost, entry.head.lsn);
            let mut living = Vec::new();
            let mut place = entry.place;
            find_living(
                &mut lock(&self.shared).state,
                vhost,
                &entry.head.what,
                &mut place,
                &mut living,
            );
            for (publish, place) in living {
                if !read_body(&file, place, publish.body.bytes, &mut body).unwrap_or(false) {
                    return Ok(Progress::Unreadable);
                }
                body.drain(..BODY_SUM as usize);
                let said = add_time(&publish, &mut body);
                head.clear();
                put_start(&mut head, kind::MOVED_TIMED, vhost, lsn);
                put_publish(&mut head, &said, publish.places.iter().copied());
                let to = self.write_own(&head, Some(&body), false)?;
                budget = budget.saturating_sub((body.len() + head.len()) as u64);
                moved.push(Moved {
                    vhost,
                    bytes: said.bytes,
                    user: said.user.to_owned(),
                    expires: said.expires,
                    places: publish.places,
                    to,
                });
            }
            // Looking costs something, too.
            budget = budget.saturating_sub(16);
            compaction.mark = entries.mark(&compaction.list);
        }
        Ok(Progress::More)
    }
}

/// Makes the body of an old record one that begins with the time of arrival. Returns what is to be
/// said of it.
fn add_time<'a>(publish: &Publish<'a>, body: &mut Vec<u8>) -> Body<'a> {
    let Some(at) = publish.at else {
        return publish.body;
    };
    let own_ms = Message::from_block(body).and_then(|message| message.expiration_ms());
    body.splice(..0, time_octets(at));
    Body {
        bytes: publish.body.bytes.saturating_add(BODY_TIME),
        has_time: true,
        expires: own_ms.map(|ms| at.saturating_add(ms)),
        ..publish.body
    }
}

enum Progress {
    More,
    Done,
    Unreadable,
}

/// The messages of a record that live right there, with only the places where they do.
pub(crate) fn find_living<'a>(
    state: &mut State,
    vhost: u32,
    what: &What<'a>,
    place: &mut Place,
    living: &mut Vec<(Publish<'a>, Place)>,
) {
    match what {
        What::Published(publish) | What::Moved(publish) => {
            let mut publish = publish.clone();
            let here = *place;
            publish
                .places
                .retain(|&(queue, seq)| state.lives_at(vhost, queue, seq, here));
            place.pass(publish.body.bytes);
            if !publish.places.is_empty() {
                living.push((publish, here));
            }
        }
        What::Together(parts) => {
            for part in parts {
                find_living(state, vhost, part, place, living);
            }
        }
        _ => {}
    }
}

//! The log without threads: writing and syncing. What is done besides is in `keeper.rs`.
//!
//! A batch is planned (what of it is written, and how long that gets at most), room is made for it,
//! and only then is it written: so a full disk refuses all of it or nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use leveret_core::Record;
use leveret_core::ids::Lsn;
use leveret_core::log::Recovered;
use leveret_core::record::Fact;

use crate::disk::{Disk, DiskFile};
use crate::error::StoreError;
use crate::fetch::Reader;
use crate::format::{BATCH, HEADER, Header, Position, put_bytes};
use crate::keeper::Keeper;
use crate::opening::secure;
use crate::options::Options;
use crate::plan::{Item, Plan};
use crate::record::{
    BODY_SUM, bodies_of, body_of, kind, kind_of, put_fact, put_runs, put_start, time_octets,
};
use crate::recovery::recover;
use crate::relief;
use crate::room::{Room, Spare, next, open_spare};
use crate::segment::{Writer, free_name, log_name, need};
use crate::state::{Place, Segment, State};

/// Octets that are collected before they are written.
const BUFFER: usize = 1 << 20;

/// A buffer that grew longer than this for a large message is given back.
const BUFFER_KEPT: usize = 8 << 20;

/// A vhost in the log. Given when it is led for the first time, never given twice.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct VhostNumber(pub u32);

/// Records of a vhost that are to be written, in order.
#[derive(Clone, Debug, Default)]
pub struct Staged {
    /// The vhost, as [`Log::lead`] said.
    pub vhost: VhostNumber,
    /// Its records.
    pub records: Vec<Record>,
}

/// A log that was opened.
#[derive(Debug)]
pub struct Opened<D: Disk> {
    /// The log.
    pub log: Log<D>,
    /// What was cut off its end, because it had not been written completely.
    pub cut: Option<Cut>,
    /// Segments there are.
    pub segments: u64,
    /// Messages there are; one in several queues counts once for each.
    pub messages: u64,
}

/// What was cut off the end of a log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cut {
    /// The file.
    pub file: String,
    /// Where it ends now.
    pub offset: u64,
    /// Octets cut, as far as anything had been written there.
    pub bytes: u64,
}

/// What the log has done since it was opened.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Times something was made safe.
    pub syncs: u64,
    /// Octets written, all told.
    pub bytes_written: u64,
    /// Octets of them that were copied to free segments.
    pub bytes_moved: u64,
    /// Messages that were not written, because they came and went in one batch.
    pub left_out: u64,
    /// Segments there are.
    pub segments: u64,
    /// Files that wait to be used.
    pub spares: u64,
}

/// The log: written by one, read by many.
pub struct Log<D: Disk> {
    pub(crate) disk: D,
    pub(crate) options: Options,
    pub(crate) shared: Arc<Mutex<Shared<D::File>>>,
    pub(crate) room: Room<D>,
    pub(crate) writer: Option<Writer<D::File>>,
    /// The end of the last segment, while there is no writer.
    end: Position,
    pub(crate) synced: Position,
    /// Sealed, not synced.
    unsynced: Vec<(u32, D::File)>,
    /// The writer's file has something that is not synced.
    is_dirty: bool,
    reports: Vec<(VhostNumber, Lsn)>,
    plan: Plan,
    head: Vec<u8>,
    buffer: Vec<u8>,
    poison: Option<StoreError>,
    pub(crate) keeper: Keeper,
    pub(crate) counts: Counts,
}

/// What readers look at.
pub(crate) struct Shared<F> {
    pub(crate) state: State,
    pub(crate) files: BTreeMap<u32, F>,
}

impl<D: Disk> Log<D> {
    /// Opens the log in this directory, or makes one.
    ///
    /// # Errors
    /// All kinds of [`StoreError`]; unless it is `Io`, nothing was changed.
    pub fn open(disk: D, options: Options) -> Result<Opened<D>, StoreError> {
        let recovery = recover(&disk)?;
        let mut room = Room::new(disk.clone(), &options, next(recovery.number_max)?);
        secure(&recovery)?;
        let free: BTreeSet<u32> = recovery.free.iter().map(|&(number, _)| number).collect();
        for (number, bytes) in recovery.free {
            let spare = Spare {
                number,
                file: None,
                bytes,
            };
            room.give(spare)
                .map_err(|error| StoreError::io(format!("remove {}", free_name(number)), &error))?;
        }
        for (number, bytes) in recovery.unneeded {
            let spare = Spare {
                number,
                file: None,
                bytes,
            };
            // Somebody may have put files of two directories together.
            let given = if free.contains(&number) {
                disk.remove(&log_name(number))
            } else {
                disk.rename(&log_name(number), &free_name(number))
                    .and_then(|()| room.give(spare))
            };
            given.map_err(|error| StoreError::io(format!("free {}", log_name(number)), &error))?;
        }
        let synced = disk.sync_dir();
        synced.map_err(|error| StoreError::io("sync the directory", &error))?;
        let cut = recovery.torn.map(|(end, bytes)| Cut {
            file: log_name(end.segment),
            offset: u64::from(end.offset),
            bytes,
        });
        let segments = recovery.state.segments.len() as u64;
        let messages = recovery.state.messages();
        let mut log = Self {
            disk,
            options,
            shared: Arc::new(Mutex::new(Shared {
                state: recovery.state,
                files: recovery.files,
            })),
            room,
            writer: None,
            end: recovery.end,
            synced: recovery.end,
            unsynced: Vec::new(),
            is_dirty: false,
            reports: Vec::new(),
            plan: Plan::default(),
            head: Vec::new(),
            buffer: Vec::new(),
            poison: None,
            keeper: Keeper::new(recovery.checkpoint),
            counts: Counts::default(),
        };
        log.regain()?;
        Ok(Opened {
            log,
            cut,
            segments,
            messages,
        })
    }

    /// Takes the lead of a vhost: what is known of it. A new one is named in the log.
    ///
    /// # Errors
    /// `Io`; `Full`: there is no room to name a new one.
    pub fn lead(&mut self, vhost: &str) -> Result<(VhostNumber, Recovered), StoreError> {
        self.alive()?;
        let number = {
            let shared = lock(&self.shared);
            if let Some(number) = shared.state.vhost_number(vhost) {
                return Ok((VhostNumber(number), shared.state.recovered(number)));
            }
            let last = shared.state.vhosts.last_key_value();
            last.map_or(1, |(number, _)| number.saturating_add(1))
        };
        let mut head = Vec::new();
        put_start(&mut head, kind::VHOST_NAMED, number, 0);
        put_bytes(&mut head, vhost.as_bytes());
        self.write_own(&head, None, false)?;
        self.flush()?;
        lock(&self.shared).state.name_vhost(number, vhost);
        Ok((VhostNumber(number), Recovered::default()))
    }

    /// Writes records. They are safe after the next [`sync`](Self::sync).
    ///
    /// # Errors
    /// `Full`: nothing was written; `Io`: nothing can be written any more.
    pub fn write(&mut self, staged: Vec<Staged>) -> Result<(), StoreError> {
        self.append(&staged)
    }

    /// The same, for those who try again when it was `Full`.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    pub fn append(&mut self, staged: &[Staged]) -> Result<(), StoreError> {
        self.alive()?;
        let mut plan = std::mem::take(&mut self.plan);
        plan.make(staged);
        let result = self.write_plan(&plan, staged);
        self.plan = plan;
        result
    }

    /// Makes what was written until now safe; says up to which record of each vhost that is, for
    /// those vhosts where something was written since the last time.
    ///
    /// # Errors
    /// `Io`: nothing can be written any more.
    pub fn sync(&mut self) -> Result<Vec<(VhostNumber, Lsn)>, StoreError> {
        self.sync_files()?;
        Ok(std::mem::take(&mut self.reports))
    }

    /// Reads messages, from any thread.
    #[must_use]
    pub fn reader(&self) -> Reader<D> {
        Reader::new(Arc::clone(&self.shared))
    }

    /// Checkpoint, footer, sync: the next open has nothing to scan. Without room for a checkpoint it
    /// has more to read.
    ///
    /// # Errors
    /// `Io`.
    pub fn close(mut self) -> Result<(), StoreError> {
        self.sync_files()?;
        if self.writer.is_none() {
            return Ok(());
        }
        match self.checkpoint() {
            Ok(()) | Err(StoreError::Full) => {}
            Err(error) => return Err(error),
        }
        self.seal()?;
        self.sync_files()
    }

    /// Whether messages can be taken even if they need a new segment. Asks the disk.
    ///
    /// # Errors
    /// `Io` if it cannot be asked.
    pub fn has_room(&self) -> Result<bool, StoreError> {
        let asked = self.room.has_room();
        asked.map_err(|error| StoreError::io("ask for free space", &error))
    }

    /// Octets of records that can be taken before it is `Full`; what is lost where they do not
    /// fit into the end of a segment comes off it. Asks the disk.
    ///
    /// # Errors
    /// `Io` if it cannot be asked.
    pub fn room_left(&self) -> Result<u64, StoreError> {
        let rest = self.writer.as_ref().map_or(0, Writer::room);
        let asked = self.room.left(rest);
        asked.map_err(|error| StoreError::io("ask for free space", &error))
    }

    /// What the log has done since it was opened.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            segments: lock(&self.shared).state.segments.len() as u64,
            spares: self.room.spares() as u64,
            ..self.counts
        }
    }

    /// The same for records that are to be there whatever is left then for those who free some.
    pub(crate) fn append_from_reserve(&mut self, staged: &[Staged]) -> Result<(), StoreError> {
        self.alive()?;
        let mut plan = std::mem::take(&mut self.plan);
        plan.make(staged);
        plan.is_relief = true;
        let result = self.write_plan(&plan, staged);
        self.plan = plan;
        result
    }

    /// Takes those records of a vhost out of what waits for room that may be written before the
    /// others, because they free some or those who do need them.
    pub(crate) fn extract_relief(
        &self,
        vhost: VhostNumber,
        records: &mut Vec<Record>,
    ) -> Vec<Record> {
        relief::extract(&mut lock(&self.shared).state, vhost, records)
    }

    /// Notes that a vhost has come so far.
    pub(crate) fn reach(&self, vhost: VhostNumber, lsn: u64) {
        lock(&self.shared).state.reach(vhost.0, lsn);
    }

    pub(crate) fn alive(&self) -> Result<(), StoreError> {
        self.poison.clone().map_or(Ok(()), Err)
    }

    /// Notes an error after which nothing is certain.
    pub(crate) fn poison(&mut self, error: StoreError) -> StoreError {
        if matches!(error, StoreError::Io { .. }) {
            self.poison.get_or_insert_with(|| error.clone());
        }
        error
    }

    /// The result of a step that writes: an error poisons.
    pub(crate) fn done<T>(
        &mut self,
        result: io::Result<T>,
        doing: impl FnOnce() -> String,
    ) -> Result<T, StoreError> {
        result.map_err(|error| self.poison(StoreError::io(doing(), &error)))
    }

    fn write_plan(&mut self, plan: &Plan, staged: &[Staged]) -> Result<(), StoreError> {
        if !plan.is_relief {
            let made = self.room.make_reserve();
            made.map_err(|error| self.poison(error))?;
        }
        self.prepare(&plan.bounds, plan.is_relief)?;
        for (item, bound) in plan.items.iter().zip(&plan.bounds) {
            self.write_item(plan, staged, *item, *bound)?;
        }
        self.flush()?;
        self.counts.left_out += plan.left_out;
        let mut shared = lock(&self.shared);
        for (vhost, lsn) in plan.reached() {
            shared.state.reach(vhost, lsn);
            match self.reports.iter_mut().find(|report| report.0.0 == vhost) {
                Some(report) => report.1 = report.1.max(Lsn(lsn)),
                None => self.reports.push((VhostNumber(vhost), Lsn(lsn))),
            }
        }
        drop(shared);
        self.put_back()
    }

    /// Gives back what was set apart and not needed.
    pub(crate) fn put_back(&mut self) -> Result<(), StoreError> {
        let put_back = self.room.put_back();
        self.done(put_back, || "remove a file".to_owned())
    }

    /// Makes room for records that need at most this much.
    pub(crate) fn prepare(&mut self, bounds: &[u64], is_relief: bool) -> Result<(), StoreError> {
        let rest = self.writer.as_ref().map_or(0, Writer::room);
        let prepared = self.room.prepare(bounds, rest, is_relief);
        if prepared == Err(StoreError::Full) {
            self.put_back()?;
        }
        prepared.map_err(|error| self.poison(error))
    }

    fn write_item(
        &mut self,
        plan: &Plan,
        staged: &[Staged],
        item: Item,
        bound: u64,
    ) -> Result<(), StoreError> {
        let mut head = std::mem::take(&mut self.head);
        head.clear();
        match item {
            Item::Record(part, index) => {
                let part = staged.get(part);
                if let Some(part) = part
                    && let Some(record) = part.records.get(index)
                {
                    let (vhost, lsn) = (part.vhost.0, record.lsn.0);
                    put_start(&mut head, kind_of(&record.fact), vhost, lsn);
                    put_fact(&mut head, &record.fact);
                    self.make_way(need(head.len(), bodies_of(&record.fact)), bound)?;
                    if let Some(writer) = &mut self.writer {
                        let mut place = writer.put_head(&head);
                        let state = &mut lock(&self.shared).state;
                        write_fact(writer, state, vhost, lsn, &record.fact, &mut place);
                    }
                }
            }
            Item::Settled(queue, from, to) => {
                if let Some(runs) = plan.runs(queue, from, to) {
                    put_start(&mut head, kind::SETTLED, runs.vhost, runs.lsn);
                    put_runs(&mut head, runs.queue, runs.runs);
                    self.make_way(need(head.len(), 0), bound)?;
                    if let Some(writer) = &mut self.writer {
                        writer.put_head(&head);
                    }
                    let state = &mut lock(&self.shared).state;
                    state.settle(runs.vhost, runs.queue, runs.runs);
                }
            }
            Item::Reached { vhost, lsn } => {
                put_start(&mut head, kind::REACHED, vhost, lsn);
                self.make_way(need(head.len(), 0), bound)?;
                if let Some(writer) = &mut self.writer {
                    writer.put_head(&head);
                }
            }
        }
        self.head = head;
        Ok(())
    }

    /// Writes a record of the log's own. Returns where its body is.
    pub(crate) fn write_own(
        &mut self,
        head: &[u8],
        body: Option<&[u8]>,
        is_relief: bool,
    ) -> Result<Place, StoreError> {
        let bound = own_bound(head, body.map(<[u8]>::len));
        self.prepare(&[bound], is_relief)?;
        self.make_way(bound - u64::from(BATCH), bound)?;
        let Some(writer) = &mut self.writer else {
            return Err(StoreError::Full);
        };
        let place = writer.put_head(head);
        if let Some(body) = body {
            writer.put_body(body, &[]);
        }
        Ok(place)
    }

    /// Sees to it that a record fits: writes what was collected, begins a segment.
    fn make_way(&mut self, need: u64, bound: u64) -> Result<(), StoreError> {
        let buffered = self.writer.as_ref().map_or(0, Writer::buffered);
        if buffered >= BUFFER {
            self.flush()?;
        }
        if let Some(writer) = &self.writer
            && need <= writer.room()
        {
            return Ok(());
        }
        self.begin(bound)
    }

    /// Writes what was collected.
    pub(crate) fn flush(&mut self) -> Result<(), StoreError> {
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };
        let number = writer.number;
        let written = writer.flush(self.synced);
        let written = self.done(written, || format!("write {}", log_name(number)))?;
        self.is_dirty |= written > 0;
        self.counts.bytes_written += written;
        self.keeper.written += written;
        Ok(())
    }

    /// Ends the segment at hand.
    pub(crate) fn seal(&mut self) -> Result<(), StoreError> {
        self.flush()?;
        let Some(mut writer) = self.writer.take() else {
            return Ok(());
        };
        let number = writer.number;
        if self.is_dirty {
            // Whoever finds the footer does not look at what it speaks of.
            let synced = writer.file.sync();
            self.done(synced, || format!("sync {}", log_name(number)))?;
        }
        let written = writer.seal();
        let written = self.done(written, || format!("write {}", log_name(number)))?;
        self.counts.bytes_written += written;
        self.end = writer.end();
        self.buffer = writer.take_buffer();
        if self.buffer.capacity() > BUFFER_KEPT {
            self.buffer = Vec::new();
        }
        self.is_dirty = false;
        self.unsynced.push((number, writer.file));
        if let Some(segment) = lock(&self.shared).state.segments.get_mut(&number) {
            segment.is_sealed = true;
            segment.end = self.end.offset;
        }
        Ok(())
    }

    /// Begins a segment for a record that needs at most this much.
    fn begin(&mut self, bound: u64) -> Result<(), StoreError> {
        self.seal()?;
        let Some(spare) = self.room.take(bound) else {
            let error = io::Error::other("less room was made than is needed");
            return Err(self.poison(StoreError::io("begin a segment", &error)));
        };
        let number = self.room.next_number;
        self.room.next_number = next(number).map_err(|error| self.poison(error))?;
        let header = Header {
            number,
            previous: self.end,
        };
        // The header is safe before the file has its name, and the name before there is anything in
        // the file: so a segment with its name has its header, and no number is ever used twice.
        let begun = open_spare(&self.disk, &spare).and_then(|file| {
            // Behind it are zeros: no batch was begun yet.
            let mut start = header.encode().to_vec();
            start.resize((HEADER + BATCH) as usize, 0);
            file.write_at(0, &start)?;
            file.sync()?;
            self.disk
                .rename(&free_name(spare.number), &log_name(number))?;
            self.disk.sync_dir()?;
            Ok(file)
        });
        let file = self.done(begun, || format!("begin {}", log_name(number)))?;
        let segment = Segment {
            bytes: spare.bytes,
            ..Segment::default()
        };
        let buffer = std::mem::take(&mut self.buffer);
        self.writer = Some(Writer::new(number, file.clone(), spare.bytes, buffer));
        let mut shared = lock(&self.shared);
        shared.state.segments.insert(number, segment);
        shared.files.insert(number, file);
        Ok(())
    }

    pub(crate) fn sync_files(&mut self) -> Result<(), StoreError> {
        self.alive()?;
        let unsynced = std::mem::take(&mut self.unsynced);
        let mut is_synced = false;
        for (number, file) in unsynced {
            let synced = file.sync();
            self.done(synced, || format!("sync {}", log_name(number)))?;
            is_synced = true;
        }
        self.synced = self.end;
        if let Some(writer) = &self.writer {
            self.synced = writer.end();
            if self.is_dirty {
                let (number, synced) = (writer.number, writer.file.sync());
                self.done(synced, || format!("sync {}", log_name(number)))?;
                self.is_dirty = false;
                is_synced = true;
            }
        }
        self.counts.syncs += u64::from(is_synced);
        Ok(())
    }
}

impl<D: Disk> fmt::Debug for Log<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("options", &self.options)
            .field("counts", &self.counts)
            .field("poison", &self.poison)
            .finish_non_exhaustive()
    }
}

/// Octets that a record of the log's own needs at most.
pub(crate) fn own_bound(head: &[u8], body: Option<usize>) -> u64 {
    let body = body.map_or(0, |len| len + BODY_SUM as usize);
    // It may begin a batch.
    need(head.len(), body) + u64::from(BATCH)
}

/// Adds the messages of a fact and takes it in.
fn write_fact<F: DiskFile>(
    writer: &mut Writer<F>,
    state: &mut State,
    vhost: u32,
    lsn: u64,
    fact: &Fact,
    place: &mut Place,
) {
    match fact {
        Fact::Published {
            message,
            user,
            at,
            places,
        } => {
            writer.put_body(&time_octets(at.0), message.block());
            let body = body_of(message, *at, user);
            let places = places.iter().map(|(queue, seq)| (queue.0, seq.0));
            state.publish(vhost, body, places, *place);
            place.pass(body.bytes);
        }
        Fact::Settled { queue, seq } => state.settle(vhost, queue.0, &[(seq.0, seq.0)]),
        Fact::Purged { queue, places } => {
            for (first, last) in places {
                state.settle(vhost, queue.0, &[(first.0, last.0)]);
            }
        }
        Fact::MayDeliver { queue, through } => state.may_deliver(vhost, queue.0, through.0),
        Fact::Retried { queue, retries } => state.retried(vhost, queue.0, retries),
        Fact::Together(facts) => {
            for fact in facts {
                write_fact(writer, state, vhost, lsn, fact, place);
            }
        }
        _ => state.define(vhost, lsn, fact.clone()),
    }
}

/// Locks what readers look at. Nobody panics while holding it; if they did, it is still whole.
pub(crate) fn lock<F>(shared: &Mutex<Shared<F>>) -> MutexGuard<'_, Shared<F>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

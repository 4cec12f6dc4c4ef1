//! What the commit thread does: it takes what was appended, writes it, syncs, and reports; and what
//! it does while there is no room.
//!
//! There is no timer in it: a batch is what came while the one before was made safe, and what those
//! still bring who are about to run on this processor. Reports are made with no lock held.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use leveret_core::ids::Lsn;
use leveret_core::log::{LogError, Report, Watcher};

use crate::disk::Disk;
use crate::error::StoreError;
use crate::log::{Log, Staged, VhostNumber};
use crate::relief::Late;
use crate::store::{LeadRequest, Led, Shared, Staging, bytes_of, closed, lock};

/// While there is no room, it is tried again this often at least.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// There is hardly room when what is left is this many times what was staged at once, and a part of
/// a segment: so what comes while publishers are being stopped can be written, and nothing that
/// others wait for has to wait behind it.
const STAGED_AHEAD: u64 = 2;
const SEGMENT_PART_AHEAD: u64 = 4;

/// How often others go first while a pile grows, see [`Committer::let_others_bring`].
const YIELDS_MAX: u32 = 2;

/// A pile longer than this is given back once it is written.
const PILE_KEPT: usize = 64 << 10;

/// What the commit thread does.
pub(crate) struct Committer<D: Disk> {
    log: Log<D>,
    shared: Arc<Shared>,
    /// By pile.
    vhosts: Vec<Leader>,
    /// What was taken and is not safe, by pile.
    batch: Vec<Staged>,
    /// Octets of it.
    bytes: u64,
    /// Octets of what has just become safe.
    committed: u64,
    segment_bytes: u64,
    is_full: bool,
    /// There was no room for something in this turn, whatever the disk says of itself.
    was_refused: bool,
}

/// A vhost that is led.
struct Leader {
    number: VhostNumber,
    watcher: Arc<dyn Watcher>,
    /// The last record that was taken.
    taken: Lsn,
    /// The last that was reported.
    reported: Lsn,
    /// What waits for room and holds nothing up.
    late: Late,
}

/// What there is to do next.
pub(crate) struct Taken {
    leads: Vec<LeadRequest>,
    is_closing: bool,
    is_eager: bool,
}

/// What came of a turn.
pub(crate) enum Turn {
    /// Whether there is more to do, even if nothing new comes.
    Done { more: bool },
    /// All is written, and the log is to be closed.
    Over,
}

impl<D: Disk> Committer<D> {
    pub(crate) fn new(log: Log<D>, shared: Arc<Shared>, segment_bytes: u64) -> Self {
        Self {
            log,
            shared,
            vhosts: Vec::new(),
            batch: Vec::new(),
            bytes: 0,
            committed: 0,
            segment_bytes,
            is_full: false,
            was_refused: false,
        }
    }

    /// Turn after turn until the log is closed or nothing can be written any more.
    pub(crate) fn run(mut self) -> Result<(), StoreError> {
        let result = self.work();
        let result = match result {
            Ok(()) => self.log.close(),
            Err(error) => Err(error),
        };
        let error = match &result {
            Ok(()) => closed(),
            Err(error) => LogError::Unknown(error.to_string()),
        };
        let leads = {
            let mut staging = lock(&self.shared.staging);
            staging.lost = Some(error.clone());
            staging.piles.clear();
            std::mem::take(&mut staging.leads)
        };
        if result.is_err() {
            for vhost in &self.vhosts {
                vhost.watcher.report(Report::Lost(error.clone()));
            }
        }
        for lead in leads {
            let _ = lead.answer.send(Err(error.clone()));
        }
        result
    }

    fn work(&mut self) -> Result<(), StoreError> {
        // A log that was just opened may need something, too.
        let mut more = true;
        loop {
            let taken = self.take(more);
            match self.turn(taken)? {
                Turn::Over => return Ok(()),
                Turn::Done { more: has_more } => more = has_more,
            }
            if self.committed > 0 {
                self.let_others_bring();
            }
        }
    }

    /// All there is to do about what was taken: the thread does nothing else.
    pub(crate) fn turn(&mut self, taken: Taken) -> Result<Turn, StoreError> {
        self.log.compact_eagerly(taken.is_eager);
        self.committed = 0;
        self.see_to_late();
        self.was_refused = false;
        if self.is_stuck() || self.batch.iter().any(|staged| !staged.records.is_empty()) {
            self.commit()?;
        }
        // After what the one who led before had appended.
        for lead in taken.leads {
            self.lead(lead)?;
        }
        if taken.is_closing && !self.is_stuck() && self.write_late()? {
            return Ok(Turn::Over);
        }
        let more = self.log.housekeep()?;
        self.watch_room()?;
        if taken.is_closing && !more {
            return Err(StoreError::Full);
        }
        self.shared.metrics.counted(&self.log.counts());
        let more = more || self.has_late() && !self.is_full;
        Ok(Turn::Done { more })
    }

    /// Lets threads that are ready go first: a sync that wakes us does so before they have read what
    /// has arrived meanwhile, and one more sync for few records costs them more time than it saves.
    ///
    /// Where a processor is free nobody is ready and this does nothing. It does nothing either when
    /// there is no record to wait with, so that the first one to come is written at once.
    fn let_others_bring(&self) {
        let mut before = 0;
        for _ in 0..YIELDS_MAX {
            let waiting = self.shared.staged_bytes.load(Relaxed);
            if waiting == before {
                return;
            }
            before = waiting;
            thread::yield_now();
        }
    }

    /// Has publishers stopped while there is still room for what they have sent until then.
    fn watch_room(&mut self) -> Result<(), StoreError> {
        if self.is_stuck() {
            return Ok(());
        }
        let staged = self.committed + self.shared.staged_bytes.load(Relaxed);
        let ahead = STAGED_AHEAD * staged + self.segment_bytes / SEGMENT_PART_AHEAD;
        let left = self.log.room_left()?;
        if !self.is_full && left < ahead {
            self.is_full = true;
            self.report_full();
        } else if self.is_full && !self.was_refused && left >= 2 * ahead && self.log.has_room()? {
            self.is_full = false;
            self.report_full();
        }
        Ok(())
    }

    /// Whether something was taken that could not be written.
    fn is_stuck(&self) -> bool {
        self.bytes > 0
    }

    /// Takes all that is there; waits for something unless there is more to do anyway.
    pub(crate) fn take(&mut self, more: bool) -> Taken {
        let mut staging = lock(&self.shared.staging);
        let was_eager = self.log.is_eager();
        let is_idle = |staging: &Staging| {
            let is_empty = staging.piles.iter().all(|pile| pile.records.is_empty());
            let is_news = staging.is_closing || staging.is_eager != was_eager;
            is_empty && staging.leads.is_empty() && !is_news
        };
        if !more {
            let wait = (self.is_full || self.is_stuck()).then(|| Instant::now() + TRY_AGAIN);
            while is_idle(&staging) {
                staging.is_waiting = true;
                staging = match wait {
                    None => self.shared.wake.wait(staging),
                    Some(until) => {
                        let left = until.saturating_duration_since(Instant::now());
                        if left.is_zero() {
                            break;
                        }
                        let waited = self.shared.wake.wait_timeout(staging, left);
                        waited
                            .map(|(staging, _)| staging)
                            .map_err(|error| PoisonError::new(error.into_inner().0))
                    }
                }
                .unwrap_or_else(PoisonError::into_inner);
            }
            staging.is_waiting = false;
        }
        for (staged, pile) in self.batch.iter_mut().zip(&mut staging.piles) {
            if staged.records.is_empty() {
                std::mem::swap(&mut staged.records, &mut pile.records);
            } else {
                staged.records.append(&mut pile.records);
            }
        }
        Taken {
            leads: std::mem::take(&mut staging.leads),
            is_closing: staging.is_closing,
            is_eager: staging.is_eager,
        }
    }

    fn lead(&mut self, request: LeadRequest) -> Result<(), StoreError> {
        let (number, recovered) = match self.log.lead(&request.vhost) {
            Ok(led) => led,
            Err(StoreError::Full) => {
                let error = LogError::Unavailable(StoreError::Full.to_string());
                let _ = request.answer.send(Err(error));
                return Ok(());
            }
            Err(error) => {
                let unknown = LogError::Unknown(error.to_string());
                let _ = request.answer.send(Err(unknown));
                return Err(error);
            }
        };
        let led = Leader {
            number,
            watcher: Arc::clone(&request.watcher),
            taken: recovered.last,
            reported: recovered.last,
            late: Late::default(),
        };
        let before = self.vhosts.iter().position(|led| led.number == number);
        let pile = before.unwrap_or(self.vhosts.len());
        match self.vhosts.get_mut(pile) {
            Some(slot) => *slot = led,
            None => {
                self.vhosts.push(led);
                let staged = Staged {
                    vhost: number,
                    records: Vec::new(),
                };
                self.batch.push(staged.clone());
                lock(&self.shared.staging).piles.push(staged);
            }
        }
        if self.is_full {
            request.watcher.report(Report::Full(true));
        }
        let _ = request.answer.send(Ok(Led {
            number,
            pile,
            recovered,
        }));
        Ok(())
    }

    /// Writes what was taken and makes it safe; if there is no room, only what frees some.
    fn commit(&mut self) -> Result<(), StoreError> {
        let mut records = 0;
        self.bytes = self.batch_bytes();
        for (vhost, staged) in self.vhosts.iter_mut().zip(&self.batch) {
            records += staged.records.len() as u64;
            if let Some(last) = staged.records.last() {
                vhost.taken = vhost.taken.max(last.lsn);
            }
        }
        match self.log.append(&self.batch) {
            Ok(()) => {
                self.log.sync()?;
                self.shared.metrics.records.fetch_add(records, Relaxed);
                for (vhost, staged) in self.vhosts.iter_mut().zip(&self.batch) {
                    vhost.late.forget(&staged.records);
                }
                // First, or a turn that the report sets off would find the log behind for nothing.
                self.clear_batch();
                self.report_durable();
                Ok(())
            }
            Err(StoreError::Full) => self.relieve(),
            Err(error) => Err(error),
        }
    }

    /// What is safe now: everything that was taken of vhosts of which nothing is left in the batch.
    fn report_durable(&mut self) {
        for (vhost, staged) in self.vhosts.iter_mut().zip(&self.batch) {
            if staged.records.is_empty() && vhost.reported < vhost.taken {
                vhost.reported = vhost.taken;
                vhost.watcher.report(Report::Durable(vhost.taken));
            }
        }
    }

    fn clear_batch(&mut self) {
        for staged in &mut self.batch {
            staged.records.clear();
            if staged.records.capacity() > PILE_KEPT {
                staged.records = Vec::new();
            }
        }
        self.shared.staged_bytes.fetch_sub(self.bytes, Relaxed);
        self.committed = std::mem::take(&mut self.bytes);
    }

    /// There is no room: what frees some goes first. Its vhost hears of it once everything before
    /// it is safe, too; but for what is late, for which nobody waits.
    fn relieve(&mut self) -> Result<(), StoreError> {
        self.was_refused = true;
        if !self.is_full {
            self.is_full = true;
            self.report_full();
        }
        let mut relief = Vec::new();
        for (vhost, staged) in self.vhosts.iter_mut().zip(&mut self.batch) {
            vhost.late.take_from(&mut staged.records);
            relief.push(Staged {
                vhost: staged.vhost,
                records: self.log.extract_relief(staged.vhost, &mut staged.records),
            });
        }
        if relief.iter().any(|staged| !staged.records.is_empty()) {
            match self.log.append(&relief) {
                Ok(()) => {
                    self.log.sync()?;
                    for (vhost, staged) in self.vhosts.iter_mut().zip(&relief) {
                        vhost.late.forget(&staged.records);
                    }
                }
                Err(StoreError::Full) => {
                    // Not even the reserve is left: they wait with the others, in their order.
                    for (staged, relief) in self.batch.iter_mut().zip(&mut relief) {
                        staged.records.append(&mut relief.records);
                        staged.records.sort_by_key(|record| record.lsn);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        let left = self.batch_bytes();
        let gone = self.bytes.saturating_sub(left);
        self.shared.staged_bytes.fetch_sub(gone, Relaxed);
        self.bytes = left;
        self.report_durable();
        Ok(())
    }

    /// While there is hardly room, what is late goes on waiting, and with it what is later of its
    /// kind; then it goes before that.
    fn see_to_late(&mut self) {
        if !self.has_late() {
            return;
        }
        let before = self.batch_bytes();
        for (vhost, staged) in self.vhosts.iter_mut().zip(&mut self.batch) {
            if let Some(last) = staged.records.last() {
                vhost.taken = vhost.taken.max(last.lsn);
            }
            if self.is_full {
                vhost.late.take_from(&mut staged.records);
            } else {
                vhost.late.put_before(&mut staged.records);
            }
        }
        let after = self.batch_bytes();
        let staged_bytes = &self.shared.staged_bytes;
        staged_bytes.fetch_add(after.saturating_sub(before), Relaxed);
        staged_bytes.fetch_sub(before.saturating_sub(after), Relaxed);
        self.report_durable();
    }

    /// At the end nothing can be late: it may take the last room there is. False if there is none.
    fn write_late(&mut self) -> Result<bool, StoreError> {
        if !self.has_late() {
            return Ok(true);
        }
        for (vhost, staged) in self.vhosts.iter_mut().zip(&mut self.batch) {
            vhost.late.put_before(&mut staged.records);
        }
        let written = self.log.append_from_reserve(&self.batch);
        if written == Err(StoreError::Full) {
            for (vhost, staged) in self.vhosts.iter_mut().zip(&mut self.batch) {
                vhost.late.take_from(&mut staged.records);
            }
            return Ok(false);
        }
        for staged in &mut self.batch {
            staged.records.clear();
        }
        written.map(|()| true)
    }

    fn has_late(&self) -> bool {
        self.vhosts.iter().any(|vhost| !vhost.late.is_empty())
    }

    fn batch_bytes(&self) -> u64 {
        let parts = self.batch.iter();
        parts.map(|staged| bytes_of(&staged.records)).sum()
    }

    fn report_full(&self) {
        let full = u64::from(self.is_full);
        self.shared.metrics.full.store(full, Relaxed);
        for vhost in &self.vhosts {
            vhost.watcher.report(Report::Full(self.is_full));
        }
    }
}

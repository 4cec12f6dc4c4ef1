//! The log with its threads, as the server uses it.
//!
//! Whoever leads a vhost puts records on a pile. The commit thread takes all that is there, writes
//! it, syncs, and reports; meanwhile the next pile grows. There is no timer in it: a batch is what
//! came while the one before was made safe, and what those still bring who are about to run on this
//! processor. Reports are made with no lock held.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use leveret_core::Record;
use leveret_core::ids::Lsn;
use leveret_core::log::{
    Fetch, Journal, Lead, Log as VhostLog, LogError, Recovered, Report, Swap, Swapped, Watcher,
};

use crate::disk::Disk;
use crate::error::StoreError;
use crate::fetch::Reader;
use crate::log::{Cut, Log, Opened, Staged, VhostNumber};
use crate::metrics::Metrics;
use crate::options::Options;
use crate::record::bodies_of;
use crate::relief::Late;
use crate::swap::{Area, merge};

/// While there is no room, it is tried again this often at least.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// There is hardly room when what is left is this many times what was staged at once, and a part of
/// a segment: so what comes while publishers are being stopped can be written, and nothing that
/// others wait for has to wait behind it.
const STAGED_AHEAD: u64 = 2;
const SEGMENT_PART_AHEAD: u64 = 4;

/// Octets that a record counts for beside its messages.
const RECORD_BYTES: u64 = size_of::<Record>() as u64;

/// Octets of records that may wait to be written before publishers are better not read from: what
/// a slow disk takes a while to write.
const STAGED_BYTES_MAX: u64 = 64 << 20;

/// How often others go first while a pile grows, see [`Committer::let_others_bring`].
const YIELDS_MAX: u32 = 2;

/// A pile longer than this is given back once it is written.
const PILE_KEPT: usize = 64 << 10;

/// The log with its commit thread and its fetch thread.
#[derive(Debug)]
pub struct Store {
    shared: Arc<Shared>,
    fetches: Sender<Request>,
    swaps: Option<Sender<SwapRequest>>,
    threads: Mutex<Threads>,
    cut: Option<Cut>,
}

/// What the threads share.
#[derive(Debug)]
struct Shared {
    staging: Mutex<Staging>,
    wake: Condvar,
    staged_bytes: AtomicU64,
    metrics: Metrics,
}

/// What waits for the commit thread.
#[derive(Debug, Default)]
struct Staging {
    /// Records by vhost; the place of a vhost in it never changes.
    piles: Vec<Staged>,
    leads: Vec<LeadRequest>,
    is_closing: bool,
    /// It is a good time to compact.
    is_eager: bool,
    /// The commit thread waits to be woken.
    is_waiting: bool,
    /// Nothing more is taken.
    lost: Option<LogError>,
}

struct LeadRequest {
    vhost: String,
    watcher: Arc<dyn Watcher>,
    answer: Sender<Result<Led, LogError>>,
}

struct Led {
    number: VhostNumber,
    /// Place of its pile.
    pile: usize,
    recovered: Recovered,
}

enum Request {
    Fetch(VhostNumber, Fetch, Arc<dyn Watcher>),
    Stop,
}

enum SwapRequest {
    Swap(VhostNumber, Swap, Arc<dyn Watcher>),
    /// The vhost is led anew.
    Forget(VhostNumber),
    Stop,
}

#[derive(Debug)]
enum Threads {
    Running {
        committing: JoinHandle<Result<(), StoreError>>,
        fetching: JoinHandle<()>,
        swapping: Option<JoinHandle<()>>,
    },
    Ended(Result<(), StoreError>),
}

impl Store {
    /// Opens the log and starts its threads.
    ///
    /// # Errors
    /// As for [`Log::open`]; `Io` if there can be no more threads.
    pub fn open<D: Disk>(disk: D, options: Options) -> Result<Self, StoreError> {
        Self::open_with(disk, None, options)
    }

    /// The same with a swap area in another directory, of which nothing that is there is kept.
    ///
    /// # Errors
    /// As for [`Store::open`].
    pub fn open_with_swap<D: Disk>(disk: D, swap: D, options: Options) -> Result<Self, StoreError> {
        let area = Area::open(swap, options.free_bytes_min);
        let area = area.map_err(|error| StoreError::io("empty the swap area", &error))?;
        Self::open_with(disk, Some(Arc::new(area)), options)
    }

    fn open_with<D: Disk>(
        disk: D,
        area: Option<Arc<Area<D>>>,
        options: Options,
    ) -> Result<Self, StoreError> {
        let begun = Instant::now();
        let segment_bytes = options.segment_bytes;
        let Opened {
            log, cut, messages, ..
        } = Log::open(disk, options)?;
        let shared = Arc::new(Shared {
            staging: Mutex::new(Staging::default()),
            wake: Condvar::new(),
            staged_bytes: AtomicU64::new(0),
            metrics: Metrics::default(),
        });
        let cut_bytes = cut.as_ref().map_or(0, |cut| cut.bytes);
        shared.metrics.opened(begun.elapsed(), messages, cut_bytes);
        shared.metrics.counted(&log.counts());
        let (fetches, requests) = mpsc::channel();
        let reader = log.reader();
        let spawn = |name: &str| thread::Builder::new().name(name.to_owned());
        let failed = |error| StoreError::io("start a thread", &error);
        let swapped = area.clone();
        let fetching = spawn("log-fetch")
            .spawn(move || answer_fetches(&reader, swapped.as_deref(), &requests))
            .map_err(failed)?;
        let (swaps, requests) = mpsc::channel();
        let swaps = area.is_some().then_some(swaps);
        let counts = Arc::clone(&shared);
        let swapping = area
            .map(|area| spawn("swap").spawn(move || obey_swaps(&area, &requests, &counts.metrics)));
        let swapping = swapping.transpose().map_err(|error| {
            let _ = fetches.send(Request::Stop);
            failed(error)
        })?;
        let committer = Committer {
            log,
            shared: Arc::clone(&shared),
            vhosts: Vec::new(),
            batch: Vec::new(),
            bytes: 0,
            committed: 0,
            segment_bytes,
            is_full: false,
        };
        let committing = spawn("log").spawn(move || committer.run());
        let committing = committing.map_err(|error| {
            let _ = fetches.send(Request::Stop);
            if let Some(swaps) = &swaps {
                let _ = swaps.send(SwapRequest::Stop);
            }
            failed(error)
        })?;
        Ok(Self {
            shared,
            fetches,
            swaps,
            threads: Mutex::new(Threads::Running {
                committing,
                fetching,
                swapping,
            }),
            cut,
        })
    }

    /// What was cut off the end of the log when it was opened.
    #[must_use]
    pub fn cut(&self) -> Option<&Cut> {
        self.cut.as_ref()
    }

    /// Octets of records that wait to be safe.
    #[must_use]
    pub fn staged_bytes(&self) -> u64 {
        self.shared.staged_bytes.load(Relaxed)
    }

    /// Counters.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Says whether this is a good time to compact; see [`Log::compact_eagerly`].
    pub fn compact_eagerly(&self, eager: bool) {
        lock(&self.shared.staging).is_eager = eager;
        self.shared.wake.notify_one();
    }

    /// Writes everything, a checkpoint, and ends the threads. What is appended from now on is
    /// forgotten. A second call says what came of the first.
    ///
    /// # Errors
    /// As for [`Log::close`].
    pub fn close(&self) -> Result<(), StoreError> {
        lock(&self.shared.staging).is_closing = true;
        self.shared.wake.notify_one();
        let mut threads = lock(&self.threads);
        let running = std::mem::replace(&mut *threads, Threads::Ended(Ok(())));
        let result = match running {
            Threads::Ended(result) => result,
            Threads::Running {
                committing,
                fetching,
                swapping,
            } => {
                let result = committing.join();
                let _ = self.fetches.send(Request::Stop);
                let _ = fetching.join();
                if let (Some(swaps), Some(swapping)) = (&self.swaps, swapping) {
                    let _ = swaps.send(SwapRequest::Stop);
                    let _ = swapping.join();
                }
                let panicked = || std::io::Error::other("the commit thread panicked");
                result.unwrap_or_else(|_| Err(StoreError::io("close the log", &panicked())))
            }
        };
        *threads = Threads::Ended(result.clone());
        result
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Whoever wants to know closes it.
        let _ = self.close();
    }
}

impl Journal for Store {
    fn lead(&self, vhost: &str, watcher: Arc<dyn Watcher>) -> Result<Lead, LogError> {
        let (answer, answered) = mpsc::channel();
        {
            let mut staging = lock(&self.shared.staging);
            if let Some(error) = &staging.lost {
                return Err(error.clone());
            }
            if staging.is_closing {
                return Err(closed());
            }
            staging.leads.push(LeadRequest {
                vhost: vhost.to_owned(),
                watcher: Arc::clone(&watcher),
                answer,
            });
        }
        self.shared.wake.notify_one();
        let led = answered.recv().map_err(|_| closed())??;
        if let Some(swaps) = &self.swaps {
            let _ = swaps.send(SwapRequest::Forget(led.number));
        }
        Ok(Lead {
            recovered: led.recovered,
            log: Box::new(Pile {
                shared: Arc::clone(&self.shared),
                fetches: self.fetches.clone(),
                swaps: self.swaps.clone(),
                number: led.number,
                pile: led.pile,
                watcher,
            }),
        })
    }
}

/// The log of one vhost.
struct Pile {
    shared: Arc<Shared>,
    fetches: Sender<Request>,
    swaps: Option<Sender<SwapRequest>>,
    number: VhostNumber,
    pile: usize,
    watcher: Arc<dyn Watcher>,
}

impl VhostLog for Pile {
    fn append(&mut self, records: &mut Vec<Record>) -> Option<Lsn> {
        let bytes = bytes_of(records);
        let mut staging = lock(&self.shared.staging);
        if staging.lost.is_some() || staging.is_closing {
            records.clear();
            return None;
        }
        if let Some(pile) = staging.piles.get_mut(self.pile) {
            // Before it can be taken and counted as done.
            self.shared.staged_bytes.fetch_add(bytes, Relaxed);
            pile.records.append(records);
        }
        let is_waiting = std::mem::take(&mut staging.is_waiting);
        drop(staging);
        if is_waiting {
            self.shared.wake.notify_one();
        }
        None
    }

    fn is_behind(&self) -> bool {
        // While there is no room, other means stop publishers, and the rest has to go on.
        let is_full = self.shared.metrics.full.load(Relaxed) != 0;
        let most = if is_full {
            4 * STAGED_BYTES_MAX
        } else {
            STAGED_BYTES_MAX
        };
        self.shared.staged_bytes.load(Relaxed) > most
    }

    fn fetch(&mut self, fetch: Fetch) {
        let watcher = Arc::clone(&self.watcher);
        // After the end nobody waits for an answer.
        let _ = self
            .fetches
            .send(Request::Fetch(self.number, fetch, watcher));
    }

    fn swap(&mut self, swap: Swap) {
        if let Some(swaps) = &self.swaps {
            let watcher = Arc::clone(&self.watcher);
            let _ = swaps.send(SwapRequest::Swap(self.number, swap, watcher));
        }
    }
}

fn answer_fetches<D: Disk>(
    reader: &Reader<D>,
    area: Option<&Area<D>>,
    requests: &Receiver<Request>,
) {
    while let Ok(Request::Fetch(vhost, fetch, watcher)) = requests.recv() {
        let swapped = area.and_then(|area| area.fetch(vhost.0, fetch));
        let fetched = match swapped {
            None => reader.fetch(vhost, fetch),
            Some(swapped) => {
                let logged = reader.fetch_some(vhost, fetch);
                merge(logged, swapped, fetch.bytes_max)
            }
        };
        watcher.report(Report::Fetched(fetched));
    }
}

fn obey_swaps<D: Disk>(area: &Area<D>, requests: &Receiver<SwapRequest>, metrics: &Metrics) {
    loop {
        let request = requests.recv().unwrap_or(SwapRequest::Stop);
        match request {
            SwapRequest::Swap(vhost, Swap::Forget { queue, runs }, _) => {
                area.forget(vhost.0, queue, &runs);
            }
            SwapRequest::Forget(vhost) => area.forget_vhost(vhost.0),
            SwapRequest::Stop => {
                area.clear();
                return;
            }
            SwapRequest::Swap(vhost, swap, watcher) => {
                let Swap::Out {
                    queue,
                    messages,
                    bytes,
                } = swap
                else {
                    continue;
                };
                let result = area.write(vhost.0, queue, &messages);
                let counter = match &result {
                    Ok(()) => &metrics.swapped,
                    Err(_) => &metrics.swaps_failed,
                };
                counter.fetch_add(
                    if result.is_ok() {
                        messages.len() as u64
                    } else {
                        1
                    },
                    Relaxed,
                );
                drop(messages); // before the turn that lets go of them
                let error = result.err();
                watcher.report(Report::Swapped(Swapped {
                    queue,
                    bytes,
                    error,
                }));
            }
        }
        area.tidy();
        area.count(metrics);
    }
}

/// The commit thread.
struct Committer<D: Disk> {
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
struct Taken {
    leads: Vec<LeadRequest>,
    is_closing: bool,
    is_eager: bool,
}

impl<D: Disk> Committer<D> {
    fn run(mut self) -> Result<(), StoreError> {
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
            self.log.compact_eagerly(taken.is_eager);
            self.committed = 0;
            self.see_to_late();
            if self.is_stuck() || self.batch.iter().any(|staged| !staged.records.is_empty()) {
                self.commit()?;
            }
            // After what the one who led before had appended.
            for lead in taken.leads {
                self.lead(lead)?;
            }
            if taken.is_closing && !self.is_stuck() && self.write_late()? {
                return Ok(());
            }
            more = self.log.housekeep()?;
            self.watch_room()?;
            if taken.is_closing && !more {
                return Err(StoreError::Full);
            }
            more |= self.has_late() && !self.is_full;
            self.shared.metrics.counted(&self.log.counts());
            if self.committed > 0 {
                self.let_others_bring();
            }
        }
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
        } else if self.is_full && left >= 2 * ahead && self.log.has_room()? {
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
    fn take(&mut self, more: bool) -> Taken {
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

fn bytes_of(records: &[Record]) -> u64 {
    let bytes = records.iter().map(|record| bodies_of(&record.fact) as u64);
    bytes.sum::<u64>() + records.len() as u64 * RECORD_BYTES
}

fn closed() -> LogError {
    LogError::Unavailable("the log is closed".to_owned())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for LeadRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeadRequest")
            .field("vhost", &self.vhost)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for SwapRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SwapRequest")
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Request")
    }
}

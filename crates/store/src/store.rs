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
use std::time::Instant;

use leveret_core::Record;
use leveret_core::ids::Lsn;
use leveret_core::log::{
    Fetch, Journal, Lead, Log as VhostLog, LogError, Recovered, Report, Swap, Swapped, Watcher,
};

use crate::committer::Committer;
use crate::disk::Disk;
use crate::error::StoreError;
use crate::fetch::Reader;
use crate::log::{Cut, Log, Opened, Staged, VhostNumber};
use crate::metrics::Metrics;
use crate::options::Options;
use crate::record::bodies_of;
use crate::swap::{Area, merge};

/// Octets that a record counts for beside its messages.
const RECORD_BYTES: u64 = size_of::<Record>() as u64;

/// Octets of records that may wait to be written before publishers are better not read from: what
/// a slow disk takes a while to write.
const STAGED_BYTES_MAX: u64 = 64 << 20;

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
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) staging: Mutex<Staging>,
    pub(crate) wake: Condvar,
    pub(crate) staged_bytes: AtomicU64,
    pub(crate) metrics: Metrics,
}

impl Shared {
    /// Has the committer end once everything is written.
    pub(crate) fn close(&self) {
        lock(&self.staging).is_closing = true;
        self.wake.notify_one();
    }

    /// Asks the committer for the lead of a vhost.
    pub(crate) fn ask_for_lead(
        &self,
        vhost: &str,
        watcher: &Arc<dyn Watcher>,
    ) -> Result<Receiver<Result<Led, LogError>>, LogError> {
        let (answer, answered) = mpsc::channel();
        let mut staging = lock(&self.staging);
        if let Some(error) = &staging.lost {
            return Err(error.clone());
        }
        if staging.is_closing {
            return Err(closed());
        }
        staging.leads.push(LeadRequest {
            vhost: vhost.to_owned(),
            watcher: Arc::clone(watcher),
            answer,
        });
        drop(staging);
        self.wake.notify_one();
        Ok(answered)
    }
}

/// What waits for the commit thread.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    /// Records by vhost; the place of a vhost in it never changes.
    pub(crate) piles: Vec<Staged>,
    pub(crate) leads: Vec<LeadRequest>,
    pub(crate) is_closing: bool,
    /// It is a good time to compact.
    pub(crate) is_eager: bool,
    /// The commit thread waits to be woken.
    pub(crate) is_waiting: bool,
    /// Nothing more is taken.
    pub(crate) lost: Option<LogError>,
}

pub(crate) struct LeadRequest {
    pub(crate) vhost: String,
    pub(crate) watcher: Arc<dyn Watcher>,
    pub(crate) answer: Sender<Result<Led, LogError>>,
}

pub(crate) struct Led {
    pub(crate) number: VhostNumber,
    /// Place of its pile.
    pub(crate) pile: usize,
    pub(crate) recovered: Recovered,
}

impl Led {
    pub(crate) fn into_lead(
        self,
        shared: &Arc<Shared>,
        fetches: Sender<Request>,
        swaps: Option<Sender<SwapRequest>>,
        watcher: Arc<dyn Watcher>,
    ) -> Lead {
        Lead {
            recovered: self.recovered,
            log: Box::new(Pile {
                shared: Arc::clone(shared),
                fetches,
                swaps,
                number: self.number,
                pile: self.pile,
                watcher,
            }),
        }
    }
}

pub(crate) enum Request {
    Fetch(VhostNumber, Fetch, Arc<dyn Watcher>),
    Stop,
}

pub(crate) enum SwapRequest {
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
        let shared = Arc::new(Shared::default());
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
        let committer = Committer::new(log, Arc::clone(&shared), segment_bytes);
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
        self.shared.close();
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
        let answered = self.shared.ask_for_lead(vhost, &watcher)?;
        let led = answered.recv().map_err(|_| closed())??;
        if let Some(swaps) = &self.swaps {
            let _ = swaps.send(SwapRequest::Forget(led.number));
        }
        let (fetches, swaps) = (self.fetches.clone(), self.swaps.clone());
        Ok(led.into_lead(&self.shared, fetches, swaps, watcher))
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

pub(crate) fn bytes_of(records: &[Record]) -> u64 {
    let bytes = records.iter().map(|record| bodies_of(&record.fact) as u64);
    bytes.sum::<u64>() + records.len() as u64 * RECORD_BYTES
}

pub(crate) fn closed() -> LogError {
    LogError::Unavailable("the log is closed".to_owned())
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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

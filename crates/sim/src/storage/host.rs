//! One machine: a disk, the log on it, and the model of what it should hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use leveret_core::ids::QueueId;
use leveret_core::log::{Fetch, Recovered};
use leveret_core::{Fact, Lsn, Message, QueueNumber, Record, Seq, Wall};
use leveret_store::{Log, Opened, Options, Reader, Staged, StoreError, VhostNumber};

use super::disk::SimDisk;
use super::judge::{Found, judge};
use super::mistakes::Mistake;
use super::model::{Model, VHOSTS};
use crate::model::Tally;

/// Steps of housekeeping after which it has to be done.
const HOUSEKEEPING_MAX: usize = 20_000;

/// Why a machine has stopped.
#[derive(Clone, Debug, PartialEq)]
pub enum Trouble {
    /// The power is gone.
    Power,
    /// What was made to fail has failed.
    Fault(StoreError),
    /// The log has done something wrong.
    Wrong(String),
}

/// Whether a batch was taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Taken {
    /// Yes.
    Written,
    /// No: the disk is full.
    Full,
}

/// What was safe and what was staged at some time.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Before this operation of the disk.
    pub operations: u64,
    /// What the log should hold, as far as [`judge`] asks.
    pub model: Model,
}

/// A machine.
#[derive(Debug)]
pub struct Host {
    /// Its disk.
    pub disk: SimDisk,
    /// What should be on it.
    pub model: Model,
    /// How the log is to be.
    pub options: Options,
    /// What has happened.
    pub tally: Tally,
    /// A mistake that is made.
    pub mistake: Option<Mistake>,
    /// If wanted: every change of what may be found after a crash.
    pub timeline: Option<Vec<Mark>>,
    /// Print what happens.
    pub trace: bool,
    /// Whether something was cut off the log when it was opened.
    pub was_cut: bool,
    log: Option<Log<SimDisk>>,
    numbers: [VhostNumber; VHOSTS.len()],
}

impl Host {
    /// A machine that is not running.
    #[must_use]
    pub fn new(disk: SimDisk, model: Model, options: Options) -> Self {
        Self {
            disk,
            model,
            options,
            tally: BTreeMap::new(),
            mistake: None,
            timeline: None,
            trace: false,
            was_cut: false,
            log: None,
            numbers: Default::default(),
        }
    }

    /// Counts something.
    pub fn count(&mut self, what: &'static str, n: u64) {
        *self.tally.entry(what).or_default() += n;
    }

    /// Prints what happens, if somebody wants to know.
    pub fn say(&self, what: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("[{}] {}", self.disk.operations(), what());
        }
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.log.is_some()
    }

    /// Ends the process without a word.
    pub fn stop(&mut self) {
        let Some(log) = self.log.take() else {
            return;
        };
        let counts = log.counts();
        self.count("octets moved", counts.bytes_moved);
        self.count("left out", counts.left_out);
    }

    /// Opens the log, compares what is there with the model, and reads every message.
    ///
    /// # Errors
    /// [`Trouble`]: it does not run then.
    pub fn open(&mut self) -> Result<(), Trouble> {
        let found = self.look()?;
        let states = judge(&self.model, &found).map_err(|why| {
            self.log = None;
            Trouble::Wrong(format!("recovered: {why}"))
        })?;
        let messages: usize = states.iter().map(super::model::State::depth).sum();
        self.count("messages recovered", messages as u64);
        let lost = self.model.pending.iter().flat_map(|batch| batch.iter());
        let lost: u64 = lost
            .map(|(vhost, records)| {
                let last = states[*vhost].last;
                records.iter().filter(|record| record.lsn > last).count() as u64
            })
            .sum();
        self.count("unreported records lost", lost);
        let kept = states.iter().zip(self.model.safe.iter());
        let kept: u64 = kept.map(|(now, safe)| now.last.0 - safe.last.0).sum();
        self.count("unreported records kept", kept);
        self.model.found(states);
        self.mark();
        self.check_all()
    }

    /// Opens the log, and says what is in it.
    ///
    /// # Errors
    /// [`Trouble`]: it does not run then.
    pub fn look(&mut self) -> Result<Found, Trouble> {
        self.stop();
        let opened = Log::open(self.disk.clone(), self.options.clone());
        let Opened { mut log, cut, .. } = opened.map_err(|e| self.trouble("open", e))?;
        let mut found = Found::default();
        for (n, name) in VHOSTS.iter().enumerate() {
            let (number, recovered) = log.lead(name).map_err(|e| self.trouble("lead", e))?;
            self.numbers[n] = number;
            found[n] = recovered;
        }
        self.say(|| {
            let of = |r: &Recovered| format!("{:?} of {} queues", r.last, r.queues.len());
            format!("opened: {:?}, cut {cut:?}", found.each_ref().map(of))
        });
        self.count("opened", 1);
        self.was_cut = cut.is_some();
        self.count("cut", u64::from(self.was_cut));
        self.log = Some(log);
        Ok(found)
    }

    /// Writes the next batch.
    ///
    /// # Errors
    /// [`Trouble`]
    pub fn write(&mut self) -> Result<Taken, Trouble> {
        if self.model.open.is_empty() {
            return Ok(Taken::Written);
        }
        let batch = self.model.written();
        self.mark();
        let staged: Vec<_> = batch
            .iter()
            .map(|(vhost, records)| Staged {
                vhost: self.numbers[*vhost],
                records: Mistake::spoil(self.mistake, records),
            })
            .collect();
        let records: u64 = batch.iter().map(|(_, records)| records.len() as u64).sum();
        self.say(|| format!("writes {records} records: {}", summary(&batch)));
        let log = self.running()?;
        let left = log
            .room_left()
            .map_err(|e| Trouble::Wrong(format!("room: {e}")))?;
        let fits = is_sure_to_fit(&staged, left, self.options.segment_bytes);
        let log = self.running()?;
        match log.write(staged) {
            Ok(()) => {
                self.count("records", records);
                if self.mistake == Some(Mistake::EarlyReport) {
                    self.model.synced();
                    self.mark();
                }
                Ok(Taken::Written)
            }
            Err(StoreError::Full) if fits && !self.disk.has_failed() => Err(Trouble::Wrong(
                format!("full, though there was room for {left} octets"),
            )),
            Err(StoreError::Full) => {
                self.say(|| "full".to_owned());
                self.count("full", 1);
                self.model.refused();
                self.mark();
                Ok(Taken::Full)
            }
            Err(error) => Err(self.trouble("write", error)),
        }
    }

    /// Syncs, and takes note of what is safe then.
    ///
    /// # Errors
    /// [`Trouble`]
    pub fn sync(&mut self) -> Result<(), Trouble> {
        let reported = self.running()?.sync();
        let reported = reported.map_err(|e| self.trouble("sync", e))?;
        self.say(|| format!("synced: {reported:?}"));
        let mut expected = self.model.last_pending();
        for (number, lsn) in reported {
            let Some(n) = self.numbers.iter().position(|of| *of == number) else {
                return Err(Trouble::Wrong(format!("{number:?} is no vhost")));
            };
            let last = expected.remove(&n).unwrap_or(self.model.safe[n].last);
            if lsn != last {
                return Err(Trouble::Wrong(format!(
                    "vhost '{}': {lsn:?} is reported safe, {last:?} was written last",
                    VHOSTS[n]
                )));
            }
            self.count("reports", 1);
        }
        if let (Some((n, lsn)), None) = (expected.pop_first(), self.mistake) {
            let name = VHOSTS[n];
            return Err(Trouble::Wrong(format!(
                "vhost '{name}': {lsn:?} was synced and not reported"
            )));
        }
        self.model.synced();
        self.mark();
        Ok(())
    }

    /// One step of housekeeping; true if there is more to do.
    ///
    /// # Errors
    /// [`Trouble`]
    pub fn housekeep(&mut self) -> Result<bool, Trouble> {
        let more = self.running()?.housekeep();
        let more = more.map_err(|e| self.trouble("keep house", e))?;
        self.say(|| format!("keeps house, more: {more}"));
        self.count("steps of housekeeping", 1);
        Ok(more)
    }

    /// Housekeeping until there is nothing to do.
    ///
    /// # Errors
    /// [`Trouble`]; also if it never ends.
    pub fn tidy(&mut self) -> Result<(), Trouble> {
        for _ in 0..HOUSEKEEPING_MAX {
            if !self.housekeep()? {
                return Ok(());
            }
        }
        Err(Trouble::Wrong("housekeeping never ends".to_owned()))
    }

    /// Ends as one should. All that was written is safe then.
    ///
    /// # Errors
    /// [`Trouble`]
    pub fn close(&mut self) -> Result<(), Trouble> {
        self.running()?;
        let Some(log) = self.log.take() else {
            return Ok(());
        };
        let counts = log.counts();
        self.count("octets moved", counts.bytes_moved);
        self.count("left out", counts.left_out);
        match log.close() {
            Ok(()) | Err(StoreError::Full) => {}
            Err(error) => return Err(self.trouble("close", error)),
        }
        self.say(|| "closed".to_owned());
        self.count("closed", 1);
        self.model.synced();
        self.mark();
        Ok(())
    }

    /// After something has failed: whether the log has understood that it is over.
    ///
    /// # Errors
    /// If it says anything else.
    pub fn check_poisoned(&mut self) -> Result<(), Trouble> {
        let Some(log) = &mut self.log else {
            return Ok(());
        };
        let record = Record {
            lsn: Lsn(self.model.now[0].last.0 + 1),
            fact: Fact::ExchangeDeleted { name: "x".into() },
        };
        let staged = vec![Staged {
            vhost: self.numbers[0],
            records: vec![record],
        }];
        let said = match (log.sync(), log.write(staged), log.sync(), log.housekeep()) {
            (Err(_), Err(_), Err(_), Err(_)) => return Ok(()),
            said => format!("{said:?}"),
        };
        Err(Trouble::Wrong(format!(
            "after a failure, sync, write, sync and housekeeping say {said}"
        )))
    }

    /// Reads every message there must be, and compares octets.
    ///
    /// # Errors
    /// [`Trouble`]
    pub fn check_all(&mut self) -> Result<(), Trouble> {
        for vhost in 0..VHOSTS.len() {
            let queues: Vec<_> = self.model.safe[vhost].queues.keys().copied().collect();
            for queue in queues {
                let last = self.model.now[vhost].queues.get(&queue).map(|q| q.last);
                let mut first = 1;
                while let Some(next) =
                    self.fetch(vhost, queue, (first, last.unwrap_or_default()), 1 << 20)?
                {
                    first = next;
                }
            }
        }
        Ok(())
    }

    /// Reads every message there must be by itself; says how many cannot be read.
    ///
    /// # Errors
    /// [`Trouble`]
    pub fn read_each(&mut self) -> Result<u64, Trouble> {
        let mut unreadable = 0;
        for vhost in 0..VHOSTS.len() {
            let queues = self.model.safe[vhost].queues.iter();
            let places: Vec<(QueueNumber, u64)> = queues
                .flat_map(|(number, queue)| queue.messages.keys().map(|seq| (*number, *seq)))
                .collect();
            for (number, seq) in places {
                let fetch = fetch(number, seq, seq, 0);
                let reader = self.running()?.reader();
                let fetched = reader.fetch(self.numbers[vhost], fetch);
                if fetched.error.is_some() && fetched.messages.is_empty() {
                    unreadable += 1;
                    continue;
                }
                let checked = self.check_fetched(vhost, &fetch, &fetched.messages);
                checked.map_err(|why| Trouble::Wrong(format!("queue {number}: {why}")))?;
            }
        }
        Ok(unreadable)
    }

    /// Reads messages of a queue and compares their octets. Says where to go on if not all of
    /// them came.
    ///
    /// # Errors
    /// [`Trouble`]
    pub fn fetch(
        &mut self,
        vhost: usize,
        number: QueueNumber,
        (first, last): (u64, u64),
        bytes_max: usize,
    ) -> Result<Option<u64>, Trouble> {
        let fetch = fetch(number, first, last, bytes_max);
        let reader: Reader<SimDisk> = self.running()?.reader();
        let fetched = reader.fetch(self.numbers[vhost], fetch);
        if let Some(error) = fetched.error {
            return Err(if self.disk.is_off() {
                Trouble::Power
            } else if self.disk.has_failed() {
                Trouble::Fault(StoreError::Full)
            } else {
                Trouble::Wrong(format!("queue {number}: fetched: {error}"))
            });
        }
        self.count("messages read", fetched.messages.len() as u64);
        let checked = self.check_fetched(vhost, &fetch, &fetched.messages);
        checked.map_err(|why| Trouble::Wrong(format!("queue {number}: {why}")))
    }

    fn check_fetched(
        &self,
        vhost: usize,
        fetch: &Fetch,
        messages: &[(Seq, Message, Option<Wall>)],
    ) -> Result<Option<u64>, String> {
        let none = BTreeMap::new();
        let of = |states: &super::model::States| -> BTreeMap<u64, Message> {
            let queue = states[vhost].queues.get(&fetch.number);
            let all = queue.map_or(&none, |queue| &queue.messages);
            let range = all.range(fetch.first.0..=fetch.last.0.max(fetch.first.0));
            range.map(|(seq, m)| (*seq, m.clone())).collect()
        };
        let (safe, now) = (of(&self.model.safe), of(&self.model.now));
        let (mut end, mut bytes) = (0, 0);
        for (seq, message, _) in messages {
            if seq.0 <= end {
                return Err(format!("fetched {seq} after {end}"));
            }
            end = seq.0;
            bytes += message.block().len();
            match now.get(&seq.0).or_else(|| safe.get(&seq.0)) {
                None => return Err(format!("fetched {seq}, which is not there")),
                Some(expected) if expected != message => {
                    return Err(format!("fetched {seq}: {message:?} for {expected:?}"));
                }
                Some(_) => {}
            }
        }
        let fetched = |seq: &u64| messages.binary_search_by_key(seq, |(s, ..)| s.0).is_ok();
        let expected = safe.keys().filter(|seq| now.contains_key(seq));
        let mut missing = expected.filter(|seq| !fetched(seq));
        match missing.next() {
            None => Ok(None),
            Some(seq) if *seq < end => Err(format!("fetched {end} and not {seq}")),
            Some(seq) if messages.is_empty() => Err(format!("{seq} is not fetched")),
            // Not more than is enough, except the first one.
            Some(seq) if bytes + safe[seq].block().len() <= fetch.bytes_max => Err(format!(
                "fetched no more than {bytes} octets of {}",
                fetch.bytes_max
            )),
            Some(seq) => Ok(Some(*seq)),
        }
    }

    fn running(&mut self) -> Result<&mut Log<SimDisk>, Trouble> {
        let stopped = || Trouble::Wrong("not running".to_owned());
        self.log.as_mut().ok_or_else(stopped)
    }

    fn trouble(&self, doing: &str, error: StoreError) -> Trouble {
        self.say(|| format!("{doing}: {error}"));
        if self.disk.is_off() {
            Trouble::Power
        } else if self.disk.has_failed() {
            Trouble::Fault(error)
        } else {
            Trouble::Wrong(format!("{doing}: {error}"))
        }
    }

    fn mark(&mut self) {
        let operations = self.disk.operations();
        if let Some(timeline) = &mut self.timeline {
            timeline.push(Mark {
                operations,
                model: Model {
                    safe: Arc::clone(&self.model.safe),
                    pending: self.model.pending.clone(),
                    ..Model::default()
                },
            });
        }
    }
}

fn fetch(number: QueueNumber, first: u64, last: u64, bytes_max: usize) -> Fetch {
    Fetch {
        queue: QueueId::default(),
        number,
        first: Seq(first),
        last: Seq(last),
        bytes_max,
    }
}

fn summary(batch: &super::model::Batch) -> String {
    let mut words = Vec::new();
    for (vhost, records) in batch {
        for Record { lsn, fact } in records {
            words.push(format!("{vhost}:{}:{}", lsn.0, short(fact)));
        }
    }
    words.join(" ")
}

fn short(fact: &Fact) -> String {
    match fact {
        Fact::Published {
            message, places, ..
        } => {
            let places: Vec<_> = places.iter().map(|(q, s)| format!("{q}/{s}")).collect();
            format!("p{}({})", places.join("+"), message.body_len())
        }
        Fact::Settled { queue, seq } => format!("s{queue}/{seq}"),
        Fact::Purged { queue, places } => format!("purge{queue}{places:?}"),
        Fact::MayDeliver { queue, through } => format!("may{queue}/{through}"),
        Fact::Retried { queue, retries } => format!("again{queue}/{}", retries.len()),
        Fact::Together(facts) => {
            let facts: Vec<_> = facts.iter().map(short).collect();
            format!("[{}]", facts.join(","))
        }
        Fact::QueueDeclared { name, .. } => format!("+queue {name}"),
        Fact::QueueDeleted { name, queue } => format!("-queue {name}={queue}"),
        Fact::ExchangeDeclared { name, .. } => format!("+exchange {name}"),
        Fact::ExchangeDeleted { name } => format!("-exchange {name}"),
        Fact::Bound(b) => format!("+{}>{}", b.source, b.destination),
        Fact::Unbound(b) => format!("-{}>{}", b.source, b.destination),
        Fact::Noted(n) => format!("note {:?} {}", n.key, n.value.is_some()),
    }
}

/// Whether records need so little of the room that is left that what is lost at the ends of segments
/// is no matter.
fn is_sure_to_fit(staged: &[Staged], left: u64, segment_bytes: u64) -> bool {
    let octets = |record: &Record| match &record.fact {
        Fact::Together(facts) => facts.iter().map(octets_of).sum(),
        fact => octets_of(fact),
    };
    let records = staged.iter().flat_map(|part| &part.records);
    let records: Vec<u64> = records.map(octets).collect();
    let longest = records.iter().max().copied().unwrap_or(0);
    4 * records.iter().sum::<u64>() <= left && longest <= segment_bytes / 4
}

/// More than a record of this takes.
fn octets_of(fact: &Fact) -> u64 {
    const BESIDE: u64 = 256;
    BESIDE
        + match fact {
            Fact::Published {
                message, places, ..
            } => message.block().len() as u64 + 20 * places.len() as u64,
            Fact::Purged { places, .. } => 20 * places.len() as u64,
            _ => 0,
        }
}

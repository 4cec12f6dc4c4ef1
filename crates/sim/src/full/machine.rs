//! One machine: a disk, the committer on it, two vhosts that append, and what they are told.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use leveret_core::Record;
use leveret_core::log::{Lead, Recovered, Report, Watcher};
use leveret_store::{Disk, Log, Options, Stepped};

use super::mistakes::Mistake;
use super::model::Expected;
use crate::dice::Dice;
use crate::model::Tally;
use crate::storage::disk::SimDisk;
use crate::storage::host::Trouble;
use crate::storage::image::Crash;

/// Vhosts that there are.
pub const VHOSTS: [&str; 2] = ["v", "w"];

/// Remembers what it hears.
#[derive(Default)]
struct Ear(Mutex<Vec<Report>>);

impl Watcher for Ear {
    fn report(&self, report: Report) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(report);
    }
}

/// A machine.
pub struct Machine {
    /// Its disk.
    pub disk: SimDisk,
    /// How the log is to be.
    pub options: Options,
    /// What should be on the disk.
    pub expected: [Expected; VHOSTS.len()],
    /// Whether the vhosts were told that there is hardly room.
    pub is_full: bool,
    /// Starts since there was room.
    pub starts: u32,
    /// Room was taken away since the last turn.
    pub is_shrunk: bool,
    /// What has happened.
    pub tally: Tally,
    /// A mistake that is made.
    pub mistake: Option<Mistake>,
    /// Print what happens.
    pub trace: bool,
    running: Option<Running>,
}

/// The process.
struct Running {
    store: Stepped<SimDisk>,
    vhosts: Vec<(Lead, Arc<Ear>)>,
    /// What a mistake holds back, by vhost.
    held: [Vec<Record>; VHOSTS.len()],
}

impl Machine {
    /// A machine that is not running.
    #[must_use]
    pub fn new(disk: SimDisk, options: Options) -> Self {
        Self {
            disk,
            options,
            expected: Default::default(),
            is_full: false,
            starts: 0,
            is_shrunk: false,
            tally: Tally::new(),
            mistake: None,
            trace: false,
            running: None,
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
        self.running.is_some()
    }

    /// Octets of what was taken and could not be written.
    #[must_use]
    pub fn stuck_bytes(&self) -> u64 {
        let running = self.running.as_ref();
        running.map_or(0, |running| running.store.staged_bytes())
    }

    /// Opens the log and leads the vhosts: what is found is judged.
    ///
    /// # Errors
    /// [`Trouble`]: it does not run then.
    pub fn open(&mut self) -> Result<(), Trouble> {
        let opened = Stepped::open(self.disk.clone(), self.options.clone());
        let mut store = opened.map_err(|error| self.trouble("open", &error))?;
        self.is_full = false;
        self.is_shrunk = true;
        let mut vhosts = Vec::new();
        for (name, n) in VHOSTS.iter().zip(0..) {
            let ear = Arc::new(Ear::default());
            let watcher = Arc::clone(&ear) as Arc<dyn Watcher>;
            let lead = store.lead(name, watcher);
            let mut lead = lead.map_err(|error| self.trouble("lead", &error))?;
            let found = mem::take(&mut lead.recovered);
            self.judge(n, &found, false)?;
            self.expected[n].found(&found);
            vhosts.push((lead, ear));
        }
        self.count("opened", 1);
        self.running = Some(Running {
            store,
            vhosts,
            held: Default::default(),
        });
        self.listen(false)?;
        self.count("opened while full", u64::from(self.is_full));
        self.say(|| format!("opened, full: {}", self.is_full));
        Ok(())
    }

    /// A vhost appends records.
    pub fn append(&mut self, n: usize, records: Vec<Record>) {
        self.say(|| {
            let lsns: Vec<_> = records
                .iter()
                .map(|record| (record.lsn.0, &record.fact))
                .collect();
            let mut text = format!("{} appends {lsns:?}", VHOSTS[n]);
            text.truncate(2_000);
            text
        });
        self.count("records", records.len() as u64);
        let (mistake, is_full) = (self.mistake, self.is_full);
        if let Some(running) = &mut self.running {
            let mut records = Mistake::spoil(mistake, records, &mut running.held[n], is_full);
            running.vhosts[n].0.log.append(&mut records);
        }
    }

    /// The committer takes a turn; true if it has more to do.
    ///
    /// # Errors
    /// [`Trouble`]
    pub fn turn(&mut self) -> Result<bool, Trouble> {
        let was_full = self.is_full;
        let staged = self.stuck_bytes();
        let Some(running) = &mut self.running else {
            return Err(Trouble::Wrong("it is not running".into()));
        };
        let result = running.store.turn();
        let more = result.map_err(|error| self.trouble("turn", &error))?;
        self.listen(was_full)?;
        let stuck = self.stuck_bytes();
        self.say(|| format!("turn, more: {more}, full: {}, stuck: {stuck}", self.is_full));
        self.count("turns", 1);
        self.count("turns while full", u64::from(self.is_full));
        self.count("turns with something stuck", u64::from(stuck > 0));
        if stuck > 0 && !self.is_full {
            return Err(Trouble::Wrong(
                "something is stuck and nobody was told".into(),
            ));
        }
        let is_fair = !was_full && !self.is_shrunk && staged <= self.options.segment_bytes / 8;
        if stuck > 0 && is_fair {
            return Err(Trouble::Wrong(
                "something is stuck, and nobody was told before".into(),
            ));
        }
        self.is_shrunk = false;
        if !self.is_full {
            self.starts = 0;
        }
        Ok(more)
    }

    /// Turns until there is nothing to do.
    ///
    /// # Errors
    /// [`Trouble`]; also if it never ends.
    pub fn tidy(&mut self) -> Result<(), Trouble> {
        for _ in 0..10_000 {
            if !self.turn()? {
                return Ok(());
            }
        }
        Err(Trouble::Wrong("there is always more to do".into()))
    }

    /// What a power cut would leave of the disk now: each settle of a message that was safe must
    /// have been written, as long as the reserve lasts.
    ///
    /// # Errors
    /// [`Trouble`]
    pub fn probe(&mut self, dice: &mut Dice) -> Result<(), Trouble> {
        let disk = self.disk.crashed(Crash::Lost, dice);
        let opened = Log::open(disk, self.options.clone());
        let mut log = opened
            .map_err(|error| Trouble::Wrong(format!("probe: {error}")))?
            .log;
        // Each start takes of the reserve, and a power cut may.
        let settled = self.starts == 0;
        for (n, name) in VHOSTS.iter().enumerate() {
            let led = log.lead(name);
            let (_, found) = led.map_err(|error| Trouble::Wrong(format!("probe: {error}")))?;
            self.judge(n, &found, settled)?;
        }
        self.count("probes", 1);
        Ok(())
    }

    /// Ends as one should; whether everything could be written.
    ///
    /// # Errors
    /// [`Trouble`]
    pub fn close(&mut self) -> Result<bool, Trouble> {
        let Some(running) = self.running.take() else {
            return Ok(true);
        };
        match running.store.close() {
            Ok(()) => {
                for expected in &mut self.expected {
                    expected.safe = expected.last;
                    expected.solid = expected.last;
                }
                self.count("closed while full", u64::from(self.is_full));
                Ok(true)
            }
            Err(leveret_store::StoreError::Full) => {
                self.count("closed with something stuck", 1);
                Ok(false)
            }
            Err(error) => Err(self.trouble("close", &error)),
        }
    }

    /// The process is gone, and the power has been.
    pub fn crash(&mut self, crash: Crash, dice: &mut Dice) {
        self.say(|| format!("crash: {crash:?}"));
        self.count("crashes", 1);
        self.count("crashes while full", u64::from(self.is_full));
        self.count(
            "crashes with something stuck",
            u64::from(self.stuck_bytes() > 0),
        );
        self.running = None;
        let capacity = self.capacity();
        self.disk = self.disk.crashed(crash, dice);
        self.disk.set_capacity(capacity);
    }

    /// Octets that the disk has room for in all.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        let free = self.disk.free_bytes().unwrap_or_default();
        free.saturating_add(self.disk.used())
    }

    /// Hears what was reported.
    fn listen(&mut self, was_full: bool) -> Result<(), Trouble> {
        let Some(running) = &self.running else {
            return Ok(());
        };
        let mut said = Vec::new();
        let all = running
            .vhosts
            .iter()
            .map(|(_, ear)| mem::take(&mut *ear.0.lock().unwrap_or_else(PoisonError::into_inner)));
        let all: Vec<_> = all.collect();
        for (n, reports) in all.into_iter().enumerate() {
            let mut is_full = self.is_full;
            for report in reports {
                match report {
                    Report::Durable(lsn) => {
                        let expected = &mut self.expected[n];
                        if lsn.0 <= expected.safe || lsn.0 > expected.last {
                            return Err(Trouble::Wrong(format!(
                                "{lsn:?} is safe, after {} and of {}",
                                expected.safe, expected.last
                            )));
                        }
                        expected.safe = lsn.0;
                        self.count("reports", 1);
                        self.count("reports while full", u64::from(is_full));
                    }
                    Report::Full(false) if self.mistake == Some(Mistake::FullForEver) => {}
                    Report::Full(full) if full == is_full => {
                        return Err(Trouble::Wrong(format!("full is {full} again")));
                    }
                    Report::Full(full) => is_full = full,
                    other => return Err(Trouble::Wrong(format!("{other:?}"))),
                }
            }
            said.push(is_full);
        }
        if said.iter().any(|full| *full != said[0]) {
            return Err(Trouble::Wrong("not everybody was told".into()));
        }
        self.count("told that it is full", u64::from(!self.is_full && said[0]));
        self.count(
            "told that there is room",
            u64::from(self.is_full && !said[0]),
        );
        self.is_full = said[0];
        for expected in &mut self.expected {
            if self.is_full && self.mistake == Some(Mistake::ReportedEarly) {
                expected.safe = expected.last;
            }
            // While there was room all the time, retries were written with everything else.
            if !self.is_full && !was_full {
                expected.solid = expected.safe;
            }
        }
        Ok(())
    }

    fn judge(&self, n: usize, found: &Recovered, settled: bool) -> Result<(), Trouble> {
        let judged = self.expected[n].judge(found, settled);
        judged.map_err(|why| Trouble::Wrong(format!("vhost {}: {why}", VHOSTS[n])))
    }

    fn trouble(&self, doing: &str, error: &dyn std::fmt::Display) -> Trouble {
        if self.disk.is_off() {
            Trouble::Power
        } else {
            Trouble::Wrong(format!("{doing}: {error}"))
        }
    }
}

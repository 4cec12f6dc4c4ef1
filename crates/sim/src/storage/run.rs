//! A run: traffic, housekeeping, power cuts, and everything settled in the end. A seed decides.

use std::panic::{AssertUnwindSafe, catch_unwind};

use leveret_core::QueueNumber;
use leveret_store::{Disk, Options, scan};

use super::disk::{Op, SimDisk};
use super::host::{Host, Taken, Trouble};
use super::image::Crash;
use super::mistakes::Mistake;
use super::model::{Model, VHOSTS};
use super::traffic::{Mood, Traffic};
use crate::batch::Failure;
use crate::dice::Dice;
use crate::model::Tally;

/// Steps of a run, before everything is settled.
pub const STEPS: usize = 140;

/// How a run is to be.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Decides everything.
    pub seed: u64,
    /// A mistake that is made.
    pub mistake: Option<Mistake>,
    /// No power cut, and no limit of room.
    pub calm: bool,
    /// Print what happens.
    pub trace: bool,
}

/// Runs it. What was done, and whether all was well.
pub fn run(setup: &Setup) -> (Tally, Result<(), Failure>) {
    let mut run = Run::new(setup);
    let mut step = 0;
    let result = guarded(|| run.all(&mut step));
    let result = result.map_err(|what| Failure {
        replay: format!("storage --seed {}", setup.seed),
        what: format!("seed {}, step {step}: {what}", setup.seed),
    });
    let mut tally = run.host.tally;
    for (what, op) in [
        ("renames", Op::Rename),
        ("files made", Op::Create),
        ("syncs", Op::Sync),
    ] {
        *tally.entry(what).or_default() += run.host.disk.count(op);
    }
    (tally, result)
}

/// Makes an error of a panic.
///
/// # Errors
/// Those of the function, and its panics.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, Trouble>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(Trouble::Wrong(why))) => Err(why),
        Ok(Err(trouble)) => Err(format!("{trouble:?}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("panic: {}", text.unwrap_or("of some kind")))
        }
    }
}

/// Small segments and steps, so that everything happens often.
#[must_use]
pub fn options(dice: &mut Dice) -> Options {
    Options {
        segment_bytes: dice.one_of(&[8, 16, 16, 32, 64]) << 10,
        free_bytes_min: 0,
        step_bytes: dice.one_of(&[1, 4, 64]) << 10,
        checkpoint_bytes: dice.one_of(&[8, 32, 128]) << 10,
    }
}

/// A run, as far as it has got.
pub(super) struct Run {
    pub(super) host: Host,
    pub(super) traffic: Traffic,
    pub(super) dice: Dice,
    calm: bool,
    limited: bool,
    /// How often it was started since there was room for two more segments.
    starts: u32,
    /// Steps for which only settles are written, because the disk was full.
    full: usize,
}

impl Run {
    pub(super) fn new(setup: &Setup) -> Self {
        let mut dice = Dice::new(setup.seed);
        let mut options = options(&mut dice);
        let disk = SimDisk::default();
        let limited = dice.chance(25) && !setup.calm;
        if limited {
            let segments = dice.between(6..=24);
            options.free_bytes_min = options.segment_bytes * dice.between(0..=4);
            disk.set_capacity(options.segment_bytes * segments + options.free_bytes_min);
        }
        Mistake::spoil_disk(setup.mistake, &disk);
        let traffic = Traffic::new(options.segment_bytes);
        let mut host = Host::new(disk, Model::default(), options);
        host.mistake = setup.mistake;
        host.trace = setup.trace;
        Self {
            host,
            traffic,
            dice,
            calm: setup.calm,
            limited,
            starts: 0,
            full: 0,
        }
    }

    fn all(&mut self, step: &mut usize) -> Result<(), Trouble> {
        self.host.say(|| format!("{:?}", self.host.options));
        self.start()?;
        while *step < STEPS {
            *step += 1;
            match self.step(*step) {
                Err(Trouble::Power) => self.crash()?,
                result => result?,
            }
        }
        loop {
            match self.finish() {
                Err(Trouble::Power) => self.crash()?,
                result => return result,
            }
        }
    }

    /// Opens the log, as often as the power goes meanwhile.
    pub(super) fn start(&mut self) -> Result<(), Trouble> {
        loop {
            self.starts += 1;
            if self.dice.chance(25) && !self.calm {
                let soon = self.dice.between(0..=20);
                self.power_off_in(soon);
            }
            match self.host.open() {
                Err(Trouble::Power) => {
                    self.host.count("crashes during recovery", 1);
                    self.image();
                }
                Err(trouble) => return Err(trouble),
                Ok(()) => break,
            }
        }
        if self.dice.chance(70) && !self.calm {
            let later = self.dice.between(1..=150);
            self.power_off_in(later);
        }
        Ok(())
    }

    fn power_off_in(&self, operations: u64) {
        let at = self.host.disk.operations() + operations;
        self.host.disk.power_off_at(at);
    }

    /// The disk after the power is back.
    fn image(&mut self) {
        let crash = self.dice.one_of(&Crash::ALL);
        self.host.say(|| format!("crash: {crash:?}"));
        self.host.stop();
        for (what, op) in [
            ("renames", Op::Rename),
            ("files made", Op::Create),
            ("syncs", Op::Sync),
        ] {
            let n = self.host.disk.count(op);
            self.host.count(what, n);
        }
        let capacity = self.host.disk.free_bytes().unwrap_or_default() + self.host.disk.used();
        self.host.disk = self.host.disk.crashed(crash, &mut self.dice);
        self.host.disk.set_capacity(capacity);
        Mistake::spoil_disk(self.host.mistake, &self.host.disk);
    }

    fn crash(&mut self) -> Result<(), Trouble> {
        self.host.count("crashes", 1);
        self.image();
        self.start()
    }

    pub(super) fn step(&mut self, step: usize) -> Result<(), Trouble> {
        if step % 35 == 1 {
            self.traffic.mood = self.dice.one_of(&[
                Mood::Steady,
                Mood::Steady,
                Mood::Fill,
                Mood::Drain,
                Mood::Churn,
            ]);
        }
        match self.dice.below(100) {
            0..50 => self.write(),
            50..74 => self.host.sync(),
            74..90 => {
                for _ in 0..self.dice.between(1..=6) {
                    self.host.housekeep()?;
                }
                Ok(())
            }
            90..97 => self.fetch(),
            97 => {
                self.host.sync()?;
                self.host.close()?;
                self.start()
            }
            98 if !self.calm => Err(Trouble::Power),
            _ => Ok(()),
        }
    }

    fn write(&mut self) -> Result<(), Trouble> {
        let mood = self.traffic.mood;
        if self.full > 0 {
            self.full -= 1;
            self.traffic.mood = Mood::OnlyDrain;
        }
        let count = if self.dice.chance(10) { 40 } else { 8 };
        for _ in 0..self.dice.between(1..=count) {
            self.traffic.act(&mut self.host.model, &mut self.dice);
        }
        let only_settles = self.traffic.mood == Mood::OnlyDrain;
        self.traffic.mood = mood;
        if self.host.write()? == Taken::Full {
            if !self.limited && !self.host.disk.has_failed() {
                return Err(Trouble::Wrong("full, with all the room there is".into()));
            }
            if only_settles && self.limited {
                return self.settles_wait();
            }
            self.full = 10;
        } else if self.host.disk.free_bytes().unwrap_or_default()
            >= self.host.options.free_bytes_min + 2 * self.host.options.segment_bytes
        {
            self.starts = 0;
        }
        Ok(())
    }

    /// Settles are refused. Starting again and again on a full disk may take all that is kept in
    /// reserve for them; then somebody has to make room, and all is well.
    fn settles_wait(&mut self) -> Result<(), Trouble> {
        if self.starts <= 2 {
            return Err(Trouble::Wrong("settles are refused".into()));
        }
        self.host.count("settles waited", 1);
        let capacity = self.host.disk.free_bytes().unwrap_or_default() + self.host.disk.used();
        let more = self.host.options.free_bytes_min + 8 * self.host.options.segment_bytes;
        self.host.disk.set_capacity(capacity + more);
        self.host.sync()?;
        self.host.tidy()?;
        for _ in 0..5 {
            self.traffic.mood = Mood::OnlyDrain;
            self.traffic.act(&mut self.host.model, &mut self.dice);
        }
        self.traffic.mood = Mood::Steady;
        if self.host.write()? == Taken::Full {
            return Err(Trouble::Wrong("settles are refused".into()));
        }
        Ok(())
    }

    fn fetch(&mut self) -> Result<(), Trouble> {
        let vhost = self.dice.below(VHOSTS.len());
        let queues = self.host.model.safe[vhost].queues.iter();
        let queues: Vec<(QueueNumber, u64)> = queues.map(|(n, q)| (*n, q.last)).collect();
        let Some(&(number, last)) = self.dice.pick(&queues) else {
            return Ok(());
        };
        let first = self.dice.between(1..=last.max(1));
        let last = self.dice.between(first..=last.max(first));
        let bytes_max = self.dice.one_of(&[0, 1, 1_000, 100_000]);
        self.host.fetch(vhost, number, (first, last), bytes_max)?;
        Ok(())
    }

    /// Everything is settled: the log gets small, and is found empty.
    pub(super) fn finish(&mut self) -> Result<(), Trouble> {
        if !self.host.is_running() {
            self.start()?;
        }
        self.host.sync()?;
        self.host.check_all()?;
        self.traffic.settle_all(&mut self.host.model);
        if self.host.write()? == Taken::Full {
            self.settles_wait()?;
            self.traffic.settle_all(&mut self.host.model);
        }
        if self.host.write()? == Taken::Full {
            return Err(Trouble::Wrong("the last settles are refused".into()));
        }
        self.host.sync()?;
        self.host.tidy()?;
        self.host.sync()?;
        self.host.tidy()?;
        let logs = self.host.disk.list().unwrap_or_default();
        let logs = logs.iter().filter(|name| name.ends_with(".log")).count();
        if logs > 2 {
            let why = format!("{logs} segments for empty queues");
            return Err(Trouble::Wrong(why));
        }
        self.host.close()?;
        for (_, content) in self.host.disk.files() {
            self.host.count("checkpoints", scan(&content).checkpoints);
        }
        self.host.open()
    }
}

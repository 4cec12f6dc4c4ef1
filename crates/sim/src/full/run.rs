//! A run: traffic, room that comes and goes, power cuts, and all settled in the end. A seed decides.

use super::machine::{Machine, VHOSTS};
use super::mistakes::Mistake;
use super::traffic::{Mood, records, settle_all};
use crate::batch::Failure;
use crate::dice::Dice;
use crate::model::Tally;
use crate::storage::disk::SimDisk;
use crate::storage::host::Trouble;
use crate::storage::image::Crash;
use crate::storage::run::{guarded, options};

/// Steps of a run, before everything is settled.
const STEPS: usize = 160;

/// How a run is to be.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Decides everything.
    pub seed: u64,
    /// A mistake that is made.
    pub mistake: Option<Mistake>,
    /// Print what happens.
    pub trace: bool,
}

/// Runs it. What was done, and whether all was well.
pub fn run(setup: &Setup) -> (Tally, Result<(), Failure>) {
    let mut run = Run::new(setup);
    let mut step = 0;
    let result = guarded(|| run.all(&mut step));
    let result = result.map_err(|what| Failure {
        replay: format!("full --seed {}", setup.seed),
        what: format!("seed {}, step {step}: {what}", setup.seed),
    });
    (run.machine.tally, result)
}

struct Run {
    machine: Machine,
    dice: Dice,
    /// Octets the disk has room for when nobody else uses it.
    capacity: u64,
}

impl Run {
    fn new(setup: &Setup) -> Self {
        let mut dice = Dice::new(setup.seed);
        let mut options = options(&mut dice);
        options.free_bytes_min = options.segment_bytes * dice.between(0..=2);
        let segments = dice.between(8..=14);
        let capacity = options.segment_bytes * segments + options.free_bytes_min;
        let disk = SimDisk::default();
        disk.set_capacity(capacity);
        let mut machine = Machine::new(disk, options);
        machine.mistake = setup.mistake;
        machine.trace = setup.trace;
        Self {
            machine,
            dice,
            capacity,
        }
    }

    fn all(&mut self, step: &mut usize) -> Result<(), Trouble> {
        self.machine.say(|| format!("{:?}", self.machine.options));
        self.start()?;
        while *step < STEPS {
            *step += 1;
            match self.step() {
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

    fn step(&mut self) -> Result<(), Trouble> {
        match self.dice.below(100) {
            0..45 => {
                self.append();
                Ok(())
            }
            45..80 => self.turn(),
            80..88 => {
                for _ in 0..self.dice.between(1..=8) {
                    self.turn()?;
                }
                Ok(())
            }
            88..91 => {
                self.shrink();
                Ok(())
            }
            91..94 => {
                self.machine.disk.set_capacity(self.capacity);
                Ok(())
            }
            94..96 => {
                self.machine.close()?;
                self.start()
            }
            96..98 => Err(Trouble::Power),
            _ => {
                let soon = self.machine.disk.operations() + self.dice.between(1..=40);
                self.machine.disk.power_off_at(soon);
                Ok(())
            }
        }
    }

    /// A vhost appends. Publishers that were told stop, but for what was under way.
    fn append(&mut self) {
        let n = self.dice.below(VHOSTS.len());
        let mood = if self.machine.is_full && !self.dice.chance(5) {
            Mood::Consumers
        } else {
            Mood::Everybody
        };
        self.append_of(n, mood);
    }

    fn append_of(&mut self, n: usize, mood: Mood) {
        let segment_bytes = self.machine.options.segment_bytes;
        let records = records(
            &mut self.machine.expected[n],
            mood,
            segment_bytes,
            &mut self.dice,
        );
        if !records.is_empty() {
            self.machine.append(n, records);
        }
    }

    fn turn(&mut self) -> Result<(), Trouble> {
        self.machine.turn()?;
        if self.machine.is_full && self.dice.chance(30) {
            self.machine.probe(&mut self.dice)?;
        }
        Ok(())
    }

    /// Somebody else uses the disk: nothing is left, or not much.
    fn shrink(&mut self) {
        let some = self.machine.options.segment_bytes * self.dice.between(0..=3);
        let left = if self.dice.chance(50) { 0 } else { some };
        let capacity = self.machine.disk.used() + left;
        self.machine.say(|| format!("room for {left} more"));
        self.machine.count("room taken away", 1);
        self.machine.disk.set_capacity(capacity);
        self.machine.is_shrunk = true;
    }

    fn crash(&mut self) -> Result<(), Trouble> {
        let crash = self.dice.one_of(&Crash::ALL);
        self.machine.crash(crash, &mut self.dice);
        self.start()
    }

    /// Opens the log, as often as the power goes meanwhile.
    fn start(&mut self) -> Result<(), Trouble> {
        loop {
            self.machine.starts += 1;
            if self.dice.chance(15) {
                let soon = self.machine.disk.operations() + self.dice.between(0..=20);
                self.machine.disk.power_off_at(soon);
            }
            match self.machine.open() {
                Err(Trouble::Power) => {
                    self.machine.count("crashes during recovery", 1);
                    let crash = self.dice.one_of(&Crash::ALL);
                    self.machine.crash(crash, &mut self.dice);
                }
                // A new vhost has no name in the log yet, and needs room for one.
                Err(Trouble::Wrong(why)) if why.starts_with("lead") && self.is_unnamed() => {
                    self.machine.disk.set_capacity(self.capacity);
                }
                result => return result,
            }
        }
    }

    fn is_unnamed(&self) -> bool {
        self.machine
            .expected
            .iter()
            .any(|expected| expected.safe == 0)
    }

    /// In the end everything that was taken is safe and publishers are told so: because there is
    /// room, or because everything is settled.
    fn finish(&mut self) -> Result<(), Trouble> {
        if !self.machine.is_running() {
            self.start()?;
        }
        let is_settled = self.dice.chance(50);
        let more = if is_settled && self.machine.starts <= 2 {
            0
        } else {
            self.capacity + (64 << 20)
        };
        self.machine.disk.set_capacity(self.capacity + more);
        self.machine.is_shrunk = true;
        if is_settled {
            self.settle_all();
        }
        self.settle_down()?;
        self.machine.count("all is safe", 1);
        self.machine
            .count("unblocked by settles", u64::from(is_settled));
        // What is found now is exactly that.
        let is_closed = self.dice.chance(50);
        if is_closed {
            self.machine.close()?;
        } else {
            self.machine.crash(Crash::Lost, &mut self.dice);
        }
        self.machine.open()
    }

    fn settle_all(&mut self) {
        for n in 0..VHOSTS.len() {
            let records = settle_all(&mut self.machine.expected[n]);
            if !records.is_empty() {
                self.machine.append(n, records);
            }
        }
    }

    /// Turns until nothing is left to do: then there is room, everybody knows, and all is safe.
    fn settle_down(&mut self) -> Result<(), Trouble> {
        self.machine.tidy()?;
        self.machine.tidy()?;
        self.machine.turn()?;
        let expected = self.machine.expected.iter();
        let unsafe_ones = expected
            .filter(|expected| expected.safe < expected.last)
            .count();
        let stuck = self.machine.stuck_bytes();
        if self.machine.is_full || stuck > 0 || unsafe_ones > 0 {
            return Err(Trouble::Wrong(format!(
                "there is room, but full: {}, stuck: {stuck}, vhosts that wait: {unsafe_ones}",
                self.machine.is_full
            )));
        }
        Ok(())
    }
}

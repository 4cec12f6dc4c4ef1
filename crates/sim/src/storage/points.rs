//! The power goes at every operation of a run, in every way.
//!
//! A run without a power cut is made once; its disk remembers what it was before each operation.
//! Every such disk, crashed in every way, is one image. Of some, recovery itself is crashed at
//! every one of its operations.

use std::mem;

use super::disk::SimDisk;
use super::host::{Host, Mark, Trouble};
use super::image::Crash;
use super::mistakes::Mistake;
use super::model::Model;
use super::run::{Run, STEPS, Setup, guarded};
use crate::batch::{Failure, add_up};
use crate::dice::Dice;
use crate::model::Tally;

/// Operations after which a run is long enough.
const OPERATIONS: u64 = 300;

/// Of so many images recovery is crashed once at each of its operations.
const RECOVERIES: u64 = 29;

/// A run to be crashed.
#[derive(Clone, Debug, Default)]
pub struct Points {
    /// Which run.
    pub seed: u64,
    /// Only at this operation.
    pub at: Option<u64>,
    /// A mistake that is made.
    pub mistake: Option<Mistake>,
    /// Print what happens.
    pub trace: bool,
}

/// Crashes it everywhere.
pub fn points(points: &Points) -> (Tally, Vec<Failure>) {
    let mut tally = Tally::new();
    let mut failures = Vec::new();
    let failure = |at: u64, what: String| Failure {
        replay: format!("storage --points --seed {} --at {at}", points.seed),
        what: format!("run {}, operation {at}: {what}", points.seed),
    };
    let (past, marks, run) = match record(points) {
        Ok(recorded) => recorded,
        Err(what) => return (tally, vec![failure(u64::MAX, what)]),
    };
    let mut marks = marks.into_iter().peekable();
    let mut model = Model::default();
    for (at, disk) in (0_u64..).zip(&past) {
        while let Some(mark) = marks.next_if(|mark| mark.operations <= at) {
            model = mark.model;
        }
        if points.at.is_some_and(|only| only != at) {
            continue;
        }
        for crash in Crash::ALL {
            let mut dice = Dice::new(points.seed ^ (at << 20) ^ ((crash as u64) << 50));
            let image = disk.crashed(crash, &mut dice);
            let mut host = Host::new(image, model.clone(), run.host.options.clone());
            host.trace = points.trace;
            host.say(|| format!("operation {at}, {crash:?}"));
            let result = guarded(|| recovered(&mut host, crash, at, &mut dice));
            add_up(&mut tally, mem::take(&mut host.tally));
            if let Err(what) = result {
                failures.push(failure(at, format!("{crash:?}: {what}")));
                if failures.len() >= 5 {
                    return (tally, failures);
                }
            }
        }
    }
    *tally.entry("operations crashed").or_default() += past.len() as u64;
    (tally, failures)
}

/// A run, the disks before each of its operations, and what was safe when.
fn record(points: &Points) -> Result<(Vec<SimDisk>, Vec<Mark>, Run), String> {
    let mut run = Run::new(&Setup {
        seed: points.seed,
        mistake: points.mistake,
        calm: true,
        trace: false,
    });
    run.host.disk.remember();
    run.host.timeline = Some(Vec::new());
    guarded(|| {
        run.start()?;
        for step in 1..=STEPS {
            if run.host.disk.operations() > OPERATIONS {
                return Ok(());
            }
            run.step(step)?;
        }
        run.finish()
    })?;
    let mut past = run.host.disk.past();
    past.push(run.host.disk.clone());
    let marks = run.host.timeline.take().unwrap_or_default();
    Ok((past, marks, run))
}

fn recovered(host: &mut Host, crash: Crash, at: u64, dice: &mut Dice) -> Result<(), Trouble> {
    let (image, model) = (host.disk.killed(), host.model.clone());
    let before = host.disk.operations();
    host.count("images", 1);
    host.open()?;
    let operations = host.disk.operations() - before;
    // What was found is safe, also if it had not been synced by the process before.
    if crash == Crash::Killed || dice.chance(10) {
        host.count("images", 1);
        host.count("lost after recovery", 1);
        host.disk = host.disk.crashed(Crash::Lost, dice);
        host.open()?;
    }
    let image_number = at * Crash::ALL.len() as u64 + crash as u64;
    if image_number.is_multiple_of(RECOVERIES) {
        for n in 0..operations {
            host.count("images", 1);
            host.count("crashes during recovery", 1);
            host.disk = image.killed();
            host.model = model.clone();
            host.disk.power_off_at(before + n);
            match host.open() {
                Err(Trouble::Power) => {}
                Err(trouble) => return Err(trouble),
                Ok(()) => return Err(Trouble::Wrong("opened without power".into())),
            }
            let again = dice.one_of(&Crash::ALL);
            host.say(|| format!("crash at operation {n} of recovery: {again:?}"));
            host.disk = host.disk.crashed(again, dice);
            host.open()?;
        }
    }
    Ok(())
}

//! Every operation of a run fails once.

use super::disk::{Fault, Op};
use super::host::Trouble;
use super::image::Crash;
use super::run::{Run, STEPS, Setup, guarded};
use crate::batch::{Failure, add_up};
use crate::dice::Dice;
use crate::model::Tally;

/// Operations after which a run is long enough.
const OPERATIONS: u64 = 250;

/// Steps after a failure, to see that the machine is well again.
const STEPS_AFTER: usize = 6;

/// A run in which something fails.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Which run.
    pub seed: u64,
    /// Only this fault.
    pub at: Option<u64>,
    /// Print what happens.
    pub trace: bool,
}

/// Makes every operation fail that there is.
pub fn faults(faults: &Faults) -> (Tally, Vec<Failure>) {
    let mut tally = Tally::new();
    let mut failures = Vec::new();
    for (n, fault) in (0_u64..).zip(all(faults.seed)) {
        if faults.at.is_some_and(|only| only != n) {
            continue;
        }
        let mut run = Run::new(&Setup {
            seed: faults.seed,
            calm: true,
            trace: faults.trace,
            ..Setup::default()
        });
        let mut dice = Dice::new(faults.seed ^ (n << 32));
        let mut step = 0;
        run.host.disk.fail(fault);
        let result = guarded(|| fails(&mut run, &mut step, &mut dice));
        add_up(&mut tally, run.host.tally);
        if let Err(what) = result {
            failures.push(Failure {
                replay: format!("storage --faults --seed {} --at {n}", faults.seed),
                what: format!("run {}, {fault:?}, step {step}: {what}", faults.seed),
            });
            if failures.len() >= 5 {
                break;
            }
        }
    }
    (tally, failures)
}

/// One fault for each operation that changes something, one for some of those that do not, and one
/// for each time that there might be no room.
fn all(seed: u64) -> Vec<Fault> {
    let mut run = Run::new(&Setup {
        seed,
        calm: true,
        ..Setup::default()
    });
    // What is wrong with the run itself is found in its turn, by the first fault.
    let _ = guarded(|| {
        run.start()?;
        for step in 1..=STEPS {
            if run.host.disk.operations() > OPERATIONS {
                break;
            }
            run.step(step)?;
        }
        Ok(())
    });
    let mut dice = Dice::new(seed);
    let disk = &run.host.disk;
    let changes = (0..disk.operations()).map(|nth| Fault {
        lasting: dice.chance(30),
        pages_kept: dice.chance(30),
        written_percent: dice.one_of(&[0, 30, 100]),
        ..Fault::nth(nth)
    });
    let mut all: Vec<_> = changes.collect();
    for nth in 0..disk.count(Op::Create) {
        for lasting in [false, true] {
            all.push(Fault {
                full: true,
                lasting,
                ..Fault::nth_of(Op::Create, nth)
            });
        }
    }
    for op in [Op::Read, Op::Open, Op::List] {
        for _ in 0..disk.count(op).min(20) {
            let nth = dice.below(disk.count(op) as usize) as u64;
            all.push(Fault::nth_of(op, nth));
        }
    }
    all
}

fn fails(run: &mut Run, step: &mut usize, dice: &mut Dice) -> Result<(), Trouble> {
    let mut result = run.start();
    while result.is_ok() && *step < STEPS && !struck(run) {
        *step += 1;
        result = run.step(*step);
    }
    let op = run.host.disk.failed();
    run.host.count("faults", 1);
    match (result, op) {
        (Err(Trouble::Fault(error)), Some(_)) => {
            run.host.say(|| format!("failed as it should: {error}"));
            run.host.count("failures seen", 1);
            if !matches!(op, Some(Op::Read | Op::Open | Op::List)) {
                run.host.check_poisoned()?;
                run.host.count("poisoned", 1);
            }
        }
        (Err(trouble), _) => return Err(trouble),
        (Ok(()), Some(op @ (Op::Write | Op::Truncate | Op::Sync | Op::SyncDir))) => {
            return Err(Trouble::Wrong(format!(
                "nobody notices that a {op:?} failed"
            )));
        }
        // A file that could not be made or renamed may be done without.
        (Ok(()), Some(_)) => run.host.count("done without", 1),
        (Ok(()), None) => run.host.count("never came to it", 1),
    }
    run.host.stop();
    // The next process may see pages that are on no disk after a failed sync: a machine whose power
    // stays on does that.
    let crash = if dice.chance(40) {
        Crash::Killed
    } else {
        dice.one_of(&Crash::ALL[..Crash::ALL.len() - 1])
    };
    run.host.say(|| format!("crash: {crash:?}"));
    run.host.disk = run.host.disk.crashed(crash, dice);
    run.host.open()?;
    if dice.chance(30) {
        run.host.say(|| "power lost after recovery".to_owned());
        run.host.disk = run.host.disk.crashed(Crash::Lost, dice);
        run.host.open()?;
    }
    for step in 1..STEPS_AFTER {
        run.step(step)?;
    }
    run.host.sync()?;
    run.host.check_all()
}

fn struck(run: &Run) -> bool {
    run.host.disk.has_failed()
}

//! The power goes at every operation of the disk around a fire, in every way.

use super::mistakes::Mistake;
use super::run::{Setup, run, run_around};
use crate::batch::{Failure, add_up};
use crate::model::Tally;
use crate::storage::image::Crash;

/// Operations before and after those of the fire itself.
const AROUND: u64 = 1;

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

/// Makes a run without a power cut, and then one for each operation around one of its fires, and for
/// each way in which the power may go.
pub fn points(points: &Points) -> (Tally, Vec<Failure>) {
    let calm = Setup {
        seed: points.seed,
        mistake: points.mistake,
        calm: true,
        ..Setup::default()
    };
    let (mut tally, fires, result) = run_around(&calm);
    let mut failures: Vec<Failure> = result.err().into_iter().collect();
    let Some((first, last)) = fires.get(fires.len() / 2) else {
        return (tally, failures);
    };
    for at in first.saturating_sub(AROUND)..=last + AROUND {
        if points.at.is_some_and(|only| only != at) {
            continue;
        }
        *tally.entry("operations crashed").or_default() += 1;
        for crash in Crash::ALL {
            let setup = Setup {
                cut: Some((at, crash)),
                trace: points.trace,
                ..calm.clone()
            };
            let (counts, result) = run(&setup);
            add_up(&mut tally, counts);
            *tally.entry("images").or_default() += 1;
            if let Err(failure) = result {
                failures.push(Failure {
                    replay: format!("timed --points --seed {} --at {at}", points.seed),
                    what: format!("operation {at}, {crash:?}: {}", failure.what),
                });
                if failures.len() >= 5 {
                    return (tally, failures);
                }
            }
        }
    }
    (tally, failures)
}

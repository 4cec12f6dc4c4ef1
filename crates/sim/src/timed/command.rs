//! `sim timed`: runs of schedules and delayed messages, or one of them again and in detail.

use std::process::ExitCode;

use super::points::{Points, points};
use super::run::{Setup, run};
use crate::batch::{self, Failure};
use crate::model::Tally;

/// Runs schedules and delayed messages on clocks that jump and a disk that forgets.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Arguments {
    /// One seed; many if none is given.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Stop after so many seconds.
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 10)]
    pub seconds: u64,
    /// Crash a run at every operation around a fire, in every way.
    #[arg(long)]
    pub points: bool,
    /// Only this operation.
    #[arg(long, requires = "points")]
    pub at: Option<u64>,
    /// Print everything that happens.
    #[arg(long)]
    pub trace: bool,
}

/// Runs what was asked for.
pub fn command(arguments: &Arguments) -> ExitCode {
    batch::command(arguments.seed, arguments.seconds, |seed| {
        one(arguments, seed)
    })
}

fn one(arguments: &Arguments, seed: u64) -> (Tally, Vec<Failure>) {
    let (at, trace) = (arguments.at, arguments.trace);
    if arguments.points {
        return points(&Points {
            seed,
            at,
            trace,
            ..Points::default()
        });
    }
    let (tally, result) = run(&Setup {
        seed,
        trace,
        ..Setup::default()
    });
    (tally, result.err().into_iter().collect())
}

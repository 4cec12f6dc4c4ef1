//! `sim storage`: runs of the log, or one of them again and in detail.

use std::process::ExitCode;

use super::faults::{Faults, faults};
use super::points::{Points, points};
use super::rot::{Rot, rot};
use super::run::{Setup, run};
use crate::batch::{self, Failure};
use crate::model::Tally;

/// Runs the log on a disk that forgets, tears and fails.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Arguments {
    /// One seed; many if none is given.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Stop after so many seconds.
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 10)]
    pub seconds: u64,
    /// Crash a run at every operation, in every way.
    #[arg(long)]
    pub points: bool,
    /// Make every operation of a run fail.
    #[arg(long, conflicts_with = "points")]
    pub faults: bool,
    /// Turn over bits of a run's disk.
    #[arg(long, conflicts_with_all = ["points", "faults"])]
    pub rot: bool,
    /// Only this operation, fault or flip.
    #[arg(long)]
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
        let mistake = None;
        return points(&Points {
            seed,
            at,
            mistake,
            trace,
        });
    }
    if arguments.faults {
        return faults(&Faults { seed, at, trace });
    }
    if arguments.rot {
        return rot(&Rot { seed, at, trace });
    }
    let (tally, result) = run(&Setup {
        seed,
        trace,
        ..Setup::default()
    });
    (tally, result.err().into_iter().collect())
}

//! `sim timed`: runs of schedules and delayed messages, or one of them again and in detail.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::points::{Points, points};
use super::run::{Failure, Setup, run};
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
    let start = Instant::now();
    let end = start + Duration::from_secs(arguments.seconds);
    let seeds = arguments.seed.map_or(0..u64::MAX, |seed| seed..seed + 1);
    let (mut totals, mut runs, mut failed) = (Tally::new(), 0_u64, 0_u64);
    for seed in seeds {
        if arguments.seed.is_none() && Instant::now() >= end {
            break;
        }
        let (tally, failures) = one(arguments, seed);
        runs += 1;
        for (what, n) in tally {
            *totals.entry(what).or_default() += n;
        }
        for failure in failures {
            failed += 1;
            eprintln!("{failure}");
        }
    }
    for (what, n) in totals {
        println!("{n:>10} {what}");
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{runs} runs, {failed} failures, {seconds:.1} s");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
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

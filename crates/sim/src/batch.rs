//! Many runs: one after the other for a while, added up, and what is said of one that fails.

use std::fmt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::model::Tally;

/// A run that broke a promise.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// Which run, as arguments of the command that runs it again.
    pub replay: String,
    /// What was wrong.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { replay, what } = self;
        write!(
            f,
            "{what}\n  replay: cargo run -p leveret-sim -- {replay} --trace"
        )
    }
}

/// Adds what was done in a run to what was done in others.
pub fn add_up(totals: &mut Tally, tally: Tally) {
    for (what, n) in tally {
        *totals.entry(what).or_default() += n;
    }
}

/// Runs one seed, or one after the other for so many seconds, and prints what came of it.
pub fn command(
    seed: Option<u64>,
    seconds: u64,
    one: impl Fn(u64) -> (Tally, Vec<Failure>),
) -> ExitCode {
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    let seeds = seed.map_or(0..u64::MAX, |seed| seed..seed + 1);
    let (mut totals, mut runs, mut failed) = (Tally::new(), 0_u64, 0_u64);
    for next in seeds {
        if seed.is_none() && Instant::now() >= end {
            break;
        }
        let (tally, failures) = one(next);
        runs += 1;
        add_up(&mut totals, tally);
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

//! `sim full`: runs on a disk that gets full, or one of them again and in detail.

use std::process::ExitCode;

use super::run::{Setup, run};
use crate::batch;

/// Runs the committer on a disk that gets full.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Arguments {
    /// One seed; many if none is given.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Stop after so many seconds.
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 10)]
    pub seconds: u64,
    /// Print everything that happens.
    #[arg(long)]
    pub trace: bool,
}

/// Runs what was asked for.
pub fn command(arguments: &Arguments) -> ExitCode {
    batch::command(arguments.seed, arguments.seconds, |seed| {
        let (tally, result) = run(&Setup {
            seed,
            trace: arguments.trace,
            mistake: None,
        });
        (tally, result.err().into_iter().collect())
    })
}

//! Runs seeds, or one seed again and in detail.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use leveret_sim::batch::add_up;
use leveret_sim::full::command as full;
use leveret_sim::storage::command;
use leveret_sim::timed::command as timed;
use leveret_sim::{Setup, Tally, run, shrink, sim};

/// Runs the broker under simulation. Prints what failed, and how to replay it.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    /// Something else than the broker.
    #[command(subcommand)]
    part: Option<Part>,
    /// One seed.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Seeds from A up to B, not included.
    #[arg(long, value_name = "A..B", value_parser = range)]
    seeds: Option<(u64, u64)>,
    /// Stop after so many seconds.
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Print everything that happens.
    #[arg(long)]
    trace: bool,
    /// Take only the first so many steps.
    #[arg(long)]
    steps: Option<usize>,
    /// Look for the shortest run that fails.
    #[arg(long)]
    shrink: bool,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// The log, on a disk that forgets, tears and fails.
    Storage(command::Arguments),
    /// The committer of the log, on a disk that gets full.
    Full(full::Arguments),
    /// Schedules and delayed messages, on clocks that jump.
    Timed(timed::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match &arguments.part {
        Some(Part::Storage(arguments)) => return command::command(arguments),
        Some(Part::Full(arguments)) => return full::command(arguments),
        Some(Part::Timed(arguments)) => return timed::command(arguments),
        None => {}
    }
    let (from, to) = match (arguments.seed, arguments.seeds) {
        (Some(seed), _) => (seed, seed + 1),
        (None, Some(seeds)) => seeds,
        (None, None) => (
            0,
            if arguments.seconds.is_some() {
                u64::MAX
            } else {
                1_000
            },
        ),
    };
    let start = Instant::now();
    let end = arguments
        .seconds
        .map(|seconds| start + Duration::from_secs(seconds));
    let (mut runs, mut failures) = (0_u64, 0_u64);
    let mut totals = Tally::new();
    for seed in from..to {
        if end.is_some_and(|end| Instant::now() >= end) {
            break;
        }
        let mut setup = Setup {
            seed,
            trace: arguments.trace && !arguments.shrink,
            ..Setup::default()
        };
        setup.steps = arguments
            .steps
            .map(|count| sim::steps(seed).into_iter().take(count).collect());
        let (tally, result) = run(&setup);
        runs += 1;
        add_up(&mut totals, tally);
        let Err(failure) = result else { continue };
        failures += 1;
        eprintln!("{failure}");
        if arguments.shrink {
            setup.steps = Some(shrink::shrink(&setup));
            setup.trace = true;
            if let (_, Err(failure)) = run(&setup) {
                eprintln!("{failure} (shrunk)");
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    for (what, n) in totals {
        println!("{n:>10} {what}");
    }
    println!(
        "{runs} runs, {failures} failed, {:.0} runs/s",
        runs as f64 / seconds
    );
    if failures == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let (from, to) = text.split_once("..").ok_or("expected A..B")?;
    let number = |text: &str| text.parse().map_err(|_| format!("'{text}' is no number"));
    Ok((number(from)?, number(to)?))
}

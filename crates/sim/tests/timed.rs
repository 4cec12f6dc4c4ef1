//! Schedules and delayed messages, on clocks that jump and a disk that forgets: many runs, and that
//! they did something; and that mistakes are noticed.

mod common;

use common::times;
use leveret_sim::Tally;
use leveret_sim::batch::Failure;
use leveret_sim::timed::many::many;
use leveret_sim::timed::mistakes::Mistake;
use leveret_sim::timed::points::{Points, points};
use leveret_sim::timed::run::{Setup, run};

/// Runs in `make test`. More are run with `cargo run -p leveret-sim -- timed --for SECONDS`.
const SEEDS: u64 = 2_000;

/// Runs that are crashed at every operation around a fire, in every way.
const CRASHED_RUNS: u64 = 12;

/// Schedules that a day passes over.
const SCHEDULES: usize = 100_000;

/// Runs that many times what `make nightly` asks for.
fn all_hold(runs: u64, work: &[(&str, u64)], one: impl Fn(u64) -> (Tally, Vec<Failure>) + Sync) {
    common::all_hold(runs * times("TIMED_TIMES"), work, one);
}

#[test]
fn each_time_and_each_promise_is_kept_once_in_any_run() {
    #[rustfmt::skip]
    let work = [
        ("backfills",                 100),
        ("cancelled",                 100),
        ("clock set back",            500),
        ("clock set forward",         500),
        ("consumers died",          1_000),
        ("crashes",                 5_000),
        ("crashes during recovery",   300),
        ("delayed",                10_000),
        ("delayed ones read back",  2_000),
        ("dead letters delivered",  1_000),
        ("deleted",                   100),
        ("delivered again",         5_000),
        ("doubled activations",     1_000),
        ("failed too often",          200),
        ("fired",                  50_000),
        ("looked for in the log",     100),
        ("made again",                100),
        ("nominal times fired",    20_000),
        ("nominal times left out", 20_000),
        ("paused",                    300),
        ("refused",                 1_000),
        ("retimed",                   100),
        ("rights changed",            500),
        ("run at once",               300),
        ("runs in histories",      20_000),
        ("waited to come again",    2_000),
    ];
    all_hold(SEEDS, &work, |seed| {
        let (tally, result) = run(&Setup {
            seed,
            ..Setup::default()
        });
        (tally, result.err().into_iter().collect())
    });
}

#[test]
fn each_time_is_fired_once_wherever_the_power_goes() {
    #[rustfmt::skip]
    let work = [
        ("crashes",               500),
        ("images",                500),
        ("operations crashed",     50),
    ];
    all_hold(CRASHED_RUNS, &work, |seed| {
        points(&Points {
            seed,
            ..Points::default()
        })
    });
}

#[test]
fn a_day_passes_over_very_many_schedules() {
    let (tally, result) = many(SCHEDULES, 1);
    println!("{tally:#?}");
    assert_eq!(result, Ok(()));
    assert!(tally["nominal times"] >= SCHEDULES as u64, "{tally:#?}");
    assert_eq!(tally["crashes"], 1, "{tally:#?}");
}

/// The same seed, the same run: otherwise no failure could be replayed.
#[test]
fn a_run_is_replayed_from_its_seed() {
    for seed in 0..10 {
        let setup = Setup {
            seed,
            ..Setup::default()
        };
        assert_eq!(run(&setup).0, run(&setup).0, "seed {seed}");
    }
}

/// Each mistake is noticed in some of so few runs that those of `make test` surely do.
#[test]
fn mistakes_are_noticed() {
    let mut unnoticed = Vec::new();
    for mistake in Mistake::ALL {
        let everywhere = matches!(mistake, Mistake::TwoRecords | Mistake::SettledApart);
        let seeds = if everywhere { 3 } else { 100 };
        let fails = |seed: &u64| {
            let (seed, mistake) = (*seed, Some(mistake));
            if everywhere {
                let points = points(&Points {
                    seed,
                    mistake,
                    ..Points::default()
                });
                return !points.1.is_empty();
            }
            let setup = Setup {
                seed,
                mistake,
                ..Setup::default()
            };
            run(&setup).1.is_err()
        };
        let noticed = (0..seeds).find(fails);
        println!("{mistake:?}: noticed in {noticed:?}");
        if noticed.is_none() {
            unnoticed.push((mistake, seeds));
        }
    }
    assert!(unnoticed.is_empty(), "mistake, runs: {unnoticed:?}");
}

//! Schedules and delayed messages, on clocks that jump and a disk that forgets: many runs, and that
//! they did something; and that mistakes are noticed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

use leveret_sim::Tally;
use leveret_sim::timed::many::many;
use leveret_sim::timed::mistakes::Mistake;
use leveret_sim::timed::points::{Points, points};
use leveret_sim::timed::run::{Failure, Setup, run};

/// Runs in `make test`. More are run with `cargo run -p leveret-sim -- timed --for SECONDS`.
const SEEDS: u64 = 2_000;

/// Runs that are crashed at every operation around a fire, in every way.
const CRASHED_RUNS: u64 = 12;

/// Schedules that a day passes over.
const SCHEDULES: usize = 100_000;

/// Threads over the runs; each runs on one.
const THREADS: u64 = 2;

/// How many times as much is to be done: `make nightly` says so.
fn times() -> u64 {
    let times = std::env::var("TIMED_TIMES").ok();
    times.and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// Runs that many, and asserts that none fails, and that each thing was done so often at least.
fn all_hold(runs: u64, work: &[(&str, u64)], one: impl Fn(u64) -> (Tally, Vec<Failure>) + Sync) {
    let (runs, next) = (runs * times(), AtomicU64::new(0));
    let (sender, results) = mpsc::channel();
    let (totals, failures) = thread::scope(|scope| {
        for _ in 0..THREADS {
            let (sender, next, one) = (sender.clone(), &next, &one);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= runs {
                        return;
                    }
                    sender.send(one(seed)).expect("somebody collects");
                }
            });
        }
        drop(sender);
        let mut totals: Tally = BTreeMap::new();
        let mut failures = Vec::new();
        for (tally, failed) in results {
            for (what, n) in tally {
                *totals.entry(what).or_insert(0) += n;
            }
            failures.extend(failed);
        }
        (totals, failures)
    });
    for failure in failures.iter().take(10) {
        eprintln!("{failure}");
    }
    assert!(failures.is_empty(), "{} failures", failures.len());
    let lazy: Vec<_> = work
        .iter()
        .filter(|(what, least)| totals.get(what).copied().unwrap_or_default() < *least)
        .collect();
    assert!(lazy.is_empty(), "too little of {lazy:?} in {totals:#?}");
    println!("{totals:#?}");
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
        let everywhere = mistake == Mistake::TwoRecords;
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

//! The log on a disk that forgets, tears, fails and rots: many runs, and that they did something;
//! and that mistakes are noticed.

mod common;

use common::times;
use leveret_sim::Tally;
use leveret_sim::batch::Failure;
use leveret_sim::storage::faults::{Faults, faults};
use leveret_sim::storage::mistakes::Mistake;
use leveret_sim::storage::points::{Points, points};
use leveret_sim::storage::rot::{Rot, rot, rot_with_sum};
use leveret_sim::storage::run::{Setup, run};

/// Runs in `make test`. More are run with `cargo run -p leveret-sim -- storage --for SECONDS`.
const SEEDS: u64 = 5_000;

/// Runs that are crashed at every operation, in every way.
const CRASHED_RUNS: u64 = 8;

/// Runs in which every operation fails.
const FAILING_RUNS: u64 = 24;

/// Runs whose disks rot.
const ROTTEN_RUNS: u64 = 500;

/// Runs that many times what `make nightly` asks for.
fn all_hold(runs: u64, work: &[(&str, u64)], one: impl Fn(u64) -> (Tally, Vec<Failure>) + Sync) {
    common::all_hold(runs * times("STORAGE_TIMES"), work, one);
}

#[test]
fn nothing_reported_safe_is_lost_in_any_run() {
    #[rustfmt::skip]
    let work = [
        ("checkpoints",               4_000),
        ("closed",                    5_000),
        ("crashes",                   5_000),
        ("crashes during recovery",   1_000),
        ("cut",                       1_000),
        ("full",                        100),
        ("left out",                 10_000),
        ("messages read",           100_000),
        ("messages recovered",      100_000),
        ("octets moved",          1_000_000),
        ("records",                 500_000),
        ("renames",                   5_000),
        ("reports",                  50_000),
        ("steps of housekeeping",   100_000),
        ("unreported records kept",  10_000),
        ("unreported records lost",  10_000),
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
fn nothing_reported_safe_is_lost_at_any_operation() {
    #[rustfmt::skip]
    let work = [
        ("crashes during recovery",   1_000),
        ("cut",                       1_000),
        ("images",                   20_000),
        ("operations crashed",        1_500),
        ("unreported records kept",   1_000),
        ("unreported records lost",   1_000),
    ];
    all_hold(CRASHED_RUNS, &work, |seed| {
        points(&Points {
            seed,
            ..Points::default()
        })
    });
}

#[test]
fn nothing_is_reported_safe_after_a_failure() {
    #[rustfmt::skip]
    let work = [
        ("faults",                    5_000),
        ("failures seen",             3_000),
        ("poisoned",                  3_000),
    ];
    all_hold(FAILING_RUNS, &work, |seed| {
        faults(&Faults {
            seed,
            ..Faults::default()
        })
    });
}

#[test]
fn no_octet_is_ever_wrong() {
    #[rustfmt::skip]
    let work = [
        ("cut at a flip",               100),
        ("flips",                     9_000),
        ("flips in what is known to be synced", 3_000),
        ("flips in what was not synced", 1_000),
        ("flips in what was synced",  1_000),
        ("harmless",                    100),
        ("refused",                     100),
        ("seen when read",              100),
        ("sound logs salvaged",         400),
        ("the last synced batch was cut", 100),
    ];
    all_hold(ROTTEN_RUNS, &work, |seed| {
        rot(&Rot {
            seed,
            ..Rot::default()
        })
    });
}

/// The same seed, the same run: otherwise no failure could be replayed.
#[test]
fn a_run_is_replayed_from_its_seed() {
    for seed in 0..20 {
        let setup = Setup {
            seed,
            ..Setup::default()
        };
        assert_eq!(run(&setup).0, run(&setup).0, "seed {seed}");
    }
}

/// Each mistake is noticed in most of the runs that make it. Not in all: there may be no power cut
/// that does any harm. What is torn by halves takes a power cut at just that place: those runs are
/// crashed at every operation.
#[test]
fn mistakes_in_the_log_are_noticed() {
    let mut unnoticed = Vec::new();
    for mistake in Mistake::ALL {
        let everywhere = matches!(mistake, Mistake::FanOutSplit | Mistake::CommitSplit);
        let seeds = if everywhere { 3 } else { 40 };
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
        let noticed = (0..seeds).filter(fails).count();
        println!("{mistake:?}: {noticed} of {seeds}");
        if noticed * 2 < seeds as usize {
            unnoticed.push((mistake, noticed, seeds));
        }
    }
    assert!(unnoticed.is_empty(), "mistake, noticed, of: {unnoticed:?}");
}

/// A log that checks no sums: the octets of messages are changed, and the sums over them fit.
#[test]
fn wrong_octets_are_noticed() {
    let what: Vec<_> = (0..20).map(rot_with_sum).collect();
    let noticed = what
        .iter()
        .filter(|what| matches!(what, Err(why) if why.contains("Message(")))
        .count();
    assert!(noticed >= 15, "{what:#?}");
}

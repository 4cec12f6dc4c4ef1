//! The committer on a disk that gets full and has room again: many runs, and that they did
//! something; and that mistakes are noticed.

mod common;

use common::times;
use leveret_sim::full::mistakes::Mistake;
use leveret_sim::full::run::{Setup, run};

/// Runs in `make test`. More are run with `cargo run -p leveret-sim -- full --for SECONDS`.
const SEEDS: u64 = 500;

#[test]
fn a_full_disk_loses_nothing_and_keeps_nobody_waiting_longer_than_it_is_full() {
    #[rustfmt::skip]
    let work = [
        ("all is safe",                   500),
        ("closed while full",             100),
        ("closed with something stuck",    30),
        ("crashes",                     2_000),
        ("crashes during recovery",       200),
        ("crashes while full",            300),
        ("opened while full",             500),
        ("probes",                      2_000),
        ("records",                   100_000),
        ("reports while full",          2_000),
        ("told that it is full",        1_000),
        ("told that there is room",       500),
        ("turns with something stuck",  1_500),
        ("unblocked by settles",          150),
    ];
    common::all_hold(SEEDS * times("STORAGE_TIMES"), &work, |seed| {
        let (tally, result) = run(&Setup {
            seed,
            ..Setup::default()
        });
        (tally, result.err().into_iter().collect::<Vec<_>>())
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

/// Each mistake is noticed in some of so few runs that those of `make test` surely do. Not in most: it
/// takes a disk that is full at the right time.
#[test]
fn mistakes_of_the_committer_are_noticed() {
    const RUNS: u64 = 150;
    let mut unnoticed = Vec::new();
    for mistake in Mistake::ALL {
        let fails = |seed: &u64| {
            let setup = Setup {
                seed: *seed,
                mistake: Some(mistake),
                trace: false,
            };
            run(&setup).1.is_err()
        };
        let noticed = (0..RUNS).filter(fails).count();
        println!("{mistake:?}: {noticed} of {RUNS}");
        if noticed < 10 {
            unnoticed.push((mistake, noticed));
        }
    }
    assert!(
        unnoticed.is_empty(),
        "mistake, noticed of {RUNS}: {unnoticed:?}"
    );
}

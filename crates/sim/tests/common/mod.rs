//! Many runs on several threads: that none fails, and that they did something.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

use leveret_sim::Tally;
use leveret_sim::batch::add_up;

/// Threads over the runs; each runs on one.
const THREADS: u64 = 2;

/// Runs that many, and asserts that none fails, and that each thing was done so often at least.
pub(crate) fn all_hold<F: Display + Send>(
    runs: u64,
    work: &[(&str, u64)],
    one: impl Fn(u64) -> (Tally, Vec<F>) + Sync,
) {
    let next = AtomicU64::new(0);
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
                    sender.send((seed, one(seed))).expect("somebody collects");
                }
            });
        }
        drop(sender);
        let mut totals = Tally::new();
        let mut failures = Vec::new();
        for (seed, (tally, failed)) in results {
            add_up(&mut totals, tally);
            failures.extend(failed.into_iter().map(|failure| (seed, failure)));
        }
        failures.sort_by_key(|(seed, _)| *seed);
        (totals, failures)
    });
    for (_, failure) in failures.iter().take(10) {
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

/// How many times as much is to be done: `make nightly` says so in this variable.
#[allow(dead_code, reason = "not every test file does more at night")]
pub(crate) fn times(variable: &str) -> u64 {
    let times = std::env::var(variable).ok();
    times.and_then(|times| times.parse().ok()).unwrap_or(1)
}

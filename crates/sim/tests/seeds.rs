//! Many seeds, and that they did something; and that mistakes in the broker are noticed.

mod common;

use leveret_sim::{Fault, Setup, run};

/// Runs in `make test`. More are run with `cargo run -p leveret-sim -- --for SECONDS`.
const SEEDS: u64 = 2_000;

/// What has to have happened in all runs together, and how often at least. A number that falls
/// below says that the clients have gone lazy, and that everything else here proves little.
#[rustfmt::skip]
const WORK: [(&str, u64); 68] = [
    ("answers that waited",     10_000),
    ("binds",                   10_000),
    ("blocked",                  1_000),
    ("cancel notifications",       300),
    ("cancels",                  1_000),
    ("channel errors",           5_000),
    ("closes that waited",          50),
    ("commands that waited",   100_000),
    ("commits",                  1_000),
    ("commits that waited",        300),
    ("confirms",                20_000),
    ("connection errors",          100),
    ("consumers",               10_000),
    ("copies",                  50_000),
    ("crashes",                    500),
    ("cuts",                     1_000),
    ("deleted queues",             300),
    ("deliveries",              50_000),
    ("exchanges",                1_000),
    ("expired queues",              50),
    ("fetches",                  2_000),
    ("failed swaps",                50),
    ("gets that waited",         1_000),
    ("gets",                    10_000),
    ("half closed",              1_000),
    ("last words",               2_000),
    ("left waiting: full outbox",    100),
    ("left waiting: the log",        100),
    ("left waiting: own prefetch",   100),
    ("left waiting: shared prefetch",100),
    ("marks",                      500),
    ("oversize",                    50),
    ("overtakes",                5_000),
    ("paged in",                 5_000),
    ("publishes",               50_000),
    ("purged",                   1_000),
    ("queues",                   2_000),
    ("recovered messages",       5_000),
    ("recovered priorities",       300),
    ("recovers",                   300),
    ("redeliveries",            10_000),
    ("refused by the session",      50),
    ("requeues",                10_000),
    ("restarts",                 1_000),
    ("returns",                  2_000),
    ("rollbacks",                  200),
    ("session timeouts",           100),
    ("settled",                  5_000),
    ("swapped out",              2_000),
    ("swaps",                      500),
    ("unread",                   1_000),
    // What queues get rid of.
    ("commits that a queue refused", 10),
    ("dead letters",             1_000),
    ("delivered letters",          500),
    ("deliveries that say how often",100),
    ("delivery_limit",             100),
    ("dropped",                  1_000),
    ("expired",                  1_000),
    ("letters held back",          100),
    ("letters that would go round", 50),
    ("letters to nobody",           50),
    ("maxlen",                     100),
    ("nacks",                      100),
    ("put off",                     50),
    ("recovered letters",           50),
    ("refused",                  1_000),
    ("rejected",                 1_000),
    ("with a time, recovered",     100),
];

#[test]
fn every_promise_holds_in_every_run() {
    common::all_hold(SEEDS, &WORK, |seed| {
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

/// Each kind of mistake is made in many runs and noticed in at least half of them. Not in all: it may come
/// too late to matter, or hit what nobody could have seen.
#[test]
fn mistakes_are_noticed() {
    let mut unnoticed = Vec::new();
    for fault in Fault::ALL {
        let (mut made, mut noticed) = (0, 0);
        for seed in 0..600 {
            let setup = Setup {
                seed,
                fault: Some(fault),
                ..Setup::default()
            };
            let (tally, result) = run(&setup);
            if tally.contains_key("faults") || fault.bends_rules() && result.is_err() {
                made += 1;
                noticed += u32::from(result.is_err());
            } else {
                let result = result.map_err(|failure| failure.to_string());
                assert_eq!(result, Ok(()), "{fault:?}, which was not made");
            }
            if made >= 20 {
                break;
            }
        }
        if made < 8 || noticed * 2 < made {
            unnoticed.push((fault, made, noticed));
        }
    }
    assert!(
        unnoticed.is_empty(),
        "mistake, made, noticed: {unnoticed:?}"
    );
}

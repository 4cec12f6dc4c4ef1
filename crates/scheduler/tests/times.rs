//! Properties of times to come, and what happens when the clocks are changed.

#![allow(clippy::unwrap_used)] // helpers of tests

use leveret_core::ids::Wall;
use leveret_scheduler::cron::{Cron, Dialect, Dst, Expression};
use leveret_scheduler::time;
use leveret_scheduler::trigger::{Every, Trigger};
use leveret_scheduler::zone::Zone;
use proptest::prelude::*;

fn cron(text: &str, zone: &str, dst: Dst) -> Cron {
    let zone = Zone::find(zone).unwrap();
    match Cron::parse(text, Dialect::Robfig, zone, dst) {
        Ok(Expression::Cron(cron)) => cron,
        other => panic!("{text}: {other:?}"),
    }
}

/// Local times of the next ones, with their offsets.
fn next(cron: &Cron, from: &str, count: usize) -> Vec<String> {
    let mut at = time::parse(from).unwrap();
    let mut times = Vec::new();
    while times.len() < count
        && let Some(next) = cron.next_after(at)
    {
        at = next;
        times.push(time::local_text(at, cron.zone())[5..].to_owned());
    }
    times
}

#[test]
fn rules_for_changes_of_the_clocks() {
    let natural = Dst::default();
    let next_valid = Dst {
        next_valid: true,
        once: false,
    };
    let once = Dst {
        next_valid: false,
        once: true,
    };
    let berlin = (
        "Europe/Berlin",
        "2026-03-28T12:00:00Z",
        "2026-10-24T12:00:00Z",
    );
    let lord_howe = (
        "Australia/Lord_Howe",
        "2026-10-03T00:00:00Z",
        "2026-04-04T00:00:00Z",
    );
    let new_york = (
        "America/New_York",
        "2026-03-07T12:00:00Z",
        "2026-10-31T12:00:00Z",
    );
    // Midnight of 2018-11-04 did not exist, 23:00 of 2018-02-17 came twice.
    let sao_paulo = (
        "America/Sao_Paulo",
        "2018-11-03T12:00:00Z",
        "2018-02-17T12:00:00Z",
    );
    #[rustfmt::skip]
    let table: [(_, &str, bool, Dst, &[&str]); 17] = [
        (berlin,    "30 2 * * *",      true,  natural,    &["03-30T02:30:00+02:00"]),
        (berlin,    "30 2 * * *",      true,  once,       &["03-30T02:30:00+02:00"]),
        (berlin,    "30 2 * * *",      true,  next_valid, &["03-29T03:00:00+02:00", "03-30T02:30:00+02:00"]),
        (berlin,    "0,30 2,3 * * *",  true,  next_valid, &["03-29T03:00:00+02:00", "03-29T03:30:00+02:00", "03-30T02:00:00+02:00"]),
        (berlin,    "30 2 * * *",      false, natural,    &["10-25T02:30:00+02:00", "10-25T02:30:00+01:00", "10-26T02:30:00+01:00"]),
        (berlin,    "30 2 * * *",      false, once,       &["10-25T02:30:00+02:00", "10-26T02:30:00+01:00"]),
        (berlin,    "0 3 * * *",       false, once,       &["10-25T03:00:00+01:00"]),
        (new_york,  "15 2 * * *",      true,  natural,    &["03-09T02:15:00-04:00"]),
        (new_york,  "15 2 * * *",      true,  next_valid, &["03-08T03:00:00-04:00"]),
        (new_york,  "15 1 * * *",      false, natural,    &["11-01T01:15:00-04:00", "11-01T01:15:00-05:00"]),
        (sao_paulo, "0 0 * * *",       true,  natural,    &["11-05T00:00:00-02:00"]),
        (sao_paulo, "0 0 * * *",       true,  next_valid, &["11-04T01:00:00-02:00", "11-05T00:00:00-02:00"]),
        (sao_paulo, "30 23 * * *",     false, natural,    &["02-17T23:30:00-02:00", "02-17T23:30:00-03:00"]),
        (sao_paulo, "30 23 * * *",     false, once,       &["02-17T23:30:00-02:00", "02-18T23:30:00-03:00"]),
        (lord_howe, "15 2 * * *",      true,  natural,    &["10-05T02:15:00+11:00"]),
        (lord_howe, "15 2 * * *",      true,  next_valid, &["10-04T02:30:00+11:00", "10-05T02:15:00+11:00"]),
        (lord_howe, "45 1 * * *",      false, natural,    &["04-05T01:45:00+11:00", "04-05T01:45:00+10:30"]),
    ];
    for ((zone, spring, autumn), text, forward, dst, expected) in table {
        let from = if forward { spring } else { autumn };
        let found = next(&cron(text, zone, dst), from, expected.len());
        assert_eq!(found, expected, "{text} in {zone}, {dst:?}");
    }
    let kolkata = cron("30 2 * * *", "Asia/Kolkata", natural);
    assert_eq!(
        next(&kolkata, "2026-03-28T12:00:00Z", 1),
        ["03-29T02:30:00+05:30"]
    );
}

#[test]
fn search_ends_after_five_years() {
    let leap = cron("0 0 29 2 *", "UTC", Dst::default());
    assert_eq!(
        next(&leap, "2096-03-01T00:00:00Z", 1),
        [""; 0],
        "2100 has none"
    );
    assert_eq!(
        next(&leap, "2099-03-01T00:00:00Z", 1),
        ["02-29T00:00:00+00:00"]
    );
    assert_eq!(
        cron("* * * * *", "UTC", Dst::default()).next_after(Wall(u64::MAX)),
        None
    );
    assert_eq!(
        cron("0 0 31 12 *", "UTC", Dst::default()).next_after(time::END),
        None
    );
}

fn brute_force(
    cron: &Cron,
    minutes: &[bool; 60],
    hours: &[bool; 24],
    from: u64,
    until: u64,
) -> Option<Wall> {
    (from / 60 + 1..=until / 60)
        .map(|minute| minute * 60)
        .find(|second| {
            let local = second
                .checked_add_signed(cron.zone().offset(i64::try_from(*second).unwrap()))
                .unwrap();
            minutes[usize::try_from(local / 60 % 60).unwrap()]
                && hours[usize::try_from(local / 3_600 % 24).unwrap()]
        })
        .map(|second| Wall(second * 1_000))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Minute by minute, over a day and a half in which the clocks may be changed.
    #[test]
    fn finds_what_brute_force_finds(
        minutes in prop::collection::btree_set(0_usize..60, 1..4),
        hours in prop::collection::btree_set(0_usize..24, 1..4),
        zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]),
        start in prop::sample::select(vec!["2026-03-07T18:00:00Z", "2026-03-28T18:00:00Z", "2026-04-04T06:00:00Z", "2026-10-03T06:00:00Z", "2026-10-24T18:00:00Z", "2026-10-31T18:00:00Z"]),
        offset in 0_u64..36 * 3_600,
    ) {
        let list = |set: &std::collections::BTreeSet<usize>| {
            set.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        };
        let cron = cron(&format!("{} {} * * *", list(&minutes), list(&hours)), zone, Dst::default());
        let from = time::parse(start).unwrap().0 / 1_000 + offset;
        let until = from + 40 * 3_600;
        let minutes = std::array::from_fn(|minute| minutes.contains(&minute));
        let hours = std::array::from_fn(|hour| hours.contains(&hour));
        let expected = brute_force(&cron, &minutes, &hours, from, until);
        let found = cron.next_after(Wall(from * 1_000)).filter(|at| at.0 / 1_000 <= until);
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn times_only_grow(
        text in "(\\*|[0-9]|[1-5][0-9]|\\*/[1-9]) (\\*|[0-9]|\\*/[1-9]) (\\*|[1-9]|\\*/[1-9]) (\\*|[1-9]) (\\*|[0-6])",
        zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/Sao_Paulo", "Australia/Lord_Howe"]),
        start in 0_u64..4_000_000_000_000,
        next_valid: bool,
        once: bool,
    ) {
        let trigger = Trigger::Cron(Box::new(cron(&text, zone, Dst { next_valid, once })));
        let mut at = Wall(start);
        for _ in 0..20 {
            let Some(next) = trigger.next_after(at) else { break };
            prop_assert!(next > at);
            // Nothing lies in between.
            let middle = Wall(at.0 + (next.0 - at.0) / 2);
            let from_there = trigger.next_after(middle).filter(|_| middle < next);
            prop_assert!(middle == next || from_there == Some(next));
            prop_assert_eq!(trigger.last_within(at, next), Some(next));
            at = next;
        }
    }

    #[test]
    fn intervals_are_counted_without_walking(anchor in 0_u64..10_000_000, seconds in 1_u64..100_000, t in 0_u64..u64::MAX / 2) {
        let interval_ms = seconds * 1_000;
        let every = Every { anchor: Wall(anchor), interval_ms, at_anchor: false };
        if let Some(next) = every.next_after(Wall(t)) {
            prop_assert!(next.0 > t && (next.0 - anchor) % interval_ms == 0);
            prop_assert!(next.0 - interval_ms <= t || next.0 == anchor + interval_ms);
        } else {
            prop_assert!(t + interval_ms > time::END.0);
        }
    }
}

#[test]
fn expressions_never_panic() {
    let alphabet = [
        "*", "/", "-", ",", "?", "L", "W", "#", "0", "7", "60", "MON", "é", "@every ", "TZ=", " ",
        "  ",
    ];
    let mut state = 1_u64;
    for _ in 0..50_000 {
        let mut text = String::new();
        for _ in 0..12 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            text.push_str(alphabet[usize::try_from(state >> 33).unwrap() % alphabet.len()]);
        }
        for dialect in [Dialect::Robfig, Dialect::Quartz] {
            let _ = Cron::parse(&text, dialect, Zone::UTC, Dst::default());
        }
    }
}

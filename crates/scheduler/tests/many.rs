//! Very many schedules: what each holds in memory is counted, not measured by a clock.

#![allow(clippy::unwrap_used)] // helpers of tests

mod desk;

use std::sync::{Arc, Mutex};

use desk::Desk;
use leveret_core::schedule::Scheduler as _;
use leveret_scheduler::{Rhythm, Witness};

#[test]
fn many_that_are_due_in_the_same_second_are_all_fired_once() {
    let mut desk = Desk::new("2026-11-23T10:00:00Z");
    for number in 0..10_000 {
        desk.put(&[
            ("name", &format!("schedule-{number}")),
            ("cron", "30 * * * *"),
        ]);
    }
    let mut fired = desk.pass("2026-11-23T10:30:00Z");
    fired.sort();
    fired.dedup();
    assert_eq!(fired.len(), 10_000);
    assert_eq!(desk.pass("2026-11-23T11:29:59Z").len(), 0);
}

#[test]
fn replanning_a_rhythm_again_and_again_changes_nothing() {
    let mut desk = Desk::new("2026-11-23T10:00:00Z");
    for number in 0..2_500 {
        desk.put(&[
            ("name", &format!("schedule-{number}")),
            ("cron", "30 * * * *"),
        ]);
    }
    let again = |desk: &mut Desk| {
        for _ in 0..7 {
            let now = desk.now;
            desk.registry.replan_some(now, "UTC 0 30 * * * *");
            desk.registry.replan_some(now, "UTC 0 31 * * * *");
        }
    };
    again(&mut desk);
    let mut fired = desk.pass("2026-11-23T10:29:59Z");
    again(&mut desk);
    fired.extend(desk.pass("2026-11-23T10:30:00Z"));
    again(&mut desk);
    fired.extend(desk.pass("2026-11-23T11:29:59Z"));
    assert_eq!(fired.len(), 2_500);
    fired.sort();
    fired.dedup();
    assert_eq!(fired.len(), 2_500, "each once");
}

/// What somebody outside has heard.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Witness for Heard {
    fn appears(&self, rhythm: &Rhythm) {
        self.0.lock().unwrap().push(format!("+{}", rhythm.name()));
    }

    fn vanishes(&self, rhythm: &Rhythm) {
        self.0.lock().unwrap().push(format!("-{}", rhythm.name()));
    }
}

/// The headers of an order, and what is heard of rhythms.
type Row<'a> = (&'a [(&'a str, &'a str)], Vec<String>);

#[test]
fn a_rhythm_appears_with_its_first_schedule_and_vanishes_with_its_last() {
    let mut desk = Desk::new("2026-11-23T10:00:00Z");
    desk.put(&[("name", "old"), ("cron", "@daily")]);
    desk.put(&[("name", "interval"), ("every", "1h")]);
    let heard = Arc::new(Heard::default());
    desk.registry.tell_rhythms(Arc::clone(&heard) as _);
    let news = |desk: &mut Desk, headers: &[(&str, &str)]| {
        desk.put(headers);
        std::mem::take(&mut *heard.0.lock().unwrap())
    };
    let (daily, hourly) = ("UTC 0 0 0 * * *", "UTC 0 0 * * * *");
    #[rustfmt::skip]
    let table: [Row<'_>; 8] = [
        (&[("name", "a"), ("cron", "@hourly")],     vec![format!("+{daily}"), format!("+{hourly}")]), // daily was there
        (&[("name", "b"), ("cron", "0 0 * * * *")], vec![]),
        (&[("name", "a"), ("cron", "0 * * * *")],   vec![]), // the same in other words
        (&[("name", "old"), ("cron", "@hourly")],   vec![format!("-{daily}")]),
        (&[("name", "a"), ("action", "delete")],    vec![]),
        (&[("name", "b"), ("every", "1h")],         vec![]),
        (&[("name", "old"), ("action", "pause")],   vec![]),
        (&[("name", "old"), ("action", "delete")],  vec![format!("-{hourly}")]),
    ];
    for (headers, expected) in table {
        assert_eq!(news(&mut desk, headers), expected, "{headers:?}");
    }
    desk.put(&[("name", "c"), ("cron", "@daily")]);
    desk.restart("2026-11-23T10:00:00Z");
    let heard = Arc::new(Heard::default());
    desk.registry.tell_rhythms(Arc::clone(&heard) as _);
    let expected = vec![format!("+{daily}")];
    assert_eq!(*heard.0.lock().unwrap(), expected, "after a start");
}

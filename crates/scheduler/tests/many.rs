//! Very many schedules: what each holds in memory is counted, not measured by a clock.

#![allow(clippy::unwrap_used)] // helpers of tests

mod desk;

use std::sync::{Arc, Mutex};

use desk::Desk;
use leveret_core::schedule::{Deeds, Scheduler as _};
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
            replan_some(desk, "UTC 0 30 * * * *");
            replan_some(desk, "UTC 0 31 * * * *");
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

/// The work of it.
fn replan_some(desk: &mut Desk, rhythm: &str) -> u64 {
    let mut deeds = Deeds::default();
    desk.registry.replan_some(desk.now, rhythm, &mut deeds);
    assert!(deeds.fires.is_empty() && deeds.notes.is_empty());
    deeds.work
}

/// It was not counted at all, and a year far ahead was looked for each second.
#[test]
fn what_is_planned_anew_is_counted_and_a_year_far_ahead_is_left_alone() {
    const COUNT: u64 = 1_000; // as many as are looked at in one go
    #[rustfmt::skip]
    let table = [
        ("* * * * * *",        "robfig", "UTC * * * * * *", COUNT * 8..COUNT * 10),
        ("* * * * * ? 2099",   "quartz", "UTC * * * * * *", COUNT..COUNT + 1),
        ("0 0 0 ? 1 2#1 2027", "quartz", "UTC 0 0 0 * 1 *", COUNT..COUNT + 1),
    ];
    for (cron, dialect, rhythm, expected) in table {
        let mut desk = Desk::new("2026-11-23T10:00:00Z");
        for number in 0..COUNT {
            let name = format!("schedule-{number}");
            desk.put(&[("name", &name), ("cron", cron), ("dialect", dialect)]);
        }
        let due = desk.next_due();
        let work = replan_some(&mut desk, rhythm);
        assert!(expected.contains(&work), "{cron}: {work}");
        assert_eq!(desk.next_due(), due, "{cron}: nothing has changed");
    }
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

//! Very many schedules: what each holds in memory is counted, not measured by a clock.

#![allow(clippy::unwrap_used)] // helpers of tests

mod desk;

use desk::Desk;

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

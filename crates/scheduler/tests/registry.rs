//! What the registry does when it is told to, and when time passes.

#![allow(clippy::unwrap_used)] // helpers of tests

mod desk;

use desk::{Desk, message_id, order};
use leveret_codec::{FieldTable, FieldValue, Properties};
use leveret_core::schedule::{Ending, Refusal};
use leveret_scheduler::Limits;

const MONDAY: &str = "2026-11-23T10:00:00.000Z";

#[test]
fn schedule_fires_when_it_is_due_and_says_so() {
    let mut desk = Desk::new(MONDAY);
    let reply = desk.put(&[
        ("name", "report"),
        ("cron", "*/5 * * * *"),
        ("routing-key", "work"),
    ]);
    assert_eq!(reply["name"], "report");
    assert_eq!(reply["next"][0], "2026-11-23T10:05:00.000Z");
    let fired = desk.pass("2026-11-23T10:11:00Z");
    assert_eq!(
        fired,
        [
            "report/2026-11-23T10:05:00.000Z",
            "report/2026-11-23T10:10:00.000Z"
        ]
    );
    let message = &desk.sent[0];
    assert_eq!((message.exchange(), message.routing_key()), ("", "work"));
    assert_eq!(message.body(), b"hello");
    assert!(message.is_persistent());
    let headers = message.properties().headers.expect("some");
    let shown: Vec<_> = headers.iter().map(|(name, _)| name).collect();
    assert_eq!(
        shown,
        [
            "x-schedule-name",
            "x-schedule-nominal-time",
            "x-schedule-fired-at",
            "x-schedule-attempt"
        ],
        "those of the order are gone"
    );
    let nominal = headers
        .get("x-schedule-nominal-time")
        .and_then(FieldValue::as_str);
    assert_eq!(nominal, Some("2026-11-23T10:05:00.000Z"));
}

#[test]
fn what_is_for_the_queues_is_passed_on_also_after_a_restart() {
    let mut desk = Desk::new(MONDAY);
    desk.order([
        ("name", "a".into()),
        ("every", "1m".into()),
        ("dead-letter-exchange", "".into()),
        ("dead-letter-routing-key", "failed".into()),
        ("retry-delay", 60_000_i64.into()),
        ("retry-limit", 3_i64.into()),
    ])
    .unwrap();
    desk.pass("2026-11-23T10:01:00Z");
    desk.restart("2026-11-23T10:01:10Z");
    desk.pass("2026-11-23T10:02:00Z");
    assert_eq!(desk.sent.len(), 2);
    for message in &desk.sent {
        let headers = message.properties().headers.unwrap();
        let text = |name| headers.get(name).and_then(FieldValue::as_str);
        let number = |name| headers.get(name).and_then(FieldValue::as_i64);
        assert_eq!(text("x-schedule-dead-letter-exchange"), Some(""));
        assert_eq!(text("x-schedule-dead-letter-routing-key"), Some("failed"));
        assert_eq!(number("x-schedule-retry-delay"), Some(60_000));
        assert_eq!(number("x-schedule-retry-limit"), Some(3));
    }
    let refused = desk.order([
        ("name", "b".into()),
        ("every", "1m".into()),
        ("dead-letter-exchange", "no-such".into()),
    ]);
    assert_eq!(refused.unwrap_err().code.value(), 404);
}

#[test]
fn restart_goes_on_where_it_was() {
    let mut desk = Desk::new(MONDAY);
    desk.put(&[("name", "a"), ("every", "1m")]);
    assert_eq!(desk.pass("2026-11-23T10:02:30Z").len(), 2);
    assert_eq!(
        desk.restart("2026-11-23T10:02:40Z"),
        [""; 0],
        "nothing was missed"
    );
    assert_eq!(
        desk.pass("2026-11-23T10:03:00Z"),
        ["a/2026-11-23T10:03:00.000Z"]
    );
    let fired = desk.restart("2026-11-23T12:00:30Z");
    assert_eq!(
        fired,
        ["a/2026-11-23T12:00:00.000Z"],
        "one for all that was missed"
    );
}

#[test]
fn a_new_schedule_is_kept_by_its_order_alone() {
    let cases: [[(&str, FieldValue); 3]; 4] = [
        [
            ("cron", "@hourly".into()),
            ("note", "by hand".into()),
            ("paused", false.into()),
        ],
        [
            ("every", "1m".into()),
            ("note", "not yet".into()),
            ("paused", true.into()),
        ],
        [
            ("at", "2026-11-23T11:00:00Z".into()),
            ("note", "".into()),
            ("paused", false.into()),
        ],
        [
            ("cron", "@hourly".into()),
            ("jitter", FieldValue::I64(10_000)),
            ("paused", true.into()),
        ],
    ];
    for [a, b, c] in cases {
        let put = [("name", "n".into()), a, b, c];
        let mut desk = Desk::new(MONDAY);
        desk.order(put.clone()).unwrap();
        assert_eq!(desk.kept.len(), 1, "{put:?}");
        let shown = desk.ask("show", "n");
        assert_eq!(desk.restart(MONDAY), [""; 0], "{put:?}");
        assert_eq!(desk.ask("show", "n"), shown, "{put:?}");
        // What was done to it since is not in its order.
        desk.put(&[("action", "pause"), ("name", "n"), ("note", "changed")]);
        assert_eq!(desk.kept.len(), 2, "{put:?}");
        desk.order(put.clone()).unwrap();
        let shown = desk.ask("show", "n");
        desk.restart(MONDAY);
        assert_eq!(desk.ask("show", "n"), shown, "{put:?}");
        desk.ask("delete", "n");
        assert!(desk.kept.is_empty(), "{put:?}");
    }
}

#[test]
fn clock_jumps_fire_nothing_twice() {
    let mut desk = Desk::new(MONDAY);
    desk.put(&[("name", "a"), ("every", "1m")]);
    desk.pass("2026-11-23T10:05:00Z");
    assert_eq!(desk.set_clock("2026-11-23T09:00:00Z"), [""; 0]);
    assert_eq!(desk.pass("2026-11-23T10:05:30Z"), [""; 0], "they have been");
    assert_eq!(desk.pass("2026-11-23T10:06:00Z").len(), 1);
    let ahead = desk.set_clock("2031-11-23T10:00:30Z");
    assert_eq!(ahead, ["a/2031-11-23T10:00:00.000Z"]);
    assert_eq!(desk.set_clock("2026-11-23T10:06:30Z"), [""; 0]);
    assert_eq!(
        desk.pass("2026-11-23T10:07:00Z"),
        ["a/2026-11-23T10:07:00.000Z"],
        "a wrong clock does not stop a schedule for years"
    );
    assert_eq!(desk.restart("2026-11-23T10:07:30Z"), [""; 0]);
    let mut ids: Vec<_> = desk.sent.iter().map(message_id).collect();
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count);
}

#[test]
fn run_waits_for_the_one_before() {
    let mut desk = Desk::new(MONDAY);
    for overlap in ["allow", "skip", "buffer-one", "buffer-all"] {
        desk.put(&[("name", overlap), ("every", "1m"), ("overlap", overlap)]);
    }
    assert_eq!(desk.pass("2026-11-23T10:01:00Z").len(), 4);
    let later = desk.pass("2026-11-23T10:04:00Z");
    assert!(later.iter().all(|id| id.starts_with("allow/")), "{later:?}");
    for overlap in ["allow", "skip", "buffer-one", "buffer-all"] {
        let id = format!("{overlap}/2026-11-23T10:01:00.000Z");
        desk.routed(&id, 1);
        desk.delivered(&id, "c");
        desk.settled(&id, Ending::Acked);
    }
    let fired = desk.pass("2026-11-23T10:04:30Z");
    assert_eq!(
        fired,
        [
            "buffer-one/2026-11-23T10:02:00.000Z",
            "buffer-all/2026-11-23T10:02:00.000Z"
        ]
    );
    assert_eq!(
        desk.restart("2026-11-23T10:04:40Z"),
        [""; 0],
        "still waiting"
    );
    desk.settled("buffer-all/2026-11-23T10:02:00.000Z", Ending::Died);
    assert_eq!(
        desk.pass("2026-11-23T10:04:50Z"),
        ["buffer-all/2026-11-23T10:03:00.000Z"]
    );
}

/// Ids without the name and the date.
fn clocks(ids: &[String]) -> Vec<&str> {
    ids.iter()
        .map(|id| &id[id.len() - 13..id.len() - 5])
        .collect()
}

#[test]
fn what_was_missed_goes_by_its_policy() {
    type Row<'a> = (&'a [(&'a str, FieldValue)], &'a [&'a str], &'a str);
    #[rustfmt::skip]
    let table: [Row<'_>; 7] = [
        (&[],                                                                     &["11:30:00"],                         "the last one for all"),
        (&[("misfire", "skip".into())],                                           &[],                                   "none"),
        (&[("misfire", "all".into())],                                            &["10:30:00", "11:00:00", "11:30:00"], "all"),
        (&[("misfire", "all".into()), ("misfire-max", 2_i32.into())],             &["11:00:00", "11:30:00"],             "the last two"),
        (&[("misfire", "all".into()), ("misfire-window", 3_600_000_i32.into())],  &["11:00:00", "11:30:00"],             "those of the last hour"),
        (&[("misfire-window", 60_000_i32.into())],                                &[],                                   "older than the window"),
        (&[("max-runs", 1_i32.into()), ("misfire", "all".into())],                &["10:30:00"],                         "more runs are not wanted"),
    ];
    for (headers, expected, why) in table {
        let mut desk = Desk::new(MONDAY);
        let mut all: Vec<(&str, FieldValue)> =
            vec![("name", "n".into()), ("cron", "*/30 * * * *".into())];
        all.extend(headers.iter().cloned());
        desk.order_message(&order(all)).unwrap();
        assert_eq!(
            clocks(&desk.restart("2026-11-23T11:45:00Z")),
            expected,
            "{why}"
        );
    }
}

#[test]
fn what_is_late_by_less_than_a_minute_is_not_missed() {
    let mut desk = Desk::new(MONDAY);
    desk.put(&[("name", "n"), ("every", "1m"), ("misfire", "skip")]);
    assert_eq!(
        clocks(&desk.restart("2026-11-23T10:02:00Z")),
        ["10:01:00", "10:02:00"]
    );
    assert_eq!(clocks(&desk.restart("2026-11-23T10:05:30Z")), ["10:05:00"]);
}

#[test]
fn single_times() {
    let mut desk = Desk::new(MONDAY);
    for (name, at) in [
        ("text", FieldValue::from("2026-11-23T11:00:00+01:00")),
        ("stamp", FieldValue::Timestamp(1_795_428_060)),
        ("ms", FieldValue::I64(1_795_428_060_250)),
    ] {
        desk.now = desk::at("2026-11-23T09:00:00Z");
        desk.order([("name", name.into()), ("at", at)]).unwrap();
    }
    let fired = desk.pass("2026-11-23T12:00:00Z");
    assert_eq!(
        fired,
        [
            "text/2026-11-23T10:00:00.000Z",
            "stamp/2026-11-23T10:01:00.000Z",
            "ms/2026-11-23T10:01:00.250Z"
        ]
    );
    assert_eq!(desk.ask("show", "ms")["state"], "ended");
    // Programs say what they want each time they start.
    let again = desk.put(&[("name", "text"), ("at", "2026-11-23T10:00:00Z")]);
    assert_eq!(again["next"].as_array().map(Vec::len), Some(0));
    desk.put(&[
        ("name", "late"),
        ("at", "2026-11-23T11:00:00Z"),
        ("misfire", "fire-once"),
    ]);
    assert_eq!(
        desk.pass("2026-11-23T12:00:01Z"),
        ["late/2026-11-23T11:00:00.000Z"]
    );
    desk.put(&[
        ("name", "late"),
        ("at", "2026-11-23T11:30:00Z"),
        ("misfire", "fire-once"),
    ]);
    desk.put(&[
        ("name", "late"),
        ("at", "2026-11-23T11:00:00Z"),
        ("misfire", "fire-once"),
    ]);
    assert_eq!(desk.pass("2026-11-23T12:00:02Z"), [""; 0], "11:00 has been");
}

#[test]
fn bounds_dates_and_counts() {
    let mut desk = Desk::new(MONDAY);
    desk.put(&[
        ("name", "bounds"),
        ("cron", "0 12 * * *"),
        ("timezone", "Europe/Berlin"),
        ("start", "2026-11-25T00:00:00Z"),
        ("end", "2026-11-29T00:00:00Z"),
        ("exclude-dates", "2026-11-26, 2026-11-27"),
    ]);
    desk.order([
        ("name", "count".into()),
        ("every", "1h".into()),
        ("max-runs", 2_i32.into()),
    ])
    .unwrap();
    desk.put(&[
        ("name", "from"),
        ("every", "2h"),
        ("start", "2026-11-23T10:30:00Z"),
        ("end", "2026-11-23T13:00:00Z"),
    ]);
    let mut fired = desk.pass("2026-12-23T00:00:00Z");
    fired.sort();
    assert_eq!(
        fired,
        [
            "bounds/2026-11-25T11:00:00.000Z",
            "bounds/2026-11-28T11:00:00.000Z",
            "count/2026-11-23T11:00:00.000Z",
            "count/2026-11-23T12:00:00.000Z",
            "from/2026-11-23T10:30:00.000Z",
            "from/2026-11-23T12:30:00.000Z",
        ]
    );
}

#[test]
fn jitter_puts_off_by_the_same_each_time() {
    let due = || {
        let mut desk = Desk::new(MONDAY);
        desk.order([
            ("name", "n".into()),
            ("every", "1h".into()),
            ("jitter", 600_000_i32.into()),
        ])
        .unwrap();
        let preview = desk.ask("preview", "n");
        let next = preview["next"].as_array().unwrap().clone();
        next.iter()
            .map(|next| next["due"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let first = due();
    assert_eq!(first, due());
    let minutes: std::collections::BTreeSet<_> = first.iter().map(|due| &due[14..19]).collect();
    assert!(minutes.len() > 5, "{minutes:?}");
    assert!(
        minutes.iter().all(|minute| *minute < "10:01"),
        "{minutes:?}"
    );
}

#[test]
fn paused_schedule_leaves_out_what_it_would_have_fired() {
    let mut desk = Desk::new(MONDAY);
    desk.put(&[("name", "n"), ("every", "1m")]);
    desk.pass("2026-11-23T10:01:00Z");
    let reply = desk.put(&[("action", "pause"), ("name", "n"), ("note", "holidays")]);
    assert_eq!(
        (&reply["state"], &reply["next"][0]),
        (&"paused".into(), &serde_json::Value::Null)
    );
    desk.put(&[("name", "n"), ("every", "1m")]);
    assert_eq!(
        desk.restart("2026-11-23T10:05:00Z"),
        [""; 0],
        "made anew it is still paused"
    );
    assert_eq!(desk.ask("show", "n")["note"], "holidays");
    desk.put(&[("action", "resume"), ("name", "n"), ("note", "")]);
    assert_eq!(clocks(&desk.pass("2026-11-23T10:06:00Z")), ["10:06:00"]);
    desk.ask("delete", "n");
    assert!(desk.kept.is_empty(), "{:?}", desk.kept.keys());
    assert_eq!(desk.next_due(), None);
}

#[test]
fn same_name_changes_a_schedule() {
    let mut desk = Desk::new(MONDAY);
    desk.put(&[("name", "n"), ("every", "1m")]);
    desk.pass("2026-11-23T10:02:30Z");
    desk.put(&[("name", "n"), ("every", "1m"), ("routing-key", "other")]);
    assert_eq!(
        clocks(&desk.pass("2026-11-23T10:03:10Z")),
        ["10:03:00"],
        "counted as before"
    );
    assert_eq!(desk.sent.last().unwrap().routing_key(), "other");
    desk.put(&[("name", "n"), ("every", "2m")]);
    assert_eq!(
        clocks(&desk.pass("2026-11-23T10:05:30Z")),
        ["10:05:10"],
        "counted anew"
    );
    let shown = desk.ask("show", "n");
    assert_eq!(
        (&shown["runs"], &shown["trigger"]["every"]),
        (&4.into(), &"2m".into())
    );
    desk.restart("2026-11-23T10:05:40Z");
    assert_eq!(desk.ask("show", "n")["runs"], 4);
    assert_eq!(
        desk.ask("history", "n")["runs"].as_array().unwrap().len(),
        4
    );
    assert_eq!(clocks(&desk.pass("2026-11-23T10:08:00Z")), ["10:07:10"]);
}

#[test]
fn runs_that_somebody_wants() {
    let mut desk = Desk::new(MONDAY);
    desk.put(&[("name", "n"), ("cron", "0 * * * *")]);
    let first = desk.ask("run-now", "n");
    let second = desk.ask("run-now", "n");
    assert_eq!(first["message_id"], "n/run-now-2026-11-23T10:00:00.000Z");
    assert_eq!(
        second["message_id"], "n/run-now-2026-11-23T10:00:00.001Z",
        "another name"
    );
    assert_eq!(desk.sent.len(), 2);
    let backfill = [
        ("action", "backfill"),
        ("name", "n"),
        ("from", "2026-11-23T07:00:00Z"),
        ("to", "2026-11-23T09:30:00Z"),
    ];
    assert_eq!(desk.put(&backfill)["backfill"], 3);
    desk.turn_once();
    let fired = desk.restart("2026-11-23T10:00:01Z");
    assert_eq!(
        desk.sent.len(),
        5,
        "goes on after a crash, with those that are left: {fired:?}"
    );
    let id = message_id(&desk.sent[2]);
    assert_eq!(id, "n/backfill-1-2026-11-23T07:00:00.000Z");
    assert_eq!(desk.put(&backfill)["backfill"], 3);
    desk.catch_up();
    assert_eq!(
        message_id(&desk.sent[5]),
        "n/backfill-2-2026-11-23T07:00:00.000Z"
    );
    assert_eq!(desk.ask("show", "n")["extra_runs"], 8);
}

#[test]
fn history_tells_what_became_of_runs() {
    let mut desk = Desk::new(MONDAY);
    desk.order([
        ("name", "n".into()),
        ("every", "1m".into()),
        ("deadline", 90_000_i32.into()),
    ])
    .unwrap();
    let ids = desk.pass("2026-11-23T10:03:00Z");
    desk.routed(&ids[0], 1);
    desk.routed(&ids[1], 2);
    desk.delivered(&ids[0], "c1");
    desk.delivered(&ids[1], "c1");
    desk.now.0 += 250;
    desk.settled(&ids[0], Ending::Acked);
    desk.settled(&ids[1], Ending::Acked);
    desk.routed(&ids[2], 0);
    desk.restart("2026-11-23T10:04:00Z");
    desk.settled(&ids[1], Ending::Died);
    desk.settled(&ids[1], Ending::Died);
    desk.pass("2026-11-23T10:04:40Z");
    let history = desk.ask("history", "n");
    let runs = history["runs"].as_array().unwrap();
    let told: Vec<_> = runs
        .iter()
        .map(|run| {
            let text = |field: &str| run[field].as_str().unwrap_or("-").to_owned();
            (
                text("outcome"),
                text("consumer_tag"),
                run["alarm"].as_bool().unwrap(),
            )
        })
        .collect();
    let row = |outcome: &str, tag: &str, alarm| (outcome.to_owned(), tag.to_owned(), alarm);
    assert_eq!(
        told,
        [
            row("-", "-", false),
            row("unrouted", "-", true),
            row("died", "c1", true),
            row("acked", "c1", true),
        ],
        "the latest first; the first was acked after its deadline"
    );
    assert_eq!(runs[3]["ended"], "2026-11-23T10:03:00.250Z");
    assert_eq!(desk.registry.metrics().alarms(), 2, "since the start");
}

#[test]
fn what_was_refused_is_in_the_history_with_the_reason() {
    let mut desk = Desk::new(MONDAY);
    desk.put(&[("name", "n"), ("every", "1m"), ("overlap", "skip")]);
    for (until, why) in [
        ("2026-11-23T10:01:00Z", Refusal::NoUser),
        ("2026-11-23T10:02:00Z", Refusal::NoRight),
    ] {
        let ids = desk.pass(until);
        assert_eq!(ids.len(), 1, "it goes on, and no run is under way");
        desk.refused(&ids[0], why);
    }
    desk.restart("2026-11-23T10:02:30Z");
    let history = desk.ask("history", "n");
    let run = |n: usize| {
        (
            &history["runs"][n]["outcome"],
            &history["runs"][n]["queues"],
        )
    };
    let right = "refused: its user may not write to the exchange any more".into();
    let gone = "refused: its user is gone, or the vhost is closed to that user".into();
    assert_eq!(run(0), (&right, &0.into()));
    assert_eq!(run(1), (&gone, &0.into()));
}

#[test]
fn histories_are_bounded() {
    let limits = Limits {
        history_runs_max: 30,
        history_runs_each_max: 20,
        ..Limits::default()
    };
    let mut desk = Desk::with_limits(MONDAY, limits);
    desk.put(&[("name", "a"), ("every", "1m")]);
    desk.put(&[("name", "b"), ("every", "2m")]);
    desk.pass("2026-11-23T11:00:30Z");
    let entries =
        |desk: &mut Desk, name: &str| desk.ask("history", name)["runs"].as_array().unwrap().len();
    assert_eq!(
        (entries(&mut desk, "a"), entries(&mut desk, "b")),
        (15, 15),
        "the longest is cut"
    );
    assert_eq!(desk.kept.len(), 2 + 2 + 30, "and what is kept of it too");
    desk.restart("2026-11-23T11:00:40Z");
    assert_eq!((entries(&mut desk, "a"), entries(&mut desk, "b")), (15, 15));
}

#[test]
fn start_of_the_broker_is_a_time() {
    let mut desk = Desk::new(MONDAY);
    desk.put(&[("name", "n"), ("cron", "@reboot")]);
    assert_eq!(desk.pass("2026-11-23T10:10:00Z"), [""; 0]);
    assert_eq!(
        desk.restart("2026-11-23T10:20:00Z"),
        ["n/2026-11-23T10:20:00.000Z"]
    );
    assert_eq!(
        desk.restart("2026-11-23T10:20:00Z"),
        ["n/2026-11-23T10:20:00.001Z"]
    );
    assert_eq!(desk.ask("show", "n")["state"], "active");
}

#[test]
fn preview_tells_of_changed_clocks() {
    let mut desk = Desk::new("2026-10-24T12:00:00Z");
    let preview = desk.put(&[
        ("action", "preview"),
        ("cron", "30 2 * * *"),
        ("timezone", "Europe/Berlin"),
    ]);
    assert_eq!(preview["next"][0]["local"], "2026-10-25T02:30:00+02:00");
    assert_eq!(
        preview["next"][0]["notes"][0],
        "2026-10-25 02:30 comes twice in Europe/Berlin: this is the first"
    );
    assert_eq!(
        preview["next"][1]["notes"][0],
        "2026-10-25 02:30 comes twice in Europe/Berlin: this is the second"
    );
    desk.now = desk::at("2026-03-28T12:00:00Z");
    let spring = desk
        .order([
            ("action", "preview".into()),
            ("cron", "30 2 * * *".into()),
            ("timezone", "Europe/Berlin".into()),
            ("limit", 1_i32.into()),
        ])
        .unwrap();
    assert_eq!(
        spring["next"][0]["notes"][0],
        "2026-03-29 02:30 does not exist in Europe/Berlin and is skipped"
    );
    let never = desk.put(&[("action", "preview"), ("cron", "0 0 30 2 *")]);
    assert_eq!(never["notes"][0], "never fires (again)");
}

#[test]
fn lists_show_what_one_may_see() {
    let mut desk = Desk::new(MONDAY);
    for name in ["c", "a", "b"] {
        desk.put(&[("name", name), ("every", "1m")]);
    }
    let list = desk.put(&[("action", "list")]);
    let names = |list: &serde_json::Value| {
        let all = list["schedules"].as_array().unwrap().clone();
        all.iter()
            .map(|s| s["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&list), ["a", "b", "c"]);
    let page = desk
        .order([
            ("action", "list".into()),
            ("after", "a".into()),
            ("limit", 1_i32.into()),
        ])
        .unwrap();
    assert_eq!(
        (names(&page), &page["more"]),
        (vec!["b".to_owned()], &true.into())
    );
}

#[test]
fn a_put_that_ends_a_pause_leaves_out_what_passed_as_resume_does() {
    let paused = |paused: bool| {
        order([
            ("name", "a".into()),
            ("cron", "@hourly".into()),
            ("misfire", "all".into()),
            ("paused", FieldValue::Bool(paused)),
        ])
    };
    let resume = order([("name", "a".into()), ("action", "resume".into())]);
    for ending in [resume, paused(false)] {
        let mut desk = Desk::new("2026-11-23T10:30:00Z");
        desk.order_message(&paused(true)).expect("a schedule");
        assert_eq!(desk.pass("2026-11-23T20:30:00Z"), [""; 0]);
        desk.order_message(&ending).expect("it goes on");
        let next = ["a/2026-11-23T21:00:00.000Z"];
        assert_eq!(desk.pass("2026-11-23T21:00:00Z"), next, "{ending:?}");
    }
}

/// What is kept is the whole order, and it is kept in memory and in every checkpoint.
#[test]
fn all_that_is_kept_of_a_schedule_counts() {
    let limits = Limits {
        templates_octets_max: 10_000,
        ..Limits::default()
    };
    let mut desk = Desk::with_limits("2026-11-23T10:30:00Z", limits);
    let padded = format!("2026-12-25{}", " ".repeat(6_000));
    let make = |desk: &mut Desk, name: &str| {
        desk.order([
            ("name", name.into()),
            ("cron", "@hourly".into()),
            ("exclude-dates", padded.as_str().into()),
        ])
    };
    assert!(make(&mut desk, "a").is_ok());
    assert!(make(&mut desk, "a").is_ok(), "in place of the old one");
    let refusal = make(&mut desk, "b").expect_err("too much");
    assert!(
        refusal.text.contains("larger than 10000 octets"),
        "{refusal}"
    );
    desk.restart("2026-11-23T10:31:00Z");
    assert!(make(&mut desk, "b").is_err(), "also after a start");
    desk.ask("delete", "a");
    assert!(make(&mut desk, "b").is_ok());
}

#[test]
fn a_message_whose_properties_fit_no_frame_is_refused() {
    let mut desk = Desk::new("2026-11-23T10:30:00Z");
    let order = order([("name", "a".into()), ("cron", "@hourly".into())]);
    let mut properties = order.properties();
    let headers: &mut FieldTable = properties.headers.get_or_insert_default();
    headers.insert("trace", "x".repeat(70_000).as_str());
    let refusal = desk.order_message(&order.with_properties(&properties));
    let refusal = refusal.expect_err("too large");
    assert!(
        refusal.text.contains("larger than 65536 octets"),
        "{refusal}"
    );
}

#[test]
fn who_gets_the_answer_to_an_order_is_not_who_answers_its_messages() {
    let mut desk = Desk::new("2026-11-23T10:30:00Z");
    for (to, expected) in [
        ("amq.rabbitmq.reply-to.abc", None),
        ("replies", Some("replies")),
    ] {
        let order = order([("name", "a".into()), ("cron", "@hourly".into())]);
        let order = order.with_properties(&Properties {
            reply_to: Some(to.to_owned().into()),
            ..order.properties()
        });
        desk.order_message(&order).expect("a schedule");
        desk.ask("run-now", "a");
        let sent = desk.sent.last().expect("a message").properties();
        assert_eq!(sent.reply_to, expected.map(Into::into));
    }
}

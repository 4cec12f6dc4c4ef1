//! What the registry does when it is told to, and when time passes.

mod desk;

use desk::{Desk, message_id};
use leveret_codec::FieldValue;
use leveret_core::schedule::Ending;

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

//! Orders that are refused: each says what to change, and changes nothing.

#![allow(clippy::unwrap_used)] // helpers of tests

mod desk;

use desk::{Desk, order};
use leveret_codec::FieldValue;
use leveret_core::error::ReplyCode;
use leveret_scheduler::Limits;

const NOW: &str = "2026-11-23T10:00:00.000Z";

type Headers = Vec<(&'static str, FieldValue)>;

fn text(pairs: &[(&'static str, &str)]) -> Headers {
    pairs
        .iter()
        .map(|(name, value)| (*name, FieldValue::from(*value)))
        .collect()
}

fn with(name: &'static str, value: impl Into<FieldValue>) -> Headers {
    let mut headers = text(&[("name", "n"), ("every", "1m")]);
    headers.push((name, value.into()));
    headers
}

#[test]
fn errors_say_what_to_change() {
    let cron = |cron| text(&[("name", "n"), ("cron", cron)]);
    let quartz = |cron| text(&[("name", "n"), ("cron", cron), ("dialect", "quartz")]);
    let every = |every| text(&[("name", "n"), ("every", every)]);
    let at = |at| text(&[("name", "n"), ("at", at)]);
    let octets = |octets: &'static [u8]| FieldValue::LongString(octets.into());
    #[rustfmt::skip]
    let table: Vec<(Headers, &str)> = vec![
        // Cron.
        (cron("61 * * * *"), "x-schedule-cron '61 * * * *': minute 61 is not within 0-59; an example: '*/5 * * * *'"),
        (cron("* 24 * * *"), "x-schedule-cron '* 24 * * *': hour 24 is not within 0-23; an example: '0 9-17 * * *'"),
        (cron("* * 0 * *"), "x-schedule-cron '* * 0 * *': day of month 0 is not within 1-31; an example: '0 0 1,15 * *'"),
        (cron("0 0 1 FOO *"), "x-schedule-cron '0 0 1 FOO *': month 'FOO' is neither a number nor a name; an example: '0 0 1 JAN,JUL *'"),
        (cron("0 0 * * 7"), "x-schedule-cron '0 0 * * 7': day of week 7 is not within 0-6 (Sunday is 0); an example: '0 9 * * MON-FRI'"),
        (cron("0 0 * * FRI-MON"), "x-schedule-cron '0 0 * * FRI-MON': day of week range 'FRI-MON': its end is before its beginning; an example: '0 9 * * MON-FRI'"),
        (cron("*/0 * * * *"), "x-schedule-cron '*/0 * * * *': minute '*/0': the step must be at least 1; an example: '*/5 * * * *'"),
        (cron("*/x * * * *"), "x-schedule-cron '*/x * * * *': minute '*/x': the step is not a number; an example: '*/5 * * * *'"),
        (cron("1,,2 * * * *"), "x-schedule-cron '1,,2 * * * *': minute has an empty item; an example: '*/5 * * * *'"),
        (cron("* * * *"), "x-schedule-cron '* * * *': 5 fields (or 6 with seconds) are wanted, not 4; an example: '*/5 * * * *'"),
        (cron("@nightly"), "x-schedule-cron '@nightly': '@nightly' is no descriptor (there are @yearly @monthly @weekly @daily @hourly @every @reboot); an example: '@every 1h30m'"),
        (cron("@every soon"), "x-schedule-cron '@every soon': duration 'soon': a number is missing before 'soon'; an example: '@every 1h30m'"),
        (cron("@every 2000000h"), "x-schedule-cron '@every 2000000h': longer than a hundred years; an example: '@every 24h'"),
        (cron("TZ=Mars/Base * * * * *"), "x-schedule-cron 'TZ=Mars/Base * * * * *': no time zone 'Mars/Base'; an example: 'CRON_TZ=Europe/Berlin 0 9 * * *'"),
        (cron("TZ=UTC"), "x-schedule-cron 'TZ=UTC': no expression after the time zone; an example: 'CRON_TZ=Europe/Berlin 0 9 * * *'"),
        (cron(" "), "x-schedule-cron: it is empty; an example: '*/5 * * * *'"),
        (cron("0 0 30 2 *"), "schedule 'n' would never fire (searched: 5 years): look at x-schedule-cron, -start, -end and -exclude-dates, for instance with x-schedule-action 'preview'"),
        (quartz("0 0 12 * * *"), "x-schedule-cron '0 0 12 * * *': exactly one of day of month and day of week must be '?'; an example: '0 0 12 ? * MON-FRI'"),
        (quartz("0 0 0 ? * 6#6"), "x-schedule-cron '0 0 0 ? * 6#6': day of week '6#6': '#' is followed by a number within 1-5; an example: '0 0 9 ? * MON-FRI'"),
        (quartz("0 0/60 * * * ?"), "x-schedule-cron '0 0/60 * * * ?': minute step 60 is more than 59; an example: '0 */5 * * * ?'"),
        (quartz("0 0 0 1 1 ? 1969"), "x-schedule-cron '0 0 0 1 1 ? 1969': year 1969 is not within 1970-2099; an example: '0 0 0 1 1 ? 2030-2035'"),
        // What is passed on.
        (with("dead-letter-routing-key", "k"), "x-schedule-dead-letter-routing-key: it means nothing without x-schedule-dead-letter-exchange; an example: 'failed'"),
        (with("dead-letter-exchange", &*"x".repeat(256)), "x-schedule-dead-letter-exchange: longer than 255 octets; an example: 'amq.direct'"),
        (with("retry-delay", 0_i64), "x-schedule-retry-delay: 0 is not within 1-31622400000; an example: '60000'"),
        (with("retry-limit", -1_i64), "x-schedule-retry-limit: -1 is not within 0-1000000; an example: '3'"),
        (with("retry-limit", "three"), "x-schedule-retry-limit: a whole number is wanted, not longstr; an example: '3'"),
        // Intervals and single times.
        (every("250ms"), "x-schedule-every '250ms': the shortest interval is 1s; an example: '1h30m'"),
        (every("1.5s"), "x-schedule-every '1.5s': an interval is whole seconds; an example: '1h30m'"),
        (every("-1h"), "x-schedule-every '-1h': it is negative; an example: '1h30m'"),
        (every("2000000h"), "x-schedule-every '2000000h': longer than a hundred years; an example: '1h30m'"),
        (every("10"), "x-schedule-every '10': a unit is missing (h, m, s); an example: '1h30m'"),
        (at("2026-11-23T09:59:59Z"), "x-schedule-at: it is in the past; choose a later time, or add x-schedule-misfire 'fire-once' to fire it at once; an example: '2030-01-31T09:00:00Z'"),
        (at("tomorrow"), "x-schedule-at: 'tomorrow' is no RFC 3339 time between 1970 and 9998; an example: '2030-01-31T09:00:00Z'"),
        (vec![("name", "n".into()), ("at", (-5_i64).into())], "x-schedule-at: -5 is negative: milliseconds since 1970 are wanted; an example: '2030-01-31T09:00:00Z'"),
        (vec![("name", "n".into()), ("at", i64::MAX.into())], "x-schedule-at: it is after the year 9998; an example: '2030-01-31T09:00:00Z'"),
        (vec![("name", "n".into()), ("at", 1.5_f64.into())], "x-schedule-at: RFC 3339 text, a timestamp or milliseconds since 1970 is wanted, not double; an example: '2030-01-31T09:00:00Z'"),
        // Names and headers.
        (text(&[("every", "1m")]), "x-schedule-name: it is missing: every schedule has a name; an example: 'nightly-report'"),
        (text(&[("name", "a\nb"), ("every", "1m")]), "x-schedule-name: it has control characters; an example: 'nightly-report'"),
        (vec![("name", octets(b"\xff")), ("every", "1m".into())], "x-schedule-name: it is not UTF-8; an example: 'nightly-report'"),
        (vec![("name", 7_i32.into()), ("every", "1m".into())], "x-schedule-name: a text is wanted, not signedint; an example: 'nightly-report'"),
        (text(&[("name", &"n".repeat(201)), ("every", "1m")]), "x-schedule-name: longer than 200 octets; an example: 'nightly-report'"),
        (text(&[("name", "n")]), "exactly one of x-schedule-cron, x-schedule-every and x-schedule-at is wanted, not 0; an example: x-schedule-cron '*/5 * * * *'"),
        (with("cron", "* * * * *"), "exactly one of x-schedule-cron, x-schedule-every and x-schedule-at is wanted, not 2; an example: x-schedule-cron '*/5 * * * *'"),
        (with("crom", "* * * * *"), "header 'x-schedule-crom' is not known; do you mean 'x-schedule-cron'?"),
        (with("colour", "blue"), "header 'x-schedule-colour' is not known"),
        (with("action", "stop"), "x-schedule-action 'stop': it must be one of put, delete, pause, resume, run-now, backfill, list, show, preview, history"),
        (with("action", "delete"), "x-schedule-every means nothing with x-schedule-action 'delete': leave it out"),
        (with("dialect", "quartz"), "x-schedule-dialect: it means nothing without x-schedule-cron; an example: 'robfig'"),
        // Policies.
        (with("timezone", "Mars/Base"), "x-schedule-timezone: 'Mars/Base' is not a zone of the tz database; an example: 'Europe/Berlin'"),
        (with("misfire", "later"), "x-schedule-misfire 'later': it must be one of fire-once, skip, all"),
        (with("misfire-max", 5_i32), "x-schedule-misfire-max: it means nothing without x-schedule-misfire 'all'; an example: '100'"),
        (with("misfire-window", -1_i32), "x-schedule-misfire-window: -1 is not within 1-316224000000; an example: '3600000'"),
        (with("overlap", true), "x-schedule-overlap: a text is wanted, not bool; an example: 'skip'"),
        (with("overlap-timeout", 5_i32), "x-schedule-overlap-timeout: it means nothing without x-schedule-overlap skip, buffer-one or buffer-all; an example: '1800000'"),
        (with("jitter", i64::MAX), "x-schedule-jitter: 9223372036854775807 is not within 0-86400000; an example: '30000'"),
        (with("max-runs", 0_i32), "x-schedule-max-runs: 0 is not within 1-9223372036854775807; an example: '10'"),
        (with("max-runs", "10"), "x-schedule-max-runs: a whole number is wanted, not longstr; an example: '10'"),
        (with("deadline", 0_i32), "x-schedule-deadline: 0 is not within 1-31622400000; an example: '600000'"),
        (with("paused", "yes"), "x-schedule-paused: true or false is wanted, not longstr; an example: 'true'"),
        (with("exclude-dates", "24.12.2026"), "x-schedule-exclude-dates: '24.12.2026' is no date; an example: '2030-12-24,2030-12-25'"),
        (with("end", "2026-11-23T09:00:00Z"), "schedule 'n' would never fire (searched: 5 years): look at x-schedule-cron, -start, -end and -exclude-dates, for instance with x-schedule-action 'preview'"),
        (text(&[("name", "n"), ("every", "1m"), ("start", "2030-01-02T00:00:00Z"), ("end", "2030-01-01T00:00:00Z")]), "x-schedule-end: it is before x-schedule-start; an example: '2030-12-31T23:59:59Z'"),
        (text(&[("name", "n"), ("cron", "@daily"), ("dst", "never")]), "x-schedule-dst 'never': there are skip or next-valid (an hour that is missing) and both or once (an hour that comes twice); an example: 'next-valid,once'"),
        (text(&[("name", "n"), ("cron", "@daily"), ("dst", "skip,next-valid")]), "x-schedule-dst 'skip,next-valid': one rule for the missing hour and one for the doubled hour at most"),
        (with("routing-key", "k".repeat(256)), "x-schedule-routing-key: longer than 255 octets; an example: 'reports'"),
        // Of what is there.
        (text(&[("action", "backfill"), ("name", "there")]), "x-schedule-from: it is missing; an example: '2030-01-01T00:00:00Z'"),
        (text(&[("action", "backfill"), ("name", "there"), ("from", "2026-11-24T00:00:00Z"), ("to", "2026-11-25T00:00:00Z")]), "x-schedule-to: it is in the future: those times come by themselves; an example: '2030-01-31T00:00:00Z'"),
        (text(&[("action", "backfill"), ("name", "there"), ("from", "2026-11-01T00:00:00Z"), ("to", "2026-11-23T00:00:00Z")]), "a backfill of schedule 'there' from 2026-11-01T00:00:00.000Z to 2026-11-23T00:00:00.000Z has more than 10000 runs: choose a shorter range"),
    ];
    let mut desk = Desk::new(NOW);
    desk.put(&[("name", "there"), ("cron", "* * * * *")]);
    let kept = desk.kept.clone();
    for (headers, expected) in table {
        let message = order(headers.clone());
        let error = desk.order_message(&message).expect_err(expected);
        let expected = format!("PRECONDITION_FAILED - {expected}");
        assert_eq!(error.text, expected, "{headers:?}");
        assert_eq!(error.code, ReplyCode::PreconditionFailed);
        assert_eq!(desk.kept, kept, "{headers:?} has changed something");
    }
    assert_eq!(desk.registry.len(), 1);
}

#[test]
fn rights_are_asked_for() {
    let mut desk = Desk::new(NOW);
    desk.put(&[("name", "mine"), ("every", "1m")]);
    #[rustfmt::skip]
    let table = [
        (text(&[("name", "no-way"), ("every", "1m")]),                            ReplyCode::AccessRefused),
        (text(&[("name", "n"), ("every", "1m"), ("exchange", "no-such")]),        ReplyCode::NotFound),
        (text(&[("action", "delete"), ("name", "no-way")]),                       ReplyCode::AccessRefused),
        (text(&[("action", "show"), ("name", "no-way")]),                         ReplyCode::AccessRefused),
        (text(&[("action", "preview"), ("name", "no-way")]),                      ReplyCode::AccessRefused),
        (text(&[("action", "history"), ("name", "no-way")]),                      ReplyCode::AccessRefused),
        (text(&[("action", "pause"), ("name", "gone")]),                          ReplyCode::NotFound),
        (text(&[("action", "run-now"), ("name", "gone")]),                        ReplyCode::NotFound),
    ];
    for (headers, code) in table {
        let error = desk
            .order_message(&order(headers.clone()))
            .expect_err("refused");
        assert_eq!(error.code, code, "{headers:?}");
    }
    assert_eq!(desk.registry.len(), 1);
}

#[test]
fn limits_hold() {
    let limits = Limits {
        schedules_max: 2,
        template_octets_max: 500,
        templates_octets_max: 500,
        ..Limits::default()
    };
    let mut desk = Desk::with_limits(NOW, limits);
    desk.put(&[("name", "a"), ("at", "2026-11-23T10:01:00Z")]);
    desk.put(&[("name", "b"), ("every", "1m")]);
    let third = order(text(&[("name", "c"), ("every", "1m")]));
    let error = desk.order_message(&third).expect_err("too many");
    assert!(error.text.contains("there are 2 schedules"), "{error}");
    desk.pass("2026-11-23T10:01:30Z");
    desk.order_message(&third)
        .expect("the one that has ended makes room");
    assert_eq!(desk.registry.len(), 2);
    let long = "k".repeat(200);
    let large = order(text(&[
        ("name", "b"),
        ("every", "1m"),
        ("note", &long),
        ("routing-key", &long),
    ]));
    let error = desk
        .order_message(&large)
        .expect_err("one that is too large");
    assert!(error.text.contains("is larger than 500 octets"), "{error}");
    let large = order(text(&[
        ("name", "b"),
        ("every", "1m"),
        ("routing-key", &"k".repeat(250)),
    ]));
    desk.order_message(&large).expect("alone it is not");
    let large = order(text(&[
        ("name", "c"),
        ("every", "1m"),
        ("routing-key", &"k".repeat(250)),
    ]));
    let error = desk.order_message(&large).expect_err("together they are");
    assert!(
        error.text.contains("would be larger than 500 octets"),
        "{error}"
    );
}

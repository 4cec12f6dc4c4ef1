//! What requests become: the messages that a client would publish to `amq.schedule`.

#![allow(clippy::unwrap_used)]

mod desk;

use desk::Desk;
use leveret_codec::FieldValue;
use serde_json::json;

/// Method, path, body, and the headers of the order.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

#[tokio::test]
async fn requests_become_orders() {
    let desk = Desk::new();
    #[rustfmt::skip]
    let table: &[Row] = &[
        ("GET",    "/api/schedules/%2F?limit=3&after=a+b%26",   "", &[("x-schedule-action", "list"), ("x-schedule-limit", "3"), ("x-schedule-after", "a b&")]),
        ("GET",    "/api/schedules/%2F/a",                      "", &[("x-schedule-action", "show"), ("x-schedule-name", "a")]),
        ("DELETE", "/api/schedules/%2F/a",                      "", &[("x-schedule-action", "delete"), ("x-schedule-name", "a")]),
        ("POST",   "/api/schedules/%2F/a/run",                  "", &[("x-schedule-action", "run-now"), ("x-schedule-name", "a")]),
        ("POST",   "/api/schedules/%2F/a/pause",                "", &[("x-schedule-action", "pause"), ("x-schedule-name", "a")]),
        ("POST",   "/api/schedules/%2F/a/pause",                r#"{"note":"n"}"#, &[("x-schedule-action", "pause"), ("x-schedule-name", "a"), ("x-schedule-note", "n")]),
        ("POST",   "/api/schedules/%2F/a/resume",               r#"{"note":null}"#, &[("x-schedule-action", "resume"), ("x-schedule-name", "a")]),
        ("POST",   "/api/schedules/%2F/a/backfill",             r#"{"from":1,"to":"t"}"#, &[("x-schedule-action", "backfill"), ("x-schedule-name", "a"), ("x-schedule-from", "1"), ("x-schedule-to", "t")]),
        ("GET",    "/api/schedules/%2F/a/preview?count=5",      "", &[("x-schedule-action", "preview"), ("x-schedule-name", "a"), ("x-schedule-limit", "5")]),
        ("GET",    "/api/schedules/%2F/a/history?limit=7",      "", &[("x-schedule-action", "history"), ("x-schedule-name", "a"), ("x-schedule-limit", "7")]),
        ("POST",   "/api/schedules/%2F/preview?count=2",        r#"{"cron":"@daily"}"#, &[("x-schedule-action", "preview"), ("x-schedule-cron", "@daily"), ("x-schedule-limit", "2")]),
        ("GET",    "/api/schedules/%2F/preview",                "", &[("x-schedule-action", "show"), ("x-schedule-name", "preview")]),
        ("GET",    "/api/delayed/%2F",                          "", &[("x-delayed-action", "list")]),
        ("GET",    "/api/delayed/%2F?limit=4",                  "", &[("x-delayed-action", "list"), ("x-delayed-limit", "4")]),
        ("GET",    "/api/delayed/%2F/1f",                       "", &[("x-delayed-action", "peek"), ("x-delayed-id", "1f")]),
        ("DELETE", "/api/delayed/%2F/a%2Fb",                    "", &[("x-delayed-action", "cancel"), ("x-delayed-id", "a/b")]),
        ("PUT",    "/api/delayed/%2F/1f",                       r#"{"deliver_after":60}"#, &[("x-delayed-action", "retime"), ("x-delayed-id", "1f"), ("x-deliver-after", "60")]),
        ("PUT",    "/api/delayed/%2F/1f",                       r#"{"deliver_at":"t"}"#, &[("x-delayed-action", "retime"), ("x-delayed-id", "1f"), ("x-deliver-at", "t")]),
    ];
    for (method, path, body, expected) in table {
        let order = desk.ordered(method, path, body).await;
        assert_eq!((order.vhost.as_str(), order.user.as_str()), ("/", "guest"));
        assert_eq!(
            (order.message.exchange(), order.message.routing_key()),
            ("amq.schedule", "")
        );
        let headers = order.headers();
        assert_eq!(
            headers.len(),
            expected.len(),
            "{method} {path}: {headers:?}"
        );
        for (name, value) in *expected {
            let found = headers.get(name).unwrap();
            let found = match found.as_i64() {
                Some(number) => number.to_string(),
                None => found.as_str().unwrap().to_owned(),
            };
            assert_eq!(found, *value, "{method} {path}: {name}");
        }
    }
}

#[tokio::test]
async fn names_and_vhosts_are_decoded_once() {
    let desk = Desk::new();
    let order = desk
        .ordered("GET", "/api/schedules/a%2Fb/x%2Fy%252F%3F%C3%A4+", "")
        .await;
    assert_eq!(order.vhost, "a/b");
    assert_eq!(order.text("x-schedule-name").unwrap(), "x/y%2F?\u{e4}+");
}

#[tokio::test]
async fn a_definition_is_one_header_a_field() {
    let desk = Desk::new();
    let body = json!({
        "cron": "0 6 * * *", "timezone": "Europe/Berlin", "dst": "skip,once", "dialect": "robfig",
        "exchange": "amq.topic", "routing_key": "r.k",
        "misfire": "all", "misfire_max": 3, "misfire_window": 60_000,
        "overlap": "skip", "overlap_timeout": 5, "jitter": 1, "start": 1_900_000_000_000_i64,
        "end": "2031-01-01T00:00:00Z", "max_runs": 9, "exclude_dates": ["2030-12-24"],
        "paused": true, "note": "n", "deadline": 7, "every": null,
        "payload": "hello",
        "properties": {"content_type": "text/plain", "delivery_mode": 2, "priority": 3,
                       "expiration": "1000", "type": "t", "app_id": null, "timestamp": 5,
                       "user_id": "guest",
                       "headers": {"k": "v", "n": -1, "f": 0.5, "deep": {"a": [true, null]}}},
    });
    let order = desk
        .ordered("PUT", "/api/schedules/%2F/nightly", &body.to_string())
        .await;
    #[rustfmt::skip]
    let texts = [
        ("action", "put"), ("name", "nightly"), ("cron", "0 6 * * *"), ("timezone", "Europe/Berlin"),
        ("dst", "skip,once"), ("dialect", "robfig"), ("exchange", "amq.topic"), ("routing-key", "r.k"),
        ("misfire", "all"), ("overlap", "skip"), ("end", "2031-01-01T00:00:00Z"), ("note", "n"),
    ];
    for (name, value) in texts {
        let found = order.text(&format!("x-schedule-{name}"));
        assert_eq!(found.as_deref(), Some(value), "{name}");
    }
    let numbers = [
        ("misfire-max", 3),
        ("misfire-window", 60_000),
        ("overlap-timeout", 5),
        ("jitter", 1),
        ("start", 1_900_000_000_000),
        ("max-runs", 9),
        ("deadline", 7),
    ];
    for (name, value) in numbers {
        let found = order.header(&format!("x-schedule-{name}"));
        assert_eq!(found, Some(FieldValue::I64(value)), "{name}");
    }
    assert_eq!(
        order.header("x-schedule-paused"),
        Some(FieldValue::Bool(true))
    );
    let dates = FieldValue::Array(vec!["2030-12-24".into()]);
    assert_eq!(order.header("x-schedule-exclude-dates"), Some(dates));
    assert_eq!(order.header("x-schedule-every"), None, "null is not there");

    assert_eq!(order.header("k"), Some("v".into()));
    assert_eq!(order.header("n"), Some(FieldValue::I64(-1)));
    assert_eq!(order.header("f"), Some(FieldValue::F64(0.5)));
    let deep = order.header("deep").unwrap();
    let inner = deep.as_table().unwrap().get("a").cloned();
    let expected = FieldValue::Array(vec![FieldValue::Bool(true), FieldValue::Void]);
    assert_eq!(inner, Some(expected));
    assert_eq!(order.headers().len(), 21 + 4);

    let message = &order.message;
    assert_eq!(message.body(), b"hello");
    assert!(message.is_persistent());
    assert_eq!(message.priority(), 3);
    let properties = message.properties();
    assert_eq!(properties.content_type.as_deref(), Some(&b"text/plain"[..]));
    assert_eq!(properties.expiration.as_deref(), Some(&b"1000"[..]));
    assert_eq!(properties.kind.as_deref(), Some(&b"t"[..]));
    assert_eq!(properties.timestamp, Some(5));
    assert_eq!(properties.app_id, None);
}

#[tokio::test]
async fn a_payload_may_be_octets() {
    let desk = Desk::new();
    let body = r#"{"every":"1h","payload":"AP8=","payload_encoding":"base64"}"#;
    let order = desk.ordered("PUT", "/api/schedules/%2F/a", body).await;
    assert_eq!(order.message.body(), [0, 255]);
}

#[tokio::test]
async fn what_makes_no_sense_is_named() {
    let desk = Desk::new();
    let long = "x".repeat(256);
    let long_name = json!({"properties": {"headers": {&long: 1}}}).to_string();
    let long_type = json!({"properties": {"content_type": long}}).to_string();
    #[rustfmt::skip]
    let table = [
        (r#"{"corn":"@daily"}"#,                      "unknown field 'corn': there are cron, every, at, "),
        (r#"{"name":"b"}"#,                           "unknown field 'name': "),
        (r#"{"payload":{}}"#,                         "payload: not a text"),
        (r#"{"payload":"?","payload_encoding":"base64"}"#, "payload: not base64: "),
        (r#"{"payload":"x","payload_encoding":"hex"}"#, "payload_encoding: 'hex' is neither string nor base64"),
        (r#"{"jitter":18446744073709551615}"#,        "jitter: 18446744073709551615 is too large for a header"),
        (r#"{"properties":[]}"#,                      "properties: not an object"),
        (r#"{"properties":{"colour":1}}"#,            "unknown field 'colour': "),
        (r#"{"properties":{"delivery_mode":3}}"#,     "properties.delivery_mode: not a whole number of 1 to 2"),
        (r#"{"properties":{"delivery_mode":"2"}}"#,   "properties.delivery_mode: not a whole number of 1 to 2"),
        (r#"{"properties":{"priority":256}}"#,        "properties.priority: not a whole number of 0 to 255"),
        (r#"{"properties":{"timestamp":-1}}"#,        "properties.timestamp: not a whole number of 0 to "),
        (r#"{"properties":{"headers":[]}}"#,          "properties.headers: not an object"),
        (r#"{"properties":{"headers":{"x-schedule-at":1}}}"#, "properties.headers: 'x-schedule-at' is an order to the broker"),
        (r#"{"properties":{"headers":{"x-delayed-action":"cancel"}}}"#, "properties.headers: 'x-delayed-action' is an order to the broker"),
        (r#"{"properties":{"user_id":"joe"}}"#,       "user_id property set to 'joe' but authenticated user was 'guest'"),
        (long_name.as_str(),                          "properties.headers: a name is longer than 255 octets"),
        (long_type.as_str(),                          "properties.content_type: longer than 255 octets"),
    ];
    for (body, reason) in table {
        let answer = desk.ask("PUT", "/api/schedules/%2F/a", body).await;
        let (status, word, said) = answer.error();
        assert_eq!((status, word.as_str()), (400, "bad_request"), "{body}");
        assert!(said.starts_with(reason), "{body}: {said}");
    }
    #[rustfmt::skip]
    let table = [
        ("POST",   "/api/schedules/%2F/a/run",      r#"{"note":"n"}"#, "unknown field 'note': there are none here"),
        ("POST",   "/api/schedules/%2F/a/pause",    r#"{"why":"n"}"#,  "unknown field 'why': there are note"),
        ("POST",   "/api/schedules/%2F/a/pause",    r#"{"note":1}"#,   "note: not a text"),
        ("POST",   "/api/schedules/%2F/a/backfill", r#"{"since":1}"#,  "unknown field 'since': there are from, to"),
        ("PUT",    "/api/delayed/%2F/1",            r#"{"at":1}"#,     "unknown field 'at': there are deliver_at, deliver_after"),
        ("DELETE", "/api/delayed/%2F/1",            r#"{"x":1}"#,      "unknown field 'x': there are none here"),
    ];
    for (method, path, body, reason) in table {
        let answer = desk.ask(method, path, body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.error().2.as_str()),
            (400, reason),
            "{body}"
        );
    }
    assert!(!desk.has_orders());
}

#[tokio::test]
async fn all_vhosts_are_listed_that_the_user_may_see() {
    let desk = Desk::new();
    let answer = desk.ask("GET", "/api/schedules", "").await;
    let expected = json!({"vhosts": [
        {"vhost": "/", "done": true},
        {"vhost": "a/b", "done": true},
    ]});
    assert_eq!(answer.json(), expected);
    let vhosts = desk.ask("GET", "/api/vhosts", "").await;
    assert_eq!(vhosts.json(), json!([{"name": "/"}, {"name": "a/b"}]));
}

//! The HTTP API of a running broker, and the commands that speak to it.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write as _;
use std::process::Output;

use common::{Broker, Client, short};
use leveret_codec::{
    BasicAck, BasicConsume, BasicPublish, FieldTable, FieldValue, Method, Properties, encode_body,
    encode_header, encode_method,
};
use serde_json::{Value, json};
use ureq::Agent;

const HOUR_MS: i64 = 3_600_000;

/// Asks the broker's HTTP API.
struct Http {
    agent: Agent,
    base: String,
}

impl Http {
    fn of(broker: &Broker) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(common::PATIENCE))
            .proxy(None)
            .build();
        Self {
            agent: Agent::new_with_config(config),
            base: url(broker),
        }
    }

    fn ask_as(&self, login: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let head = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("authorization", login);
        let mut response = if body.is_null() {
            self.agent.run(head.body(()).unwrap())
        } else {
            let head = head.header("content-type", "application/json");
            self.agent.run(head.body(body.to_string()).unwrap())
        }
        .unwrap();
        let text = response.body_mut().read_to_string().unwrap();
        (
            response.status().as_u16(),
            serde_json::from_str(&text).unwrap(),
        )
    }

    /// As guest.
    fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        self.ask_as("Basic Z3Vlc3Q6Z3Vlc3Q=", method, path, body)
    }

    /// What anybody gets.
    fn text(&self, path: &str) -> String {
        let mut response = self
            .agent
            .get(format!("{}{path}", self.base))
            .call()
            .unwrap();
        response.body_mut().read_to_string().unwrap()
    }

    fn get(&self, path: &str) -> (u16, Value) {
        self.ask("GET", path, &Value::Null)
    }
}

fn url(broker: &Broker) -> String {
    format!("http://{}", broker.server().http_addr().unwrap())
}

/// A persistent message for `q`, to be delivered in an hour.
fn publish_later(client: &mut Client<std::net::TcpStream>, message_id: &'static str) {
    let mut headers = FieldTable::default();
    headers.insert("x-deliver-after", FieldValue::I64(HOUR_MS));
    let properties = Properties {
        delivery_mode: Some(2),
        message_id: Some(message_id.into()),
        headers: Some(headers),
        ..Properties::default()
    };
    let publish = BasicPublish {
        routing_key: short("q"),
        ..BasicPublish::default()
    };
    let (mut raw, mut frames) = (Vec::new(), Vec::new());
    let flags = properties.encode(&mut raw);
    encode_method(&mut frames, 1, &publish.into());
    encode_header(&mut frames, 1, 5, flags, &raw);
    encode_body(&mut frames, 1, b"later");
    client.stream.write_all(&frames).unwrap();
    client.declare_queue("q"); // its answer comes after the publish
}

/// `leveret` with these arguments, against this broker.
fn leveret(broker: &Broker, arguments: &[&str]) -> Output {
    common::command()
        .args(arguments)
        .args(["--url", &url(broker)])
        .output()
        .unwrap()
}

fn text(octets: &[u8]) -> String {
    String::from_utf8(octets.to_vec()).unwrap()
}

#[test]
fn delayed_messages_are_listed_moved_and_cancelled() {
    let broker = Broker::start(&[]);
    let mut client = broker.client();
    client.declare_queue("q");
    publish_later(&mut client, "first");
    publish_later(&mut client, "second");
    let http = Http::of(&broker);

    let (status, list) = http.get("/api/delayed/%2F?limit=1");
    assert_eq!((status, &list["count"]), (200, &json!(2)));
    assert_eq!(list["messages"].as_array().unwrap().len(), 1);
    assert_eq!(list["messages"][0]["message_id"], "first");
    assert_eq!(list["messages"][0]["routing_key"], "q");

    let (status, peeked) = http.get("/api/delayed/%2F/first");
    assert_eq!((status, &peeked["payload"]), (200, &json!("later")));

    let at = json!({"deliver_at": "2040-01-01T00:00:00Z"});
    let (status, moved) = http.ask("PUT", "/api/delayed/%2F/first", &at);
    assert_eq!(
        (status, &moved["due"]),
        (200, &json!("2040-01-01T00:00:00.000Z"))
    );
    let (_, list) = http.get("/api/delayed/%2F");
    assert_eq!(list["messages"][0]["message_id"], "second", "now the next");

    let now = json!({"deliver_after": 0});
    client.consume("q");
    let (status, _) = http.ask("PUT", "/api/delayed/%2F/second", &now);
    assert_eq!(status, 200);
    assert_eq!(client.answer().body, b"later");

    let (status, _) = http.ask("DELETE", "/api/delayed/%2F/first", &Value::Null);
    assert_eq!(status, 200);
    let (_, list) = http.get("/api/delayed/%2F");
    assert_eq!(list["count"], 0);
    let (status, gone) = http.ask("DELETE", "/api/delayed/%2F/first", &Value::Null);
    assert_eq!((status, &gone["error"]), (404, &json!("not_found")));
    let reason = "NOT_FOUND - no delayed message 'first' in vhost '/'";
    assert_eq!(gone["reason"], reason);
}

#[test]
fn a_schedule_is_made_run_and_removed() {
    let broker = Broker::start(&[]);
    let mut client = broker.client();
    client.declare_queue("q");
    client.consume("q");
    let http = Http::of(&broker);
    let body = json!({"every": "1000h", "routing_key": "q", "payload": "hello", "paused": false,
                      "properties": {"delivery_mode": 2}});
    let path = "/api/schedules/%2F/rare%2Fone";
    let (status, made) = http.ask("PUT", path, &body);
    assert_eq!((status, &made["name"]), (200, &json!("rare/one")), "{made}");
    let (status, list) = http.get("/api/schedules/%2F");
    assert_eq!(
        (status, &list["schedules"][0]["name"]),
        (200, &made["name"])
    );
    let (status, all) = http.get("/api/schedules");
    assert_eq!((status, &all["vhosts"][0]["vhost"]), (200, &json!("/")));
    let (status, shown) = http.get(path);
    assert_eq!((status, &shown["routing_key"]), (200, &json!("q")));

    let (status, _) = http.ask("POST", &format!("{path}/run"), &json!({}));
    assert_eq!(status, 200);
    assert_eq!(client.answer().body, b"hello");
    let (status, history) = http.get(&format!("{path}/history?limit=5"));
    assert_eq!(status, 200);
    assert_eq!(history["runs"].as_array().unwrap().len(), 1, "{history}");

    let (status, paused) = http.ask("POST", &format!("{path}/pause"), &json!({"note": "why"}));
    assert_eq!((status, &paused["state"]), (200, &json!("paused")));
    let (status, _) = http.ask("POST", &format!("{path}/resume"), &json!({}));
    assert_eq!(status, 200);
    let (status, next) = http.get(&format!("{path}/preview?count=3"));
    assert_eq!((status, next["next"].as_array().unwrap().len()), (200, 3));
    let proposed = json!({"cron": "0 0 1 1 *", "timezone": "Europe/Berlin"});
    let (status, next) = http.ask("POST", "/api/schedules/%2F/preview?count=2", &proposed);
    assert_eq!(status, 200, "{next}");
    assert_eq!(next["next"].as_array().unwrap().len(), 2);

    let (status, _) = http.ask("DELETE", path, &Value::Null);
    assert_eq!(status, 200);
    let (status, gone) = http.get(path);
    assert_eq!((status, &gone["error"]), (404, &json!("not_found")));
}

#[test]
fn a_schedule_that_makes_no_sense_is_refused_in_the_schedulers_words() {
    let broker = Broker::start(&[]);
    let http = Http::of(&broker);
    let path = "/api/schedules/%2F/a";
    for (body, named) in [
        (json!({"routing_key": "q"}), "x-schedule-cron"),
        (
            json!({"cron": "61 * * * *", "routing_key": "q"}),
            "x-schedule-cron",
        ),
        (
            json!({"every": "1h", "misfire_max": "many"}),
            "x-schedule-misfire-max",
        ),
        (
            json!({"every": "1h", "timezone": "Mars/Olympus"}),
            "x-schedule-timezone",
        ),
        (json!({"evry": "1h"}), "unknown field 'evry'"),
    ] {
        let (status, refused) = http.ask("PUT", path, &body);
        assert_eq!((status, &refused["error"]), (400, &json!("bad_request")));
        let reason = refused["reason"].as_str().unwrap();
        assert!(reason.contains(named), "{reason}");
    }
    let lost = json!({"every": "1h", "exchange": "nowhere"});
    assert_eq!(http.ask("PUT", path, &lost).0, 404);
    let here = json!({"every": "1h", "routing_key": "q"});
    assert_eq!(http.ask("PUT", "/api/schedules/nowhere/a", &here).0, 404);
    assert_eq!(http.get("/api/schedules/%2F").1["schedules"], json!([]));
}

#[test]
fn logins_are_those_of_amqp() {
    let broker = Broker::start(&[("default_user", "boss"), ("default_pass", "se:cret")]);
    let http = Http::of(&broker);
    let boss = "Basic Ym9zczpzZTpjcmV0";
    let (status, who) = http.ask_as(boss, "GET", "/api/whoami", &Value::Null);
    assert_eq!((status, &who["name"]), (200, &json!("boss")));
    let (_, vhosts) = http.ask_as(boss, "GET", "/api/vhosts", &Value::Null);
    assert_eq!(vhosts, json!([{"name": "/"}]));
    let (status, refused) = http.get("/api/whoami");
    let expected = json!({"error": "not_authorized", "reason": "Login failed"});
    assert_eq!((status, refused), (401, expected));
    assert_eq!(broker.server().node().door.attempts(), (2, 1));
}

#[test]
fn a_broker_that_stops_takes_no_orders() {
    let broker = Broker::start(&[]);
    let http = Http::of(&broker);
    broker.server().node().set_ready(false);
    let (status, answer) = http.get("/api/delayed/%2F");
    assert_eq!((status, &answer["error"]), (503, &json!("unavailable")));
}

#[test]
fn commands_ask_a_running_broker() {
    let broker = Broker::start(&[]);
    let mut client = broker.client();
    client.declare_queue("q");
    publish_later(&mut client, "one");

    let table = leveret(&broker, &["delayed", "list"]);
    assert_eq!(table.status.code(), Some(0));
    let lines = text(&table.stdout);
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].starts_with("ID") && lines[1].contains("one"),
        "{lines:?}"
    );

    let program = leveret(&broker, &["delayed", "list", "--json"]);
    let list: Value = serde_json::from_slice(&program.stdout).unwrap();
    assert_eq!(list["messages"][0]["message_id"], "one");

    assert_eq!(
        leveret(&broker, &["delayed", "cancel", "one"])
            .status
            .code(),
        Some(0)
    );
    let gone = leveret(&broker, &["delayed", "peek", "one"]);
    assert_eq!(gone.status.code(), Some(1));
    let expected = "leveret: NOT_FOUND - no delayed message 'one' in vhost '/'\n";
    assert_eq!(
        (text(&gone.stdout), text(&gone.stderr)),
        (String::new(), expected.to_owned())
    );

    let add = [
        "schedule",
        "add",
        "a",
        "--cron",
        "@daily",
        "--routing-key",
        "q",
    ];
    assert_eq!(leveret(&broker, &add).status.code(), Some(0));
    let list = text(&leveret(&broker, &["schedule", "list"]).stdout);
    assert!(
        list.lines()
            .nth(1)
            .unwrap()
            .starts_with("a     active  @daily"),
        "{list}"
    );
    let refused = leveret(&broker, &["schedule", "add", "b", "--cron", "daily"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("x-schedule-cron"));

    let stranger = leveret(&broker, &["schedule", "list", "--password", "wrong"]);
    assert_eq!(stranger.status.code(), Some(1));
    assert_eq!(text(&stranger.stderr), "leveret: Login failed\n");
}

#[test]
fn a_broker_that_is_not_there_is_exit_code_2() {
    let broker = Broker::start(&[]);
    let address = url(&broker);
    broker.stop();
    for (arguments, begins) in [
        (
            &["schedule", "list", "--url", &address][..],
            "leveret: cannot ask the broker at ",
        ),
        (
            &["schedule", "list", "--url", "ftp://x"],
            "leveret: 'ftp://x' is not of the form ",
        ),
        (
            &["schedule", "frobnicate"],
            "leveret: unrecognized subcommand 'frobnicate'",
        ),
        (
            &["schedule", "import", "/nowhere", "--routing-key", "q"],
            "leveret: cannot read /nowhere: ",
        ),
    ] {
        let output = common::command().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let said = text(&output.stderr);
        assert!(
            said.starts_with(begins) && said.lines().count() == 1,
            "{said}"
        );
    }
}

#[test]
fn a_crontab_is_read_line_by_line() {
    let broker = Broker::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("crontab");
    let crontab =
        "MAILTO=root\n0 6 * * * report --all\n* * *\nCRON_TZ=Europe/Berlin\n@daily backup\n";
    std::fs::write(&file, crontab).unwrap();
    let file = file.to_str().unwrap();
    let import = [
        "schedule",
        "import",
        file,
        "--routing-key",
        "q",
        "--json",
        "--prefix",
        "job-",
    ];
    let dry = leveret(&broker, &[&import[..], &["--dry-run"]].concat());
    assert_eq!(dry.status.code(), Some(1), "a line is wrong");
    let made: Value = serde_json::from_slice(&dry.stdout).unwrap();
    let expected = json!([
        {"line": 2, "name": "job-2", "cron": "0 6 * * *", "timezone": null, "payload": "report --all"},
        {"line": 5, "name": "job-5", "cron": "@daily", "timezone": "Europe/Berlin", "payload": "backup"},
    ]);
    assert_eq!(made, expected);
    let expected = format!(
        "{file}:1: note: MAILTO means nothing here\n\
         leveret: {file}:3: five fields and a command are wanted\n"
    );
    assert_eq!(text(&dry.stderr), expected);

    // What the broker refuses is said with the line, too.
    let nowhere = leveret(&broker, &[&import[..], &["--vhost", "nowhere"]].concat());
    assert_eq!(nowhere.status.code(), Some(1));
    let said = text(&nowhere.stderr);
    for line in [2, 5] {
        let refused = format!("leveret: {file}:{line}: vhost 'nowhere' not found\n");
        assert!(said.contains(&refused), "{said}");
    }
}

#[test]
fn a_crontab_becomes_schedules_of_a_running_broker() {
    let broker = Broker::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("crontab");
    let crontab = "\
0 6 * * 7 report --day Sunday
CRON_TZ=Europe/Berlin
30 2 * * 1-5 backup \"a b\"
61 * * * * never
@every 90s poll
";
    std::fs::write(&file, crontab).unwrap();
    let file = file.to_str().unwrap();
    let import = ["schedule", "import", file, "--routing-key", "q", "--json"];
    let import = [&import[..], &["--prefix", "job-"]].concat();
    let http = Http::of(&broker);
    for _ in 0..2 {
        let done = leveret(&broker, &import);
        let said = text(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "a line is refused: {said}");
        let refused = format!("leveret: {file}:4: PRECONDITION_FAILED - x-schedule-cron");
        assert!(said.starts_with(&refused) && said.lines().count() == 1);
        let made: Value = serde_json::from_slice(&done.stdout).unwrap();
        let lines: Vec<_> = made.as_array().unwrap().iter().collect();
        assert_eq!(lines.len(), 3, "{made}");
        for line in lines {
            assert!(!line["next"].as_array().unwrap().is_empty(), "{line}");
        }
        let (_, list) = http.get("/api/schedules/%2F");
        let list = list["schedules"].as_array().unwrap();
        let names: Vec<_> = list.iter().map(|it| it["name"].as_str().unwrap()).collect();
        assert_eq!(
            names,
            ["job-1", "job-3", "job-5"],
            "the second time changes nothing"
        );
    }
    let (_, sunday) = http.get("/api/schedules/%2F/job-1/preview?count=3");
    for next in sunday["next"].as_array().unwrap() {
        let day = next["nominal"].as_str().unwrap();
        let at = leveret_scheduler::time::parse(day).unwrap().0 / 86_400_000;
        assert_eq!((at + 4) % 7, 0, "{day} is a Sunday");
    }
    let (_, shown) = http.get("/api/schedules/%2F/job-3");
    assert_eq!(shown["timezone"], "Europe/Berlin");
    let mut client = broker.client();
    client.declare_queue("q");
    client.consume("q");
    let run = leveret(&broker, &["schedule", "run", "job-3"]);
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    assert_eq!(client.answer().body, b"backup \"a b\"");
}

#[test]
fn strange_names_are_refused_or_kept_as_they_are() {
    let broker = Broker::start(&[]);
    let http = Http::of(&broker);
    let body = json!({"every": "1000h", "routing_key": "q"});
    let put = |path: &str| http.ask("PUT", &format!("/api/schedules/{path}"), &body);
    for (path, name) in [
        ("%2F/%C3%A9t%C3%A9%20%E2%98%83", "\u{e9}t\u{e9} \u{2603}"),
        ("%2f/a%2Fb%2F..", "a/b/.."),
        ("%2F/100%25", "100%"),
        ("%2F/%22%5C%7B%7D", "\"\\{}"),
    ] {
        let (status, made) = put(path);
        assert_eq!((status, &made["name"]), (200, &json!(name)), "{path}");
        let (status, shown) = http.get(&format!("/api/schedules/{path}"));
        assert_eq!((status, &shown["name"]), (200, &json!(name)));
    }
    #[rustfmt::skip]
    let table = [
        ("%2F/a%00b",      400, "bad_request"),
        ("%2F/a%0Ab",      400, "bad_request"),
        ("%2F/%FF",        400, "bad_request"), // not UTF-8
        ("%00/a",          404, "not_found"),
        ("%2F%2F/a",       404, "not_found"),
        ("%ff/a",          400, "bad_request"),
        ("/a",             404, "not_found"),
    ];
    for (path, expected, word) in table {
        let (status, refused) = put(path);
        assert_eq!(
            (status, &refused["error"]),
            (expected, &json!(word)),
            "{path}: {refused}"
        );
    }
    let long = format!("%2F/{}", "a".repeat(201));
    assert_eq!(put(&long).0, 400);
    assert_eq!(
        http.get("/api/schedules/%2F").1["schedules"]
            .as_array()
            .unwrap()
            .len(),
        4
    );
}

#[test]
fn queues_are_counted_one_by_one() {
    let broker = Broker::start(&[]);
    let mut client = broker.client();
    for queue in ["busy \"q\"", "idle"] {
        client.declare_queue(queue);
    }
    for number in 0..750 {
        client.declare_queue(&format!("many-{number}"));
    }
    client.send(
        1,
        BasicConsume {
            queue: short("busy \"q\""),
            ..BasicConsume::default()
        },
    );
    client.answer();
    for _ in 0..3 {
        client.publish("busy \"q\"", b"x");
        let Method::BasicDeliver(deliver) = client.answer().method else {
            panic!("no delivery")
        };
        client.send(
            1,
            BasicAck {
                delivery_tag: deliver.delivery_tag,
                multiple: false,
            },
        );
    }
    client.publish("idle", b"x");
    client.declare_queue("idle"); // all before it has been done
    let http = Http::of(&broker);
    let text = http.text("/metrics/per-object");
    let busy = r#"{vhost="/",queue="busy \"q\""}"#;
    for line in [
        format!("leveret_queue_messages_acknowledged_total{busy} 3"),
        format!("leveret_queue_consumers{busy} 1"),
        r#"leveret_queue_messages_ready{vhost="/",queue="idle"} 1"#.to_owned(),
        r#"leveret_queue_messages_ready{vhost="/",queue="many-749"} 0"#.to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}");
    }
    let name = "leveret_queue_messages_processing_milliseconds_total";
    assert!(text.contains(&format!("{name}{busy} ")));
    let mut samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(samples.len(), 6 * 752, "six of each queue");
    samples.sort_unstable();
    samples.dedup();
    assert_eq!(samples.len(), 6 * 752, "none twice");
    let all = http.text("/metrics");
    assert!(all.contains("leveret_messages_processing_milliseconds_total{vhost=\"/\"} "));
    assert!(!all.contains("many-1"), "aggregated");
}

//! Schedules and delays that make no sense, as a client meets them: a reply code, a text that names the
//! field and shows how it should look, and nothing has changed.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write as _;
use std::net::TcpStream;

use common::{Broker, Client, short};
use leveret_codec::{
    BasicPublish, ChannelCloseOk, ConfirmSelect, FieldTable, FieldValue, Method, Properties,
    encode_body, encode_header, encode_method,
};

/// Somebody who may make schedules that begin with `mine`, and write to the default exchange and to
/// `amq.schedule` alone.
const CLERK: &str = r#"
    [[users]]
    name = "guest"
    password = "guest"
    [[users]]
    name = "clerk"
    password = "clerk"
    [[permissions]]
    user = "guest"
    vhost = "/"
    configure = ".*"
    write = ".*"
    read = ".*"
    [[permissions]]
    user = "clerk"
    vhost = "/"
    configure = "^mine"
    write = "^amq\\.(default|schedule)$"
    read = "^$"
"#;

fn publish(client: &mut Client<TcpStream>, exchange: &str, headers: &[(&str, FieldValue)]) {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        table.insert((*name).to_owned(), value.clone());
    }
    let properties = Properties {
        headers: Some(table),
        delivery_mode: Some(2),
        ..Properties::default()
    };
    let mut raw = Vec::new();
    let flags = properties.encode(&mut raw);
    let publish = BasicPublish {
        exchange: short(exchange),
        routing_key: short("q"),
        ..BasicPublish::default()
    };
    let mut frames = Vec::new();
    encode_method(&mut frames, 1, &publish.into());
    encode_header(&mut frames, 1, 1, flags, &raw);
    encode_body(&mut frames, 1, b"x");
    client.stream.write_all(&frames).unwrap();
}

/// Code and text of the channel error that comes; the channel is there again afterwards.
fn refusal(client: &mut Client<TcpStream>) -> (u16, String) {
    let Method::ChannelClose(close) = client.answer().method else {
        panic!("no refusal");
    };
    client.send(1, ChannelCloseOk {});
    client.open_channel(1);
    (close.reply_code, close.reply_text.as_str().to_owned())
}

fn clerk(broker: &Broker) -> Client<TcpStream> {
    let mut client = Client::connect(broker.amqp());
    client.log_in("clerk", "clerk", "/");
    client.open_channel(1);
    client
}

fn order<const N: usize>(rows: [(&'static str, FieldValue); N]) -> Vec<(String, FieldValue)> {
    let name = |name| format!("x-schedule-{name}");
    rows.map(|(key, value)| (name(key), value)).into()
}

/// How many schedules there are, and how many messages were ever delayed.
fn counts(broker: &Broker) -> (String, String) {
    let metrics = broker.http_get("/metrics").unwrap();
    let value = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name));
        line.unwrap().rsplit(' ').next().unwrap().to_owned()
    };
    (
        value("leveret_schedules{"),
        value("leveret_messages_delayed_total{"),
    )
}

#[test]
fn each_is_refused_by_name_with_an_example_and_changes_nothing() {
    let text = |text: &str| FieldValue::from(text);
    let octets = |octets: &'static [u8]| FieldValue::LongString(octets.into());
    let broker = Broker::start_with(&[], CLERK);
    let mut client = clerk(&broker);
    let every = || ("every", text("1m"));
    let mine = || ("name", text("mine"));
    #[rustfmt::skip]
    let schedules = [
        (order([mine(), ("cron", text("61 * * * *"))]),                        406, "PRECONDITION_FAILED - x-schedule-cron '61 * * * *': minute 61 is not within 0-59; an example: '*/5 * * * *'"),
        (order([mine(), ("cron", text("every day"))]),                         406, "PRECONDITION_FAILED - x-schedule-cron 'every day': 5 fields (or 6 with seconds) are wanted, not 2; an example: '*/5 * * * *'"),
        (order([mine(), every(), ("timezone", text("Mars/Base"))]),            406, "PRECONDITION_FAILED - x-schedule-timezone: 'Mars/Base' is not a zone of the tz database; an example: 'Europe/Berlin'"),
        (order([mine(), ("at", text("2001-01-01T00:00:00Z"))]),                406, "PRECONDITION_FAILED - x-schedule-at: it is in the past; choose a later time, or add x-schedule-misfire 'fire-once' to fire it at once; an example: '2030-01-31T09:00:00Z'"),
        (order([mine(), ("at", FieldValue::I64(-5))]),                         406, "PRECONDITION_FAILED - x-schedule-at: -5 is negative: milliseconds since 1970 are wanted; an example: '2030-01-31T09:00:00Z'"),
        (order([mine(), ("every", text("-1h"))]),                              406, "PRECONDITION_FAILED - x-schedule-every '-1h': it is negative; an example: '1h30m'"),
        (order([mine(), ("every", text("2000000h"))]),                      406, "PRECONDITION_FAILED - x-schedule-every '2000000h': longer than a hundred years; an example: '1h30m'"),
        (order([("name", octets(b"mine\xff")), every()]),                      406, "PRECONDITION_FAILED - x-schedule-name: it is not UTF-8; an example: 'nightly-report'"),
        (order([("name", FieldValue::I32(7)), every()]),                       406, "PRECONDITION_FAILED - x-schedule-name: a text is wanted, not signedint; an example: 'nightly-report'"),
        (order([mine(), every(), ("routing-key", octets(b"\xff"))]),           406, "PRECONDITION_FAILED - x-schedule-routing-key: it is not UTF-8; an example: 'reports'"),
        (order([mine(), every(), ("max-runs", text("3"))]),                    406, "PRECONDITION_FAILED - x-schedule-max-runs: a whole number is wanted, not longstr; an example: '10'"),
        (order([mine(), every(), ("exchange", FieldValue::Bool(true))]),       406, "PRECONDITION_FAILED - x-schedule-exchange: a text is wanted, not bool; an example: 'amq.topic'"),
        (order([mine(), every(), ("exchange", text("amq.topic"))]),            403, "ACCESS_REFUSED - write access to exchange 'amq.topic' in vhost '/' refused for user 'clerk'"),
        (order([("name", text("yours")), every()]),                            403, "ACCESS_REFUSED - configure access to schedule 'yours' in vhost '/' refused for user 'clerk'"),
    ];
    #[rustfmt::skip]
    let delays = [
        ("x-deliver-after", FieldValue::I32(-1),               "-1 is negative; an example: 60000 (milliseconds)"),
        ("x-deliver-after", text("soon"),                      "not a number of milliseconds; an example: 60000"),
        ("x-deliver-after", FieldValue::Bool(true),            "not a number of milliseconds; an example: 60000"),
        ("x-deliver-after", octets(b"\xff"),                   "not a number of milliseconds; an example: 60000"),
        ("x-deliver-after", FieldValue::I64(i64::MAX),         "more than 100 years ahead; an example: 60000 (milliseconds)"),
        ("x-deliver-after", text("99999999999999999999999"),   "more than 100 years ahead; an example: 60000 (milliseconds)"),
        ("x-deliver-at",    text("9998-01-01T00:00:00Z"),      "more than 100 years ahead; an example: 2030-01-31T09:00:00Z"),
        ("x-deliver-at",    text("tomorrow"),                  "neither a date, nor a timestamp, nor milliseconds since 1970; an example: 2030-01-31T09:00:00Z"),
        ("x-deliver-at",    FieldValue::F64(1.5),              "neither a date, nor a timestamp, nor milliseconds since 1970; an example: 2030-01-31T09:00:00Z"),
    ];
    for (headers, code, expected) in schedules {
        let headers: Vec<(&str, FieldValue)> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone()))
            .collect();
        publish(&mut client, "amq.schedule", &headers);
        assert_eq!(refusal(&mut client), (code, expected.to_owned()));
    }
    for (name, value, expected) in delays {
        publish(&mut client, "", &[(name, value)]);
        let expected = format!("PRECONDITION_FAILED - invalid header {name}: {expected}");
        assert_eq!(refusal(&mut client), (406, expected));
    }
    let long_ago = FieldValue::Timestamp(1_000_000_000);
    publish(&mut client, "", &[("x-deliver-at", long_ago)]);
    let (code, said) = refusal(&mut client);
    assert!(
        code == 406
            && said.starts_with("PRECONDITION_FAILED - invalid header x-deliver-at: that was"),
        "{said}"
    );
    // An exchange that is not there, for somebody who may write to it.
    let mut guest = broker.client();
    let headers = [
        ("x-schedule-name", text("n")),
        ("x-schedule-every", text("1m")),
        ("x-schedule-exchange", text("no-such")),
    ];
    publish(&mut guest, "amq.schedule", &headers);
    let expected = "NOT_FOUND - no exchange 'no-such' in vhost '/'".to_owned();
    assert_eq!(refusal(&mut guest), (404, expected));
    assert_eq!(counts(&broker), ("0".to_owned(), "0".to_owned()));
}

#[test]
fn one_user_does_not_make_schedules_without_end() {
    let broker = Broker::start_with(&[("schedules_max", "3")], CLERK);
    let mut client = clerk(&broker);
    client.send(1, ConfirmSelect::default());
    let answer = client.answer().method;
    assert!(matches!(answer, Method::ConfirmSelectOk(_)), "{answer:?}");
    for n in 0..4 {
        let name = format!("mine-{n}");
        let headers = [
            ("x-schedule-name", FieldValue::from(name.as_str())),
            ("x-schedule-every", FieldValue::from("1h")),
        ];
        publish(&mut client, "amq.schedule", &headers);
        if n < 3 {
            let answer = client.answer().method;
            assert!(matches!(answer, Method::BasicAck(_)), "{answer:?}");
        }
    }
    let expected = "PRECONDITION_FAILED - there are 3 schedules in this vhost, and no more may be \
                    made; delete some, or raise the setting schedules_max";
    assert_eq!(refusal(&mut client), (406, expected.to_owned()));
    assert_eq!(counts(&broker).0, "3");
}

//! Schedules of a running broker, with everything around them that keeps time.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use common::{Broker, short};
use leveret::crons::JOBS_MAX;
use leveret_codec::{
    BasicPublish, ConfirmSelect, FieldTable, FieldValue, Method, Properties, encode_body,
    encode_header, encode_method,
};
use leveret_core::Input;

const SCHEDULES: usize = 2_000;

/// Frames of an order for a schedule that fires once, at `at`, and sends its number to `q`.
fn order(number: u64, cron: &str, at: i64) -> Vec<u8> {
    let mut headers = FieldTable::default();
    headers.insert("x-schedule-name", format!("schedule-{number}").as_str());
    headers.insert("x-schedule-cron", cron);
    headers.insert("x-schedule-start", FieldValue::I64(at));
    headers.insert("x-schedule-max-runs", FieldValue::I64(1));
    headers.insert("x-schedule-routing-key", "q");
    let properties = Properties {
        headers: Some(headers),
        ..Properties::default()
    };
    let publish = BasicPublish {
        exchange: short("amq.schedule"),
        ..BasicPublish::default()
    };
    let body = number.to_string();
    let (mut raw, mut frames) = (Vec::new(), Vec::new());
    let flags = properties.encode(&mut raw);
    encode_method(&mut frames, 1, &publish.into());
    encode_header(&mut frames, 1, body.len() as u64, flags, &raw);
    encode_body(&mut frames, 1, body.as_bytes());
    frames
}

/// 2,000 of as many expressions, which is more than there are jobs for. Activations lost, late or
/// doubled change nothing.
#[test]
fn all_that_are_due_in_the_same_second_fire_once() {
    let broker = Broker::start(&[]);
    let node = Arc::clone(broker.server().node());
    let mut client = broker.client();
    client.declare_queue("q");
    client.send(1, ConfirmSelect::default());
    client.answer();

    let second = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
        + 8;
    let (day, at) = (second % 86_400, i64::try_from(second * 1_000).unwrap());
    let (hour, minute, second) = (day / 3_600, day / 60 % 60, day % 60);
    let orders = (0..SCHEDULES as u64).flat_map(|number| {
        let (other_second, other_minute) = (number / 60, number % 60);
        let cron = format!("{second},{other_second} {minute},{other_minute} {hour} * * *");
        order(number, &cron, at)
    });
    let orders: Vec<u8> = orders.collect();
    client.stream.write_all(&orders).unwrap();
    let mut confirmed = 0;
    while confirmed < SCHEDULES as u64 {
        let Method::BasicAck(ack) = client.answer().method else {
            panic!("an order was refused");
        };
        confirmed = confirmed.max(ack.delivery_tag);
    }
    let rhythms = node.crons.len();
    assert!(rhythms > JOBS_MAX, "{rhythms} expressions");

    let rhythm = format!("UTC {} {} {hour} * * *", listed(second), listed(minute));
    let shard = &node.shards["/"];
    let again = || {
        for _ in 0..10 {
            shard.submit(Input::Replan);
            shard.submit(Input::ReplanSome(Arc::from(&*rhythm)));
        }
    };
    again();
    client.consume("q");
    let mut fired = BTreeSet::new();
    for _ in 0..SCHEDULES {
        let body = client.answer().body;
        assert!(fired.insert(body.clone()), "{body:?} has come twice");
        if fired.len() % 500 == 1 {
            again();
        }
    }
    again();
    // Whatever else was fired is in the queue before this.
    broker.client().publish("q", b"the last");
    assert_eq!(client.answer().body, b"the last");
    assert_eq!(node.schedules["/"].fired(), SCHEDULES as u64);
}

/// What the first order has in a field.
fn listed(number: u64) -> String {
    match number {
        0 => "0".to_owned(),
        _ => format!("0,{number}"),
    }
}

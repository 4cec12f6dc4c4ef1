//! What messages that a schedule has fired ask of their queues.

mod common;

use std::sync::Arc;

use common::*;
use leveret_codec::{FieldTable, FieldValue, Properties};
use leveret_core::schedule::{Deeds, Ending, Fire, Note, Order, Run, Scheduler};
use leveret_core::{AmqpError, Message, Outcome, Wall};

const REJECT: Outcome = Outcome::Reject { requeue: true };
const NACK: Outcome = Outcome::Nack { requeue: true };

/// Fires every order at once, with its headers, to queue `q`.
#[derive(Debug)]
struct Echo;

impl Scheduler for Echo {
    fn recover(&mut self, _now: Wall, _notes: Vec<Note>) -> Result<(), String> {
        Ok(())
    }

    fn order(
        &mut self,
        _now: Wall,
        order: &Order<'_>,
        deeds: &mut Deeds,
    ) -> Result<Vec<u8>, AmqpError> {
        let properties = Properties {
            message_id: Some("run/1".into()),
            ..order.message.properties()
        };
        deeds.fires.push(Fire {
            user: Arc::from("guest"),
            message: Message::fired("", "q", &properties, order.message.body()),
            notes: Vec::new(),
        });
        Ok(Vec::new())
    }

    fn next_due(&self) -> Option<Wall> {
        None
    }

    fn due(&mut self, _now: Wall, _fires_max: usize, _deeds: &mut Deeds) {}

    fn replan(&mut self, _now: Wall) {}

    fn routed(&mut self, _now: Wall, _run: &Run<'_>, _queues: usize, _notes: &mut Vec<Note>) {}

    fn delivered(&mut self, _now: Wall, _run: &Run<'_>, _tag: &str) {}

    fn settled(&mut self, _now: Wall, _run: &Run<'_>, _ending: Ending, _notes: &mut Vec<Note>) {}
}

/// Queues `q` with these arguments, `dead` and `queue-dead`; `m` comes to `q` by way of this
/// exchange, with these headers.
fn world(
    exchange: &str,
    arguments: &[(&'static str, FieldValue)],
    headers: &[(&'static str, FieldValue)],
) -> (BrokerTest, Chan) {
    let mut t = BrokerTest::new();
    let scheduled = t.broker.schedule_with(t.now, Box::new(Echo));
    scheduled.expect("nothing to recover");
    let c = t.client();
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert(*name, value.clone());
    }
    let mut declare = queue_declare("q");
    declare.arguments = leveret_codec::RawTable::from_table(&table);
    t.method(c, declare);
    t.queue(c, "dead");
    t.queue(c, "queue-dead");
    let mut table = FieldTable::default();
    for (name, value) in headers {
        table.insert(*name, value.clone());
    }
    let properties = Properties {
        headers: Some(table),
        ..persistent()
    };
    t.publish_with(c, message_with(exchange, "q", properties, "m"), false);
    t.heard(c);
    (t, c)
}

fn dead_letters() -> [(&'static str, FieldValue); 2] {
    [
        ("x-schedule-dead-letter-exchange", "".into()),
        ("x-schedule-dead-letter-routing-key", "dead".into()),
    ]
}

fn queue_dead_letters() -> [(&'static str, FieldValue); 2] {
    [
        ("x-dead-letter-exchange", "".into()),
        ("x-dead-letter-routing-key", "queue-dead".into()),
    ]
}

fn retries(delay_ms: i64, limit: i64) -> Vec<(&'static str, FieldValue)> {
    let mut headers = dead_letters().to_vec();
    headers.push(("x-schedule-retry-delay", delay_ms.into()));
    headers.push(("x-schedule-retry-limit", limit.into()));
    headers
}

#[test]
fn what_is_rejected_goes_where_its_schedule_says() {
    let (mut t, c) = world("amq.schedule", &queue_dead_letters(), &dead_letters());
    t.get(c, "q");
    t.discard(c, 1);
    assert_eq!(t.bodies("dead"), ["m"]);
    assert!(t.bodies("queue-dead").is_empty());
}

#[test]
fn what_expires_goes_where_its_queue_says() {
    let mut arguments = queue_dead_letters().to_vec();
    arguments.push(("x-message-ttl", 100_i64.into()));
    let (mut t, _) = world("amq.schedule", &arguments, &dead_letters());
    t.pass_ms(100);
    assert_eq!(t.bodies("queue-dead"), ["m"]);
    assert!(t.bodies("dead").is_empty());
}

#[test]
fn a_run_is_delivered_again_so_often_after_such_a_delay() {
    // Whatever its queue says, and however it comes back.
    let own: [(&'static str, FieldValue); 2] = [
        ("x-retry-delay", 7_i64.into()),
        ("x-delivery-limit", 1_i64.into()),
    ];
    for (arguments, outcome) in [(&[][..], REJECT), (&own[..], REJECT), (&[][..], NACK)] {
        let (mut t, c) = world("amq.schedule", arguments, &retries(500, 2));
        t.consume(c, "q", "t");
        for attempt in 0..3 {
            let deliveries = t.take_deliveries();
            assert_eq!(deliveries.len(), 1, "attempt {attempt}");
            let headers = deliveries[0].2.properties().headers.expect("headers");
            let count = headers.get("x-delivery-count").and_then(FieldValue::as_i64);
            assert_eq!(count.unwrap_or_default(), attempt);
            t.settle(c, deliveries[0].1, false, outcome);
            if attempt < 2 {
                t.pass_ms(499);
                assert!(t.take_deliveries().is_empty());
                t.pass_ms(1);
            }
        }
        assert_eq!(t.bodies("dead"), ["m"]);
    }
}

#[test]
fn a_limit_alone_delays_nothing_and_no_limit_is_that_of_the_queue() {
    let limit = [("x-schedule-retry-limit", FieldValue::from(0_i64))];
    let (mut t, c) = world("amq.schedule", &queue_dead_letters(), &limit);
    t.get(c, "q");
    t.settle(c, 1, false, NACK);
    assert_eq!(t.bodies("queue-dead"), ["m"]);

    let mut arguments = queue_dead_letters().to_vec();
    arguments.push(("x-delivery-limit", 0_i64.into()));
    let delay = [("x-schedule-retry-delay", FieldValue::from(10_i64))];
    let (mut t, c) = world("amq.schedule", &arguments, &delay);
    t.get(c, "q");
    t.settle(c, 1, false, NACK);
    assert_eq!(t.bodies("queue-dead"), ["m"]);
}

#[test]
fn nobody_but_the_scheduler_can_ask_for_that() {
    let (mut t, c) = world("", &queue_dead_letters(), &retries(500, 2));
    t.get(c, "q");
    t.settle(c, 1, false, REJECT);
    assert_eq!(t.broker.totals().ready, 1, "at once");
    t.get(c, "q");
    t.discard(c, 2);
    assert_eq!(t.bodies("queue-dead"), ["m"]);
    assert!(t.bodies("dead").is_empty());
}

#[test]
fn a_dead_letter_of_a_run_asks_for_nothing_more() {
    let (mut t, c) = world("amq.schedule", &[], &retries(500, 0));
    t.get(c, "q");
    t.settle(c, 1, false, REJECT);
    t.get(c, "dead");
    t.settle(c, 2, false, REJECT);
    assert_eq!(t.broker.totals().ready, 1, "at once");
}

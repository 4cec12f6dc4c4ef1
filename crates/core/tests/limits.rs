//! What a client can make grow has an end.

mod common;

use common::{BrokerTest, basic_consume, exchange_declare, queue_declare};
use leveret_codec::{FieldValue, QueueBind, ShortStr};
use leveret_core::Limits;

fn limits() -> Limits {
    Limits {
        queues_max: 2,
        exchanges_max: 8, // seven are there from the start
        bindings_max: 2,
        consumers_per_channel_max: 2,
        ..Limits::default()
    }
}

#[test]
fn queues() {
    let mut t = BrokerTest::with_limits(limits());
    let ch = t.client();
    t.queue(ch, "a");
    t.queue(ch, "b");
    t.queue(ch, "b"); // it is there already
    t.method(ch, queue_declare("c"));
    t.expect_close(
        ch,
        406,
        "PRECONDITION_FAILED - cannot declare queue 'c': queue limit in vhost '/' (2) is reached",
    );
    let ch = t.client();
    t.delete_queue(ch, "a");
    t.queue(ch, "c");
}

#[test]
fn exchanges() {
    let mut t = BrokerTest::with_limits(limits());
    let ch = t.client();
    t.exchange(ch, "a", "fanout");
    t.exchange(ch, "a", "fanout");
    t.method(ch, exchange_declare("b", "fanout"));
    t.expect_close(ch, 406, "PRECONDITION_FAILED - cannot declare exchange 'b' in vhost '/': exchange limit of 8 is reached");
}

#[test]
fn bindings() {
    let mut t = BrokerTest::with_limits(limits());
    let ch = t.client();
    t.queue(ch, "q");
    for key in ["a", "b", "b"] {
        t.bind(ch, "amq.direct", key, "q");
    }
    let bind = QueueBind {
        queue: common::short("q"),
        exchange: common::short("amq.direct"),
        routing_key: common::short("c"),
        ..QueueBind::default()
    };
    t.method(ch, bind);
    t.expect_close(
        ch,
        406,
        "PRECONDITION_FAILED - cannot bind: binding limit in vhost '/' (2) is reached",
    );
}

#[test]
fn consumers_of_a_channel() {
    let mut t = BrokerTest::with_limits(limits());
    let ch = t.client();
    t.queue(ch, "q");
    t.consume(ch, "q", "a");
    t.consume(ch, "q", "b");
    t.cancel(ch, "a");
    t.consume(ch, "q", "c");
    let other = t.channel(ch.connection);
    t.consume(other, "q", "a");
    t.method(ch, basic_consume("q", "d"));
    let (closes_connection, error) = t.take_refusal(ch.connection);
    assert!(closes_connection);
    assert_eq!(
        error.text,
        "NOT_ALLOWED - reached maximum (2) of consumers per channel"
    );
}

#[test]
fn argument_tables_are_kept_so_they_are_limited() {
    let note = FieldValue::from("x".repeat(64 * 1_024));
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.queue(ch, "q");
    t.method(
        ch,
        QueueBind {
            queue: ShortStr::from_static("q"),
            exchange: ShortStr::from_static("amq.direct"),
            arguments: common::table([("note", note)]),
            ..QueueBind::default()
        },
    );
    t.expect_close(
        ch,
        406,
        "PRECONDITION_FAILED - arguments of 65546 octets exceed 65536",
    );
}

//! What a client can make grow has an end.

mod common;

use common::{BrokerTest, basic_consume, exchange_declare, queue_declare};
use leveret_codec::{FieldTable, FieldValue, QueueBind, RawTable, ShortStr};
use leveret_core::Limits;

fn limits() -> Limits {
    Limits {
        queues_max: 2,
        exchanges_max: 9, // eight are there from the start
        bindings_max: 2,
        consumers_max: 4,
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
    t.expect_close(ch, 406, "PRECONDITION_FAILED - cannot declare exchange 'b' in vhost '/': exchange limit of 9 is reached");
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

#[test]
fn consumers_of_a_vhost() {
    let mut t = BrokerTest::with_limits(limits());
    let (one, two) = (t.client(), t.client());
    t.queue(one, "q");
    for ch in [one, two] {
        t.consume(ch, "q", "a");
        t.consume(ch, "q", "b");
    }
    let third = t.client();
    t.method(third, basic_consume("q", "c"));
    let (closes_connection, error) = t.take_refusal(third.connection);
    assert!(closes_connection);
    assert_eq!(
        error.text,
        "NOT_ALLOWED - reached maximum (4) of consumers in vhost '/'"
    );
    t.cancel(one, "a");
    let fourth = t.client();
    t.consume(fourth, "q", "c");
}

/// Binds with ever new keys and arguments until that is refused; returns how often it went well.
fn bind_until_full(
    t: &mut BrokerTest,
    exchange: &str,
    binding: impl Fn(usize) -> (String, RawTable<'static>),
) -> usize {
    let ch = t.client();
    for n in 0.. {
        let (key, arguments) = binding(n);
        let bind = QueueBind {
            queue: common::short("q"),
            exchange: common::short(exchange),
            routing_key: common::short(&key),
            arguments,
            ..QueueBind::default()
        };
        if t.ask(ch, bind) != ["queue.bind-ok"] {
            let (_, error) = t.take_refusal(ch.connection);
            assert_eq!(
                error.text,
                "PRECONDITION_FAILED - cannot bind: keys and arguments of the bindings in vhost \
                 '/' take 1048576 octets of memory, which is the limit"
            );
            return n;
        }
    }
    unreachable!()
}

#[test]
fn what_bindings_take_is_limited_and_given_back() {
    type Make = fn(usize) -> (String, RawTable<'static>);
    let deep: Make = |n| (format!("{n}{}", ".a".repeat(120)), common::table([]));
    let shared: Make = |n| (format!("a.b.c.{n}"), common::table([]));
    let long: Make = |n| (format!("{n:0200}"), common::table([]));
    let noted: Make = |n| {
        let note = FieldValue::from("x".repeat(10_000));
        (n.to_string(), common::table([("note", note)]))
    };
    let any: Make = |n| {
        let wanted = (0..100).map(|k| (format!("{n}-{k}"), FieldValue::Bool(true)));
        let mode = ("x-match".to_owned(), FieldValue::from("any"));
        let table: FieldTable = wanted.chain([mode]).collect();
        (String::new(), RawTable::from_table(&table))
    };
    #[rustfmt::skip]
    let rows: [(&str, &str, Make, std::ops::Range<usize>); 5] = [
        ("amq.topic",   "120 words that no other has there", deep,   60..150),
        ("amq.topic",   "one new word each",                 shared, 4_000..9_000),
        ("amq.direct",  "nothing but the key",               long,   5_000..5_500),
        ("amq.direct",  "large arguments",                   noted,  100..110),
        ("amq.headers", "found by any of 100 keys",          any,    5..12),
    ];
    let mut t = BrokerTest::with_limits(Limits {
        binding_bytes_max: 1 << 20,
        ..Limits::default()
    });
    t.checked = false;
    for (exchange, what, binding, expected) in rows {
        let ch = t.client();
        t.queue(ch, "q");
        let first = bind_until_full(&mut t, exchange, binding);
        assert!(expected.contains(&first), "{what}: {first}");
        t.delete_queue(ch, "q");
        t.broker.check_invariants(); // nothing is left
        t.queue(ch, "q");
        assert_eq!(bind_until_full(&mut t, exchange, binding), first, "{what}");
        t.delete_queue(ch, "q");
    }

    // With their exchange they go as well.
    let ch = t.client();
    t.queue(ch, "q");
    for _ in 0..2 {
        t.exchange(ch, "x", "topic");
        assert!((60..150).contains(&bind_until_full(&mut t, "x", deep)));
        t.delete_exchange(ch, "x");
        t.broker.check_invariants();
    }
}

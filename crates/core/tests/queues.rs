//! Queues: how they come, what they are asked, how they go.

mod common;

use common::{BrokerTest, queue_declare, queue_declare_with, short};
use leveret_codec::{BasicCancel, FieldValue, QueueDeclare, QueueDelete, QueuePurge};
use leveret_core::Event;

#[test]
fn declare_ok_counts_ready_messages_and_consumers() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    assert_eq!(t.ask(ch, queue_declare("q")), ["queue.declare-ok q 0 0"]);
    t.publish_all(ch, "q", ["a", "b", "c"]);
    t.get(ch, "q");
    assert_eq!(
        t.counts(ch, "q"),
        "queue.declare-ok q 2 0",
        "unacked ones do not count"
    );
    t.prefetch(ch, 1);
    t.consume(ch, "q", "a");
    t.consume(ch, "q", "b");
    t.heard(ch);
    assert_eq!(t.counts(ch, "q"), "queue.declare-ok q 0 2");
}

#[test]
fn a_declaration_without_wait_is_not_answered_but_remembered() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    let declare = QueueDeclare {
        no_wait: true,
        ..queue_declare("q")
    };
    assert_eq!(t.ask(ch, declare), [""; 0]);
    t.publish(ch, "q", "m");
    assert_eq!(
        t.get(ch, ""),
        "get-ok #1 m, 0 left",
        "the empty name is the last declared queue"
    );
}

#[test]
fn generated_names() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    #[rustfmt::skip]
    let rows = [
        (queue_declare(""),                                                    "amq.gen-", "the usual"),
        (queue_declare_with("", [("x-name-prefix", "mine-".into())]),          "mine-",    "a prefix of the client's"),
        (queue_declare("\r\n"),                                                "amq.gen-", "nothing but line ends is empty"),
    ];
    for (declare, prefix, why) in rows {
        let answer = t.ask(ch, declare).concat();
        let name = answer.split(' ').nth(1).unwrap_or_default().to_owned();
        let unique = name
            .strip_prefix(prefix)
            .unwrap_or_else(|| panic!("{why}: {name}"));
        assert_eq!(unique.len(), 22, "{why}");
        t.publish(ch, &name, "m");
        assert_eq!(t.bodies(&name), ["m"], "{why}");
    }
}

#[test]
fn equal_declarations_are_fine() {
    let integer = |n: i64| FieldValue::from(n);
    #[rustfmt::skip]
    let rows = [
        (queue_declare("q"),                                             queue_declare("q"),                                               "the same"),
        (queue_declare("q"),                                             queue_declare_with("q", [("x-queue-type", "classic".into())]),    "classic is the default"),
        (queue_declare_with("q", [("x-max-length", 5_i8.into())]),       queue_declare_with("q", [("x-max-length", integer(5))]),          "integers by value"),
        (queue_declare_with("q", [("mine", 1.into())]),                  queue_declare_with("q", [("mine", 2.into())]),                    "unknown arguments do not count"),
        (QueueDeclare { exclusive: true, durable: true, ..queue_declare("q") }, QueueDeclare { exclusive: true, ..queue_declare("q") },    "exclusive ones are never durable"),
        (QueueDeclare { durable: true, ..queue_declare("q") },           QueueDeclare { passive: true, auto_delete: true, ..queue_declare("q") }, "passive compares nothing"),
    ];
    for (first, second, why) in rows {
        let mut t = BrokerTest::new();
        let ch = t.client();
        t.method(ch, first);
        t.method(ch, second);
        assert_eq!(t.heard(ch), ["queue.declare-ok q 0 0"; 2], "{why}");
    }
}

#[test]
fn purge_removes_what_is_ready() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.queue(ch, "q");
    t.publish_all(ch, "q", ["a", "b", "c"]);
    t.get(ch, "q");
    let purge = |no_wait| QueuePurge {
        queue: short("q"),
        no_wait,
        ..QueuePurge::default()
    };
    assert_eq!(t.ask(ch, purge(false)), ["queue.purge-ok 2"]);
    assert_eq!(t.ask(ch, purge(true)), [""; 0]);
    t.requeue(ch, 1);
    assert_eq!(t.bodies("q"), ["a"]);
}

#[test]
fn delete() {
    let delete = |if_unused, if_empty| QueueDelete {
        queue: short("q"),
        if_unused,
        if_empty,
        ..QueueDelete::default()
    };
    #[rustfmt::skip]
    let rows = [
        // if_unused  if_empty  ready  consumers  answer
        (false,       false,    2,     1,         "queue.delete-ok 2 basic.cancel tag"),
        (true,        false,    2,     0,         "queue.delete-ok 2"),
        (true,        false,    0,     1,         "close PRECONDITION_FAILED - queue 'q' in vhost '/' in use"),
        (false,       true,     0,     1,         "queue.delete-ok 0 basic.cancel tag"),
        (false,       true,     1,     0,         "close PRECONDITION_FAILED - queue 'q' in vhost '/' not empty"),
        (true,        true,     1,     1,         "close PRECONDITION_FAILED - queue 'q' in vhost '/' not empty"),
    ];
    for (if_unused, if_empty, ready, consumers, answer) in rows {
        let mut t = BrokerTest::new();
        let ch = t.client();
        t.queue(ch, "q");
        if consumers > 0 {
            t.prefetch(ch, 1);
            t.publish(ch, "q", "unacked");
            t.consume(ch, "q", "tag");
        }
        for _ in 0..ready {
            t.publish(ch, "q", "m");
        }
        t.heard(ch);
        assert_eq!(t.ask(ch, delete(if_unused, if_empty)).join(" "), answer);
    }
    let mut t = BrokerTest::new();
    let ch = t.client();
    assert_eq!(
        t.ask(ch, delete(true, true)),
        ["queue.delete-ok 0"],
        "what is not there counts as deleted"
    );
}

#[test]
fn an_auto_delete_queue_goes_with_its_last_consumer() {
    type End = fn(&mut BrokerTest, common::Chan);
    #[rustfmt::skip]
    let rows: [(&str, End); 3] = [
        ("cancel",     |t, ch| t.cancel(ch, "b")),
        ("close",      |t, ch| t.close(ch)),
        ("disconnect", |t, ch| t.disconnect(ch.connection)),
    ];
    for (how, end) in rows {
        let mut t = BrokerTest::new();
        let ch = t.client();
        let reader = t.client();
        t.method(
            ch,
            QueueDeclare {
                auto_delete: true,
                ..queue_declare("q")
            },
        );
        assert_eq!(t.broker.totals().queues, 1, "{how}: never had a consumer");
        t.publish(ch, "q", "m");
        t.get(ch, "q");
        t.consume(reader, "q", "a");
        t.consume(reader, "q", "b");
        t.cancel(reader, "a");
        assert_eq!(t.broker.totals().queues, 1, "{how}: still has one");
        end(&mut t, reader);
        assert_eq!(t.broker.totals().queues, 0, "{how}");
        t.requeue(ch, 1);
        assert_eq!(t.broker.totals().ready, 0, "{how}: nowhere to go back to");
    }
}

#[test]
fn cancel_ok_is_the_last_a_client_hears_of_its_auto_delete_queue() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.method(
        ch,
        QueueDeclare {
            auto_delete: true,
            ..queue_declare("q")
        },
    );
    t.consume(ch, "q", "a");
    t.heard(ch);
    let cancel = BasicCancel {
        consumer_tag: short("a"),
        no_wait: false,
    };
    assert_eq!(t.ask(ch, cancel), ["basic.cancel-ok a"]);
    assert_eq!(
        t.counts(ch, "q"),
        "close NOT_FOUND - no queue 'q' in vhost '/'"
    );
}

#[test]
fn exclusive_queues_go_with_their_connection() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    let other = t.client();
    t.method(
        ch,
        QueueDeclare {
            exclusive: true,
            ..queue_declare("q")
        },
    );
    t.queue(other, "r");
    t.publish(other, "q", "anybody may publish to it");
    assert_eq!(t.broker.totals().ready, 1);
    t.disconnect(ch.connection);
    assert_eq!(t.broker.totals().queues, 1);
    t.queue(other, "q"); // the name is free
}

#[test]
fn an_exclusive_queue_may_be_deleted_and_declared_again() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    let exclusive = || QueueDeclare {
        exclusive: true,
        ..queue_declare("q")
    };
    t.method(ch, exclusive());
    t.delete_queue(ch, "q");
    t.method(ch, exclusive());
    let other = t.channel(ch.connection);
    t.method(other, exclusive());
    assert_eq!(
        t.heard(other),
        ["queue.declare-ok q 0 0"],
        "the lock is the connection's"
    );
    t.disconnect(ch.connection);
    assert_eq!(t.broker.totals().queues, 0);
}

#[test]
fn a_new_queue_of_an_old_name_is_empty_and_unbound() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.queue(ch, "q");
    t.bind(ch, "amq.fanout", "", "q");
    t.publish_to(ch, "amq.fanout", "", "old");
    t.delete_queue(ch, "q");
    t.queue(ch, "q");
    t.publish_to(ch, "amq.fanout", "", "new");
    assert_eq!(t.counts(ch, "q"), "queue.declare-ok q 0 0");
    assert_eq!(t.broker.totals().bindings, 0);
}

#[test]
fn operators_hear_of_queues() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.queue(ch, "q");
    t.publish(ch, "q", "m");
    t.delete_queue(ch, "q");
    let [
        Event::QueueCreated { queue: created },
        Event::QueueDeleted {
            queue: deleted,
            ready: 1,
        },
    ] = t.events.as_slice()
    else {
        panic!("{:?}", t.events)
    };
    assert_eq!((&**created, &**deleted), ("q", "q"));
}

#[test]
fn a_queue_with_very_many_bindings_goes_quickly() {
    for exchange in ["amq.direct", "amq.topic", "amq.headers", "amq.fanout"] {
        let mut t = BrokerTest::new();
        t.checked = false;
        let ch = t.client();
        t.queue(ch, "q");
        for n in 0..30_000 {
            t.bind_with(
                ch,
                exchange,
                &format!("k.{n}"),
                "q",
                common::table([("n", n.into())]),
            );
        }
        let took = common::took(|| t.delete_queue(ch, "q"));
        assert_eq!(t.broker.totals().bindings, 0);
        assert!(took.as_secs() < 2, "{exchange}: {took:?}");
        t.broker.check_invariants();
    }
}

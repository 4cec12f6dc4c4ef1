//! What an operator is shown.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use std::collections::BTreeSet;

use common::BrokerTest;

#[test]
fn processing_time_is_from_delivery_to_ack() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.queue(ch, "q");
    t.queue(ch, "other");
    t.consume(ch, "q", "tag");
    t.publish_all(ch, "q", ["a", "b", "c", "d", "e"]);
    t.wait_ms(100);
    t.ack(ch, 1);
    t.wait_ms(50);
    t.ack_through(ch, 3); // b and c
    t.discard(ch, 4);
    t.requeue(ch, 5); // delivered again at once
    t.wait_ms(7);
    t.ack(ch, 6);
    t.publish(ch, "other", "x");
    t.consume_no_ack(ch, "other", "auto");
    let found = t.broker.queues_after(None, 10);
    let figures: Vec<_> = found
        .iter()
        .map(|q| {
            let counts = (q.acknowledged, q.processing_ms, q.auto_acknowledged);
            (&*q.name, counts, q.ready, q.unacked, q.consumers)
        })
        .collect();
    let spent = 100 + 150 + 150 + 7;
    let expected = [("q", (4, spent, 0), 0, 0, 1), ("other", (0, 0, 1), 0, 0, 1)];
    assert_eq!(figures, expected);
    assert_eq!(t.broker.metrics().processing_ms, spent);
}

#[test]
fn queues_come_once_page_by_page_also_while_others_come_and_go() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    for number in 0..50 {
        t.queue(ch, &format!("q{number}"));
    }
    let mut seen = BTreeSet::new();
    let mut after = None;
    for round in 0.. {
        let page = t.broker.queues_after(after, 7);
        let Some(last) = page.last() else {
            break;
        };
        after = Some(last.id);
        for queue in &page {
            assert!(seen.insert(queue.name.to_string()), "{} twice", queue.name);
        }
        // Its place is taken by another.
        t.delete_queue(ch, &format!("q{round}"));
        t.queue(ch, &format!("new{round}"));
    }
    for number in 10..50 {
        assert!(seen.contains(&format!("q{number}")), "q{number} was there");
    }
}

#[test]
fn definitions_are_what_lasts() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.queue(ch, "gone");
    t.durable_queue(ch, "lasting");
    t.bind(ch, "amq.topic", "a.*", "lasting");
    t.bind(ch, "amq.topic", "a.*", "gone");
    t.exchange(ch, "transient", "fanout");
    t.bind(ch, "transient", "", "lasting");
    let found = t.broker.definitions();
    let queues: Vec<_> = found.queues.iter().map(|queue| &*queue.name).collect();
    assert_eq!(queues, ["lasting"]);
    assert!(found.exchanges.is_empty(), "{:?}", found.exchanges);
    let bindings = found.bindings.iter();
    let bindings: Vec<_> = bindings
        .map(|it| (&*it.source, &*it.routing_key, &*it.destination, it.to_queue))
        .collect();
    assert_eq!(bindings, [("amq.topic", "a.*", "lasting", true)]);
}

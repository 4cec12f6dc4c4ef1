//! What an operator is shown.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use std::collections::BTreeSet;

use common::{BrokerTest, queue_declare_with};
use leveret_codec::{FieldValue, QueueDeclare};
use leveret_core::inspection::{Definitions, Tour};

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
    let ids = t.broker.inventory().into_queues();
    let found = t.broker.queue_figures(&ids);
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

/// Each page went over all queues before it, six times for a scrape.
#[test]
fn queues_are_looked_at_once_each_also_while_others_come_and_go() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    for number in 0..50 {
        t.queue(ch, &format!("q{number}"));
    }
    let ids = t.broker.inventory().into_queues();
    assert_eq!(ids.len(), 50);
    let mut seen = BTreeSet::new();
    for (round, page) in ids.chunks(7).enumerate() {
        let found = t.broker.queue_figures(page);
        assert!(found.len() <= page.len());
        for queue in found {
            assert!(seen.insert(queue.name.to_string()), "{} twice", queue.name);
        }
        // Its place is taken by another.
        t.delete_queue(ch, &format!("q{round}"));
        t.queue(ch, &format!("new{round}"));
    }
    for number in 10..50 {
        assert!(seen.contains(&format!("q{number}")), "q{number} was there");
    }
    assert!(!seen.iter().any(|name| name.starts_with("new")), "{seen:?}");
}

/// All pieces of the definitions, each for so much work.
fn tour(t: &BrokerTest, work_max: u64) -> Definitions {
    let mut tour = Tour::of(t.broker.inventory());
    let mut all = Definitions::default();
    while let Some(piece) = t.broker.definitions(&mut tour, work_max) {
        all.exchanges.extend(piece.exchanges);
        all.queues.extend(piece.queues);
        all.bindings.extend(piece.bindings);
    }
    all
}

fn bindings(of: &Definitions) -> BTreeSet<(&str, &str, &str, bool)> {
    let all = of.bindings.iter();
    all.map(|it| (&*it.source, &*it.routing_key, &*it.destination, it.to_queue))
        .collect()
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
    let found = tour(&t, u64::MAX);
    let queues: Vec<_> = found.queues.iter().map(|queue| &*queue.name).collect();
    assert_eq!(queues, ["lasting"]);
    assert!(found.exchanges.is_empty(), "{:?}", found.exchanges);
    let expected = [("amq.topic", "a.*", "lasting", true)];
    assert_eq!(bindings(&found), expected.into());
}

/// They were copied in one piece, which held everybody up.
#[test]
fn definitions_come_in_pieces_of_bounded_work() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    let large = FieldValue::LongString("x".repeat(9_000).into());
    for number in 0..40 {
        let name = format!("q{number}");
        if number < 30 {
            t.durable_queue(ch, &name);
        } else {
            let arguments = [("x-anything", large.clone())];
            let declare = QueueDeclare {
                durable: true,
                ..queue_declare_with(&name, arguments)
            };
            t.ask(ch, declare);
        }
        for key in 0..10 {
            t.bind(ch, "amq.topic", &format!("{key}.*"), &name);
        }
        t.bind(ch, "amq.direct", &name, &name);
    }
    let mut tour = Tour::of(t.broker.inventory());
    let mut all = Definitions::default();
    let mut before = 0;
    while let Some(piece) = t.broker.definitions(&mut tour, 20) {
        let work = std::mem::replace(&mut before, tour.work());
        let work = tour.work() - work;
        assert!((1..20 + 40).contains(&work), "one large one more: {work}");
        let things = piece.exchanges.len() + piece.queues.len() + piece.bindings.len();
        assert!(things as u64 <= work && piece.bindings.len() <= 20);
        all.queues.extend(piece.queues);
        all.bindings.extend(piece.bindings);
    }
    assert_eq!((all.queues.len(), all.bindings.len()), (40, 440));
    assert_eq!(bindings(&all).len(), 440, "none twice");
    // One for each queue and 35 more for those with large arguments, one for each binding, exchange
    // and page of bindings.
    let work = tour.work();
    assert!((830..900).contains(&work), "each thing once: {work}");
}

/// What changes between two pieces is there or not, but nothing leads to what is not there.
#[test]
fn definitions_in_pieces_make_sense_whatever_happens_meanwhile() {
    for work_max in [1, 3, 7, 50] {
        let mut t = BrokerTest::new();
        let ch = t.client();
        for number in 0..30 {
            let name = format!("q{number}");
            t.durable_queue(ch, &name);
            t.bind(ch, "amq.direct", "k", &name);
        }
        let mut tour = Tour::of(t.broker.inventory());
        let mut all = Definitions::default();
        let mut round = 0;
        while let Some(piece) = t.broker.definitions(&mut tour, work_max) {
            all.queues.extend(piece.queues);
            all.bindings.extend(piece.bindings);
            if round < 10 {
                t.delete_queue(ch, &format!("q{round}"));
                let name = format!("new{round}");
                t.durable_queue(ch, &name);
                t.bind(ch, "amq.direct", "k", &name);
                t.unbind(ch, "amq.direct", "k", "q29");
                round += 1;
            }
        }
        let queues: BTreeSet<&str> = all.queues.iter().map(|queue| &*queue.name).collect();
        assert_eq!(queues.len(), all.queues.len(), "none twice");
        let bound: BTreeSet<&str> = all.bindings.iter().map(|it| &*it.destination).collect();
        assert_eq!(bound.len(), all.bindings.len(), "none twice");
        assert!(bound.is_subset(&queues), "{bound:?} of {queues:?}");
        for number in 10..29 {
            let name = format!("q{number}");
            assert!(queues.contains(&*name) && bound.contains(&*name), "{name}");
        }
        assert!(!queues.contains("new9"), "it came later");
    }
}

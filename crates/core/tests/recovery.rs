//! A broker that starts with what its log has kept.

mod common;

use std::sync::Arc;

use common::*;
use leveret_codec::{FieldTable, FieldValue, QueueDeclare};
use leveret_core::log::{LogError, Recovered, RecoveredQueue, Run};
use leveret_core::record::BindingFact;
use leveret_core::{Fact, Input, Lsn, QueueNumber, Seq};

fn octets(fields: FieldTable) -> Arc<[u8]> {
    Arc::from(leveret_codec::RawTable::from_table(&fields).as_bytes())
}

fn exchange(lsn: u64, name: &str, alternate: Option<&str>) -> (Lsn, Fact) {
    let mut arguments = FieldTable::default();
    if let Some(alternate) = alternate {
        let name = FieldValue::LongString(alternate.to_owned().into());
        arguments.insert("alternate-exchange", name);
    }
    let fact = Fact::ExchangeDeclared {
        name: Arc::from(name),
        kind: "direct",
        auto_delete: false,
        internal: false,
        arguments: octets(arguments),
    };
    (Lsn(lsn), fact)
}

fn queue(lsn: u64, name: &str) -> (Lsn, Fact) {
    let mut arguments = FieldTable::default();
    arguments.insert("x-expires", FieldValue::I32(5_000));
    let fact = Fact::QueueDeclared {
        name: Arc::from(name),
        auto_delete: false,
        arguments: octets(arguments),
    };
    (Lsn(lsn), fact)
}

fn bound(lsn: u64, source: &str, queue: &str) -> (Lsn, Fact) {
    let fact = Fact::Bound(BindingFact {
        source: Arc::from(source),
        destination: Arc::from(queue),
        to_queue: true,
        routing_key: Arc::from("k"),
        arguments: octets(FieldTable::default()),
    });
    (Lsn(lsn), fact)
}

fn run(first: u64, last: u64) -> Run {
    Run {
        first: Seq(first),
        last: Seq(last),
        bytes: 0,
    }
}

fn messages(number: u64, last: u64, runs: Vec<Run>) -> RecoveredQueue {
    RecoveredQueue {
        number: QueueNumber(number),
        last: Seq(last),
        delivered_through: Seq(5),
        runs,
        expiring: Vec::new(),
        retries: Vec::new(),
    }
}

/// Exchanges `x` and `y`, which is the alternate of `x`, and a queue `q` bound to `y`.
fn kept() -> Recovered {
    Recovered {
        last: Lsn(20),
        definitions: vec![
            exchange(1, "y", None),
            exchange(2, "x", Some("y")),
            queue(3, "q"),
            bound(4, "y", "q"),
        ],
        queues: vec![messages(3, 10, vec![run(4, 6), run(8, 8)])],
    }
}

fn start(recovered: Recovered) -> BrokerTest {
    BrokerTest::recovered(recovered).expect("it makes sense")
}

#[test]
fn what_was_declared_is_there_and_routes() {
    let mut t = start(kept());
    let c = t.client();
    assert_eq!(t.counts(c, "q"), "queue.declare-ok q 4 0");
    t.publish_to(c, "x", "k", "through the alternate");
    assert_eq!(t.counts(c, "q"), "queue.declare-ok q 5 0");
    let declare = queue_declare_with("q", [("x-expires", FieldValue::I32(5_000))]);
    let declare = QueueDeclare {
        durable: true,
        ..declare
    };
    assert_eq!(
        t.ask(c, declare),
        ["queue.declare-ok q 5 0"],
        "nothing to wait for"
    );
}

#[test]
fn places_and_numbers_go_on() {
    let mut t = start(kept());
    let c = t.client();
    t.publish_persistent(c, "y", "k", "new");
    let facts = t.facts();
    let [Fact::Published { places, .. }] = &facts[..] else {
        panic!("{facts:?}");
    };
    assert_eq!(places[..], [(QueueNumber(3), Seq(11))]);
    t.durable_queue(c, "r");
    t.publish_persistent(c, "", "r", "first");
    let facts = t.facts();
    let Some(Fact::Published { places, .. }) = facts.last() else {
        panic!("{facts:?}");
    };
    assert_eq!(
        places[..],
        [(QueueNumber(22), Seq(1))],
        "the number of its record"
    );
}

#[test]
fn what_may_have_been_delivered_before_says_so() {
    let mut t = start(kept());
    let c = t.client();
    t.consume_no_ack(c, "q", "tag");
    let fetch = t.fetches.pop().expect("they are in the log");
    assert_eq!(
        (fetch.number, fetch.first, fetch.last),
        (QueueNumber(3), Seq(4), Seq(8))
    );
    let places = [4, 5, 6, 8].map(|seq| {
        (
            Seq(seq),
            message_with("", "q", persistent(), &seq.to_string()),
            None,
        )
    });
    t.step(Input::Fetched(leveret_core::log::Fetched {
        queue: fetch.queue,
        messages: places.into(),
        error: None,
    }));
    let heard = t.heard(c);
    assert_eq!(
        heard,
        [
            "tag: #1 4 again",
            "tag: #2 5 again",
            "tag: #3 6",
            "tag: #4 8"
        ]
    );
}

/// Once the flag went by the mark of the last life, far beyond what there was.
#[test]
fn a_message_that_is_new_in_this_life_was_never_delivered() {
    let mut recovered = kept();
    recovered.queues[0].delivered_through = Seq(65_536);
    let mut t = start(recovered);
    let c = t.client();
    t.publish_persistent(c, "", "q", "new");
    t.facts();
    t.step(Input::Retire);
    let facts = t.facts();
    let [Fact::MayDeliver { through, .. }] = facts[..] else {
        panic!("{facts:?}");
    };
    assert_eq!(through, Seq(10));
}

/// Once a mark that was asked for and not yet safe came to hold after the last word.
#[test]
fn retiring_has_the_last_word_about_what_was_delivered() {
    let mut t = start(kept());
    let c = t.client();
    t.log = Log::Held;
    t.consume_no_ack(c, "q", "tag");
    t.disconnect(c.connection);
    t.step(Input::Retire);
    let through = |fact| match fact {
        Fact::MayDeliver { through, .. } => Some(through.0),
        _ => None,
    };
    let marks: Vec<u64> = t.facts().into_iter().filter_map(through).collect();
    assert_eq!(
        marks,
        [4 + 65_536, 5],
        "one to go on, and where it was left"
    );
}

/// Once `x-expires` was forgotten in a restart.
#[test]
fn an_unused_queue_expires_after_a_restart() {
    let mut t = start(kept());
    t.pass_ms(10_000);
    let c = t.client();
    let heard = t.counts(c, "q");
    assert!(heard.starts_with("close NOT_FOUND"), "{heard}");
}

/// Once its time began at zero of a clock that may have run for a while.
#[test]
fn an_unused_queue_has_all_its_time_after_a_restart() {
    let mut t = start(kept());
    t.pass_ms(4_999);
    let c = t.client();
    assert_eq!(t.counts(c, "q"), "queue.declare-ok q 4 0");
}

#[test]
fn a_log_that_contradicts_itself_is_corrupt() {
    type Spoil = fn(&mut Recovered);
    #[rustfmt::skip]
    let rows: [(&str, Spoil); 13] = [
        ("an exchange twice",            |r| r.definitions.insert(0, exchange(9, "x", None))),
        ("a predeclared exchange",       |r| r.definitions.insert(0, exchange(9, "amq.topic", None))),
        ("a queue twice",                |r| r.definitions.insert(3, queue(9, "q"))),
        ("a binding twice",              |r| r.definitions.push(bound(9, "y", "q"))),
        ("a binding from nowhere",       |r| r.definitions.push(bound(9, "z", "q"))),
        ("a binding to nowhere",         |r| r.definitions.push(bound(9, "y", "z"))),
        ("no definition",                |r| r.definitions.push((Lsn(9), Fact::Settled { queue: QueueNumber(3), seq: Seq(1) }))),
        ("messages of no queue",         |r| r.queues.push(messages(9, 1, vec![]))),
        ("messages of a queue twice",    |r| r.queues.push(messages(3, 9, vec![run(9, 9)]))),
        ("runs out of order",            |r| r.queues[0].runs.swap(0, 1)),
        ("runs that overlap",            |r| r.queues[0].runs[0].last = Seq(8)),
        ("a run that ends at its start", |r| r.queues[0].runs[0].last = Seq(3)),
        ("messages beyond the last",     |r| r.queues[0].last = Seq(7)),
    ];
    for (what, spoil) in rows {
        let mut recovered = kept();
        spoil(&mut recovered);
        let started = BrokerTest::recovered(recovered).map(|_| ());
        assert!(
            matches!(started, Err(LogError::Corrupt(_))),
            "{what}: {started:?}"
        );
    }
}

//! Where messages go that a queue gets rid of, and what they say of it.

mod common;

use common::{
    BrokerTest, Chan, Log, headers, keys, message_with, persistent, queue_declare_with, table,
};
use leveret_codec::{FieldTable, FieldValue, Properties, QueueDeclare};
use leveret_core::{Fact, Message, Outcome, Wall};

/// Queue `q`, whose dead letters go to queue `dead`.
fn queue<const N: usize>(arguments: [(&str, FieldValue); N]) -> (BrokerTest, Chan) {
    let mut t = BrokerTest::new();
    t.now.wall = Wall(1_700_000_000_999);
    let ch = t.client();
    let mut all = vec![
        ("x-dead-letter-exchange", FieldValue::from("")),
        ("x-dead-letter-routing-key", FieldValue::from("dead")),
    ];
    all.extend(arguments);
    let mut declare = queue_declare_with("q", []);
    let mut arguments = FieldTable::default();
    for (name, value) in all {
        arguments.insert(name, value);
    }
    let mut octets = Vec::new();
    arguments.encode_into(&mut octets);
    declare.arguments = leveret_codec::RawTable::from_table(&arguments);
    t.method(ch, declare);
    t.queue(ch, "dead");
    t.heard(ch);
    (t, ch)
}

/// Takes the one message of a queue.
fn fetch(t: &mut BrokerTest, ch: Chan, queue: &str) -> Message {
    t.take_deliveries();
    t.get(ch, queue);
    t.take_delivery()
}

fn deaths(message: &Message) -> Vec<String> {
    let headers = message.properties().headers.expect("headers");
    let Some(FieldValue::Array(deaths)) = headers.get("x-death").cloned() else {
        panic!("no deaths in {headers:?}");
    };
    deaths
        .iter()
        .map(|death| in_short(death.as_table().expect("a table")))
        .collect()
}

/// `q rejected 2 "" [k]`: queue, reason, count, exchange, keys.
fn in_short(death: &FieldTable) -> String {
    let text = |name: &str| {
        death
            .get(name)
            .and_then(FieldValue::as_str)
            .unwrap_or("-")
            .to_owned()
    };
    let Some(FieldValue::Array(keys)) = death.get("routing-keys") else {
        panic!("no keys in {death:?}");
    };
    let keys: Vec<_> = keys.iter().filter_map(FieldValue::as_str).collect();
    let count = death
        .get("count")
        .and_then(FieldValue::as_i64)
        .expect("a count");
    format!(
        "{} {} {count} {:?} {keys:?}",
        text("queue"),
        text("reason"),
        text("exchange")
    )
}

fn header(message: &Message, name: &str) -> Option<String> {
    let headers = message.properties().headers?;
    headers.get(name)?.as_str().map(str::to_owned)
}

#[test]
fn a_rejected_message_says_where_it_died() {
    for outcome in [
        Outcome::Nack { requeue: false },
        Outcome::Reject { requeue: false },
    ] {
        let (mut t, ch) = queue([]);
        t.bind(ch, "amq.topic", "k", "q");
        t.publish_to(ch, "amq.topic", "k", "m");
        t.get(ch, "q");
        t.settle(ch, 1, false, outcome);
        let message = fetch(&mut t, ch, "dead");
        assert_eq!(message.body(), b"m");
        assert_eq!((message.exchange(), message.routing_key()), ("", "dead"));
        assert_eq!(deaths(&message), [r#"q rejected 1 "amq.topic" ["k"]"#]);
        for when in ["first", "last"] {
            let said = |what| header(&message, &format!("x-{when}-death-{what}"));
            let said = [said("queue"), said("reason"), said("exchange")];
            assert_eq!(said.map(Option::unwrap), ["q", "rejected", "amq.topic"]);
        }
        let headers = message.properties().headers.expect("headers");
        let Some(FieldValue::Array(deaths)) = headers.get("x-death") else {
            panic!("no deaths");
        };
        let time = deaths[0]
            .as_table()
            .and_then(|death| death.get("time"))
            .cloned();
        assert_eq!(time, Some(FieldValue::Timestamp(1_700_000_000)), "seconds");
    }
}

#[test]
fn reasons() {
    type Kill = fn(&mut BrokerTest, Chan);
    #[rustfmt::skip]
    let rows: [(&str, i32, Kill, &str); 3] = [
        ("x-message-ttl", 50, |t, _| t.pass_ms(50),               r#"q expired 1 "" ["q"]"#),
        ("x-max-length",   1, |t, ch| t.publish(ch, "q", "next"), r#"q maxlen 1 "" ["q"]"#),
        ("x-delivery-limit", 0, |t, ch| {
            t.get(ch, "q");
            t.settle(ch, 1, false, Outcome::Reject { requeue: true });
        }, r#"q delivery_limit 1 "" ["q"]"#),
    ];
    for (argument, value, kill, expected) in rows {
        let (mut t, ch) = queue([(argument, value.into())]);
        t.publish(ch, "q", "m");
        kill(&mut t, ch);
        let message = fetch(&mut t, ch, "dead");
        assert_eq!(deaths(&message), [expected], "{argument}");
        assert_eq!(message.body(), b"m");
    }
}

#[test]
fn the_expiration_goes_and_is_remembered() {
    let (mut t, ch) = queue([]);
    let properties = Properties {
        expiration: Some("100".into()),
        ..persistent()
    };
    t.publish_with(ch, message_with("", "q", properties, "m"), false);
    t.pass_ms(100);
    let message = fetch(&mut t, ch, "dead");
    let properties = message.properties();
    assert_eq!(properties.expiration, None);
    assert!(message.is_persistent());
    let headers = properties.headers.expect("headers");
    let Some(FieldValue::Array(deaths)) = headers.get("x-death") else {
        panic!("no deaths");
    };
    let death = deaths[0].as_table().expect("a table");
    let original = death
        .get("original-expiration")
        .and_then(FieldValue::as_str);
    assert_eq!(original, Some("100"));
}

#[test]
fn without_a_key_of_its_own_the_message_keeps_all_it_had() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.exchange(ch, "dlx", "direct");
    t.method(
        ch,
        queue_declare_with("q", [("x-dead-letter-exchange", "dlx".into())]),
    );
    for queue in ["q", "copied"] {
        t.queue(ch, &format!("dead.{queue}"));
        t.bind(ch, "dlx", queue, &format!("dead.{queue}"));
    }
    t.heard(ch);
    let properties = headers([("CC", keys(["copied"])), ("BCC", keys(["secret"]))]);
    t.publish_with(ch, message_with("", "q", properties, "m"), false);
    t.get(ch, "q");
    t.discard(ch, 1);
    for queue in ["dead.q", "dead.copied"] {
        let message = fetch(&mut t, ch, queue);
        assert_eq!(deaths(&message), [r#"q rejected 1 "" ["q", "copied"]"#]);
        assert_eq!((message.exchange(), message.routing_key()), ("dlx", "q"));
    }
}

#[test]
fn nobody_is_there_to_take_it() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    let declare = QueueDeclare {
        durable: true,
        arguments: table([("x-dead-letter-exchange", "missing".into())]),
        ..queue_declare_with("q", [])
    };
    t.method(ch, declare);
    t.publish_persistent(ch, "", "q", "m");
    t.get(ch, "q");
    t.facts();
    t.discard(ch, 1);
    assert!(matches!(t.facts()[..], [Fact::Settled { .. }]));
    assert!(!t.was_refused(ch.connection));
}

#[test]
fn a_death_is_one_record() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    let declare = QueueDeclare {
        durable: true,
        arguments: table([
            ("x-dead-letter-exchange", "".into()),
            ("x-dead-letter-routing-key", "dead".into()),
        ]),
        ..queue_declare_with("q", [])
    };
    t.method(ch, declare);
    t.durable_queue(ch, "dead");
    t.publish_persistent(ch, "", "q", "m");
    t.get(ch, "q");
    t.facts();
    t.discard(ch, 1);
    let facts = t.facts();
    let [Fact::Together(facts)] = facts.as_slice() else {
        panic!("{facts:?}");
    };
    assert!(matches!(
        facts[..],
        [Fact::Settled { .. }, Fact::Published { .. }]
    ));
}

#[test]
fn a_death_in_a_transaction_is_part_of_it() {
    let (mut t, ch) = queue([]);
    t.publish(ch, "q", "m");
    t.get(ch, "q");
    t.tx_select(ch);
    t.discard(ch, 1);
    assert_eq!(t.bodies("dead"), [""; 0]);
    t.tx_commit(ch);
    assert_eq!(t.bodies("dead"), ["m"]);
}

/// Two queues, each of which passes what expires there on to the other.
fn ring() -> (BrokerTest, Chan) {
    let mut t = BrokerTest::new();
    let ch = t.client();
    for (name, other) in [("a", "b"), ("b", "a")] {
        let arguments = [
            ("x-message-ttl", 10.into()),
            ("x-dead-letter-exchange", "".into()),
            ("x-dead-letter-routing-key", other.into()),
        ];
        t.method(ch, queue_declare_with(name, arguments));
    }
    t.heard(ch);
    (t, ch)
}

#[test]
fn a_circle_ends_where_the_message_has_been() {
    let (mut t, ch) = ring();
    t.publish(ch, "a", "m");
    t.pass_ms(10);
    assert_eq!(t.counts(ch, "b"), "queue.declare-ok b 1 0");
    t.pass_ms(10);
    assert_eq!(t.broker.totals().ready, 0);
    assert_eq!(t.broker.metrics().dead_letter_cycles, 1);
}

#[test]
fn a_circle_that_a_consumer_is_part_of_goes_on_and_counts() {
    let (mut t, ch) = ring();
    t.publish(ch, "a", "m");
    for round in 1..=3 {
        t.get(ch, "a");
        t.discard(ch, round); // to b, whence it comes back
        t.pass_ms(10);
        assert_eq!(t.counts(ch, "a"), "queue.declare-ok a 1 0", "round {round}");
    }
    let message = fetch(&mut t, ch, "a");
    let expected = [r#"b expired 3 "" ["b"]"#, r#"a rejected 3 "" ["a"]"#];
    assert_eq!(deaths(&message), expected);
}

#[test]
fn what_a_publisher_writes_there_is_no_history() {
    let (mut t, ch) = queue([("x-message-ttl", 10.into())]);
    let mut forged = FieldTable::default();
    forged.insert("queue", "dead");
    forged.insert("reason", "expired");
    forged.insert("count", 7);
    let forged = FieldValue::Array(vec![FieldValue::Table(forged)]);
    let properties = headers([("x-death", forged), ("x-first-death-queue", "no".into())]);
    t.publish_with(ch, message_with("", "q", properties, "m"), false);
    t.pass_ms(10);
    let message = fetch(&mut t, ch, "dead");
    assert_eq!(deaths(&message), [r#"q expired 1 "" ["q"]"#]);
    assert_eq!(
        header(&message, "x-first-death-queue").as_deref(),
        Some("q")
    );
}

#[test]
fn failed_deliveries_are_counted_and_limited() {
    let (mut t, ch) = queue([("x-delivery-limit", 2.into())]);
    t.publish(ch, "q", "m");
    let count = |message: &Message| {
        let headers = message.properties().headers?;
        headers.get("x-delivery-count")?.as_i64()
    };
    let mut counts = Vec::new();
    for tag in 1..=4 {
        counts.push(count(&fetch(&mut t, ch, "q")));
        // Given back is not failed.
        let outcome = match tag {
            2 => Outcome::Nack { requeue: true },
            _ => Outcome::Reject { requeue: true },
        };
        t.settle(ch, tag, false, outcome);
    }
    assert_eq!(counts, [None, Some(1), Some(1), Some(2)]);
    let message = fetch(&mut t, ch, "dead");
    assert_eq!(deaths(&message), [r#"q delivery_limit 1 "" ["q"]"#]);
    assert_eq!(count(&message), None);
}

#[test]
fn a_consumer_that_goes_away_has_failed() {
    let (mut t, ch) = queue([("x-delivery-limit", 0.into())]);
    t.publish(ch, "q", "m");
    let other = t.client();
    t.get(other, "q");
    t.disconnect(other.connection);
    assert_eq!(t.bodies("dead"), ["m"]);
    assert_eq!(t.counts(ch, "q"), "queue.declare-ok q 0 0");
}

#[test]
fn a_chain_of_full_queues_ends() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    for n in 0..50 {
        let arguments = [
            ("x-max-length", 1.into()),
            ("x-dead-letter-exchange", "".into()),
            (
                "x-dead-letter-routing-key",
                format!("q{}", (n + 1) % 50).as_str().into(),
            ),
        ];
        t.method(ch, queue_declare_with(&format!("q{n}"), arguments));
    }
    for n in 0..200 {
        t.publish(ch, "q0", &n.to_string());
    }
    assert_eq!(t.broker.totals().ready, 50);
    assert_eq!(t.bodies("q0"), ["199"]);
    assert_eq!(t.bodies("q49"), ["150"]);
}

#[test]
fn a_delivery_mode_that_nobody_may_send_means_nothing() {
    let (mut t, ch) = queue([("x-message-ttl", 10.into())]);
    let mut forged = FieldTable::default();
    forged.insert("queue", "dead");
    forged.insert("reason", "expired");
    let forged = FieldValue::Array(vec![FieldValue::Table(forged)]);
    let properties = Properties {
        delivery_mode: Some(0x82),
        ..headers([("x-death", forged)])
    };
    t.publish_with(ch, message_with("", "q", properties, "m"), false);
    t.pass_ms(10);
    let message = fetch(&mut t, ch, "dead");
    assert_eq!(deaths(&message), [r#"q expired 1 "" ["q"]"#]);
}

/// Each full queue passes its oldest message to all others: of one publish come more deaths than
/// there are atoms.
#[test]
fn full_queues_that_pass_everything_on_do_not_stop_the_vhost() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.checked = false;
    t.exchange(ch, "all", "fanout");
    for n in 0..14 {
        let arguments = [
            ("x-max-length", 1.into()),
            ("x-dead-letter-exchange", "all".into()),
        ];
        let name = format!("q{n}");
        t.method(ch, queue_declare_with(&name, arguments));
        t.bind(ch, "all", "", &name);
    }
    t.heard(ch);
    t.publish_to(ch, "all", "", "first");
    let before = t.broker.work();
    t.publish_to(ch, "all", "", "second");
    assert!(t.broker.work() - before < 100_000, "one turn is bounded");
    for _ in 0..10 {
        t.pass_ms(1);
    }
    t.publish(ch, "q0", "life goes on");
    assert_eq!(t.bodies("q0").len(), 1);
}

#[test]
fn a_routing_key_that_is_too_long_is_cut_between_characters() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    let key = "\u{e9}".repeat(200);
    let arguments = [
        ("x-dead-letter-exchange", "amq.fanout".into()),
        ("x-dead-letter-routing-key", key.as_str().into()),
    ];
    t.method(ch, queue_declare_with("q", arguments));
    t.queue(ch, "dead");
    t.bind(ch, "amq.fanout", "", "dead");
    t.heard(ch);
    t.publish(ch, "q", "m");
    t.get(ch, "q");
    t.discard(ch, 1);
    let message = fetch(&mut t, ch, "dead");
    assert_eq!(message.routing_key(), "\u{e9}".repeat(127));
    assert!(Message::from_block(message.block()).is_some());
}

/// Durable queue `q`, whose dead letters go to queue `dead`, and a consumer of that.
fn lasting(dead: QueueDeclare<'static>) -> (BrokerTest, Chan, Chan) {
    let mut t = BrokerTest::new();
    let ch = t.client();
    let arguments = [
        ("x-dead-letter-exchange", "".into()),
        ("x-dead-letter-routing-key", "dead".into()),
    ];
    let declare = QueueDeclare {
        durable: true,
        ..queue_declare_with("q", arguments)
    };
    t.method(ch, declare);
    t.method(ch, dead);
    let reader = t.client();
    t.consume(reader, "dead", "reader");
    t.heard(ch);
    t.heard(reader);
    (t, ch, reader)
}

/// Once it was delivered at once. After a crash in which its record was lost the message was back
/// in its old queue, died again, and its letter was delivered for the first time twice.
#[test]
fn a_dead_letter_is_seen_when_it_cannot_come_again() {
    for durable in [true, false] {
        let (mut t, ch, reader) = lasting(QueueDeclare {
            durable,
            ..queue_declare_with("dead", [])
        });
        t.publish_persistent(ch, "", "q", "m");
        t.get(ch, "q");
        t.log = Log::Held;
        t.discard(ch, 1);
        t.publish(ch, "dead", "behind it");
        assert_eq!(t.heard(reader), [""; 0], "its record is not safe");
        t.sync();
        assert_eq!(
            t.heard(reader),
            ["reader: #1 m", "reader: #2 behind it"],
            "durable: {durable}"
        );
    }
}

/// Nothing of it is in the log, so nothing can come back.
#[test]
fn a_transient_dead_letter_waits_for_nothing() {
    let (mut t, ch, reader) = lasting(queue_declare_with("dead", []));
    t.publish(ch, "q", "m");
    t.get(ch, "q");
    t.log = Log::Held;
    t.discard(ch, 1);
    assert_eq!(t.heard(reader), ["reader: #1 m"]);
}

/// Numbers begin anew with each priority: once the second letter here was below what the first one
/// held back.
#[test]
fn a_dead_letter_of_higher_priority_waits_for_its_record_too() {
    let (mut t, ch, reader) = lasting(QueueDeclare {
        durable: true,
        ..queue_declare_with("dead", [("x-max-priority", 9.into())])
    });
    for (priority, body) in [(1, "low"), (5, "high")] {
        let properties = Properties {
            priority: Some(priority),
            ..persistent()
        };
        t.publish_with(ch, message_with("", "q", properties, body), false);
    }
    for body in ["a", "b", "c"] {
        let properties = Properties {
            priority: Some(1),
            ..persistent()
        };
        t.publish_with(ch, message_with("", "dead", properties, body), false);
    }
    t.get(ch, "q");
    t.get(ch, "q");
    t.heard(reader);
    t.log = Log::Held;
    t.discard(ch, 1);
    t.discard(ch, 2);
    assert_eq!(t.heard(reader), [""; 0]);
    t.sync();
    assert_eq!(t.heard(reader), ["reader: #4 high", "reader: #5 low"]);
}

/// Each priority counts for itself: once a letter with a low number held back all that had higher ones.
#[test]
fn a_dead_letter_holds_back_nothing_of_another_priority() {
    let (mut t, ch, reader) = lasting(QueueDeclare {
        durable: true,
        ..queue_declare_with("dead", [("x-max-priority", 9.into())])
    });
    let with = |priority| Properties {
        priority: Some(priority),
        ..persistent()
    };
    t.publish_with(ch, message_with("", "q", with(0), "letter"), false);
    t.get(ch, "q");
    for _ in 0..5 {
        t.publish_with(ch, message_with("", "dead", with(9), "high"), false);
    }
    t.heard(reader);
    t.log = Log::Held;
    t.discard(ch, 1);
    assert_eq!(t.heard(reader), [""; 0]);
    t.publish_with(ch, message_with("", "dead", with(9), "other"), false);
    assert_eq!(t.heard(reader), ["reader: #6 other"]);
    t.sync();
    assert_eq!(t.heard(reader), ["reader: #7 letter"]);
}

/// Once nobody looked at what stood behind a letter that had to make room: it stayed in its queue, with
/// an idle consumer, until the log reported something.
#[test]
fn what_stood_behind_a_letter_that_made_room_is_delivered_at_once() {
    let arguments = [("x-max-priority", 9.into()), ("x-max-length", 1.into())];
    let (mut t, ch, reader) = lasting(QueueDeclare {
        durable: true,
        ..queue_declare_with("dead", arguments)
    });
    let high = Properties {
        priority: Some(9),
        ..persistent()
    };
    t.publish_with(ch, message_with("", "q", high, "letter"), false);
    t.get(ch, "q");
    t.log = Log::Held;
    t.discard(ch, 1);
    assert_eq!(t.heard(reader), [""; 0], "its record is not safe");
    t.publish(ch, "dead", "low");
    assert_eq!(t.heard(reader), ["reader: #1 low"]);
    t.sync();
    assert_eq!(t.heard(reader), [""; 0], "the letter was first in line");
}

/// Once the queue was gone in the log before the message was that had died in it: a crash in between
/// lost the letter, and the log said of a message that it left a queue that was not there.
#[test]
fn what_dies_in_a_queue_before_its_end_is_not_lost_with_it() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    let arguments = [
        ("x-message-ttl", 10.into()),
        ("x-expires", 20.into()),
        ("x-dead-letter-exchange", "".into()),
        ("x-dead-letter-routing-key", "dead".into()),
    ];
    let declare = QueueDeclare {
        durable: true,
        ..queue_declare_with("q", arguments)
    };
    t.method(ch, declare);
    t.durable_queue(ch, "dead");
    t.publish_persistent(ch, "", "q", "m");
    t.facts();
    t.pass_ms(30); // both at once
    let facts = t.facts();
    assert!(
        matches!(facts[..], [Fact::Together(_), Fact::QueueDeleted { .. }]),
        "{facts:?}"
    );
    assert_eq!(t.bodies("dead"), ["m"]);
}

/// What was in a queue is not too much when it dies, however much dies at once: only what full queues
/// pass on and on is.
#[test]
fn all_that_dies_at_once_is_dead_lettered() {
    const MANY: usize = 25_000;
    for together in [true, false] {
        let (mut t, ch) = queue([("x-message-ttl", 10.into())]);
        t.checked = false;
        let worker = t.client();
        if together {
            t.consume(worker, "q", "t");
        }
        for _ in 0..MANY {
            t.publish(ch, "q", "x");
        }
        if together {
            t.settle(worker, 0, true, Outcome::Nack { requeue: false });
        } else {
            t.pass_ms(10);
        }
        while t.broker.next_timer().is_some_and(|at| at <= t.now.mono) {
            t.pass_ms(0);
        }
        assert_eq!(t.broker.totals().ready, MANY, "together: {together}");
        assert_eq!(t.broker.metrics().dead_letters_dropped, 0);
        t.broker.check_invariants();
    }
}

#[test]
fn a_commit_is_one_record_however_many_die_of_it() {
    let (mut t, ch) = queue([]);
    t.checked = false;
    let worker = t.client();
    t.tx_select(worker);
    t.consume(worker, "q", "t");
    for _ in 0..2_500 {
        t.publish(ch, "q", "x");
    }
    t.settle(worker, 0, true, Outcome::Nack { requeue: false });
    assert_eq!(t.broker.totals().ready, 0);
    t.tx_commit(worker);
    assert_eq!(t.broker.totals().ready, 2_500, "with the commit");
}

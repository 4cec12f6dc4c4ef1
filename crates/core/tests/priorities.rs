//! Queues with priorities (`x-max-priority`).

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::*;
use leveret_codec::{BasicGet, FieldTable, FieldValue, Properties, QueueDeclare, QueuePurge};
use leveret_core::log::{Fetched, LogError, Recovered, RecoveredQueue, Run};
use leveret_core::{Fact, Input, Limits, Lsn, Message, QueueNumber, Seq};

/// Queue `q` with priorities up to 5 and these arguments.
fn queue<const N: usize>(arguments: [(&str, FieldValue); N]) -> (BrokerTest, Chan) {
    let mut t = BrokerTest::new();
    let c = t.client();
    declare(&mut t, c, "q", false, arguments);
    (t, c)
}

fn declare<const N: usize>(
    t: &mut BrokerTest,
    on: Chan,
    name: &str,
    durable: bool,
    arguments: [(&str, FieldValue); N],
) {
    let mut fields = field_table([("x-max-priority", 5.into())]);
    for (name, value) in arguments {
        fields.insert(name, value);
    }
    let declare = QueueDeclare {
        durable,
        arguments: leveret_codec::RawTable::from_table(&fields),
        ..queue_declare(name)
    };
    let heard = t.ask(on, declare);
    assert_eq!(heard.len(), 1, "{heard:?}");
}

fn with_priority(priority: Option<u8>, properties: Properties, body: &str) -> Message {
    let properties = Properties {
        priority,
        ..properties
    };
    message_with("", "q", properties, body)
}

/// Publishes messages named after their priorities, as `5a`.
fn publish<const N: usize>(t: &mut BrokerTest, on: Chan, bodies: [&str; N]) {
    publish_as(t, on, &Properties::default(), bodies);
}

fn publish_as<const N: usize>(
    t: &mut BrokerTest,
    on: Chan,
    properties: &Properties,
    bodies: [&str; N],
) {
    for body in bodies {
        let digits = body.trim_end_matches(|c: char| !c.is_ascii_digit());
        let message = with_priority(digits.parse().ok(), properties.clone(), body);
        t.publish_with(on, message, false);
    }
}

#[test]
fn the_highest_goes_first_and_equals_in_order_of_arrival() {
    let (mut t, c) = queue([]);
    publish(&mut t, c, ["0a", "3a", "5a", "3b", "0b", "5b", "4a"]);
    assert_eq!(t.bodies("q"), ["5a", "5b", "4a", "3a", "3b", "0a", "0b"]);
    t.consume_no_ack(c, "q", "tag");
    let heard: Vec<_> = t.heard(c).into_iter().collect();
    let bodies: Vec<_> = heard
        .iter()
        .filter_map(|line| line.rsplit(' ').nth(1))
        .collect();
    assert_eq!(bodies.len(), 7, "{heard:?}");
    assert_eq!(bodies, ["5a", "5b", "4a", "3a", "3b", "0a", "0b"]);
}

#[test]
fn no_priority_is_0_and_what_is_above_the_highest_counts_as_that() {
    let (mut t, c) = queue([]);
    publish(&mut t, c, ["none", "0a", "5a", "9a", "255a", "5b"]);
    assert_eq!(t.bodies("q"), ["5a", "9a", "255a", "5b", "none", "0a"]);
}

#[test]
fn the_property_arrives_as_it_was_sent() {
    let (mut t, c) = queue([]);
    publish(&mut t, c, ["9a"]);
    t.get(c, "q");
    assert_eq!(t.take_delivery().properties().priority, Some(9));
}

#[test]
fn a_queue_without_the_argument_or_with_0_knows_no_priorities() {
    for arguments in [field_table([]), field_table([("x-max-priority", 0.into())])] {
        let mut t = BrokerTest::new();
        let c = t.client();
        let arguments = leveret_codec::RawTable::from_table(&arguments);
        let declare = QueueDeclare {
            arguments,
            ..queue_declare("q")
        };
        t.ask(c, declare);
        publish(&mut t, c, ["0a", "5a", "3a"]);
        assert_eq!(t.bodies("q"), ["0a", "5a", "3a"]);
    }
}

#[test]
fn what_comes_back_goes_to_its_place_within_its_priority() {
    let (mut t, c) = queue([]);
    publish(&mut t, c, ["0a", "3a", "5a", "5b", "3b"]);
    for _ in 0..4 {
        t.get(c, "q"); // 5a 5b 3a 3b
    }
    publish(&mut t, c, ["5c", "3c", "4a"]);
    t.requeue(c, 2);
    t.requeue(c, 4);
    assert_eq!(t.get(c, "q"), "get-ok #5 5b again, 5 left");
    t.settle(c, 0, true, leveret_core::Outcome::Nack { requeue: true });
    let order = ["5a", "5b", "5c", "4a", "3a", "3b", "3c", "0a"];
    assert_eq!(t.bodies("q"), order);
}

#[test]
fn a_closed_channel_gives_everything_back_in_order() {
    let (mut t, c) = queue([]);
    publish(&mut t, c, ["1a", "5a", "5b", "1b"]);
    let other = t.client();
    t.consume(other, "q", "tag");
    assert_eq!(t.counts(c, "q"), "queue.declare-ok q 0 1");
    publish(&mut t, c, ["5c"]);
    t.disconnect(other.connection);
    assert_eq!(t.bodies("q"), ["5a", "5b", "5c", "1a", "1b"]);
}

#[test]
fn a_consumer_that_has_room_again_gets_the_highest() {
    let (mut t, c) = queue([]);
    t.prefetch(c, 1);
    t.consume(c, "q", "tag");
    t.heard(c);
    publish(&mut t, c, ["0a", "1a", "4a"]);
    t.ack(c, 1);
    assert_eq!(t.heard(c), ["tag: #1 0a", "tag: #2 4a"]);
}

#[test]
fn messages_are_counted_and_purged_whatever_their_priority() {
    let (mut t, c) = queue([]);
    publish(&mut t, c, ["0a", "5a", "3a", "5b"]);
    t.get(c, "q");
    assert_eq!(t.counts(c, "q"), "queue.declare-ok q 3 0");
    assert!(t.broker.totals().ready_bytes > 0);
    let purge = QueuePurge {
        queue: short("q"),
        ..QueuePurge::default()
    };
    assert_eq!(t.ask(c, purge), ["queue.purge-ok 3"]);
    assert_eq!(t.broker.totals().ready_bytes, 0);
    t.requeue(c, 1);
    publish(&mut t, c, ["5c"]);
    assert_eq!(t.bodies("q"), ["5a", "5c"]);
}

#[test]
fn the_head_makes_room_and_that_is_the_highest() {
    // As RabbitMQ: "higher priority messages might be dropped to make way for lower priority ones".
    let (mut t, c) = queue([("x-max-length", 2.into())]);
    publish(&mut t, c, ["1a", "2a", "5a", "0a"]);
    assert_eq!(t.bodies("q"), ["1a", "0a"]);
    let (mut t, c) = queue([("x-max-length-bytes", 4.into())]);
    publish(&mut t, c, ["1a", "2a", "0a"]);
    assert_eq!(t.bodies("q"), ["1a", "0a"]);
}

#[test]
fn a_full_queue_rejects_whatever_the_priority() {
    let (mut t, c) = queue([
        ("x-max-length", 2.into()),
        ("x-overflow", "reject-publish".into()),
    ]);
    t.confirm_select(c);
    publish(&mut t, c, ["1a", "2a", "5a"]);
    assert_eq!(t.heard(c), ["confirm 1", "confirm 2", "basic.nack 3"]);
    assert_eq!(t.bodies("q"), ["2a", "1a"]);
}

#[test]
fn each_message_expires_when_it_is_due_wherever_it_stands() {
    let (mut t, c) = queue([]);
    let lasting = |ms: &str| Properties {
        expiration: Some(ms.to_owned().into()),
        ..Properties::default()
    };
    publish(&mut t, c, ["5a", "1a"]);
    publish_as(&mut t, c, &lasting("100"), ["1b", "5b"]);
    publish_as(&mut t, c, &lasting("200"), ["1c"]);
    t.pass_ms(100);
    assert_eq!(t.counts(c, "q"), "queue.declare-ok q 3 0");
    t.get(c, "q");
    t.get(c, "q");
    t.get(c, "q");
    t.pass_ms(100);
    t.settle(c, 0, true, leveret_core::Outcome::Nack { requeue: true });
    assert_eq!(t.bodies("q"), ["5a", "1a"], "1c came back too late");
    assert_eq!(t.broker.metrics().expired, 3);
}

#[test]
fn with_a_time_of_0_a_message_is_delivered_at_once_or_not_at_all() {
    let (mut t, c) = queue([("x-message-ttl", 0.into())]);
    publish(&mut t, c, ["5a", "0a"]);
    assert_eq!(t.broker.totals().ready, 0);
    t.consume(c, "q", "tag");
    t.heard(c);
    publish(&mut t, c, ["3a"]);
    assert_eq!(t.heard(c), ["tag: #1 3a"]);
}

#[test]
fn a_dead_letter_keeps_its_priority() {
    let (mut t, c) = queue([
        ("x-max-length", 1.into()),
        ("x-dead-letter-exchange", "".into()),
        ("x-dead-letter-routing-key", "dead".into()),
    ]);
    declare(&mut t, c, "dead", false, []);
    publish(&mut t, c, ["1a", "4a", "3a", "2a"]);
    assert_eq!(t.bodies("dead"), ["4a", "3a", "2a"]);
    assert_eq!(t.bodies("q"), ["1a"]);
    publish(&mut t, c, ["4b", "5b"]);
    t.get(c, "dead");
    assert_eq!(t.take_delivery().properties().priority, Some(5));
}

#[test]
fn a_transaction_delivers_its_publishes_by_priority() {
    let (mut t, c) = queue([]);
    t.tx_select(c);
    publish(&mut t, c, ["0a", "5a", "3a"]);
    assert_eq!(t.bodies("q"), [""; 0]);
    t.tx_commit(c);
    assert_eq!(t.bodies("q"), ["5a", "3a", "0a"]);
}

// ---- the log

/// What the log has of the messages of one queue.
#[derive(Default)]
struct Kept {
    messages: BTreeMap<(QueueNumber, Seq), Message>,
    declared: Option<(QueueNumber, Fact)>,
    last: u64,
    delivered_through: u64,
    lsn: u64,
}

impl Kept {
    fn take_in(&mut self, t: &mut BrokerTest) {
        for fact in t.facts() {
            self.apply(fact);
        }
    }

    fn apply(&mut self, fact: Fact) {
        match fact {
            Fact::QueueDeclared { .. } => {
                self.declared = Some((QueueNumber(1), fact));
                self.delivered_through = 65_536;
            }
            Fact::Published {
                message, places, ..
            } => {
                for place in places {
                    self.last = self.last.max(place.1.number());
                    assert!(self.messages.insert(place, message.clone()).is_none());
                }
            }
            Fact::Settled { queue, seq } => {
                assert!(self.messages.remove(&(queue, seq)).is_some());
            }
            Fact::Purged { queue, places } => {
                for (first, last) in places {
                    for seq in first.0..=last.0 {
                        assert!(self.messages.remove(&(queue, Seq(seq))).is_some());
                    }
                }
            }
            Fact::MayDeliver { through, .. } => self.delivered_through = through.0,
            Fact::Together(facts) => facts.into_iter().for_each(|fact| self.apply(fact)),
            _ => {}
        }
        self.lsn += 1;
    }

    fn answer_all(&mut self, t: &mut BrokerTest) {
        loop {
            self.take_in(t);
            let Some(fetch) = t.fetches.pop() else {
                return;
            };
            let level = fetch.first.level();
            assert!(level == 0 || level == fetch.last.level());
            let wanted = (fetch.number, fetch.first)..=(fetch.number, fetch.last);
            let (mut messages, mut bytes) = (Vec::new(), 0);
            for ((_, seq), message) in self.messages.range(wanted) {
                if bytes < fetch.bytes_max {
                    bytes += message.memory_bytes();
                    messages.push((*seq, message.clone(), None));
                }
            }
            t.step(Input::Fetched(Fetched {
                queue: fetch.queue,
                messages,
                error: None,
            }));
        }
    }

    fn restart(&mut self, t: &mut BrokerTest) -> BrokerTest {
        self.take_in(t);
        let (number, declared) = self.declared.clone().expect("a queue");
        let mut runs: Vec<Run> = Vec::new();
        for ((_, seq), message) in &self.messages {
            let bytes = message.memory_bytes() as u64;
            match runs.last_mut() {
                Some(run) if run.last.0 + 1 == seq.0 => {
                    run.last = *seq;
                    run.bytes += bytes;
                }
                _ => runs.push(Run {
                    first: *seq,
                    last: *seq,
                    bytes,
                }),
            }
        }
        BrokerTest::recovered(Recovered {
            last: Lsn(self.lsn + 1),
            definitions: vec![(Lsn(number.0), declared)],
            queues: vec![RecoveredQueue {
                number,
                last: Seq(self.last),
                delivered_through: Seq(self.delivered_through),
                runs,
                expiring: Vec::new(),
                retries: Vec::new(),
            }],
        })
        .expect("it makes sense")
    }

    /// Fetches everything.
    fn drain(&mut self, t: &mut BrokerTest, on: Chan) -> Vec<String> {
        let mut bodies = Vec::new();
        loop {
            let get = BasicGet {
                queue: short("q"),
                no_ack: true,
                ..BasicGet::default()
            };
            t.method(on, get);
            self.answer_all(t);
            t.heard(on);
            let came = t.take_deliveries();
            let Some((_, _, message)) = came.first() else {
                return bodies;
            };
            let body = String::from_utf8_lossy(message.body()).trim().to_owned();
            bodies.push(body);
        }
    }
}

fn durable(memory: usize) -> (BrokerTest, Chan, Kept) {
    let mut t = BrokerTest::with_limits(Limits {
        queue_memory_max: memory,
        ..Limits::default()
    });
    let c = t.client();
    declare(&mut t, c, "q", true, []);
    let mut kept = Kept::default();
    kept.take_in(&mut t);
    (t, c, kept)
}

#[test]
fn priorities_survive_a_restart() {
    let (mut t, c, mut kept) = durable(1 << 20);
    let bodies = ["1a", "5a", "none", "5b", "1b", "3a"];
    publish_as(&mut t, c, &persistent(), bodies);
    publish(&mut t, c, ["5x", "0x"]);
    assert_eq!(t.get(c, "q"), "get-ok #1 5a, 7 left");
    t.ack(c, 1);
    let mut t = kept.restart(&mut t);
    let c = t.client();
    assert_eq!(t.counts(c, "q"), "queue.declare-ok q 5 0");
    publish_as(&mut t, c, &persistent(), ["5c", "2c"]);
    let order = ["5b", "5c", "3a", "2c", "1a", "1b", "none"];
    assert_eq!(kept.drain(&mut t, c), order);
}

#[test]
fn no_place_is_given_out_again_after_a_restart() {
    let (mut t, c, mut kept) = durable(1 << 20);
    publish_as(&mut t, c, &persistent(), ["5a", "5b", "5c", "1a"]);
    kept.drain(&mut t, c);
    let mut t = kept.restart(&mut t);
    let c = t.client();
    publish_as(&mut t, c, &persistent(), ["5d", "1b", "0a"]);
    kept.take_in(&mut t);
    let places: Vec<_> = kept
        .messages
        .keys()
        .map(|(_, seq)| (seq.level(), seq.number()))
        .collect();
    assert_eq!(places, [(250, 4), (254, 4), (255, 4)]);
}

#[test]
fn after_a_restart_marks_cover_all_priorities() {
    let (mut t, c, mut kept) = durable(1 << 20);
    publish_as(&mut t, c, &persistent(), ["1a", "5a", "1b", "5b", "5c"]);
    t.get(c, "q");
    t.get(c, "q");
    t.step(Input::Retire);
    let mut t = kept.restart(&mut t);
    assert_eq!(
        kept.delivered_through, 2,
        "as far as any priority was delivered"
    );
    let c = t.client();
    t.consume(c, "q", "tag");
    kept.answer_all(&mut t);
    t.heard(c);
    let again: Vec<_> = t
        .take_deliveries()
        .into_iter()
        .map(|(_, _, m)| String::from_utf8_lossy(m.body()).into_owned())
        .collect();
    assert_eq!(again, ["5a", "5b", "5c", "1a", "1b"]);
    assert_eq!(
        t.broker.metrics().redelivered,
        4,
        "all but 5c, which was the third of its own"
    );
}

#[test]
fn places_of_a_time_before_priorities_go_first() {
    let (mut t, c, mut kept) = durable(1 << 20);
    publish_as(&mut t, c, &persistent(), ["0a", "5a"]);
    kept.take_in(&mut t);
    let old = [(Seq(1), "first"), (Seq(2), "second")];
    for (seq, body) in old {
        let message = with_priority(Some(0), persistent(), body);
        kept.messages.insert((QueueNumber(1), seq), message);
        kept.last = seq.number();
    }
    let mut t = kept.restart(&mut t);
    let c = t.client();
    publish_as(&mut t, c, &persistent(), ["5b"]);
    assert_eq!(kept.drain(&mut t, c), ["first", "second", "5a", "5b", "0a"]);
}

#[test]
fn a_place_with_a_priority_where_there_are_none_is_refused() {
    let fact = Fact::QueueDeclared {
        name: Arc::from("q"),
        auto_delete: false,
        arguments: Arc::from(
            leveret_codec::RawTable::from_table(&FieldTable::default()).as_bytes(),
        ),
    };
    let place = Seq::in_level(250, 1);
    let recovered = Recovered {
        last: Lsn(2),
        definitions: vec![(Lsn(1), fact)],
        queues: vec![RecoveredQueue {
            number: QueueNumber(1),
            last: Seq(1),
            delivered_through: Seq(0),
            runs: vec![Run {
                first: place,
                last: place,
                bytes: 1,
            }],
            expiring: Vec::new(),
            retries: Vec::new(),
        }],
    };
    let refused = BrokerTest::recovered(recovered).err();
    assert!(matches!(refused, Some(LogError::Corrupt(_))), "{refused:?}");
}

#[test]
fn long_backlogs_are_paged_out_and_come_back_by_priority() {
    let (mut t, c, mut kept) = durable(8_000);
    let mut expected: BTreeMap<u8, Vec<String>> = BTreeMap::new();
    for number in 0..400 {
        let priority = number % 3 * 2; // 0, 2, 4
        let body = format!("{priority}-{number:<60}");
        let priority = u8::try_from(priority).expect("small");
        t.publish_with(c, with_priority(Some(priority), persistent(), &body), false);
        let bodies = expected.entry(priority).or_default();
        bodies.push(body.trim().to_owned());
    }
    assert!(t.broker.metrics().paged_out > 200);
    assert!(t.broker.totals().ready_bytes <= 8_000);
    assert_eq!(t.broker.totals().ready, 400);
    let all: Vec<String> = expected.into_values().rev().flatten().collect();
    assert_eq!(kept.drain(&mut t, c), all);
    assert!(t.broker.metrics().paged_in > 200);
    assert!(kept.messages.is_empty());
}

#[test]
fn a_message_of_the_highest_priority_passes_a_backlog_that_is_away() {
    let (mut t, c, mut kept) = durable(8_000);
    for number in 0..200 {
        let body = format!("{number:<60}");
        t.publish_with(c, with_priority(Some(1), persistent(), &body), false);
    }
    assert!(t.broker.metrics().paged_out > 50);
    t.prefetch(c, 1);
    t.consume(c, "q", "tag");
    kept.answer_all(&mut t);
    publish_as(&mut t, c, &persistent(), ["5a", "0a"]);
    t.heard(c);
    t.take_deliveries();
    t.ack(c, 1);
    kept.answer_all(&mut t);
    assert_eq!(t.heard(c), ["tag: #2 5a"]);
    t.take_deliveries();
    for tag in 2..=201 {
        t.ack(c, tag);
        kept.answer_all(&mut t);
    }
    let came = t.take_deliveries();
    assert_eq!(came.len(), 200);
    assert_eq!(
        came.last().map(|(_, tag, m)| (*tag, m.body())),
        Some((202, b"0a".as_slice()))
    );
}

#[test]
fn a_purge_leaves_nothing_in_the_log() {
    let (mut t, c, mut kept) = durable(1 << 20);
    publish_as(&mut t, c, &persistent(), ["1a", "5a", "1b", "5b", "5c"]);
    t.get(c, "q");
    let purge = QueuePurge {
        queue: short("q"),
        ..QueuePurge::default()
    };
    t.ask(c, purge);
    kept.take_in(&mut t);
    assert_eq!(kept.messages.len(), 1, "what is delivered stays");
}

#[test]
fn any_number_of_priorities_in_use_keeps_the_order() {
    let mut t = BrokerTest::new();
    let c = t.client();
    declare(&mut t, c, "q", false, [("x-max-priority", 255.into())]);
    for round in 0..3 {
        for priority in 0..=255_u8 {
            let body = format!("{priority}-{round}");
            t.publish_with(
                c,
                with_priority(
                    Some(priority.wrapping_mul(101)),
                    Properties::default(),
                    &body,
                ),
                false,
            );
        }
    }
    let bodies = t.bodies("q");
    let key = |body: &String| {
        let (priority, round) = body.split_once('-').expect("both");
        let priority: u8 = priority.parse().expect("a number");
        let round: i32 = round.parse().expect("a number");
        (std::cmp::Reverse(priority.wrapping_mul(101)), round)
    };
    assert_eq!(bodies.len(), 768);
    assert!(bodies.is_sorted_by_key(key));
}

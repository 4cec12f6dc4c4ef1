//! What is recorded, and what is not.

mod common;

use common::{BrokerTest, Chan, Log, exchange_declare, queue_declare, short, table};
use leveret_codec::{ExchangeDeclare, QueueDeclare, QueuePurge};
use leveret_core::{Fact, Outcome, Seq};

fn client() -> (BrokerTest, Chan) {
    let mut t = BrokerTest::new();
    let ch = t.client();
    (t, ch)
}

/// Facts in short: `declared q`, `published d1`, `settled d1`.
fn told(t: &mut BrokerTest) -> Vec<String> {
    let facts = t.facts();
    facts.iter().map(|fact| in_short(t, fact)).collect()
}

fn in_short(t: &BrokerTest, fact: &Fact) -> String {
    let name = |queue| &t.queue_numbers[queue];
    match fact {
        Fact::ExchangeDeclared { name, .. } | Fact::QueueDeclared { name, .. } => {
            format!("declared {name}")
        }
        Fact::ExchangeDeleted { name } | Fact::QueueDeleted { name, .. } => {
            format!("deleted {name}")
        }
        Fact::Bound(binding) => format!("bound {}-{}", binding.source, binding.destination),
        Fact::Unbound(binding) => format!("unbound {}-{}", binding.source, binding.destination),
        Fact::Published { places, .. } => {
            let in_short = |(queue, seq)| format!("{}{seq}", name(queue));
            let places: Vec<_> = places.iter().map(|(q, seq)| in_short((q, seq))).collect();
            format!("published {}", places.join("+"))
        }
        Fact::Settled { queue, seq } => format!("settled {}{seq}", name(queue)),
        Fact::Purged { queue, places } => {
            let runs: Vec<_> = places
                .iter()
                .map(|(Seq(first), Seq(last))| format!("{first}-{last}"))
                .collect();
            format!("purged {}{}", name(queue), runs.join("+"))
        }
        Fact::Noted(note) => format!("noted {}", String::from_utf8_lossy(&note.key)),
        Fact::MayDeliver { queue, through } => format!("may deliver {}{through}", name(queue)),
        Fact::Retried { queue, retries } => format!("retried {} of {}", retries.len(), name(queue)),
        Fact::Together(facts) => {
            let facts: Vec<_> = facts.iter().map(|fact| in_short(t, fact)).collect();
            format!("[{}]", facts.join(", "))
        }
    }
}

const NOTHING: [&str; 0] = [];

#[test]
fn transient_things_leave_no_record() {
    let (mut t, ch) = client();
    t.queue(ch, "q");
    t.exchange(ch, "x", "topic");
    t.bind(ch, "x", "#", "q");
    t.bind(ch, "amq.topic", "#", "q");
    let exclusive = QueueDeclare {
        exclusive: true,
        durable: true,
        ..queue_declare("mine")
    };
    t.method(ch, exclusive);
    t.publish_persistent(ch, "amq.topic", "k", "m");
    t.publish_persistent(ch, "", "mine", "m");
    t.consume(ch, "q", "tag");
    t.ack(ch, 1);
    t.delete_queue(ch, "q");
    t.delete_exchange(ch, "x");
    assert_eq!(told(&mut t), NOTHING);
    t.durable_queue(ch, "d");
    t.facts();
    t.publish(ch, "d", "transient");
    t.get(ch, "d");
    t.ack(ch, 2);
    assert_eq!(
        told(&mut t),
        NOTHING,
        "transient, though its queue is durable"
    );
}

#[test]
fn definitions() {
    let (mut t, ch) = client();
    t.durable_queue(ch, "d");
    t.durable_queue(ch, "d");
    let durable = |name, kind| ExchangeDeclare {
        durable: true,
        ..exchange_declare(name, kind)
    };
    t.method(ch, durable("x", "topic"));
    t.heard(ch);
    t.bind(ch, "x", "k", "d");
    t.bind(ch, "x", "k", "d");
    t.exchange(ch, "transient", "topic");
    t.bind(ch, "transient", "k", "d");
    t.unbind(ch, "x", "k", "d");
    t.unbind(ch, "x", "k", "d");
    t.bind(ch, "x", "k", "d");
    t.bind_exchange(ch, "x", "k", "amq.topic");
    t.delete_queue(ch, "d");
    t.delete_exchange(ch, "x");
    #[rustfmt::skip]
    let expected = [
        "declared d", "declared x", "bound x-d", "unbound x-d", "bound x-d", "bound x-amq.topic",
        "deleted d", "deleted x", // their bindings go with them
    ];
    assert_eq!(told(&mut t), expected);
}

#[test]
fn what_follows_from_a_deletion_is_recorded_after_it() {
    let (mut t, ch) = client();
    t.durable_queue(ch, "d");
    let declare = ExchangeDeclare {
        durable: true,
        auto_delete: true,
        ..exchange_declare("x", "topic")
    };
    t.method(ch, declare);
    t.heard(ch);
    t.bind(ch, "x", "k", "d");
    t.facts();
    t.delete_queue(ch, "d");
    assert_eq!(told(&mut t), ["deleted d", "deleted x"]);
}

#[test]
fn declarations_keep_the_arguments_as_they_were_sent() {
    let (mut t, ch) = client();
    let arguments = table([("z", 1.into()), ("x-max-length", 5.into())]);
    let declare = QueueDeclare {
        durable: true,
        arguments: arguments.clone(),
        ..queue_declare("d")
    };
    t.method(ch, declare);
    let facts = t.facts();
    let [
        Fact::QueueDeclared {
            arguments: kept, ..
        },
    ] = facts.as_slice()
    else {
        panic!("{facts:?}")
    };
    assert_eq!(&**kept, arguments.as_bytes());
}

#[test]
fn one_record_for_all_durable_queues_of_a_message() {
    let (mut t, ch) = client();
    for queue in ["d", "e"] {
        t.durable_queue(ch, queue);
        t.bind(ch, "amq.fanout", "", queue);
    }
    t.queue(ch, "transient");
    t.bind(ch, "amq.fanout", "", "transient");
    t.publish(ch, "d", "takes place 1, though it is not kept");
    t.facts();
    t.publish_persistent(ch, "amq.fanout", "", "m");
    assert_eq!(told(&mut t), ["published d2+e1"]);
}

#[test]
fn a_message_leaves_when_it_is_settled_for_good() {
    #[rustfmt::skip]
    let rows: [(Outcome, &[&str]); 5] = [
        (Outcome::Ack,                       &["settled d1"]),
        (Outcome::Nack { requeue: false },   &["settled d1"]),
        (Outcome::Reject { requeue: false }, &["settled d1"]),
        (Outcome::Nack { requeue: true },    &[]),
        (Outcome::Reject { requeue: true },  &[]),
    ];
    for (outcome, expected) in rows {
        let (mut t, ch) = client();
        t.durable_queue(ch, "d");
        t.publish_persistent(ch, "", "d", "m");
        t.get(ch, "d");
        t.facts();
        t.settle(ch, 1, false, outcome);
        assert_eq!(told(&mut t), expected, "{outcome:?}");
    }
}

#[test]
fn a_message_nobody_acknowledges_leaves_with_its_delivery() {
    let (mut t, ch) = client();
    t.durable_queue(ch, "d");
    t.consume_no_ack(ch, "d", "tag");
    t.facts();
    t.publish_persistent(ch, "", "d", "m");
    assert_eq!(told(&mut t), ["published d1", "settled d1"]);
}

#[test]
fn a_settle_after_the_queue_is_gone_says_nothing() {
    let (mut t, ch) = client();
    t.durable_queue(ch, "d");
    t.publish_persistent(ch, "", "d", "m");
    t.get(ch, "d");
    t.delete_queue(ch, "d");
    t.durable_queue(ch, "d");
    t.facts();
    t.ack(ch, 1);
    assert_eq!(told(&mut t), NOTHING, "it would be about another message");
}

#[test]
fn a_purge_names_the_places_it_empties_and_not_those_still_unacknowledged() {
    let (mut t, ch) = client();
    t.durable_queue(ch, "d");
    for _ in 0..6 {
        t.publish_persistent(ch, "", "d", "m");
    }
    for _ in 0..4 {
        t.get(ch, "d");
    }
    t.requeue(ch, 2);
    t.requeue(ch, 3);
    t.facts();
    let purge = || QueuePurge {
        queue: short("d"),
        ..QueuePurge::default()
    };
    assert_eq!(t.ask(ch, purge()), ["queue.purge-ok 4"]);
    assert_eq!(told(&mut t), ["purged d2-3+5-6"]);
    t.ask(ch, purge());
    assert_eq!(told(&mut t), NOTHING, "there was nothing left to purge");
}

#[test]
fn a_transaction_is_one_record() {
    let (mut t, ch) = client();
    t.durable_queue(ch, "d");
    t.publish_persistent(ch, "", "d", "a");
    t.get(ch, "d");
    t.facts();
    t.tx_select(ch);
    t.publish_persistent(ch, "", "d", "b");
    t.publish(ch, "d", "transient");
    t.publish_persistent(ch, "", "d", "c");
    t.ack(ch, 1);
    assert_eq!(told(&mut t), NOTHING);
    t.log = Log::Held;
    t.tx_commit(ch);
    assert_eq!(told(&mut t), ["[published d2, published d4, settled d1]"]);
}

#[test]
fn a_rolled_back_transaction_leaves_no_record() {
    let (mut t, ch) = client();
    t.durable_queue(ch, "d");
    t.facts();
    t.tx_select(ch);
    t.publish_persistent(ch, "", "d", "b");
    t.tx_rollback(ch);
    t.tx_commit(ch);
    assert_eq!(told(&mut t), NOTHING);
}

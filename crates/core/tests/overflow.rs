//! Queues that may hold only so much, and what a publisher hears of it.

mod common;

use common::kept::Kept;
use common::{BrokerTest, Chan, Log, queue_declare_with};
use leveret_codec::{BasicQos, FieldValue, QueueDeclare};
use leveret_core::Limits;

fn queue<const N: usize>(arguments: [(&str, FieldValue); N]) -> (BrokerTest, Chan) {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.method(ch, queue_declare_with("q", arguments));
    t.queue(ch, "dead");
    t.heard(ch);
    (t, ch)
}

#[test]
fn the_oldest_make_room() {
    #[rustfmt::skip]
    let rows: [(&str, i32, &[&str]); 5] = [
        ("x-max-length",       2, &["ccc", "dddd"]),
        ("x-max-length",       1, &["dddd"]),
        ("x-max-length",       0, &[]),
        ("x-max-length-bytes", 7, &["ccc", "dddd"]),
        ("x-max-length-bytes", 3, &[]),
    ];
    for (argument, limit, expected) in rows {
        let (mut t, ch) = queue([(argument, limit.into())]);
        t.publish_all(ch, "q", ["a", "bb", "ccc", "dddd"]);
        assert_eq!(t.bodies("q"), expected, "{argument} {limit}");
    }
}

#[test]
fn what_is_delivered_does_not_count_and_comes_back_first() {
    let (mut t, ch) = queue([("x-max-length", 2.into())]);
    t.publish_all(ch, "q", ["a", "b"]);
    t.get(ch, "q");
    t.publish(ch, "q", "c");
    assert_eq!(t.counts(ch, "q"), "queue.declare-ok q 2 0");
    t.requeue(ch, 1);
    assert_eq!(t.bodies("q"), ["b", "c"], "it is the oldest, so it goes");
}

#[test]
fn a_queue_of_length_0_still_passes_on() {
    let (mut t, ch) = queue([("x-max-length", 0.into())]);
    t.consume(ch, "q", "tag");
    t.heard(ch);
    t.publish(ch, "q", "m");
    assert_eq!(t.heard(ch), ["tag: #1 m"]);
}

#[test]
fn a_publisher_hears_that_a_queue_is_full() {
    let rejecting = [
        ("x-max-length", 1.into()),
        ("x-overflow", "reject-publish".into()),
    ];
    let (mut t, ch) = queue(rejecting);
    t.confirm_select(ch);
    t.publish_all(ch, "q", ["a", "b", "c"]);
    assert_eq!(t.heard(ch), ["confirm 1", "basic.nack 2", "basic.nack 3"]);
    t.get(ch, "q");
    t.heard(ch);
    t.publish(ch, "q", "d");
    assert_eq!(t.heard(ch), ["confirm 4"]);
    assert_eq!(t.bodies("q"), ["d"]);
}

#[test]
fn the_other_queues_take_it_all_the_same() {
    let rejecting = [
        ("x-max-length", 0.into()),
        ("x-overflow", "reject-publish".into()),
    ];
    let (mut t, ch) = queue(rejecting);
    for queue in ["q", "dead"] {
        t.bind(ch, "amq.fanout", "", queue);
    }
    t.confirm_select(ch);
    t.publish_to(ch, "amq.fanout", "", "m");
    assert_eq!(t.heard(ch), ["basic.nack 1"]);
    assert_eq!(t.bodies("dead"), ["m"]);
    assert_eq!(t.bodies("q"), [""; 0]);
}

#[test]
fn confirms_go_around_what_was_refused() {
    let (mut t, ch) = queue([
        ("x-max-length", 0.into()),
        ("x-overflow", "reject-publish".into()),
    ]);
    let durable = QueueDeclare {
        durable: true,
        ..queue_declare_with("d", [])
    };
    t.method(ch, durable);
    t.confirm_select(ch);
    t.log = Log::Held;
    t.publish_persistent(ch, "", "d", "1");
    t.publish(ch, "q", "2");
    t.publish_persistent(ch, "", "d", "3");
    t.publish(ch, "q", "4");
    t.publish(ch, "q", "5");
    assert_eq!(
        t.heard(ch),
        ["basic.nack 2", "basic.nack 4", "basic.nack 5"]
    );
    t.sync();
    assert_eq!(t.heard(ch), ["confirm 3 multiple"]);
    t.publish(ch, "d", "6");
    assert_eq!(t.heard(ch), ["confirm 6"]);
}

#[test]
fn what_is_refused_can_be_dead_lettered() {
    let (mut t, ch) = queue([
        ("x-max-length", 1.into()),
        ("x-overflow", "reject-publish-dlx".into()),
        ("x-dead-letter-exchange", "".into()),
        ("x-dead-letter-routing-key", "dead".into()),
    ]);
    t.confirm_select(ch);
    t.publish_all(ch, "q", ["a", "b"]);
    assert_eq!(t.heard(ch), ["confirm 1", "basic.nack 2"]);
    assert_eq!(t.bodies("dead"), ["b"]);
}

#[test]
fn a_transaction_that_a_full_queue_refuses_is_told_so() {
    let rejecting = [
        ("x-max-length", 1.into()),
        ("x-overflow", "reject-publish".into()),
    ];
    let (mut t, ch) = queue(rejecting);
    t.tx_select(ch);
    t.publish_all(ch, "q", ["a", "b"]);
    t.tx_commit(ch);
    t.expect_close(ch, 406, "PRECONDITION_FAILED - partial tx completion");
    assert_eq!(t.bodies("q"), ["a"]);
}

/// Once what came back was dropped for it, as if the queue were one that drops.
#[test]
fn a_queue_that_says_no_keeps_what_comes_back() {
    let (mut t, ch) = queue([
        ("x-max-length", 1.into()),
        ("x-overflow", "reject-publish".into()),
    ]);
    t.publish(ch, "q", "a");
    t.get(ch, "q");
    t.publish(ch, "q", "b");
    t.requeue(ch, 1);
    assert_eq!(t.bodies("q"), ["a", "b"]);
}

/// Once the queue stood still until somebody published again: what was dropped was all that was not
/// in the log alone, and nobody asked for the rest.
#[test]
fn what_follows_a_dropped_message_is_asked_for() {
    let mut t = BrokerTest::with_limits(Limits {
        queue_memory_max: 8_000,
        ..Limits::default()
    });
    let ch = t.client();
    let mut kept = Kept::default();
    let declare = QueueDeclare {
        durable: true,
        ..queue_declare_with("q", [("x-max-length", 5.into())])
    };
    t.method(ch, declare);
    let qos = BasicQos {
        prefetch_count: 1,
        ..BasicQos::default()
    };
    t.method(ch, qos);
    t.consume(ch, "q", "tag");
    t.heard(ch);
    for n in 0..6 {
        t.publish_persistent(ch, "", "q", &format!("{n:<3000}"));
    }
    kept.take_in(&mut t);
    assert!(t.broker.metrics().paged_out > 0, "the last are away");
    t.publish_persistent(ch, "", "q", "the next");
    t.heard(ch);
    t.take_deliveries();
    kept.answer_all(&mut t);
    t.ack(ch, 1);
    kept.answer_all(&mut t);
    assert!(t.take_delivery().body().starts_with(b"2"));
}

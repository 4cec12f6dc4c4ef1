//! Who gets the next message.

mod common;

use common::{BrokerTest, Chan, basic_consume, table};
use leveret_codec::{BasicCancel, BasicConsume, ChannelFlow, FieldValue};
use leveret_core::{Capabilities, Limits, Outcome, Peer};

fn with_queue() -> (BrokerTest, Chan) {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.queue(ch, "q");
    (t, ch)
}

fn with_priority(queue: &str, tag: &str, priority: impl Into<FieldValue>) -> BasicConsume<'static> {
    BasicConsume {
        arguments: table([("x-priority", priority.into())]),
        ..basic_consume(queue, tag)
    }
}

/// The tags of what was delivered, in order.
fn served(t: &mut BrokerTest, ch: Chan) -> Vec<String> {
    let tag = |line: &String| line.split(':').next().unwrap_or_default().to_owned();
    t.heard(ch).iter().map(tag).collect()
}

#[test]
fn equals_take_turns() {
    let (mut t, ch) = with_queue();
    for tag in ["c", "a", "b"] {
        t.consume_no_ack(ch, "q", tag);
    }
    t.publish_all(ch, "q", ["1", "2", "3", "4", "5"]);
    assert_eq!(served(&mut t, ch), ["c", "a", "b", "c", "a"]);
}

#[test]
fn a_higher_priority_is_served_while_it_can_take_more() {
    let (mut t, ch) = with_queue();
    t.prefetch(ch, 2);
    t.consume_with(ch, with_priority("q", "low", -5));
    t.consume(ch, "q", "middle");
    t.consume_with(ch, with_priority("q", "high", i64::MAX));
    t.publish_all(ch, "q", ["1", "2", "3", "4", "5", "6", "7"]);
    assert_eq!(
        served(&mut t, ch),
        ["high", "high", "middle", "middle", "low", "low"]
    );
    t.ack(ch, 5);
    assert_eq!(served(&mut t, ch), ["low"]);
    t.ack(ch, 1);
    t.publish(ch, "q", "8");
    assert_eq!(served(&mut t, ch), ["high"]);
}

#[test]
fn one_whose_prefetch_was_used_up_comes_back_behind_the_others() {
    let (mut t, ch) = with_queue();
    t.prefetch(ch, 1);
    t.consume(ch, "q", "a");
    t.consume(ch, "q", "b");
    t.publish_all(ch, "q", ["1", "2", "3"]);
    assert_eq!(served(&mut t, ch), ["a", "b"]);
    t.ack(ch, 2);
    t.ack(ch, 1);
    assert_eq!(served(&mut t, ch), ["b"]);
    t.publish(ch, "q", "4");
    assert_eq!(served(&mut t, ch), ["a"]);
}

#[test]
fn prefetch() {
    #[rustfmt::skip]
    let rows = [
        // own  shared  no_ack  delivered of 10  why
        (0,     0,      false,  10,              "no limit"),
        (3,     0,      false,  3,               "its own"),
        (0,     4,      false,  4,               "the channel's"),
        (3,     2,      false,  2,               "the smaller one"),
        (2,     3,      false,  2,               "the smaller one"),
        (1,     1,      true,   10,              "there is nothing to hold without acks"),
    ];
    for (own, shared, no_ack, delivered, why) in rows {
        let (mut t, ch) = with_queue();
        t.prefetch(ch, own);
        t.prefetch_shared(ch, shared);
        t.consume_with(
            ch,
            BasicConsume {
                no_ack,
                ..basic_consume("q", "tag")
            },
        );
        for _ in 0..10 {
            t.publish(ch, "q", "m");
        }
        assert_eq!(t.heard(ch).len(), delivered, "{why}");
    }
}

#[test]
fn a_prefetch_concerns_consumers_that_start_later() {
    let (mut t, ch) = with_queue();
    t.consume(ch, "q", "before");
    t.prefetch(ch, 1);
    for _ in 0..5 {
        t.publish(ch, "q", "m");
    }
    assert_eq!(t.heard(ch).len(), 5);
    t.cancel(ch, "before");
    t.consume(ch, "q", "after");
    t.prefetch(ch, 0);
    for _ in 0..5 {
        t.publish(ch, "q", "m");
    }
    assert_eq!(t.heard(ch).len(), 1);
}

#[test]
fn a_shared_prefetch_holds_from_now_on_for_all() {
    let (mut t, ch) = with_queue();
    t.consume(ch, "q", "a");
    t.consume(ch, "q", "b");
    t.publish_all(ch, "q", ["1", "2", "3"]);
    assert_eq!(t.heard(ch).len(), 3);
    t.prefetch_shared(ch, 2);
    t.publish_all(ch, "q", ["4", "5", "6"]);
    t.ack(ch, 1);
    assert_eq!(t.heard(ch), [""; 0], "two are still out");
    t.ack(ch, 2);
    assert_eq!(t.heard(ch).len(), 1);
    t.prefetch_shared(ch, 0);
    assert_eq!(t.broker.totals().ready, 0);
}

#[test]
fn under_a_shared_prefetch_consumers_take_turns() {
    for own in [0, 1] {
        let (mut t, ch) = with_queue();
        t.prefetch(ch, own);
        t.prefetch_shared(ch, 1);
        for tag in ["a", "b", "c"] {
            t.consume(ch, "q", tag);
        }
        t.publish_all(ch, "q", ["1", "2", "3", "4", "5", "6"]);
        for delivery_tag in 1..=5 {
            t.ack(ch, delivery_tag);
        }
        assert_eq!(
            served(&mut t, ch),
            ["a", "b", "c", "a", "b", "c"],
            "none is passed over"
        );
    }
}

#[test]
fn a_shared_prefetch_spans_queues() {
    let (mut t, ch) = with_queue();
    t.queue(ch, "r");
    t.prefetch_shared(ch, 1);
    t.consume(ch, "q", "a");
    t.consume(ch, "r", "b");
    t.publish(ch, "q", "1");
    t.publish(ch, "r", "2");
    assert_eq!(served(&mut t, ch), ["a"]);
    t.settle(ch, 1, false, Outcome::Nack { requeue: true });
    assert_eq!(
        served(&mut t, ch),
        ["b"],
        "the one who waits goes before the one who returned"
    );
    t.ack(ch, 2);
    assert_eq!(served(&mut t, ch), ["a"]);
}

#[test]
fn a_fetched_message_uses_up_no_prefetch() {
    let (mut t, ch) = with_queue();
    t.publish_all(ch, "q", ["1", "2", "3"]);
    t.get(ch, "q");
    t.prefetch_shared(ch, 1);
    t.consume(ch, "q", "a");
    assert_eq!(t.heard(ch), ["a: #2 2"]);
    t.ack(ch, 1);
    assert_eq!(t.heard(ch), [""; 0]);
}

#[test]
fn a_full_outbox_lets_others_go_first_until_it_is_drained() {
    let mut t = BrokerTest::with_limits(Limits {
        outbox_bytes_max: 400, // three deliveries of one octet
        ..Limits::default()
    });
    let slow = t.client();
    t.queue(slow, "q");
    t.slow_reader(slow.connection);
    t.consume_no_ack(slow, "q", "slow");
    for n in 0..5 {
        t.publish(slow, "q", &n.to_string());
    }
    assert_eq!(t.heard(slow).len(), 3);
    let quick = t.client();
    t.consume_no_ack(quick, "q", "quick");
    assert_eq!(t.heard(quick), ["quick: #1 3", "quick: #2 4"]);
    t.publish(quick, "q", "5");
    assert_eq!(t.heard(quick).len(), 1);
    t.cancel(quick, "quick");
    for n in 6..12 {
        t.publish(quick, "q", &n.to_string());
    }
    assert_eq!(t.heard(slow), [""; 0]);
    t.drain(slow.connection);
    assert_eq!(t.heard(slow), ["slow: #4 6", "slow: #5 7", "slow: #6 8"]);
    t.drain(slow.connection);
    assert_eq!(t.heard(slow).len(), 3);
}

#[test]
fn consumers_of_a_full_outbox_take_turns() {
    let mut t = BrokerTest::with_limits(Limits {
        outbox_bytes_max: 150, // one delivery
        ..Limits::default()
    });
    let ch = t.client();
    for queue in ["q", "r"] {
        t.queue(ch, queue);
        for _ in 0..4 {
            t.publish(ch, queue, "m");
        }
    }
    t.slow_reader(ch.connection);
    t.consume_no_ack(ch, "q", "a");
    t.consume_no_ack(ch, "r", "b");
    for _ in 0..5 {
        t.drain(ch.connection);
    }
    assert_eq!(
        served(&mut t, ch),
        ["a", "a", "b", "a", "b", "a"],
        "a asked first, twice"
    );
}

#[test]
fn a_message_larger_than_the_outbox_passes_an_empty_one() {
    let mut t = BrokerTest::with_limits(Limits {
        outbox_bytes_max: 200,
        ..Limits::default()
    });
    let ch = t.client();
    t.queue(ch, "q");
    t.slow_reader(ch.connection);
    t.consume_no_ack(ch, "q", "a");
    let large = "x".repeat(1_000);
    t.publish(ch, "q", &large);
    t.publish(ch, "q", &large);
    assert_eq!(t.heard(ch).len(), 1);
    t.drain(ch.connection);
    assert_eq!(t.heard(ch).len(), 1);
}

#[test]
fn a_starved_consumer_may_be_cancelled_or_lose_its_queue() {
    for how in ["cancel", "delete", "close", "purge", "get"] {
        let mut t = BrokerTest::with_limits(Limits {
            outbox_bytes_max: 150,
            ..Limits::default()
        });
        let ch = t.client();
        let other = t.client();
        t.queue(other, "q");
        t.slow_reader(ch.connection);
        t.consume(ch, "q", "a");
        t.publish_all(other, "q", ["1", "2"]);
        match how {
            "cancel" => t.cancel(ch, "a"),
            "delete" => t.delete_queue(other, "q"),
            "close" => t.method(ch, leveret_codec::ChannelClose::default()),
            "purge" => {
                let queue = common::short("q");
                t.ask(
                    other,
                    leveret_codec::QueuePurge {
                        queue,
                        ..Default::default()
                    },
                );
            }
            _ => assert_eq!(t.get(other, "q"), "get-ok #1 2, 0 left"),
        }
        t.drain(ch.connection);
        t.drain(ch.connection);
        t.queue(other, "q");
        t.publish(other, "q", "3");
        let deliveries = t.take_deliveries();
        let last = deliveries
            .last()
            .map(|(_, _, message)| message.body().to_vec());
        let still_there = matches!(how, "purge" | "get");
        assert_eq!(last.as_deref() == Some(b"3"), still_there, "{how}");
    }
}

/// Acks let a consumer ask again and again while its outbox stays full.
#[test]
fn a_starved_consumer_waits_in_one_place_however_often_it_asks() {
    let mut t = BrokerTest::with_limits(Limits {
        outbox_bytes_max: 10_000,
        ..Limits::default()
    });
    let ch = t.client();
    t.queue(ch, "q");
    t.slow_reader(ch.connection);
    t.prefetch(ch, 50);
    t.consume(ch, "q", "a");
    t.consume(ch, "q", "b");
    for _ in 0..200 {
        t.publish(ch, "q", "m");
    }
    for delivery_tag in 1..=60 {
        t.ack(ch, delivery_tag); // the invariants say that nobody stands in a list twice
    }
    t.drain(ch.connection);
    assert!(t.heard(ch).len() > 60);
}

#[test]
fn exclusive_consumers() {
    let exclusive = |tag| BasicConsume {
        exclusive: true,
        ..basic_consume("q", tag)
    };
    let text = "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use";
    let (mut t, ch) = with_queue();
    let other = t.client();
    t.consume_with(ch, exclusive("a"));
    t.method(other, basic_consume("q", "b"));
    t.expect_close(other, 403, text);
    let other = t.client();
    t.method(other, exclusive("b"));
    t.expect_close(other, 403, text);

    t.cancel(ch, "a");
    t.consume(ch, "q", "b");
    t.consume(ch, "q", "c");
    let other = t.client();
    t.method(other, exclusive("d"));
    t.expect_close(other, 403, text);
    t.cancel(ch, "b");
    let other = t.client();
    t.method(other, exclusive("d"));
    t.expect_close(other, 403, text);
    t.cancel(ch, "c");
    let other = t.client();
    t.consume_with(other, exclusive("d"));
    t.disconnect(other.connection);
    t.consume(ch, "q", "e");
}

#[test]
fn consumer_tags() {
    let (mut t, ch) = with_queue();
    let heard = t.ask(ch, basic_consume("q", "mine"));
    assert_eq!(heard, ["basic.consume-ok mine"]);
    let heard = t.ask(ch, basic_consume("q", ""));
    let made_up = heard[0].strip_prefix("basic.consume-ok amq.ctag-").unwrap();
    assert_eq!(made_up.len(), 22);
    let other = t.channel(ch.connection);
    assert_eq!(
        t.ask(other, basic_consume("q", "mine")),
        ["basic.consume-ok mine"],
        "tags are a channel's own"
    );
    t.method(ch, basic_consume("q", "mine"));
    let (closes_connection, error) = t.take_refusal(ch.connection);
    assert!(closes_connection);
    assert_eq!(
        error.text,
        "NOT_ALLOWED - attempt to reuse consumer tag 'mine'"
    );
}

#[test]
fn consume_ok_comes_before_the_first_delivery() {
    let (mut t, ch) = with_queue();
    t.publish(ch, "q", "m");
    assert_eq!(
        t.ask(ch, basic_consume("q", "a")),
        ["basic.consume-ok a", "a: #1 m"]
    );
}

#[test]
fn cancel() {
    let (mut t, ch) = with_queue();
    t.consume(ch, "q", "a");
    let cancel = |tag, no_wait| BasicCancel {
        consumer_tag: common::short(tag),
        no_wait,
    };
    assert_eq!(t.ask(ch, cancel("a", false)), ["basic.cancel-ok a"]);
    assert_eq!(
        t.ask(ch, cancel("a", false)),
        ["basic.cancel-ok a"],
        "an unknown tag is fine"
    );
    assert_eq!(t.ask(ch, cancel("b", true)), [""; 0]);
    t.publish(ch, "q", "m");
    assert_eq!(t.heard(ch), [""; 0]);
    assert_eq!(t.counts(ch, "q"), "queue.declare-ok q 1 0");
}

#[test]
fn a_consumer_whose_queue_goes_is_told_if_its_client_understands() {
    for consumer_cancel_notify in [true, false] {
        let (mut t, ch) = with_queue();
        let capabilities = Capabilities {
            consumer_cancel_notify,
            ..Capabilities::default()
        };
        let reader = t.connect_as(Peer {
            capabilities,
            ..common::peer()
        });
        let reader = t.channel(reader);
        t.consume(reader, "q", "a");
        t.delete_queue(ch, "q");
        let expected: &[&str] = if consumer_cancel_notify {
            &["basic.cancel a"]
        } else {
            &[]
        };
        assert_eq!(t.heard(reader), expected);
        t.queue(ch, "q");
        assert_eq!(
            t.ask(reader, basic_consume("q", "a")),
            ["basic.consume-ok a"],
            "the tag is free"
        );
    }
}

#[test]
fn a_queue_may_go_while_its_consumers_are_being_served() {
    let (mut t, ch) = with_queue();
    for tag in ["a", "b", "c"] {
        t.prefetch(ch, 1);
        t.consume(ch, "q", tag);
    }
    t.publish_all(ch, "q", ["1", "2", "3", "4"]);
    t.heard(ch);
    let settle = leveret_core::Command::Settle {
        channel: ch.number,
        delivery_tag: 3,
        multiple: true,
        outcome: Outcome::Nack { requeue: true },
    };
    let delete = leveret_codec::QueueDelete {
        queue: common::short("q"),
        ..Default::default()
    };
    t.batch(ch.connection, vec![common::command(ch, delete), settle]);
    let told = [
        "queue.delete-ok 1",
        "basic.cancel a",
        "basic.cancel b",
        "basic.cancel c",
    ];
    assert_eq!(t.heard(ch), told, "no cancel overtakes the answer");
}

#[test]
fn flow_cannot_be_stopped() {
    let (mut t, ch) = with_queue();
    assert_eq!(t.ask(ch, ChannelFlow { active: true }), ["channel.flow-ok"]);
    t.method(ch, ChannelFlow { active: false });
    let (closes_connection, error) = t.take_refusal(ch.connection);
    assert!(closes_connection);
    assert_eq!(error.text, "NOT_IMPLEMENTED - active=false");
}

#[test]
fn very_many_consumers_end_quickly() {
    let mut t = BrokerTest::new();
    t.checked = false;
    let owner = t.client();
    t.queue(owner, "q");
    let reader = t.connect();
    for _ in 0..10 {
        let ch = t.channel(reader);
        for n in 0..10_000 {
            t.consume(ch, "q", &n.to_string());
        }
    }
    let took = common::took(|| {
        t.delete_queue(owner, "q");
        t.disconnect(reader);
    });
    assert_eq!(t.broker.totals().consumers, 0);
    assert!(took.as_secs() < 3, "{took:?}");
}

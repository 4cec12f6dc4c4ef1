//! Messages whose time runs out, and deliveries that nobody settles.

mod common;

use common::{BrokerTest, Chan, message_with, persistent, queue_declare_with};
use leveret_codec::{FieldValue, Properties, QueueDeclare};
use leveret_core::Fact;

/// Queue `q` with these arguments.
fn queue<const N: usize>(arguments: [(&str, FieldValue); N]) -> (BrokerTest, Chan) {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.method(ch, queue_declare_with("q", arguments));
    t.heard(ch);
    (t, ch)
}

/// A message to `q` that says how long it lasts.
fn publish_for(t: &mut BrokerTest, ch: Chan, expiration: &str, body: &str) {
    let properties = Properties {
        expiration: Some(expiration.to_owned().into()),
        ..Properties::default()
    };
    t.publish_with(ch, message_with("", "q", properties, body), false);
}

fn ready(t: &BrokerTest) -> usize {
    t.broker.totals().ready
}

#[test]
fn a_message_expires_to_the_millisecond() {
    let (mut t, ch) = queue([("x-message-ttl", 1_000.into())]);
    t.publish(ch, "q", "a");
    t.pass_ms(10);
    t.publish(ch, "q", "b");
    t.pass_ms(989);
    assert_eq!(ready(&t), 2);
    t.pass_ms(1);
    assert_eq!(t.bodies("q"), ["b"]);
    t.pass_ms(10);
    assert_eq!(ready(&t), 0);
    assert_eq!(t.broker.metrics().expired, 2);
    assert_eq!(t.broker.next_timer(), None);
}

#[test]
fn the_shorter_of_both_times_counts() {
    let (mut t, ch) = queue([("x-message-ttl", 1_000.into())]);
    publish_for(&mut t, ch, "500", "short");
    publish_for(&mut t, ch, "5000", "long");
    t.pass_ms(500);
    assert_eq!(ready(&t), 1);
    t.pass_ms(500);
    assert_eq!(ready(&t), 0);
}

#[test]
fn a_message_does_not_wait_for_those_in_front_of_it() {
    let (mut t, ch) = queue([]);
    for (expiration, body) in [("3000", "c"), ("1000", "a"), ("2000", "b")] {
        publish_for(&mut t, ch, expiration, body);
    }
    t.publish(ch, "q", "stays");
    t.pass_ms(1_000);
    assert_eq!(t.bodies("q"), ["c", "b", "stays"]);
    t.pass_ms(1_000);
    assert_eq!(t.bodies("q"), ["c", "stays"]);
    t.pass_ms(1_000);
    assert_eq!(t.bodies("q"), ["stays"]);
}

#[test]
fn very_many_that_expire_out_of_order_leave_the_others_in_order() {
    let (mut t, ch) = queue([]);
    t.checked = false;
    for n in 0..3_000 {
        let expiration = if n % 3 == 0 { "60000" } else { "10" };
        publish_for(&mut t, ch, expiration, &n.to_string());
    }
    t.pass_ms(10);
    t.broker.check_invariants();
    let expected: Vec<String> = (0..3_000).step_by(3).map(|n| n.to_string()).collect();
    assert_eq!(t.bodies("q"), expected);
}

#[test]
fn no_time_at_all_is_enough_for_a_consumer_that_waits() {
    let (mut t, ch) = queue([("x-message-ttl", 0.into())]);
    t.publish(ch, "q", "nobody");
    assert_eq!(ready(&t), 0);
    t.consume(ch, "q", "tag");
    t.heard(ch);
    t.publish(ch, "q", "somebody");
    assert_eq!(t.heard(ch), ["tag: #1 somebody"]);
    t.requeue(ch, 1);
    assert_eq!(ready(&t), 0, "its time is over when it comes back");
}

#[test]
fn a_delivery_stops_the_clock_for_nobody() {
    let (mut t, ch) = queue([("x-message-ttl", 100.into())]);
    t.publish_all(ch, "q", ["a", "b"]);
    t.get(ch, "q");
    t.get(ch, "q");
    t.pass_ms(50);
    t.requeue(ch, 1);
    assert_eq!(ready(&t), 1, "in time");
    t.pass_ms(50);
    assert_eq!(ready(&t), 0);
    t.requeue(ch, 2);
    assert_eq!(ready(&t), 0, "too late");
    assert_eq!(t.broker.totals().unacked, 0);
}

#[test]
fn an_expired_message_leaves_the_log_and_a_purge_its_timers() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    let declare = QueueDeclare {
        durable: true,
        ..queue_declare_with("q", [("x-message-ttl", 100.into())])
    };
    t.method(ch, declare);
    t.publish_with(ch, message_with("", "q", persistent(), "m"), false);
    t.facts();
    t.pass_ms(100);
    assert!(matches!(t.facts()[..], [Fact::Settled { .. }]));
    t.publish(ch, "q", "m");
    t.ask(
        ch,
        leveret_codec::QueuePurge {
            queue: common::short("q"),
            ..Default::default()
        },
    );
    t.publish(ch, "q", "n");
    t.pass_ms(99);
    assert_eq!(ready(&t), 1);
}

#[test]
fn a_delivery_that_nobody_settles_closes_its_channel() {
    let (mut t, ch) = queue([("x-consumer-timeout", 60_000.into())]);
    t.publish_all(ch, "q", ["a", "b"]);
    t.consume(ch, "q", "tag");
    t.heard(ch);
    t.pass_ms(30_000);
    t.ack(ch, 1);
    t.pass_ms(29_999);
    assert!(!t.was_refused(ch.connection));
    t.pass_ms(1_001);
    let text = "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value \
                used: 60000 ms. This timeout value can be configured, see consumers doc guide to \
                learn more";
    t.expect_close(ch, 406, text);
    assert_eq!(t.bodies("q"), ["b"]);
}

#[test]
fn half_an_hour_is_the_limit_for_all_others() {
    let (mut t, ch) = queue([]);
    t.publish(ch, "q", "a");
    t.get(ch, "q");
    t.pass_ms(1_799_999);
    assert!(!t.was_refused(ch.connection));
    t.pass_ms(1);
    assert!(t.was_refused(ch.connection));
    let other = t.client();
    t.get(other, "q");
    t.close(other);
    assert_eq!(t.broker.next_timer(), None, "no timer outlives its channel");
}

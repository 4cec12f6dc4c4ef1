//! What a turn costs is counted, and a turn can be told to stop.

mod common;

use common::{BrokerTest, Chan, command, message, publish, queue_declare, queue_declare_with};
use leveret_codec::QueuePurge;
use leveret_core::Command;

/// `count` queues, `q0` and so on, bound to `amq.fanout`.
fn fan(t: &mut BrokerTest, ch: Chan, count: usize) {
    for n in 0..count {
        let queue = format!("q{n}");
        t.queue(ch, &queue);
        t.bind(ch, "amq.fanout", "", &queue);
    }
}

/// The work of a step.
fn cost(t: &mut BrokerTest, step: impl FnOnce(&mut BrokerTest)) -> u64 {
    let before = t.broker.work();
    step(t);
    t.broker.work() - before
}

#[test]
fn whatever_is_done_very_often_counts() {
    const MANY: usize = 1_000;
    type Step = fn(&mut BrokerTest, Chan);
    let publish_many: Step = |t, ch| (0..MANY).for_each(|_| t.publish(ch, "q", "m"));
    let take_many: Step = |t, ch| {
        (0..MANY).for_each(|_| t.publish(ch, "q", "m"));
        t.consume(ch, "q", "c");
        t.heard(ch);
    };
    #[rustfmt::skip]
    let rows: [(&str, Step, Step, usize); 9] = [
        ("copies of a message",      |t, ch| fan(t, ch, MANY), |t, ch| t.publish_to(ch, "amq.fanout", "", "m"),  MANY),
        ("bindings of an exchange",  |t, ch| { t.exchange(ch, "x", "fanout"); (0..MANY).for_each(|n| t.bind(ch, "x", &n.to_string(), "q")); },
                                     |t, ch| t.delete_exchange(ch, "x"),                                         MANY),
        ("bindings of a queue",      |t, ch| (0..MANY).for_each(|n| t.bind(ch, "amq.topic", &n.to_string(), "q")),
                                     |t, ch| t.delete_queue(ch, "q"),                                            MANY),
        ("deliveries",               publish_many, |t, ch| t.consume(ch, "q", "c"),                         MANY),
        ("settles",                  take_many,    |t, ch| t.ack_through(ch, 0),                                        MANY),
        ("requeues",                 take_many,    |t, ch| t.close(ch),              MANY),
        ("consumers",                |t, ch| (0..MANY).for_each(|n| t.consume(ch, "q", &n.to_string())),
                                     |t, ch| t.close(ch),                            MANY),
        ("messages of a queue",      publish_many, |t, ch| { t.ask(ch, QueuePurge { queue: common::short("q"), ..QueuePurge::default() }); }, MANY / 16),
        ("messages of a queue that goes", publish_many,
                                     |t, ch| t.delete_queue(ch, "q"), MANY / 16),
    ];
    for (what, before, step, at_least) in rows {
        let mut t = BrokerTest::new();
        t.checked = false;
        let ch = t.client();
        t.queue(ch, "q");
        before(&mut t, ch);
        let work = cost(&mut t, |t| step(t, ch));
        assert!(work >= at_least as u64, "{what}: {work}");
        assert!(work <= 6 * MANY as u64, "{what}: {work}");
        t.broker.check_invariants();
    }
}

#[test]
fn a_commit_counts_what_it_carries_out() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.queue(ch, "q");
    t.tx_select(ch);
    for _ in 0..500 {
        t.publish(ch, "q", "m");
    }
    let work = cost(&mut t, |t| drop(t.tx_commit(ch)));
    assert!(work >= 500, "{work}");
}

#[test]
fn a_batch_stops_when_the_budget_is_used_up_and_goes_on_in_order() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    fan(&mut t, ch, 100);
    t.consume(ch, "q0", "c");
    t.heard(ch);
    let batch: Vec<Command> = (0..10)
        .map(|n| publish(ch, message("amq.fanout", "", &n.to_string())))
        .chain([command(ch, queue_declare("last"))])
        .collect();
    let mut commands = batch.into_iter();
    let mut heard = Vec::new();
    let mut parts = 0;
    while commands.len() > 0 {
        let before = commands.len();
        t.step_within(ch.connection, &mut commands, 250);
        let done = before - commands.len();
        assert!(
            (1..=3).contains(&done),
            "{done} publishes of 100 copies in 250"
        );
        heard.extend(t.heard(ch));
        parts += 1;
    }
    assert!(parts >= 4, "{parts}");
    let mut expected: Vec<String> = (0..10).map(|n| format!("c: #{} {n}", n + 1)).collect();
    expected.push("queue.declare-ok last 0 0".to_owned());
    assert_eq!(heard, expected);
}

#[test]
fn a_budget_of_nothing_does_nothing_and_no_command_is_lost() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    let mut commands = vec![command(ch, queue_declare("q"))].into_iter();
    t.step_within(ch.connection, &mut commands, 0);
    assert_eq!(commands.len(), 1);
    assert!(t.heard(ch).is_empty());
    t.step_within(ch.connection, &mut commands, 1);
    assert_eq!(t.heard(ch), ["queue.declare-ok q 0 0"]);
}

/// 1,000 queues that expire in the same millisecond, and 10 more in the next.
fn all_at_once(t: &mut BrokerTest, ch: Chan) {
    for n in 0..1_000 {
        let declare = queue_declare_with(&format!("q{n}"), [("x-expires", 1_000.into())]);
        t.ask(ch, declare);
    }
    t.wait_ms(1);
    for n in 1_000..1_010 {
        let declare = queue_declare_with(&format!("q{n}"), [("x-expires", 1_000.into())]);
        t.ask(ch, declare);
    }
}

#[test]
fn queues_that_expire_at_once_go_a_few_a_tick() {
    let mut t = BrokerTest::new();
    t.checked = false;
    let ch = t.client();
    all_at_once(&mut t, ch);
    let due = t.broker.next_timer().unwrap();
    t.wait_ms(1_000);
    let mut left = 1_010;
    let mut ticks = 0;
    while let Some(next) = t.broker.next_timer() {
        assert!(next >= due && next.0 <= due.0 + 1, "at once, not later");
        t.tick_within(100);
        let now = t.broker.totals().queues;
        assert!((1..=101).contains(&(left - now)), "{left} {now}");
        left = now;
        ticks += 1;
    }
    assert_eq!(left, 0);
    assert!(ticks >= 10, "{ticks}");
    t.broker.check_invariants();
}

#[test]
fn a_queue_that_is_used_while_others_expire_before_it_stays() {
    let mut t = BrokerTest::new();
    t.checked = false;
    let ch = t.client();
    all_at_once(&mut t, ch);
    t.wait_ms(1_000);
    t.tick_within(100);
    t.heard(ch);
    assert_eq!(t.counts(ch, "q999"), "queue.declare-ok q999 0 0"); // a use of it
    t.delete_queue(ch, "q998");
    t.tick_within(u64::MAX);
    assert_eq!(t.broker.totals().queues, 1);
    t.broker.check_invariants();
    t.pass_ms(1_000);
    assert_eq!(t.broker.totals().queues, 0, "its timer is set again");
}

/// Once they were free of charge, however many had come while their channel waited.
#[test]
fn commands_that_waited_count_when_they_are_obeyed() {
    const MANY: usize = 1_000;
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.log = common::Log::Held;
    let declare = leveret_codec::QueueDeclare {
        durable: true,
        ..queue_declare("d")
    };
    t.method(ch, declare);
    for _ in 0..MANY {
        t.method(ch, leveret_codec::BasicQos::default());
    }
    assert_eq!(t.heard(ch).len(), 0, "it waits");
    let cost = cost(&mut t, BrokerTest::sync);
    assert!(cost >= MANY as u64, "{cost}");
    assert_eq!(t.heard(ch).len(), MANY + 1);
}

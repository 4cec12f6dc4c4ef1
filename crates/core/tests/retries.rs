//! Messages that come back to their queue after a while.

mod common;

use common::kept::Kept;
use common::*;
use leveret_codec::{BasicRecover, FieldTable, FieldValue, QueueDeclare, QueueDelete, QueuePurge};
use leveret_core::{Fact, Input, Limits, Mono, Now, Outcome, Wall};

const REJECT: Outcome = Outcome::Reject { requeue: true };
const NACK: Outcome = Outcome::Nack { requeue: true };

fn declare(arguments: &[(&'static str, FieldValue)]) -> QueueDeclare<'static> {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert(*name, value.clone());
    }
    QueueDeclare {
        durable: true,
        arguments: leveret_codec::RawTable::from_table(&table),
        ..queue_declare("q")
    }
}

/// Durable queues `q` with these arguments and `dead`.
fn queue(arguments: &[(&'static str, FieldValue)]) -> (BrokerTest, Chan) {
    queue_within(Limits::default(), arguments)
}

fn queue_within(limits: Limits, arguments: &[(&'static str, FieldValue)]) -> (BrokerTest, Chan) {
    let mut t = BrokerTest::with_limits(limits);
    let c = t.client();
    t.method(c, declare(arguments));
    t.durable_queue(c, "dead");
    t.heard(c);
    (t, c)
}

fn dead_letters() -> Vec<(&'static str, FieldValue)> {
    vec![
        ("x-dead-letter-exchange", "".into()),
        ("x-dead-letter-routing-key", "dead".into()),
    ]
}

/// What was delivered since the last time: tag and body.
fn came(t: &mut BrokerTest) -> Vec<(u64, String)> {
    let deliveries = t.take_deliveries().into_iter();
    let text = |body: &[u8]| String::from_utf8_lossy(body).trim().to_owned();
    deliveries
        .map(|(_, tag, message)| (tag, text(message.body())))
        .collect()
}

fn bodies(t: &mut BrokerTest) -> Vec<String> {
    came(t).into_iter().map(|(_, body)| body).collect()
}

/// Passes time until something is delivered; after how many milliseconds, and its tag.
#[track_caller]
fn next(t: &mut BrokerTest) -> (u64, u64) {
    let start = t.now.mono.0;
    loop {
        if let Some(&(tag, _)) = came(t).first() {
            return (t.now.mono.0 - start, tag);
        }
        let due = t.broker.next_timer().expect("something is due");
        t.pass_ms((due.0 - t.now.mono.0).max(1));
    }
}

fn counts(t: &BrokerTest) -> (usize, usize, usize) {
    let totals = t.broker.totals();
    (totals.ready, totals.unacked, totals.retrying)
}

#[test]
fn arguments_that_make_no_sense() {
    let text = FieldValue::from;
    #[rustfmt::skip]
    let table: Vec<(Vec<(&'static str, FieldValue)>, &str)> = vec![
        (vec![("x-retry-delay", 0_i64.into())], "PRECONDITION_FAILED - invalid arg 'x-retry-delay' for queue 'q' in vhost '/': {value_zero,0}"),
        (vec![("x-retry-delay", (-1_i64).into())], "PRECONDITION_FAILED - invalid arg 'x-retry-delay' for queue 'q' in vhost '/': {value_negative,-1}"),
        (vec![("x-retry-delay", text("1s"))], "PRECONDITION_FAILED - invalid arg 'x-retry-delay' for queue 'q' in vhost '/': \"expected integer, got longstr\""),
        (vec![("x-retry-delay", i64::MAX.into())], "PRECONDITION_FAILED - invalid arg 'x-retry-delay' for queue 'q' in vhost '/': {value_too_big,9223372036854775807}"),
        (vec![("x-retry-delay", 1_i64.into()), ("x-retry-multiplier", 0_i64.into())], "PRECONDITION_FAILED - invalid arg 'x-retry-multiplier' for queue 'q' in vhost '/': {value_zero,0}"),
        (vec![("x-retry-delay", 1_i64.into()), ("x-retry-jitter", 101_i64.into())], "PRECONDITION_FAILED - invalid arg 'x-retry-jitter' for queue 'q' in vhost '/': {max_value_exceeded,101}"),
        (vec![("x-retry-delay", 10_i64.into()), ("x-retry-max-delay", 9_i64.into())], "PRECONDITION_FAILED - invalid arg 'x-retry-max-delay' for queue 'q' in vhost '/': max_delay_below_retry_delay"),
        (vec![("x-retry-max-delay", 9_i64.into())], "PRECONDITION_FAILED - invalid arg 'x-retry-max-delay' for queue 'q' in vhost '/': no_retry_delay_defined"),
        (vec![("x-retry-multiplier", 2_i64.into())], "PRECONDITION_FAILED - invalid arg 'x-retry-multiplier' for queue 'q' in vhost '/': no_retry_delay_defined"),
        (vec![("x-retry-jitter", 2_i64.into())], "PRECONDITION_FAILED - invalid arg 'x-retry-jitter' for queue 'q' in vhost '/': no_retry_delay_defined"),
        (vec![("x-retry-delay", 1_i64.into()), ("x-delayed-retry-type", text("disabled"))], "PRECONDITION_FAILED - invalid arg 'x-retry-delay' for queue 'q' in vhost '/': delayed_retry_also_defined"),
        (vec![("x-retry-delay", 1_i64.into()), ("x-delayed-retry-min", 1_i64.into())], "PRECONDITION_FAILED - invalid arg 'x-retry-delay' for queue 'q' in vhost '/': delayed_retry_also_defined"),
        (vec![("x-delayed-retry-type", text("some"))], "PRECONDITION_FAILED - invalid arg 'x-delayed-retry-type' for queue 'q' in vhost '/': invalid_delayed_retry_type"),
        (vec![("x-delayed-retry-min", (-1_i64).into())], "PRECONDITION_FAILED - invalid arg 'x-delayed-retry-min' for queue 'q' in vhost '/': {value_negative,-1}"),
    ];
    for (arguments, error) in table {
        let mut t = BrokerTest::new();
        let c = t.client();
        t.method(c, declare(&arguments));
        t.expect_close(c, 406, error);
        assert_eq!(t.broker.totals().queues, 0);
    }
}

#[test]
fn declared_again_they_have_to_be_the_same() {
    let (mut t, c) = queue(&[("x-retry-delay", 10_i64.into())]);
    t.method(c, declare(&[("x-retry-delay", 10_i32.into())]));
    assert_eq!(t.heard(c), ["queue.declare-ok q 0 0"]);
    t.method(c, declare(&[("x-retry-delay", 11_i64.into())]));
    let error = "PRECONDITION_FAILED - inequivalent arg 'x-retry-delay' for queue 'q' in vhost '/': \
                 received '11' but current is '10'";
    t.expect_close(c, 406, error);
}

/// What happens to a delivery, by way of a channel of its own.
fn give_back(t: &mut BrokerTest, c: Chan, how: &str, tag: u64) {
    match how {
        "reject" => t.settle(c, tag, false, REJECT),
        "nack" => t.settle(c, tag, false, NACK),
        "recover" => {
            t.ask(c, BasicRecover { requeue: true });
        }
        "close" => t.close(c),
        "lost" => t.disconnect(c.connection),
        "commit" => {
            t.tx_select(c);
            t.settle(c, tag, false, REJECT);
            assert_eq!(counts(t), (0, 0, 0), "not before the commit");
            t.tx_commit(c);
        }
        other => panic!("{other}"),
    }
}

#[test]
fn each_way_back_is_delayed_where_the_queue_says_so() {
    let ways = ["reject", "commit", "close", "lost", "nack", "recover"];
    let rabbitmq = |kind: &'static str| {
        vec![
            ("x-delayed-retry-type", FieldValue::from(kind)),
            ("x-delayed-retry-min", 50_i64.into()),
        ]
    };
    #[rustfmt::skip]
    let table = [
        (vec![("x-retry-delay", 50_i64.into())], [true, true, true, true, true, true]),
        (rabbitmq("all"),                        [true, true, true, true, true, true]),
        (rabbitmq("failed"),                     [true, true, true, true, false, false]),
        (rabbitmq("returned"),                   [false, false, false, false, true, true]),
        (rabbitmq("disabled"),                   [false, false, false, false, false, false]),
        (vec![("x-delayed-retry-min", 50_i64.into())], [false; 6]),
    ];
    for (arguments, delayed) in table {
        for (how, delayed) in ways.into_iter().zip(delayed) {
            let case = format!("{arguments:?} {how}");
            let (mut t, c) = queue(&arguments);
            t.publish_persistent(c, "", "q", "m");
            let other = t.client();
            t.get(other, "q");
            came(&mut t);
            give_back(&mut t, other, how, 1);
            if delayed {
                assert_eq!(counts(&t), (0, 0, 1), "{case}");
                assert_eq!(t.get(c, "q"), "basic.get-empty", "{case}");
                t.pass_ms(49);
                assert_eq!(counts(&t), (0, 0, 1), "{case}");
                t.pass_ms(1);
            }
            assert_eq!(counts(&t), (1, 0, 0), "{case}");
            assert_eq!(t.get(c, "q"), "get-ok #1 m again, 0 left", "{case}");
        }
    }
}

#[test]
fn the_delay_grows_up_to_its_cap() {
    let (mut t, c) = queue(&[
        ("x-retry-delay", 100_i64.into()),
        ("x-retry-multiplier", 3_i64.into()),
        ("x-retry-max-delay", 1_000_i64.into()),
    ]);
    t.publish(c, "q", "m");
    t.consume(c, "q", "t");
    for (attempt, expected) in [0, 100, 300, 900, 1_000, 1_000].into_iter().enumerate() {
        let (ms, tag) = next(&mut t);
        assert_eq!(ms, expected);
        // Either way is an attempt.
        let outcome = if attempt % 2 == 0 { REJECT } else { NACK };
        t.settle(c, tag, false, outcome);
    }
    assert_eq!(t.broker.metrics().retries, 6);
}

#[test]
fn rabbitmqs_delay_grows_with_failures_only() {
    let (mut t, c) = queue(&[
        ("x-delayed-retry-type", "all".into()),
        ("x-delayed-retry-min", 100_i64.into()),
        ("x-delayed-retry-max", 250_i64.into()),
    ]);
    t.publish(c, "q", "m");
    t.consume(c, "q", "t");
    #[rustfmt::skip]
    let table = [
        (0, NACK), (100, NACK), (100, REJECT), (100, REJECT), (200, NACK), (200, REJECT),
        (250, REJECT), (250, REJECT),
    ];
    for (expected, outcome) in table {
        let (ms, tag) = next(&mut t);
        assert_eq!(ms, expected);
        t.settle(c, tag, false, outcome);
    }
}

#[test]
fn jitter_brings_some_back_sooner_but_never_too_soon() {
    let (mut t, c) = queue(&[
        ("x-retry-delay", 1_000_i64.into()),
        ("x-retry-jitter", 25_i64.into()),
    ]);
    for number in 0..200 {
        t.publish(c, "q", &number.to_string());
    }
    t.consume(c, "q", "t");
    came(&mut t);
    t.settle(c, 0, true, NACK);
    assert_eq!(counts(&t), (0, 0, 200));
    t.pass_ms(749);
    assert_eq!(counts(&t).2, 200, "none before three quarters of the delay");
    t.pass_ms(125);
    let half = counts(&t).2;
    assert!(
        (60..140).contains(&half),
        "{half} of 200 after half of the rest"
    );
    t.pass_ms(126);
    assert_eq!(counts(&t).2, 0, "all when the delay is over");
}

#[test]
fn what_comes_back_goes_to_its_old_place_and_says_how_often() {
    let (mut t, c) = queue(&[("x-retry-delay", 100_i64.into())]);
    t.publish_all(c, "q", ["a", "b", "c", "d", "e"]);
    let worker = t.client();
    t.prefetch(worker, 3);
    t.consume(worker, "q", "t");
    assert_eq!(bodies(&mut t), ["a", "b", "c"]);
    t.settle(worker, 3, false, NACK);
    t.settle(worker, 1, false, NACK);
    assert_eq!(bodies(&mut t), ["d", "e"], "others go on meanwhile");
    t.settle(worker, 2, false, NACK);
    t.cancel(worker, "t");
    t.publish(c, "q", "f");
    t.pass_ms(100);
    let reader = t.client();
    t.consume(reader, "q", "t");
    let deliveries = t.take_deliveries();
    let shown: Vec<_> = deliveries
        .iter()
        .map(|(_, _, message)| {
            let headers = message.properties().headers.unwrap_or_default();
            let count = headers.get("x-delivery-count").and_then(FieldValue::as_i64);
            let body = String::from_utf8_lossy(message.body()).into_owned();
            (body, count)
        })
        .collect();
    let expected = [("a", Some(1)), ("b", Some(1)), ("c", Some(1)), ("f", None)];
    assert_eq!(
        shown,
        expected.map(|(body, count)| (body.to_owned(), count))
    );
    let heard = t.heard(reader);
    assert_eq!(
        heard.iter().filter(|line| line.contains("again")).count(),
        3
    );
}

#[test]
fn attempts_that_are_used_up_are_dead_lettered_at_once() {
    for (family, outcome) in [("x-retry-delay", NACK), ("x-delayed-retry-min", REJECT)] {
        let mut arguments = dead_letters();
        arguments.push((family, 100_i64.into()));
        arguments.push(("x-delivery-limit", 2_i64.into()));
        if family != "x-retry-delay" {
            arguments.push(("x-delayed-retry-type", "failed".into()));
        }
        let (mut t, c) = queue(&arguments);
        t.publish_persistent(c, "", "q", "m");
        t.consume(c, "q", "t");
        let mut passed = Vec::new();
        for _ in 0..3 {
            let (ms, tag) = next(&mut t);
            passed.push(ms);
            t.settle(c, tag, false, outcome);
        }
        assert_eq!(passed, [0, 100, 200], "{family}");
        assert_eq!(t.bodies("dead"), ["m"], "{family}");
        assert_eq!(counts(&t).2, 0);
    }
}

#[test]
fn the_time_of_a_message_goes_on_while_it_waits() {
    let mut arguments = dead_letters();
    arguments.push(("x-retry-delay", 1_000_i64.into()));
    arguments.push(("x-message-ttl", 300_i64.into()));
    let (mut t, c) = queue(&arguments);
    t.publish_persistent(c, "", "q", "m");
    t.get(c, "q");
    came(&mut t);
    t.pass_ms(200);
    t.settle(c, 1, false, REJECT);
    t.pass_ms(99);
    assert_eq!(counts(&t).2, 1);
    t.pass_ms(1);
    assert_eq!(counts(&t).2, 0);
    assert_eq!(t.bodies("dead"), ["m"]);
    assert_eq!(t.broker.metrics().expired, 1);
    // One that comes back too late does not wait at all.
    t.publish_persistent(c, "", "q", "late");
    t.get(c, "q");
    t.pass_ms(400);
    t.settle(c, 2, false, REJECT);
    assert_eq!(t.bodies("dead"), ["m", "late"]);
    t.pass_ms(5_000);
    assert_eq!(counts(&t), (2, 0, 0));
}

#[test]
fn a_purge_and_a_delete_take_those_that_wait_along() {
    let (mut t, c) = queue(&[("x-retry-delay", 100_i64.into())]);
    let mut kept = Kept::default();
    for body in ["a", "b", "c"] {
        t.publish_persistent(c, "", "q", body);
    }
    t.get(c, "q");
    t.get(c, "q");
    t.settle(c, 2, false, REJECT);
    kept.take_in(&mut t);
    let delete = QueueDelete {
        queue: short("q"),
        if_empty: true,
        ..QueueDelete::default()
    };
    t.method(c, delete);
    t.expect_close(
        c,
        406,
        "PRECONDITION_FAILED - queue 'q' in vhost '/' not empty",
    );
    t.close_ok(c);
    let c = t.client();
    let purge = QueuePurge {
        queue: short("q"),
        ..QueuePurge::default()
    };
    t.method(c, purge);
    t.sync();
    assert_eq!(t.heard(c), ["queue.purge-ok 3"]);
    kept.take_in(&mut t);
    assert!(kept.messages.is_empty());
    assert_eq!(counts(&t), (0, 0, 0));
    assert_eq!(t.broker.next_timer(), None);

    t.publish_persistent(c, "", "q", "d");
    t.get(c, "q");
    t.settle(c, 1, false, REJECT);
    t.delete_queue(c, "q");
    assert_eq!(counts(&t), (0, 0, 0));
    assert_eq!(t.broker.metrics().purged, 4);
    t.pass_ms(60_000);
    assert_eq!(counts(&t), (0, 0, 0));
}

#[test]
fn those_that_wait_count_in_the_length_and_the_first_in_line_goes() {
    let mut arguments = dead_letters();
    arguments.push(("x-retry-delay", 100_i64.into()));
    arguments.push(("x-max-length", 2_i64.into()));
    let (mut t, c) = queue(&arguments);
    t.publish_all(c, "q", ["a", "b"]);
    t.get(c, "q");
    t.settle(c, 1, false, REJECT);
    assert_eq!(counts(&t), (1, 0, 1));
    t.publish(c, "q", "c");
    assert_eq!(t.bodies("dead"), ["a"]);
    t.get(c, "q");
    t.get(c, "q");
    t.settle(c, 3, true, NACK);
    assert_eq!(counts(&t), (1, 0, 2), "one is dead");
    t.publish(c, "q", "d");
    assert_eq!(counts(&t), (3, 0, 1));

    arguments.push(("x-overflow", "reject-publish".into()));
    let (mut t, c) = queue(&arguments);
    t.confirm_select(c);
    t.publish_all(c, "q", ["a", "b"]);
    t.get(c, "q");
    t.settle(c, 1, false, REJECT);
    t.heard(c);
    t.publish(c, "q", "c");
    assert_eq!(t.heard(c), ["basic.nack 3"]);
}

#[test]
fn a_channel_that_closes_with_very_many_returns_them_in_order() {
    let (mut t, c) = queue(&[("x-retry-delay", 100_i64.into())]);
    t.checked = false;
    const MANY: usize = 100_000;
    for number in 0..MANY {
        t.publish_persistent(c, "", "q", &number.to_string());
    }
    let worker = t.client();
    t.consume(worker, "q", "t");
    assert_eq!(came(&mut t).len(), MANY);
    t.facts();
    let work = t.broker.work();
    t.close(worker);
    assert!(t.broker.work() - work < 3 * MANY as u64);
    assert_eq!(counts(&t), (0, 0, MANY));
    let retried: Vec<usize> = t
        .facts()
        .iter()
        .map(|fact| match fact {
            Fact::Retried { retries, .. } => retries.len(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(retried.len() <= 100, "{} records", retried.len());
    assert_eq!(retried.iter().sum::<usize>(), MANY);
    t.pass_ms(99);
    assert_eq!(counts(&t), (0, 0, MANY));
    t.pass_ms(1);
    assert_eq!(counts(&t), (MANY, 0, 0));
    t.checked = true;
    t.pass_ms(1);
    t.checked = false;
    t.consume(c, "q", "t");
    let back = bodies(&mut t).into_iter();
    assert!(back.enumerate().all(|(n, body)| n.to_string() == body));
}

#[test]
fn a_turn_that_returns_very_many_ends_in_between() {
    let (mut t, c) = queue(&[("x-retry-delay", 100_i64.into())]);
    t.checked = false;
    for number in 0..20_000 {
        t.publish(c, "q", &number.to_string());
    }
    let worker = t.client();
    t.consume(worker, "q", "t");
    came(&mut t);
    t.close(worker);
    t.checked = true;
    t.wait_ms(100);
    t.tick_within(5_000);
    let (ready, _, retrying) = counts(&t);
    assert!(ready > 1_000 && ready < 10_000 && ready + retrying == 20_000);
    t.tick_within(u64::MAX);
    assert_eq!(counts(&t), (20_000, 0, 0));
}

// ---- with a log

fn after(t: &BrokerTest, down_ms: u64) -> Now {
    Now {
        mono: Mono(7),
        wall: Wall(t.now.wall.0 + down_ms),
    }
}

/// Everything that can be fetched now: body, and how often its delivery has failed.
fn fetch_all(t: &mut BrokerTest, kept: &mut Kept) -> Vec<(String, i64)> {
    let c = t.client();
    let mut all = Vec::new();
    loop {
        let answer = t.get(c, "q");
        kept.answer_all(t);
        t.heard(c);
        let deliveries = t.take_deliveries();
        let Some((_, tag, message)) = deliveries.first() else {
            assert!(answer == "basic.get-empty" || answer.is_empty(), "{answer}");
            return all;
        };
        let headers = message.properties().headers.unwrap_or_default();
        let count = headers.get("x-delivery-count").and_then(FieldValue::as_i64);
        let body = String::from_utf8_lossy(message.body()).trim().to_owned();
        all.push((body, count.unwrap_or_default()));
        t.ack(c, *tag);
        kept.take_in(t);
    }
}

fn numbered(numbers: impl IntoIterator<Item = (usize, i64)>) -> Vec<(String, i64)> {
    let text = |(number, count): (usize, i64)| (number.to_string(), count);
    numbers.into_iter().map(text).collect()
}

#[test]
fn a_restart_knows_when_and_how_often() {
    for down_ms in [0, 250, 5_000] {
        let (mut t, c) = queue(&[("x-retry-delay", 100_i64.into())]);
        let mut kept = Kept::default();
        for number in 0..6 {
            t.publish_persistent(c, "", "q", &number.to_string());
        }
        for tag in 1..=6 {
            t.get(c, "q");
            if tag == 4 {
                t.settle(c, 4, false, REJECT);
                t.pass_ms(100); // the second attempt at 3 comes before that at 4
                t.get(c, "q");
                t.settle(c, 5, false, NACK);
            }
        }
        // 3 waits for 200 ms after two attempts, 4 is delivered, 1 waits for 100 ms after one.
        t.settle(c, 2, false, REJECT);
        kept.take_in(&mut t);
        let mut t = kept.restart(after(&t, down_ms), Limits::default());
        t.pass_ms(0);
        let early = fetch_all(&mut t, &mut kept);
        t.pass_ms(100);
        let later = fetch_all(&mut t, &mut kept);
        t.pass_ms(100);
        let last = fetch_all(&mut t, &mut kept);
        let (early_expected, later_expected, last_expected) = match down_ms {
            0 => (
                numbered([(0, 0), (2, 0), (4, 0), (5, 0)]),
                numbered([(1, 1)]),
                numbered([(3, 2)]),
            ),
            _ => (
                numbered([(0, 0), (1, 1), (2, 0), (3, 2), (4, 0), (5, 0)]),
                Vec::new(),
                Vec::new(),
            ),
        };
        assert_eq!(early, early_expected, "down for {down_ms} ms");
        assert_eq!(later, later_expected, "down for {down_ms} ms");
        assert_eq!(last, last_expected, "down for {down_ms} ms");
        assert!(kept.messages.is_empty() && kept.retries.is_empty());
    }
}

#[test]
fn attempts_go_on_after_a_restart() {
    let mut arguments = dead_letters();
    arguments.push(("x-retry-delay", 100_i64.into()));
    arguments.push(("x-delivery-limit", 2_i64.into()));
    let (mut t, mut c) = queue(&arguments);
    let mut kept = Kept::default();
    t.publish_persistent(c, "", "q", "m");
    for attempt in 1..=3 {
        t.get(c, "q");
        kept.answer_all(&mut t);
        t.heard(c);
        let tag = t.take_deliveries().first().expect("a delivery").1;
        t.settle(c, tag, false, REJECT);
        kept.take_in(&mut t);
        if attempt == 1 {
            t = kept.restart(after(&t, 0), Limits::default());
            c = t.client();
            t.pass_ms(99);
            assert_eq!(counts(&t).2, 1);
            t.pass_ms(1);
        } else {
            t.pass_ms(200);
        }
    }
    assert_eq!(counts(&t), (1, 0, 0), "dead after three");
    assert_eq!(t.bodies("dead"), ["m"]);
}

#[test]
fn what_expires_while_it_waits_is_dead_lettered_after_a_restart_too() {
    for at in [50, 400] {
        let mut arguments = dead_letters();
        arguments.push(("x-retry-delay", 1_000_i64.into()));
        arguments.push(("x-message-ttl", 300_i64.into()));
        let (mut t, c) = queue(&arguments);
        let mut kept = Kept::default();
        t.publish_persistent(c, "", "q", "m");
        t.get(c, "q");
        t.settle(c, 1, false, REJECT);
        kept.take_in(&mut t);
        let mut t = kept.restart(after(&t, at), Limits::default());
        t.pass_ms(0);
        kept.answer_all(&mut t);
        if at < 300 {
            t.pass_ms(300 - at - 1);
            assert_eq!(counts(&t), (0, 0, 1));
            t.pass_ms(1);
            kept.answer_all(&mut t);
        }
        assert_eq!(counts(&t), (1, 0, 0), "dead");
        assert_eq!(t.bodies("dead"), ["m"]);
    }
}

/// So little that a queue holds some 20 messages of 60 octets in memory.
fn little() -> Limits {
    Limits {
        queue_memory_max: 4_000,
        ..Limits::default()
    }
}

#[test]
fn very_many_that_wait_leave_memory_and_come_back_in_order() {
    let (mut t, c) = queue_within(little(), &[("x-retry-delay", 100_i64.into())]);
    let mut kept = Kept::default();
    const MANY: usize = 400;
    let worker = t.client();
    t.consume(worker, "q", "t");
    for number in 0..MANY {
        t.publish_persistent(c, "", "q", &format!("{number:<60}"));
        t.settle(worker, number as u64 + 1, false, REJECT);
        t.pass_ms(u64::from(number % 10 == 0));
    }
    came(&mut t);
    t.sync();
    kept.take_in(&mut t);
    assert_eq!(counts(&t), (0, 0, MANY));
    assert!(t.broker.metrics().paged_out > 350);
    t.cancel(worker, "t");
    t.pass_ms(200);
    assert_eq!(counts(&t), (MANY, 0, 0));
    let all = fetch_all(&mut t, &mut kept);
    assert_eq!(all, numbered((0..MANY).map(|number| (number, 1))));
    assert!(kept.messages.is_empty());
}

#[test]
fn what_comes_back_late_goes_among_those_that_were_delivered_before_the_restart() {
    let (mut t, c) = queue_within(little(), &[("x-retry-delay", 100_i64.into())]);
    let mut kept = Kept::default();
    const MANY: usize = 200;
    for number in 0..MANY {
        t.publish_persistent(c, "", "q", &format!("{number:<60}"));
    }
    t.sync();
    kept.take_in(&mut t);
    let worker = t.client();
    t.consume(worker, "q", "t");
    kept.answer_all(&mut t);
    let delivered = came(&mut t);
    assert_eq!(delivered.len(), MANY);
    for (tag, _) in delivered.iter().skip(5).step_by(7) {
        t.settle(worker, *tag, false, REJECT);
    }
    kept.take_in(&mut t);
    let waiting = kept.retries.len();
    let mut t = kept.restart(after(&t, 0), little());
    // The first are in memory when the others come back, and those among them are read in turn.
    let c = t.client();
    t.get(c, "q");
    kept.answer_all(&mut t);
    t.heard(c);
    assert_eq!(bodies(&mut t), ["0"]);
    assert_eq!(counts(&t), (MANY - waiting - 1, 1, waiting));
    t.pass_ms(100);
    t.requeue(c, 1);
    assert_eq!(counts(&t), (MANY - 1, 0, 1));
    t.pass_ms(100);
    assert_eq!(counts(&t), (MANY, 0, 0));
    let expected = (0..MANY).map(|n| (n, i64::from(n % 7 == 5 || n == 0)));
    assert_eq!(fetch_all(&mut t, &mut kept), numbered(expected));
}

#[test]
fn what_comes_back_while_older_ones_are_read_is_not_lost() {
    let (mut t, c) = queue_within(little(), &[("x-retry-delay", 100_i64.into())]);
    let mut kept = Kept::default();
    const MANY: usize = 60;
    for number in 0..MANY {
        t.publish_persistent(c, "", "q", &format!("{number:<60}"));
    }
    t.get(c, "q");
    t.settle(c, 1, false, REJECT);
    kept.take_in(&mut t);
    let mut t = kept.restart(after(&t, 0), little());
    let c = t.client();
    t.get(c, "q"); // asks for 1 and more, and waits
    assert_eq!(t.fetches.len(), 1);
    t.pass_ms(100); // 0 is due, and away, and comes before them
    kept.answer_all(&mut t);
    t.heard(c);
    assert_eq!(bodies(&mut t), ["0"]);
    t.ack(c, 1);
    let all = fetch_all(&mut t, &mut kept);
    assert_eq!(all, numbered((1..MANY).map(|n| (n, 0))));
}

#[test]
fn priorities_hold_for_what_comes_back() {
    let (mut t, c) = queue(&[
        ("x-retry-delay", 100_i64.into()),
        ("x-max-priority", 5_i64.into()),
    ]);
    let mut kept = Kept::default();
    for (priority, body) in [(1, "0"), (5, "1"), (1, "2"), (5, "3")] {
        let mut properties = persistent();
        properties.priority = Some(priority);
        t.publish_with(c, message_with("", "q", properties, body), false);
    }
    for _ in 0..3 {
        t.get(c, "q");
    }
    assert_eq!(bodies(&mut t), ["1", "3", "0"]);
    t.settle(c, 3, true, REJECT);
    kept.take_in(&mut t);
    let restarted = kept.restart(after(&t, 0), Limits::default());
    let log = kept.clone();
    for (mut t, mut kept) in [(t, kept), (restarted, log)] {
        t.pass_ms(100);
        assert_eq!(counts(&t), (4, 0, 0));
        let all = fetch_all(&mut t, &mut kept);
        assert_eq!(all, numbered([(1, 1), (3, 1), (0, 1), (2, 0)]));
    }
}

/// Those that wait are away after a start: then whatever was new was dropped in their place.
#[test]
fn the_first_in_line_is_dropped_even_if_it_waits_and_is_away() {
    for dead_letters in [vec![], dead_letters()] {
        let letters = usize::from(!dead_letters.is_empty());
        let mut arguments = dead_letters;
        arguments.push(("x-retry-delay", 100_000_i64.into()));
        arguments.push(("x-max-length", 1_i64.into()));
        let (mut t, c) = queue(&arguments);
        let mut kept = Kept::default();
        t.publish_persistent(c, "", "q", "old");
        t.get(c, "q");
        t.settle(c, 1, false, REJECT);
        kept.take_in(&mut t);
        let mut t = kept.restart(after(&t, 0), Limits::default());
        let c = t.client();
        assert_eq!(counts(&t), (0, 0, 1));
        t.publish_persistent(c, "", "q", "new");
        kept.answer_all(&mut t);
        assert_eq!(counts(&t), (1 + letters, 0, 0));
        t.broker.check_invariants();
        assert_eq!(fetch_all(&mut t, &mut kept), [("new".to_owned(), 0)]);
        kept.take_in(&mut t);
        assert_eq!(kept.messages.len(), letters, "the dead letter is left");
    }
}

/// The first in line may be one that has come back: it says nothing about those behind it.
#[test]
fn a_stop_says_what_was_delivered_while_older_ones_were_waiting() {
    let (mut t, c) = queue_within(little(), &[("x-retry-delay", 100_i64.into())]);
    let worker = t.client();
    t.consume(worker, "q", "t");
    for number in 0..60 {
        t.publish_persistent(c, "", "q", &format!("{number:<60}"));
    }
    for tag in 1..=40 {
        t.settle(worker, tag, false, REJECT);
    }
    t.sync();
    t.cancel(worker, "t");
    t.pass_ms(200);
    assert_eq!(counts(&t), (40, 20, 0));
    t.facts();
    t.step(Input::Retire);
    let facts = t.facts();
    let through = |fact: &Fact| match fact {
        Fact::MayDeliver { through, .. } => Some(through.0),
        _ => None,
    };
    assert_eq!(facts.iter().find_map(through), Some(60), "{facts:?}");
}

/// What has come back from the log once may be paged out again: nobody else knew then what it had been
/// through.
#[test]
fn what_a_message_has_been_through_is_not_lost_when_memory_is_short_again() {
    let arguments = [
        ("x-retry-delay", 1_000_i64.into()),
        ("x-delivery-limit", 1_i64.into()),
    ];
    let (mut t, c) = queue(&arguments);
    let mut kept = Kept::default();
    let worker = t.client();
    t.consume(worker, "q", "t");
    for number in 0..2 {
        t.publish_persistent(c, "", "q", &format!("{number}{}", " ".repeat(100_000)));
        t.settle(worker, number + 1, false, REJECT);
    }
    let short = |t: &mut BrokerTest, kept: &mut Kept| {
        t.step(Input::Alarm(Some("low on memory")));
        t.sync();
        kept.take_in(t);
        t.step(Input::Alarm(None));
    };
    short(&mut t, &mut kept);
    assert_eq!(t.broker.metrics().paged_out, 2);
    t.cancel(worker, "t");
    t.pass_ms(1_000);
    assert_eq!(counts(&t), (2, 0, 0));
    came(&mut t);
    t.prefetch(worker, 1);
    t.consume(worker, "q", "again");
    kept.answer_all(&mut t);
    assert_eq!(came(&mut t), [(3, "0".to_owned())]);
    let before = t.broker.metrics().paged_out;
    short(&mut t, &mut kept);
    assert_eq!(t.broker.metrics().paged_out, before, "it stays");
    t.settle(worker, 3, false, Outcome::Ack);
    kept.answer_all(&mut t);
    let deliveries = t.take_deliveries();
    let [(_, 4, message)] = &deliveries[..] else {
        panic!("{deliveries:?}");
    };
    let headers = message.properties().headers.unwrap_or_default();
    let count = headers.get("x-delivery-count").and_then(FieldValue::as_i64);
    assert_eq!(count, Some(1));
    t.settle(worker, 4, false, REJECT);
    assert_eq!(counts(&t), (0, 0, 0), "its attempts are used up");
}

/// Ten stops of the broker were ten failed attempts of whatever took long.
#[test]
fn a_stop_of_the_broker_is_no_attempt() {
    let limit = ("x-delivery-limit", 1_i64.into());
    let families: [Vec<(&'static str, FieldValue)>; 3] = [
        vec![],
        vec![("x-retry-delay", 1_000_i64.into())],
        vec![("x-delayed-retry-type", "all".into())],
    ];
    for family in families {
        let mut arguments = dead_letters();
        arguments.push(limit.clone());
        arguments.extend(family);
        let (mut t, mut c) = queue(&arguments);
        t.publish_persistent(c, "", "q", "slow");
        for _ in 0..10 {
            t.consume(c, "q", "c");
            assert_eq!(bodies(&mut t), ["slow"], "at once: {arguments:?}");
            t.step(Input::Evict(c.connection, "shutdown".to_owned()));
            assert_eq!(counts(&t), (1, 0, 0), "ready: {arguments:?}");
            t.step(Input::Closed(c.connection));
            c = t.client();
        }
        // A connection that is lost is an attempt, and the one after that the last.
        t.consume(c, "q", "c");
        t.disconnect(c.connection);
        c = t.client();
        t.pass_ms(2_000);
        t.consume(c, "q", "c");
        let delivery = t.take_deliveries().pop().map(|(_, _, message)| message);
        let headers = delivery.and_then(|m| m.properties().headers);
        let count = headers.and_then(|h| h.get("x-delivery-count").cloned());
        assert_eq!(count, Some(FieldValue::I64(1)), "{arguments:?}");
        t.disconnect(c.connection);
        assert_eq!(t.bodies("dead"), ["slow"], "{arguments:?}");
    }
}

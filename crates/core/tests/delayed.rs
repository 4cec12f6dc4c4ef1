//! Messages that are to be delivered later.

mod common;

use common::delays::*;
use common::kept::Kept;
use common::*;
use leveret_codec::{ExchangeDeclare, FieldValue, Properties};
use leveret_core::log::{Fetched, LogError};
use leveret_core::{Fact, Input, Limits, Seq};

fn at(t: &BrokerTest, in_ms: u64) -> Properties {
    let ms = i64::try_from(t.now.wall.0 + in_ms).expect("not so far");
    headers([("x-deliver-at", FieldValue::I64(ms))])
}

fn queue() -> (BrokerTest, Chan) {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.durable_queue(ch, "q");
    (t, ch)
}

#[test]
fn they_come_in_the_order_in_which_they_are_due_and_never_early() {
    let (mut t, ch) = queue();
    send(&mut t, ch, "q", after(300), "third");
    send(&mut t, ch, "q", after(100), "first");
    let second = at(&t, 200);
    send(&mut t, ch, "q", second, "second");
    t.publish(ch, "q", "at once");
    assert_eq!((t.broker.totals().ready, waiting(&t)), (1, 3));
    t.consume_no_ack(ch, "q", "c");
    t.heard(ch);
    assert_eq!(t.take_delivery().body(), b"at once");
    let mut passed = 0;
    for (body, ms) in [("first", 101), ("second", 200), ("third", 301)] {
        pass(&mut t, ms - passed - 1);
        assert_eq!(t.take_deliveries().len(), 0, "{body}");
        pass(&mut t, 1);
        assert_eq!(t.take_delivery().body(), body.as_bytes());
        passed = ms;
    }
    assert_eq!(waiting(&t), 0);
    assert_eq!(t.broker.next_timer(), None);
}

#[test]
fn those_of_the_same_millisecond_keep_their_order() {
    let (mut t, ch) = queue();
    for n in 0..10 {
        send(&mut t, ch, "q", after(5), &n.to_string());
    }
    pass_delay(&mut t, 5);
    assert_eq!(t.bodies("q").concat(), "0123456789");
}

#[test]
fn they_are_routed_when_they_are_due() {
    let (mut t, ch) = queue();
    t.exchange(ch, "x", "direct");
    let properties = after(10);
    t.publish_with(ch, message_with("x", "k", properties, "a"), false);
    t.bind(ch, "x", "k", "q");
    pass_delay(&mut t, 10);
    assert_eq!(t.bodies("q"), ["a"], "by a binding that came later");

    let properties = after(10);
    t.publish_with(ch, message_with("x", "k", properties, "b"), false);
    t.unbind(ch, "x", "k", "q");
    pass_delay(&mut t, 10);
    assert_eq!(t.bodies("q"), ["a"], "and not by one that has gone");
    assert_eq!(t.broker.metrics().unroutable_dropped, 1);

    let properties = after(10);
    t.publish_with(ch, message_with("x", "k", properties, "c"), false);
    t.delete_exchange(ch, "x");
    pass_delay(&mut t, 10);
    assert_eq!(t.broker.metrics().unroutable_dropped, 2, "nor is it kept");
}

#[test]
fn a_mandatory_one_that_nobody_would_take_comes_back_at_once() {
    let (mut t, ch) = queue();
    t.publish_with(ch, message_with("", "nowhere", after(10), "a"), true);
    let heard = t.heard(ch).join("; ");
    assert!(heard.contains("return"), "{heard}");
    assert_eq!(waiting(&t), 0);
    t.publish_with(ch, message_with("", "q", after(10), "b"), true);
    assert_eq!(t.heard(ch), [""; 0]);
    assert_eq!(waiting(&t), 1);
}

#[test]
fn a_mandatory_one_stays_if_any_of_its_keys_leads_somewhere() {
    let (mut t, ch) = queue();
    for (header, key, stays) in [
        ("CC", "q", true),
        ("BCC", "q", true),
        ("CC", "nowhere", false),
    ] {
        let before = waiting(&t);
        let properties = headers([
            ("x-deliver-after", FieldValue::I32(10)),
            (header, keys([key])),
        ]);
        t.publish_with(
            ch,
            message_with("", "nowhere either", properties, "a"),
            true,
        );
        let returned = t.heard(ch).join("; ").contains("return");
        assert_eq!(returned, !stays, "{header} {key}");
        assert_eq!(waiting(&t) - before, usize::from(stays), "{header} {key}");
    }
    pass_delay(&mut t, 10);
    assert_eq!(t.bodies("q"), ["a", "a"]);
}

#[test]
fn copies_go_where_they_were_meant_to() {
    let (mut t, ch) = queue();
    t.durable_queue(ch, "cc");
    t.durable_queue(ch, "bcc");
    let properties = headers([
        ("x-deliver-after", FieldValue::I32(10)),
        ("CC", keys(["cc"])),
        ("BCC", keys(["bcc"])),
    ]);
    send(&mut t, ch, "q", properties, "a");
    pass_delay(&mut t, 10);
    for name in ["q", "cc", "bcc"] {
        t.get(ch, name);
        let headers = t.take_delivery().properties().headers.expect("headers");
        assert!(headers.get("CC").is_some() && headers.get("BCC").is_none());
    }
}

#[test]
fn one_record_takes_it_out_and_puts_it_in() {
    let (mut t, ch) = queue();
    t.confirm_select(ch);
    t.facts();
    t.log = Log::Held;
    send(&mut t, ch, "q", kept_after(10), "a");
    assert_eq!(t.heard(ch), [""; 0], "no confirm before it is safe");
    t.sync();
    assert_eq!(t.heard(ch), ["confirm 1"]);
    let facts = t.facts();
    let [Fact::QueueDeclared { .. }, Fact::Published { places, .. }] = &facts[..] else {
        panic!("{facts:?}");
    };
    let waited = places[0];
    pass_delay(&mut t, 10);
    let facts = t.facts();
    let [Fact::Together(facts)] = &facts[..] else {
        panic!("{facts:?}");
    };
    let [Fact::Settled { queue, seq }, Fact::Published { places, .. }] = &facts[..] else {
        panic!("{facts:?}");
    };
    assert_eq!((*queue, *seq), waited);
    assert_eq!(places[0].1, Seq(1), "the first of its queue");
}

#[test]
fn nothing_is_recorded_of_a_transient_one() {
    let (mut t, ch) = queue();
    t.confirm_select(ch);
    t.facts();
    t.log = Log::Held;
    send(&mut t, ch, "q", after(10), "a");
    assert_eq!(t.heard(ch), ["confirm 1"]);
    pass_delay(&mut t, 10);
    assert!(t.facts().is_empty());
    assert_eq!(t.bodies("q"), ["a"]);
}

#[test]
fn in_a_transaction_they_wait_for_the_commit() {
    let (mut t, ch) = queue();
    t.tx_select(ch);
    send(&mut t, ch, "q", kept_after(10), "a");
    send(&mut t, ch, "q", persistent(), "b");
    assert_eq!(waiting(&t), 0);
    t.facts();
    t.tx_commit(ch);
    assert!(
        matches!(&t.facts()[..], [Fact::Together(facts)] if facts.len() == 2),
        "one record"
    );
    send(&mut t, ch, "q", kept_after(10), "never");
    t.tx_rollback(ch);
    pass_delay(&mut t, 10);
    assert_eq!(t.bodies("q"), ["b", "a"]);
}

#[test]
fn a_clock_that_is_set_moves_dates_and_no_delays() {
    const HOUR: u64 = 3_600_000;
    let (mut t, ch) = queue();
    send(&mut t, ch, "q", after(10_000), "delay");
    let properties = at(&t, 2 * HOUR);
    send(&mut t, ch, "q", properties, "date");
    t.now.wall.0 += 2 * HOUR;
    pass(&mut t, 1_000);
    assert_eq!(t.bodies("q"), ["date"], "within a second");
    t.now.wall.0 -= 5 * HOUR;
    pass(&mut t, 9_000);
    assert_eq!(waiting(&t), 1);
    pass(&mut t, 1);
    assert_eq!(t.bodies("q"), ["date", "delay"]);
}

#[test]
fn headers_that_make_no_sense_are_refused_and_change_nothing() {
    let (mut t, ch) = queue();
    let properties = headers([("x-deliver-after", FieldValue::I32(-1))]);
    send(&mut t, ch, "q", properties, "a");
    let text = "PRECONDITION_FAILED - invalid header x-deliver-after: -1 is negative; \
                an example: 60000 (milliseconds)";
    t.expect_close(ch, 406, text);
    assert_eq!((waiting(&t), t.broker.totals().ready), (0, 0));
}

// ---- x-delayed-message

fn delayed_exchange(t: &mut BrokerTest, ch: Chan, kind: &str) {
    let like = FieldValue::LongString(kind.to_owned().into());
    let declare = ExchangeDeclare {
        arguments: table([("x-delayed-type", like)]),
        durable: true,
        ..exchange_declare("later", "x-delayed-message")
    };
    t.method(ch, declare);
}

fn x_delay(value: FieldValue) -> Properties {
    headers([("x-delay", value)])
}

#[test]
fn an_exchange_of_the_plugins_type_routes_like_another_with_delay() {
    let (mut t, ch) = queue();
    delayed_exchange(&mut t, ch, "topic");
    assert_eq!(t.heard(ch), ["exchange.declare-ok"]);
    t.bind(ch, "later", "a.#", "q");
    let messages = [
        (x_delay(FieldValue::I32(20)), "a.b", "20"),
        (x_delay(FieldValue::I32(10)), "a.b", "10"),
        (x_delay(FieldValue::I32(0)), "a", "0"),
        (Properties::default(), "a.c", "none"),
        (x_delay(FieldValue::I32(10)), "b", "elsewhere"),
    ];
    for (properties, key, body) in messages {
        t.publish_with(ch, message_with("later", key, properties, body), false);
    }
    assert_eq!(t.bodies("q"), ["0", "none"]);
    pass_delay(&mut t, 20);
    assert_eq!(t.bodies("q"), ["0", "none", "10", "20"]);
}

#[test]
fn x_delay_means_nothing_to_other_exchanges() {
    let (mut t, ch) = queue();
    send(&mut t, ch, "q", x_delay(FieldValue::I32(1_000)), "a");
    assert_eq!(t.bodies("q"), ["a"]);
}

#[test]
fn x_delay_is_negated_on_delivery() {
    let (mut t, ch) = queue();
    delayed_exchange(&mut t, ch, "direct");
    t.bind(ch, "later", "q", "q");
    let properties = x_delay(FieldValue::I32(10));
    t.publish_with(ch, message_with("later", "q", properties, "a"), false);
    pass_delay(&mut t, 10);
    t.get(ch, "q");
    let headers = t.take_delivery().properties().headers.expect("headers");
    assert_eq!(headers.get("x-delay"), Some(&FieldValue::I64(-10)));
}

#[test]
fn a_dead_letter_is_delayed_once() {
    let (mut t, ch) = queue();
    delayed_exchange(&mut t, ch, "fanout");
    let to = FieldValue::LongString("later".into());
    let declare = queue_declare_with("first", [("x-dead-letter-exchange", to)]);
    t.method(ch, declare);
    t.bind(ch, "later", "", "first");
    let properties = Properties {
        delivery_mode: Some(2),
        ..x_delay(FieldValue::I32(10))
    };
    send(&mut t, ch, "first", properties, "a");
    t.get(ch, "first");
    t.discard(ch, 1);
    assert_eq!(waiting(&t), 1, "a retry after a while");
    pass_delay(&mut t, 10);
    t.get(ch, "first");
    t.discard(ch, 2);
    assert_eq!(
        (waiting(&t), t.broker.totals().ready),
        (0, 1),
        "and then at once"
    );
}

/// What reached one by a binding between exchanges went through it at once.
#[test]
fn an_exchange_that_is_bound_to_another_delays_what_reaches_it() {
    let (mut t, ch) = queue();
    t.durable_queue(ch, "now");
    delayed_exchange(&mut t, ch, "topic");
    t.exchange(ch, "x", "fanout");
    t.bind(ch, "x", "", "now");
    t.bind_exchange(ch, "x", "", "later");
    t.bind(ch, "later", "k", "q");
    t.confirm_select(ch);
    for (delay, body) in [(10, "a"), (0, "b")] {
        let properties = Properties {
            delivery_mode: Some(2),
            ..x_delay(FieldValue::I32(delay))
        };
        t.heard(ch);
        t.facts();
        t.publish_with(ch, message_with("x", "k", properties, body), true);
        assert_eq!(t.facts().len(), 1, "{body}: one record for all of it");
        assert_eq!(t.heard(ch).len(), 1, "{body}: a confirm, and no return");
    }
    assert_eq!(t.bodies("now"), ["a", "b"], "what does not go through it");
    assert_eq!((t.bodies("q"), waiting(&t)), (vec!["b".to_owned()], 1));
    pass_delay(&mut t, 10);
    assert_eq!((t.bodies("q").concat(), waiting(&t)), ("ba".to_owned(), 0));
    t.get(ch, "q");
    t.get(ch, "q");
    let came = t.take_deliveries();
    let headers = came[1].2.properties().headers.expect("headers");
    assert_eq!(headers.get("x-delay"), Some(&FieldValue::I64(-10)));
    assert_eq!(came[1].2.exchange(), "later", "as if published there");
}

#[test]
fn an_alternate_exchange_delays_and_one_that_was_delayed_is_so_once() {
    let (mut t, ch) = queue();
    delayed_exchange(&mut t, ch, "fanout");
    t.bind(ch, "later", "", "q");
    let to = FieldValue::LongString("later".into());
    let declare = ExchangeDeclare {
        arguments: table([("alternate-exchange", to)]),
        ..exchange_declare("x", "direct")
    };
    t.method(ch, declare);
    t.heard(ch);
    let copy = || headers([("x-delay", FieldValue::I32(10)), ("BCC", keys(["other"]))]);
    t.publish_with(ch, message_with("x", "k", copy(), "a"), true);
    assert_eq!(t.heard(ch), [""; 0], "somebody has it");
    assert_eq!((waiting(&t), t.broker.totals().ready), (1, 0));
    pass_delay(&mut t, 10);
    assert_eq!(t.bodies("q"), ["a"]);

    // In a transaction, and into an exchange that leads to itself.
    t.bind_exchange(ch, "later", "", "later");
    let ch = t.client();
    t.tx_select(ch);
    t.publish_with(ch, message_with("x", "k", copy(), "b"), true);
    assert_eq!(waiting(&t), 0);
    t.tx_commit(ch);
    assert_eq!(waiting(&t), 1);
    pass_delay(&mut t, 10);
    assert_eq!(t.bodies("q"), ["a", "b"]);
    assert_eq!(waiting(&t), 0);
}

/// Out of its queue and to where it waits in one record, as of any dead letter.
#[test]
fn a_dead_letter_that_is_delayed_on_its_way_is_so_in_one_record() {
    let (mut t, ch) = queue();
    delayed_exchange(&mut t, ch, "fanout");
    t.exchange(ch, "x", "fanout");
    t.bind_exchange(ch, "x", "", "later");
    t.bind(ch, "later", "", "q");
    let declare = leveret_codec::QueueDeclare {
        durable: true,
        ..queue_declare_with(
            "first",
            [("x-dead-letter-exchange", FieldValue::LongString("x".into()))],
        )
    };
    t.method(ch, declare);
    let properties = Properties {
        delivery_mode: Some(2),
        ..x_delay(FieldValue::I32(10))
    };
    send(&mut t, ch, "first", properties, "a");
    t.get(ch, "first");
    t.facts();
    t.discard(ch, 1);
    let facts = t.facts();
    let [Fact::Together(facts)] = &facts[..] else {
        panic!("{facts:?}");
    };
    let [Fact::Settled { .. }, Fact::Published { .. }] = &facts[..] else {
        panic!("{facts:?}");
    };
    pass_delay(&mut t, 10);
    assert_eq!(t.bodies("q"), ["a"]);
}

#[test]
fn the_plugins_words_for_arguments_that_are_wrong() {
    let mut t = BrokerTest::new();
    let text = |text| FieldValue::LongString(String::from(text).into());
    let cases = [
        (
            table([]),
            "Invalid argument, 'x-delayed-type' must be an existing exchange type",
        ),
        (
            table([("x-delayed-type", text("x-delayed-message"))]),
            "Invalid argument, 'x-delayed-message' can't be used for 'x-delayed-type'",
        ),
        (
            table([("x-delayed-type", text("nonsense"))]),
            "unknown exchange type 'nonsense'",
        ),
    ];
    for (arguments, says) in cases {
        let ch = t.client();
        let declare = ExchangeDeclare {
            arguments,
            ..exchange_declare("later", "x-delayed-message")
        };
        t.method(ch, declare);
        t.expect_close(ch, 406, &format!("PRECONDITION_FAILED - {says}"));
    }
}

// ---- the log

/// A vhost with `max` octets of memory for them, and its log.
#[test]
fn nobody_sees_one_before_the_log_knows_that_it_waits_no_more() {
    let (mut t, ch) = queue();
    t.consume(ch, "q", "c");
    send(&mut t, ch, "q", kept_after(5), "kept");
    send(&mut t, ch, "q", after(5), "not kept");
    t.log = Log::Held;
    pass_delay(&mut t, 5);
    assert_eq!(
        t.take_deliveries().len(),
        0,
        "a crash would deliver it again"
    );
    t.publish(ch, "q", "behind them");
    assert_eq!(t.take_deliveries().len(), 0, "in its turn");
    t.sync();
    let came = t.take_deliveries();
    let bodies: Vec<&[u8]> = came.iter().map(|(_, _, message)| message.body()).collect();
    assert_eq!(bodies, [&b"kept"[..], b"not kept", b"behind them"]);
}

#[test]
fn very_many_leave_memory_and_come_back_in_time() {
    let (mut t, ch, mut log) = with_memory(8_000);
    for n in 0..1_000 {
        let ms = 100_000 - n * 10;
        send(&mut t, ch, "q", kept_after(ms), &format!("{:05}", ms));
    }
    log.take_in(&mut t);
    assert!(t.broker.metrics().paged_out > 800, "most are away");
    t.consume_no_ack(ch, "q", "c");
    let mut last = 0;
    let mut came = 0;
    pass(&mut t, 1);
    for ms in 1..=100_000 {
        pass(&mut t, 1);
        log.answer_all(&mut t);
        for (_, _, message) in t.take_deliveries() {
            let due: u64 = String::from_utf8_lossy(message.body())
                .parse()
                .expect("a time");
            assert_eq!(due, ms, "to the millisecond");
            assert!(due > last);
            last = due;
            came += 1;
        }
    }
    assert_eq!((came, waiting(&t)), (1_000, 0));
}

#[test]
fn very_many_that_are_due_at_once_come_in_order() {
    let (mut t, ch, mut log) = with_memory(8_000);
    for n in 0..1_000 {
        send(&mut t, ch, "q", kept_after(60_000), &n.to_string());
    }
    t.consume_no_ack(ch, "q", "c");
    let mut came = Vec::new();
    for _ in 0..200 {
        pass(&mut t, 1_000);
        log.answer_all(&mut t);
        came.extend(
            t.take_deliveries()
                .into_iter()
                .map(|(_, _, m)| m.body().to_vec()),
        );
    }
    let expected: Vec<_> = (0..1_000).map(|n| n.to_string().into_bytes()).collect();
    assert_eq!(came, expected);
}

#[test]
fn while_they_come_others_go() {
    let (mut t, ch, mut log) = with_memory(8_000);
    t.consume_no_ack(ch, "q", "c");
    let mut came = 0;
    for ms in (0..30_000_u64).step_by(10) {
        if ms < 20_000 {
            let body = (ms + 12_000).to_string();
            send(&mut t, ch, "q", kept_after(12_000), &body);
        }
        log.answer_all(&mut t);
        for (_, _, message) in t.take_deliveries() {
            let due = String::from_utf8_lossy(message.body()).parse();
            assert_eq!(due.map(|due: u64| due + 10), Ok(ms), "on time");
            came += 1;
        }
        pass(&mut t, 10);
    }
    assert!(t.broker.metrics().paged_in > 1_000, "most were away");
    log.answer_all(&mut t);
    came += t.take_deliveries().len();
    assert_eq!((came, waiting(&t)), (1_800, 200));
}

#[test]
fn an_answer_that_is_cut_off_loses_nothing() {
    let (mut t, ch, mut log) = with_memory(8_000);
    for n in 0..100 {
        // Of ever other sizes, so that an answer ends well below what it may hold.
        let body = "x".repeat(1 + n * 37 % 1_900);
        send(&mut t, ch, "q", kept_after(10_000), &body);
    }
    for _ in 0..200 {
        pass(&mut t, 100);
        log.answer_all(&mut t);
    }
    assert_eq!(t.broker.totals().ready, 100);
}

#[test]
fn after_a_restart_they_come_when_they_were_due_and_what_is_overdue_at_once() {
    let (mut t, ch) = queue();
    let mut log = Kept::default();
    for (ms, body) in [(5_000, "c"), (2_000, "b"), (1_000, "a"), (1_000_000, "d")] {
        send(&mut t, ch, "q", kept_after(ms), body);
    }
    log.take_in(&mut t);
    let mut now = t.now;
    now.wall.0 += 3_000;
    let mut t = log.restart(now, Limits::default());
    assert_eq!(waiting(&t), 4);
    pass(&mut t, 0);
    log.answer_all(&mut t);
    assert_eq!(t.bodies("q"), ["a", "b"]);
    pass(&mut t, 2_000);
    log.answer_all(&mut t);
    assert_eq!(t.bodies("q").len(), 2, "five seconds may not be over");
    pass(&mut t, 1);
    assert_eq!(t.bodies("q"), ["a", "b", "c"]);
    assert_eq!(waiting(&t), 1);
}

/// Two clocks were each rounded in their own way, so that a delay that outlived a start ended some
/// milliseconds too early.
#[test]
fn a_delay_is_not_too_short_over_a_restart() {
    for idle_ms in [0, 1, 7_777] {
        let (mut t, _) = queue();
        let mut log = Kept::default();
        log.take_in(&mut t);
        // The steady clock of a start goes by that start, not by when it is first needed, however
        // the clock on the wall was set meanwhile.
        let mut t2 = log.restart(t.now, Limits::default());
        pass(&mut t2, idle_ms);
        t2.now.wall.0 += 1;
        let ch2 = t2.client();
        send(&mut t2, ch2, "q", kept_after(1_000), "a");
        log.take_in(&mut t2);
        let asked = t2.now;
        let mut now = asked;
        now.wall.0 += 500 - 1; // put right again
        let mut t3 = log.restart(now, Limits::default());
        pass(&mut t3, 500);
        log.answer_all(&mut t3);
        assert_eq!(t3.broker.totals().ready, 0, "a second may not be over");
        pass(&mut t3, 1);
        log.answer_all(&mut t3);
        assert_eq!(t3.bodies("q"), ["a"]);
    }
}

#[test]
fn a_read_that_fails_is_tried_again() {
    let (mut t, ch, mut log) = with_memory(8_000);
    for n in 0..200 {
        send(&mut t, ch, "q", kept_after(60_000), &n.to_string());
    }
    log.take_in(&mut t);
    pass(&mut t, 59_000);
    let fetch = t.fetches.pop().expect("a fetch");
    t.step(Input::Fetched(Fetched {
        queue: fetch.queue,
        messages: Vec::new(),
        error: Some(LogError::Unavailable("not now".to_owned())),
    }));
    assert!(t.fetches.is_empty());
    for _ in 0..60 {
        pass(&mut t, 1_000);
        log.answer_all(&mut t);
    }
    assert_eq!(t.broker.totals().ready, 200);
}

/// What cannot be read at all is set aside, and holds up neither those behind it nor the others.
#[test]
fn one_that_cannot_be_read_holds_up_no_others() {
    let (mut t, ch, mut log) = with_memory(8_000);
    for n in 0..200 {
        send(&mut t, ch, "q", kept_after(60_000), &n.to_string());
    }
    let date = Properties {
        delivery_mode: Some(2),
        ..at(&t, 70_000)
    };
    send(&mut t, ch, "q", date, "by the clock on the wall");
    log.take_in(&mut t);
    pass(&mut t, 58_500);
    let bad = t.fetches.last().expect("a fetch").first;
    for _ in 0..30 {
        pass(&mut t, 1_000);
        while let Some(fetch) = t.fetches.last().copied() {
            if fetch.first == bad {
                t.fetches.pop();
                t.step(Input::Fetched(Fetched {
                    queue: fetch.queue,
                    messages: Vec::new(),
                    error: Some(LogError::Corrupt("a bad sector".to_owned())),
                }));
            } else {
                log.answer(&mut t);
            }
        }
    }
    assert_eq!((t.broker.totals().ready, waiting(&t)), (200, 0));
}

/// Their own time runs from when they are delivered: nothing expires while it waits, in memory, in
/// the log alone, or over a restart.
#[test]
fn the_time_of_a_delayed_message_starts_when_it_enters_its_queue() {
    let (mut t, ch, mut log) = with_memory(8_000);
    for n in 0..200 {
        let mut properties = kept_after(9_000);
        properties.expiration = Some("1000".into());
        send(&mut t, ch, "q", properties, &n.to_string());
    }
    log.take_in(&mut t);
    assert!(t.broker.metrics().paged_out > 0, "most are away");
    pass(&mut t, 3_000);
    log.answer_all(&mut t);
    assert_eq!(waiting(&t), 200);
    let mut now = t.now;
    now.wall.0 += 3_000;
    let limits = Limits {
        queue_memory_max: 8_000,
        ..Limits::default()
    };
    for mut t in [t, log.restart(now, limits)] {
        let mut log = log.clone();
        let left = if t.now.wall == now.wall { 3_000 } else { 6_000 };
        for _ in 0..left {
            pass(&mut t, 1);
            log.answer_all(&mut t);
        }
        assert_eq!((waiting(&t), t.broker.totals().ready), (200, 0));
        pass(&mut t, 1);
        log.answer_all(&mut t);
        let ready = t.broker.totals().ready;
        assert!(ready > 0, "those that were back are there");
        pass(&mut t, 999);
        log.answer_all(&mut t);
        assert_eq!(t.broker.metrics().expired, 0);
        assert_eq!((waiting(&t), t.broker.totals().ready), (0, 200));
        for _ in 0..2_000 {
            pass(&mut t, 1);
            log.answer_all(&mut t);
        }
        assert_eq!(t.broker.metrics().expired, 200);
        assert_eq!(t.broker.totals().ready, 0);
    }
}

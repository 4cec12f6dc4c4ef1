//! Delayed messages that are looked for, most of them in the log.

mod common;

use common::delays::*;
use common::kept::Kept;
use common::*;
use leveret_codec::{FieldValue, Properties};
use leveret_core::Input;
use leveret_core::log::{Fetched, LogError};

fn about(action: &str, id: &str, more: &[(&'static str, FieldValue)]) -> Properties {
    let text = |text: &str| FieldValue::LongString(text.to_owned().into());
    let mut properties = headers([
        ("x-delayed-action", text(action)),
        ("x-delayed-id", text(id)),
    ]);
    let table = properties.headers.get_or_insert_default();
    for (name, value) in more {
        table.insert(*name, value.clone());
    }
    properties
}

/// Five hundred of a KiB or so, nearly all of them in the log alone.
fn far_away() -> (BrokerTest, Chan, Kept) {
    let (mut t, ch, mut log) = with_memory(8_000);
    for n in 0..500 {
        let properties = Properties {
            message_id: Some(format!("id-{n}").into()),
            ..kept_after(1_000_000 + n * 10)
        };
        send(&mut t, ch, "q", properties, &"x".repeat(9_000));
    }
    log.take_in(&mut t);
    (t, ch, log)
}

/// Only those in memory were found by their message-id, and none of the others could be moved.
#[test]
fn one_that_is_in_the_log_alone_is_looked_at_moved_and_cancelled_by_either_id() {
    let (mut t, ch, mut log) = far_away();
    let away = t.broker.metrics().paged_out;
    assert!(away > 490, "{away}");
    let mut ask = |t: &mut BrokerTest, properties: Properties| -> Result<String, String> {
        let order = message_with("amq.schedule", "", properties, "");
        let mut pages = 0;
        loop {
            let answer = t.order(&order).map_err(|error| error.text)?;
            let answer = String::from_utf8(answer).expect("text");
            if answer != "later" {
                return Ok(format!("{pages} {answer}"));
            }
            // Until the look-up is over.
            assert!(log.answer(t), "the log is asked");
            pages += 1;
            assert!(pages < 10, "it has an end");
        }
    };
    let peeked = ask(&mut t, about("peek", "id-400", &[])).expect("it waits");
    let (pages, peeked) = peeked.split_once(' ').expect("two");
    assert!(
        peeked.contains(r#""message_id":"id-400""#) && peeked.contains("xxx"),
        "{peeked}"
    );
    assert!(matches!(pages, "3" | "4" | "5"), "a page is a MiB: {pages}");
    let id = peeked.find(r#""id":""#).map(|at| &peeked[at + 6..at + 22]);
    let id = id.expect("the broker's own").to_owned();
    // Each is in memory for as long as it takes.
    pass(&mut t, 10);
    t.broker.check_invariants();

    let again = ask(&mut t, about("peek", &id, &[])).expect("it waits");
    assert!(
        again.starts_with("1 {") && again.contains("id-400"),
        "one read: {again}"
    );
    let soon = [("x-deliver-after", FieldValue::I32(500))];
    let moved = ask(&mut t, about("retime", &id, &soon)).expect("moved");
    assert!(moved.contains("id-400"), "{moved}");
    ask(&mut t, about("retime", "id-300", &soon)).expect("moved");
    ask(&mut t, about("cancel", "id-200", &[])).expect("cancelled");
    let gone = ask(&mut t, about("cancel", "id-200", &[])).expect_err("it is gone");
    assert_eq!(gone, "NOT_FOUND - no delayed message 'id-200' in vhost '/'");
    assert_eq!(waiting(&t), 499);
    pass_delay(&mut t, 500);
    assert_eq!((t.broker.totals().ready, waiting(&t)), (2, 497));
    t.broker.check_invariants();

    // A client that asks waits, and so does what it says on that channel after that.
    t.confirm_select(ch);
    t.heard(ch);
    t.publish_with(
        ch,
        message_with("amq.schedule", "", about("cancel", "id-100", &[]), ""),
        false,
    );
    t.publish_with(ch, message_with("", "q", persistent(), "behind it"), false);
    assert_eq!(t.heard(ch), [""; 0], "it is looked for");
    log.answer_all(&mut t);
    let heard = t.heard(ch);
    assert!(
        heard
            .last()
            .is_some_and(|line| line.starts_with("confirm 2")),
        "{heard:?}"
    );
    assert_eq!((t.broker.totals().ready, waiting(&t)), (3, 496));
}

#[test]
fn a_look_up_that_cannot_be_read_is_refused_and_one_whose_client_leaves_is_dropped() {
    let (mut t, ch, mut log) = far_away();
    t.publish_with(
        ch,
        message_with("amq.schedule", "", about("peek", "id-9", &[]), ""),
        false,
    );
    let fetch = t.fetches.pop().expect("a fetch");
    t.step(Input::Fetched(Fetched {
        queue: fetch.queue,
        messages: Vec::new(),
        error: Some(LogError::Unavailable("not now".to_owned())),
    }));
    let text = "PRECONDITION_FAILED - delayed messages cannot be read from the log: not now";
    t.expect_close(ch, 406, text);
    let ch = t.client();
    t.publish_with(
        ch,
        message_with("amq.schedule", "", about("peek", "id-9", &[]), ""),
        false,
    );
    t.step(Input::Closed(ch.connection));
    log.answer_all(&mut t);
    pass(&mut t, 10);
    assert_eq!(waiting(&t), 500);
    t.broker.check_invariants();
}

fn ask(t: &mut BrokerTest, on: Chan, action: &str, id: &str) {
    let order = message_with("amq.schedule", "", about(action, id, &[]), "");
    t.publish_with(on, order, false);
}

/// The id of the last of those that wait, as a list shows it.
fn last_listed(t: &mut BrokerTest) -> String {
    let all = [("x-delayed-limit", FieldValue::I32(1_000))];
    let list = message_with("amq.schedule", "", about("list", "", &all), "");
    let list = t.order(&list).expect("a list");
    let list = String::from_utf8(list).expect("text");
    let at = list.rfind(r#""id":""#).expect("an id");
    list[at + 6..at + 22].to_owned()
}

/// Each answer of the log woke all who waited for any, and each of them asked again.
#[test]
fn an_answer_wakes_only_those_who_wait_for_it() {
    let (mut t, ch, mut log) = far_away();
    let listed = last_listed(&mut t);
    ask(&mut t, ch, "cancel", &listed);
    assert_eq!(waiting(&t), 499, "its place is known, that is enough");
    let listed = last_listed(&mut t);
    ask(&mut t, ch, "peek", &listed);
    let others: Vec<Chan> = (0..100).map(|_| t.client()).collect();
    for (n, &other) in others.iter().enumerate() {
        ask(&mut t, other, "cancel", &format!("id-{}", 300 + n));
    }
    assert_eq!(waiting(&t), 499, "they are looked for");
    let before = t.broker.work();
    assert!(log.answer(&mut t), "the log is asked");
    let work = t.broker.work() - before;
    assert!(work < 50, "one message was read, and one goes on: {work}");
    pass(&mut t, 1);
    for _ in 0..1_000 {
        log.answer_all(&mut t);
        pass(&mut t, 1);
    }
    assert_eq!(waiting(&t), 399, "all have had their turn");
    t.broker.check_invariants();
}

/// The usual race: it has just been delivered. All others were read to make sure of that.
#[test]
fn the_id_of_a_list_is_not_looked_for_when_it_does_not_wait_any_more() {
    let (mut t, ch, _log) = far_away();
    let listed = last_listed(&mut t);
    ask(&mut t, ch, "cancel", &listed);
    assert_eq!(waiting(&t), 499);
    ask(&mut t, ch, "cancel", &listed);
    let text = format!("NOT_FOUND - no delayed message '{listed}' in vhost '/'");
    t.expect_close(ch, 404, &text);
    assert!(t.fetches.is_empty(), "no read");
    // Longer than any message-id.
    let ch = t.client();
    ask(&mut t, ch, "cancel", &"x".repeat(256));
    assert!(t.fetches.is_empty(), "no read");
    // A message-id may look the same: it is found while it is in memory.
    let ch = t.client();
    let properties = Properties {
        message_id: Some("0123456789abcdef".into()),
        ..after(60_000)
    };
    send(&mut t, ch, "q", properties, "transient");
    assert_eq!(waiting(&t), 500);
    ask(&mut t, ch, "cancel", "0123456789abcdef");
    assert_eq!((waiting(&t), t.fetches.len()), (499, 0));
}

/// What nobody waited for any more was looked for all the same, and kept others out.
#[test]
fn what_nobody_waits_for_is_not_looked_for() {
    let (mut t, _, mut log) = far_away();
    let gone = t.connect();
    for n in 1..=256 {
        let chan = Chan {
            connection: gone,
            number: n,
        };
        t.open(chan);
        ask(&mut t, chan, "cancel", &format!("nobody-{n}"));
    }
    let ch = t.client();
    ask(&mut t, ch, "cancel", "id-400");
    let text = "RESOURCE_ERROR - too many delayed messages are looked for in the log at once";
    t.expect_close(ch, 506, text);
    t.step(Input::Closed(gone));
    t.broker.check_invariants();

    let order = message_with("amq.schedule", "", about("peek", "id-300", &[]), "");
    let user = std::sync::Arc::from("guest");
    let rights = leveret_core::Permissions::all();
    let mut fx = leveret_core::Effects::new();
    let later = t.broker.order(t.now, &user, &rights, &order, &mut fx);
    let Ok(leveret_core::Ordered::Later(number)) = later else {
        panic!("{later:?}");
    };
    t.broker.stop_waiting(number);
    t.broker.check_invariants();

    let ch = t.client();
    ask(&mut t, ch, "cancel", "id-400");
    for pages in 1.. {
        assert!(pages < 10, "only this one is looked for");
        log.answer(&mut t);
        if waiting(&t) == 499 {
            break;
        }
    }
    pass(&mut t, 1);
    assert!(t.fetches.is_empty(), "nothing is left to look for");
}

#[test]
fn as_many_may_wait_for_the_same_message_as_can_go_on_at_once() {
    let (mut t, _, mut log) = far_away();
    let all: Vec<Chan> = (0..257).map(|_| t.client()).collect();
    for &ch in &all {
        ask(&mut t, ch, "peek", "id-400");
    }
    let text = "RESOURCE_ERROR - too many wait for the same delayed message";
    t.expect_close(all[256], 506, text);
    log.answer_all(&mut t);
    for &ch in &all[..256] {
        t.publish(ch, "q", "goes on");
    }
    assert_eq!(t.broker.totals().ready, 256);
}

//! Deliveries and what becomes of them.

mod common;

use common::{BrokerTest, Chan};
use leveret_codec::{BasicGet, BasicRecover, BasicRecoverAsync};
use leveret_core::{Input, Outcome};

/// Queue `q` holding these messages, and a channel.
fn with_messages<const N: usize>(bodies: [&str; N]) -> (BrokerTest, Chan) {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.queue(ch, "q");
    t.publish_all(ch, "q", bodies);
    (t, ch)
}

#[test]
fn requeued_message_returns_to_its_old_place() {
    let (mut t, ch) = with_messages(["a", "b", "c"]);
    t.prefetch(ch, 1);
    t.consume(ch, "q", "tag");
    assert_eq!(t.heard(ch), ["tag: #1 a"]);
    t.requeue(ch, 1);
    assert_eq!(t.heard(ch), ["tag: #2 a again"]);
    t.cancel(ch, "tag");
    t.requeue(ch, 2);
    assert_eq!(t.bodies("q"), ["a", "b", "c"]);
}

#[test]
fn settling() {
    /// Delivery tag, `multiple`, and what becomes of it.
    type Settles<'a> = &'a [(u64, bool, Outcome)];
    let ack = Outcome::Ack;
    let back = Outcome::Nack { requeue: true };
    let away = Outcome::Nack { requeue: false };
    let reject = Outcome::Reject { requeue: false };
    let reject_back = Outcome::Reject { requeue: true };
    #[rustfmt::skip]
    let rows: [(&str, Settles<'_>, &[&str]); 10] = [
        ("nothing",                 &[],                                           &["a", "b", "c", "d"]),
        ("one",                     &[(2, false, ack)],                            &["a", "c", "d"]),
        ("all up to one",           &[(3, true, ack)],                             &["d"]),
        ("all",                     &[(0, true, ack)],                             &[]),
        ("all of nothing",          &[(0, true, ack), (0, true, ack)],             &[]),
        ("gaps in between",         &[(2, false, ack), (3, true, reject)],         &["d"]),
        ("back in any order",       &[(3, false, back), (1, false, reject_back), (2, false, back)], &["a", "b", "c", "d"]),
        ("several back",            &[(3, true, back)],                            &["a", "b", "c", "d"]),
        ("thrown away",             &[(1, false, away), (4, false, reject)],       &["b", "c"]),
        ("the last, then the rest", &[(4, false, ack), (3, true, back)],           &["a", "b", "c"]),
    ];
    for (what, settles, left) in rows {
        let (mut t, ch) = with_messages(["a", "b", "c", "d"]);
        t.consume(ch, "q", "tag");
        t.cancel(ch, "tag");
        for &(tag, multiple, outcome) in settles {
            t.settle(ch, tag, multiple, outcome);
        }
        assert!(!t.was_refused(ch.connection), "{what}");
        t.close(ch);
        assert_eq!(t.bodies("q"), left, "{what}");
        assert_eq!(t.broker.totals().unacked, 0, "{what}");
    }
}

#[test]
fn a_tag_that_is_not_outstanding_closes_the_channel() {
    #[rustfmt::skip]
    let rows: [(u64, bool, &str); 7] = [
        (1,        false, "settled before"),
        (1,        true,  "settled before, though others are outstanding"),
        (4,        false, "not delivered yet"),
        (4,        true,  "not delivered yet, though lower ones are outstanding"),
        (0,        false, "0 is nothing without `multiple`"),
        (u64::MAX, false, "as large as they get"),
        (u64::MAX, true,  "as large as they get"),
    ];
    for (tag, multiple, why) in rows {
        for outcome in [
            Outcome::Ack,
            Outcome::Nack { requeue: true },
            Outcome::Reject { requeue: false },
        ] {
            let (mut t, ch) = with_messages(["a", "b", "c"]);
            t.consume(ch, "q", "tag");
            t.ack(ch, 1);
            t.settle(ch, tag, multiple, outcome);
            let (closes_connection, error) = t.take_refusal(ch.connection);
            assert!(!closes_connection, "{why}");
            assert_eq!(
                error.text,
                format!("PRECONDITION_FAILED - unknown delivery tag {tag}"),
                "{why}"
            );
            assert_eq!(error.method, outcome.method_id(), "{why}");
            assert_eq!(t.bodies("q"), ["b", "c"], "{why}: what was unacked is back");
        }
    }
}

#[test]
fn without_acks_nothing_is_outstanding_but_tags_count_on() {
    let (mut t, ch) = with_messages(["a", "b"]);
    t.consume_no_ack(ch, "q", "auto");
    t.publish(ch, "q", "c");
    assert_eq!(t.heard(ch), ["auto: #1 a", "auto: #2 b", "auto: #3 c"]);
    t.queue(ch, "r");
    t.publish(ch, "r", "d");
    assert_eq!(t.get(ch, "r"), "get-ok #4 d, 0 left");
    t.ack_through(ch, 4);
    assert!(!t.was_refused(ch.connection));
    t.ack(ch, 3);
    t.expect_close(ch, 406, "PRECONDITION_FAILED - unknown delivery tag 3");
}

#[test]
fn get_tells_what_is_left() {
    let (mut t, ch) = with_messages(["a", "b"]);
    assert_eq!(t.get(ch, "q"), "get-ok #1 a, 1 left");
    assert_eq!(t.get(ch, "q"), "get-ok #2 b, 0 left");
    assert_eq!(t.get(ch, "q"), "basic.get-empty");
    t.requeue(ch, 1);
    let get = BasicGet {
        queue: common::short("q"),
        no_ack: true,
        ..BasicGet::default()
    };
    assert_eq!(t.ask(ch, get), ["get-ok #3 a again, 0 left"]);
    t.ack(ch, 2);
    assert_eq!(t.broker.totals().unacked, 0);
}

#[test]
fn recover_puts_everything_back_and_then_delivers_again() {
    for reply in [true, false] {
        let (mut t, ch) = with_messages(["a", "b", "c"]);
        t.consume(ch, "q", "tag");
        t.heard(ch);
        t.ack(ch, 2);
        let heard = if reply {
            t.ask(ch, BasicRecover { requeue: true })
        } else {
            t.ask(ch, BasicRecoverAsync { requeue: true })
        };
        let expected = ["basic.recover-ok", "tag: #4 a again", "tag: #5 c again"];
        assert_eq!(heard, expected[usize::from(!reply)..]);
    }
}

#[test]
fn deliveries_of_a_queue_that_is_gone_settle_into_nothing() {
    for outcome in [
        Outcome::Ack,
        Outcome::Nack { requeue: true },
        Outcome::Reject { requeue: false },
    ] {
        let (mut t, ch) = with_messages(["a", "b"]);
        let other = t.client();
        t.prefetch_shared(ch, 2);
        t.consume(ch, "q", "tag");
        t.delete_queue(other, "q");
        t.queue(other, "q");
        t.publish(other, "q", "new");
        t.settle(ch, 1, false, outcome);
        t.settle(ch, 2, true, outcome);
        assert!(!t.was_refused(ch.connection));
        assert_eq!(
            t.bodies("q"),
            ["new"],
            "the new queue of that name has nothing to do with it"
        );
        assert_eq!(t.broker.totals().unacked, 0);
    }
}

#[test]
fn a_cancelled_consumer_may_still_settle() {
    let (mut t, ch) = with_messages(["a", "b"]);
    t.prefetch(ch, 1);
    t.consume(ch, "q", "tag");
    t.cancel(ch, "tag");
    assert_eq!(t.heard(ch), ["tag: #1 a"]);
    t.ack(ch, 1);
    assert_eq!(t.heard(ch), [""; 0], "it gets nothing more");
    assert_eq!(t.bodies("q"), ["b"]);
}

#[test]
fn a_channel_returns_what_it_held_in_order_and_marked() {
    let (mut t, ch) = with_messages(["a", "b", "c", "d"]);
    let holder = t.client();
    t.prefetch(holder, 3);
    t.consume(holder, "q", "holder");
    t.ack(holder, 2);
    assert_eq!(t.heard(holder).len(), 4);
    t.publish(ch, "q", "e");
    t.close(holder);
    let reader = t.client();
    t.consume(reader, "q", "tag");
    let expected = [
        "tag: #1 a again",
        "tag: #2 c again",
        "tag: #3 d again",
        "tag: #4 e",
    ];
    assert_eq!(t.heard(reader), expected);
}

#[test]
fn what_a_gone_connection_held_goes_to_others_at_once() {
    let (mut t, ch) = with_messages(["a", "b"]);
    let gone = t.client();
    t.consume(gone, "q", "gone");
    t.consume(ch, "q", "tag");
    t.disconnect(gone.connection);
    assert_eq!(t.heard(ch), ["tag: #1 a again", "tag: #2 b again"]);
}

#[test]
fn a_channel_that_closes_gets_nothing_of_its_own_back() {
    let (mut t, ch) = with_messages(["a", "b"]);
    t.prefetch(ch, 1);
    t.consume(ch, "q", "one");
    t.consume(ch, "q", "two");
    t.heard(ch);
    t.method(ch, leveret_codec::ChannelClose::default());
    assert_eq!(t.heard(ch), ["channel.close-ok"]);
    assert_eq!(t.bodies("q"), ["a", "b"]);
}

/// A reader without a prefetch may hold very much; losing it is one merge for each queue.
#[test]
fn a_million_deliveries_return_quickly() {
    let mut t = BrokerTest::new();
    t.checked = false;
    let ch = t.client();
    t.queue(ch, "q");
    t.queue(ch, "r");
    t.consume(ch, "q", "one");
    t.consume(ch, "r", "two");
    for _ in 0..500 {
        let mut batch = Vec::new();
        for _ in 0..1_000 {
            batch.push(common::publish(ch, common::message("", "q", "m")));
            batch.push(common::publish(ch, common::message("", "r", "m")));
        }
        t.batch(ch.connection, batch);
        t.heard(ch);
        t.take_deliveries();
    }
    assert_eq!(t.broker.totals().unacked, 1_000_000);
    let took = common::took(|| t.step(Input::Closed(ch.connection)));
    assert_eq!(t.broker.totals().ready, 1_000_000);
    assert!(took.as_secs() < 3, "{took:?}");
    t.broker.check_invariants();
}

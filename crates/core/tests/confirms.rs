//! Publisher confirms.

mod common;

use common::{BrokerTest, Chan, Log, message, message_with, persistent, publish};
use leveret_codec::ConfirmSelect;
use leveret_core::{Command, Input, Lsn};

/// Durable queue `d`, transient queue `t`, and a channel in confirm mode.
fn publisher() -> (BrokerTest, Chan) {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.durable_queue(ch, "d");
    t.queue(ch, "t");
    t.confirm_select(ch);
    t.facts();
    (t, ch)
}

#[test]
fn what_is_promised_waits_for_the_log_and_the_rest_does_not() {
    #[rustfmt::skip]
    let rows = [
        // persistent  key        waits   why
        (true,         "d",       true,   "persistent in a durable queue"),
        (false,        "d",       false,  "transient"),
        (true,         "t",       false,  "the queue does not survive either"),
        (true,         "nobody",  false,  "unroutable is confirmed, not refused"),
    ];
    for (keep, key, waits, why) in rows {
        let (mut t, ch) = publisher();
        t.log = Log::Held;
        let properties = if keep {
            persistent()
        } else {
            Default::default()
        };
        t.publish_with(ch, message_with("", key, properties, "m"), false);
        let at_once = t.heard(ch);
        assert_eq!(at_once.is_empty(), waits, "{why}");
        t.sync();
        let after = t.heard(ch);
        assert_eq!([at_once, after].concat(), ["confirm 1"], "{why}");
    }
}

#[test]
fn confirms_keep_the_order_of_the_publishes() {
    let (mut t, ch) = publisher();
    t.log = Log::Held;
    t.publish(ch, "t", "1");
    assert_eq!(t.heard(ch), ["confirm 1"]);
    t.publish_persistent(ch, "", "d", "2");
    t.publish(ch, "t", "3"); // waits for the one before it
    t.publish_persistent(ch, "", "d", "4");
    assert_eq!(t.heard(ch), [""; 0]);
    t.step(Input::Durable(Lsn(2))); // 1 was the queue
    assert_eq!(t.heard(ch), ["confirm 3 multiple"]);
    t.step(Input::Durable(Lsn(2)));
    assert_eq!(t.heard(ch), [""; 0], "nothing is confirmed twice");
    t.step(Input::Durable(Lsn(3)));
    assert_eq!(t.heard(ch), ["confirm 4"]);
}

#[test]
fn a_turn_is_confirmed_at_once() {
    let (mut t, ch) = publisher();
    let batch = (0..5).map(|_| publish(ch, message("", "t", "m"))).collect();
    t.batch(ch.connection, batch);
    assert_eq!(t.heard(ch), ["confirm 5 multiple"]);
}

#[test]
fn what_was_taken_is_confirmed_before_the_channel_is_closed() {
    let (mut t, ch) = publisher();
    let mut batch: Vec<Command> = (0..2).map(|_| publish(ch, message("", "t", "m"))).collect();
    batch.push(publish(ch, message("missing", "", "m")));
    t.batch(ch.connection, batch);
    let text = "NOT_FOUND - no exchange 'missing' in vhost '/'";
    assert_eq!(
        t.heard(ch),
        ["confirm 2 multiple".to_owned(), format!("close {text}")]
    );
}

#[test]
fn a_return_comes_before_its_confirm() {
    let (mut t, ch) = publisher();
    let mandatory = |key: &str, body: &str| Command::Publish {
        channel: ch.number,
        mandatory: true,
        message: message("", key, body),
    };
    let batch = vec![
        mandatory("nobody", "a"),
        mandatory("t", "b"),
        mandatory("nobody", "c"),
    ];
    t.batch(ch.connection, batch);
    assert_eq!(
        t.heard(ch),
        ["return 312 a", "return 312 c", "confirm 3 multiple"]
    );
}

#[test]
fn numbers_start_with_the_mode_and_go_on_when_it_is_asked_for_again() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.queue(ch, "t");
    t.publish(ch, "t", "not counted");
    t.confirm_select(ch);
    t.publish(ch, "t", "1");
    assert_eq!(t.heard(ch), ["confirm 1"]);
    assert_eq!(t.ask(ch, ConfirmSelect { no_wait: true }), [""; 0]);
    t.publish(ch, "t", "2");
    assert_eq!(t.heard(ch), ["confirm 2"]);
}

#[test]
fn each_channel_is_confirmed_for_itself() {
    let (mut t, one) = publisher();
    let two = t.channel(one.connection);
    t.confirm_select(two);
    t.log = Log::Held;
    t.publish_persistent(one, "", "d", "1");
    t.publish_persistent(two, "", "d", "1");
    t.publish_persistent(one, "", "d", "2");
    t.sync();
    assert_eq!(t.heard(one), ["confirm 2 multiple"]);
    assert_eq!(t.heard(two), ["confirm 1"]);
}

#[test]
fn a_message_for_several_queues_is_one_promise() {
    let (mut t, ch) = publisher();
    t.durable_queue(ch, "e");
    for queue in ["d", "e", "t"] {
        t.bind(ch, "amq.fanout", "", queue);
    }
    t.sync();
    t.log = Log::Held;
    t.publish_persistent(ch, "amq.fanout", "", "m");
    assert_eq!(t.heard(ch), [""; 0]);
    t.sync();
    assert_eq!(t.heard(ch), ["confirm 1"]);
}

#[test]
fn a_refused_publish_is_not_confirmed() {
    let (mut t, ch) = publisher();
    t.publish_to(ch, "missing", "", "m");
    let text = "NOT_FOUND - no exchange 'missing' in vhost '/'";
    assert_eq!(t.heard(ch), [format!("close {text}")]);
}

#[test]
fn a_closed_channel_leaves_no_promise_behind() {
    let (mut t, ch) = publisher();
    t.log = Log::Held;
    t.publish_persistent(ch, "", "d", "m");
    t.close(ch);
    t.open(ch);
    t.confirm_select(ch);
    t.sync();
    assert_eq!(
        t.heard(ch),
        [""; 0],
        "the new channel of that number promised nothing yet"
    );
    t.publish(ch, "t", "m");
    assert_eq!(t.heard(ch), ["confirm 1"]);
}

#[test]
fn a_queue_deleted_before_the_log_caught_up_does_not_keep_the_confirm() {
    let (mut t, ch) = publisher();
    t.log = Log::Held;
    t.publish_persistent(ch, "", "d", "m");
    t.delete_queue(ch, "d");
    t.sync();
    assert_eq!(t.heard(ch), ["confirm 1"]);
}

#[test]
fn a_message_delivered_before_it_is_safe_is_not_confirmed_earlier() {
    let (mut t, ch) = publisher();
    t.consume_no_ack(ch, "d", "tag");
    t.log = Log::Held;
    t.publish_persistent(ch, "", "d", "m");
    assert_eq!(t.heard(ch), ["tag: #1 m"]);
    t.sync();
    assert_eq!(t.heard(ch), ["confirm 1"]);
}

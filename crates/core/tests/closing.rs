//! How channels and connections end, and what is still obeyed meanwhile.

mod common;

use common::{BrokerTest, Chan, command, message, publish, queue_declare};
use leveret_codec::{
    ChannelClose, ChannelCloseOk, ChannelOpen, ConnectionClose, ConnectionCloseOk, QueueDeclare,
    QueueDelete,
};
use leveret_core::{AmqpError, Command, Event, Input};

/// Closes the channel.
fn mistake(ch: Chan) -> Command {
    publish(ch, message("missing", "", "m"))
}

#[test]
fn a_refused_channel_obeys_nothing_until_close_ok() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.queue(ch, "q");
    let late = vec![
        mistake(ch),
        publish(ch, message("", "q", "m")),
        mistake(ch),
        command(ch, queue_declare("late")),
        command(ch, ChannelOpen::default()),
        Command::Settle {
            channel: ch.number,
            delivery_tag: 9,
            multiple: false,
            outcome: leveret_core::Outcome::Ack,
        },
        Command::Refuse {
            channel: ch.number,
            error: Box::new(AmqpError::precondition_failed("late")),
        },
    ];
    t.batch(ch.connection, late);
    assert_eq!(
        t.heard(ch),
        ["close NOT_FOUND - no exchange 'missing' in vhost '/'"]
    );
    assert_eq!(t.broker.totals().ready, 0);
    assert_eq!(t.broker.totals().queues, 1);
    t.method(ch, queue_declare("still late"));
    t.close_ok(ch);
    t.open(ch);
    assert_eq!(t.ask(ch, queue_declare("r")), ["queue.declare-ok r 0 0"]);
    t.take_refusal(ch.connection);
    t.close_ok(ch); // nobody asked
    let (connection, error) = t.take_refusal(ch.connection);
    assert!(
        connection,
        "the session has forgotten the channel, so it cannot go on"
    );
    assert_eq!(error.text, "COMMAND_INVALID - unimplemented method");
}

#[test]
fn both_sides_may_close_at_once() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.batch(
        ch.connection,
        vec![mistake(ch), command(ch, ChannelClose::default())],
    );
    let expected = [
        "close NOT_FOUND - no exchange 'missing' in vhost '/'",
        "channel.close-ok",
    ];
    assert_eq!(t.heard(ch), expected);
    t.close_ok(ch);
    t.open(ch);
}

#[test]
fn other_channels_of_a_refused_one_go_on() {
    let mut t = BrokerTest::new();
    let one = t.client();
    let two = t.channel(one.connection);
    t.batch(
        one.connection,
        vec![mistake(one), command(two, queue_declare("q"))],
    );
    assert_eq!(t.heard(two), ["queue.declare-ok q 0 0"]);
}

#[test]
fn answers_to_what_came_before_precede_the_close() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.batch(
        ch.connection,
        vec![command(ch, queue_declare("q")), mistake(ch)],
    );
    assert_eq!(t.heard(ch).len(), 2);
}

#[test]
fn a_refused_connection_obeys_nothing_more() {
    let mut t = BrokerTest::new();
    let one = t.client();
    let two = t.channel(one.connection);
    t.method(
        one,
        QueueDeclare {
            exclusive: true,
            ..queue_declare("mine")
        },
    );
    t.queue(two, "q");
    t.publish(two, "q", "m");
    t.get(two, "q");
    t.heard_all(one.connection);
    t.batch(
        one.connection,
        vec![
            command(one, ChannelOpen::default()), // it is open
            command(two, queue_declare("late")),
            publish(two, message("", "q", "late")),
            mistake(two),
            command(one, ConnectionClose::default()),
        ],
    );
    assert_eq!(
        t.heard_all(one.connection),
        ["0 close CHANNEL_ERROR - second 'channel.open' seen"]
    );
    assert_eq!(t.broker.totals().channels, 0);
    assert_eq!(t.broker.totals().queues, 1, "what was exclusive is gone");
    assert_eq!(t.bodies("q"), ["m"], "and what was unacked is back");
    t.method(one, ConnectionCloseOk {});
    t.disconnect(one.connection);
    t.disconnect(one.connection); // twice is fine
    assert_eq!(t.broker.totals().connections, 0);
}

#[test]
fn a_client_that_closes_is_answered_after_its_things_are_gone() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.method(
        ch,
        QueueDeclare {
            exclusive: true,
            ..queue_declare("mine")
        },
    );
    t.heard(ch);
    let zero = Chan { number: 0, ..ch };
    t.batch(
        ch.connection,
        vec![
            command(zero, ConnectionClose::default()),
            command(ch, queue_declare("late")),
        ],
    );
    assert_eq!(t.heard_all(ch.connection), ["0 connection.close-ok"]);
    assert_eq!(t.broker.totals().queues, 0);
    t.step(Input::Evict(ch.connection, "shutdown".to_owned()));
    assert_eq!(t.heard_all(ch.connection), [""; 0], "it is closing already");
}

#[test]
fn an_operator_may_close_a_connection() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.queue(ch, "q");
    t.consume(ch, "q", "tag");
    let reason = "broker forced connection closure with reason 'shutdown'";
    t.step(Input::Evict(ch.connection, reason.to_owned()));
    let (closes_connection, error) = t.take_refusal(ch.connection);
    assert!(closes_connection);
    assert_eq!(error.code.value(), 320);
    assert_eq!(error.text, format!("CONNECTION_FORCED - {reason}"));
    assert_eq!(error.method, (0, 0));
    assert_eq!(t.broker.totals().consumers, 0);
}

#[test]
fn nothing_of_a_closing_connection_is_delivered_to_it_again() {
    let mut t = BrokerTest::new();
    let one = t.client();
    let two = t.channel(one.connection);
    let other = t.client();
    t.queue(other, "q");
    for ch in [one, two] {
        t.prefetch(ch, 1);
        t.consume(ch, "q", "tag");
    }
    t.publish_all(other, "q", ["a", "b", "c"]);
    assert_eq!(t.heard_all(one.connection).len(), 2);
    t.disconnect(one.connection);
    assert_eq!(t.heard_all(one.connection), [""; 0]);
    t.consume(other, "q", "tag");
    let heard = t.heard(other);
    assert_eq!(heard, ["tag: #1 a again", "tag: #2 b again", "tag: #3 c"]);
}

#[test]
fn commands_of_a_connection_nobody_knows_are_dropped() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.disconnect(ch.connection);
    t.batch(
        ch.connection,
        vec![
            publish(ch, message("", "q", "m")),
            command(ch, queue_declare("q")),
        ],
    );
    t.step(Input::Drained(ch.connection, 1_000));
    t.step(Input::Evict(ch.connection, String::new()));
    assert_eq!(t.heard_all(ch.connection), [""; 0]);
    assert_eq!(t.broker.totals().queues, 0);
}

#[test]
fn a_channel_number_never_opened_is_ignored() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    let never = Chan {
        number: u16::MAX,
        ..ch
    };
    t.batch(
        ch.connection,
        vec![
            publish(never, message("", "q", "m")),
            command(never, ChannelCloseOk {}),
        ],
    );
    assert_eq!(t.heard_all(ch.connection), [""; 0]);
    t.open(never);
    t.close(never);
}

#[test]
fn the_session_may_refuse_a_content() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    let error =
        AmqpError::precondition_failed("message size 9 is larger than configured max size 8");
    let refuse = Command::Refuse {
        channel: ch.number,
        error: Box::new(error.clone().of_method((60, 40))),
    };
    t.command(ch.connection, refuse);
    let (closes_connection, refused) = t.take_refusal(ch.connection);
    assert!(!closes_connection);
    assert_eq!((refused.text, refused.method), (error.text, (60, 40)));
}

#[test]
fn refusals_are_told_to_the_operator() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.command(ch.connection, mistake(ch));
    t.heard(ch);
    t.close_ok(ch);
    t.open(ch);
    t.method(ch, ChannelOpen::default());
    assert!(matches!(
        t.events.as_slice(),
        [
            Event::ChannelRefused { channel: 1, .. },
            Event::ConnectionRefused { .. }
        ]
    ));
    assert_eq!(t.broker.metrics().channel_errors, 1);
    assert_eq!(t.broker.metrics().connection_errors, 1);
}

#[test]
fn a_channel_that_deletes_its_own_queue_and_fails_in_one_batch() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.queue(ch, "q");
    t.publish_all(ch, "q", ["a", "b"]);
    t.prefetch_shared(ch, 1);
    t.consume(ch, "q", "tag");
    let delete = QueueDelete {
        queue: common::short("q"),
        ..QueueDelete::default()
    };
    t.batch(ch.connection, vec![command(ch, delete), mistake(ch)]);
    assert_eq!(t.broker.totals().unacked, 0);
    assert_eq!(t.broker.totals().consumers, 0);
}

//! Direct reply-to.

mod common;

use common::{BrokerTest, Chan, basic_consume, headers, keys, message_with, queue_declare, short};
use leveret_codec::{BasicCancel, BasicConsume, BasicGet, Properties, QueueDelete};
use leveret_core::{Limits, Message};

const REPLY_TO: &str = "amq.rabbitmq.reply-to";

fn reply_consumer(tag: &str) -> BasicConsume<'static> {
    BasicConsume {
        no_ack: true,
        ..basic_consume(REPLY_TO, tag)
    }
}

fn request() -> Message {
    let properties = Properties {
        reply_to: Some(REPLY_TO.into()),
        ..Properties::default()
    };
    message_with("", "server", properties, "question")
}

/// A client that waits for replies, a server that got its request, and the address to reply to.
fn conversation(limits: Limits) -> (BrokerTest, Chan, Chan, String) {
    let mut t = BrokerTest::with_limits(limits);
    let server = t.client();
    t.queue(server, "server");
    t.consume_no_ack(server, "server", "server");
    let client = t.client();
    t.consume_with(client, reply_consumer("replies"));
    t.publish_with(client, request(), false);
    assert_eq!(t.heard(server), ["server: #1 question"]);
    let properties = t.take_delivery().properties();
    let address = String::from_utf8_lossy(&properties.reply_to.expect("an address")).into_owned();
    (t, server, client, address)
}

#[test]
fn a_reply_goes_straight_to_the_channel_that_asked() {
    let (mut t, server, client, address) = conversation(Limits::default());
    assert!(address.starts_with("amq.rabbitmq.reply-to."));
    t.publish(server, &address, "answer");
    assert_eq!(t.heard(client), ["replies: #1 answer"]);
    let answer = t.take_delivery();
    assert_eq!((answer.exchange(), answer.routing_key()), ("", &*address));
    t.publish(server, &address, "another");
    assert_eq!(
        t.heard(client),
        ["replies: #1 another"],
        "the tag is not used up"
    );
    assert_eq!(t.broker.totals().queues, 1, "there is no queue");
}

#[test]
fn an_address_ends_with_its_consumer() {
    type End = fn(&mut BrokerTest, Chan);
    #[rustfmt::skip]
    let rows: [(&str, End); 3] = [
        ("cancel",     |t, ch| t.cancel(ch, "replies")),
        ("close",      |t, ch| t.close(ch)),
        ("disconnect", |t, ch| t.disconnect(ch.connection)),
    ];
    for (how, end) in rows {
        let (mut t, server, client, address) = conversation(Limits::default());
        end(&mut t, client);
        t.publish_with(
            server,
            message_with("", &address, Properties::default(), "late"),
            true,
        );
        assert_eq!(t.heard(server), ["return 312 late"], "{how}");
        assert_eq!(
            t.counts(server, &address),
            format!("close NOT_FOUND - no queue '{address}' in vhost '/'"),
            "{how}"
        );
    }
}

#[test]
fn addresses_differ_and_cannot_be_made_up() {
    let (mut t, server, client, address) = conversation(Limits::default());
    t.cancel(client, "replies");
    t.consume_with(client, reply_consumer("replies"));
    t.publish_with(client, request(), false);
    let second = t.take_delivery().properties().reply_to.unwrap();
    assert_ne!(second, address.as_bytes());
    for made_up in [REPLY_TO, "amq.rabbitmq.reply-to.", &address] {
        t.publish_with(
            server,
            message_with("", made_up, Properties::default(), "m"),
            true,
        );
    }
    t.heard(client);
    assert_eq!(t.heard(server)[1..], ["return 312 m"; 3]);
}

#[test]
fn refusals() {
    let acknowledging = BasicConsume {
        no_ack: false,
        ..reply_consumer("b")
    };
    #[rustfmt::skip]
    let rows = [
        (acknowledging,           406, "PRECONDITION_FAILED - reply consumer cannot acknowledge", "judged before the next"),
        (reply_consumer("b"),     406, "PRECONDITION_FAILED - reply consumer already set",        "one a channel"),
        (reply_consumer("replies"), 530, "NOT_ALLOWED - attempt to reuse consumer tag 'replies'", "its tag is a tag"),
        (basic_consume("server", "replies"), 530, "NOT_ALLOWED - attempt to reuse consumer tag 'replies'", "for others as well"),
    ];
    for (consume, code, text, why) in rows {
        let (mut t, _, client, _) = conversation(Limits::default());
        t.method(client, consume);
        let (_, error) = t.take_refusal(client.connection);
        assert_eq!((error.code.value(), &*error.text), (code, text), "{why}");
    }
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.publish_with(ch, request(), false);
    t.expect_close(
        ch,
        406,
        "PRECONDITION_FAILED - fast reply consumer does not exist",
    );
}

#[test]
fn another_address_in_reply_to_is_none_of_our_business() {
    let (mut t, _, client, _) = conversation(Limits::default());
    let properties = Properties {
        reply_to: Some("amq.rabbitmq.reply-to.else".into()),
        ..Properties::default()
    };
    t.publish_with(
        client,
        message_with("", "server", properties.clone(), "m"),
        false,
    );
    assert_eq!(t.take_delivery().properties(), properties);
}

#[test]
fn declaring_an_address_asks_whether_it_is_there() {
    let (mut t, server, client, address) = conversation(Limits::default());
    assert_eq!(
        t.counts(server, &address),
        format!("queue.declare-ok {address} 0 1")
    );
    assert_eq!(
        t.ask(server, queue_declare(&address)),
        [format!("queue.declare-ok {address} 0 1")]
    );
    assert_eq!(
        t.counts(client, REPLY_TO),
        format!("queue.declare-ok {REPLY_TO} 0 1")
    );
    assert_eq!(
        t.counts(server, REPLY_TO),
        format!("close NOT_FOUND - no queue '{REPLY_TO}' in vhost '/'"),
        "it is the client's, not the server's"
    );
}

#[test]
fn an_address_is_no_queue() {
    let (mut t, server, _, address) = conversation(Limits::default());
    let delete = QueueDelete {
        queue: short(&address),
        ..QueueDelete::default()
    };
    assert_eq!(t.ask(server, delete), ["queue.delete-ok 0"]);
    let get = BasicGet {
        queue: short(&address),
        ..BasicGet::default()
    };
    let text = format!("NOT_FOUND - no queue '{address}' in vhost '/'");
    assert_eq!(t.ask(server, get), [format!("close {text}")]);
}

#[test]
fn a_reply_is_confirmed_and_counts_as_routed() {
    let (mut t, server, client, address) = conversation(Limits::default());
    t.confirm_select(server);
    t.publish_with(
        server,
        message_with("", &address, common::persistent(), "answer"),
        true,
    );
    assert_eq!(t.heard(server), ["confirm 1"]);
    assert_eq!(t.heard(client).len(), 1);
    t.disconnect(client.connection);
    t.publish(server, &address, "late");
    assert_eq!(t.heard(server), ["confirm 2"]);
}

#[test]
fn a_reply_with_copies_goes_to_all_of_its_keys() {
    let (mut t, server, client, address) = conversation(Limits::default());
    let properties = headers([("CC", keys(["server"]))]);
    t.publish_with(
        server,
        message_with("", &address, properties, "answer"),
        false,
    );
    assert_eq!(t.heard(client), ["replies: #1 answer"]);
    assert_eq!(t.heard(server), ["server: #2 answer"]);
    let properties = headers([("BCC", keys([&*address]))]);
    t.publish_with(
        server,
        message_with("", "server", properties, "again"),
        false,
    );
    assert_eq!(t.heard(client), ["replies: #1 again"]);
}

#[test]
fn replies_to_a_reader_that_is_too_slow_are_dropped_and_counted() {
    let (mut t, server, client, address) = conversation(Limits {
        outbox_bytes_max: 300,
        ..Limits::default()
    });
    t.slow_reader(client.connection);
    for _ in 0..5 {
        t.publish(server, &address, "answer");
    }
    assert_eq!(t.heard(client).len(), 2);
    assert_eq!(t.broker.metrics().replies_dropped, 3);
    t.drain(client.connection);
    t.publish(server, &address, "answer");
    assert_eq!(t.heard(client).len(), 1);
}

#[test]
fn cancel_is_answered_and_makes_room_for_another() {
    let (mut t, _, client, _) = conversation(Limits::default());
    let cancel = BasicCancel {
        consumer_tag: short("replies"),
        no_wait: false,
    };
    assert_eq!(t.ask(client, cancel), ["basic.cancel-ok replies"]);
    assert_eq!(
        t.ask(client, reply_consumer("new")),
        ["basic.consume-ok new"]
    );
}

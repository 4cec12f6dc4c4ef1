//! What is refused: with which code and text, and who is closed.

mod common;

use common::{
    BrokerTest, Chan, basic_consume, exchange_declare, headers, keys, message, message_with,
    peer_with_rights, publish, queue_declare, queue_declare_with, short, table,
};
use leveret_codec::{
    AccessRequest, BasicCancelOk, BasicConsume, BasicDeliver, BasicGet, BasicQos, BasicRecover,
    BasicRecoverAsync, ChannelFlowOk, ConnectionStart, ExchangeBind, ExchangeDeclare,
    ExchangeDelete, ExchangeUnbind, FieldTable, FieldValue, Method, Properties, QueueBind,
    QueueDeclare, QueueDelete, QueuePurge, QueueUnbind, TxCommit,
};
use leveret_core::{Command, Message, Peer};

/// What there is before each row.
///
/// Queues `q` (transient, one message), `args` (with arguments) and `locked` (another connection's);
/// exchanges `x` (direct, with an alternate), `inner` (internal), `fan` and `head`.
fn world(peer: Peer) -> (BrokerTest, Chan) {
    let mut t = BrokerTest::new();
    let owner = t.client();
    t.queue(owner, "q");
    t.publish(owner, "q", "m");
    let arguments = [
        ("x-max-length", FieldValue::from(5_i64)),
        ("x-dead-letter-exchange", "dlx".into()),
    ];
    t.method(owner, queue_declare_with("args", arguments));
    let locked = QueueDeclare {
        exclusive: true,
        ..queue_declare("locked")
    };
    t.method(owner, locked);
    let x = ExchangeDeclare {
        arguments: table([("alternate-exchange", "fan".into())]),
        ..exchange_declare("x", "direct")
    };
    t.method(owner, x);
    let inner = ExchangeDeclare {
        internal: true,
        ..exchange_declare("inner", "fanout")
    };
    t.method(owner, inner);
    t.exchange(owner, "fan", "fanout");
    t.exchange(owner, "head", "headers");
    t.bind(owner, "x", "k", "q");
    t.bind(owner, "x", "k", "locked");
    let connection = t.connect_as(peer);
    let ch = t.channel(connection);
    (t, ch)
}

/// Each command is refused in a world of its own, and leaves nothing behind but the refusal.
#[track_caller]
fn refuse_each(peer: &Peer, rows: Vec<(Command, u16, &str)>) {
    for (command, code, text) in rows {
        let method = match &command {
            Command::Publish { .. } => (60, 40),
            Command::Method { method, .. } => method.id(),
            other => panic!("{other:?}"),
        };
        let (mut t, ch) = world(peer.clone());
        let before = t.broker.totals();
        t.command(ch.connection, command);
        let (closes_connection, error) = t.take_refusal(ch.connection);
        assert_eq!((error.code.value(), error.text.as_str()), (code, text));
        assert_eq!(
            closes_connection,
            code >= 500 || code == 320 || code == 402,
            "{text}"
        );
        assert_eq!(error.method, method, "{text}");
        let after = t.broker.totals();
        assert_eq!(
            (
                after.queues,
                after.exchanges,
                after.bindings,
                after.consumers,
                after.ready
            ),
            (
                before.queues,
                before.exchanges,
                before.bindings,
                before.consumers,
                before.ready
            ),
            "{text}"
        );
    }
}

/// A method on the first channel of a connection.
fn on_1(method: impl Into<Method<'static>>) -> Command {
    Command::Method {
        channel: 1,
        method: Box::new(method.into()),
    }
}

fn publish_1(message: Message) -> Command {
    Command::Publish {
        channel: 1,
        mandatory: false,
        message,
    }
}

fn bind(exchange: &str, queue: &str) -> QueueBind<'static> {
    QueueBind {
        queue: short(queue),
        exchange: short(exchange),
        routing_key: short("new"),
        ..QueueBind::default()
    }
}

fn unbind(exchange: &str, queue: &str) -> QueueUnbind<'static> {
    QueueUnbind {
        queue: short(queue),
        exchange: short(exchange),
        routing_key: short("k"),
        ..QueueUnbind::default()
    }
}

fn bind_exchange(source: &str, destination: &str) -> ExchangeBind<'static> {
    ExchangeBind {
        source: short(source),
        destination: short(destination),
        ..ExchangeBind::default()
    }
}

fn unbind_exchange(source: &str, destination: &str) -> ExchangeUnbind<'static> {
    ExchangeUnbind {
        source: short(source),
        destination: short(destination),
        ..ExchangeUnbind::default()
    }
}

fn delete_exchange(exchange: &str) -> ExchangeDelete<'static> {
    ExchangeDelete {
        exchange: short(exchange),
        ..ExchangeDelete::default()
    }
}

fn delete_queue(queue: &str) -> QueueDelete<'static> {
    QueueDelete {
        queue: short(queue),
        ..QueueDelete::default()
    }
}

fn purge(queue: &str) -> QueuePurge<'static> {
    QueuePurge {
        queue: short(queue),
        ..QueuePurge::default()
    }
}

fn get(queue: &str) -> BasicGet<'static> {
    BasicGet {
        queue: short(queue),
        ..BasicGet::default()
    }
}

#[test]
fn exchanges() {
    let passive = |name| ExchangeDeclare {
        passive: true,
        ..exchange_declare(name, "nonsense")
    };
    let with_alternate = |name, alternate: FieldValue| ExchangeDeclare {
        arguments: table([("alternate-exchange", alternate)]),
        ..exchange_declare(name, "direct")
    };
    let x = || with_alternate("x", "fan".into());
    let default = "ACCESS_REFUSED - operation not permitted on the default exchange";
    #[rustfmt::skip]
    refuse_each(&common::peer(), vec![
        (on_1(exchange_declare("", "nonsense")), 406, "PRECONDITION_FAILED - unknown exchange type 'nonsense'"),
        (on_1(exchange_declare("", "direct")), 403, default),
        (on_1(exchange_declare("\r\n", "direct")), 403, default),
        (on_1(exchange_declare("amq.new", "direct")), 403, "ACCESS_REFUSED - exchange name 'amq.new' contains reserved prefix 'amq.*'"),
        (on_1(with_alternate("new", 1.into())), 406, "PRECONDITION_FAILED - invalid type 'signedint' for arg 'alternate-exchange' in exchange 'new' in vhost '/'"),
        (on_1(exchange_declare("x", "fanout")), 406, "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'x' in vhost '/': received 'fanout' but current is 'direct'"),
        (on_1(ExchangeDeclare { durable: true, ..x() }), 406, "PRECONDITION_FAILED - inequivalent arg 'durable' for exchange 'x' in vhost '/': received 'true' but current is 'false'"),
        (on_1(ExchangeDeclare { auto_delete: true, ..x() }), 406, "PRECONDITION_FAILED - inequivalent arg 'auto_delete' for exchange 'x' in vhost '/': received 'true' but current is 'false'"),
        (on_1(ExchangeDeclare { internal: true, ..x() }), 406, "PRECONDITION_FAILED - inequivalent arg 'internal' for exchange 'x' in vhost '/': received 'true' but current is 'false'"),
        (on_1(with_alternate("x", "other".into())), 406, "PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for exchange 'x' in vhost '/': received 'other' but current is 'fan'"),
        (on_1(exchange_declare("x", "direct")), 406, "PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for exchange 'x' in vhost '/': received none but current is the value 'fan' of type 'longstr'"),
        (on_1(ExchangeDeclare { kind: short("fanout"), ..with_alternate("fan", "x".into()) }), 406, "PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for exchange 'fan' in vhost '/': received the value 'x' of type 'longstr' but current is none"),
        (on_1(passive("")), 403, default),
        (on_1(passive("new")), 404, "NOT_FOUND - no exchange 'new' in vhost '/'"),
        (on_1(delete_exchange("")), 403, default),
        (on_1(delete_exchange("amq.direct")), 403, "ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed"),
        (on_1(ExchangeDelete { if_unused: true, ..delete_exchange("x") }), 406, "PRECONDITION_FAILED - exchange 'x' in vhost '/' in use"),
        (on_1(bind_exchange("", "x")), 403, default),
        (on_1(bind_exchange("x", "")), 403, default),
        (on_1(bind_exchange("new", "missing")), 404, "NOT_FOUND - no exchange 'new' in vhost '/'"),
        (on_1(bind_exchange("x", "missing")), 404, "NOT_FOUND - no exchange 'missing' in vhost '/'"),
        (on_1(unbind_exchange("", "x")), 403, default),
        (on_1(unbind_exchange("x", "")), 403, default),
    ]);
}

#[test]
fn queues() {
    let locked = "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'locked' in vhost '/'. It could be originally declared on another connection or the exclusive property value does not match that of the original declaration.";
    let q_locked = "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'. It could be originally declared on another connection or the exclusive property value does not match that of the original declaration.";
    let missing = "NOT_FOUND - no queue 'missing' in vhost '/'";
    let none = "NOT_FOUND - no previously declared queue";
    let passive = |name| QueueDeclare {
        passive: true,
        ..queue_declare(name)
    };
    let quorum = |name| queue_declare_with(name, [("x-queue-type", "quorum".into())]);
    let dlx = || ("x-dead-letter-exchange", FieldValue::from("dlx"));
    let args = |n: i32| queue_declare_with("args", [("x-max-length", n.into()), dlx()]);
    #[rustfmt::skip]
    refuse_each(&common::peer(), vec![
        (on_1(queue_declare("amq.rabbitmq.reply-to.x")), 404, "NOT_FOUND - no queue 'amq.rabbitmq.reply-to.x' in vhost '/'"),
        (on_1(quorum("")), 406, "PRECONDITION_FAILED - Cannot declare a server-named queue for type rabbit_quorum_queue"),
        (on_1(queue_declare("amq.mine")), 403, "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'"),
        (on_1(queue_declare("locked")), 405, locked),
        (on_1(QueueDeclare { exclusive: true, ..queue_declare("q") }), 405, q_locked),
        (on_1(QueueDeclare { durable: true, ..queue_declare("q") }), 406, "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received 'true' but current is 'false'"),
        (on_1(QueueDeclare { auto_delete: true, ..queue_declare("q") }), 406, "PRECONDITION_FAILED - inequivalent arg 'auto_delete' for queue 'q' in vhost '/': received 'true' but current is 'false'"),
        (on_1(args(10)), 406, "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'args' in vhost '/': received '10' but current is '5'"),
        (on_1(queue_declare_with("args", [dlx()])), 406, "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'args' in vhost '/': received none but current is the value '5' of type 'long'"),
        (on_1(queue_declare_with("q", [("x-max-length", 10.into())])), 406, "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q' in vhost '/': received the value '10' of type 'signedint' but current is none"),
        (on_1(QueueDeclare { durable: true, ..quorum("q") }), 406, "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received 'true' but current is 'false'"),
        (on_1(quorum("q")), 406, "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': received 'quorum' but current is 'classic'"),
        (on_1(QueueDeclare { auto_delete: true, ..quorum("new") }), 406, "PRECONDITION_FAILED - invalid property 'auto-delete' for queue 'new' in vhost '/'"),
        (on_1(QueueDeclare { exclusive: true, ..quorum("new") }), 406, "PRECONDITION_FAILED - invalid property 'exclusive-owner' for queue 'new' in vhost '/'"),
        (on_1(quorum("new")), 406, "PRECONDITION_FAILED - invalid property 'non-durable' for queue 'new' in vhost '/'"),
        (on_1(passive("missing")), 404, missing),
        (on_1(passive("")), 404, "NOT_FOUND - no queue '' in vhost '/'"),
        (on_1(passive("locked")), 405, locked),
        (on_1(bind("x", "")), 404, none),
        (on_1(bind("", "q")), 403, "ACCESS_REFUSED - operation not permitted on the default exchange"),
        (on_1(bind("new", "missing")), 404, "NOT_FOUND - no exchange 'new' in vhost '/'"),
        (on_1(bind("x", "missing")), 404, missing),
        (on_1(bind("x", "locked")), 405, locked),
        (on_1(QueueBind { arguments: table([("x-match", "bad".into())]), ..bind("head", "locked") }), 406, "PRECONDITION_FAILED - Invalid x-match field value <<\"bad\">>; expected all, any, all-with-x, or any-with-x"),
        (on_1(QueueBind { arguments: table([("x-match", 1.into())]), ..bind("head", "q") }), 406, "PRECONDITION_FAILED - Invalid x-match field type signedint (value 1); expected longstr"),
        (on_1(unbind("x", "")), 404, none),
        (on_1(unbind("", "q")), 403, "ACCESS_REFUSED - operation not permitted on the default exchange"),
        (on_1(unbind("x", "locked")), 405, locked),
        (on_1(purge("")), 404, none),
        (on_1(purge("missing")), 404, missing),
        (on_1(purge("locked")), 405, locked),
        (on_1(delete_queue("")), 404, none),
        (on_1(delete_queue("locked")), 405, locked),
        (on_1(QueueDelete { if_empty: true, ..delete_queue("q") }), 406, "PRECONDITION_FAILED - queue 'q' in vhost '/' not empty"),
    ]);
}

#[test]
fn arguments_of_queues() {
    let int = |n: i64| FieldValue::from(n);
    #[rustfmt::skip]
    let rows: Vec<(&str, FieldValue, &str)> = vec![
        ("x-expires",                 "1".into(),             "\"expected integer, got longstr\""),
        ("x-expires",                 FieldValue::from(true), "\"expected integer, got bool\""),
        ("x-expires",                 int(0),                 "{value_zero,0}"),
        ("x-expires",                 int(-1),                "{value_negative,-1}"),
        ("x-expires",                 int(315_360_000_001),   "{value_too_big,315360000001}"),
        ("x-message-ttl",             int(-1),                "{value_negative,-1}"),
        ("x-message-ttl",             int(i64::MIN),          "{value_negative,-9223372036854775808}"),
        ("x-message-ttl",             int(315_360_000_001),   "{value_too_big,315360000001}"),
        ("x-max-length",              int(-1),                "{value_negative,-1}"),
        ("x-max-length-bytes",        FieldValue::Void,       "\"expected integer, got void\""),
        ("x-max-priority",            int(256),               "{max_value_exceeded,256}"),
        ("x-dead-letter-routing-key", "k".into(),             "routing_key_but_no_dlx_defined"),
        ("x-dead-letter-routing-key", 1.into(),               "{unacceptable_type,signedint}"),
        ("x-overflow",                "nonsense".into(),      "invalid_overflow"),
        ("x-overflow",                1.into(),               "{unacceptable_type,signedint}"),
        ("x-single-active-consumer",  "yes".into(),           "{unacceptable_type,longstr}"),
        ("x-queue-mode",              "nonsense".into(),      "\"unsupported queue mode 'nonsense'\""),
        ("x-queue-mode",              1.into(),               "{unacceptable_type,signedint}"),
        ("x-queue-version",           int(3),                 "\"unsupported queue version '3'\""),
        ("x-queue-type",              "stream".into(),        "\"unsupported queue type 'stream'\""),
        ("x-queue-leader-locator",    "nowhere".into(),       "invalid_queue_locator_arg"),
    ];
    for (name, value, term) in rows {
        let text = format!(
            "PRECONDITION_FAILED - invalid arg '{name}' for queue 'new' in vhost '/': {term}"
        );
        let declare = queue_declare_with("new", [(name, value)]);
        refuse_each(&common::peer(), vec![(on_1(declare), 406, &text)]);
    }
    let quorum = QueueDeclare {
        durable: true,
        ..queue_declare_with(
            "new",
            [
                ("x-queue-type", "quorum".into()),
                ("x-max-priority", 5.into()),
            ],
        )
    };
    #[rustfmt::skip]
    refuse_each(&common::peer(), vec![
        (on_1(queue_declare_with("new", [("x-dead-letter-exchange", 1.into())])), 406, "PRECONDITION_FAILED - invalid type 'signedint' for arg 'x-dead-letter-exchange' in queue 'new' in vhost '/'"),
        (on_1(quorum), 406, "PRECONDITION_FAILED - invalid arg 'x-max-priority' for queue 'new' in vhost '/' of queue type rabbit_quorum_queue"),
        (on_1(queue_declare_with("new", [("x-expires", int(0)), ("x-queue-type", "x".into())])), 406, "PRECONDITION_FAILED - invalid arg 'x-queue-type' for queue 'new' in vhost '/': \"unsupported queue type 'x'\""),
    ]);
}

#[test]
fn basic() {
    let locked = "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'locked' in vhost '/'. It could be originally declared on another connection or the exclusive property value does not match that of the original declaration.";
    let missing = "NOT_FOUND - no queue 'missing' in vhost '/'";
    let none = "NOT_FOUND - no previously declared queue";
    let with_priority = |priority| BasicConsume {
        arguments: table([("x-priority", priority)]),
        ..basic_consume("q", "t")
    };
    let qos = BasicQos {
        prefetch_size: 1,
        ..BasicQos::default()
    };
    #[rustfmt::skip]
    refuse_each(&common::peer(), vec![
        (on_1(qos), 540, "NOT_IMPLEMENTED - prefetch_size!=0 (1)"),
        (on_1(basic_consume("", "t")), 404, none),
        (on_1(basic_consume("missing", "t")), 404, missing),
        (on_1(basic_consume("locked", "t")), 405, locked),
        (on_1(with_priority("high".into())), 406, "PRECONDITION_FAILED - invalid arg 'x-priority' for queue 'q' in vhost '/': \"expected integer, got longstr\""),
        (on_1(with_priority(FieldValue::Void)), 406, "PRECONDITION_FAILED - invalid arg 'x-priority' for queue 'q' in vhost '/': \"expected integer, got void\""),
        (on_1(with_priority(FieldTable::default().into())), 406, "PRECONDITION_FAILED - invalid arg 'x-priority' for queue 'q' in vhost '/': \"expected integer, got table\""),
        (on_1(get("")), 404, none),
        (on_1(get("missing")), 404, missing),
        (on_1(get("locked")), 405, locked),
        (on_1(BasicRecover { requeue: false }), 540, "NOT_IMPLEMENTED - requeue=false"),
        (on_1(BasicRecoverAsync { requeue: false }), 540, "NOT_IMPLEMENTED - requeue=false"),
        (on_1(TxCommit {}), 406, "PRECONDITION_FAILED - channel is not transactional"),
        (on_1(BasicDeliver::default()), 503, "COMMAND_INVALID - unimplemented method"),
        (on_1(ConnectionStart::default()), 503, "COMMAND_INVALID - unimplemented method"),
    ]);
}

#[test]
fn publish_is_checked_in_order() {
    let expiration = |text: &'static str| Properties {
        expiration: Some(text.into()),
        ..Properties::default()
    };
    let all_wrong = || Properties {
        headers: Some(common::field_table([("CC", "a".into())])),
        reply_to: Some("amq.rabbitmq.reply-to".into()),
        expiration: Some("x".into()),
        user_id: Some("bob".into()),
        ..Properties::default()
    };
    let no_reply = || Properties {
        reply_to: None,
        ..all_wrong()
    };
    let no_expiration = || Properties {
        expiration: None,
        ..no_reply()
    };
    let only_user = || Properties {
        headers: None,
        ..no_expiration()
    };
    let q = |properties| publish_1(message_with("", "q", properties, "m"));
    #[rustfmt::skip]
    refuse_each(&common::peer(), vec![
        (publish_1(message_with("missing", "q", all_wrong(), "m")), 404, "NOT_FOUND - no exchange 'missing' in vhost '/'"),
        (publish_1(message_with("inner", "q", all_wrong(), "m")), 403, "ACCESS_REFUSED - cannot publish to internal exchange 'inner' in vhost '/'"),
        (q(all_wrong()), 406, "PRECONDITION_FAILED - fast reply consumer does not exist"),
        (q(no_reply()), 406, "PRECONDITION_FAILED - invalid expiration 'x': no_integer"),
        (q(no_expiration()), 406, "PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,\"CC\",longstr}"),
        (q(only_user()), 406, "PRECONDITION_FAILED - user_id property set to 'bob' but authenticated user was 'guest'"),
        (q(headers([("BCC", 1.into())])), 406, "PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,\"BCC\",signedint}"),
        (q(headers([("BCC", 1.into()), ("CC", true.into())])), 406, "PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,\"CC\",bool}"),
        (q(expiration("")), 406, "PRECONDITION_FAILED - invalid expiration '': no_integer"),
        (q(expiration("10x")), 406, "PRECONDITION_FAILED - invalid expiration '10x': {leftover_string,\"x\"}"),
        (q(expiration("-1")), 406, "PRECONDITION_FAILED - invalid expiration '-1': {value_negative,-1}"),
        (q(expiration("99999999999999999999999999999999999999999999999999")), 406, "PRECONDITION_FAILED - invalid expiration '99999999999999999999999999999999999999999999999999': {value_too_big,99999999999999999999999999999999999999999999999999}"),
    ]);
}

#[test]
fn odd_properties_that_are_fine() {
    let user = |name: &'static str| Properties {
        user_id: Some(name.into()),
        ..Properties::default()
    };
    let impersonator = Peer {
        impersonator: true,
        ..common::peer()
    };
    let mixed = FieldValue::Array(vec![1.into(), "also".into(), FieldValue::Void]);
    #[rustfmt::skip]
    let rows = vec![
        (common::peer(), user("guest"),                       "its own name"),
        (impersonator,   user("bob"),                         "a right to speak for others"),
        (common::peer(), headers([("CC", mixed)]),            "what is no text among the keys is skipped"),
        (common::peer(), headers([("CC", keys([]))]),         "no keys at all"),
        (common::peer(), headers([("cc", 1.into())]),         "case counts"),
        (common::peer(), headers([("CCC", 1.into())]),        "the name has to be all of it"),
        (common::peer(), Properties { delivery_mode: Some(9), ..Properties::default() }, "only 2 is persistent"),
    ];
    for (peer, properties, why) in rows {
        let (mut t, ch) = world(peer);
        t.command(
            ch.connection,
            publish(ch, message_with("", "q", properties, "odd")),
        );
        assert!(!t.was_refused(ch.connection), "{why}");
        assert_eq!(t.bodies("q"), ["m", "odd"], "{why}");
    }
}

/// Rights: configure names with c, write names with w, read names with r.
#[test]
fn permissions_are_checked_before_existence() {
    let peer = peer_with_rights("c", "w", "r");
    let alternate = |name| ExchangeDeclare {
        arguments: table([("alternate-exchange", "other".into())]),
        ..exchange_declare(name, "fanout")
    };
    let dead_letter = |name| queue_declare_with(name, [("x-dead-letter-exchange", "other".into())]);
    let x_configure =
        "ACCESS_REFUSED - configure access to exchange 'x' in vhost '/' refused for user 'guest'";
    let q_configure =
        "ACCESS_REFUSED - configure access to queue 'q' in vhost '/' refused for user 'guest'";
    let q_write =
        "ACCESS_REFUSED - write access to queue 'q' in vhost '/' refused for user 'guest'";
    let q_read = "ACCESS_REFUSED - read access to queue 'q' in vhost '/' refused for user 'guest'";
    let x_read =
        "ACCESS_REFUSED - read access to exchange 'x' in vhost '/' refused for user 'guest'";
    #[rustfmt::skip]
    refuse_each(&peer, vec![
        (on_1(exchange_declare("x", "fanout")), 403, x_configure),
        (on_1(alternate("c")), 403, "ACCESS_REFUSED - read access to exchange 'c' in vhost '/' refused for user 'guest'"),
        (on_1(alternate("cr")), 403, "ACCESS_REFUSED - write access to exchange 'other' in vhost '/' refused for user 'guest'"),
        (on_1(delete_exchange("x")), 403, x_configure),
        (on_1(bind_exchange("x", "q")), 403, "ACCESS_REFUSED - write access to exchange 'q' in vhost '/' refused for user 'guest'"),
        (on_1(bind_exchange("x", "w")), 403, x_read),
        (on_1(unbind_exchange("x", "w")), 403, x_read),
        (on_1(queue_declare("q")), 403, q_configure),
        (on_1(dead_letter("c")), 403, "ACCESS_REFUSED - read access to queue 'c' in vhost '/' refused for user 'guest'"),
        (on_1(dead_letter("cr")), 403, "ACCESS_REFUSED - write access to exchange 'other' in vhost '/' refused for user 'guest'"),
        (on_1(bind("x", "q")), 403, q_write),
        (on_1(bind("x", "w")), 403, x_read),
        (on_1(bind("", "q")), 403, q_write),
        (on_1(bind("", "w")), 403, "ACCESS_REFUSED - operation not permitted on the default exchange"),
        (on_1(unbind("x", "q")), 403, q_write),
        (on_1(unbind("x", "w")), 403, x_read),
        (on_1(purge("q")), 403, q_read),
        (on_1(delete_queue("q")), 403, q_configure),
        (on_1(get("q")), 403, q_read),
        (on_1(basic_consume("q", "t")), 403, q_read),
        (publish_1(message("x", "k", "m")), 403, "ACCESS_REFUSED - write access to exchange 'x' in vhost '/' refused for user 'guest'"),
        (publish_1(message("missing", "k", "m")), 403, "ACCESS_REFUSED - write access to exchange 'missing' in vhost '/' refused for user 'guest'"),
    ]);
}

#[test]
fn passive_declarations_need_no_permission() {
    let (mut t, ch) = world(peer_with_rights("", "", ""));
    assert_eq!(t.counts(ch, "q"), "queue.declare-ok q 1 0");
    let declare = ExchangeDeclare {
        passive: true,
        ..exchange_declare("x", "")
    };
    assert_eq!(t.ask(ch, declare), ["exchange.declare-ok"]);
}

#[test]
fn what_servers_hear_and_need_not_answer() {
    let (mut t, ch) = world(common::peer());
    let cancel_ok = BasicCancelOk {
        consumer_tag: short("t"),
    };
    assert_eq!(t.ask(ch, cancel_ok), [""; 0]);
    assert_eq!(t.ask(ch, ChannelFlowOk { active: true }), [""; 0]);
    assert_eq!(t.ask(ch, AccessRequest::default()), ["access.request-ok"]);
    assert!(!t.was_refused(ch.connection));
}

//! Bytes that real clients and RabbitMQ itself have sent, recorded in `golden/*.hex`.
//!
//! Whatever we make of them must turn into the same bytes again: the broker passes tables and
//! properties on, and a client would notice.

use bytes::Bytes;
use leveret_codec::{
    ChannelClose, FRAME_BODY, FRAME_HEADER, FRAME_HEARTBEAT, FRAME_METHOD, FieldTable, FieldValue,
    Method, PROTOCOL_HEADER, Properties, RawFrame, ShortStr, encode_body, encode_header,
    encode_heartbeat, encode_method, parse_content_header, split_frame,
};

const PIKA: &str = include_str!("golden/pika.hex");
const GO: &str = include_str!("golden/amqp091-go.hex");
const NODE: &str = include_str!("golden/amqplib.hex");
const JAVA: &str = include_str!("golden/amqp-client.hex");
const RABBITMQ: &str = include_str!("golden/rabbitmq-server.hex");

const CLIENTS: [(&str, &str); 4] = [
    ("pika", PIKA),
    ("amqp091-go", GO),
    ("amqplib", NODE),
    ("amqp-client", JAVA),
];

/// The bytes of a recording. Lines with `#` say where it is from.
fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::chars)
        .map(|digit| digit.to_digit(16).expect("a hexadecimal digit"))
        .collect();
    let octet = |pair: &[u32]| u8::try_from(pair[0] * 16 + pair[1]).expect("two digits");
    digits.chunks_exact(2).map(octet).collect()
}

/// All frames, after the protocol header if it is the client who speaks.
fn frames(wire: &[u8]) -> Vec<(RawFrame<'_>, &[u8])> {
    let mut rest = wire.strip_prefix(&PROTOCOL_HEADER).unwrap_or(wire);
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let (frame, consumed) = split_frame(rest, 131_072)
            .expect("a valid frame")
            .expect("a whole frame");
        let (wire, after) = rest.split_at(consumed);
        frames.push((frame, wire));
        rest = after;
    }
    frames
}

fn methods(wire: &[u8]) -> Vec<Method<'_>> {
    frames(wire)
        .iter()
        .filter(|(frame, _)| frame.kind == FRAME_METHOD)
        .map(|(frame, _)| Method::parse(frame.payload).expect("a valid method"))
        .collect()
}

/// Properties of all messages.
fn properties(wire: &[u8]) -> Vec<Properties> {
    frames(wire)
        .iter()
        .filter(|(frame, _)| frame.kind == FRAME_HEADER)
        .map(|(frame, _)| {
            let header = parse_content_header(frame.payload).expect("a valid header");
            Properties::parse(header.flags, header.raw).expect("checked already")
        })
        .collect()
}

fn queue_arguments(wire: &[u8]) -> FieldTable {
    let declare = methods(wire).into_iter().find_map(|method| match method {
        Method::QueueDeclare(declare) => Some(declare),
        _ => None,
    });
    declare
        .expect("every client declares a queue")
        .arguments
        .parse()
}

#[test]
fn frames_are_written_as_they_were_read() {
    for (name, hex) in CLIENTS.into_iter().chain([("RabbitMQ", RABBITMQ)]) {
        for (frame, expected) in frames(&bytes(hex)) {
            let mut wire = Vec::new();
            match frame.kind {
                FRAME_METHOD => {
                    let method = Method::parse(frame.payload).expect("a valid method");
                    encode_method(&mut wire, frame.channel, &method);
                }
                FRAME_HEADER => {
                    let header = parse_content_header(frame.payload).expect("a valid header");
                    let properties =
                        Properties::parse(header.flags, header.raw).expect("checked already");
                    let mut raw = Vec::new();
                    let flags = properties.encode(&mut raw);
                    encode_header(&mut wire, frame.channel, header.body_size, flags, &raw);
                }
                FRAME_BODY => encode_body(&mut wire, frame.channel, frame.payload),
                FRAME_HEARTBEAT => encode_heartbeat(&mut wire),
                kind => panic!("{name} was not recorded sending frames of type {kind}"),
            }
            assert_eq!(wire, expected, "{name}");
        }
    }
}

#[test]
fn clients_send_what_they_were_told_to() {
    #[rustfmt::skip]
    let expected = [
        "connection.start-ok", "connection.tune-ok", "connection.open", "channel.open",
        "confirm.select", "basic.qos", "exchange.declare", "queue.declare", "queue.bind",
        "basic.publish", "basic.publish", "channel.close", "connection.close",
    ];
    for (client, hex) in CLIENTS {
        let wire = bytes(hex);
        assert!(wire.starts_with(&PROTOCOL_HEADER), "{client}");
        let mut methods = methods(&wire);
        let names: Vec<_> = methods.iter().map(Method::name).collect();
        assert_eq!(names, expected, "{client}");

        let Method::ConnectionStartOk(login) = methods.remove(0) else {
            panic!("{client} does not log in first");
        };
        assert_eq!(login.mechanism, "PLAIN", "{client}");
        assert_eq!(&*login.response, b"\0guest\0guest", "{client}");
        let capabilities = login.client_properties.parse();
        let capabilities = capabilities
            .get("capabilities")
            .and_then(FieldValue::as_table);
        let cancel = capabilities.and_then(|table| table.get("consumer_cancel_notify"));
        assert_eq!(cancel, Some(&FieldValue::Bool(true)), "{client}");
    }
}

/// What the clients make of the numbers of their languages. All of these mean the same to a queue.
#[test]
fn integers_arrive_in_all_widths() {
    #[rustfmt::skip]
    let table = [
        // recording  argument         as sent                          why this row is here
        (PIKA,        "x-max-length",  FieldValue::I32(1_000),          "the usual way"),
        (PIKA,        "x-big",         FieldValue::I64(1 << 40),        "pika picks what fits"),
        (GO,          "x-message-ttl", FieldValue::I64(60_000),         "an int64 of Go"),
        (GO,          "x-expires",     FieldValue::I32(1_800_000),      "an int of Go"),
        (GO,          "a-byte",        FieldValue::U8(7),               "B"),
        (GO,          "a-int16",       FieldValue::I16(-300),           "s is no short string"),
        (GO,          "a-uint16",      FieldValue::U16(60_000),         "u"),
        (GO,          "a-uint32",      FieldValue::U32(4_000_000_000),  "i"),
        (NODE,        "x-max-length",  FieldValue::I16(1_000),          "amqplib picks what fits, too"),
        (NODE,        "a-byte",        FieldValue::I8(7),               "and knows no unsigned numbers"),
        (NODE,        "a-int64",       FieldValue::I64(-1),             "unless told to"),
        (JAVA,        "x-message-ttl", FieldValue::I64(60_000),         "a long of Java"),
        (JAVA,        "a-short",       FieldValue::I16(-300),           "a short of Java"),
    ];
    for (recording, argument, expected, why) in table {
        let wire = bytes(recording);
        assert_eq!(
            queue_arguments(&wire).get(argument),
            Some(&expected),
            "{argument}: {why}"
        );
        assert!(expected.as_i64().is_some(), "{argument}");
    }
}

#[test]
fn clients_agree_on_everything_but_numbers() {
    for (client, hex) in CLIENTS {
        let arguments = queue_arguments(&bytes(hex));
        let octets = Bytes::from_static(&[0, 1, 255]);
        let decimal = FieldValue::Decimal {
            scale: 2,
            value: 12_345,
        };
        let inner = [("inner", "value")].into_iter().collect();
        #[rustfmt::skip]
        let table = [
            ("x-queue-type", FieldValue::from("classic")),
            ("a-bool",       FieldValue::Bool(true)),
            ("a-bytes",      FieldValue::ByteArray(octets)),
            ("a-time",       FieldValue::Timestamp(1_700_000_000)),
            ("a-decimal",    decimal),
            ("a-table",      FieldValue::Table(inner)),
        ];
        for (argument, expected) in table {
            assert_eq!(
                arguments.get(argument),
                Some(&expected),
                "{client}: {argument}"
            );
        }
        let Some(FieldValue::Array(list)) = arguments.get("a-list") else {
            panic!("{client} sends no list");
        };
        assert_eq!(list[0].as_str(), Some("one"), "{client}");
        assert_eq!(list[1].as_i64(), Some(2), "{client}");
        let three = list[2].as_table().and_then(|table| table.get("three"));
        assert_eq!(three.and_then(FieldValue::as_i64), Some(3), "{client}");
    }
}

#[test]
fn all_properties_arrive() {
    for (client, hex) in CLIENTS {
        let wire = bytes(hex);
        let messages = properties(&wire);
        let [full, bare] = messages.as_slice() else {
            panic!("{client} publishes {} messages", messages.len());
        };
        let text = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
        let expected = Properties {
            content_type: text("application/json"),
            content_encoding: text("utf-8"),
            headers: full.headers.clone(), // below
            delivery_mode: Some(2),
            priority: Some(9),
            correlation_id: text("corr-1"),
            reply_to: text("replies"),
            expiration: text("60000"),
            message_id: text("msg-1"),
            timestamp: Some(1_700_000_000),
            kind: text("jump"),
            user_id: text("guest"),
            app_id: text("golden"),
            cluster_id: full.cluster_id.clone(), // Go and Node.js cannot send it
        };
        assert_eq!(*full, expected, "{client}");

        let headers = full.headers.as_ref().expect(client);
        let delay = headers.get("x-delay").and_then(FieldValue::as_i64);
        assert_eq!(delay, Some(5_000), "{client}");
        let text = headers.get("text").and_then(FieldValue::as_str);
        assert_eq!(text, Some("größe"), "{client}");
        let deeper = ["nested", "deep"].iter().try_fold(headers, |table, name| {
            table.get(name).and_then(FieldValue::as_table)
        });
        let deeper = deeper.and_then(|table| table.get("deeper"));
        assert_eq!(deeper.and_then(FieldValue::as_i64), Some(-1), "{client}");

        // amqplib sends an empty table where the others send none.
        assert!(
            bare.headers.as_ref().is_none_or(FieldTable::is_empty),
            "{client}"
        );
        assert_eq!(bare.content_type, None, "{client}");
    }
}

#[test]
fn rabbitmq_is_understood() {
    let wire = bytes(RABBITMQ);
    let methods = methods(&wire);
    let Some(Method::ConnectionStart(start)) = methods.first() else {
        panic!("it starts with connection.start");
    };
    assert_eq!(&*start.mechanisms, b"AMQPLAIN PLAIN");
    let close = ChannelClose {
        reply_code: 404,
        reply_text: ShortStr::from_static("NOT_FOUND - no queue 'golden-codec' in vhost '/'"),
        class_id: 50,
        method_id: 10,
    };
    assert!(methods.contains(&close.into()));

    // Returned, got, got again, and delivered after it had been dead-lettered.
    let contents = methods.iter().filter(|method| method.carries_content());
    let names: Vec<_> = contents.map(Method::name).collect();
    assert_eq!(
        names,
        [
            "basic.return",
            "basic.get-ok",
            "basic.get-ok",
            "basic.deliver"
        ]
    );
    let headers = properties(&wire).pop().and_then(|last| last.headers);
    let headers = headers.expect("a dead letter has headers");
    let Some(FieldValue::Array(deaths)) = headers.get("x-death") else {
        panic!("a dead letter says how it died");
    };
    let death = deaths[0].as_table().expect("a table for each death");
    assert_eq!(death.get("count"), Some(&FieldValue::I64(1)));
    assert_eq!(death.get("reason"), Some(&FieldValue::from("rejected")));
    assert_eq!(
        death.get("time").map(FieldValue::amqp_type_name),
        Some("timestamp")
    );
}

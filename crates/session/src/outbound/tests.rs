use std::sync::Arc;

use leveret_codec::{
    ConnectionCloseOk, ContentHeader, LongStr, PropertySummary, parse_content_header, split_frame,
};

use leveret_core::ReplyCode;

use super::*;

fn message(exchange: &str, key: &str, body: &[u8]) -> Message {
    let header = ContentHeader {
        class_id: CLASS_BASIC,
        body_size: body.len() as u64,
        flags: leveret_codec::flags::PRIORITY,
        raw: &[7],
        summary: PropertySummary::default(),
    };
    Message::build(&mut Vec::new(), exchange, key, &header, body)
}

fn octets(mut wire: Wire) -> Vec<u8> {
    let mut octets = Vec::new();
    while !wire.is_empty() {
        let piece = wire.first().len();
        octets.extend_from_slice(wire.first());
        wire.advance(piece);
    }
    octets
}

fn encoded(encoder: &mut Encoder, outbound: Outbound) -> Vec<u8> {
    let mut wire = Wire::default();
    encoder.encode(outbound, &mut wire);
    let len = wire.len();
    let octets = octets(wire);
    assert_eq!(octets.len(), len);
    octets
}

/// The method, and the content with the sizes of its frames.
fn decoded(octets: &[u8], channel: u16) -> (Method<'_>, u64, Vec<u8>, Vec<usize>) {
    let mut rest = octets;
    let mut next = || {
        let (frame, used) = split_frame(rest, 0).unwrap()?;
        rest = &rest[used..];
        assert_eq!(frame.channel, channel);
        Some(frame)
    };
    let method = Method::parse(next().unwrap().payload).unwrap();
    let header = next().map(|frame| parse_content_header(frame.payload).unwrap());
    if let Some(header) = &header {
        assert_eq!(
            (header.flags, header.raw),
            (leveret_codec::flags::PRIORITY, [7].as_slice())
        );
    }
    let (mut body, mut sizes) = (Vec::new(), Vec::new());
    while let Some(frame) = next() {
        assert_eq!(frame.kind, FRAME_BODY);
        body.extend_from_slice(frame.payload);
        sizes.push(frame.payload.len());
    }
    (
        method,
        header.map_or(0, |header| header.body_size),
        body,
        sizes,
    )
}

#[test]
fn bodies_are_cut_to_frame_max_and_large_ones_are_not_copied() {
    #[rustfmt::skip]
    let table = [
        // frame_max  body     frames           copied  why this row is here
        (4_096,            0,  vec![],             true,  "no body, no frame"),
        (4_096,            1,  vec![1],            true,  "one"),
        (4_096,        4_088,  vec![4_088],        true,  "as much as one may hold"),
        (4_096,        4_089,  vec![4_088, 1],     true,  "one octet more"),
        (131_072,      8_191,  vec![8_191],        true,  "still copied"),
        (131_072,      8_192,  vec![8_192],        false, "worth an entry of its own"),
        (8_192,       20_000,  vec![8_184, 8_184, 3_632], false, "sliced where it stands"),
        (0,            4_100,  vec![4_088, 12],    true,  "a frame_max below the minimum is not believed"),
    ];
    for (frame_max, size, frames, copied, why) in table {
        let body: Vec<u8> = (0..size).map(|at: u32| at as u8).collect();
        let mut encoder = Encoder::new(frame_max);
        encoder.encode(
            Outbound::Consumer {
                number: 3,
                tag: Arc::from("ctag"),
            },
            &mut Wire::default(),
        );
        let mut wire = Wire::default();
        let message = message("amq.topic", "a.key", &body);
        let deliver = Outbound::Deliver {
            channel: 9,
            consumer: 3,
            redelivered: true,
            delivery_tag: 1 << 40,
            message,
        };
        encoder.encode(deliver, &mut wire);
        assert_eq!(wire.first().len() == wire.len(), copied, "{why}");

        let octets = octets(wire);
        let (method, body_size, content, sizes) = decoded(&octets, 9);
        let expected = BasicDeliver {
            consumer_tag: ShortStr::from_static("ctag"),
            delivery_tag: 1 << 40,
            redelivered: true,
            exchange: ShortStr::from_static("amq.topic"),
            routing_key: ShortStr::from_static("a.key"),
        };
        assert_eq!(method, expected.into(), "{why}");
        assert_eq!(
            (body_size, &content, sizes),
            (u64::from(size), &body, frames),
            "{why}"
        );
    }
}

#[test]
fn messages_got_and_returned() {
    let mut encoder = Encoder::new(4_096);
    let message = message("x", "k", b"abc");
    let get_ok = Outbound::GetOk {
        channel: 1,
        redelivered: false,
        delivery_tag: 2,
        message_count: 3,
        message: message.clone(),
    };
    let octets = encoded(&mut encoder, get_ok);
    let expected = BasicGetOk {
        delivery_tag: 2,
        redelivered: false,
        exchange: ShortStr::from_static("x"),
        routing_key: ShortStr::from_static("k"),
        message_count: 3,
    };
    assert_eq!(
        decoded(&octets, 1),
        (expected.into(), 3, b"abc".to_vec(), vec![3])
    );

    let returned = Outbound::Return {
        channel: 1,
        code: ReplyCode::NoRoute,
        message,
    };
    let octets = encoded(&mut encoder, returned);
    let expected = BasicReturn {
        reply_code: 312,
        reply_text: ShortStr::from_static("NO_ROUTE"),
        exchange: ShortStr::from_static("x"),
        routing_key: ShortStr::from_static("k"),
    };
    assert_eq!(
        decoded(&octets, 1),
        (expected.into(), 3, b"abc".to_vec(), vec![3])
    );
}

#[test]
fn a_consumer_number_may_be_used_again() {
    let mut encoder = Encoder::new(4_096);
    for tag in ["first", "second"] {
        encoder.encode(
            Outbound::Consumer {
                number: 0,
                tag: Arc::from(tag),
            },
            &mut Wire::default(),
        );
        let deliver = Outbound::Deliver {
            channel: 1,
            consumer: 0,
            redelivered: false,
            delivery_tag: 1,
            message: message("", "", b""),
        };
        let octets = encoded(&mut encoder, deliver);
        let (Method::BasicDeliver(deliver), ..) = decoded(&octets, 1) else {
            panic!()
        };
        assert_eq!(deliver.consumer_tag, tag);
    }
}

#[test]
fn refusals_name_the_method_and_fit_their_frame() {
    let mut encoder = Encoder::new(4_096);
    let error = AmqpError::precondition_failed("é".repeat(300)).of_method((50, 10));
    let close = Outbound::CloseChannel {
        channel: 4,
        error: Box::new(error),
    };
    let octets = encoded(&mut encoder, close);
    let (Method::ChannelClose(close), ..) = decoded(&octets, 4) else {
        panic!()
    };
    assert_eq!(
        (close.reply_code, close.class_id, close.method_id),
        (406, 50, 10)
    );
    assert!(close.reply_text.starts_with("PRECONDITION_FAILED - é"));
    assert!(close.reply_text.ends_with("é...") && close.reply_text.len() > 250);
}

#[test]
fn after_connection_close_only_the_answer_to_the_peers_is_written() {
    let close_ok = || Outbound::Method {
        channel: 0,
        method: Box::new(ConnectionCloseOk {}.into()),
    };
    let mut encoder = Encoder::new(4_096);
    let mut wire = Wire::default();
    let error = Box::new(AmqpError::frame_error("no"));
    encoder.encode(
        Outbound::CloseConnection {
            error: error.clone(),
        },
        &mut wire,
    );
    assert!(!wire.close_after(), "the peer has yet to answer");
    let len = wire.len();
    encoder.encode(Outbound::Heartbeat, &mut wire);
    encoder.encode(Outbound::CloseConnection { error }, &mut wire);
    encoder.encode(
        Outbound::Confirm {
            channel: 1,
            delivery_tag: 1,
            multiple: false,
        },
        &mut wire,
    );
    assert_eq!(wire.len(), len);
    encoder.encode(close_ok(), &mut wire);
    encoder.encode(close_ok(), &mut wire);
    assert!(wire.close_after());
    assert_eq!(wire.len(), len + 12);

    let mut encoder = Encoder::new(4_096);
    let mut wire = Wire::default();
    encoder.encode(close_ok(), &mut wire);
    encoder.encode(Outbound::Heartbeat, &mut wire);
    assert_eq!((wire.len(), wire.close_after()), (12, true));
}

#[test]
fn the_rest_is_written_as_the_codec_writes_it() {
    let mut encoder = Encoder::new(4_096);
    assert_eq!(
        encoded(&mut encoder, Outbound::Heartbeat),
        [8, 0, 0, 0, 0, 0, 0, 0xce]
    );

    let confirm = Outbound::Confirm {
        channel: 2,
        delivery_tag: 5,
        multiple: true,
    };
    let octets = encoded(&mut encoder, confirm);
    assert_eq!(
        decoded(&octets, 2).0,
        BasicAck {
            delivery_tag: 5,
            multiple: true
        }
        .into()
    );

    let method = leveret_codec::ChannelOpenOk {
        reserved_1: LongStr::default(),
    };
    let method = Outbound::Method {
        channel: 3,
        method: Box::new(method.clone().into()),
    };
    let octets = encoded(&mut encoder, method);
    assert_eq!(decoded(&octets, 3).0.name(), "channel.open-ok");

    let mut wire = Wire::default();
    encoder.encode(Outbound::ProtocolHeader, &mut wire);
    assert!(wire.close_after());
    assert_eq!(wire.first(), PROTOCOL_HEADER);
}

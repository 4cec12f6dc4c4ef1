//! What one client can make the broker hold.

mod common;

use std::io::{ErrorKind, Write as _};
use std::time::Duration;

use common::{Broker, Client};
use leveret_codec::Method;

/// What the two kernels may hold of one connection, generously.
const SOCKET_BUFFERS_BYTES: usize = 16 << 20;

#[test]
fn a_client_that_never_reads_is_closed() {
    let broker = Broker::start(&[("send_timeout", "200ms")]);
    let mut publisher = broker.client();
    let frames = common::publish_frames("nowhere", true, &[0; 4_096]);
    let ended = loop {
        if let Err(error) = publisher.stream.write_all(&frames) {
            break error.kind();
        }
    };
    assert!(
        matches!(ended, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
        "{ended}"
    );
    broker.client().declare_queue("q"); // all is well
}

#[test]
fn returns_that_nobody_reads_stop_the_publisher() {
    const BODY: [u8; 4_096] = [0; 4_096];

    let broker = Broker::start(&[]);
    let mut publisher = broker.client();
    let frames = common::publish_frames("nowhere", true, &BODY);
    publisher
        .stream
        .set_write_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    let mut written = 0;
    let stalled = loop {
        match publisher.stream.write(&frames[written % frames.len()..]) {
            Ok(count) => written += count,
            Err(e) => break e,
        }
        assert!(
            written < 10 * SOCKET_BUFFERS_BYTES,
            "40,000 returns and more, and no end"
        );
    };
    assert!(
        matches!(stalled.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        "{stalled}"
    );
    assert!(
        written < SOCKET_BUFFERS_BYTES + (4 << 20),
        "{written} octets were taken"
    );

    // Once they are read it goes on, and nothing is missing.
    publisher
        .stream
        .set_write_timeout(Some(common::PATIENCE))
        .unwrap();
    let mut writer = publisher.stream.try_clone().unwrap();
    let begun = written % frames.len();
    let rest = if begun == 0 {
        Vec::new()
    } else {
        frames[begun..].to_vec()
    };
    let writing = std::thread::spawn(move || writer.write_all(&rest).unwrap());
    for n in 0..written.div_ceil(frames.len()) {
        let answer = publisher.answer();
        assert!(
            matches!(answer.method, Method::BasicReturn(_)),
            "{n}: {:?}",
            answer.method
        );
        assert_eq!(answer.body, BODY);
    }
    writing.join().unwrap();
    publisher.declare_queue("q"); // all is well
}

#[test]
fn a_consumer_that_does_not_read_leaves_messages_in_the_queue() {
    const COUNT: usize = 12_000;
    const BODY: [u8; 4_096] = [0; 4_096];

    let broker = Broker::start(&[]);
    let mut consumer = broker.client();
    consumer.declare_queue("q");
    consumer.consume("q");
    let mut publisher = broker.client();
    for _ in 0..COUNT {
        publisher.publish("q", &BODY);
    }
    publisher.declare_queue("q"); // its answer comes after all publishes
    let shard = &broker.server().node().shards["/"];
    let (_, totals) = shard.snapshot();
    let handed_out = COUNT - totals.ready;
    assert!(
        handed_out * BODY.len() < SOCKET_BUFFERS_BYTES + (2 << 20),
        "{handed_out} messages were handed out"
    );
    for n in 0..COUNT {
        assert_eq!(consumer.answer().body.len(), BODY.len(), "{n}");
    }
}

#[test]
fn a_message_larger_than_the_outbox_goes_through() {
    let broker = Broker::start(&[("outbox_max", "64KiB"), ("message_size_max", "4MiB")]);
    let mut consumer = broker.client();
    consumer.declare_queue("q");
    consumer.consume("q");
    let mut publisher = broker.client();
    let sizes = [10, 60_000, 1 << 20, 50_000, 5, 3 << 20, 64 << 10, 1];
    for (n, size) in sizes.into_iter().enumerate() {
        publisher.publish("q", &vec![n as u8; size]);
    }
    for (n, size) in sizes.into_iter().enumerate() {
        let body = consumer.answer().body;
        assert_eq!((body.len(), body[0]), (size, n as u8));
    }
}

#[test]
fn a_frame_larger_than_the_read_buffer_goes_through() {
    let broker = Broker::start(&[("frame_max", "4MiB"), ("message_size_max", "8MiB")]);
    let mut client = broker.client();
    client.declare_queue("q");
    client.consume("q");
    let body: Vec<u8> = (0..3 << 20).map(|n| (n % 251) as u8).collect();
    let mut writer = client.stream.try_clone().unwrap();
    let frames = common::publish_in_pieces("q", false, &body, body.len());
    let writing = std::thread::spawn(move || writer.write_all(&frames).unwrap());
    assert!(client.answer().body == body, "octets were changed");
    writing.join().unwrap();
}

#[test]
fn who_does_not_log_in_has_to_go() {
    let broker = Broker::start(&[("handshake_timeout", "200ms")]);
    let mut silent = Client::connect(broker.amqp());
    assert!(silent.rest().unwrap().is_empty(), "closed without a word");
    let mut half = Client::connect(broker.amqp());
    half.stream.write_all(b"AMQP\0\0\x09\x01\x01\0\0").unwrap();
    half.rest().unwrap();
    drop(broker.client());
}

#[test]
fn one_connection_too_many_is_told_so() {
    let broker = Broker::start(&[("connections_max", "1")]);
    let first = broker.client();
    let mut second = Client::connect(broker.amqp());
    second.give_credentials("guest", "guest");
    let Method::ConnectionTune(tune) = second.answer().method else {
        panic!("no tune")
    };
    second.send(
        0,
        leveret_codec::ConnectionTuneOk {
            channel_max: tune.channel_max,
            frame_max: tune.frame_max,
            heartbeat: 0,
        },
    );
    second.send(
        0,
        leveret_codec::ConnectionOpen {
            virtual_host: common::short("/"),
            ..Default::default()
        },
    );
    let Method::ConnectionClose(close) = second.answer().method else {
        panic!("opened")
    };
    assert_eq!(
        (close.reply_code, &*close.reply_text),
        (
            530,
            "NOT_ALLOWED - connection refused: node connection limit (1) is reached"
        )
    );
    drop(first);
}

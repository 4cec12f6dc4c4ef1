//! A message in, a message out; and what is said to those who do not get that far.

mod common;

use std::io::Write as _;

use common::{Broker, Client};
use leveret_codec::{ConnectionClose, Method, ShortStr};

#[test]
fn a_message_goes_through() {
    let broker = Broker::start(&[]);
    let mut consumer = broker.client();
    consumer.declare_queue("q");
    consumer.consume("q");
    let mut publisher = broker.client();
    publisher.publish("q", b"hello");
    publisher.publish("q", &[7; 300_000]); // three frames each way
    for expected in [&b"hello"[..], &[7; 300_000]] {
        let delivery = consumer.answer();
        assert!(
            matches!(delivery.method, Method::BasicDeliver(_)),
            "{:?}",
            delivery.method
        );
        assert_eq!(delivery.body, expected);
    }

    publisher.send(
        0,
        ConnectionClose {
            reply_code: 200,
            reply_text: ShortStr::from_static("bye"),
            ..Default::default()
        },
    );
    assert!(matches!(
        publisher.answer().method,
        Method::ConnectionCloseOk(_)
    ));
    assert!(
        publisher.rest().unwrap().is_empty(),
        "the socket is closed after close-ok"
    );
}

#[test]
fn many_messages_arrive_in_order_however_they_are_cut() {
    const COUNT: usize = 5_000;

    let broker = Broker::start(&[]);
    let mut consumer = broker.client();
    consumer.declare_queue("q");
    consumer.consume("q");
    let mut publisher = broker.client();
    let all: Vec<u8> = (0..COUNT)
        .flat_map(|n| common::publish_frames("q", false, &n.to_string().into_bytes()))
        .collect();
    let writing = std::thread::spawn(move || {
        for (n, piece) in all.chunks(1_013).enumerate() {
            publisher.stream.set_nodelay(n % 3 != 0).unwrap();
            publisher.stream.write_all(piece).unwrap();
        }
        publisher
    });
    for n in 0..COUNT {
        assert_eq!(consumer.answer().body, n.to_string().into_bytes());
    }
    drop(writing.join().unwrap());
}

#[test]
fn a_login_or_a_vhost_is_refused_in_rabbitmqs_words() {
    let broker = Broker::start(&[]);
    let refusal = |user: &str, password: &str| {
        let mut client = Client::connect(broker.amqp());
        client.give_credentials(user, password);
        client.answer().method
    };
    for (user, password) in [("guest", "wrong"), ("nobody", "guest"), ("guest", "")] {
        let Method::ConnectionClose(close) = refusal(user, password) else {
            panic!("{user} got in")
        };
        assert_eq!(close.reply_code, 403);
        assert_eq!(
            &*close.reply_text,
            "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. \
             For details see the broker logfile."
        );
    }

    let mut client = Client::connect(broker.amqp());
    client.give_credentials("guest", "guest");
    let Method::ConnectionTune(tune) = client.answer().method else {
        panic!("no tune")
    };
    let common = leveret_codec::ConnectionTuneOk {
        channel_max: tune.channel_max,
        frame_max: tune.frame_max,
        heartbeat: tune.heartbeat,
    };
    client.send(0, common);
    client.send(
        0,
        leveret_codec::ConnectionOpen {
            virtual_host: common::short("nowhere"),
            ..Default::default()
        },
    );
    let Method::ConnectionClose(close) = client.answer().method else {
        panic!("opened")
    };
    assert_eq!(
        (close.reply_code, &*close.reply_text),
        (530, "NOT_ALLOWED - vhost nowhere not found")
    );
}

#[test]
fn another_protocol_is_shown_ours() {
    let broker = Broker::start(&[]);
    let mut client = Client::connect(broker.amqp());
    client
        .stream
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let answer = client.rest().unwrap();
    assert!(
        answer.starts_with(b"AMQP") && answer.len() == 8,
        "{answer:?}"
    );
}

#[test]
fn default_user_takes_the_place_of_guest() {
    let broker = Broker::start(&[("default_user", "boss"), ("default_pass", "secret")]);
    let mut boss = Client::connect(broker.amqp());
    boss.log_in("boss", "secret", "/");
    let mut guest = Client::connect(broker.amqp());
    guest.give_credentials("guest", "guest");
    assert!(matches!(guest.answer().method, Method::ConnectionClose(_)));
}

#[test]
fn health_and_metrics_are_there() {
    let broker = Broker::start(&[]);
    let mut client = broker.client();
    client.declare_queue("q");
    client.publish("q", b"x");
    client.declare_queue("q"); // its answer comes after the publish
    assert_eq!(
        broker.http_get("/health/live").unwrap(),
        r#"{"status":"ok"}"#
    );
    assert_eq!(
        broker.http_get("/health/ready").unwrap(),
        r#"{"status":"ok"}"#
    );
    let metrics = broker.http_get("/metrics").unwrap();
    for line in [
        "# TYPE leveret_messages_received_total counter",
        "leveret_messages_received_total{vhost=\"/\"} 1",
        "leveret_queue_messages_ready{vhost=\"/\"} 1",
        "leveret_connections{vhost=\"/\"} 1",
        "leveret_sockets_unauthenticated 0",
        "leveret_panics_total 0",
    ] {
        assert!(
            metrics.lines().any(|l| l == line),
            "{line:?} is not in\n{metrics}"
        );
    }
    assert!(broker.http_get("/nothing").is_err());
}

//! When memory is short, publishers wait and consumers do not.

mod common;

use common::Broker;
use leveret_codec::{BasicGet, Method};

#[test]
fn a_publisher_is_told_and_no_longer_read_until_it_is_over() {
    // Any broker is above this mark, so the alarm is on from the first look.
    let broker = Broker::start(&[("memory_watermark", "4KiB")]);
    let node = broker.server().node();
    let mut bystander = broker.client();
    bystander.declare_queue("q");
    let mut publisher = broker.client();
    publisher.publish("q", b"one");
    let Method::ConnectionBlocked(blocked) = publisher.answer().method else {
        panic!("not blocked")
    };
    assert_eq!(&*blocked.reason, "low on memory");
    assert!(node.memory_alarm());

    publisher.publish("q", b"two"); // stays in the socket
    bystander.send(
        1,
        BasicGet {
            queue: common::short("q"),
            no_ack: true,
            ..BasicGet::default()
        },
    );
    let got = bystander.answer();
    assert!(
        matches!(got.method, Method::BasicGetOk(ref ok) if ok.message_count == 0),
        "{:?}",
        got.method
    );
    assert_eq!(got.body, b"one");
    bystander.declare_queue("q"); // others are served as ever

    node.set_memory_alarm(false);
    assert!(matches!(
        publisher.answer().method,
        Method::ConnectionUnblocked(_)
    ));
    bystander.consume("q");
    assert_eq!(bystander.answer().body, b"two");
}

#[test]
fn without_an_alarm_nobody_is_blocked() {
    let broker = Broker::start(&[("memory_watermark", "1.0")]);
    let mut client = broker.client();
    client.declare_queue("q");
    client.publish("q", b"one");
    client.declare_queue("q");
    assert!(!broker.server().node().memory_alarm());
}

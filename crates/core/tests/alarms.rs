//! Resource alarms concern connections that publish.

mod common;

use common::{BrokerTest, Chan, peer};
use leveret_codec::ConnectionClose;
use leveret_core::{Capabilities, ConnectionId, Input, Peer};

const MEMORY: Option<&str> = Some("low on memory");

/// The connection itself, where alarms are announced.
fn zero(connection: ConnectionId) -> Chan {
    Chan {
        connection,
        number: 0,
    }
}

/// A connection that has published, and one that has not.
fn publisher_and_reader() -> (BrokerTest, Chan, Chan) {
    let mut t = BrokerTest::new();
    let publisher = t.client();
    let reader = t.client();
    t.queue(publisher, "q");
    t.publish(publisher, "q", "m");
    (t, publisher, reader)
}

#[test]
fn publishers_are_told_and_not_read() {
    let (mut t, publisher, reader) = publisher_and_reader();
    t.step(Input::Alarm(MEMORY));
    assert_eq!(
        t.heard(zero(publisher.connection)),
        ["connection.blocked low on memory"]
    );
    assert_eq!(t.heard(zero(reader.connection)), [""; 0]);
    assert_eq!(
        std::mem::take(&mut t.reading),
        [(publisher.connection, true)]
    );
    t.step(Input::Alarm(MEMORY));
    assert_eq!(t.heard(zero(publisher.connection)), [""; 0], "said once");
    t.step(Input::Alarm(None));
    assert_eq!(
        t.heard(zero(publisher.connection)),
        ["connection.unblocked"]
    );
    assert_eq!(t.reading, [(publisher.connection, false)]);
    t.step(Input::Alarm(None));
    assert_eq!(t.heard(zero(publisher.connection)), [""; 0]);
}

#[test]
fn a_client_that_does_not_understand_is_not_told_but_not_read_either() {
    let mut t = BrokerTest::new();
    let peer = Peer {
        capabilities: Capabilities::default(),
        ..peer()
    };
    let old = t.connect_as(peer);
    let ch = t.channel(old);
    t.publish(ch, "q", "m");
    t.step(Input::Alarm(MEMORY));
    t.step(Input::Alarm(None));
    assert_eq!(t.heard(zero(old)), [""; 0]);
    assert_eq!(t.reading, [(old, true), (old, false)]);
}

#[test]
fn a_connection_that_starts_to_publish_under_an_alarm_is_caught_then() {
    let (mut t, publisher, reader) = publisher_and_reader();
    t.step(Input::Alarm(MEMORY));
    t.reading.clear();
    t.publish(reader, "q", "m");
    t.publish(reader, "q", "m");
    assert_eq!(
        t.heard(zero(reader.connection)),
        ["connection.blocked low on memory"]
    );
    assert_eq!(t.reading, [(reader.connection, true)]);
    assert_eq!(
        t.bodies("q").len(),
        3,
        "what was sent before it heard is taken"
    );
    t.disconnect(publisher.connection);
    t.step(Input::Alarm(None));
    assert_eq!(t.heard(zero(reader.connection)), ["connection.unblocked"]);
}

#[test]
fn consumers_and_new_connections_go_on() {
    let (mut t, _, reader) = publisher_and_reader();
    t.step(Input::Alarm(MEMORY));
    t.consume(reader, "q", "tag");
    t.ack(reader, 1);
    assert_eq!(t.heard(reader), ["tag: #1 m"]);
    let late = t.client();
    assert_eq!(t.counts(late, "q"), "queue.declare-ok q 0 1");
    assert_eq!(t.heard(zero(late.connection)), [""; 0]);
}

/// Else nobody would ever read its close-ok.
#[test]
fn a_connection_that_is_closed_is_read_again() {
    type End = fn(&mut BrokerTest, Chan);
    #[rustfmt::skip]
    let rows: [(&str, End); 3] = [
        ("refused", |t, ch| t.open_again(ch)),
        ("evicted", |t, ch| t.step(Input::Evict(ch.connection, "shutdown".to_owned()))),
        ("closed",  |t, ch| t.method(zero(ch.connection), ConnectionClose::default())),
    ];
    for (how, end) in rows {
        let (mut t, publisher, _) = publisher_and_reader();
        t.step(Input::Alarm(MEMORY));
        t.reading.clear();
        end(&mut t, publisher);
        assert_eq!(t.reading, [(publisher.connection, false)], "{how}");
        t.step(Input::Alarm(None));
        assert_eq!(t.reading.len(), 1, "{how}: once");
    }
}

impl BrokerTest {
    /// A connection error.
    fn open_again(&mut self, ch: Chan) {
        self.method(ch, leveret_codec::ChannelOpen::default());
    }
}

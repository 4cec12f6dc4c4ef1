//! Answers about what is durable wait for the log, and what the client says meanwhile waits in line.

mod common;

use common::*;
use leveret_codec::{
    BasicGet, ConnectionClose, ExchangeDeclare, ExchangeDelete, Method, QueueBind, QueueDeclare,
    QueueDelete, QueuePurge, QueueUnbind, TxCommit,
};
use leveret_core::Input;

fn durable(name: &str) -> QueueDeclare<'static> {
    QueueDeclare {
        durable: true,
        ..queue_declare(name)
    }
}

fn durable_exchange(name: &str) -> ExchangeDeclare<'static> {
    ExchangeDeclare {
        durable: true,
        ..exchange_declare(name, "fanout")
    }
}

fn bind(exchange: &str, queue: &str) -> QueueBind<'static> {
    QueueBind {
        queue: short(queue),
        exchange: short(exchange),
        ..QueueBind::default()
    }
}

fn delete(queue: &str) -> QueueDelete<'static> {
    QueueDelete {
        queue: short(queue),
        ..QueueDelete::default()
    }
}

/// A broker with a durable queue `q` bound to a durable exchange `x`, whose log is slow from here.
fn slow_log() -> (BrokerTest, Chan) {
    let mut t = BrokerTest::new();
    let c = t.client();
    t.durable_queue(c, "q");
    t.ask(c, durable_exchange("x"));
    t.ask(c, bind("x", "q"));
    t.publish_persistent(c, "", "q", "m");
    t.log = Log::Held;
    (t, c)
}

#[test]
fn what_changes_something_durable_is_answered_when_its_record_is_safe() {
    let unbind = QueueUnbind {
        queue: short("q"),
        exchange: short("x"),
        ..QueueUnbind::default()
    };
    let purge = QueuePurge {
        queue: short("q"),
        ..QueuePurge::default()
    };
    let delete_exchange = ExchangeDelete {
        exchange: short("x"),
        ..ExchangeDelete::default()
    };
    let rows: [(Method<'static>, &str); 6] = [
        (durable("new").into(), "queue.declare-ok new 0 0"),
        (durable_exchange("new").into(), "exchange.declare-ok"),
        (unbind.into(), "queue.unbind-ok"),
        (purge.into(), "queue.purge-ok 1"),
        (delete("q").into(), "queue.delete-ok 1"),
        (delete_exchange.into(), "exchange.delete-ok"),
    ];
    for (method, answer) in rows {
        let (mut t, c) = slow_log();
        assert_eq!(t.ask(c, method), [""; 0], "{answer} before it is safe");
        t.sync();
        assert_eq!(t.heard(c), [answer]);
    }
}

#[test]
fn what_is_there_already_is_confirmed_when_its_record_is_safe() {
    let (mut t, c) = slow_log();
    let other = t.client();
    assert_eq!(t.ask(c, durable("new")), [""; 0]);
    assert_eq!(t.ask(other, durable("new")), [""; 0]);
    t.sync();
    assert_eq!(t.heard(other), ["queue.declare-ok new 0 0"]);
    assert_eq!(
        t.ask(other, bind("x", "q")),
        ["queue.bind-ok"],
        "nothing is new"
    );
}

/// Once it was answered at once, and a crash brought back what both had been told was gone.
#[test]
fn what_somebody_else_has_removed_is_gone_when_that_record_is_safe() {
    let unbind = QueueUnbind {
        queue: short("q"),
        exchange: short("x"),
        ..QueueUnbind::default()
    };
    let purge = QueuePurge {
        queue: short("q"),
        ..QueuePurge::default()
    };
    let delete_exchange = ExchangeDelete {
        exchange: short("x"),
        ..ExchangeDelete::default()
    };
    let rows: [(Method<'static>, &str); 4] = [
        (unbind.into(), "queue.unbind-ok"),
        (purge.into(), "queue.purge-ok 0"),
        (delete("q").into(), "queue.delete-ok 0"),
        (delete_exchange.into(), "exchange.delete-ok"),
    ];
    for (method, answer) in rows {
        let (mut t, c) = slow_log();
        let other = t.client();
        assert_eq!(t.ask(c, method.clone()), [""; 0]);
        assert_eq!(t.ask(other, method.clone()), [""; 0], "{answer} too early");
        t.sync();
        assert_eq!(t.heard(other), [answer]);
        assert_eq!(t.ask(other, method), [answer], "nothing is new");
    }
}

#[test]
fn what_is_transient_is_answered_at_once() {
    let (mut t, c) = slow_log();
    assert_eq!(t.ask(c, queue_declare("t")), ["queue.declare-ok t 0 0"]);
    assert_eq!(t.ask(c, bind("x", "t")), ["queue.bind-ok"]);
    assert_eq!(t.ask(c, delete("t")), ["queue.delete-ok 0"]);
    assert_eq!(t.ask(c, delete("no such queue")), ["queue.delete-ok 0"]);
}

#[test]
fn a_channel_that_waits_is_obeyed_afterwards_in_order() {
    let (mut t, c) = slow_log();
    let other = t.channel(c.connection);
    t.method(c, durable("new"));
    t.publish(c, "new", "a");
    t.method(
        c,
        BasicGet {
            queue: short("new"),
            ..BasicGet::default()
        },
    );
    t.publish(c, "new", "b");
    t.method(c, queue_declare("q"));
    assert_eq!(t.heard(c), [""; 0]);
    assert_eq!(
        t.counts(other, "q").len(),
        0,
        "asks about something durable: waits as well"
    );
    t.sync();
    let heard = t.heard(c);
    assert_eq!(
        heard[..2],
        ["queue.declare-ok new 0 0", "get-ok #1 a, 0 left"]
    );
    assert!(
        heard[2].starts_with("close PRECONDITION_FAILED"),
        "{heard:?}"
    );
    assert_eq!(t.heard(other), ["queue.declare-ok q 1 0"]);
    assert_eq!(t.bodies("new"), ["a", "b"]);
}

#[test]
fn deliveries_go_on_while_a_channel_waits() {
    let (mut t, c) = slow_log();
    t.consume(c, "q", "tag");
    assert_eq!(t.heard(c), ["tag: #1 m"]);
    t.method(c, durable("new"));
    let other = t.client();
    t.publish(other, "q", "n");
    assert_eq!(t.heard(c), ["tag: #2 n"]);
    t.sync();
    assert_eq!(t.heard(c), ["queue.declare-ok new 0 0"]);
}

#[test]
fn no_wait_neither_waits_nor_makes_wait() {
    let (mut t, c) = slow_log();
    let no_wait = QueueDeclare {
        no_wait: true,
        ..durable("new")
    };
    assert_eq!(t.ask(c, no_wait), [""; 0]);
    t.publish(c, "new", "a");
    assert_eq!(t.get(c, "new"), "get-ok #1 a, 0 left");
    t.sync();
    assert_eq!(t.heard(c), [""; 0]);
}

#[test]
fn a_delete_is_answered_before_its_own_consumers_are_told() {
    let (mut t, c) = slow_log();
    let other = t.client();
    t.consume(c, "q", "mine");
    t.consume(other, "q", "theirs");
    t.heard(c);
    t.method(c, delete("q"));
    assert_eq!(t.heard(c), [""; 0]);
    assert_eq!(t.heard(other), ["basic.cancel theirs"]);
    t.sync();
    assert_eq!(t.heard(c), ["queue.delete-ok 0", "basic.cancel mine"]);
}

#[test]
fn connection_close_waits_for_channels_and_ends_what_is_said_later() {
    let (mut t, c) = slow_log();
    let second = t.channel(c.connection);
    t.method(c, durable("new"));
    t.publish(c, "new", "before");
    t.method(Chan { number: 0, ..c }, ConnectionClose::default());
    t.publish(second, "new", "after");
    assert_eq!(t.heard_all(c.connection), [""; 0]);
    t.sync();
    let heard = t.heard_all(c.connection);
    assert_eq!(
        heard,
        ["1 queue.declare-ok new 0 0", "0 connection.close-ok"]
    );
    assert_eq!(t.bodies("new"), ["before"]);
}

#[test]
fn the_last_words_of_a_lost_connection_are_carried_out() {
    let (mut t, c) = slow_log();
    let second = t.channel(c.connection);
    t.consume_no_ack(second, "q", "tag");
    assert_eq!(t.heard(second), ["tag: #1 m"]);
    t.method(c, durable("new"));
    t.publish(c, "new", "a");
    t.publish(c, "q", "b");
    t.method(c, durable("newer"));
    t.publish(c, "newer", "c");
    t.disconnect(c.connection);
    assert_eq!(t.bodies("new"), ["a"]);
    assert_eq!(t.bodies("newer"), ["c"]);
    assert_eq!(t.bodies("q"), ["b"], "not delivered to one that is gone");
}

#[test]
fn a_client_that_talks_on_and_on_is_not_read_until_its_channel_goes_on() {
    let (mut t, c) = slow_log();
    let id = c.connection;
    t.method(c, durable("new"));
    let body = "x".repeat(40_000);
    t.publish(c, "new", &body);
    assert_eq!(t.reading, []);
    t.publish(c, "new", &body);
    assert_eq!(std::mem::take(&mut t.reading), [(id, true)]);
    t.sync();
    assert_eq!(std::mem::take(&mut t.reading), [(id, false)]);
    assert_eq!(t.heard(c), ["queue.declare-ok new 0 0"]);
}

#[test]
fn a_client_that_is_not_read_for_two_reasons_is_read_when_both_are_over() {
    let (mut t, c) = slow_log(); // it has published, so an alarm concerns it
    let id = c.connection;
    t.method(c, durable("new"));
    let body = "x".repeat(70_000);
    t.publish(c, "new", &body);
    t.step(Input::Alarm(Some("low on memory")));
    assert_eq!(std::mem::take(&mut t.reading), [(id, true)]);
    t.sync();
    assert_eq!(t.reading, [], "there is the alarm");
    t.step(Input::Alarm(None));
    assert_eq!(std::mem::take(&mut t.reading), [(id, false)]);

    t.step(Input::Alarm(Some("low on memory")));
    t.method(c, durable("newer"));
    t.publish(c, "newer", &body);
    t.step(Input::Alarm(None));
    assert_eq!(
        std::mem::take(&mut t.reading),
        [(id, true)],
        "its channel waits"
    );
    t.sync();
    assert_eq!(std::mem::take(&mut t.reading), [(id, false)]);
}

#[test]
fn what_follows_a_commit_waits_with_it() {
    let (mut t, c) = slow_log();
    t.tx_select(c);
    t.publish_persistent(c, "", "q", "a");
    t.method(c, TxCommit {});
    t.publish(c, "q", "b");
    t.method(c, TxCommit {});
    assert_eq!(t.heard(c), [""; 0]);
    t.sync();
    assert_eq!(t.heard(c), ["tx.commit-ok", "tx.commit-ok"]);
    assert_eq!(t.bodies("q"), ["m", "a", "b"]);
}

#[test]
fn channels_that_wait_for_one_record_go_on_in_the_order_in_which_they_began() {
    let (mut t, _) = slow_log();
    let clients: Vec<Chan> = (0..5).map(|_| t.client()).collect();
    // Others first, so that the keys of these are in no order.
    for at in [3, 1] {
        t.close(clients[at]);
    }
    let order = [clients[1], clients[4], clients[3], clients[0], clients[2]];
    for at in [1, 3] {
        t.open(clients[at]);
    }
    for (at, on) in order.into_iter().enumerate() {
        t.method(on, durable("new"));
        t.publish(on, "new", &at.to_string());
    }
    t.sync();
    assert_eq!(t.bodies("new"), ["0", "1", "2", "3", "4"]);
}

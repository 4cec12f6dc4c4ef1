//! Exchanges: how they come and go. Where they send messages is in `routing.rs`.

mod common;

use common::{BrokerTest, Chan, exchange_declare, short, table};
use leveret_codec::{
    ExchangeBind, ExchangeDeclare, ExchangeDelete, ExchangeUnbind, FieldValue, QueueUnbind,
};
use leveret_core::Limits;

fn auto_delete(name: &str, kind: &str) -> ExchangeDeclare<'static> {
    ExchangeDeclare {
        auto_delete: true,
        ..exchange_declare(name, kind)
    }
}

fn exists(t: &mut BrokerTest, name: &str) -> bool {
    let ch = t.client();
    let declare = ExchangeDeclare {
        passive: true,
        ..exchange_declare(name, "")
    };
    let heard = t.ask(ch, declare);
    t.disconnect(ch.connection);
    heard == ["exchange.declare-ok"]
}

fn unbind_exchange(t: &mut BrokerTest, ch: Chan, source: &str, destination: &str) {
    let unbind = ExchangeUnbind {
        destination: short(destination),
        source: short(source),
        no_wait: true,
        ..ExchangeUnbind::default()
    };
    t.method(ch, unbind);
}

#[test]
fn predeclared_exchanges_are_there_and_may_be_declared_as_they_are() {
    #[rustfmt::skip]
    let rows = [
        ("amq.direct",         "direct",  false),
        ("amq.fanout",         "fanout",  false),
        ("amq.topic",          "topic",   false),
        ("amq.headers",        "headers", false),
        ("amq.match",          "headers", false),
        ("amq.rabbitmq.trace", "topic",   true),
    ];
    for (name, kind, internal) in rows {
        let mut t = BrokerTest::new();
        let ch = t.client();
        let declare = ExchangeDeclare {
            durable: true,
            internal,
            ..exchange_declare(name, kind)
        };
        assert_eq!(t.ask(ch, declare), ["exchange.declare-ok"], "{name}");
    }
}

#[test]
fn declarations_are_compared_where_it_matters() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.exchange(ch, "x", "fanout");
    let declare = ExchangeDeclare {
        arguments: table([("mine", FieldValue::from(1))]),
        ..exchange_declare("x", "fanout")
    };
    assert_eq!(
        t.ask(ch, declare),
        ["exchange.declare-ok"],
        "unknown arguments do not count"
    );
}

#[test]
fn an_auto_delete_exchange_goes_with_the_last_binding_that_starts_at_it() {
    type End = fn(&mut BrokerTest, Chan);
    #[rustfmt::skip]
    let rows: [(&str, End, bool); 7] = [
        ("nothing",                |_, _| {},                                                     true),
        ("unbind one of two",      |t, ch| t.unbind(ch, "x", "1", "q"),                           true),
        ("unbind both",            |t, ch| { t.unbind(ch, "x", "1", "q"); t.unbind(ch, "x", "2", "q"); }, false),
        ("unbind what is not",     |t, ch| t.unbind(ch, "x", "3", "q"),                           true),
        ("queue deleted",          |t, ch| t.delete_queue(ch, "q"),                               false),
        ("a binding to it ends",   |t, ch| { t.bind_exchange(ch, "amq.fanout", "", "x"); unbind_exchange(t, ch, "amq.fanout", "x"); }, true),
        ("its source is deleted",  |t, ch| { t.exchange(ch, "y", "fanout"); t.bind_exchange(ch, "y", "", "x"); t.delete_exchange(ch, "y"); }, true),
    ];
    for (what, end, stays) in rows {
        let mut t = BrokerTest::new();
        let ch = t.client();
        t.queue(ch, "q");
        t.method(ch, auto_delete("x", "direct"));
        t.heard(ch);
        assert!(exists(&mut t, "x"), "{what}: never had a binding");
        t.bind(ch, "x", "1", "q");
        t.bind(ch, "x", "2", "q");
        end(&mut t, ch);
        assert_eq!(exists(&mut t, "x"), stays, "{what}");
    }
}

#[test]
fn auto_delete_exchanges_in_a_circle_go_together() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    for name in ["a", "b", "c"] {
        t.method(ch, auto_delete(name, "fanout"));
    }
    t.heard(ch);
    t.bind_exchange(ch, "a", "", "b");
    t.bind_exchange(ch, "b", "", "c");
    t.bind_exchange(ch, "c", "", "a");
    t.bind_exchange(ch, "a", "", "a");
    t.delete_exchange(ch, "b");
    assert!(exists(&mut t, "a"), "it is still bound to itself");
    assert!(exists(&mut t, "c"), "it is still bound to a");
    t.delete_exchange(ch, "a");
    assert!(!exists(&mut t, "c"));
    assert_eq!(t.broker.totals().bindings, 0);
}

#[test]
fn a_chain_of_auto_delete_exchanges_does_not_overflow_the_stack() {
    const LENGTH: usize = 20_000;
    let mut t = BrokerTest::with_limits(Limits {
        exchanges_max: LENGTH + 10,
        ..Limits::default()
    });
    t.checked = false;
    let ch = t.client();
    t.queue(ch, "q");
    let name = |n: usize| format!("x{n}");
    for n in 0..LENGTH {
        t.method(ch, auto_delete(&name(n), "fanout"));
        t.heard(ch);
        match n {
            0 => t.bind(ch, &name(n), "", "q"),
            n => t.bind_exchange(ch, &name(n), "", &name(n - 1)),
        }
    }
    let before = t.broker.totals().exchanges;
    t.publish_to(ch, &name(LENGTH - 1), "", "m");
    assert_eq!(
        t.broker.totals().ready,
        1,
        "a message passes the whole chain"
    );
    t.delete_queue(ch, "q");
    assert_eq!(t.broker.totals().exchanges, before - LENGTH);
    assert_eq!(t.broker.totals().bindings, 0);
    t.broker.check_invariants();
}

#[test]
fn delete_if_unused_looks_at_bindings_that_start_there() {
    let delete = || ExchangeDelete {
        exchange: short("x"),
        if_unused: true,
        ..ExchangeDelete::default()
    };
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.exchange(ch, "x", "fanout");
    t.bind_exchange(ch, "amq.fanout", "", "x");
    assert_eq!(
        t.ask(ch, delete()),
        ["exchange.delete-ok"],
        "one that ends there is no use of it"
    );
    assert_eq!(
        t.ask(ch, delete()),
        ["exchange.delete-ok"],
        "what is not there counts as deleted"
    );
    t.queue(ch, "q");
    t.exchange(ch, "x", "fanout");
    t.bind(ch, "x", "", "q");
    let text = "PRECONDITION_FAILED - exchange 'x' in vhost '/' in use";
    assert_eq!(t.ask(ch, delete()), [format!("close {text}")]);
}

#[test]
fn binding_twice_is_binding_once() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.exchange(ch, "x", "fanout");
    for _ in 0..2 {
        t.bind_exchange(ch, "amq.topic", "k", "x");
    }
    assert_eq!(t.broker.totals().bindings, 1);
    unbind_exchange(&mut t, ch, "amq.topic", "x");
    assert_eq!(t.broker.totals().bindings, 1, "another key");
}

#[test]
fn unbinding_what_is_missing_is_fine() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.queue(ch, "q");
    #[rustfmt::skip]
    let rows = [
        ("missing",    "q"),
        ("amq.direct", "missing"),
        ("amq.direct", "q"),
    ];
    for (exchange, queue) in rows {
        let unbind = QueueUnbind {
            queue: short(queue),
            exchange: short(exchange),
            ..QueueUnbind::default()
        };
        assert_eq!(t.ask(ch, unbind), ["queue.unbind-ok"]);
        let unbind = ExchangeUnbind {
            source: short(exchange),
            destination: short("missing"),
            ..ExchangeUnbind::default()
        };
        assert_eq!(t.ask(ch, unbind), ["exchange.unbind-ok"]);
    }
}

#[test]
fn methods_without_wait_are_not_answered() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    let declare = ExchangeDeclare {
        no_wait: true,
        ..exchange_declare("x", "fanout")
    };
    let bind = ExchangeBind {
        destination: short("x"),
        source: short("amq.fanout"),
        no_wait: true,
        ..ExchangeBind::default()
    };
    let delete = ExchangeDelete {
        exchange: short("x"),
        no_wait: true,
        ..ExchangeDelete::default()
    };
    t.method(ch, declare);
    t.method(ch, bind);
    assert_eq!(t.broker.totals().bindings, 1);
    t.method(ch, delete);
    assert_eq!(t.heard(ch), [""; 0]);
    assert_eq!(t.broker.totals().bindings, 0);
}

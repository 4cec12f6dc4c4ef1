//! Queues that expire when nobody uses them.

mod common;

use common::{BrokerTest, Chan, queue_declare_with};
use leveret_codec::{ExchangeDeclare, QueueDeclare};
use leveret_core::{Fact, Input};

/// Queue `q` that expires after 1,000 ms.
fn expiring() -> (BrokerTest, Chan) {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.method(ch, queue_declare_with("q", [("x-expires", 1_000.into())]));
    t.heard(ch);
    (t, ch)
}

fn is_there(t: &BrokerTest) -> bool {
    t.broker.totals().queues == 1
}

#[test]
fn an_unused_queue_goes_to_the_millisecond() {
    let (mut t, ch) = expiring();
    t.publish(ch, "q", "publishing is no use of it");
    t.pass_ms(999);
    assert!(is_there(&t));
    t.pass_ms(1);
    assert!(!is_there(&t));
    assert_eq!(t.broker.next_timer(), None);
    assert_eq!(t.broker.metrics().queues_deleted, 1);
}

#[test]
fn what_counts_as_use() {
    type Use = fn(&mut BrokerTest, Chan);
    #[rustfmt::skip]
    let rows: [(&str, Use, bool); 5] = [
        ("nothing",          |_, _| {},                                            false),
        ("declare",          |t, ch| { t.ask(ch, queue_declare_with("q", [("x-expires", 1_000.into())])); }, true),
        ("passive declare",  |t, ch| { t.counts(ch, "q"); },                       true),
        ("get",              |t, ch| { t.get(ch, "q"); },                          true),
        ("publish",          |t, ch| t.publish(ch, "q", "m"),                      false),
    ];
    for (what, used, stays) in rows {
        let (mut t, ch) = expiring();
        t.pass_ms(600);
        used(&mut t, ch);
        t.pass_ms(600);
        assert_eq!(is_there(&t), stays, "{what}");
        t.pass_ms(400);
        assert!(!is_there(&t), "{what}: a second of rest is enough");
    }
}

#[test]
fn consumers_keep_a_queue_and_their_end_starts_the_clock() {
    type End = fn(&mut BrokerTest, Chan);
    #[rustfmt::skip]
    let rows: [(&str, End); 3] = [
        ("cancel",     |t, ch| t.cancel(ch, "a")),
        ("close",      |t, ch| t.close(ch)),
        ("disconnect", |t, ch| t.disconnect(ch.connection)),
    ];
    for (how, end) in rows {
        let (mut t, _) = expiring();
        let reader = t.client();
        t.consume(reader, "q", "a");
        for _ in 0..5 {
            t.pass_ms(900);
        }
        end(&mut t, reader);
        t.pass_ms(999);
        assert!(is_there(&t), "{how}");
        t.pass_ms(1);
        assert!(!is_there(&t), "{how}");
    }
}

#[test]
fn a_deleted_queue_takes_its_timer_along() {
    let (mut t, ch) = expiring();
    t.delete_queue(ch, "q");
    t.queue(ch, "q");
    t.pass_ms(5_000);
    assert!(is_there(&t), "the new one does not expire");
}

#[test]
fn a_durable_queue_that_expires_is_recorded_and_ends_what_depends_on_it() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    let declare = QueueDeclare {
        durable: true,
        ..queue_declare_with("q", [("x-expires", 1_000.into())])
    };
    t.method(ch, declare);
    let exchange = ExchangeDeclare {
        durable: true,
        auto_delete: true,
        ..common::exchange_declare("x", "fanout")
    };
    t.method(ch, exchange);
    t.heard(ch);
    t.bind(ch, "x", "", "q");
    t.facts();
    t.pass_ms(1_000);
    let facts = t.facts();
    assert!(
        matches!(
            facts.as_slice(),
            [Fact::QueueDeleted { .. }, Fact::ExchangeDeleted { .. }]
        ),
        "{facts:?}"
    );
}

#[test]
fn a_tick_too_early_or_twice_does_nothing() {
    let (mut t, _) = expiring();
    t.step(Input::Tick);
    t.pass_ms(500);
    t.step(Input::Tick);
    assert!(is_there(&t));
    t.pass_ms(500);
    t.step(Input::Tick);
    assert!(!is_there(&t));
}

#[test]
fn the_longest_time_is_accepted() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.method(
        ch,
        queue_declare_with("q", [("x-expires", 315_360_000_000_i64.into())]),
    );
    t.pass_ms(1_000_000_000);
    assert!(is_there(&t));
    t.pass_ms(315_360_000_000);
    assert!(!is_there(&t));
}

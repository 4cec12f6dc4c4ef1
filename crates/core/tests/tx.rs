//! Transactions.

mod common;

use common::{BrokerTest, Chan, Log, message, publish};
use leveret_codec::{ChannelClose, ConfirmSelect, TxCommit, TxRollback, TxSelect};
use leveret_core::{Fact, Outcome};

/// Queue `q` with messages a, b and c, and a transactional channel.
fn transaction() -> (BrokerTest, Chan) {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.queue(ch, "q");
    t.publish_all(ch, "q", ["a", "b", "c"]);
    t.tx_select(ch);
    (t, ch)
}

#[test]
fn publishes_wait_for_the_commit() {
    let (mut t, ch) = transaction();
    t.publish(ch, "q", "d");
    assert_eq!(t.bodies("q"), ["a", "b", "c"]);
    assert_eq!(t.tx_commit(ch), ["tx.commit-ok"]);
    assert_eq!(t.bodies("q"), ["a", "b", "c", "d"]);
}

#[test]
fn a_rollback_forgets_publishes_and_keeps_deliveries() {
    let (mut t, ch) = transaction();
    t.consume(ch, "q", "tag");
    t.cancel(ch, "tag");
    t.publish(ch, "q", "d");
    t.ack(ch, 1);
    t.requeue(ch, 3);
    t.discard(ch, 2);
    assert_eq!(
        t.tx_rollback(ch).last().map(String::as_str),
        Some("tx.rollback-ok")
    );
    assert_eq!(t.broker.totals().unacked, 3);
    t.ack(ch, 2); // all of them can be settled again, in the next transaction
    t.ack_through(ch, 3);
    t.tx_commit(ch);
    assert!(!t.was_refused(ch.connection));
    assert_eq!(t.broker.totals().unacked, 0);
    assert_eq!(t.broker.totals().ready, 0);
}

#[test]
fn settles_wait_for_the_commit() {
    let (mut t, ch) = transaction();
    t.prefetch(ch, 2);
    t.consume(ch, "q", "tag");
    assert_eq!(t.heard(ch), ["tag: #1 a", "tag: #2 b"]);
    t.ack(ch, 1);
    t.requeue(ch, 2);
    assert_eq!(t.heard(ch), [""; 0], "no credit before the commit");
    assert_eq!(
        t.tx_commit(ch),
        ["tag: #3 c", "tag: #4 b again", "tx.commit-ok"]
    );
}

#[test]
fn a_delivery_is_settled_once_also_inside_a_transaction() {
    let (mut t, ch) = transaction();
    t.consume(ch, "q", "tag");
    t.cancel(ch, "tag");
    t.ack(ch, 1);
    t.ack(ch, 1);
    t.expect_close(ch, 406, "PRECONDITION_FAILED - unknown delivery tag 1");
    assert_eq!(
        t.bodies("q"),
        ["a", "b", "c"],
        "what was not committed is undone"
    );
}

#[test]
fn a_channel_that_closes_takes_its_transaction_along() {
    for outcome in [
        Outcome::Ack,
        Outcome::Nack { requeue: true },
        Outcome::Reject { requeue: false },
    ] {
        let (mut t, ch) = transaction();
        t.consume(ch, "q", "tag");
        t.publish(ch, "q", "d");
        t.settle(ch, 2, true, outcome);
        t.close(ch);
        assert_eq!(t.bodies("q"), ["a", "b", "c"]);
    }
}

#[test]
fn a_queue_may_go_before_the_commit() {
    let (mut t, ch) = transaction();
    let other = t.client();
    t.queue(ch, "r");
    t.bind(ch, "amq.fanout", "", "q");
    t.bind(ch, "amq.fanout", "", "r");
    t.consume(ch, "q", "tag");
    t.publish_to(ch, "amq.fanout", "", "both");
    t.publish_with(ch, message("", "q", "mandatory"), true);
    t.ack(ch, 1);
    t.requeue(ch, 2);
    t.heard(ch);
    t.delete_queue(other, "q");
    assert_eq!(
        t.tx_commit(ch),
        ["basic.cancel tag", "return 312 mandatory", "tx.commit-ok"]
    );
    assert_eq!(t.bodies("r"), ["both"]);
}

#[test]
fn mandatory_messages_return_at_the_commit() {
    let (mut t, ch) = transaction();
    t.publish_with(ch, message("", "nobody", "m"), true);
    assert_eq!(t.heard(ch), [""; 0]);
    assert_eq!(t.tx_commit(ch), ["return 312 m", "tx.commit-ok"]);
    assert_eq!(
        t.tx_commit(ch),
        ["tx.commit-ok"],
        "the next transaction is empty"
    );
}

#[test]
fn a_publish_is_checked_when_it_is_said() {
    let (mut t, ch) = transaction();
    t.publish_to(ch, "missing", "", "m");
    t.expect_close(ch, 404, "NOT_FOUND - no exchange 'missing' in vhost '/'");
}

#[test]
fn modes_exclude_each_other() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.tx_select(ch);
    t.tx_select(ch); // again is fine
    t.method(ch, ConfirmSelect { no_wait: false });
    t.expect_close(
        ch,
        406,
        "PRECONDITION_FAILED - cannot switch from tx to confirm mode",
    );
    let ch = t.client();
    t.confirm_select(ch);
    t.method(ch, TxSelect {});
    t.expect_close(
        ch,
        406,
        "PRECONDITION_FAILED - cannot switch from confirm to tx mode",
    );
    for wrong in [
        TxCommit {}.into(),
        leveret_codec::Method::from(TxRollback {}),
    ] {
        let ch = t.client();
        t.method(ch, wrong);
        t.expect_close(
            ch,
            406,
            "PRECONDITION_FAILED - channel is not transactional",
        );
    }
}

/// Queue `d` with a persistent message delivered, and another one published, both in a transaction.
fn durable_transaction() -> (BrokerTest, Chan) {
    let mut t = BrokerTest::new();
    let ch = t.client();
    t.durable_queue(ch, "d");
    t.publish_persistent(ch, "", "d", "a");
    t.consume(ch, "d", "tag");
    t.cancel(ch, "tag");
    t.heard(ch);
    t.tx_select(ch);
    t.facts();
    t.log = Log::Held;
    t.publish_persistent(ch, "", "d", "b");
    t.ack(ch, 1);
    (t, ch)
}

#[test]
fn all_facts_of_a_transaction_are_one_record() {
    let (mut t, ch) = durable_transaction();
    assert_eq!(t.facts(), [], "nothing before the commit");
    t.tx_commit(ch);
    let facts = t.facts();
    let [Fact::Together(facts)] = facts.as_slice() else {
        panic!("{facts:?}")
    };
    assert!(matches!(
        facts.as_slice(),
        [Fact::Published { .. }, Fact::Settled { .. }]
    ));
}

#[test]
fn commit_ok_waits_for_the_log() {
    let (mut t, ch) = durable_transaction();
    assert_eq!(t.tx_commit(ch), [""; 0]);
    t.sync();
    assert_eq!(t.heard(ch), ["tx.commit-ok"]);
    t.sync();
    assert_eq!(t.heard(ch), [""; 0]);
    t.publish(ch, "d", "c");
    assert_eq!(
        t.tx_commit(ch),
        ["tx.commit-ok"],
        "nothing to wait for this time"
    );
}

#[test]
fn what_is_said_behind_a_commit_waits_for_it() {
    let (mut t, ch) = durable_transaction();
    t.tx_commit(ch);
    t.command(ch.connection, publish(ch, message("", "d", "c")));
    t.method(ch, TxCommit {});
    t.method(ch, ChannelClose::default());
    assert_eq!(t.heard(ch), [""; 0]);
    t.sync();
    assert_eq!(
        t.heard(ch),
        ["tx.commit-ok", "tx.commit-ok", "channel.close-ok"],
        "a transient message needs no record"
    );
    assert_eq!(t.bodies("d"), ["b", "c"]);
}

#[test]
fn a_message_delivered_in_the_commit_that_publishes_it_can_be_settled_later() {
    let (mut t, ch) = transaction();
    t.consume(ch, "q", "tag");
    t.heard(ch);
    t.publish(ch, "q", "d");
    assert_eq!(t.tx_commit(ch), ["tag: #4 d", "tx.commit-ok"]);
    t.ack(ch, 4);
    assert_eq!(t.tx_commit(ch), ["tx.commit-ok"]);
}

/// The gaps that settles leave may be closed before a rollback fills them again.
#[test]
fn a_rollback_of_very_many_settles_restores_every_delivery() {
    let mut t = BrokerTest::new();
    t.checked = false;
    let ch = t.client();
    t.queue(ch, "q");
    t.consume(ch, "q", "tag");
    for _ in 0..1_000 {
        t.publish(ch, "q", "m");
    }
    t.tx_select(ch);
    for round in 0..3 {
        for tag in (1..=1_000_u64).filter(|tag| tag % 5 != round) {
            t.ack(ch, tag);
        }
        t.tx_rollback(ch);
        assert_eq!(t.broker.totals().unacked, 1_000);
        t.broker.check_invariants();
    }
    for tag in (1..=1_000).rev() {
        t.ack(ch, tag);
    }
    t.tx_commit(ch);
    assert!(!t.was_refused(ch.connection));
    assert_eq!(t.broker.totals().unacked, 0);
}

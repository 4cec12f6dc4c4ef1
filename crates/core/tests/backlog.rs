//! Long backlogs are paged out and come back; queues stand still where the log is behind.

mod common;

use common::kept::Kept;
use common::*;
use leveret_codec::{BasicGet, QueuePurge, TxCommit};
use leveret_core::log::{Fetched, LogError};
use leveret_core::{Fact, Input, Limits};

/// Octets a queue may hold in these tests; a quarter of it stays.
const MEMORY: usize = 8_000;

fn small() -> (BrokerTest, Chan) {
    let mut t = BrokerTest::with_limits(Limits {
        queue_memory_max: MEMORY,
        ..Limits::default()
    });
    let c = t.client();
    t.durable_queue(c, "q");
    (t, c)
}

/// Publishes persistent messages with these numbers, of some 100 octets each.
fn fill(t: &mut BrokerTest, on: Chan, numbers: std::ops::Range<u32>) {
    for number in numbers {
        t.publish_persistent(on, "", "q", &format!("{number:<60}"));
    }
}

/// Fetches everything; the numbers of what came.
fn fetch_all(t: &mut BrokerTest, kept: &mut Kept, on: Chan) -> Vec<u32> {
    let mut numbers = Vec::new();
    loop {
        t.method(
            on,
            BasicGet {
                queue: short("q"),
                no_ack: true,
                ..BasicGet::default()
            },
        );
        kept.answer_all(t);
        t.heard(on);
        let came = t.take_deliveries();
        let Some((_, _, message)) = came.first() else {
            return numbers;
        };
        let body = String::from_utf8_lossy(message.body()).trim().to_owned();
        numbers.push(body.parse().expect("a number"));
    }
}

fn here(t: &BrokerTest) -> usize {
    t.broker.totals().ready_bytes
}

#[test]
fn a_backlog_is_paged_out_only_when_its_records_are_safe() {
    let (mut t, c) = small();
    t.log = Log::Held;
    fill(&mut t, c, 0..200);
    let all = here(&t);
    assert!(all > 2 * MEMORY, "everything is still here");
    assert_eq!(t.broker.metrics().paged_out, 0);
    t.sync();
    let gone = usize::try_from(t.broker.metrics().paged_out).expect("few");
    assert!(gone > 10);
    assert_eq!(here(&t), all - gone * (all / 200));
    assert_eq!(t.broker.totals().ready, 200);
}

#[test]
fn a_backlog_comes_back_in_order_however_it_is_read() {
    let (mut t, c) = small();
    let mut kept = Kept::default();
    fill(&mut t, c, 0..200);
    assert!(here(&t) <= MEMORY);
    assert_eq!(t.counts(c, "q"), "queue.declare-ok q 200 0");
    assert_eq!(fetch_all(&mut t, &mut kept, c), Vec::from_iter(0..200));

    fill(&mut t, c, 0..200);
    t.consume_no_ack(c, "q", "tag");
    kept.answer_all(&mut t);
    let numbers = t.take_deliveries().into_iter().map(|(_, _, message)| {
        let body = String::from_utf8_lossy(message.body()).trim().to_owned();
        body.parse::<u32>().expect("a number")
    });
    assert_eq!(numbers.collect::<Vec<_>>(), Vec::from_iter(0..200));
    assert_eq!(t.broker.totals().ready, 0);
}

#[test]
fn transient_messages_stay_and_keep_their_places() {
    let (mut t, c) = small();
    let mut kept = Kept::default();
    for number in 0..200 {
        if number % 3 == 0 {
            t.publish(c, "q", &format!("{number:<60}"));
        } else {
            fill(&mut t, c, number..number + 1);
        }
    }
    assert!(t.broker.metrics().paged_out > 50);
    assert_eq!(fetch_all(&mut t, &mut kept, c), Vec::from_iter(0..200));
}

#[test]
fn what_is_requeued_comes_before_what_is_away() {
    let (mut t, c) = small();
    let mut kept = Kept::default();
    fill(&mut t, c, 0..200);
    for _ in 0..3 {
        t.get(c, "q");
    }
    t.take_deliveries();
    t.settle(c, 0, true, leveret_core::Outcome::Nack { requeue: true });
    assert_eq!(fetch_all(&mut t, &mut kept, c), Vec::from_iter(0..200));
}

/// Once it waited on for what was away.
#[test]
fn a_get_that_waits_has_what_is_requeued_meanwhile() {
    let (mut t, c) = small();
    fill(&mut t, c, 0..200);
    let waits = t.client();
    t.get(c, "q");
    let (_, tag, _) = t.take_deliveries().pop().expect("it is here");
    while !t.get(waits, "q").is_empty() {}
    t.requeue(c, tag);
    let heard = t.heard(waits);
    assert!(heard[0].starts_with("get-ok #22 0 "), "{heard:?}");
}

/// Once only what was in memory was counted.
#[test]
fn a_purge_counts_and_removes_what_is_away() {
    let (mut t, c) = small();
    let mut kept = Kept::default();
    fill(&mut t, c, 0..200);
    let purge = QueuePurge {
        queue: short("q"),
        ..QueuePurge::default()
    };
    assert_eq!(t.ask(c, purge), ["queue.purge-ok 200"]);
    kept.take_in(&mut t);
    assert_eq!(fetch_all(&mut t, &mut kept, c), [0; 0]);
    fill(&mut t, c, 7..9);
    assert_eq!(fetch_all(&mut t, &mut kept, c), [7, 8]);
}

#[test]
fn a_delete_counts_what_is_away() {
    let (mut t, c) = small();
    fill(&mut t, c, 0..200);
    let delete = leveret_codec::QueueDelete {
        queue: short("q"),
        ..Default::default()
    };
    assert_eq!(t.ask(c, delete), ["queue.delete-ok 200"]);
    assert_eq!(t.broker.totals().ready, 0);
}

#[test]
fn a_failed_read_is_tried_again_a_second_later() {
    let (mut t, c) = small();
    let mut kept = Kept::default();
    fill(&mut t, c, 0..200);
    while t.fetches.is_empty() {
        t.method(
            c,
            BasicGet {
                queue: short("q"),
                no_ack: true,
                ..BasicGet::default()
            },
        );
    }
    let fetch = t.fetches.remove(0);
    t.heard(c);
    let error = Some(LogError::Unavailable("not now".to_owned()));
    t.step(Input::Fetched(Fetched {
        queue: fetch.queue,
        messages: Vec::new(),
        error,
    }));
    t.pass_ms(999);
    assert_eq!((t.fetches.len(), t.heard(c).len()), (0, 0));
    t.pass_ms(1);
    assert_eq!(t.fetches, [fetch]);
    kept.answer_all(&mut t);
    assert_eq!(t.heard(c).len(), 1, "the get that waited");
}

#[test]
fn short_memory_pages_out_more() {
    let mut t = BrokerTest::new();
    let c = t.client();
    t.durable_queue(c, "q");
    fill(&mut t, c, 0..2_000);
    let before = here(&t);
    t.step(Input::Alarm(Some("low on memory")));
    assert!(
        before > 150_000 && here(&t) <= 64 * 1_024,
        "{before}, {}",
        here(&t)
    );
    let mut kept = Kept::default();
    t.step(Input::Alarm(None));
    assert_eq!(fetch_all(&mut t, &mut kept, c), Vec::from_iter(0..2_000));
}

// ---- marks: how far a queue may deliver

/// Messages that may be delivered before the log knows of any.
const FIRST: u32 = 65_536;

fn marks(t: &mut BrokerTest) -> Vec<u64> {
    let facts = t.facts().into_iter();
    let mark = |fact| match fact {
        Fact::MayDeliver { through, .. } => vec![through.0],
        Fact::Together(facts) => facts
            .into_iter()
            .filter_map(|fact| match fact {
                Fact::MayDeliver { through, .. } => Some(through.0),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    facts.flat_map(mark).collect()
}

#[test]
fn a_queue_delivers_so_many_without_waiting_and_stands_still_beyond() {
    let mut t = BrokerTest::new();
    t.checked = false;
    let c = t.client();
    t.durable_queue(c, "q");
    t.log = Log::Held;
    t.facts();
    t.consume_no_ack(c, "q", "tag");
    let publisher = t.client();
    for _ in 0..FIRST / 2 {
        t.publish(publisher, "q", "m");
    }
    assert_eq!(
        marks(&mut t),
        [u64::from(FIRST / 2 + FIRST)],
        "asked for half-way"
    );
    for _ in 0..FIRST {
        t.publish(publisher, "q", "m");
    }
    assert_eq!(t.take_deliveries().len(), FIRST as usize);
    assert_eq!(t.broker.totals().ready, (FIRST / 2) as usize);
    t.method(
        publisher,
        BasicGet {
            queue: short("q"),
            ..BasicGet::default()
        },
    );
    assert_eq!(t.heard(publisher), [""; 0], "a get waits as well");
    t.sync();
    assert_eq!(t.take_deliveries().len(), (FIRST / 2) as usize);
    let heard = t.heard(publisher);
    assert!(heard[0].starts_with("get-ok #1 m"), "{heard:?}");
}

/// Once the mark waited for the number of a record that had become part of the commit's, and that
/// nothing else would reach.
#[test]
fn a_mark_that_is_asked_for_within_a_commit_holds_when_the_commit_is_safe() {
    let mut t = BrokerTest::new();
    t.checked = false;
    let c = t.client();
    t.durable_queue(c, "q");
    let consumer = t.client();
    t.consume(consumer, "q", "tag");
    t.tx_select(c);
    let all = FIRST as usize + 10;
    for _ in 0..all {
        t.publish_persistent(c, "", "q", "m");
    }
    t.log = Log::Held;
    t.method(c, TxCommit {});
    t.sync();
    assert_eq!(t.heard(c), ["tx.commit-ok"]);
    assert_eq!(t.take_deliveries().len(), all);
}

/// As [`small`], with arguments.
fn small_with<const N: usize>(
    arguments: [(&str, leveret_codec::FieldValue); N],
) -> (BrokerTest, Chan) {
    let mut t = BrokerTest::with_limits(Limits {
        queue_memory_max: MEMORY,
        ..Limits::default()
    });
    let c = t.client();
    let declare = leveret_codec::QueueDeclare {
        durable: true,
        ..queue_declare_with("q", arguments)
    };
    t.method(c, declare);
    t.heard(c);
    (t, c)
}

#[test]
fn what_is_away_expires_as_well() {
    let (mut t, c) = small_with([("x-message-ttl", 1_000.into())]);
    let mut kept = Kept::default();
    fill(&mut t, c, 0..400);
    kept.take_in(&mut t);
    assert!(t.broker.metrics().paged_out > 100);
    t.pass_ms(1_000);
    kept.answer_all(&mut t);
    assert_eq!(t.broker.totals().ready, 0, "nobody had to ask for them");
    assert_eq!(t.broker.metrics().expired, 400);
    kept.take_in(&mut t);
    assert!(kept.messages.is_empty(), "they left the log");
}

#[test]
fn what_comes_back_in_time_expires_on_time() {
    let (mut t, c) = small_with([("x-message-ttl", 1_000.into())]);
    let mut kept = Kept::default();
    fill(&mut t, c, 0..200);
    t.pass_ms(500);
    fill(&mut t, c, 200..400);
    kept.take_in(&mut t);
    t.pass_ms(500);
    kept.answer_all(&mut t);
    assert_eq!(t.broker.totals().ready, 200);
    let numbers = fetch_all(&mut t, &mut kept, c);
    assert_eq!(numbers, (200..400).collect::<Vec<_>>());
}

#[test]
fn the_head_of_a_long_backlog_makes_room() {
    let (mut t, c) = small_with([("x-max-length", 300.into())]);
    let mut kept = Kept::default();
    for first in (0..1_000).step_by(50) {
        fill(&mut t, c, first..first + 50);
        kept.answer_all(&mut t);
    }
    assert_eq!(t.broker.totals().ready, 300);
    let numbers = fetch_all(&mut t, &mut kept, c);
    assert_eq!(numbers, (700..1_000).collect::<Vec<_>>());
}

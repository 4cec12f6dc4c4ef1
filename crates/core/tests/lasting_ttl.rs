//! Messages whose time runs out while they are paged out, or while nobody serves their queue.

mod common;

use common::kept::Kept;
use common::*;
use leveret_codec::{BasicGet, FieldValue, Properties, QueueDeclare, QueuePurge};
use leveret_core::log::{Fetched, LogError};
use leveret_core::{Fact, Input, Limits, Mono, Now, Wall};
use proptest::prelude::*;

/// Octets a queue may hold in these tests.
const MEMORY: usize = 8_000;

fn limits() -> Limits {
    Limits {
        queue_memory_max: MEMORY,
        ..Limits::default()
    }
}

/// With a swap area for what is transient.
fn limits_with_swap() -> Limits {
    Limits {
        swap_bytes_max: 1 << 20,
        ..limits()
    }
}

/// Durable queues `q` with these arguments and `dead`.
fn queues(arguments: &[(&str, FieldValue)]) -> (BrokerTest, Kept, Chan) {
    queues_with(limits(), arguments)
}

fn queues_with(limits: Limits, arguments: &[(&str, FieldValue)]) -> (BrokerTest, Kept, Chan) {
    let mut t = BrokerTest::with_limits(limits);
    let c = t.client();
    let mut declare = QueueDeclare {
        durable: true,
        ..queue_declare("q")
    };
    let mut table = leveret_codec::FieldTable::default();
    for (name, value) in arguments {
        table.insert(*name, value.clone());
    }
    declare.arguments = leveret_codec::RawTable::from_table(&table);
    t.method(c, declare);
    t.durable_queue(c, "dead");
    t.heard(c);
    (t, Kept::default(), c)
}

fn dead_letters() -> [(&'static str, FieldValue); 2] {
    [
        ("x-dead-letter-exchange", "".into()),
        ("x-dead-letter-routing-key", "dead".into()),
    ]
}

/// A persistent message of some 100 octets that says how long it lasts.
fn publish_for(t: &mut BrokerTest, on: Chan, ms: Option<u64>, number: usize) {
    publish_at(t, on, 0, ms, number);
}

/// The same, with a priority.
fn publish_at(t: &mut BrokerTest, on: Chan, priority: u8, ms: Option<u64>, number: usize) {
    publish_as(t, on, persistent(), priority, ms, number);
}

fn publish_as(
    t: &mut BrokerTest,
    on: Chan,
    mut properties: Properties,
    priority: u8,
    ms: Option<u64>,
    number: usize,
) {
    properties.priority = (priority > 0).then_some(priority);
    properties.expiration = ms.map(|ms| ms.to_string().into());
    t.publish_with(
        on,
        message_with("", "q", properties, &format!("{number:<60}")),
        false,
    );
}

/// Starts it again after so long.
fn restart(t: &BrokerTest, kept: &Kept, down_ms: u64) -> BrokerTest {
    let wall = Wall(t.now.wall.0 + down_ms);
    let mono = Mono(7);
    kept.restart(Now { mono, wall }, limits())
}

fn ready(t: &mut BrokerTest, on: Chan, queue: &str) -> usize {
    let counts = t.counts(on, queue);
    let mut words = counts.split(' ').skip(2);
    words.next().and_then(|n| n.parse().ok()).expect("a number")
}

/// Fetches everything; the numbers of what came.
fn fetch_all(t: &mut BrokerTest, kept: &mut Kept, on: Chan, queue: &'static str) -> Vec<usize> {
    let mut numbers = Vec::new();
    loop {
        let get = BasicGet {
            queue: short(queue),
            no_ack: true,
            ..BasicGet::default()
        };
        t.method(on, get);
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

#[test]
fn the_time_of_a_queue_goes_on_while_nobody_serves_it() {
    let (mut t, mut kept, c) = queues(&[("x-message-ttl", 1_000.into())]);
    for number in 0..3 {
        publish_for(&mut t, c, None, number);
        t.pass_ms(100);
    }
    kept.take_in(&mut t);
    let mut t = restart(&t, &kept, 500);
    t.pass_ms(0);
    kept.answer_all(&mut t);
    assert_eq!(t.broker.totals().ready, 3, "800 ms");
    t.pass_ms(199);
    assert_eq!(t.broker.totals().ready, 3);
    for left in [2, 1, 0] {
        t.pass_ms(1);
        assert_eq!(t.broker.totals().ready, left);
        t.pass_ms(99);
    }
    kept.take_in(&mut t);
    assert!(kept.messages.is_empty());
    assert_eq!(t.broker.next_timer(), None);
}

#[test]
fn what_is_overdue_at_the_start_leaves_unread() {
    let (mut t, mut kept, c) = queues(&[]);
    for (number, ms) in [300, 100, 9_000, 200].into_iter().enumerate() {
        publish_for(&mut t, c, Some(ms), number);
    }
    publish_for(&mut t, c, None, 4);
    kept.take_in(&mut t);
    let mut t = restart(&t, &kept, 200);
    t.pass_ms(0);
    let gone: Vec<_> = t.facts();
    let places = |fact: &Fact| match fact {
        Fact::Settled { seq, .. } => seq.0,
        other => panic!("{other:?}"),
    };
    assert_eq!(gone.iter().map(places).collect::<Vec<_>>(), [2, 4]);
    t.pass_ms(99);
    assert_eq!(t.broker.totals().ready, 3);
    t.pass_ms(1);
    assert_eq!(t.broker.totals().ready, 2);
    t.pass_ms(8_700);
    assert_eq!(t.broker.totals().ready, 1);
    assert!(t.fetches.is_empty(), "nothing was read");
    assert_eq!(t.broker.metrics().expired, 4);
}

#[test]
fn what_is_overdue_at_the_start_is_dead_lettered_in_order() {
    let (mut t, mut kept, c) = queues(&dead_letters());
    t.checked = false;
    for number in 0..3_000 {
        let ms = if number % 3 == 0 { None } else { Some(1_000) };
        publish_for(&mut t, c, ms, number);
    }
    kept.take_in(&mut t);
    let mut t = restart(&t, &kept, 5_000);
    t.pass_ms(0);
    kept.answer_all(&mut t);
    while t.broker.next_timer().is_some_and(|due| due <= t.now.mono) {
        t.pass_ms(0);
        kept.answer_all(&mut t);
    }
    t.broker.check_invariants();
    let c = t.client();
    assert_eq!(ready(&mut t, c, "q"), 1_000);
    let all = 0..3_000;
    let expected: Vec<_> = all.clone().filter(|n| n % 3 != 0).collect();
    assert_eq!(fetch_all(&mut t, &mut kept, c, "dead"), expected);
    let expected: Vec<_> = all.filter(|n| n % 3 == 0).collect();
    assert_eq!(fetch_all(&mut t, &mut kept, c, "q"), expected);
}

/// Once they stayed in memory, however many there were.
#[test]
fn messages_with_a_time_of_their_own_are_paged_out_and_expire_unread() {
    let (mut t, mut kept, c) = queues(&[]);
    for number in 0..1_000 {
        publish_for(&mut t, c, Some(1_000 + number as u64), number);
    }
    assert!(t.broker.totals().ready_bytes <= 2 * MEMORY);
    kept.take_in(&mut t);
    for left in (0..1_000).rev() {
        t.pass_ms(if left == 999 { 1_000 } else { 1 });
        assert_eq!(t.broker.totals().ready, left);
    }
    assert_eq!(t.broker.metrics().paged_in, 0);
    kept.take_in(&mut t);
    assert!(kept.messages.is_empty());
}

#[test]
fn a_purge_takes_what_is_to_expire_along() {
    let (mut t, mut kept, c) = queues(&dead_letters());
    for number in 0..400 {
        publish_for(&mut t, c, Some(1_000), number);
    }
    kept.take_in(&mut t);
    t.pass_ms(1_000);
    let asked = t.fetches.clone();
    assert!(!asked.is_empty());
    let purge = QueuePurge {
        queue: short("q"),
        ..QueuePurge::default()
    };
    t.ask(c, purge);
    t.facts();
    kept.answer(&mut t);
    let expired = t.broker.metrics().expired;
    assert!(expired < 400, "only those that were here");
    assert_eq!(ready(&mut t, c, "q"), 0);
    publish_for(&mut t, c, None, 1);
    t.pass_ms(100_000);
    assert_eq!(ready(&mut t, c, "q"), 1);
}

#[test]
fn a_dead_letter_that_cannot_be_read_holds_up_no_others() {
    let (mut t, mut kept, c) = queues(&dead_letters());
    for number in 0..100 {
        publish_for(&mut t, c, Some(1_000), number);
    }
    kept.take_in(&mut t);
    let mut t = restart(&t, &kept, 1_000);
    t.pass_ms(0);
    let fetch = t.fetches.pop().expect("they are to be read");
    t.step(Input::Fetched(Fetched {
        queue: fetch.queue,
        messages: Vec::new(),
        error: Some(LogError::Unavailable("not now".to_owned())),
    }));
    let c = t.client();
    assert_eq!(ready(&mut t, c, "q"), 100);
    t.pass_ms(1_000);
    t.pass_ms(9_000);
    kept.answer_all(&mut t);
    assert_eq!(ready(&mut t, c, "q"), 0);
    assert_eq!(ready(&mut t, c, "dead"), 100);
}

#[test]
fn a_clock_that_was_set_back_makes_nothing_expire_early() {
    let (mut t, mut kept, c) = queues(&[("x-message-ttl", 1_000.into())]);
    for number in 0..300 {
        publish_for(&mut t, c, (number % 2 == 0).then_some(500), number);
    }
    kept.take_in(&mut t);
    let now = Now {
        mono: Mono(0),
        wall: Wall(t.now.wall.0 - 100_000),
    };
    let mut t = kept.restart(now, limits());
    t.pass_ms(0);
    kept.answer_all(&mut t);
    t.pass_ms(499);
    kept.answer_all(&mut t);
    assert_eq!(t.broker.totals().ready, 300);
}

/// They are not in the log, so it must not hear of them.
#[test]
fn transient_messages_with_a_time_of_their_own_are_swapped_out_and_expire_unread() {
    let (mut t, mut kept, c) = queues_with(limits_with_swap(), &[]);
    for number in 0..1_000 {
        let ms = (number % 2 == 0).then_some(1_000 + number as u64);
        publish_as(&mut t, c, Properties::default(), 0, ms, number);
        kept.answer_all(&mut t);
    }
    assert!(t.broker.totals().ready_bytes <= MEMORY);
    let settled = |t: &mut BrokerTest| t.facts().iter().any(|f| matches!(f, Fact::Settled { .. }));
    t.pass_ms(1_499);
    kept.answer_all(&mut t);
    assert_eq!(t.broker.totals().ready, 750);
    t.pass_ms(500);
    assert!(!settled(&mut t));
    kept.answer_all(&mut t);
    assert_eq!(t.broker.totals().ready, 500);
    assert_eq!(t.broker.metrics().paged_in, 0);
    let left: Vec<usize> = (1..1_000).step_by(2).collect();
    assert_eq!(fetch_all(&mut t, &mut kept, c, "q"), left);
    assert!(kept.swapped.is_empty(), "nothing stays there");
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// So many, of this priority, that last so long.
    Publish(u16, u8, Option<u64>),
    Pass(u64),
    Get(u8),
    /// Deliveries that come back.
    Requeue(u8),
    Restart(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..200_u16, 0..4_u8, prop::option::of(0..3_000_u64))
            .prop_map(|(n, priority, ms)| Step::Publish(n, priority, ms)),
        3 => (0..700_u64).prop_map(Step::Pass),
        2 => (1..60_u8).prop_map(Step::Get),
        1 => (1..60_u8).prop_map(Step::Requeue),
        1 => (0..1_000_u64).prop_map(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Whatever is paged out, read back, delivered or forgotten in a restart: a message is there
    /// until its time runs out, and not a moment longer.
    #[test]
    fn each_message_expires_when_it_is_due(
        steps in prop::collection::vec(step(), 1..40),
        ttl_ms in prop::option::of(500..2_000_u64),
        priority_max in prop::option::of(1..4_u8),
        dies in any::<bool>(),
        // Of so many messages one is persistent.
        mixture in prop_oneof![Just(1_usize), Just(2), Just(7), Just(1_000_000)],
    ) {
        let mut arguments = Vec::new();
        arguments.extend(ttl_ms.map(|ms| ("x-message-ttl", FieldValue::I64(ms as i64))));
        arguments.extend(priority_max.map(|max| ("x-max-priority", FieldValue::I32(max.into()))));
        arguments.extend(dies.then(dead_letters).into_iter().flatten());
        let limits = if mixture == 1 { limits() } else { limits_with_swap() };
        let is_persistent = |number: usize| number.is_multiple_of(mixture);
        let (mut t, mut kept, mut c) = queues_with(limits.clone(), &arguments);
        t.checked = false;
        // When each is due, by the clock on the wall.
        let mut due: Vec<u64> = Vec::new();
        // In order of delivery: how far below the highest priority, and number.
        let mut waiting: std::collections::BTreeSet<(u8, usize)> = Default::default();
        for step in steps {
            match step {
                Step::Publish(count, priority, ms) => for _ in 0..count {
                    let lasts = ms.into_iter().chain(ttl_ms).min();
                    due.push(lasts.map_or(u64::MAX, |ms| t.now.wall.0 + ms));
                    let max = priority_max.unwrap_or(0);
                    waiting.insert((max - priority.min(max), due.len() - 1));
                    let number = due.len() - 1;
                    let properties = if is_persistent(number) {
                        persistent()
                    } else {
                        Properties::default()
                    };
                    publish_as(&mut t, c, properties, priority, ms, number);
                },
                Step::Pass(ms) => t.pass_ms(ms),
                Step::Get(count) => for _ in 0..count {
                    t.method(c, BasicGet {
                        queue: short("q"),
                        no_ack: true,
                        ..BasicGet::default()
                    });
                    kept.answer_all(&mut t);
                    t.heard(c);
                    let now = t.now.wall.0;
                    waiting.retain(|(_, number)| due[*number] > now);
                    let first = waiting.pop_first().map(|(_, number)| number);
                    let came = t.take_deliveries();
                    let came = came.first().map(|(_, _, message)| {
                        let body = String::from_utf8_lossy(message.body()).trim().to_owned();
                        body.parse().expect("a number")
                    });
                    prop_assert_eq!(came, first);
                },
                Step::Requeue(count) => {
                    let extra = t.channel(c.connection);
                    t.prefetch(extra, u16::from(count));
                    t.consume(extra, "q", "tag");
                    kept.answer_all(&mut t);
                    t.close(extra);
                    t.take_deliveries();
                }
                Step::Restart(down_ms) => {
                    kept.take_in(&mut t);
                    kept.swapped.clear();
                    waiting.retain(|(_, number)| is_persistent(*number));
                    let wall = Wall(t.now.wall.0 + down_ms);
                    t = kept.restart(Now { mono: Mono(7), wall }, limits.clone());
                    t.checked = false;
                    c = t.client();
                    t.pass_ms(0);
                }
            }
            kept.answer_all(&mut t);
            while t.broker.next_timer().is_some_and(|at| at <= t.now.mono) {
                t.pass_ms(0);
                kept.answer_all(&mut t);
            }
            t.broker.check_invariants();
            let now = t.now.wall.0;
            waiting.retain(|(_, number)| due[*number] > now);
            prop_assert_eq!(ready(&mut t, c, "q"), waiting.len());
        }
        let left: Vec<usize> = waiting.into_iter().map(|(_, number)| number).collect();
        prop_assert_eq!(fetch_all(&mut t, &mut kept, c, "q"), left);
        if !dies {
            prop_assert!(kept.swapped.is_empty());
        }
    }
}

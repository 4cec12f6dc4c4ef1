//! What is not in the log and memory is too short for goes to the swap area, and comes back in order.

mod common;

use std::collections::BTreeMap;

use common::*;
use leveret_codec::{BasicGet, FieldValue, QueueDelete, QueuePurge};
use leveret_core::ids::QueueId;
use leveret_core::log::{Fetched, LogError, Swap, Swapped};
use leveret_core::{Event, Input, Limits, Message, Seq, Wall};

/// Octets a queue may hold in these tests; a quarter of it stays.
const MEMORY: usize = 8_000;

/// The swap area.
#[derive(Default)]
struct Area(BTreeMap<(QueueId, Seq), (Message, Option<Wall>)>);

impl Area {
    /// Carries out all that is asked, until nothing is any more.
    fn obey(&mut self, t: &mut BrokerTest) {
        while !t.swaps.is_empty() {
            for swapped in self.work(t) {
                t.step(Input::Swapped(swapped));
            }
        }
    }

    /// Carries out all that is asked, and gives back what there is to report.
    fn work(&mut self, t: &mut BrokerTest) -> Vec<Swapped> {
        let mut reports = Vec::new();
        for swap in std::mem::take(&mut t.swaps) {
            match swap {
                Swap::Out {
                    queue,
                    messages,
                    bytes,
                } => {
                    let messages = messages.into_iter();
                    self.0
                        .extend(messages.map(|(seq, m, at)| ((queue, seq), (m, at))));
                    reports.push(Swapped {
                        queue,
                        bytes,
                        error: None,
                    });
                }
                Swap::Forget { queue, runs } => {
                    let gone = |at: &Seq| runs.iter().any(|(a, b)| (*a..=*b).contains(at));
                    self.0.retain(|(of, at), _| *of != queue || !gone(at));
                }
            }
        }
        reports
    }

    fn answer(&self, t: &mut BrokerTest) -> bool {
        let Some(fetch) = t.fetches.pop() else {
            return false;
        };
        let wanted = (fetch.queue, fetch.first)..=(fetch.queue, fetch.last);
        let (mut messages, mut bytes) = (Vec::new(), 0);
        for ((_, seq), (message, at)) in self.0.range(wanted) {
            if bytes < fetch.bytes_max {
                bytes += message.memory_bytes();
                messages.push((*seq, message.clone(), *at));
            }
        }
        t.step(Input::Fetched(Fetched {
            queue: fetch.queue,
            messages,
            error: None,
        }));
        true
    }
}

fn small() -> (BrokerTest, Chan) {
    let mut t = BrokerTest::with_limits(Limits {
        queue_memory_max: MEMORY,
        swap_bytes_max: 1 << 20,
        ..Limits::default()
    });
    let c = t.client();
    t.queue(c, "q");
    (t, c)
}

fn fill(t: &mut BrokerTest, on: Chan, numbers: std::ops::Range<u32>) {
    for number in numbers {
        t.publish(on, "q", &format!("{number:<60}"));
    }
}

/// Fetches everything; the numbers of what came.
fn fetch_all(t: &mut BrokerTest, area: &mut Area, on: Chan) -> Vec<u32> {
    let mut numbers = Vec::new();
    loop {
        t.get_no_ack(on, "q");
        area.obey(t);
        while area.answer(t) {
            area.obey(t);
        }
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

impl BrokerTest {
    fn get_no_ack(&mut self, on: Chan, queue: &'static str) {
        let get = BasicGet {
            queue: short(queue),
            no_ack: true,
            ..BasicGet::default()
        };
        self.method(on, get);
    }
}

#[test]
fn a_transient_backlog_is_let_go_when_it_is_written_and_comes_back_in_order() {
    let (mut t, c) = small();
    let mut area = Area::default();
    fill(&mut t, c, 0..1_000);
    assert!(here(&t) > 8 * MEMORY, "nothing has been reported");
    area.obey(&mut t);
    assert!(here(&t) <= MEMORY, "{} octets stay", here(&t));
    assert_eq!(t.broker.totals().ready, 1_000);
    assert_eq!(fetch_all(&mut t, &mut area, c), Vec::from_iter(0..1_000));
    assert!(area.0.is_empty(), "nothing stays there");
}

/// A bound in octets is about bodies, wherever they are: nothing is dropped because it is away.
#[test]
fn what_is_swapped_out_counts_as_its_body_and_no_more() {
    let (mut t, c) = small();
    let mut area = Area::default();
    let bound = ("x-max-length-bytes", FieldValue::I64(300 * 60));
    t.ask(
        c,
        QueueDelete {
            queue: short("q"),
            ..QueueDelete::default()
        },
    );
    t.ask(c, queue_declare_with("q", [bound]));
    for number in 0..300 {
        fill(&mut t, c, number..number + 1);
        area.obey(&mut t);
    }
    assert!(here(&t) <= MEMORY, "{} octets stay", here(&t));
    assert_eq!(t.broker.totals().ready, 300);
    fill(&mut t, c, 300..301); // now the first has to go
    area.obey(&mut t);
    assert_eq!(t.broker.totals().ready, 300);
    assert_eq!(fetch_all(&mut t, &mut area, c), Vec::from_iter(1..301));
}

/// What is persistent is in no log if its queue is not durable.
#[test]
fn persistent_messages_of_a_transient_queue_are_swapped_out() {
    let (mut t, c) = small();
    let mut area = Area::default();
    for number in 0..300 {
        t.publish_persistent(c, "", "q", &format!("{number:<60}"));
        area.obey(&mut t);
    }
    assert!(here(&t) <= MEMORY);
    assert_eq!(fetch_all(&mut t, &mut area, c), Vec::from_iter(0..300));
}

#[test]
fn what_leaves_while_it_is_written_is_forgotten_again() {
    let (mut t, c) = small();
    let mut area = Area::default();
    fill(&mut t, c, 0..200);
    let reports = area.work(&mut t);
    assert!(!area.0.is_empty());
    t.consume_no_ack(c, "q", "tag");
    assert_eq!(t.take_deliveries().len(), 200, "they were all here");
    for report in reports {
        t.step(Input::Swapped(report));
    }
    area.obey(&mut t);
    assert!(area.0.is_empty());
    assert_eq!(t.broker.totals().ready, 0);
}

#[test]
fn a_purge_and_a_delete_free_the_swap_area() {
    let (mut t, c) = small();
    let mut area = Area::default();
    fill(&mut t, c, 0..300);
    area.obey(&mut t);
    assert!(!area.0.is_empty());
    let purge = QueuePurge {
        queue: short("q"),
        ..QueuePurge::default()
    };
    assert_eq!(t.ask(c, purge), ["queue.purge-ok 300"]);
    area.obey(&mut t);
    assert!(area.0.is_empty());

    fill(&mut t, c, 0..300);
    let reports = area.work(&mut t);
    let delete = QueueDelete {
        queue: short("q"),
        ..QueueDelete::default()
    };
    assert_eq!(t.ask(c, delete), ["queue.delete-ok 300"]);
    for report in reports {
        t.step(Input::Swapped(report));
    }
    area.obey(&mut t);
    assert!(area.0.is_empty());
}

#[test]
fn what_cannot_be_written_stays_and_is_tried_again_when_there_is_more() {
    let (mut t, c) = small();
    let mut area = Area::default();
    fill(&mut t, c, 0..100);
    let Some(Swap::Out { queue, bytes, .. }) = t.swaps.pop() else {
        panic!("nothing to swap out");
    };
    let error = Some(LogError::Unavailable("no room".to_owned()));
    let all = here(&t);
    t.step(Input::Swapped(Swapped {
        queue,
        bytes,
        error,
    }));
    assert_eq!((here(&t), t.swaps.len()), (all, 0));
    fill(&mut t, c, 100..200);
    assert_eq!(t.swaps.len(), 1);
    area.obey(&mut t);
    assert!(here(&t) <= MEMORY);
    assert_eq!(fetch_all(&mut t, &mut area, c), Vec::from_iter(0..200));
}

/// Once the rest stayed in memory until somebody published more.
#[test]
fn what_came_while_a_batch_was_written_follows_by_itself() {
    let (mut t, c) = small();
    let mut area = Area::default();
    fill(&mut t, c, 0..100);
    let reports = area.work(&mut t);
    fill(&mut t, c, 100..1_000);
    for report in reports {
        t.step(Input::Swapped(report));
    }
    area.obey(&mut t);
    assert!(here(&t) <= MEMORY, "{} octets stay", here(&t));
}

#[test]
fn no_more_is_on_its_way_than_may_be() {
    let mut t = BrokerTest::with_limits(Limits {
        queue_memory_max: MEMORY,
        swap_bytes_max: 1,
        ..Limits::default()
    });
    let c = t.client();
    for name in ["q", "r", "s"] {
        t.queue(c, name);
        for number in 0..200 {
            t.publish(c, name, &format!("{number:<60}"));
        }
    }
    let mut area = Area::default();
    while !t.swaps.is_empty() {
        let out = |swap: &&Swap| matches!(swap, Swap::Out { .. });
        assert!(t.swaps.iter().filter(out).count() <= 1);
        for report in area.work(&mut t) {
            t.step(Input::Swapped(report));
        }
    }
    assert!(here(&t) <= 3 * MEMORY);
}

#[test]
fn less_is_asked_back_at_once_while_memory_is_short() {
    let mut t = BrokerTest::with_limits(Limits {
        queue_memory_max: 1 << 20,
        swap_bytes_max: 1 << 30,
        ..Limits::default()
    });
    let c = t.client();
    t.queue(c, "q");
    fill(&mut t, c, 0..20_000);
    let mut area = Area::default();
    area.obey(&mut t);
    t.step(Input::Alarm(Some("low on memory")));
    area.obey(&mut t);
    let mut most = 0;
    let mut left = 20_000;
    t.consume_no_ack(c, "q", "tag");
    while let Some(fetch) = t.fetches.last() {
        most = most.max(fetch.bytes_max);
        area.answer(&mut t);
        area.obey(&mut t);
    }
    left -= t.take_deliveries().len();
    assert_eq!((left, most), (0, 64 << 10));
}

#[test]
fn a_queue_that_grows_faster_than_it_is_written_says_so_until_it_is() {
    let (mut t, c) = small();
    let mut area = Area::default();
    fill(&mut t, c, 0..50);
    assert!(!t.broker.swap_is_behind());
    fill(&mut t, c, 50..1_000);
    assert!(t.broker.swap_is_behind());
    let mut reports = 0;
    while t.broker.swap_is_behind() {
        // As promised, there is something whose answer may end it.
        let work = area.work(&mut t);
        assert!(!work.is_empty());
        for report in work {
            t.step(Input::Swapped(report));
            reports += 1;
        }
    }
    assert!(reports > 1 && here(&t) < 2 * MEMORY);
}

#[test]
fn a_queue_that_is_gone_is_not_behind() {
    let (mut t, c) = small();
    let mut area = Area::default();
    fill(&mut t, c, 0..1_000);
    t.delete_queue(c, "q");
    area.obey(&mut t);
    assert!(!t.broker.swap_is_behind());
}

/// Says that nothing of what is asked could be written.
fn fail_all(t: &mut BrokerTest) {
    while !t.swaps.is_empty() {
        for swap in std::mem::take(&mut t.swaps) {
            if let Swap::Out { queue, bytes, .. } = swap {
                let error = Some(LogError::Unavailable("no room".to_owned()));
                t.step(Input::Swapped(Swapped {
                    queue,
                    bytes,
                    error,
                }));
            }
        }
    }
}

#[test]
fn a_disk_that_fails_is_told_of_once_and_holds_nobody_back() {
    let (mut t, c) = small();
    let mut area = Area::default();
    for from in 0..20 {
        fill(&mut t, c, from * 50..from * 50 + 50);
        fail_all(&mut t);
        assert!(!t.broker.swap_is_behind());
    }
    let count =
        |t: &BrokerTest, what: fn(&Event) -> bool| t.events.iter().filter(|e| what(e)).count();
    assert_eq!(count(&t, |e| matches!(e, Event::SwapFailed { .. })), 1);
    assert_eq!(count(&t, |e| matches!(e, Event::SwapResumed)), 0);
    fill(&mut t, c, 1_000..2_000);
    area.obey(&mut t);
    assert_eq!(count(&t, |e| matches!(e, Event::SwapResumed)), 1);
    assert!(here(&t) <= MEMORY);
    assert_eq!(fetch_all(&mut t, &mut area, c), Vec::from_iter(0..2_000));
}

/// Nobody publishes then, so that nothing else would bring it about.
#[test]
fn while_memory_is_short_what_failed_is_tried_again() {
    let (mut t, c) = small();
    let mut area = Area::default();
    fill(&mut t, c, 0..500);
    fail_all(&mut t);
    t.step(Input::Alarm(Some("low on memory")));
    fail_all(&mut t);
    let before = here(&t);
    t.pass_ms(4_999);
    assert!(t.swaps.is_empty());
    t.pass_ms(1);
    area.obey(&mut t);
    assert!(here(&t) <= MEMORY && before > 2 * MEMORY);
}

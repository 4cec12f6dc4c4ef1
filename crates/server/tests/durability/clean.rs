//! What is settled: a broker that is asked to stop, or has had the time to write.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use leveret_codec::{BasicAck, BasicConsume, BasicQos, ConfirmSelect, Method};

use crate::common::short;
use crate::files::{body, publish_confirmed};
use crate::link::{How, Link, durable_queue, existing_queue};
use crate::process::{Place, Process};

/// Takes all that is in `q`: numbers of messages, and whether they are said to be redelivered.
fn drain(link: &mut Link) -> Vec<(u32, bool)> {
    let Method::QueueDeclareOk(declared) = link.call(existing_queue("q")).unwrap() else {
        panic!("no queue")
    };
    link.call(consume("q")).unwrap();
    (0..declared.message_count)
        .map(|_| {
            let answer = link.answer().unwrap();
            let Method::BasicDeliver(deliver) = answer.method else {
                panic!("{:?}", answer.method)
            };
            (number(&answer.body), deliver.redelivered)
        })
        .collect()
}

fn number(octets: &[u8]) -> u32 {
    let n = u32::from_be_bytes(octets[..4].try_into().unwrap());
    assert!(octets == body(n), "octets as they were");
    n
}

fn consume(queue: &str) -> BasicConsume<'static> {
    BasicConsume {
        queue: short(queue),
        ..BasicConsume::default()
    }
}

#[test]
fn sigterm_loses_no_settle_and_no_confirmed_message() {
    const MESSAGES: u32 = 300;
    const PREFETCH: u16 = 50;

    let place = Place::new();
    let mut expected: BTreeSet<u32> = BTreeSet::new();
    let mut maybe: BTreeSet<u32> = BTreeSet::new();
    let mut delivered = BTreeSet::new();
    for run in 0..8 {
        let mut process = Process::start(&place.data());
        let mut publisher = process.link();
        publisher.call(durable_queue("q")).unwrap();
        publisher.call(ConfirmSelect::default()).unwrap();
        let first = run * MESSAGES;
        for n in first..first + MESSAGES {
            publisher.publish("", "q", How::Persistent, &body(n));
        }
        publisher.flush().unwrap();
        maybe.extend(first..first + MESSAGES);
        for _ in 0..200 {
            let Method::BasicAck(ack) = publisher.answer().unwrap().method else {
                panic!("no confirm")
            };
            let last = u32::try_from(ack.delivery_tag).unwrap();
            let from = if ack.multiple { 1 } else { last };
            expected.extend((from..=last).map(|tag| first + tag - 1));
            if last == MESSAGES {
                break;
            }
        }

        let mut consumer = process.link();
        consumer
            .call(BasicQos {
                prefetch_count: PREFETCH,
                ..BasicQos::default()
            })
            .unwrap();
        consumer.call(consume("q")).unwrap();
        for tag in 1..=u64::from(PREFETCH) {
            let answer = consumer.answer().unwrap();
            let Method::BasicDeliver(deliver) = answer.method else {
                panic!("{:?}", answer.method)
            };
            let n = number(&answer.body);
            assert_eq!(deliver.redelivered, delivered.contains(&n), "message {n}");
            delivered.insert(n);
            if tag % 2 == 0 {
                consumer.push(BasicAck {
                    delivery_tag: tag,
                    multiple: false,
                });
                expected.remove(&n);
                maybe.remove(&n);
            }
        }
        // Each ack is answered for by this: it is settled.
        let settled = consumer.call(BasicQos {
            prefetch_count: PREFETCH,
            ..BasicQos::default()
        });
        assert!(matches!(settled, Ok(Method::BasicQosOk(_))), "{settled:?}");
        // The room that the acks made was filled.
        for _ in 0..PREFETCH / 2 {
            delivered.insert(number(&consumer.answer().unwrap().body));
        }
        process.signal(rustix::process::Signal::TERM);
        // Neither answers the goodbye, but both are gone.
        drop((publisher, consumer));
        assert_eq!(process.wait().0, Some(0));
    }
    let process = Process::start(&place.data());
    let found = drain(&mut process.link());
    let numbers: Vec<u32> = found.iter().map(|(n, _)| *n).collect();
    assert!(numbers.is_sorted(), "each at its place, once");
    let numbers: BTreeSet<u32> = numbers.into_iter().collect();
    assert_eq!(numbers.len(), found.len());
    assert!(numbers.is_superset(&expected), "nothing confirmed is lost");
    let phantoms: Vec<_> = numbers
        .difference(&expected)
        .filter(|n| !maybe.contains(n))
        .collect();
    assert!(phantoms.is_empty(), "settled, and back: {phantoms:?}");
    // Exactly: the last to stop knew what it had delivered.
    let wrong: Vec<_> = found
        .into_iter()
        .filter(|(n, redelivered)| *redelivered != delivered.contains(n))
        .take(10)
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// Nothing waits for an ack to be safe, so nothing hurries it but the broker itself.
#[test]
fn an_ack_that_nothing_follows_is_safe_before_a_quarter_of_a_second() {
    const SOON: Duration = Duration::from_millis(250);

    let place = Place::new();
    let process = Process::start(&place.data());
    publish_confirmed(&mut process.link(), 0..100);
    let mut consumer = process.link();
    consumer.call(consume("q")).unwrap();
    for tag in 1..=100_u64 {
        consumer.answer().unwrap();
        if tag % 2 == 0 {
            consumer.push(BasicAck {
                delivery_tag: tag,
                multiple: false,
            });
        }
    }
    // Settled once this is answered; what follows is for the time to pass.
    consumer.call(BasicQos::default()).unwrap();
    let settled = Instant::now();
    while settled.elapsed() < SOON {
        consumer.call(BasicQos::default()).unwrap();
    }
    process.kill();
    let process = Process::start(&place.data());
    let found = drain(&mut process.link());
    let expected: Vec<_> = (0..100).step_by(2).map(|n| (n, true)).collect();
    assert_eq!(found, expected);
}

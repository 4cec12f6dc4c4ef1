//! What is not durable and too much for memory: it is on the disk until it is delivered, and until
//! the broker ends.

use std::fs;
use std::path::Path;

use leveret_codec::{BasicAck, BasicConsume, BasicQos, Method, QueueDeclare, QueueDelete};

use crate::common::short;
use crate::link::{How, Link, durable_queue, existing_queue};
use crate::process::{Place, Process, serve};

/// What a queue may hold in memory.
const MEMORY: &str = "64KiB";

/// So many are some 12 MiB: more than that and all that may be on its way between two of its places.
const MESSAGES: u32 = 3_000;

/// A broker that holds little in memory.
fn start(place: &Place) -> Process {
    let mut command = serve(&place.data());
    let mut process = Process::spawn_command(command.args(["--queue-memory-max", MEMORY]));
    process.wait_ready();
    process
}

/// Files of the swap area, and how many octets they are.
fn files(data: &Path) -> (usize, u64) {
    let entries = fs::read_dir(data.join("swap")).unwrap();
    let sizes = entries.map(|entry| entry.unwrap().metadata().unwrap().len());
    let sizes: Vec<u64> = sizes.collect();
    (sizes.len(), sizes.iter().sum())
}

/// The body of a message: its number, and octets of which no two messages have the same.
fn body(n: u32) -> Vec<u8> {
    let mut state = n.wrapping_mul(0x9e37_79b9) | 1;
    let length = 3_000 + n % 2_000;
    let more = (0..length).map(|_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 24) as u8
    });
    n.to_be_bytes().into_iter().chain(more).collect()
}

fn transient_queue(name: &str) -> QueueDeclare<'static> {
    QueueDeclare {
        queue: short(name),
        ..QueueDeclare::default()
    }
}

/// Publishes messages, all of which are in the queue afterwards.
fn fill(link: &mut Link, queue: &str, numbers: std::ops::Range<u32>, how: impl Fn(u32) -> How) {
    let count = numbers.end - numbers.start;
    for n in numbers {
        link.publish("", queue, how(n), &body(n));
        if n.is_multiple_of(100) {
            link.flush().unwrap();
        }
    }
    assert_eq!(ready(link, queue), count);
}

fn ready(link: &mut Link, queue: &str) -> u32 {
    match link.call(existing_queue(queue)).unwrap() {
        Method::QueueDeclareOk(declared) => declared.message_count,
        other => panic!("{other:?}"),
    }
}

fn consume(link: &mut Link, queue: &str, prefetch_count: u16) {
    let qos = BasicQos {
        prefetch_count,
        ..BasicQos::default()
    };
    link.call(qos).unwrap();
    let consume = BasicConsume {
        queue: short(queue),
        ..BasicConsume::default()
    };
    link.call(consume).unwrap();
}

/// Takes these messages, which have to come in order and with the octets they were sent with.
fn take(link: &mut Link, numbers: impl IntoIterator<Item = u32>) {
    for n in numbers {
        let answer = link.answer().unwrap();
        let Method::BasicDeliver(deliver) = answer.method else {
            panic!("{:?}", answer.method)
        };
        assert!(answer.body == body(n), "message {n} comes next, as it was");
        link.send(BasicAck {
            delivery_tag: deliver.delivery_tag,
            multiple: false,
        })
        .unwrap();
    }
}

#[test]
fn a_long_transient_backlog_is_on_disk_until_it_is_delivered() {
    let place = Place::new();
    let process = start(&place);
    assert_eq!(files(&place.data()).0, 0);

    let mut publisher = process.link();
    publisher.call(transient_queue("q")).unwrap();
    fill(&mut publisher, "q", 0..MESSAGES, |n| {
        // Nothing outlives a queue that is not durable, so this makes no difference.
        if n.is_multiple_of(3) {
            How::Persistent
        } else {
            How::Transient
        }
    });
    assert_ne!(files(&place.data()).0, 0, "more than memory may hold");

    let mut consumer = process.link();
    consume(&mut consumer, "q", 100);
    take(&mut consumer, 0..1_000);
    for n in MESSAGES..2 * MESSAGES {
        publisher.publish("", "q", How::Transient, &body(n));
    }
    publisher.flush().unwrap();
    take(&mut consumer, 1_000..2 * MESSAGES);
    assert_eq!(ready(&mut publisher, "q"), 0);
    process.stop();
    assert_eq!(files(&place.data()), (0, 0), "nothing is left behind");
}

#[test]
fn what_was_swapped_out_is_removed_at_the_next_start() {
    let place = Place::new();
    let process = start(&place);
    let mut link = process.link();
    link.call(transient_queue("q")).unwrap();
    fill(&mut link, "q", 0..MESSAGES, |_| How::Transient);
    process.kill();
    let (count, octets) = files(&place.data());
    assert!(count > 0 && octets > 0, "{count} files, {octets} octets");

    let process = start(&place);
    assert_eq!(files(&place.data()), (0, 0));
    let mut link = process.link();
    let gone = link.call(existing_queue("q")).unwrap();
    assert!(matches!(gone, Method::ChannelClose(_)), "{gone:?}");
    link.call(transient_queue("q")).unwrap();
    fill(&mut link, "q", 0..MESSAGES, |_| How::Transient);
    assert_ne!(files(&place.data()).0, 0);
    let deleted = link.call(QueueDelete {
        queue: short("q"),
        ..QueueDelete::default()
    });
    assert!(matches!(deleted, Ok(Method::QueueDeleteOk(ok)) if ok.message_count == MESSAGES));
    process.stop();
    assert_eq!(files(&place.data()), (0, 0));
}

#[test]
fn a_durable_queue_is_in_the_log_and_the_swap_area_and_comes_out_as_one() {
    let how = |n: u32| {
        if n.is_multiple_of(2) {
            How::Persistent
        } else {
            How::Transient
        }
    };
    let place = Place::new();
    let process = start(&place);
    let mut link = process.link();
    link.call(durable_queue("q")).unwrap();
    fill(&mut link, "q", 0..MESSAGES, how);
    assert_ne!(files(&place.data()).0, 0);
    let mut consumer = process.link();
    consume(&mut consumer, "q", 10);
    take(&mut consumer, 0..MESSAGES / 2);
    process.stop();

    // What is left of it after a restart is what is durable.
    let process = start(&place);
    let mut consumer = process.link();
    consume(&mut consumer, "q", 10);
    take(
        &mut consumer,
        (MESSAGES / 2..MESSAGES).filter(|n| n.is_multiple_of(2)),
    );
    assert_eq!(ready(&mut consumer, "q"), 0);
    process.stop();
}

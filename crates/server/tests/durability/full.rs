//! A disk that is full.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use leveret_codec::{BasicAck, BasicConsume, BasicQos, ConfirmSelect, Method, QueueDelete};

use crate::common::short;
use crate::link::{How, Link, durable_queue, existing_queue};
use crate::process::{Place, Process, refusal};

/// Messages published before their confirms are waited for.
const WINDOW: usize = 64;

/// A small disk of its own, in memory.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None if nothing can be mounted here.
    fn mount(path: &Path, size: &str) -> Option<Self> {
        let options = format!("size={size},mode=0700");
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "none"])
            .arg(path)
            .output();
        output
            .is_ok_and(|output| output.status.success())
            .then(|| Self(path.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status(); // a test has failed if so
    }
}

fn body(n: u32) -> Vec<u8> {
    let mut body = n.to_be_bytes().to_vec();
    body.resize(64 << 10, n as u8);
    body
}

/// Publishes until it is told to stop; returns what was published and what was confirmed of it.
fn fill(link: &mut Link) -> (u32, BTreeSet<u32>) {
    let mut confirmed = BTreeSet::new();
    link.call(durable_queue("q")).unwrap();
    link.call(durable_queue("other")).unwrap();
    link.call(ConfirmSelect::default()).unwrap();
    for n in 0.. {
        link.publish("", "q", How::Persistent, &body(n));
        link.flush().unwrap();
        loop {
            let is_behind = n as usize + 1 - confirmed.len() >= WINDOW;
            let answer = if is_behind {
                Some(link.answer().unwrap())
            } else {
                link.answer_if_there().unwrap()
            };
            match answer.map(|answer| answer.method) {
                Some(Method::BasicAck(ack)) => note(&mut confirmed, ack, 0),
                Some(Method::ConnectionBlocked(blocked)) => {
                    assert_eq!(&*blocked.reason, "low on disk");
                    return (n + 1, confirmed);
                }
                Some(other) => panic!("{other:?}"),
                None => break,
            }
        }
    }
    unreachable!("no disk is as large")
}

/// The first tag is of this message.
fn note(confirmed: &mut BTreeSet<u32>, ack: BasicAck, first: u32) {
    let last = u32::try_from(ack.delivery_tag).unwrap();
    let from = if ack.multiple { 1 } else { last };
    confirmed.extend((from..=last).map(|tag| first + tag - 1));
}

/// A consumer of a few at a time.
fn consumer(address: SocketAddr) -> Link {
    let mut link = Link::open(address).unwrap();
    let few = BasicQos {
        prefetch_count: 50,
        ..BasicQos::default()
    };
    link.call(few).unwrap();
    let consume = BasicConsume {
        queue: short("q"),
        ..BasicConsume::default()
    };
    link.call(consume).unwrap();
    link
}

/// Takes the next and acks it.
fn take(link: &mut Link) -> u32 {
    let answer = link.answer().unwrap();
    let Method::BasicDeliver(deliver) = answer.method else {
        panic!("{:?}", answer.method)
    };
    let n = u32::from_be_bytes(answer.body[..4].try_into().unwrap());
    assert!(answer.body == body(n), "octets as they were");
    link.send(BasicAck {
        delivery_tag: deliver.delivery_tag,
        multiple: false,
    })
    .unwrap();
    n
}

#[test]
fn a_full_disk_stops_publishers_and_nobody_else() {
    let place = Place::new();
    let Some(_disk) = SmallDisk::mount(place.path(), "300m") else {
        eprintln!(
            "left out: a_full_disk_stops_publishers_and_nobody_else (nothing can be mounted)"
        );
        return;
    };
    let process = Process::start(&place.data());
    let (published, confirmed) = fill(&mut process.link());
    assert!(confirmed.len() > 1_000, "{}", confirmed.len());
    // Nobody else has to wait, even before anything is settled.
    let delete = QueueDelete {
        queue: short("other"),
        ..QueueDelete::default()
    };
    let answer = process.link().call(delete).unwrap();
    assert!(matches!(answer, Method::QueueDeleteOk(_)), "{answer:?}");
    // Settles go on.
    let mut taken = BTreeSet::new();
    let mut link = consumer(process.address());
    for _ in 0..200 {
        taken.insert(take(&mut link));
    }
    link.call(BasicQos::default()).unwrap();
    drop(link);
    process.kill();

    // And so does a start.
    let process = Process::start(&place.data());
    let mut publisher = process.link();
    let Method::QueueDeclareOk(declared) = publisher.call(existing_queue("q")).unwrap() else {
        panic!("no queue")
    };
    let left = confirmed.difference(&taken).count();
    let count = declared.message_count as usize;
    assert!(
        (left..=published as usize).contains(&count),
        "{left}, {count}"
    );
    publisher.call(ConfirmSelect::default()).unwrap();
    // Not all of it fits: the log was full before.
    let more = published..published + 1_200;
    let mut blocked = false;
    for n in more.clone() {
        publisher.publish("", "q", How::Persistent, &body(n));
    }
    let mut told = BTreeSet::new();
    let mut missing: BTreeSet<u32> = confirmed
        .difference(&taken)
        .copied()
        .chain(more.clone())
        .collect();
    let address = process.address();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut link = consumer(address);
            while !missing.is_empty() {
                missing.remove(&take(&mut link));
            }
        });
        publisher.flush().unwrap();
        let mut unblocked = 0;
        while told.len() < more.len() || blocked {
            match publisher.answer().unwrap().method {
                Method::BasicAck(ack) => note(&mut told, ack, published),
                Method::ConnectionBlocked(why) => {
                    assert_eq!(&*why.reason, "low on disk");
                    blocked = true;
                }
                Method::ConnectionUnblocked(_) => {
                    unblocked += 1;
                    blocked = false;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(unblocked > 0, "by itself");
    });
    drop(publisher); // it would not answer the goodbye
    process.stop();
}

#[test]
fn a_disk_too_full_to_begin_with_is_refused() {
    let place = Place::new();
    let Some(_disk) = SmallDisk::mount(place.path(), "40m") else {
        eprintln!("left out: a_disk_too_full_to_begin_with_is_refused (nothing can be mounted)");
        return;
    };
    let (code, line) = refusal(&place.data());
    assert_eq!(code, Some(2), "nothing is damaged: {line}");
    assert!(line.contains("no room left on the disk"), "{line}");
}

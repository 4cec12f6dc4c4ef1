//! When messages came, and when their own time runs out: known at a start, without reading them.

mod common;

use std::fs;
use std::path::Path;

use common::*;
use leveret_core::ids::{QueueNumber, Seq, Wall};
use leveret_core::log::Recovered;
use leveret_core::message::Message;
use leveret_core::record::Fact;
use leveret_store::{FileDisk, Log, salvage, scan};

const T: u64 = 1_700_000_000_000;

/// A message that came `at` ms after T and says how many ms it lasts.
fn lasting(queue: QueueNumber, seq: u64, at: u64, ms: &str) -> Fact {
    let expiration = u16::to_le_bytes(1 << 8);
    let properties = u8::try_from(ms.len()).expect("short");
    let mut block = vec![expiration[0], expiration[1], properties + 1, 0, 0, 0, 4, 0];
    block.extend_from_slice(&[2, 0, 0, 2, b'r', b'k', properties]);
    block.extend_from_slice(ms.as_bytes());
    block.extend_from_slice(&[b'x'; 60]);
    Fact::Published {
        message: Message::from_block(&block).expect("a sound block"),
        user: "guest".into(),
        at: Wall(T + at),
        places: [(queue, Seq(seq))].into_iter().collect(),
    }
}

fn expiring(recovered: &Recovered) -> Vec<(u64, u64)> {
    let times = recovered.queues[0].expiring.iter();
    times.map(|(seq, at)| (seq.0, at.0 - T)).collect()
}

fn times(one: &One, queue: QueueNumber) -> Vec<(u64, Option<u64>)> {
    let fetched = one.log.reader().fetch(one.vhost, fetch(queue, 0, u64::MAX));
    assert_eq!(fetched.error, None);
    let messages = fetched.messages.iter();
    messages
        .map(|(seq, _, at)| (seq.0, at.map(|at| at.0 - T)))
        .collect()
}

#[test]
fn times_survive_every_way_to_start() {
    let dir = tempfile::tempdir_in(memory()).expect("a directory");
    let mut one = One::open(dir.path());
    let q = one.declare("q");
    one.commit([
        lasting(q, 1, 0, "1000"),
        publish(&[(q, 2)], "for ever"),
        Fact::Together(vec![lasting(q, 3, 7, "5"), lasting(q, 4, 8, "70000")]),
        lasting(q, 5, 9, "60000"),
    ]);
    one.commit([settle(q, 1)]);
    let expected = [(3, 12), (4, 70_008), (5, 60_009)];
    let came = [(2, Some(0)), (3, Some(7)), (4, Some(8)), (5, Some(9))];
    assert_eq!(times(&one, q), came);
    let vhost = one.log.lead("/").expect("led again").1;
    assert_eq!(expiring(&vhost), expected);
    drop(one);
    for how in ["scanned", "read from footers", "read from a checkpoint"] {
        let one = One::open(dir.path());
        assert_eq!(expiring(&one.recovered), expected, "{how}");
        assert_eq!(times(&one, q), came, "{how}");
        if how == "read from footers" {
            one.log.close().expect("closed");
        }
    }
    let to = tempfile::tempdir_in(memory()).expect("a directory");
    salvage(
        &FileDisk::new(dir.path()),
        FileDisk::new(to.path()),
        options(SMALL),
    )
    .expect("salvaged");
    let one = One::open(to.path());
    assert_eq!(expiring(&one.recovered), expected);
    assert_eq!(times(&one, q), came);
}

#[test]
fn times_go_along_when_messages_are_moved() {
    let dir = tempfile::tempdir_in(memory()).expect("a directory");
    let mut one = One::open(dir.path());
    let q = one.declare("q");
    for seq in 1..=600 {
        one.commit([lasting(q, seq, seq, "1000")]);
    }
    let gone = |seq: &u64| !seq.is_multiple_of(10);
    one.commit((1..=600).filter(gone).map(|seq| settle(q, seq)));
    one.keep_house();
    assert!(one.log.counts().bytes_moved > 0);
    let left: Vec<u64> = (10..=600).step_by(10).collect();
    let expected: Vec<_> = left.iter().map(|seq| (*seq, seq + 1_000)).collect();
    let came: Vec<_> = left.iter().map(|seq| (*seq, Some(*seq))).collect();
    assert_eq!(times(&one, q), came);
    drop(one);
    let one = One::open(dir.path());
    assert_eq!(expiring(&one.recovered), expected);
    assert_eq!(times(&one, q), came);
}

#[test]
fn a_purge_and_a_delete_forget_times() {
    let dir = tempfile::tempdir_in(memory()).expect("a directory");
    let mut one = One::open(dir.path());
    let q = one.declare("q");
    one.commit((1..=9).map(|seq| lasting(q, seq, 0, "1000")));
    one.commit([Fact::Purged {
        queue: q,
        places: vec![(Seq(1), Seq(4)), (Seq(6), Seq(8))],
    }]);
    let one = One::open(dir.path());
    assert_eq!(expiring(&one.recovered), [(5, 1_000), (9, 1_000)]);
}

/// A log of version 1: the segment of the fixture, and more behind it.
fn open_fixture(dir: &Path) -> One {
    let fixture = fs::read("tests/fixtures/v1.log").expect("a fixture");
    let number = scan(&fixture).segment.expect("a number");
    fs::write(dir.join(format!("{number:016x}.log")), fixture).expect("written");
    One::with(
        Log::open(FileDisk::new(dir), options(SMALL))
            .expect("a log that opens")
            .log,
    )
}

#[test]
fn messages_of_old_records_have_their_times_once_they_are_moved() {
    let dir = tempfile::tempdir_in(memory()).expect("a directory");
    let mut one = open_fixture(dir.path());
    let q = QueueNumber(1);
    let bodies = one.bodies(q);
    assert_eq!(times(&one, q), [(5, None), (6, None), (7, None)]);
    for seq in 100..=300 {
        one.commit([publish(&[(q, seq)], &"x".repeat(100))]);
    }
    // One stays in each segment, or they would go without anything being moved.
    let gone = (100..=300).filter(|seq| seq % 16 != 0);
    one.commit(gone.map(|seq| settle(q, seq)));
    one.keep_house();
    assert!(one.log.counts().bytes_moved > 0);
    for _ in 0..2 {
        assert_eq!(one.bodies(q)[..3], bodies);
        assert_eq!(
            times(&one, q)[..3],
            [(5, Some(0)), (6, Some(0)), (7, Some(0))]
        );
        one.log.close().expect("closed");
        one = One::open(dir.path());
    }
}

//! What is known of messages that are to be delivered again survives every way to start.

mod common;

use std::fs;

use common::*;
use leveret_core::ids::{QueueNumber, Seq, Wall};
use leveret_core::record::{Fact, Retry};
use leveret_store::{FileDisk, Log, salvage, scan};

const T: u64 = 1_700_000_000_000;

fn retry(seq: u64, until: u64, failures: u32, expires: Option<u64>) -> Retry {
    Retry {
        seq: Seq(seq),
        until: Wall(T + until),
        deliveries: failures + 1,
        failures,
        expires: expires.map(|at| Wall(T + at)),
    }
}

fn retried(queue: QueueNumber, retries: &[Retry]) -> Fact {
    Fact::Retried {
        queue,
        retries: retries.to_vec(),
    }
}

fn known(one: &One, queue: QueueNumber) -> Vec<Retry> {
    let queues = &one.recovered.queues;
    let kept = queues.iter().find(|kept| kept.number == queue);
    kept.map(|kept| kept.retries.clone()).unwrap_or_default()
}

#[test]
fn retries_survive_every_way_to_start() {
    let dir = tempfile::tempdir_in(memory()).expect("a directory");
    let mut one = One::open(dir.path());
    let q = one.declare("q");
    let other = one.declare("other");
    one.commit((1..=5).map(|seq| publish(&[(q, seq), (other, seq)], "m")));
    one.commit([
        retried(
            q,
            &[retry(1, 100, 1, None), retry(3, 70_000, 1, Some(90_000))],
        ),
        retried(other, &[retry(2, 100, u32::MAX - 1, None)]),
    ]);
    // The last one holds; what has left is forgotten, and so is what was never there.
    one.commit([
        Fact::Together(vec![
            retried(q, &[retry(1, 300, 2, None)]),
            retried(q, &[retry(9, 300, 2, None)]),
        ]),
        retried(q, &[retry(4, 300, 1, None)]),
        settle(q, 4),
    ]);
    let expected = [retry(1, 300, 2, None), retry(3, 70_000, 1, Some(90_000))];
    let others = [retry(2, 100, u32::MAX - 1, None)];
    drop(one);
    for how in ["scanned", "read from footers", "read from a checkpoint"] {
        let one = One::open(dir.path());
        assert_eq!(known(&one, q), expected, "{how}");
        assert_eq!(known(&one, other), others, "{how}");
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
    assert_eq!(known(&one, q), expected);
    assert_eq!(known(&one, other), others);
}

#[test]
fn retries_go_along_when_messages_are_moved_and_go_when_they_go() {
    let dir = tempfile::tempdir_in(memory()).expect("a directory");
    let mut one = One::open(dir.path());
    let q = one.declare("q");
    for seq in 1..=600 {
        one.commit([publish(&[(q, seq)], &"x".repeat(60))]);
        one.commit([retried(q, &[retry(seq, seq, 1, None)])]);
    }
    let gone = |seq: &u64| !seq.is_multiple_of(10);
    one.commit((1..=600).filter(gone).map(|seq| settle(q, seq)));
    one.keep_house();
    assert!(one.log.counts().bytes_moved > 0);
    one.commit([Fact::Purged {
        queue: q,
        places: vec![(Seq(20), Seq(595))],
    }]);
    drop(one);
    let one = One::open(dir.path());
    assert_eq!(
        known(&one, q),
        [retry(10, 10, 1, None), retry(600, 600, 1, None)]
    );
}

/// A log of version 1 as it was before there were retries opens, and takes them.
#[test]
fn an_old_log_takes_retries() {
    let dir = tempfile::tempdir_in(memory()).expect("a directory");
    let fixture = fs::read("tests/fixtures/v1.log").expect("a fixture");
    let number = scan(&fixture).segment.expect("a number");
    let path = dir.path().join(format!("{number:016x}.log"));
    fs::write(path, fixture).expect("written");
    let opened = Log::open(FileDisk::new(dir.path()), options(SMALL));
    let mut one = One::with(opened.expect("a log that opens").log);
    let q = QueueNumber(1);
    assert_eq!(known(&one, q), []);
    one.log.close().expect("closed"); // with a checkpoint that is as it was before
    one = One::open(dir.path());
    assert_eq!(known(&one, q), []);
    one.commit([retried(q, &[retry(6, 100, 1, None)])]);
    for _ in 0..2 {
        one.log.close().expect("closed");
        one = One::open(dir.path());
        assert_eq!(known(&one, q), [retry(6, 100, 1, None)]);
    }
}

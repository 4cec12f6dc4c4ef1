//! What goes on while the disk is full, and what waits without holding anything up.

mod common;
#[path = "common/faulty.rs"]
mod faulty;

use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use common::*;
use faulty::{Faults, FaultyDisk};
use leveret_core::ids::{Lsn, QueueNumber, Seq, Wall};
use leveret_core::log::{Journal, Lead, Report, Watcher};
use leveret_core::record::{Fact, Note, Record, Retry};
use leveret_store::{Log, Staged, Stepped, Store, StoreError};

const Q: QueueNumber = QueueNumber(1);
const OTHER: QueueNumber = QueueNumber(2);
/// Messages in the queue, the last record.
const MESSAGES: u64 = 30;
const LAST: u64 = MESSAGES + 2;

struct Ear(Mutex<Sender<Report>>);

impl Watcher for Ear {
    fn report(&self, report: Report) {
        // The test may be over.
        let _ = self.0.lock().expect("a sender").send(report);
    }
}

fn retry(seq: u64, failures: u32) -> Retry {
    Retry {
        seq: Seq(seq),
        until: Wall(1_700_000_000_000),
        deliveries: failures + 1,
        failures,
        expires: None,
    }
}

fn retried(seq: u64, failures: u32) -> Fact {
    Fact::Retried {
        queue: Q,
        retries: vec![retry(seq, failures)],
    }
}

fn noted(key: &str) -> Fact {
    Fact::Noted(Note {
        key: key.as_bytes().into(),
        value: Some(b"value"[..].into()),
    })
}

fn mark() -> Fact {
    Fact::MayDeliver {
        queue: Q,
        through: Seq(100_000),
    }
}

fn record(lsn: u64, fact: Fact) -> Record {
    Record {
        lsn: Lsn(lsn),
        fact,
    }
}

/// A queue with messages, and an empty one.
fn fill(path: &Path) {
    let mut one = One::open(path);
    assert_eq!((one.declare("q"), one.declare("other")), (Q, OTHER));
    one.commit((1..=MESSAGES).map(|seq| publish(&[(Q, seq)], &"x".repeat(1_000))));
    assert_eq!(one.lsn, LAST);
    one.log.close().expect("closed");
}

/// A log that was opened on a full disk takes what frees room and no more.
#[test]
fn what_frees_room_is_taken_while_the_disk_is_full() {
    let together = |facts: Vec<Fact>| Fact::Together(facts);
    let published = || publish(&[(Q, 99)], "m");
    let table = [
        (settle(Q, 1), true, "a settle"),
        (mark(), true, "consumers go on"),
        (retried(1, 1), false, "frees nothing, and has no end"),
        (noted("k"), false, "frees nothing"),
        (published(), false, "takes room"),
        (
            together(vec![settle(Q, 1), noted("k")]),
            true,
            "an ack of what a schedule has fired",
        ),
        (
            together(vec![settle(Q, 1), noted("k"), retried(2, 1), mark()]),
            true,
            "a settle with what it brings along",
        ),
        (
            together(vec![settle(Q, 1), settle(Q, 2)]),
            true,
            "acks of a transaction",
        ),
        (
            together(vec![noted("k"), noted("l")]),
            false,
            "no settle in it",
        ),
        (together(vec![retried(2, 1)]), false, "no settle in it"),
        (
            together(vec![settle(Q, 1), published()]),
            false,
            "takes room",
        ),
        (together(Vec::new()), false, "nothing in it"),
    ];
    for (fact, is_taken, why) in table {
        let dir = tempfile::tempdir_in(memory()).expect("a directory");
        fill(dir.path());
        let opened = Log::open(FaultyDisk::new(dir.path(), 0), options(SMALL));
        let mut log = opened.expect("a log").log;
        let (vhost, _) = log.lead("/").expect("a vhost");
        let taken = log.write(vec![Staged {
            vhost,
            records: vec![record(LAST + 1, fact.clone())],
        }]);
        let expected = if is_taken {
            Ok(())
        } else {
            Err(StoreError::Full)
        };
        assert_eq!(taken, expected, "{why}: {fact:?}");
    }
}

/// A store on a full disk.
struct Full {
    store: Store,
    one: Lead,
    reports: Receiver<Report>,
    faults: Arc<Faults>,
    lsn: u64,
}

impl Full {
    fn open(path: &Path) -> Self {
        let disk = FaultyDisk::new(path, 0);
        let faults = Arc::clone(&disk.faults);
        let store = Store::open(disk, options(SMALL)).expect("a store");
        let (sender, reports) = channel();
        let ear = Arc::new(Ear(Mutex::new(sender)));
        let one = store.lead("/", ear).expect("a vhost to lead");
        Self {
            store,
            one,
            reports,
            faults,
            lsn: LAST,
        }
    }

    fn append(&mut self, fact: Fact) {
        self.lsn += 1;
        self.one.log.append(&mut vec![record(self.lsn, fact)]);
    }

    /// Waits until all of it is safe, or as safe as it gets. Returns what was last said of room.
    fn wait(&self) -> Option<bool> {
        let mut said = None;
        loop {
            match self.reports.recv().expect("a report") {
                Report::Durable(Lsn(lsn)) if lsn >= self.lsn => return said,
                Report::Durable(_) => {}
                Report::Full(full) => said = Some(full),
                other => panic!("{other:?}"),
            }
        }
    }
}

fn retries_known(path: &Path) -> Vec<Retry> {
    let one = One::open(path);
    let queues = &one.recovered.queues;
    let kept = queues.iter().find(|kept| kept.number == Q);
    kept.map(|kept| kept.retries.clone()).unwrap_or_default()
}

/// Once it wrote into the reserve that acks need, and kept every ack waiting that came with it.
#[test]
fn a_client_that_rejects_in_a_circle_leaves_the_reserve_to_acks() {
    let dir = tempfile::tempdir_in(memory()).expect("a directory");
    fill(dir.path());
    let mut full = Full::open(dir.path());
    for round in 1..=2_000 {
        full.append(retried(1 + round % 3, u32::try_from(round).expect("few")));
    }
    full.wait();
    full.append(settle(Q, 2));
    full.wait();
    full.append(Fact::QueueDeleted {
        queue: OTHER,
        name: "other".into(),
    });
    assert_ne!(
        full.wait(),
        Some(false),
        "there is no more room than before"
    );
    full.faults.free.store(u64::MAX, SeqCst);
    while !matches!(full.reports.recv(), Ok(Report::Full(false))) {}
    full.append(retried(3, 9_000));
    full.wait();
    drop(full);
    let expected = [retry(1, 1_998), retry(3, 9_000)];
    assert_eq!(retries_known(dir.path()), expected, "the last of each");
}

/// A quota, for instance. Publishers were stopped and let go on in each turn, and turn followed turn.
#[test]
fn a_disk_that_has_room_and_refuses_files_is_full() {
    let dir = tempfile::tempdir_in(memory()).expect("a directory");
    fill(dir.path());
    let disk = FaultyDisk::new(dir.path(), 0);
    let faults = Arc::clone(&disk.faults);
    let mut log = Stepped::open(disk, options(SMALL)).expect("a log");
    let (sender, reports) = channel();
    let mut lead = log
        .lead("/", Arc::new(Ear(Mutex::new(sender))))
        .expect("led");
    faults.refuses.store(true, SeqCst);
    faults.free.store(u64::MAX, SeqCst);
    lead.log.append(&mut vec![record(LAST + 1, retried(1, 1))]);
    let turns = (0..10).take_while(|_| log.turn().expect("a turn")).count();
    assert!(turns < 3, "{turns} turns for nothing");
    let said: Vec<_> = reports
        .try_iter()
        .filter(|report| matches!(report, Report::Full(_)))
        .collect();
    assert_eq!(said.len(), 1, "{said:?}");
    faults.refuses.store(false, SeqCst);
    while log.turn().expect("a turn") {}
    drop(log);
    assert_eq!(retries_known(dir.path()), [retry(1, 1)]);
}

#[test]
fn a_stop_while_the_disk_is_full_forgets_no_retry() {
    let dir = tempfile::tempdir_in(memory()).expect("a directory");
    fill(dir.path());
    let mut full = Full::open(dir.path());
    for seq in 1..=20 {
        full.append(retried(seq, 1));
    }
    full.wait();
    full.store.close().expect("closed");
    let expected: Vec<_> = (1..=20).map(|seq| retry(seq, 1)).collect();
    assert_eq!(retries_known(dir.path()), expected);
}

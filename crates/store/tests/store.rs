//! The log with its threads, and the log on a disk that is full or fails.

mod common;
#[path = "common/faulty.rs"]
mod faulty;

use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use common::*;
use faulty::FaultyDisk;
use leveret_core::ids::{Lsn, QueueNumber, Seq};
use leveret_core::log::{Journal, Lead, LogError, Report, Watcher};
use leveret_core::record::{Fact, Record};
use leveret_store::{FileDisk, Log, Staged, Store, StoreError};

/// Passes on what it hears.
struct Ear(Mutex<Sender<Report>>);

impl Watcher for Ear {
    fn report(&self, report: Report) {
        // The test may be over.
        let _ = self.0.lock().expect("a sender").send(report);
    }
}

fn lead(store: &Store, vhost: &str) -> (Lead, Receiver<Report>) {
    let (sender, receiver) = channel();
    let ear = Arc::new(Ear(Mutex::new(sender)));
    (store.lead(vhost, ear).expect("a vhost to lead"), receiver)
}

fn records(first: u64, facts: impl IntoIterator<Item = Fact>) -> Vec<Record> {
    let numbered = (first..).zip(facts);
    numbered
        .map(|(lsn, fact)| Record {
            lsn: Lsn(lsn),
            fact,
        })
        .collect()
}

fn wait_for_durable(reports: &Receiver<Report>, lsn: u64) {
    loop {
        match reports.recv().expect("a report") {
            Report::Durable(Lsn(durable)) if durable >= lsn => return,
            Report::Durable(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

const Q: QueueNumber = QueueNumber(1);

#[test]
fn what_is_appended_is_reported_fetched_and_there_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(FileDisk::new(dir.path()), options(SMALL)).expect("a store");
    let (mut one, reports) = lead(&store, "/");
    one.log.append(&mut records(1, [queue("q")]));
    for seq in 1..=300 {
        let mut more = records(1 + seq, [publish(&[(Q, seq)], &format!("body {seq}"))]);
        one.log.append(&mut more);
        assert!(more.is_empty(), "the records are taken, their room stays");
    }
    wait_for_durable(&reports, 301);
    one.log.fetch(fetch(Q, 100, 110));
    let Ok(Report::Fetched(fetched)) = reports.recv() else {
        panic!("not fetched");
    };
    assert_eq!(fetched.messages.len(), 11);
    assert_eq!(fetched.messages[0].1.body(), b"body 100");
    store.close().expect("closed");
    assert_eq!(store.staged_bytes(), 0);
    assert!(
        store
            .lead("/", Arc::new(Ear(Mutex::new(channel().0))))
            .is_err()
    );
    drop(store);
    let store = Store::open(FileDisk::new(dir.path()), options(SMALL)).expect("a store");
    assert_eq!(store.cut(), None);
    let (one, _reports) = lead(&store, "/");
    assert_eq!(one.recovered.last, Lsn(301));
    assert_eq!(living(&one.recovered, Q).len(), 300);
}

#[test]
fn several_vhosts_share_a_store() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(FileDisk::new(dir.path()), options(SMALL)).expect("a store");
    let leads: Vec<_> = ["a", "b", "c"].map(|name| lead(&store, name)).into();
    let threads: Vec<_> = leads
        .into_iter()
        .map(|(mut one, reports)| {
            std::thread::spawn(move || {
                one.log.append(&mut records(1, [queue("q")]));
                for seq in 1..=500 {
                    let facts = [publish(&[(Q, seq)], "body"), settle(Q, seq)];
                    one.log.append(&mut records(2 * seq, facts));
                }
                wait_for_durable(&reports, 1_001);
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    store.close().expect("closed");
    assert!(logs(dir.path()).len() <= 2);
}

#[test]
fn a_full_disk_blocks_publishers_until_there_is_room() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = FaultyDisk::new(dir.path(), 6 * SMALL);
    let faults = Arc::clone(&disk.faults);
    let store = Store::open(disk, options(SMALL)).expect("a store");
    let (mut one, reports) = lead(&store, "/");
    one.log.append(&mut records(1, [queue("q")]));
    wait_for_durable(&reports, 1);
    let body = "x".repeat(1_000);
    let mut seq = 0;
    let mut durable = 1;
    loop {
        seq += 1;
        one.log
            .append(&mut records(1 + seq, [publish(&[(Q, seq)], &body)]));
        match reports.recv().expect("a report") {
            Report::Full(true) => break,
            Report::Durable(Lsn(lsn)) => durable = lsn,
            other => panic!("{other:?}"),
        }
    }
    assert!(seq >= 8, "{seq}");
    // What came until then is safe, and so is what says how far consumers may go, without any room
    // being made.
    let mark = Fact::MayDeliver {
        queue: Q,
        through: Seq(100_000),
    };
    one.log.append(&mut records(2 + seq, [mark]));
    while durable < 2 + seq {
        match reports.recv().expect("a report") {
            Report::Durable(Lsn(lsn)) => durable = lsn,
            other => panic!("{other:?}"),
        }
    }
    // Consumers go on, from the reserve if need be, and what they settle makes room again.
    for settled in 1..seq {
        one.log
            .append(&mut records(2 + seq + settled, [settle(Q, settled)]));
    }
    let mut is_full = true;
    while durable < 1 + 2 * seq || is_full {
        match reports.recv().expect("a report") {
            Report::Full(full) => is_full = full,
            Report::Durable(Lsn(lsn)) => durable = lsn,
            other => panic!("{other:?}"),
        }
    }
    store.close().expect("closed");
    assert!(faults.free.load(SeqCst) <= 6 * SMALL);
    let store = Store::open(FileDisk::new(dir.path()), options(SMALL)).expect("a store");
    let (one, _reports) = lead(&store, "/");
    assert_eq!(living(&one.recovered, Q), [seq]);
}

#[test]
fn a_failed_sync_is_reported_and_never_retried() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = FaultyDisk::new(dir.path(), u64::MAX);
    let faults = Arc::clone(&disk.faults);
    let store = Store::open(disk, options(SMALL)).expect("a store");
    let (mut one, reports) = lead(&store, "/");
    one.log.append(&mut records(1, [queue("q")]));
    wait_for_durable(&reports, 1);
    faults.syncs_fail.store(true, SeqCst);
    one.log.append(&mut records(2, [publish(&[(Q, 1)], "a")]));
    assert!(matches!(
        reports.recv(),
        Ok(Report::Lost(LogError::Unknown(_)))
    ));
    faults.syncs_fail.store(false, SeqCst);
    one.log.append(&mut records(3, [publish(&[(Q, 2)], "b")]));
    assert!(store.close().is_err());
    assert!(reports.try_recv().is_err(), "nothing more is reported");
}

#[test]
fn a_failed_write_poisons_the_log() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = FaultyDisk::new(dir.path(), u64::MAX);
    let faults = Arc::clone(&disk.faults);
    let mut log = Log::open(disk, options(SMALL)).expect("a log").log;
    let (vhost, _) = log.lead("/").expect("a vhost");
    let staged = |records| vec![Staged { vhost, records }];
    log.write(staged(records(1, [queue("q")])))
        .expect("written");
    faults.writes_fail.store(true, SeqCst);
    let error = log
        .write(staged(records(2, [publish(&[(Q, 1)], "a")])))
        .expect_err("failed");
    faults.writes_fail.store(false, SeqCst);
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    assert_eq!(log.sync(), Err(error.clone()));
    assert_eq!(log.housekeep(), Err(error.clone()));
    assert_eq!(
        log.write(staged(records(2, [queue("r")]))),
        Err(error.clone())
    );
    assert_eq!(log.lead("other").map(|led| led.0), Err(error.clone()));
    assert_eq!(log.close(), Err(error));
}

#[test]
fn full_means_that_nothing_was_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = FaultyDisk::new(dir.path(), 3 * SMALL);
    let faults = Arc::clone(&disk.faults);
    let mut log = Log::open(disk, options(SMALL)).expect("a log").log;
    let (vhost, _) = log.lead("/").expect("a vhost");
    let staged = |records| vec![Staged { vhost, records }];
    log.write(staged(records(1, [queue("q")])))
        .expect("written");
    log.sync().expect("synced");
    let before = contents(dir.path());
    // The first of them would have found room.
    let body = "x".repeat(500);
    let many = records(2, (1..=100).map(|seq| publish(&[(Q, seq)], &body)));
    assert_eq!(log.write(staged(many.clone())), Err(StoreError::Full));
    let segments = |contents: &[(std::path::PathBuf, Vec<u8>)]| -> Vec<_> {
        let logs = contents
            .iter()
            .filter(|(path, _)| path.extension().is_some_and(|e| e == "log"));
        logs.cloned().collect()
    };
    assert_eq!(segments(&contents(dir.path())), segments(&before));
    faults.free.store(u64::MAX, SeqCst);
    log.write(staged(many)).expect("there is room now");
    assert_eq!(log.sync().expect("synced"), [(vhost, Lsn(101))]);
    assert_eq!(
        log.reader().fetch(vhost, fetch(Q, 1, 100)).messages.len(),
        100
    );
}

#[test]
fn a_log_opens_on_a_full_disk_and_takes_settles() {
    let dir = tempfile::tempdir().expect("a directory");
    {
        let disk = FaultyDisk::new(dir.path(), u64::MAX);
        let mut log = Log::open(disk, options(SMALL)).expect("a log").log;
        let (vhost, _) = log.lead("/").expect("a vhost");
        let facts = std::iter::once(queue("q"));
        let facts = facts.chain((1..=30).map(|seq| publish(&[(Q, seq)], &"x".repeat(1_000))));
        log.write(vec![Staged {
            vhost,
            records: records(1, facts),
        }])
        .expect("written");
        log.sync().expect("synced");
    }
    let mut log = Log::open(FaultyDisk::new(dir.path(), 0), options(SMALL))
        .expect("a log")
        .log;
    let (vhost, recovered) = log.lead("/").expect("a vhost");
    assert_eq!(living(&recovered, Q).len(), 30);
    let staged = |records| vec![Staged { vhost, records }];
    let large = publish(&[(Q, 31)], &"x".repeat(3_000));
    assert_eq!(
        log.write(staged(records(32, [large.clone()]))),
        Err(StoreError::Full)
    );
    log.write(staged(records(32, (1..=30).map(|seq| settle(Q, seq)))))
        .expect("from the reserve");
    log.sync().expect("synced");
    while log.housekeep().expect("kept house") {}
    assert!(log.has_room().expect("asked"));
    log.write(staged(records(62, [large])))
        .expect("there is room again");
}

/// Every start begins a segment: those of the starts before must be freed before the reserve is
/// used up, whether the process ended as it should or not.
#[test]
fn a_full_disk_takes_settles_after_any_number_of_starts() {
    for is_closed in [true, false] {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = FaultyDisk::new(dir.path(), u64::MAX);
        let mut log = Log::open(disk, options(SMALL)).expect("a log").log;
        let (vhost, _) = log.lead("/").expect("a vhost");
        let facts = std::iter::once(queue("q"));
        let facts = facts.chain((1..=90).map(|seq| publish(&[(Q, seq)], &"x".repeat(1_000))));
        let staged = |records| vec![Staged { vhost, records }];
        log.write(staged(records(1, facts))).expect("written");
        log.sync().expect("synced");
        for start in 1..=20 {
            if is_closed {
                log.close().expect("closed");
            } else {
                drop(log);
            }
            log = Log::open(FaultyDisk::new(dir.path(), 0), options(SMALL))
                .expect("a log")
                .log;
            // Not in the first segment, and not in order: nothing of the 90 gets free by this.
            let seq = start * 4;
            log.write(staged(records(91 + start, [settle(Q, seq)])))
                .unwrap_or_else(|error| panic!("start {start}: {error}"));
            log.sync().expect("synced");
            let refused = log.write(staged(records(200, [publish(&[(Q, 91)], "x")])));
            assert_eq!(refused, Err(StoreError::Full));
        }
    }
}

/// Whoever finds a footer does not look at what it speaks of.
#[test]
fn data_is_safe_before_a_footer_speaks_of_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = FaultyDisk::new(dir.path(), u64::MAX);
    let faults = Arc::clone(&disk.faults);
    let mut log = Log::open(disk, options(SMALL)).expect("a log").log;
    let (vhost, _) = log.lead("/").expect("a vhost");
    let facts = std::iter::once(queue("q"));
    let facts =
        facts.chain((1..=90).map(|seq| publish(&[(Q, seq)], &"x".repeat(seq as usize * 70))));
    let records = records(1, facts);
    log.write(vec![Staged { vhost, records }]).expect("written");
    assert!(logs(dir.path()).len() > 10);
    log.close().expect("closed");
    assert_eq!(faults.early_footers.load(SeqCst), 0);
}

/// After a failed sync a system shows what is on no disk, and syncing it again does nothing.
#[test]
fn what_is_on_no_disk_is_not_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = FaultyDisk::new(dir.path(), u64::MAX);
    let faults = Arc::clone(&disk.faults);
    let mut log = Log::open(disk, options(64 << 10)).expect("a log").log;
    let (vhost, _) = log.lead("/").expect("a vhost");
    let staged = |records| vec![Staged { vhost, records }];
    log.write(staged(records(1, [queue("q"), publish(&[(Q, 1)], "safe")])))
        .expect("written");
    log.sync().expect("synced");
    let path = logs(dir.path()).pop().expect("a segment");
    let on_disk = std::fs::read(&path).expect("a segment");
    faults.syncs_fail.store(true, SeqCst);
    log.write(staged(records(3, [publish(&[(Q, 2)], "lost")])))
        .expect("written");
    log.sync().expect_err("failed");
    drop(log);

    let disk = FaultyDisk::new(dir.path(), u64::MAX);
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.expect("a name").to_owned();
    let mut content = disk.faults.on_disk.lock().expect("nobody panicked");
    content.insert(name, on_disk);
    drop(content);
    let mut log = Log::open(disk, options(64 << 10)).expect("a log").log;
    let (_, recovered) = log.lead("/").expect("a vhost");
    assert_eq!(living(&recovered, Q), [1]);
}

/// Three fifths of each segment live: usually that is left as it is.
#[test]
fn there_is_a_time_to_compact_more() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut log = Log::open(FileDisk::new(dir.path()), options(64 << 10))
        .expect("a log")
        .log;
    let (vhost, _) = log.lead("/").expect("a vhost");
    let body = "x".repeat(1_000);
    let published = (1..=1_000).map(|seq| publish(&[(Q, seq)], &body));
    let settled = (1..=1_000)
        .filter(|seq| seq % 5 < 2)
        .map(|seq| settle(Q, seq));
    let published = records(1, std::iter::once(queue("q")).chain(published));
    // Those that come with their settle are left out, so one after the other.
    for records in [published, records(1_002, settled)] {
        log.write(vec![Staged { vhost, records }]).expect("written");
        log.sync().expect("synced");
    }
    let rest = |log: &mut Log<FileDisk>| {
        while log.housekeep().expect("kept") {
            log.sync().expect("synced");
        }
    };
    rest(&mut log);
    let before = logs(dir.path()).len();
    assert!(before > 15, "{before} segments");
    log.compact_eagerly(true);
    rest(&mut log);
    let after = logs(dir.path()).len();
    assert!(after * 4 <= before * 3, "{before} segments became {after}");
    log.compact_eagerly(false);
    log.compact_eagerly(true);
    rest(&mut log);
    assert!(
        logs(dir.path()).len() <= after + 1,
        "what is full is left as it is"
    );
    log.close().expect("closed");
    let mut log = Log::open(FileDisk::new(dir.path()), options(64 << 10))
        .expect("a log")
        .log;
    let (_, recovered) = log.lead("/").expect("a vhost");
    let expected: Vec<u64> = (1..=1_000).filter(|seq| seq % 5 >= 2).collect();
    assert_eq!(living(&recovered, Q), expected);
}

//! What was written comes back, what was not complete is cut, what is damaged is refused.

mod common;

use std::fs;

use common::*;
use leveret_core::ids::{Lsn, QueueNumber, Seq};
use leveret_core::record::{Fact, MAY_DELIVER_FIRST, Note};
use leveret_store::{FileDisk, Log, StoreError};

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(memory()).expect("a directory")
}

#[test]
fn everything_written_comes_back() {
    let dir = directory();
    let mut one = One::open(dir.path());
    let q = one.declare("q");
    let gone = one.declare("gone");
    one.commit([exchange("x"), Fact::Bound(binding("x", "q", "a"))]);
    one.commit([Fact::Bound(binding("x", "gone", "a"))]);
    one.commit((1..=50).map(|seq| publish(&[(q, seq), (gone, seq)], &format!("body {seq}"))));
    one.commit([1, 2, 3, 7].map(|seq| settle(q, seq)));
    one.commit([
        Fact::QueueDeleted {
            queue: gone,
            name: "gone".into(),
        },
        Fact::MayDeliver {
            queue: q,
            through: Seq(70_000),
        },
    ]);
    let bodies = one.bodies(q);
    assert_eq!(bodies.len(), 46);
    let last = one.lsn;
    drop(one);
    for round in 0..2 {
        let one = One::open(dir.path());
        assert_eq!(one.recovered.last, Lsn(last), "round {round}");
        let facts: Vec<_> = one.recovered.definitions.clone();
        assert_eq!(facts.len(), 3, "the binding to `gone` went with it");
        assert_eq!(facts[0], (Lsn(q.0), queue("q")));
        assert_eq!(facts[1].1, exchange("x"));
        assert_eq!(facts[2].1, Fact::Bound(binding("x", "q", "a")));
        assert_eq!(one.recovered.queues.len(), 1);
        let found = &one.recovered.queues[0];
        assert_eq!(
            (found.last, found.delivered_through),
            (Seq(50), Seq(70_000))
        );
        assert_eq!(found.runs.len(), 2);
        assert_eq!(one.bodies(q), bodies);
        one.log.close().expect("closed");
    }
}

#[test]
fn a_new_queue_may_deliver_its_first_places() {
    let dir = directory();
    let mut one = One::open(dir.path());
    one.declare("q");
    let one = One::open(dir.path());
    let found = &one.recovered.queues[0];
    assert_eq!(found.delivered_through, Seq(MAY_DELIVER_FIRST));
}

#[test]
fn numbers_go_on_after_the_last() {
    let dir = directory();
    let mut one = One::open(dir.path());
    let q = one.declare("q");
    // Nothing of this is written, but its numbers were reported as safe.
    one.commit([publish(&[(q, 1)], "a"), settle(q, 1)]);
    assert_eq!(one.log.counts().left_out, 1);
    let last = one.lsn;
    let one = One::open(dir.path());
    assert_eq!(one.recovered.last, Lsn(last));
    assert!(one.living(q).is_empty());
}

#[test]
fn a_message_in_several_queues_is_left_out_only_if_it_left_all() {
    let dir = directory();
    let mut one = One::open(dir.path());
    let (a, b) = (one.declare("a"), one.declare("b"));
    one.commit([
        publish(&[(a, 1), (b, 1)], "both"),
        settle(a, 1),
        publish(&[(a, 2), (b, 2)], "none"),
        settle(b, 2),
        settle(a, 2),
    ]);
    assert_eq!(one.log.counts().left_out, 1);
    let one = One::open(dir.path());
    assert!(one.living(a).is_empty());
    assert_eq!(one.bodies(b), [(1, "both".to_owned())]);
}

#[test]
fn a_queue_declared_again_starts_empty() {
    let dir = directory();
    let mut one = One::open(dir.path());
    let q = one.declare("q");
    one.commit((1..=5).map(|seq| publish(&[(q, seq)], "old")));
    one.commit([Fact::QueueDeleted {
        queue: q,
        name: "q".into(),
    }]);
    let again = one.declare("q");
    assert_ne!(q, again);
    let one = One::open(dir.path());
    assert!(one.living(again).is_empty());
    assert_eq!(one.recovered.queues.len(), 1);
    assert_eq!(one.recovered.queues[0].last, Seq(0));
}

#[test]
fn a_transaction_is_there_or_not() {
    let dir = directory();
    let mut one = One::open(dir.path());
    let q = one.declare("q");
    one.commit([publish(&[(q, 1)], "one")]);
    let before = fs::read(&logs(dir.path())[0]).expect("a segment");
    one.commit([Fact::Together(vec![
        settle(q, 1),
        publish(&[(q, 2)], "two"),
        publish(&[(q, 3)], "three"),
    ])]);
    assert_eq!(
        one.bodies(q),
        [(2, "two".to_owned()), (3, "three".to_owned())]
    );
    let after = fs::read(&logs(dir.path())[0]).expect("a segment");
    let changed: Vec<_> = (0..after.len())
        .filter(|at| before[*at] != after[*at])
        .collect();
    for &at in &changed {
        let copy = copy(dir.path());
        let mut torn = after.clone();
        torn[at] ^= 0x10;
        fs::write(&logs(copy.path())[0], torn).expect("written");
        let one = One::open(copy.path());
        assert_eq!(one.living(q), [1], "torn at {at}");
    }
    let one = One::open(dir.path());
    assert_eq!(
        one.bodies(q),
        [(2, "two".to_owned()), (3, "three".to_owned())]
    );
}

/// The last batch was not synced when the power went: whatever is left of it, what was synced stays.
#[test]
fn a_torn_tail_is_cut_at_every_octet() {
    let dir = directory();
    let mut one = One::open(dir.path());
    let q = one.declare("q");
    one.commit([publish(&[(q, 1)], "safe")]);
    let path = logs(dir.path())[0].clone();
    let before = fs::read(&path).expect("a segment");
    one.write((2..=4).map(|seq| publish(&[(q, seq)], "unsafe")));
    let after = fs::read(&path).expect("a segment");
    let start = (0..after.len())
        .find(|at| before[*at] != after[*at])
        .expect("a change");
    let end = (0..after.len())
        .rfind(|at| before[*at] != after[*at])
        .expect("a change");
    for at in start..=end {
        let truncated = after[..at].to_vec();
        let mut zeroed = truncated.clone();
        zeroed.resize(after.len(), 0);
        let mut garbage = after.clone();
        garbage[at..].fill(0xa5);
        for (image, how) in [(truncated, "cut"), (zeroed, "zeroed"), (garbage, "garbage")] {
            let copy = copy(dir.path());
            fs::write(&logs(copy.path())[0], image).expect("written");
            let opened = open(copy.path()).unwrap_or_else(|error| panic!("{how} at {at}: {error}"));
            assert!(
                at == start || opened.cut.is_some(),
                "{how} at {at} is not reported"
            );
            let mut one = One::with(opened.log);
            let living = one.living(q);
            assert_eq!(
                living,
                (1..=living.len() as u64).collect::<Vec<_>>(),
                "{how} at {at}"
            );
            assert!((1..4).contains(&living.len()), "{how} at {at}");
            // And the log goes on from there.
            one.commit([publish(&[(q, 9)], "more")]);
            drop(one);
            let one = One::open(copy.path());
            assert_eq!(one.living(q).len(), living.len() + 1, "{how} at {at}");
        }
    }
}

#[test]
fn a_flipped_bit_in_what_was_safe_is_refused() {
    let dir = directory();
    let mut one = One::open(dir.path());
    let q = one.declare("q");
    one.commit([publish(&[(q, 1)], "first")]);
    one.commit([publish(&[(q, 2)], "second")]);
    let path = logs(dir.path())[0].clone();
    let image = fs::read(&path).expect("a segment");
    one.write([publish(&[(q, 3)], "third")]);
    let after = fs::read(&path).expect("a segment");
    let third = (0..after.len())
        .find(|at| image[*at] != after[*at])
        .expect("a change");
    for at in 0..third {
        let copy = copy(dir.path());
        let file = &logs(copy.path())[0];
        let mut rotten = after.clone();
        rotten[at] ^= 0x04;
        fs::write(file, &rotten).expect("written");
        let before = contents(copy.path());
        match open(copy.path()) {
            Err(StoreError::Corrupt {
                file: named,
                offset,
                ..
            }) => {
                assert_eq!(
                    Some(named.as_str()),
                    file.file_name().and_then(|name| name.to_str())
                );
                assert!(offset <= at as u64, "bit at {at}, said to be at {offset}");
            }
            other => panic!(
                "a flipped bit at {at}: {:?}",
                other.map(|opened| opened.cut)
            ),
        }
        assert_eq!(contents(copy.path()), before, "nothing is touched");
    }
}

#[test]
fn a_missing_segment_is_refused() {
    let dir = directory();
    let mut one = One::open(dir.path());
    let q = one.declare("q");
    one.commit((1..=200).map(|seq| publish(&[(q, seq)], &"x".repeat(100))));
    one.keep_house();
    one.commit((201..=300).map(|seq| publish(&[(q, seq)], &"x".repeat(100))));
    let files = logs(dir.path());
    assert!(files.len() > 5, "{}", files.len());
    drop(one);
    for file in &files[..files.len() - 1] {
        let copy = copy(dir.path());
        let name = file
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a name");
        fs::remove_file(copy.path().join(name)).expect("removed");
        match open(copy.path()) {
            Err(StoreError::Missing { file }) => assert_eq!(file, name),
            other => panic!("{name}: {:?}", other.map(|opened| opened.messages)),
        }
    }
}

#[test]
fn another_version_is_refused_and_not_touched() {
    let dir = directory();
    One::open(dir.path()).declare("q");
    let path = &logs(dir.path())[0];
    let mut image = fs::read(path).expect("a segment");
    image[8] = 2;
    let sum = crc32c::crc32c(&image[..60]);
    image[60..64].copy_from_slice(&sum.to_le_bytes());
    fs::write(path, image).expect("written");
    let before = contents(dir.path());
    let error = open(dir.path()).expect_err("refused");
    assert!(
        matches!(error, StoreError::Version { version: 2, .. }),
        "{error}"
    );
    assert_eq!(contents(dir.path()), before);
}

#[test]
fn the_log_of_empty_queues_is_two_segments_at_most() {
    let dir = directory();
    let mut one = One::open(dir.path());
    let q = one.declare("q");
    for seq in 1..=1_000 {
        one.commit([publish(&[(q, seq)], &"x".repeat(100))]);
        one.commit([settle(q, seq)]);
        one.keep_house();
        assert!(logs(dir.path()).len() <= 2);
    }
    let files = fs::read_dir(dir.path()).expect("a directory").count();
    assert!(files <= 6, "{files} files");
    let one = One::open(dir.path());
    assert!(one.living(q).is_empty());
    assert_eq!(one.recovered.queues[0].last, Seq(1_000));
}

#[test]
fn records_of_a_recycled_file_never_come_back() {
    let dir = directory();
    let mut one = One::open(dir.path());
    let q = one.declare("q");
    let mut settled = 0;
    for seq in 1..=500 {
        one.commit([publish(&[(q, seq)], &"x".repeat(seq as usize % 300))]);
        if seq % 3 != 0 {
            settled += 1;
            one.commit([settle(q, seq)]);
        }
        one.keep_house();
        if seq % 10 == 0 {
            one = One::open(dir.path());
            assert_eq!(one.living(q).len() as u64, seq - settled, "after {seq}");
        }
    }
}

#[test]
fn what_is_settled_is_settled_before_and_after_it_was_moved() {
    let dir = directory();
    let mut one = One::open(dir.path());
    let q = one.declare("q");
    let body = |seq: u64| format!("{seq} {}", "x".repeat(200));
    one.commit((1..=200).map(|seq| publish(&[(q, seq)], &body(seq))));
    let stays = |seq: &u64| seq.is_multiple_of(10);
    one.commit(
        (1..=200)
            .filter(|seq| !stays(seq))
            .map(|seq| settle(q, seq)),
    );
    let before = logs(dir.path()).len();
    one.keep_house();
    assert!(one.log.counts().bytes_moved > 0);
    assert!(logs(dir.path()).len() < before / 2);
    let expected: Vec<_> = (1..=200)
        .filter(stays)
        .map(|seq| (seq, body(seq)))
        .collect();
    assert_eq!(one.bodies(q), expected);
    drop(one);
    let mut one = One::open(dir.path());
    assert_eq!(one.bodies(q), expected);
    one.commit((1..=200).filter(stays).map(|seq| settle(q, seq)));
    one.keep_house();
    drop(one);
    let one = One::open(dir.path());
    assert!(one.living(q).is_empty());
}

#[test]
fn a_message_larger_than_a_segment_has_one_of_its_own() {
    let dir = directory();
    let mut one = One::open(dir.path());
    let q = one.declare("q");
    let large = "y".repeat(50_000);
    one.commit([
        publish(&[(q, 1)], "a"),
        publish(&[(q, 2)], &large),
        publish(&[(q, 3)], "b"),
    ]);
    let expected = [(1, "a".to_owned()), (2, large), (3, "b".to_owned())];
    assert_eq!(one.bodies(q), expected);
    drop(one);
    let mut one = One::open(dir.path());
    assert_eq!(one.bodies(q), expected);
    one.commit([2].map(|seq| settle(q, seq)));
    one.keep_house();
    let longest = contents(dir.path())
        .iter()
        .map(|(_, bytes)| bytes.len())
        .max();
    assert_eq!(longest, Some(SMALL as usize));
    assert_eq!(One::open(dir.path()).living(q), [1, 3]);
}

#[test]
fn a_closed_log_is_read_from_its_end() {
    let dir = directory();
    let mut one = One::open(dir.path());
    let q = one.declare("q");
    one.commit((1..=100).map(|seq| publish(&[(q, seq)], &"x".repeat(100))));
    one.log.close().expect("closed");
    let files = logs(dir.path());
    let before = contents(dir.path());
    let one = One::open(dir.path());
    assert_eq!(one.living(q).len(), 100);
    one.log.close().expect("closed");
    assert_eq!(
        contents(dir.path()),
        before,
        "nothing was written, nothing changed"
    );
    assert_eq!(logs(dir.path()), files);
}

#[test]
fn notes_come_back_from_a_checkpoint_of_many_pieces() {
    let dir = directory();
    let big = || Log::open(FileDisk::new(dir.path()), options(8 << 20)).expect("a log");
    let note = |number: u32, octets: usize| {
        let key = [&b"n\0"[..], &number.to_be_bytes()].concat().into();
        let value = Some(vec![number.to_le_bytes()[0]; octets].into());
        Fact::Noted(Note { key, value })
    };
    let mut one = One::with(big().log);
    // Of all lengths, one of them longer than two parts of a checkpoint.
    let notes = (0..300).map(|n| note(n, if n == 100 { 2_500_000 } else { n as usize * 40 }));
    let notes: Vec<_> = notes.collect();
    one.commit(notes.clone());
    for round in 0..2 {
        one.log.close().expect("closed");
        one = One::with(big().log);
        let found = one.recovered.definitions.iter();
        let found: Vec<_> = found.map(|(_, fact)| fact.clone()).collect();
        assert!(found == notes, "round {round}");
    }
}

#[test]
fn vhosts_do_not_see_each_other() {
    let dir = directory();
    let mut log = open(dir.path()).expect("a log").log;
    let (a, _) = log.lead("a").expect("a vhost");
    let (b, _) = log.lead("b").expect("a vhost");
    assert_ne!(a, b);
    let mut one = One {
        log,
        vhost: a,
        recovered: Default::default(),
        lsn: 0,
    };
    let q = one.declare("q");
    let in_a = one.stage([publish(&[(q, 1)], "a")]);
    one.vhost = b;
    one.lsn = 0;
    assert_eq!(one.declare("q"), q);
    let in_b = one.stage([publish(&[(q, 1)], "b")]);
    one.log.write(vec![in_a, in_b]).expect("written");
    assert_eq!(one.log.sync().expect("synced"), [(a, Lsn(2)), (b, Lsn(2))]);
    let mut log = open(dir.path()).expect("a log").log;
    assert_eq!(log.lead("b").expect("a vhost").0, b);
    assert_eq!(bodies(&log, a, q), [(1, "a".to_owned())]);
    assert_eq!(bodies(&log, b, q), [(1, "b".to_owned())]);
}

#[test]
fn a_fetch_stops_when_it_has_enough() {
    let dir = directory();
    let mut one = One::open(dir.path());
    let q = one.declare("q");
    one.commit((1..=20).map(|seq| publish(&[(q, seq)], &"x".repeat(1_000))));
    let reader = one.log.reader();
    for (bytes_max, expected) in [(0, 1), (1_014, 1), (2_028, 2), (5_000, 4)] {
        let mut wanted = fetch(q, 3, 12);
        wanted.bytes_max = bytes_max;
        let fetched = reader.fetch(one.vhost, wanted);
        assert_eq!(fetched.messages.len(), expected, "{bytes_max}");
        assert_eq!(fetched.messages[0].0, Seq(3));
    }
    assert_eq!(reader.fetch(one.vhost, fetch(q, 3, 12)).messages.len(), 10);
    let other = reader.fetch(one.vhost, fetch(QueueNumber(99), 1, 2));
    assert!(other.messages.is_empty() && other.error.is_none());
}

#[test]
fn a_rotten_message_is_reported_when_it_is_read() {
    let dir = directory();
    let mut one = One::open(dir.path());
    let q = one.declare("q");
    one.commit([
        publish(&[(q, 1)], "sound"),
        publish(&[(q, 2)], "rotten"),
        publish(&[(q, 3)], "s"),
    ]);
    one.log.close().expect("closed");
    let path = &logs(dir.path())[0];
    let mut image = fs::read(path).expect("a segment");
    let at = image
        .windows(6)
        .position(|six| six == b"rotten")
        .expect("the message");
    image[at] ^= 1;
    fs::write(path, image).expect("written");
    let log = Log::open(FileDisk::new(dir.path()), options(SMALL))
        .expect("footers are enough")
        .log;
    let one = One::with(log);
    let fetched = one.log.reader().fetch(one.vhost, fetch(q, 1, 3));
    assert_eq!(fetched.messages.len(), 1);
    assert!(fetched.error.is_some());
}

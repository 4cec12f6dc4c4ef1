//! Files that are damaged, old, or no log at all: what is said of them, and what can be saved.

mod common;

use std::fs;
use std::path::Path;

use common::*;
use leveret_core::ids::{Lsn, QueueNumber, Seq};
use leveret_core::record::Fact;
use leveret_store::{FileDisk, StoreError, check, salvage, scan, scan_heads};
use proptest::prelude::*;

const FIXTURE: &str = "tests/fixtures/v1.log";

/// A log of one segment with every kind of record in it but those of compaction.
fn write_all_kinds(path: &Path) {
    let mut one = One::open(path);
    let q = one.declare("q");
    let gone = one.declare("gone");
    one.commit([
        exchange("x"),
        exchange("y"),
        Fact::Bound(binding("x", "q", "key")),
        Fact::Bound(binding("x", "q", "other")),
        Fact::Unbound(binding("x", "q", "other")),
        Fact::ExchangeDeleted { name: "y".into() },
    ]);
    one.commit((1..=6).map(|seq| publish(&[(q, seq), (gone, seq)], &format!("body {seq}"))));
    one.commit([
        settle(q, 1),
        Fact::Purged {
            queue: q,
            places: vec![(Seq(3), Seq(4))],
        },
        Fact::MayDeliver {
            queue: q,
            through: Seq(99),
        },
    ]);
    one.commit([Fact::Together(vec![
        settle(q, 2),
        publish(&[(q, 7)], "in a transaction"),
    ])]);
    one.commit([publish(&[(q, 8)], "left out"), settle(q, 8)]);
    one.commit([Fact::QueueDeleted {
        queue: gone,
        name: "gone".into(),
    }]);
    one.log.close().expect("closed");
}

/// What must be known of the log that [`write_all_kinds`] wrote.
fn check_all_kinds(path: &Path) {
    let one = One::open(path);
    let q = QueueNumber(1);
    assert_eq!(one.recovered.last, Lsn(21));
    let definitions = one.recovered.definitions.iter();
    let definitions: Vec<_> = definitions
        .map(|(lsn, fact)| (lsn.0, fact.clone()))
        .collect();
    let expected = [
        (1, queue("q")),
        (3, exchange("x")),
        (5, Fact::Bound(binding("x", "q", "key"))),
    ];
    assert_eq!(definitions, expected);
    assert_eq!(one.recovered.queues[0].delivered_through, Seq(99));
    assert_eq!(one.recovered.queues[0].last, Seq(7));
    let bodies = [(5, "body 5"), (6, "body 6"), (7, "in a transaction")];
    assert_eq!(
        one.bodies(q),
        bodies.map(|(seq, body)| (seq, body.to_owned()))
    );
}

#[test]
fn every_kind_of_record_is_read_back() {
    let dir = tempfile::tempdir_in(memory()).expect("a directory");
    write_all_kinds(dir.path());
    check_all_kinds(dir.path());
    // To make the fixture, which must never change: WRITE_FIXTURE=1.
    if std::env::var_os("WRITE_FIXTURE").is_some() {
        fs::copy(&logs(dir.path())[0], FIXTURE).expect("a fixture");
    }
}

#[test]
fn files_of_version_1_stay_readable() {
    let dir = tempfile::tempdir_in(memory()).expect("a directory");
    let name = format!(
        "{:016x}.log",
        scan(&fs::read(FIXTURE).expect("a fixture"))
            .segment
            .expect("a number")
    );
    fs::copy(FIXTURE, dir.path().join(&name)).expect("a copy");
    check_all_kinds(dir.path());
    // And so do its batches without the footer.
    let mut image = fs::read(FIXTURE).expect("a fixture");
    let len = image.len();
    image[len - 32..].fill(0);
    let dir = tempfile::tempdir_in(memory()).expect("a directory");
    fs::write(dir.path().join(&name), image).expect("written");
    check_all_kinds(dir.path());
}

/// A CRC32C that fits one place of one segment only (docs/storage-format.md).
fn placed(segment: u64, offset: usize, octets: &[u8]) -> u32 {
    let place = segment << 32 | offset as u64;
    crc32c::crc32c_append(crc32c::crc32c(&place.to_le_bytes()), octets)
}

/// A batch at `at` with one record, of which this is the head.
fn batch(segment: u64, at: usize, head: &[u8]) -> Vec<u8> {
    let sum = placed(segment, at + 28 + 1 + 4, head);
    let mut frame = vec![u8::try_from(head.len()).expect("a short one")];
    frame.extend_from_slice(&sum.to_le_bytes());
    frame.extend_from_slice(head);
    let mut batch = b"LVBT".to_vec();
    batch.extend_from_slice(&u32::try_from(frame.len()).expect("short").to_le_bytes());
    batch.extend_from_slice(&1_u32.to_le_bytes());
    batch.extend_from_slice(&[0; 12]);
    let sum = placed(segment, at, &batch);
    batch.extend_from_slice(&sum.to_le_bytes());
    batch.extend_from_slice(&frame);
    batch
}

/// Footer and trailer for one batch with one record, at the end of a file of `size` octets.
fn footer(segment: u64, size: usize, head: &[u8]) -> Vec<u8> {
    let len = u8::try_from(2 * head.len()).expect("a short one");
    let mut footer = vec![28, len];
    footer.extend_from_slice(head);
    let (at, octets) = (size - 32 - footer.len(), footer.len());
    let end = 64 + batch(segment, 64, head).len();
    let mut trailer = b"LVRTFTR\0".to_vec();
    trailer.extend_from_slice(&segment.to_le_bytes());
    for number in [at, octets, end] {
        trailer.extend_from_slice(&u32::try_from(number).expect("small").to_le_bytes());
    }
    let sum = crc32c::crc32c_append(placed(segment, at, &footer), &trailer);
    footer.extend_from_slice(&trailer);
    footer.extend_from_slice(&sum.to_le_bytes());
    footer
}

/// They were taken for damage, or for a torn end, and cut off.
#[test]
fn a_record_of_a_kind_that_is_not_known_is_refused_and_nothing_is_touched() {
    #[rustfmt::skip]
    let heads: [(&[u8], u8, &str); 3] = [
        (&[200, 1, 99, 7, 7],            200, "by itself"),
        (&[17, 1, 99],                   17,  "a number that was never given"),
        (&[11, 1, 99, 2, 10, 1, 9, 200], 200, "together with one that is known"),
    ];
    for (head, kind, why) in heads {
        for sealed in [false, true] {
            let dir = tempfile::tempdir_in(memory()).expect("a directory");
            write_all_kinds(dir.path());
            let path = logs(dir.path())[0].clone();
            let mut image = fs::read(&path).expect("a segment");
            let segment = scan(&image).segment.expect("a number");
            let (at, size) = if sealed {
                (64, image.len())
            } else {
                let end = usize::try_from(scan(&image).end).expect("small");
                (end, image.len())
            };
            image[at..].fill(0);
            let batch = batch(segment, at, head);
            image[at..at + batch.len()].copy_from_slice(&batch);
            if sealed {
                let footer = footer(segment, size, head);
                image[size - footer.len()..].copy_from_slice(&footer);
            }
            fs::write(&path, image).expect("written");
            let before = contents(dir.path());
            let file = path.file_name().expect("a name").to_string_lossy();
            let expected = StoreError::Newer {
                file: file.into_owned(),
                offset: at as u64 + 28,
                kind,
            };
            let error = open(dir.path()).map(|_| ()).expect_err(why);
            assert_eq!(error, expected, "{why}, sealed: {sealed}");
            let line = error.to_string();
            assert!(
                line.contains(&format!("a record of kind {kind} at octet")),
                "{line}"
            );
            let disk = FileDisk::new(dir.path());
            assert_eq!(check(&disk).map(|_| ()), Err(expected.clone()));
            let to = tempfile::tempdir_in(memory()).expect("a directory");
            let salvaged = salvage(&disk, FileDisk::new(to.path()), options(SMALL));
            assert_eq!(salvaged.map(|_| ()), Err(expected));
            assert_eq!(contents(dir.path()), before, "{why}, sealed: {sealed}");
        }
    }
}

#[test]
fn a_sound_log_has_no_problems() {
    let dir = tempfile::tempdir_in(memory()).expect("a directory");
    write_all_kinds(dir.path());
    let findings = check(&FileDisk::new(dir.path())).expect("readable");
    assert_eq!(findings.problems, [""; 0]);
    assert_eq!((findings.messages, findings.segments.len()), (Some(3), 1));
    assert!(findings.segments[0].3, "sealed");
}

#[test]
fn each_flipped_bit_is_found_and_the_rest_is_saved() {
    let dir = tempfile::tempdir_in(memory()).expect("a directory");
    write_all_kinds(dir.path());
    let path = logs(dir.path())[0].clone();
    let image = fs::read(&path).expect("a segment");
    let end = scan(&image).end as usize;
    let mut saved_all = 0;
    for at in (0..end).step_by(7) {
        let copy = copy(dir.path());
        let mut rotten = image.clone();
        rotten[at] ^= 0x20;
        fs::write(&logs(copy.path())[0], rotten).expect("written");
        let findings = check(&FileDisk::new(copy.path())).expect("readable");
        assert!(!findings.problems.is_empty(), "bit at {at}");
        let to = tempfile::tempdir_in(memory()).expect("a directory");
        let salvaged = salvage(
            &FileDisk::new(copy.path()),
            FileDisk::new(to.path()),
            options(SMALL),
        );
        let salvaged = salvaged.unwrap_or_else(|error| panic!("bit at {at}: {error}"));
        assert_eq!(
            (salvaged.vhosts, salvaged.definitions),
            (1, 3),
            "bit at {at}"
        );
        assert!(salvaged.messages >= 2, "bit at {at}");
        saved_all += usize::from(salvaged.messages == 3);
        let one = One::open(to.path());
        assert_eq!(
            one.bodies(QueueNumber(1)).len() as u64,
            salvaged.messages,
            "bit at {at}"
        );
        assert_eq!(one.recovered.last, Lsn(21), "bit at {at}");
    }
    assert!(saved_all > 10);
}

#[test]
fn nothing_is_salvaged_into_a_log() {
    let dir = tempfile::tempdir_in(memory()).expect("a directory");
    write_all_kinds(dir.path());
    let disk = FileDisk::new(dir.path());
    let error = salvage(&disk, disk.clone(), options(SMALL)).expect_err("refused");
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
}

proptest! {
    #[test]
    fn no_octets_make_a_scan_panic(
        mut image in prop::collection::vec(any::<u8>(), 0..2_000),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
    ) {
        drop(scan(&image));
        drop(scan_heads(&image));
        // Damage in what is nearly sound goes further.
        let mut fixture = fs::read(FIXTURE).expect("a fixture");
        for (at, octet) in &changes {
            let at = at.index(fixture.len());
            fixture[at] = *octet;
        }
        let scanned = scan(&fixture);
        prop_assert!(scanned.end <= fixture.len() as u64);
        image.truncate(300);
        let end = fixture.len() - image.len();
        fixture[end..].copy_from_slice(&image);
        drop(scan(&fixture));
    }

    #[test]
    fn no_list_of_heads_makes_a_scan_panic(
        heads in prop::collection::vec((0..17_u8, prop::collection::vec(0..20_u8, 0..40)), 0..10),
    ) {
        let mut list = Vec::new();
        for (kind, rest) in heads {
            list.extend_from_slice(&[28, rest.len() as u8 + 1, kind]);
            list.extend_from_slice(&rest);
        }
        drop(scan_heads(&list));
    }
}

/// Files of two directories that somebody has put together. Found by fuzzing.
#[test]
fn a_file_that_is_there_as_a_segment_and_as_a_free_one_is_used_once() {
    let directory = tempfile::tempdir_in(memory()).expect("a directory");
    for (name, begin) in [
        ("01.free", b"\0\0\0\0"),
        ("13.log", b"\0\0\x0b0"),
        ("01.log", b"fre\0"),
    ] {
        let mut content = begin.to_vec();
        content.resize(4_096, 0);
        let name = format!("00000000000000{name}");
        fs::write(directory.path().join(name), content).expect("written");
    }
    let opened = open(directory.path()).expect("a log that opens");
    let free = contents(directory.path());
    let free = free
        .iter()
        .filter(|(path, _)| path.extension().is_some_and(|e| e == "free"));
    assert_eq!(opened.log.counts().spares, free.count() as u64);
    let mut one = One::with(opened.log);
    let q = one.declare("q");
    let body = "x".repeat(1_000);
    for seq in 1..=500 {
        one.commit([publish(&[(q, seq)], &body)]);
        one.commit([settle(q, seq)]);
        one.keep_house();
    }
    one.commit([publish(&[(q, 501)], "last")]);
    one.log.close().expect("closed");
    assert_eq!(One::open(directory.path()).living(q), [501]);
}

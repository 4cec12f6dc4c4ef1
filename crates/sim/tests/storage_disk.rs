//! The simulated disk itself: what it keeps, what it forgets, and how it fails.

use std::io::ErrorKind;

use leveret_sim::dice::Dice;
use leveret_sim::storage::disk::{Fault, Op, SimDisk};
use leveret_sim::storage::image::Crash;
use leveret_store::{Disk, DiskFile};

/// A disk with one synced file of 8 KiB, "a", of ones.
fn disk() -> SimDisk {
    let disk = SimDisk::default();
    let file = disk.create("a", 8_192).expect("there is room");
    file.write_at(0, &[1; 8_192]).expect("it works");
    file.sync().expect("it works");
    disk.sync_dir().expect("it works");
    disk
}

fn content(disk: &SimDisk, name: &str) -> Option<Vec<u8>> {
    let files = disk.files();
    files
        .into_iter()
        .find_map(|(n, octets)| (n == name).then_some(octets))
}

fn names(disk: &SimDisk) -> Vec<String> {
    disk.files().into_iter().map(|(name, _)| name).collect()
}

#[test]
fn what_is_synced_stays_however_it_crashes() {
    let synced = content(&disk(), "a");
    for seed in 0..20 {
        for crash in Crash::ALL {
            let image = disk().crashed(crash, &mut Dice::new(seed));
            assert_eq!(content(&image, "a"), synced, "{crash:?}");
        }
    }
}

#[test]
fn what_is_not_synced_is_seen_by_the_process_and_may_be_lost() {
    let disk = disk();
    let file = disk.open("a").expect("it is there");
    file.write_at(10, &[2; 10]).expect("it works");
    assert_eq!(content(&disk, "a").map(|c| c[10]), Some(2));
    let after = |crash| {
        let image = disk.crashed(crash, &mut Dice::new(1));
        content(&image, "a").map(|c| c[10])
    };
    assert_eq!(after(Crash::Lost), Some(1));
    assert_eq!(after(Crash::NamesOnly), Some(1));
    assert_eq!(after(Crash::Everything), Some(2));

    let killed = disk.killed();
    assert_eq!(content(&killed, "a").map(|c| c[10]), Some(2));
    let lost = killed.crashed(Crash::Lost, &mut Dice::new(1));
    assert_eq!(content(&lost, "a").map(|c| c[10]), Some(1));
}

#[test]
fn names_are_lost_unless_the_directory_is_synced() {
    let disk = disk();
    let file = disk.create("b", 100).expect("there is room");
    file.write_at(0, &[3; 100]).expect("it works");
    file.sync().expect("it works");
    disk.rename("a", "c").expect("it is free");
    let after = |crash| names(&disk.crashed(crash, &mut Dice::new(1)));
    assert_eq!(after(Crash::Lost), ["a"]);
    assert_eq!(after(Crash::NamesLost), ["a"]);
    assert_eq!(after(Crash::NamesOnly), ["b", "c"]);
    disk.sync_dir().expect("it works");
    disk.remove("b").expect("it is there");
    assert_eq!(names(&disk), ["c"]);
    assert_eq!(
        names(&disk.crashed(Crash::Lost, &mut Dice::new(1))),
        ["b", "c"]
    );
}

/// The space of a new file is reserved when the file is synced, whenever its name is.
#[test]
fn a_new_file_may_be_found_empty() {
    let disk = SimDisk::default();
    disk.create("a", 100).expect("there is room");
    disk.sync_dir().expect("it works");
    let lost = disk.crashed(Crash::Lost, &mut Dice::new(1));
    assert_eq!(content(&lost, "a"), Some(Vec::new()));
}

/// Of two changes of one name the second is not there without the first.
#[test]
fn names_change_in_order() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let disk = disk();
        disk.rename("a", "b").expect("it is free");
        disk.create("a", 10).expect("there is room");
        disk.rename("b", "c").expect("it is free");
        disk.create("z", 10).expect("there is room");
        let image = disk.crashed(Crash::NamesSubset, &mut Dice::new(seed));
        seen.insert(names(&image).join(""));
    }
    let seen: Vec<_> = seen.iter().map(String::as_str).collect();
    // The old "a", or where it went, is always there, and once.
    assert_eq!(
        seen,
        ["a", "ab", "abz", "ac", "acz", "az", "b", "bz", "c", "cz"]
    );
}

#[test]
fn a_torn_write_is_old_or_new_in_each_sector() {
    let (mut old, mut new, mut other) = (0, 0, 0);
    for seed in 0..100 {
        let disk = disk();
        let file = disk.open("a").expect("it is there");
        file.write_at(700, &[2; 5_000]).expect("it works");
        for (crash, sector) in [
            (Crash::Torn512, 512),
            (Crash::Torn4096, 4_096),
            (Crash::Garbage, 512),
        ] {
            let image = disk.crashed(crash, &mut Dice::new(seed));
            let content = content(&image, "a").expect("it is there");
            assert!(content[..700].iter().all(|octet| *octet == 1));
            assert!(content[5_700..].iter().all(|octet| *octet == 1));
            for from in (0..8_192).step_by(sector) {
                let piece = &content[from.clamp(700, 5_700)..(from + sector).clamp(700, 5_700)];
                if piece.iter().all(|octet| *octet == 1) {
                    old += piece.len();
                } else if piece.iter().all(|octet| *octet == 2) {
                    new += piece.len();
                } else {
                    assert_eq!(crash, Crash::Garbage);
                    other += piece.len();
                }
            }
        }
    }
    assert!(old > 10_000 && new > 10_000 && other > 10_000);
}

#[test]
fn what_a_failed_sync_should_have_kept_is_never_kept() {
    let disk = disk();
    let file = disk.open("a").expect("it is there");
    for pages_kept in [false, true] {
        file.write_at(0, &[2]).expect("it works");
        disk.fail(Fault {
            pages_kept,
            ..Fault::nth_of(Op::Sync, 0)
        });
        file.sync().expect_err("it fails");
        assert!(disk.has_failed());
        file.sync().expect("the second one says that all is well");
        let seen = if pages_kept { 2 } else { 1 };
        assert_eq!(content(&disk, "a").map(|c| c[0]), Some(seen));
        let image = disk.crashed(Crash::Everything, &mut Dice::new(1));
        assert_eq!(content(&image, "a").map(|c| c[0]), Some(1));
    }
}

#[test]
fn a_failed_write_may_be_done_in_part() {
    let disk = disk();
    let file = disk.open("a").expect("it is there");
    disk.fail(Fault {
        written_percent: 50,
        ..Fault::nth(1)
    });
    file.write_at(0, &[2; 10]).expect("the first one works");
    file.write_at(10, &[3; 10])
        .expect_err("the second does not");
    file.write_at(20, &[4; 10]).expect("the third does");
    let content = content(&disk, "a").expect("it is there");
    assert_eq!(content[8..22], [2, 2, 3, 3, 3, 3, 3, 1, 1, 1, 1, 1, 4, 4]);
}

#[test]
fn a_full_disk_takes_no_new_file() {
    let disk = disk();
    disk.set_capacity(10_000);
    assert_eq!(disk.free_bytes().expect("it works"), 1_808);
    let error = disk.create("b", 2_000).expect_err("no room");
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert_eq!(names(&disk), ["a"]);
    disk.create("b", 1_000).expect("there is room");
    disk.remove("a").expect("it is there");
    assert_eq!(disk.free_bytes().expect("it works"), 9_000);
}

#[test]
fn without_power_nothing_works() {
    let disk = disk();
    let file = disk.open("a").expect("it is there");
    disk.power_off_at(disk.operations() + 1);
    file.write_at(0, &[2]).expect("it works");
    assert!(!disk.is_off());
    file.write_at(1, &[2]).expect_err("off");
    file.read_at(0, &mut [0]).expect_err("off");
    disk.sync_dir().expect_err("off");
    disk.open("a").expect_err("off");
    assert!(disk.is_off());
    let image = disk.crashed(Crash::Everything, &mut Dice::new(1));
    assert_eq!(content(&image, "a").map(|c| (c[0], c[1])), Some((2, 1)));
}

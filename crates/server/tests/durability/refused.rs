//! Data directories that the broker does not start on: one line says why, and nothing in them is
//! touched.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::files::{body, find, flip, segments, snapshot, sum, three_segments};
use crate::process::{Place, Process, refusal, store_tool};

/// Tries to start; says with what line it was refused, after its name for the directory.
fn refused(data: &Path, code: i32) -> String {
    let before = snapshot(data);
    let (found, line) = refusal(data);
    assert_eq!(found, Some(code), "{line}");
    assert!(before == snapshot(data), "nothing is touched: {line}");
    line
}

#[test]
fn a_log_of_another_version_is_refused() {
    let place = three_segments();
    let first = segments(&place.data()).remove(0);
    let mut image = fs::read(&first).unwrap();
    image[8] = 77;
    let sum = sum(&image[..60]);
    image[60..64].copy_from_slice(&sum.to_le_bytes());
    fs::write(&first, image).unwrap();
    let line = refused(&place.data(), 2);
    assert!(line.contains(" has format version 77, which "), "{line}");
    let before = snapshot(&place.data());
    let to = place.path().join("saved");
    let (code, text) = store_tool(&[&"check", &place.data()]);
    assert_eq!(code, Some(2), "{text}");
    let (code, text) = store_tool(&[&"salvage", &place.data(), &to]);
    assert_eq!(code, Some(2), "{text}");
    assert!(before == snapshot(&place.data()));
}

#[test]
fn a_copy_without_one_of_its_segments_is_refused() {
    for missing in 0..2 {
        let place = three_segments();
        fs::remove_file(&segments(&place.data())[missing]).unwrap();
        let line = refused(&place.data(), 3);
        assert!(
            line.ends_with(" is missing; see `leveret store check`\n"),
            "{line}"
        );
    }
}

#[test]
fn a_copy_that_ends_in_the_midst_of_a_segment_is_refused() {
    for (segment, n) in [(0, 5), (1, 15)] {
        let place = three_segments();
        let path = segments(&place.data()).remove(segment);
        let at = find(&path, &body(n)) as u64;
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(at + 100).unwrap();
        let line = refused(&place.data(), 3);
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(
            line.contains(&format!("{name} is damaged at octet ")),
            "{line}"
        );
    }
}

#[test]
fn a_bit_that_flipped_where_all_was_safe_is_refused() {
    let place = three_segments();
    let open = segments(&place.data()).remove(2);
    flip(&open, find(&open, &body(24)) + 77);
    let line = refused(&place.data(), 3);
    assert!(line.contains(", though it was safe on the disk"), "{line}");
}

#[test]
fn a_directory_that_another_broker_uses_is_refused() {
    let place = Place::new();
    let process = Process::start(&place.data());
    let line = refused(&place.data(), 2);
    assert!(line.ends_with("another broker is using it\n"), "{line}");
    process.stop();
}

#[test]
fn a_file_in_the_place_of_a_directory_is_refused() {
    let place = Place::new();
    fs::write(place.data(), "something").unwrap();
    let line = refused(&place.data(), 2);
    assert!(line.ends_with("it is not a directory\n"), "{line}");
    let place = Place::new();
    Process::start(&place.data()).stop();
    fs::remove_dir_all(place.data().join("log")).unwrap();
    fs::write(place.data().join("log"), "something").unwrap();
    let line = refused(&place.data(), 2);
    assert!(line.contains("/data/log: "), "{line}");
}

#[test]
fn a_directory_that_can_only_be_read_is_refused() {
    let place = three_segments();
    let mount = |arguments: &[&str]| {
        let mut command = Command::new("mount");
        command.args(arguments).arg(place.data());
        command.output().is_ok_and(|output| output.status.success())
    };
    let data = place.data().display().to_string();
    // The mode of a directory is nothing to root, who has other means.
    if rustix::process::geteuid().is_root() {
        if !mount(&["--bind", &data]) {
            eprintln!(
                "left out: a_directory_that_can_only_be_read_is_refused (root, and nothing can be mounted)"
            );
            return;
        }
        assert!(mount(&["-o", "remount,bind,ro"]));
    } else {
        set_mode(&place.data(), 0o500);
        set_mode(&place.data().join("lock"), 0o400);
    }
    let refused = std::panic::catch_unwind(|| refused(&place.data(), 2));
    if rustix::process::geteuid().is_root() {
        let unmounted = Command::new("umount").arg(place.data()).status().unwrap();
        assert!(unmounted.success());
    } else {
        set_mode(&place.data(), 0o700);
    }
    let line = refused.unwrap();
    assert!(line.contains("cannot use the data directory "), "{line}");
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;

    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

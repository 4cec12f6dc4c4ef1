//! `leveret store`.

use std::fs;

use leveret_codec::{Method, QueueDeclareOk};

use crate::files::{body, find, flip, publish_confirmed, segments, snapshot, three_segments};
use crate::link::{Link, existing_queue};
use crate::process::{Place, Process, store_tool};

fn count(link: &mut Link) -> u32 {
    let answer = link.call(existing_queue("q")).unwrap();
    let Method::QueueDeclareOk(QueueDeclareOk { message_count, .. }) = answer else {
        panic!("{answer:?}")
    };
    message_count
}

#[test]
fn a_sound_log_is_called_so_and_left_alone() {
    let place = three_segments();
    let before = snapshot(&place.data());
    let (code, text) = store_tool(&[&"check", &place.data()]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(
        text.lines().filter(|l| l.starts_with("segment: ")).count(),
        3
    );
    assert!(text.contains("messages: 30, "), "{text}");
    assert!(text.ends_with("the log is sound\n"), "{text}");
    assert!(before == snapshot(&place.data()));
}

#[test]
fn what_is_damaged_is_found_and_the_rest_is_saved() {
    let place = three_segments();
    // In the midst of a segment that was sealed: the broker itself would find it late.
    let sealed = segments(&place.data()).remove(1);
    flip(&sealed, find(&sealed, &body(14)) + 100);
    let before = snapshot(&place.data());
    let name = sealed.file_name().unwrap().to_str().unwrap();
    let (code, text) = store_tool(&[&"check", &place.data()]);
    assert_eq!(code, Some(3), "{text}");
    let line = format!("damaged: {name} is damaged at octet ");
    assert_eq!(text.lines().filter(|l| l.starts_with(&line)).count(), 1);

    let to = place.path().join("saved");
    let (code, text) = store_tool(&[&"salvage", &place.data(), &to]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains(", 29 messages, "), "{text}");
    assert!(before == snapshot(&place.data()), "salvage only reads");

    let (code, text) = store_tool(&[&"check", &to]);
    assert_eq!(code, Some(0), "{text}");
    let process = Process::start(&to);
    let mut link = process.link();
    assert_eq!(count(&mut link), 29);
    publish_confirmed(&mut link, 30..31);
    assert_eq!(count(&mut link), 30);
    drop(link); // it would not answer the goodbye
    process.stop();
}

#[test]
fn a_sound_log_is_salvaged_whole() {
    let place = three_segments();
    let to = place.path().join("saved");
    let (code, text) = store_tool(&[&"salvage", &place.data(), &to]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.ends_with("nothing was damaged\n"), "{text}");
    let process = Process::start(&to);
    assert_eq!(count(&mut process.link()), 30);
    process.stop();
    // Only where there is nothing yet.
    let before = snapshot(&to);
    let (code, text) = store_tool(&[&"salvage", &place.data(), &to]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("there is a log in "), "{text}");
    assert!(before == snapshot(&to));
}

#[test]
fn a_log_that_is_in_use_or_not_there_is_not_read() {
    let place = Place::new();
    let process = Process::start(&place.data());
    let to = place.path().join("saved");
    for arguments in [
        &[&"check" as &dyn AsRef<std::ffi::OsStr>, &place.data()][..],
        &[&"salvage", &place.data(), &to],
    ] {
        let (code, text) = store_tool(arguments);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.ends_with("another broker is using it\n"), "{text}");
        assert!(!to.exists());
    }
    process.stop();
    let nowhere = place.path().join("nowhere");
    let empty = place.path().join("empty");
    fs::create_dir(&empty).unwrap();
    for dir in [&nowhere, &empty] {
        let (code, text) = store_tool(&[&"check", dir]);
        assert_eq!(code, Some(2), "{text}");
        let line = format!("leveret: there is no log in {}\n", dir.display());
        assert_eq!(text, line);
    }
    assert!(!nowhere.exists() && snapshot(&empty).len() == 1);
}

//! The files of a log, as somebody who meddles with them sees them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::link::{How, Link, durable_queue};
use crate::process::{Place, Process};
use leveret_codec::{ConfirmSelect, Method};

/// Everything below a directory: octets of files by path, nothing for directories.
pub(crate) fn snapshot(path: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    if path.is_file() {
        found.insert(path.to_owned(), Some(fs::read(path).unwrap()));
        return found;
    }
    found.insert(path.to_owned(), None);
    for entry in fs::read_dir(path).unwrap() {
        found.extend(snapshot(&entry.unwrap().path()));
    }
    found
}

/// Segments in order.
pub(crate) fn segments(data: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data.join("log")).unwrap();
    let mut paths: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    paths.sort();
    paths
}

/// Publishes so many messages to the queue `q`, each confirmed before the next, so that each is in
/// a batch of its own.
pub(crate) fn publish_confirmed(link: &mut Link, bodies: std::ops::Range<u32>) {
    link.call(durable_queue("q")).unwrap();
    link.call(ConfirmSelect::default()).unwrap();
    for n in bodies {
        link.publish("", "q", How::Persistent, &body(n));
        link.flush().unwrap();
        let answer = link.answer().unwrap().method;
        assert!(matches!(answer, Method::BasicAck(_)), "{answer:?}");
    }
}

/// What [`publish_confirmed`] publishes.
pub(crate) fn body(n: u32) -> Vec<u8> {
    let mut body = n.to_be_bytes().to_vec();
    body.resize(500, n as u8);
    body
}

/// A data directory with three segments, in each of which messages live: two sealed, and one that
/// was being written when the process was killed.
pub(crate) fn three_segments() -> Place {
    let place = Place::new();
    for run in 0..3 {
        let process = Process::start(&place.data());
        publish_confirmed(&mut process.link(), run * 10..(run + 1) * 10);
        if run < 2 {
            process.stop();
        } else {
            process.kill();
        }
    }
    assert_eq!(segments(&place.data()).len(), 3);
    place
}

/// Where octets of a message are in a file.
pub(crate) fn find(path: &Path, octets: &[u8]) -> usize {
    let image = fs::read(path).unwrap();
    image
        .windows(octets.len())
        .position(|window| window == octets)
        .expect("they are there")
}

/// Changes one bit of a file.
pub(crate) fn flip(path: &Path, at: usize) {
    let mut image = fs::read(path).unwrap();
    image[at] ^= 0x10;
    fs::write(path, image).unwrap();
}

/// CRC32C, bit by bit.
pub(crate) fn sum(octets: &[u8]) -> u32 {
    !octets.iter().fold(!0, |sum, &octet| {
        (0..8).fold(sum ^ u32::from(octet), |sum, _| {
            (sum >> 1) ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

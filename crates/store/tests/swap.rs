//! The swap area beside the log: what is in both comes back in order, and nothing stays for nobody.

mod common;

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use common::*;
use leveret_core::ids::{Lsn, QueueId, QueueNumber, Seq, Wall};
use leveret_core::log::{Fetch, Fetched, Journal, Lead, LogError, Report, Swap, Watcher};
use leveret_core::record::{Fact, Record};
use leveret_store::{FileDisk, Store};

/// Passes on what it hears.
struct Ear(Mutex<Sender<Report>>);

impl Watcher for Ear {
    fn report(&self, report: Report) {
        // The test may be over.
        let _ = self.0.lock().expect("a sender").send(report);
    }
}

struct Rig {
    dir: tempfile::TempDir,
    store: Store,
    lead: Lead,
    reports: Receiver<Report>,
    last: Lsn,
}

const Q: QueueNumber = QueueNumber(1);

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["log", "swap"] {
            std::fs::create_dir(dir.path().join(name)).expect("a folder");
        }
        std::fs::write(dir.path().join("swap/0000000000000007.swap"), "old").expect("a file");
        let disk = |name: &str| FileDisk::new(dir.path().join(name));
        let store =
            Store::open_with_swap(disk("log"), disk("swap"), options(SMALL)).expect("a store");
        let (sender, reports) = channel();
        let lead = store.lead("/", Arc::new(Ear(Mutex::new(sender))));
        let mut rig = Self {
            lead: lead.expect("a vhost to lead"),
            dir,
            store,
            reports,
            last: Lsn(0),
        };
        rig.append([queue("q")]);
        rig
    }

    fn append(&mut self, facts: impl IntoIterator<Item = Fact>) {
        let mut records = Vec::new();
        for fact in facts {
            self.last = Lsn(self.last.0 + 1);
            let lsn = self.last;
            records.push(Record { lsn, fact });
        }
        self.lead.log.append(&mut records);
        while !matches!(self.reports.recv(), Ok(Report::Durable(lsn)) if lsn == self.last) {}
    }

    fn swap_out(&mut self, seqs: impl IntoIterator<Item = u64>) -> Option<LogError> {
        let messages = seqs.into_iter().map(|seq| (Seq(seq), body(seq), time(seq)));
        self.lead.log.swap(Swap::Out {
            queue: QueueId::default(),
            messages: messages.collect(),
            bytes: 7,
        });
        match self.reports.recv() {
            Ok(Report::Swapped(swapped)) => {
                assert_eq!((swapped.queue, swapped.bytes), (QueueId::default(), 7));
                swapped.error
            }
            other => panic!("{other:?}"),
        }
    }

    fn forget(&mut self, first: u64, last: u64) {
        let queue = QueueId::default();
        let runs = vec![(Seq(first), Seq(last))];
        self.lead.log.swap(Swap::Forget { queue, runs });
    }

    fn fetch(&mut self, first: u64, last: u64, bytes_max: usize) -> Fetched {
        self.lead.log.fetch(Fetch {
            bytes_max,
            ..fetch(Q, first, last)
        });
        match self.reports.recv() {
            Ok(Report::Fetched(fetched)) => fetched,
            other => panic!("{other:?}"),
        }
    }

    fn seqs(&mut self, first: u64, last: u64) -> Vec<u64> {
        let fetched = self.fetch(first, last, usize::MAX);
        assert_eq!(fetched.error, None);
        for (seq, _, at) in &fetched.messages {
            assert_eq!(*at, time(seq.0));
        }
        numbers(&fetched)
    }

    fn files(&self) -> usize {
        files(&self.dir.path().join("swap"))
    }
}

fn files(path: &Path) -> usize {
    std::fs::read_dir(path).expect("a folder").count()
}

/// Messages of different lengths.
fn body(seq: u64) -> leveret_core::Message {
    let octets = 10 + (seq * 37 % 300) as usize;
    message(format!("{seq:0>octets$}").as_bytes())
}

/// When it arrived, if it is one of those that are to expire.
fn time(seq: u64) -> Option<Wall> {
    seq.is_multiple_of(3).then_some(Wall(1 << 40 | seq))
}

/// Places of what came, whose bodies have to be theirs.
fn numbers(fetched: &Fetched) -> Vec<u64> {
    let messages = fetched.messages.iter();
    let numbers = messages.map(|(seq, message, _)| {
        let text = std::str::from_utf8(message.body()).expect("text");
        let number: u64 = text.parse().expect("a number");
        assert_eq!(number, seq.0);
        number
    });
    numbers.collect()
}

/// Whatever the mixture and however little is asked for at once, what comes has no gap in it.
#[test]
fn log_and_swap_area_are_read_as_one() {
    for of_log in [1, 2, 3, 50] {
        let mut rig = Rig::new();
        let is_logged = |seq: &u64| seq % 100 < of_log;
        let facts = (1..=2_000).filter(is_logged).map(|seq| {
            let text = String::from_utf8(body(seq).body().to_vec());
            publish(&[(Q, seq)], &text.expect("text"))
        });
        rig.append(facts);
        assert_eq!(
            rig.swap_out((1..=2_000).filter(|seq| !is_logged(seq))),
            None
        );
        for bytes_max in [1, 500, 5_000, 70_000, usize::MAX] {
            let mut next = 1;
            while next <= 2_000 {
                let fetched = rig.fetch(next, 2_000, bytes_max);
                assert_eq!(fetched.error, None);
                let came = numbers(&fetched);
                let expected: Vec<u64> = (next..next + came.len() as u64).collect();
                assert_eq!(came, expected);
                assert!(!came.is_empty());
                next += came.len() as u64;
                if bytes_max == 1 && next > 300 {
                    break; // one by one is slow, and the same all along
                }
            }
        }
        rig.store.close().expect("closed");
    }
}

#[test]
fn what_is_forgotten_is_gone_and_its_files_with_the_last_of_it() {
    let mut rig = Rig::new();
    assert_eq!(rig.files(), 0, "what was there before is removed");
    assert_eq!(rig.swap_out(1..=10_000), None);
    assert_eq!(rig.files(), 1);
    rig.forget(1, 100);
    rig.forget(5_000, 5_001);
    rig.forget(9_999, u64::MAX);
    rig.forget(20_000, u64::MAX);
    assert_eq!(rig.swap_out(20_000..=20_010), None);
    let expected = (101..5_000).chain(5_002..9_999).chain(20_000..=20_010);
    assert_eq!(rig.seqs(1, u64::MAX), expected.collect::<Vec<_>>());
    rig.forget(0, u64::MAX);
    assert_eq!(rig.swap_out([30_000]), None);
    assert_eq!(rig.seqs(1, u64::MAX), [30_000]);
    assert_eq!(rig.files(), 1, "one is new, the other removed");
    rig.store.close().expect("closed");
    assert_eq!(rig.files(), 0);
}

#[test]
fn what_cannot_be_written_is_reported_and_not_kept() {
    // The folder is gone, so no file can be made.
    let mut rig = Rig::new();
    std::fs::remove_dir(rig.dir.path().join("swap")).expect("removed");
    assert!(rig.swap_out(1..=10).is_some());
    assert_eq!(rig.seqs(1, 10), [0_u64; 0]);
}

#[test]
fn a_damaged_message_is_reported_and_not_delivered() {
    let mut rig = Rig::new();
    assert_eq!(rig.swap_out(1..=10), None);
    let path = rig.dir.path().join("swap");
    let file = std::fs::read_dir(&path).expect("a folder").next();
    let file = file.expect("a file").expect("a file").path();
    let mut octets = std::fs::read(&file).expect("octets");
    let whole = body(5).body().to_vec();
    let at = octets.windows(whole.len()).position(|part| part == whole);
    octets[at.expect("it is there")] ^= 1;
    std::fs::write(&file, &octets).expect("written");
    let fetched = rig.fetch(1, 10, usize::MAX);
    assert_eq!(numbers(&fetched), [1, 2, 3, 4]);
    assert!(matches!(fetched.error, Some(LogError::Corrupt(_))));
}

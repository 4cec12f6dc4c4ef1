//! What tests of the log have in common: a directory, facts, and looking at what comes back.

#![allow(dead_code, reason = "each test file uses some of it")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use leveret_core::ids::{Lsn, QueueId, QueueNumber, Seq, Wall};
use leveret_core::log::{Fetch, Recovered};
use leveret_core::message::Message;
use leveret_core::record::{BindingFact, Fact, Record};
use leveret_store::{FileDisk, Log, Opened, Options, Staged, StoreError, VhostNumber};

/// Segments of 4 KiB, so that little is needed to fill some.
pub(crate) const SMALL: u64 = 4_096;

pub(crate) fn options(segment_bytes: u64) -> Options {
    Options {
        segment_bytes,
        free_bytes_min: 0,
        checkpoint_bytes: 4 * segment_bytes,
        step_bytes: 1_024,
    }
}

pub(crate) fn open(path: &Path) -> Result<Opened<FileDisk>, StoreError> {
    Log::open(FileDisk::new(path), options(SMALL))
}

/// A log with one vhost.
pub(crate) struct One {
    pub(crate) log: Log<FileDisk>,
    pub(crate) vhost: VhostNumber,
    pub(crate) recovered: Recovered,
    pub(crate) lsn: u64,
}

impl One {
    pub(crate) fn open(path: &Path) -> Self {
        Self::with(open(path).expect("a log that opens").log)
    }

    pub(crate) fn with(mut log: Log<FileDisk>) -> Self {
        let (vhost, recovered) = log.lead("/").expect("a vhost to lead");
        Self {
            log,
            vhost,
            lsn: recovered.last.0,
            recovered,
        }
    }

    pub(crate) fn stage(&mut self, facts: impl IntoIterator<Item = Fact>) -> Staged {
        let records = facts.into_iter().map(|fact| {
            self.lsn += 1;
            Record {
                lsn: Lsn(self.lsn),
                fact,
            }
        });
        Staged {
            records: records.collect(),
            vhost: self.vhost,
        }
    }

    /// Writes without syncing.
    pub(crate) fn write(&mut self, facts: impl IntoIterator<Item = Fact>) {
        let staged = self.stage(facts);
        self.log.write(vec![staged]).expect("written");
    }

    /// Writes and syncs.
    pub(crate) fn commit(&mut self, facts: impl IntoIterator<Item = Fact>) {
        self.write(facts);
        let durable = self.log.sync().expect("synced");
        assert_eq!(durable, [(self.vhost, Lsn(self.lsn))]);
    }

    pub(crate) fn declare(&mut self, name: &str) -> QueueNumber {
        self.commit([queue(name)]);
        QueueNumber(self.lsn)
    }

    pub(crate) fn keep_house(&mut self) {
        for _ in 0..100_000 {
            if !self.log.housekeep().expect("kept house") {
                return;
            }
        }
        panic!("housekeeping never ends");
    }

    pub(crate) fn bodies(&self, queue: QueueNumber) -> Vec<(u64, String)> {
        bodies(&self.log, self.vhost, queue)
    }

    pub(crate) fn living(&self, queue: QueueNumber) -> Vec<u64> {
        living(&self.recovered, queue)
    }
}

pub(crate) fn bodies(
    log: &Log<FileDisk>,
    vhost: VhostNumber,
    queue: QueueNumber,
) -> Vec<(u64, String)> {
    let fetched = log.reader().fetch(vhost, fetch(queue, 0, u64::MAX));
    assert_eq!(fetched.error, None);
    let bodies = fetched.messages.iter();
    bodies
        .map(|(seq, message, _)| (seq.0, String::from_utf8_lossy(message.body()).into_owned()))
        .collect()
}

pub(crate) fn living(recovered: &Recovered, queue: QueueNumber) -> Vec<u64> {
    let queue = recovered.queues.iter().find(|found| found.number == queue);
    let runs = queue.map(|queue| queue.runs.clone()).unwrap_or_default();
    runs.iter()
        .flat_map(|run| run.first.0..=run.last.0)
        .collect()
}

pub(crate) fn fetch(number: QueueNumber, first: u64, last: u64) -> Fetch {
    Fetch {
        queue: QueueId::default(),
        number,
        first: Seq(first),
        last: Seq(last),
        bytes_max: usize::MAX,
    }
}

pub(crate) fn queue(name: &str) -> Fact {
    Fact::QueueDeclared {
        name: name.into(),
        auto_delete: false,
        arguments: Arc::from(&b"\0\0\0\0"[..]),
    }
}

pub(crate) fn exchange(name: &str) -> Fact {
    Fact::ExchangeDeclared {
        name: name.into(),
        kind: "topic",
        auto_delete: true,
        internal: false,
        arguments: Arc::from(&[][..]),
    }
}

pub(crate) fn binding(source: &str, destination: &str, key: &str) -> BindingFact {
    BindingFact {
        source: source.into(),
        destination: destination.into(),
        to_queue: true,
        routing_key: key.into(),
        arguments: Arc::from(&[][..]),
    }
}

/// A message without properties.
pub(crate) fn message(body: &[u8]) -> Message {
    let mut block = vec![0, 0, 0, 0, 0, 0, 4, 0, 2, 0, 0, 2, b'r', b'k'];
    block.extend_from_slice(body);
    Message::from_block(&block).expect("a sound block")
}

pub(crate) fn publish(places: &[(QueueNumber, u64)], body: &str) -> Fact {
    Fact::Published {
        message: message(body.as_bytes()),
        user: "guest".into(),
        at: Wall(1_700_000_000_000),
        places: places
            .iter()
            .map(|&(queue, seq)| (queue, Seq(seq)))
            .collect(),
    }
}

pub(crate) fn settle(queue: QueueNumber, seq: u64) -> Fact {
    Fact::Settled {
        queue,
        seq: Seq(seq),
    }
}

/// Files of segments in use, in order.
pub(crate) fn logs(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).expect("a directory");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut logs: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|ending| ending == "log"))
        .collect();
    logs.sort();
    logs
}

/// Everything in a directory, to see whether something was touched.
pub(crate) fn contents(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(path).expect("a directory");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .map(|path| (path.clone(), std::fs::read(path).expect("a file")))
        .collect();
    files.sort();
    files
}

/// A copy of a directory, to be damaged.
pub(crate) fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir_in(memory()).expect("a directory");
    for (path, bytes) in contents(from) {
        let name = path.file_name().expect("a name");
        std::fs::write(to.path().join(name), bytes).expect("written");
    }
    to
}

/// A place for directories where syncing costs nothing, if there is one.
pub(crate) fn memory() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() {
        return memory;
    }
    std::env::temp_dir()
}

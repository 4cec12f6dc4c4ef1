//! How many records a second the log takes: messages of 100 octets, published and settled in
//! separate batches, in a temporary directory.
//!
//! `cargo bench -p leveret-store --bench append [-- DIRECTORY]`

use std::path::PathBuf;
use std::time::{Duration, Instant};

use leveret_core::ids::{Lsn, QueueNumber, Seq, Wall};
use leveret_core::message::Message;
use leveret_core::record::{Fact, Record};
use leveret_store::{FileDisk, Log, Options, Staged, VhostNumber};

const MESSAGES: u64 = 1_000_000;

fn main() {
    let given = std::env::args().nth(1).filter(|first| first != "--bench");
    let dir = match &given {
        Some(path) => tempfile::tempdir_in(path),
        None => tempfile::tempdir(),
    }
    .expect("a directory");
    for (batch, backlog) in [(100, 0), (1_000, 0), (10_000, 0), (1_000, 500_000)] {
        let path = dir.path().join(format!("{batch}-{backlog}"));
        std::fs::create_dir(&path).expect("a directory");
        run(path, batch, backlog);
    }
}

fn run(path: PathBuf, batch: u64, backlog: u64) {
    let mut log = Log::open(FileDisk::new(path), Options::default())
        .expect("a log")
        .log;
    let (vhost, _) = log.lead("/").expect("a vhost");
    let mut lsn = 1;
    let queue = QueueNumber(lsn);
    let declared = Record {
        lsn: Lsn(lsn),
        fact: Fact::QueueDeclared {
            name: "q".into(),
            auto_delete: false,
            arguments: [].into(),
        },
    };
    commit(&mut log, vhost, vec![declared]);
    let message = message();
    let (mut next, mut settled) = (1, 1);
    let [mut writing, mut syncing, mut keeping] = [Duration::ZERO; 3];
    let begun = Instant::now();
    let mut total = 0;
    while settled <= MESSAGES {
        let is_publish = next <= MESSAGES && next - settled <= backlog;
        let records = (0..batch).map(|_| {
            lsn += 1;
            let fact = if is_publish {
                next += 1;
                Fact::Published {
                    message: message.clone(),
                    user: "guest".into(),
                    at: Wall(1_700_000_000_000 + lsn),
                    places: [(queue, Seq(next - 1))].into_iter().collect(),
                }
            } else {
                settled += 1;
                Fact::Settled {
                    queue,
                    seq: Seq(settled - 1),
                }
            };
            Record {
                lsn: Lsn(lsn),
                fact,
            }
        });
        let records: Vec<_> = records.collect();
        total += records.len();
        let start = Instant::now();
        log.append(&[Staged { vhost, records }]).expect("written");
        writing += start.elapsed();
        let start = Instant::now();
        log.sync().expect("synced");
        syncing += start.elapsed();
        let start = Instant::now();
        while log.housekeep().expect("kept house") {}
        keeping += start.elapsed();
    }
    let took = begun.elapsed();
    let counts = log.counts();
    let rate = |time: Duration| total as f64 / time.as_secs_f64() / 1_000.0;
    println!(
        "batches of {batch}, backlog of {backlog}: {:.0} k records/s; {:.0} k/s in writing alone \
         ({:.2} s of {:.2} s, syncs {:.2} s, housekeeping {:.2} s); {} syncs, {} B written a \
         message, {} B moved, {} segments",
        rate(took),
        rate(writing),
        writing.as_secs_f64(),
        took.as_secs_f64(),
        syncing.as_secs_f64(),
        keeping.as_secs_f64(),
        counts.syncs,
        counts.bytes_written / MESSAGES,
        counts.bytes_moved,
        counts.segments,
    );
}

fn commit(log: &mut Log<FileDisk>, vhost: VhostNumber, records: Vec<Record>) {
    log.append(&[Staged { vhost, records }]).expect("written");
    log.sync().expect("synced");
}

/// 100 octets under the key `q`, delivery mode 2.
fn message() -> Message {
    let mut block = vec![0, 0x10, 1, 0, 0, 0, 3, 0, 2, 0, 0, 1, b'q', 2];
    block.extend_from_slice(&[b'x'; 100]);
    Message::from_block(&block).expect("a sound block")
}

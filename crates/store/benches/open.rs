//! How long it takes to open a log with many messages, after a crash and after a clean end, and how
//! long the log is kept busy by what concerns all of them at once: a checkpoint, a purge, the
//! deletion of their queue.
//!
//! `cargo bench -p leveret-store --bench open [-- DIRECTORY]`. Takes 4 GB of disk.

use std::path::Path;
use std::time::{Duration, Instant};

use leveret_core::ids::{Lsn, QueueNumber, Seq, Wall};
use leveret_core::message::Message;
use leveret_core::record::{Fact, Record};
use leveret_store::{FileDisk, Log, Opened, Options, Staged, VhostNumber};

/// Records in a batch.
const BATCH: u64 = 1_000;

const QUEUE: QueueNumber = QueueNumber(1);

fn main() {
    let given = std::env::args().nth(1).filter(|first| first != "--bench");
    let dir = match &given {
        Some(path) => tempfile::tempdir_in(path),
        None => tempfile::tempdir(),
    }
    .expect("a directory");
    for (messages, bytes, every) in [
        (2_000_000, 100, 1),
        (2_000_000, 100, 2),
        (2_000_000, 1_024, 1),
    ] {
        for is_purge in [true, false] {
            let path = dir.path().join(format!("{bytes}-{every}-{is_purge}"));
            std::fs::create_dir(&path).expect("a directory");
            println!("{messages} messages of {bytes} octets, 1 of {every} is left:");
            fill(&path, messages, bytes, every);
            measure(&path, messages, is_purge);
            std::fs::remove_dir_all(&path).expect("removed");
        }
    }
}

fn fill(path: &Path, messages: u64, bytes: usize, every: u64) {
    let mut log = open("an empty log", path);
    log.lead("/").expect("a vhost");
    let message = message(bytes);
    let declared = Fact::QueueDeclared {
        name: "q".into(),
        auto_delete: false,
        arguments: [].into(),
    };
    write(&mut log, 1, vec![declared]);
    for first in (1..=messages).step_by(BATCH as usize) {
        let seqs = first..(first + BATCH).min(messages + 1);
        let publish = |seq| Fact::Published {
            message: message.clone(),
            user: "guest".into(),
            at: Wall(1_700_000_000_000 + seq),
            places: [(QUEUE, Seq(seq))].into_iter().collect(),
        };
        write(&mut log, 1 + first, seqs.map(publish).collect());
        while log.housekeep().expect("kept house") {}
    }
    if every > 1 {
        for first in (1..=messages).step_by(BATCH as usize) {
            let seqs = (first..first + BATCH).filter(|seq| seq % every != 0);
            let settle = |seq| Fact::Settled {
                queue: QUEUE,
                seq: Seq(seq),
            };
            write(&mut log, messages + 1 + first, seqs.map(settle).collect());
            while log.housekeep().expect("kept house") {}
        }
    }
    log.sync().expect("synced");
}

fn measure(path: &Path, messages: u64, is_purge: bool) {
    let mut log = open("after a crash", path);
    let may_deliver = Fact::MayDeliver {
        queue: QUEUE,
        through: Seq(messages),
    };
    write(&mut log, 9 * messages, vec![may_deliver]);
    timed("close, with a checkpoint", || log.close().expect("closed"));
    let mut log = open("after a clean end", path);
    timed("what is known of the vhost", || {
        log.lead("/").expect("a vhost")
    });
    let lsn = 10 * messages;
    let (what, fact) = if is_purge {
        let places = vec![(Seq(1), Seq(messages))];
        let queue = QUEUE;
        ("purge", Fact::Purged { queue, places })
    } else {
        let (queue, name) = (QUEUE, "q".into());
        ("deletion", Fact::QueueDeleted { queue, name })
    };
    timed(what, || write(&mut log, lsn, vec![fact]));
    log.sync().expect("synced");
    let (mut longest, mut all) = (Duration::ZERO, Duration::ZERO);
    loop {
        let start = Instant::now();
        let more = log.housekeep().expect("kept house");
        longest = longest.max(start.elapsed());
        all += start.elapsed();
        if !more {
            break;
        }
    }
    println!("  housekeeping after it: {all:.1?}, a step at most {longest:.1?}");
}

fn open(what: &str, path: &Path) -> Log<FileDisk> {
    let Opened { log, messages, .. } = timed(&format!("open {what}"), || {
        Log::open(FileDisk::new(path), Options::default()).expect("a log")
    });
    let segments = log.counts().segments;
    println!("    {messages} messages in {segments} segments");
    log
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    println!("  {what}: {:.1?}", start.elapsed());
    result
}

fn write(log: &mut Log<FileDisk>, lsn: u64, facts: Vec<Fact>) {
    let vhost = VhostNumber(1);
    let numbered = (lsn..).zip(facts);
    let records = numbered.map(|(lsn, fact)| Record {
        lsn: Lsn(lsn),
        fact,
    });
    let records = records.collect();
    log.append(&[Staged { vhost, records }]).expect("written");
}

/// So many octets under the key `q`, delivery mode 2.
fn message(bytes: usize) -> Message {
    let mut block = vec![0, 0x10, 1, 0, 0, 0, 3, 0, 2, 0, 0, 1, b'q', 2];
    block.resize(block.len() + bytes, b'x');
    Message::from_block(&block).expect("a sound block")
}

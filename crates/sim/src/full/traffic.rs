//! Records as shards might make them: a seed decides which.

use leveret_core::record::{BindingFact, Note, Retry};
use leveret_core::{Fact, Lsn, Message, QueueNumber, Record, Seq, Wall};

use super::model::{Expected, Queue};
use crate::dice::Dice;

/// Messages of a vhost above which more are settled than published.
const DEPTH_MAX: usize = 120;

/// Keys of notes are few, so that they come again.
const KEYS: usize = 4;

/// What comes at present.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mood {
    /// Publishers and consumers.
    Everybody,
    /// Consumers only: settles and what goes with them.
    Consumers,
    /// Nothing but settles.
    Settles,
}

/// Makes the next records of a vhost, and has the model know.
pub fn records(
    expected: &mut Expected,
    mood: Mood,
    segment_bytes: u64,
    dice: &mut Dice,
) -> Vec<Record> {
    let mut records = Vec::new();
    for _ in 0..dice.between(1..=6) {
        let facts = facts(expected, mood, segment_bytes, dice);
        for fact in facts {
            let lsn = Lsn(expected.last + 1);
            let record = Record { lsn, fact };
            expected.append(&record);
            records.push(record);
        }
    }
    records
}

/// Settles of everything there is.
pub fn settle_all(expected: &mut Expected) -> Vec<Record> {
    let mut places = Vec::new();
    for (number, queue) in expected.queues.iter().filter(|(_, q)| q.deleted.is_none()) {
        places.extend(living(queue).into_iter().map(|seq| (*number, seq)));
    }
    let mut records = Vec::new();
    for (queue, seq) in places {
        let record = Record {
            lsn: Lsn(expected.last + 1),
            fact: settle(queue, seq),
        };
        expected.append(&record);
        records.push(record);
    }
    records
}

fn facts(expected: &Expected, mood: Mood, segment_bytes: u64, dice: &mut Dice) -> Vec<Fact> {
    let there = |(_, queue): &(&u64, &Queue)| queue.deleted.is_none();
    let queues: Vec<(u64, &Queue)> = expected
        .queues
        .iter()
        .filter(there)
        .map(|(n, q)| (*n, q))
        .collect();
    let Some(&(number, queue)) = dice.pick(&queues) else {
        return vec![declared(expected.last + 1)];
    };
    let depth: usize = queues.iter().map(|(_, queue)| living(queue).len()).sum();
    let (settles, publishes) = match mood {
        Mood::Everybody if depth < DEPTH_MAX => (30, 60),
        Mood::Everybody => (60, 25),
        _ => (70, 0),
    };
    let of = QueueNumber(number);
    let mut there = living(queue);
    let mut any = |dice: &mut Dice| {
        // Mostly the oldest.
        let at = if dice.chance(70) {
            0
        } else {
            dice.below(there.len())
        };
        (at < there.len()).then(|| there.remove(at))
    };
    let dice_says = dice.below(100) as u64;
    if dice_says < settles || mood == Mood::Settles {
        let Some(seq) = any(dice) else {
            return Vec::new();
        };
        let with_note = mood != Mood::Settles && dice.chance(25);
        if with_note {
            let mut facts = vec![settle(number, seq), noted(expected.last + 1, dice)];
            if let Some(other) = any(dice).filter(|_| dice.chance(30)) {
                facts.push(retried(of, &[(other, expected.last + 1)]));
            }
            return vec![Fact::Together(facts)];
        }
        return vec![settle(number, seq)];
    }
    if dice_says < settles + publishes {
        return publish(number, queue, expected.last + 1, segment_bytes, dice);
    }
    match dice.below(100) {
        // A client that rejects in a circle.
        0..40 => {
            let few: Vec<u64> = (0..dice.between(1..=3)).filter_map(|_| any(dice)).collect();
            let rounds = dice.between(1..=8);
            let lsns = expected.last + 1..=expected.last + rounds;
            let facts = lsns.map(|lsn| {
                let retries: Vec<_> = few.iter().map(|&seq| (seq, lsn)).collect();
                retried(of, &retries)
            });
            if few.is_empty() {
                Vec::new()
            } else {
                facts.collect()
            }
        }
        40..65 => vec![Fact::MayDeliver {
            queue: of,
            through: Seq(expected.last + 1),
        }],
        65..75 => {
            let runs: Vec<_> = there.iter().map(|&seq| (Seq(seq), Seq(seq))).collect();
            let purged = Fact::Purged {
                queue: of,
                places: runs,
            };
            if dice.chance(30) {
                vec![purged]
            } else {
                Vec::new()
            }
        }
        75..90 if mood == Mood::Everybody => vec![noted(expected.last + 1, dice)],
        90..95 if mood == Mood::Everybody && queues.len() < 3 => vec![declared(expected.last + 1)],
        95..97 => vec![Fact::QueueDeleted {
            queue: of,
            name: name(number).as_str().into(),
        }],
        97..98 => vec![Fact::Unbound(BindingFact {
            source: "nothing".into(),
            destination: name(number).as_str().into(),
            to_queue: true,
            routing_key: "".into(),
            arguments: b"\0\0\0\0"[..].into(),
        })],
        _ => Vec::new(),
    }
}

fn publish(number: u64, queue: &Queue, lsn: u64, segment_bytes: u64, dice: &mut Dice) -> Vec<Fact> {
    let most = match dice.below(40) {
        0 => segment_bytes * 2,
        1..4 => segment_bytes / 2,
        4..14 => segment_bytes / 12,
        _ => 300,
    };
    let seq = queue.last + 1;
    let mut block = vec![0, 0, 0, 0, 0, 0, 4, 0, 2, 0, 0, 2, b'r', b'k'];
    block.resize(block.len() + dice.between(0..=most) as usize, b'x');
    let published = Fact::Published {
        message: Message::from_block(&block).expect("a sound block"),
        user: "guest".into(),
        at: Wall(1_700_000_000_000),
        places: [(QueueNumber(number), Seq(seq))].into_iter().collect(),
    };
    match dice.below(12) {
        // A transaction, with a mark as one may bring along.
        0 => {
            let of = QueueNumber(number);
            let mark = Fact::MayDeliver {
                queue: of,
                through: Seq(lsn),
            };
            let mut facts = vec![published, mark, noted(lsn, dice)];
            if let Some(seq) = dice.pick(&living(queue)).copied() {
                facts.push(retried(of, &[(seq, lsn)]));
            }
            vec![Fact::Together(facts)]
        }
        // Gone before it is written.
        1 => vec![published, settle(number, seq)],
        _ => vec![published],
    }
}

fn living(queue: &Queue) -> Vec<u64> {
    let there = queue
        .messages
        .iter()
        .filter(|(_, message)| message.settled.is_none());
    there.map(|(seq, _)| *seq).collect()
}

fn settle(queue: u64, seq: u64) -> Fact {
    Fact::Settled {
        queue: QueueNumber(queue),
        seq: Seq(seq),
    }
}

/// What is known of messages, each told from others by the record that says it.
fn retried(queue: QueueNumber, of: &[(u64, u64)]) -> Fact {
    let mut of = of.to_vec();
    of.sort_unstable();
    let retries = of.iter().map(|&(seq, lsn)| Retry {
        seq: Seq(seq),
        until: Wall(1_700_000_000_000 + lsn),
        deliveries: lsn as u32,
        failures: lsn as u32,
        expires: None,
    });
    Fact::Retried {
        queue,
        retries: retries.collect(),
    }
}

fn noted(lsn: u64, dice: &mut Dice) -> Fact {
    let key = format!("own\0{}", dice.below(KEYS));
    Fact::Noted(Note {
        key: key.as_bytes().into(),
        value: Some(lsn.to_be_bytes()[..].into()),
    })
}

fn name(number: u64) -> String {
    format!("q{number}")
}

fn declared(lsn: u64) -> Fact {
    Fact::QueueDeclared {
        name: name(lsn).as_str().into(),
        auto_delete: false,
        arguments: b"\0\0\0\0"[..].into(),
    }
}

//! What clients did and saw, over all runs of the broker, and what must follow from it.

use std::collections::HashSet;

use crate::dice::Dice;

/// Queues of the run, by number.
pub(crate) const QUEUES: [&str; 6] = ["fan-0", "fan-1", "fan-2", "direct", "in", "out"];
/// Messages wait here to be moved to [`OUT`].
pub(crate) const IN: usize = 4;
/// Nobody consumes from here before the end.
pub(crate) const OUT: usize = 5;

/// Publishers by number: two to the fanout exchange and one to each of two queues, with confirms;
/// one with transactions.
pub(crate) const TX: usize = 4;
pub(crate) const PUBLISHERS: usize = 5;

const SEEN: u8 = 1;
const ACKED: u8 = 1 << 1;
const SETTLED: u8 = 1 << 2;
const SURVIVED: u8 = 1 << 3;
const DRAINED: u8 = 1 << 4;
const ACKED_NOW: u8 = 1 << 5;

/// Publisher, and the number it gave: ascending, from 0.
pub(crate) type Id = (usize, usize);

/// To which queues a message goes.
pub(crate) fn targets((publisher, n): Id) -> &'static [usize] {
    match publisher {
        0 | 1 => &[0, 1, 2],
        2 => &[3],
        3 => &[IN],
        _ if n.is_multiple_of(2) => &[0, 1, 2],
        _ => &[3],
    }
}

/// Its octets, of all sizes.
pub(crate) fn body((publisher, n): Id) -> Vec<u8> {
    let mut dice = Dice::new((publisher as u64) << 48 ^ n as u64);
    let size = match dice.between(0, 100) {
        0 => dice.between(0, 150_000),
        1..5 => dice.between(0, 9_000),
        _ => dice.between(0, 400),
    };
    let mut body = format!("{publisher} {n} ").into_bytes();
    let fill = dice.any().to_le_bytes();
    body.extend((0..size).map(|at| fill[at % 8].wrapping_add(at as u8)));
    body
}

fn id_of(octets: &[u8]) -> Option<Id> {
    let mut words = octets.splitn(3, |&octet| octet == b' ');
    let mut number = || std::str::from_utf8(words.next()?).ok()?.parse().ok();
    let id = (number()?, number()?);
    (body(id) == octets).then_some(id)
}

/// What is known of a message.
#[derive(Clone, Debug)]
struct Message {
    run: u32,
    /// The last number of its transaction, or its own.
    group: u32,
    is_confirmed: bool,
    is_rolled_back: bool,
    /// Flags by queue.
    copies: [u8; 6],
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct History {
    messages: [Vec<Message>; PUBLISHERS],
    run: u32,
    /// The highest number seen first, by queue and publisher.
    first_seen: [[Option<usize>; PUBLISHERS]; 6],
    /// Settled acks of this run.
    settled: Vec<Vec<(usize, Id)>>,
    /// So many of them are on the disk: something later was confirmed.
    settled_safe: usize,
    pub(crate) figures: Figures,
}

/// What came to pass.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) confirmed: usize,
    pub(crate) delivered: usize,
    pub(crate) redelivered: usize,
    pub(crate) acked: usize,
    pub(crate) settled_by_confirm: usize,
    pub(crate) settled_alone: usize,
    pub(crate) committed: usize,
    pub(crate) rolled_back: usize,
    pub(crate) moved: usize,
    pub(crate) definitions: usize,
    pub(crate) definitions_checked: usize,
    pub(crate) recoveries: usize,
    pub(crate) killed_in_recovery: usize,
}

impl History {
    /// Somebody is about to publish so many; returns the first, and how many acks were settled then.
    pub(crate) fn publishes(&mut self, publisher: usize, count: usize) -> (usize, usize) {
        let messages = &mut self.messages[publisher];
        let first = messages.len();
        for n in first..first + count {
            let is_group = publisher == TX;
            let group = if is_group { first + count - 1 } else { n };
            messages.push(Message {
                run: self.run,
                group: group as u32,
                is_confirmed: false,
                is_rolled_back: false,
                copies: [0; 6],
            });
        }
        (first, self.settled.len())
    }

    /// The broker has said that this is safe. It was published when so many acks were settled.
    pub(crate) fn confirmed(&mut self, id: Id, settled: usize) {
        let message = &mut self.messages[id.0][id.1];
        assert!(!message.is_confirmed, "{id:?} is confirmed twice");
        message.is_confirmed = true;
        self.settled_safe = self.settled_safe.max(settled);
        self.figures.confirmed += 1;
    }

    /// The broker has rolled it back.
    pub(crate) fn rolled_back(&mut self, id: Id) {
        self.messages[id.0][id.1].is_rolled_back = true;
        self.figures.rolled_back += 1;
    }

    /// A queue has delivered something; returns what.
    pub(crate) fn delivered(&mut self, queue: usize, octets: &[u8], redelivered: bool) -> Id {
        let (name, run) = (QUEUES[queue], self.run);
        let id = id_of(octets).unwrap_or_else(|| {
            let octets = &octets[..octets.len().min(60)];
            panic!("run {run}, {name}: never published: {octets:?}")
        });
        let message = self.messages[id.0].get_mut(id.1);
        let message =
            message.unwrap_or_else(|| panic!("run {run}, {name}: {id:?} was not published"));
        assert!(
            targets(id).contains(&queue) && !message.is_rolled_back,
            "run {run}, {name}: {id:?} should not be here: {message:?}"
        );
        let copy = &mut message.copies[queue];
        assert_eq!(
            *copy & (SETTLED | ACKED_NOW),
            0,
            "run {run}, {name}: {id:?} was settled and is back"
        );
        assert!(
            redelivered || *copy & SEEN == 0,
            "run {run}, {name}: {id:?} was delivered before and does not say so"
        );
        if *copy & SEEN == 0 {
            let highest = &mut self.first_seen[queue][id.0];
            assert!(
                *highest < Some(id.1),
                "run {run}, {name}: {id:?} comes after {highest:?}"
            );
            *highest = Some(id.1);
        }
        *copy |= SEEN | if message.run < run { SURVIVED } else { 0 };
        self.figures.delivered += 1;
        self.figures.redelivered += usize::from(redelivered);
        id
    }

    /// An ack is about to be sent.
    pub(crate) fn acks(&mut self, queue: usize, id: Id) {
        self.messages[id.0][id.1].copies[queue] |= ACKED | ACKED_NOW;
        self.figures.acked += 1;
    }

    /// What was acked was to be moved in a transaction that was rolled back.
    pub(crate) fn takes_back(&mut self, queue: usize, id: Id) {
        self.messages[id.0][id.1].copies[queue] &= !(ACKED | ACKED_NOW);
    }

    /// Something was answered that was asked for after these acks.
    pub(crate) fn settled(&mut self, acks: Vec<(usize, Id)>) {
        if !acks.is_empty() {
            self.settled.push(acks);
        }
    }

    /// A transaction with these acks was committed.
    pub(crate) fn committed(&mut self, queue: usize, ids: &[Id]) {
        for id in ids {
            self.messages[id.0][id.1].copies[queue] |= SETTLED;
        }
        self.figures.moved += ids.len();
    }

    /// The broker was killed.
    pub(crate) fn killed(&mut self) {
        for (number, acks) in self.settled.drain(..).enumerate() {
            // Of the others nobody was told that they are on the disk.
            let is_safe = number < self.settled_safe;
            for (queue, id) in acks {
                if is_safe {
                    self.messages[id.0][id.1].copies[queue] |= SETTLED;
                }
                self.figures.settled_by_confirm += usize::from(is_safe);
                self.figures.settled_alone += usize::from(!is_safe);
            }
        }
        self.settled_safe = 0;
        self.run += 1;
        for message in self.messages.iter_mut().flatten() {
            for copy in &mut message.copies {
                *copy &= !ACKED_NOW;
            }
        }
    }

    /// How many messages a queue must have at least, and may have at most, when nobody consumes.
    pub(crate) fn bounds(&self, queue: usize) -> (usize, usize) {
        let (mut least, mut most) = (0, 0);
        for (publisher, messages) in self.messages.iter().enumerate() {
            for (n, message) in messages.iter().enumerate() {
                if queue == OUT {
                    least += usize::from(message.copies[IN] & SETTLED != 0);
                    most += usize::from(message.copies[IN] & ACKED != 0);
                } else if targets((publisher, n)).contains(&queue) && !message.is_rolled_back {
                    let copy = message.copies[queue];
                    least += usize::from(message.is_confirmed && copy & ACKED == 0);
                    most += usize::from(copy & SETTLED == 0);
                }
            }
        }
        (least, most)
    }

    /// The end: these are the messages of a queue, in their order.
    pub(crate) fn drained(&mut self, queue: usize, ids: &[Id]) {
        let mut highest = [None; PUBLISHERS];
        for id in ids {
            let name = QUEUES[queue];
            assert!(
                highest[id.0] < Some(id.1),
                "{name}: {id:?} is not at its place"
            );
            highest[id.0] = Some(id.1);
            self.messages[id.0][id.1].copies[queue] |= DRAINED;
        }
    }

    /// The end: these are the messages that were moved.
    pub(crate) fn moved(&mut self, bodies: &[Vec<u8>]) {
        let mut seen = HashSet::new();
        for octets in bodies {
            let id = id_of(octets).expect("octets as they were");
            assert!(seen.insert(id), "{id:?} was moved twice");
            let message = &mut self.messages[id.0][id.1];
            message.copies[OUT] |= DRAINED;
            assert_ne!(message.copies[IN] & ACKED, 0, "{id:?} was never moved");
        }
    }

    /// The end: nothing is missing, and what belongs together is there together.
    pub(crate) fn nothing_is_lost(&self) {
        let mut complaints = Vec::new();
        for (publisher, messages) in self.messages.iter().enumerate() {
            let mut from = 0;
            while let Some(message) = messages.get(from) {
                let group = from..=message.group as usize;
                from = message.group as usize + 1;
                let members = messages[group.clone()].iter();
                // One of them is in the log: then all are, in all queues.
                let is_durable = members.clone().any(|message| {
                    let copies = message.copies.iter();
                    message.is_confirmed
                        || copies.fold(0, |all, copy| all | copy) & (SURVIVED | DRAINED) != 0
                });
                if !is_durable {
                    continue;
                }
                for (n, message) in group.zip(members) {
                    for &queue in targets((publisher, n)) {
                        let copy = message.copies[queue];
                        let places = match queue {
                            IN => [IN, OUT].map(|queue| message.copies[queue] & DRAINED != 0),
                            _ => [
                                copy & DRAINED != 0,
                                copy & DRAINED == 0 && copy & ACKED != 0,
                            ],
                        };
                        if places[0] == places[1] {
                            complaints.push(format!(
                                "{} {n} in {}: {message:?}",
                                publisher, QUEUES[queue]
                            ));
                        }
                    }
                }
            }
        }
        assert!(
            complaints.is_empty(),
            "{} missing: {:#?}",
            complaints.len(),
            &complaints[..complaints.len().min(20)]
        );
    }
}

//! Records as a broker might make them: a seed decides which.

use std::sync::Arc;

use leveret_codec::{CLASS_BASIC, ContentHeader, Properties, PropertySummary};
use leveret_core::record::{BindingFact, Note};
use leveret_core::{Fact, Message, QueueNumber, Seq, Wall};

use super::model::{Model, Queue, VHOSTS};
use crate::dice::Dice;

/// Messages of a vhost above which more are settled than published.
const DEPTH_MAX: usize = 160;

/// Names are few, so that they come again.
const NAMES: [&str; 6] = ["a", "b", "jobs", "mail", "audit", "späť"];

/// What the broker does most of the time, for a while.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mood {
    /// Publishes about as much as it settles.
    Steady,
    /// Publishes.
    Fill,
    /// Settles.
    Drain,
    /// Settles, and publishes nothing at all.
    OnlyDrain,
    /// Declares and deletes.
    Churn,
}

/// Makes records.
#[derive(Debug)]
pub struct Traffic {
    /// What it does at present.
    pub mood: Mood,
    /// Octets of a segment, so that some bodies are larger.
    pub segment_bytes: u64,
    scratch: Vec<u8>,
    properties: Vec<u8>,
    property_flags: u16,
    messages: u64,
}

impl Traffic {
    /// For a log with segments of this size.
    #[must_use]
    pub fn new(segment_bytes: u64) -> Self {
        let mut properties = Vec::new();
        let property_flags = Properties {
            delivery_mode: Some(2),
            ..Properties::default()
        }
        .encode(&mut properties);
        Self {
            mood: Mood::Steady,
            segment_bytes,
            scratch: Vec::new(),
            properties,
            property_flags,
            messages: 0,
        }
    }

    /// Adds one or several records to the next batch.
    pub fn act(&mut self, model: &mut Model, dice: &mut Dice) {
        let vhost = if dice.chance(60) {
            0
        } else {
            dice.below(VHOSTS.len())
        };
        let crowded = model.now[vhost].depth() > DEPTH_MAX;
        let (publish, settle, churn) = match self.mood {
            Mood::OnlyDrain => (0, 100, 0),
            Mood::Drain => (10, 85, 5),
            _ if crowded => (5, 90, 5),
            Mood::Steady => (50, 42, 8),
            Mood::Fill => (85, 10, 5),
            Mood::Churn => (40, 20, 40),
        };
        match dice.weighted([publish, settle, churn].into_iter()) {
            0 => self.publish(model, vhost, dice),
            1 => self.settle(model, vhost, dice),
            _ => define(model, vhost, dice),
        }
    }

    /// Settles everything.
    pub fn settle_all(&mut self, model: &mut Model) {
        for vhost in 0..VHOSTS.len() {
            let queues = model.now[vhost].queues.iter();
            let places: Vec<_> = queues
                .flat_map(|(n, queue)| queue.messages.keys().map(|seq| (*n, Seq(*seq))))
                .collect();
            for (queue, seq) in places {
                model.stage(vhost, Fact::Settled { queue, seq });
            }
        }
    }

    fn publish(&mut self, model: &mut Model, vhost: usize, dice: &mut Dice) {
        let queues: Vec<_> = model.now[vhost].queues.keys().copied().collect();
        if queues.is_empty() {
            return define(model, vhost, dice);
        }
        if dice.chance(6) {
            return self.commit(model, vhost, dice);
        }
        for _ in 0..dice.between(1..=4) {
            let fact = self.published(model, vhost, &[], dice);
            model.stage(vhost, fact);
        }
        if dice.chance(5) {
            let queue = dice.one_of(&queues);
            let through = model.now[vhost].queues[&queue].last + dice.between(0..=100_000);
            let through = Seq(through);
            model.stage(vhost, Fact::MayDeliver { queue, through });
        }
    }

    /// A message for one to five queues; `taken` places are those that other messages of the same
    /// record have.
    fn published(
        &mut self,
        model: &Model,
        vhost: usize,
        taken: &[(QueueNumber, Seq)],
        dice: &mut Dice,
    ) -> Fact {
        let state = &model.now[vhost];
        let mut queues: Vec<_> = state.queues.keys().copied().collect();
        let count = if dice.chance(80) {
            1
        } else {
            dice.between(2..=5)
        } as usize;
        while queues.len() > count {
            queues.remove(dice.below(queues.len()));
        }
        // A third of the queues has priorities.
        let level = dice.one_of(&[0, 250, 254, 255]);
        let place = |queue: QueueNumber| {
            let others = taken.iter().filter(|(of, _)| *of == queue).count() as u64;
            let level = if queue.0.is_multiple_of(3) { level } else { 0 };
            let number = state.queues[&queue].last + 1 + others;
            (queue, Seq::in_level(level, number))
        };
        Fact::Published {
            message: self.message(dice),
            user: dice.one_of(&["guest", "producer", ""]).into(),
            at: Wall(1_700_000_000_000 + dice.between(0..=1_000_000)),
            places: queues.into_iter().map(place).collect(),
        }
    }

    fn message(&mut self, dice: &mut Dice) -> Message {
        self.messages += 1;
        let size = match dice.below(1_000) {
            0..100 => 0,
            100..940 => dice.below(300),
            940..985 => dice.below(3_000),
            985..995 => dice.below(self.segment_bytes as usize / 2),
            995..998 => (self.segment_bytes as usize).saturating_sub(dice.below(400)),
            _ => dice.below(self.segment_bytes as usize * 3),
        };
        let mark = self.messages.to_le_bytes();
        let salt = dice.any().to_le_bytes();
        let body: Vec<u8> = mark
            .iter()
            .chain(&salt)
            .cycle()
            .take(size)
            .copied()
            .collect();
        let header = ContentHeader {
            class_id: CLASS_BASIC,
            body_size: size as u64,
            flags: self.property_flags,
            raw: &self.properties,
            summary: PropertySummary {
                delivery_mode: 2,
                priority: 0,
            },
        };
        let key = format!("k{}", self.messages);
        let exchange = dice.one_of(&["", "amq.topic"]);
        Message::build(&mut self.scratch, exchange, &key, &header, &body)
    }

    /// Publishes and settles that belong together.
    fn commit(&mut self, model: &mut Model, vhost: usize, dice: &mut Dice) {
        let (mut facts, mut taken) = (Vec::new(), Vec::new());
        for _ in 0..dice.between(0..=4) {
            let fact = self.published(model, vhost, &taken, dice);
            if let Fact::Published { places, .. } = &fact {
                taken.extend(places.iter().copied());
            }
            facts.push(fact);
        }
        let state = &model.now[vhost];
        for _ in 0..dice.between(1..=3) {
            let queues: Vec<_> = state.queues.iter().collect();
            let Some((number, queue)) = dice.pick(&queues) else {
                continue;
            };
            let places: Vec<_> = queue.messages.keys().copied().collect();
            let Some(seq) = dice.pick(&places) else {
                continue;
            };
            let fact = Fact::Settled {
                queue: **number,
                seq: Seq(*seq),
            };
            if !facts.contains(&fact) {
                let place = dice.below(facts.len() + 1);
                facts.insert(place, fact);
            }
        }
        if !facts.is_empty() {
            model.stage(vhost, Fact::Together(facts));
        }
    }

    fn settle(&mut self, model: &mut Model, vhost: usize, dice: &mut Dice) {
        let state = &model.now[vhost];
        let queues = state.queues.iter().filter(|(_, q)| !q.messages.is_empty());
        let queues: Vec<_> = queues.map(|(number, _)| *number).collect();
        let Some(&number) = dice.pick(&queues) else {
            if self.mood != Mood::OnlyDrain {
                self.publish(model, vhost, dice);
            }
            return;
        };
        let queue = &model.now[vhost].queues[&number];
        if dice.chance(2) {
            let places = purge(queue, dice);
            let fact = Fact::Purged {
                queue: number,
                places,
            };
            model.stage(vhost, fact);
            return;
        }
        let places: Vec<_> = queue.messages.keys().copied().collect();
        let count = (dice.between(1..=20) as usize).min(places.len());
        // Each queue has consumers of its own kind.
        let gone: Vec<u64> = match number.0 % 4 {
            0 => places[..count].to_vec(),
            1 => places[places.len() - count..].to_vec(),
            // The first one is stuck.
            2 if places.len() > 1 && self.mood != Mood::OnlyDrain => {
                places[1..count.max(2)].to_vec()
            }
            _ => {
                let first = dice.below(places.len());
                let chosen = places[first..].iter().step_by(1 + dice.below(3));
                chosen.take(count).copied().collect()
            }
        };
        for seq in gone {
            let fact = Fact::Settled {
                queue: number,
                seq: Seq(seq),
            };
            model.stage(vhost, fact);
        }
    }
}

/// All that is ready: some stay, because somebody has them.
fn purge(queue: &Queue, dice: &mut Dice) -> Vec<(Seq, Seq)> {
    let mut runs: Vec<(Seq, Seq)> = Vec::new();
    let stays = dice.between(0..=20);
    for seq in queue.messages.keys() {
        if dice.chance(stays) {
            continue;
        }
        match runs.last_mut() {
            Some((_, last)) if last.0 + 1 == *seq => *last = Seq(*seq),
            _ => runs.push((Seq(*seq), Seq(*seq))),
        }
    }
    runs
}

fn define(model: &mut Model, vhost: usize, dice: &mut Dice) {
    let state = &model.now[vhost];
    let (queues, exchanges) = (state.queue_names(), state.exchange_names());
    let name: Arc<str> = dice.one_of(&NAMES).into();
    let has_queue = |name: &Arc<str>| queues.iter().any(|(_, n)| n == name);
    let fact = match dice.below(12) {
        _ if queues.is_empty() => queue_declared(name, dice),
        0..3 if !has_queue(&name) => queue_declared(name, dice),
        3 | 4 => {
            let (queue, name) = dice.pick(&queues).cloned().unwrap_or_default();
            Fact::QueueDeleted { queue, name }
        }
        5 | 6 if !exchanges.contains(&name) => Fact::ExchangeDeclared {
            name,
            kind: dice.one_of(&["direct", "fanout", "topic", "headers"]),
            auto_delete: dice.chance(20),
            internal: dice.chance(20),
            arguments: arguments(dice),
        },
        7 if !exchanges.is_empty() && dice.chance(40) => {
            let name = dice.one_of(&[0, 1, 2, 3]) % exchanges.len();
            let name = Arc::clone(&exchanges[name]);
            Fact::ExchangeDeleted { name }
        }
        8 if !state.bindings().is_empty() && dice.chance(40) => {
            let bindings = state.bindings();
            let binding = bindings[dice.below(bindings.len())];
            Fact::Unbound(binding.clone())
        }
        10 | 11 => {
            let key = [b'n', 0, dice.below(3) as u8].into();
            let value = dice.chance(70).then(|| arguments(dice));
            Fact::Noted(Note { key, value })
        }
        _ if !exchanges.is_empty() => {
            let source = Arc::clone(&exchanges[dice.below(exchanges.len())]);
            let to_queue = dice.chance(70);
            let destination = if to_queue {
                Arc::clone(&queues[dice.below(queues.len())].1)
            } else {
                Arc::clone(&exchanges[dice.below(exchanges.len())])
            };
            let binding = BindingFact {
                source,
                destination,
                to_queue,
                routing_key: dice.one_of(&["", "a.b", "#"]).into(),
                arguments: arguments(dice),
            };
            if state.bindings().contains(&&binding) {
                return;
            }
            Fact::Bound(binding)
        }
        _ => return,
    };
    model.stage(vhost, fact);
}

fn queue_declared(name: Arc<str>, dice: &mut Dice) -> Fact {
    Fact::QueueDeclared {
        name,
        auto_delete: dice.chance(20),
        arguments: arguments(dice),
    }
}

/// Octets of a field table; the log does not look into them.
fn arguments(dice: &mut Dice) -> Arc<[u8]> {
    let len = if dice.chance(70) { 0 } else { dice.below(60) };
    (0..len).map(|_| dice.any() as u8).collect()
}

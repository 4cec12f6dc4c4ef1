//! A log that keeps everything in memory, is durable when the simulator says so, and knows at any
//! time what a restart would find: the recovery of a broker, told naively.
//!
//! How far a queue may deliver is part of it. A queue that is new may deliver 65,536 messages before
//! the log has to know, more than a run has; after a stop in order it is as far as it was delivered,
//! and the very next message waits for a mark. So marks come up in runs with restarts, and what
//! happens beyond the first 65,536 is in the tests of the core.

use std::collections::BTreeMap;

use leveret_codec::FieldTable;
use leveret_core::log::{Fetch, Recovered, RecoveredQueue, Run};
use leveret_core::record::{BindingFact, MAY_DELIVER_FIRST};
use leveret_core::{ConnectionId, Fact, Lsn, Message, QueueNumber, Record, Seq, Wall};

use crate::letters::past_of_message;
use crate::model::{Checked, Model, Queue, Violation, identify};
use crate::rules::Rules;
use crate::topology::{Binding, Exchange};
use crate::violation;

/// The vhost's records, replayed as they come.
#[derive(Debug, Default)]
pub struct Log {
    /// Number of the last record.
    pub last: Lsn,
    /// Everything up to this one is safe.
    pub durable: Lsn,
    /// Nothing more becomes safe.
    pub lost: bool,
    /// What a restart would find now.
    pub state: Durable,
    records: Vec<Record>,
    /// By their places, each with when it came.
    messages: BTreeMap<(QueueNumber, u64), (Message, Wall)>,
}

/// What survives a restart.
#[derive(Debug, Default)]
pub struct Durable {
    /// Those of clients, by name.
    pub exchanges: BTreeMap<String, Exchange>,
    /// By name.
    pub queues: BTreeMap<String, Kept>,
    /// In order of their making.
    pub bindings: Vec<Binding>,
    /// Records of what is there, in order.
    definitions: Vec<(Lsn, Fact)>,
    /// What the numbers of queues stand for.
    names: BTreeMap<QueueNumber, String>,
}

/// A queue that survives a restart.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// What the log knows it by.
    pub number: QueueNumber,
    /// As declared.
    pub auto_delete: bool,
    /// As declared.
    pub expires: Option<u64>,
    /// As declared.
    pub priority_max: Option<u8>,
    /// As declared.
    pub rules: Rules,
    /// Messages by their places: number, and what they have been through.
    pub messages: BTreeMap<u64, (u64, String)>,
    /// Messages with numbers up to here may have been delivered.
    pub mark: u64,
    /// The highest number in a place that was given to a message.
    pub last: u64,
}

impl Log {
    /// Whether some records are not safe yet.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.durable < self.last
    }

    /// Takes what the core has recorded, and tells the model which messages that makes safe.
    ///
    /// # Errors
    /// If the records are not numbered one after the other, or make no sense.
    pub fn append(&mut self, records: Vec<Record>, model: &mut Model) -> Checked {
        model.made.clear();
        model.before = self.last;
        for record in records {
            if record.lsn.0 != self.last.0 + 1 {
                return Err(violation!(
                    "record {:?} follows {:?}",
                    record.lsn,
                    self.last
                ));
            }
            self.last = record.lsn;
            note_messages(record.lsn, &record.fact, model);
            model.note_marks(record.lsn, &record.fact);
            self.keep_messages(&record.fact);
            self.records.push(record.clone());
            model.made.push((record.lsn, record.fact.clone()));
            self.state.apply(record.lsn, record.fact)?;
        }
        Ok(())
    }

    /// Compares what a restart would find with what the model would have it find.
    ///
    /// # Errors
    /// If they differ.
    pub fn check(&self, model: &Model) -> Checked {
        let expected = Durable::of(model);
        let (ours, theirs) = (&self.state, &expected);
        if ours.exchanges != theirs.exchanges {
            let (a, b) = (&ours.exchanges, &theirs.exchanges);
            return Err(violation!("recorded exchanges {a:?}, expected {b:?}"));
        }
        let queues = |state: &Durable| -> Vec<_> {
            let queues = state.queues.iter();
            let kept = |kept: &Kept| {
                (
                    kept.number,
                    kept.auto_delete,
                    kept.expires,
                    kept.messages.clone(),
                )
            };
            queues
                .map(|(name, queue)| (name.clone(), kept(queue)))
                .collect()
        };
        let (a, b) = (queues(ours), queues(theirs));
        if a != b {
            return Err(violation!("recorded queues {a:?}, expected {b:?}"));
        }
        let missing = |from: &Durable, to: &Durable| {
            from.bindings
                .iter()
                .find(|b| !to.bindings.contains(b))
                .cloned()
        };
        if let Some(binding) = missing(ours, theirs) {
            return Err(violation!("recorded and not expected: {binding:?}"));
        }
        if let Some(binding) = missing(theirs, ours) {
            return Err(violation!("expected and not recorded: {binding:?}"));
        }
        Ok(())
    }

    // ---- reading back ----

    fn keep_messages(&mut self, fact: &Fact) {
        match fact {
            Fact::Published {
                message,
                at,
                places,
                ..
            } => {
                for (queue, seq) in places {
                    self.messages
                        .insert((*queue, seq.0), (message.clone(), *at));
                }
            }
            Fact::Together(facts) => facts.iter().for_each(|fact| self.keep_messages(fact)),
            _ => {}
        }
    }

    /// The message in this place, and when it came.
    #[must_use]
    pub fn stored(&self, queue: QueueNumber, place: u64) -> Option<&(Message, Wall)> {
        self.messages.get(&(queue, place))
    }

    /// The broker is gone, and of what it recorded everything after this record.
    ///
    /// # Errors
    /// If what is left makes no sense.
    pub fn cut(&mut self, last: Lsn) -> Checked {
        self.records.retain(|record| record.lsn <= last);
        (self.last, self.durable, self.lost) = (last, last, false);
        self.state = Durable::default();
        for record in self.records.clone() {
            self.state.apply(record.lsn, record.fact)?;
        }
        Ok(())
    }

    /// What a broker finds that starts now.
    #[must_use]
    pub fn recovered(&self) -> Recovered {
        let place = |fact: &Fact| match fact {
            Fact::ExchangeDeclared { .. } => 0,
            Fact::QueueDeclared { .. } => 1,
            _ => 2,
        };
        let mut definitions = self.state.definitions.clone();
        definitions.sort_by_key(|(_, fact)| place(fact));
        let queues = self.state.queues.values().map(|kept| {
            let mut runs: Vec<Run> = Vec::new();
            let mut expiring = Vec::new();
            for &seq in kept.messages.keys() {
                let message = self.stored(kept.number, seq);
                let bytes = message.map_or(0, |(message, _)| message.memory_bytes()) as u64;
                let expires = |(message, at): &(Message, Wall)| {
                    let own_ms = message.expiration_ms()?;
                    Some(Wall(at.0.saturating_add(own_ms)))
                };
                expiring.extend(message.and_then(expires).map(|at| (Seq(seq), at)));
                match runs.last_mut() {
                    Some(run) if run.last.0 + 1 == seq => {
                        run.last = Seq(seq);
                        run.bytes += bytes;
                    }
                    _ => runs.push(Run {
                        first: Seq(seq),
                        last: Seq(seq),
                        bytes,
                    }),
                }
            }
            RecoveredQueue {
                number: kept.number,
                last: Seq(kept.last),
                delivered_through: Seq(kept.mark),
                runs,
                expiring,
                retries: Vec::new(),
            }
        });
        Recovered {
            last: self.last,
            definitions,
            queues: queues.collect(),
        }
    }

    /// The messages that a broker asks back.
    ///
    /// # Errors
    /// If one of them was not safe: it must not have been forgotten.
    pub fn read(
        &self,
        fetch: &Fetch,
        model: &Model,
    ) -> Result<Vec<(Seq, Message, Option<Wall>)>, Violation> {
        let mut queues = self.state.queues.values();
        let Some(kept) = queues.find(|kept| kept.number == fetch.number) else {
            return Ok(Vec::new());
        };
        let (mut found, mut bytes) = (Vec::new(), 0);
        for (&seq, id) in kept.messages.range(fetch.first.0..=fetch.last.0) {
            if bytes >= fetch.bytes_max {
                break;
            }
            if model.records.get(id).is_none_or(|lsn| *lsn > self.durable) {
                return Err(violation!("message {id:?} is away and was never safe"));
            }
            if let Some((message, at)) = self.stored(kept.number, seq) {
                bytes += message.memory_bytes();
                found.push((Seq(seq), message.clone(), Some(*at)));
            }
        }
        Ok(found)
    }
}

/// The record that makes a message safe, for its confirm.
fn note_messages(lsn: Lsn, fact: &Fact, model: &mut Model) {
    match fact {
        Fact::Published { message, .. } => {
            if let Some(id) = identify(message) {
                model.records.insert((id, past_of_message(message)), lsn);
            }
        }
        Fact::Together(facts) => facts
            .iter()
            .for_each(|fact| note_messages(lsn, fact, model)),
        _ => {}
    }
}

impl Durable {
    fn apply(&mut self, lsn: Lsn, fact: Fact) -> Checked {
        self.define(lsn, &fact);
        match fact {
            Fact::ExchangeDeclared {
                name,
                kind,
                auto_delete,
                internal,
                arguments,
            } => {
                let arguments = FieldTable::decode(&arguments).unwrap_or_default();
                let alternate = arguments.get("alternate-exchange").and_then(|v| v.as_str());
                let exchange = Exchange {
                    kind: kind.to_owned(),
                    durable: true,
                    auto_delete,
                    internal,
                    alternate: alternate.map(str::to_owned),
                };
                if self.exchanges.insert(name.to_string(), exchange).is_some() {
                    return Err(violation!("exchange '{name}' is declared twice in the log"));
                }
            }
            Fact::ExchangeDeleted { name } => {
                self.bindings
                    .retain(|b| *b.source != *name && (b.to_queue || *b.destination != *name));
                if self.exchanges.remove(&*name).is_none() {
                    return Err(violation!("exchange '{name}' is deleted twice in the log"));
                }
            }
            Fact::QueueDeclared {
                name,
                auto_delete,
                arguments,
            } => {
                let number = QueueNumber(lsn.0);
                let arguments = FieldTable::decode(&arguments).unwrap_or_default();
                let expires = arguments.get("x-expires").and_then(|v| v.as_i64());
                let priority_max = arguments.get("x-max-priority").and_then(|v| v.as_i64());
                let queue = Kept {
                    number,
                    auto_delete,
                    expires: expires.and_then(|ms| u64::try_from(ms).ok()),
                    priority_max: priority_max.and_then(|max| u8::try_from(max).ok()),
                    rules: Rules::of(&arguments),
                    messages: BTreeMap::new(),
                    mark: MAY_DELIVER_FIRST,
                    last: 0,
                };
                self.names.insert(number, name.to_string());
                if self.queues.insert(name.to_string(), queue).is_some() {
                    return Err(violation!("queue '{name}' is declared twice in the log"));
                }
            }
            Fact::QueueDeleted { queue, name } => {
                if self.names.remove(&queue).as_deref() != Some(&*name) {
                    return Err(violation!("queue {queue} is not '{name}' in the log"));
                }
                self.bindings
                    .retain(|b| !b.to_queue || *b.destination != *name);
                if self.queues.remove(&*name).is_none() {
                    return Err(violation!("queue '{name}' is deleted twice in the log"));
                }
            }
            Fact::Bound(fact) => self.bindings.push(binding_of(&fact)),
            Fact::Unbound(fact) => {
                let gone = binding_of(&fact);
                let before = self.bindings.len();
                self.bindings.retain(|b| *b != gone);
                if self.bindings.len() + 1 != before {
                    return Err(violation!(
                        "{gone:?} is unbound in the log and was not bound"
                    ));
                }
            }
            Fact::Published {
                message, places, ..
            } => {
                let id = identify(&message).unwrap_or(u64::MAX);
                let past = past_of_message(&message);
                for (queue, seq) in places {
                    let kept = self.queue(queue);
                    let kept = kept.ok_or_else(|| violation!("no queue {queue} in the log"))?;
                    kept.last = kept.last.max(seq.number());
                    if kept.messages.insert(seq.0, (id, past.clone())).is_some() {
                        return Err(violation!("place {seq} of queue {queue} is taken twice"));
                    }
                }
            }
            Fact::Settled { queue, seq } => {
                if self
                    .queue(queue)
                    .and_then(|kept| kept.messages.remove(&seq.0))
                    .is_none()
                {
                    return Err(violation!(
                        "place {seq} of queue {queue} is settled and was empty"
                    ));
                }
            }
            Fact::Purged { queue, places } => {
                if let Some(kept) = self.queue(queue) {
                    let gone = |seq: &u64| {
                        let holds = |&(first, last): &(Seq, Seq)| (first.0..=last.0).contains(seq);
                        places.iter().any(holds)
                    };
                    kept.messages.retain(|seq, _| !gone(seq));
                }
            }
            Fact::Together(facts) => {
                for fact in facts {
                    self.apply(lsn, fact)?;
                }
            }
            Fact::Noted(_) | Fact::Retried { .. } => {}
            Fact::MayDeliver { queue, through } => {
                if let Some(kept) = self.queue(queue) {
                    kept.mark = through.0;
                }
            }
        }
        Ok(())
    }

    /// Keeps the records of what is there.
    fn define(&mut self, lsn: Lsn, fact: &Fact) {
        match fact {
            Fact::ExchangeDeclared { .. } | Fact::QueueDeclared { .. } | Fact::Bound(_) => {
                self.definitions.push((lsn, fact.clone()));
            }
            Fact::ExchangeDeleted { name: gone } => {
                self.definitions.retain(|(_, fact)| match fact {
                    Fact::ExchangeDeclared { name, .. } => name != gone,
                    Fact::Bound(b) => b.source != *gone && (b.to_queue || b.destination != *gone),
                    _ => true,
                });
            }
            Fact::QueueDeleted { name: gone, .. } => {
                self.definitions.retain(|(_, fact)| match fact {
                    Fact::QueueDeclared { name, .. } => name != gone,
                    Fact::Bound(b) => !(b.to_queue && b.destination == *gone),
                    _ => true,
                });
            }
            Fact::Unbound(gone) => {
                let same = |fact: &Fact| matches!(fact, Fact::Bound(b) if b == gone);
                self.definitions.retain(|(_, fact)| !same(fact));
            }
            Fact::Noted(note) => {
                let other = |fact: &Fact| !matches!(fact, Fact::Noted(n) if n.key == note.key);
                self.definitions.retain(|(_, fact)| other(fact));
                if note.value.is_some() {
                    self.definitions.push((lsn, fact.clone()));
                }
            }
            _ => {}
        }
    }

    fn queue(&mut self, queue: QueueNumber) -> Option<&mut Kept> {
        let name = self.names.get(&queue)?;
        self.queues.get_mut(name)
    }

    fn of(model: &Model) -> Self {
        let exchanges = &model.topology.exchanges;
        let of_users = |name: &str| !name.is_empty() && !name.starts_with("amq.");
        let durable = |name: &str| exchanges.get(name).is_some_and(|exchange| exchange.durable);
        let bindings = model.topology.bindings.iter().filter(|b| {
            let destination = if b.to_queue {
                model
                    .queues
                    .get(&b.destination)
                    .is_some_and(|queue| queue.durable)
            } else {
                durable(&b.destination)
            };
            destination && durable(&b.source)
        });
        let queues = model.queues.iter().filter(|(_, queue)| queue.durable);
        Self {
            exchanges: exchanges
                .iter()
                .filter(|(name, exchange)| exchange.durable && of_users(name))
                .map(|(name, exchange)| (name.clone(), exchange.clone()))
                .collect(),
            queues: queues
                .map(|(name, queue)| {
                    let kept = Kept {
                        number: queue.number.unwrap_or_default(),
                        auto_delete: queue.auto_delete,
                        expires: queue.expires,
                        priority_max: queue.priority_max,
                        rules: queue.rules.clone(),
                        messages: messages(model, queue),
                        mark: queue.mark,
                        last: queue.last_seq,
                    };
                    (name.clone(), kept)
                })
                .collect(),
            bindings: bindings.cloned().collect(),
            ..Self::default()
        }
    }
}

/// What a durable queue keeps: persistent messages, delivered or not.
fn messages(model: &Model, queue: &Queue) -> BTreeMap<u64, (u64, String)> {
    let connections = model.connections.values();
    let channels = connections.flat_map(|c| c.channels.values().flatten());
    let held = channels
        .flat_map(|channel| channel.held())
        .filter(|unacked| unacked.queue == queue.id)
        .map(|unacked| &unacked.item);
    queue
        .ready
        .iter()
        .chain(held)
        .filter_map(|item| Some((item, model.content_of(item)?)))
        .filter(|(_, content)| content.persistent)
        .map(|(item, content)| (item.seq, (item.id, content.past.name())))
        .collect()
}

/// A binding, as the model has it.
pub(crate) fn binding_of(fact: &BindingFact) -> Binding {
    let arguments = FieldTable::decode(&fact.arguments).unwrap_or_default();
    let mut arguments: Vec<_> = arguments
        .iter()
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .collect();
    arguments.sort_by(|(a, _), (b, _)| a.cmp(b));
    Binding {
        source: fact.source.to_string(),
        destination: fact.destination.to_string(),
        to_queue: fact.to_queue,
        key: fact.routing_key.to_string(),
        arguments,
    }
}

/// What one turn has sent, by connection.
pub type Sends = BTreeMap<ConnectionId, std::collections::VecDeque<leveret_core::Outbound>>;

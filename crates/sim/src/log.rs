//! A log that keeps everything in memory, is durable when the simulator says so, and knows at any
//! time what a restart would find.

use std::collections::BTreeMap;

use leveret_codec::FieldTable;
use leveret_core::record::BindingFact;
use leveret_core::{ConnectionId, Fact, Lsn, QueueNumber, Record, Seq};

use crate::model::{Checked, Model, Queue, identify};
use crate::topology::{Binding, Exchange};
use crate::violation;

/// The vhost's records, replayed as they come.
#[derive(Debug, Default)]
pub struct Log {
    /// Number of the last record.
    pub last: Lsn,
    /// Everything up to this one is safe.
    pub durable: Lsn,
    state: Durable,
}

/// What survives a restart.
#[derive(Debug, Default, PartialEq)]
struct Durable {
    exchanges: BTreeMap<String, Exchange>,
    /// By name: auto-delete, and messages by their places.
    queues: BTreeMap<String, (bool, BTreeMap<u64, u64>)>,
    bindings: Vec<Binding>,
    /// What the numbers of queues stand for.
    names: BTreeMap<QueueNumber, String>,
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
        model.recorded_count = records.len();
        model.recorded = records.last().map(|record| record.lsn);
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
        if ours.queues != theirs.queues {
            let (a, b) = (&ours.queues, &theirs.queues);
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
}

/// The record that makes a message safe, for its confirm.
fn note_messages(lsn: Lsn, fact: &Fact, model: &mut Model) {
    match fact {
        Fact::Published { message, .. } => {
            if let Some(id) = identify(message) {
                model.records.insert(id, lsn);
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
                name, auto_delete, ..
            } => {
                let queue = (auto_delete, BTreeMap::new());
                let number = QueueNumber(lsn.0);
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
            Fact::Bound(fact) => self.bindings.push(binding(&fact)),
            Fact::Unbound(fact) => {
                let gone = binding(&fact);
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
                for (queue, seq) in places {
                    let messages = self.messages(queue);
                    let messages =
                        messages.ok_or_else(|| violation!("no queue {queue} in the log"))?;
                    if messages.insert(seq.0, id).is_some() {
                        return Err(violation!("place {seq} of queue {queue} is taken twice"));
                    }
                }
            }
            Fact::Settled { queue, seq } => {
                if self
                    .messages(queue)
                    .and_then(|messages| messages.remove(&seq.0))
                    .is_none()
                {
                    return Err(violation!(
                        "place {seq} of queue {queue} is settled and was empty"
                    ));
                }
            }
            Fact::Purged { queue, places } => {
                if let Some(messages) = self.messages(queue) {
                    let gone = |seq: &u64| {
                        let holds = |&(first, last): &(Seq, Seq)| (first.0..=last.0).contains(seq);
                        places.iter().any(holds)
                    };
                    messages.retain(|seq, _| !gone(seq));
                }
            }
            Fact::Together(facts) => {
                for fact in facts {
                    self.apply(lsn, fact)?;
                }
            }
            Fact::MayDeliver { .. } => {}
        }
        Ok(())
    }

    fn messages(&mut self, queue: QueueNumber) -> Option<&mut BTreeMap<u64, u64>> {
        let name = self.names.get(&queue)?;
        self.queues.get_mut(name).map(|(_, messages)| messages)
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
                    let kept = messages(model, queue);
                    (name.clone(), (queue.auto_delete, kept))
                })
                .collect(),
            bindings: bindings.cloned().collect(),
            names: BTreeMap::new(),
        }
    }
}

/// What a durable queue keeps: persistent messages, delivered or not.
fn messages(model: &Model, queue: &Queue) -> BTreeMap<u64, u64> {
    let connections = model.connections.values();
    let channels = connections.flat_map(|c| c.channels.values().flatten());
    let held = channels
        .flat_map(|channel| channel.held())
        .filter(|unacked| unacked.queue == queue.id)
        .map(|unacked| &unacked.item);
    let persistent = |id: u64| {
        model
            .published
            .get(id as usize)
            .is_some_and(|m| m.persistent)
    };
    queue
        .ready
        .iter()
        .chain(held)
        .filter(|item| persistent(item.id))
        .map(|item| (item.seq, item.id))
        .collect()
}

fn binding(fact: &BindingFact) -> Binding {
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

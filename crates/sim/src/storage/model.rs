//! What was staged, what of it was reported safe, and what follows from either.

use std::collections::BTreeMap;
use std::sync::Arc;

use leveret_core::record::{BindingFact, MAY_DELIVER_FIRST};
use leveret_core::{Fact, Lsn, Message, QueueNumber, Record, Seq};

/// The vhosts of every run.
pub const VHOSTS: [&str; 3] = ["/", "orders", "ünïcode"];

/// A durable queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Queue {
    /// Last place that was given.
    pub last: u64,
    /// Up to here messages may have been delivered.
    pub delivered_through: u64,
    /// What is in it, by place.
    pub messages: BTreeMap<u64, Message>,
}

/// What the records of a vhost say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// The last of them.
    pub last: Lsn,
    /// Exchanges, queues and bindings.
    pub definitions: BTreeMap<Lsn, Fact>,
    /// Messages.
    pub queues: BTreeMap<QueueNumber, Queue>,
}

/// That of every vhost.
pub type States = [State; VHOSTS.len()];

/// Records that were written together, by vhost.
pub type Batch = Vec<(usize, Vec<Record>)>;

/// What a log should hold.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// After all that was reported safe.
    pub safe: Arc<States>,
    /// After everything.
    pub now: Box<States>,
    /// Batches between the two, in order.
    pub pending: Vec<Arc<Batch>>,
    /// The next batch.
    pub open: Batch,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            last: 0,
            delivered_through: MAY_DELIVER_FIRST,
            messages: BTreeMap::new(),
        }
    }
}

impl State {
    /// Takes one record.
    pub fn apply(&mut self, record: &Record) {
        self.last = record.lsn;
        self.take(record.lsn, &record.fact);
    }

    /// Takes the definitions only.
    pub fn define(&mut self, lsn: Lsn, fact: &Fact) {
        match fact {
            Fact::ExchangeDeclared { .. } | Fact::QueueDeclared { .. } | Fact::Bound(_) => {
                self.definitions.insert(lsn, fact.clone());
            }
            Fact::ExchangeDeleted { name: gone } => self.forget(|fact| match fact {
                Fact::ExchangeDeclared { name, .. } => name == gone,
                Fact::Bound(b) => b.source == *gone || !b.to_queue && b.destination == *gone,
                _ => false,
            }),
            Fact::QueueDeleted { name: gone, .. } => self.forget(|fact| match fact {
                Fact::QueueDeclared { name, .. } => name == gone,
                Fact::Bound(b) => b.to_queue && b.destination == *gone,
                _ => false,
            }),
            Fact::Unbound(gone) => {
                self.forget(|fact| matches!(fact, Fact::Bound(b) if b == gone));
            }
            Fact::Noted(note) => {
                self.forget(|fact| matches!(fact, Fact::Noted(n) if n.key == note.key));
                if note.value.is_some() {
                    self.definitions.insert(lsn, fact.clone());
                }
            }
            _ => {}
        }
    }

    fn forget(&mut self, gone: impl Fn(&Fact) -> bool) {
        self.definitions.retain(|_, fact| !gone(fact));
    }

    fn take(&mut self, lsn: Lsn, fact: &Fact) {
        self.define(lsn, fact);
        match fact {
            Fact::QueueDeclared { .. } => {
                self.queues.insert(QueueNumber(lsn.0), Queue::default());
            }
            Fact::QueueDeleted { queue, .. } => {
                self.queues.remove(queue);
            }
            Fact::Published {
                message, places, ..
            } => {
                for (queue, seq) in places {
                    if let Some(queue) = self.queues.get_mut(queue) {
                        queue.last = queue.last.max(seq.number());
                        queue.messages.insert(seq.0, message.clone());
                    }
                }
            }
            Fact::Settled { queue, seq } => {
                if let Some(queue) = self.queues.get_mut(queue) {
                    queue.messages.remove(&seq.0);
                }
            }
            Fact::Purged { queue, places } => {
                if let Some(queue) = self.queues.get_mut(queue) {
                    queue.messages.retain(|seq, _| !within(places, *seq));
                }
            }
            Fact::MayDeliver { queue, through } => {
                if let Some(queue) = self.queues.get_mut(queue) {
                    queue.delivered_through = through.0;
                }
            }
            Fact::Together(facts) => facts.iter().for_each(|fact| self.take(lsn, fact)),
            _ => {}
        }
    }

    /// Name and number of every queue.
    #[must_use]
    pub fn queue_names(&self) -> Vec<(QueueNumber, Arc<str>)> {
        let queues = self.definitions.iter();
        queues
            .filter_map(|(lsn, fact)| match fact {
                Fact::QueueDeclared { name, .. } => Some((QueueNumber(lsn.0), Arc::clone(name))),
                _ => None,
            })
            .collect()
    }

    /// Name of every exchange.
    #[must_use]
    pub fn exchange_names(&self) -> Vec<Arc<str>> {
        let exchanges = self.definitions.values();
        exchanges
            .filter_map(|fact| match fact {
                Fact::ExchangeDeclared { name, .. } => Some(Arc::clone(name)),
                _ => None,
            })
            .collect()
    }

    /// Every binding.
    #[must_use]
    pub fn bindings(&self) -> Vec<&BindingFact> {
        let bindings = self.definitions.values();
        bindings
            .filter_map(|fact| match fact {
                Fact::Bound(binding) => Some(binding),
                _ => None,
            })
            .collect()
    }

    /// Messages in all queues.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.queues.values().map(|queue| queue.messages.len()).sum()
    }
}

impl Model {
    /// Adds a record to the next batch.
    pub fn stage(&mut self, vhost: usize, fact: Fact) {
        let state = &mut self.now[vhost];
        let lsn = Lsn(state.last.0 + 1);
        let record = Record { lsn, fact };
        state.apply(&record);
        match self.open.last_mut() {
            Some((of, records)) if *of == vhost => records.push(record),
            _ => self.open.push((vhost, vec![record])),
        }
    }

    /// The next batch is going to be written: from here on some of it may be found again.
    pub fn written(&mut self) -> Arc<Batch> {
        let batch = Arc::new(std::mem::take(&mut self.open));
        self.pending.push(Arc::clone(&batch));
        batch
    }

    /// The last batch was not written after all.
    pub fn refused(&mut self) {
        self.pending.pop();
        self.open.clear();
        let mut now = (*self.safe).clone();
        for batch in &self.pending {
            apply(&mut now, batch);
        }
        *self.now = now;
    }

    /// Everything that was written is safe.
    pub fn synced(&mut self) {
        let safe = Arc::make_mut(&mut self.safe);
        for batch in self.pending.drain(..) {
            apply(safe, &batch);
        }
    }

    /// Nothing else is there but this, and it is safe.
    pub fn found(&mut self, states: States) {
        self.open.clear();
        self.pending.clear();
        *self.now = states.clone();
        self.safe = Arc::new(states);
    }

    /// For each vhost that has written something, its last record.
    #[must_use]
    pub fn last_pending(&self) -> BTreeMap<usize, Lsn> {
        let batches = self.pending.iter().flat_map(|batch| batch.iter());
        batches
            .filter_map(|(vhost, records)| Some((*vhost, records.last()?.lsn)))
            .collect()
    }
}

/// The states after a batch.
pub fn apply(states: &mut States, batch: &Batch) {
    for (vhost, records) in batch {
        for record in records {
            states[*vhost].apply(record);
        }
    }
}

/// Whether one of the runs holds the place.
#[must_use]
pub fn within(runs: &[(Seq, Seq)], seq: u64) -> bool {
    runs.iter().any(|(a, b)| (a.0..=b.0).contains(&seq))
}

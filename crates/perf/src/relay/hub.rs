//! What all connections share: which exchange leads to which consumers.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use super::outbox::Outbox;

/// One consumer, ready to have deliveries encoded for it.
pub(super) struct Target {
    pub(super) outbox: Arc<Outbox>,
    pub(super) channel: u16,
    pub(super) consumer_tag: String,
    /// Last delivery tag of the channel, which other consumers may share.
    pub(super) last_tag: Arc<AtomicU64>,
}

/// Where the messages of one exchange (and, for the default exchange, key) go.
pub(super) type Route = Arc<[Arc<Target>]>;

#[derive(Default)]
pub(super) struct Hub {
    topology: RwLock<Topology>,
    /// Goes up with each change, so that connections know when to look again.
    generation: AtomicU64,
    names: AtomicU64,
}

#[derive(Default)]
struct Topology {
    consumers: HashMap<String, Vec<Arc<Target>>>,
    bindings: HashMap<String, BTreeSet<String>>,
}

impl Hub {
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// A name for a queue or consumer that came without one.
    pub(super) fn new_name(&self, prefix: &str) -> String {
        format!("{prefix}{}", self.names.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn route(&self, exchange: &str, routing_key: &str) -> Route {
        let topology = self.topology.read().unwrap_or_else(PoisonError::into_inner);
        let first_consumer = |queue: &str| topology.consumers.get(queue)?.first().cloned();
        if exchange.is_empty() {
            return first_consumer(routing_key).into_iter().collect();
        }
        let queues = topology.bindings.get(exchange);
        let consumers = queues.into_iter().flatten();
        consumers
            .filter_map(|queue| first_consumer(queue))
            .collect()
    }

    pub(super) fn bind(&self, exchange: &str, queue: &str) {
        self.change(|topology| {
            let queues = topology.bindings.entry(exchange.to_owned()).or_default();
            queues.insert(queue.to_owned());
        });
    }

    pub(super) fn delete_exchange(&self, exchange: &str) {
        self.change(|topology| {
            topology.bindings.remove(exchange);
        });
    }

    pub(super) fn consume(&self, queue: &str, target: Arc<Target>) {
        self.change(|topology| {
            let consumers = topology.consumers.entry(queue.to_owned()).or_default();
            consumers.push(target);
        });
    }

    /// Forgets the consumers of a closed connection.
    pub(super) fn disconnect(&self, outbox: &Arc<Outbox>) {
        self.change(|topology| {
            topology.consumers.retain(|_queue, consumers| {
                consumers.retain(|target| !Arc::ptr_eq(&target.outbox, outbox));
                !consumers.is_empty()
            });
        });
    }

    fn change(&self, change: impl FnOnce(&mut Topology)) {
        change(
            &mut self
                .topology
                .write()
                .unwrap_or_else(PoisonError::into_inner),
        );
        self.generation.fetch_add(1, Ordering::Release);
    }
}

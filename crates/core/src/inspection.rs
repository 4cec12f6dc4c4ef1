//! What an operator wants to know of a vhost: figures of its queues, and its definitions.
//!
//! Looked at between two turns, so in pieces wherever there may be many.

use std::fmt;
use std::sync::Arc;

use leveret_codec::FieldTable;
use slotmap::Key as _;

use crate::binding::Destination;
use crate::broker::Broker;
use crate::exchange::PREDECLARED;
use crate::ids::QueueId;
use crate::message::Message;

/// A queue in numbers, since it was declared or the broker started.
#[derive(Clone, Debug)]
pub struct QueueFigures {
    /// The queue: where to go on.
    pub id: QueueId,
    /// Its name.
    pub name: Arc<str>,
    /// Messages waiting to be delivered.
    pub ready: usize,
    /// Messages delivered and not settled.
    pub unacked: usize,
    /// Its consumers.
    pub consumers: usize,
    /// Deliveries acknowledged.
    pub acknowledged: u64,
    /// Milliseconds from delivery to acknowledgement, of all of those together.
    pub processing_ms: u64,
    /// Deliveries to consumers that do not acknowledge.
    pub auto_acknowledged: u64,
}

/// What is durable of exchanges, queues and bindings; not what every vhost has.
#[derive(Clone, Debug, Default)]
pub struct Definitions {
    /// Exchanges.
    pub exchanges: Vec<ExchangeDefinition>,
    /// Queues.
    pub queues: Vec<QueueDefinition>,
    /// Bindings between them.
    pub bindings: Vec<BindingDefinition>,
}

/// An exchange as declared.
#[derive(Clone, Debug)]
pub struct ExchangeDefinition {
    /// Its name.
    pub name: Arc<str>,
    /// The name of its type.
    pub kind: &'static str,
    /// Goes with its last binding.
    pub auto_delete: bool,
    /// Clients may not publish to it.
    pub internal: bool,
    /// As declared.
    pub arguments: FieldTable,
}

/// A queue as declared.
#[derive(Clone, Debug)]
pub struct QueueDefinition {
    /// Its name.
    pub name: Arc<str>,
    /// Goes with its last consumer.
    pub auto_delete: bool,
    /// As declared.
    pub arguments: FieldTable,
}

/// A binding.
#[derive(Clone, Debug)]
pub struct BindingDefinition {
    /// The exchange it starts at.
    pub source: Arc<str>,
    /// Where it leads.
    pub destination: Arc<str>,
    /// Whether that is a queue; else it is an exchange.
    pub to_queue: bool,
    /// Its key.
    pub routing_key: Arc<str>,
    /// An encoded field table.
    pub arguments: Arc<[u8]>,
}

/// A schedule as its scheduler describes it, with the message that it fires.
#[derive(Clone)]
pub struct ScheduleDefinition {
    /// Its name: where to go on.
    pub name: Arc<str>,
    /// JSON.
    pub description: Vec<u8>,
    /// The message.
    pub message: Message,
}

impl Broker {
    /// At most so many queues, those behind `after` first, in an order of their own. A queue that is
    /// there all the while comes once.
    #[must_use]
    pub fn queues_after(&self, after: Option<QueueId>, max: usize) -> Vec<QueueFigures> {
        let place = |id: QueueId| id.data().as_ffi() & u64::from(u32::MAX);
        let queues = self.vhost().queues.iter();
        queues
            .filter(|(id, _)| after.is_none_or(|after| place(*id) > place(after)))
            .take(max)
            .map(|(id, queue)| QueueFigures {
                id,
                name: Arc::clone(&queue.name),
                ready: queue.index.len(),
                unacked: queue.unacked,
                consumers: queue.consumers.len(),
                acknowledged: queue.done.acknowledged,
                processing_ms: queue.done.processing_ms,
                auto_acknowledged: queue.done.auto_acknowledged,
            })
            .collect()
    }

    /// All that is durable and not of one connection alone.
    #[must_use]
    pub fn definitions(&self) -> Definitions {
        let vhost = self.vhost();
        let durable = |destination| match destination {
            Destination::Queue(id) => {
                let queue = vhost.queues.get(id)?;
                let lasts = queue.durable && queue.exclusive.is_none();
                lasts.then(|| (Arc::clone(&queue.name), true))
            }
            Destination::Exchange(id) => {
                let exchange = vhost.exchanges.get(id)?;
                exchange
                    .durable
                    .then(|| (Arc::clone(&exchange.name), false))
            }
        };
        let mut definitions = Definitions::default();
        for (id, exchange) in vhost.exchanges.iter().filter(|(_, x)| x.durable) {
            let bindings = vhost.bindings.from(id).into_iter();
            definitions.bindings.extend(bindings.filter_map(|binding| {
                let (destination, to_queue) = durable(binding.destination)?;
                Some(BindingDefinition {
                    source: Arc::clone(&exchange.name),
                    destination,
                    to_queue,
                    routing_key: binding.routing_key,
                    arguments: binding.arguments,
                })
            }));
            if PREDECLARED
                .iter()
                .all(|(name, ..)| **name != *exchange.name)
            {
                definitions.exchanges.push(ExchangeDefinition {
                    name: Arc::clone(&exchange.name),
                    kind: exchange.kind,
                    auto_delete: exchange.auto_delete,
                    internal: exchange.internal,
                    arguments: exchange.arguments.clone(),
                });
            }
        }
        let queues = vhost.queues.values();
        let lasting = queues.filter(|queue| queue.durable && queue.exclusive.is_none());
        definitions.queues = lasting
            .map(|queue| QueueDefinition {
                name: Arc::clone(&queue.name),
                auto_delete: queue.auto_delete,
                arguments: queue.arguments.clone(),
            })
            .collect();
        definitions
    }

    /// At most so many schedules, by name, those behind `after` first.
    #[must_use]
    pub fn schedules_after(&self, after: Option<&str>, max: usize) -> Vec<ScheduleDefinition> {
        let scheduler = self.vhost().scheduler.as_ref();
        scheduler.map_or_else(Vec::new, |scheduler| scheduler.describe(after, max))
    }
}

impl fmt::Debug for ScheduleDefinition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScheduleDefinition")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

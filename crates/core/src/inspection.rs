//! What an operator wants to know of a vhost: figures of its queues, and its definitions.
//!
//! Looked at between two turns, so in pieces wherever there may be many.

use std::fmt;
use std::sync::Arc;
use std::vec::IntoIter;

use leveret_codec::FieldTable;

use crate::binding::{Binding, Destination};
use crate::broker::Broker;
use crate::exchange::PREDECLARED;
use crate::ids::{ExchangeId, QueueId};
use crate::message::Message;

/// Octets of arguments for one unit of work of a [`Tour`].
const OCTETS_PER_WORK: usize = 256;

/// A queue in numbers, since it was declared or the broker started.
#[derive(Clone, Debug)]
pub struct QueueFigures {
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

/// What there is in a vhost at a moment, each known by its number.
#[derive(Clone, Debug)]
pub struct Inventory {
    exchanges: Vec<ExchangeId>,
    queues: Vec<QueueId>,
}

/// A way through the definitions of a vhost, some at a time.
///
/// Exchanges come first, then queues, then the bindings of each exchange. What is shown is not one
/// moment: the vhost goes on between two pieces.
///
/// - What is there all the while is shown once, and as it is.
/// - What is declared after the inventory was made is not shown, nor what is gone before its piece:
///   so neither is what was deleted and declared anew.
/// - Of a queue or an exchange that goes after it was shown, bindings may be missing.
/// - A binding that comes or goes meanwhile may be shown or not. One that is shown leads from an
///   exchange to a queue or an exchange that were shown, or that every vhost has: whoever reads in
///   what was shown finds nothing that leads nowhere.
#[derive(Debug)]
pub struct Tour {
    exchanges: IntoIter<ExchangeId>,
    queues: IntoIter<QueueId>,
    /// Those that were shown, in order; exchanges that every vhost has among them.
    shown_exchanges: Vec<ExchangeId>,
    shown_queues: Vec<QueueId>,
    /// How many of the exchanges have shown their bindings.
    bound: usize,
    /// The last binding of the next one that was looked at.
    after: Option<Binding>,
    /// What was looked at since the beginning.
    work: u64,
}

impl Inventory {
    /// Of queues alone, in the order in which they are best looked at.
    #[must_use]
    pub fn into_queues(mut self) -> Vec<QueueId> {
        self.queues.sort_unstable();
        self.queues
    }
}

impl Tour {
    /// From the beginning. Sorts what there is, so the vhost is better left alone meanwhile.
    #[must_use]
    pub fn of(mut inventory: Inventory) -> Self {
        inventory.exchanges.sort_unstable();
        inventory.queues.sort_unstable();
        Self {
            exchanges: inventory.exchanges.into_iter(),
            queues: inventory.queues.into_iter(),
            shown_exchanges: Vec::new(),
            shown_queues: Vec::new(),
            bound: 0,
            after: None,
            work: 0,
        }
    }

    /// What was looked at so far: one for each exchange, queue, binding and page of bindings, and one
    /// for some hundreds of octets of arguments.
    #[must_use]
    pub const fn work(&self) -> u64 {
        self.work
    }

    fn shows(&self, destination: Destination) -> bool {
        match destination {
            Destination::Queue(id) => self.shown_queues.binary_search(&id).is_ok(),
            Destination::Exchange(id) => self.shown_exchanges.binary_search(&id).is_ok(),
        }
    }

    /// Some hundreds of octets cost as much to copy as a thing without any.
    fn count(&mut self, arguments: &FieldTable, scratch: &mut Vec<u8>) {
        if !arguments.is_empty() {
            scratch.clear();
            arguments.encode_into(scratch);
            self.work += (scratch.len() / OCTETS_PER_WORK) as u64;
        }
    }
}

impl Broker {
    /// What there is at this moment, in no order. A pass over the names, which lie close together:
    /// some nanoseconds for each.
    #[must_use]
    pub fn inventory(&self) -> Inventory {
        let vhost = self.vhost();
        Inventory {
            exchanges: vhost.exchange_names.values().copied().collect(),
            queues: vhost.queue_names.values().copied().collect(),
        }
    }

    /// Those of these queues that are still there, in figures.
    #[must_use]
    pub fn queue_figures(&self, queues: &[QueueId]) -> Vec<QueueFigures> {
        let vhost = self.vhost();
        let there = queues.iter().filter_map(|&id| vhost.queues.get(id));
        there
            .map(|queue| QueueFigures {
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

    /// The next of all that is durable and not of one connection alone, for so much work, or
    /// somewhat more: what a single thing costs is not divided. None if everything was shown.
    #[must_use]
    pub fn definitions(&self, tour: &mut Tour, work_max: u64) -> Option<Definitions> {
        let vhost = self.vhost();
        let end = tour.work.saturating_add(work_max.max(1));
        let mut definitions = Definitions::default();
        let mut scratch = Vec::new();
        let before = tour.work;
        while tour.work < end
            && let Some(id) = tour.exchanges.next()
        {
            tour.work += 1;
            let Some(exchange) = vhost.exchanges.get(id).filter(|x| x.durable) else {
                continue;
            };
            tour.shown_exchanges.push(id);
            if PREDECLARED
                .iter()
                .all(|(name, ..)| **name != *exchange.name)
            {
                tour.count(&exchange.arguments, &mut scratch);
                definitions.exchanges.push(ExchangeDefinition {
                    name: Arc::clone(&exchange.name),
                    kind: exchange.kind,
                    auto_delete: exchange.auto_delete,
                    internal: exchange.internal,
                    arguments: exchange.arguments.clone(),
                });
            }
        }
        while tour.work < end
            && let Some(id) = tour.queues.next()
        {
            tour.work += 1;
            let queue = vhost.queues.get(id);
            let Some(queue) = queue.filter(|q| q.durable && q.exclusive.is_none()) else {
                continue;
            };
            tour.shown_queues.push(id);
            tour.count(&queue.arguments, &mut scratch);
            definitions.queues.push(QueueDefinition {
                name: Arc::clone(&queue.name),
                auto_delete: queue.auto_delete,
                arguments: queue.arguments.clone(),
            });
        }
        while tour.work < end
            && let Some(&id) = tour.shown_exchanges.get(tour.bound)
        {
            let left = usize::try_from(end - tour.work).unwrap_or(usize::MAX);
            let page = vhost.bindings.next_from(id, tour.after.as_ref(), left);
            tour.work += 1 + page.len() as u64;
            let names = page.iter().filter(|it| tour.shows(it.destination));
            let shown = names.filter_map(|binding| self.binding_definition(binding));
            definitions.bindings.extend(shown);
            if page.len() < left {
                tour.bound += 1;
                tour.after = None;
            } else {
                tour.after = page.into_iter().next_back();
            }
        }
        (tour.work > before).then_some(definitions)
    }

    /// A binding, if both its ends are there.
    fn binding_definition(&self, binding: &Binding) -> Option<BindingDefinition> {
        let vhost = self.vhost();
        let (destination, to_queue) = match binding.destination {
            Destination::Queue(id) => (&vhost.queues.get(id)?.name, true),
            Destination::Exchange(id) => (&vhost.exchanges.get(id)?.name, false),
        };
        Some(BindingDefinition {
            source: Arc::clone(&vhost.exchanges.get(binding.source)?.name),
            destination: Arc::clone(destination),
            to_queue,
            routing_key: Arc::clone(&binding.routing_key),
            arguments: Arc::clone(&binding.arguments),
        })
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

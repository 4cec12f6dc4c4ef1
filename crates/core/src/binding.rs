//! Bindings: which exchange passes messages on to what, and under which key.
//!
//! This is the register of facts, for identity, listing and clean-up. Each exchange keeps its own
//! routing structure (`exchange/*`), which is fed from here.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::ids::{ExchangeId, QueueId};

/// Where a binding leads.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Destination {
    Queue(QueueId),
    Exchange(ExchangeId),
}

/// One binding. All four parts make its identity, as in RabbitMQ.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Binding {
    pub(crate) source: ExchangeId,
    pub(crate) destination: Destination,
    pub(crate) routing_key: Arc<str>,
    /// A field table in canonical order, so that the order a client wrote it in does not matter.
    pub(crate) arguments: Arc<[u8]>,
}

impl Binding {
    fn text_bytes(&self) -> usize {
        self.routing_key.len() + self.arguments.len()
    }
}

/// All bindings of a vhost, but for the default exchange's, which follow from the queues' names.
#[derive(Debug, Default)]
pub(crate) struct Bindings {
    from: BTreeMap<ExchangeId, BTreeSet<Binding>>,
    to: BTreeMap<Destination, BTreeSet<Binding>>,
    len: usize,
    /// Octets of all keys and arguments.
    text_bytes: usize,
    /// What routing takes for the bindings of each exchange, as last told, and in all.
    route_bytes: BTreeMap<ExchangeId, usize>,
    route_bytes_all: usize,
}

impl Bindings {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Memory they take beside a fixed cost for each, in octets.
    pub(crate) fn bytes(&self) -> usize {
        self.text_bytes + self.route_bytes_all
    }

    /// Routing takes so much memory for the bindings of this exchange now, in octets.
    pub(crate) fn weigh(&mut self, source: ExchangeId, bytes: usize) {
        let before = if bytes == 0 {
            self.route_bytes.remove(&source)
        } else {
            self.route_bytes.insert(source, bytes)
        };
        self.route_bytes_all += bytes;
        self.route_bytes_all -= before.unwrap_or_default();
    }

    pub(crate) fn contains(&self, binding: &Binding) -> bool {
        self.from
            .get(&binding.source)
            .is_some_and(|set| set.contains(binding))
    }

    /// Adds it; false if it was there already.
    pub(crate) fn insert(&mut self, binding: Binding) -> bool {
        let added = self
            .from
            .entry(binding.source)
            .or_default()
            .insert(binding.clone());
        if added {
            self.text_bytes += binding.text_bytes();
            self.to
                .entry(binding.destination)
                .or_default()
                .insert(binding);
            self.len += 1;
        }
        added
    }

    /// Takes it away; false if it was not there.
    pub(crate) fn remove(&mut self, binding: &Binding) -> bool {
        let removed = take(&mut self.from, &binding.source, binding);
        if removed {
            take(&mut self.to, &binding.destination, binding);
            self.len -= 1;
            self.text_bytes -= binding.text_bytes();
        }
        removed
    }

    pub(crate) fn any_from(&self, source: ExchangeId) -> bool {
        self.from.contains_key(&source)
    }

    /// A copy of the bindings that start at an exchange.
    pub(crate) fn from(&self, source: ExchangeId) -> Vec<Binding> {
        self.from
            .get(&source)
            .map(|set| set.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// Copies of at most so many of them, behind this one, in an order of their own.
    pub(crate) fn next_from(
        &self,
        source: ExchangeId,
        after: Option<&Binding>,
        max: usize,
    ) -> Vec<Binding> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let set = self.from.get(&source).into_iter();
        let next = set.flat_map(|set| set.range::<Binding, _>((from, Bound::Unbounded)));
        next.take(max).cloned().collect()
    }

    /// A copy of the bindings that lead to a queue or exchange.
    pub(crate) fn to(&self, destination: Destination) -> Vec<Binding> {
        self.to
            .get(&destination)
            .map(|set| set.iter().cloned().collect())
            .unwrap_or_default()
    }
}

/// Removes `binding` from the set of `key`, and the set when it is empty.
fn take<K: Ord>(sets: &mut BTreeMap<K, BTreeSet<Binding>>, key: &K, binding: &Binding) -> bool {
    let Some(set) = sets.get_mut(key) else {
        return false;
    };
    let removed = set.remove(binding);
    if set.is_empty() {
        sets.remove(key);
    }
    removed
}

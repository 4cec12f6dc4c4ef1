//! `direct`: the routing key equals the binding key.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::binding::{Binding, Destination};
use crate::exchange::{Destinations, ExchangeType};
use crate::map::{HashSeed, Map};
use crate::message::Message;

#[derive(Debug)]
pub(super) struct Direct {
    keys: Map<Arc<str>, Destinations>,
}

impl Direct {
    pub(super) fn new(hash_seed: HashSeed) -> Self {
        Self {
            keys: hash_seed.map(),
        }
    }
}

impl ExchangeType for Direct {
    fn bind(&mut self, binding: &Binding) {
        self.keys
            .entry(Arc::clone(&binding.routing_key))
            .or_default()
            .add(binding.destination);
    }

    fn unbind(&mut self, binding: &Binding) {
        if let Some(destinations) = self.keys.get_mut(&binding.routing_key) {
            destinations.remove(binding.destination);
            if destinations.is_empty() {
                self.keys.remove(&binding.routing_key);
            }
        }
    }

    fn route(&mut self, routing_key: &str, _: &Message, to: &mut Vec<Destination>) -> usize {
        if let Some(destinations) = self.keys.get(routing_key) {
            destinations.add_to(to);
        }
        0
    }

    fn census(&self) -> BTreeMap<Destination, usize> {
        let mut census = BTreeMap::new();
        for destinations in self.keys.values() {
            destinations.count_into(&mut census);
        }
        census
    }
}

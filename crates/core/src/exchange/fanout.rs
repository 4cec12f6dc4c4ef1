//! `fanout`: everything goes everywhere.

use std::collections::BTreeMap;

use crate::binding::{Binding, Destination};
use crate::exchange::{Destinations, ExchangeType};
use crate::message::Message;

#[derive(Debug, Default)]
pub(super) struct Fanout {
    destinations: Destinations,
}

impl ExchangeType for Fanout {
    fn bind(&mut self, binding: &Binding) {
        self.destinations.add(binding.destination);
    }

    fn unbind(&mut self, binding: &Binding) {
        self.destinations.remove(binding.destination);
    }

    fn route(&mut self, _: &str, _: &Message, to: &mut Vec<Destination>) -> usize {
        self.destinations.add_to(to);
        0
    }

    fn looks_at_key(&self) -> bool {
        false
    }

    fn census(&self) -> BTreeMap<Destination, usize> {
        let mut census = BTreeMap::new();
        self.destinations.count_into(&mut census);
        census
    }
}

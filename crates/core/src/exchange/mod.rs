//! Exchanges: they decide where a message goes.
//!
//! One file a type. A type keeps its own index of the bindings that start at its exchange, and
//! answers [`ExchangeType::route`]; everything else about exchanges is here and in the router.

mod direct;
mod fanout;
mod headers;
mod registry;
mod topic;
mod topic_trie;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::Arc;

use leveret_codec::FieldTable;

use crate::binding::{Binding, Destination};
use crate::error::AmqpError;
use crate::message::Message;

pub(crate) use registry::{DELAYED_TYPE, Made, PREDECLARED, is_type, make};

/// What a type of exchange knows: its own bindings, and where a key leads.
pub(crate) trait ExchangeType: fmt::Debug + Send {
    /// Refuses binding arguments that make no sense to this type (406).
    fn validate(&self, _arguments: &FieldTable) -> Result<(), AmqpError> {
        Ok(())
    }

    /// Takes a new binding into the index.
    fn bind(&mut self, binding: &Binding);

    /// Forgets a binding that was taken in before.
    fn unbind(&mut self, binding: &Binding);

    /// Adds every destination of the key to `to`; the same one may be added more than once.
    ///
    /// Returns how many things it had to look at for that, beside what it found.
    fn route(&mut self, routing_key: &str, message: &Message, to: &mut Vec<Destination>) -> usize;

    /// Whether more than the routing key decides, so that the key's route cannot be remembered.
    fn looks_at_content(&self) -> bool {
        false
    }

    /// Whether the routing key decides at all.
    fn looks_at_key(&self) -> bool {
        true
    }

    /// Memory that the index takes beside a fixed cost for each binding, in octets, about.
    fn bytes(&self) -> usize {
        0
    }

    /// How many bindings lead to each destination, to be compared with the register's.
    fn census(&self) -> BTreeMap<Destination, usize>;
}

/// An exchange of a vhost.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) name: Arc<str>,
    /// `direct`, `fanout`, ...: the name of its type.
    pub(crate) kind: &'static str,
    pub(crate) durable: bool,
    /// Goes when the last binding from it goes.
    pub(crate) auto_delete: bool,
    /// Clients may not publish to it.
    pub(crate) internal: bool,
    /// As declared.
    pub(crate) arguments: FieldTable,
    /// Where messages go that it routes nowhere (argument `alternate-exchange`).
    pub(crate) alternate: Option<Arc<str>>,
    pub(crate) routes: Box<dyn ExchangeType>,
    /// It cares for the header `x-delay`.
    pub(crate) delays: bool,
    /// Number of the last routing that passed here: a message passes each exchange once.
    pub(crate) passed: u64,
}

/// Destinations in order, each with the number of bindings that lead to it.
#[derive(Debug, Default)]
struct Destinations(BTreeMap<Destination, u32>);

impl Destinations {
    fn add(&mut self, destination: Destination) {
        *self.0.entry(destination).or_default() += 1;
    }

    fn remove(&mut self, destination: Destination) {
        if let Entry::Occupied(mut bindings) = self.0.entry(destination) {
            *bindings.get_mut() -= 1;
            if *bindings.get() == 0 {
                bindings.remove();
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn count_into(&self, census: &mut BTreeMap<Destination, usize>) {
        for (destination, bindings) in &self.0 {
            *census.entry(*destination).or_default() += *bindings as usize;
        }
    }

    fn add_to(&self, to: &mut Vec<Destination>) {
        to.extend(self.0.keys().copied());
    }
}

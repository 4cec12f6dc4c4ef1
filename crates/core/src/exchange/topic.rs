//! `topic`: the binding key is a pattern of words; `*` is one word, `#` zero or more.

use std::collections::BTreeMap;

use crate::binding::{Binding, Destination};
use crate::exchange::ExchangeType;
use crate::exchange::topic_trie::TopicTrie;
use crate::map::HashSeed;
use crate::message::Message;

#[derive(Debug)]
pub(super) struct Topic {
    patterns: TopicTrie,
}

impl Topic {
    pub(super) fn new(hash_seed: HashSeed) -> Self {
        Self {
            patterns: TopicTrie::new(hash_seed),
        }
    }
}

impl ExchangeType for Topic {
    fn bind(&mut self, binding: &Binding) {
        self.patterns
            .insert(&binding.routing_key, binding.destination);
    }

    fn unbind(&mut self, binding: &Binding) {
        self.patterns
            .remove(&binding.routing_key, binding.destination);
    }

    fn route(&mut self, routing_key: &str, _: &Message, to: &mut Vec<Destination>) -> usize {
        self.patterns.matches(routing_key, to)
    }

    fn bytes(&self) -> usize {
        self.patterns.bytes()
    }

    fn census(&self) -> BTreeMap<Destination, usize> {
        self.patterns.census()
    }
}

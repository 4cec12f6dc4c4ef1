//! The exchanges, queues, bindings and notes of a vhost that are there.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::{iter, mem};

use leveret_core::record::{BindingFact, Fact};

use crate::notes::Notes;

/// Number of a record, and 0 for a queue; for others counted from 1, should a record say several.
pub(crate) type Key = (u64, u32);

/// What is there, by the number of its record.
#[derive(Debug, Default)]
pub(crate) struct Definitions {
    facts: BTreeMap<Key, Fact>,
    exchanges: BTreeMap<Arc<str>, Key>,
    notes: Notes,
    /// Bindings by their source.
    from: BTreeMap<Arc<str>, BTreeSet<Key>>,
    /// Bindings by their destination; whether it is a queue.
    to: BTreeMap<(bool, Arc<str>), BTreeSet<Key>>,
}

impl Definitions {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.facts.len() + self.notes.len()
    }

    /// What is no note, in the order of records, from behind this one on.
    pub(crate) fn facts_after(&self, after: Option<Key>) -> impl Iterator<Item = (&Key, &Fact)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.facts.range((from, Bound::Unbounded))
    }

    pub(crate) fn notes(&self) -> &Notes {
        &self.notes
    }

    /// In the order of their records; notes are the last ones of a record.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, Cow<'_, Fact>)> {
        let facts = self.facts.iter();
        let mut facts = facts.map(|(key, fact)| (key.0, Cow::Borrowed(fact)));
        let notes = self.notes.iter();
        let mut notes = notes.map(|(lsn, note)| (lsn, Cow::Owned(Fact::Noted(note))));
        let (mut fact, mut note) = (facts.next(), notes.next());
        iter::from_fn(move || {
            let is_note = match (&fact, &note) {
                (Some((fact, _)), Some((note, _))) => note < fact,
                (fact, _) => fact.is_none(),
            };
            if is_note {
                mem::replace(&mut note, notes.next())
            } else {
                mem::replace(&mut fact, facts.next())
            }
        })
    }

    /// Takes a fact in. The queue's number of a declaration is `lsn`.
    pub(crate) fn apply(&mut self, lsn: u64, fact: Fact) {
        match fact {
            Fact::ExchangeDeclared { ref name, .. } => {
                let key = self.key(lsn);
                if let Some(before) = self.exchanges.insert(Arc::clone(name), key) {
                    self.facts.remove(&before);
                }
                self.facts.insert(key, fact);
            }
            Fact::QueueDeclared { .. } => {
                self.facts.insert((lsn, 0), fact);
            }
            Fact::Bound(ref binding) => {
                // Its place may be taken by nothing else, so an equal one before it is the same.
                self.unbind(binding);
                let key = self.key(lsn);
                let from = self.from.entry(Arc::clone(&binding.source)).or_default();
                from.insert(key);
                let to = (binding.to_queue, Arc::clone(&binding.destination));
                self.to.entry(to).or_default().insert(key);
                self.facts.insert(key, fact);
            }
            Fact::ExchangeDeleted { name } => {
                if let Some(declared) = self.exchanges.remove(&name) {
                    self.facts.remove(&declared);
                }
                let from = self.from.get(&name).cloned().unwrap_or_default();
                self.remove_bindings(from);
                self.remove_bindings_to(false, &name);
            }
            Fact::QueueDeleted { queue, name } => {
                self.facts.remove(&(queue.0, 0));
                self.remove_bindings_to(true, &name);
            }
            Fact::Unbound(binding) => self.unbind(&binding),
            Fact::Noted(note) => self.notes.apply(lsn, note),
            _ => {}
        }
    }

    fn key(&self, lsn: u64) -> Key {
        let last = self.facts.range((lsn, 0)..=(lsn, u32::MAX)).next_back();
        (lsn, last.map_or(1, |(key, _)| key.1.saturating_add(1)))
    }

    fn remove_bindings_to(&mut self, is_queue: bool, name: &Arc<str>) {
        let to = self.to.get(&(is_queue, Arc::clone(name)));
        let to = to.cloned().unwrap_or_default();
        self.remove_bindings(to);
    }

    fn remove_bindings(&mut self, keys: BTreeSet<Key>) {
        for key in keys {
            self.remove_binding(key);
        }
    }

    fn unbind(&mut self, binding: &BindingFact) {
        let to = (binding.to_queue, Arc::clone(&binding.destination));
        let (Some(from), Some(to)) = (self.from.get(&binding.source), self.to.get(&to)) else {
            return;
        };
        let fewer = if from.len() < to.len() { from } else { to };
        let is_it =
            |key: &&Key| matches!(self.facts.get(key), Some(Fact::Bound(fact)) if fact == binding);
        if let Some(&key) = fewer.iter().find(is_it) {
            self.remove_binding(key);
        }
    }

    fn remove_binding(&mut self, key: Key) {
        let Some(Fact::Bound(binding)) = self.facts.remove(&key) else {
            return;
        };
        if let Some(keys) = self.from.get_mut(&binding.source) {
            keys.remove(&key);
            if keys.is_empty() {
                self.from.remove(&binding.source);
            }
        }
        let to = (binding.to_queue, binding.destination);
        if let Some(keys) = self.to.get_mut(&to) {
            keys.remove(&key);
            if keys.is_empty() {
                self.to.remove(&to);
            }
        }
    }
}

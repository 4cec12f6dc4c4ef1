//! Exchanges and bindings of the model: lists that are searched from front to end.

use std::collections::{BTreeMap, BTreeSet};

use leveret_codec::{FieldTable, FieldValue};

/// An exchange, by its name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Exchange {
    /// Its type.
    pub kind: String,
    /// As declared.
    pub durable: bool,
    /// As declared.
    pub auto_delete: bool,
    /// As declared.
    pub internal: bool,
    /// As declared.
    pub alternate: Option<String>,
}

/// A binding, by names.
#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    /// The exchange it starts at.
    pub source: String,
    /// Where it leads.
    pub destination: String,
    /// Whether that is a queue.
    pub to_queue: bool,
    /// Its routing key.
    pub key: String,
    /// Its arguments, sorted by key.
    pub arguments: Vec<(String, FieldValue)>,
}

/// All exchanges and bindings.
#[derive(Clone, Debug)]
pub struct Topology {
    /// By name; the default exchange's is empty.
    pub exchanges: BTreeMap<String, Exchange>,
    /// In order of their making.
    pub bindings: Vec<Binding>,
}

impl Topology {
    /// What every vhost begins with.
    #[must_use]
    pub fn new() -> Self {
        let predeclared = [
            ("", "direct", false),
            ("amq.direct", "direct", false),
            ("amq.fanout", "fanout", false),
            ("amq.topic", "topic", false),
            ("amq.headers", "headers", false),
            ("amq.match", "headers", false),
            ("amq.rabbitmq.trace", "topic", true),
            ("amq.schedule", "direct", false),
        ];
        let exchanges = predeclared.map(|(name, kind, internal)| {
            let exchange = Exchange {
                kind: kind.to_owned(),
                durable: true,
                auto_delete: false,
                internal,
                alternate: None,
            };
            (name.to_owned(), exchange)
        });
        Self {
            exchanges: BTreeMap::from(exchanges),
            bindings: Vec::new(),
        }
    }

    /// The queues a message goes to, each once.
    pub fn route(
        &self,
        exchange: &str,
        keys: &[&str],
        headers: &FieldTable,
        is_queue: impl Fn(&str) -> bool,
    ) -> BTreeSet<String> {
        let mut queues = BTreeSet::new();
        let mut visited = BTreeSet::new();
        let mut todo = vec![exchange.to_owned()];
        while let Some(name) = todo.pop() {
            let Some(exchange) = self.exchanges.get(&name) else {
                continue;
            };
            if !visited.insert(name.clone()) {
                continue;
            }
            let mut found = 0;
            if name.is_empty() {
                for key in keys.iter().filter(|key| is_queue(key)) {
                    found += 1;
                    queues.insert((*key).to_owned());
                }
            }
            for binding in self.bindings.iter().filter(|b| b.source == name) {
                if !keys
                    .iter()
                    .any(|key| matches(exchange, binding, key, headers))
                {
                    continue;
                }
                found += 1;
                if binding.to_queue {
                    queues.insert(binding.destination.clone());
                } else {
                    todo.push(binding.destination.clone());
                }
            }
            if found == 0 {
                todo.extend(exchange.alternate.clone());
            }
        }
        queues
    }

    /// Removes bindings, and the auto-delete exchanges whose last one that was. Returns which
    /// durable exchanges are gone.
    pub fn unbind(&mut self, goes: impl Fn(&Binding) -> bool) -> Vec<String> {
        let mut ended = Vec::new();
        let (gone, kept) = std::mem::take(&mut self.bindings)
            .into_iter()
            .partition(|binding| goes(binding));
        self.bindings = kept;
        let gone: Vec<Binding> = gone;
        for source in gone.into_iter().map(|binding| binding.source) {
            let unused = !self.bindings.iter().any(|b| b.source == source);
            if unused && self.exchanges.get(&source).is_some_and(|e| e.auto_delete) {
                ended.extend(self.delete(&source));
            }
        }
        ended
    }

    /// Removes an exchange with its bindings. Returns which durable exchanges are gone.
    pub fn delete(&mut self, name: &str) -> Vec<String> {
        let durable = self.exchanges.remove(name).is_some_and(|x| x.durable);
        let mut ended = Vec::from_iter(durable.then(|| name.to_owned()));
        self.bindings.retain(|b| b.source != name);
        ended.extend(self.unbind(|b| !b.to_queue && b.destination == name));
        ended
    }
}

impl Default for Topology {
    fn default() -> Self {
        Self::new()
    }
}

fn matches(exchange: &Exchange, binding: &Binding, key: &str, headers: &FieldTable) -> bool {
    match exchange.kind.as_str() {
        "fanout" => true,
        "direct" => binding.key == key,
        "topic" => topic(&words(&binding.key), &words(key)),
        _ => headers_match(&binding.arguments, headers),
    }
}

/// An empty key has no words.
fn words(key: &str) -> Vec<&str> {
    if key.is_empty() {
        Vec::new()
    } else {
        key.split('.').collect()
    }
}

fn topic(pattern: &[&str], key: &[&str]) -> bool {
    match (pattern, key) {
        ([], []) => true,
        (["#", rest @ ..], _) => (0..=key.len()).any(|skipped| topic(rest, &key[skipped..])),
        (["*", rest @ ..], [_, key @ ..]) => topic(rest, key),
        ([word, rest @ ..], [first, key @ ..]) => word == first && topic(rest, key),
        _ => false,
    }
}

fn headers_match(arguments: &[(String, FieldValue)], headers: &FieldTable) -> bool {
    let mode = arguments
        .iter()
        .find(|(key, _)| key == "x-match")
        .and_then(|(_, value)| value.as_str())
        .unwrap_or("all");
    let mut checks = arguments
        .iter()
        .filter(|(key, _)| key != "x-match")
        .filter(|(key, _)| mode.ends_with("-with-x") || !key.starts_with("x-"))
        .map(|(key, wanted)| match headers.get(key) {
            None => false,
            Some(_) if *wanted == FieldValue::Void => true,
            Some(value) => match (value.as_i64(), wanted.as_i64()) {
                (Some(a), Some(b)) => a == b,
                _ => value == wanted,
            },
        });
    if mode.starts_with("any") {
        checks.any(|holds| holds)
    } else {
        checks.all(|holds| holds)
    }
}

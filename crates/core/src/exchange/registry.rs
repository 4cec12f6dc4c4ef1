//! Which types of exchange there are, and which exchanges every vhost starts with.

use crate::exchange::ExchangeType;
use crate::exchange::direct::Direct;
use crate::exchange::fanout::Fanout;
use crate::exchange::headers::Headers;
use crate::exchange::topic::Topic;
use crate::map::HashSeed;

type Constructor = fn(HashSeed) -> Box<dyn ExchangeType>;

/// THE TABLE of exchange types.
const TYPES: [(&str, Constructor); 4] = [
    ("direct", |seed| Box::new(Direct::new(seed))),
    ("fanout", |_| Box::new(Fanout::default())),
    ("topic", |seed| Box::new(Topic::new(seed))),
    ("headers", |_| Box::new(Headers::default())),
];

/// Exchanges that exist from the start and cannot be deleted: name, type, internal.
///
/// The first one is the default exchange. It has no bindings: a queue's name is its key.
pub(crate) const PREDECLARED: [(&str, &str, bool); 7] = [
    ("", "direct", false),
    ("amq.direct", "direct", false),
    ("amq.fanout", "fanout", false),
    ("amq.topic", "topic", false),
    ("amq.headers", "headers", false),
    ("amq.match", "headers", false),
    ("amq.rabbitmq.trace", "topic", true),
];

/// The type's own name and an empty routing structure, if there is such a type.
pub(crate) fn make(
    kind: &str,
    hash_seed: HashSeed,
) -> Option<(&'static str, Box<dyn ExchangeType>)> {
    TYPES
        .iter()
        .find(|(name, _)| *name == kind)
        .map(|(name, new)| (*name, new(hash_seed)))
}

//! Which types of exchange there are, and which exchanges every vhost starts with.

use leveret_codec::{FieldTable, FieldValue};

use crate::error::AmqpError;
use crate::exchange::ExchangeType;
use crate::exchange::direct::Direct;
use crate::exchange::fanout::Fanout;
use crate::exchange::headers::Headers;
use crate::exchange::topic::Topic;
use crate::map::HashSeed;
use crate::schedules::EXCHANGE as ORDERS;

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
pub(crate) const PREDECLARED: [(&str, &str, bool); 8] = [
    ("", "direct", false),
    ("amq.direct", "direct", false),
    ("amq.fanout", "fanout", false),
    ("amq.topic", "topic", false),
    ("amq.headers", "headers", false),
    ("amq.match", "headers", false),
    ("amq.rabbitmq.trace", "topic", true),
    (ORDERS, "direct", false),
];

/// RabbitMQ's plugin of this name: routes like the type in its argument, with delay.
const DELAYED: &str = "x-delayed-message";

/// The argument that names the type such an exchange routes like.
pub(crate) const DELAYED_TYPE: &str = "x-delayed-type";

/// An exchange's type, as made.
#[derive(Debug)]
pub(crate) struct Made {
    /// The type's own name.
    pub(crate) kind: &'static str,
    /// An empty routing structure.
    pub(crate) routes: Box<dyn ExchangeType>,
    /// It cares for the header `x-delay`.
    pub(crate) delays: bool,
}

/// Whether there is such a type.
pub(crate) fn is_type(kind: &str) -> bool {
    kind == DELAYED || find(kind).is_some()
}

/// Makes what an exchange of this type routes with.
///
/// # Errors
/// `PRECONDITION_FAILED`: there is no such type, or it is not to be had with these arguments.
pub(crate) fn make(
    kind: &str,
    arguments: &FieldTable,
    hash_seed: HashSeed,
) -> Result<Made, AmqpError> {
    let delays = kind == DELAYED;
    let like = if delays {
        delayed_type(arguments)?
    } else {
        kind
    };
    let Some((like, new)) = find(like) else {
        let why = format_args!("unknown exchange type '{like}'");
        return Err(AmqpError::precondition_failed(why));
    };
    Ok(Made {
        kind: if delays { DELAYED } else { like },
        routes: new(hash_seed),
        delays,
    })
}

fn find(kind: &str) -> Option<(&'static str, Constructor)> {
    TYPES.iter().find(|(name, _)| *name == kind).copied()
}

/// With the plugin's words.
fn delayed_type(arguments: &FieldTable) -> Result<&str, AmqpError> {
    let wrong = |what| {
        Err(AmqpError::precondition_failed(format_args!(
            "Invalid argument, {what}"
        )))
    };
    match arguments.get(DELAYED_TYPE).and_then(FieldValue::as_str) {
        None => wrong("'x-delayed-type' must be an existing exchange type"),
        Some(DELAYED) => wrong("'x-delayed-message' can't be used for 'x-delayed-type'"),
        Some(kind) => Ok(kind),
    }
}

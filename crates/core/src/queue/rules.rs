//! What a queue's arguments ask of it, read once when it is declared.

use std::sync::Arc;

use leveret_codec::{FieldTable, FieldValue};

use crate::queue::arguments::is_quorum;
use crate::queue::backoff::Backoff;

/// Deliveries a message of a quorum queue survives without an argument that says otherwise
/// (RabbitMQ 4.0).
const QUORUM_DELIVERY_LIMIT: u32 = 20;

/// What a queue does with its messages beyond keeping them.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// How long a message may wait (`x-message-ttl`), in milliseconds.
    pub(crate) ttl_ms: Option<u64>,
    /// Ready messages, and octets of their bodies, that it may hold (`x-max-length`,
    /// `x-max-length-bytes`).
    pub(crate) length_max: Option<usize>,
    pub(crate) bytes_max: Option<usize>,
    /// What becomes of what would be more.
    pub(crate) overflow: Overflow,
    /// Where messages go that it gets rid of.
    pub(crate) dead_letter: Option<DeadLetterTo>,
    /// Failed deliveries a message survives (`x-delivery-limit`).
    pub(crate) delivery_limit: Option<u32>,
    /// After how long a message comes back whose delivery did not end well.
    pub(crate) backoff: Option<Backoff>,
    /// How long a delivery may go unsettled (`x-consumer-timeout`), in milliseconds.
    pub(crate) consumer_timeout_ms: Option<u64>,
    /// Deliveries say how often one has failed before (`x-delivery-count`).
    pub(crate) counts_deliveries: bool,
    /// The highest priority there is (`x-max-priority`), if any but 0.
    pub(crate) priority_max: Option<u8>,
}

/// `x-overflow`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Overflow {
    /// The oldest messages make room.
    #[default]
    DropHead,
    /// The publisher is told no.
    RejectPublish,
    /// The publisher is told no, and the message is dead-lettered.
    RejectPublishDeadLetter,
}

/// `x-dead-letter-exchange` and `x-dead-letter-routing-key`.
#[derive(Clone, Debug)]
pub(crate) struct DeadLetterTo {
    pub(crate) exchange: Arc<str>,
    /// The message's own keys if there is none.
    pub(crate) routing_key: Option<Arc<str>>,
}

impl Rules {
    /// Of a queue with these arguments, which are valid.
    pub(crate) fn of(arguments: &FieldTable) -> Self {
        let number = |name| arguments.get(name).and_then(FieldValue::as_i64);
        let text = |name| arguments.get(name).and_then(FieldValue::as_str);
        let size = |name| number(name).and_then(|n| usize::try_from(n).ok());
        let quorum = is_quorum(arguments);
        let backoff = Backoff::of(arguments);
        let delivery_limit = match number("x-delivery-limit") {
            Some(limit) if limit < 0 => None, // no limit
            Some(limit) => Some(u32::try_from(limit).unwrap_or(u32::MAX)),
            None => quorum.then_some(QUORUM_DELIVERY_LIMIT),
        };
        Self {
            ttl_ms: number("x-message-ttl").and_then(|ms| u64::try_from(ms).ok()),
            length_max: size("x-max-length"),
            bytes_max: size("x-max-length-bytes"),
            overflow: match text("x-overflow") {
                Some("reject-publish") => Overflow::RejectPublish,
                Some("reject-publish-dlx") => Overflow::RejectPublishDeadLetter,
                _ => Overflow::DropHead,
            },
            dead_letter: text("x-dead-letter-exchange").map(|exchange| DeadLetterTo {
                exchange: Arc::from(exchange),
                routing_key: text("x-dead-letter-routing-key").map(Arc::from),
            }),
            delivery_limit,
            consumer_timeout_ms: number("x-consumer-timeout").and_then(|ms| u64::try_from(ms).ok()),
            counts_deliveries: quorum || delivery_limit.is_some() || backoff.is_some(),
            backoff,
            priority_max: number("x-max-priority")
                .and_then(|max| u8::try_from(max).ok())
                .filter(|max| *max > 0),
        }
    }

    /// How long a delivery may go unsettled, in milliseconds, where others have so long.
    #[inline]
    pub(crate) fn consumer_timeout_ms(&self, others_ms: u64) -> u64 {
        self.consumer_timeout_ms.unwrap_or(others_ms)
    }

    /// Whether its length is limited at all.
    #[inline]
    pub(crate) fn limits_length(&self) -> bool {
        self.length_max.is_some() || self.bytes_max.is_some()
    }

    /// Whether so many messages, with bodies of so many octets, are too much.
    pub(crate) fn is_over(&self, messages: usize, bytes: usize) -> bool {
        self.length_max.is_some_and(|max| messages > max)
            || self.bytes_max.is_some_and(|max| bytes > max)
    }
}

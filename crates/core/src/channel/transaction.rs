//! What a channel in tx mode has said and not yet committed.

use crate::channel::unacked::Delivery;
use crate::ids::QueueId;
use crate::input::Outcome;
use crate::message::Message;

/// Checked and routed when they were said, carried out at `tx.commit`: publishes first, then
/// settles, as in RabbitMQ.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    pub(crate) publishes: Vec<TxPublish>,
    pub(crate) settles: Vec<TxSettle>,
    /// What the publishes hold in memory, in octets.
    pub(crate) bytes: usize,
}

#[derive(Debug)]
pub(crate) struct TxPublish {
    pub(crate) message: Message,
    pub(crate) mandatory: bool,
    pub(crate) queues: Vec<QueueId>,
}

/// Deliveries taken out of the channel's unacked, to be settled or, at `tx.rollback`, put back.
#[derive(Debug)]
pub(crate) struct TxSettle {
    pub(crate) outcome: Outcome,
    pub(crate) deliveries: Vec<(u64, Delivery)>,
}

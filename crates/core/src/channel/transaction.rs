//! What a channel in tx mode has said and not yet committed.

use crate::channel::unacked::Delivery;
use crate::delay::Due;
use crate::error::AmqpError;
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

/// Most that the publishes of one transaction hold until it is committed, in octets: they are one
/// record of the log.
const BYTES_MAX: usize = 1 << 30;

impl Transaction {
    /// Adds a publish.
    ///
    /// # Errors
    /// `PRECONDITION_FAILED`: that would be too much for one transaction.
    pub(crate) fn add(&mut self, publish: TxPublish) -> Result<(), AmqpError> {
        let queues = publish.queues.len() * size_of::<QueueId>();
        self.bytes += publish.message.memory_bytes() + queues;
        if self.bytes > BYTES_MAX {
            return Err(AmqpError::precondition_failed(format_args!(
                "transaction of more than {BYTES_MAX} octets"
            )));
        }
        self.publishes.push(publish);
        Ok(())
    }
}

#[derive(Debug)]
pub(crate) struct TxPublish {
    pub(crate) message: Message,
    pub(crate) mandatory: bool,
    pub(crate) queues: Vec<QueueId>,
    /// When it is to be delivered, if not at once.
    pub(crate) due: Option<Due>,
}

/// Deliveries taken out of the channel's unacked, to be settled or, at `tx.rollback`, put back.
#[derive(Debug)]
pub(crate) struct TxSettle {
    pub(crate) outcome: Outcome,
    pub(crate) deliveries: Vec<(u64, Delivery)>,
}

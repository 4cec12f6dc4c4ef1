//! Everything a vhost can want from the world.
//!
//! Handlers fill these buffers during a turn; whoever runs the turn empties them afterwards and
//! hands the same object to the next turn, so that no effect costs an allocation.

use std::sync::Arc;

use leveret_codec::Method;
use slotmap::SecondaryMap;

use crate::dead_letter::Reason;
use crate::error::{AmqpError, ReplyCode};
use crate::event::Event;
use crate::ids::{ConnectionId, Lsn, Seq};
use crate::log::{Fetch, Swap};
use crate::message::Message;
use crate::record::{Fact, Record};

/// What one turn wants done, in order within each buffer.
#[derive(Debug, Default)]
pub struct Effects {
    sends: SecondaryMap<ConnectionId, Vec<Outbound>>,
    touched: Vec<ConnectionId>,
    /// What must survive a restart, in order of [`Lsn`](crate::ids::Lsn).
    pub records: Vec<Record>,
    /// Messages to be asked back from the log.
    pub fetches: Vec<Fetch>,
    /// Messages to be written to the swap area, or to be forgotten there.
    pub swaps: Vec<Swap>,
    /// What an operator may want to know.
    pub events: Vec<Event>,
    /// Connections whose socket is not to be read for now (true) or again (false).
    pub reading: Vec<(ConnectionId, bool)>,
    /// Large things to drop where it holds nobody up.
    pub garbage: Vec<Vec<Message>>,
    /// Messages that queues got rid of, in order, for simulations that want to know.
    #[doc(hidden)]
    pub deaths: Option<Vec<Died>>,
}

/// A message that a queue got rid of.
#[doc(hidden)]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Died {
    /// The queue.
    pub queue: Arc<str>,
    /// Its place there; none if it never got in.
    pub place: Option<Seq>,
    /// As it stands in `x-death`.
    pub reason: &'static str,
}

/// One thing to write to a connection. Its writer encodes it.
#[derive(Clone, Debug)]
pub enum Outbound {
    /// `basic.deliver` with its content.
    Deliver {
        /// Channel number.
        channel: u16,
        /// Which consumer, as introduced by [`Outbound::Consumer`].
        consumer: u32,
        /// The flag of the same name.
        redelivered: bool,
        /// Number of the delivery on its channel, from 1.
        delivery_tag: u64,
        /// The content.
        message: Message,
    },
    /// Tells the writer (not the client) which tag a consumer number stands for from here on.
    Consumer {
        /// Small number, unique among the connection's living consumers.
        number: u32,
        /// The consumer tag.
        tag: Arc<str>,
    },
    /// `basic.ack` to a publisher.
    Confirm {
        /// Channel number.
        channel: u16,
        /// Number of the publish.
        delivery_tag: u64,
        /// All up to this one.
        multiple: bool,
    },
    /// `basic.get-ok` with its content.
    GetOk {
        /// Channel number.
        channel: u16,
        /// The flag of the same name.
        redelivered: bool,
        /// Number of the delivery on its channel.
        delivery_tag: u64,
        /// Ready messages left in the queue.
        message_count: u32,
        /// The content.
        message: Message,
    },
    /// `basic.return` with its content.
    Return {
        /// Channel number.
        channel: u16,
        /// Why it comes back.
        code: ReplyCode,
        /// The content.
        message: Message,
    },
    /// Any other method.
    Method {
        /// Channel number.
        channel: u16,
        /// The method.
        method: Box<Method<'static>>,
    },
    /// `channel.close`: the channel is refused.
    CloseChannel {
        /// Channel number.
        channel: u16,
        /// Why.
        error: Box<AmqpError>,
    },
    /// `connection.close`: nothing of this connection is obeyed any more but its close-ok.
    CloseConnection {
        /// Why.
        error: Box<AmqpError>,
    },
    /// The protocol header, to a client that speaks another version. The last thing written.
    ProtocolHeader,
    /// A heartbeat frame.
    Heartbeat,
}

/// What a delivery costs in its connection's outbox beside its body: frames, names, our own entry.
pub(crate) const DELIVERY_OVERHEAD_BYTES: usize = 128;

impl Outbound {
    /// What it counts against the connection's outbox, in octets; 0 for what is not a delivery.
    #[must_use]
    pub fn delivery_cost(&self) -> usize {
        match self {
            Self::Deliver { message, .. } => delivery_cost(message),
            _ => 0,
        }
    }

    /// What it holds in memory while it waits to be written, in octets.
    #[must_use]
    pub fn memory_cost(&self) -> usize {
        match self {
            Self::Deliver { message, .. }
            | Self::GetOk { message, .. }
            | Self::Return { message, .. } => delivery_cost(message),
            _ => DELIVERY_OVERHEAD_BYTES,
        }
    }
}

/// What delivering this message counts against an outbox.
#[inline]
pub(crate) fn delivery_cost(message: &Message) -> usize {
    message.body_len() + DELIVERY_OVERHEAD_BYTES
}

impl Effects {
    /// Empty buffers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Queues something to be written to a connection. Ignored if the connection is gone.
    pub fn send(&mut self, to: ConnectionId, outbound: Outbound) {
        if let Some(batch) = self.sends.get_mut(to) {
            if batch.is_empty() {
                self.touched.push(to);
            }
            batch.push(outbound);
        }
    }

    /// Passes what was sent to each connection on, as one batch each; `take` may keep what it
    /// wants of the `Vec` and leaves behind what can be reused.
    pub fn drain_sends(&mut self, mut take: impl FnMut(ConnectionId, &mut Vec<Outbound>)) {
        for connection in self.touched.drain(..) {
            if let Some(batch) = self.sends.get_mut(connection) {
                take(connection, batch);
                batch.clear();
            }
        }
    }

    /// Whether a turn left anything to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.touched.is_empty()
            && self.records.is_empty()
            && self.fetches.is_empty()
            && self.swaps.is_empty()
            && self.events.is_empty()
            && self.reading.is_empty()
            && self.garbage.is_empty()
    }

    pub(crate) fn open(&mut self, connection: ConnectionId) {
        self.sends.insert(connection, Vec::new());
    }

    pub(crate) fn close(&mut self, connection: ConnectionId) {
        self.sends.remove(connection);
    }

    /// Emits a record with the number after `last`, which it returns.
    pub(crate) fn record(&mut self, last: Lsn, fact: Fact) -> Lsn {
        let lsn = Lsn(last.0 + 1);
        self.records.push(Record { lsn, fact });
        lsn
    }

    /// Somebody may want to know that a message died.
    pub(crate) fn note_death(&mut self, queue: &Arc<str>, place: Option<Seq>, reason: Reason) {
        if let Some(deaths) = &mut self.deaths {
            deaths.push(Died {
                queue: Arc::clone(queue),
                place,
                reason: reason.as_str(),
            });
        }
    }

    /// Sends a method on a channel.
    pub(crate) fn method(
        &mut self,
        to: ConnectionId,
        channel: u16,
        method: impl Into<Method<'static>>,
    ) {
        let method = Box::new(method.into());
        self.send(to, Outbound::Method { channel, method });
    }
}

//! Everything that can happen to a vhost.

use std::sync::Arc;

use leveret_codec::Method;

use crate::error::AmqpError;
use crate::ids::{ConnectionId, Lsn};
use crate::log::{Fetched, Swapped};
use crate::message::Message;
use crate::permission::Permissions;

/// One thing that happened; [`Broker::handle`](crate::Broker::handle) takes them in order.
#[derive(Debug)]
pub enum Input {
    /// A client logged in and opened this vhost.
    Opened(ConnectionId, Box<Peer>),
    /// What one socket read brought, in order.
    Commands(ConnectionId, Vec<Command>),
    /// The connection is gone, whatever the reason. Nothing can be sent to it any more.
    Closed(ConnectionId),
    /// The log holds every record up to this one safely.
    Durable(Lsn),
    /// Messages that were asked back from the log.
    Fetched(Fetched),
    /// What became of messages that were to be swapped out.
    Swapped(Swapped),
    /// The broker is about to stop and no connection is left: notes for the log how far each queue
    /// has delivered, so that the next start need not assume more.
    Retire,
    /// The writer of a connection has passed this many octets of deliveries on to the socket, as
    /// [`Outbound::delivery_cost`](crate::effect::Outbound::delivery_cost) counts them.
    Drained(ConnectionId, usize),
    /// A timer may be due: time has reached [`Broker::next_timer`](crate::Broker::next_timer).
    Tick,
    /// What schedules have to do is to be worked out anew: the clock may have been set, or it is
    /// time to make sure.
    Replan,
    /// The same for schedules that go by one expression, which the scheduler knows by this name:
    /// some of them may be due.
    ReplanSome(Arc<str>),
    /// The user's rights changed, after `connection.update-secret` or by an operator.
    Permitted(ConnectionId, Permissions),
    /// An operator or a shutdown closes the connection (320). Deliveries that it has not settled are
    /// not counted as attempts that failed.
    Evict(ConnectionId, String),
    /// A request of the connection ran into a bug of ours: it is closed with this error, and
    /// nothing more of it is obeyed.
    Failed(ConnectionId, Box<AmqpError>),
    /// A resource alarm went off (`Some`: why, as shown to clients) or ended (`None`).
    Alarm(Option<&'static str>),
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Name of the logged-in user.
    pub user: Arc<str>,
    /// What the user may do in this vhost.
    pub permissions: Permissions,
    /// May publish with another user's `user-id` (tag `impersonator`).
    pub impersonator: bool,
    /// What the client said it understands.
    pub capabilities: Capabilities,
}

/// The client capabilities that change what we send (`connection.start-ok`, `client_properties`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Capabilities {
    /// `consumer_cancel_notify`: understands `basic.cancel` from the server.
    pub consumer_cancel_notify: bool,
    /// `connection.blocked`: understands being told of resource alarms.
    pub connection_blocked: bool,
    /// `authentication_failure_close`: reads a close frame after a refused login.
    pub authentication_failure_close: bool,
}

/// One complete request of a client: a method, with its content if it has one.
#[derive(Debug)]
pub enum Command {
    /// `basic.publish` with its content.
    Publish {
        /// Channel number, never 0.
        channel: u16,
        /// Return it if no queue takes it.
        mandatory: bool,
        /// Exchange, key, properties and body.
        message: Message,
    },
    /// `basic.ack`, `basic.nack` or `basic.reject`.
    Settle {
        /// Channel number, never 0.
        channel: u16,
        /// The delivery; 0 with `multiple` means all so far.
        delivery_tag: u64,
        /// Also every unsettled delivery before it.
        multiple: bool,
        /// What becomes of the messages.
        outcome: Outcome,
    },
    /// Any other method.
    Method {
        /// Channel number; 0 only for `connection.close`.
        channel: u16,
        /// The method, on its own feet.
        method: Box<Method<'static>>,
    },
    /// The session found something that closes the channel (a content that is too large, say).
    Refuse {
        /// Channel number, never 0.
        channel: u16,
        /// What to tell the client.
        error: Box<AmqpError>,
    },
}

/// What the consumer said of a delivery.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Done with.
    Ack,
    /// `basic.nack`: back to the queue or away.
    Nack {
        /// Back to its old place in the queue.
        requeue: bool,
    },
    /// `basic.reject`: unlike a nack it counts as a failed delivery (RabbitMQ 4.3).
    Reject {
        /// Back to its old place in the queue.
        requeue: bool,
    },
}

impl Command {
    /// The channel it is about; 0 is the connection itself.
    #[must_use]
    pub const fn channel(&self) -> u16 {
        match self {
            Self::Publish { channel, .. }
            | Self::Settle { channel, .. }
            | Self::Method { channel, .. }
            | Self::Refuse { channel, .. } => *channel,
        }
    }
}

impl Outcome {
    /// The method that says so, for error texts and close frames.
    #[must_use]
    pub const fn method_id(self) -> (u16, u16) {
        match self {
            Self::Ack => (60, 80),
            Self::Nack { .. } => (60, 120),
            Self::Reject { .. } => (60, 90),
        }
    }
}

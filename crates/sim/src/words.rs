//! What goes into the model and what comes out of it.

use std::fmt;

use leveret_codec::{FieldTable, Method};
use leveret_core::{Capabilities, ConnectionId, Lsn, Message, Outcome};

use crate::letters::Past;

/// Something that must not happen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Fine, or a violation.
pub type Checked = Result<(), Violation>;

/// A violation with a text.
#[macro_export]
macro_rules! violation {
    ($($text:tt)*) => { $crate::model::Violation(format!($($text)*)) };
}

/// Why a command is not obeyed.
#[derive(Debug)]
pub enum Trouble {
    /// The client is told so, with this reply code.
    Refused(u16),
    /// The broker did something wrong.
    Wrong(Violation),
}

impl From<Violation> for Trouble {
    fn from(violation: Violation) -> Self {
        Self::Wrong(violation)
    }
}

/// Obeyed, or in trouble.
pub type Obeyed = Result<(), Trouble>;

/// A message as its publisher made it and its consumers have to get it.
#[derive(Clone, Debug)]
pub struct Published {
    /// Where it was published to.
    pub exchange: String,
    /// Its routing key, then those of CC and BCC.
    pub keys: Vec<String>,
    /// Property flags and properties as sent.
    pub sent: (u16, Vec<u8>),
    /// Property flags of what is delivered.
    pub flags: u16,
    /// Properties of what is delivered.
    pub raw: Vec<u8>,
    /// Its headers, for headers exchanges.
    pub headers: FieldTable,
    /// Octets of body.
    pub body_len: usize,
    /// Delivery mode 2.
    pub persistent: bool,
    /// Its priority; 0 if it says none.
    pub priority: u8,
    /// How long it lasts by its own word, in milliseconds.
    pub expiration_ms: Option<u64>,
    /// What it has been through.
    pub past: Past,
    /// A property is wrong: refused with this code.
    pub refused: Option<u16>,
}

/// The body of a message: its number, then octets that follow from it.
#[must_use]
pub fn body(id: u64, len: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(len);
    body.extend(id.to_be_bytes().into_iter().take(len));
    body.extend((body.len()..len).map(|at| (id as usize).wrapping_mul(31).wrapping_add(at) as u8));
    body
}

/// The number of a message: in its body or, if that is short, its property `message-id`.
#[must_use]
pub fn identify(message: &Message) -> Option<u64> {
    match message.body().first_chunk::<8>() {
        Some(id) => Some(u64::from_be_bytes(*id)),
        None => {
            let id = message.properties().message_id?;
            std::str::from_utf8(&id).ok()?.parse().ok()
        }
    }
}

/// A command, as the model takes it.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// A message was published.
    Publish {
        /// On this channel.
        channel: u16,
        /// The message.
        id: u64,
        /// As asked.
        mandatory: bool,
    },
    /// Ack, nack or reject.
    Settle {
        /// On this channel.
        channel: u16,
        /// The delivery.
        tag: u64,
        /// And all before.
        multiple: bool,
        /// Which of the three.
        outcome: Outcome,
    },
    /// Another method.
    Method {
        /// On this channel.
        channel: u16,
        /// Which.
        method: Method<'static>,
    },
    /// The session refuses a content.
    Refuse {
        /// On this channel.
        channel: u16,
        /// Why.
        code: u16,
    },
}

impl Said {
    /// The channel it is about; 0 is the connection itself.
    pub(crate) fn channel(&self) -> u16 {
        match self {
            Self::Publish { channel, .. }
            | Self::Settle { channel, .. }
            | Self::Method { channel, .. }
            | Self::Refuse { channel, .. } => *channel,
        }
    }
}

/// What happened to the vhost.
#[derive(Clone, Debug)]
pub enum Event {
    /// A client has come.
    Opened(ConnectionId, Capabilities),
    /// It said this.
    Commands(ConnectionId, Vec<Said>),
    /// It is gone.
    Closed(ConnectionId),
    /// The log has come this far.
    Durable(Lsn),
    /// Octets of deliveries were written.
    Drained(ConnectionId, usize),
    /// A timer may be due.
    Tick,
    /// An operator closes a connection.
    Evict(ConnectionId),
    /// The alarm goes on or off.
    Alarm(bool),
    /// Messages came back from the log or the swap area, or could not be read.
    Fetched,
    /// Messages were swapped out, or could not be.
    Swapped,
    /// The broker is about to stop.
    Retired,
}

/// A message as a client has to see it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shown {
    /// Which.
    pub id: u64,
    /// Which of its letters, if it is one.
    pub letter: Option<usize>,
    /// What it says in `x-delivery-count`, if that is more than 0.
    pub failures: u32,
}

/// What has to be sent, in this order on each connection. Deliveries and confirms are not here:
/// when they are sent is for the broker to choose.
#[derive(Clone, Debug)]
pub enum Expected {
    /// Exactly this.
    Method(u16, Method<'static>),
    /// A message that was fetched.
    Get {
        /// On this channel.
        channel: u16,
        /// Which.
        shown: Shown,
        /// The flag.
        redelivered: bool,
        /// The delivery tag.
        tag: u64,
        /// Messages left.
        left: usize,
    },
    /// A message without a queue.
    Return(u16, u64),
    /// The channel is refused.
    CloseChannel(u16, u16),
    /// The connection is refused.
    CloseConnection(u16),
}

impl Expected {
    pub(crate) fn channel(&self) -> u16 {
        match self {
            Self::Method(channel, _)
            | Self::Get { channel, .. }
            | Self::Return(channel, _)
            | Self::CloseChannel(channel, _) => *channel,
            Self::CloseConnection(_) => 0,
        }
    }
}

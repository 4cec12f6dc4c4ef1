//! What must survive a restart, as facts in the order they became true.
//!
//! The core emits these; the log writes them and says when they are safe
//! ([`Input::Durable`](crate::input::Input::Durable)). A vhost's records *are* its durable state:
//! replaying them gives it back. Transient things never appear here.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::ids::{Lsn, QueueNumber, Seq, Wall};
use crate::message::Message;

/// One fact with its number.
#[derive(Clone, Debug)]
pub struct Record {
    /// Place among the vhost's records.
    pub lsn: Lsn,
    /// The fact.
    pub fact: Fact,
}

/// Queues a message is in, and its places in them. Most messages are in one.
pub type Places = SmallVec<[(QueueNumber, Seq); 1]>;

/// A durable thing that happened.
///
/// Exchanges and bindings go by name; queues by number once they are declared, because messages of
/// a queue that is gone must never be taken for those of another with its name.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A durable exchange exists from here on.
    ExchangeDeclared {
        /// Its name.
        name: Arc<str>,
        /// `direct`, `fanout`, ...
        kind: &'static str,
        /// Goes when the last binding from it goes.
        auto_delete: bool,
        /// Only other exchanges may publish to it.
        internal: bool,
        /// Its declaration arguments, as octets of a field table.
        arguments: Arc<[u8]>,
    },
    /// A durable exchange and its bindings are gone.
    ExchangeDeleted {
        /// Its name.
        name: Arc<str>,
    },
    /// A durable queue exists from here on. Its number is that of this record.
    QueueDeclared {
        /// Its name.
        name: Arc<str>,
        /// Goes when the last consumer goes.
        auto_delete: bool,
        /// Its declaration arguments, as octets of a field table.
        arguments: Arc<[u8]>,
    },
    /// A durable queue, its messages and its bindings are gone.
    QueueDeleted {
        /// The queue.
        queue: QueueNumber,
        /// Its name.
        name: Arc<str>,
    },
    /// A binding between durable things exists from here on.
    Bound(BindingFact),
    /// It is gone.
    Unbound(BindingFact),
    /// A persistent message is in these durable queues; one record for all of them, so that a
    /// fan-out is atomic.
    Published {
        /// The message.
        message: Message,
        /// Who published it.
        user: Arc<str>,
        /// When it arrived.
        at: Wall,
        /// Queues and places in them; at least one.
        places: Places,
    },
    /// A message has left a durable queue for good.
    Settled {
        /// The queue.
        queue: QueueNumber,
        /// The message's place in it.
        seq: Seq,
    },
    /// The ready messages have left a durable queue. Those still unacknowledged stay, so this names
    /// the places that are empty now.
    Purged {
        /// The queue.
        queue: QueueNumber,
        /// Runs of places, first and last of each, in order.
        places: Vec<(Seq, Seq)>,
    },
    /// Messages of a durable queue whose places have numbers up to this one may have been delivered
    /// once this is safe, and no others. What a restart finds there carries `redelivered`. The last of a queue's marks
    /// holds.
    MayDeliver {
        /// The queue.
        queue: QueueNumber,
        /// The last number.
        through: Seq,
    },
    /// Messages of a durable queue are back and are not to be delivered again before their time. What
    /// the last one says of a message holds until it leaves the queue, also when that time is over.
    Retried {
        /// The queue.
        queue: QueueNumber,
        /// In order of their places; at least one.
        retries: Vec<Retry>,
    },
    /// Something is kept under a key from here on, or nothing any more. What it means is known to
    /// whoever notes it.
    Noted(Note),
    /// Several facts that hold together or not at all (`tx.commit`).
    Together(Vec<Self>),
}

/// A message that is to be delivered again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Retry {
    /// Its place in the queue.
    pub seq: Seq,
    /// Not before then.
    pub until: Wall,
    /// Times it was delivered.
    pub deliveries: u32,
    /// How many of these failed.
    pub failures: u32,
    /// When its time in the queue runs out, if ever.
    pub expires: Option<Wall>,
}

/// Something to be kept under a key, or nothing under that key any more.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Note {
    /// Says whose it is up to the first zero octet, then what: up to [`NOTE_KEY_MAX`] octets.
    pub key: Arc<[u8]>,
    /// What is kept there from now on.
    pub value: Option<Arc<[u8]>>,
}

/// Longest key of a [`Note`], in octets.
pub const NOTE_KEY_MAX: usize = 1_024;

/// A binding, by names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BindingFact {
    /// The exchange messages come from.
    pub source: Arc<str>,
    /// The queue or exchange they go to.
    pub destination: Arc<str>,
    /// Whether the destination is a queue.
    pub to_queue: bool,
    /// The binding's routing key.
    pub routing_key: Arc<str>,
    /// The binding's arguments in canonical order, as octets of a field table.
    pub arguments: Arc<[u8]>,
}

/// Places of a queue that may be delivered before any [`Fact::MayDeliver`] of it is safe: its
/// declaration says so.
pub const MAY_DELIVER_FIRST: u64 = 65_536;

//! The seam between a vhost's machine and whatever keeps its records.
//!
//! Two traits: a [`Journal`] is led, vhost by vhost, and gives a [`Log`] to the one who leads. On
//! one machine that is our own files (crate `store`); records of a vhost may as well go to a
//! replicated log, where leading fences off everybody who led before. Nothing in this crate knows
//! which of the two it is.

use std::fmt;
use std::sync::Arc;

use crate::ids::{Lsn, QueueId, QueueNumber, Seq, Wall};
use crate::message::Message;
use crate::record::{Fact, Record, Retry};

/// Where the records of vhosts are kept.
pub trait Journal: Send + Sync {
    /// Takes the lead of a vhost: reads back what is known of it, and lets nobody else append.
    ///
    /// # Errors
    /// [`LogError`] if it cannot be led: nothing has been changed then.
    fn lead(&self, vhost: &str, watcher: Arc<dyn Watcher>) -> Result<Lead, LogError>;
}

/// A vhost that is ours to lead.
pub struct Lead {
    /// Takes its records from here on.
    pub log: Box<dyn Log>,
    /// What is known of it.
    pub recovered: Recovered,
}

/// The log of one vhost, for the one who leads it.
///
/// Nothing here waits: what comes of it is told to the [`Watcher`].
pub trait Log: Send {
    /// Takes records, in order and one after the other without a gap.
    ///
    /// [`Report::Durable`] follows, once for many. Returns the last record that is safe already, if
    /// that is known at once.
    fn append(&mut self, records: &mut Vec<Record>) -> Option<Lsn>;

    /// Whether much waits to be written: publishers are better not read from for now.
    fn is_behind(&self) -> bool {
        false
    }

    /// Asks for messages that were appended before and whose record is safe. [`Report::Fetched`]
    /// follows. Finds what was swapped out as well, in its order among the others.
    fn fetch(&mut self, fetch: Fetch);

    /// Has something written to the swap area, or forgotten there. Requests are carried out in their
    /// order. Nobody asks a log without such an area.
    fn swap(&mut self, _swap: Swap) {}
}

/// Hears what became of records and requests, from any thread.
pub trait Watcher: Send + Sync {
    /// Something came of them.
    fn report(&self, report: Report);
}

/// What a log has to say.
#[derive(Debug)]
pub enum Report {
    /// Every record up to this one is safe; but a [`Fact::Retried`](crate::record::Fact::Retried) may
    /// wait for room longer, as nobody is told when it is.
    Durable(Lsn),
    /// Messages that were asked for.
    Fetched(Fetched),
    /// What became of messages that were to be swapped out.
    Swapped(Swapped),
    /// There is hardly room (true) or enough again (false): nothing is lost, but publishers should
    /// wait.
    Full(bool),
    /// Nothing more will become durable. Not retried: after a failed write nobody knows what is on
    /// the disk.
    Lost(LogError),
}

/// A request for messages of a queue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fetch {
    /// Who asks: comes back with the answer.
    pub queue: QueueId,
    /// The queue in the log.
    pub number: QueueNumber,
    /// First place wanted.
    pub first: Seq,
    /// Last place wanted. Every place in between that is not settled is wanted.
    pub last: Seq,
    /// Enough, in octets of messages. The first message comes whatever its size.
    pub bytes_max: usize,
}

/// The answer to a [`Fetch`].
#[derive(Debug)]
pub struct Fetched {
    /// Who asked.
    pub queue: QueueId,
    /// What was found, in order: all that is there from the first place wanted on, or as much as
    /// is enough; each with when it arrived, as far as anybody knows.
    pub messages: Vec<(Seq, Message, Option<Wall>)>,
    /// Why nothing, or not all, could be read.
    pub error: Option<LogError>,
}

/// A request to the swap area: where messages wait that are not in the log and that memory is too
/// short for. It does not outlive the process.
#[derive(Debug)]
pub enum Swap {
    /// Messages to be kept there, in order of their places. [`Report::Swapped`] follows, and from then
    /// on they can be fetched.
    Out {
        /// Whose they are.
        queue: QueueId,
        /// What is to be kept, each with when it arrived if that matters.
        messages: Vec<(Seq, Message, Option<Wall>)>,
        /// Octets of memory they hold: comes back with the answer.
        bytes: usize,
    },
    /// What is there from the first to the last of each of these places is not needed any more.
    Forget {
        /// Whose it was.
        queue: QueueId,
        /// First and last places.
        runs: Vec<(Seq, Seq)>,
    },
}

/// The answer to [`Swap::Out`].
#[derive(Debug)]
pub struct Swapped {
    /// Whose messages they are.
    pub queue: QueueId,
    /// As it was asked.
    pub bytes: usize,
    /// Why none of them is kept, if so.
    pub error: Option<LogError>,
}

/// What a log knows of a vhost when it is led.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The last record; numbers go on after it.
    pub last: Lsn,
    /// Exchanges, queues and bindings that are there, each with the number of its record, in that
    /// order.
    pub definitions: Vec<(Lsn, Fact)>,
    /// Messages of the durable queues, by queue.
    pub queues: Vec<RecoveredQueue>,
}

/// What a log knows of a queue's messages.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RecoveredQueue {
    /// The queue.
    pub number: QueueNumber,
    /// The highest number in a place that was ever given to a message, whatever its priority, as far
    /// as anything is left that knows.
    pub last: Seq,
    /// What may have been delivered before: numbers up to here.
    pub delivered_through: Seq,
    /// Places with messages, as runs from first to last, in order.
    pub runs: Vec<Run>,
    /// Of those that have a time of their own: when that runs out; in order of their places.
    pub expiring: Vec<(Seq, Wall)>,
    /// Of those that were to be delivered again after a while, or are: what the last
    /// [`Fact::Retried`] says; in order of their places.
    pub retries: Vec<Retry>,
}

/// Neighbouring places in a queue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Run {
    /// First place.
    pub first: Seq,
    /// Last place; every place in between is taken.
    pub last: Seq,
    /// Octets of the messages there, roughly: what they would hold in memory.
    pub bytes: u64,
}

/// Why a log does not do what it is asked to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LogError {
    /// Somebody else leads now. The log of one machine never says so.
    Fenced,
    /// Nobody knows whether it was done.
    Unknown(String),
    /// Not now: the disk is full, nobody can be reached.
    Unavailable(String),
    /// What is there cannot be what was written.
    Corrupt(String),
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fenced => f.write_str("somebody else leads this vhost"),
            Self::Unknown(why) | Self::Unavailable(why) | Self::Corrupt(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for LogError {}

impl fmt::Debug for Lead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lead")
            .field("recovered", &self.recovered)
            .finish_non_exhaustive()
    }
}

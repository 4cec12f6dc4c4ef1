//! The seam between a vhost's machine and what knows when it should publish by itself.
//!
//! A [`Scheduler`] keeps the schedules of one vhost. It is as pure as the machine: time comes in
//! as an argument, what it wants comes out as [`Deeds`], and the machine carries those out within
//! the same turn. What it must not forget it gives away as [`Note`]s, which go into the log; a
//! message that is due and the notes that say so are one record, so that a crash neither loses nor
//! doubles it.

use std::fmt;
use std::sync::Arc;

use crate::error::AmqpError;
use crate::ids::Wall;
use crate::inspection::ScheduleDefinition;
use crate::message::Message;
use crate::permission::Permissions;
pub use crate::record::Note;

/// Keeps the schedules of a vhost and says what is due.
pub trait Scheduler: fmt::Debug + Send {
    /// Takes over what is left of its notes after a start, in the order of their keys, none
    /// without a value. Called once, before anything else. What fell due while nobody was there is for
    /// [`Scheduler::due`] to judge.
    ///
    /// # Errors
    /// Says what is wrong if the notes cannot be its own.
    fn recover(&mut self, now: Wall, notes: Vec<Note>) -> Result<(), String>;

    /// A client wants something of it: to keep a schedule, to change one, to know.
    ///
    /// Returns what it has to say, for whoever wants a reply: JSON.
    ///
    /// # Errors
    /// What to tell the client. Nothing has changed then.
    fn order(
        &mut self,
        now: Wall,
        order: &Order<'_>,
        deeds: &mut Deeds,
    ) -> Result<Vec<u8>, AmqpError>;

    /// When something will be due, if ever.
    fn next_due(&self) -> Option<Wall>;

    /// Does what has become due, but fires at most `fires_max` messages, and fewer if it has worked
    /// much for that: it is called again at once while [`Scheduler::next_due`] is in the past.
    fn due(&mut self, now: Wall, fires_max: usize, deeds: &mut Deeds);

    /// Works out anew what is due when: the clock was set, or somebody wants to be sure. Changes
    /// nothing if all is well. [`Scheduler::due`] does the work, some at a time.
    fn replan(&mut self, now: Wall);

    /// The same for some that go by an expression of this name, if the scheduler has names for
    /// such. Done again, it comes to others in their turn.
    fn replan_some(&mut self, now: Wall, rhythm: &str, deeds: &mut Deeds) {
        let _ = (rhythm, deeds);
        self.replan(now);
    }

    /// What it keeps: at most so many of its schedules by name, those behind `after` first.
    fn describe(&self, after: Option<&str>, max: usize) -> Vec<ScheduleDefinition> {
        let _ = (after, max);
        Vec::new()
    }

    /// So many queues have taken the message that it fired. Called before anything else about it. What
    /// is noted because of that is kept together with the notes of the fire.
    fn routed(&mut self, now: Wall, run: &Run<'_>, queues: usize, notes: &mut Vec<Note>);

    /// The message that it fired was not published, because its user may not do that any more. What
    /// is wanted because of that is kept together with the notes of the fire.
    fn refused(&mut self, now: Wall, run: &Run<'_>, _why: Refusal, notes: &mut Vec<Note>) {
        self.routed(now, run, 0, notes);
    }

    /// A copy of a message of its went to a consumer.
    fn delivered(&mut self, now: Wall, run: &Run<'_>, consumer_tag: &str);

    /// A copy of a message of its leaves its queue. What is noted because of that is kept in the record
    /// that says so. What is to be fired now that it is over is due, [`Scheduler::due`] sees to it.
    fn settled(&mut self, now: Wall, run: &Run<'_>, ending: Ending, notes: &mut Vec<Note>);
}

/// What a client says to a scheduler: a message published to `amq.schedule`, or the same by way of
/// the HTTP API.
pub struct Order<'a> {
    /// Who says it. Messages of the schedule are published in this user's name.
    pub user: &'a Arc<str>,
    /// Headers say what is wanted; of a new schedule it is the message to publish.
    pub message: &'a Message,
    /// What the user may do.
    pub rights: &'a dyn Rights,
}

/// What a user may do, as far as schedules go.
pub trait Rights {
    /// Whether the user may make, change, see and remove the schedule of this name (configure
    /// right on the name).
    ///
    /// # Errors
    /// `ACCESS_REFUSED` (403).
    fn may_configure(&self, schedule: &str) -> Result<(), AmqpError>;

    /// Whether the user may publish to this exchange, and there is one.
    ///
    /// # Errors
    /// `ACCESS_REFUSED` (403) or `NOT_FOUND` (404).
    fn may_publish(&self, exchange: &str) -> Result<(), AmqpError>;
}

/// Who may do what in a vhost at this moment: asked when something is published in the name of a user
/// who need not be there.
pub trait Users: fmt::Debug + Send + Sync {
    /// The rights of a user in this vhost; None if there is no such user, or if the vhost is closed
    /// to it.
    fn permissions(&self, user: &str) -> Option<Permissions>;
}

/// Why a message that a schedule fired is not published.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Refusal {
    /// There is no such user any more, or the vhost is closed to it.
    NoUser,
    /// The user may not write to the exchange any more.
    NoRight,
}

/// What a scheduler wants done, in order.
#[derive(Debug, Default)]
pub struct Deeds {
    /// What is to be kept in the log.
    pub notes: Vec<Note>,
    /// What is to be published.
    pub fires: Vec<Fire>,
    /// What it took to come to this, beside the above: things looked at and times worked out, in
    /// some tenths of a microsecond. A turn of the vhost ends when it has come to enough.
    pub work: u64,
}

/// A message that is due.
#[derive(Debug)]
pub struct Fire {
    /// In whose name.
    pub user: Arc<str>,
    /// With the exchange and the key that it goes to, and with a `message-id` that names the run.
    pub message: Message,
    /// What is kept in the log together with it.
    pub notes: Vec<Note>,
}

/// A message that a schedule has fired, by the `message-id` it was given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Run<'a> {
    /// `<schedule>/<nominal time>`.
    pub message_id: &'a str,
}

/// How a copy of a message left its queue.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Ending {
    /// A consumer was done with it.
    Acked,
    /// A consumer did not want it, it expired, there were too many, or it failed too often.
    Died,
    /// Its queue was purged or deleted.
    Removed,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoUser => "its user is gone, or the vhost is closed to that user",
            Self::NoRight => "its user may not write to the exchange any more",
        })
    }
}

impl fmt::Debug for Order<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order")
            .field("user", self.user)
            .field("message", self.message)
            .finish_non_exhaustive()
    }
}

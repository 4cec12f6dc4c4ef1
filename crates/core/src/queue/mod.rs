//! A queue: its properties, its messages in order, and the consumers that wait for them.

pub(crate) mod arguments;
pub(crate) mod backoff;
pub(crate) mod deadlines;
pub(crate) mod index;
pub(crate) mod levels;
pub(crate) mod logged;
pub(crate) mod retries;
pub(crate) mod rules;
pub(crate) mod stretches;

use std::sync::Arc;

use leveret_codec::{FieldTable, FieldValue};
use leveret_wheel::TimerKey;

use crate::consumer::Ring;
use crate::ids::{ConnectionId, ConsumerKey, Mono, Seq};
use crate::message::Message;
use crate::queue::deadlines::Deadlines;
use crate::queue::index::Entry;
use crate::queue::levels::Ready;
use crate::queue::logged::Logged;
use crate::queue::retries::Retries;
use crate::queue::rules::Rules;
use crate::record::Fact;

/// A queue of a vhost.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) name: Arc<str>,
    pub(crate) durable: bool,
    pub(crate) logged: Logged,
    /// Goes when the last consumer goes, if there ever was one.
    pub(crate) auto_delete: bool,
    /// Belongs to one connection and goes with it.
    pub(crate) exclusive: Option<ConnectionId>,
    /// As declared.
    pub(crate) arguments: FieldTable,
    /// Ready messages.
    pub(crate) index: Ready,
    /// Delivered, not settled.
    pub(crate) unacked: usize,
    /// Consumers that would take a message now, and those that would not for the moment.
    pub(crate) ring: Ring,
    /// All its consumers, in order of their start.
    pub(crate) consumers: Vec<ConsumerKey>,
    /// Its one consumer has it for itself.
    pub(crate) exclusive_consumer: bool,
    /// Number of the last routing that ended here: one copy a queue, however many ways lead to it.
    pub(crate) reached: u64,
    pub(crate) expiry: Expiry,
    pub(crate) rules: Rules,
    /// Those that wait to be delivered again, if any ever had to.
    pub(crate) retries: Option<Box<Retries>>,
    /// When its messages expire, if one ever had to.
    pub(crate) deadlines: Option<Box<Deadlines>>,
    /// The highest number that a place was given.
    pub(crate) last_seq: Seq,
    pub(crate) done: Done,
}

/// What consumers have done with its messages.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    pub(crate) acknowledged: u64,
    /// From delivery to acknowledgement, of all of those.
    pub(crate) processing_ms: u64,
    /// Delivered to somebody who does not acknowledge.
    pub(crate) auto_acknowledged: u64,
}

/// When an unused queue goes (`x-expires`).
#[derive(Debug, Default)]
pub(crate) struct Expiry {
    /// How long it may be unused: no consumer, no declare, no get.
    pub(crate) after_ms: Option<u64>,
    /// When it was last used, as far as anybody noted.
    pub(crate) used: Mono,
    pub(crate) timer: Option<TimerKey>,
}

impl Queue {
    pub(crate) fn new(name: Arc<str>, arguments: FieldTable) -> Self {
        let rules = Rules::of(&arguments);
        let expires = arguments.get("x-expires").and_then(FieldValue::as_i64);
        let expiry = Expiry {
            after_ms: expires.and_then(|ms| u64::try_from(ms).ok()),
            ..Expiry::default()
        };
        Self {
            name,
            durable: false,
            logged: Logged::transient(),
            auto_delete: false,
            exclusive: None,
            arguments,
            index: Ready::new(rules.priority_max),
            unacked: 0,
            ring: Ring::default(),
            consumers: Vec::new(),
            exclusive_consumer: false,
            reached: 0,
            expiry,
            rules,
            retries: None,
            deadlines: None,
            last_seq: Seq(0),
            done: Done::default(),
        }
    }

    /// Adds a new message at its end, or behind others of its priority; returns its place.
    #[inline]
    pub(crate) fn push(&mut self, message: Message) -> Seq {
        let seq = self.next_place(&message);
        self.last_seq = Seq(self.last_seq.0.max(seq.number()));
        self.index.push(Entry {
            message,
            seq,
            deliveries: 0,
            failures: 0,
        });
        seq
    }

    /// The place a new message will get.
    #[inline]
    pub(crate) fn next_place(&self, message: &Message) -> Seq {
        let place = self.index.next_place(message.priority());
        place.unwrap_or(Seq(self.last_seq.0 + 1))
    }

    /// Notes that all its messages are recorded by now; returns the number of the last.
    pub(crate) fn recorded_through(&mut self) -> Seq {
        self.index.note_recorded();
        self.last_seq
    }

    /// Takes the first message to deliver it: `for_good` if nobody will settle it. None if there is
    /// none, or if it is away.
    #[inline]
    pub(crate) fn take_front(&mut self, for_good: bool) -> Option<Entry> {
        let entry = self.index.pop()?;
        self.index.note_delivered(entry.seq);
        self.done.auto_acknowledged += u64::from(for_good);
        if let Some(deadlines) = &mut self.deadlines {
            if for_good {
                deadlines.forget(entry.seq);
            } else {
                deadlines.taken(entry.seq);
            }
        }
        Some(entry)
    }

    /// A message as its consumer sees it after so many failed deliveries.
    #[inline]
    pub(crate) fn shown(&self, message: Message, failures: u32) -> Message {
        if failures > 0 && (self.rules.counts_deliveries || message.is_fired()) {
            message.with_delivery_count(failures)
        } else {
            message
        }
    }

    /// What the log is told when the message in this place has left for good.
    pub(crate) fn settled(&self, seq: Seq) -> Fact {
        Fact::Settled {
            queue: self.logged.number,
            seq,
        }
    }

    /// Number of the first place that was never delivered, of a message that is there or of the next
    /// to come.
    pub(crate) fn upcoming(&self) -> Seq {
        let number = self.index.first_fresh().map(Seq::number);
        Seq(number.unwrap_or(self.last_seq.0 + 1))
    }

    /// The highest number that was delivered in this life.
    pub(crate) fn delivered_through(&self) -> Seq {
        Seq(self.index.delivered())
    }

    /// Whether it has messages and none can be had right now: the first is away, or may not be
    /// delivered before the log knows.
    pub(crate) fn is_stalled(&self) -> bool {
        match self.index.front() {
            Some(front) => !self.logged.lets_go(front.seq),
            None => !self.index.is_empty(),
        }
    }

    /// Whether losing this message in a restart would break a promise.
    pub(crate) fn keeps(&self, message: &Message) -> bool {
        self.durable && message.is_persistent()
    }
}

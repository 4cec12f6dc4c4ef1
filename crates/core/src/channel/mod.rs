//! A channel: what one conversation of a client has going on.

pub(crate) mod confirms;
pub(crate) mod transaction;
pub(crate) mod unacked;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use leveret_wheel::TimerKey;

use crate::channel::confirms::Confirms;
use crate::channel::transaction::Transaction;
use crate::channel::unacked::Unacked;
use crate::ids::{ConnectionId, ConsumerKey, Mono};
use crate::parked::Parked;
use crate::router::Memo;

/// An open channel.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) connection: ConnectionId,
    pub(crate) number: u16,
    pub(crate) unacked: Unacked,
    /// Consumers by tag.
    pub(crate) consumers: BTreeMap<Arc<str>, ConsumerKey>,
    /// Prefetch of consumers that start from now on (`basic.qos` with `global` off); 0: no limit.
    pub(crate) prefetch: u32,
    /// Deliveries all consumers together may hold (`basic.qos` with `global` on); 0: no limit.
    pub(crate) prefetch_shared: u32,
    /// Unsettled deliveries to consumers, not counting what `basic.get` fetched.
    pub(crate) consumer_unacked: u32,
    /// Consumers left out of their rings because the shared prefetch is used up, longest waiting
    /// first.
    pub(crate) held: VecDeque<ConsumerKey>,
    pub(crate) mode: Mode,
    /// The queue that an empty queue name means.
    pub(crate) last_queue: Option<Arc<str>>,
    /// Where the last publish went.
    pub(crate) memo: Option<Memo>,
    pub(crate) reply: Option<ReplyConsumer>,
    /// Runs for deliveries that may not be settled in time.
    pub(crate) timer: Option<(Mono, TimerKey)>,
    /// It waits, and this with it.
    pub(crate) parked: Option<Box<Parked>>,
    /// It stands in the vhost's list of channels with confirms to look at.
    pub(crate) confirming: bool,
    last_tag: u64,
}

/// What publishing means on this channel.
#[derive(Debug)]
pub(crate) enum Mode {
    Plain,
    Confirm(Confirms),
    Tx(Transaction),
}

/// The consumer of direct replies (`amq.rabbitmq.reply-to`).
#[derive(Debug)]
pub(crate) struct ReplyConsumer {
    pub(crate) tag: Arc<str>,
    /// What its connection's writer knows it by.
    pub(crate) number: u32,
    /// The full reply address this channel's requests carry.
    pub(crate) address: Arc<str>,
}

impl Channel {
    pub(crate) fn new(connection: ConnectionId, number: u16) -> Self {
        Self {
            connection,
            number,
            unacked: Unacked::default(),
            consumers: BTreeMap::new(),
            prefetch: 0,
            prefetch_shared: 0,
            consumer_unacked: 0,
            held: VecDeque::new(),
            mode: Mode::Plain,
            last_queue: None,
            memo: None,
            reply: None,
            timer: None,
            parked: None,
            confirming: false,
            last_tag: 0,
        }
    }

    /// The tag for the next delivery.
    pub(crate) fn next_tag(&mut self) -> u64 {
        self.last_tag += 1;
        self.last_tag
    }

    /// The tag the next delivery will get.
    pub(crate) fn upcoming_tag(&self) -> u64 {
        self.last_tag + 1
    }

    /// Whether the channel as a whole lets its consumers have one more delivery to settle.
    pub(crate) fn below_prefetch(&self) -> bool {
        self.prefetch_shared == 0 || self.consumer_unacked < self.prefetch_shared
    }
}

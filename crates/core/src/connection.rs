//! What a vhost knows of one connection.

use std::collections::{BTreeSet, VecDeque};

use crate::ids::{ChannelKey, ConnectionId, ConsumerKey, QueueId};
use crate::input::Peer;

/// A logged-in client.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) peer: Box<Peer>,
    /// Ascending by number. Numbers are the client's choice, so this is no table of all of them.
    channels: Vec<(u16, Slot)>,
    /// Cost of deliveries handed out and not yet drained (`Outbound::delivery_cost`).
    pub(crate) outbox_bytes: usize,
    /// Consumers left out of their rings because the outbox was full, longest waiting first.
    pub(crate) starved: VecDeque<ConsumerKey>,
    /// Its exclusive queues.
    pub(crate) exclusive: BTreeSet<QueueId>,
    /// It was closed with an error: nothing of it is obeyed any more.
    pub(crate) closing: bool,
    /// Its socket is closed.
    pub(crate) gone: bool,
    /// It has published at least once, so a resource alarm concerns it.
    pub(crate) publishes: bool,
    /// An alarm is on, so it should not be read from.
    pub(crate) paused: bool,
    /// It is not read from, for whatever reason.
    pub(crate) unread: bool,
    /// Channels that wait, and what their commands hold, in octets.
    pub(crate) parked: usize,
    pub(crate) parked_bytes: usize,
    /// The client closes it; its channels that wait are to be done first.
    pub(crate) close_asked: bool,
    consumer_numbers: Vec<u32>,
    consumer_number_next: u32,
}

/// What a channel number stands for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Slot {
    #[default]
    Closed,
    Open(ChannelKey),
    /// Closed by us; everything but the client's close-ok is dropped.
    Closing,
}

impl Connection {
    pub(crate) fn new(peer: Box<Peer>) -> Self {
        Self {
            peer,
            channels: Vec::new(),
            outbox_bytes: 0,
            starved: VecDeque::new(),
            exclusive: BTreeSet::new(),
            closing: false,
            gone: false,
            publishes: false,
            paused: false,
            unread: false,
            parked: 0,
            parked_bytes: 0,
            close_asked: false,
            consumer_numbers: Vec::new(),
            consumer_number_next: 0,
        }
    }

    pub(crate) fn channel(&self, number: u16) -> Slot {
        self.find(number)
            .map_or(Slot::Closed, |at| self.channels[at].1)
    }

    pub(crate) fn set_channel(&mut self, number: u16, slot: Slot) {
        match (self.find(number), slot) {
            (Ok(at), Slot::Closed) => {
                self.channels.remove(at);
            }
            (Ok(at), slot) => self.channels[at].1 = slot,
            (Err(_), Slot::Closed) => {}
            (Err(at), slot) => self.channels.insert(at, (number, slot)),
        }
    }

    /// Where a channel is, or would be.
    fn find(&self, number: u16) -> Result<usize, usize> {
        // Most clients number their channels from 1 without gaps.
        let guess = usize::from(number).saturating_sub(1);
        match self.channels.get(guess) {
            Some(&(found, _)) if found == number => Ok(guess),
            _ => self.channels.binary_search_by_key(&number, |&(n, _)| n),
        }
    }

    /// Its open channels, ascending by number.
    pub(crate) fn open_channels(&self) -> Vec<ChannelKey> {
        let open = |(_, slot): &(u16, Slot)| match slot {
            Slot::Open(key) => Some(*key),
            Slot::Closed | Slot::Closing => None,
        };
        self.channels.iter().filter_map(open).collect()
    }

    /// A number for a consumer that no other of this connection has.
    pub(crate) fn take_consumer_number(&mut self) -> u32 {
        self.consumer_numbers.pop().unwrap_or_else(|| {
            self.consumer_number_next += 1;
            self.consumer_number_next - 1
        })
    }

    pub(crate) fn free_consumer_number(&mut self, number: u32) {
        self.consumer_numbers.push(number);
    }

    /// Whether a delivery of this cost still fits its outbox. One of any size fits one that is less
    /// than a quarter full: writers need not report smaller amounts as drained.
    pub(crate) fn has_room(&self, cost: usize, max: usize) -> bool {
        !(self.closing || self.gone)
            && (self.outbox_bytes <= max / 4 || self.outbox_bytes + cost <= max)
    }
}

/// A channel as the wire knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) connection: ConnectionId,
    pub(crate) number: u16,
    pub(crate) key: ChannelKey,
}

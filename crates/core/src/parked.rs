//! Channels that wait: what they are answered, and what they have said since.
//!
//! The answer to a method that changed something durable says that it will last, so it waits for
//! the log. A `basic.get` may have to wait for a message to be read back. Answers keep their
//! order, so whatever the client says on that channel meanwhile waits as well; deliveries to its
//! consumers go on.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use leveret_codec::{ConnectionCloseOk, Method};

use crate::connection::{Origin, Slot};
use crate::delayed::{LookUp, Waiter};
use crate::delivery::Counts;
use crate::effect::{Effects, Outbound};
use crate::ids::{ChannelKey, ConnectionId, Lsn, QueueId};
use crate::input::Command;
use crate::vhost::Vhost;

/// Octets of commands a connection may have waiting before it is not read from.
const WAITING_BYTES_MAX: usize = 64 * 1_024;

/// What a command that waits is reckoned to hold, beside its message.
const COMMAND_BYTES: usize = 256;

/// A channel that waits.
#[derive(Debug, Default)]
pub(crate) struct Parked {
    /// To be sent when the wait is over, in order.
    replies: Vec<Outbound>,
    /// To be obeyed then.
    commands: VecDeque<Command>,
    /// What the commands hold, in octets.
    pub(crate) bytes: usize,
    /// It waits for a delayed message that is looked for.
    pub(crate) looks_for: Option<LookUp>,
}

impl Parked {
    /// What `bytes` has to be.
    pub(crate) fn reckon(&self) -> usize {
        self.commands.iter().map(cost).sum()
    }
}

/// Channels that wait for records, the first to be safe on top; of those that wait for the same
/// one, the first to have begun.
#[derive(Debug, Default)]
pub(crate) struct AwaitingLog {
    channels: BinaryHeap<Reverse<(Lsn, u64, ChannelKey)>>,
    begun: u64,
}

impl AwaitingLog {
    /// Whether the channel is among them.
    pub(crate) fn contains(&self, key: ChannelKey) -> bool {
        self.channels.iter().any(|Reverse((.., k))| *k == key)
    }

    fn push(&mut self, due: Lsn, key: ChannelKey) {
        self.begun += 1;
        self.channels.push(Reverse((due, self.begun, key)));
    }

    /// A channel whose record is safe now.
    fn pop_due(&mut self, durable: Lsn) -> Option<ChannelKey> {
        let &Reverse((due, _, key)) = self.channels.peek()?;
        (due <= durable).then(|| {
            self.channels.pop();
            key
        })
    }
}

impl Vhost {
    /// Answers a method once this record is safe.
    pub(crate) fn answer(
        &mut self,
        from: Origin,
        due: Lsn,
        method: impl Into<Method<'static>>,
        fx: &mut Effects,
    ) {
        if due <= self.durable {
            fx.method(from.connection, from.number, method);
            return;
        }
        let reply = Outbound::Method {
            channel: from.number,
            method: Box::new(method.into()),
        };
        self.park(from.key, vec![reply]);
        self.parked_until(from.key, due);
    }

    /// From here on the channel waits, with these answers before any other.
    pub(crate) fn park(&mut self, key: ChannelKey, replies: Vec<Outbound>) {
        let Some(channel) = self.channels.get_mut(key) else {
            return;
        };
        debug_assert!(channel.parked.is_none(), "a channel waits for one thing");
        channel.parked = Some(Box::new(Parked {
            replies,
            ..Parked::default()
        }));
        if let Some(connection) = self.connections.get_mut(channel.connection) {
            connection.parked += 1;
        }
    }

    /// A parked channel goes on when this record is safe.
    pub(crate) fn parked_until(&mut self, key: ChannelKey, due: Lsn) {
        self.awaiting_log.push(due, key);
    }

    /// The command has to wait until a message of the queue can be had; it comes first then.
    pub(crate) fn park_for_queue(&mut self, from: Origin, id: QueueId, command: Command) {
        if let Some(queue) = self.queues.get_mut(id) {
            queue.logged.waiting.push(from.key);
            self.park_with(from, command);
        }
    }

    /// The command has to wait until a delayed message is found or not; it comes first then.
    pub(crate) fn park_for_look_up(
        &mut self,
        from: Origin,
        number: LookUp,
        command: Command,
        fx: &mut Effects,
    ) {
        self.park_with(from, command);
        if let Some(channel) = self.channels.get_mut(from.key)
            && let Some(parked) = &mut channel.parked
        {
            parked.looks_for = Some(number);
            self.wait_for(number, Waiter::Channel(from.key), fx);
        } else {
            self.drop_unwanted(number);
        }
    }

    /// The channel waits from here on, and this command is the first to be obeyed then.
    pub(crate) fn park_with(&mut self, from: Origin, command: Command) {
        self.park(from.key, Vec::new());
        if let Some(channel) = self.channels.get_mut(from.key)
            && let Some(parked) = &mut channel.parked
        {
            let bytes = cost(&command);
            parked.bytes += bytes;
            parked.commands.push_back(command);
            if let Some(connection) = self.connections.get_mut(from.connection) {
                connection.parked_bytes += bytes;
            }
        }
    }

    /// Something is sent on a channel: behind the answers it waits for, if it does.
    pub(crate) fn send_in_order(&mut self, key: ChannelKey, outbound: Outbound, fx: &mut Effects) {
        let Some(channel) = self.channels.get_mut(key) else {
            return;
        };
        match &mut channel.parked {
            Some(parked) => parked.replies.push(outbound),
            None => fx.send(channel.connection, outbound),
        }
    }

    /// Keeps a command of a channel that waits. Gives it back if the channel does not.
    pub(crate) fn keep_for_later(
        &mut self,
        from: ConnectionId,
        command: Command,
        fx: &mut Effects,
    ) -> Option<Command> {
        let connection = self.connections.get_mut(from)?;
        if connection.parked == 0 {
            return Some(command);
        }
        let number = command.channel();
        if number == 0 {
            // Only `connection.close`: what was said before it comes first.
            connection.close_asked = true;
            return None;
        }
        if let Slot::Open(key) = connection.channel(number)
            && let Some(channel) = self.channels.get_mut(key)
            && let Some(parked) = &mut channel.parked
        {
            let bytes = cost(&command);
            parked.bytes += bytes;
            connection.parked_bytes += bytes;
            parked.commands.push_back(command);
            self.update_reading(from, fx);
            return None;
        }
        Some(command)
    }

    /// Lets the channels go on whose wait is over.
    pub(crate) fn unpark_due(&mut self, fx: &mut Effects) {
        while let Some(key) = self.awaiting_log.pop_due(self.durable) {
            self.unpark(key, fx);
        }
        // One that finds nothing again stays in line for the next time; what it says next may let
        // others go on.
        while !self.getters.is_empty() {
            for key in std::mem::take(&mut self.getters) {
                self.unpark(key, fx);
            }
        }
    }

    /// Channels that wait for a message of this queue try again at the end of the turn.
    pub(crate) fn wake_getters(&mut self, id: QueueId) {
        if let Some(queue) = self.queues.get_mut(id) {
            self.getters.append(&mut queue.logged.waiting);
        }
    }

    /// A channel goes on: it is answered, and obeyed in what it said meanwhile.
    pub(crate) fn unpark(&mut self, key: ChannelKey, fx: &mut Effects) {
        let Some(channel) = self.channels.get_mut(key) else {
            return;
        };
        let id = channel.connection;
        let Some(parked) = channel.parked.take() else {
            return;
        };
        if let Some(connection) = self.connections.get_mut(id) {
            connection.parked -= 1;
            connection.parked_bytes -= parked.bytes;
        }
        if let Some(number) = parked.looks_for {
            self.stop_waiting(number, Waiter::Channel(key));
        }
        for reply in parked.replies {
            fx.send(id, reply);
        }
        // One that makes the channel wait again keeps those that follow.
        for command in parked.commands {
            if self.connections.get(id).is_none_or(|c| c.closing) {
                return;
            }
            self.work += 1;
            self.obey(id, command, fx);
        }
        self.update_reading(id, fx);
        if let Some(connection) = self.connections.get_mut(id)
            && connection.close_asked
            && connection.parked == 0
            && !connection.closing
        {
            self.abandon(id, Counts::AsFailed, fx);
            fx.method(id, 0, ConnectionCloseOk {});
        }
    }

    /// The client is gone, but what it said before is obeyed; nobody hears the answers, and nothing
    /// is delivered to it any more.
    pub(crate) fn unpark_all(&mut self, id: ConnectionId, fx: &mut Effects) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.gone = true;
        }
        while let Some(connection) = self.connections.get(id)
            && connection.parked > 0
        {
            for key in connection.open_channels() {
                self.unpark_unanswered(key, fx);
            }
        }
    }

    fn unpark_unanswered(&mut self, key: ChannelKey, fx: &mut Effects) {
        // What waits for a message to be read back would wait again, for ever.
        if let Some(channel) = self.channels.get_mut(key)
            && let Some(parked) = &mut channel.parked
        {
            let is_get = |command: &Command| match command {
                Command::Method { method, .. } => matches!(**method, Method::BasicGet(_)),
                _ => false,
            };
            parked.commands.retain(|command| !is_get(command));
            let bytes = parked.reckon();
            let gone = std::mem::replace(&mut parked.bytes, bytes) - bytes;
            if let Some(connection) = self.connections.get_mut(channel.connection) {
                connection.parked_bytes -= gone;
            }
        }
        self.unpark(key, fx);
    }

    /// A channel has ended while it waited.
    pub(crate) fn forget_parked(&mut self, id: ConnectionId, key: ChannelKey, parked: &Parked) {
        if let Some(number) = parked.looks_for {
            self.stop_waiting(number, Waiter::Channel(key));
        }
        if let Some(connection) = self.connections.get_mut(id) {
            connection.parked -= 1;
            connection.parked_bytes -= parked.bytes;
        }
    }

    /// Brings it to effect whether the connection should be read from.
    pub(crate) fn update_reading(&mut self, id: ConnectionId, fx: &mut Effects) {
        if let Some(connection) = self.connections.get_mut(id) {
            let unread = !connection.closing
                && (connection.paused || connection.parked_bytes > WAITING_BYTES_MAX);
            if unread != connection.unread {
                connection.unread = unread;
                fx.reading.push((id, unread));
            }
        }
    }
}

/// What a command that waits holds, in octets.
fn cost(command: &Command) -> usize {
    match command {
        Command::Publish { message, .. } => COMMAND_BYTES + message.memory_bytes(),
        Command::Settle { .. } | Command::Method { .. } | Command::Refuse { .. } => COMMAND_BYTES,
    }
}

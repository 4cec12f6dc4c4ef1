//! How the model reads what the core has sent: what had to be sent, what might be, and what not.

use std::collections::{BTreeSet, VecDeque};

use leveret_codec::Method;
use leveret_core::{ConnectionId, Message, Outbound};

use crate::letters::is_same;
use crate::model::{
    Checked, Connection, Consumer, Expected, Mode, Model, Shown, Unacked, Violation, identify,
};
use crate::violation;

const FULL_OUTBOX: &str = "its outbox is full";
const OWN_PREFETCH: &str = "beyond its prefetch";
const SHARED_PREFETCH: &str = "beyond the shared prefetch";

impl Model {
    /// After a command: everything it brings about has been sent, and nothing waits in vain.
    pub(crate) fn settle_down(&mut self) -> Checked {
        self.put_off(false);
        self.eat()?;
        let mut waiting = Vec::new();
        for (name, queue) in &self.queues {
            let Some(item) = queue.ready.front() else {
                continue;
            };
            if self.is_due(queue, item) != Some(false) {
                continue; // it is to expire
            }
            if queue.may_stand_still() {
                if !queue.consumers.is_empty() {
                    waiting.push("left waiting: the log");
                }
                continue;
            }
            for (id, number, tag) in &queue.consumers {
                let waits = match self.may_deliver(*id, *number, tag, item.id) {
                    Err(FULL_OUTBOX) => Some("left waiting: full outbox"),
                    Err(OWN_PREFETCH) => Some("left waiting: own prefetch"),
                    Err(SHARED_PREFETCH) => Some("left waiting: shared prefetch"),
                    _ => None,
                };
                waiting.extend(waits);
                let room = self
                    .connections
                    .get(id)
                    .is_some_and(|c| self.has_ample_room(c));
                if room && self.may_deliver(*id, *number, tag, item.id).is_ok() {
                    return Err(violation!(
                        "message {} waits in '{name}' though {tag} on {id:?}/{number} could have it ({})",
                        item.id,
                        self.why
                    ));
                }
            }
        }
        for what in waiting {
            self.count(what, 1);
        }
        self.check_lengths()
    }

    /// Room for any message. With less a consumer may have been left out for a large message until
    /// something is drained, though a smaller one has taken its place since.
    pub(crate) fn has_ample_room(&self, connection: &Connection) -> bool {
        connection.outbox <= self.outbox_max / 4
            || connection.outbox + self.body_max + 128 <= self.outbox_max
    }

    /// Everything that was sent had a reason, and everything that had to be sent was.
    pub(crate) fn nothing_is_left(&mut self) -> Checked {
        if let Some(died) = self.died.front() {
            return Err(violation!("{died:?} for no reason: {}", self.why));
        }
        if let Some((id, sent)) = self.seen.iter().find_map(|(id, q)| Some((id, q.front()?))) {
            return Err(violation!("{id:?} was sent {sent:?}: {}", self.why));
        }
        self.expected.retain(|_, queue| !queue.is_empty());
        match self.expected.iter().next() {
            Some((id, queue)) => Err(violation!("{id:?} was not sent {:?}", queue.front())),
            None => Ok(()),
        }
    }

    /// Takes as much of what was sent as makes sense by now.
    ///
    /// Within a connection in order; between connections in any order in which every delivery
    /// takes the first message of its queue. Nothing that is taken early can make another wrong.
    pub(crate) fn eat(&mut self) -> Checked {
        let mut ids: Vec<ConnectionId> = self.seen.keys().copied().collect();
        // What is delivered and requeued in one batch was delivered to its sender first.
        ids.sort_by_key(|id| Some(*id) != self.sender);
        while self.eat_one(&ids)? || self.eat_death()? {}
        Ok(())
    }

    /// Takes one thing from the first connection where that makes sense.
    fn eat_one(&mut self, ids: &[ConnectionId]) -> Result<bool, Violation> {
        for last in [false, true] {
            for &id in ids {
                if self.comes_last(id) != last {
                    continue;
                }
                if let Some(sent) = self.seen.get_mut(&id).and_then(VecDeque::pop_front) {
                    if self.makes_sense(id, &sent)? {
                        return Ok(true);
                    }
                    self.seen.entry(id).or_default().push_front(sent);
                }
            }
        }
        Ok(false)
    }

    /// Whether what comes next to a connection is a message that is gone for good then, while somebody
    /// else is to have it, too: in between it has come back.
    fn comes_last(&self, id: ConnectionId) -> bool {
        let next = |id: &ConnectionId| match self.seen.get(id)?.front()? {
            Outbound::Deliver {
                channel,
                consumer,
                message,
                ..
            } => Some((*channel, *consumer, identify(message)?)),
            _ => None,
        };
        let no_ack = |channel, consumer: u32| {
            let connection = self.connections.get(&id)?;
            let tag = connection.numbers.get(&consumer)?;
            let channel = connection.channels.get(&channel)?.as_ref()?;
            Some(channel.consumers.get(tag)?.no_ack)
        };
        let Some((channel, consumer, message)) = next(&id) else {
            return false;
        };
        let mut others = self.seen.keys().filter(|other| **other != id);
        no_ack(channel, consumer) == Some(true)
            && others.any(|other| next(other).is_some_and(|(.., same)| same == message))
    }

    pub(crate) fn makes_sense(
        &mut self,
        id: ConnectionId,
        sent: &Outbound,
    ) -> Result<bool, Violation> {
        match sent {
            Outbound::Consumer { number, tag } => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.numbers.insert(*number, tag.to_string());
                }
                Ok(true)
            }
            Outbound::Deliver {
                channel,
                consumer,
                redelivered,
                delivery_tag,
                message,
            } => self.deliver(
                id,
                *channel,
                *consumer,
                *redelivered,
                *delivery_tag,
                message,
            ),
            Outbound::Confirm {
                channel,
                delivery_tag,
                multiple,
            } => Ok(self.confirm(id, *channel, *delivery_tag, *multiple)),
            other => self.reply(id, other),
        }
    }

    /// Whether this consumer must have the message rather than one of `id` with this priority.
    ///
    /// Two of one connection may have waited for the same thing, and be woken in any order: among
    /// those only one that never waits counts.
    pub(crate) fn is_preferred(
        &self,
        at: ConnectionId,
        on: u16,
        tag: &str,
        message: u64,
        id: ConnectionId,
        priority: i64,
    ) -> bool {
        let Ok(other) = self.may_deliver(at, on, tag, message) else {
            return false;
        };
        let shared = self
            .connections
            .get(&at)
            .and_then(|c| c.channels.get(&on)?.as_ref());
        // One that waits for a shared prefetch is woken in its turn, whatever its priority.
        let held = !other.no_ack && shared.is_none_or(|channel| channel.shared > 0);
        let never_waits = self.outbox_max >= 1 << 20 && (other.no_ack || other.prefetch == 0);
        let room = self
            .connections
            .get(&at)
            .is_some_and(|c| self.has_ample_room(c));
        other.priority > priority && room && !held && (at != id || never_waits)
    }

    /// Whether a consumer could have this message now, and if not, why.
    pub(crate) fn may_deliver(
        &self,
        id: ConnectionId,
        number: u16,
        tag: &str,
        message: u64,
    ) -> Result<&Consumer, &'static str> {
        let connection = self.connections.get(&id).ok_or("no such connection")?;
        let slot = connection.channels.get(&number).and_then(Option::as_ref);
        let channel = slot.ok_or("no such channel")?;
        let consumer = channel.consumers.get(tag).ok_or("no such consumer")?;
        let cost = self
            .published
            .get(message as usize)
            .map_or(0, |m| m.body_len)
            + 128;
        let own = channel
            .held()
            .filter(|u| u.consumer == Some(consumer.id))
            .count();
        let all = channel.held().filter(|u| u.consumer.is_some()).count();
        if connection.closing || connection.gone {
            Err("the connection is closing")
        } else if connection.outbox > self.outbox_max / 4
            && connection.outbox + cost > self.outbox_max
        {
            Err(FULL_OUTBOX)
        } else if !consumer.no_ack && consumer.prefetch > 0 && own >= consumer.prefetch {
            Err(OWN_PREFETCH)
        } else if !consumer.no_ack && channel.shared > 0 && all >= channel.shared {
            Err(SHARED_PREFETCH)
        } else {
            Ok(consumer)
        }
    }

    pub(crate) fn deliver(
        &mut self,
        id: ConnectionId,
        number: u16,
        consumer: u32,
        redelivered: bool,
        delivery_tag: u64,
        message: &Message,
    ) -> Result<bool, Violation> {
        let message_id = identify(message)
            .ok_or_else(|| violation!("a message nobody published: {message:?}"))?;
        let tag = self
            .connections
            .get(&id)
            .and_then(|c| c.numbers.get(&consumer));
        let tag = tag.cloned().unwrap_or_default();
        let (consumer_id, name, no_ack, priority) =
            match self.may_deliver(id, number, &tag, message_id) {
                Ok(c) => (c.id, c.queue.clone(), c.no_ack, c.priority),
                Err(why) => return Ok(self.not_yet(why)),
            };
        let Some(queue) = self.queues.get(&name) else {
            return Ok(self.not_yet("its queue is gone"));
        };
        let Some(item) = queue.ready.front().filter(|item| item.id == message_id) else {
            let first = queue.ready.front().map(|item| item.id);
            return Ok(self.not_yet(&format!(
                "message {message_id} is not the first of '{name}': {first:?}"
            )));
        };
        let shown = self.shown(queue, item);
        if !self.is_shown(message, shown) {
            return Ok(self.not_yet(&format!(
                "message {message_id} of '{name}' is not as it should be: {}",
                self.look(message, shown)
            )));
        }
        if item.safe > self.durable {
            return Ok(self.not_yet("it is a dead letter, and its record is not safe"));
        }
        if self.is_due(queue, item) == Some(true) && item.came != self.turns {
            return Ok(self.not_yet("its time is over"));
        }
        if item.number() > queue.mark {
            return Ok(self.not_yet("it is beyond the mark of its queue"));
        }
        if item.delivered != redelivered {
            return Ok(self.not_yet("its redelivered flag is wrong"));
        }
        let preferred = queue
            .consumers
            .iter()
            .any(|(at, on, tag)| self.is_preferred(*at, *on, tag, message_id, id, priority));
        if preferred {
            return Ok(self.not_yet("a consumer of higher priority could have it"));
        }
        let queue_id = queue.id;
        let item = self
            .queues
            .get_mut(&name)
            .and_then(|queue| queue.ready.pop_front());
        let Some(mut item) = item else {
            return Ok(false);
        };
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.outbox += message.body().len() + 128;
        }
        let Some(channel) = self.channel(id, number) else {
            return Ok(false);
        };
        channel.last_tag += 1;
        if channel.last_tag != delivery_tag {
            let expected = channel.last_tag;
            return Err(violation!(
                "delivery tag {delivery_tag} comes instead of {expected}"
            ));
        }
        if no_ack {
            self.note_settled(queue_id, item.seq, item.id);
        } else {
            item.delivered = true;
            let unacked = Unacked {
                queue: queue_id,
                consumer: Some(consumer_id),
                item,
            };
            channel.unacked.insert(delivery_tag, unacked);
        }
        self.count("deliveries", 1);
        self.count("delivered letters", shown.letter.is_some().into());
        self.count("deliveries that say how often", (shown.failures > 0).into());
        self.count("redeliveries", redelivered.into());
        Ok(true)
    }

    pub(crate) fn confirm(
        &mut self,
        id: ConnectionId,
        number: u16,
        tag: u64,
        multiple: bool,
    ) -> bool {
        let expected = self.expected.get(&id).into_iter().flatten();
        let returns: BTreeSet<u64> = expected
            .filter_map(|expected| match expected {
                Expected::Return(channel, message) if *channel == number => Some(*message),
                _ => None,
            })
            .collect();
        let durable = self.durable;
        let Some(channel) = self.channel(id, number) else {
            return self.not_yet("a confirm on a channel that is not open");
        };
        let Mode::Confirm { waiting, .. } = &mut channel.mode else {
            return self.not_yet("a confirm on a channel not in confirm mode");
        };
        if !waiting.contains_key(&tag) {
            return self.not_yet("a confirm of what was not published or is confirmed");
        }
        let from = if multiple { 0 } else { tag };
        let covered: Vec<u64> = waiting.range(from..=tag).map(|(&n, _)| n).collect();
        for number in &covered {
            let unconfirmed = &waiting[number];
            if unconfirmed.record.is_some_and(|lsn| lsn > durable) {
                return self.not_yet("a confirm before its record is durable");
            }
            if returns.contains(&unconfirmed.id) {
                return self.not_yet("a confirm before its return");
            }
        }
        waiting.retain(|number, _| !covered.contains(number));
        self.count("confirms", covered.len() as u64);
        true
    }

    pub(crate) fn reply(&mut self, id: ConnectionId, sent: &Outbound) -> Result<bool, Violation> {
        // In order on each channel; which of two channels is answered first does not matter.
        let number = match sent {
            Outbound::Method { channel, .. }
            | Outbound::GetOk { channel, .. }
            | Outbound::Return { channel, .. }
            | Outbound::CloseChannel { channel, .. } => *channel,
            _ => 0,
        };
        // A consumer may be told that it has ended at any time, so the rest goes around that.
        let is_cancel =
            |method: &Method<'_>| number != 0 && matches!(method, Method::BasicCancel(_));
        let cancel = match sent {
            Outbound::Method { method, .. } if is_cancel(method) => Some(method),
            _ => None,
        };
        let next = |expected: &Expected| match (expected, cancel) {
            (Expected::Method(channel, expected), Some(cancel)) => {
                *channel == number && *expected == **cancel
            }
            (Expected::Method(_, expected), None) if is_cancel(expected) => false,
            (expected, None) => expected.channel() == number,
            _ => false,
        };
        let queue = self.expected.entry(id).or_default();
        let Some(at) = queue.iter().position(next) else {
            if let Some(cancel) = cancel
                && self.waits_for_cancel(id, number, cancel)
            {
                return Ok(true);
            }
            return Ok(self.not_yet("nobody asked for it"));
        };
        let deleted = |expected: &Expected| match expected {
            Expected::Method(channel, Method::QueueDeleteOk(_)) => *channel == number,
            _ => false,
        };
        if cancel.is_some() && queue.iter().take(at).any(deleted) {
            return Ok(self.not_yet("a cancel before the answer to the delete"));
        }
        let expected = queue[at].clone();
        let fits = match (&expected, sent) {
            (Expected::Method(a, expected), Outbound::Method { channel, method }) => {
                a == channel && *expected == **method
            }
            (
                Expected::Get {
                    channel,
                    shown,
                    redelivered,
                    tag,
                    left,
                },
                Outbound::GetOk {
                    channel: on,
                    redelivered: flag,
                    delivery_tag,
                    message_count,
                    message,
                },
            ) => {
                self.is_shown(message, *shown)
                    && (channel, redelivered, tag) == (on, flag, delivery_tag)
                    && *left == *message_count as usize
            }
            (
                Expected::Return(a, id),
                Outbound::Return {
                    channel,
                    code,
                    message,
                },
            ) => {
                let shown = Shown {
                    id: *id,
                    letter: None,
                    failures: 0,
                };
                self.is_shown(message, shown) && a == channel && code.value() == 312
            }
            (Expected::CloseChannel(a, code), Outbound::CloseChannel { channel, error }) => {
                a == channel && *code == error.code.value()
            }
            (Expected::CloseConnection(code), Outbound::CloseConnection { error }) => {
                *code == error.code.value()
            }
            _ => false,
        };
        if !fits {
            return Ok(self.not_yet(&format!("expected is {expected:?}")));
        }
        self.expected.entry(id).or_default().remove(at);
        Ok(true)
    }

    pub(crate) fn not_yet(&mut self, why: &str) -> bool {
        why.clone_into(&mut self.why);
        false
    }

    /// Whether a message is this one, and all of it as it should be.
    pub(crate) fn is_shown(&self, message: &Message, shown: Shown) -> bool {
        let content = self.content(shown.id, shown.letter);
        content.is_some_and(|content| is_same(message, shown.id, content, shown.failures))
    }

    /// What a message is, and what it should be.
    fn look(&self, message: &Message, shown: Shown) -> String {
        let content = self.content(shown.id, shown.letter);
        let headers = message.properties().headers;
        let right = content.map(|content| (&content.exchange, &content.keys, &content.headers));
        format!("{message:?} with {headers:?} for {right:?}, {shown:?}")
    }
}

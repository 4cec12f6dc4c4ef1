//! From a queue to its consumers, and back again.

use leveret_codec::{BasicCancel, ShortStr};

use crate::channel::unacked::Delivery;
use crate::consumer::Standing;
use crate::dead_letter::Reason;
use crate::effect::{DELIVERY_OVERHEAD_BYTES, Effects, Outbound, delivery_cost};
use crate::fired::Wishes;
use crate::ids::{ChannelKey, ConnectionId, ConsumerKey, Mono, QueueId};
use crate::input::Outcome;
use crate::message::Message;
use crate::queue::index::Entry;
use crate::schedule::Ending;
use crate::schedules::{note_consumed, note_delivery};
use crate::vhost::{Vhost, scanned};

/// What a delivery that goes back to its queue says about the message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Counts {
    /// Nothing: it was given back (RabbitMQ 4.3).
    AsReturned,
    /// It was rejected, or its consumer did not survive it.
    AsFailed,
    /// Nothing, and it is not delayed either: the broker has ended the connection, such as for its
    /// own stop.
    NotAtAll,
}

impl Vhost {
    /// Adds a new message to a queue, and delivers it if a consumer can take it.
    #[inline]
    pub(crate) fn offer(&mut self, id: QueueId, message: Message, fx: &mut Effects) {
        let Some(queue) = self.queues.get(id) else {
            return;
        };
        self.work += 1;
        let deadline = self.deadline(queue.rules.ttl_ms, &message, None);
        let limited = queue.rules.limits_length();
        let Some(queue) = self.queues.get_mut(id) else {
            return;
        };
        let seq = queue.push(message);
        if queue.rules.priority_max.is_some() {
            // It may go before what others wait for.
            self.getters.append(&mut queue.logged.waiting);
        }
        if let Some(due) = deadline {
            queue.deadlines.get_or_insert_default().set(seq, due);
        }
        self.pump(id, fx);
        if deadline.is_some() && self.queues.get(id).is_some_and(|q| q.index.is_newest(seq)) {
            self.await_deadline(id, seq);
            if self.has_expired(id) {
                self.expire_messages(id, fx); // no consumer took it at once
            }
        }
        if limited {
            self.drop_excess(id, fx);
        }
        self.watch_backlog(id, fx);
    }

    /// Delivers while there are messages and consumers that can take them.
    ///
    /// Bounded by the prefetches and the outboxes. A consumer that cannot take the message whose
    /// turn it is leaves the ring until something changes for it.
    pub(crate) fn pump(&mut self, id: QueueId, fx: &mut Effects) {
        if self.has_expired(id) {
            self.expire_messages(id, fx);
            if self.has_expired(id) {
                return; // the timer sees to the rest, and then to the consumers
            }
        }
        let Some(queue) = self.queues.get_mut(id) else {
            return;
        };
        while let (Some(key), Some(front)) = (queue.ring.first(), queue.index.front()) {
            self.work += 1;
            if !queue.logged.lets_go(front.seq) {
                break;
            }
            let Some(consumer) = self.consumers.get_mut(key) else {
                queue.ring.pop();
                continue;
            };
            let Some(channel) = self.channels.get_mut(consumer.channel) else {
                return;
            };
            let Some(connection) = self.connections.get_mut(channel.connection) else {
                return;
            };
            let cost = delivery_cost(&front.message);
            let outbox_max = self.limits.outbox_bytes_max;
            let obstacle = if !consumer.below_prefetch() {
                Some(Standing::Blocked)
            } else if !(consumer.no_ack || channel.below_prefetch()) {
                channel.held.push_back(key);
                Some(Standing::Held)
            } else if !connection.has_room(cost, outbox_max) {
                connection.starved.push_back(key);
                Some(Standing::Starved)
            } else {
                None
            };
            if let Some(standing) = obstacle {
                queue.ring.pop();
                consumer.standing = standing;
                continue;
            }
            let Some(mut entry) = queue.take_front(consumer.no_ack) else {
                return;
            };
            queue.ring.rotate();
            connection.outbox_bytes += cost;
            let delivery_tag = channel.next_tag();
            let redelivered = entry.deliveries > 0;
            self.metrics.redelivered += u64::from(redelivered);
            let failures = entry.failures;
            note_delivery(&mut self.news, &entry.message, &consumer.tag);
            let message = if consumer.no_ack {
                self.metrics.delivered_auto += 1;
                let kept = queue.keeps(&entry.message);
                let settled = kept.then(|| queue.settled(entry.seq));
                if let Some(fact) = note_consumed(&mut self.news, &entry.message, settled) {
                    self.lsn = fx.record(self.lsn, fact);
                }
                entry.message
            } else {
                self.metrics.delivered_manual += 1;
                entry.deliveries = entry.deliveries.saturating_add(1);
                consumer.unacked += 1;
                channel.consumer_unacked += 1;
                queue.unacked += 1;
                let message = entry.message.clone();
                let delivery = Delivery {
                    queue: id,
                    consumer: Some(key),
                    entry,
                    at: self.now.mono,
                };
                channel.unacked.push(delivery_tag, delivery);
                let others_ms = self.limits.consumer_timeout_ms;
                let due = self
                    .now
                    .mono
                    .plus_ms(queue.rules.consumer_timeout_ms(others_ms));
                let timer = &mut channel.timer;
                self.timers.look_at_unsettled(timer, due, consumer.channel);
                message
            };
            let outbound = Outbound::Deliver {
                channel: channel.number,
                consumer: consumer.number,
                redelivered,
                delivery_tag,
                message: queue.shown(message, failures),
            };
            fx.send(channel.connection, outbound);
        }
        if (queue.durable || queue.index.away() > 0) && !queue.consumers.is_empty() {
            self.look_ahead(id, fx);
        }
    }

    /// Settles deliveries that were taken out of a channel's unacked.
    pub(crate) fn settle(
        &mut self,
        key: ChannelKey,
        deliveries: Vec<(u64, Delivery)>,
        outcome: Outcome,
        fx: &mut Effects,
    ) {
        let requeue = match outcome {
            Outcome::Ack => false,
            Outcome::Nack { requeue } | Outcome::Reject { requeue } => requeue,
        };
        if requeue {
            self.metrics.requeued += deliveries.len() as u64;
            let counts = match outcome {
                Outcome::Reject { .. } => Counts::AsFailed,
                Outcome::Ack | Outcome::Nack { .. } => Counts::AsReturned,
            };
            self.requeue(key, deliveries, counts, fx);
        } else {
            for (_, delivery) in deliveries {
                self.discard(key, delivery, outcome, fx);
            }
        }
    }

    /// Settles one delivery that leaves its queue for good, and lets its consumer have another.
    pub(crate) fn discard(
        &mut self,
        key: ChannelKey,
        delivery: Delivery,
        outcome: Outcome,
        fx: &mut Effects,
    ) {
        if outcome == Outcome::Ack {
            self.metrics.acknowledged += 1;
        } else {
            self.metrics.discarded += 1;
        }
        self.work += 1;
        self.release(key, &delivery);
        if outcome != Outcome::Ack {
            self.die(delivery.queue, delivery.entry, Reason::Rejected, fx);
        } else {
            let mut settled = None;
            if let Some(queue) = self.queues.get_mut(delivery.queue) {
                let processing_ms = self.now.mono.0.saturating_sub(delivery.at.0);
                self.metrics.processing_ms += processing_ms;
                queue.done.acknowledged += 1;
                queue.done.processing_ms += processing_ms;
                if let Some(deadlines) = &mut queue.deadlines {
                    deadlines.forget(delivery.entry.seq);
                }
                if queue.keeps(&delivery.entry.message) {
                    settled = Some(queue.settled(delivery.entry.seq));
                }
            }
            self.record_ending(&delivery.entry.message, Ending::Acked, settled, fx);
        }
        self.wake_held(key, fx);
        if let Some(consumer) = delivery.consumer {
            self.wake(consumer, fx);
        }
    }

    /// Puts deliveries back to their old places, and delivers again.
    pub(crate) fn requeue(
        &mut self,
        key: ChannelKey,
        deliveries: Vec<(u64, Delivery)>,
        counts: Counts,
        fx: &mut Effects,
    ) {
        let mut back: Vec<(QueueId, Entry)> = Vec::new();
        let mut later: Vec<(QueueId, Mono, Entry)> = Vec::new();
        let mut consumers = Vec::new();
        for (_, mut delivery) in deliveries {
            self.work += 2; // it is sorted and merged as well
            self.release(key, &delivery);
            if let Some(consumer) = delivery.consumer
                && consumers.last() != Some(&consumer)
            {
                consumers.push(consumer);
            }
            if !self.queues.contains_key(delivery.queue) {
                self.record_ending(&delivery.entry.message, Ending::Removed, None, fx);
                continue;
            }
            let wishes = Wishes::of(&delivery.entry.message);
            let own = wishes.as_ref().filter(|wishes| wishes.retries());
            let has_failed = match counts {
                Counts::AsFailed => true,
                Counts::AsReturned => own.is_some() || self.counts_all(delivery.queue),
                Counts::NotAtAll => false,
            };
            if has_failed {
                delivery.entry.failures = delivery.entry.failures.saturating_add(1);
                if self.has_failed_enough(&delivery, own) {
                    self.die(delivery.queue, delivery.entry, Reason::DeliveryLimit, fx);
                    continue;
                }
            }
            let own_ms = own.filter(|_| counts != Counts::NotAtAll);
            let retry_ms = own_ms
                .and_then(|own| own.retry_ms)
                .or_else(|| self.retry_in_ms(delivery.queue, counts, delivery.entry.failures));
            match retry_ms {
                None => back.push((delivery.queue, delivery.entry)),
                Some(ms) => {
                    let until = self.now.mono.plus_ms(ms);
                    later.push((delivery.queue, until, delivery.entry));
                }
            }
        }
        let mut queues = self.hold_all_retries(later, fx);
        back.sort_by_key(|(queue, entry)| (*queue, entry.seq));
        let mut back = back.into_iter().peekable();
        while let Some((id, entry)) = back.next() {
            let mut entries = vec![entry];
            while let Some((_, entry)) = back.next_if(|(queue, _)| *queue == id) {
                entries.push(entry);
            }
            self.await_deadlines(id, &entries);
            if let Some(queue) = self.queues.get_mut(id) {
                match <[Entry; 1]>::try_from(entries) {
                    Ok([entry]) => queue.index.put_back(entry),
                    Err(entries) => queue.index.put_all_back(entries),
                }
                // One that waits for what is away may have this.
                self.getters.append(&mut queue.logged.waiting);
                queues.push(id);
            }
        }
        // All of them first: the one of the highest priority may be the last to be woken.
        for consumer in consumers {
            queues.extend(self.unblock(consumer));
        }
        self.wake_held(key, fx);
        for queue in queues {
            self.pump(queue, fx);
            self.drop_excess(queue, fx);
        }
    }

    /// Puts deliveries aside until then. Returns their queues.
    fn hold_all_retries(
        &mut self,
        mut later: Vec<(QueueId, Mono, Entry)>,
        fx: &mut Effects,
    ) -> Vec<QueueId> {
        later.sort_by_key(|(queue, _, entry)| (*queue, entry.seq));
        let mut queues = Vec::new();
        let mut later = later.into_iter().peekable();
        while let Some((id, until, entry)) = later.next() {
            let mut entries = vec![(until, entry)];
            while let Some((_, until, entry)) = later.next_if(|(queue, ..)| *queue == id) {
                entries.push((until, entry));
            }
            self.hold_retries(id, entries, fx);
            queues.push(id);
        }
        queues
    }

    /// Whether every delivery counts as failed that comes back to this queue.
    fn counts_all(&self, id: QueueId) -> bool {
        let backoff = self.queues.get(id).and_then(|queue| queue.rules.backoff);
        backoff.is_some_and(|backoff| backoff.counts_all)
    }

    fn has_failed_enough(&self, delivery: &Delivery, own: Option<&Wishes>) -> bool {
        let queue = self.queues.get(delivery.queue);
        let own = own.and_then(|own| own.retries_max);
        let limit = own.or_else(|| queue?.rules.delivery_limit);
        limit.is_some_and(|limit| delivery.entry.failures > limit)
    }

    /// These wait again.
    fn await_deadlines(&mut self, id: QueueId, entries: &[Entry]) {
        if self
            .queues
            .get(id)
            .is_some_and(|queue| queue.deadlines.is_some())
        {
            for entry in entries {
                self.await_deadline(id, entry.seq);
            }
        }
    }

    /// Takes a delivery out of every count.
    fn release(&mut self, key: ChannelKey, delivery: &Delivery) {
        if let Some(queue) = self.queues.get_mut(delivery.queue) {
            queue.unacked -= 1;
        }
        let Some(consumer) = delivery.consumer else {
            return;
        };
        if let Some(consumer) = self.consumers.get_mut(consumer) {
            consumer.unacked -= 1;
        }
        if let Some(channel) = self.channels.get_mut(key) {
            channel.consumer_unacked -= 1;
        }
    }

    /// The consumer has credit of its own again. One that waits for something else goes on waiting.
    pub(crate) fn wake(&mut self, key: ConsumerKey, fx: &mut Effects) {
        if let Some(queue) = self.unblock(key) {
            self.pump(queue, fx);
        }
    }

    /// Puts a consumer that has credit of its own again behind its equals. Returns its queue.
    fn unblock(&mut self, key: ConsumerKey) -> Option<QueueId> {
        let blocked = self.consumers.get(key)?.standing == Standing::Blocked;
        blocked.then(|| self.join_ring(key))?
    }

    /// Puts a consumer behind its equals. Returns its queue, which may have something for it.
    fn join_ring(&mut self, key: ConsumerKey) -> Option<QueueId> {
        self.work += 1;
        let consumer = self.consumers.get_mut(key)?;
        let queue = self.queues.get_mut(consumer.queue)?;
        consumer.standing = Standing::Ring;
        queue.ring.push(consumer.priority, key);
        Some(consumer.queue)
    }

    /// The prefetch that the consumers of a channel share may have something left: whoever waited
    /// longest for it goes first.
    pub(crate) fn wake_held(&mut self, key: ChannelKey, fx: &mut Effects) {
        if let Some(channel) = self.channels.get_mut(key)
            && channel.prefetch_shared == 0
        {
            // There is no limit any more, so nobody goes first but by priority.
            let held = std::mem::take(&mut channel.held);
            let joined = held
                .into_iter()
                .filter_map(|consumer| self.join_ring(consumer));
            let queues: Vec<QueueId> = joined.collect();
            for queue in queues {
                self.pump(queue, fx);
            }
            return;
        }
        while let Some(channel) = self.channels.get_mut(key)
            && channel.below_prefetch()
            && let Some(consumer) = channel.held.pop_front()
        {
            if let Some(queue) = self.join_ring(consumer) {
                self.pump(queue, fx);
            }
        }
    }

    /// The writer has passed deliveries on: consumers that had no room may have some now.
    pub(crate) fn drained(&mut self, id: ConnectionId, bytes: usize, fx: &mut Effects) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        connection.outbox_bytes = connection.outbox_bytes.saturating_sub(bytes);
        // Each at most once: one whose next message is too large for the room comes in again.
        let mut left = connection.starved.len();
        while left > 0
            && let Some(connection) = self.connections.get_mut(id)
            && connection.has_room(DELIVERY_OVERHEAD_BYTES, self.limits.outbox_bytes_max)
            && let Some(consumer) = connection.starved.pop_front()
        {
            left -= 1;
            if let Some(queue) = self.join_ring(consumer) {
                self.pump(queue, fx);
            }
        }
    }

    /// Ends consumers. Their unsettled deliveries stay with their channels.
    ///
    /// Returns their queues, each once, for auto-delete to be looked at. One pass over what the
    /// consumers stood in, because a client may have very many of them.
    pub(crate) fn end_consumers(&mut self, keys: &[ConsumerKey]) -> Vec<QueueId> {
        let mut queues = Vec::new();
        let mut channels = Vec::new();
        for &key in keys {
            let Some(consumer) = self.consumers.remove(key) else {
                continue;
            };
            self.work += 1;
            queues.push(consumer.queue);
            if let Some(channel) = self.channels.get_mut(consumer.channel) {
                channels.push(consumer.channel);
                channel.consumers.remove(&consumer.tag);
                if let Some(connection) = self.connections.get_mut(channel.connection) {
                    connection.free_consumer_number(consumer.number);
                }
            }
        }
        let living = &self.consumers;
        queues.sort_unstable();
        queues.dedup();
        for &id in &queues {
            if let Some(queue) = self.queues.get_mut(id) {
                self.work += scanned(queue.consumers.len());
                queue.ring.retain(|key| living.contains_key(key));
                queue.consumers.retain(|&key| living.contains_key(key));
                queue.exclusive_consumer = false;
            }
        }
        channels.sort_unstable();
        channels.dedup();
        let mut connections = Vec::new();
        for key in channels {
            if let Some(channel) = self.channels.get_mut(key) {
                self.work += scanned(channel.held.len());
                channel.held.retain(|&key| living.contains_key(key));
                connections.push(channel.connection);
            }
        }
        connections.dedup();
        for id in connections {
            if let Some(connection) = self.connections.get_mut(id) {
                self.work += scanned(connection.starved.len());
                connection.starved.retain(|&key| living.contains_key(key));
            }
        }
        queues
    }

    /// Ends all consumers of a channel, and the auto-delete queues that were theirs alone.
    pub(crate) fn cancel_all(&mut self, key: ChannelKey, fx: &mut Effects) {
        let Some(channel) = self.channels.get_mut(key) else {
            return;
        };
        if let Some(reply) = channel.reply.take() {
            self.replies.remove(&reply.address);
            if let Some(connection) = self.connections.get_mut(channel.connection) {
                connection.free_consumer_number(reply.number);
            }
        }
        let consumers: Vec<ConsumerKey> = channel.consumers.values().copied().collect();
        for queue in self.end_consumers(&consumers) {
            self.delete_if_unused(queue, fx);
        }
    }

    /// Tells a consumer whose queue is gone, if its client understands that.
    pub(crate) fn notify_cancelled(&mut self, key: ConsumerKey, fx: &mut Effects) {
        let Some(consumer) = self.consumers.get(key) else {
            return;
        };
        let Some(channel) = self.channels.get(consumer.channel) else {
            return;
        };
        let to = channel.connection;
        if self
            .connections
            .get(to)
            .is_some_and(|c| c.peer.capabilities.consumer_cancel_notify)
        {
            let consumer_tag = ShortStr::truncated(consumer.tag.to_string());
            let cancel = BasicCancel {
                consumer_tag,
                no_wait: true,
            };
            let outbound = Outbound::Method {
                channel: channel.number,
                method: Box::new(cancel.into()),
            };
            let channel = consumer.channel;
            self.send_in_order(channel, outbound, fx);
        }
    }
}

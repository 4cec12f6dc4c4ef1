//! How consumers, channels, connections and queues of the model end.

use leveret_codec::{BasicCancel, ConnectionBlocked, ConnectionUnblocked, ShortStr};
use leveret_core::{ConnectionId, Fact, Lsn};

use crate::model::{ALARM, Checked, Connection, Model, Queue, Violation};

impl Model {
    pub(crate) fn end_consumer(
        &mut self,
        id: ConnectionId,
        number: u16,
        tag: &str,
    ) -> Option<String> {
        let connection = self.connections.get_mut(&id)?;
        let channel = connection.channels.get_mut(&number)?.as_mut()?;
        let consumer = channel.consumers.remove(tag)?;
        if let Some(queue) = self.queues.get_mut(&consumer.queue) {
            queue
                .consumers
                .retain(|c| *c != (id, number, tag.to_owned()));
            queue.exclusive_consumer = false;
        }
        Some(consumer.queue)
    }

    pub(crate) fn consumer_left(&mut self, name: &str) -> Checked {
        if let Some(queue) = self.queues.get_mut(name) {
            queue.used = self.now_ms;
            if queue.auto_delete && queue.consumers.is_empty() {
                self.delete_queue(name)?;
            }
        }
        Ok(())
    }

    pub(crate) fn cancel_all(&mut self, id: ConnectionId, number: u16) -> Checked {
        let connection = self.connections.get(&id);
        let Some(Some(channel)) = connection.and_then(|c| c.channels.get(&number)) else {
            return Ok(());
        };
        let tags: Vec<String> = channel.consumers.keys().cloned().collect();
        for tag in tags {
            if let Some(queue) = self.end_consumer(id, number, &tag) {
                self.consumer_left(&queue)?;
            }
        }
        Ok(())
    }

    pub(crate) fn end_channel(&mut self, id: ConnectionId, number: u16, failed: bool) -> Checked {
        self.cancel_all(id, number)?;
        let connection = self.connections.get_mut(&id);
        if let Some(Some(channel)) = connection.and_then(|c| c.channels.remove(&number)) {
            let mut held: Vec<_> = channel.held_by_tag().collect();
            held.sort_by_key(|(tag, _)| *tag);
            let held = held.into_iter().map(|(_, unacked)| unacked.clone());
            self.requeue(held.collect(), failed)?;
            self.eat()?;
        }
        Ok(())
    }

    /// Ends everything a connection has going on. What it had at hand has `failed`, or the broker has
    /// taken it back.
    pub(crate) fn abandon(&mut self, id: ConnectionId, failed: bool) -> Checked {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Ok(());
        };
        connection.closing = true;
        connection.paused = false;
        let numbers: Vec<u16> = connection.channels.keys().copied().collect();
        for &number in &numbers {
            self.cancel_all(id, number)?;
        }
        let own = |queue: &Queue| queue.exclusive == Some(id);
        let own: Vec<String> = self
            .queues
            .iter()
            .filter(|(_, queue)| own(queue))
            .map(|(name, _)| name.clone())
            .collect();
        for name in own {
            self.delete_queue(&name)?;
        }
        for number in numbers {
            self.end_channel(id, number, failed)?;
        }
        Ok(())
    }

    /// Removes a queue. Returns the last record about it.
    pub(crate) fn delete_queue(&mut self, name: &str) -> Result<Option<Lsn>, Violation> {
        if self.queues.contains_key(name) {
            self.bury()?; // what died in it before
        }
        let Some(queue) = self.queues.remove(name) else {
            return Ok(None);
        };
        for (id, number, tag) in queue.consumers {
            self.end_consumer(id, number, &tag);
            let notify = |c: &Connection| c.capabilities.consumer_cancel_notify;
            if self.connections.get(&id).is_some_and(notify) {
                self.count("cancel notifications", 1);
                let cancel = BasicCancel {
                    consumer_tag: ShortStr::truncated(tag),
                    no_wait: true,
                };
                self.answer(id, number, cancel);
            }
        }
        let mut last = None;
        if let Some(number) = queue.number {
            let is =
                |fact: &Fact| matches!(fact, Fact::QueueDeleted { queue, .. } if *queue == number);
            last = Some(self.record_of("a queue's end", is)?);
            self.removed = self.removed.max(last);
        }
        let exchanges = self
            .topology
            .unbind(|b| b.to_queue && b.destination == name);
        Ok(last.max(self.record_of_ends(&exchanges)?))
    }

    pub(crate) fn apply_alarm(&mut self, id: ConnectionId) {
        let alarm = self.alarm;
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if connection.closing || !connection.publishes || connection.paused == alarm {
            return;
        }
        connection.paused = alarm;
        if !connection.capabilities.connection_blocked {
            return;
        }
        if alarm {
            self.count("blocked", 1);
            let reason = ShortStr::from_static(ALARM);
            self.answer(id, 0, ConnectionBlocked { reason });
        } else {
            self.answer(id, 0, ConnectionUnblocked {});
        }
    }
}

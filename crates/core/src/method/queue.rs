//! Class queue (50).

use std::sync::Arc;

use leveret_codec::{
    FieldValue, QueueBind, QueueBindOk, QueueDeclare, QueueDeclareOk, QueueDelete, QueueDeleteOk,
    QueuePurge, QueuePurgeOk, QueueUnbind, QueueUnbindOk, ShortStr,
};

use crate::connection::Origin;
use crate::effect::{Effects, Outbound};
use crate::error::AmqpError;
use crate::event::Event;
use crate::ids::{Lsn, QueueId, QueueNumber};
use crate::method::exchange::BindingNames;
use crate::method::publish::REPLY_TO;
use crate::method::{RESERVED_PREFIX, strip};
use crate::permission::Access;
use crate::queue::Queue;
use crate::queue::arguments::{check_equivalent, check_property, is_quorum, name_prefix, validate};
use crate::queue::logged::Logged;
use crate::record::Fact;
use crate::vhost::{Vhost, scanned};

impl Vhost {
    /// `queue.declare` (50, 10): makes a queue, or checks the one that is there.
    ///
    /// # Errors
    /// - `ACCESS_REFUSED`: no configure right; a reserved name; with a dead-letter exchange, no
    ///   read right on the queue or write right on the exchange.
    /// - `PRECONDITION_FAILED`: it exists with other properties; bad arguments; too many queues.
    /// - `RESOURCE_LOCKED`: it is another connection's, or not exclusive as asked.
    /// - `NOT_FOUND`: passive, and there is none.
    pub(super) fn queue_declare(
        &mut self,
        from: Origin,
        m: QueueDeclare<'_>,
        fx: &mut Effects,
    ) -> Result<(), AmqpError> {
        let name = strip(&m.queue);
        if name.starts_with(REPLY_TO) {
            return self.probe_reply_address(from, &name, m.no_wait, fx);
        }
        let id = if m.passive {
            let id = self.find_queue(&name)?;
            self.check_lock(from, id)?;
            id
        } else {
            self.declare_queue(from, &name, &m, fx)?
        };
        self.metrics.queues_declared += 1;
        self.touch_queue(id);
        let Some(queue) = self.queues.get(id) else {
            return Ok(());
        };
        if let Some(channel) = self.channels.get_mut(from.key) {
            channel.last_queue = Some(Arc::clone(&queue.name));
        }
        if !m.no_wait {
            let ok = QueueDeclareOk {
                queue: ShortStr::truncated(queue.name.to_string()),
                message_count: count(queue.index.len()),
                consumer_count: count(queue.consumers.len()),
            };
            let due = self.defined_if(queue.durable);
            self.answer(from, due, ok, fx);
        }
        Ok(())
    }

    /// Declaring a direct reply address asks whether its reader is still there.
    fn probe_reply_address(
        &self,
        from: Origin,
        name: &str,
        no_wait: bool,
        fx: &mut Effects,
    ) -> Result<(), AmqpError> {
        let own = self
            .channels
            .get(from.key)
            .is_some_and(|channel| channel.reply.is_some());
        if !(self.replies.contains_key(name) || name == REPLY_TO && own) {
            return Err(AmqpError::not_found(self.queue_named(name)));
        }
        if !no_wait {
            let queue = ShortStr::truncated(name.to_owned());
            let ok = QueueDeclareOk {
                queue,
                message_count: 0,
                consumer_count: 1,
            };
            fx.method(from.connection, from.number, ok);
        }
        Ok(())
    }

    fn declare_queue(
        &mut self,
        from: Origin,
        name: &str,
        m: &QueueDeclare<'_>,
        fx: &mut Effects,
    ) -> Result<QueueId, AmqpError> {
        self.check_arguments(&m.arguments)?;
        let arguments = m.arguments.parse();
        let quorum = is_quorum(&arguments);
        if name.is_empty() && quorum {
            return Err(AmqpError::precondition_failed(
                "Cannot declare a server-named queue for type rabbit_quorum_queue",
            ));
        }
        if name.starts_with(RESERVED_PREFIX) {
            return Err(AmqpError::access_refused(format_args!(
                "queue name '{name}' contains reserved prefix 'amq.*'"
            )));
        }
        let name: Arc<str> = if name.is_empty() {
            let prefix = name_prefix(&arguments, self.queue_named(name))?.unwrap_or("amq.gen-");
            self.random_name(prefix)
        } else {
            Arc::from(name)
        };
        self.permit(from.connection, Access::Configure, self.queue_named(&name))?;
        // What goes with its connection cannot survive a restart (RabbitMQ 4).
        let durable = m.durable && !m.exclusive;
        let named = self.queue_named(&name);
        if let Some((&id, queue)) = self
            .queue_names
            .get(&name)
            .and_then(|id| Some((id, self.queues.get(*id)?)))
        {
            if queue.exclusive != m.exclusive.then_some(from.connection) {
                return Err(self.locked(&name));
            }
            check_property("durable", durable, queue.durable, named)?;
            check_property("auto_delete", m.auto_delete, queue.auto_delete, named)?;
            check_equivalent(&arguments, &queue.arguments, named)?;
            return Ok(id);
        }
        validate(&arguments, named)?;
        if let Some(dead_letter) = arguments
            .get("x-dead-letter-exchange")
            .and_then(FieldValue::as_str)
        {
            self.permit(from.connection, Access::Read, named)?;
            self.permit(
                from.connection,
                Access::Write,
                self.exchange_named(dead_letter),
            )?;
        }
        if self.queues.len() >= self.limits.queues_max {
            return Err(AmqpError::precondition_failed(format_args!(
                "cannot declare queue '{name}': queue limit in vhost '{}' ({}) is reached",
                self.name, self.limits.queues_max
            )));
        }
        if quorum {
            let misfits = [
                ("auto-delete", m.auto_delete),
                ("exclusive-owner", m.exclusive),
                ("non-durable", !m.durable),
            ];
            if let Some((property, _)) = misfits.into_iter().find(|&(_, misfit)| misfit) {
                let why = format_args!("invalid property '{property}' for {named}");
                return Err(AmqpError::precondition_failed(why));
            }
        }

        let mut logged = Logged::transient();
        if durable {
            let fact = Fact::QueueDeclared {
                name: Arc::clone(&name),
                auto_delete: m.auto_delete,
                arguments: Arc::from(m.arguments.as_bytes()),
            };
            logged = Logged::durable(QueueNumber(self.define(fact, fx).0));
        }
        let mut queue = Queue::new(Arc::clone(&name), arguments);
        queue.durable = durable;
        queue.logged = logged;
        queue.auto_delete = m.auto_delete;
        queue.exclusive = m.exclusive.then_some(from.connection);
        let id = self.queues.insert(queue);
        self.queue_names.insert(Arc::clone(&name), id);
        self.router.topology_changed(); // the default exchange leads to it
        if m.exclusive
            && let Some(connection) = self.connections.get_mut(from.connection)
        {
            connection.exclusive.insert(id);
        }
        self.metrics.queues_created += 1;
        fx.events.push(Event::QueueCreated { queue: name });
        Ok(id)
    }

    /// `queue.bind` (50, 20).
    ///
    /// # Errors
    /// As [`Vhost::bind`]; `NOT_FOUND` if an empty name stands for no queue.
    pub(super) fn queue_bind(
        &mut self,
        from: Origin,
        m: QueueBind<'_>,
        fx: &mut Effects,
    ) -> Result<(), AmqpError> {
        let (queue, key) = self.queue_and_key(from, &m.queue, &m.routing_key)?;
        let names = BindingNames {
            to_queue: true,
            destination: &queue,
            source: &strip(&m.exchange),
            routing_key: &key,
            arguments: &m.arguments,
        };
        let due = self.bind(from, &names, fx)?;
        if !m.no_wait {
            self.answer(from, due, QueueBindOk {}, fx);
        }
        Ok(())
    }

    /// `queue.unbind` (50, 50). What is not bound counts as unbound.
    ///
    /// # Errors
    /// As [`Vhost::unbind_names`]; `NOT_FOUND` if an empty name stands for no queue.
    pub(super) fn queue_unbind(
        &mut self,
        from: Origin,
        m: QueueUnbind<'_>,
        fx: &mut Effects,
    ) -> Result<(), AmqpError> {
        let (queue, key) = self.queue_and_key(from, &m.queue, &m.routing_key)?;
        let names = BindingNames {
            to_queue: true,
            destination: &queue,
            source: &strip(&m.exchange),
            routing_key: &key,
            arguments: &m.arguments,
        };
        let due = self.unbind_names(from, &names, fx)?;
        self.answer(from, due, QueueUnbindOk {}, fx);
        Ok(())
    }

    /// `queue.purge` (50, 30): removes the ready messages; unacked ones stay with their consumers.
    ///
    /// # Errors
    /// - `ACCESS_REFUSED`: no read right.
    /// - `NOT_FOUND`: no such queue.
    /// - `RESOURCE_LOCKED`: it is another connection's.
    pub(super) fn queue_purge(
        &mut self,
        from: Origin,
        m: QueuePurge<'_>,
        fx: &mut Effects,
    ) -> Result<(), AmqpError> {
        let name = self.expand_queue(from, &m.queue)?;
        self.permit(from.connection, Access::Read, self.queue_named(&name))?;
        let id = self.find_queue(&name)?;
        self.check_lock(from, id)?;
        let Some(queue) = self.queues.get_mut(id) else {
            return Ok(());
        };
        let durable = queue.durable;
        let places = if durable { queue.places() } else { Vec::new() };
        if let Some(deadlines) = &mut queue.deadlines {
            deadlines.forget_waiting();
        }
        let number = queue.logged.number;
        let ready = queue.len(); // some of them may be away
        let removed = queue.take_all();
        fx.swaps.extend(queue.logged.forget_swapped(id));
        if let Some((_, timer)) = queue.retries.as_mut().and_then(|r| r.timer.take()) {
            self.timers.cancel(timer);
        }
        self.work += scanned(removed.len());
        let message_count = count(ready);
        self.metrics.purged += ready as u64;
        let noted = self.noted_of_removal(&removed, fx);
        if !removed.is_empty() {
            fx.garbage.push(removed);
        }
        let mut due = if durable { self.removed } else { Lsn(0) };
        if !places.is_empty() {
            let fact = Fact::Purged {
                queue: number,
                places,
            };
            due = self.remove(std::iter::once(fact).chain(noted), fx);
        } else {
            self.record_all(noted, fx);
        }
        self.wake_getters(id);
        if !m.no_wait {
            self.answer(from, due, QueuePurgeOk { message_count }, fx);
        }
        Ok(())
    }

    /// `queue.delete` (50, 40): drops a queue with its bindings and messages and cancels its
    /// consumers.
    ///
    /// A queue that does not exist counts as deleted, as in RabbitMQ; the spec would have it be
    /// 404.
    ///
    /// # Errors
    /// - `ACCESS_REFUSED`: the user may not configure this name.
    /// - `RESOURCE_LOCKED`: another connection declared it exclusive.
    /// - `PRECONDITION_FAILED`: `if_unused` and it has consumers, or `if_empty` and it has ready
    ///   messages.
    pub(super) fn queue_delete(
        &mut self,
        from: Origin,
        m: QueueDelete<'_>,
        fx: &mut Effects,
    ) -> Result<(), AmqpError> {
        let name = self.expand_queue(from, &m.queue)?;
        let name = strip(&name);
        let named = self.queue_named(&name);
        self.permit(from.connection, Access::Configure, named)?;
        let id = self.queue_names.get(name.as_str()).copied();
        let mut ready = 0;
        if let Some(id) = id {
            self.check_lock(from, id)?;
            if let Some(queue) = self.queues.get(id) {
                ready = queue.len();
                if m.if_empty && ready > 0 {
                    return Err(AmqpError::precondition_failed(format_args!(
                        "{named} not empty"
                    )));
                }
                if m.if_unused && !queue.consumers.is_empty() {
                    return Err(AmqpError::precondition_failed(format_args!(
                        "{named} in use"
                    )));
                }
            }
        }
        let ok = QueueDeleteOk {
            message_count: count(ready),
        };
        let Some(id) = id else {
            if !m.no_wait {
                self.answer(from, self.removed, ok, fx);
            }
            return Ok(());
        };
        // Clients take it badly if the cancel of their own consumer overtakes the answer.
        let waits = !m.no_wait && self.queues.get(id).is_some_and(|queue| queue.durable);
        if waits {
            let ok = Outbound::Method {
                channel: from.number,
                method: Box::new(ok.into()),
            };
            self.park(from.key, vec![ok]);
        } else if !m.no_wait {
            fx.method(from.connection, from.number, ok);
        }
        self.delete_queue(id, fx);
        if waits {
            self.parked_until(from.key, self.lsn);
        }
        Ok(())
    }

    /// The queue a name stands for: an empty one means the last declared on this channel (404 if
    /// there is none).
    pub(super) fn expand_queue(&self, from: Origin, name: &str) -> Result<Arc<str>, AmqpError> {
        if !name.is_empty() {
            return Ok(Arc::from(name));
        }
        let last = self
            .channels
            .get(from.key)
            .and_then(|channel| channel.last_queue.clone());
        last.ok_or_else(|| {
            AmqpError::new(crate::ReplyCode::NotFound, "no previously declared queue")
        })
    }

    /// The short-hands of bind and unbind: no queue means the last one, no queue and no key means
    /// that its name is the key as well.
    fn queue_and_key(
        &self,
        from: Origin,
        queue: &str,
        key: &str,
    ) -> Result<(String, String), AmqpError> {
        let name = strip(&self.expand_queue(from, queue)?);
        let key = if queue.is_empty() && key.is_empty() {
            name.clone()
        } else {
            key.to_owned()
        };
        Ok((name, key))
    }

    /// 405 if the queue is exclusive to another connection.
    pub(super) fn check_lock(&self, from: Origin, id: QueueId) -> Result<(), AmqpError> {
        match self.queues.get(id) {
            Some(queue)
                if queue
                    .exclusive
                    .is_some_and(|owner| owner != from.connection) =>
            {
                Err(self.locked(&queue.name))
            }
            _ => Ok(()),
        }
    }

    fn locked(&self, name: &str) -> AmqpError {
        AmqpError::resource_locked(format_args!(
            "cannot obtain exclusive access to locked {}. It could be originally declared on another \
             connection or the exclusive property value does not match that of the original declaration.",
            self.queue_named(name)
        ))
    }
}

/// A count as the protocol carries it.
pub(super) fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

//! Class basic (60), but for publishing.

use std::sync::Arc;

use leveret_codec::{
    BasicCancel, BasicCancelOk, BasicConsume, BasicConsumeOk, BasicGet, BasicGetEmpty, BasicQos,
    BasicQosOk, BasicRecoverOk, FieldTable, ShortStr,
};

use crate::channel::transaction::TxSettle;
use crate::channel::unacked::Delivery;
use crate::channel::{Mode, ReplyConsumer};
use crate::connection::Origin;
use crate::consumer::{Consumer, Standing};
use crate::effect::{Effects, Outbound};
use crate::error::{AmqpError, Named};
use crate::input::{Command, Outcome};
use crate::method::publish::REPLY_TO;
use crate::method::queue::count;
use crate::permission::Access;
use crate::queue::Queue;
use crate::schedules::{note_consumed, note_delivery};
use crate::vhost::Vhost;

/// What a scheduler is told of a message that was fetched, in place of a consumer tag.
const GET_TAG: &str = "basic.get";

impl Vhost {
    /// `basic.qos` (60, 10): how many unsettled deliveries there may be.
    ///
    /// As in RabbitMQ, `global` off sets the limit of each consumer that starts later on this
    /// channel; on, one shared by all consumers of the channel from now on. 0 is no limit.
    ///
    /// # Errors
    /// `NOT_IMPLEMENTED`: a limit in octets.
    pub(super) fn basic_qos(
        &mut self,
        from: Origin,
        m: BasicQos,
        fx: &mut Effects,
    ) -> Result<(), AmqpError> {
        if m.prefetch_size != 0 {
            let why = format_args!("prefetch_size!=0 ({})", m.prefetch_size);
            return Err(AmqpError::not_implemented(why));
        }
        if let Some(channel) = self.channels.get_mut(from.key) {
            if m.global {
                channel.prefetch_shared = u32::from(m.prefetch_count);
            } else {
                channel.prefetch = u32::from(m.prefetch_count);
            }
        }
        fx.method(from.connection, from.number, BasicQosOk {});
        self.wake_held(from.key, fx);
        Ok(())
    }

    /// `basic.consume` (60, 20): starts a consumer.
    ///
    /// # Errors
    /// - `NOT_ALLOWED`: the tag is in use on this channel; too many consumers.
    /// - `ACCESS_REFUSED`: no read right; exclusive use is asked for or in force.
    /// - `NOT_FOUND`: no such queue.
    /// - `RESOURCE_LOCKED`: the queue is another connection's.
    /// - `PRECONDITION_FAILED`: a priority that is no integer.
    pub(super) fn basic_consume(
        &mut self,
        from: Origin,
        m: BasicConsume<'_>,
        fx: &mut Effects,
    ) -> Result<(), AmqpError> {
        let Some(channel) = self.channels.get(from.key) else {
            return Ok(());
        };
        let in_use = channel.consumers.contains_key(m.consumer_tag.as_str())
            || channel
                .reply
                .as_ref()
                .is_some_and(|reply| *reply.tag == *m.consumer_tag);
        if in_use && !m.consumer_tag.is_empty() {
            let why = format_args!("attempt to reuse consumer tag '{}'", m.consumer_tag);
            return Err(AmqpError::not_allowed(why));
        }
        let max = self.limits.consumers_per_channel_max;
        if channel.consumers.len() >= max {
            let why = format_args!("reached maximum ({max}) of consumers per channel");
            return Err(AmqpError::not_allowed(why));
        }
        if *m.queue == *REPLY_TO {
            return self.consume_replies(from, &m, fx);
        }
        let max = self.limits.consumers_max;
        if self.consumers.len() >= max {
            let vhost = &self.name;
            let why = format_args!("reached maximum ({max}) of consumers in vhost '{vhost}'");
            return Err(AmqpError::not_allowed(why));
        }
        let prefetch = channel.prefetch;
        let name = self.expand_queue(from, &m.queue)?;
        let named = self.queue_named(&name);
        self.permit(from.connection, Access::Read, named)?;
        let id = self.find_queue(&name)?;
        self.check_lock(from, id)?;
        let priority = consumer_priority(&m.arguments.parse(), named)?;
        if let Some(queue) = self.queues.get(id)
            && (queue.exclusive_consumer || m.exclusive && !queue.consumers.is_empty())
        {
            return Err(AmqpError::access_refused(format_args!(
                "{named} in exclusive use"
            )));
        }

        let tag = self.consumer_tag(&m.consumer_tag);
        let number = self.introduce_consumer(from, &tag, fx);
        let key = self.consumers.insert(Consumer {
            tag: Arc::clone(&tag),
            number,
            channel: from.key,
            queue: id,
            no_ack: m.no_ack,
            priority,
            prefetch,
            unacked: 0,
            standing: Standing::Blocked,
        });
        if let Some(queue) = self.queues.get_mut(id) {
            queue.consumers.push(key);
            queue.exclusive_consumer = m.exclusive;
        }
        if let Some(channel) = self.channels.get_mut(from.key) {
            channel.consumers.insert(Arc::clone(&tag), key);
        }
        if !m.no_wait {
            let consumer_tag = ShortStr::truncated(tag.to_string());
            fx.method(
                from.connection,
                from.number,
                BasicConsumeOk { consumer_tag },
            );
        }
        self.wake(key, fx);
        Ok(())
    }

    /// Consuming from `amq.rabbitmq.reply-to`: replies to this channel's requests come straight to
    /// it, through no queue.
    fn consume_replies(
        &mut self,
        from: Origin,
        m: &BasicConsume<'_>,
        fx: &mut Effects,
    ) -> Result<(), AmqpError> {
        if !m.no_ack {
            return Err(AmqpError::precondition_failed(
                "reply consumer cannot acknowledge",
            ));
        }
        if self
            .channels
            .get(from.key)
            .is_some_and(|channel| channel.reply.is_some())
        {
            return Err(AmqpError::precondition_failed("reply consumer already set"));
        }
        let tag = self.consumer_tag(&m.consumer_tag);
        let number = self.introduce_consumer(from, &tag, fx);
        let address = self.random_name("amq.rabbitmq.reply-to.");
        self.replies.insert(Arc::clone(&address), from.key);
        if let Some(channel) = self.channels.get_mut(from.key) {
            channel.reply = Some(ReplyConsumer {
                tag: Arc::clone(&tag),
                number,
                address,
            });
        }
        if !m.no_wait {
            let consumer_tag = ShortStr::truncated(tag.to_string());
            fx.method(
                from.connection,
                from.number,
                BasicConsumeOk { consumer_tag },
            );
        }
        Ok(())
    }

    fn consumer_tag(&mut self, wanted: &str) -> Arc<str> {
        if wanted.is_empty() {
            self.random_name("amq.ctag-")
        } else {
            Arc::from(wanted)
        }
    }

    /// Gives the consumer a number and tells the connection's writer about it.
    fn introduce_consumer(&mut self, from: Origin, tag: &Arc<str>, fx: &mut Effects) -> u32 {
        let connection = self.connections.get_mut(from.connection);
        let number = connection
            .map(|c| c.take_consumer_number())
            .unwrap_or_default();
        fx.send(
            from.connection,
            Outbound::Consumer {
                number,
                tag: Arc::clone(tag),
            },
        );
        number
    }

    /// `basic.cancel` (60, 30): ends a consumer. An unknown tag is fine.
    pub(super) fn basic_cancel(
        &mut self,
        from: Origin,
        m: BasicCancel<'_>,
        fx: &mut Effects,
    ) -> Result<(), AmqpError> {
        let mut queues = Vec::new();
        if let Some(channel) = self.channels.get_mut(from.key) {
            if let Some(&key) = channel.consumers.get(m.consumer_tag.as_str()) {
                queues = self.end_consumers(&[key]);
            } else if let Some(reply) = channel.reply.take_if(|reply| *reply.tag == *m.consumer_tag)
            {
                self.replies.remove(&reply.address);
                if let Some(connection) = self.connections.get_mut(from.connection) {
                    connection.free_consumer_number(reply.number);
                }
            }
        }
        if !m.no_wait {
            let consumer_tag = m.consumer_tag.into_owned();
            fx.method(from.connection, from.number, BasicCancelOk { consumer_tag });
        }
        for queue in queues {
            self.delete_if_unused(queue, fx);
        }
        Ok(())
    }

    /// `basic.get` (60, 70): fetches one message; no prefetch applies.
    ///
    /// # Errors
    /// - `ACCESS_REFUSED`: no read right.
    /// - `NOT_FOUND`: no such queue.
    /// - `RESOURCE_LOCKED`: it is another connection's.
    pub(super) fn basic_get(
        &mut self,
        from: Origin,
        m: BasicGet<'static>,
        fx: &mut Effects,
    ) -> Result<(), AmqpError> {
        let name = self.expand_queue(from, &m.queue)?;
        self.permit(from.connection, Access::Read, self.queue_named(&name))?;
        let id = self.find_queue(&name)?;
        self.check_lock(from, id)?;
        self.touch_queue(id);
        while self.has_expired(id) {
            self.expire_messages(id, fx);
        }
        if self.queues.get(id).is_some_and(Queue::is_stalled) {
            // Nothing is to be had before the log has said something.
            self.look_ahead(id, fx);
            let again = Command::Method {
                channel: from.number,
                method: Box::new(m.into()),
            };
            self.park_for_queue(from, id, again);
            return Ok(());
        }
        let (Some(queue), Some(channel)) =
            (self.queues.get_mut(id), self.channels.get_mut(from.key))
        else {
            return Ok(());
        };
        let Some(mut entry) = queue.take_front(m.no_ack) else {
            self.metrics.get_empty += 1;
            fx.method(from.connection, from.number, BasicGetEmpty::default());
            return Ok(());
        };
        let redelivered = entry.deliveries > 0;
        self.metrics.redelivered += u64::from(redelivered);
        let delivery_tag = channel.next_tag();
        let message_count = count(queue.index.len());
        note_delivery(&mut self.news, &entry.message, GET_TAG);
        let message = queue.shown(entry.message.clone(), entry.failures);
        if m.no_ack {
            self.metrics.got_auto += 1;
            let settled = queue.keeps(&message).then(|| queue.settled(entry.seq));
            if let Some(fact) = note_consumed(&mut self.news, &entry.message, settled) {
                self.record(fact, fx);
            }
        } else {
            self.metrics.got_manual += 1;
            entry.deliveries = entry.deliveries.saturating_add(1);
            queue.unacked += 1;
            channel.unacked.push(
                delivery_tag,
                Delivery {
                    queue: id,
                    consumer: None,
                    entry,
                    at: self.now.mono,
                },
            );
            let others_ms = self.limits.consumer_timeout_ms;
            let due = self
                .now
                .mono
                .plus_ms(queue.rules.consumer_timeout_ms(others_ms));
            self.timers
                .look_at_unsettled(&mut channel.timer, due, from.key);
        }
        let ok = Outbound::GetOk {
            channel: from.number,
            redelivered,
            delivery_tag,
            message_count,
            message,
        };
        fx.send(from.connection, ok);
        if self.queues.get(id).is_some_and(|q| !q.consumers.is_empty()) {
            self.look_ahead(id, fx);
        }
        Ok(())
    }

    /// `basic.ack` (60, 80), `basic.reject` (60, 90) and `basic.nack` (60, 120).
    ///
    /// # Errors
    /// `PRECONDITION_FAILED`: no such delivery waits to be settled on this channel.
    pub(super) fn basic_settle(
        &mut self,
        from: Origin,
        delivery_tag: u64,
        multiple: bool,
        outcome: Outcome,
        fx: &mut Effects,
    ) -> Result<(), AmqpError> {
        let Some(channel) = self.channels.get_mut(from.key) else {
            return Ok(());
        };
        if !multiple {
            let delivery = channel
                .unacked
                .take(delivery_tag)
                .ok_or_else(|| unknown(delivery_tag))?;
            if matches!(channel.mode, Mode::Tx(_)) || outcome != Outcome::Ack {
                self.settle_or_hold(from, vec![(delivery_tag, delivery)], outcome, fx);
            } else {
                self.discard(from.key, delivery, outcome, fx);
            }
            return Ok(());
        }
        let deliveries = match delivery_tag {
            0 => channel.unacked.take_all(),
            tag if channel.unacked.contains(tag) => channel.unacked.take_through(tag),
            tag => return Err(unknown(tag)),
        };
        self.settle_or_hold(from, deliveries, outcome, fx);
        Ok(())
    }

    /// Settles now, or at `tx.commit` on a transactional channel.
    fn settle_or_hold(
        &mut self,
        from: Origin,
        deliveries: Vec<(u64, Delivery)>,
        outcome: Outcome,
        fx: &mut Effects,
    ) {
        if let Some(channel) = self.channels.get_mut(from.key)
            && let Mode::Tx(tx) = &mut channel.mode
        {
            tx.settles.push(TxSettle {
                outcome,
                deliveries,
            });
        } else {
            self.settle(from.key, deliveries, outcome, fx);
        }
    }

    /// `basic.recover` (60, 110) and `basic.recover-async` (60, 100): puts all unsettled
    /// deliveries of the channel back.
    ///
    /// # Errors
    /// `NOT_IMPLEMENTED`: delivering them again to the same consumers (`requeue` off).
    pub(super) fn basic_recover(
        &mut self,
        from: Origin,
        requeue: bool,
        reply: bool,
        fx: &mut Effects,
    ) -> Result<(), AmqpError> {
        if !requeue {
            return Err(AmqpError::not_implemented("requeue=false"));
        }
        let deliveries = self
            .channels
            .get_mut(from.key)
            .map(|channel| channel.unacked.take_all());
        if reply {
            fx.method(from.connection, from.number, BasicRecoverOk {});
        }
        let outcome = Outcome::Nack { requeue: true };
        self.settle(from.key, deliveries.unwrap_or_default(), outcome, fx);
        Ok(())
    }
}

fn unknown(delivery_tag: u64) -> AmqpError {
    AmqpError::precondition_failed(format_args!("unknown delivery tag {delivery_tag}"))
}

/// `x-priority` of a consumer: any integer, 0 if absent; beyond 32 bits it counts as the extreme.
fn consumer_priority(arguments: &FieldTable, queue: Named<'_>) -> Result<i32, AmqpError> {
    let Some(value) = arguments.get("x-priority") else {
        return Ok(0);
    };
    let Some(priority) = value.as_i64() else {
        return Err(AmqpError::precondition_failed(format_args!(
            "invalid arg 'x-priority' for {queue}: \"expected integer, got {}\"",
            value.amqp_type_name()
        )));
    };
    let clamped = priority.clamp(i64::from(i32::MIN), i64::from(i32::MAX));
    Ok(i32::try_from(clamped).unwrap_or_default())
}

//! What the broker does for each command: one exhaustive match, the handlers beside their class.
//!
//! A handler checks everything before it changes anything, so a refused method leaves no trace but
//! the closed channel.

mod basic;
mod exchange;
mod publish;
mod queue;
mod tx;

pub(crate) use publish::{check_properties, take_copies};

use leveret_codec::{
    AccessRequestOk, ChannelFlowOk, ChannelOpenOk, ConfirmSelectOk, ConnectionCloseOk, Method,
};

use crate::channel::Mode;
use crate::channel::confirms::Confirms;
use crate::connection::{Origin, Slot};
use crate::delivery::Counts;
use crate::effect::Effects;
use crate::error::AmqpError;
use crate::ids::ConnectionId;
use crate::input::Command;
use crate::vhost::Vhost;

/// `basic.publish`, for close frames about a content.
const BASIC_PUBLISH: (u16, u16) = (60, 40);

impl Vhost {
    /// Obeys the commands of a connection, or as many as make up `budget` of work.
    pub(crate) fn commands(
        &mut self,
        from: ConnectionId,
        commands: &mut impl Iterator<Item = Command>,
        budget: u64,
        fx: &mut Effects,
    ) {
        let end = self.work.saturating_add(budget);
        while self.work < end
            && let Some(command) = commands.next()
        {
            self.work += 1;
            self.command(from, command, fx);
        }
    }

    /// Takes one command of a connection. What comes after `connection.close` is dropped.
    fn command(&mut self, from: ConnectionId, command: Command, fx: &mut Effects) {
        if self
            .connections
            .get(from)
            .is_some_and(|connection| !(connection.closing || connection.close_asked))
        {
            self.obey(from, command, fx);
        }
    }

    /// Obeys one command of a connection that is not closing, or refuses it, or keeps it for later.
    pub(crate) fn obey(&mut self, from: ConnectionId, command: Command, fx: &mut Effects) {
        let Some(command) = self.keep_for_later(from, command, fx) else {
            return;
        };
        let (number, id, result) = match command {
            Command::Publish {
                channel,
                mandatory,
                message,
            } => {
                let Some(origin) = self.origin(from, channel) else {
                    return;
                };
                (
                    channel,
                    BASIC_PUBLISH,
                    self.publish(origin, mandatory, message, fx),
                )
            }
            Command::Settle {
                channel,
                delivery_tag,
                multiple,
                outcome,
            } => {
                let Some(origin) = self.origin(from, channel) else {
                    return;
                };
                let result = self.basic_settle(origin, delivery_tag, multiple, outcome, fx);
                (channel, outcome.method_id(), result)
            }
            Command::Method { channel, method } => (
                channel,
                method.id(),
                self.method(from, channel, *method, fx),
            ),
            Command::Refuse { channel, error } => {
                if self.origin(from, channel).is_none() {
                    return; // closing already: one refusal is enough
                }
                (channel, error.method, Err(*error))
            }
        };
        if let Err(error) = result {
            self.refuse(from, number, error.of_method(id), fx);
        }
        self.bury(fx);
    }

    /// Methods about the connection and its channels as such.
    fn method(
        &mut self,
        from: ConnectionId,
        number: u16,
        method: Method<'static>,
        fx: &mut Effects,
    ) -> Result<(), AmqpError> {
        match method {
            Method::ConnectionClose(_) => {
                self.abandon(from, Counts::AsFailed, fx);
                fx.method(from, 0, ConnectionCloseOk {});
                Ok(())
            }
            Method::ChannelOpen(_) => {
                if self.channel_slot(from, number) == Slot::Closing {
                    return Ok(());
                }
                self.open_channel(from, number)?;
                fx.method(from, number, ChannelOpenOk::default());
                Ok(())
            }
            Method::ChannelClose(_) => {
                self.close_channel(from, number, fx);
                Ok(())
            }
            Method::ChannelCloseOk(_) => {
                match (
                    self.channel_slot(from, number),
                    self.connections.get_mut(from),
                ) {
                    // The session has forgotten the channel, so it cannot go on.
                    (Slot::Open(_), _) => {
                        return Err(AmqpError::command_invalid("unimplemented method"));
                    }
                    (Slot::Closing, Some(connection)) => {
                        connection.set_channel(number, Slot::Closed);
                    }
                    _ => {} // both sides closed it at once
                }
                Ok(())
            }
            method => match self.origin(from, number) {
                Some(origin) => self.channel_method(origin, method, fx),
                None => Ok(()), // closing: dropped until the client agrees
            },
        }
    }

    fn channel_slot(&self, connection: ConnectionId, number: u16) -> Slot {
        self.connections
            .get(connection)
            .map(|c| c.channel(number))
            .unwrap_or_default()
    }

    /// Methods of an open channel. Every method of the protocol is here.
    fn channel_method(
        &mut self,
        from: Origin,
        method: Method<'static>,
        fx: &mut Effects,
    ) -> Result<(), AmqpError> {
        match method {
            Method::ChannelFlow(m) => self.channel_flow(from, m.active, fx),
            // Answers to what we said; there is nothing to wait for.
            Method::ChannelFlowOk(_) | Method::BasicCancelOk(_) => Ok(()),
            Method::AccessRequest(_) => {
                fx.method(from.connection, from.number, AccessRequestOk { ticket: 1 });
                Ok(())
            }

            Method::ExchangeDeclare(m) => self.exchange_declare(from, m, fx),
            Method::ExchangeDelete(m) => self.exchange_delete(from, m, fx),
            Method::ExchangeBind(m) => self.exchange_bind(from, m, fx),
            Method::ExchangeUnbind(m) => self.exchange_unbind(from, m, fx),

            Method::QueueDeclare(m) => self.queue_declare(from, m, fx),
            Method::QueueBind(m) => self.queue_bind(from, m, fx),
            Method::QueueUnbind(m) => self.queue_unbind(from, m, fx),
            Method::QueuePurge(m) => self.queue_purge(from, m, fx),
            Method::QueueDelete(m) => self.queue_delete(from, m, fx),

            Method::BasicQos(m) => self.basic_qos(from, m, fx),
            Method::BasicConsume(m) => self.basic_consume(from, m, fx),
            Method::BasicCancel(m) => self.basic_cancel(from, m, fx),
            Method::BasicGet(m) => self.basic_get(from, m, fx),
            Method::BasicRecover(m) => self.basic_recover(from, m.requeue, true, fx),
            Method::BasicRecoverAsync(m) => self.basic_recover(from, m.requeue, false, fx),

            Method::ConfirmSelect(m) => self.confirm_select(from, m.no_wait, fx),
            Method::TxSelect(_) => self.tx_select(from, fx),
            Method::TxCommit(_) => self.tx_commit(from, fx),
            Method::TxRollback(_) => self.tx_rollback(from, fx),

            // The session makes commands of their own out of these.
            Method::BasicPublish(_)
            | Method::BasicAck(_)
            | Method::BasicNack(_)
            | Method::BasicReject(_)
            // Handled before the channel is looked at.
            | Method::ChannelOpen(_)
            | Method::ChannelClose(_)
            | Method::ChannelCloseOk(_)
            // Of the connection, or only ever sent by a server.
            | Method::ConnectionStart(_)
            | Method::ConnectionStartOk(_)
            | Method::ConnectionSecure(_)
            | Method::ConnectionSecureOk(_)
            | Method::ConnectionTune(_)
            | Method::ConnectionTuneOk(_)
            | Method::ConnectionOpen(_)
            | Method::ConnectionOpenOk(_)
            | Method::ConnectionClose(_)
            | Method::ConnectionCloseOk(_)
            | Method::ConnectionBlocked(_)
            | Method::ConnectionUnblocked(_)
            | Method::ConnectionUpdateSecret(_)
            | Method::ConnectionUpdateSecretOk(_)
            | Method::ChannelOpenOk(_)
            | Method::AccessRequestOk(_)
            | Method::ExchangeDeclareOk(_)
            | Method::ExchangeDeleteOk(_)
            | Method::ExchangeBindOk(_)
            | Method::ExchangeUnbindOk(_)
            | Method::QueueDeclareOk(_)
            | Method::QueueBindOk(_)
            | Method::QueueUnbindOk(_)
            | Method::QueuePurgeOk(_)
            | Method::QueueDeleteOk(_)
            | Method::BasicQosOk(_)
            | Method::BasicConsumeOk(_)
            | Method::BasicReturn(_)
            | Method::BasicDeliver(_)
            | Method::BasicGetOk(_)
            | Method::BasicGetEmpty(_)
            | Method::BasicRecoverOk(_)
            | Method::ConfirmSelectOk(_)
            | Method::TxSelectOk(_)
            | Method::TxCommitOk(_)
            | Method::TxRollbackOk(_) => Err(AmqpError::command_invalid("unimplemented method")),
        }
    }

    /// `channel.flow` (20, 20): whether the channel wants deliveries. It always does.
    ///
    /// # Errors
    /// `NOT_IMPLEMENTED`: to stop them, as in RabbitMQ; the suites of client libraries look for
    /// that answer.
    fn channel_flow(&self, from: Origin, active: bool, fx: &mut Effects) -> Result<(), AmqpError> {
        if !active {
            return Err(AmqpError::not_implemented("active=false"));
        }
        fx.method(from.connection, from.number, ChannelFlowOk { active });
        Ok(())
    }

    /// `confirm.select` (85, 10): publishes on this channel are confirmed from here on.
    ///
    /// # Errors
    /// `PRECONDITION_FAILED`: the channel is transactional.
    fn confirm_select(
        &mut self,
        from: Origin,
        no_wait: bool,
        fx: &mut Effects,
    ) -> Result<(), AmqpError> {
        let Some(channel) = self.channels.get_mut(from.key) else {
            return Ok(());
        };
        match channel.mode {
            Mode::Plain => {
                channel.mode = Mode::Confirm(Confirms::default());
            }
            Mode::Confirm(_) => {}
            Mode::Tx(_) => {
                return Err(AmqpError::precondition_failed(
                    "cannot switch from tx to confirm mode",
                ));
            }
        }
        if !no_wait {
            fx.method(from.connection, from.number, ConfirmSelectOk {});
        }
        Ok(())
    }
}

/// Carriage returns and line feeds do not belong into names; RabbitMQ removes them.
fn strip(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '\r' | '\n')).collect()
}

/// Names that start with `amq.` are the server's.
const RESERVED_PREFIX: &str = "amq.";

//! An open connection: which channels are open, and which frames may come on them.
//!
//! A channel is open from `channel.open` until `channel.close` or `channel.close-ok`, here as in
//! the core, which sees all three. The core may close a channel in between: then what the client
//! had already sent is still assembled here and dropped there, until its close-ok. What is refused
//! here is dropped here, also until then.

use leveret_codec::{
    BasicAck, BasicDeliver, BasicGetOk, BasicNack, BasicPublish, BasicReject, BasicReturn,
    ChannelClose, ChannelCloseOk, ChannelOpen, ConnectionClose, ConnectionStart,
    ConnectionUpdateSecret, DecodeError, FRAME_BODY, FRAME_HEADER, FRAME_HEARTBEAT, FRAME_METHOD,
    Method, RawFrame,
};
use leveret_core::{AmqpError, Command, Outcome, Scope};

use crate::assembler::Assembly;
use crate::closing::Failure;
use crate::frames::{Frames, misplaced_frame, split_method, undecodable_method};
use crate::limits::Limits;
use crate::sasl::Secret;
use crate::session::Received;

/// The channels of a connection. Takes 24 octets for each one that is open.
#[derive(Debug, Default)]
pub(crate) struct Channels {
    open: Vec<Channel>, // by number
    /// Octets held of contents of which a header has come and the end has not.
    unfinished_bytes: usize,
}

#[derive(Debug)]
struct Channel {
    number: u16,
    state: State,
}

#[derive(Debug)]
enum State {
    Open(Assembly),
    /// Refused by the session: everything is discarded until the client closes it.
    Refused,
}

/// Why [`Channels::receive`] takes no more frames.
#[derive(Debug)]
pub(crate) enum Pause {
    /// There is no other whole frame.
    Starved,
    /// The client closes the connection; the core has been told.
    ClosedByClient,
    /// The client has a new password or token.
    NewSecret(Secret),
}

impl Channels {
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// Takes frames and makes commands of them.
    ///
    /// # Errors
    /// Whatever closes the connection. What closes a channel alone is a [`Command::Refuse`].
    pub(crate) fn receive(
        &mut self,
        frames: &mut Frames<'_>,
        limits: &Limits,
        out: &mut Received,
    ) -> Result<Pause, Failure> {
        while let Some(frame) = frames.next()? {
            match (frame.kind, frame.channel) {
                (FRAME_METHOD, 0) => match connection_method(&frame, out)? {
                    Pause::Starved => {}
                    pause => return Ok(pause),
                },
                (FRAME_METHOD, _) => self.method(&frame, frames, limits, out)?,
                (FRAME_HEADER | FRAME_BODY, 1..) => self.content(&frame, limits, out)?,
                (FRAME_HEARTBEAT, 0) if frame.payload.is_empty() => {}
                _ => return Err(misplaced_frame(&frame)),
            }
        }
        Ok(Pause::Starved)
    }

    #[inline]
    fn method(
        &mut self,
        frame: &RawFrame<'_>,
        frames: &mut Frames<'_>,
        limits: &Limits,
        out: &mut Received,
    ) -> Result<(), Failure> {
        let (id, arguments) = split_method(frame)?;
        let at = match self.find(frame.channel) {
            Ok(at) => at,
            Err(at) => return self.method_on_closed_channel(at, id, frame, limits, out),
        };
        let assembly = match &mut self.open[at].state {
            // The answer to a close that the core has sent may come between any two frames.
            _ if id == ChannelCloseOk::ID => return self.close(at, frame, out),
            State::Refused if id == ChannelClose::ID => return self.close(at, frame, out),
            State::Refused => return Ok(()),
            State::Open(assembly) => assembly,
        };
        if !matches!(assembly, Assembly::Method) {
            return Err(assembly.expected());
        }
        match id {
            BasicPublish::ID => assembly.publish(frame, arguments, frames, limits, out),
            BasicAck::ID | BasicNack::ID | BasicReject::ID => {
                let settle = settle(frame.channel, id, arguments)
                    .map_err(|error| undecodable_method(&error, frame.payload))?;
                out.commands.push(settle);
                Ok(())
            }
            ChannelClose::ID => self.close(at, frame, out),
            // With contents that only servers send.
            BasicDeliver::ID | BasicGetOk::ID | BasicReturn::ID => Err(unimplemented(id)),
            (class_id, _) if class_id == ConnectionStart::ID.0 => Err(unimplemented(id)),
            _ => forward(frame, out),
        }
    }

    fn method_on_closed_channel(
        &mut self,
        at: usize,
        id: (u16, u16),
        frame: &RawFrame<'_>,
        limits: &Limits,
        out: &mut Received,
    ) -> Result<(), Failure> {
        match id {
            ChannelOpen::ID => {
                if self.open.len() >= usize::from(limits.channel_max) {
                    return Err(too_many_channels(limits.channel_max));
                }
                forward(frame, out)?;
                let state = State::Open(Assembly::default());
                self.open.insert(
                    at,
                    Channel {
                        number: frame.channel,
                        state,
                    },
                );
                Ok(())
            }
            // Both sides closed it at once: the client's close has ended it here, and this is the
            // answer to the core's.
            ChannelCloseOk::ID => forward(frame, out),
            _ => Err(channel_not_open(id)),
        }
    }

    fn content(
        &mut self,
        frame: &RawFrame<'_>,
        limits: &Limits,
        out: &mut Received,
    ) -> Result<(), Failure> {
        let Ok(at) = self.find(frame.channel) else {
            return Err(Assembly::Method.expected());
        };
        let channel = &mut self.open[at];
        let State::Open(assembly) = &mut channel.state else {
            return Ok(());
        };
        let before = assembly.unfinished_bytes();
        let outcome = assembly.content(frame, limits, out);
        self.unfinished_bytes += assembly.unfinished_bytes();
        self.unfinished_bytes -= before;
        if self.unfinished_bytes as u64 > limits.unfinished_bytes_max() {
            return Err(too_much_unfinished(limits.unfinished_bytes_max()));
        }
        match outcome {
            Err(Failure::Refused(error)) if error.code.scope() == Scope::Channel => {
                channel.state = State::Refused;
                let error = Box::new(error);
                out.commands.push(Command::Refuse {
                    channel: frame.channel,
                    error,
                });
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Forgets a channel and tells the core why.
    fn close(
        &mut self,
        at: usize,
        frame: &RawFrame<'_>,
        out: &mut Received,
    ) -> Result<(), Failure> {
        forward(frame, out)?;
        if let State::Open(assembly) = self.open.remove(at).state {
            self.unfinished_bytes -= assembly.unfinished_bytes();
        }
        Ok(())
    }

    /// Where a channel is, or would be.
    #[inline]
    fn find(&self, number: u16) -> Result<usize, usize> {
        // Clients count channels from 1 and use the lowest that is free.
        let guess = usize::from(number).wrapping_sub(1);
        match self.open.get(guess) {
            Some(channel) if channel.number == number => Ok(guess),
            _ => self
                .open
                .binary_search_by_key(&number, |channel| channel.number),
        }
    }
}

/// A method on channel 0 while the connection is open.
fn connection_method(frame: &RawFrame<'_>, out: &mut Received) -> Result<Pause, Failure> {
    let (id, arguments) = split_method(frame)?;
    match id {
        ConnectionClose::ID => forward(frame, out).map(|()| Pause::ClosedByClient),
        ConnectionUpdateSecret::ID => ConnectionUpdateSecret::parse_args(arguments)
            .map(|update| Pause::NewSecret(Secret::from(&*update.new_secret)))
            .map_err(|error| undecodable_method(&error, frame.payload).into()),
        _ => {
            let why = "unexpected method in connection state running";
            Err(AmqpError::channel_error(why).of_method(id).into())
        }
    }
}

/// Passes a method on to the core as it is.
fn forward(frame: &RawFrame<'_>, out: &mut Received) -> Result<(), Failure> {
    let method = Method::parse(frame.payload)
        .map_err(|error| undecodable_method(&error, frame.payload))?
        .into_owned();
    out.commands.push(Command::Method {
        channel: frame.channel,
        method: Box::new(method),
    });
    Ok(())
}

/// The three methods that settle deliveries are too many to be boxed.
#[inline]
fn settle(channel: u16, id: (u16, u16), arguments: &[u8]) -> Result<Command, DecodeError> {
    let (delivery_tag, multiple, outcome) = match id {
        BasicAck::ID => {
            let ack = BasicAck::parse_args(arguments)?;
            (ack.delivery_tag, ack.multiple, Outcome::Ack)
        }
        BasicNack::ID => {
            let nack = BasicNack::parse_args(arguments)?;
            (
                nack.delivery_tag,
                nack.multiple,
                Outcome::Nack {
                    requeue: nack.requeue,
                },
            )
        }
        _ => {
            let reject = BasicReject::parse_args(arguments)?;
            (
                reject.delivery_tag,
                false,
                Outcome::Reject {
                    requeue: reject.requeue,
                },
            )
        }
    };
    Ok(Command::Settle {
        channel,
        delivery_tag,
        multiple,
        outcome,
    })
}

#[cold]
fn unimplemented(id: (u16, u16)) -> Failure {
    AmqpError::command_invalid("unimplemented method")
        .of_method(id)
        .into()
}

#[cold]
fn channel_not_open(id: (u16, u16)) -> Failure {
    AmqpError::channel_error("expected 'channel.open'")
        .of_method(id)
        .into()
}

/// RabbitMQ counts channels that are open, whatever their numbers, and so do we.
#[cold]
fn too_many_channels(channel_max: u16) -> Failure {
    AmqpError::not_allowed(format_args!(
        "number of channels opened ({channel_max}) has reached the negotiated channel_max \
         ({channel_max})"
    ))
    .into()
}

/// RabbitMQ has no such limit; the code is what the specification has for it.
#[cold]
fn too_much_unfinished(limit: u64) -> Failure {
    AmqpError::resource_error(format_args!(
        "contents that are not complete take more than {limit} octets"
    ))
    .of_method(BasicPublish::ID)
    .into()
}

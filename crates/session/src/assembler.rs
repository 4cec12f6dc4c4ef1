//! The content of one channel: a `basic.publish`, its header, its body.
//!
//! Nearly always all of it is in one read, and then no state is kept at all: the message is built
//! straight from the read buffer. What arrives in pieces goes through [`Assembly`] and gives the
//! same message.

use leveret_codec::{
    BasicPublish, DecodeError, FRAME_BODY, FRAME_HEADER, RawFrame, ShortStr, parse_content_header,
};
use leveret_core::{AmqpError, Command, Draft, Message};

use crate::closing::Failure;
use crate::frames::{Frames, undecodable_method, unknown_frame};
use crate::limits::{BODY_SIZE_CAP, Limits};
use crate::session::Received;

/// Octets of a content header before its properties, flag word not included.
const HEADER_SIZE_MIN: usize = 12;

/// What a channel waits for.
#[derive(Debug, Default)]
pub(crate) enum Assembly {
    /// Any method.
    #[default]
    Method,
    /// The header of a content.
    Header(Box<Envelope>),
    /// More of its body.
    Body(Box<Unfinished>),
}

/// A `basic.publish` whose content has not begun.
#[derive(Debug)]
pub(crate) struct Envelope {
    exchange: ShortStr<'static>,
    routing_key: ShortStr<'static>,
    mandatory: bool,
}

/// A message whose body is not all there.
#[derive(Debug)]
pub(crate) struct Unfinished {
    draft: Draft,
    mandatory: bool,
}

impl Unfinished {
    /// Passes the message on, with the last of its body.
    fn publish(self, channel: u16, last: &[u8], out: &mut Received) {
        let Self { draft, mandatory } = self;
        let message = draft.finish(last);
        out.commands.push(Command::Publish {
            channel,
            mandatory,
            message,
        });
    }
}

impl Assembly {
    /// Takes a `basic.publish`, and its content too if that comes next and is whole.
    ///
    /// # Errors
    /// Those of the method itself; what is wrong with the content shows when its frames are taken.
    #[inline]
    pub(crate) fn publish(
        &mut self,
        method: &RawFrame<'_>,
        arguments: &[u8],
        frames: &mut Frames<'_>,
        limits: &Limits,
        out: &mut Received,
    ) -> Result<(), Failure> {
        let publish = BasicPublish::parse_args(arguments)
            .map_err(|error| undecodable_method(&error, method.payload))?;
        if publish.immediate {
            let error = AmqpError::not_implemented("immediate=true");
            return Err(error.of_method(BasicPublish::ID).into());
        }
        let BasicPublish {
            exchange,
            routing_key,
            mandatory,
            ..
        } = publish;
        let Some((header, body)) = frames.take_content(method.channel, limits.message_size_max)
        else {
            *self = Self::Header(Box::new(Envelope {
                exchange: exchange.into_owned(),
                routing_key: routing_key.into_owned(),
                mandatory,
            }));
            return Ok(());
        };
        let message = Message::build(&mut out.scratch, &exchange, &routing_key, &header, body);
        out.commands.push(Command::Publish {
            channel: method.channel,
            mandatory,
            message,
        });
        Ok(())
    }

    /// Takes a header or body frame.
    ///
    /// # Errors
    /// If it is not what the channel waits for, or cannot be read.
    pub(crate) fn content(
        &mut self,
        frame: &RawFrame<'_>,
        limits: &Limits,
        out: &mut Received,
    ) -> Result<(), Failure> {
        if frame.kind == FRAME_HEADER && frame.payload.len() < HEADER_SIZE_MIN {
            return Err(unknown_frame(frame));
        }
        match (std::mem::take(self), frame.kind) {
            (Self::Header(envelope), FRAME_HEADER) => self.header(*envelope, frame, limits, out),
            (Self::Body(unfinished), FRAME_BODY) => self.body(unfinished, frame, out),
            (other, _) => Err(other.expected()),
        }
    }

    /// Octets held of a content whose header has come and whose end has not.
    pub(crate) fn unfinished_bytes(&self) -> usize {
        match self {
            Self::Method | Self::Header(_) => 0,
            Self::Body(unfinished) => unfinished.draft.held_bytes(),
        }
    }

    /// 505 for a frame other than the one that is waited for.
    #[cold]
    pub(crate) fn expected(&self) -> Failure {
        match self {
            Self::Method => {
                AmqpError::unexpected_frame("expected method frame, got non method frame instead")
            }
            Self::Header(_) => AmqpError::unexpected_frame(
                "expected content header for class 60, got non content header frame instead",
            )
            .of_method(BasicPublish::ID),
            Self::Body(_) => AmqpError::unexpected_frame(
                "expected content body, got non content body frame instead",
            )
            .of_method(BasicPublish::ID),
        }
        .into()
    }

    fn header(
        &mut self,
        envelope: Envelope,
        frame: &RawFrame<'_>,
        limits: &Limits,
        out: &mut Received,
    ) -> Result<(), Failure> {
        let header =
            parse_content_header(frame.payload).map_err(|error| undecodable_header(&error))?;
        judge_body_size(header.body_size, limits.message_size_max)?;
        let Envelope {
            exchange,
            routing_key,
            mandatory,
        } = envelope;
        let draft = Draft::new(&exchange, &routing_key, &header);
        let unfinished = Unfinished { draft, mandatory };
        if unfinished.draft.missing() > 0 {
            *self = Self::Body(Box::new(unfinished));
        } else {
            unfinished.publish(frame.channel, &[], out);
        }
        Ok(())
    }

    fn body(
        &mut self,
        mut unfinished: Box<Unfinished>,
        frame: &RawFrame<'_>,
        out: &mut Received,
    ) -> Result<(), Failure> {
        if unfinished.draft.missing() == frame.payload.len() as u64 {
            unfinished.publish(frame.channel, frame.payload, out);
        } else if unfinished.draft.push(frame.payload) {
            *self = Self::Body(unfinished);
        } else {
            return Err(AmqpError::frame_error(
                "content body frame exceeds remaining content size",
            )
            .of_method(BasicPublish::ID)
            .into());
        }
        Ok(())
    }
}

/// Judges a body by what its header announces, before a single octet of it is kept.
fn judge_body_size(size: u64, configured: u64) -> Result<(), AmqpError> {
    let refusal = if size > BODY_SIZE_CAP {
        AmqpError::frame_error(format_args!(
            "content body size {size} exceeds maximum allowed size {BODY_SIZE_CAP}"
        ))
    } else if size > configured {
        AmqpError::precondition_failed(format_args!(
            "message size {size} is larger than configured max size {configured}"
        ))
    } else {
        return Ok(());
    };
    Err(refusal.of_method(BasicPublish::ID))
}

#[cold]
fn undecodable_header(error: &DecodeError) -> AmqpError {
    match error {
        DecodeError::BadContentClass { class_id } => AmqpError::unexpected_frame(format_args!(
            "expected content header for class 60, got one for class {class_id} instead"
        )),
        DecodeError::BadContentWeight { .. } => AmqpError::unexpected_frame(
            "expected content header for class 60, got non content header frame instead",
        ),
        // RabbitMQ only looks at properties later, and then calls it its own internal error.
        other => AmqpError::syntax_error(other),
    }
    .of_method(BasicPublish::ID)
}

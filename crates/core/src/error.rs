//! Refusals that a peer gets to see, with the reply codes of AMQP 0-9-1 and RabbitMQ's texts.
//!
//! Clients match on the texts, so they are RabbitMQ's to the letter and start with the constant.

use std::fmt::{self, Write as _};

/// A refusal: it becomes `channel.close` or `connection.close`, as [`ReplyCode::scope`] says.
///
/// Raised by handlers with the constructor named after the spec's constant; whoever dispatches the
/// method fills in its ids. Socket and disk failures are other types: nobody is there to read a
/// close frame about them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AmqpError {
    /// What kind of refusal.
    pub code: ReplyCode,
    /// Shown to people. At most 255 octets reach the wire.
    pub text: String,
    /// Class and method ids of what was refused; zeros when it was no method in particular.
    pub method: (u16, u16),
}

/// Reply codes we send (AMQP 0-9-1 §4.8.2 and the `constant` elements of the spec).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u16)]
pub enum ReplyCode {
    /// A message too large, by agreement of both sides.
    ContentTooLarge = 311,
    /// A mandatory message that no queue was bound for (only in `basic.return`).
    NoRoute = 312,
    /// An operator or a shutdown closed the connection.
    ConnectionForced = 320,
    /// A vhost name that cannot be one.
    InvalidPath = 402,
    /// The user may not do this.
    AccessRefused = 403,
    /// No such exchange or queue.
    NotFound = 404,
    /// Exclusive to another connection.
    ResourceLocked = 405,
    /// An argument or the state forbids it.
    PreconditionFailed = 406,
    /// Octets that are not a frame.
    FrameError = 501,
    /// A frame or table that cannot be read.
    SyntaxError = 502,
    /// A method that makes no sense here.
    CommandInvalid = 503,
    /// A channel that is not open, or open already.
    ChannelError = 504,
    /// A frame nobody waits for at this point.
    UnexpectedFrame = 505,
    /// A limit of the server.
    ResourceError = 506,
    /// Forbidden whatever the permissions.
    NotAllowed = 530,
    /// Not part of this server.
    NotImplemented = 540,
    /// Our fault.
    InternalError = 541,
}

/// Who is closed by an error: the spec calls these soft and hard.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scope {
    /// The channel; its connection goes on.
    Channel,
    /// The connection with all its channels.
    Connection,
}

impl ReplyCode {
    /// The number on the wire.
    #[must_use]
    pub const fn value(self) -> u16 {
        self as u16
    }

    /// The spec's name, as reply texts start with it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ContentTooLarge => "CONTENT_TOO_LARGE",
            Self::NoRoute => "NO_ROUTE",
            Self::ConnectionForced => "CONNECTION_FORCED",
            Self::InvalidPath => "INVALID_PATH",
            Self::AccessRefused => "ACCESS_REFUSED",
            Self::NotFound => "NOT_FOUND",
            Self::ResourceLocked => "RESOURCE_LOCKED",
            Self::PreconditionFailed => "PRECONDITION_FAILED",
            Self::FrameError => "FRAME_ERROR",
            Self::SyntaxError => "SYNTAX_ERROR",
            Self::CommandInvalid => "COMMAND_INVALID",
            Self::ChannelError => "CHANNEL_ERROR",
            Self::UnexpectedFrame => "UNEXPECTED_FRAME",
            Self::ResourceError => "RESOURCE_ERROR",
            Self::NotAllowed => "NOT_ALLOWED",
            Self::NotImplemented => "NOT_IMPLEMENTED",
            Self::InternalError => "INTERNAL_ERROR",
        }
    }

    /// Whom it closes.
    #[must_use]
    pub const fn scope(self) -> Scope {
        match self {
            Self::ContentTooLarge
            | Self::NoRoute
            | Self::AccessRefused
            | Self::NotFound
            | Self::ResourceLocked
            | Self::PreconditionFailed => Scope::Channel,
            Self::ConnectionForced
            | Self::InvalidPath
            | Self::FrameError
            | Self::SyntaxError
            | Self::CommandInvalid
            | Self::ChannelError
            | Self::UnexpectedFrame
            | Self::ResourceError
            | Self::NotAllowed
            | Self::NotImplemented
            | Self::InternalError => Scope::Connection,
        }
    }
}

/// One constructor a code, so that a refusal reads like the spec.
macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $code:ident;)*) => {
        impl AmqpError {
            $(
                $(#[$doc])*
                #[must_use]
                pub fn $name(why: impl fmt::Display) -> Self {
                    Self::new(ReplyCode::$code, why)
                }
            )*
        }
    };
}

constructors! {
    /// 320, connection.
    connection_forced => ConnectionForced;
    /// 403, channel.
    access_refused => AccessRefused;
    /// 405, channel.
    resource_locked => ResourceLocked;
    /// 406, channel.
    precondition_failed => PreconditionFailed;
    /// 501, connection.
    frame_error => FrameError;
    /// 502, connection.
    syntax_error => SyntaxError;
    /// 503, connection.
    command_invalid => CommandInvalid;
    /// 504, connection.
    channel_error => ChannelError;
    /// 505, connection.
    unexpected_frame => UnexpectedFrame;
    /// 506, connection.
    resource_error => ResourceError;
    /// 530, connection.
    not_allowed => NotAllowed;
    /// 540, connection.
    not_implemented => NotImplemented;
    /// 541, connection.
    internal_error => InternalError;
}

impl AmqpError {
    /// A refusal with the text `CONSTANT - why`.
    #[must_use]
    pub fn new(code: ReplyCode, why: impl fmt::Display) -> Self {
        Self {
            code,
            text: format!("{} - {why}", code.name()),
            method: (0, 0),
        }
    }

    /// 404, channel: `NOT_FOUND - no {what}`.
    #[must_use]
    pub fn not_found(what: impl fmt::Display) -> Self {
        Self::new(ReplyCode::NotFound, format_args!("no {what}"))
    }

    /// The same refusal, naming the method that was refused; an id already there stays.
    #[must_use]
    pub fn of_method(mut self, id: (u16, u16)) -> Self {
        if self.method == (0, 0) {
            self.method = id;
        }
        self
    }
}

/// Most characters of a text in a log line; no more reaches the client either.
const SHOWN_MAX: usize = 255;

impl fmt::Display for AmqpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // For logs: texts quote what clients say, which must not begin a line of its own.
        write!(f, "{} ", self.code.value())?;
        for c in self.text.chars().take(SHOWN_MAX) {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for AmqpError {}

/// `queue 'q' in vhost '/'`: how RabbitMQ's texts name a thing.
#[derive(Clone, Copy)]
pub struct Named<'a> {
    /// `queue` or `exchange`.
    pub kind: &'static str,
    /// The thing's name.
    pub name: &'a str,
    /// Its vhost.
    pub vhost: &'a str,
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} '{}' in vhost '{}'", self.kind, self.name, self.vhost)
    }
}

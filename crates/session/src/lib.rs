//! One AMQP connection without a socket: octets in, commands out; replies in, octets out.
//!
//! A connection has two halves that share nothing, because two tasks own them:
//!
//! - [`Session`] belongs to whoever reads. It takes whole frames off the read buffer, leads the
//!   client through the login, puts contents together and fills a [`Received`] with
//!   [`Command`](leveret_core::Command)s for the core.
//! - [`Encoder`] belongs to whoever writes. It turns [`Outbound`](leveret_core::Outbound)s into a
//!   [`Wire`]: octets, and slices of large bodies, ready for `writev`.
//!
//! Neither reads a clock, touches a socket or waits for anything. Time comes in as an argument.
//! What takes time elsewhere (checking a password, opening a vhost) makes the session stop with a
//! [`Stop`] and use no input until it is told the answer. So a simulator can drive it, any chunking
//! of the same octets gives the same commands, and what does not is a bug that a test replays.
//!
//! Read `session` first (the phases of a connection), then `handshake`, then the path of a message:
//! `channels` (which frame may come now), `assembler` (frames to message), `outbound` (message to
//! frames). Everything the peer is told when it errs is worded as RabbitMQ words it, since clients
//! match on the texts.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod assembler;
mod channels;
mod closing;
mod config;
mod frames;
mod handshake;
mod heartbeat;
mod limits;
mod outbound;
mod sasl;
mod session;
mod wire;

pub use closing::{Closing, Ended};
pub use config::SessionConfig;
pub use handshake::Login;
pub use outbound::Encoder;
pub use sasl::{Credentials, Mechanism, Secret};
pub use session::{Received, Session, Stop};
pub use wire::Wire;

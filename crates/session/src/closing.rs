//! How a connection ends: with a frame, in silence, or at once.

use std::fmt;

use leveret_core::AmqpError;

/// How the server has to end a connection. What the session has put into
/// [`Received`](crate::Received) before is to be passed on first, in any case.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Closing {
    /// Tell the core that the connection is closed, if it knows of it; then have
    /// [`Outbound::CloseConnection`](leveret_core::Outbound::CloseConnection) written with this
    /// error. Go on to read: the session discards everything and says [`Closing::Now`] when the
    /// peer has answered, or has had its time to.
    Refused(AmqpError),
    /// So early that nobody reads a close frame: write nothing, and log the error. Go on to read:
    /// [`Closing::Now`] follows when some time has passed, so that guessing passwords takes long.
    Silent(AmqpError),
    /// Tell the core, if it knows of the connection; write out what is to be written; close the
    /// socket.
    Now(Ended),
}

/// Why a connection is over.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ended {
    /// In order: one side asked, the other agreed.
    Closed,
    /// The first octets were not those of a version that we speak. Ours are in the replies.
    NotAmqp {
        /// What came instead.
        header: [u8; 8],
    },
    /// The client was given long enough to log in.
    HandshakeTimeout,
    /// Two heartbeats are missing.
    PeerSilent,
    /// The peer did not answer our `connection.close`, or was not asked to.
    CloseTimeout,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed"),
            Self::NotAmqp { header } => {
                write!(f, "bad protocol header '{}'", header.escape_ascii())?;
                f.write_str(match header {
                    [b'G', b'E', b'T', b' ', ..] | [b'P', b'O', b'S', b'T', ..] => {
                        ": an HTTP client on the AMQP port"
                    }
                    // A handshake record of any version of TLS.
                    [0x16, 0x03, ..] => ": a TLS client on the port for plain AMQP",
                    [b'A', b'M', b'Q', b'P', ..] => ": a version of AMQP other than 0-9-1",
                    _ => "",
                })
            }
            Self::HandshakeTimeout => f.write_str("handshake not finished in time"),
            Self::PeerSilent => f.write_str("missed heartbeats"),
            Self::CloseTimeout => f.write_str("connection.close not answered in time"),
        }
    }
}

/// Why the session cannot go on; [`Session`](crate::Session) makes a [`Closing`] of it.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A refusal of a frame that was taken: those behind it can still be told apart. Closes a
    /// channel or the connection, as the code's scope says.
    Refused(AmqpError),
    /// The same, but there is no telling where the next frame starts.
    OutOfStep(AmqpError),
    /// Nothing more to say.
    Ended(Ended),
}

impl From<AmqpError> for Failure {
    fn from(error: AmqpError) -> Self {
        Self::Refused(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_first_word_gets_a_hint_in_the_log() {
        #[rustfmt::skip]
        let table = [
            (*b"GET / HT",            "bad protocol header 'GET / HT': an HTTP client on the AMQP port"),
            (*b"\x16\x03\x01\x02\0\x01\0\x01", "bad protocol header '\\x16\\x03\\x01\\x02\\x00\\x01\\x00\\x01': a TLS client on the port for plain AMQP"),
            (*b"AMQP\x00\x01\x00\x00", "bad protocol header 'AMQP\\x00\\x01\\x00\\x00': a version of AMQP other than 0-9-1"),
            (*b"SSH-2.0-",            "bad protocol header 'SSH-2.0-'"),
        ];
        for (header, expected) in table {
            assert_eq!(Ended::NotAmqp { header }.to_string(), expected);
        }
    }
}

//! What an operator may want to know; the server writes it to the log.

use std::sync::Arc;

use crate::error::AmqpError;
use crate::ids::ConnectionId;
use crate::log::LogError;
use crate::schedule::Refusal;

/// Something worth a line in the log, or in an event exchange one day.
#[derive(Clone, Debug)]
pub enum Event {
    /// A channel was closed with an error.
    ChannelRefused {
        /// Whose channel.
        connection: ConnectionId,
        /// Channel number.
        channel: u16,
        /// Why.
        error: AmqpError,
    },
    /// A connection was closed with an error.
    ConnectionRefused {
        /// Which.
        connection: ConnectionId,
        /// Why.
        error: AmqpError,
    },
    /// A queue came to be.
    QueueCreated {
        /// Its name.
        queue: Arc<str>,
    },
    /// A queue is gone.
    QueueDeleted {
        /// Its name.
        queue: Arc<str>,
        /// Ready messages that went with it.
        ready: usize,
    },
    /// Messages of a queue could not be read back from the log or the swap area.
    FetchFailed {
        /// Its name.
        queue: Arc<str>,
        /// Why.
        error: LogError,
    },
    /// The message of a schedule was not published.
    FireRefused {
        /// Its `message-id`: the schedule and the time.
        run: String,
        /// In whose name it would have been.
        user: Arc<str>,
        /// Where it would have gone.
        exchange: String,
        /// Why.
        refusal: Refusal,
    },
    /// Messages of a queue could not be written to the swap area, and stay in memory. It is not said
    /// again before some could be written.
    SwapFailed {
        /// Its name.
        queue: Arc<str>,
        /// Why.
        error: LogError,
    },
    /// The first messages since then were written.
    SwapResumed,
    /// An exchange came to be.
    ExchangeCreated {
        /// Its name.
        exchange: Arc<str>,
    },
    /// An exchange is gone.
    ExchangeDeleted {
        /// Its name.
        exchange: Arc<str>,
    },
}

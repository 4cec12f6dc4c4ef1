//! What a message that a schedule has fired asks of the queues it is in, whatever their arguments.
//!
//! Headers say so, which the scheduler has checked. Nobody else's count: a client can write them, but
//! not the mark of what was fired.

use std::sync::Arc;

use leveret_codec::FieldValue;

use crate::message::Message;
use crate::queue::rules::DeadLetterTo;

/// Where it goes when it is rejected, or out of attempts.
pub const DEAD_LETTER_EXCHANGE: &str = "x-schedule-dead-letter-exchange";

/// With which key; its own if there is none.
pub const DEAD_LETTER_ROUTING_KEY: &str = "x-schedule-dead-letter-routing-key";

/// After how many milliseconds it is delivered again.
pub const RETRY_DELAY: &str = "x-schedule-retry-delay";

/// How often it is delivered again.
pub const RETRY_LIMIT: &str = "x-schedule-retry-limit";

/// What it asks for.
#[derive(Debug)]
pub(crate) struct Wishes {
    pub(crate) dead_letter: Option<DeadLetterTo>,
    pub(crate) retry_ms: Option<u64>,
    pub(crate) retries_max: Option<u32>,
}

impl Wishes {
    /// Of a message; None if nobody has fired it, or if it asks for nothing.
    pub(crate) fn of(message: &Message) -> Option<Self> {
        if !message.is_fired() {
            return None;
        }
        let headers = message.properties().headers?;
        let text = |name| {
            headers
                .get(name)
                .and_then(FieldValue::as_str)
                .map(Arc::from)
        };
        let number = |name| {
            let number = headers.get(name).and_then(FieldValue::as_i64)?;
            u64::try_from(number).ok()
        };
        let wishes = Self {
            dead_letter: text(DEAD_LETTER_EXCHANGE).map(|exchange| DeadLetterTo {
                exchange,
                routing_key: text(DEAD_LETTER_ROUTING_KEY),
            }),
            retry_ms: number(RETRY_DELAY).filter(|&ms| ms > 0),
            retries_max: number(RETRY_LIMIT).map(|max| u32::try_from(max).unwrap_or(u32::MAX)),
        };
        let any = wishes.dead_letter.is_some() || wishes.retries();
        any.then_some(wishes)
    }

    /// Whether it says anything about being delivered again: every delivery that comes back has failed
    /// then.
    pub(crate) fn retries(&self) -> bool {
        self.retry_ms.is_some() || self.retries_max.is_some()
    }
}

//! What a queue of the model does with its messages beyond keeping them.

use leveret_codec::{FieldTable, FieldValue};

/// The arguments of a queue that are about its messages, as they were declared.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rules {
    /// `x-message-ttl`, in milliseconds.
    pub ttl_ms: Option<u64>,
    /// `x-max-length`.
    pub length_max: Option<usize>,
    /// `x-max-length-bytes`.
    pub bytes_max: Option<usize>,
    /// `x-overflow`.
    pub overflow: Option<String>,
    /// `x-dead-letter-exchange`.
    pub dead_letter: Option<String>,
    /// `x-dead-letter-routing-key`.
    pub dead_letter_key: Option<String>,
    /// `x-delivery-limit`; below 0 there is none.
    pub delivery_limit: Option<i64>,
}

impl Rules {
    /// As the arguments say.
    #[must_use]
    pub fn of(arguments: &FieldTable) -> Self {
        let integer = |name| arguments.get(name).and_then(FieldValue::as_i64);
        let text = |name| arguments.get(name).and_then(FieldValue::as_str);
        let size = |name| integer(name).and_then(|n| usize::try_from(n).ok());
        Self {
            ttl_ms: integer("x-message-ttl").and_then(|ms| u64::try_from(ms).ok()),
            length_max: size("x-max-length"),
            bytes_max: size("x-max-length-bytes"),
            overflow: text("x-overflow").map(str::to_owned),
            dead_letter: text("x-dead-letter-exchange").map(str::to_owned),
            dead_letter_key: text("x-dead-letter-routing-key").map(str::to_owned),
            delivery_limit: integer("x-delivery-limit"),
        }
    }

    /// As arguments.
    pub fn write(&self, arguments: &mut FieldTable) {
        let integers = [
            ("x-message-ttl", self.ttl_ms.map(|ms| ms as i64)),
            ("x-max-length", self.length_max.map(|n| n as i64)),
            ("x-max-length-bytes", self.bytes_max.map(|n| n as i64)),
            ("x-delivery-limit", self.delivery_limit),
        ];
        for (name, value) in integers {
            if let Some(value) = value {
                arguments.insert(name, FieldValue::I64(value));
            }
        }
        let texts = [
            ("x-overflow", &self.overflow),
            ("x-dead-letter-exchange", &self.dead_letter),
            ("x-dead-letter-routing-key", &self.dead_letter_key),
        ];
        for (name, value) in texts {
            if let Some(value) = value {
                arguments.insert(name, value.as_str());
            }
        }
    }

    /// Whether so many messages, with so many octets in their bodies, are too much.
    #[must_use]
    pub fn is_over(&self, messages: usize, bytes: usize) -> bool {
        self.length_max.is_some_and(|max| messages > max)
            || self.bytes_max.is_some_and(|max| bytes > max)
    }

    /// Whether a full queue says no to what comes, rather than to let go of what it has.
    #[must_use]
    pub fn refuses(&self) -> bool {
        matches!(
            self.overflow.as_deref(),
            Some("reject-publish" | "reject-publish-dlx")
        )
    }

    /// Whether what it says no to is dead-lettered.
    #[must_use]
    pub fn buries_refused(&self) -> bool {
        self.overflow.as_deref() == Some("reject-publish-dlx") && self.dead_letter.is_some()
    }

    /// Whether a message has failed too often.
    #[must_use]
    pub fn is_beyond_limit(&self, failures: u32) -> bool {
        self.delivery_limit
            .is_some_and(|limit| limit >= 0 && i64::from(failures) > limit)
    }

    /// Whether deliveries say how often one has failed.
    #[must_use]
    pub fn counts_deliveries(&self) -> bool {
        self.delivery_limit.is_some_and(|limit| limit >= 0)
    }
}

//! What can be wrong with bytes.

use std::{error, fmt};

/// Bytes that are not AMQP 0-9-1.
///
/// The session turns it into a `connection.close`: the envelope of frames with `FRAME_ERROR`, their
/// contents with `SYNTAX_ERROR`. Nothing that the peer sends after one of these can be trusted.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum DecodeError {
    /// The frame would be larger than what was agreed in `connection.tune`. Both in bytes; `size`
    /// includes the envelope.
    FrameTooLarge {
        /// Size of the frame as its header announces it.
        size: u32,
        /// The agreed `frame_max`.
        limit: u32,
    },
    /// The byte after the payload is not [`FRAME_END`](crate::FRAME_END).
    BadFrameEnd {
        /// What stands there instead.
        got: u8,
    },
    /// No such method in AMQP 0-9-1, nor among the extensions of RabbitMQ.
    UnknownMethod {
        /// First number of the payload.
        class_id: u16,
        /// Second number of the payload.
        method_id: u16,
    },
    /// The payload or table ends within this value.
    Truncated {
        /// Name of the value in the specification.
        what: &'static str,
    },
    /// The payload goes on after its last value.
    TrailingBytes {
        /// How many bytes are left.
        count: usize,
    },
    /// A short string of a method is not UTF-8.
    BadUtf8 {
        /// Name of the value in the specification.
        what: &'static str,
    },
    /// A table or array holds a value of a type that nobody has defined.
    UnknownFieldType {
        /// The type's letter.
        tag: u8,
    },
    /// Tables and arrays are nested deeper than we follow.
    TableTooDeep {
        /// See [`TABLE_DEPTH_MAX`](crate::TABLE_DEPTH_MAX).
        limit: usize,
    },
    /// The property flags use one of the two lowest bits: no property has them, and no peer sends a
    /// second flag word.
    BadPropertyFlags {
        /// The whole flag word.
        flags: u16,
    },
    /// A content header of another class than `basic`, the only one with content.
    BadContentClass {
        /// What the header says.
        class_id: u16,
    },
    /// The unused `weight` of a content header is not zero.
    BadContentWeight {
        /// What the header says.
        weight: u16,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::FrameTooLarge { size, limit } => {
                write!(f, "frame of {size} bytes, but frame_max is {limit}")
            }
            Self::BadFrameEnd { got } => write!(f, "frame ends with {got:#04x} and not 0xce"),
            Self::UnknownMethod {
                class_id,
                method_id,
            } => {
                write!(f, "unknown method {method_id} of class {class_id}")
            }
            Self::Truncated { what } => write!(f, "bytes end within {what}"),
            Self::TrailingBytes { count } => write!(f, "{count} bytes after the last value"),
            Self::BadUtf8 { what } => write!(f, "malformed UTF-8 in {what}"),
            Self::UnknownFieldType { tag } => {
                write!(f, "unknown table field type '{}'", tag.escape_ascii())
            }
            Self::TableTooDeep { limit } => {
                write!(f, "tables and arrays nested deeper than {limit}")
            }
            Self::BadPropertyFlags { flags } => {
                write!(f, "property flags {flags:#06x} use reserved bits")
            }
            Self::BadContentClass { class_id } => {
                write!(f, "content header of class {class_id} and not 60")
            }
            Self::BadContentWeight { weight } => {
                write!(f, "content header of weight {weight} and not 0")
            }
        }
    }
}

impl error::Error for DecodeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_lowercase_and_name_the_culprit() {
        #[rustfmt::skip]
        let table = [
            (DecodeError::FrameTooLarge { size: 9000, limit: 4096 }, "frame of 9000 bytes, but frame_max is 4096"),
            (DecodeError::BadFrameEnd { got: 7 },                    "frame ends with 0x07 and not 0xce"),
            (DecodeError::Truncated { what: "routing_key" },         "bytes end within routing_key"),
            (DecodeError::UnknownFieldType { tag: b'z' },            "unknown table field type 'z'"),
            (DecodeError::UnknownFieldType { tag: 0 },               "unknown table field type '\\x00'"),
            (DecodeError::BadPropertyFlags { flags: 1 },             "property flags 0x0001 use reserved bits"),
        ];
        for (error, expected) in table {
            assert_eq!(error.to_string(), expected);
        }
    }
}

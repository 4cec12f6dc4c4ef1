//! The content header: how large the body is, and the fourteen properties of a message (AMQP 0-9-1
//! §4.2.6.1).
//!
//! Properties are lazy. A broker passes them on as they came and needs two of them to do its work,
//! so [`parse_content_header`] checks them all, notes those two in a [`PropertySummary`] and keeps
//! the rest as bytes. [`Properties`] is for those who look closer or change something.

use bytes::{BufMut, Bytes};

use crate::{
    CLASS_BASIC, DecodeError, FieldTable,
    encode::{put_short, put_sized},
    parse::Reader,
    validate_table,
};

/// The payload of a header frame, checked but not unpacked.
#[derive(Clone, Debug, PartialEq)]
pub struct ContentHeader<'a> {
    /// Always [`CLASS_BASIC`].
    pub class_id: u16,
    /// Bytes of body that follow, in as many frames as it takes.
    pub body_size: u64,
    /// Which properties are there; see [`flags`].
    pub flags: u16,
    /// The values of the properties: what follows the flag word.
    pub raw: &'a [u8],
    /// What the broker itself needs to know.
    pub summary: PropertySummary,
}

/// The properties on which the fate of a message depends.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PropertySummary {
    /// 2 is persistent; 0 is what an absent one counts as.
    pub delivery_mode: u8,
    /// 0 is what an absent one counts as.
    pub priority: u8,
}

impl PropertySummary {
    #[inline]
    fn note(&mut self, flag: u16, octet: u8) {
        match flag {
            flags::DELIVERY_MODE => self.delivery_mode = octet,
            flags::PRIORITY => self.priority = octet,
            _ => {}
        }
    }
}

/// Reads the payload of a header frame. Checks every property, allocates nothing.
///
/// # Errors
/// If it is not for class `basic`, uses flags that nobody has defined, holds a malformed property,
/// or goes on after the last one.
#[inline]
pub fn parse_content_header(payload: &[u8]) -> Result<ContentHeader<'_>, DecodeError> {
    let mut reader = Reader::new(payload);
    let class_id = reader.u16("class_id")?;
    if class_id != CLASS_BASIC {
        return Err(DecodeError::BadContentClass { class_id });
    }
    let weight = reader.u16("weight")?;
    if weight != 0 {
        return Err(DecodeError::BadContentWeight { weight });
    }
    let body_size = reader.u64("body_size")?;
    let flags = reader.u16("property flags")?;
    let raw = reader.rest();
    Ok(ContentHeader {
        class_id,
        body_size,
        flags,
        raw,
        summary: check(flags, raw)?,
    })
}

/// A row is `NAME = bit, field: type, "name in the specification"`, in the order of the wire. It
/// becomes a constant in [`flags`] and a field of [`Properties`], and is checked, read and written.
macro_rules! properties {
    ($( $(#[$doc:meta])* $flag:ident = $bit:literal, $field:ident: $type:ty, $name:literal; )*) => {
        /// Bits of the flag word, one for each property.
        pub mod flags {
            $( $(#[$doc])* pub const $flag: u16 = 1 << $bit; )*
        }

        /// The properties of a message, unpacked.
        ///
        /// Text is kept as the bytes that were sent: like RabbitMQ we do not insist on UTF-8 here.
        /// Encoding cuts it to 255 bytes.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct Properties {
            $( $(#[$doc])* pub $field: Option<$type>, )*
        }

        impl Properties {
            /// Reads the values that `flags` announces.
            ///
            /// # Errors
            /// Those of [`parse_content_header`] that concern properties.
            pub fn parse(flags: u16, raw: &[u8]) -> Result<Self, DecodeError> {
                let mut reader = property_reader(flags, raw)?;
                let properties = Self {$(
                    $field: match flags & flags::$flag {
                        0 => None,
                        _ => Some(Property::read(&mut reader, $name)?),
                    },
                )*};
                reader.finish()?;
                Ok(properties)
            }

            /// Appends the values and returns the flags that announce them.
            pub fn encode(&self, out: &mut Vec<u8>) -> u16 {
                let mut flags = 0;
                $(if let Some(value) = &self.$field {
                    flags |= flags::$flag;
                    value.write(out);
                })*
                flags
            }
        }

        /// Walks over the values as [`Properties::parse`] does, without building anything.
        fn check(flags: u16, raw: &[u8]) -> Result<PropertySummary, DecodeError> {
            let mut summary = PropertySummary::default();
            let mut reader = property_reader(flags, raw)?;
            $(if flags & flags::$flag != 0 {
                let octet = <$type>::check(&mut reader, $name)?;
                summary.note(flags::$flag, octet);
            })*
            reader.finish()?;
            Ok(summary)
        }
    };
}

properties! {
    /// MIME type of the body.
    CONTENT_TYPE = 15, content_type: Bytes, "content-type";
    /// MIME encoding of the body, such as `gzip`.
    CONTENT_ENCODING = 14, content_encoding: Bytes, "content-encoding";
    /// Whatever the publisher wants to say, and what a headers exchange looks at.
    HEADERS = 13, headers: FieldTable, "headers";
    /// 1 is transient and 2 persistent.
    DELIVERY_MODE = 12, delivery_mode: u8, "delivery-mode";
    /// For queues with priorities; a higher one is delivered first.
    PRIORITY = 11, priority: u8, "priority";
    /// Tells a client which request this is the answer to.
    CORRELATION_ID = 10, correlation_id: Bytes, "correlation-id";
    /// The queue that waits for an answer.
    REPLY_TO = 9, reply_to: Bytes, "reply-to";
    /// How long the message may wait, in milliseconds and as decimal text.
    EXPIRATION = 8, expiration: Bytes, "expiration";
    /// The publisher's own name for the message.
    MESSAGE_ID = 7, message_id: Bytes, "message-id";
    /// When the publisher made it, in seconds since 1970, UTC.
    TIMESTAMP = 6, timestamp: u64, "timestamp";
    /// What kind of message the publisher considers it to be.
    TYPE = 5, kind: Bytes, "type";
    /// The publisher's user name, which the broker verifies.
    USER_ID = 4, user_id: Bytes, "user-id";
    /// The program that published it.
    APP_ID = 3, app_id: Bytes, "app-id";
    /// Without a meaning since AMQP 0-9-1, and passed on like the others.
    CLUSTER_ID = 2, cluster_id: Bytes, "cluster-id";
}

/// No property has these. Bit 0 would announce a second flag word, which nobody has ever needed.
const RESERVED_FLAGS: u16 = 0b11;

fn property_reader(flags: u16, raw: &[u8]) -> Result<Reader<'_>, DecodeError> {
    if flags & RESERVED_FLAGS == 0 {
        Ok(Reader::new(raw))
    } else {
        Err(DecodeError::BadPropertyFlags { flags })
    }
}

/// The types that a property may have.
trait Property: Sized {
    /// Moves over the value. Returns it if it is an octet, for the summary, and otherwise 0.
    fn check(reader: &mut Reader<'_>, name: &'static str) -> Result<u8, DecodeError>;
    fn read(reader: &mut Reader<'_>, name: &'static str) -> Result<Self, DecodeError>;
    fn write(&self, out: &mut Vec<u8>);
}

impl Property for u8 {
    #[inline]
    fn check(reader: &mut Reader<'_>, name: &'static str) -> Result<u8, DecodeError> {
        reader.u8(name)
    }

    fn read(reader: &mut Reader<'_>, name: &'static str) -> Result<Self, DecodeError> {
        reader.u8(name)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.put_u8(*self);
    }
}

impl Property for u64 {
    #[inline]
    fn check(reader: &mut Reader<'_>, name: &'static str) -> Result<u8, DecodeError> {
        reader.u64(name).map(|_| 0)
    }

    fn read(reader: &mut Reader<'_>, name: &'static str) -> Result<Self, DecodeError> {
        reader.u64(name)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.put_u64(*self);
    }
}

/// A short string.
impl Property for Bytes {
    #[inline]
    fn check(reader: &mut Reader<'_>, name: &'static str) -> Result<u8, DecodeError> {
        reader.short_bytes(name).map(|_| 0)
    }

    fn read(reader: &mut Reader<'_>, name: &'static str) -> Result<Self, DecodeError> {
        reader.short_bytes(name).map(Self::copy_from_slice)
    }

    fn write(&self, out: &mut Vec<u8>) {
        put_short(out, self);
    }
}

impl Property for FieldTable {
    fn check(reader: &mut Reader<'_>, name: &'static str) -> Result<u8, DecodeError> {
        validate_table(reader.long_bytes(name)?).map(|()| 0)
    }

    fn read(reader: &mut Reader<'_>, name: &'static str) -> Result<Self, DecodeError> {
        Self::decode(reader.long_bytes(name)?)
    }

    fn write(&self, out: &mut Vec<u8>) {
        put_sized(out, |out| self.encode_into(out));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Class 60, weight 0, body of 5 bytes, then what is given.
    fn header(flags: u16, raw: &[u8]) -> Vec<u8> {
        let front = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
        [&front[..], &flags.to_be_bytes(), raw].concat()
    }

    #[test]
    fn summary_is_read_in_passing() {
        #[rustfmt::skip]
        let table = [
            // flags                                   values            summary  why this row is here
            (0,                                        &b""[..],         (0, 0),  "nothing is there"),
            (flags::DELIVERY_MODE,                     &b"\x02"[..],     (2, 0),  "persistent"),
            (flags::DELIVERY_MODE | flags::PRIORITY,   &b"\x02\x09"[..], (2, 9),  "in the order of the wire"),
            (flags::PRIORITY | flags::CONTENT_TYPE,    &b"\x03a/b\x04"[..], (0, 4),  "behind a string"),
        ];
        for (flags, raw, (delivery_mode, priority), why) in table {
            let payload = header(flags, raw);
            let header = parse_content_header(&payload).expect(why);
            assert_eq!(
                (header.body_size, header.flags, header.raw),
                (5, flags, raw),
                "{why}"
            );
            let expected = PropertySummary {
                delivery_mode,
                priority,
            };
            assert_eq!(header.summary, expected, "{why}");
        }
    }

    #[test]
    fn malformed_headers_are_errors() {
        let cut = |what| DecodeError::Truncated { what };
        #[rustfmt::skip]
        let table = [
            (header(0, b"")[..13].to_vec(),                cut("property flags"),                          "cut within the flags"),
            (vec![0, 50, 0, 0],                            DecodeError::BadContentClass { class_id: 50 },  "queues have no content"),
            (vec![0, 60, 0, 1],                            DecodeError::BadContentWeight { weight: 1 },    "weight is unused"),
            (header(1, b"\0\0"),                           DecodeError::BadPropertyFlags { flags: 1 },     "a second flag word"),
            (header(2, b""),                               DecodeError::BadPropertyFlags { flags: 2 },     "nobody's bit"),
            (header(0, b"x"),                              DecodeError::TrailingBytes { count: 1 },        "no property owns the byte"),
            (header(flags::USER_ID, b"\x05joe"),           cut("user-id"),                                 "string too short"),
            (header(flags::TIMESTAMP, b"\0\0\0\0"),        cut("timestamp"),                               "half a timestamp"),
            (header(flags::HEADERS, b"\0\0\0\x09\x01k"),   cut("headers"),                                 "table longer than the frame"),
            (header(flags::HEADERS, b"\0\0\0\x03\x01kz"),  DecodeError::UnknownFieldType { tag: b'z' },    "tables are checked too"),
        ];
        for (payload, expected, why) in table {
            assert_eq!(parse_content_header(&payload), Err(expected), "{why}");
        }
    }

    #[test]
    fn properties_follow_each_other_from_the_highest_bit() {
        let properties = Properties {
            content_type: Some(Bytes::from_static(b"a/b")),
            headers: Some([("n", 1_i32)].into_iter().collect()),
            delivery_mode: Some(2),
            timestamp: Some(1),
            cluster_id: Some(Bytes::from_static(b"\xff")), // not UTF-8, and nobody minds
            ..Properties::default()
        };
        let mut raw = Vec::new();
        let flags = properties.encode(&mut raw);
        assert_eq!(flags, 0b1011_0000_0100_0100);
        assert_eq!(
            raw,
            b"\x03a/b\0\0\0\x07\x01nI\0\0\0\x01\x02\0\0\0\0\0\0\0\x01\x01\xff"
        );
        assert_eq!(Properties::parse(flags, &raw), Ok(properties));
    }

    #[test]
    fn absent_and_empty_are_different() {
        let empty = Properties {
            reply_to: Some(Bytes::new()),
            ..Properties::default()
        };
        let mut raw = Vec::new();
        assert_eq!(empty.encode(&mut raw), flags::REPLY_TO);
        assert_eq!(Properties::parse(flags::REPLY_TO, &raw), Ok(empty));
    }
}

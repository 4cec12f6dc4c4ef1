//! Field tables: arguments of declarations and bindings, message headers, client properties.
//!
//! The types are those of RabbitMQ, not of the specification: the two disagree, and so did all
//! clients until they followed RabbitMQ (<https://www.rabbitmq.com/amqp-0-9-1-errata>).
//!
//! These are tables to look inside. Most are only passed on, as a [`RawTable`](crate::RawTable).
//!
//! No input nests deeper than [`TABLE_DEPTH_MAX`], whether it is read or written; what we write can
//! therefore always be read.

use std::{fmt, iter, slice, vec};

use bytes::{BufMut, Bytes};

use crate::{
    DecodeError, ShortStr,
    encode::{put_long, put_short, put_sized},
    parse::Reader,
};

/// How deep tables and arrays may be nested, the outermost table included.
///
/// The wire has no limit and five bytes make a level, so without one a single frame would overflow
/// the stack. Nobody nests by hand beyond three or four.
pub const TABLE_DEPTH_MAX: usize = 128;

/// A value in a table or array.
///
/// The letters are the type tags on the wire. `s` is an integer here and not a short string, `l`
/// and `L` are the same type, and there is no unsigned 64-bit integer.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldValue {
    /// `t`: any octet but zero is true.
    Bool(bool),
    /// `b`
    I8(i8),
    /// `B`
    U8(u8),
    /// `s`
    I16(i16),
    /// `u`
    U16(u16),
    /// `I`
    I32(i32),
    /// `i`
    U32(u32),
    /// `l` or `L`; written as `l`.
    I64(i64),
    /// `f`
    F32(f32),
    /// `d`
    F64(f64),
    /// `D`: `value` divided by ten to the power of `scale`.
    Decimal {
        /// Number of decimal places.
        scale: u8,
        /// All digits.
        value: u32,
    },
    /// `S`: mostly text, but any bytes are legal.
    LongString(Bytes),
    /// `x`
    ByteArray(Bytes),
    /// `A`
    Array(Vec<Self>),
    /// `T`: seconds since 1970, UTC.
    Timestamp(u64),
    /// `F`
    Table(FieldTable),
    /// `V`
    Void,
}

impl FieldValue {
    /// The value of an integer of any width. Booleans, timestamps and floats are not integers.
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Self::I8(n) => Some(n.into()),
            Self::U8(n) => Some(n.into()),
            Self::I16(n) => Some(n.into()),
            Self::U16(n) => Some(n.into()),
            Self::I32(n) => Some(n.into()),
            Self::U32(n) => Some(n.into()),
            Self::I64(n) => Some(n),
            _ => None,
        }
    }

    /// The text of a long string, if it is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::LongString(bytes) => str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The value of a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(b) => Some(b),
            _ => None,
        }
    }

    /// The inner table.
    pub fn as_table(&self) -> Option<&FieldTable> {
        match self {
            Self::Table(table) => Some(table),
            _ => None,
        }
    }

    /// What RabbitMQ calls the type, in error texts that clients and operators know.
    pub fn amqp_type_name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::I8(_) => "byte",
            Self::U8(_) => "unsignedbyte",
            Self::I16(_) => "short",
            Self::U16(_) => "unsignedshort",
            Self::I32(_) => "signedint",
            Self::U32(_) => "unsignedint",
            Self::I64(_) => "long",
            Self::F32(_) => "float",
            Self::F64(_) => "double",
            Self::Decimal { .. } => "decimal",
            Self::LongString(_) => "longstr",
            Self::ByteArray(_) => "binary",
            Self::Array(_) => "array",
            Self::Timestamp(_) => "timestamp",
            Self::Table(_) => "table",
            Self::Void => "void",
        }
    }

    /// Reads the type tag and the value. `depth` is that of the table or array it stands in.
    pub(crate) fn read(reader: &mut Reader<'_>, depth: usize) -> Result<Self, DecodeError> {
        const WHAT: &str = "a table field";
        Ok(match reader.u8("the type of a table field")? {
            b't' => Self::Bool(reader.u8(WHAT)? != 0),
            b'b' => Self::I8(reader.i8(WHAT)?),
            b'B' => Self::U8(reader.u8(WHAT)?),
            b's' => Self::I16(reader.i16(WHAT)?),
            b'u' => Self::U16(reader.u16(WHAT)?),
            b'I' => Self::I32(reader.i32(WHAT)?),
            b'i' => Self::U32(reader.u32(WHAT)?),
            b'l' | b'L' => Self::I64(reader.i64(WHAT)?),
            b'f' => Self::F32(reader.f32(WHAT)?),
            b'd' => Self::F64(reader.f64(WHAT)?),
            b'D' => Self::Decimal {
                scale: reader.u8(WHAT)?,
                value: reader.u32(WHAT)?,
            },
            b'S' => Self::LongString(Bytes::copy_from_slice(reader.long_bytes(WHAT)?)),
            b'x' => Self::ByteArray(Bytes::copy_from_slice(reader.long_bytes(WHAT)?)),
            b'A' => {
                let depth = deeper(depth)?;
                let mut items = Reader::new(reader.long_bytes(WHAT)?);
                let mut array = Vec::new();
                while !items.is_empty() {
                    array.push(Self::read(&mut items, depth)?);
                }
                Self::Array(array)
            }
            b'T' => Self::Timestamp(reader.u64(WHAT)?),
            b'F' => Self::Table(FieldTable::read(reader.long_bytes(WHAT)?, deeper(depth)?)?),
            b'V' => Self::Void,
            tag => return Err(DecodeError::UnknownFieldType { tag }),
        })
    }

    /// Writes the type tag and the value. A table or array below [`TABLE_DEPTH_MAX`] becomes a
    /// void: nobody could read it, ourselves included.
    pub(crate) fn write(&self, out: &mut Vec<u8>, depth: usize) {
        match self {
            Self::Bool(b) => out.put_slice(&[b't', u8::from(*b)]),
            Self::I8(n) => {
                out.put_u8(b'b');
                out.put_i8(*n);
            }
            Self::U8(n) => out.put_slice(&[b'B', *n]),
            Self::I16(n) => {
                out.put_u8(b's');
                out.put_i16(*n);
            }
            Self::U16(n) => {
                out.put_u8(b'u');
                out.put_u16(*n);
            }
            Self::I32(n) => {
                out.put_u8(b'I');
                out.put_i32(*n);
            }
            Self::U32(n) => {
                out.put_u8(b'i');
                out.put_u32(*n);
            }
            Self::I64(n) => {
                out.put_u8(b'l');
                out.put_i64(*n);
            }
            Self::F32(n) => {
                out.put_u8(b'f');
                out.put_f32(*n);
            }
            Self::F64(n) => {
                out.put_u8(b'd');
                out.put_f64(*n);
            }
            Self::Decimal { scale, value } => {
                out.put_slice(&[b'D', *scale]);
                out.put_u32(*value);
            }
            Self::LongString(bytes) => {
                out.put_u8(b'S');
                put_long(out, bytes);
            }
            Self::ByteArray(bytes) => {
                out.put_u8(b'x');
                put_long(out, bytes);
            }
            Self::Timestamp(seconds) => {
                out.put_u8(b'T');
                out.put_u64(*seconds);
            }
            Self::Array(items) if depth < TABLE_DEPTH_MAX => {
                out.put_u8(b'A');
                put_sized(out, |out| {
                    for item in items {
                        item.write(out, depth + 1);
                    }
                });
            }
            Self::Table(table) if depth < TABLE_DEPTH_MAX => {
                out.put_u8(b'F');
                put_sized(out, |out| table.write(out, depth + 1));
            }
            Self::Array(_) | Self::Table(_) | Self::Void => out.put_u8(b'V'),
        }
    }
}

/// The depth of a table or array inside one at `depth`.
pub(crate) fn deeper(depth: usize) -> Result<usize, DecodeError> {
    if depth < TABLE_DEPTH_MAX {
        Ok(depth + 1)
    } else {
        Err(DecodeError::TableTooDeep {
            limit: TABLE_DEPTH_MAX,
        })
    }
}

macro_rules! from {
    ($($type:ty => $variant:ident,)*) => {$(
        impl From<$type> for FieldValue {
            fn from(value: $type) -> Self {
                Self::$variant(value.into())
            }
        }
    )*};
}

from! {
    bool => Bool, i8 => I8, u8 => U8, i16 => I16, u16 => U16, i32 => I32, u32 => U32, i64 => I64,
    f32 => F32, f64 => F64, String => LongString, Bytes => LongString, Vec<Self> => Array,
    FieldTable => Table,
}

impl From<&str> for FieldValue {
    fn from(text: &str) -> Self {
        Self::LongString(Bytes::copy_from_slice(text.as_bytes()))
    }
}

type Field = (ShortStr<'static>, FieldValue);

/// Names and values in the order in which they were sent.
///
/// A name may occur more than once on the wire. All occurrences are kept, since somebody may count
/// on them, and the first is the one that counts. A name that is not UTF-8, which RabbitMQ lets
/// pass, is shown with replacement characters; [`RawTable`](crate::RawTable) still has its bytes.
#[derive(Clone, Default, PartialEq)]
pub struct FieldTable {
    fields: Vec<Field>,
}

impl FieldTable {
    /// Reads the contents of a table: what follows its length.
    ///
    /// # Errors
    /// If a field is cut off, of an unknown type or nested too deep.
    pub fn decode(content: &[u8]) -> Result<Self, DecodeError> {
        Self::read(content, 1)
    }

    /// Appends the contents of the table, without the length in front.
    ///
    /// Tables and arrays below [`TABLE_DEPTH_MAX`] are written as void.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        self.write(out, 1);
    }

    /// The value of the first field of that name.
    pub fn get(&self, key: &str) -> Option<&FieldValue> {
        self.iter().find(|&(name, _)| name == key).map(|(_, v)| v)
    }

    /// Sets the first field of that name and returns what it was, or adds one at the end.
    ///
    /// A name longer than 255 bytes is cut.
    pub fn insert(
        &mut self,
        key: impl Into<String>,
        value: impl Into<FieldValue>,
    ) -> Option<FieldValue> {
        let key = ShortStr::truncated(key.into());
        let value = value.into();
        match self.fields.iter_mut().find(|(name, _)| *name == key) {
            Some((_, old)) => Some(std::mem::replace(old, value)),
            None => {
                self.fields.push((key, value));
                None
            }
        }
    }

    /// Removes all fields of that name and returns the first one's value.
    pub fn remove(&mut self, key: &str) -> Option<FieldValue> {
        let first = self.fields.iter().position(|(name, _)| *name == *key)?;
        let (_, value) = self.fields.remove(first);
        self.fields.retain(|(name, _)| *name != *key);
        Some(value)
    }

    /// Names and values in the order in which they were sent.
    pub fn iter(&self) -> FieldTableIter<'_> {
        self.into_iter()
    }

    /// Number of fields.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there are no fields.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    fn read(content: &[u8], depth: usize) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(content);
        let mut fields = Vec::new();
        while !reader.is_empty() {
            let name = String::from_utf8_lossy(reader.short_bytes(FIELD_NAME)?).into_owned();
            let value = FieldValue::read(&mut reader, depth)?;
            fields.push((ShortStr::truncated(name), value));
        }
        Ok(Self { fields })
    }

    fn write(&self, out: &mut Vec<u8>, depth: usize) {
        for (name, value) in &self.fields {
            put_short(out, name.as_bytes());
            value.write(out, depth);
        }
    }
}

/// How errors call it.
pub(crate) const FIELD_NAME: &str = "the name of a table field";

/// What [`FieldTable::iter`] returns.
pub type FieldTableIter<'a> =
    iter::Map<slice::Iter<'a, Field>, fn(&'a Field) -> (&'a str, &'a FieldValue)>;

impl<'a> IntoIterator for &'a FieldTable {
    type Item = (&'a str, &'a FieldValue);
    type IntoIter = FieldTableIter<'a>;

    fn into_iter(self) -> FieldTableIter<'a> {
        self.fields
            .iter()
            .map(|(name, value)| (name.as_str(), value))
    }
}

impl IntoIterator for FieldTable {
    type Item = Field;
    type IntoIter = vec::IntoIter<Field>;

    fn into_iter(self) -> Self::IntoIter {
        self.fields.into_iter()
    }
}

/// Keeps duplicate names, unlike [`FieldTable::insert`].
impl<K: Into<String>, V: Into<FieldValue>> FromIterator<(K, V)> for FieldTable {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(fields: I) -> Self {
        let fields = fields
            .into_iter()
            .map(|(name, value)| (ShortStr::truncated(name.into()), value.into()))
            .collect();
        Self { fields }
    }
}

impl fmt::Debug for FieldTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RawTable, validate_table};

    fn field(bytes: &[u8]) -> Result<FieldValue, DecodeError> {
        let content = [b"\x01k", bytes].concat();
        assert_eq!(
            validate_table(&content),
            FieldTable::decode(&content).map(drop)
        );
        FieldTable::decode(&content).map(|table| table.get("k").cloned().expect("one field"))
    }

    /// `levels` tables or arrays inside each other; the table that the caller has counts as one.
    fn nested(tag: u8, levels: usize) -> Vec<u8> {
        let name: &[u8] = if tag == b'F' { b"\x01k" } else { b"" };
        let mut content = Vec::new();
        for _ in 1..levels {
            let mut outer = [name, &[tag]].concat();
            put_long(&mut outer, &content);
            content = outer;
        }
        if tag == b'A' && !content.is_empty() {
            content.splice(0..0, *b"\x01k");
        }
        content
    }

    #[test]
    fn types_are_those_of_rabbitmq() {
        let bytes = |bytes: &'static [u8]| Bytes::from_static(bytes);
        #[rustfmt::skip]
        let table: [(&[u8], FieldValue, &str); 20] = [
            (b"t\x00",                         FieldValue::Bool(false),     "bool"),
            (b"t\x01",                         FieldValue::Bool(true),      "bool"),
            (b"b\xff",                         FieldValue::I8(-1),          "byte"),
            (b"B\xff",                         FieldValue::U8(255),         "unsignedbyte"),
            (b"s\xff\xfe",                     FieldValue::I16(-2),         "short"),
            (b"u\xff\xfe",                     FieldValue::U16(65_534),     "unsignedshort"),
            (b"I\xff\xff\xff\xfd",             FieldValue::I32(-3),         "signedint"),
            (b"i\xff\xff\xff\xfd",             FieldValue::U32(u32::MAX-2), "unsignedint"),
            (b"l\xff\xff\xff\xff\xff\xff\xff\xfc", FieldValue::I64(-4),     "long"),
            (b"f\x3f\xc0\0\0",                 FieldValue::F32(1.5),        "float"),
            (b"d\x40\x02\0\0\0\0\0\0",         FieldValue::F64(2.25),       "double"),
            (b"D\x02\0\0\x30\x39",             FieldValue::Decimal { scale: 2, value: 12_345 }, "decimal"),
            (b"S\0\0\0\x02hi",                 FieldValue::LongString(bytes(b"hi")), "longstr"),
            (b"S\0\0\0\x01\xff",               FieldValue::LongString(bytes(b"\xff")), "longstr"),
            (b"x\0\0\0\x02\0\x01",             FieldValue::ByteArray(bytes(b"\0\x01")), "binary"),
            (b"A\0\0\0\x03Vt\x01",             FieldValue::Array(vec![FieldValue::Void, true.into()]), "array"),
            (b"T\0\0\0\0\x65\x53\xf1\0",       FieldValue::Timestamp(1_700_000_000), "timestamp"),
            (b"F\0\0\0\x04\x01nt\x01",         FieldValue::Table([("n", true)].into_iter().collect()), "table"),
            (b"F\0\0\0\0",                     FieldValue::Table(FieldTable::default()), "table"),
            (b"V",                             FieldValue::Void,            "void"),
        ];
        for (bytes, value, name) in table {
            assert_eq!(field(bytes), Ok(value.clone()), "decoding {name}");
            assert_eq!(value.amqp_type_name(), name);
            let mut out = Vec::new();
            value.write(&mut out, 1);
            assert_eq!(out, bytes, "encoding {name}");
        }
    }

    #[test]
    fn some_values_have_two_forms_on_the_wire() {
        assert_eq!(
            field(b"L\xff\xff\xff\xff\xff\xff\xff\xff"),
            Ok(FieldValue::I64(-1))
        );
        assert_eq!(field(b"t\x02"), Ok(FieldValue::Bool(true)));
    }

    #[test]
    fn malformed_fields_are_errors() {
        let cut = DecodeError::Truncated {
            what: "a table field",
        };
        #[rustfmt::skip]
        let table: [(&[u8], DecodeError, &str); 8] = [
            (b"",                          DecodeError::Truncated { what: "the type of a table field" }, "a name alone"),
            (b"z",                         DecodeError::UnknownFieldType { tag: b'z' }, "nobody's type"),
            (b"I\0\0\0",                   cut.clone(), "three bytes of four"),
            (b"D\x02\0\0\0",               cut.clone(), "a decimal has five"),
            (b"S\0\0\0\x02x",              cut.clone(), "string longer than the table"),
            (b"S\xff\xff\xff\xff",         cut.clone(), "4 GiB, of which nothing is there"),
            (b"A\0\0\0\x02I\0\0\0\0",      cut,         "the item is longer than its array"),
            (b"F\0\0\0\x02\x05n",          DecodeError::Truncated { what: FIELD_NAME }, "the name is longer than its table"),
        ];
        for (bytes, expected, why) in table {
            assert_eq!(field(bytes), Err(expected), "{why}");
        }
    }

    #[test]
    fn nesting_ends_at_the_limit() {
        let too_deep = Err(DecodeError::TableTooDeep {
            limit: TABLE_DEPTH_MAX,
        });
        for tag in [b'F', b'A'] {
            #[rustfmt::skip]
            let table = [
                (1,                       Ok(())),
                (TABLE_DEPTH_MAX,         Ok(())),
                (TABLE_DEPTH_MAX + 1,     too_deep.clone()),
                (20_000,                  too_deep.clone()),
            ];
            for (levels, expected) in table {
                let content = nested(tag, levels);
                assert_eq!(validate_table(&content), expected, "{levels} levels");
                assert_eq!(
                    FieldTable::decode(&content).map(drop),
                    expected,
                    "{levels} levels"
                );
            }
        }
    }

    /// The management API lets people build tables that no peer could send.
    #[test]
    fn table_nested_too_deep_is_written_without_its_depths() {
        let mut table = FieldTable::default();
        for _ in 0..1_000 {
            table = [("k", table)].into_iter().collect();
        }
        let raw = RawTable::from_table(&table);
        assert_eq!(validate_table(raw.as_bytes()), Ok(()));
        assert!(!raw.parse().is_empty());
    }

    #[test]
    fn first_of_several_fields_with_one_name_counts() {
        let content = b"\x01kb\x01\x01jb\x02\x01kb\x03";
        let mut table = FieldTable::decode(content).expect("well-formed");
        assert_eq!(table.len(), 3);
        assert_eq!(table.get("k"), Some(&FieldValue::I8(1)));

        let mut out = Vec::new();
        table.encode_into(&mut out);
        assert_eq!(out, content, "written as sent");

        assert_eq!(table.insert("k", 4_i8), Some(FieldValue::I8(1)));
        assert_eq!(table.insert("new", "text"), None);
        assert_eq!(
            table.remove("k"),
            Some(FieldValue::I8(4)),
            "and the other k goes too"
        );
        let names: Vec<_> = table.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["j", "new"]);
    }

    #[test]
    fn field_name_need_not_be_text() {
        let content = b"\x02\xffkt\x01";
        let table = FieldTable::decode(content).expect("RabbitMQ accepts it");
        assert_eq!(table.get("\u{FFFD}k"), Some(&FieldValue::Bool(true)));
        assert_eq!(
            RawTable::new(&content[..]).expect("likewise").as_bytes(),
            content
        );
    }

    #[test]
    fn integers_of_any_width_are_integers() {
        #[rustfmt::skip]
        let table = [
            (FieldValue::I8(-1),        Some(-1)),
            (FieldValue::U8(255),       Some(255)),
            (FieldValue::U32(u32::MAX), Some(4_294_967_295)),
            (FieldValue::I64(i64::MIN), Some(i64::MIN)),
            (FieldValue::Timestamp(1),  None),
            (FieldValue::F64(1.0),      None),
            (FieldValue::Bool(true),    None),
            (FieldValue::from("1"),     None),
        ];
        for (value, expected) in table {
            assert_eq!(value.as_i64(), expected, "{value:?}");
        }
    }
}

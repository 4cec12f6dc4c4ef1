//! Field tables that stay as they were sent: checked, but not unpacked.
//!
//! Methods and content headers carry tables in this form, and most tables never leave it.
//!
//! Invariant: everything that [`validate_table`] lets through, [`FieldTable::decode`] can read, and
//! the other way round. The fuzz targets hold it.

use std::{borrow::Cow, fmt};

use crate::{
    DecodeError, FieldTable, FieldValue,
    encode::put_short,
    field::{FIELD_NAME, deeper},
    parse::Reader,
};

/// The contents of a table as they were sent, known to be well-formed.
///
/// Methods carry tables in this form: most are passed on unread, and a queue's arguments are looked
/// at once. Equality is that of the bytes; see [`RawTable::canonical`].
#[derive(Clone, Default, Eq, Hash, PartialEq)]
pub struct RawTable<'a>(Cow<'a, [u8]>);

impl<'a> RawTable<'a> {
    /// Checks the contents of a table: what follows its length.
    ///
    /// # Errors
    /// Those of [`validate_table`].
    pub fn new(content: impl Into<Cow<'a, [u8]>>) -> Result<Self, DecodeError> {
        let content = content.into();
        validate_table(&content)?;
        Ok(Self(content))
    }

    /// The fields.
    pub fn parse(&self) -> FieldTable {
        FieldTable::decode(&self.0).unwrap_or_else(|error| {
            debug_assert!(false, "validated, but {error}");
            FieldTable::default()
        })
    }

    /// Whether there are no fields.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes as they were sent, without the length.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Copies the bytes out of the buffer that they were parsed from.
    pub fn into_owned(self) -> RawTable<'static> {
        RawTable(Cow::Owned(self.0.into_owned()))
    }

    /// Bytes that are equal for equal bindings: fields sorted by name, each value in the one form
    /// that we write.
    ///
    /// Fields of the same name keep their order, and inner tables theirs, as in RabbitMQ.
    pub fn canonical(&self) -> Vec<u8> {
        let mut fields = Vec::new();
        let mut reader = Reader::new(&self.0);
        // Names are compared as bytes. The loop ends with the last field: all of it is well-formed.
        while let Ok(name) = reader.short_bytes(FIELD_NAME)
            && let Ok(value) = FieldValue::read(&mut reader, 1)
        {
            fields.push((name, value));
        }
        fields.sort_by_key(|&(name, _)| name);
        let mut out = Vec::with_capacity(self.0.len());
        for (name, value) in fields {
            put_short(&mut out, name);
            value.write(&mut out, 1);
        }
        out
    }
}

impl RawTable<'static> {
    /// Encodes `table`.
    pub fn from_table(table: &FieldTable) -> Self {
        let mut out = Vec::new();
        table.encode_into(&mut out);
        Self(Cow::Owned(out))
    }
}

impl fmt::Debug for RawTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parse().fmt(f)
    }
}

/// Checks the contents of a table as [`FieldTable::decode`] would, without building anything.
///
/// # Errors
/// If a field is cut off, of an unknown type or nested too deep.
pub fn validate_table(content: &[u8]) -> Result<(), DecodeError> {
    check_table(content, 1)
}

fn check_table(content: &[u8], depth: usize) -> Result<(), DecodeError> {
    let mut reader = Reader::new(content);
    while !reader.is_empty() {
        reader.short_bytes(FIELD_NAME)?;
        check_value(&mut reader, depth)?;
    }
    Ok(())
}

/// Like [`FieldValue::read`], but only looks.
fn check_value(reader: &mut Reader<'_>, depth: usize) -> Result<(), DecodeError> {
    const WHAT: &str = "a table field";
    match reader.u8("the type of a table field")? {
        b't' | b'b' | b'B' => reader.skip(1, WHAT),
        b's' | b'u' => reader.skip(2, WHAT),
        b'I' | b'i' | b'f' => reader.skip(4, WHAT),
        b'D' => reader.skip(5, WHAT),
        b'l' | b'L' | b'd' | b'T' => reader.skip(8, WHAT),
        b'S' | b'x' => reader.long_bytes(WHAT).map(drop),
        b'A' => {
            let depth = deeper(depth)?;
            let mut items = Reader::new(reader.long_bytes(WHAT)?);
            while !items.is_empty() {
                check_value(&mut items, depth)?;
            }
            Ok(())
        }
        b'F' => check_table(reader.long_bytes(WHAT)?, deeper(depth)?),
        b'V' => Ok(()),
        tag => Err(DecodeError::UnknownFieldType { tag }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_form_ignores_order_and_spelling() {
        let canonical = |content: &'static [u8]| {
            let table = RawTable::new(content).expect("well-formed");
            table.canonical()
        };
        assert_eq!(
            canonical(b"\x01aV\x01bt\x01"),
            canonical(b"\x01bt\x07\x01aV")
        );
        assert_eq!(
            canonical(b"\x01nl\0\0\0\0\0\0\0\x01"),
            canonical(b"\x01nL\0\0\0\0\0\0\0\x01")
        );
        assert_ne!(
            canonical(b"\x01nb\x01"),
            canonical(b"\x01nB\x01"),
            "types count"
        );
        assert_ne!(
            canonical(b"\x02\xffkV"),
            canonical(b"\x02\xfekV"),
            "bytes of names count"
        );
    }
}

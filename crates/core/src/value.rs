//! Field values as RabbitMQ compares them and prints them in reply texts.

use std::fmt;

use leveret_codec::FieldValue;

/// Whether two values mean the same: numbers by value whatever their width, others by type and
/// value.
pub(crate) fn equivalent(a: &FieldValue, b: &FieldValue) -> bool {
    match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => return a == b,
        (None, None) => {}
        _ => return false,
    }
    match (float(a), float(b)) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

fn float(value: &FieldValue) -> Option<f64> {
    match value {
        FieldValue::F32(v) => Some(f64::from(*v)),
        FieldValue::F64(v) => Some(*v),
        _ => None,
    }
}

/// Prints a value as an Erlang term, as RabbitMQ's `~p` does: `<<"text">>`, `5`, `true`.
pub(crate) fn term(value: &FieldValue) -> Term<'_> {
    Term {
        value,
        quoted: true,
    }
}

/// Prints a value the way "received '..' but current is '..'" shows it: strings as they are.
pub(crate) fn plain(value: &FieldValue) -> Term<'_> {
    Term {
        value,
        quoted: false,
    }
}

pub(crate) struct Term<'a> {
    value: &'a FieldValue,
    quoted: bool,
}

impl fmt::Display for Term<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(number) = self.value.as_i64() {
            return number.fmt(f);
        }
        match self.value {
            FieldValue::Bool(v) => v.fmt(f),
            FieldValue::F32(v) => v.fmt(f),
            FieldValue::F64(v) => v.fmt(f),
            FieldValue::Timestamp(v) => v.fmt(f),
            FieldValue::Void => f.write_str("undefined"),
            FieldValue::LongString(bytes) | FieldValue::ByteArray(bytes) => {
                let text = String::from_utf8_lossy(bytes);
                if self.quoted {
                    write!(f, "<<\"{text}\">>")
                } else {
                    f.write_str(&text)
                }
            }
            FieldValue::Array(items) => {
                f.write_str("[")?;
                for (n, item) in items.iter().enumerate() {
                    let comma = if n == 0 { "" } else { "," };
                    write!(f, "{comma}{}", term(item))?;
                }
                f.write_str("]")
            }
            FieldValue::Table(table) => {
                f.write_str("[")?;
                for (n, (key, item)) in table.iter().enumerate() {
                    let comma = if n == 0 { "" } else { "," };
                    write!(
                        f,
                        "{comma}{{<<\"{key}\">>,{},{}}}",
                        item.amqp_type_name(),
                        term(item)
                    )?;
                }
                f.write_str("]")
            }
            other => write!(f, "{other:?}"),
        }
    }
}

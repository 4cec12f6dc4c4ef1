//! Orders to a vhost: the message that a client would publish to `amq.schedule`.

use leveret_codec::{
    CLASS_BASIC, ContentHeader, FieldTable, FieldValue, Properties, PropertySummary,
};
use leveret_core::Message;
use serde_json::Value;

use crate::error::Error;

/// Where orders are published.
const EXCHANGE: &str = "amq.schedule";

/// What headers begin with that are meant for the broker: nobody puts them among those of the
/// message itself.
pub(crate) const RESERVED: [&str; 2] = ["x-schedule-", "x-delayed-"];

/// Longest name of a header, in octets.
const NAME_OCTETS_MAX: usize = 255;

/// A message in the making.
#[derive(Debug, Default)]
pub(crate) struct Order {
    pub(crate) headers: FieldTable,
    /// Without headers.
    pub(crate) properties: Properties,
    pub(crate) body: Vec<u8>,
}

impl Order {
    /// To the scheduler.
    pub(crate) fn schedule(action: &str) -> Self {
        Self::default().with("x-schedule-action", action)
    }

    /// About delayed messages.
    pub(crate) fn delayed(action: &str) -> Self {
        Self::default().with("x-delayed-action", action)
    }

    /// The same with another header.
    pub(crate) fn with(mut self, header: &str, value: impl Into<FieldValue>) -> Self {
        self.headers.insert(header, value);
        self
    }

    /// The same with another header, if there is a value.
    pub(crate) fn with_some(self, header: &str, value: Option<impl Into<FieldValue>>) -> Self {
        match value {
            Some(value) => self.with(header, value),
            None => self,
        }
    }

    pub(crate) fn into_message(self) -> Message {
        let properties = Properties {
            headers: Some(self.headers).filter(|headers| !headers.is_empty()),
            ..self.properties
        };
        let mut raw = Vec::new();
        let flags = properties.encode(&mut raw);
        let header = ContentHeader {
            class_id: CLASS_BASIC,
            body_size: self.body.len() as u64,
            flags,
            raw: &raw,
            summary: PropertySummary {
                delivery_mode: properties.delivery_mode.unwrap_or_default(),
                priority: properties.priority.unwrap_or_default(),
            },
        };
        Message::build(&mut Vec::new(), EXCHANGE, "", &header, &self.body)
    }
}

/// A JSON value as that of a header; `place` is for the error.
///
/// # Errors
/// 400 for a number that AMQP has no type for, or a name that is too long.
pub(crate) fn field_value(value: &Value, place: &str) -> Result<FieldValue, Error> {
    Ok(match value {
        Value::Null => FieldValue::Void,
        Value::Bool(flag) => FieldValue::Bool(*flag),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => FieldValue::I64(whole),
            (None, Some(float)) if !number.is_u64() => FieldValue::F64(float),
            _ => {
                return Err(Error::bad_request(format!(
                    "{place}: {number} is too large for a header"
                )));
            }
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => {
            let items = items.iter().map(|item| field_value(item, place));
            FieldValue::Array(items.collect::<Result<_, _>>()?)
        }
        Value::Object(fields) => FieldValue::Table(table(fields, place)?),
    })
}

/// The same for an object.
///
/// # Errors
/// As [`field_value`].
pub(crate) fn table(fields: &crate::body::Fields, place: &str) -> Result<FieldTable, Error> {
    let mut table = FieldTable::default();
    for (name, value) in fields {
        if name.len() > NAME_OCTETS_MAX {
            return Err(Error::bad_request(format!(
                "{place}: a name is longer than {NAME_OCTETS_MAX} octets"
            )));
        }
        table.insert(name.as_str(), field_value(value, place)?);
    }
    Ok(table)
}

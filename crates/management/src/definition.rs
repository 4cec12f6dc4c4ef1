//! From the JSON of a schedule to the order that makes it.
//!
//! Fields and headers are the same but for the way they are written: `misfire_max` is
//! `x-schedule-misfire-max`. What a value may be is the scheduler's to say, in the same words to
//! everybody.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use leveret_codec::Properties;
use serde_json::Value;

use crate::body::{self, Fields};
use crate::error::Error;
use crate::gateway::Caller;
use crate::order::{Order, RESERVED, field_value, table};

/// What becomes a header of the order.
pub(crate) const POLICIES: &[&str] = &[
    "cron",
    "every",
    "at",
    "dialect",
    "timezone",
    "dst",
    "exchange",
    "routing_key",
    "misfire",
    "misfire_max",
    "misfire_window",
    "overlap",
    "overlap_timeout",
    "jitter",
    "start",
    "end",
    "max_runs",
    "exclude_dates",
    "paused",
    "note",
    "deadline",
    "dead_letter_exchange",
    "dead_letter_routing_key",
    "retry_delay",
    "retry_limit",
];

/// What becomes the message itself.
const CONTENT: &[&str] = &["payload", "payload_encoding", "properties"];

/// Of the message's properties.
const PROPERTIES: &[&str] = &[
    "content_type",
    "content_encoding",
    "headers",
    "delivery_mode",
    "priority",
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "timestamp",
    "type",
    "user_id",
    "app_id",
];

/// Longest text of a property, in octets.
const TEXT_OCTETS_MAX: usize = 255;

/// An order about the schedule that these fields describe. Fields that are `null` are as if they
/// were not there.
///
/// # Errors
/// 400, naming the field.
pub(crate) fn order(action: &str, fields: &Fields, caller: &Caller) -> Result<Order, Error> {
    let known: Vec<&str> = POLICIES.iter().chain(CONTENT).copied().collect();
    body::only(fields, &known)?;
    let mut order = Order::schedule(action);
    for (field, value) in fields {
        if POLICIES.contains(&field.as_str()) && !value.is_null() {
            let header = format!("x-schedule-{}", field.replace('_', "-"));
            order.headers.insert(header, field_value(value, field)?);
        }
    }
    order.body = payload(fields)?;
    match fields.get("properties") {
        None | Some(Value::Null) => {}
        Some(Value::Object(given)) => properties(given, &mut order, caller)?,
        Some(_) => return Err(Error::bad_request("properties: not an object")),
    }
    Ok(order)
}

fn payload(fields: &Fields) -> Result<Vec<u8>, Error> {
    let text = text_of(fields, "payload")?.unwrap_or_default();
    match text_of(fields, "payload_encoding")? {
        None | Some("string") => Ok(text.as_bytes().to_vec()),
        Some("base64") => STANDARD
            .decode(text)
            .map_err(|error| Error::bad_request(format!("payload: not base64: {error}"))),
        Some(other) => Err(Error::bad_request(format!(
            "payload_encoding: '{other}' is neither string nor base64"
        ))),
    }
}

fn properties(given: &Fields, order: &mut Order, caller: &Caller) -> Result<(), Error> {
    body::only(given, PROPERTIES)?;
    match given.get("headers") {
        None | Some(Value::Null) => {}
        Some(Value::Object(headers)) => {
            let ours = |name: &&String| RESERVED.iter().any(|prefix| name.starts_with(prefix));
            if let Some(name) = headers.keys().find(ours) {
                return Err(Error::bad_request(format!(
                    "properties.headers: '{name}' is an order to the broker; use the field instead"
                )));
            }
            for (name, value) in table(headers, "properties.headers")? {
                order.headers.insert(name.as_str(), value);
            }
        }
        Some(_) => return Err(Error::bad_request("properties.headers: not an object")),
    }
    let text = |field| short(given, field);
    order.properties = Properties {
        content_type: text("content_type")?,
        content_encoding: text("content_encoding")?,
        headers: None,
        delivery_mode: octet(given, "delivery_mode", 1, 2)?,
        priority: octet(given, "priority", 0, 255)?,
        correlation_id: text("correlation_id")?,
        reply_to: text("reply_to")?,
        expiration: text("expiration")?,
        message_id: text("message_id")?,
        timestamp: number(given, "timestamp", 0, u64::MAX)?,
        kind: text("type")?,
        user_id: text("user_id")?,
        app_id: text("app_id")?,
        cluster_id: None,
    };
    match &order.properties.user_id {
        Some(claimed) if !caller.impersonator && **claimed != *caller.name.as_bytes() => {
            Err(Error::bad_request(format!(
                "user_id property set to '{}' but authenticated user was '{}'",
                String::from_utf8_lossy(claimed),
                caller.name
            )))
        }
        _ => Ok(()),
    }
}

/// A field that is a text.
///
/// # Errors
/// 400 if it is something else.
pub(crate) fn text_of<'a>(fields: &'a Fields, field: &str) -> Result<Option<&'a str>, Error> {
    match fields.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Error::bad_request(format!("{field}: not a text"))),
    }
}

fn short(fields: &Fields, field: &str) -> Result<Option<Bytes>, Error> {
    match text_of(fields, field)? {
        Some(text) if text.len() > TEXT_OCTETS_MAX => Err(Error::bad_request(format!(
            "properties.{field}: longer than {TEXT_OCTETS_MAX} octets"
        ))),
        text => Ok(text.map(|text| Bytes::copy_from_slice(text.as_bytes()))),
    }
}

fn number(fields: &Fields, field: &str, min: u64, max: u64) -> Result<Option<u64>, Error> {
    match fields.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().filter(|n| (min..=max).contains(n)) {
            Some(number) => Ok(Some(number)),
            None => Err(Error::bad_request(format!(
                "properties.{field}: not a whole number of {min} to {max}"
            ))),
        },
    }
}

fn octet(fields: &Fields, field: &str, min: u8, max: u8) -> Result<Option<u8>, Error> {
    let number = number(fields, field, min.into(), max.into())?;
    Ok(number.and_then(|number| u8::try_from(number).ok()))
}

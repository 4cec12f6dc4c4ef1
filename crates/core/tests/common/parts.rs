//! Parts to put inputs together from.

use std::sync::Arc;

use leveret_codec::{
    BasicConsume, ContentHeader, ExchangeDeclare, FieldTable, FieldValue, Method, Properties,
    PropertySummary, QueueDeclare, RawTable, ShortStr,
};
use leveret_core::{Capabilities, Command, Message, Peer, Permissions};

use super::Chan;

pub(crate) fn peer() -> Peer {
    Peer {
        user: Arc::from("guest"),
        permissions: Permissions::all(),
        impersonator: false,
        capabilities: Capabilities {
            consumer_cancel_notify: true,
            connection_blocked: true,
            authentication_failure_close: true,
        },
    }
}

/// A client with RabbitMQ's three patterns for what it may configure, write and read.
pub(crate) fn peer_with_rights(configure: &str, write: &str, read: &str) -> Peer {
    Peer {
        permissions: Permissions::new(configure, write, read).expect("good patterns"),
        ..peer()
    }
}

pub(crate) fn short(text: &str) -> ShortStr<'static> {
    ShortStr::truncated(text.to_owned())
}

pub(crate) fn table<const N: usize>(fields: [(&str, FieldValue); N]) -> RawTable<'static> {
    RawTable::from_table(&field_table(fields))
}

pub(crate) fn field_table<const N: usize>(fields: [(&str, FieldValue); N]) -> FieldTable {
    fields.into_iter().collect()
}

pub(crate) fn queue_declare(name: &str) -> QueueDeclare<'static> {
    QueueDeclare {
        queue: short(name),
        ..QueueDeclare::default()
    }
}

pub(crate) fn queue_declare_with<const N: usize>(
    name: &str,
    arguments: [(&str, FieldValue); N],
) -> QueueDeclare<'static> {
    QueueDeclare {
        arguments: table(arguments),
        ..queue_declare(name)
    }
}

pub(crate) fn exchange_declare(name: &str, kind: &str) -> ExchangeDeclare<'static> {
    ExchangeDeclare {
        exchange: short(name),
        kind: short(kind),
        ..ExchangeDeclare::default()
    }
}

pub(crate) fn basic_consume(queue: &str, tag: &str) -> BasicConsume<'static> {
    BasicConsume {
        queue: short(queue),
        consumer_tag: short(tag),
        ..BasicConsume::default()
    }
}

pub(crate) fn message(exchange: &str, key: &str, body: &str) -> Message {
    message_with(exchange, key, Properties::default(), body)
}

pub(crate) fn message_with(
    exchange: &str,
    key: &str,
    properties: Properties,
    body: &str,
) -> Message {
    let mut raw = Vec::new();
    let flags = properties.encode(&mut raw);
    let header = ContentHeader {
        class_id: 60,
        body_size: body.len() as u64,
        flags,
        raw: &raw,
        summary: PropertySummary {
            delivery_mode: properties.delivery_mode.unwrap_or_default(),
            priority: properties.priority.unwrap_or_default(),
        },
    };
    Message::build(&mut Vec::new(), exchange, key, &header, body.as_bytes())
}

pub(crate) fn persistent() -> Properties {
    Properties {
        delivery_mode: Some(2),
        ..Properties::default()
    }
}

pub(crate) fn headers<const N: usize>(fields: [(&str, FieldValue); N]) -> Properties {
    Properties {
        headers: Some(field_table(fields)),
        ..Properties::default()
    }
}

/// A CC or BCC header.
pub(crate) fn keys<const N: usize>(keys: [&str; N]) -> FieldValue {
    FieldValue::Array(keys.into_iter().map(FieldValue::from).collect())
}

pub(crate) fn publish(on: Chan, message: Message) -> Command {
    Command::Publish {
        channel: on.number,
        mandatory: false,
        message,
    }
}

pub(crate) fn command(on: Chan, method: impl Into<Method<'static>>) -> Command {
    Command::Method {
        channel: on.number,
        method: Box::new(method.into()),
    }
}

/// How long something really took. Not the broker's time: this is about the cost of a turn.
#[allow(clippy::disallowed_methods, reason = "a cost is measured with a clock")]
pub(crate) fn took(work: impl FnOnce()) -> std::time::Duration {
    let start = std::time::Instant::now();
    work();
    start.elapsed()
}

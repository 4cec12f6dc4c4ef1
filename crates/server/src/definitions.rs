//! What is defined in the broker, as JSON in the format of RabbitMQ's exported definitions.
//!
//! Schedules, which RabbitMQ has none of, are in a list of their own.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use leveret_codec::{FieldTable, FieldValue, Properties};
use leveret_core::Broker;
use leveret_core::inspection::{BindingDefinition, Definitions, ScheduleDefinition, Tour};
use serde_json::{Map, Value, json};

use crate::auth::Door;
use crate::node::Node;
use crate::shard::Shard;

/// How much of a vhost is looked at in one go, between two turns, as [`Tour::work`] counts it: some
/// tenths of a millisecond.
const PIECE_WORK: u64 = 1_000;

/// Schedules that are looked at in one go, between two turns.
const SCHEDULES_AT_ONCE: usize = 200;

/// Everything. Waits for turns of vhosts, so not for a thread that others need.
#[must_use]
pub fn export(node: &Node) -> Value {
    let mut lists = Lists::default();
    for (vhost, shard) in &node.shards {
        lists.vhosts.push(json!({ "name": &**vhost }));
        lists.add_all(vhost, shard);
        lists.add_schedules(vhost, shard);
    }
    let (users, permissions) = accounts(&node.door);
    json!({
        "rabbit_version": "4.3.0",
        "product_name": "Leveret",
        "product_version": env!("CARGO_PKG_VERSION"),
        "vhosts": lists.vhosts,
        "users": users,
        "permissions": permissions,
        "exchanges": lists.exchanges,
        "queues": lists.queues,
        "bindings": lists.bindings,
        "schedules": lists.schedules,
    })
}

#[derive(Default)]
struct Lists {
    vhosts: Vec<Value>,
    exchanges: Vec<Value>,
    queues: Vec<Value>,
    bindings: Vec<Value>,
    schedules: Vec<Value>,
}

impl Lists {
    fn add(&mut self, vhost: &str, found: &Definitions) {
        self.exchanges.extend(found.exchanges.iter().map(|x| {
            json!({
                "name": &*x.name, "vhost": vhost, "type": x.kind, "durable": true,
                "auto_delete": x.auto_delete, "internal": x.internal,
                "arguments": table(&x.arguments),
            })
        }));
        self.queues.extend(found.queues.iter().map(|queue| {
            json!({
                "name": &*queue.name, "vhost": vhost, "durable": true,
                "auto_delete": queue.auto_delete, "arguments": table(&queue.arguments),
            })
        }));
        let bindings = found.bindings.iter().map(|it| binding(vhost, it));
        self.bindings.extend(bindings);
    }

    /// Piece by piece, as [`Tour`] says. So the vhosts, the pieces of one of them and the schedules are
    /// each of a moment of their own, and what was read in is what a broker may have had.
    fn add_all(&mut self, vhost: &str, shard: &Arc<Shard>) {
        let mut tour = Tour::of(shard.inspect(Broker::inventory));
        while let Some(found) = shard.inspect(|broker| broker.definitions(&mut tour, PIECE_WORK)) {
            self.add(vhost, &found);
        }
    }

    fn add_schedules(&mut self, vhost: &str, shard: &Arc<Shard>) {
        let mut after: Option<Arc<str>> = None;
        loop {
            let some =
                shard.inspect(|broker| broker.schedules_after(after.as_deref(), SCHEDULES_AT_ONCE));
            let Some(last) = some.last() else {
                return;
            };
            after = Some(Arc::clone(&last.name));
            let schedules = some.iter().map(|it| schedule(vhost, it));
            self.schedules.extend(schedules);
        }
    }
}

fn accounts(door: &Door) -> (Vec<Value>, Vec<Value>) {
    let mut permissions = Vec::new();
    let mut users = Vec::new();
    for user in door.users() {
        let (hash, algorithm) = user.password.export();
        users.push(json!({
            "name": &*user.name, "password_hash": hash, "hashing_algorithm": algorithm,
            "tags": user.tags, "limits": {},
        }));
        for (vhost, rights) in &user.permissions {
            let [configure, write, read] = rights.patterns();
            permissions.push(json!({
                "user": &*user.name, "vhost": &**vhost,
                "configure": configure, "write": write, "read": read,
            }));
        }
    }
    (users, permissions)
}

fn binding(vhost: &str, binding: &BindingDefinition) -> Value {
    let kind = if binding.to_queue {
        "queue"
    } else {
        "exchange"
    };
    // It was encoded by us.
    let arguments = FieldTable::decode(&binding.arguments).unwrap_or_default();
    json!({
        "source": &*binding.source, "vhost": vhost, "destination": &*binding.destination,
        "destination_type": kind, "routing_key": &*binding.routing_key,
        "arguments": table(&arguments),
    })
}

fn schedule(vhost: &str, schedule: &ScheduleDefinition) -> Value {
    let described = serde_json::from_slice(&schedule.description);
    let mut value: Map<String, Value> = described.unwrap_or_default(); // it is our own JSON
    value.insert("vhost".to_owned(), vhost.into());
    let payload = STANDARD.encode(schedule.message.body());
    value.insert("payload".to_owned(), payload.into());
    value.insert("payload_encoding".to_owned(), "base64".into());
    let properties = properties(&schedule.message.properties());
    value.insert("properties".to_owned(), properties);
    value.into()
}

fn properties(all: &Properties) -> Value {
    let mut value = Map::new();
    let texts = [
        ("content_type", &all.content_type),
        ("content_encoding", &all.content_encoding),
        ("correlation_id", &all.correlation_id),
        ("reply_to", &all.reply_to),
        ("expiration", &all.expiration),
        ("message_id", &all.message_id),
        ("type", &all.kind),
        ("user_id", &all.user_id),
        ("app_id", &all.app_id),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            value.insert(name.to_owned(), String::from_utf8_lossy(text).into());
        }
    }
    let numbers = [
        ("delivery_mode", all.delivery_mode.map(u64::from)),
        ("priority", all.priority.map(u64::from)),
        ("timestamp", all.timestamp),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            value.insert(name.to_owned(), number.into());
        }
    }
    if let Some(headers) = &all.headers {
        value.insert("headers".to_owned(), table(headers));
    }
    value.into()
}

/// A field table as RabbitMQ's API shows it.
fn table(fields: &FieldTable) -> Value {
    let fields = fields.iter();
    let fields = fields.map(|(name, value)| (name.to_string(), field(value)));
    Value::Object(fields.collect())
}

fn field(value: &FieldValue) -> Value {
    match value {
        FieldValue::Bool(flag) => (*flag).into(),
        FieldValue::F32(number) => f64::from(*number).into(),
        FieldValue::F64(number) => (*number).into(),
        FieldValue::Decimal { scale, value } => {
            (f64::from(*value) / 10_f64.powi((*scale).into())).into()
        }
        FieldValue::LongString(octets) | FieldValue::ByteArray(octets) => {
            String::from_utf8_lossy(octets).into()
        }
        FieldValue::Array(items) => items.iter().map(field).collect(),
        FieldValue::Timestamp(seconds) => (*seconds).into(),
        FieldValue::Table(fields) => table(fields),
        FieldValue::Void => Value::Null,
        // The whole numbers.
        other => other.as_i64().map_or(Value::Null, Value::from),
    }
}

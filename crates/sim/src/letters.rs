//! Dead letters of the model: what a message becomes when its queue gets rid of it.

use leveret_codec::{FieldTable, FieldValue, Properties};
use leveret_core::Message;

use crate::model::{Published, body};
use crate::rules::Rules;

/// One line of a message's history: a queue it died in, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Death {
    /// The queue.
    pub queue: String,
    /// As it stands in `x-death`.
    pub reason: &'static str,
    /// How often.
    pub count: i64,
    /// When for the first time, in seconds.
    pub time_s: u64,
    /// Where it had been published to.
    pub exchange: String,
    /// Its keys then.
    pub keys: Vec<String>,
    /// Its time, if it had one of its own.
    pub expiration: Option<String>,
}

/// What a message has been through, the latest death first.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Past {
    /// One for each queue and reason.
    pub deaths: Vec<Death>,
    /// Queue, reason and exchange of the very first.
    pub first: Option<(String, &'static str, String)>,
}

impl Past {
    /// A name for it: the same for letters that went the same way.
    #[must_use]
    pub fn name(&self) -> String {
        let Some((queue, ..)) = &self.first else {
            return String::new();
        };
        let mut name = format!("{queue}:");
        for death in &self.deaths {
            name += &format!(" {} {} {},", death.queue, death.reason, death.count);
        }
        name
    }

    /// Deaths in all.
    #[must_use]
    pub fn len(&self) -> i64 {
        self.deaths.iter().map(|death| death.count).sum()
    }

    /// Whether it has not died yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Whether the message would go round: it has died there, and nobody has rejected it since.
    #[must_use]
    pub fn goes_round(&self, queue: &str) -> bool {
        for death in &self.deaths {
            if death.reason == "rejected" {
                return false;
            }
            if death.queue == queue {
                return true;
            }
        }
        false
    }
}

/// The name of what a message has been through, by what it says itself.
#[must_use]
pub fn past_of(headers: Option<&FieldTable>) -> String {
    let text = |table: &FieldTable, name: &str| {
        let text = table.get(name).and_then(FieldValue::as_str);
        text.unwrap_or_default().to_owned()
    };
    let Some(headers) = headers.filter(|h| h.get("x-first-death-queue").is_some()) else {
        return String::new();
    };
    let mut name = format!("{}:", text(headers, "x-first-death-queue"));
    if let Some(FieldValue::Array(deaths)) = headers.get("x-death") {
        for death in deaths.iter().filter_map(FieldValue::as_table) {
            let count = death.get("count").and_then(FieldValue::as_i64);
            let count = count.unwrap_or_default();
            name += &format!(
                " {} {} {count},",
                text(death, "queue"),
                text(death, "reason")
            );
        }
    }
    name
}

/// The same of a whole message.
#[must_use]
pub fn past_of_message(message: &Message) -> String {
    if message.property_flags() & leveret_codec::flags::HEADERS == 0 {
        return String::new();
    }
    past_of(message.properties().headers.as_ref())
}

/// What becomes of a message that dies in this queue now.
#[must_use]
pub fn letter(
    message: &Published,
    queue: &str,
    rules: &Rules,
    reason: &'static str,
    now_s: u64,
) -> Published {
    let mut properties = Properties::parse(message.flags, &message.raw).unwrap_or_default();
    let expiration = properties.expiration.take();
    let mut headers = properties.headers.take().unwrap_or_default();
    let mut keys = vec![message.keys[0].clone()];
    if let Some(FieldValue::Array(copies)) = headers.get("CC") {
        keys.extend(
            copies
                .iter()
                .filter_map(|key| key.as_str())
                .map(str::to_owned),
        );
    }
    let mut past = message.past.clone();
    let before = |death: &Death| death.queue == queue && death.reason == reason;
    let death = match past.deaths.iter().position(before) {
        Some(at) => {
            let mut death = past.deaths.remove(at);
            death.count += 1;
            death
        }
        None => Death {
            queue: queue.to_owned(),
            reason,
            count: 1,
            time_s: now_s,
            exchange: message.exchange.clone(),
            keys: keys.clone(),
            expiration: expiration.map(|text| String::from_utf8_lossy(&text).into_owned()),
        },
    };
    past.deaths.insert(0, death);
    let last = (queue.to_owned(), reason, message.exchange.clone());
    let first = past.first.get_or_insert_with(|| last.clone()).clone();
    for (when, (queue, reason, exchange)) in [("first", &first), ("last", &last)] {
        headers.insert(format!("x-{when}-death-queue"), queue.as_str());
        headers.insert(format!("x-{when}-death-reason"), *reason);
        headers.insert(format!("x-{when}-death-exchange"), exchange.as_str());
    }
    let deaths = past
        .deaths
        .iter()
        .map(|death| FieldValue::Table(table(death)));
    headers.insert("x-death", FieldValue::Array(deaths.collect()));
    if let Some(key) = &rules.dead_letter_key {
        headers.remove("CC");
        keys = vec![key.clone()];
    }
    properties.headers = Some(headers.clone());
    let mut raw = Vec::new();
    let flags = properties.encode(&mut raw);
    Published {
        exchange: rules.dead_letter.clone().unwrap_or_default(),
        keys,
        sent: (flags, raw.clone()),
        flags,
        raw,
        headers,
        body_len: message.body_len,
        persistent: message.persistent,
        priority: message.priority,
        expiration_ms: None,
        past,
        refused: None,
    }
}

fn table(death: &Death) -> FieldTable {
    let mut table = FieldTable::default();
    table.insert("count", FieldValue::I64(death.count));
    table.insert("reason", death.reason);
    table.insert("queue", death.queue.as_str());
    table.insert("time", FieldValue::Timestamp(death.time_s));
    table.insert("exchange", death.exchange.as_str());
    let keys = death.keys.iter().map(|key| key.as_str().into());
    table.insert("routing-keys", FieldValue::Array(keys.collect()));
    if let Some(expiration) = &death.expiration {
        table.insert("original-expiration", expiration.as_str());
    }
    table
}

/// Whether a message that was sent is this one, after so many failed deliveries if it is to say so.
#[must_use]
pub fn is_same(message: &Message, id: u64, published: &Published, failures: u32) -> bool {
    let address = published.exchange == message.exchange()
        && published.keys[0] == message.routing_key()
        && body(id, published.body_len) == message.body();
    if !address {
        return false;
    }
    if published.flags == message.property_flags()
        && published.raw == message.raw_properties()
        && failures == 0
    {
        return true;
    }
    if published.past.is_empty() && failures == 0 {
        return false; // nobody may have touched it
    }
    let mut sent = message.properties();
    let mut right = Properties::parse(published.flags, &published.raw).unwrap_or_default();
    let sent_headers = sent.headers.take().unwrap_or_default();
    let mut headers = right.headers.take().unwrap_or_default();
    if failures > 0 {
        headers.insert("x-delivery-count", FieldValue::I64(failures.into()));
    }
    sent == right && is_same_table(&sent_headers, &headers)
}

/// Whether two tables say the same, in whatever order.
fn is_same_table(a: &FieldTable, b: &FieldTable) -> bool {
    a.len() == b.len()
        && a.iter().all(|(name, value)| match (value, b.get(name)) {
            (_, None) => false,
            (FieldValue::Table(a), Some(FieldValue::Table(b))) => is_same_table(a, b),
            (FieldValue::Array(a), Some(FieldValue::Array(b))) => {
                let same = |(a, b): (&FieldValue, &FieldValue)| match (a, b) {
                    (FieldValue::Table(a), FieldValue::Table(b)) => is_same_table(a, b),
                    (a, b) => a == b,
                };
                a.len() == b.len() && a.iter().zip(b).all(same)
            }
            (value, Some(other)) => value == other,
        })
}

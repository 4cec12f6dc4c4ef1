//! Exchanges, queues and bindings of a throughput scenario, and the messages that fit them.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use leveret_codec::{FieldTable, FieldValue};

use crate::{
    Error, Result,
    client::Client,
    pace::Pace,
    script::{Script, Template},
    storage::Storage,
    url::Url,
};

/// How messages get to queues.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shape {
    /// One queue, through the default exchange.
    Queue,
    /// The same, with so many milliseconds of delay; on a server that knows none by way of a queue
    /// with a TTL.
    Delayed(u32),
    /// This many, each with a connection of its own that publishes to it and consumes from it.
    Queues(u16),
    /// A fanout exchange to this many, each consumed by its own connection.
    Fanout(u16),
    /// A direct exchange and one queue, with this many keys in turn, each bound.
    Direct { keys: u32 },
    /// A topic exchange and one queue. Every key matches; with `rebind`, bindings come and go all
    /// the time.
    Topic {
        bindings: u32,
        keys: u32,
        rebind: bool,
    },
    /// A headers exchange and one queue. Every message matches one binding.
    Headers { bindings: u32, keys: u32 },
    /// A direct exchange to one queue, and of so many messages one also to a second queue, where
    /// nobody takes it.
    Keep { every: u32 },
}

/// How often a binding comes and goes, where they do.
const REBIND_EVERY: Duration = Duration::from_millis(10);

/// Bindings that wait to be unbound again.
const REBIND_KEPT: u64 = 100;

/// Keys of messages that are consumed, and of those that a second queue keeps.
const TAKEN_KEY: &str = "taken";
const KEPT_KEY: &str = "kept";

/// How long the server may take until all messages it has read are ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What was set up on the server, and what to send there.
pub struct Layout {
    pub queues: Vec<String>,
    /// One for each publishing connection.
    pub scripts: Vec<Script>,
    /// Queues that each message goes to.
    pub copies: u64,
    exchange: Option<String>,
    /// A queue that nobody consumes.
    kept: Option<String>,
    url: Url,
    admin: Option<Client>,
}

impl Layout {
    /// # Errors
    /// When the server is gone or refuses.
    pub fn declare(url: &Url, shape: Shape, body_size: usize, storage: Storage) -> Result<Self> {
        let mut admin = Client::connect(url)?;
        let prefix = unique_name();
        let (kind, count) = match shape {
            Shape::Queue | Shape::Delayed(_) => (None, 1),
            Shape::Queues(count) => (None, count),
            Shape::Fanout(count) => (Some("fanout"), count),
            Shape::Direct { .. } | Shape::Keep { .. } => (Some("direct"), 1),
            Shape::Topic { .. } => (Some("topic"), 1),
            Shape::Headers { .. } => (Some("headers"), 1),
        };
        let queues: Vec<String> = (0..count).map(|i| format!("{prefix}.{i}")).collect();
        let kept = matches!(shape, Shape::Keep { .. }).then(|| format!("{prefix}.kept"));
        for queue in queues.iter().chain(&kept) {
            admin.queue_declare(queue, storage)?;
        }
        let waiting = match shape {
            Shape::Delayed(ms) if !admin.knows_delays() => {
                let waiting = format!("{prefix}.waiting");
                admin.queue_declare_waiting(&waiting, ms, &queues[0])?;
                Some(waiting)
            }
            _ => None,
        };
        let exchange = kind.is_some().then(|| format!("{prefix}.x"));
        if let (Some(exchange), Some(kind)) = (&exchange, kind) {
            admin.exchange_declare(exchange, kind)?;
            for binding in bindings(shape) {
                for queue in &queues {
                    admin.queue_bind(queue, exchange, &binding.key, &binding.arguments)?;
                }
            }
            if let Some(kept) = &kept {
                admin.queue_bind(kept, exchange, KEPT_KEY, &FieldTable::default())?;
            }
            admin.queue_ready(&queues[0])?; // all bindings are there when this is answered
        }
        let template = |routing_key, headers| Template {
            exchange: exchange.clone().unwrap_or_default(),
            routing_key,
            headers,
            body_size,
            persistent: storage.is_durable(),
        };
        let scripts = match shape {
            Shape::Delayed(ms) => {
                let (queue, headers) = match &waiting {
                    None => (&queues[0], delay(ms)),
                    Some(waiting) => (waiting, FieldTable::default()),
                };
                let script = Script::new(&[template(queue.clone(), headers)], 0)?;
                vec![script.with_delay(Duration::from_millis(ms.into()))]
            }
            Shape::Queue | Shape::Queues(_) => (0..)
                .zip(&queues)
                .map(|(stamp, queue)| {
                    Script::new(&[template(queue.clone(), FieldTable::default())], stamp)
                })
                .collect::<Result<_>>()?,
            _ => {
                let templates: Vec<Template> = messages(shape)
                    .into_iter()
                    .map(|(key, headers)| template(key, headers))
                    .collect();
                vec![Script::new(&templates, 0)?]
            }
        };
        Ok(Self {
            queues,
            scripts,
            copies: match shape {
                Shape::Fanout(count) => count.into(),
                _ => 1,
            },
            exchange,
            kept: kept.or(waiting),
            url: url.clone(),
            admin: Some(admin),
        })
    }

    /// Waits until this many messages are ready, of those that nobody consumes.
    ///
    /// # Errors
    /// When there are more, or not so many after a while.
    pub fn wait_until_ready(&mut self, count: u64) -> Result<()> {
        let since = Instant::now();
        loop {
            let mut ready = 0;
            for queue in self.queues.clone() {
                ready += u64::from(self.admin()?.queue_ready(&queue)?);
            }
            if ready == count {
                return Ok(());
            }
            if ready > count || since.elapsed() > READY_TIMEOUT {
                let text = format!("{ready} messages are ready, {count} were sent");
                return Err(Error::Wrong(text));
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Says goodbye to the server for now: it may be restarted. What follows connects again.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn disconnect(&mut self) -> Result<()> {
        self.admin.take().map_or(Ok(()), Client::close)
    }

    fn admin(&mut self) -> Result<&mut Client> {
        match &mut self.admin {
            Some(admin) => Ok(admin),
            gone => Ok(gone.insert(Client::connect(&self.url)?)),
        }
    }

    /// Binds and unbinds until the publisher stops: what is cached about routes does not last.
    pub fn rebind(url: &Url, queue: &str, exchange: &str, pace: &Pace) -> Result<()> {
        let mut client = Client::connect(url)?;
        let key = |number: u64| format!("passing.*.unit{number}.#");
        let mut bound = 0;
        while !pace.is_stopped() {
            client.queue_bind(queue, exchange, &key(bound), &FieldTable::default())?;
            if bound >= REBIND_KEPT {
                client.queue_unbind(queue, exchange, &key(bound - REBIND_KEPT))?;
            } else {
                client.queue_ready(queue)?;
            }
            bound += 1;
            thread::sleep(REBIND_EVERY);
        }
        client.close()
    }

    pub fn exchange(&self) -> &str {
        self.exchange.as_deref().unwrap_or_default()
    }

    /// Removes everything that was declared.
    pub fn remove(mut self) -> Result<()> {
        if let Some(exchange) = self.exchange.take() {
            self.admin()?.exchange_delete(&exchange)?;
        }
        for queue in std::mem::take(&mut self.queues)
            .iter()
            .chain(&self.kept.take())
        {
            self.admin()?.queue_delete(queue)?;
        }
        self.disconnect()
    }
}

/// A name that no other run uses.
pub fn unique_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("perf.{}.{number}", std::process::id())
}

struct Binding {
    key: String,
    arguments: FieldTable,
}

/// What says that a message is to wait.
fn delay(ms: u32) -> FieldTable {
    let mut headers = FieldTable::default();
    headers.insert("x-deliver-after", FieldValue::I64(ms.into()));
    headers
}

fn bindings(shape: Shape) -> Vec<Binding> {
    let plain = |key| Binding {
        key,
        arguments: FieldTable::default(),
    };
    match shape {
        Shape::Queue | Shape::Delayed(_) | Shape::Queues(_) => Vec::new(),
        Shape::Fanout(_) => vec![plain(String::new())],
        Shape::Direct { keys } => (0..keys).map(|i| plain(direct_key(i))).collect(),
        Shape::Keep { .. } => [TAKEN_KEY, KEPT_KEY].map(|key| plain(key.into())).into(),
        Shape::Topic { bindings, .. } => (0..bindings).map(|i| plain(topic_pattern(i))).collect(),
        Shape::Headers { bindings, .. } => (0..bindings)
            .map(|i| {
                let mut arguments = headers(i);
                arguments.insert("x-match", text("all"));
                Binding {
                    key: String::new(),
                    arguments,
                }
            })
            .collect(),
    }
}

/// Routing key and headers of each kind of message.
fn messages(shape: Shape) -> Vec<(String, FieldTable)> {
    let none = FieldTable::default;
    match shape {
        Shape::Queue | Shape::Delayed(_) | Shape::Queues(_) => Vec::new(), // their keys are the queues' names
        Shape::Fanout(_) => vec![("news".into(), none())],
        Shape::Direct { keys } => (0..keys).map(|i| (direct_key(i), none())).collect(),
        Shape::Keep { every } => (0..every)
            .map(|j| if j == 0 { KEPT_KEY } else { TAKEN_KEY })
            .map(|key| (key.into(), none()))
            .collect(),
        Shape::Topic { bindings, keys, .. } => (0..keys)
            .map(|j| (topic_key(spread(j, bindings), j), none()))
            .collect(),
        Shape::Headers { bindings, keys } => (0..keys)
            .map(|j| (String::new(), headers(spread(j, bindings))))
            .collect(),
    }
}

/// Picks a binding for the `j`th message kind, from all over the range: 61 shares no divisor with
/// the numbers of bindings we use, so all are picked in turn.
fn spread(j: u32, bindings: u32) -> u32 {
    (u64::from(j) * 61 % u64::from(bindings)) as u32 // smaller than `bindings`
}

fn direct_key(i: u32) -> String {
    format!("site{i}.line{i}.temperature")
}

/// Binding `i`: a quarter each with a star inside, stars at both ends, a hash in front, a hash at
/// the end.
fn topic_pattern(i: u32) -> String {
    match i % 4 {
        0 => format!("site{i}.*.temperature"),
        1 => format!("*.line{i}.*"),
        2 => format!("#.unit{i}"),
        _ => format!("depot{i}.#"),
    }
}

/// A key that only pattern `i` matches, with `j` to make it different from others of its kind.
fn topic_key(i: u32, j: u32) -> String {
    match i % 4 {
        0 => format!("site{i}.l{j}.temperature"),
        1 => format!("s{j}.line{i}.pressure"),
        2 => format!("region.s{j}.unit{i}"),
        _ => format!("depot{i}.l{j}.door"),
    }
}

fn headers(i: u32) -> FieldTable {
    let fields = [
        ("site", text(&format!("site{i}"))),
        ("kind", text("reading")),
    ];
    let mut table = FieldTable::default();
    for (key, value) in fields {
        table.insert(key, value);
    }
    table
}

fn text(value: &str) -> FieldValue {
    FieldValue::LongString(value.as_bytes().to_vec().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition itself, word by word; `#` tries every length.
    fn matches(pattern: &[&str], key: &[&str]) -> bool {
        match pattern.split_first() {
            None => key.is_empty(),
            Some((&"#", rest)) => (0..=key.len()).any(|skip| matches(rest, &key[skip..])),
            Some((&word, rest)) => key
                .split_first()
                .is_some_and(|(&first, key)| (word == "*" || word == first) && matches(rest, key)),
        }
    }

    #[test]
    fn every_topic_key_matches_its_pattern_and_no_other() {
        const BINDINGS: u32 = 1_000;
        let patterns: Vec<String> = (0..BINDINGS).map(topic_pattern).collect();
        let shape = Shape::Topic {
            bindings: BINDINGS,
            keys: 32,
            rebind: false,
        };
        for (key, _) in messages(shape) {
            let words: Vec<&str> = key.split('.').collect();
            let matching = patterns.iter().filter(|pattern| {
                let pattern: Vec<&str> = pattern.split('.').collect();
                matches(&pattern, &words)
            });
            assert_eq!(matching.count(), 1, "{key}");
        }
    }

    #[test]
    fn one_message_in_so_many_is_kept() {
        let shape = Shape::Keep { every: 20 };
        let keys = messages(shape).into_iter().map(|(key, _)| key);
        assert_eq!(keys.filter(|key| key == KEPT_KEY).count(), 1);
        assert_eq!(messages(shape).len(), 20);
        assert_eq!(bindings(shape).len(), 2, "all of them are consumed");
    }

    #[test]
    fn message_kinds_are_spread_over_all_bindings() {
        for bindings in [1_000, 10_000] {
            let mut picked: Vec<u32> = (0..bindings).map(|j| spread(j, bindings)).collect();
            picked.sort_unstable();
            assert!(picked.into_iter().eq(0..bindings), "each once");
        }
    }

    #[test]
    fn few_keys_use_all_kinds_of_patterns() {
        let kinds: std::collections::BTreeSet<u32> =
            (0..16).map(|j| spread(j, 10_000) % 4).collect();
        assert_eq!(kinds.len(), 4);
    }
}

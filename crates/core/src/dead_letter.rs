//! Messages that a queue gets rid of, and where they go (`x-dead-letter-exchange`).
//!
//! A death is noted when it happens and carried out before the turn ends, one after the other: a
//! dead letter may make another queue too long, whose oldest message dies then, and so on. The
//! message leaves its queue and enters the others in one record.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use leveret_codec::{FieldTable, FieldValue};

use crate::delay;
use crate::delayed::Held;
use crate::effect::Effects;
use crate::fired::Wishes;
use crate::ids::{Lsn, QueueId, QueueNumber, Seq};
use crate::message::Message;
use crate::queue::index::Entry;
use crate::queue::rules::DeadLetterTo;
use crate::record::Fact;
use crate::schedule::Ending;
use crate::timer::Timer;
use crate::vhost::Vhost;

/// Why a message left its queue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Reason {
    /// A consumer did not want it, and did not want it back in the queue.
    Rejected,
    /// Its time ran out.
    Expired,
    /// The queue was too long.
    MaxLength,
    /// Its deliveries failed too often.
    DeliveryLimit,
}

/// Most deaths that a message remembers: they travel with it, in one frame.
const DEATHS_MAX: usize = 100;

/// Most deaths that wait to be carried out and came of other deaths. That many come of few only where
/// full queues pass their messages to each other in ever new orders; what is beyond is dropped. What
/// dies by itself was in a queue before and takes no more memory now, however many that are.
const OF_DEATHS_MAX: usize = 10_000;

/// Deaths that are carried out in one go.
const BURIED_AT_ONCE: usize = 1_000;

impl Death {
    /// The record that says that it has left its queue, if that is in the log.
    fn settled(&self) -> Option<Fact> {
        let (queue, seq) = self.place?;
        Some(Fact::Settled { queue, seq })
    }
}

impl Reason {
    /// As it stands in `x-death`.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::MaxLength => "maxlen",
            Self::DeliveryLimit => "delivery_limit",
        }
    }
}

/// A message to be dead-lettered.
#[derive(Debug)]
pub(crate) struct Death {
    queue: Arc<str>,
    /// It was in the queue, and not just turned away.
    was_in: bool,
    /// Where it is in the log, if it is.
    place: Option<(QueueNumber, Seq)>,
    to: DeadLetterTo,
    message: Message,
    reason: Reason,
}

/// The deaths that were noted.
#[derive(Debug, Default)]
pub(crate) struct Burials {
    /// With each whether it came of another: a letter took its place, or it was one and found none.
    waiting: VecDeque<(Death, bool)>,
    /// How many of them did.
    of_deaths: usize,
    /// One is being carried out.
    burying: bool,
    /// A timer sees to the rest.
    pub(crate) timed: bool,
}

impl Burials {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes a death in, or gives it back if far too many have come of others.
    fn note(&mut self, death: Death) -> Result<(), Death> {
        if self.burying && self.of_deaths >= OF_DEATHS_MAX {
            return Err(death);
        }
        self.of_deaths += usize::from(self.burying);
        self.waiting.push_back((death, self.burying));
        Ok(())
    }

    fn next(&mut self) -> Option<Death> {
        let (death, of_death) = self.waiting.pop_front()?;
        self.of_deaths -= usize::from(of_death);
        Some(death)
    }
}

impl Vhost {
    /// A message leaves its queue for good, and not because somebody was done with it.
    pub(crate) fn die(&mut self, id: QueueId, entry: Entry, reason: Reason, fx: &mut Effects) {
        self.work += 1;
        let Some(queue) = self.queues.get_mut(id) else {
            self.record_ending(&entry.message, Ending::Died, None, fx);
            return;
        };
        fx.note_death(&queue.name, Some(entry.seq), reason);
        if let Some(deadlines) = &mut queue.deadlines {
            deadlines.forget(entry.seq);
        }
        let kept = queue.keeps(&entry.message);
        let place = kept.then_some((queue.logged.number, entry.seq));
        let own = match reason {
            Reason::Rejected | Reason::DeliveryLimit => Wishes::of(&entry.message),
            Reason::Expired | Reason::MaxLength => None,
        };
        let own = own.and_then(|own| own.dead_letter);
        match own.as_ref().or(queue.rules.dead_letter.as_ref()) {
            Some(to) => {
                let death = Death {
                    queue: Arc::clone(&queue.name),
                    was_in: true,
                    place,
                    to: to.clone(),
                    message: entry.message,
                    reason,
                };
                self.note_death(death, fx);
            }
            None => {
                let settled = place.map(|(queue, seq)| Fact::Settled { queue, seq });
                self.record_ending(&entry.message, Ending::Died, settled, fx);
            }
        }
    }

    /// A message that never got into a queue is dead-lettered by it.
    pub(crate) fn die_outside(
        &mut self,
        id: QueueId,
        message: Message,
        reason: Reason,
        fx: &mut Effects,
    ) {
        if let Some(queue) = self.queues.get(id)
            && let Some(to) = &queue.rules.dead_letter
        {
            fx.note_death(&queue.name, None, reason);
            let death = Death {
                queue: Arc::clone(&queue.name),
                was_in: false,
                place: None,
                to: to.clone(),
                message,
                reason,
            };
            self.note_death(death, fx);
        }
    }

    /// Carries out the deaths that were noted; if they are very many, the rest a moment later.
    #[inline]
    pub(crate) fn bury(&mut self, fx: &mut Effects) {
        if !self.deaths.is_empty() {
            self.bury_some(fx);
        }
    }

    fn bury_some(&mut self, fx: &mut Effects) {
        for _ in 0..BURIED_AT_ONCE {
            let Some(death) = self.deaths.next() else {
                return;
            };
            self.deaths.burying = true;
            self.bury_one(death, fx);
            self.deaths.burying = false;
        }
        if !self.deaths.is_empty() && !self.deaths.timed {
            self.deaths.timed = true;
            self.timers.set(self.now.mono, Timer::Bury);
        }
    }

    /// Carries out all deaths that were noted by now, however many: what they speak of is about to go,
    /// or they belong to one record.
    pub(crate) fn bury_all(&mut self, fx: &mut Effects) {
        for _ in 0..self.deaths.waiting.len().div_ceil(BURIED_AT_ONCE) {
            self.bury_some(fx);
        }
    }

    /// The rest of very many deaths.
    pub(crate) fn bury_rest(&mut self, fx: &mut Effects) {
        self.deaths.timed = false;
        self.bury(fx);
    }

    /// Notes a death, unless far too many wait that came of others.
    fn note_death(&mut self, death: Death, fx: &mut Effects) {
        let Err(death) = self.deaths.note(death) else {
            return;
        };
        self.metrics.dead_letters_dropped += 1;
        let gone = self.facts_of(&death, fx);
        self.record_all(gone, fx);
    }

    /// What is recorded of a message that leaves its queue, together with where it goes.
    fn facts_of(&mut self, death: &Death, fx: &mut Effects) -> Vec<Fact> {
        let mut facts: Vec<Fact> = death.settled().into_iter().collect();
        if death.was_in {
            facts.append(&mut self.noted_of_ending(&death.message, Ending::Died, fx));
        }
        facts
    }

    fn bury_one(&mut self, death: Death, fx: &mut Effects) {
        self.work += 1;
        let gone = self.facts_of(&death, fx);
        let Some(&exchange) = self.exchange_names.get(&death.to.exchange) else {
            // Dropped in silence, as in RabbitMQ.
            self.record_all(gone, fx);
            return;
        };
        let now_s = self.now.wall.0 / 1_000;
        let letter = Letter::of(&death, now_s);
        if self.exchanges.get(exchange).is_some_and(|x| x.delays)
            && let Some(due) = delay::x_delay(&letter.message)
        {
            self.metrics.dead_lettered += 1;
            self.hold(&Arc::from(""), letter.message, due, gone, fx);
            return;
        }
        let keys: Vec<&str> = letter.keys.iter().map(String::as_str).collect();
        self.walk(exchange, &keys, &letter.message);
        let before = self.router.queues.len();
        let names = &self.queues;
        self.router.queues.retain(|&id| {
            let name = names.get(id).map(|queue| &*queue.name);
            name.is_some_and(|name| !letter.deaths.would_cycle(name))
        });
        self.metrics.dead_letter_cycles += (before - self.router.queues.len()) as u64;
        self.refuse_overflow(&letter.message, fx);
        self.metrics.dead_lettered += 1;
        let user = Arc::from("");
        let held = self.hold_on_the_way(&user, &letter.message, &[], fx);
        let queues = std::mem::take(&mut self.router.queues);
        let leaves_log = death.place.is_some();
        let recorded = self.record_letter(gone, &letter.message, &queues, &held, fx);
        // What comes from nowhere to which a crash would bring it back is as if it were published.
        let safe = if leaves_log { recorded } else { Lsn(0) };
        for &id in &queues {
            self.offer_when(id, letter.message.clone(), safe, fx);
        }
        self.router.queues = queues;
        self.await_all(held, recorded, fx);
    }

    /// One record: out of its queue and into the others, or to where it waits.
    pub(crate) fn record_letter(
        &mut self,
        gone: Vec<Fact>,
        message: &Message,
        queues: &[QueueId],
        held: &[Held],
        fx: &mut Effects,
    ) -> Lsn {
        let published = self.enqueued(queues, message, || Arc::from(""));
        let held = held.iter().filter_map(|held| held.kept.clone());
        self.record_all(gone.into_iter().chain(published).chain(held), fx)
    }
}

/// A message as it goes on.
struct Letter {
    message: Message,
    keys: Vec<String>,
    deaths: Deaths,
}

impl Letter {
    fn of(death: &Death, now_s: u64) -> Self {
        let message = &death.message;
        let mut properties = message.properties();
        let mut headers = properties.headers.take().unwrap_or_default();
        // What a publisher wrote there is no history of ours (RabbitMQ 4).
        let mut deaths = if message.has_died() {
            Deaths::read(&headers)
        } else {
            Deaths::default()
        };
        let copies = carbon_copies(&headers);
        let mut keys = vec![message.routing_key().to_owned()];
        keys.extend(copies);
        deaths.add(death, &keys, properties.expiration.take(), now_s);
        deaths.write(&mut headers, death);
        if let Some(key) = &death.to.routing_key {
            headers.remove("CC");
            keys = vec![key.to_string()];
        }
        properties.headers = Some(headers);
        let exchange = &death.to.exchange;
        let key = keys.first().map_or("", String::as_str);
        let message = message.dead_letter(exchange, key, &properties);
        Self {
            message,
            keys,
            deaths,
        }
    }
}

/// Keys of the header CC; BCC went when the message came in.
fn carbon_copies(headers: &FieldTable) -> Vec<String> {
    match headers.get("CC") {
        Some(FieldValue::Array(keys)) => keys
            .iter()
            .filter_map(|key| key.as_str().map(str::to_owned))
            .collect(),
        _ => Vec::new(),
    }
}

/// The header `x-death`: one table for each queue and reason, the latest first.
#[derive(Debug, Default)]
struct Deaths(Vec<FieldTable>);

impl Deaths {
    fn read(headers: &FieldTable) -> Self {
        let Some(FieldValue::Array(deaths)) = headers.get("x-death") else {
            return Self::default();
        };
        let tables = deaths.iter().filter_map(FieldValue::as_table);
        Self(tables.cloned().collect())
    }

    fn add(&mut self, death: &Death, keys: &[String], expiration: Option<Bytes>, now_s: u64) {
        let same = |table: &FieldTable| {
            text(table, "queue") == Some(&death.queue)
                && text(table, "reason") == Some(death.reason.as_str())
        };
        if let Some(at) = self.0.iter().position(same) {
            let mut table = self.0.remove(at);
            let count = table.get("count").and_then(FieldValue::as_i64);
            let count = count.unwrap_or_default().saturating_add(1);
            table.insert("count", FieldValue::I64(count));
            self.0.insert(0, table);
            return;
        }
        let keys = keys.iter().map(|key| long_string(key)).collect();
        let mut table = FieldTable::default();
        table.insert("count", FieldValue::I64(1));
        table.insert("reason", long_string(death.reason.as_str()));
        table.insert("queue", long_string(&death.queue));
        table.insert("time", FieldValue::Timestamp(now_s));
        table.insert("exchange", long_string(death.message.exchange()));
        table.insert("routing-keys", FieldValue::Array(keys));
        if let Some(expiration) = expiration {
            table.insert("original-expiration", FieldValue::LongString(expiration));
        }
        self.0.insert(0, table);
        self.0.truncate(DEATHS_MAX);
    }

    fn write(&self, headers: &mut FieldTable, death: &Death) {
        let reason = death.reason.as_str();
        let exchange = death.message.exchange();
        let rows = [
            ("reason", reason),
            ("queue", &death.queue),
            ("exchange", exchange),
        ];
        for (what, value) in rows {
            let first = format!("x-first-death-{what}");
            if !death.message.has_died() || headers.get(&first).is_none() {
                headers.insert(first, long_string(value));
            }
            headers.insert(format!("x-last-death-{what}"), long_string(value));
        }
        let deaths = self.0.iter().cloned().map(FieldValue::Table).collect();
        headers.insert("x-death", FieldValue::Array(deaths));
    }

    /// Whether the message comes back to a queue it has died in without anybody having rejected it
    /// since: it would go round for ever.
    fn would_cycle(&self, queue: &str) -> bool {
        let died_there = self
            .0
            .iter()
            .position(|table| text(table, "queue") == Some(queue));
        died_there.is_some_and(|at| {
            let since = self.0.iter().take(at + 1);
            !since
                .into_iter()
                .any(|table| text(table, "reason") == Some(Reason::Rejected.as_str()))
        })
    }
}

fn text<'a>(table: &'a FieldTable, name: &str) -> Option<&'a str> {
    table.get(name).and_then(FieldValue::as_str)
}

fn long_string(text: &str) -> FieldValue {
    FieldValue::LongString(Bytes::copy_from_slice(text.as_bytes()))
}

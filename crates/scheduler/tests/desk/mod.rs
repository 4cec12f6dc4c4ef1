//! A registry with all that the broker does for it: what is kept, and what is published.

#![allow(dead_code, unreachable_pub)] // each test uses some of it

use std::collections::BTreeMap;
use std::sync::Arc;

use leveret_codec::{FieldTable, FieldValue, Properties};
use leveret_core::error::AmqpError;
use leveret_core::ids::Wall;
use leveret_core::message::Message;
use leveret_core::schedule::{Deeds, Ending, Note, Order, Refusal, Rights, Run, Scheduler};
use leveret_scheduler::{Limits, Registry, time};
use serde_json::Value;

/// Everything but what begins with `no-`.
pub struct Everything;

impl Rights for Everything {
    fn may_configure(&self, schedule: &str) -> Result<(), AmqpError> {
        match schedule.starts_with("no-") {
            true => Err(AmqpError::access_refused(format_args!(
                "schedule '{schedule}'"
            ))),
            false => Ok(()),
        }
    }

    fn may_publish(&self, exchange: &str) -> Result<(), AmqpError> {
        match exchange.starts_with("no-") {
            true => Err(AmqpError::not_found(format_args!("exchange '{exchange}'"))),
            false => Ok(()),
        }
    }
}

pub struct Desk {
    pub registry: Registry,
    pub limits: Limits,
    /// The log, as far as it lives.
    pub kept: BTreeMap<Arc<[u8]>, Arc<[u8]>>,
    /// What was published and not looked at.
    pub sent: Vec<Message>,
    pub now: Wall,
}

pub fn at(text: &str) -> Wall {
    time::parse(text).unwrap_or_else(|| panic!("{text} is no time"))
}

impl Desk {
    pub fn new(now: &str) -> Self {
        Self::with_limits(now, Limits::default())
    }

    pub fn with_limits(now: &str, limits: Limits) -> Self {
        Self {
            registry: Registry::new(limits),
            limits,
            kept: BTreeMap::new(),
            sent: Vec::new(),
            now: at(now),
        }
    }

    fn keep(&mut self, notes: Vec<Note>) {
        for Note { key, value } in notes {
            assert!(key.len() <= 1_024);
            match value {
                Some(value) => self.kept.insert(key, value),
                None => self.kept.remove(&key),
            };
        }
    }

    fn carry_out(&mut self, deeds: Deeds) {
        self.keep(deeds.notes);
        for fire in deeds.fires {
            self.keep(fire.notes);
            self.sent.push(fire.message);
        }
    }

    pub fn order_message(&mut self, message: &Message) -> Result<Value, AmqpError> {
        let mut deeds = Deeds::default();
        let order = Order {
            user: &Arc::from("guest"),
            message,
            rights: &Everything,
        };
        let reply = self.registry.order(self.now, &order, &mut deeds);
        if reply.is_err() {
            assert!(deeds.notes.is_empty() && deeds.fires.is_empty(), "refused");
        }
        self.carry_out(deeds);
        reply.map(|json| serde_json::from_slice(&json).expect("JSON"))
    }

    /// Headers without `x-schedule-`.
    pub fn order<const N: usize>(
        &mut self,
        headers: [(&str, FieldValue); N],
    ) -> Result<Value, AmqpError> {
        self.order_message(&order(headers))
    }

    pub fn put(&mut self, headers: &[(&str, &str)]) -> Value {
        let message = order(
            headers
                .iter()
                .map(|(name, value)| (*name, FieldValue::from(*value))),
        );
        self.order_message(&message)
            .unwrap_or_else(|error| panic!("{headers:?}: {error}"))
    }

    pub fn ask(&mut self, action: &str, name: &str) -> Value {
        self.put(&[("action", action), ("name", name)])
    }

    /// Lets time pass to a moment, as a broker does: whenever something is due.
    pub fn pass(&mut self, until: &str) -> Vec<String> {
        self.pass_to(at(until))
    }

    pub fn pass_to(&mut self, until: Wall) -> Vec<String> {
        let before = self.sent.len();
        while let Some(next) = self.registry.next_due().filter(|next| *next <= until) {
            self.now = self.now.max(next);
            self.turn();
        }
        self.now = until;
        self.sent[before..].iter().map(message_id).collect()
    }

    /// The clock is set: nothing happens meanwhile.
    pub fn set_clock(&mut self, now: &str) -> Vec<String> {
        let before = self.sent.len();
        self.now = at(now);
        self.registry.replan(self.now);
        self.catch_up();
        self.sent[before..].iter().map(message_id).collect()
    }

    /// All that is due now.
    pub fn catch_up(&mut self) {
        while self
            .registry
            .next_due()
            .is_some_and(|next| next <= self.now)
        {
            self.turn();
        }
    }

    pub fn next_due(&self) -> Option<Wall> {
        self.registry.next_due()
    }

    pub fn turn(&mut self) {
        self.turn_of(64);
    }

    /// One that fires once at most.
    pub fn turn_once(&mut self) {
        self.turn_of(1);
    }

    fn turn_of(&mut self, fires_max: usize) {
        let mut deeds = Deeds::default();
        self.registry.due(self.now, fires_max, &mut deeds);
        self.carry_out(deeds);
    }

    /// Stops, and starts again later.
    pub fn restart(&mut self, now: &str) -> Vec<String> {
        let before = self.sent.len();
        self.now = at(now);
        self.registry = Registry::new(self.limits);
        let note = |(key, value)| Note {
            key,
            value: Some(value),
        };
        let notes = self.kept.clone().into_iter().map(note).collect();
        self.registry
            .recover(self.now, notes)
            .expect("its own notes");
        self.catch_up();
        self.sent[before..].iter().map(message_id).collect()
    }

    pub fn routed(&mut self, id: &str, queues: usize) {
        let mut notes = Vec::new();
        self.registry
            .routed(self.now, &Run { message_id: id }, queues, &mut notes);
        self.carry_out(Deeds {
            notes,
            ..Deeds::default()
        });
    }

    pub fn refused(&mut self, id: &str, why: Refusal) {
        let mut notes = Vec::new();
        self.registry
            .refused(self.now, &Run { message_id: id }, why, &mut notes);
        self.carry_out(Deeds {
            notes,
            ..Deeds::default()
        });
    }

    pub fn delivered(&mut self, id: &str, tag: &str) {
        self.registry
            .delivered(self.now, &Run { message_id: id }, tag);
    }

    pub fn settled(&mut self, id: &str, ending: Ending) {
        let mut notes = Vec::new();
        self.registry
            .settled(self.now, &Run { message_id: id }, ending, &mut notes);
        self.carry_out(Deeds {
            notes,
            ..Deeds::default()
        });
    }
}

pub fn order<'a>(headers: impl IntoIterator<Item = (&'a str, FieldValue)>) -> Message {
    let headers: FieldTable = headers
        .into_iter()
        .map(|(name, value)| (format!("x-schedule-{name}"), value))
        .collect();
    let properties = Properties {
        headers: Some(headers),
        delivery_mode: Some(2),
        ..Properties::default()
    };
    Message::fired("amq.schedule", "", &properties, b"hello")
}

pub fn message_id(message: &Message) -> String {
    let id = message.properties().message_id.expect("one");
    String::from_utf8(id.to_vec()).expect("text")
}

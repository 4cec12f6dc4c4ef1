//! `headers`: the message's header table decides, the routing key does not.
//!
//! A binding's arguments say which headers must be there; `x-match` says whether all or any of
//! them (RabbitMQ's rules: keys starting with `x-` count only in the `-with-x` modes, a void value
//! asks for the key alone, integers of different widths are equal).

use std::collections::BTreeMap;

use leveret_codec::{FieldTable, FieldValue, flags};

use crate::binding::{Binding, Destination};
use crate::error::AmqpError;
use crate::exchange::ExchangeType;
use crate::message::Message;
use crate::value::{equivalent, term};

#[derive(Debug, Default)]
pub(super) struct Headers {
    /// Found by binding, because a queue that goes may take very many of them along.
    matchers: BTreeMap<Binding, Matcher>,
}

#[derive(Debug)]
struct Matcher {
    mode: Mode,
    wanted: Vec<(String, Option<FieldValue>)>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mode {
    All,
    Any,
}

impl ExchangeType for Headers {
    fn validate(&self, arguments: &FieldTable) -> Result<(), AmqpError> {
        match arguments.get("x-match") {
            None => Ok(()),
            Some(value) => mode(value).map(|_| ()),
        }
    }

    fn bind(&mut self, binding: &Binding) {
        self.matchers.insert(binding.clone(), Matcher::new(binding));
    }

    fn unbind(&mut self, binding: &Binding) {
        self.matchers.remove(binding);
    }

    fn route(&mut self, _: &str, message: &Message, to: &mut Vec<Destination>) {
        let headers = if message.property_flags() & flags::HEADERS == 0 {
            FieldTable::default()
        } else {
            message.properties().headers.unwrap_or_default()
        };
        to.extend(
            self.matchers
                .iter()
                .filter(|(_, matcher)| matcher.matches(&headers))
                .map(|(binding, _)| binding.destination),
        );
    }

    fn looks_at_content(&self) -> bool {
        true
    }

    fn census(&self) -> BTreeMap<Destination, usize> {
        let mut census = BTreeMap::new();
        for binding in self.matchers.keys() {
            *census.entry(binding.destination).or_default() += 1;
        }
        census
    }
}

impl Matcher {
    fn new(binding: &Binding) -> Self {
        // The arguments were validated and put into canonical order when they came in.
        let arguments = FieldTable::decode(&binding.arguments).unwrap_or_default();
        let (mode, with_x) = arguments
            .get("x-match")
            .and_then(|value| mode(value).ok())
            .unwrap_or((Mode::All, false));
        let wanted = arguments
            .iter()
            .filter(|(key, _)| *key != "x-match" && (with_x || !key.starts_with("x-")))
            .map(|(key, value)| {
                let value = (*value != FieldValue::Void).then(|| value.clone());
                (key.to_owned(), value)
            })
            .collect();
        Self { mode, wanted }
    }

    fn matches(&self, headers: &FieldTable) -> bool {
        let mut checks = self
            .wanted
            .iter()
            .map(|(key, wanted)| match (headers.get(key), wanted) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(value), Some(wanted)) => equivalent(value, wanted),
            });
        match self.mode {
            Mode::All => checks.all(|holds| holds),
            Mode::Any => checks.any(|holds| holds),
        }
    }
}

/// The mode and whether keys that start with `x-` count.
fn mode(value: &FieldValue) -> Result<(Mode, bool), AmqpError> {
    match value.as_str() {
        Some("all") => Ok((Mode::All, false)),
        Some("any") => Ok((Mode::Any, false)),
        Some("all-with-x") => Ok((Mode::All, true)),
        Some("any-with-x") => Ok((Mode::Any, true)),
        Some(_) => Err(AmqpError::precondition_failed(format_args!(
            "Invalid x-match field value {}; expected all, any, all-with-x, or any-with-x",
            term(value)
        ))),
        None => Err(AmqpError::precondition_failed(format_args!(
            "Invalid x-match field type {} (value {}); expected longstr",
            value.amqp_type_name(),
            term(value)
        ))),
    }
}

//! `headers`: the message's header table decides, the routing key does not.
//!
//! A binding's arguments say which headers must be there; `x-match` says whether all or any of
//! them (RabbitMQ's rules: keys starting with `x-` count only in the `-with-x` modes, a void value
//! asks for the key alone, integers of different widths are equal).
//!
//! Bindings are found by what they ask for, a value or the mere presence of a header. So the cost of
//! a message is its own headers and the bindings that share something with it, not all bindings
//! there are: each of those is tried once, and each of its keys looked up once, in a sorted list of
//! the message's headers.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use leveret_codec::{FieldTable, FieldValue, flags};
use slotmap::{DefaultKey, SlotMap};

use crate::binding::{Binding, Destination};
use crate::error::AmqpError;
use crate::exchange::ExchangeType;
use crate::message::Message;
use crate::value::{equivalent, term};

#[derive(Debug, Default)]
pub(super) struct Headers {
    matchers: SlotMap<DefaultKey, Matcher>,
    /// Found by binding, because a queue that goes may take very many of them along.
    by_binding: BTreeMap<Binding, DefaultKey>,
    /// Header name, value, and who may match a message with that; no value is any value.
    by_value: BTreeMap<String, BTreeMap<Option<Scalar>, BTreeSet<DefaultKey>>>,
    /// Who matches whatever headers a message has.
    others: BTreeSet<DefaultKey>,
    /// Number of the last message.
    pass: u64,
    /// What all matchers take, in octets.
    bytes: usize,
}

/// What a key takes that a binding asks for, in octets.
const WANTED_BYTES: usize = 160;

/// What it takes to find a binding by one of its keys, in octets, if no other shares the key: three
/// trees of one node each, most of which is room for more.
const FOUND_BY_BYTES: usize = 1_024;

/// The headers of a message by name; of several with one name the first counts.
struct Sorted<'a>(Vec<(&'a str, &'a FieldValue)>);

#[derive(Debug)]
struct Matcher {
    destination: Destination,
    mode: Mode,
    wanted: Vec<(String, Option<FieldValue>)>,
    /// How many different names `wanted` has.
    names: usize,
    /// What it is found by in `by_value`; `None` if it is one of the others.
    found_by: Option<Vec<(String, Option<Scalar>)>>,
    /// Number of the last message it was tried on: once for each, whatever it is found by.
    tried: u64,
}

/// A value that a binding can be found by: equal exactly when [`equivalent`].
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Scalar {
    Integer(i64),
    Text(Bytes),
    Boolean(bool),
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
        let mut matcher = Matcher::new(binding);
        matcher.found_by = self.choose(&matcher);
        self.bytes += matcher.bytes();
        let found_by = matcher.found_by.clone();
        let key = self.matchers.insert(matcher);
        self.by_binding.insert(binding.clone(), key);
        match found_by {
            Some(pairs) => {
                for (name, value) in pairs {
                    let values = self.by_value.entry(name).or_default();
                    values.entry(value).or_default().insert(key);
                }
            }
            None => {
                self.others.insert(key);
            }
        }
    }

    fn unbind(&mut self, binding: &Binding) {
        let key = self.by_binding.remove(binding);
        let Some((key, matcher)) = key.and_then(|key| Some((key, self.matchers.remove(key)?)))
        else {
            return;
        };
        self.bytes -= matcher.bytes();
        self.others.remove(&key);
        for (name, value) in matcher.found_by.unwrap_or_default() {
            let Some(values) = self.by_value.get_mut(&name) else {
                continue;
            };
            if let Some(keys) = values.get_mut(&value) {
                keys.remove(&key);
                if keys.is_empty() {
                    values.remove(&value);
                }
            }
            if values.is_empty() {
                self.by_value.remove(&name);
            }
        }
    }

    fn route(&mut self, _: &str, message: &Message, to: &mut Vec<Destination>) -> usize {
        let headers = if message.property_flags() & flags::HEADERS == 0 {
            FieldTable::default()
        } else {
            message.properties().headers.unwrap_or_default()
        };
        let headers = Sorted::new(&headers);
        self.pass += 1;
        let Self {
            matchers,
            by_value,
            others,
            pass,
            ..
        } = self;
        let mut looked_at = headers.0.len();
        let found = headers.0.iter().flat_map(|(name, value)| {
            let values = by_value.get(*name);
            let same = scalar(value).and_then(|scalar| values?.get(&Some(scalar)));
            let any = values.and_then(|values| values.get(&None));
            same.into_iter().chain(any).flatten()
        });
        for &key in found.chain(&*others) {
            looked_at += 1;
            if let Some(matcher) = matchers.get_mut(key)
                && matcher.tried != *pass
            {
                matcher.tried = *pass;
                if matcher.matches(&headers, &mut looked_at) {
                    to.push(matcher.destination);
                }
            }
        }
        looked_at
    }

    fn looks_at_key(&self) -> bool {
        false
    }

    fn looks_at_content(&self) -> bool {
        true
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn census(&self) -> BTreeMap<Destination, usize> {
        let mut census = BTreeMap::new();
        for binding in self.by_binding.keys() {
            *census.entry(binding.destination).or_default() += 1;
        }
        census
    }
}

impl Headers {
    /// Headers of which every message that matches has at least one; `None` if there are none.
    fn choose(&self, matcher: &Matcher) -> Option<Vec<(String, Option<Scalar>)>> {
        let pairs = matcher
            .wanted
            .iter()
            .map(|(name, value)| (name.clone(), value.as_ref().and_then(scalar)));
        match matcher.mode {
            // Any one will do, as they must all be there: the one that fewest others chose.
            Mode::All => {
                let chosen = pairs.min_by_key(|pair| self.sharers(pair));
                chosen.map(|pair| vec![pair])
            }
            // All are needed, as one is enough to match. Nothing wanted is nothing matched.
            Mode::Any => Some(pairs.collect()),
        }
    }

    fn sharers(&self, (name, value): &(String, Option<Scalar>)) -> usize {
        let keys = self.by_value.get(name).and_then(|values| values.get(value));
        keys.map_or(0, BTreeSet::len)
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
        let wanted: Vec<_> = arguments
            .iter()
            .filter(|(key, _)| *key != "x-match" && (with_x || !key.starts_with("x-")))
            .map(|(key, value)| {
                let value = (*value != FieldValue::Void).then(|| value.clone());
                (key.to_owned(), value)
            })
            .collect();
        let names: BTreeSet<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
        Self {
            destination: binding.destination,
            mode,
            names: names.len(),
            wanted,
            found_by: None,
            tried: 0,
        }
    }

    /// Memory it takes, in octets, about.
    fn bytes(&self) -> usize {
        let found_by = self.found_by.as_ref().map_or(0, Vec::len);
        self.wanted.len() * WANTED_BYTES + found_by * FOUND_BY_BYTES
    }

    /// Adds to `looked_at` how many headers were looked up.
    fn matches(&self, headers: &Sorted<'_>, looked_at: &mut usize) -> bool {
        if self.mode == Mode::All && self.names > headers.0.len() {
            return false;
        }
        let mut checks = self.wanted.iter().map(|(key, wanted)| {
            *looked_at += 1;
            match (headers.get(key), wanted) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(value), Some(wanted)) => equivalent(value, wanted),
            }
        });
        match self.mode {
            Mode::All => checks.all(|holds| holds),
            Mode::Any => checks.any(|holds| holds),
        }
    }
}

impl<'a> Sorted<'a> {
    fn new(headers: &'a FieldTable) -> Self {
        let mut sorted: Vec<_> = headers.iter().collect();
        sorted.sort_by_key(|&(name, _)| name); // stable
        sorted.dedup_by_key(|&mut (name, _)| name); // keeps the first
        Self(sorted)
    }

    fn get(&self, name: &str) -> Option<&'a FieldValue> {
        let at = self.0.binary_search_by_key(&name, |&(name, _)| name).ok()?;
        Some(self.0[at].1)
    }
}

fn scalar(value: &FieldValue) -> Option<Scalar> {
    if let Some(integer) = value.as_i64() {
        return Some(Scalar::Integer(integer));
    }
    match value {
        FieldValue::LongString(text) => Some(Scalar::Text(text.clone())),
        FieldValue::Bool(truth) => Some(Scalar::Boolean(*truth)),
        _ => None,
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use leveret_codec::{Properties, RawTable};
    use proptest::prelude::*;

    use super::*;
    use crate::ids::{ExchangeId, QueueId};

    fn value() -> impl Strategy<Value = FieldValue> {
        prop::sample::select(vec![
            FieldValue::I32(1),
            FieldValue::I64(1),
            FieldValue::I64(2),
            FieldValue::from("1"),
            FieldValue::Bool(true),
            FieldValue::F64(1.5),
            FieldValue::Void,
        ])
    }

    fn fields() -> impl Strategy<Value = FieldTable> {
        let name = prop::sample::select(vec!["a", "b", "x-c"]);
        let field = (name.prop_map(str::to_owned), value());
        prop::collection::vec(field, 0..4).prop_map(|fields| fields.into_iter().collect())
    }

    fn binding(n: u64, mut arguments: FieldTable, mode: &str) -> Binding {
        arguments.insert("x-match", mode);
        Binding {
            source: ExchangeId::default(),
            destination: Destination::Queue(QueueId::from(slotmap::KeyData::from_ffi(1 << 32 | n))),
            routing_key: Arc::from(""),
            arguments: Arc::from(RawTable::from_table(&arguments).canonical()),
        }
    }

    fn message(headers: FieldTable) -> Message {
        let properties = Properties {
            headers: Some(headers),
            ..Properties::default()
        };
        let header = leveret_codec::ContentHeader {
            class_id: 60,
            body_size: 0,
            flags: 0,
            raw: &[],
            summary: leveret_codec::PropertySummary::default(),
        };
        Message::build(&mut Vec::new(), "x", "", &header, b"").with_properties(&properties)
    }

    #[test]
    fn very_many_keys_tried_on_very_many_headers_are_looked_up_once_each() {
        const MANY: usize = 4_000;
        type Field = fn(usize) -> FieldValue;
        let fields = |value: Field| -> FieldTable {
            (0..MANY).map(|n| (format!("{n}"), value(n))).collect()
        };
        let differ = |n: usize| FieldValue::F64(n as f64 + 0.5);
        #[rustfmt::skip]
        let rows: [(&str, Field, bool, &str); 4] = [
            ("any", differ,                                           false, "found by every name, no value fits"),
            ("all", |n| if n + 1 < MANY { FieldValue::Void } else { FieldValue::I32(-1) }, false, "the last one does not fit"),
            ("any", |n| if n + 1 < MANY { FieldValue::F64(0.5) } else { FieldValue::I32(3_999) }, true, "only the last one fits"),
            ("all", |_| FieldValue::Void,                             true,  "all are there"),
        ];
        for (mode, wanted, matches, why) in rows {
            let mut exchange = Headers::default();
            exchange.bind(&binding(1, fields(wanted), mode));
            let sent = message(fields(|n| FieldValue::I32(i32::try_from(n).unwrap())));
            let mut found = Vec::new();
            let looked_at = exchange.route("", &sent, &mut found);
            assert_eq!(!found.is_empty(), matches, "{why}");
            assert!(looked_at <= 3 * MANY, "{why}: {looked_at}");
        }
    }

    #[test]
    fn of_several_headers_of_one_name_the_first_counts() {
        let fields = |values: &[i32]| -> FieldTable {
            let field = |&value| ("a".to_owned(), FieldValue::I32(value));
            values.iter().map(field).collect()
        };
        let sent = message(fields(&[1, 2]));
        for (value, matches) in [(1, true), (2, false)] {
            let mut exchange = Headers::default();
            exchange.bind(&binding(1, fields(&[value]), "all"));
            let mut found = Vec::new();
            exchange.route("", &sent, &mut found);
            assert_eq!(!found.is_empty(), matches, "{value}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        /// Looking only at bindings that share a value with the message misses none.
        #[test]
        fn the_index_finds_whatever_matches(
            bindings in prop::collection::vec((fields(), 0usize..4, any::<bool>()), 1..12),
            sent in fields(),
        ) {
            let modes = ["all", "any", "all-with-x", "any-with-x"];
            let mut exchange = Headers::default();
            let mut kept = Vec::new();
            for (n, (arguments, mode, removed)) in bindings.into_iter().enumerate() {
                let binding = binding(n as u64, arguments, modes[mode]);
                exchange.bind(&binding);
                kept.push((binding, removed));
            }
            for (binding, _) in kept.iter().filter(|(_, removed)| *removed) {
                exchange.unbind(binding);
            }
            let message = message(sent.clone());
            let mut found = Vec::new();
            exchange.route("", &message, &mut found);
            found.sort();
            found.dedup();
            let expected: Vec<_> = kept
                .iter()
                .filter(|(binding, removed)| {
                    !removed && Matcher::new(binding).matches(&Sorted::new(&sent), &mut 0)
                })
                .map(|(binding, _)| binding.destination)
                .collect();
            prop_assert_eq!(found, expected);
            for (binding, _) in kept.iter().filter(|(_, removed)| !removed) {
                exchange.unbind(binding);
            }
            prop_assert!(exchange.by_value.is_empty() && exchange.others.is_empty());
        }
    }
}

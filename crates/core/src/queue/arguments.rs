//! THE TABLE of queue arguments: which there are, what values they take, and for which queue types.
//!
//! Arguments not in the table are accepted and ignored, as in RabbitMQ. Those whose behaviour is
//! not built yet are checked and kept all the same, so that a declaration that is wrong today does
//! not become wrong later.

use leveret_codec::{FieldTable, FieldValue};

use crate::error::{AmqpError, Named};
use crate::value::{equivalent, plain};

/// Longest time an argument may ask for: ten years, in milliseconds.
const TIME_MAX_MS: i64 = 315_360_000_000;

/// Where an argument means something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Applies {
    Everywhere,
    Classic,
    Quorum,
    /// To streams only, which this broker does not have.
    Stream,
}

/// What values an argument takes.
#[derive(Clone, Copy, Debug)]
enum Rule {
    /// An integer from `min` (0 or 1) to `max`, if there is one.
    Integer {
        min: i64,
        max: Option<i64>,
        over: Over,
    },
    /// Any integer.
    AnyInteger,
    /// One of these texts; otherwise the term, as RabbitMQ words it.
    OneOf(&'static [&'static str], &'static str),
    /// One of these texts; otherwise `"{message} 'x'"`.
    Supported(&'static [&'static str], &'static str),
    Text,
    Boolean,
}

/// How RabbitMQ words a number that is too large.
#[derive(Clone, Copy, Debug)]
enum Over {
    TooBig,
    MaxExceeded,
}

const fn at_least(min: i64) -> Rule {
    Rule::Integer {
        min,
        max: None,
        over: Over::TooBig,
    }
}

const fn time_ms(min: i64) -> Rule {
    Rule::Integer {
        min,
        max: Some(TIME_MAX_MS),
        over: Over::TooBig,
    }
}

/// In the order RabbitMQ checks them.
#[rustfmt::skip]
const ARGUMENTS: [(&str, Rule, Applies); 31] = [
    ("x-expires",                     time_ms(1), Applies::Everywhere),
    ("x-message-ttl",                 time_ms(0), Applies::Everywhere),
    ("x-dead-letter-exchange",        Rule::Text, Applies::Everywhere),
    ("x-dead-letter-routing-key",     Rule::Text, Applies::Everywhere),
    ("x-dead-letter-strategy",        Rule::OneOf(&["at-most-once", "at-least-once"], "invalid_dlx_strategy"), Applies::Quorum),
    ("x-max-length",                  at_least(0), Applies::Everywhere),
    ("x-max-length-bytes",            at_least(0), Applies::Everywhere),
    ("x-max-in-memory-length",        at_least(0), Applies::Quorum),
    ("x-max-in-memory-bytes",         at_least(0), Applies::Quorum),
    ("x-max-priority",                Rule::Integer { min: 0, max: Some(255), over: Over::MaxExceeded }, Applies::Classic),
    ("x-overflow",                    Rule::OneOf(&["drop-head", "reject-publish", "reject-publish-dlx"], "invalid_overflow"), Applies::Everywhere),
    ("x-queue-mode",                  Rule::Supported(&["default", "lazy"], "unsupported queue mode"), Applies::Classic),
    ("x-queue-version",               Rule::AnyInteger, Applies::Classic),
    ("x-single-active-consumer",      Rule::Boolean, Applies::Everywhere),
    ("x-quorum-initial-group-size",   at_least(1), Applies::Quorum),
    ("x-quorum-target-group-size",    at_least(1), Applies::Quorum),
    ("x-initial-cluster-size",        at_least(1), Applies::Quorum),
    ("x-delivery-limit",              Rule::AnyInteger, Applies::Everywhere),
    ("x-delayed-retry-type",          Rule::OneOf(&["disabled", "all", "failed", "returned"], "invalid_delayed_retry_type"), Applies::Everywhere),
    ("x-delayed-retry-min",           time_ms(0), Applies::Everywhere),
    ("x-delayed-retry-max",           time_ms(0), Applies::Everywhere),
    // Not RabbitMQ's.
    ("x-retry-delay",                 time_ms(1), Applies::Everywhere),
    ("x-retry-multiplier",            at_least(1), Applies::Everywhere),
    ("x-retry-max-delay",             time_ms(1), Applies::Everywhere),
    ("x-retry-jitter",                Rule::Integer { min: 0, max: Some(100), over: Over::MaxExceeded }, Applies::Everywhere),
    ("x-consumer-timeout",            time_ms(1), Applies::Everywhere),
    ("x-consumer-disconnected-timeout", time_ms(1), Applies::Everywhere),
    ("x-max-age",                     Rule::Text, Applies::Stream),
    ("x-stream-max-segment-size-bytes", at_least(1), Applies::Stream),
    ("x-stream-filter-size-bytes",    at_least(16), Applies::Stream),
    ("x-queue-leader-locator",        Rule::OneOf(&["client-local", "balanced"], "invalid_queue_locator_arg"), Applies::Everywhere),
];

/// Types of queue a client may ask for with `x-queue-type`. A quorum queue is one on a single node.
const QUEUE_TYPES: [&str; 2] = ["classic", "quorum"];

/// RabbitMQ's arguments for messages that come back after a while (4.3).
const RABBITMQ_RETRIES: [&str; 3] = [
    "x-delayed-retry-type",
    "x-delayed-retry-min",
    "x-delayed-retry-max",
];

/// Longest prefix for generated queue names, in octets (`x-name-prefix`).
const NAME_PREFIX_MAX: usize = 64;

/// Checks the arguments of a new queue.
///
/// # Errors
/// 406 with RabbitMQ's text for the first that is wrong.
pub(crate) fn validate(arguments: &FieldTable, queue: Named<'_>) -> Result<(), AmqpError> {
    let quorum = is_quorum(arguments);
    if let Some(kind) = arguments.get("x-queue-type") {
        check(
            kind,
            Rule::Supported(&QUEUE_TYPES, "unsupported queue type"),
        )
        .map_err(|term| invalid("x-queue-type", queue, &term))?;
    }
    for (name, rule, _) in ARGUMENTS {
        let Some(value) = arguments.get(name) else {
            continue;
        };
        // RabbitMQ words this one differently from all others.
        if name == "x-dead-letter-exchange" && value.as_str().is_none() {
            return Err(AmqpError::precondition_failed(format_args!(
                "invalid type '{}' for arg '{name}' in {queue}",
                value.amqp_type_name(),
            )));
        }
        check(value, rule).map_err(|term| invalid(name, queue, &term))?;
        if name == "x-dead-letter-routing-key" && arguments.get("x-dead-letter-exchange").is_none()
        {
            return Err(invalid(name, queue, "routing_key_but_no_dlx_defined"));
        }
        check_retry(arguments, name).map_err(|term| invalid(name, queue, term))?;
        if name == "x-queue-version" && !matches!(value.as_i64(), Some(1 | 2)) {
            let term = format!("\"unsupported queue version '{}'\"", plain(value));
            return Err(invalid(name, queue, &term));
        }
    }
    for (name, _, applies) in ARGUMENTS {
        let misplaced = match applies {
            Applies::Everywhere => false,
            Applies::Classic => quorum,
            Applies::Quorum => !quorum,
            Applies::Stream => true,
        };
        if misplaced && arguments.get(name).is_some() {
            let kind = if quorum {
                "rabbit_quorum_queue"
            } else {
                "rabbit_classic_queue"
            };
            return Err(AmqpError::precondition_failed(format_args!(
                "invalid arg '{name}' for {queue} of queue type {kind}"
            )));
        }
    }
    Ok(())
}

/// Checks a retry argument, which is sound by itself, beside the others; the error is a term. There
/// are two families of them, and a queue takes one.
fn check_retry(arguments: &FieldTable, name: &str) -> Result<(), &'static str> {
    if !name.starts_with("x-retry-") {
        return Ok(());
    }
    if RABBITMQ_RETRIES
        .iter()
        .any(|other| arguments.get(other).is_some())
    {
        return Err("delayed_retry_also_defined");
    }
    let Some(delay) = arguments.get("x-retry-delay").and_then(FieldValue::as_i64) else {
        return Err("no_retry_delay_defined");
    };
    let max = arguments.get("x-retry-max-delay");
    let max = max.and_then(FieldValue::as_i64);
    if name == "x-retry-max-delay" && max.is_some_and(|max| max < delay) {
        return Err("max_delay_below_retry_delay");
    }
    Ok(())
}

/// Whether the arguments ask for a quorum queue.
pub(crate) fn is_quorum(arguments: &FieldTable) -> bool {
    arguments.get("x-queue-type").and_then(FieldValue::as_str) == Some("quorum")
}

/// The prefix a client wants for a generated name (`x-name-prefix`, RabbitMQ 4.3).
///
/// # Errors
/// 406 if it is no text or longer than 64 octets.
pub(crate) fn name_prefix<'a>(
    arguments: &'a FieldTable,
    queue: Named<'_>,
) -> Result<Option<&'a str>, AmqpError> {
    match arguments.get("x-name-prefix") {
        None => Ok(None),
        Some(value) => match value.as_str() {
            Some(prefix) if prefix.len() <= NAME_PREFIX_MAX => Ok(Some(prefix)),
            Some(_) => Err(invalid("x-name-prefix", queue, "name_prefix_too_long")),
            None => Err(invalid("x-name-prefix", queue, &unacceptable(value))),
        },
    }
}

/// Compares the arguments of a declaration with those of the queue that is there.
///
/// Only arguments in the table count; no `x-queue-type` is the same as `classic`.
///
/// # Errors
/// 406 naming the first difference.
pub(crate) fn check_equivalent(
    received: &FieldTable,
    current: &FieldTable,
    queue: Named<'_>,
) -> Result<(), AmqpError> {
    let classic = FieldValue::LongString(bytes::Bytes::from_static(b"classic"));
    let kind = |table: &FieldTable| {
        table
            .get("x-queue-type")
            .cloned()
            .unwrap_or_else(|| classic.clone())
    };
    let (new, old) = (kind(received), kind(current));
    check_same("x-queue-type", Some(&new), Some(&old), queue)?;
    for (name, _, _) in ARGUMENTS {
        check_same(name, received.get(name), current.get(name), queue)?;
    }
    Ok(())
}

/// Compares one argument of a declaration with that of the thing that is there (406).
pub(crate) fn check_same(
    name: &str,
    received: Option<&FieldValue>,
    current: Option<&FieldValue>,
    what: Named<'_>,
) -> Result<(), AmqpError> {
    let difference = match (received, current) {
        (None, None) => return Ok(()),
        (Some(new), Some(old)) if equivalent(new, old) => return Ok(()),
        (Some(new), Some(old)) => {
            format!("received '{}' but current is '{}'", plain(new), plain(old))
        }
        (Some(new), None) => {
            let kind = new.amqp_type_name();
            format!(
                "received the value '{}' of type '{kind}' but current is none",
                plain(new)
            )
        }
        (None, Some(old)) => {
            let kind = old.amqp_type_name();
            format!(
                "received none but current is the value '{}' of type '{kind}'",
                plain(old)
            )
        }
    };
    Err(inequivalent(name, what, &difference))
}

/// 406 for a property that differs from the thing that is there.
pub(crate) fn check_property(
    name: &str,
    received: impl std::fmt::Display + PartialEq,
    current: impl std::fmt::Display,
    what: Named<'_>,
) -> Result<(), AmqpError> {
    let (received, current) = (received.to_string(), current.to_string());
    if received == current {
        return Ok(());
    }
    Err(inequivalent(
        name,
        what,
        &format!("received '{received}' but current is '{current}'"),
    ))
}

fn inequivalent(name: &str, what: Named<'_>, difference: &str) -> AmqpError {
    AmqpError::precondition_failed(format_args!(
        "inequivalent arg '{name}' for {what}: {difference}"
    ))
}

fn invalid(name: &str, queue: Named<'_>, term: &str) -> AmqpError {
    AmqpError::precondition_failed(format_args!("invalid arg '{name}' for {queue}: {term}"))
}

/// Checks one value; the error is the term RabbitMQ prints.
fn check(value: &FieldValue, rule: Rule) -> Result<(), String> {
    match rule {
        Rule::Integer { min, max, over } => {
            let number = integer(value)?;
            if number < 0 {
                Err(format!("{{value_negative,{number}}}"))
            } else if number == 0 && min == 1 {
                Err("{value_zero,0}".to_owned())
            } else if number < min {
                Err(format!("{{value_too_small,{number}}}"))
            } else if max.is_some_and(|max| number > max) {
                match over {
                    Over::TooBig => Err(format!("{{value_too_big,{number}}}")),
                    Over::MaxExceeded => Err(format!("{{max_value_exceeded,{number}}}")),
                }
            } else {
                Ok(())
            }
        }
        Rule::AnyInteger => integer(value).map(|_| ()),
        Rule::OneOf(allowed, term) => {
            if allowed.contains(&text(value)?) {
                Ok(())
            } else {
                Err(term.to_owned())
            }
        }
        Rule::Supported(allowed, message) => {
            let text = text(value)?;
            if allowed.contains(&text) {
                Ok(())
            } else {
                Err(format!("\"{message} '{text}'\""))
            }
        }
        Rule::Text => text(value).map(|_| ()),
        Rule::Boolean => value
            .as_bool()
            .map(|_| ())
            .ok_or_else(|| unacceptable(value)),
    }
}

fn integer(value: &FieldValue) -> Result<i64, String> {
    let wrong = || format!("\"expected integer, got {}\"", value.amqp_type_name());
    value.as_i64().ok_or_else(wrong)
}

fn text(value: &FieldValue) -> Result<&str, String> {
    value.as_str().ok_or_else(|| unacceptable(value))
}

fn unacceptable(value: &FieldValue) -> String {
    format!("{{unacceptable_type,{}}}", value.amqp_type_name())
}

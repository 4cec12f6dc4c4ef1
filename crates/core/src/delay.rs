//! What the headers of a message say about when it is to be delivered.
//!
//! `x-deliver-after` (milliseconds) and `x-deliver-at` (a date) hold for every exchange; `x-delay`
//! is that of the delayed-message plugin of RabbitMQ, and means something to exchanges of type
//! `x-delayed-message` only.

use leveret_codec::{FieldTable, FieldValue};

use crate::error::AmqpError;
use crate::ids::Wall;
use crate::message::Message;

/// The header of RabbitMQ's plugin.
const DELAY: &str = "x-delay";

const AFTER: &str = "x-deliver-after";

const AT: &str = "x-deliver-at";

/// What all of them begin with.
pub(crate) const PREFIX: &[u8] = b"x-del";

/// Longest delay, in milliseconds: a hundred years.
const DELAY_MAX_MS: u64 = 100 * 365 * 24 * 3_600_000;

/// How far a date may lie in the past, in milliseconds: clocks differ.
const PAST_MAX_MS: u64 = 60_000;

/// When a message is to be delivered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Due {
    /// At a time of the clock on the wall, wherever that is set to meanwhile.
    At(Wall),
    /// After so many milliseconds have passed, whatever is done to the clock on the wall.
    AfterMs(u64),
}

/// When these headers want their message delivered; None is at once. `x_delay` says whether the
/// exchange cares for `x-delay`.
///
/// # Errors
/// `PRECONDITION_FAILED`: a value that makes no sense, or two that contradict each other.
pub(crate) fn asked(
    headers: &FieldTable,
    x_delay: bool,
    now: Wall,
) -> Result<Option<Due>, AmqpError> {
    let after = headers.get(AFTER).map(after_ms).transpose()?;
    let at = headers.get(AT).map(|value| at(value, now)).transpose()?;
    let delay = if x_delay {
        headers.get(DELAY).map(delay_ms).transpose()?.flatten()
    } else {
        None
    };
    let due = match (after, at, delay) {
        (None, None, None) => return Ok(None),
        (Some(ms), None, None) | (None, None, Some(ms)) => Due::AfterMs(ms),
        (None, Some(at), None) => Due::At(at),
        _ => {
            return Err(AmqpError::precondition_failed(format_args!(
                "more than one of the headers {AFTER}, {AT} and {DELAY}: a message is delivered once"
            )));
        }
    };
    let is_now = match due {
        Due::AfterMs(ms) => ms == 0,
        Due::At(at) => at <= now,
    };
    Ok((!is_now).then_some(due))
}

/// The time that headers name, by either of the two that hold everywhere.
///
/// # Errors
/// `PRECONDITION_FAILED`: there is none, or it makes no sense.
pub(crate) fn moment(headers: &FieldTable, now: Wall) -> Result<Wall, AmqpError> {
    let due = asked(headers, false, now)?;
    match due {
        Some(Due::At(at)) => Ok(at),
        Some(Due::AfterMs(ms)) => Ok(ends(now, ms)),
        None if headers.get(AFTER).or_else(|| headers.get(AT)).is_some() => Ok(now),
        None => Err(AmqpError::precondition_failed(format_args!(
            "no header {AT} or {AFTER} says when"
        ))),
    }
}

/// The end of a delay that begins now: of the millisecond that has begun it may have all but
/// nothing, so that one does not count. It is too long by up to a millisecond, and never too short.
pub(crate) const fn ends(now: Wall, ms: u64) -> Wall {
    Wall(now.0.saturating_add(ms).saturating_add(1))
}

/// The delay that a message which is on its way asks for from an exchange of type
/// `x-delayed-message`: nobody is there any more to whom a wrong one could be refused.
pub(crate) fn x_delay(message: &Message) -> Option<Due> {
    let headers = message.properties().headers?;
    let ms = headers.get(DELAY).map(delay_ms)?.ok()??;
    (ms > 0).then_some(Due::AfterMs(ms))
}

/// A message as the exchange of this name holds it back: published there, with all the keys that it
/// goes to.
pub(crate) fn held_by(exchange: &str, message: &Message, copies: &[String]) -> Message {
    let mut properties = message.properties();
    if !copies.is_empty() {
        let key = |key: &String| FieldValue::from(key.as_str());
        let keys = copies.iter().map(key).collect();
        let headers = properties.headers.get_or_insert_default();
        headers.insert("BCC", FieldValue::Array(keys));
    }
    message.readdressed(exchange, &properties)
}

/// Turns `x-delay` into its negative, as RabbitMQ's plugin does, so that the message is not delayed
/// again should it come back to the exchange as a dead letter. Returns whether there was one.
pub(crate) fn negate(headers: &mut FieldTable) -> bool {
    match headers.get(DELAY).map(delay_ms) {
        Some(Ok(Some(ms))) => {
            let ms = i64::try_from(ms).unwrap_or(i64::MAX);
            headers.insert(DELAY, FieldValue::I64(-ms));
            true
        }
        _ => false,
    }
}

/// As lenient as the plugin: what is no number, or not above zero, is no delay.
fn delay_ms(value: &FieldValue) -> Result<Option<u64>, AmqpError> {
    let ms = match value {
        FieldValue::F32(ms) => Some(f64::from(*ms)),
        FieldValue::F64(ms) => Some(*ms),
        _ => None,
    };
    // A cast of a float stays within the bounds of the type.
    let ms = ms.map(|ms| ms as i128).or_else(|| integer(value));
    match ms {
        Some(ms) if ms > 0 => bounded(DELAY, ms).map(Some),
        _ => Ok(None),
    }
}

fn after_ms(value: &FieldValue) -> Result<u64, AmqpError> {
    let Some(ms) = integer(value) else {
        return Err(AmqpError::precondition_failed(format_args!(
            "invalid header {AFTER}: not a number of milliseconds; an example: 60000"
        )));
    };
    if ms < 0 {
        return Err(AmqpError::precondition_failed(format_args!(
            "invalid header {AFTER}: {ms} is negative; an example: 60000 (milliseconds)"
        )));
    }
    bounded(AFTER, ms)
}

fn at(value: &FieldValue, now: Wall) -> Result<Wall, AmqpError> {
    let ms = match value {
        FieldValue::Timestamp(seconds) => Some(i128::from(*seconds) * 1_000),
        FieldValue::LongString(_) if integer(value).is_none() => {
            let text = value.as_str().unwrap_or_default().trim();
            let at = text.parse::<jiff::Timestamp>().ok();
            at.map(|at| i128::from(at.as_millisecond()))
        }
        _ => integer(value),
    };
    let Some(ms) = ms else {
        return Err(AmqpError::precondition_failed(format_args!(
            "invalid header {AT}: neither a date, nor a timestamp, nor milliseconds since 1970; \
             an example: 2030-01-31T09:00:00Z"
        )));
    };
    let now = i128::from(now.0);
    if ms < now - i128::from(PAST_MAX_MS) {
        let ago_s = (now - ms) / 1_000;
        return Err(AmqpError::precondition_failed(format_args!(
            "invalid header {AT}: that was {ago_s} seconds ago; leave it out to deliver at once"
        )));
    }
    if ms > now + i128::from(DELAY_MAX_MS) {
        return Err(too_far(AT, "2030-01-31T09:00:00Z"));
    }
    Ok(Wall(u64::try_from(ms).unwrap_or_default()))
}

fn bounded(header: &str, ms: i128) -> Result<u64, AmqpError> {
    match u64::try_from(ms) {
        Ok(ms) if ms <= DELAY_MAX_MS => Ok(ms),
        _ => Err(too_far(header, "60000 (milliseconds)")),
    }
}

fn too_far(header: &str, example: &str) -> AmqpError {
    AmqpError::precondition_failed(format_args!(
        "invalid header {header}: more than 100 years ahead; an example: {example}"
    ))
}

/// A whole number, also if it is written out.
fn integer(value: &FieldValue) -> Option<i128> {
    match value {
        FieldValue::LongString(_) => value.as_str()?.trim().parse().ok(),
        _ => value.as_i64().map(i128::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Wall = Wall(1_900_000_000_000);

    fn text(text: &'static str) -> FieldValue {
        FieldValue::LongString(bytes::Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn headers_that_delay() {
        let in_a_minute = Some(Due::AfterMs(60_000));
        let at = |ms| Some(Due::At(Wall(ms)));
        #[rustfmt::skip]
        let table = [
            (AFTER, FieldValue::I32(60_000),                 false, in_a_minute, "an integer"),
            (AFTER, FieldValue::I64(60_000),                 false, in_a_minute, "a long integer"),
            (AFTER, text("60000"),                           false, in_a_minute, "digits"),
            (AFTER, FieldValue::I32(0),                      false, None, "zero is at once"),
            (AT,    FieldValue::Timestamp(1_900_000_001),    false, at(1_900_000_001_000), "a timestamp, in seconds"),
            (AT,    FieldValue::I64(1_900_000_000_500),      false, at(1_900_000_000_500), "milliseconds"),
            (AT,    text("1900000000500"),                   false, at(1_900_000_000_500), "milliseconds as digits"),
            (AT,    text("2030-03-17T17:46:41Z"),            false, at(1_900_000_001_000), "a date"),
            (AT,    text("2030-03-17T18:46:41.25+01:00"),    false, at(1_900_000_001_250), "a date with an offset"),
            (AT,    FieldValue::I64(1_899_999_999_000),      false, None, "a second ago: at once"),
            (DELAY, FieldValue::I32(60_000),                 false, None, "for other exchanges it means nothing"),
            (DELAY, FieldValue::I32(60_000),                 true,  in_a_minute, "the plugin's"),
            (DELAY, FieldValue::F64(60_000.0),               true,  in_a_minute, "a float"),
            (DELAY, text("60000"),                           true,  in_a_minute, "digits"),
            (DELAY, FieldValue::I64(4_294_967_296),          true,  Some(Due::AfterMs(4_294_967_296)), "no limit of 49 days"),
            (DELAY, FieldValue::I32(-5),                     true,  None, "below zero is at once"),
            (DELAY, text("soon"),                            true,  None, "no number is at once"),
            (DELAY, FieldValue::F64(f64::NAN),               true,  None, "no number either"),
        ];
        for (name, value, x_delay, expected, why) in table {
            let mut headers = FieldTable::default();
            headers.insert(name, value);
            assert_eq!(asked(&headers, x_delay, NOW), Ok(expected), "{name}: {why}");
        }
    }

    #[test]
    fn headers_that_make_no_sense() {
        let example = "an example: 60000";
        #[rustfmt::skip]
        let table = [
            (AFTER, text("soon"),                        example, "no number"),
            (AFTER, FieldValue::Bool(true),              example, "no number either"),
            (AFTER, FieldValue::I32(-1),                 "-1 is negative", "before now"),
            (AFTER, FieldValue::I64(i64::MAX),           "more than 100 years", "for ever"),
            (AT,    text("tomorrow"),                    "an example: 2030-01-31T09:00:00Z", "no date"),
            (AT,    text("2030-03-17 17:46"),            "an example: 2030-01-31T09:00:00Z", "no offset"),
            (AT,    FieldValue::I64(1_899_999_000_000),  "that was 1000 seconds ago", "past"),
            (AT,    FieldValue::Timestamp(u64::MAX),     "more than 100 years", "for ever"),
            (DELAY, FieldValue::I64(i64::MAX),           "more than 100 years", "for ever"),
        ];
        for (name, value, says, why) in table {
            let mut headers = FieldTable::default();
            headers.insert(name, value);
            let error = asked(&headers, true, NOW).expect_err(why);
            assert!(error.text.contains(says), "{name}, {why}: {}", error.text);
            assert!(error.text.contains(name), "{name}, {why}: {}", error.text);
        }
        let mut headers = FieldTable::default();
        headers.insert(AFTER, FieldValue::I32(1));
        headers.insert(AT, FieldValue::I64(1_900_000_000_500));
        let error = asked(&headers, false, NOW).expect_err("two");
        assert!(error.text.contains("more than one"), "{}", error.text);
    }
}

//! Durations as Go writes them: `1h30m10s`, `1.5h`, `300ms`.

/// Go's longest, about 292 years, in nanoseconds.
const NANOS_MAX: u128 = i64::MAX as u128;

/// Units with their nanoseconds. Longer ones first where one begins like another.
const UNITS: &[(&str, u128)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),  // micro sign
    ("\u{3bc}s", 1_000), // Greek mu
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Nanoseconds of a duration.
///
/// # Errors
/// What is wrong with the text.
pub fn parse(text: &str) -> Result<u64, String> {
    if text.starts_with('-') {
        return Err("it is negative".to_owned());
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err("it is empty".to_owned());
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = after.strip_prefix('.').map_or(("", after), digits);
        if whole.is_empty() && fraction.is_empty() {
            return Err(format!("a number is missing before '{rest}'"));
        }
        let Some((unit, nanos)) = UNITS.iter().find(|(unit, _)| unit_of(after) == *unit) else {
            return Err(match unit_of(after) {
                "" => "a unit is missing (h, m, s)".to_owned(),
                unit => format!("'{unit}' is no unit (h, m, s)"),
            });
        };
        total += value(whole, fraction, *nanos).ok_or("it is too long")?;
        if total > NANOS_MAX {
            return Err("it is too long".to_owned());
        }
        rest = &after[unit.len()..];
    }
    u64::try_from(total).map_err(|_| "it is too long".to_owned())
}

/// The shortest way to write whole seconds: `1h30m10s`, `90m` as `1h30m`.
#[must_use]
pub fn text(seconds: u64) -> String {
    let mut text = String::new();
    for (count, unit) in [
        (seconds / 3_600, 'h'),
        (seconds / 60 % 60, 'm'),
        (seconds % 60, 's'),
    ] {
        if count > 0 {
            text.push_str(&count.to_string());
            text.push(unit);
        }
    }
    if text.is_empty() {
        text.push_str("0s");
    }
    text
}

fn digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit());
    text.split_at(end.unwrap_or(text.len()))
}

/// What stands before the next number.
fn unit_of(text: &str) -> &str {
    let end = text.find(|c: char| c.is_ascii_digit() || c == '.');
    &text[..end.unwrap_or(text.len())]
}

fn value(whole: &str, fraction: &str, unit: u128) -> Option<u128> {
    let whole = if whole.is_empty() { "0" } else { whole };
    let whole: u128 = whole.parse().ok().filter(|&n| n <= NANOS_MAX)?;
    // Beyond the eighteenth place nothing counts.
    let fraction = fraction.get(..18).unwrap_or(fraction);
    let places = u32::try_from(fraction.len()).ok()?;
    let parts: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    Some(whole * unit + parts * unit / 10_u128.pow(places))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        const S: u64 = 1_000_000_000;
        #[rustfmt::skip]
        let table = [
            ("1h30m10s",      Ok(5_410 * S)),
            ("1.5h",          Ok(5_400 * S)),
            (".5s",           Ok(S / 2)),
            ("250ms",         Ok(S / 4)),
            ("1us1ns",        Ok(1_001)),
            ("1\u{b5}s",      Ok(1_000)),
            ("+5s",           Ok(5 * S)),
            ("0",             Ok(0)),
            ("100000h",       Ok(360_000_000 * S)),
            ("3000000h",      Err("it is too long")),
            ("99999999999999999999999999999999999999999h", Err("it is too long")),
            ("",              Err("it is empty")),
            ("-1s",           Err("it is negative")),
            ("10",            Err("a unit is missing (h, m, s)")),
            ("1d",            Err("'d' is no unit (h, m, s)")),
            ("1h 30m",        Err("'h ' is no unit (h, m, s)")),
            ("h",             Err("a number is missing before 'h'")),
            ("five minutes",  Err("a number is missing before 'five minutes'")),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text), expected.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn seconds_as_text() {
        for (seconds, expected) in [(0, "0s"), (59, "59s"), (5_410, "1h30m10s"), (7_200, "2h")] {
            assert_eq!(text(seconds), expected);
        }
    }
}

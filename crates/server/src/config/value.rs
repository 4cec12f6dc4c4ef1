//! What a setting can hold, and how it is written.
//!
//! Every value has one spelling for the command line, the environment and the file, so that the
//! three cannot drift apart: [`Value::parse`] reads it, [`Value::show`] writes it.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

/// Something a setting can be.
pub trait Value: Clone + Sized {
    /// What it looks like, for help texts: `a number`, `octets`.
    const KIND: &'static str;

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with the text, as the end of a sentence that starts with the text.
    fn parse(text: &str) -> Result<Self, String>;

    /// The text that [`Value::parse`] reads back.
    fn show(&self) -> String;
}

/// Addresses to listen on; none is written `none`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Addresses(pub Vec<SocketAddr>);

/// A number of octets, written with or without `KiB`, `MiB`, `GiB`, `kB`, `MB`, `GB`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Octets(pub u64);

/// A length of time, written with its unit: `500ms`, `10s`, `5m`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Span(pub Duration);

/// How much memory may be used: a share of what there is, or so many octets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Watermark {
    /// Of the control group's limit, or of the machine's memory.
    Share(f64),
    /// As given.
    Absolute(Octets),
}

/// A file or directory; none is the empty text.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Location(pub Option<PathBuf>);

/// Free text; none is the empty text.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Text(pub Option<String>);

/// A password. Shown as stars, in debug output as well.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Password(pub Option<Arc<str>>);

/// How log lines look.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What gets logged, in the notation of `tracing_subscriber::EnvFilter`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogLevel(pub String);

impl Value for Addresses {
    const KIND: &'static str = "address:port";

    fn parse(text: &str) -> Result<Self, String> {
        if matches!(text, "" | "none") {
            return Ok(Self::default());
        }
        text.split(',')
            .map(|one| {
                one.trim().parse().map_err(|_| {
                    "is not an IP address with a port, such as 127.0.0.1:5672 or [::]:5672"
                        .to_owned()
                })
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn show(&self) -> String {
        if self.0.is_empty() {
            return "none".to_owned();
        }
        self.0
            .iter()
            .map(SocketAddr::to_string)
            .collect::<Vec<_>>()
            .join(",")
    }
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Value for $number {
            const KIND: &'static str = "number";

            fn parse(text: &str) -> Result<Self, String> {
                text.replace('_', "").parse().map_err(|_| "is not a whole number in range".to_owned())
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

numbers!(u16, u32, usize);

impl Octets {
    const UNITS: [(&'static str, u64); 7] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
    ];

    /// The number as a size in memory; what does not fit is as good as endless.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Value for Octets {
    const KIND: &'static str = "octets";

    fn parse(text: &str) -> Result<Self, String> {
        let (digits, unit) = Self::UNITS
            .iter()
            .find_map(|&(name, unit)| Some((text.strip_suffix(name)?.trim_end(), unit)))
            .unwrap_or((text, 1));
        digits
            .replace('_', "")
            .parse()
            .ok()
            .and_then(|count: u64| count.checked_mul(unit))
            .map(Self)
            .ok_or_else(|| "is not a number of octets, such as 4096, 64KiB or 16MiB".to_owned())
    }

    fn show(&self) -> String {
        let unit = Self::UNITS[..3]
            .iter()
            .rev()
            .find(|(_, unit)| self.0 > 0 && self.0.is_multiple_of(*unit));
        match unit {
            Some((name, unit)) => format!("{}{name}", self.0 / unit),
            None => self.0.to_string(),
        }
    }
}

impl Span {
    const UNITS: [(&'static str, u64); 4] =
        [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

    /// In milliseconds.
    #[must_use]
    pub fn as_ms(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Value for Span {
    const KIND: &'static str = "duration";

    fn parse(text: &str) -> Result<Self, String> {
        Self::UNITS
            .iter()
            .find_map(|&(name, unit)| {
                let count: u64 = text.strip_suffix(name)?.trim_end().parse().ok()?;
                Some(Self(Duration::from_millis(count.checked_mul(unit)?)))
            })
            .ok_or_else(|| "is not a duration with its unit, such as 500ms, 10s or 5m".to_owned())
    }

    fn show(&self) -> String {
        let ms = self.as_ms();
        // Minutes and hours are for people to write; seconds are what everybody else shows.
        if ms.is_multiple_of(1_000) {
            format!("{}s", ms / 1_000)
        } else {
            format!("{ms}ms")
        }
    }
}

impl Value for Watermark {
    const KIND: &'static str = "share|octets";

    fn parse(text: &str) -> Result<Self, String> {
        if let Ok(share) = text.parse::<f64>()
            && share > 0.0
            && share <= 1.0
        {
            return Ok(Self::Share(share));
        }
        match Octets::parse(text) {
            Ok(octets) if octets.0 > 1 => Ok(Self::Absolute(octets)),
            _ => Err(
                "is neither a share of the memory, such as 0.6, nor a size, such as 2GiB"
                    .to_owned(),
            ),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Share(share) => share.to_string(),
            Self::Absolute(octets) => octets.show(),
        }
    }
}

impl PartialOrd for Watermark {
    /// Shares and sizes cannot be compared: no range is given for them.
    fn partial_cmp(&self, _: &Self) -> Option<std::cmp::Ordering> {
        None
    }
}

impl Value for Location {
    const KIND: &'static str = "path";

    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self((!text.is_empty()).then(|| PathBuf::from(text))))
    }

    fn show(&self) -> String {
        self.0
            .as_deref()
            .map(|path| path.display().to_string())
            .unwrap_or_default()
    }
}

impl Value for Text {
    const KIND: &'static str = "text";

    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self((!text.is_empty()).then(|| text.to_owned())))
    }

    fn show(&self) -> String {
        self.0.clone().unwrap_or_default()
    }
}

impl Value for Password {
    const KIND: &'static str = "text";

    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self((!text.is_empty()).then(|| Arc::from(text))))
    }

    fn show(&self) -> String {
        if self.0.is_some() {
            "***".to_owned()
        } else {
            String::new()
        }
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show())
    }
}

impl Value for LogFormat {
    const KIND: &'static str = "text|json";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("is neither text nor json".to_owned()),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
        .to_owned()
    }
}

impl Value for LogLevel {
    const KIND: &'static str = "level";

    fn parse(text: &str) -> Result<Self, String> {
        match EnvFilter::try_new(text) {
            // An unknown word would be taken for the name of a module, and everything be silent.
            Ok(filter) if filter.max_level_hint().is_some() && is_level_or_directives(text) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(
                "is not error, warn, info, debug, trace or a list such as info,leveret=debug"
                    .to_owned(),
            ),
        }
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

fn is_level_or_directives(text: &str) -> bool {
    text.split(',').all(|part| {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        matches!(
            level.trim(),
            "off" | "error" | "warn" | "info" | "debug" | "trace"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_are_read_and_written() {
        #[rustfmt::skip]
        let table = [
            // text        value                    shown again
            ("4096",       Some(4_096),             "4KiB"),
            ("131_072",    Some(131_072),           "128KiB"),
            ("16MiB",      Some(16 << 20),          "16MiB"),
            ("16 MiB",     Some(16 << 20),          "16MiB"),
            ("1GB",        Some(1_000_000_000),     "1000000000"),
            ("0",          Some(0),                 "0"),
            ("-1",         None,                    ""),
            ("1.5MiB",     None,                    ""),
            ("99999999999GiB", None,                ""),
        ];
        for (text, value, shown) in table {
            let parsed = Octets::parse(text).ok();
            assert_eq!(parsed.map(|octets| octets.0), value, "{text:?}");
            assert_eq!(
                parsed.map(|octets| octets.show()).unwrap_or_default(),
                shown,
                "{text:?}"
            );
        }
    }

    #[test]
    fn durations_need_their_unit() {
        #[rustfmt::skip]
        let table = [
            ("10s",   Some(10_000),  "as RabbitMQ's settings are"),
            ("500ms", Some(500),     "ms is not m"),
            ("5m",    Some(300_000), "minutes"),
            ("0s",    Some(0),       "off, where that is allowed"),
            ("10",    None,          "seconds or milliseconds?"),
            ("-1s",   None,          "time does not run backwards"),
        ];
        for (text, ms, why) in table {
            assert_eq!(
                Span::parse(text).ok().map(Span::as_ms),
                ms,
                "{text:?}: {why}"
            );
        }
    }

    #[test]
    fn watermarks_are_shares_or_sizes() {
        assert_eq!(Watermark::parse("0.6"), Ok(Watermark::Share(0.6)));
        assert_eq!(Watermark::parse("1"), Ok(Watermark::Share(1.0)));
        assert_eq!(
            Watermark::parse("2GiB"),
            Ok(Watermark::Absolute(Octets(2 << 30)))
        );
        for bad in ["0", "1.5", "-0.1", "half", "NaN"] {
            assert!(Watermark::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn log_levels_are_checked() {
        for good in ["info", "off", "info,leveret=debug"] {
            assert!(LogLevel::parse(good).is_ok(), "{good:?}");
        }
        for bad in ["loud", "", "info,leveret=loud"] {
            assert!(LogLevel::parse(bad).is_err(), "{bad:?}");
        }
    }
}

//! Publishes encoded before the clock starts. While it runs, only numbers are patched in.
//!
//! A body is its number (8 bytes), a stamp (8 bytes) and filling. The stamp is the number of the
//! stream where throughput is measured, so that a message in the wrong queue is noticed, and the
//! time where latency is, or the time it is due where it waits.

use std::time::Duration;

use leveret_codec::{
    BasicPublish, FieldTable, Properties, ShortStr, encode_body, encode_header, encode_method,
};

use crate::{Error, Result, client::CHANNEL, lateness::due_stamp};

/// Bytes given to the kernel at once: enough to make the call cheap, little enough to stay in the
/// processor's cache. A larger message goes alone.
pub const WRITE_BYTES: usize = 64 << 10;

/// The delivery mode of messages that survive their server (AMQP 0-9-1, class `basic`).
const PERSISTENT: u8 = 2;

/// Smallest body: its number and its stamp.
pub const BODY_BYTES_MIN: usize = 16;

/// Where a kind of message goes and what it looks like.
#[derive(Clone, Debug, Default)]
pub struct Template {
    pub exchange: String,
    pub routing_key: String,
    pub headers: FieldTable,
    pub body_size: usize,
    /// Delivery mode 2: to be kept on disk by a durable queue.
    pub persistent: bool,
}

impl Template {
    /// One publish, as bytes to write.
    ///
    /// # Errors
    /// When a name is too long or the body has a size we cannot use.
    pub fn encoded(&self, stamp: u64) -> Result<Vec<u8>> {
        if !(BODY_BYTES_MIN..=WRITE_BYTES).contains(&self.body_size) {
            let text = format!("a body of {} bytes: too small or too large", self.body_size);
            return Err(Error::Setup(text));
        }
        let short = |name: &'static str, value| {
            ShortStr::new(value).ok_or_else(|| Error::Setup(format!("{name} is too long")))
        };
        let publish = BasicPublish {
            exchange: short("exchange", &*self.exchange)?,
            routing_key: short("routing key", &*self.routing_key)?,
            ..BasicPublish::default()
        };
        // No delivery mode: transient, for all brokers.
        let properties = Properties {
            delivery_mode: self.persistent.then_some(PERSISTENT),
            headers: (!self.headers.is_empty()).then(|| self.headers.clone()),
            ..Properties::default()
        };
        let mut raw = Vec::new();
        let flags = properties.encode(&mut raw);
        let mut out = Vec::new();
        encode_method(&mut out, CHANNEL, &publish.into());
        encode_header(&mut out, CHANNEL, self.body_size as u64, flags, &raw);
        encode_body(&mut out, CHANNEL, &body(self.body_size, 0, stamp));
        Ok(out)
    }
}

/// Messages of one publisher, sent over and over in this order.
#[derive(Clone)]
pub struct Script {
    bytes: Vec<u8>,
    messages: Vec<Place>,
    /// Index of the message that is next.
    next: usize,
    sent: u64,
    /// The stamp is when the message is due if it is to wait for so long.
    delay: Option<Duration>,
}

/// Messages to write in one go.
pub struct Batch<'a> {
    pub bytes: &'a [u8],
    pub count: u64,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    body: usize,
    end: usize,
}

impl Script {
    /// Encodes the templates, repeated until there is enough for a whole write.
    ///
    /// # Errors
    /// When there are none, or one cannot be encoded.
    pub fn new(templates: &[Template], stamp: u64) -> Result<Self> {
        Self::stamped(templates.iter().map(|template| (template, stamp)))
    }

    /// The same with a stamp for each.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn stamped<'a>(templates: impl IntoIterator<Item = (&'a Template, u64)>) -> Result<Self> {
        let mut bytes = Vec::new();
        let mut messages = Vec::new();
        for (template, stamp) in templates {
            bytes.extend(template.encoded(stamp)?);
            let end = bytes.len();
            let body = end - 1 - template.body_size; // 1: the end byte of the frame
            messages.push(Place { body, end });
        }
        if messages.is_empty() {
            return Err(Error::Setup("a script needs messages".into()));
        }
        let (once, count) = (bytes.len(), messages.len());
        for round in 1..WRITE_BYTES / once {
            bytes.extend_from_within(..once);
            for at in 0..count {
                let Place { body, end } = messages[at];
                let shift = round * once;
                messages.push(Place {
                    body: body + shift,
                    end: end + shift,
                });
            }
        }
        Ok(Self {
            bytes,
            messages,
            next: 0,
            sent: 0,
            delay: None,
        })
    }

    /// Messages are stamped with when they are due: so long after they are taken.
    pub fn with_delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// Messages taken so far, and so the number of the next.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// The next messages, `count_max` and [`WRITE_BYTES`] at most but at least one. They count as
    /// sent.
    pub fn take(&mut self, count_max: u64) -> Batch<'_> {
        let first = self.next;
        let start = self.start_of(first);
        let room = usize::try_from(count_max.max(1)).unwrap_or(usize::MAX);
        let last = first.saturating_add(room).min(self.messages.len());
        let fits = |place: &Place| place.end <= start + WRITE_BYTES;
        let count = self.messages[first..last].partition_point(fits).max(1);

        let due = self.delay.map(due_stamp);
        for (seq, place) in (self.sent..).zip(&self.messages[first..first + count]) {
            self.bytes[place.body..place.body + 8].copy_from_slice(&seq.to_le_bytes());
            if let Some(due) = due {
                self.bytes[place.body + 8..place.body + 16].copy_from_slice(&due.to_le_bytes());
            }
        }
        self.sent += count as u64;
        self.next = (first + count) % self.messages.len();
        Batch {
            bytes: &self.bytes[start..self.messages[first + count - 1].end],
            count: count as u64,
        }
    }

    /// The next message alone, with another stamp than the script's.
    pub fn take_stamped(&mut self, stamp: u64) -> &[u8] {
        let at = self.messages[self.next].body + 8;
        self.bytes[at..at + 8].copy_from_slice(&stamp.to_le_bytes());
        self.take(1).bytes
    }

    fn start_of(&self, index: usize) -> usize {
        match index {
            0 => 0,
            index => self.messages[index - 1].end,
        }
    }
}

/// Number and stamp of a body, if it has room for them.
#[inline]
pub fn read_body(body: &[u8]) -> Option<(u64, u64)> {
    let (seq, rest) = body.split_first_chunk()?;
    let stamp = rest.first_chunk()?;
    Some((u64::from_le_bytes(*seq), u64::from_le_bytes(*stamp)))
}

/// A body of `size` bytes, of which there must be [`BODY_BYTES_MIN`].
pub fn body(size: usize, seq: u64, stamp: u64) -> Vec<u8> {
    let mut body = vec![b'.'; size];
    body[..8].copy_from_slice(&seq.to_le_bytes());
    body[8..BODY_BYTES_MIN].copy_from_slice(&stamp.to_le_bytes());
    body
}

#[cfg(test)]
mod tests {
    use leveret_codec::{FRAME_BODY, split_frame};

    use super::*;

    fn template(routing_key: &str, body_size: usize) -> Template {
        Template {
            routing_key: routing_key.into(),
            body_size,
            ..Template::default()
        }
    }

    /// Number and stamp of every body in `bytes`.
    fn bodies(mut bytes: &[u8]) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let (frame, len) = split_frame(bytes, 0).unwrap().expect("whole frames");
            if frame.kind == FRAME_BODY {
                found.extend(read_body(frame.payload));
            }
            bytes = &bytes[len..];
        }
        found
    }

    #[test]
    fn numbers_go_on_over_writes_and_rounds() {
        let mut script = Script::new(&[template("a", 16), template("bb", 40)], 9).unwrap();
        let mut expected = 0;
        for count_max in [1, 2, 1_000_000, 700, 1_000_000, 3] {
            let found = bodies(script.take(count_max).bytes);
            assert!(!found.is_empty() && found.len() as u64 <= count_max);
            for (seq, stamp) in found {
                assert_eq!((seq, stamp), (expected, 9));
                expected += 1;
            }
            assert_eq!(script.sent(), expected);
        }
    }

    #[test]
    fn writes_are_full_but_not_fuller() {
        let mut script = Script::new(&[template("queue", 16)], 0).unwrap();
        let len = script.take(u64::MAX).bytes.len();
        assert!(len <= WRITE_BYTES && len > WRITE_BYTES - 200, "{len}");
        let mut large = Script::new(&[template("queue", WRITE_BYTES)], 0).unwrap();
        assert_eq!(large.take(10).count, 1, "larger than a write: alone");
    }

    #[test]
    fn stamps_are_patched() {
        let mut script = Script::new(&[template("a", 16)], 0).unwrap();
        assert_eq!(bodies(script.take_stamped(5)), [(0, 5)]);
        assert_eq!(bodies(script.take_stamped(6)), [(1, 6)]);
    }

    #[test]
    fn unfit_templates_are_refused() {
        assert!(Script::new(&[], 0).is_err());
        assert!(Script::new(&[template("a", 15)], 0).is_err());
        assert!(Script::new(&[template(&"k".repeat(256), 16)], 0).is_err());
    }
}

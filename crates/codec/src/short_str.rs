//! The two kinds of string that a method may carry.

use std::{borrow::Cow, fmt, ops::Deref};

/// Bytes that fit into the one length byte of a short string.
const SHORT_LEN_MAX: usize = 255;

/// Text of at most 255 bytes: names, routing keys, reply texts (AMQP 0-9-1 §4.2.5.3).
///
/// Borrowed from the read buffer when it was parsed, so that no method on the message path
/// allocates. Every constructor checks the length, hence encoding one cannot fail.
#[derive(Clone, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ShortStr<'a>(Cow<'a, str>);

impl<'a> ShortStr<'a> {
    /// `None` if `text` is longer than 255 bytes.
    #[inline]
    pub fn new(text: impl Into<Cow<'a, str>>) -> Option<Self> {
        let text = text.into();
        (text.len() <= SHORT_LEN_MAX).then_some(Self(text))
    }

    /// What stood behind a length byte, which cannot say more than 255.
    #[inline]
    pub(crate) fn of_wire(text: &'a str) -> Self {
        debug_assert!(text.len() <= SHORT_LEN_MAX);
        Self(Cow::Borrowed(text))
    }

    /// Cuts `text` to 255 bytes or, where that would split a character, a little less.
    ///
    /// For texts that people read. A name or a key must not lose its end: use [`ShortStr::new`].
    pub fn truncated(text: impl Into<Cow<'a, str>>) -> Self {
        let text = text.into();
        if text.len() <= SHORT_LEN_MAX {
            return Self(text);
        }
        let end = (0..=SHORT_LEN_MAX)
            .rfind(|&end| text.is_char_boundary(end))
            .unwrap_or(0);
        Self(match text {
            Cow::Borrowed(text) => Cow::Borrowed(&text[..end]),
            Cow::Owned(mut text) => {
                text.truncate(end);
                Cow::Owned(text)
            }
        })
    }

    /// The text, for as long as the buffer lives that it was parsed from.
    #[inline]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Copies the text out of the buffer that it was parsed from.
    pub fn into_owned(self) -> ShortStr<'static> {
        ShortStr(Cow::Owned(self.0.into_owned()))
    }
}

impl ShortStr<'static> {
    /// A constant.
    ///
    /// # Panics
    /// If it is longer than 255 bytes; in a `const` the compiler says so.
    pub const fn from_static(text: &'static str) -> Self {
        assert!(
            text.len() <= SHORT_LEN_MAX,
            "longer than a short string may be"
        );
        Self(Cow::Borrowed(text))
    }
}

impl Deref for ShortStr<'_> {
    type Target = str;

    #[inline]
    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for ShortStr<'_> {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for ShortStr<'_> {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for ShortStr<'_> {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

impl From<ShortStr<'_>> for String {
    fn from(text: ShortStr<'_>) -> Self {
        text.0.into_owned()
    }
}

impl fmt::Display for ShortStr<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ShortStr<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// Up to 4 GiB of any bytes; in methods a list of names, or something secret.
///
/// `Debug` shows the length alone: SASL responses and `connection.update-secret` travel as long
/// strings, and logs are kept.
#[derive(Clone, Default, Eq, Hash, PartialEq)]
pub struct LongStr<'a>(pub Cow<'a, [u8]>);

impl LongStr<'_> {
    /// Copies the bytes out of the buffer that they were parsed from.
    pub fn into_owned(self) -> LongStr<'static> {
        LongStr(Cow::Owned(self.0.into_owned()))
    }
}

impl<'a> From<&'a [u8]> for LongStr<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self(Cow::Borrowed(bytes))
    }
}

impl<'a> From<&'a str> for LongStr<'a> {
    fn from(text: &'a str) -> Self {
        Self(Cow::Borrowed(text.as_bytes()))
    }
}

impl From<Vec<u8>> for LongStr<'static> {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Cow::Owned(bytes))
    }
}

impl Deref for LongStr<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for LongStr<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LongStr({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_is_counted_in_bytes() {
        assert!(ShortStr::new("x".repeat(255)).is_some());
        assert!(ShortStr::new("x".repeat(256)).is_none());
        assert!(
            ShortStr::new("é".repeat(128)).is_none(),
            "128 characters, 256 bytes"
        );
    }

    #[test]
    fn truncated_text_ends_with_a_whole_character() {
        #[rustfmt::skip]
        let table = [
            // text             bytes kept  why this row is here
            ("short".to_owned(),    5,      "nothing to cut"),
            ("x".repeat(255),     255,      "just fits"),
            ("x".repeat(300),     255,      "cut where the limit is"),
            ("é".repeat(200),     254,      "255 is in the middle of a character"),
            ("🐇".repeat(100),    252,      "four bytes a character"),
        ];
        for (text, expected, why) in table {
            assert_eq!(
                ShortStr::truncated(text.as_str()).len(),
                expected,
                "borrowed: {why}"
            );
            assert_eq!(ShortStr::truncated(text).len(), expected, "owned: {why}");
        }
    }

    #[test]
    fn owned_and_borrowed_are_equal() {
        let borrowed = ShortStr::from_static("amq.topic");
        assert_eq!(borrowed.clone().into_owned(), borrowed);
        assert_eq!(borrowed, "amq.topic");
        assert_eq!(
            format!("[{borrowed:>10}] {borrowed:?}"),
            "[ amq.topic] \"amq.topic\""
        );
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let response = LongStr::from("\0guest\0hunter2");
        assert_eq!(format!("{response:?}"), "LongStr(14 bytes)");
    }
}

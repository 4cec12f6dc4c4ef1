//! A cursor over the frames in a read buffer, and RabbitMQ's words for the ones that are wrong.

use std::fmt;

use leveret_codec::{
    ContentHeader, DecodeError, FRAME_BODY, FRAME_HEADER, FRAME_HEARTBEAT, FRAME_METHOD,
    FRAME_OVERHEAD, RawFrame, parse_content_header, split_frame,
};
use leveret_core::AmqpError;

use crate::closing::Failure;

/// Octets of class and method id, which every method frame starts with.
const METHOD_ID_SIZE: usize = 4;

/// Octets of a frame's payload that an error text shows.
const SNIPPET_MAX: usize = 16;

/// Octets of arguments that an error text shows; more would not fit into it.
const ARGUMENTS_SHOWN_MAX: usize = 128;

/// The frames of one read, one after the other.
#[derive(Debug)]
pub(crate) struct Frames<'a> {
    input: &'a [u8],
    used: usize,
    frame_max: u32,
}

impl<'a> Frames<'a> {
    pub(crate) fn new(input: &'a [u8], frame_max: u32) -> Self {
        Self {
            input,
            used: 0,
            frame_max,
        }
    }

    /// Octets of the frames that were taken.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Takes the next frame; `None` if it is not all there.
    ///
    /// # Errors
    /// If there is no telling where the next frame starts.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<RawFrame<'a>>, Failure> {
        match split_frame(self.rest(0), self.frame_max) {
            Ok(None) => Ok(None),
            Ok(Some((frame, size))) => {
                self.used += size;
                Ok(Some(frame))
            }
            Err(error) => Err(Failure::OutOfStep(self.no_frame(&error))),
        }
    }

    /// Takes a whole content of this channel, if it comes next and in as few frames as can be: a
    /// header and at most one body frame. Takes nothing otherwise, and judges nothing: whatever
    /// does not fit is left to be taken frame by frame.
    #[inline]
    pub(crate) fn take_content(
        &mut self,
        channel: u16,
        body_size_max: u64,
    ) -> Option<(ContentHeader<'a>, &'a [u8])> {
        let (frame, header_size) = split_frame(self.rest(0), self.frame_max).ok()??;
        if frame.kind != FRAME_HEADER || frame.channel != channel {
            return None;
        }
        let header = parse_content_header(frame.payload).ok()?;
        if header.body_size == 0 {
            self.used += header_size;
            return Some((header, &[]));
        }
        let (frame, body_size) = split_frame(self.rest(header_size), self.frame_max).ok()??;
        let whole = frame.kind == FRAME_BODY
            && frame.channel == channel
            && frame.payload.len() as u64 == header.body_size
            && header.body_size <= body_size_max;
        whole.then(|| {
            self.used += header_size + body_size;
            (header, frame.payload)
        })
    }

    fn rest(&self, skip: usize) -> &'a [u8] {
        self.input.get(self.used + skip..).unwrap_or_default()
    }

    /// 501 for octets that are no frame, with what is known of it.
    fn no_frame(&self, error: &DecodeError) -> AmqpError {
        let rest = self.rest(0);
        let kind = rest.first().copied().unwrap_or_default();
        match *error {
            DecodeError::FrameTooLarge { limit, .. } => {
                // As announced: with the envelope it may be more than can be counted.
                let size = payload_size(rest).unwrap_or(u32::MAX);
                let limit = limit.saturating_sub(OVERHEAD);
                AmqpError::frame_error(format_args!(
                    "type {kind}, all octets = <<>>: {{frame_too_large,{size},{limit}}}"
                ))
            }
            DecodeError::BadFrameEnd { got } => {
                let payload = payload_of(rest);
                AmqpError::frame_error(format_args!(
                    "{}: {{invalid_frame_end_marker,{got}}}",
                    Shown { kind, payload }
                ))
            }
            ref other => AmqpError::frame_error(other),
        }
    }
}

const OVERHEAD: u32 = FRAME_OVERHEAD as u32;

/// Octets of payload that a frame header announces.
fn payload_size(frame: &[u8]) -> Option<u32> {
    let header = frame.first_chunk::<{ FRAME_OVERHEAD - 1 }>()?;
    Some(u32::from_be_bytes([
        header[3], header[4], header[5], header[6],
    ]))
}

/// The payload that a frame header announces, as far as it is there.
fn payload_of(frame: &[u8]) -> &[u8] {
    let (Some(size), Some(rest)) = (payload_size(frame), frame.get(FRAME_OVERHEAD - 1..)) else {
        return &[];
    };
    usize::try_from(size)
        .ok()
        .and_then(|size| rest.get(..size))
        .unwrap_or(rest)
}

/// Class id, method id and arguments of a method frame.
///
/// # Errors
/// `FRAME_ERROR` if not even the ids are there.
#[inline]
pub(crate) fn split_method<'a>(frame: &RawFrame<'a>) -> Result<((u16, u16), &'a [u8]), Failure> {
    match frame.payload.split_first_chunk::<METHOD_ID_SIZE>() {
        Some((&[a, b, c, d], arguments)) => Ok((
            (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
            arguments,
        )),
        None => Err(unknown_frame(frame)),
    }
}

/// 501: a frame of a type that does not exist, or one that cannot be of its type.
#[cold]
pub(crate) fn unknown_frame(frame: &RawFrame<'_>) -> Failure {
    AmqpError::frame_error(format_args!("{}: unknown_frame", Shown::from(frame))).into()
}

/// 505 for a frame on a channel where its type has no business, 501 for one of no known type.
#[cold]
pub(crate) fn misplaced_frame(frame: &RawFrame<'_>) -> Failure {
    match (frame.kind, frame.channel) {
        (FRAME_METHOD | FRAME_HEADER | FRAME_BODY, _) | (FRAME_HEARTBEAT, 1..) => {
            AmqpError::unexpected_frame(Shown::from(frame)).into()
        }
        _ => unknown_frame(frame),
    }
}

/// What a method gets whose arguments cannot be read.
#[cold]
pub(crate) fn undecodable_method(error: &DecodeError, payload: &[u8]) -> AmqpError {
    let (ids, arguments) = payload
        .split_at_checked(METHOD_ID_SIZE)
        .unwrap_or((payload, &[]));
    let id = match *ids {
        [a, b, c, d] => (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
        _ => (0, 0),
    };
    match error {
        // RabbitMQ drops the connection without a word here.
        DecodeError::UnknownMethod {
            class_id,
            method_id,
        } => AmqpError::not_implemented(format_args!(
            "unknown method {method_id} of class {class_id}"
        )),
        DecodeError::BadUtf8 { .. } => {
            return AmqpError::frame_error("Malformed UTF-8 in shortstr"); // of no method
        }
        DecodeError::Truncated { .. } | DecodeError::TrailingBytes { .. } => {
            let shown = arguments.get(..ARGUMENTS_SHOWN_MAX).unwrap_or(arguments);
            AmqpError::frame_error(format_args!("cannot decode {}", Decimal(shown)))
        }
        other => AmqpError::syntax_error(other),
    }
    .of_method(id)
}

/// `type 1, first 16 octets = <<...>>`: how RabbitMQ shows a frame that is wrong.
struct Shown<'a> {
    kind: u8,
    payload: &'a [u8],
}

impl<'a> From<&RawFrame<'a>> for Shown<'a> {
    fn from(frame: &RawFrame<'a>) -> Self {
        Self {
            kind: frame.kind,
            payload: frame.payload,
        }
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (which, octets) = match self.payload.get(..SNIPPET_MAX) {
            Some(first) if self.payload.len() > SNIPPET_MAX => ("first 16", first),
            _ => ("all", self.payload),
        };
        write!(f, "type {}, {which} octets = ", self.kind)?;
        match str::from_utf8(octets) {
            Ok(text)
                if !text.is_empty() && text.bytes().all(|octet| (b' '..=b'~').contains(&octet)) =>
            {
                write!(f, "<<{text:?}>>") // escapes quotes as Erlang does
            }
            _ => Decimal(octets).fmt(f),
        }
    }
}

/// `<<1,2,255>>`: octets as Erlang writes them.
struct Decimal<'a>(&'a [u8]);

impl fmt::Display for Decimal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<<")?;
        for (at, octet) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(f, "{comma}{octet}")?;
        }
        f.write_str(">>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_shown_as_rabbitmq_shows_them() {
        #[rustfmt::skip]
        let table: [(&[u8], &str, &str); 6] = [
            (b"",                  "all octets = <<>>",                    "nothing"),
            (&[1],                 "all octets = <<1>>",                   "not printable"),
            (b"hello",             "all octets = <<\"hello\">>",           "printable"),
            (b"it's \"so\"",       r#"all octets = <<"it's \"so\"">>"#,    "with quotes"),
            (b"0123456789abcdef",  "all octets = <<\"0123456789abcdef\">>", "just all of it"),
            (b"0123456789abcdefX", "first 16 octets = <<\"0123456789abcdef\">>", "the rest is not shown"),
        ];
        for (payload, expected, why) in table {
            let shown = Shown { kind: 9, payload }.to_string();
            assert_eq!(shown, format!("type 9, {expected}"), "{why}");
        }
    }

    #[test]
    fn a_content_is_taken_whole_or_not_at_all() {
        let mut content = Vec::new();
        leveret_codec::encode_header(&mut content, 1, 3, 0, &[]);
        leveret_codec::encode_body(&mut content, 1, b"abc");

        for end in 0..content.len() {
            let mut frames = Frames::new(&content[..end], 4_096);
            assert!(frames.take_content(1, 100).is_none(), "{end} octets");
            assert_eq!(frames.used(), 0);
        }
        let mut frames = Frames::new(&content, 4_096);
        assert!(frames.take_content(2, 100).is_none(), "of another channel");
        assert!(
            frames.take_content(1, 2).is_none(),
            "too large: judged frame by frame"
        );
        assert_eq!(
            frames.take_content(1, 3).map(|(_, body)| body),
            Some(b"abc".as_slice())
        );
        assert_eq!(frames.used(), content.len());
    }
}

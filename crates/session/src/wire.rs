//! Octets on their way out: one buffer for all that is small, and the large bodies where they are.

use std::collections::VecDeque;
use std::io::IoSlice;

use leveret_core::Message;

/// Octets written from the front of the buffer before the rest is moved up. Only matters to a
/// writer that never gets to the end.
const COMPACT_AT: usize = 64 * 1024;

/// What is to be written to a socket, in order.
///
/// Filled by [`Encoder::encode`](crate::Encoder::encode) and emptied from the front, however little
/// the socket takes at a time.
#[derive(Debug, Default)]
pub struct Wire {
    /// Frames, with gaps where `slices` belong.
    buffer: Vec<u8>,
    /// Octets of `buffer` that are written.
    done: usize,
    slices: VecDeque<Slice>,
    /// Octets still to be written.
    len: usize,
    close_after: bool,
}

/// A piece of a message's body that was not copied.
#[derive(Debug)]
struct Slice {
    /// Where it belongs: in front of this octet of the buffer.
    at: usize,
    message: Message,
    /// The piece, as octets of the body.
    from: usize,
    to: usize,
}

impl Slice {
    fn octets(&self) -> &[u8] {
        self.message
            .body()
            .get(self.from..self.to)
            .unwrap_or_default()
    }
}

impl Wire {
    /// Whether everything is written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Octets still to be written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the connection is over once everything is written.
    #[must_use]
    pub fn close_after(&self) -> bool {
        self.close_after
    }

    /// What comes next, for a plain `write`; empty only if the wire is.
    #[must_use]
    pub fn first(&self) -> &[u8] {
        self.pieces().next().unwrap_or_default()
    }

    /// Fills `slices` from the front with what comes next, for `writev`, and returns how many it
    /// filled.
    pub fn io_slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slice, piece) in slices.iter_mut().zip(self.pieces()) {
            *slice = IoSlice::new(piece);
            filled += 1;
        }
        filled
    }

    /// The socket has taken so many octets.
    pub fn advance(&mut self, written: usize) {
        debug_assert!(written <= self.len);
        self.len = self.len.saturating_sub(written);
        if self.len == 0 {
            self.buffer.clear();
            self.slices.clear();
            self.done = 0;
        } else {
            self.drop_front(written);
            self.compact();
        }
    }

    /// Gives the memory of past bursts back, for a connection that falls idle.
    pub fn release(&mut self) {
        if self.is_empty() {
            self.buffer = Vec::new();
            self.slices = VecDeque::new();
        }
    }

    /// Adds octets: `write` may only append.
    #[inline]
    pub(crate) fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.buffer.len();
        write(&mut self.buffer);
        self.len += self.buffer.len() - before;
    }

    /// Adds a piece of a message's body without copying it.
    pub(crate) fn append_slice(&mut self, message: &Message, from: usize, to: usize) {
        let at = self.buffer.len();
        self.slices.push_back(Slice {
            at,
            message: message.clone(),
            from,
            to,
        });
        self.len += to - from;
    }

    pub(crate) fn set_close_after(&mut self) {
        self.close_after = true;
    }

    /// What is to be written, in order and without empty pieces.
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let ends = self.slices.iter().map(|slice| (slice.at, slice.octets()));
        ends.chain([(self.buffer.len(), [].as_slice())])
            .scan(self.done, |from, (at, octets)| {
                let head = self.buffer.get(*from..at).unwrap_or_default();
                *from = at;
                Some([head, octets])
            })
            .flatten()
            .filter(|piece| !piece.is_empty())
    }

    fn drop_front(&mut self, mut written: usize) {
        while let Some(slice) = self.slices.front_mut() {
            let head = (slice.at - self.done).min(written);
            self.done += head;
            written -= head;
            if self.done < slice.at {
                return;
            }
            let octets = (slice.to - slice.from).min(written);
            slice.from += octets;
            written -= octets;
            if slice.from < slice.to {
                return;
            }
            self.slices.pop_front();
        }
        self.done += written;
    }

    fn compact(&mut self) {
        if self.done < COMPACT_AT || self.done < self.buffer.len() / 2 {
            return;
        }
        self.buffer.drain(..self.done);
        for slice in &mut self.slices {
            slice.at -= self.done;
        }
        self.done = 0;
    }
}

#[cfg(test)]
mod tests {
    use leveret_codec::{ContentHeader, PropertySummary};

    use super::*;

    fn message(body: &[u8]) -> Message {
        let header = ContentHeader {
            class_id: 60,
            body_size: body.len() as u64,
            flags: 0,
            raw: &[],
            summary: PropertySummary::default(),
        };
        Message::build(&mut Vec::new(), "", "", &header, body)
    }

    fn filled() -> Wire {
        let mut wire = Wire::default();
        wire.append(|buffer| buffer.extend_from_slice(b"ab"));
        wire.append_slice(&message(b"0123456789"), 2, 6);
        wire.append_slice(&message(b"0123456789"), 6, 9);
        wire.append(|buffer| buffer.extend_from_slice(b"cd"));
        wire.append_slice(&message(b"xyz"), 0, 3);
        wire
    }

    const ALL: &[u8] = b"ab2345678cdxyz";

    #[test]
    fn order_is_kept_however_little_is_written_at_a_time() {
        for step in 1..=ALL.len() {
            let mut wire = filled();
            assert_eq!(wire.len(), ALL.len());
            let mut written = Vec::new();
            while !wire.is_empty() {
                let mut slices = [IoSlice::new(&[]); 3];
                let filled = wire.io_slices(&mut slices);
                let next: Vec<u8> = slices[..filled]
                    .iter()
                    .flat_map(|s| s.iter().copied())
                    .collect();
                assert!(next.starts_with(wire.first()) && !wire.first().is_empty());
                let taken = step.min(next.len());
                written.extend_from_slice(&next[..taken]);
                wire.advance(taken);
            }
            assert_eq!(written, ALL, "{step} at a time");
            assert_eq!(wire.first(), b"");
        }
    }

    #[test]
    fn appending_to_what_is_half_written_keeps_the_order() {
        let mut wire = filled();
        wire.advance(4);
        wire.append(|buffer| buffer.push(b'!'));
        let mut slices = [IoSlice::new(&[]); 8];
        let filled = wire.io_slices(&mut slices);
        let rest: Vec<u8> = slices[..filled]
            .iter()
            .flat_map(|s| s.iter().copied())
            .collect();
        assert_eq!(rest, b"45678cdxyz!");
    }

    #[test]
    fn a_writer_that_never_gets_to_the_end_does_not_keep_what_it_has_written() {
        let mut wire = Wire::default();
        for _ in 0..100 {
            wire.append(|buffer| buffer.resize(buffer.len() + COMPACT_AT, 7));
            wire.append_slice(&message(b"xyz"), 0, 3);
            let all_but_one = wire.len() - 1;
            wire.advance(all_but_one);
        }
        assert!(
            wire.buffer.capacity() < 8 * COMPACT_AT,
            "{}",
            wire.buffer.capacity()
        );
        assert_eq!(wire.first(), b"z");
    }
}

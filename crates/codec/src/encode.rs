//! Writing the primitives; the counterpart of `parse`.
//!
//! Everything is appended to a `Vec<u8>`, lengths are filled in afterwards, and nothing can fail:
//! the types being written do not hold what the wire cannot carry.

use bytes::BufMut;

/// Appends the arguments of a method and packs bits into octets on the way.
pub(crate) struct Writer<'o> {
    out: &'o mut Vec<u8>,
    next_bit: u8, // in the last octet written; 0: the next bit starts an octet
}

impl<'o> Writer<'o> {
    #[inline]
    pub(crate) fn new(out: &'o mut Vec<u8>) -> Self {
        Self { out, next_bit: 0 }
    }

    /// The buffer, for a value that is not a bit.
    #[inline]
    pub(crate) fn value(&mut self) -> &mut Vec<u8> {
        self.next_bit = 0;
        self.out
    }

    #[inline]
    pub(crate) fn bit(&mut self, bit: bool) {
        if self.next_bit == 0 {
            self.out.push(0);
        }
        if let Some(octet) = self.out.last_mut() {
            *octet |= u8::from(bit) << self.next_bit;
        }
        self.next_bit = (self.next_bit + 1) % 8;
    }
}

/// Writes a short string. What does not fit into 255 bytes is left out; only properties that the
/// broker itself has set can be that long.
#[inline]
pub(crate) fn put_short(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    out.put_u8(len);
    out.put_slice(&bytes[..usize::from(len)]);
}

/// Writes a long string.
#[inline]
pub(crate) fn put_long(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32(wire_len(bytes.len()));
    out.put_slice(bytes);
}

/// Writes what `contents` writes, with its length in front.
pub(crate) fn put_sized(out: &mut Vec<u8>, contents: impl FnOnce(&mut Vec<u8>)) {
    let mark = begin_sized(out);
    contents(out);
    end_sized(out, mark);
}

/// Leaves room for a length and returns its place.
#[inline]
pub(crate) fn begin_sized(out: &mut Vec<u8>) -> usize {
    let mark = out.len();
    out.put_u32(0);
    mark
}

/// Fills in how many bytes were written since [`begin_sized`].
#[inline]
pub(crate) fn end_sized(out: &mut [u8], mark: usize) {
    let (len, contents) = out[mark..]
        .split_first_chunk_mut()
        .expect("begin_sized left room for the length");
    *len = wire_len(contents.len()).to_be_bytes();
}

/// # Panics
/// From 4 GiB. Frames are cut to `frame_max` long before, so this is a bug of ours and not
/// something that a peer can bring about.
#[inline]
pub(crate) fn wire_len(len: usize) -> u32 {
    u32::try_from(len).expect("nothing we write is 4 GiB long")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_share_octets_until_another_value_follows() {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out);
        for bit in [true, false, true] {
            writer.bit(bit);
        }
        writer.value().put_u8(0xAB);
        for bit in [false; 8] {
            writer.bit(bit);
        }
        writer.bit(true);
        assert_eq!(out, [0b101, 0xAB, 0x00, 0x01]);
    }

    #[test]
    fn length_counts_only_what_was_written_inside() {
        let mut out = vec![0xFF];
        put_sized(&mut out, |out| put_sized(out, |out| out.put_slice(b"abc")));
        assert_eq!(out, [0xFF, 0, 0, 0, 7, 0, 0, 0, 3, b'a', b'b', b'c']);
    }

    #[test]
    fn overlong_short_string_is_cut() {
        let mut out = Vec::new();
        put_short(&mut out, &[b'x'; 300]);
        assert_eq!(out.len(), 256);
        assert_eq!(out[0], 255);
    }
}

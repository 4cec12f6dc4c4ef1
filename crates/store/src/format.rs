//! The fixed parts of a segment file: header, batch headers, trailer; and sums.
//!
//! Everything here is pure. Decoding takes any octets and gives None for what cannot be.

use crc32c::{crc32c, crc32c_append};

/// Version of the format that this program writes and reads.
pub(crate) const VERSION: u32 = 1;

/// Octets of a segment's header.
pub(crate) const HEADER: u32 = 64;

/// Octets of a batch's header.
pub(crate) const BATCH: u32 = 28;

/// Octets of a sealed segment's trailer, its last ones.
pub(crate) const TRAILER: u32 = 32;

const HEADER_MAGIC: [u8; 8] = *b"LVRTSEG\0";
const TRAILER_MAGIC: [u8; 8] = *b"LVRTFTR\0";
pub(crate) const BATCH_MAGIC: [u8; 4] = *b"LVBT";

/// A place in the log.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Position {
    /// Number of the segment; 0 is before all of them.
    pub(crate) segment: u32,
    /// Octets from its beginning.
    pub(crate) offset: u32,
}

/// The first octets of a segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Header {
    pub(crate) number: u32,
    /// Where the segment before ended; segment 0 if there was none.
    pub(crate) previous: Position,
}

/// What the first octets of a file say.
pub(crate) enum HeaderFound {
    Sound(Header),
    Version(u32),
    Bad,
}

impl Header {
    pub(crate) fn encode(self) -> [u8; HEADER as usize] {
        let mut bytes = [0; HEADER as usize];
        bytes[0..8].copy_from_slice(&HEADER_MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..20].copy_from_slice(&u64::from(self.number).to_le_bytes());
        bytes[20..28].copy_from_slice(&u64::from(self.previous.segment).to_le_bytes());
        bytes[28..32].copy_from_slice(&self.previous.offset.to_le_bytes());
        let sum = crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> HeaderFound {
        let Some(bytes) = bytes.get(..HEADER as usize) else {
            return HeaderFound::Bad;
        };
        let mut input = Input(bytes);
        // The sum stays where it is in all versions, so that another version is told from damage.
        if input.take(8) != Some(&HEADER_MAGIC) || Some(crc32c(&bytes[..60])) != u32_at(bytes, 60) {
            return HeaderFound::Bad;
        }
        let version = input.u32();
        if version != Some(VERSION) {
            return HeaderFound::Version(version.unwrap_or_default());
        }
        let header = (|| {
            Some(Self {
                number: u32::try_from(input.u64()?).ok()?,
                previous: Position {
                    segment: u32::try_from(input.u64()?).ok()?,
                    offset: input.u32()?,
                },
            })
        })();
        header.map_or(HeaderFound::Bad, HeaderFound::Sound)
    }
}

/// What stands before the records of a batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct BatchHeader {
    /// Octets of its records.
    pub(crate) bytes: u32,
    pub(crate) records: u32,
    /// Everything before this place was safe when the batch was written.
    pub(crate) synced: Position,
}

impl BatchHeader {
    pub(crate) fn encode(self, segment: u32, offset: u32) -> [u8; BATCH as usize] {
        let mut bytes = [0; BATCH as usize];
        bytes[0..4].copy_from_slice(&BATCH_MAGIC);
        bytes[4..8].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.records.to_le_bytes());
        bytes[12..20].copy_from_slice(&u64::from(self.synced.segment).to_le_bytes());
        bytes[20..24].copy_from_slice(&self.synced.offset.to_le_bytes());
        let sum = sum(segment, offset, &bytes[..24]);
        bytes[24..28].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8], segment: u32, offset: u32) -> Option<Self> {
        let bytes = bytes.get(..BATCH as usize)?;
        let mut input = Input(bytes);
        if input.take(4)? != BATCH_MAGIC {
            return None;
        }
        let header = Self {
            bytes: input.u32()?,
            records: input.u32()?,
            synced: Position {
                segment: u32::try_from(input.u64()?).ok()?,
                offset: input.u32()?,
            },
        };
        (input.u32()? == sum(segment, offset, &bytes[..24])).then_some(header)
    }
}

/// The last octets of a sealed segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Trailer {
    /// Where the footer begins.
    pub(crate) footer: u32,
    /// Octets of it.
    pub(crate) footer_bytes: u32,
    /// Where the batches end.
    pub(crate) end: u32,
}

impl Trailer {
    /// The trailer's octets, with the sum over it and the footer, of which the [`sum`] is this.
    pub(crate) fn encode(self, segment: u32, footer: u32) -> [u8; TRAILER as usize] {
        let mut bytes = [0; TRAILER as usize];
        bytes[0..8].copy_from_slice(&TRAILER_MAGIC);
        bytes[8..16].copy_from_slice(&u64::from(segment).to_le_bytes());
        bytes[16..20].copy_from_slice(&self.footer.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.footer_bytes.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.end.to_le_bytes());
        let sum = crc32c_append(footer, &bytes[..28]);
        bytes[28..32].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// What the last octets of a file of this size say; [`verify`](Self::verify) comes next.
    pub(crate) fn decode(bytes: &[u8], segment: u32, file_bytes: u64) -> Option<Self> {
        let mut input = Input(bytes.get(..TRAILER as usize)?);
        if input.take(8)? != TRAILER_MAGIC || input.u64()? != u64::from(segment) {
            return None;
        }
        let trailer = Self {
            footer: input.u32()?,
            footer_bytes: input.u32()?,
            end: input.u32()?,
        };
        let after = u64::from(trailer.footer) + u64::from(trailer.footer_bytes);
        let fits = trailer.end >= HEADER
            && trailer.end <= trailer.footer
            && after + u64::from(TRAILER) == file_bytes;
        fits.then_some(trailer)
    }

    /// Whether footer and trailer are what was written.
    pub(crate) fn verify(self, bytes: &[u8], segment: u32, footer: &[u8]) -> bool {
        let footer = sum(segment, self.footer, footer);
        self.encode(segment, footer).as_slice() == bytes
    }
}

/// The sum of octets at this place of the log: those of another place, or of another segment that
/// was in the same file, never fit.
#[inline]
pub(crate) fn sum(segment: u32, offset: u32, bytes: &[u8]) -> u32 {
    let place = (u64::from(segment) << 32) | u64::from(offset);
    crc32c_append(crc32c(&place.to_le_bytes()), bytes)
}

/// Octets of a number as a varint.
pub(crate) const fn varint_len(value: u64) -> usize {
    (70 - (value | 1).leading_zeros() as usize) / 7
}

/// Adds a number: seven bits an octet, the lowest first, the highest bit set on all but the last.
#[inline]
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

/// Adds octets with their number in front.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// Octets that are being decoded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*bytes))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*bytes))
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let octet = self.u8()?;
            let bits = u64::from(octet & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if octet < 0x80 {
                return Some(value);
            }
        }
        None
    }

    pub(crate) fn varint_u32(&mut self) -> Option<u32> {
        u32::try_from(self.varint()?).ok()
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.varint()?).ok()?;
        self.take(len)
    }

    pub(crate) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    pub(crate) fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_come_back_and_are_as_long_as_said() {
        for shift in 0..64 {
            for value in [1_u64 << shift, (1 << shift) - 1, u64::MAX >> shift] {
                let mut out = Vec::new();
                put_varint(&mut out, value);
                assert_eq!(out.len(), varint_len(value), "{value}");
                assert_eq!(Input(&out).varint(), Some(value));
            }
        }
        assert_eq!(Input(&[0xff; 10]).varint(), None, "more than 64 bits");
        assert_eq!(Input(&[0x80]).varint(), None, "cut off");
    }

    #[test]
    fn a_sum_belongs_to_its_place() {
        let header = BatchHeader {
            bytes: 5,
            records: 1,
            synced: Position::default(),
        };
        let bytes = header.encode(7, 64);
        assert_eq!(BatchHeader::decode(&bytes, 7, 64), Some(header));
        assert_eq!(BatchHeader::decode(&bytes, 8, 64), None, "other segment");
        assert_eq!(BatchHeader::decode(&bytes, 7, 65), None, "other place");
    }
}

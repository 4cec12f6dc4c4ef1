//! Footers as they are in a file: heads that are like the one before are written as what differs.
//!
//! Neighbouring records are mostly of one kind, and their heads differ in a few octets of numbers.
//! In memory a list of heads is `gap, head length, head`, the same that a scan of the batches makes
//! (see `segment.rs`); only on its way to and from a file it is packed.

use std::io;

use crate::format::{Input, put_varint, varint_len};

/// Octets that a head takes in a footer at most. The gap before it takes 5 at most.
pub(crate) fn footer_bytes(head: usize) -> usize {
    5 + varint_len(2 * head as u64 + 1) + head
}

/// Heads as long as this are left out while a footer is being made: a segment may consist of them.
const LONG: usize = 64;

/// Octets that are put together before they are given away.
const PIECE: usize = 256 << 10;

/// A footer that is being made, in memory but for long heads.
#[derive(Debug, Default)]
pub(crate) struct Footer {
    bytes: Vec<u8>,
    /// Heads that are left out, in order.
    left_out: Vec<LeftOut>,
    /// Octets of them.
    left_out_bytes: usize,
    /// The last head.
    before: Vec<u8>,
}

/// A head that was written already, and is read again when the footer is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeftOut {
    /// Where in the footer's octets it would be.
    at: usize,
    /// Where it is in the file.
    pub(crate) offset: u32,
    /// Octets of it.
    pub(crate) len: u32,
}

impl Footer {
    /// Octets it takes.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + self.left_out_bytes
    }

    /// Adds a head that begins so many octets after the frame before.
    pub(crate) fn put(&mut self, gap: u32, head: &[u8]) {
        self.put_from(gap, head, None);
    }

    /// The same of a head that is at this place of the file.
    #[inline]
    pub(crate) fn put_written(&mut self, gap: u32, head: &[u8], offset: u32) {
        self.put_from(gap, head, Some(offset));
    }

    fn put_from(&mut self, gap: u32, head: &[u8], offset: Option<u32>) {
        put_varint(&mut self.bytes, u64::from(gap));
        let len = 2 * head.len() as u64;
        let differ = || {
            head.iter()
                .zip(&self.before)
                .filter(|(new, old)| new != old)
        };
        // What is packed is in memory.
        let most = match offset {
            Some(_) if head.len() >= LONG => head.len() / 2,
            _ => head.len(),
        };
        let is_alike =
            head.len() == self.before.len() && head.len().div_ceil(8) + differ().count() < most;
        if is_alike {
            put_varint(&mut self.bytes, len + 1);
            for (new, old) in head.chunks(8).zip(self.before.chunks(8)) {
                let bits = new.iter().zip(old).enumerate();
                let bits = bits.map(|(bit, (new, old))| u8::from(new != old) << bit);
                self.bytes.push(bits.sum());
            }
            self.bytes.extend(differ().map(|(new, _)| *new));
        } else {
            put_varint(&mut self.bytes, len);
            match (offset, u32::try_from(head.len())) {
                (Some(offset), Ok(len)) if head.len() >= LONG => {
                    let at = self.bytes.len();
                    self.left_out.push(LeftOut { at, offset, len });
                    self.left_out_bytes += head.len();
                }
                _ => self.bytes.extend_from_slice(head),
            }
        }
        self.before.clear();
        self.before.extend_from_slice(head);
    }

    /// Gives its octets away, piece by piece but for the last ones, which are returned. `read` adds
    /// a head that was left out.
    ///
    /// # Errors
    /// That of `read` or `give`.
    pub(crate) fn give(
        &self,
        mut read: impl FnMut(LeftOut, &mut Vec<u8>) -> io::Result<()>,
        mut give: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<Vec<u8>> {
        let mut piece = Vec::new();
        let mut rest = self.bytes.as_slice();
        let mut at = 0;
        for head in &self.left_out {
            let (before, after) = rest.split_at(head.at - at);
            (rest, at) = (after, head.at);
            piece.extend_from_slice(before);
            read(*head, &mut piece)?;
            if piece.len() >= PIECE {
                give(&piece)?;
                piece.clear();
            }
        }
        piece.extend_from_slice(rest);
        Ok(piece)
    }
}

/// Packs a list of heads. None if it is none.
pub(crate) fn pack(list: &[u8]) -> Option<Footer> {
    let mut footer = Footer::default();
    let mut input = Input(list);
    while !input.is_empty() {
        let gap = input.varint_u32()?;
        let head = input.bytes()?;
        footer.put(gap, head);
    }
    Some(footer)
}

/// The list of heads in a footer, at most nine times as long. None if it cannot be read.
pub(crate) fn unpack(footer: &[u8]) -> Option<Vec<u8>> {
    let mut list = Vec::with_capacity(2 * footer.len());
    let mut input = Input(footer);
    let mut before = Vec::new();
    while !input.is_empty() {
        let gap = input.varint_u32()?;
        let len = input.varint_u32()?;
        let (len, is_alike) = ((len / 2) as usize, len % 2 == 1);
        if is_alike {
            if len != before.len() {
                return None;
            }
            let mask = input.take(len.div_ceil(8))?;
            for (old, bits) in before.chunks_mut(8).zip(mask) {
                for (bit, octet) in old.iter_mut().enumerate() {
                    if bits >> bit & 1 == 1 {
                        *octet = input.u8()?;
                    }
                }
            }
        } else {
            before.clear();
            before.extend_from_slice(input.take(len)?);
        }
        put_varint(&mut list, u64::from(gap));
        put_varint(&mut list, len as u64);
        list.extend_from_slice(&before);
    }
    Some(list)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All of it.
    fn octets(footer: &Footer, file: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        let read = |head: LeftOut, piece: &mut Vec<u8>| {
            let at = head.offset as usize;
            piece.extend_from_slice(&file[at..at + head.len as usize]);
            Ok(())
        };
        let given = footer.give(read, |piece| {
            all.extend_from_slice(piece);
            Ok(())
        });
        all.extend_from_slice(&given.expect("given"));
        assert_eq!(all.len(), footer.len());
        all
    }

    proptest! {
        #[test]
        fn a_list_comes_back(
            heads in prop::collection::vec((0..300_u32, prop::collection::vec(0..3_u8, 0..40)), 0..40),
        ) {
            let mut list = Vec::new();
            let mut bound = 0;
            for (gap, head) in &heads {
                // Each once more, nearly the same.
                let mut other = head.clone();
                if let Some(first) = other.first_mut() {
                    *first += 1;
                }
                for head in [head, &other] {
                    put_varint(&mut list, u64::from(*gap));
                    put_varint(&mut list, head.len() as u64);
                    list.extend_from_slice(head);
                    bound += footer_bytes(head.len());
                }
            }
            let packed = octets(&pack(&list).expect("a list"), &[]);
            prop_assert!(packed.len() <= bound);
            prop_assert_eq!(unpack(&packed), Some(list));
        }

        #[test]
        fn no_octets_make_it_panic_or_grow(octets in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(list) = unpack(&octets) {
                prop_assert!(list.len() <= 9 * octets.len());
            }
        }
    }

    proptest! {
        #[test]
        fn long_heads_come_back_from_the_file(
            heads in prop::collection::vec((0..3_u8, 0..3_u8, 0..200_usize), 0..60),
        ) {
            let (mut file, mut list, mut footer) = (Vec::new(), Vec::new(), Footer::default());
            for (one, other, len) in heads {
                let mut head = vec![one; len];
                head.extend(vec![other; len / 2]);
                put_varint(&mut list, 7);
                put_varint(&mut list, head.len() as u64);
                list.extend_from_slice(&head);
                footer.put_written(7, &head, u32::try_from(file.len()).unwrap());
                file.extend_from_slice(&head);
            }
            prop_assert_eq!(unpack(&octets(&footer, &file)), Some(list));
        }
    }

    /// 100,000 schedules are as many long heads, and a segment may have 64 MiB of them.
    #[test]
    fn long_heads_are_not_in_memory() {
        let mut footer = Footer::default();
        let (mut file, mut list) = (Vec::new(), Vec::new());
        for number in 0..10_000_u32 {
            let len = 300 + number as usize % 7;
            let head = vec![number.to_le_bytes()[0]; len];
            put_varint(&mut list, 0);
            put_varint(&mut list, len as u64);
            list.extend_from_slice(&head);
            footer.put_written(0, &head, u32::try_from(file.len()).unwrap());
            file.extend_from_slice(&head);
        }
        let each = footer.bytes.len() / 10_000 + size_of::<LeftOut>();
        assert!(each <= 20, "{each} octets each");
        let mut longest = 0;
        let read = |head: LeftOut, piece: &mut Vec<u8>| {
            let at = head.offset as usize;
            piece.extend_from_slice(&file[at..at + head.len as usize]);
            Ok(())
        };
        let given = footer.give(read, |piece| {
            longest = longest.max(piece.len());
            Ok(())
        });
        assert!(given.is_ok_and(|last| last.len() < PIECE));
        assert!((PIECE..PIECE + 400).contains(&longest), "{longest}");
        assert_eq!(unpack(&octets(&footer, &file)), Some(list));
    }

    #[test]
    fn heads_that_are_alike_take_a_few_octets() {
        let mut footer = Footer::default();
        let mut head = [7; 24];
        for number in 0..100 {
            head[4] = number;
            head[20] = number;
            footer.put(120, &head);
        }
        assert!(footer.len() < 26 + 100 * 7, "{}", footer.len());
    }

    #[test]
    fn what_is_like_nothing_is_no_footer() {
        assert_eq!(unpack(&[0, 2 * 8 + 1, 0]), None);
        assert_eq!(unpack(&[0, 1]), Some(vec![0, 0]));
    }
}

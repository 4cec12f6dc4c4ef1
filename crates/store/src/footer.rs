//! Footers as they are in a file: heads that are like the one before are written as what differs.
//!
//! Neighbouring records are mostly of one kind, and their heads differ in a few octets of numbers.
//! In memory a list of heads is `gap, head length, head`, the same that a scan of the batches makes
//! (see `segment.rs`); only on its way to and from a file it is packed.

use crate::format::{Input, put_varint, varint_len};

/// Octets that a head takes in a footer at most. The gap before it takes 5 at most.
pub(crate) fn footer_bytes(head: usize) -> usize {
    5 + varint_len(2 * head as u64 + 1) + head
}

/// A footer that is being made.
#[derive(Debug, Default)]
pub(crate) struct Footer {
    bytes: Vec<u8>,
    /// The last head.
    before: Vec<u8>,
}

impl Footer {
    /// Octets it takes.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Adds a head that begins so many octets after the frame before.
    pub(crate) fn put(&mut self, gap: u32, head: &[u8]) {
        put_varint(&mut self.bytes, u64::from(gap));
        let len = 2 * head.len() as u64;
        let differ = || {
            head.iter()
                .zip(&self.before)
                .filter(|(new, old)| new != old)
        };
        let is_alike = head.len() == self.before.len()
            && head.len().div_ceil(8) + differ().count() < head.len();
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
            self.bytes.extend_from_slice(head);
        }
        self.before.clear();
        self.before.extend_from_slice(head);
    }

    /// The octets.
    pub(crate) fn take(self) -> Vec<u8> {
        self.bytes
    }
}

/// Packs a list of heads. None if it is none.
pub(crate) fn pack(list: &[u8]) -> Option<Vec<u8>> {
    let mut footer = Footer::default();
    let mut input = Input(list);
    while !input.is_empty() {
        let gap = input.varint_u32()?;
        let head = input.bytes()?;
        footer.put(gap, head);
    }
    Some(footer.take())
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
            let packed = pack(&list).expect("a list");
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

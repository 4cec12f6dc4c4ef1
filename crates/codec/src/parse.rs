//! Reading the primitives: numbers, bits, short and long strings (AMQP 0-9-1 §4.2.5).
//!
//! [`Reader`] walks over a payload that is known to be complete and runs one nom parser per value.
//! Nothing here allocates, and nothing is skipped or guessed: a value is whole, or it is an error
//! that names it.

use nom::{
    Parser,
    bytes::complete::take,
    multi::length_data,
    number::complete::{
        be_f32, be_f64, be_i8, be_i16, be_i32, be_i64, be_u8, be_u16, be_u32, be_u64,
    },
};

use crate::{DecodeError, ShortStr};

/// What is left of a payload, and of the octet that the last bits came from.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    bits: u8, // those not yet read, the next one lowest
    bits_left: u8,
}

/// One method per number type, named like the type.
macro_rules! numbers {
    ($($number:ident: $parser:ident,)*) => {$(
        #[inline]
        pub(crate) fn $number(&mut self, what: &'static str) -> Result<$number, DecodeError> {
            self.next($parser, what)
        }
    )*};
}

impl<'a> Reader<'a> {
    #[inline]
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            bits: 0,
            bits_left: 0,
        }
    }

    numbers! {
        u8: be_u8, u16: be_u16, u32: be_u32, u64: be_u64,
        i8: be_i8, i16: be_i16, i32: be_i32, i64: be_i64,
        f32: be_f32, f64: be_f64,
    }

    /// Bits that follow each other share octets, lowest bit first; any other value starts on a new
    /// octet. Bits that nobody asks for are not judged.
    #[inline]
    pub(crate) fn bit(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        if self.bits_left == 0 {
            self.bits = self.u8(what)?;
            self.bits_left = 8;
        }
        let bit = self.bits & 1 != 0;
        self.bits >>= 1;
        self.bits_left -= 1;
        Ok(bit)
    }

    /// A short string that may hold any bytes: properties, and the names of table fields.
    #[inline]
    pub(crate) fn short_bytes(&mut self, what: &'static str) -> Result<&'a [u8], DecodeError> {
        self.next(length_data(be_u8), what)
    }

    /// A short string of a method, which must be UTF-8. RabbitMQ insists on that too.
    #[inline]
    pub(crate) fn short_str(&mut self, what: &'static str) -> Result<ShortStr<'a>, DecodeError> {
        let bytes = self.short_bytes(what)?;
        match str::from_utf8(bytes) {
            Ok(text) => Ok(ShortStr::of_wire(text)),
            Err(_) => Err(DecodeError::BadUtf8 { what }),
        }
    }

    /// A long string, or the contents of a table or array.
    #[inline]
    pub(crate) fn long_bytes(&mut self, what: &'static str) -> Result<&'a [u8], DecodeError> {
        self.next(length_data(be_u32), what)
    }

    /// Moves over a value of known size.
    #[inline]
    pub(crate) fn skip(&mut self, size: usize, what: &'static str) -> Result<(), DecodeError> {
        self.next(take(size), what).map(drop)
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whoever has read the last value says so: what still follows is an error.
    #[inline]
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(DecodeError::TrailingBytes { count }),
        }
    }

    /// Runs a parser of nom. They fail for one reason only: the bytes end too early.
    #[inline]
    fn next<T>(
        &mut self,
        mut parser: impl Parser<&'a [u8], Output = T, Error = ()>,
        what: &'static str,
    ) -> Result<T, DecodeError> {
        let (rest, value) = parser
            .parse(self.rest)
            .map_err(|_| DecodeError::Truncated { what })?;
        self.rest = rest;
        self.bits_left = 0;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_share_octets_until_another_value_follows() {
        let mut reader = Reader::new(&[0b0000_0101, 0xAB, 0b0000_0010]);
        assert_eq!(reader.bit("a"), Ok(true));
        assert_eq!(reader.bit("b"), Ok(false));
        assert_eq!(reader.bit("c"), Ok(true));
        assert_eq!(reader.u8("number"), Ok(0xAB));
        assert_eq!(reader.bit("d"), Ok(false));
        assert_eq!(reader.bit("e"), Ok(true));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn ninth_bit_is_in_the_next_octet() {
        let mut reader = Reader::new(&[0x00, 0x01]);
        for _ in 0..8 {
            assert_eq!(reader.bit("one of eight"), Ok(false));
        }
        assert_eq!(reader.bit("ninth"), Ok(true));
    }

    #[test]
    fn missing_byte_is_an_error_that_names_the_value() {
        type Read = fn(&mut Reader<'_>) -> Result<(), DecodeError>;
        #[rustfmt::skip]
        let table: [(&[u8], Read, &str); 5] = [
            (&[],               |r| r.bit("v").map(drop),         "no octet for the bit"),
            (&[1],              |r| r.u16("v").map(drop),         "half a number"),
            (&[2, b'x'],        |r| r.short_bytes("v").map(drop), "one byte short"),
            (&[0, 0, 0],        |r| r.long_bytes("v").map(drop),  "the length itself is cut"),
            (&[0xFF; 8],        |r| r.long_bytes("v").map(drop),  "4 GiB announced, 4 bytes there"),
        ];
        for (bytes, read, why) in table {
            let result = read(&mut Reader::new(bytes));
            assert_eq!(result, Err(DecodeError::Truncated { what: "v" }), "{why}");
        }
    }

    #[test]
    fn method_strings_must_be_utf8_and_others_need_not() {
        let bytes = [2, 0xC3, 0x28];
        let not_text = Err(DecodeError::BadUtf8 { what: "queue" });
        assert_eq!(Reader::new(&bytes).short_str("queue"), not_text);
        assert_eq!(Reader::new(&bytes).short_bytes("user-id"), Ok(&bytes[1..]));
    }
}

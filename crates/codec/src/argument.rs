//! The types that an argument of a method may have. To add one, implement [`Argument`] here.

use bytes::BufMut;

use crate::{
    DecodeError, LongStr, RawTable, ShortStr,
    encode::{Writer, put_long, put_short},
    parse::Reader,
};

/// One argument on the wire, and without the buffer it came from.
pub(crate) trait Argument<'a>: Sized {
    /// The same type that borrows nothing.
    type Owned: 'static;

    /// `name` is for the error.
    fn read(reader: &mut Reader<'a>, name: &'static str) -> Result<Self, DecodeError>;
    fn write(&self, writer: &mut Writer<'_>);
    fn into_owned(self) -> Self::Owned;
}

macro_rules! numbers {
    ($($number:ident: $put:ident,)*) => {$(
        impl Argument<'_> for $number {
            type Owned = Self;

            #[inline]
            fn read(reader: &mut Reader<'_>, name: &'static str) -> Result<Self, DecodeError> {
                reader.$number(name)
            }

            #[inline]
            fn write(&self, writer: &mut Writer<'_>) {
                writer.value().$put(*self);
            }

            fn into_owned(self) -> Self {
                self
            }
        }
    )*};
}

numbers! { u8: put_u8, u16: put_u16, u32: put_u32, u64: put_u64, }

impl Argument<'_> for bool {
    type Owned = Self;

    #[inline]
    fn read(reader: &mut Reader<'_>, name: &'static str) -> Result<Self, DecodeError> {
        reader.bit(name)
    }

    #[inline]
    fn write(&self, writer: &mut Writer<'_>) {
        writer.bit(*self);
    }

    fn into_owned(self) -> Self {
        self
    }
}

impl<'a> Argument<'a> for ShortStr<'a> {
    type Owned = ShortStr<'static>;

    #[inline]
    fn read(reader: &mut Reader<'a>, name: &'static str) -> Result<Self, DecodeError> {
        reader.short_str(name)
    }

    #[inline]
    fn write(&self, writer: &mut Writer<'_>) {
        put_short(writer.value(), self.as_bytes());
    }

    fn into_owned(self) -> Self::Owned {
        self.into_owned()
    }
}

impl<'a> Argument<'a> for LongStr<'a> {
    type Owned = LongStr<'static>;

    fn read(reader: &mut Reader<'a>, name: &'static str) -> Result<Self, DecodeError> {
        reader.long_bytes(name).map(Self::from)
    }

    fn write(&self, writer: &mut Writer<'_>) {
        put_long(writer.value(), self);
    }

    fn into_owned(self) -> Self::Owned {
        self.into_owned()
    }
}

impl<'a> Argument<'a> for RawTable<'a> {
    type Owned = RawTable<'static>;

    fn read(reader: &mut Reader<'a>, name: &'static str) -> Result<Self, DecodeError> {
        reader.long_bytes(name).and_then(Self::new)
    }

    fn write(&self, writer: &mut Writer<'_>) {
        put_long(writer.value(), self.as_bytes());
    }

    fn into_owned(self) -> Self::Owned {
        self.into_owned()
    }
}

//! The macro behind the table of methods in `spec`.
//!
//! A row is `[class, method] Name { argument: type, .. }` with a doc comment, where the name is
//! that of the specification in camel case and carries `<'a>` if an argument borrows. It becomes a
//! struct with its parser and encoder, and a variant of [`Method`](crate::Method). Nothing else
//! knows which methods exist.
//!
//! Arguments are read and written in the order of the row by [`Argument`](crate::argument), which
//! also packs neighbouring `bool`s into octets.

/// Writes out the structs, and the enum over all of them.
macro_rules! methods {
    ($(
        $(#[$doc:meta])*
        [$class_id:literal, $method_id:literal] $name:ident $(<$lt:lifetime>)? {
            $( $(#[$argument_doc:meta])* $argument:ident: $type:ty ),* $(,)?
        }
    )*) => {
        $(methods! { @struct
            $(#[$doc])*
            [$class_id, $method_id] $name [$(<$lt>)?] [$($lt)?]
            { $( $(#[$argument_doc])* $argument: $type, )* }
        })*

        /// Any method: the payload of a method frame.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Method<'a> {$(
            #[doc = concat!("See [`", stringify!($name), "`].")]
            $name($name $(<$lt>)?),
        )*}

        impl<'a> Method<'a> {
            /// Reads the payload of a method frame.
            ///
            /// # Errors
            /// If there is no such method, an argument is malformed, or bytes are left over.
            pub fn parse(payload: &'a [u8]) -> Result<Self, DecodeError> {
                let mut reader = Reader::new(payload);
                let class_id = reader.u16("class_id")?;
                let method_id = reader.u16("method_id")?;
                let args = reader.rest();
                match (class_id, method_id) {
                    $(($class_id, $method_id) => $name::parse_args(args).map(Self::$name),)*
                    _ => Err(DecodeError::UnknownMethod { class_id, method_id }),
                }
            }

            /// Appends the payload of a method frame.
            pub fn encode_payload(&self, out: &mut Vec<u8>) {
                match self { $(Self::$name(method) => method.encode_payload(out),)* }
            }

            /// Class and method id.
            pub fn id(&self) -> (u16, u16) {
                match self { $(Self::$name(_) => $name::ID,)* }
            }

            /// As the specification writes it: `queue.declare-ok`.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$name(_) => $name::NAME,)* }
            }

            /// Copies everything out of the buffer that the method was parsed from.
            pub fn into_owned(self) -> Method<'static> {
                match self { $(Self::$name(method) => Method::$name(method.into_owned()),)* }
            }
        }
    };

    (@struct
        $(#[$doc:meta])*
        [$class_id:literal, $method_id:literal] $name:ident [$($generics:tt)*] [$($lt:lifetime)?]
        { $( $(#[$argument_doc:meta])* $argument:ident: $type:ty, )* }
    ) => {
        #[doc = concat!("[", $class_id, ", ", $method_id, "] ")]
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $name $($generics)* {$(
            $(#[$argument_doc])*
            #[allow(missing_docs, reason = "most arguments say it with their names")]
            pub $argument: $type,
        )*}

        impl $($generics)* $name $($generics)* {
            /// Class and method id.
            pub const ID: (u16, u16) = ($class_id, $method_id);

            /// As the specification writes it: `queue.declare-ok`.
            pub const NAME: &'static str = {
                const NAME: WireName = WireName::new(stringify!($name));
                NAME.as_str()
            };

            /// Reads the arguments: what follows class and method id.
            ///
            /// # Errors
            /// If an argument is malformed, or bytes are left over.
            #[inline]
            pub fn parse_args(args: &$($lt)? [u8]) -> Result<Self, DecodeError> {
                #[allow(unused_mut, reason = "not every method has arguments")]
                let mut reader = Reader::new(args);
                let method = Self {$(
                    $argument: Argument::read(&mut reader, stringify!($argument))?,
                )*};
                reader.finish()?;
                Ok(method)
            }

            /// Appends class id, method id and arguments.
            #[inline]
            pub fn encode_payload(&self, out: &mut Vec<u8>) {
                let mut writer = Writer::new(out);
                u32::write(&($class_id << 16 | $method_id), &mut writer);
                $(self.$argument.write(&mut writer);)*
            }

            /// Copies everything out of the buffer that the method was parsed from.
            pub fn into_owned(self) -> methods!(@owned $name $($lt)?) {
                $name { $($argument: Argument::into_owned(self.$argument),)* }
            }
        }

        impl<'a> From<methods!(@borrowed 'a $name $($lt)?)> for Method<'a> {
            fn from(method: methods!(@borrowed 'a $name $($lt)?)) -> Self {
                Self::$name(method)
            }
        }
    };

    (@owned $name:ident) => { $name };
    (@owned $name:ident $lt:lifetime) => { $name<'static> };
    (@borrowed $a:lifetime $name:ident) => { $name };
    (@borrowed $a:lifetime $name:ident $lt:lifetime) => { $name<$a> };
}
pub(crate) use methods;

/// The name of a method as the specification writes it, made from that of its struct while
/// compiling: `QueueDeclareOk` is `queue.declare-ok`.
pub(crate) struct WireName {
    bytes: [u8; Self::LEN_MAX],
    len: usize,
}

impl WireName {
    const LEN_MAX: usize = 32; // connection.update-secret-ok has 27

    pub(crate) const fn new(camel_case: &str) -> Self {
        let camel_case = camel_case.as_bytes();
        let mut name = Self {
            bytes: [0; Self::LEN_MAX],
            len: 0,
        };
        let mut words = 0;
        let mut at = 0;
        while at < camel_case.len() {
            let letter = camel_case[at];
            if letter.is_ascii_uppercase() {
                match words {
                    0 => {}
                    1 => name.push(b'.'),
                    _ => name.push(b'-'),
                }
                words += 1;
            }
            name.push(letter.to_ascii_lowercase());
            at += 1;
        }
        name
    }

    pub(crate) const fn as_str(&self) -> &str {
        match str::from_utf8(self.bytes.split_at(self.len).0) {
            Ok(name) => name,
            Err(_) => panic!("names of methods are ASCII"),
        }
    }

    const fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }
}

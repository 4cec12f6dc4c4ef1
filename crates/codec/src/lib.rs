//! AMQP 0-9-1 on the wire: frames, methods, content headers and field tables.
//!
//! Bytes go in and typed values come out, or the other way round. There is no I/O and no state
//! here: which frame may follow which, what a method means and who gets closed are questions for
//! the session and the broker.
//!
//! # A tour
//!
//! Reading goes from the outside in, and each step borrows from the read buffer:
//!
//! 1. [`split_frame`] finds one frame and checks its envelope, or asks for more bytes;
//! 2. [`Method::parse`] reads the payload of a method frame, [`parse_content_header`] that of a
//!    header frame; a body frame's payload is the body itself;
//! 3. a [`RawTable`] has been validated where it stands and becomes a [`FieldTable`] only if
//!    somebody looks inside; so do [`Properties`].
//!
//! Writing appends to a `Vec<u8>`: [`encode_method`], [`encode_header`], [`encode_body`],
//! [`encode_heartbeat`].
//!
//! ```
//! use leveret_codec::{Method, QueuePurge, ShortStr, encode_method, split_frame};
//!
//! let mut wire = Vec::new();
//! let purge = QueuePurge { queue: ShortStr::from_static("jobs"), ..QueuePurge::default() };
//! encode_method(&mut wire, 1, &purge.into());
//!
//! let (frame, consumed) = split_frame(&wire, 0)?.expect("a whole frame");
//! assert_eq!(consumed, wire.len());
//! let Method::QueuePurge(purge) = Method::parse(frame.payload)? else { panic!("another method") };
//! assert_eq!(&*purge.queue, "jobs");
//! # Ok::<(), leveret_codec::DecodeError>(())
//! ```
//!
//! # Where things are
//!
//! [`spec`] is the table of all methods: to add one, add a row. The macro behind it is in
//! `methods`, the types a method argument may have in `argument`. `parse` and `encode` hold the
//! primitives; nom is used there and in [`frame`], with its `complete` parsers, because the envelope
//! already says how long everything is: inside a frame a missing byte is an error, not a reason to
//! wait.
//!
//! # What a peer cannot do
//!
//! No input makes this crate panic, recurse deeper than [`TABLE_DEPTH_MAX`] or, before somebody
//! asks for a [`FieldTable`] or [`Properties`], allocate. The dialect is that of RabbitMQ, which
//! differs from the specification in the types of table fields (see [`FieldValue`]).

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod argument;
pub mod constants;
mod encode;
pub mod error;
pub mod field;
pub mod frame;
mod methods;
mod parse;
pub mod properties;
pub mod raw_table;
pub mod short_str;
pub mod spec;

pub use constants::*;
pub use error::DecodeError;
pub use field::{FieldTable, FieldValue, TABLE_DEPTH_MAX};
pub use frame::{
    RawFrame, begin_frame, encode_body, encode_header, encode_heartbeat, encode_method, end_frame,
    frame_size, split_frame,
};
pub use properties::{ContentHeader, Properties, PropertySummary, flags, parse_content_header};
pub use raw_table::{RawTable, validate_table};
pub use short_str::{LongStr, ShortStr};
pub use spec::*;

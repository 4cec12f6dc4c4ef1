//! Names for things, as types: nothing here is a bare integer that could be mistaken for another.

use std::fmt;

slotmap::new_key_type! {
    /// One client connection of this vhost. Given out by whoever owns the sockets; never reused
    /// (a slot comes back with another generation).
    pub struct ConnectionId;

    /// A queue of this vhost, for as long as this incarnation of it lives.
    pub struct QueueId;

    /// An exchange of this vhost, for as long as this incarnation of it lives.
    pub struct ExchangeId;

    /// An open channel of a connection.
    pub(crate) struct ChannelKey;

    /// A consumer, whatever channel and queue it joins.
    pub(crate) struct ConsumerKey;
}

/// Place of a message in its queue. Starts at 1, never reused, survives restarts. Places sort in
/// order of delivery.
///
/// In a queue with priorities the top 8 bits are 255 less the priority, and the others number the
/// messages of that priority. In other queues the number is all there is.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Seq(pub u64);

/// Bits of a place that number messages.
const NUMBER_BITS: u32 = u64::BITS - u8::BITS;

impl Seq {
    /// The place with this number where places begin with `level`.
    #[must_use]
    pub const fn in_level(level: u8, number: u64) -> Self {
        Self((level as u64) << NUMBER_BITS | number)
    }

    /// 255 less the priority; 0 in queues without priorities.
    #[inline]
    #[must_use]
    pub const fn level(self) -> u8 {
        self.0.to_be_bytes()[0]
    }

    /// The number, without the priority.
    #[inline]
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0 & (u64::MAX >> u8::BITS)
    }
}

/// Number of a record of one vhost, counted from 1 in the order the records were made.
///
/// Assigned by the core; the log maps it to a position and reports back up to which one everything
/// is safe.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Lsn(pub u64);

/// Number of a durable queue: that of the record which declared it.
///
/// Names what the log says about a queue. Never given twice, so that a queue which was deleted and
/// declared again under its old name has nothing of its predecessor's.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct QueueNumber(pub u64);

/// Milliseconds of a clock that never jumps; zero is an arbitrary moment, usually the start.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Mono(pub u64);

/// Milliseconds since 1970-01-01 UTC by a clock that people may set.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Wall(pub u64);

/// Both clocks, read once per turn and rounded down.
///
/// TTLs, expiry and timeouts go by `mono`; schedules and timestamps that people see by `wall`. The
/// milliseconds of both begin together, until somebody sets the one on the wall: a delay that began by
/// the one may then end by the other, after a restart, and is not too short.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Now {
    /// For durations.
    pub mono: Mono,
    /// For dates.
    pub wall: Wall,
}

impl Mono {
    /// The moment `ms` milliseconds later; stays at the end of time instead of wrapping.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

impl fmt::Display for QueueNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

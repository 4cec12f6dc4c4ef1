//! What the parts of one connection know of each other: reader, writer, shard, registry.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;

use atomic_waker::AtomicWaker;
use leveret_core::{ConnectionId, Mono};

use crate::outbox::Outbox;
use crate::shard::Shard;

/// Octets of requests that may be handed over and not yet processed, before no more are read.
///
/// Bounds what a fast publisher can pile up in front of a busy machine.
const IN_FLIGHT_BYTES_MAX: usize = 1 << 20;

/// One connection, as the rest of the broker sees it.
#[derive(Debug)]
pub struct Link {
    /// For the logs: counts connections since the start.
    pub number: u64,
    /// The other end.
    pub peer: SocketAddr,
    /// What waits to be written.
    pub outbox: Outbox,
    reader: AtomicWaker,
    signals: AtomicU8,
    in_flight_bytes: AtomicUsize,
    /// Octets of replies that may wait before no more requests are read.
    reply_bytes_max: usize,
    frame_max: AtomicU32,
    sent_at: AtomicU64,
    seat: OnceLock<Seat>,
    identity: OnceLock<Identity>,
    write_error: OnceLock<io::Error>,
}

/// Where a connection sits once it has opened a vhost.
#[derive(Debug)]
pub struct Seat {
    /// The vhost's machine.
    pub shard: Arc<Shard>,
    /// The connection's name there.
    pub id: ConnectionId,
}

/// Who it is, once logged in.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The user.
    pub user: Arc<str>,
    /// What the client calls itself; empty if it does not.
    pub client: Arc<str>,
}

/// What others have told the reader; bits of a set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Signals(u8);

impl Signals {
    /// The core wants no more commands for now.
    pub const PAUSED: Self = Self(1);
    /// A `connection.close` of ours is in the outbox.
    pub const CLOSING: Self = Self(2);
    /// The connection is to end although it has not opened a vhost.
    pub const EVICTED: Self = Self(4);
    /// The writer has ended.
    pub const WRITER_ENDED: Self = Self(8);

    /// Is this one among them?
    #[must_use]
    pub const fn has(self, signal: Self) -> bool {
        self.0 & signal.0 != 0
    }
}

impl Link {
    /// A fresh connection.
    #[must_use]
    pub fn new(number: u64, peer: SocketAddr, frame_max: u32, reply_bytes_max: usize) -> Self {
        Self {
            number,
            peer,
            outbox: Outbox::default(),
            reader: AtomicWaker::new(),
            signals: AtomicU8::new(0),
            in_flight_bytes: AtomicUsize::new(0),
            reply_bytes_max,
            frame_max: AtomicU32::new(frame_max),
            sent_at: AtomicU64::new(0),
            seat: OnceLock::new(),
            identity: OnceLock::new(),
            write_error: OnceLock::new(),
        }
    }

    /// Where it sits, if it has opened a vhost.
    #[must_use]
    pub fn seat(&self) -> Option<&Seat> {
        self.seat.get()
    }

    /// It has opened a vhost.
    pub fn sit_down(&self, seat: Seat) {
        let taken = self.seat.set(seat);
        debug_assert!(taken.is_ok(), "a connection opens one vhost");
    }

    /// Who it is, if it has logged in.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.get()
    }

    /// It has logged in.
    pub fn identify(&self, identity: Identity) {
        let known = self.identity.set(identity);
        debug_assert!(known.is_ok(), "a connection logs in once");
    }

    /// The frame size the writer has to keep to.
    #[must_use]
    pub fn frame_max(&self) -> u32 {
        self.frame_max.load(Ordering::Relaxed)
    }

    /// It was agreed upon.
    pub fn set_frame_max(&self, frame_max: u32) {
        self.frame_max.store(frame_max, Ordering::Relaxed);
    }

    /// When something was last written.
    #[must_use]
    pub fn sent_at(&self) -> Mono {
        Mono(self.sent_at.load(Ordering::Relaxed))
    }

    /// Something was written.
    pub fn note_sent(&self, at: Mono) {
        self.sent_at.store(at.0, Ordering::Relaxed);
    }

    /// Wakes this reader when something changes that [`Link::signals`] or [`Link::is_full`] shows;
    /// call it before looking.
    pub fn register_reader(&self, waker: &Waker) {
        self.reader.register(waker);
    }

    /// What the reader has been told.
    #[must_use]
    pub fn signals(&self) -> Signals {
        Signals(self.signals.load(Ordering::Acquire))
    }

    /// Tells the reader.
    pub fn signal(&self, signal: Signals) {
        self.signals.fetch_or(signal.0, Ordering::AcqRel);
        self.reader.wake();
    }

    /// The core wants no more commands for now, or wants them again.
    pub fn set_paused(&self, paused: bool) {
        if paused {
            self.signals.fetch_or(Signals::PAUSED.0, Ordering::AcqRel);
        } else {
            self.signals.fetch_and(!Signals::PAUSED.0, Ordering::AcqRel);
        }
        self.reader.wake();
    }

    /// Should no more be read, because too much is under way in either direction?
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.in_flight_bytes.load(Ordering::Acquire) > IN_FLIGHT_BYTES_MAX
            || self.outbox.reply_bytes() > self.reply_bytes_max
    }

    /// What was handed over and not processed.
    #[cfg(test)]
    pub(crate) fn in_flight_bytes(&self) -> usize {
        self.in_flight_bytes.load(Ordering::Acquire)
    }

    /// So much was read and is about to be handed over.
    pub fn hand_over(&self, bytes: usize) {
        self.in_flight_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So much was processed.
    pub fn processed(&self, bytes: usize) {
        let before = self.in_flight_bytes.fetch_sub(bytes, Ordering::AcqRel);
        if before > IN_FLIGHT_BYTES_MAX && before - bytes <= IN_FLIGHT_BYTES_MAX {
            self.reader.wake();
        }
    }

    /// Waiting replies have become fewer.
    pub(crate) fn replies_written(&self, now: usize, before: usize) {
        if before > self.reply_bytes_max && now <= self.reply_bytes_max {
            self.reader.wake();
        }
    }

    /// The writer has ended, with this error if any.
    pub(crate) fn writer_ended(&self, error: Option<io::Error>) {
        if let Some(error) = error {
            let _ = self.write_error.set(error); // there is one writer, so this is the first
        }
        self.signal(Signals::WRITER_ENDED);
    }

    /// What the writer failed with.
    #[must_use]
    pub fn write_error(&self) -> Option<&io::Error> {
        self.write_error.get()
    }
}

//! Two pipes for each connection: octets arrive in order, when and in what pieces the dice say.

use std::collections::VecDeque;

use leveret_core::Outbound;

use crate::client::Sent;

/// One direction of a connection.
#[derive(Debug)]
pub struct Pipe {
    octets: VecDeque<u8>,
    capacity: usize,
    /// The writer has shut its side down: what is under way still arrives.
    ended: bool,
}

impl Pipe {
    fn new(capacity: usize) -> Self {
        Self {
            octets: VecDeque::new(),
            capacity,
            ended: false,
        }
    }

    /// Takes what there is room for and returns how much that is.
    pub fn write(&mut self, octets: &[u8]) -> usize {
        let room = self.room().min(octets.len());
        self.octets.extend(&octets[..room]);
        room
    }

    /// Octets that can be written now.
    #[must_use]
    pub fn room(&self) -> usize {
        if self.ended {
            0
        } else {
            self.capacity.saturating_sub(self.octets.len())
        }
    }

    /// Hands out up to `max` octets.
    pub fn read(&mut self, max: usize, into: &mut Vec<u8>) -> usize {
        let count = max.min(self.octets.len());
        into.extend(self.octets.drain(..count));
        count
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.octets.is_empty()
    }

    /// Nothing more is written.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Whether the reader would see the end now.
    #[must_use]
    pub fn at_end(&self) -> bool {
        self.ended && self.octets.is_empty()
    }
}

/// A connection as the network and the referee see it.
#[derive(Debug)]
pub struct Link {
    /// From the client.
    pub up: Pipe,
    /// To the client.
    pub down: Pipe,
    /// What the client has put on its way whole: the session has to say the same to the core.
    pub sent: VecDeque<Sent>,
    /// What the core and the session have said: the client has to hear the same.
    pub spoken: VecDeque<Outbound>,
}

impl Link {
    /// A connection whose pipes hold so many octets each.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            up: Pipe::new(capacity),
            down: Pipe::new(capacity),
            sent: VecDeque::new(),
            spoken: VecDeque::new(),
        }
    }
}

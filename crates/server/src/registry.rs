//! The live connections, and the waiting room of those that have not opened a vhost.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use dashmap::DashMap;
use leveret_core::{AmqpError, ConnectionId, Input};
use tokio::sync::Notify;

use crate::link::{Link, Signals};
use crate::turnstile::lock;

/// Every connection there is, by its number.
#[derive(Debug, Default)]
pub struct Registry {
    links: DashMap<u64, Arc<Link>>,
    next: AtomicU64,
    seats: AtomicUsize,
    closed: AtomicU64,
    emptied: Notify,
}

/// A connection's entry; ends with it, however it ends.
#[derive(Debug)]
pub struct Entry {
    registry: Arc<Registry>,
    number: u64,
}

impl Registry {
    /// A number for the next connection.
    pub fn next_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Enters a connection.
    #[must_use]
    pub fn enter(self: &Arc<Self>, link: Arc<Link>) -> Entry {
        let number = link.number;
        self.links.insert(number, link);
        Entry {
            registry: Arc::clone(self),
            number,
        }
    }

    /// Connections right now, whether logged in or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.links.len()
    }

    /// None at all?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Connections so far: accepted, ended.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (
            self.next.load(Ordering::Relaxed),
            self.closed.load(Ordering::Relaxed),
        )
    }

    /// One more connection wants to open a vhost; false if there are `limit` already.
    #[must_use]
    pub fn take_seat(&self, limit: usize) -> bool {
        self.seats
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |seats| {
                (seats < limit).then_some(seats + 1)
            })
            .is_ok()
    }

    /// It has left, or did not get in after all.
    pub fn give_seat_back(&self) {
        self.seats.fetch_sub(1, Ordering::Relaxed);
    }

    /// Asks every connection to go: with `connection.close` where that is understood.
    pub fn evict_all(&self, reason: &str) {
        self.end_all(|id| Input::Evict(id, reason.to_owned()));
    }

    /// Closes every connection with this error: the broker has failed.
    pub fn fail_all(&self, error: &AmqpError) {
        self.end_all(|id| Input::Failed(id, Box::new(error.clone())));
    }

    fn end_all(&self, input: impl Fn(ConnectionId) -> Input) {
        // Collected first: no guard of the map is held while a turn is run.
        let links: Vec<_> = self
            .links
            .iter()
            .map(|entry| Arc::clone(entry.value()))
            .collect();
        for link in links {
            link.signal(Signals::EVICTED);
            if let Some(seat) = link.seat() {
                seat.shard.submit(input(seat.id));
            }
        }
    }

    /// Waits until the last connection is gone.
    pub async fn empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.is_empty() {
                return;
            }
            emptied.await;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.registry.links.remove(&self.number);
        self.registry.closed.fetch_add(1, Ordering::Relaxed);
        if self.registry.is_empty() {
            self.registry.emptied.notify_waiters();
        }
    }
}

/// Where connections wait until they have logged in and opened a vhost.
///
/// Its size is bounded. When it is full the one that has waited longest has to go: an honest
/// client is through in milliseconds, so those who hold out longest are those who never will be.
#[derive(Debug)]
pub struct Lobby {
    size_max: usize,
    waiting: Mutex<VecDeque<(u64, Weak<Link>)>>,
}

impl Lobby {
    /// A lobby for so many.
    #[must_use]
    pub fn new(size_max: usize) -> Self {
        Self {
            size_max,
            waiting: Mutex::default(),
        }
    }

    /// A connection comes in; somebody may have to go for it.
    pub fn enter(&self, link: &Arc<Link>) {
        let mut waiting = lock(&self.waiting);
        waiting.push_back((link.number, Arc::downgrade(link)));
        let evicted = if waiting.len() > self.size_max {
            waiting.pop_front()
        } else {
            None
        };
        drop(waiting);
        if let Some(link) = evicted.and_then(|(_, link)| link.upgrade()) {
            link.signal(Signals::EVICTED);
        }
    }

    /// It is through, or gone. Harmless if it was not there.
    pub fn leave(&self, number: u64) {
        let mut waiting = lock(&self.waiting);
        // From the back: who gets through has mostly come in just now.
        if let Some(place) = waiting.iter().rposition(|(waiting, _)| *waiting == number) {
            waiting.remove(place);
        }
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.waiting).len()
    }

    /// Nobody there?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(number: u64) -> Arc<Link> {
        Arc::new(Link::new(number, ([127, 0, 0, 1], 1).into(), 4_096, 1))
    }

    #[test]
    fn a_full_lobby_sends_away_who_waits_longest() {
        let lobby = Lobby::new(2);
        let links: Vec<_> = (1..=4).map(link).collect();
        lobby.enter(&links[0]);
        lobby.enter(&links[1]);
        lobby.leave(1);
        lobby.enter(&links[2]);
        lobby.enter(&links[3]);
        let evicted: Vec<_> = links
            .iter()
            .filter(|link| link.signals().has(Signals::EVICTED))
            .map(|link| link.number)
            .collect();
        assert_eq!(evicted, [2]);
        lobby.leave(2);
        assert_eq!(lobby.len(), 2);
    }

    #[test]
    fn seats_are_bounded() {
        let registry = Registry::default();
        assert!(registry.take_seat(2) && registry.take_seat(2));
        assert!(!registry.take_seat(2));
        registry.give_seat_back();
        assert!(registry.take_seat(2));
    }

    #[test]
    fn an_entry_ends_with_its_connection() {
        let registry = Arc::new(Registry::default());
        let entry = registry.enter(link(registry.next_number()));
        assert_eq!((registry.len(), registry.counts()), (1, (1, 0)));
        drop(entry);
        assert_eq!((registry.len(), registry.counts()), (0, (1, 1)));
    }
}

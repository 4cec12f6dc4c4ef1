//! Passwords that were right a moment ago.
//!
//! Keeps keyed digests only: whoever reads the memory learns no password, and a changed password
//! misses because its hash is part of the digest.

use std::time::{Duration, Instant};

use dashmap::DashMap;
use ring::hmac;
use ring::rand::SystemRandom;

/// How long a login is remembered: long enough for a fleet that reconnects.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Most logins remembered, so that memory stays bounded.
const ENTRIES_MAX: usize = 10_000;

/// Stands for one user with one password.
pub type Ticket = [u8; 32];

/// Logins that succeeded within the last minute.
#[derive(Debug)]
pub struct Cache {
    key: hmac::Key,
    seen: DashMap<Ticket, Instant>,
}

impl Cache {
    /// An empty cache with a key of its own.
    ///
    /// # Panics
    /// If the system has no randomness.
    #[must_use]
    pub fn new() -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .expect("the system gives random octets");
        Self {
            key,
            seen: DashMap::with_shard_amount(4),
        }
    }

    /// What stands for this login; `hash` is the stored hash that the password is to match.
    #[must_use]
    pub fn ticket(&self, name: &str, password: &[u8], hash: &[u8]) -> Ticket {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [name.as_bytes(), password, hash] {
            context.update(&part.len().to_le_bytes()); // else "ab" + "c" would be "a" + "bc"
            context.update(part);
        }
        let mut ticket = Ticket::default();
        ticket.copy_from_slice(context.sign().as_ref());
        ticket
    }

    /// Was it right within the last minute?
    #[must_use]
    pub fn contains(&self, ticket: &Ticket, now: Instant) -> bool {
        self.seen
            .get(ticket)
            .is_some_and(|since| now.duration_since(*since) < REMEMBERED)
    }

    /// It was right just now.
    pub fn insert(&self, ticket: Ticket, now: Instant) {
        if self.seen.len() >= ENTRIES_MAX {
            self.seen
                .retain(|_, since| now.duration_since(*since) < REMEMBERED);
            if self.seen.len() >= ENTRIES_MAX {
                self.seen.clear(); // costs some hashes, not more
            }
        }
        self.seen.insert(ticket, now);
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_remembered_for_a_minute() {
        let cache = Cache::new();
        let start = Instant::now();
        let ticket = cache.ticket("app", b"secret", b"hash");
        assert!(!cache.contains(&ticket, start));
        cache.insert(ticket, start);
        assert!(cache.contains(&ticket, start + Duration::from_secs(59)));
        assert!(!cache.contains(&ticket, start + Duration::from_secs(60)));
    }

    #[test]
    fn every_part_of_a_login_counts() {
        let cache = Cache::new();
        let ticket = cache.ticket("app", b"secret", b"hash");
        for (name, password, hash) in [
            ("appsecret", "", "hash"),
            ("app", "secret", "hash2"),
            ("ap", "psecret", "hash"),
        ] {
            assert_ne!(
                cache.ticket(name, password.as_bytes(), hash.as_bytes()),
                ticket
            );
        }
        assert_ne!(
            Cache::new().ticket("app", b"secret", b"hash"),
            ticket,
            "another key"
        );
    }

    #[test]
    fn memory_is_bounded() {
        let cache = Cache::new();
        let now = Instant::now();
        for n in 0..=ENTRIES_MAX {
            cache.insert(cache.ticket(&n.to_string(), b"", b""), now);
        }
        assert!(cache.seen.len() <= ENTRIES_MAX);
    }
}

//! Slows down guessing: failures of one user from one network make the next answer wait.
//!
//! By user *and* network, so that nobody can lock somebody else out from elsewhere.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Failures that are taken for slips of the finger.
const FREE_FAILURES: u32 = 5;

/// The wait after the next one; doubles with each.
const DELAY_MIN: Duration = Duration::from_millis(100);

/// The longest wait: shorter than the handshake timeout, so that the right password still works.
const DELAY_MAX: Duration = Duration::from_secs(5);

/// How long failures are remembered.
const MEMORY: Duration = Duration::from_secs(600);

/// Most visitors remembered.
const ENTRIES_MAX: usize = 10_000;

/// A user name and the network it came from (IPv4: the address; IPv6: its /64).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Visitor(u64);

/// Who has failed lately.
#[derive(Debug, Default)]
pub struct Throttle {
    hasher: RandomState,
    failures: Mutex<HashMap<Visitor, Failures>>,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Throttle {
    /// Who this is.
    #[must_use]
    pub fn visitor(&self, name: &str, peer: IpAddr) -> Visitor {
        let network = match peer.to_canonical() {
            IpAddr::V4(v4) => u64::from(v4.to_bits()),
            IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
        };
        Visitor(self.hasher.hash_one((name, network)))
    }

    /// How long the answer has to wait.
    #[must_use]
    pub fn delay(&self, visitor: Visitor, now: Instant) -> Option<Duration> {
        let failures = self.lock();
        let entry = failures.get(&visitor)?;
        if now.duration_since(entry.last) >= MEMORY {
            return None;
        }
        let doublings = entry.count.checked_sub(FREE_FAILURES)?.min(16);
        Some((DELAY_MIN * (1 << doublings)).min(DELAY_MAX))
    }

    /// A wrong password.
    pub fn failed(&self, visitor: Visitor, now: Instant) {
        let mut failures = self.lock();
        if failures.len() >= ENTRIES_MAX && !failures.contains_key(&visitor) {
            failures.retain(|_, entry| now.duration_since(entry.last) < MEMORY);
            let oldest = failures
                .iter()
                .min_by_key(|(_, entry)| entry.last)
                .map(|(visitor, _)| *visitor);
            if let Some(oldest) = oldest.filter(|_| failures.len() >= ENTRIES_MAX) {
                failures.remove(&oldest);
            }
        }
        let entry = failures.entry(visitor).or_insert(Failures {
            count: 0,
            last: now,
        });
        if now.duration_since(entry.last) >= MEMORY {
            entry.count = 0;
        }
        entry.count = entry.count.saturating_add(1);
        entry.last = now;
    }

    /// The right password: all is forgiven.
    pub fn succeeded(&self, visitor: Visitor) {
        self.lock().remove(&visitor);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Visitor, Failures>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sixth_answer_waits_and_then_ever_longer() {
        let throttle = Throttle::default();
        let now = Instant::now();
        let visitor = throttle.visitor("app", "10.0.0.1".parse().unwrap());
        let mut waits = Vec::new();
        for _ in 0..13 {
            waits.push(
                throttle
                    .delay(visitor, now)
                    .map_or(0, |delay| delay.as_millis()),
            );
            throttle.failed(visitor, now);
        }
        assert_eq!(
            waits,
            [
                0, 0, 0, 0, 0, 100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000
            ]
        );
        assert_eq!(throttle.delay(visitor, now + MEMORY), None, "forgotten");
        throttle.succeeded(visitor);
        assert_eq!(throttle.delay(visitor, now), None, "forgiven");
    }

    #[test]
    fn a_visitor_is_a_user_from_a_network() {
        let throttle = Throttle::default();
        let visitor = |name, peer: &str| throttle.visitor(name, peer.parse().unwrap());
        assert_eq!(
            visitor("app", "10.0.0.1"),
            visitor("app", "::ffff:10.0.0.1")
        );
        assert_eq!(
            visitor("app", "2001:db8::1"),
            visitor("app", "2001:db8::2"),
            "one /64"
        );
        assert_ne!(
            visitor("app", "2001:db8::1"),
            visitor("app", "2001:db8:0:1::1")
        );
        assert_ne!(visitor("app", "10.0.0.1"), visitor("app", "10.0.0.2"));
        assert_ne!(visitor("app", "10.0.0.1"), visitor("ap", "10.0.0.1"));
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let throttle = Throttle::default();
        let start = Instant::now();
        let visitor = |n: u64| Visitor(n);
        for n in 0..=ENTRIES_MAX as u64 {
            throttle.failed(visitor(n), start + Duration::from_millis(n));
        }
        let failures = throttle.lock();
        assert_eq!(failures.len(), ENTRIES_MAX);
        assert!(!failures.contains_key(&visitor(0)) && failures.contains_key(&visitor(1)));
    }
}

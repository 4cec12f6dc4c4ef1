//! Who gets in: user name, password and address against the accounts.
//!
//! The slow part, argon2, runs on the blocking pool, few at a time, and a password that was right
//! a moment ago is not checked again: a thousand connections that come back at once must not take
//! a thousand times the memory and time of a hash. To a stranger all refusals look the same and
//! take the same time, whether the user exists or not.

pub mod cache;
pub mod password;
pub mod throttle;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use leveret_session::Secret;
use tokio::sync::Semaphore;

use crate::config::accounts::{Accounts, User};
use cache::Cache;
use password::PasswordHash;
use throttle::Throttle;

/// Slow checks at a time: each takes a core for tens of milliseconds, and 19 MiB.
const CHECKS_MAX: usize = 2;

/// Slow checks that may wait for their turn, about a second's worth.
const WAITING_MAX: usize = 64;

/// A user nobody is: an argon2id hash of random octets with the parameters of new passwords.
const DECOY: &str = "$argon2id$v=19$m=19456,t=2,p=1$bGV2ZXJldC1kZWNveS0xNg$3qQ7nYcV0mJ8Zk1xT5uWbRrLpEoHsGfDaXyIvNtKjMc";

/// The doorkeeper.
#[derive(Debug)]
pub struct Door {
    users: BTreeMap<Arc<str>, Arc<User>>,
    /// Someone's password is slow to check, so everybody's must be.
    slow: bool,
    decoy: PasswordHash,
    cache: Cache,
    throttle: Throttle,
    checks: Arc<Semaphore>,
    waiting: AtomicUsize,
    succeeded: AtomicU64,
    failed: AtomicU64,
}

/// Why a login was refused: for the log, never for the client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// Unknown user or wrong password.
    BadCredentials,
    /// The user may only connect from the broker's machine.
    NotFromThere,
    /// Too many passwords are being checked at this moment.
    Busy,
}

impl Door {
    /// A doorkeeper for these accounts.
    #[must_use]
    pub fn new(accounts: &Accounts) -> Self {
        let slow = accounts.has_slow_passwords();
        let decoy = if slow {
            PasswordHash::parse(DECOY).ok()
        } else {
            None
        };
        Self {
            users: accounts
                .users
                .iter()
                .map(|(name, user)| (Arc::clone(name), Arc::new(user.clone())))
                .collect(),
            slow,
            decoy: decoy.unwrap_or_else(|| PasswordHash::of(b"nobody's")),
            cache: Cache::new(),
            throttle: Throttle::default(),
            checks: Arc::new(Semaphore::new(CHECKS_MAX)),
            waiting: AtomicUsize::new(0),
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// Decides about one login; returns the user it is. After several failures of this user from
    /// this network the answer takes its time.
    ///
    /// # Errors
    /// The [`Refusal`].
    pub async fn login(
        &self,
        name: &str,
        password: Secret,
        peer: IpAddr,
    ) -> Result<Arc<User>, Refusal> {
        let visitor = self.throttle.visitor(name, peer);
        if let Some(delay) = self.throttle.delay(visitor, Instant::now()) {
            tokio::time::sleep(delay).await;
        }
        let verdict = self.check(name, password, peer).await;
        match verdict {
            Ok(_) => {
                self.throttle.succeeded(visitor);
                self.succeeded.fetch_add(1, Ordering::Relaxed);
            }
            Err(refusal) => {
                if refusal != Refusal::Busy {
                    self.throttle.failed(visitor, Instant::now());
                }
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        verdict
    }

    /// The user of this name, if there is one.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&Arc<User>> {
        self.users.get(name)
    }

    /// All of them, by name.
    pub fn users(&self) -> impl Iterator<Item = &Arc<User>> {
        self.users.values()
    }

    /// Logins so far: that succeeded, that failed.
    #[must_use]
    pub fn attempts(&self) -> (u64, u64) {
        (
            self.succeeded.load(Ordering::Relaxed),
            self.failed.load(Ordering::Relaxed),
        )
    }

    async fn check(
        &self,
        name: &str,
        password: Secret,
        peer: IpAddr,
    ) -> Result<Arc<User>, Refusal> {
        let user = self.users.get(name);
        let hash = user.map_or(&self.decoy, |user| &user.password);
        let ticket = self
            .cache
            .ticket(name, password.expose(), hash.fingerprint());
        let known = user.is_some() && self.cache.contains(&ticket, Instant::now());
        if !known {
            let matches = self.verify(hash.clone(), password).await?;
            if !matches || user.is_none() {
                return Err(Refusal::BadCredentials);
            }
            self.cache.insert(ticket, Instant::now());
        }
        match user {
            Some(user) if user.loopback_only && !peer.to_canonical().is_loopback() => {
                Err(Refusal::NotFromThere)
            }
            Some(user) => Ok(Arc::clone(user)),
            None => Err(Refusal::BadCredentials),
        }
    }

    /// Compares, at the price of the slowest kind of password in use.
    async fn verify(&self, hash: PasswordHash, password: Secret) -> Result<bool, Refusal> {
        if !self.slow {
            return Ok(hash.matches(password.expose()));
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Refusal::Busy);
        }
        let permit = Arc::clone(&self.checks).acquire_owned().await;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let Ok(permit) = permit else {
            return Err(Refusal::Busy);
        };
        let decoy = (!hash.is_slow()).then(|| self.decoy.clone());
        let work = move || {
            let _permit = permit; // held by the work itself: it goes on if the connection dies
            if let Some(decoy) = decoy {
                std::hint::black_box(decoy.matches(password.expose()));
            }
            hash.matches(password.expose())
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| Refusal::Busy)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadCredentials => "invalid credentials",
            Self::NotFromThere => "user can only connect via localhost",
            Self::Busy => "too many logins at once",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::accounts::Accounts;

    fn secret(text: &str) -> Secret {
        Secret::from(text.as_bytes())
    }

    fn login(door: &Door, name: &str, password: &str, peer: &str) -> Result<Arc<str>, Refusal> {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(door.login(name, secret(password), peer.parse().unwrap()))
            .map(|user| Arc::clone(&user.name))
    }

    #[test]
    fn guest_gets_in_from_this_machine_only() {
        let door = Door::new(&Accounts::default());
        #[rustfmt::skip]
        let table = [
            // password  from                  verdict
            ("guest",    "127.0.0.1",          None),
            ("guest",    "127.8.9.10",         None),
            ("guest",    "::1",                None),
            ("guest",    "::ffff:127.0.0.1",   None),
            ("guest",    "10.0.0.1",           Some(Refusal::NotFromThere)),
            ("guest",    "::ffff:10.0.0.1",    Some(Refusal::NotFromThere)),
            ("guess",    "127.0.0.1",          Some(Refusal::BadCredentials)),
            ("",         "127.0.0.1",          Some(Refusal::BadCredentials)),
            ("guess",    "10.0.0.1",           Some(Refusal::BadCredentials)),
        ];
        for (password, from, verdict) in table {
            assert_eq!(
                login(&door, "guest", password, from).err(),
                verdict,
                "{password:?} from {from}"
            );
        }
        assert_eq!(
            login(&door, "nobody", "guest", "127.0.0.1").err(),
            Some(Refusal::BadCredentials)
        );
        assert_eq!(door.attempts(), (4, 6));
    }

    #[test]
    fn the_decoy_is_a_hash_that_nothing_matches() {
        let decoy = PasswordHash::parse(DECOY).unwrap();
        assert!(decoy.is_slow());
        assert!(!decoy.matches(b"leveret"));
    }
}

//! Passwords as they are kept: RabbitMQ's salted SHA-256 and SHA-512, and argon2.
//!
//! A password that stands in clear in the configuration is kept salted and hashed as well, so that
//! it is not in memory for longer than needed; a slow hash would protect nothing there.

use std::fmt;

use argon2::password_hash::PasswordVerifier as _;
use argon2::{Argon2, Params};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{self, SHA256, SHA512};
use ring::rand::{SecureRandom as _, SystemRandom};
use subtle::ConstantTimeEq as _;

/// Octets of salt in front of RabbitMQ's hashes.
const SALT: usize = 4;

/// What a password must match. Debug output does not show it.
#[derive(Clone)]
pub struct PasswordHash(Kind);

#[derive(Clone)]
enum Kind {
    /// `salt ++ sha(salt ++ password)`.
    Salted {
        algorithm: &'static digest::Algorithm,
        bytes: Vec<u8>,
    },
    /// A PHC string: `$argon2id$v=19$...`.
    Argon2(String),
}

impl PasswordHash {
    /// The hash of a password that is known in clear, with a fresh salt.
    ///
    /// # Panics
    /// If the system has no randomness, without which there is no safe broker.
    #[must_use]
    pub fn of(password: &[u8]) -> Self {
        let mut salt = [0; SALT];
        SystemRandom::new()
            .fill(&mut salt)
            .expect("the system gives random octets");
        let mut bytes = salt.to_vec();
        bytes.extend_from_slice(salted(&SHA256, &salt, password).as_ref());
        Self(Kind::Salted {
            algorithm: &SHA256,
            bytes,
        })
    }

    /// Reads RabbitMQ's `base64(salt ++ hash)` or argon2's PHC string.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.starts_with("$argon2") {
            let phc =
                argon2::PasswordHash::new(text).map_err(|_| "is not a readable argon2 string")?;
            if Params::try_from(&phc).is_err() || phc.hash.is_none() || phc.salt.is_none() {
                return Err("is an argon2 string without its parameters, salt or hash");
            }
            return Ok(Self(Kind::Argon2(text.to_owned())));
        }
        let bytes = STANDARD.decode(text).unwrap_or_default();
        let algorithm = [&SHA256, &SHA512]
            .into_iter()
            .find(|algorithm| bytes.len() == SALT + algorithm.output_len())
            .ok_or("is neither RabbitMQ's SHA-256 or SHA-512 nor argon2")?;
        Ok(Self(Kind::Salted { algorithm, bytes }))
    }

    /// Whether this is the password. Takes as long for a wrong one; an empty one never matches.
    #[must_use]
    pub fn matches(&self, password: &[u8]) -> bool {
        let same = match &self.0 {
            Kind::Salted { algorithm, bytes } => {
                let (salt, hash) = bytes.split_at(SALT);
                salted(algorithm, salt, password)
                    .as_ref()
                    .ct_eq(hash)
                    .into()
            }
            Kind::Argon2(phc) => argon2::PasswordHash::new(phc)
                .and_then(|phc| Argon2::default().verify_password(password, &phc))
                .is_ok(),
        };
        same && !password.is_empty()
    }

    /// As RabbitMQ's exported definitions have it: the hash, and which algorithm. [`Self::parse`]
    /// reads it.
    #[must_use]
    pub fn export(&self) -> (String, &'static str) {
        match &self.0 {
            Kind::Salted { algorithm, bytes } => {
                let name = if algorithm.output_len() == SHA512.output_len() {
                    "rabbit_password_hashing_sha512"
                } else {
                    "rabbit_password_hashing_sha256"
                };
                (STANDARD.encode(bytes), name)
            }
            Kind::Argon2(phc) => (phc.clone(), "argon2"),
        }
    }

    /// Takes tens of milliseconds and megabytes to check.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        matches!(self.0, Kind::Argon2(_))
    }

    /// Tells this hash from any other; changes whenever the password does.
    #[must_use]
    pub fn fingerprint(&self) -> &[u8] {
        match &self.0 {
            Kind::Salted { bytes, .. } => bytes,
            Kind::Argon2(phc) => phc.as_bytes(),
        }
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

fn salted(algorithm: &'static digest::Algorithm, salt: &[u8], password: &[u8]) -> digest::Digest {
    let mut context = digest::Context::new(algorithm);
    context.update(salt);
    context.update(password);
    context.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_hashes_match_their_password_only() {
        #[rustfmt::skip]
        let table = [
            ("5ZbXJB3OWQlCzUNybwJ/XcL6ZqJA9zNQvXlwYnWQikQSP3lz", "foobarbaz", "the vector of RabbitMQ's documentation"),
            ("$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$4aG5RGOl3MlO6NSS1rBYEA", "", "shape only: see below"),
        ];
        let rabbit = PasswordHash::parse(table[0].0).unwrap();
        assert!(rabbit.matches(table[0].1.as_bytes()), "{}", table[0].2);
        for wrong in ["foobarba", "foobarbazz", ""] {
            assert!(!rabbit.matches(wrong.as_bytes()), "{wrong:?}");
        }
        assert!(PasswordHash::parse(table[1].0).unwrap().is_slow());
    }

    #[test]
    fn a_fresh_hash_matches_and_is_salted() {
        let (one, other) = (PasswordHash::of(b"secret"), PasswordHash::of(b"secret"));
        assert!(one.matches(b"secret") && other.matches(b"secret"));
        assert!(!one.matches(b"Secret"));
        assert_ne!(one.fingerprint(), other.fingerprint());
        assert_eq!(format!("{one:?}"), "PasswordHash(..)");
    }

    #[test]
    fn argon2_strings_are_checked() {
        use argon2::password_hash::{PasswordHasher as _, SaltString};

        let params = Params::new(64, 1, 1, None).unwrap();
        let argon = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        let salt = SaltString::from_b64("c29tZXNhbHQ").unwrap();
        let phc = argon.hash_password(b"secret", &salt).unwrap().to_string();
        let hash = PasswordHash::parse(&phc).unwrap();
        assert!(hash.matches(b"secret") && !hash.matches(b"other") && !hash.matches(b""));
    }

    #[test]
    fn an_empty_password_never_matches() {
        assert!(!PasswordHash::of(b"").matches(b""));
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        for text in [
            "",
            "abc",
            "YWJj",
            "$argon2id$",
            "$argon2id$v=19$m=64,t=1,p=1",
            "$2b$10$abcdefghijk",
        ] {
            assert!(PasswordHash::parse(text).is_err(), "{text:?}");
        }
    }
}

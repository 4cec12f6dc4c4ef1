//! Logins: HTTP basic, checked by the same door as those of AMQP.

use std::fmt;
use std::net::SocketAddr;

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Longest `Authorization` that is looked at, in octets.
const HEADER_OCTETS_MAX: usize = 4_096;

/// The other end of the connection that a request came by. Whoever serves the router puts it into
/// the extensions of each request; without it nobody is let in.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// What a request says about who it is.
pub struct Credentials<'a> {
    /// The user.
    pub name: &'a str,
    /// The password, not shown anywhere.
    pub password: &'a [u8],
}

/// Why nobody is let in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Denied {
    /// Wrong name or password, or from the wrong place: the caller is not told which.
    LoginFailed,
    /// Too many passwords are being checked at this moment.
    Busy,
}

impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// `user:password` of the header `Authorization: Basic ..`, if there is one that can be read.
pub(crate) fn basic(headers: &HeaderMap) -> Option<Vec<u8>> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") || token.len() > HEADER_OCTETS_MAX {
        return None;
    }
    STANDARD.decode(token.trim()).ok()
}

/// The two parts of that. A name has no colon, a password may.
pub(crate) fn split(pair: &[u8]) -> Option<Credentials<'_>> {
    let colon = pair.iter().position(|&octet| octet == b':')?;
    let (name, password) = pair.split_at(colon);
    Some(Credentials {
        name: str::from_utf8(name).ok()?,
        password: password.get(1..)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_read_or_is_none() {
        #[rustfmt::skip]
        let table = [
            ("Basic Z3Vlc3Q6Z3Vlc3Q=",  Some(("guest", &b"guest"[..]))),
            ("basic Z3Vlc3Q6Z3Vlc3Q=",  Some(("guest", &b"guest"[..]))),
            ("Basic YTpiOmM=",          Some(("a", &b"b:c"[..]))),
            ("Basic YTo=",              Some(("a", &b""[..]))),
            ("Basic Z3Vlc3Q=",          None), // no colon
            ("Basic /zp4",              None), // a name that is not UTF-8
            ("Basic ???",               None),
            ("Bearer Z3Vlc3Q6Z3Vlc3Q=", None),
            ("Basic",                   None),
        ];
        for (value, expected) in table {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
            let pair = basic(&headers);
            let found = pair.as_deref().and_then(split);
            let found = found.map(|found| (found.name, found.password));
            assert_eq!(found, expected, "{value}");
        }
        assert_eq!(basic(&HeaderMap::new()), None);
    }
}

//! `amqp://user:password@host:port/vhost`, as far as the load generator needs it.

use std::net::{SocketAddr, ToSocketAddrs};

use crate::{Error, Result, error::Context as _};

/// Where a broker listens and how to log in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Url {
    pub address: SocketAddr,
    pub user: String,
    pub password: String,
    pub vhost: String,
}

impl Url {
    /// A broker of this machine with the account that every broker starts with.
    pub fn local(port: u16) -> Self {
        Self {
            address: ([127, 0, 0, 1], port).into(),
            user: "guest".into(),
            password: "guest".into(),
            vhost: "/".into(),
        }
    }

    /// Parts left out are `guest`, `guest`, port 5672 and vhost `/`.
    ///
    /// # Errors
    /// When it is no such URL, or not of this machine: a load generator is not to be pointed at
    /// somebody else's by mistake, and CPU and memory could not be read there.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |why: &str| Error::Setup(format!("{text:?} is no AMQP URL: {why}"));
        let rest = text
            .strip_prefix("amqp://")
            .ok_or_else(|| invalid("it must start with amqp://"))?;
        let (authority, vhost) = match rest.split_once('/') {
            Some((authority, "")) => (authority, "/"),
            Some((authority, vhost)) => (authority, vhost),
            None => (rest, "/"),
        };
        let (login, host) = authority
            .rsplit_once('@')
            .unwrap_or(("guest:guest", authority));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let decode = |part| percent_decode(part).ok_or_else(|| invalid("bad % escape"));
        let host = if host.is_empty() { "127.0.0.1" } else { host };
        let has_port = host
            .rsplit_once(':')
            .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
        let host = if has_port {
            host.to_owned()
        } else {
            format!("{host}:5672")
        };
        let mut addresses = host.to_socket_addrs().context(format!("resolve {host}"))?;
        let address = addresses
            .find(|address| address.ip().is_loopback())
            .ok_or_else(|| invalid("only addresses of this machine (127.0.0.1) are measured"))?;
        Ok(Self {
            address,
            user: decode(user)?,
            password: decode(password)?,
            vhost: decode(vhost)?,
        })
    }
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            out.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_url() {
        #[rustfmt::skip]
        let table = [
            // url                            address           user     password  vhost   why this row is here
            ("amqp://a:b@127.0.0.1:5673/v",   "127.0.0.1:5673", "a",     "b",      "v",    "everything"),
            ("amqp://127.0.0.1",              "127.0.0.1:5672", "guest", "guest",  "/",    "nothing but the host"),
            ("amqp://127.0.0.1:1/",           "127.0.0.1:1",    "guest", "guest",  "/",    "slash without a vhost"),
            ("amqp://127.0.0.1:1/%2F",        "127.0.0.1:1",    "guest", "guest",  "/",    "the escaped slash of other clients"),
            ("amqp://u:p%40q@127.0.0.1:1/%61","127.0.0.1:1",    "u",     "p@q",    "a",    "escapes"),
            ("amqp://u@127.0.0.1:1",          "127.0.0.1:1",    "u",     "",       "/",    "no password"),
            ("amqp://[::1]:7",                "[::1]:7",        "guest", "guest",  "/",    "colons in the host"),
            ("amqp://[::1]",                  "[::1]:5672",     "guest", "guest",  "/",    "and no port after them"),
        ];
        for (text, address, user, password, vhost, why) in table {
            let url = Url::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(url.address, address.parse().unwrap(), "{why}");
            assert_eq!((&*url.user, &*url.password), (user, password), "{why}");
            assert_eq!(url.vhost, vhost, "{why}");
        }
    }

    #[test]
    fn other_urls_are_refused() {
        for text in [
            "http://127.0.0.1",
            "127.0.0.1:5672",
            "amqp://192.0.2.1:5672",
            "amqp://127.0.0.1/%f",
        ] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }
}

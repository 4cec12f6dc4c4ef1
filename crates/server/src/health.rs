//! `leveret health`: asks a running broker how it is, for containers that have no other tool.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use crate::config::Settings;

/// For each of connecting, asking and answering.
const TIMEOUT: Duration = Duration::from_secs(3);

/// More than any answer of ours.
const ANSWER_BYTES_MAX: u64 = 64 * 1_024;

/// Where a broker with these settings is asked; `None` if it has no HTTP listener.
#[must_use]
pub fn url(settings: &Settings) -> Option<String> {
    let address = settings.http_listen.0.first()?;
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Some(format!(
        "http://{}/health/ready",
        SocketAddr::new(ip, address.port())
    ))
}

/// Asks; the body of the answer if all is well.
///
/// # Errors
/// What is not well, as a line for people.
pub fn check(url: &str) -> Result<String, String> {
    let (host, path) =
        split(url).ok_or_else(|| format!("'{url}' is not of the form http://HOST:PORT/PATH"))?;
    let answer = ask(host, path).map_err(|e| format!("{url}: {e}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split_whitespace().nth(1).unwrap_or("no status");
    if status == "200" {
        Ok(body.to_owned())
    } else {
        Err(format!("{url}: {status} {body}"))
    }
}

fn split(url: &str) -> Option<(&str, &str)> {
    let rest = url.strip_prefix("http://")?;
    let end = rest.find('/').unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    (!host.is_empty()).then_some((host, if path.is_empty() { "/" } else { path }))
}

fn ask(host: &str, path: &str) -> std::io::Result<String> {
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let target = if has_port {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let mut last = std::io::ErrorKind::AddrNotAvailable.into();
    for address in target.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(mut socket) => {
                socket.set_read_timeout(Some(TIMEOUT))?;
                socket.set_write_timeout(Some(TIMEOUT))?;
                write!(
                    socket,
                    "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
                )?;
                let mut answer = String::new();
                socket.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
                return Ok(answer);
            }
            Err(e) => last = e,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        #[rustfmt::skip]
        let table = [
            ("http://127.0.0.1:15672/health/ready", Some(("127.0.0.1:15672", "/health/ready"))),
            ("http://[::1]:80",                     Some(("[::1]:80", "/"))),
            ("http://broker/",                      Some(("broker", "/"))),
            ("https://broker/",                     None),
            ("http:///x",                           None),
        ];
        for (url, expected) in table {
            assert_eq!(split(url), expected, "{url}");
        }
    }
}

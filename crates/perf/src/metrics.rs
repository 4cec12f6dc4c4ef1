//! Reads a server's counters: the text that Prometheus reads, over plain HTTP.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::{Error, Result, error::Context as _};

/// A server that is busy still answers within this.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Far more than any server has to say.
const PAGE_BYTES_MAX: u64 = 8 << 20;

/// The page at `/metrics`.
///
/// # Errors
/// When nobody answers, or with something else.
pub fn fetch(address: SocketAddr) -> Result<String> {
    let mut stream =
        TcpStream::connect_timeout(&address, TIMEOUT).context("connect for metrics")?;
    stream
        .set_read_timeout(Some(TIMEOUT))
        .context("set a read timeout")?;
    // Version 1.0, so that the answer ends with the connection and comes in one piece.
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .context("ask for metrics")?;
    let mut answer = Vec::new();
    stream
        .take(PAGE_BYTES_MAX)
        .read_to_end(&mut answer)
        .context("read metrics")?;
    body(&String::from_utf8_lossy(&answer))
        .map(str::to_owned)
        .ok_or_else(|| Error::Server(format!("no metrics at {address}")))
}

/// What follows the head of an answer that is not a refusal.
fn body(answer: &str) -> Option<&str> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split_ascii_whitespace().nth(1)?;
    (status == "200").then_some(body)
}

/// The sum of a counter over all its labels; `None` when the page does not have it.
pub fn counter(page: &str, name: &str) -> Option<u64> {
    let samples = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        if !rest.starts_with([' ', '{']) {
            return None; // another, whose name is longer
        }
        let value: f64 = rest.rsplit_once(' ')?.1.parse().ok()?;
        Some(value as u64) // counters are whole
    });
    samples.fold(None, |sum, value| Some(sum.unwrap_or(0) + value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_a_page() {
        let page = "# HELP a_total Apples.\n# TYPE a_total counter\n\
                    a_total{vhost=\"/\"} 3\na_total{vhost=\"b c\"} 4\n\
                    a_total_more 9\nb_total 5\nempty_total 0\n";
        #[rustfmt::skip]
        let table = [
            ("a_total",     Some(7), "over all labels, and not the longer name"),
            ("b_total",     Some(5), "no labels"),
            ("empty_total", Some(0), "there, and nothing yet"),
            ("c_total",     None,    "not there"),
        ];
        for (name, expected, why) in table {
            assert_eq!(counter(page, name), expected, "{why}");
        }
    }

    #[test]
    fn answers() {
        #[rustfmt::skip]
        let table = [
            ("HTTP/1.0 200 OK\r\nA: b\r\n\r\nx 1\n",   Some("x 1\n"), "a page"),
            ("HTTP/1.0 404 Not Found\r\n\r\nsorry",    None,          "refused"),
            ("HTTP/1.0 200 OK\r\nA: b",                None,          "cut short"),
        ];
        for (answer, expected, why) in table {
            assert_eq!(body(answer), expected, "{why}");
        }
    }
}

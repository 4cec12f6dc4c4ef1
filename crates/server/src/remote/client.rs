//! Requests to a broker's HTTP API, one at a time.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use ureq::Agent;
use ureq::http;

use super::{Request, Target};

/// For all of a request. The broker answers when its disk has, which may be slow.
const TIMEOUT: Duration = Duration::from_secs(60);

/// More than any answer of a broker.
const ANSWER_OCTETS_MAX: u64 = 256 << 20;

/// What a part of a path is written with as it stands.
const PART: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// A broker that can be asked.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    url: String,
    authorization: String,
}

/// Why there is no answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Failure {
    /// The broker says no, and why.
    Refused(String),
    /// It says nothing, or nothing that makes sense.
    Unreachable(String),
}

impl Client {
    pub(super) fn new(target: &Target) -> Result<Self, Failure> {
        let url = target.url.trim_end_matches('/');
        if !url.starts_with("http://") {
            return Err(Failure::Unreachable(format!(
                "'{url}' is not of the form http://HOST:PORT"
            )));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(TIMEOUT))
            .max_redirects(0)
            .proxy(None) // a broker is near
            .build();
        let login = STANDARD.encode(format!("{}:{}", target.user, target.password));
        Ok(Self {
            agent: Agent::new_with_config(config),
            url: url.to_owned(),
            authorization: format!("Basic {login}"),
        })
    }

    /// Asks once.
    pub(super) fn ask(&self, request: &Request) -> Result<Value, Failure> {
        let (url, authorization) = (&self.url, &self.authorization);
        let lost = |why: &dyn std::fmt::Display| {
            Failure::Unreachable(format!("cannot ask the broker at {url}: {why}"))
        };
        let head = http::Request::builder()
            .method(request.method)
            .uri(format!("{url}{}", request.path))
            .header("authorization", authorization);
        let sent = if matches!(request.method, "GET" | "DELETE") {
            let request = head.body(()).map_err(|error| lost(&error))?;
            self.agent.run(request)
        } else {
            let head = head.header("content-type", "application/json");
            let request = head
                .body(request.body.to_string())
                .map_err(|error| lost(&error))?;
            self.agent.run(request)
        };
        let mut response = sent.map_err(|error| lost(&error))?;
        let body = response.body_mut().with_config().limit(ANSWER_OCTETS_MAX);
        let body = body.read_to_vec().map_err(|error| lost(&error))?;
        let status = response.status();
        let answer: Result<Value, _> = serde_json::from_slice(&body);
        if status.is_success() {
            return answer.map_err(|_| lost(&"the answer is not JSON; is it a broker?"));
        }
        let reason = answer.ok().and_then(|answer| {
            let reason = answer.get("reason")?.as_str()?;
            Some(reason.to_owned())
        });
        match reason {
            Some(reason) => Err(Failure::Refused(reason)),
            None => Err(lost(&format_args!("{status}; is it a broker?"))),
        }
    }
}

/// A name as one part of a path.
pub(super) fn part(name: &str) -> String {
    match name {
        // Clients and servers take these for steps.
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        _ => utf8_percent_encode(name, PART).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_part_of_a_path() {
        #[rustfmt::skip]
        let table = [
            ("/",           "%2F"),
            ("nightly-1.x", "nightly-1.x"),
            ("a b?c#d%e",   "a%20b%3Fc%23d%25e"),
            ("\u{e4}",      "%C3%A4"),
            ("..",          "%2E%2E"),
        ];
        for (name, expected) in table {
            assert_eq!(part(name), expected);
        }
    }

    #[test]
    fn only_http_is_spoken() {
        let target = Target {
            url: "https://localhost".to_owned(),
            user: String::new(),
            password: String::new(),
            vhost: String::new(),
        };
        assert!(matches!(Client::new(&target), Err(Failure::Unreachable(_))));
    }
}

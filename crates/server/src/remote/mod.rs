//! `leveret schedule` and `leveret delayed`: a running broker, asked over HTTP.
//!
//! What the broker answers is shown as a table, or as it came (`--json`). Exit code 0 if it did what
//! it was asked to, 1 if it refused, with its text, 2 if it could not be asked.

mod client;
pub mod command;
mod crontab;
mod import;
mod table;
mod view;

use serde_json::Value;

use client::{Client, Failure};
use view::View;

/// The broker refused.
const EXIT_REFUSED: u8 = 1;

/// It could not be asked.
const EXIT_UNREACHABLE: u8 = 2;

/// What is wanted of which broker.
#[derive(Debug)]
pub struct RemoteTask {
    target: Target,
    /// For programs: answers as they come.
    json: bool,
    job: Job,
}

/// A broker, and who asks.
#[derive(Clone, Eq, PartialEq)]
struct Target {
    url: String,
    user: String,
    password: String,
    vhost: String,
}

#[derive(Debug)]
enum Job {
    Ask(Request, View),
    Import(import::Import),
}

/// One request; paths begin behind the URL.
#[derive(Clone, Debug, PartialEq)]
struct Request {
    method: &'static str,
    path: String,
    /// Of methods that have one.
    body: Value,
}

/// What is to be printed, and the exit code.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Told {
    /// For standard output.
    pub out: String,
    /// For standard error.
    pub err: String,
    /// The exit code.
    pub code: u8,
}

/// Does it.
#[must_use]
pub fn run(task: &RemoteTask) -> Told {
    let client = match Client::new(&task.target) {
        Ok(client) => client,
        Err(failure) => return failed(&failure),
    };
    match &task.job {
        Job::Ask(request, view) => match client.ask(request) {
            Ok(answer) => {
                let out = if task.json {
                    json_line(&answer)
                } else {
                    view.show(&answer)
                };
                Told {
                    out,
                    ..Told::default()
                }
            }
            Err(failure) => failed(&failure),
        },
        Job::Import(import) => import::run(import, &client, &task.target.vhost, task.json),
    }
}

fn failed(failure: &Failure) -> Told {
    let (code, text) = match failure {
        Failure::Refused(text) => (EXIT_REFUSED, text),
        Failure::Unreachable(text) => (EXIT_UNREACHABLE, text),
    };
    Told {
        out: String::new(),
        err: format!("leveret: {}\n", table::clean(text)),
        code,
    }
}

fn json_line(value: &Value) -> String {
    format!("{value:#}\n")
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target")
            .field("url", &self.url)
            .field("user", &self.user)
            .field("vhost", &self.vhost)
            .finish_non_exhaustive()
    }
}

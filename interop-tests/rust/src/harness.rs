//! Runs the checks of ../checks.txt: prints a line for each and compares replies with ../replies.tsv.

use std::{collections::BTreeSet, env, fmt, fs, path::PathBuf, process, sync::Mutex, time::Duration};

use lapin::{Connection, ErrorKind};

use crate::{Session, connect};

/// Longer than anything a check waits for takes.
const CHECK_PATIENCE: Duration = Duration::from_secs(20);

static NAMES_USED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Why a check has no verdict "ok".
pub enum NotOk {
    Wrong(String),
    Skip(&'static str),
}

pub type Outcome<T = ()> = Result<T, NotOk>;

impl From<lapin::Error> for NotOk {
    fn from(error: lapin::Error) -> Self {
        Self::Wrong(format!("expected no error got {error}"))
    }
}

pub fn wrong<T>(what: String) -> Outcome<T> {
    Err(NotOk::Wrong(what))
}

pub fn expect<T: PartialEq + fmt::Debug>(expected: T, got: T) -> Outcome {
    if expected == got {
        Ok(())
    } else {
        wrong(format!("expected {expected:?} got {got:?}"))
    }
}

/// An error of the broker: "channel" or "connection", its code and its text.
pub struct Reply {
    pub level: &'static str,
    pub code: u16,
    pub text: String,
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.level, self.code, self.text)
    }
}

impl Reply {
    /// The reply that made a call fail; the connection tells at which level it was.
    pub fn of<T>(result: lapin::Result<T>, conn: Option<&Connection>) -> Outcome<Self> {
        let Err(error) = result else {
            return wrong("expected an error got none".into());
        };
        let ErrorKind::ProtocolError(reply) = error.kind() else {
            return wrong(format!("expected an error of the broker got {error}"));
        };
        let channel_only = conn.is_some_and(|conn| conn.status().connected());
        Ok(Self {
            level: if channel_only { "channel" } else { "connection" },
            code: reply.get_id(),
            text: reply.get_message().to_string(),
        })
    }
}

fn prefix() -> String {
    format!("interop.lapin.{}.", process::id())
}

/// The name of a queue or exchange of this run. It is taken out of reply texts again.
pub fn name(short: &str) -> String {
    let name = format!("{}{short}", prefix());
    NAMES_USED.lock().expect("no check panics holding it").insert(name.clone());
    name
}

pub fn names_used() -> BTreeSet<String> {
    NAMES_USED.lock().expect("no check panics holding it").clone()
}

/// Runs checks one after the other.
pub struct Checks {
    pub failed: usize,
    starts: Vec<String>,
}

impl Checks {
    /// Takes the starts of the names to run from the command line; without any, all run.
    pub fn from_args() -> Self {
        Self { failed: 0, starts: env::args().skip(1).collect() }
    }

    /// A check that expects no error of the broker.
    pub async fn ok(&mut self, name: &str, act: impl AsyncFnOnce(&Session) -> Outcome) {
        self.check(name, async |s| act(s).await.map(|()| None)).await;
    }

    /// A check whose last call makes the broker close the channel or the connection.
    pub async fn fails(&mut self, name: &str, act: impl AsyncFnOnce(&Session) -> lapin::Result<()>) {
        self.check(name, async |s| Reply::of(act(s).await, Some(&s.conn)).map(Some)).await;
    }

    pub async fn skip(&mut self, name: &str, reason: &'static str) {
        self.check(name, async |_| Err(NotOk::Skip(reason))).await;
    }

    /// A check that returns the reply it provoked when it is about an error.
    pub async fn check(&mut self, name: &str, act: impl AsyncFnOnce(&Session) -> Outcome<Option<Reply>>) {
        if !self.starts.is_empty() && !self.starts.iter().any(|start| name.starts_with(start)) {
            return;
        }
        let run = async {
            let session = connect().await?;
            let outcome = act(&session).await;
            // Closed already when the check made the broker close it.
            let _ = session.conn.close(200, "".into()).await;
            outcome
        };
        let outcome = tokio::time::timeout(CHECK_PATIENCE, run)
            .await
            .unwrap_or_else(|_| wrong(format!("expected an end within {CHECK_PATIENCE:?} got none")));
        let outcome = outcome.and_then(|reply| match reply {
            None => Ok(String::new()),
            Some(reply) => {
                let seen = reply.to_string().replace(&prefix(), "");
                let accepted = accepted_replies(name);
                if accepted.contains(&seen) {
                    Ok(format!(": {seen}"))
                } else {
                    wrong(format!("expected {} got {seen}", accepted.join(" or ")))
                }
            }
        });
        match outcome {
            Ok(seen) => println!("ok {name}{seen}"),
            Err(NotOk::Skip(reason)) => println!("skip {name}: {reason}"),
            Err(NotOk::Wrong(what)) => {
                self.failed += 1;
                println!("FAIL {name}: {what}");
            }
        }
    }
}

/// Rows of replies.tsv; INTEROP_REPLIES (3.x or 4.x) leaves out those of the other version.
fn accepted_replies(check: &str) -> Vec<String> {
    let dir = env::var_os("INTEROP_DIR").map_or_else(|| PathBuf::from(".."), PathBuf::from);
    let rows = fs::read_to_string(dir.join("replies.tsv")).expect("run in interop-tests/rust or set INTEROP_DIR");
    let version = env::var("INTEROP_REPLIES").ok();
    rows.lines()
        .map(|line| line.split('\t').collect::<Vec<_>>())
        .filter(|row| row[0] == check)
        .filter(|row| row[1] == "any" || version.as_ref().is_none_or(|version| version == row[1]))
        .map(|row| row[2..].join(" "))
        .collect()
}

//! The program in a data directory that outlives it.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::common::{PATIENCE, command};
use crate::link::Link;

/// A directory for data directories.
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir }
    }

    /// The data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// The broker as a process.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    address: Option<SocketAddr>,
}

impl Process {
    /// Starts it, whatever comes of it.
    pub(crate) fn spawn(data: &Path) -> Self {
        Self::spawn_command(&mut serve(data))
    }

    /// The same with a command of its own.
    pub(crate) fn spawn_command(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            lines,
            address: None,
        }
    }

    /// Starts it and waits until it is ready.
    pub(crate) fn start(data: &Path) -> Self {
        let mut process = Self::spawn(data);
        process.wait_ready();
        process
    }

    /// Waits until it is ready; returns what it said before.
    pub(crate) fn wait_ready(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        loop {
            let Ok(line) = self.lines.recv_timeout(PATIENCE) else {
                panic!("it does not start: {said:#?}");
            };
            if line.contains("listening for amqp ") {
                let address = line.rsplit_once("address=").unwrap().1;
                self.address = Some(address.trim().parse().unwrap());
            }
            let is_ready = line.contains("ready to accept connections");
            said.push(line);
            if is_ready {
                return said;
            }
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address.expect("it is ready")
    }

    /// A client with a channel.
    pub(crate) fn link(&self) -> Link {
        Link::open(self.address()).unwrap()
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Has it ended?
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Ends it as a power switch would, but for what the system holds.
    pub(crate) fn kill(mut self) {
        self.signal(Signal::KILL);
        assert_eq!(self.wait().0, None, "it was killed");
    }

    /// Asks it to stop, and sees to it that it does so well.
    pub(crate) fn stop(mut self) {
        self.signal(Signal::TERM);
        let (code, lines) = self.wait();
        assert_eq!(code, Some(0), "{lines:#?}");
    }

    /// Waits until it has ended: its exit code, and the lines it said that nobody has read.
    pub(crate) fn wait(&mut self) -> (Option<i32>, Vec<String>) {
        let mut lines = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end: {lines:#?}"),
            }
        }
        (self.child.wait().unwrap().code(), lines)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill(); // has ended already if all went well
        let _ = self.child.wait();
    }
}

/// `leveret` as a broker in this data directory.
pub(crate) fn serve(data: &Path) -> Command {
    let mut command = command();
    command.args(arguments(data));
    command
}

/// What it is told.
pub(crate) fn arguments(data: &Path) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = ["--amqp-listen", "127.0.0.1:0", "--http-listen", "none"]
        .map(OsString::from)
        .to_vec();
    arguments.extend([OsString::from("--data-dir"), data.into()]);
    arguments
}

/// Runs it where it does not start: its exit code, and the only line beside what it may tell of its
/// progress.
pub(crate) fn refusal(data: &Path) -> (Option<i32>, String) {
    let mut command = serve(data);
    let output = command.args(["--log-level", "warn"]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "one line: {text}");
    (output.status.code(), text)
}

/// `leveret store` with these arguments.
pub(crate) fn store_tool(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> (Option<i32>, String) {
    let mut command = command();
    command.arg("store");
    for argument in arguments {
        command.arg(argument.as_ref());
    }
    let Output {
        status,
        mut stdout,
        stderr,
    } = command.output().unwrap();
    stdout.extend(stderr);
    (status.code(), String::from_utf8(stdout).unwrap())
}

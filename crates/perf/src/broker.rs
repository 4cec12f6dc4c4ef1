//! Starts servers for a measurement and stops them again: each on ports of its own, with its data
//! in a directory that goes with it.

use std::{
    env, fs,
    io::Read,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use crate::{
    Error, Result,
    client::Client,
    error::Context as _,
    process::{self, Watched},
    url::Url,
};

/// How long a server may take until it accepts logins. RabbitMQ needs most of it on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(90);

/// How long it may take to end by itself.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Where Debian puts RabbitMQ's own scripts. The wrappers in `/usr/sbin` change the user and know
/// only the system's node.
const RABBITMQ_HOMES: &str = "/usr/lib/rabbitmq/lib";

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    Leveret,
    Relay,
    RabbitMq,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Leveret => "leveret",
            Self::Relay => "relay",
            Self::RabbitMq => "rabbitmq",
        }
    }
}

/// A server that can be started: the program, or for RabbitMQ the directory with `sbin/`.
#[derive(Clone, Debug)]
pub struct Broker {
    pub kind: Kind,
    pub path: PathBuf,
}

/// A server that accepts logins, until it is dropped.
pub struct Running {
    child: Child,
    kind: Kind,
    pub url: Url,
    epmd_port: Option<u16>,
    dir: TempDir,
}

impl Broker {
    /// Debian's RabbitMQ, if it is installed.
    pub fn find_rabbitmq() -> Option<Self> {
        let homes = fs::read_dir(RABBITMQ_HOMES).ok()?.flatten();
        let newest = homes
            .map(|entry| entry.path())
            .filter(|path| path.join("sbin/rabbitmq-server").is_file())
            .max()?;
        Some(Self {
            kind: Kind::RabbitMq,
            path: newest,
        })
    }

    /// Starts it and waits until somebody can log in.
    ///
    /// # Errors
    /// When it ends or does not answer in time; with what it printed.
    pub fn start(&self) -> Result<Running> {
        let dir = TempDir::with_prefix("leveret-perf-").context("create a directory")?;
        let port = free_port()?;
        let log = fs::File::create(dir.path().join("output")).context("create a log file")?;
        let mut command;
        let mut epmd_port = None;
        match self.kind {
            Kind::Leveret => {
                command = Command::new(&self.path);
                command
                    .args(["--amqp-listen", &local(port)])
                    .args(["--http-listen", &local(free_port()?)])
                    .arg("--data-dir")
                    .arg(dir.path().join("data"));
            }
            Kind::Relay => {
                command = Command::new(&self.path);
                command.args(["--listen", &local(port)]);
            }
            Kind::RabbitMq => {
                let epmd = free_port()?;
                epmd_port = Some(epmd);
                command = rabbitmq(&self.path, dir.path(), port, epmd)?;
            }
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share a log file")?)
            .stderr(log)
            .spawn()
            .context(format!("start {}", self.path.display()))?;
        let mut running = Running {
            child,
            kind: self.kind,
            url: Url::local(port),
            epmd_port,
            dir,
        };
        running.wait_until_ready()?;
        Ok(running)
    }
}

impl Running {
    pub fn watched(&self) -> Watched {
        Watched(Some(self.child.id()))
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().context("watch a server")? {
                return Err(self.failed(&format!("ended with {status}")));
            }
            match Client::connect(&self.url) {
                Ok(client) => return client.close(),
                Err(error) if since.elapsed() > START_TIMEOUT => {
                    return Err(self.failed(&format!("does not answer: {error}")));
                }
                Err(_) => thread::sleep(LOOK_EVERY),
            }
        }
    }

    fn failed(&self, how: &str) -> Error {
        let mut output = String::new();
        if let Ok(mut file) = fs::File::open(self.dir.path().join("output")) {
            let _ = file.read_to_string(&mut output); // the better half of nothing is still nothing
        }
        let name = self.kind.name();
        Error::Setup(format!("{name} {how}; it printed:\n{}", output.trim_end()))
    }

    /// Asks all processes of the server to end, and kills what has not after a while. Only what we
    /// started: the tree below our child.
    fn stop(&mut self) {
        let tree = process::tree(self.child.id());
        signal(&tree, Signal::TERM);
        let since = Instant::now();
        while since.elapsed() < STOP_TIMEOUT {
            if !matches!(self.child.try_wait(), Ok(None)) {
                break;
            }
            thread::sleep(LOOK_EVERY);
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            signal(&process::tree(self.child.id()), Signal::KILL);
            let _ = self.child.wait();
        }
        if let Some(port) = self.epmd_port {
            // The Erlang port mapper outlives its nodes; ours serves this one alone.
            let kill = Command::new("epmd")
                .args(["-port", &port.to_string(), "-kill"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            drop(kill);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

fn signal(pids: &[u32], signal: Signal) {
    for &id in pids {
        if let Ok(pid) = process::pid(id) {
            let _ = kill_process(pid, signal); // it may have ended by itself
        }
    }
}

/// A RabbitMQ node of its own: no plugins, no shared files, no shared port mapper.
fn rabbitmq(home: &Path, dir: &Path, port: u16, epmd: u16) -> Result<Command> {
    let file = |name: &str| dir.join(name);
    let config = format!(
        "default_user = guest\ndefault_pass = guest\nlisteners.tcp.1 = {}\nlog.file.level = error\n",
        local(port)
    );
    fs::write(file("rabbitmq.conf"), config).context("configure RabbitMQ")?;
    fs::write(file("enabled_plugins"), "[].\n").context("configure RabbitMQ")?;
    let mut command = Command::new(home.join("sbin/rabbitmq-server"));
    command
        .env("HOME", dir)
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("ERL_EPMD_PORT", epmd.to_string())
        .env("RABBITMQ_HOME", home)
        .env("RABBITMQ_NODENAME", format!("perf{port}@localhost"))
        .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODE_PORT", port.to_string())
        .env("RABBITMQ_DIST_PORT", free_port()?.to_string())
        .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
        .env("RABBITMQ_CONFIG_FILE", file("rabbitmq"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", file("enabled_plugins"))
        .env("RABBITMQ_MNESIA_BASE", file("mnesia"))
        .env("RABBITMQ_LOG_BASE", file("log"))
        .env("RABBITMQ_PID_FILE", file("pid"));
    Ok(command)
}

/// A port nobody listens on. Somebody else may take it before we do; then starting fails.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr().context("find a free port")?.port())
}

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// A program beside this one: where cargo puts all of the workspace.
pub fn beside_us(name: &str) -> Option<PathBuf> {
    let path = env::current_exe().ok()?.parent()?.join(name);
    path.is_file().then_some(path)
}

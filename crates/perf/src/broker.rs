//! Starts servers for a measurement and stops them again: each on ports of its own, with its data
//! in a directory that goes with it.

use std::{
    env, fs,
    io::Read,
    net::{Ipv4Addr, SocketAddr, TcpListener},
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

/// Also how exactly the time of a restart is known.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Of the directories that servers get, so that what is left after a crash can be found.
const DIR_PREFIX: &str = "leveret-perf-";

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
    /// Data memory it may have, in bytes (RLIMIT_DATA); for Leveret, which is told so.
    pub memory_max: Option<u64>,
}

/// A server that accepts logins, until it is dropped.
pub struct Running {
    broker: Broker,
    child: Child,
    ports: Ports,
    dir: TempDir,
    pub url: Url,
}

/// Where a server listens; the same after a restart.
#[derive(Clone, Copy, Debug)]
struct Ports {
    amqp: u16,
    /// Health and metrics of Leveret, the Erlang distribution of RabbitMQ.
    second: u16,
    /// The Erlang port mapper.
    epmd: u16,
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
            memory_max: None,
        })
    }

    /// Starts it with its data in a new directory below `parent`, and waits until somebody can log
    /// in.
    ///
    /// # Errors
    /// When it ends or does not answer in time; with what it printed.
    pub fn start(&self, parent: &Path) -> Result<Running> {
        let dir = TempDir::with_prefix_in(DIR_PREFIX, parent).context("create a directory")?;
        let ports = Ports {
            amqp: free_port()?,
            second: free_port()?,
            epmd: free_port()?,
        };
        let mut running = Running {
            child: self.spawn(dir.path(), ports)?,
            broker: self.clone(),
            ports,
            dir,
            url: Url::local(ports.amqp),
        };
        running.wait_until_ready()?;
        Ok(running)
    }

    fn spawn(&self, dir: &Path, ports: Ports) -> Result<Child> {
        let log = fs::File::create(dir.join("output")).context("create a log file")?;
        let mut command = match self.kind {
            Kind::Leveret => {
                let mut command = match self.memory_max {
                    None => Command::new(&self.path),
                    Some(bytes) => {
                        // util-linux; it becomes the program.
                        let mut command = Command::new("prlimit");
                        command.arg(format!("--data={bytes}")).arg(&self.path);
                        let mark = (bytes / 10 * 6).to_string();
                        command.args(["--memory-watermark", &mark]);
                        command
                    }
                };
                command
                    .args(["--amqp-listen", &local(ports.amqp)])
                    .args(["--http-listen", &local(ports.second)])
                    .arg("--data-dir")
                    .arg(dir.join("data"));
                command
            }
            Kind::Relay => {
                let mut command = Command::new(&self.path);
                command.args(["--listen", &local(ports.amqp)]);
                command
            }
            Kind::RabbitMq => rabbitmq(&self.path, dir, ports)?,
        };
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share a log file")?)
            .stderr(log)
            .spawn()
            .context(format!("start {}", self.path.display()))
    }
}

impl Running {
    pub fn watched(&self) -> Watched {
        let metrics = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.second));
        Watched {
            pid: Some(self.child.id()),
            metrics: (self.broker.kind == Kind::Leveret).then_some(metrics),
        }
    }

    /// Asks it to end and starts it again with the same data. Answers how long it took from there
    /// until somebody could log in.
    ///
    /// # Errors
    /// When it does not end by itself, or does not come back; with what it printed.
    pub fn restart(&mut self) -> Result<Duration> {
        if !self.stop() {
            return Err(self.failed("had to be killed"));
        }
        let since = Instant::now();
        self.child = self.broker.spawn(self.dir.path(), self.ports)?;
        self.wait_until_ready()?;
        Ok(since.elapsed())
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
        let name = self.broker.kind.name();
        Error::Setup(format!("{name} {how}; it printed:\n{}", output.trim_end()))
    }

    /// Asks all processes of the server to end, and kills what has not after a while. Only what we
    /// started: the tree below our child. Answers whether asking was enough.
    fn stop(&mut self) -> bool {
        let tree = process::tree(self.child.id());
        signal(&tree, Signal::TERM);
        let since = Instant::now();
        while since.elapsed() < STOP_TIMEOUT {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            thread::sleep(LOOK_EVERY);
        }
        signal(&process::tree(self.child.id()), Signal::KILL);
        let _ = self.child.wait();
        false
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        if self.broker.kind == Kind::RabbitMq {
            // The Erlang port mapper outlives its nodes; ours serves this one alone.
            let kill = Command::new("epmd")
                .args(["-port", &self.ports.epmd.to_string(), "-kill"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            drop(kill);
        }
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
fn rabbitmq(home: &Path, dir: &Path, ports: Ports) -> Result<Command> {
    let port = ports.amqp;
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
        .env("ERL_EPMD_PORT", ports.epmd.to_string())
        .env("RABBITMQ_HOME", home)
        .env("RABBITMQ_NODENAME", format!("perf{port}@localhost"))
        .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODE_PORT", port.to_string())
        .env("RABBITMQ_DIST_PORT", ports.second.to_string())
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

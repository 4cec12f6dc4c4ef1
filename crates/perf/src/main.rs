//! `leveret-perf`: the load generator as a program. See `docs/benchmarking.md`.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::{Args, Parser, Subcommand};
use leveret_perf::{
    Error, Result, backlog,
    bench::{self, Plan},
    broker::{self, Broker, Kind},
    disk::Disk,
    error::Context as _,
    fill_drain::FillDrain,
    lateness::MINUTE,
    measure::Timing,
    process::Watched,
    receiver::Acks,
    scenario::{Scale, Scenario, Server},
    storage::Storage,
    url::Url,
};
use serde_json::json;

/// Longer than any broker pauses that still does its work.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a slow broker may take to deliver what was sent before the end. In a broker that keeps
/// up this is a fraction of a second.
const DRAIN: Duration = Duration::from_secs(3);

/// Before anything counts.
const WARM_UP: Duration = Duration::from_millis(500);

/// Measures AMQP 0-9-1 brokers on this machine.
#[derive(Parser)]
#[command(name = "leveret-perf", version)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts Leveret, the relay and RabbitMQ, runs all scenarios on each in turn, and compares.
    Bench(Bench),
    /// Runs one scenario once on a broker that is running already.
    Run(Run),
    /// Fills and drains a queue that is much larger than the memory its broker may have.
    Backlog(Backlog),
    /// Lists the scenarios.
    List,
}

#[derive(Args)]
struct Bench {
    /// The broker's program [default: beside this one].
    #[arg(long, value_name = "PATH")]
    leveret: Option<PathBuf>,
    /// The relay's program [default: beside this one].
    #[arg(long, value_name = "PATH")]
    relay: Option<PathBuf>,
    /// Home of a RabbitMQ (with `sbin/` in it), `auto` for Debian's if there is one, or `off`.
    #[arg(long, value_name = "DIR", default_value = "auto")]
    rabbitmq: String,
    /// Only these scenarios, with commas between.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// Runs of each scenario on each broker that a target is about; their median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    runs: u32,
    /// Where to write all figures as JSON [default: perf.json in the directory of the programs].
    #[arg(long, value_name = "PATH")]
    json: Option<PathBuf>,
    /// Where the brokers put their data, on a disk; it is removed in the end [default: the directory
    /// for temporary files, or that of the programs if the former is in memory].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    effort: Effort,
}

#[derive(Args)]
struct Run {
    /// See `leveret-perf list`.
    scenario: String,
    /// The broker, on this machine.
    #[arg(long, default_value = "amqp://guest:guest@127.0.0.1:5672/")]
    url: String,
    /// The broker's process, to read its CPU time and memory.
    #[arg(long)]
    pid: Option<u32>,
    /// Where the broker shows its counters over HTTP, such as 127.0.0.1:15672.
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
    /// Kind of queues and messages: memory, disk or quorum [default: what the scenario is about].
    #[arg(long, value_name = "KIND", value_parser = storage)]
    storage: Option<Storage>,
    #[command(flatten)]
    effort: Effort,
}

#[derive(Args)]
struct Backlog {
    /// The broker's program [default: beside this one].
    #[arg(long, value_name = "PATH")]
    leveret: Option<PathBuf>,
    /// Messages; fewer if the disk or the time is too short.
    #[arg(long, default_value_t = 2_000_000)]
    count: u64,
    /// Octets of each body.
    #[arg(long, default_value_t = 1_024)]
    size: usize,
    /// Kind of queue and messages: memory or disk.
    #[arg(long, value_name = "KIND", value_parser = storage, default_value = "memory")]
    storage: Storage,
    /// MiB of data memory that the broker may have (RLIMIT_DATA); 0 for no limit.
    #[arg(long, default_value_t = 512)]
    memory: u64,
    /// Seconds after which filling, or draining, is given up.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// As for `bench`.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Args)]
struct Effort {
    /// Seconds that each run measures.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Seconds over which messages are due that are due within a minute; there are as many a second
    /// [default: 60].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    minute: Option<u64>,
    /// A tenth of the connections and messages, short and single runs: to see that all works. The
    /// figures mean little.
    #[arg(long)]
    quick: bool,
}

impl Effort {
    fn scale(&self) -> Scale {
        let (warm_up, measured, divide_by) = if self.quick {
            (Duration::from_millis(300), Duration::from_secs(1), 10)
        } else {
            (WARM_UP, Duration::from_secs(self.seconds), 1)
        };
        let minute = self.minute.map_or(MINUTE / divide_by, Duration::from_secs);
        Scale {
            timing: Timing {
                warm_up,
                measured,
                drain: DRAIN,
                patience: PATIENCE,
            },
            divide_by,
            minute,
        }
    }
}

fn main() -> ExitCode {
    let done = match Options::parse().command {
        Command::Bench(options) => run_bench(&options),
        Command::Run(options) => run_one(&options).map(|()| true),
        Command::Backlog(options) => run_backlog(&options).map(|()| true),
        Command::List => {
            for scenario in Scenario::all() {
                println!("{:<20} {}", scenario.name, scenario.about);
            }
            Ok(true)
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("leveret-perf: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Answers whether all runs went well.
fn run_bench(options: &Bench) -> Result<bool> {
    let disk = Disk::choose(options.data_dir.as_deref())?;
    println!("{disk}\n");
    let plan = Plan {
        brokers: brokers(options)?,
        scenarios: scenarios(&options.only)?,
        runs: if options.effort.quick {
            1
        } else {
            options.runs
        },
        scale: options.effort.scale(),
        data_dir: disk.path.clone(),
    };
    let report = bench::run(&plan)?;
    println!("{:=<80}\n\n{disk}\n\n{}", "", report.table());

    let path = options.json.clone().unwrap_or_else(default_json);
    let mut json = report.json();
    json["unix_time"] = json!(unix_time());
    json["cores"] = json!(std::thread::available_parallelism().map_or(0, usize::from));
    json["disk"] = disk.json();
    json["runs"] = json!(plan.runs);
    json["seconds"] = json!(plan.scale.timing.measured.as_secs_f64());
    json["quick"] = json!(options.effort.quick);
    fs::write(&path, format!("{json:#}\n")).context(format!("write {}", path.display()))?;
    println!("all figures: {}", path.display());
    Ok(!report.has_errors())
}

fn run_one(options: &Run) -> Result<()> {
    let scenario = find(&options.scenario)?;
    let mut server = Server {
        url: Url::parse(&options.url)?,
        watched: Watched {
            pid: options.pid,
            metrics: options.metrics,
        },
        running: None,
    };
    let storage = options.storage.unwrap_or_else(|| scenario.storage());
    let measures = scenario.run(&mut server, storage, options.effort.scale())?;
    println!("{}: {}", scenario.name, scenario.about);
    for (metric, value) in measures.iter() {
        println!("  {:<9} {:>9}", metric.heading(), metric.format(value));
    }
    Ok(())
}

fn run_backlog(options: &Backlog) -> Result<()> {
    let path = options.leveret.clone();
    let path = path.or_else(|| broker::beside_us("leveret"));
    let broker = Broker {
        kind: Kind::Leveret,
        path: path.ok_or_else(|| Error::Setup("leveret is not built".into()))?,
        memory_max: (options.memory > 0).then_some(options.memory << 20),
    };
    let plan = FillDrain {
        count: options.count,
        body_size: options.size,
        confirm_window: 10_000,
        delay_ms: None,
        acks: Acks::Manual { prefetch: 1_000 },
    };
    let disk = Disk::choose(options.data_dir.as_deref())?;
    let longest = Duration::from_secs(options.seconds);
    backlog::run(&broker, &disk.path, plan, options.storage, longest)
}

fn brokers(options: &Bench) -> Result<Vec<Broker>> {
    let mut brokers = Vec::new();
    for (kind, given, name) in [
        (Kind::Leveret, &options.leveret, "leveret"),
        (Kind::Relay, &options.relay, "relay"),
    ] {
        let path = given.clone().or_else(|| broker::beside_us(name));
        match path {
            Some(path) if path.is_file() => brokers.push(Broker {
                kind,
                path,
                memory_max: None,
            }),
            Some(path) => return Err(Error::Setup(format!("no program {}", path.display()))),
            None => eprintln!("{name} is not built, so it takes no part"),
        }
    }
    match &*options.rabbitmq {
        "off" => {}
        "auto" => match Broker::find_rabbitmq() {
            Some(rabbitmq) => brokers.push(rabbitmq),
            None => eprintln!("no RabbitMQ installed, so it takes no part"),
        },
        home => brokers.push(Broker {
            kind: Kind::RabbitMq,
            path: Path::new(home).to_owned(),
            memory_max: None,
        }),
    }
    Ok(brokers)
}

fn scenarios(only: &[String]) -> Result<Vec<&'static Scenario>> {
    if only.is_empty() {
        return Ok(Scenario::all().collect());
    }
    only.iter().map(|name| find(name)).collect()
}

fn find(name: &str) -> Result<&'static Scenario> {
    Scenario::find(name)
        .ok_or_else(|| Error::Setup(format!("no scenario {name:?}: see `leveret-perf list`")))
}

fn storage(name: &str) -> Result<Storage, String> {
    Storage::find(name).ok_or_else(|| "none of memory, disk and quorum".into())
}

fn default_json() -> PathBuf {
    let program = env::current_exe().unwrap_or_default();
    program.with_file_name("perf.json")
}

fn unix_time() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

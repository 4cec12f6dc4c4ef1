//! CPU time and memory of processes, from `/proc` (see proc(5)); and our own limits.

use std::{collections::BTreeMap, fs, net::SocketAddr, time::Duration};

use rustix::{
    param::clock_ticks_per_second,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use crate::{Error, Result, error::Context as _, metrics};

/// Leveret's count of `fdatasync` calls on its log.
const LOG_SYNCS: &str = "leveret_log_syncs_total";

/// And of its schedules.
const SCHEDULES: &str = "leveret_schedules";

/// A server under measurement, seen from outside.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watched {
    /// Its process, which stands for all descendants too, since some start through scripts and keep
    /// helpers. `None`: not of this machine, or unknown; nothing is read then.
    pub pid: Option<u32>,
    /// Where it shows its counters, if it does.
    pub metrics: Option<SocketAddr>,
}

impl Watched {
    /// CPU time spent so far, in user and kernel mode.
    pub fn cpu(self) -> Option<Duration> {
        let (stats, tree) = self.tree()?;
        Some(tree.iter().map(|pid| stats[pid].cpu()).sum())
    }

    /// Resident memory, in bytes. Pages shared between processes of the tree count for each.
    pub fn rss(self) -> Option<u64> {
        let (_stats, tree) = self.tree()?;
        Some(tree.iter().filter_map(|&pid| rss(pid)).sum())
    }

    /// Bytes given to the disk so far: whole pages, as the kernel counts them when they are written
    /// to. Nothing is counted for a file system in memory.
    pub fn written(self) -> Option<u64> {
        let (_stats, tree) = self.tree()?;
        let written = tree.iter().filter_map(|pid| {
            let text = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
            field(&text, "write_bytes:")
        });
        Some(written.sum())
    }

    /// Times the server has forced its log to disk so far, if it counts them.
    pub fn log_syncs(self) -> Option<u64> {
        self.counter(LOG_SYNCS)
    }

    /// Schedules that the server has, if it counts them.
    pub fn schedules(self) -> Option<u64> {
        self.counter(SCHEDULES)
    }

    fn counter(self, name: &str) -> Option<u64> {
        metrics::counter(&metrics::fetch(self.metrics?).ok()?, name)
    }

    fn tree(self) -> Option<(BTreeMap<u32, Stat>, Vec<u32>)> {
        let stats = all_stats();
        let tree = descendants(self.pid?, &stats);
        (!tree.is_empty()).then_some((stats, tree))
    }
}

/// The process itself and everything below it.
pub fn tree(pid: u32) -> Vec<u32> {
    descendants(pid, &all_stats())
}

/// CPU time of each of our own threads, by thread id.
pub fn own_threads() -> BTreeMap<u32, Duration> {
    stats_in("/proc/self/task")
        .into_iter()
        .map(|(tid, stat)| (tid, stat.cpu()))
        .collect()
}

/// Makes room for this many open files here and in the servers we start.
///
/// # Errors
/// When the hard limit is lower and may not be raised.
pub fn raise_open_files(wanted: u64) -> Result<()> {
    let now = getrlimit(Resource::Nofile);
    if now.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    let maximum = now.maximum.map(|maximum| maximum.max(wanted));
    let raised = Rlimit {
        current: Some(wanted),
        maximum,
    };
    setrlimit(Resource::Nofile, raised).context(format!(
        "raise the limit of open files to {wanted} (ulimit -Hn shows the most allowed)"
    ))
}

/// What we need of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stat {
    parent: u32,
    /// utime + stime, in clock ticks.
    ticks: u64,
}

impl Stat {
    fn cpu(self) -> Duration {
        Duration::from_secs_f64(self.ticks as f64 / clock_ticks_per_second() as f64)
    }

    fn parse(text: &str) -> Option<Self> {
        // The name may hold spaces and parentheses, so count from the last one.
        let (_, rest) = text.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let parent = fields.nth(1)?.parse().ok()?;
        let utime: u64 = fields.nth(9)?.parse().ok()?;
        let stime: u64 = fields.next()?.parse().ok()?;
        Some(Self {
            parent,
            ticks: utime + stime,
        })
    }
}

fn all_stats() -> BTreeMap<u32, Stat> {
    stats_in("/proc")
}

fn stats_in(dir: &str) -> BTreeMap<u32, Stat> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let stats = entries.filter_map(|entry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        let text = fs::read_to_string(entry.path().join("stat")).ok()?; // gone in between: fine
        Some((id, Stat::parse(&text)?))
    });
    stats.collect()
}

fn descendants(root: u32, stats: &BTreeMap<u32, Stat>) -> Vec<u32> {
    let mut found: Vec<u32> = stats
        .contains_key(&root)
        .then_some(root)
        .into_iter()
        .collect();
    let mut at = 0;
    while let Some(&parent) = found.get(at) {
        let children = stats.iter().filter(|(_, stat)| stat.parent == parent);
        found.extend(children.map(|(&pid, _)| pid));
        at += 1;
    }
    found
}

/// The most it ever had resident, in bytes.
pub fn peak_rss(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    kib_field(&text, "VmHWM:")
}

/// Exact where the kernel counts on demand (`smaps_rollup`), else its running estimate.
fn rss(pid: u32) -> Option<u64> {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        kib_field(&text, name)
    };
    field("smaps_rollup", "Rss:").or_else(|| field("status", "VmRSS:"))
}

/// The value of a line such as `VmRSS:     1234 kB`, in bytes.
fn kib_field(text: &str, name: &str) -> Option<u64> {
    Some(field(text, name)? * 1_024)
}

/// The number after a name that begins a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_ascii_whitespace().next()?.parse().ok()
}

/// The id of a process as the kernel's interfaces want it.
///
/// # Errors
/// When it cannot be one.
pub fn pid(id: u32) -> Result<rustix::process::Pid> {
    i32::try_from(id)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .ok_or_else(|| Error::Setup(format!("{id} is no process")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines() {
        let line = |name: &str| {
            format!("17 ({name}) S 5 17 17 0 -1 4194304 1 2 3 4 250 50 9 8 20 0 4 0 7 1 2")
        };
        let expected = Some(Stat {
            parent: 5,
            ticks: 300,
        });
        for name in ["relay", "beam.smp", "two words", "a) S 1 (b"] {
            assert_eq!(Stat::parse(&line(name)), expected, "{name}");
        }
        assert_eq!(Stat::parse(""), None);
        assert_eq!(Stat::parse("17 (x) S 5 1"), None, "cut short");
    }

    #[test]
    fn tree_is_all_descendants_and_nobody_else() {
        let stat = |parent| Stat { parent, ticks: 0 };
        let stats = BTreeMap::from([
            (1, stat(0)),
            (10, stat(1)),
            (11, stat(10)),
            (12, stat(10)),
            (13, stat(12)),
            (20, stat(1)),
        ]);
        assert_eq!(descendants(10, &stats), [10, 11, 12, 13]);
        assert_eq!(descendants(20, &stats), [20]);
        assert!(descendants(99, &stats).is_empty(), "gone");
    }

    #[test]
    fn memory_lines() {
        let text = "Name:\tx\nVmRSS:\t    1234 kB\nRssAnon: 9 kB\n";
        assert_eq!(kib_field(text, "VmRSS:"), Some(1_234 * 1_024));
        assert_eq!(kib_field(text, "Rss:"), None);
        let io = "wchar: 9\nwrite_bytes: 8192\ncancelled_write_bytes: 4096\n";
        assert_eq!(field(io, "write_bytes:"), Some(8_192), "not the cancelled");
    }

    #[test]
    fn we_can_read_ourselves() {
        let own = Watched {
            pid: Some(std::process::id()),
            metrics: None,
        };
        assert!(own.rss().unwrap() > 100_000);
        assert!(own.cpu().is_some());
        assert!(!own_threads().is_empty());
        assert!(own.written().is_some());
        assert!(own.log_syncs().is_none(), "no counters to read");
        assert!(Watched::default().cpu().is_none());
    }
}

//! Notices when memory gets short, so that publishers are stopped before the kernel stops us.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::value::Watermark;
use crate::node::Node;

/// How often memory is looked at: a publisher of 1 GB/s adds 250 MB between two looks.
const INTERVAL: Duration = Duration::from_millis(250);

/// An alarm ends this share below the mark where it began, or it would flap.
const HYSTERESIS: f64 = 0.95;

/// Memory of the broker and what it may have, in octets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Memory {
    /// Resident.
    pub used: u64,
    /// Where the alarm begins.
    pub mark: u64,
}

/// Watches memory for ever.
pub async fn watch(node: Arc<Node>) {
    let mark = mark(node.settings.memory_watermark);
    tracing::debug!(mark, "memory watermark in octets");
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut on = false;
    loop {
        interval.tick().await;
        let Some(used) = resident() else { continue };
        let now = judge(on, Memory { used, mark });
        if now != on {
            on = now;
            node.set_memory_alarm(on);
            if on {
                tracing::warn!(
                    used,
                    mark,
                    "memory is short: publishers are not read until it is not"
                );
            } else {
                tracing::info!(
                    used,
                    mark,
                    "memory is no longer short: publishers are read again"
                );
            }
        }
    }
}

/// Hears what the log says of the disk, for ever.
pub async fn watch_disk(node: Arc<Node>) {
    let mut full = false;
    loop {
        if node.log.lost().is_some() {
            node.log_lost.notify_one();
        }
        if node.log.is_full() != full {
            full = !full;
            node.tell_alarms();
            if full {
                tracing::warn!("the disk is nearly full: publishers are not read until it is not");
            } else {
                tracing::info!("there is room on the disk again: publishers are read again");
            }
        }
        node.log.changed().await;
    }
}

/// Should the alarm be on, given whether it is?
#[must_use]
pub fn judge(on: bool, memory: Memory) -> bool {
    let end = (memory.mark as f64 * HYSTERESIS) as u64;
    memory.used > if on { end } else { memory.mark }
}

/// What the process holds in memory, in octets.
#[must_use]
pub fn resident() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Where the alarm begins, in octets.
#[must_use]
pub fn mark(watermark: Watermark) -> u64 {
    match watermark {
        Watermark::Absolute(octets) => octets.0,
        Watermark::Share(share) => (available() as f64 * share) as u64,
    }
}

/// What there is for us: the control group's limit, or the machine's memory.
fn available() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| machine_memory(&text));
    let group = control_group_limit(
        Path::new("/sys/fs/cgroup"),
        &fs::read_to_string("/proc/self/cgroup").unwrap_or_default(),
    );
    machine.into_iter().chain(group).min().unwrap_or(u64::MAX)
}

fn machine_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1_024)
}

/// The smallest limit on the way from our control group to the root, of version 2 or 1.
fn control_group_limit(root: &Path, groups: &str) -> Option<u64> {
    let limits = groups.lines().flat_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (
            fields.next().unwrap_or_default(),
            fields.next().unwrap_or_default(),
        );
        let (base, file) = match controllers {
            "" => (root.to_path_buf(), "memory.max"),
            _ if controllers.split(',').any(|one| one == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => return Vec::new(),
        };
        // In a container the path may be the host's, which is not to be seen from inside: then the
        // group's own directory is the root.
        Path::new(path.trim_start_matches('/'))
            .ancestors()
            .filter_map(|group| read_limit(&base.join(group).join(file)))
            .collect()
    });
    limits.min()
}

fn read_limit(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok() // "max" is no number and no limit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_does_not_flap() {
        #[rustfmt::skip]
        let table = [
            // on     used   expected  why
            (false,   1_000, false,    "at the mark is not above it"),
            (false,   1_001, true,     "above"),
            (true,      999, true,     "a little below is not enough"),
            (true,      951, true,     "still not"),
            (true,      950, false,    "5 % below"),
        ];
        for (on, used, expected, why) in table {
            assert_eq!(
                judge(on, Memory { used, mark: 1_000 }),
                expected,
                "{used}: {why}"
            );
        }
    }

    #[test]
    fn memory_is_found() {
        assert!(resident().unwrap() > 100_000);
        assert!(available() > 1_000_000);
        assert_eq!(
            machine_memory("MemTotal:       24683960 kB\nMemFree: 1 kB\n"),
            Some(24_683_960 * 1_024)
        );
    }

    #[test]
    fn the_tightest_control_group_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("a/b/memory.max", "max\n");
        write("a/memory.max", "2000\n");
        write("memory.max", "3000\n");
        write("memory/memory.limit_in_bytes", "1500\n");
        let limit = |groups: &str| control_group_limit(root.path(), groups);
        assert_eq!(limit("0::/a/b\n"), Some(2_000), "the parent's");
        assert_eq!(
            limit("0::/docker/not-here\n"),
            Some(3_000),
            "a container sees its own as the root"
        );
        assert_eq!(
            limit("5:cpu,cpuacct:/x\n4:memory:/docker/abc\n"),
            Some(1_500),
            "version 1"
        );
        assert_eq!(limit(""), None);
    }
}

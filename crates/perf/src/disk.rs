//! Where servers keep their data for a measurement: a directory on a disk, and what that disk is
//! like. Figures of durable messages mean nothing without it.

use std::{
    env, fmt, fs,
    io::Write,
    path::{Path, PathBuf},
    time::Instant,
};

use rustix::fs::statfs;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Error, Result, error::Context as _, measure::latency_histogram};

/// File systems that keep everything in memory, by their magic numbers (statfs(2)).
const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58f6;

/// Writes that are timed: enough for a median, and less than a second on a slow disk.
const SYNCS: u32 = 100;

/// Written before each sync: a page, as for a batch of small messages.
const WRITE_BYTES: usize = 4_096;

/// A directory on a disk.
#[derive(Clone, Debug)]
pub struct Disk {
    pub path: PathBuf,
    /// Device and type, as the system names them.
    pub mounted: String,
    /// Median time of `fdatasync` after 4 KiB were appended, in microseconds.
    pub sync_p50_micros: f64,
    /// And the shortest. Far below the median where the machine is slow to notice that an idle disk
    /// is done, as virtual ones are: then a busy server syncs faster than this probe.
    pub sync_min_micros: f64,
}

impl Disk {
    /// The directory that was asked for, or else that for temporary files, or else that of this
    /// program: the first that is not in memory. Takes a moment to measure it.
    ///
    /// # Errors
    /// When there is none, or it cannot be written to.
    pub fn choose(asked: Option<&Path>) -> Result<Self> {
        let beside_us = || Some(env::current_exe().ok()?.parent()?.to_owned());
        let candidates = match asked {
            Some(path) => vec![path.to_owned()],
            None => [Some(env::temp_dir()), beside_us()]
                .into_iter()
                .flatten()
                .collect(),
        };
        let on_disk = |path: &PathBuf| statfs(path).is_ok_and(|fs| !in_memory(fs.f_type as u64));
        let path = candidates.iter().find(|path| on_disk(path));
        let path = path
            .ok_or_else(|| Error::Setup(format!("no directory on a disk among {candidates:?}")))?;
        let path = path
            .canonicalize()
            .context(format!("find {}", path.display()))?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let (sync_p50_micros, sync_min_micros) = sync_micros(&path)?;
        Ok(Self {
            mounted: mounted(&mounts, &path).unwrap_or_else(|| "unknown".into()),
            sync_p50_micros,
            sync_min_micros,
            path,
        })
    }

    pub fn json(&self) -> Value {
        json!({
            "path": self.path,
            "mounted": self.mounted,
            "fdatasync_p50_us": self.sync_p50_micros,
            "fdatasync_min_us": self.sync_min_micros,
        })
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "data in {} ({}), fdatasync after 4 KiB takes {:.0} us (median; at best {:.0})",
            self.path.display(),
            self.mounted,
            self.sync_p50_micros,
            self.sync_min_micros
        )
    }
}

fn in_memory(magic: u64) -> bool {
    [TMPFS, RAMFS].contains(&magic)
}

/// Device and type of the file system that a path is in, from `/proc/self/mountinfo` (proc(5)).
fn mounted(mounts: &str, path: &Path) -> Option<String> {
    let lines = mounts.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let point = left.split(' ').nth(4)?;
        let mut right = right.split(' ');
        let (kind, device) = (right.next()?, right.next()?);
        path.starts_with(point)
            .then(|| (point.len(), format!("{device}, {kind}")))
    });
    // The innermost; of two at the same place the later one hides the other.
    lines.max_by_key(|(len, _)| *len).map(|(_, name)| name)
}

/// Median and minimum.
fn sync_micros(parent: &Path) -> Result<(f64, f64)> {
    let dir = TempDir::with_prefix_in("leveret-perf-", parent).context("create a directory")?;
    let mut file = fs::File::create(dir.path().join("probe")).context("create a file")?;
    let mut nanos = latency_histogram();
    for _ in 0..SYNCS {
        file.write_all(&[b'.'; WRITE_BYTES])
            .context("write a page")?;
        let since = Instant::now();
        file.sync_data().context("sync a page")?;
        let taken = since.elapsed().as_nanos();
        nanos.saturating_record(u64::try_from(taken).unwrap_or(u64::MAX));
    }
    let micros = |nanos: u64| nanos as f64 / 1e3;
    Ok((micros(nanos.value_at_quantile(0.5)), micros(nanos.min())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_counts() {
        let mounts = "21 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
                      30 21 0:5 / /dev/shm rw shared:3 - tmpfs tmpfs rw\n\
                      31 21 254:1 / /data rw - xfs /dev/vdb rw\n";
        #[rustfmt::skip]
        let table = [
            ("/tmp/x",     Some("/dev/vda, ext4"), "only the root"),
            ("/data/x",    Some("/dev/vdb, xfs"),  "a disk of its own"),
            ("/data",      Some("/dev/vdb, xfs"),  "the place itself"),
            ("/database",  Some("/dev/vda, ext4"), "whole names only"),
            ("/dev/shm/x", Some("tmpfs, tmpfs"),   "memory"),
        ];
        for (path, expected, why) in table {
            let got = mounted(mounts, Path::new(path));
            assert_eq!(got.as_deref(), expected, "{why}");
        }
        assert_eq!(mounted("", Path::new("/")), None);
    }

    #[test]
    fn memory_is_no_disk() {
        assert!(in_memory(TMPFS) && in_memory(RAMFS));
        assert!(!in_memory(0xef53), "ext4");
    }
}

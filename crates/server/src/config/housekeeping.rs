//! What is to be done by the clock, as the configuration file gives it.
//!
//! ```toml
//! [housekeeping]
//! compaction_window = { cron = "CRON_TZ=Europe/Berlin 0 2 * * *", minutes = 90 }
//! definitions_backup = { cron = "CRON_TZ=Europe/Berlin 30 3 * * *", path = "backup", keep = 7 }
//! ```

use std::path::{Path, PathBuf};

use leveret_core::Wall;
use leveret_scheduler::cron::{Cron, Dialect, Dst, Expression};
use leveret_scheduler::zone::Zone;
use serde::Deserialize;

use crate::error::StartError;

/// Files that are kept if the configuration does not say how many.
const KEEP: usize = 7;

/// Most files that are kept.
const KEEP_MAX: usize = 10_000;

/// Longest window, in minutes: a day.
const WINDOW_MAX: u64 = 24 * 60;

const MINUTE_MS: u64 = 60_000;

/// What is to be done when; checked.
#[derive(Clone, Debug, Default)]
pub struct Housekeeping {
    /// The log is compacted more than it has to be.
    pub compaction_window: Option<Window>,
    /// Definitions are written to files.
    pub definitions_backup: Option<DefinitionsBackup>,
}

/// Times that begin by the clock and last for a while.
#[derive(Clone, Debug)]
pub struct Window {
    /// When they begin.
    pub cron: Cron,
    /// How long each is, in minutes; from 1 to a day.
    pub minutes: u64,
}

impl Window {
    /// Whether it is such a time.
    #[must_use]
    pub fn is_open(&self, now: Wall) -> bool {
        let before = Wall(now.0.saturating_sub(self.minutes * MINUTE_MS));
        self.cron
            .next_after(before)
            .is_some_and(|begin| begin <= now)
    }
}

/// Definitions are written to files.
#[derive(Clone, Debug)]
pub struct DefinitionsBackup {
    /// When.
    pub cron: Cron,
    /// The directory; made if missing.
    pub path: PathBuf,
    /// Files that are kept, the newest; at least one.
    pub keep: usize,
}

/// The table as it stands in the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    compaction_window: Option<WindowTable>,
    definitions_backup: Option<BackupTable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WindowTable {
    cron: String,
    minutes: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BackupTable {
    cron: String,
    path: PathBuf,
    keep: Option<usize>,
}

impl Housekeeping {
    /// Paths are relative to `base`.
    pub(super) fn new(table: Table, base: &Path) -> Result<Self, StartError> {
        let backup = table.definitions_backup;
        let definitions_backup = backup.map(|table| backup_of(table, base)).transpose();
        let complain = |reason| {
            StartError::new(format!(
                "[housekeeping] definitions_backup: {reason}; an example: \
                 {{ cron = \"30 3 * * *\", path = \"backup\", keep = 7 }}"
            ))
        };
        let window = table.compaction_window.map(window_of).transpose();
        let complain_of_window = |reason| {
            StartError::new(format!(
                "[housekeeping] compaction_window: {reason}; an example: \
                 {{ cron = \"0 2 * * *\", minutes = 90 }}"
            ))
        };
        Ok(Self {
            compaction_window: window.map_err(complain_of_window)?,
            definitions_backup: definitions_backup.map_err(complain)?,
        })
    }
}

fn times_of(cron: &str) -> Result<Cron, String> {
    match Cron::parse(cron, Dialect::Robfig, Zone::UTC, Dst::default()) {
        Ok(Expression::Cron(cron)) => Ok(cron),
        Ok(_) => Err(format!("cron '{cron}' gives no times of day")),
        Err(error) => Err(format!("cron '{cron}': {error}")),
    }
}

fn window_of(table: WindowTable) -> Result<Window, String> {
    let minutes = table.minutes;
    if !(1..=WINDOW_MAX).contains(&minutes) {
        return Err(format!("minutes {minutes} is not within 1 to {WINDOW_MAX}"));
    }
    let cron = times_of(&table.cron)?;
    Ok(Window { cron, minutes })
}

fn backup_of(table: BackupTable, base: &Path) -> Result<DefinitionsBackup, String> {
    let BackupTable { cron, path, keep } = table;
    let cron = times_of(&cron)?;
    if path.as_os_str().is_empty() {
        return Err("path is empty".to_owned());
    }
    let keep = keep.unwrap_or(KEEP);
    if !(1..=KEEP_MAX).contains(&keep) {
        return Err(format!("keep {keep} is not within 1 to {KEEP_MAX}"));
    }
    Ok(DefinitionsBackup {
        cron,
        path: base.join(path),
        keep,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Housekeeping, String> {
        let table = toml::from_str(text).map_err(|e| e.message().to_owned())?;
        Housekeeping::new(table, Path::new("/etc/leveret")).map_err(|e| e.to_string())
    }

    #[test]
    fn a_backup_is_read() {
        let text = r#"definitions_backup = { cron = "30 3 * * *", path = "backup", keep = 2 }"#;
        let backup = read(text).unwrap().definitions_backup.unwrap();
        assert_eq!(backup.path, Path::new("/etc/leveret/backup"));
        assert_eq!(backup.keep, 2);
        let text = r#"definitions_backup = { cron = "@daily", path = "/var/backup" }"#;
        let backup = read(text).unwrap().definitions_backup.unwrap();
        assert_eq!((backup.path, backup.keep), ("/var/backup".into(), KEEP));
        assert!(read("").unwrap().definitions_backup.is_none());
    }

    #[test]
    fn a_window_is_open_from_its_time_on() {
        let text =
            r#"compaction_window = { cron = "CRON_TZ=Europe/Berlin 0 2 * * *", minutes = 90 }"#;
        let window = read(text).unwrap().compaction_window.unwrap();
        #[rustfmt::skip]
        let table = [
            ("2026-11-21T00:59:59.999Z", false),
            ("2026-11-21T01:00:00Z",     true),
            ("2026-11-21T02:29:59.999Z", true),
            ("2026-11-21T02:30:00Z",     false),
            ("2026-07-21T00:00:00Z",     true), // in summer
        ];
        for (now, expected) in table {
            let now = leveret_scheduler::time::parse(now).unwrap();
            assert_eq!(window.is_open(now), expected, "{now:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        #[rustfmt::skip]
        let table = [
            (r#"definitions_backup = { cron = "61 * * * *", path = "b" }"#,        "cron '61 * * * *': minute 61 is not within 0-59"),
            (r#"definitions_backup = { cron = "@reboot", path = "b" }"#,           "cron '@reboot' gives no times of day"),
            (r#"definitions_backup = { cron = "@daily", path = "" }"#,             "path is empty"),
            (r#"definitions_backup = { cron = "@daily", path = "b", keep = 0 }"#,  "keep 0 is not within 1 to 10000"),
            (r#"compaction_window = { cron = "0 2 * *", minutes = 90 }"#,          "compaction_window: cron '0 2 * *': "),
            (r#"compaction_window = { cron = "0 2 * * *", minutes = 0 }"#,         "minutes 0 is not within 1 to 1440; an example: { cron = "),
            (r#"compaction_window = { cron = "0 2 * * *", minutes = 1441 }"#,      "minutes 1441 is not within 1 to 1440"),
            (r#"compaction_window = { cron = "0 2 * * *" }"#,                      "missing field `minutes`"),
            (r#"definitions_backup = { path = "b" }"#,                             "missing field `cron`"),
            (r#"definitions_backup = { cron = "@daily", path = "b", kep = 1 }"#,   "unknown field `kep`"),
            (r#"definitions-backup = { cron = "@daily", path = "b" }"#,            "unknown field `definitions-backup`"),
        ];
        for (text, expected) in table {
            let error = read(text).map(|_| ()).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}

//! What is to be done by the clock, as the configuration file gives it.
//!
//! ```toml
//! [housekeeping]
//! definitions_backup = { cron = "CRON_TZ=Europe/Berlin 30 3 * * *", path = "backup", keep = 7 }
//! ```

use std::path::{Path, PathBuf};

use leveret_scheduler::cron::{Cron, Dialect, Dst, Expression};
use leveret_scheduler::zone::Zone;
use serde::Deserialize;

use crate::error::StartError;

/// Files that are kept if the configuration does not say how many.
const KEEP: usize = 7;

/// Most files that are kept.
const KEEP_MAX: usize = 10_000;

/// What is to be done when; checked.
#[derive(Clone, Debug, Default)]
pub struct Housekeeping {
    /// Definitions are written to files.
    pub definitions_backup: Option<DefinitionsBackup>,
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
    definitions_backup: Option<BackupTable>,
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
        Ok(Self {
            definitions_backup: definitions_backup.map_err(complain)?,
        })
    }
}

fn backup_of(table: BackupTable, base: &Path) -> Result<DefinitionsBackup, String> {
    let BackupTable { cron, path, keep } = table;
    let parsed = Cron::parse(&cron, Dialect::Robfig, Zone::UTC, Dst::default());
    let cron = match parsed {
        Ok(Expression::Cron(cron)) => cron,
        Ok(_) => return Err(format!("cron '{cron}' gives no times of day")),
        Err(error) => return Err(format!("cron '{cron}': {error}")),
    };
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
    fn what_is_wrong_is_said() {
        #[rustfmt::skip]
        let table = [
            (r#"definitions_backup = { cron = "61 * * * *", path = "b" }"#,        "cron '61 * * * *': minute 61 is not within 0-59"),
            (r#"definitions_backup = { cron = "@reboot", path = "b" }"#,           "cron '@reboot' gives no times of day"),
            (r#"definitions_backup = { cron = "@daily", path = "" }"#,             "path is empty"),
            (r#"definitions_backup = { cron = "@daily", path = "b", keep = 0 }"#,  "keep 0 is not within 1 to 10000"),
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

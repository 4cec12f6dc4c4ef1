//! Definitions, written to files by the clock.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use leveret_core::Wall;
use leveret_scheduler::time;
use tokio::task::JoinHandle;

use crate::config::housekeeping::DefinitionsBackup;
use crate::definitions;
use crate::node::Node;

const PREFIX: &str = "definitions-";
const SUFFIX: &str = ".json";

/// What a file is called at the end that is not there as a whole.
const UNFINISHED: &str = ".unfinished";

/// What became of backups.
#[derive(Debug, Default)]
pub struct Counts {
    /// Files written.
    pub written: AtomicU64,
    /// Attempts that failed.
    pub failed: AtomicU64,
}

/// Writes them, one after the other.
#[derive(Debug)]
pub struct Backup {
    plan: DefinitionsBackup,
    /// What was due up to here has been seen to.
    done: Wall,
    running: Option<JoinHandle<()>>,
}

impl Backup {
    /// What is due after `now` will be done.
    #[must_use]
    pub const fn new(plan: DefinitionsBackup, now: Wall) -> Self {
        Self {
            plan,
            done: now,
            running: None,
        }
    }

    /// Begins to write if it is time for that; may be asked at any time, and as often.
    pub fn look(&mut self, now: Wall, node: &Arc<Node>) {
        if !self.is_due(now) {
            return;
        }
        let (plan, node) = (self.plan.clone(), Arc::clone(node));
        self.running = Some(tokio::task::spawn_blocking(move || {
            back_up(&plan, now, &node);
        }));
    }

    fn is_due(&mut self, now: Wall) -> bool {
        self.done = self.done.min(now); // the clock may have been put back
        let next = self.plan.cron.next_after(self.done);
        let running = self.running.as_ref();
        if next.is_none_or(|next| next > now) || running.is_some_and(|task| !task.is_finished()) {
            return false;
        }
        self.done = now;
        true
    }
}

fn back_up(plan: &DefinitionsBackup, now: Wall, node: &Node) {
    let text = format!("{:#}\n", definitions::export(node));
    let directory = plan.path.display();
    match write(&plan.path, now, text.as_bytes(), plan.keep) {
        Ok(file) => {
            node.backups.written.fetch_add(1, Ordering::Relaxed);
            tracing::info!(file = %file.display(), "definitions were backed up");
        }
        Err(error) => {
            node.backups.failed.fetch_add(1, Ordering::Relaxed);
            tracing::error!(%directory, %error, "definitions could not be backed up");
        }
    }
}

/// Writes a file that is there as a whole or not at all, then removes the oldest of more than
/// `keep`. Returns its path.
///
/// # Errors
/// Whatever the system says.
pub fn write(directory: &Path, now: Wall, octets: &[u8], keep: usize) -> io::Result<PathBuf> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let name = format!("{PREFIX}{}{SUFFIX}", time::text(now).replace(':', "-"));
    let unfinished = directory.join(format!(".{name}{UNFINISHED}"));
    let path = directory.join(&name);
    let written = fill(&unfinished, octets).and_then(|()| fs::rename(&unfinished, &path));
    if let Err(error) = written {
        let _ = fs::remove_file(&unfinished); // the error that counts is the other one
        return Err(error);
    }
    File::open(directory)?.sync_all()?;
    let mut others = Vec::new();
    for entry in fs::read_dir(directory)? {
        let other = entry?.file_name().into_string().unwrap_or_default();
        if other.starts_with(PREFIX) && other.ends_with(SUFFIX) && other != name {
            others.push(other);
        } else if other.starts_with(&format!(".{PREFIX}")) && other.ends_with(UNFINISHED) {
            fs::remove_file(directory.join(other))?; // of a process that was killed
        }
    }
    // The new one stays whatever its name says: others may come from a clock that was ahead.
    others.sort_unstable();
    for other in others.iter().take((others.len() + 1).saturating_sub(keep)) {
        fs::remove_file(directory.join(other))?;
    }
    Ok(path)
}

fn fill(path: &Path, octets: &[u8]) -> io::Result<()> {
    let _ = fs::remove_file(path); // of an attempt that was cut short
    // Hashes of passwords are in it.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(octets)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use leveret_scheduler::cron::{Cron, Dialect, Dst, Expression};
    use leveret_scheduler::zone::Zone;

    use super::*;

    fn at(text: &str) -> Wall {
        time::parse(text).unwrap()
    }

    #[test]
    fn files_are_whole_private_and_few() {
        let above = tempfile::tempdir().unwrap();
        let directory = above.path().join("a/b");
        fs::create_dir_all(&directory).unwrap();
        let other = directory.join("other.json");
        fs::write(&other, "not ours").unwrap();
        for day in 1..=5 {
            let now = at(&format!("2026-11-0{day}T03:30:00Z"));
            let path = write(&directory, now, format!("day {day}").as_bytes(), 2).unwrap();
            assert_eq!(fs::read(&path).unwrap(), format!("day {day}").as_bytes());
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let mut names: Vec<_> = fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let expected = [
            "definitions-2026-11-04T03-30-00.000Z.json",
            "definitions-2026-11-05T03-30-00.000Z.json",
            "other.json",
        ];
        assert_eq!(names, expected);
    }

    /// Once each new file sorted before those of a clock that had been ahead, and went at once.
    #[test]
    fn the_new_one_stays_and_what_a_killed_process_has_left_goes() {
        let directory = tempfile::tempdir().unwrap();
        for year in [2036, 2037] {
            let ahead = at(&format!("{year}-01-01T03:30:00Z"));
            write(directory.path(), ahead, b"ahead", 2).unwrap();
        }
        let left = ".definitions-2026-11-02T03-30-00.000Z.json.unfinished";
        fs::write(directory.path().join(left), "hal").unwrap();
        let path = write(directory.path(), at("2026-11-03T03:30:00Z"), b"new", 2).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        let left = fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(left, 2, "the new one and one of the others");
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing_behind() {
        let above = tempfile::tempdir().unwrap();
        let now = at("2026-11-01T03:30:00Z");
        let file = above.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(write(&file, now, b"x", 1).is_err(), "no directory");
        // The name is taken by a directory, which no file takes the place of.
        let taken = "definitions-2026-11-01T03-30-00.000Z.json";
        fs::create_dir_all(above.path().join(taken).join("full")).unwrap();
        assert!(write(above.path(), now, b"x", 1).is_err());
        let left = fs::read_dir(above.path()).unwrap().count();
        assert_eq!(left, 2, "the file and the directory of before");
    }

    #[test]
    fn it_is_due_once_whatever_is_asked_when() {
        let Ok(Expression::Cron(cron)) =
            Cron::parse("30 3 * * *", Dialect::Robfig, Zone::UTC, Dst::default())
        else {
            panic!("a good expression");
        };
        let plan = DefinitionsBackup {
            cron,
            path: PathBuf::new(),
            keep: 1,
        };
        let mut backup = Backup::new(plan, at("2026-11-01T03:29:00Z"));
        #[rustfmt::skip]
        let table = [
            ("2026-11-01T03:29:59Z", false),
            ("2026-11-01T03:30:00Z", true),
            ("2026-11-01T03:30:00Z", false),
            ("2026-11-02T03:29:59Z", false),
            ("2026-11-04T12:00:00Z", true),  // late, and once for all that was missed
            ("2026-11-05T03:29:59Z", false),
            ("2026-10-01T03:00:00Z", false), // the clock was put back
            ("2026-10-01T03:30:00Z", true),
        ];
        for (now, expected) in table {
            assert_eq!(backup.is_due(at(now)), expected, "{now}");
        }
    }
}

//! `leveret store`: for people who stand before a damaged log, or want to know whether it is.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use leveret_store::{FileDisk, Findings, Salvaged, StoreError, check, salvage};

use crate::data_dir::DataDir;
use crate::error::StartError;
use crate::journal::{self, EXIT_CORRUPT};

/// What to do with the log of a data directory that no broker is using.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StoreTask {
    /// Read all of it and say what is there and what is wrong.
    Check {
        /// The data directory.
        dir: PathBuf,
    },
    /// Write what is sound into another data directory.
    Salvage {
        /// The data directory that is damaged.
        from: PathBuf,
        /// A data directory without a log; made if missing.
        to: PathBuf,
    },
}

/// What there is to tell.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Told {
    /// For standard output, a line each.
    pub text: String,
    /// 0, or [`EXIT_CORRUPT`] if something is damaged or lost.
    pub code: u8,
}

/// Does it.
///
/// # Errors
/// [`StartError`] with exit code 2 if there is no log, if a broker is using it, if it is of another
/// version, or if it cannot be read or written.
pub fn run(task: &StoreTask) -> Result<Told, StartError> {
    match task {
        StoreTask::Check { dir } => {
            let (_ours, folder) = log_of(dir)?;
            let findings = check(&FileDisk::new(&folder)).map_err(|e| unusable(&folder, &e))?;
            Ok(tell_findings(&findings))
        }
        StoreTask::Salvage { from, to } => {
            let (_ours, folder) = log_of(from)?;
            let (_new, target) = new_log(to)?;
            let options = journal::options(&target);
            let salvaged = salvage(&FileDisk::new(&folder), FileDisk::new(&target), options)
                .map_err(|e| unusable(&folder, &e))?;
            Ok(tell_salvaged(&salvaged, to))
        }
    }
}

/// The log of a data directory that is ours from here on.
fn log_of(dir: &Path) -> Result<(DataDir, PathBuf), StartError> {
    let folder = journal::folder(dir);
    // Looked at first: taking a directory makes it.
    if !folder.is_dir() {
        let line = format!("there is no log in {}", dir.display());
        return Err(StartError::new(line));
    }
    Ok((DataDir::take(dir)?, folder))
}

/// A folder for a log, in a data directory that has none.
fn new_log(dir: &Path) -> Result<(DataDir, PathBuf), StartError> {
    let folder = journal::folder(dir);
    if fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some()) {
        let line = format!("there is a log in {} already", dir.display());
        return Err(StartError::new(line));
    }
    let ours = DataDir::take(dir)?;
    journal::make_folder(dir)?;
    Ok((ours, folder))
}

fn unusable(folder: &Path, error: &StoreError) -> StartError {
    StartError::new(format!(
        "cannot work on the log in {}: {error}",
        folder.display()
    ))
}

// Writing to a string cannot fail.
fn tell_findings(findings: &Findings) -> Told {
    let mut text = String::new();
    for (file, octets, records, is_sealed) in &findings.segments {
        let state = if *is_sealed { "sealed" } else { "open" };
        let _ = writeln!(
            text,
            "segment: {file}: {records} records up to octet {octets}, {state}"
        );
    }
    if let Some(messages) = findings.messages {
        let _ = writeln!(text, "messages: {messages}, counted once for each queue");
    }
    if let Some(torn) = &findings.torn {
        let _ = writeln!(
            text,
            "torn: {torn}; nobody was told that they are safe, the next start cuts them off"
        );
    }
    for problem in &findings.problems {
        let _ = writeln!(text, "damaged: {problem}");
    }
    finish(text, findings.problems.is_empty(), "the log is sound")
}

fn tell_salvaged(salvaged: &Salvaged, to: &Path) -> Told {
    let mut text = String::new();
    for problem in &salvaged.problems {
        let _ = writeln!(text, "damaged: {problem}");
    }
    let _ = writeln!(
        text,
        "written to {}: {} vhosts, {} definitions, {} messages, counted once for each queue",
        to.display(),
        salvaged.vhosts,
        salvaged.definitions,
        salvaged.messages
    );
    finish(text, salvaged.problems.is_empty(), "nothing was damaged")
}

fn finish(mut text: String, is_sound: bool, praise: &str) -> Told {
    if is_sound {
        let _ = writeln!(text, "{praise}");
    }
    let code = if is_sound { 0 } else { EXIT_CORRUPT };
    Told { text, code }
}

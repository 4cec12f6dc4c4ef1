//! The rules of this repository that no compiler knows, each a test: which crate may use which,
//! what a pure crate stays away from, how files begin and how long they get, links that lead
//! somewhere.
//!
//! The tests read the files of the work tree and tolerate crates that are planned but not there.
//! A failing test names every place, so that one run is enough to mend them all. To change a rule,
//! change it here and in `docs/architecture.md`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// Folder in `crates/`, package, and the folders it may depend on.
const CRATES: &[(&str, &str, &[&str])] = &[
    ("codec", "leveret-codec", &[]),
    ("wheel", "leveret-wheel", &[]),
    ("core", "leveret-core", &["codec", "wheel"]),
    ("session", "leveret-session", &["codec", "core"]),
    ("store", "leveret-store", &["core"]),
    ("scheduler", "leveret-scheduler", &["codec", "core"]),
    (
        "management",
        "leveret-management",
        &["codec", "core", "scheduler"],
    ),
    (
        "server",
        "leveret",
        &[
            "codec",
            "wheel",
            "core",
            "session",
            "store",
            "scheduler",
            "management",
        ],
    ),
    (
        "sim",
        "leveret-sim",
        &["codec", "wheel", "core", "session", "store", "scheduler"],
    ),
    ("perf", "leveret-perf", &["codec"]),
    ("tidy", "leveret-tidy", &[]),
];

/// Not for other projects, and not for the registry.
const PRIVATE_CRATES: &[&str] = &["sim", "perf", "tidy"];

/// No clock, no randomness of their own, no threads, no I/O: driven by arguments alone.
const PURE_CRATES: &[&str] = &["codec", "wheel", "core", "session", "scheduler"];

/// Every file says at its top what it owns, except `tests.rs` beside the file that it tests.
const CRATES_WITH_MODULE_DOCS: &[&str] = &[
    "codec",
    "wheel",
    "core",
    "session",
    "store",
    "scheduler",
    "management",
];

/// Crates whose `clippy.toml` disallows what [`IMPURE`] looks for.
const CRATES_WITH_CLIPPY_TOML: &[&str] = &["wheel", "core", "session", "scheduler"];

/// Packages that have one place, and the folders where that is.
const PLACES: &[(&str, &[&str])] = &[
    ("nom", &["codec"]),
    ("tokio", &["server", "management", "scheduler", "perf"]),
    ("dashmap", &["server", "management"]),
    ("jiff", &["core", "scheduler", "sim"]),
    ("rustls", &["server", "perf"]),
    ("tokio-rustls", &["server", "perf"]),
    ("rand", &["server", "perf", "sim"]),
    ("getrandom", &["server", "perf"]),
];

/// What the code of a pure crate never mentions.
const IMPURE: &[&str] = &[
    "tokio::",
    "std::fs",
    "std::net",
    "Instant::now",
    "SystemTime::now",
    "thread::spawn",
    "rand::",
    "thread_rng",
    "println!",
    "eprintln!",
];

/// What no `src` folder contains, in code or comment. (In two pieces: this file passes too.)
const UNFINISHED: &[&str] = &[
    concat!("to", "do!("),
    concat!("un", "implemented!("),
    concat!("d", "bg!("),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
];

/// Longest Rust file, in lines. Past 600 a file is usually two ideas; past this it certainly is.
const FILE_LINES_MAX: usize = 900;

/// Files that may be longer, each with its reason.
const LONG_FILES: &[(&str, &str)] = &[];

#[test]
fn dependencies_follow_the_arrows() {
    let mut complaints = Vec::new();
    for krate in crates() {
        let Some((_, package, below)) = CRATES.iter().find(|(folder, ..)| *folder == krate.folder)
        else {
            complaints.push(format!(
                "crates/{}: not in the table of tests/tidy.rs",
                krate.folder
            ));
            continue;
        };
        if krate.package() != *package {
            complaints.push(format!("crates/{}: not named {package}", krate.folder));
        }
        for (section, name) in krate.dependencies() {
            let Some((folder, ..)) = CRATES.iter().find(|(_, package, _)| *package == name) else {
                continue;
            };
            // Tests may also use directly what is further down.
            let allowed = if section == "dev-dependencies" {
                all_below(&krate.folder).contains(folder)
            } else {
                below.contains(folder)
            };
            if !allowed {
                complaints.push(format!("crates/{}: may not use {name}", krate.folder));
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn packages_stay_in_their_places() {
    let mut complaints = Vec::new();
    for krate in crates() {
        for (section, name) in krate.dependencies() {
            let place = PLACES.iter().find(|(package, _)| *package == name);
            if let Some((_, folders)) = place
                && section != "dev-dependencies"
                && !folders.contains(&krate.folder.as_str())
            {
                complaints.push(format!(
                    "crates/{}: {name} belongs in {folders:?}",
                    krate.folder
                ));
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn manifests_take_what_is_common_from_the_workspace() {
    let mut complaints = Vec::new();
    for krate in crates() {
        let package = &krate.manifest["package"];
        for key in ["version", "edition", "rust-version", "license"] {
            let inherited = package.get(key).and_then(|value| value.get("workspace"));
            if inherited.and_then(Value::as_bool) != Some(true) {
                complaints.push(format!("crates/{}: {key}.workspace = true", krate.folder));
            }
        }
        let lints = krate
            .manifest
            .get("lints")
            .and_then(|lints| lints.get("workspace"));
        if lints.and_then(Value::as_bool) != Some(true) {
            complaints.push(format!("crates/{}: [lints] workspace = true", krate.folder));
        }
        let private = package.get("publish").and_then(Value::as_bool) == Some(false);
        if private != PRIVATE_CRATES.contains(&krate.folder.as_str()) {
            complaints.push(format!("crates/{}: publish = false or not?", krate.folder));
        }
    }
    assert_none(&complaints);
}

#[test]
fn pure_crates_are_pure() {
    let mut complaints = Vec::new();
    for folder in PURE_CRATES {
        for file in files_below(&root().join("crates").join(folder).join("src"), &["rs"]) {
            for (number, line) in numbered_lines(&file) {
                let code = line.split("//").next().unwrap_or_default();
                for word in IMPURE {
                    if contains_word(code, word) {
                        complaints.push(format!("{}:{number}: {word}", shown(&file)));
                    }
                }
            }
        }
    }
    for folder in CRATES_WITH_CLIPPY_TOML {
        let folder = root().join("crates").join(folder);
        if !folder.join("Cargo.toml").exists() {
            continue;
        }
        let rules = fs::read_to_string(folder.join("clippy.toml")).unwrap_or_default();
        for path in [
            "time::Instant::now",
            "time::SystemTime::now",
            "thread::spawn",
        ] {
            if !rules.contains(path) {
                complaints.push(format!("{}/clippy.toml: {path}", shown(&folder)));
            }
        }
        for kind in [
            "collections::HashMap",
            "collections::HashSet",
            "fs::",
            "net::",
        ] {
            if !rules.contains(kind) {
                complaints.push(format!("{}/clippy.toml: {kind}", shown(&folder)));
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn nothing_is_left_unfinished() {
    let mut complaints = Vec::new();
    for krate in crates() {
        for file in files_below(&krate.path().join("src"), &["rs"]) {
            for (number, line) in numbered_lines(&file) {
                for word in UNFINISHED {
                    if contains_word(&line, word) {
                        complaints.push(format!("{}:{number}: {word}", shown(&file)));
                    }
                }
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn modules_begin_with_what_they_are_for() {
    let mut complaints = Vec::new();
    for folder in CRATES_WITH_MODULE_DOCS {
        for file in files_below(&root().join("crates").join(folder).join("src"), &["rs"]) {
            if file_name(&file) != "tests.rs" && !read(&file).starts_with("//!") {
                complaints.push(format!("{}: begins with no `//!`", shown(&file)));
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn files_stay_readable() {
    let mut complaints = Vec::new();
    for file in files_below(&root().join("crates"), &["rs"]) {
        let text = read(&file);
        let lines = text.lines().count();
        let name = shown(&file);
        let generated = text.starts_with("// @generated");
        let excused = LONG_FILES.iter().any(|(long, _)| *long == name);
        if lines > FILE_LINES_MAX && !excused && !generated {
            complaints.push(format!("{name}: {lines} lines, {FILE_LINES_MAX} at most"));
        }
        if lines <= FILE_LINES_MAX && excused {
            complaints.push(format!("{name}: {lines} lines, needs no excuse any more"));
        }
    }
    assert_none(&complaints);
}

/// A test waits for what it waits for, with virtual time or on an event.
#[test]
fn tests_do_not_sleep() {
    const SLEEPS: &[&str] = &[concat!("thread", "::sleep("), concat!("time", "::sleep(")];
    let mut files = files_below(&root().join("crates/sim"), &["rs"]);
    files.extend(files_below(&root().join("interop-tests"), &["rs"]));
    for krate in crates() {
        files.extend(files_below(&krate.path().join("tests"), &["rs"]));
    }
    let mut complaints = Vec::new();
    for file in files {
        for (number, line) in numbered_lines(&file) {
            if SLEEPS.iter().any(|sleep| line.contains(sleep)) {
                complaints.push(format!("{}:{number}: sleeps", shown(&file)));
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn architecture_names_every_crate() {
    let text = read(&root().join("docs/architecture.md"));
    let missing: Vec<_> = crates()
        .into_iter()
        .filter(|krate| !text.contains(&format!("| `{}` |", krate.folder)))
        .map(|krate| format!("docs/architecture.md: no row for `{}`", krate.folder))
        .collect();
    assert_none(&missing);
}

#[test]
fn links_lead_somewhere() {
    let mut complaints = Vec::new();
    for file in files_below(&root(), &["md"]) {
        let mut in_fence = false;
        for (number, line) in numbered_lines(&file) {
            if line.trim_start().starts_with("```") {
                in_fence = !in_fence;
            }
            if in_fence {
                continue;
            }
            let code_free: String = line.split('`').step_by(2).collect();
            for target in code_free.split("](").skip(1) {
                let target = target.split([')', ' ']).next().unwrap_or_default();
                let (path, _anchor) = target.split_once('#').unwrap_or((target, ""));
                let elsewhere = path.contains("://") || path.starts_with("mailto:");
                let folder = file.parent().expect("a file is in a folder");
                if !elsewhere && !path.is_empty() && !folder.join(path).exists() {
                    complaints.push(format!("{}:{number}: no {path}", shown(&file)));
                }
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn documents_name_make_targets_that_exist() {
    let makefile = read(&root().join("Makefile"));
    let targets: BTreeSet<_> = makefile
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(target, _)| target)
        .collect();
    let mut complaints = Vec::new();
    for file in files_below(&root(), &["md"]) {
        let mut in_fence = false;
        for (number, line) in numbered_lines(&file) {
            if line.trim_start().starts_with("```") {
                in_fence = !in_fence;
                continue;
            }
            // Odd pieces of a line are between backticks.
            let pieces = line.split('`').enumerate();
            let code = pieces.filter(|(place, _)| in_fence || place % 2 == 1);
            for command in code.filter_map(|(_, piece)| piece.trim_start().strip_prefix("make ")) {
                let target = command.split_whitespace().next().unwrap_or_default();
                if !targets.contains(target) {
                    complaints.push(format!("{}:{number}: no make {target}", shown(&file)));
                }
            }
        }
    }
    assert!(targets.contains("run") && targets.contains("test"));
    assert_none(&complaints);
}

#[test]
fn readme_opens_with_the_two_commands() {
    let readme = read(&root().join("README.md"));
    let commands: Vec<_> = readme
        .lines()
        .filter(|line| line.starts_with("make "))
        .filter_map(|line| line.split_whitespace().nth(1))
        .take(2)
        .collect();
    assert_eq!(commands, ["run", "test"]);
    let opening = readme
        .lines()
        .take(15)
        .filter(|line| line.starts_with("make "));
    assert_eq!(opening.count(), 2, "within the first 15 lines");
}

#[test]
fn lines_end_where_their_text_ends() {
    const TEXT: &[&str] = &[
        "rs", "toml", "md", "yml", "yaml", "sh", "py", "go", "js", "mjs", "java", "json", "hex",
    ];
    let mut files = files_below(&root(), TEXT);
    for name in ["Makefile", "Dockerfile", ".gitignore", ".ci/run"] {
        files.push(root().join(name));
    }
    files.extend(files_below(&root().join("tools"), &[""]));
    let mut complaints = Vec::new();
    for file in files {
        let text = read(&file);
        for (number, line) in (1..).zip(text.lines()) {
            if line.ends_with([' ', '\t', '\r']) {
                complaints.push(format!("{}:{number}: white space at the end", shown(&file)));
            }
        }
        if !text.is_empty() && !text.ends_with('\n') {
            complaints.push(format!("{}: no newline at the end", shown(&file)));
        }
    }
    assert_none(&complaints);
}

/// A crate that exists.
struct Crate {
    folder: String,
    manifest: Table,
}

impl Crate {
    fn path(&self) -> PathBuf {
        root().join("crates").join(&self.folder)
    }

    fn package(&self) -> &str {
        self.manifest["package"]["name"].as_str().expect("a name")
    }

    /// Section and package of every dependency, also those of a platform.
    fn dependencies(&self) -> Vec<(&'static str, String)> {
        let platforms = self.manifest.get("target").and_then(Value::as_table);
        let tables = platforms
            .into_iter()
            .flat_map(Table::values)
            .filter_map(Value::as_table)
            .chain([&self.manifest]);
        let mut found = Vec::new();
        for table in tables {
            for section in ["dependencies", "build-dependencies", "dev-dependencies"] {
                let Some(dependencies) = table.get(section).and_then(Value::as_table) else {
                    continue;
                };
                for (name, value) in dependencies {
                    let renamed = value.get("package").and_then(Value::as_str);
                    found.push((section, renamed.unwrap_or(name).to_owned()));
                }
            }
        }
        found
    }
}

fn crates() -> Vec<Crate> {
    let folders = entries(&root().join("crates"));
    let found: Vec<_> = folders
        .iter()
        .filter(|folder| folder.join("Cargo.toml").exists())
        .map(|folder| Crate {
            folder: file_name(folder).to_owned(),
            manifest: read(&folder.join("Cargo.toml"))
                .parse()
                .unwrap_or_else(|error| panic!("{}: {error}", shown(folder))),
        })
        .collect();
    assert!(!found.is_empty());
    found
}

/// Folders of all crates that `folder` uses, directly or through others.
fn all_below(folder: &str) -> BTreeSet<&'static str> {
    let mut below = BTreeSet::new();
    let mut next = vec![folder];
    while let Some(folder) = next.pop() {
        let krate = CRATES.iter().find(|(name, ..)| *name == folder);
        for &used in krate.map_or(&[][..], |(_, _, uses)| uses) {
            if below.insert(used) {
                next.push(used);
            }
        }
    }
    below
}

/// Cargo runs tests in the folder of their package. Not `CARGO_MANIFEST_DIR` as compiled in: two work
/// trees that share a target folder would read each other's files.
fn root() -> PathBuf {
    PathBuf::from("../..")
}

/// Files of these extensions ("" for none) in and below a folder; none if it does not exist. Leaves
/// out hidden folders and what tools have made.
fn files_below(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    const MADE: &[&str] = &[
        "target",
        "node_modules",
        "venv",
        "__pycache__",
        "corpus",
        "artifacts",
        "bench-results",
        "data",
    ];
    let mut found = Vec::new();
    for path in entries(folder) {
        let name = file_name(&path);
        if path.is_dir() {
            if !name.starts_with('.') && !MADE.contains(&name) {
                found.extend(files_below(&path, extensions));
            }
        } else {
            let extension = path.extension().and_then(|extension| extension.to_str());
            if extensions.contains(&extension.unwrap_or_default()) {
                found.push(path);
            }
        }
    }
    found
}

/// What is in a folder, sorted; nothing if it does not exist.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    paths.sort();
    paths
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", shown(path)))
}

fn numbered_lines(path: &Path) -> Vec<(usize, String)> {
    (1..).zip(read(path).lines().map(str::to_owned)).collect()
}

fn file_name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .expect("names are UTF-8")
}

/// A path as people write it: from the root of the repository.
fn shown(path: &Path) -> String {
    let path = path.strip_prefix(root()).unwrap_or(path);
    path.display().to_string()
}

/// Whether `word` is in `text`, and not only as the end of a longer word.
fn contains_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

fn assert_none(complaints: &[String]) {
    let mut list = String::new();
    for complaint in complaints {
        write!(list, "\n  {complaint}").expect("a string takes everything");
    }
    assert!(complaints.is_empty(), "{} to mend:{list}", complaints.len());
}

#[test]
fn words_are_found_as_words() {
    for (text, word, expected, why) in [
        ("use rand::Rng", "rand::", true, "the crate itself"),
        ("use my_rand::Rng", "rand::", false, "another crate"),
        ("eprintln!(1)", "println!", false, "another macro"),
        ("tokio::spawn", "tokio::", true, "at the start of a line"),
    ] {
        assert_eq!(contains_word(text, word), expected, "{text:?}: {why}");
    }
}

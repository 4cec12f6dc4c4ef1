//! A disk that forgets what was not synced, and fails when it is told to.
//!
//! Of each file it knows two contents: what a process sees, and what has been synced; and the
//! changes between the two, in their order. Of names the same. [`image`](super::image) makes of
//! that what a power cut may leave.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use leveret_store::{Disk, DiskFile};

/// A disk in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct SimDisk(Arc<Mutex<Content>>);

/// An open file of a [`SimDisk`].
#[derive(Clone, Debug)]
pub struct SimFile {
    disk: SimDisk,
    inode: u64,
}

/// What may be done to a disk.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Op {
    /// A new file.
    Create,
    /// Another name for a file.
    Rename,
    /// A file is removed.
    Remove,
    /// Names are made last.
    SyncDir,
    /// Octets of a file are written.
    Write,
    /// A file is cut off.
    Truncate,
    /// The content of a file is made last.
    Sync,
    /// Octets of a file are read. Changes nothing.
    Read,
    /// A file is opened. Changes nothing.
    Open,
    /// Names are listed. Changes nothing.
    List,
}

/// One operation that fails.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Of which operations; of all that change something if none is named.
    pub op: Option<Op>,
    /// Which of them, counted from 0 when the fault is set.
    pub nth: u64,
    /// Whether all that follow fail too.
    pub lasting: bool,
    /// No room, instead of a broken disk.
    pub full: bool,
    /// Percent of a write that are done all the same.
    pub written_percent: u64,
    /// After a failed sync, whether a process goes on seeing what was not synced. It is lost in
    /// either case, and never synced again.
    pub pages_kept: bool,
}

impl Fault {
    /// The n-th operation that changes something fails, and nothing of it is done.
    #[must_use]
    pub fn nth(nth: u64) -> Self {
        Self {
            op: None,
            nth,
            lasting: false,
            full: false,
            written_percent: 0,
            pages_kept: false,
        }
    }

    /// The n-th operation of a kind fails, and nothing of it is done.
    #[must_use]
    pub fn nth_of(op: Op, nth: u64) -> Self {
        Self {
            op: Some(op),
            ..Self::nth(nth)
        }
    }

    fn error(&self) -> io::Error {
        if self.full {
            io::Error::new(io::ErrorKind::StorageFull, "simulated: no room")
        } else {
            io::Error::other("simulated: input/output error")
        }
    }
}

/// A place that was written.
#[derive(Clone, Debug)]
pub struct Written {
    /// The file.
    pub name: String,
    /// First octet.
    pub from: u64,
    /// One past the last.
    pub to: u64,
    /// The operation that wrote it.
    pub at: u64,
    /// Whether it has been synced since.
    pub is_synced: bool,
}

/// What a disk holds.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) inodes: BTreeMap<u64, Inode>,
    /// As a process sees it.
    pub(super) names: BTreeMap<String, u64>,
    /// As of the last sync.
    pub(super) synced_names: BTreeMap<String, u64>,
    /// What has happened to names since.
    pub(super) entries: Vec<Entry>,
    /// Of operations that change something, how many there were.
    pub(super) operations: u64,
    inode_next: u64,
    counts: BTreeMap<Op, u64>,
    /// From this operation on there is no power.
    power_off_at: Option<u64>,
    off: bool,
    fault: Option<Fault>,
    fault_seen: u64,
    fault_fired: Option<Op>,
    capacity: u64,
    /// What it was before each operation that changed something, while this is wanted.
    past: Option<Vec<Self>>,
    /// Syncing files is said to work, and does nothing.
    lies: bool,
    /// Syncing names is said to work, and does nothing.
    lies_about_names: bool,
}

/// A file, whatever its name.
#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    /// As a process sees it.
    pub(super) seen: Arc<Vec<u8>>,
    /// As of the last sync.
    pub(super) synced: Arc<Vec<u8>>,
    /// What has happened since.
    pub(super) changes: Vec<Change>,
    /// Offset and length of every write there ever was, and the operation it was.
    written: Vec<(u64, u64, u64)>,
}

/// Something that was not synced when it happened.
#[derive(Clone, Debug)]
pub(super) struct Change {
    /// The operation.
    pub(super) at: u64,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    /// Octets at an offset.
    Octets(usize, Arc<[u8]>),
    /// A new length; zeros where it grows.
    Length(usize),
}

/// A change of names, not synced when it happened.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The operation.
    pub(super) at: u64,
    pub(super) inode: u64,
    /// The name that goes.
    pub(super) from: Option<String>,
    /// The name that comes.
    pub(super) to: Option<String>,
}

impl What {
    /// Does it to a content.
    pub(super) fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Octets(offset, octets) => {
                let end = offset + octets.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset..end].copy_from_slice(octets);
            }
            Self::Length(len) => content.resize(*len, 0),
        }
    }
}

impl Entry {
    pub(super) fn apply(&self, names: &mut BTreeMap<String, u64>) {
        if let Some(from) = &self.from {
            names.remove(from);
        }
        if let Some(to) = &self.to {
            names.insert(to.clone(), self.inode);
        }
    }

    /// Whether it cannot be there without the other one, which was before.
    pub(super) fn needs(&self, other: &Self) -> bool {
        let names = |entry: &Self| [entry.from.clone(), entry.to.clone()];
        self.inode == other.inode
            || names(self)
                .iter()
                .flatten()
                .any(|name| names(other).iter().flatten().any(|n| n == name))
    }
}

impl Default for Content {
    fn default() -> Self {
        Self {
            inodes: BTreeMap::new(),
            names: BTreeMap::new(),
            synced_names: BTreeMap::new(),
            entries: Vec::new(),
            operations: 0,
            inode_next: 1,
            counts: BTreeMap::new(),
            power_off_at: None,
            off: false,
            fault: None,
            fault_seen: 0,
            fault_fired: None,
            capacity: u64::MAX,
            past: None,
            lies: false,
            lies_about_names: false,
        }
    }
}

impl Content {
    /// The same files under the same names, all of it synced, as after the power is back.
    pub(super) fn settled(files: BTreeMap<u64, Vec<u8>>, names: BTreeMap<String, u64>) -> Self {
        let inode_next = files.keys().next_back().map_or(1, |last| last + 1);
        let inodes = files.into_iter().map(|(number, content)| {
            let seen = Arc::new(content);
            let inode = Inode {
                synced: Arc::clone(&seen),
                seen,
                ..Inode::default()
            };
            (number, inode)
        });
        Self {
            inodes: inodes.collect(),
            synced_names: names.clone(),
            names,
            inode_next,
            ..Self::default()
        }
    }

    /// Counts an operation, and says whether it fails: then by which fault, unless there is no
    /// power.
    fn begin(&mut self, op: Op) -> Result<(), (io::Error, Option<Fault>)> {
        let changes = !matches!(op, Op::Read | Op::Open | Op::List);
        if changes && self.power_off_at.is_some_and(|at| self.operations >= at) {
            self.off = true;
        }
        if self.off {
            return Err((io::Error::other("simulated: no power"), None));
        }
        if changes {
            if let Some(mut past) = self.past.take() {
                past.push(self.clone());
                self.past = Some(past);
            }
            self.operations += 1;
        }
        *self.counts.entry(op).or_default() += 1;
        let Some(fault) = self.fault else {
            return Ok(());
        };
        if fault.op.map_or(changes, |of| of == op) {
            self.fault_seen += 1;
            if self.fault_seen > fault.nth && (fault.lasting || self.fault_fired.is_none()) {
                self.fault_fired = Some(op);
                return Err((fault.error(), Some(fault)));
            }
        }
        Ok(())
    }

    fn simply(&mut self, op: Op) -> io::Result<()> {
        self.begin(op).map_err(|(error, _)| error)
    }

    fn used(&self) -> u64 {
        let named = self.names.values().filter_map(|n| self.inodes.get(n));
        named.map(|inode| inode.seen.len() as u64).sum()
    }

    fn inode(&self, name: &str) -> io::Result<u64> {
        self.names.get(name).copied().ok_or_else(|| not_found(name))
    }

    fn entry(&mut self, inode: u64, from: Option<&str>, to: Option<&str>) {
        let entry = Entry {
            at: self.operations - 1,
            inode,
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
        };
        entry.apply(&mut self.names);
        self.entries.push(entry);
    }

    fn change(&mut self, inode: u64, what: What) {
        let at = self.operations - 1;
        let Some(inode) = self.inodes.get_mut(&inode) else {
            return;
        };
        what.apply(Arc::make_mut(&mut inode.seen));
        inode.changes.push(Change { at, what });
    }
}

impl SimDisk {
    pub(super) fn new(content: Content) -> Self {
        Self(Arc::new(Mutex::new(content)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A disk with these files, all of it synced.
    #[must_use]
    pub fn with_files(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        let (mut contents, mut names) = (BTreeMap::new(), BTreeMap::new());
        for (number, (name, content)) in (1..).zip(files) {
            contents.insert(number, content);
            names.insert(name, number);
        }
        Self::new(Content::settled(contents, names))
    }

    /// The disk as the next process finds it if this one is killed: it sees all there was, and
    /// what was not synced still is not. Whoever has the old disk open does nothing to the new one.
    #[must_use]
    pub fn killed(&self) -> Self {
        let content = self.lock();
        Self::new(Content {
            power_off_at: None,
            off: false,
            fault: None,
            fault_fired: None,
            counts: BTreeMap::new(),
            past: None,
            ..content.clone()
        })
    }

    /// From the n-th operation on (counted as [`operations`](Self::operations) are) there is no
    /// power: nothing works any more.
    pub fn power_off_at(&self, operation: u64) {
        self.lock().power_off_at = Some(operation);
    }

    /// Whether the power has gone.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.lock().off
    }

    /// Makes an operation fail.
    pub fn fail(&self, fault: Fault) {
        let mut content = self.lock();
        content.fault = Some(fault);
        content.fault_seen = 0;
        content.fault_fired = None;
    }

    /// Lets everything work again.
    pub fn heal(&self) {
        let mut content = self.lock();
        content.fault = None;
        content.fault_fired = None;
    }

    /// Whether the fault has struck.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed().is_some()
    }

    /// What the fault has struck last.
    #[must_use]
    pub fn failed(&self) -> Option<Op> {
        self.lock().fault_fired
    }

    /// Room for so many octets in all.
    pub fn set_capacity(&self, octets: u64) {
        self.lock().capacity = octets;
    }

    /// Octets in all files.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.lock().used()
    }

    /// Syncing files does nothing from now on, and says it worked.
    pub fn lie(&self) {
        self.lock().lies = true;
    }

    /// Syncing names does nothing from now on, and says it worked.
    pub fn lie_about_names(&self) {
        self.lock().lies_about_names = true;
    }

    /// How many operations there were that changed something.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// How often this was done or tried.
    #[must_use]
    pub fn count(&self, op: Op) -> u64 {
        self.lock().counts.get(&op).copied().unwrap_or_default()
    }

    /// Remembers from now on what it was before each operation.
    pub fn remember(&self) {
        self.lock().past = Some(Vec::new());
    }

    /// The disk before each operation since it was told to remember.
    #[must_use]
    pub fn past(&self) -> Vec<Self> {
        let past = self.lock().past.take().unwrap_or_default();
        past.into_iter().map(Self::new).collect()
    }

    /// Names and contents of all files.
    #[must_use]
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        let content = self.lock();
        let names = content.names.iter();
        names
            .filter_map(|(name, n)| Some((name.clone(), content.inodes.get(n)?.seen.to_vec())))
            .collect()
    }

    /// Turns over bits of one octet, synced or not, behind everybody's back.
    pub fn rot(&self, name: &str, offset: u64, mask: u8) {
        let mut content = self.lock();
        let Ok(inode) = content.inode(name) else {
            return;
        };
        let Some(inode) = content.inodes.get_mut(&inode) else {
            return;
        };
        for copy in [&mut inode.seen, &mut inode.synced] {
            if let Some(octet) = Arc::make_mut(copy).get_mut(offset as usize) {
                *octet ^= mask;
            }
        }
    }

    /// Places that were written and not written over since, with
    /// the operation that wrote them, and whether they have been synced. In the order of operations.
    #[must_use]
    pub fn written(&self) -> Vec<Written> {
        let content = self.lock();
        let mut places = Vec::new();
        for (name, number) in &content.names {
            let Some(inode) = content.inodes.get(number) else {
                continue;
            };
            for (n, &(offset, len, at)) in inode.written.iter().enumerate() {
                let later = &inode.written[n + 1..];
                // A place that was partly written over is of no use to anybody: too hard to say.
                if later
                    .iter()
                    .all(|&(o, l, _)| o + l <= offset || offset + len <= o)
                {
                    places.push(Written {
                        name: name.clone(),
                        from: offset,
                        to: offset + len,
                        at,
                        is_synced: inode.changes.iter().all(|change| change.at != at),
                    });
                }
            }
        }
        places.sort_by_key(|place| place.at);
        places
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    fn create(&self, name: &str, len: u64) -> io::Result<SimFile> {
        let mut content = self.lock();
        content.simply(Op::Create)?;
        if content.names.contains_key(name) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, name));
        }
        if content.used().saturating_add(len) > content.capacity {
            return Err(no_room());
        }
        let inode = content.inode_next;
        content.inode_next += 1;
        content.inodes.insert(inode, Inode::default());
        content.change(inode, What::Length(len as usize));
        content.entry(inode, None, Some(name));
        Ok(self.file(inode))
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        let mut content = self.lock();
        content.simply(Op::Open)?;
        Ok(self.file(content.inode(name)?))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut content = self.lock();
        content.simply(Op::List)?;
        Ok(content.names.keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut content = self.lock();
        content.simply(Op::Rename)?;
        let inode = content.inode(from)?;
        assert!(!content.names.contains_key(to), "'{to}' is taken");
        content.entry(inode, Some(from), Some(to));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut content = self.lock();
        content.simply(Op::Remove)?;
        let inode = content.inode(name)?;
        content.entry(inode, Some(name), None);
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut content = self.lock();
        match content.begin(Op::SyncDir) {
            Ok(()) if content.lies_about_names => Ok(()),
            Ok(()) => {
                content.synced_names = content.names.clone();
                content.entries.clear();
                Ok(())
            }
            // What becomes of the names is open: they stay as unsynced as they were.
            Err((error, _)) => Err(error),
        }
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let content = self.lock();
        Ok(content.capacity.saturating_sub(content.used()))
    }
}

impl SimDisk {
    fn file(&self, inode: u64) -> SimFile {
        SimFile {
            disk: self.clone(),
            inode,
        }
    }
}

impl DiskFile for SimFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut content = self.disk.lock();
        let begun = content.begin(Op::Write);
        let done = match &begun {
            Ok(()) => bytes.len(),
            Err((_, Some(fault))) => bytes.len() * fault.written_percent as usize / 100,
            Err((_, None)) => 0,
        };
        let at = content.operations.saturating_sub(1);
        let growth = match content.inodes.get(&self.inode) {
            Some(inode) => (offset + done as u64).saturating_sub(inode.seen.len() as u64),
            None => return Err(not_found("a file")),
        };
        if growth > 0 && content.used().saturating_add(growth) > content.capacity {
            return Err(no_room());
        }
        if done > 0 {
            let octets = Arc::from(&bytes[..done]);
            content.change(self.inode, What::Octets(offset as usize, octets));
            if let Some(inode) = content.inodes.get_mut(&self.inode) {
                inode.written.push((offset, done as u64, at));
            }
        }
        begun.map_err(|(error, _)| error)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut content = self.disk.lock();
        content.simply(Op::Read)?;
        let Some(inode) = content.inodes.get(&self.inode) else {
            return Err(not_found("a file"));
        };
        let rest = inode.seen.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn size(&self) -> io::Result<u64> {
        let content = self.disk.lock();
        let inode = content.inodes.get(&self.inode);
        inode
            .map(|inode| inode.seen.len() as u64)
            .ok_or_else(|| not_found("a file"))
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut content = self.disk.lock();
        content.simply(Op::Truncate)?;
        content.change(self.inode, What::Length(len as usize));
        Ok(())
    }

    fn reread(&self) -> io::Result<()> {
        self.sync()?;
        let mut content = self.disk.lock();
        let lies = content.lies;
        if let Some(inode) = content.inodes.get_mut(&self.inode)
            && !lies
        {
            inode.seen = Arc::clone(&inode.synced);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut content = self.disk.lock();
        let begun = content.begin(Op::Sync);
        let lies = content.lies;
        let Some(inode) = content.inodes.get_mut(&self.inode) else {
            return Err(not_found("a file"));
        };
        match begun {
            Ok(()) if lies => Ok(()),
            Ok(()) => {
                let changes = std::mem::take(&mut inode.changes);
                let synced = Arc::make_mut(&mut inode.synced);
                changes.iter().for_each(|change| change.what.apply(synced));
                Ok(())
            }
            Err((error, None)) => Err(error),
            Err((error, Some(fault))) => {
                inode.changes.clear();
                if !fault.pages_kept {
                    inode.seen = Arc::clone(&inode.synced);
                }
                Err(error)
            }
        }
    }
}

fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, name)
}

fn no_room() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "simulated: no room")
}

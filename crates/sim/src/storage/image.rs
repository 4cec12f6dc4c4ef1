//! What a power cut may leave of a disk.
//!
//! Octets that were synced stay as they are, also beside others of their sector: a disk that spoils
//! those is beyond what a log can stand. Names change in order as far as one needs the other, and
//! a rename is done or not.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::disk::{Change, Content, Entry, SimDisk, What};
use crate::dice::Dice;

/// What happens to that which was not synced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Crash {
    /// All of it is lost.
    Lost,
    /// What was done up to some moment is kept.
    Prefix,
    /// Some of it is kept and some is not, whatever the order.
    Subset,
    /// All up to some write, and of that one some sectors of 512 octets.
    Torn512,
    /// All up to some write, and of that one some pages of 4,096 octets.
    Torn4096,
    /// Like `Torn512`, and sectors in it hold anything.
    Garbage,
    /// Contents are kept, names are not.
    NamesLost,
    /// Names are kept, contents are not.
    NamesOnly,
    /// Contents are kept, and some changes of names are.
    NamesSubset,
    /// All of it is kept.
    Everything,
    /// The power stays, the process dies: the next one sees everything, and what was not synced
    /// still is not.
    Killed,
}

impl Crash {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Lost,
        Self::Prefix,
        Self::Subset,
        Self::Torn512,
        Self::Torn4096,
        Self::Garbage,
        Self::NamesLost,
        Self::NamesOnly,
        Self::NamesSubset,
        Self::Everything,
        Self::Killed,
    ];

    fn sector(self) -> Option<usize> {
        match self {
            Self::Torn512 | Self::Garbage => Some(512),
            Self::Torn4096 => Some(4_096),
            _ => None,
        }
    }
}

impl SimDisk {
    /// What is left of the disk.
    #[must_use]
    pub fn crashed(&self, crash: Crash, dice: &mut Dice) -> Self {
        if crash == Crash::Killed {
            return self.killed();
        }
        let content = self.lock();
        let cut = cut(&content, crash, dice);
        let names = names(&content, crash, cut, dice);
        let mut files = BTreeMap::new();
        for number in names.values() {
            let Some(inode) = content.inodes.get(number) else {
                continue;
            };
            let mut image = Arc::clone(&inode.synced);
            for change in &inode.changes {
                let kept = match crash {
                    Crash::Lost | Crash::NamesOnly => false,
                    Crash::Subset => dice.chance(50),
                    _ => change.at < cut,
                };
                if kept {
                    change.what.apply(Arc::make_mut(&mut image));
                } else if let Some(sector) = crash.sector()
                    && change.at == cut
                {
                    tear(change, sector, crash, Arc::make_mut(&mut image), dice);
                }
            }
            files.insert(*number, Arc::unwrap_or_clone(image));
        }
        Self::new(Content::settled(files, names))
    }
}

/// The operation from which on things are not kept, or torn.
fn cut(content: &Content, crash: Crash, dice: &mut Dice) -> u64 {
    let changes = || content.inodes.values().flat_map(|inode| &inode.changes);
    let entries = content.entries.iter().map(|entry| entry.at);
    match crash {
        Crash::Prefix => {
            let mut places: Vec<_> = changes().map(|change| change.at).chain(entries).collect();
            places.push(u64::MAX);
            dice.one_of(&places)
        }
        _ if crash.sector().is_some() => {
            let octets = |change: &&Change| matches!(change.what, What::Octets(..));
            let mut writes: Vec<_> = changes().filter(octets).map(|change| change.at).collect();
            writes.sort_unstable();
            if dice.chance(70) {
                writes.last().copied().unwrap_or(u64::MAX)
            } else {
                dice.pick(&writes).copied().unwrap_or(u64::MAX)
            }
        }
        _ => u64::MAX,
    }
}

fn names(content: &Content, crash: Crash, cut: u64, dice: &mut Dice) -> BTreeMap<String, u64> {
    let mut names = content.synced_names.clone();
    let mut lost: Vec<&Entry> = Vec::new();
    for entry in &content.entries {
        let kept = match crash {
            Crash::Lost | Crash::NamesLost => false,
            Crash::Subset | Crash::NamesSubset => dice.chance(50),
            _ => entry.at < cut,
        };
        if kept && !lost.iter().any(|before| entry.needs(before)) {
            entry.apply(&mut names);
        } else {
            lost.push(entry);
        }
    }
    names
}

/// Writes some sectors, or anything, instead of all that was to be written.
fn tear(change: &Change, sector: usize, crash: Crash, image: &mut Vec<u8>, dice: &mut Dice) {
    let What::Octets(offset, octets) = &change.what else {
        return;
    };
    let (first, end) = (offset / sector, (offset + octets.len()).div_ceil(sector));
    let in_order = dice.chance(50);
    let until = first + dice.below(end - first + 1);
    let spoilt = first + dice.below(end - first);
    for n in first..end {
        let from = (n * sector).max(*offset);
        let to = ((n + 1) * sector).min(offset + octets.len());
        let kept = if in_order { n < until } else { dice.chance(50) };
        if crash == Crash::Garbage && n == spoilt {
            let noise: Vec<u8> = (from..to).map(|_| dice.any() as u8).collect();
            What::Octets(from, Arc::from(noise)).apply(image);
        } else if kept {
            let piece = &octets[from - offset..to - offset];
            What::Octets(from, Arc::from(piece)).apply(image);
        }
    }
}

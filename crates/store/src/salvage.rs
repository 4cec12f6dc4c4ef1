//! For people who stand before a damaged log: what is wrong with it, and how to get out what is
//! sound.

use std::collections::BTreeMap;

use leveret_core::Record;
use leveret_core::ids::{Lsn, QueueNumber, Seq, Wall};
use leveret_core::message::Message;
use leveret_core::record::Fact;

use crate::checkpoint;
use crate::disk::Disk;
use crate::error::StoreError;
use crate::format::{BATCH, HEADER, Header, HeaderFound, put_varint};
use crate::keeper::find_living;
use crate::log::{Log, Staged, VhostNumber};
use crate::options::Options;
use crate::record::{Publish, What, kind, put_start, split_time};
use crate::recovery::recover;
use crate::scan::{batch_places, scan};
use crate::segment::{
    Entries, footer_of, frame_at, log_name, newer_in, parse_name, read_all, read_body,
};
use crate::state::{Place, Segment, State};

/// Messages written at a time when salvaging.
const AT_ONCE: usize = 256;

/// What [`check`] found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Findings {
    /// Segment files, in order: name, octets of sound records, number of them, whether sealed.
    pub segments: Vec<(String, u64, u64, bool)>,
    /// Messages that are there, once for each queue; None if the log cannot be opened as it is.
    pub messages: Option<u64>,
    /// What is wrong, a line each.
    pub problems: Vec<String>,
    /// What was begun at the end and never completed; it is cut off when the log is opened.
    pub torn: Option<String>,
}

/// Reads every octet of a log that nobody has open, and changes nothing.
///
/// # Errors
/// `Io` if it cannot be read; `Version` and `Newer`: too little is known about such files.
pub fn check<D: Disk>(disk: &D) -> Result<Findings, StoreError> {
    let mut findings = Findings::default();
    let mut end = None;
    match recover(disk) {
        Ok(recovery) => {
            findings.messages = Some(recovery.state.messages());
            end = Some(recovery.end.segment);
            findings.torn = recovery.torn.map(|(end, bytes)| {
                let file = log_name(end.segment);
                format!(
                    "{file}: {bytes} octets after octet {} are not complete",
                    end.offset
                )
            });
        }
        Err(
            error @ (StoreError::Io { .. } | StoreError::Version { .. } | StoreError::Newer { .. }),
        ) => return Err(error),
        Err(error) => findings.problems.push(error.to_string()),
    }
    for number in numbers(disk)? {
        let file = log_name(number);
        let image = read(disk, number)?;
        let scan = scan(&image);
        if scan.segment != Some(u64::from(number)) {
            let problem = format!("{file} is damaged at octet 0: its header is not its own");
            findings.problems.push(problem);
            continue;
        }
        match scan.broken {
            // That is the torn end.
            Some(_) if end == Some(number) && !scan.is_sealed => {}
            Some(what) => findings
                .problems
                .push(format!("{file} is damaged at octet {}: {what}", scan.end)),
            None => {}
        }
        findings
            .segments
            .push((file, scan.end, scan.records, scan.is_sealed));
    }
    Ok(findings)
}

/// What [`salvage`] saved.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Salvaged {
    /// Vhosts.
    pub vhosts: u64,
    /// Exchanges, queues and bindings.
    pub definitions: u64,
    /// Messages, once for each queue.
    pub messages: u64,
    /// What is lost or may be, a line each.
    pub problems: Vec<String>,
}

/// Reads whatever is sound in a damaged log and writes a new one into another, empty directory.
///
/// A settle that is lost brings its message back; a message that is lost is lost.
///
/// # Errors
/// `Io`; `Full`; `Version` and `Newer`: too little is known about such files. `Corrupt` if there is a
/// log in the other directory.
pub fn salvage<F: Disk, T: Disk>(
    from: &F,
    to: T,
    options: Options,
) -> Result<Salvaged, StoreError> {
    if let Some(first) = numbers(&to)?.first() {
        let what = "a log is there already";
        return Err(StoreError::corrupt(log_name(*first), 0, what));
    }
    let mut salvaged = Salvaged::default();
    let (mut state, lists) = read_leniently(from, &mut salvaged.problems)?;
    let mut log = Log::open(to, options)?.log;
    let mut numbers = BTreeMap::new();
    for (&old, vhost) in &state.vhosts {
        let (new, _) = log.lead(&vhost.name)?;
        numbers.insert(old, new);
        salvaged.vhosts += 1;
        let facts = vhost.definitions.iter().map(|(lsn, fact)| Record {
            lsn: Lsn(lsn),
            fact: fact.into_owned(),
        });
        let records: Vec<_> = facts.collect();
        salvaged.definitions += records.len() as u64;
        log.write(vec![Staged {
            vhost: new,
            records,
        }])?;
    }
    for (number, list) in &lists {
        copy_messages(
            from,
            *number,
            list,
            &mut state,
            &numbers,
            &mut log,
            &mut salvaged,
        )?;
    }
    finish(&state, &numbers, &mut log)?;
    log.sync()?;
    log.close()?;
    Ok(salvaged)
}

/// Messages to be delivered again that one record speaks of.
const RETRIES_AT_ONCE: usize = 1_024;

/// What is known of queues beside their messages, and the last numbers.
fn finish<T: Disk>(
    state: &State,
    numbers: &BTreeMap<u32, VhostNumber>,
    log: &mut Log<T>,
) -> Result<(), StoreError> {
    for queue in state.queues() {
        let Some(&vhost) = numbers.get(&queue.vhost) else {
            continue;
        };
        let number = QueueNumber(queue.number);
        let mut facts = vec![Fact::MayDeliver {
            queue: number,
            through: Seq(queue.delivered_through),
        }];
        let retries: Vec<_> = queue.retries.values().copied().collect();
        facts.extend(
            retries
                .chunks(RETRIES_AT_ONCE)
                .map(|retries| Fact::Retried {
                    queue: number,
                    retries: retries.to_vec(),
                }),
        );
        if queue.last > 0 && queue.messages.get(queue.last).is_none() {
            facts.push(Fact::Settled {
                queue: number,
                seq: Seq(queue.last),
            });
        }
        let lsn = state.vhosts.get(&queue.vhost).map_or(0, |vhost| vhost.last);
        let records = facts.into_iter().map(|fact| Record {
            lsn: Lsn(lsn),
            fact,
        });
        log.write(vec![Staged {
            vhost,
            records: records.collect(),
        }])?;
    }
    for (old, vhost) in &state.vhosts {
        if let Some(new) = numbers.get(old) {
            let mut head = Vec::new();
            put_start(&mut head, kind::REACHED, new.0, vhost.last);
            log.write_own(&head, None, false)?;
            log.reach(*new, vhost.last);
        }
    }
    log.flush()
}

/// Writes the living messages of a segment.
fn copy_messages<F: Disk, T: Disk>(
    from: &F,
    number: u32,
    list: &[u8],
    state: &mut State,
    numbers: &BTreeMap<u32, VhostNumber>,
    log: &mut Log<T>,
    salvaged: &mut Salvaged,
) -> Result<(), StoreError> {
    let name = log_name(number);
    let opened = from.open(&name);
    let file = opened.map_err(|error| StoreError::io(format!("open {name}"), &error))?;
    let mut staged: Vec<Staged> = Vec::new();
    let mut body = Vec::new();
    for entry in Entries::new(list, number).flatten() {
        let Some(&vhost) = numbers.get(&entry.head.vhost) else {
            continue;
        };
        let mut living: Vec<(Publish<'_>, Place)> = Vec::new();
        let mut place = entry.place;
        find_living(
            state,
            entry.head.vhost,
            &entry.head.what,
            &mut place,
            &mut living,
        );
        for (publish, place) in living {
            let is_sound = read_body(&file, place, publish.body.bytes, &mut body);
            let is_sound = is_sound.unwrap_or(false);
            let sound = body.get(4..).filter(|_| is_sound);
            let parts = sound.and_then(|body| split_time(publish.body.has_time, body));
            let found = parts.and_then(|(at, block)| {
                let at = at.or(publish.at)?;
                Some((at, Message::from_block(block)?))
            });
            let Some((at, message)) = found else {
                salvaged.problems.push(format!(
                    "{name} is damaged at octet {}: a message is lost",
                    place.offset
                ));
                continue;
            };
            salvaged.messages += publish.places.len() as u64;
            let places = publish.places.iter();
            let fact = Fact::Published {
                message,
                user: publish.body.user.into(),
                at: Wall(at),
                places: places
                    .map(|&(queue, seq)| (QueueNumber(queue), Seq(seq)))
                    .collect(),
            };
            staged.push(Staged {
                vhost,
                records: vec![Record {
                    lsn: Lsn(entry.head.lsn),
                    fact,
                }],
            });
            if staged.len() == AT_ONCE {
                log.append(&staged)?;
                staged.clear();
            }
        }
    }
    log.append(&staged)
}

/// Heads of the segments by number.
type Lists = BTreeMap<u32, Vec<u8>>;

/// Takes in all that is sound, in the order of the segments.
fn read_leniently<D: Disk>(
    disk: &D,
    problems: &mut Vec<String>,
) -> Result<(State, Lists), StoreError> {
    let mut lists = BTreeMap::new();
    for number in numbers(disk)? {
        let image = read(disk, number)?;
        match Header::decode(&image) {
            HeaderFound::Version(version) => {
                let file = log_name(number);
                return Err(StoreError::Version { file, version });
            }
            HeaderFound::Sound(_) => {
                if let Some(error) = newer_in(&image, number) {
                    return Err(error);
                }
            }
            HeaderFound::Bad => problems.push(format!("{}: no sound header", log_name(number))),
        }
        lists.insert(number, lenient_list(&image, number, problems));
    }
    let (mut state, start) = newest_checkpoint(disk, &lists)?;
    for number in lists.keys() {
        state.segments.insert(*number, Segment::default());
    }
    for (&number, list) in &lists {
        for entry in Entries::new(list, number).flatten() {
            let mut place = entry.place;
            let (vhost, lsn) = (entry.head.vhost, entry.head.lsn);
            if (number, entry.frame) < start {
                state.apply_places(vhost, &entry.head.what, &mut place);
            } else {
                state.apply(vhost, lsn, entry.head.what, &mut place);
            }
        }
    }
    for queue in state.queues() {
        let lost: u64 = queue
            .missing
            .iter()
            .map(|(first, last)| (last - first).saturating_add(1))
            .fold(0, u64::saturating_add);
        if lost > 0 {
            problems.push(format!(
                "{lost} messages of queue {} are lost",
                queue.number
            ));
        }
    }
    Ok((state, lists))
}

/// What the newest checkpoint that can be read says, and where it begins.
fn newest_checkpoint<D: Disk>(disk: &D, lists: &Lists) -> Result<(State, (u32, u32)), StoreError> {
    let mut newest = (State::default(), (0, 0));
    let (mut bytes, mut body, mut next) = (Vec::new(), Vec::new(), None);
    let mut first = (0, 0);
    for (&number, list) in lists {
        let name = log_name(number);
        let opened = disk.open(&name);
        let file = opened.map_err(|error| StoreError::io(format!("open {name}"), &error))?;
        for entry in Entries::new(list, number).flatten() {
            let What::Checkpoint(part) = entry.head.what else {
                continue;
            };
            if part.index == 0 {
                bytes.clear();
                first = (number, entry.frame);
                next = Some((part.id, 0));
            }
            let is_next = next == Some((part.id, part.index));
            if !is_next || !read_body(&file, entry.place, part.bytes, &mut body).unwrap_or(false) {
                next = None;
                continue;
            }
            bytes.extend_from_slice(body.get(4..).unwrap_or_default());
            next = part.index.checked_add(1).map(|index| (part.id, index));
            if part.is_last
                && let Some(checkpoint) = checkpoint::decode(&bytes)
            {
                newest = (checkpoint.state, first);
            }
        }
    }
    Ok(newest)
}

/// The heads of all sound frames of a file: from its footer, or from all its batches.
fn lenient_list(image: &[u8], number: u32, problems: &mut Vec<String>) -> Vec<u8> {
    if let Some(heads) = footer_of(image, number) {
        return heads.list;
    }
    let mut list = Vec::new();
    let mut frame_end = HEADER;
    for (at, batch) in batch_places(image, number) {
        let Some(mut at) = at.checked_add(BATCH).filter(|at| *at >= frame_end) else {
            continue;
        };
        let Some(stop) = at.checked_add(batch.bytes) else {
            continue;
        };
        while at < stop {
            let Some((head, after)) = frame_at(image, number, at, stop) else {
                let file = log_name(number);
                problems.push(format!("{file} is damaged at octet {at}: records are lost"));
                break;
            };
            put_varint(&mut list, u64::from(at - frame_end));
            put_varint(&mut list, head.len() as u64);
            list.extend_from_slice(head);
            frame_end = after;
            at = after;
        }
    }
    list
}

/// Numbers of the segments of a directory, in order.
fn numbers<D: Disk>(disk: &D) -> Result<Vec<u32>, StoreError> {
    let names = disk.list();
    let names = names.map_err(|error| StoreError::io("list the files of the log", &error))?;
    let numbers = names.iter().filter_map(|name| parse_name(name));
    let mut numbers: Vec<_> = numbers
        .filter(|(_, is_log)| *is_log)
        .map(|(number, _)| number)
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn read<D: Disk>(disk: &D, number: u32) -> Result<Vec<u8>, StoreError> {
    let name = log_name(number);
    let image = disk.open(&name).and_then(|file| read_all(&file));
    image.map_err(|error| StoreError::io(format!("read {name}"), &error))
}

//! Reading messages back.
//!
//! Places are looked up under the lock and read outside of it. Meanwhile a message may be moved and
//! its file used for something else; its sum says so, and it is looked up once more.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use leveret_core::ids::{Seq, Wall};
use leveret_core::log::{Fetch, Fetched, LogError};
use leveret_core::message::Message;

use crate::disk::{Disk, DiskFile};
use crate::format::Input;
use crate::log::{Shared, VhostNumber, lock};
use crate::messages::Loc;
use crate::record::{BODY_SUM, split_time};
use crate::segment::{body_is_sound, log_name};
use crate::state::Place;

/// Messages looked up at a time.
const LOOK_UP: usize = 1_024;

/// What lies between two messages may be this long for them to be read at once.
const GAP: u32 = 16 << 10;

/// Octets read at once at most, unless one message is longer.
const SPAN: u32 = 4 << 20;

/// Reads messages of a log, from any thread.
pub struct Reader<D: Disk> {
    shared: Arc<Mutex<Shared<D::File>>>,
}

/// Messages that were looked up, with the files they are in.
pub(crate) struct Found<F> {
    pub(crate) locs: Vec<(u64, Loc)>,
    pub(crate) files: BTreeMap<u32, F>,
    /// What the files are called.
    pub(crate) name: fn(u32) -> String,
}

impl<D: Disk> Clone for Reader<D> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.shared))
    }
}

impl<D: Disk> fmt::Debug for Reader<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl<D: Disk> Reader<D> {
    pub(crate) fn new(shared: Arc<Mutex<Shared<D::File>>>) -> Self {
        Self { shared }
    }

    /// Messages of a queue, as asked for.
    #[must_use]
    pub fn fetch(&self, vhost: VhostNumber, fetch: Fetch) -> Fetched {
        self.fetch_some(vhost, fetch).0
    }

    /// The same, and whether there may be more of them.
    pub(crate) fn fetch_some(&self, vhost: VhostNumber, fetch: Fetch) -> (Fetched, bool) {
        let mut fetched = Fetched {
            queue: fetch.queue,
            messages: Vec::new(),
            error: None,
        };
        let mut first = fetch.first.0;
        let mut left = fetch.bytes_max;
        let mut cut = false;
        loop {
            let is_first = fetched.messages.is_empty();
            let found = self.look_up(vhost, fetch, first, left, is_first, &mut cut);
            let Some(&(last, _)) = found.locs.last() else {
                break;
            };
            match read(&found, &mut fetched.messages) {
                Ok(()) => {
                    let read = found.locs.iter().map(|(_, loc)| loc.block_bytes() as usize);
                    left = left.saturating_sub(read.sum());
                    match last.checked_add(1) {
                        Some(next) if left > 0 => first = next,
                        _ => {
                            cut = true;
                            break;
                        }
                    }
                }
                Err((seq, loc, error)) => {
                    let read = found.locs.iter().take_while(|(before, _)| *before < seq);
                    left =
                        left.saturating_sub(read.map(|(_, loc)| loc.block_bytes() as usize).sum());
                    if self.is_still(vhost, fetch, seq, loc) {
                        fetched.error = Some(error);
                        break;
                    }
                    first = seq;
                }
            }
        }
        (fetched, cut)
    }

    fn look_up(
        &self,
        vhost: VhostNumber,
        fetch: Fetch,
        first: u64,
        bytes_max: usize,
        is_first: bool,
        cut: &mut bool,
    ) -> Found<D::File> {
        let mut found = Found {
            locs: Vec::new(),
            files: BTreeMap::new(),
            name: log_name,
        };
        let mut shared = lock(&self.shared);
        let Shared { state, files } = &mut *shared;
        let Some(queue) = state.queue(vhost.0, fetch.number.0) else {
            return found;
        };
        let mut bytes = 0_usize;
        for (seq, loc) in queue.messages.range(first..=fetch.last.0).take(LOOK_UP) {
            let is_one = is_first && found.locs.is_empty();
            bytes = bytes.saturating_add(loc.block_bytes() as usize);
            if bytes > bytes_max && !is_one {
                *cut = true;
                break;
            }
            if let Some(file) = files.get(&loc.segment) {
                found
                    .files
                    .entry(loc.segment)
                    .or_insert_with(|| file.clone());
            }
            found.locs.push((seq, loc));
        }
        found
    }

    /// Whether the message is where it was looked for.
    fn is_still(&self, vhost: VhostNumber, fetch: Fetch, seq: u64, loc: Loc) -> bool {
        let mut shared = lock(&self.shared);
        let queue = shared.state.queue(vhost.0, fetch.number.0);
        queue.and_then(|queue| queue.messages.get(seq)) == Some(loc)
    }
}

/// Reads what was found, neighbours at once. The error names the first message that is not there.
pub(crate) fn read<F: DiskFile>(
    found: &Found<F>,
    messages: &mut Vec<(Seq, Message, Option<Wall>)>,
) -> Result<(), (u64, Loc, LogError)> {
    let mut rest = found.locs.as_slice();
    let mut buffer = Vec::new();
    while let Some(&(seq, loc)) = rest.first() {
        let (span, after) = rest.split_at(neighbours(rest));
        rest = after;
        let start = loc.offset.saturating_sub(BODY_SUM);
        let end = span.last().map_or(start, |(_, loc)| end(*loc));
        buffer.clear();
        buffer.resize(end.saturating_sub(start) as usize, 0);
        let damaged = |loc: Loc, what: &str| {
            let file = (found.name)(loc.segment);
            LogError::Corrupt(format!("{file} at octet {}: {what}", loc.offset))
        };
        let Some(file) = found.files.get(&loc.segment) else {
            return Err((seq, loc, damaged(loc, "there is no such segment")));
        };
        let read = match file.read_at(u64::from(start), &mut buffer) {
            Ok(read) => read,
            Err(error) => {
                let text = format!("cannot read {}: {error}", (found.name)(loc.segment));
                return Err((seq, loc, LogError::Unavailable(text)));
            }
        };
        let bytes = buffer.get(..read).unwrap_or_default();
        for &(seq, loc) in span {
            let at = loc.offset.saturating_sub(BODY_SUM).saturating_sub(start) as usize;
            let mut input = Input(bytes.get(at..).unwrap_or_default());
            let body = input.take(loc.bytes as usize + BODY_SUM as usize);
            let place = Place {
                segment: loc.segment,
                offset: loc.offset,
            };
            let message = body
                .filter(|body| body_is_sound(place, body))
                .and_then(|body| split_time(loc.has_time(), body.get(BODY_SUM as usize..)?))
                .and_then(|(at, block)| Some((Message::from_block(block)?, at.map(Wall))));
            match message {
                Some((message, at)) => messages.push((Seq(seq), message, at)),
                None => {
                    let error = damaged(loc, "a message is not what was written");
                    return Err((seq, loc, error));
                }
            }
        }
    }
    Ok(())
}

/// How many of these are read at once: at least one.
fn neighbours(locs: &[(u64, Loc)]) -> usize {
    let Some((_, first)) = locs.first() else {
        return 0;
    };
    let mut last = *first;
    let more = locs.iter().skip(1).take_while(|(_, loc)| {
        let is_near = loc.segment == first.segment
            && loc.offset >= end(last)
            && loc.offset - end(last) <= GAP
            && end(*loc) - first.offset <= SPAN;
        last = *loc;
        is_near
    });
    1 + more.count()
}

fn end(loc: Loc) -> u32 {
    loc.offset.saturating_add(loc.bytes)
}

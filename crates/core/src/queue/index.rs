//! What waits in one queue, in order.
//!
//! Three parts, each in order of [`Seq`]: `returned` (delivered before and put back), `fresh`
//! (never delivered) and `behind` (the rest of a long backlog). Messages leave from the front only,
//! so whatever was delivered is older than everything in `fresh`, and a message that comes back
//! never has to be searched a place among the fresh ones. But for those that were delivered before
//! a restart, and come back late: so the older of the first of both goes first.
//!
//! What is `behind` may be away: only its places are kept, as runs, and the log or the swap area has
//! the messages, which of the two is not known here. They are asked back, some megabytes at a time,
//! when what is in front of them runs out.
//!
//! Invariants, asserted by [`Index::check`]:
//! - `fresh` ascends strictly, and so do the stretches `behind`;
//! - the last of `fresh` is older than `behind`, and no place is in two of the three;
//! - `fresh` is empty only if what is `behind` starts with messages that are away, or not at all.

use std::collections::{BTreeMap, VecDeque};

use crate::ids::{Seq, Wall};
use crate::log::Run;
use crate::message::Message;
use crate::queue::logged::Batch;
use crate::queue::retries::Past;
use crate::queue::stretches::{Stretch, Stretches};

/// A waiting message: 32 B.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) message: Message,
    pub(crate) seq: Seq,
    /// Times it was delivered before.
    pub(crate) deliveries: u32,
    /// How many of these failed: it was rejected, or its consumer went away.
    pub(crate) failures: u32,
}

impl Entry {
    /// What is left in `fresh` of a message that was taken out of the midst of it.
    fn gap(seq: Seq) -> Self {
        Self {
            message: Message::empty(),
            seq,
            deliveries: GAP,
            failures: 0,
        }
    }

    fn is_gap(&self) -> bool {
        self.deliveries == GAP
    }
}

/// No message is delivered so often.
const GAP: u32 = u32::MAX;

/// Messages that are looked at to be swapped out in one go: a turn's share of work.
const SWAPPED_AT_ONCE: usize = 32_768;

/// Gaps are not worth closing below this number.
const CLOSE_GAPS_FROM: usize = 64;

const _: () = assert!(
    size_of::<Entry>() <= 32,
    "the index costs at most 32 B a message"
);

/// Capacity below which an emptied run is not worth giving back.
const KEPT_CAPACITY: usize = 1_024;

/// A merge touches everything that was returned, so it is for batches of at least one in this many.
const MERGE_FROM: usize = 16;

/// What is to leave memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaving {
    /// Messages up to here.
    pub(crate) through: Seq,
    /// But for the first, so many octets of them.
    pub(crate) keep: usize,
    /// The log has those that are persistent.
    pub(crate) durable: bool,
}

impl Leaving {
    pub(crate) fn is_logged(self, message: &Message) -> bool {
        self.durable && message.is_persistent()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Index {
    returned: BTreeMap<Seq, Entry>,
    fresh: VecDeque<Entry>,
    behind: Stretches,
    /// Messages that are away.
    away: usize,
    /// Messages in `Here` stretches.
    behind_here: usize,
    /// Memory of the messages that are here, and of those of them that are not in `returned`.
    bytes: usize,
    unreturned_bytes: usize,
    /// Octets of their bodies, and what those would hold in memory that are away.
    body_bytes: usize,
    away_bytes: usize,
    /// Of the latter, what is known not to be bodies.
    away_extra: usize,
    /// Messages in `fresh` that were taken out of the midst of it.
    gaps: usize,
}

impl Index {
    /// A queue's messages as the log has kept them.
    pub(crate) fn recovered(runs: Vec<Run>) -> Self {
        Self {
            away: runs.iter().map(places_in).sum(),
            away_bytes: runs.iter().map(|run| octets(run.bytes)).sum(),
            behind: runs.into_iter().map(Stretch::Away).collect(),
            ..Self::default()
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.returned.len() + self.fresh.len() - self.gaps + self.behind_here + self.away
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory held by the messages, in octets.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Memory held by messages that were never delivered, in octets: what may be paged out.
    pub(crate) fn unreturned_bytes(&self) -> usize {
        self.unreturned_bytes
    }

    /// Octets of the bodies of all messages. Of those that were away at the start, it is what they
    /// would hold in memory, which is somewhat more.
    #[inline]
    pub(crate) fn body_bytes(&self) -> usize {
        self.body_bytes + self.away_bytes.saturating_sub(self.away_extra)
    }

    /// The newest place, if its message waits.
    pub(crate) fn newest(&self) -> Option<Seq> {
        let behind = self.behind.back().map(|stretch| match stretch {
            Stretch::Here(entries) => entries.back().map(|entry| entry.seq),
            Stretch::Away(run) => Some(run.last),
        });
        let returned = || self.returned.last_key_value().map(|(seq, _)| *seq);
        behind
            .unwrap_or_else(|| self.fresh.back().map(|entry| entry.seq))
            .or_else(returned)
    }

    /// Adds the newest message.
    #[inline]
    pub(crate) fn push(&mut self, entry: Entry) {
        let bytes = entry.message.memory_bytes();
        self.bytes += bytes;
        self.unreturned_bytes += bytes;
        self.body_bytes += entry.message.body_len();
        if self.behind.is_empty() {
            self.fresh.push_back(entry);
        } else {
            self.push_behind(entry);
        }
    }

    fn push_behind(&mut self, entry: Entry) {
        self.behind_here += 1;
        if let Some(Stretch::Here(entries)) = self.behind.back_mut() {
            entries.push_back(entry);
        } else {
            self.behind
                .push_back(Stretch::Here(VecDeque::from([entry])));
        }
    }

    /// The oldest message; None if there is none, or if it is away.
    #[inline]
    pub(crate) fn front(&self) -> Option<&Entry> {
        match self.returned.first_key_value() {
            None => self.fresh.front(),
            Some((seq, entry)) => match self.first_fresh() {
                Some(fresh) if fresh < *seq => self.fresh.front(),
                _ => Some(entry),
            },
        }
    }

    /// Takes the oldest message; None if there is none, or if it is away.
    pub(crate) fn pop(&mut self) -> Option<Entry> {
        let returned = self.returned.first_entry();
        let returned = returned.filter(|first| {
            let fresh = self.fresh.front().map(|entry| entry.seq);
            let fresh = fresh.or_else(|| self.behind.first());
            fresh.is_none_or(|fresh| *first.key() < fresh)
        });
        let entry = if let Some(first) = returned {
            first.remove()
        } else {
            let entry = self.fresh.pop_front()?;
            shrink(&mut self.fresh);
            self.unreturned_bytes -= entry.message.memory_bytes();
            self.settle_front();
            entry
        };
        self.forget(&entry);
        Some(entry)
    }

    /// Takes a message out, wherever it waits. None if it does not, or is away.
    pub(crate) fn take(&mut self, seq: Seq) -> Option<Entry> {
        if let Some(entry) = self.returned.remove(&seq) {
            self.forget(&entry);
            return Some(entry);
        }
        if let Ok(at) = self.fresh.binary_search_by_key(&seq, |entry| entry.seq) {
            let entry = std::mem::replace(&mut self.fresh[at], Entry::gap(seq));
            self.gaps += 1;
            if entry.is_gap() {
                self.gaps -= 1;
                return None;
            }
            self.unreturned_bytes -= entry.message.memory_bytes();
            self.forget(&entry);
            self.settle_front();
            self.close_gaps();
            return Some(entry);
        }
        self.take_behind(seq)
    }

    fn take_behind(&mut self, seq: Seq) -> Option<Entry> {
        let entry = self.behind.take(seq)?;
        self.behind_here -= 1;
        self.unreturned_bytes -= entry.message.memory_bytes();
        self.forget(&entry);
        Some(entry)
    }

    /// A message is no longer here.
    fn forget(&mut self, entry: &Entry) {
        self.bytes -= entry.message.memory_bytes();
        self.body_bytes -= entry.message.body_len();
    }

    /// Sees to it that what is in front is a message.
    fn settle_front(&mut self) {
        while self.gaps > 0 && self.fresh.front().is_some_and(Entry::is_gap) {
            self.fresh.pop_front();
            self.gaps -= 1;
        }
        if self.fresh.is_empty() {
            self.advance();
        }
    }

    fn close_gaps(&mut self) {
        if self.gaps > CLOSE_GAPS_FROM && self.gaps > self.fresh.len() / 2 {
            self.fresh.retain(|entry| !entry.is_gap());
            self.gaps = 0;
        }
    }

    /// Moves what comes next, and is here, to the front.
    fn advance(&mut self) {
        if let Some(Stretch::Here(entries)) = self.behind.front_mut() {
            self.behind_here -= entries.len();
            self.fresh = std::mem::take(entries);
            self.behind.pop_front();
        }
    }

    /// Puts one message back where it was, in logarithmic time wherever that is.
    pub(crate) fn put_back(&mut self, entry: Entry) {
        self.bytes += entry.message.memory_bytes();
        self.body_bytes += entry.message.body_len();
        self.returned.insert(entry.seq, entry);
    }

    /// Puts the place of a message back where it was that is in the log alone, and would hold so many
    /// octets in memory. Of several, the last is best put back first.
    pub(crate) fn put_back_away(&mut self, seq: Seq, bytes: u64) {
        self.away += 1;
        self.away_bytes += octets(bytes);
        if self.fresh.back().is_some_and(|last| last.seq > seq) {
            // What is newer waits behind it.
            self.fresh.retain(|entry| !entry.is_gap());
            self.gaps = 0;
            let at = self.fresh.partition_point(|entry| entry.seq < seq);
            let newer = if at == 0 {
                std::mem::take(&mut self.fresh)
            } else {
                self.fresh.split_off(at)
            };
            if !newer.is_empty() {
                self.behind_here += newer.len();
                self.behind.push_front(Stretch::Here(newer));
            }
        }
        self.behind.put_back_away(seq, bytes);
    }

    /// Puts many messages back where they were, `entries` ascending by `seq`: one merge, unless
    /// they are few beside those that are there.
    pub(crate) fn put_all_back(&mut self, entries: Vec<Entry>) {
        if entries.len() < self.returned.len() / MERGE_FROM {
            for entry in entries {
                self.put_back(entry);
            }
            return;
        }
        self.bytes += memory_of(&entries);
        let bodies = entries.iter().map(|entry| entry.message.body_len());
        self.body_bytes += bodies.sum::<usize>();
        let mut entries = entries
            .into_iter()
            .map(|entry| (entry.seq, entry))
            .collect();
        self.returned.append(&mut entries);
    }

    /// What the swap area has to take before the others can leave memory: messages that the log has
    /// not, in order, about `most` octets of them.
    ///
    /// Looks only at what came since the last time.
    pub(crate) fn to_swap(
        &self,
        leaving: Leaving,
        most: usize,
    ) -> Option<(Batch, Vec<(Seq, Message)>)> {
        let (newest, at) = match self.behind.back() {
            Some(Stretch::Here(entries)) => (entries, 0),
            Some(Stretch::Away(_)) => return None,
            None => (&self.fresh, beyond(&self.fresh, leaving.keep)?),
        };
        let stays = |entry: &&Entry| entry.is_gap() || leaving.is_logged(&entry.message);
        let newest = newest.range(at..).skip_while(stays);
        let mut messages = Vec::new();
        let (mut bytes, mut last) = (0, Seq(0));
        for entry in newest.take(SWAPPED_AT_ONCE) {
            if entry.seq > leaving.through || bytes > most {
                break;
            }
            last = entry.seq;
            if !stays(&entry) {
                bytes += entry.message.memory_bytes();
                messages.push((entry.seq, entry.message.clone()));
            }
        }
        let &(first, _) = messages.first()?;
        let count = messages.len();
        Some((Batch { first, last, count }, messages))
    }

    /// Lets go of messages that the log has; if a batch has been swapped out, of these and of those
    /// among them that the log has. Calls with each, and returns them, to be dropped where it holds
    /// nobody up.
    ///
    /// Looks only at what came since the last time.
    pub(crate) fn page_out(
        &mut self,
        leaving: Leaving,
        swapped: Option<Batch>,
        mut each: impl FnMut(Seq, &Message),
    ) -> Vec<Message> {
        if self.behind.is_empty() {
            let rest = self.split_fresh(leaving.keep);
            if rest.is_empty() {
                return Vec::new();
            }
            self.behind_here = rest.len();
            self.behind.push_back(Stretch::Here(rest));
        }
        let Some(Stretch::Here(newest)) = self.behind.back_mut() else {
            return Vec::new();
        };
        let mut newest = std::mem::take(newest);
        self.behind.pop_back();
        self.behind_here -= newest.len();
        let through = swapped.map_or(leaving.through, |batch| batch.last);
        let mut gone = Vec::new();
        while newest.front().is_some_and(|entry| entry.seq <= through)
            && let Some(entry) = newest.pop_front()
        {
            let is_swapped = swapped.is_some_and(|batch| entry.seq >= batch.first);
            if is_swapped || leaving.is_logged(&entry.message) {
                each(entry.seq, &entry.message);
                let bytes = entry.message.memory_bytes();
                self.unreturned_bytes -= bytes;
                self.forget(&entry);
                self.add_away(entry.seq, bytes as u64);
                self.away_extra += bytes - entry.message.body_len();
                gone.push(entry.message);
            } else {
                self.push_behind(entry);
            }
        }
        self.behind_here += newest.len();
        match self.behind.back_mut() {
            _ if newest.is_empty() => {}
            Some(Stretch::Here(entries)) => entries.append(&mut newest),
            _ => self.behind.push_back(Stretch::Here(newest)),
        }
        if self.fresh.is_empty() {
            self.advance();
        }
        gone
    }

    /// Memory of messages behind this place that have not left since they came, in octets.
    pub(crate) fn bytes_after(&self, through: Seq) -> usize {
        let newest = match self.behind.back() {
            Some(Stretch::Here(entries)) => entries,
            Some(Stretch::Away(_)) => return 0,
            None => &self.fresh,
        };
        let later = newest.iter().rev().take_while(|entry| entry.seq > through);
        memory_of(later.filter(|entry| !entry.is_gap()))
    }

    /// Places of a batch that are not away.
    pub(crate) fn not_away(&self, batch: Batch) -> Vec<(Seq, Seq)> {
        let mut runs = Vec::new();
        let mut end = batch.last;
        for stretch in self.behind.iter().rev() {
            let Stretch::Away(run) = stretch else {
                continue;
            };
            if run.last < batch.first || end < batch.first {
                break;
            }
            if run.last < end {
                runs.push((Seq(run.last.0 + 1), end));
            }
            end = end.min(Seq(run.first.0.saturating_sub(1)));
        }
        if batch.first <= end {
            runs.push((batch.first, end));
        }
        runs
    }

    /// What is in `fresh` beyond the first `keep` octets.
    fn split_fresh(&mut self, keep: usize) -> VecDeque<Entry> {
        self.fresh.retain(|entry| !entry.is_gap());
        self.gaps = 0;
        let at = beyond(&self.fresh, keep);
        at.map(|at| self.fresh.split_off(at)).unwrap_or_default()
    }

    fn add_away(&mut self, seq: Seq, bytes: u64) {
        self.away += 1;
        self.away_bytes += octets(bytes);
        match self.behind.back_mut() {
            Some(Stretch::Away(run)) if run.last.0 + 1 == seq.0 => {
                run.last = seq;
                run.bytes += bytes;
            }
            _ => self.behind.push_back(Stretch::Away(Run {
                first: seq,
                last: seq,
                bytes,
            })),
        }
    }

    /// The places to ask back: those that are away and come next. None if what comes next is here,
    /// or if there is still plenty in front of it.
    pub(crate) fn wanted(&self, plenty: usize) -> Option<(Seq, Seq)> {
        if self.behind.is_empty() || self.unreturned_bytes > plenty && !self.fresh.is_empty() {
            return None;
        }
        let returned = self.returned.first_key_value();
        if self.bytes - self.unreturned_bytes > plenty
            && returned.is_some_and(|(seq, _)| self.behind.first().is_some_and(|next| *seq < next))
        {
            return None;
        }
        let away = |stretch: &Stretch| match stretch {
            Stretch::Away(run) => Some(*run),
            Stretch::Here(_) => None,
        };
        let mut runs = self.behind.iter().map_while(away).take(RUNS_WANTED_MAX);
        let first = runs.next()?;
        let last = runs.last().unwrap_or(first);
        Some((first.first, last.last))
    }

    /// The first place that is away.
    pub(crate) fn first_away(&self) -> Option<Seq> {
        self.behind.iter().find_map(|stretch| match stretch {
            Stretch::Away(run) => Some(run.first),
            Stretch::Here(_) => None,
        })
    }

    /// Takes in messages that come back from the log or the swap area, in order. `past` says what
    /// each has been through, and whether nobody else could say so again: then it is one that was
    /// returned, and stays in memory.
    ///
    /// What is not away any more (purged meanwhile, say) is ignored.
    pub(crate) fn bring_back(
        &mut self,
        messages: Vec<(Seq, Message, Option<Wall>)>,
        mut past: impl FnMut(Seq) -> (Past, bool),
    ) {
        for (seq, message, _) in messages {
            // What the log does not give although it was asked for is gone.
            while let Some(Stretch::Away(run)) = self.behind.front_mut()
                && run.first < seq
            {
                let first = run.first;
                self.away -= 1;
                self.drop_first_away(first);
            }
            let Some(Stretch::Away(run)) = self.behind.front_mut() else {
                return;
            };
            if run.first != seq {
                continue;
            }
            let bytes = message.memory_bytes();
            let reckoned = run.bytes.min(bytes as u64);
            run.bytes -= reckoned;
            self.away_bytes -= octets(reckoned);
            self.away -= 1;
            self.drop_first_away(seq);
            self.bytes += bytes;
            self.body_bytes += message.body_len();
            self.forget_extra(bytes - message.body_len());
            let (past, stays) = past(seq);
            let entry = Entry {
                message,
                seq,
                deliveries: past.deliveries,
                failures: past.failures,
            };
            if stays {
                self.returned.insert(seq, entry);
            } else {
                self.unreturned_bytes += bytes;
                self.fresh.push_back(entry);
            }
        }
        if self.fresh.is_empty() {
            self.advance();
        }
    }

    /// What is not the body of a message that is away no more.
    fn forget_extra(&mut self, bytes: usize) {
        self.away_extra = match self.away {
            0 => 0,
            _ => self.away_extra.saturating_sub(bytes),
        };
    }

    fn drop_first_away(&mut self, first: Seq) {
        if let Some(Stretch::Away(run)) = self.behind.front_mut() {
            if run.last == first {
                self.away_bytes -= octets(run.bytes);
                self.behind.pop_front();
            } else {
                run.first = Seq(first.0 + 1);
            }
        }
    }

    /// Messages that are away.
    pub(crate) fn away(&self) -> usize {
        self.away
    }

    /// Whether a message waits and is away.
    pub(crate) fn is_away(&self, seq: Seq) -> bool {
        self.behind.is_away(seq)
    }

    /// A message that is away has left. Returns its share of the octets there, if it was there.
    pub(crate) fn drop_away(&mut self, seq: Seq) -> Option<u64> {
        let bytes = self.behind.drop_away(seq)?;
        let extra = self.away_extra / self.away.max(1); // as with the share
        self.away -= 1;
        self.forget_extra(extra);
        self.away_bytes -= octets(bytes);
        if self.fresh.is_empty() {
            self.advance();
        }
        Some(bytes)
    }

    /// The oldest place, whether its message is here or away.
    pub(crate) fn first(&self) -> Option<Seq> {
        let returned = self.returned.first_key_value().map(|(&seq, _)| seq);
        returned.into_iter().chain(self.first_fresh()).min()
    }

    /// The oldest place that was never delivered in this life, if there is one.
    pub(crate) fn first_fresh(&self) -> Option<Seq> {
        let fresh = self.fresh.front().map(|entry| entry.seq);
        fresh.or_else(|| self.behind.first())
    }

    /// Empties the index; dropping the result is the expensive part, and may be done elsewhere.
    pub(crate) fn take_all(&mut self) -> Vec<Message> {
        let Self {
            returned,
            fresh,
            behind,
            ..
        } = std::mem::take(self);
        let behind = behind.into_iter().filter_map(|stretch| match stretch {
            Stretch::Here(entries) => Some(entries),
            Stretch::Away(_) => None,
        });
        returned
            .into_values()
            .chain(fresh)
            .chain(behind.flatten())
            .filter(|entry| !entry.is_gap())
            .map(|entry| entry.message)
            .collect()
    }

    /// The places of all messages, as runs from first to last.
    pub(crate) fn places(&self) -> Vec<(Seq, Seq)> {
        let mut runs: Vec<(Seq, Seq)> = Vec::new();
        for (first, last) in self.stretches() {
            match runs.last_mut() {
                Some((_, end)) if end.0 + 1 == first.0 => *end = last,
                _ => runs.push((first, last)),
            }
        }
        runs
    }

    /// The places of all messages in order, some of them as runs.
    fn stretches(&self) -> impl Iterator<Item = (Seq, Seq)> {
        let here = |entry: &Entry| (entry.seq, entry.seq);
        let returned = self.returned.values().map(here);
        let behind = self.behind.iter().flat_map(move |stretch| {
            let (entries, run) = match stretch {
                Stretch::Here(entries) => (Some(entries), None),
                Stretch::Away(run) => (None, Some((run.first, run.last))),
            };
            entries.into_iter().flatten().map(here).chain(run)
        });
        let fresh = self.fresh.iter().filter(|entry| !entry.is_gap());
        let mut returned = returned.peekable();
        let mut others = fresh.map(here).chain(behind).peekable();
        std::iter::from_fn(move || match (returned.peek(), others.peek()) {
            (Some(back), Some(other)) if back > other => others.next(),
            (Some(_), _) => returned.next(),
            (None, _) => others.next(),
        })
    }

    /// The places of all messages, in order.
    pub(crate) fn seqs(&self) -> impl Iterator<Item = Seq> {
        self.stretches()
            .flat_map(|(first, last)| (first.0..=last.0).map(Seq))
    }

    /// Asserts the invariants in the header of this file.
    pub(crate) fn check(&self) {
        assert!(self.returned.iter().all(|(seq, entry)| *seq == entry.seq));
        assert!(self.seqs().is_sorted_by(|a, b| a < b));
        let here = |stretch: &Stretch| match stretch {
            Stretch::Here(entries) => entries.iter().cloned().collect(),
            Stretch::Away(_) => Vec::new(),
        };
        let behind: Vec<Entry> = self.behind.iter().flat_map(here).collect();
        let fresh = self.fresh.iter().filter(|entry| !entry.is_gap());
        assert_eq!(fresh.clone().count() + self.gaps, self.fresh.len());
        assert!(!self.fresh.front().is_some_and(Entry::is_gap));
        let unreturned = memory_of(fresh.chain(&behind));
        assert_eq!(unreturned, self.unreturned_bytes);
        assert_eq!(memory_of(self.returned.values()) + unreturned, self.bytes);
        let here = self
            .returned
            .values()
            .chain(self.fresh.iter())
            .chain(&behind);
        let bodies: usize = here
            .filter(|entry| !entry.is_gap())
            .map(|entry| entry.message.body_len())
            .sum();
        assert_eq!(bodies, self.body_bytes);
        let away = |stretch: &Stretch| match stretch {
            Stretch::Away(run) => octets(run.bytes),
            Stretch::Here(_) => 0,
        };
        let away: usize = self.behind.iter().map(away).sum();
        assert_eq!(away, self.away_bytes);
        assert_eq!(behind.len(), self.behind_here);
        assert_eq!(self.seqs().count(), self.len());
        if self.fresh.is_empty() {
            assert!(!matches!(self.behind.front(), Some(Stretch::Here(_))));
        }
    }
}

/// Most runs that are asked back at once.
const RUNS_WANTED_MAX: usize = 4_096;

/// The first of these messages beyond so many octets.
fn beyond(entries: &VecDeque<Entry>, octets: usize) -> Option<usize> {
    let mut bytes = 0;
    entries.iter().position(|entry| {
        bytes += entry.message.memory_bytes();
        bytes > octets && !entry.is_gap()
    })
}

fn places_in(run: &Run) -> usize {
    usize::try_from(run.last.0 - run.first.0 + 1).unwrap_or(usize::MAX)
}

fn octets(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn memory_of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> usize {
    let bytes = entries
        .into_iter()
        .map(|entry| entry.message.memory_bytes());
    bytes.sum()
}

/// Gives memory back when most of it is unused. Halving at a quarter keeps this O(1) amortised.
fn shrink(run: &mut VecDeque<Entry>) {
    if run.capacity() > KEPT_CAPACITY && run.len() < run.capacity() / 4 {
        run.shrink_to(run.capacity() / 2);
    }
}

#[cfg(test)]
mod tests {
    use leveret_codec::ContentHeader;
    use proptest::prelude::*;

    use super::*;

    fn entry(seq: u64) -> Entry {
        let header = ContentHeader {
            class_id: 60,
            body_size: 1,
            flags: 0,
            raw: &[],
            summary: leveret_codec::PropertySummary::default(),
        };
        let message = Message::build(&mut Vec::new(), "", "q", &header, b"x");
        Entry {
            message,
            seq: Seq(seq),
            deliveries: 0,
            failures: 0,
        }
    }

    /// After a start with a message that waits to be delivered again: those behind it are being read
    /// when its time has come.
    #[test]
    fn a_place_comes_back_before_what_is_half_read() {
        for taken in [0, 1] {
            let run = |first, last| Run {
                first: Seq(first),
                last: Seq(last),
                bytes: 0,
            };
            let mut index = Index::recovered(vec![run(1, 1), run(3, 10)]);
            index.drop_away(Seq(1)).expect("it is away");
            let read = [3, 4].map(|seq| (Seq(seq), entry(seq).message, None));
            let never = Past {
                deliveries: 0,
                failures: 0,
            };
            index.bring_back(read.to_vec(), |_| (never, false));
            for _ in 0..taken {
                index.pop().expect("it was read");
            }
            index.put_back_away(Seq(1), 0);
            index.check();
            let places: Vec<u64> = index.seqs().map(|seq| seq.0).collect();
            let expected: Vec<u64> = std::iter::once(1).chain(3 + taken..=10).collect();
            assert_eq!(places, expected);
        }
    }

    #[test]
    fn memory_of_a_drained_queue_comes_back() {
        let mut index = Index::default();
        for seq in 1..=100_000 {
            index.push(entry(seq));
        }
        while index.pop().is_some() {}
        assert!(index.fresh.capacity() <= 2 * KEPT_CAPACITY);
        assert_eq!(index.bytes(), 0);
    }

    proptest! {
        /// Whatever is taken and put back in whatever portions, the oldest comes out first.
        #[test]
        fn order_survives_any_requeue(moves in prop::collection::vec((0u8..4, 1usize..20), 1..80)) {
            let mut index = Index::default();
            let mut out: Vec<Entry> = Vec::new();
            let mut waiting = std::collections::BTreeSet::new();
            let mut next = 1;
            for (what, count) in moves {
                match what {
                    0 => for _ in 0..count {
                        index.push(entry(next));
                        waiting.insert(next);
                        next += 1;
                    },
                    1 => for _ in 0..count {
                        let Some(entry) = index.pop() else { break };
                        prop_assert_eq!(Some(entry.seq.0), waiting.pop_first());
                        out.push(entry);
                    },
                    2 => if !out.is_empty() {
                        let entry = out.remove(count % out.len());
                        waiting.insert(entry.seq.0);
                        index.put_back(entry);
                    },
                    _ => {
                        let mut back: Vec<Entry> = out.drain(..count.min(out.len())).collect();
                        back.sort_by_key(|e| e.seq);
                        waiting.extend(back.iter().map(|e| e.seq.0));
                        index.put_all_back(back);
                    }
                }
                index.check();
                prop_assert_eq!(index.len(), waiting.len());
            }
        }
    }
}

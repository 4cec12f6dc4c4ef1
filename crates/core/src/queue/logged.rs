//! What a queue has to do with the log: its number there, how far it may deliver, what was paged out
//! to it or to the swap area.
//!
//! Marks are about the numbers in places. A queue with priorities does not deliver in that order, so
//! its marks cover messages that never were delivered as well.

use std::collections::VecDeque;

use crate::ids::{ChannelKey, Lsn, QueueId, QueueNumber, Seq};
use crate::log::Swap;
use crate::record::MAY_DELIVER_FIRST;

/// Places a mark reaches beyond the message that asks for it.
const MARK_AHEAD: u64 = 65_536;

/// No queue has this place.
const NEVER: Seq = Seq(u64::MAX);

/// The log's side of a queue.
#[derive(Debug)]
pub(crate) struct Logged {
    /// What the log knows it by.
    pub(crate) number: QueueNumber,
    /// Messages up to here may be delivered: the log knows that they may have been.
    pub(crate) may_deliver: Seq,
    /// Delivering from here on asks for the next mark.
    mark_from: Seq,
    /// The mark that is asked for, and the record that makes it hold.
    pub(crate) mark_asked: Option<(Lsn, Seq)>,
    /// Messages up to here may have been delivered before the last restart.
    pub(crate) delivered_before: Seq,
    /// Messages of a priority from these places on may be delivered once these records are safe, in
    /// order.
    held: Vec<(u8, VecDeque<(Lsn, Seq)>)>,
    /// Messages up to this place may be paged out once this record is safe.
    pub(crate) page_out: Option<(Lsn, Seq)>,
    /// What it must hold in memory before it is paged out again, in octets.
    pub(crate) page_out_from: usize,
    /// Messages that are being written to the swap area; what else is to be paged out waits for
    /// that.
    pub(crate) swapping: Option<Batch>,
    /// The swap area may have some of its messages.
    pub(crate) swapped: bool,
    /// Times in a row that they could not be read.
    pub(crate) failed_fetches: u32,
    /// Messages were asked back and have not come yet.
    pub(crate) fetching: bool,
    /// The first of what was asked back last, unless that is `reading_dying`.
    pub(crate) asked: Seq,
    /// What was asked back is not the next in line but these: they are to be dead-lettered.
    pub(crate) reading_dying: Vec<Seq>,
    /// Channels whose `basic.get` waits for a message that is not to be had right now.
    pub(crate) waiting: Vec<ChannelKey>,
}

/// Messages on their way to the swap area: all of a queue between two places that the log has not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch {
    pub(crate) first: Seq,
    /// Those up to here that the log has leave memory with them.
    pub(crate) last: Seq,
    /// How many they were.
    pub(crate) count: usize,
}

impl Logged {
    /// A queue the log knows nothing of.
    pub(crate) fn transient() -> Self {
        Self {
            number: QueueNumber(0),
            may_deliver: NEVER,
            mark_from: NEVER,
            mark_asked: None,
            delivered_before: Seq(0),
            held: Vec::new(),
            page_out: None,
            page_out_from: 0,
            swapping: None,
            swapped: false,
            failed_fetches: 0,
            fetching: false,
            asked: Seq(0),
            reading_dying: Vec::new(),
            waiting: Vec::new(),
        }
    }

    /// A queue whose declaration has this number.
    pub(crate) fn durable(number: QueueNumber) -> Self {
        let mut logged = Self {
            number,
            ..Self::transient()
        };
        logged.mark(Seq(MAY_DELIVER_FIRST));
        logged
    }

    /// A queue the log has kept: messages up to `may_deliver` may have been delivered, if there
    /// were so many: `last` is the last of them.
    pub(crate) fn recovered(number: QueueNumber, may_deliver: Seq, last: Seq) -> Self {
        let mut logged = Self {
            number,
            delivered_before: may_deliver.min(last),
            ..Self::transient()
        };
        logged.mark(may_deliver);
        logged
    }

    /// Whether a message may be delivered.
    #[inline]
    pub(crate) fn lets_go(&self, seq: Seq) -> bool {
        seq.number() <= self.may_deliver.0 && !self.is_held(seq)
    }

    /// Whether a message waits for a record to be safe.
    #[inline]
    pub(crate) fn is_held(&self, seq: Seq) -> bool {
        let held = self.held.iter().find(|(level, _)| *level == seq.level());
        let first = held.and_then(|(_, held)| held.front());
        first.is_some_and(|&(_, from)| seq >= from)
    }

    /// The next message, in this place, is what the broker itself publishes, and nobody may see
    /// it before its record is safe: without that the broker publishes it again after a crash. Waits
    /// until the records of those before it in its priority are safe, too.
    pub(crate) fn hold(&mut self, place: Seq, safe: Lsn) {
        let level = place.level();
        let at = self.held.iter().position(|(held, _)| *held == level);
        let at = at.unwrap_or_else(|| {
            self.held.push((level, VecDeque::new()));
            self.held.len() - 1
        });
        let held = &mut self.held[at].1;
        if held.back().is_none_or(|&(last, _)| last < safe) {
            held.push_back((safe, place));
        }
    }

    /// The log has come this far. Returns whether that lets anything go.
    pub(crate) fn let_go(&mut self, durable: Lsn) -> bool {
        let mut any = false;
        self.held.retain_mut(|(_, held)| {
            let safe = held.partition_point(|&(due, _)| due <= durable);
            held.drain(..safe);
            any |= safe > 0;
            !held.is_empty()
        });
        any
    }

    /// Whether anything is held.
    pub(crate) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Records became one: what waits for one of them waits for this.
    pub(crate) fn folded_into(&mut self, lsn: Lsn) {
        let asked = self.mark_asked.iter_mut().chain(&mut self.page_out);
        let held = self.held.iter_mut().flat_map(|(_, held)| held);
        for (due, _) in asked.chain(held) {
            *due = lsn.min(*due);
        }
    }

    /// A mark holds.
    pub(crate) fn mark(&mut self, through: Seq) {
        self.may_deliver = through;
        // Half-way there, so that deliveries go on while the log is busy.
        self.mark_from = Seq(through.0.saturating_sub(MARK_AHEAD / 2));
    }

    /// What the swap area is told when nothing of the queue's is needed any more.
    pub(crate) fn forget_swapped(&mut self, id: QueueId) -> Option<Swap> {
        std::mem::take(&mut self.swapped).then(|| Swap::Forget {
            queue: id,
            runs: vec![(Seq(0), NEVER)],
        })
    }

    /// The mark to ask for after a message was, or is to be, delivered.
    #[inline]
    pub(crate) fn next_mark(&self, delivered: Seq) -> Option<Seq> {
        let due = delivered >= self.mark_from && self.mark_asked.is_none();
        due.then(|| Seq(delivered.0.saturating_add(MARK_AHEAD)))
    }
}

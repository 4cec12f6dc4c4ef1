//! What queues have to do with the log beyond its records: marks of how far they may deliver, and
//! long backlogs that are paged out and asked back.
//!
//! What is persistent and in a durable queue is in the log anyway: memory lets go of it when its
//! record is safe. Everything else has to be written to the swap area first, a batch at a time for
//! each queue. Until the batch is reported its messages are where they were, and may be delivered,
//! expire or be purged; the swap area forgets those again. A batch that could not be written
//! stays in memory, and so does one of which nothing is heard.

use crate::effect::Effects;
use crate::error::AmqpError;
use crate::event::Event;
use crate::ids::{Lsn, Mono, QueueId, Seq, Wall};
use crate::log::{Fetch, Fetched, LogError, Swap, Swapped};
use crate::message::Message;
use crate::queue::Queue;
use crate::queue::index::Leaving;
use crate::queue::logged::Batch;
use crate::record::Fact;
use crate::retry::past_of;
use crate::timer::Timer;
use crate::vhost::Vhost;

/// Of what a queue may hold in memory, one in this many octets stays when the rest is paged out:
/// its first messages. As much is asked back at once.
const KEPT_PART: usize = 4;

/// Most octets that stay while memory is short.
const KEPT_BYTES_SHORT: usize = 64 << 10;

/// Octets of a queue that are swapped out in one go, at most and roughly.
const SWAPPED_BYTES_AT_ONCE: usize = 8 << 20;

/// How long after a failed read it is tried again, in milliseconds.
const FETCH_AGAIN_MS: u64 = 1_000;

/// How long after a failed write to the swap area it is tried again while memory is short, in
/// milliseconds.
const SWAP_AGAIN_MS: u64 = 5_000;

/// Reads that may fail in a row before `basic.get` waits no longer.
const FETCHES_WAITED_FOR: u32 = 3;

/// Whether a queue still has something to page out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Paging {
    /// It waits for the log, or for others that are being swapped out.
    Waits,
    /// It has nothing, or waits for its own report.
    Over,
    /// It has grown meanwhile.
    Again,
}

impl Vhost {
    /// Asks for what the queue's consumers will need soon: the next mark, and messages that are
    /// away.
    pub(crate) fn look_ahead(&mut self, id: QueueId, fx: &mut Effects) {
        let plenty = self.kept_bytes();
        let Some(queue) = self.queues.get_mut(id) else {
            return;
        };
        if let Some(through) = queue.logged.next_mark(queue.upcoming()) {
            let number = queue.logged.number;
            let fact = Fact::MayDeliver {
                queue: number,
                through,
            };
            let due = fx.record(self.lsn, fact);
            self.lsn = due;
            queue.logged.mark_asked = Some((due, through));
            self.logging.push(id);
        }
        if !queue.logged.fetching
            && let Some((first, last)) = queue.index.wanted(plenty)
        {
            self.ask_back(id, first, last, plenty, fx);
        }
    }

    /// Offers a message to a queue that the broker itself publishes: nobody sees it before this
    /// record is safe.
    pub(crate) fn offer_when(
        &mut self,
        id: QueueId,
        message: Message,
        safe: Lsn,
        fx: &mut Effects,
    ) {
        if safe > self.durable
            && let Some(queue) = self.queues.get_mut(id)
        {
            let place = queue.next_place(&message);
            if !queue.logged.holds() {
                self.logging.push(id);
            }
            queue.logged.hold(place, safe);
        }
        self.offer(id, message, fx);
    }

    /// Asks the log for messages that are away; nothing else is asked for.
    pub(crate) fn ask_back(
        &mut self,
        id: QueueId,
        first: Seq,
        last: Seq,
        bytes_max: usize,
        fx: &mut Effects,
    ) {
        let Some(queue) = self.queues.get_mut(id) else {
            return;
        };
        queue.logged.fetching = true;
        queue.logged.asked = first;
        fx.fetches.push(Fetch {
            queue: id,
            number: queue.logged.number,
            first,
            last,
            bytes_max,
        });
    }

    /// Octets of a queue's first messages that stay when the rest is paged out, and that are asked
    /// back at once.
    pub(crate) fn kept_bytes(&self) -> usize {
        let plenty = self.limits.queue_memory_max / KEPT_PART;
        if self.memory_is_short() {
            plenty.min(KEPT_BYTES_SHORT)
        } else {
            plenty
        }
    }

    /// Octets that a queue may hold before it is paged out.
    #[inline]
    fn budget(&self) -> usize {
        if self.memory_is_short() {
            self.kept_bytes().saturating_mul(KEPT_PART)
        } else {
            self.limits.queue_memory_max
        }
    }

    /// Octets of a queue that are swapped out in one go.
    fn batch_bytes(&self) -> usize {
        SWAPPED_BYTES_AT_ONCE.min(self.limits.queue_memory_max / 2)
    }

    fn has_swap(&self) -> bool {
        self.limits.swap_bytes_max > 0
    }

    /// Records became one: what waits for one of them waits for this.
    pub(crate) fn folded_into(&mut self, lsn: Lsn) {
        for id in &self.logging {
            let Some(queue) = self.queues.get_mut(*id) else {
                continue;
            };
            queue.logged.folded_into(lsn);
        }
    }

    /// A queue has grown: once what it holds in memory is too much, the rest is kept elsewhere.
    #[inline]
    pub(crate) fn watch_backlog(&mut self, id: QueueId, fx: &mut Effects) {
        let Some(queue) = self.queues.get(id) else {
            return;
        };
        let enough = queue.logged.page_out_from.max(self.budget());
        if queue.index.unreturned_bytes() <= enough {
            return;
        }
        if !self.begin_page_out(id) {
            if self.is_behind(id) && !self.swap_behind.contains(&id) {
                self.swap_behind.push(id);
            }
        } else if self.page_out(id, fx) == Paging::Waits {
            self.logging.push(id);
        }
    }

    /// What a queue holds now is to be paged out as soon as that is possible. False if that was
    /// asked for before, or never will be possible.
    fn begin_page_out(&mut self, id: QueueId) -> bool {
        let swaps = self.has_swap();
        let Some(queue) = self.queues.get_mut(id) else {
            return false;
        };
        if queue.logged.page_out.is_some() || !(queue.durable || swaps) {
            return false;
        }
        // Its messages are all recorded by now, so they are in the log when this record is.
        let due = if queue.durable { self.lsn } else { Lsn(0) };
        queue.logged.page_out = Some((due, queue.recorded_through()));
        true
    }

    /// Memory is short: queues page out all but their very first messages.
    pub(crate) fn page_out_all(&mut self, fx: &mut Effects) {
        let keep = self.kept_bytes();
        let retries = |queue: &Queue| {
            let retries = queue.retries.as_ref();
            queue.durable && retries.is_some_and(|retries| retries.bytes() > 0)
        };
        let large = |queue: &Queue| queue.index.unreturned_bytes() > keep || retries(queue);
        let queues = self.queues.iter().filter(|(_, queue)| large(queue));
        let queues: Vec<(QueueId, bool)> = queues.map(|(id, q)| (id, retries(q))).collect();
        for (id, retries) in queues {
            self.work += 1;
            if self.begin_page_out(id) || retries {
                self.logging.push(id);
            }
        }
        self.logged_through(fx);
    }

    /// The log has come further: marks hold, and what is to be paged out can be read back.
    pub(crate) fn logged_through(&mut self, fx: &mut Effects) {
        for id in std::mem::take(&mut self.logging) {
            self.work += 1;
            let Some(queue) = self.queues.get_mut(id) else {
                continue;
            };
            let mut goes_on = queue.logged.let_go(self.durable);
            if let Some((due, through)) = queue.logged.mark_asked
                && due <= self.durable
            {
                queue.logged.mark_asked = None;
                queue.logged.mark(through);
                goes_on = true;
            }
            let mut again = queue.logged.mark_asked.is_some() || queue.logged.holds();
            if goes_on {
                self.pump(id, fx);
                self.wake_getters(id);
            }
            again |= self.page_out(id, fx) == Paging::Waits;
            again |= self.page_out_retries(id, fx);
            if again {
                self.logging.push(id);
            }
        }
        self.logging.sort_unstable();
        self.logging.dedup();
        self.page_out_delayed(fx);
    }

    /// Pages a queue out if that is asked for and can be done now.
    fn page_out(&mut self, id: QueueId, fx: &mut Effects) -> Paging {
        loop {
            match self.page_out_part(id, fx) {
                Paging::Again => {}
                paging => return paging,
            }
        }
    }

    fn page_out_part(&mut self, id: QueueId, fx: &mut Effects) -> Paging {
        let keep = self.kept_bytes();
        let batch_bytes = self.batch_bytes();
        let is_full = self.swapping_bytes > 0
            && self.swapping_bytes + batch_bytes > self.limits.swap_bytes_max;
        let swaps = self.has_swap();
        let Some(queue) = self.queues.get_mut(id) else {
            return Paging::Over;
        };
        let Some((due, through)) = queue.logged.page_out else {
            return Paging::Over;
        };
        if queue.logged.swapping.is_some() {
            return Paging::Over;
        }
        if due > self.durable {
            return Paging::Waits;
        }
        let leaving = Leaving {
            through,
            keep,
            durable: queue.durable,
        };
        let most = if is_full { 0 } else { batch_bytes };
        if swaps && let Some((batch, messages)) = queue.index.to_swap(leaving, most) {
            if is_full {
                return Paging::Waits;
            }
            queue.logged.swapping = Some(batch);
            queue.logged.swapped = true;
            let bytes = messages.iter().map(|(_, message)| message.memory_bytes());
            let bytes = bytes.sum();
            let messages = self.with_arrivals(id, messages);
            self.swapping_bytes += bytes;
            self.work += messages.len() as u64;
            fx.swaps.push(Swap::Out {
                queue: id,
                messages,
                bytes,
            });
            return Paging::Over;
        }
        self.let_go(id, through, None, fx);
        self.end_page_out(id, through)
    }

    /// Messages with when they arrived, if they are to expire: by that their deadline is known again
    /// when they come back.
    fn with_arrivals(
        &self,
        id: QueueId,
        messages: Vec<(Seq, Message)>,
    ) -> Vec<(Seq, Message, Option<Wall>)> {
        let queue = self.queues.get(id);
        let arrival = |seq: Seq, message: &Message| {
            let queue = queue?;
            let due = queue.deadlines.as_ref()?.of(seq)?;
            self.arrival(queue.rules.ttl_ms, message, due)
        };
        let messages = messages.into_iter().map(|(seq, message)| {
            let at = arrival(seq, &message);
            (seq, message, at)
        });
        messages.collect()
    }

    /// What a queue held up to this place is paged out, as far as that is possible. If it has grown too
    /// much meanwhile, it begins again: nobody may come and look.
    fn end_page_out(&mut self, id: QueueId, through: Seq) -> Paging {
        let budget = self.budget();
        let Some(queue) = self.queues.get_mut(id) else {
            return Paging::Over;
        };
        queue.logged.page_out = None;
        let rest = queue.index.unreturned_bytes();
        let later = queue.index.bytes_after(through);
        // What cannot be paged out is not looked at again for each message that follows it.
        queue.logged.page_out_from = rest - later + budget / 2;
        if rest > budget && later > budget / 2 && self.begin_page_out(id) {
            Paging::Again
        } else {
            Paging::Over
        }
    }

    /// What was to be swapped out is there now, or it cannot be done.
    pub(crate) fn swapped(&mut self, swapped: Swapped, fx: &mut Effects) {
        self.swapping_bytes = self.swapping_bytes.saturating_sub(swapped.bytes);
        let id = swapped.queue;
        let is_short = self.memory_is_short();
        if let Some(queue) = self.queues.get_mut(id)
            && let Some(batch) = queue.logged.swapping.take()
        {
            if let Some(error) = swapped.error {
                let through = queue.logged.page_out.map_or(Seq(0), |(_, seq)| seq);
                if is_short && !std::mem::replace(&mut self.swaps_again, true) {
                    // Publishers are stopped, so no growth brings it about.
                    let at = self.now.mono.plus_ms(SWAP_AGAIN_MS);
                    self.timers.set(at, Timer::SwapAgain);
                }
                if !std::mem::replace(&mut self.swap_fails, true) {
                    fx.events.push(Event::SwapFailed {
                        queue: queue.name.clone(),
                        error,
                    });
                }
                self.let_go(id, through, None, fx);
                if self.end_page_out(id, through) == Paging::Again {
                    self.logging.push(id);
                }
            } else {
                if std::mem::take(&mut self.swap_fails) {
                    fx.events.push(Event::SwapResumed);
                }
                self.let_go(id, batch.last, Some(batch), fx);
                self.logging.push(id); // for the next batch
            }
        }
        self.logged_through(fx);
        let behind = std::mem::take(&mut self.swap_behind);
        self.swap_behind = behind
            .into_iter()
            .filter(|id| self.is_behind(*id))
            .collect();
    }

    /// Something could not be swapped out, and memory was short.
    pub(crate) fn swap_again(&mut self, fx: &mut Effects) {
        self.swaps_again = false;
        if self.memory_is_short() {
            self.page_out_all(fx);
        }
    }

    /// Whether a queue grows faster than it can be swapped out. Says no once nothing is on its way
    /// whose report would ask again.
    fn is_behind(&self, id: QueueId) -> bool {
        let Some(queue) = self.queues.get(id) else {
            return false;
        };
        let enough = queue.logged.page_out_from.max(self.budget());
        let bytes = queue.index.unreturned_bytes();
        self.swapping_bytes > 0
            && queue.logged.page_out.is_some()
            && bytes > enough + self.batch_bytes()
    }

    /// Memory lets go of messages of a queue that are kept elsewhere.
    fn let_go(&mut self, id: QueueId, through: Seq, swapped: Option<Batch>, fx: &mut Effects) {
        let keep = self.kept_bytes();
        let Some(queue) = self.queues.get_mut(id) else {
            return;
        };
        let leaving = Leaving {
            through,
            keep,
            durable: queue.durable,
        };
        let (ttl_ms, deadlines) = (queue.rules.ttl_ms, &mut queue.deadlines);
        let gone = queue
            .index
            .page_out(leaving, swapped, |level, seq, message| {
                if let Some(deadlines) = deadlines {
                    let own_ms = message.expiration_ms();
                    let own = own_ms.is_some_and(|own| ttl_ms.is_none_or(|ttl| own < ttl));
                    deadlines.page_out(level, seq, own, leaving.is_logged(message));
                }
            });
        if let Some(batch) = swapped {
            let count = gone.iter().filter(|gone| !leaving.is_logged(gone));
            let count = count.count();
            self.metrics.swapped_out += count as u64;
            if count < batch.count {
                // Some have left the queue meanwhile, or are about to.
                fx.swaps.push(Swap::Forget {
                    queue: id,
                    runs: queue.index.not_away(batch),
                });
            }
        }
        self.work += gone.len() as u64;
        self.metrics.paged_out += gone.len() as u64;
        if !gone.is_empty() {
            fx.garbage.push(gone);
            // Even the very first may be away now.
            if self.queues.get(id).is_some_and(|q| !q.consumers.is_empty()) {
                self.look_ahead(id, fx);
            }
        }
    }

    /// Messages have come back.
    pub(crate) fn fetched(&mut self, fetched: Fetched, fx: &mut Effects) {
        if Self::is_for_delayed(&fetched) {
            return self.delayed_fetched(fetched, fx);
        }
        let id = fetched.queue;
        let Some(queue) = self.queues.get_mut(id) else {
            return;
        };
        queue.logged.fetching = false;
        let came = fetched.messages.len();
        self.work += came as u64;
        self.metrics.paged_in += came as u64;
        let dying = std::mem::take(&mut queue.logged.reading_dying);
        let read_dying = !dying.is_empty();
        if read_dying {
            self.fetched_dying(id, dying, fetched.messages, fx);
            self.resume_deadlines(id, &[]);
        } else {
            self.fetched_next(id, fetched.messages, fx);
        }
        let Some(queue) = self.queues.get_mut(id) else {
            return;
        };
        let nothing = came == 0 && !read_dying && queue.index.is_away(queue.logged.asked);
        let error = fetched.error.or_else(|| {
            nothing.then(|| LogError::Corrupt("the log has not what was asked for".to_owned()))
        });
        if let Some(error) = error {
            queue.logged.failed_fetches += 1;
            if queue.logged.failed_fetches >= FETCHES_WAITED_FOR {
                self.refuse_getters(id, &error, fx);
            }
            let Some(queue) = self.queues.get_mut(id) else {
                return;
            };
            fx.events.push(Event::FetchFailed {
                queue: queue.name.clone(),
                error,
            });
            // The queue stands still; everything else goes on.
            queue.logged.fetching = true;
            self.timers
                .set(self.now.mono.plus_ms(FETCH_AGAIN_MS), Timer::FetchAgain(id));
        } else {
            queue.logged.failed_fetches = 0;
        }
        if !read_dying {
            self.read_dying(id, fx); // in turn with those in front
        }
        self.pump(id, fx);
        self.drop_excess(id, fx);
        self.wake_getters(id);
        self.read_dying(id, fx);
    }

    /// The messages have come back that are next.
    fn fetched_next(
        &mut self,
        id: QueueId,
        messages: Vec<(Seq, Message, Option<Wall>)>,
        fx: &mut Effects,
    ) {
        let Some(queue) = self.queues.get(id) else {
            return;
        };
        let of = messages.first().map_or(Seq(0), |(seq, ..)| *seq);
        let before = queue.index.first_away(of);
        if before.is_some_and(|first| first < queue.logged.asked) {
            // One that comes before them has come back meanwhile, and is to be read first.
            self.resume_deadlines(id, &[]);
            return;
        }
        let ttl_ms = queue.rules.ttl_ms;
        let timed: Vec<(Seq, Mono)> = messages
            .iter()
            .filter_map(|(seq, message, at)| Some((*seq, self.deadline(ttl_ms, message, *at)?)))
            .collect();
        let Some(queue) = self.queues.get_mut(id) else {
            return;
        };
        let last = messages.last().map(|(seq, ..)| *seq);
        if let (Some(first), Some(last)) = (before, last) {
            forget_swapped(queue, id, first, last, fx);
        }
        let (past, delivered_before) = (&mut queue.retries, queue.logged.delivered_before);
        queue.index.bring_back(messages, |seq| {
            past_of(past.as_deref_mut(), delivered_before, seq)
        });
        let after = queue.index.first_away(of);
        let back = |seq: Seq| before.is_some_and(|b| seq >= b) && after.is_none_or(|a| seq < a);
        let here: Vec<(Seq, Mono)> = timed.into_iter().filter(|&(seq, _)| back(seq)).collect();
        self.resume_deadlines(id, &here);
    }

    /// What `basic.get` waits for cannot be read: its channels are told, and wait no longer.
    fn refuse_getters(&mut self, id: QueueId, error: &LogError, fx: &mut Effects) {
        let Some(queue) = self.queues.get_mut(id) else {
            return;
        };
        for key in std::mem::take(&mut queue.logged.waiting) {
            if let Some(channel) = self.channels.get(key) {
                let (connection, number) = (channel.connection, channel.number);
                let error = AmqpError::precondition_failed(format_args!(
                    "a message cannot be read back: {error}"
                ));
                self.refuse(connection, number, error, fx);
            }
        }
    }

    /// A read had failed: it is tried again.
    pub(crate) fn fetch_again(&mut self, id: QueueId, fx: &mut Effects) {
        if let Some(queue) = self.queues.get_mut(id) {
            queue.logged.fetching = false;
            self.look_ahead(id, fx);
            self.resume_deadlines(id, &[]);
            self.read_dying(id, fx);
        }
    }

    /// The broker stops: says how far each queue has delivered, exactly.
    pub(crate) fn retire(&mut self, fx: &mut Effects) {
        for queue in self.queues.values_mut().filter(|queue| queue.durable) {
            let through = queue.delivered_through().max(queue.logged.delivered_before);
            if through == queue.logged.may_deliver && queue.logged.mark_asked.is_none() {
                continue;
            }
            let fact = Fact::MayDeliver {
                queue: queue.logged.number,
                through,
            };
            self.lsn = fx.record(self.lsn, fact);
            queue.logged.mark(through);
        }
    }
}

/// The swap area need not keep what it has of a queue from the first to the last of these places.
pub(crate) fn forget_swapped(queue: &Queue, id: QueueId, first: Seq, last: Seq, fx: &mut Effects) {
    if !queue.logged.swapped || first > last {
        return;
    }
    if let Some(Swap::Forget { queue, runs }) = fx.swaps.last_mut()
        && *queue == id
    {
        runs.push((first, last));
    } else {
        fx.swaps.push(Swap::Forget {
            queue: id,
            runs: vec![(first, last)],
        });
    }
}

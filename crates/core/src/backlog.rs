//! What queues have to do with the log beyond its records: marks of how far they may deliver, and
//! long backlogs that are paged out and asked back.

use crate::effect::Effects;
use crate::error::AmqpError;
use crate::event::Event;
use crate::ids::{Lsn, Mono, QueueId, Seq, Wall};
use crate::log::{Fetch, Fetched, LogError};
use crate::message::Message;
use crate::record::Fact;
use crate::retry::past_of;
use crate::timer::Timer;
use crate::vhost::Vhost;

/// Of what a queue may hold in memory, one in this many octets stays when the rest is paged out:
/// its first messages. As much is asked back at once.
const KEPT_PART: usize = 4;

/// Most octets that stay while memory is short.
const KEPT_BYTES_SHORT: usize = 64 << 10;

/// How long after a failed read it is tried again, in milliseconds.
const FETCH_AGAIN_MS: u64 = 1_000;

/// Reads that may fail in a row before `basic.get` waits no longer.
const FETCHES_WAITED_FOR: u32 = 3;

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
            let number = Seq(queue.next_place(&message).number());
            if !queue.logged.holds() {
                self.logging.push(id);
            }
            queue.logged.hold(number, safe);
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

    /// Octets of a queue's first messages that stay when the rest is paged out.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.limits.queue_memory_max / KEPT_PART
    }

    fn kept_bytes_short(&self) -> usize {
        self.kept_bytes().min(KEPT_BYTES_SHORT)
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

    /// A queue has grown: once what it holds in memory is too much, the log keeps the rest alone.
    pub(crate) fn watch_backlog(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(id) else {
            return;
        };
        let enough = queue.logged.page_out_from.max(self.limits.queue_memory_max);
        if !queue.durable || queue.index.unreturned_bytes() <= enough {
            return;
        }
        if queue.logged.page_out.is_none() {
            // Its messages are all recorded by now, so they are in the log when this record is.
            queue.logged.page_out = Some((self.lsn, queue.recorded_through()));
            self.logging.push(id);
        }
    }

    /// Memory is short: queues page out all but their very first messages.
    pub(crate) fn page_out_all(&mut self, fx: &mut Effects) {
        let keep = self.kept_bytes_short();
        let large = self.queues.iter_mut().filter(|(_, queue)| {
            let retries = queue.retries.as_ref().map_or(0, |retries| retries.bytes());
            queue.durable && (queue.index.unreturned_bytes() > keep || retries > 0)
        });
        for (id, queue) in large {
            self.work += 1;
            if queue.logged.page_out.is_none() {
                queue.logged.page_out = Some((self.lsn, queue.recorded_through()));
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
            again |= self.page_out(id, fx);
            again |= self.page_out_retries(id, fx);
            if again {
                self.logging.push(id);
            }
        }
        self.logging.sort_unstable();
        self.logging.dedup();
        self.page_out_delayed(fx);
    }

    /// Pages a queue out if that is asked for. Returns whether it has to wait for the log.
    fn page_out(&mut self, id: QueueId, fx: &mut Effects) -> bool {
        let keep = if self.memory_is_short() {
            self.kept_bytes_short()
        } else {
            self.kept_bytes()
        };
        let Some(queue) = self.queues.get_mut(id) else {
            return false;
        };
        let Some((due, through)) = queue.logged.page_out else {
            return false;
        };
        if due > self.durable {
            return true;
        }
        queue.logged.page_out = None;
        let (ttl_ms, deadlines) = (queue.rules.ttl_ms, &mut queue.deadlines);
        let gone = queue.index.page_out(through, keep, |level, seq, message| {
            if let Some(deadlines) = deadlines {
                let own_ms = message.expiration_ms();
                let own = own_ms.is_some_and(|own| ttl_ms.is_none_or(|ttl| own < ttl));
                deadlines.page_out(level, seq, own);
            }
        });
        // What cannot be paged out is not looked at again for each message that follows it.
        let rest = queue.index.unreturned_bytes();
        queue.logged.page_out_from = rest + self.limits.queue_memory_max / 2;
        self.work += gone.len() as u64;
        self.metrics.paged_out += gone.len() as u64;
        if !gone.is_empty() {
            fx.garbage.push(gone);
            // Even the very first may be away now.
            if self.queues.get(id).is_some_and(|q| !q.consumers.is_empty()) {
                self.look_ahead(id, fx);
            }
        }
        false
    }

    /// Messages have come back from the log.
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
            self.fetched_next(id, fetched.messages);
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
    fn fetched_next(&mut self, id: QueueId, messages: Vec<(Seq, Message, Option<Wall>)>) {
        let Some(queue) = self.queues.get(id) else {
            return;
        };
        let of = messages.first().map_or(Seq(0), |(seq, ..)| *seq);
        let first = queue.index.first_away(of);
        if first.is_some_and(|first| first < queue.logged.asked) {
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
        let before = queue.index.first_away(of);
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
                    "a message cannot be read from the log: {error}"
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

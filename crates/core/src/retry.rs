//! Messages that come back to their queue after a while (`x-retry-delay`, `x-delayed-retry-type`).
//!
//! One timer a queue, for the message that is due next. Nobody is given a message while it waits,
//! but its own time goes on, and the queue counts it in its length. For a persistent message in a
//! durable queue the log knows until when it waits, and what it has been through.

use crate::delivery::Counts;
use crate::effect::Effects;
use crate::ids::{Lsn, Mono, QueueId, Seq, Wall};
use crate::message::Message;
use crate::queue::Queue;
use crate::queue::index::Entry;
use crate::queue::retries::{Back, Past, Retries};
use crate::record::{Fact, Retry};
use crate::timer::Timer;
use crate::vhost::Vhost;

/// Messages that go back to their places in one go.
const BACK_AT_ONCE: usize = 1_024;

/// Messages that one record speaks of.
const RECORDED_AT_ONCE: usize = 1_024;

impl Vhost {
    /// How long a message is not to be delivered again that came back this way, if not at once. The
    /// delivery may be counted as one that failed: then that is done already.
    pub(crate) fn retry_in_ms(
        &mut self,
        id: QueueId,
        counts: Counts,
        failures: u32,
    ) -> Option<u64> {
        let backoff = self.queues.get(id)?.rules.backoff?;
        backoff.delay_ms(counts, failures, |below| self.random_below(below))
    }

    /// Keeps messages of a queue, in order of their places, each until then.
    pub(crate) fn hold_retries(
        &mut self,
        id: QueueId,
        entries: Vec<(Mono, Entry)>,
        fx: &mut Effects,
    ) {
        self.metrics.retries += entries.len() as u64;
        for (_, entry) in &entries {
            self.await_deadline(id, entry.seq);
        }
        let safe = self.record_retries(id, &entries, fx);
        let max = self.limits.queue_memory_max;
        let Some(queue) = self.queues.get_mut(id) else {
            return;
        };
        let retries = queue.retries.get_or_insert_default();
        retries.hold(entries, queue.durable.then_some(safe));
        if retries.may_page_out(max) {
            self.logging.push(id);
        }
        self.set_retry_timer(id);
    }

    /// Has the log know until when messages wait, as far as it keeps them. Returns the last record.
    fn record_retries(&mut self, id: QueueId, entries: &[(Mono, Entry)], fx: &mut Effects) -> Lsn {
        let now = self.now;
        let Some(queue) = self.queues.get(id).filter(|queue| queue.durable) else {
            return self.lsn;
        };
        let number = queue.logged.number;
        let at = |moment: Mono| {
            Wall(
                now.wall
                    .0
                    .saturating_add(moment.0.saturating_sub(now.mono.0)),
            )
        };
        let deadline = |seq| queue.deadlines.as_ref().and_then(|d| d.of(seq));
        let kept = entries
            .iter()
            .filter(|(_, entry)| queue.keeps(&entry.message));
        let retries = kept.map(|(until, entry)| Retry {
            seq: entry.seq,
            until: at(*until),
            deliveries: entry.deliveries,
            failures: entry.failures,
            expires: deadline(entry.seq).map(at),
        });
        let retries: Vec<Retry> = retries.collect();
        for retries in retries.chunks(RECORDED_AT_ONCE) {
            let fact = Fact::Retried {
                queue: number,
                retries: retries.to_vec(),
            };
            self.record(fact, fx);
        }
        self.lsn
    }

    /// Sees to it that the queue's timer runs, if it is to.
    fn set_retry_timer(&mut self, id: QueueId) {
        if let Some(queue) = self.queues.get_mut(id)
            && let Some(retries) = &mut queue.retries
            && let Some(due) = retries.next()
        {
            self.timers
                .bring_forward(&mut retries.timer, due, Timer::Retry(id));
        }
    }

    /// Messages of a queue are due: they go back to their places.
    pub(crate) fn retry_timer(&mut self, id: QueueId, fx: &mut Effects) {
        let now = self.now.mono;
        let Some(queue) = self.queues.get_mut(id) else {
            return;
        };
        let Some(retries) = &mut queue.retries else {
            return;
        };
        retries.timer = None;
        let back = retries.take_due(now, BACK_AT_ONCE);
        self.work += 2 * back.len() as u64;
        let mut here = Vec::new();
        for back in back.into_iter().rev() {
            match back {
                Back::Here(entry) => here.push(entry),
                Back::Away(seq, bytes) => queue.index.put_back_away(seq, bytes),
            }
        }
        here.reverse();
        queue.index.put_all_back(here);
        // One that waits for what is away may have this.
        self.getters.append(&mut queue.logged.waiting);
        self.set_retry_timer(id);
        self.pump(id, fx);
        self.drop_excess(id, fx);
    }

    /// Lets go of what waits to be delivered again, as far as the log has it and it is too much.
    /// Returns whether it has to wait for the log.
    pub(crate) fn page_out_retries(&mut self, id: QueueId, fx: &mut Effects) -> bool {
        let keep = if self.memory_is_short() {
            0
        } else {
            self.limits.queue_memory_max
        };
        let Some(queue) = self.queues.get_mut(id) else {
            return false;
        };
        let Some(retries) = queue.retries.as_mut().filter(|r| r.may_page_out(keep)) else {
            return false;
        };
        let gone = retries.page_out(keep / 2, self.durable);
        let again = retries.may_page_out(keep);
        self.work += gone.len() as u64;
        self.metrics.paged_out += gone.len() as u64;
        if !gone.is_empty() {
            fx.garbage.push(gone);
        }
        again
    }

    /// Takes over what the log knows of messages that wait, or have waited. Those that wait still
    /// leave the index.
    pub(crate) fn recover_retries(&mut self, id: QueueId, kept: &[Retry]) {
        let now = self.now;
        let mono = |at: Wall| now.mono.plus_ms(at.0.saturating_sub(now.wall.0));
        let Some(queue) = self.queues.get_mut(id).filter(|_| !kept.is_empty()) else {
            return;
        };
        let retries = queue.retries.get_or_insert_default();
        for retry in kept {
            let past = Past {
                deliveries: retry.deliveries,
                failures: retry.failures,
            };
            if retry.until <= now.wall {
                if queue.index.is_away(retry.seq) {
                    retries.set_past(retry.seq, past);
                }
            } else if let Some(bytes) = queue.index.drop_away(retry.seq) {
                retries.hold_away(retry.seq, mono(retry.until), past, bytes);
                if let Some(expires) = retry.expires {
                    let deadlines = queue.deadlines.get_or_insert_default();
                    deadlines.set(retry.seq, mono(expires));
                    deadlines.waits(retry.seq);
                }
            }
        }
        self.set_retry_timer(id);
    }
}

impl Queue {
    /// Messages that nobody has: they are ready, or wait to be delivered again.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.index.len() + self.retries.as_ref().map_or(0, |retries| retries.len())
    }

    /// Octets of their bodies; see [`Index::body_bytes`](crate::queue::index::Index::body_bytes).
    #[inline]
    pub(crate) fn body_bytes(&self) -> usize {
        let retries = self.retries.as_ref();
        self.index.body_bytes() + retries.map_or(0, |retries| retries.body_bytes())
    }

    /// Takes everything out that nobody has; dropping the result is the expensive part, and may be
    /// done elsewhere.
    pub(crate) fn take_all(&mut self) -> Vec<Message> {
        let mut all = self.index.take_all();
        if let Some(retries) = &mut self.retries {
            all.append(&mut retries.take_all());
        }
        all
    }

    /// A message that was away has left for good.
    pub(crate) fn forget_past(&mut self, seq: Seq) {
        if let Some(retries) = &mut self.retries {
            retries.take_past(seq);
        }
    }

    /// Places of the messages that nobody has, as runs from first to last.
    pub(crate) fn places(&self) -> Vec<(Seq, Seq)> {
        let mut places = self.index.places();
        if let Some(retries) = self.retries.as_ref().filter(|r| !r.is_empty()) {
            places.extend(retries.seqs().map(|seq| (seq, seq)));
            places.sort_unstable();
        }
        places
    }
}

/// What a message has been through that comes back from the log: of the others only those may have
/// been delivered whose numbers are up to `delivered_before`. And whether it is known from its retries,
/// which know it no longer.
pub(crate) fn past_of(
    retries: Option<&mut Retries>,
    delivered_before: Seq,
    seq: Seq,
) -> (Past, bool) {
    if let Some(past) = retries.and_then(|retries| retries.take_past(seq)) {
        return (past, true);
    }
    let deliveries = u32::from(seq.number() <= delivered_before.0);
    let past = Past {
        deliveries,
        failures: 0,
    };
    (past, false)
}

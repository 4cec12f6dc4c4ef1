//! Queues that may hold only so much (`x-max-length`, `x-max-length-bytes`, `x-overflow`).

use crate::dead_letter::Reason;
use crate::effect::Effects;
use crate::ids::QueueId;
use crate::message::Message;
use crate::queue::Queue;
use crate::queue::index::Entry;
use crate::queue::retries::Back;
use crate::queue::rules::Overflow;
use crate::vhost::Vhost;

impl Vhost {
    /// Takes the queues out of `router.queues` that say no to a message. Returns whether there were
    /// any.
    pub(crate) fn refuse_overflow(&mut self, message: &Message, fx: &mut Effects) -> bool {
        let full = |queue: &Queue| {
            queue.rules.overflow != Overflow::DropHead
                && queue.rules.limits_length()
                && queue
                    .rules
                    .is_over(queue.len() + 1, queue.body_bytes() + message.body_len())
        };
        let queues = &self.queues;
        let any = |id: &QueueId| queues.get(*id).is_some_and(full);
        if !self.router.queues.iter().any(any) {
            return false;
        }
        let refusing: Vec<QueueId> = self.router.queues.iter().copied().filter(any).collect();
        self.router.queues.retain(|id| !refusing.contains(id));
        for id in refusing {
            self.work += 1;
            self.metrics.overflowed += 1;
            let dead_letters =
                |queue: &Queue| queue.rules.overflow == Overflow::RejectPublishDeadLetter;
            if self.queues.get(id).is_some_and(dead_letters) {
                self.die_outside(id, message.clone(), Reason::MaxLength, fx);
            }
        }
        true
    }

    /// Makes room in a queue that has become too long: the first in line goes, whether it is ready or
    /// waits to be delivered again. One that says no to what is new lets go of nothing: what comes
    /// back to it stays, however many that are.
    pub(crate) fn drop_excess(&mut self, id: QueueId, fx: &mut Effects) {
        let mut dropped = false;
        while let Some(queue) = self.queues.get_mut(id)
            && queue.rules.overflow == Overflow::DropHead
            && queue.rules.is_over(queue.len(), queue.body_bytes())
        {
            let Some(entry) = queue.pop_first() else {
                // The oldest is away: it goes when it is back.
                self.look_ahead(id, fx);
                return;
            };
            dropped = true;
            self.metrics.overflowed += 1;
            self.die(id, entry, Reason::MaxLength, fx);
        }
        if dropped
            && self
                .queues
                .get(id)
                .is_some_and(|q| q.durable && !q.consumers.is_empty())
        {
            self.look_ahead(id, fx); // what is first now may be away
        }
    }
}

impl Queue {
    /// Takes out the first in line of those that are ready or wait to be delivered again; None if
    /// there is none, or if it is away.
    fn pop_first(&mut self) -> Option<Entry> {
        if let Some(retries) = &mut self.retries
            && let Some(first) = retries.first_here()
            && (self.index.is_empty() || self.index.front().is_some_and(|next| next.seq > first))
        {
            return match retries.take(first)? {
                Back::Here(entry) => Some(entry),
                Back::Away(..) => None, // it is here
            };
        }
        self.index.pop()
    }
}

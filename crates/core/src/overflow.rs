//! Queues that may hold only so much (`x-max-length`, `x-max-length-bytes`, `x-overflow`).

use crate::dead_letter::Reason;
use crate::effect::Effects;
use crate::ids::{QueueId, Seq};
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
            let entry = match queue.pop_first() {
                First::Here(entry) => entry,
                First::Away => {
                    // It goes when it is back.
                    self.look_ahead(id, fx);
                    return;
                }
                First::Waits(seq, bytes) if queue.rules.dead_letter.is_some() => {
                    // It has to be read to be dead-lettered, and is the first in line then.
                    queue.index.put_back_away(seq, bytes);
                    self.look_ahead(id, fx);
                    return;
                }
                First::Waits(seq, _) => {
                    queue.forget_past(seq);
                    if let Some(deadlines) = &mut queue.deadlines {
                        deadlines.forget(seq);
                    }
                    fx.note_death(&queue.name, Some(seq), Reason::MaxLength);
                    let fact = queue.settled(seq);
                    self.work += 1;
                    self.metrics.overflowed += 1;
                    self.record(fact, fx);
                    continue;
                }
            };
            dropped = true;
            self.metrics.overflowed += 1;
            self.die(id, entry, Reason::MaxLength, fx);
        }
        if dropped && self.queues.get(id).is_some_and(|q| !q.consumers.is_empty()) {
            // What is first now may be had, as what stood before it had to wait for the log; or be away.
            self.pump(id, fx);
        }
    }
}

/// The first in line of a queue, taken out of it if it can be.
enum First {
    Here(Entry),
    /// It is ready, and away; or there is none.
    Away,
    /// It waited to be delivered again, and is away: its place, and what it would hold in memory.
    Waits(Seq, u64),
}

impl Queue {
    /// Takes out the first in line of those that are ready or wait to be delivered again.
    fn pop_first(&mut self) -> First {
        if let Some(retries) = &mut self.retries
            && let Some(first) = retries.first()
            && self.index.first().is_none_or(|ready| first < ready)
        {
            return match retries.take(first) {
                Some(Back::Here(entry)) => First::Here(entry),
                Some(Back::Away(seq, bytes)) => First::Waits(seq, bytes),
                None => First::Away,
            };
        }
        self.index.pop().map_or(First::Away, First::Here)
    }
}

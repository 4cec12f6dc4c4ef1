//! Messages whose time runs out (`x-message-ttl`, property `expiration`).
//!
//! Each has a timer of its own, so to say: it leaves when it is due wherever it stands in its queue.
//! What is paged out is the exception: a message that was brought back too late leaves then.

use leveret_codec::flags;

use crate::dead_letter::Reason;
use crate::effect::Effects;
use crate::ids::{Mono, QueueId, Seq};
use crate::message::Message;
use crate::timer::Timer;
use crate::vhost::Vhost;

impl Vhost {
    /// When a message that arrives in a queue now expires there, if ever.
    #[inline]
    pub(crate) fn deadline(&self, ttl_ms: Option<u64>, message: &Message) -> Option<Mono> {
        let own = message.property_flags() & flags::EXPIRATION != 0;
        if ttl_ms.is_none() && !own {
            return None;
        }
        let own_ms = if own { expiration_ms(message) } else { None };
        let ms = ttl_ms.into_iter().chain(own_ms).min()?;
        Some(self.now.mono.plus_ms(ms))
    }

    /// A message waits in a queue, new or again: from here on its timer runs.
    pub(crate) fn await_deadline(&mut self, id: QueueId, seq: Seq) {
        if let Some(queue) = self.queues.get_mut(id)
            && let Some(deadlines) = &mut queue.deadlines
            && let Some(due) = deadlines.waits(seq)
            && deadlines.timer.is_none_or(|(at, _)| due < at)
        {
            if let Some((_, timer)) = deadlines.timer.take() {
                self.timers.cancel(timer);
            }
            let timer = self.timers.set(due, Timer::MessageExpiry(id));
            deadlines.timer = Some((due, timer));
        }
    }

    /// The queue's timer is due.
    pub(crate) fn message_timer(&mut self, id: QueueId, fx: &mut Effects) {
        if let Some(queue) = self.queues.get_mut(id)
            && let Some(deadlines) = &mut queue.deadlines
        {
            deadlines.timer = None;
            self.expire_messages(id, fx);
            self.pump(id, fx);
        }
    }

    /// Gets rid of messages whose time has come, at most so many; the timer sees to the rest.
    pub(crate) fn expire_messages(&mut self, id: QueueId, fx: &mut Effects) {
        let now = self.now.mono;
        for _ in 0..EXPIRED_AT_ONCE {
            let Some(queue) = self.queues.get_mut(id) else {
                return;
            };
            let Some(seq) = queue.deadlines.as_mut().and_then(|d| d.pop_due(now)) else {
                break;
            };
            // One that is paged out goes when it is back.
            if let Some(entry) = queue.index.take(seq) {
                self.metrics.expired += 1;
                self.die(id, entry, Reason::Expired, fx);
            }
        }
        if self.queues.get(id).is_some_and(|q| q.index.front_is_away()) {
            self.look_ahead(id, fx); // whether or not there are consumers
        }
        if let Some(queue) = self.queues.get_mut(id)
            && let Some(deadlines) = &mut queue.deadlines
            && deadlines.timer.is_none()
            && let Some(due) = deadlines.next()
        {
            let timer = self.timers.set(due, Timer::MessageExpiry(id));
            deadlines.timer = Some((due, timer));
        }
    }

    /// Messages are back from the log: their timers run. What the log has kept over a restart starts
    /// anew, as it does not know when they came.
    pub(crate) fn resume_deadlines(&mut self, id: QueueId, back: &[(Seq, Mono)]) {
        for &(seq, due) in back {
            if let Some(queue) = self.queues.get_mut(id) {
                let deadlines = queue.deadlines.get_or_insert_default();
                if !deadlines.has(seq) {
                    deadlines.set(seq, due);
                }
            }
            self.await_deadline(id, seq);
        }
    }

    /// Whether messages wait that should have expired by now.
    pub(crate) fn has_expired(&self, id: QueueId) -> bool {
        let queue = self.queues.get(id);
        let next = queue.and_then(|queue| queue.deadlines.as_ref()?.next());
        next.is_some_and(|due| due <= self.now.mono)
    }
}

/// Messages that go before others have their turn.
const EXPIRED_AT_ONCE: usize = 1_024;

/// The property, which was checked when the message came in.
fn expiration_ms(message: &Message) -> Option<u64> {
    let expiration = message.properties().expiration?;
    let text = std::str::from_utf8(&expiration).ok()?;
    text.parse().ok()
}

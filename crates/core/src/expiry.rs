//! Messages whose time runs out (`x-message-ttl`, property `expiration`).
//!
//! Each has a timer of its own, so to say: it leaves when it is due wherever it stands in its queue.
//! That goes for what is paged out, too: a message with a time of its own leaves without being read,
//! unless it is to be dead-lettered. The others are due in the order in which they came, so of each
//! priority the first of them are read when the one before them was due, some at a time.
//!
//! A time that passed while nobody served the queue counts, by the clock on the wall.

use crate::backlog::forget_swapped;
use crate::dead_letter::Reason;
use crate::effect::Effects;
use crate::ids::{Mono, QueueId, Seq, Wall};
use crate::message::Message;
use crate::queue::deadlines::{ASKED, Due};
use crate::queue::index::Entry;
use crate::queue::retries::Back;
use crate::timer::Timer;
use crate::vhost::Vhost;

/// What has expired before it could be delivered is looked at again after so many milliseconds.
const HELD_LOOK_MS: u64 = 20;

impl Vhost {
    /// When a message expires in a queue, if ever, that arrived there then; or now.
    #[inline]
    pub(crate) fn deadline(
        &self,
        ttl_ms: Option<u64>,
        message: &Message,
        at: Option<Wall>,
    ) -> Option<Mono> {
        let ms = ttl_ms.into_iter().chain(message.expiration_ms()).min()?;
        let passed = at.map_or(0, |at| self.now.wall.0.saturating_sub(at.0));
        Some(self.now.mono.plus_ms(ms.saturating_sub(passed)))
    }

    /// When a message arrived that is due then; None if it never is.
    pub(crate) fn arrival(
        &self,
        ttl_ms: Option<u64>,
        message: &Message,
        due: Mono,
    ) -> Option<Wall> {
        let ms = ttl_ms.into_iter().chain(message.expiration_ms()).min()?;
        let wall = self.now.wall.0.saturating_add(due.0);
        Some(Wall(wall.saturating_sub(self.now.mono.plus_ms(ms).0)))
    }

    /// A message waits in a queue, new or again: from here on its timer runs.
    pub(crate) fn await_deadline(&mut self, id: QueueId, seq: Seq) {
        if let Some(queue) = self.queues.get_mut(id)
            && let Some(deadlines) = &mut queue.deadlines
            && let Some(due) = deadlines.waits(seq)
            && deadlines.timer.is_none_or(|(at, _)| due < at)
        {
            self.set_message_timer(id);
        }
    }

    /// Sees to it that the queue's timer runs, if it is to.
    pub(crate) fn set_message_timer(&mut self, id: QueueId) {
        if let Some(queue) = self.queues.get_mut(id)
            && let Some(deadlines) = &mut queue.deadlines
            && let Some(due) = deadlines.next()
        {
            let timer = Timer::MessageExpiry(id);
            self.timers.bring_forward(&mut deadlines.timer, due, timer);
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
            let Some(due) = queue.deadlines.as_mut().and_then(|d| d.pop_due(now)) else {
                break;
            };
            let seq = due.seq;
            if queue.logged.is_held(seq) {
                // Nobody could have had it: its time begins when it may be delivered.
                let later = now.plus_ms(HELD_LOOK_MS);
                let is_away = queue.index.is_away(seq);
                queue
                    .deadlines
                    .get_or_insert_default()
                    .put_off(due, later, is_away);
                continue;
            }
            if let Some(entry) = queue.index.take(seq) {
                self.metrics.expired += 1;
                self.die(id, entry, Reason::Expired, fx);
            } else if queue.index.is_away(seq) {
                self.expire_away(id, due, fx);
            } else if let Some(retry) = queue.retries.as_mut().and_then(|r| r.take(seq)) {
                match retry {
                    Back::Here(entry) => {
                        self.metrics.expired += 1;
                        self.die(id, entry, Reason::Expired, fx);
                    }
                    Back::Away(seq, bytes) => {
                        queue.index.put_back_away(seq, bytes);
                        self.expire_away(id, due, fx);
                    }
                }
            }
        }
        self.ask_for_due(id, fx);
        self.read_dying(id, fx);
        self.set_message_timer(id);
    }

    /// A message has expired that is away. It is read only if somebody is to have it.
    fn expire_away(&mut self, id: QueueId, due: Due, fx: &mut Effects) {
        self.work += 1;
        let seq = due.seq;
        let Some(queue) = self.queues.get_mut(id) else {
            return;
        };
        if queue.rules.dead_letter.is_some() {
            let deadlines = queue.deadlines.get_or_insert_default();
            deadlines.dying.push_back(seq);
        } else if queue.index.drop_away(seq).is_some() {
            forget_swapped(queue, id, seq, seq, fx);
            self.metrics.expired += 1;
            queue.forget_past(seq);
            fx.note_death(&queue.name, Some(seq), Reason::Expired);
            let fact = (!due.swapped).then(|| queue.settled(seq));
            if let Some(fact) = fact {
                self.record(fact, fx);
            }
        }
    }

    /// The next of those that are away may be due: they say when, once they are here.
    fn ask_for_due(&mut self, id: QueueId, fx: &mut Effects) {
        let now = self.now.mono;
        let Some(queue) = self.queues.get_mut(id) else {
            return;
        };
        let Some(deadlines) = &mut queue.deadlines else {
            return;
        };
        if deadlines.next_here().is_some_and(|due| due <= now) {
            return;
        }
        let (mut fetching, mut ask) = (queue.logged.fetching, None);
        for level in deadlines.levels_due(now) {
            if queue.index.away_of(level) == 0 {
                deadlines.none_away(level);
                continue;
            }
            let from = match queue.index.wanted_of(level, ASKED_BYTES) {
                Some(wanted) => {
                    if !fetching {
                        ask = Some(wanted);
                    }
                    fetching = true;
                    ASKED
                }
                // What is in front of them is due before them, unless somebody has set the clock back.
                None => {
                    let here = deadlines.next_here();
                    here.unwrap_or_else(|| now.plus_ms(READ_AGAIN_MS))
                }
            };
            deadlines.set_away_from(level, from);
        }
        if let Some((first, last)) = ask {
            self.ask_back(id, first, last, ASKED_BYTES, fx);
        }
    }

    /// Asks for those that are away and to be dead-lettered.
    pub(crate) fn read_dying(&mut self, id: QueueId, fx: &mut Effects) {
        let bytes_max = self.kept_bytes();
        while let Some(queue) = self.queues.get_mut(id)
            && !queue.logged.fetching
            && let Some(deadlines) = &mut queue.deadlines
            && let Some(&first) = deadlines.dying.front()
        {
            if !queue.index.is_away(first) {
                // It came back meanwhile, or left.
                deadlines.dying.pop_front();
                if let Some(entry) = queue.index.take(first) {
                    self.metrics.expired += 1;
                    self.die(id, entry, Reason::Expired, fx);
                }
                continue;
            }
            // As many as are near each other, and in the order in which they are to go.
            let mut last = first;
            let near = deadlines.dying.iter().take_while(|&&seq| {
                let is_near = seq >= last && seq.0 - last.0 <= DYING_APART;
                last = last.max(if is_near { seq } else { last });
                is_near
            });
            let count = near.count();
            queue.logged.reading_dying = deadlines.dying.drain(..count).collect();
            self.ask_back(id, first, last, bytes_max, fx);
        }
    }

    /// Messages were read to be dead-lettered: `asked`, or some of them.
    pub(crate) fn fetched_dying(
        &mut self,
        id: QueueId,
        asked: Vec<Seq>,
        messages: Vec<(Seq, Message, Option<Wall>)>,
        fx: &mut Effects,
    ) {
        let through = messages.last().map(|(seq, ..)| *seq);
        let delivered_before = self
            .queues
            .get(id)
            .map(|queue| queue.logged.delivered_before);
        for (seq, message, _) in messages {
            if asked.binary_search(&seq).is_ok()
                && let Some(queue) = self.queues.get_mut(id)
                && queue.index.drop_away(seq).is_some()
            {
                forget_swapped(queue, id, seq, seq, fx);
                self.metrics.expired += 1;
                queue.forget_past(seq);
                let entry = Entry {
                    message,
                    seq,
                    deliveries: u32::from(Some(Seq(seq.number())) <= delivered_before),
                    failures: 0,
                };
                self.die(id, entry, Reason::Expired, fx);
            }
        }
        let again = self.now.mono.plus_ms(READ_AGAIN_MS);
        let Some(queue) = self.queues.get_mut(id) else {
            return;
        };
        let deadlines = queue.deadlines.get_or_insert_default();
        for seq in asked.into_iter().rev() {
            if Some(seq) > through && through.is_some() {
                deadlines.dying.push_front(seq);
            } else if queue.index.is_away(seq) {
                // It cannot be read, and holds up no others.
                deadlines.add_away([(again, seq)]);
            }
        }
        self.set_message_timer(id);
    }

    /// Messages are back from the log: their timers run.
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
        let now = self.now.mono;
        if let Some(queue) = self.queues.get_mut(id)
            && let Some(deadlines) = &mut queue.deadlines
        {
            let index = &queue.index;
            deadlines.tidy(index.away(), |seq| index.is_away(seq));
            if queue.rules.ttl_ms.is_some() {
                if let Some(&(seq, due)) = back.last() {
                    deadlines.set_away_from(index.level_of(seq), due.max(now));
                }
                deadlines.nothing_asked(&index.levels_away(), now);
                self.set_message_timer(id);
            }
        }
    }

    /// Whether messages wait that should have expired by now.
    pub(crate) fn has_expired(&self, id: QueueId) -> bool {
        let queue = self.queues.get(id);
        let next = queue.and_then(|queue| queue.deadlines.as_ref()?.next_here());
        next.is_some_and(|due| due <= self.now.mono)
    }
}

/// Messages that go before others have their turn.
const EXPIRED_AT_ONCE: usize = 1_024;

/// Octets that are asked back at a time to see when they are due.
const ASKED_BYTES: usize = 64 << 10;

/// Messages that are read together lie at most so many places apart.
const DYING_APART: u64 = 16;

/// How long after a message could not be read it is tried again, in milliseconds.
const READ_AGAIN_MS: u64 = 10_000;

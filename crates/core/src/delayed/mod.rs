//! Messages that are not to be delivered yet.
//!
//! To the log they are messages of a queue that nobody sees. When one is due it leaves that queue
//! and enters those it is routed to in one record, like a dead letter: a crash neither loses nor
//! doubles it. Long before they are due messages are in the log alone, and come back in time.

mod look;
mod names;
mod order;
mod release;
mod room;

use std::collections::VecDeque;
use std::sync::Arc;

use slotmap::Key;

use crate::delay::{self, Due};
use crate::effect::Effects;
use crate::event::Event;
use crate::ids::{Lsn, Mono, Now, QueueId, QueueNumber, Seq, Wall};
use crate::log::{Fetch, Fetched, LogError, RecoveredQueue};
use crate::map::HashSeed;
use crate::message::Message;
use crate::record::{Fact, Places};
use crate::timer::Timer;
use crate::vhost::Vhost;

pub use look::LookUp;
use look::Looking;
pub(crate) use look::Waiter;
use names::Names;
pub use order::Ordered;
pub(crate) use room::Clock;
use room::{Room, due_of};

/// What the log knows the queue by that holds them. No client can declare such a name.
pub(crate) const QUEUE: &str = "amq.delayed";

/// Messages are asked back from the log this long before they are due, in milliseconds...
const FETCH_AHEAD_MS: u64 = 2_000;

/// ... and those with them that are due up to so much later.
const FETCH_SPAN_MS: u64 = 3_000;

/// How long after a failed read it is tried again, in milliseconds.
const FETCH_AGAIN_MS: u64 = 1_000;

/// A message that cannot be read is given up after so many attempts until the next start.
const READS_MAX: u32 = 5;

/// A timer by the clock on the wall is looked at this often, in milliseconds: the clock may have
/// been set.
const LOOK_AT_WALL_MS: u64 = 1_000;

/// While so many are due that more cannot be asked back, that is tried this often, in milliseconds.
const LOOK_AGAIN_MS: u64 = 20;

/// So many that may leave memory and have left for good do no harm.
const FRESH_IN_VAIN: usize = 1_024;

/// Messages that are delivered in one go.
const RELEASED_AT_ONCE: usize = 256;

/// Messages that wait for a time.
#[derive(Debug)]
pub(crate) struct Delayed {
    /// What the log knows them by, once there was one for it to keep.
    number: Option<QueueNumber>,
    rooms: [Room; 2],
    /// Both clocks when the steady one started: with the vhost, or with the first delay.
    pub(crate) started: Option<Now>,
    /// Tells messages of the same millisecond apart.
    count: u64,
    /// Octets of the messages that are in memory.
    pub(crate) bytes: usize,
    /// The places of those that have a `message-id`.
    names: Names,
    /// Messages that may leave memory once their record is safe, in the order they came.
    fresh: VecDeque<(Lsn, Seq)>,
    /// What was asked back from the log and has not come yet.
    fetching: Option<Fetch>,
    pub(crate) looking: Looking,
}

/// A message that is about to wait, as soon as that is recorded.
#[derive(Debug)]
pub(crate) struct Held {
    place: Seq,
    message: Message,
    /// What the log is told of it.
    pub(crate) kept: Option<Fact>,
}

impl Delayed {
    pub(crate) fn new(seed: HashSeed) -> Self {
        Self {
            number: None,
            rooms: Clock::BOTH.map(Room::new),
            started: None,
            count: 0,
            bytes: 0,
            names: Names::new(seed),
            fresh: VecDeque::new(),
            fetching: None,
            looking: Looking::default(),
        }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.rooms.iter().map(|room| room.waiting.len()).sum()
    }

    fn now(&mut self, clock: Clock, now: Now) -> Wall {
        match clock {
            Clock::Wall => now.wall,
            Clock::Steady => {
                let started = *self.started.get_or_insert(now);
                let passed = now.mono.0.saturating_sub(started.mono.0);
                Wall(started.wall.0.saturating_add(passed))
            }
        }
    }

    fn room(&mut self, clock: Clock) -> &mut Room {
        &mut self.rooms[clock.index()]
    }

    /// A message that is in the log alone comes into memory, if it is one.
    fn bring_back(&mut self, place: Seq, message: Message) -> bool {
        let room = &mut self.rooms[Clock::of(place).index()];
        let Some(here @ None) = room.waiting.get_mut(&place) else {
            return false;
        };
        self.bytes += message.memory_bytes();
        self.names.insert(place, &message);
        *here = Some(message);
        room.away -= 1;
        true
    }

    /// From here on it is in the log alone. None if it is so already.
    fn send_away(&mut self, place: Seq) -> Option<Message> {
        let room = &mut self.rooms[Clock::of(place).index()];
        let message = room.waiting.get_mut(&place)?.take()?;
        room.away += 1;
        self.bytes -= message.memory_bytes();
        self.names.remove(place, &message);
        Some(message)
    }

    /// Asserts what must hold; for tests and simulations.
    pub(crate) fn check(&self) {
        self.looking.check();
        let here = self.rooms.iter().flat_map(|room| room.waiting.values());
        let named = here
            .flatten()
            .filter(|m| m.properties().message_id.is_some());
        assert_eq!(named.count(), self.names.len(), "names of delayed messages");
        let here = self.rooms.iter().flat_map(|room| room.waiting.values());
        let bytes: usize = here.flatten().map(Message::memory_bytes).sum();
        assert_eq!(bytes, self.bytes, "octets of delayed messages");
        let in_vain = self.fresh.len().saturating_sub(2 * self.len());
        assert!(in_vain <= FRESH_IN_VAIN + 1, "what has left is forgotten");
        for room in &self.rooms {
            let away = room.waiting.values().filter(|m| m.is_none()).count();
            assert_eq!(away, room.away, "delayed messages that are away");
            let mut early = room.waiting.range(..room.here_before);
            assert!(early.all(|(_, m)| m.is_some()), "early ones are here");
        }
    }
}

impl Vhost {
    /// Makes sure that the log has a queue for delayed messages. Not to be done while several
    /// records become one.
    pub(crate) fn prepare_delays(&mut self, fx: &mut Effects) -> QueueNumber {
        if let Some(number) = self.delayed.number {
            return number;
        }
        let fact = Fact::QueueDeclared {
            name: Arc::from(QUEUE),
            auto_delete: false,
            arguments: Arc::from([]),
        };
        let number = QueueNumber(self.define(fact, fx).0);
        self.delayed.number = Some(number);
        number
    }

    /// Keeps a message until it is due, and says in the same record what else has happened to it.
    /// It is safe once the record is whose number comes back.
    pub(crate) fn hold(
        &mut self,
        user: &Arc<str>,
        message: Message,
        due: Due,
        happened: impl IntoIterator<Item = Fact>,
        fx: &mut Effects,
    ) -> Lsn {
        let held = self.hold_back(user, message, due, fx);
        let kept = held.kept.clone();
        let safe = self.record_all(happened.into_iter().chain(kept), fx);
        self.await_all(vec![held], safe, fx);
        safe
    }

    /// What was routed last has come to exchanges that hold it back: a copy for each of them, as if
    /// it had been published there. `copies` are further keys that it goes to.
    pub(crate) fn hold_on_the_way(
        &mut self,
        user: &Arc<str>,
        message: &Message,
        copies: &[String],
        fx: &mut Effects,
    ) -> Vec<Held> {
        if self.router.delaying.is_empty() {
            return Vec::new();
        }
        let Some(due) = delay::x_delay(message) else {
            return Vec::new();
        };
        let delaying = std::mem::take(&mut self.router.delaying);
        let exchanges = delaying.iter().filter_map(|&id| self.exchanges.get(id));
        let names: Vec<Arc<str>> = exchanges.map(|x| Arc::clone(&x.name)).collect();
        let copy = |name: Arc<str>| {
            let message = delay::held_by(&name, message, copies);
            self.hold_back(user, message, due, fx)
        };
        names.into_iter().map(copy).collect()
    }

    /// Finds a place for a message that is to wait, and says what there is to record about it.
    fn hold_back(&mut self, user: &Arc<str>, message: Message, due: Due, fx: &mut Effects) -> Held {
        self.work += 1;
        self.metrics.delayed += 1;
        let (clock, due) = match due {
            Due::At(at) => (Clock::Wall, at),
            Due::AfterMs(ms) => {
                let now = self.delayed.now(Clock::Steady, self.now);
                (Clock::Steady, delay::ends(now, ms))
            }
        };
        let place = self.delayed_place(clock, due);
        let kept = message.is_persistent().then(|| {
            let number = self.prepare_delays(fx);
            Fact::Published {
                message: message.clone(),
                user: Arc::clone(user),
                at: self.now.wall,
                places: Places::from_elem((number, place), 1),
            }
        });
        Held {
            place,
            message,
            kept,
        }
    }

    /// These wait from here on.
    pub(crate) fn await_all(&mut self, held: Vec<Held>, safe: Lsn, fx: &mut Effects) {
        if held.is_empty() {
            return;
        }
        for Held { place, message, .. } in held {
            self.await_due(place, message, safe);
            self.set_delay_timer(Clock::of(place));
        }
        self.page_out_delayed(fx);
    }

    /// A place that was not given to another message in living memory: also those that have left
    /// must not be taken for it.
    fn delayed_place(&mut self, clock: Clock, due: Wall) -> Seq {
        let delayed = &mut self.delayed;
        delayed.count = delayed.count.max(self.lsn.0) + 1;
        delayed.rooms[clock.index()].free_place(due, delayed.count)
    }

    fn await_due(&mut self, place: Seq, message: Message, safe: Lsn) {
        let delayed = &mut self.delayed;
        delayed.bytes += message.memory_bytes();
        delayed.names.insert(place, &message);
        if message.is_persistent() {
            if delayed.fresh.len() > 2 * delayed.len() + FRESH_IN_VAIN {
                let rooms = &delayed.rooms;
                let waits =
                    |place: &Seq| rooms[Clock::of(*place).index()].waiting.contains_key(place);
                delayed.fresh.retain(|(_, place)| waits(place));
            }
            delayed.fresh.push_back((safe, place));
        }
        let room = delayed.room(Clock::of(place));
        room.waiting.insert(place, Some(message));
    }

    /// Takes over what the log knows of them: all are away.
    pub(crate) fn recover_delayed(&mut self, kept: &RecoveredQueue) {
        let places = kept.runs.iter().flat_map(|run| run.first.0..=run.last.0);
        for place in places.map(Seq) {
            let room = self.delayed.room(Clock::of(place));
            room.waiting.insert(place, None);
            room.away += 1;
        }
        for clock in Clock::BOTH {
            if self.delayed.room(clock).away > 0 {
                self.timers.set(Mono(0), Timer::Delayed(clock));
            }
        }
    }

    /// What the log knows them by was declared in this record.
    pub(crate) fn recover_delays(&mut self, declared: Lsn) {
        self.delayed.number = Some(QueueNumber(declared.0));
    }

    /// The number of the queue that holds them.
    pub(crate) fn delays_number(&self) -> Option<QueueNumber> {
        self.delayed.number
    }

    /// Sets the timer of a room to when there is something to do next.
    fn set_delay_timer(&mut self, clock: Clock) {
        let now = self.delayed.now(clock, self.now);
        let fetching = self.delayed.fetching.is_some();
        let room = &mut self.delayed.rooms[clock.index()];
        let Some((&first, message)) = room.waiting.first_key_value() else {
            return;
        };
        let mut next = due_of(first);
        if message.is_none() {
            if fetching {
                return; // it goes on when the log has answered
            }
            next.0 = next.0.saturating_sub(FETCH_AHEAD_MS);
        } else if room.away > 0 && !fetching {
            let fetch = due_of(room.here_before).0.saturating_sub(FETCH_AHEAD_MS);
            // Nothing may be due as early as that; it is a moment to look again.
            next.0 = next.0.min(fetch.max(now.0 + LOOK_AGAIN_MS));
        }
        let mut in_ms = next.0.saturating_sub(now.0);
        if self.own.is_too_much() {
            in_ms = in_ms.max(LOOK_AGAIN_MS);
        }
        if clock == Clock::Wall {
            in_ms = in_ms.min(LOOK_AT_WALL_MS);
        }
        let at = self.now.mono.plus_ms(in_ms);
        let timer = Timer::Delayed(clock);
        self.timers.bring_forward(&mut room.timer, at, timer);
    }

    /// Too much is in memory: what is due later leaves it, as far as the log has it.
    pub(crate) fn page_out_delayed(&mut self, fx: &mut Effects) {
        let max = if self.memory_is_short() {
            0
        } else {
            self.limits.queue_memory_max
        };
        if self.delayed.bytes <= max {
            return;
        }
        let horizon = Clock::BOTH.map(|clock| {
            let now = self.delayed.now(clock, self.now);
            clock.place(Wall(now.0 + FETCH_AHEAD_MS + FETCH_SPAN_MS))
        });
        let delayed = &mut self.delayed;
        let mut gone = Vec::new();
        while delayed.bytes > max / 2
            && let Some(&(safe, place)) = delayed.fresh.front()
            && safe <= self.durable
        {
            delayed.fresh.pop_front();
            let clock = Clock::of(place);
            let room = &mut delayed.rooms[clock.index()];
            if room.away == 0 {
                room.here_before = horizon[clock.index()];
            }
            if place < room.here_before.max(horizon[clock.index()]) {
                continue;
            }
            gone.extend(delayed.send_away(place));
        }
        self.work += gone.len() as u64;
        self.metrics.paged_out += gone.len() as u64;
        if !gone.is_empty() {
            self.delayed.looking.doubt_answer();
            fx.garbage.push(gone);
        }
    }

    /// Asks the log for what will be due soon.
    fn fetch_delayed(&mut self, clock: Clock, fx: &mut Effects) {
        let now = self.delayed.now(clock, self.now);
        let bytes_max = self.kept_bytes();
        let delayed = &mut self.delayed;
        let Some(number) = delayed.number.filter(|_| delayed.fetching.is_none()) else {
            return;
        };
        let room = &mut delayed.rooms[clock.index()];
        let horizon = Wall(now.0 + FETCH_AHEAD_MS + FETCH_SPAN_MS);
        let Some(first) = room.first_away(horizon) else {
            return;
        };
        let is_first = room
            .waiting
            .first_key_value()
            .is_some_and(|(&p, _)| p == first);
        if !is_first && delayed.bytes > self.limits.queue_memory_max {
            return; // what is here is to go first
        }
        let fetch = Fetch {
            queue: QueueId::null(),
            number,
            first,
            last: Seq(clock.place(horizon).0 - 1),
            bytes_max,
        };
        delayed.fetching = Some(fetch);
        fx.fetches.push(fetch);
    }

    /// Whether an answer of the log is for delayed messages.
    pub(crate) fn is_for_delayed(fetched: &Fetched) -> bool {
        fetched.queue.is_null() // no queue that a client knows
    }

    /// Delayed messages have come back from the log.
    pub(crate) fn delayed_fetched(&mut self, fetched: Fetched, fx: &mut Effects) {
        let Some(fetch) = self.delayed.fetching.take() else {
            return;
        };
        if let Some(asked) = self.delayed.looking.asked.take() {
            self.looked_at(asked, fetched);
            return self.go_on_with_log(fx);
        }
        let clock = Clock::of(fetch.first);
        self.work += fetched.messages.len() as u64;
        self.metrics.paged_in += fetched.messages.len() as u64;
        // Up to here nothing more will come. An answer may be cut off anywhere behind its first.
        let last = fetched.messages.last();
        let last = last.map_or(fetch.last, |&(place, ..)| place);
        for (place, message, _) in fetched.messages {
            self.delayed.bring_back(place, message);
        }
        if let Some(error) = fetched.error {
            fx.events.push(Event::FetchFailed {
                queue: Arc::from(QUEUE),
                error,
            });
            let room = self.delayed.room(clock);
            let (failed_at, failures) = room.failed;
            let stuck = room.waiting.get(&fetch.first).is_some_and(Option::is_none);
            let failures = if stuck && failed_at == fetch.first {
                failures + 1
            } else {
                1
            };
            room.failed = (fetch.first, failures);
            if stuck && failures >= READS_MAX {
                // The others are not to wait for it. The log still has it, for whoever can mend it.
                self.give_up_delayed(clock, fetch.first, fetch.first, fx);
            }
            for clock in Clock::BOTH {
                let at = self.now.mono.plus_ms(FETCH_AGAIN_MS);
                self.timers.set(at, Timer::Delayed(clock));
            }
            self.go_on_looking(fx);
            return;
        }
        self.give_up_delayed(clock, fetch.first, last, fx);
        self.go_on_with_log(fx);
    }

    /// The log has answered: what is due comes first, then who looks for something.
    fn go_on_with_log(&mut self, fx: &mut Effects) {
        for clock in Clock::BOTH {
            self.delayed_due(clock, fx); // either may have waited for this answer
        }
        self.go_on_looking(fx);
    }

    /// What the log was asked for and has not will not come.
    fn give_up_delayed(&mut self, clock: Clock, first: Seq, last: Seq, fx: &mut Effects) {
        let room = self.delayed.room(clock);
        let asked = room.waiting.range(first..=last);
        let missing = asked.filter(|(_, message)| message.is_none());
        let missing: Vec<Seq> = missing.map(|(&place, _)| place).collect();
        for place in missing {
            room.waiting.remove(&place);
            room.away -= 1;
            let id = place.0;
            let why = format!("the log has not the delayed message {id:016x}");
            fx.events.push(Event::FetchFailed {
                queue: Arc::from(QUEUE),
                error: LogError::Corrupt(why),
            });
        }
        room.here_before = room.here_before.max(Seq(last.0 + 1));
    }
}

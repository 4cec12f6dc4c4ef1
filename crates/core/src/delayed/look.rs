//! Looking for delayed messages that are in the log alone.
//!
//! The broker's own id of a message is its place, so that one is read by itself. Of a `message-id`
//! of what is not in memory nothing is kept: the log is gone through, a page at a time, from the
//! message that is due first. Whoever asked waits, and asks again when the answer is there. One is
//! looked for at a time, as long as anybody waits for it, and what is due soon is read before any
//! page.

use std::collections::VecDeque;

use slotmap::Key;

use crate::delayed::{Clock, Delayed};
use crate::effect::Effects;
use crate::error::AmqpError;
use crate::ids::{ChannelKey, Now, QueueId, Seq};
use crate::log::{Fetch, Fetched, LogError};
use crate::message::Message;
use crate::timer::Timer;
use crate::vhost::Vhost;

/// Octets of messages in a page: what a look-up takes in memory, unless one message is larger.
const PAGE_BYTES: usize = 1 << 20;

/// Messages that may be looked for at a time: each is a walk through the log.
const WANTED_MAX: usize = 256;

/// How many may wait for the same message: all of them go on in the turn that brings the answer.
const WAITING_MAX: usize = 256;

/// A message that is looked for in the log, by a number that no other look-up gets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LookUp(u64);

/// A message that somebody wants to do something with.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Wanted {
    /// The one in this place.
    Place(Seq),
    /// The first one with this `message-id`.
    Id(Box<str>),
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Waiter {
    Channel(ChannelKey),
    /// Somebody without a channel, who asks again by himself.
    Order,
}

/// One that is looked for.
#[derive(Debug)]
struct Sought {
    number: LookUp,
    wanted: Wanted,
    /// Where the log is to be read next.
    next: Seq,
    /// Channels that ask again when there is an answer.
    channels: Vec<ChannelKey>,
    /// How many others do.
    orders: usize,
}

/// What came of looking for one.
#[derive(Debug)]
struct Answer {
    number: LookUp,
    wanted: Wanted,
    /// None if it was found: it is in memory for now, unless somebody else was there first.
    missing: Option<Missing>,
    /// It holds for this moment.
    when: Now,
}

#[derive(Debug)]
enum Missing {
    Nowhere,
    Unknown(LogError),
}

/// Messages that are looked for in the log.
#[derive(Debug, Default)]
pub(crate) struct Looking {
    /// The first of them at the moment. Somebody waits for each.
    wanted: VecDeque<Sought>,
    /// The number of the last one.
    last: u64,
    /// A page was asked for, for this one.
    pub(super) asked: Option<LookUp>,
    /// What came of the last one that was looked for to the end.
    answer: Option<Answer>,
    /// It was brought into memory for that: it leaves it again.
    lent: Option<Seq>,
}

impl Looking {
    /// Whether the channel waits for this.
    pub(crate) fn has_waiting(&self, number: LookUp, key: ChannelKey) -> bool {
        let mut wanted = self.wanted.iter().filter(|sought| sought.number == number);
        wanted.any(|sought| sought.channels.contains(&key))
    }

    /// What has left memory may be what was nowhere else: who asks now has it looked for.
    pub(super) fn doubt_answer(&mut self) {
        if let Some(answer) = &mut self.answer {
            answer.missing = None;
        }
    }

    pub(super) fn check(&self) {
        for sought in &self.wanted {
            let waiting = sought.channels.len() + sought.orders;
            assert!(
                (1..=WAITING_MAX).contains(&waiting),
                "{waiting} wait for {sought:?}"
            );
        }
    }
}

impl Vhost {
    /// Where the message is, if that is known at this moment, and if it is in memory should that be
    /// needed. Else it is to be waited for or given up.
    ///
    /// # Errors
    /// `RESOURCE_ERROR`: too many are looked for. `PRECONDITION_FAILED`: the log cannot be read.
    pub(super) fn look_for(&mut self, id: &str, in_memory: bool) -> Result<Looked, AmqpError> {
        if let Some(place) = named(id) {
            let room = self.delayed.room(Clock::of(place));
            match room.waiting.get(&place) {
                Some(None) if in_memory => return self.look_in_log(Wanted::Place(place)),
                Some(_) => return Ok(Looked::At(place)),
                None => {}
            }
        }
        if let Some(place) = self.find_delayed(id) {
            return Ok(Looked::At(place));
        }
        // One that has just left, or a name that nobody can have: not to be looked for among all the
        // others.
        let is_none = named(id).is_some() || id.len() > usize::from(u8::MAX);
        if is_none || self.delayed.rooms.iter().all(|room| room.away == 0) {
            return Ok(Looked::Nowhere);
        }
        self.look_in_log(Wanted::Id(id.into()))
    }

    fn look_in_log(&mut self, wanted: Wanted) -> Result<Looked, AmqpError> {
        let looking = &mut self.delayed.looking;
        if let Some(answer) = &looking.answer
            && answer.wanted == wanted
            && answer.when == self.now
        {
            match &answer.missing {
                None => {}
                Some(Missing::Nowhere) => return Ok(Looked::Nowhere),
                Some(Missing::Unknown(error)) => {
                    return Err(AmqpError::precondition_failed(format_args!(
                        "delayed messages cannot be read from the log: {error}"
                    )));
                }
            }
        }
        let sought = looking.wanted.iter().find(|sought| sought.wanted == wanted);
        if let Some(sought) = sought {
            if sought.channels.len() + sought.orders >= WAITING_MAX {
                return Err(AmqpError::resource_error(
                    "too many wait for the same delayed message",
                ));
            }
            return Ok(Looked::Later(sought.number));
        }
        if looking.wanted.len() >= WANTED_MAX {
            return Err(AmqpError::resource_error(
                "too many delayed messages are looked for in the log at once",
            ));
        }
        looking.last += 1;
        let number = LookUp(looking.last);
        looking.wanted.push_back(Sought {
            number,
            wanted,
            next: Seq(0),
            channels: Vec::new(),
            orders: 0,
        });
        Ok(Looked::Later(number))
    }

    /// Somebody waits for this from here on.
    pub(crate) fn wait_for(&mut self, number: LookUp, waiter: Waiter, fx: &mut Effects) {
        let mut wanted = self.delayed.looking.wanted.iter_mut();
        let Some(sought) = wanted.find(|sought| sought.number == number) else {
            return;
        };
        match waiter {
            Waiter::Channel(key) => sought.channels.push(key),
            Waiter::Order => sought.orders += 1,
        }
        self.go_on_looking(fx);
    }

    /// Somebody does not wait any more, if he still did. What nobody waits for is not looked for.
    pub(crate) fn stop_waiting(&mut self, number: LookUp, waiter: Waiter) {
        let wanted = &mut self.delayed.looking.wanted;
        let Some(at) = wanted.iter().position(|sought| sought.number == number) else {
            return;
        };
        let Some(sought) = wanted.get_mut(at) else {
            return;
        };
        match waiter {
            Waiter::Channel(key) => sought.channels.retain(|&other| other != key),
            Waiter::Order => sought.orders = sought.orders.saturating_sub(1),
        }
        self.drop_unwanted(number);
    }

    /// Forgets this one unless somebody waits for it.
    pub(crate) fn drop_unwanted(&mut self, number: LookUp) {
        let wanted = &mut self.delayed.looking.wanted;
        wanted.retain(|sought| {
            sought.number != number || sought.orders > 0 || !sought.channels.is_empty()
        });
    }

    /// The one that there is an answer to at this moment.
    pub(crate) fn looked_up(&self) -> Option<LookUp> {
        let answer = self.delayed.looking.answer.as_ref();
        let answer = answer.filter(|answer| answer.when == self.now);
        answer.map(|answer| answer.number)
    }

    /// Asks the log for the next page, if nothing else is asked of it.
    pub(crate) fn go_on_looking(&mut self, fx: &mut Effects) {
        if self.looked_up().is_none() {
            self.return_lent();
        }
        let Delayed {
            looking,
            number,
            fetching,
            ..
        } = &mut self.delayed;
        let (Some(queue), Some(sought)) = (*number, looking.wanted.front()) else {
            return;
        };
        if fetching.is_some() {
            return; // it comes in its turn
        }
        let (first, last) = match sought.wanted {
            Wanted::Place(place) => (place, place),
            Wanted::Id(_) => (sought.next, Seq(u64::MAX)),
        };
        let fetch = Fetch {
            queue: QueueId::null(),
            number: queue,
            first,
            last,
            bytes_max: PAGE_BYTES,
        };
        looking.asked = Some(sought.number);
        *fetching = Some(fetch);
        fx.fetches.push(fetch);
    }

    /// A page has come.
    pub(super) fn looked_at(&mut self, asked: LookUp, fetched: Fetched) {
        self.return_lent();
        self.work += fetched.messages.len() as u64;
        let delayed = &mut self.delayed;
        let first = delayed.looking.wanted.front_mut();
        let Some(sought) = first.filter(|sought| sought.number == asked) else {
            return; // nobody waits for it any more
        };
        let last = fetched.messages.last().map(|&(place, ..)| place);
        let wants = |place: Seq, message: &Message| match &sought.wanted {
            Wanted::Place(wanted) => place == *wanted,
            Wanted::Id(id) => has_id(message, id),
        };
        let rooms = &delayed.rooms;
        let waits = |place: &Seq| rooms[Clock::of(*place).index()].waiting.contains_key(place);
        let mut messages = fetched.messages.into_iter();
        let found = messages.find(|(place, m, _)| wants(*place, m) && waits(place));
        let missing = match (&found, fetched.error, last) {
            (Some(_), ..) => None,
            (None, Some(error), _) => Some(Missing::Unknown(error)),
            (None, None, Some(last)) if matches!(sought.wanted, Wanted::Id(_)) => {
                sought.next = Seq(last.0.saturating_add(1));
                return;
            }
            (None, None, _) => Some(Missing::Nowhere),
        };
        if let Some((place, message, _)) = found
            && delayed.bring_back(place, message)
        {
            delayed.looking.lent = Some(place);
        }
        let Some(sought) = self.delayed.looking.wanted.pop_front() else {
            return;
        };
        self.getters.extend(sought.channels);
        self.delayed.looking.answer = Some(Answer {
            number: sought.number,
            wanted: sought.wanted,
            missing,
            when: self.now,
        });
        // The next one, and what was lent leaves memory, when those who waited have had their turn.
        let soon = self.now.mono.plus_ms(1);
        self.timers.set(soon, Timer::Looking);
    }

    /// What was brought into memory for somebody who asked leaves it, unless it has moved.
    fn return_lent(&mut self) {
        let looking = &mut self.delayed.looking;
        looking.answer = None;
        let Some(place) = looking.lent.take() else {
            return;
        };
        let clock = Clock::of(place);
        if place >= self.delayed.room(clock).here_before && self.delayed.send_away(place).is_some()
        {
            self.set_delay_timer(clock);
        }
    }
}

/// What is known of a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Looked {
    At(Seq),
    Nowhere,
    /// It is looked for under this number.
    Later(LookUp),
}

/// The place that is meant, if this is an id as lists show it.
fn named(id: &str) -> Option<Seq> {
    let is_digit = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
    let is_place = id.len() == 16 && id.bytes().all(is_digit);
    let place = u64::from_str_radix(id, 16).ok().map(Seq);
    place.filter(|_| is_place)
}

/// Whether this is its `message-id`.
pub(super) fn has_id(message: &Message, id: &str) -> bool {
    let found = message.properties().message_id;
    found.is_some_and(|found| *found == *id.as_bytes())
}

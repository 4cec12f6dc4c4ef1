//! Looking for delayed messages that are in the log alone.
//!
//! The broker's own id of a message is its place, so that one is read by itself. Of a `message-id`
//! nothing is kept in memory: the log is gone through, a page at a time, from the message that is due
//! first. Whoever asked waits, and asks again when the answer is there. One is looked for at a time,
//! and what is due soon is read before any page.

use std::collections::VecDeque;

use slotmap::Key;

use crate::delayed::{Clock, Delayed, Room};
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

/// A message that somebody wants to do something with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Wanted {
    /// The one in this place.
    Place(Seq),
    /// The first one with this `message-id`.
    Id(Box<str>),
}

/// What came of looking for it.
#[derive(Debug)]
enum Found {
    /// It is in this place, and in memory for now.
    At(Seq),
    Nowhere,
    Unknown(LogError),
}

/// Messages that are looked for in the log.
#[derive(Debug, Default)]
pub(crate) struct Looking {
    /// The first of them at the moment.
    wanted: VecDeque<Wanted>,
    /// Where it goes on with that one.
    next: Seq,
    /// A page of it was asked for.
    pub(crate) asked: bool,
    /// What came of the last one; holds for this moment.
    found: Option<(Wanted, Found, Now)>,
    /// It was brought into memory for that: it leaves it again.
    lent: Option<Seq>,
    /// Channels that ask again when there is something new.
    pub(crate) waiting: Vec<ChannelKey>,
}

impl Vhost {
    /// Where the message is, if that is known at this moment, and if it is in memory should that be
    /// needed. None: it is being looked for; ask again.
    ///
    /// # Errors
    /// `RESOURCE_ERROR`: too many are looked for. `PRECONDITION_FAILED`: the log cannot be read.
    pub(super) fn look_for(
        &mut self,
        id: &str,
        in_memory: bool,
        fx: &mut Effects,
    ) -> Result<Option<Looked>, AmqpError> {
        if let Some(place) = self.find_delayed(id) {
            let room = self.delayed.room(Clock::of(place));
            let is_here = room.waiting.get(&place).is_some_and(Option::is_some);
            if is_here || !in_memory {
                return Ok(Some(Looked::At(place)));
            }
            return self.look_in_log(Wanted::Place(place), fx);
        }
        if self.delayed.rooms.iter().all(|room| room.away == 0) {
            return Ok(Some(Looked::Nowhere));
        }
        self.look_in_log(Wanted::Id(id.into()), fx)
    }

    fn look_in_log(
        &mut self,
        wanted: Wanted,
        fx: &mut Effects,
    ) -> Result<Option<Looked>, AmqpError> {
        let Delayed { looking, rooms, .. } = &mut self.delayed;
        if let Some((of, found, when)) = &looking.found
            && *of == wanted
            && *when == self.now
        {
            match found {
                Found::At(place) => {
                    let room = &rooms[Clock::of(*place).index()];
                    // Somebody else may have been there first.
                    if room.waiting.get(place).is_some_and(Option::is_some) {
                        return Ok(Some(Looked::At(*place)));
                    }
                }
                Found::Nowhere => return Ok(Some(Looked::Nowhere)),
                Found::Unknown(error) => {
                    return Err(AmqpError::precondition_failed(format_args!(
                        "delayed messages cannot be read from the log: {error}"
                    )));
                }
            }
        }
        if !looking.wanted.contains(&wanted) {
            if looking.wanted.len() >= WANTED_MAX {
                return Err(AmqpError::resource_error(
                    "too many delayed messages are looked for in the log at once",
                ));
            }
            looking.wanted.push_back(wanted);
        }
        self.go_on_looking(fx);
        Ok(None)
    }

    /// Asks the log for the next page, if nothing else is asked of it.
    pub(crate) fn go_on_looking(&mut self, fx: &mut Effects) {
        let found = &self.delayed.looking.found;
        if found.as_ref().is_none_or(|(.., when)| *when != self.now) {
            self.return_lent();
        }
        let delayed = &mut self.delayed;
        let (Some(number), Some(wanted)) = (delayed.number, delayed.looking.wanted.front()) else {
            return;
        };
        if delayed.fetching.is_some() {
            return; // it comes in its turn
        }
        let (first, last) = match wanted {
            Wanted::Place(place) => (*place, *place),
            Wanted::Id(_) => (delayed.looking.next, Seq(u64::MAX)),
        };
        let fetch = Fetch {
            queue: QueueId::null(),
            number,
            first,
            last,
            bytes_max: PAGE_BYTES,
        };
        delayed.looking.asked = true;
        delayed.fetching = Some(fetch);
        fx.fetches.push(fetch);
    }

    /// A page has come.
    pub(crate) fn looked_at(&mut self, fetched: Fetched) {
        self.return_lent();
        self.delayed.looking.asked = false;
        let Some(wanted) = self.delayed.looking.wanted.front().cloned() else {
            return;
        };
        self.work += fetched.messages.len() as u64;
        let last = fetched.messages.last().map(|&(place, ..)| place);
        let wants = |place: Seq, message: &Message| match &wanted {
            Wanted::Place(wanted) => place == *wanted,
            Wanted::Id(id) => has_id(message, id),
        };
        let mut found = None;
        for (place, message, _) in fetched.messages {
            if !wants(place, &message) {
                continue;
            }
            let delayed = &mut self.delayed;
            let room: &mut Room = &mut delayed.rooms[Clock::of(place).index()];
            let Some(here) = room.waiting.get_mut(&place) else {
                continue; // it has left since
            };
            if here.is_none() {
                delayed.bytes += message.memory_bytes();
                *here = Some(message);
                room.away -= 1;
                delayed.looking.lent = Some(place);
            }
            found = Some(Found::At(place));
            break;
        }
        let found = match (found, fetched.error, &wanted, last) {
            (Some(found), ..) => found,
            (None, Some(error), ..) => Found::Unknown(error),
            (None, None, Wanted::Id(_), Some(last)) => {
                self.delayed.looking.next = Seq(last.0.saturating_add(1));
                return;
            }
            (None, None, ..) => Found::Nowhere,
        };
        let looking = &mut self.delayed.looking;
        looking.found = Some((wanted, found, self.now));
        looking.wanted.pop_front();
        looking.next = Seq(0);
        self.getters.append(&mut looking.waiting);
        // The next one, and what was lent leaves memory, when those who waited have had their turn.
        let soon = self.now.mono.plus_ms(1);
        self.timers.set(soon, Timer::Looking);
    }

    /// What was brought into memory for somebody who asked leaves it, unless it has moved.
    fn return_lent(&mut self) {
        let looking = &mut self.delayed.looking;
        looking.found = None;
        let Some(place) = looking.lent.take() else {
            return;
        };
        let delayed = &mut self.delayed;
        let room = &mut delayed.rooms[Clock::of(place).index()];
        if place >= room.here_before
            && let Some(message) = room.waiting.get_mut(&place).and_then(Option::take)
        {
            room.away += 1;
            delayed.bytes -= message.memory_bytes();
            self.set_delay_timer(Clock::of(place));
        }
    }
}

/// What is known of a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Looked {
    At(Seq),
    Nowhere,
}

/// Whether this is its `message-id`.
pub(super) fn has_id(message: &Message, id: &str) -> bool {
    let found = message.properties().message_id;
    found.is_some_and(|found| *found == *id.as_bytes())
}

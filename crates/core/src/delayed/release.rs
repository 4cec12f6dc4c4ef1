//! What happens to delayed messages when their time has come, or when somebody does not want to
//! wait for it.

use std::sync::Arc;

use crate::delay;
use crate::delayed::look::has_id;
use crate::delayed::{Clock, Delayed, RELEASED_AT_ONCE, due_of};
use crate::effect::Effects;
use crate::ids::{Lsn, Seq, Wall};
use crate::message::Message;
use crate::method::take_copies;
use crate::record::{Fact, Places};
use crate::schedule::Ending;
use crate::schedules::work_of;
use crate::vhost::Vhost;

/// A delayed message, to be shown.
#[derive(Debug)]
pub(super) struct DelayedMessage {
    pub(super) place: Seq,
    pub(super) due: Wall,
    /// None if it is in the log alone.
    pub(super) message: Option<Message>,
}

impl Vhost {
    /// Delivers what is due by this clock, or some of it.
    pub(crate) fn delayed_timer(&mut self, clock: Clock, fx: &mut Effects) {
        let timer = &mut self.delayed.room(clock).timer;
        if timer.is_some_and(|(at, _)| at <= self.now.mono) {
            *timer = None;
        }
        self.delayed_due(clock, fx);
    }

    pub(super) fn delayed_due(&mut self, clock: Clock, fx: &mut Effects) {
        for _ in 0..RELEASED_AT_ONCE {
            if self.own.is_too_much() {
                break; // the log is to catch up first
            }
            let now = self.delayed.now(clock, self.now);
            let Some((place, Some(_))) = self.delayed.room(clock).first_due(now) else {
                break;
            };
            let message = self.take_delayed(place);
            if let Some(message) = message {
                self.deliver_delayed(place, message, fx);
            }
        }
        self.fetch_delayed(clock, fx);
        self.set_delay_timer(clock);
    }

    /// Takes a message out; None if there is none or if it is in the log alone.
    fn take_delayed(&mut self, place: Seq) -> Option<Message> {
        let message = self.delayed.send_away(place);
        let room = self.delayed.room(Clock::of(place));
        room.waiting.remove(&place)?;
        room.away -= 1;
        message
    }

    /// The record that says that it does not wait any more, if there is one that says it does.
    fn no_longer_delayed(&self, place: Seq, message: &Message) -> Option<Fact> {
        let queue = self.delays_number().filter(|_| message.is_persistent())?;
        Some(Fact::Settled { queue, seq: place })
    }

    /// A message is due: goes the way of any message that is published now.
    fn deliver_delayed(&mut self, place: Seq, message: Message, fx: &mut Effects) {
        self.work += work_of(&message);
        self.metrics.delayed_released += 1;
        let settled = self.no_longer_delayed(place, &message);
        let mut gone: Vec<Fact> = settled.into_iter().collect();
        let exchange = self.exchange_names.get(message.exchange()).copied();
        let waited_here = exchange.and_then(|id| self.exchanges.get(id));
        let (message, copies) = as_published(message, waited_here.is_some_and(|x| x.delays));
        self.router.queues.clear();
        self.router.delaying.clear();
        if let Some(exchange) = exchange {
            let keys: Vec<&str> = std::iter::once(message.routing_key())
                .chain(copies.iter().map(String::as_str))
                .collect();
            self.walk(exchange, &keys, &message);
        }
        if self.router.queues.is_empty() && self.router.delaying.is_empty() {
            self.metrics.unroutable_dropped += 1;
        }
        self.refuse_overflow(&message, fx);
        if self.router.queues.is_empty() && self.router.delaying.is_empty() {
            gone.append(&mut self.noted_of_ending(&message, Ending::Died, fx));
        }
        let held = self.hold_on_the_way(&Arc::from(""), &message, &copies, fx);
        let queues = std::mem::take(&mut self.router.queues);
        self.metrics.routed += queues.len() as u64;
        let safe = self.record_letter(gone, &message, &queues, &held, fx);
        if message.is_persistent() {
            self.own.add(safe, self.durable, message.memory_bytes());
        }
        for &id in &queues {
            self.offer_when(id, message.clone(), safe, fx);
        }
        self.router.queues = queues;
        self.await_all(held, safe, fx);
        self.bury(fx);
    }

    /// Up to `max` messages that wait, those due first first.
    pub(super) fn list_delayed(&mut self, max: usize) -> Vec<DelayedMessage> {
        let rooms = self.delayed.rooms.iter();
        let places = rooms.flat_map(|room| room.waiting.keys().take(max));
        let places: Vec<Seq> = places.copied().collect();
        let mut list: Vec<DelayedMessage> =
            places.into_iter().map(|p| self.show_delayed(p)).collect();
        list.sort_by_key(|entry| (entry.due, entry.place));
        list.truncate(max);
        list
    }

    /// The message in this place, and when it is due by the clock on the wall as that goes now.
    pub(super) fn show_delayed(&mut self, place: Seq) -> DelayedMessage {
        let clock = Clock::of(place);
        let now = self.delayed.now(clock, self.now);
        let in_ms = due_of(place).0.saturating_sub(now.0);
        let room = self.delayed.room(clock);
        DelayedMessage {
            place,
            due: Wall(self.now.wall.0.saturating_add(in_ms)),
            message: room.waiting.get(&place).cloned().flatten(),
        }
    }

    /// The place of the first message with this `message-id` that is in memory.
    pub(super) fn find_delayed(&self, id: &str) -> Option<Seq> {
        let Delayed { names, rooms, .. } = &self.delayed;
        names.find(id).find(|place| {
            let room = &rooms[Clock::of(*place).index()];
            let message = room.waiting.get(place).and_then(Option::as_ref);
            message.is_some_and(|message| has_id(message, id))
        })
    }

    /// Forgets a message. It is forgotten for good once the record is safe whose number comes back.
    pub(super) fn cancel_delayed(&mut self, place: Seq, fx: &mut Effects) -> Lsn {
        let room = self.delayed.room(Clock::of(place));
        let persistent = match room.waiting.get(&place) {
            None => return Lsn(0),
            Some(Some(message)) => message.is_persistent(),
            Some(None) => true,
        };
        let message = self.take_delayed(place);
        self.metrics.delayed_cancelled += 1;
        let queue = self.delays_number().filter(|_| persistent);
        let settled = queue.map(|queue| Fact::Settled { queue, seq: place });
        let noted = message.map(|message| self.noted_of_ending(&message, Ending::Removed, fx));
        self.record_all(settled.into_iter().chain(noted.into_iter().flatten()), fx)
    }

    /// Gives a message another time, by the clock on the wall, in one record. None if it is in the
    /// log alone: it can be moved when it is due soon.
    pub(super) fn retime_delayed(
        &mut self,
        place: Seq,
        due: Wall,
        fx: &mut Effects,
    ) -> Option<(Seq, Lsn)> {
        let room = self.delayed.room(Clock::of(place));
        room.waiting.get(&place)?.as_ref()?;
        let message = self.take_delayed(place)?;
        let new = self.delayed_place(Clock::Wall, due);
        let mut safe = Lsn(0);
        if let (Some(settled), Some(number)) = (
            self.no_longer_delayed(place, &message),
            self.delays_number(),
        ) {
            let published = Fact::Published {
                message: message.clone(),
                user: Arc::from(""),
                at: self.now.wall,
                places: Places::from_elem((number, new), 1),
            };
            safe = self.record(Fact::Together(vec![settled, published]), fx);
        }
        self.await_due(new, message, safe);
        self.set_delay_timer(Clock::Wall);
        Some((new, safe))
    }
}

/// The message as its consumers see it, and further keys that it goes to. Its exchange may be one
/// that looks at `x-delay`, which holds once.
fn as_published(message: Message, x_delay: bool) -> (Message, Vec<String>) {
    let mut properties = message.properties();
    let Some(headers) = &mut properties.headers else {
        return (message, Vec::new());
    };
    let (copies, stripped) = take_copies(headers);
    let negated = x_delay && delay::negate(headers);
    if stripped || negated {
        (message.with_properties(&properties), copies)
    } else {
        (message, copies)
    }
}

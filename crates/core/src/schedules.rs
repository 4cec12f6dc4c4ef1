//! What the vhost does for its scheduler: takes orders to it, carries out its deeds, and tells it
//! what becomes of the messages it has fired.

use std::sync::Arc;

use leveret_codec::Properties;
use slotmap::SlotMap;

use crate::channel::Mode;
use crate::connection::Origin;
use crate::delay;
use crate::delayed::Ordered;
use crate::effect::Effects;
use crate::error::{AmqpError, Named};
use crate::event::Event;
use crate::exchange::Exchange;
use crate::ids::{ExchangeId, Lsn};
use crate::input::Command;
use crate::log::LogError;
use crate::map::Map;
use crate::message::Message;
use crate::method::check_properties;
use crate::permission::{Access, Permissions};
use crate::record::Fact;
use crate::schedule::{Deeds, Ending, Fire, Order, Refusal, Rights, Run, Scheduler};
use crate::timer::Timer;
use crate::vhost::Vhost;

/// The exchange that takes orders to the scheduler.
pub(crate) const EXCHANGE: &str = "amq.schedule";

/// The timer is looked at this often, in milliseconds: the clock may have been set.
const LOOK_MS: u64 = 1_000;

/// While nothing may be fired it is tried this often, in milliseconds.
const LOOK_AGAIN_MS: u64 = 20;

/// Messages that are fired in one go.
const FIRES_AT_ONCE: usize = 256;

/// Messages that are removed at once are looked at one by one if there are no more of them: more
/// would hold everybody up, and a scheduler has to live with messages it hears nothing of.
const REMOVED_SEEN_MAX: usize = 100_000;

/// What became of a message that a schedule has fired.
#[derive(Debug)]
pub(crate) enum News {
    /// It went to the consumer with this tag.
    Delivered(Message, Box<str>),
    /// It went there for good; with the record that says it has left its queue, if there is to be one.
    Consumed(Message, Option<Fact>),
}

/// What a user may do in a vhost.
struct Permitted<'a> {
    vhost: &'a str,
    exchanges: &'a SlotMap<ExchangeId, Exchange>,
    names: &'a Map<Arc<str>, ExchangeId>,
    user: &'a str,
    permissions: &'a Permissions,
}

impl Rights for Permitted<'_> {
    fn may_configure(&self, schedule: &str) -> Result<(), AmqpError> {
        let named = Named {
            kind: "schedule",
            name: schedule,
            vhost: self.vhost,
        };
        let access = Access::Configure;
        self.permissions.check(self.user, access, named)
    }

    fn may_publish(&self, exchange: &str) -> Result<(), AmqpError> {
        let named = Named {
            kind: "exchange",
            name: exchange,
            vhost: self.vhost,
        };
        self.permissions.check(self.user, Access::Write, named)?;
        let id = self.names.get(exchange).copied();
        let id = id.ok_or_else(|| AmqpError::not_found(named))?;
        if self.exchanges.get(id).is_some_and(|x| x.internal) || exchange == EXCHANGE {
            return Err(AmqpError::access_refused(format_args!(
                "cannot publish to internal {named}"
            )));
        }
        Ok(())
    }
}

impl Vhost {
    /// Hands the vhost to a scheduler, with what that has noted before.
    pub(crate) fn schedule_with(
        &mut self,
        mut scheduler: Box<dyn Scheduler>,
    ) -> Result<(), LogError> {
        let mut notes = std::mem::take(&mut self.notes);
        notes.sort_by(|a, b| a.key.cmp(&b.key));
        scheduler
            .recover(self.now.wall, notes)
            .map_err(LogError::Corrupt)?;
        self.scheduler = Some(scheduler);
        self.set_schedule_timer();
        Ok(())
    }

    /// Whether messages published to this exchange are orders.
    pub(crate) fn takes_orders(&self, exchange: ExchangeId) -> bool {
        let exchange = self.exchanges.get(exchange);
        exchange.is_some_and(|exchange| *exchange.name == *EXCHANGE)
    }

    /// A client has published an order.
    ///
    /// # Errors
    /// The scheduler's, and `PRECONDITION_FAILED` in a transaction.
    pub(crate) fn order_on(
        &mut self,
        from: Origin,
        message: &Message,
        fx: &mut Effects,
    ) -> Result<(), AmqpError> {
        if let Some(channel) = self.channels.get(from.key)
            && matches!(channel.mode, Mode::Tx(_))
        {
            return Err(AmqpError::precondition_failed(format_args!(
                "exchange '{EXCHANGE}' takes no part in transactions; use confirms"
            )));
        }
        let Some(connection) = self.connections.get(from.connection) else {
            return Ok(());
        };
        let user = Arc::clone(&connection.peer.user);
        let permissions = connection.peer.permissions.clone();
        let is_gone = connection.gone;
        let properties = message.properties();
        let reply_to = properties.reply_to.as_deref().map(std::str::from_utf8);
        let reply_to = reply_to.and_then(Result::ok);
        if let Some(to) = reply_to
            && !self.replies.contains_key(to)
        {
            permissions.check(&user, Access::Write, self.exchange_named(""))?;
        }
        let (answer, safe) = match self.order(&user, &permissions, message, fx)? {
            Ordered::Done(answer, safe) => (answer, safe),
            // It would wait for ever: nobody hears the answer, and it was not confirmed.
            Ordered::Later(number) if is_gone => {
                self.drop_unwanted(number);
                return Ok(());
            }
            Ordered::Later(number) => {
                self.metrics.published -= 1; // it comes once more
                let command = Command::Publish {
                    channel: from.number,
                    mandatory: false,
                    message: message.clone(),
                };
                self.park_for_look_up(from, number, command, fx);
                return Ok(());
            }
        };
        if let Some(to) = reply_to {
            let properties = Properties {
                content_type: Some("application/json".into()),
                correlation_id: properties.correlation_id,
                ..Properties::default()
            };
            let answer = Message::of("", to, &properties, &answer);
            if safe <= self.durable && self.answers.is_empty() {
                self.answer_order(&answer, fx);
            } else {
                self.answers.push_back((safe, answer));
            }
        }
        self.confirm_when(from.key, safe);
        Ok(())
    }

    /// Whether a user may publish orders.
    ///
    /// # Errors
    /// `ACCESS_REFUSED`.
    pub(crate) fn may_order(&self, user: &str, permissions: &Permissions) -> Result<(), AmqpError> {
        permissions.check(user, Access::Write, self.exchange_named(EXCHANGE))
    }

    /// Somebody wants something of the scheduler. It holds once the record is safe whose number
    /// comes back with the answer.
    ///
    /// # Errors
    /// The scheduler's; `NOT_IMPLEMENTED` if there is none.
    pub(crate) fn order(
        &mut self,
        user: &Arc<str>,
        permissions: &Permissions,
        message: &Message,
        fx: &mut Effects,
    ) -> Result<Ordered, AmqpError> {
        self.work += 1;
        check_properties(&message.properties())?;
        if let Some(answer) = self.order_about_delayed(user, permissions, message, fx) {
            return answer;
        }
        let Some(scheduler) = &mut self.scheduler else {
            return Err(AmqpError::not_implemented("this vhost has no scheduler"));
        };
        let mut deeds = Deeds::default();
        let rights = Permitted {
            vhost: &self.name,
            exchanges: &self.exchanges,
            names: &self.exchange_names,
            user,
            permissions,
        };
        let order = Order {
            user,
            message,
            rights: &rights,
        };
        let answer = scheduler.order(self.now.wall, &order, &mut deeds);
        self.work += deeds.work;
        let answer = answer?;
        let safe = self.carry_out(deeds, fx);
        self.set_schedule_timer();
        Ok(Ordered::Done(answer, safe))
    }

    /// Gives the answers to orders whose records are safe by now.
    pub(crate) fn answer_orders(&mut self, fx: &mut Effects) {
        while let Some((safe, _)) = self.answers.front()
            && *safe <= self.durable
            && let Some((_, answer)) = self.answers.pop_front()
        {
            self.answer_order(&answer, fx);
        }
    }

    /// The answer goes where the order said, by the default exchange.
    fn answer_order(&mut self, answer: &Message, fx: &mut Effects) {
        self.work += work_of(answer);
        if self.reply(answer.routing_key(), answer, fx) {
            return;
        }
        self.router.queues.clear();
        self.walk(self.default_exchange, &[answer.routing_key()], answer);
        self.refuse_overflow(answer, fx);
        let queues = std::mem::take(&mut self.router.queues);
        for &id in &queues {
            self.offer(id, answer.clone(), fx);
        }
        self.router.queues = queues;
    }

    /// Something may be due.
    pub(crate) fn schedules_due(&mut self, fx: &mut Effects) {
        if self
            .schedule_timer
            .is_some_and(|(at, _)| at <= self.now.mono)
        {
            self.schedule_timer = None;
        }
        let may_fire = self.may_fire();
        let Some(scheduler) = &mut self.scheduler else {
            return;
        };
        let mut deeds = Deeds::default();
        if may_fire && scheduler.next_due().is_some_and(|due| due <= self.now.wall) {
            scheduler.due(self.now.wall, FIRES_AT_ONCE, &mut deeds);
        }
        self.work += deeds.work;
        self.carry_out(deeds, fx);
        self.set_schedule_timer();
    }

    /// Whether schedules may publish: what stops publishers stops them, too, and they do not get
    /// far ahead of the log.
    fn may_fire(&self) -> bool {
        !(self.memory_is_short() || self.own.is_too_much())
    }

    /// Works out anew what is due when.
    pub(crate) fn replan(&mut self, fx: &mut Effects) {
        if let Some(scheduler) = &mut self.scheduler {
            scheduler.replan(self.now.wall);
        }
        self.schedules_due(fx);
    }

    /// The same for schedules of one expression.
    pub(crate) fn replan_some(&mut self, rhythm: &str, fx: &mut Effects) {
        if let Some(scheduler) = &mut self.scheduler {
            let mut deeds = Deeds::default();
            scheduler.replan_some(self.now.wall, rhythm, &mut deeds);
            self.work += deeds.work;
            self.carry_out(deeds, fx);
        }
        self.schedules_due(fx);
    }

    /// Sets the timer to when something is due next.
    fn set_schedule_timer(&mut self) {
        let Some(due) = self.scheduler.as_ref().and_then(|s| s.next_due()) else {
            return;
        };
        let mut in_ms = due.0.saturating_sub(self.now.wall.0).min(LOOK_MS);
        if !self.may_fire() {
            in_ms = in_ms.max(LOOK_AGAIN_MS);
        }
        let at = self.now.mono.plus_ms(in_ms);
        self.timers
            .bring_forward(&mut self.schedule_timer, at, Timer::Schedules);
    }

    /// Does what the scheduler wants done. All of it is safe once the record is whose number comes
    /// back.
    fn carry_out(&mut self, deeds: Deeds, fx: &mut Effects) -> Lsn {
        let mut safe = self.record_all(deeds.notes.into_iter().map(Fact::Noted), fx);
        for fire in deeds.fires {
            safe = safe.max(self.fire(fire, fx));
        }
        safe
    }

    /// Publishes a message that is due, in one record with what is noted about it.
    fn fire(&mut self, fire: Fire, fx: &mut Effects) -> Lsn {
        if let Some(refusal) = self.refusal(&fire) {
            self.work += 1;
            return self.refuse_fire(fire, refusal, fx);
        }
        self.metrics.schedules_fired += 1;
        let Fire {
            user,
            message,
            notes,
        } = fire;
        self.work += work_of(&message);
        self.router.queues.clear();
        self.router.delaying.clear();
        if let Some(&exchange) = self.exchange_names.get(message.exchange()) {
            let delays = self.exchanges.get(exchange).is_some_and(|x| x.delays);
            if delays && delay::x_delay(&message).is_some() {
                self.router.delaying.push(exchange);
            } else {
                self.walk(exchange, &[message.routing_key()], &message);
            }
        }
        self.refuse_overflow(&message, fx);
        let held = self.hold_on_the_way(&user, &message, &[], fx);
        if self.router.queues.is_empty() && held.is_empty() {
            self.metrics.unroutable_dropped += 1;
        }
        let queues = std::mem::take(&mut self.router.queues);
        self.metrics.routed += queues.len() as u64;
        let published = self.enqueued(&queues, &message, || user);
        let mut more = Vec::new();
        if let Some(scheduler) = &mut self.scheduler {
            let properties = message.properties();
            if let Some(run) = run_of(&properties) {
                // One that is held back is somewhere, and goes on from there.
                let places = queues.len() + held.len();
                scheduler.routed(self.now.wall, &run, places, &mut more);
            }
        }
        // What it notes about that is in the same record: after a crash a run in two queues is not
        // to be taken for one in one.
        let notes = notes.into_iter().chain(more).map(Fact::Noted);
        let kept = held.iter().filter_map(|held| held.kept.clone());
        let safe = self.record_all(notes.chain(published).chain(kept), fx);
        self.own.add(safe, self.durable, message.memory_bytes());
        for &id in &queues {
            self.offer_when(id, message.clone(), safe, fx);
        }
        self.router.queues = queues;
        self.await_all(held, safe, fx);
        safe
    }

    /// Whether the user of a schedule may not publish any more what it fires. That there is such an
    /// exchange is looked at when it is routed.
    fn refusal(&self, fire: &Fire) -> Option<Refusal> {
        let users = self.users.as_ref()?;
        let Some(permissions) = users.permissions(&fire.user) else {
            return Some(Refusal::NoUser);
        };
        let may = permissions.allow(Access::Write, fire.message.exchange());
        (!may).then_some(Refusal::NoRight)
    }

    /// Publishes nothing, and keeps that in one record.
    fn refuse_fire(&mut self, fire: Fire, refusal: Refusal, fx: &mut Effects) -> Lsn {
        self.metrics.schedules_refused += 1;
        let properties = fire.message.properties();
        let run = run_of(&properties);
        let mut notes = fire.notes;
        if let (Some(scheduler), Some(run)) = (&mut self.scheduler, &run) {
            scheduler.refused(self.now.wall, run, refusal, &mut notes);
        }
        fx.events.push(Event::FireRefused {
            run: run.map(|run| run.message_id.to_owned()).unwrap_or_default(),
            user: fire.user,
            exchange: fire.message.exchange().to_owned(),
            refusal,
        });
        self.record_all(notes.into_iter().map(Fact::Noted), fx)
    }

    /// A copy of a message leaves its queue: what its schedule has to note about that. It belongs into
    /// the record that says so: after a crash a run is over if, and only if, its message is gone.
    #[inline]
    pub(crate) fn noted_of_ending(
        &mut self,
        message: &Message,
        ending: Ending,
        fx: &mut Effects,
    ) -> Vec<Fact> {
        if message.is_fired() {
            self.tell_scheduler(fx); // that it was delivered comes first
            self.tell_of_ending(message, ending)
        } else {
            Vec::new()
        }
    }

    /// These are being removed from their queue, with whatever else is there.
    pub(crate) fn noted_of_removal(&mut self, removed: &[Message], fx: &mut Effects) -> Vec<Fact> {
        let mut noted = Vec::new();
        if self.scheduler.is_some() && removed.len() <= REMOVED_SEEN_MAX {
            for message in removed {
                noted.append(&mut self.noted_of_ending(message, Ending::Removed, fx));
            }
        }
        noted
    }

    /// Records that a copy of a message has left its queue, if there is anything to record.
    #[inline]
    pub(crate) fn record_ending(
        &mut self,
        message: &Message,
        ending: Ending,
        settled: Option<Fact>,
        fx: &mut Effects,
    ) {
        let noted = self.noted_of_ending(message, ending, fx);
        self.record_all(settled.into_iter().chain(noted), fx);
    }

    /// Tells the scheduler what became of its messages.
    #[inline]
    pub(crate) fn tell_scheduler(&mut self, fx: &mut Effects) {
        if !self.news.is_empty() {
            self.tell_all(fx);
        }
    }

    fn tell_all(&mut self, fx: &mut Effects) {
        for news in std::mem::take(&mut self.news) {
            match news {
                News::Delivered(message, tag) => self.tell_of_delivery(&message, &tag),
                News::Consumed(message, settled) => {
                    let noted = self.tell_of_ending(&message, Ending::Acked);
                    self.record_all(settled.into_iter().chain(noted), fx);
                }
            }
        }
    }

    fn tell_of_delivery(&mut self, message: &Message, tag: &str) {
        self.work += 1;
        if let Some(scheduler) = &mut self.scheduler
            && let Some(run) = run_of(&message.properties())
        {
            scheduler.delivered(self.now.wall, &run, tag);
        }
    }

    fn tell_of_ending(&mut self, message: &Message, ending: Ending) -> Vec<Fact> {
        self.work += 1;
        let mut notes = Vec::new();
        if let Some(scheduler) = &mut self.scheduler
            && let Some(run) = run_of(&message.properties())
        {
            scheduler.settled(self.now.wall, &run, ending, &mut notes);
            self.set_schedule_timer(); // another may have waited for it
        }
        notes.into_iter().map(Fact::Noted).collect()
    }
}

/// A message goes to a consumer.
#[inline]
pub(crate) fn note_delivery(news: &mut Vec<News>, message: &Message, tag: &str) {
    if message.is_fired() {
        news.push(News::Delivered(message.clone(), tag.into()));
    }
}

/// A message has gone to a consumer for good: gives back what there is to be recorded about that, unless
/// its schedule has to note something in the same record.
#[inline]
pub(crate) fn note_consumed(
    news: &mut Vec<News>,
    message: &Message,
    settled: Option<Fact>,
) -> Option<Fact> {
    if message.is_fired() {
        news.push(News::Consumed(message.clone(), settled));
        return None;
    }
    settled
}

/// What it costs to make and to pass on a message of the broker's own.
pub(crate) fn work_of(message: &Message) -> u64 {
    1 + message.memory_bytes() as u64 / 1_024
}

fn run_of(properties: &Properties) -> Option<Run<'_>> {
    let id = properties.message_id.as_ref()?;
    let message_id = std::str::from_utf8(id).ok()?;
    Some(Run { message_id })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{Limits, Options};
    use crate::ids::{Mono, Now, Wall};
    use crate::schedule::Note;

    /// Has something to do in an hour.
    #[derive(Debug)]
    struct Idle;

    impl Scheduler for Idle {
        fn recover(&mut self, _: Wall, _: Vec<Note>) -> Result<(), String> {
            Ok(())
        }
        fn order(&mut self, _: Wall, _: &Order<'_>, _: &mut Deeds) -> Result<Vec<u8>, AmqpError> {
            Ok(Vec::new())
        }
        fn next_due(&self) -> Option<Wall> {
            Some(Wall(3_600_000))
        }
        fn due(&mut self, _: Wall, _: usize, _: &mut Deeds) {}
        fn replan(&mut self, _: Wall) {}
        fn routed(&mut self, _: Wall, _: &Run<'_>, _: usize, _: &mut Vec<Note>) {}
        fn delivered(&mut self, _: Wall, _: &Run<'_>, _: &str) {}
        fn settled(&mut self, _: Wall, _: &Run<'_>, _: Ending, _: &mut Vec<Note>) {}
    }

    #[test]
    fn there_is_one_timer_however_often_all_is_planned_anew() {
        let mut vhost = Vhost::new(Options {
            vhost: Arc::from("/"),
            seed: [7; 32],
            limits: Limits::default(),
        });
        let mut fx = Effects::new();
        assert!(vhost.schedule_with(Box::new(Idle)).is_ok());
        for ms in 0..5_000 {
            vhost.now = Now {
                mono: Mono(ms),
                wall: Wall(ms),
            };
            if ms % 7 == 0 {
                vhost.replan(&mut fx);
            }
            vhost.tick(u64::MAX, &mut fx);
            assert_eq!(vhost.timers.len(), 1, "after {ms} ms");
        }
    }
}

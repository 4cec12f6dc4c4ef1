//! One vhost's machine, and everything its turns set in motion.
//!
//! What a turn wants done is done before the turn is given back, so that no later turn can overtake
//! it. A turn ends when it has done its share of work, which may be in the midst of what one read
//! of a connection brought. The rest waits in that connection's own line, together with whatever
//! else comes from it, while other connections have their turn: the line has one place in the
//! common one, at its end.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use leveret_core::log::Log;
use leveret_core::{
    AmqpError, Broker, Command, ConnectionId, Effects, Event, Input, LookUp, Lsn, Message, Now,
    Ordered, Outbound, Peer, Permissions,
};
use slotmap::{SecondaryMap, SlotMap};
use tokio::sync::{Notify, oneshot};

use crate::clock::Clock;
use crate::link::{Link, Signals};
use crate::shard::internal_error;
use crate::turnstile::{Machine, lock};

/// Work of one turn before it is given back, as [`Broker::work`] counts it.
///
/// About a millisecond: the longest a quiet connection waits for a noisy one, unless a single
/// command costs more.
const TURN_WORK_MAX: u64 = 8_192;

/// Orders that may wait for the log at a time. Whoever gives them waits too, so there are not more
/// than connections to the HTTP API.
const ORDERS_WAITING_MAX: usize = 4_096;

/// No timer is armed.
pub(crate) const NEVER: u64 = u64::MAX;

/// When the machine wants to be ticked.
#[derive(Debug)]
pub(crate) struct Timer {
    pub(crate) at: AtomicU64,
    pub(crate) earlier: Notify,
}

/// What belongs to whoever has the turn.
pub(crate) struct Vhost {
    name: Arc<str>,
    broker: Broker,
    fx: Effects,
    clients: SecondaryMap<ConnectionId, Client>,
    log: Box<dyn Log>,
    /// Octets of requests that are done and not yet credited, because the log or the swap area is
    /// behind.
    withheld: Vec<(ConnectionId, usize)>,
    /// The last record that the log was given, and the last it has reported safe.
    appended: Lsn,
    safe: Lsn,
    /// Orders that were obeyed, with the record that has to be safe before anybody hears of it.
    obeyed: VecDeque<(Lsn, Vec<u8>, OrderReply)>,
    /// Orders about messages that have to be read from the log first.
    looking: Vec<(LookUp, Order)>,
    ids: Arc<Mutex<SlotMap<ConnectionId, ()>>>,
    timer: Arc<Timer>,
    clock: Clock,
    panics: Arc<AtomicU64>,
}

/// Where the answer to an order goes.
pub(crate) type OrderReply = oneshot::Sender<Result<Vec<u8>, AmqpError>>;

/// What somebody wants of the vhost who has no connection to it, such as by the HTTP API.
pub(crate) struct Order {
    pub(crate) user: Arc<str>,
    pub(crate) permissions: Permissions,
    pub(crate) message: Message,
    pub(crate) reply: OrderReply,
}

/// A connection that has opened the vhost.
struct Client {
    link: Arc<Link>,
    /// What it has handed in and is to be taken in order, if the first of it did not fit into one
    /// turn. Not empty exactly while [`Entry::Line`] of it is among the machine's entries.
    line: VecDeque<Entry>,
    /// A request of it made the core panic: nothing of it is obeyed any more.
    failed: bool,
}

/// What the machine is fed with.
pub(crate) enum Entry {
    /// A connection.
    Opened {
        /// Its name.
        id: ConnectionId,
        /// Who it is.
        peer: Box<Peer>,
        /// How to reach it.
        link: Arc<Link>,
    },
    /// What one read brought.
    Commands(Batch),
    /// The next of what a connection has in line.
    Line(ConnectionId),
    /// An order.
    Order(Box<Order>),
    /// Anything else.
    Other(Input),
    /// A request that makes the core panic.
    #[cfg(test)]
    Panic(ConnectionId),
}

/// What one read of a connection brought, or what is left of it.
pub(crate) struct Batch {
    pub(crate) id: ConnectionId,
    pub(crate) commands: std::vec::IntoIter<Command>,
    /// What the read brought, in octets; they count as under way until the last command is done.
    pub(crate) bytes: usize,
}

/// What is done after a turn.
#[derive(Default)]
pub(crate) struct Aftermath {
    pub(crate) events: Vec<(Event, Option<Arc<Link>>)>,
    pub(crate) garbage: Vec<Vec<Message>>,
}

impl Default for Timer {
    fn default() -> Self {
        Self {
            at: AtomicU64::new(NEVER),
            earlier: Notify::new(),
        }
    }
}

impl Machine for Vhost {
    type Entry = Entry;
    type Aftermath = Aftermath;

    fn turn(&mut self, entries: &mut VecDeque<Entry>) -> Aftermath {
        let now = self.clock.now();
        let mut budget = TURN_WORK_MAX;
        while budget > 0
            && let Some(entry) = entries.pop_front()
        {
            let before = self.broker.work();
            if let Some(waiting) = self.take(now, entry, budget) {
                entries.push_back(waiting);
            }
            let work = self.broker.work() - before;
            budget = budget.saturating_sub(work.max(1));
        }
        self.dispatch(now)
    }
}

impl Vhost {
    pub(crate) fn new(
        broker: Broker,
        name: Arc<str>,
        log: Box<dyn Log>,
        clock: Clock,
        panics: Arc<AtomicU64>,
        ids: Arc<Mutex<SlotMap<ConnectionId, ()>>>,
        timer: Arc<Timer>,
    ) -> Self {
        Self {
            name,
            broker,
            fx: Effects::new(),
            clients: SecondaryMap::new(),
            log,
            withheld: Vec::new(),
            appended: Lsn(0),
            safe: Lsn(0),
            obeyed: VecDeque::new(),
            looking: Vec::new(),
            ids,
            timer,
            clock,
            panics,
        }
    }

    pub(crate) fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Feeds the core one entry, of which it does as much as the budget allows. Returns what is to
    /// be put in line behind the others, if anything.
    fn take(&mut self, now: Now, entry: Entry, budget: u64) -> Option<Entry> {
        // Nothing of a connection overtakes what it has in line already.
        if let Some(client) = in_order(&entry).and_then(|id| self.clients.get_mut(id))
            && !client.line.is_empty()
        {
            client.line.push_back(entry);
            return None;
        }
        match entry {
            Entry::Line(id) => {
                let next = self.clients.get_mut(id)?.line.pop_front()?;
                self.obey(now, next, budget);
                // It may be gone now.
                let more = !self.clients.get(id)?.line.is_empty();
                more.then_some(Entry::Line(id))
            }
            entry => self.obey(now, entry, budget).map(Entry::Line),
        }
    }

    /// Feeds the core one entry. What is left of it becomes the first in its connection's line;
    /// then the connection is returned.
    fn obey(&mut self, now: Now, entry: Entry, budget: u64) -> Option<ConnectionId> {
        match entry {
            Entry::Commands(batch) => return self.obey_batch(now, batch, budget),
            Entry::Opened { id, peer, link } => {
                let client = Client {
                    link,
                    line: VecDeque::new(),
                    failed: false,
                };
                self.clients.insert(id, client);
                self.handle(now, Some(id), Input::Opened(id, peer));
            }
            Entry::Other(Input::Closed(id)) => {
                self.handle(now, None, Input::Closed(id));
                self.clients.remove(id);
                lock(&self.ids).remove(id);
            }
            Entry::Other(Input::Tick) => {
                self.guard(None, |broker, fx| broker.tick(now, budget, fx));
            }
            Entry::Other(input) => {
                // The log or the swap area has come further. Or there is an alarm, which stops
                // whoever publishes, and the others are to go on.
                let goes_on = match input {
                    Input::Durable(lsn) => {
                        self.safe = lsn;
                        true
                    }
                    Input::Swapped(_) => true,
                    Input::Alarm(_) => {
                        self.credit();
                        false
                    }
                    _ => false,
                };
                let has_read = matches!(input, Input::Fetched(_));
                self.handle(now, None, input);
                if goes_on && !self.broker.swap_is_behind() {
                    self.credit();
                }
                if has_read && !self.looking.is_empty() {
                    self.go_on_with_orders(now);
                }
            }
            Entry::Order(order) => self.obey_order(now, *order),
            Entry::Line(_) => {} // never in a line itself
            #[cfg(test)]
            Entry::Panic(id) => self.guard(Some(id), |_, _| panic!("on purpose")),
        }
        None
    }

    fn obey_batch(&mut self, now: Now, mut batch: Batch, budget: u64) -> Option<ConnectionId> {
        let id = batch.id;
        let commands = &mut batch.commands;
        if self.clients.get(id).is_some_and(|client| !client.failed) {
            self.guard(Some(id), |broker, fx| {
                broker.commands(now, id, commands, budget, fx);
            });
        }
        let client = self.clients.get_mut(id)?;
        if batch.commands.len() == 0 || client.failed {
            // Only while something of this vhost is on its way, whose arrival gives it back.
            let on_its_way = !self.fx.records.is_empty() || self.appended > self.safe;
            let waits = on_its_way && self.log.is_behind() || self.broker.swap_is_behind();
            if waits && !client.failed {
                self.withheld.push((id, batch.bytes));
            } else {
                client.link.processed(batch.bytes);
            }
            None
        } else {
            client.line.push_front(Entry::Commands(batch));
            Some(id)
        }
    }

    /// Obeys the orders that have waited for what was found now, and forgets those that nobody
    /// waits for any more.
    fn go_on_with_orders(&mut self, now: Now) {
        let found = self.broker.looked_up();
        for (number, order) in std::mem::take(&mut self.looking) {
            if order.reply.is_closed() {
                self.broker.stop_waiting(number);
            } else if Some(number) == found {
                self.obey_order(now, order);
            } else {
                self.looking.push((number, order));
            }
        }
    }

    fn obey_order(&mut self, now: Now, order: Order) {
        if self.obeyed.len() + self.looking.len() >= ORDERS_WAITING_MAX {
            let _ = order
                .reply
                .send(Err(AmqpError::resource_error("too many orders at once")));
            return;
        }
        let mut answer = Err(internal_error());
        self.guard(None, |broker, fx| {
            answer = broker.order(now, &order.user, &order.permissions, &order.message, fx);
        });
        if let Ok(Ordered::Later(number)) = answer {
            self.looking.push((number, order));
            return;
        }
        let reply = order.reply;
        // An answer that nobody waits for any more goes nowhere.
        match answer {
            Ok(Ordered::Later(_)) => {}
            Ok(Ordered::Done(answer, safe)) if safe > self.broker.durable() => {
                self.obeyed.push_back((safe, answer, reply));
            }
            Ok(Ordered::Done(answer, _)) => {
                let _ = reply.send(Ok(answer));
            }
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    /// Answers the orders that are safe. They wait in the order of their records.
    fn answer_orders(&mut self) {
        let durable = self.broker.durable();
        let is_safe = |(safe, ..): &(Lsn, _, _)| *safe <= durable;
        while self.obeyed.front().is_some_and(is_safe) {
            if let Some((_, answer, reply)) = self.obeyed.pop_front() {
                let _ = reply.send(Ok(answer)); // as above
            }
        }
    }

    /// Gives connections the credit back that was withheld.
    fn credit(&mut self) {
        for (id, bytes) in self.withheld.drain(..) {
            if let Some(client) = self.clients.get(id) {
                client.link.processed(bytes);
            }
        }
    }

    fn handle(&mut self, now: Now, from: Option<ConnectionId>, input: Input) {
        self.guard(from, |broker, fx| broker.handle(now, input, fx));
    }

    /// A bug in the core must not take the other connections along: whoever's request it was is
    /// closed with 541, and nothing more of it is obeyed.
    fn guard(&mut self, from: Option<ConnectionId>, work: impl FnOnce(&mut Broker, &mut Effects)) {
        let Self { broker, fx, .. } = self;
        let Err(_panic) = catch_unwind(AssertUnwindSafe(|| work(broker, fx))) else {
            return;
        };
        self.panics.fetch_add(1, Ordering::Relaxed);
        let client = from.and_then(|id| Some((id, self.clients.get_mut(id)?)));
        tracing::error!(
            vhost = &*self.name,
            connection = client.as_ref().map(|(_, client)| client.link.number),
            "bug: a request made the broker's core panic"
        );
        let Some((id, client)) = client.filter(|(_, client)| !client.failed) else {
            return;
        };
        client.failed = true;
        let error = Box::new(internal_error());
        let input = Input::Failed(id, error.clone());
        let now = self.clock.now();
        let told = catch_unwind(AssertUnwindSafe(|| broker.handle(now, input, fx)));
        if told.is_err() {
            // What the panic has left behind made it panic again. The client is told all the same.
            self.panics.fetch_add(1, Ordering::Relaxed);
            client.link.signal(Signals::CLOSING); // first, or the answer could come before it
            let close = Outbound::CloseConnection { error };
            client.link.outbox.push(close);
        }
    }

    /// Does what the core wants done.
    fn dispatch(&mut self, now: Now) -> Aftermath {
        while let Some(last) = self.fx.records.last() {
            self.appended = last.lsn;
            let Some(durable) = self.log.append(&mut self.fx.records) else {
                break;
            };
            self.handle(now, None, Input::Durable(durable));
        }
        for swap in self.fx.swaps.drain(..) {
            self.log.swap(swap);
        }
        for fetch in self.fx.fetches.drain(..) {
            self.log.fetch(fetch);
        }
        let Self { fx, clients, .. } = self;
        fx.drain_sends(|id, batch| {
            if let Some(Client { link, .. }) = clients.get(id) {
                let closes = batch
                    .iter()
                    .any(|sent| matches!(sent, Outbound::CloseConnection { .. }));
                if closes {
                    link.signal(Signals::CLOSING); // first, or the answer could come before it
                }
                link.outbox.append(batch);
            }
        });
        for (id, paused) in fx.reading.drain(..) {
            if let Some(Client { link, .. }) = clients.get(id) {
                link.set_paused(paused);
            }
        }
        self.answer_orders();
        self.arm_timer();
        self.aftermath()
    }

    fn arm_timer(&self) {
        if let Some(at) = self.broker.next_timer()
            && at.0 < self.timer.at.load(Ordering::Acquire)
        {
            self.timer.at.store(at.0, Ordering::Release);
            self.timer.earlier.notify_one();
        }
    }

    fn aftermath(&mut self) -> Aftermath {
        let events = if self.fx.events.is_empty() {
            Vec::new()
        } else {
            let clients = &self.clients;
            let with_link = |event: Event| {
                let link = match &event {
                    Event::ChannelRefused { connection, .. }
                    | Event::ConnectionRefused { connection, .. } => {
                        let client = clients.get(*connection);
                        client.map(|client| Arc::clone(&client.link))
                    }
                    _ => None,
                };
                (event, link)
            };
            self.fx.events.drain(..).map(with_link).collect()
        };
        Aftermath {
            events,
            garbage: std::mem::take(&mut self.fx.garbage),
        }
    }
}

/// The connection whose entries this one must not overtake.
fn in_order(entry: &Entry) -> Option<ConnectionId> {
    match entry {
        Entry::Commands(batch) => Some(batch.id),
        Entry::Other(Input::Closed(id) | Input::Evict(id, _) | Input::Permitted(id, _)) => {
            Some(*id)
        }
        #[cfg(test)]
        Entry::Panic(id) => Some(*id),
        Entry::Opened { .. } | Entry::Line(_) | Entry::Order(_) | Entry::Other(_) => None,
    }
}

#[cfg(test)]
mod tests;

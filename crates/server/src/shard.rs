//! One vhost's machine, and everything its turns set in motion.
//!
//! There is no thread here: see [`turnstile`](crate::turnstile). What a turn wants done is done
//! before the turn is given back, so that no later turn can overtake it; only log lines and the
//! freeing of large things wait until after.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use leveret_core::broker::Options;
use leveret_core::{
    AmqpError, Broker, Command, ConnectionId, Effects, Event, Input, Message, Metrics, Mono, Now,
    Outbound, Peer, ReplyCode, Totals,
};
use slotmap::{SecondaryMap, SlotMap};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::link::{Link, Signals};
use crate::log::Log;
use crate::turnstile::{Machine, Rest, Turnstile, lock};

/// Work of one turn (commands, deliveries) before it is given back.
///
/// About a millisecond: the longest a quiet connection waits for a noisy one.
const TURN_WORK_MAX: usize = 4_096;

/// What a delivery that a drained outbox makes room for costs at least; turns octets into work.
const DELIVERY_BYTES_MIN: usize = 128;

/// Messages that are freed on the spot; more go to the blocking pool.
const GARBAGE_INLINE_MAX: usize = 256;

/// No timer is armed.
const NEVER: u64 = u64::MAX;

/// A vhost.
pub struct Shard {
    vhost: Arc<str>,
    turnstile: Turnstile<Vhost>,
    /// Names given out and not yet back.
    ids: Arc<Mutex<SlotMap<ConnectionId, ()>>>,
    timer: Arc<Timer>,
    clock: Clock,
    /// For work that nobody's task should do: callers may be no tasks themselves.
    runtime: Handle,
}

/// When the machine wants to be ticked.
#[derive(Debug)]
struct Timer {
    at: AtomicU64,
    earlier: Notify,
}

/// What belongs to whoever has the turn.
struct Vhost {
    name: Arc<str>,
    broker: Broker,
    fx: Effects,
    links: SecondaryMap<ConnectionId, Arc<Link>>,
    log: Box<dyn Log>,
    ids: Arc<Mutex<SlotMap<ConnectionId, ()>>>,
    timer: Arc<Timer>,
    clock: Clock,
    panics: Arc<AtomicU64>,
}

/// What the machine is fed with.
enum Entry {
    Opened {
        id: ConnectionId,
        peer: Box<Peer>,
        link: Arc<Link>,
    },
    Commands {
        id: ConnectionId,
        commands: Vec<Command>,
        bytes: usize,
    },
    Other(Input),
}

/// What is done after a turn.
#[derive(Default)]
struct Aftermath {
    events: Vec<(Event, Option<Arc<Link>>)>,
    garbage: Vec<Vec<Message>>,
}

impl Shard {
    /// A vhost; must be called within the runtime. `panics` counts what should never happen.
    #[must_use]
    pub fn new(
        options: Options,
        log: Box<dyn Log>,
        clock: Clock,
        panics: Arc<AtomicU64>,
    ) -> Arc<Self> {
        let vhost = Arc::clone(&options.vhost);
        let ids = Arc::default();
        let timer = Arc::new(Timer {
            at: AtomicU64::new(NEVER),
            earlier: Notify::new(),
        });
        let machine = Vhost {
            name: Arc::clone(&vhost),
            broker: Broker::new(options),
            fx: Effects::new(),
            links: SecondaryMap::new(),
            log,
            ids: Arc::clone(&ids),
            timer: Arc::clone(&timer),
            clock,
            panics,
        };
        Arc::new(Self {
            vhost,
            turnstile: Turnstile::new(machine),
            ids,
            timer,
            clock,
            runtime: Handle::current(),
        })
    }

    /// Its name.
    #[must_use]
    pub fn vhost(&self) -> &Arc<str> {
        &self.vhost
    }

    /// A client has opened the vhost; returns the connection's name here.
    pub fn open(self: &Arc<Self>, link: Arc<Link>, peer: Box<Peer>) -> ConnectionId {
        let id = lock(&self.ids).insert(());
        self.put(Entry::Opened { id, peer, link });
        id
    }

    /// Hands over what one read brought, of `bytes` octets, which count as under way until then.
    pub fn submit_commands(
        self: &Arc<Self>,
        id: ConnectionId,
        commands: Vec<Command>,
        bytes: usize,
    ) {
        self.put(Entry::Commands {
            id,
            commands,
            bytes,
        });
    }

    /// Hands over anything else.
    pub fn submit(self: &Arc<Self>, input: Input) {
        self.put(Entry::Other(input));
    }

    /// Counters and totals. Waits for the turn that is going on, so not for the message path.
    #[must_use]
    pub fn snapshot(self: &Arc<Self>) -> (Metrics, Totals) {
        let snapshot = self
            .turnstile
            .inspect(|vhost| (vhost.broker.metrics().clone(), vhost.broker.totals()));
        self.run();
        snapshot
    }

    /// Ticks the machine whenever it wants to be; runs for ever.
    pub async fn keep_time(self: Arc<Self>) {
        loop {
            let at = self.timer.at.load(Ordering::Acquire);
            let earlier = self.timer.earlier.notified();
            if at == NEVER {
                earlier.await;
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep_until(self.clock.instant(Mono(at))) => {
                    // In this order: the turn that takes the tick arms the timer anew.
                    self.timer.at.store(NEVER, Ordering::Release);
                    self.submit(Input::Tick);
                }
                () = earlier => {}
            }
        }
    }

    fn put(self: &Arc<Self>, entry: Entry) {
        self.turnstile.put(entry);
        self.run();
    }

    fn run(self: &Arc<Self>) {
        let rest = self.turnstile.run(|aftermath| self.clean_up(aftermath));
        if rest == Rest::Something {
            let shard = Arc::clone(self);
            self.runtime.spawn(async move { shard.run() });
        }
    }

    fn clean_up(&self, aftermath: Aftermath) {
        for (event, link) in aftermath.events {
            log_event(&self.vhost, &event, link.as_deref());
        }
        if aftermath.garbage.iter().map(Vec::len).sum::<usize>() > GARBAGE_INLINE_MAX {
            self.runtime.spawn_blocking(move || drop(aftermath.garbage));
        }
    }
}

impl Machine for Vhost {
    type Entry = Entry;
    type Aftermath = Aftermath;

    fn turn(&mut self, entries: &mut VecDeque<Entry>) -> Aftermath {
        let now = self.clock.now();
        let mut work = 0;
        while work < TURN_WORK_MAX
            && let Some(entry) = entries.pop_front()
        {
            work += self.take(now, entry);
        }
        self.dispatch(now)
    }
}

impl Vhost {
    /// Feeds the core one entry; returns the work that was.
    fn take(&mut self, now: Now, entry: Entry) -> usize {
        match entry {
            Entry::Commands {
                id,
                commands,
                bytes,
            } => {
                let work = commands.len();
                self.handle(now, Some(id), Input::Commands(id, commands));
                if let Some(link) = self.links.get(id) {
                    link.processed(bytes);
                }
                work
            }
            Entry::Opened { id, peer, link } => {
                self.links.insert(id, link);
                self.handle(now, Some(id), Input::Opened(id, peer));
                1
            }
            Entry::Other(Input::Closed(id)) => {
                self.handle(now, None, Input::Closed(id));
                self.links.remove(id);
                lock(&self.ids).remove(id);
                1
            }
            Entry::Other(input) => {
                let work = match &input {
                    Input::Drained(_, bytes) => bytes / DELIVERY_BYTES_MIN,
                    _ => 1,
                };
                self.handle(now, None, input);
                work
            }
        }
    }

    /// A bug in the core must not take the other connections along: whoever's request it was is
    /// closed with 541.
    fn handle(&mut self, now: Now, from: Option<ConnectionId>, input: Input) {
        let Self { broker, fx, .. } = self;
        let Err(_panic) = catch_unwind(AssertUnwindSafe(|| broker.handle(now, input, fx))) else {
            return;
        };
        self.panics.fetch_add(1, Ordering::Relaxed);
        let link = from.and_then(|id| self.links.get(id));
        tracing::error!(
            vhost = &*self.name,
            connection = link.map(|link| link.number),
            "bug: a request made the broker's core panic"
        );
        if let Some(link) = link {
            link.signal(Signals::CLOSING); // first, or the answer could come before it
            link.outbox.push(Outbound::CloseConnection {
                error: Box::new(internal_error()),
            });
        }
    }

    /// Does what the core wants done.
    fn dispatch(&mut self, now: Now) -> Aftermath {
        while !self.fx.records.is_empty() {
            let Some(durable) = self.log.append(&mut self.fx.records) else {
                break;
            };
            self.handle(now, None, Input::Durable(durable));
        }
        let Self { fx, links, .. } = self;
        fx.drain_sends(|id, batch| {
            if let Some(link) = links.get(id) {
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
            if let Some(link) = links.get(id) {
                link.set_paused(paused);
            }
        }
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
            let links = &self.links;
            let with_link = |event: Event| {
                let link = match &event {
                    Event::ChannelRefused { connection, .. }
                    | Event::ConnectionRefused { connection, .. } => {
                        links.get(*connection).cloned()
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

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shard({:?})", self.vhost)
    }
}

/// RabbitMQ says no more than this of its own failures.
#[must_use]
pub fn internal_error() -> AmqpError {
    AmqpError {
        code: ReplyCode::InternalError,
        text: "INTERNAL_ERROR".to_owned(),
        method: (0, 0),
    }
}

fn log_event(vhost: &str, event: &Event, link: Option<&Link>) {
    let connection = link.map(|link| link.number);
    let peer = link.map(|link| tracing::field::display(link.peer));
    let user = link
        .and_then(Link::identity)
        .map(|identity| tracing::field::debug(&identity.user));
    match event {
        Event::ChannelRefused { channel, error, .. } => {
            tracing::warn!(vhost, connection, peer, user, channel, %error, "channel closed with an error");
        }
        Event::ConnectionRefused { error, .. } => {
            tracing::warn!(vhost, connection, peer, user, %error, "connection is being closed with an error");
        }
        Event::QueueCreated { queue } => tracing::debug!(vhost, ?queue, "queue created"),
        Event::QueueDeleted { queue, ready } => {
            tracing::debug!(vhost, ?queue, ready, "queue deleted");
        }
        Event::ExchangeCreated { exchange } => {
            tracing::debug!(vhost, ?exchange, "exchange created");
        }
        Event::ExchangeDeleted { exchange } => {
            tracing::debug!(vhost, ?exchange, "exchange deleted");
        }
    }
}

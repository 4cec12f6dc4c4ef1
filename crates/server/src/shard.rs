//! A vhost, as everything outside of its turns sees it: what is handed in, and when.
//!
//! There is no thread here: see [`turnstile`](crate::turnstile). Log lines and the freeing of large
//! things wait until a turn is over; what the turn itself does is in `machine.rs`.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use leveret_core::log::Log;
use leveret_core::{
    AmqpError, Broker, Command, ConnectionId, Event, Input, Message, Metrics, Mono, Peer,
    Permissions, ReplyCode, Totals,
};
use slotmap::SlotMap;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::link::Link;
use crate::machine::{Aftermath, Batch, Entry, NEVER, Order, Timer, Vhost};
use crate::turnstile::{Rest, Turnstile, lock};

/// Messages that are freed on the spot; more go to the blocking pool.
const GARBAGE_INLINE_MAX: usize = 256;

/// Turns until a vhost has retired: about a second of what connections that did not go left behind.
const RETIRE_TURNS_MAX: usize = 1_000;

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

impl Shard {
    /// A vhost; must be called within the runtime. `panics` counts what should never happen.
    #[must_use]
    pub fn new(
        broker: Broker,
        vhost: Arc<str>,
        log: Box<dyn Log>,
        clock: Clock,
        panics: Arc<AtomicU64>,
    ) -> Arc<Self> {
        let ids = Arc::default();
        let timer = Arc::default();
        let machine = Vhost::new(
            broker,
            Arc::clone(&vhost),
            log,
            clock,
            panics,
            Arc::clone(&ids),
            Arc::clone(&timer),
        );
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
        self.put(Entry::Commands(Batch {
            id,
            commands: commands.into_iter(),
            bytes,
        }));
    }

    /// Hands over an order, as if a user with these rights had published it to `amq.schedule`. The
    /// answer comes when what was ordered is safe: never, if the log fails before.
    pub fn order(
        self: &Arc<Self>,
        user: Arc<str>,
        permissions: Permissions,
        message: Message,
    ) -> oneshot::Receiver<Result<Vec<u8>, AmqpError>> {
        let (reply, answer) = oneshot::channel();
        self.put(Entry::Order(Box::new(Order {
            user,
            permissions,
            message,
            reply,
        })));
        answer
    }

    /// Hands over anything else.
    pub fn submit(self: &Arc<Self>, input: Input) {
        self.put(Entry::Other(input));
    }

    /// Hands over anything else and does one turn at most: for the threads of the log.
    pub fn submit_in_passing(self: &Arc<Self>, input: Input) {
        self.turnstile.put(Entry::Other(input));
        let rest = self
            .turnstile
            .run_in_passing(|aftermath| self.clean_up(aftermath));
        self.leave(rest);
    }

    /// The broker stops: hands that over, and waits until it has been done, with all that was handed
    /// over before. Not for a thread that others need.
    pub fn retire(self: &Arc<Self>) {
        self.turnstile.put(Entry::Other(Input::Retire));
        self.turnstile
            .run_out(RETIRE_TURNS_MAX, |aftermath| self.clean_up(aftermath));
    }

    /// Counters and totals. Waits for the turn that is going on, so not for the message path.
    #[must_use]
    pub fn snapshot(self: &Arc<Self>) -> (Metrics, Totals) {
        self.inspect(|broker| (broker.metrics().clone(), broker.totals()))
    }

    /// Looks at the vhost between two turns. Waits for the one that is going on, and holds up the
    /// next: not for long, and not on a thread that others need.
    pub fn inspect<T>(self: &Arc<Self>, look: impl FnOnce(&Broker) -> T) -> T {
        let found = self.turnstile.inspect(|vhost| look(vhost.broker()));
        self.run();
        found
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
        self.leave(rest);
    }

    /// Leaves what there is still to do to somebody else.
    fn leave(self: &Arc<Self>, rest: Rest) {
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
        Event::FetchFailed { queue, error } => {
            tracing::error!(vhost, ?queue, %error, "messages cannot be read back: the queue stands still");
        }
        Event::SwapFailed { queue, error } => {
            tracing::warn!(vhost, ?queue, %error, "messages cannot be swapped out: they stay in memory");
        }
        Event::SwapResumed => {
            tracing::info!(vhost, "messages are swapped out again");
        }
        Event::FireRefused {
            run,
            user,
            exchange,
            refusal,
        } => {
            tracing::warn!(vhost, run, ?user, exchange, %refusal, "the message of a schedule was not published");
        }
        Event::ExchangeCreated { exchange } => {
            tracing::debug!(vhost, ?exchange, "exchange created");
        }
        Event::ExchangeDeleted { exchange } => {
            tracing::debug!(vhost, ?exchange, "exchange deleted");
        }
    }
}

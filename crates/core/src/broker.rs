//! The machine's front door.

use std::sync::Arc;

use crate::delayed::{LookUp, Ordered, Waiter};
use crate::delivery::Counts;
use crate::effect::Effects;
use crate::error::AmqpError;
use crate::ids::{ConnectionId, Lsn, Mono, Now, QueueId};
use crate::input::{Command, Input};
use crate::log::{LogError, Recovered};
use crate::message::Message;
use crate::metrics::Metrics;
use crate::permission::Permissions;
use crate::schedule::{Scheduler, Users};
use crate::vhost::Vhost;

/// One vhost: everything that can happen to it goes through [`Broker::handle`].
#[derive(Debug)]
pub struct Broker {
    vhost: Vhost,
}

/// How a vhost is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name, as clients open it.
    pub vhost: Arc<str>,
    /// Source of all its randomness: hash seeds, generated names, reply addresses. Must be secret
    /// and unpredictable outside of tests.
    pub seed: [u8; 32],
    /// Bounds of everything a client can make grow.
    pub limits: Limits,
}

/// Bounds of what clients can make grow. What goes over one is refused with 506 or 406.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Queues in the vhost.
    pub queues_max: usize,
    /// Exchanges in the vhost.
    pub exchanges_max: usize,
    /// Bindings in the vhost.
    pub bindings_max: usize,
    /// Octets that the bindings in the vhost take beside a fixed cost of about half a KiB each:
    /// their keys and arguments, and what routing makes of them. A topic pattern costs some 80
    /// octets for each word it shares with no other, twice that if no other has the word at all; a
    /// headers binding up to some 1,200 for each key.
    pub binding_bytes_max: usize,
    /// Consumers in the vhost.
    pub consumers_max: usize,
    /// Consumers on one channel.
    pub consumers_per_channel_max: usize,
    /// Octets of deliveries that may wait in one connection's outbox before its consumers are
    /// considered full. One message larger than this may pass an empty outbox.
    pub outbox_bytes_max: usize,
    /// Octets of undelivered messages a queue holds in memory before it leaves what it can to the log
    /// and to the swap area.
    pub queue_memory_max: usize,
    /// Octets of messages that may be on their way to the swap area at once; 0 if there is none.
    pub swap_bytes_max: usize,
    /// How long a delivery may go unsettled before its channel is closed, in milliseconds;
    /// `u64::MAX` is for ever. A queue's `x-consumer-timeout` overrides it.
    pub consumer_timeout_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queues_max: 100_000,
            exchanges_max: 10_000,
            bindings_max: 1_000_000,
            binding_bytes_max: 256 << 20,
            consumers_max: 100_000,
            consumers_per_channel_max: 10_000,
            outbox_bytes_max: 1 << 20,
            queue_memory_max: 16 << 20,
            swap_bytes_max: 0,
            consumer_timeout_ms: 1_800_000,
        }
    }
}

/// What there is of everything, right now.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    /// Open connections.
    pub connections: usize,
    /// Open channels.
    pub channels: usize,
    /// Consumers.
    pub consumers: usize,
    /// Queues.
    pub queues: usize,
    /// Exchanges, predeclared ones included.
    pub exchanges: usize,
    /// Bindings, without the default exchange's.
    pub bindings: usize,
    /// Messages waiting to be delivered.
    pub ready: usize,
    /// Messages waiting to be delivered again.
    pub retrying: usize,
    /// Messages delivered and not settled.
    pub unacked: usize,
    /// Messages waiting for their time.
    pub delayed: usize,
    /// Octets of memory held by ready messages, a message in several queues counted in each.
    pub ready_bytes: usize,
}

impl Broker {
    /// An empty vhost with the predeclared exchanges.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            vhost: Vhost::new(options),
        }
    }

    pub(crate) const fn vhost(&self) -> &Vhost {
        &self.vhost
    }

    #[cfg(test)]
    pub(crate) fn of(vhost: Vhost) -> Self {
        Self { vhost }
    }

    /// A vhost as its log knows it. From `now` on its queues are unused; what has expired while
    /// it was away goes with the first tick. What waits by the steady clock goes on from `now` as if
    /// the one on the wall had been as steady, so both are better read in the same moment.
    ///
    /// # Errors
    /// `Corrupt` if what the log knows contradicts itself.
    pub fn recover(options: Options, recovered: Recovered, now: Now) -> Result<Self, LogError> {
        let mut broker = Self::new(options);
        broker.vhost.now = now;
        broker.vhost.recover(recovered)?;
        Ok(broker)
    }

    /// Takes one input and adds what is to be done about it to `fx`.
    ///
    /// Never blocks, and does all there is to do: [`Broker::commands`] and [`Broker::tick`] can be
    /// told to stop in between.
    pub fn handle(&mut self, now: Now, input: Input, fx: &mut Effects) {
        let vhost = &mut self.vhost;
        vhost.now = now;
        vhost.fold(fx); // of a commit that panicked
        match input {
            Input::Commands(connection, commands) => {
                let commands = &mut commands.into_iter();
                vhost.commands(connection, commands, u64::MAX, fx);
            }
            Input::Drained(connection, bytes) => vhost.drained(connection, bytes, fx),
            Input::Durable(lsn) => vhost.durable(lsn, fx),
            Input::Fetched(fetched) => vhost.fetched(fetched, fx),
            Input::Swapped(swapped) => vhost.swapped(swapped, fx),
            Input::Retire => vhost.retire(fx),
            Input::Replan => vhost.replan(fx),
            Input::ReplanSome(rhythm) => vhost.replan_some(&rhythm, fx),
            Input::Tick => vhost.tick(u64::MAX, fx),
            Input::Opened(connection, peer) => vhost.opened(connection, peer, fx),
            Input::Closed(connection) => vhost.closed(connection, fx),
            Input::Permitted(connection, permissions) => vhost.permitted(connection, permissions),
            Input::Evict(connection, reason) => {
                let error = AmqpError::connection_forced(reason);
                vhost.evict(connection, error, Counts::NotAtAll, fx);
            }
            Input::Failed(connection, error) => {
                vhost.evict(connection, *error, Counts::AsFailed, fx);
            }
            Input::Alarm(alarm) => vhost.set_alarm(alarm, fx),
        }
        vhost.end_turn(fx);
    }

    /// Takes commands from the front until there are none left, or until [`Broker::work`] has
    /// grown by `budget` or somewhat more: what a single command costs is not divided.
    ///
    /// [`Broker::handle`] with [`Input::Commands`] is the same without a budget.
    pub fn commands(
        &mut self,
        now: Now,
        connection: ConnectionId,
        commands: &mut impl Iterator<Item = Command>,
        budget: u64,
        fx: &mut Effects,
    ) {
        self.vhost.now = now;
        self.vhost.fold(fx);
        self.vhost.commands(connection, commands, budget, fx);
        self.vhost.end_turn(fx);
    }

    /// Does what has become due, as far as the budget goes. [`Broker::next_timer`] is in the past
    /// if something is left.
    ///
    /// [`Broker::handle`] with [`Input::Tick`] is the same without a budget.
    pub fn tick(&mut self, now: Now, budget: u64, fx: &mut Effects) {
        self.vhost.now = now;
        self.vhost.fold(fx);
        self.vhost.tick(budget, fx);
        self.vhost.end_turn(fx);
    }

    /// Has a scheduler publish by itself what is due, from now on. It takes over what it has noted
    /// in the log of this vhost before.
    ///
    /// # Errors
    /// `Corrupt` if those notes make no sense to it.
    pub fn schedule_with(
        &mut self,
        now: Now,
        scheduler: Box<dyn Scheduler>,
    ) -> Result<(), LogError> {
        self.vhost.now = now;
        self.vhost.schedule_with(scheduler)
    }

    /// Has somebody asked from now on, whenever a schedule fires, whether its user may still publish
    /// to its exchange. Nobody is asked otherwise.
    pub fn ask_about_users(&mut self, users: Arc<dyn Users>) {
        self.vhost.users = Some(users);
    }

    /// Obeys an order to the scheduler or about delayed messages, as if a user with these rights had
    /// published it to `amq.schedule`. Whoever is told [`Ordered::Later`] waits from then on, until
    /// there is an answer or [`Broker::stop_waiting`] is called for him.
    ///
    /// # Errors
    /// What to tell the user. Nothing has changed then.
    pub fn order(
        &mut self,
        now: Now,
        user: &Arc<str>,
        permissions: &Permissions,
        order: &Message,
        fx: &mut Effects,
    ) -> Result<Ordered, AmqpError> {
        self.vhost.now = now;
        self.vhost.fold(fx);
        self.vhost.may_order(user, permissions)?;
        let answer = self.vhost.order(user, permissions, order, fx);
        if let Ok(Ordered::Later(number)) = answer {
            self.vhost.wait_for(number, Waiter::Order, fx);
        }
        self.vhost.end_turn(fx);
        answer
    }

    /// The message that was looked for last, if that has come to an end in this very moment: orders
    /// that wait for it are to be given again, in the turn of [`Input::Fetched`].
    #[must_use]
    pub fn looked_up(&self) -> Option<LookUp> {
        self.vhost.looked_up()
    }

    /// Whoever gave an order that waits for this does not any more.
    pub fn stop_waiting(&mut self, number: LookUp) {
        self.vhost.stop_waiting(number, Waiter::Order);
    }

    /// The last record that is known to be safe.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        self.vhost.durable
    }

    /// What has been done since the start: commands, copies to queues, deliveries, settles,
    /// requeues, wake-ups, bindings removed, expiries. One of them is some tenths of a microsecond.
    #[must_use]
    pub fn work(&self) -> u64 {
        self.vhost.work
    }

    /// Whether messages come faster than they can be swapped out, so that publishers should wait. An
    /// answer to [`Swap::Out`](crate::log::Swap::Out) is on its way then, after which it may be over.
    #[must_use]
    pub fn swap_is_behind(&self) -> bool {
        !self.vhost.swap_behind.is_empty()
    }

    /// When [`Input::Tick`] is due, if ever. May change with each `handle`.
    #[must_use]
    pub fn next_timer(&self) -> Option<Mono> {
        self.vhost.timers.next()
    }

    /// Counters since the start.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.vhost.metrics
    }

    /// All queues with their names; for simulations.
    #[doc(hidden)]
    pub fn queue_names(&self) -> impl Iterator<Item = (QueueId, Arc<str>)> {
        let queues = self.vhost.queues.iter();
        queues.map(|(id, queue)| (id, Arc::clone(&queue.name)))
    }

    /// Asserts every invariant of the vhost; for tests and simulations, as it looks at everything.
    ///
    /// # Panics
    /// If one does not hold: a bug.
    #[doc(hidden)]
    pub fn check_invariants(&self) {
        self.vhost.check();
    }

    /// What there is right now. Looks at every queue.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.vhost.totals()
    }
}

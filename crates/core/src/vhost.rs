//! The owner of everything in a vhost.
//!
//! The state and what belongs to all of it is here: coming and going of connections and channels,
//! refusals, records. What the methods of AMQP do is in `method/*`, how messages get to consumers
//! in `delivery.rs`, where they go in `router.rs`, how queues and exchanges end in `removal.rs`.
//!
//! Invariants, asserted by [`Vhost::check`] after each step of tests and simulations:
//! - a queue with ready messages has no consumer that could take the first of them;
//! - a message is in one queue's index or one channel's unacked, never both;
//! - counts of consumers and unacked deliveries agree wherever they are kept.

use std::collections::VecDeque;
use std::sync::Arc;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use slotmap::{SecondaryMap, SlotMap};

use leveret_wheel::TimerKey;

use leveret_codec::{
    ChannelCloseOk, ConnectionBlocked, ConnectionUnblocked, FieldTable, RawTable, ShortStr,
};

use crate::binding::Bindings;
use crate::broker::{Limits, Options, Totals};
use crate::channel::{Channel, Mode};
use crate::connection::{Connection, Origin, Slot};
use crate::consumer::Consumer;
use crate::dead_letter::Burials;
use crate::delayed::Delayed;
use crate::delivery::Counts;
use crate::effect::{Effects, Outbound};
use crate::error::{AmqpError, Named, Scope};
use crate::event::Event;
use crate::exchange::{Exchange, Made, PREDECLARED, make};
use crate::ids::{ChannelKey, ConnectionId, ConsumerKey, ExchangeId, Lsn, Mono, Now, QueueId};
use crate::input::Peer;
use crate::map::{HashSeed, Map};
use crate::message::Message;
use crate::metrics::Metrics;
use crate::own_publishes::OwnPublishes;
use crate::parked::AwaitingLog;
use crate::permission::{Access, Permissions};
use crate::queue::Queue;
use crate::record::{Fact, Note, Places};
use crate::router::Router;
use crate::schedule::{Scheduler, Users};
use crate::schedules::News;
use crate::timer::Timers;

/// Largest argument table of a queue, exchange or binding, in octets: they are kept, and limits
/// count things, not octets.
const ARGUMENTS_BYTES_MAX: usize = 64 * 1_024;

/// Things that only have to be looked at or moved, in a run, for one unit of work.
const SCANNED_PER_WORK: usize = 16;

/// One vhost with everything in it.
#[derive(Debug)]
pub(crate) struct Vhost {
    pub(crate) name: Arc<str>,
    pub(crate) limits: Limits,
    pub(crate) hash_seed: HashSeed,
    pub(crate) now: Now,
    pub(crate) connections: SecondaryMap<ConnectionId, Connection>,
    pub(crate) channels: SlotMap<ChannelKey, Channel>,
    pub(crate) consumers: SlotMap<ConsumerKey, Consumer>,
    pub(crate) queues: SlotMap<QueueId, Queue>,
    pub(crate) queue_names: Map<Arc<str>, QueueId>,
    pub(crate) exchanges: SlotMap<ExchangeId, Exchange>,
    pub(crate) exchange_names: Map<Arc<str>, ExchangeId>,
    pub(crate) default_exchange: ExchangeId,
    pub(crate) bindings: Bindings,
    pub(crate) router: Router,
    /// Channels that wait for direct replies, by reply address.
    pub(crate) replies: Map<Arc<str>, ChannelKey>,
    pub(crate) timers: Timers,
    pub(crate) metrics: Metrics,
    /// What has been done since the start, in units of about a tenth of a microsecond: whatever is
    /// in a loop adds to it, so that a turn knows when it has done its share.
    pub(crate) work: u64,
    /// Number of the last record, and of the last one known to be safe.
    pub(crate) lsn: Lsn,
    pub(crate) durable: Lsn,
    /// A commit is being carried out: where its records begin, and the last before them.
    pub(crate) folding: Option<(usize, Lsn)>,
    /// Channels with publishes to confirm at the end of the turn.
    pub(crate) confirming: Vec<ChannelKey>,
    /// Channels whose confirms wait for the log.
    pub(crate) confirms_waiting: Vec<ChannelKey>,
    /// The last record about an exchange, a queue or a binding.
    defined: Lsn,
    /// The last record of something that is gone.
    pub(crate) removed: Lsn,
    /// Channels that wait for the log with an answer.
    pub(crate) awaiting_log: AwaitingLog,
    /// Channels that waited for a message and may have it now.
    pub(crate) getters: Vec<ChannelKey>,
    /// Messages to be dead-lettered before the turn ends.
    pub(crate) deaths: Burials,
    /// Messages that are not to be delivered yet.
    pub(crate) delayed: Delayed,
    /// Publishes by itself, if there is one.
    pub(crate) scheduler: Option<Box<dyn Scheduler>>,
    pub(crate) schedule_timer: Option<(Mono, TimerKey)>,
    /// Who knows what users may do that are not there.
    pub(crate) users: Option<Arc<dyn Users>>,
    /// What became of its messages, to be told before the turn ends.
    pub(crate) news: Vec<News>,
    /// Answers to orders, to be given once these records are safe.
    pub(crate) answers: VecDeque<(Lsn, Message)>,
    /// What was published by itself.
    pub(crate) own: OwnPublishes,
    /// What the log has kept for somebody who has not asked for it yet.
    pub(crate) notes: Vec<Note>,
    /// Queues whose next mark waits for the log, or that have something to page out.
    pub(crate) logging: Vec<QueueId>,
    /// Octets of messages on their way to the swap area.
    pub(crate) swapping_bytes: usize,
    /// Queues that grow faster than they can be swapped out.
    pub(crate) swap_behind: Vec<QueueId>,
    /// The last time something was to be swapped out, it could not be.
    pub(crate) swap_fails: bool,
    /// A timer runs to try it again.
    pub(crate) swaps_again: bool,
    /// The resource alarm that is on, as shown to clients.
    alarm: Option<&'static str>,
    random: ChaCha20Rng,
}

impl Vhost {
    pub(crate) fn new(options: Options) -> Self {
        let mut random = ChaCha20Rng::from_seed(options.seed);
        let hash_seed = HashSeed(random.next_u64());
        let mut vhost = Self {
            name: options.vhost,
            limits: options.limits,
            hash_seed,
            now: Now::default(),
            connections: SecondaryMap::new(),
            channels: SlotMap::with_key(),
            consumers: SlotMap::with_key(),
            queues: SlotMap::with_key(),
            queue_names: hash_seed.map(),
            exchanges: SlotMap::with_key(),
            exchange_names: hash_seed.map(),
            default_exchange: ExchangeId::default(),
            bindings: Bindings::default(),
            router: Router::new(hash_seed),
            replies: hash_seed.map(),
            timers: Timers::new(),
            metrics: Metrics::default(),
            work: 0,
            lsn: Lsn(0),
            durable: Lsn(0),
            folding: None,
            confirming: Vec::new(),
            confirms_waiting: Vec::new(),
            defined: Lsn(0),
            removed: Lsn(0),
            awaiting_log: AwaitingLog::default(),
            getters: Vec::new(),
            deaths: Burials::default(),
            delayed: Delayed::new(hash_seed),
            scheduler: None,
            schedule_timer: None,
            users: None,
            news: Vec::new(),
            answers: VecDeque::new(),
            own: OwnPublishes::default(),
            notes: Vec::new(),
            logging: Vec::new(),
            swapping_bytes: 0,
            swap_behind: Vec::new(),
            swap_fails: false,
            swaps_again: false,
            alarm: None,
            random,
        };
        for (name, kind, internal) in PREDECLARED {
            vhost.predeclare(name, kind, internal);
        }
        vhost
    }

    fn predeclare(&mut self, name: &str, kind: &str, internal: bool) {
        let Ok(Made { kind, routes, .. }) = make(kind, &FieldTable::default(), self.hash_seed)
        else {
            return;
        };
        let name: Arc<str> = Arc::from(name);
        let id = self.exchanges.insert(Exchange {
            name: Arc::clone(&name),
            kind,
            durable: true,
            auto_delete: false,
            internal,
            arguments: FieldTable::default(),
            alternate: None,
            routes,
            delays: false,
            passed: 0,
        });
        if name.is_empty() {
            self.default_exchange = id;
        }
        self.exchange_names.insert(name, id);
    }

    pub(crate) fn opened(&mut self, id: ConnectionId, peer: Box<Peer>, fx: &mut Effects) {
        self.metrics.connections_opened += 1;
        self.connections.insert(id, Connection::new(peer));
        fx.open(id);
    }

    /// The connection is gone: its exclusive queues go, its deliveries return to their queues.
    pub(crate) fn closed(&mut self, id: ConnectionId, fx: &mut Effects) {
        self.unpark_all(id, fx);
        self.abandon(id, Counts::AsFailed, fx);
        if self.connections.remove(id).is_some() {
            self.metrics.connections_closed += 1;
        }
        fx.close(id);
    }

    /// Ends everything a connection has going on. Its consumers go first, so that nothing is
    /// requeued only to be delivered to it again. What it had at hand comes back as `counts` says.
    pub(crate) fn abandon(&mut self, id: ConnectionId, counts: Counts, fx: &mut Effects) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        connection.closing = true;
        connection.paused = false;
        if std::mem::take(&mut connection.unread) {
            fx.reading.push((id, false)); // for its close-ok
        }
        let exclusive = std::mem::take(&mut connection.exclusive);
        let channels = connection.open_channels();
        // All at once: a queue may have very many of them, on very many channels.
        let consumers: Vec<ConsumerKey> = channels
            .iter()
            .filter_map(|&key| self.channels.get(key))
            .flat_map(|channel| channel.consumers.values().copied())
            .collect();
        for queue in self.end_consumers(&consumers) {
            self.delete_if_unused(queue, fx);
        }
        for queue in exclusive {
            self.delete_queue(queue, fx);
        }
        for channel in channels {
            self.end_channel(channel, Slot::Closed, counts, fx);
        }
    }

    /// Opens a channel.
    pub(crate) fn open_channel(&mut self, id: ConnectionId, number: u16) -> Result<(), AmqpError> {
        let Some(connection) = self.connections.get_mut(id) else {
            return Ok(());
        };
        if matches!(connection.channel(number), Slot::Open(_)) {
            return Err(AmqpError::channel_error("second 'channel.open' seen"));
        }
        let key = self.channels.insert(Channel::new(id, number));
        connection.set_channel(number, Slot::Open(key));
        self.metrics.channels_opened += 1;
        Ok(())
    }

    /// Ends a channel: what is due is confirmed, consumers go, deliveries return, what was not
    /// committed is forgotten.
    pub(crate) fn end_channel(
        &mut self,
        key: ChannelKey,
        slot: Slot,
        counts: Counts,
        fx: &mut Effects,
    ) {
        self.send_due_confirms(key, fx);
        self.cancel_all(key, fx);
        let Some(mut channel) = self.channels.remove(key) else {
            return;
        };
        self.metrics.channels_closed += 1;
        if let Some((_, timer)) = channel.timer.take() {
            self.timers.cancel(timer);
        }
        if let Some(parked) = channel.parked.take() {
            self.forget_parked(channel.connection, key, &parked);
        }
        if let Some(connection) = self.connections.get_mut(channel.connection) {
            connection.set_channel(channel.number, slot);
        }
        if let Mode::Tx(tx) = &mut channel.mode {
            let settles = std::mem::take(&mut tx.settles);
            channel
                .unacked
                .put_back(settles.into_iter().flat_map(|settle| settle.deliveries));
        }
        self.work += 1;
        let deliveries = channel.unacked.take_all();
        self.metrics.requeued += deliveries.len() as u64;
        self.requeue(key, deliveries, counts, fx);
    }

    /// Tells a client no: closes its channel or its connection, as the code says.
    pub(crate) fn refuse(
        &mut self,
        id: ConnectionId,
        number: u16,
        error: AmqpError,
        fx: &mut Effects,
    ) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        // A soft error where there is no channel to close is the connection's.
        if let (Scope::Channel, Slot::Open(key)) = (error.code.scope(), connection.channel(number))
        {
            self.metrics.channel_errors += 1;
            fx.events.push(Event::ChannelRefused {
                connection: id,
                channel: number,
                error: error.clone(),
            });
            self.end_channel(key, Slot::Closing, Counts::AsFailed, fx);
            fx.send(
                id,
                Outbound::CloseChannel {
                    channel: number,
                    error: Box::new(error),
                },
            );
        } else {
            self.metrics.connection_errors += 1;
            fx.events.push(Event::ConnectionRefused {
                connection: id,
                error: error.clone(),
            });
            self.abandon(id, Counts::AsFailed, fx);
            fx.send(
                id,
                Outbound::CloseConnection {
                    error: Box::new(error),
                },
            );
        }
    }

    /// An operator, a shutdown or a bug of ours closes the connection.
    pub(crate) fn evict(
        &mut self,
        id: ConnectionId,
        error: AmqpError,
        counts: Counts,
        fx: &mut Effects,
    ) {
        if self
            .connections
            .get(id)
            .is_some_and(|connection| !connection.closing)
        {
            self.abandon(id, counts, fx);
            let error = Box::new(error);
            fx.send(id, Outbound::CloseConnection { error });
        }
    }

    /// The client closes a channel, or agrees that it is closed.
    pub(crate) fn close_channel(&mut self, id: ConnectionId, number: u16, fx: &mut Effects) {
        if let Some(connection) = self.connections.get_mut(id) {
            match connection.channel(number) {
                Slot::Open(key) => self.end_channel(key, Slot::Closed, Counts::AsFailed, fx),
                Slot::Closing => connection.set_channel(number, Slot::Closed),
                Slot::Closed => {}
            }
            fx.method(id, number, ChannelCloseOk {});
        }
    }

    pub(crate) fn permitted(&mut self, id: ConnectionId, permissions: Permissions) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.peer.permissions = permissions;
            for key in connection.open_channels() {
                self.work += 1;
                if let Some(channel) = self.channels.get_mut(key) {
                    channel.memo = None;
                }
            }
        }
    }

    /// A resource alarm goes on or off. It concerns connections that publish: they are told, if
    /// they understand it, and not read from.
    pub(crate) fn set_alarm(&mut self, alarm: Option<&'static str>, fx: &mut Effects) {
        self.alarm = alarm;
        let concerned: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, c)| c.publishes && !c.closing)
            .map(|(id, _)| id)
            .collect();
        for id in concerned {
            self.work += 1;
            self.apply_alarm(id, fx);
        }
        if alarm.is_some() {
            self.page_out_all(fx);
        }
    }

    /// An alarm is on: what can be paged out should be.
    pub(crate) fn memory_is_short(&self) -> bool {
        self.alarm.is_some()
    }

    /// Brings one publishing connection in line with the alarm.
    pub(crate) fn apply_alarm(&mut self, id: ConnectionId, fx: &mut Effects) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        if connection.paused == self.alarm.is_some() {
            return;
        }
        connection.paused = self.alarm.is_some();
        if connection.peer.capabilities.connection_blocked {
            match self.alarm {
                Some(reason) => {
                    let reason = ShortStr::truncated(reason);
                    fx.method(id, 0, ConnectionBlocked { reason });
                }
                None => fx.method(id, 0, ConnectionUnblocked {}),
            }
        }
        self.update_reading(id, fx);
    }

    /// Whether the client may do this to the named queue or exchange (403).
    pub(crate) fn permit(
        &self,
        id: ConnectionId,
        access: Access,
        what: Named<'_>,
    ) -> Result<(), AmqpError> {
        let Some(connection) = self.connections.get(id) else {
            return Ok(());
        };
        let peer = &connection.peer;
        peer.permissions.check(&peer.user, access, what)
    }

    /// 406 for an argument table that is too large to be kept.
    pub(crate) fn check_arguments(&self, arguments: &RawTable<'_>) -> Result<(), AmqpError> {
        let size = arguments.as_bytes().len();
        if size > ARGUMENTS_BYTES_MAX {
            let why = format_args!("arguments of {size} octets exceed {ARGUMENTS_BYTES_MAX}");
            return Err(AmqpError::precondition_failed(why));
        }
        Ok(())
    }

    pub(crate) fn queue_named<'a>(&'a self, name: &'a str) -> Named<'a> {
        Named {
            kind: "queue",
            name,
            vhost: &self.name,
        }
    }

    pub(crate) fn exchange_named<'a>(&'a self, name: &'a str) -> Named<'a> {
        Named {
            kind: "exchange",
            name,
            vhost: &self.name,
        }
    }

    /// The queue of this name (404).
    pub(crate) fn find_queue(&self, name: &str) -> Result<QueueId, AmqpError> {
        let id = self.queue_names.get(name).copied();
        id.ok_or_else(|| AmqpError::not_found(self.queue_named(name)))
    }

    /// The exchange of this name (404).
    pub(crate) fn find_exchange(&self, name: &str) -> Result<ExchangeId, AmqpError> {
        let id = self.exchange_names.get(name).copied();
        id.ok_or_else(|| AmqpError::not_found(self.exchange_named(name)))
    }

    /// The open channel a command came in on; None if it is closing and the command is to be
    /// dropped.
    pub(crate) fn origin(&self, connection: ConnectionId, number: u16) -> Option<Origin> {
        match self.connections.get(connection)?.channel(number) {
            Slot::Open(key) => Some(Origin {
                connection,
                number,
                key,
            }),
            Slot::Closed | Slot::Closing => None,
        }
    }

    /// Emits a record and returns its number.
    pub(crate) fn record(&mut self, fact: Fact, fx: &mut Effects) -> Lsn {
        self.lsn = fx.record(self.lsn, fact);
        self.lsn
    }

    /// Emits one record of all these facts and returns its number; `Lsn(0)` if there are none.
    pub(crate) fn record_all(
        &mut self,
        facts: impl IntoIterator<Item = Fact>,
        fx: &mut Effects,
    ) -> Lsn {
        let mut facts = facts.into_iter();
        let Some(first) = facts.next() else {
            return Lsn(0);
        };
        let Some(second) = facts.next() else {
            return self.record(first, fx);
        };
        let mut all = vec![first, second];
        all.extend(facts);
        self.record(Fact::Together(all), fx)
    }

    /// What the log is told of a message that enters these queues now; None if it keeps it in none
    /// of them.
    pub(crate) fn enqueued(
        &self,
        queues: &[QueueId],
        message: &Message,
        user: impl FnOnce() -> Arc<str>,
    ) -> Option<Fact> {
        if !message.is_persistent() {
            return None;
        }
        let places: Places = queues
            .iter()
            .filter_map(|&id| self.queues.get(id))
            .filter(|queue| queue.durable)
            .map(|queue| (queue.logged.number, queue.next_place(message)))
            .collect();
        (!places.is_empty()).then(|| Fact::Published {
            message: message.clone(),
            user: user(),
            at: self.now.wall,
            places,
        })
    }

    /// Emits a record about an exchange, a queue or a binding and returns its number.
    pub(crate) fn define(&mut self, fact: Fact, fx: &mut Effects) -> Lsn {
        self.defined = self.record(fact, fx);
        self.defined
    }

    /// Emits a record of something that is gone from here on and returns its number. Who finds it
    /// gone can rely on that once the record is safe.
    pub(crate) fn remove(
        &mut self,
        facts: impl IntoIterator<Item = Fact>,
        fx: &mut Effects,
    ) -> Lsn {
        self.removed = self.record_all(facts, fx);
        self.removed
    }

    /// The record that everything durable which is defined now can be relied upon with; nothing is
    /// to be waited for otherwise.
    pub(crate) fn defined_if(&self, durable: bool) -> Lsn {
        if durable { self.defined } else { Lsn(0) }
    }

    /// A publish on a channel in confirm mode is safe once this record is.
    pub(crate) fn confirm_when(&mut self, key: ChannelKey, due: Lsn) {
        if let Some(channel) = self.channels.get_mut(key)
            && let Mode::Confirm(confirms) = &mut channel.mode
        {
            confirms.publish(due, self.durable);
            self.metrics.published_confirm += 1;
            if !channel.confirming {
                channel.confirming = true;
                self.confirming.push(key);
            }
        }
    }

    /// The log has come this far.
    pub(crate) fn durable(&mut self, lsn: Lsn, fx: &mut Effects) {
        self.durable = self.durable.max(lsn);
        self.confirming.append(&mut self.confirms_waiting);
        self.own.safe(self.durable);
        self.answer_orders(fx);
        self.logged_through(fx);
    }

    /// What is left for the end of a turn.
    pub(crate) fn end_turn(&mut self, fx: &mut Effects) {
        self.unpark_due(fx);
        self.bury(fx);
        // A dead letter may be what somebody waits for.
        while !self.getters.is_empty() && !self.deaths.timed {
            self.unpark_due(fx);
            self.bury(fx);
        }
        self.tell_scheduler(fx);
        self.flush_confirms(fx);
    }

    /// Sends the confirms that are due, one a channel.
    fn flush_confirms(&mut self, fx: &mut Effects) {
        let mut confirming = std::mem::take(&mut self.confirming);
        for key in confirming.drain(..) {
            self.work += 1;
            self.send_due_confirms(key, fx);
            let Some(channel) = self.channels.get_mut(key) else {
                continue;
            };
            let waits = match &channel.mode {
                Mode::Confirm(confirms) => confirms.is_waiting(),
                Mode::Plain | Mode::Tx(_) => false,
            };
            if waits {
                self.confirms_waiting.push(key);
            } else {
                channel.confirming = false;
            }
        }
        self.confirming = confirming;
    }

    /// Confirms what is due on one channel, as one ack.
    fn send_due_confirms(&mut self, key: ChannelKey, fx: &mut Effects) {
        if let Some(channel) = self.channels.get_mut(key)
            && let Mode::Confirm(confirms) = &mut channel.mode
            && let Some((delivery_tag, count)) = confirms.take_due(self.durable)
        {
            self.metrics.confirmed += count;
            let confirm = Outbound::Confirm {
                channel: channel.number,
                delivery_tag,
                multiple: count > 1,
            };
            fx.send(channel.connection, confirm);
        }
    }

    /// A number below this one.
    pub(crate) fn random_below(&mut self, end: u64) -> u64 {
        let wide = u128::from(self.random.next_u64()) * u128::from(end);
        u64::try_from(wide >> u64::BITS).unwrap_or_default()
    }

    /// `{prefix}` and 22 characters nobody can guess.
    pub(crate) fn random_name(&mut self, prefix: &str) -> Arc<str> {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut bits =
            u128::from(self.random.next_u64()) << 64 | u128::from(self.random.next_u64());
        let mut name = String::with_capacity(prefix.len() + 22);
        name.push_str(prefix);
        for _ in 0..22 {
            name.push(char::from(ALPHABET[(bits & 63) as usize]));
            bits >>= 6;
        }
        Arc::from(name)
    }

    pub(crate) fn totals(&self) -> Totals {
        Totals {
            connections: self.connections.len(),
            channels: self.channels.len(),
            consumers: self.consumers.len(),
            queues: self.queues.len(),
            exchanges: self.exchanges.len(),
            bindings: self.bindings.len(),
            ready: self.queues.values().map(|queue| queue.index.len()).sum(),
            retrying: self
                .queues
                .values()
                .map(|queue| queue.len() - queue.index.len())
                .sum(),
            unacked: self
                .channels
                .values()
                .map(|channel| channel.unacked.len())
                .sum(),
            delayed: self.delayed.len(),
            ready_bytes: self.queues.values().map(|queue| queue.index.bytes()).sum(),
        }
    }
}

/// The work of one pass over this many things.
pub(crate) fn scanned(things: usize) -> u64 {
    (things / SCANNED_PER_WORK) as u64
}

//! A broker, a clock and some clients, without sockets or a disk.
//!
//! What a client hears is written as short lines (see [`BrokerTest::heard`]), so that a test reads
//! like a conversation. Writers are quick and the log is safe at once unless a test says otherwise.
//! After each step all invariants of the broker are asserted.

#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod delays;
pub(crate) mod kept;
mod parts;

use std::collections::BTreeMap;
use std::sync::Arc;

use leveret_codec::{
    BasicCancel, BasicConsume, BasicGet, BasicQos, ChannelClose, ChannelCloseOk, ChannelOpen,
    ConfirmSelect, ExchangeBind, ExchangeDelete, Method, QueueBind, QueueDeclare, QueueDelete,
    QueueUnbind, RawTable, TxCommit, TxRollback, TxSelect,
};
use leveret_core::log::{Fetch, LogError, Recovered, Swap};
use leveret_core::{
    AmqpError, Broker, Command, ConnectionId, Effects, Event, Fact, Input, Limits, Lsn, Message,
    Mono, Now, Options, Ordered, Outbound, Outcome, Peer, QueueNumber, Record, Wall,
};
use slotmap::SlotMap;

pub(crate) use parts::*;

/// A channel of a connection; number 0 is the connection itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Chan {
    pub(crate) connection: ConnectionId,
    pub(crate) number: u16,
}

/// When the log says that a record is safe.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Log {
    /// At once.
    Quick,
    /// When the test says so, with [`BrokerTest::sync`].
    Held,
}

pub(crate) struct BrokerTest {
    pub(crate) broker: Broker,
    pub(crate) log: Log,
    /// Look at all invariants after each step. Off for tests with very much in the broker.
    pub(crate) checked: bool,
    pub(crate) events: Vec<Event>,
    pub(crate) reading: Vec<(ConnectionId, bool)>,
    /// Messages the broker has asked back.
    pub(crate) fetches: Vec<Fetch>,
    /// What the broker has asked of the swap area.
    pub(crate) swaps: Vec<Swap>,
    pub(crate) records: Vec<Record>,
    /// Names of the durable queues whose facts were looked at.
    pub(crate) queue_numbers: BTreeMap<QueueNumber, String>,
    last: Lsn,
    fx: Effects,
    pub(crate) now: Now,
    ids: SlotMap<ConnectionId, ()>,
    numbers: BTreeMap<ConnectionId, u16>,
    tags: BTreeMap<(ConnectionId, u32), Arc<str>>,
    heard: BTreeMap<ConnectionId, Vec<(u16, String)>>,
    refusals: BTreeMap<ConnectionId, Vec<(u16, bool, AmqpError)>>,
    deliveries: Vec<(Chan, u64, Message)>,
    slow: BTreeMap<ConnectionId, usize>,
}

/// When tests begin.
pub(crate) const START: Now = Now {
    mono: Mono(1_000),
    wall: Wall(1_700_000_000_000),
};

impl BrokerTest {
    pub(crate) fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    pub(crate) fn with_limits(limits: Limits) -> Self {
        let options = Options {
            vhost: Arc::from("/"),
            seed: [7; 32],
            limits,
        };
        Self::over(Broker::new(options), Lsn(0))
    }

    /// A broker that starts with what a log has kept.
    pub(crate) fn recovered(recovered: Recovered) -> Result<Self, LogError> {
        Self::recovered_with(recovered, START, Limits::default())
    }

    /// The same at this time, with these limits.
    pub(crate) fn recovered_with(
        recovered: Recovered,
        now: Now,
        limits: Limits,
    ) -> Result<Self, LogError> {
        let options = Options {
            vhost: Arc::from("/"),
            seed: [8; 32],
            limits,
        };
        let last = recovered.last;
        let broker = Broker::recover(options, recovered, now)?;
        let mut t = Self::over(broker, last);
        t.now = now;
        Ok(t)
    }

    fn over(broker: Broker, last: Lsn) -> Self {
        Self {
            broker,
            log: Log::Quick,
            checked: true,
            events: Vec::new(),
            reading: Vec::new(),
            fetches: Vec::new(),
            swaps: Vec::new(),
            records: Vec::new(),
            queue_numbers: BTreeMap::new(),
            last,
            fx: Effects::new(),
            now: START,
            ids: SlotMap::with_key(),
            numbers: BTreeMap::new(),
            tags: BTreeMap::new(),
            heard: BTreeMap::new(),
            refusals: BTreeMap::new(),
            deliveries: Vec::new(),
            slow: BTreeMap::new(),
        }
    }

    // ---- steps

    pub(crate) fn step(&mut self, input: Input) {
        self.broker.handle(self.now, input, &mut self.fx);
        self.collect();
    }

    /// Hands over commands that may cost so much; what is left stays in `commands`.
    pub(crate) fn step_within(
        &mut self,
        connection: ConnectionId,
        commands: &mut std::vec::IntoIter<Command>,
        budget: u64,
    ) {
        self.broker
            .commands(self.now, connection, commands, budget, &mut self.fx);
        self.collect();
    }

    /// Ticks, which may cost so much.
    pub(crate) fn tick_within(&mut self, budget: u64) {
        self.broker.tick(self.now, budget, &mut self.fx);
        self.collect();
    }

    /// Says something to the scheduler as the HTTP API does.
    pub(crate) fn order(&mut self, order: &Message) -> Result<Vec<u8>, AmqpError> {
        let user = Arc::from("guest");
        let rights = leveret_core::Permissions::all();
        let answer = self
            .broker
            .order(self.now, &user, &rights, order, &mut self.fx);
        self.collect();
        answer.map(|answer| match answer {
            Ordered::Done(answer, _) => answer,
            Ordered::Later(_) => b"later".to_vec(),
        })
    }

    /// Lets time pass without a tick.
    pub(crate) fn wait_ms(&mut self, ms: u64) {
        self.now.mono = self.now.mono.plus_ms(ms);
        self.now.wall.0 += ms;
    }

    /// Plays the server: takes the effects, tells of what was written and what is safe.
    fn collect(&mut self) {
        loop {
            if self.checked {
                self.broker.check_invariants();
            }
            let mut fx = std::mem::take(&mut self.fx);
            let mut drained = Vec::new();
            fx.drain_sends(|connection, batch| {
                let cost: usize = batch.iter().map(Outbound::delivery_cost).sum();
                match self.slow.get_mut(&connection) {
                    Some(waiting) => *waiting += cost,
                    None if cost > 0 => drained.push((connection, cost)),
                    None => {}
                }
                for outbound in batch.drain(..) {
                    self.hear(connection, outbound);
                }
            });
            for record in &fx.records {
                assert_eq!(
                    record.lsn,
                    Lsn(self.last.0 + 1),
                    "records are numbered one by one"
                );
                self.last = record.lsn;
            }
            let safe = self.log == Log::Quick && !fx.records.is_empty();
            self.records.append(&mut fx.records);
            self.events.append(&mut fx.events);
            self.reading.append(&mut fx.reading);
            self.fetches.append(&mut fx.fetches);
            self.swaps.append(&mut fx.swaps);
            fx.garbage.clear();
            self.fx = fx;
            if drained.is_empty() && !safe {
                return;
            }
            for (connection, cost) in drained {
                let input = Input::Drained(connection, cost);
                self.broker.handle(self.now, input, &mut self.fx);
            }
            if safe {
                let input = Input::Durable(self.last);
                self.broker.handle(self.now, input, &mut self.fx);
            }
        }
    }

    fn hear(&mut self, connection: ConnectionId, outbound: Outbound) {
        let mut refuse = |channel, closes_connection, error| {
            let refusals = self.refusals.entry(connection).or_default();
            refusals.push((channel, closes_connection, error));
        };
        let body = |message: &Message| String::from_utf8_lossy(message.body()).into_owned();
        let flag = |set: bool, word: &'static str| if set { word } else { "" };
        let (channel, line) = match outbound {
            Outbound::Deliver {
                channel,
                consumer,
                redelivered,
                delivery_tag,
                message,
            } => {
                let tag = &self.tags[&(connection, consumer)];
                let line = format!(
                    "{tag}: #{delivery_tag} {}{}",
                    body(&message),
                    flag(redelivered, " again")
                );
                let chan = Chan {
                    connection,
                    number: channel,
                };
                self.deliveries.push((chan, delivery_tag, message));
                (channel, line)
            }
            Outbound::Consumer { number, tag } => {
                self.tags.insert((connection, number), tag);
                return;
            }
            Outbound::Confirm {
                channel,
                delivery_tag,
                multiple,
            } => {
                let line = format!("confirm {delivery_tag}{}", flag(multiple, " multiple"));
                (channel, line)
            }
            Outbound::GetOk {
                channel,
                redelivered,
                delivery_tag,
                message_count,
                message,
            } => {
                let line = format!(
                    "get-ok #{delivery_tag} {}{}, {message_count} left",
                    body(&message),
                    flag(redelivered, " again")
                );
                let chan = Chan {
                    connection,
                    number: channel,
                };
                self.deliveries.push((chan, delivery_tag, message));
                (channel, line)
            }
            Outbound::Return {
                channel,
                code,
                message,
            } => (
                channel,
                format!("return {} {}", code.value(), body(&message)),
            ),
            Outbound::Method { channel, method } => (channel, method_line(&method)),
            Outbound::CloseChannel { channel, error } => {
                refuse(channel, false, *error.clone());
                (channel, format!("close {}", error.text))
            }
            Outbound::CloseConnection { error } => {
                refuse(0, true, *error.clone());
                (0, format!("close {}", error.text))
            }
            other => panic!("not for the core to send: {other:?}"),
        };
        self.heard
            .entry(connection)
            .or_default()
            .push((channel, line));
    }

    // ---- what came of it

    /// Takes what a channel was told since the last time, one line each:
    /// `queue.declare-ok q 0 0`, `tag: #1 body again`, `get-ok #1 body, 0 left`,
    /// `confirm 3 multiple`, `return 312 body`, `close NOT_FOUND - ...`.
    pub(crate) fn heard(&mut self, on: Chan) -> Vec<String> {
        let all = self.heard.entry(on.connection).or_default();
        let (mine, others) = std::mem::take(all)
            .into_iter()
            .partition(|(number, _)| *number == on.number);
        *all = others;
        let mine: Vec<(u16, String)> = mine;
        mine.into_iter().map(|(_, line)| line).collect()
    }

    /// Takes what all channels of a connection were told, in order, each line with its channel.
    pub(crate) fn heard_all(&mut self, connection: ConnectionId) -> Vec<String> {
        let all = self.heard.remove(&connection).unwrap_or_default();
        all.into_iter()
            .map(|(number, line)| format!("{number} {line}"))
            .collect()
    }

    /// Takes the deliveries (and fetched messages) of all channels since the last time.
    pub(crate) fn take_deliveries(&mut self) -> Vec<(Chan, u64, Message)> {
        std::mem::take(&mut self.deliveries)
    }

    /// The one message delivered since the last time.
    pub(crate) fn take_delivery(&mut self) -> Message {
        let mut deliveries = self.take_deliveries();
        assert_eq!(deliveries.len(), 1);
        deliveries.remove(0).2
    }

    /// Takes all refusals of a connection; returns whether one of them closes it.
    pub(crate) fn take_refusals(&mut self, connection: ConnectionId) -> bool {
        let refusals = self.refusals.remove(&connection).unwrap_or_default();
        refusals.iter().any(|&(_, closes, _)| closes)
    }

    /// Takes the one refusal of a connection: whether it closes the connection, and the error.
    pub(crate) fn take_refusal(&mut self, connection: ConnectionId) -> (bool, AmqpError) {
        let mut refusals = self.refusals.remove(&connection).unwrap_or_default();
        assert_eq!(refusals.len(), 1, "one refusal: {refusals:?}");
        let (_, closes_connection, error) = refusals.remove(0);
        (closes_connection, error)
    }

    /// Whether a connection was refused anything since the last time somebody asked.
    pub(crate) fn was_refused(&self, connection: ConnectionId) -> bool {
        self.refusals.contains_key(&connection)
    }

    #[track_caller]
    pub(crate) fn expect_close(&mut self, on: Chan, code: u16, text: &str) {
        let (_, error) = self.take_refusal(on.connection);
        assert_eq!((error.code.value(), error.text.as_str()), (code, text));
        self.heard(on);
    }

    /// Takes the facts recorded since the last time.
    pub(crate) fn facts(&mut self) -> Vec<Fact> {
        for record in &self.records {
            if let Fact::QueueDeclared { name, .. } = &record.fact {
                let number = QueueNumber(record.lsn.0);
                self.queue_numbers.insert(number, name.to_string());
            }
        }
        self.records.drain(..).map(|record| record.fact).collect()
    }

    /// Bodies of the ready messages of a queue, in order. Leaves them marked as redelivered.
    pub(crate) fn bodies(&mut self, queue: &str) -> Vec<String> {
        let connection = self.connect();
        let chan = self.channel(connection);
        let mut bodies = Vec::new();
        while let Some(line) = self.get(chan, queue).strip_prefix("get-ok ") {
            let (_, rest) = line.split_once(' ').expect("a tag and more");
            let (body, _) = rest.rsplit_once(", ").expect("a body and more");
            bodies.push(body.trim_end_matches(" again").to_owned());
        }
        self.deliveries.retain(|(c, _, _)| *c != chan);
        self.step(Input::Closed(connection));
        bodies
    }

    // ---- time and the outside

    pub(crate) fn pass_ms(&mut self, ms: u64) {
        self.now.mono = self.now.mono.plus_ms(ms);
        self.now.wall.0 += ms;
        if self
            .broker
            .next_timer()
            .is_some_and(|due| due <= self.now.mono)
        {
            self.step(Input::Tick);
        }
    }

    /// Everything recorded so far is safe.
    pub(crate) fn sync(&mut self) {
        self.step(Input::Durable(self.last));
    }

    /// This connection's writer writes nothing until [`Self::drain`].
    pub(crate) fn slow_reader(&mut self, connection: ConnectionId) {
        self.slow.insert(connection, 0);
    }

    /// The slow writer passes on all it has.
    pub(crate) fn drain(&mut self, connection: ConnectionId) {
        let cost = self.slow.insert(connection, 0).unwrap_or_default();
        self.step(Input::Drained(connection, cost));
    }

    // ---- connections and channels

    /// A client that may do anything and understands everything.
    pub(crate) fn connect(&mut self) -> ConnectionId {
        self.connect_as(peer())
    }

    pub(crate) fn connect_as(&mut self, peer: Peer) -> ConnectionId {
        let id = self.ids.insert(());
        self.step(Input::Opened(id, Box::new(peer)));
        id
    }

    /// Opens the next channel of a connection.
    pub(crate) fn channel(&mut self, connection: ConnectionId) -> Chan {
        let number = self.numbers.entry(connection).or_default();
        *number += 1;
        let chan = Chan {
            connection,
            number: *number,
        };
        self.open(chan);
        chan
    }

    pub(crate) fn open(&mut self, chan: Chan) {
        self.method(chan, ChannelOpen::default());
        assert_eq!(self.heard(chan), ["channel.open-ok"]);
    }

    /// A connection with one channel, for tests that need no more.
    pub(crate) fn client(&mut self) -> Chan {
        let connection = self.connect();
        self.channel(connection)
    }

    pub(crate) fn close(&mut self, chan: Chan) {
        self.method(chan, ChannelClose::default());
        let heard = self.heard(chan);
        assert_eq!(heard.last().map(String::as_str), Some("channel.close-ok"));
    }

    pub(crate) fn close_ok(&mut self, chan: Chan) {
        self.method(chan, ChannelCloseOk {});
    }

    pub(crate) fn disconnect(&mut self, connection: ConnectionId) {
        self.step(Input::Closed(connection));
    }

    // ---- commands

    pub(crate) fn batch(&mut self, connection: ConnectionId, commands: Vec<Command>) {
        self.step(Input::Commands(connection, commands));
    }

    pub(crate) fn command(&mut self, connection: ConnectionId, command: Command) {
        self.batch(connection, vec![command]);
    }

    pub(crate) fn method(&mut self, on: Chan, method: impl Into<Method<'static>>) {
        self.command(on.connection, command(on, method));
    }

    /// Sends a method and returns all that the channel is told.
    pub(crate) fn ask(&mut self, on: Chan, method: impl Into<Method<'static>>) -> Vec<String> {
        self.method(on, method);
        self.heard(on)
    }

    /// Sends a method that is to be answered with a line starting like this; takes whatever else
    /// there was to be heard.
    #[track_caller]
    fn expect(&mut self, on: Chan, method: impl Into<Method<'static>>, answer: &str) {
        let heard = self.ask(on, method);
        assert!(
            heard.iter().any(|line| line.starts_with(answer)),
            "{answer} expected: {heard:?}"
        );
    }

    #[track_caller]
    pub(crate) fn queue(&mut self, on: Chan, name: &str) {
        self.expect(on, queue_declare(name), "queue.declare-ok");
    }

    #[track_caller]
    pub(crate) fn durable_queue(&mut self, on: Chan, name: &str) {
        let declare = QueueDeclare {
            durable: true,
            ..queue_declare(name)
        };
        self.expect(on, declare, "queue.declare-ok");
    }

    #[track_caller]
    pub(crate) fn exchange(&mut self, on: Chan, name: &str, kind: &str) {
        self.expect(on, exchange_declare(name, kind), "exchange.declare-ok");
    }

    #[track_caller]
    pub(crate) fn bind(&mut self, on: Chan, exchange: &str, key: &str, queue: &str) {
        self.bind_with(on, exchange, key, queue, table([]));
    }

    #[track_caller]
    pub(crate) fn bind_with(
        &mut self,
        on: Chan,
        exchange: &str,
        key: &str,
        queue: &str,
        arguments: RawTable<'static>,
    ) {
        let bind = QueueBind {
            queue: short(queue),
            exchange: short(exchange),
            routing_key: short(key),
            arguments,
            ..QueueBind::default()
        };
        self.expect(on, bind, "queue.bind-ok");
    }

    #[track_caller]
    pub(crate) fn unbind(&mut self, on: Chan, exchange: &str, key: &str, queue: &str) {
        let unbind = QueueUnbind {
            queue: short(queue),
            exchange: short(exchange),
            routing_key: short(key),
            ..QueueUnbind::default()
        };
        self.expect(on, unbind, "queue.unbind-ok");
    }

    #[track_caller]
    pub(crate) fn bind_exchange(&mut self, on: Chan, source: &str, key: &str, destination: &str) {
        let bind = ExchangeBind {
            destination: short(destination),
            source: short(source),
            routing_key: short(key),
            ..ExchangeBind::default()
        };
        self.expect(on, bind, "exchange.bind-ok");
    }

    #[track_caller]
    pub(crate) fn delete_queue(&mut self, on: Chan, name: &str) {
        let delete = QueueDelete {
            queue: short(name),
            no_wait: true,
            ..QueueDelete::default()
        };
        self.method(on, delete);
        assert!(!self.was_refused(on.connection));
    }

    #[track_caller]
    pub(crate) fn delete_exchange(&mut self, on: Chan, name: &str) {
        let delete = ExchangeDelete {
            exchange: short(name),
            ..ExchangeDelete::default()
        };
        self.expect(on, delete, "exchange.delete-ok");
    }

    /// Publishes to a queue through the default exchange.
    pub(crate) fn publish(&mut self, on: Chan, queue: &str, body: &str) {
        self.publish_to(on, "", queue, body);
    }

    pub(crate) fn publish_all<const N: usize>(&mut self, on: Chan, queue: &str, bodies: [&str; N]) {
        for body in bodies {
            self.publish(on, queue, body);
        }
    }

    pub(crate) fn publish_to(&mut self, on: Chan, exchange: &str, key: &str, body: &str) {
        self.command(on.connection, publish(on, message(exchange, key, body)));
    }

    pub(crate) fn publish_persistent(&mut self, on: Chan, exchange: &str, key: &str, body: &str) {
        let message = message_with(exchange, key, persistent(), body);
        self.command(on.connection, publish(on, message));
    }

    pub(crate) fn publish_with(&mut self, on: Chan, message: Message, mandatory: bool) {
        let publish = Command::Publish {
            channel: on.number,
            mandatory,
            message,
        };
        self.command(on.connection, publish);
    }

    /// Starts a consumer that acknowledges; leaves what it is given to be heard.
    #[track_caller]
    pub(crate) fn consume(&mut self, on: Chan, queue: &str, tag: &str) {
        self.consume_with(on, basic_consume(queue, tag));
    }

    #[track_caller]
    pub(crate) fn consume_no_ack(&mut self, on: Chan, queue: &str, tag: &str) {
        let consume = BasicConsume {
            no_ack: true,
            ..basic_consume(queue, tag)
        };
        self.consume_with(on, consume);
    }

    #[track_caller]
    pub(crate) fn consume_with(&mut self, on: Chan, consume: BasicConsume<'static>) {
        let consume = BasicConsume {
            no_wait: true,
            ..consume
        };
        self.method(on, consume);
        assert!(!self.was_refused(on.connection));
    }

    pub(crate) fn cancel(&mut self, on: Chan, tag: &str) {
        let cancel = BasicCancel {
            consumer_tag: short(tag),
            no_wait: true,
        };
        self.method(on, cancel);
    }

    /// Limits each consumer that starts on the channel from now on.
    pub(crate) fn prefetch(&mut self, on: Chan, prefetch_count: u16) {
        self.qos(on, prefetch_count, false);
    }

    /// Limits all consumers of the channel together.
    pub(crate) fn prefetch_shared(&mut self, on: Chan, prefetch_count: u16) {
        self.qos(on, prefetch_count, true);
    }

    fn qos(&mut self, on: Chan, prefetch_count: u16, global: bool) {
        let qos = BasicQos {
            prefetch_count,
            global,
            ..BasicQos::default()
        };
        self.expect(on, qos, "basic.qos-ok");
    }

    /// Fetches one message to be acknowledged; returns the answer.
    pub(crate) fn get(&mut self, on: Chan, queue: &str) -> String {
        let get = BasicGet {
            queue: short(queue),
            ..BasicGet::default()
        };
        self.ask(on, get).concat()
    }

    pub(crate) fn settle(&mut self, on: Chan, delivery_tag: u64, multiple: bool, outcome: Outcome) {
        let settle = Command::Settle {
            channel: on.number,
            delivery_tag,
            multiple,
            outcome,
        };
        self.command(on.connection, settle);
    }

    pub(crate) fn ack(&mut self, on: Chan, delivery_tag: u64) {
        self.settle(on, delivery_tag, false, Outcome::Ack);
    }

    pub(crate) fn ack_through(&mut self, on: Chan, delivery_tag: u64) {
        self.settle(on, delivery_tag, true, Outcome::Ack);
    }

    pub(crate) fn requeue(&mut self, on: Chan, delivery_tag: u64) {
        self.settle(on, delivery_tag, false, Outcome::Nack { requeue: true });
    }

    pub(crate) fn discard(&mut self, on: Chan, delivery_tag: u64) {
        self.settle(on, delivery_tag, false, Outcome::Reject { requeue: false });
    }

    #[track_caller]
    pub(crate) fn confirm_select(&mut self, on: Chan) {
        self.expect(on, ConfirmSelect { no_wait: false }, "confirm.select-ok");
    }

    #[track_caller]
    pub(crate) fn tx_select(&mut self, on: Chan) {
        self.expect(on, TxSelect {}, "tx.select-ok");
    }

    pub(crate) fn tx_commit(&mut self, on: Chan) -> Vec<String> {
        self.ask(on, TxCommit {})
    }

    pub(crate) fn tx_rollback(&mut self, on: Chan) -> Vec<String> {
        self.ask(on, TxRollback {})
    }

    /// Ready messages and consumers of a queue.
    pub(crate) fn counts(&mut self, on: Chan, queue: &str) -> String {
        let declare = QueueDeclare {
            passive: true,
            ..queue_declare(queue)
        };
        self.ask(on, declare).concat()
    }
}

fn method_line(method: &Method<'static>) -> String {
    let name = method.name();
    match method {
        Method::QueueDeclareOk(m) => {
            format!(
                "{name} {} {} {}",
                m.queue, m.message_count, m.consumer_count
            )
        }
        Method::QueueDeleteOk(m) => format!("{name} {}", m.message_count),
        Method::QueuePurgeOk(m) => format!("{name} {}", m.message_count),
        Method::BasicConsumeOk(m) => format!("{name} {}", m.consumer_tag),
        Method::BasicCancelOk(m) => format!("{name} {}", m.consumer_tag),
        Method::BasicNack(m) => format!("{name} {}", m.delivery_tag),
        Method::BasicCancel(m) => format!("{name} {}", m.consumer_tag),
        Method::ConnectionBlocked(m) => format!("{name} {}", m.reason),
        _ => name.to_owned(),
    }
}

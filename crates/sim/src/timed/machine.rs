//! One machine: two clocks, a disk, the log on it, a broker with its schedules, and clients.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;

use leveret_codec::{
    BasicConsume, BasicQos, ChannelOpen, ConfirmSelect, ExchangeDeclare, FieldTable, FieldValue,
    Method, Properties, QueueBind, QueueDeclare, RawTable, ShortStr,
};
use leveret_core::log::Fetch;
use leveret_core::{
    Broker, Capabilities, Command, ConnectionId, Effects, Event, Input, Limits, Lsn, Message, Now,
    Options, Ordered, Outbound, Outcome, Peer, Permissions, Record,
};
use leveret_scheduler::Registry;
use leveret_store::{Log, Staged, StoreError, VhostNumber};
use serde_json::Value;
use slotmap::{Key as _, SlotMap};

use super::clock::Clock;
use super::fates::GRAVES;
use super::guests::{Guests, Standing};
use super::mistakes::{Mistake, Mistaken};
use super::model::{Done, Model, fired_id};
use super::plan::number;
use crate::dice::Dice;
use crate::model::Tally;
use crate::storage::disk::SimDisk;
use crate::storage::host::Trouble;

/// The queues of the consumers.
pub const QUEUES: [&str; 4] = ["s", "t", "d", GRAVES];

/// Reads until the broker rests: one for each message, where memory is for one at a time.
const PUMPED_MAX: usize = 100_000;

/// An order is given again as often as that while something is looked for in the log.
const ASKED_MAX: usize = 10;

/// A delivery that is not settled.
#[derive(Clone, Debug)]
pub struct Held {
    /// Where it comes from.
    pub queue: &'static str,
    /// What it is: `message-id` or body.
    pub key: String,
    tag: u64,
}

/// What was published, until it is confirmed.
#[derive(Clone, Debug)]
struct Published {
    /// A delayed message; others are orders.
    body: Option<String>,
    /// It is safe when this is; unless it need not be.
    lsn: Lsn,
}

/// A broker that runs.
struct Running {
    broker: Broker,
    log: Log<SimDisk>,
    vhost: VhostNumber,
    ids: SlotMap<ConnectionId, ()>,
    publisher: ConnectionId,
    consumer: ConnectionId,
}

/// A machine.
pub struct Machine {
    /// Its clocks.
    pub clock: Clock,
    /// Its disk.
    pub disk: SimDisk,
    /// How the log is to be.
    pub options: leveret_store::Options,
    /// Octets of messages that wait in memory.
    pub memory_max: usize,
    /// What ought to be.
    pub model: Model,
    /// What has happened.
    pub tally: Tally,
    /// A mistake that is made.
    pub mistake: Option<Mistake>,
    /// Print what happens.
    pub trace: bool,
    /// Deliveries that the consumer has.
    pub held: Vec<Held>,
    /// Operations of the disk around each fire: the first, and the last.
    pub around_fires: Vec<(u64, u64)>,
    running: Option<Running>,
    guests: Guests,
    fx: Effects,
    tags: BTreeMap<u32, &'static str>,
    published: Vec<Published>,
    unwritten: Vec<Record>,
    unsynced_fires: Option<u64>,
    last: Lsn,
    /// The last record that was reported safe to the broker that was stopped.
    safe: Lsn,
    fetches: VecDeque<Fetch>,
    starts: u8,
}

impl Machine {
    /// A machine that is not running.
    pub fn new(clock: Clock, options: leveret_store::Options, memory_max: usize) -> Self {
        Self {
            clock,
            disk: SimDisk::default(),
            options,
            memory_max,
            model: Model::default(),
            tally: BTreeMap::new(),
            mistake: None,
            trace: false,
            held: Vec::new(),
            around_fires: Vec::new(),
            running: None,
            guests: Guests::default(),
            fx: Effects::new(),
            tags: BTreeMap::new(),
            published: Vec::new(),
            unwritten: Vec::new(),
            unsynced_fires: None,
            last: Lsn(0),
            safe: Lsn(0),
            fetches: VecDeque::new(),
            starts: 0,
        }
    }

    /// Counts something.
    pub fn count(&mut self, what: &'static str, n: u64) {
        *self.tally.entry(what).or_default() += n;
    }

    /// Prints what happens, if somebody wants to know.
    pub fn say(&self, what: impl FnOnce() -> String) {
        if self.trace {
            let wall = super::nominal::text(self.clock.wall_ms());
            let (passed, operations) = (self.clock.passed_us(), self.disk.operations());
            let step = self.model.step;
            eprintln!("{wall} ({passed} us) [{step}, {operations}] {}", what());
        }
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Ends the process without a word.
    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            self.safe = running.broker.durable();
        }
        self.fx = Effects::new();
        self.tags.clear();
        self.published.clear();
        self.unwritten.clear();
        self.unsynced_fires = None;
        self.fetches.clear();
        self.held.clear();
    }

    /// What is done now.
    #[must_use]
    pub fn done(&self) -> Done {
        Done {
            step: self.model.step,
            lsn: self.last,
            wall: self.clock.wall_ms(),
        }
    }

    fn running(&mut self) -> Result<&mut Running, Trouble> {
        let stopped = || Trouble::Wrong("not running".to_owned());
        self.running.as_mut().ok_or_else(stopped)
    }

    fn trouble(&self, doing: &str, error: &StoreError) -> Trouble {
        if self.disk.is_off() {
            Trouble::Power
        } else {
            Trouble::Wrong(format!("{doing}: {error}"))
        }
    }

    /// Starts the broker with what the log has.
    ///
    /// # Errors
    /// [`Trouble`]
    pub fn start(&mut self, dice: &mut Dice) -> Result<(), Trouble> {
        self.stop();
        let opened = Log::open(self.disk.clone(), self.options.clone());
        let mut log = opened.map_err(|e| self.trouble("open", &e))?.log;
        let (vhost, recovered) = log.lead("v").map_err(|e| self.trouble("lead", &e))?;
        self.last = recovered.last;
        self.say(|| format!("started with {:?}", recovered.last));
        let times = (self.clock.wall_ms(), self.clock.passed_us());
        self.model
            .recovered(recovered.last, self.safe, times)
            .map_err(Trouble::Wrong)?;
        self.clock.restart(dice);
        if self.mistake == Some(Mistake::ClocksApart) {
            self.clock.pull_apart(dice);
        }
        self.starts = self.starts.wrapping_add(1);
        let options = Options {
            vhost: Arc::from("v"),
            seed: [self.starts; 32],
            limits: Limits {
                queue_memory_max: self.memory_max,
                consumer_timeout_ms: u64::MAX,
                ..Limits::default()
            },
        };
        let now = self.clock.now();
        let wrong = |e: leveret_core::log::LogError| Trouble::Wrong(format!("recovered: {e}"));
        let mut broker = Broker::recover(options, recovered, now).map_err(wrong)?;
        let registry = Registry::new(leveret_scheduler::Limits::default());
        let scheduler = Mistaken::new(registry, self.mistake);
        broker
            .schedule_with(now, Box::new(scheduler))
            .map_err(wrong)?;
        if self.mistake != Some(Mistake::ForgetsUsers) {
            broker.ask_about_users(Arc::new(self.guests.clone()));
        }
        let mut ids = SlotMap::with_key();
        let (publisher, consumer) = (ids.insert(()), ids.insert(()));
        self.running = Some(Running {
            broker,
            log,
            vhost,
            ids,
            publisher,
            consumer,
        });
        self.count("starts", 1);
        self.greet(dice)
    }

    /// Clients come, and declare what they need.
    fn greet(&mut self, dice: &mut Dice) -> Result<(), Trouble> {
        let publisher = self.running()?.publisher;
        self.turn(Input::Opened(publisher, Box::new(peer())))?;
        self.method(publisher, ChannelOpen::default())?;
        for queue in QUEUES {
            let arguments = if queue == GRAVES {
                FieldTable::default()
            } else {
                self.arguments()
            };
            self.method(
                publisher,
                QueueDeclare {
                    queue: short(queue),
                    durable: true,
                    arguments: RawTable::from_table(&arguments),
                    ..QueueDeclare::default()
                },
            )?;
        }
        let delayed =
            FieldTable::from_iter([("x-delayed-type".to_owned(), FieldValue::from("fanout"))]);
        let exchanges = [
            ("fan", "fanout", FieldTable::default()),
            ("later", "x-delayed-message", delayed),
            ("graves", "fanout", FieldTable::default()),
        ];
        for (name, kind, arguments) in exchanges {
            self.method(
                publisher,
                ExchangeDeclare {
                    exchange: short(name),
                    kind: short(kind),
                    durable: true,
                    arguments: RawTable::from_table(&arguments),
                    ..ExchangeDeclare::default()
                },
            )?;
        }
        for (exchange, queue) in [
            ("fan", "s"),
            ("fan", "t"),
            ("later", "d"),
            ("graves", GRAVES),
        ] {
            self.method(
                publisher,
                QueueBind {
                    queue: short(queue),
                    exchange: short(exchange),
                    ..QueueBind::default()
                },
            )?;
        }
        self.method(publisher, ConfirmSelect::default())?;
        self.pump()?;
        self.consume(dice)
    }

    /// Those of the queues.
    fn arguments(&self) -> FieldTable {
        let rules = self.model.rules;
        let mut arguments = FieldTable::default();
        if rules.dead_letters {
            arguments.insert("x-dead-letter-exchange", FieldValue::from(""));
            arguments.insert("x-dead-letter-routing-key", FieldValue::from(GRAVES));
        }
        if let Some(retry) = rules.retry {
            let first = Mistake::spoil_delay(self.mistake, retry.first_ms);
            let max = Mistake::spoil_delay(self.mistake, retry.max_ms);
            arguments.insert("x-retry-delay", number(first));
            arguments.insert("x-retry-multiplier", number(retry.times));
            arguments.insert("x-retry-max-delay", number(max));
        }
        if let Some(limit) = rules.limit {
            arguments.insert("x-delivery-limit", number(limit.into()));
        }
        arguments
    }

    /// What the user of all schedules may do from now on.
    pub fn set_standing(&mut self, standing: Standing) {
        self.say(|| format!("the user of the schedules is {standing:?}"));
        self.model.standing = standing;
        self.guests.set(standing);
        self.count("rights changed", 1);
    }

    /// The consumer comes.
    fn consume(&mut self, dice: &mut Dice) -> Result<(), Trouble> {
        let consumer = self.running()?.consumer;
        self.turn(Input::Opened(consumer, Box::new(peer())))?;
        self.method(consumer, ChannelOpen::default())?;
        let prefetch_count = dice.one_of(&[0, 0, 5, 30]);
        self.method(
            consumer,
            BasicQos {
                prefetch_count,
                ..BasicQos::default()
            },
        )?;
        for queue in QUEUES {
            self.method(
                consumer,
                BasicConsume {
                    queue: short(queue),
                    consumer_tag: short(queue),
                    ..BasicConsume::default()
                },
            )?;
        }
        Ok(())
    }

    /// The consumer dies, with all that it has, and comes again.
    ///
    /// # Errors
    /// [`Trouble`]
    pub fn consumer_dies(&mut self, dice: &mut Dice) -> Result<(), Trouble> {
        self.say(|| "the consumer dies".to_owned());
        self.count("consumers died", 1);
        let times = (self.clock.wall_ms(), self.clock.passed_us());
        for held in std::mem::take(&mut self.held) {
            self.model.failed(held.queue, &held.key, times.0, times.1);
        }
        let running = self.running()?;
        let old = std::mem::replace(&mut running.consumer, running.ids.insert(()));
        self.turn(Input::Closed(old))?;
        self.consume(dice)
    }

    fn method(
        &mut self,
        from: ConnectionId,
        method: impl Into<Method<'static>>,
    ) -> Result<(), Trouble> {
        let command = Command::Method {
            channel: 1,
            method: Box::new(method.into()),
        };
        self.turn(Input::Commands(from, vec![command]))
    }

    /// Publishes; says in which record that is kept, if in any.
    ///
    /// # Errors
    /// [`Trouble`]
    pub fn publish(&mut self, message: Message, body: Option<String>) -> Result<Lsn, Trouble> {
        let publisher = self.running()?.publisher;
        let before = self.last;
        // A confirm may come in the same turn.
        let place = self.published.len();
        self.published.push(Published { body, lsn: Lsn(0) });
        let command = Command::Publish {
            channel: 1,
            mandatory: false,
            message,
        };
        self.turn(Input::Commands(publisher, vec![command]))?;
        let lsn = if self.last > before {
            self.last
        } else {
            Lsn(0)
        };
        if let Some(published) = self.published.get_mut(place) {
            published.lsn = lsn;
        }
        Ok(lsn)
    }

    /// An order that is answered at once, as by HTTP; with the record that it holds from, if it
    /// changes something.
    ///
    /// # Errors
    /// [`Trouble`]
    pub fn ask(
        &mut self,
        headers: impl IntoIterator<Item = (String, FieldValue)>,
    ) -> Result<Result<(Value, Lsn), String>, Trouble> {
        let message = message("amq.schedule", "", headers, false, None, b"");
        for _ in 0..ASKED_MAX {
            self.model.step += 1;
            let now = self.clock.now();
            let mut fx = std::mem::take(&mut self.fx);
            let user = Arc::from("guest");
            let broker = &mut self.running()?.broker;
            let answer = broker.order(now, &user, &Permissions::all(), &message, &mut fx);
            self.fx = fx;
            self.collect(now)?;
            match answer {
                Ok(Ordered::Done(json, lsn)) => {
                    let json = serde_json::from_slice(&json);
                    let json = json.map_err(|e| Trouble::Wrong(format!("an answer: {e}")))?;
                    return Ok(Ok((json, lsn)));
                }
                Ok(Ordered::Later(_)) => {
                    self.count("looked for in the log", 1);
                    self.pump()?;
                }
                Err(error) => return Ok(Err(error.text)),
            }
        }
        Err(Trouble::Wrong(
            "it is looked for and never found".to_owned(),
        ))
    }

    /// Settles a delivery.
    ///
    /// # Errors
    /// [`Trouble`]
    pub fn settle(&mut self, place: usize, outcome: Outcome) -> Result<(), Trouble> {
        let held = self.held.swap_remove(place);
        self.say(|| format!("{outcome:?} of {} from {}", held.key, held.queue));
        let step = self.model.step;
        let requeued = matches!(
            outcome,
            Outcome::Nack { requeue: true } | Outcome::Reject { requeue: true }
        );
        if requeued {
            let times = (self.clock.wall_ms(), self.clock.passed_us());
            self.model.failed(held.queue, &held.key, times.0, times.1);
        } else {
            let ack = outcome == Outcome::Ack;
            self.model.settled(held.queue, &held.key, ack);
        }
        let consumer = self.running()?.consumer;
        let command = Command::Settle {
            channel: 1,
            delivery_tag: held.tag,
            multiple: false,
            outcome,
        };
        self.turn(Input::Commands(consumer, vec![command]))?;
        debug_assert!(self.model.step > step);
        self.count("settled", 1);
        Ok(())
    }

    /// Something happens to the broker.
    ///
    /// # Errors
    /// [`Trouble`]
    pub fn turn(&mut self, input: Input) -> Result<(), Trouble> {
        self.model.step += 1;
        let now = self.clock.now();
        let mut fx = std::mem::take(&mut self.fx);
        self.running()?.broker.handle(now, input, &mut fx);
        self.fx = fx;
        self.collect(now)
    }

    /// Carries out what a turn wants done, but for what takes the disk.
    fn collect(&mut self, now: Now) -> Result<(), Trouble> {
        loop {
            let mut fx = std::mem::take(&mut self.fx);
            let mut sent = Vec::new();
            fx.drain_sends(|connection, batch| {
                sent.extend(batch.drain(..).map(|outbound| (connection, outbound)));
            });
            let durable = self.running()?.broker.durable();
            self.model.places.safe(durable);
            let mut fires = 0;
            for record in &fx.records {
                self.say(|| format!("record {}: {}", record.lsn.0, short_fact(&record.fact)));
                let recorded = self.model.recorded(record, now.wall.0);
                fires += recorded.map_err(Trouble::Wrong)?;
                self.last = record.lsn;
            }
            if fires > 0 {
                self.count("fired", fires);
                let operation = self.disk.operations();
                self.unsynced_fires.get_or_insert(operation);
            }
            self.hear_refusals(&fx)?;
            self.unwritten.append(&mut fx.records);
            self.fetches.extend(fx.fetches.drain(..));
            for event in fx.events.drain(..) {
                if let Event::FetchFailed { error, .. } = event {
                    return Err(Trouble::Wrong(format!("fetched: {error}")));
                }
            }
            fx.garbage.clear();
            fx.reading.clear();
            self.fx = fx;
            let mut drained: BTreeMap<ConnectionId, usize> = BTreeMap::new();
            for (connection, outbound) in sent {
                *drained.entry(connection).or_default() += outbound.delivery_cost();
                self.hear(connection, outbound)?;
            }
            drained.retain(|_, cost| *cost > 0);
            if drained.is_empty() {
                return Ok(());
            }
            let mut fx = std::mem::take(&mut self.fx);
            for (connection, cost) in drained {
                let input = Input::Drained(connection, cost);
                self.running()?.broker.handle(now, input, &mut fx);
            }
            self.fx = fx;
        }
    }

    /// Runs that were not published, each with the record that says so: it speaks of the run twice.
    fn hear_refusals(&mut self, fx: &Effects) -> Result<(), Trouble> {
        let mut records = fx.records.iter();
        for event in &fx.events {
            let Event::FireRefused { run, refusal, .. } = event else {
                continue;
            };
            let name = run.rsplit_once('/').map_or(&**run, |(name, _)| name);
            let Some(record) = records.find(|record| is_refusal(&record.fact, name)) else {
                return Err(Trouble::Wrong(format!("{run} is refused without a record")));
            };
            let done = Done {
                lsn: record.lsn,
                ..self.done()
            };
            self.say(|| format!("{run} is refused"));
            let refused = self.model.refused(run, *refusal, done);
            refused.map_err(Trouble::Wrong)?;
            self.count("refused", 1);
        }
        Ok(())
    }

    fn hear(&mut self, connection: ConnectionId, outbound: Outbound) -> Result<(), Trouble> {
        match outbound {
            Outbound::Consumer { number, tag } => {
                if let Some(queue) = QUEUES.iter().find(|queue| ***queue == *tag) {
                    self.tags.insert(number, queue);
                }
                Ok(())
            }
            Outbound::Deliver {
                consumer,
                redelivered,
                delivery_tag,
                message,
                ..
            } => {
                let queue = self.tags.get(&consumer).copied().unwrap_or("?");
                self.delivered(connection, queue, redelivered, delivery_tag, &message)
            }
            Outbound::Confirm {
                delivery_tag,
                multiple,
                ..
            } => self.confirmed(delivery_tag as usize, multiple),
            Outbound::CloseChannel { error, .. } | Outbound::CloseConnection { error } => {
                Err(Trouble::Wrong(format!("refused: {}", error.text)))
            }
            _ => Ok(()),
        }
    }

    fn delivered(
        &mut self,
        to: ConnectionId,
        queue: &'static str,
        again: bool,
        tag: u64,
        message: &Message,
    ) -> Result<(), Trouble> {
        let durable = self.running()?.broker.durable();
        let now = self.done();
        let passed_us = self.clock.passed_us();
        let (key, result) = if queue == GRAVES {
            let model = &mut self.model;
            let heard = model.letter_delivered(message, again, to, durable, passed_us);
            let key = heard.map_err(Trouble::Wrong)?;
            self.count("dead letters delivered", 1);
            (key, Ok(()))
        } else if queue == "d" {
            let body = String::from_utf8_lossy(message.body()).into_owned();
            let times = (now.wall, passed_us);
            let model = &mut self.model;
            let result = model.promise_delivered(&body, again, to, durable, times);
            (body, result)
        } else {
            let id = fired_id(message).unwrap_or_default();
            let persistent = message.is_persistent();
            let safe = (durable, now, passed_us);
            let model = &mut self.model;
            let result = model.fire_delivered(queue, &id, again, to, safe, persistent);
            (id, result)
        };
        self.say(|| format!("{key} from {queue}, again: {again}"));
        result.map_err(Trouble::Wrong)?;
        self.count(
            if again {
                "delivered again"
            } else {
                "delivered"
            },
            1,
        );
        self.held.push(Held { queue, key, tag });
        Ok(())
    }

    fn confirmed(&mut self, tag: usize, multiple: bool) -> Result<(), Trouble> {
        let durable = self.running()?.broker.durable();
        let first = if multiple { 1 } else { tag };
        for published in self.published.get(first - 1..tag).unwrap_or_default() {
            if published.lsn > durable {
                let what = format!("{published:?} is confirmed before it is safe");
                return Err(Trouble::Wrong(what));
            }
            if let Some(body) = &published.body
                && let Some(promise) = self.model.promises.get_mut(body)
            {
                promise.confirmed = true;
            }
        }
        self.count("confirms", 1);
        Ok(())
    }

    /// Does what is due by the broker's timers.
    ///
    /// # Errors
    /// [`Trouble`]
    pub fn tick(&mut self) -> Result<(), Trouble> {
        for _ in 0..10_000 {
            let mono = self.clock.now().mono;
            let next = self.running()?.broker.next_timer();
            if next.is_none_or(|next| next > mono) {
                return Ok(());
            }
            self.turn(Input::Tick)?;
        }
        Err(Trouble::Wrong("timers never end".to_owned()))
    }

    /// Microseconds until the broker wants to be called, if it does.
    ///
    /// # Errors
    /// [`Trouble`]
    pub fn until_timer_us(&mut self) -> Result<Option<u64>, Trouble> {
        let next = self.running()?.broker.next_timer();
        Ok(next.map(|at| self.clock.until_mono_us(at)))
    }

    /// Writes what is to be written.
    ///
    /// # Errors
    /// [`Trouble`]
    pub fn write(&mut self) -> Result<(), Trouble> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        let records = std::mem::take(&mut self.unwritten);
        let last = self.last;
        self.count("records", records.len() as u64);
        for records in Mistake::spoil(self.mistake, records) {
            let running = self.running()?;
            let vhost = running.vhost;
            let written = running.log.write(vec![Staged { vhost, records }]);
            written.map_err(|e| self.trouble("write", &e))?;
        }
        if self.mistake == Some(Mistake::EarlyReport) {
            self.turn(Input::Durable(last))?;
        }
        Ok(())
    }

    /// Syncs, and tells the broker.
    ///
    /// # Errors
    /// [`Trouble`]
    pub fn sync(&mut self) -> Result<(), Trouble> {
        let reported = self.running()?.log.sync();
        let reported = reported.map_err(|e| self.trouble("sync", &e))?;
        if let (true, Some(first)) = (self.unwritten.is_empty(), self.unsynced_fires.take()) {
            let operations = self.disk.operations();
            self.around_fires.push((first, operations));
        }
        for (_, lsn) in reported {
            self.turn(Input::Durable(lsn))?;
        }
        Ok(())
    }

    /// Writes, syncs and reads until there is nothing more to do.
    ///
    /// # Errors
    /// [`Trouble`]
    pub fn pump(&mut self) -> Result<(), Trouble> {
        for _ in 0..PUMPED_MAX {
            self.write()?;
            self.sync()?;
            if let Some(fetch) = self.fetches.pop_front() {
                self.fetch(fetch)?;
            } else if self.unwritten.is_empty() {
                return Ok(());
            }
        }
        Err(Trouble::Wrong("the broker never rests".to_owned()))
    }

    fn fetch(&mut self, fetch: Fetch) -> Result<(), Trouble> {
        let running = self.running()?;
        let mut fetched = running.log.reader().fetch(running.vhost, fetch);
        if self.disk.is_off() {
            return Err(Trouble::Power);
        }
        if fetch.queue.is_null() {
            self.count("delayed ones read back", fetched.messages.len() as u64);
            Mistake::spoil_fetched(self.mistake, &mut fetched);
        }
        self.turn(Input::Fetched(fetched))
    }

    /// A step of housekeeping.
    ///
    /// # Errors
    /// [`Trouble`]
    pub fn housekeep(&mut self) -> Result<(), Trouble> {
        let more = self.running()?.log.housekeep();
        more.map_err(|e| self.trouble("keep house", &e))?;
        Ok(())
    }

    /// Ends the log as one should.
    ///
    /// # Errors
    /// [`Trouble`]
    pub fn close(&mut self) -> Result<(), Trouble> {
        self.pump()?;
        if let Some(running) = self.running.take() {
            let closed = running.log.close();
            closed.map_err(|e| self.trouble("close", &e))?;
        }
        self.stop();
        Ok(())
    }

    /// How many messages wait, are ready, and are not settled.
    ///
    /// # Errors
    /// [`Trouble`]
    pub fn totals(&mut self) -> Result<leveret_core::Totals, Trouble> {
        Ok(self.running()?.broker.totals())
    }

    /// Asserts what must hold in the broker.
    ///
    /// # Errors
    /// [`Trouble`]
    pub fn check(&mut self) -> Result<(), Trouble> {
        self.running()?.broker.check_invariants();
        Ok(())
    }

    /// Whether nothing waits for the disk.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.unwritten.is_empty() && self.fetches.is_empty()
    }
}

/// Whether a record says that a run of this schedule is there, and what came of it.
fn is_refusal(fact: &leveret_core::Fact, schedule: &str) -> bool {
    use leveret_core::Fact;
    let Fact::Together(facts) = fact else {
        return false;
    };
    let run = format!("h\0{schedule}\0");
    let mut runs = Vec::new();
    for fact in facts {
        let Fact::Noted(note) = fact else {
            return false;
        };
        let mut parts = note.key.windows(run.len());
        if parts.any(|part| part == run.as_bytes()) && note.value.is_some() {
            runs.push(&note.key);
        }
    }
    runs.sort();
    runs.windows(2).any(|pair| pair[0] == pair[1])
}

fn short(text: &str) -> ShortStr<'static> {
    ShortStr::truncated(text.to_owned())
}

fn peer() -> Peer {
    Peer {
        user: Arc::from("guest"),
        permissions: Permissions::all(),
        impersonator: false,
        capabilities: Capabilities::default(),
    }
}

/// A message of a client.
pub fn message(
    exchange: &str,
    key: &str,
    headers: impl IntoIterator<Item = (String, FieldValue)>,
    persistent: bool,
    id: Option<&str>,
    body: &[u8],
) -> Message {
    let properties = Properties {
        headers: Some(FieldTable::from_iter(headers)),
        delivery_mode: persistent.then_some(2),
        message_id: id.map(|id| id.to_owned().into()),
        ..Properties::default()
    };
    Message::of(exchange, key, &properties, body)
}

fn short_fact(fact: &leveret_core::Fact) -> String {
    use leveret_core::Fact;
    match fact {
        Fact::Together(facts) => {
            let facts: Vec<_> = facts.iter().map(short_fact).collect();
            format!("[{}]", facts.join(", "))
        }
        Fact::Noted(note) => {
            let key = String::from_utf8_lossy(&note.key).replace('\0', " ");
            format!(
                "{}note {key}",
                if note.value.is_some() { "" } else { "no " }
            )
        }
        Fact::Published {
            message, places, ..
        } => {
            let id = message.properties().message_id.unwrap_or_default();
            format!("published {} at {places:?}", String::from_utf8_lossy(&id))
        }
        Fact::Settled { queue, seq } => format!("settled {queue}/{seq}"),
        other => format!("{other:?}").chars().take(40).collect(),
    }
}

//! What a broker does, told naively: lists that are searched from front to end, nothing remembered
//! that can be counted, no structure shared with the core.
//!
//! The model obeys the same commands as the core and then reads what the core has sent. Where a
//! broker has a choice (which of several consumers gets a message, how confirms are put together,
//! what a generated name is) it accepts any that is right and goes on from there; everything else
//! has to be exactly so. After each command nothing may be left that a consumer could have had.
//!
//! Here is the state and what happens to it as a whole. `words.rs` has what goes in and out,
//! `obey.rs` the methods about messages, `declare.rs` those about queues and exchanges, `waits.rs`
//! what waits for the log, `ending.rs` how things end, and `judge.rs` reads what the core has sent.

use std::collections::{BTreeMap, VecDeque};

use leveret_codec::{
    BasicCancelOk, BasicQosOk, BasicRecoverOk, ChannelCloseOk, ChannelFlowOk, ChannelOpenOk,
    ConfirmSelectOk, ConnectionCloseOk, Method, TxRollbackOk, TxSelectOk,
};
use leveret_core::{
    Capabilities, ConnectionId, Died, Fact, Lsn, Message, Now, Outbound, Outcome, QueueNumber,
};

use crate::deaths::Dead;
use crate::letters::is_same;
use crate::log::Log;
use crate::rules::Rules;
use crate::topology::Topology;
use crate::violation;
use crate::waits::Waits;
pub use crate::words::*;

/// A message in a queue.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Item {
    /// Which.
    pub id: u64,
    /// Its place.
    pub seq: u64,
    /// It was delivered before.
    pub delivered: bool,
    /// Which letter it has become.
    pub letter: Option<usize>,
    /// Deliveries that failed.
    pub failures: u32,
    /// When it expires, in milliseconds.
    pub due: Option<u64>,
    /// So much later at the most: it was put off, and when exactly is the broker's affair.
    pub late: u64,
    /// Its time was over when nobody could have had it.
    pub put_off: bool,
    /// The turn it came in.
    pub came: u64,
    /// Nobody may see it before this record is safe.
    pub safe: Lsn,
}

impl Item {
    /// Its place among those of its priority.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.seq % NUMBERS
    }
}

/// There are so many places for each priority of a queue, the highest first.
const NUMBERS: u64 = 1 << 56;

/// A queue, by its name.
#[derive(Clone, Debug)]
pub struct Queue {
    /// Tells it from others of the same name.
    pub id: u64,
    /// As it turned out.
    pub durable: bool,
    /// As declared.
    pub auto_delete: bool,
    /// Its owner, if it has one.
    pub exclusive: Option<ConnectionId>,
    /// Milliseconds it may be unused.
    pub expires: Option<u64>,
    /// The highest priority, as declared.
    pub priority_max: Option<u8>,
    /// What it does with its messages.
    pub rules: Rules,
    /// What has come back makes it too long, and nothing has come since.
    pub may_be_long: bool,
    /// Messages from these numbers on may have to wait for these records.
    pub held: Vec<(Lsn, u64)>,
    /// When it was used, in milliseconds.
    pub used: u64,
    /// What waits, oldest first.
    pub ready: VecDeque<Item>,
    /// Who consumes: connection, channel, tag.
    pub consumers: Vec<(ConnectionId, u16, String)>,
    /// One has it for itself.
    pub exclusive_consumer: bool,
    /// The highest number given out.
    pub last_seq: u64,
    /// The last number given to a message of each priority; all go on from `started`.
    pub last_of: BTreeMap<u8, u64>,
    /// The highest number that was given out in earlier lives.
    pub started: u64,
    /// What the log knows it by, if it is durable.
    pub number: Option<QueueNumber>,
    /// Messages up to here may be delivered: the log knows that they may have been.
    pub mark: u64,
    /// Marks that hold once their records are safe.
    pub marks: Vec<(Lsn, u64)>,
    /// Messages from here on may be away: they were asked back from the log and have not come.
    pub away_from: Option<u64>,
    /// Channels that wait for a message of it may have another look.
    pub woken: bool,
}

impl Queue {
    /// Whether it has priorities. With 0 as the highest there is but one.
    #[must_use]
    pub fn has_priorities(&self) -> bool {
        self.priority_max.is_some_and(|max| max > 0)
    }

    /// Whether what is asked back from the log may be other messages than the first.
    #[must_use]
    pub fn is_read_in_parts(&self) -> bool {
        self.has_priorities() || self.ready.iter().any(|item| item.due.is_some())
    }

    /// Gives out the next place for a message of this priority.
    pub(crate) fn place(&mut self, priority: u8) -> u64 {
        let priority = priority.min(self.priority_max.unwrap_or_default());
        let last = self.last_of.entry(priority).or_insert(self.started);
        *last += 1;
        self.last_seq = self.last_seq.max(*last);
        let before = if self.has_priorities() {
            u64::from(255 - priority) * NUMBERS
        } else {
            0
        };
        before + self.last_of[&priority]
    }

    /// Whether something is asked of the log, or waited for.
    #[must_use]
    pub fn waits_for_log(&self) -> bool {
        self.away_from.is_some() || !self.marks.is_empty() || !self.held.is_empty()
    }

    /// Whether its first message may have to wait for the log.
    #[must_use]
    pub fn may_stand_still(&self) -> bool {
        let stands = |item: &Item| {
            item.number() > self.mark
                || self.away_from.is_some_and(|from| item.seq >= from)
                || self.holds_back(item)
        };
        self.ready.front().is_some_and(stands)
    }

    /// Whether nobody may have a message yet, because of a record that is not safe.
    #[must_use]
    pub fn holds_back(&self, item: &Item) -> bool {
        let level = item.seq / NUMBERS;
        let mut held = self.held.iter();
        held.any(|&(_, from)| from / NUMBERS == level && from <= item.seq)
    }
}

/// A consumer, by its tag.
#[derive(Clone, Debug)]
pub struct Consumer {
    /// Tells it from others with the same tag.
    pub id: u64,
    /// Its queue.
    pub queue: String,
    /// As asked.
    pub no_ack: bool,
    /// Higher ones go first.
    pub priority: i64,
    /// Its own limit, or 0.
    pub prefetch: usize,
}

/// A delivery that is not settled.
#[derive(Clone, Debug)]
pub struct Unacked {
    /// Number of the queue.
    pub queue: u64,
    /// Number of the consumer, unless it was fetched.
    pub consumer: Option<u64>,
    /// What was delivered.
    pub item: Item,
}

/// A publish that is not confirmed.
#[derive(Clone, Debug)]
pub struct Unconfirmed {
    /// Which message.
    pub id: u64,
    /// The record that makes it safe, if it needs one.
    pub record: Option<Lsn>,
}

/// What publishing means.
#[derive(Clone, Debug, Default)]
pub enum Mode {
    /// Nothing more.
    #[default]
    Plain,
    /// It is confirmed.
    Confirm {
        /// Publishes so far.
        last: u64,
        /// By number.
        waiting: BTreeMap<u64, Unconfirmed>,
    },
    /// It is done at commit.
    Tx {
        /// Message, mandatory, queues by number.
        publishes: Vec<(u64, bool, Vec<u64>)>,
        /// In groups, as they were said.
        settles: Vec<(Outcome, BTreeMap<u64, Unacked>)>,
    },
}

/// An open channel.
#[derive(Clone, Debug, Default)]
pub struct Channel {
    /// The last delivery tag.
    pub last_tag: u64,
    /// By tag.
    pub unacked: BTreeMap<u64, Unacked>,
    /// By tag.
    pub consumers: BTreeMap<String, Consumer>,
    /// For consumers to come.
    pub prefetch: usize,
    /// For all together.
    pub shared: usize,
    /// What publishing means.
    pub mode: Mode,
    /// What an empty queue name means.
    pub last_queue: Option<String>,
    /// It waits, with this in line.
    pub waits: Option<Waits>,
}

impl Channel {
    /// Everything delivered and not settled, that said in a transaction included.
    pub fn held(&self) -> impl Iterator<Item = &Unacked> {
        self.held_by_tag().map(|(_, unacked)| unacked)
    }

    /// The same with the tags.
    pub(crate) fn held_by_tag(&self) -> impl Iterator<Item = (u64, &Unacked)> {
        let in_tx: &[(Outcome, BTreeMap<u64, Unacked>)] = match &self.mode {
            Mode::Tx { settles, .. } => settles,
            _ => &[],
        };
        let in_tx = in_tx.iter().flat_map(|(_, unacked)| unacked);
        let all = self.unacked.iter().chain(in_tx);
        all.map(|(&tag, unacked)| (tag, unacked))
    }
}

/// A connection.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// By number; `None` is one that we closed and the client has not agreed to yet.
    pub channels: BTreeMap<u16, Option<Channel>>,
    /// Cost of deliveries under way.
    pub outbox: usize,
    pub(crate) closing: bool,
    /// Its client is gone; nothing is delivered to it any more.
    pub(crate) gone: bool,
    /// The client wants to go when its channels wait no more.
    pub(crate) close_asked: bool,
    pub(crate) publishes: bool,
    pub(crate) paused: bool,
    pub(crate) capabilities: Capabilities,
    /// Tags of consumers by the numbers the core has for them.
    pub(crate) numbers: BTreeMap<u32, String>,
}

impl Connection {
    /// Its channels that wait.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (u16, &Waits)> {
        let channels = self.channels.iter();
        channels.filter_map(|(&number, slot)| Some((number, slot.as_ref()?.waits.as_ref()?)))
    }
}

/// How often things happened, to see that they did.
pub type Tally = BTreeMap<&'static str, u64>;

/// The model.
#[derive(Clone, Debug)]
pub struct Model {
    /// Exchanges and bindings.
    pub topology: Topology,
    /// By name.
    pub queues: BTreeMap<String, Queue>,
    /// All there are.
    pub connections: BTreeMap<ConnectionId, Connection>,
    /// Every message ever published, by number.
    pub published: Vec<Published>,
    /// Every dead letter there ever was, by number of the message.
    pub letters: Vec<(u64, Published)>,
    /// Which record made a message safe: by its number, and what it has been through.
    pub records: BTreeMap<(u64, String), Lsn>,
    /// What died in this turn by the core's word, in order.
    pub died: VecDeque<Died>,
    /// What died and goes on elsewhere before the turn ends.
    pub(crate) dead: VecDeque<Dead>,
    /// Dead letters of this turn: number, and what they have been through.
    pub(crate) died_now: Vec<(u64, String)>,
    /// Something may be in the log alone.
    pub pages: bool,
    /// There is a swap area: that goes for what the log has not as well.
    pub swaps: bool,
    /// Somebody has set the clock on the wall.
    pub clock_was_set: bool,
    /// When timers were last looked at, in milliseconds.
    pub(crate) ticked_ms: u64,
    /// Turns so far.
    pub(crate) turns: u64,
    /// The last record before this turn.
    pub before: Lsn,
    /// Records of this turn that nothing has explained yet.
    pub made: Vec<(Lsn, Fact)>,
    /// Names of queues that were made in this turn.
    pub created: VecDeque<String>,
    /// Settled for good in this turn: queue and place.
    pub(crate) settled: Vec<(QueueNumber, u64)>,
    /// The last record of something that is gone.
    pub(crate) removed: Option<Lsn>,
    /// The last record of an exchange, a queue or a binding that was made.
    pub(crate) defined: Option<Lsn>,
    /// How often things happened.
    pub tally: Tally,
    pub(crate) expected: BTreeMap<ConnectionId, VecDeque<Expected>>,
    pub(crate) seen: BTreeMap<ConnectionId, VecDeque<Outbound>>,
    pub(crate) now_ms: u64,
    pub(crate) now_wall_ms: u64,
    pub(crate) sender: Option<ConnectionId>,
    pub(crate) durable: Lsn,
    pub(crate) outbox_max: usize,
    pub(crate) body_max: usize,
    pub(crate) alarm: bool,
    numbers: u64,
    /// Why the last thing sent could not be accepted yet.
    pub(crate) why: String,
}

/// So many orders are tried in a turn in which several may go on.
const TRIES_MAX: u32 = 200;

/// The text clients are shown for the alarm.
pub const ALARM: &str = "low on memory";

impl Model {
    /// A broker with these bounds for outboxes and bodies.
    #[must_use]
    pub fn new(outbox_max: usize, body_max: usize) -> Self {
        Self {
            topology: Topology::new(),
            queues: BTreeMap::new(),
            connections: BTreeMap::new(),
            published: Vec::new(),
            letters: Vec::new(),
            records: BTreeMap::new(),
            died: VecDeque::new(),
            dead: VecDeque::new(),
            died_now: Vec::new(),
            pages: false,
            swaps: false,
            clock_was_set: false,
            ticked_ms: 0,
            turns: 0,
            before: Lsn(0),
            made: Vec::new(),
            created: VecDeque::new(),
            settled: Vec::new(),
            defined: None,
            removed: None,
            tally: Tally::new(),
            expected: BTreeMap::new(),
            seen: BTreeMap::new(),
            now_ms: 0,
            now_wall_ms: 0,
            sender: None,
            durable: Lsn(0),
            outbox_max,
            body_max,
            alarm: false,
            numbers: 0,
            why: String::new(),
        }
    }

    /// Takes what happened and what the broker sent because of it.
    ///
    /// # Errors
    /// If that was wrong.
    pub fn turn(
        &mut self,
        now: Now,
        event: Event,
        seen: BTreeMap<ConnectionId, VecDeque<Outbound>>,
    ) -> Checked {
        (self.now_ms, self.now_wall_ms) = (now.mono.0, now.wall.0);
        self.turns += 1;
        self.seen = seen;
        self.sender = None;
        self.settled.clear();
        self.why.clear();
        match event {
            Event::Opened(id, capabilities) => {
                let connection = Connection {
                    capabilities,
                    ..Connection::default()
                };
                self.connections.insert(id, connection);
            }
            Event::Commands(id, said) => {
                self.sender = Some(id);
                for said in said {
                    if self.connections.get(&id).is_some_and(|c| !c.close_asked) {
                        self.command(id, said)?;
                    }
                }
            }
            Event::Closed(id) => {
                self.last_words(id)?;
                self.abandon(id, true)?;
                self.connections.remove(&id);
                self.expected.remove(&id);
            }
            Event::Durable(lsn) => {
                self.durable = self.durable.max(lsn);
                for queue in self.queues.values_mut() {
                    let safe = queue.marks.iter().rfind(|(due, _)| *due <= lsn);
                    if let Some(&(due, mark)) = safe {
                        (queue.mark, queue.woken) = (mark, true);
                        queue.marks.retain(|(other, _)| *other > due);
                    }
                    let held = queue.held.len();
                    queue.held.retain(|(due, _)| *due > lsn);
                    queue.woken |= queue.held.len() < held;
                }
                self.settle_down()?;
                self.release()?;
            }
            Event::Drained(id, octets) => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    if octets > connection.outbox {
                        return Err(violation!("more was drained than was sent"));
                    }
                    connection.outbox -= octets;
                }
            }
            Event::Tick => {
                let due = |queue: &Queue| {
                    let due = queue.expires.map(|ms| queue.used + ms);
                    due.filter(|due| queue.consumers.is_empty() && *due <= now.mono.0)
                };
                let queues = self.queues.iter();
                let gone = queues.filter_map(|(name, queue)| Some((due(queue)?, name.clone())));
                let mut gone: Vec<(u64, String)> = gone.collect();
                gone.sort();
                // A queue that was used since goes when its timer comes, as long as it is over by now:
                // maybe before a message that was due before it.
                let earliest = self.ticked_ms + 1;
                self.ticked_ms = now.mono.0;
                let may_be_early = !(gone.is_empty() || self.died.is_empty());
                let before = may_be_early.then(|| self.clone());
                let result = self.tick(&gone, None);
                match before {
                    Some(before) if result.is_err() => {
                        *self = before;
                        self.tick(&gone, Some(earliest)).or(result)?;
                    }
                    _ => result?,
                }
            }
            Event::Evict(id) => {
                if self.connections.get(&id).is_some_and(|c| !c.closing) {
                    self.abandon(id, false)?;
                    self.expect(id, Expected::CloseConnection(320));
                }
            }
            // What has come back was noted before the turn.
            Event::Fetched | Event::Swapped | Event::Retired => {}
            Event::Alarm(on) => {
                self.alarm = on;
                let all: Vec<_> = self.connections.keys().copied().collect();
                all.into_iter().for_each(|id| self.apply_alarm(id));
            }
        }
        self.settle_down()?;
        self.finish(&mut TRIES_MAX.clone())
    }

    /// What is due goes: queues in this order, all of them at this moment if it is said.
    fn tick(&mut self, gone: &[(u64, String)], at: Option<u64>) -> Checked {
        for (due, name) in gone {
            self.expire_before(at.unwrap_or(*due))?;
            self.count("expired queues", 1);
            self.delete_queue(name)?;
        }
        self.eat()?;
        self.check_times()
    }

    /// The end of a turn: who waits for a message goes on, what died goes on, and nothing may be left.
    ///
    /// Who of those that wait for messages goes on first is the broker's affair, and it may matter,
    /// because what they said meanwhile is obeyed then: there has to be an order in which all is right.
    fn finish(&mut self, tries: &mut u32) -> Checked {
        let mut many = false;
        loop {
            self.eat()?;
            let (able, _) = self.able_to_go_on();
            match able.as_slice() {
                [] if self.dead.is_empty() || many => break,
                [] => {
                    let before = self.dead.len();
                    self.bury()?;
                    self.settle_down()?;
                    many = self.dead.len() >= before; // the rest a moment later
                }
                [(id, number)] => self.go_on(*id, *number)?,
                _ => return self.finish_in_some_order(&able, tries),
            }
        }
        self.nobody_waits_in_vain()?;
        self.nothing_is_left()
    }

    fn finish_in_some_order(&mut self, able: &[(ConnectionId, u16)], tries: &mut u32) -> Checked {
        let mut wrong = Ok(());
        for &(id, number) in able {
            let mut other = self.clone();
            let result = other.go_on(id, number).and_then(|()| other.finish(tries));
            if result.is_ok() {
                *self = other;
                return Ok(());
            }
            self.count("others went on first", 1);
            wrong = wrong.and(result);
            *tries = tries.saturating_sub(1);
            if *tries == 0 {
                break;
            }
        }
        wrong
    }

    /// The broker has started anew with what the log has kept, and nobody is connected.
    pub fn restart(&mut self, log: &Log, last: Lsn, now: Now) {
        let kept = &log.state;
        (self.now_ms, self.now_wall_ms) = (now.mono.0, now.wall.0);
        self.pages = true;
        self.died.clear();
        self.dead.clear();
        self.connections.clear();
        self.expected.clear();
        self.seen.clear();
        (self.alarm, self.durable) = (false, last);
        self.ticked_ms = 0;
        (self.defined, self.removed) = (None, None);
        self.topology = Topology::new();
        let exchanges = kept.exchanges.iter();
        let exchanges = exchanges.map(|(name, exchange)| (name.clone(), exchange.clone()));
        self.topology.exchanges.extend(exchanges);
        self.topology.bindings.clone_from(&kept.bindings);
        self.queues.clear();
        for (name, kept) in &kept.queues {
            let item = |(&seq, (id, past)): (&u64, &(u64, String))| {
                let (message, at) = log.stored(kept.number, seq)?;
                let letter = self.letter_named(*id, past, message);
                let own_ms = self.content(*id, letter)?.expiration_ms;
                let ms = kept.rules.ttl_ms.into_iter().chain(own_ms).min();
                let passed = self.now_wall_ms.saturating_sub(at.0);
                Some(Item {
                    id: *id,
                    seq,
                    delivered: seq % NUMBERS <= kept.mark,
                    letter,
                    failures: 0,
                    due: ms.map(|ms| self.now_ms + ms.saturating_sub(passed)),
                    late: 0,
                    came: 0,
                    put_off: false,
                    safe: Lsn(0),
                })
            };
            let ready = kept.messages.iter().filter_map(item).collect();
            let queue = Queue {
                id: self.number(),
                durable: true,
                auto_delete: kept.auto_delete,
                exclusive: None,
                expires: kept.expires,
                priority_max: kept.priority_max,
                rules: kept.rules.clone(),
                may_be_long: true,
                held: Vec::new(),
                used: 0,
                ready,
                consumers: Vec::new(),
                exclusive_consumer: false,
                last_seq: kept.last,
                last_of: BTreeMap::new(),
                started: kept.last,
                number: Some(kept.number),
                mark: kept.mark,
                marks: Vec::new(),
                away_from: None,
                woken: false,
            };
            self.count("recovered messages", queue.ready.len() as u64);
            let letters = queue.ready.iter().filter(|item| item.letter.is_some());
            let timed = queue.ready.iter().filter(|item| item.due.is_some());
            let (letters, timed) = (letters.count() as u64, timed.count() as u64);
            self.count("recovered letters", letters);
            self.count("with a time, recovered", timed);
            let levels = queue.ready.iter().map(|item| item.seq / NUMBERS);
            let levels: std::collections::BTreeSet<u64> = levels.collect();
            self.count(
                "recovered priorities",
                levels.len().saturating_sub(1) as u64,
            );
            self.queues.insert(name.clone(), queue);
        }
    }

    /// Which letter the log has kept.
    fn letter_named(&self, id: u64, past: &str, message: &Message) -> Option<usize> {
        if past.is_empty() {
            return None;
        }
        let is_it = |(of, letter): &(u64, Published)| {
            *of == id && letter.past.name() == past && is_same(message, id, letter, 0)
        };
        self.letters.iter().rposition(is_it)
    }

    /// Counts something that happened.
    pub fn count(&mut self, what: &'static str, n: u64) {
        *self.tally.entry(what).or_default() += n;
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(crate) fn expect(&mut self, id: ConnectionId, expected: Expected) {
        self.expected.entry(id).or_default().push_back(expected);
    }

    pub(crate) fn answer(
        &mut self,
        id: ConnectionId,
        channel: u16,
        method: impl Into<Method<'static>>,
    ) {
        let expected = Expected::Method(channel, method.into());
        match self.channel(id, channel).and_then(|c| c.waits.as_mut()) {
            Some(waits) => waits.replies.push(expected),
            None => self.expect(id, expected),
        }
    }

    pub(crate) fn channel(&mut self, id: ConnectionId, number: u16) -> Option<&mut Channel> {
        let connection = self.connections.get_mut(&id).filter(|c| !c.closing)?;
        connection.channels.get_mut(&number)?.as_mut()
    }

    // ---- what was said ----

    pub(crate) fn command(&mut self, id: ConnectionId, said: Said) -> Checked {
        if self.stays_in_line(id, &said) {
            return Ok(());
        }
        let ignored =
            !matches!(said, Said::Method { .. }) && self.channel(id, said.channel()).is_none();
        if ignored {
            return Ok(());
        }
        let (number, result) = match said {
            Said::Publish {
                channel,
                id: message,
                mandatory,
            } => (channel, self.publish(id, channel, message, mandatory)),
            Said::Settle {
                channel,
                tag,
                multiple,
                outcome,
            } => (channel, self.settle(id, channel, tag, multiple, outcome)),
            Said::Method { channel, method } => (channel, self.method(id, channel, method)),
            Said::Refuse { channel, code } => {
                self.count("oversize", 1);
                let refused = self.channel(id, channel).map_or(Ok(()), |_| Err(code));
                (channel, refused.map_err(Trouble::Refused))
            }
        };
        match result {
            Ok(()) => {}
            Err(Trouble::Refused(code)) => self.refuse(id, number, code)?,
            Err(Trouble::Wrong(violation)) => return Err(violation),
        }
        self.settle_down()?;
        if self.dead.is_empty() {
            return Ok(());
        }
        self.bury()?;
        self.settle_down()
    }

    pub(crate) fn refuse(&mut self, id: ConnectionId, number: u16, code: u16) -> Checked {
        let of_channel = [311, 312, 403, 404, 405, 406].contains(&code);
        if of_channel && self.channel(id, number).is_some() {
            self.count("channel errors", 1);
            self.end_channel(id, number, true)?;
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.channels.insert(number, None);
            }
            self.expect(id, Expected::CloseChannel(number, code));
        } else {
            self.count("connection errors", 1);
            self.abandon(id, true)?;
            self.expect(id, Expected::CloseConnection(code));
        }
        Ok(())
    }

    pub(crate) fn method(
        &mut self,
        id: ConnectionId,
        number: u16,
        method: Method<'static>,
    ) -> Obeyed {
        let Some(connection) = self.connections.get_mut(&id).filter(|c| !c.closing) else {
            return Ok(());
        };
        let slot = connection.channels.get(&number);
        let (closing, open) = (matches!(slot, Some(None)), matches!(slot, Some(Some(_))));
        match method {
            Method::ConnectionClose(_) => {
                self.abandon(id, true)?;
                self.answer(id, 0, ConnectionCloseOk {});
            }
            Method::ChannelOpen(_) if closing => {}
            Method::ChannelOpen(_) if open => return Err(Trouble::Refused(504)),
            Method::ChannelOpen(_) => {
                connection.channels.insert(number, Some(Channel::default()));
                self.answer(id, number, ChannelOpenOk::default());
            }
            Method::ChannelClose(_) => {
                self.end_channel(id, number, true)?;
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.channels.remove(&number);
                }
                self.answer(id, number, ChannelCloseOk {});
            }
            Method::ChannelCloseOk(_) if closing => {
                connection.channels.remove(&number);
            }
            method if open => return self.channel_method(id, number, method),
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn channel_method(
        &mut self,
        id: ConnectionId,
        number: u16,
        method: Method<'static>,
    ) -> Obeyed {
        let Some(channel) = self.channel(id, number) else {
            return Ok(());
        };
        match method {
            Method::ChannelFlow(m) => {
                if !m.active {
                    return Err(Trouble::Refused(540));
                }
                self.answer(id, number, ChannelFlowOk { active: m.active });
            }
            Method::BasicQos(m) => {
                if m.prefetch_size != 0 {
                    return Err(Trouble::Refused(540));
                }
                if m.global {
                    channel.shared = m.prefetch_count.into();
                } else {
                    channel.prefetch = m.prefetch_count.into();
                }
                self.answer(id, number, BasicQosOk {});
            }
            Method::BasicConsume(m) => return self.consume(id, number, &m),
            Method::BasicCancel(m) => {
                let queue = self.end_consumer(id, number, &m.consumer_tag);
                if !m.no_wait {
                    let consumer_tag = m.consumer_tag.into_owned();
                    self.answer(id, number, BasicCancelOk { consumer_tag });
                }
                if let Some(queue) = queue {
                    self.count("cancels", 1);
                    self.consumer_left(&queue)?;
                }
            }
            Method::BasicGet(m) => return self.get(id, number, m),
            Method::BasicRecover(m) => {
                if !m.requeue {
                    return Err(Trouble::Refused(540));
                }
                self.count("recovers", 1);
                self.answer(id, number, BasicRecoverOk {});
                self.recover(id, number)?;
            }
            Method::BasicRecoverAsync(m) => {
                if !m.requeue {
                    return Err(Trouble::Refused(540));
                }
                self.recover(id, number)?;
            }
            Method::ConfirmSelect(m) => {
                match &channel.mode {
                    Mode::Plain => {
                        channel.mode = Mode::Confirm {
                            last: 0,
                            waiting: BTreeMap::new(),
                        };
                    }
                    Mode::Confirm { .. } => {}
                    Mode::Tx { .. } => return Err(Trouble::Refused(406)),
                }
                if !m.no_wait {
                    self.answer(id, number, ConfirmSelectOk {});
                }
            }
            Method::TxSelect(_) => {
                match &channel.mode {
                    Mode::Plain => {
                        channel.mode = Mode::Tx {
                            publishes: Vec::new(),
                            settles: Vec::new(),
                        };
                    }
                    Mode::Tx { .. } => {}
                    Mode::Confirm { .. } => return Err(Trouble::Refused(406)),
                }
                self.answer(id, number, TxSelectOk {});
            }
            Method::TxCommit(_) => return self.commit(id, number),
            Method::TxRollback(_) => {
                let Mode::Tx {
                    publishes, settles, ..
                } = &mut channel.mode
                else {
                    return Err(Trouble::Refused(406));
                };
                publishes.clear();
                let back = std::mem::take(settles);
                channel
                    .unacked
                    .extend(back.into_iter().flat_map(|(_, unacked)| unacked));
                self.count("rollbacks", 1);
                self.answer(id, number, TxRollbackOk {});
            }
            other => return self.declare_method(id, number, other),
        }
        Ok(())
    }
}

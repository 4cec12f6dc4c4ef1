//! Deliberate mistakes, to see that they are noticed.
//!
//! The core under test with a wrapper that, once or from then on, does something a broker must not do. A checker
//! that lets one of these pass would let a bug pass.

use std::collections::BTreeSet;

use leveret_codec::{ContentHeader, FieldTable, FieldValue, Method, Properties, RawTable};
use leveret_core::broker::Options;
use leveret_core::log::{Recovered, Swap};
use leveret_core::{
    Broker, Command, ConnectionId, Effects, Fact, Input, Message, Mono, Now, Outbound, Outcome,
};

use crate::dice::Dice;
use crate::letters::past_of_message;
use crate::log::Sends;
use crate::model::Checked;
use crate::rules::Rules;
use crate::violation;

/// A mistake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// A delivery is not sent.
    DropDelivery,
    /// A delivery is sent twice.
    DuplicateDelivery,
    /// Two deliveries of a connection change places.
    SwapDeliveries,
    /// A prefetch is one higher than was asked for.
    BeyondPrefetch,
    /// The redelivered flag is not set.
    ForgetRedelivered,
    /// The redelivered flag is set.
    InventRedelivered,
    /// A confirm is sent before the record is durable.
    EarlyConfirm,
    /// A confirm is not sent.
    DropConfirm,
    /// A confirm is sent twice.
    DuplicateConfirm,
    /// Another body is delivered.
    WrongBody,
    /// The properties get lost.
    WrongProperties,
    /// A confirm is sent before the return.
    LateReturn,
    /// A return is not sent.
    DropReturn,
    /// A requeued message is discarded.
    LoseRequeue,
    /// A discarded message is requeued.
    InventRequeue,
    /// A count is one too high.
    WrongCount,
    /// A commit is carried out as a rollback.
    HalfCommit,
    /// What was drained is not noticed.
    ForgetDrained,
    /// An ack is not noticed.
    ForgetAck,
    /// A record is not made.
    DropRecord,
    /// A transient message takes a path that leads nowhere.
    LosePublish,
    /// An answer is sent twice.
    DuplicateReply,
    /// The declaration of something durable is answered before its record is safe.
    EarlyAnswer,
    /// A command that should wait is carried out at once.
    EarlyCommand,
    /// A command that should wait gets lost.
    LoseWaiting,
    /// A consumer is told of its queue's end before the one who deleted it.
    EarlyCancel,
    /// A message that is asked back from the log does not come.
    LoseFetched,
    /// Messages have no priority.
    IgnorePriority,
    /// A message comes back twice, in the place of another.
    RepeatFetched,
    /// Two messages come back in each other's place.
    DisorderFetched,
    /// What could not be swapped out is taken for swapped out.
    LoseSwapped,
    /// The swap area is told to forget more than what came back.
    ForgetSwapped,
    /// Messages expire before their time.
    ExpireEarly,
    /// Nothing expires when it is due.
    NeverExpire,
    /// What is new is dropped in place of what is old.
    DropNewest,
    /// Of a death and its dead letter the log has the death alone.
    LoseLetter,
    /// Of a death and its dead letter the log has the letter alone.
    DoubleLetter,
    /// A dead letter is delivered before its record is safe.
    EarlyLetter,
    /// `x-death` counts one too many.
    WrongDeathCount,
    /// One failed delivery less is the end of a message.
    WrongDeliveryLimit,
    /// Nobody is told that a queue was full.
    DropNack,
}

impl Fault {
    /// Whether it is made from the first declaration of a queue on, and may show in many ways: in
    /// declarations that are not equal any more, or are.
    #[must_use]
    pub fn bends_rules(self) -> bool {
        matches!(self, Self::DropNewest | Self::WrongDeliveryLimit)
    }

    /// All of them.
    pub const ALL: [Self; 41] = [
        Self::DropDelivery,
        Self::DuplicateDelivery,
        Self::SwapDeliveries,
        Self::BeyondPrefetch,
        Self::ForgetRedelivered,
        Self::InventRedelivered,
        Self::EarlyConfirm,
        Self::DropConfirm,
        Self::DuplicateConfirm,
        Self::WrongBody,
        Self::WrongProperties,
        Self::LateReturn,
        Self::DropReturn,
        Self::LoseRequeue,
        Self::InventRequeue,
        Self::WrongCount,
        Self::HalfCommit,
        Self::ForgetDrained,
        Self::ForgetAck,
        Self::DropRecord,
        Self::LosePublish,
        Self::DuplicateReply,
        Self::EarlyAnswer,
        Self::EarlyCommand,
        Self::LoseWaiting,
        Self::EarlyCancel,
        Self::LoseFetched,
        Self::IgnorePriority,
        Self::RepeatFetched,
        Self::DisorderFetched,
        Self::LoseSwapped,
        Self::ForgetSwapped,
        Self::ExpireEarly,
        Self::NeverExpire,
        Self::DropNewest,
        Self::LoseLetter,
        Self::DoubleLetter,
        Self::EarlyLetter,
        Self::WrongDeathCount,
        Self::WrongDeliveryLimit,
        Self::DropNack,
    ];
}

impl Fault {
    /// Whether it is made again and again. Once may be no mistake: a prefetch that nobody uses up,
    /// a confirm that a later one includes.
    fn persists(self) -> bool {
        matches!(
            self,
            Self::BeyondPrefetch
                | Self::DropConfirm
                | Self::LoseRequeue
                | Self::InventRequeue
                | Self::HalfCommit
                | Self::ForgetDrained
                | Self::ForgetAck
                | Self::LosePublish
                | Self::IgnorePriority
                | Self::WrongProperties
                | Self::NeverExpire
                | Self::DropNack
                | Self::EarlyCommand
                | Self::LoseWaiting
                | Self::LoseSwapped
                | Self::ForgetSwapped
        )
    }
}

/// The core, possibly with a fault.
#[derive(Debug)]
pub struct Machine {
    /// The core itself.
    pub broker: Broker,
    /// What it has sent, recorded and so on in this turn.
    pub fx: Effects,
    fault: Option<Fault>,
    /// Opportunities to let pass before it happens.
    patience: u64,
    /// It has happened.
    pub happened: bool,
    /// Channels that are open, and those of them that wait to be answered a declaration.
    open: BTreeSet<(ConnectionId, u16)>,
    waiting: BTreeSet<(ConnectionId, u16)>,
    /// Queues that were ever declared with priorities.
    prioritized: BTreeSet<String>,
}

impl Machine {
    /// A core; the fault happens at one of the first opportunities.
    #[must_use]
    pub fn new(options: Options, fault: Option<Fault>, dice: &mut Dice) -> Self {
        Self {
            broker: Broker::new(options),
            fx: effects(),
            fault,
            patience: dice.between(0..=3),
            happened: false,
            open: BTreeSet::new(),
            waiting: BTreeSet::new(),
            prioritized: BTreeSet::new(),
        }
    }

    /// It starts anew with what the log has kept.
    ///
    /// # Errors
    /// If it does not want that.
    pub fn restart(&mut self, options: Options, recovered: Recovered, now: Now) -> Checked {
        self.broker = Broker::recover(options, recovered, now)
            .map_err(|error| violation!("the broker does not start: {error}"))?;
        self.fx = effects();
        self.open.clear();
        self.waiting.clear();
        Ok(())
    }

    /// One turn.
    pub fn handle(&mut self, now: Now, mut input: Input) -> Sends {
        let forgotten = self.fault.is_some() && self.tamper_with_input(&mut input);
        let declares = self.declares(&input);
        let metrics = self.broker.metrics();
        let before = (metrics.overflowed, metrics.queues_deleted);
        if self.fault == Some(Fault::ExpireEarly) && !self.happened {
            self.expire_early(now);
        }
        if !forgotten {
            self.broker.handle(now, input, &mut self.fx);
        }
        self.happened |= self.has_misjudged(before);
        let mut sends = Sends::new();
        self.fx.drain_sends(|id, batch| {
            sends.insert(id, batch.drain(..).collect());
        });
        if self.fault.is_some() {
            if let Some(declares) = declares {
                self.note_waiting(declares, &mut sends);
            }
            self.note_channels(&sends);
            self.tamper_with_output(now, &mut sends);
        }
        sends
    }

    /// What is due within the next minute expires now.
    fn expire_early(&mut self, now: Now) {
        let soon = |at: &Mono| (now.mono.0 + 1..now.mono.0 + 60_000).contains(&at.0);
        if let Some(mono) = self.broker.next_timer().filter(soon) {
            let early = Now { mono, ..now };
            self.broker.handle(early, Input::Tick, &mut self.fx);
        }
    }

    /// Whether what a fault has done to the rules of a queue, or to the clock, shows by now.
    fn has_misjudged(&self, (overflowed, deleted): (u64, u64)) -> bool {
        let died = |reason: &str| {
            let mut deaths = self.fx.deaths.iter().flatten();
            deaths.any(|died| died.reason == reason)
        };
        let metrics = self.broker.metrics();
        match self.fault {
            Some(Fault::ExpireEarly) => died("expired") || metrics.queues_deleted > deleted,
            Some(Fault::DropNewest) => metrics.overflowed > overflowed,
            Some(Fault::WrongDeliveryLimit) => died("delivery_limit"),
            _ => false,
        }
    }

    /// The channel on which an exchange is declared, if that is all there is to do.
    fn declares(&self, input: &Input) -> Option<(ConnectionId, u16)> {
        let Input::Commands(id, commands) = input else {
            return None;
        };
        let [Command::Method { channel, method }] = &commands[..] else {
            return None;
        };
        let Method::ExchangeDeclare(m) = &**method else {
            return None;
        };
        let open = self.open.contains(&(*id, *channel));
        (m.durable && !m.passive && !m.no_wait && open).then_some((*id, *channel))
    }

    /// A declaration that is not answered waits.
    fn note_waiting(&mut self, (id, number): (ConnectionId, u16), sends: &mut Sends) {
        if sends.contains_key(&id) {
            return;
        }
        self.waiting.insert((id, number));
        if self.fault == Some(Fault::EarlyAnswer) && self.strikes() {
            let ok = Outbound::Method {
                channel: number,
                method: Box::new(leveret_codec::ExchangeDeclareOk {}.into()),
            };
            sends.entry(id).or_default().push_back(ok);
        }
    }

    fn note_channels(&mut self, sends: &Sends) {
        for (&id, batch) in sends {
            for sent in batch {
                match sent {
                    Outbound::Method { channel, method } => match &**method {
                        Method::ChannelOpenOk(_) => {
                            self.open.insert((id, *channel));
                        }
                        Method::ExchangeDeclareOk(_) => {
                            self.waiting.remove(&(id, *channel));
                        }
                        Method::ChannelCloseOk(_) => {
                            self.open.remove(&(id, *channel));
                        }
                        _ => {}
                    },
                    Outbound::CloseChannel { channel, .. } => {
                        self.open.remove(&(id, *channel));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Another channel of the connection, which does not wait.
    fn elsewhere(&self, id: ConnectionId) -> Option<u16> {
        let mut open = self.open.iter().filter(|at| !self.waiting.contains(at));
        open.find(|(other, _)| *other == id)
            .map(|(_, number)| *number)
    }

    /// Whether it happens now.
    fn strikes(&mut self) -> bool {
        if self.happened {
            return self.fault.is_some_and(Fault::persists);
        }
        let now = self.patience == 0;
        self.patience = self.patience.saturating_sub(1);
        self.happened = now;
        now
    }

    /// Changes an input; true if it is not to be handled at all.
    fn tamper_with_input(&mut self, input: &mut Input) -> bool {
        match (self.fault, input) {
            (Some(Fault::ForgetDrained), Input::Drained(..))
            | (Some(Fault::NeverExpire), Input::Tick) => return self.strikes(),
            (Some(Fault::LoseFetched), Input::Fetched(fetched))
                if fetched.messages.len() > 1 && self.strikes() =>
            {
                fetched.messages.remove(0);
            }
            (Some(Fault::RepeatFetched), Input::Fetched(fetched)) => {
                if let [(_, first, _), (_, second, _), ..] = &mut fetched.messages[..]
                    && self.strikes()
                {
                    *second = first.clone();
                }
            }
            (Some(Fault::DisorderFetched), Input::Fetched(fetched)) => {
                if let [(_, first, _), (_, second, _), ..] = &mut fetched.messages[..]
                    && self.strikes()
                {
                    std::mem::swap(first, second);
                }
            }
            (Some(Fault::LoseSwapped), Input::Swapped(swapped))
                if swapped.error.is_some() && self.strikes() =>
            {
                swapped.error = None;
            }
            (Some(Fault::LoseWaiting), Input::Commands(id, commands)) => {
                let waits = |command: &Command| self.waiting.contains(&(*id, command.channel()));
                let publish = |command: &Command| matches!(command, Command::Publish { .. });
                let lost = commands.iter().any(|c| waits(c) && publish(c));
                if lost && self.strikes() {
                    let waiting = &self.waiting;
                    commands.retain(|c| !(waiting.contains(&(*id, c.channel())) && publish(c)));
                }
            }
            (Some(Fault::EarlyCommand), Input::Commands(id, commands)) => {
                let elsewhere = self.elsewhere(*id);
                for command in commands {
                    let waits = self.waiting.contains(&(*id, command.channel()));
                    if let (true, Some(elsewhere)) = (waits, elsewhere)
                        && let Command::Publish { channel, .. } = command
                        && self.strikes()
                    {
                        *channel = elsewhere;
                    }
                }
            }
            (Some(fault), Input::Commands(_, commands)) => {
                for command in commands {
                    bend_rules(fault, command);
                    self.note_priorities(command);
                    let fits = match (fault, &*command) {
                        (Fault::BeyondPrefetch, Command::Method { method, .. }) => {
                            matches!(&**method, Method::BasicQos(m) if m.prefetch_count > 0)
                        }
                        (Fault::LoseRequeue, Command::Settle { outcome, .. }) => {
                            *outcome == Outcome::Nack { requeue: true }
                        }
                        (Fault::InventRequeue, Command::Settle { outcome, .. }) => {
                            *outcome == Outcome::Nack { requeue: false }
                        }
                        (Fault::ForgetAck, Command::Settle { outcome, .. }) => {
                            *outcome == Outcome::Ack
                        }
                        (Fault::HalfCommit, Command::Method { method, .. }) => {
                            matches!(**method, Method::TxCommit(_))
                        }
                        (Fault::LosePublish, Command::Publish { message, .. }) => {
                            !message.is_persistent()
                        }
                        (Fault::IgnorePriority, Command::Publish { message, .. }) => {
                            message.priority() > 0
                                && message.exchange().is_empty()
                                && self.prioritized.contains(message.routing_key())
                        }
                        _ => false,
                    };
                    if fits && self.strikes() {
                        spoil(fault, command);
                    }
                }
            }
            _ => {}
        }
        false
    }

    /// Of a record that has a death and its letter only half is written.
    fn tear_letter(&mut self, fault: Fault) {
        let letters = |fact: &Fact| letter_in(fact);
        let at = self
            .fx
            .records
            .iter()
            .position(|r| letters(&r.fact).is_some());
        let Some(at) = at.filter(|_| self.strikes()) else {
            return;
        };
        let fact = &mut self.fx.records[at].fact;
        if let Some((death, letter)) = letter_in(fact)
            && let Fact::Together(facts) = fact
        {
            facts.remove(if fault == Fault::LoseLetter {
                letter
            } else {
                death
            });
        }
    }

    fn note_priorities(&mut self, command: &Command) {
        if let Command::Method { method, .. } = command
            && let Method::QueueDeclare(m) = &**method
            && let Some(max) = m.arguments.parse().get("x-max-priority")
            && max.as_i64() > Some(0)
        {
            self.prioritized.insert(m.queue.to_string());
        }
    }

    fn forget_swapped(&mut self) {
        let swaps = std::mem::take(&mut self.fx.swaps);
        for swap in swaps {
            let swap = match swap {
                Swap::Forget { queue, mut runs } if self.strikes() => {
                    for (_, last) in &mut runs {
                        last.0 = last.0.saturating_add(5);
                    }
                    Swap::Forget { queue, runs }
                }
                swap => swap,
            };
            self.fx.swaps.push(swap);
        }
    }

    fn tamper_with_output(&mut self, now: Now, sends: &mut Sends) {
        let Some(fault) = self.fault else { return };
        if fault == Fault::DropRecord && !self.fx.records.is_empty() && self.strikes() {
            self.fx.records.pop();
        }
        if fault == Fault::ForgetSwapped {
            self.forget_swapped();
        }
        if fault == Fault::LoseLetter || fault == Fault::DoubleLetter {
            self.tear_letter(fault);
        }
        let early = match fault {
            Fault::EarlyConfirm => true,
            Fault::EarlyLetter => {
                let mut records = self.fx.records.iter();
                records.any(|r| letter_in(&r.fact).is_some()) && self.strikes()
            }
            _ => false,
        };
        if early && let Some(last) = self.fx.records.last().map(|record| record.lsn) {
            self.broker.handle(now, Input::Durable(last), &mut self.fx);
            self.happened = true; // confirms and answers may come too early from here on
            self.fx.drain_sends(|id, batch| {
                sends.entry(id).or_default().extend(batch.drain(..));
            });
        }
        for batch in sends.values_mut() {
            if fault == Fault::HalfCommit && self.happened {
                pretend_commit(batch);
            }
            for at in 0..batch.len() {
                if at >= batch.len() {
                    break;
                }
                let fits = match (fault, &batch[at]) {
                    (Fault::DropDelivery | Fault::DuplicateDelivery, Outbound::Deliver { .. }) => {
                        true
                    }
                    (Fault::WrongBody, Outbound::Deliver { message, .. }) => {
                        !message.body().is_empty()
                    }
                    (Fault::WrongProperties, Outbound::Deliver { message, .. }) => {
                        message.property_flags() != 0
                    }
                    (Fault::SwapDeliveries, Outbound::Deliver { consumer, .. }) => {
                        matches!(batch.get(at + 1), Some(Outbound::Deliver { consumer: next, .. }) if next == consumer)
                    }
                    (Fault::ForgetRedelivered, Outbound::Deliver { redelivered, .. }) => {
                        *redelivered
                    }
                    (Fault::InventRedelivered, Outbound::Deliver { redelivered, .. }) => {
                        !*redelivered
                    }
                    (Fault::DropConfirm | Fault::DuplicateConfirm, Outbound::Confirm { .. }) => {
                        true
                    }
                    (Fault::LateReturn, Outbound::Return { .. }) => {
                        matches!(batch.back(), Some(Outbound::Confirm { .. }))
                    }
                    (Fault::DropReturn, Outbound::Return { .. }) => true,
                    (Fault::WrongDeathCount, Outbound::Deliver { message, .. }) => {
                        !past_of_message(message).is_empty()
                    }
                    (Fault::DropNack, Outbound::Method { method, .. }) => {
                        matches!(**method, Method::BasicNack(_))
                    }
                    (Fault::WrongCount, Outbound::Method { method, .. }) => {
                        matches!(
                            **method,
                            Method::QueueDeclareOk(_) | Method::QueuePurgeOk(_)
                        )
                    }
                    (Fault::DuplicateReply, Outbound::Method { .. }) => true,
                    (Fault::EarlyCancel, Outbound::Method { channel, method }) => {
                        matches!(**method, Method::QueueDeleteOk(_))
                            && batch.iter().skip(at).any(|next| is_cancel(next, *channel))
                    }
                    _ => false,
                };
                if fits && self.strikes() {
                    match fault {
                        Fault::DropDelivery
                        | Fault::DropConfirm
                        | Fault::DropReturn
                        | Fault::DropNack => {
                            batch.remove(at);
                        }
                        Fault::DuplicateDelivery
                        | Fault::DuplicateConfirm
                        | Fault::DuplicateReply => {
                            let again = batch[at].clone();
                            batch.insert(at, again);
                        }
                        Fault::EarlyCancel => {
                            let late = batch.remove(at);
                            batch.extend(late);
                        }
                        Fault::SwapDeliveries => swap_messages(batch, at),
                        Fault::LateReturn => {
                            let confirm = batch.pop_back();
                            batch.extend(confirm);
                            let late = batch.remove(at);
                            batch.extend(late);
                        }
                        _ => spoil_outbound(fault, &mut batch[at]),
                    }
                }
            }
        }
    }
}

/// Which facts of a record say that a message died and that its letter came to be.
fn letter_in(fact: &Fact) -> Option<(usize, usize)> {
    let Fact::Together(facts) = fact else {
        return None;
    };
    let letter = facts.iter().position(|fact| match fact {
        Fact::Published { message, .. } => !past_of_message(message).is_empty(),
        _ => false,
    })?;
    let death = letter.checked_sub(1)?;
    matches!(facts[death], Fact::Settled { .. }).then_some((death, letter))
}

/// Other rules for a queue than were asked for.
fn bend_rules(fault: Fault, command: &mut Command) {
    if let Command::Method { method, .. } = command
        && let Method::QueueDeclare(declare) = &mut **method
    {
        let mut arguments = declare.arguments.parse();
        let mut rules = Rules::of(&arguments);
        match fault {
            Fault::DropNewest if rules != Rules::default() && !rules.refuses() => {
                rules.overflow = Some("reject-publish".to_owned());
            }
            Fault::WrongDeliveryLimit => {
                rules.delivery_limit = rules.delivery_limit.map(|n| if n > 0 { n - 1 } else { n });
            }
            _ => return,
        }
        rules.write(&mut arguments);
        declare.arguments = RawTable::from_table(&arguments);
    }
}

fn count_once_more(message: &Message) -> Message {
    let mut properties = message.properties();
    if let Some(headers) = &mut properties.headers
        && let Some(FieldValue::Array(mut deaths)) = headers.get("x-death").cloned()
    {
        if let Some(FieldValue::Table(last)) = deaths.first_mut() {
            let count = last.get("count").and_then(FieldValue::as_i64);
            last.insert("count", FieldValue::I64(count.unwrap_or_default() + 1));
        }
        headers.insert("x-death", FieldValue::Array(deaths));
    }
    message.with_properties(&properties)
}

fn effects() -> Effects {
    let mut fx = Effects::new();
    fx.deaths = Some(Vec::new());
    fx
}

fn is_cancel(sent: &Outbound, number: u16) -> bool {
    match sent {
        Outbound::Method { channel, method } => {
            *channel == number && matches!(**method, Method::BasicCancel(_))
        }
        _ => false,
    }
}

fn spoil(fault: Fault, command: &mut Command) {
    match command {
        Command::Method { method, .. } => match &mut **method {
            Method::BasicQos(qos) => qos.prefetch_count += 1,
            commit if fault == Fault::HalfCommit => {
                *commit = Method::TxRollback(leveret_codec::TxRollback {});
            }
            _ => {}
        },
        Command::Settle {
            outcome,
            delivery_tag,
            multiple,
            ..
        } => match fault {
            Fault::LoseRequeue => *outcome = Outcome::Nack { requeue: false },
            Fault::InventRequeue => *outcome = Outcome::Nack { requeue: true },
            _ => (*delivery_tag, *multiple) = (0, true),
        },
        Command::Publish { message, .. } if fault == Fault::IgnorePriority => {
            *message = build(message, message.routing_key(), message.body(), true, 0);
        }
        Command::Publish {
            message, mandatory, ..
        } => {
            *mandatory = false;
            *message = rebuild(message, "nowhere.at.all", message.body(), true);
        }
        Command::Refuse { .. } => {}
    }
}

fn spoil_outbound(fault: Fault, outbound: &mut Outbound) {
    match outbound {
        Outbound::Deliver {
            redelivered,
            message,
            ..
        } => match fault {
            Fault::WrongBody => {
                let mut body = message.body().to_vec();
                if let Some(last) = body.last_mut() {
                    *last ^= 1;
                }
                *message = rebuild(message, message.routing_key(), &body, true);
            }
            Fault::WrongProperties => {
                *message = rebuild(message, message.routing_key(), message.body(), false);
            }
            Fault::WrongDeathCount => *message = count_once_more(message),
            _ => *redelivered = !*redelivered,
        },
        Outbound::Method { method, .. } => match &mut **method {
            Method::QueueDeclareOk(ok) => ok.message_count += 1,
            Method::QueuePurgeOk(ok) => ok.message_count += 1,
            _ => {}
        },
        _ => {}
    }
}

fn pretend_commit(batch: &mut std::collections::VecDeque<Outbound>) {
    for outbound in batch {
        if let Outbound::Method { method, .. } = outbound
            && matches!(**method, Method::TxRollbackOk(_))
        {
            **method = Method::TxCommitOk(leveret_codec::TxCommitOk {});
        }
    }
}

/// The messages change places, everything else about the two deliveries stays.
fn swap_messages(batch: &mut std::collections::VecDeque<Outbound>, at: usize) {
    let (a, b) = (batch[at].clone(), batch[at + 1].clone());
    if let (Outbound::Deliver { message: a, .. }, Outbound::Deliver { message: b, .. }) = (a, b) {
        for (at, new) in [(at, b), (at + 1, a)] {
            if let Some(Outbound::Deliver { message, .. }) = batch.get_mut(at) {
                *message = new;
            }
        }
    }
}

fn rebuild(message: &Message, key: &str, body: &[u8], with_properties: bool) -> Message {
    build(message, key, body, with_properties, message.priority())
}

fn build(
    message: &Message,
    key: &str,
    body: &[u8],
    with_properties: bool,
    priority: u8,
) -> Message {
    let properties = message.properties();
    let properties = if with_properties {
        properties
    } else {
        Properties {
            headers: Some(FieldTable::default()),
            ..Default::default()
        }
    };
    put_together(message.exchange(), key, &properties, body, priority)
}

fn put_together(
    exchange: &str,
    key: &str,
    properties: &Properties,
    body: &[u8],
    priority: u8,
) -> Message {
    let mut raw = Vec::new();
    let flags = properties.encode(&mut raw);
    let header = ContentHeader {
        class_id: leveret_codec::CLASS_BASIC,
        body_size: body.len() as u64,
        flags,
        raw: &raw,
        summary: leveret_codec::PropertySummary {
            delivery_mode: properties.delivery_mode.unwrap_or_default(),
            priority,
        },
    };
    Message::build(&mut Vec::new(), exchange, key, &header, body)
}

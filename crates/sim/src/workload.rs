//! What the clients of a run do: the choices of each moment.

use std::collections::btree_map::Entry;

use bytes::Bytes;
use leveret_codec::{
    BasicAck, BasicCancel, BasicConsume, BasicGet, BasicNack, BasicPublish, BasicQos, BasicRecover,
    BasicRecoverAsync, BasicReject, ChannelClose, ChannelFlow, ChannelOpen, ConfirmSelect,
    ConnectionClose, ExchangeBind, ExchangeDeclare, ExchangeDelete, ExchangeUnbind, FieldTable,
    FieldValue, Properties, QueueBind, QueueDeclare, QueueDelete, QueuePurge, QueueUnbind,
    RawTable, ShortStr, TxCommit, TxRollback, TxSelect,
};

use crate::client::{Channel, Client, Mode, Phase, Sent};
use crate::dice::Dice;
use crate::history::{Event, History};
use crate::letters::Past;
use crate::model::{Published, Said};
use crate::plan::{Plan, TIMES_MS};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    Publish,
    Ack,
    Nack,
    Consume,
    Get,
    Recover,
    Cancel,
    Qos,
    Commit,
    Rollback,
    Purge,
    DeclareQueue,
    DeleteQueue,
    Bind,
    Unbind,
    DeclareExchange,
    DeleteExchange,
    Flow,
    OpenChannel,
    CloseChannel,
    Select,
    ChannelError,
    ConnectionError,
    CloseConnection,
    Oversize,
    Heartbeat,
}

/// THE TABLE of actions and how often they happen in an average run.
pub(crate) const ACTIONS: [(Action, u64); 26] = [
    (Action::Publish, 600),
    (Action::Ack, 1_200),
    (Action::Nack, 200),
    (Action::Consume, 250),
    (Action::Get, 80),
    (Action::Recover, 15),
    (Action::Cancel, 40),
    (Action::Qos, 50),
    (Action::Commit, 120),
    (Action::Rollback, 20),
    (Action::Purge, 10),
    (Action::DeclareQueue, 60),
    (Action::DeleteQueue, 10),
    (Action::Bind, 60),
    (Action::Unbind, 15),
    (Action::DeclareExchange, 25),
    (Action::DeleteExchange, 8),
    (Action::Flow, 5),
    (Action::OpenChannel, 80),
    (Action::CloseChannel, 15),
    (Action::Select, 80),
    (Action::ChannelError, 10),
    (Action::ConnectionError, 2),
    (Action::CloseConnection, 4),
    (Action::Oversize, 6),
    (Action::Heartbeat, 10),
];

const WORDS: [&str; 5] = ["a", "b", "c", "*", "#"];

/// What a client needs to act.
#[derive(Debug)]
pub struct World<'a> {
    /// The choices of this step.
    pub dice: &'a mut Dice,
    /// The plan.
    pub plan: &'a Plan,
    /// Every message so far.
    pub published: &'a mut Vec<Published>,
    /// What clients have done so far.
    pub history: &'a mut History,
    /// The last number given to a channel.
    pub channels: &'a mut u64,
}

impl Client {
    /// Does something, if it is in a position to.
    pub fn act(&mut self, world: &mut World<'_>) {
        if self.phase != Phase::Open {
            return;
        }
        if self.channels.is_empty() {
            self.begin(world);
            return;
        }
        let at = world.dice.weighted(world.plan.weights.iter().copied());
        let (action, _) = ACTIONS[at];
        match action {
            Action::OpenChannel => self.open_channel(world),
            Action::CloseConnection => self.close_connection(),
            Action::ConnectionError => self.connection_error(world),
            Action::Heartbeat => self.say_heartbeat(),
            action => {
                let open = self.channels.iter().filter(|(_, channel)| {
                    let fits = match action {
                        Action::Ack | Action::Nack => !channel.unsettled.is_empty(),
                        Action::Commit | Action::Rollback => channel.mode == Mode::Tx,
                        Action::Cancel => !channel.consuming.is_empty(),
                        _ => true,
                    };
                    fits && !channel.closing
                });
                let open: Vec<u16> = open.map(|(&number, _)| number).collect();
                if let Some(&number) = world.dice.pick(&open) {
                    self.act_on_channel(number, action, world);
                }
            }
        }
    }

    /// Closes the connection in order.
    pub fn close_connection(&mut self) {
        self.phase = Phase::Leaving;
        let close = ConnectionClose {
            reply_code: 200,
            ..ConnectionClose::default()
        };
        self.say(0, close);
    }

    /// Fetches everything that is left in some queues.
    pub fn harvest(&mut self, queues: &[(String, usize)], world: &mut World<'_>) {
        let number = 1;
        if let Entry::Vacant(channel) = self.channels.entry(number) {
            *world.channels += 1;
            channel.insert(Channel {
                id: *world.channels,
                ..Channel::default()
            });
            self.say(number, ChannelOpen::default());
        }
        for (queue, ready) in queues {
            for _ in 0..=*ready {
                self.get(number, queue, true);
            }
        }
    }

    /// The first channel: declares what the plan says.
    fn begin(&mut self, world: &mut World<'_>) {
        self.open_channel(world);
        let Some((&number, _)) = self.channels.iter().next() else {
            return;
        };
        for at in 0..world.plan.exchanges.len() {
            self.declare_exchange(number, at, world);
        }
        self.declare_all(number, world);
        for _ in 0..world.dice.below(5) {
            self.bind(number, world);
        }
    }

    fn declare_all(&mut self, number: u16, world: &mut World<'_>) {
        for at in 0..world.plan.queues.len() {
            if !world.plan.queues[at].exclusive || world.dice.chance(30) {
                self.declare_queue(number, at, world);
            }
        }
    }

    fn open_channel(&mut self, world: &mut World<'_>) {
        let number = world.dice.one_of(&[1, 1, 2, 3, 9]);
        if self.channels.contains_key(&number) {
            return;
        }
        *world.channels += 1;
        let channel = Channel {
            id: *world.channels,
            ..Channel::default()
        };
        self.channels.insert(number, channel);
        self.say(number, ChannelOpen::default());
        if world.dice.chance(50) {
            self.select(number, world);
        }
        if world.dice.chance(40) {
            self.declare_all(number, world);
        }
        if world.dice.chance(50) {
            self.qos(number, world);
        }
    }

    fn act_on_channel(&mut self, number: u16, action: Action, world: &mut World<'_>) {
        match action {
            Action::Publish => {
                for _ in 0..world.dice.between(1..=6) {
                    self.publish(number, false, world);
                }
            }
            Action::Oversize => self.publish(number, true, world),
            Action::Ack | Action::Nack => self.settle(number, action, world),
            Action::Consume => self.consume(number, world),
            Action::Get => {
                let queue = self.some_queue(number, world);
                let no_ack = world.dice.chance(30);
                self.get(number, &queue, no_ack);
            }
            Action::Recover => {
                let sync = world.dice.chance(70);
                if let Some(channel) = self.channels.get_mut(&number) {
                    channel.unsettled.clear();
                    channel.recovering += u32::from(sync);
                }
                if sync {
                    self.say(number, BasicRecover { requeue: true });
                } else {
                    self.say(number, BasicRecoverAsync { requeue: true });
                }
            }
            Action::Cancel => self.cancel(number, world),
            Action::Qos => self.qos(number, world),
            Action::Commit | Action::Rollback => self.end_transaction(number, action),
            Action::Purge => {
                let queue = short(&self.some_queue(number, world));
                let no_wait = world.dice.chance(20);
                self.say(
                    number,
                    QueuePurge {
                        queue,
                        no_wait,
                        ..QueuePurge::default()
                    },
                );
            }
            Action::DeclareQueue => {
                let at = world.dice.below(world.plan.queues.len());
                if world.dice.chance(20) {
                    self.declare_generated(number, world);
                } else {
                    self.declare_queue(number, at, world);
                }
            }
            Action::DeleteQueue => {
                let delete = QueueDelete {
                    queue: short(&self.some_queue(number, world)),
                    if_unused: world.dice.chance(20),
                    if_empty: world.dice.chance(20),
                    no_wait: world.dice.chance(20),
                    ..QueueDelete::default()
                };
                self.say(number, delete);
            }
            Action::Bind => self.bind(number, world),
            Action::Unbind => self.unbind(number, world),
            Action::DeclareExchange if !world.plan.exchanges.is_empty() => {
                let at = world.dice.below(world.plan.exchanges.len());
                self.declare_exchange(number, at, world);
            }
            Action::DeleteExchange if !world.plan.exchanges.is_empty() => {
                let at = world.dice.below(world.plan.exchanges.len());
                let delete = ExchangeDelete {
                    exchange: short(&world.plan.exchanges[at].name),
                    if_unused: world.dice.chance(30),
                    no_wait: world.dice.chance(20),
                    ..ExchangeDelete::default()
                };
                self.say(number, delete);
            }
            Action::Flow => self.say(number, ChannelFlow { active: true }),
            Action::CloseChannel => {
                if let Some(channel) = self.channels.get_mut(&number) {
                    channel.closing = true;
                    let close = ChannelClose {
                        reply_code: 200,
                        ..ChannelClose::default()
                    };
                    self.say(number, close);
                }
            }
            Action::Select => self.select(number, world),
            Action::ChannelError => self.channel_error(number, world),
            _ => {}
        }
    }

    /// A queue of the plan, one with a generated name, or the last one declared.
    fn some_queue(&self, number: u16, world: &mut World<'_>) -> String {
        let generated = self
            .channels
            .get(&number)
            .map(|channel| channel.queues.as_slice());
        let generated = world.dice.pick(generated.unwrap_or_default());
        match generated {
            Some(name) if world.dice.chance(25) => name.clone(),
            _ if world.dice.chance(3) => String::new(),
            _ => world.plan.queue(world.dice).name.clone(),
        }
    }

    // ---- messages ----

    fn publish(&mut self, number: u16, oversize: bool, world: &mut World<'_>) {
        let id = world.published.len() as u64;
        let mut published = message(id, world);
        if oversize {
            published.body_len = world.plan.message_size_max + 1;
        } else if world.dice.chance(40) {
            let queue = self.some_queue(number, world);
            published.exchange = String::new();
            published.keys[0] = queue;
        }
        let publish = BasicPublish {
            exchange: short(&published.exchange),
            routing_key: short(&published.keys[0]),
            mandatory: world.dice.chance(30),
            ..BasicPublish::default()
        };
        let said = Said::Publish {
            channel: number,
            id,
            mandatory: publish.mandatory,
        };
        let sent = if oversize {
            Sent::Oversize(number)
        } else {
            Sent::Said(said)
        };
        self.say_message(world.dice, number, &publish.into(), (id, &published), sent);
        let priority = published.priority;
        world.published.push(published);
        if let Some(channel) = self.channels.get_mut(&number) {
            let in_confirm_mode = channel.mode == Mode::Confirm;
            channel.published += u64::from(in_confirm_mode);
            let confirm = in_confirm_mode.then_some(channel.published);
            world.history.note(Event::Published {
                channel: channel.id,
                id,
                priority,
                number: confirm,
            });
        }
    }

    fn settle(&mut self, number: u16, action: Action, world: &mut World<'_>) {
        let Some(channel) = self.channels.get_mut(&number) else {
            return;
        };
        let Some(&tag) = world.dice.pick(&channel.unsettled) else {
            return;
        };
        // Nearly always the oldest or a young one, as programs do.
        let tag = if world.dice.chance(50) {
            channel.unsettled[0]
        } else {
            tag
        };
        let multiple = world.dice.chance(25);
        let settled = |&t: &u64| if multiple { t <= tag } else { t == tag };
        let (gone, kept): (Vec<u64>, Vec<u64>) = channel.unsettled.iter().partition(|t| settled(t));
        let all = kept.is_empty() && world.dice.chance(20);
        channel.unsettled = kept;
        if channel.mode == Mode::Tx {
            channel.in_tx.extend(gone);
        }
        let (delivery_tag, multiple) = if all { (0, true) } else { (tag, multiple) };
        let requeue = world.dice.chance(70);
        match action {
            Action::Ack => {
                let ack = BasicAck {
                    delivery_tag,
                    multiple,
                };
                self.say(number, ack);
            }
            _ if !multiple && world.dice.chance(40) => {
                self.say(
                    number,
                    BasicReject {
                        delivery_tag,
                        requeue,
                    },
                );
            }
            _ => {
                let nack = BasicNack {
                    delivery_tag,
                    multiple,
                    requeue,
                };
                self.say(number, nack);
            }
        }
    }

    fn get(&mut self, number: u16, queue: &str, no_ack: bool) {
        if let Some(channel) = self.channels.get_mut(&number) {
            channel.getting.push_back((queue.to_owned(), no_ack));
        }
        let get = BasicGet {
            queue: short(queue),
            no_ack,
            ..BasicGet::default()
        };
        self.say(number, get);
    }

    fn consume(&mut self, number: u16, world: &mut World<'_>) {
        let queue = self.some_queue(number, world);
        let no_ack = world.dice.chance(30);
        let Some(channel) = self.channels.get_mut(&number) else {
            return;
        };
        if channel.consuming.len() > 4 {
            return;
        }
        let named = world.dice.chance(80);
        let mut tag = format!("c{}", channel.consumers.len());
        let mut known = queue.clone();
        if world.dice.chance(1)
            && let Some(used) = channel.consuming.first()
        {
            // Refused, unless it ended and nobody told; then there is no telling one from the other.
            tag.clone_from(used);
            known.clear();
        }
        let mut arguments = FieldTable::default();
        if world.dice.chance(20) {
            let priority = world.dice.between(0..=4) as i32 - 2;
            arguments.insert("x-priority", FieldValue::I32(priority));
        }
        if named {
            channel.consuming.insert(tag.clone());
            channel.consumers.insert(tag.clone(), (known, no_ack));
        } else {
            channel.starting.push_back((queue.clone(), no_ack));
        }
        let consume = BasicConsume {
            queue: short(&queue),
            consumer_tag: short(if named { &tag } else { "" }),
            no_ack,
            exclusive: world.dice.chance(3),
            no_wait: named && world.dice.chance(20),
            arguments: RawTable::from_table(&arguments),
            ..BasicConsume::default()
        };
        self.say(number, consume);
    }

    fn cancel(&mut self, number: u16, world: &mut World<'_>) {
        let Some(channel) = self.channels.get_mut(&number) else {
            return;
        };
        let tags: Vec<String> = channel.consuming.iter().cloned().collect();
        if let Some(tag) = world.dice.pick(&tags) {
            channel.consuming.remove(tag);
            let cancel = BasicCancel {
                consumer_tag: short(tag),
                no_wait: world.dice.chance(20),
            };
            self.say(number, cancel);
        }
    }

    fn qos(&mut self, number: u16, world: &mut World<'_>) {
        let qos = BasicQos {
            prefetch_size: 0,
            prefetch_count: world.dice.one_of(&[0, 1, 1, 2, 3, 10]),
            global: world.dice.chance(35),
        };
        self.say(number, qos);
    }

    fn select(&mut self, number: u16, world: &mut World<'_>) {
        let Some(channel) = self.channels.get_mut(&number) else {
            return;
        };
        // The other mode is refused; see `channel_error`.
        let tx = match channel.mode {
            Mode::Plain => world.dice.chance(40),
            mode => mode == Mode::Tx,
        };
        if tx {
            channel.mode = Mode::Tx;
            self.say(number, TxSelect {});
        } else {
            channel.mode = Mode::Confirm;
            let no_wait = world.dice.chance(30);
            self.say(number, ConfirmSelect { no_wait });
        }
    }

    fn end_transaction(&mut self, number: u16, action: Action) {
        let Some(channel) = self.channels.get_mut(&number) else {
            return;
        };
        if channel.mode != Mode::Tx {
            return;
        }
        let settled = std::mem::take(&mut channel.in_tx);
        if matches!(action, Action::Commit) {
            self.say(number, TxCommit {});
        } else {
            channel.unsettled.extend(settled);
            channel.unsettled.sort_unstable();
            self.say(number, TxRollback {});
        }
    }

    // ---- queues and exchanges ----

    fn declare_queue(&mut self, number: u16, at: usize, world: &mut World<'_>) {
        let plan = &world.plan.queues[at];
        let mut arguments = FieldTable::default();
        if let Some(ms) = plan.expires {
            arguments.insert("x-expires", FieldValue::I64(ms as i64));
        }
        // Now and then not as it was.
        let more = u8::from(world.dice.chance(1));
        if let Some(max) = plan.priority_max {
            arguments.insert("x-max-priority", FieldValue::U8(max.saturating_sub(more)));
        }
        let mut rules = plan.rules.clone();
        if world.dice.chance(1) {
            rules.length_max = rules.length_max.map(|max| max + 1);
        }
        rules.write(&mut arguments);
        let declare = QueueDeclare {
            queue: short(&plan.name),
            passive: world.dice.chance(4),
            // Now and then not as it was.
            durable: plan.durable ^ world.dice.chance(1),
            exclusive: plan.exclusive ^ world.dice.chance(1),
            auto_delete: plan.auto_delete,
            no_wait: world.dice.chance(15),
            arguments: RawTable::from_table(&arguments),
            ..QueueDeclare::default()
        };
        self.say(number, declare);
    }

    fn declare_generated(&mut self, number: u16, world: &mut World<'_>) {
        let declare = QueueDeclare {
            durable: world.dice.chance(30),
            exclusive: world.dice.chance(60),
            auto_delete: world.dice.chance(40),
            ..QueueDeclare::default()
        };
        self.say(number, declare);
    }

    fn declare_exchange(&mut self, number: u16, at: usize, world: &mut World<'_>) {
        let plan = &world.plan.exchanges[at];
        let mut arguments = FieldTable::default();
        if let Some(alternate) = &plan.alternate {
            arguments.insert("alternate-exchange", text(alternate));
        }
        let declare = ExchangeDeclare {
            exchange: short(&plan.name),
            kind: short(plan.kind),
            passive: world.dice.chance(5),
            durable: plan.durable ^ world.dice.chance(1),
            auto_delete: plan.auto_delete,
            internal: plan.internal,
            no_wait: world.dice.chance(15),
            arguments: RawTable::from_table(&arguments),
            ..ExchangeDeclare::default()
        };
        self.say(number, declare);
    }

    fn bind(&mut self, number: u16, world: &mut World<'_>) {
        let source = short(&world.plan.exchange(world.dice));
        let routing_key = short(&key(world, &WORDS));
        let arguments = binding_arguments(world.dice);
        let no_wait = world.dice.chance(15);
        if world.dice.chance(25) {
            let bind = ExchangeBind {
                destination: short(&world.plan.exchange(world.dice)),
                source,
                routing_key,
                no_wait,
                arguments,
                ..ExchangeBind::default()
            };
            self.say(number, bind);
        } else {
            let bind = QueueBind {
                queue: short(&self.some_queue(number, world)),
                exchange: source,
                routing_key,
                no_wait,
                arguments,
                ..QueueBind::default()
            };
            self.say(number, bind);
        }
    }

    fn unbind(&mut self, number: u16, world: &mut World<'_>) {
        let source = short(&world.plan.exchange(world.dice));
        let routing_key = short(&key(world, &WORDS));
        let arguments = binding_arguments(world.dice);
        if world.dice.chance(25) {
            let unbind = ExchangeUnbind {
                destination: short(&world.plan.exchange(world.dice)),
                source,
                routing_key,
                arguments,
                ..ExchangeUnbind::default()
            };
            self.say(number, unbind);
        } else {
            let unbind = QueueUnbind {
                queue: short(&self.some_queue(number, world)),
                exchange: source,
                routing_key,
                arguments,
                ..QueueUnbind::default()
            };
            self.say(number, unbind);
        }
    }
}

/// A message for one of the exchanges.
fn message(id: u64, world: &mut World<'_>) -> Published {
    let dice = &mut *world.dice;
    let body_len = match dice.below(20) {
        0 => dice.below(8),
        1 if world.plan.large => dice.between(3_000..=world.plan.body_max() as u64) as usize,
        2..=5 => dice.between(8..=1_000) as usize,
        _ => dice.between(8..=40) as usize,
    };
    let persistent = dice.chance(world.plan.persistent);
    let mut properties = Properties::default();
    if persistent || dice.chance(20) {
        properties.delivery_mode = Some(if persistent { 2 } else { 1 });
    }
    if body_len < 8 || dice.chance(10) {
        properties.message_id = Some(Bytes::from(id.to_string()));
    }
    if dice.chance(10) {
        properties.content_type = Some(Bytes::from_static(b"text/plain"));
        properties.timestamp = Some(dice.any());
    }
    if dice.chance(40) {
        properties.priority = Some(dice.one_of(&[0, 1, 2, 3, 5, 7, 255]));
    }
    let (mut refused, mut expiration_ms) = (None, None);
    if dice.chance(world.plan.expirations) {
        let ms = dice.one_of(&TIMES_MS);
        expiration_ms = Some(ms);
        properties.expiration = Some(Bytes::from(ms.to_string()));
    } else if dice.chance(2) {
        let good = dice.chance(90);
        let ms = 315_360_000_000;
        let expiration = if good { ms.to_string() } else { "soon".into() };
        expiration_ms = good.then_some(ms);
        properties.expiration = Some(Bytes::from(expiration));
        refused = (!good).then_some(406);
    } else if dice.chance(1) {
        let good = dice.chance(90);
        properties.user_id = Some(Bytes::from_static(if good { b"guest" } else { b"eve" }));
        refused = (!good).then_some(406);
    }
    let mut keys = vec![key(world, &WORDS[..3])];
    let mut with_bcc = None;
    if world.dice.chance(30) {
        let mut headers = FieldTable::default();
        for name in ["h1", "h2", "x-h3"] {
            if world.dice.chance(50) {
                headers.insert(name, FieldValue::I32(world.dice.below(2) as i32));
            }
        }
        if world.dice.chance(3) {
            // Nobody believes it.
            let mut death = FieldTable::default();
            death.insert("queue", world.plan.queue(world.dice).name.as_str());
            death.insert("reason", "expired");
            death.insert("count", 7);
            headers.insert("x-death", FieldValue::Array(vec![FieldValue::Table(death)]));
        }
        if world.dice.chance(10) {
            let cc = key(world, &WORDS[..3]);
            headers.insert("CC", FieldValue::Array(vec![text(&cc)]));
            keys.push(cc);
        }
        if world.dice.chance(10) {
            let bcc = world.plan.queue(world.dice).name.clone();
            let mut hidden = headers.clone();
            hidden.insert("BCC", FieldValue::Array(vec![text(&bcc)]));
            with_bcc = Some(hidden);
            keys.push(bcc);
        }
        properties.headers = Some(headers);
    }
    let mut raw = Vec::new();
    let flags = properties.encode(&mut raw);
    let headers = properties.headers.clone().unwrap_or_default();
    let sent = match with_bcc {
        None => (flags, raw.clone()),
        Some(hidden) => {
            properties.headers = Some(hidden);
            let mut raw = Vec::new();
            (properties.encode(&mut raw), raw)
        }
    };
    Published {
        exchange: world.plan.exchange(world.dice),
        keys,
        sent,
        flags,
        raw,
        headers,
        body_len,
        persistent,
        priority: properties.priority.unwrap_or_default(),
        expiration_ms,
        past: Past::default(),
        refused,
    }
}

/// A queue's name, or up to three of the words.
fn key(world: &mut World<'_>, words: &[&str]) -> String {
    if world.dice.chance(40) {
        return world.plan.queue(world.dice).name.clone();
    }
    let count = world.dice.below(4);
    let words: Vec<&str> = (0..count).map(|_| world.dice.one_of(words)).collect();
    words.join(".")
}

fn binding_arguments(dice: &mut Dice) -> RawTable<'static> {
    let mut table = FieldTable::default();
    if dice.chance(60) {
        return RawTable::default();
    }
    if dice.chance(70) {
        let mode = dice.one_of(&["all", "any", "all-with-x", "any-with-x"]);
        table.insert("x-match", text(mode));
    } else if dice.chance(5) {
        table.insert("x-match", text("some"));
    }
    for name in ["h1", "h2", "x-h3"] {
        let value = match dice.below(4) {
            0 => FieldValue::I64(dice.below(2) as i64),
            1 => FieldValue::Void,
            _ => continue,
        };
        table.insert(name, value);
    }
    RawTable::from_table(&table)
}

fn text(text: &str) -> FieldValue {
    FieldValue::LongString(Bytes::copy_from_slice(text.as_bytes()))
}

pub(crate) fn short(text: &str) -> ShortStr<'static> {
    ShortStr::truncated(text.to_owned())
}

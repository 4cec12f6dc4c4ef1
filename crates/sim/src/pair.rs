//! The core and the model side by side: whatever happens to one happens to the other.
//!
//! [`crate::sim`] puts connections around it; a test that knows what it wants to happen talks to it
//! without them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use leveret_codec::{
    BasicConsume, ChannelOpen, FieldTable, Method, Properties, PropertySummary, QueueDeclare,
    RawTable, ShortStr,
};
use leveret_core::broker::Options;
use leveret_core::ids::QueueId;
use leveret_core::log::{Fetch, Fetched, LogError};
use leveret_core::{
    Capabilities, Command, ConnectionId, Input, Limits, Lsn, Message, Now, Outbound, Outcome, Peer,
    Permissions,
};

use crate::dice::Dice;
use crate::fault::{Fault, Machine};
use crate::invariants;
use crate::letters::Past;
use crate::log::{Log, Sends};
use crate::model::{Checked, Event, Model, Published, Queue, Said, Violation, body, identify};
use crate::rules::Rules;
use crate::swap::{self, Area};
use crate::violation;

/// Both of them, and the log between them.
#[derive(Debug)]
pub struct Pair {
    /// The core.
    pub machine: Machine,
    /// The model.
    pub model: Model,
    /// What the core has recorded.
    pub log: Log,
    /// Messages that the core has asked back.
    pub fetches: Vec<Fetch>,
    /// How often in a row they failed.
    failed: BTreeMap<QueueId, u32>,
    /// Where messages go that are not in the log.
    pub area: Area,
    /// Names of the queues before the turn.
    names: BTreeMap<QueueId, Arc<str>>,
    /// Connections that are not to be read.
    unread: BTreeSet<ConnectionId>,
    options: Options,
}

/// What a turn brought about.
#[derive(Debug)]
pub struct Turn {
    /// What is to be written to connections.
    pub sends: Sends,
    /// Connections that are not to be read for now, or again.
    pub reading: Vec<(ConnectionId, bool)>,
}

impl Pair {
    /// An empty broker with these bounds for outboxes and bodies.
    #[must_use]
    pub fn new(
        seed: u64,
        outbox_max: usize,
        (queue_memory_max, swap_bytes_max): (usize, usize),
        body_max: usize,
        fault: Option<Fault>,
        dice: &mut Dice,
    ) -> Self {
        let options = Options {
            vhost: Arc::from("/"),
            seed: [seed as u8; 32],
            limits: Limits {
                outbox_bytes_max: outbox_max,
                queue_memory_max,
                swap_bytes_max,
                ..Limits::default()
            },
        };
        let mut model = Model::new(outbox_max, body_max);
        model.swaps = swap_bytes_max > 0;
        Self {
            machine: Machine::new(options.clone(), fault, dice),
            model,
            log: Log::default(),
            fetches: Vec::new(),
            failed: BTreeMap::new(),
            area: Area::default(),
            names: BTreeMap::new(),
            unread: BTreeSet::new(),
            options,
        }
    }

    /// One input: what the core does about it is judged, and printed if `trace` says so.
    ///
    /// # Errors
    /// If it was wrong.
    pub fn turn(
        &mut self,
        now: Now,
        input: Input,
        event: Event,
        trace: bool,
    ) -> Result<Turn, Violation> {
        let sends = self.machine.handle(now, input);
        if trace {
            for (id, sent) in &sends {
                sent.iter()
                    .for_each(|sent| println!("    -> {id:?} {}{sent:?}", number(sent)));
            }
        }
        let fx = &mut self.machine.fx;
        fx.garbage.clear();
        self.model.created.clear();
        for event in fx.events.drain(..) {
            if let leveret_core::Event::QueueCreated { queue } = event {
                self.model.created.push_back(queue.to_string());
            }
        }
        let records = std::mem::take(&mut fx.records);
        let reading = std::mem::take(&mut fx.reading);
        let died = fx.deaths.iter_mut().flat_map(|deaths| deaths.drain(..));
        self.model.died = died.collect();
        if trace {
            for record in &records {
                println!("    {:?} {:?}", record.lsn, record.fact);
            }
            for died in &self.model.died {
                println!("    {died:?}");
            }
        }
        self.log.append(records, &mut self.model)?;
        let fetches = std::mem::take(&mut self.machine.fx.fetches);
        for fetch in &fetches {
            self.model.count("fetches", 1);
            if let Some(queue) = self.queue_of(fetch) {
                // Something else may be away as well, and has to wait for this.
                queue.away_from = Some(if queue.is_read_in_parts() {
                    0
                } else {
                    fetch.first.0
                });
            }
        }
        let swaps = std::mem::take(&mut self.machine.fx.swaps);
        if trace {
            for fetch in &fetches {
                println!("    {fetch:?}");
            }
        }
        self.area.ask(swaps)?;
        self.fetches.extend(fetches);
        self.model.pages |= self.machine.broker.metrics().paged_out > 0;
        self.model.turn(now, event, sends.clone())?;
        self.check_reading(&reading)?;
        self.names = self.machine.broker.queue_names().collect();
        self.machine.broker.check_invariants();
        invariants::after_step(&self.machine.broker, &self.model)?;
        Ok(Turn { sends, reading })
    }

    /// Answers something that was asked back, if there is anything: in part and with an error, if
    /// `fails` says after how many messages.
    ///
    /// # Errors
    /// If what the core does about it is wrong.
    pub fn answer_fetch(
        &mut self,
        now: Now,
        at: usize,
        fails: Option<usize>,
        trace: bool,
    ) -> Result<Option<Turn>, Violation> {
        if self.fetches.is_empty() {
            return Ok(None);
        }
        let fetch = self.fetches.remove(at % self.fetches.len());
        let failed = self.failed.entry(fetch.queue).or_default();
        // After three in a row the broker gives up on who waits: that is for the tests of the core.
        let fails = fails.filter(|_| *failed < 2);
        *failed = fails.map_or(0, |_| *failed + 1);
        let unbound = Fetch {
            bytes_max: usize::MAX,
            ..fetch
        };
        let logged = self.log.read(&unbound, &self.model)?;
        let mut messages = self.area.read(&fetch, logged)?;
        messages.truncate(fails.unwrap_or(usize::MAX));
        let given = messages.last().map(|(seq, ..)| seq.0);
        self.model.count("paged in", messages.len() as u64);
        if let Some(queue) = self.queue_of(&fetch) {
            // After an error it is asked again, later. Whatever is here until then may leave memory
            // once more, what has just come back as well.
            queue.away_from = fails.map(|_| 0);
            queue.woken = true;
        }
        let fetched = Fetched {
            queue: fetch.queue,
            messages,
            error: fails.map(|_| LogError::Unavailable("not now".to_owned())),
        };
        if trace {
            println!("{fetch:?} fails {fails:?}, given {given:?}");
        }
        self.turn(now, Input::Fetched(fetched), Event::Fetched, trace)
            .map(Some)
    }

    /// The model's idea of the queue whose messages are asked back.
    fn queue_of(&mut self, fetch: &Fetch) -> Option<&mut Queue> {
        let name = self.names.get(&fetch.queue)?;
        self.model.queues.get_mut(&**name)
    }

    /// Carries out what the swap area was asked for first, or reports what became of something.
    ///
    /// # Errors
    /// If what the core does about it is wrong.
    pub fn swap(
        &mut self,
        now: Now,
        outcome: Option<swap::Outcome>,
        at: usize,
        trace: bool,
    ) -> Result<Option<Turn>, Violation> {
        if let Some(outcome) = outcome {
            if let Some(kept) = self.area.work(outcome) {
                self.model.count("swapped out", kept);
                let turn = Turn {
                    sends: Sends::new(),
                    reading: Vec::new(),
                };
                return Ok(Some(turn));
            }
            return Ok(None);
        }
        let Some(swapped) = self.area.report(at) else {
            return Ok(None);
        };
        if trace {
            println!("{swapped:?}");
        }
        let what = match &swapped.error {
            Some(_) => "failed swaps",
            None => "swaps",
        };
        self.model.count(what, 1);
        self.turn(now, Input::Swapped(swapped), Event::Swapped, trace)
            .map(Some)
    }

    /// The broker is gone; one that starts finds what the log had up to this record.
    ///
    /// # Errors
    /// If that makes no sense, or the new one has something else.
    pub fn restart(&mut self, last: Lsn, now: Now) -> Checked {
        self.log.cut(last)?;
        let recovered = self.log.recovered();
        self.options.seed[1] = self.options.seed[1].wrapping_add(1); // or names would come again
        self.machine.restart(self.options.clone(), recovered, now)?;
        self.model.restart(&self.log, last, now);
        self.fetches.clear();
        self.failed.clear();
        self.area = Area::default();
        self.unread.clear();
        self.names = self.machine.broker.queue_names().collect();
        self.model.count("restarts", 1);
        self.machine.broker.check_invariants();
        invariants::after_step(&self.machine.broker, &self.model)
    }

    /// The log has got it exactly, which messages were delivered; of queues with priorities, that
    /// all of these were.
    ///
    /// # Errors
    /// If it has not.
    pub fn check_marks(&self) -> Checked {
        for (name, kept) in &self.log.state.queues {
            let queue = self.model.queues.get(name);
            let exactly = !queue.is_some_and(Queue::has_priorities);
            let ready = queue.map(|queue| &queue.ready);
            let ready = ready.into_iter().flatten();
            for item in ready.filter(|item| kept.messages.contains_key(&item.seq)) {
                let marked = item.number() <= kept.mark;
                if item.delivered && !marked || exactly && marked && !item.delivered {
                    let mark = kept.mark;
                    return Err(violation!("{item:?} of '{name}' and a mark at {mark}"));
                }
            }
        }
        Ok(())
    }

    /// Connections are told when to be read and when not, once each time, and that is right.
    fn check_reading(&mut self, reading: &[(ConnectionId, bool)]) -> Checked {
        for &(id, paused) in reading {
            let news = if paused {
                self.unread.insert(id)
            } else {
                self.unread.remove(&id)
            };
            if !news {
                return Err(violation!("reading of {id:?} is {paused} twice"));
            }
        }
        let ids = self.model.connections.keys().chain(&self.unread);
        for &id in ids {
            let unread = self.unread.contains(&id);
            if self
                .model
                .is_unread(id)
                .is_some_and(|right| right != unread)
            {
                return Err(violation!("{id:?} should not be unread: {unread}"));
            }
        }
        self.model.count("unread", self.unread.len() as u64);
        Ok(())
    }
}

/// The number of the message that is sent, if one is.
fn number(sent: &Outbound) -> String {
    match sent {
        Outbound::Deliver { message, .. }
        | Outbound::GetOk { message, .. }
        | Outbound::Return { message, .. } => {
            identify(message).map_or_else(String::new, |id| format!("#{id} "))
        }
        _ => String::new(),
    }
}

/// A broker, and clients that do what a test says. Panics where a run would fail.
#[derive(Debug)]
pub struct Script {
    /// The broker.
    pub pair: Pair,
    now: Now,
    names: slotmap::SlotMap<ConnectionId, ()>,
}

impl Script {
    /// A broker with this bound for outboxes.
    #[must_use]
    pub fn new(outbox_max: usize) -> Self {
        Self {
            pair: Pair::new(
                1,
                outbox_max,
                (16 << 20, 0),
                1 << 20,
                None,
                &mut Dice::new(1),
            ),
            now: Now::default(),
            names: slotmap::SlotMap::with_key(),
        }
    }

    fn turn(&mut self, input: Input, event: Event) -> Sends {
        match self.pair.turn(self.now, input, event, false) {
            Ok(turn) => turn.sends,
            Err(violation) => panic!("{violation}"),
        }
    }

    /// A client, and its channel 1.
    pub fn client(&mut self) -> ConnectionId {
        let id = self.names.insert(());
        let capabilities = Capabilities::default();
        let peer = Box::new(Peer {
            user: Arc::from("guest"),
            permissions: Permissions::all(),
            impersonator: false,
            capabilities,
        });
        self.turn(Input::Opened(id, peer), Event::Opened(id, capabilities));
        self.says(id, 1, ChannelOpen::default());
        id
    }

    /// A client says a method; returns all that is sent because of it.
    pub fn says(
        &mut self,
        id: ConnectionId,
        channel: u16,
        method: impl Into<Method<'static>>,
    ) -> Sends {
        let method = method.into();
        let said = Said::Method {
            channel,
            method: method.clone(),
        };
        let method = Box::new(method);
        self.says_all(id, vec![(Command::Method { channel, method }, said)])
    }

    /// A client settles deliveries of its channel 1.
    pub fn settles(
        &mut self,
        id: ConnectionId,
        tag: u64,
        multiple: bool,
        outcome: Outcome,
    ) -> Sends {
        let command = Command::Settle {
            channel: 1,
            delivery_tag: tag,
            multiple,
            outcome,
        };
        let said = Said::Settle {
            channel: 1,
            tag,
            multiple,
            outcome,
        };
        self.says_all(id, vec![(command, said)])
    }

    /// A client publishes a message of so many octets on its channel 1; returns its number.
    pub fn publishes(&mut self, id: ConnectionId, queue: &str, octets: usize) -> u64 {
        self.publishes_as(id, queue, octets, Properties::default())
    }

    /// A client publishes a message with these properties, of so many octets, on its channel 1;
    /// returns its number.
    pub fn publishes_as(
        &mut self,
        id: ConnectionId,
        queue: &str,
        octets: usize,
        properties: Properties,
    ) -> u64 {
        let message = self.pair.model.published.len() as u64;
        let mut raw = Vec::new();
        let flags = properties.encode(&mut raw);
        let header = leveret_codec::ContentHeader {
            class_id: leveret_codec::CLASS_BASIC,
            body_size: octets as u64,
            flags,
            raw: &raw,
            summary: PropertySummary {
                delivery_mode: properties.delivery_mode.unwrap_or_default(),
                priority: properties.priority.unwrap_or_default(),
            },
        };
        let block = Message::build(&mut Vec::new(), "", queue, &header, &body(message, octets));
        self.pair.model.published.push(Published {
            exchange: String::new(),
            keys: vec![queue.to_owned()],
            sent: (flags, raw.clone()),
            flags,
            raw,
            headers: properties.headers.unwrap_or_default(),
            body_len: octets,
            persistent: properties.delivery_mode == Some(2),
            priority: properties.priority.unwrap_or_default(),
            expiration_ms: None,
            past: Past::default(),
            refused: None,
        });
        let mandatory = false;
        let command = Command::Publish {
            channel: 1,
            mandatory,
            message: block,
        };
        let said = Said::Publish {
            channel: 1,
            id: message,
            mandatory,
        };
        self.says_all(id, vec![(command, said)]);
        message
    }

    /// A client declares a durable queue with these rules.
    pub fn declares_lasting(&mut self, id: ConnectionId, queue: &'static str, rules: &Rules) {
        let mut arguments = FieldTable::default();
        rules.write(&mut arguments);
        let declare = QueueDeclare {
            queue: ShortStr::from_static(queue),
            durable: true,
            arguments: RawTable::from_table(&arguments),
            ..QueueDeclare::default()
        };
        self.says(id, 1, declare);
        self.synced();
    }

    /// A client declares a queue.
    pub fn declares(&mut self, id: ConnectionId, queue: &'static str) {
        let declare = QueueDeclare {
            queue: ShortStr::from_static(queue),
            ..QueueDeclare::default()
        };
        self.says(id, 1, declare);
    }

    /// A client consumes from a queue, with acks unless `consume` says otherwise.
    pub fn consumes(
        &mut self,
        id: ConnectionId,
        queue: &'static str,
        tag: &'static str,
        consume: BasicConsume<'static>,
    ) -> Sends {
        let consume = BasicConsume {
            queue: ShortStr::from_static(queue),
            consumer_tag: ShortStr::from_static(tag),
            ..consume
        };
        self.says(id, 1, consume)
    }

    /// The writer of a connection has written so many octets.
    pub fn drained(&mut self, id: ConnectionId, octets: usize) -> Sends {
        self.turn(Input::Drained(id, octets), Event::Drained(id, octets))
    }

    /// The log has come to its end.
    pub fn synced(&mut self) -> Sends {
        let last: Lsn = self.pair.log.last;
        self.pair.log.durable = last;
        self.turn(Input::Durable(last), Event::Durable(last))
    }

    /// What a restart would find is right.
    pub fn check_log(&self) {
        let checked: Checked = self.pair.log.check(&self.pair.model);
        assert_eq!(checked, Ok(()));
    }

    fn says_all(&mut self, id: ConnectionId, commands: Vec<(Command, Said)>) -> Sends {
        let (commands, said) = commands.into_iter().unzip();
        self.turn(Input::Commands(id, commands), Event::Commands(id, said))
    }
}

/// The messages that were delivered to a connection.
#[must_use]
pub fn delivered(sends: &Sends, id: ConnectionId) -> Vec<u64> {
    let sent = sends.get(&id).into_iter().flatten();
    sent.filter_map(|sent| match sent {
        Outbound::Deliver { message, .. } => identify(message),
        _ => None,
    })
    .collect()
}

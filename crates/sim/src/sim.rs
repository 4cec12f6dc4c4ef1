//! A run: everything that happens, one thing at a time, in an order that the seed decides.
//!
//! Now and then the broker stops, in order or in the middle of something, and starts again with
//! what the log has kept: everything that was reported safe, and of the rest as much as the dice
//! say. A log may also get lost, and report nothing any more; then only a restart helps.

mod swapping;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use leveret_core::{
    AmqpError, Command, ConnectionId, Input, Lsn, Outbound, Outcome, Peer, Permissions,
};
use leveret_session::{Closing, Received, SessionConfig, Stop};
use slotmap::SlotMap;

use crate::client::{Client, Phase};
use crate::clock::Clock;
use crate::dice::Dice;
use crate::fault::Fault;
use crate::history::{self, History};
use crate::invariants;
use crate::model::{ALARM, Checked, Event, Said, Tally, Violation};
use crate::network::Link;
use crate::pair::{Pair, Turn};
use crate::plan::Plan;
use crate::served::{Owes, Served};
use crate::swap;
use crate::violation;
use crate::workload::World;

/// Rounds in which everything has to come to rest.
const ROUNDS_MAX: usize = 20_000;

/// How long what cannot be read may go late, in seconds.
const WAITED_MAX_S: u32 = 60;

/// Times that everything is fetched.
const HARVESTS_MAX: usize = 20;

/// Steps after which everything comes to rest, and is judged, before the clients go on.
const RESTS_EVERY: usize = 400;

/// A run that broke a promise.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// The step, if it was not at rest.
    pub step: usize,
    /// What was wrong.
    pub what: Violation,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seed, step, what } = self;
        write!(
            f,
            "seed {seed}, step {step}: {what}\n  replay: cargo run -p leveret-sim -- --seed {seed} --trace"
        )
    }
}

/// How a run is to be.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Decides everything.
    pub seed: u64,
    /// A deliberate mistake.
    pub fault: Option<Fault>,
    /// Print what happens.
    pub trace: bool,
    /// Which steps to take, each by its own seed; all of the plan's if absent.
    pub steps: Option<Vec<u64>>,
}

/// A whole world: a broker, its clients, and what is between them.
#[derive(Debug)]
pub struct Sim {
    plan: Plan,
    clock: Clock,
    pair: Pair,
    history: History,
    clients: Vec<Client>,
    served: BTreeMap<ConnectionId, Served>,
    links: BTreeMap<ConnectionId, Link>,
    names: SlotMap<ConnectionId, ()>,
    config: Arc<SessionConfig>,
    received: Received,
    /// Numbers given to channels.
    channels: u64,
    /// Percent of steps in which the swap area does something.
    swap_pace: u64,
    alarm: bool,
    trace: bool,
    step: usize,
    /// Things that have moved, to see when none does any more.
    moves: u64,
}

/// Who has a turn in a step, and how often.
#[derive(Clone, Copy, Debug)]
enum Actor {
    Act,
    ClientWrites,
    ServerReads,
    ServerWrites,
    ClientReads,
    Report,
    Log,
    Fetches,
    Timers,
    Accident,
    Restart,
}

/// The steps of a seed's plan.
#[must_use]
pub fn steps(seed: u64) -> Vec<u64> {
    let mut dice = Dice::new(seed);
    let plan = Plan::new(&mut dice);
    (0..plan.steps).map(|_| dice.any()).collect()
}

/// Runs a seed.
///
/// # Errors
/// If a promise was broken. What happened so far is counted in any case.
pub fn run(setup: &Setup) -> (Tally, Result<(), Failure>) {
    let mut sim = Sim::new(setup);
    let steps = setup.steps.clone().unwrap_or_else(|| steps(setup.seed));
    let result = catch_unwind(AssertUnwindSafe(|| sim.run(setup.seed, &steps)));
    let result = result.unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().map(String::as_str);
        let what = what.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(violation!("panic: {}", what.unwrap_or("without a word")))
    });
    let result = result.map_err(|what| Failure {
        seed: setup.seed,
        step: sim.step,
        what,
    });
    if sim.pair.machine.happened {
        sim.pair.model.count("faults", 1);
    }
    (std::mem::take(&mut sim.pair.model.tally), result)
}

impl Sim {
    /// The world before the first step.
    #[must_use]
    pub fn new(setup: &Setup) -> Self {
        let mut dice = Dice::new(setup.seed);
        let mut plan = Plan::new(&mut dice);
        let (bounds, swap_pace) = swapping::drawn(setup.seed, &mut plan);
        let config = SessionConfig {
            message_size_max: plan.message_size_max as u64,
            ..SessionConfig::default()
        };
        let clients = (0..plan.clients).map(|_| plan.client(&mut dice)).collect();
        Self {
            pair: Pair::new(
                setup.seed,
                plan.outbox_max,
                bounds,
                plan.body_max(),
                setup.fault,
                &mut dice,
            ),
            history: History::new(plan.with_priorities()),
            plan,
            clock: Clock::new(),
            clients,
            served: BTreeMap::new(),
            links: BTreeMap::new(),
            names: SlotMap::with_key(),
            config: Arc::new(config),
            received: Received::default(),
            channels: 0,
            swap_pace,
            alarm: false,
            trace: setup.trace,
            step: 0,
            moves: 0,
        }
    }

    fn run(&mut self, seed: u64, steps: &[u64]) -> Checked {
        for &step in steps {
            self.step += 1;
            self.take_step(&mut Dice::new(step))?;
            self.let_swap(&mut Dice::new(!step))?;
            if self.step.is_multiple_of(64) {
                self.pair.log.check(&self.pair.model)?;
            }
            if self.step.is_multiple_of(RESTS_EVERY) {
                self.come_to_rest(&mut Dice::new(step))?;
            }
        }
        let dice = &mut Dice::new(seed);
        self.come_to_rest(dice)?;
        self.everybody_leaves(dice)?;
        self.harvest(dice)
    }

    /// A random actor acts; then all invariants hold.
    fn take_step(&mut self, dice: &mut Dice) -> Checked {
        let actors = [
            (Actor::Act, 400),
            (Actor::ClientWrites, 200),
            (Actor::ServerReads, 250),
            (Actor::ServerWrites, 250),
            (Actor::ClientReads, 250),
            (Actor::Report, 80),
            (Actor::Log, self.plan.log),
            (Actor::Fetches, self.plan.log),
            (Actor::Timers, 50),
            (Actor::Accident, self.plan.accidents),
            (Actor::Restart, self.plan.restarts),
        ];
        self.clock.pass(dice.between(0..=self.plan.ms_per_step));
        let (actor, _) = actors[dice.weighted(actors.iter().map(|(_, weight)| *weight))];
        let client = dice.below(self.clients.len());
        let chunk = dice.between(1..=self.plan.chunk_max as u64) as usize;
        match actor {
            Actor::Act => {
                self.act(client, dice)?;
                if dice.chance(self.plan.hurry) {
                    self.hurry(client, chunk, dice)?;
                }
            }
            Actor::ClientWrites => self.client_writes(client, dice),
            Actor::ServerReads => {
                self.server_reads(self.clients[client].connection, chunk, dice)?;
            }
            Actor::ServerWrites => self.server_writes(self.clients[client].connection, chunk)?,
            Actor::ClientReads => {
                if dice.chance(self.clients[client].reads) {
                    self.client_reads(client, chunk)?;
                }
            }
            Actor::Report => self.report(self.clients[client].connection)?,
            Actor::Log if self.pair.log.lost => {
                if dice.chance(10) {
                    self.crash(dice)?;
                }
            }
            Actor::Log => {
                if self.pair.log.is_behind() {
                    let lsn = dice.between(self.pair.log.durable.0 + 1..=self.pair.log.last.0);
                    self.sync(Lsn(lsn))?;
                }
            }
            Actor::Fetches => {
                let fails = dice.chance(15).then(|| dice.below(3));
                self.answer_fetch(dice.below(8), fails)?;
            }
            Actor::Timers => self.timers()?,
            Actor::Restart if dice.chance(30) => self.stop_in_order()?,
            Actor::Restart if dice.chance(40) => self.pair.log.lost = true,
            Actor::Restart => self.crash(dice)?,
            Actor::Accident => self.accident(client, dice)?,
        }
        Ok(())
    }

    /// What a client said goes to the core, and what the core says goes to the client.
    fn hurry(&mut self, client: usize, chunk: usize, dice: &mut Dice) -> Checked {
        self.client_writes(client, dice);
        self.server_reads(self.clients[client].connection, chunk, dice)?;
        self.server_writes(self.clients[client].connection, chunk)?;
        if dice.chance(self.clients[client].reads) {
            self.client_reads(client, chunk)?;
        }
        Ok(())
    }

    // ---- the clients' side ----

    fn act(&mut self, at: usize, dice: &mut Dice) -> Checked {
        if self.clients[at].phase == Phase::Away {
            self.connect(at);
            return Ok(());
        }
        let mut world = World {
            dice,
            plan: &self.plan,
            published: &mut self.pair.model.published,
            history: &mut self.history,
            channels: &mut self.channels,
        };
        self.clients[at].act(&mut world);
        Ok(())
    }

    fn connect(&mut self, at: usize) {
        let id = self.names.insert(());
        let now = self.clock.now().mono;
        self.links.insert(id, Link::new(self.plan.pipe));
        self.served
            .insert(id, Served::new(Arc::clone(&self.config), now));
        self.clients[at].connect(id);
        self.moves += 1;
    }

    fn client_writes(&mut self, at: usize, dice: &mut Dice) {
        let client = &mut self.clients[at];
        let Some(link) = client.connection.and_then(|id| self.links.get_mut(&id)) else {
            return;
        };
        self.moves += client.write(dice, link) as u64;
        if client.phase == Phase::Refused && client.is_silent() {
            link.up.end();
        }
    }

    fn client_reads(&mut self, at: usize, max: usize) -> Checked {
        let client = &mut self.clients[at];
        let Some(id) = client.connection else {
            return Ok(());
        };
        let Some(link) = self.links.get_mut(&id) else {
            return Ok(());
        };
        let mut octets = Vec::new();
        self.moves += link.down.read(max, &mut octets) as u64;
        client.read(&octets, link, &mut self.history)?;
        if link.down.at_end() {
            link.up.end();
            client.forget();
            self.forget_link(id);
        }
        Ok(())
    }

    /// The client is gone without a word; the rest of what it said may still arrive.
    fn cut(&mut self, at: usize, dice: &mut Dice) {
        let client = &mut self.clients[at];
        if let Some(id) = client.connection
            && let Some(link) = self.links.get_mut(&id)
        {
            link.up.end();
            if dice.chance(50) {
                link.up.read(usize::MAX, &mut Vec::new());
            }
            link.down.end();
            client.forget();
            self.forget_link(id);
            self.moves += 1;
            self.pair.model.count("cuts", 1);
        }
    }

    fn forget_link(&mut self, id: ConnectionId) {
        let client_gone = self
            .clients
            .iter()
            .all(|client| client.connection != Some(id));
        if client_gone && !self.served.contains_key(&id) {
            self.links.remove(&id);
        }
    }

    // ---- the server's side ----

    fn server_reads(&mut self, id: Option<ConnectionId>, max: usize, dice: &mut Dice) -> Checked {
        let Some(id) = id.or_else(|| self.orphan()) else {
            return Ok(());
        };
        let (Some(served), Some(link)) = (self.served.get_mut(&id), self.links.get_mut(&id)) else {
            return Ok(());
        };
        if served.owes.is_some() {
            return if dice.chance(70) {
                self.settle_debt(id, dice)
            } else {
                Ok(())
            };
        }
        if served.paused {
            return Ok(());
        }
        let read = link.up.read(max, &mut served.input);
        self.moves += read as u64;
        if read == 0 && link.up.at_end() {
            return self.drop_connection(id);
        }
        self.receive(id, dice)
    }

    /// A connection whose client is gone.
    fn orphan(&self) -> Option<ConnectionId> {
        let alive = |id: &ConnectionId| self.clients.iter().any(|c| c.connection == Some(*id));
        self.served.keys().copied().find(|id| !alive(id))
    }

    /// Lets the session take what there is.
    fn receive(&mut self, id: ConnectionId, dice: &mut Dice) -> Checked {
        loop {
            let mut received = std::mem::take(&mut self.received);
            let now = self.clock.now().mono;
            let Some(served) = self.served.get_mut(&id) else {
                self.received = received;
                return Ok(());
            };
            let used = served.session.receive(now, &served.input, &mut received);
            served.input.drain(..used);
            if served.input.len() > served.session.frame_size_max() && received.stop.is_none() {
                let left = served.input.len();
                return Err(violation!("the session leaves {left} octets"));
            }
            let stop = received.stop.take();
            let commands = std::mem::take(&mut received.commands);
            let replies = std::mem::take(&mut received.replies);
            self.received = received;
            self.submit(id, commands, dice)?;
            self.send(id, replies);
            match stop {
                None if used == 0 => return Ok(()),
                None => {}
                Some(Stop::Login(login)) => {
                    if let Some(served) = self.served.get_mut(&id) {
                        served.capabilities = login.capabilities;
                        served.owes = Some(Owes::Login);
                    }
                    return Ok(());
                }
                Some(Stop::OpenVhost(_)) => {
                    if let Some(served) = self.served.get_mut(&id) {
                        served.owes = Some(Owes::Vhost);
                    }
                    return Ok(());
                }
                Some(Stop::UpdateSecret(_)) => return Ok(()),
                Some(Stop::Close(closing)) => return self.close(id, closing),
            }
        }
    }

    fn settle_debt(&mut self, id: ConnectionId, dice: &mut Dice) -> Checked {
        let Some(served) = self.served.get_mut(&id) else {
            return Ok(());
        };
        self.moves += 1;
        let mut received = std::mem::take(&mut self.received);
        match served.owes.take() {
            Some(Owes::Login) => served.session.authenticated(&mut received),
            Some(Owes::Vhost) => {
                served.session.opened(&mut received);
                served.opened = true;
                let capabilities = served.capabilities;
                let peer = Box::new(Peer {
                    user: Arc::from("guest"),
                    permissions: Permissions::all(),
                    impersonator: false,
                    capabilities,
                });
                self.turn(Input::Opened(id, peer), Event::Opened(id, capabilities))?;
            }
            None => {}
        }
        let replies = std::mem::take(&mut received.replies);
        self.received = received;
        self.send(id, replies);
        self.receive(id, dice)
    }

    /// Hands commands to the core: whole, or one by one. Requeues are always on their own, so that
    /// the model can tell what came first.
    fn submit(&mut self, id: ConnectionId, commands: Vec<Command>, dice: &mut Dice) -> Checked {
        let whole = dice.chance(self.plan.whole_batches);
        let mut batch: (Vec<Command>, Vec<Said>) = Default::default();
        for command in commands {
            let (Some(served), Some(link)) = (self.served.get_mut(&id), self.links.get_mut(&id))
            else {
                return Ok(());
            };
            let said = served.judge(&command, link, &self.pair.model)?;
            let goes_together = matches!(
                said,
                Said::Publish { .. }
                    | Said::Settle {
                        outcome: Outcome::Ack,
                        ..
                    }
            );
            if !(whole && goes_together) {
                self.flush(id, &mut batch)?;
            }
            batch.0.push(command);
            batch.1.push(said);
            if !(whole && goes_together) {
                self.flush(id, &mut batch)?;
            }
        }
        self.flush(id, &mut batch)
    }

    fn flush(&mut self, id: ConnectionId, batch: &mut (Vec<Command>, Vec<Said>)) -> Checked {
        let (commands, said) = std::mem::take(batch);
        if commands.is_empty() {
            return Ok(());
        }
        self.say(|| format!("{id:?} {said:?}"));
        self.turn(Input::Commands(id, commands), Event::Commands(id, said))
    }

    fn close(&mut self, id: ConnectionId, closing: Closing) -> Checked {
        self.say(|| format!("{id:?} closes: {closing:?}"));
        let (Some(served), Some(link)) = (self.served.get_mut(&id), self.links.get_mut(&id)) else {
            return Ok(());
        };
        match closing {
            Closing::Refused(error) => {
                served.judge_refusal(error.code.value(), link)?;
                self.pair.model.count("refused by the session", 1);
                self.closed(id)?;
                let error = Box::new(error);
                self.send(id, vec![Outbound::CloseConnection { error }]);
            }
            Closing::Silent(_) => {}
            Closing::Now(_) => {
                served.ending = true;
                self.closed(id)?;
            }
        }
        Ok(())
    }

    /// Tells the core that a connection is gone, if it knows of it.
    fn closed(&mut self, id: ConnectionId) -> Checked {
        let knows = |served: &mut Served| std::mem::take(&mut served.opened);
        if self.served.get_mut(&id).is_some_and(knows) {
            self.turn(Input::Closed(id), Event::Closed(id))?;
        }
        Ok(())
    }

    /// The socket is closed.
    fn drop_connection(&mut self, id: ConnectionId) -> Checked {
        self.say(|| format!("{id:?} is dropped"));
        self.closed(id)?;
        self.served.remove(&id);
        self.names.remove(id);
        if let Some(link) = self.links.get_mut(&id) {
            link.down.end();
            link.up.end();
            link.up.read(usize::MAX, &mut Vec::new());
        }
        self.forget_link(id);
        self.moves += 1;
        Ok(())
    }

    fn server_writes(&mut self, id: Option<ConnectionId>, max: usize) -> Checked {
        let Some(id) = id else { return Ok(()) };
        let now = self.clock.now().mono;
        let (Some(served), Some(link)) = (self.served.get_mut(&id), self.links.get_mut(&id)) else {
            return Ok(());
        };
        self.moves += served.write(now, max, link) as u64;
        if served.is_over() {
            return self.drop_connection(id);
        }
        Ok(())
    }

    /// The writer tells the core what it has written.
    fn report(&mut self, id: Option<ConnectionId>) -> Checked {
        let Some(id) = id else { return Ok(()) };
        let Some(served) = self.served.get_mut(&id).filter(|served| served.opened) else {
            return Ok(());
        };
        let least = if self.plan.lazy_reports {
            self.plan.outbox_max / 4
        } else {
            1
        };
        if served.drained < least.max(1) {
            return Ok(());
        }
        let drained = std::mem::take(&mut served.drained);
        self.moves += 1;
        self.turn(Input::Drained(id, drained), Event::Drained(id, drained))
    }

    fn sync(&mut self, lsn: Lsn) -> Checked {
        self.pair.log.durable = lsn;
        self.moves += 1;
        self.turn(Input::Durable(lsn), Event::Durable(lsn))
    }

    /// The broker is gone from one moment to the next, with what was not safe, or some of it.
    fn crash(&mut self, dice: &mut Dice) -> Checked {
        let log = &self.pair.log;
        let last = Lsn(dice.between(log.durable.0..=log.last.0));
        self.pair.model.count("crashes", 1);
        self.start_anew(last)
    }

    /// The broker stops as it should, and starts again.
    fn stop_in_order(&mut self) -> Checked {
        if self.pair.log.lost {
            return Ok(());
        }
        let ids: Vec<ConnectionId> = self.served.keys().copied().collect();
        for id in ids {
            self.closed(id)?;
        }
        self.turn(Input::Retire, Event::Retired)?;
        self.sync(self.pair.log.last)?;
        self.pair.check_marks()?;
        self.start_anew(self.pair.log.last)
    }

    /// A broker starts with what the log has up to this record; nobody is connected any more.
    fn start_anew(&mut self, last: Lsn) -> Checked {
        self.say(|| format!("restart with {last:?}"));
        self.moves += 1;
        self.alarm = false;
        self.clock.restart();
        for client in &mut self.clients {
            client.forget();
        }
        self.served.clear();
        self.links.clear();
        self.names.clear();
        self.pair.restart(last, self.clock.now())
    }

    fn timers(&mut self) -> Checked {
        self.tick()?;
        let now = self.clock.now().mono;
        let due = |served: &Served| served.session.next_timeout().is_some_and(|at| at <= now);
        let due: Vec<ConnectionId> = self
            .served
            .iter()
            .filter(|(_, served)| due(served))
            .map(|(&id, _)| id)
            .collect();
        for id in due {
            let mut received = std::mem::take(&mut self.received);
            if let Some(served) = self.served.get_mut(&id) {
                served.session.handle_timeout(now, &mut received);
            }
            let stop = received.stop.take();
            let replies = std::mem::take(&mut received.replies);
            self.received = received;
            self.send(id, replies);
            self.pair.model.count("session timers", 1);
            if let Some(Stop::Close(closing)) = stop {
                self.pair.model.count("session timeouts", 1);
                self.close(id, closing)?;
            }
        }
        Ok(())
    }

    /// The core's timers.
    fn tick(&mut self) -> Checked {
        let now = self.clock.now().mono;
        if self
            .pair
            .machine
            .broker
            .next_timer()
            .is_some_and(|at| at <= now)
        {
            self.moves += 1;
            self.turn(Input::Tick, Event::Tick)?;
        }
        Ok(())
    }

    fn accident(&mut self, client: usize, dice: &mut Dice) -> Checked {
        match dice.below(6) {
            0 => self.cut(client, dice),
            1 => {
                // Half closed: it says nothing more and goes on to listen.
                if let Some(id) = self.clients[client].connection
                    && let Some(link) = self.links.get_mut(&id)
                {
                    link.up.end();
                    self.pair.model.count("half closed", 1);
                }
            }
            2 => self.set_alarm(!self.alarm)?,
            3 => {
                if let Some(id) = self.clients[client].connection
                    && dice.chance(30)
                    && self.served.get(&id).is_some_and(|served| served.opened)
                {
                    let why = "an accident".to_owned();
                    self.turn(Input::Evict(id, why), Event::Evict(id))?;
                }
            }
            4 => {
                self.pair.model.clock_was_set = true;
                self.clock
                    .set_wall(dice.between(0..=7_200_000) as i64 - 3_600_000);
            }
            _ => self
                .clock
                .pass(dice.between(0..=self.plan.ms_per_step * 20)),
        }
        Ok(())
    }

    fn set_alarm(&mut self, on: bool) -> Checked {
        self.alarm = on;
        self.turn(Input::Alarm(on.then_some(ALARM)), Event::Alarm(on))
    }

    // ---- the core ----

    /// One input to the core: what it does about it is judged, and done.
    fn turn(&mut self, input: Input, event: Event) -> Checked {
        // What is due comes first, but for now and then when there is little to be obeyed.
        let alone = matches!(&event, Event::Commands(_, said) if said.len() == 1);
        if !(alone && self.step.is_multiple_of(3) || matches!(event, Event::Tick)) {
            self.tick()?;
        }
        let now = self.clock.now();
        if !matches!(event, Event::Commands(..)) {
            self.say(|| format!("{event:?}"));
        }
        let turn = self.pair.turn(now, input, event, self.trace)?;
        self.pass_on(turn);
        Ok(())
    }

    fn pass_on(&mut self, Turn { sends, reading }: Turn) {
        for (id, past) in self.pair.model.died_now.drain(..) {
            self.history.note(history::Event::Died { id, past });
        }
        for (id, paused) in reading {
            if let Some(served) = self.served.get_mut(&id) {
                served.paused = paused;
            }
        }
        for (id, sent) in sends {
            self.send(id, sent.into());
        }
    }

    /// Puts something into an outbox; the client has to hear it.
    fn send(&mut self, id: ConnectionId, sent: Vec<Outbound>) {
        let now = self.clock.now().mono;
        let (Some(served), Some(link)) = (self.served.get_mut(&id), self.links.get_mut(&id)) else {
            return;
        };
        for outbound in sent {
            if let Outbound::CloseConnection { error } = &outbound {
                let AmqpError { code, .. } = **error;
                debug_assert!(code.value() >= 300);
                served.session.closing_started(now);
            }
            link.spoken.push_back(outbound.clone());
            served.outbox.push_back(outbound);
        }
    }

    // ---- the end ----

    /// Nobody does anything new; everything under way arrives.
    fn come_to_rest(&mut self, dice: &mut Dice) -> Checked {
        if self.pair.log.lost {
            self.crash(dice)?;
        }
        if self.alarm {
            self.set_alarm(false)?;
        }
        let mut waited_s = 0;
        for _ in 0..ROUNDS_MAX {
            let before = self.moves;
            for at in 0..self.clients.len() {
                self.client_writes(at, dice);
            }
            let ids: Vec<ConnectionId> = self.served.keys().copied().collect();
            for id in ids {
                self.settle_debt_now(id, dice)?;
                self.server_reads(Some(id), usize::MAX, dice)?;
                self.server_writes(Some(id), usize::MAX)?;
                self.report(Some(id))?;
            }
            for at in 0..self.clients.len() {
                self.client_reads(at, usize::MAX)?;
            }
            if self.pair.log.is_behind() {
                self.sync(self.pair.log.last)?;
            }
            self.answer_fetch(0, None)?;
            self.swap(Some(swap::Outcome::Done), 0)?;
            self.swap(None, 0)?;
            self.tick()?;
            let model = &self.pair.model;
            let overdue = model.has_to_go().is_some() && waited_s < WAITED_MAX_S;
            if self.moves == before && (model.awaits_another_try() || overdue) {
                // A read that failed is tried again.
                self.clock.pass(1_000);
                self.tick()?;
                waited_s += 1;
                if overdue {
                    continue;
                }
            }
            if self.moves == before {
                return self.judge_rest();
            }
        }
        Err(violation!("nothing comes to rest"))
    }

    fn settle_debt_now(&mut self, id: ConnectionId, dice: &mut Dice) -> Checked {
        while self
            .served
            .get(&id)
            .is_some_and(|served| served.owes.is_some())
        {
            self.settle_debt(id, dice)?;
        }
        Ok(())
    }

    fn judge_rest(&self) -> Checked {
        let unreported = if self.plan.lazy_reports {
            self.plan.outbox_max / 4
        } else {
            0
        };
        invariants::at_rest(&self.pair.model, &self.pair.log, &self.history, unreported)?;
        for client in &self.clients {
            if let Some(link) = client.connection.and_then(|id| self.links.get(&id)) {
                invariants::client_at_rest(client, link, &self.history)?;
            }
        }
        Ok(())
    }

    /// Everybody goes, one in order, the other without a word.
    fn everybody_leaves(&mut self, dice: &mut Dice) -> Checked {
        for at in 0..self.clients.len() {
            if self.clients[at].phase == Phase::Open && dice.chance(50) {
                self.clients[at].close_connection();
            } else {
                self.cut(at, dice);
            }
        }
        self.come_to_rest(dice)?;
        match (self.served.keys().next(), self.links.keys().next()) {
            (None, None) => Ok(()),
            left => Err(violation!(
                "everybody has left, and there still is {left:?}"
            )),
        }
    }

    /// Somebody fetches everything that is left. The model knows what that has to be.
    fn harvest(&mut self, dice: &mut Dice) -> Checked {
        self.clients = vec![self.plan.client(dice)];
        self.connect(0);
        self.come_to_rest(dice)?;
        // Dead letters may come into queues where everything was fetched.
        for _ in 0..HARVESTS_MAX {
            let queues = self.pair.model.queues.iter();
            let queues: Vec<_> = queues
                .map(|(name, queue)| (name.clone(), queue.ready.len()))
                .collect();
            let mut world = World {
                dice,
                plan: &self.plan,
                published: &mut self.pair.model.published,
                history: &mut self.history,
                channels: &mut self.channels,
            };
            self.clients[0].harvest(&queues, &mut world);
            self.come_to_rest(dice)?;
            if self.pair.machine.broker.totals().ready == 0 {
                break;
            }
        }
        let totals = self.pair.machine.broker.totals();
        if (totals.ready, totals.unacked, totals.ready_bytes) != (0, 0, 0) {
            return Err(violation!(
                "everything is fetched, and there still is {totals:?}"
            ));
        }
        self.pair.area.check_empty()?;
        self.everybody_leaves(dice)
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>5} {:>7} {}", self.step, self.clock.now().mono.0, what());
        }
    }
}

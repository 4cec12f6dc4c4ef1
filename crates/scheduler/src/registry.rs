//! All schedules of a vhost: [`Registry`] is the [`Scheduler`] of the broker.
//!
//! What it must not forget it gives away as notes. Their keys begin with `schedule` and a zero
//! octet, then say what it is, and of which schedule:
//!
//! | key after `schedule\0` | value | written |
//! | --- | --- | --- |
//! | `d\0<name>` | the definition: the order that made it | when it is made or changed |
//! | `s\0<name>` | the state | with each fire |
//! | `h\0<name>\0<number>` | a run; the number has 8 octets, the high one first | with its fire, and when it is over |
//!
//! A state is kept together with the message that it speaks of ([`Fire::notes`]), which is why no
//! crash loses a message or doubles it. In [`Deeds`] notes come before fires: what is noted after
//! a fire of the same turn goes with that fire, so that the last word is written last.
//!
//! [`Fire::notes`]: leveret_core::schedule::Fire::notes

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use leveret_core::error::AmqpError;
use leveret_core::ids::Wall;
use leveret_core::inspection::ScheduleDefinition;
use leveret_core::schedule::{Deeds, Ending, Note, Order, Refusal, Run as RunName, Scheduler};

use crate::agenda::{Agenda, Slot, Task};
use crate::definition::{Rule, Terms, dead_letter_exchange, message_of};
use crate::metrics::{Counter, Metrics};
use crate::name::Name;
use crate::order::Demand;
use crate::reply;
use crate::rhythm::{Rhythms, Witness};
use crate::run::Run;
use crate::schedule::Schedule;
use crate::share::Common;

/// How much a vhost's schedules may come to.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Schedules. Ended ones make room for new ones.
    pub schedules_max: usize,
    /// Octets of one message to fire, with its properties.
    pub template_octets_max: usize,
    /// Octets of all messages to fire.
    pub templates_octets_max: usize,
    /// Runs of one order to make up for what has passed.
    pub backfill_runs_max: usize,
    /// Runs that all histories remember together.
    pub history_runs_max: usize,
    /// Runs that one history remembers.
    pub history_runs_each_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            schedules_max: 200_000,
            template_octets_max: 1 << 20,
            templates_octets_max: 256 << 20,
            backfill_runs_max: 10_000,
            history_runs_max: 262_144,
            history_runs_each_max: crate::history::RUNS_MAX,
        }
    }
}

/// All schedules of a vhost.
pub struct Registry {
    pub(crate) limits: Limits,
    pub(crate) slots: Vec<Option<Box<Schedule>>>,
    /// Slots without a schedule.
    pub(crate) free: Vec<Slot>,
    pub(crate) names: BTreeMap<Name, Slot>,
    pub(crate) agenda: Agenda,
    /// Schedules of which nothing more comes, by when they ended.
    pub(crate) ended: BTreeSet<(Wall, Slot)>,
    /// Those with a history, by how long it is.
    pub(crate) lengths: BTreeSet<(usize, Slot)>,
    pub(crate) history_runs: usize,
    pub(crate) templates_octets: usize,
    pub(crate) rhythms: Rhythms,
    pub(crate) rules: Common<Rule>,
    pub(crate) terms: Common<Terms>,
    pub(crate) metrics: Arc<Metrics>,
    /// What the clock said last.
    pub(crate) clock: Wall,
    /// All are being planned anew: those before this slot have been.
    replanned: Option<usize>,
}

/// The schedule in a slot, while the rest of the registry is at hand as well.
fn in_slot(slots: &mut [Option<Box<Schedule>>], slot: Slot) -> Option<&mut Schedule> {
    slots.get_mut(slot as usize)?.as_deref_mut()
}

/// What it costs to work out a time, in the unit of [`Deeds::work`].
pub(crate) const TIME_WORK: u64 = 8;

/// What it costs to show something.
pub(crate) const SHOWN_WORK: u64 = 16;

/// What is due waits for the next call once one has worked so much.
const DUE_WORK_MAX: u64 = 16_384;

/// Schedules that are planned anew in one go.
const REPLANNED_AT_ONCE: usize = 1_024;

/// What is due later than so many milliseconds from now is not planned anew each time its rhythm is
/// met: a year is no part of a rhythm, so `* * * * * ? 2099` is met each second until then. Longer
/// than any clock is put forward or back by law.
const SOON_MS: u64 = 86_400_000;

/// A clock that goes back less than this is only being kept right.
const CLOCK_BACK_MS: u64 = 1_000;

impl Registry {
    /// One without schedules.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            slots: Vec::new(),
            free: Vec::new(),
            names: BTreeMap::new(),
            agenda: Agenda::default(),
            ended: BTreeSet::new(),
            lengths: BTreeSet::new(),
            history_runs: 0,
            templates_octets: 0,
            rhythms: Rhythms::default(),
            rules: Common::default(),
            terms: Common::default(),
            metrics: Arc::default(),
            clock: Wall(0),
            replanned: None,
        }
    }

    /// Has somebody told which expressions its schedules go by.
    pub fn tell_rhythms(&mut self, witness: Arc<dyn Witness>) {
        self.rhythms.tell(witness);
    }

    /// Counters that go on counting.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// Schedules that there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is no schedule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(crate) fn find(&self, name: &str) -> Result<Slot, AmqpError> {
        let slot = self.names.get(name.as_bytes()).copied();
        slot.ok_or_else(|| AmqpError::not_found(format_args!("schedule '{name}'")))
    }

    pub(crate) fn schedule(&self, slot: Slot) -> Option<&Schedule> {
        self.slots.get(slot as usize)?.as_deref()
    }

    pub(crate) fn schedule_mut(&mut self, slot: Slot) -> Option<&mut Schedule> {
        in_slot(&mut self.slots, slot)
    }

    /// Puts a task of a schedule on the agenda, or takes it off.
    pub(crate) fn appoint(&mut self, slot: Slot, task: Task, at: Option<Wall>) {
        if let Some(schedule) = in_slot(&mut self.slots, slot) {
            self.agenda.set(slot, &mut schedule.appointments, task, at);
        }
    }

    /// Works out anew what comes next of one schedule.
    pub(crate) fn plan(&mut self, slot: Slot, now: Wall) {
        let Some(schedule) = self.schedule_mut(slot) else {
            return;
        };
        schedule.plan(now);
        let due = schedule.planned().map(|(_, due)| due);
        let old = schedule.past.ended;
        let over = schedule.is_over();
        let new = over.then(|| old.unwrap_or(now));
        if old != new {
            schedule.past.ended = new;
        }
        if old != new {
            if let Some(at) = old {
                self.ended.remove(&(at, slot));
            }
            if let Some(at) = new {
                self.ended.insert((at, slot));
            }
        }
        self.appoint(slot, Task::Planned, due);
        self.appoint_release(slot, now);
    }

    /// What waits for a run to be over is due when that is.
    pub(crate) fn appoint_release(&mut self, slot: Slot, now: Wall) {
        let Some(schedule) = self.schedule(slot) else {
            return;
        };
        let waits = !schedule.state.more.buffered.is_empty() && !schedule.state.more.paused;
        let at = waits.then(|| {
            let old = schedule.appointments.get(Task::Release).unwrap_or(now);
            schedule.busy_until(now).unwrap_or_else(|| old.min(now))
        });
        self.appoint(slot, Task::Release, at);
    }

    /// Whether nothing comes of a schedule before this.
    fn is_idle_until(&self, slot: Slot, moment: Wall) -> bool {
        let Some(schedule) = self.schedule(slot) else {
            return true;
        };
        let appointments = &schedule.appointments;
        appointments.get(Task::Release).is_none()
            && appointments
                .get(Task::Planned)
                .is_some_and(|due| due > moment)
    }

    /// Plans the next few anew, if all are to be.
    fn go_on_replanning(&mut self, now: Wall, deeds: &mut Deeds) {
        let Some(first) = self.replanned else {
            return;
        };
        let last = self.slots.len().min(first + REPLANNED_AT_ONCE);
        for slot in first..last {
            self.plan(Slot::try_from(slot).unwrap_or(Slot::MAX), now);
            deeds.work += TIME_WORK;
        }
        self.replanned = (last < self.slots.len()).then_some(last);
    }

    /// The clock is where it is; if it was put back, everything is planned anew.
    pub(crate) fn look_at_clock(&mut self, now: Wall) {
        if now.0.saturating_add(CLOCK_BACK_MS) < self.clock.0 {
            self.replan(now);
        }
        self.clock = now;
    }

    /// Adds a run to a history, which may forget older ones.
    pub(crate) fn remember(&mut self, slot: Slot, run: Run, notes: &mut Vec<Note>) {
        let Some(schedule) = in_slot(&mut self.slots, slot) else {
            return;
        };
        let value = run.encode();
        let old = schedule.past.history.len();
        let number = schedule.past.history.push(run);
        notes.push(note(
            run_key(&schedule.definition.name, number),
            Some(value),
        ));
        self.lengths.remove(&(old, slot));
        self.lengths.insert((old + 1, slot));
        self.history_runs += 1;
        if old >= self.limits.history_runs_each_max {
            self.forget_run(slot, notes);
        } else if self.history_runs > self.limits.history_runs_max
            && let Some((_, longest)) = self.lengths.last().copied()
        {
            self.forget_run(longest, notes);
        }
        self.metrics.set(Counter::history_runs, self.history_runs);
    }

    fn forget_run(&mut self, slot: Slot, notes: &mut Vec<Note>) {
        let Some(schedule) = in_slot(&mut self.slots, slot) else {
            return;
        };
        let old = schedule.past.history.len();
        let Some(number) = schedule.past.history.pop() else {
            return;
        };
        notes.push(note(run_key(&schedule.definition.name, number), None));
        self.lengths.remove(&(old, slot));
        if old > 1 {
            self.lengths.insert((old - 1, slot));
        }
        self.history_runs -= 1;
    }

    /// What is to be kept of the state of a schedule.
    pub(crate) fn state_note(&self, slot: Slot) -> Option<Note> {
        let schedule = self.schedule(slot)?;
        let key = state_key(&schedule.definition.name);
        Some(note(key, Some(schedule.state.encode())))
    }
}

impl Scheduler for Registry {
    fn recover(&mut self, now: Wall, notes: Vec<Note>) -> Result<(), String> {
        self.clock = now;
        self.take_over(now, notes)
    }

    fn order(
        &mut self,
        now: Wall,
        order: &Order<'_>,
        deeds: &mut Deeds,
    ) -> Result<Vec<u8>, AmqpError> {
        self.look_at_clock(now);
        let rights = order.rights;
        let reply = match Demand::read(order.message, order.user, now)? {
            Demand::Put(definition, wishes) => {
                rights.may_configure(&definition.name)?;
                let order = order.message;
                let template = message_of(order, order.properties(), |_| {});
                rights.may_publish(template.exchange())?;
                if let Some(exchange) = dead_letter_exchange(&template) {
                    rights.may_publish(&exchange)?;
                }
                self.put(now, *definition, wishes, &template, deeds)?
            }
            Demand::Delete(name) => {
                rights.may_configure(&name)?;
                self.delete(&name, deeds)?
            }
            Demand::Pause(name, note) => {
                rights.may_configure(&name)?;
                self.pause(now, &name, true, note, deeds)?
            }
            Demand::Resume(name, note) => {
                rights.may_configure(&name)?;
                self.pause(now, &name, false, note, deeds)?
            }
            Demand::RunNow(name) => {
                rights.may_configure(&name)?;
                self.run_now(now, &name, deeds)?
            }
            Demand::Backfill { name, from, to } => {
                rights.may_configure(&name)?;
                self.backfill(now, &name, from, to, deeds)?
            }
            Demand::List { after, limit } => {
                let looked_at = Cell::new(0);
                let visible = |name: &str| {
                    looked_at.set(looked_at.get() + 1);
                    rights.may_configure(name).is_ok()
                };
                let list = reply::list(self, after.as_deref(), limit, visible);
                deeds.work += SHOWN_WORK * limit.min(self.len()) as u64 + looked_at.get();
                list
            }
            Demand::Show(name) => {
                rights.may_configure(&name)?;
                reply::show(self, self.find(&name)?)
            }
            Demand::Preview { of, limit } => self.preview(now, of, limit, rights, deeds)?,
            Demand::History { name, limit } => {
                rights.may_configure(&name)?;
                let history = reply::history(self, self.find(&name)?, limit);
                deeds.work += SHOWN_WORK * limit.min(crate::history::RUNS_MAX) as u64;
                history
            }
        };
        Ok(reply.to_string().into_bytes())
    }

    fn next_due(&self) -> Option<Wall> {
        if self.replanned.is_some() {
            return Some(self.clock);
        }
        self.agenda.first().map(|(at, ..)| at)
    }

    fn due(&mut self, now: Wall, fires_max: usize, deeds: &mut Deeds) {
        self.look_at_clock(now);
        self.go_on_replanning(now, deeds);
        // Each step fires once at most, and brings its schedule forward.
        for _ in 0..fires_max.max(1) {
            if deeds.work > DUE_WORK_MAX {
                return;
            }
            let Some((_, task, slot)) = self.agenda.first().filter(|(at, ..)| *at <= now) else {
                return;
            };
            match task {
                Task::Release => self.release(slot, now, deeds),
                Task::Planned => self.planned(slot, now, deeds),
                Task::Backfill => self.backfill_step(slot, now, deeds),
                Task::Alarm => self.alarm(slot, now, deeds),
            }
        }
    }

    fn replan(&mut self, now: Wall) {
        self.clock = now;
        self.replanned = Some(0);
    }

    fn replan_some(&mut self, now: Wall, rhythm: &str, deeds: &mut Deeds) {
        self.look_at_clock(now);
        let soon = Wall(now.0.saturating_add(SOON_MS));
        for slot in self.rhythms.take_turns(rhythm) {
            deeds.work += 1;
            if self.is_idle_until(slot, soon) {
                continue;
            }
            self.plan(slot, now);
            deeds.work += TIME_WORK;
        }
    }

    fn describe(&self, after: Option<&str>, max: usize) -> Vec<ScheduleDefinition> {
        let after = after.map(str::as_bytes);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let some = self.names.range::<[u8], _>((from, Bound::Unbounded));
        let described = some.filter_map(|(name, slot)| {
            Some(ScheduleDefinition {
                name: Arc::from(&**name),
                description: reply::show(self, *slot).to_string().into_bytes(),
                message: self.schedule(*slot)?.definition.template(),
            })
        });
        described.take(max).collect()
    }

    fn routed(&mut self, now: Wall, run: &RunName<'_>, queues: usize, notes: &mut Vec<Note>) {
        self.run_routed(now, run.message_id, queues, notes);
    }

    fn refused(&mut self, now: Wall, run: &RunName<'_>, why: Refusal, notes: &mut Vec<Note>) {
        self.run_refused(now, run.message_id, why, notes);
    }

    fn delivered(&mut self, now: Wall, run: &RunName<'_>, consumer_tag: &str) {
        self.run_delivered(now, run.message_id, consumer_tag);
    }

    fn settled(&mut self, now: Wall, run: &RunName<'_>, ending: Ending, notes: &mut Vec<Note>) {
        self.run_settled(now, run.message_id, ending.into(), notes);
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("schedules", &self.len())
            .field("next_due", &self.next_due())
            .finish_non_exhaustive()
    }
}

const OWNER: &[u8] = b"schedule\0";

/// What the key of a definition begins with.
pub(crate) const DEFINITION: &[u8] = b"schedule\0d\0";

/// What a key speaks of.
pub(crate) enum Key<'a> {
    Definition(&'a str),
    State(&'a str),
    Run(&'a str, u64),
}

pub(crate) fn definition_key(name: &str) -> Vec<u8> {
    [DEFINITION, name.as_bytes()].concat()
}

pub(crate) fn state_key(name: &str) -> Vec<u8> {
    [OWNER, b"s\0", name.as_bytes()].concat()
}

pub(crate) fn run_key(name: &str, number: u64) -> Vec<u8> {
    [OWNER, b"h\0", name.as_bytes(), b"\0", &number.to_be_bytes()].concat()
}

impl<'a> Key<'a> {
    pub(crate) fn parse(key: &'a [u8]) -> Option<Self> {
        let (kind, rest) = key.strip_prefix(OWNER)?.split_at_checked(2)?;
        Some(match kind {
            b"d\0" => Self::Definition(std::str::from_utf8(rest).ok()?),
            b"s\0" => Self::State(std::str::from_utf8(rest).ok()?),
            b"h\0" => {
                let (name, number) = rest.split_at_checked(rest.len().checked_sub(9)?)?;
                let number = number.strip_prefix(b"\0")?.try_into().ok()?;
                Self::Run(std::str::from_utf8(name).ok()?, u64::from_be_bytes(number))
            }
            _ => return None,
        })
    }
}

pub(crate) fn note(key: Vec<u8>, value: Option<Vec<u8>>) -> Note {
    Note {
        key: key.into(),
        value: value.map(Into::into),
    }
}

/// Has notes kept after all that was wanted so far.
pub(crate) fn keep(deeds: &mut Deeds, notes: impl IntoIterator<Item = Note>) {
    match deeds.fires.last_mut() {
        Some(fire) => fire.notes.extend(notes),
        None => deeds.notes.extend(notes),
    }
}

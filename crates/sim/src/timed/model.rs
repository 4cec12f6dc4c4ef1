//! What ought to be: nominal times, promises, and what was seen of them.
//!
//! What happened is kept with the number of its record. When a restart finds less than all, what
//! it did not find is taken back here too; what was seen by clients never is.

use std::collections::{BTreeMap, BTreeSet};

use leveret_core::schedule::Refusal;
use leveret_core::{ConnectionId, Fact, Lsn, Message, Record};

use super::fates::{GRAVES, Letter, Past, Places, Rules};
use super::guests::Standing;
use super::nominal::{parse, text};
use super::plan::{OVERLAP_TIMEOUT, Overlap, Plan};

/// Orders of times nearer than this to each other may look otherwise, in milliseconds.
const CLOSE_MS: u64 = 4;

/// Runs that a schedule remembers.
const HISTORY: usize = 1_000;

/// What is wrong.
pub type Wrong = String;

/// Something that the broker has done in a turn.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// The turn.
    pub step: u64,
    /// It holds if this record does.
    pub lsn: Lsn,
    /// The clock on the wall, in milliseconds.
    pub wall: u64,
}

/// What an order has done to a schedule.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// It is there.
    Made,
    /// It fires nothing.
    Paused,
    /// It fires again.
    Resumed,
    /// It is gone.
    Deleted,
}

/// A schedule and its life.
#[derive(Clone, Debug)]
pub struct Scheduled {
    /// What it is.
    pub plan: Plan,
    /// What was done to it.
    pub events: Vec<(Done, Event)>,
    /// Runs that were wanted at once, by `message-id`.
    pub wanted: Vec<(Done, String)>,
    /// Times that were to be made up for, each order by itself.
    pub backfills: Vec<(Done, Vec<u64>)>,
}

/// One copy of a message, in one queue.
#[derive(Clone, Debug, Default)]
pub struct Copy {
    /// Deliveries.
    pub seen: u64,
    /// Who has it.
    pub holder: Option<ConnectionId>,
    /// The record that says it is settled, and whether by an ack.
    pub settled: Option<(Lsn, bool)>,
    /// That record also says what its schedule notes about that.
    pub noted: bool,
    /// When it was settled last.
    pub settled_step: Option<u64>,
    /// It was settled, and nobody knows whether that survived.
    pub unsure: bool,
    /// What it has been through.
    pub past: Past,
}

/// A message that a schedule has fired.
#[derive(Clone, Debug)]
pub struct Fired {
    /// Who.
    pub schedule: String,
    /// When it was to be, in milliseconds since 1970.
    pub nominal: u64,
    /// By its trigger, not by an order.
    pub by_trigger: bool,
    /// When it was.
    pub done: Done,
    /// Whether it survives.
    pub persistent: bool,
    /// It was transient, and the broker has stopped.
    pub gone: bool,
    /// It was not published, because its user may not.
    pub refused: bool,
    /// By queue.
    pub copies: BTreeMap<&'static str, Copy>,
}

/// A moment at which the broker had done all that was due.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// When.
    pub done: Done,
    /// The broker was started anew since the look before, or was on its way.
    pub broken: bool,
}

/// When a delayed message is due.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Due {
    /// At this time of the clock on the wall, in milliseconds.
    At(u64),
    /// After so many milliseconds of a time in microseconds of the run.
    After(u64, u64),
}

/// A delayed message.
#[derive(Clone, Debug)]
pub struct Promise {
    /// When it is due; later entries by orders, each with its record.
    pub dues: Vec<(Done, Due)>,
    /// Whether it survives.
    pub persistent: bool,
    /// When it was published.
    pub done: Done,
    /// In which life of the broker.
    pub life: u64,
    /// How often the clock had been set when that began.
    pub life_jumps: usize,
    /// How often the clock had been set until then.
    pub jumps: usize,
    /// The publisher was told.
    pub confirmed: bool,
    /// It did not survive a stop.
    pub gone: bool,
    /// The order that forgot it.
    pub cancelled: Option<Lsn>,
    /// It was cancelled, and nobody knows whether that survived.
    pub unsure: bool,
    /// What was seen of it.
    pub copy: Copy,
    /// When it was first seen to be due.
    pub due_step: Option<u64>,
}

/// Somebody set the clock.
#[derive(Clone, Copy, Debug)]
pub struct Jump {
    /// Microseconds.
    pub by_us: i64,
    /// What it showed before, in milliseconds.
    pub wall_before: u64,
}

/// All there is.
#[derive(Debug, Default)]
pub struct Model {
    /// Turns so far.
    pub step: u64,
    /// Starts so far.
    pub life: u64,
    /// How often the clock had been set at the last of them.
    pub life_jumps: usize,
    /// By name.
    pub schedules: BTreeMap<String, Scheduled>,
    /// In order.
    pub looks: Vec<Look>,
    /// By `message-id`.
    pub fires: BTreeMap<String, Fired>,
    /// By body.
    pub promises: BTreeMap<String, Promise>,
    /// In order.
    pub jumps: Vec<Jump>,
    /// How queues are declared.
    pub rules: Rules,
    /// What the user of the schedules may do.
    pub standing: Standing,
    /// Dead letters, by the queue they come from and what they are.
    pub letters: BTreeMap<String, Letter>,
    /// What the log was told of queues.
    pub places: Places,
    /// Messages that failed too often.
    pub deaths: u64,
    /// Times that a message came back and had to wait.
    pub waits: u64,
    /// The broker was started anew since the last look.
    pub broken: bool,
}

impl Scheduled {
    /// Whether it is there, and whether it fires.
    #[must_use]
    pub fn state(&self) -> Option<Event> {
        let last = self.events.last().map(|(_, event)| *event);
        last.filter(|event| *event != Event::Deleted)
    }
}

impl Copy {
    fn is_open(&self) -> bool {
        self.settled.is_none()
    }

    /// It goes to a consumer.
    pub(super) fn deliver(
        &mut self,
        to: ConnectionId,
        again: bool,
        what: &str,
        passed_us: u64,
    ) -> Result<(), Wrong> {
        self.past.delivered(what, passed_us)?;
        if self.settled.is_some() {
            return Err(format!("{what} came again after it was settled"));
        }
        if self.holder.is_some() {
            return Err(format!("{what} came while somebody had it"));
        }
        if self.seen > 0 && !again {
            return Err(format!("{what} came twice"));
        }
        self.seen += 1;
        self.holder = Some(to);
        Ok(())
    }
}

impl Promise {
    /// When it is due.
    #[must_use]
    pub fn due(&self) -> Due {
        self.dues.last().map_or(Due::At(0), |(_, due)| *due)
    }

    /// It is waiting or in its queue.
    #[must_use]
    pub fn is_sure(&self) -> bool {
        self.is_alive() && !self.unsure
    }

    /// It may be waiting or in its queue.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.gone && self.cancelled.is_none() && self.copy.seen == 0
    }
}

impl Model {
    /// Looks at a record for messages that are fired.
    ///
    /// # Errors
    /// If it ought not to be.
    pub fn recorded(&mut self, record: &Record, wall: u64) -> Result<u64, Wrong> {
        let facts = match &record.fact {
            Fact::Together(facts) => &facts[..],
            fact => std::slice::from_ref(fact),
        };
        let noted = facts.iter().any(|fact| matches!(fact, Fact::Noted(_)));
        let mut fires = 0;
        for fact in facts {
            let Some(id) = self.heard(record.lsn, fact, noted)? else {
                continue;
            };
            let done = Done {
                step: self.step,
                lsn: record.lsn,
                wall,
            };
            if self.fires.contains_key(&id) {
                return Err(format!("{id} is fired twice"));
            }
            self.fire(id, done, true)?;
            fires += 1;
        }
        Ok(fires)
    }

    /// A schedule wanted to fire, and its user may not.
    ///
    /// # Errors
    /// If the user may, or the schedule ought not to have tried.
    pub fn refused(&mut self, id: &str, why: Refusal, done: Done) -> Result<(), Wrong> {
        let name = id.rsplit_once('/').map_or(id, |(name, _)| name);
        let fan = self.schedules.get(name).is_some_and(|s| s.plan.fan);
        if self.standing.refusal(fan) != Some(why) {
            return Err(format!("{id} is refused: {why}"));
        }
        if self.fires.contains_key(id) {
            return Err(format!("{id} is fired twice, and then refused"));
        }
        let standing = std::mem::take(&mut self.standing);
        let fired = self.fire(id.to_owned(), done, true);
        self.standing = standing;
        fired?;
        if let Some(fired) = self.fires.get_mut(id) {
            fired.refused = true;
            fired.copies.clear();
        }
        Ok(())
    }

    fn fire(&mut self, id: String, done: Done, persistent: bool) -> Result<(), Wrong> {
        let (name, run) = id.rsplit_once('/').unwrap_or((&id, ""));
        let Some(schedule) = self.schedules.get(name) else {
            return Err(format!("{id}: there is no such schedule"));
        };
        let (by_trigger, nominal) = match run.strip_prefix("backfill-") {
            Some(rest) => (false, rest.split_once('-').and_then(|(_, at)| parse(at))),
            None => match run.strip_prefix("run-now-") {
                Some(at) => (false, parse(at)),
                None => (true, parse(run)),
            },
        };
        let Some(nominal) = nominal else {
            return Err(format!("{id} says no time"));
        };
        if persistent && let Some(why) = self.standing.refusal(schedule.plan.fan) {
            return Err(format!("{id} is fired, and {why}"));
        }
        if schedule.state().is_none() && persistent {
            return Err(format!("{id}: the schedule is not there"));
        }
        if by_trigger {
            // What was due before the clock was set back may have waited for another run.
            let peak = self.jumps.iter().map(|jump| jump.wall_before).max();
            let latest = done.wall.max(peak.unwrap_or(0));
            if nominal > latest {
                let early = nominal - latest;
                return Err(format!("{id} is fired {early} ms early"));
            }
            if schedule.state() == Some(Event::Paused) && persistent {
                return Err(format!("{id}: the schedule is paused"));
            }
            if schedule.plan.times.within(nominal - 1, nominal).is_empty() {
                return Err(format!("{id} is no time of {:?}", schedule.plan.times));
            }
            let before = || self.runs(name).filter(|run| run.by_trigger).count();
            if schedule.plan.max_runs.is_some_and(|max| before() >= max) {
                return Err(format!("{id} is a run too many"));
            }
            let is_open = |run: &&Fired| {
                let young = done.wall < run.done.wall + OVERLAP_TIMEOUT;
                young && run.persistent && run.copies.values().any(Copy::is_open)
            };
            if schedule.plan.overlap != Overlap::Allow
                && persistent
                && let Some(open) = self.runs(name).find(is_open)
                // Very many that are left out push it out of the history, and it is forgotten.
                && schedule.plan.times.within(open.nominal, latest).len() < HISTORY / 2
            {
                let open = text(open.nominal);
                return Err(format!("{id} is fired while the run of {open} is not over"));
            }
        }
        let queues = schedule.plan.queues();
        let fired = Fired {
            schedule: name.to_owned(),
            nominal,
            by_trigger,
            done,
            persistent,
            gone: false,
            refused: false,
            copies: queues.iter().map(|q| (*q, Copy::default())).collect(),
        };
        self.fires.insert(id, fired);
        Ok(())
    }

    /// Runs of a schedule.
    pub fn runs(&self, schedule: &str) -> impl Iterator<Item = &Fired> {
        let of = move |(_, fired): &(&String, &Fired)| fired.schedule == schedule;
        let runs = self.fires.range(format!("{schedule}/")..);
        runs.take_while(of).map(|(_, fired)| fired)
    }

    /// A message of a schedule is delivered.
    ///
    /// # Errors
    /// If it ought not to be.
    pub fn fire_delivered(
        &mut self,
        queue: &'static str,
        id: &str,
        again: bool,
        to: ConnectionId,
        (durable, now, passed_us): (Lsn, Done, u64),
        persistent: bool,
    ) -> Result<(), Wrong> {
        if !persistent && !self.fires.contains_key(id) {
            self.fire(id.to_owned(), now, false)?;
        }
        let Some(fired) = self.fires.get_mut(id) else {
            return Err(format!("{id} is delivered and was never fired"));
        };
        if persistent && fired.done.lsn > durable {
            return Err(format!("{id} is delivered before it is safe"));
        }
        if fired.gone {
            return Err(format!("{id} was transient, and came after a restart"));
        }
        let Some(copy) = fired.copies.get_mut(queue) else {
            return Err(format!("{id} is delivered from queue {queue}"));
        };
        copy.deliver(to, again, id, passed_us)
    }

    /// A delayed message is delivered.
    ///
    /// # Errors
    /// If it ought not to be.
    pub fn promise_delivered(
        &mut self,
        body: &str,
        again: bool,
        to: ConnectionId,
        durable: Lsn,
        (wall, passed_us): (u64, u64),
    ) -> Result<(), Wrong> {
        let Some(promise) = self.promises.get(body) else {
            return Err(format!("{body} was never published"));
        };
        if promise.gone {
            return Err(format!("{body} did not survive, and came"));
        }
        if promise.cancelled.is_some() {
            return Err(format!("{body} was cancelled, and came"));
        }
        if promise.persistent && promise.dues.last().is_some_and(|(d, _)| d.lsn > durable) {
            return Err(format!("{body} came before it was safe"));
        }
        if promise.copy.seen == 0 {
            self.check_early(body, promise, wall, passed_us)?;
            self.check_order(body, promise)?;
        }
        let Some(promise) = self.promises.get_mut(body) else {
            return Ok(());
        };
        promise.copy.deliver(to, again, body, passed_us)
    }

    fn check_early(
        &self,
        body: &str,
        promise: &Promise,
        wall: u64,
        passed_us: u64,
    ) -> Result<(), Wrong> {
        let early_us = match promise.due() {
            Due::At(ms) => {
                let since = self.jumps[promise.jumps..].iter();
                let peak = since.map(|jump| jump.wall_before).max();
                ms.saturating_sub(wall.max(peak.unwrap_or(0))) * 1_000
            }
            Due::After(from_us, ms) => {
                let mut passed = passed_us - from_us;
                if promise.life != self.life {
                    // It has gone on by the clock on the wall, also as to what that had been set by
                    // since the broker was started.
                    let ahead = self.jumps[promise.life_jumps..]
                        .iter()
                        .filter_map(|jump| u64::try_from(jump.by_us).ok());
                    passed += ahead.sum::<u64>();
                }
                (ms * 1_000).saturating_sub(passed)
            }
        };
        if early_us > 0 {
            let restarts = self.life - promise.life;
            return Err(format!(
                "{body} ({:?}) came {early_us} us too early, {restarts} restarts later",
                promise.due()
            ));
        }
        Ok(())
    }

    /// Nothing that was due clearly before, and waited as well, is behind.
    fn check_order(&self, body: &str, promise: &Promise) -> Result<(), Wrong> {
        let looked = self.looks.last().map_or(0, |look| look.done.step);
        let waited_until = promise.due_step.unwrap_or(looked);
        let due = promise.due();
        let behind = self.promises.iter().find(|(_, other)| {
            let waited = other
                .dues
                .last()
                .is_some_and(|(d, _)| d.step < waited_until);
            waited
                && other.is_sure()
                && (other.confirmed || other.life == self.life)
                && self.is_before(other.due(), due)
        });
        match behind {
            Some((other, earlier)) => Err(format!(
                "{body} ({due:?}) came before {other} ({:?})",
                earlier.due()
            )),
            None => Ok(()),
        }
    }

    /// Whether one is due clearly before the other.
    fn is_before(&self, one: Due, other: Due) -> bool {
        match (one, other) {
            (Due::At(one), Due::At(other)) => one < other,
            (Due::After(a, one), Due::After(b, other)) => {
                // Set clocks show in these only after a restart.
                (self.life == 1 || self.jumps.is_empty())
                    && a / 1_000 + one + CLOSE_MS < b / 1_000 + other
            }
            _ => false,
        }
    }

    pub(super) fn copy(&mut self, queue: &str, key: &str) -> Option<&mut Copy> {
        if queue == GRAVES {
            return self.letters.get_mut(key).map(|letter| &mut letter.copy);
        }
        if queue == "d" {
            return self.promises.get_mut(key).map(|promise| &mut promise.copy);
        }
        self.fires.get_mut(key)?.copies.get_mut(queue)
    }

    /// A restart finds all up to this record; of what was not reported safe the settles may be
    /// missing all the same, as the log has them at the end of what is written at once.
    ///
    /// # Errors
    /// If something that was confirmed is not among it.
    pub fn recovered(
        &mut self,
        last: Lsn,
        safe: Lsn,
        (wall, passed_us): (u64, u64),
    ) -> Result<(), Wrong> {
        if last < safe {
            return Err(format!("{last:?} is recovered, {safe:?} was safe"));
        }
        self.life += 1;
        self.life_jumps = self.jumps.len();
        self.broken = true;
        self.places.recovered(last);
        self.letters
            .retain(|_, letter| letter.lsn <= last && letter.lsn > Lsn(0));
        // With a dead letter that is there the message it comes from is not.
        let died: BTreeSet<String> = self.letters.keys().cloned().collect();
        let forget = |copy: &mut Copy, name: &str| {
            copy.holder = None;
            copy.past.recovered(last, wall, passed_us);
            if copy.noted {
                // It is over, and its schedule knows it; or both are not so.
                if copy.settled.is_some_and(|(lsn, _)| lsn > last) {
                    (copy.settled, copy.settled_step, copy.noted) = (None, None, false);
                }
                return;
            }
            if died.contains(name) {
                return;
            }
            copy.unsure |= copy
                .settled
                .is_some_and(|(lsn, _)| lsn > safe && lsn <= last);
            copy.settled = copy.settled.filter(|(lsn, _)| *lsn <= safe);
        };
        for letter in self.letters.values_mut() {
            forget(&mut letter.copy, "");
        }
        self.looks.retain(|look| look.done.lsn <= last);
        self.fires
            .retain(|_, fired| fired.done.lsn <= last || !fired.persistent);
        for (id, fired) in &mut self.fires {
            fired.gone |= !fired.persistent;
            for (queue, copy) in &mut fired.copies {
                forget(copy, &format!("{queue}|{id}"));
            }
        }
        for schedule in self.schedules.values_mut() {
            schedule.events.retain(|(done, _)| done.lsn <= last);
            schedule.wanted.retain(|(done, _)| done.lsn <= last);
            schedule.backfills.retain(|(done, _)| done.lsn <= last);
        }
        for (body, promise) in &mut self.promises {
            let lost = promise.persistent && promise.done.lsn > last;
            if lost && promise.confirmed {
                return Err(format!("{body} was confirmed, and did not survive"));
            }
            promise.gone |= lost || !promise.persistent;
            promise
                .dues
                .retain(|(done, _)| done.lsn <= last || promise.gone);
            promise.unsure |= promise
                .cancelled
                .is_some_and(|lsn| lsn > safe && lsn <= last);
            promise.cancelled = promise.cancelled.filter(|lsn| *lsn <= safe);
            forget(&mut promise.copy, &format!("d|{body}"));
        }
        Ok(())
    }

    /// The broker has done all that is due by now.
    pub fn looked(&mut self, done: Done, passed_us: u64) {
        let broken = std::mem::take(&mut self.broken);
        self.looks.push(Look { done, broken });
        let jumps = &self.jumps;
        for promise in self.promises.values_mut().filter(|p| p.due_step.is_none()) {
            let is_due = match promise.due() {
                Due::At(ms) => ms <= done.wall,
                Due::After(from, ms) => {
                    let ahead = jumps
                        .iter()
                        .filter_map(|jump| u64::try_from(jump.by_us).ok());
                    let ahead: u64 = ahead.sum();
                    passed_us - from + ahead + 1_000 >= ms * 1_000
                }
            };
            if is_due {
                promise.due_step = Some(done.step);
            }
        }
    }

    /// How many delayed messages must be waiting at least, and how many at most.
    #[must_use]
    pub fn waiting(&self, wall: u64, passed_us: u64) -> (usize, usize) {
        let (mut least, mut most) = (0, 0);
        for promise in self.promises.values().filter(|p| p.is_alive()) {
            let since = &self.jumps[promise.jumps..];
            let sure = promise.confirmed || promise.life == self.life;
            let (is_due, was_never) = match promise.due() {
                Due::At(ms) => {
                    let peak = since.iter().map(|jump| jump.wall_before).max();
                    (ms + 2 <= wall, ms > wall.max(peak.unwrap_or(0)))
                }
                Due::After(from, ms) => {
                    let (passed, ms) = (passed_us - from, ms * 1_000);
                    let same = promise.life == self.life || self.jumps.is_empty();
                    (
                        same && passed >= ms + 3_000,
                        (same || self.jumps.is_empty()) && passed + 3_000 < ms,
                    )
                }
            };
            least += usize::from(was_never && sure && !promise.unsure);
            most += usize::from(!is_due);
        }
        (least, most)
    }
}

/// The `message-id` of a message that a schedule has fired.
#[must_use]
pub fn fired_id(message: &Message) -> Option<String> {
    let properties = message.properties();
    properties.headers.as_ref()?.get("x-schedule-fired-at")?;
    let id = properties.message_id?;
    Some(String::from_utf8_lossy(&id).into_owned())
}

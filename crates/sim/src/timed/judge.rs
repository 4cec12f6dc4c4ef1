//! Whether each nominal time has its message, or a reason to have none.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Event, Fired, Look, Model, Scheduled, Wrong};
use super::nominal::text;
use super::plan::{Misfire, Overlap, UNLIMITED};

/// What is later than this was missed, in milliseconds.
const LATE_MS: u64 = 60_000;

/// So near to a bound nobody knows, in milliseconds: after the clock was set it may take a second
/// until it is looked at.
const UNSURE_MS: u64 = 1_500;

/// So many runs wait for one that is not over.
const BUFFERED_MAX: usize = 1_000;

/// Of those some may be fired in the same turn.
const SLACK: usize = 16;

/// With more of these, and a clock that went back, a schedule may mix up what it has left out.
const LEFT_OUT_MAX: usize = 5;

/// What a look at pending times comes to.
struct Outcome {
    /// Fired by then.
    must: Vec<u64>,
    /// Perhaps fired; all others never.
    may: BTreeSet<u64>,
}

/// Counts of what was judged.
#[derive(Debug, Default)]
pub struct Judged {
    /// Times that had to have a message.
    pub times: u64,
    /// Times that had none, and for a reason.
    pub left_out: u64,
}

/// Judges all schedules, after everything has come to an end.
///
/// # Errors
/// What is missing or too much.
pub fn judge(model: &Model) -> Result<Judged, Wrong> {
    let went_back = model.jumps.iter().any(|jump| jump.by_us < 0);
    let mut judged = Judged::default();
    for schedule in model.schedules.values() {
        let Some((made, _)) = schedule.events.iter().find(|(_, e)| *e == Event::Made) else {
            continue;
        };
        let name = &schedule.plan.name;
        let last_wall = model.looks.iter().map(|look| look.done.wall).max();
        let last_wall = last_wall.unwrap_or(0);
        let times = &schedule.plan.times;
        let all = times.within(made.wall, last_wall);
        let fired: BTreeMap<u64, &Fired> = model
            .runs(name)
            .filter(|run| run.by_trigger)
            .map(|run| (run.nominal, run))
            .collect();
        // Whoever resumes it by a clock that was set back wants it to go on from there.
        let begins = schedule.events.iter().map(|(done, _)| done.wall).min();
        let any = times.within(begins.unwrap_or(0), last_wall);
        if let Some(odd) = fired.keys().find(|t| any.binary_search(t).is_err()) {
            return Err(format!("{name}/{} is no time of it", text(*odd)));
        }
        extra_runs(model, schedule)?;
        if !schedule.plan.persistent {
            continue;
        }
        judged.times += fired.len() as u64;
        judged.left_out += (any.len() - fired.len()) as u64;
        let case = Case {
            model,
            schedule,
            made: made.step,
            all,
            fired,
        };
        if went_back {
            case.at_least()?;
        } else {
            case.exactly()?;
        }
    }
    Ok(judged)
}

/// Runs that somebody wanted.
fn extra_runs(model: &Model, schedule: &Scheduled) -> Result<(), Wrong> {
    if !schedule.plan.persistent {
        return Ok(());
    }
    let name = &schedule.plan.name;
    for (_, id) in &schedule.wanted {
        if !model.fires.contains_key(id) {
            return Err(format!("{id} was wanted and is not fired"));
        }
    }
    let mut wanted: BTreeMap<u64, usize> = BTreeMap::new();
    for nominal in schedule.backfills.iter().flat_map(|(_, times)| times) {
        *wanted.entry(*nominal).or_default() += 1;
    }
    let prefix = format!("{name}/backfill-");
    let backfilled = model.fires.range(prefix.clone()..);
    let backfilled = backfilled.take_while(|(id, _)| id.starts_with(&prefix));
    let mut came: BTreeMap<u64, usize> = BTreeMap::new();
    for (_, fired) in backfilled {
        *came.entry(fired.nominal).or_default() += 1;
    }
    if schedule.state().is_some() && came != wanted {
        return Err(format!("{name}: backfilled {came:?}, not {wanted:?}"));
    }
    if came
        .iter()
        .any(|(t, n)| wanted.get(t).is_none_or(|w| n > w))
    {
        return Err(format!("{name}: backfilled {came:?}, and only {wanted:?}"));
    }
    Ok(())
}

struct Case<'a> {
    model: &'a Model,
    schedule: &'a Scheduled,
    made: u64,
    all: Vec<u64>,
    fired: BTreeMap<u64, &'a Fired>,
}

impl Case<'_> {
    /// The clock never went back: what becomes of each time can be said.
    fn exactly(&self) -> Result<(), Wrong> {
        let mut events = self.schedule.events.iter().peekable();
        let (mut paused, mut broken) = (false, false);
        let mut next = 0;
        let mut before = self.made;
        for look in self.model.looks.iter().filter(|l| l.done.step > self.made) {
            broken |= look.broken;
            while let Some((done, event)) = events.next_if(|(d, _)| d.step < look.done.step) {
                match event {
                    Event::Made => {}
                    Event::Paused => paused = true,
                    Event::Resumed => {
                        paused = false;
                        let skipped = self.pending(next, done.wall);
                        // Some that are put off may have been fired before.
                        let sure = !broken && self.schedule.plan.jitter == 0;
                        self.none_of(skipped.iter().filter(|_| sure), "was paused")?;
                        next += skipped.len();
                    }
                    Event::Deleted => {
                        let later = next + self.pending(next, done.wall).len();
                        return self.none_of(&self.all[later..], "was deleted");
                    }
                }
            }
            if paused {
                continue;
            }
            let pending = self.pending(next, look.done.wall);
            if self.schedule.plan.jitter > 0 {
                // Which of them are put off until later nobody knows: all come in the end.
                let due = self.due_surely(pending, look.done.wall);
                for t in &pending[..due] {
                    self.is_there(*t, look, before)?;
                }
                next += due;
            } else {
                let outcome = self.outcome(pending, look.done.wall, broken);
                for t in &outcome.must {
                    self.is_there(*t, look, before)?;
                }
                let left_out = pending.iter().filter(|t| !outcome.may.contains(t));
                self.none_of(left_out, "was missed")?;
                next += pending.len();
            }
            broken = false;
            before = look.done.step;
        }
        Ok(())
    }

    fn pending(&self, next: usize, wall: u64) -> &[u64] {
        let rest = &self.all[next..];
        &rest[..rest.partition_point(|t| *t <= wall)]
    }

    /// How many of them are due, whatever they are put off by.
    fn due_surely(&self, pending: &[u64], wall: u64) -> usize {
        let jitter = self.schedule.plan.jitter;
        pending.partition_point(|t| t + jitter + 2 <= wall)
    }

    /// What the policy says.
    fn outcome(&self, pending: &[u64], wall: u64, broken: bool) -> Outcome {
        let plan = &self.schedule.plan;
        let late = |t: u64| wall - t;
        let (Some(first), Some(last)) = (pending.first(), pending.last()) else {
            return Outcome {
                must: Vec::new(),
                may: BTreeSet::new(),
            };
        };
        if late(*first) + UNSURE_MS < LATE_MS {
            return Outcome {
                must: pending.to_vec(),
                may: pending.iter().copied().collect(),
            };
        }
        let window = plan.window.unwrap_or(u64::MAX - UNSURE_MS);
        let near = |ms: u64, bound: u64| ms.abs_diff(bound) <= UNSURE_MS;
        let unsure = broken
            || near(late(*first), LATE_MS)
            || pending.iter().any(|t| near(late(*t), window))
            || plan.misfire == Misfire::Skip && pending.iter().any(|t| near(late(*t), LATE_MS));
        let mut young = pending.iter().filter(|t| late(**t) + UNSURE_MS <= window);
        let must: Vec<u64> = if late(*last) > window {
            Vec::new()
        } else {
            match plan.misfire {
                Misfire::Skip => {
                    let in_time = |t: &&u64| late(**t) + UNSURE_MS <= LATE_MS;
                    pending.iter().filter(in_time).copied().collect()
                }
                Misfire::FireOnce => young.next_back().copied().into_iter().collect(),
                Misfire::All(max) => {
                    let young: Vec<u64> = young.copied().collect();
                    young[young.len().saturating_sub(max)..].to_vec()
                }
            }
        };
        let may = if unsure { pending } else { &must[..] };
        Outcome {
            may: may.iter().copied().collect(),
            must,
        }
    }

    fn none_of<'t>(
        &self,
        times: impl IntoIterator<Item = &'t u64>,
        why: &str,
    ) -> Result<(), Wrong> {
        let name = &self.schedule.plan.name;
        match times.into_iter().find(|t| self.fired.contains_key(t)) {
            Some(t) => Err(format!("{name}/{} {why}, and is fired", text(*t))),
            None => Ok(()),
        }
    }

    /// A time that had to have its message by this look.
    fn is_there(&self, t: u64, look: &Look, before: u64) -> Result<(), Wrong> {
        let plan = &self.schedule.plan;
        let may_wait = plan.overlap != Overlap::Allow;
        if let Some(fired) = self.fired.get(&t)
            && (fired.done.step <= look.done.step || may_wait)
        {
            return Ok(());
        }
        if plan.max_runs.is_some_and(|max| self.fired.len() >= max) {
            return Ok(());
        }
        let is_gone = self.schedule.state().is_none();
        let busy = match plan.overlap {
            Overlap::Allow => false,
            Overlap::BufferAll => {
                // Some of those that waited may have been fired in that very look.
                let waits = |run: &&Fired| run.nominal < t && run.done.step > before;
                let waiting = self.fired.values().copied().filter(waits).count();
                is_gone || waiting + SLACK >= BUFFERED_MAX
            }
            Overlap::Skip | Overlap::BufferOne => true,
        };
        let mut runs = self.model.runs(&plan.name);
        // What is refused was a run that is not over to those that were due in the same go.
        let was_busy = |run: &Fired| {
            run.refused && run.done.step > before
                || run
                    .copies
                    .values()
                    .any(|copy| copy.unsure || copy.settled_step.is_none_or(|step| step > before))
        };
        let excused = busy
            && runs.any(|run| run.nominal != t && run.done.step <= look.done.step && was_busy(run));
        if excused {
            return Ok(());
        }
        let (name, t, wall) = (&plan.name, text(t), text(look.done.wall));
        let step = look.done.step;
        Err(format!(
            "{name}/{t} is not fired at {wall}, step {step}: {plan:?}"
        ))
    }

    /// The clock went back and forth: what surely comes.
    fn at_least(&self) -> Result<(), Wrong> {
        let plan = &self.schedule.plan;
        let only_made = self.schedule.events.len() == 1;
        if plan.overlap != Overlap::Allow || plan.max_runs.is_some() {
            return Ok(());
        }
        if only_made && plan.misfire == Misfire::All(UNLIMITED) && plan.window.is_none() {
            let last = self.model.looks.last().map_or(0, |look| look.done.wall);
            let due = self.due_surely(self.pending(0, last), last);
            let missing = self.all[..due].iter().find(|t| !self.fired.contains_key(t));
            return match missing {
                Some(t) => Err(format!("{}/{} is missing", plan.name, text(*t))),
                None => Ok(()),
            };
        }
        let looks = self.model.looks.iter();
        let looks: Vec<&Look> = looks.filter(|l| l.done.step > self.made).collect();
        let gaps = looks.windows(2).filter(|pair| !is_live(pair)).count();
        let events = self.schedule.events.len();
        if gaps + events > LEFT_OUT_MAX || plan.jitter > 0 || !only_made {
            return Ok(());
        }
        for pair in looks.windows(2).filter(|pair| is_live(pair)) {
            let (before, look) = (pair[0], pair[1]);
            let first = self.all.partition_point(|t| *t <= before.done.wall);
            for t in self.pending(first, look.done.wall) {
                self.is_there(*t, look, before.done.step)?;
            }
        }
        Ok(())
    }
}

/// Time went on as it should between the two.
fn is_live(pair: &[&Look]) -> bool {
    let (before, look) = (pair[0].done.wall, pair[1].done.wall);
    before <= look && look - before + UNSURE_MS < LATE_MS && !pair[1].broken
}

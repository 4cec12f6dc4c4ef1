//! What orders change: making, deleting, pausing, running at once, making up for what has passed.

use std::sync::Arc;

use leveret_core::error::AmqpError;
use leveret_core::ids::Wall;
use leveret_core::message::Message;
use leveret_core::schedule::{Deeds, Note, Rights};
use serde_json::{Value, json};

use crate::agenda::{Agenda, Slot, Task};
use crate::cron::quoted;
use crate::definition::{Definition, Wishes, overdue};
use crate::done::Done;
use crate::metrics::Counter;
use crate::order::Previewed;
use crate::registry::{Limits, Registry, SHOWN_WORK, TIME_WORK, keep, note, run_key, state_key};
use crate::reply;
use crate::run::Origin;
use crate::schedule::Schedule;
use crate::state::{BACKFILLS_MAX, Backfill, State};
use crate::trigger::Trigger;

/// Octets of the properties of a message to fire: they go in one frame, with what each run adds.
const PROPERTIES_MAX: usize = 64 << 10;

impl Registry {
    /// Makes a schedule, or changes the one of that name. `template` is its message.
    pub(crate) fn put(
        &mut self,
        now: Wall,
        mut definition: Definition,
        wishes: Wishes,
        template: &Message,
        deeds: &mut Deeds,
    ) -> Result<Value, AmqpError> {
        let slot = self.names.get(&definition.name).copied();
        let old = slot.and_then(|slot| self.schedule(slot));
        let goes_on = old.is_some_and(|old| definition.go_on_as(&old.definition));
        if wishes.overdue && !wishes.made_up_for && !goes_on {
            return Err(overdue());
        }
        self.check_room(&definition, template, old)?;
        let mut state = match old {
            Some(old) if goes_on => old.state.clone(),
            Some(old) => State {
                done: old
                    .state
                    .done
                    .for_another(&definition.rule.trigger, now, |at| {
                        old.past.history.find(Origin::Trigger, at).is_some()
                    }),
                ..old.state.clone()
            },
            None => State::of_new(&definition, &wishes),
        };
        if !goes_on && state.more.catch_up_to > Wall(0) {
            state.more.catch_up_to = Wall(0);
        }
        let next = state.done.next(now, |t| definition.next_after(t));
        let is_reboot = definition.rule.trigger == Trigger::Reboot;
        if next.is_none() && !is_reboot && !goes_on && !wishes.overdue {
            return Err(never(&definition.name));
        }
        if old.is_some() {
            let paused = wishes.paused.unwrap_or(state.more.paused);
            state.pause(paused, now);
            if let Some(note) = wishes.note {
                state.more.note = note;
            }
        }
        // Nothing is refused from here on.
        if let Some(old) = slot.and_then(|slot| self.schedule(slot)) {
            definition.name = old.definition.name.clone();
        }
        let note = Note {
            key: Arc::clone(definition.name.key()),
            value: Some(Arc::clone(&definition.kept)),
        };
        let is_new = slot.is_none();
        let slot = self.place(slot, definition, state, deeds);
        keep(deeds, [note]);
        // The state of a new one follows from its definition. Very many may never have another.
        if !is_new {
            keep(deeds, self.state_note(slot));
        }
        self.plan(slot, now);
        Ok(reply::changed(self, slot))
    }

    fn check_room(
        &self,
        definition: &Definition,
        template: &Message,
        old: Option<&Schedule>,
    ) -> Result<(), AmqpError> {
        let refuse = |what: String| Err(AmqpError::precondition_failed(what));
        let Limits {
            schedules_max,
            template_octets_max,
            templates_octets_max,
            ..
        } = self.limits;
        if definition.order_octets() > template_octets_max {
            return refuse(format!(
                "the message of schedule {} is larger than {template_octets_max} octets",
                quoted(&definition.name)
            ));
        }
        if template.raw_properties().len() > PROPERTIES_MAX {
            return refuse(format!(
                "the properties of the message of schedule {} are larger than {PROPERTIES_MAX} \
                 octets: its consumers could not receive it",
                quoted(&definition.name)
            ));
        }
        if old.is_none() && self.len() >= schedules_max && self.ended.is_empty() {
            return refuse(format!(
                "there are {schedules_max} schedules in this vhost, and no more may be made; \
                 delete some, or raise the setting schedules_max"
            ));
        }
        let freed = old.map_or(0, |old| octets(&old.definition));
        if self.templates_octets - freed + octets(definition) > templates_octets_max {
            return refuse(format!(
                "the messages of all schedules in this vhost would be larger than \
                 {templates_octets_max} octets; delete some"
            ));
        }
        Ok(())
    }

    /// Puts a schedule where it belongs, keeping history and counts if it was there before.
    fn place(
        &mut self,
        slot: Option<Slot>,
        mut definition: Definition,
        state: State,
        deeds: &mut Deeds,
    ) -> Slot {
        self.templates_octets += octets(&definition);
        if let Some(slot) = slot {
            let mut freed = 0;
            if let Some(schedule) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) {
                self.rules.share(&mut definition.rule);
                self.terms.share(&mut definition.terms);
                let old = std::mem::replace(&mut schedule.definition, definition);
                freed = octets(&old);
                let new = &schedule.definition.rule.trigger;
                self.rhythms.replace(slot, &old.rule.trigger, new);
                self.rules.release(&old.rule);
                self.terms.release(&old.terms);
                schedule.state = state;
                schedule.set_planned(None);
            }
            self.templates_octets -= freed;
            return slot;
        }
        if self.len() >= self.limits.schedules_max
            && let Some((_, oldest)) = self.ended.first().copied()
        {
            self.remove(oldest, deeds);
        }
        self.insert(Schedule::new(definition, state))
    }

    /// Adds a schedule whose name is new.
    pub(crate) fn insert(&mut self, mut schedule: Schedule) -> Slot {
        self.rules.share(&mut schedule.definition.rule);
        self.terms.share(&mut schedule.definition.terms);
        let name = schedule.definition.name.clone();
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            Slot::try_from(self.slots.len() - 1).unwrap_or(Slot::MAX) // bounded far below
        });
        self.rhythms.add(slot, &schedule.definition.rule.trigger);
        self.slots[slot as usize] = Some(Box::new(schedule));
        self.names.insert(name, slot);
        self.metrics.set(Counter::schedules, self.names.len());
        slot
    }

    pub(crate) fn delete(&mut self, name: &str, deeds: &mut Deeds) -> Result<Value, AmqpError> {
        let slot = self.find(name)?;
        self.remove(slot, deeds);
        Ok(json!({"name": name, "deleted": true}))
    }

    fn remove(&mut self, slot: Slot, deeds: &mut Deeds) {
        let Some(mut schedule) = self.slots.get_mut(slot as usize).and_then(Option::take) else {
            return;
        };
        let name = schedule.definition.name.clone();
        // The definition last: until it is gone, the schedule is still there.
        let runs = schedule.past.history.numbered();
        let mut notes: Vec<_> = runs
            .map(|(number, _)| note(run_key(&name, number), None))
            .collect();
        notes.push(note(state_key(&name), None));
        notes.push(Note {
            key: Arc::clone(name.key()),
            value: None,
        });
        keep(deeds, notes);
        forget_tasks(&mut self.agenda, slot, &mut schedule);
        self.rhythms.remove(slot, &schedule.definition.rule.trigger);
        if let Some(at) = schedule.past.ended {
            self.ended.remove(&(at, slot));
        }
        self.lengths.remove(&(schedule.past.history.len(), slot));
        self.history_runs -= schedule.past.history.len();
        self.rules.release(&schedule.definition.rule);
        self.terms.release(&schedule.definition.terms);
        self.templates_octets -= octets(&schedule.definition);
        self.names.remove(&name);
        self.free.push(slot);
        self.metrics.set(Counter::schedules, self.names.len());
        self.metrics.set(Counter::history_runs, self.history_runs);
    }

    /// Pauses a schedule, or lets it go on. What it would have fired meanwhile is left out.
    pub(crate) fn pause(
        &mut self,
        now: Wall,
        name: &str,
        pause: bool,
        written: Option<Box<str>>,
        deeds: &mut Deeds,
    ) -> Result<Value, AmqpError> {
        let slot = self.find(name)?;
        if let Some(schedule) = self.schedule_mut(slot) {
            let state = &mut schedule.state;
            state.pause(pause, now);
            if let Some(written) = written {
                state.more.note = written;
            }
        }
        keep(deeds, self.state_note(slot));
        self.plan(slot, now);
        Ok(reply::changed(self, slot))
    }

    /// Fires at once, whatever else is planned, paused or running.
    pub(crate) fn run_now(
        &mut self,
        now: Wall,
        name: &str,
        deeds: &mut Deeds,
    ) -> Result<Value, AmqpError> {
        let slot = self.find(name)?;
        let mut nominal = now;
        if let Some(schedule) = self.schedule_mut(slot) {
            let state = &mut schedule.state;
            nominal = now.max(Wall(state.more.last_run_now.0 + 1)); // no two of one name
            state.more.last_run_now = nominal;
        }
        self.fire(slot, Origin::Now, nominal, now, now, deeds);
        let mut reply = reply::changed(self, slot);
        reply["message_id"] = Origin::Now.message_id(name, nominal).into();
        Ok(reply)
    }

    pub(crate) fn backfill(
        &mut self,
        now: Wall,
        name: &str,
        from: Wall,
        to: Wall,
        deeds: &mut Deeds,
    ) -> Result<Value, AmqpError> {
        let slot = self.find(name)?;
        let max = self.limits.backfill_runs_max;
        let Some(schedule) = self.schedule_mut(slot) else {
            return Err(AmqpError::not_found(format_args!("schedule '{name}'")));
        };
        if schedule.state.more.backfills.len() >= BACKFILLS_MAX {
            return Err(AmqpError::precondition_failed(format_args!(
                "schedule '{name}' has {BACKFILLS_MAX} backfills that are not done: wait for them"
            )));
        }
        let after = Wall(from.0.saturating_sub(1));
        let mut runs = 0;
        let mut t = after;
        while let Some(next) = schedule.definition.next_after(t).filter(|next| *next <= to) {
            (t, runs) = (next, runs + 1);
            deeds.work += TIME_WORK;
            if runs > max {
                return Err(AmqpError::precondition_failed(format_args!(
                    "a backfill of schedule '{name}' from {from} to {to} has more than {max} runs: \
                     choose a shorter range",
                    from = crate::time::text(from),
                    to = crate::time::text(to),
                )));
            }
        }
        let state = &mut schedule.state;
        if runs > 0 {
            state.more.backfill_count = state.more.backfill_count.wrapping_add(1);
            let number = state.more.backfill_count;
            state.more.backfills.push(Backfill { number, after, to });
            keep(deeds, self.state_note(slot));
            self.appoint(slot, Task::Backfill, Some(now));
            self.plan(slot, now);
        }
        let mut reply = reply::changed(self, slot);
        reply["backfill"] = runs.into();
        Ok(reply)
    }

    pub(crate) fn preview(
        &self,
        now: Wall,
        of: Previewed,
        limit: usize,
        rights: &dyn Rights,
        deeds: &mut Deeds,
    ) -> Result<Value, AmqpError> {
        deeds.work += SHOWN_WORK * limit as u64;
        match of {
            Previewed::Kept(name) => {
                rights.may_configure(&name)?;
                let slot = self.find(&name)?;
                let Some(schedule) = self.schedule(slot) else {
                    return Err(AmqpError::not_found(format_args!("schedule '{name}'")));
                };
                Ok(reply::preview(schedule, now, limit))
            }
            Previewed::Proposed(definition) => {
                let done = Done::for_new(&definition.rule.trigger, now);
                let mut schedule = Schedule::new(*definition, State::new(done));
                schedule.plan(now);
                Ok(reply::preview(&schedule, now, limit))
            }
        }
    }
}

fn forget_tasks(agenda: &mut Agenda, slot: Slot, schedule: &mut Schedule) {
    for task in [Task::Release, Task::Planned, Task::Backfill, Task::Alarm] {
        agenda.set(slot, &mut schedule.appointments, task, None);
    }
}

fn never(name: &str) -> AmqpError {
    AmqpError::precondition_failed(format_args!(
        "schedule {} would never fire (searched: 5 years): look at x-schedule-cron, -start, -end \
         and -exclude-dates, for instance with x-schedule-action 'preview'",
        quoted(name)
    ))
}

/// What a definition takes, in memory and in the log.
pub(crate) fn octets(definition: &Definition) -> usize {
    definition.kept.len()
}

//! What happens when something is due: firing, leaving out, waiting, making up for.

use std::sync::Arc;

use bytes::Bytes;
use leveret_codec::FieldValue;
use leveret_core::ids::Wall;
use leveret_core::message::Message;
use leveret_core::schedule::{Deeds, Fire};

use crate::agenda::{Slot, Task};
use crate::definition::Definition;
use crate::metrics::Counter;
use crate::policy::{MISFIRE_AFTER_MS, Misfire, MisfireKind, OverlapKind};
use crate::registry::{Registry, TIME_WORK, keep};
use crate::run::{Origin, Outcome, Run};
use crate::schedule::Schedule;
use crate::state::BUFFERED_MAX;
use crate::time;
use crate::trigger::{Trigger, last_within};

/// What becomes of times that were missed.
enum Catch {
    /// All up to this one are left out.
    Leave(Wall),
    /// Those from the first to the last are fired, and what is before is left out.
    Up(Wall, Wall),
}

impl Registry {
    /// A nominal time is due.
    pub(crate) fn planned(&mut self, slot: Slot, now: Wall, deeds: &mut Deeds) {
        // The clock may have been put forward past what was already done.
        self.plan(slot, now);
        let Some(schedule) = self.schedule(slot) else {
            return;
        };
        let Some((nominal, due)) = schedule.planned().filter(|(_, due)| *due <= now) else {
            return;
        };
        let late_ms = now.0 - due.0;
        if late_ms <= MISFIRE_AFTER_MS || nominal <= schedule.state.more.catch_up_to {
            self.take(slot, nominal, due, now, deeds);
            return;
        }
        deeds.work += TIME_WORK * searches(&schedule.definition.terms.policy.misfire);
        match catch(schedule, nominal, now) {
            Catch::Leave(until) => {
                self.leave_out(slot, until, now);
                self.note_missed(slot, nominal, now, deeds);
                self.plan(slot, now);
            }
            Catch::Up(first, last) => {
                if first > nominal {
                    self.leave_out(slot, Wall(first.0 - 1), now);
                }
                let mut due = due;
                if let Some(schedule) = self.schedule_mut(slot) {
                    schedule.state.more.catch_up_to = last;
                    due = schedule.definition.due(first);
                }
                self.take(slot, first, due, now, deeds);
                if first > nominal {
                    // After the fire, so that it is in the same record: that times were left out
                    // holds only if the one is fired that stands for them.
                    self.note_missed(slot, nominal, now, deeds);
                }
            }
        }
    }

    /// Fires for a nominal time, unless the run before is not over.
    fn take(&mut self, slot: Slot, nominal: Wall, due: Wall, now: Wall, deeds: &mut Deeds) {
        let Some(schedule) = self.schedule_mut(slot) else {
            return;
        };
        schedule.state.done.mark(nominal);
        if schedule.definition.rule.trigger == Trigger::Reboot {
            schedule.set_planned(None);
        }
        let waiting = schedule.state.more.buffered.len();
        if waiting == 0 && schedule.busy_until(now).is_none() {
            self.fire(slot, Origin::Trigger, nominal, due, now, deeds);
            return;
        }
        let room = match schedule.definition.terms.policy.overlap.kind {
            OverlapKind::Allow | OverlapKind::Skip => 0,
            OverlapKind::BufferOne => 1,
            OverlapKind::BufferAll => BUFFERED_MAX,
        };
        let mut notes = Vec::new();
        if waiting < room {
            schedule.state.more.buffered.push_back(nominal);
        } else {
            schedule.past.counts.overlapped += 1;
            self.metrics.add(Counter::overlapped, 1);
            let run = Run::left_out(nominal, now, Outcome::Overlapped);
            self.remember(slot, run, &mut notes);
        }
        notes.extend(self.state_note(slot));
        keep(deeds, notes);
        self.plan(slot, now);
    }

    /// The run that was waited for is over.
    pub(crate) fn release(&mut self, slot: Slot, now: Wall, deeds: &mut Deeds) {
        let Some(schedule) = self.schedule_mut(slot) else {
            return;
        };
        if schedule.busy_until(now).is_none()
            && let Some(nominal) = schedule.state.more.buffered.pop_front()
        {
            let due = schedule.definition.due(nominal);
            self.fire(slot, Origin::Trigger, nominal, due, now, deeds);
        } else {
            self.appoint_release(slot, now);
        }
    }

    /// The next one of a backfill.
    pub(crate) fn backfill_step(&mut self, slot: Slot, now: Wall, deeds: &mut Deeds) {
        let Some(schedule) = self.schedule_mut(slot) else {
            return;
        };
        let definition = &schedule.definition;
        let next = schedule
            .state
            .more
            .backfills
            .first_mut()
            .and_then(|backfill| {
                let next = definition.next_after(backfill.after)?;
                backfill.after = next;
                (next <= backfill.to).then_some((backfill.number, next))
            });
        match next {
            Some((number, nominal)) => {
                let origin = Origin::Backfill(number);
                self.fire(slot, origin, nominal, now, now, deeds);
            }
            None => {
                if !schedule.state.more.backfills.is_empty() {
                    schedule.state.more.backfills.remove(0);
                }
                keep(deeds, self.state_note(slot));
            }
        }
        // Behind what else is due, so that others have their turn.
        let more = self
            .schedule(slot)
            .is_some_and(|schedule| !schedule.state.more.backfills.is_empty());
        self.appoint(slot, Task::Backfill, more.then_some(now));
        self.plan(slot, now);
    }

    /// Publishes, and keeps what that means in the same record.
    pub(crate) fn fire(
        &mut self,
        slot: Slot,
        origin: Origin,
        nominal: Wall,
        due: Wall,
        now: Wall,
        deeds: &mut Deeds,
    ) {
        let Some(schedule) = self.schedule_mut(slot) else {
            return;
        };
        match origin {
            Origin::Trigger => schedule.state.runs += 1,
            Origin::Now | Origin::Backfill(_) => schedule.state.more.extra_runs += 1,
        }
        let message = message(&schedule.definition, origin, nominal, now);
        let user = Arc::clone(&schedule.definition.terms.user);
        let deadline = schedule.definition.terms.policy.deadline_ms;
        let alarm = schedule.appointments.get(Task::Alarm);
        // As much of them as the vhost may be ahead of the log, and no more.
        deeds.work += message.memory_bytes() as u64 / 1_024;
        let mut notes = Vec::with_capacity(3);
        self.remember(slot, Run::fired(origin, nominal, now), &mut notes);
        notes.extend(self.state_note(slot));
        deeds.fires.push(Fire {
            user,
            message,
            notes,
        });
        self.metrics.fired_late(now.0.saturating_sub(due.0));
        if let Some(deadline) = deadline.filter(|_| alarm.is_none()) {
            let at = Wall(now.0.saturating_add(deadline));
            self.appoint(slot, Task::Alarm, Some(at));
        }
        self.plan(slot, now);
    }

    fn leave_out(&mut self, slot: Slot, until: Wall, now: Wall) {
        if let Some(schedule) = self.schedule_mut(slot) {
            schedule.state.done.skip(until, now);
            schedule.past.counts.missed += 1;
        }
        self.metrics.add(Counter::missed, 1);
    }

    fn note_missed(&mut self, slot: Slot, nominal: Wall, now: Wall, deeds: &mut Deeds) {
        let mut notes = Vec::new();
        let run = Run::left_out(nominal, now, Outcome::Missed);
        self.remember(slot, run, &mut notes);
        notes.extend(self.state_note(slot));
        keep(deeds, notes);
    }
}

/// How many times have to be worked out to know what was missed.
fn searches(misfire: &Misfire) -> u64 {
    match misfire.kind {
        MisfireKind::Skip | MisfireKind::FireOnce => 64,
        MisfireKind::All => 32 * u64::from(misfire.max),
    }
}

/// What the policy says about what was missed; `first` is the first of it, and surely late.
fn catch(schedule: &Schedule, first: Wall, now: Wall) -> Catch {
    let definition = &schedule.definition;
    let policy = &definition.terms.policy.misfire;
    let before = |t: Wall| Wall(t.0.saturating_sub(1));
    let next_after = |t| definition.next_after(t);
    let mut last = last_within(next_after, before(first), now).unwrap_or(first);
    if definition.due(last) > now {
        // Only the last one can be put off until later.
        last = last_within(next_after, before(first), before(last)).unwrap_or(first);
    }
    let oldest = policy
        .window_ms
        .map_or(0, |window| now.0.saturating_sub(window));
    let leave = || {
        let late = now
            .0
            .saturating_sub(MISFIRE_AFTER_MS + definition.terms.policy.jitter_ms + 1);
        Catch::Leave(first.max(Wall(late)))
    };
    if last.0 < oldest {
        return Catch::Leave(last);
    }
    match policy.kind {
        MisfireKind::Skip => leave(),
        MisfireKind::FireOnce => Catch::Up(last, last),
        MisfireKind::All => {
            let from = first.max(Wall(oldest));
            let from = next_after(before(from)).unwrap_or(last);
            Catch::Up(nth_last(next_after, from, last, policy.max), last)
        }
    }
}

/// The first of the last `max` times up to `last`, but none before `from`.
fn nth_last(next_after: impl Fn(Wall) -> Option<Wall>, from: Wall, last: Wall, max: u32) -> Wall {
    let mut t = from;
    let few = (1..max).any(|_| match next_after(t) {
        Some(next) if next < last => {
            t = next;
            false
        }
        _ => true,
    });
    if few || from >= last {
        return from;
    }
    let mut nth = last;
    for _ in 1..max {
        let before = Wall(nth.0.saturating_sub(1));
        let previous = last_within(&next_after, Wall(from.0.saturating_sub(1)), before);
        match previous {
            Some(previous) => nth = previous,
            None => break,
        }
    }
    nth
}

/// The message of a run.
fn message(definition: &Definition, origin: Origin, nominal: Wall, now: Wall) -> Message {
    definition.message_with(|properties| {
        let headers = properties.headers.get_or_insert_default();
        headers.insert("x-schedule-name", &*definition.name);
        headers.insert("x-schedule-nominal-time", time::text(nominal));
        headers.insert("x-schedule-fired-at", time::text(now));
        headers.insert("x-schedule-attempt", FieldValue::I64(1));
        properties.message_id = Some(Bytes::from(origin.message_id(&definition.name, nominal)));
    })
}

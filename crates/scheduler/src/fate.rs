//! What becomes of the messages that were fired, as the broker tells it.

use leveret_core::ids::Wall;
use leveret_core::schedule::{Deeds, Note, Refusal};

use crate::agenda::{Slot, Task};
use crate::metrics::Counter;
use crate::registry::{Registry, keep, note, run_key};
use crate::run::{Origin, Outcome, Run};

impl Registry {
    pub(crate) fn run_routed(
        &mut self,
        now: Wall,
        message_id: &str,
        queues: usize,
        notes: &mut Vec<Note>,
    ) {
        let Some((slot, number)) = self.run(message_id) else {
            return;
        };
        let count = u16::try_from(queues).unwrap_or(u16::MAX - 1);
        self.change_run(slot, number, |run| {
            run.queues = Some(count);
            run.left = count.max(1);
        });
        match queues {
            0 => self.run_settled(now, message_id, Outcome::Unrouted, notes),
            1 => {} // what a run is taken for anyway
            _ => notes.extend(self.run_note(slot, number)),
        }
    }

    pub(crate) fn run_refused(
        &mut self,
        now: Wall,
        message_id: &str,
        why: Refusal,
        notes: &mut Vec<Note>,
    ) {
        if let Some((slot, number)) = self.run(message_id) {
            self.change_run(slot, number, |run| run.queues = Some(0));
            self.run_settled(now, message_id, why.into(), notes);
        }
    }

    /// Not kept until the run is over: if the broker stops, the message is delivered again.
    pub(crate) fn run_delivered(&mut self, now: Wall, message_id: &str, consumer_tag: &str) {
        if let Some((slot, number)) = self.run(message_id) {
            self.change_run(slot, number, |run| {
                run.delivered = Some(now);
                if run.consumer.as_deref() != Some(consumer_tag) {
                    run.consumer = Some(consumer_tag.into());
                }
            });
        }
    }

    pub(crate) fn run_settled(
        &mut self,
        now: Wall,
        message_id: &str,
        outcome: Outcome,
        notes: &mut Vec<Note>,
    ) {
        let Some((slot, number)) = self.run(message_id) else {
            return;
        };
        let ended = self.change_run(slot, number, |run| {
            if !run.is_open() {
                return None;
            }
            run.settle(now, outcome);
            let took = now.0.saturating_sub(run.delivered.unwrap_or(now).0);
            Some((!run.is_open()).then(|| (run.was_acked(), took)))
        });
        let Some(ended) = ended.flatten() else {
            return;
        };
        notes.extend(self.run_note(slot, number));
        let Some((acked, took)) = ended else {
            return;
        };
        if let Some(schedule) = self.schedule_mut(slot) {
            if acked {
                schedule.past.counts.acked += 1;
                schedule.past.counts.processing_ms += took;
            } else {
                schedule.past.counts.failed += 1;
            }
        }
        if acked {
            self.metrics.add(Counter::acked, 1);
            self.metrics.add(Counter::processing_ms, took);
        } else {
            self.metrics.add(Counter::failed, 1);
        }
        self.appoint_release(slot, now);
    }

    /// A deadline may have passed.
    pub(crate) fn alarm(&mut self, slot: Slot, now: Wall, deeds: &mut Deeds) {
        let Some(schedule) = self.schedule(slot) else {
            return;
        };
        let deadline = schedule.definition.terms.policy.deadline_ms;
        let mut late = Vec::new();
        let mut next = None;
        for (number, run) in schedule.past.history.numbered() {
            if run.alarm || run.was_acked() || !run.was_fired() {
                continue;
            }
            let Some(at) = deadline.map(|ms| Wall(run.fired.0.saturating_add(ms))) else {
                break;
            };
            if at <= now {
                late.push(number);
            } else {
                next = Some(next.map_or(at, |next: Wall| next.min(at)));
            }
        }
        for number in late {
            self.change_run(slot, number, |run| run.alarm = true);
            keep(deeds, self.run_note(slot, number));
            self.metrics.add(Counter::alarms, 1);
            if let Some(schedule) = self.schedule_mut(slot) {
                schedule.past.counts.alarms += 1;
            }
        }
        self.appoint(slot, Task::Alarm, next);
    }

    /// The run of this name, if it is remembered.
    fn run(&self, message_id: &str) -> Option<(Slot, u64)> {
        let (name, origin, nominal): (_, Origin, _) = Origin::parse(message_id)?;
        let slot = *self.names.get(name.as_bytes())?;
        let number = self.schedule(slot)?.past.history.find(origin, nominal)?;
        Some((slot, number))
    }

    fn change_run<T>(
        &mut self,
        slot: Slot,
        number: u64,
        change: impl FnOnce(&mut Run) -> T,
    ) -> Option<T> {
        self.schedule_mut(slot)?.past.history.change(number, change)
    }

    fn run_note(&self, slot: Slot, number: u64) -> Option<Note> {
        let schedule = self.schedule(slot)?;
        let run = schedule.past.history.get(number)?;
        let key = run_key(&schedule.definition.name, number);
        Some(note(key, Some(run.encode())))
    }
}

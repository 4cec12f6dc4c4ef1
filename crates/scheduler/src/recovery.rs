//! Taking over what was kept, after a start.

use std::sync::Arc;

use leveret_core::ids::Wall;
use leveret_core::schedule::Note;

use crate::agenda::{Slot, Task};
use crate::change::octets;
use crate::definition::Definition;
use crate::metrics::Counter;
use crate::name::Name;
use crate::registry::{Key, Registry};
use crate::run::{Outcome, Run};
use crate::schedule::Schedule;
use crate::state::State;
use crate::trigger::Trigger;

impl Registry {
    pub(crate) fn take_over(&mut self, now: Wall, notes: Vec<Note>) -> Result<(), String> {
        // In the order of their keys definitions come first, and the runs of each by number.
        for Note { key, value } in notes {
            let Some(value) = value else {
                continue;
            };
            match Key::parse(&key).ok_or("a key that is not a schedule's")? {
                Key::Definition(name) => {
                    let (definition, wishes) =
                        Definition::decode(Name::of_key(Arc::clone(&key)), &value)
                            .map_err(|why| format!("{name}: {why}"))?;
                    self.templates_octets += octets(&definition);
                    let state = State::of_new(&definition, &wishes);
                    self.insert(Schedule::new(definition, state));
                }
                Key::State(name) => {
                    let state = State::decode(&value)
                        .ok_or_else(|| format!("{name}: its state cannot be read"))?;
                    if let Some(schedule) = self.named(name) {
                        schedule.state = state;
                    }
                }
                Key::Run(name, number) => {
                    let mut run = Run::decode(&value)
                        .ok_or_else(|| format!("{name}: one of its runs cannot be read"))?;
                    if let Some(schedule) = self.named(name) {
                        if run.is_open() && !schedule.definition.is_persistent() {
                            run.outcome = Some(Outcome::Lost);
                            run.ended = Some(now);
                        }
                        schedule.past.history.restore(number, run);
                    }
                }
            }
        }
        for slot in 0..self.slots.len() {
            self.resume(Slot::try_from(slot).unwrap_or(Slot::MAX), now);
        }
        self.metrics.set(Counter::history_runs, self.history_runs);
        Ok(())
    }

    fn named(&mut self, name: &str) -> Option<&mut Schedule> {
        let slot = *self.names.get(name.as_bytes())?;
        self.schedule_mut(slot)
    }

    /// Puts what a schedule was about to do on the agenda.
    fn resume(&mut self, slot: Slot, now: Wall) {
        let Some(schedule) = self.schedule_mut(slot) else {
            return;
        };
        let runs = schedule.past.history.len();
        let backfills = !schedule.state.more.backfills.is_empty();
        let waits_for_ack = schedule.definition.terms.policy.deadline_ms.is_some() && runs > 0;
        if schedule.definition.rule.trigger == Trigger::Reboot {
            // Each start is a time of its own, also if the clock says it was before the last one.
            let nominal = now.max(Wall(schedule.state.done.last().0.saturating_add(1)));
            schedule.set_planned(Some((nominal, now)));
        }
        if runs > 0 {
            self.lengths.insert((runs, slot));
            self.history_runs += runs;
        }
        self.appoint(slot, Task::Backfill, backfills.then_some(now));
        self.appoint(slot, Task::Alarm, waits_for_ack.then_some(now));
        self.plan(slot, now);
    }
}

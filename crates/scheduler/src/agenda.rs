//! What is to be done next, for all schedules: by time, each with an entry for each kind of thing.

use std::collections::BTreeSet;

use leveret_core::ids::Wall;

use crate::seldom::Perhaps;

/// Place of a schedule in the registry.
pub(crate) type Slot = u32;

/// What may have to be done about a schedule. Those named first come first at the same time.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Task {
    /// A run that waited for another may be fired.
    Release,
    /// A nominal time is due.
    Planned,
    /// Somebody wants what has passed made up for.
    Backfill,
    /// The deadline of a run passes.
    Alarm,
}

/// When each task of one schedule is due, as the agenda has it.
#[derive(Debug)]
pub(crate) struct Appointments {
    planned: Perhaps,
    /// Of the other tasks by their numbers, while there is any.
    others: Option<Box<[Perhaps; 4]>>,
}

/// All tasks by time. O(log n) each.
#[derive(Debug, Default)]
pub(crate) struct Agenda(BTreeSet<(Wall, Task, Slot)>);

impl Appointments {
    pub(crate) fn get(&self, task: Task) -> Option<Wall> {
        if task == Task::Planned {
            return self.planned.get();
        }
        self.others.as_ref()?[task as usize].get()
    }

    fn set(&mut self, task: Task, at: Option<Wall>) {
        if task == Task::Planned {
            self.planned = at.into();
            return;
        }
        if at.is_none() && self.others.is_none() {
            return;
        }
        let none = || Box::new([Perhaps::NONE; 4]);
        let others = self.others.get_or_insert_with(none);
        others[task as usize] = at.into();
        if **others == [Perhaps::NONE; 4] {
            self.others = None;
        }
    }
}

impl Default for Appointments {
    fn default() -> Self {
        Self {
            planned: Perhaps::NONE,
            others: None,
        }
    }
}

impl Agenda {
    pub(crate) fn first(&self) -> Option<(Wall, Task, Slot)> {
        self.0.first().copied()
    }

    /// Moves a task to another time, or takes it off.
    pub(crate) fn set(
        &mut self,
        slot: Slot,
        appointments: &mut Appointments,
        task: Task,
        at: Option<Wall>,
    ) {
        let old = appointments.get(task);
        if old == at {
            return;
        }
        appointments.set(task, at);
        if let Some(old) = old {
            self.0.remove(&(old, task, slot));
        }
        if let Some(at) = at {
            self.0.insert((at, task, slot));
        }
    }
}

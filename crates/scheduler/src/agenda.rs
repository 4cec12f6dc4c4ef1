//! What is to be done next, for all schedules: by time, each with an entry for each kind of thing.

use std::collections::BTreeSet;

use leveret_core::ids::Wall;

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
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Appointments([Option<Wall>; 4]);

/// All tasks by time. O(log n) each.
#[derive(Debug, Default)]
pub(crate) struct Agenda(BTreeSet<(Wall, Task, Slot)>);

impl Appointments {
    pub(crate) fn get(&self, task: Task) -> Option<Wall> {
        self.0[task as usize]
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
        let old = std::mem::replace(&mut appointments.0[task as usize], at);
        if old == at {
            return;
        }
        if let Some(old) = old {
            self.0.remove(&(old, task, slot));
        }
        if let Some(at) = at {
            self.0.insert((at, task, slot));
        }
    }
}

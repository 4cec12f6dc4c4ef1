//! The last runs of a schedule, in the order in which they were fired.

use std::collections::VecDeque;

use leveret_core::ids::Wall;

use crate::run::{Origin, Run};

/// Runs that a schedule remembers, at most.
pub const RUNS_MAX: usize = 1_000;

/// The last runs, each with a number that is never used again.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// Number of the first one that is left.
    first: u64,
    runs: VecDeque<Run>,
    /// How many of them are open.
    open: usize,
}

impl History {
    pub(crate) fn len(&self) -> usize {
        self.runs.len()
    }

    /// Appends a run and returns its number.
    pub(crate) fn push(&mut self, run: Run) -> u64 {
        self.open += usize::from(run.is_open());
        self.runs.push_back(run);
        self.first + self.runs.len() as u64 - 1
    }

    /// As it was kept. They come in order; those in between were forgotten.
    pub(crate) fn restore(&mut self, number: u64, run: Run) {
        if self.runs.is_empty() {
            self.first = number;
        }
        // A gap cannot be, but numbers must fit their runs: forget what is before it.
        if number != self.first + self.runs.len() as u64 {
            self.runs.clear();
            (self.first, self.open) = (number, 0);
        }
        self.push(run);
    }

    /// Forgets the first one and returns its number.
    pub(crate) fn pop(&mut self) -> Option<u64> {
        let run = self.runs.pop_front()?;
        self.open -= usize::from(run.is_open());
        self.first += 1;
        Some(self.first - 1)
    }

    /// Changes a run.
    pub(crate) fn change<T>(
        &mut self,
        number: u64,
        change: impl FnOnce(&mut Run) -> T,
    ) -> Option<T> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let run = self.runs.get_mut(place)?;
        let before = usize::from(run.is_open());
        let result = change(run);
        self.open = self.open - before + usize::from(run.is_open());
        Some(result)
    }

    pub(crate) fn get(&self, number: u64) -> Option<&Run> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.runs.get(place)
    }

    /// The number of a run. Most that are asked for are recent.
    pub(crate) fn find(&self, origin: Origin, nominal: Wall) -> Option<u64> {
        self.numbered()
            .rev()
            .find(|(_, run)| run.nominal == nominal && run.origin == origin && run.was_fired())
            .map(|(number, _)| number)
    }

    /// When the last of the open runs counts as over, if one is open.
    pub(crate) fn busy_until(&self, timeout_ms: u64) -> Option<Wall> {
        if self.open == 0 {
            return None;
        }
        let open = self.runs.iter().filter(|run| run.is_open());
        open.map(|run| run.fired)
            .max()
            .map(|fired| Wall(fired.0.saturating_add(timeout_ms)))
    }

    pub(crate) fn numbered(
        &self,
    ) -> impl DoubleEndedIterator<Item = (u64, &Run)> + ExactSizeIterator {
        self.runs
            .iter()
            .enumerate()
            .map(|(place, run)| (self.first + place as u64, run))
    }

    pub(crate) fn last_fired(&self) -> Option<&Run> {
        self.runs.iter().rev().find(|run| run.was_fired())
    }
}

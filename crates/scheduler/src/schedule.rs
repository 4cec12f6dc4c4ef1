//! One schedule: what it is, what it remembers, and what comes next.

use std::sync::LazyLock;

use leveret_core::ids::Wall;

use crate::agenda::Appointments;
use crate::definition::Definition;
use crate::history::History;
use crate::policy::OverlapKind;
use crate::seldom::{Perhaps, Rare, Seldom};
use crate::state::State;
use crate::trigger::Trigger;

/// A schedule of the registry.
#[derive(Debug)]
pub(crate) struct Schedule {
    pub(crate) definition: Definition,
    pub(crate) state: State,
    /// Nominal time and due time of what comes next.
    planned: (Perhaps, Perhaps),
    pub(crate) appointments: Appointments,
    pub(crate) past: Seldom<Past>,
}

/// What is known of a schedule that has fired, or never will again.
#[derive(Debug, Default)]
pub(crate) struct Past {
    pub(crate) history: History,
    pub(crate) counts: Counts,
    /// Since when nothing more comes.
    pub(crate) ended: Option<Wall>,
}

/// What became of its runs, since the broker started.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) acked: u64,
    pub(crate) failed: u64,
    pub(crate) overlapped: u64,
    pub(crate) missed: u64,
    pub(crate) alarms: u64,
    /// From delivery to ack, of those that were acked.
    pub(crate) processing_ms: u64,
}

impl Rare for Past {
    fn none() -> &'static Self {
        static NONE: LazyLock<Past> = LazyLock::new(Past::default);
        &NONE
    }
}

impl Schedule {
    pub(crate) fn new(definition: Definition, state: State) -> Self {
        Self {
            definition,
            state,
            planned: (Perhaps::NONE, Perhaps::NONE),
            appointments: Appointments::default(),
            past: Seldom::default(),
        }
    }

    /// Nominal time and due time of what comes next.
    pub(crate) fn planned(&self) -> Option<(Wall, Wall)> {
        Some((self.planned.0.get()?, self.planned.1.get()?))
    }

    pub(crate) fn set_planned(&mut self, planned: Option<(Wall, Wall)>) {
        let (nominal, due) = planned.unzip();
        self.planned = (nominal.into(), due.into());
    }

    /// Works out anew what comes next by this clock.
    pub(crate) fn plan(&mut self, now: Wall) {
        self.state.more.trim();
        let definition = &self.definition;
        let runs = self.state.runs + self.state.more.buffered.len() as u64;
        let enough = definition
            .terms
            .policy
            .max_runs
            .is_some_and(|max| runs >= max);
        if self.state.more.paused || enough {
            self.set_planned(None);
        } else if definition.rule.trigger != Trigger::Reboot {
            let next = self.state.done.next(now, |t| definition.next_after(t));
            let planned = next.map(|nominal| (nominal, definition.due(nominal)));
            self.set_planned(planned);
        }
    }

    /// Whether nothing will ever come of it by itself.
    pub(crate) fn is_over(&self) -> bool {
        let reboot = self.definition.rule.trigger == Trigger::Reboot;
        let state = &self.state;
        let waits = state.more.paused
            || !state.more.buffered.is_empty()
            || !state.more.backfills.is_empty();
        let enough = self
            .definition
            .terms
            .policy
            .max_runs
            .is_some_and(|max| state.runs >= max);
        self.planned().is_none() && !waits && (!reboot || enough)
    }

    /// Until when a run must wait for one that is not over; none if it need not wait.
    pub(crate) fn busy_until(&self, now: Wall) -> Option<Wall> {
        let overlap = self.definition.terms.policy.overlap;
        if overlap.kind == OverlapKind::Allow {
            return None;
        }
        self.past
            .history
            .busy_until(overlap.timeout_ms)
            .filter(|until| *until > now)
    }

    /// The next nominal times, at most so many.
    pub(crate) fn upcoming(&self, count: usize) -> Vec<Wall> {
        let mut next = self.planned().map(|(nominal, _)| nominal);
        let used = self.state.runs + self.state.more.buffered.len() as u64;
        let left = self
            .definition
            .terms
            .policy
            .max_runs
            .map_or(u64::MAX, |max| max.saturating_sub(used));
        let count = count.min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut upcoming = Vec::new();
        while let Some(nominal) = next.filter(|_| upcoming.len() < count) {
            upcoming.push(nominal);
            next = self.definition.next_after(nominal);
        }
        upcoming
    }
}

//! Timers of the vhost, and what each of them means.

use leveret_wheel::{TimerKey, Wheel};

use crate::effect::Effects;
use crate::ids::{Mono, QueueId};
use crate::vhost::Vhost;

/// What happens when a timer is due.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Timer {
    /// A queue may have been unused for its `x-expires`.
    QueueExpiry(QueueId),
}

/// The vhost's timing wheel, by the monotonic clock.
pub(crate) struct Timers {
    wheel: Wheel<Timer>,
    due: Vec<(u64, Timer)>,
}

impl Timers {
    pub(crate) fn new() -> Self {
        Self {
            wheel: Wheel::new(0),
            due: Vec::new(),
        }
    }

    pub(crate) fn set(&mut self, at: Mono, timer: Timer) -> TimerKey {
        self.wheel.insert(at.0, timer)
    }

    pub(crate) fn cancel(&mut self, key: TimerKey) {
        self.wheel.cancel(key);
    }

    pub(crate) fn next(&self) -> Option<Mono> {
        self.wheel.next_due().map(Mono)
    }
}

impl std::fmt::Debug for Timers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Timers({})", self.wheel.len())
    }
}

impl Vhost {
    /// Does what has become due.
    pub(crate) fn tick(&mut self, fx: &mut Effects) {
        let mut due = std::mem::take(&mut self.timers.due);
        self.timers.wheel.advance(self.now.mono.0, &mut due);
        for (_, timer) in due.drain(..) {
            match timer {
                Timer::QueueExpiry(queue) => self.expire_queue(queue, fx),
            }
        }
        self.timers.due = due;
    }
}

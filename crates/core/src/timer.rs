//! Timers of the vhost, and what each of them means.

use leveret_wheel::{TimerKey, Wheel};

use crate::delayed::Clock;
use crate::effect::Effects;
use crate::ids::{ChannelKey, Mono, QueueId};
use crate::vhost::Vhost;

/// What happens when a timer is due.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Timer {
    /// A queue may have been unused for its `x-expires`.
    QueueExpiry(QueueId),
    /// Messages of a queue may have expired.
    MessageExpiry(QueueId),
    /// Messages of a queue may be due to be delivered again.
    Retry(QueueId),
    /// Deliveries of a channel may have gone unsettled for too long.
    Unsettled(ChannelKey),
    /// Deaths wait to be carried out.
    Bury,
    /// Messages may be due to be delivered that waited for that by this clock.
    Delayed(Clock),
    /// There may be more delayed messages to look for in the log.
    Looking,
    /// Schedules may be due.
    Schedules,
    /// A read from the log had failed and is to be tried again.
    FetchAgain(QueueId),
    /// Memory is short, and what could not be swapped out is tried again.
    SwapAgain,
}

/// The vhost's timing wheel, by the monotonic clock.
pub(crate) struct Timers {
    wheel: Wheel<Timer>,
    /// Out of the wheel and not yet looked at: more was due than one tick could do. In the order
    /// in which they were due, the earliest last.
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

    /// Sees to it that a timer of which there is one at most is due by then: one that is due earlier
    /// stays as it is.
    pub(crate) fn bring_forward(
        &mut self,
        running: &mut Option<(Mono, TimerKey)>,
        at: Mono,
        timer: Timer,
    ) {
        if running.is_some_and(|(before, _)| before <= at) {
            return;
        }
        if let Some((_, later)) = running.take() {
            self.cancel(later);
        }
        *running = Some((at, self.set(at, timer)));
    }

    pub(crate) fn cancel(&mut self, key: TimerKey) {
        self.wheel.cancel(key);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.wheel.len() + self.due.len()
    }

    pub(crate) fn next(&self) -> Option<Mono> {
        let left = self.due.last().map(|&(at, _)| at);
        left.or_else(|| self.wheel.next_due()).map(Mono)
    }

    /// The next one that is due. They leave the wheel as many at once as are due in the same
    /// millisecond, so that very many of them are not moved for the sake of a few.
    fn take_due(&mut self, now: Mono) -> Option<Timer> {
        while self.due.is_empty() {
            let next = self.wheel.next_due().filter(|&at| at <= now.0)?;
            self.wheel.advance(next, &mut self.due);
            self.due.reverse();
        }
        self.due.pop().map(|(_, timer)| timer)
    }
}

impl std::fmt::Debug for Timers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Timers({})", self.wheel.len())
    }
}

impl Vhost {
    /// Does what has become due, or as much of it as makes up `budget` of work.
    ///
    /// A timer that is left over is looked at again when its turn comes, as if it were due then: a
    /// queue that was used meanwhile stays.
    pub(crate) fn tick(&mut self, budget: u64, fx: &mut Effects) {
        let end = self.work.saturating_add(budget);
        while self.work < end
            && let Some(timer) = self.timers.take_due(self.now.mono)
        {
            self.work += 1;
            match timer {
                Timer::QueueExpiry(queue) => self.expire_queue(queue, fx),
                Timer::MessageExpiry(queue) => self.message_timer(queue, fx),
                Timer::Retry(queue) => self.retry_timer(queue, fx),
                Timer::Unsettled(channel) => self.check_unsettled(channel, fx),
                Timer::Bury => self.bury_rest(fx),
                Timer::Delayed(clock) => self.delayed_timer(clock, fx),
                Timer::Looking => self.go_on_looking(fx),
                Timer::Schedules => self.schedules_due(fx),
                Timer::FetchAgain(queue) => self.fetch_again(queue, fx),
                Timer::SwapAgain => self.swap_again(fx),
            }
        }
    }
}

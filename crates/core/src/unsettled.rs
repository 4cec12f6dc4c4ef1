//! Deliveries that nobody settles: a consumer that is stuck must not hold messages for ever.
//!
//! One timer a channel, which looks at all its deliveries when the oldest could be too old, and is
//! set anew from what it finds.

use leveret_wheel::TimerKey;

use crate::effect::Effects;
use crate::error::AmqpError;
use crate::ids::{ChannelKey, Mono};
use crate::timer::{Timer, Timers};
use crate::vhost::{Vhost, scanned};

/// Looks at one channel are at least so far apart, in milliseconds: as exact as this needs to be.
const INTERVAL_MS: u64 = 1_000;

impl Vhost {
    /// The channel's timer is due: it is closed if a delivery is too old (406).
    pub(crate) fn check_unsettled(&mut self, key: ChannelKey, fx: &mut Effects) {
        let now = self.now.mono;
        let Some(channel) = self.channels.get_mut(key) else {
            return;
        };
        channel.timer = None;
        let Some(channel) = self.channels.get(key) else {
            return;
        };
        self.work += scanned(channel.unacked.len());
        let limit = |queue| {
            let others_ms = self.limits.consumer_timeout_ms;
            let queue = self.queues.get(queue);
            queue.map_or(others_ms, |q| q.rules.consumer_timeout_ms(others_ms))
        };
        let deliveries = channel.unacked.iter();
        let ends = deliveries.map(|d| (d.at.plus_ms(limit(d.queue)), limit(d.queue)));
        let first: Option<(Mono, u64)> = ends.min();
        let (id, number) = (channel.connection, channel.number);
        match first {
            Some((end, limit)) if end <= now => {
                let error = AmqpError::precondition_failed(format_args!(
                    "delivery acknowledgement on channel {number} timed out. Timeout value used: \
                     {limit} ms. This timeout value can be configured, see consumers doc guide to \
                     learn more"
                ));
                self.refuse(id, number, error, fx);
            }
            Some((end, _)) => {
                let due = end.max(now.plus_ms(INTERVAL_MS));
                if let Some(channel) = self.channels.get_mut(key) {
                    self.timers.look_at_unsettled(&mut channel.timer, due, key);
                }
            }
            None => {}
        }
    }
}

impl Timers {
    /// Has a channel's deliveries looked at then, unless they will be before, or that is never.
    pub(crate) fn look_at_unsettled(
        &mut self,
        timer: &mut Option<(Mono, TimerKey)>,
        due: Mono,
        key: ChannelKey,
    ) {
        if timer.is_some_and(|(at, _)| at <= due) || due == Mono(u64::MAX) {
            return;
        }
        if let Some((_, later)) = timer.take() {
            self.cancel(later);
        }
        *timer = Some((due, self.set(due, Timer::Unsettled(key))));
    }
}

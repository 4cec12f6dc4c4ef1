//! The two clocks the machine is driven with.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use leveret_core::{Mono, Now, Wall};

/// How often both clocks are read to find out how they stand to each other: a reading may be cut in
/// two by whatever else the machine does.
const READINGS: usize = 16;

/// Counts milliseconds from when it was made. Each begins when one of the clock on the wall does, so
/// that what is rounded down by one clock is not rounded up by the other.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    /// What the clock on the wall showed then.
    wall: Wall,
}

impl Clock {
    /// A clock that stands at zero, or less than a millisecond later.
    #[must_use]
    pub fn start() -> Self {
        let reading = || {
            let before = Instant::now();
            let wall = SystemTime::now().duration_since(UNIX_EPOCH);
            (before.elapsed(), before, wall.unwrap_or_default())
        };
        let (_, at, wall) = (1..READINGS).map(|_| reading()).fold(reading(), |a, b| {
            // The shortest is the most exact.
            if b.0 < a.0 { b } else { a }
        });
        Self::at(at, wall)
    }

    /// A clock for when these two were read at once.
    fn at(at: Instant, wall: Duration) -> Self {
        let begun = Duration::from_nanos(u64::from(wall.subsec_nanos() % 1_000_000));
        Self {
            start: at.checked_sub(begun).unwrap_or(at),
            wall: Wall(millis(wall)),
        }
    }

    /// Both clocks when this one stood at zero.
    #[must_use]
    pub const fn started(&self) -> Now {
        Now {
            mono: Mono(0),
            wall: self.wall,
        }
    }

    /// Both clocks.
    #[must_use]
    pub fn now(&self) -> Now {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Now {
            mono: self.mono(),
            wall: Wall(millis(wall)),
        }
    }

    /// The monotonic clock alone.
    #[must_use]
    pub fn mono(&self) -> Mono {
        Mono(millis(self.start.elapsed()))
    }

    /// When [`Clock::mono`] will show this, for tokio's timers.
    #[must_use]
    pub fn instant(&self, at: Mono) -> tokio::time::Instant {
        // Years ahead is as good as never, and cannot overflow.
        const FAR: u64 = 10 * 365 * 86_400 * 1_000;
        (self.start + Duration::from_millis(at.0.min(FAR))).into()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_milliseconds_of_both_clocks_begin_together() {
        let at = Instant::now();
        let clock = Clock::at(at, Duration::from_micros(5_000_700));
        assert_eq!(clock.start + Duration::from_micros(700), at);
        let started = Now {
            mono: Mono(0),
            wall: Wall(5_000),
        };
        assert_eq!(clock.started(), started);
    }
}

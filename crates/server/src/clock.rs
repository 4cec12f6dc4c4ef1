//! The two clocks the machine is driven with.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use leveret_core::{Mono, Now, Wall};

/// Counts milliseconds from when it was made.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that stands at zero.
    #[must_use]
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
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

//! Virtual time: it passes when the simulator says so.

use leveret_core::{Mono, Now, Wall};

/// Both clocks. The one on the wall may be set by people.
#[derive(Debug)]
pub struct Clock {
    mono: u64,
    wall: u64,
}

impl Clock {
    /// A clock some time after its start.
    #[must_use]
    pub fn new() -> Self {
        Self {
            mono: 1_000,
            wall: 1_750_000_000_000,
        }
    }

    /// What it shows.
    #[must_use]
    pub fn now(&self) -> Now {
        Now {
            mono: Mono(self.mono),
            wall: Wall(self.wall),
        }
    }

    /// The clock of a program that starts now.
    pub fn restart(&mut self) {
        self.mono = 0;
    }

    /// So many milliseconds pass.
    pub fn pass(&mut self, ms: u64) {
        self.mono += ms;
        self.wall += ms;
    }

    /// Somebody sets the clock on the wall, forwards or back.
    pub fn set_wall(&mut self, by_ms: i64) {
        self.wall = self.wall.saturating_add_signed(by_ms);
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

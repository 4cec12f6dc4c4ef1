//! Both clocks, to the microsecond: the broker reads milliseconds of each. Those begin together when a
//! process starts, and do not any more once somebody has set the one on the wall.

use leveret_core::{Mono, Now, Wall};

use crate::dice::Dice;

/// What is between two milliseconds, in microseconds.
const MS: u64 = 1_000;

/// Time that really passes, and two clocks that show some of it.
#[derive(Clone, Debug)]
pub struct Clock {
    /// Microseconds since the run began.
    passed: u64,
    /// What the clock on the wall shows, in microseconds since 1970.
    wall: u64,
    /// When the steady clock began, in microseconds of the run; less than 0 is before it.
    began: i64,
}

impl Clock {
    /// A clock that shows about this time on the wall, in milliseconds.
    #[must_use]
    pub fn new(wall_ms: u64, dice: &mut Dice) -> Self {
        let mut clock = Self {
            passed: 0,
            wall: wall_ms * MS + dice.between(0..=999),
            began: 0,
        };
        clock.restart(dice);
        clock
    }

    /// The steady clock of a program that starts now.
    pub fn restart(&mut self, dice: &mut Dice) {
        let ago = dice.between(0..=5) * MS + self.wall % MS;
        self.began = self.passed as i64 - ago as i64;
    }

    /// The steady clock goes on apart from the other: a mistake of whoever reads them.
    pub fn pull_apart(&mut self, dice: &mut Dice) {
        self.began -= dice.between(1..=999) as i64;
    }

    /// What the broker reads.
    #[must_use]
    pub fn now(&self) -> Now {
        let steady = self.passed as i64 - self.began;
        Now {
            mono: Mono(steady as u64 / MS),
            wall: Wall(self.wall / MS),
        }
    }

    /// Milliseconds on the wall.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        self.wall / MS
    }

    /// Microseconds that have really passed.
    #[must_use]
    pub fn passed_us(&self) -> u64 {
        self.passed
    }

    /// Microseconds until the wall shows this millisecond; 0 if it has.
    #[must_use]
    pub fn until_wall_us(&self, ms: u64) -> u64 {
        (ms * MS).saturating_sub(self.wall)
    }

    /// Microseconds until the steady clock shows this millisecond; 0 if it has.
    #[must_use]
    pub fn until_mono_us(&self, at: Mono) -> u64 {
        let at = self.began + (at.0 * MS) as i64;
        u64::try_from(at - self.passed as i64).unwrap_or(0)
    }

    /// Time passes.
    pub fn pass_us(&mut self, us: u64) {
        self.passed += us;
        self.wall += us;
    }

    /// Somebody sets the clock on the wall, by so many microseconds.
    pub fn set_wall(&mut self, by_us: i64) {
        self.wall = self.wall.saturating_add_signed(by_us);
    }
}

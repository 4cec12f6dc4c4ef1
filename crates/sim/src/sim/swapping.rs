//! What the simulation does with the swap area, and with what is asked back from there and from the log.

use crate::dice::Dice;
use crate::model::Checked;
use crate::plan::Plan;
use crate::swap;

use super::Sim;

/// Of a run: octets that a queue may hold in memory and that may be on their way to the swap area,
/// and in how many percent of the steps that does something.
pub(super) fn drawn(seed: u64, plan: &mut Plan) -> ((usize, usize), u64) {
    let mut swaps = Dice::new(!seed);
    let swap_bytes_max = swaps.one_of(&[0, 1, 5_000, 1 << 30]);
    let swap_pace = swaps.one_of(&[2, 10, 50]);
    if swap_bytes_max > 0 {
        plan.forget_octets();
    }
    // So little that messages are swapped out in most runs.
    let is_tight = swap_bytes_max > 0 && swaps.chance(40);
    let queue_memory_max = if is_tight {
        1_000
    } else {
        plan.queue_memory_max
    };
    ((queue_memory_max, swap_bytes_max), swap_pace)
}

impl Sim {
    /// The swap area gets on with it, or does not. With dice of its own: what it does not change stays
    /// as it is without a swap area.
    pub(super) fn let_swap(&mut self, dice: &mut Dice) -> Checked {
        if !dice.chance(self.swap_pace) {
            return Ok(());
        }
        let outcome = swap::Outcome::drawn(dice);
        let works = dice.chance(60);
        self.swap(works.then_some(outcome), dice.below(8))
    }

    pub(super) fn swap(&mut self, outcome: Option<swap::Outcome>, at: usize) -> Checked {
        let turn = self.pair.swap(self.clock.now(), outcome, at, self.trace)?;
        if let Some(turn) = turn {
            self.moves += 1;
            self.pass_on(turn);
        }
        Ok(())
    }

    pub(super) fn answer_fetch(&mut self, at: usize, fails: Option<usize>) -> Checked {
        self.tick()?;
        let now = self.clock.now();
        let turn = self.pair.answer_fetch(now, at, fails, self.trace)?;
        if let Some(turn) = turn {
            self.moves += 1;
            self.pass_on(turn);
        }
        Ok(())
    }
}

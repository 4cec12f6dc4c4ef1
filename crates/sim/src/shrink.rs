//! From a run that fails to a shorter one that fails.
//!
//! A step decides by its own seed what it does, whatever happened before. So any selection of the
//! steps of a run is a run too, and one leaves out steps as long as it still fails.

use crate::sim::{Setup, run, steps};

/// Steps of the run that suffice to make it fail; all of them if it does not.
#[must_use]
pub fn shrink(setup: &Setup) -> Vec<u64> {
    let mut kept = setup.steps.clone().unwrap_or_else(|| steps(setup.seed));
    let fails = |steps: &[u64]| {
        let steps = Some(steps.to_vec());
        let trace = false;
        let setup = Setup {
            steps,
            trace,
            ..setup.clone()
        };
        run(&setup).1.err().map(|failure| failure.step)
    };
    let Some(failed_at) = fails(&kept) else {
        return kept;
    };
    kept.truncate(failed_at);
    let mut piece = kept.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let mut shorter = false;
        while at < kept.len() {
            let end = (at + piece).min(kept.len());
            let without = [&kept[..at], &kept[end..]].concat();
            if fails(&without).is_some() {
                kept = without;
                shorter = true;
            } else {
                at = end;
            }
        }
        if piece > 1 {
            piece = piece.div_ceil(2);
        } else if !shorter {
            return kept;
        }
    }
}

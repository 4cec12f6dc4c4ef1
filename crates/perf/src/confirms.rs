//! Which publishes are confirmed: each must be, once.

use std::collections::VecDeque;

use crate::{Error, Result, scan::Confirm};

/// Which publishes of a channel are confirmed: each must be, once.
#[derive(Debug, Default)]
pub struct Tracker {
    /// Tag of the oldest unconfirmed publish, less one: everything up to it is confirmed.
    confirmed_to: u64,
    /// Whether each publish after that is confirmed. Those of it that are came singly.
    confirmed: VecDeque<bool>,
    unconfirmed: u64,
}

impl Tracker {
    /// Notes `count` more publishes.
    pub fn published(&mut self, count: u64) {
        self.confirmed.extend((0..count).map(|_| false));
        self.unconfirmed += count;
    }

    pub fn unconfirmed(&self) -> u64 {
        self.unconfirmed
    }

    /// # Errors
    /// When it confirms what was never published, or again what it has confirmed already.
    pub fn confirm(&mut self, confirm: &Confirm) -> Result<()> {
        let tag = confirm.delivery_tag;
        let wrong = |what: &str| Err(Error::Wrong(format!("confirm of publish {tag}, {what}")));
        let Some(index) = tag.checked_sub(self.confirmed_to + 1) else {
            return wrong("which was confirmed before");
        };
        let Some(index) = usize::try_from(index)
            .ok()
            .filter(|&index| index < self.confirmed.len())
        else {
            return wrong("which was never sent");
        };
        if confirm.multiple {
            let fresh = self.confirmed.drain(..=index).filter(|done| !done).count();
            self.confirmed_to = tag;
            self.unconfirmed -= fresh as u64;
        } else if std::mem::replace(&mut self.confirmed[index], true) {
            return wrong("which was confirmed before");
        } else {
            self.unconfirmed -= 1;
        }
        while self.confirmed.front() == Some(&true) {
            self.confirmed.pop_front();
            self.confirmed_to += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Delivery tag and `multiple`.
    type Tag = (u64, bool);

    const ONE: bool = false;
    const UP_TO: bool = true;

    fn after(published: u64, confirms: &[Tag]) -> Result<Tracker> {
        let mut tracker = Tracker::default();
        tracker.published(published);
        for &(delivery_tag, multiple) in confirms {
            tracker.confirm(&Confirm {
                delivery_tag,
                multiple,
                len: 0,
            })?;
        }
        Ok(tracker)
    }

    #[test]
    fn confirms_that_are_right() {
        #[rustfmt::skip]
        let table: [(&[Tag], u64, &str); 6] = [
            // confirms                          left  why this row is here
            (&[],                                5,    "none yet"),
            (&[(1, ONE), (2, ONE)],              3,    "one by one"),
            (&[(3, ONE), (1, ONE)],              3,    "in any order"),
            (&[(4, UP_TO)],                      1,    "four at once"),
            (&[(3, ONE), (4, UP_TO), (5, ONE)],  0,    "one of the four before"),
            (&[(2, UP_TO), (5, UP_TO)],          0,    "some at once, twice"),
        ];
        for (confirms, left, why) in table {
            let tracker = after(5, confirms).unwrap_or_else(|error| panic!("{why}: {error}"));
            assert_eq!(tracker.unconfirmed(), left, "{why}");
        }
    }

    #[test]
    fn confirms_that_are_wrong() {
        #[rustfmt::skip]
        let table: [(&[Tag], &str); 7] = [
            (&[(6, ONE)],               "never sent"),
            (&[(6, UP_TO)],             "never sent, nor is all before it"),
            (&[(0, ONE)],               "tags count from 1"),
            (&[(2, ONE), (2, ONE)],     "twice, and 1 still open"),
            (&[(1, ONE), (1, ONE)],     "twice, the oldest"),
            (&[(3, UP_TO), (2, ONE)],   "again, after it was covered"),
            (&[(3, UP_TO), (3, UP_TO)], "covers nothing new"),
        ];
        for (confirms, why) in table {
            assert!(matches!(after(5, confirms), Err(Error::Wrong(_))), "{why}");
        }
    }
}

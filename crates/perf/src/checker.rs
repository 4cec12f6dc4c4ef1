//! Finds out whether what was sent has arrived: all of it, once, in order, unaltered.
//!
//! Every message carries its number, counted from 0 by its publisher, and a stamp (see
//! [`script`](crate::script)). The usual case costs a few comparisons; only what is odd is
//! remembered, so that a late message can be told from a lost one.

use std::collections::BTreeSet;

use crate::{Error, Result, scan::Delivery, script};

/// Missing numbers remembered at most. Whoever loses more is wrong all the same.
const MISSING_MAX: u64 = 1_000_000;

/// Watches one publisher's messages through one queue.
#[derive(Debug, Default)]
pub struct Checker {
    /// The number that comes next if nothing goes wrong.
    expected: u64,
    /// Numbers passed over and not seen since.
    missing: BTreeSet<u64>,
    lost_uncounted: u64,
    disordered: u64,
    duplicates: u64,
    altered: u64,
    redelivered: u64,
    repeated_tags: u64,
    last_delivery_tag: u64,
    redelivery_is_fine: bool,
    disorder_is_fine: bool,
}

impl Checker {
    /// Looks at one delivery, which should have `body_size` bytes, and answers its stamp.
    #[inline]
    pub fn see(&mut self, delivery: &Delivery<'_>, body_size: usize) -> u64 {
        let Some((seq, stamp)) = script::read_body(delivery.body) else {
            self.altered += 1;
            return 0;
        };
        if seq == self.expected {
            self.expected += 1;
            self.repeated_tags += u64::from(delivery.delivery_tag <= self.last_delivery_tag);
        } else {
            self.odd(seq);
        }
        self.altered += u64::from(delivery.body_size != body_size as u64);
        self.redelivered += u64::from(delivery.redelivered);
        self.last_delivery_tag = delivery.delivery_tag;
        stamp
    }

    /// Notes a message that is not for this queue.
    #[cold]
    pub fn stray(&mut self) {
        self.altered += 1;
    }

    #[cold]
    fn odd(&mut self, seq: u64) {
        if seq > self.expected {
            let gap = seq - self.expected;
            if gap + self.missing.len() as u64 > MISSING_MAX {
                self.lost_uncounted += gap;
            } else {
                self.missing.extend(self.expected..seq);
            }
            self.expected = seq + 1;
        } else if self.missing.remove(&seq) {
            self.disordered += 1;
        } else {
            self.duplicates += 1;
        }
    }

    /// After a restart a server may not know whether it had delivered a message before.
    pub fn allow_redelivered(&mut self) {
        self.redelivery_is_fine = true;
    }

    /// Messages that come by their time need not come by their number.
    pub fn allow_disorder(&mut self) {
        self.disorder_is_fine = true;
    }

    /// The verdict, when `sent` messages were sent, and the last of them were not waited for.
    ///
    /// # Errors
    /// As [`finish`](Self::finish), but that the tail is missing is no fault.
    pub fn finish_early(&self, sent: u64) -> Result<()> {
        self.finish(sent.min(self.expected))
    }

    /// The verdict, when `sent` messages were sent and no more come.
    ///
    /// # Errors
    /// [`Error::Wrong`] with what happened how often.
    pub fn finish(&self, sent: u64) -> Result<()> {
        let lost =
            self.missing.len() as u64 + self.lost_uncounted + sent.saturating_sub(self.expected);
        let redelivered = if self.redelivery_is_fine {
            0
        } else {
            self.redelivered
        };
        let disordered = if self.disorder_is_fine {
            0
        } else {
            self.disordered
        };
        let counts = [
            (lost, "lost"),
            (disordered, "out of order"),
            (self.duplicates, "duplicated"),
            (self.altered, "altered or strayed"),
            (redelivered, "marked redelivered"),
            (self.repeated_tags, "under the delivery tag of another"),
            (self.expected.saturating_sub(sent), "never sent"),
        ];
        let wrong: Vec<String> = counts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        if wrong.is_empty() {
            return Ok(());
        }
        Err(Error::Wrong(format!(
            "of {sent} messages {}",
            wrong.join(", ")
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 16;

    fn seen(seqs: &[u64]) -> Checker {
        let mut checker = Checker::default();
        for (delivery_tag, &seq) in (1..).zip(seqs) {
            let body = script::body(SIZE, seq, 7);
            checker.see(&delivery(delivery_tag, &body), SIZE);
        }
        checker
    }

    fn delivery(delivery_tag: u64, body: &[u8]) -> Delivery<'_> {
        Delivery {
            delivery_tag,
            redelivered: false,
            body_size: body.len() as u64,
            body,
            len: 0,
        }
    }

    #[test]
    fn verdicts() {
        #[rustfmt::skip]
        let table: [(&[u64], u64, &str, &str); 10] = [
            // seen            sent  verdict                             why this row is here
            (&[0, 1, 2],       3, "",                                    "all is well"),
            (&[],              0, "",                                    "nothing sent, nothing seen"),
            (&[0, 1],          3, "1 lost",                              "the tail"),
            (&[0, 2, 3],       4, "1 lost",                              "from the middle"),
            (&[3],             4, "3 lost",                              "from the start"),
            (&[0, 2, 1, 3],    4, "1 out of order",                      "swapped: late, not lost"),
            (&[0, 1, 1, 2],    3, "1 duplicated",                        "twice in a row"),
            (&[0, 1, 2, 0],    3, "1 duplicated",                        "again, much later"),
            (&[0, 2, 1, 1],    4, "1 lost, 1 out of order, 1 duplicated","late, then again, and the last one lost"),
            (&[0, 1, 2],       2, "1 never sent",                        "from somewhere else"),
        ];
        for (seqs, sent, verdict, why) in table {
            let got = seen(seqs).finish(sent).map_err(|error| error.to_string());
            let expected = match verdict {
                "" => Ok(()),
                wrong => Err(format!("WRONG: of {sent} messages {wrong}")),
            };
            assert_eq!(got, expected, "{why}");
        }
    }

    #[test]
    fn stamp_comes_back() {
        let body = script::body(SIZE, 0, 7);
        assert_eq!(Checker::default().see(&delivery(1, &body), SIZE), 7);
    }

    #[test]
    fn altered_bodies_are_noticed() {
        let mut checker = Checker::default();
        checker.see(&delivery(1, b"too short"), SIZE);
        assert!(checker.finish(0).is_err(), "no room for a number");

        let mut checker = Checker::default();
        checker.see(&delivery(1, &script::body(SIZE + 1, 0, 7)), SIZE);
        assert!(checker.finish(1).is_err(), "another size than sent");

        let mut checker = Checker::default();
        checker.stray();
        assert!(checker.finish(0).is_err(), "of another queue");
    }

    #[test]
    fn only_the_tail_may_be_missing_when_the_end_is_not_waited_for() {
        assert!(seen(&[0, 1]).finish_early(9).is_ok(), "the tail");
        assert!(seen(&[]).finish_early(9).is_ok(), "all of it is tail");
        assert!(seen(&[0, 2]).finish_early(9).is_err(), "a gap");
        assert!(seen(&[0, 1]).finish_early(1).is_err(), "one never sent");
    }

    #[test]
    fn redelivery_is_noticed() {
        let body = script::body(SIZE, 0, 7);
        let mut checker = Checker::default();
        let redelivered = Delivery {
            redelivered: true,
            ..delivery(1, &body)
        };
        checker.see(&redelivered, SIZE);
        assert!(checker.finish(1).is_err());
        checker.allow_redelivered();
        assert!(checker.finish(1).is_ok(), "after a restart");
    }

    #[test]
    fn repeated_delivery_tag_is_noticed() {
        let mut checker = Checker::default();
        checker.see(&delivery(1, &script::body(SIZE, 0, 7)), SIZE);
        checker.see(&delivery(1, &script::body(SIZE, 1, 7)), SIZE);
        assert!(checker.finish(2).is_err());
    }

    #[test]
    fn more_missing_than_is_remembered_is_still_wrong() {
        let checker = seen(&[MISSING_MAX + 1]);
        let error = checker.finish(MISSING_MAX + 2).unwrap_err().to_string();
        assert!(error.contains("1000001 lost"), "{error}");
    }
}

//! A swap area that is slow, fails, and whose reports come late or get lost.

use std::collections::{BTreeMap, VecDeque};

use leveret_core::ids::QueueId;
use leveret_core::log::{Fetch, LogError, Swap, Swapped};
use leveret_core::{Message, Seq, Wall};

use crate::dice::Dice;
use crate::model::{Checked, Violation};
use crate::violation;

/// A message in its place, and when it arrived.
type Arrived = (Seq, Message, Option<Wall>);

/// What becomes of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It is carried out.
    Done,
    /// It cannot be, which is reported.
    Failed,
    /// It is carried out, and nothing is ever heard of it.
    Unheard,
}

impl Outcome {
    /// What the dice say.
    pub fn drawn(dice: &mut Dice) -> Self {
        match dice.below(100) {
            0..30 => Self::Failed,
            30 => Self::Unheard,
            _ => Self::Done,
        }
    }
}

/// The swap area of a broker.
#[derive(Debug, Default)]
pub struct Area {
    requests: VecDeque<Swap>,
    reports: Vec<Swapped>,
    kept: BTreeMap<QueueId, BTreeMap<Seq, (Message, Option<Wall>)>>,
    /// A report got lost: something may stay there that nobody knows of.
    unheard: bool,
}

impl Area {
    /// Takes requests.
    ///
    /// # Errors
    /// If they make no sense.
    pub fn ask(&mut self, swaps: Vec<Swap>) -> Checked {
        for swap in swaps {
            if let Swap::Out { messages, .. } = &swap {
                let ascend = messages.is_sorted_by(|(a, ..), (b, ..)| a < b);
                if messages.is_empty() || !ascend {
                    return Err(violation!("{swap:?} is out of order"));
                }
            }
            self.requests.push_back(swap);
        }
        Ok(())
    }

    /// Carries out the first request. Returns how many messages were kept, if there was one.
    pub fn work(&mut self, outcome: Outcome) -> Option<u64> {
        match self.requests.pop_front()? {
            Swap::Out {
                queue,
                messages,
                bytes,
            } => {
                let failed = outcome == Outcome::Failed;
                let count = if failed { 0 } else { messages.len() as u64 };
                if !failed {
                    let messages = messages.into_iter().map(|(seq, m, at)| (seq, (m, at)));
                    self.kept.entry(queue).or_default().extend(messages);
                }
                self.unheard |= outcome == Outcome::Unheard;
                if outcome != Outcome::Unheard {
                    let error = failed.then(|| LogError::Unavailable("no room".to_owned()));
                    self.reports.push(Swapped {
                        queue,
                        bytes,
                        error,
                    });
                }
                Some(count)
            }
            Swap::Forget { queue, runs } => {
                if let Some(kept) = self.kept.get_mut(&queue) {
                    let gone = |seq: &Seq| runs.iter().any(|(a, b)| (*a..=*b).contains(seq));
                    kept.retain(|seq, _| !gone(seq));
                }
                self.kept.retain(|_, kept| !kept.is_empty());
                Some(0)
            }
        }
    }

    /// A report that has not been heard yet.
    pub fn report(&mut self, at: usize) -> Option<Swapped> {
        let at = at.checked_rem(self.reports.len())?;
        Some(self.reports.remove(at))
    }

    /// Puts what was asked back among what the log has of it.
    ///
    /// # Errors
    /// If a message is in both.
    pub fn read(&self, fetch: &Fetch, logged: Vec<Arrived>) -> Result<Vec<Arrived>, Violation> {
        let logged = logged.into_iter().map(|(seq, m, at)| (seq, (m, at)));
        let mut all: BTreeMap<Seq, (Message, Option<Wall>)> = logged.collect();
        let kept = self.kept.get(&fetch.queue).into_iter();
        for (seq, message) in kept.flat_map(|kept| kept.range(fetch.first..=fetch.last)) {
            if all.insert(*seq, message.clone()).is_some() {
                return Err(violation!("place {seq} is in the log and swapped out"));
            }
        }
        let mut bytes = 0;
        let all = all.into_iter().map(|(seq, (m, at))| (seq, m, at));
        let enough = |(_, message, _): &Arrived| {
            let more = bytes < fetch.bytes_max;
            bytes += message.memory_bytes();
            more
        };
        Ok(all.take_while(enough).collect())
    }

    /// Nothing is kept for nobody.
    ///
    /// # Errors
    /// If something is, although every queue is empty.
    pub fn check_empty(&self) -> Checked {
        match self.kept.first_key_value() {
            Some((queue, kept)) if !self.unheard => {
                let seqs: Vec<Seq> = kept.keys().copied().collect();
                Err(violation!("{seqs:?} of {queue:?} stay swapped out"))
            }
            _ => Ok(()),
        }
    }
}

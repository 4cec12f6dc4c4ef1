//! A log that keeps messages and gives them back.

use std::collections::BTreeMap;

use leveret_core::log::{Fetched, RecoveredQueue, Run};
use leveret_core::{Fact, Input, Message, QueueNumber, Seq};

use super::BrokerTest;

/// What the log has of the messages.
#[derive(Default)]
pub(crate) struct Kept(pub(crate) BTreeMap<(QueueNumber, Seq), Message>);

impl Kept {
    pub(crate) fn take_in(&mut self, t: &mut BrokerTest) {
        for fact in t.facts() {
            self.apply(fact);
        }
    }

    pub(crate) fn apply(&mut self, fact: Fact) {
        match fact {
            Fact::Published {
                message, places, ..
            } => {
                for place in places {
                    self.0.insert(place, message.clone());
                }
            }
            Fact::Settled { queue, seq } => {
                self.0.remove(&(queue, seq));
            }
            Fact::Together(facts) => facts.into_iter().for_each(|fact| self.apply(fact)),
            _ => {}
        }
    }

    /// Answers everything that is asked back, until nothing is any more.
    pub(crate) fn answer_all(&mut self, t: &mut BrokerTest) {
        while self.answer(t) {}
    }

    pub(crate) fn answer(&mut self, t: &mut BrokerTest) -> bool {
        self.take_in(t);
        let Some(fetch) = t.fetches.pop() else {
            return false;
        };
        let wanted = (fetch.number, fetch.first)..=(fetch.number, fetch.last);
        let (mut messages, mut bytes) = (Vec::new(), 0);
        for ((_, seq), message) in self.0.range(wanted) {
            // As the log does: what is too much does not come, unless it is the first.
            bytes += message.block().len();
            if bytes > fetch.bytes_max && !messages.is_empty() {
                break;
            }
            messages.push((*seq, message.clone()));
        }
        t.step(Input::Fetched(Fetched {
            queue: fetch.queue,
            messages,
            error: None,
        }));
        true
    }

    /// What a start finds of this queue.
    pub(crate) fn recovered(&self, number: QueueNumber) -> RecoveredQueue {
        let places: Vec<Seq> = self
            .0
            .keys()
            .filter(|at| at.0 == number)
            .map(|at| at.1)
            .collect();
        RecoveredQueue {
            number,
            last: places.last().copied().unwrap_or_default(),
            delivered_through: Seq(0),
            runs: places
                .into_iter()
                .map(|seq| Run {
                    first: seq,
                    last: seq,
                    bytes: 100,
                })
                .collect(),
        }
    }
}

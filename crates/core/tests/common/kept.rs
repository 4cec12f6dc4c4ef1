//! A log in a few lines: what it would give back, and what a restart would find.

use std::collections::BTreeMap;

use leveret_core::ids::QueueId;
use leveret_core::log::{Fetched, Recovered, RecoveredQueue, Run, Swap, Swapped};
use leveret_core::{Fact, Input, Limits, Lsn, Message, Now, QueueNumber, Record, Retry, Seq, Wall};

use super::BrokerTest;

/// What the log has of queues and messages.
#[derive(Clone, Default)]
pub(crate) struct Kept {
    last: Lsn,
    queues: BTreeMap<QueueNumber, (Fact, Seq)>,
    pub(crate) messages: BTreeMap<(QueueNumber, Seq), (Message, Wall)>,
    pub(crate) retries: BTreeMap<(QueueNumber, Seq), Retry>,
    /// The swap area, which outlives no restart.
    pub(crate) swapped: BTreeMap<(QueueId, Seq), (Message, Option<Wall>)>,
}

impl Kept {
    pub(crate) fn take_in(&mut self, t: &mut BrokerTest) {
        for record in std::mem::take(&mut t.records) {
            let Record { lsn, fact } = record;
            self.last = lsn;
            self.apply(lsn, fact);
        }
    }

    fn apply(&mut self, lsn: Lsn, fact: Fact) {
        match fact {
            Fact::QueueDeclared { .. } => {
                self.queues.insert(QueueNumber(lsn.0), (fact, Seq(0)));
            }
            Fact::Published {
                message,
                places,
                at,
                ..
            } => {
                for place in places {
                    self.messages.insert(place, (message.clone(), at));
                    if let Some((_, last)) = self.queues.get_mut(&place.0) {
                        *last = Seq(place.1.number()).max(*last);
                    }
                }
            }
            Fact::Settled { queue, seq } => {
                let gone = self.messages.remove(&(queue, seq));
                assert!(gone.is_some(), "{seq} is settled twice");
                self.retries.remove(&(queue, seq));
            }
            Fact::Purged { queue, places } => {
                for (first, last) in places {
                    for seq in (first.0..=last.0).map(Seq) {
                        assert!(self.messages.remove(&(queue, seq)).is_some(), "{seq}");
                        self.retries.remove(&(queue, seq));
                    }
                }
            }
            Fact::Retried { queue, retries } => {
                assert!(retries.is_sorted_by_key(|retry| retry.seq));
                for retry in retries {
                    assert!(self.messages.contains_key(&(queue, retry.seq)));
                    self.retries.insert((queue, retry.seq), retry);
                }
            }
            Fact::Together(facts) => facts.into_iter().for_each(|fact| self.apply(lsn, fact)),
            _ => {}
        }
    }

    /// Answers everything that is asked back, until nothing is any more.
    pub(crate) fn answer_all(&mut self, t: &mut BrokerTest) {
        while self.answer(t) {}
    }

    /// Carries out what the swap area is asked for first, and reports that.
    fn obey_swap(&mut self, t: &mut BrokerTest) -> bool {
        if t.swaps.is_empty() {
            return false;
        }
        match t.swaps.remove(0) {
            Swap::Out {
                queue,
                messages,
                bytes,
            } => {
                let messages = messages.into_iter();
                self.swapped
                    .extend(messages.map(|(seq, m, at)| ((queue, seq), (m, at))));
                let error = None;
                t.step(Input::Swapped(Swapped {
                    queue,
                    bytes,
                    error,
                }));
            }
            Swap::Forget { queue, runs } => {
                let gone = |at: &Seq| runs.iter().any(|(a, b)| (*a..=*b).contains(at));
                self.swapped.retain(|(of, at), _| *of != queue || !gone(at));
            }
        }
        true
    }

    pub(crate) fn answer(&mut self, t: &mut BrokerTest) -> bool {
        self.take_in(t);
        if self.obey_swap(t) {
            return true;
        }
        let Some(fetch) = t.fetches.pop() else {
            return false;
        };
        let wanted = (fetch.number, fetch.first)..=(fetch.number, fetch.last);
        let logged = self.messages.range(wanted);
        let logged = logged.map(|((_, seq), (message, at))| (*seq, (message, Some(*at))));
        let wanted = (fetch.queue, fetch.first)..=(fetch.queue, fetch.last);
        let swapped = self.swapped.range(wanted);
        let swapped = swapped.map(|((_, seq), (message, at))| (*seq, (message, *at)));
        let both: BTreeMap<Seq, (&Message, Option<Wall>)> = logged.chain(swapped).collect();
        let (mut messages, mut bytes) = (Vec::new(), 0);
        for (seq, (message, at)) in both {
            // As the log does: what is too much does not come, unless it is the first.
            bytes += message.block().len();
            if bytes > fetch.bytes_max && !messages.is_empty() {
                break;
            }
            messages.push((seq, message.clone(), at));
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
        let all = (number, Seq(0))..=(number, Seq(u64::MAX));
        let messages = self.messages.range(all.clone());
        let last = messages
            .clone()
            .map(|((_, seq), _)| Seq(seq.number()))
            .max();
        let runs = messages.clone().map(|((_, seq), (message, _))| Run {
            first: *seq,
            last: *seq,
            bytes: message.memory_bytes() as u64,
        });
        let expiring = messages.filter_map(|((_, seq), (message, at))| {
            Some((*seq, Wall(at.0 + message.expiration_ms()?)))
        });
        RecoveredQueue {
            number,
            last: last.unwrap_or_default(),
            delivered_through: Seq(0),
            runs: runs.collect(),
            expiring: expiring.collect(),
            retries: self.retries.range(all).map(|(_, retry)| *retry).collect(),
        }
    }

    /// A broker that starts with what is kept.
    pub(crate) fn restart(&self, now: Now, limits: Limits) -> BrokerTest {
        let queues = self
            .queues
            .iter()
            .map(|(&number, &(_, last))| RecoveredQueue {
                last,
                ..self.recovered(number)
            });
        let definitions = self.queues.iter();
        let definitions = definitions.map(|(number, (fact, _))| (Lsn(number.0), fact.clone()));
        let recovered = Recovered {
            last: self.last,
            definitions: definitions.collect(),
            queues: queues.collect(),
        };
        BrokerTest::recovered_with(recovered, now, limits).expect("it makes sense")
    }
}

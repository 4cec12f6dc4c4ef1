//! What goes on while there is no room: what frees some is written before the rest, and what is only
//! good to know waits in memory without holding anything up.
//!
//! Whoever goes first passes others that were there before. So nothing goes first that one of those
//! who stay behind would undo once it is written: each case below says why it may.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::mem;
use std::sync::Arc;

use leveret_core::Record;
use leveret_core::ids::{Lsn, QueueNumber, Seq};
use leveret_core::record::{Fact, Retry};

use crate::log::VhostNumber;
use crate::state::State;

/// Retries in one record at most.
const RETRIES_AT_ONCE: usize = 64;

/// Whether a fact takes no room for long: it frees some, or those who free some need it.
///
/// [`Fact::Retried`] does not by itself: it frees nothing, and a client that rejects the same
/// message again and again has no end of them.
pub(crate) fn frees(fact: &Fact) -> bool {
    match fact {
        Fact::Settled { .. }
        | Fact::Purged { .. }
        | Fact::MayDeliver { .. }
        | Fact::ExchangeDeleted { .. }
        | Fact::QueueDeleted { .. }
        | Fact::Unbound(_) => true,
        // There are no more of them than messages that leave.
        Fact::Together(facts) => {
            let goes_along = |fact: &Fact| match fact {
                Fact::MayDeliver { .. } | Fact::Retried { .. } | Fact::Noted(_) => true,
                fact => takes_out(fact),
            };
            facts.iter().any(takes_out) && facts.iter().all(goes_along)
        }
        _ => false,
    }
}

/// Whether messages leave their queue with this.
fn takes_out(fact: &Fact) -> bool {
    matches!(
        fact,
        Fact::Settled { .. } | Fact::Purged { .. } | Fact::QueueDeleted { .. }
    )
}

/// Takes those records of a vhost out of what waits for room that may go first. All are in order.
pub(crate) fn extract(
    state: &mut State,
    vhost: VhostNumber,
    records: &mut Vec<Record>,
) -> Vec<Record> {
    let mut sorting = Sorting {
        state,
        vhost: vhost.0,
        behind: Vec::new(),
        keys: HashSet::new(),
        marks: BTreeSet::new(),
        retries: false,
        defines: false,
    };
    let mut first = Vec::new();
    for record in mem::take(records) {
        if sorting.may_go(&record.fact) {
            first.push(record);
        } else {
            sorting.leave(record);
        }
    }
    *records = sorting.behind;
    first
}

struct Sorting<'a> {
    state: &'a mut State,
    vhost: u32,
    /// Records that stay behind, and what they speak of: keys of notes, queues with a mark, whether
    /// anything is retried, and whether anything is defined or goes on from one queue to others.
    behind: Vec<Record>,
    keys: HashSet<Arc<[u8]>>,
    marks: BTreeSet<QueueNumber>,
    retries: bool,
    defines: bool,
}

impl Sorting<'_> {
    fn may_go(&mut self, fact: &Fact) -> bool {
        match fact {
            // A settle before its publish would bring the message back.
            Fact::Settled { queue, seq } => self.is_there(*queue, *seq),
            Fact::Purged { queue, places } => {
                self.knows(*queue) && !self.publishes_into(*queue, places)
            }
            // Of two marks the last one holds.
            Fact::MayDeliver { queue, .. } => self.knows(*queue) && !self.marks.contains(queue),
            // What is published into a queue that is gone is nowhere; but a binding would be left. And
            // a message that goes on as a dead letter would be gone with the queue it comes from, or
            // find no way after a start.
            Fact::QueueDeleted { queue, .. } => self.knows(*queue) && !self.defines,
            Fact::ExchangeDeleted { .. } | Fact::Unbound(_) => !self.defines,
            Fact::Together(facts) if frees(fact) => facts.iter().all(|fact| match fact {
                // Of two notes the last one holds, and of two retries; and what is not there is not
                // retried.
                Fact::Noted(note) => !self.keys.contains(&note.key),
                Fact::Retried { queue, retries } => {
                    let mut retries = retries.iter();
                    !self.retries && retries.all(|retry| self.is_there(*queue, retry.seq))
                }
                fact => self.may_go(fact),
            }),
            _ => false,
        }
    }

    fn leave(&mut self, record: Record) {
        self.note(&record.fact);
        self.behind.push(record);
    }

    fn note(&mut self, fact: &Fact) {
        match fact {
            Fact::Published { .. } | Fact::Settled { .. } | Fact::Purged { .. } => {}
            Fact::Retried { .. } => self.retries = true,
            Fact::MayDeliver { queue, .. } => {
                self.marks.insert(*queue);
            }
            Fact::Noted(note) => {
                self.keys.insert(Arc::clone(&note.key));
            }
            Fact::Together(facts) => {
                let is_publish = |fact: &Fact| matches!(fact, Fact::Published { .. });
                self.defines |= facts.iter().any(takes_out) && facts.iter().any(is_publish);
                facts.iter().for_each(|fact| self.note(fact));
            }
            _ => self.defines = true,
        }
    }

    fn knows(&mut self, queue: QueueNumber) -> bool {
        self.state.queue(self.vhost, queue.0).is_some()
    }

    fn is_there(&mut self, queue: QueueNumber, seq: Seq) -> bool {
        let queue = self.state.queue(self.vhost, queue.0);
        queue.is_some_and(|queue| queue.messages.get(seq.0).is_some())
    }

    /// Whether something that stays behind is a publish into one of these places.
    fn publishes_into(&self, queue: QueueNumber, runs: &[(Seq, Seq)]) -> bool {
        let is_in = |seq: Seq| {
            let mut runs = runs.iter();
            runs.any(|&(first, last)| first <= seq && seq <= last)
        };
        let hits = |fact: &Fact| match fact {
            Fact::Published { places, .. } => {
                let mut places = places.iter();
                places.any(|&(of, seq)| of == queue && is_in(seq))
            }
            _ => false,
        };
        self.behind.iter().any(|record| match &record.fact {
            Fact::Together(facts) => facts.iter().any(hits),
            fact => hits(fact),
        })
    }
}

/// What is known of messages of a vhost that are to be delivered again, while there is no room to
/// write it: of each message the last word, so there is no more of it than there are messages.
///
/// Nobody is told when such a thing is safe, so it holds nothing up; a crash in such a time forgets
/// it.
#[derive(Debug, Default)]
pub(crate) struct Late(BTreeMap<(QueueNumber, Seq), (Lsn, Retry)>);

impl Late {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes over what can wait.
    pub(crate) fn take_from(&mut self, records: &mut Vec<Record>) {
        records.retain(|record| {
            let Fact::Retried { queue, retries } = &record.fact else {
                return true;
            };
            for retry in retries {
                self.0.insert((*queue, retry.seq), (record.lsn, *retry));
            }
            false
        });
    }

    /// These are written: what they speak of is of no interest any more.
    pub(crate) fn forget(&mut self, records: &[Record]) {
        if self.is_empty() {
            return;
        }
        for record in records {
            self.forget_fact(record.lsn, &record.fact);
        }
    }

    /// All of it as records that come before these, which are newer.
    pub(crate) fn put_before(&mut self, records: &mut Vec<Record>) {
        let late = mem::take(&mut self.0);
        let late: Vec<_> = late
            .into_iter()
            .map(|((queue, _), (lsn, retry))| (queue, lsn, retry))
            .collect();
        let mut all = Vec::new();
        for of_queue in late.chunk_by(|one, other| one.0 == other.0) {
            for some in of_queue.chunks(RETRIES_AT_ONCE) {
                let Some(&(queue, ..)) = some.first() else {
                    continue;
                };
                all.push(Record {
                    lsn: some.iter().map(|late| late.1).max().unwrap_or_default(),
                    fact: Fact::Retried {
                        queue,
                        retries: some.iter().map(|late| late.2).collect(),
                    },
                });
            }
        }
        all.append(records);
        *records = all;
    }

    fn forget_fact(&mut self, lsn: Lsn, fact: &Fact) {
        match fact {
            Fact::Settled { queue, seq } => {
                self.0.remove(&(*queue, *seq));
            }
            Fact::Purged { queue, places } => {
                for &(first, last) in places.iter().filter(|run| run.0 <= run.1) {
                    let gone = self.0.range((*queue, first)..=(*queue, last));
                    let gone: Vec<_> = gone.map(|(place, _)| *place).collect();
                    for place in gone {
                        self.0.remove(&place);
                    }
                }
            }
            Fact::QueueDeleted { queue, .. } => self.0.retain(|place, _| place.0 != *queue),
            Fact::Retried { queue, retries } => {
                for retry in retries {
                    let place = (*queue, retry.seq);
                    if self.0.get(&place).is_some_and(|late| late.0 < lsn) {
                        self.0.remove(&place);
                    }
                }
            }
            Fact::Together(facts) => {
                for fact in facts {
                    self.forget_fact(lsn, fact);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use leveret_core::ids::Wall;
    use leveret_core::message::Message;
    use leveret_core::record::{BindingFact, Note};

    use super::*;
    use crate::record::Body;
    use crate::state::Place;

    const Q: QueueNumber = QueueNumber(1);
    const STUCK: QueueNumber = QueueNumber(2);

    fn publish(queue: QueueNumber, seq: u64) -> Fact {
        let block = [0, 0, 0, 0, 0, 0, 4, 0, 2, 0, 0, 2, b'r', b'k'];
        Fact::Published {
            message: Message::from_block(&block).expect("a sound block"),
            user: "guest".into(),
            at: Wall(0),
            places: [(queue, Seq(seq))].into_iter().collect(),
        }
    }

    fn settle(seq: u64) -> Fact {
        let seq = Seq(seq);
        Fact::Settled { queue: Q, seq }
    }

    fn purge(first: u64, last: u64) -> Fact {
        Fact::Purged {
            queue: Q,
            places: vec![(Seq(first), Seq(last))],
        }
    }

    fn mark(queue: QueueNumber, through: u64) -> Fact {
        let through = Seq(through);
        Fact::MayDeliver { queue, through }
    }

    fn noted(key: &str) -> Fact {
        Fact::Noted(Note {
            key: key.as_bytes().into(),
            value: None,
        })
    }

    fn retried(seq: u64, failures: u32) -> Fact {
        Fact::Retried {
            queue: Q,
            retries: vec![retry(seq, failures)],
        }
    }

    fn retry(seq: u64, failures: u32) -> Retry {
        Retry {
            seq: Seq(seq),
            until: Wall(0),
            deliveries: failures,
            failures,
            expires: None,
        }
    }

    fn deleted(queue: QueueNumber) -> Fact {
        let name = "q".into();
        Fact::QueueDeleted { queue, name }
    }

    fn bound() -> BindingFact {
        BindingFact {
            source: "e".into(),
            destination: "q".into(),
            to_queue: true,
            routing_key: "".into(),
            arguments: Arc::from(&[][..]),
        }
    }

    fn records(facts: impl IntoIterator<Item = Fact>) -> Vec<Record> {
        let numbered = (100..).zip(facts);
        numbered
            .map(|(lsn, fact)| Record {
                lsn: Lsn(lsn),
                fact,
            })
            .collect()
    }

    fn lsns(records: &[Record]) -> Vec<u64> {
        records.iter().map(|record| record.lsn.0).collect()
    }

    /// A queue with messages 1 to 9; the other one is not in the log.
    fn state() -> State {
        let mut state = State::default();
        state.name_vhost(1, "/");
        state.add_queue(1, Q.0);
        for seq in 1..=9 {
            let body = Body {
                bytes: 10,
                has_time: true,
                user: "guest",
                expires: None,
            };
            let place = Place {
                segment: 1,
                offset: 100,
            };
            state.publish(1, body, [(Q.0, seq)].into_iter(), place);
        }
        state
    }

    #[test]
    fn nothing_goes_first_that_one_who_stays_would_undo() {
        let together = Fact::Together;
        let letter = || together(vec![settle(1), publish(STUCK, 1)]);
        #[rustfmt::skip]
        let table = [
            (vec![publish(Q, 10), settle(1)], vec![101], "a settle of what is there"),
            (vec![publish(Q, 10), settle(10)], vec![], "of what is not"),
            (vec![publish(Q, 10), purge(1, 9)], vec![101], "a purge of what is there"),
            (vec![publish(Q, 10), purge(1, 10)], vec![], "of what is not"),
            (vec![together(vec![publish(Q, 10)]), purge(1, 10)], vec![], "of what is not"),
            (vec![publish(Q, 10), mark(Q, 5), mark(Q, 3)], vec![101, 102], "marks"),
            (vec![publish(Q, 10), mark(STUCK, 5)], vec![], "of a queue that is not there"),
            (vec![together(vec![publish(Q, 10), mark(Q, 5)]), mark(Q, 9)], vec![], "the last mark holds"),
            (vec![publish(Q, 10), deleted(Q)], vec![101], "what is published there is nowhere"),
            (vec![publish(Q, 10), deleted(STUCK)], vec![], "a queue that is not there"),
            (vec![Fact::Bound(bound()), deleted(Q)], vec![], "a binding would be left"),
            (vec![Fact::Bound(bound()), Fact::Unbound(bound())], vec![], "it would be left"),
            (vec![publish(Q, 10), Fact::Unbound(bound())], vec![101], "the binding is there"),
            (vec![publish(Q, 10), together(vec![settle(1), noted("k")])], vec![101], "a fired message"),
            (vec![publish(Q, 10), together(vec![settle(10), noted("k")])], vec![], "not there yet"),
            (vec![noted("k"), together(vec![settle(1), noted("k")])], vec![], "the last note holds"),
            (vec![noted("l"), together(vec![settle(1), noted("k")])], vec![101], "another note"),
            (vec![together(vec![publish(Q, 10), retried(2, 1)]), together(vec![settle(1), retried(2, 2)])], vec![], "the last word holds"),
            (vec![publish(Q, 10), together(vec![settle(1), retried(2, 1)])], vec![101], "what is there is retried"),
            (vec![publish(Q, 10), together(vec![settle(1), retried(10, 1)])], vec![], "what is not there"),
            (vec![noted("k"), together(vec![noted("l")])], vec![], "no settle in it"),
            (vec![letter(), deleted(Q)], vec![], "a letter would be gone with its queue"),
            (vec![letter(), Fact::Unbound(bound())], vec![], "it would find no way after a start"),
            (vec![letter(), settle(2), purge(3, 9)], vec![101, 102], "what else is in its queue"),
            (vec![publish(Q, 10), together(vec![purge(1, 9), noted("k")])], vec![101], "fired ones are purged"),
            (vec![publish(Q, 10), together(vec![deleted(Q), noted("k")])], vec![101], "and go with their queue"),
            (vec![noted("k"), together(vec![deleted(Q), noted("k")]), deleted(Q)], vec![], "the last note holds"),
        ];
        for (facts, expected, why) in table {
            let mut behind = records(facts.clone());
            let all = lsns(&behind);
            let first = extract(&mut state(), VhostNumber(1), &mut behind);
            assert_eq!(lsns(&first), expected, "{why}: {facts:?}");
            let left: Vec<_> = all
                .into_iter()
                .filter(|lsn| !expected.contains(lsn))
                .collect();
            assert_eq!(lsns(&behind), left, "in order: {facts:?}");
        }
    }

    #[test]
    fn what_is_late_is_the_last_word_of_what_is_there() {
        let mut late = Late::default();
        let facts = [retried(1, 1), settle(5), retried(2, 1), retried(1, 2)];
        let mut waiting = records(facts.into_iter().chain((3..=8).map(|seq| retried(seq, 1))));
        late.take_from(&mut waiting);
        assert_eq!(lsns(&waiting), [101], "others are nobody's business");
        late.forget(&waiting);
        late.forget(&records([purge(6, 7), Fact::Together(vec![settle(8)])]));
        // Older than what is late, and newer.
        late.forget(&records([retried(2, 7)]));
        let mut newer = records([retried(4, 9)]);
        newer.iter_mut().for_each(|record| record.lsn.0 += 100);
        late.forget(&newer);
        late.put_before(&mut newer);
        let retries = vec![retry(1, 2), retry(2, 1), retry(3, 1)];
        let facts: Vec<_> = newer.into_iter().map(|record| record.fact).collect();
        assert_eq!(facts, [Fact::Retried { queue: Q, retries }, retried(4, 9)]);
        assert!(late.is_empty());
        late.take_from(&mut records([retried(1, 1)]));
        late.forget(&records([deleted(Q)]));
        assert!(late.is_empty());
    }
}

//! What is known at one place of the log, as octets: a start needs nothing from before it but the
//! places of the messages it names.

use std::ops::Bound;

use leveret_core::record::Fact;

use crate::definitions::Key;
use crate::format::{Input, put_bytes, put_varint};
use crate::record::{
    decode_definition, decode_retries, decode_runs, kind, kind_of, put_fact, put_note, put_retry,
    put_run,
};
use crate::state::State;

/// Octets of a part at most.
pub(crate) const PART: usize = 1 << 20;

/// A piece ends with what makes it this long, so that it is one part unless that is very long.
const PIECE: usize = PART / 4 * 3;

/// A segment that a checkpoint needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Needed {
    pub(crate) number: u32,
    /// Where its batches ended then.
    pub(crate) end: u32,
}

/// A checkpoint that was read.
#[derive(Debug, Default)]
pub(crate) struct Checkpoint {
    pub(crate) state: State,
    pub(crate) needed: Vec<Needed>,
}

/// Writes down what is known, piece by piece: as a whole it would be in memory a second time until
/// its last octet is written. Between two pieces nothing may change but which segments there are.
#[derive(Debug)]
pub(crate) struct Encoder {
    needed: Vec<Needed>,
    next: Next,
    /// How many runs each queue has, in their order, once they were counted.
    runs: Vec<u64>,
}

/// Where the next piece begins.
#[derive(Debug)]
enum Next {
    Start,
    /// With the vhost behind this one.
    Vhost(Option<u32>),
    /// In this vhost, behind this definition.
    Fact(u32, Option<Key>),
    /// In this vhost, behind the note with this key.
    Note(u32, Option<Box<[u8]>>),
    /// With the first queue from this place among them on, which is so manieth of them.
    Queue(usize, usize),
    /// In this queue, behind this run's last place.
    Run(usize, usize, Option<u64>),
    /// With the first queue from this place on in which messages are to be delivered again.
    Retried(usize),
    /// In this queue, behind this one's place.
    Retry(usize, Option<u64>),
    End,
}

impl Encoder {
    /// `needed`: the segments that are needed besides what follows.
    pub(crate) fn new(needed: Vec<Needed>) -> Self {
        Self {
            needed,
            next: Next::Start,
            runs: Vec::new(),
        }
    }

    /// Begins once more: the same pieces come again.
    pub(crate) fn rewind(&mut self) {
        self.next = Next::Start;
    }

    /// Puts the next piece where the last one was. False if there is none.
    pub(crate) fn next(&mut self, state: &State, out: &mut Vec<u8>) -> bool {
        out.clear();
        while out.len() < PIECE {
            self.next = match std::mem::replace(&mut self.next, Next::End) {
                Next::Start => self.start(state, out),
                Next::Vhost(after) => vhost(state, after, out),
                Next::Fact(vhost, after) => facts(state, vhost, after, out),
                Next::Note(vhost, after) => notes(state, vhost, after, out),
                Next::Queue(from, count) => self.queue(state, (from, count), out),
                Next::Run(at, count, after) => runs(state, (at, count), after, out),
                Next::Retried(from) => retried(state, from, out),
                Next::Retry(at, after) => retries(state, at, after, out),
                Next::End => break,
            };
        }
        !out.is_empty()
    }

    fn start(&self, state: &State, out: &mut Vec<u8>) -> Next {
        put_varint(out, self.needed.len() as u64);
        for needed in &self.needed {
            put_varint(out, u64::from(needed.number));
            put_varint(out, u64::from(needed.end));
        }
        put_varint(out, state.vhosts.len() as u64);
        Next::Vhost(None)
    }

    fn queue(&mut self, state: &State, (from, count): (usize, usize), out: &mut Vec<u8>) -> Next {
        let Some((at, queue)) = state.queue_from(from) else {
            let retried = state.queues().filter(|queue| !queue.retries.is_empty());
            // Nothing, where there are none: as it was written first.
            return match retried.count() {
                0 => Next::End,
                count => {
                    put_varint(out, count as u64);
                    Next::Retried(0)
                }
            };
        };
        put_varint(out, u64::from(queue.vhost));
        put_varint(out, queue.last);
        put_varint(out, queue.delivered_through);
        // To count them is to go over all messages.
        if count == self.runs.len() {
            self.runs.push(queue.runs_from(0).count() as u64);
        }
        put_varint(out, queue.number);
        put_varint(out, self.runs.get(count).copied().unwrap_or_default());
        Next::Run(at, count, None)
    }
}

fn vhost(state: &State, after: Option<u32>, out: &mut Vec<u8>) -> Next {
    let behind = (
        after.map_or(Bound::Unbounded, Bound::Excluded),
        Bound::Unbounded,
    );
    let Some((&number, vhost)) = state.vhosts.range(behind).next() else {
        put_varint(out, state.queues().count() as u64);
        return Next::Queue(0, 0);
    };
    put_varint(out, u64::from(number));
    put_bytes(out, vhost.name.as_bytes());
    put_varint(out, vhost.last);
    put_varint(out, vhost.definitions.len() as u64);
    Next::Fact(number, None)
}

fn facts(state: &State, vhost: u32, after: Option<Key>, out: &mut Vec<u8>) -> Next {
    let definitions = state.vhosts.get(&vhost).map(|vhost| &vhost.definitions);
    let rest = definitions
        .into_iter()
        .flat_map(|all| all.facts_after(after));
    for (&key, fact) in rest {
        put_varint(out, key.0);
        out.push(kind_of(fact));
        put_fact(out, fact);
        if out.len() >= PIECE {
            return Next::Fact(vhost, Some(key));
        }
    }
    Next::Note(vhost, None)
}

/// In the order of their keys: that of their records would have to be worked out of all.
fn notes(state: &State, vhost: u32, after: Option<Box<[u8]>>, out: &mut Vec<u8>) -> Next {
    let definitions = state.vhosts.get(&vhost).map(|vhost| &vhost.definitions);
    let rest = definitions.map(|all| all.notes().after(after.as_deref()));
    for (lsn, key, value) in rest.into_iter().flatten() {
        put_varint(out, lsn);
        out.push(kind::NOTED);
        put_note(out, key, Some(value));
        if out.len() >= PIECE {
            return Next::Note(vhost, Some(key.into()));
        }
    }
    Next::Vhost(Some(vhost))
}

fn runs(state: &State, (at, count): (usize, usize), after: Option<u64>, out: &mut Vec<u8>) -> Next {
    let mut before = after.unwrap_or(0);
    let queue = state.queue_from(at).map(|(_, queue)| queue);
    let from = after.map_or(Some(0), |after| after.checked_add(1));
    let rest = queue.zip(from).map(|(queue, from)| queue.runs_from(from));
    for run in rest.into_iter().flatten() {
        put_run(out, before, run);
        before = run.1;
        if out.len() >= PIECE {
            return Next::Run(at, count, Some(before));
        }
    }
    Next::Queue(at + 1, count + 1)
}

fn retried(state: &State, from: usize, out: &mut Vec<u8>) -> Next {
    let mut from = from;
    while let Some((at, queue)) = state.queue_from(from) {
        if !queue.retries.is_empty() {
            put_varint(out, u64::from(queue.vhost));
            put_varint(out, queue.number);
            put_varint(out, queue.retries.len() as u64);
            return Next::Retry(at, None);
        }
        from = at + 1;
    }
    Next::End
}

fn retries(state: &State, at: usize, after: Option<u64>, out: &mut Vec<u8>) -> Next {
    let mut before = after.unwrap_or(0);
    let behind = (
        after.map_or(Bound::Unbounded, Bound::Excluded),
        Bound::Unbounded,
    );
    let rest = state
        .queue_from(at)
        .map(|(_, queue)| queue.retries.range(behind));
    for (&seq, retry) in rest.into_iter().flatten() {
        put_retry(out, before, retry);
        before = seq;
        if out.len() >= PIECE {
            return Next::Retry(at, Some(before));
        }
    }
    Next::Retried(at + 1)
}

/// Reads it back. None if it cannot be one.
pub(crate) fn decode(bytes: &[u8]) -> Option<Checkpoint> {
    let mut input = Input(bytes);
    let mut checkpoint = Checkpoint::default();
    for _ in 0..input.varint()? {
        checkpoint.needed.push(Needed {
            number: input.varint_u32()?,
            end: input.varint_u32()?,
        });
    }
    let state = &mut checkpoint.state;
    for _ in 0..input.varint()? {
        let number = input.varint_u32()?;
        state.name_vhost(number, input.text()?);
        state.reach(number, input.varint()?);
        for _ in 0..input.varint()? {
            let lsn = input.varint()?;
            let kind = input.u8()?;
            let fact: Fact = decode_definition(kind, &mut input)?;
            state.define(number, lsn, fact);
        }
    }
    for _ in 0..input.varint()? {
        let vhost = input.varint_u32()?;
        let last = input.varint()?;
        let delivered_through = input.varint()?;
        let number = input.varint()?;
        let runs = decode_runs(&mut input)?;
        state.add_queue(vhost, number);
        let queue = state.queue(vhost, number)?;
        queue.last = last;
        queue.delivered_through = delivered_through;
        queue.missing = runs.into_iter().collect();
    }
    if !input.is_empty() {
        for _ in 0..input.varint()? {
            let vhost = input.varint_u32()?;
            let (queue, retries) = decode_retries(&mut input)?;
            state.retried(vhost, queue, &retries);
        }
    }
    input.is_empty().then_some(checkpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    use leveret_core::ids::{QueueNumber, Seq, Wall};
    use leveret_core::record::{Note, Retry};

    use crate::record::Body;
    use crate::state::Place;

    fn note(key: String, octets: usize) -> Fact {
        Fact::Noted(Note {
            key: key.into_bytes().into(),
            value: Some(vec![7; octets].into()),
        })
    }

    fn exchange(name: String) -> Fact {
        Fact::ExchangeDeclared {
            name: name.into(),
            kind: "fanout",
            auto_delete: false,
            internal: false,
            arguments: [].into(),
        }
    }

    /// Every second place is taken, so that each message is a run, and is to be delivered again.
    fn fill(state: &mut State, vhost: u32, queue: u64, messages: u64) {
        let body = Body {
            bytes: 1,
            has_time: true,
            user: "",
            expires: None,
        };
        for n in 1..=messages {
            let place = Place {
                segment: 1,
                offset: 1,
            };
            state.publish(vhost, body, [(queue, 2 * n)].into_iter(), place);
            let retry = Retry {
                seq: Seq(2 * n),
                until: Wall(n),
                deliveries: 1,
                failures: 1,
                expires: None,
            };
            state.retried(vhost, queue, &[retry]);
        }
    }

    /// Whatever there is much of.
    fn much() -> State {
        let mut state = State::default();
        for vhost in [1, 2, u32::MAX] {
            state.name_vhost(vhost, "a vhost");
            for number in 0..4_000 {
                state.define(vhost, 2 * number, note(format!("{vhost} {number}"), 400));
                state.define(vhost, 2 * number + 1, exchange(format!("{number:0250}")));
            }
        }
        state.add_queue(2, 77);
        for queue in 1..=3 {
            state.add_queue(1, queue);
            fill(&mut state, 1, queue, if queue == 2 { 500_000 } else { 3 });
        }
        let gone = Fact::QueueDeleted {
            queue: QueueNumber(77),
            name: "gone".into(),
        };
        state.define(2, 78, gone);
        state
    }

    fn pieces(encoder: &mut Encoder, state: &State) -> Vec<Vec<u8>> {
        let (mut pieces, mut piece) = (Vec::new(), Vec::new());
        while encoder.next(state, &mut piece) {
            pieces.push(piece.clone());
        }
        pieces
    }

    /// What is written next to what is known takes a piece of memory, however much is known.
    #[test]
    fn no_piece_is_longer_than_one_by_more_than_what_ends_it() {
        let state = much();
        let needed = vec![Needed { number: 1, end: 2 }];
        let mut encoder = Encoder::new(needed.clone());
        let first = pieces(&mut encoder, &state);
        let longest = first.iter().map(Vec::len).max();
        assert!(longest < Some(PIECE + 500), "{longest:?}");
        let whole = first.concat();
        assert!(whole.len() > 10 * PIECE, "{} octets", whole.len());
        encoder.rewind();
        assert!(pieces(&mut encoder, &state) == first, "a second time");

        let read = decode(&whole).expect("a checkpoint");
        assert_eq!(read.needed, needed);
        let queues = || state.queues().zip(read.state.queues());
        assert_eq!(queues().count(), 3);
        for (queue, read) in queues() {
            assert_eq!((queue.vhost, queue.number), (read.vhost, read.number));
            let missing = read.missing.iter().map(|(&first, &last)| (first, last));
            assert!(queue.runs_from(0).eq(missing), "queue {}", queue.number);
            assert!(queue.retries == read.retries, "queue {}", queue.number);
        }
        for ((number, vhost), (same, read)) in state.vhosts.iter().zip(&read.state.vhosts) {
            assert_eq!(
                (number, &vhost.name, vhost.last),
                (same, &read.name, read.last)
            );
            assert!(vhost.definitions.iter().eq(read.definitions.iter()));
        }
    }
}

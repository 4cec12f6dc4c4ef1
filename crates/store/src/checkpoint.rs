//! What is known at one place of the log, as octets: a start needs nothing from before it but the
//! places of the messages it names.

use leveret_core::record::Fact;

use crate::format::{Input, put_bytes, put_varint};
use crate::record::{
    decode_definition, decode_retries, decode_runs, kind_of, put_fact, put_retries, put_runs,
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

/// What is written down, in pieces of about a part: as one it would be moved again and again while it
/// grows, and held until the last octet is written.
#[derive(Debug, Default)]
pub(crate) struct Pieces(Vec<Vec<u8>>);

impl Pieces {
    /// Octets of all.
    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    /// How many parts of at most so many octets they make.
    pub(crate) fn parts(&self, part_bytes: usize) -> usize {
        self.chunks(part_bytes).count()
    }

    /// These parts.
    pub(crate) fn chunks(&self, part_bytes: usize) -> impl Iterator<Item = &[u8]> {
        self.0
            .iter()
            .flat_map(move |piece| piece.chunks(part_bytes))
    }

    /// Ends a piece if it is long enough.
    fn cut(&mut self, out: &mut Vec<u8>) {
        if out.len() >= PIECE {
            self.0.push(std::mem::take(out));
        }
    }
}

impl IntoIterator for Pieces {
    type Item = Vec<u8>;
    type IntoIter = std::vec::IntoIter<Vec<u8>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Writes down what is known, and which segments are needed besides what follows.
pub(crate) fn encode(state: &State, needed: &[Needed]) -> Pieces {
    let mut pieces = Pieces::default();
    let mut out = Vec::new();
    put_varint(&mut out, needed.len() as u64);
    for needed in needed {
        put_varint(&mut out, u64::from(needed.number));
        put_varint(&mut out, u64::from(needed.end));
    }
    put_varint(&mut out, state.vhosts.len() as u64);
    for (number, vhost) in &state.vhosts {
        put_varint(&mut out, u64::from(*number));
        put_bytes(&mut out, vhost.name.as_bytes());
        put_varint(&mut out, vhost.last);
        put_varint(&mut out, vhost.definitions.len() as u64);
        for (lsn, fact) in vhost.definitions.iter() {
            put_varint(&mut out, lsn);
            out.push(kind_of(&fact));
            put_fact(&mut out, &fact);
            pieces.cut(&mut out);
        }
    }
    put_varint(&mut out, state.queues().count() as u64);
    for queue in state.queues() {
        put_varint(&mut out, u64::from(queue.vhost));
        put_varint(&mut out, queue.last);
        put_varint(&mut out, queue.delivered_through);
        let runs = queue.runs();
        let runs: Vec<_> = runs.iter().map(|run| (run.first.0, run.last.0)).collect();
        put_runs(&mut out, queue.number, &runs);
        pieces.cut(&mut out);
    }
    // Nothing, where there are none: as it was written first.
    let retried = || state.queues().filter(|queue| !queue.retries.is_empty());
    if retried().next().is_some() {
        put_varint(&mut out, retried().count() as u64);
        for queue in retried() {
            put_varint(&mut out, u64::from(queue.vhost));
            put_retries(&mut out, queue.number, queue.retries.values());
            pieces.cut(&mut out);
        }
    }
    pieces.0.push(out);
    pieces
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

//! Records as octets: what of a fact goes into the head of a frame, and how it is read back.
//!
//! A frame is `head length, sum, head`, then for each message in it `sum, block`. The head says all
//! but the messages' own octets, so that a footer of heads is enough to know what lives where.

use std::sync::{Arc, Mutex, PoisonError};

use leveret_core::ids::{QueueNumber, Seq, Wall};
use leveret_core::message::Message;
use leveret_core::record::{BindingFact, Fact, Note, Retry};

use crate::format::{Input, put_bytes, put_varint};

/// Kinds of records. A number is never given to another kind.
pub(crate) mod kind {
    pub(crate) const VHOST_NAMED: u8 = 1;
    pub(crate) const EXCHANGE_DECLARED: u8 = 2;
    pub(crate) const EXCHANGE_DELETED: u8 = 3;
    pub(crate) const QUEUE_DECLARED: u8 = 4;
    pub(crate) const QUEUE_DELETED: u8 = 5;
    pub(crate) const BOUND: u8 = 6;
    pub(crate) const UNBOUND: u8 = 7;
    pub(crate) const PUBLISHED: u8 = 8;
    pub(crate) const SETTLED: u8 = 9;
    pub(crate) const MAY_DELIVER: u8 = 10;
    pub(crate) const TOGETHER: u8 = 11;
    pub(crate) const CHECKPOINT: u8 = 12;
    pub(crate) const FREED: u8 = 13;
    pub(crate) const MOVED: u8 = 14;
    pub(crate) const REACHED: u8 = 15;
    pub(crate) const NOTED: u8 = 16;
    /// As `PUBLISHED` and `MOVED`, but the time of arrival stands before the block, where whoever
    /// reads the message finds it, and the head says when the message's own time runs out.
    pub(crate) const PUBLISHED_TIMED: u8 = 18;
    pub(crate) const MOVED_TIMED: u8 = 19;
    pub(crate) const RETRIED: u8 = 20;
}

/// Whether records of this kind can be read.
const fn is_known(kind: u8) -> bool {
    matches!(
        kind,
        kind::VHOST_NAMED..=kind::NOTED | kind::PUBLISHED_TIMED | kind::MOVED_TIMED | kind::RETRIED
    )
}

/// Octets of the sum before each message.
pub(crate) const BODY_SUM: u32 = 4;

/// Octets of the time of arrival between the sum and the block of a message.
pub(crate) const BODY_TIME: u32 = 6;

/// Octets that a message takes at most that is to be delivered again.
const RETRY_BYTES: usize = 40;

/// Names of exchange types that are not built in, at most: a name is kept for ever.
const OTHER_KINDS_MAX: usize = 64;

const EXCHANGE_KINDS: [&str; 6] = [
    "direct",
    "fanout",
    "topic",
    "headers",
    "x-delayed-message",
    "x-consistent-hash",
];

static OTHER_KINDS: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());

/// The head of a record.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    /// 0 for what concerns the log itself.
    pub(crate) vhost: u32,
    pub(crate) lsn: u64,
    pub(crate) what: What<'a>,
}

/// What a record says.
#[derive(Debug)]
pub(crate) enum What<'a> {
    VhostNamed(&'a str),
    /// A declaration, deletion, binding or note.
    Defined(Fact),
    Published(Publish<'a>),
    Settled {
        queue: u64,
        /// First and last, ascending, apart.
        runs: Vec<(u64, u64)>,
    },
    MayDeliver {
        queue: u64,
        through: u64,
    },
    Retried {
        queue: u64,
        /// In order of their places.
        retries: Vec<Retry>,
    },
    Together(Vec<Self>),
    Checkpoint(Part),
    Freed(u32),
    Moved(Publish<'a>),
    /// Records up to this one need not be there: they cancelled each other out.
    Reached,
}

/// A message's record.
#[derive(Clone, Debug)]
pub(crate) struct Publish<'a> {
    pub(crate) body: Body<'a>,
    /// When it arrived, in milliseconds since 1970, if that is not in the body.
    pub(crate) at: Option<u64>,
    /// Queues and places.
    pub(crate) places: Vec<(u64, u64)>,
}

/// What is said of a message beside its places.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Body<'a> {
    /// Octets: of the time of arrival, if it is there, and of the block.
    pub(crate) bytes: u32,
    /// Whether it is.
    pub(crate) has_time: bool,
    pub(crate) user: &'a str,
    /// When its own time runs out, in milliseconds since 1970.
    pub(crate) expires: Option<u64>,
}

/// A piece of a checkpoint, which is in the frame's body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Part {
    pub(crate) id: u64,
    pub(crate) index: u32,
    pub(crate) is_last: bool,
    pub(crate) bytes: u32,
}

impl Head<'_> {
    /// Octets after the head, sums included; None if they cannot be that many.
    pub(crate) fn bodies(&self) -> Option<u32> {
        self.what.bodies()
    }
}

impl What<'_> {
    fn bodies(&self) -> Option<u32> {
        match self {
            Self::Published(publish) | Self::Moved(publish) => {
                publish.body.bytes.checked_add(BODY_SUM)
            }
            Self::Checkpoint(part) => part.bytes.checked_add(BODY_SUM),
            Self::Together(parts) => parts
                .iter()
                .try_fold(0_u32, |sum, part| sum.checked_add(part.bodies()?)),
            _ => Some(0),
        }
    }

    /// Calls with the number of octets of each body, in order, sums not included.
    pub(crate) fn each_body(&self, call: &mut impl FnMut(u32)) {
        match self {
            Self::Published(publish) | Self::Moved(publish) => call(publish.body.bytes),
            Self::Checkpoint(part) => call(part.bytes),
            Self::Together(parts) => parts.iter().for_each(|part| part.each_body(call)),
            _ => {}
        }
    }
}

/// Begins a head.
#[inline]
pub(crate) fn put_start(out: &mut Vec<u8>, kind: u8, vhost: u32, lsn: u64) {
    out.push(kind);
    put_varint(out, u64::from(vhost));
    put_varint(out, lsn);
}

/// Adds a fact to a head that was begun with [`kind_of`] it; its messages are not part of it.
pub(crate) fn put_fact(out: &mut Vec<u8>, fact: &Fact) {
    match fact {
        Fact::Published {
            message,
            user,
            at,
            places,
        } => {
            let places = places.iter().map(|&(queue, seq)| (queue.0, seq.0));
            put_publish(out, &body_of(message, *at, user), places);
        }
        Fact::Settled { queue, seq } => put_runs(out, queue.0, &[(seq.0, seq.0)]),
        Fact::Purged { queue, places } => {
            let mut runs: Vec<_> = places.iter().map(|run| (run.0.0, run.1.0)).collect();
            normalize(&mut runs);
            put_runs(out, queue.0, &runs);
        }
        Fact::MayDeliver { queue, through } => {
            put_varint(out, queue.0);
            put_varint(out, through.0);
        }
        Fact::Retried { queue, retries } => {
            put_retries(out, queue.0, retries.iter());
        }
        Fact::Together(facts) => {
            put_varint(out, count(facts));
            put_together(out, facts);
        }
        _ => put_definition(out, fact),
    }
}

fn put_together(out: &mut Vec<u8>, facts: &[Fact]) {
    for fact in facts {
        if let Fact::Together(inner) = fact {
            put_together(out, inner);
        } else {
            out.push(kind_of(fact));
            put_fact(out, fact);
        }
    }
}

/// Facts, those in other facts one by one.
fn count(facts: &[Fact]) -> u64 {
    let inner = facts.iter().map(|fact| match fact {
        Fact::Together(facts) => count(facts),
        _ => 1,
    });
    inner.sum()
}

/// What the record of a message says of it.
#[inline]
pub(crate) fn body_of<'a>(message: &Message, at: Wall, user: &'a str) -> Body<'a> {
    // What is longer was refused before.
    let bytes = u32::try_from(message.block().len()).unwrap_or(u32::MAX);
    Body {
        bytes: bytes.saturating_add(BODY_TIME),
        has_time: true,
        user,
        expires: message.expiration_ms().map(|ms| at.0.saturating_add(ms)),
    }
}

/// A time of arrival as it stands before a block: good for some thousand years.
pub(crate) fn time_octets(at: u64) -> [u8; BODY_TIME as usize] {
    let [a, b, c, d, e, f, ..] = at.min((1 << 48) - 1).to_le_bytes();
    [a, b, c, d, e, f]
}

/// A body, sum not included, as time of arrival and block.
pub(crate) fn split_time(has_time: bool, body: &[u8]) -> Option<(Option<u64>, &[u8])> {
    if !has_time {
        return Some((None, body));
    }
    let (&[a, b, c, d, e, f], block) = body.split_first_chunk::<6>()?;
    Some((Some(u64::from_le_bytes([a, b, c, d, e, f, 0, 0])), block))
}

/// Adds what a message's record says.
#[inline]
pub(crate) fn put_publish(
    out: &mut Vec<u8>,
    body: &Body<'_>,
    places: impl ExactSizeIterator<Item = (u64, u64)>,
) {
    put_varint(out, u64::from(body.bytes));
    put_bytes(out, body.user.as_bytes());
    put_varint(
        out,
        2 * places.len() as u64 + u64::from(body.expires.is_some()),
    );
    if let Some(expires) = body.expires {
        put_varint(out, expires);
    }
    for (queue, seq) in places {
        put_varint(out, queue);
        put_varint(out, seq);
    }
}

/// Adds runs of a queue: each as the distance from the last one and its length, less one.
pub(crate) fn put_runs(out: &mut Vec<u8>, queue: u64, runs: &[(u64, u64)]) {
    put_varint(out, queue);
    put_varint(out, runs.len() as u64);
    let mut before = 0;
    for &run in runs {
        put_run(out, before, run);
        before = run.1;
    }
}

/// Adds one of them; the last one ends at `before`.
pub(crate) fn put_run(out: &mut Vec<u8>, before: u64, run: (u64, u64)) {
    put_varint(out, run.0.saturating_sub(before));
    put_varint(out, run.1.saturating_sub(run.0));
}

/// Adds messages of a queue that are to be delivered again, in order of their places.
pub(crate) fn put_retries<'a>(
    out: &mut Vec<u8>,
    queue: u64,
    retries: impl ExactSizeIterator<Item = &'a Retry>,
) {
    put_varint(out, queue);
    put_varint(out, retries.len() as u64);
    let mut before = 0;
    for retry in retries {
        put_retry(out, before, retry);
        before = retry.seq.0;
    }
}

/// Adds one of them; the last one is in place `before`.
pub(crate) fn put_retry(out: &mut Vec<u8>, before: u64, retry: &Retry) {
    put_varint(out, retry.seq.0.saturating_sub(before));
    put_varint(out, retry.until.0);
    put_varint(out, u64::from(retry.deliveries));
    put_varint(out, u64::from(retry.failures));
    // 0 is never: that time is over.
    put_varint(out, retry.expires.map_or(0, |at| at.0.max(1)));
}

/// Sorts runs and joins what touches; those that are none are dropped.
pub(crate) fn normalize(runs: &mut Vec<(u64, u64)>) {
    runs.retain(|run| run.0 <= run.1);
    runs.sort_unstable();
    runs.dedup_by(|next, run| {
        let touches = next.0 <= run.1.saturating_add(1);
        if touches {
            run.1 = run.1.max(next.1);
        }
        touches
    });
}

fn put_definition(out: &mut Vec<u8>, fact: &Fact) {
    match fact {
        Fact::ExchangeDeclared {
            name,
            kind,
            auto_delete,
            internal,
            arguments,
        } => {
            put_bytes(out, name.as_bytes());
            put_bytes(out, kind.as_bytes());
            out.push(u8::from(*auto_delete));
            out.push(u8::from(*internal));
            put_bytes(out, arguments);
        }
        Fact::ExchangeDeleted { name } => put_bytes(out, name.as_bytes()),
        Fact::QueueDeclared {
            name,
            auto_delete,
            arguments,
        } => {
            put_bytes(out, name.as_bytes());
            out.push(u8::from(*auto_delete));
            put_bytes(out, arguments);
        }
        Fact::QueueDeleted { queue, name } => {
            put_varint(out, queue.0);
            put_bytes(out, name.as_bytes());
        }
        Fact::Bound(binding) | Fact::Unbound(binding) => {
            put_bytes(out, binding.source.as_bytes());
            put_bytes(out, binding.destination.as_bytes());
            out.push(u8::from(binding.to_queue));
            put_bytes(out, binding.routing_key.as_bytes());
            put_bytes(out, &binding.arguments);
        }
        Fact::Noted(note) => put_note(out, &note.key, note.value.as_deref()),
        Fact::Published { .. }
        | Fact::Settled { .. }
        | Fact::Purged { .. }
        | Fact::MayDeliver { .. }
        | Fact::Retried { .. }
        | Fact::Together(_) => {}
    }
}

/// The number of a fact's kind.
pub(crate) fn kind_of(fact: &Fact) -> u8 {
    match fact {
        Fact::ExchangeDeclared { .. } => kind::EXCHANGE_DECLARED,
        Fact::ExchangeDeleted { .. } => kind::EXCHANGE_DELETED,
        Fact::QueueDeclared { .. } => kind::QUEUE_DECLARED,
        Fact::QueueDeleted { .. } => kind::QUEUE_DELETED,
        Fact::Bound(_) => kind::BOUND,
        Fact::Unbound(_) => kind::UNBOUND,
        Fact::Published { .. } => kind::PUBLISHED_TIMED,
        Fact::Settled { .. } | Fact::Purged { .. } => kind::SETTLED,
        Fact::MayDeliver { .. } => kind::MAY_DELIVER,
        Fact::Retried { .. } => kind::RETRIED,
        Fact::Noted(_) => kind::NOTED,
        Fact::Together(_) => kind::TOGETHER,
    }
}

/// Adds a note.
pub(crate) fn put_note(out: &mut Vec<u8>, key: &[u8], value: Option<&[u8]>) {
    put_bytes(out, key);
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put_bytes(out, value);
    }
}

/// Octets that the head of a fact takes at most.
pub(crate) fn head_bound(fact: &Fact) -> usize {
    // Kind, vhost, number of the record, and a few numbers.
    const FEW: usize = 64;
    FEW + match fact {
        Fact::ExchangeDeclared {
            name,
            kind,
            arguments,
            ..
        } => name.len() + kind.len() + arguments.len(),
        Fact::ExchangeDeleted { name } | Fact::QueueDeleted { name, .. } => name.len(),
        Fact::QueueDeclared {
            name, arguments, ..
        } => name.len() + arguments.len(),
        Fact::Bound(binding) | Fact::Unbound(binding) => {
            binding.source.len()
                + binding.destination.len()
                + binding.routing_key.len()
                + binding.arguments.len()
        }
        Fact::Published { user, places, .. } => user.len() + 20 * places.len(),
        Fact::Settled { .. } | Fact::MayDeliver { .. } => 0,
        Fact::Purged { places, .. } => 20 * places.len(),
        Fact::Retried { retries, .. } => RETRY_BYTES * retries.len(),
        Fact::Noted(note) => note.key.len() + note.value.as_ref().map_or(0, |value| value.len()),
        Fact::Together(facts) => facts.iter().map(head_bound).sum(),
    }
}

/// Octets of a fact's messages, with their sums.
pub(crate) fn bodies_of(fact: &Fact) -> usize {
    match fact {
        Fact::Published { message, .. } => message.block().len() + (BODY_TIME + BODY_SUM) as usize,
        Fact::Together(facts) => facts.iter().map(bodies_of).sum(),
        _ => 0,
    }
}

/// Reads a head. None if it cannot be one.
pub(crate) fn decode_head(bytes: &[u8]) -> Option<Head<'_>> {
    let mut input = Input(bytes);
    let kind = input.u8()?;
    let head = Head {
        vhost: input.varint_u32()?,
        lsn: input.varint()?,
        what: decode_what(kind, &mut input, true)?,
    };
    input.is_empty().then_some(head)
}

/// The kind in a head that [`decode_head`] cannot read, if that is because it is not known.
pub(crate) fn newer_kind(bytes: &[u8]) -> Option<u8> {
    let mut input = Input(bytes);
    let mut kind = input.u8()?;
    if kind == kind::TOGETHER {
        input.varint_u32()?;
        input.varint()?;
        for _ in 0..input.varint()? {
            kind = input.u8()?;
            if !is_known(kind) {
                break;
            }
            decode_what(kind, &mut input, false)?;
        }
    }
    (!is_known(kind)).then_some(kind)
}

fn decode_what<'a>(kind: u8, input: &mut Input<'a>, is_outer: bool) -> Option<What<'a>> {
    Some(match kind {
        kind::PUBLISHED => What::Published(decode_untimed(input)?),
        kind::PUBLISHED_TIMED => What::Published(decode_publish(input)?),
        kind::SETTLED => What::Settled {
            queue: input.varint()?,
            runs: decode_runs(input)?,
        },
        kind::MAY_DELIVER => What::MayDeliver {
            queue: input.varint()?,
            through: input.varint()?,
        },
        kind::RETRIED => {
            let (queue, retries) = decode_retries(input)?;
            What::Retried { queue, retries }
        }
        kind::VHOST_NAMED if is_outer => What::VhostNamed(input.text()?),
        kind::TOGETHER if is_outer => {
            let mut parts = Vec::new();
            for _ in 0..input.varint()? {
                let kind = input.u8()?;
                parts.push(decode_what(kind, input, false)?);
            }
            What::Together(parts)
        }
        kind::CHECKPOINT if is_outer => What::Checkpoint(Part {
            id: input.varint()?,
            index: input.varint_u32()?,
            is_last: input.flag()?,
            bytes: input.varint_u32()?,
        }),
        kind::FREED if is_outer => What::Freed(input.varint_u32()?),
        kind::MOVED if is_outer => What::Moved(decode_untimed(input)?),
        kind::MOVED_TIMED if is_outer => What::Moved(decode_publish(input)?),
        kind::REACHED if is_outer => What::Reached,
        _ => What::Defined(decode_definition(kind, input)?),
    })
}

fn decode_publish<'a>(input: &mut Input<'a>) -> Option<Publish<'a>> {
    let bytes = input.varint_u32()?;
    let user = input.text()?;
    let count = input.varint()?;
    let expires = if count % 2 == 1 {
        Some(input.varint()?)
    } else {
        None
    };
    let body = Body {
        bytes,
        has_time: true,
        user,
        expires,
    };
    Some(Publish {
        body,
        at: None,
        places: decode_places(count / 2, input)?,
    })
}

/// The same as it was written first.
fn decode_untimed<'a>(input: &mut Input<'a>) -> Option<Publish<'a>> {
    let bytes = input.varint_u32()?;
    let at = Some(input.varint()?);
    let body = Body {
        bytes,
        has_time: false,
        user: input.text()?,
        expires: None,
    };
    let count = input.varint()?;
    let places = decode_places(count, input)?;
    Some(Publish { body, at, places })
}

fn decode_places(count: u64, input: &mut Input<'_>) -> Option<Vec<(u64, u64)>> {
    let mut places = Vec::new();
    for _ in 0..count {
        places.push((input.varint()?, input.varint()?));
    }
    Some(places)
}

/// Reads what [`put_runs`] wrote after the queue.
pub(crate) fn decode_runs(input: &mut Input<'_>) -> Option<Vec<(u64, u64)>> {
    let mut runs = Vec::new();
    let mut last = 0_u64;
    for _ in 0..input.varint()? {
        let first = last.checked_add(input.varint()?)?;
        last = first.checked_add(input.varint()?)?;
        runs.push((first, last));
    }
    Some(runs)
}

/// Reads what [`put_retries`] wrote: the queue, and its messages.
pub(crate) fn decode_retries(input: &mut Input<'_>) -> Option<(u64, Vec<Retry>)> {
    let queue = input.varint()?;
    let mut retries = Vec::new();
    let mut last = 0_u64;
    for _ in 0..input.varint()? {
        last = last.checked_add(input.varint()?)?;
        retries.push(Retry {
            seq: Seq(last),
            until: Wall(input.varint()?),
            deliveries: input.varint_u32()?,
            failures: input.varint_u32()?,
            expires: Some(input.varint()?).filter(|&at| at > 0).map(Wall),
        });
    }
    Some((queue, retries))
}

/// Reads what [`put_fact`] wrote of a declaration, deletion, binding or note.
pub(crate) fn decode_definition(kind: u8, input: &mut Input<'_>) -> Option<Fact> {
    Some(match kind {
        kind::EXCHANGE_DECLARED => Fact::ExchangeDeclared {
            name: input.text()?.into(),
            kind: exchange_kind(input.text()?)?,
            auto_delete: input.flag()?,
            internal: input.flag()?,
            arguments: input.bytes()?.into(),
        },
        kind::EXCHANGE_DELETED => Fact::ExchangeDeleted {
            name: input.text()?.into(),
        },
        kind::QUEUE_DECLARED => Fact::QueueDeclared {
            name: input.text()?.into(),
            auto_delete: input.flag()?,
            arguments: input.bytes()?.into(),
        },
        kind::QUEUE_DELETED => Fact::QueueDeleted {
            queue: QueueNumber(input.varint()?),
            name: input.text()?.into(),
        },
        kind::BOUND => Fact::Bound(decode_binding(input)?),
        kind::UNBOUND => Fact::Unbound(decode_binding(input)?),
        kind::NOTED => {
            let key = input.bytes()?.into();
            let value = if input.flag()? {
                Some(input.bytes()?.into())
            } else {
                None
            };
            Fact::Noted(Note { key, value })
        }
        _ => return None,
    })
}

fn decode_binding(input: &mut Input<'_>) -> Option<BindingFact> {
    Some(BindingFact {
        source: input.text()?.into(),
        destination: input.text()?.into(),
        to_queue: input.flag()?,
        routing_key: input.text()?.into(),
        arguments: Arc::from(input.bytes()?),
    })
}

/// The name of an exchange type, kept for ever: the built-in ones are, and a few others may be.
fn exchange_kind(name: &str) -> Option<&'static str> {
    if let Some(known) = EXCHANGE_KINDS.iter().find(|known| **known == name) {
        return Some(known);
    }
    let mut others = OTHER_KINDS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = others.iter().find(|known| **known == name) {
        return Some(known);
    }
    if others.len() == OTHER_KINDS_MAX || name.len() > 255 {
        return None;
    }
    let kept: &'static str = Box::leak(name.into());
    others.push(kept);
    Some(kept)
}

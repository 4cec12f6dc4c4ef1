//! What has to be in the log, whatever happened to the disk.
//!
//! Of each thing the model knows by which record it came and by which it went. What was reported
//! safe must be found; what was not may be found or not, each by itself, because what frees room is
//! written before the rest.

use std::collections::{BTreeMap, BTreeSet};

use leveret_core::log::{Recovered, RecoveredQueue};
use leveret_core::record::MAY_DELIVER_FIRST;
use leveret_core::{Fact, QueueNumber, Record};

/// What is known of a vhost.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// The last record that was made.
    pub last: u64,
    /// The last that was reported safe.
    pub safe: u64,
    /// The last one up to which retries are safe, too.
    pub solid: u64,
    /// Queues, by number.
    pub queues: BTreeMap<u64, Queue>,
    /// Of each key, what was noted, by record.
    pub notes: BTreeMap<Vec<u8>, Vec<(u64, Vec<u8>)>>,
}

/// A queue.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    /// By which record it went.
    pub deleted: Option<u64>,
    /// The last place.
    pub last: u64,
    /// Messages that were ever there.
    pub messages: BTreeMap<u64, Message>,
    /// Marks, by record.
    marks: Vec<(u64, u64)>,
}

/// A message.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// By which record it came.
    pub published: u64,
    /// By which it went.
    pub settled: Option<u64>,
    /// Nothing but that it went was said by that record.
    plainly: bool,
    /// How often it had failed, by record.
    failures: Vec<(u64, u32)>,
}

impl Expected {
    /// A record was made.
    pub fn append(&mut self, record: &Record) {
        self.last = record.lsn.0;
        self.take(record.lsn.0, &record.fact, true);
    }

    fn take(&mut self, lsn: u64, fact: &Fact, is_alone: bool) {
        match fact {
            Fact::QueueDeclared { .. } => {
                let queue = Queue {
                    marks: vec![(lsn, MAY_DELIVER_FIRST)],
                    ..Queue::default()
                };
                self.queues.insert(lsn, queue);
            }
            Fact::QueueDeleted { queue, .. } => {
                if let Some(queue) = self.queues.get_mut(&queue.0) {
                    queue.deleted = Some(lsn);
                }
            }
            Fact::Published { places, .. } => {
                for (number, seq) in places {
                    if let Some(queue) = self.queues.get_mut(&number.0) {
                        queue.last = seq.0;
                        let message = Message {
                            published: lsn,
                            ..Message::default()
                        };
                        queue.messages.insert(seq.0, message);
                    }
                }
            }
            Fact::Settled { queue, seq } => {
                self.settle(lsn, *queue, seq.0, seq.0);
                let queue = self.queues.get_mut(&queue.0);
                let message = queue.and_then(|queue| queue.messages.get_mut(&seq.0));
                message
                    .into_iter()
                    .for_each(|message| message.plainly = is_alone);
            }
            Fact::Purged { queue, places } => {
                for (first, last) in places {
                    self.settle(lsn, *queue, first.0, last.0);
                }
            }
            Fact::MayDeliver { queue, through } => {
                if let Some(queue) = self.queues.get_mut(&queue.0) {
                    queue.marks.push((lsn, through.0));
                }
            }
            Fact::Retried { queue, retries } => {
                let Some(queue) = self.queues.get_mut(&queue.0) else {
                    return;
                };
                for retry in retries {
                    if let Some(message) = queue.messages.get_mut(&retry.seq.0) {
                        message.failures.push((lsn, retry.failures));
                    }
                }
            }
            Fact::Noted(note) => {
                let value = note.value.as_deref().unwrap_or_default().to_vec();
                let noted = self.notes.entry(note.key.to_vec()).or_default();
                noted.push((lsn, value));
            }
            Fact::Together(facts) => facts.iter().for_each(|fact| self.take(lsn, fact, false)),
            _ => {} // of bindings there are none
        }
    }

    fn settle(&mut self, lsn: u64, queue: QueueNumber, first: u64, last: u64) {
        let Some(queue) = self.queues.get_mut(&queue.0) else {
            return;
        };
        for (_, message) in queue.messages.range_mut(first..=last) {
            message.settled.get_or_insert(lsn);
        }
    }

    /// Whether what was found may be what is left. `settled`: each settle of a message that
    /// was reported safe must have been written.
    ///
    /// # Errors
    /// What is wrong.
    pub fn judge(&self, found: &Recovered, settled: bool) -> Result<(), String> {
        for of in &found.queues {
            let Some(queue) = self.queues.get(&of.number.0) else {
                return Err(format!("queue {} was never declared", of.number));
            };
            let is_gone = queue.deleted.is_some_and(|lsn| lsn <= self.safe);
            if is_gone {
                return Err(format!("queue {} is back", of.number));
            }
            self.judge_queue(queue, of, settled)
                .map_err(|why| format!("queue {}: {why}", of.number))?;
        }
        for (&number, queue) in &self.queues {
            let must = number <= self.safe && queue.deleted.is_none();
            if must && !found.queues.iter().any(|of| of.number.0 == number) {
                return Err(format!("queue {number} is lost"));
            }
        }
        self.judge_notes(found)
    }

    fn judge_queue(&self, queue: &Queue, of: &RecoveredQueue, settled: bool) -> Result<(), String> {
        let safe = self.safe;
        let there = there(of);
        for (seq, message) in &queue.messages {
            let is_there = there.contains(seq);
            let must = message.published <= safe && message.settled.is_none();
            if must && !is_there {
                return Err(format!("message {seq} is lost"));
            }
            let must_not = message.settled.is_some_and(|lsn| {
                lsn <= safe || settled && message.plainly && message.published <= safe
            });
            if must_not && is_there {
                return Err(format!("message {seq} is back"));
            }
        }
        if let Some(seq) = there.iter().find(|seq| !queue.messages.contains_key(seq)) {
            return Err(format!("message {seq} was never published"));
        }
        let marks = since(&queue.marks, safe);
        if !marks.iter().any(|mark| mark.1 == of.delivered_through.0) {
            return Err(format!(
                "a mark at {} is none of {marks:?}",
                of.delivered_through
            ));
        }
        for seq in &there {
            let words = &queue.messages[seq].failures;
            let allowed = since(words, self.solid);
            let found = of.retries.iter().find(|retry| retry.seq.0 == *seq);
            let is_right = match found {
                Some(retry) => allowed.iter().any(|word| word.1 == retry.failures),
                None => words.first().is_none_or(|word| word.0 > self.solid),
            };
            if !is_right {
                let found = found.map(|retry| retry.failures);
                return Err(format!(
                    "message {seq} has failed {found:?} times, not one of {allowed:?}"
                ));
            }
        }
        match of
            .retries
            .iter()
            .find(|retry| !there.contains(&retry.seq.0))
        {
            Some(retry) => Err(format!("{} is not there and comes again", retry.seq)),
            None => Ok(()),
        }
    }

    fn judge_notes(&self, found: &Recovered) -> Result<(), String> {
        let found = notes(found);
        if let Some(key) = found.keys().find(|key| !self.notes.contains_key(*key)) {
            return Err(format!("{key:?} was never noted"));
        }
        for (key, values) in &self.notes {
            let allowed = since(values, self.safe);
            let is_right = match found.get(key) {
                Some(value) => allowed.iter().any(|one| one.1 == *value),
                None => values.first().is_none_or(|one| one.0 > self.safe),
            };
            if !is_right {
                let found = found.get(key);
                return Err(format!(
                    "noted {found:?} under {key:?}, not one of {allowed:?}"
                ));
            }
        }
        Ok(())
    }

    /// After a crash: what was found is what there is from now on.
    pub fn found(&mut self, found: &Recovered) {
        let last = found.last.0;
        let mut queues = BTreeMap::new();
        for of in &found.queues {
            let before = self.queues.remove(&of.number.0).unwrap_or_default();
            let mut queue = Queue {
                last: before.last,
                marks: vec![(0, of.delivered_through.0)],
                ..Queue::default()
            };
            for seq in there(of) {
                let retry = of.retries.iter().find(|retry| retry.seq.0 == seq);
                let message = Message {
                    failures: retry.map(|retry| (0, retry.failures)).into_iter().collect(),
                    ..Message::default()
                };
                queue.messages.insert(seq, message);
            }
            queues.insert(of.number.0, queue);
        }
        let notes = notes(found).into_iter();
        *self = Self {
            last,
            safe: last,
            solid: last,
            queues,
            notes: notes.map(|(key, value)| (key, vec![(0, value)])).collect(),
        };
    }
}

/// The last one that is safe, and those after it.
fn since<T>(all: &[(u64, T)], safe: u64) -> &[(u64, T)] {
    let after = all.partition_point(|one| one.0 <= safe);
    &all[after.saturating_sub(1)..]
}

fn there(of: &RecoveredQueue) -> BTreeSet<u64> {
    let runs = of.runs.iter();
    runs.flat_map(|run| run.first.0..=run.last.0).collect()
}

fn notes(found: &Recovered) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let facts = found.definitions.iter();
    let notes = facts.filter_map(|(_, fact)| match fact {
        Fact::Noted(note) => Some((note.key.to_vec(), note.value.as_deref()?.to_vec())),
        _ => None,
    });
    notes.collect()
}

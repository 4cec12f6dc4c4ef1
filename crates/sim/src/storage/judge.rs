//! Whether what was found after a crash is what may be found.
//!
//! Batches that were reported safe are there. Of those that were not, some are there from the
//! first on, whole; of the next one a part; of the others nothing. Of the part: definitions and
//! messages from the first on, settles in any selection, and no record by halves.

use std::collections::{BTreeMap, BTreeSet};

use leveret_core::log::Recovered;
use leveret_core::{Fact, Lsn, QueueNumber, Record, Seq};

use super::model::{Batch, Model, Queue, State, States, VHOSTS, apply, within};

/// What was found of each vhost.
pub type Found = [Recovered; VHOSTS.len()];

/// Compares. The states that were found, with the messages as they were staged: whether their
/// octets are the same is for whoever fetches them.
///
/// # Errors
/// In words, if nothing that may be explains it.
pub fn judge(model: &Model, found: &Found) -> Result<States, String> {
    let mut before = (*model.safe).clone();
    let mut complaint = None;
    for whole in 0..=model.pending.len() {
        let part = model.pending.get(whole).map(|batch| &**batch);
        match explain(&before, part, found, &model.safe) {
            Ok(states) => return Ok(states),
            Err(why) => complaint = Some(format!("with {whole} unreported batches: {why}")),
        }
        if let Some(batch) = part {
            apply(&mut before, batch);
        }
    }
    Err(complaint.unwrap_or_default())
}

fn explain(
    before: &States,
    part: Option<&Batch>,
    found: &Found,
    safe: &States,
) -> Result<States, String> {
    let mut states = States::default();
    for (n, name) in VHOSTS.iter().enumerate() {
        let records: Vec<&Record> = part
            .iter()
            .flat_map(|batch| batch.iter())
            .filter(|(vhost, _)| *vhost == n)
            .flat_map(|(_, records)| records)
            .collect();
        states[n] = explain_vhost(&before[n], &records, &found[n], safe[n].last)
            .map_err(|why| format!("vhost '{name}': {why}"))?;
    }
    Ok(states)
}

fn explain_vhost(
    before: &State,
    part: &[&Record],
    found: &Recovered,
    reported: Lsn,
) -> Result<State, String> {
    let last = part.last().map_or(before.last, |record| record.lsn);
    if found.last < reported || found.last > last {
        return Err(format!(
            "last record {:?}, reported {reported:?}, staged {last:?}",
            found.last
        ));
    }
    let mut state = definitions(before, part, found)?;
    state.last = found.last;
    let effects = Effects::of(before, part);
    let mut places = BTreeMap::new();
    for recovered in &found.queues {
        let number = recovered.number;
        if !state.queues.contains_key(&number) {
            return Err(format!("messages of a queue {number} that is not declared"));
        }
        let mut seqs = BTreeSet::new();
        let (mut end, mut last) = (0, 0);
        for run in &recovered.runs {
            if run.first.0 <= end || run.last < run.first {
                return Err(format!("queue {number}: runs {:?}", recovered.runs));
            }
            end = run.last.0;
            last = run.last.number().max(last);
            if end - run.first.0 > 1_000_000 {
                return Err(format!("queue {number}: no such run was staged: {run:?}"));
            }
            seqs.extend(run.first.0..=run.last.0);
        }
        let known = effects.last.get(&number).copied().unwrap_or_default();
        if recovered.last.0 < last || recovered.last.0 > known {
            let said = recovered.last;
            return Err(format!(
                "queue {number}: last number {said}, of a message {last}, staged {known}"
            ));
        }
        let marks = &effects.marks[&number];
        if !marks.contains(&recovered.delivered_through.0) {
            let through = recovered.delivered_through;
            return Err(format!(
                "queue {number}: delivered through {through}, may be one of {marks:?}"
            ));
        }
        if places.insert(number, seqs).is_some() {
            return Err(format!("queue {number} is there twice"));
        }
        if let Some(queue) = state.queues.get_mut(&number) {
            queue.last = recovered.last.0;
            queue.delivered_through = recovered.delivered_through.0;
        }
    }
    for (number, queue) in &mut state.queues {
        let none = BTreeSet::new();
        let seqs = places.get(number).unwrap_or(&none);
        if !places.contains_key(number) && !effects.marks[number].contains(&queue.delivered_through)
        {
            return Err(format!("queue {number}: nothing known of its deliveries"));
        }
        effects.check_queue(before, *number, seqs)?;
        for seq in seqs {
            if let Some(message) = effects.messages.get(&(*number, *seq)) {
                queue.messages.insert(*seq, message.clone());
            }
        }
    }
    check_whole(part, &effects, &state)?;
    Ok(state)
}

/// The definitions before, and those of some first records of the part.
fn definitions(before: &State, part: &[&Record], found: &Recovered) -> Result<State, String> {
    if !found.definitions.is_sorted_by(|a, b| a.0 < b.0) {
        return Err("definitions out of order".to_owned());
    }
    let found: BTreeMap<Lsn, Fact> = found.definitions.iter().cloned().collect();
    let mut state = State {
        definitions: before.definitions.clone(),
        ..State::default()
    };
    let mut records = part.iter();
    while state.definitions != found {
        let Some(record) = records.next() else {
            return Err(difference(&before.definitions, &found));
        };
        state.define(record.lsn, &record.fact);
    }
    let numbers = state.queue_names();
    state.queues = numbers
        .into_iter()
        .map(|(number, _)| (number, Queue::default()))
        .collect();
    Ok(state)
}

fn difference(expected: &BTreeMap<Lsn, Fact>, found: &BTreeMap<Lsn, Fact>) -> String {
    let missing = expected.iter().find(|(lsn, f)| found.get(lsn) != Some(f));
    let extra = found.iter().find(|(lsn, f)| expected.get(lsn) != Some(f));
    format!("definitions: missing {missing:?}, found {extra:?}")
}

/// What a part of a batch may change.
struct Effects {
    /// Every message that was or comes, by queue and place.
    messages: BTreeMap<(QueueNumber, u64), leveret_core::Message>,
    /// Those that come.
    published: BTreeSet<(QueueNumber, u64)>,
    /// Places that are settled, and how often.
    settled: BTreeMap<(QueueNumber, u64), u32>,
    last: BTreeMap<QueueNumber, u64>,
    marks: BTreeMap<QueueNumber, BTreeSet<u64>>,
}

impl Effects {
    fn of(before: &State, part: &[&Record]) -> Self {
        let mut effects = Self {
            messages: BTreeMap::new(),
            published: BTreeSet::new(),
            settled: BTreeMap::new(),
            last: BTreeMap::new(),
            marks: BTreeMap::new(),
        };
        for (number, queue) in &before.queues {
            effects.queue(*number, queue);
        }
        for record in part {
            effects.note(record.lsn, &record.fact);
        }
        effects
    }

    fn queue(&mut self, number: QueueNumber, queue: &Queue) {
        let messages = queue.messages.iter();
        self.messages
            .extend(messages.map(|(seq, message)| ((number, *seq), message.clone())));
        self.last.insert(number, queue.last);
        self.marks.insert(number, [queue.delivered_through].into());
    }

    fn note(&mut self, lsn: Lsn, fact: &Fact) {
        match fact {
            Fact::QueueDeclared { .. } => self.queue(QueueNumber(lsn.0), &Queue::default()),
            Fact::Published {
                message, places, ..
            } => {
                for &(queue, place) in places {
                    let Seq(seq) = place;
                    self.messages.insert((queue, seq), message.clone());
                    self.published.insert((queue, seq));
                    let last = self.last.entry(queue).or_default();
                    *last = place.number().max(*last);
                }
            }
            Fact::MayDeliver { queue, through } => {
                self.marks.entry(*queue).or_default().insert(through.0);
            }
            Fact::Together(facts) => facts.iter().for_each(|fact| self.note(lsn, fact)),
            fact => {
                let places: Vec<_> = self.settled_by(fact).collect();
                for place in places {
                    *self.settled.entry(place).or_default() += 1;
                }
            }
        }
    }

    /// Places that this fact empties.
    fn settled_by<'a>(
        &'a self,
        fact: &'a Fact,
    ) -> impl Iterator<Item = (QueueNumber, u64)> + use<'a> {
        let (of, runs) = match fact {
            Fact::Settled { queue, seq } => (Some(*queue), vec![(*seq, *seq)]),
            Fact::Purged { queue, places } => (Some(*queue), places.clone()),
            _ => (None, Vec::new()),
        };
        let places = self.messages.keys().copied();
        places.filter(move |(queue, seq)| Some(*queue) == of && within(&runs, *seq))
    }

    fn check_queue(
        &self,
        before: &State,
        number: QueueNumber,
        found: &BTreeSet<u64>,
    ) -> Result<(), String> {
        let old = before.queues.get(&number).map(|queue| &queue.messages);
        let was = |seq: &u64| old.is_some_and(|messages| messages.contains_key(seq));
        if let Some(seq) = found
            .iter()
            .find(|seq| !was(seq) && !self.published.contains(&(number, **seq)))
        {
            return Err(format!(
                "queue {number}: place {seq} was settled or never published, and is there"
            ));
        }
        let lost = old
            .into_iter()
            .flat_map(BTreeMap::keys)
            .find(|seq| !found.contains(seq) && !self.settled.contains_key(&(number, **seq)));
        match lost {
            Some(seq) => Err(format!("queue {number}: place {seq} is lost")),
            None => Ok(()),
        }
    }
}

/// Every record is there wholly or not at all, and publishes from the first on.
fn check_whole(part: &[&Record], effects: &Effects, state: &State) -> Result<(), String> {
    let mut missing: Option<Lsn> = None;
    for record in part {
        let (there, absent) = witnesses(&record.fact, effects, state);
        if there && absent {
            return Err(format!("{:?} is there by halves", record.lsn));
        }
        let publishes = matches!(record.fact, Fact::Published { .. } | Fact::Together(_));
        if publishes && absent {
            missing = missing.or(Some(record.lsn));
        }
        if let (true, true, Some(missing)) = (publishes, there, missing) {
            return Err(format!(
                "{:?} is there, and {missing:?} before it is not",
                record.lsn
            ));
        }
    }
    Ok(())
}

/// Whether something shows that a record was found, and whether something shows that it was not.
fn witnesses(fact: &Fact, effects: &Effects, state: &State) -> (bool, bool) {
    let found = |(queue, seq): (QueueNumber, u64)| {
        let queue = state.queues.get(&queue)?;
        Some(queue.messages.contains_key(&seq))
    };
    let times = |place| effects.settled.get(&place).copied().unwrap_or_default();
    match fact {
        Fact::Published { places, .. } => {
            let places = places.iter().map(|&(queue, seq)| (queue, seq.0));
            places.fold((false, false), |(there, absent), place| {
                match found(place) {
                    Some(true) => (true, absent),
                    Some(false) if times(place) == 0 => (there, true),
                    _ => (there, absent),
                }
            })
        }
        Fact::Settled { .. } | Fact::Purged { .. } => {
            let places = effects.settled_by(fact);
            places.fold((false, false), |(there, absent), place| {
                let new = effects.published.contains(&place);
                match found(place) {
                    // Settled more than once: the other record may have done it. New: it may
                    // never have been there.
                    Some(false) if times(place) == 1 && !new => (true, absent),
                    Some(true) => (there, true),
                    _ => (there, absent),
                }
            })
        }
        Fact::Together(facts) => facts.iter().fold((false, false), |(there, absent), fact| {
            let (a, b) = witnesses(fact, effects, state);
            (there | a, absent | b)
        }),
        _ => (false, false),
    }
}

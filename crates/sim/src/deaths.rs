//! Messages that queues of the model get rid of: expired, dropped, rejected, failed too often.
//!
//! The core says in which order messages died; the model says whether each had to, and what had to
//! die and did not. Where it cannot know (a message may be away, in the log alone, and is found out
//! later) it accepts both until everything rests.

use leveret_core::{Died, Fact, Lsn, QueueNumber};

use crate::letters::{letter, past_of_message};
use crate::model::{Checked, Item, Model, Published, Queue, Shown, Violation, identify};
use crate::violation;

/// Deaths that are carried out in one go.
const BURIED_AT_ONCE: usize = 1_000;

/// What is held back when it is due is due again after so many milliseconds.
const HELD_LOOK_MS: u64 = 20;

/// A message that died and goes on elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Dead {
    id: u64,
    letter: Published,
    /// Where the log has it, if it has.
    place: Option<(QueueNumber, u64)>,
}

impl Model {
    /// What a message is: as it was published, or the letter it has become.
    #[must_use]
    pub fn content(&self, id: u64, letter: Option<usize>) -> Option<&Published> {
        match letter {
            Some(at) => self.letters.get(at).map(|(_, letter)| letter),
            None => self.published.get(usize::try_from(id).ok()?),
        }
    }

    /// The same of one in a queue.
    #[must_use]
    pub fn content_of(&self, item: &Item) -> Option<&Published> {
        self.content(item.id, item.letter)
    }

    /// A message of a queue as a client should see it.
    pub(crate) fn shown(&self, queue: &Queue, item: &Item) -> Shown {
        let counted = queue.rules.counts_deliveries();
        Shown {
            id: item.id,
            letter: item.letter,
            failures: if counted { item.failures } else { 0 },
        }
    }

    /// Whether the log or the swap area may be the only one to have this message.
    pub(crate) fn may_be_away(&self, queue: &Queue, item: &Item) -> bool {
        let kept = || {
            self.content_of(item)
                .is_some_and(|content| content.persistent)
        };
        self.pages && (self.swaps || queue.durable && kept())
    }

    /// Whether its time is over, if that is known. After somebody has set the clock on the wall it is
    /// not, of messages that were read back; nor between the first and the last moment to which it may
    /// have been put off. And nothing expires that could not have been had.
    pub(crate) fn is_due(&self, queue: &Queue, item: &Item) -> Option<bool> {
        let Some(due) = item.due else {
            return Some(false);
        };
        if queue.holds_back(item) {
            return Some(false);
        }
        let unknown = (self.clock_was_set || item.put_off) && self.may_be_away(queue, item)
            || (due..due + item.late).contains(&self.now_ms);
        (!unknown).then_some(due <= self.now_ms)
    }

    /// What is held back is given some more time when it is due and somebody looks: the timers surely
    /// do, and anything else in a turn may. So after a turn in which timers had no part it may be due
    /// as before, or be put off from now on; after one in which they had, it is not due. When exactly
    /// is not known of what may be away: then it is due when it has been read.
    pub(crate) fn put_off(&mut self, by_timers: bool) {
        let mut late: Vec<(String, u64, bool)> = Vec::new();
        for (name, queue) in self.queues.iter().filter(|(_, q)| !q.held.is_empty()) {
            let is_due = |item: &&Item| item.due.is_some_and(|due| due <= self.now_ms);
            let held = queue.ready.iter().filter(|item| queue.holds_back(item));
            for item in held.filter(is_due) {
                late.push((name.clone(), item.seq, self.may_be_away(queue, item)));
            }
        }
        self.count("put off", late.len() as u64);
        for (name, seq, may_be_away) in late {
            let queue = self.queues.get_mut(&name);
            let item = queue.and_then(|q| q.ready.iter_mut().find(|item| item.seq == seq));
            if let Some(item) = item {
                item.put_off = true;
                let due = item.due.unwrap_or_default();
                let (last, later) = (due + item.late, self.now_ms + HELD_LOOK_MS);
                let first = match by_timers {
                    true if last <= self.now_ms => later,
                    true => self.now_ms + 1,
                    false => due,
                };
                if !may_be_away {
                    item.due = Some(first);
                    item.late = last.max(later) - first;
                }
            }
        }
    }

    /// Whether a queue holds more than it may.
    pub(crate) fn is_too_long(&self, queue: &Queue) -> bool {
        !queue.rules.refuses() && queue.rules.is_over(queue.ready.len(), self.octets(queue))
    }

    /// Octets of the bodies of what is ready.
    pub(crate) fn octets(&self, queue: &Queue) -> usize {
        let ready = queue.ready.iter();
        ready
            .filter_map(|item| self.content_of(item))
            .map(|content| content.body_len)
            .sum()
    }

    /// Whether a queue says no to one more.
    pub(crate) fn is_full(&self, queue: &Queue, body_len: usize) -> bool {
        let rules = &queue.rules;
        rules.refuses() && rules.is_over(queue.ready.len() + 1, self.octets(queue) + body_len)
    }

    /// Takes the next death, if it had to happen by now.
    pub(crate) fn eat_death(&mut self) -> Result<bool, Violation> {
        let Some(died) = self.died.front() else {
            return Ok(false);
        };
        let Some(at) = self.death_makes_sense(died) else {
            return Ok(false);
        };
        let Some(Died { queue, reason, .. }) = self.died.pop_front() else {
            return Ok(false);
        };
        let item = self
            .queues
            .get_mut(&*queue)
            .and_then(|q| q.ready.remove(at));
        if let Some(item) = item {
            self.count(
                if reason == "expired" {
                    "expired"
                } else {
                    "dropped"
                },
                1,
            );
            self.dies(&queue, Some(item.seq), item.id, item.letter, reason);
        }
        Ok(true)
    }

    /// Of what expires in one tick, takes what did before a queue expired then.
    pub(crate) fn expire_before(&mut self, due_ms: u64) -> Checked {
        // All that is due in a queue goes when the first of it is.
        let mut going: Option<(String, u64)> = None;
        while let Some(died) = self.died.front() {
            let same = going.as_ref().filter(|(queue, _)| **queue == *died.queue);
            let first = || {
                let queue = self.queues.get(&*died.queue)?;
                let mut ready = queue.ready.iter();
                let item = ready.find(|item| Some(item.seq) == died.place.map(|place| place.0))?;
                item.due
            };
            let Some(at) = same.map(|(_, at)| *at).or_else(first) else {
                return Ok(());
            };
            going = Some((died.queue.to_string(), at));
            if at >= due_ms || !self.eat_death()? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Where the message stands in its queue that expired or was dropped, if that is right.
    fn death_makes_sense(&self, died: &Died) -> Option<usize> {
        let queue = self.queues.get(&*died.queue)?;
        let place = died.place?.0;
        let at = queue.ready.iter().position(|item| item.seq == place)?;
        let item = &queue.ready[at];
        let right = match died.reason {
            "expired" => {
                let earlier = |other: &Item| {
                    let last = other.due.map_or(u64::MAX, |due| due + other.late);
                    (last, other.seq) < (item.due.unwrap_or(0), place)
                        && !self.may_be_away(queue, other)
                        && !queue.holds_back(other) // it is put off
                };
                item.due.is_some()
                    && self.is_due(queue, item) != Some(false)
                    && (self.may_be_away(queue, item) || !queue.ready.iter().any(earlier))
            }
            "maxlen" => at == 0 && self.is_too_long(queue),
            _ => false,
        };
        right.then_some(at)
    }

    /// A message that is in no queue's `ready` has to die now: of what was delivered, or never got in.
    pub(crate) fn has_to_die(
        &mut self,
        name: &str,
        seq: Option<u64>,
        (id, letter): (u64, Option<usize>),
        reason: &'static str,
    ) -> Checked {
        while self.eat_death()? {}
        let right = |died: &Died| {
            *died.queue == *name && died.place.map(|place| place.0) == seq && died.reason == reason
        };
        match self.died.pop_front() {
            Some(died) if right(&died) => {
                self.count(reason, 1);
                self.dies(name, seq, id, letter, reason);
                Ok(())
            }
            other => Err(violation!(
                "message {id} at {seq:?} of '{name}' has to die ({reason}), what dies is {other:?}"
            )),
        }
    }

    fn dies(
        &mut self,
        name: &str,
        seq: Option<u64>,
        id: u64,
        of: Option<usize>,
        reason: &'static str,
    ) {
        let now_s = self.now_wall_ms / 1_000;
        let (Some(queue), Some(content)) = (self.queues.get(name), self.content(id, of)) else {
            return;
        };
        let kept = queue.number.filter(|_| content.persistent);
        let place = kept.and_then(|number| Some((number, seq?)));
        let letter = letter(content, name, &queue.rules, reason, now_s);
        if queue.rules.dead_letter.is_some() {
            self.dead.push_back(Dead { id, letter, place });
        }
        if let Some(place) = place {
            self.settled.push(place);
        }
    }

    /// Carries out what died: as the core, before the turn ends, one after the other.
    pub(crate) fn bury(&mut self) -> Checked {
        for _ in 0..BURIED_AT_ONCE {
            let Some(dead) = self.dead.pop_front() else {
                return Ok(());
            };
            self.bury_one(dead)?;
            self.eat()?;
        }
        Ok(())
    }

    fn bury_one(&mut self, Dead { id, letter, place }: Dead) -> Checked {
        if !self.topology.exchanges.contains_key(&letter.exchange) {
            self.count("letters to nobody", 1);
            return Ok(());
        }
        self.count("dead letters", 1);
        let keys: Vec<&str> = letter.keys.iter().map(String::as_str).collect();
        let is_queue = |name: &str| self.queues.contains_key(name);
        let names = self
            .topology
            .route(&letter.exchange, &keys, &letter.headers, is_queue);
        let (round, on): (Vec<String>, Vec<String>) = names
            .into_iter()
            .partition(|name| letter.past.goes_round(name));
        self.count("letters that would go round", round.len() as u64);
        let at = self.letters.len();
        let name = letter.past.name();
        let persistent = letter.persistent;
        self.died_now.push((id, name.clone()));
        self.letters.push((id, letter));
        let taking = self.refuse_full(id, Some(at), on)?;
        let durable = |name: &String| self.queues.get(name).is_some_and(|queue| queue.durable);
        let kept = persistent && taking.iter().any(durable);
        let mut safe = Lsn(0);
        if kept
            && self
                .records
                .get(&(id, name.clone()))
                .is_none_or(|lsn| *lsn <= self.before)
        {
            return Err(violation!(
                "letter {id} ({name}) must survive a restart and has no record"
            ));
        }
        if let Some(place) = place {
            safe = self.record_of_letter(place, kept.then_some((id, &name)))?;
            self.count("letters held back", u64::from(safe > self.durable));
        }
        self.enter(&taking, id, Some(at), safe);
        Ok(())
    }

    /// The records of the letters from this one on, of those that have one of this turn.
    pub(crate) fn records_of_letters(&self, from: usize) -> Vec<Lsn> {
        let letters = self.letters.iter().skip(from);
        let record = |(id, letter): &(u64, Published)| {
            let record = self.records.get(&(*id, letter.past.name()));
            record.copied().filter(|lsn| *lsn > self.before)
        };
        letters.filter_map(record).collect()
    }

    /// The one record by which a message leaves its queue and enters others, if it does.
    fn record_of_letter(
        &self,
        (number, place): (QueueNumber, u64),
        letter: Option<(u64, &str)>,
    ) -> Result<Lsn, Violation> {
        let leaves = |fact: &Fact| matches!(fact, Fact::Settled { queue, seq } if (*queue, seq.0) == (number, place));
        let enters = |fact: &Fact| match (fact, letter) {
            (Fact::Published { message, .. }, Some((id, name))) => {
                identify(message) == Some(id) && past_of_message(message) == name
            }
            _ => false,
        };
        let is_whole = |fact: &Fact| match fact {
            Fact::Together(facts) => {
                facts.iter().any(leaves) && (letter.is_none() || facts.iter().any(enters))
            }
            fact => leaves(fact) && letter.is_none(),
        };
        let mut made = self.made.iter().rev();
        match made.find(|(_, fact)| is_whole(fact)) {
            Some((lsn, _)) => Ok(*lsn),
            None => Err(violation!(
                "no one record has both the death at {place} of queue {number} and its letter {letter:?}"
            )),
        }
    }

    /// Takes the queues out that say no to a message.
    pub(crate) fn refuse_full(
        &mut self,
        id: u64,
        letter: Option<usize>,
        names: Vec<String>,
    ) -> Result<Vec<String>, Violation> {
        let body_len = self
            .content(id, letter)
            .map_or(0, |content| content.body_len);
        let full = |name: &String| {
            let queue = self.queues.get(name);
            queue.is_some_and(|queue| self.is_full(queue, body_len))
        };
        let (refusing, taking): (Vec<String>, Vec<String>) = names.into_iter().partition(full);
        self.count("refused", refusing.len() as u64);
        let buries = |name: &String| {
            let queue = self.queues.get(name);
            queue.is_some_and(|queue| queue.rules.buries_refused())
        };
        let mut burying: Vec<String> = refusing.into_iter().filter(buries).collect();
        while !burying.is_empty() {
            // In whatever order.
            let next = self.died.front().map(|died| died.queue.to_string());
            let at = burying.iter().position(|name| Some(name) == next.as_ref());
            let name = burying.swap_remove(at.unwrap_or_default());
            self.has_to_die(&name, None, (id, letter), "maxlen")?;
        }
        Ok(taking)
    }

    /// Puts a message into queues. Nobody may see it before this record is safe.
    pub(crate) fn enter(&mut self, names: &[String], id: u64, letter: Option<usize>, safe: Lsn) {
        let Some(content) = self.content(id, letter) else {
            return;
        };
        let (priority, own_ms) = (content.priority, content.expiration_ms);
        let (now_ms, turn, durable) = (self.now_ms, self.turns, self.durable);
        let mut overtakes = 0;
        for name in names {
            let Some(queue) = self.queues.get_mut(name) else {
                continue;
            };
            let ms = queue.rules.ttl_ms.into_iter().chain(own_ms).min();
            let item = Item {
                id,
                seq: queue.place(priority),
                delivered: false,
                letter,
                failures: 0,
                due: ms.map(|ms| now_ms + ms),
                late: 0,
                came: turn,
                put_off: false,
                safe,
            };
            if safe > durable {
                queue.held.push((safe, item.seq));
            }
            let behind = queue.ready.partition_point(|other| other.seq < item.seq);
            overtakes += u64::from(behind < queue.ready.len());
            queue.ready.insert(behind, item);
            queue.woken |= queue.has_priorities();
            queue.may_be_long = false;
        }
        self.count("copies", names.len() as u64);
        self.count("overtakes", overtakes);
    }

    /// After a command: no queue is longer than it may be, unless its first message is away.
    pub(crate) fn check_lengths(&self) -> Checked {
        for (name, queue) in &self.queues {
            let stays = |front: &Item| queue.may_be_long || self.may_be_away(queue, front);
            if self.is_too_long(queue) && !queue.ready.front().is_some_and(stays) {
                let length = queue.ready.len();
                return Err(violation!("'{name}' has {length} messages and keeps them"));
            }
        }
        Ok(())
    }

    /// After a tick: nothing is there whose time is over, unless it is away.
    pub(crate) fn check_times(&mut self) -> Checked {
        self.put_off(true);
        for (name, queue) in &self.queues {
            let overdue = |item: &&Item| {
                self.is_due(queue, item) == Some(true) && !self.may_be_away(queue, item)
            };
            if let Some(item) = queue.ready.iter().find(overdue) {
                let next = self.died.front();
                return Err(violation!(
                    "{item:?} of '{name}' should have expired, and what dies next is {next:?}"
                ));
            }
        }
        Ok(())
    }

    /// Whether something waits whose time is over, or that there is no room for.
    pub(crate) fn has_to_go(&self) -> Option<&Item> {
        self.queues.values().find_map(|queue| {
            let front = queue.ready.front();
            let long = front.filter(|_| self.is_too_long(queue) && !queue.may_be_long);
            let mut ready = queue.ready.iter();
            long.or_else(|| ready.find(|item| self.is_due(queue, item) == Some(true)))
        })
    }
}

//! What becomes of messages that consumers did not want: they come again after a while, or die and
//! go where dead letters go.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use leveret_core::{Fact, Lsn, Message, QueueNumber, Retry, Seq};

use super::model::{Copy, Model, Wrong, fired_id};
use crate::dice::Dice;

/// Where dead letters go.
pub const GRAVES: &str = "x";

/// Octets that schedules and delayed messages may have on their way to the log, and those of a round
/// that had begun before.
const OWN_BYTES_MAX: usize = (16 << 20) + (17 << 20);

/// A time to wait may be too short by so much, in microseconds: it is in whole milliseconds of a clock.
const WAIT_SLACK_US: u64 = 1_000;

/// How queues are declared, but for that of the dead letters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// What dies goes to [`GRAVES`].
    pub dead_letters: bool,
    /// What comes back waits.
    pub retry: Option<Backoff>,
    /// Failed deliveries that a message survives.
    pub limit: Option<u32>,
}

/// After how long a message comes again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Backoff {
    /// For the first time, in milliseconds.
    pub first_ms: u64,
    /// Each time that many times longer.
    pub times: u64,
    /// Never longer than that.
    pub max_ms: u64,
}

/// What is known of a message that came back.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// Deliveries that failed.
    pub failures: u32,
    /// Nobody gets it before, in microseconds of the run.
    pub not_before: Option<u64>,
    /// What the log was told: the record, failed deliveries, and until when by the wall.
    kept: Vec<(Lsn, u32, u64)>,
    /// What it is to be told.
    until: Option<u64>,
}

/// A dead letter.
#[derive(Clone, Debug, Default)]
pub struct Letter {
    /// The record that takes it out of one queue and puts it into the other; none if it is transient.
    pub lsn: Lsn,
    /// What was seen of it.
    pub copy: Copy,
}

/// What the log was told of queues and places, and what it has not reported safe.
#[derive(Debug, Default)]
pub struct Places {
    names: Vec<(QueueNumber, String)>,
    keys: BTreeMap<(QueueNumber, Seq), (&'static str, String)>,
    own: VecDeque<(Lsn, usize)>,
    own_bytes: usize,
}

impl Rules {
    /// Any.
    pub fn draw(dice: &mut Dice) -> Self {
        let first_ms = dice.one_of(&[2, 700, 45_000, 1_200_000]);
        let retry = Backoff {
            first_ms,
            times: dice.between(1..=3),
            max_ms: first_ms * dice.one_of(&[1, 3, 100]),
        };
        let retry = dice.chance(50).then_some(retry);
        Self {
            dead_letters: dice.chance(60),
            retry,
            limit: dice
                .chance(50)
                .then(|| dice.between(0..=3) as u32)
                .filter(|_| retry.is_some()),
        }
    }
}

impl Backoff {
    fn delay_ms(self, failures: u32) -> u64 {
        let factor = self.times.saturating_pow(failures.saturating_sub(1));
        self.first_ms.saturating_mul(factor).min(self.max_ms)
    }
}

impl Places {
    fn name(&self, number: QueueNumber) -> Option<&str> {
        let known = self.names.iter().find(|(n, _)| *n == number);
        known.map(|(_, name)| &**name)
    }

    /// A restart finds all up to this record.
    pub(super) fn recovered(&mut self, last: Lsn) {
        self.names.retain(|(number, _)| number.0 <= last.0);
        self.own.clear();
        self.own_bytes = 0;
    }

    /// Octets of messages that are not safe yet, though no client has published them.
    #[must_use]
    pub fn own_bytes(&self) -> usize {
        self.own_bytes
    }

    /// The log has come this far.
    pub(super) fn safe(&mut self, durable: Lsn) {
        while let Some(&(lsn, bytes)) = self.own.front()
            && lsn <= durable
        {
            self.own.pop_front();
            self.own_bytes -= bytes;
        }
    }

    fn add_own(&mut self, lsn: Lsn, bytes: usize) -> Result<(), Wrong> {
        if self.own_bytes > OWN_BYTES_MAX {
            let bytes = self.own_bytes;
            return Err(format!(
                "{bytes} octets are not safe, and more is published"
            ));
        }
        self.own.push_back((lsn, bytes));
        self.own_bytes += bytes;
        Ok(())
    }
}

impl Past {
    /// A restart finds all up to this record, at this time of both clocks.
    pub(super) fn recovered(&mut self, last: Lsn, wall: u64, passed_us: u64) {
        self.kept.retain(|(lsn, ..)| *lsn <= last);
        self.until = None;
        let (failures, not_before) = match self.kept.last() {
            Some((_, failures, until)) if *until > wall => {
                (*failures, Some(passed_us + (until - wall) * 1_000))
            }
            Some((_, failures, _)) => (*failures, None),
            None => (0, None),
        };
        (self.failures, self.not_before) = (failures, not_before);
    }

    /// It goes to a consumer.
    pub(super) fn delivered(&mut self, what: &str, passed_us: u64) -> Result<(), Wrong> {
        match self.not_before.take() {
            Some(at) if passed_us + WAIT_SLACK_US < at => {
                let early = at - passed_us;
                Err(format!("{what} came again {early} us too early"))
            }
            _ => Ok(()),
        }
    }

    fn recorded(&mut self, lsn: Lsn, retry: &Retry) -> Result<(), Wrong> {
        let until = self.until.take();
        let right = until.is_some_and(|until| until.abs_diff(retry.until.0) <= 1);
        if !right || retry.failures != self.failures {
            return Err(format!("{retry:?} is recorded, and not {self:?} {until:?}"));
        }
        self.kept.push((lsn, retry.failures, retry.until.0));
        Ok(())
    }
}

impl Model {
    /// By what a message goes that comes back to a queue, and whether it leaves a dead letter.
    fn rules_of(&self, queue: &str, key: &str) -> Rules {
        if queue == GRAVES {
            return Rules::default();
        }
        let mut rules = self.rules;
        let fired = self.fires.get(key);
        let schedule = fired.and_then(|fired| self.schedules.get(&fired.schedule));
        if let Some(own) = schedule.and_then(|schedule| schedule.plan.retry) {
            rules.retry = Some(Backoff {
                first_ms: own.delay_ms,
                times: 1,
                max_ms: own.delay_ms,
            });
            rules.limit = Some(own.limit);
            rules.dead_letters |= own.dead_letters;
        }
        rules
    }

    fn is_persistent(&self, queue: &str, key: &str) -> bool {
        let key = match queue {
            GRAVES => key.split_once('|').map_or(key, |(_, key)| key),
            _ => key,
        };
        let fired = self.fires.get(key).map(|fired| fired.persistent);
        let promised = || self.promises.get(key).map(|promise| promise.persistent);
        fired.or_else(promised).unwrap_or(true)
    }

    /// A delivery has come back: it failed.
    pub fn failed(&mut self, queue: &'static str, key: &str, wall: u64, passed_us: u64) {
        let rules = self.rules_of(queue, key);
        let Some(copy) = self.copy(queue, key) else {
            return;
        };
        copy.holder = None;
        let Some(retry) = rules.retry else {
            return;
        };
        let past = &mut copy.past;
        past.failures += 1;
        if rules.limit.is_some_and(|limit| past.failures > limit) {
            self.deaths += 1;
            self.settled(queue, key, false);
            return;
        }
        let ms = retry.delay_ms(past.failures);
        past.not_before = Some(passed_us + ms * 1_000);
        past.until = Some(wall + ms);
        self.waits += 1;
    }

    /// A consumer has said what becomes of a delivery, or it has failed too often.
    pub fn settled(&mut self, queue: &'static str, key: &str, ack: bool) {
        let step = self.step;
        if let Some(copy) = self.copy(queue, key) {
            // The record says when.
            copy.settled = Some((Lsn(u64::MAX), ack));
            copy.settled_step = Some(step);
            copy.holder = None;
        }
        let leaves_letter = !ack && self.rules_of(queue, key).dead_letters;
        if leaves_letter && !self.is_persistent(queue, key) {
            self.letters
                .insert(format!("{queue}|{key}"), Letter::default());
        }
    }

    /// One fact of a record. Says whether a schedule has fired a message with it.
    /// `noted` if the record also says what a schedule has noted.
    pub(super) fn heard(
        &mut self,
        lsn: Lsn,
        fact: &Fact,
        noted: bool,
    ) -> Result<Option<String>, Wrong> {
        match fact {
            Fact::QueueDeclared { name, .. } => {
                let number = QueueNumber(lsn.0);
                self.places.names.push((number, name.to_string()));
            }
            Fact::Published {
                message, places, ..
            } => return self.published(lsn, message, places),
            Fact::Settled { queue, seq } => {
                if let Some((queue, key)) = self.places.keys.get(&(*queue, *seq)).cloned() {
                    let copy = self.copy(queue, &key);
                    let Some((copy, (_, ack))) = copy.and_then(|copy| {
                        let settled = copy.settled?;
                        Some((copy, settled))
                    }) else {
                        return Err(format!(
                            "{key} leaves queue {queue}, and nobody wanted that"
                        ));
                    };
                    (copy.settled, copy.noted) = (Some((lsn, ack)), noted);
                }
            }
            Fact::Retried { queue, retries } => {
                for retry in retries {
                    let key = self.places.keys.get(&(*queue, retry.seq)).cloned();
                    let copy = key.and_then(|(queue, key)| self.copy(queue, &key));
                    let copy = copy.ok_or_else(|| format!("what is to wait for {retry:?}?"))?;
                    copy.past.recorded(lsn, retry)?;
                }
            }
            _ => {}
        }
        Ok(None)
    }

    fn published(
        &mut self,
        lsn: Lsn,
        message: &Message,
        places: &[(QueueNumber, Seq)],
    ) -> Result<Option<String>, Wrong> {
        let id = fired_id(message);
        let body = || String::from_utf8_lossy(message.body()).into_owned();
        let of_client = id.is_none();
        let name = id.clone().unwrap_or_else(body);
        let letter = letter_key(message, &name);
        for place in places {
            let queue = match self.places.name(place.0) {
                Some("s") => "s",
                Some("t") => "t",
                Some("d") => "d",
                Some(GRAVES) => GRAVES,
                _ => continue,
            };
            let key = letter.clone().unwrap_or_else(|| name.clone());
            self.places.keys.insert(*place, (queue, key));
            if of_client && letter.is_none() {
                // One of a client that was delayed, and is due.
                self.places.add_own(lsn, message.memory_bytes())?;
            }
        }
        let Some(letter) = letter else {
            if id.is_some() {
                self.places.add_own(lsn, message.memory_bytes())?;
            }
            return Ok(id);
        };
        if self.letters.contains_key(&letter) {
            return Err(format!("{letter} is a dead letter twice"));
        }
        let (queue, key) = letter.split_once('|').unwrap_or_default();
        let died = self.copy(queue, key).and_then(|copy| copy.settled);
        if died.is_none_or(|(_, ack)| ack) || !self.rules_of(queue, key).dead_letters {
            return Err(format!("{letter} is a dead letter, and did not die"));
        }
        let copy = Copy::default();
        self.letters.insert(letter, Letter { lsn, copy });
        Ok(None)
    }

    /// A dead letter is delivered.
    ///
    /// # Errors
    /// If it ought not to be.
    pub fn letter_delivered(
        &mut self,
        message: &Message,
        again: bool,
        to: leveret_core::ConnectionId,
        durable: Lsn,
        passed_us: u64,
    ) -> Result<String, Wrong> {
        let body = || String::from_utf8_lossy(message.body()).into_owned();
        let name = fired_id(message).unwrap_or_else(body);
        let Some(key) = letter_key(message, &name) else {
            return Err(format!("{name} is among the dead, and says not why"));
        };
        let Some(letter) = self.letters.get_mut(&key) else {
            return Err(format!("{key} is among the dead, and did not die"));
        };
        if letter.lsn > durable {
            return Err(format!("dead letter {key} is delivered before it is safe"));
        }
        letter.copy.deliver(to, again, &key, passed_us)?;
        Ok(key)
    }

    /// Each that died has left its letter.
    ///
    /// # Errors
    /// If one has not.
    pub fn all_letters_are_there(&self) -> Result<(), Wrong> {
        let fired = self.fires.iter().filter(|(_, fired)| !fired.gone);
        let fired =
            fired.flat_map(|(id, fired)| fired.copies.iter().map(move |(q, c)| (*q, id, c)));
        let promised = self.promises.iter().filter(|(_, promise)| !promise.gone);
        let promised = promised.map(|(body, promise)| ("d", body, &promise.copy));
        let dead = fired
            .chain(promised)
            .filter(|(.., copy)| copy.settled.is_some_and(|(_, ack)| !ack));
        for (queue, key, _) in dead {
            let letter = format!("{queue}|{key}");
            if self.rules_of(queue, key).dead_letters && !self.letters.contains_key(&letter) {
                return Err(format!("{letter} died, and there is no dead letter"));
            }
        }
        Ok(())
    }

    /// Copies that wait to be delivered again, with the time in microseconds of the run.
    pub fn waiting_again(&self) -> impl Iterator<Item = u64> {
        let fired = self.fires.values().filter(|fired| !fired.gone);
        let copies = fired.flat_map(|fired| fired.copies.values());
        let promised = self.promises.values().filter(|promise| !promise.gone);
        let copies = copies.chain(promised.map(|promise| &promise.copy));
        let copies = copies.filter(|copy| copy.settled.is_none() && copy.holder.is_none());
        copies.filter_map(|copy| copy.past.not_before)
    }
}

/// The queue that a message died in first, and what it is; none if it did not die.
fn letter_key(message: &Message, name: &str) -> Option<String> {
    let headers = message.properties().headers?;
    let queue = headers.get("x-first-death-queue")?.as_str()?;
    Some(format!("{queue}|{name}"))
}

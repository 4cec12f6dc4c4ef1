//! Brokers that are wrong on purpose, so that tests can see that it is noticed.

use std::sync::Arc;

use leveret_codec::FieldValue;
use leveret_core::error::AmqpError;
use leveret_core::log::Fetched;
use leveret_core::schedule::{Deeds, Ending, Fire, Note, Order, Refusal, Run, Scheduler};
use leveret_core::{Fact, Message, Record, Wall};
use leveret_scheduler::Registry;

/// What is done wrong, around a broker that is right.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mistake {
    /// A message that is fired and the note about it are two records, written one after the other.
    TwoRecords,
    /// That a message has left its queue and what its schedule notes about that are two records.
    SettledApart,
    /// Every now and then the note about a message that is fired is not written.
    ForgetsNote,
    /// Schedules fire 2 ms early.
    FiresEarly,
    /// Nobody is paused.
    IgnoresPause,
    /// Every now and then a nominal time is passed over.
    ForgetsTime,
    /// What is asked back of delayed messages comes without one of them.
    LosesDelayed,
    /// What is asked back of delayed messages comes in each other's places.
    WrongOrder,
    /// Delays end 2 ms early.
    EndsEarly,
    /// Records are reported safe when they are written.
    EarlyReport,
    /// A cancelled message is not crossed out in the log.
    CancelForgotten,
    /// Whoever reads the clocks reads them a part of a millisecond apart.
    ClocksApart,
    /// Nobody asks whether the user of a schedule is still there.
    ForgetsUsers,
    /// When all is planned anew, what was fired last is fired again.
    RepeatsOnReplan,
    /// A message leaves its queue in the log, and its dead letter never gets there.
    LosesLetter,
    /// The log is not told that a message waits to be delivered again.
    ForgetsRetry,
}

impl Mistake {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::TwoRecords,
        Self::SettledApart,
        Self::ForgetsNote,
        Self::FiresEarly,
        Self::IgnoresPause,
        Self::ForgetsTime,
        Self::LosesDelayed,
        Self::WrongOrder,
        Self::EndsEarly,
        Self::EarlyReport,
        Self::CancelForgotten,
        Self::ClocksApart,
        Self::ForgetsUsers,
        Self::RepeatsOnReplan,
        Self::LosesLetter,
        Self::ForgetsRetry,
    ];

    /// The records as this broker has them written: one batch after the other.
    pub(super) fn spoil(mistake: Option<Self>, records: Vec<Record>) -> Vec<Vec<Record>> {
        let mut batch = Vec::new();
        let mut batches = Vec::new();
        for mut record in records {
            let lsn = record.lsn;
            if let Fact::Together(facts) = &mut record.fact {
                if let Some(is_first) = Self::part(mistake, facts) {
                    let (first, second) = std::mem::take(facts).into_iter().partition(is_first);
                    for facts in [first, second] {
                        let fact = Fact::Together(facts);
                        batch.push(Record { lsn, fact });
                        batches.push(std::mem::take(&mut batch));
                    }
                    continue;
                }
                match mistake {
                    Some(Self::ForgetsNote) if is_fire(facts) && lsn.0 % 5 == 0 => {
                        facts.retain(|fact| !matches!(fact, Fact::Noted(_)));
                    }
                    Some(Self::LosesLetter) => {
                        facts.retain(|fact| !is_letter(fact));
                    }
                    _ => {}
                }
            }
            if mistake == Some(Self::ForgetsRetry) && matches!(record.fact, Fact::Retried { .. }) {
                record.fact = Fact::Together(Vec::new());
            }
            if mistake == Some(Self::CancelForgotten)
                && let Fact::Settled { seq, .. } = &record.fact
                // Places of delayed messages say when they are due; others are small.
                && seq.0 >> 40 > 0
            {
                record.fact = Fact::Together(Vec::new());
            }
            batch.push(record);
        }
        batches.push(batch);
        batches
    }

    /// What comes first of a record that is written in two pieces.
    fn part(mistake: Option<Self>, facts: &[Fact]) -> Option<fn(&Fact) -> bool> {
        match mistake {
            Some(Self::TwoRecords) if is_fire(facts) => {
                Some(|fact| matches!(fact, Fact::Published { .. }))
            }
            Some(Self::SettledApart) if is_ending(facts) => {
                Some(|fact| !matches!(fact, Fact::Noted(_)))
            }
            _ => None,
        }
    }

    /// The answer of the log as this broker gets it.
    pub(super) fn spoil_fetched(mistake: Option<Self>, fetched: &mut Fetched) {
        let messages = &mut fetched.messages;
        let len = messages.len();
        match mistake {
            Some(Self::LosesDelayed) if len > 1 => {
                messages.remove(0);
            }
            Some(Self::WrongOrder) if len > 1 => {
                let (first, rest) = messages.split_at_mut(1);
                if let (Some(first), Some(last)) = (first.first_mut(), rest.last_mut()) {
                    std::mem::swap(&mut first.1, &mut last.1);
                }
            }
            _ => {}
        }
    }

    /// A delay in milliseconds as this broker understands it.
    pub(super) fn spoil_delay(mistake: Option<Self>, ms: u64) -> u64 {
        match mistake {
            Some(Self::EndsEarly) => ms.saturating_sub(4).max(1),
            _ => ms,
        }
    }
}

/// A registry with a mistake, or without.
#[derive(Debug)]
pub(super) struct Mistaken {
    pub(super) registry: Registry,
    pub(super) mistake: Option<Mistake>,
    /// What was fired last.
    pub(super) last: Option<(Arc<str>, Message, Vec<Note>)>,
    /// It is fired again.
    pub(super) again: bool,
}

impl Mistaken {
    pub(super) fn new(registry: Registry, mistake: Option<Mistake>) -> Self {
        Self {
            registry,
            mistake,
            last: None,
            again: false,
        }
    }

    fn ahead(&self) -> u64 {
        match self.mistake {
            Some(Mistake::FiresEarly) => 2,
            _ => 0,
        }
    }
}

impl Scheduler for Mistaken {
    fn recover(&mut self, now: Wall, notes: Vec<Note>) -> Result<(), String> {
        self.registry.recover(now, notes)
    }

    fn order(
        &mut self,
        now: Wall,
        order: &Order<'_>,
        deeds: &mut Deeds,
    ) -> Result<Vec<u8>, AmqpError> {
        let headers = order.message.properties().headers.unwrap_or_default();
        let action = headers.get("x-schedule-action");
        let action = action.and_then(FieldValue::as_str);
        if self.mistake == Some(Mistake::IgnoresPause) && action == Some("pause") {
            return Ok(b"{}".to_vec());
        }
        self.registry.order(now, order, deeds)
    }

    fn next_due(&self) -> Option<Wall> {
        if self.again {
            return Some(Wall(0));
        }
        let due = self.registry.next_due()?;
        Some(Wall(due.0 - self.ahead()))
    }

    fn due(&mut self, now: Wall, fires_max: usize, deeds: &mut Deeds) {
        let now = Wall(now.0 + self.ahead());
        self.registry.due(now, fires_max, deeds);
        if std::mem::take(&mut self.again)
            && let Some((user, message, notes)) = self.last.take()
        {
            deeds.fires.push(Fire {
                user,
                message,
                notes,
            });
        } else if let Some(fire) = deeds.fires.last() {
            let (message, notes) = (fire.message.clone(), fire.notes.clone());
            self.last = Some((Arc::clone(&fire.user), message, notes));
        }
        if self.mistake == Some(Mistake::ForgetsTime) {
            deeds.fires.retain(|fire| !is_unlucky(&fire.message));
        }
    }

    fn replan(&mut self, now: Wall) {
        self.again = self.mistake == Some(Mistake::RepeatsOnReplan) && self.last.is_some();
        self.registry.replan(now);
    }

    fn routed(&mut self, now: Wall, run: &Run<'_>, queues: usize, notes: &mut Vec<Note>) {
        self.registry.routed(now, run, queues, notes);
    }

    fn refused(&mut self, now: Wall, run: &Run<'_>, why: Refusal, notes: &mut Vec<Note>) {
        self.registry.refused(now, run, why, notes);
    }

    fn delivered(&mut self, now: Wall, run: &Run<'_>, consumer_tag: &str) {
        self.registry.delivered(now, run, consumer_tag);
    }

    fn settled(&mut self, now: Wall, run: &Run<'_>, ending: Ending, notes: &mut Vec<Note>) {
        self.registry.settled(now, run, ending, notes);
    }
}

/// A message is published, and its schedule notes that.
fn is_fire(facts: &[Fact]) -> bool {
    let published = |fact: &Fact| matches!(fact, Fact::Published { .. });
    has_notes(facts) && facts.iter().any(published) && !is_ending(facts)
}

/// A message has left its queue, and its schedule notes that.
fn is_ending(facts: &[Fact]) -> bool {
    let settled = |fact: &Fact| matches!(fact, Fact::Settled { .. });
    has_notes(facts) && facts.iter().any(settled)
}

fn has_notes(facts: &[Fact]) -> bool {
    facts.iter().any(|fact| matches!(fact, Fact::Noted(_)))
}

fn is_letter(fact: &Fact) -> bool {
    let Fact::Published { message, .. } = fact else {
        return false;
    };
    let headers = message.properties().headers;
    headers.is_some_and(|headers| headers.get("x-death").is_some())
}

fn is_unlucky(message: &Message) -> bool {
    let id = message.properties().message_id.unwrap_or_default();
    let sum: u32 = id.iter().map(|octet| u32::from(*octet)).sum();
    sum.is_multiple_of(7)
}

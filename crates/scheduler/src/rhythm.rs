//! Which expressions the schedules go by, each once, however many schedules share it.
//!
//! For somebody outside who keeps a clock of their own: a job for each [`Rhythm`], which has the
//! schedules of that rhythm looked at when some of them may be due. Such a clock is a net under
//! what the vhost does by itself, so a rhythm may be met more often than its schedules are due, but
//! never less often.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::agenda::Slot;
use crate::trigger::Trigger;

/// Schedules that are looked at in one go; the rest has its turn with the next ones.
pub const SCHEDULES_AT_ONCE: usize = 1_000;

/// An expression in the one form that all ways of writing it come to, and the zone it goes by:
/// `Europe/Berlin 0 30 2 * * *`. Six fields of numbers with commas, or `*`: second, minute, hour,
/// day of month, month, day of week (0 is Sunday); days are those on which both fields agree.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Rhythm(Arc<str>);

/// Hears which rhythms there are, within a turn of the vhost: it must not wait for anything.
pub trait Witness: Send + Sync {
    /// There are schedules of this rhythm, and there were none.
    fn appears(&self, rhythm: &Rhythm);

    /// There are none any more.
    fn vanishes(&self, rhythm: &Rhythm);
}

impl Rhythm {
    /// That of schedules with this trigger, if they go by an expression.
    #[must_use]
    pub fn of(trigger: &Trigger) -> Option<Self> {
        match trigger {
            Trigger::Cron(cron) => {
                let text = format!("{} {}", cron.zone().name(), cron.superset());
                Some(Self(text.into()))
            }
            Trigger::At(_) | Trigger::Every(_) | Trigger::Reboot => None,
        }
    }

    /// As a whole, which names it.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.0
    }

    /// The zone's name in the tz database.
    #[must_use]
    pub fn zone(&self) -> &str {
        self.0.split_once(' ').map_or("UTC", |(zone, _)| zone)
    }

    /// The six fields.
    #[must_use]
    pub fn fields(&self) -> &str {
        self.0.split_once(' ').map_or("", |(_, fields)| fields)
    }
}

/// The schedules of a vhost by their rhythms.
#[derive(Default)]
pub(crate) struct Rhythms {
    of: BTreeMap<Arc<str>, Members>,
    witness: Option<Arc<dyn Witness>>,
}

#[derive(Default)]
struct Members {
    slots: BTreeSet<Slot>,
    /// The first one that has not been looked at since all have.
    next: Slot,
}

impl Rhythms {
    /// Somebody wants to hear of them, and first of those there are.
    pub(crate) fn tell(&mut self, witness: Arc<dyn Witness>) {
        for name in self.of.keys() {
            witness.appears(&Rhythm(Arc::clone(name)));
        }
        self.witness = Some(witness);
    }

    /// A schedule with this trigger is there.
    pub(crate) fn add(&mut self, slot: Slot, trigger: &Trigger) {
        let Some(rhythm) = Rhythm::of(trigger) else {
            return;
        };
        let members = self.of.entry(Arc::clone(&rhythm.0)).or_default();
        members.slots.insert(slot);
        if members.slots.len() == 1
            && let Some(witness) = &self.witness
        {
            witness.appears(&rhythm);
        }
    }

    /// A schedule with this trigger is gone.
    pub(crate) fn remove(&mut self, slot: Slot, trigger: &Trigger) {
        let Some(rhythm) = Rhythm::of(trigger) else {
            return;
        };
        let Some(members) = self.of.get_mut(&rhythm.0) else {
            return;
        };
        if members.slots.remove(&slot) && members.slots.is_empty() {
            self.of.remove(&rhythm.0);
            if let Some(witness) = &self.witness {
                witness.vanishes(&rhythm);
            }
        }
    }

    /// A schedule has another trigger.
    pub(crate) fn replace(&mut self, slot: Slot, old: &Trigger, new: &Trigger) {
        if Rhythm::of(old) != Rhythm::of(new) {
            self.remove(slot, old);
            self.add(slot, new);
        }
    }

    /// The next ones of this rhythm to be looked at.
    pub(crate) fn take_turns(&mut self, name: &str) -> Vec<Slot> {
        let Some(members) = self.of.get_mut(name) else {
            return Vec::new();
        };
        let (slots, next) = (&members.slots, members.next);
        let round = slots.range(next..).chain(slots.range(..next));
        let some: Vec<Slot> = round.take(SCHEDULES_AT_ONCE).copied().collect();
        members.next = some.last().map_or(0, |last| last.saturating_add(1));
        some
    }
}

impl fmt::Debug for Rhythms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.of.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cron::{Cron, Dialect, Dst, Expression};
    use crate::zone::Zone;

    fn trigger(text: &str, dialect: Dialect) -> Trigger {
        let cron = Cron::parse(text, dialect, Zone::UTC, Dst::default()).unwrap();
        let Expression::Cron(cron) = cron else {
            panic!("{text} is no cron expression");
        };
        Trigger::Cron(Box::new(cron))
    }

    #[test]
    fn all_ways_to_write_an_expression_come_to_one() {
        use Dialect::{Quartz, Robfig};
        #[rustfmt::skip]
        let table = [
            ("* * * * *",                         Robfig, "UTC 0 * * * * *"),
            ("0 * * * * *",                       Robfig, "UTC 0 * * * * *"),
            ("0 * * * * ?",                       Quartz, "UTC 0 * * * * *"),
            ("CRON_TZ=europe/berlin 30 2 * * *",  Robfig, "Europe/Berlin 0 30 2 * * *"),
            ("*/20 9-17 * * 1-5",                 Robfig, "UTC 0 0,20,40 9,10,11,12,13,14,15,16,17 * * 1,2,3,4,5"),
            ("0 20/20,0 9-17 ? * MON-FRI",        Quartz, "UTC 0 0,20,40 9,10,11,12,13,14,15,16,17 * * 1,2,3,4,5"),
            ("@yearly",                           Robfig, "UTC 0 0 0 1 1 *"),
            ("0 0 31 jan *",                      Robfig, "UTC 0 0 0 31 1 *"),
            // What cannot be said that way is met more often.
            ("0 0 13 * 5",                        Robfig, "UTC 0 0 0 * * *"),
            ("0 0 0 L * ?",                       Quartz, "UTC 0 0 0 * * *"),
            ("0 0 0 ? * 6#3 2030",                Quartz, "UTC 0 0 0 * * *"),
        ];
        for (text, dialect, expected) in table {
            let rhythm = Rhythm::of(&trigger(text, dialect)).unwrap();
            assert_eq!(&**rhythm.name(), expected, "{text}");
        }
        assert_eq!(Rhythm::of(&Trigger::Reboot), None);
    }

    #[test]
    fn all_of_a_rhythm_have_their_turn() {
        let hourly = trigger("@hourly", Dialect::Robfig);
        let name = Rhythm::of(&hourly).unwrap();
        let mut rhythms = Rhythms::default();
        let count = Slot::try_from(SCHEDULES_AT_ONCE).unwrap();
        (0..count + 10).for_each(|slot| rhythms.add(slot, &hourly));
        assert_eq!(
            rhythms.take_turns(name.name()),
            (0..count).collect::<Vec<_>>()
        );
        let second = rhythms.take_turns(name.name());
        assert_eq!(second.first(), Some(&count));
        assert_eq!(second.len(), SCHEDULES_AT_ONCE);
        assert!(second.contains(&0) && !second.contains(&(count - 1)));
        assert!(rhythms.take_turns("UTC 0 1 * * * *").is_empty());
    }
}

//! A run: one message that a schedule has fired, by its name and by its fate.

use std::sync::Arc;

use leveret_core::ids::Wall;
use leveret_core::schedule::{Ending, Refusal};

use crate::octets::{Octets, put_text};
use crate::time;

/// Longest consumer tag that is kept, in octets.
const TAG_MAX: usize = 255;

/// First octet of an entry of the history.
const VERSION: u8 = 1;

/// What set a run off. Runs of different origins have different names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Origin {
    /// The trigger of its schedule.
    Trigger,
    /// Somebody who wanted it to run at once.
    Now,
    /// Somebody who wanted it for a time that has passed, with the number of the order.
    Backfill(u32),
}

/// How a run came to its end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// All who got it are done with it.
    Acked,
    /// Somebody was not, or it expired, or there was no room.
    Died,
    /// Its queue was emptied or deleted.
    Removed,
    /// No queue wanted it.
    Unrouted,
    /// It was not fired: the one before was not over.
    Overlapped,
    /// It was not fired, nor perhaps others after it: nobody was there.
    Missed,
    /// It was not on disk when the broker stopped.
    Lost,
    /// It was not published: the user of the schedule is gone.
    UserGone,
    /// It was not published: the user may not write to the exchange any more.
    NoRight,
}

/// An entry of a schedule's history.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Run {
    pub(crate) origin: Origin,
    /// When it was to be.
    pub(crate) nominal: Wall,
    /// When it was.
    pub(crate) fired: Wall,
    /// Queues that took it; unknown until it is routed.
    pub(crate) queues: Option<u16>,
    /// Copies that are not settled.
    pub(crate) left: u16,
    pub(crate) delivered: Option<Wall>,
    /// Who got it last.
    pub(crate) consumer: Option<Arc<str>>,
    /// What the copies that are settled came to: the worst of them.
    pub(crate) outcome: Option<Outcome>,
    pub(crate) ended: Option<Wall>,
    /// Whether the deadline passed without an ack.
    pub(crate) alarm: bool,
}

impl Origin {
    /// The `message-id` of a run. The schedule's name is short enough for what is added.
    pub(crate) fn message_id(self, schedule: &str, nominal: Wall) -> String {
        let nominal = time::text(nominal);
        match self {
            Self::Trigger => format!("{schedule}/{nominal}"),
            Self::Now => format!("{schedule}/run-now-{nominal}"),
            Self::Backfill(number) => format!("{schedule}/backfill-{number}-{nominal}"),
        }
    }

    /// Name of the schedule, origin and nominal time.
    pub(crate) fn parse(message_id: &str) -> Option<(&str, Self, Wall)> {
        let (schedule, run) = message_id.rsplit_once('/')?;
        let (origin, nominal) = if let Some(nominal) = run.strip_prefix("run-now-") {
            (Self::Now, nominal)
        } else if let Some(rest) = run.strip_prefix("backfill-") {
            let (number, nominal) = rest.split_once('-')?;
            (Self::Backfill(number.parse().ok()?), nominal)
        } else {
            (Self::Trigger, run)
        };
        Some((schedule, origin, time::parse(nominal)?))
    }
}

impl Outcome {
    /// As replies spell it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Acked => "acked",
            Self::Died => "died",
            Self::Removed => "removed",
            Self::Unrouted => "unrouted",
            Self::Overlapped => "skipped: the run before was not over",
            Self::Missed => "missed",
            Self::Lost => "lost",
            Self::UserGone => "refused: its user is gone, or the vhost is closed to that user",
            Self::NoRight => "refused: its user may not write to the exchange any more",
        }
    }

    /// In the order of how bad they are; the numbers are kept on disk.
    const ALL: [Self; 9] = [
        Self::Acked,
        Self::Removed,
        Self::Died,
        Self::Unrouted,
        Self::Overlapped,
        Self::Missed,
        Self::Lost,
        Self::UserGone,
        Self::NoRight,
    ];

    fn number(self) -> u8 {
        let place = Self::ALL.iter().position(|outcome| *outcome == self);
        place
            .and_then(|place| u8::try_from(place).ok())
            .unwrap_or_default()
    }
}

impl From<Ending> for Outcome {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Acked => Self::Acked,
            Ending::Died => Self::Died,
            Ending::Removed => Self::Removed,
        }
    }
}

impl From<Refusal> for Outcome {
    fn from(why: Refusal) -> Self {
        match why {
            Refusal::NoUser => Self::UserGone,
            Refusal::NoRight => Self::NoRight,
        }
    }
}

impl Run {
    /// One that is fired now.
    pub(crate) fn fired(origin: Origin, nominal: Wall, now: Wall) -> Self {
        Self {
            origin,
            nominal,
            fired: now,
            queues: None,
            left: 1,
            delivered: None,
            consumer: None,
            outcome: None,
            ended: None,
            alarm: false,
        }
    }

    /// One that is not fired.
    pub(crate) fn left_out(nominal: Wall, now: Wall, outcome: Outcome) -> Self {
        Self {
            queues: Some(0),
            left: 0,
            outcome: Some(outcome),
            ended: Some(now),
            ..Self::fired(Origin::Trigger, nominal, now)
        }
    }

    /// Whether there is a message of it that nobody has settled.
    pub(crate) fn is_open(&self) -> bool {
        self.ended.is_none()
    }

    /// Whether there ever was a message of it.
    pub(crate) fn was_fired(&self) -> bool {
        !matches!(self.outcome, Some(Outcome::Overlapped | Outcome::Missed))
    }

    pub(crate) fn was_acked(&self) -> bool {
        self.ended.is_some() && self.outcome == Some(Outcome::Acked)
    }

    /// One copy has come to its end.
    pub(crate) fn settle(&mut self, now: Wall, outcome: Outcome) {
        let before = self.outcome.map_or(0, Outcome::number);
        if outcome.number() >= before {
            self.outcome = Some(outcome);
        }
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            self.ended = Some(now);
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let (origin, number) = match self.origin {
            Origin::Trigger => (0, 0),
            Origin::Now => (1, 0),
            Origin::Backfill(number) => (2, number),
        };
        let mut out = vec![VERSION, origin];
        out.extend_from_slice(&number.to_le_bytes());
        out.push(self.outcome.map_or(u8::MAX, Outcome::number));
        out.push(self.alarm.into());
        out.extend_from_slice(&self.queues.unwrap_or(u16::MAX).to_le_bytes());
        out.extend_from_slice(&self.left.to_le_bytes());
        for at in [
            Some(self.nominal),
            Some(self.fired),
            self.delivered,
            self.ended,
        ] {
            out.extend_from_slice(&at.map_or(u64::MAX, |at| at.0).to_le_bytes());
        }
        let tag = self.consumer.as_deref().unwrap_or_default();
        put_text(&mut out, if tag.len() <= TAG_MAX { tag } else { "" });
        out
    }

    pub(crate) fn decode(octets: &[u8]) -> Option<Self> {
        let mut octets = Octets(octets);
        if octets.u8()? != VERSION {
            return None;
        }
        let origin = (octets.u8()?, octets.u32()?);
        let origin = match origin {
            (0, _) => Origin::Trigger,
            (1, _) => Origin::Now,
            (2, number) => Origin::Backfill(number),
            _ => return None,
        };
        let outcome = match octets.u8()? {
            u8::MAX => None,
            number => Some(*Outcome::ALL.get(usize::from(number))?),
        };
        let alarm = octets.u8()? != 0;
        let queues = Some(octets.u16()?).filter(|queues| *queues != u16::MAX);
        let left = octets.u16()?;
        let mut moment = || {
            let at = octets.u64()?;
            Some((at != u64::MAX).then_some(Wall(at)))
        };
        let (nominal, fired) = (moment()??, moment()??);
        let (delivered, ended) = (moment()?, moment()?);
        let tag = octets.text()?;
        Some(Self {
            origin,
            nominal,
            fired,
            queues,
            left,
            delivered,
            consumer: delivered.map(|_| Arc::from(tag)),
            outcome,
            ended,
            alarm,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_runs() {
        let at = time::parse("2026-11-21T10:00:00.250Z").unwrap();
        for origin in [Origin::Trigger, Origin::Now, Origin::Backfill(7)] {
            for name in ["nightly", "a/b", "run-now-", "x/2026-11-21T10:00:00.000Z"] {
                let id = origin.message_id(name, at);
                assert_eq!(Origin::parse(&id), Some((name, origin, at)), "{id}");
            }
        }
        let longest = "n".repeat(crate::definition::NAME_OCTETS_MAX);
        assert!(Origin::Backfill(u32::MAX).message_id(&longest, at).len() <= 255);
        for not_ours in [
            "",
            "nightly",
            "nightly/",
            "nightly/soon",
            "n/backfill-x-2026",
        ] {
            assert_eq!(Origin::parse(not_ours), None);
        }
    }

    #[test]
    fn entries_survive_being_written() {
        let mut run = Run::fired(Origin::Backfill(3), Wall(5), Wall(6));
        let fresh = run.clone();
        run.queues = Some(2);
        run.left = 2;
        run.delivered = Some(Wall(7));
        run.consumer = Some("ctag1".into());
        run.settle(Wall(8), Outcome::Died);
        let half = run.clone();
        run.settle(Wall(9), Outcome::Acked);
        run.alarm = true;
        assert_eq!(run.outcome, Some(Outcome::Died), "the worst of both");
        let skipped = Run::left_out(Wall(5), Wall(6), Outcome::Overlapped);
        for run in [fresh, half, run, skipped] {
            let octets = run.encode();
            assert_eq!(Run::decode(&octets), Some(run));
            for len in 0..octets.len() {
                assert_eq!(Run::decode(&octets[..len]), None);
            }
        }
    }
}

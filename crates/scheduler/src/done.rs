//! Which nominal times a schedule is done with: what makes it fire each of them once, whatever the
//! clock does.
//!
//! Usually that is one stretch of time, from when the schedule was made to the last time it fired,
//! and the next time is the first one after it. A clock that is put back then changes nothing: what
//! is within the stretch has been. When time was jumped over, a new stretch begins. So if it was a
//! wrong clock that jumped, and is put back, the schedule goes on where it was instead of waiting
//! for the wrong date; and when that date really comes, what was fired then is not fired again.

use leveret_core::ids::Wall;
use smallvec::{SmallVec, smallvec};

use crate::octets::Octets;
use crate::trigger::Trigger;

/// Stretches that are kept. More jumps than that forget the oldest one.
const STRETCHES_MAX: usize = 8;

/// A set of nominal times, as stretches that do not overlap, in order. There is at least one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Done(SmallVec<[Stretch; 1]>);

/// The nominal times after `from` and up to `to`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stretch {
    from: Wall,
    to: Wall,
}

impl Done {
    /// Of a schedule that was made now: nothing that comes.
    pub(crate) fn until(now: Wall) -> Self {
        Self(smallvec![Stretch { from: now, to: now }])
    }

    /// The same, but the one time of a schedule that has only one may have passed.
    pub(crate) fn for_new(trigger: &Trigger, now: Wall) -> Self {
        match trigger {
            Trigger::At(at) => Self::until(Wall(at.0.saturating_sub(1)).min(now)),
            _ => Self::until(now),
        }
    }

    /// Of a schedule that has another trigger from now on. What it has fired, or will have fired if
    /// the clock was ahead, it does not fire again.
    ///
    /// `was_fired` says so of single times, which may be in the past.
    pub(crate) fn for_another(
        &self,
        trigger: &Trigger,
        now: Wall,
        was_fired: impl Fn(Wall) -> bool,
    ) -> Self {
        let mut done = match trigger {
            Trigger::At(at) if *at <= now && (self.ends_with(*at) || was_fired(*at)) => {
                Self::until(now)
            }
            _ => Self::for_new(trigger, now),
        };
        for stretch in self.0.iter().filter(|stretch| stretch.to > now) {
            let from = stretch.from.max(now);
            done.0.push(Stretch { from, ..*stretch });
        }
        done
    }

    /// The end of the last stretch.
    pub(crate) fn last(&self) -> Wall {
        self.0.last().map_or(Wall(0), |stretch| stretch.to)
    }

    /// The next nominal time by this clock. It may be in the past.
    pub(crate) fn next(
        &self,
        now: Wall,
        next_after: impl Fn(Wall) -> Option<Wall>,
    ) -> Option<Wall> {
        let begun = self.0.iter().rev().find(|stretch| stretch.from <= now);
        // A clock before the first one must be wrong.
        let mut next = next_after(begun.or_else(|| self.0.first())?.to)?;
        for stretch in &self.0 {
            if stretch.from < next && next <= stretch.to {
                next = next_after(stretch.to)?;
            }
        }
        Some(next)
    }

    /// Whether it was the end of a stretch: a time that was surely fired, or left out on purpose.
    fn ends_with(&self, nominal: Wall) -> bool {
        self.0.iter().any(|stretch| stretch.to == nominal)
    }

    /// Done with this time, which was the next one.
    pub(crate) fn mark(&mut self, nominal: Wall) {
        match self.0.iter_mut().rev().find(|stretch| stretch.to < nominal) {
            Some(stretch) => stretch.to = nominal,
            None => self.0.insert(
                0,
                Stretch {
                    from: Wall(nominal.0.saturating_sub(1)),
                    to: nominal,
                },
            ),
        }
    }

    /// Jumps over all times up to this one, itself included, unless done with it anyway.
    pub(crate) fn skip(&mut self, until: Wall, now: Wall) {
        let place = self.0.partition_point(|stretch| stretch.from <= until);
        if place > 0 && self.0[place - 1].to >= until {
            return;
        }
        let (from, to) = (until, until);
        self.0.insert(place, Stretch { from, to });
        if self.0.len() > STRETCHES_MAX {
            self.forget(now);
        }
    }

    /// Of two stretches makes one, where it does least harm: long ago, or else far ahead.
    fn forget(&mut self, now: Wall) {
        let behind = self.0.get(1).is_some_and(|second| second.from <= now);
        let place = if behind { 0 } else { self.0.len() - 2 };
        let next = self.0.remove(place + 1);
        self.0[place].to = next.to;
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::try_from(self.0.len()).unwrap_or(u8::MAX));
        for stretch in &self.0 {
            out.extend_from_slice(&stretch.from.0.to_le_bytes());
            out.extend_from_slice(&stretch.to.0.to_le_bytes());
        }
    }

    pub(crate) fn decode(octets: &mut Octets<'_>) -> Option<Self> {
        let count = octets.u8()?;
        let stretches: Option<SmallVec<[Stretch; 1]>> = (0..count)
            .map(|_| {
                let (from, to) = (Wall(octets.u64()?), Wall(octets.u64()?));
                Some(Stretch { from, to })
            })
            .collect();
        let stretches = stretches.filter(|all| {
            let ordered = all.windows(2).all(|pair| pair[0].to <= pair[1].from);
            !all.is_empty() && ordered && all.iter().all(|stretch| stretch.from <= stretch.to)
        })?;
        Some(Self(stretches))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nominal times are the tens.
    fn tens(t: Wall) -> Option<Wall> {
        Some(Wall(t.0 / 10 * 10 + 10))
    }

    fn next(done: &Done, now: u64) -> u64 {
        done.next(Wall(now), tens).unwrap().0
    }

    #[test]
    fn clock_put_back_fires_nothing_twice() {
        let mut done = Done::until(Wall(5));
        for nominal in [10, 20, 30] {
            assert_eq!(next(&done, nominal), nominal);
            done.mark(Wall(nominal));
        }
        for now in [0, 5, 12, 30, 39, 1_000] {
            assert_eq!(next(&done, now), 40, "at {now}");
        }
    }

    #[test]
    fn clock_that_was_ahead_goes_on_where_it_was() {
        let mut done = Done::until(Wall(5));
        done.mark(Wall(10));
        done.skip(Wall(999), Wall(1_003)); // a wrong clock
        done.mark(Wall(1_000));
        assert_eq!(next(&done, 1_003), 1_010);
        assert_eq!(next(&done, 15), 20, "back again");
        for nominal in (20..1_000).step_by(10) {
            assert_eq!(next(&done, nominal), nominal);
            done.mark(Wall(nominal));
        }
        assert_eq!(next(&done, 1_000), 1_010, "1,000 has been");
    }

    #[test]
    fn stretches_are_few() {
        let mut done = Done::until(Wall(5));
        for jump in 1..100 {
            done.skip(Wall(jump * 1_000), Wall(jump * 1_000));
            done.mark(Wall(jump * 1_000 + 10));
            assert!(done.0.len() <= STRETCHES_MAX);
        }
        assert_eq!(next(&done, 99_020), 99_020);
        assert_eq!(next(&done, 98_500), 98_020, "the last jumps are remembered");
        assert_eq!(next(&done, 100), 92_020, "the first ones are not");
    }

    #[test]
    fn far_ahead_is_forgotten_before_the_present() {
        let mut done = Done::until(Wall(5));
        for jump in 1..20 {
            done.skip(Wall(jump * 1_000), Wall(7));
        }
        assert_eq!(next(&done, 7), 10);
    }

    #[test]
    fn survives_being_written() {
        let mut done = Done::until(Wall(5));
        done.mark(Wall(10));
        done.skip(Wall(999), Wall(1_000));
        let mut out = Vec::new();
        done.encode(&mut out);
        assert_eq!(Done::decode(&mut Octets(&out)), Some(done));
        for len in 0..out.len() {
            assert_eq!(Done::decode(&mut Octets(&out[..len])), None);
        }
        assert_eq!(Done::decode(&mut Octets(&[0])), None, "never empty");
    }
}

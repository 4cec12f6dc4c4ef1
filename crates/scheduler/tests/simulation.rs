//! Random lives of a registry: time passes or jumps, the broker stops at any record and starts
//! again, what was not on disk is lost. The model is a plain list of nominal times.

#![allow(clippy::unwrap_used)] // helpers of tests

mod desk;

use std::collections::BTreeSet;
use std::sync::Arc;

use desk::{Everything, message_id, order};
use leveret_codec::FieldValue;
use leveret_core::ids::Wall;
use leveret_core::schedule::{Deeds, Note, Order, Run, Scheduler};
use leveret_scheduler::cron::{Cron, Dialect, Dst, Expression};
use leveret_scheduler::trigger::{Every, Trigger};
use leveret_scheduler::zone::Zone;
use leveret_scheduler::{Limits, Registry, time};

const SEEDS: u64 = 2_000;
const STEPS: usize = 80;
/// 2026-10-20T12:00:00Z: the clocks are put back within the week.
const START_MS: u64 = 1_792_497_600_000;
const MINUTE_MS: u64 = 60_000;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Misfire {
    Skip,
    FireOnce,
    All { max: usize, window_ms: u64 },
}

/// What a schedule ought to do.
#[derive(Clone, Debug)]
struct Model {
    name: String,
    trigger: Trigger,
    misfire: Misfire,
    runs_left: u64,
    /// Times up to here are over.
    cursor: Wall,
    /// Times up to here are made up for.
    catch_up_to: Wall,
}

impl Model {
    /// All times that have come and are not over.
    fn pending(&self, now: Wall) -> Vec<Wall> {
        let mut pending = Vec::new();
        let mut t = self.cursor;
        while let Some(next) = self.trigger.next_after(t).filter(|next| *next <= now) {
            pending.push(next);
            t = next;
        }
        pending
    }

    /// The time that it fires for now, if any.
    fn fire(&mut self, now: Wall) -> Option<Wall> {
        if self.runs_left == 0 {
            return None;
        }
        loop {
            let is_late = |t: Wall| now.0 - t.0 > MINUTE_MS;
            let first = self.trigger.next_after(self.cursor);
            let first = first.filter(|first| *first <= now)?;
            let fired = if !is_late(first) || first <= self.catch_up_to {
                first
            } else {
                let pending = self.pending(now);
                let last = *pending.last()?;
                match self.misfire {
                    Misfire::Skip => {
                        let mut late = pending.iter().rev().filter(|t| is_late(**t));
                        self.cursor = *late.next()?;
                        continue;
                    }
                    Misfire::FireOnce => last,
                    Misfire::All { max, window_ms } => {
                        let young = pending.iter().filter(|t| now.0 - t.0 <= window_ms);
                        let mut young: Vec<_> = young.copied().collect();
                        let Some(first) = young
                            .split_off(young.len().saturating_sub(max))
                            .first()
                            .copied()
                        else {
                            self.cursor = last;
                            continue;
                        };
                        self.catch_up_to = last;
                        first
                    }
                }
            };
            self.cursor = fired;
            self.runs_left -= 1;
            return Some(fired);
        }
    }
}

/// What is in the log at one place, and how the model is after it.
struct Entry {
    notes: Vec<Note>,
    fired: Option<String>,
    models: Vec<Model>,
}

struct Life {
    seed: u64,
    dice: Dice,
    registry: Registry,
    log: Vec<Entry>,
    models: Vec<Model>,
    now: Wall,
    /// The clock never went back, so that the model knows all.
    forward: bool,
}

impl Life {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            dice: Dice(seed),
            registry: Registry::new(Limits::default()),
            log: Vec::new(),
            models: Vec::new(),
            now: Wall(START_MS),
            forward: true,
        }
    }

    fn define(&mut self, number: usize) {
        let name = format!("s{number}");
        let mut headers: Vec<(&str, FieldValue)> = vec![("name", name.as_str().into())];
        let trigger = if self.dice.below(2) == 0 {
            let seconds = 45 + self.dice.below(900);
            headers.push(("every", format!("{seconds}s").into()));
            Trigger::Every(Every {
                anchor: self.now,
                interval_ms: seconds * 1_000,
                at_anchor: false,
            })
        } else {
            let texts = [
                "*/2 * * * *",
                "0 * * * *",
                "30 2 * * *",
                "15,45 1-3 * * *",
                "0 0 * * 1",
            ];
            let (text, zone) = (
                *self.dice.pick(&texts),
                *self.dice.pick(&["UTC", "Europe/Berlin"]),
            );
            headers.push(("cron", text.into()));
            headers.push(("timezone", zone.into()));
            let zone = Zone::find(zone).unwrap();
            match Cron::parse(text, Dialect::Robfig, zone, Dst::default()) {
                Ok(Expression::Cron(cron)) => Trigger::Cron(Box::new(cron)),
                other => panic!("{other:?}"),
            }
        };
        let misfire = match self.dice.below(3) {
            0 => {
                headers.push(("misfire", "skip".into()));
                Misfire::Skip
            }
            1 => Misfire::FireOnce,
            _ => {
                let max = *self.dice.pick(&[1, 3, 40, 10_000]);
                let window_ms = *self.dice.pick(&[MINUTE_MS * 7, MINUTE_MS * 600, u64::MAX]);
                headers.push(("misfire", "all".into()));
                headers.push(("misfire-max", i64::from(max).into()));
                if window_ms < u64::MAX {
                    headers.push(("misfire-window", i64::try_from(window_ms).unwrap().into()));
                }
                let max = usize::try_from(max).unwrap();
                Misfire::All { max, window_ms }
            }
        };
        let runs_left = *self.dice.pick(&[u64::MAX, u64::MAX, 5, 30]);
        if runs_left < u64::MAX {
            headers.push(("max-runs", i64::try_from(runs_left).unwrap().into()));
        }
        self.models.push(Model {
            name,
            trigger,
            misfire,
            runs_left,
            cursor: self.now,
            catch_up_to: Wall(0),
        });
        let mut deeds = Deeds::default();
        let message = order(headers);
        let order = Order {
            user: &Arc::from("guest"),
            message: &message,
            rights: &Everything,
        };
        self.registry.order(self.now, &order, &mut deeds).unwrap();
        self.carry_out(deeds);
    }

    fn carry_out(&mut self, deeds: Deeds) {
        if !deeds.notes.is_empty() {
            self.log.push(Entry {
                notes: deeds.notes,
                fired: None,
                models: self.models.clone(),
            });
        }
        for fire in deeds.fires {
            let id = message_id(&fire.message);
            let (name, nominal) = id.split_once('/').unwrap();
            let model = self
                .models
                .iter_mut()
                .find(|model| model.name == name)
                .unwrap();
            if self.forward {
                let before = format!("{model:?} at {}", time::text(self.now));
                let expected = model.fire(self.now).map(time::text);
                assert_eq!(
                    Some(nominal),
                    expected.as_deref(),
                    "seed {}: {before}",
                    self.seed
                );
            } else {
                let at = time::parse(nominal).unwrap();
                let next = model.trigger.next_after(Wall(at.0 - 1));
                assert_eq!(next, Some(at), "seed {}: not a time of {name}", self.seed);
                assert!(at <= self.now, "seed {}: {name} is early", self.seed);
            }
            self.log.push(Entry {
                notes: fire.notes,
                fired: Some(id.clone()),
                models: self.models.clone(),
            });
            // Some of it is told to the registry, some of it is not: that must not matter.
            if self.dice.below(2) == 0 {
                let mut notes = Vec::new();
                let run = Run { message_id: &id };
                self.registry.routed(self.now, &run, 0, &mut notes);
                self.log.push(Entry {
                    notes,
                    fired: None,
                    models: self.models.clone(),
                });
            }
        }
    }

    fn catch_up(&mut self) {
        let mut turns = 0;
        while self.registry.next_due().is_some_and(|due| due <= self.now) {
            let mut deeds = Deeds::default();
            let max = usize::try_from(1 + self.dice.below(20)).unwrap();
            self.registry.due(self.now, max, &mut deeds);
            self.carry_out(deeds);
            turns += 1;
            assert!(turns < 100_000, "seed {}: no end", self.seed);
        }
        if self.forward {
            let now = self.now;
            for model in &mut self.models.clone() {
                let left = model.fire(now);
                assert_eq!(
                    left, None,
                    "seed {}: {} did not fire",
                    self.seed, model.name
                );
            }
        }
    }

    /// Stops after any record that may not have been safe, and starts again.
    fn crash(&mut self) {
        let lost = usize::try_from(self.dice.below(4)).unwrap();
        let definitions = 3; // confirmed long ago
        let len = self
            .log
            .len()
            .saturating_sub(lost)
            .max(definitions)
            .min(self.log.len());
        self.log.truncate(len);
        self.models = self.log[len - 1].models.clone();
        let mut kept = std::collections::BTreeMap::new();
        for note in self.log.iter().flat_map(|entry| &entry.notes) {
            kept.insert(note.key.clone(), note.value.clone());
        }
        let notes = kept.into_iter().filter(|(_, value)| value.is_some());
        let notes = notes.map(|(key, value)| Note { key, value }).collect();
        self.registry = Registry::new(Limits::default());
        self.registry.recover(self.now, notes).unwrap();
    }

    fn live(&mut self, may_go_back: bool) {
        for number in 0..3 {
            self.define(number);
        }
        let mut latest = self.now;
        for _ in 0..STEPS {
            let minutes = |ms: u64| ms * MINUTE_MS;
            match self.dice.below(12) {
                0..=4 => self.now.0 += self.dice.below(minutes(2)),
                5..=6 => self.now.0 += self.dice.below(minutes(20)),
                7 => self.now.0 += self.dice.below(minutes(60 * 12)),
                8 if may_go_back => {
                    let back = *self.dice.pick(&[1, 60, 60 * 24]);
                    self.now.0 -= self.dice.below(minutes(back)).min(self.now.0 - START_MS);
                    self.forward = false;
                }
                9 => self.registry.replan(self.now),
                10 => self.crash(),
                _ => {}
            }
            if self.dice.below(5) > 0 {
                self.catch_up();
            }
            latest = latest.max(self.now);
        }
        self.now = latest;
        self.registry.replan(self.now);
        self.catch_up();
    }

    fn fired(&self) -> BTreeSet<&str> {
        let ids: Vec<_> = self
            .log
            .iter()
            .filter_map(|entry| entry.fired.as_deref())
            .collect();
        let unique: BTreeSet<_> = ids.iter().copied().collect();
        assert_eq!(ids.len(), unique.len(), "seed {}: fired twice", self.seed);
        unique
    }
}

#[test]
fn each_time_is_fired_once_whatever_happens() {
    let mut fired = 0;
    for seed in 0..SEEDS {
        let mut life = Life::new(seed);
        life.live(seed % 2 == 1);
        fired += life.fired().len();
        let unlimited = Misfire::All {
            max: 10_000,
            window_ms: u64::MAX,
        };
        for model in &life.models {
            if model.misfire != unlimited || life.forward || model.runs_left < u64::MAX / 2 {
                continue;
            }
            // Nothing is left out either, however the clock went back and forth.
            let all = Model {
                cursor: Wall(START_MS),
                ..model.clone()
            };
            for nominal in all.pending(life.now) {
                let id = format!("{}/{}", model.name, time::text(nominal));
                assert!(life.fired().contains(&*id), "seed {seed}: {id} is missing");
            }
        }
    }
    println!("{fired} runs");
    assert!(fired > 50_000, "{fired}");
}

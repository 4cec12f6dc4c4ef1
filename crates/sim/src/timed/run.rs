//! A run: orders, delayed messages, time that passes or jumps, power cuts. A seed decides.

use leveret_core::{Lsn, Outcome};

use super::clock::Clock;
use super::fates::Rules;
use super::guests::Standing;
use super::judge::judge;
use super::machine::{Machine, message};
use super::mistakes::Mistake;
use super::model::{Copy, Done, Due, Event, Jump, Promise, Scheduled};
use super::nominal::{CHANGES, midnight, text};
use super::plan::{DAY, HOUR, MINUTE, Plan, number};
use crate::batch::Failure;
use crate::dice::Dice;
use crate::model::Tally;
use crate::storage::host::Trouble;
use crate::storage::image::Crash;
use crate::storage::run::guarded;

/// Steps of a run, before everything comes to an end.
pub const STEPS: usize = 40;

/// Schedules of a run.
const SCHEDULES: usize = 4;

/// Events that time stops at in one step.
const EVENTS: usize = 40;

/// How a run is to be.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Decides everything.
    pub seed: u64,
    /// A mistake that is made.
    pub mistake: Option<Mistake>,
    /// No power cut but this one: at an operation of the disk, and what is left then.
    pub cut: Option<(u64, Crash)>,
    /// No power cut, unless `cut` says so.
    pub calm: bool,
    /// Print what happens.
    pub trace: bool,
}

/// Runs it. What was done, and whether all was well.
pub fn run(setup: &Setup) -> (Tally, Result<(), Failure>) {
    let (tally, _, result) = run_around(setup);
    (tally, result)
}

/// The same, with the operations of the disk around each fire.
pub(super) fn run_around(setup: &Setup) -> (Tally, Vec<(u64, u64)>, Result<(), Failure>) {
    let mut run = Run::new(setup);
    let mut step = 0;
    let result = guarded(|| run.all(&mut step));
    let result = result.map_err(|what| Failure {
        replay: format!("timed --seed {}", setup.seed),
        what: format!("seed {}, step {step}: {what}", setup.seed),
    });
    (run.machine.tally, run.machine.around_fires, result)
}

struct Run {
    machine: Machine,
    dice: Dice,
    /// Of [`CHANGES`].
    change: usize,
    /// Years may pass: nothing happens often.
    long: bool,
    calm: bool,
    cut: Option<(u64, Crash)>,
    /// The disk may be slow.
    lazy: bool,
    /// Names that were given.
    names: usize,
    /// When the clock was set last, in microseconds of the run.
    jumped_us: Option<u64>,
    ending: bool,
}

impl Run {
    fn new(setup: &Setup) -> Self {
        let mut dice = Dice::new(setup.seed ^ 0x7110_ed00);
        let change = dice.below(CHANGES.len());
        let (zone, day) = CHANGES[change];
        let start = midnight(day, zone) - dice.between(0..=26 * HOUR);
        let clock = Clock::new(start, &mut dice);
        let options = crate::storage::run::options(&mut dice);
        let memory_max = dice.one_of(&[300, 2_000, 16 << 20]);
        let mut machine = Machine::new(clock, options, memory_max);
        machine.mistake = setup.mistake;
        machine.trace = setup.trace;
        machine.model.rules = Rules::draw(&mut dice);
        Self {
            machine,
            change,
            long: dice.chance(12),
            calm: setup.calm || setup.cut.is_some(),
            cut: setup.cut,
            lazy: dice.chance(30),
            names: 0,
            jumped_us: None,
            ending: false,
            dice,
        }
    }

    fn all(&mut self, step: &mut usize) -> Result<(), Trouble> {
        if let Some((at, _)) = self.cut {
            self.machine.disk.power_off_at(at);
        }
        match self.start() {
            Err(Trouble::Power) => self.crash()?,
            result => result?,
        }
        while *step < STEPS {
            *step += 1;
            match self.step(*step) {
                Err(Trouble::Power) => self.crash()?,
                result => result?,
            }
        }
        self.ending = true;
        loop {
            match self.finish() {
                Err(Trouble::Power) => self.crash()?,
                result => return result,
            }
        }
    }

    /// Starts the broker, which does at once what is due.
    fn start(&mut self) -> Result<(), Trouble> {
        if self.dice.chance(15) && !self.calm && !self.ending {
            let soon = self.dice.between(0..=25);
            self.power_off_in(soon);
        }
        self.machine.start(&mut self.dice)?;
        self.look()
    }

    fn power_off_in(&self, operations: u64) {
        let at = self.machine.disk.operations() + operations;
        self.machine.disk.power_off_at(at);
    }

    /// The power is gone, or the process. After a while it starts again, as often as that takes.
    fn crash(&mut self) -> Result<(), Trouble> {
        loop {
            let killed = !self.machine.disk.is_off();
            let crash = match self.cut.take() {
                Some((_, crash)) => crash,
                None if killed && self.dice.chance(50) => Crash::Killed,
                None => self.dice.one_of(&Crash::ALL),
            };
            self.machine.say(|| format!("crash: {crash:?}"));
            self.machine.count("crashes", 1);
            self.machine.stop();
            self.machine.disk = self.machine.disk.crashed(crash, &mut self.dice);
            let down = match self.dice.below(5) {
                0 => 0,
                1 => self.dice.between(1..=5_000),
                2 => self.dice.between(1..=2 * MINUTE),
                3 => self.dice.between(1..=3 * HOUR),
                _ => self.dice.between(1..=DAY),
            };
            let down = if self.ending { 0 } else { down };
            self.machine.clock.pass_us(down * 1_000);
            if self.dice.chance(8) && !self.ending {
                self.set_clock();
            }
            match self.start() {
                Err(Trouble::Power) => self.machine.count("crashes during recovery", 1),
                result => return result,
            }
        }
    }

    fn step(&mut self, step: usize) -> Result<(), Trouble> {
        if step <= SCHEDULES {
            self.make()?;
        }
        match self.dice.below(100) {
            0..6 => self.order()?,
            6..26 => {
                for _ in 0..self.dice.between(1..=5) {
                    self.delay()?;
                }
            }
            26..32 => self.order_about_delayed()?,
            32..46 => {
                let ms = self.dice.one_of(&[MINUTE, 30 * MINUTE, 6 * HOUR]);
                let ms = self.dice.between(1..=ms);
                self.pass(ms, EVENTS)?;
            }
            46..60 => {
                // The next event, with a power cut at one of the operations that it takes.
                if !self.calm {
                    let soon = self.dice.between(0..=9);
                    self.power_off_in(soon);
                }
                self.pass(DAY, 2)?;
            }
            60..66 => self.tick_by_tick(10_000)?,
            66..72 => {
                let ms = self.dice.one_of(&[30_000, 3 * MINUTE, 3 * HOUR]);
                let us = self.dice.between(1..=ms * 1_000);
                self.machine.clock.pass_us(us);
                self.machine.count("stood still", 1);
            }
            72..78 => self.jump()?,
            78..82 => {
                for _ in 0..self.dice.between(2..=3) {
                    self.machine.turn(leveret_core::Input::Replan)?;
                }
                self.machine.count("doubled activations", 1);
            }
            82..86 => self.machine.consumer_dies(&mut self.dice)?,
            86..90 => {
                for _ in 0..self.dice.between(1..=6) {
                    self.machine.housekeep()?;
                }
            }
            90..93 if !self.calm => return Err(Trouble::Power),
            93..96 if !self.calm => {
                let later = self.dice.between(1..=60);
                self.power_off_in(later);
            }
            96..98 => {
                let all = [Standing::Sound, Standing::Gone, Standing::Bound];
                let standing = self.dice.one_of(&all);
                self.look()?;
                self.machine.set_standing(standing);
            }
            _ => {}
        }
        self.look()
    }

    /// The broker does what is due, the consumer what it does.
    fn look(&mut self) -> Result<(), Trouble> {
        for _ in 0..100 {
            let wall = self.machine.clock.wall_ms();
            if self.events(wall.saturating_sub(2), wall).is_empty() {
                break;
            }
            // Timers may come a millisecond later once the clock was set.
            self.machine.clock.pass_us(2_000);
        }
        self.machine.tick()?;
        if !self.lazy || self.ending || self.dice.chance(40) {
            self.machine.pump()?;
            self.machine.tick()?;
        }
        let passed = self.machine.clock.passed_us();
        let done = self.machine.done();
        self.machine.model.looked(done, passed);
        self.machine.count("looks", 1);
        self.machine.check()?;
        let set_long_ago = self.jumped_us.is_none_or(|at| passed > at + 1_200_000);
        if self.machine.is_quiet() && set_long_ago {
            let waiting = self.machine.totals()?.delayed;
            let (least, most) = self.machine.model.waiting(done.wall, passed);
            if !(least..=most).contains(&waiting) {
                let what = format!("{waiting} messages wait, not {least} to {most}");
                return Err(Trouble::Wrong(what));
            }
        }
        let letters = self.machine.model.all_letters_are_there();
        letters.map_err(Trouble::Wrong)?;
        self.check_retries(passed)?;
        if self.ending {
            return Ok(());
        }
        for place in (0..self.machine.held.len()).rev() {
            let outcome = match self.dice.below(100) {
                0..75 => Outcome::Ack,
                75..82 => Outcome::Nack { requeue: true },
                82..87 => Outcome::Reject { requeue: false },
                _ => continue,
            };
            if place < self.machine.held.len() {
                self.machine.settle(place, outcome)?;
            }
        }
        self.machine.tick()
    }

    /// As many wait to be delivered again as have to.
    fn check_retries(&mut self, passed: u64) -> Result<(), Trouble> {
        let retrying = self.machine.totals()?.retrying;
        let until = self.machine.model.waiting_again();
        let most = until.filter(|at| at + 3_000 > passed).count();
        // Some have been settled, and the log may have lost that.
        if retrying > most && self.machine.model.life == 1 {
            let what = format!("{retrying} messages wait to be delivered again, not {most}");
            return Err(Trouble::Wrong(what));
        }
        Ok(())
    }

    /// What is due after `from` and up to `to` by the clock on the wall, in order.
    fn events(&self, from: u64, to: u64) -> Vec<u64> {
        let model = &self.machine.model;
        let active = model.schedules.values();
        let active =
            active.filter(|s| s.state() == Some(Event::Made) || s.state() == Some(Event::Resumed));
        let mut events: Vec<u64> = active
            .flat_map(|schedule| schedule.plan.times.within(from, to))
            .collect();
        let (wall, passed) = (self.machine.clock.wall_ms(), self.machine.clock.passed_us());
        for promise in model.promises.values().filter(|p| p.is_alive()) {
            let at = match promise.due() {
                Due::At(ms) => ms,
                Due::After(start, ms) => (start / 1_000 + ms + wall).saturating_sub(passed / 1_000),
            };
            if from < at && at <= to {
                events.push(at);
            }
        }
        let again = model.waiting_again();
        let again = again.map(|at| (at / 1_000 + wall + 1).saturating_sub(passed / 1_000));
        events.extend(again.filter(|at| from < *at && *at <= to));
        events.sort_unstable();
        events.dedup();
        events
    }

    /// Time passes, and the broker does everything in its time.
    fn pass(&mut self, ms: u64, most: usize) -> Result<(), Trouble> {
        let wall = self.machine.clock.wall_ms();
        let mut events = self.events(wall, wall + ms);
        let ends_early = events.len() > most;
        events.truncate(most);
        for at in events {
            if self.dice.chance(40) {
                let before = at.saturating_sub(self.dice.between(1..=3));
                let us = self.machine.clock.until_wall_us(before);
                self.machine.clock.pass_us(us);
                self.look()?;
                self.tick_by_tick(5)?;
            } else {
                let us = self.machine.clock.until_wall_us(at) + self.dice.between(2_000..=2_999);
                self.machine.clock.pass_us(us);
            }
            self.look()?;
        }
        if !ends_early {
            let us = self.machine.clock.until_wall_us(wall + ms);
            self.machine.clock.pass_us(us);
        }
        Ok(())
    }

    /// Time passes, and the broker is called whenever it wants to be.
    fn tick_by_tick(&mut self, ms: u64) -> Result<(), Trouble> {
        let end = self.machine.clock.passed_us() + ms * 1_000;
        for _ in 0..200 {
            let left = end.saturating_sub(self.machine.clock.passed_us());
            let next = self.machine.until_timer_us()?;
            let Some(us) = next.filter(|us| *us <= left) else {
                break;
            };
            self.machine.clock.pass_us(us);
            self.machine.tick()?;
            if !self.lazy {
                self.machine.pump()?;
            }
        }
        let left = end.saturating_sub(self.machine.clock.passed_us());
        self.machine.clock.pass_us(left);
        Ok(())
    }

    /// Somebody sets the clock while the broker runs.
    fn jump(&mut self) -> Result<(), Trouble> {
        self.look()?;
        self.set_clock();
        if self.dice.chance(50) {
            return self.machine.turn(leveret_core::Input::Replan);
        }
        // It is looked at within a second.
        let us = self.dice.between(1_100_000..=1_300_000);
        self.machine.clock.pass_us(us);
        Ok(())
    }

    fn set_clock(&mut self) {
        const YEARS: u64 = 5 * 365 * DAY;
        // Seeds whose clocks never go back can be judged more strictly.
        let may_go_back = self.change.is_multiple_of(2);
        let ms = if self.long && self.dice.chance(60) {
            YEARS
        } else {
            self.dice.one_of(&[HOUR, HOUR, DAY, 400, 5_000])
        };
        let by_us = (ms * 1_000 + self.dice.between(0..=999)) as i64;
        let back = may_go_back && self.dice.chance(50);
        let by_us = if back { -by_us } else { by_us };
        let wall_before = self.machine.clock.wall_ms();
        if back && wall_before < 2 * ms && ms == YEARS {
            return;
        }
        self.machine.model.jumps.push(Jump { by_us, wall_before });
        self.machine.clock.set_wall(by_us);
        self.jumped_us = Some(self.machine.clock.passed_us());
        self.machine
            .say(|| format!("the clock is set by {by_us} us"));
        self.machine.count(
            if back {
                "clock set back"
            } else {
                "clock set forward"
            },
            1,
        );
    }

    /// An order is published; the model hears of it.
    fn publish_order(
        &mut self,
        headers: &[(&str, leveret_codec::FieldValue)],
        persistent: bool,
    ) -> Result<Done, Trouble> {
        let headers = headers.iter();
        let headers = headers.map(|(name, value)| (format!("x-schedule-{name}"), value.clone()));
        let order = message("amq.schedule", "", headers, persistent, None, b"tick");
        let lsn = self.machine.publish(order, None)?;
        Ok(Done {
            lsn,
            ..self.machine.done()
        })
    }

    fn make(&mut self) -> Result<(), Trouble> {
        let now = self.machine.clock.wall_ms();
        self.names += 1;
        let name = format!("s{}", self.names);
        let plan = Plan::draw(name.clone(), now, self.long, self.change, &mut self.dice);
        if plan.times.within(now + 1, now + 40 * DAY).is_empty() {
            return Ok(()); // that it never fires is refused
        }
        self.machine.say(|| format!("make {plan:?}"));
        let (headers, persistent) = (plan.headers.clone(), plan.persistent);
        let done = self.publish_order(&headers, persistent)?;
        let scheduled = Scheduled {
            plan,
            events: vec![(done, Event::Made)],
            wanted: Vec::new(),
            backfills: Vec::new(),
        };
        self.machine.model.schedules.insert(name, scheduled);
        self.machine.count("schedules", 1);
        Ok(())
    }

    /// Something is done to one of the schedules.
    fn order(&mut self) -> Result<(), Trouble> {
        let there = self.machine.model.schedules.iter();
        let there = there.filter_map(|(name, s)| Some((name.clone(), s.state()?)));
        let there: Vec<(String, Event)> = there.collect();
        let Some((name, state)) = self.dice.pick(&there).cloned() else {
            return Ok(());
        };
        // Nothing that is due is left over.
        self.look()?;
        let action = match self.dice.below(10) {
            0..4 if state == Event::Paused => "resume",
            0..4 => "pause",
            4..6 => return self.run_now(&name),
            6..8 => return self.backfill(&name),
            8 => {
                // The same again changes nothing.
                let plan = &self.machine.model.schedules[&name].plan;
                let (headers, persistent) = (plan.headers.clone(), plan.persistent);
                if headers.iter().any(|(name, _)| *name == "at") {
                    return Ok(());
                }
                self.machine.say(|| format!("{name} again"));
                self.machine.count("made again", 1);
                return self.publish_order(&headers, persistent).map(|_| ());
            }
            _ => "delete",
        };
        self.machine.say(|| format!("{action} {name}"));
        let headers = [("name", name.as_str().into()), ("action", action.into())];
        let done = self.publish_order(&headers, false)?;
        let (event, what) = match action {
            "pause" => (Event::Paused, "paused"),
            "resume" => (Event::Resumed, "resumed"),
            _ => (Event::Deleted, "deleted"),
        };
        self.machine.count(what, 1);
        if let Some(schedule) = self.machine.model.schedules.get_mut(&name) {
            schedule.events.push((done, event));
        }
        Ok(())
    }

    fn run_now(&mut self, name: &str) -> Result<(), Trouble> {
        let headers = [("name", name.into()), ("action", "run-now".into())];
        let headers = headers.map(|(name, value)| (format!("x-schedule-{name}"), value));
        let (answer, lsn) = self.machine.ask(headers)?.map_err(Trouble::Wrong)?;
        let id = answer["message_id"].as_str().unwrap_or_default().to_owned();
        let done = Done {
            lsn,
            ..self.machine.done()
        };
        if let Some(schedule) = self.machine.model.schedules.get_mut(name) {
            schedule.wanted.push((done, id));
        }
        self.machine.count("run at once", 1);
        Ok(())
    }

    fn backfill(&mut self, name: &str) -> Result<(), Trouble> {
        let now = self.machine.clock.wall_ms();
        let times = &self.machine.model.schedules[name].plan.times;
        let past = times.within(now.saturating_sub(3 * DAY), now - 1);
        let few = self.dice.between(1..=8) as usize;
        let few = &past[past.len().saturating_sub(few)..];
        let (Some(first), Some(last)) = (few.first(), few.last()) else {
            return Ok(());
        };
        let headers = [
            ("name", name.into()),
            ("action", "backfill".into()),
            ("from", text(*first).into()),
            ("to", text(*last).into()),
        ];
        let wanted = few.to_vec();
        let done = self.publish_order(&headers, false)?;
        if let Some(schedule) = self.machine.model.schedules.get_mut(name) {
            schedule.backfills.push((done, wanted));
        }
        self.machine.count("backfills", 1);
        Ok(())
    }

    /// A message that is to come later.
    fn delay(&mut self) -> Result<(), Trouble> {
        self.names += 1;
        let body = format!("d{}", self.names);
        let persistent = self.dice.chance(70);
        let ms = self.dice.one_of(&[5, 50, 3_000, MINUTE, HOUR, 8 * HOUR]);
        let ms = self.dice.between(1..=ms);
        let now = self.machine.done();
        let spoilt = Mistake::spoil_delay(self.machine.mistake, ms);
        let after = Due::After(self.machine.clock.passed_us(), ms);
        let (exchange, key, header, value, due) = match self.dice.below(3) {
            0 => (
                "",
                "d",
                "x-deliver-at",
                now.wall + ms,
                Due::At(now.wall + ms),
            ),
            1 => ("later", "", "x-delay", spoilt, after),
            _ => ("", "d", "x-deliver-after", spoilt, after),
        };
        self.machine
            .say(|| format!("{body}: {header} {value}, persistent: {persistent}"));
        let model = &mut self.machine.model;
        let done = Done {
            step: model.step + 1,
            lsn: Lsn(0),
            ..now
        };
        let promise = Promise {
            dues: vec![(done, due)],
            persistent,
            done,
            life: model.life,
            life_jumps: model.life_jumps,
            jumps: model.jumps.len(),
            confirmed: false,
            gone: false,
            cancelled: None,
            unsure: false,
            copy: Copy::default(),
            due_step: None,
        };
        model.promises.insert(body.clone(), promise);
        let headers = [(header.to_owned(), number(value))];
        let padding = self.dice.between(0..=200) as usize;
        let headers = headers
            .into_iter()
            .chain([("padding".to_owned(), "x".repeat(padding).into())]);
        let message = message(
            exchange,
            key,
            headers,
            persistent,
            Some(&body),
            body.as_bytes(),
        );
        let lsn = self.machine.publish(message, Some(body.clone()))?;
        let lsn = if persistent { lsn } else { Lsn(0) };
        if let Some(promise) = self.machine.model.promises.get_mut(&body) {
            promise.done.lsn = lsn;
            promise.dues[0].0.lsn = lsn;
            if promise.confirmed && lsn > Lsn(0) {
                let what = format!("{body} was confirmed in its own turn");
                return Err(Trouble::Wrong(what));
            }
        }
        self.machine.count("delayed", 1);
        Ok(())
    }

    fn order_about_delayed(&mut self) -> Result<(), Trouble> {
        let header = |name: &str, value| (format!("x-delayed-{name}"), value);
        let action = self.dice.one_of(&["list", "cancel", "retime"]);
        if action == "list" {
            let headers = [header("action", "list".into())];
            let (answer, _) = self.machine.ask(headers)?.map_err(Trouble::Wrong)?;
            let waiting = self.machine.totals()?.delayed;
            let dues = answer["messages"].as_array().map(Vec::as_slice);
            let dues = dues.unwrap_or_default().iter().map(|m| m["due"].as_str());
            if answer["count"] != waiting || !dues.is_sorted() {
                return Err(Trouble::Wrong(format!("listed: {answer}")));
            }
            self.machine.count("lists", 1);
            return Ok(());
        }
        let alive = self.machine.model.promises.iter();
        let alive: Vec<String> = alive
            .filter(|(_, promise)| promise.is_alive())
            .map(|(body, _)| body.clone())
            .collect();
        let Some(body) = self.dice.pick(&alive).cloned() else {
            return Ok(());
        };
        let at = self.machine.clock.wall_ms() + self.dice.between(1..=HOUR);
        let mut headers = vec![
            header("action", action.into()),
            header("id", body.as_str().into()),
        ];
        if action == "retime" {
            headers.push(("x-deliver-at".to_owned(), number(at)));
        }
        // One that is in the log alone is not known by this name, and one that was due is gone.
        let Ok((_, lsn)) = self.machine.ask(headers)? else {
            return Ok(());
        };
        self.machine.say(|| format!("{action} {body}"));
        let done = Done {
            lsn,
            ..self.machine.done()
        };
        let jumps = self.machine.model.jumps.len();
        let Some(promise) = self.machine.model.promises.get_mut(&body) else {
            return Ok(());
        };
        if action == "cancel" {
            promise.cancelled = Some(lsn);
            self.machine.count("cancelled", 1);
        } else {
            promise.dues.push((done, Due::At(at)));
            promise.due_step = None;
            promise.jumps = promise.jumps.min(jumps);
            self.machine.count("retimed", 1);
        }
        Ok(())
    }

    /// Everything comes to an end: what waits is due, what was fired is acked.
    fn finish(&mut self) -> Result<(), Trouble> {
        self.machine.disk.power_off_at(u64::MAX);
        self.machine.set_standing(Standing::Sound);
        let peak = self.machine.model.jumps.iter().map(|jump| jump.wall_before);
        let behind = peak.max().unwrap_or(0);
        let behind = behind.saturating_sub(self.machine.clock.wall_ms());
        if behind > 0 {
            let by_us = (behind * 1_000) as i64;
            let wall_before = self.machine.clock.wall_ms();
            self.machine.model.jumps.push(Jump { by_us, wall_before });
            self.machine.clock.set_wall(by_us);
            self.machine.clock.pass_us(1_200_000);
            self.look()?;
        }
        self.resume_all()?;
        self.pass(10 * MINUTE, EVENTS)?;
        // Over a restart a delay goes by the clock on the wall, also one that was set back.
        let back = self
            .machine
            .model
            .jumps
            .iter()
            .filter(|jump| jump.by_us < 0);
        let back: u64 = back.map(|jump| jump.by_us.unsigned_abs()).sum();
        self.machine.clock.pass_us(back + 12 * HOUR * 1_000);
        self.look()?;
        self.machine.clock.pass_us(2_000_000);
        self.look()?;
        self.ack_all()?;
        let totals = self.machine.totals()?;
        if totals.delayed + totals.ready + totals.unacked + totals.retrying > 0 {
            return Err(Trouble::Wrong(format!("left in the end: {totals:?}")));
        }
        self.nothing_is_lost()?;
        let judged = judge(&self.machine.model).map_err(Trouble::Wrong)?;
        self.machine.count("nominal times fired", judged.times);
        self.machine
            .count("nominal times left out", judged.left_out);
        self.histories()?;
        let model = &self.machine.model;
        let (deaths, waits) = (model.deaths, model.waits);
        self.machine.count("failed too often", deaths);
        self.machine.count("waited to come again", waits);
        self.machine.close()?;
        self.nothing_is_on_disk()
    }

    fn resume_all(&mut self) -> Result<(), Trouble> {
        let schedules = self.machine.model.schedules.iter();
        let paused = schedules.filter(|(_, s)| s.state() == Some(Event::Paused));
        let paused: Vec<String> = paused.map(|(name, _)| name.clone()).collect();
        for name in paused {
            let headers = [("name", name.as_str().into()), ("action", "resume".into())];
            let done = self.publish_order(&headers, false)?;
            if let Some(schedule) = self.machine.model.schedules.get_mut(&name) {
                schedule.events.push((done, Event::Resumed));
            }
        }
        self.look()
    }

    fn ack_all(&mut self) -> Result<(), Trouble> {
        for _ in 0..20_000 {
            self.machine.tick()?;
            self.machine.pump()?;
            if self.machine.held.is_empty() {
                return Ok(());
            }
            for place in (0..self.machine.held.len()).rev() {
                if place < self.machine.held.len() {
                    self.machine.settle(place, Outcome::Ack)?;
                }
            }
        }
        Err(Trouble::Wrong("deliveries never end".to_owned()))
    }

    fn nothing_is_lost(&self) -> Result<(), Trouble> {
        let model = &self.machine.model;
        for (body, promise) in &model.promises {
            if promise.is_sure() {
                return Err(Trouble::Wrong(format!("{body} never came: {promise:?}")));
            }
        }
        for (key, letter) in &model.letters {
            if letter.copy.seen == 0 {
                return Err(Trouble::Wrong(format!("dead letter {key} never came")));
            }
        }
        for (id, fired) in &model.fires {
            for (queue, copy) in &fired.copies {
                if copy.seen == 0 && !fired.gone {
                    return Err(Trouble::Wrong(format!("{id} never came from {queue}")));
                }
            }
        }
        Ok(())
    }

    /// Histories say what the consumer did.
    fn histories(&mut self) -> Result<(), Trouble> {
        let schedules = self.machine.model.schedules.values();
        let there = schedules.filter(|s| s.state().is_some() && s.plan.persistent);
        let names: Vec<String> = there.map(|s| s.plan.name.clone()).collect();
        for name in names {
            let headers = [
                ("name", name.as_str().into()),
                ("action", "history".into()),
                ("limit", number(1_000)),
            ];
            let headers = headers.map(|(name, value)| (format!("x-schedule-{name}"), value));
            let (answer, _) = self.machine.ask(headers)?.map_err(Trouble::Wrong)?;
            let runs = answer["runs"].as_array().cloned().unwrap_or_default();
            let mut listed = 0;
            for run in &runs {
                let Some(id) = run["message_id"].as_str() else {
                    continue;
                };
                listed += 1;
                let Some(fired) = self.machine.model.fires.get(id) else {
                    return Err(Trouble::Wrong(format!("history: {run} was never fired")));
                };
                let mut acks = fired.copies.values().map(|copy| copy.settled);
                let acked = acks.all(|settled| settled.is_some_and(|(_, ack)| ack));
                let expected = match (fired.refused, acked) {
                    (true, _) => "refused: ",
                    (_, true) => "acked",
                    _ => "died",
                };
                let unsure = fired.copies.values().any(|copy| copy.unsure);
                let outcome = run["outcome"].as_str().unwrap_or_default();
                if !outcome.starts_with(expected) && !unsure {
                    let what = format!("history: {run} is not {expected}: {fired:?}");
                    return Err(Trouble::Wrong(what));
                }
            }
            let fired = self.machine.model.runs(&name).count();
            if runs.len() < 1_000 && listed != fired {
                let what = format!("{name} fired {fired} times, {listed} in the history");
                return Err(Trouble::Wrong(what));
            }
            self.machine.count("runs in histories", listed as u64);
        }
        Ok(())
    }

    fn nothing_is_on_disk(&self) -> Result<(), Trouble> {
        let opened =
            leveret_store::Log::open(self.machine.disk.clone(), self.machine.options.clone());
        let opened = opened.map_err(|e| Trouble::Wrong(format!("open in the end: {e}")))?;
        if opened.messages > 0 {
            let what = format!("{} messages are left on disk", opened.messages);
            return Err(Trouble::Wrong(what));
        }
        Ok(())
    }
}

//! A day passes over very many schedules, with a power cut in the middle of it.

use super::clock::Clock;
use super::machine::{Machine, message};
use super::model::{Copy, Done, Event, Scheduled};
use super::nominal::{Pattern, Rule, Times, midnight};
use super::plan::{DAY, MINUTE, Misfire, Overlap, Plan};
use crate::dice::Dice;
use crate::model::Tally;
use crate::storage::host::Trouble;
use crate::storage::image::Crash;
use crate::storage::run::guarded;

const MINUTES: [i8; 60] = {
    let mut minutes = [0; 60];
    let mut n = 0;
    while n < 60 {
        minutes[n] = n as i8;
        n += 1;
    }
    minutes
};

const ZONES: [&str; 4] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Pacific/Chatham",
];

/// Orders between two syncs.
const AT_ONCE: usize = 1_000;

/// Lets the last Sunday of October pass over so many schedules, each with one time a day, or two if
/// that is when the clocks are put back.
pub fn many(schedules: usize, seed: u64) -> (Tally, Result<(), String>) {
    let mut dice = Dice::new(seed);
    let start = midnight("2026-10-25", "UTC") - 5 * MINUTE;
    let clock = Clock::new(start, &mut dice);
    let options = leveret_store::Options {
        segment_bytes: 8 << 20,
        free_bytes_min: 0,
        step_bytes: 1 << 20,
        checkpoint_bytes: 64 << 20,
    };
    let mut machine = Machine::new(clock, options, 16 << 20);
    let result = guarded(|| day(&mut machine, schedules, &mut dice));
    (machine.tally, result)
}

fn day(machine: &mut Machine, schedules: usize, dice: &mut Dice) -> Result<(), Trouble> {
    machine.start(dice)?;
    for n in 0..schedules {
        make(machine, n)?;
        if n % AT_ONCE == AT_ONCE - 1 {
            machine.pump()?;
        }
    }
    machine.pump()?;
    let end = machine.clock.wall_ms() + DAY + 10 * MINUTE;
    let crash = machine.clock.wall_ms() + dice.between(6 * 60..=18 * 60) * MINUTE;
    let mut crashed = None;
    while machine.clock.wall_ms() < end {
        let us = dice.between(10_000_000..=50_000_000);
        machine.clock.pass_us(us);
        if machine.clock.wall_ms() >= crash && crashed.is_none() {
            crashed = Some(machine.clock.wall_ms());
            cut(machine, dice)?;
        }
        machine.tick()?;
        machine.pump()?;
        while !machine.held.is_empty() {
            machine.settle(machine.held.len() - 1, leveret_core::Outcome::Ack)?;
        }
        machine.housekeep()?;
    }
    machine.pump()?;
    judge(machine, crashed.unwrap_or(0))
}

fn make(machine: &mut Machine, n: usize) -> Result<(), Trouble> {
    let (zone, hour, minute) = (ZONES[n % 4], n / 4 % 24, n / 96 % 60);
    let hours = (hour as i8, hour as i8);
    let pattern = Pattern {
        text: "",
        minutes: &MINUTES[minute..=minute],
        hours,
        sundays: false,
    };
    let name = format!("s{n}");
    let headers = [
        ("name", name.as_str().into()),
        ("cron", format!("{minute} {hour} * * *").into()),
        ("timezone", zone.into()),
        ("routing-key", "s".into()),
    ];
    let headers = headers.map(|(name, value)| (format!("x-schedule-{name}"), value));
    let order = message("amq.schedule", "", headers, true, None, b"tick");
    let lsn = machine.publish(order, None)?;
    let done = Done {
        lsn,
        ..machine.done()
    };
    let plan = Plan {
        name: name.clone(),
        times: Times {
            rule: Rule::Cron {
                pattern,
                zone,
                next_valid: false,
                once: false,
            },
            start: None,
            end: None,
            excluded: None,
        },
        misfire: Misfire::FireOnce,
        window: None,
        overlap: Overlap::Allow,
        jitter: 0,
        max_runs: None,
        persistent: true,
        fan: false,
        retry: None,
        headers: Vec::new(),
    };
    let scheduled = Scheduled {
        plan,
        events: vec![(done, Event::Made)],
        wanted: Vec::new(),
        backfills: Vec::new(),
    };
    machine.model.schedules.insert(name, scheduled);
    Ok(())
}

/// The power goes while messages are fired, and comes back soon.
fn cut(machine: &mut Machine, dice: &mut Dice) -> Result<(), Trouble> {
    machine.tick()?;
    machine.write()?;
    machine.stop();
    let crash = dice.one_of(&Crash::ALL);
    machine.disk = machine.disk.crashed(crash, dice);
    machine.count("crashes", 1);
    machine.clock.pass_us(3 * MINUTE * 1_000);
    machine.start(dice)
}

fn judge(machine: &mut Machine, crashed: u64) -> Result<(), Trouble> {
    let model = &machine.model;
    let now = machine.clock.wall_ms();
    let mut count = 0;
    for (name, schedule) in &model.schedules {
        let times = &schedule.plan.times;
        let due = times.within(schedule.events[0].0.wall, now - MINUTE);
        for nominal in due {
            let id = format!("{name}/{}", super::nominal::text(nominal));
            let Some(fired) = model.fires.get(&id) else {
                return Err(Trouble::Wrong(format!("{id} is not fired")));
            };
            let late = fired.done.wall - nominal;
            let was_down = (crashed..=crashed + 4 * MINUTE).contains(&fired.done.wall);
            if late > MINUTE && !was_down {
                return Err(Trouble::Wrong(format!("{id} is fired {late} ms late")));
            }
            let acked = |copy: &Copy| copy.settled.is_some();
            if !fired.copies.values().all(acked) {
                return Err(Trouble::Wrong(format!("{id} did not come")));
            }
            count += 1;
        }
    }
    machine.count("nominal times", count);
    Ok(())
}

//! `kill -9` at any moment, also while the log is being read.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use leveret_codec::{BasicAck, BasicConsume, Method};

use crate::common::short;
use crate::dice::Dice;
use crate::history::{History, OUT, QUEUES};
use crate::link::{Link, bind, durable_exchange, durable_queue, existing_queue};
use crate::process::{Place, Process};
use crate::traffic::{
    Definition, Stage, Trigger, check_definitions, consumer, definer, mover, publisher,
    tx_publisher,
};

/// How often it is killed, unless the environment says otherwise.
const KILLS: usize = 20;

/// Confirms, deliveries and definitions of one run at most.
const EVENTS_MAX: usize = 3_000;

fn from_environment(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn what_was_confirmed_survives_kill_9() {
    let kills = from_environment("DURABILITY_KILLS", KILLS);
    let seed = from_environment("SEED", 1);
    let mut dice = Dice::new(seed as u64);
    let place = Place::new();
    let history = Mutex::new(History::default());
    let definitions = Mutex::new(BTreeMap::new());
    for kill in 0..kills {
        if kill > 0 && dice.chance(25) {
            kill_while_it_starts(&place.data(), &mut dice);
            // Acks of a run that never was: what the one before left stays as it was.
            let mut history = history.lock().unwrap();
            history.figures.killed_in_recovery += 1;
            continue;
        }
        let process = Process::start(&place.data());
        let mut link = process.link();
        if kill == 0 {
            declare(&mut link);
        } else {
            check_start(&mut link, &history, &definitions);
        }
        drop(link);
        let events = dice.between(1, EVENTS_MAX);
        run(process, kill, events, &mut dice, &history, &definitions);
    }
    let process = Process::start(&place.data());
    let mut link = process.link();
    check_start(&mut link, &history, &definitions);
    let mut history = history.into_inner().unwrap();
    drain(&mut link, &mut history);
    history.nothing_is_lost();
    drop(link);
    process.stop();

    let process = Process::start(&place.data());
    let mut link = process.link();
    for queue in QUEUES {
        assert_eq!(count(&mut link, queue), 0, "{queue}: all was acked");
    }
    drop(link);
    process.stop();

    let figures = history.figures;
    eprintln!("{kills} kills: {figures:?}");
    let often = kills / 2;
    for (what, count, least) in [
        ("confirmed", figures.confirmed, 200 * often),
        ("delivered", figures.delivered, 200 * often),
        ("redelivered", figures.redelivered, often),
        ("acked", figures.acked, 50 * often),
        ("settled", figures.settled_by_confirm, often),
        ("committed", figures.committed, often),
        ("rolled back", figures.rolled_back, 1),
        ("moved", figures.moved, often),
        ("definitions", figures.definitions, often),
        ("definitions checked", figures.definitions_checked, often),
        ("recoveries", figures.recoveries, often),
        ("killed in recovery", figures.killed_in_recovery, kills / 10),
    ] {
        assert!(count >= least, "{what}: {count}, too few to mean anything");
    }
}

/// What is there from the beginning.
fn declare(link: &mut Link) {
    link.call(durable_exchange("fan", "fanout")).unwrap();
    link.call(durable_exchange("defs", "direct")).unwrap();
    for queue in QUEUES {
        link.call(durable_queue(queue)).unwrap();
        if queue.starts_with("fan") {
            link.call(bind("fan", queue, "")).unwrap();
        }
    }
}

/// Clients at work until it is killed.
fn run(
    mut process: Process,
    number: usize,
    events: usize,
    dice: &mut Dice,
    history: &Mutex<History>,
    definitions: &Mutex<BTreeMap<String, Definition>>,
) {
    let trigger = Trigger {
        pid: process.pid(),
        left: AtomicI64::new(events as i64),
        is_pulled: AtomicBool::new(false),
    };
    let stage = Stage {
        address: process.address(),
        trigger,
        history,
        definitions,
    };
    std::thread::scope(|scope| {
        let stage = &stage;
        let mut start = |client: Box<dyn FnOnce(Dice) -> io::Result<()> + Send>| {
            let dice = Dice::new(dice.any());
            scope.spawn(move || {
                let error = client(dice).expect_err("it goes on until the end");
                let is_killed = stage.trigger.is_pulled.load(Ordering::Relaxed);
                assert!(is_killed, "before the kill: {error}");
            });
        };
        for number in 0..4 {
            start(Box::new(move |dice| publisher(stage, number, dice)));
        }
        for queue in 0..4 {
            start(Box::new(move |dice| consumer(stage, queue, dice)));
        }
        start(Box::new(|dice| tx_publisher(stage, dice)));
        start(Box::new(|dice| mover(stage, dice)));
        start(Box::new(move |dice| definer(stage, number, dice)));
    });
    let (code, lines) = process.wait();
    assert_eq!(code, None, "it was killed: {lines:#?}");
    history.lock().unwrap().killed();
}

/// Kills it after something in its folder has changed, or a little later, or at once.
pub(crate) fn kill_while_it_starts(data: &Path, dice: &mut Dice) {
    let names = || {
        let entries = std::fs::read_dir(data.join("log")).unwrap();
        let mut names: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.file_name()))
            .collect();
        names.sort();
        names
    };
    let changes = dice.between(0, 4);
    let looks = dice.between(0, 300);
    let mut last = names();
    let mut process = Process::spawn(data);
    for _ in 0..changes {
        // It may not change as often as that; it is looked at for as long as a start may take.
        for _ in 0..2_000 {
            let now = names();
            if now != last {
                last = now;
                break;
            }
        }
    }
    for _ in 0..looks {
        names();
    }
    assert!(!process.has_ended(), "{:?}", process.wait());
    process.kill();
}

pub(crate) fn count(link: &mut Link, queue: &str) -> usize {
    match link.call(existing_queue(queue)).unwrap() {
        Method::QueueDeclareOk(declared) => declared.message_count as usize,
        other => panic!("{queue}: {other:?}"),
    }
}

/// After a start nothing can be missing, and nothing can be there that was settled.
fn check_start(
    link: &mut Link,
    history: &Mutex<History>,
    definitions: &Mutex<BTreeMap<String, Definition>>,
) {
    let mut history = history.lock().unwrap();
    for (number, queue) in QUEUES.into_iter().enumerate() {
        let (least, most) = history.bounds(number);
        let count = count(link, queue);
        assert!(
            (least..=most).contains(&count),
            "{queue}: {count} messages, should be {least} to {most}"
        );
    }
    let checked = check_definitions(link, &mut definitions.lock().unwrap()).unwrap();
    history.figures.definitions_checked += checked;
    history.figures.recoveries += 1;
}

/// Takes all there is.
fn drain(link: &mut Link, history: &mut History) {
    for (number, queue) in QUEUES.into_iter().enumerate() {
        let count = count(link, queue);
        link.call(BasicConsume {
            queue: short(queue),
            ..BasicConsume::default()
        })
        .unwrap();
        let (mut ids, mut moved) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let answer = link.answer().unwrap();
            let Method::BasicDeliver(deliver) = answer.method else {
                panic!("{:?}", answer.method)
            };
            if number == OUT {
                // Nobody has had it; but after a kill the broker cannot know.
                moved.push(answer.body);
            } else {
                ids.push(history.delivered(number, &answer.body, deliver.redelivered));
            }
        }
        link.send(BasicAck {
            delivery_tag: 0,
            multiple: true,
        })
        .unwrap();
        history.drained(number, &ids);
        history.moved(&moved);
        assert_eq!(
            self::count(link, queue),
            0,
            "{queue}: nothing more than it said"
        );
    }
}

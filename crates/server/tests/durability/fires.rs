//! `kill -9` around the moments at which the broker itself publishes: for schedules, and delayed
//! messages that are due.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use leveret_codec::{
    BasicAck, BasicConsume, ConfirmSelect, FieldTable, FieldValue, Method, Properties,
};
use leveret_core::ids::Wall;
use leveret_scheduler::time;
use rustix::process::{Signal, kill_process};

use crate::common::short;
use crate::dice::Dice;
use crate::kill::{count, kill_while_it_starts};
use crate::link::{Answer, How, Link, durable_queue};
use crate::process::{Place, Process};

/// How often it is killed.
const KILLS: usize = 20;

/// Where all goes that the broker publishes.
const QUEUE: &str = "due";

/// Schedules that go on all the time, each with a time every second.
const GOING_ON: [(&str, &str, &str); 3] = [
    ("every", "x-schedule-every", "1s"),
    ("descriptor", "x-schedule-cron", "@every 1s"),
    ("cron", "x-schedule-cron", "* * * * * *"),
];

/// Delayed messages that wait at the same time.
const WAITING: usize = 40;

/// Schedules that fire once, in each run.
const ONCE: usize = 4;

/// Nothing is put off for longer, in milliseconds.
const AHEAD_MS: usize = 1_500;

/// What the broker was asked to publish.
struct Promise {
    /// Not before this time, in milliseconds since 1970.
    due_ms: u64,
    confirmed: bool,
}

/// All that was asked for, and all that came.
#[derive(Default)]
struct Book {
    /// By body, or by name of a schedule that fires once.
    promises: BTreeMap<String, Promise>,
    /// Runs in which each came; by body, or by `message-id` if a schedule has fired it.
    came: BTreeMap<String, Vec<usize>>,
    /// Nominal times of each schedule, in milliseconds since 1970.
    nominal_ms: BTreeMap<String, Vec<u64>>,
    figures: Figures,
}

#[derive(Debug, Default)]
struct Figures {
    confirmed: usize,
    delayed: usize,
    fired: usize,
    again: usize,
    /// Times that passed while there was no broker.
    made_up_for: usize,
    killed_in_recovery: usize,
}

/// A run of the broker, with a client.
struct Run<'a> {
    number: usize,
    link: Link,
    book: &'a mut Book,
    dice: &'a mut Dice,
    /// What was published in this run, in order; the first one has delivery tag 1.
    published: Vec<String>,
    ready_ms: u64,
    /// Deliveries of this run.
    came: usize,
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

fn headers<const N: usize>(fields: [(&str, FieldValue); N]) -> Properties {
    let fields = fields.map(|(name, value)| (name.to_owned(), value));
    Properties {
        headers: Some(FieldTable::from_iter(fields)),
        ..Properties::default()
    }
}

fn milliseconds(ms: u64) -> FieldValue {
    FieldValue::I64(i64::try_from(ms).unwrap())
}

#[test]
fn what_is_due_comes_once_and_never_early_whatever_kill_9_hits() {
    let mut dice = Dice::new(7);
    let place = Place::new();
    let mut book = Book::default();
    let process = Process::start(&place.data());
    let before_ms = now_ms();
    define(&mut process.link());
    let after_ms = now_ms();
    process.kill();
    for kill in 1..KILLS {
        if dice.chance(20) {
            kill_while_it_starts(&place.data(), &mut dice);
            book.figures.killed_in_recovery += 1;
            continue;
        }
        let process = Process::start(&place.data());
        let mut run = Run::start(kill, &process, &mut book, &mut dice).unwrap();
        run.until_it_is_killed(process);
    }
    let process = Process::start(&place.data());
    Run::start(KILLS, &process, &mut book, &mut dice)
        .and_then(Run::until_nothing_is_left)
        .unwrap();
    process.stop();
    let process = Process::start(&place.data());
    assert_eq!(count(&mut process.link(), QUEUE), 0, "all was acked");
    process.stop();

    book.nothing_is_missing(before_ms, after_ms);
    let figures = book.figures;
    eprintln!("{KILLS} kills: {figures:?}");
    for (what, count, least) in [
        ("confirmed", figures.confirmed, 20 * KILLS),
        ("delayed", figures.delayed, 20 * KILLS),
        ("fired", figures.fired, 2 * KILLS),
        ("again", figures.again, KILLS),
        ("made up for", figures.made_up_for, KILLS / 4),
        ("killed in recovery", figures.killed_in_recovery, 1),
    ] {
        assert!(count >= least, "{what}: {count}, too few to mean anything");
    }
}

/// The queue, and the schedules that go on.
fn define(link: &mut Link) {
    link.call(durable_queue(QUEUE)).unwrap();
    link.call(ConfirmSelect::default()).unwrap();
    for (name, trigger, value) in GOING_ON {
        let properties = headers([
            ("x-schedule-name", name.into()),
            (trigger, value.into()),
            ("x-schedule-routing-key", QUEUE.into()),
            ("x-schedule-misfire", "all".into()),
            ("x-schedule-misfire-max", FieldValue::I32(10_000)),
        ]);
        order(link, properties).unwrap();
    }
}

/// Publishes an order and waits until it is confirmed.
fn order(link: &mut Link, properties: Properties) -> io::Result<()> {
    link.publish_with("amq.schedule", "", How::Persistent, properties, b"tick");
    link.flush()?;
    let answer = link.answer()?;
    assert!(matches!(answer.method, Method::BasicAck(_)), "{answer:?}");
    Ok(())
}

impl<'a> Run<'a> {
    fn start(
        number: usize,
        process: &Process,
        book: &'a mut Book,
        dice: &'a mut Dice,
    ) -> io::Result<Self> {
        let mut link = process.link();
        link.call(ConfirmSelect::default())?;
        link.call(BasicConsume {
            queue: short(QUEUE),
            ..BasicConsume::default()
        })?;
        Ok(Self {
            number,
            link,
            book,
            dice,
            published: Vec::new(),
            ready_ms: now_ms(),
            came: 0,
        })
    }

    /// A client at work until the broker is killed: after so many deliveries, or when a second is
    /// just over.
    fn until_it_is_killed(&mut self, mut process: Process) {
        let pid = process.pid();
        let kill = move || kill_process(pid, Signal::KILL).unwrap();
        let mut deliveries = usize::MAX;
        let mut killer = None;
        if self.dice.chance(40) {
            deliveries = self.dice.between(1, 2 * WAITING);
        } else {
            let second_ms = (now_ms() / 1_000 + 1) * 1_000;
            let offset_us = self.dice.between(0, 25_000) as u64;
            let at = UNIX_EPOCH + Duration::from_micros(second_ms * 1_000 + offset_us);
            killer = Some(std::thread::spawn(move || {
                while let Ok(left) = at.duration_since(SystemTime::now()) {
                    std::thread::park_timeout(left);
                }
                kill();
            }));
        }
        let mut run = || -> io::Result<()> {
            for _ in 0..ONCE {
                self.publish_schedule()?;
            }
            for _ in 0..WAITING {
                self.publish_delayed()?;
            }
            let mut killed = false;
            loop {
                let answer = self.link.answer()?;
                self.take(answer)?;
                if self.came >= deliveries && !killed {
                    kill();
                    killed = true;
                }
            }
        };
        run().expect_err("it goes on until the end");
        let (code, lines) = process.wait();
        assert_eq!(code, None, "it was killed: {lines:#?}");
        if let Some(killer) = killer {
            killer.join().unwrap();
        }
    }

    /// A message that is to come later; every other one when a second is over.
    fn publish_delayed(&mut self) -> io::Result<()> {
        let body = format!("{}-{}", self.number, self.published.len());
        let in_ms = self.dice.between(0, AHEAD_MS) as u64;
        let now_ms = now_ms();
        let (due_ms, properties) = if self.dice.chance(50) {
            let due_ms = (now_ms + in_ms) / 1_000 * 1_000 + 1_000;
            (due_ms, headers([("x-deliver-at", milliseconds(due_ms))]))
        } else {
            let header = ("x-deliver-after", milliseconds(in_ms));
            (now_ms + in_ms, headers([header]))
        };
        self.promise("", QUEUE, body, due_ms, properties)
    }

    /// A schedule that fires once.
    fn publish_schedule(&mut self) -> io::Result<()> {
        let name = format!("once-{}-{}", self.number, self.published.len());
        let due_ms = now_ms() + 1 + self.dice.between(100, AHEAD_MS) as u64;
        let properties = headers([
            ("x-schedule-name", (&*name).into()),
            ("x-schedule-at", milliseconds(due_ms)),
            ("x-schedule-routing-key", QUEUE.into()),
            ("x-schedule-misfire", "fire-once".into()),
        ]);
        self.promise("amq.schedule", "", name, due_ms, properties)
    }

    fn promise(
        &mut self,
        exchange: &str,
        key: &str,
        name: String,
        due_ms: u64,
        properties: Properties,
    ) -> io::Result<()> {
        let body = name.as_bytes();
        let how = How::Persistent;
        self.link.publish_with(exchange, key, how, properties, body);
        let promise = Promise {
            due_ms,
            confirmed: false,
        };
        self.book.promises.insert(name.clone(), promise);
        self.published.push(name);
        self.link.flush()
    }

    /// Notes what came, and goes on.
    fn take(&mut self, answer: Answer) -> io::Result<()> {
        match answer.method {
            Method::BasicAck(ack) => {
                let last = usize::try_from(ack.delivery_tag).unwrap();
                let first = if ack.multiple { 1 } else { last };
                for name in &self.published[first - 1..last] {
                    let promise = self.book.promises.get_mut(name).unwrap();
                    self.book.figures.confirmed += usize::from(!promise.confirmed);
                    promise.confirmed = true;
                }
                Ok(())
            }
            Method::BasicDeliver(deliver) => {
                self.came += 1;
                let fired = answer.properties.message_id.is_some();
                self.delivered(deliver.redelivered, &answer.properties, &answer.body);
                if self.number < KILLS {
                    if !fired {
                        self.publish_delayed()?;
                    }
                    if self.dice.chance(30) {
                        return Ok(()); // comes again
                    }
                }
                self.link.send(BasicAck {
                    delivery_tag: deliver.delivery_tag,
                    multiple: false,
                })
            }
            method => panic!("{method:?}"),
        }
    }

    fn delivered(&mut self, redelivered: bool, properties: &Properties, body: &[u8]) {
        let now_ms = now_ms();
        let book = &mut *self.book;
        let body = std::str::from_utf8(body).unwrap();
        let (key, due_ms) = match &properties.message_id {
            None => {
                let promise = &book.promises[body];
                (body.to_owned(), promise.due_ms)
            }
            Some(id) => {
                let id = String::from_utf8(id.to_vec()).unwrap();
                let (schedule, nominal) = id.rsplit_once('/').unwrap();
                let Wall(nominal_ms) = time::parse(nominal).unwrap();
                if let Some(promise) = book.promises.get(schedule) {
                    assert_eq!(nominal_ms, promise.due_ms, "{id}: what was asked for");
                }
                if !book.came.contains_key(&id) {
                    let times = book.nominal_ms.entry(schedule.to_owned());
                    times.or_default().push(nominal_ms);
                    let was_down = nominal_ms < self.ready_ms && !redelivered;
                    book.figures.made_up_for += usize::from(was_down);
                }
                (id, nominal_ms)
            }
        };
        assert!(due_ms <= now_ms, "{key}: {} ms early", due_ms - now_ms);
        let came = book.came.entry(key.clone()).or_default();
        if let Some(&before) = came.last() {
            assert!(before < self.number, "{key}: twice in run {before}");
            assert!(redelivered, "{key}: in runs {came:?} and {}", self.number);
            book.figures.again += 1;
        } else if properties.message_id.is_some() {
            book.figures.fired += 1;
        } else {
            book.figures.delayed += 1;
        }
        came.push(self.number);
    }

    /// Waits for all that was confirmed and for two more times of each schedule, and ends those.
    fn until_nothing_is_left(mut self) -> io::Result<()> {
        let go_on_ms = self.ready_ms + 1_000;
        while !self.book.has_all_until(go_on_ms) {
            let answer = self.link.answer()?;
            self.take(answer)?;
        }
        for (name, _, _) in GOING_ON {
            let fields = [
                ("x-schedule-name", name.into()),
                ("x-schedule-action", "delete".into()),
            ];
            let properties = headers(fields);
            self.link
                .publish_with("amq.schedule", "", How::Persistent, properties, b"");
        }
        self.link.flush()?;
        let mut left = GOING_ON.len() as u64;
        while left > 0 {
            let answer = self.link.answer()?;
            match &answer.method {
                Method::BasicAck(ack) => left = GOING_ON.len() as u64 - ack.delivery_tag,
                _ => self.take(answer)?,
            }
        }
        // What they fired before is on its way or has come.
        self.link.call(durable_queue(QUEUE))?;
        while let Some(answer) = self.link.answer_if_there()? {
            self.take(answer)?;
        }
        self.link.call(durable_queue(QUEUE))?;
        Ok(())
    }
}

impl Book {
    fn has_all_until(&self, ms: u64) -> bool {
        let has_gone_on = |name: &str| {
            let times = self.nominal_ms.get(name);
            times.is_some_and(|times| times.iter().any(|&t| t >= ms))
        };
        let mut open = self.promises.iter().filter(|(_, p)| p.confirmed);
        GOING_ON.iter().all(|(name, _, _)| has_gone_on(name))
            && open.all(|(name, _)| self.has_come(name))
    }

    fn has_come(&self, name: &str) -> bool {
        self.came.contains_key(name) || self.nominal_ms.contains_key(name)
    }

    fn nothing_is_missing(&self, before_ms: u64, after_ms: u64) {
        for (name, promise) in &self.promises {
            assert!(!promise.confirmed || self.has_come(name), "{name} is lost");
        }
        for (name, _, _) in GOING_ON {
            let mut times = self.nominal_ms[name].clone();
            times.sort_unstable();
            let first = times[0];
            assert!(
                (before_ms + 1..=after_ms + 1_000).contains(&first),
                "{name}: the first time is {first}, ordered from {before_ms} to {after_ms}"
            );
            for pair in times.windows(2) {
                assert_eq!(pair[1] - pair[0], 1_000, "{name}: after {}", pair[0]);
            }
        }
    }
}

//! Clients that go on until the broker is gone.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use leveret_codec::{
    BasicAck, BasicConsume, BasicNack, BasicQos, ChannelClose, ConfirmSelect, Method, QueueDelete,
    QueueUnbind, TxCommit, TxRollback, TxSelect,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::short;
use crate::dice::Dice;
use crate::history::{History, IN, Id, OUT, QUEUES, TX, body, targets};
use crate::link::{How, Link, bind, durable_queue, existing_queue};

/// Kills the broker when enough has happened.
pub(crate) struct Trigger {
    pub(crate) pid: Pid,
    pub(crate) left: AtomicI64,
    pub(crate) is_pulled: AtomicBool,
}

impl Trigger {
    /// Something was confirmed, delivered, declared.
    fn event(&self) {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.is_pulled.store(true, Ordering::Relaxed);
            kill_process(self.pid, Signal::KILL).unwrap();
        }
    }
}

/// A definition that comes and goes: a queue, and its binding to the exchange `defs`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Definition {
    pub(crate) exists: State,
    pub(crate) bound: State,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    Yes,
    No,
    /// It was asked for and not answered.
    Open,
}

/// What all clients of a run share.
pub(crate) struct Stage<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) trigger: Trigger,
    pub(crate) history: &'a Mutex<History>,
    pub(crate) definitions: &'a Mutex<BTreeMap<String, Definition>>,
}

impl Stage<'_> {
    fn link(&self) -> io::Result<Link> {
        Link::open(self.address)
    }

    fn note<T>(&self, note: impl FnOnce(&mut History) -> T) -> T {
        note(&mut self.history.lock().unwrap())
    }
}

fn exchange_and_key(id: Id) -> (&'static str, &'static str) {
    match targets(id) {
        [queue] => ("", QUEUES[*queue]),
        _ => ("fan", ""),
    }
}

/// Publishes with confirms.
pub(crate) fn publisher(stage: &Stage<'_>, number: usize, mut dice: Dice) -> io::Result<()> {
    let mut link = stage.link()?;
    link.call(ConfirmSelect::default())?;
    // By tag: what was published, and how many acks were settled by then.
    let mut open: BTreeMap<u64, (Id, usize)> = BTreeMap::new();
    let mut tag = 0;
    loop {
        let count = dice.between(1, 40);
        let (first, settled) = stage.note(|history| history.publishes(number, count));
        for n in first..first + count {
            let id = (number, n);
            tag += 1;
            open.insert(tag, (id, settled));
            let (exchange, key) = exchange_and_key(id);
            link.publish(exchange, key, How::Persistent, &body(id));
        }
        link.flush()?;
        let window = dice.between(0, 100);
        while open.len() > window {
            let Method::BasicAck(ack) = link.answer()?.method else {
                panic!("neither a confirm nor the end")
            };
            let first = if ack.multiple { 0 } else { ack.delivery_tag };
            let tags: Vec<u64> = open
                .range(first..=ack.delivery_tag)
                .map(|(tag, _)| *tag)
                .collect();
            for tag in tags {
                let (id, settled) = open.remove(&tag).unwrap();
                stage.note(|history| history.confirmed(id, settled));
                stage.trigger.event();
            }
        }
    }
}

/// Publishes in transactions.
pub(crate) fn tx_publisher(stage: &Stage<'_>, mut dice: Dice) -> io::Result<()> {
    let mut link = stage.link()?;
    link.call(TxSelect {})?;
    loop {
        let count = dice.between(1, 9);
        let (first, settled) = stage.note(|history| history.publishes(TX, count));
        let ids = (first..first + count).map(|n| (TX, n));
        for id in ids.clone() {
            let (exchange, key) = exchange_and_key(id);
            link.publish(exchange, key, How::Persistent, &body(id));
        }
        if dice.chance(10) {
            link.call(TxRollback {})?;
            ids.for_each(|id| stage.note(|history| history.rolled_back(id)));
        } else {
            link.call(TxCommit {})?;
            stage.note(|history| {
                ids.for_each(|id| history.confirmed(id, settled));
                history.figures.committed += 1;
            });
        }
        stage.trigger.event();
    }
}

fn consume(queue: usize) -> BasicConsume<'static> {
    BasicConsume {
        queue: short(QUEUES[queue]),
        ..BasicConsume::default()
    }
}

fn prefetch(count: usize) -> BasicQos {
    BasicQos {
        prefetch_count: count as u16,
        ..BasicQos::default()
    }
}

/// The next delivery of a queue, told to the history.
fn delivery(stage: &Stage<'_>, link: &mut Link, queue: usize) -> io::Result<(u64, Id, Vec<u8>)> {
    let answer = link.answer()?;
    let Method::BasicDeliver(deliver) = answer.method else {
        panic!("neither a delivery nor the end: {:?}", answer.method)
    };
    let (body, redelivered) = (answer.body, deliver.redelivered);
    let id = stage.note(|history| history.delivered(queue, &body, redelivered));
    stage.trigger.event();
    Ok((deliver.delivery_tag, id, body))
}

/// Consumes, settles most of it, and now and then closes its channel.
pub(crate) fn consumer(stage: &Stage<'_>, queue: usize, mut dice: Dice) -> io::Result<()> {
    let mut link = stage.link()?;
    'channel: loop {
        let window = dice.between(1, 100);
        link.call(prefetch(window))?;
        link.call(consume(queue))?;
        let mut unacked: BTreeMap<u64, Id> = BTreeMap::new();
        let mut acked: Vec<(usize, Id)> = Vec::new();
        loop {
            let (tag, id, _) = delivery(stage, &mut link, queue)?;
            unacked.insert(tag, id);
            let is_full = unacked.len() == window;
            if dice.chance(3) {
                link.send(BasicNack {
                    delivery_tag: tag,
                    multiple: false,
                    requeue: true,
                })?;
                unacked.remove(&tag);
            } else if is_full || dice.chance(20) {
                let multiple = is_full || dice.chance(50);
                let first = if multiple { 0 } else { tag };
                let tags: Vec<u64> = unacked.range(first..=tag).map(|(tag, _)| *tag).collect();
                for tag in tags {
                    let id = unacked.remove(&tag).unwrap();
                    stage.note(|history| history.acks(queue, id));
                    acked.push((queue, id));
                }
                link.send(BasicAck {
                    delivery_tag: tag,
                    multiple,
                })?;
            }
            if dice.chance(5) {
                // Applies to later consumers only; what counts is that it is answered.
                link.call(prefetch(window))?;
                stage.note(|history| history.settled(std::mem::take(&mut acked)));
            }
            if dice.chance(1) && dice.chance(30) {
                link.call(ChannelClose::default())?;
                stage.note(|history| history.settled(std::mem::take(&mut acked)));
                link.forget(); // deliveries that crossed the close: they come again
                link.call(leveret_codec::ChannelOpen::default())?;
                continue 'channel;
            }
        }
    }
}

/// Moves messages from one queue to another, some in each transaction.
pub(crate) fn mover(stage: &Stage<'_>, mut dice: Dice) -> io::Result<()> {
    let mut link = stage.link()?;
    link.call(TxSelect {})?;
    link.call(prefetch(20))?;
    link.call(consume(IN))?;
    let mut taken: VecDeque<(u64, Id, Vec<u8>)> = VecDeque::new();
    loop {
        let count = dice.between(1, 20);
        while taken.len() < count {
            taken.push_back(delivery(stage, &mut link, IN)?);
        }
        let ids: Vec<Id> = taken.iter().map(|(_, id, _)| *id).collect();
        let is_rolled_back = dice.chance(10);
        for (tag, id, body) in &taken {
            link.publish("", QUEUES[OUT], How::Persistent, body);
            stage.note(|history| history.acks(IN, *id));
            link.push(BasicAck {
                delivery_tag: *tag,
                multiple: false,
            });
        }
        if is_rolled_back {
            link.call(TxRollback {})?;
            ids.iter()
                .for_each(|id| stage.note(|history| history.takes_back(IN, *id)));
        } else {
            link.call(TxCommit {})?;
            stage.note(|history| history.committed(IN, &ids));
            taken.clear();
        }
        stage.trigger.event();
    }
}

/// Declares, binds, unbinds and deletes.
pub(crate) fn definer(stage: &Stage<'_>, run: usize, mut dice: Dice) -> io::Result<()> {
    let mut link = stage.link()?;
    let set = |name: &str, exists, bound| {
        let mut definitions = stage.definitions.lock().unwrap();
        definitions.insert(name.to_owned(), Definition { exists, bound });
    };
    for n in 0.. {
        let name = format!("def-{run}-{n}");
        set(&name, State::Open, State::Open);
        link.call(durable_queue(&name))?;
        stage.trigger.event();
        set(&name, State::Yes, State::Open);
        link.call(bind("defs", &name, &name))?;
        stage.trigger.event();
        set(&name, State::Yes, State::Yes);
        stage.note(|history| history.figures.definitions += 2);
        let existing: Vec<_> = stage
            .definitions
            .lock()
            .unwrap()
            .iter()
            .filter(|(_, definition)| definition.exists == State::Yes)
            .map(|(name, definition)| (name.clone(), *definition))
            .collect();
        let (name, definition) = &existing[dice.between(0, existing.len())];
        if dice.chance(20) && definition.bound == State::Yes {
            set(name, State::Yes, State::Open);
            link.call(QueueUnbind {
                queue: short(name),
                exchange: short("defs"),
                routing_key: short(name),
                ..QueueUnbind::default()
            })?;
            set(name, State::Yes, State::No);
        } else if existing.len() > 20 || dice.chance(40) {
            set(name, State::Open, State::Open);
            link.call(QueueDelete {
                queue: short(name),
                ..QueueDelete::default()
            })?;
            set(name, State::No, State::No);
        }
        stage.trigger.event();
    }
    Ok(())
}

/// After a start: all definitions are as was said, and none is half there.
pub(crate) fn check_definitions(
    link: &mut Link,
    definitions: &mut BTreeMap<String, Definition>,
) -> io::Result<usize> {
    let checked = definitions.len();
    link.call(ConfirmSelect::default())?;
    let mut found = BTreeMap::new();
    for (name, said) in definitions.iter() {
        link.publish("defs", name, How::Mandatory, b"anybody?");
        link.flush()?;
        let is_bound = match link.answer()?.method {
            Method::BasicAck(_) => true,
            Method::BasicReturn(_) => {
                link.answer()?;
                false
            }
            other => panic!("{other:?}"),
        };
        let exists = match link.call(existing_queue(name))? {
            Method::QueueDeclareOk(_) => true,
            Method::ChannelClose(close) => {
                assert_eq!(close.reply_code, 404);
                link.call(ConfirmSelect::default())?;
                false
            }
            other => panic!("{other:?}"),
        };
        let fits = |said, found| said == State::Open || (said == State::Yes) == found;
        assert!(
            fits(said.exists, exists) && fits(said.bound, is_bound) && (exists || !is_bound),
            "{name}: {said:?}, but exists: {exists}, bound: {is_bound}"
        );
        if exists {
            let bound = if is_bound { State::Yes } else { State::No };
            let exists = State::Yes;
            found.insert(name.clone(), Definition { exists, bound });
        }
    }
    *definitions = found;
    Ok(checked)
}

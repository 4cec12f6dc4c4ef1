use leveret_codec::{
    ChannelOpen, ContentHeader, FieldTable, FieldValue, Method, Properties, PropertySummary,
    QueueBind, QueueDeclare, ShortStr,
};
use leveret_core::broker::Options;
use leveret_core::ids::QueueId;
use leveret_core::log::{Fetch, Fetched};
use leveret_core::record::Note;
use leveret_core::schedule::{Deeds, Ending, Run, Scheduler};
use leveret_core::{Capabilities, Fact, Limits, Lsn, Permissions, Record, ReplyCode, Seq, Wall};
use tokio::sync::oneshot::error::TryRecvError;

use super::*;
use crate::turnstile::{Rest, Turnstile};

/// A log to which everything is safe at once.
struct QuickLog;

impl Log for QuickLog {
    fn append(&mut self, records: &mut Vec<Record>) -> Option<Lsn> {
        let last = records.last().map(|record| record.lsn);
        records.clear();
        last
    }

    fn fetch(&mut self, fetch: Fetch) {
        panic!("nothing is ever paged out: {fetch:?}");
    }
}

/// A log to which nothing is safe until somebody says so.
struct SlowLog;

impl Log for SlowLog {
    fn append(&mut self, records: &mut Vec<Record>) -> Option<Lsn> {
        records.clear();
        None
    }

    fn fetch(&mut self, fetch: Fetch) {
        panic!("nothing is ever paged out: {fetch:?}");
    }
}

/// What a log is given, and what it is asked for.
type Asked = (Vec<(Seq, Message)>, Vec<Fetch>);

/// A log that notes that down.
#[derive(Default)]
struct AskedLog(Arc<Mutex<Asked>>);

impl Log for AskedLog {
    fn append(&mut self, records: &mut Vec<Record>) -> Option<Lsn> {
        for record in &*records {
            if let Fact::Published {
                message, places, ..
            } = &record.fact
            {
                let place = places.first().expect("a place").1;
                lock(&self.0).0.push((place, message.clone()));
            }
        }
        QuickLog.append(records)
    }

    fn fetch(&mut self, fetch: Fetch) {
        lock(&self.0).1.push(fetch);
    }
}

/// Notes down orders with a body, answers others at once, and does not survive `bug`.
#[derive(Debug)]
struct Secretary;

impl Scheduler for Secretary {
    fn recover(&mut self, _: Wall, _: Vec<Note>) -> Result<(), String> {
        Ok(())
    }

    fn order(
        &mut self,
        _: Wall,
        order: &leveret_core::schedule::Order<'_>,
        deeds: &mut Deeds,
    ) -> Result<Vec<u8>, AmqpError> {
        let body = order.message.body();
        assert_ne!(body, b"bug", "on purpose");
        if !body.is_empty() {
            let (key, value) = (Arc::from(&b"test\0"[..]), Some(Arc::from(body)));
            deeds.notes.push(Note { key, value });
        }
        Ok(body.to_vec())
    }

    fn next_due(&self) -> Option<Wall> {
        None
    }

    fn due(&mut self, _: Wall, _: usize, _: &mut Deeds) {}
    fn replan(&mut self, _: Wall) {}
    fn routed(&mut self, _: Wall, _: &Run<'_>, _: usize, _: &mut Vec<Note>) {}
    fn delivered(&mut self, _: Wall, _: &Run<'_>, _: &str) {}
    fn settled(&mut self, _: Wall, _: &Run<'_>, _: Ending, _: &mut Vec<Note>) {}
}

/// A machine and its connections, run turn by turn.
struct Rig {
    turnstile: Turnstile<Vhost>,
    ids: Arc<Mutex<SlotMap<ConnectionId, ()>>>,
    panics: Arc<AtomicU64>,
}

impl Rig {
    fn new() -> Self {
        Self::with(Box::new(QuickLog))
    }

    fn with(log: Box<dyn Log>) -> Self {
        let options = Options {
            vhost: Arc::from("/"),
            seed: [7; 32],
            limits: Limits::default(),
        };
        let (ids, panics) = (Arc::default(), Arc::default());
        let clock = Clock::start();
        let mut broker = Broker::new(options);
        broker
            .schedule_with(clock.now(), Box::new(Secretary))
            .unwrap();
        let machine = Vhost::new(
            broker,
            Arc::from("/"),
            log,
            clock,
            Arc::clone(&panics),
            Arc::clone(&ids),
            Arc::default(),
        );
        Self {
            turnstile: Turnstile::new(machine),
            ids,
            panics,
        }
    }

    /// A connection with channel 1.
    fn connect(&self) -> (ConnectionId, Arc<Link>) {
        let id = lock(&self.ids).insert(());
        let peer = "127.0.0.1:1".parse().unwrap();
        let link = Arc::new(Link::new(1, peer, 131_072, 1 << 20));
        let peer = Box::new(Peer {
            user: Arc::from("guest"),
            permissions: Permissions::all(),
            impersonator: false,
            capabilities: Capabilities::default(),
        });
        self.turnstile.put(Entry::Opened {
            id,
            peer,
            link: Arc::clone(&link),
        });
        self.put(id, &link, vec![method(ChannelOpen::default())]);
        self.finish();
        link.outbox.take_all();
        (id, link)
    }

    fn put(&self, id: ConnectionId, link: &Link, commands: Vec<Command>) {
        let bytes = 100 * commands.len();
        link.hand_over(bytes);
        let commands = commands.into_iter();
        self.turnstile.put(Entry::Commands(Batch {
            id,
            commands,
            bytes,
        }));
    }

    /// An order with this body.
    fn order(&self, body: &[u8]) -> oneshot::Receiver<Result<Vec<u8>, AmqpError>> {
        let header = ContentHeader {
            class_id: 60,
            body_size: body.len() as u64,
            flags: 0,
            raw: &[],
            summary: PropertySummary::default(),
        };
        self.give(Message::build(
            &mut Vec::new(),
            "amq.schedule",
            "",
            &header,
            body,
        ))
    }

    /// An order to cancel the delayed message with this id.
    fn cancel(&self, id: &str) -> oneshot::Receiver<Result<Vec<u8>, AmqpError>> {
        let properties = Properties {
            headers: Some(FieldTable::from_iter([
                ("x-delayed-action".to_owned(), FieldValue::from("cancel")),
                ("x-delayed-id".to_owned(), FieldValue::from(id)),
            ])),
            ..Properties::default()
        };
        self.give(with_properties("amq.schedule", &properties))
    }

    fn give(&self, message: Message) -> oneshot::Receiver<Result<Vec<u8>, AmqpError>> {
        let (reply, answer) = oneshot::channel();
        self.turnstile.put(Entry::Order(Box::new(Order {
            user: Arc::from("guest"),
            permissions: Permissions::all(),
            message,
            reply,
        })));
        answer
    }

    /// Runs until nothing is left to do; returns how often somebody had to.
    fn finish(&self) -> usize {
        let mut runs = 1;
        while self.turnstile.run(drop) == Rest::Something {
            runs += 1;
        }
        runs
    }

    /// A connection with 1,000 queues, `q0` and so on, behind `amq.fanout`.
    fn noisy(&self) -> (ConnectionId, Arc<Link>) {
        let (id, link) = self.connect();
        for n in 0..1_000 {
            let queue = format!("q{n}");
            let bind = QueueBind {
                queue: short(&queue),
                exchange: short("amq.fanout"),
                no_wait: true,
                ..QueueBind::default()
            };
            self.put(id, &link, vec![declare(&queue), method(bind)]);
        }
        self.finish();
        link.outbox.take_all();
        (id, link)
    }
}

/// A message without a body.
fn with_properties(exchange: &str, properties: &Properties) -> Message {
    let mut raw = Vec::new();
    let flags = properties.encode(&mut raw);
    let header = ContentHeader {
        class_id: 60,
        body_size: 0,
        flags,
        raw: &raw,
        summary: PropertySummary {
            delivery_mode: properties.delivery_mode.unwrap_or_default(),
            ..PropertySummary::default()
        },
    };
    Message::build(&mut Vec::new(), exchange, "", &header, b"")
}

fn short(text: &str) -> ShortStr<'static> {
    ShortStr::truncated(text.to_owned())
}

fn method(method: impl Into<Method<'static>>) -> Command {
    Command::Method {
        channel: 1,
        method: Box::new(method.into()),
    }
}

fn declare(queue: &str) -> Command {
    method(QueueDeclare {
        queue: short(queue),
        ..QueueDeclare::default()
    })
}

/// 100 publishes to `amq.fanout`.
fn publishes() -> Vec<Command> {
    let header = ContentHeader {
        class_id: 60,
        body_size: 1,
        flags: 0,
        raw: &[],
        summary: PropertySummary::default(),
    };
    let publish = |_| Command::Publish {
        channel: 1,
        mandatory: false,
        message: Message::build(&mut Vec::new(), "amq.fanout", "", &header, b"m"),
    };
    (0..100).map(publish).collect()
}

/// What the connection was told: names of queues in `queue.declare-ok` with their messages, reply
/// codes of refusals.
fn told(link: &Link) -> Vec<String> {
    let line = |outbound| match outbound {
        Outbound::Method { method, .. } => match *method {
            Method::QueueDeclareOk(ok) => format!("{} {}", ok.queue, ok.message_count),
            other => other.name().to_owned(),
        },
        Outbound::CloseConnection { error } => format!("close {}", error.code.value()),
        other => format!("{other:?}"),
    };
    link.outbox.take_all().into_iter().map(line).collect()
}

#[test]
fn a_quiet_connection_is_answered_between_the_parts_of_a_noisy_batch() {
    let rig = Rig::new();
    let (noisy, noisy_link) = rig.noisy();
    let (quiet, quiet_link) = rig.connect();

    let mut batch = publishes();
    batch.push(declare("q999"));
    rig.put(noisy, &noisy_link, batch);
    rig.put(noisy, &noisy_link, vec![declare("after")]);
    rig.put(quiet, &quiet_link, vec![declare("quiet")]);

    assert_eq!(rig.turnstile.run(drop), Rest::Something);
    assert!(told(&quiet_link).is_empty(), "it was last in line");
    assert_eq!(rig.turnstile.run(drop), Rest::Something);
    assert_eq!(told(&quiet_link), ["quiet 0"]);
    assert!(told(&noisy_link).is_empty());
    assert_eq!(
        noisy_link.in_flight_bytes(),
        100 * 102,
        "all of it is under way until the last command is done"
    );

    let runs = rig.finish();
    assert!(runs >= 8, "100,000 copies in {runs} turns");
    assert_eq!(told(&noisy_link), ["q999 100", "after 0"], "in order");
    assert_eq!(noisy_link.in_flight_bytes(), 0);
}

#[test]
fn the_end_of_a_connection_does_not_overtake_what_it_has_said() {
    let rig = Rig::new();
    let (noisy, link) = rig.noisy();
    rig.put(noisy, &link, publishes());
    rig.turnstile.put(Entry::Other(Input::Closed(noisy)));
    assert_eq!(rig.turnstile.run(drop), Rest::Something);
    assert_eq!(rig.turnstile.inspect(|vhost| vhost.clients.len()), 1);
    rig.finish();
    let (totals, clients) = rig
        .turnstile
        .inspect(|vhost| (vhost.broker.totals(), vhost.clients.len()));
    assert_eq!((totals.ready, totals.connections, clients), (100_000, 0, 0));
}

#[test]
fn after_a_panic_nothing_more_of_its_connection_is_obeyed() {
    let rig = Rig::new();
    let (noisy, noisy_link) = rig.noisy();
    let (quiet, quiet_link) = rig.connect();

    rig.put(noisy, &noisy_link, publishes());
    rig.turnstile.put(Entry::Panic(noisy));
    rig.put(noisy, &noisy_link, vec![declare("never")]);
    rig.put(quiet, &quiet_link, vec![declare("quiet")]);
    rig.finish();
    let code = ReplyCode::InternalError.value();
    assert_eq!(told(&noisy_link), [format!("close {code}")]);
    assert!(noisy_link.signals().has(Signals::CLOSING));
    assert_eq!(noisy_link.in_flight_bytes(), 0);
    assert_eq!(rig.panics.load(Ordering::Relaxed), 1);
    let totals = rig.turnstile.inspect(|vhost| vhost.broker.totals());
    assert_eq!(
        (totals.queues, totals.channels),
        (1_001, 1),
        "its channel is gone, `never` was not made"
    );
    assert_eq!(told(&quiet_link), ["quiet 0"]);

    rig.put(noisy, &noisy_link, vec![declare("never")]);
    rig.turnstile.put(Entry::Other(Input::Closed(noisy)));
    rig.finish();
    assert!(told(&noisy_link).is_empty());
    let totals = rig.turnstile.inspect(|vhost| vhost.broker.totals());
    assert_eq!((totals.queues, totals.connections), (1_001, 1));
}

#[test]
fn an_order_is_answered_when_its_record_is_safe() {
    let rig = Rig::with(Box::new(SlowLog));
    let (mut first, mut second) = (rig.order(b"first"), rig.order(b"second"));
    let mut question = rig.order(b"");
    let gone = rig.order(b"gone");
    drop(gone);
    rig.finish();
    assert_eq!(
        question.try_recv(),
        Ok(Ok(Vec::new())),
        "nothing to wait for"
    );
    assert_eq!(first.try_recv(), Err(TryRecvError::Empty));

    rig.turnstile.put(Entry::Other(Input::Durable(Lsn(1))));
    rig.finish();
    assert_eq!(first.try_recv(), Ok(Ok(b"first".to_vec())));
    assert_eq!(second.try_recv(), Err(TryRecvError::Empty));

    rig.turnstile.put(Entry::Other(Input::Durable(Lsn(3))));
    rig.finish();
    assert_eq!(second.try_recv(), Ok(Ok(b"second".to_vec())));
    let waiting = rig.turnstile.inspect(|vhost| vhost.obeyed.len());
    assert_eq!(waiting, 0, "not for one that nobody waits for either");
}

#[test]
fn orders_that_wait_for_the_log_are_bounded() {
    let rig = Rig::with(Box::new(SlowLog));
    let mut answers: Vec<_> = (0..=ORDERS_WAITING_MAX).map(|_| rig.order(b"x")).collect();
    rig.finish();
    let refused = answers.pop().unwrap().try_recv().unwrap().unwrap_err();
    assert_eq!(refused.code, ReplyCode::ResourceError);
    assert_eq!(answers[0].try_recv(), Err(TryRecvError::Empty));
}

#[test]
fn an_order_that_makes_the_core_panic_is_answered() {
    let rig = Rig::new();
    let (mut bug, mut other) = (rig.order(b"bug"), rig.order(b"other"));
    rig.finish();
    assert_eq!(bug.try_recv(), Ok(Err(internal_error())));
    assert_eq!(rig.panics.load(Ordering::Relaxed), 1);
    let answer = other.try_recv().unwrap();
    assert!(answer.is_ok(), "the next one is obeyed: {answer:?}");
}

/// All orders that waited for the log were given again whenever anything had been read, also for
/// queues; and what a caller did not wait for any more was looked for to the end.
#[test]
fn orders_go_on_when_their_message_was_looked_for_and_end_with_their_callers() {
    let asked = Arc::default();
    let rig = Rig::with(Box::new(AskedLog(Arc::clone(&asked))));
    let (id, link) = rig.connect();
    rig.turnstile
        .put(Entry::Other(Input::Alarm(Some("memory"))));
    for name in ["one", "two", "three"] {
        let delay = FieldValue::from(1_000_000_i32);
        let headers = FieldTable::from_iter([("x-deliver-after".to_owned(), delay)]);
        let properties = Properties {
            headers: Some(headers),
            message_id: Some(name.into()),
            delivery_mode: Some(2),
            ..Properties::default()
        };
        let publish = Command::Publish {
            channel: 1,
            mandatory: false,
            message: with_properties("", &properties),
        };
        rig.put(id, &link, vec![publish]);
        rig.finish();
    }
    let gone = rig.cancel("nowhere");
    let (mut one, mut two) = (rig.cancel("one"), rig.cancel("two"));
    rig.finish();
    let read = |queue, messages| {
        let error = None;
        rig.turnstile.put(Entry::Other(Input::Fetched(Fetched {
            queue,
            messages,
            error,
        })));
        rig.finish();
    };
    let page = || {
        let (kept, fetches) = &mut *lock(&asked);
        let kept = kept.iter().map(|(place, m)| (*place, m.clone(), None));
        assert!(fetches.pop().is_some(), "the log is asked");
        kept.collect::<Vec<_>>()
    };
    let looking = |rig: &Rig| rig.turnstile.inspect(|vhost| vhost.looking.len());
    assert_eq!(looking(&rig), 3);

    drop(gone);
    let work = |rig: &Rig| rig.turnstile.inspect(|vhost| vhost.broker.work());
    let before = work(&rig);
    let other = SlotMap::<QueueId, ()>::with_key().insert(());
    read(other, Vec::new());
    assert_eq!(work(&rig), before, "that was for a queue");
    assert_eq!(looking(&rig), 2, "one has no caller any more");

    // It is not looked for in the page that was for it; the next is for the next.
    read(QueueId::default(), page());
    assert_eq!(one.try_recv(), Err(TryRecvError::Empty));
    read(QueueId::default(), page());
    assert!(matches!(one.try_recv(), Ok(Ok(_))));
    assert_eq!(two.try_recv(), Err(TryRecvError::Empty));
    assert_eq!(looking(&rig), 1);
    read(QueueId::default(), page());
    assert!(matches!(two.try_recv(), Ok(Ok(_))));
}

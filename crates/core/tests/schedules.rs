//! Messages that a scheduler publishes, with a scheduler that does as the test says.

mod common;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use common::*;
use leveret_codec::{
    BasicGet, ExchangeDeclare, FieldTable, FieldValue, Properties, QueueDeclare, QueuePurge,
    TxCommit,
};
use leveret_core::log::Recovered;
use leveret_core::schedule::{Deeds, Ending, Fire, Note, Order, Refusal, Run, Scheduler, Users};
use leveret_core::{AmqpError, Event, Fact, Input, Lsn, Message, Outcome, Permissions, Wall};

/// Fires `body` to the queue that an order names, so many milliseconds after it.
#[derive(Debug)]
struct Echo {
    due: Vec<(Wall, String, Vec<u8>)>,
    heard: Sender<String>,
}

fn note(key: &str) -> Note {
    Note {
        key: Arc::from(key.as_bytes()),
        value: Some(Arc::from([1])),
    }
}

impl Scheduler for Echo {
    fn recover(&mut self, _now: Wall, notes: Vec<Note>) -> Result<(), String> {
        for note in notes {
            let key = String::from_utf8_lossy(&note.key).into_owned();
            self.heard.send(format!("recovered {key}")).expect("a test");
        }
        Ok(())
    }

    fn order(
        &mut self,
        now: Wall,
        order: &Order<'_>,
        deeds: &mut Deeds,
    ) -> Result<Vec<u8>, AmqpError> {
        let headers = order.message.properties().headers.unwrap_or_default();
        let to = headers.get("to").and_then(FieldValue::as_str);
        let to = to.ok_or_else(|| AmqpError::precondition_failed("to whom?"))?;
        order.rights.may_configure(to)?;
        order.rights.may_publish("")?;
        let ms = headers.get("ms").and_then(FieldValue::as_i64).unwrap_or(0);
        let due = Wall(now.0 + u64::try_from(ms).expect("a time"));
        self.due
            .push((due, to.to_owned(), order.message.body().to_vec()));
        self.due.sort();
        deeds.notes.push(note(to));
        Ok(b"{}".to_vec())
    }

    fn next_due(&self) -> Option<Wall> {
        self.due.first().map(|(due, ..)| *due)
    }

    fn due(&mut self, now: Wall, _max: usize, deeds: &mut Deeds) {
        let (_, to, body) = self.due.remove(0);
        let properties = Properties {
            message_id: Some(format!("run/{}", now.0).into()),
            delivery_mode: Some(2),
            ..Properties::default()
        };
        // To `late:key`, an exchange that holds it back for a second.
        let (exchange, key) = to.split_once(':').unwrap_or(("", &to));
        let delay = [("x-delay", FieldValue::I32(1_000))];
        let properties = Properties {
            headers: (!exchange.is_empty()).then(|| FieldTable::from_iter(delay)),
            ..properties
        };
        deeds.fires.push(Fire {
            user: Arc::from("guest"),
            message: Message::fired(exchange, key, &properties, &body),
            notes: vec![note("ran")],
        });
    }

    fn replan(&mut self, _now: Wall) {
        self.heard.send("replan".to_owned()).expect("a test");
    }

    fn routed(&mut self, _now: Wall, _run: &Run<'_>, queues: usize, notes: &mut Vec<Note>) {
        self.heard.send(format!("routed {queues}")).expect("a test");
        if queues != 1 {
            notes.push(note("routed"));
        }
    }

    fn refused(&mut self, _now: Wall, _run: &Run<'_>, why: Refusal, notes: &mut Vec<Note>) {
        self.heard.send(format!("refused {why:?}")).expect("a test");
        notes.push(note("refused"));
    }

    fn delivered(&mut self, _now: Wall, run: &Run<'_>, tag: &str) {
        assert!(run.message_id.starts_with("run/"));
        self.heard.send(format!("delivered {tag}")).expect("a test");
    }

    fn settled(&mut self, _now: Wall, _run: &Run<'_>, ending: Ending, notes: &mut Vec<Note>) {
        self.heard
            .send(format!("settled {ending:?}"))
            .expect("a test");
        notes.push(note("settled"));
    }
}

struct Scheduled {
    t: BrokerTest,
    ch: Chan,
    heard: Receiver<String>,
}

impl Scheduled {
    fn over(mut t: BrokerTest) -> Self {
        let (tell, heard) = channel();
        let echo = Echo {
            due: Vec::new(),
            heard: tell,
        };
        t.broker
            .schedule_with(t.now, Box::new(echo))
            .expect("sound");
        let ch = t.client();
        Self { t, ch, heard }
    }

    fn new() -> Self {
        let mut this = Self::over(BrokerTest::new());
        this.t.durable_queue(this.ch, "q");
        this.t.facts();
        this
    }

    fn order(&mut self, to: &'static str, ms: i32, body: &str) {
        let to = FieldValue::LongString(to.into());
        let properties = headers([("to", to), ("ms", FieldValue::I32(ms))]);
        let order = message_with("amq.schedule", "", properties, body);
        self.t.publish_with(self.ch, order, false);
    }

    fn heard(&self) -> Vec<String> {
        self.heard.try_iter().collect()
    }

    fn pass(&mut self, ms: u64) {
        self.t.now.wall.0 += ms;
        self.t.pass_ms(ms);
    }
}

#[test]
fn what_is_due_is_published_with_a_note_in_one_record() {
    let mut s = Scheduled::new();
    s.t.confirm_select(s.ch);
    s.order("q", 500, "hello");
    assert_eq!(s.t.heard(s.ch), ["confirm 1"]);
    assert!(matches!(&s.t.facts()[..], [Fact::Noted(_)]));
    s.pass(499);
    assert_eq!(s.t.broker.totals().ready, 0);
    s.pass(1);
    assert_eq!(s.t.bodies("q"), ["hello"]);
    let facts = s.t.facts();
    let Some(Fact::Together(facts)) = facts.first() else {
        panic!("{facts:?}");
    };
    assert!(
        matches!(&facts[..], [Fact::Noted(_), Fact::Published { .. }]),
        "{facts:?}"
    );
    assert_eq!(s.heard()[0], "routed 1");
}

/// A crash between two records would take a run that is in two queues for one that is in one.
#[test]
fn how_many_queues_a_run_is_in_is_in_its_record() {
    let mut s = Scheduled::new();
    s.order("nowhere", 0, "x");
    s.t.facts();
    s.pass(1);
    assert_eq!(s.heard(), ["routed 0"]);
    let facts = s.t.facts();
    let expected = vec![Fact::Noted(note("ran")), Fact::Noted(note("routed"))];
    assert_eq!(facts, [Fact::Together(expected)]);
}

#[test]
fn an_order_is_confirmed_when_its_note_is_safe() {
    let mut s = Scheduled::new();
    s.t.confirm_select(s.ch);
    s.t.log = Log::Held;
    s.order("q", 500, "hello");
    assert_eq!(s.t.heard(s.ch), [""; 0]);
    s.t.sync();
    assert_eq!(s.t.heard(s.ch), ["confirm 1"]);
}

#[test]
fn nobody_sees_what_is_fired_before_the_log_has_it() {
    let mut s = Scheduled::new();
    s.t.consume(s.ch, "q", "c");
    s.order("q", 0, "x");
    s.t.log = Log::Held;
    s.pass(1);
    assert_eq!(
        s.t.take_deliveries().len(),
        0,
        "a crash would fire it again"
    );
    s.t.sync();
    assert_eq!(s.t.take_delivery().body(), b"x");

    s.order("q", 0, "y");
    s.t.cancel(s.ch, "c");
    s.pass(1);
    let get = BasicGet {
        queue: short("q"),
        no_ack: true,
        ..BasicGet::default()
    };
    s.t.method(s.ch, get);
    assert_eq!(s.t.take_deliveries().len(), 0, "it waits as well");
    s.t.sync();
    assert_eq!(s.t.take_delivery().body(), b"y");
}

fn durable_queue(s: &mut Scheduled, name: &str, (argument, value): (&str, i32)) {
    let declare = QueueDeclare {
        queue: short(name),
        durable: true,
        arguments: table([(argument, FieldValue::I32(value))]),
        ..QueueDeclare::default()
    };
    s.t.method(s.ch, declare);
    s.t.heard(s.ch);
}

/// Each priority counts for itself, so a later message may have a lower number.
#[test]
fn with_priorities_nobody_sees_what_is_fired_before_the_log_has_it() {
    let mut s = Scheduled::new();
    durable_queue(&mut s, "p", ("x-max-priority", 9));
    for _ in 0..5 {
        s.t.publish(s.ch, "p", "of no importance");
    }
    s.t.consume(s.ch, "p", "c");
    s.t.take_deliveries();
    s.order("p", 0, "first");
    s.order("p", 5, "second");
    s.t.log = Log::Held;
    s.pass(1);
    let mut urgent = headers([("x-deliver-after", FieldValue::I32(1))]);
    (urgent.delivery_mode, urgent.priority) = (Some(2), Some(9));
    let urgent = message_with("", "p", urgent, "urgent");
    s.t.publish_with(s.ch, urgent, false);
    s.pass(4);
    assert_eq!(s.t.take_deliveries().len(), 0);
    s.t.sync();
    s.t.sync();
    assert_eq!(s.t.take_deliveries().len(), 3);
}

#[test]
fn what_is_fired_does_not_expire_before_it_may_be_delivered() {
    let mut s = Scheduled::new();
    durable_queue(&mut s, "now or never", ("x-message-ttl", 0));
    s.t.consume(s.ch, "now or never", "c");
    s.order("now or never", 0, "x");
    s.t.log = Log::Held;
    s.pass(1);
    s.pass(500);
    assert_eq!(s.t.take_deliveries().len(), 0);
    s.t.sync();
    assert_eq!(s.t.take_delivery().body(), b"x");

    s.t.cancel(s.ch, "c");
    s.order("now or never", 0, "y");
    s.pass(1);
    s.t.sync();
    s.pass(20);
    assert_eq!(s.t.broker.metrics().expired, 1, "nobody wants it");
}

#[test]
fn schedules_stop_while_publishers_are_stopped_or_the_log_is_far_behind() {
    let mut s = Scheduled::new();
    let ready = |s: &Scheduled| s.t.broker.totals().ready;
    s.t.step(Input::Alarm(Some("memory")));
    s.order("q", 0, "x");
    s.pass(2_000);
    assert_eq!(ready(&s), 0);
    s.t.step(Input::Alarm(None));
    s.pass(20);
    assert_eq!(ready(&s), 1);

    let large = "x".repeat(1 << 20);
    s.t.log = Log::Held;
    for _ in 0..40 {
        s.order("q", 0, &large);
        s.pass(20);
    }
    let fired = ready(&s);
    assert!((16..20).contains(&fired), "{fired} MiB are on their way");
    s.t.log = Log::Quick;
    s.t.sync();
    for _ in 0..40 {
        s.pass(20);
    }
    assert_eq!(ready(&s), 41);
}

#[test]
fn a_fired_message_that_dies_with_its_queue_is_told_of() {
    let mut s = Scheduled::new();
    s.order("q", 0, "x");
    s.pass(1);
    s.t.consume(s.ch, "q", "worker");
    s.t.delete_queue(s.ch, "q");
    s.heard();
    s.t.close(s.ch);
    assert_eq!(s.heard(), ["settled Removed"]);
}

/// Its schedule waited for it until its `overlap-timeout`.
#[test]
fn a_fired_message_that_is_cancelled_while_it_waits_is_told_of() {
    let mut s = Scheduled::new();
    let declare = ExchangeDeclare {
        durable: true,
        arguments: table([("x-delayed-type", text("direct"))]),
        ..exchange_declare("late", "x-delayed-message")
    };
    s.t.method(s.ch, declare);
    s.order("late:q", 0, "x");
    s.pass(1);
    assert_eq!(s.heard(), ["routed 1"]);
    s.t.facts();
    let id = format!("run/{}", s.t.now.wall.0);
    let cancel = [
        ("x-delayed-action", text("cancel")),
        ("x-delayed-id", text(&id)),
    ];
    delayed_order(&mut s, &cancel).expect("cancelled");
    assert_eq!(s.heard(), ["settled Removed"]);
    let facts = s.t.facts();
    let Some(Fact::Together(facts)) = facts.first() else {
        panic!("{facts:?}");
    };
    assert!(
        matches!(&facts[..], [Fact::Settled { .. }, Fact::Noted(_)]),
        "{facts:?}"
    );
}

#[test]
fn a_fired_message_that_is_rejected_after_its_queue_is_gone_is_told_of() {
    let mut s = Scheduled::new();
    s.order("q", 0, "x");
    s.pass(1);
    s.t.consume(s.ch, "q", "worker");
    s.t.delete_queue(s.ch, "q");
    s.heard();
    s.t.settle(s.ch, 1, false, Outcome::Reject { requeue: false });
    assert_eq!(s.heard(), ["settled Died"]);
}

#[test]
fn an_answer_waits_for_the_log_and_an_order_that_cannot_be_answered_changes_nothing() {
    let mut s = Scheduled::new();
    s.t.durable_queue(s.ch, "answers");
    s.t.consume_no_ack(s.ch, "amq.rabbitmq.reply-to", "me");
    let order = |to: &str| {
        let properties = Properties {
            reply_to: Some(to.to_owned().into()),
            ..headers([("to", FieldValue::LongString("q".into()))])
        };
        message_with("amq.schedule", "", properties, "x")
    };
    s.t.log = Log::Held;
    s.t.publish_with(s.ch, order("answers"), false);
    s.t.publish_with(s.ch, order("amq.rabbitmq.reply-to"), false);
    assert_eq!(
        (s.t.broker.totals().ready, s.t.take_deliveries().len()),
        (0, 0)
    );
    s.t.sync();
    assert_eq!(
        (s.t.broker.totals().ready, s.t.take_deliveries().len()),
        (1, 1)
    );

    s.t.log = Log::Quick;
    s.t.facts();
    let connection =
        s.t.connect_as(peer_with_rights(".*", "^amq.schedule$", ".*"));
    let ch = s.t.channel(connection);
    s.t.publish_with(ch, order("answers"), false);
    let text = "ACCESS_REFUSED - write access to exchange 'amq.default' in vhost '/' refused for user 'guest'";
    s.t.expect_close(ch, 403, text);
    assert!(s.t.facts().is_empty(), "nothing has changed");
}

#[test]
fn the_scheduler_hears_what_becomes_of_its_messages() {
    let mut s = Scheduled::new();
    type Way = fn(&mut Scheduled);
    let ways: [(&str, Way); 5] = [
        ("Acked", |s| {
            s.t.consume(s.ch, "q", "worker");
            s.t.settle(s.ch, 1, false, Outcome::Ack);
            s.t.cancel(s.ch, "worker");
        }),
        ("Acked", |s| {
            s.t.consume_no_ack(s.ch, "q", "worker");
            s.t.cancel(s.ch, "worker");
        }),
        ("Died", |s| {
            s.t.consume(s.ch, "q", "worker");
            s.t.settle(s.ch, 3, false, Outcome::Reject { requeue: false });
            s.t.cancel(s.ch, "worker");
        }),
        ("Removed", |s| {
            let purge = QueuePurge {
                queue: short("q"),
                ..QueuePurge::default()
            };
            s.t.method(s.ch, purge);
        }),
        ("Removed", |s| s.t.delete_queue(s.ch, "q")),
    ];
    for (ending, way) in ways {
        s.order("q", 0, "x");
        s.pass(1);
        assert_eq!(s.heard(), ["routed 1"]);
        way(&mut s);
        let mut expected = vec!["delivered worker".to_owned(), format!("settled {ending}")];
        if ending == "Removed" {
            expected.remove(0);
        }
        assert_eq!(s.heard(), expected);
    }
    s.order("q", 0, "x");
    s.pass(1);
    assert_eq!(s.heard(), ["routed 0"], "there is no queue any more");
}

/// Two records would let a crash between them leave a run open for ever, or fire the next one too early.
#[test]
fn that_a_message_is_gone_is_in_one_record_with_what_is_noted_of_its_run() {
    let mut s = Scheduled::new();
    type Way = fn(&mut Scheduled);
    let get = |no_ack| BasicGet {
        queue: short("q"),
        no_ack,
        ..BasicGet::default()
    };
    let ways: [(&str, Way); 9] = [
        ("acked", |s| s.t.settle(s.ch, 1, false, Outcome::Ack)),
        ("rejected", |s| {
            let outcome = Outcome::Reject { requeue: false };
            s.t.settle(s.ch, 1, false, outcome);
        }),
        ("acked in a transaction", |s| {
            let ch = s.t.client();
            s.t.requeue(s.ch, 1);
            s.t.tx_select(ch);
            let get = BasicGet {
                queue: short("q"),
                ..BasicGet::default()
            };
            s.t.method(ch, get);
            s.t.settle(ch, 1, false, Outcome::Ack);
            s.t.method(ch, TxCommit {});
        }),
        ("consumed", |s| {
            s.t.requeue(s.ch, 1);
            s.t.consume_no_ack(s.ch, "q", "c");
            s.t.cancel(s.ch, "c");
        }),
        ("got", |s| {
            s.t.requeue(s.ch, 1);
            let get = BasicGet {
                queue: short("q"),
                no_ack: true,
                ..BasicGet::default()
            };
            s.t.method(s.ch, get);
        }),
        ("dead-lettered", |s| {
            s.t.requeue(s.ch, 1);
            s.pass(60_000);
        }),
        ("pushed out", |s| {
            s.t.requeue(s.ch, 1);
            s.t.publish_persistent(s.ch, "", "q", "1");
            s.t.publish_persistent(s.ch, "", "q", "2");
        }),
        ("purged", |s| {
            s.t.requeue(s.ch, 1);
            let purge = QueuePurge {
                queue: short("q"),
                ..QueuePurge::default()
            };
            s.t.method(s.ch, purge);
        }),
        ("deleted", |s| {
            s.t.requeue(s.ch, 1);
            s.t.delete_queue(s.ch, "q");
        }),
    ];
    for (name, way) in ways {
        s.ch = s.t.client();
        s.t.delete_queue(s.ch, "q");
        let arguments = [
            ("x-message-ttl", FieldValue::I32(60_000)),
            ("x-max-length", FieldValue::I32(2)),
            ("x-dead-letter-exchange", "".into()),
            ("x-dead-letter-routing-key", "graves".into()),
        ];
        let declare = QueueDeclare {
            durable: true,
            arguments: table(arguments),
            ..queue_declare("q")
        };
        s.t.method(s.ch, declare);
        s.order("q", 0, "x");
        s.pass(1);
        s.t.method(s.ch, get(false));
        s.t.facts();
        way(&mut s);
        let is_end = |fact: &Fact| {
            matches!(
                fact,
                Fact::Settled { .. } | Fact::Purged { .. } | Fact::QueueDeleted { .. }
            )
        };
        let noted = Fact::Noted(note("settled"));
        let facts = s.t.facts();
        let together = |fact: &Fact| match fact {
            Fact::Together(facts) => facts.iter().any(is_end) && facts.contains(&noted),
            _ => false,
        };
        let ends = facts.iter().filter(|fact| together(fact)).count();
        assert_eq!(ends, 1, "{name}: {facts:?}");
        assert!(!facts.contains(&noted), "{name}: {facts:?}");
    }
}

#[test]
fn a_requeue_is_no_ending_and_a_dead_letter_is_not_told_of() {
    let mut s = Scheduled::new();
    let to = FieldValue::LongString("".into());
    let key = FieldValue::LongString("graves".into());
    let arguments = [
        ("x-dead-letter-exchange", to),
        ("x-dead-letter-routing-key", key),
    ];
    s.t.method(s.ch, queue_declare_with("mortal", arguments));
    s.t.durable_queue(s.ch, "graves");
    s.order("mortal", 0, "x");
    s.pass(1);
    let get = |queue| BasicGet {
        queue: short(queue),
        ..BasicGet::default()
    };
    s.t.method(s.ch, get("mortal"));
    s.t.requeue(s.ch, 1);
    assert_eq!(s.heard(), ["routed 1", "delivered basic.get"]);
    s.t.method(s.ch, get("mortal"));
    s.t.discard(s.ch, 2);
    assert_eq!(s.heard(), ["delivered basic.get", "settled Died"]);
    s.t.method(s.ch, get("graves"));
    s.t.ack(s.ch, 3);
    assert_eq!(s.heard(), [""; 0]);
}

#[test]
fn orders_are_refused_with_the_schedulers_words_and_change_nothing() {
    let mut s = Scheduled::new();
    s.t.publish_with(s.ch, message("amq.schedule", "", "x"), false);
    s.t.expect_close(s.ch, 406, "PRECONDITION_FAILED - to whom?");
    assert!(s.t.facts().is_empty());

    let peer = peer_with_rights("^mine$", ".*", ".*");
    let connection = s.t.connect_as(peer);
    s.ch = s.t.channel(connection);
    s.order("yours", 0, "x");
    let text = "ACCESS_REFUSED - configure access to schedule 'yours' in vhost '/' refused for \
                user 'guest'";
    s.t.expect_close(s.ch, 403, text);

    s.ch = s.t.client();
    s.t.tx_select(s.ch);
    s.order("q", 0, "x");
    let text = "PRECONDITION_FAILED - exchange 'amq.schedule' takes no part in transactions; \
                use confirms";
    s.t.expect_close(s.ch, 406, text);

    let mut t = BrokerTest::new();
    let ch = t.client();
    t.publish_with(ch, message("amq.schedule", "", "x"), false);
    assert!(t.take_refusals(ch.connection), "no scheduler, no orders");
}

#[test]
fn answers_go_where_the_order_says() {
    let mut s = Scheduled::new();
    s.t.durable_queue(s.ch, "answers");
    s.t.consume_no_ack(s.ch, "amq.rabbitmq.reply-to", "me");
    s.t.heard(s.ch);
    for to in ["answers", "amq.rabbitmq.reply-to"] {
        let properties = Properties {
            reply_to: Some(to.into()),
            correlation_id: Some("7".into()),
            ..headers([("to", FieldValue::LongString("q".into()))])
        };
        let order = message_with("amq.schedule", "", properties, "x");
        s.t.publish_with(s.ch, order, false);
        if to == "answers" {
            s.t.get(s.ch, "answers");
        }
        let answer = s.t.take_delivery();
        assert_eq!(answer.body(), b"{}");
        assert_eq!(answer.properties().correlation_id, Some("7".into()));
    }
}

#[test]
fn notes_come_back_after_a_restart_and_a_replan_is_passed_on() {
    let recovered = Recovered {
        last: Lsn(2),
        definitions: vec![
            (Lsn(2), Fact::Noted(note("b"))),
            (Lsn(1), Fact::Noted(note("a"))),
        ],
        queues: Vec::new(),
    };
    let mut s = Scheduled::over(BrokerTest::recovered(recovered).expect("sound"));
    assert_eq!(s.heard(), ["recovered a", "recovered b"]);
    s.t.step(Input::Replan);
    assert_eq!(s.heard(), ["replan"]);
}

// ---- in whose name

/// May write to what its pattern says, as long as it is there.
#[derive(Debug)]
struct Guest(std::sync::Mutex<Option<&'static str>>);

impl Users for Guest {
    fn permissions(&self, user: &str) -> Option<Permissions> {
        assert_eq!(user, "guest");
        let write = *self.0.lock().expect("a test");
        Some(Permissions::new("", write?, "").expect("a pattern"))
    }
}

/// Once the rights were judged when the schedule was made, and never again.
#[test]
fn what_a_user_may_not_do_any_more_a_schedule_does_not_do_either() {
    let mut s = Scheduled::new();
    let guest = Arc::new(Guest(std::sync::Mutex::new(Some("^amq\\.default$"))));
    s.t.broker
        .ask_about_users(Arc::clone(&guest) as Arc<dyn Users>);
    for ms in [10, 20, 30, 40] {
        s.order("q", ms, &ms.to_string());
    }
    s.t.facts();
    s.heard();
    s.t.pass_ms(10);
    assert_eq!(s.heard(), ["routed 1"]);
    assert_eq!(s.t.bodies("q"), ["10"]);
    s.heard();
    let refusals = [
        (None, Refusal::NoUser),
        (Some("^elsewhere$"), Refusal::NoRight),
    ];
    for (write, refusal) in refusals {
        *guest.0.lock().expect("a test") = write;
        s.t.facts();
        s.t.events.clear();
        s.t.pass_ms(10);
        assert_eq!(s.heard(), [format!("refused {refusal:?}")]);
        let facts = s.t.facts();
        let [Fact::Together(notes)] = &facts[..] else {
            panic!("{facts:?}");
        };
        assert_eq!(notes.len(), 2, "that it was to run, and what came of it");
        let told = s.t.events.iter().any(
            |event| matches!(event, Event::FireRefused { refusal: why, .. } if *why == refusal),
        );
        assert!(told, "a line in the log");
    }
    assert_eq!(s.t.bodies("q"), ["10"]);
    let metrics = s.t.broker.metrics();
    assert_eq!((metrics.schedules_fired, metrics.schedules_refused), (1, 2));
    *guest.0.lock().expect("a test") = Some(".*");
    s.t.pass_ms(10);
    assert_eq!(s.t.bodies("q"), ["10", "40"], "the right is back");
}

// ---- orders about delayed messages

fn delayed_order(s: &mut Scheduled, fields: &[(&str, FieldValue)]) -> Result<String, AmqpError> {
    let mut properties = headers([]);
    for (name, value) in fields {
        let table = properties.headers.get_or_insert_default();
        table.insert((*name).to_owned(), value.clone());
    }
    let order = message_with("amq.schedule", "", properties, "");
    let answer = s.t.order(&order)?;
    Ok(String::from_utf8(answer).expect("text"))
}

fn text(text: &str) -> FieldValue {
    FieldValue::LongString(text.to_owned().into())
}

#[test]
fn delayed_messages_are_listed_cancelled_and_moved() {
    let mut s = Scheduled::new();
    for (name, ms) in [("b", 2_000), ("a", 1_000), ("c", 3_000)] {
        let properties = Properties {
            message_id: Some(name.into()),
            delivery_mode: Some(2),
            ..headers([("x-deliver-after", FieldValue::I32(ms))])
        };
        s.t.publish_with(s.ch, message_with("", "q", properties, name), false);
    }
    let list = delayed_order(&mut s, &[("x-delayed-action", text("list"))]).expect("a list");
    let at = |name: &str| {
        list.find(&format!("\"message_id\":\"{name}\""))
            .expect(name)
    };
    assert!(at("a") < at("b") && at("b") < at("c"), "{list}");
    assert!(list.contains("\"count\":3"), "{list}");

    let cancel = [
        ("x-delayed-action", text("cancel")),
        ("x-delayed-id", text("b")),
    ];
    delayed_order(&mut s, &cancel).expect("cancelled");
    let again = delayed_order(&mut s, &cancel).expect_err("it is gone");
    assert_eq!(
        again.text,
        "NOT_FOUND - no delayed message 'b' in vhost '/'"
    );
    let settled = |fact: &Fact| matches!(fact, Fact::Settled { .. });
    assert_eq!(s.t.facts().iter().filter(|fact| settled(fact)).count(), 1);

    let retime = [
        ("x-delayed-action", text("retime")),
        ("x-delayed-id", text("c")),
        ("x-deliver-after", FieldValue::I32(500)),
    ];
    delayed_order(&mut s, &retime).expect("moved");
    assert!(matches!(&s.t.facts()[..], [Fact::Together(facts)] if facts.len() == 2));
    s.pass(501);
    assert_eq!(s.t.bodies("q"), ["c"]);
    s.pass(500);
    assert_eq!(s.t.bodies("q"), ["c", "a"]);
    s.pass(10_000);
    assert_eq!(s.t.broker.totals().ready, 2);

    let wrong = delayed_order(&mut s, &[("x-delayed-action", text("eat"))]).expect_err("no");
    assert!(
        wrong.text.contains("one of list, peek, cancel, retime"),
        "{}",
        wrong.text
    );
}

//! Makes the checks of ../checks.txt through lapin; arguments select them by the start of their names.

mod harness;

use std::{env, process::ExitCode, time::Duration};

use futures_lite::{StreamExt, future};
use harness::{Checks, Outcome, Reply, expect, name, names_used, wrong};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, ExchangeKind, Queue,
    message::{BasicGetMessage, Delivery},
    options::*,
    types::{AMQPValue, DecimalValue, FieldArray, FieldTable},
};

const PATIENCE: Duration = Duration::from_secs(10);
const REPLY_TO: &str = "amq.rabbitmq.reply-to";
const NO_ACK: BasicGetOptions = BasicGetOptions { no_ack: true };
const MANDATORY: BasicPublishOptions = BasicPublishOptions { mandatory: true, immediate: false };

/// The connection and the channel that a check begins with.
pub struct Session {
    conn: Connection,
    ch: Channel,
}

fn url(vhost: &str) -> String {
    let url = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://guest:guest@localhost:5672/".into());
    let (server, _) = url.rsplit_once('/').expect("AMQP_URL ends with / and the vhost");
    format!("{server}/{vhost}")
}

async fn connect() -> lapin::Result<Session> {
    let conn = Connection::connect(&url("%2f"), ConnectionProperties::default()).await?;
    let ch = conn.create_channel().await?;
    Ok(Session { conn, ch })
}

fn table<const N: usize>(fields: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in fields {
        table.insert(key.into(), value);
    }
    table
}

fn long_string(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn exclusive() -> QueueDeclareOptions {
    QueueDeclareOptions { exclusive: true, ..Default::default() }
}

fn passive() -> QueueDeclareOptions {
    QueueDeclareOptions { passive: true, ..Default::default() }
}

fn auto_delete() -> QueueDeclareOptions {
    QueueDeclareOptions { auto_delete: true, ..Default::default() }
}

fn transient() -> ExchangeDeclareOptions {
    ExchangeDeclareOptions { auto_delete: true, ..Default::default() }
}

fn with_acks(no_ack: bool) -> BasicConsumeOptions {
    BasicConsumeOptions { no_ack, ..Default::default() }
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|n| n.to_string()).collect()
}

/// What most checks compare: the body, and whether it is redelivered.
fn see(delivery: &Delivery) -> String {
    let body = String::from_utf8_lossy(&delivery.data);
    format!("{body}{}", if delivery.redelivered { " redelivered" } else { "" })
}

async fn next(consumer: &mut Consumer) -> Outcome<Delivery> {
    match tokio::time::timeout(PATIENCE, consumer.next()).await {
        Ok(Some(delivery)) => Ok(delivery?),
        Ok(None) => wrong("expected a delivery got the end of the consumer".into()),
        Err(_) => wrong(format!("expected a delivery within {PATIENCE:?} got none")),
    }
}

async fn take(consumer: &mut Consumer, count: usize) -> Outcome<Vec<Delivery>> {
    let mut taken = Vec::new();
    while taken.len() < count {
        taken.push(next(consumer).await?);
    }
    Ok(taken)
}

async fn seen(consumer: &mut Consumer, count: usize) -> Outcome<Vec<String>> {
    Ok(take(consumer, count).await?.iter().map(see).collect())
}

/// Nothing more has arrived. Call it after a round trip, which would have brought it along.
async fn expect_nothing(consumer: &mut Consumer) -> Outcome {
    match future::poll_once(consumer.next()).await {
        None => Ok(()),
        Some(delivery) => wrong(format!("expected no delivery got {delivery:?}")),
    }
}

impl Session {
    /// A further channel of the same connection, as a session of its own.
    async fn other(&self) -> lapin::Result<Channel> {
        self.conn.create_channel().await
    }

    /// Declares an exclusive queue, server-named when `short` is "".
    async fn queue(&self, short: &str) -> lapin::Result<String> {
        let wanted = if short.is_empty() { String::new() } else { name(short) };
        Ok(self.declare(&wanted, exclusive(), FieldTable::default()).await?.name().to_string())
    }

    async fn declare(&self, queue: &str, options: QueueDeclareOptions, args: FieldTable) -> lapin::Result<Queue> {
        self.ch.queue_declare(queue.into(), options, args).await
    }

    async fn exchange(&self, short: &str, kind: ExchangeKind, args: FieldTable) -> lapin::Result<String> {
        self.ch.exchange_declare(name(short).into(), kind, transient(), args).await?;
        Ok(name(short))
    }

    async fn bind(&self, queue: &str, exchange: &str, key: &str, args: FieldTable) -> lapin::Result<()> {
        self.ch.queue_bind(queue.into(), exchange.into(), key.into(), QueueBindOptions::default(), args).await
    }

    async fn publish(&self, exchange: &str, key: &str, bodies: &[impl AsRef<str>]) -> lapin::Result<()> {
        for body in bodies {
            self.send(exchange, key, body.as_ref().as_bytes(), BasicProperties::default()).await?;
        }
        Ok(())
    }

    /// Publishes and waits for the confirm, if the channel confirms.
    async fn send(&self, exchange: &str, key: &str, body: &[u8], properties: BasicProperties) -> lapin::Result<()> {
        let options = BasicPublishOptions::default();
        self.ch.basic_publish(exchange.into(), key.into(), options, body, properties).await?.await?;
        Ok(())
    }

    async fn confirms(&self) -> lapin::Result<()> {
        self.ch.confirm_select(ConfirmSelectOptions::default()).await
    }

    async fn ready(&self, queue: &str) -> lapin::Result<u32> {
        Ok(self.declare(queue, passive(), FieldTable::default()).await?.message_count())
    }

    async fn get(&self, queue: &str) -> Outcome<BasicGetMessage> {
        match self.ch.basic_get(queue.into(), BasicGetOptions::default()).await? {
            Some(message) => Ok(message),
            None => wrong(format!("expected a message in {queue} got none")),
        }
    }

    async fn consume(&self, queue: &str, no_ack: bool) -> lapin::Result<Consumer> {
        self.ch.basic_consume(queue.into(), "".into(), with_acks(no_ack), FieldTable::default()).await
    }

    async fn expect_gone(&self, queue: &str) -> Outcome {
        let declared = self.declare(queue, passive(), FieldTable::default()).await;
        expect(404, Reply::of(declared, Some(&self.conn))?.code)
    }
}

/// Gets what is ready, without acks.
async fn bodies(ch: &Channel, queue: &str) -> Outcome<Vec<String>> {
    let mut found = Vec::new();
    while let Some(message) = ch.basic_get(queue.into(), NO_ACK).await? {
        found.push(see(&message.delivery));
    }
    Ok(found)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let mut checks = Checks::from_args();
    connection_checks(&mut checks).await;
    exchange_checks(&mut checks).await;
    queue_checks(&mut checks).await;
    publish_checks(&mut checks).await;
    consume_checks(&mut checks).await;
    settle_checks(&mut checks).await;
    tx_checks(&mut checks).await;
    route_checks(&mut checks).await;
    rpc_checks(&mut checks).await;
    later_checks(&mut checks).await;
    reconnect_checks(&mut checks).await;
    clean_up().await.expect("deleting what is not there succeeds");
    ExitCode::from(u8::from(checks.failed > 0))
}

/// Deletes what checks left behind.
async fn clean_up() -> lapin::Result<()> {
    let s = connect().await?;
    for left in names_used() {
        s.ch.queue_delete(left.as_str().into(), QueueDeleteOptions::default()).await?;
        s.ch.exchange_delete(left.as_str().into(), ExchangeDeleteOptions::default()).await?;
    }
    s.conn.close(200, "".into()).await
}

async fn connection_checks(t: &mut Checks) {
    t.ok("connection.open", async |s| expect(true, s.conn.status().connected())).await;
    t.check("connection.auth_refused", async |_| {
        let url = url("%2f").replace("guest:guest@", "guest:wrong@");
        Reply::of(Connection::connect(&url, ConnectionProperties::default()).await, None).map(Some)
    })
    .await;
    t.check("connection.vhost_missing", async |_| {
        Reply::of(Connection::connect(&url("missing"), ConnectionProperties::default()).await, None).map(Some)
    })
    .await;
}

async fn exchange_checks(t: &mut Checks) {
    const KINDS: [ExchangeKind; 4] =
        [ExchangeKind::Direct, ExchangeKind::Fanout, ExchangeKind::Topic, ExchangeKind::Headers];
    let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let looking = ExchangeDeclareOptions { passive: true, ..Default::default() };
    t.ok("exchange.declare", async |s| {
        for kind in KINDS {
            s.exchange("x-any", kind.clone(), FieldTable::default()).await?;
            for _ in 0..2 {
                s.ch.exchange_declare(name("x-any-durable").into(), kind.clone(), durable, FieldTable::default()).await?;
            }
            for left in ["x-any", "x-any-durable"] {
                s.ch.exchange_delete(name(left).into(), ExchangeDeleteOptions::default()).await?;
            }
        }
        Ok(())
    })
    .await;
    t.ok("exchange.passive", async |s| {
        let x = name("x-passive");
        s.ch.exchange_declare(x.as_str().into(), ExchangeKind::Topic, durable, FieldTable::default()).await?;
        s.ch.exchange_declare(x.into(), ExchangeKind::Direct, looking, FieldTable::default()).await?;
        Ok(s.ch.exchange_declare("amq.direct".into(), ExchangeKind::Direct, looking, FieldTable::default()).await?)
    })
    .await;
    t.fails("exchange.passive_missing", async |s| {
        s.ch.exchange_declare(name("missing").into(), ExchangeKind::Direct, looking, FieldTable::default()).await
    })
    .await;
    t.fails("exchange.inequivalent_type", async |s| {
        s.exchange("x-type", ExchangeKind::Direct, FieldTable::default()).await?;
        s.exchange("x-type", ExchangeKind::Fanout, FieldTable::default()).await.map(drop)
    })
    .await;
    t.fails("exchange.inequivalent_durable", async |s| {
        let x = s.exchange("x-durability", ExchangeKind::Direct, FieldTable::default()).await?;
        let durable = ExchangeDeclareOptions { durable: true, ..transient() };
        s.ch.exchange_declare(x.into(), ExchangeKind::Direct, durable, FieldTable::default()).await
    })
    .await;
    t.fails("exchange.unknown_type", async |s| {
        let kind = ExchangeKind::Custom("no-such-type".into());
        s.exchange("x-unknown", kind, FieldTable::default()).await.map(drop)
    })
    .await;
    for (check, x) in [("exchange.reserved_name", "amq.interop"), ("exchange.default_declare", "")] {
        t.fails(check, async |s| {
            s.ch.exchange_declare(x.into(), ExchangeKind::Direct, transient(), FieldTable::default()).await
        })
        .await;
    }
    t.fails("exchange.delete_in_use", async |s| {
        let x = s.exchange("x-used", ExchangeKind::Fanout, FieldTable::default()).await?;
        s.bind(&s.queue("").await?, &x, "", FieldTable::default()).await?;
        s.ch.exchange_delete(x.into(), ExchangeDeleteOptions { if_unused: true, ..Default::default() }).await
    })
    .await;
    t.ok("exchange.delete_missing", async |s| {
        Ok(s.ch.exchange_delete(name("missing").into(), ExchangeDeleteOptions::default()).await?)
    })
    .await;
    t.fails("exchange.internal_publish", async |s| {
        let internal = ExchangeDeclareOptions { internal: true, ..transient() };
        let x = name("x-internal");
        s.ch.exchange_declare(x.as_str().into(), ExchangeKind::Fanout, internal, FieldTable::default()).await?;
        s.confirms().await?;
        s.publish(&x, "", &["m"]).await
    })
    .await;
}

async fn queue_checks(t: &mut Checks) {
    t.ok("queue.server_named", async |s| {
        let q = s.queue("").await?;
        expect((true, false), (q.starts_with("amq.gen-"), q == s.queue("").await?))
    })
    .await;
    t.ok("queue.last_declared", async |s| {
        let x = s.exchange("x-last", ExchangeKind::Direct, FieldTable::default()).await?;
        let q = s.queue("").await?;
        s.bind("", &x, "", FieldTable::default()).await?; // with the queue's name as routing key too
        s.publish(&x, &q, &["m"]).await?;
        expect(vec!["m".into()], seen(&mut s.consume("", true).await?, 1).await?)
    })
    .await;
    t.ok("queue.passive", async |s| {
        let q = s.queue("").await?;
        s.publish("", &q, &["a", "b", "c"]).await?;
        s.get(&q).await?;
        let found = s.other().await?.queue_declare(q.as_str().into(), passive(), FieldTable::default()).await?;
        expect((q.as_str(), 2, 0), (found.name().as_str(), found.message_count(), found.consumer_count()))?;
        let _consumer = s.consume(&q, false).await?;
        expect(1, s.declare(&q, passive(), FieldTable::default()).await?.consumer_count())
    })
    .await;
    t.fails("queue.passive_missing", async |s| s.ready(&name("missing")).await.map(drop)).await;
    t.fails("queue.inequivalent_durable", async |s| {
        let q = name("q-durability");
        s.declare(&q, auto_delete(), FieldTable::default()).await?;
        let durable = QueueDeclareOptions { durable: true, ..auto_delete() };
        s.declare(&q, durable, FieldTable::default()).await.map(drop)
    })
    .await;
    t.fails("queue.inequivalent_argument", async |s| {
        let q = name("q-arguments");
        s.declare(&q, exclusive(), table([("x-max-length", AMQPValue::LongInt(10))])).await?;
        s.declare(&q, exclusive(), table([("x-max-length", AMQPValue::LongInt(20))])).await.map(drop)
    })
    .await;
    t.fails("queue.invalid_argument", async |s| {
        let args = table([("x-message-ttl", AMQPValue::LongInt(-1))]);
        s.declare(&name("q-invalid"), exclusive(), args).await.map(drop)
    })
    .await;
    t.fails("queue.reserved_name", async |s| {
        s.declare("amq.interop", exclusive(), FieldTable::default()).await.map(drop)
    })
    .await;
    t.check("queue.exclusive_locked", async |s| {
        let q = s.queue("q-exclusive").await?;
        let other = connect().await?;
        let reply = Reply::of(other.consume(&q, true).await, Some(&other.conn))?;
        other.conn.close(200, "".into()).await?;
        Ok(Some(reply))
    })
    .await;
    t.ok("queue.exclusive_gone", async |s| {
        let other = connect().await?;
        let q = other.queue("").await?;
        other.conn.close(200, "".into()).await?;
        s.expect_gone(&q).await
    })
    .await;
    t.ok("queue.auto_delete", async |s| {
        let q = name("q-auto");
        s.declare(&q, auto_delete(), FieldTable::default()).await?;
        let (one, two) = (s.consume(&q, true).await?, s.consume(&q, true).await?);
        s.ch.basic_cancel(one.tag(), BasicCancelOptions::default()).await?;
        expect(0, s.ready(&q).await?)?;
        s.ch.basic_cancel(two.tag(), BasicCancelOptions::default()).await?;
        s.expect_gone(&q).await
    })
    .await;
    t.fails("queue.delete_not_empty", async |s| {
        let q = s.queue("q-full").await?;
        s.publish("", &q, &["m"]).await?;
        let if_empty = QueueDeleteOptions { if_empty: true, ..Default::default() };
        s.ch.queue_delete(q.into(), if_empty).await.map(drop)
    })
    .await;
    t.fails("queue.delete_in_use", async |s| {
        let q = s.queue("q-used").await?;
        let _consumer = s.consume(&q, true).await?;
        let if_unused = QueueDeleteOptions { if_unused: true, ..Default::default() };
        s.ch.queue_delete(q.into(), if_unused).await.map(drop)
    })
    .await;
    t.ok("queue.delete_missing", async |s| {
        expect(0, s.ch.queue_delete(name("missing").into(), QueueDeleteOptions::default()).await?)
    })
    .await;
    t.ok("queue.purge", async |s| {
        let q = s.queue("").await?;
        s.publish("", &q, &["a", "b", "c"]).await?;
        let first = s.get(&q).await?;
        expect(2, s.ch.queue_purge(q.as_str().into(), QueuePurgeOptions::default()).await?)?;
        first.nack(BasicNackOptions { requeue: true, multiple: false }).await?;
        expect(vec!["a redelivered".into()], bodies(&s.ch, &q).await?)
    })
    .await;
    t.ok("queue.priority", async |s| {
        let args = table([("x-max-priority", AMQPValue::LongInt(5))]);
        let q = s.declare("", exclusive(), args).await?.name().to_string();
        for (body, priority) in [("a", None), ("b", Some(3)), ("c", Some(9)), ("d", Some(5)), ("e", Some(3))] {
            let properties = BasicProperties::default();
            let properties = priority.map_or(properties.clone(), |priority| properties.with_priority(priority));
            s.send("", &q, body.as_bytes(), properties).await?;
        }
        expect(vec!["c".to_string(), "d".into(), "b".into(), "e".into(), "a".into()], bodies(&s.ch, &q).await?)
    })
    .await;
    t.fails("queue.bind_missing", async |s| {
        s.bind(&s.queue("").await?, &name("missing"), "key", FieldTable::default()).await
    })
    .await;
    t.fails("queue.default_bind", async |s| s.bind(&s.queue("").await?, "", "key", FieldTable::default()).await).await;
}

async fn publish_checks(t: &mut Checks) {
    t.ok("publish.confirm_one", async |s| {
        let q = s.queue("").await?;
        s.confirms().await?;
        let options = BasicPublishOptions::default();
        let publish = s.ch.basic_publish("".into(), q.as_str().into(), options, b"m", BasicProperties::default());
        expect(Confirmation::Ack(None), publish.await?.await?)?;
        expect(1, s.ready(&q).await?)
    })
    .await;
    t.ok("publish.confirm_many", async |s| {
        let q = s.queue("").await?;
        s.confirms().await?;
        let mut confirms = Vec::new();
        for body in numbers(500) {
            let (key, options) = (q.as_str().into(), BasicPublishOptions::default());
            let publish = s.ch.basic_publish("".into(), key, options, body.as_bytes(), BasicProperties::default());
            confirms.push(publish.await?);
        }
        for confirm in confirms {
            expect(Confirmation::Ack(None), confirm.await?)?;
        }
        expect(numbers(500), bodies(&s.ch, &q).await?)
    })
    .await;
    t.ok("publish.mandatory", async |s| {
        let q = s.queue("").await?;
        s.confirms().await?;
        let routed = s.ch.basic_publish("".into(), q.into(), MANDATORY, b"routed", BasicProperties::default());
        expect(Confirmation::Ack(None), routed.await?.await?)?;
        let nowhere = name("nowhere");
        let lost = s.ch.basic_publish("".into(), nowhere.as_str().into(), MANDATORY, b"m", BasicProperties::default());
        // The client hands over the returned message with the ack, so the return was first.
        let Confirmation::Ack(Some(returned)) = lost.await?.await? else {
            return wrong("expected an ack with the returned message got none".into());
        };
        expect(
            (312, "NO_ROUTE", "", nowhere.as_str(), "m".into()),
            (
                returned.reply_code,
                returned.reply_text.as_str(),
                returned.delivery.exchange.as_str(),
                returned.delivery.routing_key.as_str(),
                see(&returned.delivery),
            ),
        )
    })
    .await;
    t.fails("publish.missing_exchange", async |s| {
        s.confirms().await?;
        s.publish(&name("missing"), "key", &["m"]).await
    })
    .await;
    t.fails("publish.immediate", async |s| {
        let options = BasicPublishOptions { mandatory: false, immediate: true };
        s.confirms().await?;
        let publish = s.ch.basic_publish("".into(), "key".into(), options, b"m", BasicProperties::default());
        publish.await?.await.map(drop)
    })
    .await;
    t.fails("publish.user_id", async |s| {
        let q = s.queue("").await?;
        s.confirms().await?;
        s.send("", &q, b"m", BasicProperties::default().with_user_id("guest".into())).await?;
        s.send("", &q, b"m", BasicProperties::default().with_user_id("someone".into())).await
    })
    .await;
    t.fails("publish.expiration", async |s| {
        let q = s.queue("").await?;
        s.confirms().await?;
        s.send("", &q, b"m", BasicProperties::default().with_expiration("soon".into())).await
    })
    .await;
    t.ok("publish.properties", async |s| {
        let q = s.queue("").await?;
        let sent = all_properties();
        s.send("", &q, b"m", sent.clone()).await?;
        s.publish("", &q, &["bare"]).await?;
        expect(&sent, &s.get(&q).await?.properties)?;
        expect(&BasicProperties::default(), &s.get(&q).await?.properties)
    })
    .await;
    t.ok("publish.sizes", async |s| {
        let q = s.queue("").await?;
        let one_frame = s.conn.configuration().frame_max() as usize - 8;
        for size in [0, 1, one_frame - 1, one_frame, one_frame + 1, 1 << 20] {
            let body: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            s.send("", &q, &body, BasicProperties::default()).await?;
            expect(true, body == s.get(&q).await?.data)?;
        }
        Ok(())
    })
    .await;
}

fn all_properties() -> BasicProperties {
    let list = vec![AMQPValue::LongInt(1), long_string("two"), AMQPValue::FieldArray(FieldArray::default())];
    let headers = table([
        ("string", long_string("ü")),
        ("int8", AMQPValue::ShortShortInt(-1)),
        ("uint8", AMQPValue::ShortShortUInt(200)),
        ("int16", AMQPValue::ShortInt(-300)),
        ("int32", AMQPValue::LongInt(-70_000)),
        ("uint32", AMQPValue::LongUInt(4_000_000_000)),
        ("int64", AMQPValue::LongLongInt(1 << 40)),
        ("float", AMQPValue::Float(0.5)),
        ("double", AMQPValue::Double(0.25)),
        ("true", AMQPValue::Boolean(true)),
        ("void", AMQPValue::Void),
        ("decimal", AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 314 })),
        ("bytes", AMQPValue::ByteArray(vec![0, 255].into())),
        ("time", AMQPValue::Timestamp(1_600_000_000)),
        ("table", AMQPValue::FieldTable(table([("deep", AMQPValue::LongInt(1))]))),
        ("list", AMQPValue::FieldArray(list.into())),
    ]);
    BasicProperties::default()
        .with_content_type("text/plain".into())
        .with_content_encoding("utf-8".into())
        .with_headers(headers)
        .with_delivery_mode(2)
        .with_priority(9)
        .with_correlation_id("c".into())
        .with_reply_to("r".into())
        .with_expiration("60000".into())
        .with_message_id("id".into())
        .with_timestamp(1_700_000_000)
        .with_type("t".into())
        .with_user_id("guest".into())
        .with_app_id("app".into())
        .with_cluster_id("cluster".into())
}

async fn consume_checks(t: &mut Checks) {
    t.ok("consume.ack", async |s| {
        let q = s.queue("").await?;
        s.publish("", &q, &["a", "b", "c"]).await?;
        let mut consumer = s.consume(&q, false).await?;
        for body in ["a", "b", "c"] {
            let delivery = next(&mut consumer).await?;
            expect(
                (body, "", q.as_str()),
                (&*see(&delivery), delivery.exchange.as_str(), delivery.routing_key.as_str()),
            )?;
            delivery.ack(BasicAckOptions::default()).await?;
        }
        expect(0, s.ch.queue_delete(q.into(), QueueDeleteOptions::default()).await?)
    })
    .await;
    t.ok("consume.prefetch", async |s| {
        let q = s.queue("").await?;
        s.publish("", &q, &numbers(20)).await?;
        s.ch.basic_qos(5, BasicQosOptions::default()).await?;
        let mut consumer = s.consume(&q, false).await?;
        let mut held = take(&mut consumer, 5).await?;
        expect(15, s.ready(&q).await?)?;
        expect_nothing(&mut consumer).await?;
        for n in 0..20 {
            expect(n.to_string(), see(&held[n]))?;
            held[n].ack(BasicAckOptions::default()).await?;
            if n + 5 < 20 {
                held.push(next(&mut consumer).await?);
            }
            expect(14_u32.saturating_sub(n as u32), s.ready(&q).await?)?;
            expect_nothing(&mut consumer).await?;
        }
        Ok(())
    })
    .await;
    t.ok("consume.prefetch_channel", async |s| {
        let q = s.queue("").await?;
        s.publish("", &q, &numbers(20)).await?;
        s.ch.basic_qos(5, BasicQosOptions { global: true }).await?;
        let (one, two) = (s.consume(&q, false).await?, s.consume(&q, false).await?);
        let mut both = Box::pin(one.or(two));
        for left in [15, 10] {
            let mut last = 0;
            for _ in 0..5 {
                let Ok(Some(delivery)) = tokio::time::timeout(PATIENCE, both.next()).await else {
                    return wrong("expected 5 deliveries got fewer".into());
                };
                last = last.max(delivery?.delivery_tag);
            }
            expect(left, s.ready(&q).await?)?;
            expect(true, future::poll_once(both.next()).await.is_none())?;
            s.ch.basic_ack(last, BasicAckOptions { multiple: true }).await?;
        }
        s.ch.basic_qos(8, BasicQosOptions { global: true }).await?;
        for _ in 0..8 {
            let Ok(Some(Ok(_))) = tokio::time::timeout(PATIENCE, both.next()).await else {
                return wrong("expected 8 deliveries got fewer".into());
            };
        }
        expect(2, s.ready(&q).await?)?;
        expect(true, future::poll_once(both.next()).await.is_none())
    })
    .await;
    t.ok("consume.channel_close_requeues", async |s| {
        let (q, other) = (s.queue("").await?, s.other().await?);
        s.publish("", &q, &["a", "b"]).await?;
        let consume = other.basic_consume(q.as_str().into(), "".into(), with_acks(false), FieldTable::default());
        take(&mut consume.await?, 2).await?;
        other.close(200, "".into()).await?;
        expect(vec!["a redelivered".into(), "b redelivered".into()], bodies(&s.ch, &q).await?)
    })
    .await;
    t.ok("consume.recover", async |s| {
        let q = s.queue("").await?;
        s.publish("", &q, &["a", "b"]).await?;
        let mut consumer = s.consume(&q, false).await?;
        expect(vec!["a".to_string(), "b".into()], seen(&mut consumer, 2).await?)?;
        s.ch.basic_recover(BasicRecoverOptions { requeue: true }).await?;
        expect(vec!["a redelivered".to_string(), "b redelivered".into()], seen(&mut consumer, 2).await?)
    })
    .await;
    t.fails("consume.duplicate_tag", async |s| {
        let q = s.queue("").await?;
        for _ in 0..2 {
            let consume =
                s.ch.basic_consume(q.as_str().into(), "twice".into(), with_acks(true), FieldTable::default());
            consume.await.map(std::mem::forget)?; // dropping a consumer cancels it
        }
        Ok(())
    })
    .await;
    t.check("consume.exclusive", async |s| {
        let (q, other) = (s.queue("q-exclusive-consumer").await?, s.other().await?);
        let options = BasicConsumeOptions { exclusive: true, ..Default::default() };
        let _consumer = s.ch.basic_consume(q.as_str().into(), "".into(), options, FieldTable::default()).await?;
        let second = other.basic_consume(q.into(), "".into(), with_acks(true), FieldTable::default()).await;
        Reply::of(second, Some(&s.conn)).map(Some)
    })
    .await;
    t.fails("consume.missing_queue", async |s| s.consume(&name("missing"), true).await.map(drop)).await;
    t.ok("consume.cancel", async |s| {
        let q = s.queue("").await?;
        s.publish("", &q, &["a", "b", "c"]).await?;
        s.ch.basic_qos(1, BasicQosOptions::default()).await?;
        let mut consumer = s.consume(&q, false).await?;
        let first = next(&mut consumer).await?;
        s.ch.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?;
        first.ack(BasicAckOptions::default()).await?;
        expect(2, s.ready(&q).await?)?;
        expect(true, consumer.next().await.is_none())
    })
    .await;
    t.ok("consume.cancel_notify", async |s| {
        let (q, other) = (s.queue("").await?, s.other().await?);
        let mut consumer = s.consume(&q, false).await?;
        other.queue_delete(q.into(), QueueDeleteOptions::default()).await?;
        match tokio::time::timeout(PATIENCE, consumer.next()).await {
            Ok(None) => Ok(()), // how the client tells of basic.cancel
            other => wrong(format!("expected the end of the consumer got {other:?}")),
        }
    })
    .await;
    t.ok("consume.priority", async |s| {
        let q = s.queue("").await?;
        let mut low = s.consume(&q, true).await?;
        let args = table([("x-priority", AMQPValue::LongInt(10))]);
        let mut high = s.ch.basic_consume(q.as_str().into(), "".into(), with_acks(true), args).await?;
        s.publish("", &q, &["a", "b", "c"]).await?;
        expect(vec!["a".to_string(), "b".into(), "c".into()], seen(&mut high, 3).await?)?;
        expect_nothing(&mut low).await
    })
    .await;
    t.skip("qos.prefetch_size", "lapin has no prefetch_size").await;
    t.ok("get.message", async |s| {
        let q = s.queue("").await?;
        s.publish("", &q, &["a", "b", "c"]).await?;
        let got = s.get(&q).await?;
        expect(
            ("a".into(), 2, "", q.as_str()),
            (see(&got.delivery), got.message_count, got.exchange.as_str(), got.routing_key.as_str()),
        )
    })
    .await;
    t.ok("get.empty", async |s| {
        let q = s.queue("").await?;
        expect(true, s.ch.basic_get(q.into(), BasicGetOptions::default()).await?.is_none())
    })
    .await;
}

async fn settle_checks(t: &mut Checks) {
    for check in ["consume.nack_requeue", "consume.reject_requeue"] {
        t.ok(check, async |s| {
            let q = s.queue("").await?;
            s.publish("", &q, &["a", "b", "c"]).await?;
            let (first, second) = (s.get(&q).await?, s.get(&q).await?);
            for message in [second, first] {
                if check == "consume.nack_requeue" {
                    message.nack(BasicNackOptions { requeue: true, multiple: false }).await?;
                } else {
                    message.reject(BasicRejectOptions { requeue: true }).await?;
                }
            }
            expect(vec!["a redelivered".into(), "b redelivered".into(), "c".into()], bodies(&s.ch, &q).await?)
        })
        .await;
    }
    t.ok("consume.reject_drop", async |s| {
        let q = s.queue("").await?;
        s.publish("", &q, &["a", "b"]).await?;
        s.get(&q).await?.reject(BasicRejectOptions { requeue: false }).await?;
        expect(vec!["b".into()], bodies(&s.ch, &q).await?)
    })
    .await;
    t.ok("consume.nack_multiple", async |s| {
        let q = s.queue("").await?;
        s.publish("", &q, &["a", "b", "c", "d"]).await?;
        let (_first, second, _third) = (s.get(&q).await?, s.get(&q).await?, s.get(&q).await?);
        second.nack(BasicNackOptions { requeue: true, multiple: true }).await?;
        expect(vec!["a redelivered".into(), "b redelivered".into(), "d".into()], bodies(&s.ch, &q).await?)
    })
    .await;
    t.fails("consume.unknown_tag", async |s| {
        let mut consumer = s.consume(&s.queue("").await?, false).await?;
        s.ch.basic_ack(99, BasicAckOptions::default()).await?;
        // An ack has no answer, but the consumers of a channel are told why it closed.
        consumer.next().await.map_or(Ok(()), |last| last.map(drop))
    })
    .await;
}

async fn tx_checks(t: &mut Checks) {
    t.ok("tx.commit", async |s| {
        let (q, other) = (s.queue("").await?, s.other().await?);
        s.ch.tx_select().await?;
        s.publish("", &q, &["a", "b"]).await?;
        expect(0, s.ready(&q).await?)?;
        s.ch.tx_commit().await?;
        expect(vec!["a".into(), "b".into()], bodies(&other, &q).await?)
    })
    .await;
    t.ok("tx.rollback", async |s| {
        let q = s.queue("").await?;
        let other = Session { ch: s.other().await?, conn: connect().await?.conn };
        other.confirms().await?;
        other.publish("", &q, &["kept"]).await?;
        s.ch.tx_select().await?;
        s.publish("", &q, &["dropped"]).await?;
        s.get(&q).await?.ack(BasicAckOptions::default()).await?;
        s.ch.tx_rollback().await?;
        expect(0, other.ready(&q).await?)?;
        s.ch.close(200, "".into()).await?;
        expect(vec!["kept redelivered".into()], bodies(&other.ch, &q).await?)
    })
    .await;
    t.fails("tx.not_selected", async |s| s.ch.tx_commit().await).await;
    t.fails("tx.on_confirm_channel", async |s| {
        s.confirms().await?;
        s.ch.tx_select().await
    })
    .await;
}

async fn route_checks(t: &mut Checks) {
    let none = FieldTable::default;
    t.ok("route.default", async |s| {
        let q = s.queue("q-routed").await?;
        s.publish("", &q, &["m"]).await?;
        expect(vec!["m".into()], bodies(&s.ch, &q).await?)
    })
    .await;
    t.ok("route.direct", async |s| {
        let x = s.exchange("x-direct", ExchangeKind::Direct, none()).await?;
        let (one, two) = (s.queue("").await?, s.queue("").await?);
        for (q, key) in [(&one, "red"), (&one, "green"), (&two, "green")] {
            s.bind(q, &x, key, none()).await?;
        }
        for key in ["red", "green", "blue"] {
            s.publish(&x, key, &[key]).await?;
        }
        expect(vec!["red".to_string(), "green".into()], bodies(&s.ch, &one).await?)?;
        expect(vec!["green".to_string()], bodies(&s.ch, &two).await?)?;
        s.ch.queue_unbind(one.as_str().into(), x.as_str().into(), "red".into(), none()).await?;
        s.publish(&x, "red", &["red"]).await?;
        expect(Vec::<String>::new(), bodies(&s.ch, &one).await?)
    })
    .await;
    t.ok("route.fanout", async |s| {
        let x = s.exchange("x-fanout", ExchangeKind::Fanout, none()).await?;
        let (one, two) = (s.queue("").await?, s.queue("").await?);
        s.bind(&one, &x, "ignored", none()).await?;
        s.bind(&two, &x, "", none()).await?;
        s.publish(&x, "any", &["m"]).await?;
        expect(vec!["m".to_string()], bodies(&s.ch, &one).await?)?;
        expect(vec!["m".into()], bodies(&s.ch, &two).await?)
    })
    .await;
    t.ok("route.topic", async |s| {
        const KEYS: [&str; 5] = ["a.b.c", "x.b.c", "a", "a.b.c.d", ""];
        // The empty key has no words: "#" matches it and "*" does not.
        let expected: [(&str, &[&str]); 7] = [
            ("a.b.c", &["a.b.c"]),
            ("*.b.*", &["a.b.c", "x.b.c"]),
            ("a.#", &["a.b.c", "a", "a.b.c.d"]),
            ("#.c", &["a.b.c", "x.b.c"]),
            ("#", &KEYS),
            ("*", &["a"]),
            ("a.*.#.d", &["a.b.c.d"]),
        ];
        let x = s.exchange("x-topic", ExchangeKind::Topic, none()).await?;
        let mut queues = Vec::new();
        for (pattern, keys) in expected {
            let q = s.queue("").await?;
            s.bind(&q, &x, pattern, none()).await?;
            queues.push((q, pattern, keys));
        }
        for key in KEYS {
            s.publish(&x, key, &[key]).await?;
        }
        for (q, pattern, keys) in queues {
            let got = bodies(&s.ch, &q).await?;
            expect((pattern, keys.to_vec()), (pattern, got.iter().map(String::as_str).collect()))?;
        }
        Ok(())
    })
    .await;
    t.ok("route.headers", async |s| {
        let x = s.exchange("x-headers", ExchangeKind::Headers, none()).await?;
        let (every, some) = (s.queue("").await?, s.queue("").await?);
        let pdf = |pages| table([("format", long_string("pdf")), ("pages", AMQPValue::LongInt(pages))]);
        for (q, x_match) in [(&every, "all"), (&some, "any")] {
            let mut args = pdf(1);
            args.insert("x-match".into(), long_string(x_match));
            s.bind(q, &x, "", args).await?;
        }
        for (body, headers) in [("both", pdf(1)), ("one", pdf(2)), ("none", none())] {
            s.send(&x, "", body.as_bytes(), BasicProperties::default().with_headers(headers)).await?;
        }
        expect(vec!["both".to_string()], bodies(&s.ch, &every).await?)?;
        expect(vec!["both".to_string(), "one".into()], bodies(&s.ch, &some).await?)
    })
    .await;
    t.ok("route.e2e", async |s| {
        let source = s.exchange("x-source", ExchangeKind::Topic, none()).await?;
        let target = s.exchange("x-target", ExchangeKind::Fanout, none()).await?;
        let q = s.queue("").await?;
        s.bind(&q, &target, "", none()).await?;
        let (to, from) = (target.as_str(), source.as_str());
        s.ch.exchange_bind(to.into(), from.into(), "a.*".into(), ExchangeBindOptions::default(), none()).await?;
        s.publish(&source, "a.b", &["through"]).await?;
        s.publish(&source, "b.b", &["past"]).await?;
        expect(vec!["through".to_string()], bodies(&s.ch, &q).await?)?;
        let options = ExchangeUnbindOptions::default();
        Ok(s.ch.exchange_unbind(to.into(), from.into(), "a.*".into(), options, none()).await?)
    })
    .await;
    t.ok("route.alternate", async |s| {
        let alternate = s.exchange("x-alternate", ExchangeKind::Fanout, none()).await?;
        let args = table([("alternate-exchange", long_string(&alternate))]);
        let x = s.exchange("x-with-alternate", ExchangeKind::Direct, args).await?;
        let (q, bound) = (s.queue("").await?, s.queue("").await?);
        s.bind(&q, &alternate, "", none()).await?;
        s.bind(&bound, &x, "bound", none()).await?;
        s.publish(&x, "bound", &["bound"]).await?;
        s.publish(&x, "other", &["other"]).await?;
        expect(vec!["bound".to_string()], bodies(&s.ch, &bound).await?)?;
        expect(vec!["other".into()], bodies(&s.ch, &q).await?)
    })
    .await;
    t.ok("route.cc_bcc", async |s| {
        let (one, two, three) = (s.queue("").await?, s.queue("").await?, s.queue("").await?);
        let keys = |keys: &[&str]| AMQPValue::FieldArray(keys.iter().map(|k| long_string(k)).collect::<Vec<_>>().into());
        let headers = table([("CC", keys(&[&two])), ("BCC", keys(&[&three, &one]))]);
        s.send("", &one, b"m", BasicProperties::default().with_headers(headers)).await?;
        for q in [&one, &two, &three] {
            let delivered = Some(table([("CC", keys(&[&two]))]));
            expect(delivered.as_ref(), s.get(q).await?.properties.headers().as_ref())?;
        }
        expect(0, s.ready(&one).await?)
    })
    .await;
}

async fn rpc_checks(t: &mut Checks) {
    t.ok("rpc.direct_reply_to", async |s| {
        let (q, server) = (s.queue("").await?, s.other().await?);
        let consume = server.basic_consume(q.as_str().into(), "".into(), with_acks(true), FieldTable::default());
        let mut requests = consume.await?;
        let mut answers = s.consume(REPLY_TO, true).await?;
        let ask = BasicProperties::default().with_reply_to(REPLY_TO.into()).with_correlation_id("1".into());
        s.send("", &q, b"ping", ask).await?;
        let request = next(&mut requests).await?;
        let (Some(reply_to), Some(id)) = (request.properties.reply_to(), request.properties.correlation_id()) else {
            return wrong("expected reply_to and correlation_id got none".into());
        };
        let properties = BasicProperties::default().with_correlation_id(id.clone());
        let (body, options) = (request.data.to_ascii_uppercase(), BasicPublishOptions::default());
        server.basic_publish("".into(), reply_to.clone(), options, &body, properties).await?.await?;
        let answer = next(&mut answers).await?;
        expect(("PING".into(), &Some("1".into())), (see(&answer), answer.properties.correlation_id()))
    })
    .await;
    t.fails("rpc.no_consumer", async |s| {
        let q = s.queue("").await?;
        s.confirms().await?;
        s.send("", &q, b"m", BasicProperties::default().with_reply_to(REPLY_TO.into())).await
    })
    .await;
    t.fails("rpc.needs_no_ack", async |s| s.consume(REPLY_TO, false).await.map(drop)).await;
}

/// Delayed messages and schedules need nothing of a client but headers.
async fn later_checks(t: &mut Checks) {
    for later in ["deliver_after", "deliver_at", "delayed_exchange", "retry", "schedule", "list", "bad_cron"] {
        t.skip(&format!("later.{later}"), "made through pika, Go and Node").await;
    }
}

async fn reconnect_checks(t: &mut Checks) {
    t.ok("reconnect.channel", async |s| {
        let (q, broken) = (s.queue("").await?, s.other().await?);
        let missing = broken.queue_declare(name("missing").into(), passive(), FieldTable::default()).await;
        expect(404, Reply::of(missing, Some(&s.conn))?.code)?;
        s.confirms().await?;
        s.publish("", &q, &["the other channel lives"]).await?;
        expect(vec!["the other channel lives".into()], bodies(&s.other().await?, &q).await?)
    })
    .await;
    t.ok("reconnect.connection", async |s| {
        let options = BasicPublishOptions { mandatory: false, immediate: true };
        s.confirms().await?;
        let publish = s.ch.basic_publish("".into(), "key".into(), options, b"m", BasicProperties::default());
        expect("connection", Reply::of(publish.await?.await, Some(&s.conn))?.level)?;
        let again = connect().await?;
        let q = again.queue("").await?;
        again.publish("", &q, &["m"]).await?;
        expect(vec!["m".to_string()], bodies(&again.ch, &q).await?)?;
        Ok(again.conn.close(200, "".into()).await?)
    })
    .await;
}

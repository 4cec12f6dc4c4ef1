//! Whatever clients do, in whatever order: nothing panics, all invariants hold, and nothing is left
//! when everybody has gone.

mod common;

use common::{
    BrokerTest, Chan, Log, basic_consume, command, exchange_declare, headers, keys, message_with,
    persistent, queue_declare, queue_declare_with, short, table,
};
use leveret_codec::{
    BasicCancel, BasicConsume, BasicGet, BasicQos, BasicRecover, ChannelClose, ChannelCloseOk,
    ChannelOpen, ConfirmSelect, ConnectionClose, ExchangeBind, ExchangeDeclare, ExchangeDelete,
    ExchangeUnbind, Properties, QueueBind, QueueDeclare, QueueDelete, QueuePurge, QueueUnbind,
    TxCommit, TxRollback, TxSelect,
};
use leveret_core::{Command, Input, Limits, Outcome};
use proptest::prelude::*;

const QUEUES: [&str; 4] = ["q0", "q1", "q2", ""];
const EXCHANGES: [&str; 6] = ["x0", "x1", "amq.topic", "amq.headers", "amq.fanout", ""];
const KINDS: [&str; 4] = ["direct", "fanout", "topic", "headers"];
const KEYS: [&str; 5] = ["q0", "q1", "a.b", "#", "amq.rabbitmq.reply-to"];
const TAGS: [&str; 4] = ["a", "b", "c", ""];

/// One move: what, and three numbers for the choices it needs.
type Move = (u8, u8, u8, u8);

fn pick<'a>(from: &[&'a str], at: u8) -> &'a str {
    from[usize::from(at) % from.len()]
}

fn flag(number: u8, bit: u8) -> bool {
    number >> bit & 1 == 1
}

/// What a client says in this move, if it is one of a client.
fn said(ch: Chan, (what, a, b, c): Move) -> Option<Command> {
    let queue = || short(pick(&QUEUES, a));
    let source = || short(pick(&EXCHANGES, b));
    let routing_key = || short(pick(&KEYS, c));
    let arguments = || match a % 3 {
        0 => table([("x-match", "any".into()), ("n", c.into())]),
        _ => table([]),
    };
    let outcome = match b % 4 {
        0 => Outcome::Nack { requeue: true },
        1 => Outcome::Reject { requeue: false },
        _ => Outcome::Ack,
    };
    Some(match what {
        0..=24 => {
            let mut properties = match b % 5 {
                0 => headers([("CC", keys([pick(&KEYS, a)])), ("n", c.into())]),
                1 => headers([("BCC", keys([pick(&KEYS, a), "q2"]))]),
                2 => persistent(),
                _ => Properties::default(),
            };
            if b % 11 == 0 {
                properties.reply_to = Some("amq.rabbitmq.reply-to".into());
            }
            let exchange = if a < 128 { "" } else { pick(&EXCHANGES, b) };
            let body = "x".repeat(usize::from(c) * 4);
            Command::Publish {
                channel: ch.number,
                mandatory: flag(c, 0),
                message: message_with(exchange, pick(&KEYS, c), properties, &body),
            }
        }
        25..=44 => Command::Settle {
            channel: ch.number,
            delivery_tag: u64::from(a % 24),
            multiple: flag(c, 0),
            outcome,
        },
        45..=52 => {
            let declare = QueueDeclare {
                durable: flag(b, 0),
                auto_delete: flag(b, 1),
                exclusive: flag(b, 2),
                passive: b % 7 == 0,
                ..queue_declare(pick(&QUEUES, a))
            };
            let expiring = queue_declare_with("expiring", [("x-expires", i32::from(c).into())]);
            command(ch, if a == 0 { expiring } else { declare })
        }
        53..=54 => command(
            ch,
            QueueDelete {
                queue: queue(),
                if_unused: flag(b, 0),
                if_empty: flag(b, 1),
                ..Default::default()
            },
        ),
        55 => command(
            ch,
            QueuePurge {
                queue: queue(),
                ..Default::default()
            },
        ),
        56..=58 => command(
            ch,
            QueueBind {
                queue: queue(),
                exchange: source(),
                routing_key: routing_key(),
                arguments: arguments(),
                ..Default::default()
            },
        ),
        59..=60 => command(
            ch,
            QueueUnbind {
                queue: queue(),
                exchange: source(),
                routing_key: routing_key(),
                arguments: arguments(),
                ..Default::default()
            },
        ),
        61..=63 => command(
            ch,
            ExchangeDeclare {
                durable: flag(c, 0),
                auto_delete: flag(c, 1),
                internal: flag(c, 2) && flag(c, 3),
                arguments: match c % 3 {
                    0 => table([("alternate-exchange", pick(&EXCHANGES, a).into())]),
                    _ => table([]),
                },
                ..exchange_declare(pick(&EXCHANGES, b), pick(&KINDS, a))
            },
        ),
        64 => command(
            ch,
            ExchangeDelete {
                exchange: source(),
                if_unused: flag(a, 0),
                ..Default::default()
            },
        ),
        65..=66 => command(
            ch,
            ExchangeBind {
                destination: short(pick(&EXCHANGES, a)),
                source: source(),
                routing_key: routing_key(),
                arguments: arguments(),
                ..Default::default()
            },
        ),
        67 => command(
            ch,
            ExchangeUnbind {
                destination: short(pick(&EXCHANGES, a)),
                source: source(),
                routing_key: routing_key(),
                arguments: arguments(),
                ..Default::default()
            },
        ),
        68..=77 => {
            let from = if c == 0 {
                "amq.rabbitmq.reply-to"
            } else {
                pick(&QUEUES, a)
            };
            command(
                ch,
                BasicConsume {
                    no_ack: flag(b, 0) || c == 0,
                    exclusive: b % 16 == 5,
                    no_wait: true,
                    arguments: table([("x-priority", (c % 3).into())]),
                    ..basic_consume(from, pick(&TAGS, c))
                },
            )
        }
        78..=80 => command(
            ch,
            BasicCancel {
                consumer_tag: short(pick(&TAGS, a)),
                no_wait: false,
            },
        ),
        81..=83 => command(
            ch,
            BasicGet {
                queue: queue(),
                no_ack: flag(b, 0),
                ..Default::default()
            },
        ),
        84..=87 => command(
            ch,
            BasicQos {
                prefetch_count: u16::from(a % 4),
                global: flag(b, 0),
                ..Default::default()
            },
        ),
        88 => command(ch, BasicRecover { requeue: true }),
        89 => command(ch, ConfirmSelect { no_wait: false }),
        90..=91 => command(ch, TxSelect {}),
        92..=93 => command(ch, TxCommit {}),
        94 => command(ch, TxRollback {}),
        95..=96 => command(ch, ChannelClose::default()),
        97 => command(ch, ChannelOpen::default()),
        _ => return None,
    })
}

fn play(moves: &[Move]) {
    let mut t = BrokerTest::with_limits(Limits {
        outbox_bytes_max: 2_000,
        queues_max: 20,
        ..Limits::default()
    });
    t.log = Log::Held;
    let mut channels = Vec::new();
    for _ in 0..3 {
        let connection = t.connect();
        t.slow_reader(connection);
        channels.push([t.channel(connection), t.channel(connection)]);
    }
    for &step in moves {
        let (what, a, b, _) = step;
        let ours = usize::from(a.rotate_left(3)) % channels.len();
        let ch = channels[ours][usize::from(b >> 7)];
        match (said(ch, step), what) {
            (Some(command), _) => t.command(ch.connection, command),
            (None, 98..=102) => t.drain(ch.connection),
            (None, 103..=105) => t.sync(),
            (None, 106) => t.pass_ms(u64::from(a)),
            (None, 107) => t.step(Input::Alarm(flag(a, 0).then_some("low on memory"))),
            (None, _) => {
                let zero = Chan { number: 0, ..ch };
                match a % 3 {
                    0 => t.method(zero, ConnectionClose::default()),
                    1 => t.step(Input::Evict(ch.connection, "shutdown".to_owned())),
                    _ => {}
                }
                t.disconnect(ch.connection);
                let connection = t.connect();
                t.slow_reader(connection);
                channels[ours] = [t.channel(connection), t.channel(connection)];
            }
        }
        // What one does may end what another had waiting for the log.
        for ours in 0..channels.len() {
            reopen(&mut t, &mut channels, ours);
        }
    }
    for [one, _] in channels {
        t.disconnect(one.connection);
    }
    t.sync();
    let totals = t.broker.totals();
    assert_eq!(
        (totals.connections, totals.channels, totals.consumers),
        (0, 0, 0)
    );
    assert_eq!(totals.unacked, 0);
}

/// Does what a client does after a refusal, so that the game goes on.
fn reopen(t: &mut BrokerTest, channels: &mut [[Chan; 2]], ours: usize) {
    let connection = channels[ours][0].connection;
    if t.was_refused(connection) {
        // More than one, if commands had waited for the log.
        if t.take_refusals(connection) {
            t.disconnect(connection);
            let connection = t.connect();
            t.slow_reader(connection);
            channels[ours] = [t.channel(connection), t.channel(connection)];
            return;
        }
    }
    for ch in channels[ours] {
        let mut heard = t.heard(ch);
        // Closing and opening may have waited for the log together.
        if let Some(opened) = heard.iter().rposition(|line| line == "channel.open-ok") {
            heard.drain(..=opened);
        }
        if heard.iter().any(|line| line.starts_with("close ")) {
            t.command(connection, command(ch, ChannelCloseOk {}));
            t.open(ch);
        } else if heard.iter().any(|line| line == "channel.close-ok") {
            t.open(ch);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn clients_may_do_whatever_they_like(
        moves in prop::collection::vec((0u8..110, any::<u8>(), any::<u8>(), any::<u8>()), 1..300),
    ) {
        play(&moves);
    }
}

//! Scenarios with transient queues and messages, or without any.

use super::{Against, Kind, Scenario, at_least, at_most};
use crate::{
    latency::{Latency, Noise},
    layout::Shape,
    measure::Metric,
    receiver::Acks,
    throughput::Load,
};

const PREFETCH: Acks = Acks::Manual { prefetch: 1_000 };

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "auto-16",
        about: "1 producer to 1 consumer, 16 B, automatic acks",
        kind: load(Shape::Queue, 16, Acks::Auto),
        targets: &[
            at_least(Metric::Rate, 0.3, Against::Relay),
            at_least(Metric::Rate, 15.0, Against::RabbitMq),
            at_least(Metric::Rate, 2e6, Against::Itself),
            at_most(Metric::CpuMicros, 0.5, Against::Itself),
        ],
    },
    Scenario {
        name: "acks-100",
        about: "1 producer to 1 consumer, 100 B, manual acks, prefetch 1,000",
        kind: load(Shape::Queue, 100, PREFETCH),
        targets: &[
            at_least(Metric::Rate, 0.25, Against::Relay),
            at_least(Metric::Rate, 12.0, Against::RabbitMq),
        ],
    },
    Scenario {
        name: "confirms-100",
        about: "the same with publisher confirms, window 1,000",
        kind: Kind::Throughput(Load {
            confirm_window: Some(1_000),
            ..Load::new(Shape::Queue, 100, PREFETCH)
        }),
        targets: &[at_least(Metric::Rate, 0.85, Against::Scenario("acks-100"))],
    },
    Scenario {
        name: "body-1k",
        about: "1 producer to 1 consumer, 1 KiB, automatic acks",
        kind: load(Shape::Queue, 1_024, Acks::Auto),
        targets: &[at_least(Metric::ByteRate, 0.6, Against::Relay)],
    },
    Scenario {
        name: "body-64k",
        about: "1 producer to 1 consumer, 64 KiB, automatic acks",
        kind: load(Shape::Queue, 65_536, Acks::Auto),
        targets: &[at_least(Metric::ByteRate, 0.8, Against::Relay)],
    },
    Scenario {
        name: "fanout-5",
        about: "fanout to 5 queues with a connection each, 16 B; counted in deliveries",
        kind: load(Shape::Fanout(5), 16, Acks::Auto),
        targets: &[at_least(Metric::Rate, 0.3, Against::Relay)],
    },
    Scenario {
        name: "fanout-100",
        about: "fanout to 100 queues with a connection each, 16 B; counted in deliveries",
        kind: load(Shape::Fanout(100), 16, Acks::Auto),
        targets: &[at_least(Metric::Rate, 0.3, Against::Relay)],
    },
    Scenario {
        name: "direct",
        about: "direct exchange, 16 keys: what topic is compared with",
        kind: load(Shape::Direct { keys: 16 }, 16, Acks::Auto),
        targets: &[],
    },
    Scenario {
        name: "topic-1k",
        about: "topic exchange, 1,000 bindings, 16 keys",
        kind: topic(1_000, 16, false),
        targets: &[at_most(Metric::CpuMicros, 1.3, Against::Scenario("direct"))],
    },
    Scenario {
        name: "topic-10k",
        about: "topic exchange, 10,000 bindings, 16 keys",
        kind: topic(10_000, 16, false),
        targets: &[at_most(Metric::CpuMicros, 1.3, Against::Scenario("direct"))],
    },
    Scenario {
        name: "topic-churn",
        about: "topic exchange, 1,000 bindings, 100,000 keys, a bind every 10 ms",
        kind: topic(1_000, 100_000, true),
        targets: &[at_most(Metric::CpuMicros, 2.5, Against::Scenario("direct"))],
    },
    Scenario {
        name: "headers-1k",
        about: "headers exchange, 1,000 bindings, 16 kinds of messages",
        kind: load(
            Shape::Headers {
                bindings: 1_000,
                keys: 16,
            },
            16,
            Acks::Auto,
        ),
        targets: &[],
    },
    Scenario {
        name: "queues-100",
        about: "100 queues on 100 connections that publish and consume, 16 B",
        kind: load(Shape::Queues(100), 16, Acks::Auto),
        targets: &[at_least(Metric::Rate, 0.8, Against::Scenario("auto-16"))],
    },
    Scenario {
        name: "round-trip",
        about: "latency of 5,000 messages/s of 100 B on one connection",
        kind: Kind::Latency(Latency {
            connections: 1,
            rate_each: 5_000,
            body_size: 100,
            noise: None,
        }),
        targets: &[
            at_most(Metric::P50, 1.0, Against::RabbitMq),
            at_most(Metric::P99, 1.0, Against::RabbitMq),
            at_most(Metric::P50, 2.0, Against::Relay),
        ],
    },
    Scenario {
        name: "neighbours",
        about: "latency of 99 connections with 10 messages/s each, beside one with 100,000/s",
        kind: Kind::Latency(Latency {
            connections: 99,
            rate_each: 10,
            body_size: 100,
            noise: Some(Noise {
                rate: 100_000,
                body_size: 100,
            }),
        }),
        targets: &[at_most(Metric::P99, 3.0, Against::Relay)],
    },
    Scenario {
        name: "cycles",
        about: "connect, declare, publish, close; counted in connections",
        kind: Kind::Cycles,
        targets: &[at_least(Metric::Rate, 8.0, Against::RabbitMq)],
    },
    Scenario {
        name: "idle-broker",
        about: "memory of a broker without clients",
        kind: Kind::IdleBroker,
        targets: &[at_most(Metric::Rss, 12.0 * MIB, Against::Itself)],
    },
    Scenario {
        name: "idle-connections",
        about: "memory of 10,000 connections with a channel each",
        kind: Kind::IdleConnections { count: 10_000 },
        targets: &[at_most(Metric::RssEach, 20.0 * KIB, Against::Itself)],
    },
    Scenario {
        name: "ready-1m",
        about: "memory of 1,000,000 ready messages of 100 B, transient",
        kind: Kind::Ready {
            count: 1_000_000,
            body_size: 100,
        },
        targets: &[at_most(Metric::RssEach, 220.0, Against::Itself)],
    },
];

const KIB: f64 = 1_024.0;
const MIB: f64 = 1_024.0 * KIB;

const fn load(shape: Shape, body_size: usize, acks: Acks) -> Kind {
    Kind::Throughput(Load::new(shape, body_size, acks))
}

const fn topic(bindings: u32, keys: u32, rebind: bool) -> Kind {
    let shape = Shape::Topic {
        bindings,
        keys,
        rebind,
    };
    load(shape, 16, Acks::Auto)
}

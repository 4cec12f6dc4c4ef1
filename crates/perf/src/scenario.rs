//! THE TABLE: what is measured, and what Leveret has to reach.
//!
//! To add a scenario, add a row to [`SCENARIOS`] and to `docs/benchmarking.md`; a test compares.

use crate::{
    Result, connections,
    latency::{self, Latency, Noise},
    layout::Shape,
    measure::{Measures, Metric, Timing},
    memory,
    process::Watched,
    receiver::Acks,
    throughput::{self, Load},
    url::Url,
};

pub struct Scenario {
    pub name: &'static str,
    pub about: &'static str,
    pub kind: Kind,
    pub targets: &'static [Target],
}

pub enum Kind {
    Throughput(Load),
    Latency(Latency),
    Cycles,
    IdleConnections { count: usize },
    IdleBroker,
    Ready { count: u64, body_size: usize },
}

/// What a figure of Leveret's has to be.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub metric: Metric,
    pub bound: Bound,
    pub against: Against,
}

#[derive(Clone, Copy, Debug)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// What the bound is a multiple of.
#[derive(Clone, Copy, Debug)]
pub enum Against {
    /// Nothing: the bound is the figure itself.
    Itself,
    /// The same figure of the relay.
    Relay,
    /// The same figure of RabbitMQ.
    RabbitMq,
    /// Leveret's own figure in another scenario.
    Scenario(&'static str),
}

/// Sizes of what is measured, for a run in full or a quick look.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    pub timing: Timing,
    /// Counts of connections and messages held are divided by this.
    pub divide_by: u32,
}

impl Scenario {
    pub fn find(name: &str) -> Option<&'static Self> {
        SCENARIOS.iter().find(|scenario| scenario.name == name)
    }

    /// One run.
    ///
    /// # Errors
    /// Whatever makes the figure worthless.
    pub fn run(&self, url: &Url, server: Watched, scale: Scale) -> Result<Measures> {
        let timing = scale.timing;
        match &self.kind {
            Kind::Throughput(load) => throughput::run(url, server, load, timing),
            Kind::Latency(latency) => latency::run(url, server, latency, timing),
            Kind::Cycles => connections::cycles(url, server, timing),
            Kind::IdleConnections { count } => {
                let count = count / scale.divide_by as usize;
                connections::idle(url, server, count, timing)
            }
            Kind::IdleBroker => memory::idle(url, server, timing),
            Kind::Ready { count, body_size } => {
                let count = count / u64::from(scale.divide_by);
                memory::ready(url, server, count, *body_size, timing)
            }
        }
    }

    /// Whether it is about memory: then the server must be a new one, and one run is enough.
    pub fn is_about_memory(&self) -> bool {
        matches!(
            self.kind,
            Kind::IdleConnections { .. } | Kind::IdleBroker | Kind::Ready { .. }
        )
    }

    /// Whether the relay, which stores nothing, can take part.
    pub fn suits_relay(&self) -> bool {
        !matches!(self.kind, Kind::Ready { .. })
    }
}

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
            shape: Shape::Queue,
            body_size: 100,
            acks: PREFETCH,
            confirm_window: Some(1_000),
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
    Kind::Throughput(Load {
        shape,
        body_size,
        acks,
        confirm_window: None,
    })
}

const fn topic(bindings: u32, keys: u32, rebind: bool) -> Kind {
    let shape = Shape::Topic {
        bindings,
        keys,
        rebind,
    };
    load(shape, 16, Acks::Auto)
}

const fn at_least(metric: Metric, bound: f64, against: Against) -> Target {
    Target {
        metric,
        bound: Bound::AtLeast(bound),
        against,
    }
}

const fn at_most(metric: Metric, bound: f64, against: Against) -> Target {
    Target {
        metric,
        bound: Bound::AtMost(bound),
        against,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_targets_refer_to_scenarios_before_them() {
        let mut names = BTreeSet::new();
        for scenario in SCENARIOS {
            for target in scenario.targets {
                if let Against::Scenario(other) = target.against {
                    assert!(names.contains(other), "{} needs {other}", scenario.name);
                }
            }
            assert!(names.insert(scenario.name), "{} twice", scenario.name);
        }
    }

    #[test]
    fn every_scenario_is_documented() {
        let document = include_str!("../../../docs/benchmarking.md");
        for scenario in SCENARIOS {
            let row = format!("| `{}` |", scenario.name);
            assert!(document.contains(&row), "{} is not", scenario.name);
        }
    }
}

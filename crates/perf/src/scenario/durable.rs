//! Scenarios with durable queues and persistent messages, which a confirm promises to keep.

use super::{Against, Kind, Scenario, Target, at_least, at_most};
use crate::{
    fill_drain::FillDrain, layout::Shape, measure::Metric, receiver::Acks, throughput::Load,
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "durable-100",
        about: "1 producer to 1 consumer, persistent, 100 B, confirms window 1,000, manual acks",
        kind: Kind::Durable(passing(100)),
        targets: &[
            at_least(Metric::Rate, 8.0, Against::RabbitMq),
            at_least(Metric::Rate, 0.35, Against::Memory),
            written_once(100.0),
        ],
    },
    Scenario {
        name: "durable-1k",
        about: "the same with 1 KiB",
        kind: Kind::Durable(passing(1_024)),
        targets: &[
            at_least(Metric::Rate, 8.0, Against::RabbitMq),
            at_least(Metric::Rate, 0.35, Against::Memory),
            written_once(1_024.0),
        ],
    },
    Scenario {
        name: "durable-behind-100",
        about: "durable-100 with the consumer kept 10,000 messages behind",
        kind: Kind::Durable(Load {
            behind: BEHIND,
            ..passing(100)
        }),
        targets: &[
            at_least(Metric::Rate, 8.0, Against::RabbitMq),
            at_least(Metric::Rate, 0.35, Against::Memory),
        ],
    },
    Scenario {
        name: "durable-behind-1k",
        about: "durable-1k with the consumer kept 10,000 messages behind",
        kind: Kind::Durable(Load {
            behind: BEHIND,
            ..passing(1_024)
        }),
        targets: &[
            at_least(Metric::Rate, 8.0, Against::RabbitMq),
            at_least(Metric::Rate, 0.35, Against::Memory),
        ],
    },
    Scenario {
        name: "durable-publish",
        about: "1 producer, nobody consumes, 100 B, confirms window 1,000; counted in confirms",
        kind: Kind::Durable(publishing(WINDOW, 1)),
        targets: &[
            at_least(Metric::Rate, 8.0, Against::RabbitMq),
            at_least(Metric::Rate, 250e3, Against::Itself),
        ],
    },
    Scenario {
        name: "durable-window1-1",
        about: "1 producer that waits for each confirm, 100 B; counted in confirms",
        kind: Kind::Durable(publishing(1, 1)),
        targets: &[],
    },
    Scenario {
        name: "durable-window1-16",
        about: "16 producers that wait for each confirm",
        kind: Kind::Durable(publishing(1, 16)),
        targets: &[],
    },
    Scenario {
        name: "durable-window1-50",
        about: "50 producers that wait for each confirm",
        kind: Kind::Durable(publishing(1, 50)),
        targets: &[at_least(Metric::Rate, 5.0, Against::RabbitMq)],
    },
    Scenario {
        name: "durable-window1-256",
        about: "256 producers that wait for each confirm",
        kind: Kind::Durable(publishing(1, 256)),
        targets: &[at_least(Metric::PerSync, 50.0, Against::Itself)],
    },
    Scenario {
        name: "durable-queues-100",
        about: "100 queues, each with a producer (window 100) and a consumer, 100 B",
        kind: Kind::Durable(Load {
            confirm_window: Some(100),
            ..Load::new(Shape::Queues(100), 100, PREFETCH)
        }),
        targets: &[at_least(
            Metric::Rate,
            0.8,
            Against::Scenario("durable-100"),
        )],
    },
    Scenario {
        name: "durable-fill-drain",
        about: "2,000,000 messages of 100 B published, the server restarted, all consumed",
        kind: Kind::FillDrain(FillDrain {
            count: 2_000_000,
            body_size: 100,
            confirm_window: WINDOW,
            acks: PREFETCH,
            delay_ms: None,
        }),
        targets: &[
            at_least(Metric::FillRate, 0.5, Against::RateOf("durable-100")),
            at_least(Metric::DrainRate, 0.5, Against::RateOf("durable-100")),
            at_most(Metric::RssEach, 32.0, Against::Itself),
            at_most(Metric::Restart, 3_000.0, Against::Itself),
        ],
    },
    Scenario {
        name: "durable-slow-queue",
        about: "durable-1k, and every 20th message also to a queue that keeps it",
        kind: Kind::LongDurable(Load {
            shape: Shape::Keep { every: 20 },
            ..passing(1_024)
        }),
        targets: &[at_most(Metric::WrittenFactor, 2.5, Against::Itself)],
    },
];

const WINDOW: u64 = 1_000;
const PREFETCH: Acks = Acks::Manual { prefetch: 1_000 };

/// Messages that a consumer stays behind: more than any batch of the log, so that none is settled
/// before it is written, and nothing can be left out.
const BEHIND: u64 = 10_000;

/// A queue whose consumer keeps up.
const fn passing(body_size: usize) -> Load {
    Load {
        confirm_window: Some(WINDOW),
        ..Load::new(Shape::Queue, body_size, PREFETCH)
    }
}

/// A queue that nobody consumes.
const fn publishing(window: u64, producers: u16) -> Load {
    Load {
        acks: None,
        confirm_window: Some(window),
        producers,
        ..Load::new(Shape::Queue, 100, PREFETCH)
    }
}

/// What is consumed at once is written once: 1.3 times the body, and 60 B for all around it.
const fn written_once(body_size: f64) -> Target {
    at_most(Metric::WrittenEach, 1.3 * body_size + 60.0, Against::Itself)
}

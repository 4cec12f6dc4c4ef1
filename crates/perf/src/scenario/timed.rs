//! Scenarios of what time does: delayed messages and schedules, all of them durable.

use super::{Against, Kind, Scenario, at_least, at_most};
use crate::{fill_drain::FillDrain, lateness::Lateness, measure::Metric, receiver::Acks};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "delayed-1m",
        about: "1,000,000 persistent messages of 100 B with x-deliver-after, all consumed when due",
        kind: Kind::FillDrain(FillDrain {
            count: 1_000_000,
            body_size: 100,
            confirm_window: WINDOW,
            acks: PREFETCH,
            delay_ms: Some(8_000),
        }),
        targets: &[
            at_least(Metric::FillRate, 0.5, Against::RateOf("durable-publish")),
            at_least(Metric::FillRate, 8.0, Against::RabbitMq),
            at_most(Metric::RssEach, 100.0, Against::Itself),
            at_most(Metric::Left, 0.0, Against::Itself),
        ],
    },
    Scenario {
        name: "lateness-100k",
        about: "100,000 persistent messages of 100 B, each due at a time of its own within a minute",
        kind: Kind::Lateness(Lateness {
            count: 100_000,
            body_size: 100,
            confirm_window: WINDOW,
            acks: PREFETCH,
        }),
        targets: &[
            at_most(Metric::LateP99, 20.0, Against::Itself),
            at_most(Metric::Early, 1.0, Against::Itself),
        ],
    },
    Scenario {
        name: "fires-10k",
        about: "10,000 cron schedules that are due in the same second, to 1 consumer, 100 B",
        kind: Kind::Fires { count: 10_000 },
        targets: &[
            at_most(Metric::Spread, 200.0, Against::Itself),
            at_most(Metric::Early, 1.0, Against::Itself),
        ],
    },
    Scenario {
        name: "schedules-100k",
        about: "100,000 schedules with mixed cron expressions, none of which is due",
        kind: Kind::IdleSchedules { count: 100_000 },
        targets: &[
            at_most(Metric::IdlePercent, 2.0, Against::Itself),
            at_most(Metric::RssEach, 1_024.0, Against::Itself),
            at_most(Metric::Restart, 3_000.0, Against::Itself),
        ],
    },
];

const WINDOW: u64 = 1_000;
const PREFETCH: Acks = Acks::Manual { prefetch: 1_000 };

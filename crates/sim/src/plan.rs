//! What is fixed for a run, drawn from its seed.
//!
//! Each seed scales every kind of action up or down, some to nothing, so that runs differ in kind
//! and not only in detail.

use std::collections::BTreeSet;

use crate::client::Client;
use crate::dice::Dice;
use crate::rules::Rules;
use crate::workload::{ACTIONS, Action};

/// A queue that the clients use.
#[derive(Clone, Debug)]
pub struct QueuePlan {
    pub(crate) name: String,
    pub(crate) durable: bool,
    pub(crate) auto_delete: bool,
    pub(crate) exclusive: bool,
    pub(crate) expires: Option<u64>,
    pub(crate) priority_max: Option<u8>,
    pub(crate) rules: Rules,
}

/// An exchange that the clients use.
#[derive(Clone, Debug)]
pub struct ExchangePlan {
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) durable: bool,
    pub(crate) auto_delete: bool,
    pub(crate) internal: bool,
    pub(crate) alternate: Option<String>,
}

/// What is fixed for a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many clients.
    pub clients: usize,
    /// Steps until the clients calm down.
    pub steps: usize,
    /// The core's bound for outboxes, in octets.
    pub outbox_max: usize,
    /// Octets of messages a queue keeps in memory.
    pub queue_memory_max: usize,
    /// Weight of restarts, in order or not.
    pub restarts: u64,
    /// The session's bound for bodies, in octets.
    pub message_size_max: usize,
    /// Most octets that are read or written at once.
    pub chunk_max: usize,
    /// Octets under way in one direction.
    pub pipe: usize,
    /// Most milliseconds that pass in a step.
    pub ms_per_step: u64,
    /// Percent of steps after which what a client said goes all the way at once.
    pub hurry: u64,
    /// Percent of batches that the core gets whole.
    pub whole_batches: u64,
    /// Weight of the log against other actors.
    pub log: u64,
    /// Weight of accidents: cut connections, alarms, evictions, clocks that are set.
    pub accidents: u64,
    /// Writers report what they have written only from a quarter of an outbox on.
    pub lazy_reports: bool,
    pub(crate) frame_max: u32,
    pub(crate) heartbeats: bool,
    pub(crate) large: bool,
    pub(crate) persistent: u64,
    /// Percent of messages that have a time of their own.
    pub(crate) expirations: u64,
    pub(crate) queues: Vec<QueuePlan>,
    pub(crate) exchanges: Vec<ExchangePlan>,
    pub(crate) weights: Vec<u64>,
}

/// What a queue does with its messages: some of everything, or nothing.
fn rules(dice: &mut Dice, queues: usize, exchanges: usize, octets: bool) -> Rules {
    let mut rules = Rules::default();
    if dice.chance(25) {
        return rules;
    }
    rules.ttl_ms = dice.chance(40).then(|| dice.one_of(&TIMES_MS));
    if dice.chance(40) {
        rules.length_max = dice
            .chance(80)
            .then(|| dice.one_of(&[0, 1, 2, 3, 5, 10, 30]));
        let bytes_max = dice.one_of(&[0, 40, 200, 3_000]);
        rules.bytes_max = (octets && dice.chance(40)).then_some(bytes_max);
        let overflow = dice.one_of(&["drop-head", "reject-publish", "reject-publish-dlx"]);
        rules.overflow = dice.chance(60).then(|| overflow.to_owned());
    }
    if dice.chance(75) {
        let exchange = format!("x{}", dice.below(exchanges.max(1)));
        let exchange = match dice.below(10) {
            0..=4 => "",
            5 => "amq.fanout",
            6 => "amq.headers",
            7 => "no such exchange",
            _ => &exchange,
        };
        rules.dead_letter = Some(exchange.to_owned());
        let key = format!("q{}", dice.below(queues));
        rules.dead_letter_key = dice.chance(70).then_some(key);
    }
    rules.delivery_limit = dice.chance(35).then(|| dice.one_of(&[-1, 0, 1, 1, 2, 5]));
    rules
}

/// How long messages last.
pub(crate) const TIMES_MS: [u64; 7] = [0, 1, 5, 50, 500, 5_000, 50_000];

impl Plan {
    /// The plan of a run.
    #[must_use]
    pub fn new(dice: &mut Dice) -> Self {
        let queue_memory_max = dice.one_of(&[2_048, 2_048, 20_000, 16 << 20]);
        let restarts = dice.one_of(&[0, 0, 1, 3]);
        // Half of the runs have queues that do nothing but keep their messages.
        let with_rules = dice.chance(50);
        let pages = restarts > 0 || queue_memory_max < 16 << 20;
        let queues = dice.between(1..=5) as usize;
        let mut queues: Vec<QueuePlan> = (0..queues)
            .map(|at| QueuePlan {
                name: format!("q{at}"),
                durable: dice.chance(60),
                auto_delete: dice.chance(15),
                exclusive: dice.chance(4),
                expires: dice.chance(15).then(|| dice.between(20..=20_000)),
                priority_max: dice.chance(30).then(|| dice.one_of(&[0, 1, 2, 5, 5, 255])),
                rules: Rules::default(),
            })
            .collect();
        let exchanges = dice.between(0..=4) as usize;
        let exchanges: Vec<ExchangePlan> = (0..exchanges)
            .map(|at| ExchangePlan {
                name: format!("x{at}"),
                kind: dice.one_of(&["direct", "fanout", "topic", "headers"]),
                durable: dice.chance(60),
                auto_delete: dice.chance(15),
                internal: dice.chance(5),
                alternate: dice
                    .chance(30)
                    .then(|| format!("x{}", dice.below(exchanges))),
            })
            .collect();
        if with_rules {
            let names = queues.len();
            for queue in &mut queues {
                // What is away counts as somewhat more octets.
                let octets = !(queue.durable && pages);
                queue.rules = rules(dice, names, exchanges.len(), octets);
            }
        }
        let scale = [0, 1, 2, 2, 2, 4, 8];
        Self {
            clients: dice.between(1..=5) as usize,
            steps: dice.one_of(&[500, 1_500, 3_000, 6_000]),
            outbox_max: dice.one_of(&[300, 1_000, 5_000, 1 << 20]),
            queue_memory_max,
            restarts,
            message_size_max: 20_000,
            chunk_max: dice.one_of(&[60, 500, 5_000, 100_000]),
            pipe: dice.one_of(&[500, 5_000, 65_536]),
            ms_per_step: dice.one_of(&[0, 1, 3, 3, 40, 400]),
            hurry: dice.one_of(&[0, 10, 50, 90]),
            whole_batches: dice.one_of(&[0, 50, 100]),
            log: dice.one_of(&[10, 60, 300]),
            accidents: dice.one_of(&[0, 2, 5, 20]),
            lazy_reports: dice.chance(50),
            frame_max: dice.one_of(&[4_096, 4_096, 8_192, 131_072]),
            heartbeats: dice.chance(30),
            large: dice.chance(25),
            persistent: dice.one_of(&[0, 50, 50, 100]),
            expirations: if with_rules {
                dice.one_of(&[0, 5, 30])
            } else {
                0
            },
            queues,
            exchanges,
            weights: ACTIONS
                .iter()
                // Without channels and messages there is no run.
                .map(|(action, weight)| match action {
                    Action::Publish | Action::OpenChannel => weight * 2,
                    _ => weight * scale[dice.below(scale.len())],
                })
                .collect(),
        }
    }

    /// Queues bound their octets only where nothing leaves unread that is away: how long that was is
    /// known but roughly.
    pub(crate) fn forget_octets(&mut self) {
        for queue in &mut self.queues {
            if self.expirations > 0 || queue.rules.ttl_ms.is_some() {
                queue.rules.bytes_max = None;
            }
        }
    }

    /// A client as this run has them.
    #[must_use]
    pub fn client(&self, dice: &mut Dice) -> Client {
        let heartbeat_s = if self.heartbeats {
            dice.one_of(&[0, 5, 60])
        } else {
            0
        };
        Client::new(dice, self.frame_max, heartbeat_s)
    }

    /// Octets of the longest body.
    #[must_use]
    pub fn body_max(&self) -> usize {
        if self.large { 19_000 } else { 1_000 }
    }

    /// Names of the queues with priorities.
    pub(crate) fn with_priorities(&self) -> BTreeSet<String> {
        let queues = self.queues.iter().filter(|q| q.priority_max.is_some());
        queues.map(|queue| queue.name.clone()).collect()
    }

    pub(crate) fn queue(&self, dice: &mut Dice) -> &QueuePlan {
        &self.queues[dice.below(self.queues.len())]
    }

    /// An exchange of the plan or a predeclared one.
    pub(crate) fn exchange(&self, dice: &mut Dice) -> String {
        match dice.pick(&self.exchanges) {
            Some(exchange) if dice.chance(75) => exchange.name.clone(),
            _ => dice
                .one_of(&["amq.direct", "amq.fanout", "amq.topic", "amq.headers"])
                .to_owned(),
        }
    }
}

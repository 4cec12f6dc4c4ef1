//! THE TABLE: what is measured, and what Leveret has to reach.
//!
//! To add a scenario, add a row to [`transient`], [`durable`] or [`timed`] and to
//! `docs/benchmarking.md`; a test compares.

pub mod durable;
pub mod timed;
pub mod transient;

use std::time::Duration;

use crate::{
    Result,
    broker::{self, Running},
    connections,
    fill_drain::{self, FillDrain},
    latency::{self, Latency},
    lateness::{self, Lateness},
    measure::{Measures, Metric, Timing},
    memory,
    process::Watched,
    schedules,
    storage::Storage,
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
    /// The same with durable queues and persistent messages.
    Durable(Load),
    /// The same on a new server and for [`LONG`] times as long, so that its log grows beyond what
    /// it can leave as it is.
    LongDurable(Load),
    FillDrain(FillDrain),
    Latency(Latency),
    Cycles,
    IdleConnections {
        count: usize,
    },
    IdleBroker,
    Ready {
        count: u64,
        body_size: usize,
    },
    Lateness(Lateness),
    /// Schedules that are due at once.
    Fires {
        count: u64,
    },
    /// Schedules that are not due.
    IdleSchedules {
        count: u64,
    },
}

/// See [`Kind::LongDurable`].
pub const LONG: u32 = 4;

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
    /// The same figure of RabbitMQ, with the same storage.
    RabbitMq,
    /// Leveret's own figure with everything in memory.
    Memory,
    /// Leveret's own figure in another scenario.
    Scenario(&'static str),
    /// Leveret's own [`Metric::Rate`] in another scenario.
    RateOf(&'static str),
}

/// Sizes of what is measured, for a run in full or a quick look.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    pub timing: Timing,
    /// Counts of connections and messages held are divided by this.
    pub divide_by: u32,
    /// How long a minute takes, see [`lateness::run`].
    pub minute: Duration,
}

/// A server, and where it is to keep what it is sent: one row of a scenario's table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    pub broker: broker::Kind,
    pub storage: Storage,
}

/// A server that a scenario runs on.
pub struct Server<'a> {
    pub url: Url,
    pub watched: Watched,
    /// To start it again; `None`: it is not ours.
    pub running: Option<&'a mut Running>,
}

impl<'a> Server<'a> {
    /// One that we have started.
    pub fn ours(running: &'a mut Running) -> Self {
        Self {
            url: running.url.clone(),
            watched: running.watched(),
            running: Some(running),
        }
    }

    /// See [`Running::restart`]; does nothing to a server that is not ours.
    ///
    /// # Errors
    /// When it does not end, or does not come back.
    pub fn restart(&mut self) -> Result<Option<Duration>> {
        let Some(running) = &mut self.running else {
            return Ok(None);
        };
        let took = running.restart()?;
        self.watched = running.watched();
        Ok(Some(took))
    }
}

impl Scenario {
    /// In the order in which they run.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        let lasting = durable::SCENARIOS.iter().chain(timed::SCENARIOS);
        transient::SCENARIOS.iter().chain(lasting)
    }

    pub fn find(name: &str) -> Option<&'static Self> {
        Self::all().find(|scenario| scenario.name == name)
    }

    /// One run.
    ///
    /// # Errors
    /// Whatever makes the figure worthless.
    pub fn run(&self, server: &mut Server<'_>, storage: Storage, scale: Scale) -> Result<Measures> {
        let timing = scale.timing;
        let (url, watched) = (&server.url, server.watched);
        match &self.kind {
            Kind::Throughput(load) | Kind::Durable(load) => {
                throughput::run(url, watched, load, storage, timing)
            }
            Kind::LongDurable(load) => {
                let timing = Timing {
                    measured: timing.measured * LONG,
                    ..timing
                };
                throughput::run(url, watched, load, storage, timing)
            }
            Kind::FillDrain(plan) => {
                let count = plan.count / u64::from(scale.divide_by);
                let plan = FillDrain { count, ..*plan };
                fill_drain::run(server, &plan, storage, timing)
            }
            Kind::Latency(latency) => latency::run(url, watched, latency, timing),
            Kind::Cycles => connections::cycles(url, watched, timing),
            Kind::IdleConnections { count } => {
                let count = count / scale.divide_by as usize;
                connections::idle(url, watched, count, timing)
            }
            Kind::IdleBroker => memory::idle(url, watched, timing),
            Kind::Ready { count, body_size } => {
                let count = count / u64::from(scale.divide_by);
                memory::ready(url, watched, count, *body_size, timing)
            }
            Kind::Lateness(plan) => lateness::run(url, watched, plan, scale.minute, timing),
            Kind::Fires { count } => {
                schedules::fires(url, count / u64::from(scale.divide_by), timing)
            }
            Kind::IdleSchedules { count } => {
                schedules::idle(server, count / u64::from(scale.divide_by), timing)
            }
        }
    }

    /// Where its messages are kept, unless it is for comparison.
    pub fn storage(&self) -> Storage {
        match self.kind {
            Kind::Durable(_)
            | Kind::LongDurable(_)
            | Kind::FillDrain(_)
            | Kind::Lateness(_)
            | Kind::Fires { .. }
            | Kind::IdleSchedules { .. } => Storage::Disk,
            _ => Storage::Memory,
        }
    }

    /// With what this server takes part, the one that targets are about first.
    pub fn entries(&self, broker: broker::Kind) -> Vec<Entry> {
        let mut storages = vec![self.storage()];
        match broker {
            // The relay stores nothing.
            broker::Kind::Relay if self.storage().is_durable() => storages.clear(),
            broker::Kind::Relay if matches!(self.kind, Kind::Ready { .. }) => storages.clear(),
            // It knows none. Delays it gets by way of a TTL.
            broker::Kind::RabbitMq
                if matches!(self.kind, Kind::Fires { .. } | Kind::IdleSchedules { .. }) =>
            {
                storages.clear();
            }
            broker::Kind::RabbitMq if matches!(self.kind, Kind::Durable(_)) => {
                storages.push(Storage::Quorum);
            }
            broker::Kind::Leveret
                if self.compares(|against| matches!(against, Against::Memory)) =>
            {
                storages.push(Storage::Memory);
            }
            _ => {}
        }
        let entries = storages.into_iter();
        entries.map(|storage| Entry { broker, storage }).collect()
    }

    /// Whether a target depends on this row. Others are there to be known: measured once.
    pub fn judges(&self, entry: Entry) -> bool {
        match entry.broker {
            broker::Kind::Leveret => true,
            broker::Kind::Relay => self.compares(|against| matches!(against, Against::Relay)),
            broker::Kind::RabbitMq => {
                entry.storage == self.storage()
                    && self.compares(|against| matches!(against, Against::RabbitMq))
            }
        }
    }

    /// What a row is called.
    pub fn label(&self, entry: Entry) -> String {
        let name = entry.broker.name();
        if entry.storage == self.storage() {
            name.to_owned()
        } else {
            format!("{name} {}", entry.storage.name())
        }
    }

    /// Whether the server must be a new one, since memory or files of earlier runs would count, or a
    /// run is so long that there is time for one. One is enough: such figures hardly vary, and
    /// starting RabbitMQ takes long.
    pub fn wants_new_server(&self) -> bool {
        matches!(
            self.kind,
            Kind::IdleConnections { .. }
                | Kind::IdleBroker
                | Kind::Ready { .. }
                | Kind::FillDrain(_)
                | Kind::LongDurable(_)
                | Kind::Lateness(_)
                | Kind::IdleSchedules { .. }
        )
    }

    fn compares(&self, with: impl Fn(Against) -> bool) -> bool {
        self.targets.iter().any(|target| with(target.against))
    }
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
        for scenario in Scenario::all() {
            for target in scenario.targets {
                if let Against::Scenario(other) | Against::RateOf(other) = target.against {
                    assert!(names.contains(other), "{} needs {other}", scenario.name);
                }
            }
            assert!(names.insert(scenario.name), "{} twice", scenario.name);
        }
    }

    #[test]
    fn every_scenario_is_documented() {
        let document = include_str!("../../../../docs/benchmarking.md");
        for scenario in Scenario::all() {
            let row = format!("| `{}` |", scenario.name);
            assert!(document.contains(&row), "{} is not", scenario.name);
        }
    }

    #[test]
    fn rows_of_a_scenario() {
        use broker::Kind::{Leveret, RabbitMq, Relay};
        #[rustfmt::skip]
        let table: [(&str, broker::Kind, &[&str], &str); 11] = [
            ("auto-16",      Leveret,  &["leveret"],                     "only one way"),
            ("auto-16",      Relay,    &["relay"],                       "the limit"),
            ("ready-1m",     Relay,    &[],                              "it holds nothing"),
            ("durable-100",  Leveret,  &["leveret", "leveret memory"],   "what durability costs"),
            ("durable-100",  Relay,    &[],                              "it stores nothing"),
            ("durable-100",  RabbitMq, &["rabbitmq", "rabbitmq quorum"], "both kinds of queues"),
            ("durable-fill-drain", Leveret,  &["leveret"],               "no target about memory"),
            ("durable-fill-drain", RabbitMq, &["rabbitmq"],              "takes long enough as it is"),
            ("delayed-1m",   RabbitMq, &["rabbitmq"],                    "by way of a TTL"),
            ("fires-10k",    RabbitMq, &[],                              "it knows no schedules"),
            ("fires-10k",    Relay,    &[],                              "nor does this"),
        ];
        for (name, broker, expected, why) in table {
            let scenario = Scenario::find(name).unwrap();
            let entries = scenario.entries(broker);
            let labels: Vec<String> = entries.iter().map(|&entry| scenario.label(entry)).collect();
            assert_eq!(labels, expected, "{name}: {why}");
        }
    }

    #[test]
    fn what_no_target_depends_on_is_measured_once() {
        use broker::Kind::{Leveret, RabbitMq, Relay};
        let judged = |name, broker, storage| {
            let scenario = Scenario::find(name).unwrap();
            scenario.judges(Entry { broker, storage })
        };
        assert!(judged("direct", Leveret, Storage::Memory), "it is about us");
        assert!(!judged("direct", Relay, Storage::Memory));
        assert!(judged("auto-16", Relay, Storage::Memory));
        assert!(judged("durable-100", RabbitMq, Storage::Disk));
        assert!(!judged("durable-100", RabbitMq, Storage::Quorum));
    }
}

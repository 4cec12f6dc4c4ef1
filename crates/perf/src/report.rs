//! Results of all scenarios and servers: verdicts on targets, the table, JSON.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Value, json};

use crate::{
    broker::Kind,
    measure::{Measures, Metric},
    scenario::{Against, Entry, Scenario, Target},
    storage::Storage,
    verdict::Verdict,
};

/// Everything measured so far.
#[derive(Default)]
pub struct Report {
    results: Vec<Outcome>,
}

/// One scenario on one server.
struct Outcome {
    scenario: &'static Scenario,
    entry: Entry,
    runs: Vec<Measures>,
    median: Measures,
    /// Runs that failed: a broker that fails has no figure to be proud of, so this is shown first.
    errors: Vec<String>,
}

impl Report {
    pub fn add(
        &mut self,
        scenario: &'static Scenario,
        entry: Entry,
        runs: Vec<Measures>,
        errors: Vec<String>,
    ) {
        self.results.push(Outcome {
            scenario,
            entry,
            median: Measures::median(&runs),
            runs,
            errors,
        });
    }

    /// Whether a run failed. Targets below their mark do not count: they depend on the machine.
    pub fn has_errors(&self) -> bool {
        self.results
            .iter()
            .any(|outcome| !outcome.errors.is_empty())
    }

    /// Lines for one scenario: a row per server, then a line per target.
    pub fn section(&self, scenario: &'static Scenario) -> String {
        let mut out = format!("{}: {}\n", scenario.name, scenario.about);
        let rows: Vec<&Outcome> = self.of(scenario).collect();
        let columns: Vec<Metric> = Metric::ALL
            .into_iter()
            .filter(|&metric| rows.iter().any(|row| row.median.get(metric).is_some()))
            .collect();
        if !columns.is_empty() {
            line(&mut out, "", columns.iter().map(|m| m.heading().to_owned()));
        }
        for row in rows {
            for error in &row.errors {
                let _ = writeln!(out, "  {:<15} FAILED  {error}", scenario.label(row.entry));
            }
            if row.runs.is_empty() {
                continue;
            }
            let cells = columns.iter().map(|&metric| {
                let value = row.median.get(metric);
                value.map_or_else(String::new, |value| metric.format(value))
            });
            line(&mut out, &scenario.label(row.entry), cells);
        }
        for (target, verdict) in self.verdicts(scenario) {
            let word = match &verdict {
                None => "-",
                Some(verdict) if verdict.met => "ok",
                Some(_) => "BELOW",
            };
            let text = target.describe(verdict.map(|verdict| verdict.value));
            let _ = writeln!(out, "  {word:<15} {text}");
        }
        out
    }

    /// All scenarios, and how many targets are reached.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let (mut met, mut below, mut open) = (0, 0, 0);
        for scenario in self.scenarios() {
            out.push_str(&self.section(scenario));
            out.push('\n');
            for (_target, verdict) in self.verdicts(scenario) {
                match verdict {
                    None => open += 1,
                    Some(verdict) if verdict.met => met += 1,
                    Some(_) => below += 1,
                }
            }
        }
        let _ = writeln!(out, "targets: {met} ok, {below} below, {open} not measured");
        if self.has_errors() {
            out.push_str("SOME RUNS FAILED: see above\n");
        }
        out
    }

    pub fn json(&self) -> Value {
        let scenarios: Vec<Value> = self
            .scenarios()
            .into_iter()
            .map(|scenario| {
                let servers: serde_json::Map<String, Value> = self
                    .of(scenario)
                    .map(|row| {
                        let runs: Vec<Value> = row.runs.iter().map(measures).collect();
                        let value = json!({
                            "median": measures(&row.median),
                            "runs": runs,
                            "errors": row.errors,
                        });
                        (scenario.label(row.entry), value)
                    })
                    .collect();
                let targets: Vec<Value> = self
                    .verdicts(scenario)
                    .map(|(target, verdict)| {
                        json!({
                            "metric": target.metric.name(),
                            "target": target.describe(verdict.as_ref().map(|v| v.value)),
                            "value": verdict.as_ref().map(|v| v.value),
                            "met": verdict.as_ref().map(|v| v.met),
                        })
                    })
                    .collect();
                json!({
                    "name": scenario.name,
                    "about": scenario.about,
                    "servers": servers,
                    "targets": targets,
                })
            })
            .collect();
        json!({ "scenarios": scenarios })
    }

    fn of(&self, scenario: &'static Scenario) -> impl Iterator<Item = &Outcome> {
        self.results
            .iter()
            .filter(|outcome| outcome.scenario.name == scenario.name)
    }

    /// In the order they were run, each once.
    fn scenarios(&self) -> Vec<&'static Scenario> {
        let mut scenarios: Vec<&'static Scenario> = Vec::new();
        for outcome in &self.results {
            if scenarios.last().map(|last| last.name) != Some(outcome.scenario.name) {
                scenarios.push(outcome.scenario);
            }
        }
        scenarios
    }

    fn verdicts(
        &self,
        scenario: &'static Scenario,
    ) -> impl Iterator<Item = (&'static Target, Option<Verdict>)> {
        scenario.targets.iter().map(move |target| {
            let metric = target.metric;
            let main = scenario.storage();
            let figure = |broker, storage| self.figure(scenario, broker, storage, metric);
            let elsewhere = |name, metric| {
                let other = Scenario::find(name)?;
                self.figure(other, Kind::Leveret, other.storage(), metric)
            };
            let own = figure(Kind::Leveret, main);
            let other = match target.against {
                Against::Itself => None,
                Against::Relay => figure(Kind::Relay, main),
                Against::RabbitMq => figure(Kind::RabbitMq, main),
                Against::Memory => figure(Kind::Leveret, Storage::Memory),
                Against::Scenario(name) => elsewhere(name, metric),
                Against::RateOf(name) => elsewhere(name, Metric::Rate),
            };
            (target, target.judge(own, other))
        })
    }

    fn figure(
        &self,
        scenario: &'static Scenario,
        broker: Kind,
        storage: Storage,
        metric: Metric,
    ) -> Option<f64> {
        let entry = Entry { broker, storage };
        let outcome = self.of(scenario).find(|outcome| outcome.entry == entry)?;
        outcome.median.get(metric)
    }
}

fn line(out: &mut String, name: &str, cells: impl Iterator<Item = String>) {
    let _ = write!(out, "  {name:<15}");
    for cell in cells {
        let _ = write!(out, " {cell:>9}");
    }
    out.push('\n');
}

fn measures(measures: &Measures) -> Value {
    let figures: BTreeMap<&str, f64> = measures
        .iter()
        .map(|(metric, value)| (metric.name(), value))
        .collect();
    json!(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(leveret: f64, errors: Vec<String>) -> (Report, &'static Scenario) {
        let scenario = Scenario::find("fanout-5").unwrap();
        let run = |rate| {
            let mut run = Measures::default();
            run.set(Metric::Rate, rate);
            run
        };
        let mut report = Report::default();
        let entry = |broker| Entry {
            broker,
            storage: Storage::Memory,
        };
        report.add(scenario, entry(Kind::Leveret), vec![run(leveret)], errors);
        report.add(scenario, entry(Kind::Relay), vec![run(1_000.0)], Vec::new());
        (report, scenario)
    }

    #[test]
    fn table_says_what_is_below() {
        let (good, scenario) = report(400.0, Vec::new());
        let text = good.section(scenario);
        assert!(
            text.contains("ok              per s: 0.40 x the relay's"),
            "{text}"
        );
        assert!(
            good.table()
                .contains("targets: 1 ok, 0 below, 0 not measured")
        );

        let (poor, scenario) = report(200.0, Vec::new());
        let text = poor.section(scenario);
        assert!(
            text.contains("BELOW           per s: 0.20 x the relay's"),
            "{text}"
        );
        assert!(!poor.has_errors(), "slow is not wrong");
    }

    #[test]
    fn failed_runs_are_shown_and_counted() {
        let (report, scenario) = report(400.0, vec!["WRONG: 1 lost".into()]);
        assert!(report.has_errors());
        let text = report.section(scenario);
        assert!(
            text.contains("leveret         FAILED  WRONG: 1 lost"),
            "{text}"
        );
        assert!(report.table().contains("SOME RUNS FAILED"));
    }

    #[test]
    fn durable_rows_are_compared_with_the_right_ones() {
        let mut report = Report::default();
        let mut add = |name, broker, storage, metric, value| {
            let mut run = Measures::default();
            run.set(metric, value);
            let scenario = Scenario::find(name).unwrap();
            report.add(scenario, Entry { broker, storage }, vec![run], Vec::new());
        };
        add(
            "durable-100",
            Kind::Leveret,
            Storage::Disk,
            Metric::Rate,
            100e3,
        );
        add(
            "durable-100",
            Kind::Leveret,
            Storage::Memory,
            Metric::Rate,
            200e3,
        );
        add(
            "durable-100",
            Kind::RabbitMq,
            Storage::Disk,
            Metric::Rate,
            10e3,
        );
        add(
            "durable-100",
            Kind::RabbitMq,
            Storage::Quorum,
            Metric::Rate,
            50e3,
        );
        add(
            "durable-fill-drain",
            Kind::Leveret,
            Storage::Disk,
            Metric::FillRate,
            60e3,
        );
        let text = report.table();
        for expected in [
            "ok              per s: 10.00 x RabbitMQ's (at least 8.00)",
            "ok              per s: 0.50 x its own in memory (at least 0.35)",
            "ok              fill/s: 0.60 x the rate of durable-100 (at least 0.50)",
            "-               drain/s: not measured x the rate of durable-100",
            "-               disk each: not measured (at most 190)",
            "rabbitmq quorum",
        ] {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
    }

    #[test]
    fn json_has_medians_runs_and_targets() {
        let (report, _) = report(400.0, Vec::new());
        let json = report.json();
        let scenario = &json["scenarios"][0];
        assert_eq!(scenario["name"], "fanout-5");
        let leveret = &scenario["servers"]["leveret"];
        assert_eq!(leveret["median"]["rate_per_second"], 400.0);
        assert_eq!(leveret["runs"][0]["rate_per_second"], 400.0);
        assert_eq!(scenario["targets"][0]["met"], true);
    }
}

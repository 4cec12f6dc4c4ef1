//! Results of all scenarios and servers: verdicts on targets, the table, JSON.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Value, json};

use crate::{
    broker::Kind,
    measure::{Measures, Metric},
    scenario::{Against, Bound, Scenario, Target},
};

/// Everything measured so far.
#[derive(Default)]
pub struct Report {
    results: Vec<Outcome>,
}

/// One scenario on one server.
struct Outcome {
    scenario: &'static Scenario,
    broker: Kind,
    runs: Vec<Measures>,
    median: Measures,
    /// Runs that failed: a broker that fails has no figure to be proud of, so this is shown first.
    errors: Vec<String>,
}

/// Whether a target is reached.
#[derive(Debug, PartialEq)]
pub struct Verdict {
    /// The figure, or its ratio to what it is compared with.
    pub value: f64,
    pub met: bool,
}

impl Target {
    /// `None`: one of the figures was not measured.
    pub fn judge(&self, own: Option<f64>, other: Option<f64>) -> Option<Verdict> {
        let value = match self.against {
            Against::Itself => own?,
            Against::Relay | Against::RabbitMq | Against::Scenario(_) => {
                let other = other?;
                if other <= 0.0 {
                    return None;
                }
                own? / other
            }
        };
        let met = match self.bound {
            Bound::AtLeast(bound) => value >= bound,
            Bound::AtMost(bound) => value <= bound,
        };
        Some(Verdict { value, met })
    }

    /// The target in words, and the value in its unit.
    fn describe(&self, value: Option<f64>) -> String {
        let show = |value: f64| match self.against {
            Against::Itself => self.metric.format(value),
            _ => format!("{value:.2}"),
        };
        let (word, bound) = match self.bound {
            Bound::AtLeast(bound) => ("at least", bound),
            Bound::AtMost(bound) => ("at most", bound),
        };
        let against = match self.against {
            Against::Itself => String::new(),
            Against::Relay => " x the relay's".into(),
            Against::RabbitMq => " x RabbitMQ's".into(),
            Against::Scenario(name) => format!(" x {name}'s"),
        };
        let value = value.map_or_else(|| "not measured".into(), show);
        let heading = self.metric.heading();
        format!("{heading}: {value}{against} ({word} {})", show(bound))
    }
}

impl Report {
    pub fn add(
        &mut self,
        scenario: &'static Scenario,
        broker: Kind,
        runs: Vec<Measures>,
        errors: Vec<String>,
    ) {
        self.results.push(Outcome {
            scenario,
            broker,
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
                let _ = writeln!(out, "  {:<9} FAILED  {error}", row.broker.name());
            }
            if row.runs.is_empty() {
                continue;
            }
            let cells = columns.iter().map(|&metric| {
                let value = row.median.get(metric);
                value.map_or_else(String::new, |value| metric.format(value))
            });
            line(&mut out, row.broker.name(), cells);
        }
        for (target, verdict) in self.verdicts(scenario) {
            let word = match &verdict {
                None => "-",
                Some(verdict) if verdict.met => "ok",
                Some(_) => "BELOW",
            };
            let text = target.describe(verdict.map(|verdict| verdict.value));
            let _ = writeln!(out, "  {word:<9} {text}");
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
                        (row.broker.name().to_owned(), value)
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
        scenario.targets.iter().map(|target| {
            let metric = target.metric;
            let own = self.figure(scenario.name, Kind::Leveret, metric);
            let other = match target.against {
                Against::Itself => None,
                Against::Relay => self.figure(scenario.name, Kind::Relay, metric),
                Against::RabbitMq => self.figure(scenario.name, Kind::RabbitMq, metric),
                Against::Scenario(name) => self.figure(name, Kind::Leveret, metric),
            };
            (target, target.judge(own, other))
        })
    }

    fn figure(&self, scenario: &str, broker: Kind, metric: Metric) -> Option<f64> {
        let mut results = self.results.iter();
        let outcome =
            results.find(|result| result.scenario.name == scenario && result.broker == broker)?;
        outcome.median.get(metric)
    }
}

fn line(out: &mut String, name: &str, cells: impl Iterator<Item = String>) {
    let _ = write!(out, "  {name:<9}");
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

    const FASTER: Target = Target {
        metric: Metric::Rate,
        bound: Bound::AtLeast(0.3),
        against: Against::Relay,
    };
    const SMALL: Target = Target {
        metric: Metric::CpuMicros,
        bound: Bound::AtMost(0.5),
        against: Against::Itself,
    };

    #[test]
    fn judging_targets() {
        let verdict = |value, met| Some(Verdict { value, met });
        #[rustfmt::skip]
        let table = [
            // target  own         other       verdict               why this row is here
            (FASTER,   Some(3.0),  Some(10.0), verdict(0.3, true),   "on the mark is reached"),
            (FASTER,   Some(2.9),  Some(10.0), verdict(0.29, false), "just below"),
            (FASTER,   Some(3.0),  None,       None,                 "no relay: not measured"),
            (FASTER,   None,       Some(10.0), None,                 "no figure of our own"),
            (FASTER,   Some(3.0),  Some(0.0),  None,                 "no division by zero"),
            (SMALL,    Some(0.4),  None,       verdict(0.4, true),   "itself needs no other"),
            (SMALL,    Some(0.6),  None,       verdict(0.6, false),  "too much"),
        ];
        for (target, own, other, expected, why) in table {
            assert_eq!(target.judge(own, other), expected, "{why}");
        }
    }

    #[test]
    fn targets_in_words() {
        assert_eq!(
            FASTER.describe(Some(0.345)),
            "per s: 0.34 x the relay's (at least 0.30)"
        );
        assert_eq!(SMALL.describe(None), "cpu us: not measured (at most 0.500)");
    }

    fn report(leveret: f64, errors: Vec<String>) -> (Report, &'static Scenario) {
        let scenario = Scenario::find("fanout-5").unwrap();
        let run = |rate| {
            let mut run = Measures::default();
            run.set(Metric::Rate, rate);
            run
        };
        let mut report = Report::default();
        report.add(scenario, Kind::Leveret, vec![run(leveret)], errors);
        report.add(scenario, Kind::Relay, vec![run(1_000.0)], Vec::new());
        (report, scenario)
    }

    #[test]
    fn table_says_what_is_below() {
        let (good, scenario) = report(400.0, Vec::new());
        let text = good.section(scenario);
        assert!(
            text.contains("ok        per s: 0.40 x the relay's"),
            "{text}"
        );
        assert!(
            good.table()
                .contains("targets: 1 ok, 0 below, 0 not measured")
        );

        let (poor, scenario) = report(200.0, Vec::new());
        let text = poor.section(scenario);
        assert!(
            text.contains("BELOW     per s: 0.20 x the relay's"),
            "{text}"
        );
        assert!(!poor.has_errors(), "slow is not wrong");
    }

    #[test]
    fn failed_runs_are_shown_and_counted() {
        let (report, scenario) = report(400.0, vec!["WRONG: 1 lost".into()]);
        assert!(report.has_errors());
        let text = report.section(scenario);
        assert!(text.contains("leveret   FAILED  WRONG: 1 lost"), "{text}");
        assert!(report.table().contains("SOME RUNS FAILED"));
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

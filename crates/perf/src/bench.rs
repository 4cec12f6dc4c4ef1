//! All scenarios on all servers, side by side: A B C A B C A B C, so that what the machine does
//! meanwhile hits all of them alike.

use std::{path::PathBuf, time::Instant};

use crate::{
    Error, Result,
    broker::{Broker, Running},
    connections,
    measure::Measures,
    process,
    report::Report,
    scenario::{Entry, Scale, Scenario, Server},
};

/// What to run.
pub struct Plan {
    pub brokers: Vec<Broker>,
    pub scenarios: Vec<&'static Scenario>,
    /// Runs of each scenario on each server that a target is about, whose medians count. Other
    /// servers get one.
    pub runs: u32,
    pub scale: Scale,
    /// Where the servers' data goes, each in a directory of its own that is removed in the end.
    pub data_dir: PathBuf,
}

/// Runs the plan, printing each scenario when it is done.
///
/// # Errors
/// When a server cannot be started. A run that fails is part of the report instead.
pub fn run(plan: &Plan) -> Result<Report> {
    if plan.brokers.is_empty() {
        return Err(Error::Setup("no server to measure".into()));
    }
    // Servers inherit the limit, so it comes first. Where it cannot be raised, the one scenario that
    // needs it will say so.
    if let Err(error) = process::raise_open_files(connections::OPEN_FILES) {
        eprintln!("{error}");
    }
    let mut slots = Vec::new();
    for broker in &plan.brokers {
        eprintln!("starting {}", broker.kind.name());
        slots.push(Slot {
            broker,
            running: Some(broker.start(&plan.data_dir)?),
        });
    }
    let mut report = Report::default();
    let since = Instant::now();
    for (number, scenario) in (1..).zip(&plan.scenarios) {
        let progress = |text: String| {
            let seconds = since.elapsed().as_secs();
            let count = plan.scenarios.len();
            eprintln!(
                "{:>2}:{:02} {number}/{count} {text}",
                seconds / 60,
                seconds % 60
            );
        };
        run_scenario(plan, scenario, &mut slots, &mut report, progress)?;
        println!("{}", report.section(scenario));
    }
    Ok(report)
}

/// A server that takes part. It is started again when a scenario wants a new one.
struct Slot<'a> {
    broker: &'a Broker,
    running: Option<Running>,
}

impl Slot<'_> {
    fn restart(&mut self, plan: &Plan) -> Result<()> {
        self.running = None; // the old one ends first: it must not compete for the processors
        self.running = Some(self.broker.start(&plan.data_dir)?);
        Ok(())
    }
}

/// What one row of a scenario's table is made of.
struct Row {
    slot: usize,
    entry: Entry,
    runs: u32,
    measured: Vec<Measures>,
    errors: Vec<String>,
}

fn run_scenario(
    plan: &Plan,
    scenario: &'static Scenario,
    slots: &mut [Slot<'_>],
    report: &mut Report,
    progress: impl Fn(String),
) -> Result<()> {
    let mut rows = rows(plan, scenario, slots);
    for number in 1..=plan.runs {
        for row in rows.iter_mut().filter(|row| number <= row.runs) {
            let slot = &mut slots[row.slot];
            let (name, label, of) = (scenario.name, scenario.label(row.entry), row.runs);
            progress(format!("{name} on {label}, {number} of {of}"));
            if scenario.wants_new_server() {
                slot.restart(plan)?;
            }
            let Some(running) = &mut slot.running else {
                continue;
            };
            let mut server = Server::ours(running);
            match scenario.run(&mut server, row.entry.storage, plan.scale) {
                Ok(measures) => row.measured.push(measures),
                Err(error) => {
                    progress(format!("{name} on {label}: {error}"));
                    row.errors.push(error.to_string());
                    // What is left of the run (a full queue, a dead server) must not spoil others.
                    slot.restart(plan)?;
                }
            }
        }
    }
    for row in rows {
        report.add(scenario, row.entry, row.measured, row.errors);
    }
    Ok(())
}

fn rows(plan: &Plan, scenario: &Scenario, slots: &[Slot<'_>]) -> Vec<Row> {
    let entries = slots.iter().enumerate().flat_map(|(slot, taking_part)| {
        let entries = scenario.entries(taking_part.broker.kind);
        entries.into_iter().map(move |entry| (slot, entry))
    });
    let row = |(slot, entry)| Row {
        slot,
        entry,
        runs: if scenario.judges(entry) && !scenario.wants_new_server() {
            plan.runs
        } else {
            1
        },
        measured: Vec::new(),
        errors: Vec::new(),
    };
    entries.map(row).collect()
}

//! All scenarios on all servers, side by side: A B C A B C A B C, so that what the machine does
//! meanwhile hits all of them alike.

use crate::{
    Error, Result,
    broker::{Broker, Kind, Running},
    connections,
    measure::Measures,
    process,
    report::Report,
    scenario::{Scale, Scenario},
};

/// What to run.
pub struct Plan {
    pub brokers: Vec<Broker>,
    pub scenarios: Vec<&'static Scenario>,
    /// Runs of each scenario on each server, whose medians count.
    pub runs: u32,
    pub scale: Scale,
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
            running: Some(broker.start()?),
        });
    }
    let mut report = Report::default();
    for scenario in &plan.scenarios {
        run_scenario(plan, scenario, &mut slots, &mut report)?;
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
    fn restart(&mut self) -> Result<()> {
        self.running = None; // the old one ends first: it must not compete for the processors
        self.running = Some(self.broker.start()?);
        Ok(())
    }
}

fn run_scenario(
    plan: &Plan,
    scenario: &'static Scenario,
    slots: &mut [Slot<'_>],
    report: &mut Report,
) -> Result<()> {
    // Memory hardly varies between runs, and starting RabbitMQ anew for each takes long.
    let runs = if scenario.is_about_memory() {
        1
    } else {
        plan.runs
    };
    let mut measured: Vec<(Vec<Measures>, Vec<String>)> = vec![Default::default(); slots.len()];
    for number in 1..=runs {
        for (slot, (measured, errors)) in slots.iter_mut().zip(&mut measured) {
            let kind = slot.broker.kind;
            if kind == Kind::Relay && !scenario.suits_relay() {
                continue;
            }
            if scenario.is_about_memory() {
                slot.restart()?;
            }
            let Some(running) = &slot.running else {
                continue;
            };
            eprintln!("{} on {}, {number} of {runs}", scenario.name, kind.name());
            match scenario.run(&running.url, running.watched(), plan.scale) {
                Ok(measures) => measured.push(measures),
                Err(error) => {
                    eprintln!("  {error}");
                    errors.push(error.to_string());
                    // What is left of the run (a full queue, a dead server) must not spoil others.
                    slot.restart()?;
                }
            }
        }
    }
    for (slot, (measured, errors)) in slots.iter().zip(measured) {
        if !(measured.is_empty() && errors.is_empty()) {
            report.add(scenario, slot.broker.kind, measured, errors);
        }
    }
    Ok(())
}

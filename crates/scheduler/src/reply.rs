//! What the scheduler answers: JSON with stable names, which `docs/scheduling.md` lists.

use leveret_core::ids::Wall;
use serde_json::{Value, json};

use crate::agenda::Slot;
use crate::cron::Cron;
use crate::duration;
use crate::preview;
use crate::registry::Registry;
use crate::run::{Origin, Run};
use crate::schedule::Schedule;
use crate::time;
use crate::trigger::Trigger;

/// Times that a reply to a change tells.
const NEXT: usize = 5;

/// The answer to a change.
pub(crate) fn changed(registry: &Registry, slot: Slot) -> Value {
    let Some(schedule) = registry.schedule(slot) else {
        return json!({});
    };
    json!({
        "name": &*schedule.definition.name,
        "state": state(schedule),
        "next": times(&schedule.upcoming(NEXT)),
    })
}

/// Schedules by name, from the first one after a name on.
pub(crate) fn list(
    registry: &Registry,
    after: Option<&str>,
    limit: usize,
    visible: impl Fn(&str) -> bool,
) -> Value {
    use std::ops::Bound;
    let after = after.map(str::as_bytes);
    let start = after.map_or(Bound::Unbounded, Bound::Excluded);
    let names = registry.names.range::<[u8], _>((start, Bound::Unbounded));
    let mut slots = names
        .filter(|(name, _)| visible(name))
        .filter_map(|(_, slot)| registry.schedule(*slot));
    let schedules: Vec<_> = slots.by_ref().take(limit).map(summary).collect();
    let more = slots.next().is_some();
    json!({"schedules": schedules, "more": more})
}

/// All about one schedule.
pub(crate) fn show(registry: &Registry, slot: Slot) -> Value {
    let Some(schedule) = registry.schedule(slot) else {
        return json!({});
    };
    let definition = &schedule.definition;
    let policy = &definition.terms.policy;
    let template = definition.template();
    let mut shown = summary(schedule);
    let excluded: Vec<_> = policy.excluded.iter().map(ToString::to_string).collect();
    let more = json!({
        "next": times(&schedule.upcoming(NEXT)),
        "policies": {
            "misfire": policy.misfire.kind.word(),
            "misfire_max": policy.misfire.max,
            "misfire_window": policy.misfire.window_ms,
            "overlap": policy.overlap.kind.word(),
            "overlap_timeout": policy.overlap.timeout_ms,
            "jitter": policy.jitter_ms,
            "start": policy.start.map(time::text),
            "end": policy.end.map(time::text),
            "max_runs": policy.max_runs,
            "exclude_dates": excluded,
            "deadline": policy.deadline_ms,
        },
        "message": {
            "body_octets": template.body_len(),
            "persistent": template.is_persistent(),
            "priority": template.priority(),
        },
        "since": time::text(definition.since()),
        "updated": time::text(definition.updated()),
        "buffered": schedule.state.more.buffered.len(),
        "backfills": schedule.state.more.backfills.len(),
    });
    if let (Some(shown), Value::Object(more)) = (shown.as_object_mut(), more) {
        shown.extend(more);
    }
    shown
}

/// What comes next, with what is worth knowing about it.
pub(crate) fn preview(schedule: &Schedule, now: Wall, limit: usize) -> Value {
    let zone = &schedule.definition.rule.zone;
    let upcoming = schedule.upcoming(limit);
    let mut before = now;
    let next: Vec<_> = upcoming
        .iter()
        .map(|at| {
            let notes = preview::notes(&schedule.definition.rule.trigger, before, *at);
            before = *at;
            json!({
                "nominal": time::text(*at),
                "local": time::local_text(*at, zone),
                "due": time::text(schedule.definition.due(*at)),
                "notes": notes,
            })
        })
        .collect();
    json!({
        "name": &*schedule.definition.name,
        "timezone": zone.name(),
        "next": next,
        "notes": preview::lint(schedule, upcoming.len(), limit),
    })
}

/// The last runs, the latest first.
pub(crate) fn history(registry: &Registry, slot: Slot, limit: usize) -> Value {
    let Some(schedule) = registry.schedule(slot) else {
        return json!({});
    };
    let runs = schedule.past.history.numbered().rev().take(limit);
    let runs: Vec<_> = runs
        .map(|(number, entry)| run(schedule, number, entry))
        .collect();
    json!({
        "name": &*schedule.definition.name,
        "runs": runs,
        "more": schedule.past.history.len() > limit,
    })
}

fn summary(schedule: &Schedule) -> Value {
    let definition = &schedule.definition;
    let counts = &schedule.past.counts;
    let average = counts.processing_ms.checked_div(counts.acked);
    let last = schedule.past.history.last_fired();
    let template = definition.template();
    json!({
        "name": &*definition.name,
        "state": state(schedule),
        "note": &*schedule.state.more.note,
        "user": &*definition.terms.user,
        "trigger": trigger(&definition.rule.trigger),
        "timezone": definition.rule.zone.name(),
        "exchange": template.exchange(),
        "routing_key": template.routing_key(),
        "next_run": schedule.planned().map(|(nominal, _)| time::text(nominal)),
        "last_run": last.map(|run| time::text(run.nominal)),
        "last_outcome": last.and_then(|run| run.outcome).map(|outcome| outcome.word()),
        "runs": schedule.state.runs,
        "extra_runs": schedule.state.more.extra_runs,
        "alarm": last.is_some_and(|run| run.alarm),
        "counts": {
            "acked": counts.acked,
            "failed": counts.failed,
            "skipped": counts.overlapped,
            "missed": counts.missed,
            "alarms": counts.alarms,
            "processing_ms_average": average,
        },
    })
}

fn trigger(trigger: &Trigger) -> Value {
    match trigger {
        Trigger::At(at) => json!({"at": time::text(*at)}),
        Trigger::Every(every) => json!({
            "every": duration::text(every.interval_ms / 1_000),
            "anchor": time::text(every.anchor),
        }),
        Trigger::Cron(cron) => {
            json!({"cron": cron.text(), "dialect": dialect(cron), "dst": dst(cron)})
        }
        Trigger::Reboot => json!({"cron": "@reboot"}),
    }
}

fn dialect(cron: &Cron) -> &'static str {
    cron.dialect().word()
}

fn dst(cron: &Cron) -> String {
    let dst = cron.dst();
    let gap = if dst.next_valid { "next-valid" } else { "skip" };
    let fold = if dst.once { "once" } else { "both" };
    format!("{gap},{fold}")
}

fn state(schedule: &Schedule) -> &'static str {
    if schedule.state.more.paused {
        "paused"
    } else if schedule.past.ended.is_some() {
        "ended"
    } else {
        "active"
    }
}

fn run(schedule: &Schedule, number: u64, run: &Run) -> Value {
    let fired = run.was_fired();
    let due = match run.origin {
        Origin::Trigger => schedule.definition.due(run.nominal),
        Origin::Now | Origin::Backfill(_) => run.fired,
    };
    let origin = match run.origin {
        Origin::Trigger => "trigger",
        Origin::Now => "run-now",
        Origin::Backfill(_) => "backfill",
    };
    json!({
        "number": number,
        "origin": origin,
        "nominal": time::text(run.nominal),
        "message_id": fired.then(|| run.origin.message_id(&schedule.definition.name, run.nominal)),
        "fired": fired.then(|| time::text(run.fired)),
        "late_ms": fired.then(|| run.fired.0.saturating_sub(due.0)),
        "queues": run.queues.filter(|_| fired),
        "delivered": run.delivered.map(time::text),
        "consumer_tag": run.consumer.as_deref(),
        "ended": run.ended.map(time::text),
        "outcome": run.ended.and(run.outcome).map(|outcome| outcome.word()),
        "alarm": run.alarm,
    })
}

fn times(times: &[Wall]) -> Vec<String> {
    times.iter().map(|at| time::text(*at)).collect()
}

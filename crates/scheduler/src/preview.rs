//! What is worth knowing about times to come: changes of the clocks, and that there are none.

use leveret_core::ids::Wall;

use crate::cron::Cron;
use crate::schedule::Schedule;
use crate::time;
use crate::trigger::Trigger;

/// Changes of the clocks that are looked at between two times.
const CHANGES_MAX: usize = 20;

/// Notes about a time, and about what is left out between the one before and it.
pub(crate) fn notes(trigger: &Trigger, before: Wall, at: Wall) -> Vec<String> {
    let Trigger::Cron(cron) = trigger else {
        return Vec::new();
    };
    let seconds = |t: Wall| i64::try_from(t.0 / 1_000).unwrap_or(i64::MAX);
    let (mut from, at) = (seconds(before), seconds(at));
    let mut notes = Vec::new();
    for _ in 0..CHANGES_MAX {
        let change = cron
            .zone()
            .change_after(from)
            .filter(|change| change.at <= at);
        let Some(change) = change else {
            break;
        };
        from = change.at;
        if let Some((start, end)) = change.gap()
            && let Some(missing) = cron.next_local(start, end)
        {
            notes.push(missing_note(cron, missing, change.at == at));
        }
    }
    if let Some(note) = doubled_note(cron, at) {
        notes.push(note);
    }
    notes
}

fn missing_note(cron: &Cron, missing: i64, now: bool) -> String {
    let missing = shown(missing);
    let what = match (cron.dst().next_valid, now) {
        (true, true) => "made up for at this time",
        (true, false) => "made up for before",
        (false, _) => "skipped",
    };
    format!(
        "{missing} does not exist in {} and is {what}",
        cron.zone().name()
    )
}

fn doubled_note(cron: &Cron, at: i64) -> Option<String> {
    let zone = cron.zone();
    let local = at + zone.offset(at);
    let last = zone.change_until(at).and_then(|change| change.fold());
    let next = zone.change_after(at).and_then(|change| change.fold());
    let within =
        |fold: Option<(i64, i64)>| fold.is_some_and(|(start, end)| (start..end).contains(&local));
    let which = if within(last) {
        "this is the second"
    } else if within(next) && cron.dst().once {
        "only this first one counts"
    } else if within(next) {
        "this is the first"
    } else {
        return None;
    };
    Some(format!(
        "{} comes twice in {}: {which}",
        shown(local),
        zone.name()
    ))
}

/// Date and time to the minute.
fn shown(local: i64) -> String {
    let civil = time::civil(local);
    format!("{} {:02}:{:02}", civil.date(), civil.hour(), civil.minute())
}

/// What is odd about a schedule as a whole; `found` is how many of `limit` times it has.
pub(crate) fn lint(schedule: &Schedule, found: usize, limit: usize) -> Vec<String> {
    let mut notes = Vec::new();
    if schedule.definition.rule.trigger == Trigger::Reboot {
        notes.push("fires each time the broker starts".to_owned());
    } else if schedule.state.more.paused {
        notes.push("it is paused".to_owned());
    } else if found == 0 {
        notes.push("never fires (again)".to_owned());
    } else if found < limit {
        notes.push("ends after these".to_owned());
    }
    notes
}

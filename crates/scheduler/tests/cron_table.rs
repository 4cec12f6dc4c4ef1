//! Expressions with the times that robfig/cron and Quartz themselves have said, see
//! `interop-tests/cron`.

#![allow(clippy::unwrap_used)] // helpers of tests

use leveret_scheduler::cron::{Cron, Dialect, Dst, Expression};
use leveret_scheduler::time;
use leveret_scheduler::trigger::{Every, Trigger};
use leveret_scheduler::zone::Zone;

const TABLE: &str = include_str!("cron.tsv");

/// As the programs that wrote the table say it.
fn ours(dialect: &str, zone: &str, start: &str, text: &str) -> String {
    let dialect = match dialect {
        "robfig" => Dialect::Robfig,
        "quartz" => Dialect::Quartz,
        _ => panic!("{dialect}"),
    };
    let zone = Zone::find(zone).expect("a zone");
    let mut at = time::parse(start).expect("a time");
    let trigger = match Cron::parse(text, dialect, zone, Dst::default()) {
        Err(_) => return "error".to_owned(),
        Ok(Expression::Cron(cron)) => Trigger::Cron(Box::new(cron)),
        Ok(Expression::Every { seconds }) => Trigger::Every(Every {
            anchor: at,
            interval_ms: seconds * 1_000,
            at_anchor: false,
        }),
        Ok(Expression::Reboot) => return "at each start".to_owned(),
    };
    let mut times = Vec::new();
    while times.len() < 4
        && let Some(next) = trigger.next_after(at)
    {
        at = next;
        let text = time::text(next);
        times.push(text.replace(".000Z", "Z"));
    }
    match times.is_empty() {
        true => "never".to_owned(),
        false => times.join(","),
    }
}

#[test]
fn expressions_mean_what_they_mean_to_those_they_come_from() {
    let (mut rows, mut wrong) = (0, Vec::new());
    for row in TABLE.lines().filter(|line| !line.starts_with('#')) {
        let cells: Vec<_> = row.split('\t').collect();
        let &[dialect, zone, start, text, theirs, different, why] = cells.as_slice() else {
            panic!("{row}: not seven cells");
        };
        rows += 1;
        let ours = ours(dialect, zone, start, text);
        let expected = if different.is_empty() {
            theirs
        } else {
            different
        };
        if ours != expected {
            wrong.push(format!(
                "{dialect}\t{zone}\t{start}\t{text}\t{ours}\t{theirs}"
            ));
        }
        assert_eq!(different.is_empty(), why.is_empty(), "{row}: say why");
        assert_ne!(different, theirs, "{row}: no difference");
    }
    assert!(rows >= 400, "{rows} rows");
    assert!(
        wrong.is_empty(),
        "{} of {rows}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

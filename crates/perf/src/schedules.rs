//! Schedules: what very many cost while none is due, and how close together those come that are due
//! at once.

use std::{
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use leveret_codec::{FieldTable, FieldValue};

use crate::{
    Error, Result,
    lateness::{Arrivals, confirmed},
    layout::{Layout, Shape, unique_name},
    measure::{Measures, Metric, Timing},
    memory,
    pace::Pace,
    receiver::{Acks, Receiver, Receivers, Stamps},
    scenario::Server,
    script::{Script, Template},
    storage::Storage,
    throughput::{consume, consumer},
    url::Url,
};

/// The exchange that takes orders.
const ORDERS: &str = "amq.schedule";

/// Of the message that a schedule publishes.
const BODY_BYTES: usize = 100;

const WINDOW: u64 = 1_000;
const PREFETCH: Acks = Acks::Manual { prefetch: 1_000 };

/// From the first order until all schedules are due.
const LEAD_SECONDS: u64 = 4;

/// No schedule of many is due so many minutes before or after it is made.
const QUIET_MINUTES: u64 = 10;

/// Makes schedules with mixed expressions, none of which is due soon; reads what they cost in
/// memory, what the server does while nothing happens, and how long it takes to start with them.
///
/// # Errors
/// When the server refuses or fails, or does not know all of them after its restart.
pub fn idle(server: &mut Server<'_>, count: u64, timing: Timing) -> Result<Measures> {
    let prefix = unique_name();
    let minute = seconds_since_1970() / 60 % 60;
    let orders = names(&prefix, count).zip(0..);
    let orders: Vec<Template> = orders
        .map(|(name, number)| {
            let (cron, how) = mixed(number, minute);
            let mut headers = order(&name);
            headers.insert("x-schedule-cron", text(&cron));
            headers.insert("x-schedule-routing-key", text(&prefix));
            for (header, value) in how {
                headers.insert(*header, text(value));
            }
            template(headers)
        })
        .collect();
    thread::sleep(timing.settle());
    let before = server.watched.rss();
    let rate = obey(&server.url, &orders, timing)?;
    thread::sleep(timing.settle());
    let mut measures = memory::added(before, server.watched.rss(), count as f64);
    measures.set(Metric::FillRate, rate);
    if let Some(percent) = idle_percent(server, timing.longest()) {
        measures.set(Metric::IdlePercent, percent);
    }
    if let Some(took) = server.restart()? {
        measures.set(Metric::Restart, took.as_secs_f64() * 1e3);
        let known = server.watched.schedules();
        if known.is_some_and(|known| known != count) {
            let text = format!("{known:?} of {count} schedules after the restart");
            return Err(Error::Wrong(text));
        }
    }
    forget(&server.url, &prefix, count, timing)?;
    Ok(measures)
}

/// Makes schedules that are all due in the same second, and takes what they publish.
///
/// # Errors
/// When the server refuses or fails, or one is not fired, or fired twice.
pub fn fires(url: &Url, count: u64, timing: Timing) -> Result<Measures> {
    let layout = Layout::declare(url, Shape::Queue, BODY_BYTES, Storage::Disk)?;
    let queue = &layout.queues[0];
    let due = seconds_since_1970() + LEAD_SECONDS;
    let cron = daily_at(due);
    let orders: Vec<Template> = names(queue, count)
        .map(|name| {
            let mut headers = order(&name);
            headers.insert("x-schedule-cron", text(&cron));
            headers.insert("x-schedule-routing-key", text(queue));
            template(headers)
        })
        .collect();
    // The stamp of a body is published with it.
    let script = Script::stamped(orders.iter().map(|order| (order, due * 1_000_000)))?;
    let rate = confirmed(url, script, count, WINDOW, timing)?;
    if seconds_since_1970() >= due {
        let text = format!("{count} schedules take longer to make than {LEAD_SECONDS} s");
        return Err(Error::Setup(text));
    }
    let (stream, received) = consumer(url, queue, PREFETCH)?.into_parts();
    let receiver = Receiver::new(stream, BODY_BYTES, PREFETCH, Stamps::Any)?
        .with_received(&received)
        .in_any_order();
    let mut receivers = Receivers::new(vec![receiver])?;
    let mut arrivals = Arrivals::default();
    let pace = Pace::new(BODY_BYTES, 1);
    pace.add_sent(count);
    pace.finish();
    let record = |stamp| arrivals.record(stamp);
    consume(&mut receivers, &pace, timing, 0, record)?;
    receivers.finish([count])?;
    let mut measures = Measures::default();
    measures.set(Metric::FillRate, rate);
    arrivals.set(&mut measures);
    if let Some(spread) = arrivals.spread() {
        measures.set(Metric::Spread, spread);
    }
    drop(receivers);
    forget(url, queue, count, timing)?;
    layout.remove()?;
    Ok(measures)
}

/// CPU time of a server in percent of one processor, over a while in which nobody asks for
/// anything.
fn idle_percent(server: &Server<'_>, during: Duration) -> Option<f64> {
    let before = server.watched.cpu()?;
    let since = Instant::now();
    thread::sleep(during);
    let used = server.watched.cpu()?.saturating_sub(before);
    Some(used.as_secs_f64() / since.elapsed().as_secs_f64() * 100.0)
}

fn forget(url: &Url, prefix: &str, count: u64, timing: Timing) -> Result<()> {
    let orders: Vec<Template> = names(prefix, count)
        .map(|name| {
            let mut headers = order(&name);
            headers.insert("x-schedule-action", text("delete"));
            template(headers)
        })
        .collect();
    obey(url, &orders, timing).map(|_rate| ())
}

/// Gives orders, and answers how many a second were confirmed.
fn obey(url: &Url, orders: &[Template], timing: Timing) -> Result<f64> {
    let script = Script::new(orders, 0)?;
    confirmed(url, script, orders.len() as u64, WINDOW, timing)
}

fn names(prefix: &str, count: u64) -> impl Iterator<Item = String> {
    (0..count).map(move |number| format!("{prefix}.{number}"))
}

fn order(name: &str) -> FieldTable {
    let mut headers = FieldTable::default();
    headers.insert("x-schedule-name", text(name));
    headers
}

fn template(headers: FieldTable) -> Template {
    Template {
        exchange: ORDERS.to_owned(),
        headers,
        body_size: BODY_BYTES,
        persistent: true,
        ..Template::default()
    }
}

/// A header of an order.
type Header = (&'static str, &'static str);

/// The `number`th expression of a mixture, and how it is to be read. None is due around the given
/// minute of an hour.
fn mixed(number: u64, minute: u64) -> (String, &'static [Header]) {
    let m = (minute + QUIET_MINUTES + number % (60 - 2 * QUIET_MINUTES)) % 60;
    let (s, h, day) = (number % 60, number % 24, 1 + number % 28);
    match number % 8 {
        0 => (format!("{m} * * * *"), &[]),
        1 => (format!("{m} {h} * * *"), &[]),
        2 => (format!("{m} {h} * * 1-5"), &[]),
        3 => (format!("{m} {h} {day} * *"), &[]),
        4 => (format!("{s} {m} {h} * * *"), &[]),
        5 => (
            format!("{m} {h} * * *"),
            &[("x-schedule-timezone", "Europe/Berlin")],
        ),
        6 => (
            format!("{m} 8-18/2 * * *"),
            &[("x-schedule-timezone", "America/New_York")],
        ),
        _ => (
            format!("0 {m} {h} L * ?"),
            &[("x-schedule-dialect", "quartz")],
        ),
    }
}

/// Once a day, at this time of the day in UTC.
fn daily_at(seconds: u64) -> String {
    let (s, m, h) = (seconds % 60, seconds / 60 % 60, seconds / 3_600 % 24);
    format!("{s} {m} {h} * * *")
}

fn seconds_since_1970() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn text(value: &str) -> FieldValue {
    FieldValue::LongString(value.as_bytes().to_vec().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The minutes of an expression: the field before that of hours.
    fn minute_of(number: u64, minute: u64) -> u64 {
        let (cron, _) = mixed(number, minute);
        let seconds = usize::from(matches!(number % 8, 4 | 7));
        cron.split(' ').nth(seconds).unwrap().parse().unwrap()
    }

    #[test]
    fn none_of_many_is_due_soon() {
        for minute in [0, 5, 29, 59] {
            for number in 0..1_000 {
                let until = (minute_of(number, minute) + 60 - minute) % 60;
                assert!(
                    (QUIET_MINUTES..60 - QUIET_MINUTES).contains(&until),
                    "{number} at minute {minute}: in {until} minutes"
                );
            }
        }
    }

    #[test]
    fn a_second_of_the_day() {
        assert_eq!(daily_at(86_400 * 7 + 3_661), "1 1 1 * * *");
        assert_eq!(daily_at(86_399), "59 59 23 * * *");
    }
}

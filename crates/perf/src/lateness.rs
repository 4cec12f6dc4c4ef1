//! Messages that wait for their time: how late each arrives, and that none comes early.
//!
//! A message's stamp is when it is due, in microseconds since 1970. Client and server are on one
//! machine, so they look at the same clock.

use std::{
    io::Write,
    net::TcpStream,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use hdrhistogram::Histogram;
use leveret_codec::{FieldTable, FieldValue};

use crate::{
    Error, Result,
    client::Client,
    error::Context as _,
    layout::{Layout, Shape},
    measure::{Measures, Metric, Timing, latency_histogram},
    pace::Pace,
    process::Watched,
    producer::{Producers, Publishing},
    receiver::{Acks, Receiver, Receivers, Stamps},
    script::{Script, Template},
    storage::Storage,
    throughput::{WRITE_TIMEOUT, consume, consumer, join, publisher, stop_on_error},
    url::Url,
    watch::{self, Counted},
};

/// From the first publish until the first message is due: all must be there by then.
const LEAD: Duration = Duration::from_secs(3);

/// How long messages wait on a server that knows no delays.
const TTL_MS: u32 = 5_000;

/// The time over which the messages of [`Lateness`] are due, unless it is shortened.
pub const MINUTE: Duration = Duration::from_secs(60);

/// A prime, and larger than any number of messages: multiplying by it shuffles.
const STRIDE: u64 = 15_485_863;

/// Persistent messages, each with a time of its own, evenly spread over a minute.
///
/// They are published in any order, before the first is due. On a server that knows no delays as
/// many are published in a minute to a queue with a TTL, one by one.
#[derive(Clone, Copy, Debug)]
pub struct Lateness {
    /// Messages a minute.
    pub count: u64,
    pub body_size: usize,
    pub confirm_window: u64,
    pub acks: Acks,
}

/// One run, in which `minute` stands for a minute: there are fewer messages if it is shorter, and
/// as many a second.
///
/// # Errors
/// When the server refuses or fails, or messages are lost, duplicated or altered.
pub fn run(
    url: &Url,
    server: Watched,
    plan: &Lateness,
    minute: Duration,
    timing: Timing,
) -> Result<Measures> {
    let count = ((plan.count as f64 * minute.as_secs_f64() / MINUTE.as_secs_f64()) as u64).max(1);
    let by_ttl = !knows_delays(url)?;
    let shape = if by_ttl {
        Shape::Delayed(TTL_MS)
    } else {
        Shape::Queue
    };
    let mut layout = Layout::declare(url, shape, plan.body_size, Storage::Disk)?;
    let (stream, received) = consumer(url, &layout.queues[0], plan.acks)?.into_parts();
    let receiver = Receiver::new(stream, plan.body_size, plan.acks, Stamps::Any)?
        .with_received(&received)
        .in_any_order();
    let mut receivers = Receivers::new(vec![receiver])?;
    let mut arrivals = Arrivals::default();
    let pace = &Pace::new(plan.body_size, 1);
    pace.add_sent(count);
    pace.finish();

    let measured = thread::scope(|scope| {
        let publish = scope.spawn(|| {
            let published = if by_ttl {
                let script = layout.scripts.remove(0);
                publish_steadily(publisher(url, false)?, script, count, minute, pace).map(|()| None)
            } else {
                publish_ahead(url, &layout.queues[0], plan, count, minute, timing).map(Some)
            };
            stop_on_error(pace, published)
        });
        let consume = scope.spawn(|| {
            let record = |stamp| arrivals.record(stamp);
            stop_on_error(pace, consume(&mut receivers, pace, timing, 0, record))
        });
        let counted = Counted {
            body_size: plan.body_size,
            stored: true,
        };
        let longest = LEAD + minute + timing.patience;
        let done = || pace.is_complete();
        let measured = watch::measure_until(server, pace, counted, longest, done);
        pace.stop();
        let filled = join(publish)?;
        join(consume)?;
        let mut measured = measured?;
        // How many are due in a second was our choice.
        measured.take(Metric::Rate);
        measured.take(Metric::ByteRate);
        if let Some(rate) = filled {
            measured.set(Metric::FillRate, rate);
        }
        Ok(measured)
    });
    let mut measures: Measures = measured?;
    receivers.finish([count])?;
    arrivals.set(&mut measures);
    drop(receivers);
    layout.remove()?;
    Ok(measures)
}

/// Whether this server can be asked to deliver a message later.
pub(crate) fn knows_delays(url: &Url) -> Result<bool> {
    let client = Client::connect(url)?;
    let knows = client.knows_delays();
    client.close()?;
    Ok(knows)
}

/// Publishes everything at once, with confirms; answers how many a second were confirmed.
fn publish_ahead(
    url: &Url,
    queue: &str,
    plan: &Lateness,
    count: u64,
    minute: Duration,
    timing: Timing,
) -> Result<f64> {
    let first = unix_micros(SystemTime::now() + LEAD) / 1_000;
    let minute_ms = minute.as_millis() as u64;
    let due_ms = |number: u64| first + place(number, count) * minute_ms / count;
    let templates: Vec<(Template, u64)> = (0..count)
        .map(|number| {
            let mut headers = FieldTable::default();
            let at = i64::try_from(due_ms(number)).unwrap_or(i64::MAX);
            headers.insert("x-deliver-at", FieldValue::I64(at));
            let template = Template {
                routing_key: queue.to_owned(),
                headers,
                body_size: plan.body_size,
                persistent: true,
                ..Template::default()
            };
            (template, due_ms(number) * 1_000)
        })
        .collect();
    let script = Script::stamped(templates.iter().map(|(template, due)| (template, *due)))?;
    confirmed(url, script, count, plan.confirm_window, timing)
}

/// Where the `number`th message that is published stands in the order of times.
fn place(number: u64, count: u64) -> u64 {
    let place = u128::from(number) * u128::from(STRIDE) % u128::from(count);
    u64::try_from(place).unwrap_or(u64::MAX)
}

/// Publishes the first `count` of a script and waits for all confirms; answers how many a second
/// that were.
///
/// # Errors
/// When one does not come.
pub(crate) fn confirmed(
    url: &Url,
    script: Script,
    count: u64,
    window: u64,
    timing: Timing,
) -> Result<f64> {
    let publishing = Publishing {
        window,
        copies: 1,
        confirms_count: true,
    };
    let pace = Pace::with_total(1, 1, count);
    let streams = vec![publisher(url, true)?];
    let mut producers = Producers::new(streams, vec![script], publishing)?;
    let since = Instant::now();
    producers.publish(&pace, timing)?;
    let rate = count as f64 / since.elapsed().as_secs_f64();
    if producers.unconfirmed() > 0 || pace.received() != count {
        let text = format!("{} of {count} publishes confirmed", pace.received());
        return Err(Error::Wrong(text));
    }
    Ok(rate)
}

/// Publishes one message at a time, evenly spaced.
fn publish_steadily(
    mut stream: TcpStream,
    mut script: Script,
    count: u64,
    minute: Duration,
    pace: &Pace,
) -> Result<()> {
    stream
        .set_write_timeout(Some(WRITE_TIMEOUT))
        .context("set a write timeout")?;
    let start = Instant::now();
    for number in 0..count {
        let due = start + minute.mul_f64(number as f64 / count as f64);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if pace.is_stopped() {
            return Ok(());
        }
        stream.write_all(script.take(1).bytes).context("publish")?;
    }
    // Not before the server has read all of it.
    while !pace.is_stopped() {
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// The stamp of a message that is due so long from now.
pub(crate) fn due_stamp(delay: Duration) -> u64 {
    unix_micros(SystemTime::now() + delay)
}

fn unix_micros(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// When messages came that were due at some time.
pub(crate) struct Arrivals {
    /// Nanoseconds after their time.
    late: Histogram<u64>,
    /// Microseconds before it, of the earliest.
    early_max: u64,
    /// The first and the last arrival, in microseconds since 1970.
    range: Option<(u64, u64)>,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self {
            late: latency_histogram(),
            early_max: 0,
            range: None,
        }
    }
}

impl Arrivals {
    /// A message with this stamp arrives now.
    pub(crate) fn record(&mut self, stamp: u64) {
        self.record_at(stamp, unix_micros(SystemTime::now()));
    }

    fn record_at(&mut self, stamp: u64, now: u64) {
        let late = now.saturating_sub(stamp).saturating_mul(1_000);
        self.late.saturating_record(late);
        self.early_max = self.early_max.max(stamp.saturating_sub(now));
        let (first, last) = self.range.unwrap_or((now, now));
        self.range = Some((first.min(now), last.max(now)));
    }

    /// How late they were, if any came.
    pub(crate) fn set(&self, measures: &mut Measures) {
        if self.late.is_empty() {
            return;
        }
        let millis = |nanos: u64| nanos as f64 / 1e6;
        let quantile = |quantile| millis(self.late.value_at_quantile(quantile));
        measures.set(Metric::LateP50, quantile(0.5));
        measures.set(Metric::LateP99, quantile(0.99));
        measures.set(Metric::LateMax, millis(self.late.max()));
        measures.set(Metric::Early, self.early_max as f64 / 1e3);
    }

    /// From the first to the last, in milliseconds.
    pub(crate) fn spread(&self) -> Option<f64> {
        self.range.map(|(first, last)| (last - first) as f64 / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_taken_once() {
        for count in [100_000, 25_000, 10_000, 1_667] {
            let mut places: Vec<u64> = (0..count).map(|number| place(number, count)).collect();
            assert!(
                !places.is_sorted(),
                "{count}: in another order than published"
            );
            places.sort_unstable();
            assert!(places.into_iter().eq(0..count), "{count}");
        }
    }

    #[test]
    fn late_and_early_arrivals() {
        let mut arrivals = Arrivals::default();
        let mut measures = Measures::default();
        arrivals.set(&mut measures);
        assert_eq!(measures, Measures::default(), "nothing came");
        for (stamp, now) in [(10_000, 12_000), (20_000, 19_500), (15_000, 15_000)] {
            arrivals.record_at(stamp, now);
        }
        arrivals.set(&mut measures);
        #[rustfmt::skip]
        let table = [
            (Metric::LateMax, 2.0, "the first"),
            (Metric::Early,   0.5, "the second"),
            (Metric::LateP50, 0.0, "the other two are not late"),
        ];
        for (metric, expected, why) in table {
            let got = measures.get(metric).unwrap();
            assert!((got - expected).abs() < 0.002, "{why}: {got}");
        }
        assert_eq!(arrivals.spread(), Some(7.5));
    }
}

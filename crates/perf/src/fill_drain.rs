//! A queue that grows while nobody consumes it, outlives a restart of its server, and is emptied.

use std::{thread, time::Duration};

use crate::{
    Error, Result,
    lateness::{Arrivals, knows_delays},
    layout::{Layout, Shape},
    measure::{Measures, Metric, Timing},
    pace::Pace,
    producer::{Producers, Publishing},
    receiver::{Acks, Receiver, Receivers, Stamps},
    scenario::Server,
    storage::Storage,
    throughput::{consume, consumer, join, publisher, stop_on_error},
    url::Url,
    watch::{self, Counted},
};

/// Memory that a broker may use before its messages are looked at: program, buffers, caches.
const RSS_WITHOUT_MESSAGES: u64 = 64 << 20;

/// See [`FillDrain::fit_for`].
const TTL_FEWER: u64 = 5;

/// What is put into the queue and taken out again.
#[derive(Clone, Copy, Debug)]
pub struct FillDrain {
    /// Messages, if there is time for so many.
    pub count: u64,
    pub body_size: usize,
    pub confirm_window: u64,
    pub acks: Acks,
    /// How long each message is to wait before it is in the queue, in milliseconds. They are
    /// published in three quarters of it, as many as there is time for, and the server is not
    /// restarted.
    pub delay_ms: Option<u32>,
}

impl FillDrain {
    /// Fewer messages with a longer delay for a server that is to delay them and cannot.
    fn fit_for(self, url: &Url) -> Result<Self> {
        Ok(match self.delay_ms {
            Some(ms) if !knows_delays(url)? => Self {
                count: self.count / TTL_FEWER,
                delay_ms: Some(ms + ms / 2),
                ..self
            },
            _ => self,
        })
    }

    /// How long to go on filling. The first must not be due before somebody consumes them.
    fn fill_for(&self, timing: Timing) -> Duration {
        let delay = self.delay_ms.map(|ms| Duration::from_millis(ms.into()));
        let before_due = delay.map_or(Duration::MAX, |delay| delay * 3 / 4);
        timing.longest().min(before_due)
    }
}

/// One run against one server. A server that is not ours is not restarted, nor is one that keeps
/// messages in memory.
///
/// # Errors
/// When the server refuses or fails, or a confirmed message is lost, duplicated, reordered or
/// altered.
pub fn run(
    server: &mut Server<'_>,
    plan: &FillDrain,
    storage: Storage,
    timing: Timing,
) -> Result<Measures> {
    let plan = &plan.fit_for(&server.url)?;
    let shape = plan.delay_ms.map_or(Shape::Queue, Shape::Delayed);
    let mut layout = Layout::declare(&server.url, shape, plan.body_size, storage)?;
    let counted = Counted {
        body_size: plan.body_size,
        stored: storage.is_durable(),
    };
    let (mut measures, sent) = fill(server, plan, &mut layout, counted, timing)?;
    if plan.delay_ms.is_none() {
        layout.wait_until_ready(sent)?;
    }
    thread::sleep(timing.settle());
    if let Some(rss) = server.watched.rss() {
        measures.set(Metric::Rss, rss as f64);
        let each = rss.saturating_sub(RSS_WITHOUT_MESSAGES) as f64 / sent as f64;
        measures.set(Metric::RssEach, each);
    }
    layout.disconnect()?; // a server may wait for its clients before it ends
    if storage.is_durable()
        && plan.delay_ms.is_none()
        && let Some(took) = server.restart()?
    {
        measures.set(Metric::Restart, took.as_secs_f64() * 1e3);
        layout
            .wait_until_ready(sent)
            .map_err(|error| Error::Wrong(format!("after the restart: {error}")))?;
    }
    drain(server, plan, &layout, counted, sent, timing)?
        .iter()
        .for_each(|(metric, value)| measures.set(metric, value));
    layout.remove()?;
    Ok(measures)
}

/// Publishes without a consumer; answers also how many messages were confirmed.
pub(crate) fn fill(
    server: &Server<'_>,
    plan: &FillDrain,
    layout: &mut Layout,
    counted: Counted,
    timing: Timing,
) -> Result<(Measures, u64)> {
    let publishing = Publishing {
        window: plan.confirm_window,
        copies: 1,
        confirms_count: true,
    };
    let streams = vec![publisher(&server.url, true)?];
    let scripts = std::mem::take(&mut layout.scripts);
    let mut producers = Producers::new(streams, scripts, publishing)?;
    let pace = &Pace::with_total(plan.body_size, 1, plan.count);
    let timing = Timing {
        drain: timing.patience, // all must be confirmed, or there is nothing to compare with
        ..timing
    };
    let measured = thread::scope(|scope| {
        let publish = scope.spawn(|| {
            let result = producers.publish(pace, timing);
            pace.finish();
            stop_on_error(pace, result)
        });
        let longest = plan.fill_for(timing);
        let done = || pace.is_finished();
        let measured = watch::measure_until(server.watched, pace, counted, longest, done);
        pace.stop();
        join(publish)?;
        measured
    })?;
    if producers.unconfirmed() > 0 {
        let text = format!(
            "{} publishes not confirmed in time",
            producers.unconfirmed()
        );
        return Err(Error::Wrong(text));
    }
    let mut measures = measured;
    if let Some(rate) = measures.take(Metric::Rate) {
        measures.set(Metric::FillRate, rate);
    }
    Ok((measures, producers.sent().sum()))
}

/// Takes everything out again.
pub(crate) fn drain(
    server: &Server<'_>,
    plan: &FillDrain,
    layout: &Layout,
    counted: Counted,
    sent: u64,
    timing: Timing,
) -> Result<Measures> {
    let pace = &Pace::new(plan.body_size, 1);
    pace.add_sent(sent);
    pace.finish();
    let (stream, received) = consumer(&server.url, &layout.queues[0], plan.acks)?.into_parts();
    let is_delayed = plan.delay_ms.is_some();
    let stamps = if is_delayed {
        Stamps::Any
    } else {
        Stamps::Always(0)
    };
    let mut arrivals = Arrivals::default();
    let receiver = Receiver::new(stream, plan.body_size, plan.acks, stamps)?
        .with_received(&received)
        .allow_redelivered();
    let mut receivers = Receivers::new(vec![receiver])?;
    let measured = thread::scope(|scope| {
        let consume = scope.spawn(|| {
            let record = |stamp| arrivals.record(stamp);
            let consumed = consume(&mut receivers, pace, timing, 0, record);
            stop_on_error(pace, consumed)
        });
        let longest = timing.longest();
        let done = || pace.is_complete();
        let measured = watch::measure_until(server.watched, pace, counted, longest, done);
        pace.stop();
        join(consume)?;
        measured
    })?;
    receivers.finish([sent])?;
    let mut measures = Measures::default();
    if let Some(rate) = measured.get(Metric::Rate) {
        measures.set(Metric::DrainRate, rate);
    }
    arrivals.set(&mut measures);
    let left = sent.saturating_sub(pace.received());
    if left > 0 || is_delayed {
        measures.set(Metric::Left, left as f64);
    }
    Ok(measures)
}

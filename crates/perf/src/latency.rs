//! How long a message is on its way while the server is not saturated, alone or beside a noisy
//! neighbour.
//!
//! A message's stamp is the time it was written. When the writer could not keep to its schedule,
//! because the server held it back, the stamp is the time it was due: waiting to be let in is
//! latency too.

use std::{
    io::Write,
    net::TcpStream,
    num::NonZeroU64,
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use rustix::thread::set_current_timer_slack;

use crate::{
    Result,
    client::Client,
    error::Context as _,
    layout::{Layout, Shape},
    measure::{Measures, Timing, latency_histogram},
    pace::Pace,
    process::Watched,
    receiver::{Acks, Receiver, Receivers, Stamps},
    script::Script,
    storage::Storage,
    throughput::{consume, join, stop_on_error},
    url::Url,
    watch::{self, Counted},
};

/// Connections that publish to a queue of their own and consume from it, at a steady rate.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    pub connections: u16,
    /// Messages per second of each.
    pub rate_each: u32,
    pub body_size: usize,
    pub noise: Option<Noise>,
}

/// One more connection, which does the same in bursts and is not measured.
#[derive(Clone, Copy, Debug)]
pub struct Noise {
    /// Messages per second.
    pub rate: u32,
    pub body_size: usize,
}

/// Time between bursts of noise: what a busy publisher gathers between two writes.
const BURST_EVERY: Duration = Duration::from_millis(5);

/// Later than this, the server has held the writer back; sooner, the kernel woke it up late.
const HELD_BACK: Duration = Duration::from_millis(1);

/// One run against one server.
///
/// # Errors
/// When the server refuses or fails, or messages are lost, duplicated, reordered or altered.
pub fn run(url: &Url, server: Watched, latency: &Latency, timing: Timing) -> Result<Measures> {
    let shape = Shape::Queues(latency.connections);
    let mut quiet = Side::open(url, shape, latency.body_size, Stamps::Any)?;
    let noise = latency.noise;
    let mut noisy = noise
        .map(|noise| Side::open(url, Shape::Queue, noise.body_size, Stamps::Always(0)))
        .transpose()?;

    let epoch = Instant::now();
    let (quiet_pace, noisy_pace) = (Pace::new(latency.body_size, 1), Pace::new(16, 1));
    let (quiet_pace, noisy_pace) = (&quiet_pace, &noisy_pace);
    let mut nanos = latency_histogram();
    let rate = u32::from(latency.connections) * latency.rate_each;
    let record_from = timing.warm_up;

    let measured = thread::scope(|scope| {
        let (side, pace) = (&mut quiet, quiet_pace);
        let (streams, scripts) = (&mut side.streams, &mut side.scripts);
        let publish = scope.spawn(move || {
            let result = publish_steadily(streams, scripts, rate, epoch, pace);
            pace.finish();
            stop_on_error(pace, result)
        });
        let (receivers, nanos) = (&mut side.receivers, &mut nanos);
        let receive = scope.spawn(move || {
            let record = |stamp| record(nanos, stamp, epoch, record_from);
            stop_on_error(pace, consume(receivers, pace, timing, 0, record))
        });
        let noise = noisy.as_mut().zip(noise).map(|(side, noise)| {
            let (streams, scripts) = (&mut side.streams, &mut side.scripts);
            let receivers = &mut side.receivers;
            let publish = scope.spawn(move || {
                let result = publish_bursts(&mut streams[0], &mut scripts[0], noise, noisy_pace);
                noisy_pace.finish();
                stop_on_error(quiet_pace, result)
            });
            let receive = scope.spawn(move || {
                stop_on_error(
                    quiet_pace,
                    consume(receivers, noisy_pace, timing, 0, |_stamp| ()),
                )
            });
            (publish, receive)
        });
        let measured = watch::measure(server, quiet_pace, timing, Counted::default());
        quiet_pace.stop();
        noisy_pace.stop();
        join(publish)?;
        join(receive)?;
        if let Some((publish, receive)) = noise {
            join(publish)?;
            join(receive)?;
        }
        measured
    });
    let mut measures = measured?;
    measures.set_latency(&nanos);
    quiet.finish()?;
    if let Some(noisy) = noisy {
        noisy.finish()?;
    }
    Ok(measures)
}

/// Connections that publish and consume, with all they need.
struct Side {
    layout: Layout,
    streams: Vec<TcpStream>,
    scripts: Vec<Script>,
    receivers: Receivers,
}

impl Side {
    fn open(url: &Url, shape: Shape, body_size: usize, stamps: Stamps) -> Result<Self> {
        let mut layout = Layout::declare(url, shape, body_size, Storage::Memory)?;
        let scripts = std::mem::take(&mut layout.scripts);
        let mut streams = Vec::new();
        let mut receivers = Vec::new();
        for queue in &layout.queues {
            let mut client = Client::connect(url)?;
            client.consume(queue, true)?;
            let stream = client.into_stream()?;
            streams.push(stream.try_clone().context("share a socket")?);
            receivers.push(Receiver::new(stream, body_size, Acks::Auto, stamps)?);
        }
        Ok(Self {
            layout,
            streams,
            scripts,
            receivers: Receivers::new(receivers)?,
        })
    }

    fn finish(self) -> Result<()> {
        self.receivers
            .finish(self.scripts.iter().map(Script::sent))?;
        self.layout.remove()
    }
}

/// One message at a time, evenly spaced, on all connections in turn.
fn publish_steadily(
    streams: &mut [TcpStream],
    scripts: &mut [Script],
    rate: u32,
    epoch: Instant,
    pace: &Pace,
) -> Result<()> {
    wake_up_on_time();
    let interval = Duration::from_secs(1) / rate.max(1);
    let mut due = Instant::now();
    loop {
        for (stream, script) in streams.iter_mut().zip(&mut *scripts) {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if pace.wait_for_room().is_none() {
                return Ok(());
            }
            let stamp = stamp(due, Instant::now(), epoch);
            pace.add_sent(1);
            stream
                .write_all(script.take_stamped(stamp))
                .context("publish")?;
            due += interval;
        }
    }
}

fn publish_bursts(
    stream: &mut TcpStream,
    script: &mut Script,
    noise: Noise,
    pace: &Pace,
) -> Result<()> {
    wake_up_on_time();
    let burst = (f64::from(noise.rate) * BURST_EVERY.as_secs_f64()) as u64;
    let mut due = Instant::now();
    loop {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let mut left = burst;
        while left > 0 {
            let Some(room) = pace.wait_for_room() else {
                return Ok(());
            };
            let batch = script.take(left.min(room));
            pace.add_sent(batch.count);
            left -= batch.count;
            stream.write_all(batch.bytes).context("publish noise")?;
        }
        // What could not be sent in time is not made up for: the rate is a cap.
        due = (due + BURST_EVERY).max(Instant::now());
    }
}

/// In nanoseconds since `epoch`.
fn stamp(due: Instant, now: Instant, epoch: Instant) -> u64 {
    let held_back = now.saturating_duration_since(due) > HELD_BACK;
    let at = if held_back { due } else { now };
    nanos_since(epoch, at)
}

fn record(nanos: &mut Histogram<u64>, stamp: u64, epoch: Instant, from: Duration) {
    if u128::from(stamp) >= from.as_nanos() {
        nanos.saturating_record(nanos_since(epoch, Instant::now()).saturating_sub(stamp));
    }
}

fn nanos_since(epoch: Instant, at: Instant) -> u64 {
    let nanos = at.saturating_duration_since(epoch).as_nanos();
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

/// Asks the kernel not to round our sleeps up by its usual 50 µs, which would be a good part of
/// what is measured. Where it refuses, figures are a little worse for all servers alike.
fn wake_up_on_time() {
    let _ = set_current_timer_slack(NonZeroU64::new(1));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_of_messages_on_time_and_held_back() {
        let epoch = Instant::now();
        let at = |micros| epoch + Duration::from_micros(micros);
        #[rustfmt::skip]
        let table = [
            // due    now    stamp  why this row is here
            (100,     100,   100,   "on time"),
            (100,     170,   170,   "the kernel's lateness is not the server's"),
            (100,     5_000, 100,   "held back: waiting counts"),
            (100,     90,    90,    "early: no panic"),
        ];
        for (due, now, expected, why) in table {
            assert_eq!(stamp(at(due), at(now), epoch), expected * 1_000, "{why}");
        }
    }

    #[test]
    fn warm_up_is_not_recorded() {
        let epoch = Instant::now();
        let mut nanos = latency_histogram();
        record(&mut nanos, 999, epoch, Duration::from_micros(1));
        assert_eq!(nanos.len(), 0);
        record(&mut nanos, 1_000, epoch, Duration::from_micros(1));
        assert_eq!(nanos.len(), 1);
    }
}

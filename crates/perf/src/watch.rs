//! The clock: what happens between two moments while other threads work.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use crate::{
    Error, Result,
    measure::{Measures, Metric, Timing},
    pace::Pace,
    process::{self, Watched},
};

/// Measures what passes through `pace` and what that costs, after warming up. Ends early when
/// `pace` is stopped, by a thread that failed.
///
/// # Errors
/// When nothing arrives.
pub fn measure(server: Watched, pace: &Pace, timing: Timing, body_size: usize) -> Result<Measures> {
    wait(pace, timing.warm_up);
    let before = Moment::now(server, pace);
    wait(pace, timing.measured);
    let after = Moment::now(server, pace);
    let mut measures = before.until(&after, body_size)?;
    if let Some(rss) = server.rss() {
        measures.set(Metric::Rss, rss as f64);
    }
    Ok(measures)
}

struct Moment {
    at: Instant,
    received: u64,
    server_cpu: Option<Duration>,
    threads: BTreeMap<u32, Duration>,
}

impl Moment {
    fn now(server: Watched, pace: &Pace) -> Self {
        let server_cpu = server.cpu();
        let threads = process::own_threads();
        Self {
            at: Instant::now(),
            received: pace.received(),
            server_cpu,
            threads,
        }
    }

    fn until(&self, after: &Self, body_size: usize) -> Result<Measures> {
        let seconds = (after.at - self.at).as_secs_f64();
        let count = (after.received - self.received) as f64;
        if count == 0.0 {
            return Err(Error::Wrong(format!("nothing arrived in {seconds:.1} s")));
        }
        let mut measures = Measures::default();
        measures.set(Metric::Rate, count / seconds);
        if body_size > 0 {
            measures.set(Metric::ByteRate, count * body_size as f64 / seconds);
        }
        if let (Some(before), Some(after)) = (self.server_cpu, after.server_cpu) {
            let cpu = after.saturating_sub(before).as_secs_f64();
            measures.set(Metric::CpuMicros, cpu * 1e6 / count);
            measures.set(Metric::ServerCores, cpu / seconds);
        }
        let threads = after.threads.iter().map(|(tid, cpu)| {
            let before = self.threads.get(tid).copied().unwrap_or_default();
            cpu.saturating_sub(before).as_secs_f64() / seconds
        });
        let (sum, most) = threads.fold((0.0, 0.0_f64), |(sum, most), cores| {
            (sum + cores, most.max(cores))
        });
        measures.set(Metric::ClientCores, sum);
        measures.set(Metric::ClientThread, most);
        Ok(measures)
    }
}

/// Sleeps, but not longer than until something has failed.
fn wait(pace: &Pace, duration: Duration) {
    let until = Instant::now() + duration;
    while !pace.is_stopped() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(Duration::from_millis(50)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_between_two_moments() {
        let start = Instant::now();
        let millis = Duration::from_millis;
        let before = Moment {
            at: start,
            received: 1_000,
            server_cpu: Some(millis(500)),
            threads: BTreeMap::from([(1, millis(100))]),
        };
        let after = Moment {
            at: start + Duration::from_secs(2),
            received: 5_000,
            server_cpu: Some(millis(700)),
            threads: BTreeMap::from([(1, millis(300)), (2, millis(1_000))]),
        };
        let measures = before.until(&after, 10).unwrap();
        #[rustfmt::skip]
        let table = [
            (Metric::Rate,         2_000.0,  "4,000 in 2 s"),
            (Metric::ByteRate,     20_000.0, "of 10 bytes"),
            (Metric::CpuMicros,    50.0,     "200 ms over 4,000"),
            (Metric::ServerCores,  0.1,      "200 ms in 2 s"),
            (Metric::ClientCores,  0.6,      "200 ms, and 1 s of a new thread"),
            (Metric::ClientThread, 0.5,      "the new thread"),
        ];
        for (metric, expected, why) in table {
            let got = measures.get(metric).unwrap();
            assert!((got - expected).abs() < 1e-9, "{why}: {got}");
        }
        assert!(after.until(&after, 10).is_err(), "nothing arrived");
    }
}

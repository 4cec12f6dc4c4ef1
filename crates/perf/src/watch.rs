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

/// How exactly the end of what takes its own time is noticed.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What is counted, and what of it is looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    /// Bytes in each; 0: bytes are not counted.
    pub body_size: usize,
    /// It is kept on disk, so what is written there is of interest.
    pub stored: bool,
}

/// Measures what passes through `pace` and what that costs, after warming up. Ends early when
/// `pace` is stopped, by a thread that failed.
///
/// # Errors
/// When nothing arrives.
pub fn measure(server: Watched, pace: &Pace, timing: Timing, counted: Counted) -> Result<Measures> {
    wait(timing.warm_up, || pace.is_stopped());
    let before = Moment::now(server, pace);
    wait(timing.measured, || pace.is_stopped());
    let mut measures = before.until(&Moment::now(server, pace), counted)?;
    if let Some(rss) = server.rss() {
        measures.set(Metric::Rss, rss as f64);
    }
    Ok(measures)
}

/// Measures all that passes until `done`, but no longer than `longest`.
///
/// # Errors
/// When nothing arrives.
pub fn measure_until(
    server: Watched,
    pace: &Pace,
    counted: Counted,
    longest: Duration,
    done: impl Fn() -> bool,
) -> Result<Measures> {
    let before = Moment::now(server, pace);
    wait(longest, || pace.is_stopped() || done());
    let mut measures = before.until(&Moment::now(server, pace), counted)?;
    // The threads that did the work may have ended, and their CPU time gone with them.
    measures.take(Metric::ClientCores);
    measures.take(Metric::ClientThread);
    Ok(measures)
}

struct Moment {
    at: Instant,
    received: u64,
    server_cpu: Option<Duration>,
    threads: BTreeMap<u32, Duration>,
    /// Bytes that the server has given to the disk.
    written: Option<u64>,
    /// Times that it has forced its log there.
    syncs: Option<u64>,
}

impl Moment {
    fn now(server: Watched, pace: &Pace) -> Self {
        let server_cpu = server.cpu();
        let threads = process::own_threads();
        let (written, syncs) = (server.written(), server.log_syncs());
        Self {
            at: Instant::now(),
            received: pace.received(),
            server_cpu,
            threads,
            written,
            syncs,
        }
    }

    fn until(&self, after: &Self, counted: Counted) -> Result<Measures> {
        let seconds = (after.at - self.at).as_secs_f64();
        let count = (after.received - self.received) as f64;
        if count == 0.0 {
            return Err(Error::Wrong(format!("nothing arrived in {seconds:.1} s")));
        }
        let mut measures = Measures::default();
        measures.set(Metric::Rate, count / seconds);
        let bytes = count * counted.body_size as f64;
        if bytes > 0.0 {
            measures.set(Metric::ByteRate, bytes / seconds);
        }
        if let Some(written) = grown(self.written, after.written)
            && counted.stored
        {
            measures.set(Metric::WrittenEach, written / count);
            measures.set(Metric::WrittenFactor, written / bytes.max(1.0));
        }
        if let Some(syncs) = grown(self.syncs, after.syncs)
            && counted.stored
        {
            measures.set(Metric::PerSync, count / syncs);
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

/// What a counter has grown by, if it is there and has.
fn grown(before: Option<u64>, after: Option<u64>) -> Option<f64> {
    let growth = after?.checked_sub(before?)?;
    (growth > 0).then_some(growth as f64)
}

/// Sleeps, but not longer than until `over`, because something has failed, say.
fn wait(duration: Duration, over: impl Fn() -> bool) {
    let until = Instant::now() + duration;
    while !over() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(LOOK_EVERY));
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
            written: Some(4_096),
            syncs: Some(7),
        };
        let after = Moment {
            at: start + Duration::from_secs(2),
            received: 5_000,
            server_cpu: Some(millis(700)),
            threads: BTreeMap::from([(1, millis(300)), (2, millis(1_000))]),
            written: Some(84_096),
            syncs: Some(47),
        };
        let counted = Counted {
            body_size: 10,
            stored: true,
        };
        let measures = before.until(&after, counted).unwrap();
        #[rustfmt::skip]
        let table = [
            (Metric::Rate,          2_000.0,  "4,000 in 2 s"),
            (Metric::ByteRate,      20_000.0, "of 10 bytes"),
            (Metric::CpuMicros,     50.0,     "200 ms over 4,000"),
            (Metric::ServerCores,   0.1,      "200 ms in 2 s"),
            (Metric::ClientCores,   0.6,      "200 ms, and 1 s of a new thread"),
            (Metric::ClientThread,  0.5,      "the new thread"),
            (Metric::PerSync,       100.0,    "4,000 with 40 syncs"),
            (Metric::WrittenEach,   20.0,     "80,000 bytes for 4,000"),
            (Metric::WrittenFactor, 2.0,      "for 40,000 bytes of bodies"),
        ];
        for (metric, expected, why) in table {
            let got = measures.get(metric).unwrap();
            assert!((got - expected).abs() < 1e-9, "{why}: {got}");
        }
        assert!(after.until(&after, counted).is_err(), "nothing arrived");

        let passing = before.until(&after, Counted::default()).unwrap();
        for metric in [Metric::ByteRate, Metric::WrittenEach, Metric::PerSync] {
            assert_eq!(passing.get(metric), None, "{metric:?} is of no interest");
        }
    }

    #[test]
    fn counters_that_are_there_and_have_grown() {
        #[rustfmt::skip]
        let table = [
            (Some(1), Some(4), Some(3.0), "grown"),
            (Some(4), Some(4), None,      "nothing to divide by"),
            (Some(4), Some(1), None,      "another process by now"),
            (None,    Some(4), None,      "not there before"),
            (Some(4), None,    None,      "not there any more"),
        ];
        for (before, after, expected, why) in table {
            assert_eq!(grown(before, after), expected, "{why}");
        }
    }
}

//! What a run yields: figures by name, and their medians over runs.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;

/// One kind of figure. The order is that of the table.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Metric {
    /// Deliveries, or whatever else the scenario counts, per second.
    Rate,
    /// The same while a queue is filled, and while it is drained.
    FillRate,
    DrainRate,
    /// Bodies delivered, in bytes per second.
    ByteRate,
    /// CPU time of the server for each of what is counted, in microseconds.
    CpuMicros,
    /// Processors that the server kept busy.
    ServerCores,
    /// Processors that the load generator kept busy.
    ClientCores,
    /// The same of its busiest thread: near 1, the client was the limit.
    ClientThread,
    /// Latency, in microseconds.
    P50,
    P99,
    P999,
    /// How long after its time a message arrived, in milliseconds.
    LateP50,
    LateP99,
    LateMax,
    /// How long before its time the earliest arrived, in milliseconds; 0: none did.
    Early,
    /// From the first arrival of those that were due at once to the last, in milliseconds.
    Spread,
    /// CPU time of a server that has nothing to do, in percent of one processor.
    IdlePercent,
    /// What is counted, for each time the log was forced to disk.
    PerSync,
    /// Bytes given to the disk, for each of what is counted.
    WrittenEach,
    /// The same for each byte of bodies.
    WrittenFactor,
    /// Resident memory of the server, in bytes.
    Rss,
    /// What each connection or message added to it.
    RssEach,
    /// From the start of the server's process until it lets somebody in, in milliseconds.
    Restart,
    /// Messages that were not waited for, since the server is too slow.
    Left,
}

impl Metric {
    pub const ALL: [Self; 24] = [
        Self::Rate,
        Self::FillRate,
        Self::DrainRate,
        Self::ByteRate,
        Self::CpuMicros,
        Self::ServerCores,
        Self::ClientCores,
        Self::ClientThread,
        Self::P50,
        Self::P99,
        Self::P999,
        Self::LateP50,
        Self::LateP99,
        Self::LateMax,
        Self::Early,
        Self::Spread,
        Self::IdlePercent,
        Self::PerSync,
        Self::WrittenEach,
        Self::WrittenFactor,
        Self::Rss,
        Self::RssEach,
        Self::Restart,
        Self::Left,
    ];

    /// As it is called in JSON: with its unit.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate_per_second",
            Self::FillRate => "fill_rate_per_second",
            Self::DrainRate => "drain_rate_per_second",
            Self::ByteRate => "body_bytes_per_second",
            Self::CpuMicros => "server_cpu_us",
            Self::ServerCores => "server_cores",
            Self::ClientCores => "client_cores",
            Self::ClientThread => "client_busiest_thread_cores",
            Self::P50 => "p50_us",
            Self::P99 => "p99_us",
            Self::P999 => "p999_us",
            Self::LateP50 => "late_p50_ms",
            Self::LateP99 => "late_p99_ms",
            Self::LateMax => "late_max_ms",
            Self::Early => "early_max_ms",
            Self::Spread => "spread_ms",
            Self::IdlePercent => "idle_cpu_percent",
            Self::PerSync => "per_sync",
            Self::WrittenEach => "disk_bytes_each",
            Self::WrittenFactor => "disk_bytes_per_body_byte",
            Self::Rss => "rss_bytes",
            Self::RssEach => "rss_bytes_each",
            Self::Restart => "restart_ms",
            Self::Left => "messages_left",
        }
    }

    /// As it heads a column of the table.
    pub fn heading(self) -> &'static str {
        match self {
            Self::Rate => "per s",
            Self::FillRate => "fill/s",
            Self::DrainRate => "drain/s",
            Self::ByteRate => "MB/s",
            Self::CpuMicros => "cpu us",
            Self::ServerCores => "server",
            Self::ClientCores => "client",
            Self::ClientThread => "thread",
            Self::P50 => "p50 us",
            Self::P99 => "p99 us",
            Self::P999 => "p99.9 us",
            Self::LateP50 => "late p50",
            Self::LateP99 => "late p99",
            Self::LateMax => "late max",
            Self::Early => "early ms",
            Self::Spread => "spread ms",
            Self::IdlePercent => "idle %",
            Self::PerSync => "per sync",
            Self::WrittenEach => "disk each",
            Self::WrittenFactor => "disk/body",
            Self::Rss => "RSS MiB",
            Self::RssEach => "RSS each",
            Self::Restart => "start ms",
            Self::Left => "left",
        }
    }

    /// As it stands in a cell of the table.
    pub fn format(self, value: f64) -> String {
        match self {
            Self::Rate | Self::FillRate | Self::DrainRate if value >= 100_000.0 => {
                format!("{:.0} k", value / 1e3)
            }
            Self::Rate
            | Self::FillRate
            | Self::DrainRate
            | Self::P50
            | Self::P99
            | Self::P999
            | Self::WrittenEach
            | Self::RssEach
            | Self::Restart
            | Self::Left => format!("{value:.0}"),
            Self::PerSync
            | Self::LateP50
            | Self::LateP99
            | Self::LateMax
            | Self::Early
            | Self::Spread => format!("{value:.1}"),
            Self::ByteRate => format!("{:.0}", value / 1e6),
            Self::CpuMicros if value >= 10.0 => format!("{value:.1}"),
            Self::CpuMicros => format!("{value:.3}"),
            Self::ServerCores
            | Self::ClientCores
            | Self::ClientThread
            | Self::IdlePercent
            | Self::WrittenFactor => format!("{value:.2}"),
            Self::Rss => format!("{:.1}", value / f64::from(1 << 20)),
        }
    }
}

/// The figures of one run, or the medians of several.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measures(BTreeMap<Metric, f64>);

impl Measures {
    pub fn set(&mut self, metric: Metric, value: f64) {
        self.0.insert(metric, value);
    }

    pub fn get(&self, metric: Metric) -> Option<f64> {
        self.0.get(&metric).copied()
    }

    pub fn take(&mut self, metric: Metric) -> Option<f64> {
        self.0.remove(&metric)
    }

    pub fn iter(&self) -> impl Iterator<Item = (Metric, f64)> {
        self.0.iter().map(|(&metric, &value)| (metric, value))
    }

    /// Takes p50, p99 and p99.9 from a histogram of nanoseconds.
    pub fn set_latency(&mut self, nanos: &Histogram<u64>) {
        for (metric, quantile) in [
            (Metric::P50, 0.5),
            (Metric::P99, 0.99),
            (Metric::P999, 0.999),
        ] {
            self.set(metric, nanos.value_at_quantile(quantile) as f64 / 1e3);
        }
    }

    /// Each figure's median, over the runs that have it.
    pub fn median(runs: &[Self]) -> Self {
        let mut values: BTreeMap<Metric, Vec<f64>> = BTreeMap::new();
        for (metric, value) in runs.iter().flat_map(Self::iter) {
            values.entry(metric).or_default().push(value);
        }
        let medians = values
            .into_iter()
            .filter_map(|(metric, values)| Some((metric, median(values)?)));
        Self(medians.collect())
    }
}

/// How long a run takes.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Before anything counts: queues, caches and the processor's clock settle.
    pub warm_up: Duration,
    pub measured: Duration,
    /// How long to wait for what was sent before the end, when it comes but slowly.
    pub drain: Duration,
    /// How long nothing may arrive before what is missing counts as lost.
    pub patience: Duration,
}

impl Timing {
    /// How long to go on with what takes its own time, such as filling a queue.
    pub fn longest(&self) -> Duration {
        self.measured * 10
    }

    /// How long to let a server come to rest before its memory is read.
    pub fn settle(&self) -> Duration {
        self.warm_up
    }
}

/// A histogram of nanoseconds from 1 µs to 60 s, with three digits.
///
/// Shorter is counted as 1 µs and longer as 60 s.
pub fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 60_000_000_000, 3).expect("constant bounds are valid")
}

/// The middle value, or the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        #[rustfmt::skip]
        let table: [(&[f64], Option<f64>, &str); 4] = [
            (&[3.0, 1.0, 2.0],      Some(2.0), "unsorted"),
            (&[1.0, 9.0],           Some(5.0), "two: the mean"),
            (&[1.0, 2.0, 4.0, 9.0], Some(3.0), "four: of the two in the middle"),
            (&[],                   None,      "none"),
        ];
        for (values, expected, why) in table {
            assert_eq!(median(values.to_vec()), expected, "{why}");
        }
    }

    #[test]
    fn median_of_runs_is_by_figure() {
        let run = |rate: f64, cpu: f64| {
            let mut run = Measures::default();
            run.set(Metric::Rate, rate);
            run.set(Metric::CpuMicros, cpu);
            run
        };
        let median = Measures::median(&[run(1.0, 30.0), run(2.0, 10.0), run(3.0, 20.0)]);
        assert_eq!(median, run(2.0, 20.0));
        assert_eq!(Measures::median(&[]), Measures::default());
    }

    #[test]
    fn percentiles_of_a_histogram() {
        let mut nanos = latency_histogram();
        for micros in 1..=1_000 {
            nanos.record(micros * 1_000).unwrap();
        }
        let mut measures = Measures::default();
        measures.set_latency(&nanos);
        for (metric, expected) in [
            (Metric::P50, 500.0),
            (Metric::P99, 990.0),
            (Metric::P999, 999.0),
        ] {
            let got = measures.get(metric).unwrap();
            assert!(
                (got - expected).abs() < expected * 0.002,
                "{metric:?} {got}"
            );
        }
    }

    #[test]
    fn cells() {
        #[rustfmt::skip]
        let table = [
            (Metric::Rate,      2_345_678.0,     "2346 k"),
            (Metric::Rate,      1_234.4,         "1234"),
            (Metric::ByteRate,  37_000_000.0,    "37"),
            (Metric::CpuMicros, 0.1234,          "0.123"),
            (Metric::CpuMicros, 12.34,           "12.3"),
            (Metric::Rss,       12.5 * 1_048_576.0, "12.5"),
        ];
        for (metric, value, expected) in table {
            assert_eq!(metric.format(value), expected);
        }
    }
}

//! Counters and gauges as Prometheus reads them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use leveret_core::Totals;
use leveret_scheduler as scheduler;

use crate::alarms;
use crate::node::Node;

/// All metrics, families in the order of their names.
#[must_use]
pub fn render(node: &Node) -> String {
    let mut page = Page::default();
    for (vhost, shard) in &node.shards {
        let (metrics, totals) = shard.snapshot();
        for (name, help, value) in metrics.rows() {
            page.add(Kind::Counter, name, help, Some(vhost), value);
        }
        for (name, help, value) in gauges(&totals) {
            page.add(Kind::Gauge, name, help, Some(vhost), value);
        }
    }
    for (vhost, metrics) in &node.schedules {
        of_schedules(&mut page, vhost, metrics);
    }
    let (accepted, closed) = node.registry.counts();
    let (succeeded, failed) = node.door.attempts();
    #[rustfmt::skip]
    let rows = [
        (Kind::Counter, "sockets_accepted", "Connections accepted, logged in or not.", accepted),
        (Kind::Counter, "sockets_closed", "Connections closed, logged in or not.", closed),
        (Kind::Counter, "sockets_turned_away", "Connections closed at once because there were too many.", node.turned_away.load(Ordering::Relaxed)),
        (Kind::Gauge,   "sockets", "Connections, logged in or not.", node.registry.len() as u64),
        (Kind::Gauge,   "sockets_unauthenticated", "Connections that have not opened a vhost.", node.lobby.len() as u64),
        (Kind::Counter, "auth_attempts_succeeded", "Logins that succeeded.", succeeded),
        (Kind::Counter, "auth_attempts_failed", "Logins that were refused.", failed),
        (Kind::Counter, "definitions_backups", "Backups of definitions that were written.", node.backups.written.load(Ordering::Relaxed)),
        (Kind::Counter, "definitions_backups_failed", "Backups of definitions that could not be written.", node.backups.failed.load(Ordering::Relaxed)),
        (Kind::Gauge,   "schedules_expressions", "Different cron expressions of schedules.", node.crons.len() as u64),
        (Kind::Counter, "panics", "Bugs that were caught; each is in the log.", node.panics.load(Ordering::Relaxed)),
        (Kind::Gauge,   "alarms_memory_used_watermark", "1 while memory is short.", u64::from(node.memory_alarm())),
        (Kind::Gauge,   "resident_memory_limit_bytes", "Memory use where publishers are stopped.", alarms::mark(node.settings.memory_watermark)),
        (Kind::Gauge,   "process_resident_memory_bytes", "Resident memory.", alarms::resident().unwrap_or_default()),
        (Kind::Gauge,   "uptime_seconds", "Time since the start.", node.clock.mono().0 / 1_000),
    ];
    for (kind, name, help, value) in rows.into_iter().chain(of_log(node)) {
        page.add(kind, name, help, None, value);
    }
    page.render()
}

fn of_schedules(page: &mut Page, vhost: &str, metrics: &scheduler::Metrics) {
    #[rustfmt::skip]
    let rows = [
        (Kind::Gauge,   "schedules", "Schedules, ended ones included.", metrics.schedules()),
        (Kind::Gauge,   "schedules_history_runs", "Runs that the histories of schedules remember.", metrics.history_runs()),
        (Kind::Counter, "schedules_overlapped", "Times left out because the run before was not over.", metrics.overlapped()),
        (Kind::Counter, "schedules_missed", "Occasions on which times of a schedule were missed.", metrics.missed()),
        (Kind::Counter, "schedules_acked", "Runs whose messages have all been acknowledged.", metrics.acked()),
        (Kind::Counter, "schedules_failed", "Runs that came to another end.", metrics.failed()),
        (Kind::Counter, "schedules_processing_milliseconds", "Time from delivery to acknowledgement, of acknowledged runs.", metrics.processing_ms()),
        (Kind::Counter, "schedules_alarms", "Deadlines of runs that passed without an acknowledgement.", metrics.alarms()),
    ];
    for (kind, name, help, value) in rows {
        page.add(kind, name, help, Some(vhost), value);
    }
    let bounds = scheduler::metrics::LATENESS_BOUNDS_MS;
    let help = "How long after its time a message of a schedule was published.";
    page.add_histogram(
        "schedules_lateness_milliseconds",
        help,
        vhost,
        &bounds,
        &metrics.lateness(),
        metrics.lateness_ms(),
    );
}

fn of_log(node: &Node) -> [(Kind, &'static str, &'static str, u64); 17] {
    let log = node.store.metrics();
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    #[rustfmt::skip]
    let rows = [
        (Kind::Counter, "log_syncs", "Times that records were made safe (fdatasync).", read(&log.syncs)),
        (Kind::Counter, "log_records", "Records that were made safe.", read(&log.records)),
        (Kind::Counter, "log_written_bytes", "Octets written to the log, compaction included.", read(&log.bytes_written)),
        (Kind::Counter, "log_compacted_bytes", "Octets of them that compaction copied.", read(&log.bytes_moved)),
        (Kind::Counter, "log_messages_left_out", "Messages that came and went before they were written.", read(&log.left_out)),
        (Kind::Gauge,   "log_segments", "Files of the log.", read(&log.segments)),
        (Kind::Gauge,   "log_spare_segments", "Files that wait to become part of the log.", read(&log.spares)),
        (Kind::Gauge,   "log_staged_bytes", "Octets of records that wait to be made safe.", node.store.staged_bytes()),
        (Kind::Gauge,   "log_recovery_milliseconds", "What reading the log took at the start.", read(&log.recovery_ms)),
        (Kind::Gauge,   "log_recovered_messages", "Messages found in the log at the start.", read(&log.recovered_messages)),
        (Kind::Gauge,   "log_cut_bytes", "Octets cut off a torn end of the log at the start.", read(&log.cut_bytes)),
        (Kind::Gauge,   "swap_messages", "Messages in the swap area.", read(&log.swap_messages)),
        (Kind::Gauge,   "swap_bytes", "Octets of the files of the swap area.", read(&log.swap_bytes)),
        (Kind::Counter, "swap_messages_written", "Messages that were written to the swap area.", read(&log.swapped)),
        (Kind::Counter, "swap_failures", "Times that messages could not be written to the swap area, and stayed in memory.", read(&log.swaps_failed)),
        (Kind::Gauge,   "alarms_free_disk_space_watermark", "1 while the disk is nearly full.", u64::from(node.log.is_full())),
        (Kind::Gauge,   "log_lost", "1 after the log has failed.", u64::from(node.log.lost().is_some())),
    ];
    rows
}

fn gauges(totals: &Totals) -> [(&'static str, &'static str, u64); 11] {
    #[rustfmt::skip]
    let rows = [
        ("connections",          "Open connections.",                              totals.connections),
        ("channels",             "Open channels.",                                 totals.channels),
        ("consumers",            "Consumers.",                                     totals.consumers),
        ("queues",               "Queues.",                                        totals.queues),
        ("exchanges",            "Exchanges, predeclared ones included.",          totals.exchanges),
        ("bindings",             "Bindings, without the default exchange's.",      totals.bindings),
        ("queue_messages_ready", "Messages waiting to be delivered.",              totals.ready),
        ("queue_messages_unacked", "Messages delivered and not settled.",          totals.unacked),
        ("messages_delayed_waiting", "Messages that wait for their time.", totals.delayed),
        ("queue_messages_retrying", "Messages waiting to be delivered again.",  totals.retrying),
        ("queue_messages_ready_bytes", "Memory held by ready messages, in octets.", totals.ready_bytes),
    ];
    rows.map(|(name, help, value)| (name, help, value as u64))
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Counter,
    Gauge,
}

/// Samples by family: the format wants each family in one piece.
#[derive(Debug, Default)]
struct Page {
    families: BTreeMap<String, Family>,
}

#[derive(Debug)]
struct Family {
    kind: &'static str,
    help: &'static str,
    samples: String,
}

impl Page {
    fn add(&mut self, kind: Kind, name: &str, help: &'static str, vhost: Option<&str>, value: u64) {
        let (kind, suffix) = match kind {
            Kind::Counter => ("counter", "_total"),
            Kind::Gauge => ("gauge", ""),
        };
        let name = format!("leveret_{name}{suffix}");
        let label = vhost
            .map(|vhost| format!("{{vhost=\"{}\"}}", escape(vhost)))
            .unwrap_or_default();
        let sample = format!("{name}{label} {value}\n");
        self.families
            .entry(name)
            .or_insert_with(|| Family {
                kind,
                help,
                samples: String::new(),
            })
            .samples
            .push_str(&sample);
    }

    /// `counts` are those of each bucket alone, the last without a bound.
    fn add_histogram(
        &mut self,
        name: &str,
        help: &'static str,
        vhost: &str,
        bounds: &[u64],
        counts: &[u64],
        sum: u64,
    ) {
        let name = format!("leveret_{name}");
        let vhost = escape(vhost);
        let family = self.families.entry(name.clone()).or_insert_with(|| Family {
            kind: "histogram",
            help,
            samples: String::new(),
        });
        let bounds = bounds.iter().map(u64::to_string);
        let mut total = 0;
        for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(counts) {
            total += count;
            // Writing to a string cannot fail.
            let _ = writeln!(
                family.samples,
                "{name}_bucket{{vhost=\"{vhost}\",le=\"{bound}\"}} {total}"
            );
        }
        let _ = writeln!(family.samples, "{name}_sum{{vhost=\"{vhost}\"}} {sum}");
        let _ = writeln!(family.samples, "{name}_count{{vhost=\"{vhost}\"}} {total}");
    }

    fn render(&self) -> String {
        let mut text = String::new();
        for (
            name,
            Family {
                kind,
                help,
                samples,
            },
        ) in &self.families
        {
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}"
            );
        }
        text
    }
}

/// A label's value, as the format wants it.
pub(crate) fn escape(value: &str) -> String {
    value
        .replace('\\', r"\\")
        .replace('"', r#"\""#)
        .replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_of_a_histogram_add_up() {
        let mut page = Page::default();
        page.add_histogram("late", "How late.", "/", &[1, 10], &[5, 0, 2], 99);
        assert_eq!(
            page.render(),
            "# HELP leveret_late How late.\n\
             # TYPE leveret_late histogram\n\
             leveret_late_bucket{vhost=\"/\",le=\"1\"} 5\n\
             leveret_late_bucket{vhost=\"/\",le=\"10\"} 5\n\
             leveret_late_bucket{vhost=\"/\",le=\"+Inf\"} 7\n\
             leveret_late_sum{vhost=\"/\"} 99\n\
             leveret_late_count{vhost=\"/\"} 7\n"
        );
    }

    #[test]
    fn families_are_in_one_piece_and_labels_are_escaped() {
        let mut page = Page::default();
        page.add(Kind::Counter, "published", "Messages.", Some("/"), 1);
        page.add(Kind::Gauge, "sockets", "Sockets.", None, 3);
        page.add(Kind::Counter, "published", "Messages.", Some("a\"\\\nb"), 2);
        assert_eq!(
            page.render(),
            "# HELP leveret_published_total Messages.\n\
             # TYPE leveret_published_total counter\n\
             leveret_published_total{vhost=\"/\"} 1\n\
             leveret_published_total{vhost=\"a\\\"\\\\\\nb\"} 2\n\
             # HELP leveret_sockets Sockets.\n\
             # TYPE leveret_sockets gauge\n\
             leveret_sockets 3\n"
        );
    }
}

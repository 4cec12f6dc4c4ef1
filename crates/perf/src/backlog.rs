//! A backlog that is much larger than the memory of its broker: filled, and drained in order.

use std::{path::Path, thread, time::Duration};

use rustix::fs::statvfs;

use crate::{
    Error, Result,
    broker::{Broker, Running},
    error::Context as _,
    fill_drain::{self, FillDrain},
    layout::{Layout, Shape},
    measure::{Metric, Timing},
    process::peak_rss,
    scenario::Server,
    storage::Storage,
    watch::Counted,
};

/// What a message costs on the disk beside its body, generously: heads, sums, what is not yet free
/// again.
const DISK_EACH: u64 = 200;

/// Left free on the disk.
const DISK_LEFT: u64 = 4 << 30;

/// Fills a queue of a broker with little memory, restarts it if its messages are on disk, and drains
/// it. Prints what it sees. With less room on the disk it takes fewer messages.
///
/// # Errors
/// When the broker fails, or a message is lost, duplicated, reordered or altered, or not all could be
/// moved in time.
pub fn run(
    broker: &Broker,
    parent: &Path,
    plan: FillDrain,
    storage: Storage,
    longest: Duration,
) -> Result<()> {
    let disk = statvfs(parent).context("look at the disk")?;
    let room = disk.f_bavail.saturating_mul(disk.f_frsize);
    let fit = room.saturating_sub(DISK_LEFT) / (plan.body_size as u64 + DISK_EACH);
    if fit < plan.count {
        println!("there is room on the disk for {fit} messages only");
    }
    let plan = FillDrain {
        count: plan.count.min(fit),
        ..plan
    };
    let timing = Timing {
        warm_up: Duration::from_secs(1),
        measured: longest / 10,
        drain: longest,
        patience: Duration::from_secs(60),
    };
    let mut running = broker.start(parent)?;
    let mut server = Server::ours(&mut running);
    let mut layout = Layout::declare(&server.url, Shape::Queue, plan.body_size, storage)?;
    let counted = Counted {
        body_size: plan.body_size,
        stored: false,
    };
    let (filled, sent) = fill_drain::fill(&server, &plan, &mut layout, counted, timing)?;
    layout.wait_until_ready(sent)?;
    thread::sleep(timing.settle());
    println!("filled with {sent} messages of {} B", plan.body_size);
    if let Some(rate) = filled.get(Metric::FillRate) {
        println!("  {rate:.0} messages a second");
    }
    say_memory(&server, sent);
    layout.disconnect()?;
    if storage.is_durable() {
        let took = server.restart()?.unwrap_or_default();
        layout.wait_until_ready(sent)?;
        println!("restarted in {} ms", took.as_millis());
        say_memory(&server, sent);
    }
    let drained = fill_drain::drain(&server, &plan, &layout, counted, sent, timing)?;
    if let Some(left) = drained.get(Metric::Left) {
        return Err(Error::Wrong(format!(
            "{left} messages were not drained in time"
        )));
    }
    println!("drained, in order");
    if let Some(rate) = drained.get(Metric::DrainRate) {
        println!("  {rate:.0} messages a second");
    }
    say_memory(&server, sent);
    layout.remove()?;
    if sent < plan.count {
        println!("there was time for {sent} of {} messages only", plan.count);
    }
    let _: Running = running; // its data goes with it
    Ok(())
}

fn say_memory(server: &Server<'_>, messages: u64) {
    let (rss, peak) = (server.watched.rss(), server.watched.pid.and_then(peak_rss));
    if let (Some(rss), Some(peak)) = (rss, peak) {
        let bound = (64 << 20) + 32 * messages;
        println!(
            "  resident {} MiB, at most {} MiB; 64 MiB and 32 B a message are {} MiB",
            rss >> 20,
            peak >> 20,
            bound >> 20
        );
    }
}

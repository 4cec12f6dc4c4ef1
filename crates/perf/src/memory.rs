//! What a broker costs in memory: doing nothing, and holding messages.
//!
//! Wants a broker that was just started: allocators keep what they once had, so a broker that was
//! busy before shows memory that nobody uses.

use std::{thread, time::Instant};

use crate::{
    Result,
    client::Client,
    layout::{Layout, Shape},
    measure::{Measures, Metric, Timing},
    process::Watched,
    storage::Storage,
    url::Url,
};

/// Resident memory of a server without clients.
///
/// # Errors
/// When it does not answer.
pub fn idle(url: &Url, server: Watched, timing: Timing) -> Result<Measures> {
    Client::connect(url)?.close()?; // has started for good, and has served somebody
    thread::sleep(timing.settle());
    let mut measures = Measures::default();
    if let Some(rss) = server.rss() {
        measures.set(Metric::Rss, rss as f64);
    }
    Ok(measures)
}

/// Publishes `count` messages to a queue that nobody consumes, or as many as there is time for, and
/// reads what they added to the server's memory once all of them are ready.
///
/// # Errors
/// When the server refuses or fails, or not all messages arrive.
pub fn ready(
    url: &Url,
    server: Watched,
    count: u64,
    body_size: usize,
    timing: Timing,
) -> Result<Measures> {
    let mut layout = Layout::declare(url, Shape::Queue, body_size, Storage::Memory)?;
    thread::sleep(timing.settle());
    let before = server.rss();

    let script = &mut layout.scripts[0];
    let mut publisher = Client::connect(url)?;
    let since = Instant::now();
    while script.sent() < count && since.elapsed() < timing.longest() {
        let batch = script.take(count - script.sent());
        publisher.send(batch.bytes)?;
    }
    publisher.close()?; // answered only when everything before it has been read
    let sent = script.sent();
    layout.wait_until_ready(sent)?;
    thread::sleep(timing.settle());
    let measures = added(before, server.rss(), sent as f64);
    layout.remove()?;
    Ok(measures)
}

/// Resident memory now, and what each of `count` things added to it.
pub(crate) fn added(before: Option<u64>, after: Option<u64>, count: f64) -> Measures {
    let mut measures = Measures::default();
    if let (Some(before), Some(after)) = (before, after) {
        measures.set(Metric::Rss, after as f64);
        let each = after.saturating_sub(before) as f64 / count;
        measures.set(Metric::RssEach, each);
    }
    measures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_each() {
        let measures = added(Some(1_000), Some(21_000), 100.0);
        assert_eq!(measures.get(Metric::RssEach), Some(200.0));
        assert_eq!(measures.get(Metric::Rss), Some(21_000.0));
        let shrunk = added(Some(21_000), Some(1_000), 100.0);
        assert_eq!(shrunk.get(Metric::RssEach), Some(0.0), "not negative");
        assert_eq!(
            added(None, Some(1), 1.0),
            Measures::default(),
            "not watched"
        );
    }
}

//! What a broker costs in memory: doing nothing, and holding messages.
//!
//! Wants a broker that was just started: allocators keep what they once had, so a broker that was
//! busy before shows memory that nobody uses.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    Error, Result,
    client::Client,
    layout::unique_name,
    measure::{Measures, Metric, Timing},
    process::Watched,
    script::{Script, Template},
    url::Url,
};

/// How long the server may take until all messages it has read are ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

const LOOK_EVERY: Duration = Duration::from_millis(50);

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

/// Publishes `count` messages to a queue that nobody consumes, and reads what they added to the
/// server's memory once all of them are ready.
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
    let queue = unique_name();
    let mut admin = Client::connect(url)?;
    admin.queue_declare(&queue, false)?;
    thread::sleep(timing.settle());
    let before = server.rss();

    let template = Template {
        routing_key: queue.clone(),
        body_size,
        ..Template::default()
    };
    let mut script = Script::new(&[template], 0)?;
    let mut publisher = Client::connect(url)?;
    while script.sent() < count {
        let batch = script.take(count - script.sent());
        publisher.send(batch.bytes)?;
    }
    publisher.close()?; // answered only when everything before it has been read
    wait_until_ready(&mut admin, &queue, count)?;
    thread::sleep(timing.settle());
    let measures = added(before, server.rss(), count as f64);
    admin.queue_delete(&queue)?;
    admin.close()?;
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

fn wait_until_ready(admin: &mut Client, queue: &str, count: u64) -> Result<()> {
    let since = Instant::now();
    loop {
        let ready = u64::from(admin.queue_ready(queue)?);
        if ready == count {
            return Ok(());
        }
        if ready > count || since.elapsed() > READY_TIMEOUT {
            let text = format!("{ready} messages are ready, {count} were sent");
            return Err(Error::Wrong(text));
        }
        thread::sleep(LOOK_EVERY);
    }
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

//! Metrics of single queues, as Prometheus reads them: written in pieces, because there may be
//! very many.

use std::fmt::Write as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use leveret_core::Broker;
use leveret_core::inspection::QueueFigures;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::timeout;

use crate::metrics::escape;
use crate::node::Node;

/// Queues that are looked at in one go, between two turns.
const QUEUES_AT_ONCE: usize = 500;

/// Pieces that wait for the client.
const PIECES_MAX: usize = 2;

/// Scrapes at a time, each of which holds the figures of all queues, some 100 octets each; others
/// wait. Anybody who reaches the port may ask.
pub const SCRAPES_MAX: usize = 4;

/// How long one may take, or a client that does not read would keep others out.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(60);

/// A family: type, name, help, and a queue's value.
type Family = (
    &'static str,
    &'static str,
    &'static str,
    fn(&QueueFigures) -> u64,
);

#[rustfmt::skip]
const FAMILIES: [Family; 6] = [
    ("counter", "queue_messages_acknowledged_total",              "Deliveries acknowledged.", |q| q.acknowledged),
    ("counter", "queue_messages_auto_acknowledged_total",         "Deliveries to consumers that do not acknowledge.", |q| q.auto_acknowledged),
    ("counter", "queue_messages_processing_milliseconds_total",   "Time from delivery to acknowledgement, of all that were acknowledged.", |q| q.processing_ms),
    ("gauge",   "queue_consumers",                                "Consumers.", |q| q.consumers as u64),
    ("gauge",   "queue_messages_ready",                           "Messages waiting to be delivered.", |q| q.ready as u64),
    ("gauge",   "queue_messages_unacked",                         "Messages delivered and not settled.", |q| q.unacked as u64),
];

/// The text as it comes. It ends in an error if it does not come to its end.
pub struct Pieces {
    /// `None` is the end.
    pieces: Receiver<Option<String>>,
}

/// The queues of a vhost, as they were when they were looked at.
struct Figures {
    vhost: Arc<str>,
    queues: Vec<QueueFigures>,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let piece = self.pieces.poll_recv(context);
        piece.map(|piece| match piece {
            Some(Some(piece)) => Some(Ok(Frame::data(Bytes::from(piece)))),
            Some(None) => None,
            None => Some(Err(io::ErrorKind::TimedOut.into())),
        })
    }
}

/// Begins to write; must be called within the runtime.
#[must_use]
pub fn write(node: &Arc<Node>) -> Pieces {
    let (tell, pieces) = channel(PIECES_MAX);
    let node = Arc::clone(node);
    tokio::spawn(async move {
        let _place = tokio::select! {
            place = node.scrapes.acquire() => place,
            () = tell.closed() => return,
        };
        // Nothing: it takes too long, or nobody wants to read it any more.
        let _ = timeout(SCRAPE_TIMEOUT, write_all(&node, &tell)).await;
    });
    Pieces { pieces }
}

/// Family by family, as the format wants it: so the figures of all queues are collected first, each
/// queue looked at once.
async fn write_all(node: &Arc<Node>, tell: &Sender<Option<String>>) -> Option<()> {
    let mut all = Vec::with_capacity(node.shards.len());
    for vhost in node.shards.keys() {
        all.push(collect(node, vhost).await?);
    }
    for (place, (kind, name, help, _)) in FAMILIES.iter().enumerate() {
        let head = format!("# HELP leveret_{name} {help}\n# TYPE leveret_{name} {kind}\n");
        tell.send(Some(head)).await.ok()?;
        for Figures { vhost, queues } in &all {
            for page in queues.chunks(QUEUES_AT_ONCE) {
                tell.send(Some(samples(place, vhost, page))).await.ok()?;
            }
        }
    }
    tell.send(None).await.ok()
}

/// The figures of the queues that there were when it began, without those that have gone since:
/// each page is of a moment of its own.
async fn collect(node: &Arc<Node>, vhost: &Arc<str>) -> Option<Figures> {
    let inventory = inspect(node, vhost, Broker::inventory).await?;
    let ids = inventory.into_queues();
    let mut queues = Vec::with_capacity(ids.len());
    for page in ids.chunks(QUEUES_AT_ONCE) {
        let page = page.to_vec();
        queues.extend(inspect(node, vhost, move |broker| broker.queue_figures(&page)).await?);
    }
    Some(Figures {
        vhost: Arc::clone(vhost),
        queues,
    })
}

/// A vhost is asked between two of its turns, and waiting for that must not hold up a worker.
async fn inspect<T: Send + 'static>(
    node: &Arc<Node>,
    vhost: &Arc<str>,
    look: impl FnOnce(&Broker) -> T + Send + 'static,
) -> Option<T> {
    let shard = Arc::clone(node.shards.get(vhost)?);
    let found = tokio::task::spawn_blocking(move || shard.inspect(look));
    found.await.ok()
}

fn samples(place: usize, vhost: &str, page: &[QueueFigures]) -> String {
    let mut text = String::new();
    let Some((_, name, _, value)) = FAMILIES.get(place) else {
        return text;
    };
    let vhost = escape(vhost);
    for queue in page {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "leveret_{name}{{vhost=\"{vhost}\",queue=\"{}\"}} {}",
            escape(&queue.name),
            value(queue)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn next(pieces: &mut Pieces) -> Option<Result<Bytes, io::ErrorKind>> {
        let frame = poll_fn(|context| Pin::new(&mut *pieces).poll_frame(context)).await?;
        Some(match frame {
            Ok(frame) => Ok(frame.into_data().unwrap()),
            Err(error) => Err(error.kind()),
        })
    }

    /// It looked like a scrape of fewer queues.
    #[tokio::test]
    async fn what_is_cut_off_does_not_look_whole() {
        for whole in [true, false] {
            let (tell, pieces) = channel(PIECES_MAX);
            let mut pieces = Pieces { pieces };
            tell.send(Some("a".to_owned())).await.unwrap();
            if whole {
                tell.send(None).await.unwrap();
            }
            drop(tell);
            assert_eq!(next(&mut pieces).await, Some(Ok(Bytes::from("a"))));
            let end = (!whole).then_some(Err(io::ErrorKind::TimedOut));
            assert_eq!(next(&mut pieces).await, end);
        }
    }
}

//! Metrics of single queues, as Prometheus reads them: written in pieces, because there may be
//! very many.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use leveret_core::inspection::QueueFigures;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::metrics::escape;
use crate::node::Node;

/// Queues that are looked at in one go, between two turns.
const QUEUES_AT_ONCE: usize = 500;

/// Pieces that wait for the client.
const PIECES_MAX: usize = 2;

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

/// The text as it comes.
pub struct Pieces(Receiver<String>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let piece = self.0.poll_recv(context);
        piece.map(|piece| piece.map(|piece| Ok(Frame::data(Bytes::from(piece)))))
    }
}

/// Begins to write; must be called within the runtime.
#[must_use]
pub fn write(node: &Arc<Node>) -> Pieces {
    let (tell, pieces) = channel(PIECES_MAX);
    let node = Arc::clone(node);
    tokio::spawn(async move {
        // None: nobody wants to read it any more.
        let _: Option<()> = write_all(&node, &tell).await;
    });
    Pieces(pieces)
}

/// Family by family, as the format wants it: so every queue is looked at for each.
async fn write_all(node: &Arc<Node>, tell: &Sender<String>) -> Option<()> {
    for (place, (kind, name, help, _)) in FAMILIES.iter().enumerate() {
        let head = format!("# HELP leveret_{name} {help}\n# TYPE leveret_{name} {kind}\n");
        tell.send(head).await.ok()?;
        for vhost in node.shards.keys() {
            let mut seen = BTreeSet::new();
            let mut after = None;
            loop {
                let (node, vhost) = (Arc::clone(node), Arc::clone(vhost));
                // A vhost is asked between two of its turns, and waiting for that must not hold up
                // a worker.
                let page = tokio::task::spawn_blocking(move || {
                    let shard = node.shards.get(&vhost)?;
                    let page = shard.inspect(|broker| broker.queues_after(after, QUEUES_AT_ONCE));
                    Some((vhost, page))
                });
                let (vhost, mut page) = page.await.ok()??;
                let Some(last) = page.last() else {
                    break;
                };
                after = Some(last.id);
                // One that was made anew meanwhile would come twice, and no sample may.
                page.retain(|queue| seen.insert(Arc::clone(&queue.name)));
                tell.send(samples(place, &vhost, &page)).await.ok()?;
            }
        }
    }
    Some(())
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

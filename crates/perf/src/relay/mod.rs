//! The relay: the least that a program between publishers and consumers can do.
//!
//! It reads up to 256 KiB, walks the frames once, and copies each content as it is, behind a new
//! `basic.deliver`, into the buffers of the consumers; one task per connection writes what has
//! gathered. It does everything a broker cannot avoid (sockets, framing, copying, waking, holding
//! back publishers) and nothing else: no queues, no acks, no prefetch, no routing by key.
//!
//! Deliberately wrong, and harmless for the load generator: acks are ignored, arguments and
//! credentials too, and `no_wait` of everything but `queue.bind`; a message goes to every queue bound to its exchange, or for the default exchange
//! to the queue that the key names, and there to the first consumer only, or nowhere.

mod batch;
mod connection;
mod hub;
mod outbox;

use std::{io, sync::Arc, time::Duration};

use tokio::net::TcpListener;

use hub::Hub;

/// How long to wait when a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until the task is dropped. There is no login: the listener had better be on loopback.
///
/// # Errors
/// When a socket that was just accepted is unusable.
pub async fn serve(listener: TcpListener) -> io::Result<()> {
    let hub = Arc::new(Hub::default());
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => {
                stream.set_nodelay(true)?;
                tokio::spawn(connection::run(stream, Arc::clone(&hub)));
            }
            // Out of file descriptors, say: the connections there are go on.
            Err(error) => {
                eprintln!("relay: accept: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

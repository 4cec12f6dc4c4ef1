//! The HTTP API, health checks and metrics, on a listener of their own. What they are is in
//! `leveret-management`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use leveret_management::Peer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::gateway::Doorway;
use crate::node::Node;

/// Time to send the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Octets of a request's head.
const HEADER_BYTES_MAX: usize = 8 * 1_024;

/// Connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 256;

/// Pause after an accept that failed.
const BACKOFF: Duration = Duration::from_millis(100);

/// Serves HTTP for ever.
pub async fn serve(node: Arc<Node>, listener: TcpListener) {
    let router = leveret_management::router(Arc::new(Doorway::new(node)));
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((socket, peer)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    talk(router, socket, peer).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(BACKOFF).await,
        }
    }
}

async fn talk(router: Router, socket: TcpStream, peer: SocketAddr) {
    let router = TowerToHyperService::new(router);
    let with_peer = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        router.call(request)
    });
    let talk = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(socket), with_peer);
    if let Err(error) = talk.await {
        tracing::debug!(%peer, %error, "HTTP connection failed");
    }
}

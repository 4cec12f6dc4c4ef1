//! The HTTP API, health checks and metrics, on a listener of their own. What they are is in
//! `leveret-management`.

use std::net::SocketAddr;
use std::pin::pin;
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
use tokio::sync::{Semaphore, watch};

use crate::gateway::Doorway;
use crate::node::Node;
use crate::patient::Patient;

/// Time to send the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Octets of a request's head.
const HEADER_BYTES_MAX: usize = 8 * 1_024;

/// How long an answer may wait without its client taking any of it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 256;

/// Pause after an accept that failed.
const BACKOFF: Duration = Duration::from_millis(100);

/// Serves HTTP for ever.
pub async fn serve(node: Arc<Node>, listener: TcpListener) {
    let router = leveret_management::router(Arc::new(Doorway::new(Arc::clone(&node))));
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((socket, peer)) => {
                let (router, node) = (router.clone(), Arc::clone(&node));
                let talking = node.talks.begin();
                tokio::spawn(async move {
                    talk(&node, router, socket, peer).await;
                    drop((place, talking));
                });
            }
            Err(_) => tokio::time::sleep(BACKOFF).await,
        }
    }
}

/// Connections that there are, on all listeners.
#[derive(Debug, Default)]
pub struct Talks(Arc<watch::Sender<usize>>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Talking(Arc<watch::Sender<usize>>);

impl Talks {
    fn begin(&self) -> Talking {
        self.0.send_modify(|count| *count += 1);
        Talking(Arc::clone(&self.0))
    }

    /// Waits until there are none. They go by themselves once the node has ended, each after the
    /// answer that it is about to give.
    pub async fn over(&self) {
        // It cannot close: the other end is ours.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Drop for Talking {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

async fn talk(node: &Node, router: Router, socket: TcpStream, peer: SocketAddr) {
    let router = TowerToHyperService::new(router);
    let with_peer = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        router.call(request)
    });
    let talk = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(Patient::new(socket, WRITE_TIMEOUT)), with_peer);
    let mut talk = pin!(talk);
    let talked = tokio::select! {
        talked = talk.as_mut() => talked,
        () = node.ended() => {
            talk.as_mut().graceful_shutdown();
            talk.await
        }
    };
    if let Err(error) = talked {
        tracing::debug!(%peer, %error, "HTTP connection failed");
    }
}

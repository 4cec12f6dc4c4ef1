//! Health checks and metrics over HTTP, on a listener of their own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::metrics;
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
    let router = Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/metrics", get(show_metrics))
        .with_state(node);
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
    let talk = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(router));
    if let Err(error) = talk.await {
        tracing::debug!(%peer, %error, "HTTP connection failed");
    }
}

/// The process is alive if it can say so.
async fn live() -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "application/json")],
        r#"{"status":"ok"}"#,
    )
}

/// Connections are accepted, and publishers too.
async fn ready(State(node): State<Arc<Node>>) -> impl IntoResponse {
    let (status, body) = if node.is_ready() {
        (StatusCode::OK, r#"{"status":"ok"}"#)
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            r#"{"status":"failed","reason":"not accepting connections"}"#,
        )
    };
    (status, [(header::CONTENT_TYPE, "application/json")], body)
}

async fn show_metrics(State(node): State<Arc<Node>>) -> impl IntoResponse {
    // A vhost is asked between two of its turns, and waiting for that must not hold up a worker.
    let text = tokio::task::spawn_blocking(move || metrics::render(&node)).await;
    match text {
        Ok(text) => (
            StatusCode::OK,
            [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)],
            text,
        ),
        Err(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain")],
            "metrics are not available\n".to_owned(),
        ),
    }
}

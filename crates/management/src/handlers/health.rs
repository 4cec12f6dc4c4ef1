//! Health checks and metrics: for everybody who can reach the listener.

use std::sync::Arc;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::gateway::Gateway;

/// Version 0.0.4 of Prometheus's text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const OK: &str = r#"{"status":"ok"}"#;

/// The process is alive if it can say so.
pub(crate) async fn live(_: Arc<dyn Gateway>) -> Response {
    status(StatusCode::OK, OK)
}

/// Connections are accepted, and publishers too.
pub(crate) async fn ready(gateway: Arc<dyn Gateway>) -> Response {
    if gateway.is_ready() {
        status(StatusCode::OK, OK)
    } else {
        status(
            StatusCode::SERVICE_UNAVAILABLE,
            r#"{"status":"failed","reason":"not accepting connections"}"#,
        )
    }
}

pub(crate) async fn metrics(gateway: Arc<dyn Gateway>) -> Response {
    let (status, kind, text) = match gateway.metrics().await {
        Some(text) => (StatusCode::OK, METRICS_TYPE, text),
        None => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "text/plain",
            "metrics are not available\n".to_owned(),
        ),
    };
    (status, [(header::CONTENT_TYPE, kind)], text).into_response()
}

/// Its end comes with that of the body.
pub(crate) async fn metrics_per_object(gateway: Arc<dyn Gateway>) -> Response {
    let kind = [(header::CONTENT_TYPE, METRICS_TYPE)];
    (kind, gateway.metrics_per_object()).into_response()
}

fn status(status: StatusCode, body: &'static str) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (status, kind, body).into_response()
}

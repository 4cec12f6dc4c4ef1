//! THE TABLE of endpoints.
//!
//! A row is a method, a path (`{name}` is any one part of it, percent-encoded), the queries that
//! may follow it, and what is done. `docs/http-api.md` has a line for each, which a test sees to.

use std::sync::Arc;

use axum::response::Response;

use crate::call::{Answer, Call};
use crate::error::Error;
use crate::gateway::{Gateway, Pending};
use crate::handlers::{account, delayed, health, schedules};

/// One endpoint.
pub struct Route {
    /// `GET`, `PUT`, `POST` or `DELETE`; `HEAD` comes with `GET`.
    pub method: &'static str,
    /// Its path.
    pub path: &'static str,
    /// Names of queries that it takes.
    pub queries: &'static [&'static str],
    pub(crate) endpoint: Endpoint,
}

/// What is done.
#[derive(Clone, Copy)]
pub(crate) enum Endpoint {
    /// For anybody.
    Open(fn(Arc<dyn Gateway>) -> Pending<'static, Response>),
    /// For users who have logged in.
    Private(fn(Call) -> Pending<'static, Result<Answer, Error>>),
}

macro_rules! routes {
    ($($access:ident $method:ident $path:literal $queries:tt => $module:ident::$handler:ident;)*) => {
        /// All endpoints.
        pub static TABLE: &[Route] = &[$(Route {
            method: stringify!($method),
            path: $path,
            queries: &$queries,
            endpoint: Endpoint::$access(|input| Box::pin($module::$handler(input))),
        },)*];
    };
}

#[rustfmt::skip]
routes! {
    Open    GET    "/health/live"                              []                 => health::live;
    Open    GET    "/health/ready"                             []                 => health::ready;
    Open    GET    "/metrics"                                  []                 => health::metrics;
    Open    GET    "/metrics/per-object"                       []                 => health::metrics_per_object;

    Private GET    "/api/whoami"                               []                 => account::whoami;
    Private GET    "/api/vhosts"                               []                 => account::vhosts;

    Private GET    "/api/schedules"                            ["limit"]          => schedules::list_all;
    Private GET    "/api/schedules/{vhost}"                    ["limit", "after"] => schedules::list;
    Private GET    "/api/schedules/{vhost}/{name}"             []                 => schedules::show;
    Private PUT    "/api/schedules/{vhost}/{name}"             []                 => schedules::put;
    Private DELETE "/api/schedules/{vhost}/{name}"             []                 => schedules::delete;
    Private POST   "/api/schedules/{vhost}/{name}"             ["count"]          => schedules::preview_proposed;
    Private POST   "/api/schedules/{vhost}/{name}/run"         []                 => schedules::run;
    Private POST   "/api/schedules/{vhost}/{name}/pause"       []                 => schedules::pause;
    Private POST   "/api/schedules/{vhost}/{name}/resume"      []                 => schedules::resume;
    Private POST   "/api/schedules/{vhost}/{name}/backfill"    []                 => schedules::backfill;
    Private GET    "/api/schedules/{vhost}/{name}/preview"     ["count"]          => schedules::preview;
    Private GET    "/api/schedules/{vhost}/{name}/history"     ["limit"]          => schedules::history;

    Private GET    "/api/delayed/{vhost}"                      ["limit"]          => delayed::list;
    Private GET    "/api/delayed/{vhost}/{id}"                 []                 => delayed::peek;
    Private DELETE "/api/delayed/{vhost}/{id}"                 []                 => delayed::cancel;
    Private PUT    "/api/delayed/{vhost}/{id}"                 []                 => delayed::retime;
}

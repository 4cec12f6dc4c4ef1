//! The way of a request to its handler: found in the table, let in, read.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};

use crate::auth::{self, Denied, Peer};
use crate::body;
use crate::call::{self, Call};
use crate::error::Error;
use crate::gateway::{Caller, Gateway};
use crate::routes::{Endpoint, Route, TABLE};

/// All endpoints, in front of this broker.
pub fn router(gateway: Arc<dyn Gateway>) -> Router {
    let mut router = Router::new();
    for route in TABLE {
        let filter = match route.method {
            "PUT" => MethodFilter::PUT,
            "POST" => MethodFilter::POST,
            "DELETE" => MethodFilter::DELETE,
            _ => MethodFilter::GET,
        };
        let handler = move |State(gateway): State<Arc<dyn Gateway>>, parts, request: Request| {
            serve(route, gateway, parts, request)
        };
        router = router.route(route.path, on(filter, handler));
    }
    router
        .fallback(nothing)
        .method_not_allowed_fallback(wrong_method)
        .with_state(gateway)
}

async fn serve(
    route: &'static Route,
    gateway: Arc<dyn Gateway>,
    path: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
) -> Response {
    match route.endpoint {
        Endpoint::Open(handler) => handler(gateway).await,
        Endpoint::Private(handler) => {
            let call = admit(route, gateway, path, request).await;
            let answer = match call {
                Ok(call) => handler(call).await,
                Err(error) => Err(error),
            };
            answer.into_response()
        }
    }
}

/// Lets a request in. Nothing of its body is read before it is known who sends it.
async fn admit(
    route: &'static Route,
    gateway: Arc<dyn Gateway>,
    path: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
) -> Result<Call, Error> {
    let (parts, body) = request.into_parts();
    let caller = log_in(&*gateway, &parts).await?;
    same_origin(&parts)?;
    let path = path.map_err(|_| Error::bad_request("the path is not UTF-8"))?;
    let path = path.iter();
    let path = path.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let path = path.collect();
    let query = call::query(parts.uri.query().unwrap_or_default(), route.queries)?;
    let fields = body::read(&parts.headers, body).await?;
    if matches!(parts.method, Method::GET | Method::HEAD | Method::DELETE) {
        body::only(&fields, &[])?;
    }
    Ok(Call {
        gateway,
        caller,
        path,
        query,
        fields,
    })
}

async fn log_in(gateway: &dyn Gateway, parts: &Parts) -> Result<Caller, Error> {
    let denied = || Error::from(Denied::LoginFailed);
    let pair = auth::basic(&parts.headers).ok_or_else(denied)?;
    let credentials = auth::split(&pair).ok_or_else(denied)?;
    let Peer(peer) = parts.extensions.get::<Peer>().ok_or_else(denied)?;
    Ok(gateway.authenticate(credentials, peer.ip()).await?)
}

/// A browser that remembers a login sends it along with whatever any page asks it to send. What
/// changes something is taken from our own pages and from programs only, which name no origin.
fn same_origin(parts: &Parts) -> Result<(), Error> {
    let Some(origin) = parts.headers.get(header::ORIGIN) else {
        return Ok(());
    };
    let host = parts.headers.get(header::HOST);
    let origin = origin.to_str().unwrap_or_default();
    let origin_host = origin.split_once("://").map(|(_, host)| host);
    let same = origin_host.is_some() && origin_host == host.and_then(|host| host.to_str().ok());
    if same || matches!(parts.method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    Err(Error::access_refused(
        "this comes from a page of another site",
    ))
}

async fn nothing() -> Error {
    Error::not_found("there is nothing here; docs/http-api.md lists what there is")
}

async fn wrong_method(method: Method) -> Error {
    Error::method_not_allowed(format!("not with {method}: the header Allow says how"))
}

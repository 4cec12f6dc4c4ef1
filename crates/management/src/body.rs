//! Bodies of requests: JSON, of a bounded size, within a bounded time.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::{Map, Value};

use crate::error::Error;

/// Largest body, in octets.
pub(crate) const OCTETS_MAX: usize = 2 << 20;

/// Time to send it.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The fields of a JSON object.
pub(crate) type Fields = Map<String, Value>;

/// Reads what was sent: an object, which is empty if nothing was. How deep it may be nested is
/// bounded by the parser (128).
///
/// # Errors
/// 400, 408, 413 or 415.
pub(crate) async fn read(headers: &HeaderMap, body: Body) -> Result<Fields, Error> {
    let too_large = || Error::too_large(format!("a body has {OCTETS_MAX} octets at most"));
    let announced = headers.get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > OCTETS_MAX as u64) {
        return Err(too_large());
    }
    let all = Limited::new(body, OCTETS_MAX).collect();
    let octets = match tokio::time::timeout(TIMEOUT, all).await {
        Ok(Ok(all)) => all.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(too_large()),
        Ok(Err(_)) => return Err(Error::bad_request("the body could not be read")),
        Err(_) => return Err(Error::timeout("the body took too long to come")),
    };
    if octets.is_empty() {
        return Ok(Fields::new());
    }
    // Not only for tidiness: a page in a browser cannot send this type to another site unasked.
    if !is_json(headers) {
        return Err(Error::unsupported(
            "the body is JSON: say so with 'Content-Type: application/json'",
        ));
    }
    match serde_json::from_slice(&octets) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(Error::bad_request("the body is not a JSON object")),
        Err(error) => Err(Error::bad_request(format!("the body is not JSON: {error}"))),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

/// The name of the first field that is not among these.
///
/// # Errors
/// 400, naming it.
pub(crate) fn only(fields: &Fields, known: &[&str]) -> Result<(), Error> {
    match fields.keys().find(|field| !known.contains(&field.as_str())) {
        None => Ok(()),
        Some(field) if known.is_empty() => Err(Error::bad_request(format!(
            "unknown field '{field}': there are none here"
        ))),
        Some(field) => Err(Error::bad_request(format!(
            "unknown field '{field}': there are {}",
            known.join(", ")
        ))),
    }
}

//! One request that was let in, as its handler sees it.

use std::sync::Arc;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use serde_json::Value;

use crate::body::Fields;
use crate::error::Error;
use crate::gateway::{Caller, Gateway};
use crate::order::Order;

/// A request.
pub(crate) struct Call {
    pub(crate) gateway: Arc<dyn Gateway>,
    pub(crate) caller: Caller,
    /// The parts of the path that the route leaves open, decoded.
    pub(crate) path: Vec<(String, String)>,
    /// What follows the question mark, decoded.
    pub(crate) query: Vec<(String, String)>,
    pub(crate) fields: Fields,
}

/// What is answered if all is well: JSON.
#[derive(Debug)]
pub(crate) struct Answer(Vec<u8>);

impl Call {
    /// A part of the path; the route has it.
    pub(crate) fn part(&self, name: &str) -> &str {
        find(&self.path, name).unwrap_or_default()
    }

    pub(crate) fn vhost(&self) -> &str {
        self.part("vhost")
    }

    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        find(&self.query, name)
    }

    /// A whole number of the query.
    ///
    /// # Errors
    /// 400 if it is none.
    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, Error> {
        let Some(text) = self.query(name) else {
            return Ok(None);
        };
        let number = text.parse().map_err(|_| {
            Error::bad_request(format!("query '{name}': '{text}' is not a whole number"))
        });
        number.map(Some)
    }

    /// Gives an order to the vhost that the path names.
    ///
    /// # Errors
    /// Those of the order.
    pub(crate) async fn order(&self, order: Order) -> Result<Answer, Error> {
        self.order_to(self.vhost(), order).await.map(Answer)
    }

    /// Gives an order to a vhost.
    ///
    /// # Errors
    /// Those of the order.
    pub(crate) async fn order_to(&self, vhost: &str, order: Order) -> Result<Vec<u8>, Error> {
        let message = order.into_message();
        let answer = self.gateway.order(vhost, &self.caller.name, message).await;
        answer.map_err(|refusal| Error::of_order(refusal, vhost))
    }
}

impl From<Value> for Answer {
    fn from(value: Value) -> Self {
        Self(value.to_string().into_bytes())
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let kind = [(header::CONTENT_TYPE, "application/json")];
        (StatusCode::OK, kind, self.0).into_response()
    }
}

fn find<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = pairs.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| value.as_str())
}

/// The pairs of a query, all of them known.
///
/// # Errors
/// 400 for one that is not, that comes twice, or that is not UTF-8.
pub(crate) fn query(text: &str, known: &[&str]) -> Result<Vec<(String, String)>, Error> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for piece in text.split('&').filter(|piece| !piece.is_empty()) {
        let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
        let (name, value) = (decoded(name)?, decoded(value)?);
        if !known.contains(&name.as_str()) {
            let known = if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            };
            return Err(Error::bad_request(format!(
                "unknown query '{name}': there is {known} here"
            )));
        }
        if find(&pairs, &name).is_some() {
            return Err(Error::bad_request(format!("query '{name}' comes twice")));
        }
        pairs.push((name, value));
    }
    Ok(pairs)
}

fn decoded(text: &str) -> Result<String, Error> {
    let text = text.replace('+', " ");
    let decoded = percent_decode_str(&text).decode_utf8();
    decoded
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| Error::bad_request("the query is not UTF-8"))
}

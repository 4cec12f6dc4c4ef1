//! What a caller is told when something is wrong: a status, and JSON with a word and a sentence.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use leveret_core::{AmqpError, ReplyCode};
use serde_json::json;

use crate::auth::Denied;
use crate::gateway::Refusal;

/// A refusal with its HTTP status.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Error {
    /// What kind of refusal.
    pub status: StatusCode,
    /// Why, for people.
    pub reason: String,
    /// The header `Allow`, where the router does not know it.
    pub(crate) allow: Option<&'static str>,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $status:ident, $word:literal;)*) => {
        impl Error {
            $(
                $(#[$doc])*
                pub(crate) fn $name(reason: impl Into<String>) -> Self {
                    Self { status: StatusCode::$status, reason: reason.into(), allow: None }
                }
            )*
        }

        /// The word in the field `error`.
        fn word(status: StatusCode) -> &'static str {
            match status {
                $(StatusCode::$status => $word,)*
                _ => "internal_error",
            }
        }
    };
}

constructors! {
    /// 400
    bad_request => BAD_REQUEST, "bad_request";
    /// 401
    not_authorized => UNAUTHORIZED, "not_authorized";
    /// 403
    access_refused => FORBIDDEN, "access_refused";
    /// 404
    not_found => NOT_FOUND, "not_found";
    /// 405; the header `Allow` is the router's, or that of [`Error::allowing`].
    method_not_allowed => METHOD_NOT_ALLOWED, "method_not_allowed";
    /// 408
    timeout => REQUEST_TIMEOUT, "timeout";
    /// 409
    conflict => CONFLICT, "conflict";
    /// 413
    too_large => PAYLOAD_TOO_LARGE, "payload_too_large";
    /// 415
    unsupported => UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type";
    /// 500
    internal => INTERNAL_SERVER_ERROR, "internal_error";
    /// 501
    not_implemented => NOT_IMPLEMENTED, "not_implemented";
    /// 503
    unavailable => SERVICE_UNAVAILABLE, "unavailable";
}

impl From<AmqpError> for Error {
    fn from(error: AmqpError) -> Self {
        let reason = error.text;
        match error.code {
            ReplyCode::AccessRefused | ReplyCode::NotAllowed => Self::access_refused(reason),
            ReplyCode::NotFound => Self::not_found(reason),
            ReplyCode::ResourceLocked => Self::conflict(reason),
            ReplyCode::ContentTooLarge => Self::too_large(reason),
            ReplyCode::NotImplemented => Self::not_implemented(reason),
            ReplyCode::ConnectionForced | ReplyCode::ResourceError => Self::unavailable(reason),
            ReplyCode::InternalError => Self::internal(reason),
            _ => Self::bad_request(reason),
        }
    }
}

impl Error {
    /// The same, with the methods that there are.
    pub(crate) const fn allowing(mut self, methods: &'static str) -> Self {
        self.allow = Some(methods);
        self
    }

    /// An order to this vhost was refused.
    pub(crate) fn of_order(refusal: Refusal, vhost: &str) -> Self {
        match refusal {
            Refusal::NoVhost => Self::not_found(format!("vhost '{vhost}' not found")),
            Refusal::NotAllowed => {
                Self::access_refused(format!("access to vhost '{vhost}' refused"))
            }
            Refusal::Amqp(error) => error.into(),
            Refusal::Unavailable(why) => Self::unavailable(why),
        }
    }
}

impl From<Denied> for Error {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::LoginFailed => Self::not_authorized("Login failed"),
            Denied::Busy => Self::unavailable("too many logins at once"),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let body = json!({"error": word(self.status), "reason": self.reason}).to_string();
        let kind = [(header::CONTENT_TYPE, "application/json")];
        let mut response = (self.status, kind, body).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static(r#"Basic realm="Leveret Management""#);
            let headers = response.headers_mut();
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(methods) = self.allow {
            let methods = HeaderValue::from_static(methods);
            response.headers_mut().insert(header::ALLOW, methods);
        }
        response
    }
}

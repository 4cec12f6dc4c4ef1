//! The API in front of a broker that only writes down what it is told.

#![allow(dead_code, clippy::unwrap_used)] // each test uses its part

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use leveret_codec::{FieldTable, FieldValue};
use leveret_core::{AmqpError, Message};
use leveret_management::auth::{Credentials, Denied};
use leveret_management::{Caller, Gateway, Peer, Pending, Refusal};
use serde_json::Value;
use tower::ServiceExt as _;

/// guest:guest
pub(crate) const GUEST: &str = "Basic Z3Vlc3Q6Z3Vlc3Q=";

/// An order that reached the broker.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ordered {
    pub(crate) vhost: String,
    pub(crate) user: String,
    pub(crate) message: Message,
}

impl Ordered {
    pub(crate) fn headers(&self) -> FieldTable {
        self.message.properties().headers.unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<FieldValue> {
        self.headers().get(name).cloned()
    }

    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.header(name)?.as_str().map(str::to_owned)
    }
}

/// A broker with the vhosts `/` and `a/b`; `dark` exists and is not for guest.
#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) orders: Mutex<Vec<Ordered>>,
    /// What the next order is refused with.
    pub(crate) refusal: Mutex<Option<Refusal>>,
    pub(crate) logins: Mutex<Vec<(String, IpAddr)>>,
    pub(crate) down: bool,
    pub(crate) busy: bool,
}

impl Gateway for Fake {
    fn authenticate<'a>(
        &'a self,
        credentials: Credentials<'a>,
        from: IpAddr,
    ) -> Pending<'a, Result<Caller, Denied>> {
        self.logins
            .lock()
            .unwrap()
            .push((credentials.name.to_owned(), from));
        let verdict = if self.busy {
            Err(Denied::Busy)
        } else if (credentials.name, credentials.password) == ("guest", b"guest") {
            Ok(Caller {
                name: "guest".into(),
                tags: vec!["monitoring".to_owned()],
                impersonator: false,
            })
        } else {
            Err(Denied::LoginFailed)
        };
        Box::pin(async move { verdict })
    }

    fn vhosts(&self, _: &str) -> Vec<Arc<str>> {
        vec!["/".into(), "a/b".into()]
    }

    fn order<'a>(
        &'a self,
        vhost: &'a str,
        user: &'a str,
        order: Message,
    ) -> Pending<'a, Result<Vec<u8>, Refusal>> {
        let refusal = self.refusal.lock().unwrap().take();
        let answer = match (vhost, refusal) {
            (_, Some(refusal)) => Err(refusal),
            ("/" | "a/b", None) => {
                self.orders.lock().unwrap().push(Ordered {
                    vhost: vhost.to_owned(),
                    user: user.to_owned(),
                    message: order,
                });
                Ok(br#"{"done":true}"#.to_vec())
            }
            ("dark", None) => Err(Refusal::NotAllowed),
            _ => Err(Refusal::NoVhost),
        };
        Box::pin(async move { answer })
    }

    fn is_ready(&self) -> bool {
        !self.down
    }

    fn metrics(&self) -> Pending<'_, Option<String>> {
        let text = (!self.down).then(|| "leveret_x 1\n".to_owned());
        Box::pin(async move { text })
    }

    fn metrics_per_object(&self) -> Body {
        Body::from("leveret_y{queue=\"q\"} 1\n")
    }
}

/// An answer of the API.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// The word and the sentence of an error.
    pub(crate) fn error(&self) -> (u16, String, String) {
        let json = self.json();
        let text = |field: &str| json[field].as_str().unwrap().to_owned();
        (self.status.as_u16(), text("error"), text("reason"))
    }
}

/// The API and its broker.
pub(crate) struct Desk {
    pub(crate) broker: Arc<Fake>,
    router: Router,
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self::with(Fake::default())
    }

    pub(crate) fn with(broker: Fake) -> Self {
        let broker = Arc::new(broker);
        let router = leveret_management::router(Arc::clone(&broker) as Arc<dyn Gateway>);
        Self { broker, router }
    }

    /// Sends a request as it is, from this machine.
    pub(crate) async fn send(&self, mut request: Request<Body>) -> Answer {
        let peer = "127.0.0.1:1".parse().unwrap();
        request.extensions_mut().insert(Peer(peer));
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: String::from_utf8(body).unwrap(),
        }
    }

    /// As guest, with a JSON body unless it is empty.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", GUEST);
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        self.send(request.body(Body::from(body.to_owned())).unwrap())
            .await
    }

    /// The order that this makes; there is no other.
    pub(crate) async fn ordered(&self, method: &str, path: &str, body: &str) -> Ordered {
        let answer = self.ask(method, path, body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.body.as_str()),
            (200, r#"{"done":true}"#),
            "{method} {path} {body}"
        );
        let mut orders = self.broker.orders.lock().unwrap();
        assert_eq!(orders.len(), 1);
        orders.pop().unwrap()
    }

    /// What the next order is refused with.
    pub(crate) fn refuse(&self, refusal: Refusal) {
        *self.broker.refusal.lock().unwrap() = Some(refusal);
    }

    pub(crate) fn refuse_with(&self, error: AmqpError) {
        self.refuse(Refusal::Amqp(error));
    }

    pub(crate) fn has_orders(&self) -> bool {
        !self.broker.orders.lock().unwrap().is_empty()
    }
}

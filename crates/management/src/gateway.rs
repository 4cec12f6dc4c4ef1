//! What the API needs of the broker behind it.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use leveret_core::{AmqpError, Message};

use crate::auth::{Credentials, Denied};

/// Something that is answered later.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The broker, as far as the API is concerned.
pub trait Gateway: Send + Sync + 'static {
    /// Who logs in from where, by the same rules as over AMQP.
    fn authenticate<'a>(
        &'a self,
        credentials: Credentials<'a>,
        from: IpAddr,
    ) -> Pending<'a, Result<Caller, Denied>>;

    /// The vhosts that a user has permissions in, by name.
    fn vhosts(&self, user: &str) -> Vec<Arc<str>>;

    /// Gives an order to a vhost, in a user's name. Comes back with the answer, which is JSON, when
    /// what was ordered is safe.
    fn order<'a>(
        &'a self,
        vhost: &'a str,
        user: &'a str,
        order: Message,
    ) -> Pending<'a, Result<Vec<u8>, Refusal>>;

    /// Are connections accepted, and publishers too?
    fn is_ready(&self) -> bool;

    /// All metrics, as Prometheus reads them; None if they are not available.
    fn metrics(&self) -> Pending<'_, Option<String>>;

    /// Those of single queues, of which there may be very many.
    fn metrics_per_object(&self) -> Body;
}

/// A user who has logged in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Caller {
    /// Its name.
    pub name: Arc<str>,
    /// RabbitMQ's tags: `administrator`, `monitoring` and so on.
    pub tags: Vec<String>,
    /// May publish under another user's id.
    pub impersonator: bool,
}

/// Why an order was not obeyed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// There is no such vhost.
    NoVhost,
    /// The user has no permissions in it.
    NotAllowed,
    /// What a client would have been told over AMQP.
    Amqp(AmqpError),
    /// The broker cannot tell what became of the order, or cannot take it now: it stops, or its
    /// log has failed. The text says which.
    Unavailable(&'static str),
}

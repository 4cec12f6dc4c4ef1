//! The HTTP API, without sockets: a request comes in, an answer goes out.
//!
//! [`routes`] is the table of endpoints: what there is, who may use it, what it does. A request
//! goes through `entrance` (who is it, is the body what it should be), then to its handler, which
//! knows nothing of users' passwords, queues or the log: all that is behind [`Gateway`], which the
//! server implements. What a handler wants of a vhost is an order, the same message that a client
//! could have published to `amq.schedule`, so that both ways are equal.

#![forbid(unsafe_code)]

pub mod auth;
mod body;
mod call;
mod definition;
mod entrance;
pub mod error;
pub mod gateway;
mod handlers;
mod order;
pub mod routes;

pub use auth::Peer;
pub use entrance::router;
pub use error::Error;
pub use gateway::{Caller, Gateway, Pending, Refusal};

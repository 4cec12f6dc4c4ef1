//! The broker as the HTTP API sees it.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use leveret_core::Message;
use leveret_management::auth::{Credentials, Denied};
use leveret_management::{Caller, Gateway, Pending, Refusal};
use leveret_session::Secret;

use crate::auth;
use crate::metrics;
use crate::node::Node;
use crate::per_object;

const STOPPING: &str = "the broker is stopping";

const UNKNOWN: &str = "the broker has stopped before it was known whether this is safe";

/// The way from the API to the vhosts.
pub(crate) struct Doorway {
    node: Arc<Node>,
}

impl Doorway {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node }
    }
}

impl Gateway for Doorway {
    fn authenticate<'a>(
        &'a self,
        credentials: Credentials<'a>,
        from: IpAddr,
    ) -> Pending<'a, Result<Caller, Denied>> {
        Box::pin(async move {
            let name = credentials.name;
            let password = Secret::from(credentials.password);
            match self.node.door.login(name, password, from).await {
                Ok(user) => Ok(Caller {
                    name: Arc::clone(&user.name),
                    tags: user.tags.clone(),
                    impersonator: user.is_impersonator(),
                }),
                Err(refusal) => {
                    tracing::warn!(user = ?name, peer = %from, reason = %refusal, "login to the HTTP API refused");
                    Err(match refusal {
                        auth::Refusal::Busy => Denied::Busy,
                        _ => Denied::LoginFailed,
                    })
                }
            }
        })
    }

    fn vhosts(&self, user: &str) -> Vec<Arc<str>> {
        let Some(user) = self.node.door.user(user) else {
            return Vec::new();
        };
        let known = self.node.shards.keys();
        known
            .filter(|vhost| user.permissions.contains_key(*vhost))
            .cloned()
            .collect()
    }

    fn order<'a>(
        &'a self,
        vhost: &'a str,
        user: &'a str,
        order: Message,
    ) -> Pending<'a, Result<Vec<u8>, Refusal>> {
        Box::pin(async move {
            let shard = self.node.shards.get(vhost).ok_or(Refusal::NoVhost)?;
            let user = self.node.door.user(user).ok_or(Refusal::NotAllowed)?;
            let permissions = user.permissions.get(vhost).ok_or(Refusal::NotAllowed)?;
            if !self.node.is_ready() {
                return Err(Refusal::Unavailable(STOPPING));
            }
            let answer = shard.order(Arc::clone(&user.name), permissions.clone(), order);
            tokio::select! {
                // What is safe is said, even if nothing else will be.
                biased;
                answer = answer => match answer {
                    Ok(answer) => answer.map_err(Refusal::Amqp),
                    Err(_) => Err(Refusal::Unavailable(UNKNOWN)),
                },
                () = self.node.ended() => Err(Refusal::Unavailable(UNKNOWN)),
            }
        })
    }

    fn is_ready(&self) -> bool {
        self.node.is_ready()
    }

    fn metrics(&self) -> Pending<'_, Option<String>> {
        let node = Arc::clone(&self.node);
        Box::pin(async move {
            // A vhost is asked between two of its turns, and waiting for that must not hold up a
            // worker.
            let text = tokio::task::spawn_blocking(move || metrics::render(&node)).await;
            text.ok()
        })
    }

    fn metrics_per_object(&self) -> Body {
        Body::new(per_object::write(&self.node))
    }
}

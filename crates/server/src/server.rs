//! The running broker: started, then stopped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::data_dir::DataDir;
use crate::error::StartError;
use crate::listener::{self, Protocols};
use crate::node::{Node, SHUTDOWN_REASON};
use crate::shard::internal_error;
use crate::{alarms, housekeeping, http, journal, tls};

/// How long clients have to answer our `connection.close` when the broker stops. With it we are
/// gone within ten seconds, after which orchestrators lose patience.
const GOODBYE: Duration = Duration::from_secs(8);

/// How long connections have to hear that the log has failed, and those to the HTTP API to come to
/// their end in any case. The process is to be gone within a second.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A broker that accepts connections. Stop it with [`Server::stop`].
#[derive(Debug)]
pub struct Server {
    node: Arc<Node>,
    amqp: Vec<SocketAddr>,
    amqps: Vec<SocketAddr>,
    http: Vec<SocketAddr>,
    listeners: Tasks,
    _housekeeping: Tasks,
    _data_dir: DataDir,
}

/// Tasks that end when this is dropped.
#[derive(Debug, Default)]
struct Tasks(Vec<JoinHandle<()>>);

impl Server {
    /// Starts a broker; must be called within a tokio runtime with time and I/O.
    ///
    /// # Errors
    /// [`StartError`] for whatever an operator has to put right: a port that is taken, a
    /// certificate that cannot be read, a data directory that is not ours.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let settings = &config.settings;
        let acceptor = tls::acceptor(settings)?;
        let (data_dir, path) = match &settings.data_dir.0 {
            Some(path) => (DataDir::take(path)?, path),
            None => return Err(StartError::new("data_dir must not be empty")),
        };
        // All ports first: a broker that cannot have one of them serves nobody on the others.
        let amqp = bind_all(Protocols::Amqp, &settings.amqp_listen.0)?;
        let amqps = bind_all(Protocols::Amqps, &settings.amqps_listen.0)?;
        let http = bind_all(Protocols::Http, &settings.http_listen.0)?;
        let store = journal::open(path)?;
        let node = Arc::new(Node::new(config, store, raise_fd_limit())?);

        let mut housekeeping = Tasks::default();
        for shard in node.shards.values() {
            housekeeping.spawn(Arc::clone(shard).keep_time());
        }
        housekeeping.spawn(alarms::watch(Arc::clone(&node)));
        housekeeping.spawn(alarms::watch_disk(Arc::clone(&node)));
        housekeeping.spawn(housekeeping::keep(
            Arc::clone(&node),
            config.housekeeping.clone(),
        ));

        let mut server = Self {
            node,
            amqp: Vec::new(),
            amqps: Vec::new(),
            http: Vec::new(),
            listeners: Tasks::default(),
            _housekeeping: housekeeping,
            _data_dir: data_dir,
        };
        for (address, listener) in amqp {
            tracing::info!(%address, "listening for amqp");
            server.amqp.push(address);
            server
                .listeners
                .spawn(listener::accept(Arc::clone(&server.node), listener, None));
        }
        for (address, listener) in amqps {
            tracing::info!(%address, "listening for amqps");
            server.amqps.push(address);
            server.listeners.spawn(listener::accept(
                Arc::clone(&server.node),
                listener,
                acceptor.clone(),
            ));
        }
        for (address, listener) in http {
            tracing::info!(%address, "listening for http");
            server.http.push(address);
            // Goes on while the broker stops, to say that it is not ready.
            server
                ._housekeeping
                .spawn(http::serve(Arc::clone(&server.node), listener));
        }
        server.node.set_ready(true);
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            "ready to accept connections"
        );
        Ok(server)
    }

    /// Where AMQP is spoken.
    #[must_use]
    pub fn amqp_addr(&self) -> Option<SocketAddr> {
        self.amqp.first().copied()
    }

    /// Where AMQP is spoken over TLS.
    #[must_use]
    pub fn amqps_addr(&self) -> Option<SocketAddr> {
        self.amqps.first().copied()
    }

    /// Where HTTP is spoken.
    #[must_use]
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http.first().copied()
    }

    /// The broker's insides.
    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Accepts no more connections, asks those there are to go (320), and waits until they have,
    /// but not for ever. Returns whether the log was closed as it should be.
    pub async fn stop(self) -> bool {
        self.node.set_ready(false);
        // To the end: a connection that is being accepted must be there to be asked.
        self.listeners.stop().await;
        let connections = self.node.registry.len();
        tracing::info!(connections, "stopping");
        self.node.registry.evict_all(SHUTDOWN_REASON);
        if tokio::time::timeout(GOODBYE, self.node.registry.empty())
            .await
            .is_err()
        {
            tracing::warn!(
                connections = self.node.registry.len(),
                "connections did not go when asked to"
            );
        }
        let node = Arc::clone(&self.node);
        // Writes and syncs, so not on a thread that others need.
        let closed = tokio::task::spawn_blocking(move || {
            // What is recorded after the log was closed is forgotten.
            for shard in node.shards.values() {
                shard.retire();
            }
            node.store.close()
        });
        let closed = closed.await;
        self.node.set_ended();
        let _ = tokio::time::timeout(LAST_WORDS, self.node.talks.over()).await;
        let error = match closed {
            Ok(Ok(())) => {
                tracing::info!("stopped");
                return true;
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::error!(error, "stopped, but the log could not be closed");
        false
    }

    /// Waits until the log has failed, which may be never.
    pub async fn lost(&self) {
        let lost = &self.node.log_lost;
        lost.notified().await;
    }

    /// The log has failed: nothing is confirmed any more. Tells all connections (541), and waits a
    /// moment for them to hear it.
    pub async fn fail(self) {
        self.node.set_ready(false);
        self.node.set_ended();
        self.listeners.stop().await;
        let reason = self.node.log.lost().map(ToString::to_string);
        tracing::error!(
            reason,
            "the log has failed: what is on the disk will be read at the next start"
        );
        self.node.registry.fail_all(&internal_error());
        let all = async {
            self.node.registry.empty().await;
            self.node.talks.over().await; // whoever waits for an order is told that nobody knows
        };
        let _ = tokio::time::timeout(LAST_WORDS, all).await;
    }
}

impl Tasks {
    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.push(tokio::spawn(task));
    }

    async fn stop(mut self) {
        for task in self.0.drain(..) {
            task.abort();
            let _ = task.await; // says that it was cancelled
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

fn bind_all(
    protocol: Protocols,
    addresses: &[SocketAddr],
) -> Result<Vec<(SocketAddr, TcpListener)>, StartError> {
    addresses
        .iter()
        .map(|&address| {
            let listener = listener::bind(protocol, address)?;
            let bound = listener
                .local_addr()
                .map_err(|e| StartError::new(e.to_string()))?;
            Ok((bound, listener))
        })
        .collect()
}

/// Takes as many file descriptors as we may have; returns how many that are.
fn raise_fd_limit() -> usize {
    /// What is assumed where there is no limit.
    const PLENTY: u64 = 1 << 20;

    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(PLENTY);
    let raised = Rlimit {
        current: Some(wanted),
        maximum,
    };
    let now = if setrlimit(Resource::Nofile, raised).is_ok() {
        wanted
    } else {
        current.unwrap_or(PLENTY)
    };
    usize::try_from(now).unwrap_or(usize::MAX)
}

//! Sockets that listen, and what becomes of those that connect.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::connection;
use crate::error::StartError;
use crate::link::{Link, Signals};
use crate::node::Node;

/// Connections the kernel keeps for us while we are busy; it cuts this down to its own limit.
const BACKLOG: i32 = 4_096;

/// Pause after an accept that failed for want of file descriptors or memory.
const BACKOFF: Duration = Duration::from_millis(100);

/// What is spoken on a socket that listens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocols {
    /// AMQP in clear.
    Amqp,
    /// AMQP over TLS.
    Amqps,
    /// Health checks and metrics.
    Http,
}

impl Protocols {
    const fn name(self) -> &'static str {
        match self {
            Self::Amqp => "amqp",
            Self::Amqps => "amqps",
            Self::Http => "http",
        }
    }
}

/// A socket that listens, before anything is accepted.
///
/// `[::]` takes IPv4 as well; where there is no IPv6, it takes IPv4 alone.
///
/// # Errors
/// [`StartError`] that names the address, if it is taken or not ours.
pub fn bind(protocol: Protocols, address: SocketAddr) -> Result<TcpListener, StartError> {
    let listener = match listen(address) {
        Err(e) if is_without_ipv6(&e) && address.ip().is_unspecified() && address.is_ipv6() => {
            listen((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        result => result,
    };
    listener.map_err(|e| {
        let reason = match e.kind() {
            io::ErrorKind::AddrInUse => "the port is taken by another program".to_owned(),
            io::ErrorKind::PermissionDenied => "that port needs more rights".to_owned(),
            io::ErrorKind::AddrNotAvailable => "the address is not one of this machine".to_owned(),
            _ => e.to_string(),
        };
        StartError::new(format!(
            "cannot listen on {address} for {}: {reason}",
            protocol.name()
        ))
    })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?; // else a restart has to wait for old connections to fade
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn is_without_ipv6(error: &io::Error) -> bool {
    use rustix::io::Errno;

    [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Accepts connections for ever; a lack of file descriptors only slows it down.
pub async fn accept(node: Arc<Node>, listener: TcpListener, tls: Option<TlsAcceptor>) {
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                failing = false;
                admit(&node, socket, peer, tls.as_ref());
            }
            Err(error) if is_peers_fault(&error) => {}
            Err(error) => {
                if !failing {
                    tracing::error!(%error, "cannot accept connections");
                }
                failing = true; // said once, until it works again
                tokio::time::sleep(BACKOFF).await;
            }
        }
    }
}

/// The connection was gone before we had it: no reason to wait.
fn is_peers_fault(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

fn admit(node: &Arc<Node>, socket: TcpStream, peer: SocketAddr, tls: Option<&TlsAcceptor>) {
    if node.registry.len() >= node.sockets_max {
        if node
            .turned_away
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(1_000)
        {
            tracing::warn!(%peer, limit = node.sockets_max, "too many connections: turned away");
        }
        return;
    }
    let _ = socket.set_nodelay(true); // fails for a socket that is closed already
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let link = Arc::new(Link::new(
        node.registry.next_number(),
        peer,
        node.session.frame_max,
        node.settings.outbox_max.as_usize(),
    ));
    let entry = node.registry.enter(Arc::clone(&link));
    node.lobby.enter(&link);
    let node = Arc::clone(node);
    let tls = tls.cloned();
    tokio::spawn(async move {
        let _entry = entry;
        let number = link.number;
        match tls {
            None => {
                let (reader, writer) = socket.into_split();
                connection::serve(Arc::clone(&node), link, reader, writer).await;
            }
            // A box, so that connections without TLS need not have the room for it.
            Some(tls) => Box::pin(serve_tls(Arc::clone(&node), link, socket, tls)).await,
        }
        node.lobby.leave(number);
    });
}

async fn serve_tls(node: Arc<Node>, link: Arc<Link>, socket: TcpStream, tls: TlsAcceptor) {
    let (connection, peer) = (link.number, link.peer);
    let deadline = node.settings.tls_handshake_timeout.0;
    let handshake = tokio::select! {
        handshake = tokio::time::timeout(deadline, tls.accept(socket)) => handshake,
        () = evicted(&link) => return,
    };
    match handshake {
        Ok(Ok(stream)) => {
            let (reader, writer) = tokio::io::split(stream);
            connection::serve(node, link, reader, writer).await;
        }
        Ok(Err(error)) => tracing::warn!(connection, %peer, %error, "TLS handshake failed"),
        Err(_) => tracing::warn!(connection, %peer, "TLS handshake not finished in time"),
    }
}

/// Waits until the connection has to go.
async fn evicted(link: &Link) {
    std::future::poll_fn(|cx| {
        link.register_reader(cx.waker());
        if link.signals().has(Signals::EVICTED) {
            return std::task::Poll::Ready(());
        }
        std::task::Poll::Pending
    })
    .await;
}

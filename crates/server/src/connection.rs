//! The reading half of a connection: octets from the socket to the vhost's machine.
//!
//! One task a connection. It keeps only what one read has left over of the last frame; the buffer
//! it reads into belongs to the worker thread, so ten thousand silent connections have one or two
//! between them. What a read brings goes to the machine as one batch, and no more is read while
//! too much of it is under way, or while too many replies wait to be written.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BufMut as _;
use leveret_codec::frame_size;
use leveret_core::{AmqpError, Input, Mono, Outbound, Peer};
use leveret_session::{Closing, Credentials, Ended, Login, Received, Session, Stop};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::Sleep;

use crate::config::accounts::User;
use crate::link::{Identity, Link, Seat, Signals};
use crate::node::{Node, SHUTDOWN_REASON};
use crate::outbox::Writer;
use crate::shard::internal_error;

/// What one read may bring. More does not make it cheaper, but the others wait longer.
const SCRATCH_BYTES: usize = 256 * 1_024;

/// A rest longer than this stays where it is, and the remainder of its frame is read behind it;
/// a shorter one is copied to the front of the next read.
const REST_COPIED_MAX: usize = 8 * 1_024;

/// Most octets read into the rest at once.
const GROWTH_BYTES: usize = 128 * 1_024;

/// An empty rest keeps this much memory.
const REST_KEPT_BYTES: usize = 1_024;

/// After a batch this large others get their turn on the worker.
const YIELD_BYTES: usize = 32 * 1_024;

/// How long the writer may take for the last octets.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How long a peer may take to close its end after the last thing we write: closing a socket with
/// unread octets would take back what was written.
const LINGER: Duration = Duration::from_secs(1);

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
    static RECEIVED: RefCell<Received> = RefCell::default();
}

/// Serves a connection until it is over.
pub async fn serve<R, W>(node: Arc<Node>, link: Arc<Link>, mut reader: R, writer: W)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let outbox_max = node.settings.outbox_max.as_usize();
    let send_timeout = node.settings.send_timeout.0;
    let writing = Writer::new(
        Arc::clone(&link),
        writer,
        node.clock,
        outbox_max,
        send_timeout,
    );
    let mut writing = tokio::spawn(writing.run());

    let mut connection = Connection::new(Arc::clone(&node), Arc::clone(&link), &mut reader);
    let end = guard(connection.run()).await;
    connection.leave();
    connection.log_end(end.as_ref());
    if end.is_none() {
        node.panics.fetch_add(1, Ordering::Relaxed);
        link.outbox.push(Outbound::CloseConnection {
            error: Box::new(internal_error()),
        });
    }
    drop(connection);

    link.outbox.finish();
    let Ok(Ok(mut writer)) = tokio::time::timeout(LAST_WORDS, &mut writing).await else {
        writing.abort();
        return;
    };
    // Shutting down writes if there is TLS, so it may have to wait as well.
    let shutdown = tokio::time::timeout(LINGER, writer.shutdown());
    let drain = tokio::time::timeout(LINGER, drain(&mut reader));
    let _ = match end {
        // Said goodbye; a client that closes from several threads is confused by a socket that is
        // gone before it has read so.
        Some(End::Written) => drain.await.map(drop).and(shutdown.await.map(drop)),
        Some(End::Session(Ended::NotAmqp { .. })) => shutdown.await.map(drop).and(drain.await),
        _ => shutdown.await.map(drop), // the peer may be gone, which is just as well
    };
}

/// Reads until the peer has closed its end.
async fn drain<R: AsyncRead + Unpin>(reader: &mut R) {
    let read = |cx: &mut Context<'_>, reader: &mut R| {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut unread = ReadBuf::new(scratch);
            Pin::new(reader)
                .poll_read(cx, &mut unread)
                .map_ok(|()| unread.filled().len())
        })
    };
    while poll_fn(|cx| read(cx, reader))
        .await
        .is_ok_and(|count| count > 0)
    {}
}

/// Runs a connection so that a bug that makes it panic ends this connection only: then `None`.
async fn guard<T>(connection: impl Future<Output = T>) -> Option<T> {
    let mut connection = Box::pin(connection);
    poll_fn(
        |cx| match catch_unwind(AssertUnwindSafe(|| connection.as_mut().poll(cx))) {
            Ok(Poll::Ready(end)) => Poll::Ready(Some(end)),
            Ok(Poll::Pending) => Poll::Pending,
            Err(_panic) => {
                // The worker's buffer may hold requests of this connection: nobody else's.
                RECEIVED.set(Received::default());
                Poll::Ready(None)
            }
        },
    )
    .await
}

/// Why a connection is over.
#[derive(Debug)]
enum End {
    /// The session says so.
    Session(Ended),
    /// The client closed the socket without a word.
    Eof,
    /// The socket failed.
    Broken(io::Error),
    /// The last thing there was to write is written.
    Written,
    /// The broker is shutting down, or needs the room.
    Evicted,
}

/// What one poll of the connection led to.
enum Step {
    /// Something was done; come again.
    Again,
    /// Much was done; come again after the others.
    Yield,
    /// Something that takes time is to be done.
    Stop(Stop),
    End(End),
}

struct Connection<'a, R> {
    node: Arc<Node>,
    link: Arc<Link>,
    reader: &'a mut R,
    session: Session,
    /// What the last read has left over: the beginning of a frame.
    rest: Vec<u8>,
    /// The rest is to be presented again, without a read: the session had stopped.
    again: bool,
    timer: Pin<Box<Sleep>>,
    /// When the timer fires; `None` if it is not to be looked at.
    armed: Option<Mono>,
    /// Nothing is read for now.
    held: bool,
    /// The session knows that the core is closing the connection.
    closing: bool,
    /// The core was told that the connection is gone.
    left: bool,
    user: Option<Arc<User>>,
    capabilities: leveret_core::Capabilities,
    /// Commands in the last batch: what to make room for.
    batch_len: usize,
    read_bytes: u64,
}

impl<'a, R: AsyncRead + Unpin> Connection<'a, R> {
    fn new(node: Arc<Node>, link: Arc<Link>, reader: &'a mut R) -> Self {
        let now = node.clock.mono();
        Self {
            session: Session::new(Arc::clone(&node.session), now),
            timer: Box::pin(tokio::time::sleep_until(node.clock.instant(now))),
            node,
            link,
            reader,
            rest: Vec::new(),
            again: false,
            armed: None,
            held: false,
            closing: false,
            left: false,
            user: None,
            capabilities: leveret_core::Capabilities::default(),
            batch_len: 0,
            read_bytes: 0,
        }
    }

    async fn run(&mut self) -> End {
        loop {
            match poll_fn(|cx| self.poll_step(cx)).await {
                Step::Again => {}
                Step::Yield => yield_to_all().await,
                Step::Stop(stop) => {
                    if let Some(end) = self.act_on(stop).await {
                        return end;
                    }
                }
                Step::End(end) => return end,
            }
        }
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        // First, so that what changes while we look wakes us.
        self.link.register_reader(cx.waker());
        let signals = self.link.signals();
        if signals.has(Signals::WRITER_ENDED) {
            let error = self.link.write_error();
            return Poll::Ready(Step::End(error.map_or(End::Written, |error| {
                End::Broken(io::Error::new(error.kind(), error.to_string()))
            })));
        }
        if signals.has(Signals::EVICTED) && self.link.seat().is_none() {
            return Poll::Ready(Step::End(End::Evicted));
        }
        self.notice_closing();
        // Once closing, what is read is thrown away, and close-ok must get through.
        self.hold(!self.closing && (signals.has(Signals::PAUSED) || self.link.is_full()));
        if let Poll::Ready(step) = self.poll_timer(cx) {
            return Poll::Ready(step);
        }
        if self.held {
            return Poll::Pending;
        }
        if std::mem::take(&mut self.again) && !self.rest.is_empty() {
            return Poll::Ready(self.present_again());
        }
        if self.rest.len() > REST_COPIED_MAX {
            self.poll_read_on(cx)
        } else {
            self.poll_read(cx)
        }
    }

    /// The session has to know that we are closing before it sees the answer.
    fn notice_closing(&mut self) {
        if !self.closing && self.link.signals().has(Signals::CLOSING) {
            self.closing = true;
            self.session.closing_started(self.node.clock.mono());
        }
    }

    /// Silence of the peer is not its fault while we do not listen.
    fn hold(&mut self, hold: bool) {
        if hold != self.held {
            self.held = hold;
            if hold {
                self.session.pause_expiry();
            } else {
                self.session.resume_expiry(self.node.clock.mono());
            }
        }
    }

    /// Deadlines mostly move away with every read, so the timer is left as it is until it fires,
    /// and only set again if there is something earlier.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        while let Some(at) = self.session.next_timeout() {
            if self.armed.is_none_or(|armed| at < armed) {
                self.timer.as_mut().reset(self.node.clock.instant(at));
                self.armed = Some(at);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.armed = None;
            let now = self.node.clock.mono();
            if at <= now {
                self.session.note_sent(self.link.sent_at());
                let step = RECEIVED.with_borrow_mut(|received| {
                    self.session.handle_timeout(now, received);
                    self.pass_on(received, 0)
                });
                return Poll::Ready(step);
            }
        }
        Poll::Pending
    }

    /// Reads into the worker's buffer, behind a copy of the rest.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        SCRATCH.with_borrow_mut(|scratch| {
            let start = self.rest.len();
            let mut unread = ReadBuf::new(&mut scratch[start..]);
            let count = match Pin::new(&mut *self.reader).poll_read(cx, &mut unread) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Step::End(End::Broken(error))),
                Poll::Ready(Ok(())) => unread.filled().len(),
            };
            if count == 0 {
                return Poll::Ready(Step::End(End::Eof));
            }
            self.read_bytes += count as u64;
            scratch[..start].copy_from_slice(&self.rest);
            let input = &scratch[..start + count];
            let (used, step) = self.present(input);
            self.rest.clear();
            if used == input.len() {
                self.rest.shrink_to(REST_KEPT_BYTES);
            } else {
                self.rest.extend_from_slice(&input[used..]);
            }
            Poll::Ready(step)
        })
    }

    /// Reads the remainder of a large frame behind its beginning, and nothing else: so of a body
    /// only what one read brought of it is copied once more.
    fn poll_read_on(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        // The session has seen the frame's header and found its size acceptable.
        let frame = frame_size(&self.rest).unwrap_or(0);
        let missing = frame.saturating_sub(self.rest.len()).clamp(1, GROWTH_BYTES);
        self.rest.reserve(missing);
        let mut unread = (&mut self.rest).limit(missing);
        let read = pin!(self.reader.read_buf(&mut unread));
        match read.poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Step::End(End::Broken(error))),
            Poll::Ready(Ok(0)) => Poll::Ready(Step::End(End::Eof)),
            Poll::Ready(Ok(count)) => {
                self.read_bytes += count as u64;
                if self.rest.len() < frame {
                    return Poll::Ready(Step::Again);
                }
                Poll::Ready(self.present_again())
            }
        }
    }

    /// Presents the rest as it is.
    fn present_again(&mut self) -> Step {
        let mut rest = std::mem::take(&mut self.rest);
        let (used, step) = self.present(&rest);
        rest.drain(..used);
        if rest.is_empty() {
            rest.shrink_to(REST_KEPT_BYTES);
        }
        self.rest = rest;
        step
    }

    /// Has the session look at octets; returns how many it took and what follows.
    fn present(&mut self, input: &[u8]) -> (usize, Step) {
        self.notice_closing(); // since the read: what was read may be the answer
        RECEIVED.with_borrow_mut(|received| {
            received.commands.reserve(self.batch_len);
            let used = self
                .session
                .receive(self.node.clock.mono(), input, received);
            (used, self.pass_on(received, used))
        })
    }

    /// Passes on what the session has made of `bytes` octets: commands first, then replies.
    fn pass_on(&mut self, received: &mut Received, bytes: usize) -> Step {
        if !received.commands.is_empty() {
            let commands = std::mem::take(&mut received.commands);
            self.batch_len = commands.len();
            if let Some(seat) = self.link.seat().filter(|_| !self.left) {
                self.link.hand_over(bytes);
                seat.shard.submit_commands(seat.id, commands, bytes);
            }
        }
        if !received.replies.is_empty() {
            self.link.outbox.append(&mut received.replies);
        }
        match received.stop.take() {
            Some(stop) => Step::Stop(stop),
            None if bytes >= YIELD_BYTES => Step::Yield,
            None => Step::Again,
        }
    }

    /// Gives the session its answer.
    fn answer(&mut self, answer: impl FnOnce(&mut Session, &mut Received)) {
        RECEIVED.with_borrow_mut(|received| {
            answer(&mut self.session, received);
            // Answers are replies; they neither hand over commands nor stop the session.
            self.link.outbox.append(&mut received.replies);
        });
        self.again = true;
    }

    async fn act_on(&mut self, stop: Stop) -> Option<End> {
        let closing = match stop {
            Stop::Login(login) => self.log_in(*login).await,
            Stop::OpenVhost(name) => self.open_vhost(&name),
            Stop::UpdateSecret(_) => {
                // Passwords do not expire here, so any new one is as good as the old: RabbitMQ's
                // own accounts do the same.
                self.answer(Session::secret_updated);
                None
            }
            Stop::Close(closing) => Some(closing),
        };
        self.close(closing?)
    }

    fn close(&mut self, closing: Closing) -> Option<End> {
        match closing {
            Closing::Refused(error) => {
                self.leave();
                self.warn("connection is being closed with an error", &error);
                self.closing = true;
                self.link.outbox.push(Outbound::CloseConnection {
                    error: Box::new(error),
                });
                None
            }
            Closing::Silent(error) => {
                self.warn("connection is being closed without a word", &error);
                self.closing = true;
                None
            }
            Closing::Now(ended) => Some(End::Session(ended)),
        }
    }

    async fn log_in(&mut self, login: Login) -> Option<Closing> {
        let Login {
            mechanism,
            credentials,
            capabilities,
            connection_name,
            ..
        } = login;
        self.capabilities = capabilities;
        let Credentials::Password {
            user: name,
            password,
        } = credentials
        else {
            return self.session.refused(self.node.clock.mono()); // not offered
        };
        let peer = self.link.peer;
        match self.node.door.login(&name, password, peer.ip()).await {
            Ok(user) => {
                self.link.identify(Identity {
                    user: Arc::clone(&user.name),
                    client: connection_name.unwrap_or_default().into(),
                });
                self.user = Some(user);
                self.answer(Session::authenticated);
                None
            }
            Err(reason) => {
                tracing::warn!(
                    connection = self.link.number,
                    %peer,
                    user = ?name,
                    mechanism = mechanism.name(),
                    %reason,
                    "login refused"
                );
                self.session.refused(self.node.clock.mono())
            }
        }
    }

    fn open_vhost(&mut self, name: &str) -> Option<Closing> {
        match self.admit(name) {
            Ok((seat, vhost)) => {
                self.link.set_frame_max(self.session.frame_max());
                self.link.sit_down(seat);
                self.node.lobby.leave(self.link.number);
                self.answer(Session::opened);
                self.obey_late_eviction();
                let identity = self.link.identity();
                tracing::info!(
                    connection = self.link.number,
                    peer = %self.link.peer,
                    user = identity.map(|identity| tracing::field::debug(&identity.user)),
                    vhost = ?vhost,
                    client = identity.map(|identity| tracing::field::debug(&identity.client)),
                    "connection opened"
                );
                None
            }
            Err(error) => self.session.open_refused(self.node.clock.mono(), error),
        }
    }

    /// A shutdown may have found the connection without a seat a moment ago.
    fn obey_late_eviction(&self) {
        if let Some(seat) = self.link.seat()
            && self.link.signals().has(Signals::EVICTED)
        {
            seat.shard
                .submit(Input::Evict(seat.id, SHUTDOWN_REASON.to_owned()));
        }
    }

    /// May the user be here? Checked in RabbitMQ's order.
    fn admit(&self, name: &str) -> Result<(Seat, Arc<str>), AmqpError> {
        let limit = self.node.connections_max;
        let Some(user) = &self.user else {
            return Err(internal_error()); // nobody gets here without a login
        };
        if !self.node.registry.take_seat(limit) {
            return Err(AmqpError::not_allowed(format_args!(
                "connection refused: node connection limit ({limit}) is reached"
            )));
        }
        let admitted = (|| {
            let shard =
                self.node.shards.get(name).ok_or_else(|| {
                    AmqpError::not_allowed(format_args!("vhost {name} not found"))
                })?;
            let permissions = user.permissions.get(name).ok_or_else(|| {
                AmqpError::not_allowed(format_args!(
                    "access to vhost '{name}' refused for user '{}'",
                    user.name
                ))
            })?;
            let peer = Peer {
                user: Arc::clone(&user.name),
                permissions: permissions.clone(),
                impersonator: user.is_impersonator(),
                capabilities: self.capabilities,
            };
            let id = shard.open(Arc::clone(&self.link), Box::new(peer));
            Ok((
                Seat {
                    shard: Arc::clone(shard),
                    id,
                },
                Arc::clone(shard.vhost()),
            ))
        })();
        if admitted.is_err() {
            self.node.registry.give_seat_back();
        }
        admitted
    }

    /// Tells the core, once, that the connection is gone.
    fn leave(&mut self) {
        if let Some(seat) = self.link.seat()
            && !self.left
        {
            self.left = true;
            seat.shard.submit(Input::Closed(seat.id));
            self.node.registry.give_seat_back();
        }
    }

    fn warn(&self, message: &'static str, error: &AmqpError) {
        let Link {
            number: connection,
            peer,
            ..
        } = &*self.link;
        let user = self
            .link
            .identity()
            .map(|identity| tracing::field::debug(&identity.user));
        tracing::warn!(connection, %peer, user, %error, "{message}");
    }

    fn log_end(&self, end: Option<&End>) {
        let (connection, peer) = (self.link.number, self.link.peer);
        let user = self
            .link
            .identity()
            .map(|identity| tracing::field::debug(&identity.user));
        match end {
            Some(End::Session(Ended::Closed) | End::Written) => {
                tracing::info!(connection, %peer, user, "connection closed");
            }
            // Whoever says nothing at all only wanted to know whether the port is open.
            Some(End::Eof | End::Broken(_) | End::Evicted) if self.read_bytes == 0 => {
                tracing::debug!(connection, %peer, "connection closed before the first octet");
            }
            Some(reason) => tracing::warn!(connection, %peer, user, %reason, "connection closed"),
            None => tracing::error!(connection, %peer, user, "bug: a connection's task panicked"),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(ended) => ended.fmt(f),
            Self::Eof => f.write_str("client closed the socket without closing the connection"),
            Self::Broken(error) => write!(f, "socket failed: {error}"),
            Self::Written => f.write_str("closed"),
            Self::Evicted => f.write_str("not logged in, and its place is needed"),
        }
    }
}

/// Goes to the end of the worker's queue, where an idle worker can pick the task up. (tokio's own
/// `yield_now` hides it from the others until this worker has nothing else to do.)
async fn yield_to_all() {
    let mut yielded = false;
    poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_what_panicked_and_nothing_else() {
        async fn panics() -> u8 {
            yield_to_all().await;
            panic!("on purpose")
        }
        async fn does_not() -> u8 {
            yield_to_all().await;
            7
        }
        assert_eq!(guard(panics()).await, None);
        assert_eq!(guard(does_not()).await, Some(7));
    }
}

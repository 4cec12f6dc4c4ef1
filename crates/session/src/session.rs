//! The reading half of a connection: octets in, commands for the core out.

use std::sync::Arc;

use leveret_codec::{
    ConnectionClose, ConnectionCloseOk, ConnectionOpen, ConnectionUpdateSecret,
    ConnectionUpdateSecretOk, FRAME_METHOD, FRAME_OVERHEAD,
};
use leveret_core::{AmqpError, Command, Mono, Outbound};

use crate::channels::{Channels, Pause};
use crate::closing::{Closing, Ended, Failure};
use crate::config::SessionConfig;
use crate::frames::{Frames, split_method};
use crate::handshake::{Handshake, Login, login_refused};
use crate::heartbeat::{Due, Heartbeat};
use crate::limits::Limits;
use crate::sasl::Secret;

/// How long we wait for the answer to our `connection.close`, in milliseconds; less if heartbeats
/// are more frequent.
const CLOSE_TIMEOUT_MS: u64 = 30_000;

/// The same where no good answer is to be expected: in the handshake, after octets that were no
/// frame, and in silence.
const SHORT_CLOSE_TIMEOUT_MS: u64 = 3_000;

/// What a session makes of its input. Buffers to be reused, for one connection after the other: a
/// worker thread needs only one.
#[derive(Debug, Default)]
pub struct Received {
    /// For the core, in this order.
    pub commands: Vec<Command>,
    /// For the writer, after the core was given the commands.
    pub replies: Vec<Outbound>,
    /// Why input was left, other than because it is not a whole frame. Take it and do what it says.
    pub stop: Option<Stop>,
    /// Where messages are put together.
    pub(crate) scratch: Vec<u8>,
}

/// What the session cannot do by itself. It uses no input until it is told that it was done.
#[derive(Debug)]
pub enum Stop {
    /// Find out who this is; then [`Session::authenticated`] or [`Session::refused`].
    Login(Box<Login>),
    /// Open the vhost of this name for the user; then [`Session::opened`] or
    /// [`Session::open_refused`].
    OpenVhost(String),
    /// Check the user's new password or token; then [`Session::secret_updated`] or
    /// [`Session::secret_refused`].
    UpdateSecret(Secret),
    /// End the connection.
    Close(Closing),
}

/// The reading half of one connection.
///
/// Small when idle, because there may be tens of thousands: it keeps no input and no output, and a
/// channel that is not in the middle of a content takes 24 octets.
#[derive(Debug)]
pub struct Session {
    config: Arc<SessionConfig>,
    limits: Limits,
    phase: Phase,
    heartbeat: Heartbeat,
    /// When the phase must be over: a handshake, or a closing.
    deadline: Option<Mono>,
}

#[derive(Debug)]
enum Phase {
    Handshake(Handshake),
    Open(Channels),
    /// Open, but waits for the server to check a new secret.
    UpdatingSecret(Channels),
    Closing(Discard),
    Ended,
}

/// What is discarded while a connection closes.
#[derive(Clone, Copy, Debug)]
enum Discard {
    /// All frames but `connection.close` and `connection.close-ok`.
    Frames,
    /// All octets: the peer has said its last word, or something that is no frame.
    Octets,
}

impl Session {
    /// A connection that was accepted just now.
    #[must_use]
    pub fn new(config: Arc<SessionConfig>, now: Mono) -> Self {
        Self {
            limits: Limits::before_tune(&config),
            phase: Phase::Handshake(Handshake::ProtocolHeader),
            heartbeat: Heartbeat::off(),
            deadline: Some(now.plus_ms(config.handshake_timeout_ms)),
            config,
        }
    }

    /// Takes whole frames off `input` and returns how many octets that were. Present the rest
    /// again, with more behind it.
    ///
    /// Nothing is taken while the server owes an answer to a [`Stop`].
    pub fn receive(&mut self, now: Mono, input: &[u8], out: &mut Received) -> usize {
        if !input.is_empty() {
            self.heartbeat.heard(now);
        }
        let mut used = 0;
        while out.stop.is_none() {
            let taken = self.take(now, input.get(used..).unwrap_or_default(), out);
            used += taken;
            if taken == 0 {
                break;
            }
        }
        used
    }

    /// The longest rest that [`Session::receive`] may leave for want of more, in octets.
    #[must_use]
    pub fn frame_size_max(&self) -> usize {
        // The codec lets a payload be as long as the frame may be.
        usize::try_from(self.limits.frame_max).map_or(usize::MAX, |max| max + FRAME_OVERHEAD)
    }

    /// The login was right: goes on to negotiate limits.
    pub fn authenticated(&mut self, out: &mut Received) {
        if let Phase::Handshake(handshake @ Handshake::Login { .. }) = &mut self.phase {
            handshake.authenticated(&self.config, out);
        }
    }

    /// The login was wrong. Clients that cannot read a close frame then get none; RabbitMQ does
    /// so too. `None` if the connection has ended meanwhile.
    pub fn refused(&mut self, now: Mono) -> Option<Closing> {
        let Phase::Handshake(Handshake::Login {
            mechanism,
            reads_close,
        }) = self.phase
        else {
            return None;
        };
        let error = login_refused(mechanism);
        Some(if reads_close {
            self.start_closing(now, Discard::Frames, SHORT_CLOSE_TIMEOUT_MS);
            Closing::Refused(error)
        } else {
            self.start_closing(now, Discard::Octets, SHORT_CLOSE_TIMEOUT_MS);
            Closing::Silent(error)
        })
    }

    /// The vhost is open: commands may come.
    pub fn opened(&mut self, out: &mut Received) {
        if let Phase::Handshake(Handshake::Opening) = self.phase {
            Handshake::opened(out);
            self.phase = Phase::Open(Channels::default());
            self.deadline = None;
        }
    }

    /// The vhost is not there or not for this user. `None` if the connection has ended meanwhile.
    pub fn open_refused(&mut self, now: Mono, error: AmqpError) -> Option<Closing> {
        let Phase::Handshake(Handshake::Opening) = self.phase else {
            return None;
        };
        Some(self.fail(now, error.of_method(ConnectionOpen::ID).into()))
    }

    /// The new secret was right.
    pub fn secret_updated(&mut self, out: &mut Received) {
        if let Phase::UpdatingSecret(channels) = &mut self.phase {
            self.phase = Phase::Open(std::mem::take(channels));
            out.reply(ConnectionUpdateSecretOk {});
        }
    }

    /// The new secret was wrong. `None` if the connection has ended meanwhile.
    pub fn secret_refused(&mut self, now: Mono, error: AmqpError) -> Option<Closing> {
        let Phase::UpdatingSecret(_) = self.phase else {
            return None;
        };
        Some(self.fail(now, error.of_method(ConnectionUpdateSecret::ID).into()))
    }

    /// The core or an operator closes the connection with a frame: nothing the client still says
    /// matters but its answer.
    pub fn closing_started(&mut self, now: Mono) {
        if !matches!(self.phase, Phase::Closing(_) | Phase::Ended) {
            self.start_closing(now, Discard::Frames, self.close_timeout_ms());
        }
    }

    /// When [`Session::handle_timeout`] is due, if ever. Moves on by itself as octets come and go:
    /// ask again after waiting, not after each read.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Mono> {
        match (self.deadline, self.heartbeat.next()) {
            (Some(deadline), Some(beat)) => Some(deadline.min(beat)),
            (deadline, beat) => deadline.or(beat),
        }
    }

    /// Does what is due by now: sends a heartbeat, or gives the peer up.
    pub fn handle_timeout(&mut self, now: Mono, out: &mut Received) {
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            let ended = match self.phase {
                Phase::Closing(_) => Ended::CloseTimeout,
                _ => Ended::HandshakeTimeout,
            };
            out.stop = Some(Stop::Close(self.end(ended)));
            return;
        }
        match self.heartbeat.due(now) {
            Due::Nothing => {}
            Due::Beat => out.replies.push(Outbound::Heartbeat),
            Due::PeerSilent => out.stop = Some(Stop::Close(self.end(Ended::PeerSilent))),
        }
    }

    /// The writer has written something, which does as well as a heartbeat.
    pub fn note_sent(&mut self, at: Mono) {
        self.heartbeat.sent(at);
    }

    /// The server does not read for a while: silence is not the peer's fault.
    pub fn pause_expiry(&mut self) {
        self.heartbeat.pause_expiry();
    }

    /// The server reads again.
    pub fn resume_expiry(&mut self, now: Mono) {
        self.heartbeat.resume_expiry(now);
    }

    /// Largest frame in octets, as negotiated. Means nothing before the vhost is to be opened.
    #[must_use]
    pub fn frame_max(&self) -> u32 {
        self.limits.frame_max
    }

    /// Most channels, as negotiated or, before that, offered.
    #[must_use]
    pub fn channel_max(&self) -> u16 {
        self.limits.channel_max
    }

    /// Heartbeat interval in seconds, as negotiated or, before that, offered. 0 is off.
    #[must_use]
    pub fn heartbeat_s(&self) -> u16 {
        self.limits.heartbeat_s
    }

    /// Whether the vhost is open and neither side has begun to close.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_) | Phase::UpdatingSecret(_))
    }

    /// Channels that the client has open.
    #[must_use]
    pub fn channels_open(&self) -> usize {
        match &self.phase {
            Phase::Open(channels) | Phase::UpdatingSecret(channels) => channels.len(),
            Phase::Handshake(_) | Phase::Closing(_) | Phase::Ended => 0,
        }
    }

    /// Takes what the phase makes sense of; 0 if that is nothing for now.
    fn take(&mut self, now: Mono, input: &[u8], out: &mut Received) -> usize {
        if let Phase::Handshake(Handshake::ProtocolHeader) = self.phase {
            return self.take_protocol_header(now, input, out);
        }
        let mut frames = Frames::new(input, self.limits.frame_max);
        let outcome = match &mut self.phase {
            Phase::Handshake(handshake) if handshake.waits_for_server() => Ok(()),
            Phase::Handshake(_) => self.take_handshake_frame(now, &mut frames, out),
            Phase::Open(channels) => match channels.receive(&mut frames, &self.limits, out) {
                Ok(pause) => {
                    self.pause(now, pause, out);
                    Ok(())
                }
                Err(failure) => Err(failure),
            },
            Phase::UpdatingSecret(_) => Ok(()),
            Phase::Closing(discard @ Discard::Frames) => match discard_frames(&mut frames, out) {
                Err(Failure::OutOfStep(_)) => {
                    *discard = Discard::Octets; // it has been refused once already
                    return input.len();
                }
                outcome => outcome,
            },
            Phase::Closing(Discard::Octets) | Phase::Ended => return input.len(),
        };
        if let Err(failure) = outcome {
            out.stop = Some(Stop::Close(self.fail(now, failure)));
        }
        frames.used()
    }

    fn take_protocol_header(&mut self, now: Mono, input: &[u8], out: &mut Received) -> usize {
        let Phase::Handshake(handshake) = &mut self.phase else {
            return 0;
        };
        handshake
            .protocol_header(input, &self.config, out)
            .unwrap_or_else(|failure| {
                out.stop = Some(Stop::Close(self.fail(now, failure)));
                input.len()
            })
    }

    fn take_handshake_frame(
        &mut self,
        now: Mono,
        frames: &mut Frames<'_>,
        out: &mut Received,
    ) -> Result<(), Failure> {
        let (Phase::Handshake(handshake), Some(frame)) = (&mut self.phase, frames.next()?) else {
            return Ok(());
        };
        let silent_so_far = handshake.fails_silently();
        handshake.frame(&frame, &self.config, &mut self.limits, out)?;
        if silent_so_far && !handshake.fails_silently() {
            self.heartbeat.start(self.limits.heartbeat_s, now); // tune-ok: "starts at once" (§4.2.7)
        }
        Ok(())
    }

    fn pause(&mut self, now: Mono, pause: Pause, out: &mut Received) {
        match pause {
            Pause::Starved => {}
            Pause::ClosedByClient => {
                self.start_closing(now, Discard::Octets, CLOSE_TIMEOUT_MS);
            }
            Pause::NewSecret(secret) => {
                if let Phase::Open(channels) = &mut self.phase {
                    self.phase = Phase::UpdatingSecret(std::mem::take(channels));
                }
                out.stop = Some(Stop::UpdateSecret(secret));
            }
        }
    }

    /// Begins to close for what the peer did wrong.
    fn fail(&mut self, now: Mono, failure: Failure) -> Closing {
        let silent = matches!(self.phase, Phase::Handshake(phase) if phase.fails_silently());
        match failure {
            Failure::Ended(ended) => self.end(ended),
            Failure::Refused(error) | Failure::OutOfStep(error) if silent => {
                self.start_closing(now, Discard::Octets, SHORT_CLOSE_TIMEOUT_MS);
                Closing::Silent(error)
            }
            Failure::Refused(error) => {
                self.start_closing(now, Discard::Frames, self.close_timeout_ms());
                Closing::Refused(error)
            }
            Failure::OutOfStep(error) => {
                self.start_closing(now, Discard::Octets, SHORT_CLOSE_TIMEOUT_MS);
                Closing::Refused(error)
            }
        }
    }

    fn start_closing(&mut self, now: Mono, discard: Discard, timeout_ms: u64) {
        self.phase = Phase::Closing(discard);
        self.heartbeat = Heartbeat::off();
        self.deadline = Some(now.plus_ms(timeout_ms));
    }

    fn end(&mut self, ended: Ended) -> Closing {
        self.phase = Phase::Ended;
        self.heartbeat = Heartbeat::off();
        self.deadline = None;
        Closing::Now(ended)
    }

    /// RabbitMQ's patience.
    fn close_timeout_ms(&self) -> u64 {
        match (&self.phase, self.limits.heartbeat_s) {
            (Phase::Handshake(_), _) => SHORT_CLOSE_TIMEOUT_MS,
            (_, 0) => CLOSE_TIMEOUT_MS,
            (_, heartbeat_s) => CLOSE_TIMEOUT_MS.min(u64::from(heartbeat_s) * 1_000),
        }
    }
}

/// Looks for the end of the conversation and at nothing else.
fn discard_frames(frames: &mut Frames<'_>, out: &mut Received) -> Result<(), Failure> {
    while let Some(frame) = frames.next()? {
        if (frame.kind, frame.channel) != (FRAME_METHOD, 0) {
            continue;
        }
        match split_method(&frame) {
            Ok((ConnectionCloseOk::ID, _)) => return Err(Failure::Ended(Ended::Closed)),
            Ok((ConnectionClose::ID, _)) => {
                out.reply(ConnectionCloseOk {});
                return Err(Failure::Ended(Ended::Closed));
            }
            _ => {}
        }
    }
    Ok(())
}

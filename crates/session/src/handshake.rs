//! From the first octet to an open vhost: protocol header, start, login, tune, open.
//!
//! Each state of [`Handshake`] knows what it waits for, and nothing else can be waited for. Three
//! states wait for the server and not for the client; in those no input is used.

use leveret_codec::{
    ConnectionClose, ConnectionCloseOk, ConnectionOpen, ConnectionOpenOk, ConnectionStart,
    ConnectionStartOk, ConnectionTune, ConnectionTuneOk, FRAME_HEARTBEAT, FRAME_METHOD, FieldTable,
    FieldValue, LongStr, Method, PROTOCOL_HEADER, RawFrame, ShortStr,
};
use leveret_core::{AmqpError, Capabilities, Outbound};

use crate::closing::{Ended, Failure};
use crate::config::SessionConfig;
use crate::frames::{misplaced_frame, split_method, undecodable_method};
use crate::limits::{Limits, too_deep_for_handshake};
use crate::sasl::{Credentials, Mechanism};
use crate::session::{Received, Stop};

/// What clients of AMQP 0-9 sent; they get along with 0-9-1.
const PROTOCOL_HEADER_0_9: [u8; 8] = *b"AMQP\x01\x01\x00\x09";

/// A login that is to be checked.
#[derive(Debug)]
pub struct Login {
    /// How the client wants to log in.
    pub mechanism: Mechanism,
    /// What it offers as proof.
    pub credentials: Credentials,
    /// What it understands.
    pub capabilities: Capabilities,
    /// What it calls this connection, if it does.
    pub connection_name: Option<String>,
    /// All it says about itself, for people to look at.
    pub client_properties: FieldTable,
}

/// How far a login has come.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Handshake {
    /// Waits for the protocol header.
    ProtocolHeader,
    /// Waits for `connection.start-ok`.
    StartOk,
    /// Waits for the server to check the login.
    Login {
        mechanism: Mechanism,
        /// The client reads a close frame if it is refused.
        reads_close: bool,
    },
    /// Waits for `connection.tune-ok`.
    TuneOk,
    /// Waits for `connection.open`.
    Open,
    /// Waits for the server to open the vhost.
    Opening,
}

impl Handshake {
    /// Whether it is the server's turn.
    pub(crate) const fn waits_for_server(self) -> bool {
        matches!(self, Self::Login { .. } | Self::Opening)
    }

    /// Whether a refusal goes without a close frame: before the login nobody expects one.
    pub(crate) const fn fails_silently(self) -> bool {
        match self {
            Self::ProtocolHeader | Self::StartOk | Self::Login { .. } | Self::TuneOk => true,
            Self::Open | Self::Opening => false,
        }
    }

    /// Takes the protocol header; 0 octets if it is not all there.
    ///
    /// # Errors
    /// If it is not one of ours. The answer to that is our own.
    pub(crate) fn protocol_header(
        &mut self,
        input: &[u8],
        config: &SessionConfig,
        out: &mut Received,
    ) -> Result<usize, Failure> {
        let Some(&header) = input.first_chunk::<{ PROTOCOL_HEADER.len() }>() else {
            return Ok(0);
        };
        if header != PROTOCOL_HEADER && header != PROTOCOL_HEADER_0_9 {
            out.replies.push(Outbound::ProtocolHeader);
            return Err(Failure::Ended(Ended::NotAmqp { header }));
        }
        out.reply(ConnectionStart {
            version_major: 0,
            version_minor: 9,
            server_properties: config.server_properties(),
            mechanisms: LongStr::from(config.mechanism_names().into_bytes()),
            locales: LongStr::from("en_US"),
        });
        *self = Self::StartOk;
        Ok(header.len())
    }

    /// Takes a frame.
    ///
    /// # Errors
    /// If it is not the one that is waited for, or asks for what we do not grant.
    pub(crate) fn frame(
        &mut self,
        frame: &RawFrame<'_>,
        config: &SessionConfig,
        limits: &mut Limits,
        out: &mut Received,
    ) -> Result<(), Failure> {
        match (frame.kind, frame.channel) {
            (FRAME_METHOD, 0) => {}
            (FRAME_HEARTBEAT, 0) if frame.payload.is_empty() => return Ok(()),
            _ => return Err(misplaced_frame(frame)),
        }
        let (id, arguments) = split_method(frame)?;
        let undecodable = |error| Failure::from(undecodable_method(&error, frame.payload));
        match (*self, id) {
            (Self::StartOk, ConnectionStartOk::ID) => {
                let method = ConnectionStartOk::parse_args(arguments).map_err(undecodable)?;
                self.start_ok(&method, config, out)?;
            }
            (Self::TuneOk, ConnectionTuneOk::ID) => {
                let method = ConnectionTuneOk::parse_args(arguments).map_err(undecodable)?;
                *self = Self::Open; // a refusal is written: the client has logged in
                limits.negotiate(config, &method)?;
            }
            (Self::Open, ConnectionOpen::ID) => {
                let method = ConnectionOpen::parse_args(arguments).map_err(undecodable)?;
                out.stop = Some(Stop::OpenVhost(method.virtual_host.into()));
                *self = Self::Opening;
            }
            (_, ConnectionClose::ID) => {
                out.reply(ConnectionCloseOk {});
                return Err(Failure::Ended(Ended::Closed));
            }
            (state, _) => {
                let why = format_args!(
                    "unexpected method in connection state {}",
                    state.rabbitmq_name()
                );
                return Err(AmqpError::channel_error(why).of_method(id).into());
            }
        }
        Ok(())
    }

    /// The login was right.
    pub(crate) fn authenticated(&mut self, config: &SessionConfig, out: &mut Received) {
        out.reply(ConnectionTune {
            channel_max: config.channel_max,
            frame_max: config.frame_max,
            heartbeat: config.heartbeat_s,
        });
        *self = Self::TuneOk;
    }

    /// The vhost is open.
    pub(crate) fn opened(out: &mut Received) {
        out.reply(ConnectionOpenOk {
            reserved_1: ShortStr::default(),
        });
    }

    /// For error texts.
    const fn rabbitmq_name(self) -> &'static str {
        match self {
            Self::ProtocolHeader | Self::StartOk | Self::Login { .. } => "starting",
            Self::TuneOk => "tuning",
            Self::Open | Self::Opening => "opening",
        }
    }

    fn start_ok(
        &mut self,
        method: &ConnectionStartOk<'_>,
        config: &SessionConfig,
        out: &mut Received,
    ) -> Result<(), Failure> {
        let mechanism = Mechanism::choose(&method.mechanism, &config.mechanisms)?;
        let credentials = mechanism.credentials(&method.response)?;
        let client_properties = method.client_properties.parse();
        if too_deep_for_handshake(&client_properties) {
            return Err(AmqpError::syntax_error("client properties nested too deep").into());
        }
        let capabilities = capabilities(&client_properties);
        let connection_name = client_properties
            .get("connection_name")
            .and_then(FieldValue::as_str)
            .map(str::to_owned);
        *self = Self::Login {
            mechanism,
            reads_close: capabilities.authentication_failure_close,
        };
        out.stop = Some(Stop::Login(Box::new(Login {
            mechanism,
            credentials,
            capabilities,
            connection_name,
            client_properties,
        })));
        Ok(())
    }
}

/// What a refused login is told, if anything. Who or what was wrong is for the log alone.
pub(crate) fn login_refused(mechanism: Mechanism) -> AmqpError {
    AmqpError::access_refused(format_args!(
        "Login was refused using authentication mechanism {}. For details see the broker logfile.",
        mechanism.name()
    ))
}

fn capabilities(client_properties: &FieldTable) -> Capabilities {
    let named = client_properties
        .get("capabilities")
        .and_then(FieldValue::as_table);
    let has = |name| {
        named
            .and_then(|table| table.get(name))
            .and_then(FieldValue::as_bool)
            .unwrap_or(false)
    };
    Capabilities {
        consumer_cancel_notify: has("consumer_cancel_notify"),
        connection_blocked: has("connection.blocked"),
        authentication_failure_close: has("authentication_failure_close"),
    }
}

impl Received {
    /// Answers on channel 0.
    pub(crate) fn reply(&mut self, method: impl Into<Method<'static>>) {
        self.replies.push(Outbound::Method {
            channel: 0,
            method: Box::new(method.into()),
        });
    }
}

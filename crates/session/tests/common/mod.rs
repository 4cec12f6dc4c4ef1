//! A client made of octets, and the server around a session.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part"
)]

use std::sync::Arc;

use leveret_codec::{
    BasicPublish, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk, FieldTable, FieldValue,
    LongStr, Method, PROTOCOL_HEADER, RawTable, ShortStr, begin_frame, encode_body, encode_header,
    encode_method, end_frame,
};
use leveret_core::{AmqpError, Command, Mono, Outbound};
use leveret_session::{Closing, Login, Received, Session, SessionConfig, Stop};

/// Octets that a client sends, put together frame by frame.
#[derive(Clone, Debug, Default)]
pub struct Client(pub Vec<u8>);

impl Client {
    pub fn new() -> Self {
        Self::default()
    }

    /// Everything up to an open vhost, sent without waiting for an answer.
    pub fn logged_in() -> Self {
        Self::new()
            .octets(&PROTOCOL_HEADER)
            .method(0, start_ok("PLAIN", b"\0guest\0guest", &[]))
            .method(0, tune_ok(2_047, 131_072, 0))
            .method(0, open("/"))
    }

    /// Logged in, and channel 1 is open.
    pub fn on_channel_1() -> Self {
        Self::logged_in().open_channel(1)
    }

    pub fn octets(mut self, octets: &[u8]) -> Self {
        self.0.extend_from_slice(octets);
        self
    }

    pub fn method(mut self, channel: u16, method: impl Into<Method<'static>>) -> Self {
        encode_method(&mut self.0, channel, &method.into());
        self
    }

    pub fn open_channel(self, channel: u16) -> Self {
        self.method(channel, leveret_codec::ChannelOpen::default())
    }

    /// Only the method.
    pub fn publish(self, channel: u16, key: &'static str) -> Self {
        let routing_key = ShortStr::from_static(key);
        self.method(
            channel,
            BasicPublish {
                routing_key,
                ..BasicPublish::default()
            },
        )
    }

    pub fn header(mut self, channel: u16, body_size: u64) -> Self {
        encode_header(&mut self.0, channel, body_size, 0, &[]);
        self
    }

    pub fn body(mut self, channel: u16, body: &[u8]) -> Self {
        encode_body(&mut self.0, channel, body);
        self
    }

    /// Any frame, right or wrong.
    pub fn frame(mut self, kind: u8, channel: u16, payload: &[u8]) -> Self {
        let mark = begin_frame(&mut self.0, kind, channel);
        self.0.extend_from_slice(payload);
        end_frame(&mut self.0, mark);
        self
    }

    /// A method frame with arguments that may be wrong.
    pub fn raw_method(self, channel: u16, (class, method): (u16, u16), arguments: &[u8]) -> Self {
        let mut payload = Vec::new();
        payload.extend_from_slice(&class.to_be_bytes());
        payload.extend_from_slice(&method.to_be_bytes());
        payload.extend_from_slice(arguments);
        self.frame(leveret_codec::FRAME_METHOD, channel, &payload)
    }
}

pub fn start_ok(
    mechanism: &'static str,
    response: &[u8],
    capabilities: &[&str],
) -> ConnectionStartOk<'static> {
    let capabilities: FieldTable = capabilities
        .iter()
        .map(|name| ((*name).to_owned(), FieldValue::Bool(true)))
        .collect();
    let mut properties = FieldTable::default();
    properties.insert("capabilities", FieldValue::Table(capabilities));
    properties.insert("connection_name", FieldValue::LongString("a test".into()));
    ConnectionStartOk {
        client_properties: RawTable::from_table(&properties),
        mechanism: ShortStr::from_static(mechanism),
        response: LongStr::from(response.to_vec()),
        locale: ShortStr::from_static("en_US"),
    }
}

pub fn tune_ok(channel_max: u16, frame_max: u32, heartbeat: u16) -> ConnectionTuneOk {
    ConnectionTuneOk {
        channel_max,
        frame_max,
        heartbeat,
    }
}

pub fn open(vhost: &'static str) -> ConnectionOpen<'static> {
    ConnectionOpen {
        virtual_host: ShortStr::from_static(vhost),
        ..ConnectionOpen::default()
    }
}

/// The server around a session, which agrees to everything it is asked.
pub struct Server {
    pub session: Session,
    pub now: Mono,
    pub commands: Vec<Command>,
    pub replies: Vec<Outbound>,
    pub logins: Vec<Login>,
    pub vhosts: Vec<String>,
    pub secrets: Vec<Vec<u8>>,
    pub closings: Vec<Closing>,
    unused: Vec<u8>,
    out: Received,
}

impl Server {
    pub fn new() -> Self {
        Self::with(SessionConfig::default())
    }

    pub fn with(config: SessionConfig) -> Self {
        Self {
            session: Session::new(Arc::new(config), Mono(0)),
            now: Mono(0),
            commands: Vec::new(),
            replies: Vec::new(),
            logins: Vec::new(),
            vhosts: Vec::new(),
            secrets: Vec::new(),
            closings: Vec::new(),
            unused: Vec::new(),
            out: Received::default(),
        }
    }

    /// A server that has read all this.
    pub fn after(client: &Client) -> Self {
        let mut server = Self::new();
        server.read(&client.0);
        server
    }

    /// Reads octets, as from a socket.
    pub fn read(&mut self, octets: &[u8]) {
        self.unused.extend_from_slice(octets);
        loop {
            let used = self.session.receive(self.now, &self.unused, &mut self.out);
            self.unused.drain(..used);
            if !self.answer() && used == 0 {
                break;
            }
        }
        assert!(
            self.unused.len() < self.session.frame_size_max(),
            "{} octets",
            self.unused.len()
        );
    }

    /// Lets time pass, in milliseconds.
    pub fn wait(&mut self, ms: u64) {
        let until = self.now.plus_ms(ms);
        while let Some(due) = self.session.next_timeout().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.session.handle_timeout(self.now, &mut self.out);
            self.answer();
        }
        self.now = until;
    }

    /// How the connection is being closed, if it is.
    pub fn closing(&self) -> Option<&Closing> {
        self.closings.last()
    }

    /// The refusal that closes the connection with a frame.
    pub fn refusal(&self) -> &AmqpError {
        match self.closings.as_slice() {
            [Closing::Refused(error)] => error,
            other => panic!("not refused but {other:?}"),
        }
    }

    /// Names of the methods that the session itself has answered with.
    pub fn reply_names(&self) -> Vec<&str> {
        let name = |reply: &Outbound| match reply {
            Outbound::Method { method, .. } => method.name(),
            Outbound::ProtocolHeader => "protocol header",
            Outbound::Heartbeat => "heartbeat",
            _ => "something else",
        };

        self.replies.iter().map(name).collect()
    }

    /// The commands as text, with everything in it that the core gets to see.
    pub fn commands_shown(&self) -> Vec<String> {
        self.commands.iter().map(show).collect()
    }

    fn answer(&mut self) -> bool {
        self.commands.append(&mut self.out.commands);
        self.replies.append(&mut self.out.replies);
        let Some(stop) = self.out.stop.take() else {
            return false;
        };
        match stop {
            Stop::Login(login) => {
                self.logins.push(*login);
                self.session.authenticated(&mut self.out);
            }
            Stop::OpenVhost(vhost) => {
                self.vhosts.push(vhost);
                self.session.opened(&mut self.out);
            }
            Stop::UpdateSecret(secret) => {
                self.secrets.push(secret.expose().to_vec());
                self.session.secret_updated(&mut self.out);
            }
            Stop::Close(closing) => self.closings.push(closing),
        }
        self.replies.append(&mut self.out.replies);
        true
    }
}

pub fn show(command: &Command) -> String {
    match command {
        Command::Publish {
            channel,
            mandatory,
            message,
        } => format!(
            "{channel}: publish mandatory={mandatory} {:?} {:?} {:04x} {:?} {:?} {:?}",
            message.exchange(),
            message.routing_key(),
            message.property_flags(),
            message.raw_properties().escape_ascii().to_string(),
            message.body().escape_ascii().to_string(),
            (message.is_persistent(), message.priority()),
        ),
        Command::Settle {
            channel,
            delivery_tag,
            multiple,
            outcome,
        } => {
            format!("{channel}: settle {delivery_tag} multiple={multiple} {outcome:?}")
        }
        Command::Method { channel, method } => format!("{channel}: {method:?}"),
        Command::Refuse { channel, error } => format!("{channel}: refuse {error}"),
    }
}

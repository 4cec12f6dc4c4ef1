//! A broker in this process and a small client that talks to it in frames, with blocking sockets.

#![allow(dead_code, clippy::unwrap_used)] // each test uses its part

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use leveret::{Config, Server};
use leveret_codec::{
    BasicConsume, BasicPublish, ChannelOpen, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk,
    FRAME_BODY, FRAME_HEADER, FRAME_HEARTBEAT, FRAME_METHOD, FieldTable, FieldValue, LongStr,
    Method, PROTOCOL_HEADER, QueueDeclare, RawTable, ShortStr, encode_body, encode_header,
    encode_method, parse_content_header, split_frame,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// No answer takes this long, however busy the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A broker on free ports of this machine.
pub(crate) struct Broker {
    pub(crate) server: Option<Server>,
    pub(crate) runtime: Runtime,
    _data_dir: TempDir,
}

impl Broker {
    /// With the default settings but for these.
    pub(crate) fn start(settings: &[(&'static str, &str)]) -> Self {
        Self::start_with(settings, "")
    }

    /// The same with what a configuration file says.
    pub(crate) fn start_with(settings: &[(&'static str, &str)], file: &str) -> Self {
        let data_dir = tempfile::tempdir().unwrap();
        let path = data_dir.path().join("leveret.toml");
        std::fs::write(&path, file).unwrap();
        let mut flags = BTreeMap::from([
            ("amqp_listen", "127.0.0.1:0".to_owned()),
            ("http_listen", "127.0.0.1:0".to_owned()),
            (
                "data_dir",
                data_dir.path().join("data").display().to_string(),
            ),
        ]);
        flags.extend(
            settings
                .iter()
                .map(|&(name, value)| (name, value.to_owned())),
        );
        let config = Config::load(&flags, |_| None, Some(&path)).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let server = runtime.block_on(async { Server::start(&config) }).unwrap();
        Self {
            server: Some(server),
            runtime,
            _data_dir: data_dir,
        }
    }

    pub(crate) fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    pub(crate) fn amqp(&self) -> SocketAddr {
        self.server().amqp_addr().unwrap()
    }

    /// A client with a channel.
    pub(crate) fn client(&self) -> Client<TcpStream> {
        let mut client = Client::connect(self.amqp());
        client.log_in("guest", "guest", "/");
        client.open_channel(1);
        client
    }

    /// Body of the answer, whatever its status.
    pub(crate) fn http_get(&self, path: &str) -> Result<String, String> {
        let address = self.server().http_addr().unwrap();
        leveret::health::check(&format!("http://{address}{path}"))
    }

    /// Stops it and waits until it has.
    pub(crate) fn stop(mut self) {
        self.runtime.block_on(self.server.take().unwrap().stop());
    }
}

/// A connection, seen as frames.
pub(crate) struct Client<S> {
    pub(crate) stream: S,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// A method and, if it carries one, its content's body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) channel: u16,
    pub(crate) method: Method<'static>,
    pub(crate) body: Vec<u8>,
}

impl Client<TcpStream> {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self::over(stream)
    }
}

impl<S: Read + Write> Client<S> {
    pub(crate) fn over(stream: S) -> Self {
        Self {
            stream,
            input: Vec::new(),
            output: Vec::new(),
        }
    }

    /// From the protocol header to `open-ok`, with every capability.
    pub(crate) fn log_in(&mut self, user: &str, password: &str, vhost: &str) {
        self.give_credentials(user, password);
        let Method::ConnectionTune(tune) = self.answer().method else {
            panic!("no tune")
        };
        self.send(
            0,
            ConnectionTuneOk {
                channel_max: tune.channel_max,
                frame_max: tune.frame_max,
                heartbeat: 0,
            },
        );
        self.send(
            0,
            ConnectionOpen {
                virtual_host: short(vhost),
                ..ConnectionOpen::default()
            },
        );
        let answer = self.answer().method;
        assert!(matches!(answer, Method::ConnectionOpenOk(_)), "{answer:?}");
    }

    /// Up to the answer to `start-ok`.
    pub(crate) fn give_credentials(&mut self, user: &str, password: &str) {
        self.stream.write_all(&PROTOCOL_HEADER).unwrap();
        let answer = self.answer().method;
        assert!(matches!(answer, Method::ConnectionStart(_)), "{answer:?}");
        let mut capabilities = FieldTable::default();
        for name in [
            "authentication_failure_close",
            "connection.blocked",
            "consumer_cancel_notify",
        ] {
            capabilities.insert(name, FieldValue::Bool(true));
        }
        let mut properties = FieldTable::default();
        properties.insert("capabilities", FieldValue::Table(capabilities));
        self.send(
            0,
            ConnectionStartOk {
                client_properties: RawTable::from_table(&properties),
                mechanism: ShortStr::from_static("PLAIN"),
                response: LongStr::from(format!("\0{user}\0{password}").into_bytes()),
                locale: ShortStr::from_static("en_US"),
            },
        );
    }

    pub(crate) fn open_channel(&mut self, channel: u16) {
        self.send(channel, ChannelOpen::default());
        let answer = self.answer().method;
        assert!(matches!(answer, Method::ChannelOpenOk(_)), "{answer:?}");
    }

    pub(crate) fn declare_queue(&mut self, name: &str) {
        self.send(
            1,
            QueueDeclare {
                queue: short(name),
                ..QueueDeclare::default()
            },
        );
        let answer = self.answer().method;
        assert!(matches!(answer, Method::QueueDeclareOk(_)), "{answer:?}");
    }

    /// Consumes without acknowledgements.
    pub(crate) fn consume(&mut self, queue: &str) {
        self.send(
            1,
            BasicConsume {
                queue: short(queue),
                no_ack: true,
                ..BasicConsume::default()
            },
        );
        let answer = self.answer().method;
        assert!(matches!(answer, Method::BasicConsumeOk(_)), "{answer:?}");
    }

    pub(crate) fn publish(&mut self, routing_key: &str, body: &[u8]) {
        self.stream
            .write_all(&publish_frames(routing_key, false, body))
            .unwrap();
    }

    pub(crate) fn send(&mut self, channel: u16, method: impl Into<Method<'static>>) {
        self.output.clear();
        encode_method(&mut self.output, channel, &method.into());
        self.stream.write_all(&self.output).unwrap();
    }

    /// The next method, with its content; heartbeats are passed over.
    pub(crate) fn answer(&mut self) -> Answer {
        let (kind, channel, payload) = self.frame();
        assert_eq!(kind, FRAME_METHOD);
        let method = Method::parse(&payload).unwrap().into_owned();
        let mut body = Vec::new();
        if method.carries_content() {
            let (kind, _, payload) = self.frame();
            assert_eq!(kind, FRAME_HEADER);
            let size = parse_content_header(&payload).unwrap().body_size;
            while (body.len() as u64) < size {
                let (kind, _, payload) = self.frame();
                assert_eq!(kind, FRAME_BODY);
                body.extend_from_slice(&payload);
            }
        }
        Answer {
            channel,
            method,
            body,
        }
    }

    /// Whatever comes until the broker closes the socket.
    pub(crate) fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = std::mem::take(&mut self.input);
        self.stream.read_to_end(&mut rest)?;
        Ok(rest)
    }

    fn frame(&mut self) -> (u8, u16, Vec<u8>) {
        loop {
            if let Some((frame, used)) = split_frame(&self.input, 0).unwrap() {
                let taken = (frame.kind, frame.channel, frame.payload.to_vec());
                self.input.drain(..used);
                if taken.0 != FRAME_HEARTBEAT {
                    return taken;
                }
                continue;
            }
            let mut buffer = [0; 16 * 1_024];
            let count = self.stream.read(&mut buffer).expect("an answer in time");
            assert!(count > 0, "the broker closed the socket");
            self.input.extend_from_slice(&buffer[..count]);
        }
    }
}

/// A publish to the default exchange on channel 1, in frames of the default size.
pub(crate) fn publish_frames(routing_key: &str, mandatory: bool, body: &[u8]) -> Vec<u8> {
    publish_in_pieces(routing_key, mandatory, body, 100_000)
}

/// The same with so many octets of the body in each frame.
pub(crate) fn publish_in_pieces(
    routing_key: &str,
    mandatory: bool,
    body: &[u8],
    piece: usize,
) -> Vec<u8> {
    let publish = BasicPublish {
        routing_key: short(routing_key),
        mandatory,
        ..BasicPublish::default()
    };
    let mut frames = Vec::new();
    encode_method(&mut frames, 1, &publish.into());
    encode_header(&mut frames, 1, body.len() as u64, 0, &[]);
    for piece in body.chunks(piece) {
        encode_body(&mut frames, 1, piece);
    }
    frames
}

pub(crate) fn short(text: &str) -> ShortStr<'static> {
    ShortStr::new(text.to_owned()).unwrap()
}

/// `leveret` as a program, with its standard error as lines.
pub(crate) struct Program {
    pub(crate) child: std::process::Child,
    lines: std::sync::mpsc::Receiver<String>,
    _data_dir: Arc<TempDir>,
}

impl Program {
    /// Starts it on free ports, in a directory of its own.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let data_dir = Arc::new(tempfile::tempdir().unwrap());
        let mut child = command()
            .args([
                "--amqp-listen",
                "127.0.0.1:0",
                "--http-listen",
                "127.0.0.1:0",
            ])
            .arg("--data-dir")
            .arg(data_dir.path().join("data"))
            .args(arguments)
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in io::BufRead::lines(io::BufReader::new(stderr)).map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            lines,
            _data_dir: data_dir,
        }
    }

    /// The next line with this text in it.
    pub(crate) fn line_with(&self, text: &str) -> String {
        loop {
            let line = self
                .lines
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|_| panic!("no line with {text:?}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    /// All lines that are left once it has ended.
    pub(crate) fn lines_left(&self) -> Vec<String> {
        self.lines.iter().collect()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill(); // has ended already if all went well
        let _ = self.child.wait();
    }
}

/// The program, with nothing of this environment that it would listen to.
pub(crate) fn command() -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_leveret"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LEVERET_")) {
        command.env_remove(name);
    }
    command
}

//! Whatever a client sends, it gets its reply code, and nobody else notices.

#![allow(clippy::unwrap_used)] // helpers fail as loudly as tests

mod common;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{Broker, Client, publish_frames, short};
use leveret_codec::{
    AccessRequestOk, BasicConsume, BasicConsumeOk, BasicDeliver, BasicGet, BasicGetEmpty,
    BasicPublish, BasicQosOk, BasicRecoverOk, BasicReturn, ChannelClose, ChannelCloseOk,
    ChannelFlow, ChannelOpenOk, ConfirmSelect, ConfirmSelectOk, ConnectionBlocked, ConnectionOpen,
    ConnectionStartOk, ConnectionTune, ConnectionTuneOk, ExchangeBindOk, ExchangeDeclare,
    ExchangeDeclareOk, ExchangeDeleteOk, FRAME_BODY, FRAME_HEADER, FRAME_HEARTBEAT, FRAME_METHOD,
    LongStr, Method, PROTOCOL_HEADER, QueueBind, QueueBindOk, QueueDeclare, QueueDeclareOk,
    QueueDeleteOk, QueuePurgeOk, QueueUnbindOk, ShortStr, TxCommit, TxCommitOk, TxRollbackOk,
    TxSelectOk, begin_frame, encode_body, encode_header, encode_method, end_frame,
};

/// What two kernels may hold of one connection, generously.
const SOCKET_BUFFERS_BYTES: usize = 16 << 20;

/// Somebody who has nothing to do with it: publishes, and gets it back.
struct Witness {
    client: Client<TcpStream>,
    count: u64,
}

impl Witness {
    fn of(broker: &Broker) -> Self {
        let mut client = broker.client();
        client.declare_queue("witness");
        client.consume("witness");
        Self { client, count: 0 }
    }

    fn beat(&mut self) {
        self.count += 1;
        let body = self.count.to_be_bytes();
        let begun = Instant::now();
        self.client.publish("witness", &body);
        assert_eq!(self.client.answer().body, body);
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5), "noticed something: {took:?}");
    }
}

/// Frames, right or wrong.
#[derive(Clone, Default)]
struct Octets(Vec<u8>);

impl Octets {
    fn raw(mut self, octets: &[u8]) -> Self {
        self.0.extend_from_slice(octets);
        self
    }

    fn method(mut self, channel: u16, method: impl Into<Method<'static>>) -> Self {
        encode_method(&mut self.0, channel, &method.into());
        self
    }

    fn frame(mut self, kind: u8, channel: u16, payload: &[u8]) -> Self {
        let mark = begin_frame(&mut self.0, kind, channel);
        self.0.extend_from_slice(payload);
        end_frame(&mut self.0, mark);
        self
    }

    fn raw_method(self, id: (u16, u16), arguments: &[u8]) -> Self {
        let mut payload = [id.0.to_be_bytes(), id.1.to_be_bytes()].concat();
        payload.extend_from_slice(arguments);
        self.frame(FRAME_METHOD, 1, &payload)
    }

    fn publish(self) -> Self {
        self.method(1, BasicPublish::default())
    }

    fn header(mut self, size: u64) -> Self {
        encode_header(&mut self.0, 1, size, 0, &[]);
        self
    }

    fn body(mut self, body: &[u8]) -> Self {
        encode_body(&mut self.0, 1, body);
        self
    }
}

fn octets() -> Octets {
    Octets::default()
}

fn declare(name: &str) -> QueueDeclare<'static> {
    QueueDeclare {
        queue: short(name),
        ..QueueDeclare::default()
    }
}

/// Channel, code, text and method of the close that comes next.
fn refusal(client: &mut Client<TcpStream>) -> (u16, u16, String, (u16, u16)) {
    loop {
        let answer = client.answer();
        match answer.method {
            Method::ConnectionClose(m) => {
                let text = m.reply_text.to_string();
                return (0, m.reply_code, text, (m.class_id, m.method_id));
            }
            Method::ChannelClose(m) => {
                let text = m.reply_text.to_string();
                return (
                    answer.channel,
                    m.reply_code,
                    text,
                    (m.class_id, m.method_id),
                );
            }
            _ => {}
        }
    }
}

fn no_panics(broker: &Broker) {
    let metrics = broker.http_get("/metrics").unwrap();
    assert!(metrics.lines().any(|line| line == "leveret_panics_total 0"));
}

/// A table or an array with another in it, and so on; without the length in front.
fn nested(depth: usize, tag: u8) -> Vec<u8> {
    let mut inner = Vec::new();
    for _ in 0..depth {
        let mut outer = if tag == b'F' { vec![1, b'k'] } else { vec![] };
        outer.push(tag);
        outer.extend_from_slice(&u32::try_from(inner.len()).unwrap().to_be_bytes());
        outer.append(&mut inner);
        inner = outer;
    }
    if tag == b'A' {
        inner.splice(0..0, [1, b'k']);
    }
    inner
}

fn with_table(before: &[u8], table: &[u8]) -> Vec<u8> {
    let length = u32::try_from(table.len()).unwrap().to_be_bytes();
    [before, &length, table].concat()
}

const PUBLISH: (u16, u16) = (60, 40);
const DECLARE: (u16, u16) = (50, 10);
const NONE: (u16, u16) = (0, 0);

#[test]
fn what_is_malformed_is_refused_with_its_code_at_its_level() {
    let broker = Broker::start(&[("message_size_max", "1MiB")]);
    let mut witness = Witness::of(&broker);
    let too_long = format!("NOT_FOUND - no queue '{}...", "n".repeat(230));
    let not_open = "CHANNEL_ERROR - expected 'channel.open'";
    let no_method = "UNEXPECTED_FRAME - expected method frame, got non method frame instead";
    let no_header = "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead";
    let no_body = "UNEXPECTED_FRAME - expected content body, got non content body frame instead";
    let queue = |name: &[u8]| {
        let mut arguments = vec![0, 0, u8::try_from(name.len()).unwrap()];
        arguments.extend_from_slice(name);
        arguments.push(0);
        with_table(&arguments, &[])
    };
    let tables_deep = with_table(&[0, 0, 1, b'q', 0], &nested(10_000, b'F'));
    let arrays_deep = with_table(&[0, 0, 1, b'q', 0], &nested(10_000, b'A'));
    let mut header = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0].to_vec();
    header.extend(with_table(&[], &nested(10_000, b'F')));
    let mut huge = vec![];
    for n in 0..10_000_u32 {
        huge.extend_from_slice(&[4]);
        huge.extend_from_slice(format!("{n:04x}").as_bytes());
        huge.push(b'V');
    }
    let huge = with_table(&[0, 0, 4, b'h', b'u', b'g', b'e', 0], &huge);
    #[rustfmt::skip]
    let table = [
        // contents
        (octets().publish().header(3).body(b"abcd"),        0, 501, "FRAME_ERROR - content body frame exceeds remaining content size", PUBLISH, "longer than announced"),
        (octets().publish().header(3).body(b"ab").publish(), 0, 505, no_body, PUBLISH, "shorter than announced"),
        (octets().publish().header(3).body(b"ab").header(3), 0, 505, no_body, PUBLISH, "shorter, and then another"),
        (octets().publish().frame(FRAME_HEADER, 1, &[0, 50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]), 0, 505, "UNEXPECTED_FRAME - expected content header for class 60, got one for class 50 instead", PUBLISH, "another class"),
        (octets().header(3),                                0, 505, no_method, NONE, "a header without a publish"),
        (octets().frame(FRAME_BODY, 1, b"abc"),             0, 505, no_method, NONE, "a body without a publish"),
        (octets().publish().publish(),                      0, 505, no_header, PUBLISH, "no content at all"),
        (octets().publish().header((1 << 20) + 1),          1, 406, "PRECONDITION_FAILED - message size 1048577 is larger than configured max size 1048576", PUBLISH, "too large: judged on the header"),
        (octets().publish().header(1 << 63),                0, 501, "FRAME_ERROR - content body size 9223372036854775808 exceeds maximum allowed size 536870912", PUBLISH, "larger than anything"),
        (octets().publish().frame(FRAME_HEADER, 1, &header), 0, 502, "SYNTAX_ERROR - tables and arrays nested deeper than 128", PUBLISH, "headers 10,000 deep"),
        // frames
        (octets().raw(&[1, 0, 1, 0xff, 0xff, 0xff, 0xff]),  0, 501, "FRAME_ERROR - type 1, all octets = <<>>: {frame_too_large,4294967295,131064}", NONE, "the largest frame there could be"),
        (octets().raw(&[1, 0, 1, 0, 0, 0, 5, 0, 20, 0, 10, 0, 0xcd]), 0, 501, "FRAME_ERROR - type 1, all octets = <<0,20,0,10,0>>: {invalid_frame_end_marker,205}", NONE, "a wrong end"),
        (octets().frame(0, 1, &[]),                         0, 501, "FRAME_ERROR - type 0, all octets = <<>>: unknown_frame", NONE, "type 0"),
        (octets().frame(4, 0, &[]),                         0, 501, "FRAME_ERROR - type 4, all octets = <<>>: unknown_frame", NONE, "type 4, of an old AMQP"),
        (octets().frame(255, 9, b"xyz"),                    0, 501, "FRAME_ERROR - type 255, all octets = <<\"xyz\">>: unknown_frame", NONE, "type 255"),
        (octets().frame(FRAME_HEARTBEAT, 1, &[]),           0, 505, "UNEXPECTED_FRAME - type 8, all octets = <<>>", NONE, "a heartbeat on channel 1"),
        (octets().frame(FRAME_METHOD, 1, &[]),              0, 501, "FRAME_ERROR - type 1, all octets = <<>>: unknown_frame", NONE, "a method without a method"),
        // arguments
        (octets().raw_method(DECLARE, &tables_deep),        0, 502, "SYNTAX_ERROR - tables and arrays nested deeper than 128", DECLARE, "tables 10,000 deep"),
        (octets().raw_method(DECLARE, &arrays_deep),        0, 502, "SYNTAX_ERROR - tables and arrays nested deeper than 128", DECLARE, "arrays 10,000 deep"),
        (octets().raw_method(DECLARE, &with_table(&[0, 0, 0, 0], &[])[..7]), 0, 501, "FRAME_ERROR - cannot decode <<0,0,0,0,0,0,0>>", DECLARE, "a table cut short"),
        (octets().raw_method(DECLARE, &queue(b"\xc3\x28")), 0, 501, "FRAME_ERROR - Malformed UTF-8 in shortstr", NONE, "a name that is no text"),
        (octets().raw_method(DECLARE, &queue(b"\xed\xa0\x80")), 0, 501, "FRAME_ERROR - Malformed UTF-8 in shortstr", NONE, "half a pair of UTF-16"),
        (octets().raw_method((50, 99), &[]),                0, 540, "NOT_IMPLEMENTED - unknown method 99 of class 50", (50, 99), "no such method"),
        (octets().method(1, BasicGet { queue: short("\r\n"), ..BasicGet::default() }), 1, 404, "NOT_FOUND - no queue '\r\n' in vhost '/'", (60, 70), "line ends are no part of names, but asked for as they are"),
        (octets().method(1, QueueDeclare { passive: true, ..declare(&"n".repeat(255)) }), 1, 404, &too_long, DECLARE, "the longest name, in a text that is too long"),
        (octets().method(1, ExchangeDeclare { kind: short("fanout"), ..Default::default() }), 1, 403, "ACCESS_REFUSED - operation not permitted on the default exchange", (40, 10), "an exchange without a name"),
        (octets().method(1, ExchangeDeclare { exchange: short("x"), ..Default::default() }), 1, 406, "PRECONDITION_FAILED - unknown exchange type ''", (40, 10), "a type without a name"),
        (octets().method(1, QueueBind { queue: short("q"), ..Default::default() }), 1, 403, "ACCESS_REFUSED - operation not permitted on the default exchange", (50, 20), "a binding to the default exchange"),
        (octets().method(1, BasicGet::default()),           1, 404, "NOT_FOUND - no previously declared queue", (60, 70), "the last queue, where there was none"),
        // out of order
        (octets().method(1, leveret_codec::ChannelOpen::default()), 0, 504, "CHANNEL_ERROR - second 'channel.open' seen", (20, 10), "opened twice"),
        (octets().method(2, ChannelClose::default()),       0, 504, not_open, (20, 40), "close of what is not open"),
        (octets().method(1, ChannelCloseOk {}),             0, 503, "COMMAND_INVALID - unimplemented method", (20, 41), "agreed to what nobody has asked"),
        (octets().method(1, ChannelFlow { active: false }), 0, 540, "NOT_IMPLEMENTED - active=false", (20, 20), "no flow"),
        (octets().method(1, TxCommit {}),                   1, 406, "PRECONDITION_FAILED - channel is not transactional", (90, 20), "commit of nothing"),
        (octets().method(0, declare("q")),                  0, 504, "CHANNEL_ERROR - unexpected method in connection state running", DECLARE, "a queue on channel 0"),
        (octets().method(0, ConnectionOpen::default()),     0, 504, "CHANNEL_ERROR - unexpected method in connection state running", (10, 40), "a vhost in a vhost"),
    ];
    for (input, channel, code, text, method, why) in table {
        let mut client = broker.client();
        client.stream.write_all(&input.0).unwrap();
        let expected = (channel, code, text.to_owned(), method);
        assert_eq!(refusal(&mut client), expected, "{why}");
        witness.beat();
        if channel == 1 {
            // The channel alone is closed, and its number is free again.
            client.send(1, ChannelCloseOk {});
            client.open_channel(1);
            client.declare_queue("q");
        }
    }

    let mut client = broker.client();
    client
        .stream
        .write_all(&octets().raw_method(DECLARE, &huge).0)
        .unwrap();
    assert!(matches!(client.answer().method, Method::QueueDeclareOk(_)));
    client.declare_queue(&"n".repeat(255));
    client.send(1, declare("line\r\nends"));
    let Method::QueueDeclareOk(ok) = client.answer().method else {
        panic!("refused")
    };
    assert_eq!(&*ok.queue, "lineends");
    witness.beat();
    no_panics(&broker);
}

#[test]
fn methods_of_servers_and_methods_on_closed_channels_are_refused() {
    let broker = Broker::start(&[]);
    let mut witness = Witness::of(&broker);
    let of_servers: Vec<Method<'static>> = vec![
        ConnectionTune::default().into(),
        ConnectionBlocked::default().into(),
        ChannelOpenOk::default().into(),
        AccessRequestOk::default().into(),
        ExchangeDeclareOk {}.into(),
        ExchangeDeleteOk {}.into(),
        ExchangeBindOk {}.into(),
        QueueDeclareOk::default().into(),
        QueueBindOk {}.into(),
        QueueUnbindOk {}.into(),
        QueuePurgeOk::default().into(),
        QueueDeleteOk::default().into(),
        BasicQosOk {}.into(),
        BasicConsumeOk::default().into(),
        BasicReturn::default().into(),
        BasicDeliver::default().into(),
        leveret_codec::BasicGetOk::default().into(),
        BasicGetEmpty::default().into(),
        BasicRecoverOk {}.into(),
        ConfirmSelectOk {}.into(),
        TxSelectOk {}.into(),
        TxCommitOk {}.into(),
        TxRollbackOk {}.into(),
    ];
    for method in of_servers {
        let (id, name) = (method.id(), method.name());
        let mut client = broker.client();
        client.send(1, method.clone());
        let text = "COMMAND_INVALID - unimplemented method".to_owned();
        assert_eq!(refusal(&mut client), (0, 503, text, id), "{name}");
        witness.beat();
    }
    for class_id in [10, 20, 30, 40, 50, 60, 85, 90] {
        for method_id in (10..=120).step_by(10).chain((11..=111).step_by(10)) {
            let id = (class_id, method_id);
            if id == (20, 10) || id == (20, 41) {
                continue; // opens it; answers a close
            }
            let mut client = broker.client();
            let input = octets().method(1, ChannelClose::default());
            let input = input.raw_method(id, &[]);
            client.stream.write_all(&input.0).unwrap();
            let text = "CHANNEL_ERROR - expected 'channel.open'".to_owned();
            assert_eq!(refusal(&mut client), (0, 504, text, id));
        }
        witness.beat();
    }
    no_panics(&broker);
}

fn start_ok(mechanism: &str, response: &[u8]) -> ConnectionStartOk<'static> {
    ConnectionStartOk {
        mechanism: short(mechanism),
        response: LongStr::from(response.to_vec()),
        locale: ShortStr::from_static("en_US"),
        ..ConnectionStartOk::default()
    }
}

fn tune_ok(channel_max: u16, frame_max: u32) -> ConnectionTuneOk {
    ConnectionTuneOk {
        channel_max,
        frame_max,
        heartbeat: 0,
    }
}

fn greeted() -> Octets {
    octets().raw(&PROTOCOL_HEADER)
}

fn authenticated() -> Octets {
    greeted().method(0, start_ok("PLAIN", b"\0guest\0guest"))
}

#[test]
fn before_the_login_nothing_is_said_and_little_is_held() {
    let broker = Broker::start(&[]);
    let mut witness = Witness::of(&broker);
    let deep = with_table(&[0, 10, 0, 11], &nested(10_000, b'F'));
    #[rustfmt::skip]
    let table = [
        (greeted().raw(&[1, 0, 0, 0, 0, 0x20, 0x01]),                "a frame of 8 KiB and one octet"),
        (greeted().raw(&[1, 0, 0, 0xff, 0xff, 0xff, 0xff]),          "a frame of 4 GiB"),
        (greeted().frame(FRAME_METHOD, 0, &deep[..8_000]),           "a table as deep as fits"),
        (greeted().method(0, start_ok("SCRAM-SHA-256", b"x")),       "no such mechanism"),
        (greeted().method(0, start_ok("PLAIN", b"guest\0guest")),    "no second NUL"),
        (greeted().method(0, start_ok("PLAIN", b"")),                "no response"),
        (greeted().method(0, start_ok("PLAIN", b"\0guest\0wrong")),  "a wrong password of one who reads no close"),
        (greeted().method(0, start_ok("AMQPLAIN", b"\x05LOGINS\xff\xff\xff\xff")), "half a table"),
        (greeted().method(1, leveret_codec::ChannelOpen::default()), "a channel"),
        (greeted().frame(FRAME_BODY, 0, b"x"),                       "a body"),
        (greeted().frame(7, 0, b"x"),                                "no such type"),
        (greeted().method(0, ConnectionOpen::default()),             "a vhost before the login"),
        (authenticated().method(0, ConnectionOpen::default()),       "a vhost before tune-ok"),
    ];
    let mut clients: Vec<_> = table
        .into_iter()
        .map(|(input, why)| {
            let mut client = Client::connect(broker.amqp());
            client.stream.write_all(&input.0).unwrap();
            witness.beat();
            (client, why)
        })
        .collect();
    // None is told what was wrong; the sockets are closed after three seconds, all at once.
    for (client, why) in &mut clients {
        let mut said = Vec::new();
        let _ = client.stream.read_to_end(&mut said); // a reset is as good
        let mut said = said.as_slice();
        while let Some((frame, size)) = leveret_codec::split_frame(said, 0).unwrap() {
            let method = Method::parse(frame.payload).unwrap();
            assert!(
                matches!(
                    method,
                    Method::ConnectionStart(_) | Method::ConnectionTune(_)
                ),
                "{why}: {method:?}"
            );
            said = &said[size..];
        }
        witness.beat();
    }

    let opening = || authenticated().method(0, tune_ok(2_047, 131_072));
    #[rustfmt::skip]
    let table = [
        (authenticated().method(0, tune_ok(2_048, 131_072)), 530, "NOT_ALLOWED - negotiated channel_max = 2048 is higher than the maximum allowed value (2047)", (10, 30)),
        (authenticated().method(0, tune_ok(0, 131_072)),     530, "NOT_ALLOWED - negotiated channel_max = 0 (no limit) is higher than the maximum allowed value (2047)", (10, 30)),
        (authenticated().method(0, tune_ok(1, 131_073)),     530, "NOT_ALLOWED - negotiated frame_max = 131073 is higher than the maximum allowed value (131072)", (10, 30)),
        (authenticated().method(0, tune_ok(1, 4_095)),       530, "NOT_ALLOWED - negotiated frame_max = 4095 is lower than the minimum allowed value (4096)", (10, 30)),
        (opening().method(0, ConnectionOpen { virtual_host: short(""), ..Default::default() }), 530, "NOT_ALLOWED - vhost  not found", (10, 40)),
        (opening().method(0, declare("q")),                  504, "CHANNEL_ERROR - unexpected method in connection state opening", DECLARE),
    ];
    for (input, code, text, method) in table {
        let mut client = Client::connect(broker.amqp());
        client.stream.write_all(&input.0).unwrap();
        assert_eq!(
            refusal(&mut client),
            (0, code, text.to_owned(), method),
            "{text}"
        );
        witness.beat();
    }

    // What was agreed upon holds.
    let open = ConnectionOpen {
        virtual_host: short("/"),
        ..ConnectionOpen::default()
    };
    let small = authenticated()
        .method(0, tune_ok(2, 4_096))
        .method(0, open)
        .method(1, leveret_codec::ChannelOpen::default())
        .method(9, leveret_codec::ChannelOpen::default());
    #[rustfmt::skip]
    let table = [
        (small.clone().method(2, leveret_codec::ChannelOpen::default()), 530, "NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2)"),
        (small.publish().header(5_000).body(&[0; 5_000]), 501, "FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,5000,4088}"),
    ];
    for (input, code, text) in table {
        let mut client = Client::connect(broker.amqp());
        client.stream.write_all(&input.0).unwrap();
        let (channel, got, said, _) = refusal(&mut client);
        assert_eq!((channel, got, said.as_str()), (0, code, text));
        witness.beat();
    }
    no_panics(&broker);
}

#[test]
fn three_hundred_who_say_nothing_keep_nobody_out_and_have_to_go() {
    let broker = Broker::start(&[("handshake_timeout", "2s")]);
    let mut witness = Witness::of(&broker);
    let mut silent: Vec<_> = (0..300)
        .map(|n| {
            let mut client = Client::connect(broker.amqp());
            let part = authenticated().0;
            client.stream.write_all(&part[..n % part.len()]).unwrap();
            client
        })
        .collect();
    let begun = Instant::now();
    drop(broker.client());
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    for client in &mut silent {
        client
            .rest()
            .map(drop)
            .or_else(|e| match e.kind() {
                ErrorKind::ConnectionReset => Ok(()),
                _ => Err(e),
            })
            .unwrap();
    }
    witness.beat();
    no_panics(&broker);
}

#[test]
fn a_connection_may_be_cut_anywhere_and_may_come_an_octet_at_a_time() {
    let broker = Broker::start(&[]);
    let mut witness = Witness::of(&broker);
    let open = ConnectionOpen {
        virtual_host: short("/"),
        ..ConnectionOpen::default()
    };
    let mut dialogue = authenticated()
        .method(0, tune_ok(2_047, 131_072))
        .method(0, open)
        .method(1, leveret_codec::ChannelOpen::default())
        .method(1, declare("cut"))
        .0;
    dialogue.extend(publish_frames("cut", false, b"whole"));
    for end in 0..dialogue.len() {
        let mut client = Client::connect(broker.amqp());
        client.stream.write_all(&dialogue[..end]).unwrap();
        let socket = socket2::SockRef::from(&client.stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap(); // a reset instead of an end
        drop(client);
        if end % 16 == 0 {
            witness.beat();
        }
    }
    let mut slow = Client::connect(broker.amqp());
    slow.stream.set_nodelay(true).unwrap();
    for octet in &dialogue {
        slow.stream.write_all(&[*octet]).unwrap();
    }
    while !matches!(slow.answer().method, Method::QueueDeclareOk(_)) {}
    slow.consume("cut");
    assert_eq!(slow.answer().body, b"whole");
    witness.beat();
    no_panics(&broker);
}

#[test]
fn there_are_only_so_many_of_everything() {
    let broker = Broker::start(&[
        ("queues_max", "3"),
        ("exchanges_max", "10"),
        ("bindings_max", "2"),
        ("consumers_per_channel_max", "2"),
    ]);
    let mut witness = Witness::of(&broker); // has the first queue
    let mut client = broker.client();
    client.declare_queue("q1");
    client.declare_queue("q2");
    client.declare_queue("q2");
    client.send(1, declare("q3"));
    #[rustfmt::skip]
    assert_eq!(refusal(&mut client), (1, 406, "PRECONDITION_FAILED - cannot declare queue 'q3': queue limit in vhost '/' (3) is reached".to_owned(), DECLARE));

    let mut client = broker.client();
    for n in 0..10 {
        client.send(
            1,
            ExchangeDeclare {
                exchange: short(&format!("x{n}")),
                kind: short("direct"),
                ..ExchangeDeclare::default()
            },
        );
    }
    let (channel, code, text, _) = refusal(&mut client);
    assert_eq!((channel, code), (1, 406));
    assert!(
        text.ends_with("in vhost '/': exchange limit of 10 is reached"),
        "{text}"
    );

    let mut client = broker.client();
    for n in 0..3 {
        client.send(
            1,
            QueueBind {
                queue: short("q1"),
                exchange: short("amq.direct"),
                routing_key: short(&n.to_string()),
                ..QueueBind::default()
            },
        );
    }
    #[rustfmt::skip]
    assert_eq!(refusal(&mut client), (1, 406, "PRECONDITION_FAILED - cannot bind: binding limit in vhost '/' (2) is reached".to_owned(), (50, 20)));

    let mut client = broker.client();
    for _ in 0..3 {
        client.send(
            1,
            BasicConsume {
                queue: short("q1"),
                ..BasicConsume::default()
            },
        );
    }
    #[rustfmt::skip]
    assert_eq!(refusal(&mut client), (0, 530, "NOT_ALLOWED - reached maximum (2) of consumers per channel".to_owned(), (60, 20)));
    witness.beat();
    no_panics(&broker);
}

#[test]
fn patterns_and_keys_made_to_be_slow_are_not() {
    let broker = Broker::start(&[]);
    let mut witness = Witness::of(&broker);
    let mut client = broker.client();
    client.declare_queue("t");
    for n in 0..10_000 {
        let pattern = match n % 4 {
            0 => format!("#.#.#.#.x{n}"),
            1 => format!("#.a.#.a.#.a.#.a.#.x{n}"),
            2 => format!("*.#.*.#.*.#.x{n}"),
            _ => format!("#.a.*.#.b{n}.#.y"),
        };
        let bind = QueueBind {
            queue: short("t"),
            exchange: short("amq.topic"),
            routing_key: short(&pattern),
            no_wait: true,
            ..QueueBind::default()
        };
        client.send(1, bind);
    }
    client.declare_queue("t");
    let key = ["a"; 127].join(".");
    let begun = Instant::now();
    for _ in 0..20 {
        let publish = BasicPublish {
            exchange: short("amq.topic"),
            routing_key: short(&key),
            ..BasicPublish::default()
        };
        let input = octets().method(1, publish).header(0);
        client.stream.write_all(&input.0).unwrap();
        witness.beat();
    }
    client.declare_queue("t");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?} for 20 messages"); // without optimisation
    no_panics(&broker);
}

/// Writes the same input again and again until the broker takes no more; returns how much it took.
fn flood(client: &mut Client<TcpStream>, input: &[u8]) -> usize {
    let patience = Some(Duration::from_millis(700));
    client.stream.set_write_timeout(patience).unwrap();
    let batch = input.repeat((64 << 10) / input.len() + 1);
    let mut written = 0;
    loop {
        match client.stream.write(&batch[written % batch.len()..]) {
            Ok(count) => written += count,
            Err(e) => {
                assert!(
                    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                    "{e}"
                );
                return written;
            }
        }
        assert!(written < 8 * SOCKET_BUFFERS_BYTES, "no end");
    }
}

#[test]
fn answers_that_nobody_reads_stop_the_questions() {
    let broker = Broker::start(&[]);
    let mut witness = Witness::of(&broker);
    let mut filler = broker.client();
    filler.declare_queue("got");
    filler.publish("got", &[0; 1_000]);
    let nack = leveret_codec::BasicNack {
        delivery_tag: 0,
        multiple: true,
        requeue: true,
    };
    let get = BasicGet {
        queue: short("got"),
        ..BasicGet::default()
    };
    #[rustfmt::skip]
    let table = [
        (octets().method(1, get).method(1, nack).0,   "get-ok"),
        (octets().method(1, declare("got")).0,        "declare-ok"),
        (octets().method(1, ChannelFlow { active: true }).0, "flow-ok"),
    ];
    for (input, why) in table {
        let mut client = broker.client();
        let taken = flood(&mut client, &input);
        // The answers are about as long as the questions, or longer.
        assert!(
            taken < 2 * SOCKET_BUFFERS_BYTES,
            "{why}: {taken} octets were taken"
        );
        witness.beat();
    }

    let mut client = broker.client();
    client.send(1, ConfirmSelect::default());
    client.answer();
    let count = 20_000_u64;
    let frames = publish_frames("nowhere", false, b"").repeat(count as usize);
    client.stream.write_all(&frames).unwrap();
    witness.beat();
    let mut confirmed = 0;
    while confirmed < count {
        let Method::BasicAck(ack) = client.answer().method else {
            panic!("no confirm")
        };
        confirmed = ack.delivery_tag;
    }
    no_panics(&broker);
}

#[test]
fn direct_replies_to_one_who_does_not_read_are_dropped_and_counted() {
    let broker = Broker::start(&[]);
    let mut witness = Witness::of(&broker);
    let mut asker = broker.client();
    asker.consume("amq.rabbitmq.reply-to");
    asker.declare_queue("questions");
    let mut replier = broker.client();
    replier.consume("questions");
    // The address is in the properties.
    let publish = BasicPublish {
        routing_key: short("questions"),
        ..BasicPublish::default()
    };
    let mut question = octets().method(1, publish).0;
    let reply_to = b"\x15amq.rabbitmq.reply-to";
    encode_header(
        &mut question,
        1,
        0,
        leveret_codec::flags::REPLY_TO,
        reply_to,
    );
    asker.stream.write_all(&question).unwrap();
    let address = {
        let mut seen = Vec::new();
        loop {
            let mut buffer = [0; 1_024];
            let count = replier.stream.read(&mut buffer).unwrap();
            assert!(count > 0);
            seen.extend_from_slice(&buffer[..count]);
            let name = b"amq.rabbitmq.reply-to.";
            let at = seen.windows(name.len()).position(|window| window == name);
            if let Some(at) = at
                && let Some(address) = seen.get(at..at + usize::from(seen[at - 1]))
            {
                break String::from_utf8(address.to_vec()).unwrap();
            }
        }
    };
    let body = [0; 100_000];
    for _ in 0..300 {
        replier.publish(&address, &body);
    }
    replier.declare_queue("questions");
    witness.beat();
    let metrics = broker.http_get("/metrics").unwrap();
    let dropped: u64 = metrics
        .lines()
        .find_map(|line| line.strip_prefix("leveret_direct_replies_dropped_total{vhost=\"/\"} "))
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..300).contains(&dropped), "{dropped}");
    for _ in dropped..300 {
        assert_eq!(asker.answer().body.len(), body.len());
    }
    no_panics(&broker);
}

/// Memory, as seen from outside.
mod memory {
    use super::*;
    use crate::common::Program;

    fn start() -> (Program, std::net::SocketAddr) {
        let program = Program::start(&[]);
        let line = program.line_with("listening for amqp");
        let address = line.split("address=").nth(1).unwrap_or(&line);
        let address = address.split_whitespace().next().unwrap().parse().unwrap();
        program.line_with("ready to accept connections");
        (program, address)
    }

    fn client(address: std::net::SocketAddr) -> Client<TcpStream> {
        let mut client = Client::connect(address);
        client.log_in("guest", "guest", "/");
        client.open_channel(1);
        client
    }

    fn resident_bytes(program: &Program) -> usize {
        let path = format!("/proc/{}/status", program.child.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib << 10
    }

    fn grown(program: &Program, before: usize) -> usize {
        resident_bytes(program).saturating_sub(before)
    }

    #[test]
    fn unread_returns_and_deliveries_cost_their_outbox() {
        let (program, address) = start();
        let mut witness = client(address);
        witness.declare_queue("q");

        let mut publisher = client(address);
        let before = resident_bytes(&program);
        let taken = flood(
            &mut publisher,
            &publish_frames("nowhere", true, &[0; 4_096]),
        );
        let after = grown(&program, before);
        assert!(
            taken > 4_096 && after < 12 << 20,
            "{after} octets for {taken} unread"
        );
        drop(publisher);

        let mut publisher = client(address);
        let frames = publish_frames("q", false, &[0; 100]).repeat(1_000);
        for _ in 0..100 {
            publisher.stream.write_all(&frames).unwrap();
        }
        publisher.declare_queue("q");
        let before = resident_bytes(&program);
        for _ in 0..4 {
            let mut consumer = client(address);
            consumer.send(
                1,
                BasicConsume {
                    queue: short("q"),
                    ..BasicConsume::default() // to be acknowledged, and never is
                },
            );
            assert!(matches!(
                consumer.answer().method,
                Method::BasicConsumeOk(_)
            ));
            for _ in 0..50 {
                witness.declare_queue("q");
            }
            std::mem::forget(consumer); // stays, and does not read
        }
        let after = grown(&program, before);
        assert!(after < 48 << 20, "{after} octets for four who do not read");
    }

    #[test]
    fn contents_without_an_end_are_bounded() {
        let (program, address) = start();
        let mut witness = client(address);
        let mut client = client(address);
        let before = resident_bytes(&program);
        let piece = vec![0; 131_000];
        let mut most = 0;
        'flood: for channel in 2..=32 {
            let mut input = octets()
                .method(channel, leveret_codec::ChannelOpen::default())
                .method(channel, BasicPublish::default())
                .0;
            encode_header(&mut input, channel, 16 << 20, 0, &[]);
            for _ in 0..100 {
                encode_body(&mut input, channel, &piece);
            }
            for part in input.chunks(1 << 20) {
                most = most.max(grown(&program, before));
                if client.stream.write_all(part).is_err() {
                    break 'flood; // refused, and in the end no longer read
                }
            }
        }
        assert!(most < 200 << 20, "{most} octets of 416,000,000");
        let (_, code, text, method) = refusal(&mut client);
        assert_eq!((code, method), (506, PUBLISH), "{text}");
        drop(client);
        witness.declare_queue("q");
    }
}

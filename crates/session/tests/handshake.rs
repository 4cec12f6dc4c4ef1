//! From the first octet to an open vhost, and the heartbeats that begin on the way.

mod common;

use std::sync::Arc;

use common::{Client, Server, open, start_ok, tune_ok};
use leveret_codec::{
    ConnectionClose, ConnectionCloseOk, ConnectionTuneOk, ConnectionUpdateSecret, FieldValue,
    LongStr, Method, PROTOCOL_HEADER, QueueDeclare,
};
use leveret_core::{AmqpError, Mono, Outbound};
use leveret_session::{
    Closing, Credentials, Ended, Mechanism, Received, Session, SessionConfig, Stop,
};

const PLAIN: &[u8] = b"\0guest\0guest";

/// A session that waits for the answer to its login.
fn at_login(capabilities: &[&str]) -> (Session, Received) {
    let client = Client::new()
        .octets(&PROTOCOL_HEADER)
        .method(0, start_ok("PLAIN", PLAIN, capabilities))
        .octets(b"more");
    let mut session = Session::new(Arc::new(SessionConfig::default()), Mono(0));
    let mut out = Received::default();
    let used = session.receive(Mono(0), &client.0, &mut out);
    assert_eq!(
        used,
        client.0.len() - 4,
        "nothing is used before the answer"
    );
    assert!(matches!(out.stop.take(), Some(Stop::Login(_))));
    assert_eq!(session.receive(Mono(0), b"more", &mut out), 0);
    (session, out)
}

#[test]
fn protocol_headers() {
    #[rustfmt::skip]
    let table = [
        (*b"AMQP\0\0\x09\x01",     true,  "AMQP 0-9-1"),
        (*b"AMQP\x01\x01\0\x09",   true,  "AMQP 0-9, which old clients sent"),
        (*b"AMQP\0\0\x09\x02",     false, "a later revision"),
        (*b"AMQP\x01\x01\x08\0",   false, "AMQP 0-8"),
        (*b"AMQP\x03\x01\0\0",     false, "AMQP 1.0 with SASL"),
        (*b"GET / HT",             false, "HTTP"),
        (*b"\x16\x03\x01\x02\0\x01\0\x01", false, "TLS"),
    ];
    for (header, accepted, why) in table {
        let mut server = Server::new();
        server.read(&header[..7]);
        assert!(server.replies.is_empty(), "{why}: not all there");
        server.read(&header[7..]);
        if accepted {
            assert_eq!(server.reply_names(), ["connection.start"], "{why}");
        } else {
            assert_eq!(server.reply_names(), ["protocol header"], "{why}");
            assert_eq!(
                server.closing(),
                Some(&Closing::Now(Ended::NotAmqp { header })),
                "{why}"
            );
        }
    }
}

#[test]
fn start_says_who_we_are_and_what_we_can_do() {
    let server = Server::after(&Client::new().octets(&PROTOCOL_HEADER));
    let [Outbound::Method { channel: 0, method }] = server.replies.as_slice() else {
        panic!("{:?}", server.replies)
    };
    let Method::ConnectionStart(start) = &**method else {
        panic!("{method:?}")
    };
    assert_eq!((start.version_major, start.version_minor), (0, 9));
    assert_eq!(&*start.mechanisms, b"PLAIN AMQPLAIN");
    assert_eq!(&*start.locales, b"en_US");

    let properties = start.server_properties.parse();
    let keys: Vec<_> = properties.iter().map(|(key, _)| key).collect();
    assert!(keys.is_sorted(), "{keys:?}");
    assert_eq!(
        properties.get("product").and_then(FieldValue::as_str),
        Some("Leveret")
    );
    let capabilities = properties
        .get("capabilities")
        .and_then(FieldValue::as_table)
        .unwrap();
    let named: Vec<_> = capabilities
        .iter()
        .map(|(key, value)| (key, value.as_bool()))
        .collect();
    #[rustfmt::skip]
    assert_eq!(named, [
        ("accept_consumer_cancel_ok",    Some(true)),
        ("authentication_failure_close", Some(true)),
        ("basic.nack",                   Some(true)),
        ("connection.blocked",           Some(true)),
        ("consumer_cancel_notify",       Some(true)),
        ("consumer_priorities",          Some(true)),
        ("direct_reply_to",              Some(true)),
        ("exchange_exchange_bindings",   Some(true)),
        ("per_consumer_qos",             Some(true)),
        ("publisher_confirms",           Some(true)),
    ]);
}

#[test]
fn a_login_from_first_to_last() {
    let server = Server::after(&Client::logged_in());
    #[rustfmt::skip]
    assert_eq!(server.reply_names(), ["connection.start", "connection.tune", "connection.open-ok"]);
    assert_eq!(server.vhosts, ["/"]);
    assert!(server.session.is_open());
    assert_eq!(server.session.frame_max(), 131_072);
    assert_eq!(
        server.session.next_timeout(),
        None,
        "no heartbeats, and the handshake is over"
    );

    let [login] = server.logins.as_slice() else {
        panic!("{:?}", server.logins)
    };
    assert_eq!(login.mechanism, Mechanism::Plain);
    assert_eq!(login.connection_name.as_deref(), Some("a test"));
    assert!(!login.capabilities.consumer_cancel_notify);
    let Credentials::Password { user, password } = &login.credentials else {
        unreachable!()
    };
    assert_eq!(
        (user.as_str(), password.expose()),
        ("guest", b"guest".as_slice())
    );
}

#[test]
fn what_the_client_understands_is_passed_on() {
    let client = Client::new().octets(&PROTOCOL_HEADER).method(
        0,
        start_ok(
            "PLAIN",
            PLAIN,
            &["consumer_cancel_notify", "connection.blocked", "new.thing"],
        ),
    );
    let server = Server::after(&client);
    let capabilities = server.logins[0].capabilities;
    assert!(capabilities.consumer_cancel_notify && capabilities.connection_blocked);
    assert!(!capabilities.authentication_failure_close);
}

#[test]
fn a_refused_login_is_told_so_only_if_the_client_can_read_it() {
    let (mut session, mut out) = at_login(&["authentication_failure_close"]);
    let Some(Closing::Refused(error)) = session.refused(Mono(5)) else {
        panic!("silent")
    };
    assert_eq!(error.code.value(), 403);
    assert_eq!(
        error.text,
        "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see \
         the broker logfile."
    );
    let close_ok = Client::new().method(0, ConnectionCloseOk {});
    session.receive(Mono(6), &close_ok.0, &mut out);
    assert!(matches!(
        out.stop,
        Some(Stop::Close(Closing::Now(Ended::Closed)))
    ));

    let (mut session, mut out) = at_login(&[]);
    assert!(matches!(session.refused(Mono(5)), Some(Closing::Silent(_))));
    assert_eq!(
        session.receive(Mono(6), &close_ok.0, &mut out),
        close_ok.0.len()
    );
    assert!(
        out.stop.is_none() && out.replies.len() == 1,
        "not a word after connection.start"
    );
    assert_eq!(
        session.next_timeout(),
        Some(Mono(3_005)),
        "guessing takes time"
    );
    session.handle_timeout(Mono(3_005), &mut out);
    assert!(matches!(out.stop, Some(Stop::Close(Closing::Now(_)))));
}

#[test]
fn an_answer_that_comes_too_late_changes_nothing() {
    let (mut session, mut out) = at_login(&[]);
    session.handle_timeout(Mono(10_000), &mut out);
    assert!(matches!(
        out.stop.take(),
        Some(Stop::Close(Closing::Now(Ended::HandshakeTimeout)))
    ));
    out.replies.clear();
    session.authenticated(&mut out);
    session.opened(&mut out);
    session.secret_updated(&mut out);
    assert!(session.refused(Mono(10_001)).is_none());
    assert!(
        session
            .open_refused(Mono(10_001), AmqpError::not_allowed("x"))
            .is_none()
    );
    assert!(
        session
            .secret_refused(Mono(10_001), AmqpError::not_allowed("x"))
            .is_none()
    );
    assert!(out.replies.is_empty() && !session.is_open());
    assert_eq!(session.next_timeout(), None);
}

#[test]
fn before_tune_is_over_errors_are_answered_with_silence() {
    let start = || Client::new().octets(&PROTOCOL_HEADER);
    let at_tune = || start().method(0, start_ok("PLAIN", PLAIN, &[]));
    #[rustfmt::skip]
    let table = [
        (start().method(0, start_ok("SCRAM", b"", &[])),      "COMMAND_INVALID - unknown authentication mechanism 'SCRAM'"),
        (start().method(0, start_ok("EXTERNAL", b"", &[])),   "COMMAND_INVALID - invalid authentication mechanism 'EXTERNAL'"),
        (start().method(0, start_ok("PLAIN", b"guest", &[])), "SYNTAX_ERROR - malformed PLAIN response"),
        (start().method(0, start_ok("AMQPLAIN", b"x", &[])),  "SYNTAX_ERROR - malformed AMQPLAIN response"),
        (start().method(0, open("/")),                        "CHANNEL_ERROR - unexpected method in connection state starting"),
        (start().open_channel(1),                             "UNEXPECTED_FRAME - type 1, all octets = <<0,20,0,10,0>>"),
        (start().octets(&[1, 0, 0, 0, 0, 0x20, 1]),           "FRAME_ERROR - type 1, all octets = <<>>: {frame_too_large,8193,8184}"),
        (at_tune().method(0, QueueDeclare::default()),        "CHANNEL_ERROR - unexpected method in connection state tuning"),
        (at_tune().raw_method(0, (10, 31), &[0]),             "FRAME_ERROR - cannot decode <<0>>"),
    ];
    for (client, text) in table {
        let mut server = Server::after(&client);
        let Some(Closing::Silent(error)) = server.closing() else {
            panic!("{text}: {:?}", server.closing())
        };
        assert_eq!(error.text, text);
        server.wait(3_000);
        assert_eq!(
            server.closing(),
            Some(&Closing::Now(Ended::CloseTimeout)),
            "{text}"
        );
    }
}

#[test]
fn the_largest_login_that_is_read_has_8192_octets() {
    let with_token = |len: usize| {
        let response = [PLAIN, vec![b'x'; len].as_slice()].concat();
        let client = Client::new().octets(&PROTOCOL_HEADER);
        Server::after(&client.method(0, start_ok("PLAIN", &response, &[])))
    };
    assert_eq!(with_token(8_000).logins.len(), 1);
    assert!(matches!(
        with_token(8_192).closing(),
        Some(Closing::Silent(_))
    ));
}

#[test]
fn a_refused_tune_ok_is_answered_with_a_frame() {
    let wanted = |wanted: ConnectionTuneOk| {
        let client = Client::new()
            .octets(&PROTOCOL_HEADER)
            .method(0, start_ok("PLAIN", PLAIN, &[]))
            .method(0, wanted);
        Server::after(&client)
    };
    let server = wanted(tune_ok(2_047, 131_073, 0));
    let refusal = server.refusal();
    assert_eq!(
        (refusal.code.value(), refusal.method, refusal.text.as_str()),
        (
            530,
            (10, 30),
            "NOT_ALLOWED - negotiated frame_max = 131073 is higher than the maximum allowed value \
             (131072)"
        )
    );
    let server = wanted(tune_ok(100, 4_096, 9));
    assert_eq!(server.closings, []);
    let session = &server.session;
    assert_eq!(
        (
            session.channel_max(),
            session.frame_max(),
            session.heartbeat_s()
        ),
        (100, 4_096, 9)
    );
}

#[test]
fn frames_are_held_to_the_negotiated_size() {
    let client = Client::new()
        .octets(&PROTOCOL_HEADER)
        .method(0, start_ok("PLAIN", PLAIN, &[]))
        .method(0, tune_ok(2_047, 4_096, 0))
        .method(0, open("/"))
        .open_channel(1)
        .publish(1, "q")
        .header(1, 5_000)
        .body(1, &[0; 5_000]);
    assert!(
        Server::after(&client)
            .refusal()
            .text
            .contains("{frame_too_large,5000,4088}")
    );
}

#[test]
fn a_refused_vhost_is_answered_with_a_frame() {
    let mut session = Session::new(Arc::new(SessionConfig::default()), Mono(0));
    let mut out = Received::default();
    let client = Client::logged_in().0;
    let mut used = session.receive(Mono(0), &client, &mut out);
    out.stop = None;
    session.authenticated(&mut out);
    used += session.receive(Mono(0), &client[used..], &mut out);
    assert_eq!(used, client.len());
    assert!(matches!(out.stop.take(), Some(Stop::OpenVhost(vhost)) if vhost == "/"));

    let closing = session.open_refused(Mono(1), AmqpError::not_allowed("vhost foo not found"));
    let Some(Closing::Refused(error)) = closing else {
        panic!("{closing:?}")
    };
    assert_eq!(
        (error.method, error.text.as_str()),
        ((10, 40), "NOT_ALLOWED - vhost foo not found")
    );
    assert_eq!(session.next_timeout(), Some(Mono(3_001)));
}

#[test]
fn a_client_may_close_instead_of_going_on() {
    let close = || Client::new().method(0, ConnectionClose::default());
    let start = Client::new().octets(&PROTOCOL_HEADER);
    let at_tune = start.clone().method(0, start_ok("PLAIN", PLAIN, &[]));
    let at_open = at_tune.clone().method(0, tune_ok(2_047, 131_072, 0));
    for client in [start, at_tune, at_open] {
        let server = Server::after(&client.octets(&close().0));
        assert_eq!(server.closing(), Some(&Closing::Now(Ended::Closed)));
        assert_eq!(server.reply_names().last(), Some(&"connection.close-ok"));
    }
}

#[test]
fn a_handshake_that_stalls_anywhere_ends_after_ten_seconds() {
    let whole = Client::logged_in().0;
    for sent in 0..whole.len() {
        let mut server = Server::new();
        server.now = Mono(9_000);
        server.read(&whole[..sent]); // however late
        server.wait(999);
        assert_eq!(server.closings, [], "{sent} octets");
        server.wait(1);
        assert_eq!(
            server.closing(),
            Some(&Closing::Now(Ended::HandshakeTimeout)),
            "{sent} octets"
        );
    }
    let mut server = Server::after(&Client::logged_in());
    server.wait(1_000_000);
    assert_eq!(server.closings, []);
}

#[test]
fn heartbeats_begin_with_tune_ok() {
    let client = Client::new()
        .octets(&PROTOCOL_HEADER)
        .method(0, start_ok("PLAIN", PLAIN, &[]))
        .method(0, tune_ok(2_047, 131_072, 2));
    let mut server = Server::after(&client);
    server.wait(1_000);
    assert_eq!(server.reply_names().last(), Some(&"heartbeat"));
    server.wait(4_999);
    assert_eq!(server.closings, []);
    server.wait(1);
    assert_eq!(server.closing(), Some(&Closing::Now(Ended::PeerSilent)));
    assert_eq!(server.session.next_timeout(), None);
}

#[test]
fn any_octet_is_a_sign_of_life() {
    let client = Client::new()
        .octets(&PROTOCOL_HEADER)
        .method(0, start_ok("PLAIN", PLAIN, &[]))
        .method(0, tune_ok(2_047, 131_072, 2))
        .method(0, open("/"));
    let mut server = Server::after(&client);
    let slow = Client::new().open_channel(1).0;
    for octet in &slow {
        server.wait(5_999);
        server.read(&[*octet]);
    }
    assert_eq!(server.closings, []);
    assert_eq!(server.commands.len(), 1);

    server.session.pause_expiry();
    server.wait(100_000);
    server.session.resume_expiry(server.now);
    server.wait(5_999);
    assert_eq!(
        server.closings,
        [],
        "silence does not count while we do not read"
    );
    server.wait(1);
    assert_eq!(server.closing(), Some(&Closing::Now(Ended::PeerSilent)));
}

#[test]
fn a_new_secret_is_checked_before_anything_else_is_heard() {
    let update = ConnectionUpdateSecret {
        new_secret: LongStr::from("hunter2"),
        ..ConnectionUpdateSecret::default()
    };
    let client = Client::on_channel_1()
        .method(0, update)
        .publish(1, "q")
        .header(1, 0);
    let server = Server::after(&client);
    assert_eq!(server.secrets, [b"hunter2"]);
    assert_eq!(
        server.reply_names().last(),
        Some(&"connection.update-secret-ok")
    );
    assert_eq!(server.commands.len(), 2, "and the channels are still there");
}

#[test]
fn an_idle_connection_takes_a_few_hundred_octets() {
    assert!(size_of::<Session>() <= 128, "{}", size_of::<Session>());
}

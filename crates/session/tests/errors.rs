//! What a client is told when it errs. Codes, texts and method ids were taken from a RabbitMQ
//! 3.10.8 by sending it the same octets, except where a row says otherwise.

mod common;

use common::{Client, Server, open, start_ok, tune_ok};
use leveret_codec::{
    BasicAck, BasicPublish, ChannelClose, ChannelCloseOk, ConnectionClose, ConnectionCloseOk,
    PROTOCOL_HEADER, QueueDeclare, ShortStr,
};
use leveret_core::{Command, Mono};
use leveret_session::{Closing, Ended, Received};

const PUBLISH: (u16, u16) = (60, 40);
const NONE: (u16, u16) = (0, 0);

#[test]
fn frames_that_close_the_connection() {
    let on_1 = Client::on_channel_1;
    let published = || on_1().publish(1, "q");
    #[rustfmt::skip]
    let table = [
        // channels
        (on_1().publish(2, "q"),                        504, "CHANNEL_ERROR - expected 'channel.open'", PUBLISH, "a channel that was never opened"),
        (on_1().method(2, ChannelClose::default()),     504, "CHANNEL_ERROR - expected 'channel.open'", (20, 40), "not even closed"),
        (on_1().header(2, 0),                           505, "UNEXPECTED_FRAME - expected method frame, got non method frame instead", NONE, "content on it"),
        (on_1().body(2, b"abc"),                        505, "UNEXPECTED_FRAME - expected method frame, got non method frame instead", NONE, "content on it"),
        (on_1().method(1, open("/")),                   503, "COMMAND_INVALID - unimplemented method", (10, 40), "connection.open on channel 1"),
        (on_1().method(1, leveret_codec::BasicDeliver::default()), 503, "COMMAND_INVALID - unimplemented method", (60, 60), "only servers deliver"),
        (on_1().method(0, open("/")),                   504, "CHANNEL_ERROR - unexpected method in connection state running", (10, 40), "opened again"),
        (on_1().method(0, ConnectionCloseOk {}),        504, "CHANNEL_ERROR - unexpected method in connection state running", (10, 51), "close-ok to no close"),
        (on_1().method(0, QueueDeclare::default()),     504, "CHANNEL_ERROR - unexpected method in connection state running", (50, 10), "a queue on channel 0"),
        // types of frame
        (on_1().frame(8, 1, b""),                       505, "UNEXPECTED_FRAME - type 8, all octets = <<>>", NONE, "a heartbeat on channel 1"),
        (on_1().frame(8, 0, &[1]),                      501, "FRAME_ERROR - type 8, all octets = <<1>>: unknown_frame", NONE, "a heartbeat with payload"),
        (on_1().frame(9, 0, b"hello"),                  501, "FRAME_ERROR - type 9, all octets = <<\"hello\">>: unknown_frame", NONE, "no such type"),
        (on_1().frame(9, 1, b"hello \"w"),              501, "FRAME_ERROR - type 9, all octets = <<\"hello \\\"w\">>: unknown_frame", NONE, "on any channel"),
        (on_1().header(0, 0),                           505, "UNEXPECTED_FRAME - type 2, all octets = <<0,60,0,0,0,0,0,0,0,0,0,0,0,0>>", NONE, "content on channel 0"),
        (on_1().frame(1, 1, &[0]),                      501, "FRAME_ERROR - type 1, all octets = <<0>>: unknown_frame", NONE, "a method without ids"),
        // content
        (on_1().body(1, b"a"),                          505, "UNEXPECTED_FRAME - expected method frame, got non method frame instead", NONE, "content out of nowhere"),
        (published().publish(1, "q"),                   505, "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead", PUBLISH, "a method before the content"),
        (published().body(1, b"a"),                     505, "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead", PUBLISH, "a body before the header"),
        (published().frame(2, 1, &[0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), 505, "UNEXPECTED_FRAME - expected content header for class 60, got one for class 10 instead", PUBLISH, "another class"),
        (published().frame(2, 1, &[0, 60, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), 505, "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead", PUBLISH, "a weight"),
        (published().frame(2, 1, &[0, 60]),             501, "FRAME_ERROR - type 2, all octets = <<0,60>>: unknown_frame", NONE, "a header cut short"),
        (published().header(1, 5).header(1, 5),         505, "UNEXPECTED_FRAME - expected content body, got non content body frame instead", PUBLISH, "two headers"),
        (published().header(1, 2).publish(1, "q"),      505, "UNEXPECTED_FRAME - expected content body, got non content body frame instead", PUBLISH, "a method before the body"),
        (published().header(1, 2).body(1, b"abc"),      501, "FRAME_ERROR - content body frame exceeds remaining content size", PUBLISH, "more body than announced; 3.10 swallows it"),
        (published().header(1, 2).body(1, b"a").body(1, b"bc"), 501, "FRAME_ERROR - content body frame exceeds remaining content size", PUBLISH, "in the second frame"),
        (published().header(1, 0).body(1, b"a"),        505, "UNEXPECTED_FRAME - expected method frame, got non method frame instead", NONE, "a body where none was announced"),
        (published().header(1, (512 << 20) + 1),        501, "FRAME_ERROR - content body size 536870913 exceeds maximum allowed size 536870912", PUBLISH, "from 4.x"),
        (published().header(1, u64::MAX),               501, "FRAME_ERROR - content body size 18446744073709551615 exceeds maximum allowed size 536870912", PUBLISH, "as large as can be said"),
        (published().frame(2, 1, &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 9, b'a']), 502, "SYNTAX_ERROR - bytes end within content-type", PUBLISH, "a bad property: an internal error to RabbitMQ"),
        (published().frame(2, 1, &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]), 502, "SYNTAX_ERROR - 1 bytes after the last value", PUBLISH, "one too many: likewise"),
        (on_1().method(1, BasicPublish { immediate: true, ..BasicPublish::default() }).header(1, 0), 540, "NOT_IMPLEMENTED - immediate=true", PUBLISH, "gone since RabbitMQ 3.0"),
        // arguments
        (on_1().raw_method(1, (50, 10), &[0, 0]),       501, "FRAME_ERROR - cannot decode <<0,0>>", (50, 10), "too short"),
        (on_1().raw_method(1, (50, 10), &[0, 0, 1, 113, 0, 0, 0, 0, 0, 122, 122]), 501, "FRAME_ERROR - cannot decode <<0,0,1,113,0,0,0,0,0,122,122>>", (50, 10), "too long"),
        (on_1().raw_method(1, (60, 80), &[0, 0]),       501, "FRAME_ERROR - cannot decode <<0,0>>", (60, 80), "an ack cut short"),
        (on_1().raw_method(1, (50, 10), &[0, 0, 1, 0xff, 0, 0, 0, 0, 0]), 501, "FRAME_ERROR - Malformed UTF-8 in shortstr", NONE, "a name that is not text"),
        (on_1().raw_method(1, (50, 10), &[0, 0, 1, 113, 0, 0, 0, 0, 3, 1, 97, 122]), 502, "SYNTAX_ERROR - unknown table field type 'z'", (50, 10), "RabbitMQ hangs up without a word"),
        (on_1().raw_method(1, (60, 200), &[]),          540, "NOT_IMPLEMENTED - unknown method 200 of class 60", (60, 200), "RabbitMQ hangs up without a word"),
    ];
    for (client, code, text, method, why) in table {
        let server = Server::after(&client);
        let refusal = server.refusal();
        assert_eq!(
            (refusal.code.value(), refusal.text.as_str(), refusal.method),
            (code, text, method),
            "{why}"
        );
    }
}

#[test]
fn before_the_vhost_is_open() {
    let tuned = || {
        Client::new()
            .octets(&PROTOCOL_HEADER)
            .method(0, start_ok("PLAIN", b"\0guest\0guest", &[]))
            .method(0, tune_ok(2_047, 131_072, 0))
    };
    #[rustfmt::skip]
    let table = [
        (tuned().open_channel(1),                   505, "UNEXPECTED_FRAME - type 1, all octets = <<0,20,0,10,0>>", NONE, "a channel too early"),
        (tuned().frame(9, 0, b"x"),                 501, "FRAME_ERROR - type 9, all octets = <<\"x\">>: unknown_frame", NONE, "no such type"),
        (tuned().header(0, 0),                      505, "UNEXPECTED_FRAME - type 2, all octets = <<0,60,0,0,0,0,0,0,0,0,0,0,0,0>>", NONE, "content"),
        (tuned().method(0, QueueDeclare::default()), 504, "CHANNEL_ERROR - unexpected method in connection state opening", (50, 10), "another method"),
    ];
    for (client, code, text, method, why) in table {
        let server = Server::after(&client);
        let refusal = server.refusal();
        assert_eq!(
            (refusal.code.value(), refusal.text.as_str(), refusal.method),
            (code, text, method),
            "{why}"
        );
    }
    let heartbeat = Server::after(&tuned().frame(8, 0, b"").method(0, open("/")));
    assert!(
        heartbeat.session.is_open(),
        "a heartbeat is welcome at any time"
    );
}

#[test]
fn no_method_but_open_and_close_ok_is_heard_on_a_channel_that_is_not_open() {
    for class_id in [10, 20, 30, 40, 50, 60, 85, 90] {
        for method_id in 0..=130 {
            let id = (class_id, method_id);
            if id == (20, 10) || id == (20, 41) {
                continue;
            }
            let server = Server::after(&Client::logged_in().raw_method(7, id, &[]));
            assert_eq!(
                server.refusal().text,
                "CHANNEL_ERROR - expected 'channel.open'"
            );
            assert_eq!(server.refusal().method, id);
        }
    }
}

#[test]
fn octets_that_are_no_frame_end_the_conversation() {
    let too_large = [3, 0, 1, 0, 3, 0x0d, 0x40];
    let largest = [1, 0, 0, 0xff, 0xff, 0xff, 0xff];
    let bad_end = [1, 0, 1, 0, 0, 0, 5, 0, 20, 0, 10, 0, 0];
    #[rustfmt::skip]
    let table: [(&[u8], &str); 3] = [
        (&too_large, "FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,200000,131064}"),
        (&largest,   "FRAME_ERROR - type 1, all octets = <<>>: {frame_too_large,4294967295,131064}"),
        (&bad_end,   "FRAME_ERROR - type 1, all octets = <<0,20,0,10,0>>: {invalid_frame_end_marker,0}"),
    ];
    for (octets, text) in table {
        let mut server = Server::after(&Client::on_channel_1().octets(octets));
        assert_eq!(
            (server.refusal().text.as_str(), server.refusal().method),
            (text, NONE)
        );

        // Even a close-ok is only octets now; the socket is closed after a while.
        server.read(&Client::new().method(0, ConnectionCloseOk {}).0);
        server.wait(2_999);
        assert_eq!(server.closings.len(), 1);
        server.wait(1);
        assert_eq!(server.closing(), Some(&Closing::Now(Ended::CloseTimeout)));
    }
}

#[test]
fn a_frame_may_exceed_frame_max_by_its_envelope() {
    let client = |payload: usize| {
        let body = vec![7; payload];
        Client::on_channel_1()
            .publish(1, "q")
            .header(1, payload as u64)
            .body(1, &body)
    };
    assert_eq!(
        Server::after(&client(131_072)).commands.len(),
        2,
        "some clients count it that way"
    );
    assert!(
        Server::after(&client(131_073))
            .refusal()
            .text
            .contains("{frame_too_large,131073,")
    );
}

#[test]
fn tables_nested_without_end_are_refused() {
    fn nested(depth: usize) -> Vec<u8> {
        let mut table = Vec::new();
        for _ in 0..depth {
            let mut outer = vec![1, b'a', b'F'];
            outer.extend_from_slice(&(table.len() as u32).to_be_bytes());
            outer.append(&mut table);
            table = outer;
        }
        table
    }
    fn long(content: &[u8]) -> Vec<u8> {
        [&(content.len() as u32).to_be_bytes(), content].concat()
    }
    let declare = |depth| {
        let arguments = [&[0, 0, 1, b'q', 0], long(&nested(depth)).as_slice()].concat();
        Server::after(&Client::on_channel_1().raw_method(1, (50, 10), &arguments))
    };
    assert_eq!(declare(100).commands.len(), 2, "deep, but not too deep");
    assert!(
        declare(10_000)
            .refusal()
            .text
            .starts_with("SYNTAX_ERROR - ")
    );

    let log_in = |depth| {
        let (properties, response) = (long(&nested(depth)), long(b"\0guest\0guest"));
        let arguments = [
            &properties,
            b"\x05PLAIN".as_slice(),
            &response,
            b"\x05en_US",
        ]
        .concat();
        let start_ok = Client::new().octets(&PROTOCOL_HEADER);
        Server::after(&start_ok.raw_method(0, (10, 11), &arguments))
    };
    assert_eq!(log_in(15).logins.len(), 1);
    let refused = log_in(16);
    assert!(
        matches!(refused.closing(), Some(Closing::Silent(_))),
        "{:?}",
        refused.closing()
    );
}

#[test]
fn commands_before_an_error_count_and_those_after_it_do_not() {
    let ack = |delivery_tag| BasicAck {
        delivery_tag,
        multiple: false,
    };
    let client = Client::on_channel_1()
        .method(1, ack(1))
        .frame(9, 1, b"")
        .method(1, ack(2));
    let server = Server::after(&client);
    assert_eq!(server.refusal().code.value(), 501);
    assert_eq!(
        server.commands_shown().last().unwrap(),
        "1: settle 1 multiple=false Ack"
    );
}

#[test]
fn while_closing_only_the_answer_matters() {
    let refused = || Server::after(&Client::on_channel_1().frame(9, 1, b""));

    let mut server = refused();
    let ack = BasicAck::default();
    server.read(
        &Client::new()
            .method(1, ack)
            .frame(9, 1, b"")
            .method(0, ConnectionCloseOk {})
            .0,
    );
    assert_eq!(
        server.closing(),
        Some(&Closing::Now(Ended::Closed)),
        "close-ok"
    );
    assert_eq!(server.commands.len(), 1, "only channel.open");

    let mut server = refused();
    server.read(&Client::new().method(0, ConnectionClose::default()).0);
    assert_eq!(
        server.closing(),
        Some(&Closing::Now(Ended::Closed)),
        "both closed at once"
    );
    assert_eq!(server.reply_names().last(), Some(&"connection.close-ok"));

    let mut server = refused();
    server.read(
        &Client::new()
            .octets(&[1, 0, 0, 0xff, 0xff, 0xff, 0xff, 0])
            .0,
    );
    assert_eq!(
        server.closings.len(),
        1,
        "what is no frame is not refused a second time"
    );
    server.wait(30_000);
    assert_eq!(server.closing(), Some(&Closing::Now(Ended::CloseTimeout)));
    assert_eq!(server.session.next_timeout(), None);
}

/// A peer that talks on after it was refused fills no buffer: what it says is taken, frame or not.
#[test]
fn what_is_no_frame_is_taken_while_closing() {
    let mut server = Server::after(&Client::on_channel_1().frame(9, 1, b""));
    let garbage = vec![0xff; 2 * server.session.frame_size_max()];
    let mut out = Received::default();
    let used = server.session.receive(server.now, &garbage, &mut out);
    assert_eq!(used, garbage.len());
}

#[test]
fn an_answer_to_close_is_waited_for_no_longer_than_a_heartbeat() {
    let client = Client::new()
        .octets(&PROTOCOL_HEADER)
        .method(0, start_ok("PLAIN", b"\0guest\0guest", &[]))
        .method(0, tune_ok(2_047, 131_072, 5))
        .method(0, open("/"))
        .frame(9, 1, b"");
    assert_eq!(
        Server::after(&client).session.next_timeout(),
        Some(Mono(5_000))
    );
    let without = Client::logged_in().frame(9, 1, b"");
    assert_eq!(
        Server::after(&without).session.next_timeout(),
        Some(Mono(30_000))
    );
}

#[test]
fn when_the_core_closes_the_connection_the_rest_is_discarded() {
    let mut server = Server::after(&Client::on_channel_1());
    server.session.closing_started(server.now);
    assert!(!server.session.is_open());
    server.read(
        &Client::new()
            .publish(1, "q")
            .header(1, 0)
            .method(0, ConnectionCloseOk {})
            .0,
    );
    assert_eq!(server.commands.len(), 1, "only channel.open");
    assert_eq!(server.closing(), Some(&Closing::Now(Ended::Closed)));
}

#[test]
fn a_client_that_closes_is_not_heard_any_more() {
    let client = Client::on_channel_1()
        .method(0, ConnectionClose::default())
        .method(1, BasicAck::default())
        .octets(&[0xff; 100]);
    let mut server = Server::after(&client);
    let last = server.commands.last().unwrap();
    assert!(
        matches!(last, Command::Method { channel: 0, method } if method.name() == "connection.close")
    );
    assert_eq!(
        server.closings,
        [],
        "the core answers, and the writer closes"
    );
    server.wait(30_000);
    assert_eq!(
        server.closing(),
        Some(&Closing::Now(Ended::CloseTimeout)),
        "or not"
    );
}

#[test]
fn too_many_channels_close_the_connection() {
    let client = Client::new()
        .octets(&PROTOCOL_HEADER)
        .method(0, start_ok("PLAIN", b"\0guest\0guest", &[]))
        .method(0, tune_ok(2, 131_072, 0))
        .method(0, open("/"))
        .open_channel(1)
        .open_channel(60_000);
    let server = Server::after(&client);
    assert_eq!(
        server.session.channels_open(),
        2,
        "it is their count that matters"
    );

    let again = client
        .clone()
        .method(1, ChannelClose::default())
        .open_channel(3);
    assert_eq!(Server::after(&again).session.channels_open(), 2);

    let refusal = Server::after(&client.open_channel(2)).refusal().clone();
    assert_eq!(
        refusal.text,
        "NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2)"
    );
}

#[test]
fn close_ok_is_heard_whatever_the_channel_waits_for() {
    let published = Client::on_channel_1().publish(1, "q");
    let clients = [
        Client::on_channel_1(),
        published.clone(),
        published.clone().header(1, 9),
        published.header(1, 9).body(1, b"abc"),
        Client::logged_in(),
    ];
    for client in clients {
        let mut server = Server::after(&client.method(1, ChannelCloseOk {}));
        assert_eq!(server.closings, []);
        assert_eq!(
            server.commands_shown().last().unwrap(),
            "1: ChannelCloseOk(ChannelCloseOk)"
        );
        assert_eq!(server.session.channels_open(), 0);

        let again = Client::new()
            .open_channel(1)
            .publish(1, "k")
            .header(1, 1)
            .body(1, b"x");
        server.read(&again.0);
        assert!(
            server.commands_shown().last().unwrap().contains("\"k\""),
            "the number is free"
        );
    }
}

#[test]
fn a_message_that_is_too_large_closes_its_channel_alone() {
    let size = (16 << 20) + 1;
    let mut server = Server::after(
        &Client::on_channel_1()
            .open_channel(2)
            .publish(1, "q")
            .header(1, size)
            .body(1, b"abc"),
    );
    assert_eq!(
        server.commands_shown().last().unwrap(),
        "1: refuse 406 PRECONDITION_FAILED - message size 16777217 is larger than configured max \
         size 16777216"
    );
    let Some(Command::Refuse { error, .. }) = server.commands.last() else {
        unreachable!()
    };
    assert_eq!(error.method, PUBLISH);

    // Until the client knows, the rest of the channel is discarded, whatever it is.
    let refused = server.commands.len();
    let client = Client::new()
        .body(1, b"more")
        .publish(1, "q")
        .method(1, QueueDeclare::default())
        .header(1, 3)
        .open_channel(1);
    server.read(&client.0);
    assert_eq!(server.commands.len(), refused);
    server.read(&Client::new().publish(2, "other").header(2, 0).0);
    assert_eq!(server.commands.len(), refused + 1, "other channels go on");

    server.read(&Client::new().method(1, ChannelCloseOk {}).open_channel(1).0);
    assert_eq!(server.commands.len(), refused + 3);
    assert_eq!(server.closings, []);
}

#[test]
fn a_refused_channel_may_be_closed_by_both_sides_at_once() {
    let size = (16 << 20) + 1;
    let close = ChannelClose {
        reply_code: 200,
        ..ChannelClose::default()
    };
    let client = Client::on_channel_1()
        .publish(1, "q")
        .header(1, size)
        .method(1, close)
        .method(1, ChannelCloseOk {})
        .open_channel(1);
    let server = Server::after(&client);
    assert_eq!(server.closings, []);
    let names: Vec<_> = server
        .commands_shown()
        .iter()
        .map(|c| c[3..9].to_owned())
        .collect();
    assert_eq!(names, ["Channe", "refuse", "Channe", "Channe", "Channe"]);
}

#[test]
fn a_long_refusal_shows_the_beginning_of_what_it_refuses() {
    let name = ShortStr::truncated("x".repeat(255));
    let mut server = Server::after(&Client::on_channel_1());
    let mut octets = Client::new().method(
        1,
        QueueDeclare {
            queue: name,
            ..QueueDeclare::default()
        },
    );
    let at = octets.0.len() - 2;
    octets.0[at] = 9; // the table ends within itself
    server.read(&octets.0);
    assert!(
        server
            .refusal()
            .text
            .starts_with("FRAME_ERROR - cannot decode <<0,0,255,120,120,")
    );
}

#[test]
fn contents_that_are_begun_on_many_channels_and_never_ended_are_bounded() {
    const PIECE: usize = 131_000;
    const PIECES: usize = 60; // of 61 announced, so 7.9 MB a channel

    let begin = |channel| {
        let mut client = Client::new()
            .open_channel(channel)
            .publish(channel, "k")
            .header(channel, (PIECE * (PIECES + 1)) as u64);
        for _ in 0..PIECES {
            client = client.body(channel, &[7; PIECE]);
        }
        client
    };
    let mut server = Server::after(&Client::logged_in());
    for channel in 1..=8 {
        server.read(&begin(channel).0);
    }
    // What comes to an end, in whatever way, no longer counts.
    server.read(&Client::new().body(1, &[7; PIECE]).0);
    server.read(&Client::new().method(2, ChannelCloseOk {}).0);
    for channel in 9..=10 {
        server.read(&begin(channel).0);
    }
    assert_eq!(server.closings, []);
    assert!(matches!(server.commands[8], Command::Publish { .. }));

    server.read(&begin(11).0);
    let error = server.refusal();
    assert_eq!((error.code.value(), error.method), (506, PUBLISH));
    assert_eq!(
        error.text,
        "RESOURCE_ERROR - contents that are not complete take more than 67239936 octets"
    );
}

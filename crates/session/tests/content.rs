//! Publishes and other commands: the same ones, however the octets arrive.

mod common;

use common::{Client, Server, show};
use leveret_codec::{
    BasicAck, BasicGet, BasicNack, BasicReject, ChannelFlow, ChannelFlowOk, ShortStr,
    encode_header, flags,
};
use leveret_core::Command;
use proptest::collection::vec;
use proptest::prelude::*;

fn published(command: &Command) -> (&str, &[u8]) {
    match command {
        Command::Publish { message, .. } => (message.routing_key(), message.body()),
        other => panic!("{}", show(other)),
    }
}

/// Only what comes after `channel.open`.
fn after_open(server: &Server) -> &[Command] {
    &server.commands[1..]
}

#[test]
fn a_body_may_come_in_any_number_of_frames() {
    let publish = || Client::on_channel_1().publish(1, "k");
    let large = vec![b'x'; 300_000];
    #[rustfmt::skip]
    let table: Vec<(Client, &[u8], &str)> = vec![
        (publish().header(1, 0),                                      b"",     "none: no body"),
        (publish().header(1, 3).body(1, b"abc"),                      b"abc",  "one"),
        (publish().header(1, 3).body(1, b"a").body(1, b"bc"),         b"abc",  "two"),
        (publish().header(1, 3).body(1, b"").body(1, b"abc"),         b"abc",  "one of them empty"),
        (publish().header(1, 300_000).body(1, &large[..131_064]).body(1, &large[..131_064]).body(1, &large[..37_872]), &large, "as large as they may be"),
    ];
    for (client, body, why) in table {
        let server = Server::after(&client);
        assert_eq!(server.closings, [], "{why}");
        let [command] = after_open(&server) else {
            panic!("{why}: {:?}", server.commands)
        };
        assert_eq!(published(command), ("k", body), "{why}");
    }
}

#[test]
fn contents_of_several_channels_may_interleave() {
    let client = Client::on_channel_1()
        .open_channel(2)
        .publish(1, "one")
        .publish(2, "two")
        .header(2, 2)
        .header(1, 2)
        .body(1, b"a")
        .frame(8, 0, b"")
        .body(2, b"b")
        .body(2, b"b")
        .body(1, b"a");
    let server = Server::after(&client);
    let bodies: Vec<_> = server.commands[2..].iter().map(published).collect();
    assert_eq!(bodies, [("two", b"bb".as_slice()), ("one", b"aa")]);
}

#[test]
fn properties_pass_unchanged() {
    let mut header = Vec::new();
    let raw = b"\x04text\x02\x07"; // content-type, delivery-mode, priority
    encode_header(
        &mut header,
        1,
        0,
        flags::CONTENT_TYPE | flags::DELIVERY_MODE | flags::PRIORITY,
        raw,
    );
    for split in [0, header.len() / 2] {
        let mut server = Server::after(
            &Client::on_channel_1()
                .publish(1, "k")
                .octets(&header[..split]),
        );
        server.read(&header[split..]);
        let [Command::Publish { message, .. }] = after_open(&server) else {
            panic!()
        };
        assert_eq!(message.raw_properties(), raw);
        assert_eq!((message.is_persistent(), message.priority()), (true, 7));
        assert_eq!(
            message.properties().content_type.as_deref(),
            Some(b"text".as_slice())
        );
    }
}

#[test]
fn settling_methods() {
    let client = Client::on_channel_1()
        .method(
            1,
            BasicAck {
                delivery_tag: 1,
                multiple: false,
            },
        )
        .method(
            1,
            BasicAck {
                delivery_tag: u64::MAX,
                multiple: true,
            },
        )
        .method(
            1,
            BasicNack {
                delivery_tag: 2,
                multiple: true,
                requeue: false,
            },
        )
        .method(
            1,
            BasicReject {
                delivery_tag: 3,
                requeue: true,
            },
        );
    let server = Server::after(&client);
    let shown: Vec<_> = after_open(&server).iter().map(show).collect();
    #[rustfmt::skip]
    assert_eq!(shown, [
        "1: settle 1 multiple=false Ack",
        "1: settle 18446744073709551615 multiple=true Ack",
        "1: settle 2 multiple=true Nack { requeue: false }",
        "1: settle 3 multiple=false Reject { requeue: true }",
    ]);
}

#[test]
fn what_the_session_does_not_judge_goes_to_the_core() {
    let client = Client::on_channel_1()
        .open_channel(1)
        .method(1, ChannelFlow { active: false })
        .method(1, ChannelFlowOk { active: true })
        .method(1, leveret_codec::BasicCancelOk::default())
        .method(1, leveret_codec::QueueDeclareOk::default());
    let server = Server::after(&client);
    let names: Vec<_> = server
        .commands
        .iter()
        .map(|command| match command {
            Command::Method { channel: 1, method } => method.name(),
            other => panic!("{}", show(other)),
        })
        .collect();
    #[rustfmt::skip]
    assert_eq!(names, ["channel.open", "channel.open", "channel.flow", "channel.flow-ok", "basic.cancel-ok", "queue.declare-ok"]);
    assert_eq!(server.closings, []);
}

#[test]
fn channels_are_found_whatever_their_numbers() {
    let numbers = [1, 2, 3, 500, 65_535, 4, 2_047];
    let mut client = Client::logged_in();
    for number in numbers {
        client = client.open_channel(number);
    }
    for number in numbers {
        client = client.method(number, BasicAck::default());
    }
    client = client.method(2, leveret_codec::ChannelClose::default());
    for number in numbers.into_iter().filter(|number| *number != 2) {
        client = client.method(number, BasicAck::default());
    }
    let server = Server::after(&client);
    assert_eq!(server.closings, []);
    assert_eq!(server.session.channels_open(), 6);
}

/// One thing a client does on a channel.
#[derive(Clone, Debug)]
enum Step {
    Publish {
        mandatory: bool,
        body: Vec<u8>,
        cuts: Vec<usize>,
    },
    Ack {
        delivery_tag: u64,
        multiple: bool,
    },
    Get {
        queue: String,
    },
    Heartbeat,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<bool>(), vec(any::<u8>(), 0..300), vec(0_usize..300, 0..4))
            .prop_map(|(mandatory, body, cuts)| Step::Publish { mandatory, body, cuts }),
        2 => (any::<u64>(), any::<bool>())
            .prop_map(|(delivery_tag, multiple)| Step::Ack { delivery_tag, multiple }),
        1 => "[a-z]{0,20}".prop_map(|queue| Step::Get { queue }),
        1 => Just(Step::Heartbeat),
        1 => Just(Step::Reopen),
    ]
}

/// The frames of a step, one by one, so that those of several channels can be shuffled together.
fn frames(channel: u16, step: &Step) -> Vec<Vec<u8>> {
    match step {
        Step::Publish {
            mandatory,
            body,
            cuts,
        } => {
            let publish = leveret_codec::BasicPublish {
                mandatory: *mandatory,
                exchange: ShortStr::from_static("x"),
                routing_key: ShortStr::from_static("key"),
                ..leveret_codec::BasicPublish::default()
            };
            let mut header = Vec::new();
            encode_header(
                &mut header,
                channel,
                body.len() as u64,
                flags::PRIORITY,
                &[5],
            );
            let mut frames = vec![Client::new().method(channel, publish).0, header];
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (body.len() + 1)).collect();
            cuts.extend([0, body.len()]);
            cuts.sort_unstable();
            if body.is_empty() {
                return frames;
            }
            // A frame behind the last octet would be one too many.
            let to_the_end = cuts.partition_point(|cut| *cut < body.len()) + 1;
            for pair in cuts[..to_the_end].windows(2) {
                frames.push(Client::new().body(channel, &body[pair[0]..pair[1]]).0);
            }
            frames
        }
        Step::Ack {
            delivery_tag,
            multiple,
        } => {
            let ack = BasicAck {
                delivery_tag: *delivery_tag,
                multiple: *multiple,
            };
            vec![Client::new().method(channel, ack).0]
        }
        Step::Get { queue } => {
            let queue = ShortStr::truncated(queue.clone());
            vec![
                Client::new()
                    .method(
                        channel,
                        BasicGet {
                            queue,
                            ..BasicGet::default()
                        },
                    )
                    .0,
            ]
        }
        Step::Heartbeat => vec![Client::new().frame(8, 0, b"").0],
        Step::Reopen => {
            let close = leveret_codec::ChannelClose::default();
            vec![
                Client::new().method(channel, close).0,
                Client::new().open_channel(channel).0,
            ]
        }
    }
}

/// A valid conversation on three channels whose frames are shuffled together.
fn conversation() -> impl Strategy<Value = Vec<u8>> {
    (vec(vec(step(), 0..12), 3), vec(0_usize..3, 0..400)).prop_map(|(steps, turns)| {
        let mut client = Client::logged_in()
            .open_channel(1)
            .open_channel(2)
            .open_channel(3);
        let mut waiting: Vec<Vec<Vec<u8>>> = (1..)
            .zip(&steps)
            .map(|(channel, steps)| {
                steps
                    .iter()
                    .flat_map(|step| frames(channel, step))
                    .rev()
                    .collect()
            })
            .collect();
        for channel in turns
            .into_iter()
            .chain([0, 1, 2].into_iter().flat_map(|c| [c; 200]))
        {
            if let Some(frame) = waiting[channel].pop() {
                client = client.octets(&frame);
            }
        }
        client.0
    })
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_commands(
        octets in conversation(),
        sizes in vec(prop_oneof![1_usize..12, 1_usize..2_000], 1..20),
    ) {
        let whole = Server::after(&Client(octets.clone()));
        prop_assert_eq!(&whole.closings, &[]);

        let mut chunked = Server::new();
        let mut rest = octets.as_slice();
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, after) = rest.split_at((*size).min(rest.len()));
            chunked.read(chunk);
            rest = after;
        }
        prop_assert_eq!(chunked.commands_shown(), whole.commands_shown());
        prop_assert_eq!(chunked.reply_names(), whole.reply_names());
        prop_assert_eq!(chunked.closings, whole.closings);
    }

    #[test]
    fn any_octets_are_survived(
        logged_in in any::<bool>(),
        octets in vec(any::<u8>(), 0..400),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut server = if logged_in { Server::after(&Client::on_channel_1()) } else { Server::new() };
        let cut = cut.index(octets.len() + 1);
        server.read(&octets[..cut]);
        server.read(&octets[cut..]);
        server.wait(100_000);
    }

    /// Random frames get further than random octets.
    #[test]
    fn any_frames_are_survived_whatever_their_order(
        frames in vec((1_u8..10, 0_u16..4, method_id(), vec(0_u8..4, 0..24)), 0..40),
    ) {
        let mut client = Client::on_channel_1().open_channel(2);
        for (kind, channel, (class_id, method_id), rest) in frames {
            let mut payload = [class_id.to_be_bytes(), method_id.to_be_bytes()].concat();
            payload.extend(rest);
            client = client.frame(kind, channel, &payload);
        }
        let mut server = Server::after(&client);
        server.wait(100_000);
        prop_assert!(server.closings.len() <= 2, "refused once and ended once: {:?}", server.closings);
    }

    /// Whatever is changed in a valid conversation, chunking makes no difference.
    #[test]
    fn errors_too_are_the_same_for_any_chunking(
        octets in conversation(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        size in 1_usize..50,
    ) {
        let mut octets = octets;
        let start = Client::on_channel_1().0.len();
        for (at, octet) in changes {
            let at = start + at.index(octets.len() - start);
            octets[at] = octet;
        }
        let whole = Server::after(&Client(octets.clone()));
        let mut chunked = Server::new();
        for chunk in octets.chunks(size) {
            chunked.read(chunk);
        }
        prop_assert_eq!(chunked.commands_shown(), whole.commands_shown());
        prop_assert_eq!(chunked.closings, whole.closings);
    }
}

fn method_id() -> impl Strategy<Value = (u16, u16)> {
    prop_oneof![
        Just((60, 40)),
        Just((60, 0)),
        (
            prop::sample::select(vec![10_u16, 20, 40, 50, 60, 85, 90]),
            10_u16..125
        ),
    ]
}

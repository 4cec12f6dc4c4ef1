//! The path of a message without sockets: octets -> session -> core -> encoder -> octets.
//!
//! `cargo bench -p leveret-session` prints nanoseconds a message for each leg. What a real broker
//! spends beyond this is system calls, wake-ups and cache misses between threads.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leveret_codec::{
    BasicAck, BasicConsume, BasicPublish, ChannelOpen, Method, QueueDeclare, ShortStr, encode_body,
    encode_header, encode_method,
};
use leveret_core::broker::Options;
use leveret_core::{
    Broker, Capabilities, Command, ConnectionId, Effects, Input, Limits, Mono, Now, Peer,
    Permissions,
};
use leveret_session::{Encoder, Received, Session, SessionConfig, Stop, Wire};
use slotmap::SlotMap;

const ROUNDS: usize = 2_000;

fn main() {
    for (body, no_ack) in [(16, true), (100, true), (100, false), (1_024, true)] {
        run(body, no_ack);
    }
}

fn run(body_size: usize, no_ack: bool) {
    let mut ids = SlotMap::<ConnectionId, ()>::with_key();
    let id = ids.insert(());
    let mut broker = Broker::new(Options {
        vhost: Arc::from("/"),
        seed: [7; 32],
        limits: Limits {
            outbox_bytes_max: usize::MAX,
            ..Limits::default()
        },
    });
    let mut fx = Effects::new();
    let now = Now::default();
    broker.handle(now, Input::Opened(id, Box::new(peer())), &mut fx);
    let mut session = logged_in_session();
    let mut out = Received::default();
    let mut encoder = Encoder::new(131_072);
    let mut wire = Wire::default();

    let mut setup = Vec::new();
    let queue = ShortStr::from_static("bench");
    encode_method(&mut setup, 1, &ChannelOpen::default().into());
    encode_method(
        &mut setup,
        1,
        &QueueDeclare {
            queue: queue.clone(),
            ..Default::default()
        }
        .into(),
    );
    encode_method(
        &mut setup,
        1,
        &BasicConsume {
            queue,
            no_ack,
            ..Default::default()
        }
        .into(),
    );
    assert_eq!(session.receive(Mono(0), &setup, &mut out), setup.len());
    broker.handle(
        now,
        Input::Commands(id, std::mem::take(&mut out.commands)),
        &mut fx,
    );
    fx.drain_sends(|_, batch| {
        batch
            .drain(..)
            .for_each(|outbound| encoder.encode(outbound, &mut wire));
    });
    wire.advance(wire.len());

    let publishes = publishes(body_size);
    let mut count = 0;
    let mut tag = 0;
    let [mut receive, mut handle, mut encode, mut ack] = [Duration::ZERO; 4];
    for round in 0..ROUNDS {
        let start = Instant::now();
        assert_eq!(
            session.receive(Mono(0), &publishes, &mut out),
            publishes.len()
        );
        let received = Instant::now();
        let commands = std::mem::take(&mut out.commands);
        let messages = commands.len();
        broker.handle(now, Input::Commands(id, commands), &mut fx);
        let handled = Instant::now();
        fx.drain_sends(|_, batch| {
            for outbound in batch.drain(..) {
                encoder.encode(outbound, &mut wire);
                if wire.len() > 128 * 1_024 {
                    black_box(wire.first());
                    wire.advance(wire.len());
                }
            }
        });
        wire.advance(wire.len());
        let encoded = Instant::now();
        tag += messages as u64;
        if !no_ack {
            let settle = Command::Settle {
                channel: 1,
                delivery_tag: tag,
                multiple: true,
                outcome: leveret_core::Outcome::Ack,
            };
            broker.handle(now, Input::Commands(id, vec![settle]), &mut fx);
        }
        if round > 10 {
            count += messages as u32;
            receive += received - start;
            handle += handled - received;
            encode += encoded - handled;
            ack += encoded.elapsed();
        }
    }
    let per = |time: Duration| time.as_nanos() as f64 / f64::from(count);
    println!(
        "{body_size:>5} B no_ack={no_ack:<5}  receive {:6.1}  handle {:6.1}  encode {:6.1}  ack {:6.1}  ns a message",
        per(receive),
        per(handle),
        per(encode),
        per(ack),
    );
    black_box(BasicAck::default());
}

fn publishes(body_size: usize) -> Vec<u8> {
    let mut octets = Vec::new();
    let publish = Method::from(BasicPublish {
        routing_key: ShortStr::from_static("bench"),
        ..BasicPublish::default()
    });
    let body = vec![b'x'; body_size];
    while octets.len() < 200 * 1_024 {
        encode_method(&mut octets, 1, &publish);
        encode_header(&mut octets, 1, body_size as u64, 0, &[]);
        encode_body(&mut octets, 1, &body);
    }
    octets
}

fn logged_in_session() -> Session {
    use leveret_codec::{
        ConnectionOpen, ConnectionStartOk, ConnectionTuneOk, LongStr, PROTOCOL_HEADER,
    };
    let mut session = Session::new(Arc::new(SessionConfig::default()), Mono(0));
    let mut out = Received::default();
    let mut octets = PROTOCOL_HEADER.to_vec();
    let start_ok = ConnectionStartOk {
        mechanism: ShortStr::from_static("PLAIN"),
        response: LongStr::from(&b"\0guest\0guest"[..]),
        ..ConnectionStartOk::default()
    };
    encode_method(&mut octets, 0, &start_ok.into());
    let mut used = session.receive(Mono(0), &octets, &mut out);
    while used < octets.len() {
        used += session.receive(Mono(0), &octets[used..], &mut out);
    }
    assert!(matches!(out.stop.take(), Some(Stop::Login(_))));
    session.authenticated(&mut out);
    let mut octets = Vec::new();
    let tune_ok = ConnectionTuneOk {
        channel_max: 2_047,
        frame_max: 131_072,
        heartbeat: 0,
    };
    encode_method(&mut octets, 0, &tune_ok.into());
    let open = ConnectionOpen {
        virtual_host: ShortStr::from_static("/"),
        ..ConnectionOpen::default()
    };
    encode_method(&mut octets, 0, &open.into());
    session.receive(Mono(0), &octets, &mut out);
    assert!(matches!(out.stop.take(), Some(Stop::OpenVhost(_))));
    session.opened(&mut out);
    session
}

fn peer() -> Peer {
    Peer {
        user: Arc::from("guest"),
        permissions: Permissions::all(),
        impersonator: false,
        capabilities: Capabilities::default(),
    }
}

//! The client against the relay, and against a relay behind a wire that misbehaves: what is wrong
//! must never come out as a figure.

#![allow(clippy::unwrap_used)] // nothing here but tests

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use leveret_codec::{FRAME_METHOD, Method, split_frame};
use leveret_perf::{
    Error,
    client::Client,
    latency::{Latency, Noise},
    layout::Shape,
    measure::{Measures, Metric, Timing},
    pace::Pace,
    process::Watched,
    producer::{Producers, Publishing},
    receiver::Acks,
    relay,
    script::{Script, Template},
    storage::Storage,
    throughput::{self, Load},
    url::Url,
    {connections, latency},
};

const TIMING: Timing = Timing {
    warm_up: Duration::from_millis(20),
    measured: Duration::from_millis(100),
    drain: Duration::from_millis(300),
    patience: Duration::from_millis(300),
};

fn start_relay() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            relay::serve(listener).await.unwrap();
        });
    });
    address
}

fn url(address: SocketAddr) -> Url {
    Url {
        address,
        ..Url::local(0)
    }
}

fn load(shape: Shape) -> Load {
    Load::new(shape, 16, Acks::Auto)
}

fn run(address: SocketAddr, load: &Load) -> Result<Measures, Error> {
    throughput::run(
        &url(address),
        Watched::default(),
        load,
        Storage::Memory,
        TIMING,
    )
}

#[test]
fn every_shape_gets_through() {
    let address = start_relay();
    let keys = 16;
    for shape in [
        Shape::Queue,
        Shape::Queues(10),
        Shape::Fanout(5),
        Shape::Direct { keys },
        Shape::Topic {
            bindings: 100,
            keys,
            rebind: true,
        },
        Shape::Headers {
            bindings: 100,
            keys,
        },
    ] {
        let measures = run(address, &load(shape)).unwrap_or_else(|e| panic!("{shape:?}: {e}"));
        assert!(measures.get(Metric::Rate).unwrap() > 0.0, "{shape:?}");
    }
}

#[test]
fn bodies_acks_and_confirms_get_through() {
    let address = start_relay();
    for body_size in [16, 1_024, 65_536] {
        for confirm_window in [None, Some(100)] {
            let load = Load {
                confirm_window,
                ..Load::new(Shape::Queue, body_size, Acks::Manual { prefetch: 100 })
            };
            run(address, &load).unwrap_or_else(|e| panic!("{load:?}: {e}"));
        }
    }
}

#[test]
fn many_queues_with_confirms_and_consumers_that_stay_behind_get_through() {
    let address = start_relay();
    let acks = Acks::Manual { prefetch: 100 };
    let queues = Load {
        confirm_window: Some(10),
        ..Load::new(Shape::Queues(10), 16, acks)
    };
    let behind = Load {
        behind: 200,
        confirm_window: Some(100),
        ..Load::new(Shape::Queue, 16, acks)
    };
    for load in [queues, behind] {
        let measures = run(address, &load).unwrap_or_else(|e| panic!("{load:?}: {e}"));
        assert_eq!(measures.get(Metric::Left), None, "all of it arrived");
    }
}

#[test]
fn producers_that_wait_for_each_confirm_know_how_long_it_took() {
    const TOTAL: u64 = 1_000;
    let url = url(start_relay());
    let template = Template {
        routing_key: "nobody".into(),
        body_size: 16,
        ..Template::default()
    };
    let script = Script::new(&[template], 0).unwrap();
    for (producers, window) in [(1, 1), (7, 1), (7, 10)] {
        let streams = (0..producers).map(|_| {
            let mut client = Client::connect(&url).unwrap();
            client.confirm_select().unwrap();
            client.into_stream().unwrap()
        });
        let publishing = Publishing {
            window,
            copies: 1,
            confirms_count: true,
        };
        let scripts = vec![script.clone(); producers];
        let mut producers = Producers::new(streams.collect(), scripts, publishing).unwrap();
        let pace = Pace::with_total(16, 1, TOTAL);
        let timing = Timing {
            warm_up: Duration::ZERO,
            ..TIMING
        };
        producers.publish(&pace, timing).unwrap();
        assert_eq!(producers.sent().sum::<u64>(), TOTAL);
        assert_eq!((producers.unconfirmed(), pace.received()), (0, TOTAL));
        let timed = producers.latency().map(|nanos| nanos.len());
        assert_eq!(timed, (window == 1).then_some(TOTAL), "window {window}");
    }
}

#[test]
fn latency_is_recorded_beside_noise() {
    let address = start_relay();
    let latency = Latency {
        connections: 3,
        rate_each: 300,
        body_size: 16,
        noise: Some(Noise {
            rate: 10_000,
            body_size: 100,
        }),
    };
    let measures = latency::run(&url(address), Watched::default(), &latency, TIMING).unwrap();
    let figure = |metric| measures.get(metric).unwrap();
    assert!(figure(Metric::P50) > 0.0);
    assert!(figure(Metric::P50) <= figure(Metric::P99));
    assert!(figure(Metric::P99) <= figure(Metric::P999));
}

#[test]
fn connections_come_and_go() {
    let address = start_relay();
    let own = Watched {
        pid: Some(std::process::id()),
        metrics: None,
    };
    connections::cycles(&url(address), own, TIMING).unwrap();
    connections::idle(&url(address), own, 20, TIMING).unwrap();
}

/// What the wire does to one delivery.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fault {
    Drop,
    Repeat,
    /// Comes after the one that follows it.
    Swap,
    /// Its body changes.
    Alter,
    HangUp,
    /// Confirms do not come through.
    Unconfirmed,
}

#[test]
fn faults_fail_the_run() {
    #[rustfmt::skip]
    let table = [
        (Fault::Drop,        "1 lost"),
        (Fault::Repeat,      "1 duplicated"),
        (Fault::Swap,        "1 out of order"),
        (Fault::Alter,       "altered"),
        (Fault::HangUp,      "hung up on a consumer"),
        (Fault::Unconfirmed, "publishes never confirmed"),
    ];
    for (fault, expected) in table {
        let address = start_faulty_wire(start_relay(), fault);
        let load = Load {
            confirm_window: (fault == Fault::Unconfirmed).then_some(100),
            ..load(Shape::Queue)
        };
        let error = run(address, &load).expect_err(&format!("{fault:?}"));
        let text = error.to_string();
        assert!(text.contains(expected), "{fault:?}: {text}");
    }
}

/// Passes everything on, both ways, but for the delivery with this tag.
const FAULTY_TAG: u64 = 1_000;

fn start_faulty_wire(server: SocketAddr, fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let server = TcpStream::connect(server).unwrap();
            let (mut up_from, mut up_to) =
                (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut up_from, &mut up_to));
            thread::spawn(move || pass_on(server, client, fault));
        }
    });
    address
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, fault: Fault) {
    let mut received = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    let mut swapped = Vec::new();
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        received.extend_from_slice(&chunk[..count]);
        let mut out = Vec::new();
        let mut at = 0;
        while let Some((frames, kind)) = next_message(&received[at..]) {
            at += frames.len();
            match fault {
                Fault::Unconfirmed if kind == Message::Confirm => {}
                _ if kind != Message::Delivery(FAULTY_TAG) => {
                    out.extend_from_slice(frames);
                    out.append(&mut swapped);
                }
                Fault::Drop | Fault::Unconfirmed => {}
                Fault::Repeat => out.extend_from_slice(&frames.repeat(2)),
                Fault::Swap => swapped = frames.to_vec(),
                Fault::Alter => {
                    let mut frames = frames.to_vec();
                    let stamp = frames.len() - 2; // before the end byte
                    frames[stamp] ^= 1;
                    out.extend_from_slice(&frames);
                }
                Fault::HangUp => {
                    let _ = to.shutdown(std::net::Shutdown::Both);
                    return;
                }
            }
        }
        received.drain(..at);
        if to.write_all(&out).is_err() {
            return;
        }
    }
}

#[derive(Debug, Eq, PartialEq)]
enum Message {
    /// With its tag.
    Delivery(u64),
    Confirm,
    Other,
}

/// The frames of one delivery, or one other frame; `None` when more must come first.
fn next_message(bytes: &[u8]) -> Option<(&[u8], Message)> {
    let (frame, mut len) = split_frame(bytes, 0).unwrap()?;
    let mut kind = Message::Other;
    if frame.kind == FRAME_METHOD {
        match Method::parse(frame.payload).unwrap() {
            Method::BasicDeliver(deliver) => {
                kind = Message::Delivery(deliver.delivery_tag);
                for _header_and_body in 0..2 {
                    len += split_frame(&bytes[len..], 0).unwrap()?.1;
                }
            }
            Method::BasicAck(_) => kind = Message::Confirm,
            _ => {}
        }
    }
    Some((&bytes[..len], kind))
}

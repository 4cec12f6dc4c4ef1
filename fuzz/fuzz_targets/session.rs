//! Arbitrary octets from a client, in one piece and in chunks: neither makes a session panic, and
//! both make the same commands of it.
//!
//! Inputs are those of `decode`: the first octet says how the rest is cut. What does not begin with
//! a protocol header is sent by a client that has logged in.

#![no_main]

use std::sync::Arc;

use leveret_codec::{
    ChannelOpen, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk, LongStr, PROTOCOL_HEADER,
    ShortStr, encode_method,
};
use leveret_core::{Command, Mono, Outbound};
use leveret_session::{Encoder, Received, Session, SessionConfig, Stop, Wire};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&chunk_size, octets)) = input.split_first() else {
        return;
    };
    let mut stream = Vec::new();
    if !octets.starts_with(&PROTOCOL_HEADER[..4]) {
        log_in(&mut stream);
    }
    stream.extend_from_slice(octets);
    let whole = conversation(&stream, stream.len().max(1));
    let in_chunks = conversation(&stream, usize::from(chunk_size) + 1);
    assert_eq!(in_chunks, whole, "chunks matter");
});

fn log_in(out: &mut Vec<u8>) {
    out.extend_from_slice(&PROTOCOL_HEADER);
    let start_ok = ConnectionStartOk {
        mechanism: ShortStr::from_static("PLAIN"),
        response: LongStr::from("\0guest\0guest"),
        ..ConnectionStartOk::default()
    };
    encode_method(out, 0, &start_ok.into());
    let tune_ok = ConnectionTuneOk {
        channel_max: 5,
        frame_max: 4_096,
        heartbeat: 10,
    };
    encode_method(out, 0, &tune_ok.into());
    encode_method(out, 0, &ConnectionOpen::default().into());
    encode_method(out, 1, &ChannelOpen::default().into());
    encode_method(out, 2, &ChannelOpen::default().into());
}

/// What the server gets to know of a conversation, until time has run out for the client.
fn conversation(stream: &[u8], chunk_size: usize) -> Vec<String> {
    let config = SessionConfig {
        message_size_max: 10_000,
        ..SessionConfig::default()
    };
    let mut session = Session::new(Arc::new(config), Mono(0));
    let (mut out, mut heard) = (Received::default(), Vec::new());
    let mut encoder = Encoder::new(4_096);
    let (mut wire, mut unused) = (Wire::default(), Vec::new());
    for chunk in stream.chunks(chunk_size) {
        unused.extend_from_slice(chunk);
        loop {
            let used = session.receive(Mono(0), &unused, &mut out);
            unused.drain(..used);
            if !answer(&mut session, &mut out, &mut heard, &mut encoder, &mut wire) && used == 0 {
                break;
            }
        }
        assert!(unused.len() < session.frame_size_max());
    }
    for _ in 0..10 {
        let Some(due) = session.next_timeout() else {
            break;
        };
        session.handle_timeout(due, &mut out);
        answer(&mut session, &mut out, &mut heard, &mut encoder, &mut wire);
    }
    assert!(
        session.next_timeout().is_none(),
        "a silent client is given up"
    );
    heard
}

/// Agrees to everything, and writes down and encodes what there is.
fn answer(
    session: &mut Session,
    out: &mut Received,
    heard: &mut Vec<String>,
    encoder: &mut Encoder,
    wire: &mut Wire,
) -> bool {
    for command in out.commands.drain(..) {
        if let Command::Publish {
            channel,
            mandatory,
            message,
        } = command
        {
            // Not all of the body, and at most once: Debug output of it would take all the time.
            heard.push(format!(
                "{channel} {mandatory} {message:?} {:?}",
                message.block().iter().max()
            ));
            encoder.encode(
                Outbound::GetOk {
                    channel,
                    redelivered: false,
                    delivery_tag: 1,
                    message_count: 0,
                    message,
                },
                wire,
            );
        } else {
            heard.push(format!("{command:?}"));
        }
    }
    let stop = out.stop.take();
    match &stop {
        Some(Stop::Login(_)) => session.authenticated(out),
        Some(Stop::OpenVhost(_)) => session.opened(out),
        Some(Stop::UpdateSecret(_)) => session.secret_updated(out),
        Some(Stop::Close(_)) | None => {}
    }
    heard.extend(stop.as_ref().map(|stop| format!("{stop:?}")));
    for reply in out.replies.drain(..) {
        encoder.encode(reply, wire);
    }
    while !wire.is_empty() {
        let piece = wire.first().len();
        wire.advance(piece);
    }
    stop.is_some()
}

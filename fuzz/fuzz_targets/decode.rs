//! Arbitrary bytes as a stream of frames, as payloads and as tables.
//!
//! The first byte says how the rest is cut into chunks, so that the seeds are recordings of real
//! connections with one byte in front.

#![no_main]

use leveret_codec::{
    DecodeError, FRAME_OVERHEAD, FieldTable, Method, PROTOCOL_HEADER, Properties, RawTable,
    parse_content_header, split_frame, validate_table,
};
use libfuzzer_sys::fuzz_target;

const FRAME_MAX: u32 = 131_072;

fuzz_target!(|input: &[u8]| {
    let Some((&chunk_size, bytes)) = input.split_first() else {
        return;
    };
    let stream = bytes.strip_prefix(&PROTOCOL_HEADER).unwrap_or(bytes);
    let frames = frames_in_chunks(stream, stream.len().max(1));
    let in_chunks = frames_in_chunks(stream, usize::from(chunk_size) + 1);
    assert_eq!(in_chunks, frames, "chunks matter");

    for payload in &frames.0 {
        read_payload(payload);
    }
    read_payload(stream);
});

/// The payloads of all whole frames, read in chunks of some size as from a socket, and how it ended.
fn frames_in_chunks(stream: &[u8], chunk_size: usize) -> (Vec<Vec<u8>>, Option<DecodeError>) {
    let (mut buffer, mut payloads) = (Vec::new(), Vec::new());
    for chunk in stream.chunks(chunk_size) {
        buffer.extend_from_slice(chunk);
        loop {
            match split_frame(&buffer, FRAME_MAX) {
                Err(error) => return (payloads, Some(error)),
                Ok(None) => break,
                Ok(Some((frame, consumed))) => {
                    assert_eq!(consumed, frame.payload.len() + FRAME_OVERHEAD);
                    payloads.push(frame.payload.to_vec());
                    buffer.drain(..consumed);
                }
            }
        }
    }
    (payloads, None)
}

/// As every kind of payload, whatever its frame says.
fn read_payload(payload: &[u8]) {
    if let Ok(method) = Method::parse(payload) {
        read_method(&method, payload.len());
    }
    if let Ok(header) = parse_content_header(payload) {
        read_properties(header.flags, header.raw);
    }
    read_table(payload);
}

fn read_method(method: &Method<'_>, size: usize) {
    let written = bytes_of(|out| method.encode_payload(out));
    assert_eq!(written.len(), size);
    // Compared as bytes: a table may hold NaN, and unused bits of an octet are not kept.
    let again = Method::parse(&written).expect("we have written it");
    assert_eq!(bytes_of(|out| again.encode_payload(out)), written);
    assert_eq!(again.id(), method.id());
    assert_eq!(method.clone().into_owned(), *method);
}

fn read_properties(flags: u16, raw: &[u8]) {
    let properties = Properties::parse(flags, raw).expect("checked with the header");
    let mut written = Vec::new();
    assert_eq!(properties.encode(&mut written), flags);
    let again = Properties::parse(flags, &written).expect("we have written it");
    assert_eq!(
        bytes_of(|out| {
            again.encode(out);
        }),
        written
    );
}

fn read_table(content: &[u8]) {
    let table = FieldTable::decode(content);
    assert_eq!(
        validate_table(content),
        table.as_ref().map(drop).map_err(Clone::clone)
    );
    let Ok(table) = table else {
        return;
    };
    let written = bytes_of(|out| table.encode_into(out));
    let again = FieldTable::decode(&written).expect("we have written it");
    assert_eq!(bytes_of(|out| again.encode_into(out)), written);

    let canonical = RawTable::new(content).expect("valid").canonical();
    let again = RawTable::new(&canonical[..]).expect("we have written it");
    assert_eq!(again.canonical(), canonical);
}

fn bytes_of(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

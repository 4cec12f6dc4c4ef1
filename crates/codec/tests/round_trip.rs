//! What was written can be read, and reading survives anything.

use bytes::Bytes;
use leveret_codec::*;
use proptest::{
    collection::vec,
    option,
    prelude::*,
    strategy::{LazyJust, Union},
};

/// Any value of a type that a method may carry. The traits of proptest and the types of the codec
/// are both foreign here, hence one of our own.
trait Any: Sized {
    fn any() -> BoxedStrategy<Self>;
}

macro_rules! any_number {
    ($($type:ty)*) => {$(
        impl Any for $type {
            fn any() -> BoxedStrategy<Self> {
                any::<$type>().boxed()
            }
        }
    )*};
}

any_number! { u8 u16 u32 u64 bool }

impl Any for ShortStr<'static> {
    fn any() -> BoxedStrategy<Self> {
        let text = prop_oneof!["[a-z.#*]{0,20}", ".{0,60}", Just("x".repeat(255)),];
        text.prop_map(|text| ShortStr::new(text).expect("60 characters fit"))
            .boxed()
    }
}

impl Any for LongStr<'static> {
    fn any() -> BoxedStrategy<Self> {
        vec(any::<u8>(), 0..300).prop_map(LongStr::from).boxed()
    }
}

impl Any for FieldValue {
    fn any() -> BoxedStrategy<Self> {
        let float = -1.0e9..1.0e9_f64; // NaN is not equal to itself
        let leaf = prop_oneof![
            any::<bool>().prop_map(Self::Bool),
            any::<i8>().prop_map(Self::I8),
            any::<u8>().prop_map(Self::U8),
            any::<i16>().prop_map(Self::I16),
            any::<u16>().prop_map(Self::U16),
            any::<i32>().prop_map(Self::I32),
            any::<u32>().prop_map(Self::U32),
            any::<i64>().prop_map(Self::I64),
            (-1.0e9..1.0e9_f32).prop_map(Self::F32),
            float.prop_map(Self::F64),
            (any::<u8>(), any::<u32>()).prop_map(|(scale, value)| Self::Decimal { scale, value }),
            any_bytes(100).prop_map(Self::LongString),
            any_bytes(100).prop_map(Self::ByteArray),
            any::<u64>().prop_map(Self::Timestamp),
            LazyJust::new(|| Self::Void),
        ];
        leaf.prop_recursive(4, 40, 6, |value| {
            prop_oneof![
                vec(value.clone(), 0..6).prop_map(Self::Array),
                vec((".{0,8}", value), 0..6)
                    .prop_map(|fields| Self::Table(fields.into_iter().collect())),
            ]
        })
        .boxed()
    }
}

impl Any for FieldTable {
    fn any() -> BoxedStrategy<Self> {
        vec((".{0,8}", FieldValue::any()), 0..8)
            .prop_map(|fields| fields.into_iter().collect())
            .boxed()
    }
}

impl Any for RawTable<'static> {
    fn any() -> BoxedStrategy<Self> {
        FieldTable::any()
            .prop_map(|table| Self::from_table(&table))
            .boxed()
    }
}

fn any_bytes(len_max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..=len_max).prop_map(Bytes::from)
}

/// One strategy over all methods. The compiler holds the list complete: the `match` wants every
/// method, and the struct expressions want every argument.
macro_rules! any_method {
    ($($name:ident { $($argument:ident),* })*) => {
        fn any_method() -> impl Strategy<Value = Method<'static>> {
            let _complete = |method: Method<'_>| match method { $(Method::$name(_) => {})* };
            Union::new([$(
                (Just(()), $(strategy_for(|m: &$name| m.$argument.clone()),)*)
                    .prop_map(|((), $($argument,)*)| Method::from($name { $($argument),* }))
                    .boxed(),
            )*])
        }
    };
}

/// Names a type by a field that has it.
fn strategy_for<M, T: Any>(_field: fn(&M) -> T) -> BoxedStrategy<T> {
    T::any()
}

any_method! {
    ConnectionStart { version_major, version_minor, server_properties, mechanisms, locales }
    ConnectionStartOk { client_properties, mechanism, response, locale }
    ConnectionSecure { challenge }
    ConnectionSecureOk { response }
    ConnectionTune { channel_max, frame_max, heartbeat }
    ConnectionTuneOk { channel_max, frame_max, heartbeat }
    ConnectionOpen { virtual_host, reserved_1, reserved_2 }
    ConnectionOpenOk { reserved_1 }
    ConnectionClose { reply_code, reply_text, class_id, method_id }
    ConnectionCloseOk {}
    ConnectionBlocked { reason }
    ConnectionUnblocked {}
    ConnectionUpdateSecret { new_secret, reason }
    ConnectionUpdateSecretOk {}
    ChannelOpen { reserved_1 }
    ChannelOpenOk { reserved_1 }
    ChannelFlow { active }
    ChannelFlowOk { active }
    ChannelClose { reply_code, reply_text, class_id, method_id }
    ChannelCloseOk {}
    AccessRequest { realm, exclusive, passive, active, write, read }
    AccessRequestOk { ticket }
    ExchangeDeclare {
        reserved_1, exchange, kind, passive, durable, auto_delete, internal, no_wait, arguments
    }
    ExchangeDeclareOk {}
    ExchangeDelete { reserved_1, exchange, if_unused, no_wait }
    ExchangeDeleteOk {}
    ExchangeBind { reserved_1, destination, source, routing_key, no_wait, arguments }
    ExchangeBindOk {}
    ExchangeUnbind { reserved_1, destination, source, routing_key, no_wait, arguments }
    ExchangeUnbindOk {}
    QueueDeclare {
        reserved_1, queue, passive, durable, exclusive, auto_delete, no_wait, arguments
    }
    QueueDeclareOk { queue, message_count, consumer_count }
    QueueBind { reserved_1, queue, exchange, routing_key, no_wait, arguments }
    QueueBindOk {}
    QueuePurge { reserved_1, queue, no_wait }
    QueuePurgeOk { message_count }
    QueueDelete { reserved_1, queue, if_unused, if_empty, no_wait }
    QueueDeleteOk { message_count }
    QueueUnbind { reserved_1, queue, exchange, routing_key, arguments }
    QueueUnbindOk {}
    BasicQos { prefetch_size, prefetch_count, global }
    BasicQosOk {}
    BasicConsume {
        reserved_1, queue, consumer_tag, no_local, no_ack, exclusive, no_wait, arguments
    }
    BasicConsumeOk { consumer_tag }
    BasicCancel { consumer_tag, no_wait }
    BasicCancelOk { consumer_tag }
    BasicPublish { reserved_1, exchange, routing_key, mandatory, immediate }
    BasicReturn { reply_code, reply_text, exchange, routing_key }
    BasicDeliver { consumer_tag, delivery_tag, redelivered, exchange, routing_key }
    BasicGet { reserved_1, queue, no_ack }
    BasicGetOk { delivery_tag, redelivered, exchange, routing_key, message_count }
    BasicGetEmpty { reserved_1 }
    BasicAck { delivery_tag, multiple }
    BasicReject { delivery_tag, requeue }
    BasicRecoverAsync { requeue }
    BasicRecover { requeue }
    BasicRecoverOk {}
    BasicNack { delivery_tag, multiple, requeue }
    ConfirmSelect { no_wait }
    ConfirmSelectOk {}
    TxSelect {}
    TxSelectOk {}
    TxCommit {}
    TxCommitOk {}
    TxRollback {}
    TxRollbackOk {}
}

prop_compose! {
    fn any_properties()(
        content_type in option::of(any_bytes(255)),
        content_encoding in option::of(any_bytes(20)),
        headers in option::of(FieldTable::any()),
        (delivery_mode, priority) in any::<(Option<u8>, Option<u8>)>(),
        correlation_id in option::of(any_bytes(20)),
        reply_to in option::of(any_bytes(20)),
        expiration in option::of(any_bytes(20)),
        message_id in option::of(any_bytes(20)),
        timestamp in any::<Option<u64>>(),
        kind in option::of(any_bytes(20)),
        user_id in option::of(any_bytes(20)),
        (app_id, cluster_id) in (option::of(any_bytes(20)), option::of(any_bytes(20))),
    ) -> Properties {
        Properties {
            content_type, content_encoding, headers, delivery_mode, priority, correlation_id,
            reply_to, expiration, message_id, timestamp, kind, user_id, app_id, cluster_id,
        }
    }
}

/// One frame of any type, as bytes.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (any::<u16>(), any_method()).prop_map(|(channel, method)| {
            let mut wire = Vec::new();
            encode_method(&mut wire, channel, &method);
            wire
        }),
        (any::<u16>(), any::<u64>(), any_properties()).prop_map(|(channel, size, properties)| {
            let (mut wire, mut raw) = (Vec::new(), Vec::new());
            let flags = properties.encode(&mut raw);
            encode_header(&mut wire, channel, size, flags, &raw);
            wire
        }),
        (any::<u16>(), any_bytes(300)).prop_map(|(channel, body)| {
            let mut wire = Vec::new();
            encode_body(&mut wire, channel, &body);
            wire
        }),
        LazyJust::new(|| {
            let mut wire = Vec::new();
            encode_heartbeat(&mut wire);
            wire
        }),
    ]
}

type OwnedFrame = (u8, u16, Vec<u8>);

/// Takes all whole frames off the front of `buffer`, as a connection does after each read.
fn drain(buffer: &mut Vec<u8>, frame_max: u32) -> Result<Vec<OwnedFrame>, DecodeError> {
    let mut frames = Vec::new();
    let mut taken = 0;
    while let Some((frame, consumed)) = split_frame(&buffer[taken..], frame_max)? {
        assert_eq!(consumed, frame.payload.len() + FRAME_OVERHEAD);
        frames.push((frame.kind, frame.channel, frame.payload.to_vec()));
        taken += consumed;
    }
    buffer.drain(..taken);
    Ok(frames)
}

/// Bytes that a few steps of parsing get into, unlike wholly random ones.
fn damaged(bytes: &[u8], at: prop::sample::Index, to: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if !bytes.is_empty() {
        let at = at.index(bytes.len());
        bytes[at] = to;
    }
    bytes
}

/// Everything that a peer's bytes can reach. What is accepted must survive being written again.
fn read_in_every_way(bytes: &[u8]) {
    if let Ok(Some((frame, consumed))) = split_frame(bytes, 4096) {
        assert_eq!(bytes[consumed - 1], FRAME_END);
        assert!(frame.payload.len() <= 4096);
    }
    if let Ok(method) = Method::parse(bytes) {
        let mut written = Vec::new();
        method.encode_payload(&mut written);
        // Not always the same bytes: unused bits of an octet are not kept.
        assert_eq!(Method::parse(&written).as_ref(), Ok(&method));
        assert_eq!(written.len(), bytes.len());
    }
    if let Ok(header) = parse_content_header(bytes) {
        let properties = Properties::parse(header.flags, header.raw).expect("checked");
        assert_eq!(header.summary.priority, properties.priority.unwrap_or(0));
        assert_eq!(
            header.summary.delivery_mode,
            properties.delivery_mode.unwrap_or(0)
        );
        let mut raw = Vec::new();
        assert_eq!(properties.encode(&mut raw), header.flags);
        assert!(Properties::parse(header.flags, &raw).is_ok());
    }
    assert_eq!(validate_table(bytes), FieldTable::decode(bytes).map(drop));
    if let Ok(table) = RawTable::new(bytes) {
        let canonical = RawTable::new(table.canonical()).expect("well-formed");
        assert_eq!(canonical.parse().len(), table.parse().len());
        assert_eq!(canonical.canonical(), canonical.as_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))] // there are 66 methods

    #[test]
    fn every_method_survives(channel: u16, method in any_method()) {
        let mut wire = Vec::new();
        encode_method(&mut wire, channel, &method);
        let (frame, consumed) = split_frame(&wire, 0)?.expect("a whole frame");
        prop_assert_eq!(consumed, wire.len());
        prop_assert_eq!((frame.kind, frame.channel), (FRAME_METHOD, channel));

        let parsed = Method::parse(frame.payload)?;
        prop_assert_eq!(&parsed, &method);
        prop_assert_eq!((parsed.id(), parsed.name()), (method.id(), method.name()));
        prop_assert_eq!(parsed.into_owned(), method);
    }

    #[test]
    fn method_with_a_byte_too_few_or_too_many_is_an_error(method in any_method()) {
        let mut payload = Vec::new();
        method.encode_payload(&mut payload);
        for end in 0..payload.len() {
            prop_assert!(Method::parse(&payload[..end]).is_err(), "{} bytes of {:?}", end, method);
        }
        payload.push(0);
        prop_assert_eq!(Method::parse(&payload), Err(DecodeError::TrailingBytes { count: 1 }));
    }

    #[test]
    fn every_table_survives(table in FieldTable::any()) {
        let mut content = Vec::new();
        table.encode_into(&mut content);
        prop_assert_eq!(validate_table(&content), Ok(()));
        prop_assert_eq!(FieldTable::decode(&content)?, table);
    }

    #[test]
    fn order_of_fields_does_not_change_the_canonical_form(
        table in FieldTable::any(),
        seed: prop::sample::Index,
    ) {
        // Fields of the same name would keep their order, so they may not change places.
        let mut fields: Vec<_> = table.into_iter().collect();
        fields.sort_by(|(a, _), (b, _)| a.cmp(b));
        fields.dedup_by(|(a, _), (b, _)| a == b);
        let sorted: FieldTable = fields.iter().cloned().collect();
        if !fields.is_empty() {
            let at = seed.index(fields.len());
            fields.rotate_left(at);
        }
        let rotated: FieldTable = fields.into_iter().collect();
        prop_assert_eq!(
            RawTable::from_table(&rotated).canonical(),
            RawTable::from_table(&sorted).canonical()
        );
    }

    #[test]
    fn all_properties_survive(size: u64, properties in any_properties()) {
        let (mut wire, mut raw) = (Vec::new(), Vec::new());
        let flags = properties.encode(&mut raw);
        encode_header(&mut wire, 1, size, flags, &raw);

        let (frame, _) = split_frame(&wire, 0)?.expect("a whole frame");
        let header = parse_content_header(frame.payload)?;
        prop_assert_eq!((header.body_size, header.flags, header.raw), (size, flags, &raw[..]));
        prop_assert_eq!(Properties::parse(header.flags, header.raw)?, properties);
    }

    #[test]
    fn chunks_do_not_matter(
        frames in vec(any_frame(), 0..6),
        chunk_sizes in vec(1..40_usize, 1..20),
    ) {
        let wire = frames.concat();
        let at_once = drain(&mut wire.clone(), 0)?;
        prop_assert_eq!(at_once.len(), frames.len());

        let (mut rest, mut buffer, mut in_chunks) = (&wire[..], Vec::new(), Vec::new());
        for &size in chunk_sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, after) = rest.split_at(size.min(rest.len()));
            buffer.extend_from_slice(chunk);
            in_chunks.extend(drain(&mut buffer, 0)?);
            rest = after;
        }
        prop_assert!(buffer.is_empty());
        prop_assert_eq!(in_chunks, at_once);
    }

    #[test]
    fn random_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..600)) {
        read_in_every_way(&bytes);
    }

    #[test]
    fn damaged_frames_do_no_harm(frame in any_frame(), at: prop::sample::Index, to: u8) {
        let bytes = damaged(&frame, at, to);
        read_in_every_way(&bytes);
        read_in_every_way(bytes.get(7..bytes.len() - 1).unwrap_or_default());
    }

    #[test]
    fn damaged_tables_do_no_harm(table in RawTable::any(), at: prop::sample::Index, to: u8) {
        read_in_every_way(&damaged(table.as_bytes(), at, to));
    }
}

//! A message: one immutable, shared block of memory, made once when its content is complete.
//!
//! ```text
//!  0       2               6               8          9          10
//! +-------+---------------+---------------+----------+----------+- - - - -+- - - - - -+- - -+
//! | flags | properties #  | address #     | delivery | priority | address | properties| body|
//! |  u16  |  u32          |  u16          | mode  u8 |  u8      |         |           |     |
//! +-------+---------------+---------------+----------+----------+- - - - -+- - - - - -+- - -+
//! ```
//!
//! One block, because a waiting message then costs one allocation, and because a slice of a read
//! buffer would keep the whole buffer alive. The address is exchange and routing key as two short
//! strings, just as they stand in `basic.publish` and `basic.deliver`: "same address as the last
//! message" is one comparison, and delivering it one copy.

use std::fmt;
use std::sync::{Arc, LazyLock};

use leveret_codec::{ContentHeader, FieldValue, Properties, flags};

/// Octets before the address.
const HEAD: usize = 10;

/// Delivery mode of messages that survive a restart in a durable queue.
const PERSISTENT: u8 = 2;

/// Set in the octet of the delivery mode if the header `x-death` is the broker's own.
const DIED: u8 = 0x80;

/// Set in the octet of the delivery mode of what a schedule has fired.
const FIRED: u8 = 0x40;

/// Our own marks in that octet.
const MARKS: u8 = DIED | FIRED;

/// Bodies up to this many octets are put together in the scratch buffer and copied once more; for
/// longer ones the block is allocated first and filled in place.
const SCRATCH_BODY_MAX: usize = 2_048;

/// A published message, shared by all queues it went to. Cloning costs one atomic addition.
#[derive(Clone, Eq, PartialEq)]
pub struct Message(Arc<[u8]>);

impl Message {
    /// Puts a message together from its parts; `scratch` is overwritten and may be reused.
    ///
    /// `exchange` and `routing_key` must be at most 255 octets (the codec's short strings are);
    /// what is longer is cut, so that the block stays readable whatever the caller does.
    #[must_use]
    pub fn build(
        scratch: &mut Vec<u8>,
        exchange: &str,
        routing_key: &str,
        header: &ContentHeader<'_>,
        body: &[u8],
    ) -> Self {
        scratch.clear();
        write_head(scratch, exchange, routing_key, header);
        if body.len() <= SCRATCH_BODY_MAX {
            scratch.extend_from_slice(body);
            return Self(Arc::from(scratch.as_slice()));
        }
        Self::join(scratch, body)
    }

    /// One block of two parts, each copied once.
    fn join(head: &[u8], tail: &[u8]) -> Self {
        let mut block: Arc<[u8]> = std::iter::repeat_n(0, head.len() + tail.len()).collect();
        if let Some(bytes) = Arc::get_mut(&mut block) {
            let (start, end) = bytes.split_at_mut(head.len());
            start.copy_from_slice(head);
            end.copy_from_slice(tail);
        }
        Self(block)
    }

    /// A message from the octets of its [`block`](Self::block), as a log kept them. None if they
    /// cannot be one.
    #[must_use]
    pub fn from_block(block: &[u8]) -> Option<Self> {
        Self::read_block(block).map(|(message, _)| message)
    }

    /// As [`from_block`](Self::from_block), with the message's [`properties`](Self::properties):
    /// they are decoded anyway.
    #[must_use]
    pub fn read_block(block: &[u8]) -> Option<(Self, Properties)> {
        let head = block.get(..HEAD)?;
        let address_len = usize::from(u16::from_le_bytes([head[6], head[7]]));
        let properties_len = u32::from_le_bytes([head[2], head[3], head[4], head[5]]);
        let address = block.get(HEAD..HEAD.checked_add(address_len)?)?;
        let exchange_len = usize::from(*address.first()?);
        let exchange = address.get(1..1 + exchange_len)?;
        let (&key_len, key) = address.get(1 + exchange_len..)?.split_first()?;
        let after = (HEAD + address_len).checked_add(usize::try_from(properties_len).ok()?)?;
        let flags = u16::from_le_bytes([head[0], head[1]]);
        let properties = block.get(HEAD + address_len..after)?;
        let properties = Properties::parse(flags, properties).ok()?;
        let sound = key.len() == usize::from(key_len)
            && std::str::from_utf8(exchange).is_ok()
            && std::str::from_utf8(key).is_ok();
        sound.then(|| (Self(Arc::from(block)), properties))
    }

    /// A message of nobody's frames. Exchange and key are cut as in [`Message::build`].
    #[must_use]
    pub fn of(exchange: &str, key: &str, properties: &Properties, body: &[u8]) -> Self {
        Self::marked(0, exchange, key, properties, body)
    }

    /// A message that a schedule fires: from here on the broker tells the scheduler what becomes
    /// of it. Exchange and key are cut as in [`Message::build`].
    #[must_use]
    pub fn fired(exchange: &str, key: &str, properties: &Properties, body: &[u8]) -> Self {
        Self::marked(FIRED, exchange, key, properties, body)
    }

    fn marked(mark: u8, exchange: &str, key: &str, properties: &Properties, body: &[u8]) -> Self {
        let mode = persistence(properties.delivery_mode.unwrap_or_default()) | mark;
        let priority = properties.priority.unwrap_or_default();
        Self::put_together(exchange, key, properties, body, mode, priority)
    }

    /// The same content under other properties.
    #[must_use]
    pub fn with_properties(&self, properties: &Properties) -> Self {
        self.rebuilt(self.exchange(), self.routing_key(), properties, self.0[8])
    }

    /// The same content as if it had been published to another exchange, under these properties.
    #[must_use]
    pub(crate) fn readdressed(&self, exchange: &str, properties: &Properties) -> Self {
        self.rebuilt(exchange, self.routing_key(), properties, self.0[8])
    }

    /// The same content as it goes on when a queue gets rid of it: with this address, and these
    /// properties, of which `x-death` is the broker's own.
    #[must_use]
    pub(crate) fn dead_letter(
        &self,
        exchange: &str,
        routing_key: &str,
        properties: &Properties,
    ) -> Self {
        let delivery_mode = self.0[8] & !FIRED | DIED;
        self.rebuilt(exchange, routing_key, properties, delivery_mode)
    }

    /// The same with the header `x-delivery-count`: how often its delivery has failed before.
    pub(crate) fn with_delivery_count(&self, count: u32) -> Self {
        let mut properties = self.properties();
        let headers = properties.headers.get_or_insert_default();
        headers.insert("x-delivery-count", FieldValue::I64(i64::from(count)));
        self.with_properties(&properties)
    }

    /// Whether its header `x-death` is the broker's own.
    pub(crate) fn has_died(&self) -> bool {
        self.0[8] & DIED != 0
    }

    /// Whether a schedule has fired it, and it has not died since.
    #[inline]
    pub(crate) fn is_fired(&self) -> bool {
        self.0[8] & FIRED != 0
    }

    fn rebuilt(
        &self,
        exchange: &str,
        routing_key: &str,
        properties: &Properties,
        delivery_mode: u8,
    ) -> Self {
        let (body, priority) = (self.body(), self.0[9]);
        Self::put_together(
            exchange,
            routing_key,
            properties,
            body,
            delivery_mode,
            priority,
        )
    }

    fn put_together(
        exchange: &str,
        routing_key: &str,
        properties: &Properties,
        body: &[u8],
        delivery_mode: u8,
        priority: u8,
    ) -> Self {
        let mut raw = Vec::new();
        let flags = properties.encode(&mut raw);
        let header = ContentHeader {
            class_id: leveret_codec::CLASS_BASIC,
            body_size: body.len() as u64,
            flags,
            raw: &raw,
            summary: leveret_codec::PropertySummary {
                delivery_mode,
                priority,
            },
        };
        let mut message = Self::build(&mut Vec::new(), exchange, routing_key, &header, body);
        if let Some(block) = Arc::get_mut(&mut message.0) {
            block[8] = delivery_mode; // with our own marks
        }
        message
    }

    /// Name of the exchange it was published to.
    #[must_use]
    pub fn exchange(&self) -> &str {
        let address = self.address();
        text(&address[1..1 + usize::from(address[0])])
    }

    /// The routing key it was published with.
    #[must_use]
    pub fn routing_key(&self) -> &str {
        let address = self.address();
        text(&address[2 + usize::from(address[0])..])
    }

    /// Exchange and routing key as on the wire: two short strings.
    #[must_use]
    #[inline]
    pub fn address(&self) -> &[u8] {
        &self.0[HEAD..HEAD + self.address_len()]
    }

    /// Which properties are present (bits of `leveret_codec::flags`).
    #[must_use]
    #[inline]
    pub fn property_flags(&self) -> u16 {
        u16::from_le_bytes([self.0[0], self.0[1]])
    }

    /// The property values as they were sent, without the flag word.
    #[must_use]
    #[inline]
    pub fn raw_properties(&self) -> &[u8] {
        let start = HEAD + self.address_len();
        &self.0[start..start + self.properties_len()]
    }

    /// The properties, decoded; call it off the hot path.
    #[must_use]
    pub fn properties(&self) -> Properties {
        // Validated when the message came in, so the default never shows.
        Properties::parse(self.property_flags(), self.raw_properties()).unwrap_or_default()
    }

    /// How long it says it lasts (property `expiration`), in milliseconds.
    #[must_use]
    #[inline]
    pub fn expiration_ms(&self) -> Option<u64> {
        if self.property_flags() & flags::EXPIRATION == 0 {
            return None;
        }
        // Checked when it came in.
        let expiration = self.properties().expiration?;
        std::str::from_utf8(&expiration).ok()?.parse().ok()
    }

    /// The payload.
    #[must_use]
    #[inline]
    pub fn body(&self) -> &[u8] {
        &self.0[self.body_start()..]
    }

    /// Octets of the payload.
    #[must_use]
    #[inline]
    pub fn body_len(&self) -> usize {
        self.0.len() - self.body_start()
    }

    /// Where [`Message::body`] starts in [`Message::block`].
    #[must_use]
    #[inline]
    pub fn body_start(&self) -> usize {
        HEAD + self.address_len() + self.properties_len()
    }

    /// The whole block, for writers that send the body without copying it.
    #[must_use]
    pub fn block(&self) -> &Arc<[u8]> {
        &self.0
    }

    /// Delivery mode 2: it survives a restart if its queue does.
    #[must_use]
    #[inline]
    pub fn is_persistent(&self) -> bool {
        self.0[8] & !MARKS == PERSISTENT
    }

    /// The priority property; 0 if it was absent.
    #[must_use]
    pub fn priority(&self) -> u8 {
        self.0[9]
    }

    /// No message: the place of one that is gone.
    pub(crate) fn empty() -> Self {
        static EMPTY: LazyLock<Message> = LazyLock::new(|| Message(Arc::from([0; HEAD + 2])));
        EMPTY.clone()
    }

    /// Octets of memory it holds, block head included.
    #[must_use]
    #[inline]
    pub fn memory_bytes(&self) -> usize {
        self.0.len() + 2 * size_of::<usize>() // the two reference counts
    }

    #[inline]
    fn address_len(&self) -> usize {
        usize::from(u16::from_le_bytes([self.0[6], self.0[7]]))
    }

    #[inline]
    fn properties_len(&self) -> usize {
        u32::from_le_bytes([self.0[2], self.0[3], self.0[4], self.0[5]]) as usize
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Message({:?} {:?}, {} B)",
            self.exchange(),
            self.routing_key(),
            self.body().len()
        )
    }
}

/// A message whose body arrives in several frames.
///
/// Grows with what has arrived, never with what was announced: a peer must send an octet for each
/// octet we keep.
#[derive(Debug)]
pub struct Draft {
    block: Vec<u8>,
    missing: u64,
}

impl Draft {
    /// Starts a message whose body is announced by `header`.
    #[must_use]
    pub fn new(exchange: &str, routing_key: &str, header: &ContentHeader<'_>) -> Self {
        let mut block =
            Vec::with_capacity(HEAD + exchange.len() + routing_key.len() + header.raw.len());
        write_head(&mut block, exchange, routing_key, header);
        Self {
            block,
            missing: header.body_size,
        }
    }

    /// Octets of the body that have not arrived.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// Octets that have been kept so far: properties, and what has arrived of the body.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.block.len()
    }

    /// Adds what one body frame brought; false (and nothing added) if it is more than was announced.
    #[must_use]
    pub fn push(&mut self, payload: &[u8]) -> bool {
        let Some(missing) = self.missing.checked_sub(payload.len() as u64) else {
            return false;
        };
        self.missing = missing;
        self.block.extend_from_slice(payload);
        true
    }

    /// The message, with the last of its body, which must be just what is missing.
    #[must_use]
    pub fn finish(self, last: &[u8]) -> Message {
        debug_assert_eq!(self.missing, last.len() as u64);
        Message::join(&self.block, last)
    }
}

#[inline]
fn write_head(block: &mut Vec<u8>, exchange: &str, routing_key: &str, header: &ContentHeader<'_>) {
    let exchange = cut(exchange);
    let routing_key = cut(routing_key);
    // Two strings of at most 255 octets, and what came in one frame: neither is ever cut here.
    let address_len = (2 + exchange.len() + routing_key.len()) as u16;
    let properties_len = u32::try_from(header.raw.len()).unwrap_or(u32::MAX);
    let mut head = [0; HEAD];
    head[0..2].copy_from_slice(&header.flags.to_le_bytes());
    head[2..6].copy_from_slice(&properties_len.to_le_bytes());
    head[6..8].copy_from_slice(&address_len.to_le_bytes());
    head[8] = persistence(header.summary.delivery_mode);
    head[9] = header.summary.priority;
    block.reserve(HEAD + usize::from(address_len) + header.raw.len());
    block.extend_from_slice(&head);
    block.push(exchange.len() as u8);
    block.extend_from_slice(exchange);
    block.push(routing_key.len() as u8);
    block.extend_from_slice(routing_key);
    block.extend_from_slice(header.raw);
}

/// A delivery mode, if it means anything to us: our own marks never come from a client.
#[inline]
const fn persistence(delivery_mode: u8) -> u8 {
    if delivery_mode == PERSISTENT {
        PERSISTENT
    } else {
        0
    }
}

fn cut(name: &str) -> &[u8] {
    let mut end = name.len().min(255);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name.as_bytes()[..end]
}

fn text(bytes: &[u8]) -> &str {
    // Came in as `&str`; only a name cut at 255 octets could fail, and those cannot be made.
    std::str::from_utf8(bytes).unwrap_or_default()
}

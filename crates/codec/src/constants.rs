//! Numbers of the protocol itself (AMQP 0-9-1 §4.2 and the `constant` elements of its XML).

/// Frame type of a method (AMQP 0-9-1 §4.2.3).
pub const FRAME_METHOD: u8 = 1;
/// Frame type of a content header.
pub const FRAME_HEADER: u8 = 2;
/// Frame type of a piece of content body.
pub const FRAME_BODY: u8 = 3;
/// Frame type of a heartbeat. The specification says 4 in one place (§2.3.5) and 8 in another; all
/// implementations send 8.
pub const FRAME_HEARTBEAT: u8 = 8;

/// Last byte of every frame. Anything else there means that the peer has lost its place.
pub const FRAME_END: u8 = 0xCE;

/// Bytes of a frame that are not payload: type, channel, size and the end byte.
pub const FRAME_OVERHEAD: usize = 8;

/// Smallest `frame_max`, in bytes, that a peer may ask for. Frames of the login are never larger,
/// since nothing has been agreed by then.
pub const FRAME_MIN_SIZE: u32 = 4096;

/// What a client sends first. A server that speaks something else answers with its own and hangs
/// up.
pub const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\0\0\x09\x01";

/// The class of everything that carries a message, and of every content header.
pub const CLASS_BASIC: u16 = 60;

//! How much a peer may ask for: before it is known, and after both sides agreed.

use leveret_codec::{ConnectionTune, ConnectionTuneOk, FRAME_MIN_SIZE, FieldTable, FieldValue};
use leveret_core::AmqpError;

use crate::config::SessionConfig;

/// Largest frame before `connection.tune-ok`, in octets without the envelope. Logins with long
/// tokens need more than the 4,096 of the specification; nobody needs more than this.
const HANDSHAKE_FRAME_MAX: u32 = 8_192;

/// Deepest nesting of tables that a peer may send before it has logged in.
const HANDSHAKE_TABLE_DEPTH_MAX: usize = 16;

/// Largest body whatever the configuration says, in octets; RabbitMQ's hard limit too.
pub(crate) const BODY_SIZE_CAP: u64 = 512 << 20;

/// Contents that are not complete, of all channels of one connection together, in octets: each
/// channel may have one, and two thousand of the largest would be too much to hold. One message
/// of the largest size always fits.
const UNFINISHED_BYTES_MAX: u64 = 64 << 20;

/// What holds for one connection. Before `connection.tune-ok`: what we offer.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Largest frame, in octets including the envelope.
    pub(crate) frame_max: u32,
    /// Most channels open at once.
    pub(crate) channel_max: u16,
    /// Heartbeat interval in seconds, 0 for none.
    pub(crate) heartbeat_s: u16,
    /// Largest body, in octets.
    pub(crate) message_size_max: u64,
}

impl Limits {
    /// What holds until the client has answered our offer.
    pub(crate) fn before_tune(config: &SessionConfig) -> Self {
        Self {
            frame_max: HANDSHAKE_FRAME_MAX,
            channel_max: config.channel_max,
            heartbeat_s: config.heartbeat_s,
            message_size_max: config.message_size_max.min(BODY_SIZE_CAP),
        }
    }

    /// Octets that may be held of contents that are not complete.
    pub(crate) fn unfinished_bytes_max(&self) -> u64 {
        // The properties of a message come in one frame.
        self.message_size_max.max(UNFINISHED_BYTES_MAX) + u64::from(self.frame_max)
    }

    /// Takes over what the client wants, if that is within what we offered.
    ///
    /// The interval of heartbeats is the client's choice alone; sizes and counts it may only lower.
    ///
    /// # Errors
    /// `NOT_ALLOWED` for a `frame_max` or `channel_max` above ours (0, no limit, is above any), and
    /// for a `frame_max` below the specification's minimum. RabbitMQ 4.1 and later wants 8,192
    /// there and so locks out old clients, which ask for 4,096.
    pub(crate) fn negotiate(
        &mut self,
        config: &SessionConfig,
        wanted: &ConnectionTuneOk,
    ) -> Result<(), AmqpError> {
        let refused = |why: String| Err(AmqpError::not_allowed(why).of_method(ConnectionTune::ID));
        let (frame_max, ours) = (wanted.frame_max, config.frame_max);
        if frame_max != 0 && frame_max < FRAME_MIN_SIZE {
            return refused(format!(
                "negotiated frame_max = {frame_max} is lower than the minimum allowed value \
                 ({FRAME_MIN_SIZE})"
            ));
        }
        if frame_max == 0 || frame_max > ours {
            return refused(format!(
                "negotiated frame_max = {frame_max} is higher than the maximum allowed value \
                 ({ours})"
            ));
        }
        let (channel_max, ours) = (wanted.channel_max, config.channel_max);
        if ours != 0 && (channel_max == 0 || channel_max > ours) {
            let no_limit = if channel_max == 0 { " (no limit)" } else { "" };
            return refused(format!(
                "negotiated channel_max = {channel_max}{no_limit} is higher than the maximum \
                 allowed value ({ours})"
            ));
        }
        self.frame_max = frame_max;
        self.channel_max = if channel_max == 0 {
            u16::MAX
        } else {
            channel_max
        };
        self.heartbeat_s = wanted.heartbeat;
        Ok(())
    }
}

/// Whether a table from somebody who has not logged in is nested deeper than we follow.
pub(crate) fn too_deep_for_handshake(table: &FieldTable) -> bool {
    table_depth(table) > HANDSHAKE_TABLE_DEPTH_MAX
}

/// Tables and arrays within each other, this one included. The codec has bounded it.
fn table_depth(table: &FieldTable) -> usize {
    1 + table
        .iter()
        .map(|(_, value)| value_depth(value))
        .max()
        .unwrap_or(0)
}

fn value_depth(value: &FieldValue) -> usize {
    match value {
        FieldValue::Table(table) => table_depth(table),
        FieldValue::Array(values) => 1 + values.iter().map(value_depth).max().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_may_ask_for_in_tune_ok() {
        let config = SessionConfig::default();
        #[rustfmt::skip]
        let table = [
            // frame_max  channel_max  refusal                                        why this row is here
            (131_072,     2_047,       None,                                          "exactly our offer"),
            (4_096,       1,           None,                                          "old clients ask for the specification's minimum"),
            (4_095,       2_047,       Some("frame_max = 4095 is lower than the minimum allowed value (4096)"), "below the minimum"),
            (131_073,     2_047,       Some("frame_max = 131073 is higher than the maximum allowed value (131072)"), "above our offer"),
            (0,           2_047,       Some("frame_max = 0 is higher than the maximum allowed value (131072)"), "0 is no limit, so above our offer"),
            (131_072,     2_048,       Some("channel_max = 2048 is higher than the maximum allowed value (2047)"), "above our offer"),
            (131_072,     0,           Some("channel_max = 0 (no limit) is higher than the maximum allowed value (2047)"), "0 is no limit here too"),
            (0,           0,           Some("frame_max = 0 is higher than the maximum allowed value (131072)"), "frame_max is judged first"),
        ];
        for (frame_max, channel_max, refusal, why) in table {
            let wanted = ConnectionTuneOk {
                channel_max,
                frame_max,
                heartbeat: 7,
            };
            let mut limits = Limits::before_tune(&config);
            let outcome = limits
                .negotiate(&config, &wanted)
                .map_err(|error| error.text);
            let expected = refusal.map_or(Ok(()), |text| {
                Err(format!("NOT_ALLOWED - negotiated {text}"))
            });
            assert_eq!(outcome, expected, "{why}");
            if refusal.is_none() {
                assert_eq!(
                    (limits.frame_max, limits.channel_max, limits.heartbeat_s),
                    (frame_max, channel_max, 7),
                    "{why}"
                );
            }
        }
    }

    #[test]
    fn depth_counts_tables_and_arrays() {
        let mut table = FieldTable::default();
        assert_eq!(table_depth(&table), 1);
        table.insert(
            "a",
            FieldValue::Array(vec![FieldValue::Array(vec![]), FieldValue::Void]),
        );
        assert_eq!(table_depth(&table), 3);
    }
}

//! What all connections of a listener have in common.

use leveret_codec::{FieldTable, FieldValue, RawTable};

use crate::sasl::Mechanism;

/// How sessions are set up; one object shared by all of them.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Name of the server, as clients see it in `connection.start`. Some old clients sniff it.
    pub product: String,
    /// Version of the server, as clients see it.
    pub version: String,
    /// What the server runs on, as clients see it.
    pub platform: String,
    /// Copyright line, as clients see it.
    pub copyright: String,
    /// Licence line, as clients see it.
    pub information: String,
    /// Name of the cluster, as clients see it.
    pub cluster_name: String,
    /// Largest frame we accept, in octets including the 8 of the envelope (AMQP 0-9-1 §4.2.3).
    ///
    /// Offered in `connection.tune`; a client may ask for less, down to 4,096. At least 4,096.
    pub frame_max: u32,
    /// Most channels that a connection may have open. Offered in `connection.tune`; 0 means no
    /// limit but that of the numbers.
    pub channel_max: u16,
    /// Heartbeat interval that we suggest, in seconds. The client has the last word; 0 is off.
    pub heartbeat_s: u16,
    /// How long a client may take from the first octet to an open vhost, in milliseconds.
    pub handshake_timeout_ms: u64,
    /// Largest message body, in octets. Announcing more closes the channel (406). Whatever is
    /// configured, more than 512 MiB closes the connection.
    pub message_size_max: u64,
    /// How clients may log in, in the order they are offered.
    pub mechanisms: Vec<Mechanism>,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            product: "Leveret".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            platform: "Rust".to_owned(),
            copyright: "Copyright the Leveret contributors".to_owned(),
            information: "Licensed under the Apache License 2.0".to_owned(),
            cluster_name: "leveret".to_owned(),
            frame_max: 131_072,
            channel_max: 2_047,
            heartbeat_s: 60,
            handshake_timeout_ms: 10_000,
            message_size_max: 16 << 20,
            mechanisms: vec![Mechanism::Plain, Mechanism::AmqPlain],
        }
    }
}

/// Extensions of the protocol that we speak, under RabbitMQ's names.
const CAPABILITIES: [&str; 10] = [
    "accept_consumer_cancel_ok",
    "authentication_failure_close",
    "basic.nack",
    "connection.blocked",
    "consumer_cancel_notify",
    "consumer_priorities",
    "direct_reply_to",
    "exchange_exchange_bindings",
    "per_consumer_qos",
    "publisher_confirms",
];

impl SessionConfig {
    /// Who we are and what we can do, for `connection.start`. Sorted by key, as RabbitMQ's are.
    pub(crate) fn server_properties(&self) -> RawTable<'static> {
        let text = |text: &str| FieldValue::LongString(text.to_owned().into());
        let mut capabilities = FieldTable::default();
        for capability in CAPABILITIES {
            capabilities.insert(capability, FieldValue::Bool(true));
        }
        let mut properties = FieldTable::default();
        properties.insert("capabilities", FieldValue::Table(capabilities));
        properties.insert("cluster_name", text(&self.cluster_name));
        properties.insert("copyright", text(&self.copyright));
        properties.insert("information", text(&self.information));
        properties.insert("platform", text(&self.platform));
        properties.insert("product", text(&self.product));
        properties.insert("version", text(&self.version));
        RawTable::from_table(&properties)
    }

    /// Names of the mechanisms with spaces between, for `connection.start`.
    pub(crate) fn mechanism_names(&self) -> String {
        let names: Vec<_> = self
            .mechanisms
            .iter()
            .map(|mechanism| mechanism.name())
            .collect();
        names.join(" ")
    }
}

//! THE TABLE: every method of AMQP 0-9-1 and of RabbitMQ's extensions.
//!
//! A row gives the struct, its ids, parser, encoder and name; [`Method`] gains a variant, and the
//! broker's exhaustive `match` then refuses to compile until someone handles it. Arguments stand in
//! the order of the wire and have the names of the specification, except for `type`, which is
//! `kind`. Reserved ones are kept so that what was parsed can be written again byte for byte.

use crate::{
    DecodeError, LongStr, RawTable, ShortStr,
    argument::Argument,
    encode::Writer,
    methods::{WireName, methods},
    parse::Reader,
};

methods! {
    // ---- connection: everything on channel 0 (§1.4) ----

    /// The server's first words: what it is and how one may log in.
    [10, 10] ConnectionStart<'a> {
        version_major: u8,
        version_minor: u8,
        server_properties: RawTable<'a>,
        /// Names of SASL mechanisms, with spaces between.
        mechanisms: LongStr<'a>,
        /// Names of locales, with spaces between.
        locales: LongStr<'a>,
    }

    /// The client's choice of mechanism, and its first SASL response.
    [10, 11] ConnectionStartOk<'a> {
        client_properties: RawTable<'a>,
        mechanism: ShortStr<'a>,
        /// Holds the password when the mechanism is `PLAIN`.
        response: LongStr<'a>,
        locale: ShortStr<'a>,
    }

    /// Another SASL challenge, for mechanisms of more than one round.
    [10, 20] ConnectionSecure<'a> { challenge: LongStr<'a> }

    /// The response to a challenge.
    [10, 21] ConnectionSecureOk<'a> { response: LongStr<'a> }

    /// The server's limits.
    [10, 30] ConnectionTune {
        /// Highest channel number; 0 is no limit.
        channel_max: u16,
        /// Largest frame in bytes, its envelope included; 0 is no limit.
        frame_max: u32,
        /// Seconds; 0 is no heartbeats.
        heartbeat: u16,
    }

    /// The limits that hold from here on: not above those of the server.
    [10, 31] ConnectionTuneOk { channel_max: u16, frame_max: u32, heartbeat: u16 }

    /// Enters a vhost.
    [10, 40] ConnectionOpen<'a> {
        virtual_host: ShortStr<'a>,
        reserved_1: ShortStr<'a>,
        reserved_2: bool,
    }

    /// The connection is ready for channels.
    [10, 41] ConnectionOpenOk<'a> { reserved_1: ShortStr<'a> }

    /// The sender ends the connection and reads nothing more but the answer.
    [10, 50] ConnectionClose<'a> {
        reply_code: u16,
        reply_text: ShortStr<'a>,
        /// Class of the method at fault; 0 if there was none.
        class_id: u16,
        /// The method at fault; 0 if there was none.
        method_id: u16,
    }

    /// After this the socket is closed.
    [10, 51] ConnectionCloseOk {}

    /// The server has run short of something and does not read from publishers. RabbitMQ's
    /// extension, sent to clients with the capability `connection.blocked`.
    [10, 60] ConnectionBlocked<'a> { reason: ShortStr<'a> }

    /// Publishers are read again.
    [10, 61] ConnectionUnblocked {}

    /// A new password or token in place of one that expires. RabbitMQ's extension.
    [10, 70] ConnectionUpdateSecret<'a> { new_secret: LongStr<'a>, reason: ShortStr<'a> }

    /// The new secret has been accepted.
    [10, 71] ConnectionUpdateSecretOk {}

    // ---- channel (§1.5) ----

    /// Opens the channel whose number is on the frame.
    [20, 10] ChannelOpen<'a> { reserved_1: ShortStr<'a> }

    /// The channel is open.
    [20, 11] ChannelOpenOk<'a> { reserved_1: LongStr<'a> }

    /// Asks the peer to stop or go on with sending content.
    [20, 20] ChannelFlow { active: bool }

    /// Whether the peer now sends content.
    [20, 21] ChannelFlowOk { active: bool }

    /// The sender ends the channel and ignores what still comes but the answer.
    [20, 40] ChannelClose<'a> {
        reply_code: u16,
        reply_text: ShortStr<'a>,
        /// Class of the method at fault; 0 if there was none.
        class_id: u16,
        /// The method at fault; 0 if there was none.
        method_id: u16,
    }

    /// The channel's number is free again.
    [20, 41] ChannelCloseOk {}

    // ---- access: a relic of AMQP 0-8 that old clients still send ----

    /// Asks for a ticket, which means nothing any more.
    [30, 10] AccessRequest<'a> {
        realm: ShortStr<'a>,
        exclusive: bool,
        passive: bool,
        active: bool,
        write: bool,
        read: bool,
    }

    /// The ticket; RabbitMQ always says 1.
    [30, 11] AccessRequestOk { ticket: u16 }

    // ---- exchange (§1.6) ----

    /// Creates an exchange, or verifies that it is as described.
    [40, 10] ExchangeDeclare<'a> {
        reserved_1: u16,
        exchange: ShortStr<'a>,
        /// The exchange type: `direct`, `topic` and so on.
        kind: ShortStr<'a>,
        passive: bool,
        durable: bool,
        auto_delete: bool,
        internal: bool,
        no_wait: bool,
        arguments: RawTable<'a>,
    }

    /// The exchange exists.
    [40, 11] ExchangeDeclareOk {}

    /// Removes an exchange with its bindings.
    [40, 20] ExchangeDelete<'a> {
        reserved_1: u16,
        exchange: ShortStr<'a>,
        if_unused: bool,
        no_wait: bool,
    }

    /// The exchange is gone.
    [40, 21] ExchangeDeleteOk {}

    /// Routes from one exchange to another. RabbitMQ's extension.
    [40, 30] ExchangeBind<'a> {
        reserved_1: u16,
        destination: ShortStr<'a>,
        source: ShortStr<'a>,
        routing_key: ShortStr<'a>,
        no_wait: bool,
        arguments: RawTable<'a>,
    }

    /// The binding exists.
    [40, 31] ExchangeBindOk {}

    /// Removes a binding between exchanges. RabbitMQ's extension.
    [40, 40] ExchangeUnbind<'a> {
        reserved_1: u16,
        destination: ShortStr<'a>,
        source: ShortStr<'a>,
        routing_key: ShortStr<'a>,
        no_wait: bool,
        arguments: RawTable<'a>,
    }

    /// The binding is gone. Its id is 51 and not 41, by an accident that became the protocol.
    [40, 51] ExchangeUnbindOk {}

    // ---- queue (§1.7) ----

    /// Creates a queue, or verifies that it is as described.
    [50, 10] QueueDeclare<'a> {
        reserved_1: u16,
        /// Empty: the server makes up a name.
        queue: ShortStr<'a>,
        passive: bool,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        no_wait: bool,
        arguments: RawTable<'a>,
    }

    /// The queue exists; `message_count` is the number of ready messages.
    [50, 11] QueueDeclareOk<'a> { queue: ShortStr<'a>, message_count: u32, consumer_count: u32 }

    /// Routes from an exchange to a queue.
    [50, 20] QueueBind<'a> {
        reserved_1: u16,
        queue: ShortStr<'a>,
        exchange: ShortStr<'a>,
        routing_key: ShortStr<'a>,
        no_wait: bool,
        arguments: RawTable<'a>,
    }

    /// The binding exists.
    [50, 21] QueueBindOk {}

    /// Removes all ready messages from a queue; unacked ones stay with their consumers.
    [50, 30] QueuePurge<'a> { reserved_1: u16, queue: ShortStr<'a>, no_wait: bool }

    /// `message_count` is the number of messages removed.
    [50, 31] QueuePurgeOk { message_count: u32 }

    /// Removes a queue with its bindings and messages.
    [50, 40] QueueDelete<'a> {
        reserved_1: u16,
        queue: ShortStr<'a>,
        if_unused: bool,
        if_empty: bool,
        no_wait: bool,
    }

    /// `message_count` is the number of messages that went with the queue.
    [50, 41] QueueDeleteOk { message_count: u32 }

    /// Removes a binding. The only one of its family without `no_wait`.
    [50, 50] QueueUnbind<'a> {
        reserved_1: u16,
        queue: ShortStr<'a>,
        exchange: ShortStr<'a>,
        routing_key: ShortStr<'a>,
        arguments: RawTable<'a>,
    }

    /// The binding is gone.
    [50, 51] QueueUnbindOk {}

    // ---- basic: messages (§1.8) ----

    /// Limits how much may be unacked.
    [60, 10] BasicQos {
        /// Bytes; RabbitMQ refuses all but 0.
        prefetch_size: u32,
        /// Deliveries; 0 is no limit.
        prefetch_count: u16,
        /// In RabbitMQ: for the channel as a whole, and not for each new consumer.
        global: bool,
    }

    /// The limit holds.
    [60, 11] BasicQosOk {}

    /// Starts a consumer.
    [60, 20] BasicConsume<'a> {
        reserved_1: u16,
        queue: ShortStr<'a>,
        /// Empty: the server makes one up.
        consumer_tag: ShortStr<'a>,
        no_local: bool,
        no_ack: bool,
        exclusive: bool,
        no_wait: bool,
        arguments: RawTable<'a>,
    }

    /// Deliveries with this tag follow.
    [60, 21] BasicConsumeOk<'a> { consumer_tag: ShortStr<'a> }

    /// Ends a consumer. RabbitMQ also sends it to clients whose queue is gone.
    [60, 30] BasicCancel<'a> { consumer_tag: ShortStr<'a>, no_wait: bool }

    /// No more deliveries with this tag.
    [60, 31] BasicCancelOk<'a> { consumer_tag: ShortStr<'a> }

    /// A message for an exchange. Content follows.
    [60, 40] BasicPublish<'a> {
        reserved_1: u16,
        exchange: ShortStr<'a>,
        routing_key: ShortStr<'a>,
        /// Return it if no queue gets it.
        mandatory: bool,
        /// Return it if no consumer is waiting; RabbitMQ has refused this since 3.0.
        immediate: bool,
    }

    /// A mandatory message that no queue got. Content follows.
    [60, 50] BasicReturn<'a> {
        reply_code: u16,
        reply_text: ShortStr<'a>,
        exchange: ShortStr<'a>,
        routing_key: ShortStr<'a>,
    }

    /// A message for a consumer. Content follows.
    [60, 60] BasicDeliver<'a> {
        consumer_tag: ShortStr<'a>,
        /// Counts up from 1 on each channel.
        delivery_tag: u64,
        redelivered: bool,
        exchange: ShortStr<'a>,
        routing_key: ShortStr<'a>,
    }

    /// Asks for one message.
    [60, 70] BasicGet<'a> { reserved_1: u16, queue: ShortStr<'a>, no_ack: bool }

    /// Here it is; `message_count` more are ready. Content follows.
    [60, 71] BasicGetOk<'a> {
        delivery_tag: u64,
        redelivered: bool,
        exchange: ShortStr<'a>,
        routing_key: ShortStr<'a>,
        message_count: u32,
    }

    /// There is none.
    [60, 72] BasicGetEmpty<'a> { reserved_1: ShortStr<'a> }

    /// Settles one delivery, or with `multiple` every delivery up to `delivery_tag` (0: all so
    /// far). The server sends it too, as a publisher confirm.
    [60, 80] BasicAck { delivery_tag: u64, multiple: bool }

    /// Settles one delivery as failed.
    [60, 90] BasicReject { delivery_tag: u64, requeue: bool }

    /// Like [`BasicRecover`], and deprecated: nothing answers it.
    [60, 100] BasicRecoverAsync { requeue: bool }

    /// Asks for all unacked messages of the channel again.
    [60, 110] BasicRecover { requeue: bool }

    /// They are on their way.
    [60, 111] BasicRecoverOk {}

    /// Settles one or more deliveries as failed. RabbitMQ's extension; as a publisher confirm it
    /// says that the message is lost.
    [60, 120] BasicNack { delivery_tag: u64, multiple: bool, requeue: bool }

    // ---- confirm: RabbitMQ's extension ----

    /// From here on every publish of the channel is confirmed.
    [85, 10] ConfirmSelect { no_wait: bool }

    /// The next publish has number 1.
    [85, 11] ConfirmSelectOk {}

    // ---- tx (§1.9) ----

    /// From here on publishes and acks of the channel take effect with [`TxCommit`].
    [90, 10] TxSelect {}

    /// The first transaction has begun.
    [90, 11] TxSelectOk {}

    /// Everything since the last commit or rollback takes effect.
    [90, 20] TxCommit {}

    /// It has, and the next transaction has begun.
    [90, 21] TxCommitOk {}

    /// Nothing since the last commit or rollback takes effect.
    [90, 30] TxRollback {}

    /// It is forgotten, and the next transaction has begun.
    [90, 31] TxRollbackOk {}
}

impl Method<'_> {
    /// Whether a header frame and the body must follow on the same channel.
    pub fn carries_content(&self) -> bool {
        matches!(
            self,
            Self::BasicPublish(_)
                | Self::BasicReturn(_)
                | Self::BasicDeliver(_)
                | Self::BasicGetOk(_)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_specification() {
        #[rustfmt::skip]
        let table = [
            // struct                       wire                           why this row is here
            (QueueDeclare::NAME,            "queue.declare",               "two words"),
            (QueueDeclareOk::NAME,          "queue.declare-ok",            "three"),
            (ConnectionUpdateSecretOk::NAME,"connection.update-secret-ok", "four, and the longest"),
            (BasicRecoverAsync::NAME,       "basic.recover-async",         "does not end in ok"),
            (TxSelect::NAME,                "tx.select",                   "the shortest"),
        ];
        for (got, expected, why) in table {
            assert_eq!(got, expected, "{why}");
        }
        assert_eq!(Method::from(TxSelect {}).name(), "tx.select");
    }

    #[test]
    fn arguments_stand_in_the_order_of_the_wire() {
        let method = Method::from(QueueDeclare {
            queue: ShortStr::from_static("q"),
            durable: true,
            no_wait: true,
            ..QueueDeclare::default()
        });
        let mut out = Vec::new();
        method.encode_payload(&mut out);
        #[rustfmt::skip]
        let expected = [
            0, 50, 0, 10,  // ids
            0, 0,          // reserved_1
            1, b'q',
            0b0001_0010,   // passive, durable, exclusive, auto_delete, no_wait from the lowest bit
            0, 0, 0, 0,    // no arguments
        ];
        assert_eq!(out, expected);
        assert_eq!(Method::parse(&out), Ok(method));
    }

    #[test]
    fn payload_must_be_one_whole_known_method() {
        #[rustfmt::skip]
        let table: [(&[u8], DecodeError, &str); 6] = [
            (&[],                   DecodeError::Truncated { what: "class_id" },  "empty frame"),
            (&[0, 90, 0],           DecodeError::Truncated { what: "method_id" }, "half a method id"),
            (&[0, 90, 0, 12],       DecodeError::UnknownMethod { class_id: 90, method_id: 12 }, "class is known"),
            (&[0, 70, 0, 10],       DecodeError::UnknownMethod { class_id: 70, method_id: 10 }, "class is not"),
            (&[0, 90, 0, 10, 0, 0], DecodeError::TrailingBytes { count: 2 },      "an argument too many"),
            (&[0, 60, 0, 110],      DecodeError::Truncated { what: "requeue" },   "bits missing"),
        ];
        for (payload, expected, why) in table {
            assert_eq!(Method::parse(payload), Err(expected), "{why}");
        }
    }

    #[test]
    fn only_messages_carry_content() {
        assert!(Method::from(BasicPublish::default()).carries_content());
        assert!(Method::from(BasicReturn::default()).carries_content());
        assert!(Method::from(BasicDeliver::default()).carries_content());
        assert!(Method::from(BasicGetOk::default()).carries_content());
        assert!(!Method::from(BasicGetEmpty::default()).carries_content());
        assert!(!Method::from(BasicAck::default()).carries_content());
    }
}

//! THE TABLE of counters.
//!
//! One row a counter: it becomes a field, a Prometheus sample and a help text. Plain integers,
//! because one turn at a time touches them.

/// Makes the struct and its listing from the rows.
macro_rules! counters {
    ($($name:ident: $metric:literal, $help:literal;)*) => {
        /// Totals since the vhost started.
        #[derive(Clone, Debug, Default, Eq, PartialEq)]
        pub struct Metrics {
            $(#[doc = $help] pub $name: u64,)*
        }

        impl Metrics {
            /// Every counter as (Prometheus name without prefix and `_total`, help, value).
            #[must_use]
            pub fn rows(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$(($metric, $help, self.$name),)*]
            }
        }
    };
}

counters! {
    published: "messages_received", "Messages published by clients.";
    published_confirm: "messages_received_confirm", "Messages published on channels in confirm mode.";
    confirmed: "messages_confirmed", "Messages confirmed to publishers.";
    routed: "messages_routed", "Copies of messages that went to a queue.";
    unroutable_dropped: "messages_unroutable_dropped", "Messages without a queue that were dropped.";
    unroutable_returned: "messages_unroutable_returned", "Mandatory messages without a queue that were returned.";
    delivered_manual: "messages_delivered_consume_manual_ack", "Deliveries to consumers that acknowledge.";
    delivered_auto: "messages_delivered_consume_auto_ack", "Deliveries to consumers that do not acknowledge.";
    got_manual: "messages_delivered_get_manual_ack", "Messages fetched with basic.get to be acknowledged.";
    got_auto: "messages_delivered_get_auto_ack", "Messages fetched with basic.get without acknowledgement.";
    get_empty: "messages_get_empty", "basic.get on an empty queue.";
    redelivered: "messages_redelivered", "Deliveries with the redelivered flag.";
    acknowledged: "messages_acknowledged", "Deliveries acknowledged.";
    processing_ms: "messages_processing_milliseconds", "Time from delivery to acknowledgement, of all that were acknowledged.";
    requeued: "messages_requeued", "Deliveries put back into their queue.";
    retries: "messages_retried", "Deliveries put back to be delivered again after a while.";
    discarded: "messages_discarded", "Deliveries rejected without requeue.";
    purged: "messages_purged", "Messages removed by queue.purge or with their queue.";
    expired: "messages_expired", "Messages whose time ran out in a queue.";
    overflowed: "messages_overflowed", "Messages dropped or refused because a queue was full.";
    dead_lettered: "messages_dead_lettered", "Messages passed on to a dead-letter exchange.";
    dead_letter_cycles: "messages_dead_letter_cycles", "Dead letters that would have gone round for ever.";
    dead_letters_dropped: "messages_dead_letters_dropped", "Dead letters dropped because far too many came of few.";
    delayed: "messages_delayed", "Messages kept to be delivered later.";
    delayed_released: "messages_delayed_released", "Delayed messages that were due.";
    delayed_cancelled: "messages_delayed_cancelled", "Delayed messages that somebody has cancelled.";
    schedules_fired: "schedules_fired", "Messages that schedules have published.";
    schedules_refused: "schedules_refused", "Messages of schedules that were not published because their user may not do that any more.";
    rejected: "messages_rejected", "Messages refused to publishers in confirm mode (basic.nack).";
    paged_out: "messages_paged_out", "Messages let go from memory, to be read back from the log or the swap area.";
    swapped_out: "messages_swapped_out", "Messages among them that are in the swap area.";
    paged_in: "messages_paged_in", "Messages read back from the log or the swap area.";
    replies_dropped: "direct_replies_dropped", "Direct replies dropped because their reader was too slow.";
    queues_declared: "queues_declared", "queue.declare that found or made a queue.";
    queues_created: "queues_created", "Queues created.";
    queues_deleted: "queues_deleted", "Queues deleted, expired or gone with their connection.";
    connections_opened: "connections_opened", "Connections that opened the vhost.";
    connections_closed: "connections_closed", "Connections that left the vhost.";
    channels_opened: "channels_opened", "Channels opened.";
    channels_closed: "channels_closed", "Channels closed, by whomever.";
    channel_errors: "channel_errors", "Channels closed with an error.";
    connection_errors: "connection_errors", "Connections closed with an error of the core.";
}

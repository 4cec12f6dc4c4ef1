//! What tests of delayed messages have in common.

use leveret_codec::{FieldValue, Properties};
use leveret_core::{Input, Limits};

use super::kept::Kept;
use super::{BrokerTest, Chan, headers, message_with};

/// Lets time pass on both clocks, to the millisecond.
pub(crate) fn pass(t: &mut BrokerTest, ms: u64) {
    let end = t.now.mono.plus_ms(ms);
    while let Some(due) = t.broker.next_timer().filter(|&due| due <= end) {
        t.now.wall.0 += due.0.saturating_sub(t.now.mono.0);
        t.now.mono = t.now.mono.max(due);
        t.step(Input::Tick);
    }
    t.now.wall.0 += end.0 - t.now.mono.0;
    t.now.mono = end;
}

/// Until a delay that begins now has ended. The millisecond that has begun already does not count:
/// all but nothing of it may be over.
pub(crate) fn pass_delay(t: &mut BrokerTest, ms: u64) {
    pass(t, ms + 1);
}

pub(crate) fn after(ms: i64) -> Properties {
    headers([("x-deliver-after", FieldValue::I64(ms))])
}

pub(crate) fn kept_after(ms: i64) -> Properties {
    Properties {
        delivery_mode: Some(2),
        ..after(ms)
    }
}

pub(crate) fn send(t: &mut BrokerTest, ch: Chan, key: &str, properties: Properties, body: &str) {
    t.publish_with(ch, message_with("", key, properties, body), false);
}

pub(crate) fn with_memory(max: usize) -> (BrokerTest, Chan, Kept) {
    let mut t = BrokerTest::with_limits(Limits {
        queue_memory_max: max,
        ..Limits::default()
    });
    let ch = t.client();
    t.durable_queue(ch, "q");
    (t, ch, Kept::default())
}

pub(crate) fn waiting(t: &BrokerTest) -> usize {
    t.broker.totals().delayed
}

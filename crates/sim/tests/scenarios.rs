//! Every bug that was once found by simulation, by name: what happened, and that it does not any
//! more. Each step is judged by the model, so a scenario only has to go the way the bug was on.

use leveret_codec::{BasicConsume, BasicQos, BasicRecover, FieldTable, FieldValue, RawTable};
use leveret_sim::pair::{Script, delivered};

const ROOM: usize = 1 << 20;

fn one_at_a_time() -> BasicQos {
    BasicQos {
        prefetch_count: 1,
        ..BasicQos::default()
    }
}

fn shared(prefetch_count: u16) -> BasicQos {
    BasicQos {
        prefetch_count,
        global: true,
        ..BasicQos::default()
    }
}

fn with_priority(priority: i32) -> BasicConsume<'static> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-priority", FieldValue::I32(priority));
    BasicConsume {
        arguments: RawTable::from_table(&arguments),
        ..BasicConsume::default()
    }
}

/// A shared prefetch was lifted. Whoever had waited longest for it was woken first, and had taken
/// everything when the consumer of higher priority was.
#[test]
fn a_lifted_shared_prefetch_wakes_everybody_before_it_delivers() {
    let mut script = Script::new(ROOM);
    let a = script.client();
    script.declares(a, "q");
    script.says(a, 1, shared(1));
    script.consumes(a, "q", "low", with_priority(-1));
    script.publishes(a, "q", 10);
    script.publishes(a, "q", 10); // waits for `low`
    script.consumes(a, "q", "high", with_priority(1));
    script.publishes(a, "q", 10);

    let sends = script.says(a, 1, shared(0));
    assert_eq!(delivered(&sends, a), [1, 2]);
}

/// Two consumers of a channel got their credit back at once. The first was woken and the queue
/// delivered before the second, of higher priority, was; and so a third, of another connection,
/// got what was the second's.
#[test]
fn a_requeue_wakes_everybody_before_it_delivers() {
    let mut script = Script::new(ROOM);
    let (a, b) = (script.client(), script.client());
    script.declares(a, "q");
    script.says(a, 1, one_at_a_time());
    script.consumes(a, "q", "low", with_priority(0));
    let first = script.publishes(b, "q", 10);
    script.consumes(a, "q", "high", with_priority(2));
    let second = script.publishes(b, "q", 10);
    let third = script.publishes(b, "q", 10);
    let sends = script.consumes(b, "q", "other", BasicConsume::default());
    assert_eq!(
        delivered(&sends, b),
        [third],
        "the others are at their limits"
    );

    let sends = script.says(a, 1, BasicRecover { requeue: true });
    assert_eq!(delivered(&sends, a), [first], "to `high`");
    assert_eq!(delivered(&sends, b), [second], "`low` stands behind it");
}

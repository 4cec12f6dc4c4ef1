//! Every bug that was once found by simulation, by name: what happened, and that it does not any
//! more. Each step is judged by the model, so a scenario only has to go the way the bug was on.

use leveret_codec::{
    BasicConsume, BasicQos, BasicRecover, FieldTable, FieldValue, Properties, RawTable,
};
use leveret_core::Outcome;
use leveret_sim::pair::{Script, delivered};
use leveret_sim::rules::Rules;

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

/// A dead letter was delivered before its record was safe. After a crash the message was back where
/// it had died, died again, and its letter was delivered for the first time twice.
#[test]
fn a_dead_letter_waits_for_its_record() {
    let mut script = Script::new(ROOM);
    let (a, b) = (script.client(), script.client());
    let to_dead = Rules {
        dead_letter: Some(String::new()),
        dead_letter_key: Some("dead".to_owned()),
        ..Rules::default()
    };
    script.declares_lasting(a, "q", &to_dead);
    script.declares_lasting(a, "dead", &Rules::default());
    script.consumes(b, "dead", "reader", BasicConsume::default());
    script.consumes(a, "q", "hangman", BasicConsume::default());
    let kept = Properties {
        delivery_mode: Some(2),
        ..Properties::default()
    };
    let message = script.publishes_as(a, "q", 10, kept);
    script.synced();
    let sends = script.settles(a, 1, false, Outcome::Reject { requeue: false });
    assert_eq!(delivered(&sends, b), [0; 0]);
    assert_eq!(delivered(&script.synced(), b), [message]);
    script.check_log();
}

/// A queue that says no to what is new dropped what came back to it.
#[test]
fn a_queue_that_says_no_keeps_what_comes_back() {
    let mut script = Script::new(ROOM);
    let a = script.client();
    let says_no = Rules {
        length_max: Some(1),
        overflow: Some("reject-publish".to_owned()),
        ..Rules::default()
    };
    script.declares_lasting(a, "q", &says_no);
    script.says(a, 1, one_at_a_time());
    script.consumes(a, "q", "reader", BasicConsume::default());
    let first = script.publishes(a, "q", 10);
    script.publishes(a, "q", 10);
    let sends = script.settles(a, 1, false, Outcome::Nack { requeue: true });
    assert_eq!(delivered(&sends, a), [first]);
}

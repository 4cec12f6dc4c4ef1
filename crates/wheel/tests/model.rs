//! The wheel against a `BTreeMap` that is obviously right, and the facts that callers lean on.

use std::collections::BTreeMap;

use leveret_wheel::{TimerKey, Wheel};
use proptest::collection::vec;
use proptest::prelude::*;

/// Due times that differ from the present at every scale: the next millisecond, the next slot, the
/// next window of 12.4 days, centuries.
fn due() -> impl Strategy<Value = Due> {
    prop_oneof![
        4 => (0..64_u32).prop_flat_map(|bits| 0..=u64::MAX >> (63 - bits)).prop_map(Due::After),
        2 => (0..200_u64).prop_map(Due::After),
        1 => (0..100_000_u64).prop_map(Due::Before),
        1 => any::<u64>().prop_map(Due::At),
        1 => Just(Due::At(u64::MAX)),
        1 => Just(Due::SameAsLast),
    ]
}

#[derive(Clone, Copy, Debug)]
enum Due {
    After(u64),
    Before(u64),
    At(u64),
    SameAsLast,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Insert(Due),
    /// Which of all keys ever returned, fired or not.
    Cancel(prop::sample::Index),
    AdvanceBy(u64),
    AdvanceToNextDue,
    /// One millisecond before: nothing may fire.
    AdvanceToJustBeforeNextDue,
    ClockWentBack(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => due().prop_map(Step::Insert),
        2 => any::<prop::sample::Index>().prop_map(Step::Cancel),
        2 => (0..40_u32).prop_flat_map(|bits| 0..=1_u64 << bits).prop_map(Step::AdvanceBy),
        3 => Just(Step::AdvanceToNextDue),
        1 => Just(Step::AdvanceToJustBeforeNextDue),
        1 => (0..1_000_u64).prop_map(Step::ClockWentBack),
    ]
}

/// `PROPTEST_CASES` asks for more than the usual number of cases.
fn config() -> ProptestConfig {
    let from_environment = ProptestConfig::default();
    ProptestConfig {
        cases: from_environment.cases.max(2_000),
        failure_persistence: None,
        ..from_environment
    }
}

/// Timers by (due time, insertion number), which is also the item.
struct Model {
    timers: BTreeMap<(u64, u64), ()>,
    inserted: Vec<(TimerKey, u64)>,
    now_ms: u64,
}

impl Model {
    fn advance(&mut self, wheel: &mut Wheel<u64>, to_ms: u64) {
        self.now_ms = self.now_ms.max(to_ms);
        let later = self.timers.split_off(&(self.now_ms, u64::MAX));
        let expected: Vec<_> = std::mem::replace(&mut self.timers, later)
            .into_keys()
            .collect();
        let mut fired = Vec::new();
        wheel.advance(to_ms, &mut fired);
        assert_eq!(fired, expected);
    }

    fn first_due(&self) -> Option<u64> {
        self.timers
            .first_key_value()
            .map(|(&(due_ms, _), &())| due_ms)
    }
}

fn run(start_ms: u64, steps: &[Step]) {
    let mut wheel = Wheel::new(start_ms);
    let mut model = Model {
        timers: BTreeMap::new(),
        inserted: Vec::new(),
        now_ms: start_ms,
    };
    for &step in steps {
        match step {
            Step::Insert(due) => {
                let due_ms = match due {
                    Due::After(ms) => model.now_ms.saturating_add(ms),
                    Due::Before(ms) => model.now_ms.saturating_sub(ms),
                    Due::At(ms) => ms,
                    Due::SameAsLast => model.inserted.last().map_or(0, |&(_, due_ms)| due_ms),
                };
                let number = model.inserted.len() as u64;
                model.inserted.push((wheel.insert(due_ms, number), due_ms));
                model.timers.insert((due_ms, number), ());
            }
            Step::Cancel(which) => {
                if !model.inserted.is_empty() {
                    let number = which.index(model.inserted.len());
                    let (key, due_ms) = model.inserted[number];
                    let number = number as u64;
                    let waiting = model.timers.remove(&(due_ms, number)).is_some();
                    assert_eq!(wheel.cancel(key), waiting.then_some(number));
                    assert_eq!(wheel.cancel(key), None);
                }
            }
            Step::AdvanceBy(ms) => {
                model.advance(&mut wheel, model.now_ms.saturating_add(ms));
            }
            Step::AdvanceToNextDue => {
                if let Some(due_ms) = wheel.next_due() {
                    model.advance(&mut wheel, due_ms);
                }
            }
            Step::AdvanceToJustBeforeNextDue => {
                if let Some(due_ms) = wheel.next_due() {
                    model.advance(&mut wheel, due_ms.saturating_sub(1));
                }
            }
            Step::ClockWentBack(ms) => {
                model.advance(&mut wheel, model.now_ms.saturating_sub(ms));
            }
        }
        assert_eq!(wheel.len(), model.timers.len());
        assert_eq!(wheel.is_empty(), model.timers.is_empty());
        match (wheel.next_due(), model.first_due()) {
            (Some(answer), Some(first)) => assert!(answer <= first, "{answer} after {first}"),
            (answer, first) => assert_eq!(answer, first),
        }
    }
    model.advance(&mut wheel, u64::MAX);
    assert!(wheel.is_empty());
    assert_eq!(wheel.next_due(), None);
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn wheel_does_what_a_sorted_map_does(
        start_ms in prop_oneof![Just(0), 0..1_u64 << 45, Just((1 << 41) - 100), Just(u64::MAX - 1_000)],
        steps in vec(step(), 1..120),
    ) {
        run(start_ms, &steps);
    }

    /// A sleeper that wakes at `next_due` wakes once for each due time when nothing is cancelled.
    #[test]
    fn sleeper_wakes_only_when_something_fires(dues in vec(due(), 1..60)) {
        let now_ms = 1_u64 << 40;
        let mut wheel = Wheel::new(now_ms);
        for due in dues {
            wheel.insert(match due {
                Due::After(ms) => now_ms.saturating_add(ms),
                Due::Before(ms) => now_ms - ms,
                Due::At(ms) => ms,
                Due::SameAsLast => now_ms,
            }, ());
        }
        let mut fired = Vec::new();
        while let Some(due_ms) = wheel.next_due() {
            fired.clear();
            wheel.advance(due_ms, &mut fired);
            prop_assert!(fired.iter().any(|&(fired_ms, ())| fired_ms == due_ms));
        }
        prop_assert!(wheel.is_empty());
    }
}

/// Each cancelled timer costs a sleeper at most one wake-up that fires nothing.
#[test]
fn cancelled_timers_do_not_keep_a_sleeper_awake() {
    let mut wheel = Wheel::new(0);
    let keys: Vec<_> = (0..100).map(|i| wheel.insert(1_000_000 + i, i)).collect();
    wheel.insert(1_000_000_000, 100);
    for key in keys {
        wheel.cancel(key);
    }
    let mut fired = Vec::new();
    let mut wakes = 0;
    while let Some(due_ms) = wheel.next_due() {
        wheel.advance(due_ms, &mut fired);
        wakes += 1;
    }
    assert_eq!(fired, [(1_000_000_000, 100)]);
    assert_eq!(
        wakes, 1,
        "the slot of the cancelled ones is empty, and known to be"
    );
}

/// Years in one step, again and again: this test takes for ever if a step costs its length.
#[test]
fn long_steps_cost_nothing() {
    let mut wheel = Wheel::new(0);
    let mut fired = Vec::new();
    for year in 1..=100_000_u64 {
        let now_ms = year * 31_557_600_000;
        wheel.insert(now_ms, year);
        wheel.advance(now_ms, &mut fired);
    }
    assert_eq!(fired.len(), 100_000);
}

#[test]
fn late_ones_come_first_and_in_order() {
    let mut wheel = Wheel::new(1 << 30); // the first millisecond of a window
    let mut fired = Vec::new();
    for (item, due_ms) in [
        (1 << 30, "now"),
        (50, "late"),
        ((1 << 30) + 1, "next"),
        (7, "later"),
    ]
    .map(|(due_ms, item)| (item, due_ms))
    {
        wheel.insert(due_ms, item);
    }
    assert_eq!(wheel.next_due(), Some(7));
    wheel.advance(1 << 30, &mut fired);
    assert_eq!(fired, [(7, "later"), (50, "late"), (1 << 30, "now")]);
    assert_eq!(wheel.next_due(), Some((1 << 30) + 1));
}

/// A million timers and all of them fired or cancelled, through every level.
#[test]
fn million_timers() {
    const COUNT: u64 = 1_000_000;
    let mut wheel = Wheel::new(5);
    let keys: Vec<_> = (0..COUNT)
        .map(|i| wheel.insert(5 + i.wrapping_mul(2_654_435_761) % 90_000_000_000, i))
        .collect();
    for key in keys.iter().step_by(2) {
        assert!(wheel.cancel(*key).is_some());
    }
    let mut fired = Vec::new();
    wheel.advance(90_000_000_005, &mut fired);
    assert_eq!(fired.len() as u64, COUNT / 2);
    assert!(fired.is_sorted());
    for key in keys {
        assert_eq!(wheel.cancel(key), None);
    }
    assert!(wheel.is_empty());
}

//! Random facts against a naive model, the log opened anew at random points.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::*;
use leveret_core::ids::{QueueNumber, Seq};
use leveret_core::record::{Fact, MAY_DELIVER_FIRST};
use proptest::prelude::*;

const NAMES: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
enum Step {
    Declare(usize),
    Delete(usize),
    Bind(usize, u8),
    Unbind(usize, u8),
    /// To these of the queues that are there.
    Publish(u8, usize),
    /// One of the living messages of a queue.
    Settle(usize, usize),
    /// All living messages of a queue up to one of them.
    Purge(usize, usize),
    MayDeliver(usize, u64),
    /// A settle and two messages, or nothing.
    Transaction(usize, usize),
    Commit,
    KeepHouse(u8),
    /// Without a word.
    Reopen,
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..3_usize).prop_map(Step::Declare),
        1 => (0..3_usize).prop_map(Step::Delete),
        1 => (0..3_usize, 0..3_u8).prop_map(|(queue, key)| Step::Bind(queue, key)),
        1 => (0..3_usize, 0..3_u8).prop_map(|(queue, key)| Step::Unbind(queue, key)),
        12 => (1..8_u8, 0..900_usize).prop_map(|(queues, len)| Step::Publish(queues, len)),
        10 => (0..3_usize, 0..100_usize).prop_map(|(queue, which)| Step::Settle(queue, which)),
        1 => (0..3_usize, 0..100_usize).prop_map(|(queue, which)| Step::Purge(queue, which)),
        1 => (0..3_usize, 0..1_000_000_u64).prop_map(|(queue, to)| Step::MayDeliver(queue, to)),
        2 => (0..3_usize, 0..100_usize).prop_map(|(queue, len)| Step::Transaction(queue, len)),
        4 => Just(Step::Commit),
        3 => (0..6_u8).prop_map(Step::KeepHouse),
        1 => Just(Step::Reopen),
        1 => Just(Step::Close),
    ]
}

#[derive(Clone, Debug, Default)]
struct ModelQueue {
    number: u64,
    last: u64,
    through: u64,
    messages: BTreeMap<u64, String>,
}

#[derive(Default)]
struct Model {
    queues: BTreeMap<usize, ModelQueue>,
    bindings: BTreeSet<(usize, u8)>,
    staged: Vec<Fact>,
    published: u64,
}

impl Model {
    fn publish(&mut self, queues: &[usize], len: usize) -> Option<Fact> {
        self.published += 1;
        let body = format!("{}:{}", self.published, "z".repeat(len));
        let mut places = Vec::new();
        for name in queues {
            if let Some(queue) = self.queues.get_mut(name) {
                queue.last += 1;
                queue.messages.insert(queue.last, body.clone());
                places.push((QueueNumber(queue.number), queue.last));
            }
        }
        (!places.is_empty()).then(|| publish(&places, &body))
    }

    fn settle(&mut self, name: usize, which: usize) -> Option<Fact> {
        let queue = self.queues.get_mut(&name)?;
        let seqs: Vec<_> = queue.messages.keys().copied().collect();
        let seq = *seqs.get(which % seqs.len().max(1))?;
        queue.messages.remove(&seq);
        Some(settle(QueueNumber(queue.number), seq))
    }
}

fn bound(name: usize, key: u8) -> leveret_core::record::BindingFact {
    binding("x", NAMES[name], &key.to_string())
}

fn check(one: &One, model: &Model) {
    let queues: BTreeMap<_, _> = one
        .recovered
        .queues
        .iter()
        .map(|queue| (queue.number.0, queue))
        .collect();
    assert_eq!(queues.len(), model.queues.len());
    for expected in model.queues.values() {
        let queue = queues[&expected.number];
        assert_eq!(queue.delivered_through, Seq(expected.through));
        assert!(
            queue.last.0 <= expected.last,
            "never a place that was not given"
        );
        let found: BTreeMap<_, _> = one.bodies(queue.number).into_iter().collect();
        assert_eq!(found, expected.messages);
        let living: Vec<_> = expected.messages.keys().copied().collect();
        assert_eq!(one.living(queue.number), living);
        let bytes: u64 = queue.runs.iter().map(|run| run.bytes).sum();
        let blocks = expected
            .messages
            .values()
            .map(|body| body.len() as u64 + 14 + 16);
        assert_eq!(bytes, blocks.sum::<u64>());
    }
    let mut names = BTreeSet::new();
    let mut bindings = BTreeSet::new();
    for (_, fact) in &one.recovered.definitions {
        match fact {
            Fact::QueueDeclared { name, .. } => {
                names.insert(name.to_string());
            }
            Fact::Bound(binding) => {
                let name = NAMES.iter().position(|name| **name == *binding.destination);
                let key = binding.routing_key.parse().expect("a key");
                bindings.insert((name.expect("a name"), key));
            }
            other => panic!("{other:?}"),
        }
    }
    let expected: BTreeSet<_> = model
        .queues
        .keys()
        .map(|name| NAMES[*name].to_owned())
        .collect();
    assert_eq!(names, expected);
    assert_eq!(bindings, model.bindings);
}

fn run(steps: Vec<Step>) {
    let dir = tempfile::tempdir_in(memory()).expect("a directory");
    let mut one = One::open(dir.path());
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Declare(name) => {
                if !model.queues.contains_key(&name) {
                    let number = one.lsn + model.staged.len() as u64 + 1;
                    let queue = ModelQueue {
                        number,
                        through: MAY_DELIVER_FIRST,
                        ..ModelQueue::default()
                    };
                    model.queues.insert(name, queue);
                    model.staged.push(common::queue(NAMES[name]));
                }
            }
            Step::Delete(name) => {
                if let Some(queue) = model.queues.remove(&name) {
                    model.bindings.retain(|(of, _)| *of != name);
                    model.staged.push(Fact::QueueDeleted {
                        queue: QueueNumber(queue.number),
                        name: NAMES[name].into(),
                    });
                }
            }
            Step::Bind(name, key) => {
                if model.queues.contains_key(&name) && model.bindings.insert((name, key)) {
                    model.staged.push(Fact::Bound(bound(name, key)));
                }
            }
            Step::Unbind(name, key) => {
                if model.bindings.remove(&(name, key)) {
                    model.staged.push(Fact::Unbound(bound(name, key)));
                }
            }
            Step::Publish(queues, len) => {
                let queues: Vec<_> = (0..3).filter(|bit| queues & (1 << bit) != 0).collect();
                let fact = model.publish(&queues, len);
                model.staged.extend(fact);
            }
            Step::Settle(name, which) => {
                let fact = model.settle(name, which);
                model.staged.extend(fact);
            }
            Step::Purge(name, which) => {
                if let Some(queue) = model.queues.get_mut(&name) {
                    let seqs: Vec<_> = queue.messages.keys().copied().take(which).collect();
                    queue.messages.retain(|seq, _| !seqs.contains(seq));
                    model.staged.push(Fact::Purged {
                        queue: QueueNumber(queue.number),
                        places: seqs.iter().map(|seq| (Seq(*seq), Seq(*seq))).collect(),
                    });
                }
            }
            Step::MayDeliver(name, through) => {
                if let Some(queue) = model.queues.get_mut(&name) {
                    queue.through = through;
                    model.staged.push(Fact::MayDeliver {
                        queue: QueueNumber(queue.number),
                        through: Seq(through),
                    });
                }
            }
            Step::Transaction(name, len) => {
                let mut facts = Vec::new();
                facts.extend(model.settle(name, len));
                facts.extend(model.publish(&[name], len));
                facts.extend(model.publish(&[0, 1, 2], len / 2));
                if !facts.is_empty() {
                    model.staged.push(Fact::Together(facts));
                }
            }
            Step::Commit => {
                let facts = std::mem::take(&mut model.staged);
                if !facts.is_empty() {
                    one.commit(facts);
                }
            }
            Step::KeepHouse(times) => {
                for _ in 0..times {
                    one.log.housekeep().expect("kept house");
                }
            }
            Step::Reopen | Step::Close => {
                let facts = std::mem::take(&mut model.staged);
                if !facts.is_empty() {
                    one.commit(facts);
                }
                if matches!(step, Step::Close) {
                    one.log.close().expect("closed");
                }
                let opened = open(dir.path()).expect("a log that opens");
                assert_eq!(opened.cut, None);
                let lsn = one.lsn;
                one = One::with(opened.log);
                assert_eq!(one.lsn, lsn);
                check(&one, &model);
            }
        }
    }
    let facts = std::mem::take(&mut model.staged);
    if !facts.is_empty() {
        one.commit(facts);
    }
    one.keep_house();
    one = One::open(dir.path());
    check(&one, &model);
    let living: usize = model
        .queues
        .values()
        .flat_map(|queue| queue.messages.values())
        .map(|body| body.len() + 100)
        .sum();
    let most = 4 + 3 * living / SMALL as usize;
    assert!(
        logs(dir.path()).len() <= most,
        "{} segments, {most} at most",
        logs(dir.path()).len()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn a_log_knows_what_a_naive_model_knows(steps in prop::collection::vec(step(), 1..400)) {
        run(steps);
    }
}

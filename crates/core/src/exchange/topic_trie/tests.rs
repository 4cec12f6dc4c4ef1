use proptest::prelude::*;

use super::*;
use crate::ids::QueueId;
use crate::map::HashSeed;

fn destination(n: u64) -> Destination {
    Destination::Queue(QueueId::from(slotmap::KeyData::from_ffi(1 << 32 | n)))
}

fn matching(trie: &mut TopicTrie, key: &str) -> Vec<Destination> {
    let mut to = Vec::new();
    trie.matches(key, &mut to);
    to.sort();
    to.dedup();
    to
}

/// What the words mean, without any cleverness.
fn naive(pattern: &[&str], key: &[&str]) -> bool {
    match (pattern.split_first(), key.split_first()) {
        (None, None) => true,
        (Some((&"#", rest)), _) => {
            naive(rest, key) || (!key.is_empty() && naive(pattern, &key[1..]))
        }
        (Some((&"*", rest)), Some((_, key))) => naive(rest, key),
        (Some((word, rest)), Some((first, key))) => word == first && naive(rest, key),
        _ => false,
    }
}

#[test]
fn topic_patterns() {
    #[rustfmt::skip]
    let table = [
        // pattern       routing key      matches  why this row is here
        ("#",            "",              true,    "zero words"),
        ("*",            "",              false,   "the empty key has no words (as in RabbitMQ)"),
        ("",             "",              true,    "the empty pattern is the empty key"),
        ("",             "a",             false,   "and nothing else"),
        ("a.*.b",        "a..b",          true,    "an empty word is a word"),
        ("a.*",          "a",             false,   "* needs its word"),
        ("a.#",          "a",             true,    "# may take nothing"),
        ("a.#.c",        "a.b.b.c",       true,    "# in the middle, more than one word"),
        ("a.#.c",        "a.c.d",         false,   "what follows # must end the key"),
        ("#.#",          "a",             true,    "two # next to each other must not loop"),
        ("#.*",          "a.b",           true,    "# then at least one"),
        ("#.*",          "",              false,   "# then at least one"),
        ("A",            "a",             false,   "case counts"),
        ("*.*",          "a.",            true,    "a trailing dot ends with an empty word"),
    ];
    for (pattern, key, expected, why) in table {
        let mut trie = TopicTrie::new(HashSeed(1));
        trie.insert(pattern, destination(1));
        assert_eq!(
            !matching(&mut trie, key).is_empty(),
            expected,
            "{pattern:?} vs {key:?}: {why}"
        );
    }
}

#[test]
fn many_hashes_cost_words_times_nodes() {
    let mut trie = TopicTrie::new(HashSeed(1));
    trie.insert(&format!("{}x", "#.".repeat(60)), destination(1));
    let key = vec!["y"; 127].join(".");
    assert!(
        matching(&mut trie, &key).is_empty(),
        "a backtracking matcher would not come back"
    );
}

#[test]
fn an_emptied_trie_keeps_nothing() {
    let mut trie = TopicTrie::new(HashSeed(1));
    let patterns = ["a.b.c", "a.*", "#", "#.x.#", "a.b", ""];
    for pattern in patterns {
        trie.insert(pattern, destination(1));
        trie.insert(pattern, destination(2));
    }
    for pattern in patterns {
        trie.remove(pattern, destination(2));
        trie.remove(pattern, destination(1));
    }
    assert!(trie.words.is_empty());
    assert!(trie.edges.is_empty());
    assert_eq!(trie.free_nodes.len() + 1, trie.nodes.len());
    assert!(matching(&mut trie, "a.b").is_empty());
}

fn pattern() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "", "*", "#"]), 0..6)
        .prop_map(|words| words.join("."))
}

fn key() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", ""]), 0..7)
        .prop_map(|words| words.join("."))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn agrees_with_the_naive_matcher(
        patterns in prop::collection::vec(pattern(), 1..12),
        removed in prop::collection::vec(any::<bool>(), 12),
        key in key(),
    ) {
        let mut trie = TopicTrie::new(HashSeed(7));
        for (n, pattern) in patterns.iter().enumerate() {
            trie.insert(pattern, destination(n as u64));
        }
        for (n, pattern) in patterns.iter().enumerate().filter(|&(n, _)| removed[n]) {
            trie.remove(pattern, destination(n as u64));
        }
        let words: Vec<&str> = words(&key).collect();
        let mut expected: Vec<_> = patterns
            .iter()
            .enumerate()
            .filter(|&(n, p)| !removed[n] && naive(&self::words(p).collect::<Vec<_>>(), &words))
            .map(|(n, _)| destination(n as u64))
            .collect();
        expected.sort();
        prop_assert_eq!(matching(&mut trie, &key), expected);
    }
}

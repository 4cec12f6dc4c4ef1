//! Topic patterns as a trie, walked as a set of places at once.
//!
//! ```text
//!   patterns  a.*.c   a.#   #.c          (root) -- a -- (1) -- * -- (2) -- c -- [3]
//!                                          |             '---- # -- [4]
//!                                          '-- # -- (5) -- c -- [6]
//! ```
//!
//! Matching reads the key once, word by word, and keeps the set of nodes reached so far. A node is
//! visited at most once for each word, so the cost is bounded by words x nodes *reached*, whatever
//! the patterns: backtracking over `#.#.#.#.x` is not possible.
//!
//! Words are interned, so that an edge is a pair of small numbers and a word of a key is hashed
//! once, not once for each node.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::binding::Destination;
use crate::exchange::Destinations;
use crate::map::{HashSeed, Map};

/// What a node takes, in octets: itself and the edge that leads to it, in a table that is half
/// full.
const NODE_BYTES: usize = size_of::<Node>() + 2 * size_of::<((NodeId, u32), NodeId)>();

/// What a word takes beside its text, in octets.
const WORD_BYTES: usize = 2 * size_of::<(Arc<str>, Word)>() + 2 * size_of::<usize>();

/// Index of a node in `nodes`; the root is 0, which is nobody's child, so 0 also says "none".
type NodeId = u32;

const ROOT: NodeId = 0;
const NONE: NodeId = 0;

#[derive(Debug)]
pub(super) struct TopicTrie {
    words: Map<Arc<str>, Word>,
    edges: Map<(NodeId, u32), NodeId>,
    nodes: Vec<Node>,
    free_nodes: Vec<NodeId>,
    free_words: Vec<u32>,
    /// Counts steps of all walks: a node whose `reached` equals it is in the set already.
    step: u64,
    here: Vec<NodeId>,
    next: Vec<NodeId>,
}

#[derive(Debug)]
struct Word {
    id: u32,
    /// Edges that carry it.
    uses: u32,
}

#[derive(Debug, Default)]
struct Node {
    star: NodeId,
    hash: NodeId,
    /// This node is some other's `#` child: it stays reached whatever word comes.
    is_hash: bool,
    children: u32,
    destinations: Destinations,
    reached: u64,
}

impl TopicTrie {
    pub(super) fn new(hash_seed: HashSeed) -> Self {
        Self {
            words: hash_seed.map(),
            edges: hash_seed.map(),
            nodes: vec![Node::default()],
            free_nodes: Vec::new(),
            free_words: Vec::new(),
            step: 0,
            here: Vec::new(),
            next: Vec::new(),
        }
    }

    pub(super) fn insert(&mut self, pattern: &str, destination: Destination) {
        let mut node = ROOT;
        for word in words(pattern) {
            node = match self.child(node, word) {
                NONE => self.add_child(node, word),
                child => child,
            };
        }
        self.nodes[node as usize].destinations.add(destination);
    }

    pub(super) fn remove(&mut self, pattern: &str, destination: Destination) {
        let mut path = Vec::new();
        let mut node = ROOT;
        for word in words(pattern) {
            path.push((node, word));
            node = self.child(node, word);
            if node == NONE {
                return;
            }
        }
        self.nodes[node as usize].destinations.remove(destination);
        // Cut the branch back to the last node somebody else still needs.
        for (parent, word) in path.into_iter().rev() {
            let leaf = &self.nodes[node as usize];
            if leaf.children > 0 || !leaf.destinations.is_empty() {
                break;
            }
            self.remove_child(parent, word, node);
            node = parent;
        }
    }

    /// Adds the destinations of every pattern that matches the key. Returns how many nodes it
    /// visited.
    pub(super) fn matches(&mut self, routing_key: &str, to: &mut Vec<Destination>) -> usize {
        let mut here = std::mem::take(&mut self.here);
        let mut next = std::mem::take(&mut self.next);
        here.clear();
        self.step += 1;
        self.reach(ROOT, &mut here);
        let mut visited = here.len();
        for word in words(routing_key) {
            let word = self.words.get(word).map(|w| w.id);
            self.step += 1;
            next.clear();
            for &node in &here {
                if let Some(&child) = word.and_then(|id| self.edges.get(&(node, id))) {
                    self.reach(child, &mut next);
                }
                let Node { star, is_hash, .. } = self.nodes[node as usize];
                if star != NONE {
                    self.reach(star, &mut next);
                }
                if is_hash {
                    self.reach(node, &mut next);
                }
            }
            visited += next.len();
            std::mem::swap(&mut here, &mut next);
            if here.is_empty() {
                break;
            }
        }
        for &node in &here {
            self.nodes[node as usize].destinations.add_to(to);
        }
        self.here = here;
        self.next = next;
        visited
    }

    /// Memory that nodes and words in use take, in octets, about.
    pub(super) fn bytes(&self) -> usize {
        let nodes = self.nodes.len() - self.free_nodes.len() - 1; // the root is always there
        nodes * NODE_BYTES + self.words.len() * WORD_BYTES
    }

    /// How many patterns lead to each destination.
    pub(super) fn census(&self) -> BTreeMap<Destination, usize> {
        let mut census = BTreeMap::new();
        for node in &self.nodes {
            node.destinations.count_into(&mut census);
        }
        census
    }

    /// Adds a node to the set, and its `#` child, which matches no word at all as well.
    fn reach(&mut self, mut node: NodeId, set: &mut Vec<NodeId>) {
        loop {
            let entry = &mut self.nodes[node as usize];
            if entry.reached == self.step {
                return;
            }
            entry.reached = self.step;
            set.push(node);
            if entry.hash == NONE {
                return;
            }
            node = entry.hash;
        }
    }

    fn child(&self, parent: NodeId, word: &str) -> NodeId {
        match word {
            "*" => self.nodes[parent as usize].star,
            "#" => self.nodes[parent as usize].hash,
            word => {
                let edge = self
                    .words
                    .get(word)
                    .and_then(|w| self.edges.get(&(parent, w.id)));
                edge.copied().unwrap_or(NONE)
            }
        }
    }

    fn add_child(&mut self, parent: NodeId, word: &str) -> NodeId {
        let child = self.free_nodes.pop().unwrap_or_else(|| {
            self.nodes.push(Node::default());
            u32::try_from(self.nodes.len() - 1).expect("bindings are limited far below 2^32 words")
        });
        self.nodes[parent as usize].children += 1;
        match word {
            "*" => self.nodes[parent as usize].star = child,
            "#" => {
                self.nodes[parent as usize].hash = child;
                self.nodes[child as usize].is_hash = true;
            }
            word => {
                let id = self.use_word(word);
                self.edges.insert((parent, id), child);
            }
        }
        child
    }

    fn remove_child(&mut self, parent: NodeId, word: &str, child: NodeId) {
        self.nodes[parent as usize].children -= 1;
        match word {
            "*" => self.nodes[parent as usize].star = NONE,
            "#" => self.nodes[parent as usize].hash = NONE,
            word => {
                if let Some(id) = self.release_word(word) {
                    self.edges.remove(&(parent, id));
                }
            }
        }
        self.nodes[child as usize] = Node::default();
        self.free_nodes.push(child);
    }

    fn use_word(&mut self, word: &str) -> u32 {
        if let Some(known) = self.words.get_mut(word) {
            known.uses += 1;
            return known.id;
        }
        let fresh =
            u32::try_from(self.words.len()).expect("bindings are limited far below 2^32 words");
        let id = self.free_words.pop().unwrap_or(fresh);
        self.words.insert(Arc::from(word), Word { id, uses: 1 });
        id
    }

    fn release_word(&mut self, word: &str) -> Option<u32> {
        let known = self.words.get_mut(word)?;
        known.uses -= 1;
        let id = known.id;
        if known.uses == 0 {
            self.words.remove(word);
            self.free_words.push(id);
        }
        Some(id)
    }
}

/// The words of a key or pattern: between dots, empty ones included; the empty key has none.
fn words(key: &str) -> impl Iterator<Item = &str> {
    let rest = if key.is_empty() { None } else { Some(key) };
    rest.into_iter().flat_map(|key| key.split('.'))
}

#[cfg(test)]
mod tests;

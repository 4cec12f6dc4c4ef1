//! Where a message goes: from an exchange through bindings, other exchanges and alternates to
//! queues.
//!
//! Three levels, cheapest first:
//! 1. the channel's memo: "the same address as the last publish";
//! 2. the vhost's cache, a fixed number of slots by hash of the address. An address gets a slot
//!    only when it comes a second time, so that a stream of ever new keys costs no allocation;
//! 3. the walk over the exchanges, each passed at most once, so that cycles end.
//!
//! Memo and cache hold for one generation of the topology: whatever changes a route ends it.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::FixedState;

use crate::binding::Destination;
use crate::delay;
use crate::ids::{ExchangeId, QueueId};
use crate::map::HashSeed;
use crate::message::Message;
use crate::vhost::{Vhost, scanned};

/// Slots of the cache. Bounds its memory together with the length of addresses (512 B).
const CACHE_SLOTS: usize = 4_096;

/// Longest route that is remembered, so that neither the cache nor a memo for each of very many
/// channels takes much memory; the cost of longer ones is in the copying anyway.
const REMEMBERED_QUEUES_MAX: usize = 64;

/// The address of a publish and what came of it.
#[derive(Clone, Debug)]
pub(crate) struct Memo {
    generation: u64,
    address: Arc<[u8]>,
    pub(crate) exchange: ExchangeId,
    queues: Arc<[QueueId]>,
}

/// The state of routing that outlives a message.
#[derive(Debug)]
pub(crate) struct Router {
    hasher: FixedState,
    generation: u64,
    cache: Vec<CacheSlot>,
    pass: u64,
    /// Exchanges still to visit in the current walk.
    todo: Vec<ExchangeId>,
    found: Vec<Destination>,
    /// The result of the last routing.
    pub(crate) queues: Vec<QueueId>,
    /// Exchanges it came to that hold the message back for a while (`x-delay`): they route it then.
    pub(crate) delaying: Vec<ExchangeId>,
}

#[derive(Clone, Debug, Default)]
struct CacheSlot {
    /// Hash of the last address that missed here.
    seen: u64,
    memo: Option<Memo>,
}

impl Memo {
    fn fits(&self, generation: u64, address: &[u8]) -> bool {
        self.generation == generation && *self.address == *address
    }
}

impl Router {
    pub(crate) fn new(hash_seed: HashSeed) -> Self {
        Self {
            hasher: hash_seed.hasher(),
            generation: 1,
            cache: Vec::new(),
            pass: 0,
            todo: Vec::new(),
            found: Vec::new(),
            queues: Vec::new(),
            delaying: Vec::new(),
        }
    }

    /// Ends the validity of everything remembered.
    pub(crate) fn topology_changed(&mut self) {
        self.generation += 1;
    }

    fn slot(&self, address: &[u8]) -> (usize, u64) {
        let hash = self.hasher.hash_one(address);
        (hash as usize % CACHE_SLOTS, hash)
    }

    /// Whether the address of this slot and hash missed here before, in which case its route is
    /// worth remembering.
    fn comes_again(&mut self, (at, hash): (usize, u64)) -> bool {
        if self.cache.is_empty() {
            self.cache.resize(CACHE_SLOTS, CacheSlot::default());
        }
        let seen = &mut self.cache[at].seen;
        let again = *seen == hash;
        *seen = hash;
        again
    }

    /// Makes a remembered route the result.
    fn recall(&mut self, memo: &Memo) {
        self.delaying.clear();
        self.queues.clear();
        self.queues.extend_from_slice(&memo.queues);
    }
}

impl Vhost {
    /// The exchange of this address if it is the memo's, with the queues in `router.queues`.
    ///
    /// A channel keeps a memo only after its user's rights were checked.
    ///
    /// None means that rights are to be checked and a route is to be found.
    pub(crate) fn remembered_route(
        &mut self,
        memo: Option<&Memo>,
        message: &Message,
    ) -> Option<ExchangeId> {
        let memo = memo?;
        if !memo.fits(self.router.generation, message.address()) {
            return None;
        }
        self.router.recall(memo);
        Some(memo.exchange)
    }

    /// Routes by exchange and routing key and leaves the queues in `router.queues`.
    ///
    /// Returns what the channel may remember until the topology changes.
    pub(crate) fn route(&mut self, exchange: ExchangeId, message: &Message) -> Option<Memo> {
        let address = message.address();
        let slot = self.router.slot(address);
        if let Some(memo) = self
            .router
            .cache
            .get(slot.0)
            .and_then(|slot| slot.memo.as_ref())
            && memo.fits(self.router.generation, address)
        {
            let memo = memo.clone();
            self.router.recall(&memo);
            return Some(memo);
        }
        if !self.walk(exchange, &[message.routing_key()], message) {
            return None;
        }
        if !self.router.comes_again(slot) {
            return None;
        }
        if self.router.queues.len() > REMEMBERED_QUEUES_MAX {
            return None;
        }
        let memo = Memo {
            generation: self.router.generation,
            address: Arc::from(address),
            exchange,
            queues: Arc::from(self.router.queues.as_slice()),
        };
        self.router.cache[slot.0].memo = Some(memo.clone());
        Some(memo)
    }

    /// Routes under several keys at once (CC and BCC) and leaves the queues in `router.queues`,
    /// each once, and in `router.delaying` the exchanges on the way that hold the message back.
    /// Whether the first one does is for the caller to know. True if the keys alone decided.
    pub(crate) fn walk(&mut self, first: ExchangeId, keys: &[&str], message: &Message) -> bool {
        self.router.pass += 1;
        let pass = self.router.pass;
        self.router.queues.clear();
        self.router.delaying.clear();
        let mut todo = std::mem::take(&mut self.router.todo);
        let mut found = std::mem::take(&mut self.router.found);
        todo.clear();
        todo.push(first);
        let mut repeatable = true;
        while let Some(id) = todo.pop() {
            let Some(exchange) = self.exchanges.get_mut(id) else {
                continue;
            };
            if exchange.passed == pass {
                continue;
            }
            exchange.passed = pass;
            self.work += 1;
            repeatable &= !exchange.routes.looks_at_content();
            if exchange.delays && id != first {
                repeatable = false;
                if delay::x_delay(message).is_some() {
                    self.router.delaying.push(id);
                    continue;
                }
            }
            // A key more changes nothing for those that do not look at it.
            let keys = if exchange.routes.looks_at_key() {
                keys
            } else {
                &keys[..1]
            };
            let mut nowhere = true;
            for key in keys {
                found.clear();
                if id == self.default_exchange {
                    found.extend(self.queue_names.get(*key).map(|&id| Destination::Queue(id)));
                }
                self.work += 1 + exchange.routes.route(key, message, &mut found) as u64;
                nowhere &= found.is_empty();
                self.work += scanned(found.len());
                for destination in &found {
                    match *destination {
                        Destination::Exchange(next) => todo.push(next),
                        Destination::Queue(queue) => {
                            if let Some(entry) = self.queues.get_mut(queue)
                                && entry.reached != pass
                            {
                                entry.reached = pass;
                                self.router.queues.push(queue);
                            }
                        }
                    }
                }
            }
            if nowhere
                && let Some(alternate) = &exchange.alternate
                && let Some(&alternate) = self.exchange_names.get(alternate)
            {
                todo.push(alternate);
            }
        }
        self.router.todo = todo;
        self.router.found = found;
        repeatable
    }
}

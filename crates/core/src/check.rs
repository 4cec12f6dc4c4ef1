//! The invariants of a vhost, as assertions.
//!
//! For tests and the simulator, which call it after each step: it looks at everything there is.

use std::collections::{BTreeMap, BTreeSet};

use crate::binding::Destination;
use crate::channel::unacked::Delivery;
use crate::channel::{Channel, Mode};
use crate::connection::{Connection, Slot};
use crate::consumer::{Consumer, Standing};
use crate::effect::delivery_cost;
use crate::exchange::PREDECLARED;
use crate::ids::{ChannelKey, ConnectionId, ConsumerKey, QueueId, Seq};
use crate::queue::Queue;
use crate::queue::rules::Overflow;
use crate::vhost::Vhost;

/// Unsettled deliveries, as counted from the channels.
#[derive(Default)]
struct Unsettled {
    by_queue: BTreeMap<QueueId, BTreeSet<u64>>,
    by_consumer: BTreeMap<ConsumerKey, u32>,
}

impl Vhost {
    /// Asserts the invariants in the header of `vhost.rs`, and that whatever is kept in two places
    /// is the same in both.
    ///
    /// # Panics
    /// If one does not hold.
    pub(crate) fn check(&self) {
        for (id, connection) in &self.connections {
            self.check_connection(id, connection);
        }
        let mut unsettled = Unsettled::default();
        for (key, channel) in &self.channels {
            self.check_channel(key, channel, &mut unsettled);
        }
        for (key, consumer) in &self.consumers {
            let count = unsettled.by_consumer.get(&key).copied().unwrap_or_default();
            assert_eq!(consumer.unacked, count, "unacked of {}", consumer.tag);
            self.check_consumer(key, consumer);
        }
        for (id, queue) in &self.queues {
            let unacked = unsettled.by_queue.remove(&id).unwrap_or_default();
            self.check_queue(id, queue, &unacked);
        }
        self.check_exchanges();
        self.check_replies();
        self.check_log();
        self.delayed.check();
    }

    fn check_connection(&self, id: ConnectionId, connection: &Connection) {
        let mut numbers = BTreeSet::new();
        for key in connection.open_channels() {
            assert!(!connection.closing, "a closing connection has no channels");
            let channel = self.channels.get(key).expect("an open channel exists");
            assert_eq!(channel.connection, id);
            assert_eq!(connection.channel(channel.number), Slot::Open(key));
            let consumers = channel.consumers.values().map(|&key| {
                let consumer = self
                    .consumers
                    .get(key)
                    .expect("a channel's consumer exists");
                consumer.number
            });
            for number in consumers.chain(channel.reply.as_ref().map(|reply| reply.number)) {
                assert!(numbers.insert(number), "consumer number {number} twice");
            }
        }
        let channels = connection.open_channels();
        let parked = channels
            .iter()
            .filter_map(|key| self.channels[*key].parked.as_ref());
        assert_eq!(parked.clone().count(), connection.parked);
        let bytes: usize = parked.map(|parked| parked.bytes).sum();
        assert_eq!(bytes, connection.parked_bytes);
        assert!(connection.unread || !connection.paused);
        for queue in &connection.exclusive {
            let queue = self.queues.get(*queue).expect("an exclusive queue exists");
            assert_eq!(queue.exclusive, Some(id));
        }
        for (at, key) in connection.starved.iter().enumerate() {
            let consumer = self.consumers.get(*key).expect("a starved consumer exists");
            assert_eq!(consumer.standing, Standing::Starved);
            assert_eq!(self.channels[consumer.channel].connection, id);
            assert!(
                !connection.starved.iter().skip(at + 1).any(|k| k == key),
                "starved twice"
            );
        }
        if !connection.starved.is_empty() {
            assert!(
                connection.outbox_bytes > 0,
                "nobody starves before an empty outbox"
            );
        }
        assert!(!connection.paused || connection.publishes && !connection.closing);
    }

    fn check_channel(&self, key: ChannelKey, channel: &Channel, unsettled: &mut Unsettled) {
        let connection = self.connections.get(channel.connection);
        let connection = connection.expect("a channel's connection exists");
        assert_eq!(connection.channel(channel.number), Slot::Open(key));
        let held: &[_] = match &channel.mode {
            Mode::Tx(tx) => &tx.settles,
            Mode::Plain | Mode::Confirm(_) => &[],
        };
        let said = held
            .iter()
            .flat_map(|settle| settle.deliveries.iter().map(|(_, delivery)| delivery));
        let mut to_consumers = 0;
        for Delivery {
            queue,
            consumer,
            entry,
            at: _,
        } in channel.unacked.iter().chain(said)
        {
            assert!(entry.deliveries > 0);
            let fresh = unsettled
                .by_queue
                .entry(*queue)
                .or_default()
                .insert(entry.seq.0);
            assert!(fresh, "{} is unacked twice", entry.seq);
            if let Some(consumer) = consumer {
                *unsettled.by_consumer.entry(*consumer).or_default() += 1;
                to_consumers += 1;
            }
        }
        assert_eq!(channel.consumer_unacked, to_consumers);
        assert_eq!(channel.unacked.iter().count(), channel.unacked.len());
        for (tag, consumer) in &channel.consumers {
            let consumer = self
                .consumers
                .get(*consumer)
                .expect("a channel's consumer exists");
            assert_eq!((&consumer.tag, consumer.channel), (tag, key));
        }
        for (at, held) in channel.held.iter().enumerate() {
            let consumer = self.consumers.get(*held).expect("a held consumer exists");
            assert_eq!((consumer.standing, consumer.channel), (Standing::Held, key));
            assert!(
                !channel.held.iter().skip(at + 1).any(|k| k == held),
                "held twice"
            );
        }
        if !channel.held.is_empty() {
            assert!(!channel.below_prefetch(), "held without a reason");
        }
    }

    fn check_consumer(&self, key: ConsumerKey, consumer: &Consumer) {
        let channel = self.channels.get(consumer.channel);
        let channel = channel.expect("a consumer's channel exists");
        assert_eq!(channel.consumers.get(&consumer.tag), Some(&key));
        let queue = self
            .queues
            .get(consumer.queue)
            .expect("a consumer's queue exists");
        assert_eq!(
            queue
                .consumers
                .iter()
                .filter(|&&other| other == key)
                .count(),
            1
        );
        let in_ring = queue.ring.iter().filter(|&other| other == key).count();
        assert_eq!(in_ring, usize::from(consumer.standing == Standing::Ring));
        match consumer.standing {
            Standing::Ring => {}
            Standing::Blocked => assert!(!consumer.below_prefetch(), "blocked without a reason"),
            Standing::Held => assert!(channel.held.contains(&key)),
            Standing::Starved => {
                assert!(self.connections[channel.connection].starved.contains(&key));
            }
        }
    }

    fn check_queue(&self, id: QueueId, queue: &Queue, unacked: &BTreeSet<u64>) {
        assert_eq!(self.queue_names.get(&queue.name), Some(&id));
        queue.index.check();
        assert_eq!(queue.unacked, unacked.len(), "unacked of {}", queue.name);
        for seq in queue.index.seqs() {
            assert!(seq.number() <= queue.last_seq.0);
            assert!(!unacked.contains(&seq.0), "{seq} is both ready and unacked");
        }
        if let Some(retries) = &queue.retries {
            retries.check();
            let ready: BTreeSet<Seq> = queue.index.seqs().collect();
            for seq in retries.seqs() {
                let elsewhere = ready.contains(&seq) || unacked.contains(&seq.0);
                assert!(
                    !elsewhere,
                    "{seq} waits to be delivered again, and does not"
                );
            }
        }
        for key in &queue.consumers {
            assert_eq!(
                self.consumers.get(*key).map(|consumer| consumer.queue),
                Some(id)
            );
        }
        if let Some(deadlines) = &queue.deadlines {
            let retries = queue.retries.iter().flat_map(|retries| retries.seqs());
            let waiting: BTreeSet<Seq> = queue.index.seqs().chain(retries).collect();
            assert!(deadlines.waiting().all(|seq| waiting.contains(&seq)));
            assert!(deadlines.next().is_none() || deadlines.timer.is_some());
        }
        assert!(
            queue.rules.overflow != Overflow::DropHead
                || !queue.rules.is_over(queue.len(), queue.body_bytes())
                || queue.is_stalled(),
            "{} is too long",
            queue.name
        );
        for key in &queue.logged.waiting {
            let waits = |channel: &Channel| channel.parked.is_some();
            assert!(self.channels.get(*key).is_none_or(waits));
        }
        if let Some(front) = queue.index.front()
            && !queue.is_stalled()
        {
            let cost = delivery_cost(&front.message);
            assert!(
                queue.ring.iter().next().is_none(),
                "{}: a message of cost {cost} waits, and a consumer for it",
                queue.name
            );
        }
        if !queue.consumers.is_empty() && queue.is_stalled() {
            let logged = &queue.logged;
            let asked = logged.fetching || logged.mark_asked.is_some() || logged.holds();
            assert!(
                asked,
                "{} stands still, and nothing was asked for",
                queue.name
            );
        }
        assert!(!queue.exclusive_consumer || queue.consumers.len() == 1);
        if let Some(owner) = queue.exclusive {
            assert!(self.connections[owner].exclusive.contains(&id));
            assert!(!queue.durable);
        }
        if queue.expiry.after_ms.is_some() && queue.consumers.is_empty() {
            assert!(
                queue.expiry.timer.is_some(),
                "{} would never expire",
                queue.name
            );
        }
    }

    fn check_exchanges(&self) {
        assert_eq!(self.queue_names.len(), self.queues.len());
        assert_eq!(self.exchange_names.len(), self.exchanges.len());
        for (name, kind, _) in PREDECLARED {
            let id = self.exchange_names[name];
            assert_eq!(self.exchanges[id].kind, kind);
        }
        let mut bindings = 0;
        for (id, exchange) in &self.exchanges {
            assert_eq!(self.exchange_names.get(&exchange.name), Some(&id));
            let mut census: BTreeMap<Destination, usize> = BTreeMap::new();
            for binding in self.bindings.from(id) {
                *census.entry(binding.destination).or_default() += 1;
                assert!(self.bindings.to(binding.destination).contains(&binding));
                assert!(match binding.destination {
                    Destination::Queue(id) => self.queues.contains_key(id),
                    Destination::Exchange(id) => self.exchanges.contains_key(id),
                });
                bindings += 1;
            }
            assert_eq!(
                exchange.routes.census(),
                census,
                "bindings of {}",
                exchange.name
            );
        }
        assert_eq!(bindings, self.bindings.len());
        assert!(
            bindings > 0 || self.bindings.bytes() == 0,
            "nothing weighs nothing"
        );
    }

    fn check_replies(&self) {
        let waiting = self
            .channels
            .iter()
            .filter_map(|(key, channel)| Some((&channel.reply.as_ref()?.address, key)));
        let mut count = 0;
        for (address, key) in waiting {
            assert_eq!(self.replies.get(address), Some(&key));
            count += 1;
        }
        assert_eq!(count, self.replies.len());
    }

    fn check_log(&self) {
        assert!(
            self.durable <= self.lsn,
            "nothing is safe before it is recorded"
        );
        assert!(
            self.deaths.is_empty() || self.deaths.timed,
            "the dead are buried in the same turn"
        );
        assert!(
            self.confirming.is_empty(),
            "confirms leave at the end of the turn"
        );
        let mut awaiting = BTreeSet::new();
        for key in &self.confirms_waiting {
            assert!(awaiting.insert(*key), "a channel awaits the log twice");
        }
        for (key, channel) in &self.channels {
            assert_eq!(channel.confirming, awaiting.contains(&key));
            if let Some(parked) = &channel.parked {
                let waits = self.awaiting_log.contains(key)
                    || parked
                        .looks_for
                        .is_some_and(|number| self.delayed.looking.has_waiting(number, key))
                    || self
                        .queues
                        .values()
                        .any(|queue| queue.logged.waiting.contains(&key));
                assert!(waits, "a channel waits for nothing");
                assert_eq!(parked.bytes, parked.reckon());
            }
        }
    }
}

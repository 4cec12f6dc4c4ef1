//! The model's methods about messages: publishing, consuming, fetching, settling, transactions.

use leveret_codec::{
    BasicConsume, BasicConsumeOk, BasicGet, BasicGetEmpty, BasicNack, Method, ShortStr, TxCommitOk,
};
use leveret_core::{ConnectionId, Lsn, Outbound, Outcome};

use crate::model::{
    Channel, Checked, Consumer, Expected, Item, Mode, Model, Obeyed, Published, Queue, Trouble,
    Unacked, Unconfirmed, Violation,
};
use crate::violation;

impl Model {
    // ---- publishing ----

    pub(crate) fn publish(
        &mut self,
        id: ConnectionId,
        number: u16,
        message: u64,
        mandatory: bool,
    ) -> Obeyed {
        if self.channel(id, number).is_none() {
            return Ok(());
        }
        self.count("publishes", 1);
        if let Some(connection) = self.connections.get_mut(&id)
            && !connection.publishes
        {
            connection.publishes = true;
            self.apply_alarm(id);
        }
        let published = self.known(message)?;
        match self.topology.exchanges.get(&published.exchange) {
            None => return Err(Trouble::Refused(404)),
            Some(exchange) if exchange.internal => return Err(Trouble::Refused(403)),
            Some(_) => {}
        }
        if let Some(code) = published.refused {
            return Err(Trouble::Refused(code));
        }
        let keys: Vec<&str> = published.keys.iter().map(String::as_str).collect();
        let names = self
            .topology
            .route(&published.exchange, &keys, &published.headers, |name| {
                self.queues.contains_key(name)
            });
        let queues: Vec<u64> = names
            .iter()
            .filter_map(|name| self.queues.get(name))
            .map(|queue| queue.id)
            .collect();
        if let Some(channel) = self.channel(id, number)
            && let Mode::Tx { publishes, .. } = &mut channel.mode
        {
            publishes.push((message, mandatory, queues));
            return Ok(());
        }
        let (record, refused) = self.distribute(id, number, message, mandatory, &queues)?;
        let mut nack = None;
        if let Some(channel) = self.channel(id, number)
            && let Mode::Confirm { last, waiting } = &mut channel.mode
        {
            *last += 1;
            if refused {
                nack = Some(*last);
            } else {
                let unconfirmed = Unconfirmed {
                    id: message,
                    record,
                };
                waiting.insert(*last, unconfirmed);
            }
        }
        if let Some(delivery_tag) = nack {
            self.count("nacks", 1);
            let nack = BasicNack {
                delivery_tag,
                ..BasicNack::default()
            };
            self.answer(id, number, nack);
        }
        Ok(())
    }

    /// Puts a message into queues. Returns the record that makes it safe, if it needs one, and whether
    /// a queue said no.
    pub(crate) fn distribute(
        &mut self,
        id: ConnectionId,
        number: u16,
        message: u64,
        mandatory: bool,
        queues: &[u64],
    ) -> Result<(Option<Lsn>, bool), Violation> {
        let persistent = self.known(message)?.persistent;
        let there = self.queues.iter().filter(|(_, q)| queues.contains(&q.id));
        let there: Vec<String> = there.map(|(name, _)| name.clone()).collect();
        if there.is_empty() && mandatory {
            self.count("returns", 1);
            self.expect(id, Expected::Return(number, message));
        }
        let all = there.len();
        let taking = self.refuse_full(message, None, there)?;
        let refused = taking.len() < all;
        let durable = |name: &String| self.queues.get(name).is_some_and(|queue| queue.durable);
        let kept = persistent && taking.iter().any(durable);
        self.enter(&taking, message, None, Lsn(0));
        if !kept {
            return Ok((None, refused));
        }
        let record = self.records.get(&(message, String::new())).copied();
        let Some(record) = record else {
            return Err(violation!(
                "message {message} must survive a restart and has no record"
            ));
        };
        Ok((Some(record), refused))
    }

    pub(crate) fn known(&self, message: u64) -> Result<&Published, Violation> {
        let published = usize::try_from(message)
            .ok()
            .and_then(|at| self.published.get(at));
        published.ok_or_else(|| violation!("message {message} was never published"))
    }

    // ---- consuming ----

    pub(crate) fn consume(
        &mut self,
        id: ConnectionId,
        number: u16,
        m: &BasicConsume<'static>,
    ) -> Obeyed {
        let generated = m.consumer_tag.is_empty();
        let tag = if generated {
            let tag = self
                .seen
                .get(&id)
                .into_iter()
                .flatten()
                .find_map(|sent| match sent {
                    Outbound::Method { channel, method } if *channel == number => match &**method {
                        Method::BasicConsumeOk(ok) => Some(ok.consumer_tag.to_string()),
                        _ => None,
                    },
                    _ => None,
                });
            // Without an answer it was refused, and no tag was needed; or nobody is there any more.
            match self.connections.get(&id) {
                Some(connection) if connection.gone => format!("amq.ctag-{}", self.number()),
                _ => tag.unwrap_or_default(),
            }
        } else {
            m.consumer_tag.to_string()
        };
        let consumer_id = self.number();
        let Some(channel) = self.channel(id, number) else {
            return Ok(());
        };
        if channel.consumers.contains_key(&tag) {
            return Err(Trouble::Refused(530));
        }
        let prefetch = channel.prefetch;
        let name = self.expand(id, number, &m.queue)?;
        let queue = self.open_queue(id, &name)?;
        if queue.exclusive_consumer || m.exclusive && !queue.consumers.is_empty() {
            return Err(Trouble::Refused(403));
        }
        if generated && !tag.starts_with("amq.ctag-") {
            return Err(violation!("'{tag}' for a generated consumer tag").into());
        }
        queue.exclusive_consumer = m.exclusive;
        queue.consumers.push((id, number, tag.clone()));
        let priority = m
            .arguments
            .parse()
            .get("x-priority")
            .and_then(|v| v.as_i64());
        let consumer = Consumer {
            id: consumer_id,
            queue: name,
            no_ack: m.no_ack,
            priority: priority.unwrap_or_default(),
            prefetch,
        };
        if let Some(channel) = self.channel(id, number) {
            channel.consumers.insert(tag.clone(), consumer);
        }
        self.count("consumers", 1);
        if !m.no_wait {
            let consumer_tag = ShortStr::truncated(tag);
            self.answer(id, number, BasicConsumeOk { consumer_tag });
        }
        Ok(())
    }

    pub(crate) fn get(&mut self, id: ConnectionId, number: u16, get: BasicGet<'static>) -> Obeyed {
        let no_ack = get.no_ack;
        let name = self.expand(id, number, &get.queue)?;
        let now_ms = self.now_ms;
        self.open_queue(id, &name)?.used = now_ms;
        while self.eat_death()? {}
        let durable = self.durable;
        let queue = &*self.open_queue(id, &name)?;
        if let Some(front) = queue.ready.front().cloned() {
            let (number_of, beyond) = (queue.id, front.number() > queue.mark);
            let stands = queue.may_stand_still();
            let queue = self.queues.get(&name);
            let due = queue.and_then(|queue| self.is_due(queue, &front));
            let away = queue.is_some_and(|queue| self.may_be_away(queue, &front));
            let fetched = self.is_fetched(id, number, &front);
            if !fetched && (stands || due != Some(false) && away) {
                self.wait_for_message(id, number, number_of, get);
                return Ok(());
            }
            if fetched && (beyond || front.safe > durable || due == Some(true)) {
                return Err(
                    violation!("{front:?} of '{name}' may not be had yet, or any more").into(),
                );
            }
        }
        let queue = self.open_queue(id, &name)?;
        let (queue_id, left) = (queue.id, queue.ready.len().saturating_sub(1));
        let Some(mut item) = queue.ready.pop_front() else {
            self.answer(id, number, BasicGetEmpty::default());
            return Ok(());
        };
        let queue = self.queues.get(&name);
        let shown = queue.map(|queue| self.shown(queue, &item));
        let Some(channel) = self.channel(id, number) else {
            return Ok(());
        };
        channel.last_tag += 1;
        let tag = channel.last_tag;
        let redelivered = item.delivered;
        let Some(shown) = shown else { return Ok(()) };
        if !no_ack {
            item.delivered = true;
            let unacked = Unacked {
                queue: queue_id,
                consumer: None,
                item,
            };
            channel.unacked.insert(tag, unacked);
        }
        self.count("gets", 1);
        self.count("redeliveries", redelivered.into());
        let expected = Expected::Get {
            channel: number,
            shown,
            redelivered,
            tag,
            left,
        };
        self.expect(id, expected);
        Ok(())
    }

    // ---- settling ----

    pub(crate) fn settle(
        &mut self,
        id: ConnectionId,
        number: u16,
        tag: u64,
        multiple: bool,
        outcome: Outcome,
    ) -> Obeyed {
        let Some(channel) = self.channel(id, number) else {
            return Ok(());
        };
        let all = multiple && tag == 0;
        if !(all || channel.unacked.contains_key(&tag)) {
            return Err(Trouble::Refused(406));
        }
        let tags: Vec<u64> = match (multiple, tag) {
            (false, tag) => vec![tag],
            (true, 0) => channel.unacked.keys().copied().collect(),
            (true, tag) => channel.unacked.range(..=tag).map(|(&tag, _)| tag).collect(),
        };
        if let Mode::Tx { settles, .. } = &mut channel.mode {
            let taken = tags
                .iter()
                .filter_map(|tag| Some((*tag, channel.unacked.remove(tag)?)));
            settles.push((outcome, taken.collect()));
            return Ok(());
        }
        if is_requeue(outcome) {
            let back = tags
                .iter()
                .filter_map(|tag| channel.unacked.remove(tag))
                .collect();
            self.requeue(back, has_failed(outcome))?;
            return Ok(());
        }
        for tag in tags {
            // One by one: each makes room for another, in this order.
            let settled = self
                .channel(id, number)
                .and_then(|channel| channel.unacked.remove(&tag));
            if outcome != Outcome::Ack
                && let Some(unacked) = settled
            {
                self.reject(&unacked)?;
            }
            self.count("settled", 1);
            self.eat()?;
        }
        Ok(())
    }

    /// Somebody does not want a message, nor that it goes back to its queue.
    fn reject(&mut self, unacked: &Unacked) -> Checked {
        let mut queues = self.queues.iter();
        let queue = queues.find(|(_, queue)| queue.id == unacked.queue);
        if let Some(name) = queue.map(|(name, _)| name.clone()) {
            let Item {
                id, letter, seq, ..
            } = unacked.item;
            self.has_to_die(&name, Some(seq), (id, letter), "rejected")?;
        }
        Ok(())
    }

    pub(crate) fn recover(&mut self, id: ConnectionId, number: u16) -> Checked {
        if let Some(channel) = self.channel(id, number) {
            let back = std::mem::take(&mut channel.unacked).into_values().collect();
            self.requeue(back, false)?;
        }
        Ok(())
    }

    pub(crate) fn commit(&mut self, id: ConnectionId, number: u16) -> Obeyed {
        let Some(channel) = self.channel(id, number) else {
            return Ok(());
        };
        let Mode::Tx { publishes, .. } = &mut channel.mode else {
            return Err(Trouble::Refused(406));
        };
        let publishes = std::mem::take(publishes);
        let (before, dead_before) = (self.settled.len(), self.letters.len());
        let (mut published, mut settled, mut refused) = (Vec::new(), Vec::new(), false);
        for (message, mandatory, queues) in publishes {
            let (record, no) = self.distribute(id, number, message, mandatory, &queues)?;
            published.extend(record);
            refused |= no;
            self.eat()?;
        }
        while let Some(Channel {
            mode: Mode::Tx { settles, .. },
            ..
        }) = self.channel(id, number)
            && let Some((outcome, group)) = settles.first_mut()
        {
            let outcome = *outcome;
            if is_requeue(outcome) || group.is_empty() {
                let back = std::mem::take(group).into_values().collect();
                settles.remove(0);
                self.requeue(back, has_failed(outcome))?;
            } else if let Some((_, unacked)) = group.pop_first() {
                if outcome != Outcome::Ack {
                    while self.eat_death()? {}
                }
                let delivered = self.settled.len();
                if outcome == Outcome::Ack {
                    self.note_settled(unacked.queue, unacked.item.seq, unacked.item.id);
                } else {
                    self.reject(&unacked)?;
                }
                settled.extend(self.settled.split_off(delivered));
                self.count("settled", 1);
            }
            self.eat()?;
        }
        self.count("commits", 1);
        self.bury()?;
        // What died by it goes on in the same record, whether its death had to be recorded or not.
        published.extend(self.records_of_letters(dead_before));
        let delivered = self.settled.split_off(before);
        let due = self.record_of_commit(&published, &settled, &delivered)?;
        if due.is_some_and(|due| due > self.durable) {
            self.count("commits that waited", 1);
        }
        if refused {
            self.count("commits that a queue refused", 1);
            return Err(Trouble::Refused(406));
        }
        self.answer_when(id, number, due, TxCommitOk {});
        Ok(())
    }

    /// Puts messages back to their old places, but for those whose queue is gone.
    pub(crate) fn requeue(&mut self, back: Vec<Unacked>, failed: bool) -> Checked {
        self.count("requeues", back.len() as u64);
        let mut living = Vec::new();
        for mut unacked in back {
            unacked.item.failures += u32::from(failed);
            let mut queues = self.queues.iter();
            let queue = queues.find(|(_, queue)| queue.id == unacked.queue);
            let beyond = |queue: &Queue| queue.rules.is_beyond_limit(unacked.item.failures);
            match queue {
                Some((name, queue)) if failed && beyond(queue) => {
                    let name = name.clone();
                    let Item {
                        id, letter, seq, ..
                    } = unacked.item;
                    self.has_to_die(&name, Some(seq), (id, letter), "delivery_limit")?;
                }
                _ => living.push(unacked),
            }
        }
        for unacked in living {
            let queue = self
                .queues
                .values_mut()
                .find(|queue| queue.id == unacked.queue);
            if let Some(queue) = queue {
                queue.ready.push_back(unacked.item);
                queue.woken = true;
                queue.may_be_long = false;
                queue.ready.make_contiguous().sort_by_key(|item| item.seq);
            }
        }
        Ok(())
    }
}

/// Whether going back to its queue says that something went wrong.
fn has_failed(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Reject { requeue: true })
}

fn is_requeue(outcome: Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Nack { requeue: true } | Outcome::Reject { requeue: true }
    )
}

//! The model's methods about messages: publishing, consuming, fetching, settling, transactions.

use leveret_codec::{
    BasicConsume, BasicConsumeOk, BasicGet, BasicGetEmpty, Method, ShortStr, TxCommitOk,
};
use leveret_core::{ConnectionId, Lsn, Outbound, Outcome};

use crate::model::{
    Channel, Checked, Consumer, Expected, Item, Mode, Model, Obeyed, Published, Trouble, Unacked,
    Unconfirmed, Violation,
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
        let record = self.distribute(id, number, message, mandatory, &queues)?;
        if let Some(channel) = self.channel(id, number)
            && let Mode::Confirm { last, waiting } = &mut channel.mode
        {
            *last += 1;
            let unconfirmed = Unconfirmed {
                id: message,
                record,
            };
            waiting.insert(*last, unconfirmed);
        }
        Ok(())
    }

    /// Puts a message into queues. Returns the record that makes it safe, if it needs one.
    pub(crate) fn distribute(
        &mut self,
        id: ConnectionId,
        number: u16,
        message: u64,
        mandatory: bool,
        queues: &[u64],
    ) -> Result<Option<Lsn>, Violation> {
        let published = self.known(message)?;
        let (persistent, priority) = (published.persistent, published.priority);
        let (mut copies, mut kept, mut overtakes) = (0, false, 0);
        for queue in self.queues.values_mut().filter(|q| queues.contains(&q.id)) {
            let item = Item {
                id: message,
                seq: queue.place(priority),
                delivered: false,
            };
            let behind = queue.ready.partition_point(|other| other.seq < item.seq);
            overtakes += u64::from(behind < queue.ready.len());
            queue.ready.insert(behind, item);
            queue.woken |= queue.has_priorities();
            copies += 1;
            kept |= persistent && queue.durable;
        }
        self.count("copies", copies);
        self.count("overtakes", overtakes);
        if copies == 0 && mandatory {
            self.count("returns", 1);
            self.expect(id, Expected::Return(number, message));
        }
        if !kept {
            return Ok(None);
        }
        let record = self.records.get(&message).copied();
        record
            .map(Some)
            .ok_or_else(|| violation!("message {message} must survive a restart and has no record"))
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
        let queue = self.open_queue(id, &name)?;
        queue.used = now_ms;
        if queue.may_stand_still()
            && let Some(front) = queue.ready.front()
        {
            let (queue, beyond) = (queue.id, front.number() > queue.mark);
            let front = front.clone();
            if !self.is_fetched(id, number, &front) {
                self.wait_for_message(id, number, queue, get);
                return Ok(());
            }
            if beyond {
                return Err(violation!("{front:?} is beyond the mark of '{name}'").into());
            }
        }
        let queue = self.open_queue(id, &name)?;
        let (queue_id, left) = (queue.id, queue.ready.len().saturating_sub(1));
        let Some(mut item) = queue.ready.pop_front() else {
            self.answer(id, number, BasicGetEmpty::default());
            return Ok(());
        };
        let Some(channel) = self.channel(id, number) else {
            return Ok(());
        };
        channel.last_tag += 1;
        let tag = channel.last_tag;
        let (message, redelivered) = (item.id, item.delivered);
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
            id: message,
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
            self.requeue(back);
            return Ok(());
        }
        for tag in tags {
            // One by one: each makes room for another, in this order.
            if let Some(channel) = self.channel(id, number) {
                channel.unacked.remove(&tag);
            }
            self.count("settled", 1);
            self.eat()?;
        }
        Ok(())
    }

    pub(crate) fn recover(&mut self, id: ConnectionId, number: u16) -> Checked {
        if let Some(channel) = self.channel(id, number) {
            let back = std::mem::take(&mut channel.unacked).into_values().collect();
            self.requeue(back);
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
        let before = self.settled.len();
        let (mut published, mut settled) = (Vec::new(), Vec::new());
        for (message, mandatory, queues) in publishes {
            published.extend(self.distribute(id, number, message, mandatory, &queues)?);
            self.eat()?;
        }
        while let Some(Channel {
            mode: Mode::Tx { settles, .. },
            ..
        }) = self.channel(id, number)
            && let Some((outcome, group)) = settles.first_mut()
        {
            if is_requeue(*outcome) || group.is_empty() {
                let back = std::mem::take(group).into_values().collect();
                settles.remove(0);
                self.requeue(back);
            } else if let Some((_, unacked)) = group.pop_first() {
                let delivered = self.settled.len();
                self.note_settled(unacked.queue, unacked.item.seq, unacked.item.id);
                settled.extend(self.settled.split_off(delivered));
                self.count("settled", 1);
            }
            self.eat()?;
        }
        self.count("commits", 1);
        let delivered = self.settled.split_off(before);
        let due = self.record_of_commit(&published, &settled, &delivered)?;
        if due.is_some_and(|due| due > self.durable) {
            self.count("commits that waited", 1);
        }
        self.answer_when(id, number, due, TxCommitOk {});
        Ok(())
    }

    /// Puts messages back to their old places, but for those whose queue is gone.
    pub(crate) fn requeue(&mut self, back: Vec<Unacked>) {
        self.count("requeues", back.len() as u64);
        for unacked in back {
            let queue = self
                .queues
                .values_mut()
                .find(|queue| queue.id == unacked.queue);
            if let Some(queue) = queue {
                queue.ready.push_back(unacked.item);
                queue.woken = true;
                queue.ready.make_contiguous().sort_by_key(|item| item.seq);
            }
        }
    }
}

fn is_requeue(outcome: Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Nack { requeue: true } | Outcome::Reject { requeue: true }
    )
}

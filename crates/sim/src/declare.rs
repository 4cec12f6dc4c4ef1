//! The model's methods about queues, exchanges and bindings.

use leveret_codec::{
    ExchangeBind, ExchangeBindOk, ExchangeDeclare, ExchangeDeclareOk, ExchangeDelete,
    ExchangeDeleteOk, ExchangeUnbind, ExchangeUnbindOk, Method, QueueBindOk, QueueDeclare,
    QueueDeclareOk, QueueDelete, QueueDeleteOk, QueuePurge, QueuePurgeOk, QueueUnbindOk, RawTable,
    ShortStr,
};
use leveret_core::{ConnectionId, Fact, Lsn, QueueNumber};

use crate::model::{Model, Obeyed, Queue, Trouble};
use crate::rules::Rules;
use crate::topology::{Binding, Exchange};
use crate::violation;

impl Model {
    pub(crate) fn declare_method(
        &mut self,
        id: ConnectionId,
        number: u16,
        method: Method<'static>,
    ) -> Obeyed {
        match method {
            Method::QueueDeclare(m) => self.queue_declare(id, number, &m),
            Method::QueueDelete(m) => self.queue_delete(id, number, &m),
            Method::QueuePurge(m) => self.queue_purge(id, number, &m),
            Method::QueueBind(m) => {
                let (queue, key) = self.queue_and_key(id, number, &m.queue, &m.routing_key)?;
                let due = self.bind(id, binding(&m.exchange, &queue, true, &key, &m.arguments))?;
                if !m.no_wait {
                    self.answer_when(id, number, due, QueueBindOk {});
                }
                Ok(())
            }
            Method::QueueUnbind(m) => {
                let (queue, key) = self.queue_and_key(id, number, &m.queue, &m.routing_key)?;
                let binding = binding(&m.exchange, &queue, true, &key, &m.arguments);
                let due = self.unbind(id, &binding)?;
                self.answer_when(id, number, due, QueueUnbindOk {});
                Ok(())
            }
            Method::ExchangeDeclare(m) => self.exchange_declare(id, number, &m),
            Method::ExchangeDelete(m) => self.exchange_delete(id, number, &m),
            Method::ExchangeBind(m) => self.exchange_bind(id, number, &m),
            Method::ExchangeUnbind(m) => self.exchange_unbind(id, number, &m),
            other => Err(violation!("the model does not know {}", other.name()).into()),
        }
    }

    /// The queue a name stands for.
    pub(crate) fn expand(
        &mut self,
        id: ConnectionId,
        number: u16,
        name: &str,
    ) -> Result<String, Trouble> {
        if !name.is_empty() {
            return Ok(name.to_owned());
        }
        let last = self
            .channel(id, number)
            .and_then(|channel| channel.last_queue.clone());
        last.ok_or(Trouble::Refused(404))
    }

    /// A queue that exists and is not somebody else's.
    pub(crate) fn open_queue(
        &mut self,
        id: ConnectionId,
        name: &str,
    ) -> Result<&mut Queue, Trouble> {
        let queue = self.queues.get_mut(name).ok_or(Trouble::Refused(404))?;
        if queue.exclusive.is_some_and(|owner| owner != id) {
            return Err(Trouble::Refused(405));
        }
        Ok(queue)
    }

    fn queue_declare(&mut self, id: ConnectionId, number: u16, m: &QueueDeclare<'_>) -> Obeyed {
        let name = if m.queue.is_empty() && !m.passive {
            self.generated_name()
        } else {
            m.queue.to_string()
        };
        let arguments = m.arguments.parse();
        let integer = |name| arguments.get(name).and_then(|value| value.as_i64());
        let expires = integer("x-expires").and_then(|ms| u64::try_from(ms).ok());
        let priority_max = integer("x-max-priority").and_then(|max| u8::try_from(max).ok());
        let rules = Rules::of(&arguments);
        let exclusive = m.exclusive.then_some(id);
        let durable = m.durable && !m.exclusive;
        if m.passive {
            self.open_queue(id, &name)?;
        } else if m.queue.starts_with("amq.") {
            return Err(Trouble::Refused(403));
        } else if let Some(queue) = self.queues.get(&name) {
            if m.queue.is_empty() {
                return Err(violation!("'{name}' was generated twice").into());
            }
            if queue.exclusive != exclusive {
                return Err(Trouble::Refused(405));
            }
            let current = (queue.durable, queue.auto_delete, queue.expires);
            let same = queue.priority_max == priority_max && queue.rules == rules;
            if current != (durable, m.auto_delete, expires) || !same {
                return Err(Trouble::Refused(406));
            }
        } else {
            if m.queue.is_empty() && !name.starts_with("amq.gen-") {
                return Err(violation!("'{name}' for a generated name").into());
            }
            let mut number = None;
            if durable {
                let is = |fact: &Fact| matches!(fact, Fact::QueueDeclared { name: made, .. } if **made == *name);
                let lsn = self.record_of("a queue", is)?;
                self.defined = self.defined.max(Some(lsn));
                number = Some(QueueNumber(lsn.0));
            }
            let queue = Queue {
                id: self.number(),
                durable,
                auto_delete: m.auto_delete,
                exclusive,
                expires,
                priority_max,
                rules,
                may_be_long: false,
                held: Vec::new(),
                used: 0,
                ready: Default::default(),
                consumers: Vec::new(),
                exclusive_consumer: false,
                last_seq: 0,
                last_of: Default::default(),
                started: 0,
                number,
                mark: leveret_core::record::MAY_DELIVER_FIRST,
                marks: Vec::new(),
                away_from: None,
                woken: false,
            };
            self.count("queues", 1);
            self.queues.insert(name.clone(), queue);
        }
        let now_ms = self.now_ms;
        let queue = self.open_queue(id, &name)?;
        queue.used = now_ms;
        let durable = queue.durable;
        let ok = QueueDeclareOk {
            queue: ShortStr::truncated(name.clone()),
            message_count: queue.ready.len() as u32,
            consumer_count: queue.consumers.len() as u32,
        };
        if let Some(channel) = self.channel(id, number) {
            channel.last_queue = Some(name);
        }
        if !m.no_wait {
            let due = self.defined.filter(|_| durable);
            self.answer_when(id, number, due, ok);
        }
        Ok(())
    }

    /// The name the broker made up.
    fn generated_name(&mut self) -> String {
        let at = self
            .created
            .iter()
            .position(|name| name.starts_with("amq."));
        at.and_then(|at| self.created.remove(at))
            .unwrap_or_default()
    }

    fn queue_delete(&mut self, id: ConnectionId, number: u16, m: &QueueDelete<'_>) -> Obeyed {
        let name = self.expand(id, number, &m.queue)?;
        let (mut ready, mut durable) = (0, false);
        if self.queues.contains_key(&name) {
            let queue = self.open_queue(id, &name)?;
            if m.if_unused && !queue.consumers.is_empty() || m.if_empty && !queue.ready.is_empty() {
                return Err(Trouble::Refused(406));
            }
            (ready, durable) = (queue.ready.len(), queue.durable);
            self.count("deleted queues", 1);
        }
        if !self.queues.contains_key(&name) {
            if !m.no_wait {
                let due = self.removed;
                self.answer_when(id, number, due, QueueDeleteOk::default());
            }
            return Ok(());
        }
        // The answer comes before what its consumers are told.
        let waits = durable && !m.no_wait;
        if waits {
            self.wait(id, number, Lsn(u64::MAX));
        }
        if !m.no_wait {
            let message_count = ready as u32;
            self.answer(id, number, QueueDeleteOk { message_count });
        }
        let last = self.delete_queue(&name)?;
        let channel = self.channel(id, number).filter(|_| waits);
        if let Some(waits) = channel.and_then(|channel| channel.waits.as_mut())
            && let Some(last) = last
        {
            waits.due = last;
        }
        Ok(())
    }

    fn queue_purge(&mut self, id: ConnectionId, number: u16, m: &QueuePurge<'_>) -> Obeyed {
        let name = self.expand(id, number, &m.queue)?;
        let queue = self.open_queue(id, &name)?;
        let message_count = std::mem::take(&mut queue.ready).len() as u32;
        queue.woken = true;
        let durable = queue.durable;
        let recorded = queue.number.filter(|_| message_count > 0);
        let mut due = self.removed.filter(|_| durable);
        if let Some(number) = recorded {
            let is = |fact: &Fact| matches!(fact, Fact::Purged { queue, .. } if *queue == number);
            due = Some(self.record_of("a purge", is)?);
            self.removed = self.removed.max(due);
        }
        self.count("purged", message_count.into());
        if !m.no_wait {
            self.answer_when(id, number, due, QueuePurgeOk { message_count });
        }
        Ok(())
    }

    fn queue_and_key(
        &mut self,
        id: ConnectionId,
        number: u16,
        queue: &str,
        key: &str,
    ) -> Result<(String, String), Trouble> {
        let name = self.expand(id, number, queue)?;
        let both_empty = queue.is_empty() && key.is_empty();
        let key = if both_empty {
            name.clone()
        } else {
            key.to_owned()
        };
        Ok((name, key))
    }

    /// Returns the record that makes it last, if it does.
    fn bind(&mut self, id: ConnectionId, binding: Binding) -> Result<Option<Lsn>, Trouble> {
        self.check_ends(&binding)?;
        let source = self.topology.exchanges.get(&binding.source);
        let kind = source.ok_or(Trouble::Refused(404))?.kind.clone();
        if binding.to_queue {
            if !self.queues.contains_key(&binding.destination) {
                return Err(Trouble::Refused(404));
            }
        } else if !self.topology.exchanges.contains_key(&binding.destination) {
            return Err(Trouble::Refused(404));
        }
        let mode = binding.arguments.iter().find(|(key, _)| key == "x-match");
        let known = ["all", "any", "all-with-x", "any-with-x"];
        let mode = mode.and_then(|(_, value)| value.as_str());
        if kind == "headers" && mode.is_some_and(|mode| !known.contains(&mode)) {
            return Err(Trouble::Refused(406));
        }
        if binding.to_queue {
            self.open_queue(id, &binding.destination)?;
        }
        let due = if self.is_durable(&binding) {
            self.defined
        } else {
            None
        };
        self.count("binds", 1);
        if self.topology.bindings.contains(&binding) {
            return Ok(due);
        }
        let made = self.record_of_binding(&binding, |fact| match fact {
            Fact::Bound(fact) => Some(fact),
            _ => None,
        })?;
        self.defined = self.defined.max(made);
        self.topology.bindings.push(binding);
        Ok(made)
    }

    /// Returns the record that makes it last, if it does.
    fn unbind(&mut self, id: ConnectionId, binding: &Binding) -> Result<Option<Lsn>, Trouble> {
        self.check_ends(binding)?;
        // Somebody else may have removed it.
        let mut last = self.removed;
        if self.topology.bindings.contains(binding) {
            if binding.to_queue {
                self.open_queue(id, &binding.destination)?;
            }
            last = self.record_of_binding(binding, |fact| match fact {
                Fact::Unbound(fact) => Some(fact),
                _ => None,
            })?;
            self.removed = self.removed.max(last);
            let exchanges = self.topology.unbind(|other| other == binding);
            last = last.max(self.record_of_ends(&exchanges)?);
            self.count("unbinds", 1);
        }
        Ok(last)
    }

    fn check_ends(&self, binding: &Binding) -> Obeyed {
        if binding.source.is_empty() || !binding.to_queue && binding.destination.is_empty() {
            return Err(Trouble::Refused(403));
        }
        Ok(())
    }

    fn exchange_bind(&mut self, id: ConnectionId, number: u16, m: &ExchangeBind<'_>) -> Obeyed {
        let binding = binding(
            &m.source,
            &m.destination,
            false,
            &m.routing_key,
            &m.arguments,
        );
        let due = self.bind(id, binding)?;
        if !m.no_wait {
            self.answer_when(id, number, due, ExchangeBindOk {});
        }
        Ok(())
    }

    fn exchange_unbind(&mut self, id: ConnectionId, number: u16, m: &ExchangeUnbind<'_>) -> Obeyed {
        let binding = binding(
            &m.source,
            &m.destination,
            false,
            &m.routing_key,
            &m.arguments,
        );
        let due = self.unbind(id, &binding)?;
        if !m.no_wait {
            self.answer_when(id, number, due, ExchangeUnbindOk {});
        }
        Ok(())
    }

    fn exchange_declare(
        &mut self,
        id: ConnectionId,
        number: u16,
        m: &ExchangeDeclare<'_>,
    ) -> Obeyed {
        let existing = self.topology.exchanges.get(m.exchange.as_str());
        if m.passive {
            if m.exchange.is_empty() {
                return Err(Trouble::Refused(403));
            }
            existing.ok_or(Trouble::Refused(404))?;
        } else {
            let alternate = m.arguments.parse();
            let alternate = alternate.get("alternate-exchange").and_then(|v| v.as_str());
            let exchange = Exchange {
                kind: m.kind.to_string(),
                durable: m.durable,
                auto_delete: m.auto_delete,
                internal: m.internal,
                alternate: alternate.map(str::to_owned),
            };
            if !["direct", "fanout", "topic", "headers"].contains(&m.kind.as_str()) {
                return Err(Trouble::Refused(406));
            }
            if m.exchange.is_empty() {
                return Err(Trouble::Refused(403));
            }
            match existing {
                Some(existing) if *existing == exchange => {}
                Some(_) => return Err(Trouble::Refused(406)),
                None if m.exchange.starts_with("amq.") => return Err(Trouble::Refused(403)),
                None => {
                    let name = m.exchange.to_string();
                    if m.durable {
                        let is = |fact: &Fact| matches!(fact, Fact::ExchangeDeclared { name: made, .. } if **made == *name);
                        let lsn = self.record_of("an exchange", is)?;
                        self.defined = self.defined.max(Some(lsn));
                    }
                    self.topology.exchanges.insert(name, exchange);
                    self.count("exchanges", 1);
                }
            }
        }
        if !m.no_wait {
            let exchange = self.topology.exchanges.get(m.exchange.as_str());
            let durable = exchange.is_some_and(|exchange| exchange.durable);
            let due = self.defined.filter(|_| durable);
            self.answer_when(id, number, due, ExchangeDeclareOk {});
        }
        Ok(())
    }

    fn exchange_delete(&mut self, id: ConnectionId, number: u16, m: &ExchangeDelete<'_>) -> Obeyed {
        if m.exchange.is_empty() || m.exchange.starts_with("amq.") {
            return Err(Trouble::Refused(403));
        }
        let used = self
            .topology
            .bindings
            .iter()
            .any(|b| *b.source == *m.exchange);
        if m.if_unused && used {
            return Err(Trouble::Refused(406));
        }
        let was_there = self.topology.exchanges.contains_key(m.exchange.as_str());
        let gone = self.topology.delete(&m.exchange);
        let ends = self.record_of_ends(&gone)?;
        let due = if was_there { ends } else { self.removed };
        if !m.no_wait {
            self.answer_when(id, number, due, ExchangeDeleteOk {});
        }
        Ok(())
    }
}

fn binding(
    source: &str,
    destination: &str,
    to_queue: bool,
    key: &str,
    arguments: &RawTable<'_>,
) -> Binding {
    let arguments = arguments.parse();
    let mut arguments: Vec<_> = arguments
        .iter()
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .collect();
    arguments.sort_by(|(a, _), (b, _)| a.cmp(b));
    Binding {
        source: source.to_owned(),
        destination: destination.to_owned(),
        to_queue,
        key: key.to_owned(),
        arguments,
    }
}

//! How queues, exchanges and bindings end, and what ends with them.

use std::sync::Arc;

use crate::binding::{Binding, Destination};
use crate::effect::Effects;
use crate::event::Event;
use crate::ids::{ExchangeId, QueueId};
use crate::record::{BindingFact, Fact};
use crate::timer::Timer;
use crate::vhost::{Vhost, scanned};

impl Vhost {
    /// Removes a queue with its messages and bindings and cancels its consumers.
    pub(crate) fn delete_queue(&mut self, id: QueueId, fx: &mut Effects) {
        self.bury_all(fx); // what died in it before is not lost with it
        let consumers = self
            .queues
            .get(id)
            .map(|queue| queue.consumers.clone())
            .unwrap_or_default();
        self.work += 1 + consumers.len() as u64;
        for &key in &consumers {
            self.notify_cancelled(key, fx);
        }
        self.end_consumers(&consumers);
        self.wake_getters(id);
        let Some(mut queue) = self.queues.remove(id) else {
            return;
        };
        self.queue_names.remove(&queue.name);
        self.router.topology_changed();
        if let Some(timer) = queue.expiry.timer.take() {
            self.timers.cancel(timer);
        }
        if let Some((_, timer)) = queue.retries.as_mut().and_then(|r| r.timer.take()) {
            self.timers.cancel(timer);
        }
        if let Some((_, timer)) = queue.deadlines.as_mut().and_then(|d| d.timer.take()) {
            self.timers.cancel(timer);
        }
        if let Some(connection) = queue
            .exclusive
            .and_then(|owner| self.connections.get_mut(owner))
        {
            connection.exclusive.remove(&id);
        }
        let ready = queue.len();
        self.work += scanned(ready);
        let removed = queue.take_all();
        let noted = self.noted_of_removal(&removed, fx);
        if queue.durable {
            let deleted = Fact::QueueDeleted {
                queue: queue.logged.number,
                name: Arc::clone(&queue.name),
            };
            self.remove(std::iter::once(deleted).chain(noted), fx);
        } else {
            self.record_all(noted, fx);
        }
        if !removed.is_empty() {
            fx.garbage.push(removed);
        }
        fx.swaps.extend(queue.logged.forget_swapped(id));
        for binding in self.bindings.to(Destination::Queue(id)) {
            self.remove_binding(&binding, fx);
        }
        self.metrics.queues_deleted += 1;
        self.metrics.purged += ready as u64;
        fx.events.push(Event::QueueDeleted {
            queue: Arc::clone(&queue.name),
            ready,
        });
    }

    /// After a consumer left: an auto-delete queue goes with its last one, others start to expire.
    pub(crate) fn delete_if_unused(&mut self, id: QueueId, fx: &mut Effects) {
        match self.queues.get(id) {
            Some(queue) if queue.consumers.is_empty() && queue.auto_delete => {
                self.delete_queue(id, fx);
            }
            Some(_) => self.touch_queue(id),
            None => {}
        }
    }

    /// The queue was used: its `x-expires` starts anew.
    ///
    /// One timer a queue: a use only notes the time, and the timer, when due, looks whether that
    /// was long enough ago.
    pub(crate) fn touch_queue(&mut self, id: QueueId) {
        let now = self.now.mono;
        if let Some(queue) = self.queues.get_mut(id)
            && let Some(after_ms) = queue.expiry.after_ms
        {
            queue.expiry.used = now;
            if queue.expiry.timer.is_none() {
                let timer = self
                    .timers
                    .set(now.plus_ms(after_ms), Timer::QueueExpiry(id));
                queue.expiry.timer = Some(timer);
            }
        }
    }

    /// The queue's timer is due: it goes if nobody used it for long enough and has no consumers.
    pub(crate) fn expire_queue(&mut self, id: QueueId, fx: &mut Effects) {
        let Some(queue) = self.queues.get_mut(id) else {
            return;
        };
        queue.expiry.timer = None;
        let Some(after_ms) = queue.expiry.after_ms else {
            return;
        };
        if !queue.consumers.is_empty() {
            return; // the last one to leave starts the timer again
        }
        let due = queue.expiry.used.plus_ms(after_ms);
        if due <= self.now.mono {
            self.delete_queue(id, fx);
        } else {
            queue.expiry.timer = Some(self.timers.set(due, Timer::QueueExpiry(id)));
        }
    }

    /// Removes an exchange with all bindings from and to it.
    ///
    /// Auto-delete exchanges whose last binding ends with it go as well, and so on: one after the
    /// other, because a client can make such a chain as long as it likes.
    pub(crate) fn delete_exchange(&mut self, id: ExchangeId, fx: &mut Effects) {
        let mut doomed = vec![id];
        while let Some(id) = doomed.pop() {
            // Bindings from it go silently: its own end says so.
            for binding in self.bindings.from(id) {
                self.work += 1;
                self.bindings.remove(&binding);
            }
            self.bindings.weigh(id, 0);
            let Some(exchange) = self.exchanges.remove(id) else {
                continue;
            };
            self.exchange_names.remove(&exchange.name);
            self.work += 1;
            self.router.topology_changed();
            if exchange.durable {
                let name = Arc::clone(&exchange.name);
                self.remove([Fact::ExchangeDeleted { name }], fx);
            }
            fx.events.push(Event::ExchangeDeleted {
                exchange: exchange.name,
            });
            for binding in self.bindings.to(Destination::Exchange(id)) {
                doomed.extend(self.unbind(&binding, fx));
            }
        }
    }

    /// Removes a binding, and its source if that was the last one of an auto-delete exchange.
    pub(crate) fn remove_binding(&mut self, binding: &Binding, fx: &mut Effects) {
        if let Some(unused) = self.unbind(binding, fx) {
            self.delete_exchange(unused, fx);
        }
    }

    /// Removes a binding; returns its source if that is to go now.
    fn unbind(&mut self, binding: &Binding, fx: &mut Effects) -> Option<ExchangeId> {
        if !self.bindings.remove(binding) {
            return None;
        }
        self.work += 1;
        if let Some(fact) = self.binding_fact(binding) {
            self.remove([Fact::Unbound(fact)], fx);
        }
        self.router.topology_changed();
        let source = self.exchanges.get_mut(binding.source)?;
        source.routes.unbind(binding);
        self.bindings.weigh(binding.source, source.routes.bytes());
        let unused = source.auto_delete && !self.bindings.any_from(binding.source);
        unused.then_some(binding.source)
    }

    /// The binding by names, if it is durable: if both its ends are.
    pub(crate) fn binding_fact(&self, binding: &Binding) -> Option<BindingFact> {
        let source = self
            .exchanges
            .get(binding.source)
            .filter(|exchange| exchange.durable)?;
        let (destination, to_queue) = match binding.destination {
            Destination::Queue(id) => {
                let queue = self.queues.get(id).filter(|queue| queue.durable)?;
                (Arc::clone(&queue.name), true)
            }
            Destination::Exchange(id) => {
                let exchange = self.exchanges.get(id).filter(|exchange| exchange.durable)?;
                (Arc::clone(&exchange.name), false)
            }
        };
        Some(BindingFact {
            source: Arc::clone(&source.name),
            destination,
            to_queue,
            routing_key: Arc::clone(&binding.routing_key),
            arguments: Arc::clone(&binding.arguments),
        })
    }
}

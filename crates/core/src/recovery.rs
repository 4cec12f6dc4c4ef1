//! A vhost as its log knows it.

use std::sync::Arc;

use leveret_codec::{FieldTable, FieldValue};

use crate::binding::{Binding, Destination};
use crate::delayed::QUEUE;
use crate::exchange::{Exchange, make};
use crate::ids::{Lsn, QueueNumber, Seq};
use crate::log::{LogError, Recovered, RecoveredQueue};
use crate::queue::Queue;
use crate::queue::levels::Ready;
use crate::queue::logged::Logged;
use crate::record::{BindingFact, Fact, MAY_DELIVER_FIRST};
use crate::vhost::Vhost;

impl Vhost {
    /// Takes over what the log knows. The vhost must be new.
    ///
    /// # Errors
    /// `Corrupt` if the definitions contradict each other.
    pub(crate) fn recover(&mut self, recovered: Recovered) -> Result<(), LogError> {
        self.lsn = recovered.last;
        self.durable = recovered.last;
        self.delayed.started = Some(self.now);
        for (lsn, fact) in recovered.definitions {
            self.redefine(lsn, &fact)?;
        }
        let numbers: std::collections::BTreeMap<_, _> = self
            .queues
            .iter()
            .map(|(id, queue)| (queue.logged.number, id))
            .collect();
        for kept in recovered.queues {
            if Some(kept.number) == self.delays_number() {
                check_order(&kept)?;
                self.recover_delayed(&kept);
                continue;
            }
            let queue = numbers.get(&kept.number);
            let Some((id, queue)) = queue.and_then(|&id| Some((id, self.queues.get_mut(id)?)))
            else {
                let number = kept.number;
                return Err(corrupt(format_args!(
                    "messages of queue {number}, which is not there"
                )));
            };
            check_places(&kept, queue.rules.priority_max.is_some())?;
            if queue.last_seq > Seq(0) || !queue.index.is_empty() {
                let number = kept.number;
                return Err(corrupt(format_args!("messages of queue {number} twice")));
            }
            queue.logged = Logged::recovered(kept.number, kept.delivered_through, kept.last);
            queue.last_seq = kept.last;
            queue.index = Ready::recovered(queue.rules.priority_max, kept.runs, kept.last);
            let now = self.now;
            self.recover_retries(id, &kept.retries);
            let Some(queue) = self.queues.get_mut(id) else {
                continue;
            };
            let levels = queue.index.levels_away();
            if !levels.is_empty() && (queue.rules.ttl_ms.is_some() || !kept.expiring.is_empty()) {
                // They are to expire, whether or not anybody wants them.
                let deadlines = queue.deadlines.get_or_insert_default();
                let away = kept.expiring.into_iter();
                let away = away.filter(|&(seq, _)| queue.index.is_away(seq));
                deadlines.add_away(away.map(|(seq, at)| {
                    let left = at.0.saturating_sub(now.wall.0);
                    (now.mono.plus_ms(left), seq)
                }));
                if queue.rules.ttl_ms.is_some() {
                    deadlines.nothing_asked(&levels, now.mono);
                }
            }
            self.set_message_timer(id);
        }
        Ok(())
    }

    fn redefine(&mut self, lsn: Lsn, fact: &Fact) -> Result<(), LogError> {
        match fact {
            Fact::ExchangeDeclared {
                name,
                kind,
                auto_delete,
                internal,
                arguments,
            } => {
                if self.exchange_names.contains_key(name) {
                    return Err(corrupt(format_args!("exchange '{name}' twice")));
                }
                let arguments = table(arguments)?;
                let Ok(made) = make(kind, &arguments, self.hash_seed) else {
                    return Err(corrupt(format_args!("exchange '{name}' of type '{kind}'")));
                };
                let alternate = arguments.get("alternate-exchange");
                let alternate = alternate.and_then(FieldValue::as_str).map(Arc::from);
                let id = self.exchanges.insert(Exchange {
                    name: Arc::clone(name),
                    kind,
                    durable: true,
                    auto_delete: *auto_delete,
                    internal: *internal,
                    arguments,
                    alternate,
                    routes: made.routes,
                    delays: made.delays,
                    passed: 0,
                });
                self.exchange_names.insert(Arc::clone(name), id);
            }
            Fact::QueueDeclared {
                name,
                auto_delete,
                arguments,
            } => {
                if **name == *QUEUE {
                    self.recover_delays(lsn);
                    return Ok(());
                }
                if self.queue_names.contains_key(name) {
                    return Err(corrupt(format_args!("queue '{name}' twice")));
                }
                let number = QueueNumber(lsn.0);
                let mut queue = Queue::new(Arc::clone(name), table(arguments)?);
                queue.durable = true;
                queue.auto_delete = *auto_delete;
                queue.logged = Logged::recovered(number, Seq(MAY_DELIVER_FIRST), Seq(0));
                let id = self.queues.insert(queue);
                self.queue_names.insert(Arc::clone(name), id);
                self.touch_queue(id);
            }
            Fact::Bound(binding) => self.rebind(binding)?,
            Fact::Noted(note) => self.notes.push(note.clone()),
            Fact::ExchangeDeleted { .. }
            | Fact::QueueDeleted { .. }
            | Fact::Unbound(_)
            | Fact::Published { .. }
            | Fact::Settled { .. }
            | Fact::Purged { .. }
            | Fact::MayDeliver { .. }
            | Fact::Retried { .. }
            | Fact::Together(_) => {
                return Err(corrupt(format_args!("record {} is no definition", lsn.0)));
            }
        }
        Ok(())
    }

    fn rebind(&mut self, fact: &BindingFact) -> Result<(), LogError> {
        let source = self.find_exchange(&fact.source).ok();
        let destination = if fact.to_queue {
            self.find_queue(&fact.destination)
                .ok()
                .map(Destination::Queue)
        } else {
            let exchange = self.find_exchange(&fact.destination).ok();
            exchange.map(Destination::Exchange)
        };
        let (Some(source), Some(destination)) = (source, destination) else {
            return Err(corrupt(format_args!(
                "a binding from '{}' to '{}', one of which is not there",
                fact.source, fact.destination
            )));
        };
        let binding = Binding {
            source,
            destination,
            routing_key: Arc::clone(&fact.routing_key),
            arguments: Arc::clone(&fact.arguments),
        };
        if self.bindings.contains(&binding) {
            let (source, destination) = (&fact.source, &fact.destination);
            return Err(corrupt(format_args!(
                "a binding from '{source}' to '{destination}' twice"
            )));
        }
        if let Some(exchange) = self.exchanges.get_mut(source) {
            exchange.routes.bind(&binding);
            self.bindings.weigh(binding.source, exchange.routes.bytes());
        }
        self.bindings.insert(binding);
        Ok(())
    }
}

/// Places ascend.
fn check_order(kept: &RecoveredQueue) -> Result<(), LogError> {
    let mut before = Seq(0);
    for run in &kept.runs {
        if run.first <= before || run.last < run.first {
            let number = kept.number;
            return Err(corrupt(format_args!(
                "messages of queue {number} out of order: {} to {} after {before}",
                run.first, run.last
            )));
        }
        before = run.last;
    }
    Ok(())
}

/// Places ascend, none has a number that was not given out, and none a priority where there are
/// no priorities.
fn check_places(kept: &RecoveredQueue, has_priorities: bool) -> Result<(), LogError> {
    check_order(kept)?;
    let number = kept.number;
    for run in &kept.runs {
        let level = run.last.level();
        if run.first.level() != level || level > 0 && !has_priorities {
            return Err(corrupt(format_args!(
                "messages of queue {number} with priorities it has not: {} to {}",
                run.first, run.last
            )));
        }
    }
    let numbers = kept.runs.iter().map(|run| run.last.number());
    let last = numbers.max().unwrap_or_default();
    if last > kept.last.0 || kept.last.0 >= Seq(u64::MAX).number() {
        return Err(corrupt(format_args!(
            "a message at {last} of queue {number}, whose last was {}",
            kept.last
        )));
    }
    Ok(())
}

fn table(octets: &[u8]) -> Result<FieldTable, LogError> {
    FieldTable::decode(octets)
        .map_err(|error| corrupt(format_args!("arguments that are no table: {error}")))
}

fn corrupt(what: std::fmt::Arguments<'_>) -> LogError {
    LogError::Corrupt(format!("the log holds {what}"))
}

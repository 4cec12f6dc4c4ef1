//! Class exchange (40).

use std::sync::Arc;

use leveret_codec::{
    ExchangeBind, ExchangeBindOk, ExchangeDeclare, ExchangeDeclareOk, ExchangeDelete,
    ExchangeDeleteOk, ExchangeUnbind, ExchangeUnbindOk, FieldValue, RawTable,
};

use crate::binding::{Binding, Destination};
use crate::connection::Origin;
use crate::effect::Effects;
use crate::error::{AmqpError, Named};
use crate::event::Event;
use crate::exchange::{DELAYED_TYPE, Exchange, is_type, make};
use crate::ids::Lsn;
use crate::method::{RESERVED_PREFIX, strip};
use crate::permission::Access;
use crate::queue::arguments::{check_property, check_same};
use crate::record::Fact;
use crate::vhost::Vhost;

const ALTERNATE: &str = "alternate-exchange";

/// What a bind or unbind names, the same for queues and exchanges as destinations.
pub(super) struct BindingNames<'a> {
    pub(super) to_queue: bool,
    pub(super) destination: &'a str,
    pub(super) source: &'a str,
    pub(super) routing_key: &'a str,
    pub(super) arguments: &'a RawTable<'a>,
}

impl Vhost {
    /// `exchange.declare` (40, 10): makes an exchange, or checks the one that is there.
    ///
    /// # Errors
    /// - `PRECONDITION_FAILED`: unknown type; it exists with other properties; bad arguments; too
    ///   many exchanges.
    /// - `ACCESS_REFUSED`: no configure right; a reserved name; no read right on it or write right
    ///   on its alternate.
    /// - `NOT_FOUND`: passive, and there is none.
    pub(super) fn exchange_declare(
        &mut self,
        from: Origin,
        m: ExchangeDeclare<'_>,
        fx: &mut Effects,
    ) -> Result<(), AmqpError> {
        let name = strip(&m.exchange);
        if m.passive {
            refuse_default(&name)?;
            self.find_exchange(&name)?;
        } else {
            self.declare_exchange(from, &name, &m, fx)?;
        }
        if !m.no_wait {
            let id = self.find_exchange(&name)?;
            let durable = self.exchanges.get(id).is_some_and(|x| x.durable);
            let due = self.defined_if(durable);
            self.answer(from, due, ExchangeDeclareOk {}, fx);
        }
        Ok(())
    }

    fn declare_exchange(
        &mut self,
        from: Origin,
        name: &str,
        m: &ExchangeDeclare<'_>,
        fx: &mut Effects,
    ) -> Result<(), AmqpError> {
        if !is_type(&m.kind) {
            let why = format_args!("unknown exchange type '{}'", m.kind);
            return Err(AmqpError::precondition_failed(why));
        }
        refuse_default(name)?;
        let named = self.exchange_named(name);
        self.permit(from.connection, Access::Configure, named)?;
        self.check_arguments(&m.arguments)?;
        let arguments = m.arguments.parse();
        let made = make(&m.kind, &arguments, self.hash_seed)?;
        let kind = made.kind;
        if let Some(existing) = self
            .exchange_names
            .get(name)
            .and_then(|&id| self.exchanges.get(id))
        {
            check_property("type", kind, existing.kind, named)?;
            check_property("durable", m.durable, existing.durable, named)?;
            check_property("auto_delete", m.auto_delete, existing.auto_delete, named)?;
            check_property("internal", m.internal, existing.internal, named)?;
            for name in [ALTERNATE, DELAYED_TYPE] {
                let (received, current) = (arguments.get(name), existing.arguments.get(name));
                check_same(name, received, current, named)?;
            }
            return Ok(());
        }
        if name.starts_with(RESERVED_PREFIX) {
            return Err(AmqpError::access_refused(format_args!(
                "exchange name '{name}' contains reserved prefix 'amq.*'"
            )));
        }
        let alternate = self.check_alternate(from, named, arguments.get(ALTERNATE))?;
        if self.exchanges.len() >= self.limits.exchanges_max {
            let limit = self.limits.exchanges_max;
            let why = format_args!("cannot declare {named}: exchange limit of {limit} is reached");
            return Err(AmqpError::precondition_failed(why));
        }

        let name: Arc<str> = Arc::from(name);
        if made.delays {
            self.prepare_delays(fx); // dead letters may have to be delayed in the midst of a tx
        }
        if m.durable {
            let fact = Fact::ExchangeDeclared {
                name: Arc::clone(&name),
                kind,
                auto_delete: m.auto_delete,
                internal: m.internal,
                arguments: Arc::from(m.arguments.as_bytes()),
            };
            self.define(fact, fx);
        }
        let id = self.exchanges.insert(Exchange {
            name: Arc::clone(&name),
            kind,
            durable: m.durable,
            auto_delete: m.auto_delete,
            internal: m.internal,
            arguments,
            alternate,
            routes: made.routes,
            delays: made.delays,
            passed: 0,
        });
        self.exchange_names.insert(Arc::clone(&name), id);
        self.router.topology_changed(); // it may be somebody's alternate
        fx.events.push(Event::ExchangeCreated { exchange: name });
        Ok(())
    }

    /// The alternate exchange an argument names, if it may be used so.
    fn check_alternate(
        &self,
        from: Origin,
        exchange: Named<'_>,
        argument: Option<&FieldValue>,
    ) -> Result<Option<Arc<str>>, AmqpError> {
        let Some(value) = argument else {
            return Ok(None);
        };
        let Some(alternate) = value.as_str() else {
            let kind = value.amqp_type_name();
            let why = format_args!("invalid type '{kind}' for arg '{ALTERNATE}' in {exchange}");
            return Err(AmqpError::precondition_failed(why));
        };
        self.permit(from.connection, Access::Read, exchange)?;
        self.permit(
            from.connection,
            Access::Write,
            self.exchange_named(alternate),
        )?;
        Ok(Some(Arc::from(alternate)))
    }

    /// `exchange.delete` (40, 20): drops an exchange with its bindings.
    ///
    /// An exchange that does not exist counts as deleted, as in RabbitMQ.
    ///
    /// # Errors
    /// - `ACCESS_REFUSED`: the default exchange, a predeclared one, or no configure right.
    /// - `PRECONDITION_FAILED`: `if_unused`, and bindings start at it.
    pub(super) fn exchange_delete(
        &mut self,
        from: Origin,
        m: ExchangeDelete<'_>,
        fx: &mut Effects,
    ) -> Result<(), AmqpError> {
        let name = strip(&m.exchange);
        refuse_default(&name)?;
        let named = self.exchange_named(&name);
        if name.starts_with(RESERVED_PREFIX) {
            let why = format_args!("deletion of system {named} not allowed");
            return Err(AmqpError::access_refused(why));
        }
        self.permit(from.connection, Access::Configure, named)?;
        let before = self.lsn;
        let mut due = self.removed;
        if let Some(&id) = self.exchange_names.get(name.as_str()) {
            if m.if_unused && self.bindings.any_from(id) {
                return Err(AmqpError::precondition_failed(format_args!(
                    "{named} in use"
                )));
            }
            self.delete_exchange(id, fx);
            due = if self.lsn > before { self.lsn } else { Lsn(0) };
        }
        if !m.no_wait {
            self.answer(from, due, ExchangeDeleteOk {}, fx);
        }
        Ok(())
    }

    /// `exchange.bind` (40, 30), RabbitMQ's extension: passes messages on to another exchange.
    ///
    /// # Errors
    /// As [`Vhost::bind`].
    pub(super) fn exchange_bind(
        &mut self,
        from: Origin,
        m: ExchangeBind<'_>,
        fx: &mut Effects,
    ) -> Result<(), AmqpError> {
        let names = BindingNames {
            to_queue: false,
            destination: &strip(&m.destination),
            source: &strip(&m.source),
            routing_key: &m.routing_key,
            arguments: &m.arguments,
        };
        let due = self.bind(from, &names, fx)?;
        if !m.no_wait {
            self.answer(from, due, ExchangeBindOk {}, fx);
        }
        Ok(())
    }

    /// `exchange.unbind` (40, 40). What is not bound counts as unbound.
    ///
    /// # Errors
    /// `ACCESS_REFUSED` as [`Vhost::bind`].
    pub(super) fn exchange_unbind(
        &mut self,
        from: Origin,
        m: ExchangeUnbind<'_>,
        fx: &mut Effects,
    ) -> Result<(), AmqpError> {
        let names = BindingNames {
            to_queue: false,
            destination: &strip(&m.destination),
            source: &strip(&m.source),
            routing_key: &m.routing_key,
            arguments: &m.arguments,
        };
        let due = self.unbind_names(from, &names, fx)?;
        if !m.no_wait {
            self.answer(from, due, ExchangeUnbindOk {}, fx);
        }
        Ok(())
    }

    /// Makes a binding. One that is there already is fine. Returns the record that makes it last.
    ///
    /// # Errors
    /// - `ACCESS_REFUSED`: no write right on the destination, no read right on the source, or one
    ///   of them is the default exchange.
    /// - `NOT_FOUND`: one of them does not exist, the source judged first.
    /// - `PRECONDITION_FAILED`: arguments the exchange does not understand; too many bindings.
    /// - `RESOURCE_LOCKED`: the queue is another connection's.
    pub(super) fn bind(
        &mut self,
        from: Origin,
        names: &BindingNames<'_>,
        fx: &mut Effects,
    ) -> Result<Lsn, AmqpError> {
        self.permit_binding(from, names)?;
        self.check_arguments(names.arguments)?;
        let source = self.find_exchange(names.source)?;
        let destination = if names.to_queue {
            Destination::Queue(self.find_queue(names.destination)?)
        } else {
            Destination::Exchange(self.find_exchange(names.destination)?)
        };
        if let Some(exchange) = self.exchanges.get(source) {
            exchange.routes.validate(&names.arguments.parse())?;
        }
        if let Destination::Queue(queue) = destination {
            self.check_lock(from, queue)?;
        }
        let binding = Binding {
            source,
            destination,
            routing_key: Arc::from(names.routing_key),
            arguments: Arc::from(names.arguments.canonical()),
        };
        let fact = self.binding_fact(&binding);
        if self.bindings.contains(&binding) {
            return Ok(self.defined_if(fact.is_some()));
        }
        if self.bindings.len() >= self.limits.bindings_max {
            let limit = self.limits.bindings_max;
            let why = format_args!(
                "cannot bind: binding limit in vhost '{}' ({limit}) is reached",
                self.name
            );
            return Err(AmqpError::precondition_failed(why));
        }
        if self.bindings.bytes() >= self.limits.binding_bytes_max {
            let limit = self.limits.binding_bytes_max;
            let why = format_args!(
                "cannot bind: keys and arguments of the bindings in vhost '{}' take {limit} octets \
                 of memory, which is the limit",
                self.name
            );
            return Err(AmqpError::precondition_failed(why));
        }

        let due = match fact {
            Some(fact) => self.define(Fact::Bound(fact), fx),
            None => Lsn(0),
        };
        if let Some(exchange) = self.exchanges.get_mut(source) {
            exchange.routes.bind(&binding);
            self.bindings.weigh(source, exchange.routes.bytes());
        }
        self.bindings.insert(binding);
        self.router.topology_changed();
        Ok(due)
    }

    /// Removes a binding if it is there. Returns the record that makes that last.
    ///
    /// # Errors
    /// - `ACCESS_REFUSED` as [`Vhost::bind`].
    /// - `RESOURCE_LOCKED`: the queue is another connection's.
    pub(super) fn unbind_names(
        &mut self,
        from: Origin,
        names: &BindingNames<'_>,
        fx: &mut Effects,
    ) -> Result<Lsn, AmqpError> {
        self.permit_binding(from, names)?;
        let Some(&source) = self.exchange_names.get(names.source) else {
            return Ok(self.removed);
        };
        let destination = if names.to_queue {
            self.queue_names
                .get(names.destination)
                .map(|&id| Destination::Queue(id))
        } else {
            self.exchange_names
                .get(names.destination)
                .map(|&id| Destination::Exchange(id))
        };
        let Some(destination) = destination else {
            return Ok(self.removed);
        };
        let binding = Binding {
            source,
            destination,
            routing_key: Arc::from(names.routing_key),
            arguments: Arc::from(names.arguments.canonical()),
        };
        if self.bindings.contains(&binding) {
            if let Destination::Queue(queue) = destination {
                self.check_lock(from, queue)?;
            }
            let before = self.lsn;
            self.remove_binding(&binding, fx);
            return Ok(if self.lsn > before { self.lsn } else { Lsn(0) });
        }
        Ok(self.removed)
    }

    fn permit_binding(&self, from: Origin, names: &BindingNames<'_>) -> Result<(), AmqpError> {
        let destination = if names.to_queue {
            self.queue_named(names.destination)
        } else {
            self.exchange_named(names.destination)
        };
        self.permit(from.connection, Access::Write, destination)?;
        refuse_default(names.source)?;
        if !names.to_queue {
            refuse_default(names.destination)?;
        }
        self.permit(
            from.connection,
            Access::Read,
            self.exchange_named(names.source),
        )
    }
}

fn refuse_default(name: &str) -> Result<(), AmqpError> {
    if name.is_empty() {
        return Err(AmqpError::access_refused(
            "operation not permitted on the default exchange",
        ));
    }
    Ok(())
}

//! `basic.publish` (60, 40): from the channel to the queues.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use leveret_codec::{BasicNack, FieldTable, FieldValue, Properties, flags};

use crate::channel::Mode;
use crate::channel::transaction::TxPublish;
use crate::connection::Origin;
use crate::delay::{self, Due};
use crate::effect::{Effects, Outbound};
use crate::error::{AmqpError, ReplyCode};
use crate::ids::{ChannelKey, ExchangeId, Lsn, QueueId};
use crate::message::Message;
use crate::permission::Access;
use crate::value::term;
use crate::vhost::Vhost;

/// The pseudo-queue of direct replies; followed by a dot and a token it is one channel's address.
pub(super) const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// Properties the broker has to look at; a message without them is passed on unread.
const LOOKED_AT: u16 = flags::HEADERS | flags::REPLY_TO | flags::EXPIRATION | flags::USER_ID;

/// Longest expiration, in milliseconds: ten years.
const EXPIRATION_MAX_MS: u128 = 315_360_000_000;

/// Most keys in CC and BCC together: each is a routing of its own, and all of them are one turn.
const COPIES_MAX: usize = 256;

/// Longest routing key, in octets: what a short string holds.
const ROUTING_KEY_MAX: usize = 255;

/// What became of a message that was published.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fate {
    /// All its queues took it, and it is safe once this record is.
    Kept(Lsn),
    /// At least one of them was full.
    Refused,
}

/// More routing keys than the message's own.
#[derive(Debug, Default)]
struct Copies {
    keys: Vec<String>,
}

impl Vhost {
    /// Takes a message in: checks it, routes it, and hands it to the queues.
    ///
    /// # Errors
    /// - `ACCESS_REFUSED`: no write right on the exchange, or it is internal.
    /// - `NOT_FOUND`: no such exchange.
    /// - `PRECONDITION_FAILED`: a property that is wrong (user-id, expiration, CC, reply-to).
    pub(super) fn publish(
        &mut self,
        from: Origin,
        mandatory: bool,
        mut message: Message,
        fx: &mut Effects,
    ) -> Result<(), AmqpError> {
        self.metrics.published += 1;
        self.note_publisher(from, fx);
        let Some(channel) = self.channels.get_mut(from.key) else {
            return Ok(());
        };
        // The memo leaves its channel while the vhost is busy with the message.
        let memo = channel.memo.take();
        let known = self.remembered_route(memo.as_ref(), &message);
        let exchange = match known {
            Some(exchange) => exchange,
            None => self.publishable(from, message.exchange())?,
        };
        if known.is_none() && self.takes_orders(exchange) {
            return self.order_from(from, exchange, message, fx);
        }
        let mut copies = Copies::default();
        if message.property_flags() & LOOKED_AT != 0 {
            let due;
            (message, copies, due) = self.look_at_properties(from, exchange, message)?;
            if let Some(due) = due {
                return self.publish_later(from, mandatory, message, &copies, due, fx);
            }
        }
        let memo = if !copies.keys.is_empty() {
            let own = message.routing_key().to_owned();
            let keys = copies.with(&own);
            self.walk(exchange, &keys, &message);
            if exchange == self.default_exchange
                && self.reply_to_any(&keys, &message, fx)
                && self.router.queues.is_empty()
            {
                self.confirm_when(from.key, Lsn(0));
                return Ok(());
            }
            memo
        } else if known.is_some() {
            memo
        } else {
            if exchange == self.default_exchange && message.routing_key().starts_with(REPLY_TO) {
                if !self.reply(message.routing_key(), &message, fx) {
                    self.unroutable(from, mandatory, message, fx);
                }
                self.confirm_when(from.key, Lsn(0));
                return Ok(());
            }
            self.route(exchange, &message)
        };
        if !self.router.delaying.is_empty() {
            return self.publish_in_part(from, mandatory, message, &copies, fx);
        }
        let Some(channel) = self.channels.get_mut(from.key) else {
            return Ok(());
        };
        channel.memo = memo;
        if let Mode::Tx(tx) = &mut channel.mode {
            return tx.add(TxPublish {
                message,
                mandatory,
                queues: self.router.queues.clone(),
                due: None,
            });
        }
        match self.distribute(from, mandatory, message, fx) {
            Fate::Kept(due) => self.confirm_when(from.key, due),
            Fate::Refused => self.reject_publish(from, fx),
        }
        Ok(())
    }

    /// Takes in an order to the scheduler.
    fn order_from(
        &mut self,
        from: Origin,
        exchange: ExchangeId,
        message: Message,
        fx: &mut Effects,
    ) -> Result<(), AmqpError> {
        let message = if message.property_flags() & (LOOKED_AT & !flags::HEADERS) == 0 {
            message
        } else {
            self.look_at_properties(from, exchange, message)?.0
        };
        self.order_on(from, &message, fx)
    }

    /// Takes in a message that is to be delivered later. If it is mandatory and no queue would take
    /// it now, it is returned now: nobody may be there any more when it is due.
    fn publish_later(
        &mut self,
        from: Origin,
        mandatory: bool,
        message: Message,
        copies: &Copies,
        due: Due,
        fx: &mut Effects,
    ) -> Result<(), AmqpError> {
        if mandatory {
            let exchange = self.find_exchange(message.exchange())?;
            self.walk(exchange, &copies.with(message.routing_key()), &message);
            if self.router.queues.is_empty() && self.router.delaying.is_empty() {
                self.unroutable(from, mandatory, message, fx);
                self.confirm_when(from.key, Lsn(0));
                return Ok(());
            }
        }
        let Some(channel) = self.channels.get_mut(from.key) else {
            return Ok(());
        };
        if let Mode::Tx(tx) = &mut channel.mode {
            tx.add(TxPublish {
                message,
                mandatory,
                queues: Vec::new(),
                due: Some(due),
            })?;
            self.prepare_delays(fx);
            return Ok(());
        }
        let user = self.user_of(from);
        let safe = self.hold(&user, message, due, None, fx);
        self.confirm_when(from.key, safe);
        Ok(())
    }

    /// Takes in a message that exchanges on its way hold back: what queues get at once and what
    /// waits is one record.
    fn publish_in_part(
        &mut self,
        from: Origin,
        mandatory: bool,
        message: Message,
        copies: &Copies,
        fx: &mut Effects,
    ) -> Result<(), AmqpError> {
        self.prepare_delays(fx);
        let user = self.user_of(from);
        let Some(channel) = self.channels.get_mut(from.key) else {
            return Ok(());
        };
        if let Mode::Tx(tx) = &mut channel.mode {
            let due = delay::x_delay(&message);
            for id in std::mem::take(&mut self.router.delaying) {
                let Some(exchange) = self.exchanges.get(id) else {
                    continue;
                };
                tx.add(TxPublish {
                    message: delay::held_by(&exchange.name, &message, &copies.keys),
                    mandatory: false,
                    queues: Vec::new(),
                    due,
                })?;
            }
            if self.router.queues.is_empty() {
                return Ok(());
            }
            return tx.add(TxPublish {
                message,
                mandatory,
                queues: self.router.queues.clone(),
                due: None,
            });
        }
        let held = self.hold_on_the_way(&user, &message, &copies.keys, fx);
        let refused = self.refuse_overflow(&message, fx);
        let queues = std::mem::take(&mut self.router.queues);
        self.metrics.routed += queues.len() as u64;
        let published = self.enqueued(&queues, &message, || user);
        let kept = held.iter().filter_map(|held| held.kept.clone());
        let safe = self.record_all(published.into_iter().chain(kept), fx);
        for &id in &queues {
            self.offer(id, message.clone(), fx);
        }
        self.router.queues = queues;
        self.await_all(held, safe, fx);
        if refused {
            self.reject_publish(from, fx);
        } else {
            self.confirm_when(from.key, safe);
        }
        Ok(())
    }

    /// Who is at the other end.
    pub(super) fn user_of(&self, from: Origin) -> Arc<str> {
        let connection = self.connections.get(from.connection);
        connection.map_or_else(|| Arc::from(""), |c| Arc::clone(&c.peer.user))
    }

    /// The first publish of a connection: from here on resource alarms concern it.
    fn note_publisher(&mut self, from: Origin, fx: &mut Effects) {
        if let Some(connection) = self.connections.get_mut(from.connection)
            && !connection.publishes
        {
            connection.publishes = true;
            self.apply_alarm(from.connection, fx);
        }
    }

    /// The exchange of this name, if the client may publish to it.
    fn publishable(&self, from: Origin, name: &str) -> Result<ExchangeId, AmqpError> {
        let named = self.exchange_named(name);
        self.permit(from.connection, Access::Write, named)?;
        let id = self.find_exchange(name)?;
        if self
            .exchanges
            .get(id)
            .is_some_and(|exchange| exchange.internal)
        {
            return Err(AmqpError::access_refused(format_args!(
                "cannot publish to internal {named}"
            )));
        }
        Ok(id)
    }

    /// Hands a message to the queues in `router.queues`, or back to its publisher.
    pub(super) fn distribute(
        &mut self,
        from: Origin,
        mandatory: bool,
        message: Message,
        fx: &mut Effects,
    ) -> Fate {
        let mut due = Lsn(0);
        if self.router.queues.is_empty() {
            self.unroutable(from, mandatory, message, fx);
            return Fate::Kept(due);
        }
        let refused = self.refuse_overflow(&message, fx);
        let queues = std::mem::take(&mut self.router.queues);
        if !queues.is_empty() {
            self.metrics.routed += queues.len() as u64;
            due = self.record_publish(from, &queues, &message, fx);
            // The last queue gets the message itself, the others a copy of the reference.
            let mut message = Some(message);
            for (at, &id) in queues.iter().enumerate() {
                let last = at + 1 == queues.len();
                let copy = if last {
                    message.take()
                } else {
                    message.clone()
                };
                if let Some(copy) = copy {
                    self.offer(id, copy, fx);
                }
            }
        }
        self.router.queues = queues;
        if refused {
            Fate::Refused
        } else {
            Fate::Kept(due)
        }
    }

    /// A queue that the message should have gone to was full: a publisher in confirm mode is told.
    fn reject_publish(&mut self, from: Origin, fx: &mut Effects) {
        if let Some(channel) = self.channels.get_mut(from.key)
            && let Mode::Confirm(confirms) = &mut channel.mode
        {
            let delivery_tag = confirms.reject();
            self.metrics.published_confirm += 1;
            self.metrics.rejected += 1;
            let nack = BasicNack {
                delivery_tag,
                multiple: false,
                requeue: false,
            };
            fx.method(from.connection, from.number, nack);
        }
    }

    /// One record for all durable queues it goes to; `Lsn(0)` if there are none.
    fn record_publish(
        &mut self,
        from: Origin,
        queues: &[QueueId],
        message: &Message,
        fx: &mut Effects,
    ) -> Lsn {
        let fact = self.enqueued(queues, message, || self.user_of(from));
        fact.map_or(Lsn(0), |fact| self.record(fact, fx))
    }

    /// No queue takes it: back to the publisher if that was asked for.
    fn unroutable(&mut self, from: Origin, mandatory: bool, message: Message, fx: &mut Effects) {
        if mandatory {
            self.metrics.unroutable_returned += 1;
            let code = ReplyCode::NoRoute;
            fx.send(
                from.connection,
                Outbound::Return {
                    channel: from.number,
                    code,
                    message,
                },
            );
        } else {
            self.metrics.unroutable_dropped += 1;
        }
    }

    /// Checks the properties that mean something to the broker, and rewrites those it answers for.
    fn look_at_properties(
        &self,
        from: Origin,
        exchange: ExchangeId,
        message: Message,
    ) -> Result<(Message, Copies, Option<Due>), AmqpError> {
        let present = message.property_flags() & LOOKED_AT;
        if present == flags::HEADERS && !may_mean_something(message.raw_properties()) {
            return Ok((message, Copies::default(), None));
        }
        let mut properties = message.properties();
        let mut rewritten = false;
        if properties.reply_to.as_deref() == Some(REPLY_TO.as_bytes()) {
            let reply = self
                .channels
                .get(from.key)
                .and_then(|channel| channel.reply.as_ref());
            let Some(reply) = reply else {
                return Err(AmqpError::precondition_failed(
                    "fast reply consumer does not exist",
                ));
            };
            properties.reply_to = Some(Bytes::copy_from_slice(reply.address.as_bytes()));
            rewritten = true;
        }
        if let Some(expiration) = &properties.expiration {
            check_expiration(expiration)?;
        }
        let mut copies = Copies::default();
        let mut due = None;
        if let Some(headers) = &mut properties.headers {
            copies.add(headers, "CC")?;
            copies.add(headers, "BCC")?;
            let delays = self.exchanges.get(exchange).is_some_and(|x| x.delays);
            due = delay::asked(headers, delays, self.now.wall)?;
            // When it is due, somebody has to know who gets a copy.
            rewritten |= due.is_none() && headers.remove("BCC").is_some();
        }
        self.check_user_id(from, &properties)?;
        let message = if rewritten {
            message.with_properties(&properties)
        } else {
            message
        };
        Ok((message, copies, due))
    }

    /// 406 if the message claims to be somebody else's.
    fn check_user_id(&self, from: Origin, properties: &Properties) -> Result<(), AmqpError> {
        let Some(claimed) = &properties.user_id else {
            return Ok(());
        };
        let Some(connection) = self.connections.get(from.connection) else {
            return Ok(());
        };
        let user = &connection.peer.user;
        if connection.peer.impersonator || **claimed == *user.as_bytes() {
            return Ok(());
        }
        let claimed = String::from_utf8_lossy(claimed);
        Err(AmqpError::precondition_failed(format_args!(
            "user_id property set to '{claimed}' but authenticated user was '{user}'"
        )))
    }

    /// A direct reply under each of the keys that is an address, once. False if none is.
    fn reply_to_any(&mut self, keys: &[&str], message: &Message, fx: &mut Effects) -> bool {
        let addresses: BTreeSet<&str> = keys
            .iter()
            .copied()
            .filter(|key| key.starts_with(REPLY_TO))
            .collect();
        let replied = |address| self.reply(address, message, fx);
        addresses.into_iter().map(replied).fold(false, |a, b| a | b)
    }

    /// A direct reply: to the channel that waits for it, through no queue. False if none does.
    ///
    /// There is no place for it to wait either: if its reader is too slow, it is dropped.
    pub(crate) fn reply(&mut self, address: &str, message: &Message, fx: &mut Effects) -> bool {
        let reader: Option<ChannelKey> = self.replies.get(address).copied();
        let Some(channel) = reader.and_then(|key| self.channels.get(key)) else {
            return false;
        };
        let to = channel.connection;
        if let Some(reply) = &channel.reply
            && let Some(connection) = self.connections.get_mut(to)
        {
            let outbound = Outbound::Deliver {
                channel: channel.number,
                consumer: reply.number,
                redelivered: false,
                delivery_tag: channel.upcoming_tag(),
                message: message.clone(),
            };
            let cost = outbound.delivery_cost();
            if connection.has_room(cost, self.limits.outbox_bytes_max) {
                connection.outbox_bytes += cost;
                self.metrics.delivered_auto += 1;
                fx.send(to, outbound);
            } else {
                self.metrics.replies_dropped += 1;
            }
        }
        true
    }
}

impl Copies {
    /// All keys: the message's own first.
    fn with<'a>(&'a self, own: &'a str) -> Vec<&'a str> {
        let copies = self.keys.iter().map(String::as_str);
        std::iter::once(own).chain(copies).collect()
    }

    /// Adds the keys of a CC or BCC header: an array whose texts are routing keys.
    fn add(&mut self, headers: &FieldTable, name: &str) -> Result<(), AmqpError> {
        match headers.get(name) {
            None => Ok(()),
            Some(FieldValue::Array(keys)) => {
                self.keys.extend(
                    keys.iter()
                        .filter_map(|key| key.as_str())
                        .map(str::to_owned),
                );
                let longest = self.keys.iter().map(String::len).max().unwrap_or(0);
                if self.keys.len() > COPIES_MAX || longest > ROUTING_KEY_MAX {
                    return Err(AmqpError::precondition_failed(format_args!(
                        "more than {COPIES_MAX} keys in CC and BCC, or one of more than {ROUTING_KEY_MAX} octets"
                    )));
                }
                Ok(())
            }
            Some(other) => Err(AmqpError::precondition_failed(format_args!(
                "invalid message: {{unacceptable_type_in_header,\"{name}\",{}}}",
                other.amqp_type_name()
            ))),
        }
    }
}

/// Takes out what says who gets a copy: the keys, and whether that has changed the headers. What is
/// wrong there was refused when the message came in.
pub(crate) fn take_copies(headers: &mut FieldTable) -> (Vec<String>, bool) {
    let mut copies = Copies::default();
    for name in ["CC", "BCC"] {
        if copies.add(headers, name).is_err() {
            copies.keys.clear();
        }
    }
    let stripped = headers.remove("BCC").is_some();
    (copies.keys, stripped)
}

/// Whether the raw properties could hold a header that means something to the broker: copies or
/// delays. Cheap, and sure when it says no: there is more to a header than the end of its name.
fn may_mean_something(raw: &[u8]) -> bool {
    raw.windows(delay::PREFIX.len())
        .any(|octets| octets.starts_with(b"CC") || octets == delay::PREFIX)
}

/// 406 for properties that mean something to the broker and that it does not understand.
pub(crate) fn check_properties(properties: &Properties) -> Result<(), AmqpError> {
    if let Some(expiration) = &properties.expiration {
        check_expiration(expiration)?;
    }
    let mut copies = Copies::default();
    if let Some(headers) = &properties.headers {
        copies.add(headers, "CC")?;
        copies.add(headers, "BCC")?;
    }
    Ok(())
}

/// 406 unless it is a number of milliseconds from 0 to ten years, in decimal digits.
fn check_expiration(expiration: &[u8]) -> Result<(), AmqpError> {
    let text = String::from_utf8_lossy(expiration);
    let fault = |term: String| {
        Err(AmqpError::precondition_failed(format_args!(
            "invalid expiration '{text}': {term}"
        )))
    };
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(&text)),
    };
    let end = unsigned
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(unsigned.len());
    let (digits, rest) = unsigned.split_at(end);
    if digits.is_empty() {
        return fault("no_integer".to_owned());
    }
    if !rest.is_empty() {
        let rest = FieldValue::LongString(Bytes::copy_from_slice(rest.as_bytes()));
        // A string, not a binary: RabbitMQ prints it without the angle brackets.
        let printed = term(&rest).to_string();
        let printed = printed.trim_start_matches("<<").trim_end_matches(">>");
        return fault(format!("{{leftover_string,{printed}}}"));
    }
    // More digits than a u128 holds are too big in any case.
    let number: u128 = digits.parse().unwrap_or(u128::MAX);
    if negative && number > 0 {
        fault(format!("{{value_negative,-{number}}}"))
    } else if number > EXPIRATION_MAX_MS {
        fault(format!("{{value_too_big,{digits}}}"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expirations() {
        #[rustfmt::skip]
        let table = [
            ("0",             None,                              "zero: at once or never"),
            ("60000",         None,                              "a minute"),
            ("+5",            None,                              "a plus sign is accepted"),
            ("315360000000",  None,                              "ten years"),
            ("",              Some("no_integer"),                "nothing"),
            ("abc",           Some("no_integer"),                "no digits"),
            ("10x",           Some("{leftover_string,\"x\"}"),   "digits and more"),
            ("-1",            Some("{value_negative,-1}"),       "negative"),
            ("315360000001",  Some("{value_too_big,315360000001}"), "more than ten years"),
        ];
        for (text, fault, why) in table {
            let expected = fault
                .map(|term| format!("PRECONDITION_FAILED - invalid expiration '{text}': {term}"));
            let actual = check_expiration(text.as_bytes())
                .err()
                .map(|error| error.text);
            assert_eq!(actual, expected, "{why}");
        }
    }
}

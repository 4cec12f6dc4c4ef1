//! Channels of the model that wait for the log: what they are told, and what they said meanwhile.
//!
//! What is durable is answered when the record that makes it last is safe. Until then whatever the
//! client says on that channel waits in line, so that answers keep their order.

use leveret_codec::{BasicGet, ConnectionCloseOk, Method};
use leveret_core::record::BindingFact;
use leveret_core::{ConnectionId, Fact, Lsn, Outbound, QueueNumber};

use crate::log::binding_of;
use crate::model::{Checked, Expected, Item, Model, Queue, Said, Violation, identify};
use crate::topology::Binding;
use crate::violation;

/// What a channel has in line while it waits.
#[derive(Clone, Debug)]
pub struct Waits {
    /// The record it waits for, if it does not wait for a message.
    pub due: Lsn,
    /// The queue of that message.
    pub queue: Option<u64>,
    /// Of those that wait for the same record, the first to have begun goes on first.
    pub begun: u64,
    /// What it is told then.
    pub replies: Vec<Expected>,
    /// What it has said meanwhile.
    pub commands: Vec<Said>,
}

/// Octets of what waits from which on a connection is not read.
const UNREAD_FROM: usize = 64 * 1_024;

/// What a command that waits counts, beside its message.
const COMMAND_OCTETS: usize = 256;

impl Model {
    /// Answers once this record is safe; at once if there is none.
    pub(crate) fn answer_when(
        &mut self,
        id: ConnectionId,
        number: u16,
        due: Option<Lsn>,
        method: impl Into<Method<'static>>,
    ) {
        match due.filter(|due| *due > self.durable) {
            None => self.answer(id, number, method),
            Some(due) => {
                self.wait(id, number, due);
                self.answer(id, number, method);
            }
        }
    }

    /// From here on the channel waits.
    pub(crate) fn wait(&mut self, id: ConnectionId, number: u16, due: Lsn) {
        self.count("answers that waited", 1);
        let begun = self.number();
        if let Some(channel) = self.channel(id, number) {
            channel.waits = Some(Waits {
                due,
                queue: None,
                begun,
                replies: Vec::new(),
                commands: Vec::new(),
            });
        }
    }

    /// Whether a command stays in line, or is dropped because the connection is about to close.
    pub(crate) fn stays_in_line(&mut self, id: ConnectionId, said: &Said) -> bool {
        let Some(connection) = self.connections.get_mut(&id).filter(|c| !c.closing) else {
            return false;
        };
        if let Said::Method { channel: 0, .. } = said {
            let waits = connection.waiting().next().is_some();
            connection.close_asked |= waits;
            if waits {
                self.count("closes that waited", 1);
            }
            return waits;
        }
        let number = said.channel();
        let Some(waits) = self.channel(id, number).and_then(|c| c.waits.as_mut()) else {
            return false;
        };
        waits.commands.push(said.clone());
        self.count("commands that waited", 1);
        true
    }

    /// The log has come further: who waited for that goes on, one after the other.
    pub(crate) fn release(&mut self) -> Checked {
        loop {
            let waiting = self.connections.iter().flat_map(|(&id, connection)| {
                let waiting = connection.waiting();
                waiting.map(move |(number, waits)| (waits.due, waits.begun, id, number))
            });
            let next = waiting.min().filter(|(due, ..)| *due <= self.durable);
            let Some((_, _, id, number)) = next else {
                return Ok(());
            };
            self.go_on(id, number)?;
        }
    }

    /// The client is gone. What it has said is carried out without waiting for anything, but for
    /// fetching messages that nobody would get.
    pub(crate) fn last_words(&mut self, id: ConnectionId) -> Checked {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.gone = true;
        }
        while let Some(connection) = self.connections.get(&id)
            && connection.waiting().next().is_some()
        {
            let numbers: Vec<u16> = connection.channels.keys().copied().collect();
            for number in numbers {
                if let Some(waits) = self.channel(id, number).and_then(|c| c.waits.as_mut()) {
                    let is_get = |said: &Said| {
                        matches!(
                            said,
                            Said::Method {
                                method: Method::BasicGet(_),
                                ..
                            }
                        )
                    };
                    waits.commands.retain(|said| !is_get(said));
                    let said = waits.commands.len() as u64;
                    self.count("last words", said);
                    self.go_on(id, number)?;
                }
            }
        }
        Ok(())
    }

    /// A `basic.get` whose message is not to be had now comes first when it is.
    pub(crate) fn wait_for_message(
        &mut self,
        id: ConnectionId,
        number: u16,
        queue: u64,
        get: BasicGet<'static>,
    ) {
        self.count("gets that waited", 1);
        self.wait(id, number, Lsn(u64::MAX));
        if let Some(waits) = self.channel(id, number).and_then(|c| c.waits.as_mut()) {
            waits.queue = Some(queue);
            let method = get.into();
            waits.commands.push(Said::Method {
                channel: number,
                method,
            });
        }
    }

    /// Who waits for a message may hear before it comes that one of its consumers has ended: when the
    /// queue was looked at and had nothing again.
    pub(crate) fn waits_for_cancel(
        &mut self,
        id: ConnectionId,
        number: u16,
        cancel: &Method<'static>,
    ) -> bool {
        let waits = self.channel(id, number).and_then(|c| c.waits.as_mut());
        let Some(waits) = waits.filter(|waits| waits.queue.is_some()) else {
            return false;
        };
        let is_next = match waits.replies.first() {
            Some(Expected::Method(_, next)) => next == cancel,
            _ => false,
        };
        if is_next {
            waits.replies.remove(0);
            self.count("cancels before a message", 1);
        }
        is_next
    }

    /// It has to, once nothing is in the way any more.
    pub(crate) fn nobody_waits_in_vain(&mut self) -> Checked {
        self.able_to_go_on().1?;
        for queue in self.queues.values_mut() {
            queue.woken = false;
        }
        Ok(())
    }

    /// Who waits for a message and is answered, in the order in which they have waited, and whether
    /// somebody waits in vain.
    pub(crate) fn able_to_go_on(&mut self) -> (Vec<(ConnectionId, u16)>, Checked) {
        let waiting = self.connections.iter().flat_map(|(&id, connection)| {
            let waiting = connection.waiting();
            waiting.filter_map(move |(number, waits)| Some((waits.begun, waits.queue?, id, number)))
        });
        let mut waiting: Vec<_> = waiting.collect();
        waiting.sort_unstable();
        let (mut vain, mut able) = (Ok(()), Vec::new());
        for (_, queue, id, number) in waiting {
            let now_ms = self.now_ms;
            let Some(queue) = self.queues.values_mut().find(|q| q.id == queue) else {
                able.push((id, number));
                continue;
            };
            if queue.woken {
                queue.used = now_ms;
            }
            let waits = queue.waits_for_log();
            let Some(front) = queue.ready.front().cloned() else {
                if self.hears_of_nothing(id, number) {
                    able.push((id, number));
                } else if !waits {
                    vain = Err(violation!("{id:?}/{number} waits at an empty queue"));
                }
                continue;
            };
            let stands = queue.may_stand_still() || front.due.is_some_and(|due| due <= now_ms);
            if self.is_fetched(id, number, &front) {
                able.push((id, number));
            } else if !stands {
                vain = Err(violation!(
                    "{id:?}/{number} waits for message {} in vain",
                    front.id
                ));
            }
        }
        (able, vain)
    }

    /// Whether the broker says that there is nothing to be had.
    fn hears_of_nothing(&self, id: ConnectionId, number: u16) -> bool {
        let mut sent = self.seen.get(&id).into_iter().flatten();
        sent.any(|sent| match sent {
            Outbound::Method { channel, method } => {
                *channel == number && matches!(**method, Method::BasicGetEmpty(_))
            }
            _ => false,
        })
    }

    /// Whether the broker answers a `basic.get` with this message.
    pub(crate) fn is_fetched(&self, id: ConnectionId, number: u16, front: &Item) -> bool {
        let mut sent = self.seen.get(&id).into_iter().flatten();
        sent.any(|sent| match sent {
            Outbound::GetOk {
                channel,
                redelivered,
                message,
                ..
            } => {
                *channel == number
                    && *redelivered == front.delivered
                    && identify(message) == Some(front.id)
            }
            _ => false,
        })
    }

    pub(crate) fn go_on(&mut self, id: ConnectionId, number: u16) -> Checked {
        let Some(waits) = self.channel(id, number).and_then(|c| c.waits.take()) else {
            return Ok(());
        };
        self.sender = Some(id);
        for reply in waits.replies {
            self.expect(id, reply);
        }
        self.settle_down()?;
        for said in waits.commands {
            self.command(id, said)?;
        }
        let connection = self.connections.get(&id);
        if connection.is_some_and(|c| c.close_asked && !c.closing && c.waiting().next().is_none()) {
            self.abandon(id, true)?;
            self.answer(id, 0, ConnectionCloseOk {});
        }
        self.settle_down()
    }

    /// Whether a connection is not to be read now; `None` where that is a matter of some octets.
    #[must_use]
    pub fn is_unread(&self, id: ConnectionId) -> Option<bool> {
        let Some(connection) = self.connections.get(&id).filter(|c| !c.closing) else {
            return Some(false);
        };
        let said = connection.waiting().flat_map(|(_, waits)| &waits.commands);
        let (mut least, mut slack) = (0, 0);
        for said in said {
            least += COMMAND_OCTETS;
            if let Said::Publish { id, .. } = said
                && let Some(message) = self.published.get(*id as usize)
            {
                least += message.body_len + message.sent.1.len() + message.exchange.len();
                least += message.keys.first().map_or(0, String::len);
                slack += 64;
            }
        }
        if connection.paused || least > UNREAD_FROM {
            Some(true)
        } else if least + slack <= UNREAD_FROM {
            Some(false)
        } else {
            None
        }
    }

    // ---- what queues have to do with the log ----

    /// Whether a read has failed and somebody waits for it to be tried again.
    pub(crate) fn awaits_another_try(&self) -> bool {
        let waits = |queue: &Queue| queue.away_from.is_some() && !queue.ready.is_empty();
        self.queues.values().any(waits)
    }

    /// Notes the marks among these facts.
    pub(crate) fn note_marks(&mut self, lsn: Lsn, fact: &Fact) {
        match fact {
            Fact::MayDeliver { queue, through } => {
                self.count("marks", 1);
                if let Some(queue) = self.queue_of(*queue) {
                    queue.marks.push((lsn, through.0));
                }
            }
            Fact::Together(facts) => facts.iter().for_each(|fact| self.note_marks(lsn, fact)),
            _ => {}
        }
    }

    pub(crate) fn queue_of(&mut self, number: QueueNumber) -> Option<&mut Queue> {
        let mut queues = self.queues.values_mut();
        queues.find(|queue| queue.number == Some(number))
    }

    // ---- records of this turn ----

    /// Takes the first record of this turn of which this is true.
    pub(crate) fn record_of(
        &mut self,
        what: &str,
        is: impl Fn(&Fact) -> bool,
    ) -> Result<Lsn, Violation> {
        let at = self.made.iter().position(|(_, fact)| is(fact));
        match at {
            Some(at) => Ok(self.made.remove(at).0),
            None => Err(violation!("there is no record of {what}")),
        }
    }

    /// The record of a binding between durable things; `None` if one of them is not.
    pub(crate) fn record_of_binding(
        &mut self,
        binding: &Binding,
        wanted: impl Fn(&Fact) -> Option<&BindingFact>,
    ) -> Result<Option<Lsn>, Violation> {
        if !self.is_durable(binding) {
            return Ok(None);
        }
        let is = |fact: &Fact| wanted(fact).is_some_and(|fact| binding_of(fact) == *binding);
        self.record_of("a binding", is).map(Some)
    }

    /// Whether both ends of a binding are durable.
    pub(crate) fn is_durable(&self, binding: &Binding) -> bool {
        let exchange = |name: &str| self.topology.exchanges.get(name).is_some_and(|x| x.durable);
        let destination = if binding.to_queue {
            let queue = self.queues.get(&binding.destination);
            queue.is_some_and(|queue| queue.durable)
        } else {
            exchange(&binding.destination)
        };
        exchange(&binding.source) && destination
    }

    /// The last record about these durable exchanges, which are gone.
    pub(crate) fn record_of_ends(
        &mut self,
        exchanges: &[String],
    ) -> Result<Option<Lsn>, Violation> {
        let mut last = None;
        for gone in exchanges {
            let is =
                |fact: &Fact| matches!(fact, Fact::ExchangeDeleted { name } if **name == **gone);
            last = last.max(Some(self.record_of("an exchange's end", is)?));
            self.removed = self.removed.max(last);
        }
        Ok(last)
    }

    /// Something that is settled for good, and that a restart would have found.
    pub(crate) fn note_settled(&mut self, queue: u64, seq: u64, message: u64) {
        let persistent = self
            .published
            .get(message as usize)
            .is_some_and(|m| m.persistent);
        let queue = self.queues.values().find(|q| q.id == queue);
        if let Some(number) = queue.and_then(|queue| queue.number).filter(|_| persistent) {
            self.settled.push((number, seq));
        }
    }

    /// The one record of a commit that published and settled this, and delivered the rest for good.
    ///
    /// There may be one as well if it did none of that: it may have made room for a delivery that is
    /// settled at once, or for one that the log has to know of before. Then it waits for that.
    pub(crate) fn record_of_commit(
        &mut self,
        published: &[Lsn],
        settled: &[(QueueNumber, u64)],
        delivered: &[(QueueNumber, u64)],
    ) -> Result<Option<Lsn>, Violation> {
        let holds = |fact: &Fact, (number, place): (QueueNumber, u64)| {
            match fact {
            Fact::Together(facts) => facts.iter().any(
                |fact| matches!(fact, Fact::Settled { queue, seq } if (*queue, seq.0) == (number, place)),
            ),
            _ => false,
        }
        };
        let all = |lsn: Lsn, fact: &Fact| {
            matches!(fact, Fact::Together(_))
                && published.iter().all(|other| *other == lsn)
                && settled.iter().all(|place| holds(fact, *place))
        };
        if published.is_empty() && settled.is_empty() {
            let marks = |fact: &Fact| match fact {
                Fact::Together(facts) => facts
                    .iter()
                    .any(|fact| matches!(fact, Fact::MayDeliver { .. })),
                _ => false,
            };
            let any = |fact: &Fact| marks(fact) || delivered.iter().any(|at| holds(fact, *at));
            return Ok(self.record_of("a commit", any).ok());
        }
        let at = self.made.iter().position(|(lsn, fact)| all(*lsn, fact));
        match at {
            Some(at) => Ok(Some(self.made.remove(at).0)),
            None => Err(violation!(
                "no one record has all of a commit: a restart may find half"
            )),
        }
    }
}

//! Class tx (90): publishes and settles of a channel, carried out together.

use leveret_codec::{TxCommitOk, TxRollbackOk, TxSelectOk};

use crate::channel::Mode;
use crate::channel::transaction::Transaction;
use crate::connection::Origin;
use crate::effect::Effects;
use crate::error::AmqpError;
use crate::ids::Lsn;
use crate::method::publish::Fate;
use crate::record::Fact;
use crate::vhost::Vhost;

impl Vhost {
    /// `tx.select` (90, 10). Saying it twice is fine.
    ///
    /// # Errors
    /// `PRECONDITION_FAILED`: the channel is in confirm mode.
    pub(super) fn tx_select(&mut self, from: Origin, fx: &mut Effects) -> Result<(), AmqpError> {
        let Some(channel) = self.channels.get_mut(from.key) else {
            return Ok(());
        };
        match channel.mode {
            Mode::Plain => channel.mode = Mode::Tx(Transaction::default()),
            Mode::Tx(_) => {}
            Mode::Confirm(_) => {
                return Err(AmqpError::precondition_failed(
                    "cannot switch from confirm to tx mode",
                ));
            }
        }
        fx.method(from.connection, from.number, TxSelectOk {});
        Ok(())
    }

    /// `tx.commit` (90, 20): publishes first, then settles; all their facts are one record, and
    /// the answer waits for it to be safe.
    ///
    /// # Errors
    /// `PRECONDITION_FAILED`: the channel is not transactional; or a queue that is full refused a
    /// message, while everything else holds.
    pub(super) fn tx_commit(&mut self, from: Origin, fx: &mut Effects) -> Result<(), AmqpError> {
        let tx = self.take_transaction(from)?;
        self.folding = Some((fx.records.len(), self.lsn));
        let mut refused = false;
        for publish in tx.publishes {
            if let Some(due) = publish.due {
                let user = self.user_of(from);
                self.hold(&user, publish.message, due, None, fx);
                continue;
            }
            self.router.queues = publish.queues;
            // A queue may be gone since; then the others get it, or nobody does.
            self.router
                .queues
                .retain(|&queue| self.queues.contains_key(queue));
            let fate = self.distribute(from, publish.mandatory, publish.message, fx);
            refused |= fate == Fate::Refused;
        }
        for settle in tx.settles {
            self.settle(from.key, settle.deliveries, settle.outcome, fx);
        }
        self.bury_all(fx);
        match self.fold(fx) {
            Some(due) if !refused => self.answer(from, due, TxCommitOk {}, fx),
            None if !refused => fx.method(from.connection, from.number, TxCommitOk {}),
            _ => {}
        }
        if refused {
            return Err(AmqpError::precondition_failed("partial tx completion"));
        }
        Ok(())
    }

    /// Makes one record of all since a commit began, if there are any: also if it did not come to
    /// its end, so that no part of it is ever found without the rest.
    pub(crate) fn fold(&mut self, fx: &mut Effects) -> Option<Lsn> {
        let (first, lsn) = self.folding.take()?;
        if fx.records.len() <= first {
            return None;
        }
        let together = |fact| match fact {
            Fact::Together(facts) => facts,
            fact => vec![fact],
        };
        let records = fx.records.drain(first..);
        let facts: Vec<Fact> = records.flat_map(|record| together(record.fact)).collect();
        self.lsn = lsn;
        let due = self.record(Fact::Together(facts), fx);
        self.folded_into(due);
        Some(due)
    }

    /// `tx.rollback` (90, 30): publishes are forgotten, deliveries are unsettled as before.
    ///
    /// # Errors
    /// `PRECONDITION_FAILED`: the channel is not transactional.
    pub(super) fn tx_rollback(&mut self, from: Origin, fx: &mut Effects) -> Result<(), AmqpError> {
        let tx = self.take_transaction(from)?;
        let held = tx.settles.iter().map(|settle| settle.deliveries.len());
        self.work += held.sum::<usize>() as u64;
        if let Some(channel) = self.channels.get_mut(from.key) {
            let deliveries = tx.settles.into_iter().flat_map(|settle| settle.deliveries);
            channel.unacked.put_back(deliveries);
        }
        fx.method(from.connection, from.number, TxRollbackOk {});
        Ok(())
    }

    fn take_transaction(&mut self, from: Origin) -> Result<Transaction, AmqpError> {
        match self
            .channels
            .get_mut(from.key)
            .map(|channel| &mut channel.mode)
        {
            Some(Mode::Tx(tx)) => Ok(std::mem::take(tx)),
            _ => Err(AmqpError::precondition_failed(
                "channel is not transactional",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::broker::{Broker, Limits, Options};
    use crate::effect::Effects;
    use crate::ids::{Lsn, Now, QueueNumber, Seq};
    use crate::input::Input;
    use crate::record::Fact;
    use crate::vhost::Vhost;

    /// Once its records were written as they stood when it panicked, each by itself.
    #[test]
    fn a_commit_that_panics_leaves_one_record() {
        let mut vhost = Vhost::new(Options {
            vhost: Arc::from("/"),
            seed: [7; 32],
            limits: Limits::default(),
        });
        let mut fx = Effects::new();
        let settled = |seq| Fact::Settled {
            queue: QueueNumber(1),
            seq: Seq(seq),
        };
        vhost.record(settled(1), &mut fx);
        vhost.folding = Some((fx.records.len(), vhost.lsn));
        vhost.record(settled(2), &mut fx);
        vhost.record(settled(3), &mut fx);
        // Here it panics; whatever is next tidies up first.
        let mut broker = Broker::of(vhost);
        broker.handle(Now::default(), Input::Retire, &mut fx);
        let records: Vec<_> = fx.records.drain(..).map(|r| (r.lsn, r.fact)).collect();
        let together = Fact::Together(vec![settled(2), settled(3)]);
        assert_eq!(records, [(Lsn(1), settled(1)), (Lsn(2), together)]);
    }
}

//! Where a vhost's records go.

use leveret_core::{Lsn, Record};

/// The durable log, as one vhost's machine sees it.
pub trait Log: Send {
    /// Takes the records of a turn, in order. Returns the last one that is safe already, if that is
    /// known; otherwise `Input::Durable` comes later.
    fn append(&mut self, records: &mut Vec<Record>) -> Option<Lsn>;
}

/// Keeps nothing and calls everything safe: a broker that lives in memory alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullLog;

impl Log for NullLog {
    fn append(&mut self, records: &mut Vec<Record>) -> Option<Lsn> {
        let last = records.last().map(|record| record.lsn);
        records.clear();
        last
    }
}

//! A committer that is wrong on purpose, so that tests can see that it is noticed.

use leveret_core::{Fact, Record};

/// What is done wrong, around a committer that is right.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mistake {
    /// What is published while the disk is full is not written, ever.
    StuckDropped,
    /// While the disk is full, everything is reported safe that was taken.
    ReportedEarly,
    /// Settles wait until there is room, like everything else.
    SettlesWait,
    /// A settle is written before its publish.
    SettleOvertakes,
    /// It is never said that there is room again.
    FullForEver,
    /// What is known of messages to be delivered again is not written once there is room.
    RetriesForgotten,
}

impl Mistake {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::StuckDropped,
        Self::ReportedEarly,
        Self::SettlesWait,
        Self::SettleOvertakes,
        Self::FullForEver,
        Self::RetriesForgotten,
    ];

    /// What of these records comes to the committer, now or ever.
    pub(super) fn spoil(
        mistake: Option<Self>,
        records: Vec<Record>,
        held: &mut Vec<Record>,
        is_full: bool,
    ) -> Vec<Record> {
        let is_publish = |record: &Record| matches!(record.fact, Fact::Published { .. });
        let is_settle = |record: &Record| matches!(record.fact, Fact::Settled { .. });
        let is_retry = |record: &Record| matches!(record.fact, Fact::Retried { .. });
        let mut all = records;
        match mistake {
            Some(Self::StuckDropped) if is_full => all.retain(|record| !is_publish(record)),
            Some(Self::RetriesForgotten) if is_full => all.retain(|record| !is_retry(record)),
            Some(Self::SettlesWait) => {
                let mut now = std::mem::take(held);
                now.append(&mut all);
                all = now;
                if is_full {
                    held.extend(all.extract_if(.., |record| is_settle(record)));
                }
            }
            Some(Self::SettleOvertakes) => {
                let before = std::mem::take(held);
                held.extend(all.extract_if(.., |record| is_publish(record)));
                all.extend(before);
            }
            _ => {}
        }
        all
    }
}

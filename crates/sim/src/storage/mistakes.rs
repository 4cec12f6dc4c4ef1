//! Logs that are wrong on purpose, so that tests can see that it is noticed.

use leveret_core::{Fact, Record};

use super::disk::SimDisk;

/// What is done wrong, around a log that is right.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mistake {
    /// Syncing says it worked, and does nothing.
    NoSync,
    /// Syncing names says it worked, and does nothing.
    NoSyncDir,
    /// Records are reported safe when they are written.
    EarlyReport,
    /// Settles are not written.
    SettlesForgotten,
    /// Every now and then a publish is not written.
    PublishForgotten,
    /// A message for several queues is written once for each of them.
    FanOutSplit,
    /// What a commit holds is written one by one.
    CommitSplit,
    /// Deleted queues stay.
    DeletesForgotten,
}

impl Mistake {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::NoSync,
        Self::NoSyncDir,
        Self::EarlyReport,
        Self::SettlesForgotten,
        Self::PublishForgotten,
        Self::FanOutSplit,
        Self::CommitSplit,
        Self::DeletesForgotten,
    ];

    /// Makes the disk's part of it.
    pub(super) fn spoil_disk(mistake: Option<Self>, disk: &SimDisk) {
        match mistake {
            Some(Self::NoSync) => disk.lie(),
            Some(Self::NoSyncDir) => disk.lie_about_names(),
            _ => {}
        }
    }

    /// The records as this log would write them.
    pub(super) fn spoil(mistake: Option<Self>, records: &[Record]) -> Vec<Record> {
        let Some(mistake) = mistake else {
            return records.to_vec();
        };
        let mut spoilt = Vec::new();
        for record in records {
            let lsn = record.lsn;
            match (mistake, &record.fact) {
                (Self::SettlesForgotten, Fact::Settled { .. })
                | (Self::DeletesForgotten, Fact::QueueDeleted { .. }) => {}
                (Self::PublishForgotten, Fact::Published { .. }) if lsn.0 % 23 == 0 => {}
                (
                    Self::FanOutSplit,
                    Fact::Published {
                        message,
                        user,
                        at,
                        places,
                    },
                ) => spoilt.extend(places.iter().map(|place| {
                    let fact = Fact::Published {
                        message: message.clone(),
                        user: user.clone(),
                        at: *at,
                        places: [*place].into_iter().collect(),
                    };
                    Record { lsn, fact }
                })),
                (Self::CommitSplit, Fact::Together(facts)) => {
                    let facts = facts.iter().cloned();
                    spoilt.extend(facts.map(|fact| Record { lsn, fact }));
                }
                _ => spoilt.push(record.clone()),
            }
        }
        spoilt
    }
}

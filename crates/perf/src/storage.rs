//! Where a server is to keep the messages of a scenario.

/// Kind of queue, and the delivery mode that goes with it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Storage {
    /// Transient queues, and messages without a delivery mode: gone with the server.
    Memory,
    /// Durable queues and persistent messages.
    Disk,
    /// The same in `RabbitMQ`'s replicated queues (`x-queue-type: quorum`), on one node.
    Quorum,
}

impl Storage {
    pub const ALL: [Self; 3] = [Self::Memory, Self::Disk, Self::Quorum];

    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Quorum => "quorum",
        }
    }

    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|storage| storage.name() == name)
    }

    /// Whether what is confirmed must be there after the server was stopped.
    pub fn is_durable(self) -> bool {
        self != Self::Memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        for storage in Storage::ALL {
            assert_eq!(Storage::find(storage.name()), Some(storage));
        }
        assert_eq!(Storage::find("tape"), None);
    }
}

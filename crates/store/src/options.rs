//! What can be chosen about the log.

/// What can be chosen about the log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Options {
    /// Octets of a segment file. At least 4,096; 64 MiB by default.
    pub segment_bytes: u64,
    /// Free space on the disk, in octets, below which nothing new is taken that would need another
    /// segment. What frees space is still taken.
    pub free_bytes_min: u64,
    /// Octets that a step of housekeeping may copy. 1 MiB by default.
    pub step_bytes: u64,
    /// Octets that are written between two checkpoints at least, unless one frees something. 64 MiB
    /// by default.
    pub checkpoint_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            free_bytes_min: 1 << 30,
            step_bytes: 1 << 20,
            checkpoint_bytes: 64 << 20,
        }
    }
}

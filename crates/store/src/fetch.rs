//! Reading messages back.

use leveret_core::log::{Fetch, Fetched};

use crate::disk::Disk;
use crate::log::VhostNumber;
use crate::options::Options;

/// Reads messages of a log, from any thread.
#[derive(Clone, Debug)]
pub struct Reader<D: Disk> {
    _disk: D,
    _options: Options,
}

impl<D: Disk> Reader<D> {
    pub(crate) fn new(disk: D, options: Options) -> Self {
        Self {
            _disk: disk,
            _options: options,
        }
    }

    /// Messages of a queue, as asked for.
    #[must_use]
    pub fn fetch(&self, _vhost: VhostNumber, fetch: Fetch) -> Fetched {
        Fetched {
            queue: fetch.queue,
            messages: Vec::new(),
            error: None,
        }
    }
}

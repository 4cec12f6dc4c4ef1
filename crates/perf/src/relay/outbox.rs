//! What waits to be written to one connection. Any task appends, one task writes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::{io::AsyncWriteExt, net::tcp::OwnedWriteHalf, sync::Notify};

/// Bytes in an outbox above which its publishers are not read. Several reads' worth, so that the
/// socket does not run dry while they are being woken.
const CAP_BYTES: usize = 1 << 20;

/// Buffers above this size are given back when a connection falls silent, so that the memory of an
/// idle one shows in no measurement.
const KEEP_BYTES: usize = 64 << 10;

#[derive(Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    /// There is something to write, or the connection is closing.
    filled: Notify,
    /// The writer has taken everything.
    drained: Notify,
}

#[derive(Default)]
struct State {
    pending: Vec<u8>,
    closed: bool,
}

impl Outbox {
    /// Appends with `encode`, and wakes the writer if it may be asleep.
    pub(super) fn append(&self, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        let was_empty = state.pending.is_empty();
        encode(&mut state.pending);
        let wake = was_empty && !state.pending.is_empty();
        drop(state);
        if wake {
            self.filled.notify_one();
        }
    }

    /// Waits until there is room again: the back-pressure that reaches publishers.
    pub(super) async fn room(&self) {
        loop {
            let drained = self.drained.notified();
            tokio::pin!(drained);
            drained.as_mut().enable(); // before looking, or a drain in between is missed
            if !self.is_full() {
                return;
            }
            drained.await;
        }
    }

    /// Drops what comes from now on. What is there is still written.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
        self.drained.notify_waiters();
    }

    /// Writes until the outbox is closed and empty, or the peer is gone.
    pub(super) async fn write_to(&self, mut socket: OwnedWriteHalf) {
        let mut taken = Vec::new();
        loop {
            let closed = self.take(&mut taken);
            if taken.is_empty() {
                if closed {
                    break;
                }
                if taken.capacity() > KEEP_BYTES {
                    taken = Vec::new();
                }
                self.filled.notified().await;
                continue;
            }
            self.drained.notify_waiters();
            if socket.write_all(&taken).await.is_err() {
                self.close();
                break;
            }
            taken.clear();
        }
    }

    /// Swaps the pending bytes for the empty buffer; answers whether the outbox is closed.
    fn take(&self, empty: &mut Vec<u8>) -> bool {
        let mut state = self.lock();
        std::mem::swap(&mut state.pending, empty);
        state.closed
    }

    fn is_full(&self) -> bool {
        let state = self.lock();
        state.pending.len() > CAP_BYTES && !state.closed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

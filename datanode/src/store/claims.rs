//! One change of a chunk at a time.

use quarry_common::ids::ChunkId;
use std::collections::HashSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Chunks that are being written, deleted or moved to quarantine.
///
/// A client that lost an answer may send a chunk again while the first copy is still being written, and a catching-up
/// node may pull what the chain is just bringing. Who comes second waits, and then finds the chunk in the index.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    taken: Mutex<HashSet<ChunkId>>,
    released: Condvar,
}

/// The right to change one chunk.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    claims: &'a Claims,
    id: ChunkId,
}

impl Claims {
    /// Waits until nobody else changes the chunk. Whoever holds a claim must not take another.
    pub(crate) fn take(&self, id: ChunkId) -> Claim<'_> {
        let mut taken = self.taken();
        while !taken.insert(id) {
            taken = self.released.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        Claim { claims: self, id }
    }

    fn taken(&self) -> MutexGuard<'_, HashSet<ChunkId>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim<'_> {
    /// Which chunk it is.
    pub(crate) fn id(&self) -> ChunkId {
        self.id
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.claims.taken().remove(&self.id);
        self.claims.released.notify_all();
    }
}

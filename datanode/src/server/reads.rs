//! Turns of reads: bounded in all and for each certificate, and held until the answer is taken.

use super::turn;
use bytes::Bytes;
use quarry_common::wire::error::ServiceError;
use quarry_net::identity::Identity;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Reads at once: each may hold a whole chunk, so they hold 256 MiB at most.
const READS_MAX: usize = 128;
/// Reads at once of one certificate: peers that take their answers slowly leave room for others.
const READS_OF_ONE: usize = 48;

/// Turns of reads.
pub(super) struct Reads {
    all: Arc<Semaphore>,
    /// Gone with the last read of the certificate.
    of_peers: Mutex<HashMap<Identity, Weak<Semaphore>>>,
}

impl Default for Reads {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(READS_MAX)), of_peers: Mutex::default() }
    }
}

/// The turn of one read.
pub(super) struct ReadTurn {
    _of_peer: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// Bytes that follow an answer, with the turn of the read that they come from.
#[derive(Default)]
pub(super) struct Following {
    pub(super) data: Bytes,
    pub(super) turn: Option<ReadTurn>,
}

impl Reads {
    /// Waits for a turn.
    pub(super) async fn turn(&self, peer: &Identity) -> Result<ReadTurn, ServiceError> {
        let of_peer = turn(&self.of(peer)).await?;
        let of_all = turn(&self.all).await?;
        Ok(ReadTurn { _of_peer: of_peer, _of_all: of_all })
    }

    fn of(&self, peer: &Identity) -> Arc<Semaphore> {
        let mut of_peers = self.of_peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turns) = of_peers.get(peer).and_then(Weak::upgrade) {
            return turns;
        }
        of_peers.retain(|_, turns| turns.strong_count() > 0);
        let turns = Arc::new(Semaphore::new(READS_OF_ONE));
        of_peers.insert(peer.clone(), Arc::downgrade(&turns));
        turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_net::identity::Role;

    #[tokio::test]
    async fn one_certificate_leaves_room_for_others() {
        let reads = Reads::default();
        let peer = |id| Identity::new("c", Role::Client, id).unwrap();
        let mut held = Vec::new();
        for _ in 0..READS_OF_ONE {
            held.push(reads.turn(&peer("greedy")).await.unwrap());
        }
        assert_eq!(reads.of(&peer("greedy")).available_permits(), 0);
        held.push(reads.turn(&peer("other")).await.unwrap());
        drop(held);
        assert_eq!(reads.all.available_permits(), READS_MAX);
        drop(reads.turn(&peer("third")).await.unwrap());
        assert_eq!(reads.of_peers.lock().unwrap().len(), 1, "certificates without reads are forgotten");
    }
}

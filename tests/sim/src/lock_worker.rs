//! What clients do with locks.

use crate::history::{History, Object};
use crate::locks::Locking;
use crate::workload::BOTH;
use quarry_client::FileSystem;
use quarry_common::ids::Ino;
use quarry_common::wire::error::FsError;
use quarry_common::wire::session::{Lock, LockFamily, LockKind};
use quarry_host::random;
use rand::Rng;
use std::time::Duration;

/// Pause between two attempts of a client.
const PAUSE_MS: std::ops::Range<u64> = 0..1_500;
/// How long a lock is held.
const HOLD_MS: std::ops::Range<u64> = 0..2_000;

/// One client that locks a file, again and again.
pub(crate) struct LockWorker {
    pub(crate) fs: FileSystem,
    pub(crate) number: usize,
    pub(crate) history: History,
    pub(crate) ino: Ino,
}

impl LockWorker {
    /// Works until the process ends.
    pub(crate) async fn run(self) {
        // The locks of a file end with its last handle.
        let _open = loop {
            match self.fs.open(self.ino, BOTH).await {
                Ok(file) => break file,
                Err(error) => self.history.note(&format!("client {} cannot open: {error}", self.number)),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        loop {
            tokio::time::sleep(Duration::from_millis(random::rng().random_range(PAUSE_MS))).await;
            if self.take(random::rng().random()).await {
                tokio::time::sleep(Duration::from_millis(random::rng().random_range(HOLD_MS))).await;
                self.free().await;
            }
        }
    }

    fn lock(&self, kind: LockKind) -> Lock {
        Lock { owner: 1, pid: 1, start: 0, end: u64::MAX, kind, family: LockFamily::Record }
    }

    async fn take(&self, wait: bool) -> bool {
        let Self { history, number, .. } = self;
        let ticket = history.call(Object::Lock(0), *number, Locking::MaybeTaken(*number));
        match self.fs.set_lock(self.ino, self.lock(LockKind::Write), wait).await {
            Ok(()) => history.returned(ticket, Locking::Taken(*number)),
            Err(FsError::WouldBlock) => {
                history.returned(ticket, Locking::Busy(*number));
                return false;
            }
            Err(error) => {
                history.failed_openly(ticket, &error);
                // Whatever came of it is undone.
                self.free().await;
                return false;
            }
        }
        true
    }

    async fn free(&self) {
        let Self { history, number, .. } = self;
        let ticket = history.call(Object::Lock(0), *number, Locking::MaybeFreed(*number));
        match self.fs.set_lock(self.ino, self.lock(LockKind::Unlock), false).await {
            Ok(()) => history.returned(ticket, Locking::Freed(*number)),
            Err(error) => history.failed_openly(ticket, &error),
        }
    }
}

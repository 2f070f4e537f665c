//! What the store tells about itself.

use super::{LARGEST_FILE, Store};
use quarry_common::ids::ChunkId;
use std::collections::{BTreeSet, HashSet};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use tokio::sync::Notify;

/// Bad chunks that wait to be reported. If there are more, the groups' digests tell the rest.
const BAD_MAX: usize = 65_536;

/// Chunks that were found rotten or missing, until the NameNode knows.
#[derive(Debug, Default)]
pub(crate) struct Report {
    bad: Mutex<BTreeSet<ChunkId>>,
    added: Notify,
}

impl Report {
    pub(super) fn add(&self, ids: impl IntoIterator<Item = ChunkId>) {
        let mut bad = self.bad.lock().expect("no thread panics while it holds the lock");
        let room = BAD_MAX.saturating_sub(bad.len());
        bad.extend(ids.into_iter().take(room));
        drop(bad);
        self.added.notify_one();
    }

    /// Up to `limit` of them.
    pub(crate) fn some(&self, limit: usize) -> Vec<ChunkId> {
        self.bad
            .lock()
            .expect("no thread panics while it holds the lock")
            .iter()
            .take(limit)
            .copied()
            .collect()
    }

    /// Forgets those that are reported.
    pub(crate) fn done(&self, ids: &[ChunkId]) {
        let mut bad = self.bad.lock().expect("no thread panics while it holds the lock");
        ids.iter().for_each(|id| {
            bad.remove(id);
        });
    }

    /// Waits for more.
    pub(crate) async fn more(&self) {
        self.added.notified().await;
    }
}

/// Figures for a heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) capacity: u64,
    pub(crate) free: u64,
    pub(crate) chunks: u64,
    pub(crate) bytes: u64,
    pub(crate) trouble: String,
    pub(crate) writable: bool,
    pub(crate) scrubbed: (u64, u64),
}

impl Store {
    /// Chunks found rotten or missing.
    pub(crate) fn report(&self) -> &Report {
        &self.report
    }

    /// Asks the file systems how much room there is. May block for long when a disk hangs.
    pub(crate) fn refresh(&self) {
        for dir in self.dirs.iter().filter(|d| !d.health.is_failed()) {
            dir.refresh();
        }
    }

    /// From what is known already: never touches a disk.
    pub(crate) fn figures(&self) -> Figures {
        let (mut capacity, mut free, mut writable) = (0u64, 0u64, false);
        let mut devices = HashSet::new();
        for dir in &self.dirs {
            let Some(space) = dir.health.space() else { continue };
            let room = dir.health.room();
            writable |= room >= LARGEST_FILE;
            // Directories may share a file system.
            if devices.insert(space.device) {
                capacity = capacity.saturating_add(space.total);
                free = free.saturating_add(room);
            }
        }
        let (chunks, bytes, file_bytes) = {
            let index = self.index();
            (index.chunks(), index.bytes(), index.file_bytes())
        };
        if let Some(limit) = self.limit {
            let left = limit.saturating_sub(file_bytes + *self.reserved());
            capacity = capacity.min(limit);
            free = free.min(left);
            writable &= left >= LARGEST_FILE;
        }
        let scrubbed = (self.scrubbed.load(Ordering::Relaxed), self.rotten.load(Ordering::Relaxed));
        Figures { capacity, free, chunks, bytes, trouble: self.trouble(), writable, scrubbed }
    }

    /// What is wrong with the directories; empty when all is well.
    pub(super) fn trouble(&self) -> String {
        let dirs = self.dirs.iter();
        let mut all: Vec<String> = dirs
            .filter_map(|d| {
                d.health.trouble(LARGEST_FILE).map(|why| format!("{}: {why}", d.path().display()))
            })
            .collect();
        if let Some(limit) = self.limit
            && limit.saturating_sub(self.index().file_bytes()) < LARGEST_FILE
        {
            all.push(format!("the capacity limit of {limit} bytes is reached"));
        }
        all.join("; ")
    }
}

//! What the store tells about itself.

use super::volume::Volume;
use super::{LARGEST_FILE, Store};
use quarry_common::ids::ChunkId;
use quarry_common::wire::cluster::{DISKS_MAX, DiskState, DiskStatus};
use quarry_host::clock;
use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
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
        let mut bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        let room = BAD_MAX.saturating_sub(bad.len());
        bad.extend(ids.into_iter().take(room));
        drop(bad);
        self.added.notify_one();
    }

    /// Up to `limit` of them.
    pub(crate) fn some(&self, limit: usize) -> Vec<ChunkId> {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner).iter().take(limit).copied().collect()
    }

    /// Forgets those that are reported.
    pub(crate) fn done(&self, ids: &[ChunkId]) {
        let mut bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
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
    /// For how long no disk has worked; `None` while one does.
    pub(crate) disks_out: Option<Duration>,
    pub(crate) scrubbed: (u64, u64),
}

impl Store {
    /// Chunks found rotten or missing.
    pub(crate) fn report(&self) -> &Report {
        &self.report
    }

    /// From what is known already: never touches a disk.
    pub(crate) fn figures(&self) -> Figures {
        let (mut capacity, mut free, mut writable) = (0u64, 0u64, false);
        let mut devices = HashSet::new();
        for volume in &self.volumes {
            let Some(space) = volume.health.space() else { continue };
            let room = volume.room();
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
        // The disk that failed last was the last one that worked.
        let disks_out = self.volumes.iter().map(Volume::out_for).min().flatten();
        let trouble = self.trouble();
        Figures { capacity, free, chunks, bytes, trouble, writable, disks_out, scrubbed }
    }

    /// The scrubber has come to the end of all chunks.
    pub(crate) fn scrub_ended(&self) {
        let now = u64::try_from(clock::wall().0 / 1_000_000).unwrap_or(0);
        self.scrub_ended_ms.store(now, Ordering::Relaxed);
    }

    fn scrub_ended_ms(&self) -> Option<u64> {
        Some(self.scrub_ended_ms.load(Ordering::Relaxed)).filter(|at| *at > 0)
    }

    /// How each disk is, from what is known already.
    pub(crate) fn disks(&self) -> Vec<DiskStatus> {
        let slow = self.slow_disks();
        let scrubbed_at_ms = self.scrub_ended_ms();
        let status = |(number, volume): (u16, &Volume)| {
            let load = volume.load();
            let state = if volume.health.is_failed() {
                DiskState::Failed
            } else if volume.is_stalled() {
                DiskState::Stalled
            } else if volume.room() < LARGEST_FILE {
                DiskState::Full
            } else if slow.contains(&number) {
                DiskState::Slow
            } else {
                DiskState::Working
            };
            DiskStatus {
                path: volume.dir().path().display().to_string(),
                state,
                trouble: volume.trouble(LARGEST_FILE).unwrap_or_default(),
                oldest_ms: millis(load.oldest),
                latency_us: u64::try_from(load.latency.as_micros()).unwrap_or(u64::MAX),
                errors: volume.health.errors(),
                read_bytes: volume.read_bytes.load(Ordering::Relaxed),
                written_bytes: volume.written_bytes.load(Ordering::Relaxed),
                scrubbed_at_ms,
            }
        };
        (0..).zip(&self.volumes).take(DISKS_MAX).map(status).collect()
    }

    /// What is wrong with the directories; empty when all is well.
    pub(super) fn trouble(&self) -> String {
        let mut all: Vec<String> = self
            .volumes
            .iter()
            .filter_map(|v| v.trouble(LARGEST_FILE).map(|why| format!("{}: {why}", v.dir().path().display())))
            .collect();
        if let Some(limit) = self.limit
            && limit.saturating_sub(self.index().file_bytes()) < LARGEST_FILE
        {
            all.push(format!("the capacity limit of {limit} bytes is reached"));
        }
        all.join("; ")
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

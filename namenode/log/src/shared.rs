//! What raft's tasks, the writer and the keeper share.

use crate::LogError;
use crate::index::LogIndex;
use crate::keeper::Keeper;
use crate::queue::Queue;
use crate::raft_types::{RaftEntry, RaftLogId, RaftStoredMembership, RaftVote, decode_entry};
use crate::segment::{Segment, file_name};
use crate::{format::Record, index::Found, index::Place};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Locks are held for a few instructions each, never across I/O, and never two at a time.
pub(crate) struct Shared {
    index: Mutex<LogIndex>,
    /// Segments with frames in them; the last one is being written.
    segments: Mutex<BTreeMap<u64, Segment>>,
    vote: Mutex<Option<RaftVote>>,
    pub(crate) queue: Queue,
    pub(crate) keeper: Keeper,
    /// The reason, once the log has stopped for good.
    failed: watch::Sender<Option<String>>,
    /// The last entry that was handed on.
    delivered: AtomicU64,
    /// What the next snapshot, as raft calls it, claims to contain: the caller's last checkpoint.
    checkpoint: Mutex<Option<RaftLogId>>,
}

impl Shared {
    pub(crate) fn new(
        index: LogIndex,
        segments: BTreeMap<u64, Segment>,
        vote: Option<RaftVote>,
        queue: Queue,
        keeper: Keeper,
    ) -> Self {
        let checkpoint = Mutex::new(index.purged());
        Self {
            index: Mutex::new(index),
            segments: Mutex::new(segments),
            vote: Mutex::new(vote),
            queue,
            keeper,
            failed: watch::Sender::new(None),
            delivered: AtomicU64::new(0),
            checkpoint,
        }
    }

    pub(crate) fn index(&self) -> MutexGuard<'_, LogIndex> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn segments(&self) -> MutexGuard<'_, BTreeMap<u64, Segment>> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn vote(&self) -> Option<RaftVote> {
        *self.vote.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_vote(&self, vote: RaftVote) {
        *self.vote.lock().unwrap_or_else(PoisonError::into_inner) = Some(vote);
    }

    /// The last entry that was handed on, or was applied before the log was opened.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Acquire)
    }

    pub(crate) fn set_delivered(&self, index: u64) {
        self.delivered.store(index, Ordering::Release);
    }

    pub(crate) fn checkpoint(&self) -> Option<(RaftLogId, RaftStoredMembership)> {
        let id = (*self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner))?;
        Some((id, self.index().membership_at(id.index)))
    }

    pub(crate) fn set_checkpoint(&self, id: RaftLogId) {
        *self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
    }

    /// Stops the log for good: nothing that waits or comes later is acknowledged.
    pub(crate) fn fail(&self, error: &LogError) {
        let reason = error.to_string();
        let first = self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            failed.get_or_insert_with(|| reason.clone());
            first
        });
        if first {
            tracing::error!("the log stops: {reason}");
        }
        self.queue.fail(&reason);
        self.keeper.close();
    }

    /// Why the log has stopped, if it has.
    pub(crate) fn failure(&self) -> Option<LogError> {
        self.failed.borrow().clone().map(LogError::Stopped)
    }

    /// Returns when the log has stopped, with the reason.
    pub(crate) async fn wait_for_failure(&self) -> LogError {
        let mut failed = self.failed.subscribe();
        let reason = failed.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        LogError::Stopped(reason.unwrap_or_else(|| "it was closed".to_owned()))
    }

    /// The entries from `start` to before `end` that the log holds, at most about `bytes` of them but at least one.
    pub(crate) fn read(&self, start: u64, end: u64, bytes: usize) -> io::Result<Vec<RaftEntry>> {
        let found = self.index().range(start, end);
        let mut entries = Vec::with_capacity(found.len());
        let mut read = 0;
        for found in found {
            if read > bytes {
                break;
            }
            let entry = match found {
                Found::Cached(entry) => entry,
                Found::At(id, place) => {
                    read += place.length as usize;
                    self.read_record(id, place).map_err(io::Error::other)?
                }
            };
            entries.push(entry);
        }
        Ok(entries)
    }

    fn read_record(&self, id: RaftLogId, place: Place) -> Result<RaftEntry, LogError> {
        let name = file_name(place.segment);
        let damaged = |what: &str| LogError::damaged(&name, u64::from(place.offset), what);
        let file = self.segments().get(&place.segment).map(|segment| segment.file.clone());
        let file = file.ok_or_else(|| damaged("the segment was dropped while it was read"))?;
        let mut bytes = vec![0; place.length as usize];
        file.read_at(u64::from(place.offset), &mut bytes).map_err(LogError::io("read", &name))?;
        let record = Record::decode(&bytes).map_err(&damaged)?;
        let entry = decode_entry(&record).map_err(&damaged)?;
        if entry.log_id == id { Ok(entry) } else { Err(damaged("another entry than was written here")) }
    }
}

//! Raft's log storage: what is appended is readable at once, and reported durable by the writer.

use crate::meta::{self, Purged};
use crate::raft_types::{RaftEntry, RaftLogId, RaftVote, TypeConfig};
use crate::shared::Shared;
use futures::Stream;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::{LogState, OptionalSend};
use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Bytes that are read from disk at once while old entries are replayed.
const READ_BYTES: usize = 1 << 20;
/// Entries that are read at once.
const READ_ENTRIES: u64 = 256;

/// Both the storage and its readers: all state is shared.
#[derive(Clone)]
pub(crate) struct LogStore(pub(crate) Arc<Shared>);

impl LogStore {
    /// The range as start and exclusive end, within what the log can hold.
    fn bounds(&self, range: &impl RangeBounds<u64>) -> (u64, u64) {
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&end) => end.saturating_add(1),
            Bound::Excluded(&end) => end,
            Bound::Unbounded => u64::MAX,
        };
        (start, end.min(self.0.index().next()))
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<RaftEntry>> {
        let (start, end) = self.bounds(&range);
        self.0.read(start, end, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<RaftEntry>> {
        self.0.read(start, end.min(start.saturating_add(READ_ENTRIES)), READ_BYTES)
    }

    /// Unlike the default, which reads the whole range into memory: after a start that is all that is to be replayed.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<RaftEntry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = self.bounds(&range);
        let shared = self.0.clone();
        futures::stream::try_unfold((start, VecDeque::new()), move |(next, mut read)| {
            let shared = shared.clone();
            async move {
                if next >= end {
                    return Ok(None);
                }
                if read.is_empty() {
                    read = shared.read(next, end.min(next.saturating_add(READ_ENTRIES)), READ_BYTES)?.into();
                }
                match read.pop_front() {
                    Some(entry) if entry.log_id.index == next => Ok(Some((entry, (next + 1, read)))),
                    _ => Err(io::Error::other(format!("entry {next} is to be read, but it was purged"))),
                }
            }
        })
    }

    async fn read_vote(&mut self) -> io::Result<Option<RaftVote>> {
        Ok(self.0.vote())
    }
}

/// `save_committed` keeps its default, which saves nothing: the leader of the only voter commits all of its log again, and
/// what the state has applied is known from its checkpoint. A group of three has to wait for raft's recovery before it
/// answers reads.
impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let index = self.0.index();
        Ok(LogState { last_purged_log_id: index.purged(), last_log_id: index.last() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> io::Result<()> {
        let (done, saved) = oneshot::channel();
        self.0.queue.save_vote(meta::encode_vote(vote), done)?;
        saved.await.map_err(|_| stopped())??;
        self.0.set_vote(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<RaftEntry> = entries.into_iter().collect();
        // First into the index: the writer looks there for every entry that it has written.
        {
            let mut index = self.0.index();
            if entries.first().is_some_and(|entry| entry.log_id.index != index.next()) {
                return Err(io::Error::other(format!("the next entry must be {}", index.next())));
            }
            for entry in &entries {
                index.push(entry.clone());
            }
        }
        self.0.queue.append(&entries, callback)
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> io::Result<()> {
        let from = last.map_or(0, |last| last.index + 1);
        let (done, written) = oneshot::channel();
        self.0.queue.truncate(from, done)?;
        // Only then are all places of the entries known, so none can be mistaken for that of a new entry.
        written.await.map_err(|_| stopped())??;
        self.0.index().truncate(from);
        Ok(())
    }

    async fn purge(&mut self, id: RaftLogId) -> io::Result<()> {
        let membership = {
            let mut index = self.0.index();
            if index.next() <= id.index {
                let what = format!("cannot purge up to entry {}: the log ends before it", id.index);
                return Err(io::Error::other(what));
            }
            let membership = index.membership_at(id.index);
            index.purge(id);
            membership
        };
        // The keeper makes it durable and drops the files; nothing depends on when.
        self.0.keeper.purge(Purged { last: id, membership });
        Ok(())
    }
}

fn stopped() -> io::Error {
    io::Error::other("the log has stopped")
}

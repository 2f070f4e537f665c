//! Bringing chunks that were put into the namespace, and what follows for the inode.

use super::flusher::{Outcome, Prepared, put_merged};
use super::inode::{Inode, State};
use super::layout::Change;
use super::resolve::WINDOW;
use crate::traits::MutateError;
use quarry_common::ids::WindowIndex;
use quarry_common::limits::CHUNK_SIZE;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, Commit, Mutation, MutationReply, WindowCommit};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// A chunk is written again this often: with the pauses some 20 s, longer than a dead DataNode is waited for.
const REWRITES_MAX: u32 = 45;
/// Pause before a chunk is written again, growing with each attempt up to ten times this.
const REWRITE_PAUSE: Duration = Duration::from_millis(50);
/// Attempts to merge a window that others change.
const MERGES_MAX: u32 = 50;

/// Why the NameNode did not take a commit.
enum Refused {
    Fs(FsError),
    WindowChanged,
}

impl From<FsError> for Refused {
    fn from(error: FsError) -> Self {
        Self::Fs(error)
    }
}

/// Commits what was put; what cannot be is dropped and the error recorded for every handle.
pub(crate) async fn commit(inode: Arc<Inode>, batch: Vec<Outcome>) {
    let mut jobs = Vec::with_capacity(batch.len());
    for Outcome { windows, result } in batch {
        match result {
            Ok(prepared) => jobs.push(prepared),
            Err(error) => inode.failed(&windows, error),
        }
    }
    if jobs.len() > 1 {
        match send(&inode, &mut jobs).await {
            Ok((attr, windows)) => return inode.committed(&jobs, &attr, &windows),
            // One of them is to blame: each on its own tells which.
            Err(_) => tracing::debug!(ino = %inode.ino, "a commit of several chunks was refused"),
        }
    }
    for job in jobs {
        commit_one(&inode, job).await;
    }
}

async fn commit_one(inode: &Arc<Inode>, job: Prepared) {
    let mut left = VecDeque::from([job]);
    let mut merges = 0;
    while let Some(mut job) = left.pop_front() {
        let refused = match send(inode, std::slice::from_mut(&mut job)).await {
            Ok((attr, windows)) => {
                inode.committed(std::slice::from_ref(&job), &attr, &windows);
                continue;
            }
            Err(refused) => refused,
        };
        merges += 1;
        let indexes = job.windows.iter().map(|w| w.index.0);
        let (again, indexes): (bool, Vec<u64>) = match refused {
            Refused::WindowChanged => (merges <= MERGES_MAX, indexes.collect()),
            // Too many slices: this mount did not know how many there were. Merging makes them few.
            Refused::Fs(FsError::Invalid) if !job.merge => (true, indexes.collect()),
            Refused::Fs(error) => {
                inode.failed(&indexes.collect::<Vec<_>>(), error);
                continue;
            }
        };
        if !again {
            inode.failed(&indexes, FsError::Io);
            continue;
        }
        for index in indexes {
            inode.state().layout.forget(index..index + 1);
            match put_merged(inode, index, job.about).await {
                Ok(merged) => left.push_back(merged),
                Err(error) => inode.failed(&[index], error),
            }
        }
    }
}

/// Sends one commit for all jobs, putting chunks again that the NameNode does not take.
async fn send(inode: &Inode, jobs: &mut [Prepared]) -> Result<Committed, Refused> {
    for attempt in 0..REWRITES_MAX {
        match inode.files.meta.mutate(Mutation::Commit(make_commit(inode, jobs))).await {
            Ok(MutationReply::Committed { attr, windows }) => return Ok((attr, windows)),
            Ok(other) => {
                tracing::error!(?other, "the NameNode answers a commit with something else");
                return Err(FsError::Io.into());
            }
            Err(MutateError::Fs(error)) => return Err(error.into()),
            Err(MutateError::WindowChanged) => return Err(Refused::WindowChanged),
            Err(MutateError::RewriteChunk { chunk, reason }) => {
                tracing::debug!(ino = %inode.ino, %chunk, reason, "writing a chunk again");
                tokio::time::sleep(REWRITE_PAUSE * attempt.min(10)).await;
                let Some(job) = jobs.iter_mut().find(|job| job.chunk.info.id == chunk) else {
                    tracing::error!(%chunk, "the NameNode refuses a chunk that was not offered");
                    return Err(FsError::Io.into());
                };
                job.chunk = inode.files.io.put(inode.ino, job.data.clone(), job.about.durable).await?;
                job.name_chunk();
            }
        }
    }
    tracing::error!(ino = %inode.ino, "the NameNode refuses every chunk");
    Err(FsError::Io.into())
}

type Committed = (Attr, Vec<(WindowIndex, u64, u32)>);

fn make_commit(inode: &Inode, jobs: &[Prepared]) -> Commit {
    let about = || jobs.iter().map(|job| job.about);
    Commit {
        ino: inode.ino,
        chunks: jobs.iter().map(|job| job.chunk.clone()).collect(),
        windows: jobs.iter().flat_map(|job| &job.windows).cloned().collect(),
        size_at_least: about().map(|a| a.size).max().unwrap_or(0),
        mtime: about().map(|a| a.mtime).max(),
        kill_suidgid: about().any(|a| a.kill_at.is_some()),
    }
}

impl Inode {
    /// The NameNode has the data.
    fn committed(&self, jobs: &[Prepared], attr: &Attr, windows: &[(WindowIndex, u64, u32)]) {
        for job in jobs {
            // What was just written is often read next, and it is in memory anyway.
            self.files.fetcher.cache().insert(job.chunk.info.id, 0, &job.data);
            if !job.about.durable {
                self.files.unsynced.add(self.ino, job.chunk.clone());
            }
        }
        let mut state = self.state();
        let size_before = state.attr.size;
        let alone = state.observe_own(attr);
        let placed = jobs.iter().flat_map(|job| &job.windows);
        for (window, (index, version, count)) in placed.zip(windows) {
            debug_assert_eq!(window.index, *index);
            let change = change(window, alone, size_before);
            state.layout.committed(index.0, *version, *count as usize, change);
        }
        if let Some(kill_at) = jobs.iter().filter_map(|job| job.about.kill_at).max() {
            state.kill_at = state.kill_at.filter(|at| *at > kill_at);
        }
        let indexes = jobs.iter().flat_map(|job| &job.windows).map(|w| w.index.0);
        let settled = state.settle(indexes);
        self.after(settled, state);
    }

    /// The data cannot be written: every handle will learn it, and the memory is freed.
    fn failed(&self, indexes: &[u64], error: FsError) {
        tracing::warn!(ino = %self.ino, windows = ?indexes, %error, "written data is lost");
        let mut state = self.state();
        state.errors.record(error);
        let settled = state.settle(indexes.iter().copied());
        self.after(settled, state);
    }

    fn after(&self, cost: usize, mut state: std::sync::MutexGuard<'_, State>) {
        let mut closed = 0;
        if state.dirty.is_empty() {
            state.kill_at = None;
            closed = std::mem::take(&mut state.closing);
            self.files.unkeep(self.ino);
        }
        drop(state);
        self.files.budget.give(cost);
        self.settled.notify_waiters();
        for _ in 0..closed {
            (self.files.closed)(self.ino);
        }
    }
}

impl State {
    /// The flying data of these windows is committed or lost. Returns what it held of the budget.
    fn settle(&mut self, indexes: impl Iterator<Item = u64>) -> usize {
        let mut cost = 0;
        for index in indexes {
            let Some(window) = self.dirty.get_mut(&index) else { continue };
            if let Some(flying) = window.flying.take() {
                self.dirty_bytes -= flying.bytes as u64;
                cost += flying.cost;
            }
            if window.active.is_empty() {
                self.dirty.remove(&index);
            }
        }
        cost
    }
}

/// What a commit did to a window. `alone`: nobody else changed the file since its layout was last known.
fn change(window: &WindowCommit, alone: bool, size_before: u64) -> Change<'_> {
    let whole = matches!(window.slices.as_slice(), [only] if only.position == 0 && only.length == WINDOW);
    // There is never a slice beyond the end of a file.
    let was_empty = alone && window.index.0 * CHUNK_SIZE >= size_before;
    if window.replaces.is_some() || whole || was_empty {
        Change::Replace(&window.slices)
    } else if alone {
        Change::Append(&window.slices)
    } else {
        Change::Unknown
    }
}

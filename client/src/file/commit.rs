//! Bringing chunks that were put into the namespace, and what follows for the inode.

use super::flusher::{Outcome, Prepared, cannot_merge, put_merged, put_packed};
use super::inode::{Inode, State};
use super::jobs::{About, JobWindow};
use super::layout::Change;
use crate::error::MutateError;
use bytes::Bytes;
use quarry_common::ids::WindowIndex;
use quarry_common::limits::CHUNK_SIZE;
use quarry_common::slices::WINDOW;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, Commit, Mutation, MutationReply, WindowCommit};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// A chunk is written again this often: with the pauses some 20 s, longer than a dead DataNode is waited for.
const REWRITES_MAX: u32 = 45;
/// Pause before a chunk is written again, growing with each attempt up to ten times this.
const REWRITE_PAUSE: Duration = Duration::from_millis(50);
/// Attempts to merge a window that others change, before the data are put on top instead.
const MERGES_MAX: u32 = 8;
/// Attempts in any form.
const ROUNDS_MAX: u32 = 50;

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
    let mut rounds = 0;
    while let Some(mut job) = left.pop_front() {
        let refused = match send(inode, std::slice::from_mut(&mut job)).await {
            Ok((attr, windows)) => {
                inode.committed(std::slice::from_ref(&job), &attr, &windows);
                continue;
            }
            Err(refused) => refused,
        };
        rounds += 1;
        let must_merge = match refused {
            Refused::WindowChanged => false,
            // Too many slices: this mount did not know how many there were. Merging makes them few.
            Refused::Fs(FsError::Invalid) if !job.merge => true,
            Refused::Fs(error) => {
                inode.failed(&job.indexes(), error);
                continue;
            }
        };
        for index in job.indexes() {
            inode.state().layout.forget(index..index + 1);
            match put_again(inode, index, job.about, must_merge, rounds).await {
                Ok(again) => left.push_back(again),
                Err(error) => inode.failed(&[index], error),
            }
        }
    }
}

/// Puts one window of a refused job: merged, or on top where a merge is not to be had and not needed.
async fn put_again(
    inode: &Arc<Inode>,
    index: u64,
    about: About,
    must_merge: bool,
    rounds: u32,
) -> Result<Prepared, FsError> {
    if rounds > ROUNDS_MAX {
        tracing::error!(ino = %inode.ino, window = index, "the window is refused in every form");
        return Err(FsError::Io);
    }
    if must_merge || rounds <= MERGES_MAX {
        match put_merged(inode, index, about).await {
            Err(error) if !must_merge => cannot_merge(inode, error),
            result => return result,
        }
    }
    let pieces = inode.state().flying(index);
    put_packed(inode, vec![JobWindow { index, pieces }], about).await
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
        mtime: about().filter_map(|a| a.mtime).max(),
        kill_suidgid: about().any(|a| a.kill_at.is_some()),
        lease: None,
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
            state.replaced = false;
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
    /// The data of a window that are on their way.
    fn flying(&self, index: u64) -> Vec<(u32, Bytes)> {
        let flying = self.dirty.get(&index).and_then(|w| w.flying.as_ref());
        flying.map(|flying| flying.pieces.clone()).expect("a job's data fly until it is settled")
    }

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

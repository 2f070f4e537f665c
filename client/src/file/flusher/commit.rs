//! Bringing chunks that were put into the namespace, and what follows for the inode.

use super::Outcome;
use super::put::{Prepared, cannot_merge, put_merged, put_packed};
use crate::error::MutateError;
use crate::file::buffer::{About, JobWindow};
use crate::file::inode::Inode;
use quarry_common::ids::WindowIndex;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, Commit, Mutation, MutationReply};
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
    Fenced,
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
            _ if inode.state().is_void(&windows) => inode.dropped(&windows),
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
            Refused::Fenced => {
                inode.fence(|generation| Some(generation) == job.about.lease);
                inode.dropped(&job.indexes());
                continue;
            }
            _ if inode.state().is_void(&job.indexes()) => {
                inode.dropped(&job.indexes());
                continue;
            }
            // Too many slices: this mount did not know how many there were. Merging makes them few.
            Refused::Fs(FsError::Invalid) if !job.merge => true,
            Refused::Fs(error) => {
                inode.failed(&job.indexes(), error);
                continue;
            }
        };
        for index in job.indexes() {
            inode.state().forget_windows(index..index + 1);
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
    let pieces = inode.state().flying(index).to_vec();
    put_packed(inode, vec![JobWindow { index, pieces }], about).await
}

/// Sends one commit for all jobs, putting chunks again that the NameNode does not take.
async fn send(inode: &Inode, jobs: &mut [Prepared]) -> Result<Committed, Refused> {
    for attempt in 0..REWRITES_MAX {
        match inode.shared.meta.mutate(Mutation::Commit(make_commit(inode, jobs))).await {
            Ok(MutationReply::Committed { attr, windows }) => return Ok((attr, windows)),
            Ok(other) => {
                tracing::error!(?other, "the NameNode answers a commit with something else");
                return Err(FsError::Io.into());
            }
            Err(MutateError::Fs(error)) => return Err(error.into()),
            Err(MutateError::WindowChanged) => return Err(Refused::WindowChanged),
            Err(MutateError::Fenced) => return Err(Refused::Fenced),
            Err(MutateError::RewriteChunk { chunk, reason }) => {
                tracing::debug!(ino = %inode.ino, %chunk, reason, "writing a chunk again");
                tokio::time::sleep(REWRITE_PAUSE * attempt.min(10)).await;
                let Some(job) = jobs.iter_mut().find(|job| job.chunk.info.id == chunk) else {
                    tracing::error!(%chunk, "the NameNode refuses a chunk that was not offered");
                    return Err(FsError::Io.into());
                };
                job.chunk = inode.shared.io.put(inode.ino, job.data.clone(), job.about.durable).await?;
                job.name_chunk(Some(chunk));
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
        // Jobs of one commit are under one lease.
        lease: jobs.first().and_then(|job| job.about.lease),
    }
}

impl Inode {
    /// The NameNode has the data.
    fn committed(&self, jobs: &[Prepared], attr: &Attr, windows: &[(WindowIndex, u64, u32)]) {
        for job in jobs {
            // What was just written is often read next, and it is in memory anyway.
            self.shared.fetcher.cache().insert(job.chunk.info.id, 0, &job.data);
            if !job.about.durable {
                self.shared.unsynced.add(self.ino, job.chunk.clone());
            }
        }
        let placed = jobs.iter().flat_map(|job| &job.windows);
        let placed = placed.zip(windows).map(|(window, (index, version, count))| {
            debug_assert_eq!(window.index, *index);
            (window, *version, *count)
        });
        let kill_at = jobs.iter().filter_map(|job| job.about.kill_at).max();
        let mut state = self.state();
        let settled = state.committed(attr, placed, kill_at);
        self.after(settled, state);
    }

    /// The data cannot be written: every handle will learn it, and the memory is freed.
    fn failed(&self, indexes: &[u64], error: FsError) {
        tracing::warn!(ino = %self.ino, windows = ?indexes, %error, "written data is lost");
        let mut state = self.state();
        let settled = state.failed(indexes, error);
        self.after(settled, state);
    }
}

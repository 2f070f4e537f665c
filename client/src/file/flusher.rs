//! The task that sends a file's dirty data: several chunks at once, committed in the order of the writes.

use super::commit;
use super::inode::Inode;
use super::jobs::{About, Job, JobWindow};
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, StreamExt};
use quarry_common::ids::WindowIndex;
use quarry_common::limits::COMMIT_SLICES_MAX;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{NewChunk, Slice, WindowCommit};
use std::sync::Arc;

/// A chunk that was put, ready to be committed.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) windows: Vec<WindowCommit>,
    pub(crate) data: Bytes,
    pub(crate) chunk: NewChunk,
    pub(crate) about: About,
    /// Its window was merged.
    pub(crate) merge: bool,
}

impl Prepared {
    /// Makes all slices name the chunk.
    pub(crate) fn name_chunk(&mut self) {
        for slice in self.windows.iter_mut().flat_map(|w| &mut w.slices) {
            slice.chunk = Some(self.chunk.info.id);
        }
    }

    /// The windows that it has data of.
    pub(crate) fn indexes(&self) -> Vec<u64> {
        self.windows.iter().map(|w| w.index.0).collect()
    }

    fn slices(&self) -> usize {
        self.windows.iter().map(|w| w.slices.len()).sum()
    }
}

/// A job after its put.
pub(crate) struct Outcome {
    /// The windows that it took.
    pub(crate) windows: Vec<u64>,
    pub(crate) result: Result<Prepared, FsError>,
}

/// Sends until nothing is to be sent. At most one of these runs for an inode; [`State::flushing`] says so.
///
/// [`State::flushing`]: super::inode::State::flushing
pub(crate) async fn run(inode: Arc<Inode>) {
    // Twice as many jobs as puts: the next data is at hand when a put ends.
    let jobs_max = inode.files.config.puts * 2;
    let mut puts: FuturesOrdered<BoxFuture<'static, Outcome>> = FuturesOrdered::new();
    let mut ready: Vec<Outcome> = Vec::new();
    let mut commit: Option<BoxFuture<'static, ()>> = None;
    loop {
        while puts.len() + ready.len() < jobs_max {
            let job = inode.state().next_job();
            let Some(job) = job else { break };
            puts.push_back(start(&inode, job));
        }
        if commit.is_none() && !ready.is_empty() {
            commit = Some(commit::commit(Arc::clone(&inode), next_batch(&mut ready)).boxed());
        }
        if commit.is_none() && puts.is_empty() {
            match last_job(&inode) {
                Some(job) => puts.push_back(start(&inode, job)),
                None => return,
            }
        }
        tokio::select! {
            Some(outcome) = puts.next(), if !puts.is_empty() => {
                ready.push(outcome);
                while let Some(Some(outcome)) = puts.next().now_or_never() {
                    ready.push(outcome);
                }
            }
            () = async { commit.as_mut().expect("checked").await }, if commit.is_some() => commit = None,
            () = inode.work.notified() => {}
        }
    }
}

/// Something to send after all, or else the flusher has ended.
fn last_job(inode: &Inode) -> Option<Job> {
    let mut state = inode.state();
    let job = state.next_job();
    state.flushing = job.is_some();
    job
}

fn next_batch(ready: &mut Vec<Outcome>) -> Vec<Outcome> {
    let (mut slices, mut count) = (0, 0);
    for outcome in ready.iter() {
        slices += outcome.result.as_ref().map_or(0, Prepared::slices);
        if slices > COMMIT_SLICES_MAX {
            break;
        }
        count += 1;
    }
    ready.drain(..count.max(1)).collect()
}

/// Prepares a job in a task of its own.
fn start(inode: &Arc<Inode>, job: Job) -> BoxFuture<'static, Outcome> {
    let windows: Vec<u64> = job.windows.iter().map(|w| w.index).collect();
    let task = inode.files.runtime.spawn(prepare(Arc::clone(inode), job));
    async move {
        let result = task.await.unwrap_or_else(|error| {
            tracing::error!(%error, "sending data failed");
            Err(FsError::Io)
        });
        Outcome { windows, result }
    }
    .boxed()
}

async fn prepare(inode: Arc<Inode>, job: Job) -> Result<Prepared, FsError> {
    let _permit = inode.files.puts.acquire().await.map_err(|_| FsError::Io)?;
    if job.merge {
        match put_merged(&inode, job.windows[0].index, job.about).await {
            Ok(prepared) => return Ok(prepared),
            Err(error) => cannot_merge(&inode, error),
        }
    }
    put_packed(&inode, job.windows, job.about).await
}

/// A merge only keeps lists short. What the program wrote must not be lost because older data of its window cannot
/// be read: it is put on top instead.
pub(crate) fn cannot_merge(inode: &Inode, error: FsError) {
    tracing::warn!(ino = %inode.ino, %error, "cannot merge a window, its list grows");
}

/// Puts the data of some windows as they were written.
pub(crate) async fn put_packed(
    inode: &Arc<Inode>,
    windows: Vec<JobWindow>,
    about: About,
) -> Result<Prepared, FsError> {
    let (data, windows) = pack(windows);
    inode.state().share(&data, &windows);
    put(inode, data, windows, about, false).await
}

/// Puts what a window shows with its flying data on top.
pub(crate) async fn put_merged(inode: &Arc<Inode>, index: u64, about: About) -> Result<Prepared, FsError> {
    let merged = inode.merged(index).await?;
    let (replaces, slices) = (Some(merged.replaces), merged.slices);
    let window = WindowCommit { index: WindowIndex(index), replaces, slices };
    put(inode, merged.data, vec![window], about, true).await
}

async fn put(
    inode: &Inode,
    data: Bytes,
    windows: Vec<WindowCommit>,
    about: About,
    merge: bool,
) -> Result<Prepared, FsError> {
    let chunk = inode.files.io.put(inode.ino, data.clone(), about.durable).await?;
    let mut prepared = Prepared { windows, data, chunk, about, merge };
    prepared.name_chunk();
    Ok(prepared)
}

/// Lays the data of several windows out one after the other. The slices' chunk is still to be filled in.
fn pack(windows: Vec<JobWindow>) -> (Bytes, Vec<WindowCommit>) {
    let mut placed = Vec::with_capacity(windows.len());
    let mut offset = 0;
    for window in &windows {
        let slices = window.runs().into_iter().map(|run| {
            let length = run.end - run.start;
            let slice = Slice { position: run.start, length, chunk: None, chunk_offset: offset };
            offset += length;
            slice
        });
        let slices = slices.collect();
        placed.push(WindowCommit { index: WindowIndex(window.index), replaces: None, slices });
    }
    let mut pieces = windows.into_iter().flat_map(|w| w.pieces).map(|(_, data)| data);
    let first = pieces.next().expect("a job has data");
    if first.len() == offset as usize {
        return (first, placed);
    }
    let mut data = BytesMut::with_capacity(offset as usize);
    data.extend_from_slice(&first);
    for piece in pieces {
        data.extend_from_slice(&piece);
    }
    (data.freeze(), placed)
}

impl super::inode::State {
    /// The flying data are now parts of their chunk, so that the bytes as they were written can be freed.
    fn share(&mut self, data: &Bytes, windows: &[WindowCommit]) {
        for window in windows {
            let Some(flying) = self.dirty.get_mut(&window.index.0).and_then(|w| w.flying.as_mut()) else {
                continue;
            };
            let part = |s: &Slice| {
                let start = s.chunk_offset as usize;
                (s.position, data.slice(start..start + s.length as usize))
            };
            flying.pieces = window.slices.iter().map(part).collect();
        }
    }
}

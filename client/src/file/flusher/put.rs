//! Making chunks of jobs: packed as they were written, or merged with what the window has.

use crate::file::buffer::{About, Job, JobWindow};
use crate::file::inode::Inode;
use bytes::{Bytes, BytesMut};
use quarry_common::ids::{ChunkId, WindowIndex};
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
    /// Makes the slices of its data name the chunk, in place of the `old` one that they named so far.
    pub(crate) fn name_chunk(&mut self, old: Option<ChunkId>) {
        for slice in self.windows.iter_mut().flat_map(|w| &mut w.slices) {
            if slice.chunk == old {
                slice.chunk = Some(self.chunk.info.id);
            }
        }
    }

    /// The windows that it has data of.
    pub(crate) fn indexes(&self) -> Vec<u64> {
        self.windows.iter().map(|w| w.index.0).collect()
    }

    /// Slices in all windows.
    pub(crate) fn slices(&self) -> usize {
        self.windows.iter().map(|w| w.slices.len()).sum()
    }
}

/// Puts a job.
///
/// # Errors
/// Those of the DataNodes.
pub(crate) async fn prepare(inode: Arc<Inode>, job: Job) -> Result<Prepared, FsError> {
    let _permit = inode.shared.puts.acquire().await.map_err(|_| FsError::Io)?;
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
    let chunk = inode.shared.io.put(inode.ino, data.clone(), about.durable).await?;
    let mut prepared = Prepared { windows, data, chunk, about, merge };
    prepared.name_chunk(None);
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

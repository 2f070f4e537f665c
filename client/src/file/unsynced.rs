//! Chunks that were committed and may not be on every holder's disk yet.
//!
//! They are kept by inode, also after its last handle was closed: `fsync` of a file covers what any process wrote
//! through this mount. After a while they are synced in the background, so that the table stays small.
//!
//! What was copied by reference may be of a file that another mount wrote a moment ago. Which of its chunks are on the disks nobody
//! here knows, so `fsync` of the copy asks for all of them.

use crate::traits::{ChunkIo, Meta};
use quarry_common::ids::{ChunkId, Ino, WindowIndex};
use quarry_common::limits::{CHUNK_SIZE, COMMIT_SLICES_MAX, LAYOUT_WINDOWS_MAX};
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{NewChunk, Query, QueryReply, Window};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// DataNodes sync by themselves within seconds, so that asking after this time costs them little.
const SYNC_AFTER: Duration = Duration::from_secs(10);
/// Chunks in the table beyond which the oldest are synced at once: about 1 MiB of memory, 16 GiB of data.
const CHUNKS_MAX: usize = 8192;

/// The table.
#[derive(Default)]
pub(crate) struct Unsynced(Mutex<Table>);

#[derive(Default)]
struct Table {
    files: BTreeMap<Ino, Vec<(Instant, NewChunk)>>,
    count: usize,
    /// Windows into which something was copied, and what is between them; and when the last was.
    copies: BTreeMap<Ino, (Instant, Range<u64>)>,
}

impl Unsynced {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A chunk was committed that was not put durably.
    pub(crate) fn add(&self, ino: Ino, chunk: NewChunk) {
        let mut table = self.table();
        table.files.entry(ino).or_default().push((Instant::now(), chunk));
        table.count += 1;
    }

    /// Another file names the same chunks now: its `fsync` needs them as well.
    pub(crate) fn share(&self, from: Ino, to: Ino) {
        let mut table = self.table();
        let Some(mut chunks) = table.files.get(&from).cloned() else { return };
        let list = table.files.entry(to).or_default();
        let have: HashSet<_> = list.iter().map(|(_, chunk)| chunk.info.id).collect();
        chunks.retain(|(_, chunk)| !have.contains(&chunk.info.id));
        list.extend_from_slice(&chunks);
        table.count += chunks.len();
    }

    /// Bytes were copied into a range of a file.
    pub(crate) fn copied(&self, to: Ino, range: Range<u64>) {
        let windows = range.start / CHUNK_SIZE..range.end.div_ceil(CHUNK_SIZE);
        let mut table = self.table();
        let (at, all) = table.copies.entry(to).or_insert_with(|| (Instant::now(), windows.clone()));
        *at = Instant::now();
        *all = all.start.min(windows.start)..all.end.max(windows.end);
    }

    /// Whether chunks of a file are in the table.
    pub(crate) fn has(&self, ino: Ino) -> bool {
        let table = self.table();
        table.files.contains_key(&ino) || table.copies.contains_key(&ino)
    }

    /// More chunks wait than should.
    pub(crate) fn is_full(&self) -> bool {
        self.table().count >= CHUNKS_MAX
    }

    /// Waits until the chunks of one file are on the disks.
    ///
    /// # Errors
    /// When that cannot be reached; the chunks stay in the table.
    pub(crate) async fn sync(&self, ino: Ino, meta: &dyn Meta, io: &dyn ChunkIo) -> Result<(), FsError> {
        self.sync_copy(ino, meta, io).await?;
        let chunks = match self.table().files.get(&ino) {
            Some(chunks) => chunks.iter().map(|(_, chunk)| (ino, chunk.clone())).collect(),
            None => return Ok(()),
        };
        self.sync_these(chunks, meta, io).await
    }

    /// Syncs all that a file refers to where something was copied into it.
    async fn sync_copy(&self, ino: Ino, meta: &dyn Meta, io: &dyn ChunkIo) -> Result<(), FsError> {
        let Some((at, all)) = self.table().copies.get(&ino).cloned() else { return Ok(()) };
        let mut from = all.start;
        while from < all.end {
            let next = windows_of(meta, Query::NextWindow { ino, from: WindowIndex(from) }).await?;
            let Some(first) = next.first().map(|w| w.index.0).filter(|w| (from..all.end).contains(w)) else {
                break;
            };
            let count = (all.end - first).min(LAYOUT_WINDOWS_MAX.into());
            let query = Query::Layout { ino, first: WindowIndex(first), count: count as u32 };
            let slices = windows_of(meta, query).await?.into_iter().flat_map(|window| window.slices);
            let ids: BTreeSet<ChunkId> = slices.filter_map(|slice| slice.chunk).collect();
            for batch in ids.into_iter().collect::<Vec<_>>().chunks(COMMIT_SLICES_MAX) {
                // Those that are gone since belong to no file any more.
                if let QueryReply::Chunks(known) = meta.query(Query::Chunks { ids: batch.to_vec() }).await? {
                    let anywhere = |info| NewChunk { info, holders: Vec::new() };
                    io.sync(&known.into_iter().map(anywhere).collect::<Vec<_>>()).await?;
                }
            }
            from = first + count;
        }
        let mut table = self.table();
        if table.copies.get(&ino).is_some_and(|(last, _)| *last == at) {
            table.copies.remove(&ino);
        }
        Ok(())
    }

    /// Syncs what has waited long enough, or half of everything when there is too much.
    ///
    /// # Errors
    /// As [`Unsynced::sync`].
    pub(crate) async fn sync_aged(&self, meta: &dyn Meta, io: &dyn ChunkIo) -> Result<(), FsError> {
        let full = self.is_full();
        let age = if full { Duration::ZERO } else { SYNC_AFTER };
        self.sync_older(age, if full { CHUNKS_MAX / 2 } else { usize::MAX }, meta, io).await
    }

    /// Syncs everything.
    ///
    /// # Errors
    /// As [`Unsynced::sync`].
    pub(crate) async fn sync_all(&self, meta: &dyn Meta, io: &dyn ChunkIo) -> Result<(), FsError> {
        self.sync_older(Duration::ZERO, usize::MAX, meta, io).await
    }

    async fn sync_older(
        &self,
        age: Duration,
        limit: usize,
        meta: &dyn Meta,
        io: &dyn ChunkIo,
    ) -> Result<(), FsError> {
        let copies: Vec<Ino> = {
            let table = self.table();
            let aged = table.copies.iter().filter(|(_, (since, _))| since.elapsed() >= age);
            aged.map(|(ino, _)| *ino).collect()
        };
        for ino in copies {
            match self.sync_copy(ino, meta, io).await {
                // It is removed.
                Err(FsError::Stale) => drop(self.table().copies.remove(&ino)),
                result => result?,
            }
        }
        let chunks: Vec<(Ino, NewChunk)> = {
            let table = self.table();
            let all = table.files.iter().flat_map(|(ino, list)| list.iter().map(move |entry| (*ino, entry)));
            let aged = all.filter(|(_, (since, _))| since.elapsed() >= age);
            aged.map(|(ino, (_, chunk))| (ino, chunk.clone())).take(limit).collect()
        };
        for batch in chunks.chunks(COMMIT_SLICES_MAX) {
            self.sync_these(batch.to_vec(), meta, io).await?;
        }
        Ok(())
    }

    async fn sync_these(
        &self,
        chunks: Vec<(Ino, NewChunk)>,
        meta: &dyn Meta,
        io: &dyn ChunkIo,
    ) -> Result<(), FsError> {
        for batch in chunks.chunks(COMMIT_SLICES_MAX) {
            let list: Vec<NewChunk> = batch.iter().map(|(_, chunk)| chunk.clone()).collect();
            if let Err(error) = io.sync(&list).await {
                // Chunks that were overwritten meanwhile may be deleted already: nobody misses them.
                let left = still_referenced(list, meta).await?;
                if left.len() == batch.len() {
                    return Err(error);
                }
                io.sync(&left).await?;
            }
            self.remove(batch);
        }
        Ok(())
    }

    fn remove(&self, chunks: &[(Ino, NewChunk)]) {
        let mut table = self.table();
        let mut by_file: BTreeMap<Ino, HashSet<_>> = BTreeMap::new();
        for (ino, chunk) in chunks {
            by_file.entry(*ino).or_default().insert(chunk.info.id);
        }
        for (ino, gone) in by_file {
            let Some(list) = table.files.get_mut(&ino) else { continue };
            let before = list.len();
            list.retain(|(_, chunk)| !gone.contains(&chunk.info.id));
            let removed = before - list.len();
            if list.is_empty() {
                table.files.remove(&ino);
            }
            table.count -= removed;
        }
    }
}

async fn still_referenced(mut list: Vec<NewChunk>, meta: &dyn Meta) -> Result<Vec<NewChunk>, FsError> {
    let ids = list.iter().map(|chunk| chunk.info.id).collect();
    match meta.query(Query::Chunks { ids }).await? {
        QueryReply::Chunks(known) => {
            let known: HashSet<_> = known.into_iter().map(|info| info.id).collect();
            list.retain(|chunk| known.contains(&chunk.info.id));
            Ok(list)
        }
        other => {
            tracing::error!(?other, "the NameNode answers a question for chunks with something else");
            Err(FsError::Io)
        }
    }
}

async fn windows_of(meta: &dyn Meta, query: Query) -> Result<Vec<Window>, FsError> {
    match meta.query(query).await? {
        QueryReply::Layout { windows, .. } => Ok(windows),
        other => {
            tracing::error!(?other, "the NameNode answers a question for a layout with something else");
            Err(FsError::Io)
        }
    }
}

//! Chunks that were committed and may not be on every holder's disk yet.
//!
//! They are kept by inode, also after its last handle was closed: `fsync` of a file covers what any process wrote
//! through this mount. After a while they are synced in the background, so that the table stays small.

use crate::traits::{ChunkIo, Meta};
use quarry_common::ids::Ino;
use quarry_common::limits::COMMIT_SLICES_MAX;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{NewChunk, Query, QueryReply};
use std::collections::{BTreeMap, HashSet};
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

    /// Whether chunks of a file are in the table.
    pub(crate) fn has(&self, ino: Ino) -> bool {
        self.table().files.contains_key(&ino)
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
        let chunks = match self.table().files.get(&ino) {
            Some(chunks) => chunks.iter().map(|(_, chunk)| (ino, chunk.clone())).collect(),
            None => return Ok(()),
        };
        self.sync_these(chunks, meta, io).await
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

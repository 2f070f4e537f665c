//! What the files of a mount share: the way to the cluster, memory, and their settings.

use super::budget::Budget;
use super::cache::BlockCache;
use super::fetch::Fetcher;
use super::space::{Ask, Room, Space};
use super::unsynced::Unsynced;
use crate::error::unexpected;
use crate::traits::{ChunkIo, Meta};
use quarry_common::ids::Ino;
use quarry_common::wire::fs::{Query, QueryReply};
use quarry_host::task::Spawner;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// A write waits at most this long for the answer whether there is room.
const SPACE_TIME: Duration = Duration::from_secs(1);

/// Sizes of a mount's memory and how much goes on at once.
#[derive(Clone, Debug)]
pub(crate) struct FilesConfig {
    /// Bytes of chunks kept for reading.
    pub(crate) cache_bytes: usize,
    /// Written bytes that may wait for the cluster.
    pub(crate) write_buffer_bytes: usize,
    /// Bytes that a sequential reader is ahead of itself, at most.
    pub(crate) prefetch_bytes: u64,
    /// Chunks that are sent at once.
    pub(crate) puts: usize,
    /// Pieces of chunks that are fetched at once.
    pub(crate) gets: usize,
}

impl Default for FilesConfig {
    fn default() -> Self {
        Self {
            cache_bytes: 256 << 20,
            write_buffer_bytes: 64 << 20,
            prefetch_bytes: 16 << 20,
            puts: 8,
            gets: 32,
        }
    }
}

/// Called once for each handle that is closed, when its inode has no dirty data left: from then on, the NameNode need not keep
/// the inode for this handle.
pub(crate) type Closed = Box<dyn Fn(Ino) + Send + Sync>;

/// Shared by all files of one mount.
pub(crate) struct Shared {
    pub(crate) meta: Arc<dyn Meta>,
    pub(crate) io: Arc<dyn ChunkIo>,
    pub(crate) config: FilesConfig,
    pub(crate) budget: Budget,
    pub(crate) space: Space,
    pub(crate) fetcher: Arc<Fetcher>,
    pub(crate) puts: Semaphore,
    pub(crate) unsynced: Unsynced,
    pub(crate) runtime: Spawner,
    pub(crate) closed: Closed,
    /// Times that buffered data of a file were dropped because their lease was broken.
    pub(crate) fenced: AtomicU64,
}

impl Shared {
    /// Must be called within a tokio runtime, which will run the background work.
    pub(crate) fn new(
        meta: Arc<dyn Meta>,
        io: Arc<dyn ChunkIo>,
        config: FilesConfig,
        closed: Closed,
    ) -> Self {
        let cache = BlockCache::new(config.cache_bytes);
        Self {
            fetcher: Fetcher::new(Arc::clone(&io), cache, config.gets),
            budget: Budget::new(config.write_buffer_bytes),
            space: Space::default(),
            puts: Semaphore::new(config.puts),
            unsynced: Unsynced::default(),
            runtime: Spawner::current(),
            meta,
            io,
            config,
            closed,
            fenced: AtomicU64::new(0),
        }
    }

    /// Counts a write, and tells whether the cluster has room for it.
    pub(crate) async fn room_for(self: &Arc<Self>, bytes: u64) -> Room {
        match self.space.must_ask(Instant::now()) {
            Ask::No => {}
            Ask::Beside => drop(self.runtime.spawn(Arc::clone(self).ask_space())),
            Ask::First => {
                let asking = self.runtime.spawn(Arc::clone(self).ask_space());
                // The question goes on when the time is over.
                let _ = tokio::time::timeout(SPACE_TIME, asking).await;
            }
        }
        self.space.write(bytes)
    }

    async fn ask_space(self: Arc<Self>) {
        let stat = match self.meta.query(Query::StatFs).await {
            Ok(QueryReply::StatFs(stat)) => Some(stat),
            Ok(other) => {
                unexpected(&other);
                None
            }
            Err(error) => {
                tracing::debug!(%error, "the free space is not known");
                None
            }
        };
        self.space.answered(stat, self.budget.used() as u64, Instant::now());
    }

    /// How far a reader may be ahead. It shares the cache with what it has not read yet: what comes too early is
    /// gone too early.
    pub(crate) fn prefetch_max(&self) -> u64 {
        self.config.prefetch_bytes.min(self.config.cache_bytes as u64 / 4)
    }
}

//! All files of a mount: the registry of inodes and what they share.

use super::budget::Budget;
use super::cache::BlockCache;
use super::errors::ErrorLog;
use super::fetch::Fetcher;
use super::inode::Inode;
use super::open_file::{OpenFile, OpenMode};
use super::unsynced::Unsynced;
use crate::traits::{ChunkIo, Meta};
use futures::future::join_all;
use quarry_common::ids::Ino;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::Attr;
use quarry_host::clock::Clock;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// Written data waits at most about this long for its flush.
pub(crate) const FLUSH_AFTER: Duration = Duration::from_secs(4);
/// Files whose errors are kept for their next openers.
const UNSEEN_MAX: usize = 1024;
/// How often the age of written data is looked at: with `FLUSH_AFTER`, data is on its way after 5 s.
const TICK: Duration = Duration::from_secs(1);

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

/// Told once for each [`OpenFile`], when it is closed and its inode has no dirty data left: from then on, the
/// NameNode need not keep the inode for this handle.
pub(crate) type Closed = Box<dyn Fn(Ino) + Send + Sync>;

/// The files of one mount.
pub(crate) struct Files {
    pub(crate) meta: Arc<dyn Meta>,
    pub(crate) io: Arc<dyn ChunkIo>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) config: FilesConfig,
    pub(crate) budget: Budget,
    pub(crate) fetcher: Arc<Fetcher>,
    pub(crate) puts: Semaphore,
    pub(crate) unsynced: Unsynced,
    pub(crate) runtime: Handle,
    pub(crate) closed: Closed,
    inodes: Mutex<HashMap<Ino, Weak<Inode>>>,
    /// Inodes with dirty data, which stay alive until it is committed.
    dirty: Mutex<HashMap<Ino, Arc<Inode>>>,
    /// Errors of files without handles that nobody has seen: the next opener does.
    unseen: Mutex<HashMap<Ino, FsError>>,
}

impl Files {
    /// Must be called within a tokio runtime, which will run the background work.
    pub(crate) fn new(
        meta: Arc<dyn Meta>,
        io: Arc<dyn ChunkIo>,
        clock: Arc<dyn Clock>,
        config: FilesConfig,
        closed: Closed,
    ) -> Arc<Self> {
        let cache = BlockCache::new(config.cache_bytes);
        let files = Arc::new(Self {
            fetcher: Fetcher::new(Arc::clone(&io), cache, config.gets),
            budget: Budget::new(config.write_buffer_bytes),
            puts: Semaphore::new(config.puts),
            unsynced: Unsynced::default(),
            runtime: Handle::current(),
            inodes: Mutex::default(),
            dirty: Mutex::default(),
            unseen: Mutex::default(),
            meta,
            io,
            clock,
            config,
            closed,
        });
        files.runtime.spawn(flush_by_age(Arc::downgrade(&files)));
        files.runtime.spawn(sync_by_age(Arc::downgrade(&files)));
        files
    }

    /// A new handle of a file, whose attributes were just read.
    pub(crate) fn open(self: &Arc<Self>, attr: &Attr, mode: OpenMode) -> Arc<OpenFile> {
        Arc::new(OpenFile::new(self.inode(attr), mode))
    }

    /// The attributes as this mount sees them: with what is written and not committed. To be called with every
    /// answer of the NameNode about a file: it also tells what others changed.
    pub(crate) fn overlay_attr(&self, attr: Attr) -> Attr {
        let Some(inode) = self.known(attr.ino) else { return attr };
        let mut state = inode.state();
        state.observe(&attr);
        state.overlaid()
    }

    /// Forgets what is known of a file's layout, when its lease was recalled.
    pub(crate) fn invalidate(&self, ino: Ino) {
        if let Some(inode) = self.known(ino) {
            inode.state().layout.clear();
        }
    }

    /// Inodes with handles or dirty data.
    #[cfg(test)]
    pub(crate) fn inos(&self) -> Vec<Ino> {
        self.inodes().keys().copied().collect()
    }

    /// Sends everything and waits until all of it is committed and on the disks.
    ///
    /// # Errors
    /// When chunks could not be synced.
    pub(crate) async fn shutdown(&self) -> Result<(), FsError> {
        while !self.dirty().is_empty() {
            self.flush_all().await;
        }
        self.unsynced.sync_all(&*self.meta, &*self.io).await
    }

    /// Sends everything that is dirty now, and waits for it.
    pub(crate) async fn flush_all(&self) {
        let inodes = self.dirty_inodes();
        join_all(inodes.iter().map(|inode| inode.flush(false))).await;
    }

    /// Begins to send everything that is dirty now.
    pub(crate) fn start_flush(&self) {
        for inode in self.dirty_inodes() {
            let sequence = inode.state().sequence;
            inode.start_flush(sequence, false);
        }
    }

    /// How far a reader may be ahead: a quarter of the cache at most, or what is fetched early is gone too early.
    pub(crate) fn prefetch_max(&self) -> u64 {
        self.config.prefetch_bytes.min(self.config.cache_bytes as u64 / 4)
    }

    /// The inode, if it has handles or dirty data.
    pub(crate) fn known(&self, ino: Ino) -> Option<Arc<Inode>> {
        self.inodes().get(&ino)?.upgrade()
    }

    /// The inode has dirty data: it stays alive.
    pub(crate) fn keep(&self, inode: &Arc<Inode>) {
        self.dirty().insert(inode.ino, Arc::clone(inode));
    }

    /// The inode has no dirty data any more. The caller holds the inode as well.
    pub(crate) fn unkeep(&self, ino: Ino) {
        self.dirty().remove(&ino);
    }

    /// The last reference to an inode has gone.
    pub(crate) fn forget(&self, ino: Ino, unseen: Option<FsError>) {
        if let Some(error) = unseen {
            let mut all = self.unseen.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() < UNSEEN_MAX {
                all.insert(ino, error);
            }
        }
        let mut inodes = self.inodes();
        // Another may have come under the same number meanwhile.
        if inodes.get(&ino).is_some_and(|weak| weak.strong_count() == 0) {
            inodes.remove(&ino);
        }
    }

    /// An error of this file that nobody has seen.
    pub(crate) fn unseen_error(&self, ino: Ino) -> ErrorLog {
        let error = self.unseen.lock().unwrap_or_else(PoisonError::into_inner).remove(&ino);
        error.map_or_else(ErrorLog::default, ErrorLog::with)
    }

    /// The inode, if it has data that are not committed.
    pub(crate) fn dirty_inode(&self, ino: Ino) -> Option<Arc<Inode>> {
        self.dirty().get(&ino).cloned()
    }

    fn inode(self: &Arc<Self>, attr: &Attr) -> Arc<Inode> {
        let mut inodes = self.inodes();
        let known = inodes.get(&attr.ino).and_then(Weak::upgrade);
        if let Some(inode) = known {
            drop(inodes);
            inode.state().observe(attr);
            return inode;
        }
        let inode = Arc::new(Inode::new(Arc::clone(self), attr.clone()));
        inodes.insert(attr.ino, Arc::downgrade(&inode));
        inode
    }

    fn inodes(&self) -> MutexGuard<'_, HashMap<Ino, Weak<Inode>>> {
        self.inodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dirty(&self) -> MutexGuard<'_, HashMap<Ino, Arc<Inode>>> {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dirty_inodes(&self) -> Vec<Arc<Inode>> {
        self.dirty().values().cloned().collect()
    }
}

/// Flushes what has waited long enough, until the mount is gone.
async fn flush_by_age(files: Weak<Files>) {
    loop {
        tokio::time::sleep(TICK).await;
        let Some(files) = files.upgrade() else { return };
        for inode in files.dirty_inodes() {
            inode.flush_aged();
        }
    }
}

/// Syncs chunks that nobody has asked to sync, until the mount is gone. Apart from flushing, which must not wait for
/// a DataNode that is away.
async fn sync_by_age(files: Weak<Files>) {
    loop {
        tokio::time::sleep(TICK).await;
        let Some(files) = files.upgrade() else { return };
        if let Err(error) = files.unsynced.sync_aged(&*files.meta, &*files.io).await {
            tracing::warn!(%error, "cannot sync chunks, will try again");
        }
    }
}

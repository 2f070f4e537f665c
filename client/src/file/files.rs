//! All files of a mount: the registry of inodes, and what goes on by itself.

use super::inode::Inode;
use super::open_file::{OpenFile, OpenMode};
use super::registry::Registry;
use super::shared::{Closed, FilesConfig, Shared};
use crate::session::ownership::is_broken;
use crate::traits::{ChunkIo, Meta};
use futures::future::join_all;
use quarry_common::ids::Ino;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::Attr;
use quarry_common::wire::session::Losses;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Written data waits at most about this long for its flush.
const FLUSH_AFTER: Duration = Duration::from_secs(4);
/// How often the age of written data is looked at: with `FLUSH_AFTER`, data is on its way after 5 s.
const TICK: Duration = Duration::from_secs(1);

/// The files of one mount.
pub(crate) struct Files {
    pub(crate) shared: Arc<Shared>,
    pub(crate) registry: Arc<Registry<Inode>>,
}

impl Files {
    /// Must be called within a tokio runtime, which will run the background work.
    pub(crate) fn new(
        meta: Arc<dyn Meta>,
        io: Arc<dyn ChunkIo>,
        config: FilesConfig,
        closed: Closed,
    ) -> Arc<Self> {
        let shared = Arc::new(Shared::new(meta, io, config, closed));
        let files = Arc::new(Self { shared, registry: Arc::default() });
        files.shared.runtime.spawn(flush_by_age(Arc::downgrade(&files)));
        files.shared.runtime.spawn(sync_by_age(Arc::downgrade(&files)));
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
            inode.state().forget_layout();
        }
    }

    /// Waits until everything that was written to a file through this mount is committed and on the disks, whether it is open
    /// or not.
    ///
    /// # Errors
    /// When chunks cannot be synced.
    pub(crate) async fn sync(&self, ino: Ino) -> Result<(), FsError> {
        match self.known(ino) {
            Some(inode) => inode.sync().await,
            None => {
                let Shared { unsynced, meta, io, .. } = &*self.shared;
                unsynced.sync(ino, &**meta, &**io).await
            }
        }
    }

    /// Whether something of a file that was written through this mount is not committed or not known to be on the disks.
    pub(crate) fn is_unsynced(&self, ino: Ino) -> bool {
        self.dirty_inode(ino).is_some() || self.shared.unsynced.has(ino)
    }

    /// The session has lost leases and locks. Returns the inodes that [refuse pages](Inode::refuse_pages) until the kernel has
    /// forgotten them.
    pub(crate) fn lost(&self, losses: &Losses) -> Vec<Arc<Inode>> {
        let named: Vec<_> = losses.leases.iter().filter_map(|lease| self.known(lease.ino)).collect();
        // First, so that a page either is refused or comes under the fence.
        named.iter().for_each(|inode| inode.refuse_pages());
        for inode in self.registry.all_dirty().iter().chain(&named) {
            inode.fence(|generation| is_broken(losses, inode.ino, generation));
        }
        self.locks_lost(&losses.locks);
        named
    }

    /// The session has ended: what was buffered under its leases is never written.
    pub(crate) fn expired(&self, locked: &[Ino]) {
        for inode in self.registry.all_dirty() {
            inode.fence(|_| true);
        }
        self.locks_lost(locked);
    }

    /// Locks on these files are lost.
    pub(crate) fn locks_lost(&self, inos: &[Ino]) {
        for inode in inos.iter().filter_map(|ino| self.known(*ino)) {
            tracing::error!(ino = %inode.ino, "locks are lost: nothing is read or written until the file is closed");
            inode.lose_locks();
        }
    }

    /// The numbers of the inodes with dirty data, in order.
    pub(crate) fn dirty_inos(&self) -> Vec<Ino> {
        let mut inos: Vec<Ino> = self.registry.all_dirty().iter().map(|inode| inode.ino).collect();
        inos.sort_unstable();
        inos
    }

    /// Inodes with handles or dirty data.
    #[cfg(test)]
    pub(crate) fn inos(&self) -> Vec<Ino> {
        self.registry.inos()
    }

    /// Sends everything and waits until all of it is committed and on the disks.
    ///
    /// # Errors
    /// When chunks could not be synced.
    pub(crate) async fn shutdown(&self) -> Result<(), FsError> {
        while !self.registry.all_dirty().is_empty() {
            self.flush_all().await;
        }
        let Shared { unsynced, meta, io, .. } = &*self.shared;
        unsynced.sync_all(&**meta, &**io).await
    }

    /// Sends everything that is dirty now, and waits until it is committed and on the disks.
    ///
    /// # Errors
    /// When chunks could not be synced.
    pub(crate) async fn sync_all(&self) -> Result<(), FsError> {
        self.flush_all().await;
        let Shared { unsynced, meta, io, .. } = &*self.shared;
        unsynced.sync_all(&**meta, &**io).await
    }

    /// Sends everything that is dirty now, and waits for it.
    pub(crate) async fn flush_all(&self) {
        let inodes = self.registry.all_dirty();
        join_all(inodes.iter().map(|inode| inode.flush(false))).await;
    }

    /// Files with dirty data, and the bytes that those take.
    pub(crate) fn unwritten(&self) -> (usize, usize) {
        (self.registry.all_dirty().len(), self.shared.budget.used())
    }

    /// The inode, if it has handles or dirty data.
    pub(crate) fn known(&self, ino: Ino) -> Option<Arc<Inode>> {
        self.registry.known(ino)
    }

    /// The inode, if it has data that are not committed.
    pub(crate) fn dirty_inode(&self, ino: Ino) -> Option<Arc<Inode>> {
        self.registry.dirty(ino)
    }

    fn inode(&self, attr: &Attr) -> Arc<Inode> {
        let make = || Inode::new(Arc::clone(&self.shared), Arc::clone(&self.registry), attr.clone());
        let (inode, known) = self.registry.find_or_make(attr.ino, make);
        if known {
            inode.state().observe(attr);
        }
        inode
    }
}

/// Flushes what has waited long enough, until the mount is gone.
async fn flush_by_age(files: Weak<Files>) {
    loop {
        tokio::time::sleep(TICK).await;
        let Some(files) = files.upgrade() else { return };
        for inode in files.registry.all_dirty() {
            inode.flush_aged(FLUSH_AFTER);
        }
    }
}

/// Syncs chunks that nobody has asked to sync, until the mount is gone. Apart from flushing, which must not wait for
/// a DataNode that is away.
async fn sync_by_age(files: Weak<Files>) {
    loop {
        tokio::time::sleep(TICK).await;
        let Some(files) = files.upgrade() else { return };
        let Shared { unsynced, meta, io, .. } = &*files.shared;
        if let Err(error) = unsynced.sync_aged(&**meta, &**io).await {
            tracing::warn!(%error, "cannot sync chunks, will try again");
        }
    }
}

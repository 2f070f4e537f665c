//! The facade: every operation of a file system, as the kernel would ask for it.

mod changes;
mod cluster;
mod entries;
mod listing;
mod locks;
mod names;
mod open;
mod owners;
mod privileges;
mod retries;

pub use changes::{Changes, ChangesError};
pub use entries::Entry;
pub use listing::Listing;
pub use names::DirPage;
pub use open::PagesRead;
pub use privileges::Credentials;
pub use retries::NewFile;

use crate::cache::{Cache, Invalidator};
use crate::config::ClientConfig;
use crate::error::ClientError;
use crate::file::{Files, FilesConfig, Inode};
use crate::meta::Metadata;
use crate::session::{Events, LossNotice, Session};
use crate::transfer::{PlacementCache, Transfer, follow};
use async_trait::async_trait;
use futures::future::join_all;
use owners::Owners;
use quarry_common::ids::{Ino, LeaseGeneration};
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, StatFs};
use quarry_common::wire::session::{LeaseGrant, Losses, Push};
use quarry_host::task;
use quarry_net::transport::Transport;
use retries::Retries;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Instant;

/// A file system that is connected to its cluster. Clones are the same one.
///
/// Operations wait for a cluster that is away, unless the configuration says for how long. To give up earlier, drop the
/// future: nothing is left half done, and a change that was under way happens completely or not at all.
///
/// Attributes that are returned include what was written through this file system and is not yet in the cluster.
#[derive(Clone)]
pub struct FileSystem(Arc<Inner>);

struct Inner {
    session: Arc<Session>,
    meta: Arc<Metadata>,
    files: Arc<Files>,
    cache: Arc<Cache>,
    transfer: Arc<Transfer>,
    owners: Owners,
    /// The root's attributes as they were last told.
    root: Mutex<Option<Attr>>,
    retries: Arc<Retries>,
    /// What was said of the capacity, and when.
    statfs: Mutex<Option<(StatFs, Instant)>>,
}

/// Data that only this file system has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unwritten {
    /// Files with such data.
    pub files: usize,
    /// Memory that they take.
    pub bytes: usize,
}

/// What the session tells, to whom it matters.
struct Hub {
    placement: Arc<PlacementCache>,
    cache: Arc<Cache>,
    /// There once the session is.
    files: OnceLock<Weak<Files>>,
    session: OnceLock<Weak<Session>>,
}

impl Hub {
    fn files(&self) -> Option<Arc<Files>> {
        self.files.get().and_then(Weak::upgrade)
    }

    fn recall(&self, number: u64, ino: Ino) {
        let inode = self.files().and_then(|files| files.known(ino));
        let about_to_put =
            |inode: &Arc<Inode>| !inode.writing.borrow().is_empty() && self.cache.is_exclusive(ino);
        match inode.filter(about_to_put) {
            Some(inode) => {
                let cache = self.cache.clone();
                task::spawn(async move {
                    inode.let_writers_go_first().await;
                    cache.recall(number, ino);
                });
            }
            None => self.cache.recall(number, ino),
        }
    }
}

#[async_trait]
impl Events for Hub {
    fn answered(&self, leases: &[LeaseGrant], sent_at: Instant) {
        self.cache.answered(leases, sent_at);
    }

    fn push(&self, push: Push) {
        match push {
            Push::PlacementChanged { version } => self.placement.announce(version),
            Push::Recall { number, ino, keep: _ } => self.recall(number, ino),
            Push::Nameless(ino) => self.cache.nameless(ino),
            // The session passes these on as losses.
            Push::Lost(_) => {}
        }
    }

    fn lost(&self, losses: &Losses, notice: LossNotice) {
        let fenced = self.files().map(|files| files.lost(losses)).unwrap_or_default();
        if losses.below.max(losses.shared_below) > LeaseGeneration(0) {
            // They are not named one by one.
            self.cache.disconnected();
        }
        let named = losses.leases.iter().map(|lease| lease.ino).chain(losses.locks.iter().copied());
        self.cache.lost(&named.collect::<Vec<Ino>>());
        let (cache, session) = (self.cache.clone(), self.session.get().cloned());
        task::spawn(async move {
            cache.settled().await;
            fenced.iter().for_each(|inode| inode.accept_pages());
            join_all(fenced.iter().map(|inode| inode.void_jobs_end())).await;
            notice.acknowledge();
            // Under the leases that are lost, the NameNode did not need to know what is open.
            if !notice.resumed
                && let Some(session) = session.and_then(|session| session.upgrade())
            {
                session.reconnect("leases are broken");
            }
        });
    }

    fn locks_lost(&self, inos: &[Ino]) {
        if let Some(files) = self.files() {
            files.locks_lost(inos);
        }
        self.cache.lost(inos);
    }

    fn dirty(&self) -> Vec<Ino> {
        self.files().map(|files| files.dirty_inos()).unwrap_or_default()
    }

    fn expired(&self, locked: &[Ino]) {
        if let Some(files) = self.files() {
            files.expired(locked);
        }
        self.cache.lost(locked);
    }

    fn disconnected(&self) {
        self.cache.disconnected();
        self.placement.distrust();
    }

    async fn settled(&self) {
        self.cache.settled().await;
    }
}

impl FileSystem {
    /// Connects to the cluster. Must be called within a tokio runtime, which will run the background work.
    ///
    /// # Errors
    /// When the NameNode refuses this client, or is away and the configuration limits the wait.
    pub async fn connect(config: ClientConfig, transport: Arc<dyn Transport>) -> Result<Self, ClientError> {
        config.check()?;
        let files_config = FilesConfig {
            cache_bytes: config.cache_bytes,
            write_buffer_bytes: config.write_buffer_bytes,
            prefetch_bytes: config.prefetch_bytes,
            ..FilesConfig::default()
        };
        let placement = PlacementCache::new();
        let (cache, forgetter) = Cache::new();
        let hub = Arc::new(Hub {
            placement: placement.clone(),
            cache: cache.clone(),
            files: OnceLock::new(),
            session: OnceLock::new(),
        });
        let session = Arc::new(Session::open(config, transport, hub.clone()).await?);
        let _ = hub.session.set(Arc::downgrade(&session));
        task::spawn(follow(placement.clone(), Arc::downgrade(&session)));
        task::spawn(reconnect_after_lapses(cache.clone(), Arc::downgrade(&session)));
        let meta = Arc::new(Metadata::new(session.clone(), cache.clone()));
        let transfer = Arc::new(Transfer::new(session.clone(), placement));
        let opens = session.opens().clone();
        let closed = Box::new(move |ino| opens.leave(ino));
        let files = Files::new(meta.clone(), transfer.clone(), files_config, closed);
        let _ = hub.files.set(Arc::downgrade(&files));
        forgetter.start(&session, &files);
        let (owners, root, retries, statfs) = Default::default();
        Ok(Self(Arc::new(Inner { session, meta, files, cache, transfer, owners, root, retries, statfs })))
    }

    /// From now on the kernel may remember what leases protect, for the time that an [`Entry`] says, and is told here to forget it.
    /// Only the first call counts.
    pub fn set_invalidator(&self, invalidator: Arc<dyn Invalidator>) {
        self.0.cache.set_invalidator(invalidator);
    }

    /// Whether the kernel may keep the data of an inode when it is opened: all that it has of them is from under the lease.
    pub fn may_keep_data(&self, ino: Ino) -> bool {
        self.0.cache.may_keep_data(ino)
    }

    /// A change that the kernel asked for has changed attributes that it does not expect: it must ask for them again.
    pub fn forget_attributes(&self, ino: Ino) {
        self.0.cache.forget_attributes(ino);
    }

    /// What was written and is not in the cluster.
    pub fn unwritten(&self) -> Unwritten {
        let (files, bytes) = self.0.files.unwritten();
        Unwritten { files, bytes }
    }

    /// Brings everything that was written through this file system onto the disks. Errors of the data themselves are told to the
    /// handles of their files.
    ///
    /// # Errors
    /// When chunks cannot be synced.
    pub async fn sync(&self) -> Result<(), FsError> {
        self.0.files.sync_all().await
    }

    /// Sends what is not yet in the cluster, waits until it is on the disks, and ends the session.
    pub async fn shutdown(&self) {
        if let Err(error) = self.0.files.shutdown().await {
            tracing::error!(%error, "not everything that was written is in the cluster");
        }
        self.0.session.close().await;
    }
}

/// Under a lease the NameNode need not know what is open; when all leases have lapsed it must be told.
async fn reconnect_after_lapses(cache: Arc<Cache>, session: Weak<Session>) {
    loop {
        cache.lapsed.notified().await;
        match session.upgrade() {
            Some(session) => session.reconnect("leases have lapsed"),
            None => return,
        }
    }
}

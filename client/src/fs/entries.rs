//! Inodes as the kernel is told of them: counted while it refers to them, and with the time for which it may keep attributes.
//!
//! Names have no such time. A kernel that keeps names can only be told to forget one by taking the directory's lock, which an
//! operation on that directory may hold that waits for this client (decision 0060).

use super::FileSystem;
use quarry_common::ids::Ino;
use quarry_common::limits::LEASE_TERM;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, Query};
use std::ops::Range;
use std::sync::PoisonError;
use std::time::Duration;

/// Attributes for the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// With what was written through this file system and is not in the cluster.
    pub attr: Attr,
    /// For how long the kernel may answer with them: at most to the end of the lease, and not at all without one.
    pub time: Duration,
}

impl FileSystem {
    /// The inode behind a name. The kernel refers to it until [`forget`](Self::forget) is called. `task`: the thread that asks.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn lookup_entry(&self, task: u32, parent: Ino, name: &[u8]) -> Result<Entry, FsError> {
        if self.0.retries.is_one(task) {
            return self.lookup_again(task, parent, name).await.map(|attr| self.entry(attr));
        }
        let query = Query::Lookup { parent, name: name.into() };
        let opens = self.0.session.opens();
        match self.0.cache.find_attr(&query, |attr| opens.look_up(attr.ino)) {
            Some(found) => found.map(|(attr, time)| self.overlaid(attr, time)),
            None => self.lookup(parent, name).await.map(|attr| self.entry(attr)),
        }
    }

    /// An inode that was just made or linked. The kernel refers to it until [`forget`](Self::forget) is called.
    pub fn entry(&self, attr: Attr) -> Entry {
        let opens = self.0.session.opens();
        let time = self.0.cache.attr_time(&attr, || opens.look_up(attr.ino));
        self.overlaid(attr, time)
    }

    /// An inode's attributes.
    ///
    /// # Errors
    /// `Stale` when it is gone.
    pub async fn attr_entry(&self, ino: Ino) -> Result<Entry, FsError> {
        let query = Query::Attr { ino };
        match self.0.cache.find_attr(&query, |_| {}) {
            Some(found) => found.map(|(attr, time)| self.overlaid(attr, time)),
            None if ino == Ino::ROOT => self.root_entry().await,
            None => self.getattr(ino).await.map(|attr| self.known_entry(attr)),
        }
    }

    /// The root's attributes; of a cluster that is away those that were last known, so that programs which look at what is
    /// mounted do not hang.
    async fn root_entry(&self) -> Result<Entry, FsError> {
        let known = || self.0.root.lock().unwrap_or_else(PoisonError::into_inner);
        let last = known().clone();
        let attr = match tokio::time::timeout(LEASE_TERM, self.getattr(Ino::ROOT)).await {
            Ok(attr) => attr?,
            Err(_) => match last {
                Some(attr) => return Ok(Entry { attr, time: Duration::ZERO }),
                None => self.getattr(Ino::ROOT).await?,
            },
        };
        *known() = Some(attr.clone());
        Ok(self.known_entry(attr))
    }

    /// Attributes of an inode to which the kernel refers already.
    pub fn known_entry(&self, attr: Attr) -> Entry {
        let time = self.0.cache.attr_time(&attr, || {});
        self.overlaid(attr, time)
    }

    /// The kernel has forgotten so many look-ups of an inode.
    pub fn forget(&self, ino: Ino, lookups: u64) {
        if self.0.session.opens().forget(ino, lookups) {
            self.0.cache.evicted(ino);
        }
    }

    /// A write has gone past the kernel's page cache. When this returns, the kernel shows what it wrote.
    pub async fn wrote_past_pages(&self, ino: Ino, range: Range<u64>) {
        self.0.cache.wrote_past_pages(ino, range).await;
    }

    fn overlaid(&self, attr: Attr, time: Duration) -> Entry {
        let Some(inode) = self.0.files.known(attr.ino) else { return Entry { attr, time } };
        // Of two answers from before and after a write that is not answered yet, the kernel could keep the older one.
        let time = if inode.writing.borrow().is_empty() { time } else { Duration::ZERO };
        Entry { attr: self.0.files.overlay_attr(attr), time }
    }
}

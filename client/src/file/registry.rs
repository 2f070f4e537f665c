//! The inodes of a mount that are in use, whatever an inode is.
//!
//! An inode lives as long as one of its handles, or as long as it is dirty. What is left of one that has gone is an error that no
//! handle has reported.

use quarry_common::ids::Ino;
use quarry_common::wire::error::FsError;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Files whose errors are kept for their next openers.
const UNSEEN_MAX: usize = 1024;

/// The table.
pub(crate) struct Registry<T> {
    live: Mutex<HashMap<Ino, Weak<T>>>,
    dirty: Mutex<HashMap<Ino, Arc<T>>>,
    unseen: Mutex<HashMap<Ino, FsError>>,
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self { live: Mutex::default(), dirty: Mutex::default(), unseen: Mutex::default() }
    }
}

impl<T> Registry<T> {
    /// The inode, if it is in use.
    pub(crate) fn known(&self, ino: Ino) -> Option<Arc<T>> {
        lock(&self.live).get(&ino)?.upgrade()
    }

    /// The inode, made with `make` if it is not in use, and whether it was.
    pub(crate) fn find_or_make(&self, ino: Ino, make: impl FnOnce() -> T) -> (Arc<T>, bool) {
        let mut live = lock(&self.live);
        if let Some(known) = live.get(&ino).and_then(Weak::upgrade) {
            return (known, true);
        }
        let made = Arc::new(make());
        live.insert(ino, Arc::downgrade(&made));
        (made, false)
    }

    /// The last reference to an inode has gone; `unseen` is an error that no handle has reported.
    pub(crate) fn forget(&self, ino: Ino, unseen: Option<FsError>) {
        if let Some(error) = unseen {
            let mut all = lock(&self.unseen);
            if all.len() < UNSEEN_MAX {
                all.insert(ino, error);
            }
        }
        let mut live = lock(&self.live);
        // Another may have come under the same number meanwhile.
        if live.get(&ino).is_some_and(|weak| weak.strong_count() == 0) {
            live.remove(&ino);
        }
    }

    /// Takes the error of a file that no handle has reported.
    pub(crate) fn take_unseen(&self, ino: Ino) -> Option<FsError> {
        lock(&self.unseen).remove(&ino)
    }

    /// The inode is dirty: it stays alive.
    pub(crate) fn keep(&self, ino: Ino, inode: &Arc<T>) {
        lock(&self.dirty).insert(ino, Arc::clone(inode));
    }

    /// The inode is clean. The caller holds it as well.
    pub(crate) fn unkeep(&self, ino: Ino) {
        lock(&self.dirty).remove(&ino);
    }

    /// The inode, if it is dirty.
    pub(crate) fn dirty(&self, ino: Ino) -> Option<Arc<T>> {
        lock(&self.dirty).get(&ino).cloned()
    }

    /// All inodes that are dirty.
    pub(crate) fn all_dirty(&self) -> Vec<Arc<T>> {
        lock(&self.dirty).values().cloned().collect()
    }

    /// All inodes in use.
    #[cfg(test)]
    pub(crate) fn inos(&self) -> Vec<Ino> {
        lock(&self.live).keys().copied().collect()
    }
}

fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

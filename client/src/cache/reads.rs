//! Reads that the kernel waits for, by file: it has their pages locked until they are answered, and cached from then on.

use super::{Cache, lock};
use quarry_common::ids::Ino;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// The files that the kernel knows and of which it may have pages.
#[derive(Default)]
pub(super) struct Reads {
    files: Mutex<HashMap<Ino, Vec<Read>>>,
    ended: Notify,
}

/// A read under way.
struct Read {
    range: Range<u64>,
    /// A write has gone past the page cache, and this read may have taken up what was there before.
    outdated: bool,
}

impl Reads {
    pub(super) fn of(&self, ino: Ino) -> Vec<Range<u64>> {
        lock(&self.files).get(&ino).into_iter().flatten().map(|read| read.range.clone()).collect()
    }

    fn begin(&self, ino: Ino, range: Range<u64>) {
        lock(&self.files).entry(ino).or_default().push(Read { range, outdated: false });
    }

    /// Ends a read. Tells whether it is outdated.
    fn end(&self, ino: Ino, range: &Range<u64>) -> bool {
        let mut all = lock(&self.files);
        let Some(reads) = all.get_mut(&ino) else { return false };
        let at = reads.iter().position(|read| read.range == *range);
        let outdated = at.is_some_and(|at| reads.swap_remove(at).outdated);
        if outdated {
            self.ended.notify_waiters();
        }
        outdated
    }

    /// A write has gone past the page cache. Tells whether the kernel may have pages of the file.
    pub(super) fn outdate(&self, ino: Ino, range: &Range<u64>) -> bool {
        let mut all = lock(&self.files);
        let Some(reads) = all.get_mut(&ino) else { return false };
        for read in reads {
            read.outdated |= overlap(&read.range, range);
        }
        true
    }

    /// Returns when no outdated read of the range is under way.
    pub(super) async fn outdated_end(&self, ino: Ino, range: &Range<u64>) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            let waits = |read: &Read| read.outdated && overlap(&read.range, range);
            if !lock(&self.files).get(&ino).is_some_and(|reads| reads.iter().any(waits)) {
                return;
            }
            ended.await;
        }
    }

    /// The kernel no longer knows the inode.
    pub(super) fn evicted(&self, ino: Ino) {
        let mut all = lock(&self.files);
        if all.get(&ino).is_some_and(Vec::is_empty) {
            all.remove(&ino);
        }
    }
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

/// A read into the kernel's page cache, from its beginning until the kernel has its answer. A recall leaves its pages alone, so
/// at the end they are forgotten unless a lease covers them.
pub(crate) struct PageRead {
    cache: Arc<Cache>,
    ino: Ino,
    range: Range<u64>,
}

impl PageRead {
    pub(crate) fn new(cache: &Arc<Cache>, ino: Ino, range: Range<u64>) -> Self {
        cache.reads.begin(ino, range.clone());
        Self { cache: Arc::clone(cache), ino, range }
    }
}

impl Drop for PageRead {
    fn drop(&mut self) {
        let outdated = self.cache.reads.end(self.ino, &self.range);
        if outdated || !self.cache.is_leased(self.ino) {
            self.cache.uncovered(self.ino);
        }
    }
}

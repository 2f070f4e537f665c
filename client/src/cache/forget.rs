//! The thread that tells the kernel to forget, and what follows.

use super::{Invalidator, Job, lock};
use crate::file::{Files, Inode};
use crate::session::Session;
use futures::future::join_all;
use quarry_common::ids::Ino;
use quarry_common::wire::session::Request;
use quarry_host::task::{self, Spawner};
use quarry_host::thread;
use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;

/// Recalls acknowledged together.
const BATCH: usize = 256;
/// The kernel locks pages of this size; where they are larger, a recall may last until the end of the lease.
const PAGE: u64 = 4096;
/// The kernel forgets pages that nobody has locked in much less than this.
const UNLOCKED_TIME: Duration = Duration::from_millis(10);

/// The work of the thread.
pub(crate) struct Forgetter {
    jobs: Receiver<Job>,
    invalidator: Arc<OnceLock<Arc<dyn Invalidator>>>,
    uncovered: Arc<Mutex<HashSet<Ino>>>,
}

impl Forgetter {
    pub(super) fn new(
        jobs: Receiver<Job>,
        invalidator: Arc<OnceLock<Arc<dyn Invalidator>>>,
        uncovered: Arc<Mutex<HashSet<Ino>>>,
    ) -> Self {
        Self { jobs, invalidator, uncovered }
    }

    /// Works until the cache is dropped.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(crate) fn start(self, session: &Arc<Session>, files: &Arc<Files>) -> std::io::Result<()> {
        let (session, files, runtime) = (Arc::downgrade(session), Arc::downgrade(files), Spawner::current());
        let work = async move { self.work(&session, &files, &runtime).await };
        thread::run("quarry-recall", work).map(drop)
    }

    async fn work(mut self, session: &Weak<Session>, files: &Weak<Files>, runtime: &Spawner) {
        let mut jobs = Vec::with_capacity(BATCH);
        while self.jobs.recv_many(&mut jobs, BATCH).await > 0 {
            let mut recalled = Vec::new();
            let mut names = false;
            let mut barriers = Vec::new();
            for job in jobs.drain(..) {
                match job {
                    Job::Dropped { dropped, recall } => {
                        names |= dropped.iter().any(|dropped| dropped.names);
                        if let Some(recall) = recall
                            && let Some(contended) = self.contended(recall.1, files)
                        {
                            if let Some(session) = session.upgrade() {
                                runtime.spawn(contended.recall(session, recall));
                            }
                            continue;
                        }
                        dropped.iter().for_each(|dropped| self.forget(dropped.ino, files));
                        recalled.extend(recall);
                    }
                    Job::Changed(ino) => {
                        if let Some(invalidator) = self.invalidator.get() {
                            invalidator.attributes(ino);
                        }
                    }
                    Job::Uncovered(ino) => {
                        lock(&self.uncovered).remove(&ino);
                        self.forget(ino, files);
                    }
                    Job::Barrier(done) => barriers.push(done),
                }
            }
            if let (true, Some(invalidator)) = (names, self.invalidator.get()) {
                invalidator.names();
            }
            for barrier in barriers {
                // Whoever waited may have given up.
                let _ = barrier.send(());
            }
            if let Some(session) = session.upgrade() {
                acknowledge_all(recalled, &session, files, runtime);
            }
        }
    }

    /// The inode, if programs are writing to it at this moment.
    fn contended(&self, ino: Ino, files: &Weak<Files>) -> Option<Contended> {
        let inode = files.upgrade()?.known(ino)?;
        let writing = !inode.writing.borrow().is_empty();
        let invalidator = self.invalidator.get()?.clone();
        writing.then_some(Contended { inode, invalidator })
    }

    fn forget(&self, ino: Ino, files: &Weak<Files>) {
        if let Some(files) = files.upgrade() {
            files.invalidate(ino);
        }
        if let Some(invalidator) = self.invalidator.get() {
            invalidator.inode(ino);
        }
    }
}

/// Answers recalls: at once, or as soon as what was kept under the lease is in the cluster.
fn acknowledge_all(
    recalled: Vec<(u64, Ino)>,
    session: &Arc<Session>,
    files: &Weak<Files>,
    runtime: &Spawner,
) {
    let mut clean = Vec::new();
    for recall in recalled {
        match files.upgrade().and_then(|files| files.dirty_inode(recall.1)) {
            Some(inode) => {
                runtime.spawn(bring_in(inode, session.clone(), recall));
            }
            None => clean.push(recall),
        }
    }
    if !clean.is_empty() {
        runtime.spawn(acknowledge(session.clone(), clean));
    }
}

/// A file that was recalled while programs write to it.
///
/// The kernel holds the lock of a page that it has only in part until the write of that part is answered, and a write may be
/// waiting for a lease on the file. To wait for its page here would stop two mounts that both write: each would wait for the
/// other's recall. Of such a page the kernel shows nothing that is old: all of it that counts is what is being written. So pages under
/// writes are waited for only as long as an unlocked page would take.
struct Contended {
    inode: Arc<Inode>,
    invalidator: Arc<dyn Invalidator>,
}

impl Contended {
    async fn recall(self, session: Arc<Session>, recall: (u64, Ino)) {
        self.inode.state().forget_layout();
        while !self.forget_all().await {}
        bring_in(self.inode, session, recall).await;
    }

    /// Has the kernel forget the file's data. Gives up when other writes than at the beginning are under way: whatever the kernel
    /// waits for may be theirs.
    async fn forget_all(&self) -> bool {
        let writing = self.pages_under_writes();
        let each = join_all(writing.iter().map(|range| self.forget(vec![range.clone()])));
        let _ = tokio::time::timeout(UNLOCKED_TIME, each).await;
        let mut rest = self.forget(between(&writing));
        while tokio::time::timeout(UNLOCKED_TIME, &mut rest).await.is_err() {
            if self.pages_under_writes() != writing {
                return false;
            }
        }
        true
    }

    fn pages_under_writes(&self) -> Vec<Range<u64>> {
        pages(&self.inode.writing.borrow())
    }

    fn forget(&self, ranges: Vec<Range<u64>>) -> JoinHandle<()> {
        let (invalidator, ino) = (self.invalidator.clone(), self.inode.ino);
        task::spawn_blocking(move || ranges.into_iter().for_each(|range| invalidator.data(ino, range)))
    }
}

/// Answers a recall as soon as what was kept under the lease is in the cluster.
async fn bring_in(inode: Arc<Inode>, session: Arc<Session>, recall: (u64, Ino)) {
    inode.flush(false).await;
    acknowledge(session, vec![recall]).await;
}

/// The pages of some ranges, ascending and apart.
fn pages(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let page = |at: u64| at / PAGE * PAGE;
    let mut all: Vec<_> = ranges
        .iter()
        .filter(|range| !range.is_empty())
        .map(|range| page(range.start)..page(range.end - 1).saturating_add(PAGE))
        .collect();
    all.sort_unstable_by_key(|range| range.start);
    let mut apart: Vec<Range<u64>> = Vec::with_capacity(all.len());
    for range in all {
        match apart.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => apart.push(range),
        }
    }
    apart
}

/// What lies between ranges that are ascending and apart.
fn between(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let starts = std::iter::once(0).chain(ranges.iter().map(|range| range.end));
    let ends = ranges.iter().map(|range| range.start).chain(std::iter::once(u64::MAX));
    starts.zip(ends).map(|(start, end)| start..end).filter(|range| !range.is_empty()).collect()
}

/// Tells the NameNode that what it recalled is forgotten, and what of it is open.
async fn acknowledge(session: Arc<Session>, recalled: Vec<(u64, Ino)>) {
    // An inode that the NameNode learns is open stays so until this is answered: its closing must not come first.
    let open: Vec<_> = recalled.iter().map(|(_, ino)| session.opens().reveal(*ino)).collect();
    let recalls = recalled.iter().zip(&open).map(|((number, _), open)| (*number, open.is_some())).collect();
    if let Err(error) = session.ask(Request::RecallDone { recalls }).await {
        tracing::debug!(%error, "recalls are not acknowledged");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_writes_and_what_is_between() {
        let writing = pages(&[3 * PAGE + 5..3 * PAGE + 6, 0..0, 10..20, PAGE - 1..PAGE + 1]);
        assert_eq!(writing, [0..2 * PAGE, 3 * PAGE..4 * PAGE]);
        assert_eq!(between(&writing), [2 * PAGE..3 * PAGE, 4 * PAGE..u64::MAX]);
        assert_eq!(between(&[]).as_slice(), std::slice::from_ref(&(0..u64::MAX)));
    }
}

//! Telling the kernel to forget what leases no longer protect, and acknowledging recalls.
//!
//! The kernel waits for the lock of each page that it forgets, and has a page locked while a read or a write of it waits for this
//! client. So each recall is a task of its own, which delays no other, and goes around the pages of reads and writes under
//! way: the kernel forgets those of a read when the read is answered ([`PageRead`](super::PageRead)).

use super::nameless::Nameless;
use super::reads::Reads;
use super::{Forgotten, Invalidator, Job, lock};
use crate::file::Files;
use crate::session::Session;
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use quarry_common::ids::Ino;
use quarry_common::limits::LEASE_TERM;
use quarry_common::wire::session::Request;
use quarry_host::task::{self, spawn_blocking};
use quarry_host::thread;
use std::collections::{BTreeSet, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Recalls acknowledged together: one small frame.
const BATCH: usize = 256;
/// Inodes without readers and writers that one blocking task has the kernel forget, where nothing waits for each of them.
const CHUNK: usize = 256;
/// Acknowledgements that wait to be sent; a recall beyond waits.
const ACKNOWLEDGEMENTS: usize = 4096;
/// The kernel locks pages of this size; where they are larger, a recall may last until the end of the lease.
const PAGE: u64 = 4096;
/// The kernel forgets unlocked pages in much less than this.
const UNLOCKED_TIME: Duration = Duration::from_millis(10);
/// Attempts to have the kernel forget a range that are under way at once: each waits for pages of reads that began after it.
const ATTEMPTS: usize = 8;
/// How often the NameNode is told that a recall takes longer: twice in a lease term.
const BRINGING_IN: Duration = Duration::from_millis(LEASE_TERM.as_millis() as u64 / 2);
/// Pause between two attempts to have the kernel forget an inode whose look-up is on its way to it: it takes that up in microseconds.
const UNKNOWN_PAUSE: Duration = Duration::from_millis(1);

/// Takes the jobs of a cache.
pub(crate) struct Forgetter {
    jobs: mpsc::Receiver<Job>,
    invalidator: Arc<OnceLock<Arc<dyn Invalidator>>>,
    uncovered: Arc<Mutex<HashSet<Ino>>>,
    reads: Arc<Reads>,
}

impl Forgetter {
    pub(super) fn new(
        jobs: mpsc::Receiver<Job>,
        invalidator: Arc<OnceLock<Arc<dyn Invalidator>>>,
        uncovered: Arc<Mutex<HashSet<Ino>>>,
        reads: Arc<Reads>,
    ) -> Self {
        Self { jobs, invalidator, uncovered, reads }
    }

    /// Works until the cache is dropped.
    pub(crate) fn start(self, session: &Arc<Session>, files: &Arc<Files>) {
        let (acknowledgements, recalled) = mpsc::channel(ACKNOWLEDGEMENTS);
        task::spawn(acknowledge(Arc::downgrade(session), recalled));
        let kernel = Arc::new(Kernel {
            invalidator: self.invalidator,
            reads: self.reads,
            session: Arc::downgrade(session),
            files: Arc::downgrade(files),
        });
        task::spawn(work(self.jobs, self.uncovered, kernel, acknowledgements));
    }
}

async fn work(
    mut jobs: mpsc::Receiver<Job>,
    uncovered: Arc<Mutex<HashSet<Ino>>>,
    kernel: Arc<Kernel>,
    acknowledgements: mpsc::Sender<(u64, Ino)>,
) {
    let (running, nameless) = (Arc::new(Running::default()), Arc::new(Nameless::default()));
    while let Some(job) = jobs.recv().await {
        match job {
            Job::Recalled { number, ino } => {
                let (kernel, acknowledgements) = (kernel.clone(), acknowledgements.clone());
                running.spawn(async move {
                    kernel.forget(ino).await;
                    kernel.bring_in(ino).await;
                    // Without a receiver there is no session either.
                    let _ = acknowledgements.send((number, ino)).await;
                });
            }
            Job::Dropped(inos) => {
                let (idle, busy): (Vec<Ino>, Vec<Ino>) =
                    inos.into_iter().partition(|ino| kernel.is_idle(*ino));
                for chunk in idle.chunks(CHUNK) {
                    let (kernel, chunk) = (kernel.clone(), chunk.to_vec());
                    running.spawn(async move {
                        let _ = spawn_blocking(move || chunk.iter().for_each(|ino| kernel.forget_now(*ino)))
                            .await;
                    });
                }
                for ino in busy {
                    let kernel = kernel.clone();
                    running.spawn(async move { kernel.forget(ino).await });
                }
            }
            Job::Nameless(ino) => nameless.add(ino, &kernel),
            Job::Changed(ino) => kernel.attributes(ino, &running),
            Job::Uncovered(ino) => {
                lock(&uncovered).remove(&ino);
                let kernel = kernel.clone();
                running.spawn(async move { kernel.forget(ino).await });
            }
            Job::Barrier(done) => {
                let all = running.before_now();
                task::spawn(async move {
                    all.await;
                    // The caller may have given up.
                    let _ = done.send(());
                });
            }
        }
    }
}

/// Tasks under way, by number.
#[derive(Default)]
struct Running {
    tasks: Mutex<(u64, BTreeSet<u64>)>,
    ended: Notify,
}

impl Running {
    fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let number = {
            let mut tasks = lock(&self.tasks);
            tasks.0 += 1;
            let number = tasks.0;
            tasks.1.insert(number);
            number
        };
        let running = Arc::clone(self);
        task::spawn(async move {
            task.await;
            lock(&running.tasks).1.remove(&number);
            running.ended.notify_waiters();
        });
    }

    /// Resolves when every task has ended that was spawned before this call.
    fn before_now(self: &Arc<Self>) -> impl Future<Output = ()> + Send + 'static {
        let (running, newest) = (Arc::clone(self), lock(&self.tasks).0);
        async move {
            loop {
                let ended = running.ended.notified();
                tokio::pin!(ended);
                ended.as_mut().enable();
                if lock(&running.tasks).1.first().is_none_or(|oldest| *oldest > newest) {
                    return;
                }
                ended.await;
            }
        }
    }
}

/// The kernel's caches, and what this client knows of their use.
pub(super) struct Kernel {
    invalidator: Arc<OnceLock<Arc<dyn Invalidator>>>,
    reads: Arc<Reads>,
    session: Weak<Session>,
    files: Weak<Files>,
}

/// Ranges of a file whose pages the kernel may have locked.
#[derive(PartialEq, Eq)]
struct Busy {
    reads: Vec<Range<u64>>,
    writes: Vec<Range<u64>>,
}

impl Kernel {
    fn busy(&self, ino: Ino) -> Busy {
        let inode = self.files.upgrade().and_then(|files| files.known(ino));
        let writes = inode.map_or_else(Vec::new, |inode| inode.writing.borrow().clone());
        Busy { reads: pages(&self.reads.of(ino)), writes: pages(&writes) }
    }

    fn is_idle(&self, ino: Ino) -> bool {
        let busy = self.busy(ino);
        busy.reads.is_empty() && busy.writes.is_empty()
    }

    /// The layout, the kernel's attributes and pages of a file are forgotten when this returns, but for pages of reads and writes
    /// under way.
    async fn forget(&self, ino: Ino) {
        self.forget_layout(ino);
        let Some(invalidator) = self.invalidator.get() else { return };
        let started = Instant::now();
        loop {
            match self.forget_around(invalidator, ino).await {
                Some(Forgotten::Done) => return,
                // It may not know it yet: then an answer that it is about to take up says what is to be forgotten.
                Some(Forgotten::Unknown) if self.is_looked_up(ino) && started.elapsed() < LEASE_TERM => {
                    tokio::time::sleep(UNKNOWN_PAUSE).await;
                }
                Some(Forgotten::Unknown) => return,
                None => {}
            }
        }
    }

    /// `None`: other reads or writes than at the beginning are under way, and the kernel may wait for one of them.
    ///
    /// The kernel holds the lock of a page that it has only in part until the write of that part is answered, and a write may be
    /// waiting for a lease on the file. To wait for its page would stop two mounts that both write: each would wait for the
    /// other's recall. Of such a page the kernel shows nothing that is old: all of it that counts is what is being written. So
    /// pages under writes are waited for only as long as an unlocked page would take.
    async fn forget_around(&self, invalidator: &Arc<dyn Invalidator>, ino: Ino) -> Option<Forgotten> {
        let tell = |range: Range<u64>| tell(invalidator, ino, vec![range]);
        let busy = self.busy(ino);
        let writes = join_all(busy.writes.iter().cloned().map(tell));
        if !busy.writes.is_empty() {
            let _ = tokio::time::timeout(UNLOCKED_TIME, writes).await;
        }
        let all = pages(&[busy.reads.as_slice(), busy.writes.as_slice()].concat());
        let mut rest = self::tell(invalidator, ino, between(&all));
        loop {
            match tokio::time::timeout(UNLOCKED_TIME, &mut rest).await {
                Ok(told) => return Some(told.unwrap_or(Forgotten::Done)),
                Err(_) if self.busy(ino) != busy => return None,
                Err(_) => {}
            }
        }
    }

    /// The same for an inode without reads and writes under way, on a thread that may block.
    fn forget_now(&self, ino: Ino) {
        self.forget_layout(ino);
        let Some(invalidator) = self.invalidator.get() else { return };
        let started = Instant::now();
        while invalidator.inode(ino) == Forgotten::Unknown
            && self.is_looked_up(ino)
            && started.elapsed() < LEASE_TERM
        {
            thread::pause(UNKNOWN_PAUSE);
        }
    }

    /// Attributes take no lock, so the kernel is told at once; again later if it does not know the inode yet.
    fn attributes(self: &Arc<Self>, ino: Ino, running: &Arc<Running>) {
        let Some(invalidator) = self.invalidator.get() else { return };
        if invalidator.attributes(ino) == Forgotten::Unknown && self.is_looked_up(ino) {
            let kernel = Arc::clone(self);
            running.spawn(async move { kernel.forget(ino).await });
        }
    }

    fn forget_layout(&self, ino: Ino) {
        if let Some(files) = self.files.upgrade() {
            files.invalidate(ino);
        }
    }

    /// The kernel drops these inodes, but for those that programs refer to.
    pub(super) async fn prune(&self, inos: Vec<Ino>) {
        if let Some(invalidator) = self.invalidator.get().cloned() {
            let _ = spawn_blocking(move || invalidator.prune(&inos)).await;
        }
    }

    pub(super) fn is_looked_up(&self, ino: Ino) -> bool {
        self.session.upgrade().is_some_and(|session| session.opens().is_looked_up(ino))
    }

    /// Brings into the cluster what was kept under the lease. A DataNode that hangs may hold that up for longer than a lease term, so
    /// the NameNode is told again and again that this client has not forgotten it.
    async fn bring_in(&self, ino: Ino) {
        let Some(inode) = self.files.upgrade().and_then(|files| files.dirty_inode(ino)) else { return };
        let done = inode.bring_in();
        tokio::pin!(done);
        while tokio::time::timeout(BRINGING_IN, &mut done).await.is_err() {
            let Some(session) = self.session.upgrade() else { return };
            if let Err(error) = session.ask(Request::BringingIn { ino }).await {
                tracing::debug!(%error, "the NameNode is not told that a recall takes longer");
            }
        }
    }
}

/// Has the kernel forget a range, but for the pages of reads under way: what these take up is new. A read that begins after an attempt
/// may hold the attempt up, so another one goes around its pages; the first that ends has forgotten all.
pub(super) async fn outside_reads(
    invalidator: &Arc<dyn Invalidator>,
    reads: &Reads,
    ino: Ino,
    range: Range<u64>,
) {
    let range = pages(&[range]);
    let overlap = |a: &Range<u64>, b: &Range<u64>| a.start.max(b.start)..a.end.min(b.end);
    let mut attempts = FuturesUnordered::new();
    let mut busy = None;
    loop {
        let now = pages(&reads.of(ino));
        if busy.as_ref() != Some(&now) && attempts.len() < ATTEMPTS {
            let apart = between(&now);
            let all = range.iter().flat_map(|range| apart.iter().map(|part| overlap(range, part)));
            let all: Vec<_> = all.filter(|range| !range.is_empty()).collect();
            if all.is_empty() {
                return;
            }
            attempts.push(tell(invalidator, ino, all));
            busy = Some(now);
        }
        if tokio::time::timeout(UNLOCKED_TIME, attempts.next()).await.is_ok() {
            return;
        }
    }
}

fn tell(invalidator: &Arc<dyn Invalidator>, ino: Ino, ranges: Vec<Range<u64>>) -> JoinHandle<Forgotten> {
    let invalidator = invalidator.clone();
    spawn_blocking(move || {
        let mut told = Forgotten::Done;
        for range in ranges {
            told = if range == (0..u64::MAX) { invalidator.inode(ino) } else { invalidator.data(ino, range) };
        }
        told
    })
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

/// Tells the NameNode which recalled leases are given back, and which of their inodes this client refers to.
async fn acknowledge(session: Weak<Session>, mut recalled: mpsc::Receiver<(u64, Ino)>) {
    let mut batch = Vec::with_capacity(BATCH);
    while recalled.recv_many(&mut batch, BATCH).await > 0 {
        let Some(session) = session.upgrade() else { return };
        let batch = std::mem::take(&mut batch);
        // A slow answer delays no later acknowledgement.
        task::spawn(async move {
            // An inode that the NameNode learns is open stays so until this is answered: its closing must not come first.
            let open: Vec<_> = batch.iter().map(|(_, ino)| session.opens().reveal(*ino)).collect();
            for (_, ino) in &batch {
                session.ownership().released(*ino);
            }
            let recalls =
                batch.iter().zip(&open).map(|((number, _), open)| (*number, open.is_some())).collect();
            if let Err(error) = session.ask(Request::RecallDone { recalls }).await {
                tracing::debug!(%error, "recalls are not acknowledged");
            }
        });
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

    #[tokio::test]
    async fn a_barrier_waits_for_earlier_tasks_only() {
        let running = Arc::new(Running::default());
        let (first, second) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let wait = |notify: &Arc<Notify>| {
            let notify = notify.clone();
            async move { notify.notified().await }
        };
        running.spawn(wait(&first));
        let before = running.before_now();
        tokio::pin!(before);
        running.spawn(wait(&second));
        assert!(futures::poll!(&mut before).is_pending());
        first.notify_one();
        before.await;
        second.notify_one();
        running.before_now().await;
    }
}

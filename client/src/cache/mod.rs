//! What the client remembers of the namespace, for as long as leases say that no other client changes it.
//!
//! ```text
//!   reader of the control connection          callers                        a task for each recall
//!   answer:  grants, renews the term          find ─ hit ──► served
//!   recall:  drops what is known ────────┐      └─ miss ► asked ► stored     tells the kernel to forget,
//!   lost:    drops everything ───────────┴──────────────────────────────────► then acknowledges
//! ```
//!
//! Names are known here only: the kernel asks for each, every time, and is answered by the thread that reads its request.
//! Attributes and pages of an inode are in the kernel as well. It is told to forget them by tasks that hold no lock and delay
//! nothing else: the kernel may have to wait there for operations that wait for this client.

mod forget;
mod reads;
mod store;
mod table;

pub(crate) use forget::Forgetter;
pub(crate) use reads::PageRead;
pub(crate) use table::{CAPABILITY, lists_capability};

#[cfg(test)]
mod tests;

use crate::error::MutateError;
use quarry_common::ids::Ino;
use quarry_common::limits::LEASE_TERM;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, Mutation, MutationReply, Query, QueryReply};
use quarry_common::wire::session::LeaseGrant;
use quarry_host::clock;
use quarry_host::metrics::table as metrics;
use reads::Reads;
use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use table::Table;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, oneshot};

/// Bytes that the cache may take: some 200,000 inodes with a name each.
const BUDGET: usize = 96 << 20;
/// Jobs that wait to be taken up, each some bytes. A NameNode recalls no more leases than there are.
const QUEUE: usize = 1 << 16;

/// The kernel's caches of attributes and pages. Called by threads that hold no lock.
pub trait Invalidator: Send + Sync + 'static {
    /// Forget the attributes and the data of an inode. What programs changed through mmap comes in before it returns.
    fn inode(&self, ino: Ino) -> Forgotten;
    /// Forget the data of a part of a file, and its attributes.
    fn data(&self, ino: Ino, range: Range<u64>) -> Forgotten;
    /// Forget the attributes of an inode. Waits for no operation.
    fn attributes(&self, ino: Ino) -> Forgotten;
}

/// What the kernel answers when it is told to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// It has forgotten.
    Done,
    /// It does not know the inode, or not yet: the answer to a look-up may be on its way to it.
    Unknown,
}

/// The cache.
pub(crate) struct Cache {
    table: Mutex<Table>,
    queue: mpsc::Sender<Job>,
    invalidator: Arc<OnceLock<Arc<dyn Invalidator>>>,
    /// Inodes whose [`Job::Uncovered`] waits already.
    uncovered: Arc<Mutex<HashSet<Ino>>>,
    reads: Arc<Reads>,
    /// Leases ended because they were not renewed in time. The NameNode does not know what is open under them.
    pub(crate) lapsed: Notify,
}

/// Something to be forgotten by others, and then to be acknowledged if it was recalled.
enum Job {
    /// The NameNode recalls a lease, and waits for the acknowledgement.
    Recalled { number: u64, ino: Ino },
    /// No lease protects these any more.
    Dropped(Vec<Ino>),
    /// A change that was made here has other attributes than the kernel can know.
    Changed(Ino),
    /// Data of this inode were read that no lease protects.
    Uncovered(Ino),
    /// To be told when all that came before is done.
    Barrier(oneshot::Sender<()>),
}

/// When a question was asked: the answer is only kept if nothing happened to its subject since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

impl Cache {
    /// The cache, and what has the kernel forget, which begins with [`start`](Forgetter::start).
    pub(crate) fn new() -> (Arc<Self>, Forgetter) {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let invalidator: Arc<OnceLock<Arc<dyn Invalidator>>> = Arc::default();
        let uncovered: Arc<Mutex<HashSet<Ino>>> = Arc::default();
        let reads: Arc<Reads> = Arc::default();
        let cache = Arc::new(Self {
            table: Mutex::new(Table::new(BUDGET)),
            queue,
            invalidator: invalidator.clone(),
            uncovered: uncovered.clone(),
            reads: reads.clone(),
            lapsed: Notify::new(),
        });
        (cache, Forgetter::new(jobs, invalidator, uncovered, reads))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }

    /// From now on the kernel remembers as well, and must be told to forget. Only the first call counts.
    pub(crate) fn set_invalidator(&self, invalidator: Arc<dyn Invalidator>) {
        let _ = self.invalidator.set(invalidator);
    }

    /// A request was answered.
    pub(crate) fn answered(&self, leases: &[LeaseGrant], sent_at: Instant) {
        let mut table = self.table();
        table.answered(leases, sent_at, clock::boot_instant());
        self.pass_on(&mut table);
    }

    /// The NameNode wants a lease back. Where a shared one might stay it is given up as well: the next question brings it
    /// back, and its term need not be told from that of the others.
    pub(crate) fn recall(&self, number: u64, ino: Ino) {
        metrics::CLIENT_RECALLS.add(&[], 1);
        let mut table = self.table();
        table.recall(ino);
        self.send(Job::Recalled { number, ino });
    }

    /// Leases on these inodes are broken: nothing that they protected is served any more, by the kernel neither.
    pub(crate) fn lost(&self, inos: &[Ino]) {
        let mut table = self.table();
        inos.iter().for_each(|ino| table.recall(*ino));
        self.send(Job::Dropped(inos.to_vec()));
    }

    /// Waits until the kernel has forgotten everything that was dropped before, but not for ever: it may have to wait for
    /// reads that wait for a connection.
    pub(crate) async fn settled(&self) {
        let (done, settled) = oneshot::channel();
        self.send(Job::Barrier(done));
        if tokio::time::timeout(LEASE_TERM, settled).await.is_err() {
            tracing::warn!("the kernel is slow to forget what leases no longer protect");
        }
    }

    /// Whether a lease on the inode is held.
    pub(crate) fn is_leased(&self, ino: Ino) -> bool {
        self.check(|table| table.is_leased(ino))
    }

    /// Whether changes of the inode's data may wait here.
    pub(crate) fn is_exclusive(&self, ino: Ino) -> bool {
        self.check(|table| table.is_exclusive(ino))
    }

    fn check(&self, held: impl FnOnce(&Table) -> bool) -> bool {
        let mut table = self.table();
        table.lapse(clock::boot_instant());
        let held = held(&table);
        self.pass_on(&mut table);
        held
    }

    /// Has the kernel forget an inode's attributes, before this returns: that takes no lock that an operation may hold.
    pub(crate) fn forget_attributes(&self, ino: Ino) {
        if let Some(invalidator) = self.invalidator.get() {
            invalidator.attributes(ino);
        }
    }

    /// The kernel was given data that no lease protects: it must not keep them.
    pub(crate) fn uncovered(&self, ino: Ino) {
        if self.invalidator.get().is_some()
            && lock(&self.uncovered).insert(ino)
            && !self.send(Job::Uncovered(ino))
        {
            lock(&self.uncovered).remove(&ino);
        }
    }

    /// A write has gone past the kernel's page cache, which does not forget what it has of the range if the write was asynchronous:
    /// when this returns it has forgotten, and reads that may have taken up what was there before are answered.
    pub(crate) async fn wrote_past_pages(&self, ino: Ino, range: Range<u64>) {
        let Some(invalidator) = self.invalidator.get() else { return };
        if self.reads.outdate(ino, &range) {
            self.reads.outdated_end(ino, &range).await;
            forget::outside_reads(invalidator, &self.reads, ino, range).await;
        }
    }

    /// The kernel no longer knows the inode.
    pub(crate) fn evicted(&self, ino: Ino) {
        self.reads.evicted(ino);
    }

    /// The connection is lost, and recalls with it: nothing is protected any more.
    pub(crate) fn disconnected(&self) {
        let mut table = self.table();
        table.clear();
        self.pass_on(&mut table);
    }

    /// To be taken before a question is asked.
    pub(crate) fn ticket(&self) -> Ticket {
        self.table().ticket()
    }

    /// The answer to a question, if it is known for sure.
    pub(crate) fn find(&self, query: &Query) -> Option<Result<QueryReply, FsError>> {
        let mut table = self.table();
        table.lapse(clock::boot_instant());
        let found = table.find(query);
        self.pass_on(&mut table);
        drop(table);
        count_lookup(query, found.is_some());
        found
    }

    /// An answer came.
    pub(crate) fn store(&self, ticket: Ticket, query: &Query, answer: &Result<QueryReply, FsError>) {
        let mut table = self.table();
        table.store(ticket, query, answer);
        self.pass_on(&mut table);
    }

    /// A change that was asked for here is done.
    pub(crate) fn changed(
        &self,
        ticket: Ticket,
        mutation: &Mutation,
        answer: &Result<MutationReply, MutateError>,
    ) {
        let mut table = self.table();
        table.changed(ticket, mutation, answer);
        self.pass_on(&mut table);
        // The kernel knows what it asked for, but not when data were committed, and what that changed.
        if let Mutation::Commit(commit) = mutation
            && self.invalidator.get().is_some()
        {
            self.send(Job::Changed(commit.ino));
        }
    }

    /// The attributes behind a question, if they are known for sure, and for how long the kernel may keep them. `count` runs
    /// before a recall can come between, so that the recall finds counted what the kernel is about to know.
    pub(crate) fn find_attr(
        &self,
        query: &Query,
        count: impl FnOnce(&Attr),
    ) -> Option<Result<(Attr, Duration), FsError>> {
        let now = clock::boot_instant();
        let mut table = self.table();
        table.lapse(now);
        let found = table.find(query);
        let time = table.term_left(now);
        if let Some(Ok(QueryReply::Attr(attr))) = &found {
            count(attr);
        }
        self.pass_on(&mut table);
        drop(table);
        count_lookup(query, found.is_some());
        match found? {
            Ok(QueryReply::Attr(attr)) => {
                let time = if self.may_remember(attr.ino) { time } else { Duration::ZERO };
                Some(Ok((attr, time)))
            }
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// For how long the kernel may keep these attributes: not at all if others are known by now, since an answer may come to its
    /// caller late, when another has followed it. `count` as in [`find_attr`](Self::find_attr).
    pub(crate) fn attr_time(&self, attr: &Attr, count: impl FnOnce()) -> Duration {
        let table = self.table();
        count();
        let known = table.knows_attr(attr);
        let time = table.term_left(clock::boot_instant());
        drop(table);
        if known && self.may_remember(attr.ino) { time } else { Duration::ZERO }
    }

    /// Whether what the kernel has of an inode's data is from under the lease that is held.
    pub(crate) fn may_keep_data(&self, ino: Ino) -> bool {
        self.may_remember(ino) && self.check(|table| table.has_attr(ino))
    }

    /// Whether the kernel may remember anything of an inode: it can be told to forget, and is not about to be.
    fn may_remember(&self, ino: Ino) -> bool {
        self.invalidator.get().is_some() && !lock(&self.uncovered).contains(&ino)
    }

    /// Hands on that leases have lapsed, and what was dropped, while the table is locked: so in the order in which it happened.
    fn pass_on(&self, table: &mut Table) {
        let dropped = table.take_dropped();
        if !dropped.is_empty() {
            self.send(Job::Dropped(dropped));
        }
        if table.take_lapsed() {
            tracing::info!("the NameNode was not heard for a lease term: nothing is cached any more");
            self.lapsed.notify_one();
        }
    }

    fn send(&self, job: Job) -> bool {
        let sent = self.queue.try_send(job);
        // The NameNode waits for the end of the term instead.
        if let Err(TrySendError::Full(_)) = sent {
            tracing::error!("the kernel is too slow to forget what was recalled");
        }
        sent.is_ok()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count_lookup(query: &Query, hit: bool) {
    let cache = if matches!(query, Query::Lookup { .. }) { "names" } else { "attributes" };
    metrics::CLIENT_CACHE.add(&[cache, if hit { "hit" } else { "miss" }], 1);
}

//! What the client remembers of the namespace, for as long as leases say that nobody changes it.
//!
//! ```text
//!   reader of the control connection          callers                        the thread of this cache
//!   answer:  grants, renews the term          find ─ hit ──► served
//!   recall:  drops what is known ────────┐      └─ miss ► asked ► stored     tells the kernel to forget,
//!   lost:    drops everything ───────────┴──────────────────────────────────► then acknowledges
//! ```
//!
//! The kernel is told by a thread that holds no lock and serves nobody else: it may have to wait there for operations
//! that wait for us.

mod store;
mod table;

#[cfg(test)]
mod tests;

use crate::file::Files;
use crate::session::Session;
use crate::traits::MutateError;
use quarry_common::ids::Ino;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Mutation, MutationReply, Query, QueryReply};
use quarry_common::wire::session::{LeaseGrant, LeaseMode, Request};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};
use table::{Dropped, Table};
use tokio::runtime::Handle;

/// Bytes that the cache may take: some 200,000 inodes with a name each.
const BUDGET: usize = 96 << 20;
/// Things to be forgotten that wait for the thread. A NameNode recalls no more leases than there are.
const QUEUE: usize = 1 << 16;
/// Recalls acknowledged together.
const BATCH: usize = 256;

/// Where else things are remembered that a lease protects: the kernel. Called from one thread that holds no lock.
pub trait Invalidator: Send + Sync + 'static {
    /// Forget the attributes and the data of an inode, and of a directory its list of entries.
    fn inode(&self, ino: Ino);
    /// Forget a name, or that there is none.
    fn entry(&self, parent: Ino, name: &[u8]);
}

/// The cache.
pub(crate) struct Cache {
    table: Mutex<Table>,
    queue: SyncSender<Job>,
    invalidator: Arc<OnceLock<Arc<dyn Invalidator>>>,
}

/// Something to be forgotten by others, and then to be acknowledged if it was recalled.
struct Job {
    dropped: Vec<Dropped>,
    recall: Option<(u64, Ino)>,
}

/// When a question was asked: the answer is only kept if nothing happened to its subject since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

impl Cache {
    /// The cache, and the work of its thread, which begins with [`start`](Forgetter::start).
    pub(crate) fn new() -> (Arc<Self>, Forgetter) {
        let (queue, jobs) = sync_channel(QUEUE);
        let invalidator: Arc<OnceLock<Arc<dyn Invalidator>>> = Arc::default();
        let cache =
            Arc::new(Self { table: Mutex::new(Table::new(BUDGET)), queue, invalidator: invalidator.clone() });
        (cache, Forgetter { jobs, invalidator })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the kernel remembers as well, and must be told to forget. Only the first call counts.
    pub(crate) fn set_invalidator(&self, invalidator: Arc<dyn Invalidator>) {
        let _ = self.invalidator.set(invalidator);
    }

    /// A request was answered.
    pub(crate) fn answered(&self, leases: &[LeaseGrant], sent_at: Instant) {
        let mut table = self.table();
        table.answered(leases, sent_at, Instant::now());
        self.pass_on(&mut table);
    }

    /// The NameNode wants a lease back.
    pub(crate) fn recall(&self, number: u64, ino: Ino, keep: Option<LeaseMode>) {
        let mut table = self.table();
        let dropped = match keep {
            // Nothing more is ever cached than a shared lease allows.
            Some(_) => Vec::new(),
            None => vec![table.recall(ino)],
        };
        self.send(Job { dropped, recall: Some((number, ino)) });
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
        table.lapse(Instant::now());
        let found = table.find(query);
        self.pass_on(&mut table);
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
    }

    /// For how long the kernel may remember an inode's attributes without asking.
    pub(crate) fn attr_time(&self, ino: Ino) -> Duration {
        self.time(|table| table.has_attr(ino))
    }

    /// For how long the kernel may remember a name, or that there is none, without asking.
    pub(crate) fn entry_time(&self, parent: Ino, name: &[u8]) -> Duration {
        self.time(|table| table.has_name(parent, name))
    }

    fn time(&self, known: impl FnOnce(&Table) -> bool) -> Duration {
        if self.invalidator.get().is_none() {
            return Duration::ZERO;
        }
        let table = self.table();
        if known(&table) { table.term_left(Instant::now()) } else { Duration::ZERO }
    }

    /// Hands what was dropped to the thread, while the table is locked: so in the order in which it happened.
    fn pass_on(&self, table: &mut Table) {
        let dropped = table.take_dropped();
        if !dropped.is_empty() {
            self.send(Job { dropped, recall: None });
        }
    }

    fn send(&self, job: Job) {
        match self.queue.try_send(job) {
            Ok(()) => {}
            // The NameNode waits for the end of the term instead.
            Err(TrySendError::Full(_)) => {
                tracing::error!("the kernel is too slow to forget what was recalled")
            }
            Err(TrySendError::Disconnected(_)) => {}
        }
    }
}

/// The work of the thread.
pub(crate) struct Forgetter {
    jobs: Receiver<Job>,
    invalidator: Arc<OnceLock<Arc<dyn Invalidator>>>,
}

impl Forgetter {
    /// Works until the cache is dropped.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(crate) fn start(self, session: &Arc<Session>, files: &Arc<Files>) -> std::io::Result<()> {
        let (session, files, runtime) = (Arc::downgrade(session), Arc::downgrade(files), Handle::current());
        let work = move || self.work(&session, &files, &runtime);
        std::thread::Builder::new().name("quarry-recall".to_owned()).spawn(work).map(drop)
    }

    fn work(self, session: &Weak<Session>, files: &Weak<Files>, runtime: &Handle) {
        while let Ok(first) = self.jobs.recv() {
            let rest = std::iter::from_fn(|| self.jobs.try_recv().ok()).take(BATCH - 1);
            let mut recalled = Vec::new();
            for job in std::iter::once(first).chain(rest) {
                for dropped in &job.dropped {
                    self.forget(dropped, files);
                }
                recalled.extend(job.recall);
            }
            if let (Some(session), false) = (session.upgrade(), recalled.is_empty()) {
                runtime.spawn(acknowledge(session, recalled));
            }
        }
    }

    fn forget(&self, dropped: &Dropped, files: &Weak<Files>) {
        if let Some(files) = files.upgrade() {
            files.invalidate(dropped.ino);
        }
        let Some(invalidator) = self.invalidator.get() else { return };
        invalidator.inode(dropped.ino);
        for name in &dropped.names {
            invalidator.entry(dropped.ino, name);
        }
    }
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

//! What a mount knows of one file: shared by all its handles.
//!
//! Two locks. `gate` (asynchronous): writes hold it shared while they put bytes into the buffer; what changes the
//! size or existing data in the cluster (truncate, fallocate, copy) holds it alone, over network calls. An operation that needs
//! two takes them in the order of inode numbers; the flusher takes none. `state` (a plain mutex) is held for
//! memory work only.

use super::buffer::{Job, Write, WriteBuffer, Written};
use super::errors::{ErrorCursor, ErrorLog};
use super::layout::{Change, Known, LayoutCache};
use super::registry::Registry;
use super::resolve::{Resolver, Segment};
use super::shared::Shared;
use bytes::Bytes;
use quarry_common::ids::{Ino, LeaseGeneration};
use quarry_common::limits::CHUNK_SIZE;
use quarry_common::slices::WINDOW;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, SetAttr, Window, WindowCommit};
use quarry_host::metrics::table::CLIENT_FENCED;
use quarry_host::trace::{self, Operation};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, RwLock, watch};
use tokio::time::Instant;

/// A file that has handles or unwritten data.
pub(crate) struct Inode {
    pub(crate) ino: Ino,
    pub(crate) shared: Arc<Shared>,
    pub(crate) registry: Arc<Registry<Inode>>,
    pub(crate) gate: Arc<RwLock<()>>,
    /// One look-up of the layout at a time: readers that miss the same windows ask once.
    pub(crate) loading: tokio::sync::Mutex<()>,
    /// The operation that last wrote, or waits for what was written: what is sent is sent for it.
    operation: AtomicU64,
    /// Dirty data was committed or dropped.
    pub(crate) settled: Notify,
    /// The flusher has something to look at.
    pub(crate) work: Notify,
    /// The ranges of writes that are under way. The kernel may have their pages locked until they are answered.
    pub(crate) writing: watch::Sender<Vec<Range<u64>>>,
    state: Mutex<State>,
}

/// What changes. The layout is that of `attr`, and a byte is in exactly one of buffer and layout.
pub(crate) struct State {
    /// The newest attributes that the NameNode told.
    attr: Attr,
    layout: LayoutCache,
    buffer: WriteBuffer,
    errors: ErrorLog,
    /// The file was emptied, and what was written since is not committed.
    replaced: bool,
    /// The file may have content that a program has synced. What is written then is on the disks before it is committed: a slice
    /// without its chunk would make EIO of bytes around it after a power failure.
    precious: bool,
    /// A flusher task runs.
    flushing: bool,
    /// Handles that were closed and whose close was not yet passed on, because data is dirty.
    closing: usize,
    /// Handles.
    open: usize,
    /// Counts the losses of locks.
    lock_losses: u64,
    /// Handles from before the last loss of locks: while there are any, nothing is read or written.
    condemned: usize,
    /// The kernel has yet to forget pages of a broken lease. What it hands over meanwhile is dropped.
    fencing: Option<Fencing>,
}

/// Pages of a broken lease are being forgotten.
struct Fencing {
    /// Losses that are not finished.
    losses: usize,
    /// The handles learn of what is dropped.
    told: bool,
}

/// What settling some windows leaves to be done without the state's lock.
#[must_use]
pub(crate) struct Settled {
    /// What the windows held of the budget.
    cost: usize,
    /// Closes that can be passed on, if nothing is dirty any more.
    closed: Option<usize>,
}

impl Inode {
    pub(crate) fn new(shared: Arc<Shared>, registry: Arc<Registry<Self>>, attr: Attr) -> Self {
        let unseen = registry.take_unseen(attr.ino);
        Self {
            ino: attr.ino,
            shared,
            registry,
            gate: Arc::default(),
            loading: tokio::sync::Mutex::default(),
            operation: AtomicU64::new(0),
            settled: Notify::new(),
            work: Notify::new(),
            writing: watch::Sender::new(Vec::new()),
            state: Mutex::new(State {
                precious: attr.size > 0,
                attr,
                layout: LayoutCache::default(),
                buffer: WriteBuffer::default(),
                errors: unseen.map_or_else(ErrorLog::default, ErrorLog::with),
                replaced: false,
                flushing: false,
                closing: 0,
                open: 0,
                lock_losses: 0,
                condemned: 0,
                fencing: None,
            }),
        }
    }

    /// The running operation is the one for which data is sent from now on.
    pub(crate) fn work_for_current(&self) {
        let current = trace::current();
        if current.is_some() {
            self.operation.store(current.number(), Ordering::Relaxed);
        }
    }

    /// The operation for which data is sent.
    pub(crate) fn operation(&self) -> Operation {
        Operation::from_number(self.operation.load(Ordering::Relaxed))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives back what settled windows held, and wakes what waited for them. `state` is the lock under which they were settled.
    pub(crate) fn after(&self, settled: Settled, state: MutexGuard<'_, State>) {
        if settled.closed.is_some() {
            self.registry.unkeep(self.ino);
        }
        drop(state);
        self.shared.budget.give(settled.cost);
        self.settled.notify_waiters();
        for _ in 0..settled.closed.unwrap_or(0) {
            (self.shared.closed)(self.ino);
        }
    }
}

/// Broken leases and lost locks.
impl Inode {
    /// Leases are broken: drops what is buffered under them, and each handle learns it once. The data are never tried again under
    /// another lease, since other clients have read or written in the belief that they do not exist.
    pub(crate) fn fence(&self, is_broken: impl Fn(LeaseGeneration) -> bool) {
        let mut state = self.state();
        let Some(cost) = state.buffer.fence(is_broken) else { return };
        state.layout.clear();
        state.errors.record(FsError::Io);
        if let Some(fencing) = &mut state.fencing {
            fencing.told = true;
        }
        let settled = state.settled(cost);
        let total = self.shared.fenced.fetch_add(1, Ordering::Relaxed) + 1;
        CLIENT_FENCED.add(&[], 1);
        tracing::error!(ino = %self.ino, total, "buffered data are dropped: their lease is broken");
        self.after(settled, state);
    }

    /// The job of a window is over whose bytes were dropped when their lease broke.
    pub(crate) fn dropped(&self, indexes: &[u64]) {
        let mut state = self.state();
        let settled = state.settle(indexes);
        self.after(settled, state);
    }

    /// A lease is broken: until [`accept_pages`](Self::accept_pages), pages that the kernel hands over are from before.
    pub(crate) fn refuse_pages(&self) {
        self.state().fencing.get_or_insert(Fencing { losses: 0, told: false }).losses += 1;
    }

    /// The kernel has forgotten the pages of a broken lease.
    pub(crate) fn accept_pages(&self) {
        let mut state = self.state();
        if let Some(fencing) = &mut state.fencing {
            fencing.losses -= 1;
            if fencing.losses == 0 {
                state.fencing = None;
            }
        }
    }

    /// Waits until no job is under way whose bytes were dropped.
    pub(crate) async fn void_jobs_end(&self) {
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            if !self.state().buffer.has_void() {
                return;
            }
            settled.await;
        }
    }

    /// Locks of this mount on the file are lost: nothing is read or written until the handles of now are closed.
    pub(crate) fn lose_locks(&self) {
        let mut state = self.state();
        state.lock_losses += 1;
        state.condemned = state.open;
    }
}

impl Drop for Inode {
    fn drop(&mut self) {
        let unseen = self.state().errors.unseen();
        self.registry.forget(self.ino, unseen);
    }
}

/// Attributes.
impl State {
    /// The file's length, with what was written here and is not committed.
    pub(crate) fn size(&self) -> u64 {
        self.attr.size.max(self.buffer.end())
    }

    /// The attributes as this mount sees them.
    pub(crate) fn overlaid(&self) -> Attr {
        let mut attr = self.attr.clone();
        self.buffer.overlay(&mut attr);
        attr
    }

    /// The NameNode told these attributes. Newer ones than are known mean that something happened which was not
    /// done here, so the layout may have changed.
    pub(crate) fn observe(&mut self, attr: &Attr) {
        if attr.version > self.attr.version {
            self.attr = attr.clone();
            self.layout.clear();
        }
    }

    /// The answer to a change that was made here and that touched some windows of the layout.
    pub(crate) fn changed(&mut self, attr: &Attr, windows: Range<u64>) {
        self.observe_own(attr);
        if !windows.is_empty() {
            self.layout.forget(windows);
        }
    }

    /// Attributes are about to be set; returns whether what is buffered may stay there.
    pub(crate) fn set_attributes(&mut self, set: &SetAttr) -> bool {
        self.buffer.set_attributes(set, self.flushing)
    }

    /// Returns whether nobody else changed the inode since the last attributes that are known; if somebody did, the layout
    /// is forgotten.
    fn observe_own(&mut self, attr: &Attr) -> bool {
        let next = attr.version == self.attr.version + 1;
        if next {
            self.attr = attr.clone();
        } else {
            self.observe(attr);
        }
        next
    }
}

/// Where the bytes are.
impl State {
    /// Where a range of a window shows from; `None` if the layout must be known first. Without that, the size alone does not
    /// tell: others may have appended.
    pub(crate) fn resolve(&self, index: u64, range: Range<u32>) -> Option<Vec<Segment>> {
        let mut resolver = Resolver::new(range.clone());
        self.buffer.resolve(index, range, &mut resolver);
        if !resolver.is_complete() {
            resolver.slices(self.layout.slices(index)?);
        }
        Some(resolver.finish())
    }

    /// What a window will show when the data on their way are committed, and the version of the list that this is made from;
    /// `None` if the layout must be known first.
    pub(crate) fn resolve_flying(&self, index: u64) -> Option<(u64, Vec<Segment>)> {
        let Known { version, slices: Some(slices), .. } = self.layout.known(index)? else { return None };
        let mut resolver = Resolver::new(0..WINDOW);
        resolver.local(self.buffer.flying(index));
        resolver.slices(slices);
        Some((*version, resolver.finish()))
    }

    /// The first window at or after `from` that has uncommitted data.
    pub(crate) fn next_dirty_window(&self, from: u64) -> Option<u64> {
        self.buffer.next_window(from)
    }

    /// The window's layout is known.
    pub(crate) fn knows_window(&self, index: u64) -> bool {
        self.layout.slices(index).is_some()
    }

    /// Changes whenever some of the layout is forgotten.
    pub(crate) fn layout_epoch(&self) -> u64 {
        self.layout.epoch()
    }

    /// Takes in an answer about a range of windows that was asked for in `epoch`. One that comes too late is left out.
    pub(crate) fn learn_layout(&mut self, attr: &Attr, range: Range<u64>, windows: Vec<Window>, epoch: u64) {
        if epoch == self.layout.epoch() {
            // If this shows a change by others, it forgets the other windows.
            self.observe(attr);
            let epoch = self.layout.epoch();
            self.layout.insert(range, windows, epoch);
        }
    }

    /// Forgets the layout of some windows.
    pub(crate) fn forget_windows(&mut self, windows: Range<u64>) {
        self.layout.forget(windows);
    }

    /// Forgets the layout.
    pub(crate) fn forget_layout(&mut self) {
        self.layout.clear();
    }
}

/// Uncommitted data.
impl State {
    pub(crate) fn is_dirty(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Whether a write up to `sequence` is not committed.
    pub(crate) fn is_dirty_to(&self, sequence: u64) -> bool {
        self.buffer.is_dirty_to(sequence)
    }

    /// Whether a write up to `sequence` whose call returned under a lease is not committed.
    pub(crate) fn is_leased_to(&self, sequence: u64) -> bool {
        self.buffer.is_leased_to(sequence)
    }

    /// Whether a write waits that is older than `age`.
    pub(crate) fn is_aged(&self, age: Duration) -> bool {
        self.buffer.is_aged(Instant::now(), age)
    }

    /// The number of the last write.
    pub(crate) fn sequence(&self) -> u64 {
        self.buffer.sequence()
    }

    /// Whether a write under this lease may join what waits; otherwise that must be committed first.
    pub(crate) fn takes(&self, lease: Option<LeaseGeneration>) -> bool {
        self.buffer.takes(lease)
    }

    /// A page that the kernel hands over is of a broken lease. The handles learn that it is dropped.
    pub(crate) fn drops_page(&mut self) -> bool {
        let Some(fencing) = &mut self.fencing else { return false };
        if !std::mem::replace(&mut fencing.told, true) {
            self.errors.record(FsError::Io);
        }
        true
    }

    /// The bytes of a job are dropped, since their lease is broken.
    pub(crate) fn is_void(&self, indexes: &[u64]) -> bool {
        indexes.iter().all(|index| self.buffer.is_void(*index))
    }

    /// Takes in the bytes of a write.
    pub(crate) fn write(&mut self, write: Write, data: Bytes) -> Written {
        self.buffer.write(write, data)
    }

    /// Every write up to `sequence` is due, and with `durable` has to reach the disks.
    pub(crate) fn request(&mut self, sequence: u64, durable: bool) {
        self.buffer.request(sequence, durable);
    }

    /// Whether a flusher must be started; it counts as running from now on.
    pub(crate) fn must_start_flusher(&mut self) -> bool {
        self.is_dirty() && !std::mem::replace(&mut self.flushing, true)
    }

    /// The next data to send.
    pub(crate) fn next_job(&mut self) -> Option<Job> {
        let mut job = self.buffer.next_job(&self.layout)?;
        job.about.durable |= self.precious;
        Some(job)
    }

    /// Everything that was written is on the disks.
    pub(crate) fn synced(&mut self) {
        self.precious |= self.size() > 0;
    }

    /// The next data to send, or else the flusher has ended.
    pub(crate) fn last_job(&mut self) -> Option<Job> {
        let job = self.next_job();
        self.flushing = job.is_some();
        job
    }

    /// The data on their way are now parts of their chunk.
    pub(crate) fn share(&mut self, data: &Bytes, windows: &[WindowCommit]) {
        self.buffer.share(data, windows);
    }

    /// The bytes of a window that are on their way.
    pub(crate) fn flying(&self, index: u64) -> &[(u32, Bytes)] {
        self.buffer.flying(index)
    }

    /// A commit was answered: these windows have a new version and count of slices. `kill_at` is the last write in it that
    /// cleared suid and sgid.
    pub(crate) fn committed<'a>(
        &mut self,
        attr: &Attr,
        windows: impl Iterator<Item = (&'a WindowCommit, u64, u32)>,
        kill_at: Option<u64>,
    ) -> Settled {
        let size_before = self.attr.size;
        let alone = self.observe_own(attr);
        let mut indexes = Vec::new();
        for (window, version, count) in windows {
            let change = change(window, alone, size_before);
            self.layout.committed(window.index.0, version, count as usize, change);
            indexes.push(window.index.0);
        }
        if let Some(at) = kill_at {
            self.buffer.killed(at);
        }
        self.settle(&indexes)
    }

    /// The data of these windows cannot be written: every handle will learn it, and the memory is freed.
    pub(crate) fn failed(&mut self, indexes: &[u64], error: FsError) -> Settled {
        self.errors.record(error);
        self.settle(indexes)
    }

    fn settle(&mut self, indexes: &[u64]) -> Settled {
        let cost = self.buffer.settle(indexes.iter().copied());
        self.settled(cost)
    }

    fn settled(&mut self, cost: usize) -> Settled {
        let clean = self.buffer.is_empty();
        self.replaced &= !clean;
        Settled { cost, closed: clean.then(|| std::mem::take(&mut self.closing)) }
    }
}

/// Handles.
impl State {
    /// The file is being emptied.
    pub(crate) fn replace(&mut self) {
        self.replaced |= self.size() > 0;
    }

    /// What is buffered takes the place of content that the file had.
    pub(crate) fn is_replacement(&self) -> bool {
        self.replaced
    }

    /// A handle is closed. If data is dirty, that is passed on when it is not.
    pub(crate) fn close_later(&mut self) -> bool {
        let dirty = self.is_dirty();
        self.closing += usize::from(dirty);
        dirty
    }

    /// Counts a new handle. Returns its cursor, and the number by which it [closes](Self::close).
    pub(crate) fn open(&mut self) -> (ErrorCursor, u64) {
        self.open += 1;
        (self.errors.cursor(), self.lock_losses)
    }

    /// Counts a handle off.
    pub(crate) fn close(&mut self, opened: u64) {
        self.open -= 1;
        if opened != self.lock_losses {
            self.condemned -= 1;
        }
    }

    /// Fails for as long as a handle is open under which a lock was lost.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn check_locks(&self) -> Result<(), FsError> {
        if self.condemned > 0 { Err(FsError::Io) } else { Ok(()) }
    }

    /// The error that a handle has not reported yet; from now on it has.
    ///
    /// # Errors
    /// The newest one since the last call with this cursor.
    pub(crate) fn report(&mut self, cursor: &mut ErrorCursor) -> Result<(), FsError> {
        self.errors.report(cursor)
    }
}

/// What a commit did to a window. `alone`: nobody else changed the file since its layout was last known.
fn change(window: &WindowCommit, alone: bool, size_before: u64) -> Change<'_> {
    let whole = matches!(window.slices.as_slice(), [only] if only.position == 0 && only.length == WINDOW);
    // There is never a slice beyond the end of a file.
    let was_empty = alone && window.index.0 * CHUNK_SIZE >= size_before;
    if window.replaces.is_some() || whole || was_empty {
        Change::Replace(&window.slices)
    } else if alone {
        Change::Append(&window.slices)
    } else {
        Change::Unknown
    }
}

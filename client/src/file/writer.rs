//! Writes into the buffer, and waiting until they are in the cluster.

use super::buffer::{EXTENT_OVERHEAD, Write, Written};
use super::flusher;
use super::inode::{Inode, State};
use super::registry::Registry;
use super::shared::Shared;
use super::space::Room;
use bytes::Bytes;
use quarry_common::limits::{CHUNK_SIZE, FILE_SIZE_MAX};
use quarry_common::wire::error::FsError;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Requests for an exclusive lease before the write falls back to write-through. Each waits up to 1 s in the NameNode's queue. A write
/// that goes through is seen by its own mount a moment before it is ordered among those of other mounts, and only the holder of the
/// lease knows where the end of the file is.
const LEASE_ASKS: u32 = 4;
/// Attempts of an append. Without the lease the end of the file may move before the commit, so an append that goes through could
/// overwrite another mount's record: it insists for a minute and more, beyond what any queue of mounts takes.
const APPEND_ASKS: u32 = 1000;
/// Pause between attempts beyond the first few: a NameNode that grants nothing for a while answers at once.
const ASK_PAUSE: Duration = Duration::from_millis(50);
/// How long a recall waits for writes that were just given the right: they have the data at hand.
const WRITERS_WAIT: Duration = Duration::from_millis(20);

/// Where a write goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Position {
    At(u64),
    /// Behind the last byte.
    End,
    /// A page of the kernel's cache, that a program has changed before: it is not asked whether it may.
    Page(u64),
}

impl Position {
    fn offset(self, size: u64) -> u64 {
        match self {
            Self::At(at) | Self::Page(at) => at,
            Self::End => size,
        }
    }
}

impl Inode {
    /// Puts bytes into the buffer, waiting for memory if it is full, or for their commit if they may not stay there. Returns where
    /// they went. An error of the commit is on record.
    ///
    /// # Errors
    /// `FileTooLarge`; `Io` while a handle is open under which a lock was lost.
    pub(crate) async fn write(
        self: &Arc<Self>,
        position: Position,
        mut data: Bytes,
        kill_suidgid: bool,
    ) -> Result<u64, FsError> {
        if data.is_empty() {
            return Ok(position.offset(self.state().size()));
        }
        let _writing = Writing::new(self, position, data.len());
        let mut first = None;
        let mut next = position;
        loop {
            let piece = data.split_to(data.len().min(self.piece_max()));
            let length = piece.len() as u64;
            let at = self.write_piece(next, piece, kill_suidgid).await?;
            first.get_or_insert(at);
            if data.is_empty() {
                return Ok(first.unwrap_or(at));
            }
            next = match position {
                Position::Page(_) => Position::Page(at + length),
                Position::At(_) | Position::End => Position::At(at + length),
            };
        }
    }

    /// Bytes that are written at once: as the kernel writes at most 1 MiB, all of it in an ordinary mount.
    fn piece_max(&self) -> usize {
        let overhead = 4 * EXTENT_OVERHEAD;
        (self.shared.budget.write_max().saturating_sub(overhead)).clamp(1, CHUNK_SIZE as usize)
    }

    async fn write_piece(
        self: &Arc<Self>,
        position: Position,
        data: Bytes,
        kill: bool,
    ) -> Result<u64, FsError> {
        let budget = &self.shared.budget;
        // Two windows, and in each one extent that may split another: the rest is given back.
        let taken = data.len() + 4 * EXTENT_OVERHEAD;
        if !budget.try_take(taken) {
            budget.take(taken, || start_flush(&self.registry)).await?;
        }
        let held = Held { inode: self, bytes: taken };
        let mut asked = 0;
        let (at, kept) = loop {
            let must_keep = match position {
                Position::Page(_) => false,
                Position::At(_) => asked < LEASE_ASKS,
                Position::End => asked < APPEND_ASKS,
            };
            match self.try_put(position, &data, kill, must_keep).await? {
                Attempt::Put(at, kept) => break (at, kept),
                Attempt::Dropped(at) => return Ok(at),
                // What waits is under another lease.
                Attempt::Occupied => self.flush(false).await,
                Attempt::NoLease => {
                    if asked >= LEASE_ASKS {
                        tokio::time::sleep(ASK_PAUSE).await;
                    }
                    let attr = self.shared.meta.lease(self.ino).await?;
                    self.state().observe(&attr);
                    asked += 1;
                }
            }
        };
        held.settle(kept.grown);
        let room = self.shared.room_for(data.len() as u64).await;
        if kept.complete || budget.is_short() {
            self.wake_flusher();
        }
        if budget.half_reached() {
            start_flush(&self.registry);
        }
        // Without the lease no recall would ask for the data. Without room the write itself must be told.
        if room == Room::Short || self.shared.meta.exclusive(self.ino).is_none() {
            match position {
                Position::Page(_) => self.start_flush(kept.sequence, false),
                Position::At(_) | Position::End => self.flush(false).await,
            }
        }
        Ok(at)
    }

    /// Puts the bytes into the buffer, unless they `must_keep` there and may not.
    async fn try_put(
        self: &Arc<Self>,
        position: Position,
        data: &Bytes,
        kill: bool,
        must_keep: bool,
    ) -> Result<Attempt, FsError> {
        let _gate = self.gate.read().await;
        let mut state = self.state();
        state.check_locks()?;
        // Under the state's lock: what is put before a recall takes the right away is flushed by that recall.
        let lease = match position {
            Position::Page(at) if state.drops_page() => return Ok(Attempt::Dropped(at)),
            // The program changed it when the lease was valid.
            Position::Page(_) => self.shared.meta.held(self.ino),
            Position::At(_) | Position::End => self.shared.meta.exclusive(self.ino),
        };
        if must_keep && lease.is_none() {
            return Ok(Attempt::NoLease);
        }
        if !state.takes(lease) {
            return Ok(Attempt::Occupied);
        }
        let at = position.offset(state.size());
        if at.checked_add(data.len() as u64).is_none_or(|end| end > FILE_SIZE_MAX) {
            return Err(FsError::FileTooLarge);
        }
        if !state.is_dirty() {
            self.registry.keep(self.ino, self);
        }
        let (time, now) = (self.shared.meta.time(), Instant::now());
        let written = state.write(Write { at, time, kill_suidgid: kill, now, lease }, data.clone());
        if self.shared.budget.is_short() {
            state.request(written.sequence, false);
        }
        Ok(Attempt::Put(at, written))
    }

    /// Waits until the writes that are under way have put their data, but not for long. To be called before a recall takes the
    /// right away that one of them was just given: or two mounts that write in turn could take it from each other for ever.
    pub(crate) async fn let_writers_go_first(&self) {
        let mut writing = self.writing.subscribe();
        let none = writing.wait_for(Vec::is_empty);
        let _ = tokio::time::timeout(WRITERS_WAIT, none).await;
    }

    /// Begins to send every write up to `sequence`.
    pub(crate) fn start_flush(self: &Arc<Self>, sequence: u64, durable: bool) {
        self.state().request(sequence, durable);
        self.wake_flusher();
    }

    /// Sends what is dirty now and waits until it is committed, or dropped with an error on record.
    pub(crate) async fn flush(self: &Arc<Self>, durable: bool) {
        self.send_and_wait(durable, State::is_dirty_to).await;
    }

    /// Sends what is dirty now and waits until what was buffered under a lease is committed, or dropped with an error on record.
    /// Other data are not waited for: their commit may wait for a lease of another client, whose recall waits in the same way for
    /// a commit that waits for the lease which is given back here.
    pub(crate) async fn bring_in(self: &Arc<Self>) {
        self.send_and_wait(false, State::is_leased_to).await;
    }

    async fn send_and_wait(self: &Arc<Self>, durable: bool, waits: fn(&State, u64) -> bool) {
        let sequence = {
            let state = self.state();
            if !state.is_dirty() {
                return;
            }
            state.sequence()
        };
        self.start_flush(sequence, durable);
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            if !waits(&self.state(), sequence) {
                return;
            }
            settled.await;
        }
    }

    /// Waits until everything that was written through this mount is committed and on the disks.
    ///
    /// # Errors
    /// When chunks cannot be synced. Errors of the data themselves are on record.
    pub(crate) async fn sync(self: &Arc<Self>) -> Result<(), FsError> {
        self.flush(true).await;
        let Shared { unsynced, meta, io, .. } = &*self.shared;
        unsynced.sync(self.ino, &**meta, &**io).await?;
        self.state().synced();
        Ok(())
    }

    /// Begins to send writes that have waited long enough.
    pub(crate) fn flush_aged(self: &Arc<Self>, age: Duration) {
        let sequence = {
            let state = self.state();
            if !state.is_aged(age) {
                return;
            }
            state.sequence()
        };
        self.start_flush(sequence, false);
    }

    fn wake_flusher(self: &Arc<Self>) {
        let start = self.state().must_start_flusher();
        if start {
            self.shared.runtime.spawn(flusher::run(Arc::clone(self)));
        } else {
            self.work.notify_one();
        }
    }
}

/// Begins to send everything that is dirty now.
pub(crate) fn start_flush(registry: &Registry<Inode>) {
    for inode in registry.all_dirty() {
        let sequence = inode.state().sequence();
        inode.start_flush(sequence, false);
    }
}

/// What became of an attempt to put a write into the buffer.
enum Attempt {
    /// It is there, at this offset.
    Put(u64, Written),
    /// It is a page of a broken lease, at this offset, and the handles learn that it is dropped.
    Dropped(u64),
    /// What waits in the buffer must be committed first.
    Occupied,
    /// The exclusive lease is not held.
    NoLease,
}

/// A write that is under way.
struct Writing<'a> {
    inode: &'a Inode,
    range: Range<u64>,
}

impl<'a> Writing<'a> {
    fn new(inode: &'a Inode, position: Position, length: usize) -> Self {
        let range = match position {
            Position::At(at) => at..at.saturating_add(length as u64),
            // Appends pass the kernel's cache, and pages that it writes back are not locked.
            Position::End | Position::Page(_) => 0..0,
        };
        inode.writing.send_modify(|all| all.push(range.clone()));
        Self { inode, range }
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.inode.writing.send_modify(|all| {
            if let Some(at) = all.iter().position(|range| *range == self.range) {
                all.swap_remove(at);
            }
        });
    }
}

/// Memory that was taken for a write that has not happened yet; given back if it does not.
struct Held<'a> {
    inode: &'a Inode,
    bytes: usize,
}

impl Held<'_> {
    /// The write happened and keeps this much.
    fn settle(mut self, grown: isize) {
        let left = self.bytes as isize - grown;
        debug_assert!(left >= 0, "a write takes {} and grows by {grown}", self.bytes);
        self.bytes = left.unsigned_abs();
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.inode.shared.budget.give(self.bytes);
    }
}

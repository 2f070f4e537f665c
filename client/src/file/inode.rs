//! What a mount knows of one file: shared by all its handles.
//!
//! Two locks. `gate` (asynchronous): writes hold it shared while they put bytes into the buffer; what changes the
//! size or existing data in the cluster (truncate, fallocate, copy) holds it alone, over network calls. Who needs
//! two takes them in the order of inode numbers; the flusher takes none. `state` (a plain mutex) is held for
//! memory work only.

use super::errors::ErrorLog;
use super::extents::ExtentMap;
use super::files::Files;
use super::layout::LayoutCache;
use bytes::Bytes;
use quarry_common::ids::Ino;
use quarry_common::limits::CHUNK_SIZE;
use quarry_common::wire::fs::{Attr, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, RwLock, watch};
use tokio::time::Instant;

/// A file that has handles or unwritten data.
pub(crate) struct Inode {
    pub(crate) ino: Ino,
    pub(crate) files: Arc<Files>,
    pub(crate) gate: Arc<RwLock<()>>,
    /// One look-up of the layout at a time: readers that miss the same windows ask once.
    pub(crate) loading: tokio::sync::Mutex<()>,
    /// Dirty data was committed or dropped.
    pub(crate) settled: Notify,
    /// The flusher has something to look at.
    pub(crate) work: Notify,
    /// The ranges of writes that are under way. The kernel may have their pages locked until they are answered.
    pub(crate) writing: watch::Sender<Vec<Range<u64>>>,
    state: Mutex<State>,
}

/// What changes.
pub(crate) struct State {
    /// The newest attributes that the NameNode told.
    pub(crate) attr: Attr,
    pub(crate) layout: LayoutCache,
    /// Windows with data that is not committed.
    pub(crate) dirty: BTreeMap<u64, DirtyWindow>,
    /// Bytes of all of them.
    pub(crate) dirty_bytes: u64,
    /// Windows that are complete: worth sending without being asked.
    pub(crate) complete: BTreeSet<u64>,
    /// Counts the writes.
    pub(crate) sequence: u64,
    /// Writes up to this one are to be sent now,
    pub(crate) flush_to: u64,
    /// and up to this one onto the disks.
    pub(crate) durable_to: u64,
    /// Writes up to this one came before the attributes were last set.
    pub(crate) attributes_set_at: u64,
    /// When the last write happened.
    pub(crate) written_at: Timestamp,
    /// The last write that clears suid and sgid, until it is committed.
    pub(crate) kill_at: Option<u64>,
    pub(crate) errors: ErrorLog,
    /// The file was emptied, and what was written since is not committed.
    pub(crate) replaced: bool,
    /// A flusher task runs.
    pub(crate) flushing: bool,
    /// Handles that were closed and whose close was not yet passed on, because data is dirty.
    pub(crate) closing: usize,
}

/// Uncommitted data of one window: `flying` is on its way and hidden by `active`.
#[derive(Debug, Default)]
pub(crate) struct DirtyWindow {
    pub(crate) active: ExtentMap,
    /// The first write in `active`, and when it came.
    pub(crate) first: Option<(u64, Instant)>,
    pub(crate) flying: Option<Flying>,
}

/// Data on its way to the cluster.
#[derive(Debug)]
pub(crate) struct Flying {
    /// The first write in it.
    pub(crate) first: u64,
    pub(crate) pieces: Vec<(u32, Bytes)>,
    pub(crate) bytes: usize,
    /// What it holds of the budget.
    pub(crate) cost: usize,
}

impl DirtyWindow {
    /// The end of its data within the window.
    pub(crate) fn end(&self) -> u32 {
        let flying = self.flying.as_ref().and_then(|f| f.pieces.last());
        self.active.end().max(flying.map_or(0, |(at, data)| at + data.len() as u32))
    }

    /// The oldest write that is not committed.
    pub(crate) fn oldest(&self) -> u64 {
        let active = self.first.map_or(u64::MAX, |(sequence, _)| sequence);
        active.min(self.flying.as_ref().map_or(u64::MAX, |f| f.first))
    }
}

impl Inode {
    pub(crate) fn new(files: Arc<Files>, attr: Attr) -> Self {
        let errors = files.unseen_error(attr.ino);
        Self {
            ino: attr.ino,
            files,
            gate: Arc::default(),
            loading: tokio::sync::Mutex::default(),
            settled: Notify::new(),
            work: Notify::new(),
            writing: watch::Sender::new(Vec::new()),
            state: Mutex::new(State {
                attr,
                layout: LayoutCache::default(),
                dirty: BTreeMap::new(),
                dirty_bytes: 0,
                complete: BTreeSet::new(),
                sequence: 0,
                flush_to: 0,
                durable_to: 0,
                attributes_set_at: 0,
                written_at: Timestamp::default(),
                kill_at: None,
                errors,
                replaced: false,
                flushing: false,
                closing: 0,
            }),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inode {
    fn drop(&mut self) {
        let lost = self.state().errors.unseen();
        self.files.forget(self.ino, lost);
    }
}

impl State {
    /// The file's length, with what was written here and is not committed.
    pub(crate) fn size(&self) -> u64 {
        let pending = self.dirty.last_key_value().map_or(0, |(i, w)| i * CHUNK_SIZE + u64::from(w.end()));
        self.attr.size.max(pending)
    }

    /// The time that dirty data bring along, unless attributes were set since.
    pub(crate) fn pending_time(&self) -> Option<Timestamp> {
        (!self.dirty.is_empty() && self.sequence > self.attributes_set_at).then_some(self.written_at)
    }

    /// The attributes as this mount sees them.
    pub(crate) fn overlaid(&self) -> Attr {
        let mut attr = self.attr.clone();
        if !self.dirty.is_empty() {
            attr.size = self.size();
            attr.allocated += self.dirty_bytes;
        }
        if let Some(written_at) = self.pending_time() {
            attr.mtime = attr.mtime.max(written_at);
            attr.ctime = attr.ctime.max(written_at);
        }
        if self.kill_at.is_some() {
            attr.mode &= !S_ISUID;
            if attr.mode & S_IXGRP != 0 {
                attr.mode &= !S_ISGID;
            }
        }
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

    /// The answer to a change that was made here. Returns whether nobody else changed the inode since the last
    /// attributes that are known; if somebody did, the layout is forgotten.
    pub(crate) fn observe_own(&mut self, attr: &Attr) -> bool {
        let next = attr.version == self.attr.version + 1;
        if next {
            self.attr = attr.clone();
        } else {
            self.observe(attr);
        }
        next
    }

    /// Whether a write up to `sequence` is not committed.
    pub(crate) fn is_dirty_to(&self, sequence: u64) -> bool {
        self.dirty.values().any(|window| window.oldest() <= sequence)
    }
}

const S_ISUID: u16 = 0o4000;
const S_ISGID: u16 = 0o2000;
const S_IXGRP: u16 = 0o010;

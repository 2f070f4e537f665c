//! Changing the windows of a file: what commit, truncate, fallocate and copy have in common.

use super::OpResult;
use crate::chunks::References;
use crate::command::Effect;
use crate::error::{OpError, StateError};
use crate::records::{Erased, FileContent, Inode, WindowRecord};
use crate::store::Store;
use crate::tables::{ErasedKey, WindowKey};
use crate::tx::{Tx, file_mut, file_ref};
use quarry_common::ids::{ChunkId, Ino, WindowIndex};
use quarry_common::limits::{CHUNK_SIZE, SLICES_MAX};
use quarry_common::slices::{self, WINDOW};
use quarry_common::wire::fs::{ChunkInfo, Slice};
use std::collections::BTreeMap;
use std::ops::Range;

/// The last window that a file of the largest size has, and one more.
pub(crate) const END: WindowIndex = WindowIndex((1 << 63) / CHUNK_SIZE);

/// A window's new slice list.
pub(crate) struct Change {
    pub(crate) index: WindowIndex,
    old: Vec<Slice>,
    pub(crate) new: Vec<Slice>,
    /// Bytes with data before and after.
    allocated: (u64, u64),
}

impl Change {
    /// Shortens the new list as far as the data allow.
    pub(crate) fn new(index: WindowIndex, old: Vec<Slice>, mut new: Vec<Slice>) -> Self {
        let before = slices::visible(&old).iter().map(|s| u64::from(s.length)).sum();
        let after = slices::normalise(&mut new);
        Self { index, old, new, allocated: (before, after) }
    }
}

/// A window as it is stored, and what of that still counts.
pub(crate) struct Loaded {
    pub(crate) index: WindowIndex,
    /// What the table has.
    pub(crate) stored: Vec<Slice>,
    /// The window: empty if it is all hole, or erased.
    pub(crate) record: WindowRecord,
}

impl Loaded {
    fn new(file: &FileContent, index: WindowIndex, record: WindowRecord) -> Self {
        let stored = record.slices.clone();
        let is_erased = file.has_erased(index, record.version);
        Self { index, stored, record: if is_erased { WindowRecord::default() } else { record } }
    }
}

/// One window.
pub(crate) fn load(store: &Store, file: &FileContent, index: WindowIndex) -> Result<Loaded, StateError> {
    let record = store.get(&WindowKey { data: file.data, index })?.unwrap_or_default();
    Ok(Loaded::new(file, index, record))
}

/// The windows that are stored from `first` to before `end`, in order.
pub(crate) fn range(
    store: &Store,
    file: &FileContent,
    first: WindowIndex,
    end: WindowIndex,
    limit: usize,
) -> Result<Vec<Loaded>, StateError> {
    let key = |index| WindowKey { data: file.data, index };
    let rows = store.range(&key(first), Some(&key(end)), limit)?;
    Ok(rows.into_iter().map(|(key, record)| Loaded::new(file, key.index, record)).collect())
}

/// Stores changed windows and counts chunk references and allocated bytes. The caller saves the inode.
pub(crate) fn apply(
    tx: &mut Tx<'_>,
    inode: &mut Inode,
    changes: &[Change],
    new_chunks: &BTreeMap<ChunkId, ChunkInfo>,
) -> Result<(), StateError> {
    let FileContent { data, layout, .. } = *file_ref(inode);
    let version = layout + 1;
    let mut references = References::default();
    let (mut removed, mut added) = (0, 0);
    for change in changes {
        references.replace(&change.old, &change.new);
        removed += change.allocated.0;
        added += change.allocated.1;
        let key = WindowKey { data, index: change.index };
        if change.new.is_empty() {
            tx.store.delete(&key);
        } else {
            tx.store.put(&key, &WindowRecord { version, slices: change.new.clone() });
        }
    }
    let file = file_mut(inode);
    file.layout = version;
    file.allocated = file.allocated + added - removed;
    let usage = &mut tx.store.meta.usage;
    usage.allocated = usage.allocated + added - removed;
    references.apply(tx, new_chunks)
}

/// Sets the size of a file. The caller cuts what is beyond, and saves the inode.
pub(crate) fn set_size(tx: &mut Tx<'_>, inode: &mut Inode, size: u64) {
    let file = file_mut(inode);
    let usage = &mut tx.store.meta.usage;
    usage.bytes = usage.bytes.wrapping_add(size).wrapping_sub(file.size);
    file.size = size;
}

/// Windows that one command frees, moves or changes at most (1 GiB of file): some milliseconds of work.
pub(crate) const AT_ONCE: usize = 512;

/// What it takes to make a range of bytes a hole.
pub(crate) struct Erasure {
    changes: Vec<Change>,
    /// Whole windows that are too many to be freed at once.
    rest: Option<(WindowIndex, WindowIndex)>,
}

impl Erasure {
    /// Nothing becomes a hole.
    pub(crate) fn nothing() -> Self {
        Self { changes: Vec::new(), rest: None }
    }

    /// Whether a window would have too many slices.
    pub(crate) fn is_too_fragmented(&self) -> bool {
        self.changes.iter().any(|change| change.new.len() > SLICES_MAX)
    }
}

/// Finds out what making a range of bytes a hole means.
///
/// # Errors
/// `Busy` while the file has as much to be freed from an earlier time.
pub(crate) fn plan_erasure(store: &Store, file: &FileContent, bytes: Range<u64>) -> OpResult<Erasure> {
    let (first, end) = (WindowIndex(bytes.start / CHUNK_SIZE), WindowIndex(bytes.end.div_ceil(CHUNK_SIZE)));
    let stored = range(store, file, first, end, AT_ONCE + 1)?;
    if stored.len() <= AT_ONCE {
        let changes = stored.into_iter().filter_map(|window| erase(window, &bytes)).collect();
        return Ok(Erasure { changes, rest: None });
    }
    if file.erased.is_some() {
        return Err(OpError::Busy("what was erased of the file before is still being freed"));
    }
    let rest = (WindowIndex(bytes.start.div_ceil(CHUNK_SIZE)), WindowIndex(bytes.end / CHUNK_SIZE));
    let mut changes = Vec::new();
    for edge in [first, WindowIndex(end.0 - 1)] {
        if !(rest.0..rest.1).contains(&edge) {
            changes.extend(erase(load(store, file, edge)?, &bytes));
        }
    }
    Ok(Erasure { changes, rest: Some(rest) })
}

/// Carries it out. The caller saves the inode.
pub(crate) fn apply_erasure(
    tx: &mut Tx<'_>,
    ino: Ino,
    inode: &mut Inode,
    erasure: Erasure,
) -> Result<(), StateError> {
    apply(tx, inode, &erasure.changes, &BTreeMap::new())?;
    if let Some((from, end)) = erasure.rest {
        let file = file_mut(inode);
        file.erased = Some(Erased { from, end, version: file.layout });
        tx.store.put(&ErasedKey(ino), &());
        tx.effect(Effect::Erased);
    }
    Ok(())
}

/// Frees erased windows of a file as far as the budget goes, and says whether all are free. The caller stores the inode.
pub(crate) fn free_erased(
    tx: &mut Tx<'_>,
    ino: Ino,
    inode: &mut Inode,
    budget: &mut usize,
) -> Result<bool, StateError> {
    let file = *file_ref(inode);
    let Some(erased) = file.erased else { return Ok(true) };
    let rows = range(tx.store, &file, erased.from, erased.end, *budget + 1)?;
    let is_done = rows.len() <= *budget;
    let next = rows.get(*budget).map(|window| window.index);
    *budget -= rows.len().min(*budget);
    let freed: Vec<Change> = rows
        .into_iter()
        .take_while(|window| next.is_none_or(|next| window.index < next))
        .filter(|window| window.record.slices.is_empty())
        .map(|window| Change::new(window.index, window.stored, Vec::new()))
        .collect();
    apply(tx, inode, &freed, &BTreeMap::new())?;
    file_mut(inode).erased = next.map(|from| Erased { from, ..erased });
    if is_done {
        tx.store.delete(&ErasedKey(ino));
    }
    Ok(is_done)
}

/// The change of a window in which a range of the file becomes a hole; `None` if it is one already.
fn erase(window: Loaded, bytes: &Range<u64>) -> Option<Change> {
    let Loaded { index, stored, record } = window;
    let hole = within(index, bytes);
    let mut new = record.slices;
    if hole == (0..WINDOW) {
        new.clear();
    } else {
        slices::punch(&mut new, hole);
    }
    (new != stored).then(|| Change::new(index, stored, new))
}

/// The part of a range of the file that lies in a window, relative to the window. The two must meet.
pub(crate) fn within(index: WindowIndex, bytes: &Range<u64>) -> Range<u32> {
    let base = index.0 * CHUNK_SIZE;
    let start = bytes.start.saturating_sub(base);
    let end = (bytes.end - base).min(CHUNK_SIZE);
    start as u32..end as u32
}

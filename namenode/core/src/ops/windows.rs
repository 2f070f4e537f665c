//! Changing the windows of a file: what commit, truncate, fallocate and copy have in common.

use crate::chunks::References;
use crate::error::StateError;
use crate::records::{FileContent, Inode, WindowRecord};
use crate::store::Store;
use crate::tables::WindowKey;
use crate::tx::{Tx, file_mut, file_ref};
use quarry_common::ids::{ChunkId, Ino, WindowIndex};
use quarry_common::limits::CHUNK_SIZE;
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

    /// The whole window becomes a hole.
    pub(crate) fn clear(index: WindowIndex, old: Vec<Slice>) -> Self {
        Self::new(index, old, Vec::new())
    }
}

/// The window, empty if it is all hole.
pub(crate) fn load(store: &Store, data: Ino, index: WindowIndex) -> Result<WindowRecord, StateError> {
    Ok(store.get(&WindowKey { data, index })?.unwrap_or_default())
}

/// The windows with slices from `first` to before `end`, in order.
pub(crate) fn range(
    store: &Store,
    data: Ino,
    first: WindowIndex,
    end: WindowIndex,
    limit: usize,
) -> Result<Vec<(WindowIndex, WindowRecord)>, StateError> {
    let rows =
        store.range(&WindowKey { data, index: first }, Some(&WindowKey { data, index: end }), limit)?;
    Ok(rows.into_iter().map(|(key, record)| (key.index, record)).collect())
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

/// The windows that change when a range of bytes becomes a hole.
pub(crate) fn erase(store: &Store, data: Ino, bytes: Range<u64>) -> Result<Vec<Change>, StateError> {
    let first = WindowIndex(bytes.start / CHUNK_SIZE);
    let end = WindowIndex(bytes.end.div_ceil(CHUNK_SIZE));
    let mut changes = Vec::new();
    for (index, window) in range(store, data, first, end, usize::MAX)? {
        let hole = within(index, &bytes);
        if hole == (0..WINDOW) {
            changes.push(Change::clear(index, window.slices));
            continue;
        }
        let mut new = window.slices.clone();
        slices::punch(&mut new, hole);
        if new != window.slices {
            changes.push(Change::new(index, window.slices, new));
        }
    }
    Ok(changes)
}

/// The part of a range of the file that lies in a window, relative to the window. The two must meet.
pub(crate) fn within(index: WindowIndex, bytes: &Range<u64>) -> Range<u32> {
    let base = index.0 * CHUNK_SIZE;
    let start = bytes.start.saturating_sub(base);
    let end = (bytes.end - base).min(CHUNK_SIZE);
    start as u32..end as u32
}

//! Where the data of a file are.

use super::OpResult;
use super::windows::{self, Loaded};
use crate::records::WindowRecord;
use crate::store::Store;
use crate::tables::ChunkKey;
use crate::tx;
use quarry_common::ids::{ChunkId, Ino, WindowIndex};
use quarry_common::limits::{COMMIT_SLICES_MAX, LAYOUT_WINDOWS_MAX};
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{ChunkInfo, QueryReply, Window};

/// Windows that are erased and not yet freed, of those that one search for data passes over.
const ERASED_SCAN: usize = 4096;

pub(crate) fn layout(store: &Store, ino: Ino, first: WindowIndex, count: u32) -> OpResult<QueryReply> {
    let inode = tx::file(store, ino)?;
    let count = count.min(LAYOUT_WINDOWS_MAX);
    let end = WindowIndex(first.0.saturating_add(count.into()));
    let found = windows::range(store, tx::file_ref(&inode), first, end, count as usize)?;
    let shown = found.into_iter().filter(|window| !window.record.slices.is_empty()).map(to_wire).collect();
    Ok(QueryReply::Layout { attr: inode.attr(ino), windows: shown })
}

pub(crate) fn next_window(store: &Store, ino: Ino, from: WindowIndex) -> OpResult<QueryReply> {
    let inode = tx::file(store, ino)?;
    let file = tx::file_ref(&inode);
    let limit = if file.erased.is_some() { ERASED_SCAN } else { 1 };
    let mut found = windows::range(store, file, from, windows::END, limit)?;
    let next = match found.iter().position(|window| !window.record.slices.is_empty()) {
        Some(at) => Some(found.swap_remove(at)),
        // The search goes on behind this one, which is all hole.
        None if found.len() == limit => found.pop(),
        None => None,
    };
    Ok(QueryReply::Layout { attr: inode.attr(ino), windows: next.into_iter().map(to_wire).collect() })
}

fn to_wire(window: Loaded) -> Window {
    let Loaded { index, record: WindowRecord { version, slices }, .. } = window;
    Window { index, version, slices }
}

pub(crate) fn chunks(store: &Store, ids: &[ChunkId]) -> OpResult<QueryReply> {
    if ids.len() > COMMIT_SLICES_MAX {
        return Err(FsError::Invalid.into());
    }
    let mut known = Vec::with_capacity(ids.len());
    for &id in ids {
        if let Some(record) = store.get(&ChunkKey(id))? {
            known.push(ChunkInfo { id, length: record.length, sha256: record.sha256 });
        }
    }
    Ok(QueryReply::Chunks(known))
}

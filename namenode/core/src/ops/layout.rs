//! Where the data of a file are.

use super::{OpResult, windows};
use crate::records::WindowRecord;
use crate::store::Store;
use crate::tables::ChunkKey;
use crate::tx;
use quarry_common::ids::{ChunkId, Ino, WindowIndex};
use quarry_common::limits::{COMMIT_SLICES_MAX, LAYOUT_WINDOWS_MAX};
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{ChunkInfo, QueryReply, Window};

pub(crate) fn layout(store: &Store, ino: Ino, first: WindowIndex, count: u32) -> OpResult<QueryReply> {
    let count = count.min(LAYOUT_WINDOWS_MAX);
    reply(store, ino, first, WindowIndex(first.0.saturating_add(count.into())), count as usize)
}

pub(crate) fn next_window(store: &Store, ino: Ino, from: WindowIndex) -> OpResult<QueryReply> {
    reply(store, ino, from, windows::END, 1)
}

fn reply(
    store: &Store,
    ino: Ino,
    first: WindowIndex,
    end: WindowIndex,
    limit: usize,
) -> OpResult<QueryReply> {
    let inode = tx::file(store, ino)?;
    let to_wire = |(index, window): (WindowIndex, WindowRecord)| Window {
        index,
        version: window.version,
        slices: window.slices,
    };
    let found = windows::range(store, tx::file_ref(&inode).data, first, end, limit)?;
    Ok(QueryReply::Layout { attr: inode.attr(ino), windows: found.into_iter().map(to_wire).collect() })
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

//! Bringing written data into a file: all of a commit or nothing of it.

use super::OpResult;
use super::windows::{self, Change};
use crate::chunks;
use crate::error::OpError;
use crate::records::WindowRecord;
use crate::slices;
use crate::store::Store;
use crate::tables::ChunkKey;
use crate::tx::{self, Tx, file_ref};
use quarry_common::ids::{ChunkId, WindowIndex};
use quarry_common::limits::{CHUNK_SIZE, COMMIT_SLICES_MAX, FILE_SIZE_MAX, SLICES_MAX};
use quarry_common::wire::error::{FsError, ServiceError};
use quarry_common::wire::fs::{ChunkInfo, Commit, MutationReply, Slice};
use std::collections::BTreeMap;

pub(crate) fn commit(tx: &mut Tx<'_>, commit: &Commit) -> OpResult<MutationReply> {
    let mut inode = tx::file(tx.store, commit.ino)?;
    let size = file_ref(&inode).size.max(commit.size_at_least);
    check_shape(commit, size)?;
    let new_chunks = chunks::admit(tx.store, &commit.chunks)??;
    let changes = check_windows(tx.store, commit, &new_chunks)?;

    windows::apply(tx, commit.ino, &mut inode, &changes, &new_chunks)?;
    windows::set_size(tx, &mut inode, size);
    if commit.kill_suidgid {
        tx::kill_suidgid(&mut inode);
    }
    if let Some(mtime) = commit.mtime {
        inode.mtime = mtime;
        inode.ctime = tx.now;
    }
    tx.save(commit.ino, &mut inode);
    let version = file_ref(&inode).layout;
    let report = |c: &Change| match c.new.len() {
        0 => (c.index, 0, 0),
        count => (c.index, version, count as u32),
    };
    Ok(MutationReply::Committed {
        attr: inode.attr(commit.ino),
        windows: changes.iter().map(report).collect(),
    })
}

/// What can be told without the tables.
fn check_shape(commit: &Commit, size: u64) -> Result<(), OpError> {
    if size > FILE_SIZE_MAX {
        return Err(FsError::FileTooLarge.into());
    }
    let count: usize = commit.windows.iter().map(|w| w.slices.len()).sum();
    if count > COMMIT_SLICES_MAX
        || commit.windows.len() > COMMIT_SLICES_MAX
        || commit.chunks.len() > COMMIT_SLICES_MAX
    {
        return Err(bad(format!("a commit may have {COMMIT_SLICES_MAX} slices, windows and chunks")));
    }
    for chunk in &commit.chunks {
        if chunk.info.length == 0 || u64::from(chunk.info.length) > CHUNK_SIZE {
            return Err(bad(format!("chunk {} of {} bytes", chunk.info.id, chunk.info.length)));
        }
    }
    for window in &commit.windows {
        for slice in &window.slices {
            let fits = slices::is_sound(slice) && window.index < windows::END;
            let end = |s: &Slice| window.index.0 * CHUNK_SIZE + u64::from(s.position + s.length);
            if !fits || (slice.chunk.is_some() && end(slice) > size) {
                return Err(bad(format!("window {} of a file of {size} bytes: {slice:?}", window.index)));
            }
        }
    }
    Ok(())
}

/// Checks the slices against what is there, and makes the new lists.
fn check_windows(
    store: &Store,
    commit: &Commit,
    new_chunks: &BTreeMap<ChunkId, ChunkInfo>,
) -> Result<Vec<Change>, OpError> {
    let mut old: BTreeMap<WindowIndex, WindowRecord> = BTreeMap::new();
    for window in &commit.windows {
        let record = windows::load(store, commit.ino, window.index)?;
        if window.replaces.is_some_and(|version| version != record.version) {
            return Err(ServiceError::WindowChanged.into());
        }
        if old.insert(window.index, record).is_some() {
            return Err(bad(format!("window {} comes twice", window.index)));
        }
    }
    let mut lengths: BTreeMap<ChunkId, u32> =
        new_chunks.iter().map(|(id, info)| (*id, info.length)).collect();
    for id in old.values().flat_map(|w| &w.slices).filter_map(|s| s.chunk) {
        if let std::collections::btree_map::Entry::Vacant(vacant) = lengths.entry(id) {
            vacant.insert(store.expect(&ChunkKey(id))?.length);
        }
    }
    let mut changes = Vec::with_capacity(commit.windows.len());
    for window in &commit.windows {
        if let Some(slice) = window.slices.iter().find(|s| !within_chunk(s, &lengths)) {
            return Err(bad(format!(
                "window {}: {slice:?} is not within a chunk of this file",
                window.index
            )));
        }
        let record = old.remove(&window.index).expect("loaded above");
        let mut list = if window.replaces.is_some() { Vec::new() } else { record.slices.clone() };
        list.extend_from_slice(&window.slices);
        let change = Change::new(window.index, record.slices, list);
        if change.new.len() > SLICES_MAX {
            return Err(FsError::Invalid.into());
        }
        changes.push(change);
    }
    Ok(changes)
}

fn within_chunk(slice: &Slice, lengths: &BTreeMap<ChunkId, u32>) -> bool {
    match slice.chunk {
        None => slice.chunk_offset == 0,
        Some(id) => lengths.get(&id).is_some_and(|length| slice.chunk_offset + slice.length <= *length),
    }
}

fn bad(what: String) -> OpError {
    ServiceError::BadRequest(what).into()
}

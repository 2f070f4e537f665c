//! Copying by reference: the target's slices name the source's chunks.

use super::OpResult;
use super::windows::{self, Change};
use crate::error::OpError;
use crate::records::FileContent;
use crate::slices::{self, WINDOW};
use crate::store::Store;
use crate::tx::{self, Tx, file_ref};
use quarry_common::ids::{Ino, WindowIndex};
use quarry_common::limits::{CHUNK_SIZE, FILE_SIZE_MAX, SLICES_MAX};
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{MutationReply, Slice};
use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes that one command copies at most: 32 windows, well under a millisecond of work.
const BYTES_MAX: u64 = 64 << 20;

/// What to copy.
pub(crate) struct Copy {
    pub(crate) from: Ino,
    pub(crate) from_offset: u64,
    pub(crate) to: Ino,
    pub(crate) to_offset: u64,
    pub(crate) length: u64,
}

pub(crate) fn copy_range(tx: &mut Tx<'_>, copy: &Copy, kill_suidgid: bool) -> OpResult<MutationReply> {
    let source = tx::file(tx.store, copy.from)?;
    let mut target = tx::file(tx.store, copy.to)?;
    let length = check(copy, file_ref(&source))?;
    let default = tx.store.meta.default_replication;
    // The copy must be as safe as the target's policy asks for: chunks of another policy have to be copied.
    if source.replication().unwrap_or(default) != target.replication().unwrap_or(default) {
        return Err(FsError::NotSupported.into());
    }
    let (changes, copied) = plan(tx.store, copy, length)?;
    if copied == 0 {
        return Ok(MutationReply::Copied { bytes: 0, attr: target.attr(copy.to) });
    }

    windows::apply(tx, copy.to, &mut target, &changes, &BTreeMap::new())?;
    let size = file_ref(&target).size.max(copy.to_offset + copied);
    windows::set_size(tx, &mut target, size);
    if kill_suidgid {
        tx::kill_suidgid(&mut target);
    }
    target.mtime = tx.now;
    target.ctime = tx.now;
    tx.save(copy.to, &mut target);
    Ok(MutationReply::Copied { bytes: copied, attr: target.attr(copy.to) })
}

/// How much to copy, if the request may be carried out.
fn check(copy: &Copy, source: &FileContent) -> Result<u64, FsError> {
    let wanted = copy.length.min(source.size.saturating_sub(copy.from_offset));
    let overlaps = copy.from == copy.to && copy.from_offset.abs_diff(copy.to_offset) < wanted;
    if overlaps {
        return Err(FsError::Invalid);
    }
    if wanted > 0 && copy.to_offset >= FILE_SIZE_MAX {
        return Err(FsError::FileTooLarge);
    }
    Ok(wanted.min(FILE_SIZE_MAX.saturating_sub(copy.to_offset)).min(BYTES_MAX))
}

/// The target's windows afterwards, and the bytes that they take: fewer than wanted where a window would get too
/// many slices.
fn plan(store: &Store, copy: &Copy, length: u64) -> Result<(Vec<Change>, u64), OpError> {
    let mut changes = Vec::new();
    let mut copied = 0;
    while copied < length {
        let at = copy.to_offset + copied;
        let index = WindowIndex(at / CHUNK_SIZE);
        let bytes = (length - copied).min(CHUNK_SIZE - at % CHUNK_SIZE);
        let from = copy.from_offset + copied;
        let pieces = pieces(store, copy.from, from..from + bytes, (at % CHUNK_SIZE) as u32)?;
        let old = windows::load(store, copy.to, index)?.slices;
        let mut new = old.clone();
        let start = (at % CHUNK_SIZE) as u32;
        slices::punch(&mut new, start..start + bytes as u32);
        new.extend(pieces);
        let change = Change::new(index, old, new);
        if change.new.len() > SLICES_MAX {
            break;
        }
        changes.push(change);
        copied += bytes;
    }
    // The caller can still copy the bytes themselves.
    if copied == 0 && length > 0 { Err(FsError::NotSupported.into()) } else { Ok((changes, copied)) }
}

/// What the source shows in a range of at most a window, moved to `position` of a target window.
fn pieces(store: &Store, ino: Ino, bytes: Range<u64>, position: u32) -> Result<Vec<Slice>, OpError> {
    let mut moved = Vec::new();
    let first = WindowIndex(bytes.start / CHUNK_SIZE);
    let end = WindowIndex(bytes.end.div_ceil(CHUNK_SIZE));
    for (index, window) in windows::range(store, ino, first, end, 2)? {
        let wanted = windows::within(index, &bytes);
        for piece in slices::visible(&window.slices) {
            let have = slices::range(&piece);
            let overlap = have.start.max(wanted.start)..have.end.min(wanted.end);
            if overlap.is_empty() {
                continue;
            }
            let mut part = slices::part(&piece, overlap);
            let in_file = index.0 * CHUNK_SIZE + u64::from(part.position);
            part.position = position + (in_file - bytes.start) as u32;
            debug_assert!(part.position + part.length <= WINDOW);
            moved.push(part);
        }
    }
    Ok(moved)
}

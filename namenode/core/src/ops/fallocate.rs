//! fallocate(2): sizes and holes. Space is not reserved.

use super::{OpResult, windows};
use crate::tx::{self, Tx, file_ref};
use quarry_common::ids::Ino;
use quarry_common::limits::{FILE_SIZE_MAX, SLICES_MAX};
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{FallocateMode, MutationReply};
use std::collections::BTreeMap;

pub(crate) fn fallocate(
    tx: &mut Tx<'_>,
    ino: Ino,
    mode: FallocateMode,
    offset: u64,
    length: u64,
    kill_suidgid: bool,
) -> OpResult<MutationReply> {
    let mut inode = tx::file(tx.store, ino)?;
    if length == 0 {
        return Err(FsError::Invalid.into());
    }
    let end = offset.checked_add(length).filter(|end| *end <= FILE_SIZE_MAX).ok_or(FsError::FileTooLarge)?;
    let (zeros, extends) = match mode {
        FallocateMode::Allocate => (false, true),
        FallocateMode::KeepSize => (false, false),
        FallocateMode::PunchHole | FallocateMode::ZeroRangeKeepSize => (true, false),
        FallocateMode::ZeroRange => (true, true),
    };
    let changes = if zeros { windows::erase(tx.store, ino, offset..end)? } else { Vec::new() };
    if changes.iter().any(|c| c.new.len() > SLICES_MAX) {
        return Err(FsError::NoSpace.into());
    }

    windows::apply(tx, ino, &mut inode, &changes, &BTreeMap::new())?;
    if extends {
        let size = file_ref(&inode).size.max(end);
        windows::set_size(tx, &mut inode, size);
    }
    if kill_suidgid {
        tx::kill_suidgid(&mut inode);
    }
    inode.mtime = tx.now;
    inode.ctime = tx.now;
    tx.save(ino, &mut inode);
    Ok(MutationReply::Attr(inode.attr(ino)))
}

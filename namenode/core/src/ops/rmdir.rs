//! Removing an empty directory.

use super::OpResult;
use crate::records::{Content, Inode};
use crate::tx::{self, Tx};
use quarry_common::ids::Ino;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{MutationReply, Name};

pub(crate) fn rmdir(tx: &mut Tx<'_>, parent: Ino, name: &Name) -> OpResult<MutationReply> {
    if name.0 == b".." {
        return Err(FsError::NotEmpty.into());
    }
    tx::check_name(name)?;
    let mut dir = tx::directory(tx.store, parent)?;
    let entry = tx::entry(tx.store, parent, name)?.ok_or(FsError::NotFound)?;
    let mut inode = tx::linked(tx.store, entry.ino)?;
    check_empty(&inode)?;

    tx.remove_entry(parent, &mut dir, name, entry.cookie);
    dir.nlink -= 1;
    tx.save(parent, &mut dir);
    tx.drop_name(entry.ino, &mut inode);
    Ok(MutationReply::Removed(inode.attr(entry.ino)))
}

/// Only an empty directory may go, or be replaced.
pub(crate) fn check_empty(inode: &Inode) -> Result<(), FsError> {
    match &inode.content {
        Content::Dir(dir) if dir.entries == 0 => Ok(()),
        Content::Dir(_) => Err(FsError::NotEmpty),
        Content::File(_) | Content::Symlink(_) | Content::Special { .. } => Err(FsError::NotDir),
    }
}

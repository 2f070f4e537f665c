//! Removing a name of anything but a directory.

use super::OpResult;
use crate::records::Content;
use crate::tx::{self, Tx};
use quarry_common::ids::Ino;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{MutationReply, Name};

pub(crate) fn unlink(tx: &mut Tx<'_>, parent: Ino, name: &Name) -> OpResult<MutationReply> {
    tx::check_name(name)?;
    let mut dir = tx::directory(tx.store, parent)?;
    let entry = tx::entry(tx.store, parent, name)?.ok_or(FsError::NotFound)?;
    let mut inode = tx::linked(tx.store, entry.ino)?;
    if matches!(inode.content, Content::Dir(_)) {
        return Err(FsError::IsDir.into());
    }

    tx.remove_entry(parent, &mut dir, name, entry.cookie);
    tx.save(parent, &mut dir);
    tx.drop_name(entry.ino, &mut inode);
    Ok(MutationReply::Removed(inode.attr(entry.ino)))
}

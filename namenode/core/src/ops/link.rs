//! Another name for an inode.

use super::OpResult;
use crate::records::Content;
use crate::tx::{self, Tx};
use quarry_common::ids::Ino;
use quarry_common::limits::LINK_MAX;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{MutationReply, Name};

pub(crate) fn link(tx: &mut Tx<'_>, ino: Ino, parent: Ino, name: &Name) -> OpResult<MutationReply> {
    tx::check_name(name)?;
    let mut dir = tx::live_directory(tx.store, parent)?;
    let mut inode = tx::inode(tx.store, ino)?;
    if tx::entry(tx.store, parent, name)?.is_some() {
        return Err(FsError::Exists.into());
    }
    if matches!(inode.content, Content::Dir(_)) {
        return Err(FsError::NotPermitted.into());
    }
    if inode.nlink == 0 {
        return Err(FsError::NotFound.into());
    }
    if inode.nlink >= LINK_MAX {
        return Err(FsError::TooManyLinks.into());
    }

    tx.insert_entry(parent, &mut dir, name, ino, inode.kind());
    inode.nlink += 1;
    inode.ctime = tx.now;
    tx.save(ino, &mut inode);
    tx.save(parent, &mut dir);
    Ok(MutationReply::Attr(inode.attr(ino)))
}

//! Reading single inodes and names.

use super::OpResult;
use crate::records::Content;
use crate::store::Store;
use crate::tx;
use quarry_common::ids::Ino;
use quarry_common::limits::NAME_MAX;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Name, QueryReply};

pub(crate) fn lookup(store: &Store, parent: Ino, name: &Name) -> OpResult<QueryReply> {
    if name.len() > NAME_MAX {
        return Err(FsError::NameTooLong.into());
    }
    tx::directory(store, parent)?;
    let entry = tx::entry(store, parent, name)?.ok_or(FsError::NotFound)?;
    Ok(QueryReply::Attr(tx::linked(store, entry.ino)?.attr(entry.ino)))
}

pub(crate) fn attr(store: &Store, ino: Ino) -> OpResult<QueryReply> {
    Ok(QueryReply::Attr(tx::inode(store, ino)?.attr(ino)))
}

pub(crate) fn parent(store: &Store, ino: Ino) -> OpResult<QueryReply> {
    match tx::directory(store, ino)?.content {
        Content::Dir(dir) => attr(store, dir.parent),
        _ => Err(FsError::NotDir.into()),
    }
}

pub(crate) fn readlink(store: &Store, ino: Ino) -> OpResult<QueryReply> {
    match tx::inode(store, ino)?.content {
        Content::Symlink(target) => Ok(QueryReply::Bytes(target)),
        _ => Err(FsError::Invalid.into()),
    }
}

//! chmod, chown, utimensat, truncate.

use super::{OpResult, windows, xattr};
use crate::acl::ACCESS;
use crate::error::OpError;
use crate::records::{Content, Inode};
use crate::tables::XattrKey;
use crate::tx::{self, S_ISGID, Tx};
use quarry_common::ids::Ino;
use quarry_common::limits::FILE_SIZE_MAX;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{MutationReply, SetAttr, SetTime, Timestamp};
use std::collections::BTreeMap;

pub(crate) fn setattr(tx: &mut Tx<'_>, ino: Ino, set: &SetAttr, keep_sgid: bool) -> OpResult<MutationReply> {
    let mut inode = tx::inode(tx.store, ino)?;
    let cut = match set.size {
        Some(size) => check_size(tx, ino, &inode, size)?,
        None => Vec::new(),
    };
    let acl = match set.mode {
        Some(_) if inode.access_acl => Some(xattr::stored_acl(tx.store, ino, ACCESS)?),
        _ => None,
    };

    if let Some(size) = set.size {
        windows::apply(tx, ino, &mut inode, &cut, &BTreeMap::new())?;
        windows::set_size(tx, &mut inode, size);
        inode.mtime = tx.now;
    }
    // chown takes suid and sgid away, whoever asks; so do changes of data by an unprivileged process.
    if set.uid.is_some() || set.gid.is_some() || set.kill_suidgid {
        tx::kill_suidgid(&mut inode);
    }
    inode.uid = set.uid.unwrap_or(inode.uid);
    inode.gid = set.gid.unwrap_or(inode.gid);
    if let Some(mode) = set.mode {
        inode.mode = mode & 0o7777;
        if let Some(mut acl) = acl {
            acl.chmod(mode);
            tx.store.put(&XattrKey { ino, name: ACCESS.into() }, &acl.format().into());
            if !keep_sgid {
                inode.mode &= !S_ISGID;
            }
        }
    }
    inode.atime = time(set.atime, tx.now, inode.atime);
    inode.mtime = time(set.mtime, tx.now, inode.mtime);
    inode.ctime = tx.now;
    tx.save(ino, &mut inode);
    Ok(MutationReply::Attr(inode.attr(ino)))
}

/// Checks the new size and finds the windows that it cuts.
fn check_size(tx: &Tx<'_>, ino: Ino, inode: &Inode, size: u64) -> Result<Vec<windows::Change>, OpError> {
    let file = match &inode.content {
        Content::File(file) => file,
        Content::Dir(_) => return Err(FsError::IsDir.into()),
        Content::Symlink(_) | Content::Special { .. } => return Err(FsError::Invalid.into()),
    };
    if size > FILE_SIZE_MAX {
        return Err(FsError::FileTooLarge.into());
    }
    if size >= file.size {
        return Ok(Vec::new());
    }
    Ok(windows::cut(tx.store, ino, size)?)
}

fn time(set: Option<SetTime>, now: Timestamp, old: Timestamp) -> Timestamp {
    match set {
        Some(SetTime::Now) => now,
        Some(SetTime::At(at)) => at,
        None => old,
    }
}

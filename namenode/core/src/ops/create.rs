//! New inodes: open(O_CREAT), mkdir, symlink, mknod.

use super::OpResult;
use super::xattr;
use crate::acl::{self, Acl};
use crate::error::OpError;
use crate::records::{Content, DirContent, FileContent, Inode};
use crate::store::Store;
use crate::tables::XattrKey;
use crate::tx::{self, S_ISGID, Tx};
use quarry_common::ids::Ino;
use quarry_common::limits::SYMLINK_MAX;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Caller, FileKind, MutationReply, Name, NewNode};

/// What to make.
pub(crate) struct Spec<'a> {
    pub(crate) node: &'a NewNode,
    pub(crate) mode: u16,
    pub(crate) umask: u16,
    pub(crate) caller: Caller,
}

/// Access and default list of a new inode.
#[derive(Default)]
struct Acls {
    access: Option<Acl>,
    default: Option<Acl>,
}

pub(crate) fn create(tx: &mut Tx<'_>, parent: Ino, name: &Name, spec: &Spec<'_>) -> OpResult<MutationReply> {
    tx::check_name(name)?;
    let mut dir = tx::live_directory(tx.store, parent)?;
    if tx::entry(tx.store, parent, name)?.is_some() {
        return Err(FsError::Exists.into());
    }
    let content = new_content(spec.node, parent, &dir)?;
    let (mode, acls) = permissions(tx.store, parent, &dir, spec)?;

    let ino = tx.store.meta.next_ino;
    tx.store.meta.next_ino = Ino(ino.0 + 1);
    let is_dir = matches!(content, Content::Dir(_));
    let inherits_group = dir.mode & S_ISGID != 0;
    let mut inode = Inode {
        mode: if is_dir && inherits_group { mode | S_ISGID } else { mode },
        uid: spec.caller.uid,
        gid: if inherits_group { dir.gid } else { spec.caller.gid },
        nlink: if is_dir { 2 } else { 1 },
        atime: tx.now,
        mtime: tx.now,
        ctime: tx.now,
        btime: tx.now,
        version: 0,
        xattr_list_bytes: 0,
        access_acl: acls.access.is_some(),
        default_acl: acls.default.is_some(),
        content,
    };
    store_acls(tx, ino, &mut inode, &acls);
    count(tx, &inode);
    let kind = inode.kind();
    tx.insert_entry(parent, &mut dir, name, ino, kind);
    if is_dir {
        dir.nlink += 1;
    }
    tx.save(ino, &mut inode);
    tx.save(parent, &mut dir);
    Ok(MutationReply::Attr(inode.attr(ino)))
}

fn new_content(node: &NewNode, parent: Ino, dir: &Inode) -> Result<Content, FsError> {
    let replication = dir.replication();
    match node {
        NewNode::File { .. } => Ok(Content::File(FileContent { replication, ..FileContent::default() })),
        NewNode::Dir => Ok(Content::Dir(DirContent { parent, entries: 0, next_cookie: 1, replication })),
        NewNode::Symlink(target) if target.is_empty() => Err(FsError::NotFound),
        NewNode::Symlink(target) if target.len() > SYMLINK_MAX => Err(FsError::NameTooLong),
        NewNode::Symlink(target) => Ok(Content::Symlink(target.clone())),
        NewNode::Special { kind, rdev } => match kind {
            FileKind::Fifo | FileKind::Socket => Ok(Content::Special { kind: *kind, rdev: 0 }),
            FileKind::CharDevice | FileKind::BlockDevice => Ok(Content::Special { kind: *kind, rdev: *rdev }),
            FileKind::File | FileKind::Dir | FileKind::Symlink => Err(FsError::Invalid),
        },
    }
}

/// Mode and lists of the new inode: a default list of the directory takes the umask's place.
fn permissions(store: &Store, parent: Ino, dir: &Inode, spec: &Spec<'_>) -> Result<(u16, Acls), OpError> {
    let mode = spec.mode & 0o7777;
    if matches!(spec.node, NewNode::Symlink(_)) {
        return Ok((0o777, Acls::default()));
    }
    if !dir.default_acl {
        return Ok((mode & !(spec.umask & 0o777), Acls::default()));
    }
    let default = xattr::stored_acl(store, parent, acl::DEFAULT)?;
    let (access, bits) = default.inherit(mode);
    let acls = Acls {
        access: (!access.is_equivalent_to_mode()).then_some(access),
        default: matches!(spec.node, NewNode::Dir).then_some(default),
    };
    Ok(((mode & !0o777) | bits, acls))
}

fn store_acls(tx: &mut Tx<'_>, ino: Ino, inode: &mut Inode, acls: &Acls) {
    for (name, acl) in [(acl::ACCESS, &acls.access), (acl::DEFAULT, &acls.default)] {
        if let Some(acl) = acl {
            tx.store.put(&XattrKey { ino, name: name.into() }, &acl.format().into());
            inode.xattr_list_bytes += name.len() as u32 + 1;
        }
    }
}

fn count(tx: &mut Tx<'_>, inode: &Inode) {
    let usage = &mut tx.store.meta.usage;
    usage.inodes += 1;
    match inode.content {
        Content::File(_) => usage.files += 1,
        Content::Dir(_) => usage.directories += 1,
        Content::Symlink(_) | Content::Special { .. } => {}
    }
}

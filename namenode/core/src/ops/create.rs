//! New inodes: open(O_CREAT), mkdir, symlink, mknod.

use super::OpResult;
use super::xattr;
use crate::error::OpError;
use crate::records::{Content, DirContent, FileContent, Inode};
use crate::store::Store;
use crate::tables::XattrKey;
use crate::tx::{self, Tx};
use quarry_common::acl::{self, Acl};
use quarry_common::ids::Ino;
use quarry_common::limits::SYMLINK_MAX;
use quarry_common::mode::S_ISGID;
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
    let content = new_content(spec.node, tx.store.meta.next_ino, parent, &dir)?;
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

fn new_content(node: &NewNode, ino: Ino, parent: Ino, dir: &Inode) -> Result<Content, FsError> {
    let replication = dir.replication();
    match node {
        NewNode::File { .. } => {
            Ok(Content::File(FileContent { data: ino, replication, ..FileContent::default() }))
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::with_named_user;
    use crate::testing::{Bench, CALLER};
    use quarry_common::wire::fs::{Mutation, SetAttr, SetXattrMode};

    #[test]
    fn a_new_inode_has_owner_mode_and_times() {
        let mut bench = Bench::new();
        let attr = bench.create_with(Ino::ROOT, "a", NewNode::File { open: true }, 0o666).expect("created");
        assert_eq!((attr.mode, attr.uid, attr.gid, attr.nlink), (0o644, CALLER.uid, CALLER.gid, 1));
        let root = bench.attr(Ino::ROOT);
        for time in [attr.atime, attr.mtime, attr.ctime, attr.btime, root.mtime, root.ctime] {
            assert_eq!(time, bench.now());
        }
        let dir = bench.dir(Ino::ROOT, "d");
        assert_eq!((bench.attr(dir).nlink, bench.attr(Ino::ROOT).nlink), (2, 3));
        bench.check();
    }

    #[test]
    fn names_and_targets_have_limits() {
        let mut bench = Bench::new();
        let mut create = |name: &str, node| bench.create_with(Ino::ROOT, name, node, 0o777).map(|a| a.size);
        assert_eq!(create(&"n".repeat(255), NewNode::Dir), Ok(4096));
        assert_eq!(create(&"n".repeat(256), NewNode::Dir), Err(FsError::NameTooLong));
        for bad in ["", ".", "..", "a/b", "a\0"] {
            assert_eq!(create(bad, NewNode::Dir), Err(FsError::Invalid), "{bad}");
        }
        assert_eq!(create(&"n".repeat(255), NewNode::Dir), Err(FsError::Exists));
        let link = |length| NewNode::Symlink(vec![b'x'; length].into());
        assert_eq!(create("l", link(SYMLINK_MAX)), Ok(SYMLINK_MAX as u64));
        assert_eq!(create("m", link(SYMLINK_MAX + 1)), Err(FsError::NameTooLong));
        let special = |kind| NewNode::Special { kind, rdev: 5 };
        assert_eq!(create("f", special(FileKind::Fifo)), Ok(0));
        assert_eq!(create("g", special(FileKind::Dir)), Err(FsError::Invalid));
        bench.check();
    }

    #[test]
    fn a_sgid_directory_gives_its_group() {
        let mut bench = Bench::new();
        let dir = bench.dir(Ino::ROOT, "d");
        let set = SetAttr { mode: Some(0o2775), gid: Some(7), ..SetAttr::default() };
        bench.attr_of(Mutation::SetAttr { ino: dir, set, keep_sgid: true }).expect("set");
        let file = bench.file(dir, "f");
        let sub = bench.dir(dir, "s");
        assert_eq!((bench.attr(file).gid, bench.attr(file).mode), (7, 0o644));
        assert_eq!((bench.attr(sub).gid, bench.attr(sub).mode), (7, 0o2755));
        bench.check();
    }

    #[test]
    fn a_default_acl_takes_the_umasks_place() {
        let mut bench = Bench::new();
        let dir = bench.dir(Ino::ROOT, "d");
        let value: quarry_common::wire::bytestring::ByteString = with_named_user().into();
        let name: Name = acl::DEFAULT.into();
        let set = Mutation::SetXattr {
            ino: dir,
            name: name.clone(),
            value: value.clone(),
            mode: SetXattrMode::Either,
        };
        bench.attr_of(set).expect("set");
        let file = bench.file(dir, "f");
        assert_eq!(bench.attr(file).mode, 0o660);
        let inode = bench.state.inode(file).expect("sound").expect("there");
        assert!(inode.access_acl && !inode.default_acl);
        let sub = bench.dir(dir, "s");
        let inode = bench.state.inode(sub).expect("sound").expect("there");
        assert!(inode.access_acl && inode.default_acl);
        assert_eq!(bench.attr(sub).mode, 0o770);
        bench.check();
    }

    #[test]
    fn a_removed_directory_takes_nothing() {
        let mut bench = Bench::new();
        let dir = bench.dir(Ino::ROOT, "d");
        bench.attr_of(Mutation::Rmdir { parent: Ino::ROOT, name: b"d"[..].into() }).expect("removed");
        assert_eq!(bench.create_with(dir, "f", NewNode::Dir, 0), Err(FsError::NotFound));
        assert_eq!(bench.create_with(Ino(99), "f", NewNode::Dir, 0), Err(FsError::Stale));
        bench.check();
    }
}

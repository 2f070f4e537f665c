//! Extended attributes, POSIX ACLs and the replication policy among them.

use super::OpResult;
use crate::error::{OpError, StateError};
use crate::records::{Content, Inode};
use crate::store::Store;
use crate::tables::XattrKey;
use crate::tx::{self, Tx, dir_mut};
use quarry_common::acl::{self, Acl};
use quarry_common::ids::Ino;
use quarry_common::limits::{XATTR_LIST_MAX, XATTR_NAME_MAX, XATTR_VALUE_MAX};
use quarry_common::wire::bytestring::ByteString;
use quarry_common::wire::cluster::Replication;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{MutationReply, Name, QueryReply, SetXattrMode};

/// The policy of a directory as an attribute: `all` or a number. Every file and directory has one, so it is not listed.
const REPLICATION: &[u8] = b"trusted.quarry.replication";

/// What a program may do that runs from the file. It holds for the file's content, so a change of that takes it away.
const CAPABILITY: &[u8] = b"security.capability";

/// What an attribute's name makes of it.
enum Class {
    /// `user.`: on files and directories only.
    User,
    /// `trusted.` and `security.`: the kernel checks who may.
    Opaque,
    AccessAcl,
    DefaultAcl,
    Replication,
}

fn classify(name: &Name) -> Result<Class, FsError> {
    if name.len() > XATTR_NAME_MAX {
        return Err(FsError::Range);
    }
    if name.contains(&0) {
        return Err(FsError::Invalid);
    }
    let in_namespace = |prefix: &[u8]| name.len() > prefix.len() && name.starts_with(prefix);
    match name.0.as_slice() {
        acl::ACCESS => Ok(Class::AccessAcl),
        acl::DEFAULT => Ok(Class::DefaultAcl),
        REPLICATION => Ok(Class::Replication),
        _ if in_namespace(b"user.") => Ok(Class::User),
        _ if in_namespace(b"trusted.") || in_namespace(b"security.") => Ok(Class::Opaque),
        b"user." | b"trusted." | b"security." => Err(FsError::Invalid),
        _ => Err(FsError::NotSupported),
    }
}

pub(crate) fn get(store: &Store, ino: Ino, name: &Name) -> OpResult<QueryReply> {
    let inode = tx::inode(store, ino)?;
    let value = match classify(name)? {
        Class::Replication => match &inode.content {
            Content::File(_) | Content::Dir(_) => {
                let policy = inode.replication().unwrap_or(store.meta.default_replication);
                Some(policy.to_string().into_bytes().into())
            }
            Content::Symlink(_) | Content::Special { .. } => None,
        },
        // Most files have no attributes at all, and are asked for ACLs and capabilities often.
        _ if inode.xattr_list_bytes == 0 => None,
        Class::User | Class::Opaque | Class::AccessAcl | Class::DefaultAcl => {
            store.get(&XattrKey { ino, name: name.clone() })?
        }
    };
    Ok(QueryReply::Bytes(value.ok_or(FsError::NoAttribute)?))
}

pub(crate) fn list(store: &Store, ino: Ino) -> OpResult<QueryReply> {
    let inode = tx::inode(store, ino)?;
    let mut names = Vec::with_capacity(inode.xattr_list_bytes as usize);
    if inode.xattr_list_bytes > 0 {
        let from = XattrKey { ino, name: Name::default() };
        let to = XattrKey { ino: Ino(ino.0 + 1), name: Name::default() };
        for (key, _) in store.range(&from, Some(&to), XATTR_LIST_MAX)? {
            names.extend_from_slice(&key.name);
            names.push(0);
        }
    }
    Ok(QueryReply::Bytes(names.into()))
}

pub(crate) fn set(
    tx: &mut Tx<'_>,
    ino: Ino,
    name: &Name,
    value: &ByteString,
    mode: SetXattrMode,
) -> OpResult<MutationReply> {
    let mut inode = tx::inode(tx.store, ino)?;
    let class = classify(name)?;
    if value.len() > XATTR_VALUE_MAX {
        return Err(FsError::AttributeTooLarge.into());
    }
    match class {
        Class::AccessAcl => set_access_acl(tx, ino, &mut inode, value)?,
        Class::DefaultAcl => set_default_acl(tx, ino, &mut inode, value)?,
        Class::Replication => set_replication(&mut inode, Some(value))?,
        Class::User if !matches!(inode.content, Content::File(_) | Content::Dir(_)) => {
            return Err(FsError::NotPermitted.into());
        }
        Class::User | Class::Opaque => {
            match (tx.store.contains(&XattrKey { ino, name: name.clone() })?, mode) {
                (true, SetXattrMode::Create) => return Err(FsError::Exists.into()),
                (false, SetXattrMode::Replace) => return Err(FsError::NoAttribute.into()),
                (true, SetXattrMode::Either | SetXattrMode::Replace)
                | (false, SetXattrMode::Either | SetXattrMode::Create) => {}
            }
            store_value(tx, ino, &mut inode, name, value.clone())?;
        }
    }
    Ok(finish(tx, ino, &mut inode))
}

pub(crate) fn remove(tx: &mut Tx<'_>, ino: Ino, name: &Name) -> OpResult<MutationReply> {
    let mut inode = tx::inode(tx.store, ino)?;
    match classify(name)? {
        // As Linux does, removing a list that is not there succeeds.
        Class::AccessAcl => {
            remove_value(tx, ino, &mut inode, name)?;
            inode.access_acl = false;
        }
        Class::DefaultAcl => {
            remove_value(tx, ino, &mut inode, name)?;
            inode.default_acl = false;
        }
        Class::Replication => set_replication(&mut inode, None)?,
        Class::User | Class::Opaque => {
            if !remove_value(tx, ino, &mut inode, name)? {
                return Err(FsError::NoAttribute.into());
            }
        }
    }
    Ok(finish(tx, ino, &mut inode))
}

/// The list that the inode's flags say is there.
pub(crate) fn stored_acl(store: &Store, ino: Ino, name: &[u8]) -> Result<Acl, StateError> {
    let value = store.expect(&XattrKey { ino, name: name.into() })?;
    match Acl::parse(&value) {
        Ok(Some(acl)) => Ok(acl),
        Ok(None) | Err(acl::InvalidAcl) => {
            Err(StateError::Corrupt(format!("the stored access control list of inode {ino} is invalid")))
        }
    }
}

/// Takes a file's capabilities away, as every change of data, size or owner does, whoever makes it. The caller saves the inode.
pub(crate) fn drop_capability(tx: &mut Tx<'_>, ino: Ino, inode: &mut Inode) -> Result<(), StateError> {
    if inode.xattr_list_bytes > 0 {
        remove_value(tx, ino, inode, &CAPABILITY.into())?;
    }
    Ok(())
}

fn finish(tx: &mut Tx<'_>, ino: Ino, inode: &mut Inode) -> MutationReply {
    inode.ctime = tx.now;
    tx.save(ino, inode);
    MutationReply::Attr(inode.attr(ino))
}

/// Sets mode and list together; a list that a mode can express becomes only a mode.
fn set_access_acl(tx: &mut Tx<'_>, ino: Ino, inode: &mut Inode, value: &ByteString) -> Result<(), OpError> {
    let acl = parse(value)?;
    if matches!(inode.content, Content::Symlink(_)) {
        return Err(FsError::NotSupported.into());
    }
    let name = Name::from(acl::ACCESS);
    match acl {
        Some(acl) if !acl.is_equivalent_to_mode() => {
            store_value(tx, ino, inode, &name, acl.format().into())?;
            inode.mode = (inode.mode & !0o777) | acl.mode_bits();
            inode.access_acl = true;
        }
        other => {
            remove_value(tx, ino, inode, &name)?;
            if let Some(acl) = other {
                inode.mode = (inode.mode & !0o777) | acl.mode_bits();
            }
            inode.access_acl = false;
        }
    }
    Ok(())
}

fn set_default_acl(tx: &mut Tx<'_>, ino: Ino, inode: &mut Inode, value: &ByteString) -> Result<(), OpError> {
    let acl = parse(value)?;
    let is_dir = matches!(inode.content, Content::Dir(_));
    let name = Name::from(acl::DEFAULT);
    match acl {
        Some(_) if !is_dir => return Err(FsError::Access.into()),
        Some(acl) => {
            store_value(tx, ino, inode, &name, acl.format().into())?;
            inode.default_acl = true;
        }
        None => {
            remove_value(tx, ino, inode, &name)?;
            inode.default_acl = false;
        }
    }
    Ok(())
}

/// An empty value stands for no list, as a null one does in the kernel.
fn parse(value: &ByteString) -> Result<Option<Acl>, FsError> {
    if value.is_empty() {
        return Ok(None);
    }
    Acl::parse(value).map_err(|acl::InvalidAcl| FsError::Invalid)
}

fn set_replication(inode: &mut Inode, value: Option<&ByteString>) -> Result<(), OpError> {
    if !matches!(inode.content, Content::Dir(_)) {
        return Err(FsError::NotSupported.into());
    }
    dir_mut(inode).replication = match value {
        None => None,
        Some(value) => {
            let text = std::str::from_utf8(value).map_err(|_| FsError::Invalid)?;
            Some(text.trim_end_matches('\n').parse::<Replication>().map_err(|_| FsError::Invalid)?)
        }
    };
    Ok(())
}

/// Stores an attribute and counts its name. The caller saves the inode.
fn store_value(
    tx: &mut Tx<'_>,
    ino: Ino,
    inode: &mut Inode,
    name: &Name,
    value: ByteString,
) -> Result<(), OpError> {
    let key = XattrKey { ino, name: name.clone() };
    if !tx.store.contains(&key)? {
        let bytes = inode.xattr_list_bytes as usize + name.len() + 1;
        if bytes > XATTR_LIST_MAX {
            return Err(FsError::NoSpace.into());
        }
        inode.xattr_list_bytes = bytes as u32;
    }
    tx.store.put(&key, &value);
    Ok(())
}

/// Removes an attribute, and says whether it was there. The caller saves the inode.
fn remove_value(tx: &mut Tx<'_>, ino: Ino, inode: &mut Inode, name: &Name) -> Result<bool, StateError> {
    let key = XattrKey { ino, name: name.clone() };
    if !tx.store.contains(&key)? {
        return Ok(false);
    }
    tx.store.delete(&key);
    inode.xattr_list_bytes -= name.len() as u32 + 1;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Bench, value, with_named_user};
    use quarry_common::wire::fs::{Attr, Mutation, NewNode, Query, Timestamp};

    #[test]
    fn a_change_of_data_size_or_owner_takes_capabilities_away() {
        use quarry_common::wire::fs::{FallocateMode, SetAttr};
        let mut bench = Bench::new();
        let (file, other) = (bench.file(Ino::ROOT, "f"), bench.file(Ino::ROOT, "g"));
        bench.write(other, 0, 10).expect("written");
        let has =
            |bench: &Bench| bench.query(&Query::GetXattr { ino: file, name: CAPABILITY.into() }).is_ok();
        let set_attr = |set| Mutation::SetAttr { ino: file, set, keep_sgid: true };
        let data = Mutation::Commit(bench.write_commit(file, 0, 10));
        let copy = Mutation::CopyRange {
            from: other,
            from_offset: 0,
            to: file,
            to_offset: 0,
            length: 10,
            kill_suidgid: false,
        };
        let allocate = Mutation::Fallocate {
            ino: file,
            mode: FallocateMode::Allocate,
            offset: 0,
            length: 5,
            kill_suidgid: false,
        };
        let truncate = set_attr(SetAttr { size: Some(0), ..SetAttr::default() });
        let chown = set_attr(SetAttr { uid: Some(5), ..SetAttr::default() });
        for change in [data, copy, allocate, truncate, chown] {
            set(&mut bench, file, "security.capability", b"x", SetXattrMode::Either).expect("set");
            bench.attr_of(set_attr(SetAttr { mode: Some(0o700), ..SetAttr::default() })).expect("chmod");
            assert!(has(&bench), "chmod leaves them");
            bench.mutate(change.clone()).expect("changed");
            assert!(!has(&bench), "{change:?}");
        }
        bench.check();
    }

    fn set(
        bench: &mut Bench,
        ino: Ino,
        name: &str,
        value: &[u8],
        mode: SetXattrMode,
    ) -> Result<Attr, FsError> {
        bench.attr_of(Mutation::SetXattr { ino, name: name.as_bytes().into(), value: value.into(), mode })
    }

    fn remove(bench: &mut Bench, ino: Ino, name: &str) -> Result<Attr, FsError> {
        bench.attr_of(Mutation::RemoveXattr { ino, name: name.as_bytes().into() })
    }

    fn bytes(reply: Result<QueryReply, FsError>) -> Result<Vec<u8>, FsError> {
        match reply? {
            QueryReply::Bytes(bytes) => Ok(bytes.0),
            other => panic!("{other:?}"),
        }
    }

    fn get(bench: &Bench, ino: Ino, name: &str) -> Result<Vec<u8>, FsError> {
        bytes(bench.query(&Query::GetXattr { ino, name: name.as_bytes().into() }))
    }

    const EITHER: SetXattrMode = SetXattrMode::Either;

    #[test]
    fn attributes_are_kept_listed_and_removed() {
        let mut bench = Bench::new();
        let file = bench.file(Ino::ROOT, "f");
        set(&mut bench, file, "user.b", b"1", SetXattrMode::Create).expect("set");
        set(&mut bench, file, "security.a", b"", EITHER).expect("set");
        assert_eq!(set(&mut bench, file, "user.b", b"2", SetXattrMode::Create), Err(FsError::Exists));
        set(&mut bench, file, "user.b", b"2", SetXattrMode::Replace).expect("replaced");
        assert_eq!(set(&mut bench, file, "user.c", b"", SetXattrMode::Replace), Err(FsError::NoAttribute));
        assert_eq!(get(&bench, file, "user.b"), Ok(b"2".to_vec()));
        assert_eq!(bytes(bench.query(&Query::ListXattr { ino: file })), Ok(b"security.a\0user.b\0".to_vec()));
        assert_eq!(bench.attr(file).ctime, Timestamp(bench.time - 1));
        remove(&mut bench, file, "user.b").expect("removed");
        assert_eq!(remove(&mut bench, file, "user.b"), Err(FsError::NoAttribute));
        assert_eq!(get(&bench, file, "user.b"), Err(FsError::NoAttribute));
        bench.check();
    }

    #[test]
    fn namespaces_and_sizes_are_checked() {
        let mut bench = Bench::new();
        let file = bench.file(Ino::ROOT, "f");
        let link =
            bench.create_with(Ino::ROOT, "l", NewNode::Symlink(b"t"[..].into()), 0).expect("created").ino;
        assert_eq!(set(&mut bench, link, "user.a", b"", EITHER), Err(FsError::NotPermitted));
        assert!(set(&mut bench, link, "trusted.a", b"", EITHER).is_ok());
        assert_eq!(set(&mut bench, file, "user.", b"", EITHER), Err(FsError::Invalid));
        for name in ["a", "system.other", "os2.x"] {
            assert_eq!(set(&mut bench, file, name, b"", EITHER), Err(FsError::NotSupported), "{name}");
        }
        let long = format!("user.{}", "n".repeat(251));
        assert_eq!(set(&mut bench, file, &long, b"", EITHER), Err(FsError::Range));
        let large = vec![0; XATTR_VALUE_MAX + 1];
        assert_eq!(set(&mut bench, file, "user.a", &large, EITHER), Err(FsError::AttributeTooLarge));
        assert!(set(&mut bench, file, "user.a", &large[1..], EITHER).is_ok());
        bench.check();
    }

    #[test]
    fn the_list_of_names_has_a_limit() {
        let mut bench = Bench::new();
        let file = bench.file(Ino::ROOT, "f");
        let name = |i| format!("user.{i:0250}");
        let fit = XATTR_LIST_MAX / 256;
        for i in 0..fit {
            set(&mut bench, file, &name(i), b"", EITHER).expect("set");
        }
        assert_eq!(set(&mut bench, file, &name(fit), b"", EITHER), Err(FsError::NoSpace));
        bench.check();
    }

    #[test]
    fn an_access_acl_and_the_mode_are_one() {
        let mut bench = Bench::new();
        let file = bench.file(Ino::ROOT, "f");
        let access = "system.posix_acl_access";
        assert_eq!(set(&mut bench, file, access, &with_named_user(), EITHER).map(|a| a.mode), Ok(0o770));
        assert_eq!(get(&bench, file, access), Ok(with_named_user()));
        let minimal = value(&[(1, 6, u32::MAX), (4, 4, u32::MAX), (0x20, 4, u32::MAX)]);
        assert_eq!(set(&mut bench, file, access, &minimal, EITHER).map(|a| a.mode), Ok(0o644));
        assert_eq!(get(&bench, file, access), Err(FsError::NoAttribute));
        assert_eq!(set(&mut bench, file, access, b"junk", EITHER), Err(FsError::Invalid));
        let default = "system.posix_acl_default";
        assert_eq!(set(&mut bench, file, default, &minimal, EITHER), Err(FsError::Access));
        assert!(remove(&mut bench, file, access).is_ok());
        bench.check();
    }

    #[test]
    fn the_replication_policy_is_inherited() {
        let mut bench = Bench::new();
        let dir = bench.dir(Ino::ROOT, "d");
        let name = "trusted.quarry.replication";
        assert_eq!(get(&bench, dir, name), Ok(b"3".to_vec()));
        set(&mut bench, dir, name, b"all\n", EITHER).expect("set");
        assert_eq!(set(&mut bench, dir, name, b"0", EITHER), Err(FsError::Invalid));
        let sub = bench.dir(dir, "s");
        let file = bench.file(sub, "f");
        assert_eq!(get(&bench, file, name), Ok(b"all".to_vec()));
        assert_eq!(bench.state.replication(file).expect("sound"), Some(Replication::All));
        remove(&mut bench, dir, name).expect("removed");
        assert_eq!(get(&bench, dir, name), Ok(b"3".to_vec()));
        assert_eq!(set(&mut bench, file, name, b"2", EITHER), Err(FsError::NotSupported));
        bench.check();
    }
}

//! `FileStatus` objects, and names for ids.

use super::BLOCK_SIZE;
use crate::auth::{User, Users};
use crate::error::Result;
use crate::files::UserFs;
use quarry_common::acl;
use quarry_common::wire::fs::{Attr, FileKind, Timestamp};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::Arc;

/// Replicas of a policy that keeps data on every node, where the number of nodes is not at hand.
const ALL: u16 = 64;

/// Names of users and groups: of the gateway's file, else of this machine, else the number. Remembers those of one request.
pub(super) struct Names {
    users: Arc<Users>,
    owners: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Names {
    pub(super) fn new(users: Arc<Users>) -> Self {
        Self { users, owners: HashMap::new(), groups: HashMap::new() }
    }

    pub(super) fn user(&mut self, uid: u32) -> String {
        let users = &self.users;
        let find = || {
            let known = users.find_uid(uid).map(|u| u.name.clone());
            known.or_else(|| Some(uzers::get_user_by_uid(uid)?.name().to_string_lossy().into_owned()))
        };
        self.owners.entry(uid).or_insert_with(|| find().unwrap_or_else(|| uid.to_string())).clone()
    }

    pub(super) fn group(&mut self, gid: u32) -> String {
        let find = || Some(uzers::get_group_by_gid(gid)?.name().to_string_lossy().into_owned());
        self.groups.entry(gid).or_insert_with(|| find().unwrap_or_else(|| gid.to_string())).clone()
    }

    pub(super) fn uid(&self, name: &str) -> Option<u32> {
        let known = self.users.find(name).map(|u: &User| u.uid);
        known.or_else(|| Some(uzers::get_user_by_name(name)?.uid())).or_else(|| name.parse().ok())
    }

    pub(super) fn gid(&self, name: &str) -> Option<u32> {
        uzers::get_group_by_name(name).map(|g| g.gid()).or_else(|| name.parse().ok())
    }
}

/// Milliseconds since 1970; times before are 0, since Hadoop has no others.
fn millis(time: Timestamp) -> u64 {
    u64::try_from(time.0 / 1_000_000).unwrap_or(0)
}

/// Permission bits as WebHDFS writes them: octal, with the sticky bit.
pub(super) fn permission(mode: u16) -> String {
    format!("{:o}", mode & 0o1777)
}

/// Replicas of the data of an inode.
pub(super) async fn replicas(fs: &UserFs, attr: &Attr) -> Result<u16> {
    match attr.kind {
        FileKind::File | FileKind::Dir => Ok(fs.replication(attr).await?.unwrap_or(ALL)),
        _ => Ok(0),
    }
}

/// A `FileStatus`; `suffix` is the name below the listed directory.
pub(super) fn file_status(
    names: &mut Names,
    attr: &Attr,
    suffix: &str,
    replicas: u16,
    target: Option<&[u8]>,
) -> Value {
    let (kind, is_file) = match attr.kind {
        FileKind::Dir => ("DIRECTORY", false),
        FileKind::Symlink => ("SYMLINK", false),
        _ => ("FILE", true),
    };
    let mut status = Map::new();
    let mut put = |name: &str, value: Value| {
        status.insert(name.to_owned(), value);
    };
    put("accessTime", millis(attr.atime).into());
    put("modificationTime", millis(attr.mtime).into());
    put("blockSize", if is_file { BLOCK_SIZE } else { 0 }.into());
    put("fileId", attr.ino.0.into());
    put("group", names.group(attr.gid).into());
    put("owner", names.user(attr.uid).into());
    put("length", if attr.kind == FileKind::File { attr.size } else { 0 }.into());
    put("pathSuffix", suffix.into());
    put("permission", permission(attr.mode).into());
    put("replication", if is_file { replicas } else { 0 }.into());
    put("storagePolicy", 0.into());
    put("type", kind.into());
    if let Some(target) = target {
        put("symlink", String::from_utf8_lossy(target).into());
    }
    Value::Object(status)
}

/// The same for one path, with what only a single answer can afford: whether there is an ACL.
pub(super) async fn single(
    fs: &UserFs,
    names: &mut Names,
    attr: &Attr,
    target: Option<&[u8]>,
) -> Result<Value> {
    let replicas = replicas(fs, attr).await?;
    let mut status = file_status(names, attr, "", replicas, target);
    let has_acl = attr.kind != FileKind::Symlink
        && (fs.acl(attr, acl::ACCESS).await?.is_some() || fs.acl(attr, acl::DEFAULT).await?.is_some());
    if has_acl {
        status["aclBit"] = json!(true);
    }
    Ok(status)
}

//! Attributes, extended attributes and ACLs.

use super::{FsPath, READ, UserFs, WRITE};
use quarry_common::acl;
use quarry_common::mode::S_ISGID;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, FileKind, SetAttr, SetTime, SetXattrMode, Timestamp};

/// The replication policy of a directory, as `docs/operations.md` describes it.
const REPLICATION: &[u8] = b"trusted.quarry.replication";

/// Attributes to change; `None` leaves one as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewAttributes {
    /// Permission bits with suid, sgid and sticky.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last access.
    pub atime: Option<Timestamp>,
    /// Last change of the data.
    pub mtime: Option<Timestamp>,
}

impl UserFs {
    /// Changes attributes; symbolic links are followed.
    ///
    /// # Errors
    /// `NotPermitted` for all but the owner; only the superuser gives a file away, and an owner changes the group only to one
    /// of its own.
    pub async fn set_attributes(&self, path: &FsPath, new: &NewAttributes) -> Result<Attr, FsError> {
        let attr = self.stat(path).await?;
        self.demand_owner(&attr)?;
        if !self.who.is_superuser() {
            let foreign_owner = new.uid.is_some_and(|uid| uid != attr.uid);
            let foreign_group = new.gid.is_some_and(|gid| gid != attr.gid && !self.who.gids.contains(&gid));
            if foreign_owner || foreign_group {
                return Err(FsError::NotPermitted);
            }
        }
        let in_group = self.who.is_superuser() || self.who.gids.contains(&new.gid.unwrap_or(attr.gid));
        let mode = new.mode.map(|mode| if in_group { mode } else { mode & !S_ISGID });
        let set = SetAttr {
            mode,
            uid: new.uid,
            gid: new.gid,
            atime: new.atime.map(SetTime::At),
            mtime: new.mtime.map(SetTime::At),
            ..SetAttr::default()
        };
        self.fs.setattr(attr.ino, set, in_group).await
    }

    /// Cuts or extends a file.
    ///
    /// # Errors
    /// `IsDir`, `Invalid`, `Access`, `FileTooLarge`.
    pub async fn truncate(&self, path: &FsPath, size: u64) -> Result<Attr, FsError> {
        let attr = self.stat(path).await?;
        self.demand(&attr, WRITE).await?;
        let set = SetAttr { size: Some(size), kill_suidgid: !self.who.is_superuser(), ..SetAttr::default() };
        self.fs.setattr(attr.ino, set, true).await
    }

    /// Names and values of the extended attributes that the user may read.
    ///
    /// # Errors
    /// `Access`.
    pub async fn xattrs(&self, attr: &Attr) -> Result<Vec<(Vec<u8>, Vec<u8>)>, FsError> {
        let list = self.fs.listxattr(attr.ino).await?;
        let mut all = Vec::new();
        for name in list.split(|b| *b == 0).filter(|n| !n.is_empty()) {
            match self.xattr(attr, name).await {
                Ok(value) => all.push((name.to_vec(), value)),
                // Removed meanwhile, or not for this user.
                Err(FsError::NoAttribute | FsError::Access | FsError::NotPermitted) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// The value of an extended attribute.
    ///
    /// # Errors
    /// `NoAttribute`, `Access`, `NotPermitted` for `trusted.` without being the superuser.
    pub async fn xattr(&self, attr: &Attr, name: &[u8]) -> Result<Vec<u8>, FsError> {
        if name.starts_with(b"user.") {
            self.demand(attr, READ).await?;
        } else if name.starts_with(b"trusted.") && !self.who.is_superuser() {
            return Err(FsError::NotPermitted);
        }
        self.fs.getxattr(attr.ino, name).await
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// `Exists`, `NoAttribute`, `Access`, `NotPermitted`, `NotSupported`.
    pub async fn set_xattr(
        &self,
        attr: &Attr,
        name: &[u8],
        value: Vec<u8>,
        mode: SetXattrMode,
    ) -> Result<Attr, FsError> {
        self.demand_xattr_change(attr, name).await?;
        self.fs.setxattr(attr.ino, name, value, mode).await
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// `NoAttribute`, `Access`, `NotPermitted`.
    pub async fn remove_xattr(&self, attr: &Attr, name: &[u8]) -> Result<Attr, FsError> {
        self.demand_xattr_change(attr, name).await?;
        self.fs.removexattr(attr.ino, name).await
    }

    async fn demand_xattr_change(&self, attr: &Attr, name: &[u8]) -> Result<(), FsError> {
        if name == acl::ACCESS || name == acl::DEFAULT {
            return self.demand_owner(attr);
        }
        if !name.starts_with(b"user.") {
            return if self.who.is_superuser() { Ok(()) } else { Err(FsError::NotPermitted) };
        }
        // xattr(7): user attributes of a sticky directory belong to its owner.
        if attr.kind == FileKind::Dir && attr.mode & 0o1000 != 0 {
            self.demand_owner(attr)?;
        }
        self.demand(attr, WRITE).await
    }

    /// The number of replicas that new data of an inode gets; `None` for `all`.
    ///
    /// # Errors
    /// Those of the NameNode.
    pub async fn replication(&self, attr: &Attr) -> Result<Option<u16>, FsError> {
        match self.fs.getxattr(attr.ino, REPLICATION).await {
            Ok(value) => Ok(std::str::from_utf8(&value).ok().and_then(|v| v.parse().ok())),
            Err(FsError::NoAttribute | FsError::NotSupported) => Ok(Some(0)),
            Err(error) => Err(error),
        }
    }

    /// Changes the replication of new data; the owner may.
    ///
    /// # Errors
    /// `NotPermitted`, `Invalid`.
    pub async fn set_replication(&self, attr: &Attr, replicas: &str) -> Result<Attr, FsError> {
        self.demand_owner(attr)?;
        self.fs.setxattr(attr.ino, REPLICATION, replicas.as_bytes().to_vec(), SetXattrMode::Either).await
    }
}

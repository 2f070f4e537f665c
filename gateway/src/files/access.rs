//! Who may do what to an inode: the rules of the kernel's `generic_permission` and acl(5).

use super::UserFs;
use crate::auth::Identity;
use quarry_common::acl::{self, Acl};
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, FileKind};

/// Read.
pub const READ: u16 = 4;
/// Write.
pub const WRITE: u16 = 2;
/// Execute a file, search a directory.
pub const EXECUTE: u16 = 1;

/// The sticky bit of a directory: only owners remove and rename names in it.
const STICKY: u16 = 0o1000;

/// Whether the permission bits alone grant all of `wanted`.
fn mode_permits(attr: &Attr, who: &Identity, wanted: u16) -> bool {
    let shift = if who.uid == attr.uid {
        6
    } else if who.gids.contains(&attr.gid) {
        3
    } else {
        0
    };
    (attr.mode >> shift) & wanted == wanted
}

/// Whether the superuser may: always, but a file is executable only if anybody may execute it.
fn superuser_may(attr: &Attr, wanted: u16) -> bool {
    wanted & EXECUTE == 0 || attr.kind == FileKind::Dir || attr.mode & 0o111 != 0
}

impl UserFs {
    /// Whether the user may do all of `wanted` ([`READ`], [`WRITE`], [`EXECUTE`]) to an inode.
    ///
    /// # Errors
    /// Those of the NameNode.
    pub async fn may(&self, attr: &Attr, wanted: u16) -> Result<bool, FsError> {
        if self.who.is_superuser() {
            return Ok(superuser_may(attr, wanted));
        }
        // The owner's entry of a list always equals the owner's bits; symbolic links have no lists.
        if self.who.uid == attr.uid || attr.kind == FileKind::Symlink {
            return Ok(mode_permits(attr, &self.who, wanted));
        }
        match self.acl(attr, acl::ACCESS).await? {
            Some(list) => Ok(list.permits(attr.uid, attr.gid, self.who.uid, &self.who.gids, wanted)),
            None => Ok(mode_permits(attr, &self.who, wanted)),
        }
    }

    /// # Errors
    /// `Access` when the user may not.
    pub(super) async fn demand(&self, attr: &Attr, wanted: u16) -> Result<(), FsError> {
        if self.may(attr, wanted).await? { Ok(()) } else { Err(FsError::Access) }
    }

    /// # Errors
    /// `NotDir` when it is none, `Access` when the user may not.
    pub(super) async fn demand_dir(&self, attr: &Attr, wanted: u16) -> Result<(), FsError> {
        if attr.kind != FileKind::Dir {
            return Err(FsError::NotDir);
        }
        self.demand(attr, wanted).await
    }

    /// # Errors
    /// `NotPermitted` for all but the owner and the superuser.
    pub(super) fn demand_owner(&self, attr: &Attr) -> Result<(), FsError> {
        if self.who.is_superuser() || self.who.uid == attr.uid { Ok(()) } else { Err(FsError::NotPermitted) }
    }

    /// Whether the user may remove or replace a name: write and search the directory, and own one of both if it is sticky.
    ///
    /// # Errors
    /// `Access`, `NotPermitted`.
    pub(super) async fn demand_removal(&self, parent: &Attr, attr: &Attr) -> Result<(), FsError> {
        self.demand_dir(parent, WRITE | EXECUTE).await?;
        let owns = self.who.uid == attr.uid || self.who.uid == parent.uid;
        if parent.mode & STICKY != 0 && !owns && !self.who.is_superuser() {
            return Err(FsError::NotPermitted);
        }
        Ok(())
    }

    /// The list in an attribute, if the inode has one.
    ///
    /// # Errors
    /// `Io` for a value that is no list, and those of the NameNode.
    pub async fn acl(&self, attr: &Attr, name: &[u8]) -> Result<Option<Acl>, FsError> {
        match self.fs.getxattr(attr.ino, name).await {
            Ok(value) => Acl::parse(&value).map_err(|_| FsError::Io),
            Err(FsError::NoAttribute | FsError::NotSupported) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Role;
    use quarry_common::ids::Ino;
    use quarry_common::wire::fs::Timestamp;

    fn attr(kind: FileKind, mode: u16) -> Attr {
        let time = Timestamp(0);
        Attr {
            ino: Ino(5),
            kind,
            mode,
            uid: 10,
            gid: 20,
            nlink: 1,
            size: 0,
            allocated: 0,
            rdev: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
            version: 1,
        }
    }

    fn user(uid: u32, gids: &[u32]) -> Identity {
        Identity { name: "u".into(), uid, gid: gids[0], gids: gids.to_vec(), role: Role::User }
    }

    #[test]
    fn the_first_class_that_matches_decides() {
        let file = attr(FileKind::File, 0o047);
        assert!(!mode_permits(&file, &user(10, &[20]), READ), "the owner's bits hide the group's");
        assert!(mode_permits(&file, &user(11, &[30, 20]), READ));
        assert!(!mode_permits(&file, &user(11, &[20]), WRITE), "the group's bits hide the others'");
        assert!(mode_permits(&file, &user(11, &[30]), READ | WRITE | EXECUTE));
    }

    #[test]
    fn the_superuser_executes_only_what_is_executable() {
        assert!(superuser_may(&attr(FileKind::File, 0), READ | WRITE));
        assert!(!superuser_may(&attr(FileKind::File, 0o666), EXECUTE));
        assert!(superuser_may(&attr(FileKind::File, 0o100), EXECUTE));
        assert!(superuser_may(&attr(FileKind::Dir, 0), EXECUTE));
    }
}

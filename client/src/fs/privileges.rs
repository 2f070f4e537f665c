//! What a change by a process without privileges takes from a file's mode, as the kernel does it for local file systems.
//!
//! Capabilities go with every change of data, size or owner: the NameNode sees to that, as to suid and sgid after a change of
//! owner.

use super::FileSystem;
use crate::file::OpenFile;
use bytes::Bytes;
use quarry_common::ids::Ino;
use quarry_common::mode::{S_ISGID, S_ISUID, S_IXGRP};
use quarry_common::wire::bytestring::ByteString;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, FallocateMode, FileKind, SetAttr, SetXattrMode};

/// The list that a mode is a part of.
const ACCESS_ACL: &[u8] = b"system.posix_acl_access";

/// What a thread may do, as far as suid and sgid depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// It has CAP_FSETID: its changes leave suid and sgid alone.
    pub keeps_suidgid: bool,
    /// All groups that it is in.
    pub groups: Vec<u32>,
}

/// What a change takes away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Kill {
    /// suid, and sgid of a file that the group may execute.
    suidgid: bool,
    /// sgid in any case.
    sgid: bool,
}

impl Kill {
    /// By a change of data or size. The credentials are only asked for if there is something to lose.
    fn by_change(attr: &Attr, credentials: impl FnOnce() -> Credentials) -> Self {
        if attr.kind != FileKind::File || attr.mode & (S_ISUID | S_ISGID) == 0 {
            return Self::default();
        }
        let credentials = credentials();
        if credentials.keeps_suidgid {
            return Self::default();
        }
        // Without execution by the group sgid asks for mandatory locks, and only strangers to the group take it away.
        let sgid = attr.mode & S_ISGID != 0;
        let executable = attr.mode & S_IXGRP != 0;
        Self { suidgid: true, sgid: sgid && !executable && !credentials.groups.contains(&attr.gid) }
    }

    /// By a new access control list.
    fn by_acl(attr: &Attr, credentials: impl FnOnce() -> Credentials) -> Self {
        if attr.mode & S_ISGID == 0 {
            return Self::default();
        }
        let credentials = credentials();
        let stranger = !credentials.keeps_suidgid && !credentials.groups.contains(&attr.gid);
        Self { suidgid: false, sgid: stranger }
    }
}

impl FileSystem {
    /// chmod, chown, utimensat and truncate, by a thread with these credentials.
    ///
    /// # Errors
    /// Those of the NameNode.
    pub async fn setattr_as(
        &self,
        ino: Ino,
        mut set: SetAttr,
        credentials: impl FnOnce() -> Credentials + Send,
    ) -> Result<Attr, FsError> {
        if set.size.is_some() {
            let kill = Kill::by_change(&self.getattr(ino).await?, credentials);
            (set.kill_suidgid, set.kill_sgid) = (kill.suidgid, kill.sgid);
        }
        // The kernel has already dropped sgid from a mode whose caller may not set it.
        self.setattr(ino, set, true).await
    }

    /// After O_TRUNC, which the opening itself has carried out.
    ///
    /// # Errors
    /// Those of the NameNode.
    pub async fn truncated_as(
        &self,
        file: &OpenFile,
        credentials: impl FnOnce() -> Credentials + Send,
    ) -> Result<(), FsError> {
        self.kill_before(file, credentials, true).await.map(drop)
    }

    /// A write by a thread with these credentials: at an offset, or behind the last byte. Returns where it went.
    ///
    /// # Errors
    /// Those of [`OpenFile::write`].
    pub async fn write_as(
        &self,
        file: &OpenFile,
        offset: Option<u64>,
        data: Bytes,
        credentials: impl FnOnce() -> Credentials + Send,
    ) -> Result<u64, FsError> {
        let kill = self.kill_before(file, credentials, false).await?;
        let at = match offset {
            Some(offset) => file.write(offset, data, kill).await.map(|_| offset)?,
            None => file.append(data, kill).await?,
        };
        if kill {
            self.forget_attributes(file.ino());
        }
        Ok(at)
    }

    /// fallocate(2) by a thread with these credentials.
    ///
    /// # Errors
    /// Those of the NameNode.
    pub async fn fallocate_as(
        &self,
        file: &OpenFile,
        mode: FallocateMode,
        range: (u64, u64),
        credentials: impl FnOnce() -> Credentials + Send,
    ) -> Result<(), FsError> {
        if matches!(mode, FallocateMode::Allocate | FallocateMode::KeepSize) {
            self.check_room(file, range.1).await?;
        }
        let kill = self.kill_before(file, credentials, false).await?;
        file.fallocate(mode, range.0, range.1, kill).await?;
        self.forget_attributes(file.ino());
        Ok(())
    }

    /// Space is not reserved, but a program that asks for more than there is learns it at once. What the file has already may lie
    /// in the range.
    async fn check_room(&self, file: &OpenFile, length: u64) -> Result<(), FsError> {
        let needed = length.saturating_sub(file.attr().allocated);
        if needed > 0 && needed > self.statfs().await?.free { Err(FsError::NoSpace) } else { Ok(()) }
    }

    /// copy_file_range(2) by a thread with these credentials. Returns how many bytes were copied.
    ///
    /// # Errors
    /// Those of [`copy_file_range`](Self::copy_file_range).
    pub async fn copy_as(
        &self,
        (from, from_offset): (&OpenFile, u64),
        (to, to_offset): (&OpenFile, u64),
        length: u64,
        credentials: impl FnOnce() -> Credentials + Send,
    ) -> Result<u64, FsError> {
        let kill = self.kill_before(to, credentials, false).await?;
        let copied = self.copy_file_range(from, from_offset, to, to_offset, length, kill).await?;
        self.forget_attributes(to.ino());
        Ok(copied)
    }

    /// setxattr(2) by a thread with these credentials: a list set by a stranger to the file's group costs it sgid.
    ///
    /// # Errors
    /// Those of [`setxattr`](Self::setxattr).
    pub async fn setxattr_as(
        &self,
        ino: Ino,
        name: &[u8],
        value: impl Into<ByteString> + Send,
        mode: SetXattrMode,
        credentials: impl FnOnce() -> Credentials + Send,
    ) -> Result<(), FsError> {
        if name == ACCESS_ACL && Kill::by_acl(&self.getattr(ino).await?, credentials).sgid {
            self.setattr(ino, SetAttr { kill_sgid: true, ..SetAttr::default() }, true).await?;
            self.forget_attributes(ino);
        }
        self.setxattr(ino, name, value, mode).await.map(drop)
    }

    /// What the change itself does not take away, is taken away before it: all of it if `now`. Returns whether the change
    /// has to take suid away.
    async fn kill_before(
        &self,
        file: &OpenFile,
        credentials: impl FnOnce() -> Credentials + Send,
        now: bool,
    ) -> Result<bool, FsError> {
        let kill = Kill::by_change(&file.attr(), credentials);
        if kill.sgid || (now && kill.suidgid) {
            let set = SetAttr { kill_suidgid: kill.suidgid, kill_sgid: kill.sgid, ..SetAttr::default() };
            self.setattr(file.ino(), set, true).await?;
            self.forget_attributes(file.ino());
        }
        Ok(kill.suidgid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::wire::fs::Timestamp;

    fn attr(kind: FileKind, mode: u16) -> Attr {
        let t = Timestamp(0);
        let (atime, mtime, ctime, btime, ino) = (t, t, t, t, Ino(5));
        let (uid, gid, nlink, size, allocated, rdev, version) = (0, 7, 1, 0, 0, 0, 1);
        Attr { ino, kind, mode, uid, gid, nlink, size, allocated, rdev, atime, mtime, ctime, btime, version }
    }

    #[test]
    fn the_rules_are_those_of_local_file_systems() {
        let who = |keeps_suidgid, groups: &[u32]| {
            let groups = groups.to_vec();
            move || Credentials { keeps_suidgid, groups }
        };
        let file = |mode| attr(FileKind::File, mode);
        let kill = |suidgid, sgid| Kill { suidgid, sgid };
        assert_eq!(Kill::by_change(&file(0o755), || unreachable!("nothing to lose")), kill(false, false));
        assert_eq!(Kill::by_change(&file(0o6755), who(true, &[])), kill(false, false));
        assert_eq!(Kill::by_change(&file(0o6755), who(false, &[7])), kill(true, false));
        assert_eq!(Kill::by_change(&file(0o2644), who(false, &[7])), kill(true, false));
        assert_eq!(Kill::by_change(&file(0o2644), who(false, &[8])), kill(true, true));
        let dir = attr(FileKind::Dir, 0o2755);
        assert_eq!(Kill::by_change(&dir, || unreachable!("directories keep theirs")), kill(false, false));
        assert_eq!(Kill::by_acl(&dir, who(false, &[8])), kill(false, true));
        assert_eq!(Kill::by_acl(&dir, who(false, &[7, 8])), kill(false, false));
        assert_eq!(Kill::by_acl(&dir, who(true, &[])), kill(false, false));
        assert_eq!(Kill::by_acl(&file(0o755), || unreachable!("nothing to lose")), kill(false, false));
    }
}

//! Names, attributes and what hangs on them.

use super::FileSystem;
use crate::cache::{CAPABILITY, lists_capability};
use crate::error::MutateError;
use crate::error::unexpected;
use crate::traits::Meta;
use quarry_common::ids::Ino;
use quarry_common::wire::bytestring::ByteString;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{
    Attr, Caller, DirEntry, Mutation, MutationReply, NewNode, Query, QueryReply, RenameMode, SetAttr,
    SetXattrMode,
};

/// A part of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirPage {
    /// In the order of their cookies.
    pub entries: Vec<DirEntry>,
    /// No entry follows.
    pub end: bool,
    /// The largest cookie that the directory has given to an entry.
    pub newest: u64,
}

impl FileSystem {
    /// The inode behind a name.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr, FsError> {
        self.attr(Query::Lookup { parent, name: name.into() }).await
    }

    /// An inode's attributes.
    ///
    /// # Errors
    /// `Stale` when it is gone.
    pub async fn getattr(&self, ino: Ino) -> Result<Attr, FsError> {
        self.attr(Query::Attr { ino }).await
    }

    /// The directory that holds a directory.
    ///
    /// # Errors
    /// `Stale` when it is gone.
    pub async fn parent(&self, ino: Ino) -> Result<Attr, FsError> {
        self.attr(Query::Parent { ino }).await
    }

    /// Changes attributes. `keep_sgid`: the caller is privileged or in the file's group, so that a chmod of a file with
    /// an ACL may leave sgid on.
    ///
    /// # Errors
    /// Those of the NameNode.
    pub async fn setattr(&self, ino: Ino, set: SetAttr, keep_sgid: bool) -> Result<Attr, FsError> {
        self.0.files.setattr(ino, set, keep_sgid).await
    }

    /// A page of a directory behind the entry with the cookie `after` (0: from the beginning). `plus`: with attributes.
    ///
    /// # Errors
    /// `NotDir`, `Stale`.
    pub async fn readdir(&self, ino: Ino, after: u64, limit: u32, plus: bool) -> Result<DirPage, FsError> {
        match self.0.meta.query(Query::ReadDir { ino, after, limit, plus }).await? {
            QueryReply::Entries { mut entries, end, newest } => {
                for entry in &mut entries {
                    entry.attr = entry.attr.take().map(|attr| self.0.files.overlay_attr(attr));
                }
                Ok(DirPage { entries, end, newest })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Makes an inode with a name. A file is not opened: see [`create_open`](Self::create_open).
    ///
    /// # Errors
    /// `Exists`, and those of the NameNode.
    pub async fn create(
        &self,
        parent: Ino,
        name: &[u8],
        node: NewNode,
        mode: u16,
        umask: u16,
        caller: Caller,
    ) -> Result<Attr, FsError> {
        let node = match node {
            NewNode::File { .. } => NewNode::File { open: false },
            other => other,
        };
        self.changed(Mutation::Create { parent, name: name.into(), node, mode, umask, caller }).await
    }

    /// Another name for an inode.
    ///
    /// # Errors
    /// `Exists`, `TooManyLinks`, and those of the NameNode.
    pub async fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr, FsError> {
        self.changed(Mutation::Link { ino, parent, name: name.into() }).await
    }

    /// Removes a name of anything but a directory. Returns the inode that it named.
    ///
    /// # Errors
    /// `NotFound`, `IsDir`.
    pub async fn unlink(&self, parent: Ino, name: &[u8]) -> Result<Attr, FsError> {
        self.removed(Mutation::Unlink { parent, name: name.into() }).await
    }

    /// Removes an empty directory. Returns its inode.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`, `NotEmpty`.
    pub async fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<Attr, FsError> {
        self.removed(Mutation::Rmdir { parent, name: name.into() }).await
    }

    /// Moves a name. Returns the inode, and the one that it replaced or changed places with.
    ///
    /// # Errors
    /// Those of rename(2).
    pub async fn rename(
        &self,
        from: Ino,
        from_name: &[u8],
        to: Ino,
        to_name: &[u8],
        mode: RenameMode,
    ) -> Result<(Attr, Option<Attr>), FsError> {
        if mode == RenameMode::Replace {
            self.settle_replacement((from, from_name), (to, to_name)).await;
        }
        let mutation =
            Mutation::Rename { from, from_name: from_name.into(), to, to_name: to_name.into(), mode };
        match self.mutate(mutation).await? {
            MutationReply::Renamed { moved, other } => {
                let overlay = |attr| self.0.files.overlay_attr(attr);
                Ok((overlay(moved), other.map(overlay)))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Brings what was written to a file that is about to take the place of another onto the disks: programs rely on finding the
    /// old or the new content after a crash, not an empty file, and after a power failure as well.
    async fn settle_replacement(&self, from: (Ino, &[u8]), to: (Ino, &[u8])) {
        let look = |(parent, name): (Ino, &[u8])| self.attr(Query::Lookup { parent, name: name.into() });
        if let Ok(attr) = look(from).await
            && self.0.files.is_unsynced(attr.ino)
            && look(to).await.is_ok()
            && let Err(error) = self.0.files.sync(attr.ino).await
        {
            tracing::warn!(ino = %attr.ino, %error, "a file that replaces another is not known to be on the disks");
        }
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// `Invalid` for anything else.
    pub async fn readlink(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        self.bytes(Query::ReadLink { ino }).await
    }

    /// An extended attribute.
    ///
    /// # Errors
    /// `NoAttribute`.
    pub async fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, FsError> {
        let value = self.bytes(Query::GetXattr { ino, name: name.into() }).await?;
        if name == CAPABILITY && self.has_lost_capability(ino) {
            return Err(FsError::NoAttribute);
        }
        Ok(value)
    }

    /// Whether data were written that take capabilities away when they are committed.
    fn has_lost_capability(&self, ino: Ino) -> bool {
        self.0.files.dirty_inode(ino).is_some()
    }

    /// The names of all extended attributes, each with a NUL after it.
    ///
    /// # Errors
    /// Those of the NameNode.
    pub async fn listxattr(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        let mut names = self.bytes(Query::ListXattr { ino }).await?;
        if lists_capability(&names) && self.has_lost_capability(ino) {
            let kept = names.split_inclusive(|byte| *byte == 0).filter(|name| !lists_capability(name));
            names = kept.flatten().copied().collect();
        }
        Ok(names)
    }

    /// Sets an extended attribute. Returns the inode's new attributes.
    ///
    /// # Errors
    /// `Exists`, `NoAttribute`, `AttributeTooLarge`, `NotSupported`.
    pub async fn setxattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: impl Into<ByteString>,
        mode: SetXattrMode,
    ) -> Result<Attr, FsError> {
        // What was written before takes away those that were set before.
        if name == CAPABILITY
            && let Some(inode) = self.0.files.dirty_inode(ino)
        {
            inode.flush(false).await;
        }
        self.changed(Mutation::SetXattr { ino, name: name.into(), value: value.into(), mode }).await
    }

    /// Removes an extended attribute. Returns the inode's new attributes.
    ///
    /// # Errors
    /// `NoAttribute`.
    pub async fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<Attr, FsError> {
        self.changed(Mutation::RemoveXattr { ino, name: name.into() }).await
    }

    /// The inode behind a path from the root. Symbolic links on the way are not followed.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`.
    pub async fn resolve(&self, path: &str) -> Result<Attr, FsError> {
        let mut attr = self.getattr(Ino::ROOT).await?;
        for name in path.split('/').filter(|name| !name.is_empty() && *name != ".") {
            attr = match name {
                ".." => self.parent(attr.ino).await?,
                name => self.lookup(attr.ino, name.as_bytes()).await?,
            };
        }
        Ok(attr)
    }

    async fn attr(&self, query: Query) -> Result<Attr, FsError> {
        match self.0.meta.query(query).await? {
            QueryReply::Attr(attr) => Ok(self.0.files.overlay_attr(attr)),
            other => Err(unexpected(&other)),
        }
    }

    async fn bytes(&self, query: Query) -> Result<Vec<u8>, FsError> {
        match self.0.meta.query(query).await? {
            QueryReply::Bytes(bytes) => Ok(bytes.0),
            other => Err(unexpected(&other)),
        }
    }

    async fn changed(&self, mutation: Mutation) -> Result<Attr, FsError> {
        match self.mutate(mutation).await? {
            MutationReply::Attr(attr) => Ok(self.0.files.overlay_attr(attr)),
            other => Err(unexpected(&other)),
        }
    }

    async fn removed(&self, mutation: Mutation) -> Result<Attr, FsError> {
        match self.mutate(mutation).await? {
            MutationReply::Removed(attr) => Ok(self.0.files.overlay_attr(attr)),
            other => Err(unexpected(&other)),
        }
    }

    async fn mutate(&self, mutation: Mutation) -> Result<MutationReply, FsError> {
        self.0.meta.mutate(mutation).await.map_err(|error| match error {
            MutateError::Fs(error) => error,
            // Only commits are answered so, and they are made elsewhere.
            other => unexpected(&other),
        })
    }
}

//! The file system as one user sees it: every operation is checked against mode and ACL before it runs.
//!
//! A kernel mount has the kernel for these checks; the gateway has this module. [`UserFs`] is the only way from a request
//! to the client library.

mod access;
mod attributes;
mod content;
mod location;
mod names;
mod path;
mod upload;
mod walk;

pub use access::{EXECUTE, READ, WRITE};
pub use attributes::NewAttributes;
pub use content::{COPY_BYTES, Created, Place, stream};
pub use location::{ChunkPlace, ReplicaReport};
pub use names::Replace;
pub use path::{FsPath, encode_name};
pub use upload::{UploadId, UploadTarget, is_part};
pub use walk::{Found, Walk};

use crate::auth::Identity;
use quarry_client::FileSystem;
use quarry_common::ids::Ino;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, FileKind};
use std::collections::VecDeque;
use std::sync::Arc;

/// Symbolic links followed in one path, as Linux has it.
const LINKS_MAX: u32 = 40;

/// The file system with the rights of one user.
#[derive(Clone)]
pub struct UserFs {
    fs: FileSystem,
    who: Arc<Identity>,
}

/// Where a path leads: the directory that holds the last name, and the inode if there is one.
pub struct Target {
    /// The directory; the caller may search it.
    pub parent: Attr,
    /// The last name.
    pub name: Vec<u8>,
    /// What the name stands for; a symbolic link is not followed.
    pub attr: Option<Attr>,
}

impl UserFs {
    /// With the rights of `who`.
    pub fn new(fs: FileSystem, who: Arc<Identity>) -> Self {
        Self { fs, who }
    }

    /// The user.
    pub fn who(&self) -> &Identity {
        &self.who
    }

    /// The attributes behind a path; symbolic links are followed.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`, `Access` for a directory on the way that may not be searched, `Invalid` for too many links.
    pub async fn stat(&self, path: &FsPath) -> Result<Attr, FsError> {
        self.resolve(path, true).await
    }

    /// The same, but a symbolic link at the end is not followed.
    ///
    /// # Errors
    /// As [`stat`](Self::stat).
    pub async fn lstat(&self, path: &FsPath) -> Result<Attr, FsError> {
        self.resolve(path, false).await
    }

    /// The directory of a path's last name, and what the name stands for.
    ///
    /// # Errors
    /// As [`stat`](Self::stat) for the directory; `Exists` for the root, which has no name.
    pub async fn target(&self, path: &FsPath) -> Result<Target, FsError> {
        let (parent, name) = path.split().ok_or(FsError::Exists)?;
        let parent = self.resolve(&parent, true).await?;
        self.demand_dir(&parent, EXECUTE).await?;
        let attr = match self.fs.lookup(parent.ino, name).await {
            Ok(attr) => Some(attr),
            Err(FsError::NotFound) => None,
            Err(error) => return Err(error),
        };
        Ok(Target { parent, name: name.to_vec(), attr })
    }

    /// The same for a name that must exist.
    ///
    /// # Errors
    /// As [`target`](Self::target), and `NotFound`.
    async fn existing(&self, path: &FsPath) -> Result<(Attr, Vec<u8>, Attr), FsError> {
        let Target { parent, name, attr } = self.target(path).await?;
        Ok((parent, name, attr.ok_or(FsError::NotFound)?))
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// `Invalid` for anything else, and as [`stat`](Self::stat).
    pub async fn readlink(&self, path: &FsPath) -> Result<Vec<u8>, FsError> {
        let attr = self.lstat(path).await?;
        self.fs.readlink(attr.ino).await
    }

    /// Walks from the root. Absolute targets of symbolic links begin at the cluster's root, so no path leads out of it.
    async fn resolve(&self, path: &FsPath, follow_last: bool) -> Result<Attr, FsError> {
        let mut at = self.fs.getattr(Ino::ROOT).await?;
        let mut todo: VecDeque<Vec<u8>> = path.names().iter().cloned().collect();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            self.demand_dir(&at, EXECUTE).await?;
            if name == b".." {
                at = self.fs.parent(at.ino).await?;
                continue;
            }
            let found = self.fs.lookup(at.ino, &name).await?;
            if found.kind != FileKind::Symlink || (todo.is_empty() && !follow_last) {
                at = found;
                continue;
            }
            links += 1;
            if links > LINKS_MAX {
                return Err(FsError::Invalid);
            }
            let target = self.fs.readlink(found.ino).await?;
            if target.first() == Some(&b'/') {
                at = self.fs.getattr(Ino::ROOT).await?;
            }
            for part in target.split(|b| *b == b'/').rev().filter(|p| !p.is_empty() && *p != b".") {
                todo.push_front(part.to_vec());
            }
        }
        Ok(at)
    }
}

//! Changes of names: directories, links, renames, removals.

use super::{EXECUTE, FsPath, READ, Target, UserFs, WRITE};
use quarry_client::DirPage;
use quarry_common::ids::Ino;
use quarry_common::limits::SYMLINK_MAX;
use quarry_common::wire::bytestring::ByteString;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, DirEntry, FileKind, NewNode, RenameMode};

/// Entries of a directory that one request to the NameNode asks for.
const PAGE: u32 = 512;

/// Whether an existing target of a rename or an upload is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// Yes, as rename(2) does.
    Yes,
    /// No: `Exists`.
    No,
}

impl UserFs {
    /// A page of a directory behind the cookie `after` (0: from the beginning), with attributes, and whether it is the last. The
    /// attributes of an entry that was removed meanwhile are missing.
    ///
    /// # Errors
    /// `NotDir`, `Access`.
    pub async fn list(&self, dir: &Attr, after: u64, limit: u32) -> Result<(Vec<DirEntry>, bool), FsError> {
        self.demand_dir(dir, READ | EXECUTE).await?;
        self.page(dir, after, limit).await
    }

    /// A page with the attributes of every entry: the NameNode leaves out those that another client is changing.
    async fn page(&self, dir: &Attr, after: u64, limit: u32) -> Result<(Vec<DirEntry>, bool), FsError> {
        let DirPage { mut entries, end, .. } = self.fs.readdir(dir.ino, after, limit, true).await?;
        for entry in entries.iter_mut().filter(|e| e.attr.is_none()) {
            entry.attr = match self.fs.getattr(entry.ino).await {
                Ok(attr) => Some(attr),
                // Removed meanwhile.
                Err(FsError::Stale | FsError::NotFound) => None,
                Err(error) => return Err(error),
            };
        }
        Ok((entries, end))
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// `Exists`, `Access`.
    pub async fn mkdir(&self, path: &FsPath, mode: u16, umask: u16) -> Result<Attr, FsError> {
        let Target { parent, name, attr } = self.target(path).await?;
        if attr.is_some() {
            return Err(FsError::Exists);
        }
        self.demand_dir(&parent, WRITE | EXECUTE).await?;
        self.fs.create(parent.ino, &name, NewNode::Dir, mode, umask, self.who.caller()).await
    }

    /// Makes a directory and those above it that are missing. One that exists already is fine.
    ///
    /// # Errors
    /// `NotDir`, `Access`.
    pub async fn mkdirs(&self, path: &FsPath, mode: u16, umask: u16) -> Result<Attr, FsError> {
        let mut at = self.fs.getattr(Ino::ROOT).await?;
        let mut so_far = FsPath::default();
        for name in path.names() {
            so_far = so_far.join(name);
            at = match self.stat(&so_far).await {
                Ok(attr) if attr.kind == FileKind::Dir => attr,
                Ok(_) => return Err(FsError::NotDir),
                Err(FsError::NotFound) => match self.mkdir(&so_far, mode, umask).await {
                    // Another client was first.
                    Err(FsError::Exists) => self.stat(&so_far).await?,
                    made => made?,
                },
                Err(error) => return Err(error),
            };
        }
        self.demand_dir(&at, 0).await?;
        Ok(at)
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// `Exists`, `Access`, `NameTooLong`, `Invalid` for an empty target.
    pub async fn symlink(&self, path: &FsPath, target: &[u8]) -> Result<Attr, FsError> {
        if target.is_empty() || target.contains(&0) {
            return Err(FsError::Invalid);
        }
        if target.len() > SYMLINK_MAX {
            return Err(FsError::NameTooLong);
        }
        let Target { parent, name, attr } = self.target(path).await?;
        if attr.is_some() {
            return Err(FsError::Exists);
        }
        self.demand_dir(&parent, WRITE | EXECUTE).await?;
        let node = NewNode::Symlink(ByteString::from(target));
        self.fs.create(parent.ino, &name, node, 0o777, 0, self.who.caller()).await
    }

    /// Moves a name.
    ///
    /// # Errors
    /// Those of rename(2); `Exists` without [`Replace::Yes`].
    pub async fn rename(&self, from: &FsPath, to: &FsPath, replace: Replace) -> Result<Attr, FsError> {
        if from.names().is_empty() || (to.is_within(from) && to != from) {
            return Err(FsError::Invalid);
        }
        let (old_parent, old_name, moved) = self.existing(from).await?;
        let new = self.target(to).await?;
        self.demand_removal(&old_parent, &moved).await?;
        self.demand_dir(&new.parent, WRITE | EXECUTE).await?;
        if let Some(old) = &new.attr {
            self.demand_removal(&new.parent, old).await?;
        }
        // A directory that changes its parent changes its own `..`.
        if moved.kind == FileKind::Dir && old_parent.ino != new.parent.ino {
            self.demand(&moved, WRITE).await?;
        }
        let mode = match replace {
            Replace::Yes => RenameMode::Replace,
            Replace::No => RenameMode::NoReplace,
        };
        let (attr, _) = self.fs.rename(old_parent.ino, &old_name, new.parent.ino, &new.name, mode).await?;
        Ok(attr)
    }

    /// Removes a file, a link or an empty directory; with `recursive` a directory with everything below it. What is removed
    /// before an error stays removed.
    ///
    /// # Errors
    /// `NotFound`, `NotEmpty`, `Access`, `NotPermitted` for the root and in sticky directories.
    pub async fn remove(&self, path: &FsPath, recursive: bool) -> Result<(), FsError> {
        if path.names().is_empty() {
            return Err(FsError::NotPermitted);
        }
        let (parent, name, attr) = self.existing(path).await?;
        self.demand_removal(&parent, &attr).await?;
        if attr.kind == FileKind::Dir && recursive {
            self.empty(attr.clone()).await?;
        }
        self.remove_entry(&parent, &name, &attr).await
    }

    /// Removes everything below a directory, deepest first; the stack is as deep as the tree.
    async fn empty(&self, top: Attr) -> Result<(), FsError> {
        let mut stack = vec![(top, None::<Vec<u8>>)];
        while let Some((dir, _)) = stack.last().cloned() {
            self.demand_dir(&dir, READ | WRITE | EXECUTE).await?;
            let (entries, end) = self.page(&dir, 0, PAGE).await?;
            let mut deeper = None;
            for entry in &entries {
                let Some(attr) = &entry.attr else { continue };
                self.demand_removal(&dir, attr).await?;
                if attr.kind == FileKind::Dir {
                    deeper = Some((attr.clone(), Some(entry.name.0.clone())));
                    break;
                }
                gone(self.fs.unlink(dir.ino, &entry.name).await)?;
            }
            match (deeper, end) {
                (Some(next), _) => stack.push(next),
                (None, false) => {}
                (None, true) => {
                    let Some((_, name)) = stack.pop() else { break };
                    if let (Some((parent, _)), Some(name)) = (stack.last(), name) {
                        gone(self.fs.rmdir(parent.ino, &name).await)?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn remove_entry(&self, parent: &Attr, name: &[u8], attr: &Attr) -> Result<(), FsError> {
        match attr.kind {
            FileKind::Dir => self.fs.rmdir(parent.ino, name).await?,
            _ => self.fs.unlink(parent.ino, name).await?,
        };
        Ok(())
    }
}

/// A name that another client removed first is removed.
fn gone(result: Result<Attr, FsError>) -> Result<(), FsError> {
    match result {
        Ok(_) | Err(FsError::NotFound) => Ok(()),
        Err(error) => Err(error),
    }
}

//! A tree in depth-first order, one page of one directory in memory for each level.

use super::{FsPath, UserFs};
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, DirEntry, FileKind};
use std::collections::VecDeque;

/// Entries that one request to the NameNode asks for.
const PAGE: u32 = 256;
/// Levels below the top: a path of 4,095 bytes has no more.
const DEPTH_MAX: usize = 2048;

/// Something below the top.
pub struct Found {
    /// From the root of the cluster.
    pub path: FsPath,
    /// Its attributes.
    pub attr: Attr,
}

/// A directory that is being listed.
struct Level {
    path: FsPath,
    dir: Attr,
    page: VecDeque<DirEntry>,
    after: u64,
    end: bool,
}

/// Walks a tree. Directories that the user may not read are counted and left out.
pub struct Walk {
    fs: UserFs,
    stack: Vec<Level>,
    /// Directories that were left out.
    pub refused: u64,
}

impl Walk {
    /// Everything below `top`, without `top` itself.
    pub fn new(fs: UserFs, path: FsPath, top: Attr) -> Self {
        let first = Level { path, dir: top, page: VecDeque::new(), after: 0, end: false };
        Self { fs, stack: vec![first], refused: 0 }
    }

    /// The next name: a directory before what is in it.
    ///
    /// # Errors
    /// Those of the NameNode.
    pub async fn next(&mut self) -> Result<Option<Found>, FsError> {
        while let Some(level) = self.stack.last_mut() {
            if let Some(entry) = level.page.pop_front() {
                let Some(attr) = entry.attr else { continue };
                let path = level.path.join(&entry.name);
                if attr.kind == FileKind::Dir && self.stack.len() < DEPTH_MAX {
                    let below = Level {
                        path: path.clone(),
                        dir: attr.clone(),
                        page: VecDeque::new(),
                        after: 0,
                        end: false,
                    };
                    self.stack.push(below);
                }
                return Ok(Some(Found { path, attr }));
            }
            if level.end {
                self.stack.pop();
                continue;
            }
            match self.fs.list(&level.dir, level.after, PAGE).await {
                Ok((entries, end)) => {
                    level.after = entries.last().map_or(level.after, |e| e.cookie);
                    level.end = end || entries.is_empty();
                    level.page = entries.into();
                }
                Err(FsError::Access) => {
                    self.refused += 1;
                    self.stack.pop();
                }
                // Removed while the walk went on.
                Err(FsError::Stale | FsError::NotFound) => {
                    self.stack.pop();
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

//! Moving, replacing and exchanging names.

use super::OpResult;
use super::rmdir::check_empty;
use crate::error::{OpError, StateError};
use crate::records::{Content, Inode, NameEntry};
use crate::store::Store;
use crate::tx::{self, Tx, dir_mut};
use quarry_common::ids::Ino;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{FileKind, MutationReply, Name, RenameMode};

/// The two names.
pub(crate) struct Ends<'a> {
    pub(crate) from: Ino,
    pub(crate) from_name: &'a Name,
    pub(crate) to: Ino,
    pub(crate) to_name: &'a Name,
}

/// The two directories while they change: one inode if they are the same.
struct Dirs {
    from: Inode,
    /// `None`: the same as `from`.
    to: Option<Inode>,
}

impl Dirs {
    fn to(&mut self) -> &mut Inode {
        self.to.as_mut().unwrap_or(&mut self.from)
    }

    fn save(mut self, tx: &mut Tx<'_>, ends: &Ends<'_>) {
        for dir in [Some(&mut self.from), self.to.as_mut()].into_iter().flatten() {
            dir.mtime = tx.now;
            dir.ctime = tx.now;
        }
        tx.save(ends.from, &mut self.from);
        if let Some(mut to) = self.to {
            tx.save(ends.to, &mut to);
        }
    }
}

pub(crate) fn rename(tx: &mut Tx<'_>, ends: &Ends<'_>, mode: RenameMode) -> OpResult<MutationReply> {
    tx::check_name(ends.from_name)?;
    tx::check_name(ends.to_name)?;
    let from_dir = tx::live_directory(tx.store, ends.from)?;
    let to_dir = if ends.to == ends.from { None } else { Some(tx::live_directory(tx.store, ends.to)?) };
    let dirs = Dirs { from: from_dir, to: to_dir };
    let source = tx::entry(tx.store, ends.from, ends.from_name)?.ok_or(FsError::NotFound)?;
    let target = tx::entry(tx.store, ends.to, ends.to_name)?;
    check_loop(tx.store, &source, ends.to)?;
    match (target, mode) {
        (Some(_), RenameMode::NoReplace) => Err(FsError::Exists.into()),
        (None, RenameMode::Exchange) => Err(FsError::NotFound.into()),
        // Two names of one inode: POSIX wants nothing to happen.
        (Some(target), _) if target.ino == source.ino => {
            let moved = tx::linked(tx.store, source.ino)?.attr(source.ino);
            Ok(MutationReply::Renamed { moved, other: None })
        }
        (Some(target), RenameMode::Exchange) => exchange(tx, ends, dirs, source, target),
        (Some(target), RenameMode::Replace) => replace(tx, ends, dirs, source, target),
        (None, RenameMode::Replace | RenameMode::NoReplace) => Ok(move_entry(tx, ends, dirs, source)?),
    }
}

/// A directory cannot become its own descendant.
fn check_loop(store: &Store, moved: &NameEntry, into: Ino) -> Result<(), OpError> {
    if moved.kind != FileKind::Dir {
        return Ok(());
    }
    let mut at = into;
    // A chain longer than there are directories is a cycle, which these very checks rule out.
    for _ in 0..=store.meta.usage.directories {
        if at == moved.ino {
            return Err(FsError::Invalid.into());
        }
        if at == Ino::ROOT {
            return Ok(());
        }
        at = match tx::linked(store, at)?.content {
            Content::Dir(dir) => dir.parent,
            _ => {
                return Err(StateError::Corrupt(format!(
                    "inode {at} is the parent of a directory, and none"
                ))
                .into());
            }
        };
    }
    Err(StateError::Corrupt(format!("the directories above inode {into} form a cycle")).into())
}

fn move_entry(
    tx: &mut Tx<'_>,
    ends: &Ends<'_>,
    mut dirs: Dirs,
    source: NameEntry,
) -> Result<MutationReply, StateError> {
    let mut moved = tx::linked(tx.store, source.ino)?;
    tx.remove_entry(ends.from, &mut dirs.from, ends.from_name, source.cookie);
    tx.insert_entry(ends.to, dirs.to(), ends.to_name, source.ino, source.kind);
    reparent(&mut moved, &mut dirs, ends.to);
    dirs.save(tx, ends);
    moved.ctime = tx.now;
    tx.save(source.ino, &mut moved);
    Ok(MutationReply::Renamed { moved: moved.attr(source.ino), other: None })
}

fn replace(
    tx: &mut Tx<'_>,
    ends: &Ends<'_>,
    mut dirs: Dirs,
    source: NameEntry,
    target: NameEntry,
) -> OpResult<MutationReply> {
    let mut moved = tx::linked(tx.store, source.ino)?;
    let mut gone = tx::linked(tx.store, target.ino)?;
    match (source.kind == FileKind::Dir, target.kind == FileKind::Dir) {
        (true, _) => check_empty(&gone)?,
        (false, true) => return Err(FsError::IsDir.into()),
        (false, false) => {}
    }

    tx.remove_entry(ends.from, &mut dirs.from, ends.from_name, source.cookie);
    // The name keeps its place: a reader of the directory sees it once.
    tx.set_entry(ends.to, ends.to_name, NameEntry { cookie: target.cookie, ..source });
    if target.kind == FileKind::Dir {
        dirs.to().nlink -= 1;
    }
    reparent(&mut moved, &mut dirs, ends.to);
    dirs.save(tx, ends);
    moved.ctime = tx.now;
    tx.save(source.ino, &mut moved);
    tx.drop_name(target.ino, &mut gone);
    Ok(MutationReply::Renamed { moved: moved.attr(source.ino), other: Some(gone.attr(target.ino)) })
}

fn exchange(
    tx: &mut Tx<'_>,
    ends: &Ends<'_>,
    mut dirs: Dirs,
    source: NameEntry,
    target: NameEntry,
) -> OpResult<MutationReply> {
    check_loop(tx.store, &target, ends.from)?;
    let mut moved = tx::linked(tx.store, source.ino)?;
    let mut other = tx::linked(tx.store, target.ino)?;

    tx.set_entry(ends.from, ends.from_name, NameEntry { cookie: source.cookie, ..target });
    tx.set_entry(ends.to, ends.to_name, NameEntry { cookie: target.cookie, ..source });
    if let Some(to) = &mut dirs.to {
        if let Content::Dir(dir) = &mut moved.content {
            dir.parent = ends.to;
            dirs.from.nlink -= 1;
            to.nlink += 1;
        }
        if let Content::Dir(dir) = &mut other.content {
            dir.parent = ends.from;
            to.nlink -= 1;
            dirs.from.nlink += 1;
        }
    }
    dirs.save(tx, ends);
    moved.ctime = tx.now;
    other.ctime = tx.now;
    tx.save(source.ino, &mut moved);
    tx.save(target.ino, &mut other);
    Ok(MutationReply::Renamed { moved: moved.attr(source.ino), other: Some(other.attr(target.ino)) })
}

/// A directory that moved has another `..`.
fn reparent(moved: &mut Inode, dirs: &mut Dirs, to: Ino) {
    if let (Content::Dir(_), Some(to_dir)) = (&moved.content, &mut dirs.to) {
        dirs.from.nlink -= 1;
        to_dir.nlink += 1;
        dir_mut(moved).parent = to;
    }
}

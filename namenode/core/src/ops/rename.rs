//! Moving, replacing and exchanging names.

use super::OpResult;
use super::create::{Spec, create};
use super::rmdir::check_empty;
use crate::error::{OpError, StateError};
use crate::records::{Content, Inode, NameEntry};
use crate::store::Store;
use crate::tx::{self, Tx};
use quarry_common::ids::Ino;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Caller, FileKind, MutationReply, Name, NewNode, RenameMode};

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

    /// What was moved from the first into the second, if they differ, has the second as its parent.
    fn reparent(&mut self, moved: &mut Inode, to: Ino) {
        if let Some(entered) = &mut self.to {
            reparent(moved, &mut self.from, entered, to);
        }
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
        (Some(target), RenameMode::Replace | RenameMode::Whiteout) => replace(tx, ends, dirs, source, target),
        (None, RenameMode::Replace | RenameMode::NoReplace | RenameMode::Whiteout) => {
            Ok(move_entry(tx, ends, dirs, source)?)
        }
    }
}

/// The same with [`RenameMode::Whiteout`]: hides the old name, if it went away.
pub(crate) fn rename_leaving_whiteout(tx: &mut Tx<'_>, ends: &Ends<'_>) -> OpResult<MutationReply> {
    let reply = rename(tx, ends, RenameMode::Whiteout)?;
    if tx::entry(tx.store, ends.from, ends.from_name)?.is_none() {
        let node = NewNode::Special { kind: FileKind::CharDevice, rdev: 0 };
        let spec = Spec { node: &node, mode: 0, umask: 0, caller: Caller { uid: 0, gid: 0 } };
        create(tx, ends.from, ends.from_name, &spec)?;
    }
    Ok(reply)
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
    dirs.reparent(&mut moved, ends.to);
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
    dirs.reparent(&mut moved, ends.to);
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
    dirs.reparent(&mut moved, ends.to);
    if let Some(to) = &mut dirs.to {
        reparent(&mut other, to, &mut dirs.from, ends.from);
    }
    dirs.save(tx, ends);
    moved.ctime = tx.now;
    other.ctime = tx.now;
    tx.save(source.ino, &mut moved);
    tx.save(target.ino, &mut other);
    Ok(MutationReply::Renamed { moved: moved.attr(source.ino), other: Some(other.attr(target.ino)) })
}

/// A directory that moves from one directory into another has another `..`.
fn reparent(moved: &mut Inode, left: &mut Inode, entered: &mut Inode, to: Ino) {
    if let Content::Dir(dir) = &mut moved.content {
        dir.parent = to;
        left.nlink -= 1;
        entered.nlink += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Effect;
    use crate::testing::Bench;
    use quarry_common::wire::error::ServiceError;
    use quarry_common::wire::fs::Mutation;

    fn rename(
        bench: &mut Bench,
        (from, from_name): (Ino, &str),
        (to, to_name): (Ino, &str),
        mode: RenameMode,
    ) -> Result<(Ino, Option<Ino>), FsError> {
        let (from_name, to_name) = (from_name.as_bytes().into(), to_name.as_bytes().into());
        match bench.mutate(Mutation::Rename { from, from_name, to, to_name, mode }) {
            Ok(MutationReply::Renamed { moved, other }) => Ok((moved.ino, other.map(|a| a.ino))),
            Err(ServiceError::Fs(e)) => Err(e),
            other => panic!("{other:?}"),
        }
    }

    const ROOT: Ino = Ino::ROOT;

    #[test]
    fn a_whiteout_takes_the_old_names_place_if_it_went() {
        let mut bench = Bench::new();
        let (a, b) = (bench.file(ROOT, "a"), bench.file(ROOT, "b"));
        assert_eq!(rename(&mut bench, (ROOT, "a"), (ROOT, "b"), RenameMode::Whiteout), Ok((a, Some(b))));
        let left = bench.lookup(ROOT, "a").expect("a whiteout");
        assert_eq!((bench.attr(left).kind, bench.attr(left).rdev), (FileKind::CharDevice, 0));
        assert_eq!(bench.lookup(ROOT, "b"), Ok(a));
        let link = Mutation::Link { ino: a, parent: ROOT, name: b"c"[..].into() };
        bench.attr_of(link).expect("linked");
        assert_eq!(rename(&mut bench, (ROOT, "b"), (ROOT, "c"), RenameMode::Whiteout), Ok((a, None)));
        assert_eq!(bench.lookup(ROOT, "b"), Ok(a), "two names of one inode");
        bench.check();
    }

    #[test]
    fn a_moved_directory_has_another_parent() {
        let mut bench = Bench::new();
        let (a, b) = (bench.dir(ROOT, "a"), bench.dir(ROOT, "b"));
        let sub = bench.dir(a, "s");
        assert_eq!(rename(&mut bench, (a, "s"), (b, "t"), RenameMode::NoReplace), Ok((sub, None)));
        assert_eq!((bench.attr(a).nlink, bench.attr(b).nlink), (2, 3));
        assert_eq!(bench.lookup(b, "t"), Ok(sub));
        assert_eq!(bench.lookup(a, "s"), Err(FsError::NotFound));
        for ino in [a, b, sub] {
            assert_eq!(bench.attr(ino).ctime, bench.now(), "{ino}");
        }
        assert!(bench.attr(sub).mtime < bench.now());
        bench.check();
    }

    #[test]
    fn a_replaced_file_becomes_an_orphan_and_its_place_stays() {
        let mut bench = Bench::new();
        let a = bench.file(ROOT, "a");
        let b = bench.file(ROOT, "b");
        bench.file(ROOT, "c");
        assert_eq!(rename(&mut bench, (ROOT, "a"), (ROOT, "b"), RenameMode::NoReplace), Err(FsError::Exists));
        assert_eq!(rename(&mut bench, (ROOT, "a"), (ROOT, "b"), RenameMode::Replace), Ok((a, Some(b))));
        assert!(bench.effects.contains(&Effect::Orphaned(b)));
        assert_eq!(bench.names(ROOT), ["b", "c"]);
        assert_eq!(bench.lookup(ROOT, "b"), Ok(a));
        bench.check();
    }

    #[test]
    fn kinds_must_fit() {
        let mut bench = Bench::new();
        let (dir, full) = (bench.dir(ROOT, "d"), bench.dir(ROOT, "full"));
        bench.file(full, "x");
        bench.file(ROOT, "f");
        let mut replace = |from, to| rename(&mut bench, from, to, RenameMode::Replace);
        assert_eq!(replace((ROOT, "f"), (ROOT, "d")), Err(FsError::IsDir));
        assert_eq!(replace((ROOT, "d"), (ROOT, "f")), Err(FsError::NotDir));
        assert_eq!(replace((ROOT, "d"), (ROOT, "full")), Err(FsError::NotEmpty));
        assert_eq!(replace((full, "x"), (ROOT, "full")), Err(FsError::IsDir));
        assert_eq!(replace((ROOT, "full"), (ROOT, "d")), Ok((full, Some(dir))));
        assert_eq!(bench.attr(ROOT).nlink, 3);
        bench.check();
    }

    #[test]
    fn two_names_of_one_inode_stay() {
        let mut bench = Bench::new();
        let a = bench.file(ROOT, "a");
        bench.attr_of(Mutation::Link { ino: a, parent: ROOT, name: b"b"[..].into() }).expect("linked");
        assert_eq!(rename(&mut bench, (ROOT, "a"), (ROOT, "b"), RenameMode::Replace), Ok((a, None)));
        assert_eq!(bench.effects, []);
        assert_eq!(bench.names(ROOT), ["a", "b"]);
        bench.check();
    }

    #[test]
    fn a_directory_does_not_enter_itself() {
        let mut bench = Bench::new();
        let a = bench.dir(ROOT, "a");
        let b = bench.dir(a, "b");
        let c = bench.dir(b, "c");
        for mode in [RenameMode::Replace, RenameMode::NoReplace] {
            assert_eq!(rename(&mut bench, (ROOT, "a"), (a, "x"), mode), Err(FsError::Invalid));
            assert_eq!(rename(&mut bench, (ROOT, "a"), (c, "x"), mode), Err(FsError::Invalid));
        }
        assert_eq!(rename(&mut bench, (b, "c"), (ROOT, "a"), RenameMode::Replace), Err(FsError::NotEmpty));
        assert_eq!(rename(&mut bench, (b, "c"), (ROOT, "a"), RenameMode::Exchange), Err(FsError::Invalid));
        assert_eq!(rename(&mut bench, (ROOT, "a"), (b, "c"), RenameMode::Exchange), Err(FsError::Invalid));
        bench.check();
    }

    #[test]
    fn exchange_swaps_what_two_names_mean() {
        let mut bench = Bench::new();
        let dir = bench.dir(ROOT, "d");
        let file = bench.file(dir, "f");
        let other = bench.dir(ROOT, "o");
        let swap = |bench: &mut Bench, a, b| rename(bench, a, b, RenameMode::Exchange);
        assert_eq!(swap(&mut bench, (dir, "f"), (ROOT, "o")), Ok((file, Some(other))));
        assert_eq!((bench.lookup(dir, "f"), bench.lookup(ROOT, "o")), (Ok(other), Ok(file)));
        assert_eq!((bench.attr(dir).nlink, bench.attr(ROOT).nlink), (3, 3));
        assert_eq!(swap(&mut bench, (dir, "f"), (ROOT, "none")), Err(FsError::NotFound));
        bench.check();
    }
}

//! Freeing orphans that no session has open any more, and what large erasures left.

use super::windows::{self, Change};
use crate::command::Outcome;
use crate::error::StateError;
use crate::records::{Content, Inode};
use crate::tables::{ErasedKey, InodeKey, OrphanKey, OwnerKey, XattrKey};
use crate::tx::{Tx, file_ref};
use quarry_common::acl;
use quarry_common::ids::{Ino, WindowIndex};
use quarry_common::wire::fs::Name;
use std::collections::BTreeMap;

/// Windows (2 GiB of file), attributes and inodes that one command frees at most: some milliseconds, during which nothing
/// else happens.
const WORK_MAX: usize = 1024;

pub(crate) fn reap(tx: &mut Tx<'_>, inos: &[Ino]) -> Result<Outcome, StateError> {
    let mut budget = WORK_MAX;
    let mut left = Vec::new();
    for &ino in inos {
        if budget == 0 {
            left.push(ino);
            continue;
        }
        let Some(mut inode) = tx.store.get(&InodeKey(ino))? else { continue };
        if inode.nlink > 0 {
            if matches!(&inode.content, Content::File(file) if file.erased.is_some()) {
                let is_done = windows::free_erased(tx, ino, &mut inode, &mut budget)?;
                left.extend((!is_done).then_some(ino));
                // Its contents are what they were, so nobody is told of the change.
                tx.store.put(&InodeKey(ino), &inode);
            }
            continue;
        }
        let is_file = matches!(inode.content, Content::File(_));
        let is_free = (!is_file || free_windows(tx, &mut inode, &mut budget)?)
            && free_xattrs(tx, ino, &mut inode, &mut budget)?;
        if !is_free {
            // No session has it open, so nobody is told of the change.
            tx.store.put(&InodeKey(ino), &inode);
            left.push(ino);
            continue;
        }
        budget -= usize::from(budget > 0);
        if let Content::File(file) = &inode.content
            && file.data != ino
        {
            tx.store.delete(&OwnerKey(file.data));
        }
        tx.store.delete(&ErasedKey(ino));
        uncount(tx, &inode);
        tx.store.delete(&InodeKey(ino));
        tx.store.delete(&OrphanKey(ino));
    }
    Ok(Outcome::Reaped { left })
}

/// Frees data as far as the budget goes, and says whether all are free.
fn free_windows(tx: &mut Tx<'_>, inode: &mut Inode, budget: &mut usize) -> Result<bool, StateError> {
    let rows = windows::range(tx.store, file_ref(inode), WindowIndex(0), windows::END, *budget + 1)?;
    let done = rows.len() <= *budget;
    let changes: Vec<Change> = rows
        .into_iter()
        .take(*budget)
        .map(|window| Change::new(window.index, window.stored, Vec::new()))
        .collect();
    *budget -= changes.len();
    if !changes.is_empty() {
        windows::apply(tx, inode, &changes, &BTreeMap::new())?;
    }
    Ok(done)
}

/// The same for extended attributes.
fn free_xattrs(tx: &mut Tx<'_>, ino: Ino, inode: &mut Inode, budget: &mut usize) -> Result<bool, StateError> {
    if inode.xattr_list_bytes == 0 {
        return Ok(true);
    }
    let from = XattrKey { ino, name: Name::default() };
    let to = XattrKey { ino: Ino(ino.0 + 1), name: Name::default() };
    let rows = tx.store.range(&from, Some(&to), *budget + 1)?;
    let done = rows.len() <= *budget;
    for (key, _) in rows.into_iter().take(*budget) {
        inode.xattr_list_bytes -= key.name.len() as u32 + 1;
        inode.access_acl &= key.name.0 != acl::ACCESS;
        inode.default_acl &= key.name.0 != acl::DEFAULT;
        tx.store.delete(&key);
        *budget -= 1;
    }
    Ok(done)
}

fn uncount(tx: &mut Tx<'_>, inode: &Inode) {
    let usage = &mut tx.store.meta.usage;
    usage.inodes -= 1;
    usage.orphans -= 1;
    match inode.content {
        Content::File(_) => {
            usage.files -= 1;
            usage.bytes = usage.bytes.wrapping_sub(file_ref(inode).size);
        }
        Content::Dir(_) => usage.directories -= 1,
        Content::Symlink(_) | Content::Special { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Body;
    use crate::invariants::violations;
    use crate::testing::Bench;
    use quarry_common::limits::CHUNK_SIZE;
    use quarry_common::wire::fs::{Mutation, SetXattrMode};

    #[test]
    fn reaping_frees_everything_in_steps() {
        let mut bench = Bench::new();
        let (file, small, kept) =
            (bench.file(Ino::ROOT, "a"), bench.file(Ino::ROOT, "b"), bench.file(Ino::ROOT, "c"));
        for window in 0..=WORK_MAX as u64 {
            bench.write(file, window * CHUNK_SIZE, 10).expect("written");
        }
        let (name, value) = (b"user.x"[..].into(), b"y"[..].into());
        bench
            .attr_of(Mutation::SetXattr { ino: small, name, value, mode: SetXattrMode::Either })
            .expect("set");
        let dir = bench.dir(Ino::ROOT, "d");
        bench.attr_of(Mutation::Rmdir { parent: Ino::ROOT, name: b"d"[..].into() }).expect("removed");
        bench.unlink(Ino::ROOT, "a").expect("unlinked");
        bench.unlink(Ino::ROOT, "b").expect("unlinked");

        let inos = vec![file, small, kept, dir, Ino(999)];
        assert_eq!(bench.apply(Body::Reap { inos: inos.clone() }), Outcome::Reaped { left: inos.clone() });
        assert_eq!(bench.state.orphans(Ino(0), 9).expect("sound"), [file, small, dir]);
        assert_eq!(bench.apply(Body::Reap { inos }), Outcome::Reaped { left: vec![] });
        assert_eq!(bench.state.attr(file).expect("sound"), None);
        assert!(bench.state.attr(kept).expect("sound").is_some());
        let usage = bench.state.usage();
        assert_eq!((usage.inodes, usage.chunks, usage.deleting), (2, 0, WORK_MAX as u64 + 1));
        bench.check();
    }

    #[test]
    fn many_attributes_and_many_inodes_are_freed_in_steps() {
        let mut bench = Bench::new();
        let file = bench.file(Ino::ROOT, "f");
        for n in 0..WORK_MAX + 5 {
            let (name, value) = (format!("user.{n}").into_bytes().into(), b"y"[..].into());
            let mode = SetXattrMode::Create;
            bench.attr_of(Mutation::SetXattr { ino: file, name, value, mode }).expect("set");
        }
        bench.unlink(Ino::ROOT, "f").expect("unlinked");
        let reap = |bench: &mut Bench, inos: &[Ino]| match bench.apply(Body::Reap { inos: inos.to_vec() }) {
            Outcome::Reaped { left } => left,
            other => panic!("{other:?}"),
        };
        assert_eq!(reap(&mut bench, &[file]), [file]);
        assert_eq!(violations(&bench.state).expect("readable"), Vec::<String>::new());
        assert_eq!(reap(&mut bench, &[file]), []);

        let many: Vec<_> = (0..WORK_MAX + 5).map(|n| bench.file(Ino::ROOT, &n.to_string())).collect();
        for n in 0..many.len() {
            bench.unlink(Ino::ROOT, &n.to_string()).expect("unlinked");
        }
        assert_eq!(reap(&mut bench, &many), many[WORK_MAX..]);
        assert_eq!(reap(&mut bench, &many), []);
        bench.check();
    }
}

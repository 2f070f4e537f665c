//! Freeing orphans that nobody has open any more.

use super::windows::{self, Change};
use crate::command::Outcome;
use crate::error::StateError;
use crate::records::{Content, Inode};
use crate::tables::{InodeKey, OrphanKey, OwnerKey, XattrKey};
use crate::tx::{Tx, file_ref};
use quarry_common::ids::{Ino, WindowIndex};
use quarry_common::limits::XATTR_LIST_MAX;
use quarry_common::wire::fs::Name;
use std::collections::BTreeMap;

/// Windows that one command frees at most (2 GiB of file): some milliseconds, during which nothing else happens.
const WINDOWS_MAX: usize = 1024;

pub(crate) fn reap(tx: &mut Tx<'_>, inos: &[Ino]) -> Result<Outcome, StateError> {
    let mut budget = WINDOWS_MAX;
    let mut left = Vec::new();
    for &ino in inos {
        let Some(mut inode) = tx.store.get(&InodeKey(ino))? else { continue };
        if inode.nlink > 0 {
            continue;
        }
        if matches!(inode.content, Content::File(_)) && !free_windows(tx, ino, &mut inode, &mut budget)? {
            left.push(ino);
            continue;
        }
        if let Content::File(file) = &inode.content
            && file.data != ino
        {
            tx.store.delete(&OwnerKey(file.data));
        }
        free_xattrs(tx, ino, &inode)?;
        uncount(tx, &inode);
        tx.store.delete(&InodeKey(ino));
        tx.store.delete(&OrphanKey(ino));
    }
    Ok(Outcome::Reaped { left })
}

/// Frees data as far as the budget goes, and says whether all are free.
fn free_windows(
    tx: &mut Tx<'_>,
    ino: Ino,
    inode: &mut Inode,
    budget: &mut usize,
) -> Result<bool, StateError> {
    let rows = windows::range(tx.store, file_ref(inode).data, WindowIndex(0), windows::END, *budget + 1)?;
    let done = rows.len() <= *budget;
    let changes: Vec<Change> =
        rows.into_iter().take(*budget).map(|(index, window)| Change::clear(index, window.slices)).collect();
    *budget -= changes.len();
    if !changes.is_empty() {
        windows::apply(tx, inode, &changes, &BTreeMap::new())?;
        // Nobody has it open, so nobody is told of the change.
        tx.store.put(&InodeKey(ino), inode);
    }
    Ok(done)
}

fn free_xattrs(tx: &mut Tx<'_>, ino: Ino, inode: &Inode) -> Result<(), StateError> {
    if inode.xattr_list_bytes == 0 {
        return Ok(());
    }
    let from = XattrKey { ino, name: Name::default() };
    let to = XattrKey { ino: Ino(ino.0 + 1), name: Name::default() };
    for (key, _) in tx.store.range(&from, Some(&to), XATTR_LIST_MAX)? {
        tx.store.delete(&key);
    }
    Ok(())
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
    use crate::testing::Bench;
    use quarry_common::limits::CHUNK_SIZE;
    use quarry_common::wire::fs::{Mutation, SetXattrMode};

    #[test]
    fn reaping_frees_everything_in_steps() {
        let mut bench = Bench::new();
        let (file, small, kept) =
            (bench.file(Ino::ROOT, "a"), bench.file(Ino::ROOT, "b"), bench.file(Ino::ROOT, "c"));
        for window in 0..=WINDOWS_MAX as u64 {
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
        assert_eq!(bench.apply(Body::Reap { inos: inos.clone() }), Outcome::Reaped { left: vec![file] });
        assert_eq!(bench.state.orphans(Ino(0), 9).expect("sound"), [file]);
        assert_eq!(bench.apply(Body::Reap { inos }), Outcome::Reaped { left: vec![] });
        assert_eq!(bench.state.attr(file).expect("sound"), None);
        assert!(bench.state.attr(kept).expect("sound").is_some());
        let usage = bench.state.usage();
        assert_eq!((usage.inodes, usage.chunks, usage.deleting), (2, 0, WINDOWS_MAX as u64 + 1));
        bench.check();
    }
}

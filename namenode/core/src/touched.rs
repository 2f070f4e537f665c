//! What must hold for every record that a command has touched: checked after each command in debug builds and in tests,
//! so that a defect stops where it happens. [`invariants`](crate::invariants) checks the whole state.

use crate::command::Effect;
use crate::error::StateError;
use crate::records::{Content, FileContent, Inode};
use crate::store::Store;
use crate::tables::{ErasedKey, InodeKey, OrphanKey};
use quarry_common::ids::Ino;
use quarry_common::limits::{CHUNK_SIZE, FILE_SIZE_MAX, LINK_MAX, SYMLINK_MAX};

/// Checks the inodes that the effects name, and the counters.
///
/// # Panics
/// When something does not hold: the command has a defect.
pub(crate) fn check(store: &Store, effects: &[Effect]) -> Result<(), StateError> {
    for effect in effects {
        if let Effect::Changed(ino) | Effect::Orphaned(ino) = *effect
            && let Some(inode) = store.get(&InodeKey(ino))?
        {
            check_inode(store, ino, &inode)?;
        }
    }
    check_counters(store);
    Ok(())
}

fn check_inode(store: &Store, ino: Ino, inode: &Inode) -> Result<(), StateError> {
    assert!(ino < store.meta.next_ino, "inode {ino} has a number that is still to be given");
    assert!(inode.mode & !0o7777 == 0, "inode {ino}: the kind is not part of the mode {:o}", inode.mode);
    assert!(inode.version > 0, "inode {ino}: a change did not count its version up");
    let is_listed = store.contains(&OrphanKey(ino))?;
    assert_eq!(is_listed, inode.nlink == 0, "inode {ino}: an inode is listed as an orphan if it has no name");
    match &inode.content {
        Content::File(file) => check_file(store, ino, inode, file)?,
        Content::Dir(dir) if inode.nlink == 0 => {
            assert_eq!(dir.entries, 0, "inode {ino}: a directory that is removed is empty");
        }
        Content::Dir(dir) => {
            let parent = store.get(&InodeKey(dir.parent))?;
            let is_dir = parent.is_some_and(|parent| matches!(parent.content, Content::Dir(_)));
            assert!(is_dir, "inode {ino}: a directory with a name has a parent");
        }
        Content::Symlink(target) => {
            assert!(
                (1..=SYMLINK_MAX).contains(&target.len()),
                "inode {ino}: a target of {} bytes",
                target.len()
            );
        }
        Content::Special { .. } => {}
    }
    Ok(())
}

fn check_file(store: &Store, ino: Ino, inode: &Inode, file: &FileContent) -> Result<(), StateError> {
    assert!(file.size <= FILE_SIZE_MAX, "inode {ino}: the kernel has no offset for {} bytes", file.size);
    assert!(inode.nlink <= LINK_MAX, "inode {ino}: {} names", inode.nlink);
    let is_listed = store.contains(&ErasedKey(ino))?;
    assert_eq!(
        is_listed,
        file.erased.is_some(),
        "inode {ino}: erased windows are freed only if it is listed"
    );
    if let Some(erased) = file.erased {
        assert!(erased.version <= file.layout, "inode {ino}: windows of the future are erased");
    }
    Ok(())
}

fn check_counters(store: &Store) {
    let usage = &store.meta.usage;
    assert!(usage.files + usage.directories <= usage.inodes, "kinds of inodes are counted twice: {usage:?}");
    assert!(
        usage.orphans <= usage.inodes && usage.directories > 0,
        "an inode was counted out twice: {usage:?}"
    );
    let most = usage.chunks.saturating_mul(CHUNK_SIZE);
    assert!(
        usage.chunk_bytes >= usage.chunks && usage.chunk_bytes <= most,
        "chunks have 1 byte to 2 MiB: {usage:?}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Bench;

    #[test]
    #[should_panic(expected = "listed as an orphan")]
    fn a_record_that_contradicts_another_stops_the_command() {
        let mut bench = Bench::new();
        let file = bench.file(Ino::ROOT, "f");
        let mut inode = bench.state.inode(file).expect("sound").expect("there");
        inode.nlink = 0;
        bench.state.store_mut().put(&InodeKey(file), &inode);
        check(bench.state.store(), &[Effect::Changed(file)]).expect("readable");
    }
}

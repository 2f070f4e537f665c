//! Removing an empty directory.

use super::OpResult;
use crate::records::{Content, Inode};
use crate::tx::{self, Tx};
use quarry_common::ids::Ino;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{MutationReply, Name};

pub(crate) fn rmdir(tx: &mut Tx<'_>, parent: Ino, name: &Name) -> OpResult<MutationReply> {
    if name.0 == b".." {
        return Err(FsError::NotEmpty.into());
    }
    tx::check_name(name)?;
    let mut dir = tx::directory(tx.store, parent)?;
    let entry = tx::entry(tx.store, parent, name)?.ok_or(FsError::NotFound)?;
    let mut inode = tx::linked(tx.store, entry.ino)?;
    check_empty(&inode)?;

    tx.remove_entry(parent, &mut dir, name, entry.cookie);
    dir.nlink -= 1;
    tx.save(parent, &mut dir);
    tx.drop_name(entry.ino, &mut inode);
    Ok(MutationReply::Removed(inode.attr(entry.ino)))
}

/// Only an empty directory may go, or be replaced.
pub(crate) fn check_empty(inode: &Inode) -> Result<(), FsError> {
    match &inode.content {
        Content::Dir(dir) if dir.entries == 0 => Ok(()),
        Content::Dir(_) => Err(FsError::NotEmpty),
        Content::File(_) | Content::Symlink(_) | Content::Special { .. } => Err(FsError::NotDir),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Effect;
    use crate::testing::Bench;
    use quarry_common::wire::fs::Mutation;

    fn rmdir(bench: &mut Bench, name: &str) -> Result<u32, FsError> {
        bench.attr_of(Mutation::Rmdir { parent: Ino::ROOT, name: name.as_bytes().into() }).map(|a| a.nlink)
    }

    #[test]
    fn only_empty_directories_go() {
        let mut bench = Bench::new();
        let dir = bench.dir(Ino::ROOT, "d");
        bench.file(dir, "f");
        bench.file(Ino::ROOT, "f");
        assert_eq!(rmdir(&mut bench, "d"), Err(FsError::NotEmpty));
        assert_eq!(rmdir(&mut bench, "f"), Err(FsError::NotDir));
        assert_eq!(rmdir(&mut bench, "."), Err(FsError::Invalid));
        assert_eq!(rmdir(&mut bench, ".."), Err(FsError::NotEmpty));
        bench.unlink(dir, "f").expect("unlinked");
        assert_eq!(rmdir(&mut bench, "d"), Ok(0));
        assert!(bench.effects.contains(&Effect::Orphaned(dir)));
        assert_eq!(bench.attr(Ino::ROOT).nlink, 2);
        bench.check();
    }
}

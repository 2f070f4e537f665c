//! Another name for an inode.

use super::OpResult;
use crate::records::Content;
use crate::tx::{self, Tx};
use quarry_common::ids::Ino;
use quarry_common::limits::LINK_MAX;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{MutationReply, Name};

pub(crate) fn link(tx: &mut Tx<'_>, ino: Ino, parent: Ino, name: &Name) -> OpResult<MutationReply> {
    tx::check_name(name)?;
    let mut dir = tx::live_directory(tx.store, parent)?;
    let mut inode = tx::inode(tx.store, ino)?;
    if tx::entry(tx.store, parent, name)?.is_some() {
        return Err(FsError::Exists.into());
    }
    if matches!(inode.content, Content::Dir(_)) {
        return Err(FsError::NotPermitted.into());
    }
    if inode.nlink == 0 {
        return Err(FsError::NotFound.into());
    }
    if inode.nlink >= LINK_MAX {
        return Err(FsError::TooManyLinks.into());
    }

    tx.insert_entry(parent, &mut dir, name, ino, inode.kind());
    inode.nlink += 1;
    inode.ctime = tx.now;
    tx.save(ino, &mut inode);
    tx.save(parent, &mut dir);
    Ok(MutationReply::Attr(inode.attr(ino)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Bench;
    use quarry_common::wire::fs::Mutation;

    fn link(bench: &mut Bench, ino: Ino, name: &str) -> Result<u32, FsError> {
        let link = Mutation::Link { ino, parent: Ino::ROOT, name: name.as_bytes().into() };
        bench.attr_of(link).map(|attr| attr.nlink)
    }

    #[test]
    fn links_count_and_touch_the_inode() {
        let mut bench = Bench::new();
        let file = bench.file(Ino::ROOT, "a");
        assert_eq!(link(&mut bench, file, "b"), Ok(2));
        assert_eq!(bench.attr(file).ctime, bench.now());
        assert_eq!(bench.attr(Ino::ROOT).mtime, bench.now());
        assert_eq!(link(&mut bench, file, "b"), Err(FsError::Exists));
        let dir = bench.dir(Ino::ROOT, "d");
        assert_eq!(link(&mut bench, dir, "e"), Err(FsError::NotPermitted));
        bench.check();
    }

    #[test]
    fn an_orphan_gets_no_new_name() {
        let mut bench = Bench::new();
        let file = bench.file(Ino::ROOT, "a");
        bench.unlink(Ino::ROOT, "a").expect("unlinked");
        assert_eq!(link(&mut bench, file, "b"), Err(FsError::NotFound));
        bench.check();
    }

    #[test]
    fn there_is_a_limit() {
        let mut bench = Bench::new();
        let file = bench.file(Ino::ROOT, "a");
        for i in 1..LINK_MAX {
            link(&mut bench, file, &format!("l{i}")).expect("linked");
        }
        assert_eq!(link(&mut bench, file, "more"), Err(FsError::TooManyLinks));
    }
}

//! Removing a name of anything but a directory.

use super::OpResult;
use crate::records::Content;
use crate::tx::{self, Tx};
use quarry_common::ids::Ino;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{MutationReply, Name};

pub(crate) fn unlink(tx: &mut Tx<'_>, parent: Ino, name: &Name) -> OpResult<MutationReply> {
    tx::check_name(name)?;
    let mut dir = tx::directory(tx.store, parent)?;
    let entry = tx::entry(tx.store, parent, name)?.ok_or(FsError::NotFound)?;
    let mut inode = tx::linked(tx.store, entry.ino)?;
    if matches!(inode.content, Content::Dir(_)) {
        return Err(FsError::IsDir.into());
    }

    tx.remove_entry(parent, &mut dir, name, entry.cookie);
    tx.save(parent, &mut dir);
    tx.drop_name(entry.ino, &mut inode);
    Ok(MutationReply::Removed(inode.attr(entry.ino)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Effect;
    use crate::testing::Bench;
    use quarry_common::wire::fs::{Mutation, Query, SetAttr};

    #[test]
    fn the_last_name_makes_an_orphan_that_still_works() {
        let mut bench = Bench::new();
        let file = bench.file(Ino::ROOT, "a");
        bench
            .attr_of(Mutation::Link { ino: file, parent: Ino::ROOT, name: b"b"[..].into() })
            .expect("linked");
        assert_eq!(bench.unlink(Ino::ROOT, "a").map(|a| a.nlink), Ok(1));
        assert_eq!(bench.effects, [Effect::Changed(Ino::ROOT), Effect::Changed(file)]);
        assert_eq!(bench.unlink(Ino::ROOT, "b").map(|a| a.nlink), Ok(0));
        assert!(bench.effects.contains(&Effect::Orphaned(file)));
        assert_eq!(bench.state.orphans(Ino(0), 10).expect("sound"), [file]);

        bench.write(file, 0, 100).expect("open handles go on writing");
        let set = SetAttr { size: Some(50), ..SetAttr::default() };
        bench.attr_of(Mutation::SetAttr { ino: file, set, keep_sgid: false }).expect("and truncating");
        assert!(bench.query(&Query::Attr { ino: file }).is_ok());
        assert_eq!(bench.lookup(Ino::ROOT, "b"), Err(FsError::NotFound));
        bench.check();
    }

    #[test]
    fn directories_are_not_unlinked() {
        let mut bench = Bench::new();
        bench.dir(Ino::ROOT, "d");
        assert_eq!(bench.unlink(Ino::ROOT, "d"), Err(FsError::IsDir));
        assert_eq!(bench.unlink(Ino::ROOT, "x"), Err(FsError::NotFound));
        bench.check();
    }
}

//! Shortening files.
//!
//! Freeing many windows takes long, and nothing else happens meanwhile. So a large truncation leaves the old windows to
//! an orphan, which is reaped in steps as any other, and goes on under a new number with the few windows that stay.

use super::OpResult;
use super::windows::{self, AT_ONCE, Erasure, Loaded};
use crate::command::Effect;
use crate::error::{OpError, StateError};
use crate::records::{Content, FileContent, Inode};
use crate::store::Store;
use crate::tables::{ErasedKey, InodeKey, OrphanKey, OwnerKey, WindowKey};
use crate::tx::{Tx, file_mut, file_ref};
use quarry_common::ids::{Ino, WindowIndex};
use quarry_common::limits::CHUNK_SIZE;
use quarry_common::slices;

/// What a truncation does to the windows.
pub(crate) enum Cut {
    /// Changes them where they are.
    InPlace(Erasure),
    /// Leaves all but these behind, the last of them cut.
    LeaveBehind { kept: Vec<Loaded>, size: u64 },
}

impl Cut {
    /// The file does not become shorter.
    pub(crate) fn nothing() -> Self {
        Self::InPlace(Erasure::nothing())
    }
}

/// Finds out what cutting a file at `size` means.
///
/// # Errors
/// `Busy` while the file has as much to be freed from an earlier time.
pub(crate) fn plan(store: &Store, file: &FileContent, size: u64) -> OpResult<Cut> {
    let border = WindowIndex(size.div_ceil(CHUNK_SIZE));
    if windows::range(store, file, border, windows::END, AT_ONCE + 1)?.len() > AT_ONCE {
        let kept = windows::range(store, file, WindowIndex(0), border, AT_ONCE + 1)?;
        if kept.len() <= AT_ONCE {
            return Ok(Cut::LeaveBehind { kept, size });
        }
    }
    Ok(Cut::InPlace(cut(store, file, size)?))
}

/// Carries it out. The caller sets the size, and saves the inode.
pub(crate) fn apply(tx: &mut Tx<'_>, ino: Ino, inode: &mut Inode, cut_: Cut) -> Result<(), StateError> {
    let erasure = match cut_ {
        Cut::InPlace(erasure) => erasure,
        Cut::LeaveBehind { kept, size } => {
            leave_behind(tx, ino, inode, &kept);
            match cut(tx.store, file_ref(inode), size) {
                Ok(erasure) => erasure,
                Err(OpError::State(error)) => return Err(error),
                Err(other) => unreachable!("few windows are left, which are cut at once: {other:?}"),
            }
        }
    };
    windows::apply_erasure(tx, ino, inode, erasure)
}

fn cut(store: &Store, file: &FileContent, size: u64) -> OpResult<Erasure> {
    windows::plan_erasure(store, file, size..windows::END.0 * CHUNK_SIZE)
}

/// Makes an orphan that has the windows, and gives the file a new number with the windows that it keeps.
fn leave_behind(tx: &mut Tx<'_>, owner: Ino, inode: &mut Inode, kept: &[Loaded]) {
    let ino = tx.store.meta.next_ino;
    tx.store.meta.next_ino = Ino(ino.0 + 1);
    let old = *file_ref(inode);
    let mut moved_bytes = 0;
    // Erased windows are left behind as well.
    for Loaded { index, record, .. } in kept.iter().filter(|window| !window.record.slices.is_empty()) {
        tx.store.delete(&WindowKey { data: old.data, index: *index });
        tx.store.put(&WindowKey { data: ino, index: *index }, record);
        moved_bytes += slices::visible(&record.slices).iter().map(|s| u64::from(s.length)).sum::<u64>();
    }
    if old.erased.is_some() {
        tx.store.delete(&ErasedKey(owner));
    }
    let orphan = Inode {
        nlink: 0,
        xattr_list_bytes: 0,
        access_acl: false,
        default_acl: false,
        content: Content::File(FileContent { allocated: old.allocated - moved_bytes, erased: None, ..old }),
        ..inode.clone()
    };
    let file = file_mut(inode);
    file.data = ino;
    file.allocated = moved_bytes;
    file.erased = None;
    tx.store.put(&InodeKey(ino), &orphan);
    tx.store.put(&OwnerKey(old.data), &ino);
    tx.store.put(&OwnerKey(ino), &owner);
    tx.store.put(&OrphanKey(ino), &());
    let usage = &mut tx.store.meta.usage;
    usage.inodes += 1;
    usage.files += 1;
    usage.orphans += 1;
    usage.bytes = usage.bytes.wrapping_add(old.size);
    tx.effect(Effect::Orphaned(ino));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Body, Outcome};
    use crate::invariants::violations;
    use crate::testing::Bench;
    use quarry_common::wire::fs::{Mutation, SetAttr};

    fn truncate(bench: &mut Bench, ino: Ino, size: u64) -> (u64, u64) {
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        let attr = bench.attr_of(Mutation::SetAttr { ino, set, keep_sgid: false }).expect("truncated");
        (attr.size, attr.allocated)
    }

    fn large_file(bench: &mut Bench, windows: usize) -> Ino {
        let file = bench.file(Ino::ROOT, "f");
        for window in 0..windows as u64 {
            bench.write(file, window * CHUNK_SIZE, CHUNK_SIZE as u32).expect("written");
        }
        file
    }

    #[test]
    fn a_large_file_is_emptied_at_once_and_freed_in_steps() {
        let mut bench = Bench::new();
        let file = large_file(&mut bench, AT_ONCE + 3);
        bench.checkpoint();
        assert_eq!(truncate(&mut bench, file, CHUNK_SIZE + 10), (CHUNK_SIZE + 10, CHUNK_SIZE + 10));
        let orphans = bench.state.orphans(Ino(0), 9).expect("sound");
        assert_eq!(bench.effects, [Effect::Orphaned(orphans[0]), Effect::Changed(file)]);
        assert_eq!(bench.windows(file).len(), 2);
        assert_eq!(bench.state.usage().chunks, AT_ONCE as u64 + 3);
        bench.write(file, 0, CHUNK_SIZE as u32).expect("written");
        assert_eq!(bench.apply(Body::Reap { inos: orphans }), Outcome::Reaped { left: vec![] });
        assert_eq!(bench.state.usage().chunks, 2);
        assert_eq!(truncate(&mut bench, file, 0), (0, 0));
        let usage = bench.state.usage();
        assert_eq!((usage.files, usage.bytes, usage.allocated, usage.chunks), (1, 0, 0, 0));
        bench.check();
    }

    #[test]
    fn a_file_may_be_emptied_again_before_it_was_freed() {
        let mut bench = Bench::new();
        let file = large_file(&mut bench, AT_ONCE + 1);
        for _ in 0..2 {
            assert_eq!(truncate(&mut bench, file, 0), (0, 0));
            for window in 0..=AT_ONCE as u64 {
                bench.write(file, window * CHUNK_SIZE, 1000).expect("written");
            }
        }
        assert_eq!(violations(&bench.state).expect("readable"), Vec::<String>::new());
        bench.unlink(Ino::ROOT, "f").expect("unlinked");
        let inos = bench.state.orphans(Ino(0), 9).expect("sound");
        assert_eq!(inos.len(), 3);
        bench.apply(Body::Reap { inos: inos.clone() });
        assert_eq!(bench.apply(Body::Reap { inos }), Outcome::Reaped { left: vec![] });
        assert_eq!(bench.state.usage().chunks, 0);
        bench.check();
    }

    #[test]
    fn where_much_stays_and_much_goes_it_is_freed_in_steps() {
        let mut bench = Bench::new();
        let windows = 2 * AT_ONCE as u64 + 4;
        let file = large_file(&mut bench, windows as usize);
        let size = (AT_ONCE as u64 + 1) * CHUNK_SIZE + 1;
        assert_eq!(truncate(&mut bench, file, size).0, size);
        assert_eq!(bench.state.orphans(Ino(0), 9).expect("sound"), []);
        assert_eq!(bench.state.erased(Ino(0), 9).expect("sound"), [file]);
        // Made longer again it shows zeros, and what was cut once more goes with it.
        truncate(&mut bench, file, windows * CHUNK_SIZE);
        assert_eq!(bench.windows(file).len(), 128);
        assert_eq!(truncate(&mut bench, file, CHUNK_SIZE), (CHUNK_SIZE, CHUNK_SIZE));
        assert_eq!(violations(&bench.state).expect("readable"), Vec::<String>::new());
        let inos = [bench.state.orphans(Ino(0), 9), bench.state.erased(Ino(0), 9)];
        let inos: Vec<_> = inos.into_iter().flat_map(|found| found.expect("sound")).collect();
        while bench.apply(Body::Reap { inos: inos.clone() }) != (Outcome::Reaped { left: vec![] }) {}
        assert_eq!(bench.state.usage().chunks, 1);
        bench.check();
    }

    #[test]
    fn an_unlinked_file_is_freed_with_what_was_erased() {
        let mut bench = Bench::new();
        let file = large_file(&mut bench, 2 * AT_ONCE + 4);
        truncate(&mut bench, file, (AT_ONCE as u64 + 1) * CHUNK_SIZE);
        bench.unlink(Ino::ROOT, "f").expect("unlinked");
        while bench.apply(Body::Reap { inos: vec![file] }) != (Outcome::Reaped { left: vec![] }) {}
        assert_eq!(bench.state.usage().chunks, 0);
        assert_eq!(bench.state.erased(Ino(0), 9).expect("sound"), []);
        bench.check();
    }
}

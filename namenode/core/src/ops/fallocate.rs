//! fallocate(2): sizes and holes. Space is not reserved.

use super::windows::{self, Erasure};
use super::{OpResult, xattr};
use crate::tx::{self, Tx, file_ref};
use quarry_common::ids::Ino;
use quarry_common::limits::FILE_SIZE_MAX;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{FallocateMode, MutationReply};

pub(crate) fn fallocate(
    tx: &mut Tx<'_>,
    ino: Ino,
    mode: FallocateMode,
    offset: u64,
    length: u64,
    kill_suidgid: bool,
) -> OpResult<MutationReply> {
    let mut inode = tx::file(tx.store, ino)?;
    if length == 0 {
        return Err(FsError::Invalid.into());
    }
    let end = offset.checked_add(length).filter(|end| *end <= FILE_SIZE_MAX).ok_or(FsError::FileTooLarge)?;
    let (zeros, extends) = match mode {
        FallocateMode::Allocate => (false, true),
        FallocateMode::KeepSize => (false, false),
        FallocateMode::PunchHole | FallocateMode::ZeroRangeKeepSize => (true, false),
        FallocateMode::ZeroRange => (true, true),
    };
    let erasure = if zeros {
        windows::plan_erasure(tx.store, file_ref(&inode), offset..end)?
    } else {
        Erasure::nothing()
    };
    if erasure.is_too_fragmented() {
        return Err(FsError::NoSpace.into());
    }

    windows::apply_erasure(tx, ino, &mut inode, erasure)?;
    if extends {
        let size = file_ref(&inode).size.max(end);
        windows::set_size(tx, &mut inode, size);
    }
    if kill_suidgid {
        tx::kill_suidgid(&mut inode);
    }
    xattr::drop_capability(tx, ino, &mut inode)?;
    inode.mtime = tx.now;
    inode.ctime = tx.now;
    tx.save(ino, &mut inode);
    Ok(MutationReply::Attr(inode.attr(ino)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Body, Outcome};
    use crate::invariants::violations;
    use crate::testing::Bench;
    use quarry_common::ids::WindowIndex;
    use quarry_common::limits::CHUNK_SIZE;
    use quarry_common::wire::error::ServiceError;
    use quarry_common::wire::fs::{Attr, Mutation, Query, QueryReply, SetAttr};

    fn call(
        bench: &mut Bench,
        ino: Ino,
        mode: FallocateMode,
        offset: u64,
        length: u64,
    ) -> Result<Attr, FsError> {
        bench.attr_of(Mutation::Fallocate { ino, mode, offset, length, kill_suidgid: true })
    }

    #[test]
    fn sizes_grow_only_where_asked() {
        let mut bench = Bench::new();
        let file = bench.file(Ino::ROOT, "f");
        let mut size = |mode| call(&mut bench, file, mode, 10, 20).map(|a| a.size);
        assert_eq!(size(FallocateMode::KeepSize), Ok(0));
        assert_eq!(size(FallocateMode::PunchHole), Ok(0));
        assert_eq!(size(FallocateMode::ZeroRangeKeepSize), Ok(0));
        assert_eq!(size(FallocateMode::Allocate), Ok(30));
        assert_eq!(call(&mut bench, file, FallocateMode::ZeroRange, 20, 20).map(|a| a.size), Ok(40));
        let far =
            |bench: &mut Bench, offset, length| call(bench, file, FallocateMode::Allocate, offset, length);
        assert_eq!(far(&mut bench, 0, 0), Err(FsError::Invalid));
        assert_eq!(far(&mut bench, FILE_SIZE_MAX, 1), Err(FsError::FileTooLarge));
        assert_eq!(far(&mut bench, u64::MAX, 2), Err(FsError::FileTooLarge));
        bench.check();
    }

    #[test]
    fn holes_free_whole_windows_and_hide_parts() {
        let mut bench = Bench::new();
        let file = bench.file(Ino::ROOT, "f");
        for window in 0..3 {
            bench.write(file, window * CHUNK_SIZE, CHUNK_SIZE as u32).expect("written");
        }
        let attr = call(&mut bench, file, FallocateMode::PunchHole, CHUNK_SIZE - 7, CHUNK_SIZE + 14)
            .expect("punched");
        assert_eq!(attr.allocated, 2 * CHUNK_SIZE - 14);
        assert_eq!(bench.windows(file).len(), 2);
        let attr = call(&mut bench, file, FallocateMode::PunchHole, 100, 50).expect("punched");
        assert_eq!((attr.size, attr.allocated), (3 * CHUNK_SIZE, 2 * CHUNK_SIZE - 64));
        assert_eq!(bench.windows(file)[0].slices.len(), 2);
        assert_eq!(bench.state.usage().chunks, 2);
        bench.check();
    }

    #[test]
    fn a_hole_over_many_windows_shows_at_once_and_is_freed_in_steps() {
        let mut bench = Bench::new();
        let file = bench.file(Ino::ROOT, "f");
        let windows = windows::AT_ONCE as u64 * 5;
        for window in 0..windows {
            bench.write(file, window * CHUNK_SIZE, CHUNK_SIZE as u32).expect("written");
        }
        let (offset, length) = (CHUNK_SIZE / 2, (windows - 1) * CHUNK_SIZE);
        call(&mut bench, file, FallocateMode::PunchHole, offset, length).expect("punched");
        let shown = |bench: &Bench| {
            let first = |from| Query::NextWindow { ino: file, from: WindowIndex(from) };
            let (mut found, mut from) = (Vec::new(), 0);
            while let Ok(QueryReply::Layout { windows, .. }) = bench.query(&first(from)) {
                let Some(window) = windows.first() else { break };
                if !window.slices.is_empty() {
                    found.push(window.index.0);
                }
                from = window.index.0 + 1;
            }
            found
        };
        assert_eq!(shown(&bench), [0, windows - 1]);
        assert_eq!(bench.state.usage().chunks, windows, "nothing is freed yet");
        // What is written into it stays, and so much again must wait.
        bench.write(file, 7 * CHUNK_SIZE, 10).expect("written");
        let set = SetAttr { size: Some((windows - 3) * CHUNK_SIZE), ..SetAttr::default() };
        bench.attr_of(Mutation::SetAttr { ino: file, set, keep_sgid: false }).expect("a few windows");
        let again = Mutation::Fallocate {
            ino: file,
            mode: FallocateMode::PunchHole,
            offset,
            length,
            kill_suidgid: false,
        };
        let busy = bench.mutate(again.clone());
        assert!(matches!(busy, Err(ServiceError::Unavailable(_))), "{busy:?}");
        assert_eq!(violations(&bench.state).expect("readable"), Vec::<String>::new());
        bench.checkpoint();

        let erased = bench.state.erased(Ino(0), 9).expect("sound");
        assert_eq!(erased, [file]);
        let mut steps = 0;
        while bench.apply(Body::Reap { inos: erased.clone() }) != (Outcome::Reaped { left: vec![] }) {
            assert_eq!(shown(&bench), [0, 7]);
            assert_eq!(violations(&bench.state).expect("readable"), Vec::<String>::new());
            steps += 1;
        }
        assert!(steps >= 2, "{steps} steps");
        assert_eq!(bench.state.erased(Ino(0), 9).expect("sound"), []);
        assert_eq!((bench.state.usage().chunks, shown(&bench)), (2, vec![0, 7]));
        // The refused request used no number up.
        let retry = bench.retry(again);
        assert!(retry.is_ok(), "{retry:?}");
        bench.check();
    }
}

//! Copying by reference: the target's slices name the source's chunks.

use super::OpResult;
use super::windows::{self, Change, Loaded};
use super::xattr;
use crate::error::OpError;
use crate::records::FileContent;
use crate::store::Store;
use crate::tx::{self, Tx, file_ref};
use quarry_common::ids::{Ino, WindowIndex};
use quarry_common::limits::{CHUNK_SIZE, FILE_SIZE_MAX, SLICES_MAX};
use quarry_common::slices::{self, WINDOW};
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{MutationReply, Slice};
use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes that one command copies at most: 32 windows, well under a millisecond of work.
const BYTES_MAX: u64 = 64 << 20;

/// What to copy.
pub(crate) struct Copy {
    pub(crate) from: Ino,
    pub(crate) from_offset: u64,
    pub(crate) to: Ino,
    pub(crate) to_offset: u64,
    pub(crate) length: u64,
}

pub(crate) fn copy_range(tx: &mut Tx<'_>, copy: &Copy, kill_suidgid: bool) -> OpResult<MutationReply> {
    let source = tx::file(tx.store, copy.from)?;
    let mut target = tx::file(tx.store, copy.to)?;
    let length = check(copy, file_ref(&source))?;
    let default = tx.store.meta.default_replication;
    // The copy must be as safe as the target's policy asks for: chunks of another policy have to be copied.
    if source.replication().unwrap_or(default) != target.replication().unwrap_or(default) {
        return Err(FsError::NotSupported.into());
    }
    let (changes, copied) = plan(tx.store, copy, (file_ref(&source), file_ref(&target)), length)?;
    if copied == 0 {
        return Ok(MutationReply::Copied { bytes: 0, attr: target.attr(copy.to) });
    }

    windows::apply(tx, &mut target, &changes, &BTreeMap::new())?;
    let size = file_ref(&target).size.max(copy.to_offset + copied);
    windows::set_size(tx, &mut target, size);
    if kill_suidgid {
        tx::kill_suidgid(&mut target);
    }
    xattr::drop_capability(tx, copy.to, &mut target)?;
    target.mtime = tx.now;
    target.ctime = tx.now;
    tx.save(copy.to, &mut target);
    Ok(MutationReply::Copied { bytes: copied, attr: target.attr(copy.to) })
}

/// How much to copy, if the request may be carried out.
fn check(copy: &Copy, source: &FileContent) -> Result<u64, FsError> {
    let wanted = copy.length.min(source.size.saturating_sub(copy.from_offset));
    let overlaps = copy.from == copy.to && copy.from_offset.abs_diff(copy.to_offset) < wanted;
    if overlaps {
        return Err(FsError::Invalid);
    }
    if wanted > 0 && copy.to_offset >= FILE_SIZE_MAX {
        return Err(FsError::FileTooLarge);
    }
    Ok(wanted.min(FILE_SIZE_MAX.saturating_sub(copy.to_offset)).min(BYTES_MAX))
}

/// The target's windows afterwards, and the bytes that they take: fewer than wanted where a window would get too
/// many slices.
fn plan(
    store: &Store,
    copy: &Copy,
    (source, target): (&FileContent, &FileContent),
    length: u64,
) -> Result<(Vec<Change>, u64), OpError> {
    let mut changes = Vec::new();
    let mut copied = 0;
    while copied < length {
        let at = copy.to_offset + copied;
        let index = WindowIndex(at / CHUNK_SIZE);
        let bytes = (length - copied).min(CHUNK_SIZE - at % CHUNK_SIZE);
        let from = copy.from_offset + copied;
        let pieces = pieces(store, source, from..from + bytes, (at % CHUNK_SIZE) as u32)?;
        let Loaded { stored, record, .. } = windows::load(store, target, index)?;
        let mut new = record.slices;
        let start = (at % CHUNK_SIZE) as u32;
        slices::punch(&mut new, start..start + bytes as u32);
        new.extend(pieces);
        let change = Change::new(index, stored, new);
        if change.new.len() > SLICES_MAX {
            break;
        }
        changes.push(change);
        copied += bytes;
    }
    // The caller can still copy the bytes themselves.
    if copied == 0 && length > 0 { Err(FsError::NotSupported.into()) } else { Ok((changes, copied)) }
}

/// What the source shows in a range of at most a window, moved to `position` of a target window.
fn pieces(
    store: &Store,
    file: &FileContent,
    bytes: Range<u64>,
    position: u32,
) -> Result<Vec<Slice>, OpError> {
    let mut moved = Vec::new();
    let first = WindowIndex(bytes.start / CHUNK_SIZE);
    let end = WindowIndex(bytes.end.div_ceil(CHUNK_SIZE));
    for Loaded { index, record, .. } in windows::range(store, file, first, end, 2)? {
        let wanted = windows::within(index, &bytes);
        for piece in slices::visible(&record.slices) {
            let have = slices::range(&piece);
            let overlap = have.start.max(wanted.start)..have.end.min(wanted.end);
            if overlap.is_empty() {
                continue;
            }
            let mut part = slices::part(&piece, overlap);
            let in_file = index.0 * CHUNK_SIZE + u64::from(part.position);
            part.position = position + (in_file - bytes.start) as u32;
            debug_assert!(part.position + part.length <= WINDOW);
            moved.push(part);
        }
    }
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Bench;
    use quarry_common::wire::error::ServiceError;
    use quarry_common::wire::fs::{Attr, Mutation, SetXattrMode};

    fn call(bench: &mut Bench, copy: &Copy) -> Result<(u64, Attr), FsError> {
        let Copy { from, from_offset, to, to_offset, length } = *copy;
        match bench.mutate(Mutation::CopyRange {
            from,
            from_offset,
            to,
            to_offset,
            length,
            kill_suidgid: false,
        }) {
            Ok(MutationReply::Copied { bytes, attr }) => Ok((bytes, attr)),
            Err(ServiceError::Fs(e)) => Err(e),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_whole_file_is_copied_by_reference_in_steps() {
        let mut bench = Bench::new();
        let (from, to) = (bench.file(Ino::ROOT, "f"), bench.file(Ino::ROOT, "t"));
        let windows = BYTES_MAX / CHUNK_SIZE + 2;
        for window in 0..windows {
            bench.write(from, window * CHUNK_SIZE, CHUNK_SIZE as u32).expect("written");
        }
        let mut copy = Copy { from, from_offset: 0, to, to_offset: 0, length: u64::MAX };
        assert_eq!(call(&mut bench, &copy).map(|c| c.0), Ok(BYTES_MAX));
        (copy.from_offset, copy.to_offset) = (BYTES_MAX, BYTES_MAX);
        let (bytes, attr) = call(&mut bench, &copy).expect("copied");
        assert_eq!(
            (bytes, attr.size, attr.allocated),
            (2 * CHUNK_SIZE, windows * CHUNK_SIZE, windows * CHUNK_SIZE)
        );
        assert_eq!(bench.state.usage().chunks, windows);
        let slices = |ino| bench.windows(ino).into_iter().map(|w| w.slices).collect::<Vec<_>>();
        assert_eq!(slices(from), slices(to));
        copy.from_offset = windows * CHUNK_SIZE;
        assert_eq!(call(&mut bench, &copy).map(|c| c.0), Ok(0));
        bench.unlink(Ino::ROOT, "f").expect("unlinked");
        bench.apply(crate::command::Body::Reap { inos: vec![from] });
        assert_eq!(bench.state.usage().chunks, windows);
        bench.check();
    }

    #[test]
    fn ranges_must_not_overlap_and_policies_must_agree() {
        let mut bench = Bench::new();
        let from = bench.file(Ino::ROOT, "f");
        bench.write(from, 0, 1000).expect("written");
        let overlapping = Copy { from, from_offset: 0, to: from, to_offset: 999, length: 1000 };
        assert_eq!(call(&mut bench, &overlapping), Err(FsError::Invalid));
        let (bytes, attr) = call(&mut bench, &Copy { to_offset: 1000, ..overlapping }).expect("copied");
        assert_eq!((bytes, attr.allocated), (1000, 2000));
        let beyond = Copy { to_offset: FILE_SIZE_MAX, ..overlapping };
        assert_eq!(call(&mut bench, &beyond), Err(FsError::FileTooLarge));

        let dir = bench.dir(Ino::ROOT, "d");
        let (name, value) = (b"trusted.quarry.replication"[..].into(), b"2"[..].into());
        bench.attr_of(Mutation::SetXattr { ino: dir, name, value, mode: SetXattrMode::Either }).expect("set");
        let to = bench.file(dir, "t");
        let other = Copy { from, from_offset: 0, to, to_offset: 0, length: 10 };
        assert_eq!(call(&mut bench, &other), Err(FsError::NotSupported));
        bench.check();
    }
}

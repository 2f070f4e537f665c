//! Bringing written data into a file: all of a commit or nothing of it.

use super::OpResult;
use super::windows::{self, Change, Loaded};
use super::xattr;
use crate::chunks;
use crate::error::OpError;
use crate::records::FileContent;
use crate::store::Store;
use crate::tables::ChunkKey;
use crate::tx::{self, Tx, file_ref};
use quarry_common::ids::{ChunkId, WindowIndex};
use quarry_common::limits::{CHUNK_SIZE, COMMIT_SLICES_MAX, FILE_SIZE_MAX, SLICES_MAX};
use quarry_common::slices;
use quarry_common::wire::error::{FsError, ServiceError};
use quarry_common::wire::fs::{ChunkInfo, Commit, MutationReply, Slice};
use std::collections::BTreeMap;

pub(crate) fn commit(tx: &mut Tx<'_>, commit: &Commit) -> OpResult<MutationReply> {
    let mut inode = tx::file(tx.store, commit.ino)?;
    let size = file_ref(&inode).size.max(commit.size_at_least);
    check_shape(commit, size)?;
    let new_chunks = chunks::admit(tx.store, &commit.chunks)??;
    let changes = check_windows(tx.store, file_ref(&inode), commit, &new_chunks)?;

    windows::apply(tx, &mut inode, &changes, &new_chunks)?;
    windows::set_size(tx, &mut inode, size);
    if commit.kill_suidgid {
        tx::kill_suidgid(&mut inode);
    }
    xattr::drop_capability(tx, commit.ino, &mut inode)?;
    if let Some(mtime) = commit.mtime {
        inode.mtime = mtime;
        // The time of this commit would be one that no program has caused: the client has shown the later of the two already.
        inode.ctime = inode.ctime.max(mtime);
    }
    tx.save(commit.ino, &mut inode);
    let version = file_ref(&inode).layout;
    let report = |c: &Change| match c.new.len() {
        0 => (c.index, 0, 0),
        count => (c.index, version, count as u32),
    };
    Ok(MutationReply::Committed {
        attr: inode.attr(commit.ino),
        windows: changes.iter().map(report).collect(),
    })
}

/// What can be told without the tables.
fn check_shape(commit: &Commit, size: u64) -> Result<(), OpError> {
    if size > FILE_SIZE_MAX {
        return Err(FsError::FileTooLarge.into());
    }
    let count: usize = commit.windows.iter().map(|w| w.slices.len()).sum();
    if count > COMMIT_SLICES_MAX
        || commit.windows.len() > COMMIT_SLICES_MAX
        || commit.chunks.len() > COMMIT_SLICES_MAX
    {
        return Err(bad(format!("a commit may have {COMMIT_SLICES_MAX} slices, windows and chunks")));
    }
    for chunk in &commit.chunks {
        if chunk.info.length == 0 || u64::from(chunk.info.length) > CHUNK_SIZE {
            return Err(bad(format!("chunk {} of {} bytes", chunk.info.id, chunk.info.length)));
        }
    }
    for window in &commit.windows {
        for slice in &window.slices {
            let fits = slices::is_sound(slice) && window.index < windows::END;
            let end = |s: &Slice| window.index.0 * CHUNK_SIZE + u64::from(s.position + s.length);
            if !fits || (slice.chunk.is_some() && end(slice) > size) {
                return Err(bad(format!("window {} of a file of {size} bytes: {slice:?}", window.index)));
            }
        }
    }
    Ok(())
}

/// Checks the slices against what is there, and makes the new lists.
fn check_windows(
    store: &Store,
    file: &FileContent,
    commit: &Commit,
    new_chunks: &BTreeMap<ChunkId, ChunkInfo>,
) -> Result<Vec<Change>, OpError> {
    let mut old: BTreeMap<WindowIndex, Loaded> = BTreeMap::new();
    for window in &commit.windows {
        let loaded = windows::load(store, file, window.index)?;
        if window.replaces.is_some_and(|version| version != loaded.record.version) {
            return Err(ServiceError::WindowChanged.into());
        }
        if old.insert(window.index, loaded).is_some() {
            return Err(bad(format!("window {} comes twice", window.index)));
        }
    }
    let mut lengths: BTreeMap<ChunkId, u32> =
        new_chunks.iter().map(|(id, info)| (*id, info.length)).collect();
    for id in old.values().flat_map(|w| &w.record.slices).filter_map(|s| s.chunk) {
        if let std::collections::btree_map::Entry::Vacant(vacant) = lengths.entry(id) {
            vacant.insert(store.expect(&ChunkKey(id))?.length);
        }
    }
    let mut changes = Vec::with_capacity(commit.windows.len());
    for window in &commit.windows {
        if let Some(slice) = window.slices.iter().find(|s| !within_chunk(s, &lengths)) {
            return Err(bad(format!(
                "window {}: {slice:?} is not within a chunk of this file",
                window.index
            )));
        }
        let Loaded { stored, record, .. } = old.remove(&window.index).expect("loaded above");
        let mut list = if window.replaces.is_some() { Vec::new() } else { record.slices };
        list.extend_from_slice(&window.slices);
        let change = Change::new(window.index, stored, list);
        if change.new.len() > SLICES_MAX {
            return Err(FsError::Invalid.into());
        }
        changes.push(change);
    }
    Ok(changes)
}

fn within_chunk(slice: &Slice, lengths: &BTreeMap<ChunkId, u32>) -> bool {
    match slice.chunk {
        None => slice.chunk_offset == 0,
        Some(id) => lengths.get(&id).is_some_and(|length| slice.chunk_offset + slice.length <= *length),
    }
}

fn bad(what: String) -> OpError {
    ServiceError::BadRequest(what).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Body, Effect, Outcome};
    use crate::testing::{Bench, PG, group_change};
    use quarry_common::ids::{Ino, NodeId, PgId};
    use quarry_common::wire::cluster::MemberState;
    use quarry_common::wire::fs::{Mutation, Timestamp};

    fn commit(bench: &mut Bench, commit: Commit) -> Result<Vec<(WindowIndex, u64, u32)>, ServiceError> {
        match bench.mutate(Mutation::Commit(commit)) {
            Ok(MutationReply::Committed { windows, .. }) => Ok(windows),
            Ok(other) => panic!("{other:?}"),
            Err(e) => Err(e),
        }
    }

    fn is_rewrite(result: Result<Vec<(WindowIndex, u64, u32)>, ServiceError>) -> bool {
        matches!(result, Err(ServiceError::RewriteChunk { .. }))
    }

    #[test]
    fn data_come_in_and_whole_windows_replace() {
        let mut bench = Bench::new();
        let file = bench.file(Ino::ROOT, "f");
        let attr = bench.write(file, 100, 50).expect("written");
        assert_eq!((attr.size, attr.allocated), (150, 50));
        assert_eq!((attr.mtime, attr.ctime), (Timestamp(bench.time - 1), Timestamp(bench.time - 1)));
        bench.write(file, 120, 100).expect("written");
        assert_eq!(bench.attr(file).allocated, 120);
        bench.write(file, 0, CHUNK_SIZE as u32).expect("written");
        assert!(bench.effects.contains(&Effect::DeleteChunks));
        let windows = bench.windows(file);
        assert_eq!((windows.len(), windows[0].slices.len()), (1, 1));
        assert_eq!(bench.state.usage().chunks, 1);
        assert_eq!(bench.state.delete_queue(10).expect("sound").len(), 2);
        bench.check();
    }

    #[test]
    fn a_late_commit_leaves_the_ctime_of_a_later_change() {
        let mut bench = Bench::new();
        let file = bench.file(Ino::ROOT, "f");
        let late = bench.write_commit(file, 0, 10);
        let link = Mutation::Link { ino: file, parent: Ino::ROOT, name: b"g"[..].into() };
        let linked = bench.attr_of(link).expect("linked").ctime;
        assert!(late.mtime < Some(linked));
        commit(&mut bench, late).expect("committed");
        assert_eq!(bench.attr(file).ctime, linked);
        bench.check();
    }

    #[test]
    fn a_merge_names_the_version_it_read() {
        let mut bench = Bench::new();
        let file = bench.file(Ino::ROOT, "f");
        bench.write(file, 0, 10).expect("written");
        bench.write(file, 5, 10).expect("written");
        let old = bench.windows(file).remove(0);
        let mut merge = bench.write_commit(file, 0, 15);
        merge.mtime = None;
        merge.windows[0].replaces = Some(old.version - 1);
        assert_eq!(commit(&mut bench, merge.clone()), Err(ServiceError::WindowChanged));
        merge.windows[0].replaces = Some(old.version);
        let before = bench.attr(file);
        assert_eq!(commit(&mut bench, merge), Ok(vec![(WindowIndex(0), old.version + 1, 1)]));
        let after = bench.attr(file);
        assert_eq!((after.mtime, after.ctime, after.allocated), (before.mtime, before.ctime, 15));
        assert_eq!(bench.state.usage().chunks, 1);
        bench.check();
    }

    #[test]
    fn every_writer_of_the_group_must_hold_the_chunk() {
        let mut bench = Bench::new();
        let file = bench.file(Ino::ROOT, "f");
        let mut short = bench.write_commit(file, 0, 10);
        short.chunks[0].holders.pop();
        assert!(is_rewrite(commit(&mut bench, short.clone())));
        assert_eq!(bench.windows(file), []);
        let members = [(1, MemberState::Serving), (2, MemberState::Serving), (3, MemberState::Stale)];
        assert_eq!(bench.apply(Body::ChangeGroups(vec![group_change(1, &members)])), Outcome::Done);
        assert!(commit(&mut bench, short).is_ok());
        bench.check();
    }

    #[test]
    fn ids_that_may_not_come_are_written_again() {
        let mut bench = Bench::new();
        let file = bench.file(Ino::ROOT, "f");
        let first = bench.write_commit(file, 0, 10);
        assert!(commit(&mut bench, first.clone()).is_ok());
        assert!(commit(&mut bench, first.clone()).is_ok(), "the same chunk again is the same data");
        let mut other = first.clone();
        other.chunks[0].info.sha256 = [9; 32];
        assert!(is_rewrite(commit(&mut bench, other)));
        let mut unknown = first.clone();
        unknown.chunks[0].info.id = ChunkId::new(PgId(7), 1);
        assert!(is_rewrite(commit(&mut bench, unknown)));

        // Released: its data may be gone from the DataNodes before a late commit arrives.
        bench.write(file, 0, 10).expect("written");
        assert!(is_rewrite(commit(&mut bench, first.clone())));
        let entries = bench.state.delete_queue(10).expect("sound");
        assert_eq!(entries.len(), 1);
        assert_eq!(bench.apply(Body::ChunksDeleted { entries }), Outcome::Done);
        assert!(is_rewrite(commit(&mut bench, first.clone())));
        assert_eq!(bench.state.delete_queue(10).expect("sound"), []);

        let late = bench.write_commit(file, 0, 10);
        let sequence = late.chunks[0].info.id.sequence() + 1;
        assert_eq!(bench.apply(Body::RaiseFloor { pg: PG, sequence }), Outcome::Done);
        assert!(is_rewrite(commit(&mut bench, late)));
        assert!(is_rewrite(commit(&mut bench, first)));
        bench.write(file, 0, 10).expect("ids above the floor come in");
        bench.check();
    }

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let mut bench = Bench::new();
        let (file, other) = (bench.file(Ino::ROOT, "f"), bench.file(Ino::ROOT, "g"));
        bench.write(other, 0, 10).expect("written");
        let foreign = bench.windows(other)[0].slices[0];
        let good = bench.write_commit(file, 0, 10);
        let spoil = |f: &dyn Fn(&mut Commit)| {
            let mut commit = good.clone();
            f(&mut commit);
            commit
        };
        let bad = [
            spoil(&|c| c.windows[0].slices[0].length = 11),
            spoil(&|c| c.windows[0].slices[0].length = 0),
            spoil(&|c| c.windows[0].slices[0].position = CHUNK_SIZE as u32 - 5),
            spoil(&|c| c.windows[0].slices[0] = foreign),
            spoil(&|c| c.size_at_least = 9),
            spoil(&|c| c.windows.push(c.windows[0].clone())),
            spoil(&|c| c.windows[0].index = WindowIndex(u64::MAX)),
            spoil(&|c| c.chunks[0].info.length = 0),
        ];
        for commit_ in bad {
            let result = commit(&mut bench, commit_);
            assert!(matches!(result, Err(ServiceError::BadRequest(_))), "{result:?}");
        }
        let result = commit(&mut bench, spoil(&|c| c.size_at_least = FILE_SIZE_MAX + 1));
        assert_eq!(result, Err(FsError::FileTooLarge.into()));
        let dir = bench.dir(Ino::ROOT, "d");
        assert_eq!(commit(&mut bench, spoil(&|c| c.ino = dir)), Err(FsError::IsDir.into()));
        assert_eq!(bench.state.usage().chunks, 1);
        assert!(commit(&mut bench, good).is_ok());
        bench.check();
    }

    #[test]
    fn windows_have_a_limit_of_slices() {
        let mut bench = Bench::new();
        let file = bench.file(Ino::ROOT, "f");
        for i in 0..SLICES_MAX as u64 {
            bench.write(file, i * 100, 10).expect("written");
        }
        let more = bench.write_commit(file, 50, 10);
        assert_eq!(commit(&mut bench, more), Err(FsError::Invalid.into()));
        bench.check();
    }

    #[test]
    fn one_chunk_may_serve_many_windows() {
        let mut bench = Bench::new();
        let file = bench.file(Ino::ROOT, "f");
        let mut packed = bench.write_commit(file, 0, 30);
        packed.chunks[0].holders.push(NodeId(9));
        packed.windows[0].slices[0].length = 10;
        let mut second = packed.windows[0].clone();
        second.index = WindowIndex(5);
        second.slices[0].chunk_offset = 10;
        packed.windows.push(second);
        packed.size_at_least = 5 * CHUNK_SIZE + 10;
        assert_eq!(commit(&mut bench, packed).map(|w| w.len()), Ok(2));
        let id = bench.windows(file)[0].slices[0].chunk.expect("data");
        assert_eq!(bench.state.chunk(id).expect("sound").map(|c| c.refs), Some(2));
        bench.check();
    }

    #[test]
    fn a_jump_of_the_wall_clock_moves_nothing_that_is_due() {
        let mut bench = Bench::new();
        let file = bench.file(Ino::ROOT, "f");
        let begun = bench.state.meta().clock;
        for time in [1_000, i128::from(i64::MAX), 2_000, -5] {
            bench.time = time;
            bench.write(file, 0, CHUNK_SIZE as u32).expect("written");
        }
        let queue = bench.state.delete_queue(10).expect("sound");
        let ids: Vec<_> = queue.iter().map(|(_, id)| id.sequence()).collect();
        assert_eq!(ids, [0, 1, 2], "in the order in which they were released");
        assert!(
            queue.iter().all(|(since, _)| (begun..=bench.state.meta().clock).contains(since)),
            "{queue:?}"
        );
        bench.check();
    }
}

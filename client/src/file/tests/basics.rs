//! What one program sees, and what reaches the cluster.

use super::cluster::{Cluster, Faults, Mount, pattern, read, small};
use crate::file::FilesConfig;
use bytes::Bytes;
use quarry_common::limits::{CHUNK_SIZE, SLICES_MAX};
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{FallocateMode, SetAttr, SetTime, Timestamp};
use std::sync::atomic::Ordering;

fn mount(config: FilesConfig) -> Mount {
    Mount::new(&Cluster::new(1, Faults::default()), config)
}

#[tokio::test]
async fn a_write_is_seen_at_once_and_committed_by_flush() {
    let mount = mount(FilesConfig::default());
    let ino = mount.cluster.create("a").ino;
    let (one, two) = (mount.open(ino), mount.open(ino));
    assert_eq!(one.write(10, Bytes::from_static(b"hello"), false).await, Ok(5));
    assert_eq!(two.read(8, 100).await.unwrap().as_ref(), b"\0\0hello");
    assert_eq!(mount.stat(ino).size, 15);
    assert_eq!(mount.cluster.attr(ino).size, 0);
    one.flush().await.unwrap();
    assert_eq!(mount.cluster.attr(ino).size, 15);
    assert_eq!(two.read(0, 100).await.unwrap().as_ref(), b"\0\0\0\0\0\0\0\0\0\0hello");
    assert!(two.read(15, 10).await.unwrap().is_empty());
    assert_eq!(mount.files.shared.budget.used(), 0);
    drop((one, two));
    assert!(mount.files.inos().is_empty());
    assert_eq!(mount.closed.lock().unwrap()[&ino], 2);
}

#[tokio::test]
async fn sequential_writes_become_whole_chunks() {
    let mount = mount(FilesConfig::default());
    let ino = mount.cluster.create("a").ino;
    let file = mount.open(ino);
    let data = pattern(1, 9 << 20);
    for piece in 0..9 {
        file.write(piece << 20, data.slice((piece as usize) << 20..(piece as usize + 1) << 20), false)
            .await
            .unwrap();
    }
    file.flush().await.unwrap();
    let layout = mount.cluster.layout(ino);
    assert_eq!(layout.len(), 5);
    assert!(layout.iter().all(|w| w.slices.len() == 1));
    let before = mount.cluster.layouts.load(Ordering::Relaxed);
    assert_eq!(read(&file, 0, 10 << 20).await.unwrap(), data);
    assert_eq!(mount.cluster.layouts.load(Ordering::Relaxed), before, "the writer knows the layout");
    assert_eq!(mount.cluster.gets.load(Ordering::Relaxed), 0, "and has the data");
}

#[tokio::test]
async fn small_writes_share_a_chunk() {
    let mount = mount(FilesConfig::default());
    let ino = mount.cluster.create("a").ino;
    let file = mount.open(ino);
    for window in 0..100 {
        file.write(window * CHUNK_SIZE + 77, pattern(window, 1000), false).await.unwrap();
    }
    file.flush().await.unwrap();
    let chunks: std::collections::HashSet<_> =
        mount.cluster.layout(ino).iter().flat_map(|w| w.slices.clone()).map(|s| s.chunk).collect();
    assert_eq!(chunks.len(), 1);
    assert_eq!(mount.cluster.commits.load(Ordering::Relaxed), 1);
    for window in 0..100 {
        assert_eq!(read(&file, window * CHUNK_SIZE + 77, 1000).await.unwrap(), pattern(window, 1000));
    }
}

#[tokio::test]
async fn long_slice_lists_are_merged() {
    let mount = mount(small());
    let ino = mount.cluster.create("a").ino;
    let file = mount.open(ino);
    let mut model = vec![0; 500_000];
    for i in 0..200u64 {
        let at = (i * 37_337) % 490_000;
        let data = pattern(i, 1 + (i as usize * 97) % 9000);
        model[at as usize..at as usize + data.len()].copy_from_slice(&data);
        file.write(at, data, false).await.unwrap();
        file.flush().await.unwrap();
        assert!(mount.cluster.layout(ino)[0].slices.len() <= SLICES_MAX / 2);
    }
    model.truncate(mount.stat(ino).size as usize);
    assert_eq!(read(&file, 0, 500_000).await.unwrap(), model);
    // A mount that comes and goes does not know how many slices there are.
    drop(file);
    for i in 0..600u64 {
        let file = mount.open(ino);
        let at = (i * 3331) % 480_000;
        model[at as usize..at as usize + 10].copy_from_slice(&pattern(i, 10));
        file.write(at, pattern(i, 10), false).await.unwrap();
        file.flush().await.unwrap();
    }
    assert_eq!(read(&mount.open(ino), 0, 500_000).await.unwrap(), model);
}

#[tokio::test]
async fn fsync_reaches_the_disks_also_for_what_others_flushed() {
    let mount = mount(small());
    let ino = mount.cluster.create("a").ino;
    let file = mount.open(ino);
    file.write(0, pattern(1, 5 << 20), false).await.unwrap();
    file.flush().await.unwrap();
    assert!(mount.cluster.volatile_chunks(ino) > 0);
    drop(file);
    let other = mount.open(ino);
    other.write(100, pattern(2, 100), false).await.unwrap();
    other.fsync().await.unwrap();
    assert_eq!(mount.cluster.volatile_chunks(ino), 0);
}

#[tokio::test]
async fn times_and_modes_that_are_set_stay() {
    let mount = mount(small());
    let ino = mount.cluster.create("a").ino;
    let file = mount.open(ino);
    file.write(0, pattern(1, 100), true).await.unwrap();
    assert!(mount.stat(ino).mtime > Timestamp(1_000_000_000));
    let set = SetAttr { mode: Some(0o6755), mtime: Some(SetTime::At(Timestamp(5))), ..SetAttr::default() };
    mount.files.setattr(ino, set, true).await.unwrap();
    file.flush().await.unwrap();
    let attr = mount.cluster.attr(ino);
    assert_eq!((attr.mtime, attr.mode, attr.size), (Timestamp(5), 0o6755, 100));
    assert_eq!(mount.stat(ino), attr);
    file.write(5, pattern(1, 1), true).await.unwrap();
    assert_eq!(mount.stat(ino).mode, 0o755);
    file.flush().await.unwrap();
    assert_eq!(mount.cluster.attr(ino).mode, 0o755);
    assert_eq!(mount.stat(ino).mode, 0o755);
}

#[tokio::test]
async fn a_truncated_tail_does_not_come_back() {
    let mount = mount(small());
    let ino = mount.cluster.create("a").ino;
    let file = mount.open(ino);
    file.write(0, pattern(1, 3 << 20), false).await.unwrap();
    for size in [1000, 3 << 20] {
        let attr =
            mount.files.setattr(ino, SetAttr { size: Some(size), ..SetAttr::default() }, true).await.unwrap();
        assert_eq!(attr.size, size);
    }
    let bytes = read(&file, 0, 3 << 20).await.unwrap();
    assert_eq!(bytes[..1000], pattern(1, 1000));
    assert!(bytes[1000..].iter().all(|b| *b == 0));
    assert_eq!(bytes.len(), 3 << 20);
}

#[tokio::test]
async fn data_and_holes_are_found_in_very_sparse_files() {
    let mount = mount(small());
    let ino = mount.cluster.create("a").ino;
    let file = mount.open(ino);
    let far = 1u64 << 50;
    file.write(far, pattern(1, 100), false).await.unwrap();
    assert_eq!(file.seek_data(0).await, Ok(far));
    file.flush().await.unwrap();
    let file = mount.open(ino);
    assert_eq!(file.seek_data(0).await, Ok(far));
    assert_eq!(file.seek_hole(0).await, Ok(0));
    assert_eq!(file.seek_data(far + 50).await, Ok(far + 50));
    assert_eq!(file.seek_hole(far + 50).await, Ok(far + 100));
    assert_eq!(file.seek_data(far + 100).await, Err(FsError::NoSuchOffset));
    assert_eq!(file.seek_hole(far + 100).await, Err(FsError::NoSuchOffset));
    file.write(5 * CHUNK_SIZE, pattern(1, 10), false).await.unwrap();
    assert_eq!(file.seek_data(1).await, Ok(5 * CHUNK_SIZE));
    file.fallocate(FallocateMode::PunchHole, 0, far + 100, false).await.unwrap();
    assert_eq!(file.seek_data(0).await, Err(FsError::NoSuchOffset));
    file.write(0, pattern(1, 3 << 20), false).await.unwrap();
    assert_eq!(file.seek_hole(5).await, Ok(3 << 20));
}

#[tokio::test]
async fn limits_are_kept() {
    let mount = mount(small());
    let ino = mount.cluster.create("a").ino;
    let file = mount.open(ino);
    let end = i64::MAX as u64;
    assert_eq!(file.write(end, Bytes::from_static(b"x"), false).await, Err(FsError::FileTooLarge));
    assert_eq!(file.write(u64::MAX, Bytes::from_static(b"x"), false).await, Err(FsError::FileTooLarge));
    assert_eq!(file.write(end - 1, Bytes::from_static(b"x"), false).await, Ok(1));
    file.fsync().await.unwrap();
    assert_eq!(mount.cluster.attr(ino).size, end);
    assert_eq!(file.read(end - 2, 100).await.unwrap().as_ref(), b"\0x");
    assert!(file.read(u64::MAX, 100).await.unwrap().is_empty());
    assert_eq!(file.append(Bytes::from_static(b"y"), false).await, Err(FsError::FileTooLarge));
    assert_eq!(mount.files.shared.budget.used(), 0);
}

#[tokio::test]
async fn another_mount_sees_it_after_close_and_open() {
    let cluster = Cluster::new(3, Faults::default());
    let (a, b) = (Mount::new(&cluster, small()), Mount::new(&cluster, small()));
    let ino = cluster.create("a").ino;
    let (mine, theirs) = (a.open(ino), b.open(ino));
    for round in 0..20 {
        let data = pattern(round, 100_000);
        mine.write(round * 1000, data.clone(), false).await.unwrap();
        mine.flush().await.unwrap();
        let reopened = b.open(ino);
        assert_eq!(read(&reopened, round * 1000, 100_000).await.unwrap(), data);
        theirs.write(round * 1000 + 5, pattern(99, 10), false).await.unwrap();
        theirs.flush().await.unwrap();
        drop(a.open(ino));
        assert_eq!(read(&mine, round * 1000 + 5, 10).await.unwrap(), pattern(99, 10));
    }
}

#[tokio::test]
async fn an_unlinked_file_lives_until_its_data_is_committed() {
    let mount = mount(small());
    let ino = mount.cluster.create("a").ino;
    let file = mount.open(ino);
    mount.cluster.change(quarry_common::wire::fs::Mutation::Unlink {
        parent: quarry_common::ids::Ino::ROOT,
        name: b"a".as_slice().into(),
    });
    file.write(0, pattern(1, 100), false).await.unwrap();
    assert_eq!(read(&file, 0, 1000).await.unwrap(), pattern(1, 100));
    drop(file);
    assert!(mount.closed.lock().unwrap().is_empty());
    mount.files.flush_all().await;
    assert_eq!(mount.closed.lock().unwrap()[&ino], 1);
    assert!(mount.files.inos().is_empty());
}

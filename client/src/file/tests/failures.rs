//! Errors reach every handle once, and nothing hangs or leaks.

use super::cluster::{Cluster, Faults, Mount, READ_WRITE, pattern, read, small};
use crate::file::{FilesConfig, OpenMode};
use quarry_common::wire::error::FsError;
use std::sync::atomic::Ordering;
use std::time::Duration;

#[tokio::test]
async fn a_full_cluster_is_reported_to_every_handle_and_frees_the_buffer() {
    let cluster = Cluster::new(1, Faults::default());
    let mount = Mount::new(&cluster, small());
    let ino = cluster.create("a").ino;
    let (writer, other) = (mount.open(ino), mount.open(ino));
    writer.write(0, pattern(1, 1000), false).await.unwrap();
    writer.flush().await.unwrap();
    cluster.full.store(true, Ordering::Relaxed);
    writer.write(500, pattern(2, 1000), false).await.unwrap();
    assert_eq!(writer.fsync().await, Err(FsError::NoSpace));
    assert_eq!(writer.fsync().await, Ok(()));
    assert_eq!(other.flush().await, Err(FsError::NoSpace));
    assert_eq!(other.flush().await, Ok(()));
    assert_eq!(mount.files.shared.budget.used(), 0);
    assert_eq!(read(&writer, 0, 2000).await.unwrap(), pattern(1, 1000));
    assert_eq!(mount.stat(ino).size, 1000);

    // A writer that does not stop learns it from write itself, however small the buffer is.
    let mut failed = false;
    for i in 0..100 {
        failed |= writer.write(i << 20, pattern(i, 1 << 20), false).await == Err(FsError::NoSpace);
    }
    assert!(failed);
    cluster.full.store(false, Ordering::Relaxed);
    let _ = writer.flush().await;
    writer.write(0, pattern(3, 1000), false).await.unwrap();
    assert_eq!(writer.fsync().await, Ok(()));
    assert_eq!(read(&writer, 0, 1000).await.unwrap(), pattern(3, 1000));
    assert_eq!(mount.files.shared.budget.used(), 0);
}

#[tokio::test]
async fn an_error_that_nobody_saw_waits_for_the_next_opener() {
    let cluster = Cluster::new(1, Faults::default());
    let mount = Mount::new(&cluster, small());
    let ino = cluster.create("a").ino;
    let keeps_it_alive = mount.open(ino);
    let writer = mount.open(ino);
    cluster.broken.store(true, Ordering::Relaxed);
    writer.write(0, pattern(1, 1000), false).await.unwrap();
    drop(writer);
    mount.files.flush_all().await;
    let next = mount.open(ino);
    assert_eq!(next.flush().await, Err(FsError::Stale));
    assert_eq!(keeps_it_alive.fsync().await, Err(FsError::Stale));
    assert_eq!(mount.open(ino).flush().await, Ok(()));

    // Also when no handle was left that could remember it.
    drop((next, keeps_it_alive));
    let writer = mount.open(ino);
    writer.write(0, pattern(2, 1000), false).await.unwrap();
    drop(writer);
    mount.files.flush_all().await;
    while !mount.files.inos().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(mount.open(ino).flush().await, Err(FsError::Stale));
    assert_eq!(mount.open(ino).flush().await, Ok(()));
}

#[tokio::test]
async fn chunks_that_must_be_written_again_are() {
    let faults = Faults { rewrite: 50, window_changed: 50, gone: 20 };
    let cluster = Cluster::new(7, faults);
    let mount = Mount::new(&cluster, small());
    let ino = cluster.create("a").ino;
    let file = mount.open(ino);
    let mut model = vec![0; 3 << 20];
    for i in 0..60u64 {
        let at = (i * 1_234_567) % (2 << 20);
        let data = pattern(i, 5000);
        model[at as usize..at as usize + 5000].copy_from_slice(&data);
        file.write(at, data, false).await.unwrap();
        if i % 2 == 0 {
            file.flush().await.unwrap();
        }
    }
    file.fsync().await.unwrap();
    assert_eq!(cluster.volatile_chunks(ino), 0);
    cluster.check(ino);
    model.truncate(mount.stat(ino).size as usize);
    // Another mount has nothing in its caches.
    let other = Mount::new(&cluster, small());
    assert_eq!(read(&other.open(ino), 0, 3 << 20).await.unwrap(), model);
}

#[tokio::test]
async fn a_chunk_that_is_lost_is_an_error_not_a_hang() {
    let cluster = Cluster::new(1, Faults { gone: 100, ..Faults::default() });
    let mount = Mount::new(&cluster, small());
    let ino = cluster.create("a").ino;
    let file = mount.open(ino);
    file.write(0, pattern(1, 1000), false).await.unwrap();
    file.flush().await.unwrap();
    let other = Mount::new(&cluster, small());
    assert_eq!(other.open(ino).read(0, 10).await, Err(FsError::Io));
}

/// A merge reads older data. That it cannot must not cost the program what it writes now.
#[tokio::test]
async fn new_data_is_kept_when_the_old_data_of_its_window_cannot_be_read() {
    let cluster = Cluster::new(1, Faults::default());
    let ino = cluster.create("a").ino;
    let mut model = vec![0; 100_000];
    let mut write = async |mount: &Mount, i: u64| {
        let file = mount.open(ino);
        let at = (i * 7919) % 99_000;
        model[at as usize..at as usize + 100].copy_from_slice(&pattern(i, 100));
        file.write(at, pattern(i, 100), false).await.unwrap();
        file.fsync().await
    };
    let first = Mount::new(&cluster, small());
    for i in 0..16 {
        write(&first, i).await.unwrap();
    }
    let second = Mount::new(&cluster, small());
    let keeps_the_layout = second.open(ino);
    keeps_the_layout.seek_hole(0).await.unwrap();
    cluster.set_faults(Faults { gone: 100, ..Faults::default() });
    for i in 16..40 {
        assert_eq!(write(&second, i).await, Ok(()), "write {i}");
    }
    // And when others change the window each time that it is merged.
    cluster.set_faults(Faults { window_changed: 100, ..Faults::default() });
    for i in 40..50 {
        assert_eq!(write(&second, i).await, Ok(()), "write {i}");
    }
    cluster.set_faults(Faults::default());
    model.truncate(cluster.attr(ino).size as usize);
    let third = Mount::new(&cluster, small());
    assert!(read(&third.open(ino), 0, 100_000).await.unwrap() == model);
    assert_eq!(second.files.shared.budget.used(), 0);
}

/// The only copy of a chunk is lost, and a program writes its window anew, a piece at a time.
#[tokio::test]
async fn a_lost_chunk_does_not_keep_its_window_from_being_rewritten() {
    let cluster = Cluster::new(1, Faults::default());
    let ino = cluster.create("a").ino;
    let mount = Mount::new(&cluster, small());
    let file = mount.open(ino);
    file.write(0, pattern(1, 1_000_000), false).await.unwrap();
    file.flush().await.unwrap();
    cluster.power_failure();
    let mount = Mount::new(&cluster, small());
    let file = mount.open(ino);
    assert_eq!(file.read(0, 10).await, Err(FsError::Io));
    let new = pattern(2, 1_000_000);
    for (i, piece) in new.chunks(2000).enumerate() {
        let at = i as u64 * 2000;
        file.write(at, piece.to_vec().into(), false).await.unwrap();
        assert_eq!(file.fsync().await, Ok(()), "at {at}");
        if i == 300 {
            assert_eq!(read(&file, 0, at as usize).await.unwrap(), new[..at as usize]);
            assert_eq!(file.read(at + 50_000, 10).await, Err(FsError::Io), "what is lost is not zeros");
        }
    }
    let other = Mount::new(&cluster, small());
    assert!(read(&other.open(ino), 0, 1_000_000).await.unwrap() == new);
}

#[tokio::test]
async fn a_write_that_the_cluster_has_no_room_for_is_told_so_itself() {
    let cluster = Cluster::new(1, Faults::default());
    let mount = Mount::new(&cluster, small());
    let ino = cluster.create("a").ino;
    let (file, other) = (mount.open(ino), mount.open(ino));
    cluster.free.store(0, Ordering::Relaxed);
    assert_eq!(file.write(0, pattern(1, 1000), false).await, Ok(1000));
    assert_eq!(cluster.attr(ino).size, 1000, "close to the end, a write goes through");
    cluster.full.store(true, Ordering::Relaxed);
    assert_eq!(file.write(1000, pattern(2, 1000), false).await, Err(FsError::NoSpace));
    assert_eq!(file.append(pattern(2, 1000), false).await, Err(FsError::NoSpace));
    assert_eq!(file.fsync().await, Ok(()), "it was told already");
    assert_eq!(other.closing().await, Err(FsError::NoSpace));
    assert_eq!(mount.stat(ino).size, 1000);
    assert_eq!(mount.files.shared.budget.used(), 0);
}

/// The program that wrote it has long been told that it went well.
#[tokio::test]
async fn what_was_buffered_first_gets_the_space_that_is_left() {
    let cluster = Cluster::new(9, Faults::default());
    let (first, second) = (cluster.create("a").ino, cluster.create("b").ino);
    let mount = Mount::new(&cluster, FilesConfig::default());
    let early = mount.open(first);
    early.write(0, pattern(1, 100_000), false).await.unwrap();
    cluster.room.store(150_000, Ordering::Relaxed);
    // What is known of the space is renewed after this time.
    cluster.free.store(0, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let late = mount.open(second);
    let mut told = false;
    for i in 0..3 {
        told |= late.write(i * 100_000, pattern(2, 100_000), false).await == Err(FsError::NoSpace);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(told, "a write without space is told so");
    early.fsync().await.unwrap();
    assert_eq!(cluster.volatile_chunks(first), 0);
}

/// As local file systems do it: a program that reads what is there has lost nothing.
#[tokio::test]
async fn an_error_that_nobody_saw_is_left_to_those_that_write_or_sync() {
    let cluster = Cluster::new(1, Faults::default());
    let mount = Mount::new(&cluster, small());
    let ino = cluster.create("a").ino;
    let writer = mount.open(ino);
    writer.write(0, pattern(1, 1000), false).await.unwrap();
    mount.files.lost(&cluster.break_leases(&[ino]));
    drop(writer);
    let reader = mount.files.open(&cluster.attr(ino), OpenMode { write: false, ..READ_WRITE });
    assert_eq!(read(&reader, 0, 1000).await.as_deref(), Ok(&[][..]));
    assert_eq!(reader.closing().await, Ok(()));
    drop(reader);
    assert_eq!(mount.open(ino).closing().await, Err(FsError::Io));
    assert_eq!(mount.open(ino).closing().await, Ok(()));
}

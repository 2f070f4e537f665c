//! Broken leases and lost locks: what was buffered under them is never written, and every handle learns it once.

use super::cluster::{Cluster, Faults, Mount, pattern, read, small};
use quarry_common::ids::LeaseGeneration;
use quarry_common::limits::CHUNK_SIZE;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{SetAttr, Timestamp};
use quarry_common::wire::session::Losses;

fn mounts() -> (Mount, Mount) {
    let cluster = Cluster::new(1, Faults::default());
    (Mount::new(&cluster, small()), Mount::new(&cluster, small()))
}

/// Whether the break is noticed by a refused commit or told before: bytes, size and mode of the other mount stay.
#[tokio::test]
async fn data_under_a_broken_lease_are_dropped_and_each_handle_learns_it_once() {
    for told in [false, true] {
        let (mine, theirs) = mounts();
        let ino = mine.cluster.create("a").ino;
        let (one, two, other) = (mine.open(ino), mine.open(ino), theirs.open(ino));
        one.write(0, pattern(1, 3000), true).await.unwrap();
        one.write(CHUNK_SIZE, pattern(2, 3000), false).await.unwrap();
        let losses = mine.cluster.break_leases(&[ino]);
        other.write(0, pattern(3, 1000), false).await.unwrap();
        other.fsync().await.unwrap();
        let set = SetAttr { mode: Some(0o4755), ..SetAttr::default() };
        let attr = theirs.files.setattr(ino, set, true).await.unwrap();
        if told {
            mine.files.lost(&losses);
        }
        assert_eq!(one.fsync().await, Err(FsError::Io));
        assert_eq!(two.closing().await, Err(FsError::Io));
        let late = mine.open(ino);
        for handle in [&one, &two, &late] {
            assert_eq!(handle.fsync().await, Ok(()));
        }
        assert_eq!((mine.cluster.attr(ino), mine.stat(ino)), (attr.clone(), attr));
        assert_eq!(read(&one, 0, 9000).await.unwrap(), pattern(3, 1000));
        assert_eq!(mine.files.shared.budget.used(), 0);

        // Under the next lease the file is as any other.
        two.write(10, pattern(4, 10), false).await.unwrap();
        two.fsync().await.unwrap();
        assert_eq!(read(&theirs.open(ino), 10, 10).await.unwrap(), pattern(4, 10));
    }
}

#[tokio::test]
async fn a_write_under_the_next_lease_does_not_bring_along_what_the_last_one_left() {
    let (mine, theirs) = mounts();
    let ino = mine.cluster.create("a").ino;
    let (file, other) = (mine.open(ino), theirs.open(ino));
    file.write(0, pattern(1, 1000), false).await.unwrap();
    mine.cluster.break_leases(&[ino]);
    other.write(0, pattern(2, 1000), false).await.unwrap();
    other.fsync().await.unwrap();
    let told = file.write(500, pattern(3, 10), false).await;
    assert_eq!(told, Err(FsError::Io), "the earlier write is lost; this one is in the buffer");
    assert_eq!(file.fsync().await, Ok(()));
    let mut expected = pattern(2, 1000).to_vec();
    expected[500..510].copy_from_slice(&pattern(3, 10));
    assert_eq!(read(&theirs.open(ino), 0, 2000).await.unwrap(), expected);
}

#[tokio::test]
async fn losses_concern_only_what_they_name() {
    let (mine, _) = mounts();
    let inos = ["a", "b"].map(|name| mine.cluster.create(name).ino);
    let files = inos.map(|ino| mine.open(ino));
    for file in &files {
        file.write(0, pattern(1, 1000), false).await.unwrap();
    }
    let leases = mine.cluster.break_leases(&inos[..1]).leases;
    mine.cluster.lease.store(1, std::sync::atomic::Ordering::Relaxed);
    let losses = Losses { number: 1, leases, ..Losses::default() };
    mine.files.lost(&losses);
    assert_eq!(files[0].fsync().await, Err(FsError::Io));
    assert_eq!(files[1].fsync().await, Ok(()));
    assert_eq!(mine.cluster.attr(inos[1]).size, 1000);
    files[1].write(0, pattern(1, 10), false).await.unwrap();
    mine.files.lost(&Losses { number: 2, below: LeaseGeneration(2), ..Losses::default() });
    assert_eq!(files[1].fsync().await, Err(FsError::Io));
}

#[tokio::test]
async fn pages_of_a_broken_lease_are_dropped_until_the_kernel_has_forgotten_them() {
    let (mine, theirs) = mounts();
    let ino = mine.cluster.create("a").ino;
    let (file, other) = (mine.open(ino), theirs.open(ino));
    other.write(0, pattern(2, 8192), false).await.unwrap();
    other.fsync().await.unwrap();
    let fenced = mine.files.lost(&mine.cluster.break_leases(&[ino]));
    assert_eq!(file.fsync().await, Ok(()), "nothing was buffered");
    assert_eq!(file.write_page(0, pattern(1, 4096), false).await, Err(FsError::Io));
    assert_eq!(file.write_page(4096, pattern(1, 4096), false).await, Ok(4096), "it has been told");
    fenced.iter().for_each(|inode| inode.accept_pages());
    assert_eq!(file.fsync().await, Ok(()));
    assert_eq!(read(&other, 0, 8192).await.unwrap(), pattern(2, 8192));
    file.write_page(0, pattern(3, 4096), false).await.unwrap();
    assert_eq!(file.fsync().await, Ok(()));
}

#[tokio::test]
async fn an_expired_session_writes_nothing_of_what_it_buffered() {
    let (mine, _) = mounts();
    let ino = mine.cluster.create("a").ino;
    let before = mine.cluster.attr(ino);
    let file = mine.open(ino);
    file.write(0, pattern(1, 1000), true).await.unwrap();
    mine.files.expired(&[]);
    assert_eq!(mine.stat(ino), before);
    assert_eq!(file.write(0, pattern(2, 10), false).await, Err(FsError::Io));
    assert_eq!(file.write(0, pattern(2, 10), false).await, Ok(10));
    file.fsync().await.unwrap();
    assert_eq!(mine.cluster.attr(ino).size, 10);
    assert!(mine.cluster.attr(ino).mtime > Timestamp(0));
}

#[tokio::test]
async fn a_file_whose_lock_is_lost_is_not_used_until_its_handles_are_closed() {
    let (mine, theirs) = mounts();
    let ino = mine.cluster.create("a").ino;
    let (one, two) = (mine.open(ino), mine.open(ino));
    one.write(0, pattern(1, 1000), false).await.unwrap();
    one.fsync().await.unwrap();
    mine.files.lost(&Losses { number: 1, locks: vec![ino], ..Losses::default() });
    let three = mine.open(ino);
    for handle in [&one, &two, &three] {
        assert_eq!(handle.read(0, 10).await, Err(FsError::Io));
        assert_eq!(handle.write(0, pattern(2, 10), false).await, Err(FsError::Io));
        assert_eq!(handle.append(pattern(2, 10), false).await, Err(FsError::Io));
    }
    one.release().await;
    assert_eq!(three.read(0, 10).await, Err(FsError::Io));
    drop(two);
    assert_eq!(three.read(0, 1000).await.unwrap(), pattern(1, 1000));
    three.write(0, pattern(3, 10), false).await.unwrap();
    three.fsync().await.unwrap();
    assert_eq!(read(&theirs.open(ino), 0, 10).await.unwrap(), pattern(3, 10));
}

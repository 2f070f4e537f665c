//! After a power failure of all nodes, what was synced is there, whatever was written since.

use super::cluster::{Cluster, Faults, Mount, pattern, read, small};
use quarry_common::wire::fs::SetAttr;
use std::sync::Arc;

fn fresh(cluster: &Arc<Cluster>) -> Mount {
    Mount::new(cluster, small())
}

/// How a program changes a file of 100,000 bytes.
#[derive(Clone, Copy, Debug)]
enum Change {
    Whole,
    Part,
    Append,
    Truncated,
}

#[tokio::test]
async fn a_later_write_without_fsync_does_not_destroy_what_was_synced() {
    for change in [Change::Whole, Change::Part, Change::Append, Change::Truncated] {
        for reopened in [false, true] {
            let cluster = Cluster::new(1, Faults::default());
            let ino = cluster.create("a").ino;
            let mut mount = fresh(&cluster);
            let mut file = mount.open(ino);
            let old = pattern(1, 100_000);
            file.write(0, old.clone(), false).await.unwrap();
            file.fsync().await.unwrap();
            if reopened {
                mount = fresh(&cluster);
                file = mount.open(ino);
            }
            let mut new = old.to_vec();
            match change {
                Change::Whole => new = pattern(2, 100_000).to_vec(),
                Change::Part => new[5..5005].copy_from_slice(&pattern(2, 5000)),
                Change::Append => new.extend_from_slice(&pattern(2, 5000)),
                Change::Truncated => new = pattern(2, 50_000).to_vec(),
            }
            match change {
                Change::Whole | Change::Part => {
                    let (at, part) =
                        if matches!(change, Change::Whole) { (0, &new[..]) } else { (5, &new[5..5005]) };
                    file.write(at, part.to_vec().into(), false).await.unwrap();
                }
                Change::Append => {
                    file.append(pattern(2, 5000), false).await.unwrap();
                }
                Change::Truncated => {
                    let set = SetAttr { size: Some(0), ..SetAttr::default() };
                    mount.files.setattr(ino, set, true).await.unwrap();
                    file.write(0, new.clone().into(), false).await.unwrap();
                }
            }
            file.flush().await.unwrap();
            cluster.power_failure();
            let mount = fresh(&cluster);
            let seen = read(&mount.open(ino), 0, 200_000).await;
            assert_eq!(seen.as_deref(), Ok(&new[..]), "{change:?}, reopened: {reopened}");
        }
    }
}

#[tokio::test]
async fn a_new_file_does_not_wait_for_the_disks_before_its_first_fsync() {
    let cluster = Cluster::new(1, Faults::default());
    let ino = cluster.create("a").ino;
    let mount = fresh(&cluster);
    let file = mount.open(ino);
    for i in 0..4 {
        file.write(i << 20, pattern(i, 1 << 20), false).await.unwrap();
        file.flush().await.unwrap();
    }
    assert!(cluster.volatile_chunks(ino) > 0);
    // A rename over another file, whether it is still open or not.
    drop(file);
    assert!(mount.files.is_unsynced(ino));
    mount.files.sync(ino).await.unwrap();
    assert!(!mount.files.is_unsynced(ino));
    assert_eq!(cluster.volatile_chunks(ino), 0);
}

/// Only the mount that wrote it knows that it is on no disk.
#[tokio::test]
async fn a_copy_of_what_another_mount_wrote_is_on_the_disks_after_its_fsync() {
    let cluster = Cluster::new(1, Faults::default());
    let (from, to) = (cluster.create("a").ino, cluster.create("b").ino);
    let (theirs, ours) = (fresh(&cluster), fresh(&cluster));
    let written = theirs.open(from);
    for i in 0..3 {
        written.write(i << 21, pattern(i, 100_000), false).await.unwrap();
    }
    written.flush().await.unwrap();
    assert!(cluster.volatile_chunks(from) > 0);
    let (source, copy) = (ours.open(from), ours.open(to));
    // Far behind the end, so that a hole lies before it.
    let mut done = 0;
    while done < 5 << 20 {
        let copied = copy.copy_from(&source, done, (1 << 30) + done, (5 << 20) - done, false).await.unwrap();
        assert!(copied > 0);
        done += copied;
        if done >= 2 * (2 << 20) + 100_000 {
            break;
        }
    }
    copy.copy_from(&source, 0, 0, 100_000, false).await.unwrap();
    copy.fsync().await.unwrap();
    cluster.power_failure();
    let mount = fresh(&cluster);
    let copy = mount.open(to);
    assert_eq!(read(&copy, 0, 100_000).await.as_deref(), Ok(&pattern(0, 100_000)[..]));
    assert_eq!(read(&copy, (1 << 30) + (4 << 20), 100_000).await.as_deref(), Ok(&pattern(2, 100_000)[..]));
}

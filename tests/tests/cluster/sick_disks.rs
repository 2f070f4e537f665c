//! A DataNode whose disk hangs, is torn away, or turns read-only, on a real file system.

use quarry_tests::process::shell;
use quarry_tests::{Cluster, Mount, eventually};
use std::fs;
use std::time::{Duration, Instant};

/// The longest that a synced write may take: the disk is found to hang after 3 s, the node a moment later. The rest is for a
/// machine that runs other tests as well.
const WRITE_LIMIT: Duration = Duration::from_secs(25);
const LIMIT: Duration = Duration::from_secs(60);

fn cluster() -> (Cluster, Mount) {
    let cluster = Cluster::options().loop_disk(2).start();
    let mount = cluster.mount();
    shell(mount.root(), "for i in $(seq 5); do head -c 300000 /dev/urandom > before$i; sync before$i; done");
    (cluster, mount)
}

/// Writes files, each synced, none of which may take long.
fn write(mount: &Mount, name: &str) {
    for number in 0..10 {
        let begun = Instant::now();
        shell(mount.root(), &format!("head -c 200000 /dev/urandom > {name}{number}; sync {name}{number}"));
        let took = begun.elapsed();
        assert!(took < WRITE_LIMIT, "{name}{number} took {took:?}");
    }
}

fn disk(cluster: &Cluster) -> String {
    let status = cluster.status();
    let nodes = status["datanodes"].as_array().into_iter().flatten();
    let node = nodes.into_iter().find(|n| n["id"] == 2);
    node.and_then(|n| n["disks"][0]["state"].as_str()).unwrap_or("unknown").to_owned()
}

/// Everything is as it should be, and the node with the disk alone gives back every byte.
fn assert_whole(mut cluster: Cluster, mut mount: Mount) {
    cluster.wait_healthy();
    // A node is healthy by its heartbeats; its report on the disks follows.
    eventually("the disk is shown as working", LIMIT, || disk(&cluster) == "working");
    let sums = shell(mount.root(), "sha256sum *");
    cluster.assert_sound(true);
    cluster.kill_datanode(1);
    cluster.kill_datanode(3);
    mount.remount();
    assert_eq!(shell(mount.root(), "sha256sum *"), sums);
}

#[test]
fn writes_go_on_while_a_disk_hangs_and_it_is_used_again_when_it_answers() {
    let (cluster, mount) = cluster();
    cluster.disk(2).freeze();
    write(&mount, "while-frozen");
    eventually("the node is shown as failing", LIMIT, || cluster.node_state(2) == "failing");
    eventually("the disk is given up", LIMIT, || disk(&cluster) == "failed");
    cluster.disk(2).thaw();
    assert_whole(cluster, mount);
}

#[test]
fn writes_go_on_while_a_disk_is_torn_away_and_nothing_is_written_below_its_mount_point() {
    let (cluster, mount) = cluster();
    cluster.disk(2).tear_away();
    write(&mount, "while-gone");
    eventually("the node is shown as failing", LIMIT, || cluster.node_state(2) == "failing");
    let below: Vec<_> = fs::read_dir(cluster.path("datanode-2")).unwrap().collect();
    assert!(below.is_empty(), "{below:?}");
    cluster.disk(2).plug_in();
    assert_whole(cluster, mount);
}

#[test]
fn writes_go_on_while_a_disk_is_read_only() {
    let (cluster, mount) = cluster();
    cluster.disk(2).abort();
    write(&mount, "while-read-only");
    eventually("the node is shown as failing", LIMIT, || cluster.node_state(2) == "failing");
    cluster.disk(2).tear_away();
    cluster.disk(2).plug_in();
    assert_whole(cluster, mount);
}

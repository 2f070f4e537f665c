//! `kill -9` of a DataNode in the middle of work.

use quarry_tests::process::shell;
use quarry_tests::tree::{assert_same, real_tree};
use quarry_tests::{Cluster, eventually};
use std::fs;
use std::sync::mpsc;
use std::time::{Duration, Instant};

#[test]
fn copying_goes_on_when_a_node_dies_and_it_catches_up_later() {
    let mut cluster = Cluster::start();
    let mut mount = cluster.mount();
    let tree = real_tree();
    let copy = {
        let (tree, target) = (tree.clone(), mount.path("tree"));
        std::thread::spawn(move || shell(&tree, &format!("cp -a . '{}'", target.display())))
    };
    eventually("the copy has begun", Duration::from_secs(30), || {
        fs::read_dir(mount.path("tree")).is_ok_and(|d| d.count() > 2)
    });
    cluster.kill_datanode(2);
    copy.join().expect("no error reaches cp");
    // Writes go on while the node is away.
    let start = Instant::now();
    shell(mount.root(), "for i in $(seq 20); do echo $i > after-$i; done; sync after-20");
    eprintln!("20 files with a node down: {:?}", start.elapsed());
    mount.remount();
    assert_same(&tree, &mount.path("tree"));
    cluster.start_datanode(2);
    cluster.wait_healthy();
    // Now it has everything: with the other two gone it alone gives back every byte.
    cluster.assert_sound(true);
    cluster.kill_datanode(1);
    cluster.kill_datanode(3);
    mount.remount();
    assert_same(&tree, &mount.path("tree"));
}

#[test]
fn reading_goes_on_when_a_node_dies() {
    const FILES: usize = 24;
    /// The reader is past this file only when the node is dead: what follows is read without it.
    const HALF: usize = FILES / 2;
    let mut cluster = Cluster::start();
    let mut mount = cluster.mount();
    let content = |i: usize| -> Vec<u8> { (0..5_000_000).map(|at| (at * (i + 1) / 251) as u8).collect() };
    for i in 0..FILES {
        fs::write(mount.path(&format!("f{i}")), content(i)).unwrap();
    }
    // Nothing is cached, so that each file comes from the DataNodes.
    mount.remount();
    let (read, is_read) = mpsc::channel();
    let (killed, is_killed) = mpsc::channel::<()>();
    let reader = {
        let root = mount.root().to_path_buf();
        std::thread::spawn(move || {
            for i in 0..FILES {
                if i == HALF {
                    is_killed.recv().expect("the node is killed");
                }
                let data = fs::read(root.join(format!("f{i}"))).expect("no error reaches the reader");
                assert!(data == content(i), "file {i} differs");
                let _ = read.send(());
            }
        })
    };
    // In the middle of the reading of the first half.
    is_read.recv().expect("the reader has begun");
    cluster.kill_datanode(1);
    killed.send(()).expect("the reader is not through");
    reader.join().expect("the reader reads all");
    mount.remount();
    assert!((0..FILES).all(|i| fs::read(mount.path(&format!("f{i}"))).unwrap() == content(i)));
}

#[test]
fn a_silent_node_is_suspect_at_3_s_and_dead_at_15_s() {
    let mut cluster = Cluster::start();
    let start = Instant::now();
    cluster.kill_datanode(3);
    eventually("suspect", Duration::from_secs(6), || cluster.node_state(3) == "suspect");
    let suspect = start.elapsed();
    eventually("dead", Duration::from_secs(20), || cluster.node_state(3) == "dead");
    let dead = start.elapsed();
    eprintln!("suspect after {suspect:?}, dead after {dead:?}");
    assert!(suspect >= Duration::from_secs(2), "suspect too early: {suspect:?}");
    assert!(dead >= Duration::from_secs(14), "dead too early: {dead:?}");
    cluster.start_datanode(3);
    cluster.wait_healthy();
}

#[test]
fn a_paused_node_gets_what_it_missed() {
    let mut cluster = Cluster::start();
    let mount = cluster.mount();
    cluster.datanode(2).signal(rustix::process::Signal::STOP);
    shell(mount.root(), "for i in $(seq 5); do head -c 3000000 /dev/urandom > p$i; sync p$i; done");
    cluster.datanode(2).signal(rustix::process::Signal::CONT);
    cluster.wait_healthy();
    cluster.assert_sound(true);
}

#[test]
fn a_fourth_node_takes_the_place_of_a_dead_one() {
    let mut cluster = Cluster::start();
    let mut mount = cluster.mount();
    shell(
        mount.root(),
        "for i in $(seq 12); do head -c 3000000 /dev/urandom > f$i; done; cat f* | sha256sum > ../sum; sync",
    );
    cluster.join_datanode();
    cluster.wait_healthy();
    cluster.kill_datanode(1);
    eventually("healed without node 1", Duration::from_secs(60), || {
        let status = cluster.status();
        cluster.node_state(1) == "dead"
            && status["groups"]["degraded"] == 0
            && status["groups"]["healing"] == 0
    });
    cluster.kill_datanode(2);
    mount.remount();
    shell(mount.root(), "cat f* | sha256sum | cmp - ../sum");
}

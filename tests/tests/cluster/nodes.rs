//! DataNodes that come, go, and are taken out in order; and how many of them a write needs.

use quarry_tests::process::{run_quarry, shell};
use quarry_tests::{Cluster, Mount, eventually};
use std::process::{Child, Command, Output};
use std::time::Duration;

/// Data moves in the background, beside whatever else the machine does.
const MOVED: Duration = Duration::from_secs(180);

fn quarry(cluster: &Cluster, args: &[&str]) -> Output {
    let config = cluster.client_config().display().to_string();
    run_quarry(&[args, &["--config", &config]].concat())
}

/// Runs a command that must succeed.
fn done(cluster: &Cluster, args: &[&str]) {
    let output = quarry(cluster, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn write_files(mount: &Mount, name: &str, count: u32) {
    shell(
        mount.root(),
        &format!(
            "for i in $(seq {count}); do head -c 1000000 /dev/urandom > {name}$i; sync {name}$i; done
             cat {name}* | sha256sum > ../{name}.sum"
        ),
    );
}

#[test]
fn a_cluster_grows_is_drained_and_loses_nothing() {
    let mut cluster = Cluster::start();
    let mut mount = cluster.mount();
    write_files(&mount, "old", 20);
    let refused = quarry(&cluster, &["node", "drain", "1"]);
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && why.contains("needs 3 nodes, and 2 others"), "{why}");
    for _ in 0..3 {
        cluster.join_datanode();
    }
    cluster.wait_healthy();
    eventually("new nodes take part", MOVED, || {
        let status = cluster.status();
        let nodes = status["datanodes"].as_array().cloned().unwrap_or_default();
        nodes.len() == 6 && nodes.iter().all(|n| n["groups"].as_u64() > Some(0))
    });
    write_files(&mount, "new", 20);
    for node in ["1", "2", "3"] {
        done(&cluster, &["node", "drain", node]);
    }
    for node in [1, 2, 3] {
        done(&cluster, &["node", "remove", &node.to_string(), "--timeout", "60"]);
        cluster.kill_datanode(node);
    }
    let status = cluster.status();
    let left: Vec<u64> =
        status["datanodes"].as_array().unwrap().iter().filter_map(|n| n["id"].as_u64()).collect();
    assert_eq!(left, [4, 5, 6]);
    mount.remount();
    shell(mount.root(), "cat old* | sha256sum | cmp - ../old.sum; cat new* | sha256sum | cmp - ../new.sum");
    cluster.assert_sound(true);
    write_files(&mount, "later", 5);
}

#[test]
fn a_full_cluster_takes_writes_again_when_nodes_join() {
    let mut cluster = Cluster::options().capacity(64 << 20).start();
    let mount = cluster.mount();
    shell(mount.root(), "fails dd if=/dev/urandom of=fill bs=1M count=100 conv=fsync status=none");
    for _ in 0..3 {
        cluster.join_datanode();
    }
    eventually("the new nodes take data", MOVED, || {
        let dd = "dd if=/dev/urandom of=more bs=1M count=20 conv=fsync status=none";
        let output = Command::new("bash").args(["-c", dd]).current_dir(mount.root()).output();
        output.expect("start bash").status.success()
    });
}

#[test]
fn a_dead_node_that_is_removed_does_not_count_for_all() {
    let mut cluster = Cluster::options().datanodes(4).replication("all").start();
    let mount = cluster.mount();
    write_files(&mount, "f", 5);
    cluster.kill_datanode(4);
    eventually("the node is dead", Duration::from_secs(60), || cluster.node_state(4) == "dead");
    assert!(cluster.status()["groups"]["degraded"].as_u64() > Some(0));
    done(&cluster, &["node", "remove", "4", "--timeout", "60"]);
    eventually("the groups are whole without it", MOVED, || {
        let status = cluster.status();
        status["groups"]["degraded"] == 0 && status["groups"]["healing"] == 0 && !status["groups"].is_null()
    });
    shell(mount.root(), "cat f* | sha256sum | cmp - ../f.sum");
    cluster.assert_sound(false);
}

/// Writes and syncs a file.
fn writer(mount: &Mount) -> Child {
    let dd = "dd if=/dev/urandom of=waits bs=100k count=1 conv=fsync status=none";
    Command::new("bash").args(["-c", dd]).current_dir(mount.root()).spawn().expect("start bash")
}

#[test]
fn writes_wait_for_enough_members_unless_an_administrator_wants_otherwise() {
    let mut cluster = Cluster::start();
    let mount = cluster.mount();
    write_files(&mount, "f", 3);
    cluster.kill_datanode(2);
    cluster.kill_datanode(3);
    let mut writer = writer(&mount);
    eventually("the status says why writes wait", Duration::from_secs(60), || {
        let notices = cluster.status()["notices"].clone();
        notices
            .as_array()
            .is_some_and(|n| n.iter().any(|n| n.as_str().is_some_and(|n| n.contains("safe write"))))
    });
    assert!(writer.try_wait().expect("wait for a child").is_none(), "fsync returned with one copy");
    shell(mount.root(), "cat f* | sha256sum | cmp - ../f.sum");
    done(&cluster, &["policy", "min-replicas", "1"]);
    eventually("the write goes on", Duration::from_secs(60), || {
        writer.try_wait().expect("wait for a child").is_some()
    });
    assert!(writer.wait().expect("wait for a child").success());
    done(&cluster, &["policy", "min-replicas", "default"]);
    assert!(cluster.status()["min_replicas"].is_null());
}

#[test]
fn fsck_does_not_call_a_cluster_well_that_it_could_not_check() {
    let mut cluster = Cluster::start();
    let mount = cluster.mount();
    write_files(&mount, "f", 3);
    cluster.kill_datanode(3);
    eventually("the node is left out", Duration::from_secs(60), || {
        cluster.status()["groups"]["degraded"].as_u64() > Some(0)
    });
    eventually("the check says that members are behind", Duration::from_secs(60), || {
        let output = quarry(&cluster, &["fsck", "--json"]);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(report["problem_count"], 0, "{report}");
        assert_eq!(output.status.code(), Some(4), "{report}");
        report["behind"].as_u64() > Some(0)
    });
}

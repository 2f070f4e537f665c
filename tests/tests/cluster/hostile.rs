//! Attacks on a cluster, beside clients that notice nothing of them.

use quarry_tests::flood::Flood;
use quarry_tests::process::{Process, run_quarry, shell};
use quarry_tests::{Cluster, eventually};
use std::fs;
use std::time::{Duration, Instant};

/// Tools that connect anew, one after the other; gives how long the slowest took.
fn connect_anew(cluster: &Cluster, times: u32) -> Duration {
    let config = cluster.client_config().display().to_string();
    let connections = (0..times).map(|_| {
        let begun = Instant::now();
        let output = run_quarry(&["status", "--config", &config]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        begun.elapsed()
    });
    connections.max().unwrap()
}

#[test]
fn half_open_handshakes_keep_no_client_out() {
    let mut cluster = Cluster::options().datanodes(1).replication("1").start();
    let mount = cluster.mount();
    let before = connect_anew(&cluster, 5);
    let flood = Flood::start(&cluster.namenode_address(), 200);
    // More than the table holds, so that all of it is the attacker's.
    eventually("the flood is under way", Duration::from_secs(60), || flood.sent() > 600);
    let during = connect_anew(&cluster, 10);
    fs::write(mount.path("f"), "all is well").unwrap();
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"all is well");
    let sent = flood.sent();
    drop(flood);
    eprintln!(
        "{sent} handshakes; the slowest connection took {before:?} before and {during:?} during the flood"
    );
    let lines = cluster.namenode().log_end(usize::MAX).matches("refused a connection").count();
    assert!(lines < 100, "{lines} lines of log for {sent} handshakes");
}

#[test]
fn half_open_handshakes_stop_no_data() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let address = cluster.status()["datanodes"][0]["address"].as_str().unwrap().to_owned();
    let flood = Flood::start(&address, 200);
    eventually("the flood is under way", Duration::from_secs(60), || flood.sent() > 600);
    // A mount that is new has no connection to the DataNode yet.
    let mount = cluster.mount();
    fs::write(mount.path("f"), vec![7; 100_000]).unwrap();
    fs::File::open(mount.path("f")).unwrap().sync_all().unwrap();
    assert_eq!(fs::read(mount.path("f")).unwrap(), vec![7; 100_000]);
}

#[test]
fn of_two_datanodes_with_one_identity_one_serves_and_the_other_takes_over() {
    let mut cluster = Cluster::options().datanodes(1).replication("1").start();
    let mount = cluster.mount();
    fs::write(mount.path("f"), "x").unwrap();
    fs::File::open(mount.path("f")).unwrap().sync_all().unwrap();
    let first = cluster.status()["datanodes"][0]["address"].as_str().unwrap().to_owned();
    // A machine is cloned: the same certificate and the same data, at another address.
    shell(&cluster.path(""), "cp -a datanode-1 clone; rm -f clone/lock");
    let port = quarry_tests::ports::reserve();
    let second = format!("127.0.0.1:{}", port.number);
    let text = fs::read_to_string(cluster.path("datanode-1.toml")).unwrap();
    fs::write(
        cluster.path("clone.toml"),
        text.replace(&first, &second).replace("\"datanode-1\"", "\"clone\""),
    )
    .unwrap();
    let config = cluster.path("clone.toml").display().to_string();
    let clone = Process::start("clone", &["datanode", "--config", &config], &cluster.path("logs/clone.log"));
    eventually("the second one is told of both addresses", Duration::from_secs(20), || {
        let log = clone.log_end(50);
        log.contains(&format!("runs at {first} already")) && log.contains(&second)
    });
    let address = |cluster: &Cluster| cluster.status()["datanodes"][0]["address"].as_str().map(str::to_owned);
    assert_eq!(address(&cluster), Some(first));
    fs::write(mount.path("g"), "y").unwrap();
    fs::File::open(mount.path("g")).unwrap().sync_all().unwrap();
    cluster.kill_datanode(1);
    eventually("the other takes over", Duration::from_secs(30), || {
        address(&cluster).as_ref() == Some(&second) && cluster.node_state(1) == "healthy"
    });
    fs::write(mount.path("h"), "z").unwrap();
    fs::File::open(mount.path("h")).unwrap().sync_all().unwrap();
}

//! What the gateway says of the cluster.

use crate::support::{Gateway, curl};
use quarry_tests::{Cluster, eventually};
use std::time::Duration;

#[test]
fn a_lost_node_is_told_with_its_healing_and_the_log_survives_a_restart() {
    let mut cluster = Cluster::options().datanodes(4).start();
    let mount = cluster.mount();
    std::fs::write(mount.path("f"), vec![1; 5 << 20]).unwrap();
    let mut gateway = Gateway::start(&cluster);
    assert_eq!(gateway.json("/api/v1/status")["health"]["level"], "ok");
    cluster.kill_datanode(2);
    let state = |g: &Gateway| g.json("/api/v1/status")["nodes"][1]["state"].as_str().unwrap_or("").to_owned();
    eventually("suspect", Duration::from_secs(12), || state(&gateway) == "suspect");
    assert_ne!(gateway.json("/api/v1/status")["health"]["level"], "ok");
    eventually("dead", Duration::from_secs(40), || state(&gateway) == "dead");
    let texts = |g: &Gateway| g.json("/api/v1/events").to_string();
    eventually("healed", Duration::from_secs(60), || texts(&gateway).contains("Healing is done"));
    let events = texts(&gateway);
    assert!(events.contains("DataNode 2 is dead") && events.contains("suspect"), "{events}");
    gateway.crash_and_restart(&cluster);
    assert!(texts(&gateway).contains("DataNode 2 is dead"));
    cluster.start_datanode(2);
    eventually("healthy", Duration::from_secs(40), || {
        texts(&gateway).contains("DataNode 2 is healthy again")
    });
}

#[test]
fn a_namenode_that_is_away_is_said_to_be() {
    let mut cluster = Cluster::start();
    let gateway = Gateway::start(&cluster);
    assert_eq!(gateway.json("/api/v1/status")["reachable"], true);
    cluster.kill_namenode();
    eventually("away", Duration::from_secs(30), || gateway.json("/api/v1/status")["reachable"] == false);
    assert_eq!(gateway.json("/api/v1/status")["health"]["level"], "critical");
    cluster.start_namenode();
    eventually("back", Duration::from_secs(60), || gateway.json("/api/v1/status")["reachable"] == true);
    let events = gateway.json("/api/v1/events").to_string();
    assert!(events.contains("does not answer") && events.contains("answers again"), "{events}");
}

#[test]
fn a_check_of_the_cluster_is_started_and_reported() {
    let cluster = Cluster::start();
    let gateway = Gateway::start(&cluster);
    let start = ["-H", "Content-Type: application/json", "-d", "{\"deep\":true}"];
    assert_eq!(curl(&[&start[..], &[&gateway.url("/api/v1/check")]].concat()).status, 200);
    eventually("done", Duration::from_secs(60), || gateway.json("/api/v1/check")["check"]["done"] == true);
    assert_eq!(gateway.json("/api/v1/check")["check"]["problem_count"], 0);
    assert!(gateway.json("/api/v1/events").to_string().contains("found no problem"));
}

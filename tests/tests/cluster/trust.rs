//! Foreign certificates and wrong roles are refused, garbage does no harm.

use quarry_tests::Cluster;
use quarry_tests::process::{Process, run_quarry};
use std::fs;
use std::net::UdpSocket;

fn refused(cluster: &Cluster, certs: &str) -> String {
    let config = cluster.path("other.toml");
    let text = format!("namenode = \"{}\"\ncerts = \"{certs}\"\n", cluster.namenode_address());
    fs::write(&config, text).unwrap();
    let output = run_quarry(&["status", "--timeout", "5", "--config", &config.display().to_string()]);
    assert!(!output.status.success(), "must be refused");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn issue(ca: &str, role: &str, id: &str, out: &str) {
    let args = ["cert", "issue", ca, "--role", role, "--id", id, "--host", "127.0.0.1", "--out", out];
    assert!(run_quarry(&args).status.success());
}

#[test]
fn a_foreign_certificate_is_refused() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let (ca, out) = (cluster.path("foreign-ca"), cluster.path("foreign"));
    assert!(run_quarry(&["init", &ca.display().to_string(), "--name", "test"]).status.success());
    issue(&ca.display().to_string(), "client", "mallory", &out.display().to_string());
    let why = refused(&cluster, "foreign");
    assert!(why.contains("trust") || why.contains("certificate"), "{why}");
}

#[test]
fn a_datanode_certificate_is_no_client() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let why = refused(&cluster, "certs/datanode-1");
    assert!(why.contains("role") || why.contains("authoris"), "{why}");
}

#[test]
fn a_client_certificate_runs_no_datanode() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    issue(
        &cluster.path("ca").display().to_string(),
        "client",
        "9",
        &cluster.path("certs/nine").display().to_string(),
    );
    let text = fs::read_to_string(cluster.path("datanode-1.toml")).unwrap();
    let text = text.replace("certs/datanode-1", "certs/nine").replace("\"datanode-1\"", "\"datanode-9\"");
    let config = cluster.path("nine.toml");
    fs::write(&config, text.replace("listen = \"127.0.0.1:", "listen = \"127.0.0.2:")).unwrap();
    let log = cluster.path("logs/nine.log");
    let config = config.display().to_string();
    match Process::try_start("nine", &["datanode", "--config", &config], &log) {
        Err(why) => assert!(why.contains("role") || why.contains("datanode"), "{why}"),
        Ok(_) => panic!("a client certificate must not run a DataNode"),
    }
}

#[test]
fn garbage_on_the_ports_does_no_harm() {
    let cluster = Cluster::start();
    let mount = cluster.mount();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut targets = vec![cluster.namenode_address()];
    for node in cluster.status()["datanodes"].as_array().unwrap() {
        targets.push(node["address"].as_str().unwrap().to_owned());
    }
    let mut noise = [0; 1200];
    for round in 0..300u32 {
        for (i, b) in noise.iter_mut().enumerate() {
            *b = (i as u32).wrapping_mul(round.wrapping_mul(2_654_435_761)).to_le_bytes()[2];
        }
        // The first byte decides how QUIC reads a packet: go through all of them.
        noise[0] = round as u8;
        for target in &targets {
            let _ = socket.send_to(&noise[..1 + (round as usize * 4)], target);
        }
    }
    fs::write(mount.path("f"), b"all is well").unwrap();
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"all is well");
}

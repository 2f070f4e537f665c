//! Foreign certificates and wrong roles are refused, garbage does no harm.

use quarry_tests::process::{Process, run_quarry, shell};
use quarry_tests::{Cluster, eventually};
use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

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

#[test]
fn a_certificate_that_may_only_read_changes_nothing() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let writer = cluster.mount();
    shell(writer.root(), "echo before > f; sync f");
    cluster.certificate_into("reader", "client", "reader", &["--ro"]);
    let config = cluster.config_of("reader");
    let reader = cluster.mount_as(&config);
    assert_eq!(fs::read_to_string(reader.path("f")).unwrap(), "before\n");
    let sessions = cluster.status()["sessions"].clone();
    assert!(sessions.as_array().unwrap().iter().any(|s| s["certificate"] == "reader?ro"), "{sessions}");
    let write = |name: &str| fs::write(reader.path(name), "x").map_err(|e| e.raw_os_error());
    assert_eq!(write("g"), Err(Some(libc::EROFS)));
    // The mount is made writable by force: now the NameNode is asked, and refuses.
    shell(reader.root(), "mount -i -o remount,rw .");
    shell(
        reader.root(),
        "fails touch g; fails mkdir d; fails rm f; fails mv f g; fails chmod 600 f; fails ln f g; fails setfattr -n user.a -v b f",
    );
    shell(reader.root(), "fails bash -c 'echo x > f'; fails truncate -s 1 f");
    assert_eq!(fs::read_to_string(writer.path("f")).unwrap(), "before\n");
    shell(writer.root(), "echo after > f");
    assert_eq!(fs::read_to_string(reader.path("f")).unwrap(), "after\n");
}

#[test]
fn a_certificate_that_squashes_makes_files_of_its_user() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    for (name, squash, owners) in [
        ("all", "all:1234:2345", ["1234:2345", "1234:2345"]),
        ("root", "root:1234:2345", ["1234:2345", "77:88"]),
    ] {
        cluster.certificate_into(name, "client", name, &["--squash", squash]);
        let mount = cluster.mount_as(&cluster.config_of(name));
        shell(mount.root(), &format!("mkdir {name}; chmod 777 {name}; touch {name}/f; chown 0:0 {name}/f"));
        shell(&mount.path(name), "setpriv --reuid=77 --regid=88 --clear-groups touch g || true");
        assert_eq!(shell(&mount.path(name), "stat -c %u:%g f").trim(), owners[0], "{name}");
        assert_eq!(shell(&mount.path(name), "stat -c %u:%g g").trim(), owners[1], "{name}");
    }
}

#[test]
fn only_administrators_may_strain_the_cluster() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    cluster.certificate_into("plain", "client", "plain", &[]);
    let plain = cluster.config_of("plain").display().to_string();
    let output = run_quarry(&["fsck", "--deep", "--config", &plain]);
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(5) && why.contains("administrator"), "{:?}: {why}", output.status);
    assert!(run_quarry(&["fsck", "--config", &plain]).status.success());
    cluster.assert_sound(true);
}

#[test]
fn a_revoked_certificate_is_cut_off_and_others_go_on() {
    let mut cluster = Cluster::options().datanodes(1).replication("1").start();
    cluster.certificate_into("lost", "client", "lost", &[]);
    let lost = cluster.config_of("lost").display().to_string();
    let mount = cluster.mount();
    let stolen = cluster.mount_as(&cluster.config_of("lost"));
    fs::write(stolen.path("f"), "x").unwrap();
    let sessions = cluster.status()["sessions"].clone();
    assert!(sessions.as_array().unwrap().iter().any(|s| s["certificate"] == "lost"), "{sessions}");
    assert!(run_quarry(&["status", "--config", &lost]).status.success());
    let ca = cluster.path("ca").display().to_string();
    let list: serde_json::Value =
        serde_json::from_slice(&run_quarry(&["cert", "list", &ca, "--json"]).stdout).unwrap();
    let serial = list.as_array().unwrap().iter().find(|c| c["id"] == "lost").unwrap()["serial"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(!run_quarry(&["cert", "revoke", &ca, "--serial", "00ff"]).status.success());
    assert!(run_quarry(&["cert", "revoke", &ca, "--serial", &serial]).status.success());
    for server in ["namenode-1", "datanode-1"] {
        fs::copy(cluster.path("ca/crl.pem"), cluster.path(&format!("certs/{server}/crl.pem"))).unwrap();
    }
    cluster.namenode().signal(rustix::process::Signal::HUP);
    cluster.datanode(1).signal(rustix::process::Signal::HUP);
    eventually("it is refused", Duration::from_secs(20), || {
        run_quarry(&["status", "--config", &lost]).status.code() == Some(5)
    });
    // Its connection is closed and comes back no more, so that its session expires.
    eventually("its mount is cut off", Duration::from_secs(60), || {
        let status = cluster.status();
        status["sessions"].as_array().is_some_and(|all| all.iter().all(|s| s["certificate"] != "lost"))
    });
    fs::write(mount.path("g"), "y").unwrap();
    assert_eq!(fs::read(mount.path("g")).unwrap(), b"y");
    cluster.wait_healthy();
    // Whatever the stolen mount still holds is given up with its process.
    let mut stolen = stolen;
    stolen.process().kill();
}

#[test]
fn a_certificate_is_exchanged_while_its_server_serves() {
    let mut cluster = Cluster::options().datanodes(1).replication("1").start();
    let mount = cluster.mount();
    fs::write(mount.path("f"), "x").unwrap();
    cluster.certificate_into("next", "namenode", "1", &["--days", "30"]);
    for file in ["cert.pem", "key.pem"] {
        fs::rename(
            cluster.path(&format!("certs/next/{file}")),
            cluster.path(&format!("certs/namenode-1/{file}")),
        )
        .unwrap();
    }
    let pid = cluster.namenode().pid();
    cluster.namenode().signal(rustix::process::Signal::HUP);
    eventually("it is read", Duration::from_secs(10), || {
        cluster.namenode().log_end(20).contains("read anew")
    });
    assert!(cluster.status()["files"].as_u64() == Some(1), "new connections are taken");
    fs::write(mount.path("g"), "old connections go on").unwrap();
    assert_eq!(cluster.namenode().pid(), pid);
    assert!(cluster.namenode().exited().is_none());
}

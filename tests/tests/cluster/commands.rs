//! The command line: clear errors, useful output.

use quarry_tests::Cluster;
use quarry_tests::process::{Process, run_quarry, shell};
use std::fs;
use std::path::Path;

/// Runs a command that must fail, and gives its message: one line, no panic.
fn error(args: &[&str]) -> String {
    let output = run_quarry(args);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{args:?} must fail");
    assert!(!text.contains("panicked"), "{args:?}: {text}");
    text
}

#[test]
fn wrong_use_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca").display().to_string();
    assert!(error(&["init", &ca, "--name", "Not Valid!"]).contains("name"));
    assert!(run_quarry(&["init", &ca, "--name", "c"]).status.success());
    assert!(error(&["init", &ca, "--name", "c"]).contains("exist"));
    let out = dir.path().join("x").display().to_string();
    assert!(
        error(&["cert", "issue", &ca, "--role", "king", "--id", "1", "--out", &out])
            .contains("namenode, datanode")
    );
    assert!(
        error(&["cert", "issue", &ca, "--role", "datanode", "--id", "one", "--out", &out]).contains("one")
    );
    assert!(error(&["namenode", "--dir", "/tmp/x"]).contains("--certs is missing"));
    assert!(error(&["mount", "/tmp"]).contains("--config is missing"));
    assert!(error(&["mount", "/tmp", "-o", "rwx"]).contains("unknown mount option `rwx`"));
    assert!(error(&["status", "--config", "/no/such/file"]).contains("/no/such/file"));
    fs::write(dir.path().join("bad.toml"), "namenode = 7\n").unwrap();
    assert!(
        error(&["status", "--config", &dir.path().join("bad.toml").display().to_string()])
            .contains("bad.toml")
    );
    fs::write(dir.path().join("odd.toml"), "lisen = \"127.0.0.1:1\"\n").unwrap();
    assert!(
        error(&["namenode", "--config", &dir.path().join("odd.toml").display().to_string()])
            .contains("lisen")
    );
    for command in
        [vec!["--help"], vec!["up", "--help"], vec!["mount", "--help"], vec!["cert", "issue", "--help"]]
    {
        assert!(run_quarry(&command).status.success());
    }
}

#[test]
fn a_server_that_is_away_and_a_port_in_use() {
    let mut cluster = Cluster::options().datanodes(1).replication("1").start();
    let config = cluster.path("namenode.toml").display().to_string();
    let log = cluster.path("logs/second.log");
    let why =
        Process::try_start("second", &["namenode", "--config", &config], &log).err().expect("must fail");
    assert!(why.contains("in use") || why.contains("another process"), "{why}");
    cluster.kill_namenode();
    let client = cluster.client_config().display().to_string();
    assert!(error(&["status", "--timeout", "2", "--config", &client]).contains("NameNode"));
}

#[test]
fn directories_are_not_mixed_up() {
    let mut cluster = Cluster::options().datanodes(2).replication("2").start();
    cluster.kill_datanode(1);
    let text = fs::read_to_string(cluster.path("datanode-1.toml")).unwrap();
    fs::write(cluster.path("mixed.toml"), text.replace("\"datanode-1\"", "\"datanode-2\"")).unwrap();
    cluster.kill_datanode(2);
    let config = cluster.path("mixed.toml").display().to_string();
    let why =
        Process::try_start("mixed", &["datanode", "--config", &config], &cluster.path("logs/mixed.log"));
    let why = why.err().expect("node 1 must not take the data of node 2");
    assert!(why.contains("node 2") || why.contains("DataNode 2"), "{why}");
}

#[test]
fn status_locate_and_fsck_speak_to_people_and_programs() {
    let cluster = Cluster::start();
    let mount = cluster.mount();
    shell(mount.root(), "mkdir d; head -c 3000000 /dev/urandom > d/f; sync d/f");
    let config = cluster.client_config().display().to_string();
    let text = |args: &[&str]| {
        let output = run_quarry(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let status = text(&["status", "--config", &config]);
    assert!(status.contains("healthy") && status.contains("Placement groups"), "{status}");
    assert_eq!(cluster.status()["datanodes"].as_array().unwrap().len(), 3);
    assert_eq!(cluster.status()["files"], 1);
    assert_eq!(cluster.status()["bytes"], 3_000_000);
    assert_eq!(text(&["locate", "/d/f", "--config", &config]).lines().count(), 3);
    assert!(error(&["locate", "/d", "--config", &config]).contains("not a regular file"));
    assert!(error(&["locate", "/none", "--config", &config]).contains("no such file"));
    assert!(text(&["fsck", "--config", &config]).contains("0 problems"));
}

#[test]
fn fsck_finds_what_is_missing() {
    let mut cluster = Cluster::options().datanodes(1).replication("1").start();
    let mut mount = cluster.mount();
    shell(mount.root(), "head -c 100000 /dev/urandom > f; sync f");
    cluster.kill_datanode(1);
    shell(&cluster.path("datanode-1/data_blocks"), "find . -type f | head -1 | xargs rm");
    cluster.start_datanode(1);
    cluster.wait_healthy();
    let output = run_quarry(&["fsck", "--config", &cluster.client_config().display().to_string()]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    // An honest error, and no garbage.
    mount.remount();
    assert_eq!(fs::read(mount.path("f")).map_err(|e| e.raw_os_error()), Err(Some(libc::EIO)));
}

#[test]
fn a_dead_mount_is_replaced_and_a_living_one_is_not() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mut mount = cluster.mount();
    let config = cluster.client_config().display().to_string();
    let path = mount.root().display().to_string();
    assert!(error(&["mount", &path, "--config", &config]).contains("mounted there already"));
    mount.crash_and_remount();
    fs::write(mount.path("f"), "x").unwrap();
    assert!(error(&["mount", "/no/such/dir", "--config", &config]).contains("no such directory"));
}

#[test]
fn mount_8_and_read_only() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mount = cluster.mount();
    fs::write(mount.path("f"), "x").unwrap();
    let other = cluster.path("other");
    fs::create_dir(&other).unwrap();
    let helper = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/mount.fuse.quarry");
    let bin = quarry_tests::process::quarry();
    shell(
        &cluster.path(""),
        &format!(
            "export PATH={}:$PATH; '{}' '{}' other -o ro,noexec,_netdev; trap 'umount other' EXIT
             test $(cat other/f) = x; fails touch other/g; grep \" $PWD/other fuse.quarry ro,nosuid,nodev\" /proc/mounts
             helper='{}'; config='{}'
             $helper $config other -f -v -o bad-option; $helper $config other -n -o remount,rw; touch other/g
             $helper $config other -o remount,ro; fails touch other/h
             fails $helper $config other -o bad-option",
            bin.parent().unwrap().display(),
            helper.display(),
            cluster.client_config().display(),
            helper.display(),
            cluster.client_config().display()
        ),
    );
}
